//! `qkey unlock` against the mock `qq`.

use std::{io::Write, process::Stdio};

use crate::support::{
    mock::Mock,
    qkey::{
        ALICE, ALICE_PUBLIC, BOB_PUBLIC, LOSSES, Qkey, STRANGE_TEXTS, end_sleepers,
        expect_no_sleepers, rounds, side_by_side, timeout_for,
    },
};
use rustix::process::{Pid, Signal, kill_process};
use snapbox::{IntoData, assert_data_eq, str};

const UNLOCK: [&str; 5] = ["unlock", "--id", "2", "--key", "alice.pem"];

/// The three snapshots, and one that is not there.
const FOUR: [&str; 6] = [
    "unlock",
    "--id=1",
    "--id=2",
    "--id=3",
    "--id=99",
    "--key=alice.pem",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&UNLOCK[..], more].concat()
}

/// A cluster that holds Alice's key as key 1, which locks snapshot 2, and Bob's as key 2.
fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    mock.add_key("other", "", BOB_PUBLIC);
    mock.set_snapshot_field(2, "lock_key", "1");
    mock
}

/// As [`mock`], with snapshot 1 locked by Alice's key, too, and snapshot 3 by Bob's.
fn mock_with_three() -> Mock {
    let mock = mock();
    mock.set_snapshot_field(1, "lock_key", "1");
    mock.set_snapshot_field(3, "lock_key", "2");
    mock
}

#[test]
fn a_snapshot_is_unlocked_and_then_already_so() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(UNLOCK).transcript(),
        str![[r#"
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.lock_key(2), None);
    assert_data_eq!(
        qkey.run(UNLOCK).transcript(),
        str![[r#"
exit 0
--- stdout
The cluster has snapshot 2 ("2_quarter_end") unlocked already: nothing to do.
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
}

#[test]
fn json_says_what_was_done_would_be_done_or_failed() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    assert_data_eq!(qkey.run(with(&["--dry-run"])).transcript(), str![[r#"
exit 0
--- stdout
{"action":"unlock","changed":false,"dry_run":true,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":"1"},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"},"challenge":"Unlock snapshot 2 locked with key 1, expiration \"\""}
--- stderr

"#]].raw());
    let wrong = ["unlock", "--id=2", "--key=bob.pem"];
    assert_data_eq!(qkey.run(wrong).transcript(), str![[r#"
exit 4
--- stdout
--- stderr
{"error":{"kind":"mismatch","message":"bob.pem (SHA256:Bigzvx05JkuL) is not the key that the cluster holds as key 1 (\"lock-2026\")","causes":[],"hint":"nothing was sent; the cluster holds SHA256:qDNOdPfn/SvG, and only its private half can sign here","exit_code":4}}

"#]].raw());
    assert_data_eq!(qkey.run(UNLOCK).transcript(), str![[r#"
exit 0
--- stdout
{"action":"unlock","changed":true,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"}}
--- stderr

"#]].raw());
    assert_data_eq!(qkey.run(UNLOCK).transcript(), str![[r#"
exit 0
--- stdout
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":null}
--- stderr

"#]].raw());
}

#[test]
fn a_dry_run_unlocks_nothing() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(qkey.run(with(&["--dry-run"])).transcript(), str![[r#"
exit 0
--- stdout
Would unlock snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locks; the signature was checked and nothing was sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
--- stderr

"#]].raw());
    assert_eq!(
        rounds(&mock, &[3]),
        [[
            "fs_security_list_keys",
            "snapshot_get_status",
            "snapshot_get_unlock_challenge"
        ]]
    );
    assert_eq!(mock.lock_key(2).as_deref(), Some("1"));
}

#[test]
fn three_rounds_of_qq_are_all_it_takes() {
    let mock = mock();
    Qkey::with_mock(&mock).run(UNLOCK);
    assert_eq!(
        rounds(&mock, &[3, 1, 1]),
        [
            &[
                "fs_security_list_keys",
                "snapshot_get_status",
                "snapshot_get_unlock_challenge"
            ][..],
            &["snapshot_unlock_snapshot"],
            &["snapshot_get_status"]
        ]
    );
}

#[test]
fn several_snapshots_share_the_key_list() {
    let mock = mock_with_three();
    let run = Qkey::with_mock(&mock).run(["unlock", "--id=1", "--id=2", "--key=alice.pem"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 0
--- stdout
Unlocked snapshot 1 ("1_before_upgrade"), which key 1 ("lock-2026") locked.
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
Unlocked 2, already unlocked 0, failed 0.
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_list_keys"), 1);
    assert_eq!(mock.count("snapshot_get_status"), 2);
    assert_eq!(mock.count("snapshot_get_unlock_challenge"), 2);
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 2);
    assert_eq!(mock.count("snapshot_list_statuses"), 1);
    assert_eq!(mock.calls().len(), 8);
}

#[test]
fn a_key_that_does_not_lock_the_snapshot_is_not_used() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(["unlock", "--id=2", "--key=carol.pem"]);
    assert_data_eq!(run.transcript(), str![[r#"
exit 4
--- stdout
--- stderr
error: carol.pem (SHA256:JSkAIR0avXSX) is not the key that the cluster holds as key 1 ("lock-2026")
hint: nothing was sent; the cluster holds SHA256:qDNOdPfn/SvG, and only its private half can sign here

"#]].raw());
    let run = qkey.run(["unlock", "--id=2", "--key=carol.pem", "--key=bob.pem"]);
    assert_data_eq!(run.transcript(), str![[r#"
exit 4
--- stdout
--- stderr
error: none of these is the key that the cluster holds as key 1 ("lock-2026"): carol.pem (SHA256:JSkAIR0avXSX), bob.pem (SHA256:Bigzvx05JkuL)
hint: nothing was sent; the cluster holds SHA256:qDNOdPfn/SvG, and only its private half can sign here

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 0);
}

#[test]
fn each_snapshot_gets_the_key_that_locks_it() {
    let mock = mock_with_three();
    let run = Qkey::with_mock(&mock).run([
        "unlock",
        "--id=3",
        "--id=2",
        "--id=1",
        "--key=carol.pem",
        "--key=bob.pem",
        "--key=alice.pem",
    ]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 0
--- stdout
Unlocked snapshot 3 ("3_nightly_projects"), which key 2 ("other") locked.
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
Unlocked snapshot 1 ("1_before_upgrade"), which key 1 ("lock-2026") locked.
Unlocked 3, already unlocked 0, failed 0.
--- stderr

"#]]
        .raw()
    );
    assert!((1..=3).all(|id| mock.lock_key(id).is_none()));
}

#[test]
fn some_done_and_some_failed_is_a_code_of_its_own() {
    let mock = mock_with_three();
    let run = Qkey::with_mock(&mock).run(FOUR);
    assert_data_eq!(run.transcript(), str![[r#"
exit 9
--- stdout
Unlocked snapshot 1 ("1_before_upgrade"), which key 1 ("lock-2026") locked.
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
Unlocked 2, already unlocked 0, failed 2.
--- stderr
error: snapshot 3: alice.pem (SHA256:qDNOdPfn/SvG) is not the key that the cluster holds as key 2 ("other")
hint: nothing was sent; the cluster holds SHA256:Bigzvx05JkuL, and only its private half can sign here
error: snapshot 99: cluster:8000 refused snapshot_get_status: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what there is
error: 2 of 4 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 2);
    assert_eq!(mock.lock_key(3).as_deref(), Some("2"));
}

#[test]
fn some_done_and_some_failed_is_one_object_a_line_in_json() {
    let mock = mock_with_three();
    mock.set_snapshot_field(1, "lock_key", "");
    let run = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json").run(FOUR);
    assert_data_eq!(run.transcript(), str![[r#"
exit 9
--- stdout
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":1,"name":"1_before_upgrade","source_file_path":"/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":null}
{"action":"unlock","changed":true,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"}}
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":3},"error":{"kind":"mismatch","message":"alice.pem (SHA256:qDNOdPfn/SvG) is not the key that the cluster holds as key 2 (\"other\")","causes":[],"hint":"nothing was sent; the cluster holds SHA256:Bigzvx05JkuL, and only its private half can sign here","exit_code":4}}
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":99},"error":{"kind":"refused","message":"cluster:8000 refused snapshot_get_status: Error 404: fs_no_such_entry_error: There is no snapshot 99.","causes":[],"hint":"`[QQ] --host=cluster snapshot_list_statuses` shows what there is","exit_code":5}}
{"summary":{"asked":4,"changed":1,"unchanged":1,"failed":2,"unknown":0,"not_tried":0}}
--- stderr
{"error":{"kind":"partial","message":"2 of 4 snapshots failed","causes":[],"hint":"see the errors above; rerunning is safe: what is already unlocked is left alone","exit_code":9}}

"#]].raw());
    for line in run.stdout.lines().chain(run.stderr.lines()) {
        serde_json::from_str::<serde_json::Value>(line).expect("one object a line");
    }
}

#[test]
fn all_failed_has_the_code_of_the_first() {
    let mock = mock_with_three();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(["unlock", "--id=3", "--id=99", "--key=alice.pem"]);
    assert_data_eq!(run.transcript(), str![[r#"
exit 4
--- stdout
Unlocked 0, already unlocked 0, failed 2.
--- stderr
error: snapshot 3: alice.pem (SHA256:qDNOdPfn/SvG) is not the key that the cluster holds as key 2 ("other")
hint: nothing was sent; the cluster holds SHA256:Bigzvx05JkuL, and only its private half can sign here
error: snapshot 99: cluster:8000 refused snapshot_get_status: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what there is
error: 2 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]].raw());
    let run = qkey.run([
        "unlock",
        "--id=99",
        "--id=3",
        "--key=alice.pem",
        "--output=json",
    ]);
    assert_data_eq!(run.transcript(), str![[r#"
exit 5
--- stdout
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":99},"error":{"kind":"refused","message":"cluster:8000 refused snapshot_get_status: Error 404: fs_no_such_entry_error: There is no snapshot 99.","causes":[],"hint":"`[QQ] --host=cluster snapshot_list_statuses` shows what there is","exit_code":5}}
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":3},"error":{"kind":"mismatch","message":"alice.pem (SHA256:qDNOdPfn/SvG) is not the key that the cluster holds as key 2 (\"other\")","causes":[],"hint":"nothing was sent; the cluster holds SHA256:Bigzvx05JkuL, and only its private half can sign here","exit_code":4}}
{"summary":{"asked":2,"changed":0,"unchanged":0,"failed":2,"unknown":0,"not_tried":0}}
--- stderr
{"error":{"kind":"refused","message":"2 of 2 snapshots failed","causes":[],"hint":"see the errors above; rerunning is safe: what is already unlocked is left alone","exit_code":5}}

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 0);
}

#[test]
fn several_dry_runs_are_summed_up() {
    let mock = mock_with_three();
    let args = [
        &FOUR[..4],
        &["--key=alice.pem", "--key=bob.pem", "--dry-run"],
    ]
    .concat();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(qkey.run(&args).transcript(), str![[r#"
exit 0
--- stdout
Would unlock snapshot 1 ("1_before_upgrade"), which key 1 ("lock-2026") locks; the signature was checked and nothing was sent.
  challenge: "Unlock snapshot 1 locked with key 1, expiration \"\""
Would unlock snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locks; the signature was checked and nothing was sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
Would unlock snapshot 3 ("3_nightly_projects"), which key 2 ("other") locks; the signature was checked and nothing was sent.
  challenge: "Unlock snapshot 3 locked with key 2, expiration \"2030-06-30T00:00:00Z\""
Would unlock 3, already unlocked 0, failed 0.
--- stderr

"#]].raw());
    mock.set_snapshot_field(1, "lock_key", "");
    assert_data_eq!(qkey.run(&args).transcript(), str![[r#"
exit 0
--- stdout
The cluster has snapshot 1 ("1_before_upgrade") unlocked already: nothing to do.
Would unlock snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locks; the signature was checked and nothing was sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
Would unlock snapshot 3 ("3_nightly_projects"), which key 2 ("other") locks; the signature was checked and nothing was sent.
  challenge: "Unlock snapshot 3 locked with key 2, expiration \"2030-06-30T00:00:00Z\""
Would unlock 2, already unlocked 1, failed 0.
--- stderr

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 0);
}

#[test]
fn a_repeated_id_is_one_id() {
    let mock = mock();
    let run =
        Qkey::with_mock(&mock).run(["unlock", "--id=2", "--id=2", "--id=02", "--key=alice.pem"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
}

#[test]
fn an_id_that_is_no_number_is_refused_before_qq_runs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = ["--id=two", "--id=-1", "--id=", "--id=18446744073709551616"].map(|id| {
        let run = qkey.run(["unlock", id, "--key=alice.pem"]);
        format!("==== {id}\n{}", run.transcript())
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== --id=two
exit 2
--- stdout
--- stderr
error: invalid value 'two' for '--id <N>': invalid digit found in string

For more information, try '--help'.
==== --id=-1
exit 2
--- stdout
--- stderr
error: invalid value '-1' for '--id <N>': invalid digit found in string

For more information, try '--help'.
==== --id=
exit 2
--- stdout
--- stderr
error: invalid value '' for '--id <N>': cannot parse integer from empty string

For more information, try '--help'.
==== --id=18446744073709551616
exit 2
--- stdout
--- stderr
error: invalid value '18446744073709551616' for '--id <N>': number too large to fit in target type

For more information, try '--help'.

"#]]
        .raw()
    );
    assert_data_eq!(
        qkey.run(["unlock"]).transcript(),
        str![[r#"
exit 2
--- stdout
--- stderr
error: the following required arguments were not provided:
  <--id <N>|--ids-from <FILE>>

Usage: qkey unlock --host <HOST> --qq <PATH> <--id <N>|--ids-from <FILE>>

For more information, try '--help'.

"#]]
        .raw()
    );
    assert!(mock.calls().is_empty());
}

#[test]
fn ids_come_from_a_file_or_stdin_too() {
    let list = "\u{feff}# to be unlocked\r\n\r\n 3\r\n\t1 \n\n  # and these\n02\n3\n";
    let mock = mock_with_three();
    let qkey = Qkey::with_mock(&mock);
    qkey.write("ids.txt", list);
    let keys = ["--key=alice.pem", "--key=bob.pem"];
    let from_file = [&["unlock", "--ids-from=ids.txt", "--dry-run"], &keys[..]].concat();
    assert_data_eq!(
        qkey.run(&from_file).transcript(),
        str![[r#"
exit 0
--- stdout
Would unlock snapshot 3 ("3_nightly_projects"), which key 2 ("other") locks; the signature was checked and nothing was sent.
  challenge: "Unlock snapshot 3 locked with key 2, expiration /"2030-06-30T00:00:00Z/""
Would unlock snapshot 1 ("1_before_upgrade"), which key 1 ("lock-2026") locks; the signature was checked and nothing was sent.
  challenge: "Unlock snapshot 1 locked with key 1, expiration /"/""
Would unlock snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locks; the signature was checked and nothing was sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration /"/""
Would unlock 3, already unlocked 0, failed 0.
--- stderr

"#]]
    );
    let from_stdin = [&["unlock", "--id=2", "--ids-from=-"], &keys[..]].concat();
    assert_data_eq!(
        qkey.run_with_stdin(&from_stdin, list.as_bytes())
            .transcript(),
        str![[r#"
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
Unlocked snapshot 3 ("3_nightly_projects"), which key 2 ("other") locked.
Unlocked snapshot 1 ("1_before_upgrade"), which key 1 ("lock-2026") locked.
Unlocked 3, already unlocked 0, failed 0.
--- stderr

"#]]
    );
    assert!((1..=3).all(|id| mock.lock_key(id).is_none()));
    // Nothing in the file, but one elsewhere; and no end to the last line.
    qkey.write("ids.txt", "# none\n");
    let run = qkey.run(["unlock", "--id=2", "--ids-from=ids.txt", "--key=alice.pem"]);
    assert_eq!(run.code, 0, "{run:?}");
    let run = qkey.run_with_stdin(["unlock", "--ids-from=/dev/stdin", "--key=alice.pem"], b"2");
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn a_list_of_ids_that_is_none_is_refused_before_qq_runs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let long = format!("1\n{}\n", "9".repeat(100));
    let cases: [(&str, &[u8]); 9] = [
        ("empty", b""),
        ("only comments", b"# 1\n\n# 2\n"),
        ("a word", b"1\n\n# two\nseven \"7\"\n"),
        ("two on a line", b"1 2\n"),
        ("a comment after an id", b"1 # the first\n"),
        ("negative", b"-1\n"),
        ("UTF-16", b"\xff\xfe1\0\n\0"),
        ("steers the terminal", b"\x1b[2J\n"),
        ("too large", long.as_bytes()),
    ];
    let mut said = String::new();
    for (name, list) in cases {
        qkey.write("ids.txt", list);
        let run = qkey.run(["unlock", "--ids-from=ids.txt", "--key=alice.pem"]);
        said += &format!("==== {name}\n{}", run.transcript());
    }
    for (name, args, stdin) in [
        ("stdin", &["--ids-from=-", "--key=alice.pem"][..], "2\nx\n"),
        ("stdin, empty", &["--ids-from=-", "--key=alice.pem"], ""),
        ("not there", &["--ids-from=gone.txt", "--key=alice.pem"], ""),
        ("a folder", &["--ids-from=.", "--key=alice.pem"], ""),
        ("endless", &["--ids-from=/dev/zero", "--key=alice.pem"], ""),
        ("stdin twice", &["--ids-from=-", "--key=-"], ALICE),
        (
            "stdin for a passphrase",
            &["--ids-from=-", "--key=alice.pem?passphrase-fd=0"],
            "2\n",
        ),
        (
            "in JSON",
            &["--ids-from=-", "--key=alice.pem", "--output=json"],
            "2\nx\n",
        ),
    ] {
        let args = [&["unlock"], args].concat();
        let run = qkey.run_with_stdin(args, stdin.as_bytes());
        said += &format!("==== {name}\n{}", run.transcript());
    }
    assert_data_eq!(said, str![[r#"
==== empty
exit 2
--- stdout
--- stderr
error: ids.txt holds no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== only comments
exit 2
--- stdout
--- stderr
error: ids.txt holds no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== a word
exit 2
--- stdout
--- stderr
error: ids.txt, line 4: "seven \"7\"" is no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== two on a line
exit 2
--- stdout
--- stderr
error: ids.txt, line 1: "1 2" is no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== a comment after an id
exit 2
--- stdout
--- stderr
error: ids.txt, line 1: "1 # the first" is no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== negative
exit 2
--- stdout
--- stderr
error: ids.txt, line 1: "-1" is no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== UTF-16
exit 2
--- stdout
--- stderr
error: ids.txt, line 1: "��1\u{0}" is no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== steers the terminal
exit 2
--- stdout
--- stderr
error: ids.txt, line 1: "\u{1b}[2J" is no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== too large
exit 2
--- stdout
--- stderr
error: ids.txt, line 2: "999999999999999999999999999999999999999999999999999999999999…" is no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== stdin
exit 2
--- stdout
--- stderr
error: stdin, line 2: "x" is no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== stdin, empty
exit 2
--- stdout
--- stderr
error: stdin holds no id of a snapshot
hint: one id a line; blank lines and those that start with # are passed over
==== not there
exit 2
--- stdout
--- stderr
error: cannot read the ids from gone.txt
  caused by: No such file or directory (os error 2)
==== a folder
exit 2
--- stdout
--- stderr
error: cannot read the ids from .
  caused by: Is a directory (os error 21)
==== endless
exit 2
--- stdout
--- stderr
error: cannot read the ids from /dev/zero
  caused by: it is longer than 16777216 bytes
==== stdin twice
exit 2
--- stdout
--- stderr
error: the ids, and a key or a passphrase, are to be read from stdin
hint: stdin can be read once; put one of them into a file
==== stdin for a passphrase
exit 2
--- stdout
--- stderr
error: the ids, and a key or a passphrase, are to be read from stdin
hint: stdin can be read once; put one of them into a file
==== in JSON
exit 2
--- stdout
--- stderr
{"error":{"kind":"usage","message":"stdin, line 2: \"x\" is no id of a snapshot","causes":[],"hint":"one id a line; blank lines and those that start with # are passed over","exit_code":2}}

"#]].raw());
    assert!(mock.calls().is_empty());
}

#[test]
fn ctrl_c_ends_the_wait_for_ids() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let mut child = qkey
        .command(["unlock", "--ids-from=-", "--key=alice.pem"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("qkey runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    // More than the pipe holds: it is being read once this is written.
    stdin.write_all(&[b'\n'; 256 << 10]).expect("qkey reads");
    kill_process(Pid::from_child(&child), Signal::INT).expect("qkey takes signals");
    let output = child.wait_with_output().expect("qkey ends");
    assert_data_eq!(
        qkey.taken(&output).transcript(),
        str![[r#"
exit 130
--- stdout
--- stderr
error: cannot read the ids from stdin
  caused by: stopped by a signal

"#]]
    );
    drop(stdin);
}

#[test]
fn a_number_of_jobs_is_at_least_one() {
    let run = Qkey::with_mock(&mock()).run(with(&["--jobs=0"]));
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 2
--- stdout
--- stderr
error: invalid value '0' for '--jobs <N>': 0 is not in 1..=65535

For more information, try '--help'.

"#]]
    );
}

#[test]
fn as_many_snapshots_are_worked_on_at_a_time_as_there_are_jobs() {
    let mock = mock();
    mock.add_snapshot(4, "4_nightly", None);
    let args = |jobs| {
        [
            "unlock",
            "--id=1",
            "--id=2",
            "--id=3",
            "--id=4",
            "--key=alice.pem",
            jobs,
        ]
    };
    for id in 1..=4 {
        mock.set_snapshot_field(id, "lock_key", "1");
    }
    // Each waits until all four are there.
    let meet = "case \"$*\" in *snapshot_unlock_snapshot*)
        : >met.$$
        until [ \"$(ls met.* | wc -l)\" -eq 4 ]; do sleep .02; done
    esac";
    let run = Qkey::with_mock(&mock)
        .between(&mock, meet)
        .run(args("--jobs=4"));
    assert_eq!(run.code, 0, "{run:?}");
    for id in 1..=4 {
        mock.set_snapshot_field(id, "lock_key", "1");
    }
    let alone = "case \"$*\" in *snapshot_unlock_snapshot*)
        mkdir busy || exit 1
        sleep .1; rmdir busy
    esac";
    let run = Qkey::with_mock(&mock)
        .between(&mock, alone)
        .run(args("--jobs=1"));
    assert_eq!(run.code, 0, "{run:?}");
    // More jobs than snapshots are no more threads.
    let run = Qkey::with_mock(&mock).run(args("--jobs=65535"));
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn a_snapshot_that_is_not_there_is_told() {
    let mock = mock();
    let run = Qkey::with_mock(&mock).run(["unlock", "--id=99", "--key=alice.pem"]);
    assert_data_eq!(run.transcript(), str![[r#"
exit 5
--- stdout
--- stderr
error: cluster:8000 refused snapshot_get_status: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what there is

"#]].raw());
}

#[test]
fn a_snapshot_that_an_unlisted_key_locks_is_left_alone() {
    let mock = mock();
    mock.set_snapshot_field(2, "lock_key", "77");
    let run = Qkey::with_mock(&mock).run(UNLOCK);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 5
--- stdout
--- stderr
error: snapshot 2 ("2_quarter_end") is locked with key 77, which the key store does not show
hint: run this again if the key was stored just now; otherwise log in as a user who can list every key

"#]]
        .raw()
    );
}

#[test]
fn a_disabled_key_still_unlocks() {
    let mock = mock();
    mock.set_key_field("1", "disabled", "true");
    assert_eq!(Qkey::with_mock(&mock).run(UNLOCK).code, 0);
    assert_eq!(mock.lock_key(2), None);
}

#[test]
fn the_configured_key_that_locks_the_snapshot_signs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(["unlock", "--id=2"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 2
--- stdout
--- stderr
error: no key is named: --key is missing
hint: give --key SOURCE, or name your keys in the configuration file (`qkey config init`)

"#]]
        .raw()
    );
    qkey.configure(
        r#"
        [keys.gone]
        source = "gone.pem"
        [keys.spare]
        source = "../../carol.pem"
        [keys.vault]
        source = "../../alice.pem"
        "#,
    );
    let run = qkey.run(["unlock", "--id=2", "--dry-run"]);
    assert_eq!(run.code, 0, "{run:?}");
    let run = qkey.run(["unlock", "--id=2", "--key=spare"]);
    assert_data_eq!(run.transcript(), str![[r#"
exit 4
--- stdout
--- stderr
error: spare (../../carol.pem) (SHA256:JSkAIR0avXSX) is not the key that the cluster holds as key 1 ("lock-2026")
hint: nothing was sent; the cluster holds SHA256:qDNOdPfn/SvG, and only its private half can sign here

"#]].raw());
    let run = qkey.run(["unlock", "--id=2", "--key=vault"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(mock.lock_key(2), None);
}

#[test]
fn a_key_that_fails_to_open_is_told_unless_another_fits() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(["unlock", "--id=2", "--key=gone.pem"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 3
--- stdout
--- stderr
error: cannot read the key file gone.pem
  caused by: No such file or directory (os error 2)
hint: check the path

"#]]
        .raw()
    );
    let run = qkey.run(["unlock", "--id=2", "--key=gone.pem", "--key=alice.pem"]);
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn a_key_is_read_from_stdin_once() {
    let mock = mock_with_three();
    let qkey = Qkey::with_mock(&mock);
    let twice = ["unlock", "--id=2", "--key=-", "--key=file:-"];
    let run = qkey.run_with_stdin(twice, ALICE.as_bytes());
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 2
--- stdout
--- stderr
error: two keys, or a key and a passphrase, are to be read from stdin
hint: stdin can be read once; put one of them into a file

"#]]
        .raw()
    );
    assert!(mock.calls().is_empty());
    let both = ["unlock", "--id=2", "--id=1", "--key=-"];
    let run = qkey.run_with_stdin(both, ALICE.as_bytes());
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn a_challenge_is_signed_byte_for_byte() {
    let long = "é".repeat(8_000);
    let more = [
        " ",
        "\n",
        "ends in spaces   ",
        "ends in a line ending\r\n",
        &long,
    ];
    let challenges = [&STRANGE_TEXTS[..], &more[..]].concat();
    side_by_side(&challenges, |challenge| {
        let mock = mock();
        mock.set_challenge(challenge.as_bytes());
        let run = Qkey::with_mock(&mock).run(UNLOCK);
        assert_eq!(run.code, 0, "{challenge:?}: {run:?}");
        assert_eq!(mock.lock_key(2), None);
        String::new()
    });
}

#[test]
fn a_challenge_that_went_stale_once_is_signed_anew() {
    let mock = mock();
    mock.fault("snapshot_unlock_snapshot", "stale");
    let run = Qkey::with_mock(&mock).run(UNLOCK);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.lock_key(2), None);
    assert_eq!(
        rounds(&mock, &[3, 1, 2, 1, 1])[2],
        ["snapshot_get_status", "snapshot_get_unlock_challenge"]
    );
}

#[test]
fn a_challenge_that_always_goes_stale_is_given_up() {
    let said = ["--attempts=1", "--attempts=2", "--attempts=3"].map(|attempts| {
        let mock = mock();
        mock.fault("snapshot_unlock_snapshot", "always stale");
        let run = Qkey::with_mock(&mock).run(with(&[attempts]));
        assert_eq!(mock.lock_key(2).as_deref(), Some("1"));
        let submissions = mock.count("snapshot_unlock_snapshot");
        format!("==== {attempts}: {submissions}\n{}", run.transcript())
    });
    assert_data_eq!(said.concat(), str![[r#"
==== --attempts=1: 1
exit 5
--- stdout
--- stderr
error: the challenge changed before the submission
  caused by: cluster:8000 refused snapshot_unlock_snapshot: Error 400: invalid_request_error: The signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or give more --attempts
==== --attempts=2: 2
exit 5
--- stdout
--- stderr
error: the challenge changed before each of 2 submissions
  caused by: cluster:8000 refused snapshot_unlock_snapshot: Error 400: invalid_request_error: The signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or give more --attempts
==== --attempts=3: 3
exit 5
--- stdout
--- stderr
error: the challenge changed before each of 3 submissions
  caused by: cluster:8000 refused snapshot_unlock_snapshot: Error 400: invalid_request_error: The signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or give more --attempts

"#]].raw());
}

#[test]
fn a_key_that_was_replaced_meanwhile_is_told() {
    let mock = mock();
    let hook = format!(
        r#"case "$*" in *snapshot_unlock_snapshot*)
            printf %s {BOB_PUBLIC} >"$QQ_MOCK_STATE/keys/1/public_key"
        esac"#
    );
    let run = Qkey::with_mock(&mock).between(&mock, &hook).run(UNLOCK);
    assert_data_eq!(run.transcript(), str![[r#"
exit 5
--- stdout
--- stderr
error: cluster:8000 refused snapshot_unlock_snapshot: Error 400: invalid_request_error: The signature does not match the challenge.
hint: nothing was changed; fix what the cluster reports, then run this again; the cluster now holds a signature made with alice.pem over its challenge

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
}

#[test]
fn a_snapshot_that_another_locked_with_another_key_meanwhile_is_told() {
    let mock = mock();
    let hook = r#"case "$*" in *snapshot_unlock_snapshot*)
        printf 2 >"$QQ_MOCK_STATE/snapshots/2/lock_key"
        kill -9 $$
    esac"#;
    let run = Qkey::with_mock(&mock).between(&mock, hook).run(UNLOCK);
    assert_data_eq!(run.transcript(), str![[r#"
exit 8
--- stdout
--- stderr
error: the request to unlock snapshot 2 ("2_quarter_end") was sent, and now it is locked with key 2
  caused by: qq gave no usable answer to snapshot_unlock_snapshot
  caused by: `[DIR]/qq-between` was killed by signal 9
hint: somebody else may be making changes; `[DIR]/qq-between --host=cluster snapshot_get_status --id=2` shows what the cluster holds

"#]].raw());
}

#[test]
fn a_refusal_of_a_challenge_that_still_holds_stands() {
    let said = side_by_side(
        &[
            "status 400 invalid_request_error The signature is not to my liking.",
            "status 403 privilege_error You are not allowed to.",
            "unauthenticated",
            "refused-connection",
        ],
        |fault| {
            let mock = mock();
            mock.fault("snapshot_unlock_snapshot", fault);
            let run = Qkey::with_mock(&mock).run(UNLOCK);
            assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
            assert_eq!(mock.lock_key(2).as_deref(), Some("1"));
            run.transcript()
        },
    );
    assert_data_eq!(said, str![[r#"
==== status 400 invalid_request_error The signature is not to my liking.
exit 5
--- stdout
--- stderr
error: cluster:8000 refused snapshot_unlock_snapshot: Error 400: invalid_request_error: The signature is not to my liking.
hint: nothing was changed; fix what the cluster reports, then run this again; the cluster now holds a signature made with alice.pem over its challenge
==== status 403 privilege_error You are not allowed to.
exit 6
--- stdout
--- stderr
error: cluster:8000 refused snapshot_unlock_snapshot: Error 403: privilege_error: You are not allowed to.
hint: log in as a user whose role has the privilege for it, or ask an administrator; the cluster now holds a signature made with alice.pem over its challenge
==== unauthenticated
exit 6
--- stdout
--- stderr
error: cluster:8000 refused snapshot_unlock_snapshot: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`; the cluster now holds a signature made with alice.pem over its challenge
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
        let mock = mock();
        mock.fault("snapshot_unlock_snapshot", fault);
        let run = Qkey::with_mock(&mock).run(with(&[timeout_for(fault)]));
        assert_eq!(mock.count("snapshot_unlock_snapshot"), 1, "{fault}");
        assert_eq!(run.code == 0, mock.lock_key(2).is_none(), "{fault}");
        expect_no_sleepers(&mock);
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== drop-before
exit 8
--- stdout
--- stderr
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: the connection to cluster:8000 was lost during snapshot_unlock_snapshot: Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== drop-after
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr
warning: no reply to the request to unlock snapshot 2 ("2_quarter_end") (the connection to cluster:8000 was lost during snapshot_unlock_snapshot: Remote end closed connection without response); checked: it was done
==== timeout-before
exit 8
--- stdout
--- stderr
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: the connection to cluster:8000 was lost during snapshot_unlock_snapshot: The read operation timed out
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== timeout-after
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr
warning: no reply to the request to unlock snapshot 2 ("2_quarter_end") (the connection to cluster:8000 was lost during snapshot_unlock_snapshot: The read operation timed out); checked: it was done
==== traceback
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: cluster:8000 answered snapshot_unlock_snapshot with something other than its REST API does: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== traceback-after
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr
warning: unexpected reply to the request to unlock snapshot 2 ("2_quarter_end") (cluster:8000 answered snapshot_unlock_snapshot with something other than its REST API does: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)); checked: it was done
==== garbage
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: qq gave no usable answer to snapshot_unlock_snapshot
  caused by: `[QQ]` answered with something other than the sentence that it is unlocked: <html> This is not what you are looking for.
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== garbage-after
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr
warning: unexpected reply to the request to unlock snapshot 2 ("2_quarter_end") (qq gave no usable answer to snapshot_unlock_snapshot: `[QQ]` answered with something other than the sentence that it is unlocked: <html> This is not what you are looking for.); checked: it was done
==== empty
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: qq gave no usable answer to snapshot_unlock_snapshot
  caused by: `[QQ]` answered with something other than the sentence that it is unlocked: (nothing)
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== empty-after
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr
warning: unexpected reply to the request to unlock snapshot 2 ("2_quarter_end") (qq gave no usable answer to snapshot_unlock_snapshot: `[QQ]` answered with something other than the sentence that it is unlocked: (nothing)); checked: it was done
==== truncated
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr
warning: unexpected reply to the request to unlock snapshot 2 ("2_quarter_end") (qq gave no usable answer to snapshot_unlock_snapshot: `[QQ]` answered with something other than the sentence that it is unlocked: Snapshot 2 i); checked: it was done
==== kill-9
exit 8
--- stdout
--- stderr
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: qq gave no usable answer to snapshot_unlock_snapshot
  caused by: `[QQ]` was killed by signal 9
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== kill-9-after
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr
warning: no reply to the request to unlock snapshot 2 ("2_quarter_end") (qq gave no usable answer to snapshot_unlock_snapshot: `[QQ]` was killed by signal 9); checked: it was done
==== hang
exit 8
--- stdout
--- stderr
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: qq gave no usable answer to snapshot_unlock_snapshot
  caused by: `[QQ]` did not finish within 4 s and was killed
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== hang-after
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr
warning: no reply to the request to unlock snapshot 2 ("2_quarter_end") (qq gave no usable answer to snapshot_unlock_snapshot: `[QQ]` did not finish within 4 s and was killed); checked: it was done
==== huge
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: the reply of cluster:8000 to snapshot_unlock_snapshot is too large: the reply is larger than 256 KiB
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== exit 3 something odd
exit 8
--- stdout
--- stderr
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: qq gave no usable answer to snapshot_unlock_snapshot
  caused by: `[QQ]` exited with 3: something odd
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== status 500 internal_error It broke.
exit 5
--- stdout
--- stderr
error: the cluster failed to process the request to unlock snapshot 2 ("2_quarter_end"); checked: it was not done
  caused by: cluster:8000 refused snapshot_unlock_snapshot: Error 500: internal_error: It broke.
hint: check the cluster's health, then run this again; `[QQ] --host=cluster snapshot_get_status --id=2` shows what it holds
==== status 503 busy_error Try again later.
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: cluster:8000 refused snapshot_unlock_snapshot: Error 503: busy_error: Try again later.
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
}

#[test]
fn an_answer_is_taken_though_a_grandchild_holds_the_pipes() {
    let mock = mock();
    mock.fault("snapshot_unlock_snapshot", "hang-with-grandchild");
    let run = Qkey::with_mock(&mock).run(UNLOCK);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 0
--- stdout
Unlocked snapshot 2 ("2_quarter_end"), which key 1 ("lock-2026") locked.
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
    end_sleepers(&mock);
}

#[test]
fn an_outcome_that_nobody_can_see_is_unknown() {
    let mock = mock_with_three();
    mock.fault("snapshot_unlock_snapshot", "always drop-after");
    mock.fault("snapshot_get_status", "");
    mock.fault("snapshot_get_status", "always drop-before");
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(qkey.run(UNLOCK).transcript(), str![[r#"
exit 8
--- stdout
--- stderr
error: the request to unlock snapshot 2 ("2_quarter_end") was sent, but the result could not be confirmed
  caused by: the connection to cluster:8000 was lost during snapshot_unlock_snapshot: Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
}

#[test]
fn several_refusals_of_a_login_are_one_code() {
    let mock = mock_with_three();
    mock.fault("snapshot_get_status", "always unauthenticated");
    let run = Qkey::with_mock(&mock).run(FOUR);
    assert_data_eq!(run.transcript(), str![[r#"
exit 6
--- stdout
Unlocked 0, already unlocked 0, failed 4.
--- stderr
error: snapshot 1: cluster:8000 refused snapshot_get_status: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: snapshot 2: cluster:8000 refused snapshot_get_status: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: snapshot 3: cluster:8000 refused snapshot_get_status: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: snapshot 99: cluster:8000 refused snapshot_get_status: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: 4 of 4 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]].raw());
}

#[test]
fn a_key_store_that_cannot_be_read_fails_only_what_is_locked() {
    let mock = mock();
    mock.fault(
        "fs_security_list_keys",
        "always status 500 internal_error It broke.",
    );
    let run = Qkey::with_mock(&mock).run(["unlock", "--id=1", "--id=2", "--key=alice.pem"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 9
--- stdout
The cluster has snapshot 1 ("1_before_upgrade") unlocked already: nothing to do.
Unlocked 0, already unlocked 1, failed 1.
--- stderr
error: snapshot 2: cluster:8000 refused fs_security_list_keys: Error 500: internal_error: It broke.
hint: the cluster has a problem of its own; check its health, then run this again
error: 1 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_list_keys"), 1);
}
