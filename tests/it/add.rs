//! `qkey add` through the mock `qq`. Lost replies are in `transports.rs`.

use crate::support::{
    ceremony::submissions,
    mock::Mock,
    qkey::{ALICE, ALICE_PUBLIC, BOB_PUBLIC, Qkey, STRANGE_TEXTS, rounds},
    snapshot::{filtered, qkey_snapshot, session, snapshot},
};
use snapbox::str;

const ADD: &str = "add --name=lock-2026 --key=alice.pem";

#[test]
fn json_for_dry_run_change_no_change_and_failure() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    let add = format!("{ADD} --comment=safe");
    let dry_run = format!("{add} --dry-run");
    let other = "add --name=lock-2026 --key=bob.pem";
    let said = session(&qkey, [&*dry_run, &add, &add, other]);
    snapshot!(
        said,
        str![[r#"
$ qkey add --name=lock-2026 --key=alice.pem --comment=safe --dry-run
{"action":"add","changed":false,"dry_run":true,"key":{"name":"lock-2026","comment":"safe","public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
$ qkey add --name=lock-2026 --key=alice.pem --comment=safe
{"action":"add","changed":true,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"safe","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
$ qkey add --name=lock-2026 --key=alice.pem --comment=safe
{"action":"add","changed":false,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"safe","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
$ qkey add --name=lock-2026 --key=bob.pem
--- exit 4
{"error":{"kind":"mismatch","message":"\"lock-2026\" is already used by key 1, with a different public key","causes":[],"hint":"nothing was sent; choose another --name, or replace that key: `qkey replace --key-id 1 --new-key SOURCE`","exit_code":4}}

"#]]
    );
    assert_eq!(submissions(&mock), 1);
    assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
}

#[test]
fn runs_three_rounds_of_qq() {
    let mock = Mock::new();
    Qkey::with_mock(&mock).line(ADD);
    assert_eq!(
        rounds(&mock, &[1, 1, 1]),
        [
            ["fs_security_list_keys"],
            ["fs_security_add_key"],
            ["fs_security_list_keys"]
        ]
    );
}

#[test]
fn taken_name_exits_4_and_second_name_for_a_key_warns() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", BOB_PUBLIC);
    let qkey = Qkey::with_mock(&mock);
    qkey_snapshot!(
        qkey,
        ADD.split(' '),
        str![[r#"
--- exit 4
error: "lock-2026" is already used by key 1, with a different public key
hint: nothing was sent; choose another --name, or replace that key: `qkey replace --key-id 1 --new-key SOURCE`

"#]]
    );
    assert_eq!(submissions(&mock), 0);
    mock.add_key("lock-2025", "", ALICE_PUBLIC);
    mock.set_key_field("1", "name", "other");
    qkey_snapshot!(
        qkey,
        ADD.split(' '),
        str![[r#"
Stored key 3 ("lock-2026") in the key store.
  SHA256:[ALICE]
--- exit 0
warning: the same public key is also stored as key 2 ("lock-2025")

"#]]
    );
    assert_eq!(mock.key_ids(), ["1", "2", "3"]);
}

#[test]
fn stored_key_is_left_as_it_is() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let comment = "-it's \"5\" % of\nall 🔑";
    let run = qkey.run([
        "add",
        "--name=lock-2026",
        "--key=alice.pem",
        "--comment",
        comment,
    ]);
    assert_eq!(run.code, 0, "{run:?}");
    let [another, none] = ["another", ""].map(|comment| format!("{ADD} --comment={comment}"));
    snapshot!(
        session(&qkey, [&*another, &*none]),
        str![[r#"
$ qkey add --name=lock-2026 --key=alice.pem --comment=another
Already stored as key 1 ("lock-2026").
  SHA256:[ALICE]
--- exit 0
warning: the stored comment stays "-it's \"5\" % of\nall 🔑"; change it: `[QQ] --host=cluster fs_security_modify_key --key=1 --comment=TEXT`
$ qkey add --name=lock-2026 --key=alice.pem --comment=
Already stored as key 1 ("lock-2026").
  SHA256:[ALICE]

"#]]
    );
    assert_eq!(mock.key_field("1", "comment"), comment);
    mock.set_key_field("1", "disabled", "true");
    let [dry_run, json] = ["--dry-run", "--output=json"].map(|flag| format!("{ADD} {flag}"));
    snapshot!(
        session(&qkey, [&*dry_run, &*json]),
        str![[r#"
$ qkey add --name=lock-2026 --key=alice.pem --dry-run
Already stored as key 1 ("lock-2026").
  SHA256:[ALICE]
--- exit 0
warning: the key is disabled and cannot lock snapshots; enable it: `[QQ] --host=cluster fs_security_modify_key --key=1 --enable`
$ qkey add --name=lock-2026 --key=alice.pem --output=json
{"action":"add","changed":false,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"-it's \"5\" % of\nall 🔑","disabled":true,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
--- exit 0
{"log":{"level":"warning","message":"the key is disabled and cannot lock snapshots; enable it: `[QQ] --host=cluster fs_security_modify_key --key=1 --enable`"}}

"#]]
    );
    assert_eq!(submissions(&mock), 1);
}

#[test]
fn invalid_arguments_are_usage_errors_before_qq_runs() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let lines = [
        "add",
        "add --name= --key=alice.pem",
        "add --name=007 --key=alice.pem",
    ];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey add
--- exit 2
error: the following required arguments were not provided:
  --name <NAME>
  --key <SOURCE>

Usage: qkey add --name <NAME> --key <SOURCE>

For more information, try '--help'.
$ qkey add --name= --key=alice.pem
--- exit 2
error: the name "" is empty
hint: give the key a name such as lock-2026
$ qkey add --name=007 --key=alice.pem
--- exit 2
error: the name "007" consists of digits only, and would be taken for an id
hint: give the key a name such as lock-2026

"#]]
    );
    let run = qkey.line("add --name=lock-2026 --key=floppy:a");
    assert_eq!(run.code, 2);
    let message = "error: \"floppy:a\" is not a key source: unknown scheme \"floppy\"\n\
                   hint: a key source is one of: PATH or file:PATH";
    assert!(run.stderr.starts_with(message), "{run:?}");
    assert!(mock.calls().is_empty());
}

#[test]
fn odd_names_are_stored_verbatim() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let long = "é".repeat(10_000);
    for (index, name) in STRANGE_TEXTS.iter().chain([&&*long]).enumerate() {
        let add = ["add", "--name", name, "--key=alice.pem", "--quiet"];
        for _ in 0..2 {
            let run = qkey.run(add);
            assert_eq!(run.code, 0, "{name:?}: {run:?}");
        }
        assert_eq!(mock.key_field(&(index + 1).to_string(), "name"), **name);
    }
    assert_eq!(submissions(&mock), STRANGE_TEXTS.len() + 1);
}

#[test]
fn key_from_stdin_and_unreadable_keys() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    qkey.write("empty.pem", "");
    let lines =
        ["missing.pem", ".", "empty.pem", "-"].map(|key| format!("add --name=k --key={key}"));
    let said = session(&qkey, lines.iter().map(String::as_str));
    snapshot!(
        said,
        str![[r#"
$ qkey add --name=k --key=missing.pem
--- exit 3
error: cannot read the key file missing.pem
  caused by: No such file or directory (os error 2)
hint: check the path
$ qkey add --name=k --key=.
--- exit 3
error: . is a directory
hint: specify a key file in this directory
$ qkey add --name=k --key=empty.pem
--- exit 3
error: cannot use the key file empty.pem
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ qkey add --name=k --key=-
--- exit 3
error: cannot use the key file -
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`

"#]]
    );
    assert_eq!(submissions(&mock), 0);
    let run = qkey.run_with_stdin(["add", "--name=k", "--key=-"], ALICE.as_bytes());
    assert_eq!(run.code, 0, "{}", filtered(&run));
    assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
}
