//! `--via rest`: which requests are made, over which connections, to which addresses, and what a
//! signal does to them. Failures are in `rest_failures.rs`, certificates in `tls.rs`, tokens in
//! `credentials.rs`, proxies in `proxies.rs`.

use std::{
    fs, iter,
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    process::Child,
    time::Duration,
};

use crate::support::{
    ceremony::{ADD, CEREMONIES, LOCK, REPLACE, UNLOCK},
    core::Core,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, Qkey, Run, send, side_by_side, wait_until},
    snapshot::{filtered, qkey_snapshot, session, snapshot, table},
};
use rustix::{net, process::Signal};
use serde_json::json;
use snapbox::str;

#[track_caller]
fn expect_done(run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
}

// Requests.

#[test]
fn verbose_unlock_lists_calls_and_requests() {
    let core = Core::with_lock_key();
    let run = Qkey::with_rest(&core).line(&format!("{UNLOCK} -vv"));
    // The times differ, and so does which of parallel requests is first.
    let lines = run
        .stderr
        .lines()
        .map(|line| match line.split_once(" in ") {
            Some((before, time)) => {
                let time = time.strip_suffix(" ms").expect("milliseconds");
                time.parse::<f64>().expect("a number");
                format!("{before} in [TIME] ms\n")
            }
            None => format!("{line}\n"),
        });
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    snapshot!(
        lines.concat(),
        str![[r#"
GET /v1/file-system/security/keys/: 200 OK in [TIME] ms
GET /v3/snapshots/2/unlock-challenge: 200 OK in [TIME] ms
GET /v3/snapshots/status/2: 200 OK in [TIME] ms
GET /v3/snapshots/status/2: 200 OK in [TIME] ms
POST /v3/snapshots/2/unlock: 200 OK in [TIME] ms
get the challenge to unlock snapshot 2
list the lock keys
read snapshot 2
read snapshot 2
signing with alice.pem: "Unlock snapshot 2 locked with key 1, expiration \"\""
unlock snapshot 2

"#]]
    );
}

#[test]
fn ceremonies_need_no_qq_and_accept_chunked_replies_with_unknown_fields() {
    for kind in ["chunked", "with_extra"] {
        let core = Core::with_lock_key();
        let qkey = Qkey::with_rest(&core).env("PATH", "/nonexistent");
        for on in [
            "list_keys",
            "key_usage",
            "add_key",
            "replace_challenge",
            "replace_key",
            "get_status",
            "unlock_challenge",
            "unlock",
            "lock",
        ] {
            core.fault(on, kind, json!({ "times": 0 }));
        }
        for line in [ADD, LOCK, UNLOCK, "keys usage", REPLACE] {
            let run = qkey.line(line);
            assert_eq!((run.code, &*run.stderr), (0, ""), "{kind}: {run:?}");
        }
        assert_eq!(core.key("1")["public_key"], BOB_PUBLIC);
    }
}

#[test]
fn transport_precedence() {
    let core = Core::start();
    let chosen = |cluster: &str, defaults: &str, variable: &str, flag: &str| {
        let via = |value: &str| match value {
            "" => String::new(),
            value => format!("via = \"{value}\"\n"),
        };
        let qkey = match variable {
            "" => Qkey::new(),
            value => Qkey::new().env("QKEY_VIA", value),
        };
        qkey.configure(&format!(
            "[clusters.lab]\nhost = \"127.0.0.1\"\nport = {}\nca-file = {:?}\ncredentials-store = {:?}\n{}[defaults]\nqq = \"/nonexistent/qq\"\n{}",
            core.port(),
            core.ca_file(),
            core.credentials(),
            via(cluster),
            via(defaults),
        ));
        let run = qkey.line(format!("keys --cluster=lab {flag}").trim_end());
        match run.code {
            0 => "rest",
            _ if run.stderr.contains("/nonexistent/qq") => "qq",
            _ => panic!("{run:?}"),
        }
    };
    // The cluster, the defaults, the environment, a flag; and what is chosen.
    for (cluster, defaults, variable, flag, expected) in [
        ("", "", "", "", "qq"),
        ("rest", "", "", "", "rest"),
        ("", "rest", "", "", "rest"),
        ("qq", "rest", "", "", "qq"),
        ("rest", "qq", "", "", "rest"),
        ("qq", "", "rest", "", "rest"),
        ("rest", "", "qq", "", "qq"),
        ("rest", "", "rest", "--via=qq", "qq"),
        ("qq", "", "qq", "--via=rest", "rest"),
    ] {
        let chosen = chosen(cluster, defaults, variable, flag);
        assert_eq!(
            chosen, expected,
            "{cluster:?} {defaults:?} {variable:?} {flag:?}"
        );
    }
}

#[test]
fn hints_name_the_same_cluster() {
    let core = Core::start();
    let qkey = Qkey::with_rest(&core);
    qkey_snapshot!(
        qkey,
        "unlock --id=9 --key=alice.pem".split(' '),
        str![[r#"
--- exit 5
error: snapshot 9 does not exist on 127.0.0.1:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 9.
hint: `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows which snapshots are locked

"#]]
    );
    let pin = format!("--tls-fingerprint={}", core.fingerprint());
    let pinned = qkey.line(&format!("unlock --id=9 --key=alice.pem {pin}"));
    let hint = pinned.stderr.lines().last().expect("a hint");
    let command = hint.split('`').nth(1).expect("a command");
    let command = command
        .replace("[PORT]", &core.port().to_string())
        .replace("[CREDENTIALS]", core.credentials().to_str().expect("UTF-8"));
    // The command works as printed, in any environment.
    let args = command.strip_prefix("qkey ").expect("a command of qkey");
    expect_done(&Qkey::new().line(args));
}

#[test]
fn odd_key_names_are_resolved_to_ids() {
    let core = Core::with_lock_key();
    let qkey = Qkey::with_rest(&core);
    for name in [
        "a/b?c#d%2F é",
        "..",
        "100%",
        "%2e%2e",
        "-k",
        "a+b&c=d;e",
        "\u{202e}x\t\n",
    ] {
        core.modify_key("1", json!({ "name": name }));
        core.clear_requests();
        for [old, new] in [["alice", "bob"], ["bob", "alice"]] {
            let args = [
                "replace",
                "-k",
                name,
                &format!("--old-key={old}.pem"),
                &format!("--new-key={new}.pem"),
            ];
            expect_done(&qkey.run(args));
        }
        for request in core.requests() {
            let path = request["path"].as_str().expect("text");
            let keys = "/v1/file-system/security/keys/";
            assert!(
                path == keys || path.starts_with(&format!("{keys}1/")),
                "{path}"
            );
        }
    }
    assert_eq!(core.count("replace_key"), 2);
}

// Connections.

#[test]
fn one_connection_serves_a_whole_command() {
    let core = Core::with_lock_key();
    let qkey = Qkey::with_rest(&core);
    core.add_key(json!({ "name": "other", "public_key": BOB_PUBLIC }));
    core.page_limit(1, json!({ "keys": true }));
    for line in [
        "keys",
        "keys show 1",
        "keys usage",
        ADD,
        LOCK,
        UNLOCK,
        REPLACE,
    ] {
        let before = core.connections();
        expect_done(&qkey.line(line));
        let opened = core.connections() - before;
        // Parallel requests may have a connection each.
        assert!(opened <= 2, "{line} opened {opened}");
    }
    let mut unlock = "unlock --key=alice.pem".to_owned();
    core.add_key(json!({ "name": "lock", "public_key": ALICE_PUBLIC, "id": "50" }));
    for id in 100..120 {
        core.add_snapshot(json!({ "id": id, "lock_key": "50" }));
        unlock += &format!(" --id={id}");
    }
    let before = core.connections();
    expect_done(&qkey.line(&unlock));
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    assert!(core.connections() - before <= processors as u64);
}

#[test]
fn closed_idle_connection_is_replaced() {
    // Opening the key takes longer than a connection takes to close.
    const SLOW_KEY: &str = "locked.pem?passphrase-command=./slow-passphrase";
    let commands = [
        format!("unlock --id=2 --key={SLOW_KEY}"),
        format!("replace -k1 --old-key={SLOW_KEY} --new-key=bob.pem"),
        format!("add --name=new --key={SLOW_KEY}"),
        "keys usage".to_owned(),
    ];
    side_by_side(&commands.each_ref().map(String::as_str), |command| {
        for kind in ["close_after_answer", "last_answer"] {
            let core = Core::with_lock_key();
            let qkey = Qkey::with_rest(&core);
            qkey.encrypt_alice();
            qkey.write_program("slow-passphrase", "#!/bin/sh\nsleep 1\ncat passphrase\n");
            for on in [
                "get_status",
                "unlock_challenge",
                "list_keys",
                "replace_challenge",
            ] {
                core.fault(on, kind, json!({ "times": 0 }));
            }
            expect_done(&qkey.line(command));
            for (submission, _) in CEREMONIES {
                assert!(core.count(submission) <= 1);
            }
            for request in core.requests() {
                assert_eq!(request["status"], 200, "{request}");
            }
        }
        String::new()
    });
}

// Addresses.

#[test]
fn host_may_be_name_or_address() {
    let core = Core::start();
    let qkey = Qkey::with_rest(&core);
    for host in ["127.0.0.1", "localhost", "LocalHost"] {
        expect_done(&qkey.run(["keys", "--host", host]));
    }
    for request in core.requests() {
        let host = request["host"].as_str().expect("a header");
        assert!(host.ends_with(&format!(":{}", core.port())), "{host}");
    }
    let core = Core::start_with(&["--bind=::1"]);
    let qkey = Qkey::with_rest(&core);
    for host in ["::1", "[::1]", "0:0:0:0:0:0:0:1"] {
        expect_done(&qkey.run(["keys", "--host", host]));
    }
    let missing = "unlock --id=9 --key=alice.pem --host=::1";
    qkey_snapshot!(
        qkey,
        missing.split(' '),
        str![[r#"
--- exit 5
error: snapshot 9 does not exist on [::1]:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 9.
hint: `qkey --via=rest --host=::1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows which snapshots are locked

"#]]
    );
}

#[test]
fn invalid_host_or_port_is_refused_before_connecting() {
    let core = Core::start();
    let qkey = Qkey::with_rest(&core);
    for host in [
        "a b",
        "a/b",
        "a/",
        "/",
        "a@b",
        "https://a",
        "a:8000",
        "[a:8000]",
        "127.0.0.1:8000",
        "é",
        "fe80::1%lo",
        "[::1",
        "::1]",
        "[::1]:8000",
        "..",
        ".",
        "a..b",
        "-a",
        "a?b",
        "a#b",
        "a\\b",
        "%61",
        "*",
        "[]",
        " ",
        "127.0.0.1 ",
        "a\nb",
        "1.2.3.4.5",
        "256.1.1.1",
    ] {
        let run = qkey.run(["keys", &format!("--host={host}")]);
        assert_eq!(run.code, 2, "{run:?}");
        let expected = format!(
            "error: {host:?} is not a valid host name\nhint: give only the name or address; use --port for the port\n"
        );
        assert_eq!(run.stderr, expected);
    }
    let lines = [
        "keys --host=",
        "keys --port=65536",
        "keys --port=x",
        "keys --port=0",
    ];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey keys --host=
--- exit 2
error: the host is empty
hint: give a host name or an address, or omit it on a cluster node
$ qkey keys --port=65536
--- exit 2
error: invalid value '65536' for '--port <PORT>': 65536 is not in 0..=65535

For more information, try '--help'.
$ qkey keys --port=x
--- exit 2
error: invalid value 'x' for '--port <PORT>': invalid digit found in string

For more information, try '--help'.
$ qkey keys --port=0
--- exit 7
error: cannot reach 127.0.0.1:0: Connection refused (os error 111)
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
    );
    assert_eq!(core.connections(), 0);
}

// Timeouts and signals.

fn interrupt(qkey: &Qkey, child: Child) -> Run {
    send(&child, Signal::INT);
    let run = qkey.end(child);
    assert_eq!(run.code, 130, "{run:?}");
    run
}

/// A port where connections are neither made nor refused.
struct Deaf {
    port: u16,
    _listener: OwnedFd,
    _waiting: Vec<TcpStream>,
}

impl Deaf {
    fn start() -> Self {
        let listener = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None);
        let listener = listener.expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        net::bind(&listener, &any).expect("a free port");
        net::listen(&listener, 0).expect("it listens");
        let address = net::getsockname(&listener).expect("an address");
        let address = SocketAddr::try_from(address).expect("of IP");
        // Those that nobody accepts fill its queue.
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        Self {
            port: address.port(),
            _waiting: iter::from_fn(connect).collect(),
            _listener: listener,
        }
    }
}

#[test]
fn connecting_times_out_and_is_interrupted() {
    let deaf = Deaf::start();
    let qkey = Qkey::with_port(deaf.port);
    qkey_snapshot!(
        qkey,
        format!("{UNLOCK} --timeout=1").split(' '),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: no connection within 1 s
hint: check whether the cluster responds, or give it more time with --timeout SECONDS

"#]]
    );
    let child = qkey.start("lock --id=7 --lock-key=1 --timeout=600");
    wait_until("an attempt to connect", || is_connecting_to(deaf.port));
    snapshot!(
        filtered(&interrupt(&qkey, child)),
        str![[r#"
--- exit 130
error: interrupted before the request to read snapshot 7
hint: nothing was submitted by this step; run this again

"#]]
    );
}

/// Whether there is a connection to the port that has been begun and not answered (proc(5): state
/// 02 is SYN_SENT).
fn is_connecting_to(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux tells");
    let address = format!("0100007F:{port:04X}");
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[2] == address && words[3] == "02"
    })
}

#[test]
fn interrupted_read_sends_nothing() {
    let cases = ["slow", "drip", "a pause before a retry"];
    let said = table(cases, |case| {
        let core = Core::start();
        let qkey = Qkey::with_rest(&core);
        match *case {
            "slow" => core.fault("list_keys", case, json!({ "seconds": 300 })),
            "drip" => core.fault("list_keys", case, json!({ "seconds": 3 })),
            _ => {
                let busy = json!({ "status": 503, "retry_after": 100 });
                core.fault("list_keys", "status", busy);
            }
        }
        let child = qkey.start("keys --timeout=600");
        wait_until("a read", || core.count("list_keys") == 1);
        let run = interrupt(&qkey, child);
        assert_eq!(core.count("list_keys"), 1);
        filtered(&run)
    });
    snapshot!(
        said,
        str![[r#"
==== slow
--- exit 130
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
==== drip
--- exit 130
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
==== a pause before a retry
--- exit 130
error: interrupted before the request to list the lock keys
hint: nothing was submitted by this step; run this again

"#]]
    );
}

#[test]
fn interrupted_submission_is_looked_up_once() {
    let cases = ["slow", "slow_after"].map(|kind| {
        CEREMONIES.map(|(operation, ceremony)| format!("{operation} {kind} {ceremony}"))
    });
    let cases: Vec<&str> = cases.iter().flatten().map(String::as_str).collect();
    // Each waits for its lookup.
    let said = side_by_side(&cases, |case| {
        let mut words = case.splitn(3, ' ');
        let [operation, kind, ceremony] = [(); 3].map(|()| words.next().expect("a word"));
        let core = Core::with_lock_key();
        let qkey = Qkey::with_rest(&core);
        core.fault(operation, kind, json!({ "seconds": 300 }));
        let child = qkey.start(&format!("{ceremony} --timeout=600"));
        wait_until("a submission", || core.count(operation) == 1);
        send(&child, Signal::INT);
        let run = qkey.end(child);
        assert_eq!(core.count(operation), 1, "{kind}");
        core.clear_faults();
        expect_done(&qkey.line(ceremony));
        let submitted = if kind == "slow" { 2 } else { 1 };
        assert_eq!(core.count(operation), submitted, "{kind}, run again");
        filtered(&run)
    });
    snapshot!(
        said,
        str![[r#"
==== add_key slow add --name=new --key=carol.pem
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to add key "new": not done so far, and may still be
  caused by: interrupted during the request to store key "new"
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
==== lock slow lock --id=3 --lock-key=1
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to lock snapshot 3 ("3_snapshot"): not done so far, and may still be
  caused by: interrupted during the request to lock snapshot 3
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
==== unlock slow unlock --id=2 --key=alice.pem
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to unlock snapshot 2 ("2_snapshot"): not done so far, and may still be
  caused by: interrupted during the request to unlock snapshot 2
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
==== replace_key slow replace -k1 --old-key=alice.pem --new-key=bob.pem
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: interrupted during the request to replace key 1
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
==== add_key slow_after add --name=new --key=carol.pem
Stored key 2 ("new") in the key store.
  SHA256:[CAROL]
--- exit 0
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
warning: no reply to the request to add key "new" (interrupted during the request to store key "new"); checked: it was done
==== lock slow_after lock --id=3 --lock-key=1
Locked snapshot 3 ("3_snapshot") with key 1 ("lock-2026").
--- exit 0
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
warning: no reply to the request to lock snapshot 3 ("3_snapshot") (interrupted during the request to lock snapshot 3); checked: it was done
==== unlock slow_after unlock --id=2 --key=alice.pem
Unlocked snapshot 2 ("2_snapshot") with key 1 ("lock-2026").
--- exit 0
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
warning: no reply to the request to unlock snapshot 2 ("2_snapshot") (interrupted during the request to unlock snapshot 2); checked: it was done
==== replace_key slow_after replace -k1 --old-key=alice.pem --new-key=bob.pem
Replaced key 1 ("lock-2026").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
warning: no reply to the request to replace key 1 ("lock-2026") (interrupted during the request to replace key 1); checked: it was done

"#]]
    );
}
