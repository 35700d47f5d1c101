//! A simulated Qumulo Core for a test: starts `core.py` beside this file, ends it with the test.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::qkey::ALICE_PUBLIC;

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
    /// `None` only while it is dropped.
    server: Mutex<Option<Server>>,
    port: u16,
    pid: u32,
    files: TempDir,
    credentials: PathBuf,
    ca_file: PathBuf,
    fingerprint: String,
    /// Whether another test can use the server: it shows the certificate that it started with.
    is_reusable: AtomicBool,
}

/// The program `core.py`, which takes longer to start than most tests take.
struct Server {
    process: Child,
    /// Closed when the program is to end.
    commands: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    /// What it said about itself.
    ready: Value,
}

/// The servers that no test uses at the moment; they end with this process.
static IDLE: Mutex<Vec<Server>> = Mutex::new(Vec::new());

/// The certificates that a Core shows; fingerprints are `sha256:` and 64 lower-case digits.
pub struct Shown {
    pub fingerprint: String,
    pub ca_fingerprint: String,
    /// The server's private key and its certificate chain.
    pub server_pem: String,
}

impl Core {
    /// Starts a Core that holds no key and no snapshot.
    pub fn start() -> Core {
        Core::start_with(&[])
    }

    /// Starts a Core as for [`ADD`](super::ceremony::ADD): it holds alice's key as key 1, named
    /// "lock-2026", which locks snapshot 2 and not snapshot 3.
    pub fn with_lock_key() -> Core {
        let core = Core::start();
        core.add_key(json!({ "name": "lock-2026", "public_key": ALICE_PUBLIC }));
        core.add_snapshot(json!({ "id": 2, "lock_key": "1" }));
        core.add_snapshot(json!({ "id": 3 }));
        core
    }

    /// Starts an empty Core with options of `core.py`, such as `--certificate=expired`.
    pub fn start_with(options: &[&str]) -> Core {
        let idle = match options {
            [] => lock(&IDLE).pop(),
            _ => None,
        };
        let server = idle.unwrap_or_else(|| Server::start(options));
        let text = |name: &str| server.ready[name].as_str().expect("text").to_owned();
        let port = server.ready["port"].as_u64();
        let port = port.and_then(|port| u16::try_from(port).ok());

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
            port: port.expect("a port"),
            pid: server.process.id(),
            files,
            credentials,
            ca_file,
            fingerprint: text("fingerprint"),
            is_reusable: AtomicBool::new(options.is_empty()),
            server: Mutex::new(Some(server)),
        }
    }

    /// The port that it listens on, on 127.0.0.1 unless `--bind` has named another address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process that is the Core.
    pub fn pid(&self) -> u32 {
        self.pid
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
        let mut server = lock(&self.server);
        let server = server.as_mut().expect("only dropping a Core takes it");
        let reply = server.command(&command).expect("the Core replies");
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
        self.is_reusable.store(false, Ordering::Relaxed);
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
        let connections = self.command(json!({ "op": "connections" }));
        connections["opened"].as_u64().expect("a number")
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.command(json!({ "op": "clear_requests" }));
    }
}

impl Drop for Core {
    // A test may be unwinding here: no panics.
    fn drop(&mut self) {
        let server = lock(&self.server).take();
        if !self.is_reusable.load(Ordering::Relaxed) || std::thread::panicking() {
            return;
        }
        if let Some(mut server) = server
            && server.command(&json!({ "op": "reset" })).is_ok()
        {
            lock(&IDLE).push(server);
        }
    }
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let mut process = Command::new(tool(QQ_VERSION, "python"))
            .arg("-B")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/core.py"))
            .arg(format!("--token={TOKEN}"))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting the simulated Core");
        let mut server = Self {
            commands: process.stdin.take(),
            replies: BufReader::new(process.stdout.take().expect("its stdout is piped")),
            process,
            ready: Value::Null,
        };
        server.ready = server.read_reply().expect("the Core starts");
        server
    }

    fn command(&mut self, command: &Value) -> io::Result<Value> {
        let commands = self.commands.as_mut();
        writeln!(commands.expect("only dropping closes it"), "{command}")?;
        self.read_reply()
    }

    fn read_reply(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its standard input ends it.
        self.commands.take();
        let _ = self.process.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
