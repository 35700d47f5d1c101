//! How far a request has come on a connection. What is certain after a failure depends on it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use crate::interrupt::Phase;

#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub fn set(&self, value: bool) {
        self.0.store(value, Ordering::SeqCst);
    }
}

/// The state of a connection, shared by all that use or end it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Whether there is a connection that has not failed yet.
    pub connected: Flag,
    /// Whether any of the current request may have gone out.
    pub sent: Flag,
    /// Whether a signal or a stray response has ended the use of the connection.
    pub shut: Flag,
    /// Whether any connection to the host has succeeded yet.
    pub reached: Arc<Flag>,
    /// The purpose of the current request, as a [`Phase`].
    phase: AtomicU8,
}

impl Progress {
    pub fn new(reached: Arc<Flag>) -> Self {
        Self {
            reached,
            ..Self::default()
        }
    }

    pub fn phase(&self) -> u8 {
        self.phase.load(Ordering::SeqCst)
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Whether the current request confirms a submission: only these may start after a signal.
    pub fn confirms(&self) -> bool {
        self.phase() == Phase::Confirm as u8
    }
}
