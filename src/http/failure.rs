//! Why a request got no response.

use std::{
    error::Error as StdError,
    io::ErrorKind::UnexpectedEof,
    sync::{Arc, LazyLock},
    time::Duration,
};

use regex::Regex;
use rustix::io::Errno;
use ureq::{Timeout, http::StatusCode};

use super::tls::{HandshakeError, SpeaksHttp2, Untrusted};
use crate::error::Kind;

/// The underlying error of the system or a library.
pub(crate) type Cause = Arc<dyn StdError + Send + Sync>;

/// Why a request got no response. Nothing was sent to the host in any case up to
/// [`StoppedBefore`](Self::StoppedBefore).
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The host name does not exist.
    UnknownHost(Cause),
    NotConnected(Cause),
    /// The connection was closed before the request was sent.
    Closed,
    /// This process has no file descriptor left (EMFILE).
    NoDescriptor(Cause),
    /// The proxy refused the tunnel with this status.
    RefusedByProxy(StatusCode),
    NotConnectedWithin(Duration),
    /// TLS failed before the server could have read a request.
    NoTls(HandshakeError),
    Untrusted(Untrusted),
    /// Other requests held every connection for this long.
    NoTurnWithin(Duration),
    /// A signal arrived before the request was sent.
    StoppedBefore(Kind),
    /// A signal arrived after the request was sent.
    StoppedDuring(Kind),
    /// The request was sent, but no response arrived within this time.
    TimedOut(Duration),
    /// The connection broke after the request was sent.
    Lost(Cause),
    /// The connection was closed before the whole response had arrived.
    Truncated,
    /// The response exceeds the limit of the request.
    TooLong,
    /// The response is not HTTP/1.1.
    NotHttp(Cause),
}

impl Failure {
    /// Classifies an error that occurred after any of the request may have been sent.
    pub fn after_sending(error: ureq::Error, timeout: Duration) -> Self {
        use ureq::Error::{BodyExceedsLimit, Io, LargeResponseHeader, Other, Protocol};
        match error {
            ureq::Error::Timeout(_) => Self::TimedOut(timeout),
            BodyExceedsLimit(_) => Self::TooLong,
            Protocol(_) | LargeResponseHeader(..) => Self::NotHttp(Arc::new(error)),
            Io(error) if error.kind() == UnexpectedEof => Self::Truncated,
            Other(error) if error.is::<SpeaksHttp2>() => Self::NotHttp(error.into()),
            error => {
                let cause = cause(error);
                match cause.downcast_ref::<HandshakeError>() {
                    Some(error) if error.precedes_requests() => Self::NoTls(*error),
                    _ => Self::Lost(cause),
                }
            }
        }
    }

    /// Classifies an error that occurred before there was a connection.
    pub fn before_sending(
        error: ureq::Error,
        timeout: Duration,
        connect_timeout: Duration,
    ) -> Self {
        match error {
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                Self::NotConnectedWithin(connect_timeout)
            }
            ureq::Error::Timeout(_) => Self::NotConnectedWithin(timeout),
            ureq::Error::ConnectProxyFailed(reason) => match proxy_status(&reason) {
                Some(status) => Self::RefusedByProxy(status),
                None => Self::NotConnected(Box::<dyn StdError + Send + Sync>::from(reason).into()),
            },
            ureq::Error::Io(error) if error.kind() == UnexpectedEof => Self::Closed,
            ureq::Error::Io(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                Self::NoDescriptor(Arc::new(error))
            }
            error => {
                let cause = cause(error);
                if let Some(error) = cause.downcast_ref::<HandshakeError>() {
                    Self::NoTls(*error)
                } else if let Some(untrusted) = cause.downcast_ref::<Untrusted>() {
                    Self::Untrusted(untrusted.clone())
                } else if UNKNOWN_HOST.is_match(&cause.to_string()) {
                    Self::UnknownHost(cause)
                } else {
                    Self::NotConnected(cause)
                }
            }
        }
    }
}

/// How the resolvers of glibc, musl, and macOS report a name that does not exist. The standard library
/// passes on their words, but not their codes (EAI_NONAME, EAI_NODATA).
static UNKNOWN_HOST: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        "^failed to lookup address information: ",
        "(?:Name or service not known|No address associated with hostname",
        "|Name does not resolve|nodename nor servname provided, or not known)$",
    ))
    .expect("a valid pattern")
});

/// The status in a proxy's response to CONNECT. ureq 3.5 has no typed form of it, only this text.
static PROXY_STATUS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^proxy server responded (\d{3})/\d{3}$").expect("a valid pattern")
});

fn proxy_status(reason: &str) -> Option<StatusCode> {
    PROXY_STATUS.captures(reason)?[1].parse().ok()
}

/// The error inside ureq's wrapper.
fn cause(error: ureq::Error) -> Cause {
    match error {
        ureq::Error::Io(error) => Arc::new(error),
        ureq::Error::Other(error) => error.into(),
        error => Arc::new(error),
    }
}
