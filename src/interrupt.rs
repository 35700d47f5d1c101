//! SIGINT, SIGTERM and SIGHUP: children are ended first, then the call under way returns, so that
//! the user is told what had been sent. A second signal, or a call that does not return, ends the
//! process at once; what must be said even then has been laid down beforehand.

use std::{
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

use crate::{
    error::{Error, Kind},
    memory,
};

/// How long a child may take to end by itself before it is killed.
const CHILD_GRACE: Duration = Duration::from_millis(500);

/// How long the main thread may take to report after the children are gone.
const REPORT_GRACE: Duration = Duration::from_secs(2);

/// How soon a signal is noticed by what only looks for one.
pub const LOOK: Duration = Duration::from_millis(50);

struct State {
    signal: Option<i32>,
    groups: Vec<Pid>,
    /// What else makes a call under way return.
    enders: Vec<(u64, Arc<dyn Fn() + Send + Sync>)>,
    /// Undoes what a prompt did to the terminal.
    restore_terminal: Option<Box<dyn FnOnce() + Send>>,
    /// What must be said if the process ends without a report of its own.
    last_words: Vec<(u64, Error)>,
    report: Option<Report>,
}

type Report = Box<dyn Fn(&Error) + Send>;

static STATE: Mutex<State> = Mutex::new(State {
    signal: None,
    groups: Vec::new(),
    enders: Vec::new(),
    restore_terminal: None,
    last_words: Vec::new(),
    report: None,
});

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
            let again = with_state(|state| state.signal.replace(signal).is_some());
            if again {
                end(signal);
            }
            // The pipe only wakes a prompt; without one nobody reads it.
            let _ = writer.write_all(b"!");
            kill_groups(Signal::TERM);
            for (_, end) in with_state(|state| state.enders.clone()) {
                end();
            }
            thread::spawn(move || {
                thread::sleep(CHILD_GRACE);
                kill_groups(Signal::KILL);
                thread::sleep(REPORT_GRACE);
                end(signal);
            });
        }
    })?;
    Ok(())
}

/// Waits, but no longer than until a signal arrives.
pub fn pause(duration: Duration) {
    let begun = Instant::now();
    while let Some(left) = duration.checked_sub(begun.elapsed())
        && !left.is_zero()
        && received().is_none()
    {
        thread::sleep(left.min(LOOK));
    }
}

/// What makes a call under way return at a signal, as long as this value lives.
pub struct Ender(u64);

impl Ender {
    /// `end` may be called from another thread, once for each signal; and here, for one that came
    /// before.
    pub fn register(end: impl Fn() + Send + Sync + 'static) -> Self {
        let end = Arc::new(end);
        let (number, late) = with_state(|state| {
            let number = state.enders.last().map_or(0, |(number, _)| number + 1);
            state.enders.push((number, end.clone()));
            (number, state.signal.is_some())
        });
        if late {
            end();
        }
        Self(number)
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        with_state(|state| state.enders.retain(|(number, _)| *number != self.0));
    }
}

/// The kind of error to end with, once a signal has arrived.
pub fn received() -> Option<Kind> {
    with_state(|state| state.signal).map(kind_of)
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
pub struct LastWords(u64, #[expect(dead_code)] memory::LastWords);

impl LastWords {
    /// The error becomes one of the kind of the signal.
    pub fn lay_down(error: Error) -> Self {
        let for_want_of_memory = memory::LastWords::lay_down(&error);
        with_state(|state| {
            let number = state.last_words.last().map_or(0, |(number, _)| number + 1);
            state.last_words.push((number, error));
            Self(number, for_want_of_memory)
        })
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
        let late = with_state(|state| {
            state.groups.push(leader);
            state.signal.is_some()
        });
        let group = Self(leader);
        if late {
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
        with_state(|state| state.groups.retain(|&pid| pid != self.0));
    }
}

/// Kills every child that is left.
pub fn end_children() {
    kill_groups(Signal::KILL);
}

fn kill_groups(signal: Signal) {
    for group in with_state(|state| state.groups.clone()) {
        let _ = kill_process_group(group, signal);
    }
}

fn kind_of(signal: i32) -> Kind {
    match signal {
        SIGINT => Kind::Interrupted,
        _ => Kind::Terminated,
    }
}

fn end(signal: i32) -> ! {
    kill_groups(Signal::KILL);
    if let Some(restore) = with_state(|state| state.restore_terminal.take()) {
        restore();
    }
    let (words, report) = with_state(|state| {
        let words = std::mem::take(&mut state.last_words);
        (words, state.report.take())
    });
    if let Some(report) = report {
        for (_, error) in words {
            report(&error.with_kind(kind_of(signal)));
        }
    }
    process::exit(i32::from(kind_of(signal).exit_code()))
}
