//! What all transports have in common: every command over REST and through each `qq`, and the loss
//! table, which says what becomes of a submission whose reply is lost. The losses are those of the
//! REST API, where a run costs milliseconds; the real `qq` meets one of each class that it turns into
//! words of its own, and a `qq` that misbehaves as a process stands in front of the mock.

use std::{fs, thread};

use crate::support::{
    ceremony::{ADD, CEREMONIES, LOCK, REPLACE, UNLOCK, mock, qq_command},
    core::{Core, QQ_VERSION, qq},
    qkey::{
        BOB_PUBLIC, CAROL_PUBLIC, Qkey, Run, expect_no_sleepers, is_alive, send, side_by_side,
        wait_until,
    },
    snapshot::{filter, filtered, qkey_snapshot, session, snapshot, table},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use snapbox::str;

/// The `qq` that names a key by `--id` or `--name`, and complains on stdout.
const OLD_QQ: &str = "6.1.0.3";

/// Runs a case per thread; returns the results in order.
fn in_parallel<C: Sync, T: Send>(cases: &[C], run: impl Fn(&C) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = cases.iter().map(|case| scope.spawn(|| run(case))).collect();
        let results = threads.into_iter().map(thread::ScopedJoinHandle::join);
        results.map(|result| result.expect("no panic")).collect()
    })
}

/// The requests that were to change something, in order for each key and snapshot.
fn submissions(core: &Core) -> Vec<Value> {
    let mut submissions = core.requests();
    submissions.retain(|request| request["method"] != "GET");
    for submission in &mut submissions {
        let fields = submission.as_object_mut().expect("an object");
        fields.retain(|name, _| !["host", "connection"].contains(&&**name));
    }
    submissions.sort_by_key(|submission| submission["path"].to_string());
    submissions
}

/// Names and challenges that argument parsers, URLs, JSON, and Python's encodings could spoil.
#[test]
fn every_command_does_the_same_over_every_transport() {
    const NAME: &str = "--a/b ?#%20 '\"\\ é🔑\n ";
    let transports = [None, Some(OLD_QQ), Some("6.1.1"), Some(QQ_VERSION)];
    let outcomes = in_parallel(&transports, |version| {
        let core = Core::start();
        let qkey = match version {
            Some(version) => Qkey::with_core(&core, version),
            None => Qkey::with_rest(&core),
        };
        let qkey = qkey
            .env("LC_ALL", "C")
            .env("PYTHONIOENCODING", "latin-1")
            .env("PYTHONUTF8", "0");
        for id in [7, 8, 9] {
            core.add_snapshot(json!({ "id": id }));
        }
        core.challenge_text(Some("\"\\ é\n🔑 \u{1} \n"));
        core.page_limit(1, json!({}));
        let add = [
            "add",
            "--name",
            NAME,
            "--comment",
            "-é\n🔑",
            "--key=alice.pem",
        ];
        let mut said = filtered(&qkey.run(add));
        for id in [8, 9] {
            core.modify_snapshot(id, json!({ "lock_key": "1" }));
        }
        for args in [
            &["lock", "--id=7", "--lock-key", NAME][..],
            &["keys"],
            &["keys", "usage", "-k", NAME],
            &[
                "replace",
                "-k",
                NAME,
                "--old-key=alice.pem",
                "--new-key=bob.pem",
            ],
            &["unlock", "--id=7", "--key=bob.pem"],
        ] {
            said += &filtered(&qkey.run(args));
        }
        // No challenge is signed for two snapshots.
        core.challenge_text(None);
        let run = qkey.line("unlock --id=8 --id=9 --key=bob.pem --quiet");
        assert_eq!(run.code, 0, "{run:?}");
        (said, core.state(), submissions(&core))
    });
    for (version, outcome) in transports.iter().zip(&outcomes) {
        assert_eq!(*outcome, outcomes[0], "{version:?}");
    }
    let (said, state, _) = &outcomes[0];
    assert_eq!(state["keys"][0]["name"], NAME);
    assert_eq!(state["keys"][0]["comment"], "-é\n🔑");
    snapshot!(
        said,
        str![[r#"
Stored key 1 ("--a/b ?#%20 '\"\\ é🔑\n ") in the key store.
  SHA256:[ALICE]
Locked snapshot 7 ("7_snapshot") with key 1 ("--a/b ?#%20 '\"\\ é🔑\n ").
ID  NAME                    STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   --a/b ?#%20 '"\ é🔑\n   enabled  SHA256:[ALICE…]  -               -é\n🔑
key 1 ("--a/b ?#%20 '\"\\ é🔑\n ") protects:
  snapshot 7
  snapshot 8
  snapshot 9
Replaced key 1 ("--a/b ?#%20 '\"\\ é🔑\n ").
  was SHA256:[ALICE]
  now SHA256:[BOB]
Unlocked snapshot 7 ("7_snapshot") with key 1 ("--a/b ?#%20 '\"\\ é🔑\n ").

"#]]
    );
}

#[test]
fn real_qq_failures_are_classified() {
    let faults = [
        ("status", json!({ "status": 400 })),
        ("status", json!({ "status": 403 })),
        ("status", json!({ "status": 404 })),
        ("status", json!({ "status": 429, "times": 0 })),
        ("status", json!({ "status": 500 })),
        ("html_502", json!({})),
        ("truncated", json!({})),
        ("drop_before", json!({ "times": 0 })),
        ("cut", json!({ "times": 0 })),
    ];
    let inner = json!({ "error_class": "inner_error", "description": "Inner.", "module": "m", "stack": [], "user_visible": true });
    let of_new_qq = [
        ("status", json!({ "status": 400, "inner": inner })),
        ("empty", json!({})),
    ];
    let said = in_parallel(&[OLD_QQ, QQ_VERSION], |version| {
        let core = Core::start();
        let qkey = Qkey::with_core(&core, version);
        let of_fault = |(kind, more): &(&str, Value)| {
            core.clear_faults();
            core.fault("list_keys", kind, more.clone());
            format!("==== {kind} {more}\n{}", filtered(&qkey.line("keys")))
        };
        let mut said: String = faults.iter().map(of_fault).collect();
        qkey.write("bad.json", "not JSON");
        core.clear_faults();
        let lines = [
            "keys --credentials-store=bad.json",
            "keys --credentials-store=none.json",
            "keys --port=1",
        ];
        said += &session(&qkey, lines);
        let unresolvable = qkey.line("keys --host=qumulo.invalid");
        // The rest depends on the resolver.
        let start = "error: cannot reach qumulo.invalid:[PORT]: ";
        assert!(unresolvable.stderr.starts_with(start), "{unresolvable:?}");
        let more = of_new_qq.iter().filter(|_| *version == QQ_VERSION);
        (said, more.map(of_fault).collect::<String>())
    });
    assert_eq!(said[0].0, said[1].0);
    snapshot!(
        format!("{}{}", said[1].0, said[1].1),
        str![[r#"
==== status {"status":400}
--- exit 5
error: 127.0.0.1:[PORT] refused to list the lock keys
  caused by: Error 400: invalid_request_error: Simulated failure 400.
hint: nothing was changed; fix what the cluster reports, then run this again
==== status {"status":403}
--- exit 6
error: 127.0.0.1:[PORT] denied permission to list the lock keys
  caused by: Error 403: http_forbidden_error: Simulated failure 403.
hint: log in as a user whose role includes PRIVILEGE_FS_KEY_MANAGEMENT_READ; role changes take effect at the next login
==== status {"status":404}
--- exit 5
error: 127.0.0.1:[PORT] refused to list the lock keys
  caused by: Error 404: fs_no_such_entry_error: Simulated failure 404.
hint: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_list_keys` shows what exists
==== status {"status":429,"times":0}
--- exit 7
error: 127.0.0.1:[PORT] refused to list the lock keys
  caused by: Error 429: unknown_error: Simulated failure 429.
hint: the cluster, or a proxy in front of it, is not ready; try again later
==== status {"status":500}
--- exit 5
error: 127.0.0.1:[PORT] failed to list the lock keys
  caused by: Error 500: http_internal_server_error: Simulated failure 500.
hint: the cluster reports an internal problem; check its health, then run this again
==== html_502 {}
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
hint: check --host and --port: a proxy or another service may respond there
==== truncated {}
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: qumulo.lib.request.APIException: Error loading data: Unterminated string starting at: line 1 column 2 (char 1)
hint: check --host and --port: a proxy or another service may respond there
==== drop_before {"times":0}
--- exit 7
error: lost the connection to 127.0.0.1:[PORT] during the request to list the lock keys: Remote end closed connection without response
hint: check whether the cluster is up, and whether a proxy or firewall cuts connections
==== cut {"times":0}
--- exit 7
error: lost the connection to 127.0.0.1:[PORT] during the request to list the lock keys: http.client.IncompleteRead: IncompleteRead(7 bytes read, 8 more expected)
hint: check whether the cluster is up, and whether a proxy or firewall cuts connections
$ qkey keys --credentials-store=bad.json
--- exit 6
error: qq cannot read its credentials for 127.0.0.1:[PORT]: Expecting value: line 1 column 1 (char 0)
hint: log in first: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=bad.json login -u USER`
$ qkey keys --credentials-store=none.json
--- exit 6
error: not logged in to 127.0.0.1:[PORT]
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=none.json login -u USER`
$ qkey keys --port=1
--- exit 7
error: cannot reach 127.0.0.1:1: [Errno 111] Connection refused
hint: check --host and --port (or the cluster's entry in the configuration file), and the network
==== status {"status":400,"inner":{"error_class":"inner_error","description":"Inner.","module":"m","stack":[],"user_visible":true}}
--- exit 5
error: 127.0.0.1:[PORT] refused to list the lock keys
  caused by: Error 400: invalid_request_error: Simulated failure 400. (inner_error: Inner.)
hint: nothing was changed; fix what the cluster reports, then run this again
==== empty {}
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: expected a list of keys in JSON, got: (nothing)
hint: check that `[QQ] --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] fs_security_list_keys --help` works; if it does, run this again with -vv and report the output

"#]]
    );
}

#[test]
fn old_qq_without_host_uses_localhost() {
    let core = Core::with_lock_key();
    let qkey = Qkey::with_core(&core, OLD_QQ);
    let mut command = qkey.command(["keys"]);
    let output = command.env_remove("QKEY_HOST").output().expect("qkey runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("lock-2026"), "{output:?}");
}

#[test]
fn terminated_submission_leaves_no_qq() {
    let core = Core::with_lock_key();
    let qkey = Qkey::with_core(&core, QQ_VERSION);
    let text = format!(
        "#!/bin/sh\necho $$ >>pids\nexec '{}' \"$@\"\n",
        qq(QQ_VERSION).display()
    );
    qkey.write_program("qq", &text);
    core.fault("unlock", "slow", json!({ "seconds": 600 }));
    let child = qkey.start(&format!("{UNLOCK} --qq=./qq --output=json"));
    wait_until("the submission", || core.count("unlock") == 1);
    send(&child, Signal::TERM);
    let run = qkey.end(child);
    let pids = fs::read_to_string(qkey.path("pids")).expect("qq ran");
    for pid in pids.lines() {
        wait_until("the end of qq", || !is_alive(pid.parse().expect("a pid")));
    }
    // A busy machine may have no time for the lookup: the words differ.
    let error: Value = serde_json::from_str(&run.stderr).expect("JSON");
    assert_eq!(
        (run.code, &error["error"]["kind"]),
        (143, &json!("terminated"))
    );
}

// Losses.

/// What happens to the reply to a submission.
struct Loss {
    kind: &'static str,
    more: Value,
    /// The exit code when the Core did not carry the submission out; `None` when it did.
    not_done: Option<i32>,
}

fn losses() -> Vec<Loss> {
    let done = |kind, more| Loss {
        kind,
        more,
        not_done: None,
    };
    let not_done = |kind, more, code| Loss {
        kind,
        more,
        not_done: Some(code),
    };
    vec![
        done("drop_after", json!({})),
        done("cut_after", json!({})),
        done("not_json_after", json!({})),
        done("truncated_after", json!({})),
        done("empty_after", json!({})),
        done("html_502_after", json!({})),
        done("status_after", json!({ "status": 500 })),
        done("status_after", json!({ "status": 503 })),
        // Longer than the test takes: nothing waits past its timeout.
        done("slow_after", json!({ "seconds": 600 })),
        not_done("status", json!({ "status": 500 }), 5),
        not_done("status", json!({ "status": 503, "retry_after": 0 }), 8),
        not_done("status", json!({ "status": 408, "late": true }), 8),
        not_done("drop_before", json!({ "late": true }), 8),
        not_done("cut", json!({ "late": true }), 8),
        not_done("html_502", json!({ "late": true }), 8),
        not_done("empty", json!({ "late": true }), 8),
        not_done("empty", json!({ "status": 404, "late": true }), 8),
        not_done("empty", json!({ "status": 500, "late": true }), 8),
        not_done("empty", json!({ "status": 503 }), 8),
        not_done("redirect", json!({ "location": "/v1", "late": true }), 8),
        not_done("slow", json!({ "seconds": 600 }), 8),
    ]
}

/// Whether a Core shows what a ceremony is to bring about.
fn is_done(core: &Core, operation: &str) -> bool {
    match operation {
        "add_key" => core.state()["keys"].as_array().expect("a list").len() == 2,
        "replace_key" => core.key("1")["public_key"] == BOB_PUBLIC,
        "lock" => core.snapshot(3)["lock_key"] == "1",
        _ => core.snapshot(2)["lock_key"].is_null(),
    }
}

/// Loses the reply to a submission, and compares what is reported with what the Core holds.
fn lost(operation: &str, ceremony: &str, loss: &Loss, qkey: impl Fn(&Core) -> Qkey) -> String {
    let Loss {
        kind,
        more,
        not_done,
    } = loss;
    let what = format!("{operation} {kind} {more}");
    let core = Core::with_lock_key();
    core.fault(operation, kind, more.clone());
    let timeout = if kind.starts_with("slow") { 4 } else { 120 };
    let run = qkey(&core).line(&format!("{ceremony} --timeout={timeout}"));
    assert_eq!(core.count(operation), 1, "{what}: never sent again");
    assert_eq!(is_done(&core, operation), not_done.is_none(), "{what}");
    expect_report(&run, *not_done, &what);
    if more["late"] == true {
        core.carry_out_late();
        assert!(is_done(&core, operation), "{what}: late");
    }
    format!("==== {kind} {more}\n{}", without_hints(&run))
}

fn expect_report(run: &Run, not_done: Option<i32>, what: &str) {
    assert_eq!(run.code, not_done.unwrap_or(0), "{what}: {run:?}");
    assert_eq!(run.stdout.is_empty(), not_done.is_some(), "{what}: {run:?}");
    let words = match not_done {
        // An empty reply to lock or unlock is the usual one.
        None if run.stderr.is_empty() => what.ends_with("lock empty_after {}").then_some(""),
        None => Some("); checked: it was done"),
        Some(8) => Some("not done so far, and may still be"),
        Some(7) => Some("cannot reach"),
        Some(_) => Some("checked: it was not done"),
    };
    let words = words.unwrap_or_else(|| panic!("{what}: no warning"));
    assert!(run.stderr.contains(words), "{what}: {run:?}");
    if not_done == Some(8) {
        assert!(
            run.stderr.contains("hint: keep every key; `"),
            "{what}: {run:?}"
        );
    }
}

/// What a run says on stderr, without the hints, which are all alike.
fn without_hints(run: &Run) -> String {
    let lines = run.stderr.split_inclusive('\n');
    let said: String = lines.filter(|line| !line.starts_with("hint: ")).collect();
    filter(&said)
}

#[test]
fn every_lost_reply_is_looked_up() {
    let losses = losses();
    let said = in_parallel(&CEREMONIES, |(operation, ceremony)| {
        // The slow ones wait more than they work.
        let said = in_parallel(&[&losses[..7], &losses[7..14], &losses[14..]], |losses| {
            let said = losses.iter();
            said.map(|loss| lost(operation, ceremony, loss, Qkey::with_rest))
                .collect::<String>()
        });
        said.concat()
    });
    // The words differ by ceremony only in its name.
    snapshot!(
        &said[3],
        str![[r#"
==== drop_after {}
warning: no reply to the request to replace key 1 ("lock-2026") (lost the connection to 127.0.0.1:[PORT] during the request to replace key 1: it was closed before the whole response had arrived); checked: it was done
==== cut_after {}
warning: no reply to the request to replace key 1 ("lock-2026") (lost the connection to 127.0.0.1:[PORT] during the request to replace key 1: it was closed before the whole response had arrived); checked: it was done
==== not_json_after {}
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON, got: This is not JSON.); checked: it was done
==== truncated_after {}
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON, got: {"id": "1", "name": "lock-2026", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKo); checked: it was done
==== empty_after {}
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON, got: (nothing)); checked: it was done
==== html_502_after {}
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: status 502: <html>  <head><title>502 Bad Gateway</title></head>  <body>  <center><h1>502 Bad Gateway</h1></center>  </body>  </html>); checked: it was done
==== status_after {"status":500}
warning: the cluster failed to process the request to replace key 1 ("lock-2026") (127.0.0.1:[PORT] failed to replace key 1: Error 500: http_internal_server_error: Simulated failure 500.); checked: it was done
==== status_after {"status":503}
warning: unexpected reply to the request to replace key 1 ("lock-2026") (127.0.0.1:[PORT] failed to replace key 1: Error 503: http_service_unavailable_error: Simulated failure 503.); checked: it was done
==== slow_after {"seconds":600}
warning: no reply to the request to replace key 1 ("lock-2026") (no reply from 127.0.0.1:[PORT] within 4 s to the request to replace key 1); checked: it was done
==== status {"status":500}
error: the cluster failed to process the request to replace key 1 ("lock-2026"); checked: it was not done
  caused by: 127.0.0.1:[PORT] failed to replace key 1
  caused by: Error 500: http_internal_server_error: Simulated failure 500.
==== status {"status":503,"retry_after":0}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: 127.0.0.1:[PORT] failed to replace key 1
  caused by: Error 503: http_service_unavailable_error: Simulated failure 503.
==== status {"status":408,"late":true}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: 127.0.0.1:[PORT] failed to replace key 1
  caused by: Error 408: unknown_error: Simulated failure 408.
==== drop_before {"late":true}
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to replace key 1: it was closed before the whole response had arrived
==== cut {"late":true}
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to replace key 1: it was closed before the whole response had arrived
==== html_502 {"late":true}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1
  caused by: status 502: <html>  <head><title>502 Bad Gateway</title></head>  <body>  <center><h1>502 Bad Gateway</h1></center>  </body>  </html>
==== empty {"late":true}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1
  caused by: expected the key in JSON, got: (nothing)
==== empty {"status":404,"late":true}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1
  caused by: status 404: (nothing)
==== empty {"status":500,"late":true}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1
  caused by: status 500: (nothing)
==== empty {"status":503}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1
  caused by: status 503: (nothing)
==== redirect {"location":"/v1","late":true}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1
  caused by: it redirects to /v1, which qkey does not follow
==== slow {"seconds":600}
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: no reply from 127.0.0.1:[PORT] within 4 s to the request to replace key 1

"#]]
    );
}

#[test]
fn one_loss_of_each_class_is_looked_up_through_real_qq() {
    let cases = [
        (QQ_VERSION, "add_key", ADD, "not_json_after"),
        (QQ_VERSION, "lock", LOCK, "cut_after"),
        (QQ_VERSION, "lock", LOCK, "redirect"),
        (QQ_VERSION, "unlock", UNLOCK, "drop_before"),
        (QQ_VERSION, "unlock", UNLOCK, "status_after"),
        (QQ_VERSION, "replace_key", REPLACE, "html_502"),
        (OLD_QQ, "replace_key", REPLACE, "drop_after"),
        (OLD_QQ, "replace_key", REPLACE, "empty_after"),
        (OLD_QQ, "replace_key", REPLACE, "status"),
    ];
    let said = in_parallel(&cases, |(version, operation, ceremony, kind)| {
        let losses = losses();
        let loss = losses.iter().find(|loss| loss.kind == *kind);
        let loss = loss.expect("a loss of the table");
        lost(operation, ceremony, loss, |core| {
            Qkey::with_core(core, version)
        })
    });
    snapshot!(
        said.concat(),
        str![[r#"
==== not_json_after {}
warning: unexpected reply to the request to add key "new" (unexpected reply from 127.0.0.1:[PORT] to the request to store key "new": qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)); checked: it was done
==== cut_after {}
warning: no reply to the request to lock snapshot 3 ("3_snapshot") (lost the connection to 127.0.0.1:[PORT] during the request to lock snapshot 3: http.client.IncompleteRead: IncompleteRead(1 bytes read, 1 more expected)); checked: it was done
==== redirect {"location":"/v1","late":true}
error: unexpected reply to the request to lock snapshot 3 ("3_snapshot"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to lock snapshot 3
  caused by: status 307: Dev error: No json error response.
==== drop_before {"late":true}
error: no reply to the request to unlock snapshot 2 ("2_snapshot"): not done so far, and may still be
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to unlock snapshot 2: Remote end closed connection without response
==== status_after {"status":500}
warning: the cluster failed to process the request to unlock snapshot 2 ("2_snapshot") (127.0.0.1:[PORT] failed to unlock snapshot 2: Error 500: http_internal_server_error: Simulated failure 500.); checked: it was done
==== html_502 {"late":true}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1
  caused by: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
==== drop_after {}
warning: no reply to the request to replace key 1 ("lock-2026") (lost the connection to 127.0.0.1:[PORT] during the request to replace key 1: Remote end closed connection without response); checked: it was done
==== empty_after {}
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON (invalid type: null, expected an object at line 1 column 4), got: null); checked: it was done
==== status {"status":500}
error: the cluster failed to process the request to replace key 1 ("lock-2026"); checked: it was not done
  caused by: 127.0.0.1:[PORT] failed to replace key 1
  caused by: Error 500: http_internal_server_error: Simulated failure 500.

"#]]
    );
}

#[test]
fn connection_refused_at_submission_is_no_loss() {
    let core = Core::with_lock_key();
    let qkey = Qkey::with_rest(&core).env("CORE", core.pid().to_string());
    qkey.encrypt_alice();
    // The key is opened between the reads and the submission. The sockets are closed once the last
    // thread is gone; until then, a request could still go out and be lost.
    qkey.write_program(
        "kill-core",
        "#!/bin/sh
kill -9 $CORE
until [ \"$(echo /proc/$CORE/task/*)\" = /proc/$CORE/task/$CORE ] &&
    grep -q '^State:.Z' /proc/$CORE/status; do :; done
cat passphrase
",
    );
    let key = "locked.pem?passphrase-command=./kill-core";
    qkey_snapshot!(
        qkey,
        ["unlock", "--id=2", "--key", key],
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: Connection refused (os error 111)
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
    );
}

/// What a `qq` that misbehaves as a process does to a submission: shell commands in place of the
/// program `$qq`, and the exit code of `qkey`.
const PROCESS_LOSSES: [(&str, &str, i32); 14] = [
    ("killed before", "kill -9 $$", 8),
    ("killed after", r#""$qq" "$@" >/dev/null; kill -9 $$"#, 0),
    ("exit 3 before", "echo something odd >&2; exit 3", 8),
    // The exit code of argparse is 2.
    (
        "argparse's words before",
        "echo 'usage: wrapper [-h]' >&2; echo 'wrapper: error: no log' >&2; exit 3",
        8,
    ),
    (
        "argparse's words after",
        r#""$qq" "$@" >/dev/null; echo 'usage: wrapper [-h]' >&2; echo 'wrapper: error: no log' >&2; exit 3"#,
        0,
    ),
    (
        "connection refused",
        "echo 'Connection error: [Errno 111] Connection refused' >&2; exit 1",
        7,
    ),
    ("garbage before", "echo '<html>'; exit 0", 8),
    (
        "garbage after",
        r#""$qq" "$@" >/dev/null; echo '<html>'; exit 0"#,
        0,
    ),
    ("empty before", "exit 0", 8),
    ("empty after", r#""$qq" "$@" >/dev/null; exit 0"#, 0),
    ("truncated after", r#""$qq" "$@" | head -c 8; exit 0"#, 0),
    (
        "huge before",
        r"head -c 67108864 /dev/zero | tr '\0' x; exit 0",
        8,
    ),
    (
        "hang before",
        r#"echo $$ >>"$QQ_MOCK_STATE/sleepers"; exec sleep 300"#,
        8,
    ),
    (
        "hang after",
        r#""$qq" "$@"; echo $$ >>"$QQ_MOCK_STATE/sleepers"; exec sleep 300"#,
        0,
    ),
];

/// Has `qq` misbehave at a submission, and compares what is reported with what the mock holds.
fn lost_by_qq(operation: &str, ceremony: &str, fault: &str) -> String {
    let loss = PROCESS_LOSSES.iter().find(|(name, ..)| *name == fault);
    let &(_, shell, code) = loss.expect("a process loss");
    let what = format!("{operation}: {fault}");
    let mock = mock();
    let command = qq_command(operation);
    let qq = mock.program();
    let hook = format!(
        "qq='{}'\ncase \"$*\" in *{command}*) echo >>submissions; {shell};; esac",
        qq.display()
    );
    let qkey = Qkey::with_mock(&mock).between(&mock, &hook);
    let timeout = if fault.starts_with("hang") { 4 } else { 120 };
    let run = qkey.line(&format!("{ceremony} --timeout={timeout}"));
    expect_no_sleepers(&mock);
    let submitted = fs::read_to_string(qkey.path("submissions")).expect("a submission");
    assert_eq!(submitted.lines().count(), 1, "{what}: never sent again");
    let is_done = match operation {
        "add_key" => mock.key_ids().len() == 2,
        "replace_key" => mock.public_key("1") == BOB_PUBLIC,
        "lock" => mock.lock_key(3).is_some(),
        _ => mock.lock_key(2).is_none(),
    };
    assert_eq!(is_done, code == 0, "{what}: {run:?}");
    expect_report(&run, (code != 0).then_some(code), &what);
    without_hints(&run)
}

#[test]
fn qq_that_misbehaves_at_a_submission_is_looked_up() {
    let faults = PROCESS_LOSSES.map(|(name, ..)| name);
    let said = side_by_side(&faults, |fault| lost_by_qq("replace_key", REPLACE, fault));
    snapshot!(
        said,
        str![[r#"
==== killed before
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: qq failed to replace key 1
  caused by: `[DIR]/qq-between` was killed by signal 9
==== killed after
warning: no reply to the request to replace key 1 ("lock-2026") (qq failed to replace key 1: `[DIR]/qq-between` was killed by signal 9); checked: it was done
==== exit 3 before
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: qq failed to replace key 1
  caused by: `[DIR]/qq-between` exited with 3: something odd
==== argparse\'s words before
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: qq failed to replace key 1
  caused by: `[DIR]/qq-between` exited with 3: usage: wrapper [-h]
    wrapper: error: no log
==== argparse\'s words after
warning: no reply to the request to replace key 1 ("lock-2026") (qq failed to replace key 1: `[DIR]/qq-between` exited with 3: usage: wrapper [-h] wrapper: error: no log); checked: it was done
==== connection refused
error: cannot reach cluster:8000: [Errno 111] Connection refused
==== garbage before
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to replace key 1
  caused by: expected the key in JSON, got: <html>
==== garbage after
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from cluster:8000 to the request to replace key 1: expected the key in JSON, got: <html>); checked: it was done
==== empty before
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to replace key 1
  caused by: expected the key in JSON, got: (nothing)
==== empty after
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from cluster:8000 to the request to replace key 1: expected the key in JSON, got: (nothing)); checked: it was done
==== truncated after
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from cluster:8000 to the request to replace key 1: expected the key in JSON, got: {     "c); checked: it was done
==== huge before
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: the reply from cluster:8000 is too large: the reply is larger than 256 KiB
==== hang before
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: qq failed to replace key 1
  caused by: `[DIR]/qq-between` did not finish within 4 s and was killed
==== hang after
warning: no reply to the request to replace key 1 ("lock-2026") (qq failed to replace key 1: `[DIR]/qq-between` did not finish within 4 s and was killed); checked: it was done

"#]]
    );
    for (operation, ceremony) in &CEREMONIES[..3] {
        side_by_side(&["killed before", "garbage after"], |fault| {
            lost_by_qq(operation, ceremony, fault)
        });
    }
    // The first command of `lock` that names a key is the submission itself: these words must not be
    // taken for those of another dialect.
    side_by_side(
        &["argparse's words before", "argparse's words after"],
        |fault| lost_by_qq("lock", LOCK, fault),
    );
}

// The lookup after a loss.

/// The read that confirms a submission.
fn confirming_read(operation: &str) -> &'static str {
    match operation {
        "add_key" | "replace_key" => "list_keys",
        _ => "get_status",
    }
}

#[test]
fn lost_submission_is_unknown_while_the_lookup_fails() {
    let said = table(CEREMONIES.map(|(operation, _)| operation), |operation| {
        let (_, ceremony) = CEREMONIES
            .iter()
            .find(|one| one.0 == *operation)
            .expect("it");
        let core = Core::with_lock_key();
        let qkey = Qkey::with_rest(&core);
        let read = confirming_read(operation);
        core.fault(operation, "drop_after", json!({}));
        // The first read succeeds.
        core.fault(read, "slow", json!({ "seconds": 0 }));
        core.fault(read, "status", json!({ "status": 503, "times": 0 }));
        let run = qkey.line(ceremony);
        core.clear_faults();
        let again = qkey.line(ceremony);
        assert_eq!(core.count(operation), 1, "rerunning is safe");
        filtered(&run) + &filtered(&again)
    });
    snapshot!(
        said,
        str![[r#"
==== add_key
--- exit 8
error: the request to add key "new" was sent, but the result could not be confirmed
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to store key "new": it was closed before the whole response had arrived
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
Already stored as key 2 ("new").
  SHA256:[CAROL]
==== lock
--- exit 8
error: the request to lock snapshot 3 ("3_snapshot") was sent, but the result could not be confirmed
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to lock snapshot 3: it was closed before the whole response had arrived
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
Snapshot 3 ("3_snapshot") is already locked with key 1 ("lock-2026").
==== unlock
--- exit 8
error: the request to unlock snapshot 2 ("2_snapshot") was sent, but the result could not be confirmed
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to unlock snapshot 2: it was closed before the whole response had arrived
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
Snapshot 2 ("2_snapshot") is already unlocked.
==== replace_key
--- exit 8
error: the request to replace key 1 ("lock-2026") was sent, but the result could not be confirmed
  caused by: lost the connection to 127.0.0.1:[PORT] during the request to replace key 1: it was closed before the whole response had arrived
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
Key 1 ("lock-2026") already holds the new key.
  SHA256:[BOB]

"#]]
    );
}

#[test]
fn lookup_is_retried() {
    let core = Core::with_lock_key();
    core.fault("unlock", "drop_after", json!({}));
    core.fault("get_status", "slow", json!({ "seconds": 0 }));
    core.fault("get_status", "status", json!({ "status": 503, "times": 2 }));
    let run = Qkey::with_rest(&core).line(UNLOCK);
    assert_eq!(
        (run.code, core.count("unlock"), core.count("get_status")),
        (0, 1, 4)
    );
}

#[test]
fn change_by_someone_else_after_a_loss_is_a_conflict() {
    let said = table(CEREMONIES.map(|(operation, _)| operation), |operation| {
        let (_, ceremony) = CEREMONIES
            .iter()
            .find(|one| one.0 == *operation)
            .expect("it");
        let mock = mock();
        mock.add_key("other", "", BOB_PUBLIC);
        let change = match *operation {
            "add_key" => "printf new >keys/2/name".to_owned(),
            "replace_key" => format!("printf %s {CAROL_PUBLIC} >keys/1/public_key"),
            "lock" => "printf 2 >snapshots/3/lock_key".to_owned(),
            _ => "printf 2 >snapshots/2/lock_key".to_owned(),
        };
        let command = qq_command(operation);
        let hook = format!(
            "case \"$*\" in *{command}*) cd \"$QQ_MOCK_STATE\"; {change}; kill -9 $$;; esac"
        );
        filtered(&Qkey::with_mock(&mock).between(&mock, &hook).line(ceremony))
    });
    snapshot!(
        said,
        str![[r#"
==== add_key
--- exit 8
error: the request to add key "new" was sent, and now key 2 ("new") holds another public key
  caused by: qq failed to store key "new"
  caused by: `[DIR]/qq-between` was killed by signal 9
hint: someone else may be making changes; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows what the cluster holds
==== lock
--- exit 8
error: the request to lock snapshot 3 ("3_nightly_projects") was sent, and now it is locked with key 2
  caused by: qq failed to lock snapshot 3
  caused by: `[DIR]/qq-between` was killed by signal 9
hint: someone else may be making changes; `[DIR]/qq-between --host=cluster snapshot_get_status --id=3` shows what the cluster holds
==== unlock
--- exit 8
error: the request to unlock snapshot 2 ("2_quarter_end") was sent, and now it is locked with key 2
  caused by: qq failed to unlock snapshot 2
  caused by: `[DIR]/qq-between` was killed by signal 9
hint: someone else may be making changes; `[DIR]/qq-between --host=cluster snapshot_get_status --id=2` shows what the cluster holds
==== replace_key
--- exit 8
error: the request to replace key 1 ("lock-2026") was sent, and now key 1 ("lock-2026") holds a third key
  caused by: qq failed to replace key 1
  caused by: `[DIR]/qq-between` was killed by signal 9
hint: someone else may be making changes; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows what the cluster holds

"#]]
    );
}

#[test]
fn reply_about_another_object_never_counts_as_success() {
    let cases = [
        (
            "get_status",
            UNLOCK,
            "edited",
            json!({ "set": { "id": 8, "lock_key": null } }),
        ),
        (
            "get_status",
            LOCK,
            "edited",
            json!({ "set": { "id": 8, "lock_key": "1" } }),
        ),
        ("unlock", UNLOCK, "empty", json!({})),
        ("lock", LOCK, "empty", json!({})),
        (
            "replace_key",
            REPLACE,
            "edited",
            json!({ "set": { "id": "9" } }),
        ),
        ("add_key", ADD, "edited", json!({ "set": { "id": "9" } })),
        // Done, but the reply is about something else.
        (
            "replace_key",
            REPLACE,
            "edited_after",
            json!({ "set": { "id": "2" } }),
        ),
        (
            "add_key",
            ADD,
            "edited_after",
            json!({ "set": { "name": "other" } }),
        ),
    ];
    let mut said = String::new();
    for (on, ceremony, kind, more) in cases {
        let core = Core::with_lock_key();
        let before = core.state();
        let more_times = with_times(more.clone(), 0);
        core.fault(on, kind, more_times);
        let run = Qkey::with_rest(&core).line(ceremony);
        let is_unchanged = core.state() == before;
        assert_eq!(is_unchanged, run.code != 0, "{on} {kind} {more}: {run:?}");
        said += &format!("==== {on} {kind} {more}\n{}", without_hints(&run));
    }
    snapshot!(
        said,
        str![[r#"
==== get_status edited {"set":{"id":8,"lock_key":null}}
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 2
  caused by: expected the snapshot's status in JSON (it is about another object), got: {"id": 8, "name": "2_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name":…
==== get_status edited {"set":{"id":8,"lock_key":"1"}}
error: unexpected reply from 127.0.0.1:[PORT] to the request to read snapshot 3
  caused by: expected the snapshot's status in JSON (it is about another object), got: {"id": 8, "name": "3_snapshot", "timestamp": "2026-01-01T00:00:00Z", "expiration": "", "policy_id": null, "policy_name":…
==== unlock empty {}
error: the cluster accepted the request to unlock snapshot 2 ("2_snapshot"), but does not show it: not done so far, and may still be
==== lock empty {}
error: the cluster accepted the request to lock snapshot 3 ("3_snapshot"), but does not show it: not done so far, and may still be
==== replace_key edited {"set":{"id":"9"}}
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1
  caused by: expected the key in JSON (it is about another object), got: {"id": "9", "name": "lock-2026", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOI…
==== add_key edited {"set":{"id":"9"}}
error: the cluster accepted the request to add key "new", but does not show it: not done so far, and may still be
==== replace_key edited_after {"set":{"id":"2"}}
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from 127.0.0.1:[PORT] to the request to replace key 1: expected the key in JSON (it is about another object), got: {"id": "2", "name": "lock-2026", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOI…); checked: it was done
==== add_key edited_after {"set":{"name":"other"}}
warning: unexpected reply to the request to add key "new" (unexpected reply from 127.0.0.1:[PORT] to the request to store key "new": expected the key in JSON (it is about another object), got: {"id": "2", "name": "other", "comment": "", "disabled": false, "public_key": "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE4pvPqF…); checked: it was done

"#]]
    );
}

fn with_times(mut fault: Value, times: u64) -> Value {
    fault["times"] = times.into();
    fault
}
