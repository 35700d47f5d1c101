//! Holds the mock `qq` of `fixtures/qq` against the real one, which talks to the simulated Core: the
//! same arguments must end with the same exit code, stdout and stderr. What both clusters hold at the
//! end shows in what the last calls of a table read.

use std::{fs, process::Command, thread};

use serde_json::{Value, json};

use crate::support::{
    core::{self, Core, QQ_VERSION},
    mock::Mock,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, Qkey},
};

/// The exit code, stdout and stderr of a program.
fn outcome(program: &mut Command) -> (Option<i32>, String, String) {
    let output = program.output().expect("starting a program");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let stderr = without_frames(&text(output.stderr));
    (output.status.code(), text(output.stdout), stderr)
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
    core: Core,
    mock: Mock,
    keys: Qkey,
}

impl Pair {
    /// Both hold the snapshots of a new mock, and no key.
    fn new() -> Pair {
        let (core, mock) = (Core::start(), Mock::new());
        let list = ["--host=h", "snapshot_list_statuses"];
        let (_, listed, _) = outcome(mock.command().args(list));
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        for snapshot in listed["entries"].as_array().expect("a list") {
            core.add_snapshot(snapshot.clone());
        }
        Pair {
            core,
            mock,
            keys: Qkey::new(),
        }
    }

    /// Stores alice's key in both clusters, as key 1.
    fn add_key(&self, name: &str, comment: &str) {
        let key = json!({ "name": name, "comment": comment, "public_key": ALICE_PUBLIC });
        assert_eq!(self.core.add_key(key), "1");
        assert_eq!(self.mock.add_key(name, comment, ALICE_PUBLIC), "1");
    }

    /// Runs both programs with these arguments, after those that reach the cluster.
    fn same(&self, arguments: &[&str]) {
        let port = self.core.port().to_string();
        let store = self.core.credentials().to_str().expect("a UTF-8 path");
        let target = ["--host=127.0.0.1", "--port", &port, "--credentials-store"];
        self.same_program(&[&target, &[store][..], arguments].concat());
    }

    /// Likewise, for each of these lines, whose blanks separate the arguments.
    fn same_lines<'a>(&self, lines: impl AsRef<[&'a str]>) {
        for line in lines.as_ref() {
            self.same(&line.split_whitespace().collect::<Vec<_>>());
        }
    }

    /// What both clusters hold.
    fn same_state(&self) {
        self.same_lines(["fs_security_list_keys --json", "snapshot_list_statuses"]);
    }

    /// Runs both with exactly these arguments.
    fn same_program(&self, arguments: &[&str]) {
        let run = |mut program: Command| {
            outcome(
                program
                    .args(arguments)
                    .env("PYTHONUTF8", "1")
                    .env("COLUMNS", "80")
                    .env("HOME", self.core.home())
                    .env_remove("XDG_CONFIG_HOME"),
            )
        };
        let mock = run(self.mock.command());
        let real = run(Command::new(core::qq(QQ_VERSION)));
        assert_eq!(mock, real, "mock (left) and real qq on {arguments:?}");
    }

    /// The signature of `alice` or `bob` over a text, as the cluster wants it.
    fn sign(&self, who: &str, text: &str) -> String {
        let script = r#"printf %s "$1" | openssl dgst -sha256 -sign "$0" | openssl base64 -A"#;
        let key = self.keys.path(&format!("{who}.pem"));
        outcome(Command::new("sh").args(["-c", script]).arg(key).arg(text)).1
    }
}

#[test]
fn the_same_arguments_are_refused() {
    let pair = Pair::new();
    for line in [
        "",
        "--version",
        "--host=h",
        "--ver",
        "--host --port 1",
        "--host=h --port=x fs_security_list_keys",
        "fs_security_list_keys --json",
        "--host=h fs_security_list_keys --json=1",
        "--host=h fs_security_list_keys a -b -- c",
        "--host=h fs_security_add_key --p=x",
        "--host=h fs_security_add_key",
        "--host=h fs_security_get_key_replace_challenge",
        "--host=h fs_security_get_key_usage -n a",
        "--host=h fs_security_get_key_usage --id=1 --json",
        "--host=h fs_security_replace_key",
        "--host=h fs_security_replace_key --name=lock",
        "--host=h snapshot_get_status",
        "--host=h snapshot_get_status -i it's",
        "--host=h snapshot_get_unlock_challenge -k1",
        "--host=h snapshot_list_statuses --only-l --exclude-l",
        "--host=h snapshot_lock_snapshot -fz",
        "--host=h snapshot_lock_snapshot -i7 --lock-key-id=1",
        "--host=h snapshot_unlock_snapshot -i1",
        "--host=h snapshot_unlock_snapshot -i1 -sA -k/dev/null",
    ] {
        pair.same_program(&line.split_whitespace().collect::<Vec<_>>());
    }
}

#[test]
fn the_same_keys_are_added() {
    let pair = Pair::new();
    let add = |name: &str, public_key: &str, signature: &str| {
        pair.same(&[
            "fs_security_add_key",
            &format!("--name={name}"),
            &format!("--public-key={public_key}"),
            &format!("--verification-signature={signature}"),
            &format!("--comment={name}"),
            "--json",
        ]);
    };
    pair.same_state();
    for name in [
        "vault 2026",
        "tr\u{e8}s s\u{fb}r \u{20ac} \u{1f511}",
        "\"quoted\" \\ it's $HOME `id` 100%",
        "two\nlines\n",
        " ends in blanks \t ",
        "-k=--json \u{1}\u{7f}&",
        "123",
        "vault 2026",
    ] {
        add(name, ALICE_PUBLIC, &pair.sign("alice", name));
    }
    let signature = pair.sign("alice", "name");
    add("name", BOB_PUBLIC, &signature);
    add("other", ALICE_PUBLIC, &signature);
    add("name", "rubbish!", &signature);
    add("name", "AAAA", &signature);
    add("name", ALICE_PUBLIC, "rubbish!");
    pair.same_state();
}

#[test]
fn the_same_key_is_replaced() {
    const CHALLENGE: &str = "fs_security_get_key_replace_challenge";
    let pair = Pair::new();
    pair.add_key("lock", "the \"first\"\nof many \u{1f511} ");
    for reference in ["1", "lock", "9", "a b", "\u{e9}", "n\u{20ac}\u{1f511}!"] {
        pair.same(&[CHALLENGE, "-k", reference]);
    }
    let text = "\"odd\" \\ \u{1f511} \u{1}\n ";
    pair.core.challenge_text(Some(text));
    pair.mock.set_challenge(text.as_bytes());
    pair.same(&[CHALLENGE, "--key=lock"]);
    let [by_alice, by_bob] = &["alice", "bob"].map(|who| pair.sign(who, text));
    for (reference, key, old, new) in [
        ("9", BOB_PUBLIC, by_alice, by_bob),
        ("no\u{e9}", BOB_PUBLIC, by_alice, by_bob),
        ("lock", "rubbish!", by_alice, by_bob),
        ("lock", BOB_PUBLIC, by_bob, by_bob),
        ("lock", BOB_PUBLIC, by_alice, by_alice),
        ("lock", BOB_PUBLIC, by_alice, by_bob),
        ("lock", BOB_PUBLIC, by_alice, by_bob),
        ("1", ALICE_PUBLIC, by_bob, by_alice),
    ] {
        pair.same(
            &replacement(reference, key, old, new)
                .each_ref()
                .map(|arg| &**arg),
        );
    }
    pair.core.challenge_text(None);
    fs::remove_file(pair.mock.state().join("challenge-text")).expect("it is there");
    // It shows the version.
    pair.same(&[CHALLENGE, "-k1"]);
    pair.same_state();
}

/// The arguments that replace a key with these signatures.
fn replacement(reference: &str, key: &str, old: &str, new: &str) -> [String; 6] {
    [
        "fs_security_replace_key".to_owned(),
        format!("--key={reference}"),
        format!("--replacement-public-key={key}"),
        format!("--old-key-verification-signature={old}"),
        format!("--replacement-key-verification-signature={new}"),
        "--json".to_owned(),
    ]
}

#[test]
fn the_same_snapshots_are_locked_and_unlocked() {
    let pair = Pair::new();
    pair.add_key("lock", "");
    pair.same_lines([
        "snapshot_lock_snapshot -fi3 -kn\u{e9}",
        "snapshot_lock_snapshot -fi3 -klock",
        "snapshot_lock_snapshot --id=0_3 --lock-key=1 --force",
        "snapshot_lock_snapshot -i99 -k1 -f",
        "snapshot_lock_snapshot -i1 -k1 -f",
        "snapshot_list_statuses --only-locked",
        "snapshot_list_statuses --exclude-locked",
        "snapshot_list_statuses --only-in-d --only-locked",
        "snapshot_list_statuses --exclude-in-d",
        "snapshot_get_status -i3",
        "snapshot_get_status -i99",
        "fs_security_get_key_usage -klock --json",
        "snapshot_get_unlock_challenge -i2",
        "snapshot_get_unlock_challenge -i3",
    ]);
    let challenge = "Unlock snapshot 3 locked with key 1, expiration \"2030-06-30T00:00:00Z\"";
    let [by_alice, by_bob] = ["alice", "bob"].map(|who| pair.sign(who, challenge));
    pair.core.modify_key("1", json!({ "disabled": true }));
    pair.mock.set_key_field("1", "disabled", "true");
    pair.same_lines([
        "snapshot_lock_snapshot -i2 -k1 -f",
        &format!("snapshot_unlock_snapshot -i3 -s {by_bob}"),
        &format!("snapshot_unlock_snapshot -i1 -s {by_alice}"),
        "snapshot_unlock_snapshot -i3 -s=",
        &format!("snapshot_unlock_snapshot -i3 -s {by_alice}"),
        &format!("snapshot_unlock_snapshot -i3 -s {by_alice}"),
        "fs_security_get_key_usage -k1 --json",
    ]);
    pair.same_state();
}

#[test]
fn faults_look_like_the_real_ones() {
    const LOCK: &str = "snapshot_lock_snapshot -i1 -k1 -f";
    let pair = Pair::new();
    pair.add_key("lock", "");
    let refused =
        json!({ "status": 403, "error_class": "some_error", "description": "Not for you." });
    for (line, operation, kind, more, fault) in [
        (LOCK, "lock", "drop_before", json!({}), "drop"),
        (
            LOCK,
            "lock",
            "status",
            refused,
            "status 403 some_error Not for you.",
        ),
        (LOCK, "lock", "not_json", json!({}), "traceback"),
        (LOCK, "lock", "drop_after", json!({}), "drop-after"),
        (
            "--timeout=1 snapshot_list_statuses",
            "list_statuses",
            "slow",
            json!({ "seconds": 2 }),
            "timeout",
        ),
    ] {
        pair.core.fault(operation, kind, more);
        let command = line.split(' ').find(|word| word.starts_with("snapshot"));
        pair.mock.fault(command.expect("a command"), fault);
        pair.same_lines([line, "snapshot_get_status -i1"]);
    }

    for (operation, command) in [
        ("unlock", "snapshot_unlock_snapshot"),
        ("replace_key", "fs_security_replace_key"),
    ] {
        pair.core.fault(operation, "stale", json!({}));
        pair.mock.fault(command, "stale");
    }
    let unlock = pair.sign(
        "alice",
        "Unlock snapshot 1 locked with key 1, expiration \"\"",
    );
    pair.same(&["snapshot_unlock_snapshot", "-i1", "-s", &unlock]);
    let challenge = "Replace key 1 version 1, name \"lock\", comment \"\"";
    let [old, new] = ["alice", "bob"].map(|who| pair.sign(who, challenge));
    let replace = replacement("1", BOB_PUBLIC, &old, &new);
    pair.same(&replace.each_ref().map(|arg| &**arg));
    pair.same_lines(["fs_security_get_key_replace_challenge -k1"]);

    // Nothing listens on the port that is not one, and there are no credentials in an empty file.
    let store = pair.keys.write("none", "");
    let store = format!("--credentials-store={}", store.display());
    let port = pair.core.port().to_string();
    for (fault, port) in [("refused-connection", "0"), ("unauthenticated", &port)] {
        pair.mock.fault("fs_security_list_keys", fault);
        let target = ["--host=127.0.0.1", "--port", port, &store];
        pair.same_program(&[&target[..], &["fs_security_list_keys"]].concat());
    }
}

#[test]
fn calls_side_by_side_get_along() {
    let pair = Pair::new();
    let names: Vec<String> = (10..22).map(|index| format!("key {index}")).collect();
    thread::scope(|scope| {
        for name in &names {
            let pair = &pair;
            scope.spawn(move || {
                let signature = pair.sign("alice", name);
                let program = &mut pair.mock.command();
                program.args(["--host=h", "fs_security_add_key", "--name", name]);
                program.args(["--public-key", ALICE_PUBLIC]);
                program.args(["--verification-signature", &signature]);
                let outcome = outcome(program);
                assert_eq!(outcome.0, Some(0), "{outcome:?}");
            });
        }
    });
    let ids = pair.mock.key_ids();
    let mut stored: Vec<String> = ids
        .iter()
        .map(|id| pair.mock.key_field(id, "name"))
        .collect();
    stored.sort();
    assert_eq!(stored, names);
    assert_eq!(pair.mock.count("fs_security_add_key"), names.len());
}
