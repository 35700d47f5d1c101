//! The built `qkey` in a hermetic environment: a home of its own, no configuration, no terminal.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

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
            .env("QKEY_QQ", mock.program().to_str().expect("UTF-8"))
            .env("QQ_MOCK_STATE", mock.state().to_str().expect("UTF-8"))
    }

    /// Against the real `qq` of a version, which talks to the simulated Core.
    pub fn with_core(core: &Core, version: &str) -> Self {
        Self::new()
            .env("QKEY_HOST", "127.0.0.1")
            .env("QKEY_PORT", &core.port().to_string())
            .env("QKEY_CREDENTIALS_STORE", core.credentials().to_str().expect("UTF-8"))
            .env("QKEY_QQ", super::core::qq(version).to_str().expect("UTF-8"))
    }

    /// Adds a variable to the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
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
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(&path, contents).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        path
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
        self.taken(&child.wait_with_output().expect("qkey ends"))
    }

    /// An output with what differs from run to run replaced: the folder by `[DIR]`, the mock by
    /// `[QQ]`.
    pub fn taken(&self, output: &Output) -> Run {
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: self.redact(&output.stdout),
            stderr: self.redact(&output.stderr),
        }
    }

    fn redact(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let dir = self.folder.path().to_string_lossy();
        let text = text.replace(dir.as_ref(), "[DIR]");
        let find = |wanted: &str| self.env.iter().find(|(name, _)| name == wanted);
        let text = match find("QKEY_QQ") {
            Some((_, qq)) => text.replace(qq.as_str(), "[QQ]"),
            None => text,
        };
        match find("QKEY_PORT") {
            Some((_, port)) => text.replace(port.as_str(), "[PORT]"),
            None => text,
        }
    }
}

impl Run {
    /// The whole run as one text, for snapshots.
    pub fn transcript(&self) -> String {
        format!(
            "exit {}\n--- stdout\n{}--- stderr\n{}",
            self.code, self.stdout, self.stderr
        )
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
    assert!(pem.status.success(), "openssl reads {}", private_key.display());
    String::from_utf8(pem.stdout)
        .expect("PEM is text")
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect()
}
