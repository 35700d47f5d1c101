//! `qkey lock` through the mock `qq`. Lost replies are in `transports.rs`.

use crate::support::{
    ceremony::{LOCK, submissions},
    mock::Mock,
    qkey::{BOB_PUBLIC, Qkey, rounds},
    snapshot::{session, snapshot},
};
use snapbox::str;

/// The cluster of the ceremonies, with bob's key as key 2.
fn mock() -> Mock {
    let mock = crate::support::ceremony::mock();
    mock.add_key("other", "", BOB_PUBLIC);
    mock
}

#[test]
fn json_for_dry_run_change_no_change_and_failure() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    let dry_run = format!("{LOCK} --dry-run");
    let said = session(&qkey, [&*dry_run, LOCK, LOCK, "lock --id=3 --lock-key=2"]);
    snapshot!(
        said,
        str![[r#"
$ qkey lock --id=3 --lock-key=1 --dry-run
{"action":"lock","changed":false,"dry_run":true,"snapshot":{"id":3,"name":"3_nightly_projects","source_file_path":"/projects/","timestamp":"2026-01-01T00:00:00Z","expiration":"2030-06-30T00:00:00Z","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
$ qkey lock --id=3 --lock-key=1
{"action":"lock","changed":true,"dry_run":false,"snapshot":{"id":3,"name":"3_nightly_projects","source_file_path":"/projects/","timestamp":"2026-01-01T00:00:00Z","expiration":"2030-06-30T00:00:00Z","lock_key":"1"},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
$ qkey lock --id=3 --lock-key=1
{"action":"lock","changed":false,"dry_run":false,"snapshot":{"id":3,"name":"3_nightly_projects","source_file_path":"/projects/","timestamp":"2026-01-01T00:00:00Z","expiration":"2030-06-30T00:00:00Z","lock_key":"1"},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}
$ qkey lock --id=3 --lock-key=2
--- exit 4
{"error":{"kind":"mismatch","message":"snapshot 3 (\"3_nightly_projects\") is already locked with key 1 (\"lock-2026\")","causes":[],"hint":"nothing was sent; to change its key, unlock it first","exit_code":4}}

"#]]
    );
    assert_eq!(submissions(&mock), 1);
}

#[test]
fn runs_three_rounds_of_qq() {
    let mock = mock();
    Qkey::with_mock(&mock).line(LOCK);
    assert_eq!(
        rounds(&mock, &[2, 1, 1]),
        [
            &["fs_security_list_keys", "snapshot_get_status"][..],
            &["snapshot_lock_snapshot"],
            &["snapshot_get_status"]
        ]
    );
}

#[test]
fn key_flags_take_id_or_name() {
    let mock = mock();
    for reference in [
        "--lock-key=lock-2026",
        "--key-id=1",
        "--key-ref=lock-2026",
        "-k1",
    ] {
        let run = Qkey::with_mock(&mock).line(&format!("lock --id=3 {reference} --dry-run"));
        assert_eq!(run.code, 0, "{reference}: {run:?}");
    }
}

#[test]
fn impossible_locks_send_nothing() {
    let mock = mock();
    mock.set_snapshot_field(1, "lock_key", "77");
    let lines = [
        "lock --id=2 --lock-key=other",
        "lock --id=1 --lock-key=other",
        "lock --id=99 --lock-key=1",
        "lock --id=99 --lock-key=9",
        "lock --id=3 --lock-key=lock-2062",
        "lock --id=3 --lock-key=9",
        "lock --id=3 --lock-key=",
        "lock --id=two --lock-key=1",
        "lock --id=-1 --lock-key=1",
        "lock --id= --lock-key=1",
        "lock --id=18446744073709551616 --lock-key=1",
    ];
    snapshot!(
        session(&Qkey::with_mock(&mock), lines),
        str![[r#"
$ qkey lock --id=2 --lock-key=other
--- exit 4
error: snapshot 2 ("2_quarter_end") is already locked with key 1 ("lock-2026")
hint: nothing was sent; to change its key, unlock it first
$ qkey lock --id=1 --lock-key=other
--- exit 4
error: snapshot 1 ("1_before_upgrade") is already locked with key 77
hint: nothing was sent; to change its key, unlock it first
$ qkey lock --id=99 --lock-key=1
--- exit 5
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists
$ qkey lock --id=99 --lock-key=9
--- exit 5
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists
$ qkey lock --id=3 --lock-key=lock-2062
--- exit 5
error: no lock key named "lock-2062"
hint: did you mean "lock-2026"? `qkey keys list` shows them all
$ qkey lock --id=3 --lock-key=9
--- exit 5
error: no lock key with id 9
hint: `qkey keys list` shows them all
$ qkey lock --id=3 --lock-key=
--- exit 5
error: no lock key named ""
hint: `qkey keys list` shows them all
$ qkey lock --id=two --lock-key=1
--- exit 2
error: invalid value 'two' for '--id <N>': invalid digit found in string

For more information, try '--help'.
$ qkey lock --id=-1 --lock-key=1
--- exit 2
error: invalid value '-1' for '--id <N>': invalid digit found in string

For more information, try '--help'.
$ qkey lock --id= --lock-key=1
--- exit 2
error: invalid value '' for '--id <N>': cannot parse integer from empty string

For more information, try '--help'.
$ qkey lock --id=18446744073709551616 --lock-key=1
--- exit 2
error: invalid value '18446744073709551616' for '--id <N>': number too large to fit in target type

For more information, try '--help'.

"#]]
    );
    assert_eq!(submissions(&mock), 0);
}
