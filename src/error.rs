//! The one error that reaches the user: what kind it is, what failed on what, why, what to do next.
//!
//! Every room has errors of its own; here they get their kind, which fixes the exit code. Kinds,
//! their names and their codes are a contract with the scripts that call `qkey`.

use std::{error::Error as StdError, fmt};

pub use crate::reason::Reason;

/// What went wrong, as far as a script needs to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything that has no kind of its own.
    Internal,
    /// Bad arguments or configuration.
    Usage,
    /// A key source cannot be opened or cannot sign.
    Key,
    /// The key is not the one the cluster holds; nothing was sent.
    Mismatch,
    /// The cluster refused.
    Refused,
    /// Not logged in, or no permission.
    Auth,
    /// The cluster or `qq` did not answer, or `qq` is missing.
    Unreachable,
    /// Submitted, and the outcome could not be confirmed.
    Unknown,
    /// Several asked for, some done and some failed.
    Partial,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
}

impl Kind {
    /// Whether a signal ended the work, so that nothing more is to be tried.
    pub fn is_interruption(self) -> bool {
        matches!(self, Kind::Interrupted | Kind::Terminated)
    }

    /// The name in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Internal => "internal",
            Kind::Usage => "usage",
            Kind::Key => "key",
            Kind::Mismatch => "mismatch",
            Kind::Refused => "refused",
            Kind::Auth => "auth",
            Kind::Unreachable => "unreachable",
            Kind::Unknown => "unknown",
            Kind::Partial => "partial",
            Kind::Interrupted => "interrupted",
            Kind::Terminated => "terminated",
        }
    }

    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Internal => 1,
            Kind::Usage => 2,
            Kind::Key => 3,
            Kind::Mismatch => 4,
            Kind::Refused => 5,
            Kind::Auth => 6,
            Kind::Unreachable => 7,
            Kind::Unknown => 8,
            Kind::Partial => 9,
            Kind::Interrupted => 130,
            Kind::Terminated => 143,
        }
    }
}

/// What the message of an error names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The snapshot with this id.
    Snapshot(u64),
}

/// An error with its kind, a one-line message, the chain of what caused it, and the next step.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    reason: Option<Reason>,
    subject: Option<Subject>,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    /// Whether the message is ours to the last word, and shown whole however long it is.
    whole: bool,
}

/// What every room above the typed ones returns.
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

    /// The same, with a message that quotes nothing from elsewhere: it is shown whole.
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

    /// Adds the next step, where there is one.
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

    /// The message and what caused it, on one line, for notes.
    pub fn chain(&self) -> String {
        let causes = self.causes.iter().map(String::as_str);
        let all: Vec<&str> = std::iter::once(self.message.as_str())
            .chain(causes)
            .collect();
        all.join(": ").replace('\n', " ")
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

    /// Puts what it is about in front of the message, where there are several.
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {}
