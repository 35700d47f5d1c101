//! Passphrases and PINs: where they come from and how they are kept in memory.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    env, fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::Mutex,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd},
    termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr},
};
use zeroize::Zeroizing;

use crate::{
    error::Kind,
    input, interrupt,
    parallel::lock,
    private_file,
    redact::redact,
    subprocess::{self, Command, Failure},
    terminal::Terminal,
    text::{self, printable},
};

/// The longest passphrase, in bytes; anything longer comes from the wrong file.
const LIMIT: usize = 16 << 10;

/// Bytes that are wiped on drop and never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret comes from without a prompt. An empty value counts as a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file with one line.
    File(PathBuf),
    /// An open file descriptor, read to its end.
    Fd(u32),
    /// A shell command that prints one line.
    Command(String),
}

impl SecretSource {
    /// Whether it reads stdin, which can be read only once.
    pub fn reads_stdin(&self) -> bool {
        match self {
            Self::Fd(number) => *number == 0,
            Self::File(path) => input::is_stdin(path),
            Self::Env(_) | Self::Command(_) => false,
        }
    }
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the environment variable {0} is not set")]
    EnvNotSet(String),
    #[error("cannot read {what}")]
    Unreadable { what: String, source: io::Error },
    #[error("{what} has more than one line")]
    SeveralLines { what: String },
    #[error("{what} is too long")]
    TooLong { what: String },
    #[error("{what} contains a NUL byte")]
    Nul { what: String },
    #[error("{what} begins with the byte-order mark of UTF-16, but is not valid UTF-16")]
    NotUtf16 { what: String },
    #[error("the command for {what} failed")]
    Command { what: String, source: Failure },
    #[error("{what} is needed, but --no-input forbids prompting")]
    NoInput { what: String },
    #[error("{what} is needed, and there is no terminal to prompt on")]
    NoTerminal { what: String },
    #[error("no input for {what}")]
    NothingTyped { what: String },
    #[error("Passphrases do not match.")]
    Differ,
    #[error("interrupted")]
    Interrupted(Kind),
}

/// Whether prompting is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    Allowed,
    Never,
}

/// A file descriptor inherited from the caller.
enum Descriptor {
    Open(OwnedFd),
    /// It can be read only once; several keys may share it.
    Read(Secret),
}

/// Reads secrets, with one prompt at a time.
pub struct Asker {
    asking: Asking,
    timeout: Duration,
    descriptors: Mutex<BTreeMap<u32, Descriptor>>,
    terminal: Mutex<()>,
    /// Its progress bar is hidden during prompts.
    stderr: Option<Terminal>,
}

impl Asker {
    /// `asking` reflects `--no-input`; `timeout` applies to each source of a secret.
    pub fn new(asking: Asking, timeout: Duration) -> Self {
        Self {
            asking,
            timeout,
            descriptors: Mutex::default(),
            terminal: Mutex::default(),
            stderr: None,
        }
    }

    /// Hides the progress bar of `terminal` during prompts.
    pub fn prompting_on(mut self, terminal: Terminal) -> Self {
        self.stderr = Some(terminal);
        self
    }

    /// Keeps the descriptor or variable that `source` names from child processes.
    pub fn withhold(&self, source: &SecretSource) {
        match source {
            SecretSource::Env(name) => subprocess::withhold(name),
            SecretSource::Fd(number) => {
                let mut descriptors = lock(&self.descriptors);
                // A closed descriptor is an error only when it is needed.
                if let (Entry::Vacant(entry), Ok(fd)) =
                    (descriptors.entry(*number), take_over(*number))
                {
                    entry.insert(Descriptor::Open(fd));
                }
            }
            SecretSource::File(_) | SecretSource::Command(_) => {}
        }
    }

    fn read_line<R: Read>(
        &self,
        open: impl FnOnce() -> io::Result<R> + Send + 'static,
        what: String,
    ) -> Result<Secret, Error> {
        match input::read_to_end(open, LIMIT, Some(self.timeout)) {
            Ok(bytes) => one_line(bytes, what),
            Err(input::Error::Interrupted(kind)) => Err(Error::Interrupted(kind)),
            Err(input::Error::TooLong(_)) => Err(Error::TooLong { what }),
            Err(input::Error::Unreadable(source)) => Err(Error::Unreadable { what, source }),
            Err(error @ input::Error::TimedOut(_)) => Err(Error::Unreadable {
                what,
                source: io::Error::new(io::ErrorKind::TimedOut, error),
            }),
        }
    }

    /// Reads a secret from `source`. `what` names it in errors, as in "the passphrase of a.pem".
    ///
    /// # Errors
    /// When it cannot be read, or is not one line.
    pub fn read(&self, source: &SecretSource, what: &str) -> Result<Secret, Error> {
        match source {
            SecretSource::Env(name) => {
                let value = env::var_os(name).ok_or_else(|| Error::EnvNotSet(name.clone()))?;
                let value = Zeroizing::new(value.into_encoded_bytes());
                one_line(value, format!("{what} in the environment variable {name}"))
            }
            SecretSource::File(path) => {
                if let Ok(metadata) = path.metadata() {
                    private_file::warn_if_readable_by_others(path, &metadata);
                }
                let file = path.clone();
                let what = format!("{what} in {}", path.display());
                self.read_line(move || File::open(file), what)
            }
            SecretSource::Fd(number) => {
                let what = format!("{what} from file descriptor {number}");
                let mut descriptors = lock(&self.descriptors);
                let fd = match descriptors.get(number) {
                    Some(Descriptor::Read(secret)) => return Ok(secret.clone()),
                    Some(Descriptor::Open(fd)) => fd.try_clone(),
                    None => Err(Errno::BADF.into()),
                };
                let secret = self.read_line(move || Ok(File::from(fd?)), what)?;
                descriptors.insert(*number, Descriptor::Read(secret.clone()));
                Ok(secret)
            }
            SecretSource::Command(command) => {
                let output = Command::new("/bin/sh", self.timeout)
                    .args(["-c", command.as_str()])
                    .secret_stdout()
                    .run();
                let output = output.map_err(|failure| match failure {
                    Failure::Interrupted(kind) => Error::Interrupted(kind),
                    source => {
                        let what = what.to_owned();
                        Error::Command { what, source }
                    }
                })?;
                let stdout = Zeroizing::new(output.stdout);
                one_line(stdout, format!("{what} from the command"))
            }
        }
    }

    /// Prompts on the terminal; `what` names the secret, as in "the passphrase of a.pem".
    ///
    /// # Errors
    /// When prompting is not possible.
    pub fn ask(&self, what: &str) -> Result<Secret, Error> {
        self.may_ask(what)?;
        let what = what.to_owned();
        let _one_at_a_time = lock(&self.terminal);
        if let Some(kind) = interrupt::received() {
            return Err(Error::Interrupted(kind));
        }
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
        let Ok(mut terminal) = terminal else {
            return Err(Error::NoTerminal { what });
        };
        let _hidden = self.stderr.as_ref().map(Terminal::hide_progress);
        let _quiet = Quiet::new(&terminal).map_err(unreadable)?;
        let shown = printable(&text::message(&redact(&what)));
        write!(terminal, "Enter {shown}: ").map_err(unreadable)?;
        read_typed_line(&mut terminal, what).inspect_err(|_| {
            // The prompt's line is still open; a terminal that is gone does not matter.
            let _ = writeln!(terminal);
        })
    }

    /// Checks whether prompting for `what` is allowed, here or on a separate device.
    ///
    /// # Errors
    /// When that is switched off.
    pub fn may_ask(&self, what: &str) -> Result<(), Error> {
        let what = what.to_owned();
        match self.asking {
            Asking::Allowed => Ok(()),
            Asking::Never => Err(Error::NoInput { what }),
        }
    }

    /// Prompts twice for a new secret.
    ///
    /// # Errors
    /// As [`Asker::ask`], and when the two differ.
    pub fn ask_for_new(&self, what: &str) -> Result<Secret, Error> {
        let first = self.ask(&format!("a new {what}"))?;
        let second = self.ask(&format!("the new {what} again"))?;
        if first.as_bytes() == second.as_bytes() {
            Ok(first)
        } else {
            Err(Error::Differ)
        }
    }
}

/// Takes over an inherited descriptor without reopening it: opening /dev/fd/N would start a file from
/// the beginning, and fail for a socket. Child processes no longer inherit it.
fn take_over(number: u32) -> io::Result<OwnedFd> {
    let number = i32::try_from(number).map_err(|_| Errno::BADF)?;
    #[allow(unsafe_code)]
    // SAFETY: it is borrowed only for these calls, which fail if it is not open.
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    // This program's own descriptors are close-on-exec; inherited ones are not.
    if fcntl_getfd(given)?.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF.into());
    }
    let own = given.try_clone_to_owned()?;
    fcntl_setfd(given, FdFlags::CLOEXEC)?;
    Ok(own)
}

/// The secret in a program's output: without a byte-order mark and one line ending, and converted from
/// UTF-16, which PowerShell writes.
fn one_line(bytes: Zeroizing<Vec<u8>>, what: String) -> Result<Secret, Error> {
    if bytes.len() > LIMIT {
        return Err(Error::TooLong { what });
    }
    let decoded = match &bytes[..] {
        [0xff, 0xfe, text @ ..] => utf8(text, u16::from_le_bytes),
        [0xfe, 0xff, text @ ..] => utf8(text, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, text @ ..] => Some(Zeroizing::new(text.to_vec())),
        _ => Some(bytes),
    };
    let Some(mut bytes) = decoded else {
        return Err(Error::NotUtf16 { what });
    };
    // A shell's $(…) leaves the carriage return.
    for ending in [b'\n', b'\r'] {
        if bytes.last() == Some(&ending) {
            bytes.pop();
        }
    }
    if bytes.contains(&0) {
        return Err(Error::Nul { what });
    }
    if bytes.contains(&b'\n') {
        Err(Error::SeveralLines { what })
    } else {
        Ok(Secret(bytes))
    }
}

/// Converts UTF-16 to UTF-8, with all memory reserved first so that growing leaves no copy.
fn utf8(utf16: &[u8], unit: fn([u8; 2]) -> u16) -> Option<Zeroizing<Vec<u8>>> {
    let (pairs, rest) = utf16.as_chunks();
    let mut text = Zeroizing::new(Vec::with_capacity(2 * utf16.len()));
    for c in char::decode_utf16(pairs.iter().map(|&pair| unit(pair))) {
        let mut encoded = Zeroizing::new([0; 4]);
        text.extend_from_slice(c.ok()?.encode_utf8(&mut *encoded).as_bytes());
    }
    rest.is_empty().then_some(text)
}

/// The error of the terminal itself.
fn unreadable(source: io::Error) -> Error {
    let what = "the terminal".to_owned();
    Error::Unreadable { what, source }
}

/// Waits for a line or a signal.
fn read_typed_line(terminal: &mut File, what: String) -> Result<Secret, Error> {
    let mut line = Zeroizing::new(Vec::with_capacity(LIMIT));
    loop {
        if let Some(kind) = interrupt::received() {
            return Err(Error::Interrupted(kind));
        }
        let mut fds = vec![PollFd::new(terminal, PollFlags::IN)];
        let wake = interrupt::wake_fd();
        if let Some(wake) = &wake {
            fds.push(PollFd::new(wake, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) if fds[0].revents().is_empty() => continue,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(unreadable(errno.into())),
        }
        let mut chunk = Zeroizing::new([0; 256]);
        let n = terminal.read(chunk.as_mut_slice()).map_err(unreadable)?;
        line.extend_from_slice(&chunk[..n]);
        if line.last() == Some(&b'\n') {
            line.pop();
            return Ok(Secret(line));
        }
        if n == 0 {
            return Err(Error::NothingTyped { what });
        }
        if line.len() > LIMIT {
            return Err(Error::TooLong { what });
        }
    }
}

/// Turns echo off until dropped, or until a signal ends the process.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: &File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let quiet = Self {
            terminal: terminal.try_clone()?,
            before: before.clone(),
        };
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // Both would leave the echo off; 0 is _POSIX_VDISABLE.
        silent.special_codes[SpecialCodeIndex::VSUSP] = 0;
        silent.special_codes[SpecialCodeIndex::VQUIT] = 0;
        // Echoes the newline, so that the user sees that the line was read.
        silent
            .local_modes
            .insert(LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        let for_signals = terminal.try_clone()?;
        interrupt::on_end(Some(Box::new(move || {
            let _ = tcsetattr(for_signals.as_fd(), OptionalActions::Now, &before);
        })));
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(quiet)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
        interrupt::on_end(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: impl AsRef<[u8]>) -> Result<Vec<u8>, String> {
        one_line(text.as_ref().to_vec().into(), "it".to_owned())
            .map(|secret| secret.as_bytes().to_vec())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_ending_is_stripped() {
        assert_eq!(line("").unwrap(), b"");
        assert_eq!(line("\n").unwrap(), b"");
        assert_eq!(line(" a b \r\n").unwrap(), b" a b ");
        assert_eq!(line("a\r").unwrap(), b"a");
        assert_eq!(line("a").unwrap(), b"a");
        assert_eq!(line("a\n\n").unwrap_err(), "it has more than one line");
        let long = "x".repeat(LIMIT + 1);
        assert_eq!(line(&long).unwrap_err(), "it is too long");
    }

    #[test]
    fn byte_order_marks() {
        let utf16 = |text: &str, unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(unit).collect()
        };
        for (bytes, secret) in [
            (b"\xef\xbb\xbf1234\r\n".to_vec(), "1234"),
            ("\u{feff}".into(), ""),
            (utf16("\u{feff}1234\r\n", u16::to_le_bytes), "1234"),
            (
                utf16("\u{feff}Sch\u{fc}ssel \u{1f511}", u16::to_le_bytes),
                "Sch\u{fc}ssel \u{1f511}",
            ),
            (utf16("\u{feff}1234\n", u16::to_be_bytes), "1234"),
            (utf16("\u{feff}", u16::to_be_bytes), ""),
            (b"\xff".to_vec(), "\u{fffd}"),
        ] {
            let read = line(&bytes).unwrap();
            assert_eq!(String::from_utf8_lossy(&read), secret, "{bytes:?}");
        }
        for (bytes, why) in [
            (utf16("1234", u16::to_le_bytes), "it contains a NUL byte"),
            (b"\xff\xfe\0\x001\0\0\0".to_vec(), "it contains a NUL byte"),
            (
                b"\xff\xfe1\x002".to_vec(),
                "it begins with the byte-order mark of UTF-16, but is not valid UTF-16",
            ),
            (
                b"\xfe\xff\xd8\x3d".to_vec(),
                "it begins with the byte-order mark of UTF-16, but is not valid UTF-16",
            ),
            (
                utf16("\u{feff}1\r\n2", u16::to_le_bytes),
                "it has more than one line",
            ),
        ] {
            assert_eq!(line(&bytes).unwrap_err(), why, "{bytes:?}");
        }
    }

    #[test]
    fn debug_hides_secret() {
        let secret = one_line(b"hunter2".to_vec().into(), "it".to_owned()).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn no_input_forbids_prompting() {
        let asker = Asker::new(Asking::Never, Duration::from_secs(1));
        let error = asker.ask("the passphrase of a.pem");
        assert_eq!(
            error.unwrap_err().to_string(),
            "the passphrase of a.pem is needed, but --no-input forbids prompting"
        );
    }
}
