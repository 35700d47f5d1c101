//! How calls to a cluster fail, and what follows from each failure.

use std::{fmt, io, time::Duration};

use super::{Certainty, qq::node::Astray, reply::NotAReply, rest::credentials};
use crate::{
    http::{self, proxy, tls::TrustError},
    reason::Reason,
    subprocess,
};

/// How a call failed. Certainty, retry and exit code follow from the variant.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 401.
    Unauthorized(ApiError),
    /// 403.
    Forbidden(ApiError),
    /// 404.
    NotFound(ApiError),
    /// 429, with the time that the cluster asks to wait.
    Throttled(ApiError, Option<Duration>),
    /// 408 or 502 to 504: the cluster, or a proxy that knows nothing of the cluster.
    Unavailable(ApiError, Option<Duration>),
    /// Any other 5xx.
    Broken(ApiError),
    /// Any other 4xx.
    Refused(ApiError),
    /// The reply is not one of the REST API's. The duration is the wait before a retry, if one may
    /// help.
    Unexpected(Unexpected, Option<Duration>),
    /// The reply is larger than any that a cluster sends; the text says what.
    TooLarge(String),
    /// There was no reply, or no HTTP.
    Connection(http::Failure),
    /// `qq` would reach another cluster.
    Astray(Astray),
    /// `qq` could not be run, or failed without saying why.
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
    /// Not a failure of a transport: a layer above gave up, or a test made it up.
    Outside {
        certainty: Certainty,
        retry_after: Option<Duration>,
    },
}

/// An error of the REST API.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub status: u16,
    /// `class: description`, with those of an inner error in parentheses.
    pub words: String,
}

impl std::error::Error for ApiError {}

/// As `qq` prints it.
impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error {}: {}", self.status, self.words)
    }
}

/// What is wrong with a reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unexpected {
    #[error("status {status}: {excerpt}")]
    Status { status: u16, excerpt: String },
    #[error("it redirects to {0}, which qkey does not follow")]
    Redirect(String),
    #[error("expected {expected}, got: {excerpt}")]
    Body {
        expected: NotAReply,
        excerpt: String,
    },
    #[error("its list never ends")]
    Endless,
    #[error("its next page is on another host: {0}")]
    PageElsewhere(String),
    /// `qq` could not read the reply.
    #[error("{0}")]
    Qq(String),
}

impl Failure {
    /// The error of the REST API with this status. `retry_after` is the time that the cluster asks to
    /// wait.
    pub fn api(status: u16, words: String, retry_after: Option<Duration>) -> Self {
        let error = ApiError { status, words };
        match status {
            401 => Self::Unauthorized(error),
            403 => Self::Forbidden(error),
            404 => Self::NotFound(error),
            429 => Self::Throttled(error, retry_after),
            408 | 502..=504 => Self::Unavailable(error, retry_after),
            400..500 => Self::Refused(error),
            500.. => Self::Broken(error),
            // The REST API reports no error with such a status.
            _ => {
                let excerpt = error.words;
                Self::Unexpected(Unexpected::Status { status, excerpt }, None)
            }
        }
    }

    /// What is certain about the cluster's state.
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::Unauthorized(_)
            | Self::Forbidden(_)
            | Self::NotFound(_)
            | Self::Throttled(..)
            | Self::Refused(_) => Certainty::Refused,
            Self::Broken(_) => Certainty::Failed,
            Self::Unavailable(..) | Self::Unexpected(..) | Self::TooLarge(_) => {
                Certainty::Unexpected
            }
            Self::Connection(failure) => {
                use http::Failure::{Lost, NotHttp, StoppedDuring, TimedOut, TooLong, Truncated};
                match failure {
                    StoppedDuring(_) | TimedOut(_) | Lost(_) | Truncated => Certainty::Lost,
                    TooLong | NotHttp(_) => Certainty::Unexpected,
                    _ => Certainty::NotSent,
                }
            }
            Self::Qq(failure) => match failure {
                subprocess::Failure::NotFound { .. }
                | subprocess::Failure::NotExecutable { .. }
                | subprocess::Failure::CouldNotRun { .. } => Certainty::NotSent,
                _ => Certainty::Lost,
            },
            Self::QqError(_) | Self::QqCrash(_) => Certainty::Lost,
            Self::Astray(_)
            | Self::QqCredentials(_)
            | Self::QqWithoutHost
            | Self::QqCommand
            | Self::QqArguments(_) => Certainty::NotSent,
            Self::Outside { certainty, .. } => *certainty,
        }
    }

    /// How long to wait at least before a read is retried; `None` if a retry would not help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled(_, after)
            | Self::Unavailable(
                ApiError {
                    status: 408 | 503, ..
                },
                after,
            ) => Some(after.unwrap_or_default()),
            Self::Unexpected(_, after) => *after,
            Self::Connection(failure) => {
                use http::Failure::{Closed, Lost, NotConnected, RefusedByProxy, Truncated};
                match failure {
                    NotConnected(_) | Closed | Truncated => Some(Duration::ZERO),
                    Lost(cause) => (!is_time_out(cause)).then_some(Duration::ZERO),
                    RefusedByProxy(status) => status.is_server_error().then_some(Duration::ZERO),
                    _ => None,
                }
            }
            Self::Outside { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Why it failed, as far as layers above need to know.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Unauthorized(_) | Self::QqCredentials(_) => Some(Reason::LoggedOut),
            Self::Unexpected(Unexpected::Status { status: 401, .. }, _) => Some(Reason::LoggedOut),
            Self::Forbidden(_) => Some(Reason::Denied),
            Self::NotFound(_) => Some(Reason::NotFound),
            Self::Throttled(..) => Some(Reason::Throttled),
            Self::Unavailable(..) => Some(Reason::Unreachable),
            Self::Connection(http::Failure::StoppedBefore(_) | http::Failure::StoppedDuring(_)) => {
                None
            }
            Self::Connection(_) => Some(Reason::Unreachable),
            _ => None,
        }
    }
}

fn is_time_out(cause: &http::Cause) -> bool {
    let error = cause.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// Why a cluster cannot be called at all.
#[derive(Debug)]
pub enum SetupError {
    /// Neither a host nor a configured cluster is named.
    NoCluster,
    /// This is not a host name.
    Host(String),
    /// There is no usable `qq`.
    Qq(subprocess::Failure),
    /// `qq` would reach another cluster.
    Astray(Astray),
    Trust(TrustError),
    Proxy(proxy::Unusable),
    Credentials {
        error: credentials::Error,
        log_in: String,
    },
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
