//! The error that reaches the user: its kind, what failed on what, why, and what to do next.
//!
//! Each layer has its own errors; here they get their kind, which decides the exit code. Kinds, their
//! names and their codes are a contract with the scripts that call `qkey`.

use std::error::Error as StdError;

use serde::Serialize;

pub use crate::reason::Reason;

/// What went wrong, as far as a script needs to tell. The name in JSON is the variant's, and the
/// exit code its discriminant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Anything that has no kind of its own.
    Internal = 1,
    /// Bad arguments or configuration.
    Usage = 2,
    /// A key source cannot be opened or cannot sign.
    Key = 3,
    /// The key does not match the one that the cluster holds; nothing was sent.
    Mismatch = 4,
    /// The cluster refused.
    Refused = 5,
    /// Not logged in, or no permission.
    Auth = 6,
    /// The cluster or `qq` did not reply, or `qq` is missing.
    Unreachable = 7,
    /// Submitted, but the result could not be confirmed.
    Unknown = 8,
    /// Of several requests, some succeeded and some failed.
    Partial = 9,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl Kind {
    /// Whether a signal ended the work, so that nothing else may be tried.
    pub fn is_interruption(self) -> bool {
        matches!(self, Kind::Interrupted | Kind::Terminated)
    }

    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// What the message of an error names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The snapshot with this id.
    Snapshot(u64),
}

/// An error with its kind, a one-line message, the chain of what caused it, and the next step.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    reason: Option<Reason>,
    subject: Option<Subject>,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    /// Whether the message quotes nothing from elsewhere, so that it is shown in full whatever its
    /// length.
    whole: bool,
}

/// The result in the layers above those with typed errors.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `message` says in one line what failed on what.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason: None,
            subject: None,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            whole: false,
        }
    }

    /// Shows the message in full: it quotes nothing from elsewhere.
    pub fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Adds the next step for the user.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the next step, if there is one.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Adds why it failed, for decisions. `None` keeps what is known.
    pub fn because(mut self, reason: impl Into<Option<Reason>>) -> Self {
        self.reason = reason.into().or(self.reason);
        self
    }

    /// Adds what the message names. `None` keeps what is known.
    pub fn naming(mut self, subject: impl Into<Option<Subject>>) -> Self {
        self.subject = subject.into().or(self.subject);
        self
    }

    /// Adds `cause` and all that caused it.
    pub fn caused_by(mut self, cause: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds another error of this type as the cause, with its own causes.
    pub fn caused_by_error(mut self, cause: &Error) -> Self {
        self.causes.push(cause.message.clone());
        self.causes.extend(cause.causes.iter().cloned());
        self
    }

    /// The message and its causes on one line, for notes.
    pub fn chain(&self) -> String {
        let causes = self.causes.iter().map(|cause| format!(": {cause}"));
        format!("{}{}", self.message, causes.collect::<String>()).replace('\n', " ")
    }

    /// Puts `message` in front: the error was one step of what `message` names.
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, inner);
        self
    }

    /// The same error as another kind.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same error with another message.
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// Says what the message is about, if that could be several things.
    pub fn about(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// What the message names, if that is known.
    pub fn subject(&self) -> Option<Subject> {
        self.subject
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// What caused it, nearest first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}
