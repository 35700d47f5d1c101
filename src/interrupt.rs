//! SIGINT, SIGTERM and SIGHUP.
//!
//! The first signal ends reads, prompts and signing: their children are stopped, their calls return.
//! What [settles](Settling) goes on for [`SETTLE_GRACE`]: a submission that was already sent, and the
//! read that confirms it. A second signal, or the end of that time, ends the process. What the user
//! must be told even then was laid down beforehand as [`LastWords`].

use std::{
    cell::Cell,
    fs,
    io::{self, PipeReader, Write},
    os::fd::BorrowedFd,
    process,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::error::{Error, Kind};

/// How long a child may take to end by itself before it is killed.
const CHILD_GRACE: Duration = Duration::from_millis(500);

/// How long after the first signal a submission that was already sent, and the read that confirms it,
/// may go on.
pub const SETTLE_GRACE: Duration = Duration::from_secs(5);

/// How long the main thread may take to report after the children are gone.
const REPORT_GRACE: Duration = Duration::from_secs(2);

/// How soon a signal is noticed by what only polls for one.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

struct State {
    signal: Option<(i32, Instant)>,
    groups: Vec<ChildGroup>,
    /// What else makes a call under way return.
    enders: Vec<(u64, End)>,
    /// How many [`Settling`] values there are.
    settling: usize,
    /// Undoes what a prompt did to the terminal.
    restore_terminal: Option<Box<dyn FnOnce() + Send>>,
    /// What must be said if the process ends without a report of its own.
    last_words: Vec<(u64, Words)>,
    report: Option<Report>,
}

#[derive(Clone, Copy)]
struct ChildGroup {
    leader: Pid,
    /// Whether it was started by what settles.
    settles: bool,
}

type End = Arc<dyn Fn(Phase) + Send + Sync>;
type Words = Box<dyn Fn() -> Option<Error> + Send>;
type Report = Box<dyn Fn(&Error) + Send>;

/// What a signal has ended so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything except what settles.
    First,
    /// Everything.
    Last,
}

static STATE: Mutex<State> = Mutex::new(State {
    signal: None,
    groups: Vec::new(),
    enders: Vec::new(),
    settling: 0,
    restore_terminal: None,
    last_words: Vec::new(),
    report: None,
});

thread_local! {
    /// How many [`Settling`] values this thread holds.
    static SETTLING_HERE: Cell<usize> = const { Cell::new(0) };
}

static WAKE: OnceLock<PipeReader> = OnceLock::new();

/// Runs `f` on the state; no code that can panic runs under the lock, so poison means nothing.
fn with_state<T>(f: impl FnOnce(&mut State) -> T) -> T {
    f(&mut STATE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Starts to watch for the signals, but for those that whoever started this process has had
/// ignored, as `nohup` does.
///
/// # Errors
/// When the system gives out no pipe, thread or handler.
pub fn install() -> io::Result<()> {
    let ignored = ignored_signals();
    let watched = [SIGINT, SIGTERM, SIGHUP];
    let watched = watched
        .iter()
        .filter(|&&signal| ignored >> (signal - 1) & 1 == 0);
    let mut signals = Signals::new(watched)?;
    let (reader, mut writer) = io::pipe()?;
    WAKE.get_or_init(|| reader);
    thread::Builder::new().spawn(move || {
        for signal in signals.forever() {
            let (again, settling) = with_state(|state| {
                let before = state.signal.replace((signal, Instant::now()));
                (before.is_some(), state.settling > 0)
            });
            if again {
                end(signal);
            }
            // The pipe only wakes a prompt; without one nobody reads it.
            let _ = writer.write_all(b"!");
            kill_groups(Signal::TERM, Phase::First);
            call_enders(Phase::First);
            if settling {
                log::warn!(
                    "stopping; waiting up to {} s for what was already sent (a second signal stops at once)",
                    SETTLE_GRACE.as_secs()
                );
            }
            let wind_up = move || {
                thread::sleep(CHILD_GRACE);
                kill_groups(Signal::KILL, Phase::First);
                while !settle_grace_is_over() && with_state(|state| state.settling > 0) {
                    thread::sleep(POLL_INTERVAL);
                }
                if settle_grace_is_over() {
                    kill_groups(Signal::KILL, Phase::Last);
                    call_enders(Phase::Last);
                }
                thread::sleep(REPORT_GRACE);
                end(signal);
            };
            if thread::Builder::new().spawn(wind_up).is_err() {
                end(signal);
            }
        }
    })?;
    Ok(())
}

fn call_enders(phase: Phase) {
    for (_, end) in with_state(|state| state.enders.clone()) {
        end(phase);
    }
}

fn settle_grace_is_over() -> bool {
    with_state(|state| state.signal).is_some_and(|(_, since)| since.elapsed() >= SETTLE_GRACE)
}

/// While this lives, the first signal spares what this thread does, for [`SETTLE_GRACE`]: it sends a
/// submission, waits for the answer, and reads what came of it. Programs that the thread starts and
/// calls that it makes go on, and to this thread no signal [was received](received) yet.
pub struct Settling(());

impl Settling {
    pub fn begin() -> Self {
        with_state(|state| state.settling += 1);
        SETTLING_HERE.set(SETTLING_HERE.get() + 1);
        Self(())
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        with_state(|state| state.settling -= 1);
        SETTLING_HERE.set(SETTLING_HERE.get() - 1);
    }
}

/// Whether this thread holds a [`Settling`].
pub fn is_settling() -> bool {
    SETTLING_HERE.get() > 0
}

/// Waits, but no longer than until a signal arrives.
pub fn pause(duration: Duration) {
    let begun = Instant::now();
    while let Some(left) = duration.checked_sub(begun.elapsed())
        && !left.is_zero()
        && received().is_none()
    {
        thread::sleep(left.min(POLL_INTERVAL));
    }
}

/// What makes a call under way return at a signal, as long as this value lives.
pub struct Ender(u64);

impl Ender {
    /// `end` may be called from another thread, for each [`Phase`]; and here, for a signal that came
    /// before.
    pub fn register(end: impl Fn(Phase) + Send + Sync + 'static) -> Self {
        let end: End = Arc::new(end);
        let number = with_state(|state| {
            let number = state.enders.last().map_or(0, |(number, _)| number + 1);
            state.enders.push((number, end.clone()));
            number
        });
        if received().is_some() {
            end(Phase::Last);
        }
        Self(number)
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        with_state(|state| state.enders.retain(|(number, _)| *number != self.0));
    }
}

/// The kind of error to end with, once a signal has ended what this thread does.
pub fn received() -> Option<Kind> {
    let (signal, since) = with_state(|state| state.signal)?;
    (!is_settling() || since.elapsed() >= SETTLE_GRACE).then(|| kind_of(signal))
}

/// The kind of error to end with, once a signal has arrived, also while this thread settles.
pub fn announced() -> Option<Kind> {
    with_state(|state| state.signal).map(|(signal, _)| kind_of(signal))
}

/// Readable from the moment a signal arrives; for `poll`. `None` when nobody watches for signals.
pub fn wake_fd() -> Option<BorrowedFd<'static>> {
    use std::os::fd::AsFd;
    WAKE.get().map(AsFd::as_fd)
}

/// Registers what must be undone on the terminal if the process ends under a prompt; `None` when
/// the prompt is over.
pub fn on_end(restore_terminal: Option<Box<dyn FnOnce() + Send>>) {
    with_state(|state| state.restore_terminal = restore_terminal);
}

/// How last words are said.
pub fn report_with(report: impl Fn(&Error) + Send + 'static) {
    with_state(|state| state.report = Some(Box::new(report)));
}

/// What is to be said if the process ends without a report, as long as this value lives.
pub struct LastWords(u64);

impl LastWords {
    /// `words` is called when the process ends, with no lock held; the error becomes one of the kind
    /// of the signal.
    pub fn lay_down(words: impl Fn() -> Option<Error> + Send + 'static) -> Self {
        with_state(|state| {
            let number = state.last_words.last().map_or(0, |(number, _)| number + 1);
            state.last_words.push((number, Box::new(words)));
            Self(number)
        })
    }

    /// Leaves the words in place until the process ends: the result is known, but a second signal may
    /// come before it is printed.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Likewise, with other words.
    pub fn leave_with(self, words: impl Fn() -> Option<Error> + Send + 'static) {
        with_state(|state| {
            for (number, kept) in &mut state.last_words {
                if *number == self.0 {
                    *kept = Box::new(words);
                    break;
                }
            }
        });
        self.leave();
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        with_state(|state| state.last_words.retain(|(number, _)| *number != self.0));
    }
}

/// The signals that are ignored, a bit each, from the lowest; none where the system does not tell
/// (proc(5), `SigIgn`).
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

/// A child's process group, ended with `qkey` as long as this value lives.
pub struct Group(Pid);

impl Group {
    /// Registers the group that `leader` leads; a signal that came before it was there is
    /// delivered now.
    pub fn register(leader: Pid) -> Self {
        let settles = is_settling();
        with_state(|state| state.groups.push(ChildGroup { leader, settles }));
        let group = Self(leader);
        if received().is_some() {
            group.kill();
        }
        group
    }

    /// Kills every process in the group.
    pub fn kill(&self) {
        // A group that is gone already is what was wanted.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        with_state(|state| state.groups.retain(|group| group.leader != self.0));
    }
}

/// Kills every child that is left.
pub fn end_children() {
    kill_groups(Signal::KILL, Phase::Last);
}

fn kill_groups(signal: Signal, phase: Phase) {
    for group in with_state(|state| state.groups.clone()) {
        if phase == Phase::Last || !group.settles {
            let _ = kill_process_group(group.leader, signal);
        }
    }
}

fn kind_of(signal: i32) -> Kind {
    match signal {
        SIGINT => Kind::Interrupted,
        _ => Kind::Terminated,
    }
}

fn end(signal: i32) -> ! {
    kill_groups(Signal::KILL, Phase::Last);
    if let Some(restore) = with_state(|state| state.restore_terminal.take()) {
        restore();
    }
    let (words, report) = with_state(|state| {
        let words = std::mem::take(&mut state.last_words);
        (words, state.report.take())
    });
    if let Some(report) = report {
        for error in words.iter().filter_map(|(_, words)| words()) {
            report(&error.with_kind(kind_of(signal)));
        }
    }
    process::exit(i32::from(kind_of(signal).exit_code()))
}
