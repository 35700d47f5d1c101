//! The table: ceremonies × faults × transports. Each scenario runs against the simulated Qumulo Core
//! over REST first, because that costs milliseconds, then through the real `qq` of up to three
//! versions, and every transport must give the same result: see [`over`]. The whole loss table runs
//! over REST; the real `qq` gets one loss of each class that it turns into something else, and a
//! `qq` that misbehaves as a process is a wrapper around the mock: see [`PROCESS_LOSSES`]. What only
//! the REST API has (certificates, tokens, connections) is in `rest.rs`.

use std::{cell::RefCell, fmt, fs, panic::resume_unwind, process::Command, thread};

use crate::support::{
    core::{Core, QQ_VERSION, qq},
    mock::Mock,
    qkey::{
        ALICE_PUBLIC, BOB_PUBLIC, CAROL_PUBLIC, Qkey, Run, expect_no_sleepers, is_alive,
        side_by_side, wait_until,
    },
    snapshot::filtered,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use snapbox::{IntoData, assert_data_eq, str};

/// How `qkey` reaches the Core.
#[derive(Clone, Copy, Debug)]
enum Transport {
    /// Through the `qq` program of this version.
    Qq(&'static str),
    Rest,
}

/// The one that names a key by `--id` or `--name`, and complains on stdout.
const OLD_QQ: Transport = Transport::Qq("6.1.0.3");
const NEW_QQ: Transport = Transport::Qq(QQ_VERSION);

const REST: [Transport; 1] = [Transport::Rest];
const BOTH: [Transport; 2] = [Transport::Rest, NEW_QQ];
const WITH_OLD_QQ: [Transport; 3] = [Transport::Rest, OLD_QQ, NEW_QQ];
const ALL: [Transport; 4] = [Transport::Rest, OLD_QQ, Transport::Qq("6.1.1"), NEW_QQ];

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qq(version) => write!(f, "qq {version}"),
            Self::Rest => f.write_str("rest"),
        }
    }
}

/// A Core, and `qkey` that reaches it over one transport.
struct Lab {
    transport: Transport,
    core: Core,
    qkey: Qkey,
    /// Variables on top of those of `qkey`; without a value they are taken away.
    env: RefCell<Vec<(String, Option<String>)>>,
    /// What was run, and what it said.
    runs: RefCell<Vec<(String, Run)>>,
    /// What the next run is about.
    note: RefCell<String>,
}

impl Lab {
    /// The Core is empty.
    fn new(transport: Transport) -> Self {
        let core = Core::start();
        let qkey = match transport {
            Transport::Qq(version) => Qkey::with_core(&core, version),
            Transport::Rest => Qkey::with_rest(&core),
        };
        Self {
            transport,
            core,
            qkey,
            env: RefCell::default(),
            runs: RefCell::default(),
            note: RefCell::default(),
        }
    }

    /// Puts alice's key into the Core as key 1, named "vault", which locks the snapshots 7 and 8;
    /// the snapshot 9 is not locked.
    fn hold_vault(&self) {
        let vault = json!({ "name": "vault", "public_key": ALICE_PUBLIC });
        assert_eq!(self.core.add_key(vault), "1");
        for (id, lock_key) in [(7, json!("1")), (8, json!("1")), (9, Value::Null)] {
            self.core
                .add_snapshot(json!({ "id": id, "lock_key": lock_key }));
        }
    }

    fn set(&self, name: &str, value: &str) {
        let value = Some(value.to_owned());
        self.env.borrow_mut().push((name.to_owned(), value));
    }

    fn unset(&self, name: &str) {
        self.env.borrow_mut().push((name.to_owned(), None));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.qkey.command(args);
        for (name, value) in &*self.env.borrow() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Says what the next run is about.
    fn note(&self, note: &str) {
        *self.note.borrow_mut() = format!("# {note}\n");
    }

    fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, |_| {})
    }

    /// Runs it, and does something else meanwhile, given its process id.
    fn run_with(&self, args: &[&str], meanwhile: impl FnOnce(u32)) -> Run {
        let child = self.command(args).spawn().expect("qkey runs");
        meanwhile(child.id());
        let output = child.wait_with_output().expect("qkey ends");
        let run = || {
            let mut run = self.qkey.taken(&output);
            // Only a slow machine shows progress.
            let lines = run.stderr.split_inclusive('\n');
            run.stderr = lines
                .filter(|line| !line.starts_with("unlocking snapshots: "))
                .collect();
            run
        };
        let title = format!("{}$ qkey {}\n", self.note.take(), args.join(" "));
        self.runs.borrow_mut().push((title, run()));
        run()
    }

    /// Runs it and expects success.
    fn done(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, 0, "{}: {args:?}: {run:#?}", self.transport);
        run
    }

    /// The public key that the Core holds.
    fn held(&self, id: &str) -> Value {
        self.core.key(id)["public_key"].clone()
    }

    fn lock_key(&self, snapshot: u64) -> Value {
        self.core.snapshot(snapshot)["lock_key"].clone()
    }

    /// Panics unless this is what the vault of [`Lab::hold_vault`] still is.
    fn assert_unchanged(&self, what: &str) {
        let what = format!("{}: {what}", self.transport);
        let keys = self.core.state()["keys"].as_array().unwrap().len();
        assert_eq!((keys, self.held("1")), (1, json!(ALICE_PUBLIC)), "{what}");
        let locks = [7, 8, 9].map(|id| self.lock_key(id));
        assert_eq!(locks, [json!("1"), json!("1"), Value::Null], "{what}");
    }

    /// The requests that were to change something, in order for each key and snapshot.
    fn submissions(&self) -> Vec<Value> {
        let mut submissions = self.core.requests();
        submissions.retain(|request| request["method"] != "GET");
        for submission in &mut submissions {
            let fields = submission.as_object_mut().expect("an object");
            fields.retain(|name, _| !["host", "connection"].contains(&&**name));
        }
        submissions.sort_by_key(|submission| submission["path"].to_string());
        submissions
    }
}

/// Runs a scenario over each transport, each with a Core of its own, and expects the same of all: exit
/// codes, stdout, stderr but for what [`neutral`] names, what the Core holds in the end, and what
/// was submitted to it. Returns what `qkey` said, once where all said the same.
fn over(transports: &[Transport], scenario: impl Fn(&Lab) + Sync) -> String {
    compared(transports, scenario, true)
}

/// As [`over`], where each transport has its own words for what is wrong.
fn over_in_own_words(transports: &[Transport], scenario: impl Fn(&Lab) + Sync) -> String {
    compared(transports, scenario, false)
}

fn compared(transports: &[Transport], scenario: impl Fn(&Lab) + Sync, same_words: bool) -> String {
    let lab_of = &|transport| {
        let lab = Lab::new(transport);
        scenario(&lab);
        lab
    };
    // A scenario that fails over the first transport does not wait for the others.
    let (&first, others) = transports.split_first().expect("at least one transport");
    let mut labs = vec![lab_of(first)];
    thread::scope(|scope| {
        let threads: Vec<_> = others
            .iter()
            .map(|&transport| scope.spawn(move || lab_of(transport)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        labs.extend(joined.map(|lab| lab.unwrap_or_else(|panic| resume_unwind(panic))));
    });
    let [first, others @ ..] = &labs[..] else {
        unreachable!("labs has the first");
    };
    for lab in others {
        let transports = format!("{} and {}", first.transport, lab.transport);
        let (runs, first_runs) = (lab.runs.borrow(), first.runs.borrow());
        assert_eq!(runs.len(), first_runs.len(), "{transports}");
        for ((title, run), (first_title, first_run)) in runs.iter().zip(&*first_runs) {
            assert_eq!(title, first_title, "{transports}");
            let what = format!("{transports}: {title}{run:#?}{first_run:#?}");
            assert_eq!(run.code, first_run.code, "{what}");
            assert_eq!(run.stdout, first_run.stdout, "{what}");
            if same_words {
                let [words, first_words] = [run, first_run].map(|run| neutral(&run.stderr));
                assert_eq!(words, first_words, "{what}");
            }
        }
        assert_eq!(lab.core.state(), first.core.state(), "{transports}");
        assert_eq!(lab.submissions(), first.submissions(), "{transports}");
    }
    let runs = first.runs.borrow();
    let said = runs.iter().enumerate().map(|(index, (title, _))| {
        let said = said_over(&labs, index);
        format!("{title}{said}")
    });
    said.collect()
}

/// What one run said, under the transports where it said that, if not all said the same.
fn said_over(labs: &[Lab], index: usize) -> String {
    let mut said: Vec<(Vec<String>, String)> = Vec::new();
    for lab in labs {
        let transcript = filtered(&lab.runs.borrow()[index].1);
        match said.iter_mut().find(|(_, other)| *other == transcript) {
            Some((transports, _)) => transports.push(lab.transport.to_string()),
            None => said.push((vec![lab.transport.to_string()], transcript)),
        }
    }
    match &said[..] {
        [(_, transcript)] => transcript.clone(),
        several => several
            .iter()
            .map(|(transports, transcript)| {
                format!("==== over {}\n{transcript}", transports.join(", "))
            })
            .collect(),
    }
}

/// What may differ between the transports: the commands in hints, who gave no usable answer, and the words
/// that are quoted of `qq`, of the connection or of such an answer.
fn neutral(stderr: &str) -> String {
    let own_words = [
        "`[QQ]` ",
        "qumulo.",
        "status ",
        "expected ",
        "it redirects ",
    ];
    let is_own = |line: &str| {
        let cause = line.strip_prefix("  caused by: ");
        cause.is_some_and(|cause| own_words.iter().any(|words| cause.starts_with(words)))
    };
    let lines = stderr.lines().map(without_commands);
    let neutral = lines.filter(|line| !is_own(line));
    let neutral = neutral.map(|line| unquoted(&line));
    neutral.collect::<Vec<_>>().join("\n")
}

/// Only what `qkey` itself has to say differs in hints: a token is no matter of `qq`'s, no command of
/// `qkey` shows all snapshots, and where no `qq` is run, no `qq` can be tried by hand.
const HINTS: [(&str, &str); 3] = [
    (", or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE", ""),
    ("shows which snapshots are locked", "shows what exists"),
    (
        "check that `[COMMAND]` works; if it does, run this again with -vv and report the output",
        "check --host and --port: a proxy or another service may respond there",
    ),
];

fn without_commands(line: &str) -> String {
    let programs = ["[QQ] --", "[DIR]/qq --", "qq --host", "qkey --via=rest "];
    let pieces = line.split('`').map(|piece| {
        let is_command = programs.iter().any(|program| piece.starts_with(program));
        if is_command { "[COMMAND]" } else { piece }
    });
    let line = pieces.collect::<Vec<_>>().join("`");
    HINTS
        .iter()
        .fold(line, |line, (of_one, of_all)| line.replace(of_one, of_all))
}

/// The line with `[WORDS]` in place of the transport's own explanation, and without the source of the
/// token, which only REST knows.
fn unquoted(line: &str) -> String {
    let after = line.find("); checked: ");
    let after = &line[after.unwrap_or(line.len())..];
    let call = |rest: &str| {
        let rest = rest.strip_suffix(after).unwrap_or(rest);
        rest.split(": ").next().unwrap_or_default().to_owned()
    };
    if let Some((before, _)) = line.split_once("not logged in to 127.0.0.1:[PORT] (") {
        return format!("{before}not logged in to 127.0.0.1:[PORT]");
    }
    if let Some((before, rest)) = line.split_once("cannot reach ") {
        return format!("{before}cannot reach {}: [WORDS]{after}", call(rest));
    }
    let silent = [
        "unexpected reply from ",
        "no reply from ",
        "lost the connection to ",
    ];
    for silent in silent {
        if let Some((before, rest)) = line.split_once(silent)
            && let Some((_, rest)) = rest.split_once(" the request to ")
        {
            return format!("{before}no usable reply to {}{after}", call(rest));
        }
    }
    match line.split_once("qq failed to ") {
        Some((before, rest)) => format!("{before}no usable reply to {}{after}", call(rest)),
        None => line.to_owned(),
    }
}

const ADD: [&str; 5] = ["add", "--name", "spare", "--key", "carol.pem"];
const REPLACE: [&str; 6] = [
    "replace",
    "--key-id=vault",
    "--old-key",
    "alice.pem",
    "--new-key",
    "bob.pem",
];
const LOCK: [&str; 3] = ["lock", "--id=9", "--lock-key=vault"];
const UNLOCK: [&str; 4] = ["unlock", "--id=7", "--key", "alice.pem"];

/// Each submission, and what makes it of the vault of [`Lab::hold_vault`].
const SUBMISSIONS: [(&str, &[&str]); 4] = [
    ("add_key", &ADD),
    ("replace_key", &REPLACE),
    ("lock", &LOCK),
    ("unlock", &UNLOCK),
];

// ---------------------------------------------------------------------------------------------
// Every ceremony
// ---------------------------------------------------------------------------------------------

#[test]
fn ceremonies_print_the_same_over_every_transport() {
    let said = over(&ALL, |lab| {
        let core = &lab.core;
        let submissions = |operation: &str| core.count(operation);
        let dry_run = |args: &[&str]| lab.run(&[args, &["--dry-run"]].concat());
        lab.run(&["keys"]);

        let add = [
            "add",
            "--name=vault",
            "--comment=in the safe",
            "--key=alice.pem",
        ];
        dry_run(&add);
        assert_eq!(submissions("add_key"), 0);
        lab.run(&add);
        let stored = core.key("1");
        assert_eq!(stored["name"], "vault");
        assert_eq!(stored["comment"], "in the safe");
        assert_eq!(stored["public_key"], ALICE_PUBLIC);
        lab.run(&add);
        assert_eq!(submissions("add_key"), 1);

        lab.run(&["keys", "list"]);
        lab.run(&["keys", "show", "vault"]);

        for id in [7, 8, 9] {
            core.add_snapshot(json!({ "id": id }));
        }
        let lock = ["lock", "--id=7", "--lock-key=vault"];
        dry_run(&lock);
        assert_eq!((submissions("lock"), lab.lock_key(7)), (0, Value::Null));
        lab.run(&lock);
        assert_eq!(lab.lock_key(7), "1");
        lab.run(&lock);
        assert_eq!(submissions("lock"), 1);
        core.modify_snapshot(8, json!({ "lock_key": "1" }));
        core.modify_snapshot(9, json!({ "lock_key": "1" }));

        core.page_limit(2, json!({}));
        lab.run(&["keys", "usage", "vault"]);

        dry_run(&REPLACE);
        assert_eq!(submissions("replace_key"), 0);
        assert_eq!(lab.held("1"), ALICE_PUBLIC);
        lab.run(&REPLACE);
        let stored = core.key("1");
        assert_eq!(stored["name"], "vault");
        assert_eq!(stored["comment"], "in the safe");
        assert_eq!(stored["public_key"], BOB_PUBLIC);
        lab.run(&REPLACE);
        assert_eq!(submissions("replace_key"), 1);

        // With the old key, then with the new one.
        lab.run(&UNLOCK);
        let unlock = ["unlock", "--id=7", "--key=bob.pem"];
        dry_run(&unlock);
        assert_eq!((submissions("unlock"), lab.lock_key(7)), (0, json!("1")));
        lab.run(&unlock);
        assert_eq!((submissions("unlock"), lab.lock_key(7)), (1, Value::Null));
    });
    assert_data_eq!(
        said,
        str![[r#"
$ qkey keys
The key store is empty.
$ qkey add --name=vault --comment=in the safe --key=alice.pem --dry-run
Dry run: key "vault" can be stored; signature verified, nothing sent.
  SHA256:[ALICE]
$ qkey add --name=vault --comment=in the safe --key=alice.pem
Stored key 1 ("vault") in the key store.
  SHA256:[ALICE]
$ qkey add --name=vault --comment=in the safe --key=alice.pem
Already stored as key 1 ("vault").
  SHA256:[ALICE]
$ qkey keys list
ID  NAME   STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   vault  enabled  SHA256:[ALICE…]  -               in the safe
$ qkey keys show vault
id              1
name            vault
comment         in the safe
state           enabled
fingerprint     SHA256:[ALICE]
public key      [ALICE]
configured key  -
$ qkey lock --id=7 --lock-key=vault --dry-run
Dry run: key 1 ("vault") can lock snapshot 7 ("7_snapshot"); nothing sent.
$ qkey lock --id=7 --lock-key=vault
Locked snapshot 7 ("7_snapshot") with key 1 ("vault").
$ qkey lock --id=7 --lock-key=vault
Snapshot 7 ("7_snapshot") is already locked with key 1 ("vault").
$ qkey keys usage vault
key 1 ("vault") protects:
  snapshot 7
  snapshot 8
  snapshot 9
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem --dry-run
Dry run: key 1 ("vault") can be replaced; both signatures verified, nothing sent.
  is SHA256:[ALICE]
  to SHA256:[BOB]
  challenge: "Replace key 1 version 1, name \"vault\", comment \"in the safe\""
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
Replaced key 1 ("vault").
  was SHA256:[ALICE]
  now SHA256:[BOB]
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
Key 1 ("vault") already holds the new key.
  SHA256:[BOB]
$ qkey unlock --id=7 --key alice.pem
--- exit 4
error: alice.pem (SHA256:[ALICE…]) does not match key 1 ("vault")
hint: nothing was sent; you need the private key for SHA256:[BOB…]
$ qkey unlock --id=7 --key=bob.pem --dry-run
Dry run: key 1 ("vault") can unlock snapshot 7 ("7_snapshot"); signature verified, nothing sent.
  challenge: "Unlock snapshot 7 locked with key 1, expiration \"\""
$ qkey unlock --id=7 --key=bob.pem
Unlocked snapshot 7 ("7_snapshot") with key 1 ("vault").

"#]]
        .raw()
    );
}

#[test]
fn unlock_of_several_prints_one_object_per_snapshot() {
    over(&BOTH, |lab| {
        lab.hold_vault();
        lab.core.modify_snapshot(7, json!({ "lock_key": null }));
        lab.core.modify_snapshot(9, json!({ "lock_key": "1" }));
        let several = [&UNLOCK[..], &["--id=8", "--id=9", "--output=json"]].concat();
        let run = lab.done(&several);
        let lines = run.stdout.lines();
        let lines: Vec<Value> = lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let changed: Vec<&Value> = lines.iter().map(|line| &line["changed"]).collect();
        assert_eq!(
            changed,
            [&json!(false), &json!(true), &json!(true), &Value::Null]
        );
        let summary = ["asked", "changed", "unchanged", "failed"].map(|name| {
            let number = lines[3]["summary"][name].as_u64();
            number.expect("a number")
        });
        assert_eq!(summary, [3, 2, 1, 0]);
        let locks = [7, 8, 9].map(|id| lab.lock_key(id));
        assert_eq!(locks, [Value::Null, Value::Null, Value::Null]);
    });
}

// ---------------------------------------------------------------------------------------------
// Odd texts
// ---------------------------------------------------------------------------------------------

fn a_key_with_an_odd_name_is_added_shown_and_replaced(transports: &[Transport], names: &[&str]) {
    over(transports, |lab| {
        for (index, name) in names.iter().enumerate() {
            let id = (index + 1).to_string();
            let comment = format!("{name} {name}");
            lab.done(&[
                "add",
                "--name",
                name,
                "--comment",
                &comment,
                "--key=alice.pem",
                "-q",
            ]);
            let stored = lab.core.key(&id);
            assert_eq!(stored["name"], **name);
            assert_eq!(stored["comment"], comment);
            lab.done(&[
                "replace",
                "--key-id",
                name,
                "--old-key=alice.pem",
                "--new-key=bob.pem",
                "-q",
            ]);
            assert_eq!(lab.held(&id), BOB_PUBLIC, "{name}");
        }
        let listed = lab.done(&["keys", "--output=json"]).json();
        let listed = listed["keys"].as_array().unwrap().iter();
        let listed: Vec<&str> = listed.map(|key| key["name"].as_str().unwrap()).collect();
        assert_eq!(listed, names);
        assert_eq!(lab.core.count("add_key"), names.len());
        assert_eq!(lab.core.count("replace_key"), names.len());
    });
}

#[test]
fn odd_key_names_survive_rest() {
    a_key_with_an_odd_name_is_added_shown_and_replaced(
        &REST,
        &[
            " spaces  around ",
            "a/b?c#d%2Fe",
            "Schlüssel Ω ключ 鍵 🔑",
            r#"it's "quoted" \ and $(so) on"#,
            "--json",
            "..",
            "two\nlines",
        ],
    );
}

#[test]
fn odd_key_names_survive_both_dialects_of_qq() {
    a_key_with_an_odd_name_is_added_shown_and_replaced(
        &WITH_OLD_QQ,
        &["--a/b ?#%", "'\"\\ 🔑 ключ\n ", ".."],
    );
}

#[test]
fn oddly_named_key_locks_and_shows_usage() {
    let name = "-a/b ?#%20 \"é🔑\"";
    over(&WITH_OLD_QQ, |lab| {
        lab.hold_vault();
        lab.core.modify_key("1", json!({ "name": name }));
        lab.done(&["lock", "--id=9", "--lock-key", name]);
        assert_eq!(lab.lock_key(9), "1");
        let usage = lab
            .done(&["keys", "usage", "-k", name, "--output=json"])
            .json();
        let snapshot = |id: &str| json!({ "type": "snapshot", "id": id });
        assert_eq!(
            usage["keys"][0]["usages"],
            json!([snapshot("7"), snapshot("8"), snapshot("9")])
        );
    });
}

fn an_odd_challenge_is_signed_byte_for_byte(transports: &[Transport], challenges: &[&str]) {
    over(transports, |lab| {
        lab.hold_vault();
        let mut keys = [("alice", ALICE_PUBLIC), ("bob", BOB_PUBLIC)];
        for challenge in challenges {
            lab.core.challenge_text(Some(challenge));
            let [old, new] = keys.map(|(name, _)| format!("{name}.pem"));
            lab.done(&["replace", "-k1", "--old-key", &old, "--new-key", &new]);
            assert_eq!(lab.held("1"), keys[1].1);
            lab.core.modify_snapshot(7, json!({ "lock_key": "1" }));
            lab.done(&["unlock", "--id=7", "--key", &new]);
            assert_eq!(lab.lock_key(7), Value::Null);
            keys.swap(0, 1);
        }
        assert_eq!(lab.core.count("replace_key"), challenges.len());
        assert_eq!(lab.core.count("unlock"), challenges.len());
    });
}

#[test]
fn odd_challenges_are_signed_byte_for_byte_over_rest() {
    let long = "challenge ".repeat(1_000);
    an_odd_challenge_is_signed_byte_for_byte(
        &REST,
        &[
            " ",
            r#""quotes" and \backslashes\ \n \u0041"#,
            " lines\nand\r\nblanks around \t \n ",
            "é Ω 🔑 \u{2028} \u{fffd} \u{1} \u{7f}",
            &long,
        ],
    );
}

#[test]
fn odd_challenges_are_signed_byte_for_byte_through_qq() {
    let long = "längs 🔑 ".repeat(1_250);
    an_odd_challenge_is_signed_byte_for_byte(&WITH_OLD_QQ, &["\"\\ é\n🔑 \u{1} \n", &long]);
}

#[test]
fn user_locale_does_not_affect_qq() {
    let c = &[("LC_ALL", "C")][..];
    let latin_1 = &[
        ("LC_ALL", "C"),
        ("PYTHONIOENCODING", "latin-1"),
        ("PYTHONUTF8", "0"),
    ];
    for (transports, locale) in [(&[NEW_QQ][..], c), (&[OLD_QQ, NEW_QQ], latin_1)] {
        over(transports, |lab| {
            let what = format!("{} {locale:?}", lab.transport);
            lab.hold_vault();
            for (name, value) in locale {
                lab.set(name, value);
            }
            let name = "clé 🔑";
            lab.core.challenge_text(Some("défi 🔑"));
            lab.done(&["add", "--name", name, "--comment=é🔑", "--key=carol.pem"]);
            let stored = lab.core.key("2");
            assert_eq!(stored["name"], name, "{what}");
            assert_eq!(stored["comment"], "é🔑", "{what}");
            lab.done(&REPLACE);
            assert_eq!(lab.held("1"), BOB_PUBLIC, "{what}");
            let shown = lab.done(&["keys", "show", name]);
            assert!(shown.stdout.contains(name), "{what}: {shown:?}");
        });
    }
}

// ---------------------------------------------------------------------------------------------
// Odd answers that are answers all the same
// ---------------------------------------------------------------------------------------------

/// Every operation that a ceremony needs.
const OPERATIONS: [&str; 9] = [
    "list_keys",
    "key_usage",
    "add_key",
    "replace_challenge",
    "replace_key",
    "get_status",
    "lock",
    "unlock_challenge",
    "unlock",
];

/// Every ceremony once, for the vault of [`Lab::hold_vault`].
fn every_ceremony(lab: &Lab) {
    for (_, args) in SUBMISSIONS {
        // Bob's key locks the snapshot since the replacement.
        let args = args.iter().map(|arg| match (args[0], *arg) {
            ("unlock", "alice.pem") => "bob.pem",
            (_, arg) => arg,
        });
        lab.done(&args.collect::<Vec<_>>());
    }
    lab.done(&["keys", "usage", "vault"]);
    for (operation, _) in SUBMISSIONS {
        assert_eq!(
            lab.core.count(operation),
            1,
            "{}: {operation}",
            lab.transport
        );
    }
    assert_eq!(lab.core.key("2")["name"], "spare");
    assert_eq!(lab.held("1"), BOB_PUBLIC);
    assert_eq!(
        (lab.lock_key(7), lab.lock_key(9)),
        (Value::Null, json!("1"))
    );
}

#[test]
fn unknown_fields_and_chunked_replies_are_accepted() {
    let kinds = ["with_extra", "chunked"];
    for (begin, transports) in [&BOTH[..], &REST].into_iter().enumerate() {
        over(transports, |lab| {
            lab.hold_vault();
            let kinds = kinds.iter().cycle().skip(begin);
            for (operation, kind) in OPERATIONS.into_iter().zip(kinds) {
                lab.core.fault(operation, kind, times(0, json!({})));
            }
            every_ceremony(lab);
        });
    }
}

#[test]
fn paged_usage_is_shown_completely_or_not_at_all() {
    let said = over(&BOTH, |lab| {
        lab.hold_vault();
        for id in 11..=15 {
            lab.core.add_snapshot(json!({ "id": id, "lock_key": "1" }));
        }
        for limit in [1, 3] {
            lab.core.page_limit(limit, json!({}));
            let run = lab.done(&["keys", "usage", "vault"]);
            assert_eq!(run.stdout.lines().count(), 1 + 7, "{limit}: {run:?}");
        }
        lab.core.page_limit(4, json!({}));
        lab.core.fault("key_usage", "slow", json!({ "seconds": 0 }));
        let away = json!({ "status": 500, "times": 0 });
        lab.core.fault("key_usage", "status", away);
        let run = lab.run(&["keys", "usage", "vault", "-q"]);
        assert!(run.stdout.is_empty(), "not a part of it: {run:?}");
    });
    assert_data_eq!(
        said,
        str![[r#"
$ qkey keys usage vault
key 1 ("vault") protects:
  snapshot 7
  snapshot 8
  snapshot 11
  snapshot 12
  snapshot 13
  snapshot 14
  snapshot 15
$ qkey keys usage vault
key 1 ("vault") protects:
  snapshot 7
  snapshot 8
  snapshot 11
  snapshot 12
  snapshot 13
  snapshot 14
  snapshot 15
$ qkey keys usage vault -q
--- exit 5
error: 127.0.0.1:[PORT] failed to list what key 1 protects
  caused by: Error 500: http_internal_server_error: Simulated failure 500.
hint: the cluster reports an internal problem; check its health, then run this again

"#]]
        .raw()
    );
}

#[test]
fn reply_without_required_field_is_unusable() {
    let said = over(&REST, |lab| {
        lab.hold_vault();
        let without = |operation: &str, field: &str, args: &[&str]| {
            lab.note(&format!("{operation} without {field}"));
            let field = json!({ "field": field, "times": 0 });
            lab.core.fault(operation, "without", field);
            lab.run(args);
            lab.core.clear_faults();
        };
        without("list_keys", "public_key", &["keys"]);
        without("list_keys", "id", &REPLACE);
        without("replace_challenge", "challenge", &REPLACE);
        without("get_status", "lock_key", &UNLOCK);
        without("unlock_challenge", "challenge", &UNLOCK);
        assert_eq!(lab.submissions(), [Value::Null; 0]);
        // What may be missing.
        without(
            "get_status",
            "name",
            &[&UNLOCK[..], &["--dry-run"]].concat(),
        );
        without("list_keys", "comment", &["keys", "show", "vault"]);
        lab.assert_unchanged("nothing was sent");
        // What was done is looked up.
        without("add_key", "id", &ADD);
        without("replace_key", "public_key", &REPLACE);
    });
    assert_data_eq!(said, str![[r##"
# list_keys without public_key
$ qkey keys
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (missing field `public_key` at line 1 column 75), got: {"entries": [{"id": "1", "name": "vault", "comment": "", "disabled": false}]}
hint: check --host and --port: a proxy or another service may respond there
# list_keys without id
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (missing field `id` at line 1 column 206), got: {"entries": [{"name": "vault", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJ…
hint: check --host and --port: a proxy or another service may respond there
# replace_challenge without challenge
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to get the challenge to replace key 1
  caused by: expected a challenge in JSON (missing field `challenge` at line 1 column 2), got: {}
hint: check --host and --port: a proxy or another service may respond there
# get_status without lock_key
$ qkey unlock --id=7 --key alice.pem
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 7
  caused by: expected the snapshot's status in JSON (missing field `lock_key` at line 1 column 208), got: {"id": 7, "name": "7_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name":…
hint: check --host and --port: a proxy or another service may respond there
# unlock_challenge without challenge
$ qkey unlock --id=7 --key alice.pem
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to get the challenge to unlock snapshot 7
  caused by: expected a challenge in JSON (missing field `challenge` at line 1 column 2), got: {}
hint: check --host and --port: a proxy or another service may respond there
# get_status without name
$ qkey unlock --id=7 --key alice.pem --dry-run
Dry run: key 1 ("vault") can unlock snapshot 7; signature verified, nothing sent.
  challenge: "Unlock snapshot 7 locked with key 1, expiration \"\""
# list_keys without comment
$ qkey keys show vault
id              1
name            vault
comment
state           enabled
fingerprint     SHA256:[ALICE]
public key      [ALICE]
configured key  -
# add_key without id
$ qkey add --name spare --key carol.pem
Stored key 2 ("spare") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: unexpected reply to the request to add key "spare" (unexpected reply from 127.0.0.1:[PORT] to the request to store key "spare": expected the key in JSON (missing field `id` at line 1 column 193), got: {"name": "spare", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE4pvPqFpgnVaiL1Uq9…); checked: it was done
# replace_key without public_key
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
Replaced key 1 ("vault").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: unexpected reply to the request to replace key 1 ("vault") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON (missing field `public_key` at line 1 column 62), got: {"id": "1", "name": "vault", "comment": "", "disabled": false}); checked: it was done

"##]].raw());
}

// ---------------------------------------------------------------------------------------------
// Stale challenges
// ---------------------------------------------------------------------------------------------

#[test]
fn stale_challenge_is_fetched_and_signed_again() {
    over(&WITH_OLD_QQ, |lab| {
        lab.hold_vault();
        // The snapshot first: its key is replaced afterwards.
        for (operation, args) in [("unlock", &UNLOCK[..]), ("replace_key", &REPLACE)] {
            lab.core.fault(operation, "stale", json!({}));
            let run = lab.done(args);
            assert_eq!(run.stderr, "", "{}", lab.transport);
            assert_eq!(lab.core.count(operation), 2, "{}", lab.transport);
        }
        assert_eq!(lab.lock_key(7), Value::Null);
        assert_eq!(lab.held("1"), BOB_PUBLIC);
    });
}

#[test]
fn always_stale_challenge_stops_after_attempts() {
    let said = over(&REST, |lab| {
        lab.hold_vault();
        for operation in ["replace_key", "unlock"] {
            lab.core.fault(operation, "stale", json!({ "times": 0 }));
        }
        for (operation, args) in [("replace_key", &REPLACE[..]), ("unlock", &UNLOCK)] {
            for attempts in 1..=3 {
                lab.core.clear_requests();
                lab.run(&[args, &[&format!("--attempts={attempts}")]].concat());
                assert_eq!(lab.core.count(operation), attempts, "{operation}");
            }
            lab.core.clear_requests();
            lab.run(args);
            assert_eq!(lab.core.count(operation), 2, "{operation}: the default");
        }
        lab.assert_unchanged("stale");
    });
    assert_data_eq!(said, str![[r#"
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem --attempts=1
--- exit 5
error: the challenge changed before the submission
  caused by: 127.0.0.1:[PORT] refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem --attempts=2
--- exit 5
error: the challenge changed before each of 2 submissions
  caused by: 127.0.0.1:[PORT] refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem --attempts=3
--- exit 5
error: the challenge changed before each of 3 submissions
  caused by: 127.0.0.1:[PORT] refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
--- exit 5
error: the challenge changed before each of 2 submissions
  caused by: 127.0.0.1:[PORT] refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts
$ qkey unlock --id=7 --key alice.pem --attempts=1
--- exit 5
error: the challenge changed before the submission
  caused by: 127.0.0.1:[PORT] refused to unlock snapshot 7
  caused by: Error 400: invalid_request_error: The signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts
$ qkey unlock --id=7 --key alice.pem --attempts=2
--- exit 5
error: the challenge changed before each of 2 submissions
  caused by: 127.0.0.1:[PORT] refused to unlock snapshot 7
  caused by: Error 400: invalid_request_error: The signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts
$ qkey unlock --id=7 --key alice.pem --attempts=3
--- exit 5
error: the challenge changed before each of 3 submissions
  caused by: 127.0.0.1:[PORT] refused to unlock snapshot 7
  caused by: Error 400: invalid_request_error: The signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts
$ qkey unlock --id=7 --key alice.pem
--- exit 5
error: the challenge changed before each of 2 submissions
  caused by: 127.0.0.1:[PORT] refused to unlock snapshot 7
  caused by: Error 400: invalid_request_error: The signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts

"#]].raw());
}

// ---------------------------------------------------------------------------------------------
// Lost answers
// ---------------------------------------------------------------------------------------------

/// What happens to the answer of a submission.
struct Loss {
    kind: &'static str,
    more: Value,
    /// The exit code when the Core did not carry it out; none when it did.
    not_done: Option<i32>,
}

fn losses() -> Vec<Loss> {
    let loss = |kind, more, not_done| Loss {
        kind,
        more,
        not_done,
    };
    vec![
        loss("drop_after", json!({}), None),
        loss("drop_before", json!({}), Some(8)),
        loss("drop_before", json!({ "late": true }), Some(8)),
        loss("cut_after", json!({}), None),
        loss("not_json_after", json!({}), None),
        loss("truncated_after", json!({}), None),
        loss("empty_after", json!({}), None),
        loss("empty", json!({}), Some(8)),
        loss("empty", json!({ "status": 500, "late": true }), Some(8)),
        loss("empty", json!({ "status": 404, "late": true }), Some(8)),
        loss(
            "redirect",
            json!({ "location": "/v1", "late": true }),
            Some(8),
        ),
        loss("html_502", json!({}), Some(8)),
        loss("html_502", json!({ "late": true }), Some(8)),
        loss("cut", json!({ "late": true }), Some(8)),
        loss("html_502_after", json!({}), None),
        loss("status_after", json!({ "status": 500 }), None),
        loss("status_after", json!({ "status": 503 }), None),
        loss("status", json!({ "status": 500 }), Some(5)),
        loss("status", json!({ "status": 503 }), Some(8)),
        loss("status", json!({ "status": 408, "late": true }), Some(8)),
        // Longer than the test takes: nobody waits beyond the deadline.
        loss("slow_after", json!({ "seconds": 600 }), None),
        loss("slow", json!({ "seconds": 600 }), Some(8)),
    ]
}

/// Puts into the Core what the submission numbered `number` needs, and says how it is made.
fn prepare(lab: &Lab, operation: &str, number: u64) -> Vec<String> {
    let snapshot = 100 + number;
    let lock = |lock_key: Value| {
        let snapshot = json!({ "id": snapshot, "lock_key": lock_key });
        lab.core.add_snapshot(snapshot);
    };
    let args = match operation {
        "add_key" => format!("add --name=new-{number} --key=carol.pem"),
        "replace_key" => {
            let key = json!({ "name": format!("old-{number}"), "public_key": ALICE_PUBLIC });
            lab.core.add_key(key);
            format!("replace -k old-{number} --old-key=alice.pem --new-key=bob.pem")
        }
        "lock" => {
            lock(Value::Null);
            format!("lock --id={snapshot} --lock-key=vault")
        }
        _ => {
            lock(json!("1"));
            format!("unlock --id={snapshot} --key=alice.pem")
        }
    };
    args.split(' ').map(str::to_owned).collect()
}

/// Whether the Core has carried out what [`prepare`] has prepared.
fn is_done(lab: &Lab, operation: &str, number: u64) -> bool {
    let keys = lab.core.state()["keys"].clone();
    let key = |name: String| {
        let mut keys = keys.as_array().unwrap().iter();
        keys.find(|key| key["name"] == name).cloned()
    };
    match operation {
        "add_key" => key(format!("new-{number}")).is_some(),
        "replace_key" => key(format!("old-{number}")).unwrap()["public_key"] == BOB_PUBLIC,
        "lock" => lab.lock_key(100 + number) == "1",
        _ => lab.lock_key(100 + number) == Value::Null,
    }
}

/// Meets each loss in turn, and compares what is said with what the Core holds.
fn every_loss_is_looked_up(transports: &[Transport], operation: &str, losses: &[Loss]) -> String {
    // They wait more than they work.
    const PER_CORE: usize = 6;
    thread::scope(|scope| {
        let threads: Vec<_> = losses
            .chunks(PER_CORE)
            .map(|losses| scope.spawn(move || losses_are_looked_up(transports, operation, losses)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|said| said.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

fn losses_are_looked_up(transports: &[Transport], operation: &str, losses: &[Loss]) -> String {
    // Nothing is lost with an empty answer where the API has no other.
    let says_nothing = ["lock", "unlock"].contains(&operation);
    over(transports, |lab| {
        lab.hold_vault();
        for (number, loss) in (0..).zip(losses) {
            let what = format!("{}: {operation} {} {}", lab.transport, loss.kind, loss.more);
            let mut args = prepare(lab, operation, number);
            if loss.kind.starts_with("slow") {
                args.push("--timeout=8".to_owned());
            }
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            lab.note(&format!("{} {}", loss.kind, loss.more));
            lab.core.fault(operation, loss.kind, loss.more.clone());
            let before = lab.core.count(operation);
            let run = lab.run(&args);
            let is_done = is_done(lab, operation, number);
            assert_eq!(lab.core.count(operation) - before, 1, "{what}: once");
            assert_eq!(is_done, loss.not_done.is_none(), "{what}: in the Core");
            assert_eq!(run.code, loss.not_done.unwrap_or(0), "{what}: {run:#?}");
            let words = match loss.not_done {
                None if loss.kind == "empty_after" && says_nothing => "",
                None => "); checked: it was done",
                Some(8) => "not done so far, and may still be",
                Some(_) => "checked: it was not done",
            };
            assert!(run.stderr.contains(words), "{what}: {run:#?}");
            assert_eq!(run.stdout.is_empty(), !is_done, "{what}: {run:#?}");
            if loss.more["late"] == true {
                lab.core.carry_out_late();
                assert!(self::is_done(lab, operation, number), "{what}: late");
            }
        }
    })
}

/// Replies about something other than was asked for, and 200s with which nothing was done.
#[test]
fn reply_about_another_object_never_counts_as_success() {
    let other = json!({ "set": { "id": 8, "lock_key": null } });
    let key = json!({ "set": { "id": "9" } });
    let said = over(&REST, |lab| {
        lab.hold_vault();
        let always = |more: &Value| {
            let mut more = more.clone();
            more["times"] = json!(0);
            more
        };
        for (what, on, kind, more, args) in [
            (
                "another snapshot's status",
                "get_status",
                "edited",
                &other,
                &UNLOCK[..],
            ),
            (
                "another snapshot's status",
                "get_status",
                "edited",
                &other,
                &LOCK,
            ),
            ("an empty 200", "unlock", "empty", &json!({}), &UNLOCK),
            ("an empty 200", "lock", "empty", &json!({}), &LOCK),
            ("another key", "replace_key", "edited", &key, &REPLACE),
            ("another key", "add_key", "edited", &key, &ADD),
        ] {
            lab.note(what);
            lab.core.fault(on, kind, always(more));
            let run = lab.run(args);
            assert_ne!(run.code, 0, "{what}: {run:#?}");
            lab.assert_unchanged(what);
            lab.core.clear_faults();
        }
    });
    assert_data_eq!(said, str![[r##"
# another snapshot's status
$ qkey unlock --id=7 --key alice.pem
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 7
  caused by: expected the snapshot's status in JSON (it is about another object), got: {"id": 8, "name": "7_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name":…
hint: check --host and --port: a proxy or another service may respond there
# another snapshot's status
$ qkey lock --id=9 --lock-key=vault
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 9
  caused by: expected the snapshot's status in JSON (it is about another object), got: {"id": 8, "name": "9_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name":…
hint: check --host and --port: a proxy or another service may respond there
# an empty 200
$ qkey unlock --id=7 --key alice.pem
--- exit 8
error: the cluster accepted the request to unlock snapshot 7 ("7_snapshot"), but does not show it: not done so far, and may still be
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
# an empty 200
$ qkey lock --id=9 --lock-key=vault
--- exit 8
error: the cluster accepted the request to lock snapshot 9 ("9_snapshot"), but does not show it: not done so far, and may still be
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
# another key
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
--- exit 8
error: unexpected reply to the request to replace key 1 ("vault"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1
  caused by: expected the key in JSON (it is about another object), got: {"id": "9", "name": "vault", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028…
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# another key
$ qkey add --name spare --key carol.pem
--- exit 8
error: the cluster accepted the request to add key "spare", but does not show it: not done so far, and may still be
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first

"##]].raw());
}

#[test]
fn reply_about_another_key_is_looked_up() {
    let said = over(&BOTH, |lab| {
        lab.hold_vault();
        for (what, on, set, args) in [
            (
                "another name",
                "add_key",
                json!({ "name": "other" }),
                &ADD[..],
            ),
            ("another id", "replace_key", json!({ "id": "2" }), &REPLACE),
        ] {
            lab.note(what);
            lab.core.fault(on, "edited_after", json!({ "set": set }));
            lab.done(args);
        }
    });
    assert_data_eq!(said, str![[r##"
# another name
$ qkey add --name spare --key carol.pem
==== over rest
Stored key 2 ("spare") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: unexpected reply to the request to add key "spare" (unexpected reply from 127.0.0.1:[PORT] to the request to store key "spare": expected the key in JSON (it is about another object), got: {"id": "2", "name": "other", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE4pvPqF…); checked: it was done
==== over qq 7.10.2.1
Stored key 2 ("spare") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: unexpected reply to the request to add key "spare" (unexpected reply from 127.0.0.1:[PORT] to the request to store key "spare": expected the key in JSON (it is about another object), got: {     "comment": "",     "disabled": false,     "id": "2",     "name": "other",     "public_key": "MFkwEwYHKoZIzj0CAQYIK…); checked: it was done
# another id
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
==== over rest
Replaced key 1 ("vault").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: unexpected reply to the request to replace key 1 ("vault") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON (it is about another object), got: {"id": "2", "name": "vault", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028…); checked: it was done
==== over qq 7.10.2.1
Replaced key 1 ("vault").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: unexpected reply to the request to replace key 1 ("vault") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON (it is about another object), got: {     "comment": "",     "disabled": false,     "id": "2",     "name": "vault",     "public_key": "MFkwEwYHKoZIzj0CAQYIK…); checked: it was done

"##]].raw());
}

#[test]
fn refused_listing_falls_back_to_status_per_snapshot() {
    over(&REST, |lab| {
        lab.hold_vault();
        let refused = json!({ "status": 403, "times": 0 });
        lab.core.fault("list_statuses", "status", refused);
        lab.done(&["unlock", "--id=7", "--id=8", "--key", "alice.pem"]);
        assert_eq!(lab.core.count("list_statuses"), 1);
        assert_eq!(lab.core.count("get_status"), 4);
    });
}

#[test]
fn accepted_but_ignored_unlocks_are_reported_as_unknown() {
    let said = over(&[NEW_QQ, Transport::Rest], |lab| {
        lab.hold_vault();
        lab.core.fault("unlock", "empty", json!({ "id": 8 }));
        let several = ["unlock", "--id=7", "--id=8", "--id=9", "--key", "alice.pem"];
        let run = lab.run(&several);
        assert_eq!(run.code, 8);
        assert_eq!([7, 8].map(|id| lab.lock_key(id)), [Value::Null, json!("1")]);
        assert_eq!(lab.core.count("list_statuses"), 4);
    });
    assert_data_eq!(said, str![[r#"
$ qkey unlock --id=7 --id=8 --id=9 --key alice.pem
==== over qq 7.10.2.1
Unlocked snapshot 7 ("7_snapshot") with key 1 ("vault").
Snapshot 9 ("9_snapshot") is already unlocked.
Unlocked 1, already unlocked 1, failed 0, result unknown 1.
--- exit 8
error: the cluster accepted the request to unlock snapshot 8 ("8_snapshot"), but does not show it: not done so far, and may still be
hint: keep every key; `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_get_status --id=8` shows whether it was done; rerunning is safe: qkey looks first
error: the result for 1 of 3 snapshots is unknown
hint: see the errors above; rerunning is safe: what is already unlocked is left alone
==== over rest
Unlocked snapshot 7 ("7_snapshot") with key 1 ("vault").
Snapshot 9 ("9_snapshot") is already unlocked.
Unlocked 1, already unlocked 1, failed 0, result unknown 1.
--- exit 8
error: the cluster accepted the request to unlock snapshot 8 ("8_snapshot"), but does not show it: not done so far, and may still be
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
error: the result for 1 of 3 snapshots is unknown
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]].raw());
}

#[test]
fn lost_add_is_looked_up_over_rest() {
    every_loss_is_looked_up(&REST, "add_key", &losses());
}

#[test]
fn lost_lock_is_looked_up_over_rest() {
    every_loss_is_looked_up(&REST, "lock", &losses());
}

#[test]
fn lost_unlock_is_looked_up_over_rest() {
    every_loss_is_looked_up(&REST, "unlock", &losses());
}

#[test]
fn lost_replacement_messages_over_rest() {
    let said = every_loss_is_looked_up(&REST, "replace_key", &losses());
    // It is the same key each time.
    let lines = said.split_inclusive('\n');
    let said: String = lines
        .filter(|line| !line.contains("the new key is also stored as"))
        .collect();
    assert_data_eq!(said, str![[r##"
# drop_after {}
$ qkey replace -k old-0 --old-key=alice.pem --new-key=bob.pem
Replaced key 2 ("old-0").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: no reply to the request to replace key 2 ("old-0") (lost the connection to 127.0.0.1:[PORT] during the request to replace key 2: it was closed before the whole response had arrived); checked: it was done
# drop_before {}
$ qkey replace -k old-1 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: no reply to the request to replace key 3 ("old-1"): not done so far, and may still be
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to replace key 3: it was closed before the whole response had arrived
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# drop_before {"late":true}
$ qkey replace -k old-2 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: no reply to the request to replace key 4 ("old-2"): not done so far, and may still be
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to replace key 4: it was closed before the whole response had arrived
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# cut_after {}
$ qkey replace -k old-3 --old-key=alice.pem --new-key=bob.pem
Replaced key 5 ("old-3").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: no reply to the request to replace key 5 ("old-3") (lost the connection to 127.0.0.1:[PORT] during the request to replace key 5: it was closed before the whole response had arrived); checked: it was done
# not_json_after {}
$ qkey replace -k old-4 --old-key=alice.pem --new-key=bob.pem
Replaced key 6 ("old-4").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: unexpected reply to the request to replace key 6 ("old-4") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 6: expected the key in JSON, got: This is not JSON.); checked: it was done
# truncated_after {}
$ qkey replace -k old-5 --old-key=alice.pem --new-key=bob.pem
Replaced key 7 ("old-5").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: unexpected reply to the request to replace key 7 ("old-5") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 7: expected the key in JSON, got: {"id": "7", "name": "old-5", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZI); checked: it was done
# empty_after {}
$ qkey replace -k old-0 --old-key=alice.pem --new-key=bob.pem
Replaced key 2 ("old-0").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: unexpected reply to the request to replace key 2 ("old-0") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 2: expected the key in JSON, got: (nothing)); checked: it was done
# empty {}
$ qkey replace -k old-1 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: unexpected reply to the request to replace key 3 ("old-1"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 3
  caused by: expected the key in JSON, got: (nothing)
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# empty {"status":500,"late":true}
$ qkey replace -k old-2 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: unexpected reply to the request to replace key 4 ("old-2"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 4
  caused by: status 500: (nothing)
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# empty {"status":404,"late":true}
$ qkey replace -k old-3 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: unexpected reply to the request to replace key 5 ("old-3"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 5
  caused by: status 404: (nothing)
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# redirect {"location":"/v1","late":true}
$ qkey replace -k old-4 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: unexpected reply to the request to replace key 6 ("old-4"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 6
  caused by: it redirects to /v1, which qkey does not follow
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# html_502 {}
$ qkey replace -k old-5 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: unexpected reply to the request to replace key 7 ("old-5"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 7
  caused by: status 502: <html>  <head><title>502 Bad Gateway</title></head>  <body>  <center><h1>502 Bad Gateway</h1></center>  </body>  </html>
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# html_502 {"late":true}
$ qkey replace -k old-0 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: unexpected reply to the request to replace key 2 ("old-0"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 2
  caused by: status 502: <html>  <head><title>502 Bad Gateway</title></head>  <body>  <center><h1>502 Bad Gateway</h1></center>  </body>  </html>
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# cut {"late":true}
$ qkey replace -k old-1 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: no reply to the request to replace key 3 ("old-1"): not done so far, and may still be
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to replace key 3: it was closed before the whole response had arrived
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# html_502_after {}
$ qkey replace -k old-2 --old-key=alice.pem --new-key=bob.pem
Replaced key 4 ("old-2").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: unexpected reply to the request to replace key 4 ("old-2") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 4: status 502: <html>  <head><title>502 Bad Gateway</title></head>  <body>  <center><h1>502 Bad Gateway</h1></center>  </body>  </html>); checked: it was done
# status_after {"status":500}
$ qkey replace -k old-3 --old-key=alice.pem --new-key=bob.pem
Replaced key 5 ("old-3").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: the cluster failed to process the request to replace key 5 ("old-3") (127.0.0.1:[PORT] failed to replace key 5: Error 500: http_internal_server_error: Simulated failure 500.); checked: it was done
# status_after {"status":503}
$ qkey replace -k old-4 --old-key=alice.pem --new-key=bob.pem
Replaced key 6 ("old-4").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: unexpected reply to the request to replace key 6 ("old-4") (127.0.0.1:[PORT] failed to replace key 6: Error 503: http_service_unavailable_error: Simulated failure 503.); checked: it was done
# status {"status":500}
$ qkey replace -k old-5 --old-key=alice.pem --new-key=bob.pem
--- exit 5
error: the cluster failed to process the request to replace key 7 ("old-5"); checked: it was not done
  caused by: 127.0.0.1:[PORT] failed to replace key 7
  caused by: Error 500: http_internal_server_error: Simulated failure 500.
hint: check the cluster's health, then run this again; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows what it holds
# status {"status":503}
$ qkey replace -k old-0 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: unexpected reply to the request to replace key 2 ("old-0"): not done so far, and may still be
  caused by: 127.0.0.1:[PORT] failed to replace key 2
  caused by: Error 503: http_service_unavailable_error: Simulated failure 503.
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# status {"status":408,"late":true}
$ qkey replace -k old-1 --old-key=alice.pem --new-key=bob.pem
--- exit 8
error: unexpected reply to the request to replace key 3 ("old-1"): not done so far, and may still be
  caused by: 127.0.0.1:[PORT] failed to replace key 3
  caused by: Error 408: unknown_error: Simulated failure 408.
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
# slow_after {"seconds":600}
$ qkey replace -k old-2 --old-key=alice.pem --new-key=bob.pem --timeout=8
Replaced key 4 ("old-2").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: no reply to the request to replace key 4 ("old-2") (no reply from 127.0.0.1:[PORT] within 8 s to the request to replace key 4); checked: it was done
# slow {"seconds":600}
$ qkey replace -k old-3 --old-key=alice.pem --new-key=bob.pem --timeout=8
--- exit 8
error: no reply to the request to replace key 5 ("old-3"): not done so far, and may still be
  caused by: no reply from 127.0.0.1:[PORT] within 8 s to the request to replace key 5
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first

"##]].raw());
}

/// The losses of these kinds.
fn losses_of(kinds: &[&str]) -> Vec<Loss> {
    let mut losses = losses();
    losses.retain(|loss| kinds.contains(&loss.kind));
    losses
}

#[test]
fn lost_replacement_is_looked_up_through_both_dialects_of_qq() {
    let kinds = ["drop_after", "truncated_after", "empty_after", "status"];
    every_loss_is_looked_up(&WITH_OLD_QQ, "replace_key", &losses_of(&kinds));
}

#[test]
fn one_loss_of_each_class_is_looked_up_through_qq() {
    let classes: [(&str, &[&str]); 4] = [
        ("add_key", &["not_json_after", "html_502"]),
        ("replace_key", &["drop_before", "slow_after"]),
        ("lock", &["cut_after", "redirect"]),
        ("unlock", &["status_after", "cut", "slow"]),
    ];
    thread::scope(|scope| {
        for (operation, kinds) in classes {
            scope.spawn(move || every_loss_is_looked_up(&BOTH, operation, &losses_of(kinds)));
        }
    });
}

/// What a `qq` that misbehaves as a process does to a submission: shell commands that stand in for
/// the program `$qq`, and whether the cluster carries the submission out.
const PROCESS_LOSSES: [(&str, &str, bool); 11] = [
    ("killed before", "kill -9 $$", false),
    ("killed after", r#""$qq" "$@" >/dev/null; kill -9 $$"#, true),
    ("exit 3 before", "echo something odd >&2; exit 3", false),
    ("garbage before", "echo '<html>'; exit 0", false),
    (
        "garbage after",
        r#""$qq" "$@" >/dev/null; echo '<html>'; exit 0"#,
        true,
    ),
    ("empty before", "exit 0", false),
    ("empty after", r#""$qq" "$@" >/dev/null; exit 0"#, true),
    ("truncated after", r#""$qq" "$@" | head -c 8; exit 0"#, true),
    (
        "huge before",
        r"head -c 67108864 /dev/zero | tr '\0' x; exit 0",
        false,
    ),
    (
        "hang before",
        r#"echo $$ >>"$QQ_MOCK_STATE/sleepers"; exec sleep 300"#,
        false,
    ),
    (
        "hang after",
        r#""$qq" "$@"; echo $$ >>"$QQ_MOCK_STATE/sleepers"; exec sleep 300"#,
        true,
    ),
];

/// Each submission to the mock: the command of `qq`, and what makes `qkey` run it.
const MOCK_SUBMISSIONS: [(&str, &[&str]); 4] = [
    ("fs_security_add_key", &ADD),
    ("fs_security_replace_key", &REPLACE),
    (
        "snapshot_lock_snapshot",
        &["lock", "--id=2", "--lock-key=vault"],
    ),
    (
        "snapshot_unlock_snapshot",
        &["unlock", "--id=1", "--key=alice.pem"],
    ),
];

#[test]
fn qq_that_misbehaves_during_a_submission_is_looked_up() {
    let (submissions, faults) = (MOCK_SUBMISSIONS, PROCESS_LOSSES);
    let cases = submissions.iter().flat_map(|submission| {
        let names = faults
            .iter()
            .map(|fault| format!("{}: {}", submission.0, fault.0));
        names.collect::<Vec<_>>()
    });
    let cases: Vec<String> = cases.collect();
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    let said = side_by_side(&cases, |case| {
        let (command, fault) = case.split_once(": ").expect("both");
        let &(_, args) = submissions.iter().find(|one| one.0 == command).expect("it");
        let &(_, shell, done) = faults.iter().find(|one| one.0 == fault).expect("it");
        let mock = Mock::new();
        mock.add_key("vault", "", ALICE_PUBLIC);
        mock.set_snapshot_field(1, "lock_key", "1");
        let qq = mock.program();
        let hook = format!(
            "qq='{}'\ncase \"$*\" in *{command}*) echo >>submissions; {shell};; esac",
            qq.display()
        );
        let qkey = Qkey::with_mock(&mock).between(&mock, &hook);
        let timeout = if fault.starts_with("hang") {
            "--timeout=4"
        } else {
            "--timeout=60"
        };
        let run = qkey.run([args, &[timeout]].concat());
        expect_no_sleepers(&mock);
        let submitted = fs::read_to_string(qkey.path("submissions")).expect("a submission");
        assert_eq!(submitted.lines().count(), 1, "{case}: {run:?}");
        let is_done = match command {
            "fs_security_add_key" => mock.key_ids().len() == 2,
            "fs_security_replace_key" => mock.public_key("1") == BOB_PUBLIC,
            "snapshot_lock_snapshot" => mock.lock_key(2).as_deref() == Some("1"),
            _ => mock.lock_key(1).is_none(),
        };
        assert_eq!(is_done, done, "{case}: {run:?}");
        assert_eq!(run.code, if done { 0 } else { 8 }, "{case}: {run:?}");
        let words = if done {
            "); checked: it was done"
        } else {
            "not done so far, and may still be"
        };
        assert!(run.stderr.contains(words), "{case}: {run:?}");
        assert_eq!(run.stdout.is_empty(), !done, "{case}: {run:?}");
        // The words differ by the submission only in its name.
        if command == "fs_security_add_key" {
            filtered(&run)
        } else {
            String::new()
        }
    });
    let (said, _) = said
        .split_once("==== fs_security_replace_key")
        .expect("the next one");
    assert_data_eq!(said, str![[r#"
==== fs_security_add_key: killed before
--- exit 8
error: no reply to the request to add key "spare": not done so far, and may still be
  caused by: qq failed to store key "spare"
  caused by: `[DIR]/qq-between` was killed by signal 9
hint: keep every key; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== fs_security_add_key: killed after
Stored key 2 ("spare") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: no reply to the request to add key "spare" (qq failed to store key "spare": `[DIR]/qq-between` was killed by signal 9); checked: it was done
==== fs_security_add_key: exit 3 before
--- exit 8
error: no reply to the request to add key "spare": not done so far, and may still be
  caused by: qq failed to store key "spare"
  caused by: `[DIR]/qq-between` exited with 3: something odd
hint: keep every key; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== fs_security_add_key: garbage before
--- exit 8
error: unexpected reply to the request to add key "spare": not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to store key "spare"
  caused by: expected the key in JSON, got: <html>
hint: keep every key; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== fs_security_add_key: garbage after
Stored key 2 ("spare") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: unexpected reply to the request to add key "spare" (unexpected reply from cluster:8000 to the request to store key "spare": expected the key in JSON, got: <html>); checked: it was done
==== fs_security_add_key: empty before
--- exit 8
error: unexpected reply to the request to add key "spare": not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to store key "spare"
  caused by: expected the key in JSON, got: (nothing)
hint: keep every key; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== fs_security_add_key: empty after
Stored key 2 ("spare") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: unexpected reply to the request to add key "spare" (unexpected reply from cluster:8000 to the request to store key "spare": expected the key in JSON, got: (nothing)); checked: it was done
==== fs_security_add_key: truncated after
Stored key 2 ("spare") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: unexpected reply to the request to add key "spare" (unexpected reply from cluster:8000 to the request to store key "spare": expected the key in JSON, got: {     "c); checked: it was done
==== fs_security_add_key: huge before
--- exit 8
error: unexpected reply to the request to add key "spare": not done so far, and may still be
  caused by: the reply from cluster:8000 is too large: the reply is larger than 256 KiB
hint: keep every key; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== fs_security_add_key: hang before
--- exit 8
error: no reply to the request to add key "spare": not done so far, and may still be
  caused by: qq failed to store key "spare"
  caused by: `[DIR]/qq-between` did not finish within 4 s and was killed
hint: keep every key; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== fs_security_add_key: hang after
Stored key 2 ("spare") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: no reply to the request to add key "spare" (qq failed to store key "spare": `[DIR]/qq-between` did not finish within 4 s and was killed); checked: it was done

"#]].raw());
}

#[test]
fn challenge_that_is_empty_or_not_utf8_is_not_signed() {
    let said = [r#"{"challenge": ""}"#, r#"{"challenge": "\377"}"#].map(|reply| {
        let mock = Mock::new();
        mock.add_key("vault", "", ALICE_PUBLIC);
        let hook = format!("case \"$*\" in *challenge*) printf '{reply}'; exit 0;; esac");
        let qkey = Qkey::with_mock(&mock).between(&mock, &hook);
        let run = qkey.run(REPLACE);
        assert_eq!(mock.count("fs_security_replace_key"), 0);
        filtered(&run)
    });
    assert_data_eq!(said.concat(), str![[r#"
--- exit 7
error: unexpected reply from cluster:8000 to the request to get the challenge to replace key "vault"
  caused by: expected a challenge in JSON, got: {"challenge": ""}
hint: check that `[DIR]/qq-between --host=cluster fs_security_get_key_replace_challenge --help` works; if it does, run this again with -vv and report the output
--- exit 7
error: unexpected reply from cluster:8000 to the request to get the challenge to replace key "vault"
  caused by: expected a challenge in JSON, got: {"challenge": "�"}
hint: check that `[DIR]/qq-between --host=cluster fs_security_get_key_replace_challenge --help` works; if it does, run this again with -vv and report the output

"#]].raw());
    over(&REST, |lab| {
        lab.hold_vault();
        lab.core.challenge_text(Some(""));
        for args in [&REPLACE[..], &UNLOCK] {
            assert_eq!(lab.run(args).code, 7);
        }
        lab.assert_unchanged("nothing was signed");
        assert_eq!(lab.submissions(), [Value::Null; 0]);
    });
}

/// The read that confirms each submission.
fn confirming_read(operation: &str) -> &'static str {
    match operation {
        "add_key" | "replace_key" => "list_keys",
        _ => "get_status",
    }
}

#[test]
fn lost_submission_is_unknown_while_the_state_cannot_be_read() {
    over(&REST, |lab| {
        lab.hold_vault();
        // The replacement last: it changes the key that unlocks.
        for (operation, args) in [0, 2, 3, 1].map(|index| SUBMISSIONS[index]) {
            let what = format!("{}: {operation}", lab.transport);
            let read = confirming_read(operation);
            lab.core.fault(operation, "drop_after", json!({}));
            // The first read goes well.
            lab.core.fault(read, "slow", json!({ "seconds": 0 }));
            lab.core
                .fault(read, "status", json!({ "status": 503, "times": 0 }));
            let run = lab.run(&[args, &["--output=json"]].concat());
            assert_eq!(run.code, 8, "{what}: {run:?}");
            let error: Value = serde_json::from_str(&run.stderr).expect("JSON");
            assert_eq!(error["error"]["kind"], "unknown", "{what}");
            assert_eq!(error["error"]["exit_code"], 8, "{what}");
            assert_eq!(lab.core.count(operation), 1, "{what}");
            lab.core.clear_faults();
            lab.done(args);
            assert_eq!(lab.core.count(operation), 1, "{what}: again");
        }
    });
}

#[test]
fn lost_unlock_with_failing_lookup_is_unknown() {
    let said = over(&BOTH, |lab| {
        lab.hold_vault();
        lab.core.fault("unlock", "drop_after", json!({}));
        lab.core
            .fault("get_status", "slow", json!({ "seconds": 0 }));
        lab.core
            .fault("get_status", "status", json!({ "status": 503, "times": 0 }));
        lab.run(&UNLOCK);
        assert_eq!(lab.core.count("unlock"), 1);
        assert_eq!(lab.lock_key(7), Value::Null);

        // As it says: running it again is safe.
        lab.core.clear_faults();
        lab.done(&UNLOCK);
        assert_eq!(lab.core.count("unlock"), 1);
    });
    assert_data_eq!(said, str![[r#"
$ qkey unlock --id=7 --key alice.pem
==== over rest
--- exit 8
error: the request to unlock snapshot 7 ("7_snapshot") was sent, but the result could not be confirmed
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to unlock snapshot 7: it was closed before the whole response had arrived
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
==== over qq 7.10.2.1
--- exit 8
error: the request to unlock snapshot 7 ("7_snapshot") was sent, but the result could not be confirmed
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to unlock snapshot 7: Remote end closed connection without response
hint: keep every key; `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_get_status --id=7` shows whether it was done; rerunning is safe: qkey looks first
$ qkey unlock --id=7 --key alice.pem
Snapshot 7 ("7_snapshot") is already unlocked.

"#]].raw());
}

#[test]
fn lost_lock_of_snapshot_locked_by_another_admin_is_unknown() {
    let said = over(&BOTH, |lab| {
        lab.hold_vault();
        let carol = json!({ "name": "carol's", "public_key": CAROL_PUBLIC });
        assert_eq!(lab.core.add_key(carol), "2");
        lab.core.fault("lock", "drop_before", json!({}));
        // Another administrator locks it with another key while qkey waits for its first look.
        let held_up = json!({ "seconds": 0.5, "times": 0 });
        lab.core
            .fault("get_status", "slow", json!({ "seconds": 0 }));
        lab.core.fault("get_status", "slow", held_up);
        lab.run_with(&LOCK, |_| {
            wait_until("the submission", || lab.core.count("lock") == 1);
            lab.core.modify_snapshot(9, json!({ "lock_key": "2" }));
        });
        assert_eq!(lab.core.count("lock"), 1);
        assert_eq!(lab.lock_key(9), "2");
    });
    assert_data_eq!(said, str![[r#"
$ qkey lock --id=9 --lock-key=vault
==== over rest
--- exit 8
error: the request to lock snapshot 9 ("9_snapshot") was sent, and now it is locked with key 2
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to lock snapshot 9: it was closed before the whole response had arrived
hint: someone else may be making changes; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows what the cluster holds
==== over qq 7.10.2.1
--- exit 8
error: the request to lock snapshot 9 ("9_snapshot") was sent, and now it is locked with key 2
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to lock snapshot 9: Remote end closed connection without response
hint: someone else may be making changes; `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_get_status --id=9` shows what the cluster holds

"#]].raw());
}

// ---------------------------------------------------------------------------------------------
// Reads that fail
// ---------------------------------------------------------------------------------------------

/// Each read, and what makes it of the vault of [`Lab::hold_vault`].
const READS: [(&str, &[&str]); 5] = [
    ("list_keys", &["keys", "list"]),
    ("key_usage", &["keys", "usage", "vault"]),
    ("replace_challenge", &REPLACE),
    ("get_status", &UNLOCK),
    ("unlock_challenge", &UNLOCK),
];

/// What may be over soon.
fn passing() -> [(&'static str, Value); 5] {
    [
        ("drop_before", json!({})),
        ("cut", json!({})),
        ("status", json!({ "status": 503 })),
        ("status", json!({ "status": 429 })),
        ("status", json!({ "status": 429, "retry_after": 1 })),
    ]
}

fn times(times: u64, mut fault: Value) -> Value {
    fault["times"] = times.into();
    fault
}

#[test]
fn every_read_is_retried_twice() {
    over(&REST, |lab| {
        lab.hold_vault();
        for (operation, args) in READS {
            let args = match operation {
                "list_keys" | "key_usage" => args.to_vec(),
                _ => [args, &["--dry-run"]].concat(),
            };
            lab.core.clear_requests();
            lab.core
                .fault(operation, "drop_before", times(2, json!({})));
            let run = lab.done(&args);
            assert_eq!(run.stderr, "", "{}: {operation}", lab.transport);
            assert_eq!(
                lab.core.count(operation),
                3,
                "{}: {operation}",
                lab.transport
            );
        }
    });
}

#[test]
fn transient_read_failure_is_retried() {
    over(&WITH_OLD_QQ, |lab| {
        lab.hold_vault();
        for (kind, more) in passing() {
            let what = format!("{}: {kind} {more}", lab.transport);
            lab.core.clear_requests();
            lab.core.fault("list_keys", kind, more);
            let run = lab.done(&["keys"]);
            assert_eq!(run.stderr, "", "{what}");
            assert_eq!(lab.core.count("list_keys"), 2, "{what}");
        }
    });
}

#[test]
fn persistent_transient_failure_stops_after_three_reads() {
    let said = over(&REST, |lab| {
        lab.hold_vault();
        for (kind, more) in passing() {
            let what = format!("{}: {kind} {more}", lab.transport);
            lab.core.clear_faults();
            lab.core.clear_requests();
            lab.note(&format!("{kind} {more}"));
            lab.core.fault("list_keys", kind, times(0, more));
            lab.run(&["keys"]);
            assert_eq!(lab.core.count("list_keys"), 3, "{what}");
        }
    });
    assert_data_eq!(said, str![[r##"
# drop_before {}
$ qkey keys
--- exit 7
error: lost the connection to 127.0.0.1:[PORT] during the request to list the lock keys: it was closed before the whole response had arrived
hint: check whether the cluster is up, and whether a proxy or firewall cuts connections
# cut {}
$ qkey keys
--- exit 7
error: lost the connection to 127.0.0.1:[PORT] during the request to list the lock keys: it was closed before the whole response had arrived
hint: check whether the cluster is up, and whether a proxy or firewall cuts connections
# status {"status":503}
$ qkey keys
--- exit 7
error: 127.0.0.1:[PORT] failed to list the lock keys
  caused by: Error 503: http_service_unavailable_error: Simulated failure 503.
hint: the cluster, or a proxy in front of it, is not ready; try again later
# status {"status":429}
$ qkey keys
--- exit 7
error: 127.0.0.1:[PORT] refused to list the lock keys
  caused by: Error 429: unknown_error: Simulated failure 429.
hint: the cluster, or a proxy in front of it, is not ready; try again later
# status {"status":429,"retry_after":1}
$ qkey keys
--- exit 7
error: 127.0.0.1:[PORT] refused to list the lock keys
  caused by: Error 429: unknown_error: Simulated failure 429.
hint: the cluster, or a proxy in front of it, is not ready; try again later

"##]].raw());
}

#[test]
fn permanent_read_failure_is_not_retried() {
    let said = over(&BOTH, |lab| {
        lab.hold_vault();
        for (kind, more) in [
            ("html_502", json!({})),
            ("not_json", json!({})),
            ("truncated", json!({})),
            ("empty", json!({})),
            ("status", json!({ "status": 500 })),
            ("status", json!({ "status": 403 })),
        ] {
            let what = format!("{}: {kind} {more}", lab.transport);
            lab.core.clear_requests();
            lab.note(&format!("{kind} {more}"));
            lab.core.fault("list_keys", kind, more);
            lab.run(&["keys"]);
            assert_eq!(lab.core.count("list_keys"), 1, "{what}");
        }
    });
    assert_data_eq!(said, str![[r##"
# html_502 {}
$ qkey keys
==== over rest
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: status 502: <html>  <head><title>502 Bad Gateway</title></head>  <body>  <center><h1>502 Bad Gateway</h1></center>  </body>  </html>
hint: check --host and --port: a proxy or another service may respond there
==== over qq 7.10.2.1
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
hint: check --host and --port: a proxy or another service may respond there
# not_json {}
$ qkey keys
==== over rest
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: This is not JSON.
hint: check --host and --port: a proxy or another service may respond there
==== over qq 7.10.2.1
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
hint: check --host and --port: a proxy or another service may respond there
# truncated {}
$ qkey keys
==== over rest
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: {"entries": [{"id": "1", "name": "vault", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQ
hint: check --host and --port: a proxy or another service may respond there
==== over qq 7.10.2.1
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: qumulo.lib.request.APIException: Error loading data: Unterminated string starting at: line 1 column 91 (char 90)
hint: check --host and --port: a proxy or another service may respond there
# empty {}
$ qkey keys
==== over rest
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: (nothing)
hint: check --host and --port: a proxy or another service may respond there
==== over qq 7.10.2.1
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: (nothing)
hint: check that `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_list_keys --help` works; if it does, run this again with -vv and report the output
# status {"status":500}
$ qkey keys
--- exit 5
error: 127.0.0.1:[PORT] failed to list the lock keys
  caused by: Error 500: http_internal_server_error: Simulated failure 500.
hint: the cluster reports an internal problem; check its health, then run this again
# status {"status":403}
$ qkey keys
--- exit 6
error: 127.0.0.1:[PORT] denied permission to list the lock keys
  caused by: Error 403: http_forbidden_error: Simulated failure 403.
hint: log in as a user whose role includes PRIVILEGE_FS_KEY_MANAGEMENT_READ; role changes take effect at the next login

"##]].raw());
}

#[test]
fn ceremonies_survive_one_transient_failure_per_read() {
    over(&REST, |lab| {
        lab.hold_vault();
        for (operation, (kind, more)) in OPERATIONS.into_iter().zip(passing().into_iter().cycle()) {
            if !SUBMISSIONS.iter().any(|(other, _)| *other == operation) {
                lab.core.fault(operation, kind, more);
            }
        }
        every_ceremony(lab);
    });
}

#[test]
fn confirming_read_is_retried() {
    over(&REST, |lab| {
        lab.hold_vault();
        lab.core.fault("unlock", "drop_after", json!({}));
        lab.core
            .fault("get_status", "slow", json!({ "seconds": 0 }));
        lab.core
            .fault("get_status", "status", json!({ "status": 503, "times": 2 }));
        lab.done(&UNLOCK);
        assert_eq!(lab.core.count("unlock"), 1, "{}", lab.transport);
        assert_eq!(lab.core.count("get_status"), 4, "{}", lab.transport);
    });
}

#[test]
fn timed_out_read_is_not_retried() {
    let said = over(&BOTH, |lab| {
        lab.hold_vault();
        let for_ever = json!({ "seconds": 600, "times": 0 });
        lab.core.fault("list_keys", "slow", for_ever);
        lab.run(&["keys", "--timeout=4"]);
        assert_eq!(lab.core.count("list_keys"), 1, "{}", lab.transport);
    });
    assert_data_eq!(
        said,
        str![[r#"
$ qkey keys --timeout=4
==== over rest
--- exit 7
error: no reply from 127.0.0.1:[PORT] within 4 s to the request to list the lock keys
hint: check whether the cluster responds, or give it more time with --timeout SECONDS
==== over qq 7.10.2.1
--- exit 7
error: qq failed to list the lock keys
  caused by: `[QQ]` did not finish within 4 s and was killed
hint: check whether the cluster responds, or give it more time with --timeout SECONDS

"#]]
        .raw()
    );
}

#[test]
fn parallel_reads_behind_a_timed_out_read_report_it() {
    over_in_own_words(&BOTH, |lab| {
        lab.hold_vault();
        let for_ever = json!({ "seconds": 600, "times": 0 });
        lab.core.fault("list_keys", "slow", for_ever);
        let no_answer = match lab.transport {
            Transport::Qq(_) => "error: qq failed to ",
            // Whichever of those that share the connection comes first.
            Transport::Rest => "error: no reply from 127.0.0.1:[PORT] ",
        };
        for args in [&LOCK[..], &UNLOCK, &LOCK, &UNLOCK] {
            let run = lab.run(&[args, &["--timeout=4"]].concat());
            assert_eq!(run.code, 7, "{}: {run:?}", lab.transport);
            assert!(
                run.stderr.starts_with(no_answer),
                "{}: {run:?}",
                lab.transport
            );
        }
    });
}

// ---------------------------------------------------------------------------------------------
// Refusals
// ---------------------------------------------------------------------------------------------

#[test]
fn missing_credentials_hint_at_login() {
    let said = over(&WITH_OLD_QQ, |lab| {
        lab.hold_vault();
        lab.set("QKEY_CREDENTIALS_STORE", "none.json");
        lab.run(&["keys"]);
    });
    assert_data_eq!(said, str![[r#"
$ qkey keys
==== over rest
--- exit 6
error: not logged in to 127.0.0.1:[PORT] (no credentials in none.json)
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=none.json login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== over qq 6.1.0.3, qq 7.10.2.1
--- exit 6
error: not logged in to 127.0.0.1:[PORT]
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=none.json login -u USER`

"#]].raw());
}

#[test]
fn expired_credentials_exit_6() {
    over(&BOTH, |lab| {
        lab.hold_vault();
        lab.set("QKEY_CREDENTIALS_STORE", "old.json");
        lab.qkey
            .write("old.json", r#"{"bearer_token": "expired", "version": 1}"#);
        for (_, args) in SUBMISSIONS {
            let run = lab.run(args);
            assert_eq!(run.code, 6, "{run:?}");
            assert!(run.stderr.contains("log in first"), "{run:?}");
        }
        assert_eq!(lab.submissions(), [Value::Null; 0]);
    });
}

#[test]
fn corrupt_credentials_are_reported_before_any_request() {
    // Whose parser it is shows.
    let said = over_in_own_words(&WITH_OLD_QQ, |lab| {
        lab.set("QKEY_CREDENTIALS_STORE", "bad.json");
        lab.qkey.write("bad.json", "not JSON");
        lab.run(&["keys"]);
        assert_eq!(lab.core.requests().len(), 0, "{}", lab.transport);
    });
    assert_data_eq!(said, str![[r#"
$ qkey keys
==== over rest
--- exit 6
error: bad.json is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=bad.json login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== over qq 6.1.0.3, qq 7.10.2.1
--- exit 6
error: qq cannot read its credentials for 127.0.0.1:[PORT]: Expecting value: line 1 column 1 (char 0)
hint: log in first: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=bad.json login -u USER`

"#]].raw());
}

#[test]
fn refused_submission_quotes_the_cluster() {
    let forbidden = json!({ "status": 403, "description": "You may not.", "error_class": "http_forbidden_error" });
    let taken = json!({ "status": 409, "description": "Somebody was faster." });
    let nested = json!({
        "status": 400,
        "description": "Outer.",
        "inner": { "error_class": "inner_error", "description": "Inner.", "module": "m", "stack": [], "user_visible": true },
    });
    let said = over(&BOTH, |lab| {
        lab.hold_vault();
        for ((operation, args), refusal) in SUBMISSIONS
            .into_iter()
            .zip([&taken, &forbidden, &nested, &taken])
        {
            lab.core.fault(operation, "status", refusal.clone());
            lab.run(args);
            assert_eq!(
                lab.core.count(operation),
                1,
                "{}: {operation}",
                lab.transport
            );
        }
        lab.assert_unchanged("refused");
    });
    assert_data_eq!(said, str![[r#"
$ qkey add --name spare --key carol.pem
--- exit 5
error: 127.0.0.1:[PORT] refused to store key "spare"
  caused by: Error 409: fs_entry_exists_error: Somebody was faster.
hint: nothing was changed; fix what the cluster reports, then run this again
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
--- exit 6
error: 127.0.0.1:[PORT] denied permission to replace key 1
  caused by: Error 403: http_forbidden_error: You may not.
hint: log in as a user whose role includes PRIVILEGE_FS_KEY_MANAGEMENT_WRITE; role changes take effect at the next login; the cluster now holds a signature made with alice.pem over its challenge
$ qkey lock --id=9 --lock-key=vault
--- exit 5
error: 127.0.0.1:[PORT] refused to lock snapshot 9
  caused by: Error 400: invalid_request_error: Outer. (inner_error: Inner.)
hint: nothing was changed; fix what the cluster reports, then run this again
$ qkey unlock --id=7 --key alice.pem
--- exit 5
error: 127.0.0.1:[PORT] refused to unlock snapshot 7
  caused by: Error 409: fs_entry_exists_error: Somebody was faster.
hint: nothing was changed; fix what the cluster reports, then run this again; the cluster now holds a signature made with alice.pem over its challenge

"#]].raw());
}

/// Every submission × every refusal: sent once, nothing changed, the exit code of the status.
fn refused_submissions(transports: &[Transport], submissions: &[(&str, &[&str])]) {
    let refusals = [(400, 5), (401, 6), (403, 6), (404, 5), (409, 5), (429, 7)];
    over(transports, |lab| {
        lab.hold_vault();
        for (operation, args) in submissions {
            for (status, code) in refusals {
                let what = format!("{}: {operation}: {status}", lab.transport);
                let refusal = json!({ "status": status, "description": "Not to my liking." });
                lab.core.clear_requests();
                lab.core.fault(operation, "status", refusal);
                let run = lab.run(args);
                assert_eq!(run.code, code, "{what}: {run:?}");
                assert_eq!(lab.core.count(operation), 1, "{what}");
                if status != 401 {
                    let words = format!("Error {status}: ");
                    assert!(run.stderr.contains(&words), "{what}: {run:?}");
                }
                assert!(run.stderr.contains("Not to my liking."), "{what}: {run:?}");
                lab.assert_unchanged(&what);
            }
        }
    });
}

#[test]
fn refused_submissions_change_nothing_and_are_not_retried() {
    refused_submissions(&REST, &SUBMISSIONS);
}

#[test]
fn refused_replacement_is_understood_from_every_qq() {
    refused_submissions(&WITH_OLD_QQ, &SUBMISSIONS[1..2]);
}

#[test]
fn missing_snapshots_and_keys_exit_5() {
    let said = over(&[NEW_QQ, Transport::Rest], |lab| {
        lab.hold_vault();
        lab.run(&["unlock", "--id=99", "--key=alice.pem"]);
        lab.run(&["lock", "--id=99", "--lock-key=vault"]);
        lab.run(&["replace", "-k5", "--old-key=alice.pem", "--new-key=bob.pem"]);
        lab.run(&[
            "replace",
            "-knone",
            "--old-key=alice.pem",
            "--new-key=bob.pem",
        ]);
        lab.run(&["unlock", "--id=99", "--id=7", "--key=alice.pem"]);
        assert_eq!(lab.lock_key(7), Value::Null);
    });
    assert_data_eq!(said, str![[r#"
$ qkey unlock --id=99 --key=alice.pem
==== over qq 7.10.2.1
--- exit 5
error: snapshot 99 does not exist on 127.0.0.1:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_list_statuses` shows what exists
==== over rest
--- exit 5
error: snapshot 99 does not exist on 127.0.0.1:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows which snapshots are locked
$ qkey lock --id=99 --lock-key=vault
==== over qq 7.10.2.1
--- exit 5
error: snapshot 99 does not exist on 127.0.0.1:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_list_statuses` shows what exists
==== over rest
--- exit 5
error: snapshot 99 does not exist on 127.0.0.1:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows which snapshots are locked
$ qkey replace -k5 --old-key=alice.pem --new-key=bob.pem
--- exit 5
error: no lock key with id 5
hint: `qkey keys list` shows them all
$ qkey replace -knone --old-key=alice.pem --new-key=bob.pem
--- exit 5
error: no lock key named "none"
hint: `qkey keys list` shows them all
$ qkey unlock --id=99 --id=7 --key=alice.pem
==== over qq 7.10.2.1
Unlocked snapshot 7 ("7_snapshot") with key 1 ("vault").
Unlocked 1, already unlocked 0, failed 1.
--- exit 9
error: snapshot 99 does not exist on 127.0.0.1:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_list_statuses` shows what exists
error: 1 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone
==== over rest
Unlocked snapshot 7 ("7_snapshot") with key 1 ("vault").
Unlocked 1, already unlocked 0, failed 1.
--- exit 9
error: snapshot 99 does not exist on 127.0.0.1:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows which snapshots are locked
error: 1 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]].raw());
}

#[test]
fn taken_name_and_disabled_key_are_found_before_submission() {
    let said = over(&BOTH, |lab| {
        lab.hold_vault();
        lab.run(&["add", "--name=vault", "--key=carol.pem"]);
        lab.core.modify_key("1", json!({ "disabled": true }));
        lab.run(&LOCK);
        assert_eq!(lab.submissions(), [Value::Null; 0]);
        // A disabled key still unlocks.
        lab.run(&UNLOCK);
    });
    assert_data_eq!(said, str![[r#"
$ qkey add --name=vault --key=carol.pem
--- exit 4
error: "vault" is already used by key 1, with a different public key
hint: nothing was sent; choose another --name, or replace that key: `qkey replace --key-id 1 --new-key SOURCE`
$ qkey lock --id=9 --lock-key=vault
==== over rest
--- exit 5
error: key 1 ("vault") is disabled and cannot lock snapshots
hint: nothing was sent; choose another key, or enable it: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_modify_key --key=1 --enable`
==== over qq 7.10.2.1
--- exit 5
error: key 1 ("vault") is disabled and cannot lock snapshots
hint: nothing was sent; choose another key, or enable it: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_modify_key --key=1 --enable`
$ qkey unlock --id=7 --key alice.pem
Unlocked snapshot 7 ("7_snapshot") with key 1 ("vault").

"#]].raw());
}

#[test]
fn unavailable_cluster_exits_7_before_submission() {
    for (kind, more) in [
        ("status", json!({ "status": 503 })),
        ("html_502", json!({})),
    ] {
        over(&REST, |lab| {
            lab.hold_vault();
            for operation in OPERATIONS {
                lab.core.fault(operation, kind, times(0, more.clone()));
            }
            for (_, args) in SUBMISSIONS {
                let run = lab.run(args);
                assert_eq!(run.code, 7, "{}: {kind}: {run:?}", lab.transport);
            }
            assert_eq!(lab.submissions(), [Value::Null; 0]);
        });
    }
}

// ---------------------------------------------------------------------------------------------
// No cluster
// ---------------------------------------------------------------------------------------------

#[test]
fn unreachable_cluster_is_named() {
    let said = over(&WITH_OLD_QQ, |lab| {
        // Nobody listens there.
        lab.run(&[&REPLACE[..], &["--port=1"]].concat());
    });
    assert_data_eq!(
        said,
        str![[r#"
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem --port=1
==== over rest
--- exit 7
error: cannot reach 127.0.0.1:1: Connection refused (os error 111)
hint: check --host and --port (or the cluster's entry in the configuration file), and the network
==== over qq 6.1.0.3, qq 7.10.2.1
--- exit 7
error: cannot reach 127.0.0.1:1: [Errno 111] Connection refused
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
        .raw()
    );
}

#[test]
fn unresolvable_host_is_named() {
    over(&WITH_OLD_QQ, |lab| {
        let run = lab.run(&["keys", "--host=qumulo.invalid"]);
        assert_eq!(run.code, 7, "{run:?}");
        // Which words follow depends on the resolver.
        let words = "error: cannot reach qumulo.invalid:[PORT]: ";
        assert!(run.stderr.starts_with(words), "{run:?}");
    });
}

#[test]
fn missing_host_is_a_usage_error() {
    let said = over(&BOTH, |lab| {
        lab.unset("QKEY_HOST");
        lab.run(&["keys"]);
    });
    assert_data_eq!(said, str![[r#"
$ qkey keys
--- exit 2
error: no cluster selected
hint: give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)

"#]].raw());
}

#[test]
fn old_qq_without_host_uses_localhost() {
    over(&[OLD_QQ], |lab| {
        lab.hold_vault();
        lab.unset("QKEY_HOST");
        let run = lab.done(&["keys"]);
        assert!(run.stdout.contains("vault"), "{run:?}");
    });
}

#[test]
fn missing_and_non_executable_qq_are_distinguished() {
    let qkey = Qkey::new().env("QKEY_HOST", "127.0.0.1");
    let run = qkey.run(["keys", "--qq=./none"]);
    assert_eq!(run.code, 7, "{run:?}");
    assert!(run.stderr.contains("`./none` was not found"), "{run:?}");
    let run = qkey.run(["keys", "--qq=./alice.pem"]);
    assert_eq!(run.code, 7, "{run:?}");
    assert!(
        run.stderr.contains("`./alice.pem` is not executable"),
        "{run:?}"
    );
}

#[test]
fn rest_needs_no_qq() {
    over(&[Transport::Rest], |lab| {
        lab.hold_vault();
        lab.set("QKEY_QQ", "./none");
        every_ceremony(lab);
    });
}

// ---------------------------------------------------------------------------------------------
// Signals
// ---------------------------------------------------------------------------------------------

/// Has the Core sit on some operations until the test is over, and sends a signal once it does. No
/// `qq` may stay behind.
fn signalled(lab: &Lab, args: &[&str], operations: &[&str], signal: Signal) -> Run {
    if let Transport::Qq(version) = lab.transport {
        let qq = qq(version);
        let noting = format!(
            "#!/bin/sh\necho $$ >>pids\nexec '{}' \"$@\"\n",
            qq.display()
        );
        let noting = lab.qkey.write_program("qq", &noting);
        lab.set("QKEY_QQ", noting.to_str().unwrap());
    }
    for operation in operations {
        let for_ever = json!({ "seconds": 600, "times": 0 });
        lab.core.fault(operation, "slow", for_ever);
    }
    lab.core.clear_requests();
    let sits_on_one = |requests: Vec<Value>| {
        let mut operations = operations.iter();
        operations.any(|operation| requests.iter().any(|one| one["operation"] == *operation))
    };
    // The last resort of a process that does not end by itself has fewer words, or none.
    let run = lab.run_with(args, |pid| {
        wait_until("the request", || sits_on_one(lab.core.requests()));
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    });
    let pids = fs::read_to_string(lab.qkey.path("pids")).unwrap_or_default();
    for pid in pids.lines() {
        wait_until("the end of qq", || !is_alive(pid.parse().unwrap()));
    }
    lab.core.clear_faults();
    run
}

const SIGNALS: [(Signal, i32); 2] = [(Signal::INT, 130), (Signal::TERM, 143)];

#[test]
fn interrupted_submission_is_unknown_and_leaves_no_qq() {
    let said = over(&[NEW_QQ, Transport::Rest], |lab| {
        lab.hold_vault();
        for ((operation, args), (signal, code)) in
            SUBMISSIONS.into_iter().zip(SIGNALS.into_iter().cycle())
        {
            let run = signalled(lab, args, &[operation], signal);
            assert_eq!(run.code, code, "{}: {run:?}", lab.transport);
            assert_eq!(lab.core.count(operation), 1, "{}", lab.transport);
        }
        lab.assert_unchanged("the Core still sits on it");
    });
    assert_data_eq!(said, str![[r#"
$ qkey add --name spare --key carol.pem
==== over qq 7.10.2.1
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to add key "spare": not done so far, and may still be
  caused by: interrupted during the request to store key "spare"
hint: keep every key; `[DIR]/qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== over rest
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to add key "spare": not done so far, and may still be
  caused by: interrupted during the request to store key "spare"
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
$ qkey replace --key-id=vault --old-key alice.pem --new-key bob.pem
==== over qq 7.10.2.1
--- exit 143
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to replace key 1 ("vault"): not done so far, and may still be
  caused by: interrupted during the request to replace key 1
hint: keep every key; `[DIR]/qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== over rest
--- exit 143
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to replace key 1 ("vault"): not done so far, and may still be
  caused by: interrupted during the request to replace key 1
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
$ qkey lock --id=9 --lock-key=vault
==== over qq 7.10.2.1
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to lock snapshot 9 ("9_snapshot"): not done so far, and may still be
  caused by: interrupted during the request to lock snapshot 9
hint: keep every key; `[DIR]/qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_get_status --id=9` shows whether it was done; rerunning is safe: qkey looks first
==== over rest
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to lock snapshot 9 ("9_snapshot"): not done so far, and may still be
  caused by: interrupted during the request to lock snapshot 9
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
$ qkey unlock --id=7 --key alice.pem
==== over qq 7.10.2.1
--- exit 143
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to unlock snapshot 7 ("7_snapshot"): not done so far, and may still be
  caused by: interrupted during the request to unlock snapshot 7
hint: keep every key; `[DIR]/qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_get_status --id=7` shows whether it was done; rerunning is safe: qkey looks first
==== over rest
--- exit 143
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to unlock snapshot 7 ("7_snapshot"): not done so far, and may still be
  caused by: interrupted during the request to unlock snapshot 7
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
}

#[test]
fn interrupted_read_sends_nothing() {
    // Which of the calls side by side is named, and whether it had begun, is a matter of chance.
    over_in_own_words(&BOTH, |lab| {
        lab.hold_vault();
        let readings: [(&[&str], &[&str]); 3] = [
            (&["keys"], &["list_keys"]),
            (&REPLACE, &["list_keys", "replace_challenge"]),
            (&LOCK, &["list_keys", "get_status"]),
        ];
        for ((args, operations), (signal, code)) in
            readings.into_iter().zip(SIGNALS.into_iter().cycle())
        {
            let run = signalled(lab, args, operations, signal);
            assert_eq!(run.code, code, "{}: {run:?}", lab.transport);
            let [error, hint] = ["error: interrupted ", "hint: nothing was submitted"];
            let lines: Vec<&str> = run.stderr.lines().collect();
            assert!(lines[0].starts_with(error), "{}: {run:?}", lab.transport);
            assert!(lines[1].starts_with(hint), "{}: {run:?}", lab.transport);
            assert_eq!(lab.submissions(), [Value::Null; 0]);
        }
    });
}

#[test]
fn terminated_submission_reports_its_kind_in_json() {
    over(&[Transport::Rest, OLD_QQ], |lab| {
        lab.hold_vault();
        let args = [&UNLOCK[..], &["--output=json"]].concat();
        let run = signalled(lab, &args, &["unlock"], Signal::TERM);
        assert_eq!(run.code, 143, "{run:?}");
        assert_eq!(lab.lock_key(7), "1");
        let error: Value = serde_json::from_str(&run.stderr).unwrap();
        assert_eq!(error["error"]["kind"], "terminated");
        assert_eq!(error["error"]["exit_code"], 143);
    });
}
