//! SIGINT, SIGTERM and SIGHUP while `qkey` works through `qq`; over REST in `rest.rs`.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
};

use crate::support::{
    ceremony::{ADD, LOCK, REPLACE, UNLOCK, mock, qq_command, submissions},
    mock::Mock,
    qkey::{Qkey, Run, expect_no_sleepers, is_alive, send, side_by_side, wait_until},
    shell,
    snapshot::{filtered, snapshot, table},
};
use rustix::{
    fs::{OFlags, fcntl_setfl},
    process::Signal,
};
use snapbox::str;

fn wait_for_hanging_qq(mock: &Mock) {
    wait_until("a qq that hangs", || !mock.sleepers().is_empty());
}

/// Runs a command line, sends it a signal once the mock hangs, and expects that nothing is left.
fn interrupted(mock: &Mock, line: &str, signal: Signal) -> Run {
    interrupted_qkey(mock, &Qkey::with_mock(mock), line, signal)
}

fn interrupted_qkey(mock: &Mock, qkey: &Qkey, line: &str, signal: Signal) -> Run {
    let child = qkey.start(line);
    wait_for_hanging_qq(mock);
    send(&child, signal);
    let run = qkey.end(child);
    expect_no_sleepers(mock);
    run
}

/// A hook that hangs in the calls that match a pattern of the shell.
fn hang_at(pattern: &str) -> String {
    format!(
        "case \"$*\" in {pattern}) echo $$ >>\"$QQ_MOCK_STATE/sleepers\"; exec sleep 300;; esac"
    )
}

#[test]
fn signal_during_first_reads_sends_nothing() {
    let said = table([ADD, REPLACE, UNLOCK, LOCK, "keys"], |line| {
        let mock = mock();
        // All reads hang, so that none of them ends before the others are interrupted.
        for read in [
            "fs_security_list_keys",
            "fs_security_get_key_replace_challenge",
            "snapshot_get_status",
            "snapshot_get_unlock_challenge",
        ] {
            mock.fault(read, "hang");
        }
        let signal = if *line == REPLACE {
            Signal::TERM
        } else {
            Signal::INT
        };
        let run = interrupted(&mock, line, signal);
        assert_eq!(submissions(&mock), 0);
        filtered(&run)
    });
    snapshot!(
        said,
        str![[r#"
==== add --name=new --key=carol.pem
--- exit 130
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
==== replace -k1 --old-key=alice.pem --new-key=bob.pem
--- exit 143
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
==== unlock --id=2 --key=alice.pem
--- exit 130
error: interrupted during the request to read snapshot 2
hint: nothing was submitted by this step; run this again
==== lock --id=3 --lock-key=1
--- exit 130
error: interrupted during the request to read snapshot 3
hint: nothing was submitted by this step; run this again
==== keys
--- exit 130
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again

"#]]
    );
}

#[test]
fn signal_during_submission_is_followed_by_one_lookup() {
    // Each waits for its lookup.
    let said = side_by_side(&["hang", "hang-after", "SIGHUP"], |case| {
        let (operation, ceremony, fault, signal) = match case {
            "hang" => ("replace_key", REPLACE, case, Signal::INT),
            "hang-after" => ("replace_key", REPLACE, case, Signal::TERM),
            _ => ("unlock", UNLOCK, "hang", Signal::HUP),
        };
        let mock = mock();
        mock.fault(qq_command(operation), fault);
        let run = interrupted(&mock, ceremony, signal);
        assert_eq!(mock.count(qq_command(operation)), 1);
        assert!(mock.calls().len() <= 5, "one read follows");
        filtered(&run)
    });
    snapshot!(
        said,
        str![[r#"
==== hang
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: interrupted during the request to replace key 1
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== hang-after
Replaced key 1 ("lock-2026").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
warning: no reply to the request to replace key 1 ("lock-2026") (interrupted during the request to replace key 1); checked: it was done
==== SIGHUP
--- exit 143
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: interrupted during the request to unlock snapshot 2
hint: keep every key; `[QQ] --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first

"#]]
    );
}

#[test]
fn signal_during_lookup_says_how_to_check() {
    let mock = mock();
    mock.fault("fs_security_replace_key", "drop-after");
    mock.fault("fs_security_list_keys", "");
    mock.fault("fs_security_list_keys", "hang");
    let run = interrupted(&mock, REPLACE, Signal::INT);
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: the request to replace key 1 ("lock-2026") was sent, but the result could not be confirmed
  caused by: lost the connection to cluster:8000 during the request to replace key 1: Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]]
    );
    assert_eq!(mock.count("fs_security_replace_key"), 1);
}

#[test]
fn signal_during_refusal_check_keeps_its_exit_code() {
    let cases = [
        ("replace_key", REPLACE, "fs_security_list_keys"),
        ("unlock", UNLOCK, "snapshot_get_status"),
    ];
    let said = cases.map(|(operation, ceremony, look)| {
        let mock = mock();
        mock.fault(qq_command(operation), "stale");
        mock.fault(look, "");
        mock.fault(look, "hang");
        let run = interrupted(&mock, ceremony, Signal::INT);
        assert_eq!(mock.count(qq_command(operation)), 1);
        filtered(&run)
    });
    snapshot!(
        said.concat(),
        str![[r#"
--- exit 130
error: interrupted after the cluster refused
  caused by: cluster:8000 refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
--- exit 130
error: interrupted after the cluster refused
  caused by: cluster:8000 refused to unlock snapshot 2
  caused by: Error 400: invalid_request_error: The signature does not match the challenge.

"#]]
    );
}

#[test]
fn signal_among_several_snapshots_reports_each() {
    let mock = mock();
    mock.set_snapshot_field(1, "lock_key", "1");
    let hook = hang_at("*unlock_snapshot*--id=2*");
    let qkey = Qkey::with_mock(&mock).between(&mock, &hook);
    let child = qkey.start("unlock --id=1 --id=2 --key=alice.pem");
    wait_for_hanging_qq(&mock);
    wait_until("the end of the first snapshot's qq", || {
        mock.lock_key(1).is_none() && children(child.id()).len() == 1
    });
    send(&child, Signal::INT);
    let run = qkey.end(child);
    expect_no_sleepers(&mock);
    snapshot!(
        filtered(&run),
        str![[r#"
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked 1, already unlocked 0, failed 1.
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to unlock snapshot 2 ("2_quarter_end"): not done so far, and may still be
  caused by: interrupted during the request to unlock snapshot 2
hint: keep every key; `[DIR]/qq-between --host=cluster snapshot_get_status --id=2` shows whether it was done; rerunning is safe: qkey looks first
error: interrupted after 1 of 2 snapshots
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
}

#[test]
fn signal_starts_no_further_snapshot() {
    let mock = mock();
    mock.fault("snapshot_get_status", "always hang");
    mock.fault("snapshot_get_unlock_challenge", "always hang");
    let ids: String = (101..=400).map(|id| format!(" --id={id}")).collect();
    let line = format!("unlock --key=alice.pem --output=json{ids}");
    let run = interrupted(&mock, &line, Signal::INT);
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
fn signal_ends_qq_and_its_children() {
    let mock = mock();
    mock.fault("fs_security_list_keys", "hang-with-grandchild-and-stay");
    let qkey = Qkey::with_mock(&mock);
    let child = qkey.start("keys");
    wait_until("both sleepers", || mock.sleepers().len() == 2);
    send(&child, Signal::INT);
    assert_eq!(qkey.end(child).code, 130);
    expect_no_sleepers(&mock);
    // SIGKILL ends one that ignores other signals.
    let mock = self::mock();
    let hook = format!("trap '' TERM INT\n{}", hang_at("*"));
    let qkey = Qkey::with_mock(&mock).between(&mock, &hook);
    assert_eq!(
        interrupted_qkey(&mock, &qkey, "keys", Signal::TERM).code,
        143
    );
}

#[test]
fn interrupt_while_reading_key_fifo_exits_130() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    make_fifo(&qkey);
    let child = qkey.start("add --name=new --key=key.fifo");
    wait_until("the end of qq", || {
        mock.count("fs_security_list_keys") == 1 && children(child.id()).is_empty()
    });
    send(&child, Signal::INT);
    let run = qkey.end(child);
    assert_eq!(submissions(&mock), 0);
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
    wait_for_hanging_qq(&mock);
    send(&child, Signal::INT);
    expect_no_sleepers(&mock);
    // The key is still being read: the first signal alone would end in 130.
    if is_alive(child.id()) {
        send(&child, Signal::TERM);
    }
    let code = qkey.end(child).code;
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
    let child = qkey.start(ADD);
    wait_for_hanging_qq(&mock);
    send(&child, Signal::INT);
    let run = qkey.end(child);
    expect_no_sleepers(&mock);
    assert_eq!(run.code, 130);
    assert_eq!(submissions(&mock), 0);
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

/// Reads stderr up to the line in which `qkey` says that it waits, does something, and reads the rest.
fn once_it_waits(qkey: &Qkey, mut child: Child, then: impl FnOnce(&Child)) -> Run {
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("stopping; waiting") {
        let length = stderr.read_until(b'\n', &mut said).expect("UTF-8");
        assert!(length > 0, "{}", String::from_utf8_lossy(&said));
    }
    then(&child);
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
    let child = qkey.start(REPLACE);
    wait_for_hanging_qq(&mock);
    send(&child, Signal::INT);
    let run = once_it_waits(&qkey, child, |child| send(child, Signal::INT));
    expect_no_sleepers(&mock);
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: the request to replace key 1 ("lock-2026") was sent, but the result could not be confirmed
  caused by: interrupted
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]]
    );
}

/// A cluster in which six snapshots are locked.
fn six_locked() -> Mock {
    let mock = mock();
    for id in 1..=6 {
        if id > 3 {
            mock.add_snapshot(id, &format!("{id}_daily"), None);
        }
        mock.set_snapshot_field(id, "lock_key", "1");
    }
    mock
}

const UNLOCK_SIX: &str = "unlock --ids-from=ids --key=alice.pem --jobs=2";

#[test]
fn second_signal_reports_every_snapshot() {
    let mock = six_locked();
    let hook = hang_at("*unlock_snapshot*--id=6*");
    let qkey = Qkey::with_mock(&mock).between(&mock, &hook);
    qkey.write("ids", "1\n2\n3\n4\n5\n6\n");
    let child = qkey.start(UNLOCK_SIX);
    wait_for_hanging_qq(&mock);
    wait_until("the end of the others", || {
        (1..=5).all(|id| mock.lock_key(id).is_none()) && children(child.id()).len() == 1
    });
    send(&child, Signal::INT);
    let run = once_it_waits(&qkey, child, |child| send(child, Signal::TERM));
    expect_no_sleepers(&mock);
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 143
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: interrupted; accepted by the cluster, not confirmed: 1-5; sent, result unknown: 6
hint: `[DIR]/qq-between --host=cluster snapshot_list_statuses --only-locked` shows what is locked; rerunning is safe: qkey looks first

"#]]
    );
}

#[test]
fn signal_reports_untried_snapshots_without_failures() {
    let mock = six_locked();
    let hook = r#"case "$*" in *unlock_snapshot*--id=1*)
        echo $$ >>"$QQ_MOCK_STATE/sleepers"
        until [ -e go ]; do sleep .02; done
    esac"#;
    let qkey = Qkey::with_mock(&mock).between(&mock, hook);
    let child = qkey.start("unlock --id=1 --id=2 --id=3 --key=alice.pem --jobs=1");
    wait_for_hanging_qq(&mock);
    send(&child, Signal::INT);
    let run = once_it_waits(&qkey, child, |_| drop(qkey.write("go", "")));
    snapshot!(
        filtered(&run),
        str![[r#"
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock-2026").
Unlocked 1, already unlocked 0, failed 0, not tried 2.
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: interrupted after 1 of 3 snapshots
hint: rerunning is safe: what is already unlocked is left alone

"#]]
    );
    assert_eq!(submissions(&mock), 1);
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
        let line = format!("{UNLOCK} --output={output}");
        let mut command = qkey.command(line.split(' '));
        let mut child = command.stderr(writer).spawn().expect("qkey runs");
        wait_for_hanging_qq(&mock);
        send(&child, Signal::INT);
        send(&child, Signal::TERM);
        let status = child.wait().expect("qkey ends");
        assert!(matches!(status.code(), Some(130 | 143)), "{status:?}");
        expect_no_sleepers(&mock);
    }
}

#[test]
fn two_simultaneous_signals_never_hide_results() {
    let counts = ["0", "1", "3", "5", "6"];
    side_by_side(&counts, |count| {
        let count: usize = count.parse().expect("a number");
        let mock = six_locked();
        let qkey = Qkey::with_mock(&mock);
        qkey.write("ids", "1\n2\n3\n4\n5\n6\n");
        let child = qkey.start(UNLOCK_SIX);
        let unlocked = || (1..=6).filter(|id| mock.lock_key(*id).is_none());
        wait_until("some", || unlocked().count() >= count);
        send(&child, Signal::INT);
        send(&child, Signal::TERM);
        let run = qkey.end(child);
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
fn inherited_ignored_signals_stay_ignored() {
    let mock = mock();
    // Answers once the signals have been sent.
    let hook = r#"case "$*" in *fs_security_list_keys*)
        : >"$QQ_MOCK_STATE/asked"
        while ! [ -e "$QQ_MOCK_STATE/sent" ]; do sleep 0.05; done
    esac"#;
    let qkey = Qkey::with_mock(&mock).between(&mock, hook);
    let ignoring = |qkey: &Qkey| {
        let line = format!("trap '' INT HUP; exec qkey {ADD}");
        shell::command(qkey, &line).spawn().expect("sh runs")
    };
    let child = ignoring(&qkey);
    wait_until("a qq that waits", || mock.state().join("asked").exists());
    send(&child, Signal::INT);
    send(&child, Signal::HUP);
    fs::write(mock.state().join("sent"), "").expect("a file");
    let run = qkey.end(child);
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    assert_eq!(submissions(&mock), 1);
    // Beside them, SIGTERM is not ignored.
    let mock = self::mock();
    mock.fault("fs_security_add_key", "hang");
    let qkey = Qkey::with_mock(&mock);
    let child = ignoring(&qkey);
    wait_for_hanging_qq(&mock);
    send(&child, Signal::TERM);
    assert_eq!(qkey.end(child).code, 143);
    expect_no_sleepers(&mock);
}

#[test]
fn interrupt_while_reading_config_fifo_exits_130() {
    let said = [Signal::INT, Signal::TERM].map(|signal| {
        let qkey = Qkey::new();
        make_fifo(&qkey);
        let child = qkey.start("config show --config=key.fifo");
        wait_until("a qkey that watches for signals", || {
            caught_signals(child.id()) & 1 << (signal.as_raw() - 1) != 0
        });
        send(&child, signal);
        filtered(&qkey.end(child))
    });
    snapshot!(
        said.concat(),
        str![[r#"
--- exit 130
error: cannot read the configuration file key.fifo
  caused by: interrupted by a signal
--- exit 143
error: cannot read the configuration file key.fifo
  caused by: interrupted by a signal

"#]]
    );
}

/// The signals that a process has a handler for, a bit each, from the lowest.
fn caught_signals(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}
