//! Reads a file, a FIFO or stdin to its end, up to a limit, and stops at a signal: whoever should
//! write may never do so.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use crate::{error::Kind, interrupt, parallel};

/// Why there is no input.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    #[error("nothing came within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("stopped by a signal")]
    Interrupted(Kind),
}

/// Whether a path is another name of stdin.
pub fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"]
        .into_iter()
        .any(|name| path == Path::new(name))
}

/// stdin without the buffer of [`io::stdin`], which keeps what went through it until the process
/// ends.
///
/// # Errors
/// When it is not open.
pub fn stdin() -> io::Result<File> {
    Ok(rustix::stdio::stdin().try_clone_to_owned()?.into())
}

/// Opens an input and reads all of it, which is wiped from memory when it goes. `open` may block;
/// without a thread to spare, a signal then has to come twice.
///
/// # Errors
/// When it cannot be read, is longer than `limit` bytes, has not come to its end within the time it
/// is given, or a signal arrives.
pub fn read_to_end<R: Read>(
    open: impl FnOnce() -> io::Result<R> + Send + 'static,
    limit: usize,
    within: Option<Duration>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (sender, receiver) = mpsc::channel();
    let begun = Instant::now();
    let read = move || {
        let mut bytes = Zeroizing::new(Vec::with_capacity(limit.min(64 << 10) + 1));
        open()?
            .take(limit as u64 + 1)
            .read_to_end(&mut bytes)
            .map(|_| bytes)
    };
    // Left behind when a signal or the time limit comes first: nothing ends a blocked `open` from
    // outside, and then nobody receives the result.
    parallel::aside(move || drop(sender.send(read())));
    loop {
        match receiver.recv_timeout(interrupt::POLL_INTERVAL) {
            Ok(Ok(bytes)) if bytes.len() > limit => return Err(Error::TooLong(limit)),
            Ok(result) => return Ok(result?),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(kind) = interrupt::received() {
                    return Err(Error::Interrupted(kind));
                }
                if let Some(within) = within.filter(|within| begun.elapsed() > *within) {
                    return Err(Error::TimedOut(within));
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the reading ended without a result").into());
            }
        }
    }
}
