//! What `qkey` makes of a `qq` that fails, in any way in which a program can.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::Command,
};

use crate::support::{
    core::{Core, qq},
    mock::Mock,
    qkey::{
        ALICE, ALICE_PUBLIC, BOB_PUBLIC, CAROL_PUBLIC, Qkey, Run, end_sleepers, expect_no_sleepers,
        side_by_side, timeout_for, wait_until,
    },
};
use serde_json::json;
use snapbox::{IntoData, assert_data_eq, str};

const ADD: [&str; 3] = ["add", "--name=new", "--key=carol.pem"];
const REPLACE: [&str; 4] = [
    "replace",
    "-klock-2026",
    "--old-key=alice.pem",
    "--new-key=bob.pem",
];
const UNLOCK: [&str; 3] = ["unlock", "--id=2", "--key=alice.pem"];
const LOCK: [&str; 3] = ["lock", "--id=3", "--lock-key=lock-2026"];
const CEREMONIES: [&[&str]; 4] = [&ADD, &REPLACE, &UNLOCK, &LOCK];

const SUBMISSIONS: [&str; 4] = [
    "fs_security_add_key",
    "fs_security_replace_key",
    "snapshot_unlock_snapshot",
    "snapshot_lock_snapshot",
];

/// A cluster that holds Alice's key as key 1, which locks snapshot 2.
fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    mock.set_snapshot_field(2, "lock_key", "1");
    mock
}

/// Expects that a mock holds what the four ceremonies bring about.
fn assert_all_done(mock: &Mock) {
    assert_eq!(mock.key_ids(), ["1", "2"]);
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    assert_eq!(mock.public_key("2"), CAROL_PUBLIC);
    assert_eq!(mock.lock_key(2), None);
    assert_eq!(mock.lock_key(3).as_deref(), Some("1"));
    for submission in SUBMISSIONS {
        assert_eq!(mock.count(submission), 1, "{submission}");
    }
}

/// Runs the four ceremonies, so that each can succeed.
fn run_all(qkey: &Qkey) {
    for ceremony in [&ADD[..], &UNLOCK, &REPLACE, &LOCK] {
        let run = qkey.run(ceremony);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(run.stderr, "");
    }
}

/// `qkey keys` while the key list meets a fault whenever it is asked for.
fn keys_with_fault(fault: &str) -> (Mock, Run) {
    let mock = mock();
    mock.fault("fs_security_list_keys", &format!("always {fault}"));
    let run = Qkey::with_mock(&mock).run(["keys", timeout_for(fault)]);
    expect_no_sleepers(&mock);
    (mock, run)
}

#[test]
fn qq_failures_are_distinguished() {
    let faults = [
        "traceback",
        "garbage",
        "empty",
        "truncated",
        "huge",
        "hang",
        "hang-with-grandchild-and-stay",
        "kill-9",
        "exit 3 out of luck",
        "exit 127 python3: not found",
        "unauthenticated",
        "status 403 privilege_error You are not allowed to.",
        "status 404 fs_no_such_entry_error There is no such thing.",
        "status 409 fs_entry_exists_error It exists.",
        "status 500 internal_error It broke.",
        "status 502 proxy_error Bad gateway.",
        "status 503 busy_error Try again later.",
        "status 504 proxy_error Gateway time-out.",
        "drop-before",
        "timeout-before",
        "refused-connection",
        "exit 1 Command error: Expecting value: line 1 column 1 (char 0)",
    ];
    // What may be over soon: the others are not tried again.
    let passing = ["status 503", "drop-before", "refused-connection"];
    let said = side_by_side(&faults, |fault| {
        let (mock, run) = keys_with_fault(fault);
        let is_passing = passing.iter().any(|passing| fault.starts_with(passing));
        let times = if is_passing { 3 } else { 1 };
        assert_eq!(mock.count("fs_security_list_keys"), times, "{fault}");
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
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
==== empty
--- exit 7
error: unexpected reply from cluster:8000 to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: (nothing)
hint: check that `[QQ] --host=cluster fs_security_list_keys --help` works; if it does, run this again with -vv and report the output
==== truncated
--- exit 7
error: unexpected reply from cluster:8000 to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: {     "entries": [         {             "comment": "",             "disabled": false,             "id": "1",           …
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
==== unauthenticated
--- exit 6
error: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`
==== status 403 privilege_error You are not allowed to.
--- exit 6
error: cluster:8000 denied permission to list the lock keys
  caused by: Error 403: privilege_error: You are not allowed to.
hint: log in as a user whose role includes PRIVILEGE_FS_KEY_MANAGEMENT_READ; role changes take effect at the next login
==== status 404 fs_no_such_entry_error There is no such thing.
--- exit 5
error: cluster:8000 refused to list the lock keys
  caused by: Error 404: fs_no_such_entry_error: There is no such thing.
hint: `[QQ] --host=cluster fs_security_list_keys` shows what exists
==== status 409 fs_entry_exists_error It exists.
--- exit 5
error: cluster:8000 refused to list the lock keys
  caused by: Error 409: fs_entry_exists_error: It exists.
hint: nothing was changed; fix what the cluster reports, then run this again
==== status 500 internal_error It broke.
--- exit 5
error: cluster:8000 failed to list the lock keys
  caused by: Error 500: internal_error: It broke.
hint: the cluster reports an internal problem; check its health, then run this again
==== status 502 proxy_error Bad gateway.
--- exit 7
error: cluster:8000 failed to list the lock keys
  caused by: Error 502: proxy_error: Bad gateway.
hint: the cluster, or a proxy in front of it, is not ready; try again later
==== status 503 busy_error Try again later.
--- exit 7
error: cluster:8000 failed to list the lock keys
  caused by: Error 503: busy_error: Try again later.
hint: the cluster, or a proxy in front of it, is not ready; try again later
==== status 504 proxy_error Gateway time-out.
--- exit 7
error: cluster:8000 failed to list the lock keys
  caused by: Error 504: proxy_error: Gateway time-out.
hint: the cluster, or a proxy in front of it, is not ready; try again later
==== drop-before
--- exit 7
error: lost the connection to cluster:8000 during the request to list the lock keys: Remote end closed connection without response
hint: check whether the cluster is up, and whether a proxy or firewall cuts connections
==== timeout-before
--- exit 7
error: lost the connection to cluster:8000 during the request to list the lock keys: The read operation timed out
hint: check whether the cluster is up, and whether a proxy or firewall cuts connections
==== refused-connection
--- exit 7
error: cannot reach cluster:8000: [Errno 111] Connection refused
hint: check --host and --port (or the cluster's entry in the configuration file), and the network
==== exit 1 Command error: Expecting value: line 1 column 1 (char 0)
--- exit 6
error: qq cannot read its credentials for cluster:8000: Expecting value: line 1 column 1 (char 0)
hint: log in first: `[QQ] --host=cluster login -u USER`

"#]].raw());
}

#[test]
fn qq_failures_have_kinds_in_json() {
    let faults = [
        "traceback",
        "hang",
        "unauthenticated",
        "status 409 x_error y",
        "kill-9",
    ];
    let said = side_by_side(&faults, |fault| {
        let mock = mock();
        mock.fault("fs_security_list_keys", fault);
        let qkey = Qkey::with_mock(&mock);
        qkey.run(["keys", "--output=json", timeout_for(fault)])
            .transcript()
    });
    assert_data_eq!(said, str![[r#"
==== traceback
--- exit 7
{"error":{"kind":"unreachable","message":"unexpected reply from cluster:8000 to the request to list the lock keys","causes":["qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)"],"hint":"check --host and --port: a proxy or another service may respond there","exit_code":7}}
==== hang
--- exit 7
{"error":{"kind":"unreachable","message":"qq failed to list the lock keys","causes":["`[QQ]` did not finish within 4 s and was killed"],"hint":"check whether the cluster responds, or give it more time with --timeout SECONDS","exit_code":7}}
==== unauthenticated
--- exit 6
{"error":{"kind":"auth","message":"not logged in to cluster:8000","causes":["Error 401: http_unauthorized_error: Need to log in first to establish credentials."],"hint":"log in first: `[QQ] --host=cluster login -u USER`","exit_code":6}}
==== status 409 x_error y
--- exit 5
{"error":{"kind":"refused","message":"cluster:8000 refused to list the lock keys","causes":["Error 409: x_error: y"],"hint":"nothing was changed; fix what the cluster reports, then run this again","exit_code":5}}
==== kill-9
--- exit 7
{"error":{"kind":"unreachable","message":"qq failed to list the lock keys","causes":["`[QQ]` was killed by signal 9"],"hint":"find out what killed it (out of memory? a limit? an administrator?), then run this again","exit_code":7}}

"#]].raw());
}

#[test]
fn failed_read_prevents_submission() {
    let reads = [
        "fs_security_list_keys",
        "fs_security_get_key_replace_challenge",
        "snapshot_get_status",
        "snapshot_get_unlock_challenge",
    ];
    let codes = side_by_side(&reads, |read| {
        let codes = CEREMONIES.map(|ceremony| {
            [
                "traceback",
                "unauthenticated",
                "status 404 x_error y",
                "garbage",
            ]
            .map(|fault| {
                let mock = mock();
                mock.fault(read, fault);
                let run = Qkey::with_mock(&mock).run(ceremony);
                let sent = SUBMISSIONS
                    .iter()
                    .any(|submission| mock.count(submission) > 0);
                assert_eq!(run.code == 0, sent, "{ceremony:?} {read} {fault}: {run:?}");
                run.code
            })
        });
        format!("{codes:?}\n")
    });
    assert_data_eq!(
        codes,
        str![[r#"
==== fs_security_list_keys
[[7, 6, 5, 7], [7, 6, 5, 7], [7, 6, 5, 7], [7, 6, 5, 7]]
==== fs_security_get_key_replace_challenge
[[0, 0, 0, 0], [7, 6, 5, 7], [0, 0, 0, 0], [0, 0, 0, 0]]
==== snapshot_get_status
[[0, 0, 0, 0], [0, 0, 0, 0], [7, 6, 5, 7], [7, 6, 5, 7]]
==== snapshot_get_unlock_challenge
[[0, 0, 0, 0], [0, 0, 0, 0], [7, 6, 5, 7], [0, 0, 0, 0]]

"#]]
        .raw()
    );
}

#[test]
fn warnings_on_stderr_are_ignored() {
    let mock = mock();
    for command in [
        "fs_security_list_keys",
        "fs_security_get_key_replace_challenge",
        "snapshot_get_status",
        "snapshot_get_unlock_challenge",
    ]
    .iter()
    .chain(&SUBMISSIONS)
    {
        mock.fault(command, "always warn");
    }
    run_all(&Qkey::with_mock(&mock));
    assert_all_done(&mock);
}

#[test]
fn complaint_is_found_among_warnings() {
    let mock = mock();
    let hook = r#"echo 'x.py:1: DeprecationWarning: old' >&2"#;
    mock.fault(
        "fs_security_list_keys",
        "status 404 fs_no_such_entry_error Not there.",
    );
    let run = Qkey::with_mock(&mock).between(&mock, hook).run(["keys"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 5
error: cluster:8000 refused to list the lock keys
  caused by: Error 404: fs_no_such_entry_error: Not there.
hint: `[DIR]/qq-between --host=cluster fs_security_list_keys` shows what exists

"#]]
        .raw()
    );
}

#[test]
fn grandchild_holding_pipes_does_not_block() {
    let mock = mock();
    mock.fault("fs_security_list_keys", "hang-with-grandchild");
    let run = Qkey::with_mock(&mock).run(["keys"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
ID  NAME       STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock-2026  enabled  SHA256:qDNOdPfn/SvG  -

"#]]
        .raw()
    );
    assert_eq!(mock.sleepers().len(), 1);
    end_sleepers(&mock);
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
    let run = qkey.taken(&child.wait_with_output().expect("qkey ends"));
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
    let said = [
        "./missing",
        "missing",
        "./folder",
        "./plain",
        "./headless",
        "./orphan",
        "./exits-127",
        "./dangling",
        "",
    ]
    .map(|qq| {
        let run = qkey.run(["keys", &format!("--qq={qq}")]);
        format!("==== {qq}\n{}", run.transcript())
    });
    assert_data_eq!(said.concat(), str![[r#"
==== ./missing
--- exit 7
error: cannot run qq
  caused by: `./missing` was not found
hint: install it with `pip install qumulo-api`, give its path with --qq PATH or QKEY_QQ, or use --via rest, which does not need it
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

"#]].raw());
}

#[test]
fn unrunnable_qq_fails_before_keys_are_opened() {
    let qkey = Qkey::new().env("QKEY_HOST", "cluster");
    let run = qkey.run(["add", "--name=new", "--key=missing.pem", "--qq=./missing"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 7
error: cannot run qq
  caused by: `./missing` was not found
hint: install it with `pip install qumulo-api`, give its path with --qq PATH or QKEY_QQ, or use --via rest, which does not need it

"#]]
        .raw()
    );
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
fn missing_host_is_reported() {
    let mock = mock();
    let qkey = Qkey::new()
        .env("QKEY_QQ", mock.program().to_str().expect("UTF-8"))
        .env("QQ_MOCK_STATE", mock.state().to_str().expect("UTF-8"));
    let said = CEREMONIES.map(|ceremony| qkey.run(ceremony).transcript());
    assert_data_eq!(said.concat(), str![[r#"
--- exit 2
error: no cluster selected
hint: give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)
--- exit 2
error: no cluster selected
hint: give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)
--- exit 2
error: no cluster selected
hint: give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)
--- exit 2
error: no cluster selected
hint: give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)

"#]].raw());
    assert_data_eq!(
        qkey.run(["keys", "--host="]).transcript(),
        str![[r#"
--- exit 2
error: the host is empty
hint: give a host name or an address, or omit it on a cluster node

"#]]
        .raw()
    );
    assert!(
        SUBMISSIONS
            .iter()
            .all(|submission| mock.count(submission) == 0)
    );
}

#[test]
fn timeout_is_in_seconds() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = ["0", "-1", "", "soon", "1.5", "99999999999999999999"].map(|seconds| {
        let run = qkey.run(["keys", &format!("--timeout={seconds}")]);
        format!("==== {seconds}\n{}", run.transcript())
    });
    assert_data_eq!(said.concat(), str![[r#"
==== 0
--- exit 2
error: invalid value '0' for '--timeout <SECONDS>': 0 is not in 1..18446744073709551615

For more information, try '--help'.
==== -1
--- exit 2
error: invalid value '-1' for '--timeout <SECONDS>': invalid digit found in string

For more information, try '--help'.
==== 
--- exit 2
error: invalid value '' for '--timeout <SECONDS>': cannot parse integer from empty string

For more information, try '--help'.
==== soon
--- exit 2
error: invalid value 'soon' for '--timeout <SECONDS>': invalid digit found in string

For more information, try '--help'.
==== 1.5
--- exit 2
error: invalid value '1.5' for '--timeout <SECONDS>': invalid digit found in string

For more information, try '--help'.
==== 99999999999999999999
--- exit 2
error: invalid value '99999999999999999999' for '--timeout <SECONDS>': number too large to fit in target type

For more information, try '--help'.

"#]].raw());
    assert!(mock.calls().is_empty());
    let from_environment = Qkey::with_mock(&mock).env("QKEY_TIMEOUT", "soon");
    assert_data_eq!(
        from_environment.run(["keys"]).transcript(),
        str![[r#"
--- exit 2
error: invalid value 'soon' for '--timeout <SECONDS>': invalid digit found in string

For more information, try '--help'.

"#]]
        .raw()
    );
    assert!(mock.calls().is_empty());
    let run = qkey.run(["keys", "--timeout=18446744073709551615"]);
    assert_eq!(run.code, 0, "{run:?}");
}

/// Runs `qkey` with the real `qq` 6.1.0.3, which knows no `--key`; returns the commands of `qq`, a line
/// each.
fn run_with_old_qq(args: &[&str]) -> String {
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
    let run = qkey.run(args);
    assert_eq!(run.code, 0, "{run:?}");
    fs::read_to_string(qkey.path("commands")).expect("qq ran")
}

#[test]
fn dialect_is_detected_once_per_process() {
    let count = |commands: &str, wanted| commands.lines().filter(|line| *line == wanted).count();
    let commands = run_with_old_qq(&REPLACE);
    assert_eq!(count(&commands, "fs_security_get_key_replace_challenge"), 3);
    assert_eq!(count(&commands, "fs_security_replace_key"), 2);
    let commands = run_with_old_qq(&LOCK);
    assert_eq!(count(&commands, "snapshot_lock_snapshot"), 2);
    let commands = run_with_old_qq(&["keys", "usage"]);
    // The first calls are made side by side, before any of them knows.
    assert!((3..=4).contains(&count(&commands, "fs_security_get_key_usage")));
}

#[test]
fn qq_without_lock_keys_is_reported() {
    let qkey = Qkey::new().env("QKEY_HOST", "cluster");
    qkey.write_program(
        "qq",
        "#!/bin/sh\n\
         echo \"usage: qq [-h]\" >&2\n\
         echo \"qq: error: argument : invalid choice: 'fs_security_list_keys' (choose from 'ad_join')\" >&2\n\
         exit 2\n",
    );
    let run = qkey.run(["keys", "--qq=./qq"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 7
error: this qq has no command fs_security_list_keys
hint: qq 6.1.0 or later is required: `pip install --upgrade qumulo-api`, or select another with --qq PATH

"#]]
        .raw()
    );
    qkey.write_program(
        "qq",
        "#!/bin/sh\n\
         echo \"usage: qq fs_security_list_keys [-h]\" >&2\n\
         echo \"qq: error: unrecognized arguments: --json\" >&2\n\
         exit 2\n",
    );
    let run = qkey.run(["keys", "--qq=./qq"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 7
error: this qq rejects the arguments of fs_security_list_keys: unrecognized arguments: --json
hint: select another qq with --qq PATH; versions 6.1.0 to 7.10 are known to work

"#]]
        .raw()
    );
}

#[test]
fn qq_uses_utf_8_in_every_locale() {
    for (variable, value) in [
        ("LC_ALL", "C"),
        ("LC_ALL", "en_US.ISO-8859-1"),
        ("PYTHONIOENCODING", "latin-1"),
        ("PYTHONUTF8", "0"),
    ] {
        let mock = mock();
        mock.set_challenge("Schlüssel 🔑".as_bytes());
        let hook = r#"printf '%s ' "$PYTHONUTF8" "$PYTHONIOENCODING" >"$QQ_MOCK_STATE/env""#;
        let qkey = Qkey::with_mock(&mock)
            .between(&mock, hook)
            .env(variable, value);
        let run = qkey.run(["add", "--name=é 🔑", "--key=carol.pem"]);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(mock.key_field("2", "name"), "é 🔑");
        let env = fs::read_to_string(mock.state().join("env")).expect("qq ran");
        assert_eq!(env, "1 utf-8 ", "{variable}={value}");
        let run = qkey.run(REPLACE);
        assert_eq!(run.code, 0, "{run:?}");
        let run = qkey.run(["keys"]);
        assert!(run.stdout.contains("é 🔑"), "{run:?}");
    }
}

#[test]
fn qq_inherits_the_environment() {
    let mock = mock();
    let hook = r#"env >"$QQ_MOCK_STATE/env""#;
    let qkey = Qkey::with_mock(&mock)
        .between(&mock, hook)
        .env("HTTPS_PROXY", "http://proxy:3128");
    qkey.run(["keys"]);
    let env = fs::read_to_string(mock.state().join("env")).expect("qq ran");
    assert!(env.contains("HTTPS_PROXY=http://proxy:3128\n"), "{env}");
    assert!(env.lines().any(|line| line.starts_with("HOME=")), "{env}");
}

#[test]
fn qq_receives_cluster_options() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let args = [
        "keys",
        "--host=-odd-host",
        "--port=9000",
        "--credentials-store=my store",
    ];
    assert_eq!(qkey.run(args).code, 0);
    assert_eq!(
        mock.calls(),
        [[
            "--host=-odd-host",
            "--port=9000",
            "--credentials-store=my store",
            "fs_security_list_keys",
            "--json"
        ]]
    );
}

#[test]
fn qq_arguments_cannot_be_options_or_secrets() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("PASSPHRASE", "correct horse");
    let status = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-iter", "1"])
        .args(["-passout", "pass:correct horse", "-in"])
        .arg(qkey.path("carol.pem"))
        .arg("-out")
        .arg(qkey.path("encrypted.pem"))
        .status()
        .expect("openssl runs");
    assert!(status.success());
    fs::set_permissions(
        qkey.path("encrypted.pem"),
        fs::Permissions::from_mode(0o600),
    )
    .expect("a mode");
    let key = "--key=encrypted.pem?passphrase-env=PASSPHRASE";
    let add = qkey.run(["add", "--name=--json", "--comment=-x", key]);
    assert_eq!(add.code, 0, "{add:?}");
    for ceremony in [&UNLOCK[..], &REPLACE, &LOCK] {
        let run = qkey.run([ceremony, &["-vv"]].concat());
        assert_eq!(run.code, 0, "{run:?}");
        assert!(!run.stderr.contains("correct horse"));
        assert!(!run.stderr.contains("PRIVATE KEY"));
    }
    let calls = mock.calls();
    let scalar = ALICE.lines().nth(1).expect("a line of Base64");
    let mut proofs = 0;
    for arg in calls.iter().flatten() {
        assert!(
            !arg.contains("correct horse") && !arg.contains("PRIVATE KEY"),
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
fn qq_version_is_never_requested() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    run_all(&qkey);
    qkey.run(["keys"]);
    let calls = mock.calls();
    assert!(calls.iter().flatten().all(|arg| arg != "--version"));
    assert_eq!(calls.len(), 3 + 5 + 4 + 4 + 1);
}

#[test]
fn failing_wrapper_does_not_resubmit() {
    // Its words are those of argparse, but argparse's code is 2.
    let said = side_by_side(&["done", "not done"], |case| {
        let mock = mock();
        let submit = match case {
            "done" => mock.program().display().to_string(),
            _ => "true".to_owned(),
        };
        let hook = format!(
            r#"case "$*" in *snapshot_lock_snapshot*)
                echo "$*" >>"$QQ_MOCK_STATE/submitted"
                '{submit}' "$@"
                echo 'usage: wrapper [-h]' >&2
                echo 'wrapper: error: cannot write to the audit log' >&2
                exit 3
            esac"#
        );
        let run = Qkey::with_mock(&mock).between(&mock, &hook).run(LOCK);
        let submitted = fs::read_to_string(mock.state().join("submitted")).expect("qq ran");
        assert_eq!(submitted.lines().count(), 1, "{submitted}");
        // The first command that names a stored key is the submission itself.
        assert!(submitted.contains("--lock-key=1"), "{submitted}");
        assert!(mock.count("snapshot_get_status") > 1, "it looks");
        assert_eq!(mock.lock_key(3).is_some(), case == "done");
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== done
Locked snapshot 3 ("3_nightly_projects") with key 1 ("lock-2026").
--- exit 0
warning: no reply to the request to lock snapshot 3 ("3_nightly_projects") (qq failed to lock snapshot 3: `[DIR]/qq-between` exited with 3: usage: wrapper [-h] wrapper: error: cannot write to the audit log); checked: it was done
==== not done
--- exit 8
error: no reply to the request to lock snapshot 3 ("3_nightly_projects"): not done so far, and may still be
  caused by: qq failed to lock snapshot 3
  caused by: `[DIR]/qq-between` exited with 3: usage: wrapper [-h]
    wrapper: error: cannot write to the audit log
hint: keep every key; `[DIR]/qq-between --host=cluster snapshot_get_status --id=3` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
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
                run.transcript().replace('\u{1b}', "ESC")
            })
            .concat()
    });
    assert_data_eq!(said, str![[r#"
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

"#]].raw());
}
