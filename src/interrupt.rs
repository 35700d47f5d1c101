//! SIGINT, SIGTERM and SIGHUP.
//!
//! The first signal ends reads, prompts and signing: it stops their children and cancels their calls.
//! It spares what [settles](Settling) a submission: one that was already sent gets [`SUBMIT_GRACE`],
//! and the read that confirms it another [`CONFIRM_GRACE`]. A second signal, or the end of that time,
//! ends the process, which then prints the [`LastWords`] that were registered.

use std::{
    cell::Cell,
    fs,
    io::{self, PipeReader, Write},
    os::fd::BorrowedFd,
    process,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
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
    parallel::{aside, lock},
    registry::{Entry, Registry},
};

/// How long a child may take to exit before it is killed.
const CHILD_GRACE: Duration = Duration::from_millis(500);

/// How long after the first signal a submission that was already sent may take.
pub const SUBMIT_GRACE: Duration = Duration::from_secs(5);

/// How long the confirming read may take after that.
pub const CONFIRM_GRACE: Duration = Duration::from_secs(3);

/// How long the main thread may take to report after the children are gone.
const REPORT_GRACE: Duration = Duration::from_secs(2);

/// How often code that cannot be woken checks for a signal.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

struct State {
    signal: Option<(i32, Instant)>,
    /// How many [`Unsettled`] values there are.
    unsettled: usize,
    /// Restores the terminal after a prompt.
    restore_terminal: Option<Box<dyn FnOnce() + Send>>,
    report: Option<Report>,
    /// Reports that the process is waiting after a first signal.
    waiting: Option<Box<dyn FnOnce() + Send>>,
}

struct ChildGroup {
    leader: Pid,
    /// What it was started for.
    serves: Phase,
}

type Cancel = Arc<dyn Fn(Phase) + Send + Sync>;
type Words = Box<dyn Fn() -> Error + Send>;
type Report = Box<dyn Fn(&Error) + Send>;

static GROUPS: Registry<ChildGroup> = Registry::new();
static CANCELS: Registry<Cancel> = Registry::new();
static LAST_WORDS: Registry<Words> = Registry::new();

/// What work is for, which decides how long a first signal spares it; also what a signal has ended.
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
    unsettled: 0,
    restore_terminal: None,
    report: None,
    waiting: None,
});

thread_local! {
    /// What this thread's work is for.
    static PHASE: Cell<Phase> = const { Cell::new(Phase::Work) };
}

static WAKE: OnceLock<PipeReader> = OnceLock::new();

/// Runs `f` on the state.
fn with_state<T>(f: impl FnOnce(&mut State) -> T) -> T {
    f(&mut lock(&STATE))
}

/// Starts handling the signals, except those that the parent process set to be ignored, as `nohup`
/// does.
///
/// # Errors
/// If the system cannot provide a pipe, a thread or a handler.
pub fn install() -> io::Result<()> {
    let ignored = ignored_signals();
    let mut watched = vec![SIGINT, SIGTERM, SIGHUP];
    watched.retain(|signal| ignored >> (signal - 1) & 1 == 0);
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
            // The pipe only wakes a prompt. Without one, it has no reader.
            let _ = writer.write_all(b"!");
            kill_groups(Signal::TERM, Phase::Work);
            cancel_calls(Phase::Work);
            // On its own thread: the reader of stderr may block.
            if unsettled && let Some(tell) = with_state(|state| state.waiting.take()) {
                aside(tell);
            }
            let wound_up = thread::Builder::new().spawn(move || wind_up(signal));
            if wound_up.is_err() {
                end(signal);
            }
        }
    })?;
    Ok(())
}

/// Ends what a first signal spared once its time is up, then the process.
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
            cancel_calls(phase);
        }
    }
    thread::sleep(REPORT_GRACE);
    end(signal)
}

fn cancel_calls(phase: Phase) {
    let cancels: Vec<Cancel> = CANCELS.lock().values().cloned().collect();
    for cancel in cancels {
        cancel(phase);
    }
}

/// While this lives, there is a submission whose result is not known yet: after a first signal the
/// process waits for it.
pub struct Unsettled(#[expect(dead_code)] memory::LastWords);

impl Unsettled {
    /// `unknown` is reported if memory runs out.
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

/// While this lives, this thread settles a submission: no signal counts as [received] until its grace
/// period is over. The same holds for programs that the thread starts and calls that it makes.
pub struct Settling(Phase);

impl Settling {
    /// Sends a submission and waits for the reply.
    pub fn submission() -> Self {
        Self(PHASE.replace(Phase::Submit))
    }

    /// Reads what became of a submission.
    pub fn confirmation() -> Self {
        Self(PHASE.replace(Phase::Confirm))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        PHASE.set(self.0);
    }
}

/// What this thread's work is for.
pub fn phase() -> Phase {
    PHASE.get()
}

/// Sleeps until the time is up or a signal arrives.
pub fn pause(duration: Duration) {
    let begun = Instant::now();
    while let Some(left) = duration.checked_sub(begun.elapsed())
        && !left.is_zero()
        && received().is_none()
    {
        thread::sleep(left.min(POLL_INTERVAL));
    }
}

/// Why [`wait`] returned without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoResult {
    /// A signal ended this thread's work.
    Interrupted(Kind),
    /// The deadline passed.
    TimedOut,
    /// The sender is gone.
    Disconnected,
}

/// Waits for a result from another thread, until `deadline` if there is one.
///
/// # Errors
/// When a signal, the deadline or the end of the sender comes first.
pub fn wait<T>(receiver: &Receiver<T>, deadline: Option<Instant>) -> Result<T, NoResult> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let interval = left.map_or(POLL_INTERVAL, |left| left.min(POLL_INTERVAL));
        match receiver.recv_timeout(interval) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err(NoResult::Disconnected),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(kind) = received() {
                    return Err(NoResult::Interrupted(kind));
                }
                if left.is_some_and(|left| left <= interval) {
                    return Err(NoResult::TimedOut);
                }
            }
        }
    }
}

/// Cancels a call in flight at a signal, while this lives.
pub struct CancelGuard(#[expect(dead_code)] Entry<Cancel>);

impl CancelGuard {
    /// `cancel` may be called from another thread, for each [`Phase`]; also here, if a signal came
    /// before.
    pub fn register(cancel: impl Fn(Phase) + Send + Sync + 'static) -> Self {
        let cancel: Cancel = Arc::new(cancel);
        let entry = CANCELS.add(cancel.clone());
        if received().is_some() {
            cancel(Phase::Confirm);
        }
        Self(entry)
    }
}

/// The kind of error to end with, once a signal has ended this thread's work.
pub fn received() -> Option<Kind> {
    let (signal, since) = with_state(|state| state.signal)?;
    (since.elapsed() >= phase().grace()).then(|| kind_of(signal))
}

/// The kind of error to end with, once a signal has arrived, even while this thread settles.
pub fn announced() -> Option<Kind> {
    with_state(|state| state.signal).map(|(signal, _)| kind_of(signal))
}

/// For `poll`: readable once a signal has arrived. `None` before [`install`].
pub fn wake_fd() -> Option<BorrowedFd<'static>> {
    use std::os::fd::AsFd;
    WAKE.get().map(AsFd::as_fd)
}

/// Registers what restores the terminal if the process ends during a prompt; `None` after the prompt.
pub fn on_end(restore_terminal: Option<Box<dyn FnOnce() + Send>>) {
    with_state(|state| state.restore_terminal = restore_terminal);
}

/// Sets how last words are reported.
pub fn report_with(report: impl Fn(&Error) + Send + 'static) {
    with_state(|state| state.report = Some(Box::new(report)));
}

/// Sets how to tell the user that a first signal waits for what was already sent.
pub fn tell_of_waiting_with(tell: impl FnOnce() + Send + 'static) {
    with_state(|state| state.waiting = Some(Box::new(tell)));
}

/// What to report if the process ends before it prints its result, while this lives.
pub struct LastWords(Entry<Words>);

impl LastWords {
    /// The error takes the kind of the signal.
    pub fn lay_down(error: Error) -> Self {
        Self::lay_down_with(move || error.clone())
    }

    /// The same, computed at the end; `words` is called with no lock held.
    pub fn lay_down_with(words: impl Fn() -> Error + Send + 'static) -> Self {
        Self(LAST_WORDS.add(Box::new(words)))
    }

    /// Keeps the words until the process ends: the result is known, but a second signal may come before
    /// it is printed.
    pub fn leave(self) {
        self.0.leave();
    }

    /// The same, with other words.
    pub fn leave_with(self, error: Error) {
        self.0.set(Box::new(move || error.clone()));
        self.leave();
    }
}

/// The ignored signals, one bit each from the lowest; none if the system does not say (proc(5),
/// `SigIgn`).
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

/// A child's process group, which ends with `qkey` while this lives.
pub struct Group {
    leader: Pid,
    _entry: Entry<ChildGroup>,
}

impl Group {
    /// Registers the group that `leader` leads; an earlier signal is delivered now.
    pub fn register(leader: Pid) -> Self {
        let serves = phase();
        let group = Self {
            leader,
            _entry: GROUPS.add(ChildGroup { leader, serves }),
        };
        if received().is_some() {
            group.kill();
        }
        group
    }

    /// Kills every process in the group.
    pub fn kill(&self) {
        // The group may already be gone.
        let _ = kill_process_group(self.leader, Signal::KILL);
    }
}

/// Kills all remaining children.
pub fn end_children() {
    kill_groups(Signal::KILL, Phase::Confirm);
}

/// For when memory runs out: kills all children and restores the terminal, as far as that is possible
/// without allocating or waiting.
pub fn abandon() {
    for group in GROUPS.try_lock().iter().flat_map(|groups| groups.values()) {
        let _ = kill_process_group(group.leader, Signal::KILL);
    }
    if let Ok(mut state) = STATE.try_lock()
        && let Some(restore) = state.restore_terminal.take()
    {
        restore();
    }
}

fn kill_groups(signal: Signal, phase: Phase) {
    for group in GROUPS.lock().values() {
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
        // Another thread is ending the process and reports the last words.
        thread::park();
    }
    kill_groups(Signal::KILL, Phase::Confirm);
    if let Some(restore) = with_state(|state| state.restore_terminal.take()) {
        restore();
    }
    if let Some(report) = with_state(|state| state.report.take()) {
        let words = std::mem::take(&mut *LAST_WORDS.lock());
        let (sender, reported) = mpsc::channel();
        aside(move || {
            for words in words.into_values() {
                report(&words().with_kind(kind_of(signal)));
            }
            // The receiver is gone if this took too long.
            let _ = sender.send(());
        });
        // The reader of stderr may block.
        let _ = reported.recv_timeout(REPORT_GRACE);
    }
    process::exit(i32::from(kind_of(signal).exit_code()))
}
