//! How `qkey` runs `qq`, and what it makes of a `qq` that fails in any way in which a program can.
//! Failures during a submission are in `transports.rs`.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use crate::support::{
    ceremony::{CEREMONIES, LOCK, REPLACE, mock, submissions},
    core::{Core, qq},
    mock::Mock,
    qkey::{
        ALICE, ALICE_PUBLIC, BOB_PUBLIC, CAROL_PUBLIC, Qkey, expect_no_sleepers, side_by_side,
        timeout_for, wait_until,
    },
    snapshot::{filtered, qkey_snapshot, session, snapshot, table},
};
use serde_json::json;
use snapbox::str;

#[test]
fn qq_failures_are_distinguished() {
    let faults = [
        "traceback",
        "garbage",
        "huge",
        "hang",
        "hang-with-grandchild-and-stay",
        "kill-9",
        "exit 3 out of luck",
        "exit 127 python3: not found",
        "status 409 fs_entry_exists_error It exists.",
        "status 504 proxy_error Gateway time-out.",
        "timeout-before",
        "status 503 busy_error Try again later.",
        "drop-before",
        "refused-connection",
    ];
    let said = side_by_side(&faults, |fault| {
        let mock = mock();
        mock.fault("fs_security_list_keys", &format!("always {fault}"));
        let run = Qkey::with_mock(&mock).run(["keys", timeout_for(fault)]);
        expect_no_sleepers(&mock);
        // The last three may be over soon.
        let times = if faults[11..].contains(&fault) { 3 } else { 1 };
        assert_eq!(mock.count("fs_security_list_keys"), times, "{fault}");
        filtered(&run)
    });
    snapshot!(
        said,
        str![[r#"
==== traceback
--- exit 7
error: unexpected reply from cluster:8000 to the request to list the lock keys
  caused by: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
hint: check --host and --port: a proxy or another service may respond there
==== garbage
--- exit 7
error: unexpected reply from cluster:8000 to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: <html> This is not what you are looking for.
hint: check that `[QQ] --host=cluster fs_security_list_keys --help` works; if it does, run this again with -vv and report the output
==== huge
--- exit 7
error: the reply from cluster:8000 is too large: the key list is larger than 8 MiB
hint: a cluster sends far less; check --host and --port: a proxy or another service may respond there
==== hang
--- exit 7
error: qq failed to list the lock keys
  caused by: `[QQ]` did not finish within 4 s and was killed
hint: check whether the cluster responds, or give it more time with --timeout SECONDS
==== hang-with-grandchild-and-stay
--- exit 7
error: qq failed to list the lock keys
  caused by: `[QQ]` did not finish within 4 s and was killed
hint: check whether the cluster responds, or give it more time with --timeout SECONDS
==== kill-9
--- exit 7
error: qq failed to list the lock keys
  caused by: `[QQ]` was killed by signal 9
hint: find out what killed it (out of memory? a limit? an administrator?), then run this again
==== exit 3 out of luck
--- exit 7
error: qq failed to list the lock keys
  caused by: `[QQ]` exited with 3: out of luck
hint: check that `[QQ] --host=cluster fs_security_list_keys --help` works; if it does, run this again with -vv and report the output
==== exit 127 python3: not found
--- exit 7
error: qq failed to list the lock keys
  caused by: `[QQ]` exited with 127: python3: not found
hint: check that `[QQ] --host=cluster fs_security_list_keys --help` works; if it does, run this again with -vv and report the output
==== status 409 fs_entry_exists_error It exists.
--- exit 5
error: cluster:8000 refused to list the lock keys
  caused by: Error 409: fs_entry_exists_error: It exists.
hint: nothing was changed; fix what the cluster reports, then run this again
==== status 504 proxy_error Gateway time-out.
--- exit 7
error: cluster:8000 failed to list the lock keys
  caused by: Error 504: proxy_error: Gateway time-out.
hint: the cluster, or a proxy in front of it, is not ready; try again later
==== timeout-before
--- exit 7
error: lost the connection to cluster:8000 during the request to list the lock keys: The read operation timed out
hint: check whether the cluster is up, and whether a proxy or firewall cuts connections
==== status 503 busy_error Try again later.
--- exit 7
error: cluster:8000 failed to list the lock keys
  caused by: Error 503: busy_error: Try again later.
hint: the cluster, or a proxy in front of it, is not ready; try again later
==== drop-before
--- exit 7
error: lost the connection to cluster:8000 during the request to list the lock keys: Remote end closed connection without response
hint: check whether the cluster is up, and whether a proxy or firewall cuts connections
==== refused-connection
--- exit 7
error: cannot reach cluster:8000: [Errno 111] Connection refused
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
    );
    let mock = mock();
    mock.fault("fs_security_list_keys", "kill-9");
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        ["keys", "--output=json"],
        str![[r#"
--- exit 7
{"error":{"kind":"unreachable","message":"qq failed to list the lock keys","causes":["`[QQ]` was killed by signal 9"],"hint":"find out what killed it (out of memory? a limit? an administrator?), then run this again","exit_code":7}}

"#]]
    );
}

/// Runs the ceremonies, all of which succeed without a word on stderr, with this many calls of `qq`.
fn expect_all_done(mock: &Mock, qkey: &Qkey, calls: usize) {
    for (operation, ceremony) in CEREMONIES {
        let run = qkey.line(ceremony);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{operation}: {run:?}");
    }
    assert_eq!(mock.key_ids(), ["1", "2"]);
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    assert_eq!(mock.lock_key(2), None);
    assert_eq!(mock.lock_key(3).as_deref(), Some("1"));
    let calls_made = mock.calls();
    assert_eq!(calls_made.len(), calls, "{calls_made:?}");
    assert!(calls_made.iter().flatten().all(|arg| arg != "--version"));
}

#[test]
fn warnings_of_python_are_ignored() {
    let mock = mock();
    let warn = "echo 'x.py:1: DeprecationWarning: old' >&2";
    let qkey = Qkey::with_mock(&mock).between(&mock, warn);
    expect_all_done(&mock, &qkey, 3 + 4 + 5 + 4);
    let fault = "status 404 fs_no_such_entry_error Not there.";
    mock.fault("fs_security_list_keys", fault);
    qkey_snapshot!(
        qkey,
        ["keys"],
        str![[r#"
--- exit 5
error: cluster:8000 refused to list the lock keys
  caused by: Error 404: fs_no_such_entry_error: Not there.
hint: `[DIR]/qq-between --host=cluster fs_security_list_keys` shows what exists

"#]]
    );
}

#[test]
fn stdout_flood_is_capped() {
    let mock = mock();
    mock.fault("fs_security_list_keys", "huge");
    let qkey = Qkey::with_mock(&mock);
    let mut child = qkey.command(["keys"]).spawn().expect("qkey runs");
    let mut peak = 0;
    wait_until("the end of qkey", || {
        peak = peak.max(peak_memory_kib(child.id()));
        child.try_wait().expect("waiting").is_some()
    });
    let run = qkey.end(child);
    assert_eq!(run.code, 7, "{run:?}");
    assert!(peak < 72 << 10, "{peak} KiB");
}

/// The most that a process has had in memory so far.
fn peak_memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default()
}

#[test]
fn stderr_flood_is_capped() {
    let mock = mock();
    let hook = "head -c 8388608 /dev/zero | tr '\\0' y >&2; echo the end >&2; exit 9";
    let run = Qkey::with_mock(&mock).between(&mock, hook).run(["keys"]);
    assert_eq!(run.code, 7);
    assert!(run.stderr.len() < 4096, "{} bytes", run.stderr.len());
}

#[test]
fn unrunnable_qq_is_distinguished() {
    let qkey = Qkey::new().env("QKEY_HOST", "cluster");
    fs::create_dir(qkey.path("folder")).expect("a folder");
    qkey.write("plain", "#!/bin/sh\n");
    qkey.write_program("headless", "echo '{\"entries\": []}'\n");
    qkey.write_program("orphan", "#!/no/such/interpreter\n");
    qkey.write_program("exits-127", "#!/bin/sh\nexit 127\n");
    symlink("nowhere", qkey.path("dangling")).expect("a link");
    let said = table(
        [
            "missing",
            "./folder",
            "./plain",
            "./headless",
            "./orphan",
            "./exits-127",
            "./dangling",
            "",
        ],
        |qq| filtered(&qkey.run(["keys", &format!("--qq={qq}")])),
    );
    snapshot!(
        said,
        str![[r#"
==== missing
--- exit 7
error: cannot run qq
  caused by: `missing` was not found
hint: install it with `pip install qumulo-api`, give its path with --qq PATH or QKEY_QQ, or use --via rest, which does not need it
==== ./folder
--- exit 7
error: cannot run qq
  caused by: `./folder` could not be run
  caused by: is a directory
hint: give the path of the qq program itself with --qq PATH or QKEY_QQ
==== ./plain
--- exit 7
error: cannot run qq
  caused by: `./plain` is not executable
hint: give the path of the qq program itself with --qq PATH or QKEY_QQ
==== ./headless
--- exit 7
error: qq failed to list the lock keys
  caused by: `[DIR]/headless` could not be run
  caused by: Exec format error (os error 8)
hint: give the path of qq with --qq PATH or QKEY_QQ
==== ./orphan
--- exit 7
error: qq failed to list the lock keys
  caused by: `[DIR]/orphan` could not be run
  caused by: the interpreter that its first line names was not found
hint: give the path of qq with --qq PATH or QKEY_QQ
==== ./exits-127
--- exit 7
error: qq failed to list the lock keys
  caused by: `[DIR]/exits-127` exited with 127
hint: check that `./exits-127 --host=cluster fs_security_list_keys --help` works; if it does, run this again with -vv and report the output
==== ./dangling
--- exit 7
error: cannot run qq
  caused by: `./dangling` was not found
hint: install it with `pip install qumulo-api`, give its path with --qq PATH or QKEY_QQ, or use --via rest, which does not need it
==== 
--- exit 2
error: a value is required for '--qq <PATH>' but none was supplied

For more information, try '--help'.

"#]]
    );
    // Before keys are opened.
    let run = qkey.line("add --name=new --key=missing.pem --qq=./missing");
    assert_eq!(run.code, 7, "{run:?}");
}

/// A `qq` that names itself in its complaint.
fn impostor(qkey: &Qkey, name: &str) -> PathBuf {
    qkey.write_program(name, "#!/bin/sh\necho \"I am $0\" >&2\nexit 9\n")
}

#[test]
fn qq_path_precedence() {
    let qkey = Qkey::new().env("QKEY_HOST", "cluster");
    for name in ["bin/qq", "configured", "from-environment", "from-flag"] {
        fs::create_dir_all(qkey.path("bin")).expect("a folder");
        impostor(&qkey, name);
    }
    let who = |environment: bool, args: &[&str]| {
        let mut command = qkey.command(["keys"]);
        let path = format!("{}:/usr/bin:/bin", qkey.path("bin").display());
        command.args(args).env("PATH", path);
        if environment {
            command.env("QKEY_QQ", "./from-environment");
        }
        let run = qkey.taken(&command.output().expect("qkey runs"));
        assert_eq!(run.code, 7);
        let cause = run.stderr.lines().find(|line| line.contains("I am"));
        let name = cause.and_then(|cause| cause.rsplit("I am ").next());
        name.unwrap_or_else(|| panic!("{run:?}")).to_owned()
    };
    assert_eq!(who(false, &[]), "[DIR]/bin/qq");
    assert_eq!(who(true, &["--qq=./from-flag"]), "[DIR]/from-flag");
    let configured = qkey.path("configured");
    qkey.configure(&format!("[defaults]\nqq = {configured:?}\n"));
    assert_eq!(who(false, &[]), "[DIR]/configured");
    assert_eq!(who(true, &[]), "[DIR]/from-environment");
    assert_eq!(who(true, &["--qq=qq"]), "[DIR]/bin/qq");
}

#[test]
fn missing_host_and_invalid_timeout_are_usage_errors() {
    let mock = mock();
    let qkey = Qkey::new()
        .env("QKEY_QQ", mock.program())
        .env("QQ_MOCK_STATE", mock.state());
    let lines = [
        LOCK,
        "keys --via=rest",
        "keys --host=",
        "keys --timeout=0",
        "keys --timeout=1.5",
        "keys --timeout=99999999999999999999",
    ];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey lock --id=3 --lock-key=1
--- exit 2
error: no cluster selected
hint: give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)
$ qkey keys --via=rest
--- exit 2
error: no cluster selected
hint: give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)
$ qkey keys --host=
--- exit 2
error: the host is empty
hint: give a host name or an address, or omit it on a cluster node
$ qkey keys --timeout=0
--- exit 2
error: invalid value '0' for '--timeout <SECONDS>': 0 is not in 1..18446744073709551615

For more information, try '--help'.
$ qkey keys --timeout=1.5
--- exit 2
error: invalid value '1.5' for '--timeout <SECONDS>': invalid digit found in string

For more information, try '--help'.
$ qkey keys --timeout=99999999999999999999
--- exit 2
error: invalid value '99999999999999999999' for '--timeout <SECONDS>': number too large to fit in target type

For more information, try '--help'.

"#]]
    );
    assert_eq!(submissions(&mock), 0);
    let run = Qkey::with_mock(&mock).line("keys --timeout=18446744073709551615");
    assert_eq!(run.code, 0, "{run:?}");
}

/// Runs `qkey` with the real `qq` 6.1.0.3, which knows no `--key`; returns the commands of `qq`, a line
/// each.
fn run_with_old_qq(line: &str) -> String {
    let core = Core::start();
    for (name, key) in [("lock-2026", ALICE_PUBLIC), ("other", CAROL_PUBLIC)] {
        core.add_key(json!({ "name": name, "public_key": key }));
    }
    core.add_snapshot(json!({ "id": 2, "lock_key": "1" }));
    core.add_snapshot(json!({ "id": 3 }));
    core.fault("replace_key", "stale", json!({}));
    let qkey = Qkey::with_core(&core, "6.1.0.3");
    let hook = r#"for arg; do case $arg in fs_* | snapshot_*) echo "$arg" >>commands; esac; done"#;
    let text = format!(
        "#!/bin/sh\n{hook}\nexec '{}' \"$@\"\n",
        qq("6.1.0.3").display()
    );
    let program = qkey.write_program("qq-between", &text);
    let qkey = qkey.env("QKEY_QQ", program.to_str().expect("UTF-8"));
    let run = qkey.line(line);
    assert_eq!(run.code, 0, "{run:?}");
    fs::read_to_string(qkey.path("commands")).expect("qq ran")
}

#[test]
fn dialect_is_detected_once_per_process() {
    let count = |commands: &str, wanted| commands.lines().filter(|line| *line == wanted).count();
    let commands = run_with_old_qq(REPLACE);
    assert_eq!(count(&commands, "fs_security_get_key_replace_challenge"), 3);
    assert_eq!(count(&commands, "fs_security_replace_key"), 2);
    let commands = run_with_old_qq(LOCK);
    assert_eq!(count(&commands, "snapshot_lock_snapshot"), 2);
    let commands = run_with_old_qq("keys usage");
    // The first calls are made side by side, before any of them knows.
    assert!((3..=4).contains(&count(&commands, "fs_security_get_key_usage")));
}

#[test]
fn qq_without_lock_keys_is_reported() {
    let qkey = Qkey::new().env("QKEY_HOST", "cluster");
    let said = table(
        [
            "argument : invalid choice: 'fs_security_list_keys' (choose from 'ad_join')",
            "unrecognized arguments: --json",
        ],
        |complaint| {
            let qq = format!(
                "#!/bin/sh\necho \"usage: qq\" >&2\necho \"qq: error: {complaint}\" >&2\nexit 2\n"
            );
            qkey.write_program("qq", &qq);
            filtered(&qkey.line("keys --qq=./qq"))
        },
    );
    snapshot!(
        said,
        str![[r#"
==== argument : invalid choice: 'fs_security_list_keys' (choose from 'ad_join')
--- exit 7
error: this qq has no command fs_security_list_keys
hint: qq 6.1.0 or later is required: `pip install --upgrade qumulo-api`, or select another with --qq PATH
==== unrecognized arguments: --json
--- exit 7
error: this qq rejects the arguments of fs_security_list_keys: unrecognized arguments: --json
hint: select another qq with --qq PATH; versions 6.1.0 to 7.10 are known to work

"#]]
    );
}

#[test]
fn challenge_that_is_not_utf_8_is_not_signed() {
    let mock = mock();
    let hook = r#"case "$*" in *challenge*) printf '{"challenge": "\377"}'; exit 0;; esac"#;
    let run = Qkey::with_mock(&mock).between(&mock, hook).line(REPLACE);
    assert_eq!((run.code, submissions(&mock)), (7, 0), "{run:?}");
}

// Arguments and environment.

#[test]
fn qq_receives_cluster_options_and_environment() {
    let mock = mock();
    let hook = r#"env >"$QQ_MOCK_STATE/env""#;
    let qkey = Qkey::with_mock(&mock)
        .between(&mock, hook)
        .env("LC_ALL", "C")
        .env("PYTHONUTF8", "0")
        .env("PYTHONIOENCODING", "latin-1")
        .env("HTTPS_PROXY", "http://proxy:3128");
    let args = [
        "keys",
        "--host=odd-host",
        "--port=9000",
        "--credentials-store=my store",
    ];
    assert_eq!(qkey.run(args).code, 0);
    assert_eq!(
        mock.calls(),
        [[
            "--host=odd-host",
            "--port=9000",
            "--credentials-store=my store",
            "fs_security_list_keys",
            "--json"
        ]]
    );
    let env = fs::read_to_string(mock.state().join("env")).expect("qq ran");
    for variable in [
        "HTTPS_PROXY=http://proxy:3128",
        "PYTHONUTF8=1",
        "PYTHONIOENCODING=utf-8",
    ] {
        assert!(env.lines().any(|line| line == variable), "{env}");
    }
    assert!(env.lines().any(|line| line.starts_with("HOME=")), "{env}");
}

#[test]
fn qq_arguments_cannot_be_options_or_secrets() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("PASSPHRASE", "open sesame");
    qkey.encrypt_alice();
    let key = "locked.pem?passphrase-env=PASSPHRASE";
    let add = format!("add --name=--json --comment=-x --key={key}");
    let unlock = format!("unlock --id=2 --key={key}");
    for line in [&*add, &unlock, REPLACE, LOCK] {
        let run = qkey.line(&format!("{line} -vv"));
        assert_eq!(run.code, 0, "{run:?}");
        for secret in ["open sesame", "PRIVATE KEY"] {
            assert!(!run.stderr.contains(secret), "{run:?}");
        }
    }
    let calls = mock.calls();
    let scalar = ALICE.lines().nth(1).expect("a line of Base64");
    let mut proofs = 0;
    for arg in calls.iter().flatten() {
        assert!(
            !arg.contains("open sesame") && !arg.contains("PRIVATE KEY"),
            "{arg}"
        );
        assert!(!arg.contains(scalar) && !arg.contains(".pem"), "{arg}");
        let Some((flag, value)) = arg.split_once('=') else {
            let command = arg.starts_with("fs_") || arg.starts_with("snapshot_");
            assert!(command || ["--json", "--force"].contains(&&**arg), "{arg}");
            continue;
        };
        if flag.ends_with("signature") || flag.ends_with("public-key") {
            proofs += 1;
            let unpadded = value.trim_end_matches('=');
            let base64 = |c: char| c.is_ascii_alphanumeric() || "+/".contains(c);
            assert!(unpadded.chars().all(base64), "{arg}");
            assert_eq!(value.len() % 4, 0, "{arg}");
        }
    }
    assert_eq!(proofs, 2 + 1 + 3);
    assert_eq!(mock.key_field("2", "name"), "--json");
    assert_eq!(mock.key_field("2", "comment"), "-x");
}

#[test]
fn foreign_text_is_escaped_and_indented() {
    let said = side_by_side(&["cluster", "two lines", "qq"], |whose| {
        let mock = mock();
        let qkey = Qkey::with_mock(&mock);
        let qkey = match whose {
            "cluster" => {
                let words = "one\u{1b}]0;x\u{7}two \u{1b}[2Jthree";
                let fault = format!("always status 400 odd_error {words}");
                mock.fault("fs_security_list_keys", &fault);
                qkey
            }
            "two lines" => {
                let words = r"Error 400: odd_error: one\nerror: forged\r\nhint: \033[2Jforged\n";
                qkey.between(&mock, &format!("printf '{words}' >&2; exit 1"))
            }
            _ => {
                let words = r"one\033]0;x\007two\nerror: forged\r\nhint: \033[2Jforged\n";
                qkey.between(&mock, &format!("printf '{words}' >&2; exit 3"))
            }
        };
        ["text", "json"]
            .map(|output| {
                // As on a terminal: where there is none, every sequence is taken out.
                let run = qkey.run(["keys", "--color=always", "--output", output]);
                for sequence in ["\u{1b}]", "\u{7}", "\u{1b}[2J", "\r"] {
                    assert!(!run.stderr.contains(sequence), "{run:?}");
                }
                let is_forged =
                    |line: &str| line.contains("forged") && !line.starts_with([' ', '{']);
                assert!(!run.stderr.lines().any(is_forged), "{run:?}");
                filtered(&run).replace('\u{1b}', "ESC")
            })
            .concat()
    });
    snapshot!(
        said,
        str![[r#"
==== cluster
--- exit 5
ESC[1mESC[31merror:ESC[0m cluster:8000 refused to list the lock keys
  caused by: Error 400: odd_error: one\u{1b}]0;x\u{7}two \u{1b}[2Jthree
ESC[1mESC[36mhint:ESC[0m nothing was changed; fix what the cluster reports, then run this again
--- exit 5
{"error":{"kind":"refused","message":"cluster:8000 refused to list the lock keys","causes":["Error 400: odd_error: one\u001b]0;x\u0007two \u001b[2Jthree"],"hint":"nothing was changed; fix what the cluster reports, then run this again","exit_code":5}}
==== two lines
--- exit 5
ESC[1mESC[31merror:ESC[0m cluster:8000 refused to list the lock keys
  caused by: Error 400: odd_error: one
    error: forged
    hint: \u{1b}[2Jforged
ESC[1mESC[36mhint:ESC[0m nothing was changed; fix what the cluster reports, then run this again
--- exit 5
{"error":{"kind":"refused","message":"cluster:8000 refused to list the lock keys","causes":["Error 400: odd_error: one\nerror: forged\r\nhint: \u001b[2Jforged"],"hint":"nothing was changed; fix what the cluster reports, then run this again","exit_code":5}}
==== qq
--- exit 7
ESC[1mESC[31merror:ESC[0m qq failed to list the lock keys
  caused by: `[DIR]/qq-between` exited with 3: one\u{1b}]0;x\u{7}two
    error: forged
    hint: \u{1b}[2Jforged
ESC[1mESC[36mhint:ESC[0m check that `[DIR]/qq-between --host=cluster fs_security_list_keys --help` works; if it does, run this again with -vv and report the output
--- exit 7
{"error":{"kind":"unreachable","message":"qq failed to list the lock keys","causes":["`[DIR]/qq-between` exited with 3: one\u001b]0;x\u0007two\nerror: forged\r\nhint: \u001b[2Jforged"],"hint":"check that `[DIR]/qq-between --host=cluster fs_security_list_keys --help` works; if it does, run this again with -vv and report the output","exit_code":7}}

"#]]
    );
}
