//! Requests and their answers over the agent's socket, each with a deadline, and at an end at once
//! when a signal arrives.

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

/// The longest message either way: what OpenSSH's agent takes (`AGENT_MAX_LEN`).
const MAX_MESSAGE: usize = 256 << 10;

/// How long a full queue of connections is left alone before it is tried again.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("nothing can be reached at {}", .path.display())]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the connection to the agent failed")]
    Broken(#[from] io::Error),
    #[error("the agent closed the connection before its answer was complete")]
    Closed,
    #[error("the agent announced an answer of {0} bytes, and none has more than {MAX_MESSAGE}")]
    TooLong(usize),
    #[error("the agent did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("stopped by a signal")]
    Interrupted(Kind),
}

/// The way to an agent: one connection, made when it is needed first and kept.
pub(super) struct Line {
    path: PathBuf,
    timeout: Duration,
    /// Nothing before the first message, and after one that failed: its answer may still come.
    stream: Mutex<Option<UnixStream>>,
}

impl Line {
    /// To the agent that listens at `path`, which may take `timeout` for each answer.
    pub(super) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self {
            path,
            timeout,
            stream: Mutex::new(None),
        }
    }

    /// Sends a message, and returns its answer; both without the length that goes in front
    /// (draft-miller-ssh-agent, section 3). Messages at the same time wait for each other, as they
    /// do in the agent; the time-out of each begins with its turn.
    ///
    /// # Errors
    /// When the agent cannot be reached, does not answer in time, or does not keep to the framing.
    pub(super) fn exchange(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let frame = Writer::with_capacity(4 + message.len()).string(message);
        let frame = frame.finish();
        let mut kept = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = Patience {
            timeout: self.timeout,
            deadline: Instant::now() + self.timeout,
        };
        if let Some(stream) = kept.take() {
            let mut connection = Connection { stream, patience };
            if let Some(answer) = connection.exchange(&frame)? {
                *kept = Some(connection.stream);
                return Ok(answer);
            }
            log::debug!("the agent has closed the connection; making a new one");
        }
        let mut connection = Connection {
            stream: connect(&self.path, &patience)?,
            patience,
        };
        let answer = connection.exchange(&frame)?.ok_or(Failure::Closed)?;
        *kept = Some(connection.stream);
        Ok(answer)
    }
}

/// How long a whole exchange may take.
#[derive(Clone, Copy)]
struct Patience {
    timeout: Duration,
    deadline: Instant,
}

impl Patience {
    /// The time that is left.
    fn left(&self) -> Result<Duration, Failure> {
        if let Some(kind) = interrupt::received() {
            return Err(Failure::Interrupted(kind));
        }
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(Failure::TimedOut(self.timeout)),
            left => Ok(left),
        }
    }
}

fn connect(path: &Path, patience: &Patience) -> Result<UnixStream, Failure> {
    let unreachable = |errno: Errno| Failure::Unreachable {
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

struct Connection {
    stream: UnixStream,
    patience: Patience,
}

impl Connection {
    /// The answer to a message in its frame; nothing when the agent closed the connection before
    /// any of it, so that whoever asks on a new one is answered once.
    fn exchange(&mut self, frame: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let mut length = [0; 4];
        let begun = self
            .send(frame)
            .and_then(|()| self.receive(&mut length[..1]));
        match begun {
            Err(Failure::Closed) => return Ok(None),
            begun => begun?,
        }
        self.receive(&mut length[1..])?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(Failure::TooLong(length));
        }
        let mut answer = vec![0; length];
        self.receive(&mut answer)?;
        Ok(Some(answer))
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let sent = self.when_ready(PollFlags::OUT, |stream| stream.write(bytes))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Fills the whole of `buffer`.
    fn receive(&mut self, mut buffer: &mut [u8]) -> Result<(), Failure> {
        while !buffer.is_empty() {
            match self.when_ready(PollFlags::IN, |stream| stream.read(buffer))? {
                0 => return Err(Failure::Closed),
                received => buffer = &mut buffer[received..],
            }
        }
        Ok(())
    }

    /// Tries `step` until it neither waits nor is disturbed.
    fn when_ready(
        &mut self,
        flags: PollFlags,
        mut step: impl FnMut(&mut UnixStream) -> io::Result<usize>,
    ) -> Result<usize, Failure> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, Interrupted, WouldBlock};
        loop {
            self.wait(flags)?;
            match step(&mut self.stream) {
                Ok(count) => return Ok(count),
                Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => {}
                Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => {
                    return Err(Failure::Closed);
                }
                Err(error) => return Err(Failure::Broken(error)),
            }
        }
    }

    /// Waits for the socket, and for signals at once.
    fn wait(&self, flags: PollFlags) -> Result<(), Failure> {
        loop {
            let left = self.patience.left()?;
            // More than this system can express is as good as no limit at all.
            let left = Timespec::try_from(left).ok();
            let mut fds = vec![PollFd::new(&self.stream, flags)];
            let wake = interrupt::wake_fd();
            if let Some(wake) = &wake {
                fds.push(PollFd::new(wake, PollFlags::IN));
            }
            match poll(&mut fds, left.as_ref()) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Failure::Broken(errno.into())),
            }
        }
    }
}
