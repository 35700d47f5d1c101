//! Holds the mock `qq` of `fixtures/qq` against the real one, which talks to the simulated Core: the
//! same arguments must end with the same exit code, stdout and stderr, and both clusters must hold
//! the same afterwards. What the real one cannot be made to do, the faults, is tested at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::core::{self, Core};
use crate::support::mock::Mock;

const NEW: &str = "7.10.2.1";
const OLD: &str = "6.1.0.3";

/// Names and comments with everything that gets lost on the way from a shell to a JSON text.
const ODD_TEXTS: [&str; 6] = [
    "vault 2026",
    "tr\u{e8}s s\u{fb}r \u{20ac} \u{1f511}",
    "\"quoted\" \\ it's $HOME `id` 100%",
    "two\nlines\n",
    " ends in blanks \t ",
    "-k=--json \u{1}\u{7f}&",
];

/// What an invocation came to, without what differs between installations.
#[derive(Debug, PartialEq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn of(output: Output) -> Outcome {
        let text = |bytes| String::from_utf8(bytes).expect("qq writes UTF-8");
        Outcome {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: without_frames(&text(output.stderr)),
        }
    }
}

/// A traceback's frames name the files of an installation: only its last line counts.
fn without_frames(stderr: &str) -> String {
    const START: &str = "Traceback (most recent call last):\n";
    match stderr.split_once(START) {
        Some((before, traceback)) => {
            let last = traceback.trim_end().lines().last().unwrap_or_default();
            format!("{before}{START}{last}\n")
        }
        None => stderr.to_owned(),
    }
}

/// The same cluster twice, behind the real `qq` and behind the mock.
struct Pair {
    version: &'static str,
    core: Core,
    mock: Mock,
}

impl Pair {
    fn new(version: &'static str) -> Pair {
        let pair = Pair {
            version,
            core: Core::start(),
            mock: Mock::new(),
        };
        for snapshot in pair.mock_state()["snapshots"].as_array().expect("a list") {
            pair.core.add_snapshot(snapshot.clone());
        }
        pair
    }

    /// Stores the same key in both clusters; returns its id.
    fn add_key(&self, name: &str, comment: &str, key: &Key) -> String {
        self.core.add_key(json!({
            "name": name,
            "comment": comment,
            "public_key": key.public,
        }));
        self.mock.add_key(name, comment, &key.public)
    }

    /// Locks a snapshot of both clusters.
    fn lock(&self, id: u64, key: &str) {
        self.core.modify_snapshot(id, json!({ "lock_key": key }));
        self.mock.set_snapshot_field(id, "lock_key", key);
    }

    /// Makes a text every challenge of both clusters.
    fn set_challenge(&self, text: &str) {
        self.core.challenge_text(Some(text));
        self.mock.set_challenge(text.as_bytes());
    }

    /// Runs both with the options that reach the cluster and these arguments.
    fn same(&self, arguments: &[&str]) -> Outcome {
        let port = self.core.port().to_string();
        let credentials = self.core.credentials().to_str().expect("a UTF-8 path");
        let target = [
            "--host=127.0.0.1",
            "--port",
            &port,
            "--credentials-store",
            credentials,
        ];
        self.same_program(&[&target, arguments].concat())
    }

    /// Runs both with exactly these arguments: the outcome must be the same.
    fn same_program(&self, arguments: &[&str]) -> Outcome {
        let real = self.run(Command::new(core::qq(self.version)), arguments);
        let mock = self.run(self.mock.command(), arguments);
        assert_eq!(mock, real, "mock (left) and real qq on {arguments:?}");
        real
    }

    fn run(&self, mut program: Command, arguments: &[&str]) -> Outcome {
        let output = program
            .args(arguments)
            .env("QQ_MOCK_DIALECT", self.version)
            .env("PYTHONUTF8", "1")
            .env("COLUMNS", "80")
            .env("HOME", self.core.home())
            .env_remove("XDG_CONFIG_HOME")
            .output()
            .expect("starting qq");
        Outcome::of(output)
    }

    /// Runs both and takes the challenge out of the answer.
    fn challenge(&self, arguments: &[&str]) -> String {
        let outcome = self.same(arguments);
        let answer: Value = serde_json::from_str(&outcome.stdout).expect("a challenge is JSON");
        answer["challenge"].as_str().expect("text").to_owned()
    }

    /// Both clusters hold the same.
    fn same_state(&self) {
        assert_eq!(self.mock_state(), self.core.state());
    }

    /// The mock's cluster as the simulated Core would tell it.
    fn mock_state(&self) -> Value {
        let key = |id: &String| {
            let field = |name| self.mock.key_field(id, name);
            json!({
                "id": id,
                "name": field("name"),
                "comment": field("comment"),
                "disabled": field("disabled") == "true",
                "public_key": field("public_key"),
                "version": self.mock.key_version(id),
            })
        };
        let snapshot = |id: &u64| {
            let field = |name| self.mock.snapshot_field(*id, name);
            let optional = |name| Some(field(name)).filter(|value| !value.is_empty());
            json!({
                "id": id,
                "name": field("name"),
                "timestamp": field("timestamp"),
                "expiration": field("expiration"),
                "policy_id": optional("policy_id").map(|id| id.parse::<u64>().expect("a number")),
                "policy_name": optional("policy_name"),
                "source_file_id": field("source_file_id"),
                "source_file_path": field("source_file_path"),
                "owners": [],
                "in_delete": field("in_delete") == "true",
                "lock_key": self.mock.lock_key(*id),
            })
        };
        json!({
            "keys": self.mock.key_ids().iter().map(key).collect::<Vec<_>>(),
            "snapshots": self.mock.snapshot_ids().iter().map(snapshot).collect::<Vec<_>>(),
        })
    }
}

/// A key pair that the `openssl` program has made.
struct Key {
    files: TempDir,
    public: String,
}

impl Key {
    fn new() -> Key {
        Key::generate(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }

    fn generate(algorithm: &[&str]) -> Key {
        let mut key = Key {
            files: TempDir::new().expect("making a folder for a key"),
            public: String::new(),
        };
        key.openssl(&[&["genpkey", "-out", "key.pem"], algorithm].concat());
        key.public = key.public_key(&[]);
        key
    }

    /// The Base64 of its SubjectPublicKeyInfo, written with further options of `openssl pkey`.
    fn public_key(&self, options: &[&str]) -> String {
        let write = ["pkey", "-in", "key.pem", "-pubout", "-outform", "DER"];
        self.openssl(&[&write[..], &["-out", "public.der"], options].concat());
        self.base64(&fs::read(self.path("public.der")).expect("reading a public key"))
    }

    /// Its signature over a text, as the cluster wants it.
    fn sign(&self, text: &str) -> String {
        fs::write(self.path("text"), text).expect("writing a text to sign");
        self.base64(&self.openssl(&["dgst", "-sha256", "-sign", "key.pem", "text"]))
    }

    fn base64(&self, bytes: &[u8]) -> String {
        fs::write(self.path("bytes"), bytes).expect("writing bytes to encode");
        let text = self.openssl(&["base64", "-A", "-in", "bytes"]);
        String::from_utf8(text).expect("Base64 is ASCII")
    }

    fn openssl(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.files.path())
            .output()
            .expect("starting openssl");
        assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
        output.stdout
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.files.path()).join(name)
    }
}

#[test]
fn the_same_arguments_are_refused() {
    let pair = Pair::new(NEW);
    for arguments in [
        &[][..],
        &["--version"],
        &["--host=h"],
        &["--ver"],
        &["--host", "--port", "1"],
        &["--host=h", "--port=x", "fs_security_list_keys"],
        &["fs_security_list_keys", "--json"],
        &["-ve", "--host=h", "fs_security_list_keys"],
        &["--host=h", "fs_sec"],
        &[
            "--host=h",
            "--odd",
            "fs_security_list_keys",
            "a",
            "-b",
            "--",
            "c",
        ],
        &["--host=h", "fs_security_list_keys", "--json=1"],
        &["--host=h", "fs_security_get_key"],
        &["--host=h", "fs_security_get_key", "-k"],
        &["--host=h", "fs_security_get_key", "--key", "-x"],
        &["--host=h", "fs_security_get_key", "-i", "1"],
        &["--host=h", "fs_security_get_key_usage", "-n", "a b"],
        &["--host=h", "fs_security_get_key_replace_challenge"],
        &["--host=h", "fs_security_delete_key"],
        &[
            "--host=h",
            "fs_security_modify_key",
            "-k1",
            "--enable",
            "--disable",
        ],
        &["--host=h", "fs_security_add_key", "--p=x"],
        &[
            "--host=h",
            "fs_security_add_key",
            "--name=a",
            "--public-key=b",
        ],
        &["--host=h", "fs_security_add_key", "--name=a", "--ver=b"],
        &["--host=h", "fs_security_replace_key"],
        &["--host=h", "fs_security_replace_key", "-k1"],
        &[
            "--host=h",
            "fs_security_replace_key",
            "-k1",
            "--replacement-public-key=a",
            "--replacement-key-verification-signature=b",
        ],
        &["--host=h", "snapshot_get_status"],
        &["--host=h", "snapshot_get_status", "-i", "it's 7"],
        &[
            "--host=h",
            "snapshot_list_statuses",
            "--only-l",
            "--exclude-l",
        ],
        &["--host=h", "snapshot_unlock_snapshot", "-i1"],
        &[
            "--host=h",
            "snapshot_unlock_snapshot",
            "-i1",
            "-sA",
            "-kno such file",
        ],
        &["--host=h", "snapshot_lock_snapshot", "-fz"],
        &["--host=h", "snapshot_lock_snapshot", "-fi7"],
    ] {
        pair.same_program(arguments);
    }
}

#[test]
fn keys_are_added_listed_changed_and_deleted() {
    let pair = Pair::new(NEW);
    let key = Key::new();
    pair.same(&["fs_security_list_keys"]);
    pair.same(&["fs_security_list_keys", "--json"]);
    for (index, text) in ODD_TEXTS.iter().enumerate() {
        let add = [
            "fs_security_add_key",
            &format!("--name={text}"),
            &format!("--public-key={}", key.public),
            &format!("--verification-signature={}", key.sign(text)),
            &format!("--comment={text}"),
            "--json",
        ];
        // In turn as JSON and as a table.
        pair.same(&add[..add.len() - index % 2]);
    }
    pair.same(&["fs_security_list_keys"]);
    pair.same(&["fs_security_list_keys", "--js"]);
    pair.same(&["fs_security_get_key", "-k", "1"]);
    pair.same(&["fs_security_get_key", "--k=2", "--json"]);
    pair.same(&[
        "fs_security_modify_key",
        "-k1",
        "--new-name",
        "plain",
        "--comment=",
    ]);
    pair.same(&["fs_security_modify_key", "-k=plain", "--disable", "--json"]);
    pair.same(&["fs_security_modify_key", "-kplain", "--enable"]);
    pair.same(&["fs_security_modify_key", "-k2", "--new-name=plain"]);
    pair.same(&["fs_security_modify_key", "-k2", "--new-name=123"]);
    pair.lock(2, "1");
    pair.same(&["fs_security_delete_key", "-k1"]);
    pair.same(&["fs_security_delete_key", "-k2"]);
    pair.same(&["fs_security_get_key", "-k2"]);
    pair.same_state();
}

#[test]
fn a_key_that_proves_nothing_is_not_added() {
    let pair = Pair::new(NEW);
    let key = Key::new();
    let p384 = Key::generate(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let compressed = key.public_key(&["-ec_conv_form", "compressed"]);
    let good = key.sign("name");
    let off_the_curve = format!("{}AAAA==", &key.public[..key.public.len() - 6]);
    for (name, public_key, signature) in [
        ("123", key.public.as_str(), good.as_str()),
        ("", &key.public, &good),
        ("name", "rubbish!", &good),
        ("name", &format!("{}\n", key.public), &good),
        ("name", "AAAA", &good),
        ("name", &off_the_curve, "rubbish!"),
        ("name", &p384.public, &p384.sign("name")),
        ("name", &compressed, &good),
        ("name", &key.public, &key.sign("name\n")),
        ("name", &key.public, &Key::new().sign("name")),
        (
            "name",
            &key.public,
            &format!("{}\n{}", &good[..64], &good[64..]),
        ),
        ("name", &key.public, &good[..good.len() - 4]),
        ("name", &key.public, &key.base64(&[0x5a; 64])),
        (
            "name",
            &key.public,
            &key.base64(&[0x30, 6, 2, 1, 0x81, 2, 1, 1]),
        ),
        (
            "name",
            &key.public,
            &key.base64(&[0x30, 7, 2, 2, 0, 1, 2, 1, 1]),
        ),
    ] {
        pair.same(&[
            "fs_security_add_key",
            &format!("--name={name}"),
            &format!("--public-key={public_key}"),
            &format!("--verification-signature={signature}"),
        ]);
    }
    pair.add_key("taken", "", &key);
    pair.same(&[
        "fs_security_add_key",
        "--name=taken",
        &format!("--public-key={}", key.public),
        &format!("--verification-signature={}", key.sign("taken")),
    ]);
    pair.same_state();
}

#[test]
fn a_reference_is_a_part_of_the_url() {
    let pair = Pair::new(NEW);
    let key = Key::new();
    pair.add_key("a", "", &key);
    pair.add_key("a b", "", &key);
    pair.add_key("a#b", "", &key);
    pair.lock(3, "1");
    for reference in [
        "a b",
        "it's\n",
        "\u{e9}",
        "n\u{20ac}\u{1f511}!",
        "a/usages",
        "a/b",
        "a?b",
        "a#b",
        "a%20b",
        "a%2",
        "",
    ] {
        pair.same(&["fs_security_get_key", "-k", reference]);
        pair.same(&["fs_security_get_key_replace_challenge", "-k", reference]);
    }
    pair.same(&["fs_security_get_key", "--json", "-k="]);
    pair.same(&["fs_security_get_key", "--json", "-ka/usages"]);
    pair.same(&["fs_security_get_key_usage", "-ka?b"]);
    pair.same(&["fs_security_get_key_usage", "-kcaf\u{e9}"]);
    pair.same(&["fs_security_delete_key", "-ka/b"]);
    pair.same_state();
}

/// The arguments that replace a key with these signatures.
fn replacement(reference: &str, new: &str, old_signature: &str, signature: &str) -> Vec<String> {
    vec![
        "fs_security_replace_key".to_owned(),
        format!("--key={reference}"),
        format!("--replacement-public-key={new}"),
        format!("--old-key-verification-signature={old_signature}"),
        format!("--replacement-key-verification-signature={signature}"),
    ]
}

fn as_strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_key_is_replaced() {
    let pair = Pair::new(NEW);
    let (old, new) = (Key::new(), Key::new());
    let id = pair.add_key("lock", "the \"first\"\nof many \u{1f511} ", &old);
    let challenge = pair.challenge(&["fs_security_get_key_replace_challenge", "-k", &id]);
    let (by_old, by_new) = (old.sign(&challenge), new.sign(&challenge));
    for (reference, key, old_signature, signature) in [
        ("9", new.public.as_str(), by_old.as_str(), by_new.as_str()),
        ("lock", "rubbish!", &by_old, &by_new),
        ("lock", &new.public, &by_new, &by_new),
        ("lock", &new.public, &by_old, &by_old),
        ("lock", &new.public, &old.sign("something else"), &by_new),
        ("lock", &new.public, &by_old, "rubbish!"),
    ] {
        pair.same(&as_strs(&replacement(
            reference,
            key,
            old_signature,
            signature,
        )));
    }
    let replace = replacement("lock", &new.public, &by_old, &by_new);
    pair.same(&as_strs(&replace));
    pair.same(&as_strs(&replace));
    pair.same_state();

    for text in ODD_TEXTS {
        pair.set_challenge(text);
        let challenge = pair.challenge(&["fs_security_get_key_replace_challenge", "--key=lock"]);
        assert_eq!(challenge, text);
    }
    let last = ODD_TEXTS[ODD_TEXTS.len() - 1];
    let mut replace = replacement(&id, &old.public, &new.sign(last), &old.sign(last));
    replace.push("--json".to_owned());
    pair.same(&as_strs(&replace));
    pair.same_state();
}

#[test]
fn snapshots_are_locked_and_unlocked() {
    let pair = Pair::new(NEW);
    let (key, other) = (Key::new(), Key::new());
    let id = pair.add_key("lock", "", &key);
    pair.add_key("off", "", &other);
    pair.core.modify_key("2", json!({ "disabled": true }));
    pair.mock.set_key_field("2", "disabled", "true");
    pair.mock.set_key_field("2", "version", "2");

    pair.same(&["snapshot_lock_snapshot", "-i3", "-k", "off", "-f"]);
    pair.same(&["snapshot_lock_snapshot", "-i3", "-k", "n\u{e9}", "-f"]);
    pair.same(&["snapshot_lock_snapshot", "-fi3", "-klock"]);
    pair.same(&[
        "snapshot_lock_snapshot",
        "--id= 0_3 ",
        "--lock-key=1",
        "--force",
    ]);
    pair.same(&["snapshot_lock_snapshot", "-i99", "-k1", "-f"]);
    pair.same(&["snapshot_lock_snapshot", "-i1", "-k1", "-f"]);
    for filter in [
        &[][..],
        &["--only-locked"],
        &["--exclude-locked"],
        &["--only-in-delete", "--only-locked"],
        &["--exclude-in-delete"],
    ] {
        pair.same(&[&["snapshot_list_statuses"], filter].concat());
    }
    pair.same(&["snapshot_get_status", "-i3"]);
    pair.same(&["snapshot_get_status", "-i", "-3"]);
    pair.same(&["snapshot_get_status", "-i99"]);
    for usage in [
        &["fs_security_get_key_usage", "-klock"][..],
        &["fs_security_get_key_usage", "-k1", "--json"],
        &["fs_security_get_key_usage", "-koff"],
        &["fs_security_get_key_usage", "-koff", "--json"],
    ] {
        pair.same(usage);
    }

    pair.same(&["snapshot_get_unlock_challenge", "-i2"]);
    let challenge = pair.challenge(&["snapshot_get_unlock_challenge", "-i3"]);
    pair.same(&[
        "snapshot_unlock_snapshot",
        "-i3",
        "-s",
        &other.sign(&challenge),
    ]);
    pair.same(&[
        "snapshot_unlock_snapshot",
        "-i3",
        "-s",
        &key.base64(&[7; 64]),
    ]);
    pair.same(&["snapshot_unlock_snapshot", "-i3", "-s="]);
    pair.same_state();
    pair.core.modify_key(&id, json!({ "disabled": true }));
    pair.mock.set_key_field(&id, "disabled", "true");
    pair.mock.set_key_field(&id, "version", "2");
    pair.same(&[
        "snapshot_unlock_snapshot",
        "-i3",
        "-s",
        &key.sign(&challenge),
    ]);
    pair.same(&[
        "snapshot_unlock_snapshot",
        "-i3",
        "-s",
        &key.sign(&challenge),
    ]);
    pair.same_state();
}

#[test]
fn usages_are_in_the_same_order() {
    let pair = Pair::new(NEW);
    pair.add_key("lock", "", &Key::new());
    for id in [10, 21, 100] {
        pair.core
            .add_snapshot(json!({ "id": id, "name": "more", "lock_key": "1" }));
        pair.mock.add_snapshot(id, "more", Some("1"));
    }
    pair.lock(2, "1");
    pair.same(&["fs_security_get_key_usage", "-k1"]);
    pair.same(&["fs_security_get_key_usage", "-k1", "--json"]);
    pair.same_state();
}

#[test]
fn faults_look_like_the_real_ones() {
    const LOCK: [&str; 5] = ["snapshot_lock_snapshot", "-i1", "-k1", "-f", "--force"];
    let pair = Pair::new(NEW);
    pair.add_key("lock", "", &Key::new());

    for (kind, more, fault) in [
        ("drop_before", json!({}), "drop-before"),
        (
            "status",
            json!({ "status": 403, "error_class": "some_error", "description": "Not for you." }),
            "status 403 some_error Not for you.",
        ),
        ("not_json", json!({}), "traceback"),
        ("drop_after", json!({}), "drop-after"),
    ] {
        pair.core.fault("lock", kind, more);
        pair.mock.fault("snapshot_lock_snapshot", fault);
        pair.same(&LOCK);
        pair.same_state();
    }
    pair.same(&LOCK);

    // Nothing listens on the port that is not one, and no credentials are in an empty file.
    let credentials = pair.core.home().join("none");
    fs::write(&credentials, "").expect("writing no credentials");
    let credentials = format!("--credentials-store={}", credentials.display());
    let port = pair.core.port().to_string();
    for (fault, port) in [("refused-connection", "0"), ("unauthenticated", &port)] {
        pair.mock.fault("fs_security_list_keys", fault);
        let target = ["--host=127.0.0.1", "--port", port, &credentials];
        pair.same_program(&[&target[..], &["fs_security_list_keys"]].concat());
    }
}

#[test]
fn the_older_dialect_is_the_same() {
    let pair = Pair::new(OLD);
    let (old, new) = (Key::new(), Key::new());
    let id = pair.add_key("lock", ODD_TEXTS[1], &old);
    pair.add_key(ODD_TEXTS[5], ODD_TEXTS[2], &new);
    pair.same_program(&[]);
    for arguments in [
        &["fs_security_list_keys", "--json"][..],
        &["fs_security_get_key"],
        &["fs_security_get_key", "-k", "1"],
        &["fs_security_get_key", "-i1", "-nlock"],
        &["fs_security_get_key", "-i", "x"],
        &["fs_security_get_key", "-i1"],
        &["fs_security_get_key", "-n="],
        &["fs_security_get_key", "-n", "lock", "--json"],
        &["fs_security_get_key", "--name=a b"],
        &["fs_security_replace_key"],
        &["snapshot_lock_snapshot", "-i1"],
        &["snapshot_lock_snapshot", "-i1", "-k1", "-f"],
        &["snapshot_lock_snapshot", "-i3", "-nlock", "-f"],
        &["snapshot_lock_snapshot", "-i3", "-nlock", "-f"],
        &["fs_security_get_key_usage", "-i1"],
        &["fs_security_get_key_usage", "-i1", "--json"],
    ] {
        pair.same(arguments);
    }
    let challenge = pair.challenge(&["snapshot_get_unlock_challenge", "-i3"]);
    pair.same(&[
        "snapshot_unlock_snapshot",
        "-i3",
        "-s",
        &old.sign(&challenge),
    ]);
    let challenge = pair.challenge(&["fs_security_get_key_replace_challenge", "-i", &id]);
    let mut replace = replacement(
        &id,
        &new.public,
        &old.sign(&challenge),
        &new.sign(&challenge),
    );
    replace[1] = format!("--id={id}");
    pair.same(&as_strs(&replace));
    pair.same_state();
}

// The mock by itself

fn run(mock: &Mock, arguments: &[&str]) -> Outcome {
    let output = mock.command().arg("--host=h").args(arguments).output();
    Outcome::of(output.expect("starting the mock qq"))
}

/// Locks snapshot 1, unless a fault prevents it; tells whether the snapshot is locked.
fn lock_with_fault(fault: &str) -> (Outcome, bool) {
    let mock = Mock::new();
    mock.add_key("lock", "", &Key::new().public);
    mock.fault("snapshot_lock_snapshot", fault);
    let outcome = run(&mock, &["snapshot_lock_snapshot", "-i1", "-k1", "-f"]);
    (outcome, mock.lock_key(1).is_some())
}

#[test]
fn each_fault_does_what_it_says() {
    const LOCKED: &str = "Snapshot 1 is locked with lock key 1.\n";
    const LOST: &str = "Connection error: Remote end closed connection without response\n";
    const TIMEOUT: &str = "Connection error: The read operation timed out\n";
    const PAGE: &str = "<html>\nThis is not what you are looking for.\n";
    const TRACEBACK: &str = "Traceback (most recent call last):\n\
        qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)\n";
    const WARNING: &str = "/usr/lib/python3/dist-packages/qumulo/lib/auth.py:14: DeprecationWarning: \
        'cgi' is deprecated and slated for removal in Python 3.13\n  import cgi\n";
    const WRONG_DIALECT: &str = "usage: qq snapshot_lock_snapshot [-h] -i ID [-f]\n\
        \x20                                (-k LOCK_KEY_ID | -n LOCK_KEY_NAME)\n\
        qq snapshot_lock_snapshot: error: argument -k/--lock-key-id: invalid int value: 'lock'\n";
    for (fault, code, stdout, stderr, locked) in [
        ("drop-before", Some(1), "", LOST, false),
        ("drop-after", Some(1), "", LOST, true),
        ("timeout-before", Some(1), "", TIMEOUT, false),
        ("timeout-after", Some(1), "", TIMEOUT, true),
        ("traceback", Some(1), "", TRACEBACK, false),
        ("traceback-after", Some(1), "", TRACEBACK, true),
        ("garbage", Some(0), PAGE, "", false),
        ("garbage-after", Some(0), PAGE, "", true),
        ("empty", Some(0), "", "", false),
        ("empty-after", Some(0), "", "", true),
        ("truncated", Some(0), &LOCKED[..LOCKED.len() / 2], "", true),
        ("kill-9", None, "", "", false),
        ("kill-9-after", None, "", "", true),
        ("warn", Some(0), LOCKED, WARNING, true),
        ("exit 3 It  broke.", Some(3), "", "It  broke.\n", false),
    ] {
        let expected = Outcome {
            code,
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        };
        assert_eq!(lock_with_fault(fault), (expected, locked), "{fault}");
    }

    let (outcome, locked) = lock_with_fault("huge");
    assert_eq!(
        (outcome.code, outcome.stdout.len(), locked),
        (Some(0), 64 << 20, false)
    );

    let mock = Mock::new();
    mock.fault("snapshot_lock_snapshot", "old-dialect");
    let outcome = run(&mock, &["snapshot_lock_snapshot", "-i1", "-klock", "-f"]);
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (Some(2), WRONG_DIALECT)
    );

    mock.fault("snapshot_lock_snapshot", "no-such-fault");
    let outcome = run(&mock, &["snapshot_lock_snapshot", "-i1", "-klock", "-f"]);
    assert_eq!(outcome.code, Some(64));
}

#[test]
fn faults_queue_up_and_always_stays() {
    let mock = Mock::new();
    mock.fault("snapshot_get_status", "exit 3 first");
    mock.fault("snapshot_get_status", "always exit 4 ever after");
    let codes: Vec<_> = (0..3)
        .map(|_| run(&mock, &["snapshot_get_status", "-i1"]).code)
        .collect();
    assert_eq!(codes, [Some(3), Some(4), Some(4)]);
    assert_eq!(run(&mock, &["snapshot_list_statuses"]).code, Some(0));
}

#[test]
fn a_stale_challenge_is_refused_and_the_next_one_is_new() {
    const CHALLENGES: [[&str; 3]; 2] = [
        ["fs_security_get_key_replace_challenge", "-k", "1"],
        ["snapshot_get_unlock_challenge", "-i", "1"],
    ];
    let mock = Mock::new();
    let key = Key::new();
    mock.add_key("lock", "", &key.public);
    mock.set_snapshot_field(1, "lock_key", "1");
    let challenge = |arguments: &[&str]| {
        let answer: Value = serde_json::from_str(&run(&mock, arguments).stdout).expect("JSON");
        answer["challenge"].as_str().expect("text").to_owned()
    };
    let submit = || {
        let [replace, unlock] = CHALLENGES.map(|arguments| key.sign(&challenge(&arguments)));
        [
            run(
                &mock,
                &as_strs(&replacement("1", &key.public, &replace, &replace)),
            )
            .code,
            run(&mock, &["snapshot_unlock_snapshot", "-i1", "-s", &unlock]).code,
        ]
    };
    let before = CHALLENGES.map(|arguments| challenge(&arguments));
    mock.fault("fs_security_replace_key", "stale");
    mock.fault("snapshot_unlock_snapshot", "stale");
    assert_eq!(submit(), [Some(1), Some(1)]);
    let after = CHALLENGES.map(|arguments| challenge(&arguments));
    assert!(before[0] != after[0] && before[1] != after[1], "{after:?}");
    assert_eq!(submit(), [Some(0), Some(0)]);
    assert_eq!((mock.key_version("1"), mock.lock_key(1)), (3, None));
}

/// Ends a process that a fault has left sleeping; fails if there is none.
fn end(process: u32) {
    let status = Command::new("kill").arg(process.to_string()).status();
    assert!(
        status.expect("starting kill").success(),
        "no process {process}"
    );
}

#[test]
fn hanging_faults_leave_sleepers() {
    for (fault, locked) in [("hang", false), ("hang-after", true)] {
        let mock = Mock::new();
        mock.add_key("lock", "", &Key::new().public);
        mock.fault("snapshot_lock_snapshot", fault);
        let mut child = mock
            .command()
            .args(["--host=h", "snapshot_lock_snapshot", "-i1", "-k1", "-f"])
            .spawn()
            .expect("starting the mock qq");
        while mock.sleepers().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(mock.sleepers(), [child.id()], "{fault}");
        // The cluster goes on meanwhile.
        assert_eq!(run(&mock, &["snapshot_get_status", "-i1"]).code, Some(0));
        assert_eq!(mock.lock_key(1).is_some(), locked, "{fault}");
        child.kill().expect("ending the mock qq");
        child.wait().expect("waiting for the mock qq");
    }
}

#[test]
fn a_grandchild_stays_behind() {
    let mock = Mock::new();
    let output = mock.state().join("output");
    let spawn = |fault| {
        mock.fault("snapshot_get_status", fault);
        // Not into a pipe: waiting for its end is waiting for the grandchild.
        mock.command()
            .args(["--host=h", "snapshot_get_status", "-i1"])
            .stdout(fs::File::create(&output).expect("making a file for the output"))
            .spawn()
            .expect("starting the mock qq")
    };

    let status = spawn("hang-with-grandchild")
        .wait()
        .expect("waiting for the mock qq");
    assert!(status.success());
    let printed = fs::read_to_string(&output).expect("reading the output");
    assert_eq!(printed, run(&mock, &["snapshot_get_status", "-i1"]).stdout);
    let [grandchild] = mock.sleepers()[..] else {
        panic!("expected one sleeper: {:?}", mock.sleepers());
    };
    end(grandchild);

    let mut child = spawn("hang-with-grandchild-and-stay");
    while mock.sleepers().len() < 3 {
        std::thread::yield_now();
    }
    assert_eq!(mock.sleepers()[2], child.id());
    end(mock.sleepers()[1]);
    child.kill().expect("ending the mock qq");
    child.wait().expect("waiting for the mock qq");
}

#[test]
fn invocations_side_by_side_get_along() {
    let mock = Mock::new();
    let key = Key::new();
    let names: Vec<String> = (0..12).map(|index| format!("key {index}")).collect();
    let signatures: Vec<String> = names.iter().map(|name| key.sign(name)).collect();
    // As a process that was killed in the middle of its work leaves it.
    let mut gone = Command::new("true").spawn().expect("starting true");
    gone.wait().expect("waiting for true");
    fs::write(mock.state().join("lock"), gone.id().to_string()).expect("leaving a stale lock");

    std::thread::scope(|scope| {
        for (name, signature) in names.iter().zip(&signatures) {
            let arguments = [
                "fs_security_add_key".to_owned(),
                format!("--name={name}"),
                format!("--public-key={}", key.public),
                format!("--verification-signature={signature}"),
            ];
            let mock = &mock;
            scope.spawn(move || {
                let outcome = run(mock, &as_strs(&arguments));
                assert_eq!(outcome.code, Some(0), "{outcome:?}");
            });
        }
    });

    let mut stored: Vec<String> = mock
        .key_ids()
        .iter()
        .map(|id| mock.key_field(id, "name"))
        .collect();
    stored.sort_by_key(|name| names.iter().position(|known| known == name));
    assert_eq!(stored, names);
    assert_eq!(mock.count("fs_security_add_key"), names.len());
}

#[test]
fn the_log_tells_the_exact_arguments() {
    let mock = Mock::new();
    let arguments = [&["--host=h", "", "\u{e9}1", "$'x'\u{1b}"], &ODD_TEXTS[..]].concat();
    for count in 0..=arguments.len() {
        mock.command()
            .args(&arguments[..count])
            .output()
            .expect("starting the mock qq");
    }
    let calls = mock.calls();
    assert_eq!(calls.len(), arguments.len() + 1);
    for (count, call) in calls.iter().enumerate() {
        assert_eq!(*call, arguments[..count]);
    }
}
