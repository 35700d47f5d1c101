//! How much memory `qkey` takes whatever comes back, and how it ends when there is none.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus, Output},
};

use crate::support::{
    core::Core,
    qkey::{ALICE_PUBLIC, Qkey, Run},
    shell,
};
use serde_json::json;
use snapbox::{IntoData, assert_data_eq, str};

/// The most memory that `qkey` may take, in KiB; what it promises is 200 MiB.
const LIMIT: i64 = 120 << 10;

/// Runs a command to its end, and tells how much memory it took at most.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
fn measured(qkey: &Qkey, mut command: Command) -> (Run, i64) {
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| qkey.path(name));
    let [out, err] = [&stdout, &stderr].map(|path| File::create(path).unwrap());
    let child = command.stdout(out).stderr(err).spawn().unwrap();
    let mut status = 0;
    // SAFETY: all zeros is a valid `rusage`, and both pointers are to live values.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        let pid = libc::wait4(child.id().cast_signed(), &mut status, 0, &mut usage);
        assert_eq!(pid, child.id().cast_signed());
        usage
    };
    let output = Output {
        status: ExitStatus::from_raw(status),
        stdout: fs::read(stdout).unwrap(),
        stderr: fs::read(stderr).unwrap(),
    };
    (qkey.taken(&output), usage.ru_maxrss)
}

/// Runs `qkey` with a line of arguments, and expects it to take little memory.
#[track_caller]
fn run(qkey: &Qkey, line: &str) -> Run {
    let (run, peak) = measured(qkey, qkey.command(line.split(' ')));
    assert!(
        peak < LIMIT,
        "{line} took {} MiB: {}",
        peak >> 10,
        run.stderr
    );
    run
}

/// With a `qq` that answers as a cluster with one key and the locked snapshot 7 does, unless `cases`
/// of a shell's `case "$*"` come first.
fn with_qq(cases: &str) -> Qkey {
    let qkey = Qkey::new();
    let qq = qkey.write_program(
        "qq",
        &format!(
            r#"#!/bin/sh
# entries NUMBER FORMAT: as many lines, each with its number and a comma after it.
entries() {{ awk -v n="$1" -v format="$2" 'BEGIN {{ for (i = 1; i < n; i++) printf format ",\n", i; printf format, n }}'; }}
# blanks NUMBER
blanks() {{ head -c "$1" /dev/zero | tr '\0' ' '; }}
letters() {{ head -c "$1" /dev/zero | tr '\0' x; }}
case "$*" in
{cases}
*list_keys*) echo '{{"entries": [{{"id": "1", "name": "lock", "public_key": "{ALICE_PUBLIC}"}}]}}';;
*get_key_usage*) echo '[{{"type": "snapshot", "id": "7"}}]';;
*get_status*)
    # Once after it was unlocked, it is so.
    if rm unlocked 2>/dev/null; then lock_key=null; else lock_key='"1"'; fi
    echo '{{"id": 7, "name": "daily", "lock_key": '"$lock_key"'}}';;
*challenge*) echo '{{"challenge": "prove it"}}';;
*unlock_snapshot*) : >unlocked; echo 'Snapshot 7 is unlocked.';;
esac
"#
        ),
    );
    qkey.env("QKEY_HOST", "cluster")
        .env("QKEY_QQ", qq.to_str().unwrap())
}

const KEYS: &str = "keys";
const USAGE: &str = "keys usage";
const UNLOCK: &str = "unlock --id=7 --key=alice.pem";

#[test]
fn memory_is_bounded_for_any_output_of_qq() {
    let mut text = String::new();
    for (title, line, cases) in [
        (
            "300,000 keys",
            KEYS,
            r#"*list_keys*) echo '{"entries": ['; entries 300000 '{"id": "%d", "name": "k", "comment": "", "disabled": false, "public_key": "x"}'; echo ']}'; exit;;"#,
        ),
        (
            "20,001 short keys",
            KEYS,
            r#"*list_keys*) echo '{"entries": ['; entries 20001 '{"id": %d, "name": "", "public_key": ""}'; echo ']}'; exit;;"#,
        ),
        (
            "a long name",
            KEYS,
            r#"*list_keys*) printf '{"entries": [{"id": 1, "public_key": "", "name": "'; letters 7000000; echo '"}]}'; exit;;"#,
        ),
        (
            "deep nesting",
            KEYS,
            r#"*list_keys*) echo '{"entries":'; letters 7000000 | tr x '['; exit;;"#,
        ),
        ("no end", KEYS, "*list_keys*) exec yes;;"),
        (
            "no end of warnings",
            KEYS,
            "*list_keys*) head -c 100000000 /dev/zero >&2; echo 'Error 404: x: none.' >&2; exit 1;;",
        ),
        (
            "a long error",
            UNLOCK,
            "*get_status*) printf 'Error 400: x: '; letters 200000; exit 1;;",
        ),
        (
            "an endless error",
            KEYS,
            "*list_keys*) printf 'Error 400: x: '; exec yes;;",
        ),
        (
            "60,000 usages",
            USAGE,
            r#"*get_key_usage*) echo '['; entries 60000 '{"type": "snapshot", "id": %d}'; echo ']'; exit;;"#,
        ),
        (
            "100,000 usages by kind",
            USAGE,
            r#"*get_key_usage*) echo '{"snapshot_policies": [], "snapshots": ['; entries 100000 '%d'; echo ']}'; exit;;"#,
        ),
        (
            "20,000 keys that protect 40,000 snapshots each",
            USAGE,
            r#"*list_keys*) echo '{"entries": ['; entries 20000 '{"id": "%d", "name": "k", "public_key": "x"}'; echo ']}'; exit;;
               *get_key_usage*) echo '['; entries 40000 '{"type": "snapshot", "id": %d}'; echo ']'; exit;;"#,
        ),
        (
            "a long challenge",
            UNLOCK,
            r#"*challenge*) printf '{"challenge": "'; letters 200000; echo '"}'; exit;;"#,
        ),
        (
            "a longer challenge",
            UNLOCK,
            r#"*challenge*) printf '{"challenge": "'; letters 300000; echo '"}'; exit;;"#,
        ),
        (
            "a long path of a snapshot",
            UNLOCK,
            r#"*get_status*) printf '{"id": 7, "lock_key": "1", "source_file_path": "'; letters 200000; echo '"}'; exit;;"#,
        ),
    ] {
        let run = run(&with_qq(cases), line);
        let errors = run.stderr.lines().filter(|line| !line.starts_with("hint"));
        let errors: Vec<String> = errors
            .map(|line| line.chars().take(160).collect())
            .collect();
        text.push_str(&format!(
            "{title}: exit {}\n  {}\n",
            run.code,
            errors.join("\n  ")
        ));
        assert_eq!(run.stdout, "", "{title}");
    }
    assert_data_eq!(text, str![[r#"
300,000 keys: exit 7
  error: the reply from cluster:8000 is too large: the key list is larger than 8 MiB
20,001 short keys: exit 7
  error: the reply from cluster:8000 is too large: the key list has more than 20000 entries
a long name: exit 7
  error: the reply from cluster:8000 is too large: a text in the reply is longer than 64 KiB
deep nesting: exit 7
  error: unexpected reply from cluster:8000 to the request to list the lock keys
    caused by: expected a list of keys in JSON (invalid type: sequence, expected text or a number at line 2 column 3), got: {"entries": [[[[[[[[[[[[[[[[[[[[[[[[[[
no end: exit 7
  error: the reply from cluster:8000 is too large: the key list is larger than 8 MiB
no end of warnings: exit 7
  error: qq failed to list the lock keys
    caused by: `[DIR]/qq` exited with 1: …\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}
a long error: exit 5
  error: cluster:8000 refused to read snapshot 7
    caused by: Error 400: x: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
an endless error: exit 7
  error: the reply from cluster:8000 is too large: the key list is larger than 8 MiB
60,000 usages: exit 7
  error: the reply from cluster:8000 is too large: the list of what a key protects has more than 50000 entries
100,000 usages by kind: exit 7
  error: the reply from cluster:8000 is too large: the list of what a key protects has more than 50000 entries
20,000 keys that protect 40,000 snapshots each: exit 7
  error: the stored keys protect more than 100000 objects
a long challenge: exit 7
  error: the reply from cluster:8000 is too large: a text in the reply is longer than 64 KiB
a longer challenge: exit 7
  error: the reply from cluster:8000 is too large: the reply is larger than 256 KiB
a long path of a snapshot: exit 7
  error: the reply from cluster:8000 is too large: a text in the reply is longer than 64 KiB

"#]].raw());
}

#[test]
fn thousands_of_keys_and_usages_are_listed() {
    let keys = format!(
        r#"*list_keys*) echo '{{"entries": ['; entries 4000 '{{"id": "%d", "name": "k", "comment": "", "disabled": false, "public_key": "{ALICE_PUBLIC}"}}'; echo ']}}'; exit;;"#
    );
    let qkey = with_qq(&keys);
    let text = run(&qkey, KEYS);
    assert_eq!((text.code, &*text.stderr), (0, ""));
    assert_eq!(text.stdout.lines().count(), 4001);
    let keys = run(&qkey, "keys --output=json").json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 4000);
    assert_eq!(keys["keys"][3999]["id"], "4000");

    let usages = r#"*get_key_usage*) echo '['; entries 40000 '    {\n        "type": "snapshot",\n        "id": "%d"\n    }'; echo ']'; exit;;"#;
    let qkey = with_qq(usages);
    let text = run(&qkey, USAGE);
    assert_eq!((text.code, &*text.stderr), (0, ""));
    assert!(text.stdout.ends_with("\n  snapshot 40000\n"));
    let keys = run(&qkey, "keys usage --output=json").json();
    assert_eq!(keys["keys"][0]["usages"][39_999]["id"], "40000");
}

#[test]
fn one_wide_name_does_not_widen_thousands_of_rows() {
    let keys = r#"*list_keys*) echo '{"entries": [{"id": 1, "public_key": "", "name": "'$(letters 60000)'"},'; entries 19999 '{"id": %d, "name": "k", "public_key": "", "comment": "c"}'; echo ']}'; exit;;"#;
    let run = run(&with_qq(keys), KEYS);
    assert_eq!((run.code, run.stdout.lines().count()), (0, 20_001));
    assert!(run.stdout.len() < 10 << 20, "{}", run.stdout.len());
}

#[test]
fn memory_is_bounded_for_any_rest_reply() {
    let mut text = String::new();
    for (title, line, on, kind, more) in [
        (
            "a long list",
            KEYS,
            "list_keys",
            "huge",
            json!({ "mib": 9 }),
        ),
        (
            "an endless list",
            KEYS,
            "list_keys",
            "huge",
            json!({ "mib": 64, "chunked": true }),
        ),
        (
            "long pages",
            KEYS,
            "list_keys",
            "huge",
            json!({ "mib": 3, "times": 0 }),
        ),
        (
            "a long error",
            KEYS,
            "list_keys",
            "status",
            json!({ "status": 400, "error_class": "x", "description": "y".repeat(3 << 20) }),
        ),
        (
            "a longer error",
            UNLOCK,
            "get_status",
            "status",
            json!({ "status": 400, "error_class": "x", "description": "y".repeat(300 << 10) }),
        ),
        (
            "long usages",
            USAGE,
            "key_usage",
            "huge",
            json!({ "mib": 5 }),
        ),
        (
            "a long status",
            UNLOCK,
            "get_status",
            "huge",
            json!({ "mib": 1 }),
        ),
        (
            "a long challenge",
            UNLOCK,
            "unlock_challenge",
            "huge",
            json!({ "mib": 1, "chunked": true }),
        ),
    ] {
        let core = Core::start();
        for name in ["lock", "other", "third"] {
            core.add_key(json!({ "name": name, "public_key": ALICE_PUBLIC }));
        }
        core.add_snapshot(json!({ "id": 7, "lock_key": "1" }));
        core.page_limit(1, json!({ "keys": true }));
        core.fault(on, kind, more);
        let run = run(&Qkey::with_rest(&core), line);
        let errors = run.stderr.lines().filter(|line| !line.starts_with("hint"));
        let errors: Vec<String> = errors
            .map(|line| line.chars().take(160).collect())
            .collect();
        text.push_str(&format!(
            "{title}: exit {}\n  {}\n",
            run.code,
            errors.join("\n  ")
        ));
        assert!(run.stderr.len() < 5_000, "{title}: {}", run.stderr);
    }
    assert_data_eq!(text, str![[r#"
a long list: exit 7
  error: the reply from 127.0.0.1:[PORT] is too large: the key list is larger than 8 MiB
an endless list: exit 7
  error: the reply from 127.0.0.1:[PORT] is too large: the key list is larger than 8 MiB
long pages: exit 7
  error: the reply from 127.0.0.1:[PORT] is too large: the key list is larger than 8 MiB
a long error: exit 5
  error: 127.0.0.1:[PORT] refused to list the lock keys
    caused by: Error 400: x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy
a longer error: exit 7
  error: the reply from 127.0.0.1:[PORT] is too large: the reply is larger than 256 KiB
long usages: exit 7
  error: the reply from 127.0.0.1:[PORT] is too large: the list of what a key protects is larger than 4 MiB
a long status: exit 7
  error: the reply from 127.0.0.1:[PORT] is too large: the reply is larger than 256 KiB
a long challenge: exit 7
  error: the reply from 127.0.0.1:[PORT] is too large: the reply is larger than 256 KiB

"#]].raw());
}

#[test]
fn oversized_reply_to_a_submission_is_a_lost_answer() {
    let core = Core::start();
    core.add_key(json!({ "name": "lock", "public_key": ALICE_PUBLIC }));
    core.add_snapshot(json!({ "id": 7, "lock_key": "1" }));
    core.fault("unlock", "huge_after", json!({ "mib": 1 }));
    let done = r#"*get_status*) echo '{"id": 7, "lock_key": '"$(cat state || echo '"1"')}"; exit;;
        *unlock_snapshot*) echo null >state; exec yes;;"#;
    for qkey in [Qkey::with_rest(&core), with_qq(done)] {
        let run = run(&qkey, UNLOCK);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stderr.contains("larger than 256 KiB"), "{run:?}");
    }
}

#[test]
fn memory_is_bounded_for_any_output_of_a_tool() {
    let qkey = Qkey::new();
    fs::create_dir(qkey.path("bin")).unwrap();
    for name in ["qkey-signer-test", "az", "openssl"] {
        qkey.write_program(&format!("bin/{name}"), "#!/bin/sh\nexec yes\n");
    }
    let path = format!("{}:/usr/bin:/bin", qkey.path("bin").display());
    let qkey = qkey.env("PATH", &path);
    for source in ["plugin:test:x", "azurekms://vault/key", "openssl:alice.pem"] {
        let run = run(&qkey, &format!("pubkey {source}"));
        assert_eq!(run.code, 3, "{}", run.stderr);
        assert!(
            run.stderr.contains("wrote more than 1 MiB and was killed"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn out_of_memory_is_an_error_or_an_unknown_outcome() {
    // From then on the system gives qkey, its parent, no more memory; what it prints takes some.
    let no_more = "prlimit --pid=$PPID --as=1; blanks 250000";
    // As the C library does when it finds none.
    let abort = "kill -ABRT $PPID";
    let json = format!("{UNLOCK} --output=json");
    let mut text = String::new();
    for (command, fault, line) in [
        ("*list_keys*", no_more, "keys"),
        ("*list_keys*", no_more, "keys --output=json"),
        ("*unlock_snapshot*", no_more, UNLOCK),
        ("*unlock_snapshot*", no_more, &json),
        ("*list_keys*", abort, "keys"),
        ("*unlock_snapshot*", abort, UNLOCK),
    ] {
        let qkey = with_qq(&format!("{command}) {fault}; exit;;"));
        let run = qkey.run(line.split(' '));
        text.push_str(&format!("$ qkey {line}\n{}\n", run.transcript()));
    }
    assert_data_eq!(text, str![[r#"
$ qkey keys
--- exit 1
error: out of memory
hint: nothing was being submitted; raise the limit (see `ulimit -a`) or free memory, then rerun: it skips what is already done

$ qkey keys --output=json
--- exit 1
{"error":{"kind":"internal","message":"out of memory","causes":[],"hint":"nothing was being submitted; raise the limit (see `ulimit -a`) or free memory, then rerun: it skips what is already done","exit_code":1}}

$ qkey unlock --id=7 --key=alice.pem
--- exit 8
error: the request to unlock snapshot 7 ("daily") was sent, but the result could not be confirmed
  caused by: out of memory or threads
hint: keep every key; `[DIR]/qq --host=cluster snapshot_get_status --id=7` shows whether it was done; rerunning is safe: qkey looks first

$ qkey unlock --id=7 --key=alice.pem --output=json
--- exit 8
{"error":{"kind":"unknown","message":"the request to unlock snapshot 7 (\"daily\") was sent, but the result could not be confirmed","causes":["out of memory or threads"],"hint":"keep every key; `[DIR]/qq --host=cluster snapshot_get_status --id=7` shows whether it was done; rerunning is safe: qkey looks first","exit_code":8}}

$ qkey keys
--- exit 1
error: qkey aborted: out of memory, or a PKCS#11 module failed
hint: nothing was being submitted; raise the limit (see `ulimit -a`) or free memory, then rerun: it skips what is already done

$ qkey unlock --id=7 --key=alice.pem
--- exit 8
error: the request to unlock snapshot 7 ("daily") was sent, but the result could not be confirmed
  caused by: out of memory or threads
hint: keep every key; `[DIR]/qq --host=cluster snapshot_get_status --id=7` shows whether it was done; rerunning is safe: qkey looks first


"#]].raw());
}

#[test]
fn little_memory_ends_in_no_panic_abort_or_hang() {
    let qkey = with_qq("");
    let lines = [
        "qkey --version",
        "qkey keys",
        "qkey sign --key alice.pem x",
        "qkey unlock --id 7 --key alice.pem",
    ];
    for kibibytes in (10_000..40_000).step_by(3_000).chain([60_000, 200_000]) {
        for line in lines {
            let line = format!("ulimit -v {kibibytes}; exec timeout -s KILL 60 {line}");
            let run = shell::run(&qkey, &line);
            assert!(!run.stderr.contains("panicked"), "{line}: {run:?}");
            // Below what the program itself takes, the system does not start it.
            let not_started =
                run.code == 127 || run.code == 126 || run.code == -1 && kibibytes < 24_000;
            assert!(
                not_started || [0, 1, 3, 7].contains(&run.code),
                "{line}: {run:?}"
            );
        }
    }
}
