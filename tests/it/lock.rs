//! `qkey lock` against the mock `qq`.

use crate::support::{
    mock::Mock,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, Qkey, rounds},
    snapshot::{filtered, qkey_snapshot},
};
use snapbox::{IntoData, assert_data_eq, str};

const LOCK: [&str; 5] = ["lock", "--id", "2", "--lock-key", "lock-2026"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&LOCK[..], more].concat()
}

/// A cluster that holds Alice's key as key 1, and Bob's as key 2.
fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    mock.add_key("other", "", BOB_PUBLIC);
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
{"action":"lock","changed":false,"dry_run":true,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}

"#]]
    );
    qkey_snapshot!(
        qkey,
        LOCK,
        str![[r#"
{"action":"lock","changed":true,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":"1"},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}

"#]]
    );
    qkey_snapshot!(
        qkey,
        LOCK,
        str![[r#"
{"action":"lock","changed":false,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":"1"},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"}}

"#]]
    );
    let other = ["lock", "--id=2", "--lock-key=2"];
    qkey_snapshot!(
        qkey,
        other,
        str![[r#"
--- exit 4
{"error":{"kind":"mismatch","message":"snapshot 2 (\"2_quarter_end\") is already locked with key 1 (\"lock-2026\")","causes":[],"hint":"nothing was sent; to change its key, unlock it first","exit_code":4}}

"#]]
    );
}

#[test]
fn runs_three_rounds_of_qq() {
    let mock = mock();
    Qkey::with_mock(&mock).run(LOCK);
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
    for reference in [
        "--lock-key=1",
        "--lock-key=lock-2026",
        "--key-id=1",
        "--key-ref=lock-2026",
        "-k1",
    ] {
        let mock = mock();
        let run = Qkey::with_mock(&mock).run(["lock", "--id=2", reference]);
        assert_eq!(run.code, 0, "{reference}: {run:?}");
        assert_eq!(mock.lock_key(2).as_deref(), Some("1"));
    }
}

#[test]
fn snapshot_locked_with_another_key_exits_4() {
    let mock = mock();
    mock.set_snapshot_field(2, "lock_key", "2");
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        LOCK,
        str![[r#"
--- exit 4
error: snapshot 2 ("2_quarter_end") is already locked with key 2 ("other")
hint: nothing was sent; to change its key, unlock it first

"#]]
    );
    assert_eq!(mock.count("snapshot_lock_snapshot"), 0);
}

#[test]
fn snapshot_locked_with_unlisted_key_exits_4() {
    let mock = mock();
    mock.set_snapshot_field(2, "lock_key", "77");
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        LOCK,
        str![[r#"
--- exit 4
error: snapshot 2 ("2_quarter_end") is already locked with key 77
hint: nothing was sent; to change its key, unlock it first

"#]]
    );
}

#[test]
fn unknown_snapshot_or_key_exits_5() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = [
        ["99", "1"],
        ["2", "lock-2062"],
        ["2", "9"],
        ["2", ""],
        ["99", "9"],
    ]
    .map(|[id, key]| {
        let run = qkey.run(["lock", "--id", id, "--lock-key", key]);
        format!("==== {id} {key}\n{}", filtered(&run))
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== 99 1
--- exit 5
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists
==== 2 lock-2062
--- exit 5
error: no lock key named "lock-2062"
hint: did you mean "lock-2026"? `qkey keys list` shows them all
==== 2 9
--- exit 5
error: no lock key with id 9
hint: `qkey keys list` shows them all
==== 2 
--- exit 5
error: no lock key named ""
hint: `qkey keys list` shows them all
==== 99 9
--- exit 5
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists

"#]]
        .raw()
    );
    assert_eq!(mock.count("snapshot_lock_snapshot"), 0);
}

#[test]
fn invalid_snapshot_id_is_a_usage_error() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = ["--id=two", "--id=-1", "--id=", "--id=18446744073709551616"].map(|id| {
        let run = qkey.run(["lock", id, "--lock-key=1"]);
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
    assert!(mock.calls().is_empty());
}

#[test]
fn snapshot_locked_by_another_admin_exits_8() {
    let mock = mock();
    let hook = r#"case "$*" in *snapshot_lock_snapshot*)
        printf 2 >"$QQ_MOCK_STATE/snapshots/2/lock_key"
        kill -9 $$
    esac"#;
    let run = Qkey::with_mock(&mock).between(&mock, hook).run(LOCK);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 8
error: the request to lock snapshot 2 ("2_quarter_end") was sent, and now it is locked with key 2
  caused by: qq failed to lock snapshot 2
  caused by: `[DIR]/qq-between` was killed by signal 9
hint: someone else may be making changes; `[DIR]/qq-between --host=cluster snapshot_get_status --id=2` shows what the cluster holds

"#]].raw());
}
