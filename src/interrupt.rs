//! SIGINT and SIGTERM: children are ended first, then the call under way returns, so that the
//! user is told what had been sent. A second signal, or a call that does not return, ends the
//! process at once.

use std::{
    io::{self, PipeReader, Write},
    os::fd::BorrowedFd,
    process,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::error::Kind;

/// How long a child may take to end by itself before it is killed.
const CHILD_GRACE: Duration = Duration::from_millis(500);

/// How long the main thread may take to report after the children are gone.
const REPORT_GRACE: Duration = Duration::from_secs(2);

struct State {
    signal: Option<i32>,
    groups: Vec<Pid>,
    /// Undoes what a prompt did to the terminal.
    restore_terminal: Option<Box<dyn FnOnce() + Send>>,
}

static STATE: Mutex<State> = Mutex::new(State {
    signal: None,
    groups: Vec::new(),
    restore_terminal: None,
});

static WAKE: OnceLock<PipeReader> = OnceLock::new();

/// Runs `f` on the state; no code that can panic runs under the lock, so poison means nothing.
fn with_state<T>(f: impl FnOnce(&mut State) -> T) -> T {
    f(&mut STATE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Starts to watch for SIGINT and SIGTERM.
///
/// # Errors
/// When the system gives out no pipe, thread or handler.
pub fn install() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
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

fn kill_groups(signal: Signal) {
    for group in with_state(|state| state.groups.clone()) {
        let _ = kill_process_group(group, signal);
    }
}

fn kind_of(signal: i32) -> Kind {
    match signal {
        SIGTERM => Kind::Terminated,
        _ => Kind::Interrupted,
    }
}

fn end(signal: i32) -> ! {
    kill_groups(Signal::KILL);
    if let Some(restore) = with_state(|state| state.restore_terminal.take()) {
        restore();
    }
    process::exit(i32::from(kind_of(signal).exit_code()))
}
