//! Requests and replies over the agent's socket. Each exchange has a deadline, and a signal ends it
//! at once.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, FdFlags, fcntl_setfd},
    net::{self, AddressFamily, SocketAddrUnix, SocketType},
};

use crate::{encoding::ssh_wire::Writer, error::Kind, interrupt};

/// The longest message in either direction: what OpenSSH's agent takes (`AGENT_MAX_LEN`).
const MAX_MESSAGE: usize = 256 << 10;

/// The wait between attempts to connect while the agent's queue is full.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("cannot connect to {}", .path.display())]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the connection to the agent failed")]
    Broken(#[from] io::Error),
    #[error("the agent closed the connection before its reply was complete")]
    Closed,
    #[error("the agent announced a reply of {0} bytes; the limit is {MAX_MESSAGE}")]
    TooLong(usize),
    #[error("the agent did not respond within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("interrupted")]
    Interrupted(Kind),
}

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
    pub(super) fn exchange(&self, message: &[u8]) -> Result<Vec<u8>, ConnectionError> {
        let frame = Writer::with_capacity(4 + message.len()).string(message);
        let frame = frame.finish();
        let mut kept = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = Patience {
            timeout: self.timeout,
            deadline: Instant::now() + self.timeout,
        };
        if let Some(stream) = kept.take() {
            let mut exchange = Exchange { stream, patience };
            if let Some(reply) = exchange.run(&frame)? {
                *kept = Some(exchange.stream);
                return Ok(reply);
            }
            log::debug!("the agent has closed the connection; making a new one");
        }
        let mut exchange = Exchange {
            stream: connect(&self.path, &patience)?,
            patience,
        };
        let reply = exchange.run(&frame)?.ok_or(ConnectionError::Closed)?;
        *kept = Some(exchange.stream);
        Ok(reply)
    }
}

/// The deadline of a whole exchange.
#[derive(Clone, Copy)]
struct Patience {
    timeout: Duration,
    deadline: Instant,
}

impl Patience {
    /// The time left.
    fn left(&self) -> Result<Duration, ConnectionError> {
        if let Some(kind) = interrupt::received() {
            return Err(ConnectionError::Interrupted(kind));
        }
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ConnectionError::TimedOut(self.timeout)),
            left => Ok(left),
        }
    }
}

fn connect(path: &Path, patience: &Patience) -> Result<UnixStream, ConnectionError> {
    let unreachable = |errno: Errno| ConnectionError::Unreachable {
        path: path.to_owned(),
        source: errno.into(),
    };
    let address = SocketAddrUnix::new(path).map_err(unreachable)?;
    // The standard library's connect would wait without a deadline when the agent's queue of
    // connections is full.
    let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).map_err(unreachable)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(unreachable)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    loop {
        match net::connect(&stream, &address) {
            Ok(()) => return Ok(stream),
            Err(Errno::AGAIN) => thread::sleep(patience.left()?.min(QUEUE_PAUSE)),
            Err(Errno::INTR) => {
                patience.left()?;
            }
            Err(errno) => return Err(unreachable(errno)),
        }
    }
}

struct Exchange {
    stream: UnixStream,
    patience: Patience,
}

impl Exchange {
    /// The reply to a framed message; `None` when the agent closed the connection before sending any
    /// of it, so that a retry on a new connection gets one reply.
    fn run(&mut self, frame: &[u8]) -> Result<Option<Vec<u8>>, ConnectionError> {
        let mut length = [0; 4];
        let begun = self
            .send(frame)
            .and_then(|()| self.receive(&mut length[..1]));
        match begun {
            Err(ConnectionError::Closed) => return Ok(None),
            begun => begun?,
        }
        self.receive(&mut length[1..])?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(ConnectionError::TooLong(length));
        }
        let mut reply = vec![0; length];
        self.receive(&mut reply)?;
        Ok(Some(reply))
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), ConnectionError> {
        while !bytes.is_empty() {
            let sent = self.when_ready(PollFlags::OUT, |stream| stream.write(bytes))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Fills the whole of `buffer`.
    fn receive(&mut self, mut buffer: &mut [u8]) -> Result<(), ConnectionError> {
        while !buffer.is_empty() {
            match self.when_ready(PollFlags::IN, |stream| stream.read(buffer))? {
                0 => return Err(ConnectionError::Closed),
                received => buffer = &mut buffer[received..],
            }
        }
        Ok(())
    }

    /// Retries `step` until it neither blocks nor is interrupted.
    fn when_ready(
        &mut self,
        flags: PollFlags,
        mut step: impl FnMut(&mut UnixStream) -> io::Result<usize>,
    ) -> Result<usize, ConnectionError> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, Interrupted, WouldBlock};
        loop {
            self.wait(flags)?;
            match step(&mut self.stream) {
                Ok(count) => return Ok(count),
                Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => {}
                Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => {
                    return Err(ConnectionError::Closed);
                }
                Err(error) => return Err(ConnectionError::Broken(error)),
            }
        }
    }

    /// Waits for the socket and for signals.
    fn wait(&self, flags: PollFlags) -> Result<(), ConnectionError> {
        loop {
            let left = self.patience.left()?;
            // A timeout beyond what this system can express is no limit.
            let left = Timespec::try_from(left).ok();
            let mut fds = vec![PollFd::new(&self.stream, flags)];
            let wake = interrupt::wake_fd();
            if let Some(wake) = &wake {
                fds.push(PollFd::new(wake, PollFlags::IN));
            }
            match poll(&mut fds, left.as_ref()) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(ConnectionError::Broken(errno.into())),
            }
        }
    }
}
