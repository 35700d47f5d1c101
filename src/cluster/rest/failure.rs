//! The ways in which a request goes without an answer.

use std::{io::ErrorKind::UnexpectedEof, time::Duration};

use rustix::io::Errno;
use ureq::{Timeout, http::StatusCode};

use super::tls::{HandshakeError, SpeaksHttp2, Untrusted};
use crate::error::Kind;

/// Why no answer came back.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no connection; nothing was sent.
    NotConnected(String),
    /// This machine has no file descriptor left for a connection; nothing was sent.
    NoDescriptor(String),
    /// The proxy did not let anything through; nothing was sent to the cluster.
    RefusedByProxy(StatusCode),
    /// There was none within this time; nothing was sent.
    NotConnectedWithin(Duration),
    /// There is no TLS; nothing was sent, or nothing that the server can have looked at.
    NoTls(HandshakeError),
    /// Others took up the connection for most of this time; nothing was sent.
    NoTurnWithin(Duration),
    /// Nothing was sent to whoever shows this certificate.
    Untrusted(Untrusted),
    /// A signal came before the request was sent.
    StoppedBefore(Kind),
    /// A signal came afterwards.
    StoppedDuring(Kind),
    /// The request was sent, and not answered within this time.
    TimedOut(Duration),
    /// The request was sent, and the connection broke.
    Lost(String),
    /// The answer is larger than any that is wanted.
    TooLong,
    /// The answer is no HTTP.
    NotHttp(String),
}

/// What an error means that came after the request was sent, or some of it.
pub(super) fn after_sending(error: ureq::Error, timeout: Duration) -> Failure {
    use ureq::Error::{BodyExceedsLimit, Io, LargeResponseHeader, Protocol};
    match error {
        ureq::Error::Timeout(_) => Failure::TimedOut(timeout),
        BodyExceedsLimit(_) => Failure::TooLong,
        Protocol(_) | LargeResponseHeader(..) => Failure::NotHttp(error.to_string()),
        Io(error) if error.kind() == UnexpectedEof => {
            Failure::Lost("it was closed before the whole answer was there".to_owned())
        }
        ureq::Error::Other(error) if error.is::<SpeaksHttp2>() => {
            Failure::NotHttp(error.to_string())
        }
        error => match handshake_error(&error) {
            Some(error) if error.precedes_requests() => Failure::NoTls(error),
            _ => Failure::Lost(words(&error)),
        },
    }
}

/// What an error means that came while there was no connection yet.
pub(super) fn before_sending(
    error: ureq::Error,
    timeout: Duration,
    connect_timeout: Duration,
) -> Failure {
    match &error {
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            Failure::NotConnectedWithin(connect_timeout)
        }
        ureq::Error::Timeout(_) => Failure::NotConnectedWithin(timeout),
        ureq::Error::ConnectProxyFailed(reason) => match proxy_status(reason) {
            Some(status) => Failure::RefusedByProxy(status),
            None => Failure::NotConnected(reason.clone()),
        },
        ureq::Error::Io(io) if io.kind() == UnexpectedEof => {
            Failure::NotConnected("the connection was closed before a request was sent".to_owned())
        }
        ureq::Error::Io(io) if io.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            Failure::NoDescriptor(words(&error))
        }
        error => match handshake_error(error) {
            Some(error) => Failure::NoTls(error),
            None => Failure::NotConnected(words(error)),
        },
    }
}

fn handshake_error(error: &ureq::Error) -> Option<HandshakeError> {
    match error {
        ureq::Error::Other(error) => error.downcast_ref().copied(),
        _ => None,
    }
}

/// The library has it as text alone: `proxy server responded 407/407`.
fn proxy_status(reason: &str) -> Option<StatusCode> {
    let status = reason.strip_prefix("proxy server responded ")?;
    status.split('/').next()?.parse().ok()
}

/// The error of the system or the library, without what this library puts around it.
fn words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Other(error) => error.to_string(),
        error => error.to_string(),
    }
}
