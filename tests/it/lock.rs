//! `qkey lock` against the mock `qq`.

use crate::support::{
    mock::Mock,
    qkey::{
        ALICE_PUBLIC, BOB_PUBLIC, LOSSES, Qkey, STRANGE_TEXTS, expect_no_sleepers, rounds,
        side_by_side, timeout_for,
    },
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
fn a_snapshot_is_locked_and_then_already_so() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(LOCK).transcript(),
        str![[r#"
exit 0
--- stdout
Locked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.lock_key(2).as_deref(), Some("1"));
    assert_data_eq!(
        qkey.run(LOCK).transcript(),
        str![[r#"
exit 0
--- stdout
The cluster has snapshot 2 ("2_quarter_end") locked with key 1 ("lock-2026") already: nothing to do.
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.count("snapshot_lock_snapshot"), 1);
}

#[test]
fn json_says_what_was_done_would_be_done_or_failed() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    assert_data_eq!(qkey.run(with(&["--dry-run"])).transcript(), str![[r#"
exit 0
--- stdout
{"action":"lock","changed":false,"dry_run":true,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":null},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"}}
--- stderr

"#]].raw());
    assert_data_eq!(qkey.run(LOCK).transcript(), str![[r#"
exit 0
--- stdout
{"action":"lock","changed":true,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":"1"},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"}}
--- stderr

"#]].raw());
    assert_data_eq!(qkey.run(LOCK).transcript(), str![[r#"
exit 0
--- stdout
{"action":"lock","changed":false,"dry_run":false,"snapshot":{"id":2,"name":"2_quarter_end","source_file_path":"/finance/","timestamp":"2026-01-01T00:00:00Z","expiration":"","lock_key":"1"},"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"}}
--- stderr

"#]].raw());
    let other = ["lock", "--id=2", "--lock-key=2"];
    assert_data_eq!(qkey.run(other).transcript(), str![[r#"
exit 4
--- stdout
--- stderr
{"error":{"kind":"mismatch","message":"snapshot 2 (\"2_quarter_end\") is locked with key 1 (\"lock-2026\") already","causes":[],"hint":"nothing was sent; to change its key, unlock it first","exit_code":4}}

"#]].raw());
}

#[test]
fn a_dry_run_locks_nothing() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(with(&["--dry-run"])).transcript(),
        str![[r#"
exit 0
--- stdout
Would lock snapshot 2 ("2_quarter_end") with key 1 ("lock-2026"); nothing was sent.
--- stderr

"#]]
        .raw()
    );
    assert_eq!(
        rounds(&mock, &[2]),
        [["fs_security_list_keys", "snapshot_get_status"]]
    );
    assert_eq!(mock.lock_key(2), None);
}

#[test]
fn three_rounds_of_qq_are_all_it_takes() {
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
fn a_key_goes_by_its_id_or_its_name_under_each_flag() {
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
fn a_snapshot_that_another_key_locks_is_left_alone() {
    let mock = mock();
    mock.set_snapshot_field(2, "lock_key", "2");
    let run = Qkey::with_mock(&mock).run(LOCK);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 4
--- stdout
--- stderr
error: snapshot 2 ("2_quarter_end") is locked with key 2 ("other") already
hint: nothing was sent; to change its key, unlock it first

"#]]
        .raw()
    );
    assert_eq!(mock.count("snapshot_lock_snapshot"), 0);
}

#[test]
fn a_snapshot_that_an_unlisted_key_locks_is_left_alone() {
    let mock = mock();
    mock.set_snapshot_field(2, "lock_key", "77");
    let run = Qkey::with_mock(&mock).run(LOCK);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 4
--- stdout
--- stderr
error: snapshot 2 ("2_quarter_end") is locked with key 77 already
hint: nothing was sent; to change its key, unlock it first

"#]]
        .raw()
    );
}

#[test]
fn a_disabled_key_locks_nothing() {
    let mock = mock();
    mock.set_key_field("1", "disabled", "true");
    let run = Qkey::with_mock(&mock).run(LOCK);
    assert_data_eq!(run.transcript(), str![[r#"
exit 5
--- stdout
--- stderr
error: key 1 ("lock-2026") is disabled, and a disabled key locks nothing
hint: nothing was sent; choose another key, or enable it: `qq fs_security_modify_key --key=1 --enable`

"#]].raw());
    assert_eq!(mock.count("snapshot_lock_snapshot"), 0);
}

#[test]
fn what_the_cluster_does_not_hold_is_told() {
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
        format!("==== {id} {key}\n{}", run.transcript())
    });
    assert_data_eq!(said.concat(), str![[r#"
==== 99 1
exit 5
--- stdout
--- stderr
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists
==== 2 lock-2062
exit 5
--- stdout
--- stderr
error: the key store holds no key with the name "lock-2062"
hint: did you mean "lock-2026"? `qkey keys list` shows what it holds
==== 2 9
exit 5
--- stdout
--- stderr
error: the key store holds no key with the id 9
hint: `qkey keys list` shows what it holds
==== 2 
exit 5
--- stdout
--- stderr
error: the key store holds no key with the name ""
hint: `qkey keys list` shows what it holds
==== 99 9
exit 5
--- stdout
--- stderr
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists

"#]].raw());
    assert_eq!(mock.count("snapshot_lock_snapshot"), 0);
}

#[test]
fn an_id_that_is_no_number_is_refused_before_qq_runs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = ["--id=two", "--id=-1", "--id=", "--id=18446744073709551616"].map(|id| {
        let run = qkey.run(["lock", id, "--lock-key=1"]);
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
    assert!(mock.calls().is_empty());
}

#[test]
fn a_name_that_no_url_carries_goes_by_its_id() {
    side_by_side(&STRANGE_TEXTS, |name| {
        let mock = Mock::new();
        mock.add_key(name, "", ALICE_PUBLIC);
        let run = Qkey::with_mock(&mock).run(["lock", "--id=2", "--lock-key", name]);
        assert_eq!(run.code, 0, "{name}: {run:?}");
        assert_eq!(mock.lock_key(2).as_deref(), Some("1"), "{name}");
        String::new()
    });
}

#[test]
fn a_refusal_shows_the_words_of_the_cluster() {
    let said = side_by_side(
        &[
            "status 400 invalid_request_error Snapshot 2 is already locked.",
            "status 403 privilege_error You are not allowed to.",
            "unauthenticated",
            "refused-connection",
        ],
        |fault| {
            let mock = mock();
            mock.fault("snapshot_lock_snapshot", fault);
            let run = Qkey::with_mock(&mock).run(LOCK);
            assert_eq!(mock.count("snapshot_lock_snapshot"), 1);
            assert_eq!(mock.lock_key(2), None);
            run.transcript()
        },
    );
    assert_data_eq!(said, str![[r#"
==== status 400 invalid_request_error Snapshot 2 is already locked.
exit 5
--- stdout
--- stderr
error: cluster:8000 refused to lock snapshot 2
  caused by: Error 400: invalid_request_error: Snapshot 2 is already locked.
hint: nothing was changed; fix what the cluster reports, then run this again
==== status 403 privilege_error You are not allowed to.
exit 6
--- stdout
--- stderr
error: cluster:8000 denied permission to lock snapshot 2
  caused by: Error 403: privilege_error: You are not allowed to.
hint: log in as a user whose role includes PRIVILEGE_SNAPSHOT_LOCK; role changes take effect at the next login
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
        let mock = mock();
        mock.fault("snapshot_lock_snapshot", fault);
        let run = Qkey::with_mock(&mock).run(with(&[timeout_for(fault)]));
        assert_eq!(mock.count("snapshot_lock_snapshot"), 1, "{fault}");
        assert_eq!(run.code == 0, mock.lock_key(2).is_some(), "{fault}");
        expect_no_sleepers(&mock);
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== drop-before
exit 8
--- stdout
--- stderr
error: no reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: lost the connection to cluster:8000 during the request to lock snapshot 2: Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== drop-after
exit 0
--- stdout
Locked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- stderr
warning: no reply to the request to lock snapshot 2 ("2_quarter_end") (lost the connection to cluster:8000 during the request to lock snapshot 2: Remote end closed connection without response); checked: it was done
==== timeout-before
exit 8
--- stdout
--- stderr
error: no reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: lost the connection to cluster:8000 during the request to lock snapshot 2: The read operation timed out
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== timeout-after
exit 0
--- stdout
Locked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- stderr
warning: no reply to the request to lock snapshot 2 ("2_quarter_end") (lost the connection to cluster:8000 during the request to lock snapshot 2: The read operation timed out); checked: it was done
==== traceback
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to lock snapshot 2
  caused by: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== traceback-after
exit 0
--- stdout
Locked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- stderr
warning: unexpected reply to the request to lock snapshot 2 ("2_quarter_end") (unexpected reply from cluster:8000 to the request to lock snapshot 2: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)); checked: it was done
==== garbage
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to lock snapshot 2
  caused by: expected the sentence that it is locked, got: <html> This is not what you are looking for.
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== garbage-after
exit 0
--- stdout
Locked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- stderr
warning: unexpected reply to the request to lock snapshot 2 ("2_quarter_end") (unexpected reply from cluster:8000 to the request to lock snapshot 2: expected the sentence that it is locked, got: <html> This is not what you are looking for.); checked: it was done
==== empty
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to lock snapshot 2
  caused by: expected the sentence that it is locked, got: (nothing)
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== empty-after
exit 0
--- stdout
Locked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- stderr
warning: unexpected reply to the request to lock snapshot 2 ("2_quarter_end") (unexpected reply from cluster:8000 to the request to lock snapshot 2: expected the sentence that it is locked, got: (nothing)); checked: it was done
==== truncated
exit 0
--- stdout
Locked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- stderr
warning: unexpected reply to the request to lock snapshot 2 ("2_quarter_end") (unexpected reply from cluster:8000 to the request to lock snapshot 2: expected the sentence that it is locked, got: Snapshot 2 is locke); checked: it was done
==== kill-9
exit 8
--- stdout
--- stderr
error: no reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: qq failed to lock snapshot 2
  caused by: `[QQ]` was killed by signal 9
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== kill-9-after
exit 0
--- stdout
Locked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- stderr
warning: no reply to the request to lock snapshot 2 ("2_quarter_end") (qq failed to lock snapshot 2: `[QQ]` was killed by signal 9); checked: it was done
==== hang
exit 8
--- stdout
--- stderr
error: no reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: qq failed to lock snapshot 2
  caused by: `[QQ]` did not finish within 4 s and was killed
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== hang-after
exit 0
--- stdout
Locked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- stderr
warning: no reply to the request to lock snapshot 2 ("2_quarter_end") (qq failed to lock snapshot 2: `[QQ]` did not finish within 4 s and was killed); checked: it was done
==== huge
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: the reply from cluster:8000 is too large: the reply is larger than 256 KiB
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== exit 3 something odd
exit 8
--- stdout
--- stderr
error: no reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: qq failed to lock snapshot 2
  caused by: `[QQ]` exited with 3: something odd
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
==== status 500 internal_error It broke.
exit 5
--- stdout
--- stderr
error: the cluster failed to process the request to lock snapshot 2 ("2_quarter_end"); checked: it was not done
  caused by: cluster:8000 failed to lock snapshot 2
  caused by: Error 500: internal_error: It broke.
hint: check the cluster's health, then run this again; `[QQ] --host=cluster snapshot_get_status --id=2` shows what it holds
==== status 503 busy_error Try again later.
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to lock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: cluster:8000 failed to lock snapshot 2
  caused by: Error 503: busy_error: Try again later.
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
}

#[test]
fn an_outcome_that_nobody_can_see_is_unknown() {
    let mock = mock();
    mock.fault("snapshot_lock_snapshot", "drop-after");
    mock.fault("snapshot_get_status", "");
    mock.fault("snapshot_get_status", "always drop-before");
    let run = Qkey::with_mock(&mock).run(LOCK);
    assert_data_eq!(run.transcript(), str![[r#"
exit 8
--- stdout
--- stderr
error: the request to lock snapshot 2 ("2_quarter_end") was sent, but the result could not be confirmed
  caused by: lost the connection to cluster:8000 during the request to lock snapshot 2: Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
    assert_eq!(mock.count("snapshot_lock_snapshot"), 1);
}

#[test]
fn a_snapshot_that_another_locked_meanwhile_is_told() {
    let mock = mock();
    let hook = r#"case "$*" in *snapshot_lock_snapshot*)
        printf 2 >"$QQ_MOCK_STATE/snapshots/2/lock_key"
        kill -9 $$
    esac"#;
    let run = Qkey::with_mock(&mock).between(&mock, hook).run(LOCK);
    assert_data_eq!(run.transcript(), str![[r#"
exit 8
--- stdout
--- stderr
error: the request to lock snapshot 2 ("2_quarter_end") was sent, and now it is locked with key 2
  caused by: qq failed to lock snapshot 2
  caused by: `[DIR]/qq-between` was killed by signal 9
hint: somebody else may be making changes; `[DIR]/qq-between --host=cluster snapshot_get_status --id=2` shows what the cluster holds

"#]].raw());
}
