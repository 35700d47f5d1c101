//! What a run reports while it works, for progress displays and last words.

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The key source with this title is being opened.
    Opening(&'a str),
    /// The key source with this title waits for the user: a passphrase, a PIN, a touch.
    WaitingForPerson(&'a str),
    /// The key with this title signs.
    Signing(&'a str),
    /// The submission with this title is being sent.
    Submitting(&'a str),
    /// The cluster refused the submission with this title; nothing is in flight.
    Refused(&'a str),
    /// This many of several changes are settled, or accepted but not confirmed yet.
    Settled(usize),
}

/// Gets events, in any order and from any thread. It cannot fail, and never writes to stdout.
pub trait Observer: Sync {
    fn event(&self, event: Event<'_>);
}

/// An observer that ignores everything.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event<'_>) {}
}

impl<F: Fn(Event<'_>) + Sync> Observer for F {
    fn event(&self, event: Event<'_>) {
        self(event);
    }
}
