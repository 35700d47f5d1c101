//! Reads a file, a FIFO or stdin to its end, up to a limit. A signal stops the read, since a FIFO may
//! never get a writer.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use crate::{
    error::Kind,
    interrupt::{self, NoResult},
    parallel,
};

/// Why input could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("longer than {0} bytes")]
    TooLong(usize),
    #[error("no end of input within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("interrupted by a signal")]
    Interrupted(Kind),
}

/// Whether a path is another name of stdin.
pub fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"]
        .into_iter()
        .any(|name| path == Path::new(name))
}

/// stdin without the buffer of [`io::stdin`], which keeps its contents until the process ends.
///
/// # Errors
/// If it is closed.
pub fn stdin() -> io::Result<File> {
    Ok(rustix::stdio::stdin().try_clone_to_owned()?.into())
}

/// Opens an input and reads all of it; the result is wiped from memory when dropped. `open` may block:
/// if no thread can be started, only a second signal ends it.
///
/// # Errors
/// If it cannot be read, is longer than `limit` bytes, does not end within the time limit, or a signal
/// arrives.
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
    // Abandoned if a signal or the time limit comes first: nothing can cancel a blocked `open`.
    parallel::aside(move || drop(sender.send(read())));
    let deadline = within.map(|within| begun + within);
    match (interrupt::wait(&receiver, deadline), within) {
        (Ok(Ok(bytes)), _) if bytes.len() > limit => Err(Error::TooLong(limit)),
        (Ok(result), _) => Ok(result?),
        (Err(NoResult::Interrupted(kind)), _) => Err(Error::Interrupted(kind)),
        (Err(NoResult::TimedOut), Some(within)) => Err(Error::TimedOut(within)),
        (Err(NoResult::TimedOut | NoResult::Disconnected), _) => {
            Err(io::Error::other("the reader ended without a result").into())
        }
    }
}
