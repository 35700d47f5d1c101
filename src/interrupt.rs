//! SIGINT, SIGTERM and SIGHUP.
//!
//! The first signal ends reads, prompts and signing: their children are stopped, their calls return.
//! It spares what [settles](Settling) a submission: one that was already sent gets [`SUBMIT_GRACE`],
//! and the read that confirms it [`CONFIRM_GRACE`] more. A second signal, or the end of that time,
//! ends the process. What the user must be told even then was laid down beforehand as [`LastWords`].

use std::{
    cell::Cell,
    fs,
    io::{self, PipeReader, Write},
    os::fd::BorrowedFd,
    process,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    error::{Error, Kind},
    memory,
    parallel::aside,
};

/// How long a child may take to end by itself before it is killed.
const CHILD_GRACE: Duration = Duration::from_millis(500);

/// How long after the first signal a submission that was already sent may take.
pub const SUBMIT_GRACE: Duration = Duration::from_secs(5);

/// How long after that the read that confirms it may take.
pub const CONFIRM_GRACE: Duration = Duration::from_secs(3);

/// How long the main thread may take to report after the children are gone.
const REPORT_GRACE: Duration = Duration::from_secs(2);

/// How soon a signal is noticed by what only polls for one.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

struct State {
    signal: Option<(i32, Instant)>,
    groups: Vec<ChildGroup>,
    /// What else makes a call under way return.
    enders: Vec<(u64, End)>,
    /// How many [`Unsettled`] values there are.
    unsettled: usize,
    /// Undoes what a prompt did to the terminal.
    restore_terminal: Option<Box<dyn FnOnce() + Send>>,
    /// What must be said if the process ends without a report of its own.
    last_words: Vec<(u64, Words)>,
    report: Option<Report>,
    /// Tells that the process waits after a first signal.
    waiting: Option<Box<dyn FnOnce() + Send>>,
}

#[derive(Clone, Copy)]
struct ChildGroup {
    leader: Pid,
    /// What it was started for.
    serves: Phase,
}

type End = Arc<dyn Fn(Phase) + Send + Sync>;
type Words = Box<dyn Fn() -> Error + Send>;
type Report = Box<dyn Fn(&Error) + Send>;

/// What work is for, which decides how long a first signal spares it; and what a signal has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Anything else.
    Work,
    /// A submission.
    Submit,
    /// Reading what became of a submission.
    Confirm,
}

impl Phase {
    /// How long after the first signal it may go on.
    fn grace(self) -> Duration {
        match self {
            Self::Work => Duration::ZERO,
            Self::Submit => SUBMIT_GRACE,
            Self::Confirm => SUBMIT_GRACE + CONFIRM_GRACE,
        }
    }
}

static STATE: Mutex<State> = Mutex::new(State {
    signal: None,
    groups: Vec::new(),
    enders: Vec::new(),
    unsettled: 0,
    restore_terminal: None,
    last_words: Vec::new(),
    report: None,
    waiting: None,
});

thread_local! {
    /// What this thread is doing.
    static PHASE: Cell<Phase> = const { Cell::new(Phase::Work) };
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
            let (again, unsettled) = with_state(|state| {
                let before = state.signal.replace((signal, Instant::now()));
                (before.is_some(), state.unsettled > 0)
            });
            if again {
                end(signal);
            }
            // The pipe only wakes a prompt; without one nobody reads it.
            let _ = writer.write_all(b"!");
            kill_groups(Signal::TERM, Phase::Work);
            call_enders(Phase::Work);
            // On a thread of its own: nobody may be reading stderr.
            if unsettled && let Some(tell) = with_state(|state| state.waiting.take()) {
                aside(tell);
            }
            if thread::Builder::new()
                .spawn(move || wind_up(signal))
                .is_err()
            {
                end(signal);
            }
        }
    })?;
    Ok(())
}

/// Ends what a first signal spared, as soon as its time is over, and then the process.
fn wind_up(signal: i32) -> ! {
    let begun = Instant::now();
    thread::sleep(CHILD_GRACE);
    kill_groups(Signal::KILL, Phase::Work);
    for phase in [Phase::Submit, Phase::Confirm] {
        while begun.elapsed() < phase.grace() && with_state(|state| state.unsettled > 0) {
            thread::sleep(POLL_INTERVAL);
        }
        if begun.elapsed() >= phase.grace() {
            kill_groups(Signal::KILL, phase);
            call_enders(phase);
        }
    }
    thread::sleep(REPORT_GRACE);
    end(signal)
}

fn call_enders(phase: Phase) {
    for (_, end) in with_state(|state| state.enders.clone()) {
        end(phase);
    }
}

/// There is a submission whose result is not known yet, as long as this lives: after a first signal
/// the process waits for it.
pub struct Unsettled(#[expect(dead_code)] memory::LastWords);

impl Unsettled {
    /// `unknown` is what is said of it if memory runs out.
    pub fn begin(unknown: &Error) -> Self {
        with_state(|state| state.unsettled += 1);
        Self(memory::LastWords::lay_down(unknown))
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        with_state(|state| state.unsettled -= 1);
    }
}

/// What this thread does settles a submission, as long as this lives: to it no signal
/// [was received](received) before its time is over, and the same holds for the programs that it
/// starts and the calls that it makes.
pub struct Settling {
    before: Phase,
}

impl Settling {
    /// It sends a submission and waits for the reply.
    pub fn submission() -> Self {
        let before = PHASE.replace(Phase::Submit);
        Self { before }
    }

    /// It reads what became of a submission.
    pub fn confirmation() -> Self {
        let before = PHASE.replace(Phase::Confirm);
        Self { before }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        PHASE.set(self.before);
    }
}

/// What this thread is doing.
pub fn phase() -> Phase {
    PHASE.get()
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
            end(Phase::Confirm);
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
    (since.elapsed() >= phase().grace()).then(|| kind_of(signal))
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

/// How to tell a person that a first signal waits for what was already sent.
pub fn tell_of_waiting_with(tell: impl FnOnce() + Send + 'static) {
    with_state(|state| state.waiting = Some(Box::new(tell)));
}

/// What is to be said if the process ends without a report, as long as this value lives.
pub struct LastWords(u64);

impl LastWords {
    /// The error becomes one of the kind of the signal.
    pub fn lay_down(error: Error) -> Self {
        Self::lay_down_with(move || error.clone())
    }

    /// Likewise, of what is known at the end; `words` is called with no lock held.
    pub fn lay_down_with(words: impl Fn() -> Error + Send + 'static) -> Self {
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
    pub fn leave_with(self, error: Error) {
        with_state(|state| {
            for (number, words) in &mut state.last_words {
                if *number == self.0 {
                    *words = Box::new(move || error.clone());
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
        let serves = phase();
        with_state(|state| state.groups.push(ChildGroup { leader, serves }));
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
    kill_groups(Signal::KILL, Phase::Confirm);
}

/// For a process that ends because it is out of memory: kills every child and undoes what a prompt did
/// to the terminal, as far as that takes neither memory nor waiting.
pub fn abandon() {
    let Ok(mut state) = STATE.try_lock() else {
        return;
    };
    for group in &state.groups {
        let _ = kill_process_group(group.leader, Signal::KILL);
    }
    if let Some(restore) = state.restore_terminal.take() {
        restore();
    }
}

fn kill_groups(signal: Signal, phase: Phase) {
    for group in with_state(|state| state.groups.clone()) {
        if group.serves <= phase {
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
    static ENDING: AtomicBool = AtomicBool::new(false);
    while ENDING.swap(true, Ordering::SeqCst) {
        // Another thread is ending the process, and has the last words.
        thread::park();
    }
    kill_groups(Signal::KILL, Phase::Confirm);
    if let Some(restore) = with_state(|state| state.restore_terminal.take()) {
        restore();
    }
    let (words, report) = with_state(|state| {
        let words = std::mem::take(&mut state.last_words);
        (words, state.report.take())
    });
    if let Some(report) = report {
        let (sender, reported) = mpsc::channel();
        aside(move || {
            for (_, words) in words {
                report(&words().with_kind(kind_of(signal)));
            }
            // Nobody waits any more when it took too long.
            let _ = sender.send(());
        });
        // Nobody may be reading stderr.
        let _ = reported.recv_timeout(REPORT_GRACE);
    }
    process::exit(i32::from(kind_of(signal).exit_code()))
}
