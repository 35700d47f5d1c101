//! A simulated Qumulo Core for a test: starts `core.py` beside this file, ends it with the test.

// Each integration test is a crate of its own and uses only some of this.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The bearer token that the simulated Core takes.
pub const TOKEN: &str = "test-token";

/// The newest `qq` that the tests know.
pub const QQ_VERSION: &str = "7.10.2.1";

/// The program `qq` of one version that `scripts/test-tools` has installed.
pub fn qq(version: &str) -> PathBuf {
    tool(version, "qq")
}

fn tool(version: &str, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("target/tools/qq-{version}/bin"))
        .join(name);
    assert!(
        path.exists(),
        "{} is not there: run scripts/test-tools",
        path.display()
    );
    path
}

/// A running simulated Core. See `core.py` for what it does and for its commands.
pub struct Core {
    process: Child,
    /// Taken, and so closed, when the Core is to end.
    control: Mutex<Option<Control>>,
    port: u16,
    files: TempDir,
    credentials: PathBuf,
    ca_file: PathBuf,
    fingerprint: String,
}

/// What a Core shows, and what is in its `ca_file`; fingerprints are `sha256:` and 64 lower-case
/// digits.
pub struct Shown {
    pub fingerprint: String,
    pub ca_fingerprint: String,
    /// The server's private key and what it shows.
    pub server_pem: String,
}

struct Control {
    commands: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Core {
    /// Starts a Core that holds no key and no snapshot.
    pub fn start() -> Core {
        Core::start_with(&[])
    }

    /// Likewise, with options of `core.py`, such as `--certificate=expired`.
    pub fn start_with(options: &[&str]) -> Core {
        let mut process = Command::new(tool(QQ_VERSION, "python"))
            .arg("-B")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/core.py"))
            .arg(format!("--token={TOKEN}"))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting the simulated Core");
        let mut control = Control {
            commands: process.stdin.take().expect("its stdin is piped"),
            replies: BufReader::new(process.stdout.take().expect("its stdout is piped")),
        };
        let ready = control.read_reply();
        let text = |name: &str| {
            let text = ready[name].as_str();
            text.unwrap_or_else(|| panic!("the simulated Core names its {name}"))
        };
        let port = ready["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .expect("the simulated Core names its port");

        let files = TempDir::new().expect("making a directory for credentials");
        let credentials = files.path().join("credentials.json");
        let contents = json!({ "bearer_token": TOKEN, "version": 1 }).to_string();
        let home = files.path().join("home");
        std::fs::create_dir(&home).expect("making a home directory");
        for path in [&home.join(".qfsd_cred"), &credentials] {
            std::fs::write(path, &contents).expect("writing credentials");
            // As `qq login` has them.
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(path, mode).expect("a mode");
        }
        let ca_file = files.path().join("ca.pem");
        std::fs::write(&ca_file, text("ca")).expect("writing the certificate");
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&ca_file, mode).expect("a mode");

        Core {
            process,
            control: Mutex::new(Some(control)),
            port,
            files,
            credentials,
            ca_file,
            fingerprint: text("fingerprint").to_owned(),
        }
    }

    /// The port that it listens on, on 127.0.0.1 unless `--bind` has named another address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A credentials file that it accepts, for `--credentials-store`.
    pub fn credentials(&self) -> &Path {
        &self.credentials
    }

    /// The certificate to trust, in PEM: of the CA, or its own when it has signed that itself.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Its own certificate's, as `sha256:` and 64 lower-case digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// A home directory, for `HOME`, with `.qfsd_cred` in it and nothing else.
    pub fn home(&self) -> PathBuf {
        self.files.path().join("home")
    }

    /// Sends one command and returns the reply; panics when the Core cannot carry it out.
    pub fn command(&self, command: Value) -> Value {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let control = control.as_mut().expect("only dropping a Core closes it");
        writeln!(control.commands, "{command}").expect("writing to the simulated Core");
        let reply = control.read_reply();
        if let Some(error) = reply.get("error") {
            panic!("the simulated Core could not carry out {command}: {error}");
        }
        reply
    }

    /// Stores a key without any proof: `{"name", "public_key", "comment"?, "disabled"?, "id"?}`.
    /// Returns the id.
    pub fn add_key(&self, key: Value) -> String {
        let key = self.command(json!({ "op": "add_key", "key": key }));
        key["id"].as_str().expect("a key's id is text").to_owned()
    }

    /// Changes the `name`, `comment` or `disabled` of a key, which makes its challenge stale.
    pub fn modify_key(&self, id: &str, changes: Value) -> Value {
        self.command(with(changes, json!({ "op": "modify_key", "id": id })))
    }

    /// Stores a snapshot: `{"id", "lock_key"?, "expiration"?, "policy_name"?, …}`.
    pub fn add_snapshot(&self, snapshot: Value) -> Value {
        self.command(json!({ "op": "add_snapshot", "snapshot": snapshot }))
    }

    /// Changes any field of a snapshot.
    pub fn modify_snapshot(&self, id: u64, changes: Value) -> Value {
        self.command(with(changes, json!({ "op": "modify_snapshot", "id": id })))
    }

    /// Arms a fault of `kind` on an operation; `more` has `times`, `id` and what the kind needs.
    pub fn fault(&self, on: &str, kind: &str, more: Value) {
        self.command(with(more, json!({ "op": "fault", "on": on, "kind": kind })));
    }

    /// Carries out what faults with `late` have held back.
    pub fn carry_out_late(&self) {
        self.command(json!({ "op": "carry_out_late" }));
    }

    /// Shows another certificate from now on, whose authority is then in `ca_file`: the options of
    /// the command `tls`, such as `{"certificate": "expired"}`.
    pub fn show(&self, options: Value) -> Shown {
        let shown = self.command(with(options, json!({ "op": "tls" })));
        let text = |name: &str| shown[name].as_str().expect("it is text").to_owned();
        std::fs::write(&self.ca_file, text("ca")).expect("writing the certificate");
        Shown {
            fingerprint: text("fingerprint"),
            ca_fingerprint: text("ca_fingerprint"),
            server_pem: text("server_pem"),
        }
    }

    /// Forgets the faults that no request has met yet.
    pub fn clear_faults(&self) {
        self.command(json!({ "op": "clear_faults" }));
    }

    /// Splits key usages into pages of `limit`; `more` has `keys` and `next`.
    pub fn page_limit(&self, limit: u64, more: Value) {
        self.command(with(more, json!({ "op": "page_limit", "limit": limit })));
    }

    /// Makes `text` every challenge from now on; `None` brings back the usual ones.
    pub fn challenge_text(&self, text: Option<&str>) {
        self.command(json!({ "op": "challenge_text", "text": text }));
    }

    /// The keys, with their version, and the snapshots: `{"keys": […], "snapshots": […]}`.
    pub fn state(&self) -> Value {
        self.command(json!({ "op": "state" }))
    }

    /// One stored key, with its version; panics when there is none.
    pub fn key(&self, id: &str) -> Value {
        find(&self.state()["keys"], &json!(id))
    }

    /// One snapshot; panics when there is none.
    pub fn snapshot(&self, id: u64) -> Value {
        find(&self.state()["snapshots"], &json!(id))
    }

    /// The requests that came in, in order: `{"method", "path", "host", "connection", "operation",
    /// "body", "status"}`.
    pub fn requests(&self) -> Vec<Value> {
        match self.command(json!({ "op": "requests" })) {
            Value::Array(requests) => requests,
            other => panic!("the simulated Core names its requests, not {other}"),
        }
    }

    /// How many requests of one operation came in.
    pub fn count(&self, operation: &str) -> usize {
        self.requests()
            .iter()
            .filter(|request| request["operation"] == operation)
            .count()
    }

    /// How many connections have been opened so far.
    pub fn connections(&self) -> u64 {
        self.connection_count("opened")
    }

    /// How many requests were being answered at the same moment, at most, since `clear_requests`.
    pub fn most_at_a_time(&self) -> u64 {
        self.connection_count("most_at_a_time")
    }

    fn connection_count(&self, name: &str) -> u64 {
        self.command(json!({ "op": "connections" }))[name]
            .as_u64()
            .expect("the simulated Core counts its connections")
    }

    /// Forgets the requests so far, and how many there were at a time.
    pub fn clear_requests(&self) {
        self.command(json!({ "op": "clear_requests" }));
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // The end of its standard input is what ends it. A test may be unwinding here: no panics.
        self.control
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let _ = self.process.wait();
    }
}

impl Control {
    fn read_reply(&mut self) -> Value {
        let mut line = String::new();
        self.replies
            .read_line(&mut line)
            .expect("reading from the simulated Core");
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the simulated Core said {line:?}: {error}"))
    }
}

/// The fields of both objects.
fn with(mut fields: Value, more: Value) -> Value {
    let (Some(all), Value::Object(more)) = (fields.as_object_mut(), more) else {
        panic!("expected a JSON object, not {fields}");
    };
    all.extend(more);
    fields
}

/// The entry of a list that has this id.
fn find(entries: &Value, id: &Value) -> Value {
    entries
        .as_array()
        .and_then(|entries| entries.iter().find(|entry| entry["id"] == *id))
        .unwrap_or_else(|| panic!("the simulated Core holds nothing with the id {id}"))
        .clone()
}
