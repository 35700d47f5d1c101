//! `--via rest` when something goes wrong before or besides a submission: what is retried, what is
//! given up, and which replies are not those of the REST API. Lost replies to submissions are in
//! `transports.rs`.

use std::os::unix::process::CommandExt;

use crate::support::{
    ceremony::{ADD, CEREMONIES, LOCK, REPLACE, UNLOCK},
    core::Core,
    qkey::{BOB_PUBLIC, Qkey, Run, side_by_side},
    snapshot::{filtered, qkey_snapshot, session, snapshot, table},
};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::{Value, json};
use snapbox::str;

fn with_times(mut fault: Value, times: u64) -> Value {
    fault["times"] = times.into();
    fault
}

/// Runs a command line that meets a fault whenever it makes a request.
fn with_fault(on: &str, kind: &str, more: &Value, line: &str) -> (Core, Run) {
    let core = Core::with_lock_key();
    core.fault(on, kind, with_times(more.clone(), 0));
    let run = Qkey::with_rest(&core).line(line);
    (core, run)
}

fn submissions(core: &Core) -> usize {
    CEREMONIES
        .iter()
        .map(|(operation, _)| core.count(operation))
        .sum()
}

// Retries.

#[test]
fn transient_read_failures_are_retried_twice() {
    let kinds = [
        ("drop_before", json!({})),
        ("cut", json!({})),
        ("empty", json!({ "status": 503 })),
        ("status", json!({ "status": 503 })),
        ("status", json!({ "status": 408 })),
        ("status", json!({ "status": 429, "retry_after": 1 })),
        ("status", json!({ "status": 503, "retry_after": 0 })),
        (
            "status",
            json!({ "status": 503, "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT" }),
        ),
        ("status", json!({ "status": 503, "retry_after": "soon" })),
        ("status", json!({ "status": 503, "retry_after": -1 })),
        ("status", json!({ "status": 503, "retry_after": 1.5 })),
        // Does not fit into a number of seconds.
        (
            "status",
            json!({ "status": 503, "retry_after": "99999999999999999999999" }),
        ),
    ];
    let cases: Vec<String> = (0..kinds.len()).map(|case| case.to_string()).collect();
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    side_by_side(&cases, |case| {
        let (kind, more) = &kinds[case.parse::<usize>().expect("a number")];
        let core = Core::with_lock_key();
        let qkey = Qkey::with_rest(&core);
        core.fault("list_keys", kind, with_times(more.clone(), 2));
        let run = qkey.line("keys");
        assert_eq!((run.code, &*run.stderr), (0, ""), "{kind} {more}");
        assert_eq!(core.count("list_keys"), 3, "{kind} {more}");
        core.fault("list_keys", kind, with_times(more.clone(), 0));
        assert_eq!(qkey.line("keys").code, 7, "{kind} {more}");
        assert_eq!(core.count("list_keys"), 6, "{kind} {more}");
        String::new()
    });
    for (operation, line) in READS {
        let core = Core::with_lock_key();
        core.fault(operation, "drop_before", json!({ "times": 2 }));
        let run = Qkey::with_rest(&core).line(&format!("{line} --dry-run"));
        assert_eq!((run.code, &*run.stderr), (0, ""), "{operation}");
        assert_eq!(core.count(operation), 3, "{operation}");
    }
}

/// The reads of the ceremonies.
const READS: [(&str, &str); 4] = [
    ("list_keys", ADD),
    ("replace_challenge", REPLACE),
    ("get_status", LOCK),
    ("unlock_challenge", UNLOCK),
];

#[test]
fn retry_is_logged() {
    let core = Core::with_lock_key();
    core.fault("list_keys", "status", json!({ "status": 503 }));
    let run = Qkey::with_rest(&core).line("keys list -v --output=json");
    snapshot!(
        run.stderr,
        str![[r#"
{"log":{"level":"info","message":"list the lock keys"}}
{"log":{"level":"info","message":"127.0.0.1:[PORT] failed to list the lock keys: Error 503: http_service_unavailable_error: Simulated failure 503.; retrying"}}
{"log":{"level":"info","message":"list the lock keys"}}

"#]]
    );
}

#[test]
fn long_retry_after_is_not_awaited() {
    // The last also after some time has passed.
    for (seconds, earlier) in [("31", 0), ("86400", 0), ("18446744073709551615", 1)] {
        let core = Core::with_lock_key();
        if earlier > 0 {
            let busy = json!({ "status": 503, "retry_after": 1 });
            core.fault("list_keys", "status", busy);
        }
        let busy = json!({ "status": 503, "retry_after": seconds, "times": 0 });
        core.fault("list_keys", "status", busy);
        assert_eq!(Qkey::with_rest(&core).line("keys").code, 7);
        assert_eq!(core.count("list_keys"), 1 + earlier, "{seconds}");
    }
}

#[test]
fn timed_out_read_is_not_retried() {
    let said = side_by_side(&["slow", "drip"], |kind| {
        let seconds = if kind == "slow" { 30.0 } else { 0.3 };
        let (core, run) = with_fault(
            "list_keys",
            kind,
            &json!({ "seconds": seconds }),
            "keys --timeout=1",
        );
        assert_eq!(core.count("list_keys"), 1);
        filtered(&run)
    });
    snapshot!(
        said,
        str![[r#"
==== slow
--- exit 7
error: no reply from 127.0.0.1:[PORT] within 1 s to the request to list the lock keys
hint: check whether the cluster responds, or give it more time with --timeout SECONDS
==== drip
--- exit 7
error: no reply from 127.0.0.1:[PORT] within 1 s to the request to list the lock keys
hint: check whether the cluster responds, or give it more time with --timeout SECONDS

"#]]
    );
    // Whichever of the reads that share the connection comes first is reported.
    for ceremony in [LOCK, UNLOCK] {
        let line = format!("{ceremony} --timeout=1");
        let (_, run) = with_fault("list_keys", "slow", &json!({ "seconds": 30 }), &line);
        assert_eq!(run.code, 7, "{run:?}");
        assert!(
            run.stderr
                .starts_with("error: no reply from 127.0.0.1:[PORT] "),
            "{run:?}"
        );
    }
}

#[test]
fn permanent_read_failures_are_quoted_and_not_retried() {
    let mut said = String::new();
    for (kind, more) in [
        ("status", json!({ "status": 400 })),
        ("status", json!({ "status": 401 })),
        ("status", json!({ "status": 403 })),
        ("status", json!({ "status": 404 })),
        ("status", json!({ "status": 500 })),
        ("status", json!({ "status": 504 })),
        ("html_502", json!({})),
        ("not_json", json!({})),
        ("truncated", json!({})),
        ("empty", json!({})),
        (
            "redirect",
            json!({ "location": "https://elsewhere.invalid/keys" }),
        ),
    ] {
        let (core, run) = with_fault("list_keys", kind, &more, "keys");
        assert_eq!(core.requests().len(), 1, "{kind} {more}");
        said += &format!("==== {kind} {more}\n{}", filtered(&run));
    }
    snapshot!(
        said,
        str![[r#"
==== status {"status":400}
--- exit 5
error: 127.0.0.1:[PORT] refused to list the lock keys
  caused by: Error 400: invalid_request_error: Simulated failure 400.
hint: nothing was changed; fix what the cluster reports, then run this again
==== status {"status":401}
--- exit 6
error: not logged in to 127.0.0.1:[PORT] (the token in [CREDENTIALS] was rejected)
  caused by: Error 401: http_unauthorized_error: Simulated failure 401.
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== status {"status":403}
--- exit 6
error: 127.0.0.1:[PORT] denied permission to list the lock keys
  caused by: Error 403: http_forbidden_error: Simulated failure 403.
hint: log in as a user whose role includes PRIVILEGE_FS_KEY_MANAGEMENT_READ; role changes take effect at the next login
==== status {"status":404}
--- exit 5
error: 127.0.0.1:[PORT] refused to list the lock keys
  caused by: Error 404: fs_no_such_entry_error: Simulated failure 404.
hint: `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows what exists
==== status {"status":500}
--- exit 5
error: 127.0.0.1:[PORT] failed to list the lock keys
  caused by: Error 500: http_internal_server_error: Simulated failure 500.
hint: the cluster reports an internal problem; check its health, then run this again
==== status {"status":504}
--- exit 7
error: 127.0.0.1:[PORT] failed to list the lock keys
  caused by: Error 504: unknown_error: Simulated failure 504.
hint: the cluster, or a proxy in front of it, is not ready; try again later
==== html_502 {}
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: status 502: <html>  <head><title>502 Bad Gateway</title></head>  <body>  <center><h1>502 Bad Gateway</h1></center>  </body>  </html>
hint: check --host and --port: a proxy or another service may respond there
==== not_json {}
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: This is not JSON.
hint: check --host and --port: a proxy or another service may respond there
==== truncated {}
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: {"entries": [{"id": "1", "name": "lock-2026", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0C
hint: check --host and --port: a proxy or another service may respond there
==== empty {}
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: (nothing)
hint: check --host and --port: a proxy or another service may respond there
==== redirect {"location":"https://elsewhere.invalid/keys"}
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: it redirects to https://elsewhere.invalid/keys, which qkey does not follow
hint: check --host and --port: a proxy or another service may respond there

"#]]
    );
}

#[test]
fn failed_read_prevents_submission() {
    let faults = [
        ("status", json!({ "status": 401 })),
        ("status", json!({ "status": 404 })),
        ("status", json!({ "status": 503, "retry_after": 0 })),
        ("html_502", json!({})),
    ];
    let said = table(READS.map(|(read, _)| read), |read| {
        let codes = CEREMONIES.map(|(operation, ceremony)| {
            let codes = faults.each_ref().map(|(kind, more)| {
                let (core, run) = with_fault(read, kind, more, ceremony);
                // A status is also read after the submission.
                assert_eq!(submissions(&core), usize::from(run.code == 0), "{run:?}");
                run.code
            });
            format!("{operation}: {codes:?}\n")
        });
        codes.concat()
    });
    snapshot!(
        said,
        str![[r#"
==== list_keys
add_key: [6, 5, 7, 7]
lock: [6, 5, 7, 7]
unlock: [6, 5, 7, 7]
replace_key: [6, 5, 7, 7]
==== replace_challenge
add_key: [0, 0, 0, 0]
lock: [0, 0, 0, 0]
unlock: [0, 0, 0, 0]
replace_key: [6, 5, 7, 7]
==== get_status
add_key: [0, 0, 0, 0]
lock: [6, 5, 7, 7]
unlock: [6, 5, 7, 7]
replace_key: [0, 0, 0, 0]
==== unlock_challenge
add_key: [0, 0, 0, 0]
lock: [0, 0, 0, 0]
unlock: [6, 5, 7, 7]
replace_key: [0, 0, 0, 0]

"#]]
    );
}

#[test]
fn refused_submission_changes_nothing_and_is_not_retried() {
    let nested = json!({
        "status": 400,
        "description": "Outer.",
        "inner": { "error_class": "inner_error", "description": "Inner.", "module": "m", "stack": [], "user_visible": true },
    });
    let mut said = String::new();
    for (operation, ceremony) in CEREMONIES {
        for status in [400, 401, 403, 404, 409, 429] {
            let refusal = match status {
                400 => nested.clone(),
                _ => json!({ "status": status, "description": "Not now." }),
            };
            let core = Core::with_lock_key();
            let before = core.state();
            core.fault(operation, "status", refusal);
            let run = Qkey::with_rest(&core).line(ceremony);
            assert_eq!(core.count(operation), 1, "{operation}: {status}");
            assert_eq!(core.state(), before, "{operation}: {status}");
            if operation == "unlock" && ![404, 409].contains(&status) {
                said += &format!("==== {status}\n{}", filtered(&run));
            } else {
                let code = match status {
                    401 | 403 => 6,
                    429 => 7,
                    _ => 5,
                };
                assert_eq!(run.code, code, "{operation}: {status}: {run:?}");
            }
        }
    }
    snapshot!(
        said,
        str![[r#"
==== 400
--- exit 5
error: 127.0.0.1:[PORT] refused to unlock snapshot 2
  caused by: Error 400: invalid_request_error: Outer. (inner_error: Inner.)
hint: nothing was changed; fix what the cluster reports, then run this again; the cluster now holds a signature made with alice.pem over its challenge
==== 401
--- exit 6
error: not logged in to 127.0.0.1:[PORT] (the token in [CREDENTIALS] was rejected)
  caused by: Error 401: http_unauthorized_error: Not now.
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE; the cluster now holds a signature made with alice.pem over its challenge
==== 403
--- exit 6
error: 127.0.0.1:[PORT] denied permission to unlock snapshot 2
  caused by: Error 403: http_forbidden_error: Not now.
hint: log in as a user whose role includes PRIVILEGE_SNAPSHOT_LOCK; role changes take effect at the next login; the cluster now holds a signature made with alice.pem over its challenge
==== 429
--- exit 7
error: 127.0.0.1:[PORT] refused to unlock snapshot 2
  caused by: Error 429: unknown_error: Not now.
hint: the cluster, or a proxy in front of it, is not ready; try again later; the cluster now holds a signature made with alice.pem over its challenge

"#]]
    );
}

#[test]
fn stale_challenge_is_fetched_and_signed_again() {
    for (operation, ceremony) in [("replace_key", REPLACE), ("unlock", UNLOCK)] {
        let core = Core::with_lock_key();
        core.fault(operation, "stale", json!({}));
        let run = Qkey::with_rest(&core).line(ceremony);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
        assert_eq!(core.count(operation), 2);
    }
    let core = Core::with_lock_key();
    let qkey = Qkey::with_rest(&core);
    for operation in ["replace_key", "unlock"] {
        core.fault(operation, "stale", json!({ "times": 0 }));
    }
    for (attempts, line) in [
        (1, format!("{UNLOCK} --attempts=1")),
        (3, format!("{REPLACE} --attempts=3")),
        (2, REPLACE.to_owned()),
    ] {
        core.clear_requests();
        qkey.line(&line);
        assert_eq!(submissions(&core), attempts, "{line}");
    }
    let lines = [&format!("{REPLACE} --attempts=1"), UNLOCK];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey replace -k1 --old-key=alice.pem --new-key=bob.pem --attempts=1
--- exit 5
error: the challenge changed before the submission
  caused by: 127.0.0.1:[PORT] refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts
$ qkey unlock --id=2 --key=alice.pem
--- exit 5
error: the challenge changed before each of 2 submissions
  caused by: 127.0.0.1:[PORT] refused to unlock snapshot 2
  caused by: Error 400: invalid_request_error: The signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts

"#]]
    );
}

#[test]
fn disabled_key_unlocks_but_cannot_lock() {
    let core = Core::with_lock_key();
    core.modify_key("1", json!({ "disabled": true }));
    snapshot!(
        session(&Qkey::with_rest(&core), [LOCK, UNLOCK]),
        str![[r#"
$ qkey lock --id=3 --lock-key=1
--- exit 5
error: key 1 ("lock-2026") is disabled and cannot lock snapshots
hint: nothing was sent; choose another key, or enable it: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_modify_key --key=1 --enable`
$ qkey unlock --id=2 --key=alice.pem
Unlocked snapshot 2 ("2_snapshot") with key 1 ("lock-2026").

"#]]
    );
    assert_eq!(core.count("lock"), 0);
}

// Replies.

#[test]
fn reply_over_8_mib_is_refused() {
    for chunked in [false, true] {
        let core = Core::with_lock_key();
        let huge = json!({ "mib": 128, "chunked": chunked, "times": 0 });
        core.fault("list_keys", "huge", huge);
        let qkey = Qkey::with_rest(&core).env("MALLOC_ARENA_MAX", "1");
        // The limit counts all mappings, the program included; each arena maps much and uses little.
        let run = limited(&qkey, "keys list", Resource::As, 180 << 20);
        snapshot!(
            run.transcript(),
            str![[r#"
--- exit 7
error: the reply from 127.0.0.1:[PORT] is too large: the key list is larger than 8 MiB
hint: a cluster sends far less; check --host and --port: a proxy or another service may respond there

"#]]
        );
        assert_eq!(core.count("list_keys"), 1);
    }
    let core = Core::with_lock_key();
    core.fault("list_keys", "huge", json!({ "mib": 7.9 }));
    assert_eq!(Qkey::with_rest(&core).line("keys").code, 0);
}

/// Runs a command line under a resource limit.
fn limited(qkey: &Qkey, line: &str, resource: Resource, limit: u64) -> Run {
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    let mut command = qkey.command(line.split(' '));
    // Only setrlimit(2) runs between fork and exec.
    unsafe { command.pre_exec(move || Ok(setrlimit(resource, limit)?)) };
    qkey.taken(&command.output().expect("qkey runs"))
}

/// The command line that makes a request.
fn line_for(operation: &str) -> &str {
    match operation {
        "list_keys" => "keys",
        "key_usage" => "keys usage",
        "add_key" => ADD,
        "replace_challenge" | "replace_key" => REPLACE,
        _ => UNLOCK,
    }
}

/// What a run says, without the hint of all unexpected replies.
fn without_hint(run: &Run) -> String {
    const HINT: &str =
        "hint: check --host and --port: a proxy or another service may respond there\n";
    filtered(run).replace(HINT, "")
}

#[test]
fn missing_fields_are_named() {
    let cases = [
        "list_keys id",
        "list_keys public_key",
        "list_keys entries",
        "key_usage usages",
        "key_usage id",
        "replace_challenge challenge",
        "get_status id",
        "get_status lock_key",
        "unlock_challenge challenge",
        // Done, as a lookup shows.
        "add_key id",
        "replace_key public_key",
        // Optional.
        "list_keys comment",
        "get_status name",
    ];
    let said = table(cases, |case| {
        let (on, field) = case.split_once(' ').expect("two words");
        let (_, run) = with_fault(on, "without", &json!({ "field": field }), line_for(on));
        without_hint(&run)
    });
    snapshot!(
        said,
        str![[r#"
==== list_keys id
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (missing field `id` at line 1 column 210), got: {"entries": [{"name": "lock-2026", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE…
==== list_keys public_key
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (missing field `public_key` at line 1 column 79), got: {"entries": [{"id": "1", "name": "lock-2026", "comment": "", "disabled": false}]}
==== list_keys entries
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (missing field `entries` at line 1 column 2), got: {}
==== key_usage usages
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list what key 1 protects
  caused by: expected a list of usages in JSON (missing field `usages` at line 1 column 24), got: {"paging": {"next": ""}}
==== key_usage id
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list what key 1 protects
  caused by: expected a list of usages in JSON (missing field `id` at line 1 column 32), got: {"usages": [{"type": "snapshot"}], "paging": {"next": ""}}
==== replace_challenge challenge
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to get the challenge to replace key 1
  caused by: expected a challenge in JSON (missing field `challenge` at line 1 column 2), got: {}
==== get_status id
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 2
  caused by: expected the snapshot's status in JSON (missing field `id` at line 1 column 216), got: {"name": "2_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name": null, "s…
==== get_status lock_key
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 2
  caused by: expected the snapshot's status in JSON (missing field `lock_key` at line 1 column 208), got: {"id": 2, "name": "2_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name":…
==== unlock_challenge challenge
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to get the challenge to unlock snapshot 2
  caused by: expected a challenge in JSON (missing field `challenge` at line 1 column 2), got: {}
==== add_key id
Stored key 2 ("new") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: unexpected reply to the request to add key "new" (unexpected reply from 127.0.0.1:[PORT] to the request to store key "new": expected the key in JSON (missing field `id` at line 1 column 191), got: {"name": "new", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE4pvPqFpgnVaiL1Uq90I…); checked: it was done
==== replace_key public_key
Replaced key 1 ("lock-2026").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON (missing field `public_key` at line 1 column 66), got: {"id": "1", "name": "lock-2026", "comment": "", "disabled": false}); checked: it was done
==== list_keys comment
ID  NAME       STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock-2026  enabled  SHA256:[ALICE…]  -
==== get_status name
Unlocked snapshot 2 with key 1 ("lock-2026").

"#]]
    );
}

#[test]
fn wrong_json_types_are_named() {
    let cases = [
        "challenge",
        "an empty challenge",
        "expiration",
        "name",
        "comment",
        "disabled",
    ];
    let said = table(cases, |case| {
        let core = Core::with_lock_key();
        match *case {
            "challenge" => drop(core.command(json!({ "op": "challenge_text", "text": 5 }))),
            "an empty challenge" => core.challenge_text(Some("")),
            "expiration" => drop(core.modify_snapshot(2, json!({ "expiration": 5 }))),
            "name" => drop(core.modify_snapshot(2, json!({ "name": ["seven"] }))),
            "comment" => drop(core.modify_key("1", json!({ "comment": null }))),
            _ => drop(core.modify_key("1", json!({ "disabled": "no" }))),
        }
        let run = Qkey::with_rest(&core).line(UNLOCK);
        assert_eq!(core.count("unlock"), 0, "{case}: {run:?}");
        without_hint(&run)
    });
    snapshot!(
        said,
        str![[r#"
==== challenge
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to get the challenge to unlock snapshot 2
  caused by: expected a challenge in JSON (invalid type: integer `5`, expected a string at line 1 column 15), got: {"challenge": 5}
==== an empty challenge
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to get the challenge to unlock snapshot 2
  caused by: expected a challenge in JSON, got: {"challenge": ""}
==== expiration
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 2
  caused by: expected the snapshot's status in JSON (invalid type: integer `5`, expected a string at line 1 column 84), got: {"id": 2, "name": "2_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": 5, "policy_id": null, "policy_name": …
==== name
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 2
  caused by: expected the snapshot's status in JSON (invalid type: sequence, expected a string at line 1 column 18), got: {"id": 2, "name": ["seven"], "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name": nu…
==== comment
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (invalid type: null, expected a string at line 1 column 61), got: {"entries": [{"id": "1", "name": "lock-2026", "comment": null, "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZ…
==== disabled
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (invalid type: string "no", expected a boolean at line 1 column 77), got: {"entries": [{"id": "1", "name": "lock-2026", "comment": "", "disabled": "no", "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj…

"#]]
    );
}

#[test]
fn challenges_are_signed_byte_for_byte() {
    let long = "längs 🔑 ".repeat(1_250);
    for challenge in [
        " ",
        r#""quotes" and \backslashes\ \n \u0041"#,
        " lines\nand\r\nblanks around \t \n ",
        "é Ω 🔑 \u{2028} \u{fffd} \u{1} \u{7f}",
        &long,
    ] {
        let core = Core::with_lock_key();
        core.challenge_text(Some(challenge));
        for line in [UNLOCK, REPLACE] {
            assert_eq!(Qkey::with_rest(&core).line(line).code, 0, "{challenge:?}");
        }
    }
}

#[test]
fn pages_are_followed() {
    for next in ["path", "absolute"] {
        let core = Core::with_lock_key();
        for id in 100..110 {
            core.add_snapshot(json!({ "id": id, "lock_key": "1" }));
            core.add_key(json!({ "name": format!("key-{id}"), "public_key": BOB_PUBLIC }));
        }
        core.page_limit(3, json!({ "keys": true, "next": next }));
        let qkey = Qkey::with_rest(&core);
        let run = qkey.line("keys usage --output=json");
        assert_eq!((run.code, core.count("list_keys")), (0, 4), "{run:?}");
        for id in 100..110 {
            assert!(run.stdout.contains(&format!("key-{id}")), "{run:?}");
            assert!(run.stdout.contains(&format!("\"{id}\"")), "{run:?}");
        }
        // A failure on the second page leaves no partial list.
        core.fault("key_usage", "slow", json!({ "seconds": 0 }));
        core.fault("key_usage", "status", json!({ "status": 500, "times": 0 }));
        let run = qkey.line("keys usage 1");
        assert_eq!((run.code, &*run.stdout), (5, ""), "{run:?}");
    }
}

#[test]
fn pages_elsewhere_and_endless_lists_are_refused() {
    let said = table(["elsewhere", "loop", "cycle"], |next| {
        let core = Core::with_lock_key();
        core.add_key(json!({ "name": "third", "public_key": BOB_PUBLIC }));
        core.add_key(json!({ "name": "other", "public_key": BOB_PUBLIC }));
        core.page_limit(1, json!({ "keys": true, "next": next }));
        let run = Qkey::with_rest(&core).line("keys");
        assert!(core.count("list_keys") <= 2, "{next}: {run:?}");
        without_hint(&run)
    });
    snapshot!(
        said,
        str![[r#"
==== elsewhere
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: its next page is on another host: https://elsewhere.invalid:8000/v1/file-system/security/keys/?after=1&limit=1
==== loop
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: the list has no last page
==== cycle
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: the list has no last page

"#]]
    );
}

// Many snapshots.

/// Locks `count` more snapshots, 100 and following; returns their ids for the command line.
fn lock_more(core: &Core, count: u64) -> String {
    let ids = 100..100 + count;
    ids.map(|id| {
        core.add_snapshot(json!({ "id": id, "lock_key": "1" }));
        format!(" --id={id}")
    })
    .collect()
}

#[test]
fn repeated_refusals_end_a_batch() {
    let core = Core::with_lock_key();
    let unlock = format!("unlock --key=alice.pem --jobs=1{}", lock_more(&core, 20));
    let qkey = Qkey::with_rest(&core);
    core.fault("get_status", "status", json!({ "status": 403, "times": 0 }));
    qkey_snapshot!(
        qkey,
        unlock.split(' '),
        str![[r#"
Unlocked 0, already unlocked 0, failed 5, not tried 15.
--- exit 6
error: 127.0.0.1:[PORT] denied permission to read snapshot 100
  caused by: Error 403: http_forbidden_error: Simulated failure 403.
hint: log in as a user whose role includes PRIVILEGE_SNAPSHOT_READ; role changes take effect at the next login
error: 127.0.0.1:[PORT] denied permission to read snapshot 101
  caused by: Error 403: http_forbidden_error: Simulated failure 403.
hint: log in as a user whose role includes PRIVILEGE_SNAPSHOT_READ; role changes take effect at the next login
error: 127.0.0.1:[PORT] denied permission to read snapshot 102
  caused by: Error 403: http_forbidden_error: Simulated failure 403.
hint: log in as a user whose role includes PRIVILEGE_SNAPSHOT_READ; role changes take effect at the next login
error: 127.0.0.1:[PORT] denied permission to read snapshot 103
  caused by: Error 403: http_forbidden_error: Simulated failure 403.
hint: log in as a user whose role includes PRIVILEGE_SNAPSHOT_READ; role changes take effect at the next login
error: 127.0.0.1:[PORT] denied permission to read snapshot 104
  caused by: Error 403: http_forbidden_error: Simulated failure 403.
hint: log in as a user whose role includes PRIVILEGE_SNAPSHOT_READ; role changes take effect at the next login
error: 5 of 20 snapshots failed; 15 were not tried, because the cluster is out of reach or refuses this user
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
    assert_eq!(core.count("get_status"), 5);

    core.clear_faults();
    core.fault("unlock", "drop_before", json!({ "times": 6 }));
    let run = qkey.line(&unlock);
    assert_eq!(run.code, 8, "{run:?}");
    let summary = "Unlocked 14, already unlocked 0, failed 0, result unknown 6.";
    assert_eq!(run.stdout.lines().last(), Some(summary));
}

#[test]
fn unlock_that_has_no_effect_is_unknown() {
    let core = Core::with_lock_key();
    core.modify_snapshot(3, json!({ "lock_key": "1" }));
    core.fault("unlock", "empty", json!({ "id": 3 }));
    let lines = ["unlock --id=2 --id=3 --key=alice.pem"];
    snapshot!(
        session(&Qkey::with_rest(&core), lines),
        str![[r#"
$ qkey unlock --id=2 --id=3 --key=alice.pem
Unlocked snapshot 2 ("2_snapshot") with key 1 ("lock-2026").
Unlocked 1, already unlocked 0, failed 0, result unknown 1.
--- exit 8
error: the cluster accepted the request to unlock snapshot 3 ("3_snapshot"), but does not show it: not done so far, and may still be
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
error: the result for 1 of 2 snapshots is unknown
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

"#]]
    );
    assert_eq!(core.count("list_statuses"), 4);
}

#[test]
fn refused_listing_falls_back_to_status_per_snapshot() {
    let core = Core::with_lock_key();
    core.modify_snapshot(3, json!({ "lock_key": "1" }));
    core.fault(
        "list_statuses",
        "status",
        json!({ "status": 403, "times": 0 }),
    );
    let run = Qkey::with_rest(&core).line("unlock --id=2 --id=3 --key=alice.pem");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        (core.count("list_statuses"), core.count("get_status")),
        (1, 4)
    );
}

#[test]
fn open_file_limit_is_named() {
    let core = Core::with_lock_key();
    let unlock = format!("unlock --key=alice.pem --jobs=6{}", lock_more(&core, 6));
    let qkey = Qkey::with_rest(&core);
    let with_open_files = |number, line| limited(&qkey, line, Resource::Nofile, number);
    let enough = (6..).find(|&number| with_open_files(number, "keys").code == 0);
    // Longer than it takes to give up, so that no connection is free for another job.
    core.fault("get_status", "slow", json!({ "seconds": 4, "times": 0 }));
    let run = with_open_files(enough.expect("a number") + 2, &unlock);
    let told = "cannot reach 127.0.0.1:[PORT]: Too many open files (os error 24)\n\
                hint: qkey reached its limit of open files: lower --jobs, or raise `ulimit -n`\n";
    assert!(run.stderr.contains(told), "{run:?}");
}

// Replies to no request.

#[test]
fn stray_replies_are_never_mistaken() {
    let kinds = [
        "repeated",
        "repeated_later",
        "unasked_408",
        "unasked_408_later",
    ];
    let operations = ["get_status", "unlock_challenge", "list_keys", "unlock"];
    let cases = kinds
        .iter()
        .flat_map(|kind| operations.map(|on| format!("{kind} {on}")));
    let cases: Vec<String> = cases.collect();
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    side_by_side(&cases, |case| {
        let (kind, on) = case.split_once(' ').expect("two words");
        let core = Core::with_lock_key();
        for id in 11..=16 {
            // Every second one is unlocked already.
            let lock_key = (id % 2 == 0).then_some("1");
            core.add_snapshot(json!({ "id": id, "lock_key": lock_key }));
        }
        core.fault(on, kind, json!({ "times": 3 }));
        let qkey = Qkey::with_rest(&core);
        qkey.write("ids", "11\n12\n13\n14\n15\n16\n2\n");
        let run = qkey.line("unlock --ids-from=ids --jobs=1 --key=alice.pem");
        let locked = [2, 12, 14, 16].map(|id| !core.snapshot(id)["lock_key"].is_null());
        for (id, locked) in [2, 12, 14, 16].into_iter().zip(locked) {
            let title = format!("snapshot {id} ");
            let reported = run.stdout.lines().any(|line| line.contains(&title));
            assert!(!(reported && locked), "{case}: {id} is locked: {run:#?}");
        }
        if locked.contains(&true) {
            assert_ne!(run.code, 0, "{case}: {run:#?}");
        }
        // It costs at most a connection and a read, except in reply to a submission.
        if on != "unlock" && kind.starts_with("repeated") {
            assert_eq!(run.code, 0, "{case}: {run:#?}");
        }
        String::new()
    });
}

#[test]
fn connection_is_dropped_after_408() {
    let core = Core::with_lock_key();
    core.fault("get_status", "status", json!({ "status": 408 }));
    assert_eq!(Qkey::with_rest(&core).line(UNLOCK).code, 0);
    assert!(core.connections() <= 2);
}
