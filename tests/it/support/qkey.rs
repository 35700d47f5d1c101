//! The built `qkey` in a hermetic environment: a home of its own, no configuration, no terminal.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{core::Core, mock::Mock};

/// Three private keys, for tests alone; fixed, so that fingerprints can stand in snapshots.
pub const ALICE: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnXTV6JPSoca0pDfI
mG5rn10dnPnLsL9Hh8oX0tRZxdOhRANCAASAqYlEVa1ZMQeEFOILmsjWtsEmVcmp
M0YeXg75hFSR7V2t7M0SJ0hWq79Qycyz7zUcvxXAjLJ54LAeQssQrZpp
-----END PRIVATE KEY-----
";
pub const BOB: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg4vbqBlywW5IQbCET
TuDphll87l96XzM0bNhGjAJYrpyhRANCAAQ4hTTbw+ZxcjKlWiev7uCtL3gZOMp1
Z8OpXzrCl1XxQbje9v3sIlD534TauhOb1zswqw+jBwJs+Vqkt5ZPTlO0
-----END PRIVATE KEY-----
";
pub const CAROL: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgF8vPo9PgAKoTYKdC
DjMwEYzwaHqLn+BXIqKZONqJbaahRANCAATim8+oWmCdVqIvVSr3QiwxCPBrJ4sh
aSNr1nm2JHsol1uV44Z0mhPXpYlYG9837sjIQMaAdZujI4IPE7/o2DB6
-----END PRIVATE KEY-----
";

/// Their public halves, as a cluster holds them.
pub const ALICE_PUBLIC: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==";
pub const BOB_PUBLIC: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==";
pub const CAROL_PUBLIC: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE4pvPqFpgnVaiL1Uq90IsMQjwayeLIWkja9Z5tiR7KJdbleOGdJoT16WJWBvfN+7IyEDGgHWboyOCDxO/6Ngweg==";

/// Names and challenges that encodings, shells, URLs and terminals trip over.
pub const STRANGE_TEXTS: [&str; 17] = [
    "two words",
    " spaces around ",
    "tab\there",
    "a/b",
    "../../etc",
    "what?",
    "#1",
    "100%",
    "%2e%2e",
    "--key=1",
    "it's \"quoted\"",
    "back\\slash\\n",
    "two\nlines\n",
    "\u{1b}[31mred",
    "Schlüssel",
    "e\u{301} \u{202e}right to left",
    "🔑 鍵",
];

/// A user's home and working directory, with the variables that `qkey` is run with.
pub struct Qkey {
    folder: TempDir,
    env: Vec<(String, String)>,
}

/// What a run of `qkey` left behind.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Qkey {
    /// No cluster, and a folder that holds `alice.pem`, `bob.pem` and `carol.pem`.
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let qkey = Self {
            folder,
            env: Vec::new(),
        };
        for (name, key) in [("alice", ALICE), ("bob", BOB), ("carol", CAROL)] {
            qkey.write(&format!("{name}.pem"), key);
        }
        qkey
    }

    /// Against the mock `qq`.
    pub fn with_mock(mock: &Mock) -> Self {
        Self::new()
            .env("QKEY_HOST", "cluster")
            .env("QKEY_QQ", mock.program())
            .env("QQ_MOCK_STATE", mock.state())
    }

    /// Against the real `qq` of a version, which talks to the simulated Core, and takes its time to
    /// start on a busy machine.
    pub fn with_core(core: &Core, version: &str) -> Self {
        Self::new()
            .env("QKEY_HOST", "127.0.0.1")
            .env("QKEY_PORT", core.port().to_string())
            .env("QKEY_CREDENTIALS_STORE", core.credentials())
            .env("QKEY_QQ", super::core::qq(version))
            .env("QKEY_TIMEOUT", "300")
    }

    /// Over REST to a local port, without credentials and without trust in any certificate.
    pub fn with_port(port: u16) -> Self {
        Self::new()
            .env("QKEY_VIA", "rest")
            .env("QKEY_HOST", "127.0.0.1")
            .env("QKEY_PORT", port.to_string())
    }

    /// Over REST to the simulated Core, whose CA it trusts.
    pub fn with_rest(core: &Core) -> Self {
        Self::with_port(core.port())
            .env("QKEY_CREDENTIALS_STORE", core.credentials())
            .env("QKEY_CA_FILE", core.ca_file())
    }

    /// Adds a variable, in UTF-8, to the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref().to_str().expect("UTF-8");
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path in the working directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, mode 0600, into the working directory.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path.parent().expect("a parent"))
            .expect("a folder");
        fs::write(&path, contents).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        path
    }

    /// Writes a program into the working directory. Another process does, because one that this
    /// process forks meanwhile would keep the file open for writing, and it could not be run.
    pub fn write_program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let mut child = Command::new("/bin/sh")
            .args(["-c", r#"cat >"$0" && chmod 755 "$0""#])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(text.as_bytes()).expect("the shell reads");
        drop(stdin);
        assert!(child.wait().expect("the shell ends").success());
        path
    }

    /// Puts a program between `qkey` and the mock: `hook`, shell commands that see the arguments of
    /// `qq` in `$*`, and may exit.
    pub fn between(self, mock: &Mock, hook: &str) -> Self {
        let program = mock.program();
        let text = format!("#!/bin/sh\n{hook}\nexec '{}' \"$@\"\n", program.display());
        let path = self.write_program("qq-between", &text);
        self.env("QKEY_QQ", path)
    }

    /// Encrypts `alice.pem` with the passphrase "open sesame"; returns the file's name.
    pub fn encrypt_alice(&self) -> &'static str {
        self.write("passphrase", "open sesame");
        super::shell::prints(
            self,
            "openssl pkcs8 -topk8 -iter 1 -in alice.pem -passout file:passphrase -out locked.pem
             chmod 600 locked.pem",
        );
        "locked.pem"
    }

    /// Writes the configuration file.
    pub fn configure(&self, text: &str) -> PathBuf {
        self.write(".config/qkey/config.toml", text)
    }

    /// The command with this environment, ready to be changed and run; in a session of its own, so
    /// that the terminal of whoever runs the tests is not asked.
    pub fn command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = self.command_with_terminal(args);
        // Only setsid(2) runs between fork and exec.
        unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
        command
    }

    /// As [`Qkey::command`], in the session of whoever runs it.
    pub fn command_with_terminal<I: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = I>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qkey"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("LC_ALL", "C.UTF-8")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `qkey` with these arguments to its end.
    pub fn run<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Run {
        let output = self.command(args).output().expect("qkey runs");
        self.taken(&output)
    }

    /// Runs a command line, split at spaces.
    pub fn line(&self, line: &str) -> Run {
        self.run(line.split(' '))
    }

    /// Starts a command line, split at spaces.
    pub fn start(&self, line: &str) -> Child {
        self.command(line.split(' ')).spawn().expect("qkey runs")
    }

    /// Waits for the end of what [`Qkey::start`] has started.
    pub fn end(&self, child: Child) -> Run {
        self.taken(&child.wait_with_output().expect("qkey ends"))
    }

    /// As [`Qkey::run`], with something on stdin.
    pub fn run_with_stdin<I: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = I>,
        stdin: &[u8],
    ) -> Run {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .spawn()
            .expect("qkey runs");
        // It may end without reading all.
        let _ = child.stdin.take().expect("a pipe").write_all(stdin);
        self.end(child)
    }

    /// An output with what differs from run to run replaced: the folder by `[DIR]`, `qq` by
    /// `[QQ]`, and a credentials file, an authority and a port that the environment names.
    pub fn taken(&self, output: &Output) -> Run {
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: self.redact(&output.stdout),
            stderr: self.redact(&output.stderr),
        }
    }

    fn redact(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let text = text.replace(&*self.folder.path().to_string_lossy(), "[DIR]");
        let shown = [
            ("QKEY_QQ", "[QQ]"),
            ("QKEY_CA_FILE", "[CA]"),
            ("QKEY_CREDENTIALS_STORE", "[CREDENTIALS]"),
            ("QKEY_PORT", "[PORT]"),
        ];
        shown.iter().fold(text, |text, (variable, shown)| {
            match self.env.iter().find(|(name, _)| name == variable) {
                Some((_, value)) => text.replace(value.as_str(), shown),
                None => text,
            }
        })
    }
}

/// Sends a signal to a process of this test.
pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it runs");
}

impl Run {
    /// The whole run as one text, for snapshots: stdout, `--- exit N`, stderr. A run that exits with 0
    /// and prints nothing on stderr is its stdout alone.
    pub fn transcript(&self) -> String {
        if self.code == 0 && self.stderr.is_empty() {
            return self.stdout.clone();
        }
        format!("{}--- exit {}\n{}", self.stdout, self.code, self.stderr)
    }

    /// stdout as one JSON object.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is one JSON object: {error}\n{self:?}"))
    }
}

/// The Base64 of a public key, as a cluster holds it, made by the `openssl` program.
pub fn public_key_base64(private_key: &Path) -> String {
    let pem = Command::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(private_key)
        .output()
        .expect("openssl runs");
    assert!(
        pem.status.success(),
        "openssl reads {}",
        private_key.display()
    );
    String::from_utf8(pem.stdout)
        .expect("PEM is text")
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect()
}

/// The commands that were run on a mock, sorted within each of these rounds of calls.
pub fn rounds(mock: &Mock, sizes: &[usize]) -> Vec<Vec<String>> {
    let commands: Vec<String> = mock
        .calls()
        .into_iter()
        .map(|call| {
            let command = call.into_iter().find(|arg| !arg.starts_with("--"));
            command.expect("qq is given a command")
        })
        .collect();
    assert_eq!(commands.len(), sizes.iter().sum::<usize>(), "{commands:?}");
    let mut rest = &commands[..];
    sizes
        .iter()
        .map(|&size| {
            let (round, later) = rest.split_at(size);
            rest = later;
            let mut round = round.to_vec();
            round.sort();
            round
        })
        .collect()
}

/// Whether a process runs; one that has ended and is not reaped does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Waits for an event that is bound to come.
pub fn wait_until(what: &str, mut event: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !event() {
        assert!(Instant::now() < deadline, "this did not come: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until nothing is left that a fault has put to sleep.
pub fn expect_no_sleepers(mock: &Mock) {
    let sleepers = mock.sleepers();
    wait_until("the end of what qq has started", || {
        !sleepers.iter().any(|&pid| is_alive(pid))
    });
}

/// Ends what a fault has left behind on purpose, all of which still runs.
pub fn end_sleepers(mock: &Mock) {
    for sleeper in mock.sleepers() {
        assert!(is_alive(sleeper), "it was waited for or ended");
        let pid = Pid::from_raw(sleeper.cast_signed()).expect("a process id");
        kill_process(pid, Signal::KILL).expect("it is ours");
    }
    expect_no_sleepers(mock);
}

/// Runs the cases a few at a time, for they wait more than they work; returns what they said, each
/// under its name.
pub fn side_by_side(cases: &[&str], run: impl Fn(&str) -> String + Sync) -> String {
    const AT_A_TIME: usize = 8;
    let next = AtomicUsize::new(0);
    let said: Vec<_> = cases.iter().map(|_| OnceLock::new()).collect();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(case) = cases.get(index)
                {
                    said[index].get_or_init(|| run(case));
                }
            });
        }
    });
    cases
        .iter()
        .zip(&said)
        .map(|(case, said)| {
            let said = said.get().expect("each case has run");
            format!("==== {}\n{said}", case.escape_debug())
        })
        .collect()
}

/// The time that a call to the cluster is given under a fault: a short one where all of it will be
/// waited for.
pub fn timeout_for(fault: &str) -> &'static str {
    if fault.starts_with("hang") {
        "--timeout=4"
    } else {
        "--timeout=60"
    }
}
