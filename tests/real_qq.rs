//! `qkey` over the real `qq` of three versions, over TLS, against the simulated Qumulo Core.

mod support;

use std::{cell::Cell, fs, process::Output};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use snapbox::{assert_data_eq, str};
use support::{
    core::{Core, QQ_VERSION, qq},
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, CAROL_PUBLIC, Qkey, Run, is_alive, wait_until},
};

/// The one that names a key by `--id` or `--name`, and complains on stdout.
const OLD: &str = "6.1.0.3";
const NEW: &str = QQ_VERSION;

/// A Core, and `qkey` that reaches it through one version of `qq`.
struct Lab {
    core: Core,
    qkey: Qkey,
}

impl Lab {
    fn new(version: &str) -> Self {
        let core = Core::start();
        let qkey = Qkey::with_core(&core, version);
        Self { core, qkey }
    }

    /// A Core that holds alice's key as key 1, named "vault", which locks the snapshots 7 and 8;
    /// the snapshot 9 is not locked.
    fn with_vault(version: &str) -> Self {
        let lab = Self::new(version);
        let vault = json!({ "name": "vault", "public_key": ALICE_PUBLIC });
        assert_eq!(lab.core.add_key(vault), "1");
        for (id, lock_key) in [(7, json!("1")), (8, json!("1")), (9, Value::Null)] {
            lab.core
                .add_snapshot(json!({ "id": id, "lock_key": lock_key }));
        }
        lab
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.qkey = self.qkey.env(name, value);
        self
    }

    fn run(&self, args: &[&str]) -> Run {
        self.qkey.run(args)
    }

    /// Runs it and expects success.
    fn done(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, 0, "{args:?}: {run:#?}");
        run
    }

    /// The public key that the Core holds.
    fn held(&self, id: &str) -> Value {
        self.core.key(id)["public_key"].clone()
    }

    fn lock_key(&self, snapshot: u64) -> Value {
        self.core.snapshot(snapshot)["lock_key"].clone()
    }
}

const REPLACE: [&str; 6] = [
    "replace",
    "--key-id=vault",
    "--old-key",
    "alice.pem",
    "--new-key",
    "bob.pem",
];
const UNLOCK: [&str; 4] = ["unlock", "--id=7", "--key", "alice.pem"];
const LOCK: [&str; 3] = ["lock", "--id=9", "--lock-key=vault"];
const ADD: [&str; 5] = ["add", "--name", "spare", "--key", "carol.pem"];

// ---------------------------------------------------------------------------------------------
// Every ceremony in every version
// ---------------------------------------------------------------------------------------------

/// The snapshots in here hold for every version.
fn every_ceremony_works(version: &str) {
    let lab = Lab::new(version);
    let core = &lab.core;
    let submissions = |operation: &str| core.count(operation);
    assert_data_eq!(
        lab.run(&["keys"]).transcript(),
        str![[r#"
exit 0
--- stdout
The key store is empty.
--- stderr

"#]]
    );

    // add
    let add = [
        "add",
        "--name=vault",
        "--comment=in the safe",
        "--key=alice.pem",
    ];
    let dry_run = [&add[..], &["--dry-run"]].concat();
    assert_data_eq!(
        lab.run(&dry_run).transcript(),
        str![[r#"
exit 0
--- stdout
Would store key "vault"; its signature was checked and nothing was sent.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]
    );
    assert_eq!(submissions("add_key"), 0);
    assert_data_eq!(
        lab.run(&add).transcript(),
        str![[r#"
exit 0
--- stdout
Stored key 1 ("vault") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]
    );
    let stored = core.key("1");
    assert_eq!(stored["name"], "vault");
    assert_eq!(stored["comment"], "in the safe");
    assert_eq!(stored["public_key"], ALICE_PUBLIC);
    assert_data_eq!(
        lab.run(&add).transcript(),
        str![[r#"
exit 0
--- stdout
The key store holds this as key 1 ("vault") already: nothing to do.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]
    );
    assert_eq!(submissions("add_key"), 1);

    // keys
    assert_data_eq!(
        lab.run(&["keys", "list"]).transcript(),
        str![[r#"
exit 0
--- stdout
ID  NAME   STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   vault  enabled  SHA256:qDNOdPfn/SvG  -               in the safe
--- stderr

"#]]
    );
    assert_data_eq!(
        lab.run(&["keys", "show", "vault"]).transcript(),
        str![[r#"
exit 0
--- stdout
id              1
name            vault
comment         in the safe
state           enabled
fingerprint     SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
public key      MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
configured key  -
--- stderr

"#]]
    );

    // lock
    for id in [7, 8, 9] {
        core.add_snapshot(json!({ "id": id }));
    }
    let lock = ["lock", "--id=7", "--lock-key=vault"];
    let dry_run = [&lock[..], &["--dry-run"]].concat();
    assert_data_eq!(
        lab.run(&dry_run).transcript(),
        str![[r#"
exit 0
--- stdout
Would lock snapshot 7 ("7_snapshot") with key 1 ("vault"); nothing was sent.
--- stderr

"#]]
    );
    assert_eq!((submissions("lock"), lab.lock_key(7)), (0, Value::Null));
    assert_data_eq!(
        lab.run(&lock).transcript(),
        str![[r#"
exit 0
--- stdout
Locked snapshot 7 ("7_snapshot") with key 1 ("vault").
--- stderr

"#]]
    );
    assert_eq!(lab.lock_key(7), "1");
    assert_data_eq!(
        lab.run(&lock).transcript(),
        str![[r#"
exit 0
--- stdout
The cluster has snapshot 7 ("7_snapshot") locked with key 1 ("vault") already: nothing to do.
--- stderr

"#]]
    );
    assert_eq!(submissions("lock"), 1);
    core.modify_snapshot(8, json!({ "lock_key": "1" }));
    core.modify_snapshot(9, json!({ "lock_key": "1" }));

    // keys usage, two to a page
    core.command(json!({ "op": "page_limit", "limit": 2 }));
    assert_data_eq!(
        lab.run(&["keys", "usage", "vault"]).transcript(),
        str![[r#"
exit 0
--- stdout
key 1 ("vault") protects:
  snapshot 7
  snapshot 8
  snapshot 9
--- stderr

"#]]
    );

    // replace
    let dry_run = [&REPLACE[..], &["--dry-run"]].concat();
    assert_data_eq!(
        lab.run(&dry_run).transcript(),
        str![[r#"
exit 0
--- stdout
Would replace key 1 ("vault"); both signatures were checked and nothing was sent.
  is SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  to SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr

"#]]
    );
    assert_eq!(submissions("replace_key"), 0);
    assert_eq!(lab.held("1"), ALICE_PUBLIC);
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 0
--- stdout
Replaced key 1 ("vault").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr

"#]]
    );
    let stored = core.key("1");
    assert_eq!(stored["name"], "vault");
    assert_eq!(stored["comment"], "in the safe");
    assert_eq!(stored["public_key"], BOB_PUBLIC);
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 0
--- stdout
The cluster holds the new key as key 1 ("vault") already: nothing to do.
  SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr

"#]]
    );
    assert_eq!(submissions("replace_key"), 1);

    // unlock: with the old key, then with the new one; one, then several
    assert_data_eq!(
        lab.run(&UNLOCK).transcript(),
        str![[r#"
exit 4
--- stdout
--- stderr
error: alice.pem (SHA256:qDNOdPfn/SvG) is not the key that the cluster holds as key 1 ("vault")
hint: nothing was sent; the cluster holds SHA256:Bigzvx05JkuL, and only its private half can sign here

"#]]
    );
    let unlock = ["unlock", "--id=7", "--key=bob.pem"];
    let dry_run = [&unlock[..], &["--dry-run"]].concat();
    assert_data_eq!(
        lab.run(&dry_run).transcript(),
        str![[r#"
exit 0
--- stdout
Would unlock snapshot 7 ("7_snapshot"), which key 1 ("vault") locks; the signature was checked and nothing was sent.
--- stderr

"#]]
    );
    assert_eq!((submissions("unlock"), lab.lock_key(7)), (0, json!("1")));
    assert_data_eq!(
        lab.run(&unlock).transcript(),
        str![[r#"
exit 0
--- stdout
Unlocked snapshot 7 ("7_snapshot"), which key 1 ("vault") locked.
--- stderr

"#]]
    );
    assert_eq!((submissions("unlock"), lab.lock_key(7)), (1, Value::Null));
    let several = [&unlock[..], &["--id=8", "--id=9", "--output=json"]].concat();
    let run = lab.done(&several);
    let lines: Vec<Value> = run
        .stdout
        .lines()
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
    assert_eq!(submissions("unlock"), 3);
    assert_eq!(
        (lab.lock_key(8), lab.lock_key(9)),
        (Value::Null, Value::Null)
    );
}

#[test]
fn every_ceremony_works_with_qq_6_1_0_3() {
    every_ceremony_works(OLD);
}

#[test]
fn every_ceremony_works_with_qq_6_1_1() {
    every_ceremony_works("6.1.1");
}

#[test]
fn every_ceremony_works_with_qq_7_10_2_1() {
    every_ceremony_works(NEW);
}

// ---------------------------------------------------------------------------------------------
// Odd texts
// ---------------------------------------------------------------------------------------------

fn a_key_with_an_odd_name_is_added_shown_and_replaced(version: &str, names: &[&str]) {
    let lab = Lab::new(version);
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
    let listed: Vec<&str> = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["name"].as_str().unwrap())
        .collect();
    assert_eq!(listed, names);
    assert_eq!(lab.core.count("add_key"), names.len());
    assert_eq!(lab.core.count("replace_key"), names.len());
}

#[test]
fn a_key_with_an_odd_name_is_added_shown_and_replaced_with_qq_7_10_2_1() {
    a_key_with_an_odd_name_is_added_shown_and_replaced(
        NEW,
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
fn a_key_with_an_odd_name_is_added_shown_and_replaced_with_qq_6_1_0_3() {
    a_key_with_an_odd_name_is_added_shown_and_replaced(OLD, &["--a/b ?#%", r#"'"\ 🔑 ключ"#]);
}

#[test]
fn an_oddly_named_key_locks_a_snapshot_and_is_shown() {
    let name = "-a/b ?#%20 \"é🔑\"";
    for version in [OLD, NEW] {
        let lab = Lab::with_vault(version);
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
    }
}

fn an_odd_challenge_is_signed_byte_for_byte(version: &str, challenges: &[&str]) {
    let lab = Lab::with_vault(version);
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
}

#[test]
fn an_odd_challenge_is_signed_byte_for_byte_with_qq_7_10_2_1() {
    let long = "challenge ".repeat(1_000);
    an_odd_challenge_is_signed_byte_for_byte(
        NEW,
        &[
            r#""quotes" and \backslashes\ \n \u0041"#,
            " lines\nand\r\nblanks around \t \n ",
            "é Ω 🔑 \u{2028} \u{fffd} \u{1} \u{7f}",
            &long,
        ],
    );
}

#[test]
fn an_odd_challenge_is_signed_byte_for_byte_with_qq_6_1_0_3() {
    let long = "längs 🔑 ".repeat(1_250);
    an_odd_challenge_is_signed_byte_for_byte(OLD, &["\"\\ é\n🔑 \u{1} \n", &long]);
}

#[test]
fn the_locale_of_the_user_does_not_matter() {
    let c = &[("LC_ALL", "C")][..];
    let latin_1 = &[
        ("LC_ALL", "C"),
        ("PYTHONIOENCODING", "latin-1"),
        ("PYTHONUTF8", "0"),
    ];
    for (version, locale) in [(NEW, c), (NEW, latin_1), (OLD, latin_1)] {
        let what = format!("{version} {locale:?}");
        let mut lab = Lab::with_vault(version);
        for (name, value) in locale {
            lab = lab.env(name, value);
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
    }
}

// ---------------------------------------------------------------------------------------------
// Stale challenges
// ---------------------------------------------------------------------------------------------

#[test]
fn a_challenge_that_goes_stale_once_is_signed_anew() {
    for (version, args, operation) in [
        (NEW, &REPLACE[..], "replace_key"),
        (NEW, &UNLOCK[..], "unlock"),
        (OLD, &REPLACE[..], "replace_key"),
    ] {
        let lab = Lab::with_vault(version);
        lab.core.fault(operation, "stale", json!({}));
        let run = lab.done(args);
        assert_eq!(run.stderr, "", "{version}");
        assert_eq!(lab.core.count(operation), 2, "{version}");
        match operation {
            "unlock" => assert_eq!(lab.lock_key(7), Value::Null),
            _ => assert_eq!(lab.held("1"), BOB_PUBLIC),
        }
    }
}

#[test]
fn a_challenge_that_always_goes_stale_is_given_up() {
    let lab = Lab::with_vault(NEW);
    lab.core
        .fault("replace_key", "stale", json!({ "times": 0 }));
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 5
--- stdout
--- stderr
error: the challenge changed before each of 2 submissions
  caused by: 127.0.0.1:[PORT] refused fs_security_replace_key: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or give more --attempts

"#]]
    );
    assert_eq!(lab.core.count("replace_key"), 2);
    assert_eq!(lab.held("1"), ALICE_PUBLIC);

    lab.core.fault("unlock", "stale", json!({ "times": 0 }));
    let run = lab.run(&[&UNLOCK[..], &["--attempts=1"]].concat());
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 5
--- stdout
--- stderr
error: the challenge changed before the submission
  caused by: 127.0.0.1:[PORT] refused snapshot_unlock_snapshot: Error 400: invalid_request_error: The signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or give more --attempts

"#]]
    );
    assert_eq!(lab.core.count("unlock"), 1);
    assert_eq!(lab.lock_key(7), "1");
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
        loss("drop_before", json!({}), Some(7)),
        loss("cut_after", json!({}), None),
        loss("not_json_after", json!({}), None),
        loss("truncated_after", json!({}), None),
        loss("empty_after", json!({}), None),
        loss("html_502", json!({}), Some(7)),
        loss("html_502_after", json!({}), None),
        loss("status_after", json!({ "status": 500 }), None),
        loss("status_after", json!({ "status": 503 }), None),
        loss("status", json!({ "status": 503 }), Some(7)),
        // Longer than the test takes: qq is killed at the deadline.
        loss("slow_after", json!({ "seconds": 600 }), None),
    ]
}

/// Arms each loss in turn, runs one submission, and compares what it says with what the Core holds.
///
/// `begin` makes the state before and says what to run, `done` looks whether it was done.
fn a_lost_answer_is_looked_up(
    lab: &Lab,
    operation: &str,
    losses: Vec<Loss>,
    begin: impl Fn() -> Vec<&'static str>,
    done: impl Fn() -> bool,
) {
    // Nothing is lost with an empty answer where the API has no other.
    let says_nothing = ["lock", "unlock"].contains(&operation);
    for loss in losses {
        let what = format!("{operation} {} {}", loss.kind, loss.more);
        let mut args = begin();
        if loss.kind == "slow_after" {
            args.push("--timeout=8");
        }
        lab.core.clear_requests();
        lab.core.fault(operation, loss.kind, loss.more);
        let run = lab.run(&args);
        let is_done = done();
        assert_eq!(lab.core.count(operation), 1, "{what}: submitted once");
        assert_eq!(is_done, loss.not_done.is_none(), "{what}: in the Core");
        assert_eq!(run.code, loss.not_done.unwrap_or(0), "{what}: {run:#?}");
        let words = match loss.not_done {
            None if loss.kind == "empty_after" && says_nothing => "",
            None => "but the cluster shows that it was done",
            Some(_) => "was submitted, and the cluster shows that it was not done",
        };
        assert!(run.stderr.contains(words), "{what}: {run:#?}");
        assert_eq!(run.stdout.is_empty(), !is_done, "{what}: {run:#?}");
    }
}

/// To and fro between alice's and bob's key.
fn a_lost_answer_to_a_replacement_is_looked_up(version: &str, losses: Vec<Loss>) {
    let lab = Lab::with_vault(version);
    let wanted = Cell::new("");
    let begin = || {
        let to_bob = lab.held("1") == ALICE_PUBLIC;
        wanted.set(if to_bob { BOB_PUBLIC } else { ALICE_PUBLIC });
        match to_bob {
            true => REPLACE.to_vec(),
            false => vec!["replace", "-k1", "--old-key=bob.pem", "--new-key=alice.pem"],
        }
    };
    let done = || lab.held("1") == wanted.get();
    a_lost_answer_is_looked_up(&lab, "replace_key", losses, begin, done);
}

#[test]
fn a_lost_answer_to_a_replacement_is_looked_up_with_qq_7_10_2_1() {
    a_lost_answer_to_a_replacement_is_looked_up(NEW, losses());
}

#[test]
fn a_lost_answer_to_a_replacement_is_looked_up_with_qq_6_1_0_3() {
    let some = [
        "drop_after",
        "drop_before",
        "truncated_after",
        "empty_after",
        "status",
    ];
    let losses = losses()
        .into_iter()
        .filter(|loss| some.contains(&loss.kind));
    a_lost_answer_to_a_replacement_is_looked_up(OLD, losses.collect());
}

#[test]
fn a_lost_answer_to_an_addition_is_looked_up() {
    let lab = Lab::new(NEW);
    let last = || lab.core.state()["keys"].as_array().unwrap().last().cloned();
    let begin = || {
        if let Some(key) = last() {
            let id = key["id"].as_str().unwrap();
            lab.core
                .modify_key(id, json!({ "name": format!("former {id}") }));
        }
        ADD.to_vec()
    };
    let done = || last().is_some_and(|key| key["name"] == "spare");
    a_lost_answer_is_looked_up(&lab, "add_key", losses(), begin, done);
}

#[test]
fn a_lost_answer_to_a_lock_is_looked_up() {
    let lab = Lab::with_vault(NEW);
    let begin = || {
        lab.core.modify_snapshot(9, json!({ "lock_key": null }));
        LOCK.to_vec()
    };
    let done = || lab.lock_key(9) == "1";
    a_lost_answer_is_looked_up(&lab, "lock", losses(), begin, done);
}

#[test]
fn a_lost_answer_to_an_unlock_is_looked_up() {
    let lab = Lab::with_vault(NEW);
    let begin = || {
        lab.core.modify_snapshot(7, json!({ "lock_key": "1" }));
        UNLOCK.to_vec()
    };
    let done = || lab.lock_key(7) == Value::Null;
    a_lost_answer_is_looked_up(&lab, "unlock", losses(), begin, done);
}

#[test]
fn the_words_after_a_lost_answer_say_what_was_seen() {
    let lab = Lab::with_vault(NEW);
    lab.core.fault("replace_key", "drop_before", json!({}));
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 7
--- stdout
--- stderr
error: the replacement of key 1 ("vault") was submitted, and the cluster shows that it was not done
  caused by: the connection to 127.0.0.1:[PORT] was lost during fs_security_replace_key: Remote end closed connection without response
hint: run this again: it looks first whether it was done after all (`[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_list_keys` shows it too)

"#]]
    );
    lab.core.fault("replace_key", "html_502_after", json!({}));
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 0
--- stdout
Replaced key 1 ("vault").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: the answer to the replacement of key 1 ("vault") was lost (127.0.0.1:[PORT] answered fs_security_replace_key with something else than its REST API does: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)), but the cluster shows that it was done

"#]]
    );
    lab.core.fault("unlock", "status", json!({ "status": 500 }));
    let unlock = ["unlock", "--id=7", "--key=bob.pem"];
    assert_data_eq!(
        lab.run(&unlock).transcript(),
        str![[r#"
exit 5
--- stdout
--- stderr
error: the unlocking of snapshot 7 ("7_snapshot") was submitted, and the cluster shows that it was not done
  caused by: 127.0.0.1:[PORT] refused snapshot_unlock_snapshot: Error 500: http_internal_server_error: Simulated failure 500.
hint: run this again: it looks first whether it was done after all (`[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_get_status --id=7` shows it too)

"#]]
    );
    // The old qq says the same on stdout.
    let lab = Lab::with_vault(OLD);
    lab.core.fault("replace_key", "drop_before", json!({}));
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 7
--- stdout
--- stderr
error: the replacement of key 1 ("vault") was submitted, and the cluster shows that it was not done
  caused by: the connection to 127.0.0.1:[PORT] was lost during fs_security_replace_key: Remote end closed connection without response
hint: run this again: it looks first whether it was done after all (`[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_list_keys` shows it too)

"#]]
    );
}

#[test]
fn a_lost_answer_that_cannot_be_looked_up_is_unknown() {
    let lab = Lab::with_vault(NEW);
    lab.core.fault("unlock", "drop_after", json!({}));
    lab.core
        .fault("get_status", "slow", json!({ "seconds": 0 }));
    lab.core
        .fault("get_status", "status", json!({ "status": 503, "times": 0 }));
    let run = lab.run(&UNLOCK);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 8
--- stdout
--- stderr
error: the unlocking of snapshot 7 ("7_snapshot") was submitted, and whether it was done could not be confirmed
  caused by: the connection to 127.0.0.1:[PORT] was lost during snapshot_unlock_snapshot: Remote end closed connection without response
hint: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_get_status --id=7` shows it; running this again is safe: it looks first

"#]]
    );
    assert_eq!(lab.core.count("unlock"), 1);
    assert_eq!(lab.lock_key(7), Value::Null);

    // As it says: running it again is safe.
    lab.core.command(json!({ "op": "clear_faults" }));
    lab.done(&UNLOCK);
    assert_eq!(lab.core.count("unlock"), 1);
}

#[test]
fn a_lost_answer_and_a_snapshot_that_somebody_else_locked_is_unknown() {
    let lab = Lab::with_vault(NEW);
    lab.core.fault("lock", "drop_before", json!({}));
    // Another administrator locks it with another key while qkey looks.
    let carol = json!({ "name": "carol's", "public_key": CAROL_PUBLIC });
    assert_eq!(lab.core.add_key(carol), "2");
    let child = lab.qkey.command(LOCK).spawn().unwrap();
    wait_until("the submission", || lab.core.count("lock") == 1);
    lab.core.modify_snapshot(9, json!({ "lock_key": "2" }));
    let run = lab.qkey.taken(&child.wait_with_output().unwrap());
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 8
--- stdout
--- stderr
error: the locking of snapshot 9 ("9_snapshot") was submitted, its answer was lost, and now it is locked with key 2
  caused by: the connection to 127.0.0.1:[PORT] was lost during snapshot_lock_snapshot: Remote end closed connection without response
hint: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_get_status --id=9` shows it; somebody else may be at work

"#]]
    );
    assert_eq!(lab.core.count("lock"), 1);
    assert_eq!(lab.lock_key(9), "2");
}

// ---------------------------------------------------------------------------------------------
// Refusals
// ---------------------------------------------------------------------------------------------

#[test]
fn without_credentials_it_says_how_to_log_in() {
    for version in [OLD, NEW] {
        let lab = Lab::with_vault(version).env("QKEY_CREDENTIALS_STORE", "none.json");
        assert_data_eq!(
            lab.run(&["keys"]).transcript(),
            str![[r#"
exit 6
--- stdout
--- stderr
error: 127.0.0.1:[PORT] refused fs_security_list_keys: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=none.json login -u USER`

"#]]
        );
    }
}

#[test]
fn credentials_that_are_no_good_any_more_are_an_auth_error() {
    let lab = Lab::with_vault(NEW).env("QKEY_CREDENTIALS_STORE", "old.json");
    lab.qkey
        .write("old.json", r#"{"bearer_token": "expired", "version": 1}"#);
    for args in [&ADD[..], &REPLACE, &LOCK, &UNLOCK] {
        let run = lab.run(args);
        assert_eq!(run.code, 6, "{run:?}");
        assert!(run.stderr.contains("log in first"), "{run:?}");
    }
    assert!(
        lab.core
            .requests()
            .iter()
            .all(|request| request["method"] == "GET")
    );
}

#[test]
fn a_corrupt_credentials_file_is_reported_with_its_words() {
    for version in [OLD, NEW] {
        let lab = Lab::new(version).env("QKEY_CREDENTIALS_STORE", "bad.json");
        lab.qkey.write("bad.json", "not JSON");
        assert_data_eq!(
            lab.run(&["keys"]).transcript(),
            str![[r#"
exit 6
--- stdout
--- stderr
error: qq cannot read its credentials for 127.0.0.1:[PORT]: Expecting value: line 1 column 1 (char 0)
hint: log in first: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=bad.json login -u USER`

"#]]
        );
    }
}

#[test]
fn a_refused_submission_shows_the_words_of_the_cluster() {
    let forbidden = json!({ "status": 403, "description": "You may not.", "error_class": "http_forbidden_error" });
    let taken = json!({ "status": 409, "description": "Somebody was faster." });
    let lab = Lab::with_vault(NEW);
    lab.core.fault("add_key", "status", taken.clone());
    assert_data_eq!(
        lab.run(&ADD).transcript(),
        str![[r#"
exit 5
--- stdout
--- stderr
error: 127.0.0.1:[PORT] refused fs_security_add_key: Error 409: fs_entry_exists_error: Somebody was faster.
hint: nothing was changed; mend what the cluster names, then run this again

"#]]
    );
    lab.core.fault("replace_key", "status", forbidden.clone());
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 6
--- stdout
--- stderr
error: 127.0.0.1:[PORT] refused fs_security_replace_key: Error 403: http_forbidden_error: You may not.
hint: log in as a user whose role has the privilege for it, or ask an administrator

"#]]
    );
    lab.core.fault("lock", "status", forbidden.clone());
    assert_data_eq!(
        lab.run(&LOCK).transcript(),
        str![[r#"
exit 6
--- stdout
--- stderr
error: 127.0.0.1:[PORT] refused snapshot_lock_snapshot: Error 403: http_forbidden_error: You may not.
hint: log in as a user whose role has the privilege for it, or ask an administrator

"#]]
    );
    lab.core.fault("unlock", "status", taken);
    assert_data_eq!(
        lab.run(&UNLOCK).transcript(),
        str![[r#"
exit 5
--- stdout
--- stderr
error: 127.0.0.1:[PORT] refused snapshot_unlock_snapshot: Error 409: fs_entry_exists_error: Somebody was faster.
hint: nothing was changed; mend what the cluster names, then run this again

"#]]
    );
    for operation in ["add_key", "replace_key", "lock", "unlock"] {
        assert_eq!(lab.core.count(operation), 1, "{operation}");
    }
    assert_eq!(lab.core.state()["keys"].as_array().unwrap().len(), 1);
    assert_eq!(lab.held("1"), ALICE_PUBLIC);
    assert_eq!(
        (lab.lock_key(7), lab.lock_key(9)),
        (json!("1"), Value::Null)
    );

    let lab = Lab::with_vault(OLD);
    lab.core.fault("replace_key", "status", forbidden);
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 6
--- stdout
--- stderr
error: 127.0.0.1:[PORT] refused fs_security_replace_key: Error 403: http_forbidden_error: You may not.
hint: log in as a user whose role has the privilege for it, or ask an administrator

"#]]
    );
}

#[test]
fn what_is_not_there_is_refused() {
    let lab = Lab::with_vault(NEW);
    let unlock = ["unlock", "--id=99", "--key=alice.pem"];
    assert_data_eq!(
        lab.run(&unlock).transcript(),
        str![[r#"
exit 5
--- stdout
--- stderr
error: 127.0.0.1:[PORT] refused snapshot_get_status: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_list_statuses` shows what there is

"#]]
    );
    let replace = ["replace", "-k5", "--old-key=alice.pem", "--new-key=bob.pem"];
    assert_data_eq!(
        lab.run(&replace).transcript(),
        str![[r#"
exit 5
--- stdout
--- stderr
error: the key store holds no key with the id 5
hint: `qkey keys list` shows what it holds

"#]]
    );
    let several = ["unlock", "--id=99", "--id=7", "--key=alice.pem"];
    assert_data_eq!(
        lab.run(&several).transcript(),
        str![[r#"
exit 9
--- stdout
Unlocked snapshot 7 ("7_snapshot"), which key 1 ("vault") locked.
1 unlocked, 0 not locked before, 1 failed.
--- stderr
error: 127.0.0.1:[PORT] refused snapshot_get_status: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] snapshot_list_statuses` shows what there is
error: 1 of 2 snapshots failed
hint: each is reported by itself; run this again for the rest: what is unlocked already is left alone

"#]]
    );
    assert_eq!(lab.lock_key(7), Value::Null);
}

#[test]
fn a_cluster_that_is_not_available_is_an_error_of_every_reading() {
    for version in [OLD, NEW] {
        let lab = Lab::with_vault(version);
        lab.core
            .fault("list_keys", "status", json!({ "status": 503 }));
        assert_data_eq!(
            lab.run(&["keys"]).transcript(),
            str![[r#"
exit 7
--- stdout
--- stderr
error: 127.0.0.1:[PORT] refused fs_security_list_keys: Error 503: http_service_unavailable_error: Simulated failure 503.
hint: the cluster, or a proxy before it, is not ready; try again later

"#]]
        );
    }
    let lab = Lab::with_vault(NEW);
    lab.core.fault("replace_challenge", "html_502", json!({}));
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 7
--- stdout
--- stderr
error: 127.0.0.1:[PORT] answered fs_security_get_key_replace_challenge with something else than its REST API does: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
hint: check --host and --port: a proxy or another service may answer there

"#]]
    );
    lab.core.fault("list_keys", "cut", json!({}));
    assert_data_eq!(
        lab.run(&REPLACE).transcript(),
        str![[r#"
exit 7
--- stdout
--- stderr
error: qq crashed during fs_security_list_keys: http.client.IncompleteRead: IncompleteRead(109 bytes read, 110 more expected)
hint: run `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_list_keys --help` by hand; if qq itself works, run this again with -vv and report what it shows

"#]]
    );
    assert_eq!(lab.core.count("replace_key"), 0);
}

// ---------------------------------------------------------------------------------------------
// No cluster
// ---------------------------------------------------------------------------------------------

#[test]
fn a_cluster_that_cannot_be_reached_is_named() {
    for version in [OLD, NEW] {
        let qkey = Qkey::new()
            .env("QKEY_QQ", qq(version).to_str().unwrap())
            .env("QKEY_HOST", "127.0.0.1");
        // Nobody listens there.
        let args = [&REPLACE[..], &["--port=1"]].concat();
        assert_data_eq!(
            qkey.run(&args).transcript(),
            str![[r#"
exit 7
--- stdout
--- stderr
error: cannot reach 127.0.0.1:1: [Errno 111] Connection refused
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
        );
    }
}

#[test]
fn a_host_name_that_does_not_resolve_is_named() {
    for version in [OLD, NEW] {
        let qkey = Qkey::new()
            .env("QKEY_QQ", qq(version).to_str().unwrap())
            .env("QKEY_HOST", "qumulo.invalid");
        let run = qkey.run(["keys"]);
        assert_eq!(run.code, 7, "{run:?}");
        // Which words follow depends on the resolver.
        let words = "error: cannot reach qumulo.invalid:8000: ";
        assert!(run.stderr.starts_with(words), "{run:?}");
    }
}

#[test]
fn without_a_host_an_old_qq_looks_on_this_machine_and_a_new_one_says_usage() {
    let core = Core::start();
    core.add_key(json!({ "name": "here", "public_key": ALICE_PUBLIC }));
    let without_host = |version: &str| {
        Qkey::new()
            .env("QKEY_QQ", qq(version).to_str().unwrap())
            .env("QKEY_PORT", &core.port().to_string())
            .env(
                "QKEY_CREDENTIALS_STORE",
                core.credentials().to_str().unwrap(),
            )
            .run(["keys"])
    };
    let run = without_host(OLD);
    assert!(run.stdout.contains("here"), "{run:?}");
    assert_data_eq!(
        without_host(NEW).transcript(),
        str![[r#"
exit 2
--- stdout
--- stderr
error: no cluster is named
hint: give --host HOST, set QKEY_HOST, or write the cluster into the configuration file (`qkey config init`)

"#]]
    );
}

#[test]
fn no_qq_and_no_program_at_all_are_told_apart() {
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

// ---------------------------------------------------------------------------------------------
// Signals
// ---------------------------------------------------------------------------------------------

/// Sends a signal while the Core sits on a submission; no `qq` may stay behind.
fn signalled(version: &str, args: &[&str], operation: &str, signal: Signal) -> (Lab, Output) {
    let mut lab = Lab::with_vault(version);
    let noting = format!(
        "#!/bin/sh\necho $$ >>pids\nexec '{}' \"$@\"\n",
        qq(version).display()
    );
    let noting = lab.qkey.write_program("qq", &noting);
    lab = lab.env("QKEY_QQ", noting.to_str().unwrap());
    let for_ever = json!({ "seconds": 600, "times": 0 });
    lab.core.fault(operation, "slow", for_ever);
    let child = lab.qkey.command(args).spawn().unwrap();
    wait_until("the submission", || lab.core.count(operation) > 0);
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
    let output = child.wait_with_output().unwrap();
    for pid in fs::read_to_string(lab.qkey.path("pids")).unwrap().lines() {
        wait_until("the end of qq", || !is_alive(pid.parse().unwrap()));
    }
    (lab, output)
}

#[test]
fn an_interrupted_submission_is_unknown_and_leaves_no_qq_behind() {
    let (lab, output) = signalled(NEW, &REPLACE, "replace_key", Signal::INT);
    assert_data_eq!(
        lab.qkey.taken(&output).transcript(),
        str![[r#"
exit 130
--- stdout
--- stderr
error: the replacement of key 1 ("vault") was submitted, and whether it was done could not be confirmed
  caused by: stopped by a signal during fs_security_replace_key
hint: `[DIR]/qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_list_keys` shows it; running this again is safe: it looks first

"#]]
    );
    assert_eq!(lab.core.count("replace_key"), 1);
    assert_eq!(lab.held("1"), ALICE_PUBLIC);
}

#[test]
fn a_terminated_submission_is_unknown_and_leaves_no_qq_behind() {
    let args = [&UNLOCK[..], &["--id=8", "--output=json"]].concat();
    let (lab, output) = signalled(OLD, &args, "unlock", Signal::TERM);
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert_eq!((lab.lock_key(7), lab.lock_key(8)), (json!("1"), json!("1")));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["kind"], "terminated");
    assert_eq!(error["error"]["exit_code"], 143);
}
