//! SIGINT, SIGTERM and SIGHUP while `qkey` works.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
};

use crate::support::{
    mock::Mock,
    qkey::{
        ALICE_PUBLIC, BOB_PUBLIC, Qkey, Run, expect_no_sleepers, is_alive, side_by_side, wait_until,
    },
    shell,
    snapshot::filtered,
};
use rustix::{
    fs::{OFlags, fcntl_setfl},
    process::{Pid, Signal, kill_process},
};
use snapbox::{IntoData, assert_data_eq, str};

const ADD: [&str; 5] = ["add", "--name", "new", "--key", "carol.pem"];
const REPLACE: [&str; 4] = ["replace", "-k1", "--old-key=alice.pem", "--new-key=bob.pem"];
const UNLOCK: [&str; 3] = ["unlock", "--id=2", "--key=alice.pem"];
const LOCK: [&str; 3] = ["lock", "--id=3", "--lock-key=1"];

/// A cluster that holds Alice's key as key 1, which locks snapshot 2.
fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    mock.set_snapshot_field(2, "lock_key", "1");
    mock
}

fn start(qkey: &Qkey, args: &[&str]) -> Child {
    qkey.command(args).spawn().expect("qkey runs")
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process id");
    kill_process(pid, signal).expect("qkey takes signals");
}

fn end(qkey: &Qkey, child: Child) -> Run {
    qkey.taken(&child.wait_with_output().expect("qkey ends"))
}

/// Runs a command, sends it a signal once the mock hangs, and expects that nothing is left.
fn interrupted(mock: &Mock, args: &[&str], signal: Signal) -> Run {
    let qkey = Qkey::with_mock(mock);
    let child = start(&qkey, args);
    wait_until("a qq that hangs", || !mock.sleepers().is_empty());
    send(&child, signal);
    let run = end(&qkey, child);
    expect_no_sleepers(mock);
    run
}

#[test]
fn signal_during_first_reads_sends_nothing() {
    let said = side_by_side(&["add", "replace", "unlock", "lock", "keys"], |command| {
        let (args, hanging): (&[&str], _) = match command {
            "add" => (&ADD, "fs_security_list_keys"),
            "replace" => (&REPLACE, "fs_security_get_key_replace_challenge"),
            "unlock" => (&UNLOCK, "snapshot_get_status"),
            "lock" => (&LOCK, "snapshot_get_status"),
            _ => (&["keys"], "fs_security_list_keys"),
        };
        [Signal::INT, Signal::TERM]
            .map(|signal| {
                let mock = mock();
                mock.fault(hanging, "hang");
                // Whatever ends beside it must not decide which call is named.
                mock.fault("fs_security_list_keys", "hang");
                mock.fault("snapshot_get_unlock_challenge", "hang");
                let run = interrupted(&mock, args, signal);
                let expected = if signal == Signal::INT { 130 } else { 143 };
                assert_eq!(run.code, expected, "{run:?}");
                for submission in [
                    "fs_security_add_key",
                    "fs_security_replace_key",
                    "snapshot_unlock_snapshot",
                    "snapshot_lock_snapshot",
                ] {
                    assert_eq!(mock.count(submission), 0);
                }
                filtered(&run)
            })
            .concat()
    });
    assert_data_eq!(
        said,
        str![[r#"
==== add
--- exit 130
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
--- exit 143
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
==== replace
--- exit 130
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
--- exit 143
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
==== unlock
--- exit 130
error: interrupted during the request to read snapshot 2
hint: nothing was submitted by this step; run this again
--- exit 143
error: interrupted during the request to read snapshot 2
hint: nothing was submitted by this step; run this again
==== lock
--- exit 130
error: interrupted during the request to read snapshot 3
hint: nothing was submitted by this step; run this again
--- exit 143
error: interrupted during the request to read snapshot 3
hint: nothing was submitted by this step; run this again
==== keys
--- exit 130
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
--- exit 143
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again

"#]]
        .raw()
    );
}

#[test]
fn signal_during_submission_says_how_to_check() {
    let said = side_by_side(&["add", "replace", "unlock", "lock"], |command| {
        let (args, submission): (&[&str], _) = match command {
            "add" => (&ADD, "fs_security_add_key"),
            "replace" => (&REPLACE, "fs_security_replace_key"),
            "unlock" => (&UNLOCK, "snapshot_unlock_snapshot"),
            _ => (&LOCK, "snapshot_lock_snapshot"),
        };
        ["hang", "hang-after"]
            .map(|fault| {
                let mock = mock();
                mock.fault(submission, fault);
                let run = interrupted(&mock, args, Signal::INT);
                assert_eq!(mock.count(submission), 1);
                let calls = mock.calls().len();
                assert!(calls <= 5, "one read follows a signal: {calls} calls");
                let again = Qkey::with_mock(&mock).run(args);
                assert_eq!(again.code, 0, "{again:?}");
                let expected = if fault == "hang" { 2 } else { 1 };
                assert_eq!(mock.count(submission), expected);
                filtered(&run)
            })
            .concat()
    });
    assert_data_eq!(said, str![[r#"
==== add
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to add key "new": not done so far, and may still be
  caused by: interrupted during the request to store key "new"
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
Stored key 2 ("new") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
warning: no reply to the request to add key "new" (interrupted during the request to store key "new"); checked: it was done
==== replace
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: interrupted during the request to replace key 1
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
Replaced key 1 ("lock-2026").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
warning: no reply to the request to replace key 1 ("lock-2026") (interrupted during the request to replace key 1); checked: it was done
==== unlock
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: interrupted during the request to unlock snapshot 2
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
Unlocked snapshot 2 ("2_quarter_end") with key 1 ("lock-2026").
--- exit 0
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
warning: no reply to the request to unlock snapshot 2 ("2_quarter_end") (interrupted during the request to unlock snapshot 2); checked: it was done
==== lock
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to lock snapshot 3 ("3_nightly_projects"): not done so far, and may still be
  caused by: interrupted during the request to lock snapshot 3
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=3` shows whether it was done; rerunning is safe: qkey looks first
Locked snapshot 3 ("3_nightly_projects") with key 1 ("lock-2026").
--- exit 0
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
warning: no reply to the request to lock snapshot 3 ("3_nightly_projects") (interrupted during the request to lock snapshot 3); checked: it was done

"#]].raw());
}

#[test]
fn sigterm_during_submission_exits_143_terminated() {
    let mock = mock();
    mock.fault("fs_security_replace_key", "hang-after");
    let args = [&REPLACE[..], &["--output=json"]].concat();
    let run = interrupted(&mock, &args, Signal::TERM);
    assert_data_eq!(filtered(&run), str![[r#"
{"action":"replace","changed":true,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"","disabled":false,"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"},"old_key":{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"},"new_key":{"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"}}
--- exit 0
{"log":{"level":"warning","message":"no reply to the request to replace key 1 (\"lock-2026\") (interrupted during the request to replace key 1); checked: it was done"}}

"#]].raw());
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn signal_during_lookup_says_how_to_check() {
    let mock = mock();
    mock.fault("fs_security_replace_key", "drop-after");
    mock.fault("fs_security_list_keys", "");
    mock.fault("fs_security_list_keys", "hang");
    let run = interrupted(&mock, &REPLACE, Signal::INT);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: the request to replace key 1 ("lock-2026") was sent, but the result could not be confirmed
  caused by: lost the connection to cluster:8000 during the request to replace key 1: Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
    assert_eq!(mock.count("fs_security_replace_key"), 1);
}

#[test]
fn signal_during_refusal_check_keeps_its_exit_code() {
    let said = side_by_side(&["replace", "unlock"], |command| {
        let (args, submission, look): (&[&str], _, _) = match command {
            "replace" => (&REPLACE, "fs_security_replace_key", "fs_security_list_keys"),
            _ => (&UNLOCK, "snapshot_unlock_snapshot", "snapshot_get_status"),
        };
        let mock = mock();
        mock.fault(submission, "stale");
        mock.fault(look, "");
        mock.fault(look, "hang");
        let run = interrupted(&mock, args, Signal::INT);
        assert_eq!(mock.count(submission), 1);
        filtered(&run)
    });
    assert_data_eq!(said, str![[r#"
==== replace
--- exit 130
error: interrupted after the cluster refused
  caused by: cluster:8000 refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
==== unlock
--- exit 130
error: interrupted after the cluster refused
  caused by: cluster:8000 refused to unlock snapshot 2
  caused by: Error 400: invalid_request_error: The signature does not match the challenge.

"#]].raw());
}

#[test]
fn signal_among_several_snapshots_reports_each() {
    let mock = mock();
    mock.set_snapshot_field(1, "lock_key", "1");
    let hook = r#"case "$*" in *unlock_snapshot*--id=2*)
        echo $$ >>"$QQ_MOCK_STATE/sleepers"
        exec sleep 300
    esac"#;
    let qkey = Qkey::with_mock(&mock).between(&mock, hook);
    let child = start(&qkey, &["unlock", "--id=1", "--id=2", "--key=alice.pem"]);
    wait_until("a qq that hangs", || !mock.sleepers().is_empty());
    wait_until("the first snapshot's unlocking", || {
        mock.lock_key(1).is_none()
    });
    wait_until("the end of the first snapshot's qq", || {
        children(child.id()).len() == 1
    });
    send(&child, Signal::INT);
    let run = end(&qkey, child);
    expect_no_sleepers(&mock);
    assert_data_eq!(filtered(&run), str![[r#"
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked 1, already unlocked 0, failed 1.
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: interrupted during the request to unlock snapshot 2
hint: keep every key; `[DIR]/qq-between --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
error: interrupted after 1 of 2 snapshots
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]].raw());
}

#[test]
fn signal_starts_no_further_snapshot() {
    let mock = mock();
    mock.fault("snapshot_get_status", "always hang");
    mock.fault("snapshot_get_unlock_challenge", "always hang");
    let ids: Vec<String> = (101..=400).map(|id| format!("--id={id}")).collect();
    let mut args = vec!["unlock", "--key=alice.pem", "--output=json"];
    args.extend(ids.iter().map(String::as_str));
    let run = interrupted(&mock, &args, Signal::INT);
    assert_eq!(run.code, 130);
    let last = run.stdout.lines().last().unwrap_or_default();
    let summary: serde_json::Value = serde_json::from_str(last).expect("a summary in JSON");
    let number = |field: &str| summary["summary"][field].as_u64().expect("a number");
    assert_eq!(number("asked"), 300);
    assert_eq!(number("changed") + number("unchanged"), 0);
    assert_eq!(number("failed") + number("not_tried"), 300);
    assert!(number("failed") < 300, "{summary}");
    assert!(mock.count("snapshot_get_status") as u64 <= number("failed"));
}

#[test]
fn qq_that_ignores_sigterm_is_killed() {
    let mock = mock();
    let hook = r#"trap '' TERM INT
        echo $$ >>"$QQ_MOCK_STATE/sleepers"
        exec sleep 300"#;
    let qkey = Qkey::with_mock(&mock).between(&mock, hook);
    let child = start(&qkey, &["keys"]);
    wait_until("a qq that hangs", || !mock.sleepers().is_empty());
    send(&child, Signal::TERM);
    let run = end(&qkey, child);
    expect_no_sleepers(&mock);
    assert_data_eq!(
        filtered(&run),
        str![[r#"
--- exit 143
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again

"#]]
        .raw()
    );
}

#[test]
fn signal_ends_qq_and_its_children() {
    let mock = mock();
    mock.fault("fs_security_list_keys", "hang-with-grandchild-and-stay");
    let qkey = Qkey::with_mock(&mock);
    let child = start(&qkey, &["keys"]);
    wait_until("both sleepers", || mock.sleepers().len() == 2);
    send(&child, Signal::INT);
    assert_eq!(end(&qkey, child).code, 130);
    expect_no_sleepers(&mock);
}

#[test]
fn interrupt_while_reading_key_fifo_exits_130() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    make_fifo(&qkey);
    let child = start(&qkey, &["add", "--name=new", "--key=key.fifo"]);
    wait_until("the end of qq", || {
        mock.count("fs_security_list_keys") == 1 && children(child.id()).is_empty()
    });
    send(&child, Signal::INT);
    let run = end(&qkey, child);
    assert_eq!(mock.count("fs_security_add_key"), 0);
    assert_eq!(run.code, 130);
    assert!(run.stderr.starts_with("error: "), "{run:?}");
}

#[test]
fn second_signal_ends_qkey_at_once() {
    let mock = mock();
    mock.fault("fs_security_list_keys", "hang");
    let qkey = Qkey::with_mock(&mock);
    let mut child = qkey
        .command(["add", "--name=new", "--key=-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("qkey runs");
    let stdin = child.stdin.take();
    wait_until("a qq that hangs", || !mock.sleepers().is_empty());
    send(&child, Signal::INT);
    expect_no_sleepers(&mock);
    // The key is still being read: the first signal alone would end in 130.
    if is_alive(child.id()) {
        send(&child, Signal::TERM);
    }
    let code = end(&qkey, child).code;
    drop(stdin);
    assert!([130, 143].contains(&code), "{code}");
}

#[test]
fn signal_before_submission_prevents_it() {
    let mock = mock();
    // Answers as soon as qkey has noticed the signal.
    let hook = r#"case "$*" in *fs_security_list_keys*)
        trap 'answer=yes' TERM
        sleep 300 &
        echo $! >>"$QQ_MOCK_STATE/sleepers"
        wait
        echo '{"entries": []}'
        exit 0
    esac"#;
    let qkey = Qkey::with_mock(&mock).between(&mock, hook);
    let child = start(&qkey, &ADD);
    wait_until("a qq that waits", || !mock.sleepers().is_empty());
    send(&child, Signal::INT);
    let run = end(&qkey, child);
    expect_no_sleepers(&mock);
    assert_eq!(run.code, 130);
    assert_eq!(mock.count("fs_security_add_key"), 0);
    assert!(!run.stderr.contains("could not be confirmed"), "{run:?}");
}

fn make_fifo(qkey: &Qkey) {
    let status = Command::new("mkfifo").arg(qkey.path("key.fifo")).status();
    assert!(status.expect("mkfifo runs").success());
}

/// The processes that a process has started and not reaped.
fn children(pid: u32) -> Vec<String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|pids| {
            pids.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Sends a first signal, and a second one once `qkey` has said that it waits.
fn end_with_two(qkey: &Qkey, mut child: Child, first: Signal, second: Signal) -> Run {
    send(&child, first);
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut said = Vec::new();
    while !said.ends_with(b"\n") || !String::from_utf8_lossy(&said).contains("stopping; waiting") {
        let length = stderr.read_until(b'\n', &mut said).expect("UTF-8");
        assert!(length > 0, "{}", String::from_utf8_lossy(&said));
    }
    send(&child, second);
    stderr.read_to_end(&mut said).expect("the rest");
    let mut output = child.wait_with_output().expect("qkey ends");
    output.stderr = said;
    qkey.taken(&output)
}

#[test]
fn second_signal_during_submission_says_how_to_check() {
    let mock = mock();
    mock.fault("fs_security_replace_key", "hang");
    let qkey = Qkey::with_mock(&mock);
    let child = start(&qkey, &REPLACE);
    wait_until("a qq that hangs", || !mock.sleepers().is_empty());
    let run = end_with_two(&qkey, child, Signal::INT, Signal::INT);
    expect_no_sleepers(&mock);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: the request to replace key 1 ("lock-2026") was sent, but the result could not be confirmed
  caused by: interrupted
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
}

/// A cluster in which six snapshots are locked.
fn six_locked() -> Mock {
    let mock = mock();
    for id in 1..=3 {
        mock.set_snapshot_field(id, "lock_key", "1");
    }
    for id in 4..=6 {
        mock.add_snapshot(id, &format!("{id}_daily"), None);
        mock.set_snapshot_field(id, "lock_key", "1");
    }
    mock
}

const UNLOCK_SIX: [&str; 4] = ["unlock", "--ids-from=ids", "--key=alice.pem", "--jobs=2"];

#[test]
fn second_signal_reports_every_snapshot() {
    let mock = six_locked();
    let hook = r#"case "$*" in *unlock_snapshot*--id=6*)
        echo $$ >>"$QQ_MOCK_STATE/sleepers"
        exec sleep 300
    esac"#;
    let qkey = Qkey::with_mock(&mock).between(&mock, hook);
    qkey.write("ids", "1\n2\n3\n4\n5\n6\n");
    let child = start(&qkey, &UNLOCK_SIX);
    wait_until("a qq that hangs", || !mock.sleepers().is_empty());
    wait_until("all others", || {
        (1..=5).all(|id| mock.lock_key(id).is_none())
    });
    wait_until("the end of the others", || children(child.id()).len() == 1);
    let run = end_with_two(&qkey, child, Signal::INT, Signal::TERM);
    expect_no_sleepers(&mock);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 143
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: interrupted; accepted by the cluster, not confirmed: 1-5; sent, result unknown: 6
hint: `[DIR]/qq-between --host=cluster snapshot_list_statuses --only-locked` shows what is locked; rerunning is safe: qkey looks first

"#]].raw());
}

#[test]
fn signal_reports_untried_snapshots_without_failures() {
    let mock = six_locked();
    let hook = r#"case "$*" in *unlock_snapshot*--id=1*)
        echo $$ >>"$QQ_MOCK_STATE/sleepers"
        until [ -e go ]; do sleep .02; done
    esac"#;
    let qkey = Qkey::with_mock(&mock).between(&mock, hook);
    let args = [
        "unlock",
        "--id=1",
        "--id=2",
        "--id=3",
        "--key=alice.pem",
        "--jobs=1",
    ];
    let mut child = start(&qkey, &args);
    wait_until("a qq that waits", || !mock.sleepers().is_empty());
    send(&child, Signal::INT);
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut said = Vec::new();
    stderr.read_until(b'\n', &mut said).expect("that it waits");
    qkey.write("go", "");
    stderr.read_to_end(&mut said).expect("the rest");
    let mut output = child.wait_with_output().expect("qkey ends");
    output.stderr = said;
    assert_data_eq!(
        filtered(&qkey.taken(&output)),
        str![[r#"
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked 1, already unlocked 0, failed 0, not tried 2.
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: interrupted after 1 of 3 snapshots
hint: rerunning is safe: what is already unlocked is left alone

"#]]
        .raw()
    );
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
}

#[test]
fn full_stderr_pipe_does_not_block_signals() {
    for output in ["text", "json"] {
        let mock = mock();
        mock.fault("snapshot_unlock_snapshot", "hang");
        let qkey = Qkey::with_mock(&mock);
        let (_reader, mut writer) = std::io::pipe().expect("a pipe");
        fcntl_setfl(&writer, OFlags::NONBLOCK).expect("a flag");
        while writer.write(&[b' '; 4096]).is_ok() {}
        fcntl_setfl(&writer, OFlags::empty()).expect("no flag");
        let mut command = qkey.command([&UNLOCK[..], &["--output", output]].concat());
        let mut child = command.stderr(writer).spawn().expect("qkey runs");
        wait_until("a qq that hangs", || !mock.sleepers().is_empty());
        send(&child, Signal::INT);
        send(&child, Signal::TERM);
        let status = child.wait().expect("qkey ends");
        assert!(matches!(status.code(), Some(130 | 143)), "{status:?}");
        expect_no_sleepers(&mock);
    }
}

#[test]
fn two_simultaneous_signals_never_hide_results() {
    let counts = ["0", "1", "2", "3", "4", "5", "6"];
    side_by_side(&counts, |count| {
        let count: usize = count.parse().expect("a number");
        let mock = six_locked();
        let qkey = Qkey::with_mock(&mock);
        qkey.write("ids", "1\n2\n3\n4\n5\n6\n");
        let child = start(&qkey, &UNLOCK_SIX);
        let unlocked = || (1..=6).filter(|id| mock.lock_key(*id).is_none());
        wait_until("some", || unlocked().count() >= count);
        send(&child, Signal::INT);
        send(&child, Signal::TERM);
        let run = end(&qkey, child);
        for id in unlocked() {
            let told = format!("{}{}", run.stdout, run.stderr);
            assert!(
                told.contains(&format!("snapshot {id} ")) || in_ranges(&told, id),
                "{id}: {run:?}"
            );
        }
        String::new()
    });
}

/// Whether last words such as `accepted by the cluster, not confirmed: 1-3, 5;` name this snapshot as
/// one that may be unlocked.
fn in_ranges(told: &str, id: u64) -> bool {
    let lists = told.split("; ").filter_map(|part| part.split_once(": "));
    let mut sent = lists.filter(|(what, _)| {
        ["unlocked", "not confirmed", "result unknown"]
            .iter()
            .any(|end| what.ends_with(end))
    });
    sent.any(|(_, ids)| {
        ids.lines()
            .next()
            .unwrap_or_default()
            .split(", ")
            .any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let number = |text: &str| text.trim().parse().unwrap_or(0);
                (number(first)..=number(last)).contains(&id)
            })
    })
}

#[test]
fn sighup_during_submission_exits_143() {
    let mock = mock();
    mock.fault("snapshot_unlock_snapshot", "hang");
    let run = interrupted(&mock, &UNLOCK, Signal::HUP);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 143
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: interrupted during the request to unlock snapshot 2
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
    assert_eq!(mock.count("snapshot_unlock_snapshot"), 1);
}

#[test]
fn inherited_ignored_signals_stay_ignored() {
    let mock = mock();
    // Answers once the signals have been sent.
    let hook = r#"case "$*" in *fs_security_list_keys*)
        : >"$QQ_MOCK_STATE/asked"
        while ! [ -e "$QQ_MOCK_STATE/sent" ]; do sleep 0.05; done
    esac"#;
    let qkey = Qkey::with_mock(&mock).between(&mock, hook);
    let child = shell::command(
        &qkey,
        "trap '' INT HUP; exec qkey add --name=new --key=carol.pem",
    )
    .spawn()
    .expect("sh runs");
    wait_until("a qq that waits", || mock.state().join("asked").exists());
    send(&child, Signal::INT);
    send(&child, Signal::HUP);
    fs::write(mock.state().join("sent"), "").expect("a file");
    let run = end(&qkey, child);
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    assert_eq!(mock.count("fs_security_add_key"), 1);
}

#[test]
fn sigterm_counts_beside_ignored_signals() {
    let mock = mock();
    mock.fault("fs_security_add_key", "hang");
    let qkey = Qkey::with_mock(&mock);
    let child = shell::command(
        &qkey,
        "trap '' INT HUP; exec qkey add --name=new --key=carol.pem",
    )
    .spawn()
    .expect("sh runs");
    wait_until("a qq that hangs", || !mock.sleepers().is_empty());
    send(&child, Signal::TERM);
    let run = end(&qkey, child);
    expect_no_sleepers(&mock);
    assert_eq!(run.code, 143, "{run:?}");
    assert!(run.stderr.contains("not done so far"), "{run:?}");
}

#[test]
fn interrupt_while_reading_config_fifo_exits_130() {
    let said = side_by_side(&["INT", "TERM"], |name| {
        let (signal, mask) = match name {
            "INT" => (Signal::INT, 1 << 1),
            _ => (Signal::TERM, 1 << 14),
        };
        let qkey = Qkey::new();
        make_fifo(&qkey);
        let child = start(&qkey, &["config", "show", "--config=key.fifo"]);
        wait_until("a qkey that watches for signals", || {
            caught_signals(child.id()) & mask != 0
        });
        send(&child, signal);
        filtered(&end(&qkey, child))
    });
    assert_data_eq!(
        said,
        str![[r#"
==== INT
--- exit 130
error: cannot read the configuration file key.fifo
  caused by: interrupted by a signal
==== TERM
--- exit 143
error: cannot read the configuration file key.fifo
  caused by: interrupted by a signal

"#]]
        .raw()
    );
}

/// The signals that a process has a handler for, a bit each, from the lowest.
fn caught_signals(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}
