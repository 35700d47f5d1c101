//! The only place that starts a program.
//!
//! A child gets its own process group, a deadline, and a cap on its output. Its exit status takes
//! precedence over a broken stdin pipe. Each kind of failure is a variant with the end of the child's output.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fmt,
    io::{self, PipeReader, Read as _, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{self, ExitStatus},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, setsid};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    error::Kind,
    interrupt,
    parallel::lock,
    redact::HIDDEN,
    text::{quote, quote_path, size},
};

/// The default cap on stdout, in bytes. No signer comes near it.
const STDOUT_LIMIT: usize = 1 << 20;
const STDERR_LIMIT: usize = 64 << 10;

/// The maximum length of a secret on stdin, in bytes: with its newline, it fits the smallest pipe.
pub const SECRET_LIMIT: usize = 4095;

/// How long to wait for a grandchild that holds a pipe after the child has exited.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// How long a killed child may take to be reaped.
const REAP_GRACE: Duration = Duration::from_secs(2);

/// How much of a child's output an error shows, in characters.
const EXCERPT: usize = 2_000;

/// A program to run, with its arguments, environment and input.
#[derive(Clone)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    secret_line: Option<Zeroizing<Vec<u8>>>,
    secret_stdout: bool,
    stdout_limit: usize,
    terminal: bool,
    timeout: Duration,
}

/// What a program wrote.
#[derive(Clone, Debug, Default)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    /// stderr, or stdout if stderr is empty.
    fn loudest(&self) -> &[u8] {
        match self.stderr.trim_ascii() {
            b"" => &self.stdout,
            stderr => stderr,
        }
    }
}

/// How a program fails.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("`{program}` was not found")]
    NotFound { program: String },
    #[error("`{program}` is not executable")]
    NotExecutable { program: String },
    #[error("`{program}` could not be run")]
    CouldNotRun { program: String, source: io::Error },
    /// It ran, or may still be running.
    #[error("`{program}` was started, but its exit status cannot be read")]
    NoStatus { program: String, source: io::Error },
    #[error("`{program}` did not finish within {} s and was killed{}", .after.as_secs(), Words(.words))]
    TimedOut {
        program: String,
        after: Duration,
        words: String,
    },
    #[error("`{program}` was killed by signal {signal}{}", Words(.words))]
    Killed {
        program: String,
        signal: i32,
        words: String,
    },
    #[error("`{program}` exited with {code}{}", Words(&excerpt_end(.output.loudest())))]
    Exited {
        program: String,
        code: i32,
        output: Output,
    },
    #[error("`{program}` wrote more than {} and was killed", size(*.limit))]
    TooMuchOutput { program: String, limit: usize },
    #[error("unexpected reply from `{program}` instead of {expected}: {excerpt}")]
    UnparsableReply {
        program: String,
        expected: String,
        excerpt: String,
    },
    #[error("interrupted")]
    Interrupted(Kind),
}

impl Failure {
    /// What the program itself said, to be classified; empty if it said nothing.
    pub fn words(&self) -> Cow<'_, str> {
        match self {
            Failure::Exited { output, .. } => String::from_utf8_lossy(output.loudest()),
            Failure::TimedOut { words, .. } | Failure::Killed { words, .. } => words.into(),
            _ => Cow::default(),
        }
    }
}

static WITHHELD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Removes a variable that holds a secret from the environment of every program started from now on.
pub fn withhold(variable: &str) {
    lock(&WITHHELD).insert(variable.to_owned());
}

/// Finds a program: a path as it is, a bare name on PATH.
///
/// # Errors
/// [`Failure::NotFound`], [`Failure::NotExecutable`], or [`Failure::CouldNotRun`] for a directory.
pub fn find(program: &OsStr) -> Result<PathBuf, Failure> {
    which::which(program).map_err(|_| {
        let path = Path::new(program);
        let program = quote_path(path);
        if !program.contains('/') || !path.exists() {
            return Failure::NotFound { program };
        }
        if path.is_dir() {
            let source = io::ErrorKind::IsADirectory.into();
            Failure::CouldNotRun { program, source }
        } else {
            Failure::NotExecutable { program }
        }
    })
}

impl Command {
    /// `timeout` limits the whole run.
    pub fn new(program: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: None,
            secret_line: None,
            secret_stdout: false,
            stdout_limit: STDOUT_LIMIT,
            terminal: true,
            timeout,
        }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds to the user's environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// By default, stdin is empty.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Passes a secret and a newline on stdin. It is wiped from memory when this is dropped.
    ///
    /// # Panics
    /// When it is longer than [`SECRET_LIMIT`].
    pub fn secret_line(mut self, secret: &[u8]) -> Self {
        assert!(secret.len() <= SECRET_LIMIT, "the secret is too long");
        let mut line = Zeroizing::new(Vec::with_capacity(SECRET_LIMIT + 1));
        line.extend_from_slice(secret);
        line.push(b'\n');
        self.secret_line = Some(line);
        self
    }

    /// Detaches it from the terminal: a program that prompts there fails at once, instead of being
    /// stopped as a background job until the timeout.
    pub fn without_terminal(mut self) -> Self {
        self.terminal = false;
        self
    }

    /// Its stdout is secret: no error shows any of it.
    pub fn secret_stdout(mut self) -> Self {
        self.secret_stdout = true;
        self
    }

    /// The maximum size of stdout, in bytes.
    pub fn stdout_limit(mut self, limit: usize) -> Self {
        self.stdout_limit = limit;
        self
    }

    fn name(&self) -> String {
        quote_path(&self.program)
    }

    /// Runs the program to completion.
    ///
    /// # Errors
    /// Every [`Failure`] except `UnparsableReply`.
    pub fn run(&self) -> Result<Output, Failure> {
        if let Some(kind) = interrupt::received() {
            return Err(Failure::Interrupted(kind));
        }
        log::debug!("running {self}");
        let started = Instant::now();
        let result = self.run_to_end(started + self.timeout);
        log::debug!("{} took {} ms", self.name(), started.elapsed().as_millis());
        match (result, interrupt::received()) {
            (Err(_), Some(kind)) => Err(Failure::Interrupted(kind)),
            (result, _) => result,
        }
    }

    fn run_to_end(&self, deadline: Instant) -> Result<Output, Failure> {
        let could_not_run = |source: io::Error| {
            let program = self.name();
            match source.kind() {
                io::ErrorKind::NotFound if self.program.exists() => {
                    let why = "the interpreter that its first line names was not found";
                    let source = io::Error::other(why);
                    Failure::CouldNotRun { program, source }
                }
                io::ErrorKind::NotFound => Failure::NotFound { program },
                io::ErrorKind::PermissionDenied => Failure::NotExecutable { program },
                _ => Failure::CouldNotRun { program, source },
            }
        };
        let (stdout, stdout_writer) = io::pipe().map_err(could_not_run)?;
        let (stderr, stderr_writer) = io::pipe().map_err(could_not_run)?;
        let mut expression = duct::cmd(&self.program, &self.args)
            .stdout_file(stdout_writer)
            .stderr_file(stderr_writer)
            .unchecked()
            .before_spawn(if self.terminal {
                in_own_group
            } else {
                in_own_session
            });
        for name in lock(&WITHHELD).iter() {
            expression = expression.env_remove(name);
        }
        for (name, value) in &self.env {
            expression = expression.env(name, value);
        }
        let input = match (&self.secret_line, &self.stdin) {
            (Some(line), _) => Some(filled_pipe(line)),
            (None, Some(bytes)) => Some(fed_pipe(bytes)),
            (None, None) => None,
        };
        expression = match input.transpose().map_err(could_not_run)? {
            Some(pipe) => expression.stdin_file(pipe),
            None => expression.stdin_null(),
        };
        let group = Arc::new(Mutex::new(None::<interrupt::Group>));
        let kill = {
            let group = group.clone();
            move || {
                if let Some(group) = &*lock(&group) {
                    group.kill();
                }
            }
        };
        // Before the program starts: if there is no thread, it must not run at all.
        let stop: Stop = Box::new(kill.clone());
        let stdout = Drain::start(stdout, self.stdout_limit, Some(stop)).map_err(could_not_run)?;
        let stderr = Drain::start(stderr, STDERR_LIMIT, None).map_err(could_not_run)?;
        let handle = expression.start().map_err(could_not_run)?;
        // Our own write ends would keep the pipes open.
        drop(expression);
        let leader = handle.pids().first().copied();
        let leader = leader.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        *lock(&group) = leader.map(interrupt::Group::register);
        if lock(&stdout.read).overflowed {
            kill();
        }

        let status = handle
            .wait_deadline(deadline)
            .map_err(|source| Failure::NoStatus {
                program: self.name(),
                source,
            })?
            .map(|output| output.status);
        if status.is_none() {
            kill();
            let _ = handle.wait_timeout(REAP_GRACE);
        }
        let grace = Instant::now() + DRAIN_GRACE;
        let (stdout, stderr) = (stdout.finish(grace), stderr.finish(grace));
        if stdout.overflowed {
            return Err(Failure::TooMuchOutput {
                program: self.name(),
                limit: self.stdout_limit,
            });
        }
        let (stdout, stderr) = (stdout.bytes, stderr.bytes);
        self.outcome(status, Output { stdout, stderr })
    }

    fn outcome(&self, status: Option<ExitStatus>, mut output: Output) -> Result<Output, Failure> {
        let program = self.name();
        if self.secret_stdout && !status.is_some_and(|status| status.success()) {
            output.stdout.zeroize();
        }
        let words = || excerpt_end(&output.stderr);
        let Some(status) = status else {
            return Err(Failure::TimedOut {
                program,
                after: self.timeout,
                words: words(),
            });
        };
        match status.code() {
            Some(0) => Ok(output),
            Some(code) => Err(Failure::Exited {
                program,
                code,
                output,
            }),
            None => Err(Failure::Killed {
                program,
                signal: status.signal().unwrap_or_default(),
                words: words(),
            }),
        }
    }
}

fn in_own_group(command: &mut process::Command) -> io::Result<()> {
    command.process_group(0);
    Ok(())
}

/// A new session is also a new process group with the same leader, but has no terminal.
fn in_own_session(command: &mut process::Command) -> io::Result<()> {
    // SAFETY: only setsid(2) runs between fork and exec.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| Ok(setsid().map(drop)?))
    };
    Ok(())
}

/// A pipe that holds all of the input. A writer thread would keep a copy that nobody wipes.
fn filled_pipe(bytes: &[u8]) -> io::Result<PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(bytes)?;
    Ok(reader)
}

/// A pipe that a thread fills.
fn fed_pipe(bytes: &[u8]) -> io::Result<PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    let bytes = bytes.to_vec();
    // A program may exit without reading everything.
    thread::Builder::new().spawn(move || drop(writer.write_all(&bytes)))?;
    Ok(reader)
}

/// The command line as a user would type it, without stdin and the environment. If stdout is secret, the
/// arguments may be as well, and are hidden.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if self.secret_stdout {
            return write!(f, " {HIDDEN}");
        }
        for arg in &self.args {
            write!(f, " {}", quote(&arg.to_string_lossy()))?;
        }
        Ok(())
    }
}

/// The beginning of a reply for an error: one line without control characters.
pub fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 120;
    let text: String = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let text = text.trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None if text.is_empty() => "(nothing)".to_owned(),
        None => text.to_owned(),
    }
}

/// The end of a program's output, where the reason usually is.
pub fn excerpt_end(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii_end();
    let end = &bytes[bytes.len().saturating_sub(4 * (EXCERPT + 1))..];
    let text = String::from_utf8_lossy(end);
    let text = text.trim();
    match text.char_indices().rev().nth(EXCERPT) {
        Some((start, _)) => format!("…{}", &text[start..]),
        None => text.to_owned(),
    }
}

/// `: ` and the words, if any.
struct Words<'a>(&'a str);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            words => write!(f, ": {words}"),
        }
    }
}

/// Reads a pipe to its end on its own thread.
struct Drain {
    read: Arc<Mutex<Read>>,
    done: mpsc::Receiver<()>,
}

/// What was read, and whether there was more than the limit.
#[derive(Default)]
struct Read {
    bytes: Vec<u8>,
    overflowed: bool,
}

type Stop = Box<dyn Fn() + Send>;

impl Drain {
    /// Reads to the end, but keeps only `limit` bytes: the first ones if there is a `stop`, which is
    /// called once there are more; otherwise the last ones, where a program says why it failed.
    ///
    /// # Errors
    /// When no thread can be started.
    fn start(mut pipe: PipeReader, limit: usize, stop: Option<Stop>) -> io::Result<Self> {
        let read = Arc::new(Mutex::new(Read::default()));
        let (sender, done) = mpsc::channel();
        let drain = Self {
            read: read.clone(),
            done,
        };
        thread::Builder::new().spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            loop {
                let n = match pipe.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(n) => n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => break,
                };
                let mut read = lock(&read);
                read.bytes.extend_from_slice(&chunk[..n]);
                let excess = read.bytes.len().saturating_sub(limit);
                match &stop {
                    Some(stop) if excess > 0 => {
                        read.bytes.truncate(limit);
                        if !std::mem::replace(&mut read.overflowed, true) {
                            stop();
                        }
                    }
                    Some(_) => {}
                    None => drop(read.bytes.drain(..excess)),
                }
            }
            // Nobody receives this after the grace period.
            let _ = sender.send(());
        })?;
        Ok(drain)
    }

    /// What was read by the end of the pipe, or by `grace` if something holds it open.
    fn finish(self, grace: Instant) -> Read {
        let left = grace.saturating_duration_since(Instant::now());
        let _ = self.done.recv_timeout(left);
        std::mem::take(&mut *lock(&self.read))
    }
}
