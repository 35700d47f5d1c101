//! `qkey unlock` through the mock `qq`. Lost replies are in `transports.rs`.

use std::{io::Write, process::Stdio};

use crate::support::{
    ceremony::{UNLOCK, submissions},
    mock::Mock,
    qkey::{ALICE, BOB_PUBLIC, Qkey, end_sleepers, rounds, send},
    session::assert_session,
    snapshot::{filtered, qkey_snapshot, session, snapshot, table},
};
use rustix::process::Signal;
use snapbox::str;

/// The three snapshots, and one that does not exist.
const FOUR: &str = "unlock --id=1 --id=2 --id=3 --id=99 --key=alice.pem";

/// The cluster of the ceremonies, with bob's key as key 2.
fn mock() -> Mock {
    let mock = crate::support::ceremony::mock();
    mock.add_key("other", "", BOB_PUBLIC);
    mock
}

/// As [`mock`], with snapshot 1 locked with alice's key, too, and snapshot 3 with bob's.
fn mock_with_three() -> Mock {
    let mock = mock();
    mock.set_snapshot_field(1, "lock_key", "1");
    mock.set_snapshot_field(3, "lock_key", "2");
    mock
}

#[test]
fn json_for_dry_run_change_no_change_and_failure() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    let dry_run = format!("{UNLOCK} --dry-run");
    let wrong = "unlock --id=2 --key=bob.pem";
    let said = session(&qkey, [&*dry_run, wrong, UNLOCK, UNLOCK]);
    snapshot!(
        said,
        str![[r#"
$ qkey unlock --id=2 --key=alice.pem --dry-run
{"action":"unlock","changed":false,"dry_run":true,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":"1"},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"},"challenge":"Unlock snapshot 2 locked with key 1, expiration \"\""}
$ qkey unlock --id=2 --key=bob.pem
--- exit 4
{"error":{"kind":"mismatch","message":"bob.pem (SHA256:[BOB…]) does not match key 1 (\"lock-2026\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[ALICE…]","exit_code":4}}
$ qkey unlock --id=2 --key=alice.pem
{"action":"unlock","changed":true,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
$ qkey unlock --id=2 --key=alice.pem
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":null}

"#]]
    );
}

#[test]
fn runs_three_rounds_of_qq() {
    let mock = mock();
    Qkey::with_mock(&mock).line(UNLOCK);
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
fn several_snapshots_share_one_key_list() {
    let mock = mock_with_three();
    let run = Qkey::with_mock(&mock).line("unlock --id=1 --id=2 --key=alice.pem");
    assert_eq!(run.code, 0, "{run:?}");
    for (command, count) in [
        ("fs_security_list_keys", 1),
        ("snapshot_get_status", 2),
        ("snapshot_get_unlock_challenge", 2),
        ("snapshot_unlock_snapshot", 2),
        ("snapshot_list_statuses", 1),
    ] {
        assert_eq!(mock.count(command), count, "{command}");
    }
    assert_eq!(mock.calls().len(), 8);
}

#[test]
fn wrong_or_missing_key_sends_nothing() {
    let mock = mock();
    let lines = [
        "unlock --id=2",
        "unlock --id=2 --key=carol.pem",
        "unlock --id=2 --key=carol.pem --key=bob.pem",
        "unlock --id=2 --key=gone.pem",
        "unlock --id=2 --key=- --key=file:-",
        "unlock --id=2 --key=gone.pem --key=alice.pem --dry-run",
    ];
    snapshot!(
        session(&Qkey::with_mock(&mock), lines),
        str![[r#"
$ qkey unlock --id=2
--- exit 2
error: no key given: --key is missing
hint: give --key SOURCE, or add your keys to the configuration file (`qkey config init`)
$ qkey unlock --id=2 --key=carol.pem
--- exit 4
error: carol.pem (SHA256:[CAROL…]) does not match key 1 ("lock-2026")
hint: nothing was sent; you need the private key for SHA256:[ALICE…]
$ qkey unlock --id=2 --key=carol.pem --key=bob.pem
--- exit 4
error: none of these keys matches key 1 ("lock-2026"): carol.pem (SHA256:[CAROL…]), bob.pem (SHA256:[BOB…])
hint: nothing was sent; you need the private key for SHA256:[ALICE…]
$ qkey unlock --id=2 --key=gone.pem
--- exit 3
error: cannot read the key file gone.pem
  caused by: No such file or directory (os error 2)
hint: check the path
$ qkey unlock --id=2 --key=- --key=file:-
--- exit 2
error: only one key or passphrase may be read from stdin
hint: save the others to files
$ qkey unlock --id=2 --key=gone.pem --key=alice.pem --dry-run
Dry run: key 1 ("lock-2026") can unlock snapshot 2 ("2_quarter_end"); signature verified, nothing sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""

"#]]
    );
    mock.set_snapshot_field(2, "lock_key", "77");
    snapshot!(
        session(&Qkey::with_mock(&mock), [UNLOCK]),
        str![[r#"
$ qkey unlock --id=2 --key=alice.pem
--- exit 5
error: snapshot 2 ("2_quarter_end") is locked with key 77, which is not in the key list
hint: run this again if the key was stored just now; otherwise log in as a user who can list every key

"#]]
    );
    assert_eq!(submissions(&mock), 0);
}

#[test]
fn each_snapshot_is_signed_with_its_lock_key() {
    let mock = mock_with_three();
    let keys = "--key=carol.pem --key=bob.pem --key=alice.pem";
    let unlock = format!("unlock --id=3 --id=2 --id=1 {keys}");
    let dry_run = format!("{unlock} --dry-run");
    let qkey = Qkey::with_mock(&mock);
    snapshot!(
        session(&qkey, [&*dry_run, &*unlock]),
        str![[r#"
$ qkey unlock --id=3 --id=2 --id=1 --key=carol.pem --key=bob.pem --key=alice.pem --dry-run
Dry run: key 2 ("other") can unlock snapshot 3 ("3_nightly_projects"); signature verified, nothing sent.
  challenge: "Unlock snapshot 3 locked with key 2, expiration \"2030-06-30T00:00:00Z\""
Dry run: key 1 ("lock-2026") can unlock snapshot 2 ("2_quarter_end"); signature verified, nothing sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
Dry run: key 1 ("lock-2026") can unlock snapshot 1 ("1_before_upgrade"); signature verified, nothing sent.
  challenge: "Unlock snapshot 1 locked with key 1, expiration \"\""
Would unlock 3, already unlocked 0, failed 0.
$ qkey unlock --id=3 --id=2 --id=1 --key=carol.pem --key=bob.pem --key=alice.pem
Unlocked snapshot 3 ("3_nightly_projects") with key 2 ("other").
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked 3, already unlocked 0, failed 0.

"#]]
    );
    assert!((1..=3).all(|id| mock.lock_key(id).is_none()));
    assert_eq!(submissions(&mock), 3);
}

#[test]
fn partial_success_exits_9_and_total_failure_with_the_first_code() {
    let mock = mock_with_three();
    mock.set_snapshot_field(1, "lock_key", "");
    let dry_run = format!("{FOUR} --dry-run");
    let json = format!("{FOUR} --output=json");
    let lines = [
        &*dry_run,
        &json,
        "unlock --id=3 --id=99 --key=alice.pem",
        "unlock --id=99 --id=3 --key=alice.pem --output=json",
    ];
    snapshot!(
        session(&Qkey::with_mock(&mock), lines),
        str![[r#"
$ qkey unlock --id=1 --id=2 --id=3 --id=99 --key=alice.pem --dry-run
Snapshot 1 ("1_before_upgrade") is already unlocked.
Dry run: key 1 ("lock-2026") can unlock snapshot 2 ("2_quarter_end"); signature verified, nothing sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
Would unlock 1, already unlocked 1, failed 2.
--- exit 9
error: snapshot 3: alice.pem (SHA256:[ALICE…]) does not match key 2 ("other")
hint: nothing was sent; you need the private key for SHA256:[BOB…]
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists
error: 2 of 4 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone
$ qkey unlock --id=1 --id=2 --id=3 --id=99 --key=alice.pem --output=json
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":1,"name":"1_before_upgrade","source_file_path":"/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":null}
{"action":"unlock","changed":true,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":3},"error":{"kind":"mismatch","message":"alice.pem (SHA256:[ALICE…]) does not match key 2 (\"other\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[BOB…]","exit_code":4}}
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":99},"error":{"kind":"refused","message":"snapshot 99 does not exist on cluster:8000","causes":["Error 404: fs_no_such_entry_error: There is no snapshot 99."],"hint":"`[QQ] --host=cluster snapshot_list_statuses` shows what exists","exit_code":5}}
{"summary":{"asked":4,"changed":1,"unchanged":1,"failed":2,"unknown":0,"not_tried":0}}
--- exit 9
{"error":{"kind":"partial","message":"2 of 4 snapshots failed","causes":[],"hint":"see the errors above; rerunning is safe: what is already unlocked is left alone","exit_code":9}}
$ qkey unlock --id=3 --id=99 --key=alice.pem
Unlocked 0, already unlocked 0, failed 2.
--- exit 4
error: snapshot 3: alice.pem (SHA256:[ALICE…]) does not match key 2 ("other")
hint: nothing was sent; you need the private key for SHA256:[BOB…]
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists
error: 2 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone
$ qkey unlock --id=99 --id=3 --key=alice.pem --output=json
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":99},"error":{"kind":"refused","message":"snapshot 99 does not exist on cluster:8000","causes":["Error 404: fs_no_such_entry_error: There is no snapshot 99."],"hint":"`[QQ] --host=cluster snapshot_list_statuses` shows what exists","exit_code":5}}
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":3},"error":{"kind":"mismatch","message":"alice.pem (SHA256:[ALICE…]) does not match key 2 (\"other\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[BOB…]","exit_code":4}}
{"summary":{"asked":2,"changed":0,"unchanged":0,"failed":2,"unknown":0,"not_tried":0}}
--- exit 5
{"error":{"kind":"refused","message":"2 of 2 snapshots failed","causes":[],"hint":"see the errors above; rerunning is safe: what is already unlocked is left alone","exit_code":5}}

"#]]
    );
    assert_eq!(submissions(&mock), 1);
    assert_eq!(mock.lock_key(3).as_deref(), Some("2"));
}

#[test]
fn invalid_arguments_are_usage_errors() {
    let mock = mock();
    let lines = [
        "unlock",
        "unlock --id=two --key=alice.pem",
        "unlock --id=-1 --key=alice.pem",
        "unlock --id= --key=alice.pem",
        "unlock --id=18446744073709551616 --key=alice.pem",
        "unlock --id=2 --key=alice.pem --jobs=0",
    ];
    snapshot!(
        session(&Qkey::with_mock(&mock), lines),
        str![[r#"
$ qkey unlock
--- exit 2
error: the following required arguments were not provided:
  <ID|--id <N>|--ids-from <FILE>>

Usage: qkey unlock <ID|--id <N>|--ids-from <FILE>>

For more information, try '--help'.
$ qkey unlock --id=two --key=alice.pem
--- exit 2
error: invalid value 'two' for '--id <N>': not a snapshot id; write 7, 7,8 or 7-9

For more information, try '--help'.
$ qkey unlock --id=-1 --key=alice.pem
--- exit 2
error: invalid value '-1' for '--id <N>': not a snapshot id; write 7, 7,8 or 7-9

For more information, try '--help'.
$ qkey unlock --id= --key=alice.pem
--- exit 2
error: invalid value '' for '--id <N>': not a snapshot id; write 7, 7,8 or 7-9

For more information, try '--help'.
$ qkey unlock --id=18446744073709551616 --key=alice.pem
--- exit 2
error: invalid value '18446744073709551616' for '--id <N>': not a snapshot id; write 7, 7,8 or 7-9

For more information, try '--help'.
$ qkey unlock --id=2 --key=alice.pem --jobs=0
--- exit 2
error: invalid value '0' for '--jobs <N>': 0 is not in 1..=65535

For more information, try '--help'.

"#]]
    );
    assert!(mock.calls().is_empty());
}

#[test]
fn ids_from_file_and_stdin() {
    let list = "\u{feff}# to be unlocked\r\n\r\n 3\r\n\t1 \n\n  # and these\n02\n3\n";
    let mock = mock_with_three();
    let qkey = Qkey::with_mock(&mock);
    qkey.write("ids.txt", list);
    let keys = "--key=alice.pem --key=bob.pem";
    let line = format!("unlock --ids-from=ids.txt --dry-run {keys}");
    qkey_snapshot!(
        qkey,
        line.split(' '),
        str![[r#"
Dry run: key 2 ("other") can unlock snapshot 3 ("3_nightly_projects"); signature verified, nothing sent.
  challenge: "Unlock snapshot 3 locked with key 2, expiration \"2030-06-30T00:00:00Z\""
Dry run: key 1 ("lock-2026") can unlock snapshot 1 ("1_before_upgrade"); signature verified, nothing sent.
  challenge: "Unlock snapshot 1 locked with key 1, expiration \"\""
Dry run: key 1 ("lock-2026") can unlock snapshot 2 ("2_quarter_end"); signature verified, nothing sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
Would unlock 3, already unlocked 0, failed 0.

"#]]
    );
    // Each id counts once.
    let line = format!("unlock --id=2 --id=02 --ids-from=- {keys}");
    let run = qkey.run_with_stdin(line.split(' '), list.as_bytes());
    snapshot!(
        filtered(&run),
        str![[r#"
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
Unlocked snapshot 3 ("3_nightly_projects") with key 2 ("other").
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked 3, already unlocked 0, failed 0.

"#]]
    );
    assert_eq!(submissions(&mock), 3);
    // An empty file beside another id, and a last line without an end.
    qkey.write("ids.txt", "# none\n");
    let run = qkey.line("unlock --id=2 --ids-from=ids.txt --key=alice.pem");
    assert_eq!(run.code, 0, "{run:?}");
    let line = "unlock --ids-from=/dev/stdin --key=alice.pem";
    let run = qkey.run_with_stdin(line.split(' '), b"2");
    assert_eq!(run.code, 0, "{run:?}");
    let line = "unlock --id=2 --id=1 --key=-";
    let run = qkey.run_with_stdin(line.split(' '), ALICE.as_bytes());
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn ids_are_lists_and_ranges_and_none_is_nothing_to_do() {
    let mock = mock_with_three();
    let qkey = Qkey::with_mock(&mock);
    qkey.write("none.txt", "# none\n");
    assert_session!(
        qkey,
        str![[r#"
$ qkey unlock 1,2 3 --key alice.pem --key bob.pem --dry-run
$ qkey unlock --id 1-3 --key alice.pem --key bob.pem --dry-run
Dry run: key 1 ("lock-2026") can unlock snapshot 1 ("1_before_upgrade"); signature verified, nothing sent.
  challenge: "Unlock snapshot 1 locked with key 1, expiration \"\""
Dry run: key 1 ("lock-2026") can unlock snapshot 2 ("2_quarter_end"); signature verified, nothing sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
Dry run: key 2 ("other") can unlock snapshot 3 ("3_nightly_projects"); signature verified, nothing sent.
  challenge: "Unlock snapshot 3 locked with key 2, expiration \"2030-06-30T00:00:00Z\""
Would unlock 3, already unlocked 0, failed 0.
$ qkey unlock --ids-from none.txt --key alice.pem
Unlocked 0, already unlocked 0, failed 0.
--- exit 0
warning: no snapshot ids in none.txt; nothing to do
$ qkey unlock --ids-from - --key alice.pem --output json
{"summary":{"asked":0,"changed":0,"unchanged":0,"failed":0,"unknown":0,"not_tried":0}}
--- exit 0
{"log":{"level":"warning","message":"no snapshot ids on stdin; nothing to do"}}
$ echo 2 | qkey unlock --ids-from - --key alice.pem --output json
{"action":"unlock","changed":true,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
{"summary":{"asked":1,"changed":1,"unchanged":0,"failed":0,"unknown":0,"not_tried":0}}
$ echo 3 | qkey unlock --ids-from - --key alice.pem --output json
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":3},"error":{"kind":"mismatch","message":"alice.pem (SHA256:[ALICE…]) does not match key 2 (\"other\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[BOB…]","exit_code":4}}
{"summary":{"asked":1,"changed":0,"unchanged":0,"failed":1,"unknown":0,"not_tried":0}}
--- exit 4
{"error":{"kind":"mismatch","message":"alice.pem (SHA256:[ALICE…]) does not match key 2 (\"other\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[BOB…]","exit_code":4}}
$ echo 3 | qkey unlock --ids-from - --key alice.pem
Unlocked 0, already unlocked 0, failed 1.
--- exit 4
error: alice.pem (SHA256:[ALICE…]) does not match key 2 ("other")
hint: nothing was sent; you need the private key for SHA256:[BOB…]

"#]]
    );
}

#[test]
fn invalid_id_list_is_a_usage_error_before_qq_runs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let long = format!("1\n{}\n", "9".repeat(100));
    let lists: [(&str, &[u8]); 7] = [
        ("a word", b"1\n\n# two\nseven \"7\"\n"),
        ("two on a line", b"1 2\n"),
        ("a comment after an id", b"1 # the first\n"),
        ("negative", b"-1\n"),
        ("UTF-16", b"\xff\xfe1\0\n\0"),
        ("an escape sequence", b"\x1b[2J\n"),
        ("too large", long.as_bytes()),
    ];
    let mut said = String::new();
    for (name, list) in lists {
        qkey.write("ids.txt", list);
        let run = qkey.line("unlock --ids-from=ids.txt --key=alice.pem");
        said += &format!("==== {name}\n{}", filtered(&run));
    }
    for (args, stdin) in [
        ("--ids-from=- --key=alice.pem", "2\nx\n"),
        ("--ids-from=gone.txt --key=alice.pem", ""),
        ("--ids-from=. --key=alice.pem", ""),
        ("--ids-from=/dev/zero --key=alice.pem", ""),
        ("--ids-from=- --key=-", ALICE),
        ("--ids-from=- --key=alice.pem?passphrase-fd=0", "2\n"),
        ("--ids-from=- --key=alice.pem --output=json", "2\nx\n"),
    ] {
        let line = format!("unlock {args}");
        let run = qkey.run_with_stdin(line.split(' '), stdin.as_bytes());
        said += &format!("==== {args}\n{}", filtered(&run));
    }
    snapshot!(
        said,
        str![[r#"
==== a word
--- exit 2
error: ids.txt, line 4: "seven \"7\"" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== two on a line
--- exit 2
error: ids.txt, line 1: "1 2" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== a comment after an id
--- exit 2
error: ids.txt, line 1: "1 # the first" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== negative
--- exit 2
error: ids.txt, line 1: "-1" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== UTF-16
--- exit 2
error: ids.txt, line 1: "��1\u{0}" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== an escape sequence
--- exit 2
error: ids.txt, line 1: "\u{1b}[2J" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== too large
--- exit 2
error: ids.txt, line 2: "999999999999999999999999999999999999999999999999999999999999…" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== --ids-from=- --key=alice.pem
--- exit 2
error: stdin, line 2: "x" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== --ids-from=gone.txt --key=alice.pem
--- exit 2
error: cannot read the ids from gone.txt
  caused by: No such file or directory (os error 2)
==== --ids-from=. --key=alice.pem
--- exit 2
error: cannot read the ids from .
  caused by: Is a directory (os error 21)
==== --ids-from=/dev/zero --key=alice.pem
--- exit 2
error: cannot read the ids from /dev/zero
  caused by: longer than 16777216 bytes
==== --ids-from=- --key=-
--- exit 2
error: only one option may read stdin
hint: put the ids, or the key or passphrase, into a file
==== --ids-from=- --key=alice.pem?passphrase-fd=0
--- exit 2
error: only one option may read stdin
hint: put the ids, or the key or passphrase, into a file
==== --ids-from=- --key=alice.pem --output=json
--- exit 2
{"error":{"kind":"usage","message":"stdin, line 2: \"x\" is not a snapshot id","causes":[],"hint":"one id per line; blank lines and # comments are ignored","exit_code":2}}

"#]]
    );
    assert!(mock.calls().is_empty());
}

#[test]
fn ctrl_c_ends_reading_ids_from_stdin() {
    let mut child = Qkey::with_mock(&mock())
        .command(["unlock", "--ids-from=-", "--key=alice.pem"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("qkey runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    // More than the pipe holds: qkey is reading once this is written.
    stdin.write_all(&[b'\n'; 256 << 10]).expect("qkey reads");
    send(&child, Signal::INT);
    snapshot!(
        filtered(&Qkey::new().end(child)),
        str![[r#"
--- exit 130
error: cannot read the ids from stdin
  caused by: interrupted by a signal

"#]]
    );
    drop(stdin);
}

#[test]
fn jobs_limit_concurrent_snapshots() {
    let mock = mock();
    mock.add_snapshot(4, "4_nightly", None);
    let meet = "case \"$*\" in *snapshot_unlock_snapshot*)
        : >met.$$
        until [ \"$(ls met.* | wc -l)\" -eq 4 ]; do sleep .02; done
    esac";
    let alone = "case \"$*\" in *snapshot_unlock_snapshot*)
        mkdir busy || exit 1
        sleep .1; rmdir busy
    esac";
    // More jobs than snapshots are no more threads.
    for (hook, jobs) in [(meet, 4), (alone, 1), ("", 65535)] {
        for id in 1..=4 {
            mock.set_snapshot_field(id, "lock_key", "1");
        }
        let qkey = Qkey::with_mock(&mock).between(&mock, hook);
        let ids = "--id=1 --id=2 --id=3 --id=4";
        let run = qkey.line(&format!("unlock {ids} --key=alice.pem --jobs={jobs}"));
        assert_eq!(run.code, 0, "{jobs}: {run:?}");
    }
}

#[test]
fn configured_key_that_matches_signs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
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
    let lines = [
        "unlock --id=2 --key=spare",
        "unlock --id=2 --dry-run",
        "unlock --id=2 --key=vault",
    ];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey unlock --id=2 --key=spare
--- exit 4
error: spare (../../carol.pem) (SHA256:[CAROL…]) does not match key 1 ("lock-2026")
hint: nothing was sent; you need the private key for SHA256:[ALICE…]
$ qkey unlock --id=2 --dry-run
Dry run: key 1 ("lock-2026") can unlock snapshot 2 ("2_quarter_end"); signature verified, nothing sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
$ qkey unlock --id=2 --key=vault
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").

"#]]
    );
}

#[test]
fn key_replaced_during_unlock_is_reported() {
    let mock = mock();
    let hook = format!(
        r#"case "$*" in *snapshot_unlock_snapshot*)
            printf %s {BOB_PUBLIC} >"$QQ_MOCK_STATE/keys/1/public_key"
        esac"#
    );
    let run = Qkey::with_mock(&mock).between(&mock, &hook).line(UNLOCK);
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 5
error: cluster:8000 refused to unlock snapshot 2
  caused by: Error 400: invalid_request_error: The signature does not match the challenge.
hint: nothing was changed; fix what the cluster reports, then run this again; the cluster now holds a signature made with alice.pem over its challenge

"#]]
    );
    assert_eq!(submissions(&mock), 1);
}

#[test]
fn reply_is_read_although_a_grandchild_holds_the_pipes() {
    let mock = mock();
    mock.fault("snapshot_unlock_snapshot", "hang-with-grandchild");
    let run = Qkey::with_mock(&mock).line(UNLOCK);
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    assert_eq!(submissions(&mock), 1);
    end_sleepers(&mock);
}

#[test]
fn failures_shared_by_all_snapshots() {
    let said = table(
        ["snapshot_get_status", "fs_security_list_keys"],
        |command| {
            let mock = mock();
            mock.fault(command, "always unauthenticated");
            let run = Qkey::with_mock(&mock).line("unlock --id=1 --id=2 --key=alice.pem");
            if *command == "fs_security_list_keys" {
                assert_eq!(mock.count(command), 1);
            }
            filtered(&run)
        },
    );
    snapshot!(
        said,
        str![[r#"
==== snapshot_get_status
Unlocked 0, already unlocked 0, failed 2.
--- exit 6
error: snapshot 1: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: snapshot 2: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: 2 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone
==== fs_security_list_keys
Snapshot 1 ("1_before_upgrade") is already unlocked.
Unlocked 0, already unlocked 1, failed 1.
--- exit 9
error: snapshot 2: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: 1 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
}
