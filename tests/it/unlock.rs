//! `qkey unlock` against the mock `qq`.

use std::{io::Write, process::Stdio};

use crate::support::{
    mock::Mock,
    qkey::{ALICE, ALICE_PUBLIC, BOB_PUBLIC, Qkey, end_sleepers, rounds},
    snapshot::{filtered, qkey_snapshot},
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
fn json_for_dry_run_change_no_change_and_failure() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    qkey_snapshot!(
        qkey,
        with(&["--dry-run"]),
        str![[r#"
{"action":"unlock","changed":false,"dry_run":true,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":"1"},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"},"challenge":"Unlock snapshot 2 locked with key 1, expiration \"\""}

"#]]
    );
    let wrong = ["unlock", "--id=2", "--key=bob.pem"];
    qkey_snapshot!(
        qkey,
        wrong,
        str![[r#"
--- exit 4
{"error":{"kind":"mismatch","message":"bob.pem (SHA256:[BOB…]) does not match key 1 (\"lock-2026\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[ALICE…]","exit_code":4}}

"#]]
    );
    qkey_snapshot!(
        qkey,
        UNLOCK,
        str![[r#"
{"action":"unlock","changed":true,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}

"#]]
    );
    qkey_snapshot!(
        qkey,
        UNLOCK,
        str![[r#"
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":null}

"#]]
    );
}

#[test]
fn runs_three_rounds_of_qq() {
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
fn several_snapshots_share_one_key_list() {
    let mock = mock_with_three();
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        ["unlock", "--id=1", "--id=2", "--key=alice.pem"],
        str![[r#"
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
Unlocked 2, already unlocked 0, failed 0.

"#]]
    );
    assert_eq!(mock.count("fs_security_list_keys"), 1);
    assert_eq!(mock.count("snapshot_get_status"), 2);
    assert_eq!(mock.count("snapshot_get_unlock_challenge"), 2);
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 2);
    assert_eq!(mock.count("snapshot_list_statuses"), 1);
    assert_eq!(mock.calls().len(), 8);
}

#[test]
fn wrong_key_exits_4_and_sends_nothing() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(["unlock", "--id=2", "--key=carol.pem"]);
    assert_data_eq!(
        filtered(&run),
        str![[r#"
--- exit 4
error: carol.pem (SHA256:[CAROL…]) does not match key 1 ("lock-2026")
hint: nothing was sent; you need the private key for SHA256:[ALICE…]

"#]]
        .raw()
    );
    let run = qkey.run(["unlock", "--id=2", "--key=carol.pem", "--key=bob.pem"]);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 4
error: none of these keys matches key 1 ("lock-2026"): carol.pem (SHA256:[CAROL…]), bob.pem (SHA256:[BOB…])
hint: nothing was sent; you need the private key for SHA256:[ALICE…]

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 0);
}

#[test]
fn each_snapshot_is_signed_with_its_lock_key() {
    let mock = mock_with_three();
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        [
            "unlock",
            "--id=3",
            "--id=2",
            "--id=1",
            "--key=carol.pem",
            "--key=bob.pem",
            "--key=alice.pem",
        ],
        str![[r#"
Unlocked snapshot 3 ("3_nightly_projects") with key 2 ("other").
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked 3, already unlocked 0, failed 0.

"#]]
    );
    assert!((1..=3).all(|id| mock.lock_key(id).is_none()));
}

#[test]
fn partial_success_exits_9() {
    let mock = mock_with_three();
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        FOUR,
        str![[r#"
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
Unlocked 2, already unlocked 0, failed 2.
--- exit 9
error: snapshot 3: alice.pem (SHA256:[ALICE…]) does not match key 2 ("other")
hint: nothing was sent; you need the private key for SHA256:[BOB…]
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists
error: 2 of 4 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 2);
    assert_eq!(mock.lock_key(3).as_deref(), Some("2"));
}

#[test]
fn partial_success_prints_one_json_object_per_line() {
    let mock = mock_with_three();
    mock.set_snapshot_field(1, "lock_key", "");
    let run = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json").run(FOUR);
    assert_data_eq!(filtered(&run), str![[r#"
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":1,"name":"1_before_upgrade","source_file_path":"/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":null}
{"action":"unlock","changed":true,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":3},"error":{"kind":"mismatch","message":"alice.pem (SHA256:[ALICE…]) does not match key 2 (\"other\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[BOB…]","exit_code":4}}
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":99},"error":{"kind":"refused","message":"snapshot 99 does not exist on cluster:8000","causes":["Error 404: fs_no_such_entry_error: There is no snapshot 99."],"hint":"`[QQ] --host=cluster snapshot_list_statuses` shows what exists","exit_code":5}}
{"summary":{"asked":4,"changed":1,"unchanged":1,"failed":2,"unknown":0,"not_tried":0}}
--- exit 9
{"error":{"kind":"partial","message":"2 of 4 snapshots failed","causes":[],"hint":"see the errors above; rerunning is safe: what is already unlocked is left alone","exit_code":9}}

"#]].raw());
    for line in run.stdout.lines().chain(run.stderr.lines()) {
        serde_json::from_str::<serde_json::Value>(line).expect("one object a line");
    }
}

#[test]
fn all_failed_exits_with_the_first_code() {
    let mock = mock_with_three();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(["unlock", "--id=3", "--id=99", "--key=alice.pem"]);
    assert_data_eq!(
        filtered(&run),
        str![[r#"
Unlocked 0, already unlocked 0, failed 2.
--- exit 4
error: snapshot 3: alice.pem (SHA256:[ALICE…]) does not match key 2 ("other")
hint: nothing was sent; you need the private key for SHA256:[BOB…]
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists
error: 2 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
        .raw()
    );
    let run = qkey.run([
        "unlock",
        "--id=99",
        "--id=3",
        "--key=alice.pem",
        "--output=json",
    ]);
    assert_data_eq!(filtered(&run), str![[r#"
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":99},"error":{"kind":"refused","message":"snapshot 99 does not exist on cluster:8000","causes":["Error 404: fs_no_such_entry_error: There is no snapshot 99."],"hint":"`[QQ] --host=cluster snapshot_list_statuses` shows what exists","exit_code":5}}
{"action":"unlock","changed":false,"dry_run":false,"snapshot":{"id":3},"error":{"kind":"mismatch","message":"alice.pem (SHA256:[ALICE…]) does not match key 2 (\"other\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[BOB…]","exit_code":4}}
{"summary":{"asked":2,"changed":0,"unchanged":0,"failed":2,"unknown":0,"not_tried":0}}
--- exit 5
{"error":{"kind":"refused","message":"2 of 2 snapshots failed","causes":[],"hint":"see the errors above; rerunning is safe: what is already unlocked is left alone","exit_code":5}}

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 0);
}

#[test]
fn dry_run_of_several_prints_a_summary() {
    let mock = mock_with_three();
    let args = [
        &FOUR[..4],
        &["--key=alice.pem", "--key=bob.pem", "--dry-run"],
    ]
    .concat();
    let qkey = Qkey::with_mock(&mock);
    qkey_snapshot!(
        qkey,
        &args,
        str![[r#"
Dry run: key 1 ("lock-2026") can unlock snapshot 1 ("1_before_upgrade"); signature verified, nothing sent.
  challenge: "Unlock snapshot 1 locked with key 1, expiration \"\""
Dry run: key 1 ("lock-2026") can unlock snapshot 2 ("2_quarter_end"); signature verified, nothing sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
Dry run: key 2 ("other") can unlock snapshot 3 ("3_nightly_projects"); signature verified, nothing sent.
  challenge: "Unlock snapshot 3 locked with key 2, expiration \"2030-06-30T00:00:00Z\""
Would unlock 3, already unlocked 0, failed 0.

"#]]
    );
    mock.set_snapshot_field(1, "lock_key", "");
    qkey_snapshot!(
        qkey,
        &args,
        str![[r#"
Snapshot 1 ("1_before_upgrade") is already unlocked.
Dry run: key 1 ("lock-2026") can unlock snapshot 2 ("2_quarter_end"); signature verified, nothing sent.
  challenge: "Unlock snapshot 2 locked with key 1, expiration \"\""
Dry run: key 2 ("other") can unlock snapshot 3 ("3_nightly_projects"); signature verified, nothing sent.
  challenge: "Unlock snapshot 3 locked with key 2, expiration \"2030-06-30T00:00:00Z\""
Would unlock 2, already unlocked 1, failed 0.

"#]]
    );
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 0);
}

#[test]
fn duplicate_ids_count_once() {
    let mock = mock();
    let run =
        Qkey::with_mock(&mock).run(["unlock", "--id=2", "--id=2", "--id=02", "--key=alice.pem"]);
    assert_data_eq!(
        filtered(&run),
        str![[r#"
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").

"#]]
        .raw()
    );
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
}

#[test]
fn invalid_snapshot_id_is_a_usage_error() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = ["--id=two", "--id=-1", "--id=", "--id=18446744073709551616"].map(|id| {
        let run = qkey.run(["unlock", id, "--key=alice.pem"]);
        format!("==== {id}\n{}", filtered(&run))
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== --id=two
--- exit 2
error: invalid value 'two' for '--id <N>': invalid digit found in string

For more information, try '--help'.
==== --id=-1
--- exit 2
error: invalid value '-1' for '--id <N>': invalid digit found in string

For more information, try '--help'.
==== --id=
--- exit 2
error: invalid value '' for '--id <N>': cannot parse integer from empty string

For more information, try '--help'.
==== --id=18446744073709551616
--- exit 2
error: invalid value '18446744073709551616' for '--id <N>': number too large to fit in target type

For more information, try '--help'.

"#]]
        .raw()
    );
    qkey_snapshot!(
        qkey,
        ["unlock"],
        str![[r#"
--- exit 2
error: the following required arguments were not provided:
  <--id <N>|--ids-from <FILE>>

Usage: qkey unlock <--id <N>|--ids-from <FILE>>

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
    let keys = ["--key=alice.pem", "--key=bob.pem"];
    let from_file = [&["unlock", "--ids-from=ids.txt", "--dry-run"], &keys[..]].concat();
    qkey_snapshot!(
        qkey,
        &from_file,
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
    let from_stdin = [&["unlock", "--id=2", "--ids-from=-"], &keys[..]].concat();
    assert_data_eq!(
        filtered(&qkey.run_with_stdin(&from_stdin, list.as_bytes())),
        str![[r#"
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
Unlocked snapshot 3 ("3_nightly_projects") with key 2 ("other").
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked 3, already unlocked 0, failed 0.

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
fn invalid_id_list_is_a_usage_error_before_qq_runs() {
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
        said += &format!("==== {name}\n{}", filtered(&run));
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
        said += &format!("==== {name}\n{}", filtered(&run));
    }
    assert_data_eq!(
        said,
        str![[r#"
==== empty
--- exit 2
error: no snapshot ids in ids.txt
hint: one id per line; blank lines and # comments are ignored
==== only comments
--- exit 2
error: no snapshot ids in ids.txt
hint: one id per line; blank lines and # comments are ignored
==== a word
--- exit 2
error: ids.txt, line 4: "seven /"7/"" is not a snapshot id
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
error: ids.txt, line 1: "��1/u{0}" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== steers the terminal
--- exit 2
error: ids.txt, line 1: "/u{1b}[2J" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== too large
--- exit 2
error: ids.txt, line 2: "999999999999999999999999999999999999999999999999999999999999…" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== stdin
--- exit 2
error: stdin, line 2: "x" is not a snapshot id
hint: one id per line; blank lines and # comments are ignored
==== stdin, empty
--- exit 2
error: no snapshot ids on stdin
hint: one id per line; blank lines and # comments are ignored
==== not there
--- exit 2
error: cannot read the ids from gone.txt
  caused by: No such file or directory (os error 2)
==== a folder
--- exit 2
error: cannot read the ids from .
  caused by: Is a directory (os error 21)
==== endless
--- exit 2
error: cannot read the ids from /dev/zero
  caused by: longer than 16777216 bytes
==== stdin twice
--- exit 2
error: only one option may read stdin
hint: put the ids, or the key or passphrase, into a file
==== stdin for a passphrase
--- exit 2
error: only one option may read stdin
hint: put the ids, or the key or passphrase, into a file
==== in JSON
--- exit 2
{"error":{"kind":"usage","message":"stdin, line 2: /"x/" is not a snapshot id","causes":[],"hint":"one id per line; blank lines and # comments are ignored","exit_code":2}}

"#]]
    );
    assert!(mock.calls().is_empty());
}

#[test]
fn ctrl_c_ends_reading_ids_from_terminal() {
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
        filtered(&qkey.taken(&output)),
        str![[r#"
--- exit 130
error: cannot read the ids from stdin
  caused by: interrupted by a signal

"#]]
    );
    drop(stdin);
}

#[test]
fn zero_jobs_is_a_usage_error() {
    qkey_snapshot!(
        Qkey::with_mock(&mock()),
        with(&["--jobs=0"]),
        str![[r#"
--- exit 2
error: invalid value '0' for '--jobs <N>': 0 is not in 1..=65535

For more information, try '--help'.

"#]]
    );
}

#[test]
fn jobs_limit_concurrent_snapshots() {
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
fn snapshot_locked_with_unlisted_key_exits_4() {
    let mock = mock();
    mock.set_snapshot_field(2, "lock_key", "77");
    let run = Qkey::with_mock(&mock).run(UNLOCK);
    assert_data_eq!(
        filtered(&run),
        str![[r#"
--- exit 5
error: snapshot 2 ("2_quarter_end") is locked with key 77, which is not in the key list
hint: run this again if the key was stored just now; otherwise log in as a user who can list every key

"#]]
    );
}

#[test]
fn configured_key_that_matches_signs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(["unlock", "--id=2"]);
    assert_data_eq!(
        filtered(&run),
        str![[r#"
--- exit 2
error: no key given: --key is missing
hint: give --key SOURCE, or add your keys to the configuration file (`qkey config init`)

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
    assert_data_eq!(
        filtered(&run),
        str![[r#"
--- exit 4
error: spare (../../carol.pem) (SHA256:[CAROL…]) does not match key 1 ("lock-2026")
hint: nothing was sent; you need the private key for SHA256:[ALICE…]

"#]]
        .raw()
    );
    let run = qkey.run(["unlock", "--id=2", "--key=vault"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(mock.lock_key(2), None);
}

#[test]
fn unreadable_key_is_reported_unless_another_matches() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(["unlock", "--id=2", "--key=gone.pem"]);
    assert_data_eq!(
        filtered(&run),
        str![[r#"
--- exit 3
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
fn stdin_key_is_read_once() {
    let mock = mock_with_three();
    let qkey = Qkey::with_mock(&mock);
    let twice = ["unlock", "--id=2", "--key=-", "--key=file:-"];
    let run = qkey.run_with_stdin(twice, ALICE.as_bytes());
    assert_data_eq!(
        filtered(&run),
        str![[r#"
--- exit 2
error: only one key or passphrase may be read from stdin
hint: save the others to files

"#]]
        .raw()
    );
    assert!(mock.calls().is_empty());
    let both = ["unlock", "--id=2", "--id=1", "--key=-"];
    let run = qkey.run_with_stdin(both, ALICE.as_bytes());
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn key_replaced_during_unlock_is_reported() {
    let mock = mock();
    let hook = format!(
        r#"case "$*" in *snapshot_unlock_snapshot*)
            printf %s {BOB_PUBLIC} >"$QQ_MOCK_STATE/keys/1/public_key"
        esac"#
    );
    let run = Qkey::with_mock(&mock).between(&mock, &hook).run(UNLOCK);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 5
error: cluster:8000 refused to unlock snapshot 2
  caused by: Error 400: invalid_request_error: The signature does not match the challenge.
hint: nothing was changed; fix what the cluster reports, then run this again; the cluster now holds a signature made with alice.pem over its challenge

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
}

#[test]
fn snapshot_relocked_with_another_key_exits_8() {
    let mock = mock();
    let hook = r#"case "$*" in *snapshot_unlock_snapshot*)
        printf 2 >"$QQ_MOCK_STATE/snapshots/2/lock_key"
        kill -9 $$
    esac"#;
    let run = Qkey::with_mock(&mock).between(&mock, hook).run(UNLOCK);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 8
error: the request to unlock snapshot 2 ("2_quarter_end") was sent, and now it is locked with key 2
  caused by: qq failed to unlock snapshot 2
  caused by: `[DIR]/qq-between` was killed by signal 9
hint: someone else may be making changes; `[DIR]/qq-between --host=cluster snapshot_get_status --id=2` shows what the cluster holds

"#]].raw());
}

#[test]
fn reply_is_read_although_a_grandchild_holds_the_pipes() {
    let mock = mock();
    mock.fault("snapshot_unlock_snapshot", "hang-with-grandchild");
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        UNLOCK,
        str![[r#"
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").

"#]]
    );
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
    end_sleepers(&mock);
}

#[test]
fn login_refused_for_all_exits_6() {
    let mock = mock_with_three();
    mock.fault("snapshot_get_status", "always unauthenticated");
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        FOUR,
        str![[r#"
Unlocked 0, already unlocked 0, failed 4.
--- exit 6
error: snapshot 1: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: snapshot 2: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: snapshot 3: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: snapshot 99: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
error: 4 of 4 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
}

#[test]
fn unreadable_key_store_fails_only_locked_snapshots() {
    let mock = mock();
    mock.fault(
        "fs_security_list_keys",
        "always status 500 internal_error It broke.",
    );
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        ["unlock", "--id=1", "--id=2", "--key=alice.pem"],
        str![[r#"
Snapshot 1 ("1_before_upgrade") is already unlocked.
Unlocked 0, already unlocked 1, failed 1.
--- exit 9
error: snapshot 2: cluster:8000 failed to list the lock keys
  caused by: Error 500: internal_error: It broke.
hint: the cluster reports an internal problem; check its health, then run this again
error: 1 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
    assert_eq!(mock.count("fs_security_list_keys"), 1);
}
