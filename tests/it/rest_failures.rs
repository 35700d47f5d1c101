//! `--via rest` when something goes wrong: what is repeated, what is given up, and which answers are
//! none of the REST API.

use std::os::unix::process::CommandExt;

use crate::support::{
    core::Core,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, Qkey, Run, side_by_side},
};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::{Value, json};
use snapbox::{IntoData, assert_data_eq, str};

const UNLOCK: [&str; 3] = ["unlock", "--id=7", "--key=alice.pem"];
const LOCK: [&str; 3] = ["lock", "--id=8", "--lock-key=1"];
const REPLACE: [&str; 4] = ["replace", "-k1", "--old-key=alice.pem", "--new-key=bob.pem"];
const ADD: [&str; 5] = ["add", "--name", "new", "--key", "carol.pem"];

/// A cluster that holds Alice's key as key 1, which locks snapshot 7 and not snapshot 8.
fn core() -> Core {
    core_with(&[])
}

fn core_with(options: &[&str]) -> Core {
    let core = Core::start_with(options);
    core.add_key(json!({ "name": "lock-2026", "public_key": ALICE_PUBLIC }));
    core.add_snapshot(json!({ "id": 7, "lock_key": "1" }));
    core.add_snapshot(json!({ "id": 8 }));
    core
}

fn with<'a>(command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, more].concat()
}

fn expect_done(run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
}

// Reads are repeated, submissions are not.

/// What a busy cluster, or a proxy before it, answers.
fn busy(status: u16, retry_after: impl Into<Value>) -> Value {
    json!({ "status": status, "retry_after": retry_after.into() })
}

#[test]
fn transient_read_failures_are_retried() {
    let kinds = [
        ("status", busy(503, 0)),
        ("status", busy(429, 1)),
        ("status", json!({ "status": 408 })),
        ("status", busy(503, "Wed, 21 Oct 2015 07:28:00 GMT")),
        ("status", busy(503, "soon")),
        ("status", busy(503, -1)),
        ("status", busy(503, 1.5)),
        ("status", json!({ "status": 503 })),
        ("drop_before", json!({})),
        ("cut", json!({})),
        ("empty", json!({ "status": 503 })),
    ];
    let cases: Vec<String> = (0..kinds.len()).map(|case| case.to_string()).collect();
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    side_by_side(&cases, |case| {
        let (kind, more) = &kinds[case.parse::<usize>().expect("a number")];
        let core = core();
        let qkey = Qkey::with_rest(&core);
        core.fault("get_status", kind, with_times(more, 2));
        core.fault("list_keys", kind, with_times(more, 1));
        core.fault("unlock_challenge", kind, with_times(more, 1));
        let run = qkey.run(UNLOCK);
        assert_eq!(run.code, 0, "{kind} {more}: {run:?}");
        // Two that fail, the one that counts, and the one that confirms.
        assert_eq!(core.count("get_status"), 4, "{kind} {more}");
        assert_eq!(core.count("unlock"), 1);
        String::new()
    });
}

fn with_times(more: &Value, times: u32) -> Value {
    let mut more = more.clone();
    more["times"] = json!(times);
    more
}

#[test]
fn retries_are_logged_and_limited() {
    let core = core();
    let qkey = Qkey::with_rest(&core);
    core.fault("list_keys", "status", with_times(&busy(503, 0), 1));
    let run = qkey.run(["keys", "list", "-v", "--output=json"]);
    assert_data_eq!(run.stderr, str![[r#"
{"log":{"level":"info","message":"list the lock keys"}}
{"log":{"level":"info","message":"127.0.0.1:[PORT] failed to list the lock keys: Error 503: http_service_unavailable_error: Simulated failure 503.; retrying"}}
{"log":{"level":"info","message":"list the lock keys"}}

"#]].raw());
    let said = side_by_side(&["503", "429", "drop_before", "empty"], |kind| {
        let core = core_with(&[]);
        let qkey = Qkey::with_rest(&core);
        match kind.parse() {
            Ok(status) => core.fault("list_keys", "status", with_times(&busy(status, 0), 0)),
            Err(_) if kind == "empty" => {
                core.fault("list_keys", kind, json!({ "times": 0, "status": 503 }));
            }
            Err(_) => core.fault("list_keys", kind, json!({ "times": 0 })),
        }
        let run = qkey.run(["keys", "list"]);
        assert_eq!(core.count("list_keys"), 3);
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== 503
--- exit 7
error: 127.0.0.1:[PORT] failed to list the lock keys
  caused by: Error 503: http_service_unavailable_error: Simulated failure 503.
hint: the cluster, or a proxy in front of it, is not ready; try again later
==== 429
--- exit 7
error: 127.0.0.1:[PORT] refused to list the lock keys
  caused by: Error 429: unknown_error: Simulated failure 429.
hint: the cluster, or a proxy in front of it, is not ready; try again later
==== drop_before
--- exit 7
error: lost the connection to 127.0.0.1:[PORT] during the request to list the lock keys: it was closed before the whole response had arrived
hint: check whether the cluster is up, and whether a proxy or firewall cuts connections
==== empty
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: status 503: (nothing)
hint: check --host and --port: a proxy or another service may respond there

"#]].raw());
}

#[test]
fn long_retry_after_is_not_awaited() {
    for seconds in [
        "31",
        "86400",
        "18446744073709551615",
        "99999999999999999999999",
    ] {
        let core = core();
        let qkey = Qkey::with_rest(&core);
        // More than a number of seconds can be is as good as a word.
        let asked = match seconds.parse::<u64>() {
            Ok(_) => 1,
            Err(_) => 3,
        };
        core.fault("list_keys", "status", with_times(&busy(503, seconds), 0));
        let run = qkey.run(["keys", "list"]);
        assert_eq!(run.code, 7, "{run:?}");
        assert_eq!(core.count("list_keys"), asked, "{seconds}");
    }
    // Also when some time has gone by.
    let core = core();
    core.fault("list_keys", "status", with_times(&busy(503, 1), 1));
    core.fault("list_keys", "status", busy(503, u64::MAX.to_string()));
    let run = Qkey::with_rest(&core).run(["keys", "list"]);
    assert_eq!(run.code, 7, "{run:?}");
    assert_eq!(core.count("list_keys"), 2);
}

#[test]
fn permanent_failures_are_not_retried() {
    for status in [400, 401, 403, 404, 500, 501, 502, 504] {
        let core = core();
        core.fault(
            "list_keys",
            "status",
            json!({ "status": status, "times": 0 }),
        );
        let run = Qkey::with_rest(&core).run(["keys", "list"]);
        assert_ne!(run.code, 0);
        assert_eq!(core.count("list_keys"), 1, "{status}");
    }
}

#[test]
fn submissions_are_never_retried() {
    let cases = ["unlock", "lock", "replace_key", "add_key"];
    let said = side_by_side(&cases, |on| {
        let command = match on {
            "unlock" => &UNLOCK[..],
            "lock" => &LOCK,
            "replace_key" => &REPLACE,
            _ => &ADD,
        };
        let mut said = String::new();
        for (kind, more) in [
            ("status", busy(503, 0)),
            ("status", busy(429, 0)),
            ("drop_before", json!({})),
            ("empty", json!({ "status": 503 })),
            ("empty", json!({ "status": 504 })),
        ] {
            let core = core();
            core.fault(on, kind, with_times(&more, 0));
            let run = Qkey::with_rest(&core).run(command);
            assert_eq!(core.count(on), 1, "{kind} {more}");
            // A cluster that is too busy has looked at it, and does not do it.
            assert_eq!(run.code, if more["status"] == 429 { 7 } else { 8 });
            if on == "unlock" {
                said += &format!("-- {kind} {more}\n{}", run.transcript());
            }
        }
        said
    });
    assert_data_eq!(said, str![[r#"
==== unlock
-- status {"status":503,"retry_after":0}
--- exit 8
error: unexpected reply to the request to unlock snapshot 7 ("7_snapshot"): not done so far, and may still be
  caused by: 127.0.0.1:[PORT] failed to unlock snapshot 7
  caused by: Error 503: http_service_unavailable_error: Simulated failure 503.
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
-- status {"status":429,"retry_after":0}
--- exit 7
error: 127.0.0.1:[PORT] refused to unlock snapshot 7
  caused by: Error 429: unknown_error: Simulated failure 429.
hint: the cluster, or a proxy in front of it, is not ready; try again later; the cluster now holds a signature made with alice.pem over its challenge
-- drop_before {}
--- exit 8
error: no reply to the request to unlock snapshot 7 ("7_snapshot"): not done so far, and may still be
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to unlock snapshot 7: it was closed before the whole response had arrived
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
-- empty {"status":503}
--- exit 8
error: unexpected reply to the request to unlock snapshot 7 ("7_snapshot"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to unlock snapshot 7
  caused by: status 503: (nothing)
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
-- empty {"status":504}
--- exit 8
error: unexpected reply to the request to unlock snapshot 7 ("7_snapshot"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to unlock snapshot 7
  caused by: status 504: (nothing)
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
==== lock
==== replace_key
==== add_key

"#]].raw());
}

// Time.

#[test]
fn slow_replies_time_out() {
    let cases = [
        "a read",
        "a body",
        "a submission",
        "a submission that is done",
    ];
    let said = side_by_side(&cases, |case| {
        let core = core();
        let qkey = Qkey::with_rest(&core);
        let long = json!({ "seconds": 30, "times": 1 });
        match case {
            "a read" => core.fault("list_keys", "slow", long),
            "a body" => core.fault("list_keys", "drip", json!({ "seconds": 0.3 })),
            "a submission" => core.fault("unlock", "slow", long),
            _ => core.fault("unlock", "slow_after", long),
        }
        let run = match case {
            "a read" | "a body" => qkey.run(["keys", "list", "--timeout=1"]),
            _ => qkey.run(with(&UNLOCK, &["--timeout=4"])),
        };
        assert!(core.count("list_keys") <= 1 && core.count("unlock") <= 1);
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== a read
--- exit 7
error: no reply from 127.0.0.1:[PORT] within 1 s to the request to list the lock keys
hint: check whether the cluster responds, or give it more time with --timeout SECONDS
==== a body
--- exit 7
error: no reply from 127.0.0.1:[PORT] within 1 s to the request to list the lock keys
hint: check whether the cluster responds, or give it more time with --timeout SECONDS
==== a submission
--- exit 8
error: no reply to the request to unlock snapshot 7 ("7_snapshot"): not done so far, and may still be
  caused by: no reply from 127.0.0.1:[PORT] within 4 s to the request to unlock snapshot 7
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
==== a submission that is done
Unlocked snapshot 7 ("7_snapshot") with key 1 ("lock-2026").
--- exit 0
warning: no reply to the request to unlock snapshot 7 ("7_snapshot") (no reply from 127.0.0.1:[PORT] within 4 s to the request to unlock snapshot 7); checked: it was done

"#]].raw());
}

// Answers.

#[test]
fn reply_over_8_mib_is_refused() {
    for chunked in [false, true] {
        let core = core();
        let huge = json!({ "mib": 128, "chunked": chunked, "times": 0 });
        core.fault("list_keys", "huge", huge);
        // Of all that it maps, its program included; each arena maps much and uses little.
        let memory = Some(180 << 20);
        let qkey = Qkey::with_rest(&core).env("MALLOC_ARENA_MAX", "1");
        let mut command = qkey.command(["keys", "list"]);
        let limit = move || {
            let limit = Rlimit {
                current: memory,
                maximum: memory,
            };
            Ok(setrlimit(Resource::As, limit)?)
        };
        // Only setrlimit(2) runs between fork and exec.
        unsafe { command.pre_exec(limit) };
        let run = qkey.taken(&command.output().expect("qkey runs"));
        assert_data_eq!(run.transcript(), str![[r#"
--- exit 7
error: the reply from 127.0.0.1:[PORT] is too large: the key list is larger than 8 MiB
hint: a cluster sends far less; check --host and --port: a proxy or another service may respond there

"#]].raw());
        assert_eq!(core.count("list_keys"), 1);
    }
    // Just below is one.
    let core = core();
    core.fault("list_keys", "huge", json!({ "mib": 7.9 }));
    expect_done(&Qkey::with_rest(&core).run(["keys", "list"]));
}

#[test]
fn missing_fields_are_named() {
    let cases = [
        "list_keys id",
        "list_keys name",
        "list_keys public_key",
        "list_keys entries",
        "unlock_challenge challenge",
        "get_status lock_key",
        "get_status id",
        "key_usage usages",
        "key_usage type",
        "key_usage id",
        "replace_challenge challenge",
        "add_key id",
        "replace_key public_key",
    ];
    let said = side_by_side(&cases, |case| {
        let (on, field) = case.split_once(' ').expect("two words");
        let core = core();
        core.fault(on, "without", json!({ "field": field, "times": 0 }));
        let command = match on {
            "key_usage" => &["keys", "usage"][..],
            "add_key" => &ADD,
            "replace_challenge" | "replace_key" => &REPLACE,
            _ => &UNLOCK,
        };
        Qkey::with_rest(&core).run(command).transcript()
    });
    assert_data_eq!(said, str![[r#"
==== list_keys id
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (missing field `id` at line 1 column 210), got: {"entries": [{"name": "lock-2026", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE…
hint: check --host and --port: a proxy or another service may respond there
==== list_keys name
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (missing field `name` at line 1 column 200), got: {"entries": [{"id": "1", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWT…
hint: check --host and --port: a proxy or another service may respond there
==== list_keys public_key
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (missing field `public_key` at line 1 column 79), got: {"entries": [{"id": "1", "name": "lock-2026", "comment": "", "disabled": false}]}
hint: check --host and --port: a proxy or another service may respond there
==== list_keys entries
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (missing field `entries` at line 1 column 2), got: {}
hint: check --host and --port: a proxy or another service may respond there
==== unlock_challenge challenge
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to get the challenge to unlock snapshot 7
  caused by: expected a challenge in JSON (missing field `challenge` at line 1 column 2), got: {}
hint: check --host and --port: a proxy or another service may respond there
==== get_status lock_key
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 7
  caused by: expected the snapshot's status in JSON (missing field `lock_key` at line 1 column 208), got: {"id": 7, "name": "7_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name":…
hint: check --host and --port: a proxy or another service may respond there
==== get_status id
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 7
  caused by: expected the snapshot's status in JSON (missing field `id` at line 1 column 216), got: {"name": "7_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name": null, "s…
hint: check --host and --port: a proxy or another service may respond there
==== key_usage usages
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list what key 1 protects
  caused by: expected a list of usages in JSON (missing field `usages` at line 1 column 24), got: {"paging": {"next": ""}}
hint: check --host and --port: a proxy or another service may respond there
==== key_usage type
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list what key 1 protects
  caused by: expected a list of usages in JSON (missing field `type` at line 1 column 23), got: {"usages": [{"id": "7"}], "paging": {"next": ""}}
hint: check --host and --port: a proxy or another service may respond there
==== key_usage id
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list what key 1 protects
  caused by: expected a list of usages in JSON (missing field `id` at line 1 column 32), got: {"usages": [{"type": "snapshot"}], "paging": {"next": ""}}
hint: check --host and --port: a proxy or another service may respond there
==== replace_challenge challenge
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to get the challenge to replace key 1
  caused by: expected a challenge in JSON (missing field `challenge` at line 1 column 2), got: {}
hint: check --host and --port: a proxy or another service may respond there
==== add_key id
Stored key 2 ("new") in the key store.
  SHA256:JSkAIR0avXSXaOU9Y5LHbqSNYBdGNuIp6RwKJix49NQ
--- exit 0
warning: unexpected reply to the request to add key "new" (unexpected reply from 127.0.0.1:[PORT] to the request to store key "new": expected the key in JSON (missing field `id` at line 1 column 191), got: {"name": "new", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE4pvPqFpgnVaiL1Uq90I…); checked: it was done
==== replace_key public_key
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- exit 0
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON (missing field `public_key` at line 1 column 66), got: {"id": "1", "name": "lock-2026", "comment": "", "disabled": false}); checked: it was done

"#]].raw());
}

#[test]
fn foreign_replies_are_quoted() {
    let cases = ["not_json", "truncated", "empty", "html_502", "redirect"];
    let said = side_by_side(&cases, |kind| {
        let core = core();
        let more = match kind {
            "redirect" => json!({ "location": "https://elsewhere.invalid/keys" }),
            _ => json!({}),
        };
        core.fault("list_keys", kind, more);
        let run = Qkey::with_rest(&core).run(["keys", "list"]);
        assert_eq!(core.requests().len(), 1);
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== not_json
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: This is not JSON.
hint: check --host and --port: a proxy or another service may respond there
==== truncated
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: {"entries": [{"id": "1", "name": "lock-2026", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0C
hint: check --host and --port: a proxy or another service may respond there
==== empty
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: (nothing)
hint: check --host and --port: a proxy or another service may respond there
==== html_502
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: status 502: <html>  <head><title>502 Bad Gateway</title></head>  <body>  <center><h1>502 Bad Gateway</h1></center>  </body>  </html>
hint: check --host and --port: a proxy or another service may respond there
==== redirect
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: it redirects to https://elsewhere.invalid/keys, which qkey does not follow
hint: check --host and --port: a proxy or another service may respond there

"#]].raw());
}

#[test]
fn pages_are_followed() {
    for next in ["path", "absolute"] {
        let core = core();
        for id in 100..110 {
            core.add_snapshot(json!({ "id": id, "lock_key": "1" }));
            core.add_key(json!({ "name": format!("key-{id}"), "public_key": BOB_PUBLIC }));
        }
        core.page_limit(3, json!({ "keys": true, "next": next }));
        let run = Qkey::with_rest(&core).run(["keys", "usage", "--output=json"]);
        expect_done(&run);
        let text = run.stdout;
        for id in 100..110 {
            assert!(text.contains(&format!("key-{id}")) && text.contains(&format!("\"{id}\"")));
        }
        assert_eq!(core.count("list_keys"), 4);
    }
}

#[test]
fn pages_elsewhere_and_endless_lists_are_refused() {
    let said = side_by_side(&["elsewhere", "loop", "cycle"], |next| {
        let core = core();
        core.add_key(json!({ "name": "third", "public_key": BOB_PUBLIC }));
        core.add_key(json!({ "name": "other", "public_key": BOB_PUBLIC }));
        core.page_limit(1, json!({ "keys": true, "next": next }));
        let run = Qkey::with_rest(&core).run(["keys", "list"]);
        assert!(core.count("list_keys") <= 2, "{next}: {run:?}");
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== elsewhere
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: its next page is on another host: https://elsewhere.invalid:8000/v1/file-system/security/keys/?after=1&limit=1
hint: check --host and --port: a proxy or another service may respond there
==== loop
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: its list never ends
hint: check --host and --port: a proxy or another service may respond there
==== cycle
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: its list never ends
hint: check --host and --port: a proxy or another service may respond there

"#]].raw());
}

#[test]
fn wrong_json_types_are_named() {
    let cases = ["challenge", "expiration", "name", "comment", "disabled"];
    let said = side_by_side(&cases, |case| {
        let core = core();
        let qkey = Qkey::with_rest(&core);
        match case {
            "challenge" => drop(core.command(json!({ "op": "challenge_text", "text": 5 }))),
            "expiration" => drop(core.modify_snapshot(7, json!({ "expiration": 5 }))),
            "name" => drop(core.modify_snapshot(7, json!({ "name": ["seven"] }))),
            "comment" => drop(core.modify_key("1", json!({ "comment": null }))),
            _ => drop(core.modify_key("1", json!({ "disabled": "no" }))),
        }
        let run = qkey.run(UNLOCK);
        assert_eq!(core.count("unlock"), 0, "{case}: {run:?}");
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== challenge
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to get the challenge to unlock snapshot 7
  caused by: expected a challenge in JSON (invalid type: integer `5`, expected a string at line 1 column 15), got: {"challenge": 5}
hint: check --host and --port: a proxy or another service may respond there
==== expiration
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 7
  caused by: expected the snapshot's status in JSON (invalid type: integer `5`, expected a string at line 1 column 84), got: {"id": 7, "name": "7_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": 5, "policy_id": null, "policy_name": …
hint: check --host and --port: a proxy or another service may respond there
==== name
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 7
  caused by: expected the snapshot's status in JSON (invalid type: sequence, expected a string at line 1 column 18), got: {"id": 7, "name": ["seven"], "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name": nu…
hint: check --host and --port: a proxy or another service may respond there
==== comment
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (invalid type: null, expected a string at line 1 column 61), got: {"entries": [{"id": "1", "name": "lock-2026", "comment": null, "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZ…
hint: check --host and --port: a proxy or another service may respond there
==== disabled
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON (invalid type: string "no", expected a boolean at line 1 column 77), got: {"entries": [{"id": "1", "name": "lock-2026", "comment": "", "disabled": "no", "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj…
hint: check --host and --port: a proxy or another service may respond there

"#]].raw());
}

// Many snapshots.

fn with_snapshots(core: &Core, count: u64) -> String {
    let ids = 100..100 + count;
    for id in ids.clone() {
        core.add_snapshot(json!({ "id": id, "lock_key": "1" }));
    }
    ids.map(|id| format!("{id}\n")).collect()
}

#[test]
fn repeated_refusals_end_a_batch() {
    let core = core();
    let ids = with_snapshots(&core, 20);
    core.fault("get_status", "status", json!({ "status": 403, "times": 0 }));
    let unlock = ["unlock", "--ids-from=-", "--key=alice.pem", "--jobs=1"];
    let run = Qkey::with_rest(&core).run_with_stdin(unlock, ids.as_bytes());
    assert_data_eq!(run.transcript(), str![[r#"
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

"#]].raw());
    assert_eq!(core.count("get_status"), 5);

    core.clear_faults();
    let lost = json!({ "times": 6 });
    core.fault("unlock", "drop_before", lost);
    let run = Qkey::with_rest(&core).run_with_stdin(unlock, ids.as_bytes());
    assert_eq!(run.code, 8, "{run:?}");
    let summary = run.stdout.lines().last();
    assert_eq!(
        summary,
        Some("Unlocked 14, already unlocked 0, failed 0, result unknown 6.")
    );
}

#[test]
fn open_file_limit_is_named() {
    let core = core();
    with_snapshots(&core, 6);
    let qkey = Qkey::with_rest(&core);
    let with_open_files = |number, args: &[&str]| {
        let few = Rlimit {
            current: Some(number),
            maximum: Some(number),
        };
        let mut command = qkey.command(args);
        // Only setrlimit(2) runs between fork and exec.
        unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Nofile, few)?)) };
        qkey.taken(&command.output().expect("qkey runs"))
    };
    let enough = (6..).find(|&number| with_open_files(number, &["keys"]).code == 0);
    // Longer than it takes to give up, so that no connection is free for another job.
    core.fault("get_status", "slow", json!({ "seconds": 4, "times": 0 }));
    let ids: Vec<String> = (100..106).map(|id| format!("--id={id}")).collect();
    let mut unlock = with(&["unlock", "--key=alice.pem", "--jobs=6"], &[]);
    unlock.extend(ids.iter().map(String::as_str));
    let run = with_open_files(enough.expect("a number") + 2, &unlock);
    let told = "cannot reach 127.0.0.1:[PORT]: Too many open files (os error 24)\n\
                hint: qkey reached its limit of open files: lower --jobs, or raise `ulimit -n`\n";
    assert!(run.stderr.contains(told), "{run:?}");
}

// Replies that nobody asked for.

/// What comes more than was asked for, on the connection that all requests share.
const UNASKED: [&str; 4] = [
    "repeated",
    "repeated_later",
    "unasked_408",
    "unasked_408_later",
];

#[test]
fn stray_replies_are_never_mistaken() {
    let operations = ["get_status", "unlock_challenge", "list_keys", "unlock"];
    let cases: Vec<String> = UNASKED
        .iter()
        .flat_map(|kind| operations.map(|on| format!("{kind} {on}")))
        .collect();
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    side_by_side(&cases, |case| {
        let (kind, on) = case.split_once(' ').expect("two words");
        let core = core();
        for id in 11..=16 {
            // Every second one is unlocked already.
            let lock_key = (id % 2 == 0).then_some("1");
            core.add_snapshot(json!({ "id": id, "lock_key": lock_key }));
        }
        core.fault(on, kind, json!({ "times": 3 }));
        let qkey = Qkey::with_rest(&core);
        qkey.write("ids", "11\n12\n13\n14\n15\n16\n7\n");
        let run = qkey.run(["unlock", "--ids-from=ids", "--jobs=1", "--key=alice.pem"]);
        let locked = |id: u64| !core.snapshot(id)["lock_key"].is_null();
        for id in [7, 12, 14, 16] {
            let title = format!("snapshot {id} ");
            let mut lines = run.stdout.lines();
            let reported = lines.any(|line| line.contains(&title));
            assert!(
                !(reported && locked(id)),
                "{case}: {id} is locked: {run:#?}"
            );
        }
        if [7, 12, 14, 16].into_iter().any(locked) {
            assert_ne!(run.code, 0, "{case}: {run:#?}");
        }
        // It costs a connection and a read at most, unless it comes in answer to a submission.
        if on != "unlock" && kind.starts_with("repeated") {
            assert_eq!(run.code, 0, "{case}: {run:#?}");
        }
        String::new()
    });
}

#[test]
fn connection_is_dropped_after_408() {
    let core = core();
    core.fault("get_status", "status", json!({ "status": 408 }));
    let run = Qkey::with_rest(&core).run(UNLOCK);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
Unlocked snapshot 7 ("7_snapshot") with key 1 ("lock-2026").

"#]]
        .raw()
    );
    assert!(core.connections() <= 2);
}
