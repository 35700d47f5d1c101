//! `qkey add` against the mock `qq`.

use crate::support::{
    mock::Mock,
    qkey::{
        ALICE, ALICE_PUBLIC, BOB_PUBLIC, LOSSES, Qkey, STRANGE_TEXTS, expect_no_sleepers, rounds,
        side_by_side, timeout_for,
    },
};
use snapbox::{IntoData, assert_data_eq, str};

const ADD: [&str; 5] = ["add", "--name", "lock-2026", "--key", "alice.pem"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&ADD[..], more].concat()
}

#[test]
fn a_key_is_stored_and_then_already_so() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(ADD).transcript(),
        str![[r#"
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]
        .raw()
    );
    assert_data_eq!(
        qkey.run(ADD).transcript(),
        str![[r#"
exit 0
--- stdout
The key store holds this as key 1 ("lock-2026") already: nothing to do.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_add_key"), 1);
    assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
}

#[test]
fn json_says_what_was_done_would_be_done_or_failed() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    let comment = ["--comment", "in the safe"];
    assert_data_eq!(
        qkey.run(with(&["--dry-run", "--comment", "in the safe"])).transcript(),
        str![[r#"
exit 0
--- stdout
{"action":"add","changed":false,"dry_run":true,"key":{"name":"lock-2026","comment":"in the safe","public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"}}
--- stderr

"#]].raw()
    );
    assert_data_eq!(qkey.run(with(&comment)).transcript(), str![[r#"
exit 0
--- stdout
{"action":"add","changed":true,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"}}
--- stderr

"#]].raw());
    assert_data_eq!(qkey.run(with(&comment)).transcript(), str![[r#"
exit 0
--- stdout
{"action":"add","changed":false,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"}}
--- stderr

"#]].raw());
    let other = ["add", "--name", "lock-2026", "--key", "bob.pem"];
    assert_data_eq!(qkey.run(other).transcript(), str![[r#"
exit 4
--- stdout
--- stderr
{"error":{"kind":"mismatch","message":"the name \"lock-2026\" is taken: the cluster holds another public key as key 1 (\"lock-2026\")","causes":[],"hint":"nothing was sent; choose another --name, or replace that key: `qkey replace --key-id 1`","exit_code":4}}

"#]].raw());
}

#[test]
fn a_dry_run_stores_nothing() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(with(&["--dry-run"])).transcript(),
        str![[r#"
exit 0
--- stdout
Would store key "lock-2026"; its signature was checked and nothing was sent.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]
        .raw()
    );
    assert_eq!(rounds(&mock, &[1]), [["fs_security_list_keys"]]);
    assert!(mock.key_ids().is_empty());
}

#[test]
fn three_rounds_of_qq_are_all_it_takes() {
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
fn a_name_that_another_key_has_is_not_touched() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", BOB_PUBLIC);
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(ADD).transcript(),
        str![[r#"
exit 4
--- stdout
--- stderr
error: the name "lock-2026" is taken: the cluster holds another public key as key 1 ("lock-2026")
hint: nothing was sent; choose another --name, or replace that key: `qkey replace --key-id 1`

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_add_key"), 0);
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn a_key_under_a_second_name_is_stored_with_a_warning() {
    let mock = Mock::new();
    mock.add_key("lock-2025", "", ALICE_PUBLIC);
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(ADD).transcript(),
        str![[r#"
exit 0
--- stdout
Stored key 2 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: the key store holds the same public key as key 1 ("lock-2025")

"#]]
        .raw()
    );
    assert_eq!(mock.key_ids(), ["1", "2"]);
}

#[test]
fn a_comment_is_stored_and_never_changed() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let comment = "-it's \"5\" % of\nall 🔑";
    assert_eq!(qkey.run(with(&["--comment", comment])).code, 0);
    assert_eq!(mock.key_field("1", "comment"), comment);
    assert_data_eq!(
        qkey.run(with(&["--comment", "another"])).transcript(),
        str![[r#"
exit 0
--- stdout
The key store holds this as key 1 ("lock-2026") already: nothing to do.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: its comment is "-it's \"5\" % of\nall 🔑" and stays so; `qq fs_security_modify_key` changes it

"#]].raw()
    );
    assert_data_eq!(
        qkey.run(with(&["--comment", ""])).transcript(),
        str![[r#"
exit 0
--- stdout
The key store holds this as key 1 ("lock-2026") already: nothing to do.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.key_field("1", "comment"), comment);
}

#[test]
fn a_name_that_can_be_no_name_is_refused_before_qq_runs() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let said = ["", "2026", "007"].map(|name| {
        let run = qkey.run(["add", "--name", name, "--key", "alice.pem"]);
        format!("==== {name:?}\n{}", run.transcript())
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== ""
exit 2
--- stdout
--- stderr
error: the name "" is empty
hint: give the key a name such as lock-2026
==== "2026"
exit 2
--- stdout
--- stderr
error: the name "2026" consists of digits only, and would be taken for an id
hint: give the key a name such as lock-2026
==== "007"
exit 2
--- stdout
--- stderr
error: the name "007" consists of digits only, and would be taken for an id
hint: give the key a name such as lock-2026

"#]]
        .raw()
    );
    assert!(mock.calls().is_empty());
}

#[test]
fn any_other_name_is_stored_as_it_was_typed() {
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
fn a_name_of_ten_thousand_characters_is_stored() {
    let mock = Mock::new();
    let name = "é".repeat(10_000);
    let run = Qkey::with_mock(&mock).run(["add", "--name", &name, "--key", "alice.pem"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(mock.key_field("1", "name"), name);
}

#[test]
fn a_key_is_read_from_stdin() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let add = ["add", "--name", "lock-2026", "--key", "-"];
    assert_data_eq!(
        qkey.run_with_stdin(add, ALICE.as_bytes()).transcript(),
        str![[r#"
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
    assert_data_eq!(
        qkey.run(add).transcript(),
        str![[r#"
exit 3
--- stdout
--- stderr
error: cannot use the key file -
  caused by: the file is empty
hint: make an ECDSA P-256 key: `qkey generate key.pem`

"#]]
        .raw()
    );
}

#[test]
fn a_key_that_cannot_be_read_is_told_and_nothing_is_sent() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    qkey.write("empty.pem", "");
    let said = ["missing.pem", ".", "empty.pem"].map(|key| {
        let run = qkey.run(["add", "--name", "lock-2026", "--key", key]);
        format!("==== {key}\n{}", run.transcript())
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== missing.pem
exit 3
--- stdout
--- stderr
error: cannot read the key file missing.pem
  caused by: No such file or directory (os error 2)
hint: check the path, or make a key with `qkey generate PATH`
==== .
exit 3
--- stdout
--- stderr
error: . is a directory
hint: name the key file in it
==== empty.pem
exit 3
--- stdout
--- stderr
error: cannot use the key file empty.pem
  caused by: the file is empty
hint: make an ECDSA P-256 key: `qkey generate key.pem`

"#]]
        .raw()
    );
    let run = qkey.run(["add", "--name", "lock-2026", "--key", "floppy:a"]);
    assert_eq!(run.code, 2);
    let message = "error: \"floppy:a\" is not a key source: there is no scheme \"floppy\"\n\
                   hint: a key source is one of: PATH or file:PATH";
    assert!(run.stderr.starts_with(message), "{run:?}");
    assert_eq!(mock.count("fs_security_add_key"), 0);
}

#[test]
fn missing_arguments_are_named() {
    let qkey = Qkey::new();
    assert_data_eq!(
        qkey.run(["add"]).transcript(),
        str![[r#"
exit 2
--- stdout
--- stderr
error: the following required arguments were not provided:
  --name <NAME>
  --key <SOURCE>

Usage: qkey add --name <NAME> --key <SOURCE>

For more information, try '--help'.

"#]]
        .raw()
    );
}

#[test]
fn a_refusal_shows_the_words_of_the_cluster() {
    let said = side_by_side(
        &[
            "status 400 invalid_request_error The name is not to my liking.",
            "status 403 privilege_error You are not allowed to.",
            "status 409 fs_entry_exists_error A key with the name lock-2026 exists.",
            "unauthenticated",
            "refused-connection",
        ],
        |fault| {
            let mock = Mock::new();
            mock.fault("fs_security_add_key", fault);
            let run = Qkey::with_mock(&mock).run(ADD);
            assert_eq!(mock.count("fs_security_add_key"), 1);
            assert!(mock.key_ids().is_empty());
            run.transcript()
        },
    );
    assert_data_eq!(said, str![[r#"
==== status 400 invalid_request_error The name is not to my liking.
exit 5
--- stdout
--- stderr
error: cluster:8000 refused to store key "lock-2026"
  caused by: Error 400: invalid_request_error: The name is not to my liking.
hint: nothing was changed; fix what the cluster reports, then run this again
==== status 403 privilege_error You are not allowed to.
exit 6
--- stdout
--- stderr
error: cluster:8000 denied permission to store key "lock-2026"
  caused by: Error 403: privilege_error: You are not allowed to.
hint: log in as a user whose role includes PRIVILEGE_FS_KEY_MANAGEMENT_WRITE; role changes take effect at the next login
==== status 409 fs_entry_exists_error A key with the name lock-2026 exists.
exit 5
--- stdout
--- stderr
error: cluster:8000 refused to store key "lock-2026"
  caused by: Error 409: fs_entry_exists_error: A key with the name lock-2026 exists.
hint: nothing was changed; fix what the cluster reports, then run this again
==== unauthenticated
exit 6
--- stdout
--- stderr
error: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
==== refused-connection
exit 7
--- stdout
--- stderr
error: cannot reach cluster:8000: [Errno 111] Connection refused
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]].raw());
}

#[test]
fn a_lost_answer_is_looked_up_and_never_asked_for_again() {
    let said = side_by_side(&LOSSES, |fault| {
        let mock = Mock::new();
        mock.fault("fs_security_add_key", fault);
        let run = Qkey::with_mock(&mock).run(with(&[timeout_for(fault)]));
        assert_eq!(mock.count("fs_security_add_key"), 1, "{fault}");
        assert_eq!(run.code == 0, mock.key_ids() == ["1"], "{fault}");
        expect_no_sleepers(&mock);
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== drop-before
exit 8
--- stdout
--- stderr
error: no reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: lost the connection to cluster:8000 during the request to store key "lock-2026": Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== drop-after
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: no reply to the request to add key "lock-2026" (lost the connection to cluster:8000 during the request to store key "lock-2026": Remote end closed connection without response); checked: it was done
==== timeout-before
exit 8
--- stdout
--- stderr
error: no reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: lost the connection to cluster:8000 during the request to store key "lock-2026": The read operation timed out
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== timeout-after
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: no reply to the request to add key "lock-2026" (lost the connection to cluster:8000 during the request to store key "lock-2026": The read operation timed out); checked: it was done
==== traceback
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to store key "lock-2026"
  caused by: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== traceback-after
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: unexpected reply to the request to add key "lock-2026" (unexpected reply from cluster:8000 to the request to store key "lock-2026": qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)); checked: it was done
==== garbage
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to store key "lock-2026"
  caused by: expected the key in JSON, got: <html> This is not what you are looking for.
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== garbage-after
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: unexpected reply to the request to add key "lock-2026" (unexpected reply from cluster:8000 to the request to store key "lock-2026": expected the key in JSON, got: <html> This is not what you are looking for.); checked: it was done
==== empty
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to store key "lock-2026"
  caused by: expected the key in JSON, got: (nothing)
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== empty-after
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: unexpected reply to the request to add key "lock-2026" (unexpected reply from cluster:8000 to the request to store key "lock-2026": expected the key in JSON, got: (nothing)); checked: it was done
==== truncated
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: unexpected reply to the request to add key "lock-2026" (unexpected reply from cluster:8000 to the request to store key "lock-2026": expected the key in JSON, got: {     "comment": "",     "disabled": false,     "id": "1",     "name": "lock-2026",     "public_key": "MFkwEwYHKoZI); checked: it was done
==== kill-9
exit 8
--- stdout
--- stderr
error: no reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: qq failed to store key "lock-2026"
  caused by: `[QQ]` was killed by signal 9
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== kill-9-after
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: no reply to the request to add key "lock-2026" (qq failed to store key "lock-2026": `[QQ]` was killed by signal 9); checked: it was done
==== hang
exit 8
--- stdout
--- stderr
error: no reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: qq failed to store key "lock-2026"
  caused by: `[QQ]` did not finish within 4 s and was killed
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== hang-after
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: no reply to the request to add key "lock-2026" (qq failed to store key "lock-2026": `[QQ]` did not finish within 4 s and was killed); checked: it was done
==== huge
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: the reply from cluster:8000 is too large: the reply is larger than 256 KiB
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== exit 3 something odd
exit 8
--- stdout
--- stderr
error: no reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: qq failed to store key "lock-2026"
  caused by: `[QQ]` exited with 3: something odd
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== status 500 internal_error It broke.
exit 5
--- stdout
--- stderr
error: the cluster failed to process the request to add key "lock-2026"; checked: it was not done
  caused by: cluster:8000 failed to store key "lock-2026"
  caused by: Error 500: internal_error: It broke.
hint: check the cluster's health, then run this again; `[QQ] --host=cluster fs_security_list_keys` shows what it holds
==== status 503 busy_error Try again later.
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: cluster:8000 failed to store key "lock-2026"
  caused by: Error 503: busy_error: Try again later.
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
}

#[test]
fn an_outcome_that_nobody_can_see_is_unknown() {
    let mock = Mock::new();
    mock.fault("fs_security_add_key", "drop-after");
    mock.fault("fs_security_list_keys", "");
    mock.fault("fs_security_list_keys", "always refused-connection");
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(ADD);
    assert_data_eq!(run.transcript(), str![[r#"
exit 8
--- stdout
--- stderr
error: the request to add key "lock-2026" was sent, but the result could not be confirmed
  caused by: lost the connection to cluster:8000 during the request to store key "lock-2026": Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
    assert_eq!(mock.count("fs_security_add_key"), 1);
}

#[test]
fn an_unknown_outcome_has_its_kind_in_json() {
    let mock = Mock::new();
    mock.fault("fs_security_add_key", "kill-9-after");
    mock.fault("fs_security_list_keys", "");
    mock.fault("fs_security_list_keys", "always traceback");
    let run = Qkey::with_mock(&mock).run(with(&["--output=json"]));
    assert_data_eq!(run.transcript(), str![[r#"
exit 8
--- stdout
--- stderr
{"error":{"kind":"unknown","message":"the request to add key \"lock-2026\" was sent, but the result could not be confirmed","causes":["qq failed to store key \"lock-2026\"","`[QQ]` was killed by signal 9"],"hint":"keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first","exit_code":8}}

"#]].raw());
}

#[test]
fn a_state_that_can_be_read_at_the_second_look_is_believed() {
    let mock = Mock::new();
    mock.fault("fs_security_add_key", "drop-after");
    mock.fault("fs_security_list_keys", "");
    mock.fault("fs_security_list_keys", "drop-before");
    let run = Qkey::with_mock(&mock).run(ADD);
    assert_data_eq!(run.transcript(), str![[r#"
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: no reply to the request to add key "lock-2026" (lost the connection to cluster:8000 during the request to store key "lock-2026": Remote end closed connection without response); checked: it was done

"#]].raw());
}

#[test]
fn a_name_that_another_took_meanwhile_is_told() {
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
    assert_data_eq!(qkey.run(ADD).transcript(), str![[r#"
exit 8
--- stdout
--- stderr
error: the request to add key "lock-2026" was sent, and now key 1 ("lock-2026") holds another public key
  caused by: lost the connection to cluster:8000 during the request to store key "lock-2026": The read operation timed out
hint: somebody else may be making changes; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows what the cluster holds

"#]].raw());
    assert_eq!(mock.count("fs_security_add_key"), 0);
}

#[test]
fn an_answer_about_another_key_is_not_believed() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock).between(
        &mock,
        &format!(
            r#"case "$*" in *fs_security_add_key*)
                echo '{{"id": "1", "name": "lock-2026", "public_key": "{BOB_PUBLIC}"}}'
                exit 0
            esac"#
        ),
    );
    assert_data_eq!(qkey.run(ADD).transcript(), str![[r#"
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to add key "lock-2026": not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to store key "lock-2026"
  caused by: expected the key in JSON (it is about another object), got: {"id": "1", "name": "lock-2026", "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86…
hint: keep every key; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
}

#[test]
fn a_key_that_is_stored_but_disabled_is_warned_of() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    mock.set_key_field("1", "disabled", "true");
    let qkey = Qkey::with_mock(&mock);
    let said = [&[][..], &["--dry-run"], &["--output=json"]].map(|more| {
        let run = qkey.run(with(more));
        format!("==== {more:?}\n{}", run.transcript())
    });
    assert_data_eq!(said.concat(), str![[r#"
==== []
exit 0
--- stdout
The key store holds this as key 1 ("lock-2026") already: nothing to do.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: the key is disabled, and locks nothing until `qq fs_security_modify_key` enables it
==== ["--dry-run"]
exit 0
--- stdout
The key store holds this as key 1 ("lock-2026") already: nothing to do.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr
warning: the key is disabled, and locks nothing until `qq fs_security_modify_key` enables it
==== ["--output=json"]
exit 0
--- stdout
{"action":"add","changed":false,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"","disabled":true,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"}}
--- stderr
{"log":{"level":"warning","message":"the key is disabled, and locks nothing until `qq fs_security_modify_key` enables it"}}

"#]].raw());
    assert_eq!(mock.count("fs_security_add_key"), 0);
}
