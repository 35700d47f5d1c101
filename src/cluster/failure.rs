//! How calls to a cluster fail, and what follows from each failure.

use std::{io, time::Duration};

use super::{
    Certainty,
    qq::node::Astray,
    reply::{NotAReply, Wrong},
};
use crate::{http, reason::Reason, subprocess};

/// The outcome of one attempt to make a call, before [`Site::error`](super::explain::Site::error)
/// explains it.
pub type Attempt<T> = Result<T, Failure>;

/// How a call failed. What is certain, whether to retry, and the exit code follow from the variant.
#[derive(Debug)]
pub enum Failure {
    Api(ApiError),
    /// The reply does not come from the REST API. The duration is the wait before a retry, if one may
    /// help.
    Unexpected(Unexpected, Option<Duration>),
    /// The reply is larger than any that a cluster sends; the text says what is too large.
    TooLarge(String),
    /// There was no reply, or no HTTP.
    Connection(http::Failure),
    /// `qq` would reach another cluster.
    Astray(Astray),
    /// `qq` could not run, or failed without saying why.
    Qq(subprocess::Failure),
    /// `qq` cannot read its credentials.
    QqCredentials(String),
    /// `qq` reported an error of its own.
    QqError(String),
    /// `qq` crashed with this exception.
    QqCrash(String),
    /// `qq` requires `--host`.
    QqWithoutHost,
    /// `qq` does not have the command.
    QqCommand,
    /// `qq` rejected the arguments.
    QqArguments(String),
}

/// An error of the REST API, as `qq` prints it.
#[derive(Debug, thiserror::Error)]
#[error("Error {status}: {words}")]
pub struct ApiError {
    /// 4xx or 5xx.
    pub status: u16,
    /// `class: description`, followed by the same for an inner error in parentheses.
    pub words: String,
    /// How long the cluster asks to wait.
    retry_after: Option<Duration>,
}

/// What is wrong with a reply.
#[derive(Debug, thiserror::Error)]
pub enum Unexpected {
    #[error("status {status}: {excerpt}")]
    Status { status: u16, excerpt: String },
    #[error("it redirects to {0}, which qkey does not follow")]
    Redirect(String),
    #[error("expected {expected}, got: {excerpt}")]
    Body { expected: Wrong, excerpt: String },
    #[error("the list has no last page")]
    Endless,
    #[error("its next page is on another host: {0}")]
    PageElsewhere(String),
    /// `qq` could not read the reply.
    #[error("{0}")]
    Qq(String),
}

/// Whether the same request may succeed later.
pub fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 503)
}

impl Failure {
    /// An error of the REST API. `retry_after` is how long the cluster asks to wait.
    pub fn api(status: u16, words: String, retry_after: Option<Duration>) -> Self {
        match status {
            400.. => Self::Api(ApiError {
                status,
                words,
                retry_after,
            }),
            // The REST API reports no error with such a status.
            _ => Self::status(status, words, None),
        }
    }

    /// A status without an error of the REST API.
    pub fn status(status: u16, excerpt: String, retry_after: Option<Duration>) -> Self {
        Self::Unexpected(Unexpected::Status { status, excerpt }, retry_after)
    }

    pub fn reply(wrong: NotAReply, excerpt: String, retry_after: Option<Duration>) -> Self {
        match wrong {
            NotAReply::TooLarge(what) => Self::TooLarge(what),
            NotAReply::Wrong(expected) => {
                Self::Unexpected(Unexpected::Body { expected, excerpt }, retry_after)
            }
        }
    }

    /// Whether `qq` rejected its command line, before it sent anything.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::QqWithoutHost | Self::QqCommand | Self::QqArguments(_)
        )
    }

    /// What is certain about the cluster's state.
    pub fn certainty(&self) -> Certainty {
        use http::Failure as Http;
        use subprocess::Failure as Program;
        match self {
            Self::Api(error) => match error.status {
                // A proxy may have replied, which knows nothing of the cluster.
                408 | 502..=504 => Certainty::Unexpected,
                ..500 => Certainty::Refused,
                500.. => Certainty::Failed,
            },
            Self::Unexpected(..)
            | Self::TooLarge(_)
            | Self::Connection(Http::TooLong | Http::NotHttp(_)) => Certainty::Unexpected,
            Self::Connection(
                Http::StoppedDuring(_) | Http::TimedOut(_) | Http::Lost(_) | Http::Truncated,
            )
            | Self::QqError(_)
            | Self::QqCrash(_) => Certainty::Lost,
            Self::Qq(
                Program::NotFound { .. }
                | Program::NotExecutable { .. }
                | Program::CouldNotRun { .. },
            ) => Certainty::NotSent,
            Self::Qq(_) => Certainty::Lost,
            Self::Connection(_)
            | Self::Astray(_)
            | Self::QqCredentials(_)
            | Self::QqWithoutHost
            | Self::QqCommand
            | Self::QqArguments(_) => Certainty::NotSent,
        }
    }

    /// The minimum wait before a read is retried; `None` if a retry would not help.
    pub fn retry_after(&self) -> Option<Duration> {
        use http::Failure as Http;
        let at_once = |so: bool| so.then_some(Duration::ZERO);
        match self {
            Self::Api(error) if is_transient(error.status) => {
                Some(error.retry_after.unwrap_or_default())
            }
            Self::Unexpected(_, after) => *after,
            Self::Connection(failure) => match failure {
                Http::NotConnected(_) | Http::Closed | Http::Truncated => at_once(true),
                Http::Lost(cause) => at_once(!is_time_out(cause)),
                Http::RefusedByProxy(status) => at_once(status.is_server_error()),
                _ => None,
            },
            _ => None,
        }
    }

    /// The reason, where the layers above decide by it.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::QqCredentials(_)
            | Self::Unexpected(Unexpected::Status { status: 401, .. }, _) => {
                Some(Reason::LoggedOut)
            }
            Self::Api(error) => match error.status {
                401 => Some(Reason::LoggedOut),
                403 => Some(Reason::Denied),
                404 => Some(Reason::NotFound),
                429 => Some(Reason::Throttled),
                408 | 502..=504 => Some(Reason::Unreachable),
                _ => None,
            },
            Self::Connection(
                http::Failure::StoppedBefore(_)
                | http::Failure::StoppedDuring(_)
                | http::Failure::TooLong,
            ) => None,
            Self::Connection(_) => Some(Reason::Unreachable),
            _ => None,
        }
    }
}

fn is_time_out(cause: &http::Cause) -> bool {
    let error = cause.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_4xx_of_the_api_is_a_refusal() {
        for (status, certainty) in [
            (302, Certainty::Unexpected),
            (400, Certainty::Refused),
            (401, Certainty::Refused),
            (404, Certainty::Refused),
            (408, Certainty::Unexpected),
            (429, Certainty::Refused),
            (500, Certainty::Failed),
            (502, Certainty::Unexpected),
            (504, Certainty::Unexpected),
        ] {
            let failure = Failure::api(status, "class: words".to_owned(), None);
            assert_eq!(failure.certainty(), certainty, "{status}");
        }
    }
}
