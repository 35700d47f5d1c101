//! `qkey add` against the mock `qq`.

use crate::support::{
    mock::Mock,
    qkey::{ALICE, ALICE_PUBLIC, BOB_PUBLIC, Qkey, STRANGE_TEXTS, rounds, side_by_side},
    snapshot::{filtered, qkey_snapshot},
};
use snapbox::{IntoData, assert_data_eq, str};

const ADD: [&str; 5] = ["add", "--name", "lock-2026", "--key", "alice.pem"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&ADD[..], more].concat()
}

#[test]
fn json_for_dry_run_change_no_change_and_failure() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    let comment = ["--comment", "in the safe"];
    qkey_snapshot!(
        qkey,
        with(&["--dry-run", "--comment", "in the safe"]),
        str![[r#"
{"action":"add","changed":false,"dry_run":true,"key":{"name":"lock-2026","comment":"in the safe","public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}

"#]]
    );
    qkey_snapshot!(
        qkey,
        with(&comment),
        str![[r#"
{"action":"add","changed":true,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}

"#]]
    );
    qkey_snapshot!(
        qkey,
        with(&comment),
        str![[r#"
{"action":"add","changed":false,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}

"#]]
    );
    let other = ["add", "--name", "lock-2026", "--key", "bob.pem"];
    qkey_snapshot!(
        qkey,
        other,
        str![[r#"
--- exit 4
{"error":{"kind":"mismatch","message":"\"lock-2026\" is already used by key 1, with a different public key","causes":[],"hint":"nothing was sent; choose another --name, or replace that key: `qkey replace --key-id 1 --new-key SOURCE`","exit_code":4}}

"#]]
    );
}

#[test]
fn runs_three_rounds_of_qq() {
    let mock = Mock::new();
    Qkey::with_mock(&mock).run(ADD);
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
fn name_taken_by_another_key_exits_4() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", BOB_PUBLIC);
    let qkey = Qkey::with_mock(&mock);
    qkey_snapshot!(
        qkey,
        ADD,
        str![[r#"
--- exit 4
error: "lock-2026" is already used by key 1, with a different public key
hint: nothing was sent; choose another --name, or replace that key: `qkey replace --key-id 1 --new-key SOURCE`

"#]]
    );
    assert_eq!(mock.count("fs_security_add_key"), 0);
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn same_key_under_second_name_warns() {
    let mock = Mock::new();
    mock.add_key("lock-2025", "", ALICE_PUBLIC);
    let qkey = Qkey::with_mock(&mock);
    qkey_snapshot!(
        qkey,
        ADD,
        str![[r#"
Stored key 2 ("lock-2026") in the key store.
  SHA256:[ALICE]
--- exit 0
warning: the same public key is also stored as key 1 ("lock-2025")

"#]]
    );
    assert_eq!(mock.key_ids(), ["1", "2"]);
}

#[test]
fn comment_is_stored_and_never_changed() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let comment = "-it's \"5\" % of\nall 🔑";
    assert_eq!(qkey.run(with(&["--comment", comment])).code, 0);
    assert_eq!(mock.key_field("1", "comment"), comment);
    qkey_snapshot!(
        qkey,
        with(&["--comment", "another"]),
        str![[r#"
Already stored as key 1 ("lock-2026").
  SHA256:[ALICE]
--- exit 0
warning: the stored comment stays "-it's \"5\" % of\nall 🔑"; change it: `[QQ] --host=cluster fs_security_modify_key --key=1 --comment=TEXT`

"#]]
    );
    qkey_snapshot!(
        qkey,
        with(&["--comment", ""]),
        str![[r#"
Already stored as key 1 ("lock-2026").
  SHA256:[ALICE]

"#]]
    );
    assert_eq!(mock.key_field("1", "comment"), comment);
}

#[test]
fn invalid_name_is_a_usage_error_before_qq_runs() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let said = ["", "2026", "007"].map(|name| {
        let run = qkey.run(["add", "--name", name, "--key", "alice.pem"]);
        format!("==== {name:?}\n{}", filtered(&run))
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== ""
--- exit 2
error: the name "" is empty
hint: give the key a name such as lock-2026
==== "2026"
--- exit 2
error: the name "2026" consists of digits only, and would be taken for an id
hint: give the key a name such as lock-2026
==== "007"
--- exit 2
error: the name "007" consists of digits only, and would be taken for an id
hint: give the key a name such as lock-2026

"#]]
        .raw()
    );
    assert!(mock.calls().is_empty());
}

#[test]
fn odd_names_are_stored_verbatim() {
    let said = side_by_side(&STRANGE_TEXTS, |name| {
        let mock = Mock::new();
        let qkey = Qkey::with_mock(&mock);
        let add = ["add", "--name", name, "--key", "alice.pem"];
        let run = qkey.run(add);
        assert_eq!(mock.key_field("1", "name"), name);
        assert_eq!(qkey.run(add).code, 0);
        assert_eq!(mock.count("fs_security_add_key"), 1);
        run.stdout + &run.stderr
    });
    assert_data_eq!(
        said,
        str![[r##"
==== two words
Stored key 1 ("two words") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
====  spaces around 
Stored key 1 (" spaces around ") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== tab\there
Stored key 1 ("tab\there") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== a/b
Stored key 1 ("a/b") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== ../../etc
Stored key 1 ("../../etc") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== what?
Stored key 1 ("what?") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== #1
Stored key 1 ("#1") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== 100%
Stored key 1 ("100%") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== %2e%2e
Stored key 1 ("%2e%2e") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== --key=1
Stored key 1 ("--key=1") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== it\'s \"quoted\"
Stored key 1 ("it's \"quoted\"") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== back\\slash\\n
Stored key 1 ("back\\slash\\n") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== two\nlines\n
Stored key 1 ("two\nlines\n") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== \u{1b}[31mred
Stored key 1 ("\u{1b}[31mred") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== Schlüssel
Stored key 1 ("Schlüssel") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== é \u{202e}right to left
Stored key 1 ("é \u{202e}right to left") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
==== 🔑 鍵
Stored key 1 ("🔑 鍵") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4

"##]]
        .raw()
    );
}

#[test]
fn reads_key_from_stdin() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let add = ["add", "--name", "lock-2026", "--key", "-"];
    assert_data_eq!(
        filtered(&qkey.run_with_stdin(add, ALICE.as_bytes())),
        str![[r#"
Stored key 1 ("lock-2026") in the key store.
  SHA256:[ALICE]

"#]]
        .raw()
    );
    assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
    qkey_snapshot!(
        qkey,
        add,
        str![[r#"
--- exit 3
error: cannot use the key file -
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`

"#]]
    );
}

#[test]
fn unreadable_key_exits_3_and_sends_nothing() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    qkey.write("empty.pem", "");
    let said = ["missing.pem", ".", "empty.pem"].map(|key| {
        let run = qkey.run(["add", "--name", "lock-2026", "--key", key]);
        format!("==== {key}\n{}", filtered(&run))
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== missing.pem
--- exit 3
error: cannot read the key file missing.pem
  caused by: No such file or directory (os error 2)
hint: check the path
==== .
--- exit 3
error: . is a directory
hint: specify a key file in this directory
==== empty.pem
--- exit 3
error: cannot use the key file empty.pem
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`

"#]]
        .raw()
    );
    let run = qkey.run(["add", "--name", "lock-2026", "--key", "floppy:a"]);
    assert_eq!(run.code, 2);
    let message = "error: \"floppy:a\" is not a key source: unknown scheme \"floppy\"\n\
                   hint: a key source is one of: PATH or file:PATH";
    assert!(run.stderr.starts_with(message), "{run:?}");
    assert_eq!(mock.count("fs_security_add_key"), 0);
}

#[test]
fn missing_arguments_are_named() {
    let qkey = Qkey::new();
    qkey_snapshot!(
        qkey,
        ["add"],
        str![[r#"
--- exit 2
error: the following required arguments were not provided:
  --name <NAME>
  --key <SOURCE>

Usage: qkey add --name <NAME> --key <SOURCE>

For more information, try '--help'.

"#]]
    );
}

#[test]
fn name_taken_during_submission_exits_8() {
    let mock = Mock::new();
    mock.add_key("lock-2025", "", BOB_PUBLIC);
    let qkey = Qkey::with_mock(&mock).between(
        &mock,
        r#"case "$*" in *fs_security_add_key*)
            printf lock-2026 >"$QQ_MOCK_STATE/keys/1/name"
            echo 'Connection error: The read operation timed out' >&2
            exit 1
        esac"#,
    );
    qkey_snapshot!(
        qkey,
        ADD,
        str![[r#"
--- exit 8
error: the request to add key "lock-2026" was sent, and now key 1 ("lock-2026") holds another public key
  caused by: lost the connection to cluster:8000 during the request to store key "lock-2026": The read operation timed out
hint: someone else may be making changes; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows what the cluster holds

"#]]
    );
    assert_eq!(mock.count("fs_security_add_key"), 0);
}

#[test]
fn stored_but_disabled_key_warns() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    mock.set_key_field("1", "disabled", "true");
    let qkey = Qkey::with_mock(&mock);
    let said = [&[][..], &["--dry-run"], &["--output=json"]].map(|more| {
        let run = qkey.run(with(more));
        format!("==== {more:?}\n{}", filtered(&run))
    });
    assert_data_eq!(said.concat(), str![[r#"
==== []
Already stored as key 1 ("lock-2026").
  SHA256:[ALICE]
--- exit 0
warning: the key is disabled and cannot lock snapshots; enable it: `[QQ] --host=cluster fs_security_modify_key --key=1 --enable`
==== ["--dry-run"]
Already stored as key 1 ("lock-2026").
  SHA256:[ALICE]
--- exit 0
warning: the key is disabled and cannot lock snapshots; enable it: `[QQ] --host=cluster fs_security_modify_key --key=1 --enable`
==== ["--output=json"]
{"action":"add","changed":false,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"","disabled":true,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
--- exit 0
{"log":{"level":"warning","message":"the key is disabled and cannot lock snapshots; enable it: `[QQ] --host=cluster fs_security_modify_key --key=1 --enable`"}}

"#]].raw());
    assert_eq!(mock.count("fs_security_add_key"), 0);
}

#[test]
fn name_of_ten_thousand_characters_is_stored() {
    let mock = Mock::new();
    let name = "é".repeat(10_000);
    let run = Qkey::with_mock(&mock).run(["add", "--name", &name, "--key", "alice.pem"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(mock.key_field("1", "name"), name);
}
