//! Requests and replies over the agent's socket. Each exchange has a deadline, and a signal ends it
//! at once.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use rustix::net::SocketAddrUnix;
use zeroize::Zeroizing;

use super::{CHECK, failed};
use crate::{
    encoding::ssh_wire::Writer,
    error::{Error, Result},
    interrupt::{self, NoResult},
    parallel::{aside, lock},
};

/// The longest message in either direction: what OpenSSH's agent takes (`AGENT_MAX_LEN`).
const MAX_MESSAGE: usize = 256 << 10;

/// A connection to an agent, opened on first use and kept.
pub(super) struct Connection {
    path: PathBuf,
    timeout: Duration,
    /// `None` before the first message and after a failure, when a late reply may still come.
    stream: Mutex<Option<UnixStream>>,
}

impl Connection {
    /// Connects to the agent that listens at `path`; `timeout` applies to each reply.
    pub(super) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self {
            path,
            timeout,
            stream: Mutex::new(None),
        }
    }

    /// Sends a message and returns the reply, both without the length prefix
    /// (draft-miller-ssh-agent, section 3). Concurrent messages take turns, as they do in the
    /// agent; each one's timeout starts with its turn.
    ///
    /// # Errors
    /// When the agent cannot be reached, does not reply in time, or breaks the framing.
    pub(super) fn exchange(&self, message: &[u8]) -> Result<Vec<u8>> {
        let frame = Writer::with_capacity(4 + message.len()).string(message);
        let mut stream = lock(&self.stream);
        let interrupted = |kind| Error::new(kind, "interrupted");
        if let Some(kind) = interrupt::received() {
            return Err(interrupted(kind));
        }
        let exchange = Exchange {
            path: self.path.clone(),
            timeout: self.timeout,
            frame: frame.finish(),
        };
        let (sender, receiver) = mpsc::channel();
        let deadline = Instant::now() + self.timeout;
        let kept = stream.take();
        aside(move || drop(sender.send(exchange.run(kept))));
        match interrupt::wait(&receiver, Some(deadline)) {
            Ok(result) => {
                let (kept, reply) = result?;
                *stream = Some(kept);
                Ok(reply)
            }
            Err(NoResult::Interrupted(kind)) => Err(interrupted(kind)),
            Err(NoResult::TimedOut | NoResult::Disconnected) => Err(timed_out(self.timeout)),
        }
    }
}

/// One message, exchanged on its own thread: nothing else can end the wait for an agent whose queue of
/// connections is full.
struct Exchange {
    path: PathBuf,
    timeout: Duration,
    frame: Zeroizing<Vec<u8>>,
}

impl Exchange {
    fn run(&self, kept: Option<UnixStream>) -> Result<(UnixStream, Vec<u8>)> {
        if let Some(mut stream) = kept {
            if let Some(reply) = self.reply(&mut stream)? {
                return Ok((stream, reply));
            }
            log::debug!("the agent has closed the connection; making a new one");
        }
        let mut stream = self.connect().map_err(|error| {
            let hint = "the agent may have exited or belong to another user: check with `ssh-add \
                        -l`, or start a new one with `eval \"$(ssh-agent)\"`";
            failed(format!("cannot connect to {}", self.path.display()), hint).caused_by(&error)
        })?;
        match self.reply(&mut stream)? {
            Some(reply) => Ok((stream, reply)),
            None => Err(self.broken(&ErrorKind::UnexpectedEof.into())),
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        // The standard library words the error for a path that is too long differently.
        SocketAddrUnix::new(&self.path)?;
        let stream = UnixStream::connect(&self.path)?;
        // Nobody waits for the reply after that, so the thread closes the connection.
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(stream)
    }

    /// The reply to the message; `None` when the agent closed the connection before sending any of it,
    /// so that a retry on a new connection gets one reply.
    fn reply(&self, stream: &mut UnixStream) -> Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        let begun = stream
            .write_all(&self.frame)
            .and_then(|()| stream.read_exact(&mut length[..1]));
        if begun.as_ref().is_err_and(is_closed) {
            return Ok(None);
        }
        begun
            .and_then(|()| stream.read_exact(&mut length[1..]))
            .map_err(|error| self.broken(&error))?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_MESSAGE {
            let why = format!(
                "the agent announced a reply of {length} bytes; the limit is {MAX_MESSAGE}"
            );
            return Err(failed(why, CHECK));
        }
        let mut reply = vec![0; length];
        let read = stream.read_exact(&mut reply);
        read.map_err(|error| self.broken(&error))?;
        Ok(Some(reply))
    }

    fn broken(&self, error: &io::Error) -> Error {
        match error.kind() {
            ErrorKind::WouldBlock => timed_out(self.timeout),
            _ if is_closed(error) => failed(
                "the agent closed the connection before its reply was complete",
                CHECK,
            ),
            _ => failed("the connection to the agent failed", CHECK).caused_by(error),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn timed_out(timeout: Duration) -> Error {
    let why = format!("the agent did not respond within {} s", timeout.as_secs());
    let hint = "the agent may be waiting for confirmation or a touch; allow more time with --timeout \
                SECONDS, or restart it";
    failed(why, hint)
}
