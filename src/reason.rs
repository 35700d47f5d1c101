//! Why something outside `qkey` failed, as far as decisions depend on it.
//!
//! Every foreign program, plugin and PKCS#11 module is classified into these in one place of its
//! own; retries, hints and exit codes follow from the variant, never from the words.

/// Why a key source or a cluster failed. A failure without a reason is unclassified, which never
/// means that the thing is absent or that a retry helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The key does not exist.
    NotFound,
    /// This user may not use the key.
    Denied,
    /// Not logged in, or the login expired.
    LoggedOut,
    /// Too many requests; a later one may succeed.
    Throttled,
    /// The passphrase or PIN was refused.
    WrongSecret,
    /// The user must act first, or declined.
    NeedsPerson,
    /// The key exists and is switched off, deleted or expired.
    Disabled,
    /// The key or the program cannot do this at all.
    Unsupported,
    /// The service did not answer.
    Unreachable,
    /// The clocks of this machine and the service differ too much.
    ClockSkew,
}

impl Reason {
    /// Whether to leave the key alone for the rest of the run. Another attempt would fail in the same
    /// way, and may use up a PIN attempt or prompt the user again.
    pub fn rules_out_key(self) -> bool {
        matches!(
            self,
            Self::Denied | Self::LoggedOut | Self::NeedsPerson | Self::WrongSecret
        )
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Throttled)
    }
}
