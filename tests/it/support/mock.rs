//! The mock `qq` for a test: `fixtures/qq` with a cluster of its own in a temporary folder.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use tempfile::TempDir;

/// Runs `fixtures/qq` with the Python that `python3` stands for: under pyenv, `python3` itself is a
/// shell script that takes longer to start than all the rest of a call.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let mock = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qq");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qq");
    // A process of its own writes the program: one that a test forks meanwhile would inherit the open
    // file, and the program could not be run.
    let script = r#"python=$(python3 -c 'import sys; print(sys.executable)') &&
        printf '#!/bin/sh\nexec "%s" -S "%s" "$@"\n' "$python" "$0" >"$1.$$" &&
        chmod 755 "$1.$$" && mv "$1.$$" "$1""#;
    let status = Command::new("sh")
        .args(["-c", script])
        .args([&mock, &path])
        .status();
    assert!(status.expect("starting sh").success(), "python3 is needed");
    path
});

/// A mock cluster. See the head of `fixtures/qq` for the folder's content and for the faults.
pub struct Mock {
    state: TempDir,
}

impl Mock {
    /// A cluster that holds no key and three unlocked snapshots, 1 to 3, the third made by the
    /// policy `nightly`.
    pub fn new() -> Mock {
        let mock = Mock {
            state: TempDir::new().expect("making a folder for the mock cluster"),
        };
        let status = mock
            .command()
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .expect("starting the mock qq");
        assert!(status.success(), "the mock qq could not make its cluster");
        mock.forget_calls();
        mock
    }

    /// A cluster in which this public key locks snapshots 1 to 4.
    pub fn with_four_locked(public_key: &str) -> Mock {
        let mock = Mock::new();
        let id = mock.add_key("lock", "", public_key);
        mock.add_snapshot(4, "4_nightly", None);
        for snapshot in 1..=4 {
            mock.set_snapshot_field(snapshot, "lock_key", &id);
        }
        mock
    }

    /// The program, for `--qq`; it finds this cluster by `QQ_MOCK_STATE`, to be set to `state()`.
    pub fn program(&self) -> PathBuf {
        PROGRAM.clone()
    }

    /// The folder that is the cluster, for `QQ_MOCK_STATE`.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// An invocation of the program on this cluster, without any arguments yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.env("QQ_MOCK_STATE", self.state());
        command
    }

    /// Arms a fault for one of the next invocations of a command: faults of one command queue up.
    pub fn fault(&self, command: &str, fault: &str) {
        let path = self.state().join("faults").join(command);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("opening the faults of the mock qq");
        writeln!(file, "{fault}").expect("writing a fault for the mock qq");
    }

    /// The arguments of each invocation so far, in the order in which they began.
    pub fn calls(&self) -> Vec<Vec<String>> {
        self.read_lines("log")
            .iter()
            .map(|line| serde_json::from_str(line).expect("a call is a list in JSON"))
            .collect()
    }

    /// How many invocations of one command there were.
    pub fn count(&self, command: &str) -> usize {
        self.calls()
            .iter()
            .filter(|call| call.iter().any(|argument| argument == command))
            .count()
    }

    /// Forgets the invocations so far.
    pub fn forget_calls(&self) {
        fs::write(self.state().join("log"), "").expect("emptying the log of the mock qq");
    }

    /// The processes that faults have left sleeping, ended since or not.
    pub fn sleepers(&self) -> Vec<u32> {
        self.read_lines("sleepers")
            .iter()
            .map(|line| line.parse().expect("a sleeper is a process id"))
            .collect()
    }

    /// The challenge to unlock a locked snapshot.
    pub fn unlock_challenge(&self, id: u64) -> String {
        let output = self
            .command()
            .args(["--host=cluster", "snapshot_get_unlock_challenge"])
            .arg(format!("--id={id}"))
            .output()
            .expect("running the mock qq");
        let reply: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        reply["challenge"].as_str().expect("a challenge").to_owned()
    }

    /// Makes these bytes every replacement and unlock challenge.
    pub fn set_challenge(&self, text: &[u8]) {
        fs::write(self.state().join("challenge-text"), text).expect("writing the challenge");
    }

    /// Stores a key without any proof, its public key being the Base64 of its SPKI; returns the id.
    pub fn add_key(&self, name: &str, comment: &str, public_key: &str) -> String {
        let last = self.ids("keys").pop().unwrap_or_default();
        let id = (last + 1).to_string();
        fs::create_dir(self.state().join("keys").join(&id)).expect("making a key");
        for (field, value) in [
            ("name", name),
            ("comment", comment),
            ("disabled", "false"),
            ("public_key", public_key),
            ("version", "1"),
        ] {
            self.set_key_field(&id, field, value);
        }
        id
    }

    /// Sets a key's `name`, `comment`, `disabled`, `public_key` or `version`.
    pub fn set_key_field(&self, id: &str, field: &str, value: &str) {
        let path = self.state().join("keys").join(id).join(field);
        fs::write(path, value).expect("writing a field of a key");
    }

    /// One field of a stored key.
    pub fn key_field(&self, id: &str, field: &str) -> String {
        read(&self.state().join("keys").join(id).join(field))
    }

    /// A stored key's public key, in Base64.
    pub fn public_key(&self, id: &str) -> String {
        self.key_field(id, "public_key")
    }

    /// The ids of the stored keys in increasing order.
    pub fn key_ids(&self) -> Vec<String> {
        self.ids("keys").iter().map(u64::to_string).collect()
    }

    /// Stores a snapshot that never expires and that no policy has made.
    pub fn add_snapshot(&self, id: u64, name: &str, lock_key: Option<&str>) {
        fs::create_dir(self.snapshot(id)).expect("making a snapshot");
        for (field, value) in [
            ("name", name),
            ("timestamp", "2026-01-01T00:00:00Z"),
            ("expiration", ""),
            ("policy_id", ""),
            ("policy_name", ""),
            ("source_file_id", "2"),
            ("source_file_path", "/"),
            ("in_delete", "false"),
            ("lock_key", lock_key.unwrap_or_default()),
        ] {
            self.set_snapshot_field(id, field, value);
        }
    }

    /// Sets one field of a snapshot; an empty `policy_id`, `policy_name` or `lock_key` is none.
    pub fn set_snapshot_field(&self, id: u64, field: &str, value: &str) {
        fs::write(self.snapshot(id).join(field), value).expect("writing a field of a snapshot");
    }

    /// One field of a snapshot.
    fn snapshot_field(&self, id: u64, field: &str) -> String {
        read(&self.snapshot(id).join(field))
    }

    /// The id of the key that locks a snapshot.
    pub fn lock_key(&self, id: u64) -> Option<String> {
        Some(self.snapshot_field(id, "lock_key")).filter(|key| !key.is_empty())
    }

    /// The ids of the snapshots in increasing order.
    pub fn snapshot_ids(&self) -> Vec<u64> {
        self.ids("snapshots")
    }

    fn snapshot(&self, id: u64) -> PathBuf {
        self.state().join("snapshots").join(id.to_string())
    }

    fn ids(&self, folder: &str) -> Vec<u64> {
        let mut ids: Vec<u64> = fs::read_dir(self.state().join(folder))
            .expect("listing the mock cluster")
            .map(|entry| {
                let name = entry.expect("listing the mock cluster").file_name();
                name.to_str()
                    .and_then(|name| name.parse().ok())
                    .expect("a folder is named by an id")
            })
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The lines of a file that need not be there.
    fn read_lines(&self, file: &str) -> Vec<String> {
        fs::read_to_string(self.state().join(file))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
