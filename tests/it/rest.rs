//! `--via rest`: what is asked of a cluster's REST API, and over which connections. What can go wrong
//! is in `rest_failures.rs`, whom it believes in `tls.rs`, where its token comes from in
//! `credentials.rs`, how it gets through proxies in `proxies.rs`.

use std::{
    fs, iter,
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    process::Child,
    time::Duration,
};

use crate::support::{
    core::Core,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, Qkey, Run, side_by_side, wait_until},
    shell::prints,
};
use rustix::{
    net,
    process::{Pid, Signal, kill_process},
};
use serde_json::json;
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

/// The paths that were asked for.
fn paths(core: &Core) -> Vec<String> {
    let requests = core.requests();
    let paths = requests.iter().map(|request| request["path"].as_str());
    paths.map(|path| path.expect("text").to_owned()).collect()
}

fn expect_done(run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
}

// Which requests.

#[test]
fn verbose_unlock_lists_calls_and_requests() {
    let core = core();
    let qkey = Qkey::with_rest(&core);
    let said = |run: Run| {
        // How long each took differs, and so does which of those that run side by side is first.
        let mut lines: Vec<String> = run
            .stderr
            .lines()
            .map(|line| match line.split_once(" in ") {
                Some((before, time)) => {
                    let time = time.strip_suffix(" ms").expect("milliseconds");
                    time.parse::<f64>().expect("a number");
                    format!("{before} in [TIME] ms")
                }
                None => line.to_owned(),
            })
            .collect();
        lines.sort();
        format!("exit {}\n{}{}\n", run.code, run.stdout, lines.join("\n"))
    };
    assert_data_eq!(
        said(qkey.run(with(&UNLOCK, &["-v"]))),
        str![[r#"
exit 0
Unlocked snapshot 7 ("7_snapshot") with key 1 ("lock-2026").
get the challenge to unlock snapshot 7
list the lock keys
read snapshot 7
read snapshot 7
signing with alice.pem: "Unlock snapshot 7 locked with key 1, expiration \"\""
unlock snapshot 7

"#]]
        .raw()
    );
    core.modify_snapshot(7, json!({ "lock_key": "1" }));
    assert_data_eq!(
        said(qkey.run(with(&UNLOCK, &["-vv"]))),
        str![[r#"
exit 0
Unlocked snapshot 7 ("7_snapshot") with key 1 ("lock-2026").
GET /v1/file-system/security/keys/: 200 OK in [TIME] ms
GET /v3/snapshots/7/unlock-challenge: 200 OK in [TIME] ms
GET /v3/snapshots/status/7: 200 OK in [TIME] ms
GET /v3/snapshots/status/7: 200 OK in [TIME] ms
POST /v3/snapshots/7/unlock: 200 OK in [TIME] ms
get the challenge to unlock snapshot 7
list the lock keys
read snapshot 7
read snapshot 7
signing with alice.pem: "Unlock snapshot 7 locked with key 1, expiration \"\""
unlock snapshot 7

"#]]
        .raw()
    );
}

#[test]
fn rest_works_without_qq() {
    let core = core();
    let qkey = Qkey::with_rest(&core).env("PATH", "/nonexistent");
    for command in [
        &UNLOCK[..],
        &LOCK,
        &REPLACE,
        &ADD,
        &["keys"],
        &["keys", "usage"],
    ] {
        expect_done(&qkey.run(command));
    }
}

#[test]
fn transport_precedence() {
    let core = core();
    let cluster = |via: &str| {
        format!(
            "[clusters.lab]\nhost = \"127.0.0.1\"\nport = {}\nca-file = {:?}\ncredentials-store = {:?}\n{via}\n",
            core.port(),
            core.ca_file(),
            core.credentials(),
        )
    };
    let rest = "via = \"rest\"";
    let qq = "via = \"qq\"";
    let defaults = |via: &str| format!("[defaults]\n{via}\nqq = \"/nonexistent/qq\"\n");
    let code = |file: String, env: &[(&str, &str)], args: &[&str]| {
        let mut qkey = Qkey::new();
        for (name, value) in env {
            qkey = qkey.env(name, value);
        }
        qkey.configure(&file);
        let run = qkey.run(with(&["keys", "--cluster=lab"], args));
        match run.code {
            0 => "rest",
            _ => {
                assert!(run.stderr.contains("/nonexistent/qq"), "{run:?}");
                "qq"
            }
        }
    };
    let env = |via| [("QKEY_VIA", via)];
    assert_eq!(code(cluster("") + &defaults(""), &[], &[]), "qq");
    assert_eq!(code(cluster(rest) + &defaults(""), &[], &[]), "rest");
    assert_eq!(code(cluster("") + &defaults(rest), &[], &[]), "rest");
    assert_eq!(code(cluster(qq) + &defaults(rest), &[], &[]), "qq");
    assert_eq!(code(cluster(rest) + &defaults(qq), &[], &[]), "rest");
    assert_eq!(code(cluster(qq) + &defaults(""), &env("rest"), &[]), "rest");
    assert_eq!(code(cluster(rest) + &defaults(""), &env("qq"), &[]), "qq");
    assert_eq!(
        code(cluster(rest) + &defaults(""), &env("rest"), &["--via=qq"]),
        "qq"
    );
    assert_eq!(
        code(cluster(qq) + &defaults(""), &env("qq"), &["--via=rest"]),
        "rest"
    );
}

#[test]
fn missing_host_is_usage_error() {
    let run = Qkey::new().run(["keys", "--via=rest"]);
    assert_data_eq!(run.transcript(), str![[r#"
--- exit 2
error: no cluster selected
hint: give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)

"#]].raw());
}

#[test]
fn hints_name_the_same_cluster() {
    let core = core();
    let qkey = Qkey::with_rest(&core);
    let missing = qkey.run(["unlock", "--id=9", "--key=alice.pem"]);
    assert_data_eq!(missing.transcript(), str![[r#"
--- exit 5
error: snapshot 9 does not exist on 127.0.0.1:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 9.
hint: `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows which snapshots are locked

"#]].raw());
    let pinned = qkey.run([
        "unlock",
        "--id=9",
        "--key=alice.pem",
        "--tls-fingerprint",
        core.fingerprint(),
    ]);
    let hint = pinned.stderr.lines().last().expect("a hint");
    let command = hint.split('`').nth(1).expect("a command");
    let args: Vec<String> = command
        .replace("[PORT]", &core.port().to_string())
        .replace("[CREDENTIALS]", core.credentials().to_str().expect("UTF-8"))
        .split(' ')
        .skip(1)
        .map(str::to_owned)
        .collect();
    // As it stands, elsewhere.
    expect_done(&Qkey::new().run(args));
}

// Key references.

#[test]
fn key_names_are_percent_encoded() {
    let core = core();
    let qkey = Qkey::with_rest(&core);
    let names = [
        "a/b?c#d%2F é",
        ".",
        "..",
        "100%",
        "%2e%2e",
        "-k",
        "a+b&c=d;e",
        "\u{202e}x\t\n",
    ];
    for name in names {
        core.modify_key("1", json!({ "name": name }));
        core.clear_requests();
        let reference = format!("--key-id={name}");
        let run = qkey.run([
            "replace",
            &reference,
            "--old-key=alice.pem",
            "--new-key=bob.pem",
        ]);
        expect_done(&run);
        // Once asked for by the name at most, and not at all by another path.
        for request in core.requests() {
            assert_eq!(request["status"], 200, "{request}");
        }
        let back = qkey.run([
            "replace",
            &reference,
            "--old-key=bob.pem",
            "--new-key=alice.pem",
        ]);
        expect_done(&back);
    }
    assert_eq!(core.key("1")["public_key"], ALICE_PUBLIC);
    core.modify_key("1", json!({ "name": names[0] }));
    core.clear_requests();
    let reference = format!("--key-id={}", names[0]);
    qkey.run([
        "replace",
        &reference,
        "--old-key=alice.pem",
        "--new-key=bob.pem",
        "--dry-run",
    ]);
    let mut paths = paths(&core);
    paths.sort();
    assert_data_eq!(
        paths.join("\n"),
        str![[r#"
/v1/file-system/security/keys/
/v1/file-system/security/keys/1/key-replacement-challenge
"#]]
        .raw()
    );
}

// Connections.

#[test]
fn one_connection_serves_a_whole_command() {
    let core = core();
    let qkey = Qkey::with_rest(&core);
    core.add_key(json!({ "name": "other", "public_key": BOB_PUBLIC }));
    core.page_limit(1, json!({ "keys": true }));
    for command in [
        &UNLOCK[..],
        &LOCK,
        &["keys"],
        &["keys", "show", "1"],
        &["keys", "usage"],
        &ADD,
        &["replace", "-k2", "--old-key=bob.pem", "--new-key=alice.pem"],
    ] {
        let before = core.connections();
        expect_done(&qkey.run(command));
        let opened = core.connections() - before;
        // What runs side by side may have one each.
        assert!(opened <= 2, "{command:?} opened {opened}");
    }
}

#[test]
fn many_snapshots_share_a_few_connections() {
    let core = core();
    let ids: Vec<String> = (100..120).map(|id| format!("--id={id}")).collect();
    for id in 100..120 {
        core.add_snapshot(json!({ "id": id, "lock_key": "1" }));
    }
    let mut args = vec!["unlock", "--key=alice.pem"];
    args.extend(ids.iter().map(String::as_str));
    expect_done(&Qkey::with_rest(&core).run(args));
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    assert!(core.connections() <= processors as u64);
    assert_eq!(core.count("unlock"), 20);
}

/// Alice's key with a passphrase that takes its time, longer than a connection takes to close.
const SLOW_KEY: &str = "slow.pem?passphrase-command=./slow-passphrase";

fn write_slow_key(qkey: &Qkey) {
    qkey.write_program("slow-passphrase", "#!/bin/sh\nsleep 1\necho passphrase\n");
    qkey.write("passphrase", "passphrase\n");
    prints(
        qkey,
        "openssl pkcs8 -topk8 -in alice.pem -passout file:passphrase -out slow.pem
         chmod 600 slow.pem",
    );
}

#[test]
fn closed_idle_connection_is_replaced() {
    let commands = ["unlock", "replace", "add", "keys"];
    side_by_side(&commands, |command| {
        for kind in ["close_after_answer", "last_answer"] {
            let core = core();
            let qkey = Qkey::with_rest(&core);
            write_slow_key(&qkey);
            for on in [
                "get_status",
                "unlock_challenge",
                "list_keys",
                "replace_challenge",
            ] {
                core.fault(on, kind, json!({ "times": 0 }));
            }
            let old_key = format!("--old-key={SLOW_KEY}");
            expect_done(&match command {
                "unlock" => qkey.run(["unlock", "--id=7", "--key", SLOW_KEY]),
                "replace" => qkey.run(["replace", "-k1", &old_key, "--new-key=bob.pem"]),
                "add" => qkey.run(["add", "--name=new", "--key", SLOW_KEY]),
                _ => qkey.run(["keys", "usage"]),
            });
            for submission in ["unlock", "replace_key", "add_key"] {
                assert!(core.count(submission) <= 1);
            }
            for request in core.requests() {
                assert_eq!(request["status"], 200, "{request}");
            }
        }
        String::new()
    });
}

#[test]
fn chunked_replies_with_unknown_fields_parse() {
    for kind in ["chunked", "with_extra"] {
        let core = core();
        let qkey = Qkey::with_rest(&core);
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
        for command in [&UNLOCK[..], &LOCK, &ADD, &["keys", "usage"], &REPLACE] {
            expect_done(&qkey.run(command));
        }
        assert_eq!(core.key("1")["public_key"], BOB_PUBLIC);
    }
}

// Addresses.

#[test]
fn host_may_be_name_or_address() {
    let core = core();
    let qkey = Qkey::with_rest(&core);
    for host in ["127.0.0.1", "localhost", "LOCALHOST", "LocalHost"] {
        expect_done(&qkey.run(["keys", "--host", host]));
    }
    for request in core.requests() {
        let host = request["host"].as_str().expect("a header");
        assert!(host.ends_with(&format!(":{}", core.port())), "{host}");
    }
}

#[test]
fn ipv6_works_with_and_without_brackets() {
    let core = core_with(&["--bind=::1"]);
    let qkey = Qkey::with_rest(&core);
    for host in ["::1", "[::1]", "0:0:0:0:0:0:0:1"] {
        expect_done(&qkey.run(with(&["keys", "--host"], &[host])));
    }
    expect_done(&qkey.run(with(&UNLOCK, &["--host=::1"])));
    let run = qkey.run(["unlock", "--id=9", "--key=alice.pem", "--host=::1"]);
    assert_data_eq!(run.transcript(), str![[r#"
--- exit 5
error: snapshot 9 does not exist on [::1]:[PORT]
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 9.
hint: `qkey --via=rest --host=::1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows which snapshots are locked

"#]].raw());
}

#[test]
fn invalid_host_is_refused_before_connecting() {
    let core = core();
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
    assert_data_eq!(
        qkey.run(["keys", "--host="]).transcript(),
        str![[r#"
--- exit 2
error: the host is empty
hint: give a host name or an address, or omit it on a cluster node

"#]]
        .raw()
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn invalid_port_is_usage_error() {
    let core = core();
    let qkey = Qkey::with_rest(&core);
    let mut said = String::new();
    for port in ["65536", "-1", "x", "0"] {
        said += &qkey.run(["keys", &format!("--port={port}")]).transcript();
    }
    assert_data_eq!(
        said,
        str![[r#"
--- exit 2
error: invalid value '65536' for '--port <PORT>': 65536 is not in 0..=65535

For more information, try '--help'.
--- exit 2
error: invalid value '-1' for '--port <PORT>': -1 is not in 0..=65535

For more information, try '--help'.
--- exit 2
error: invalid value 'x' for '--port <PORT>': invalid digit found in string

For more information, try '--help'.
--- exit 7
error: cannot reach 127.0.0.1:0: Connection refused (os error 111)
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
        .raw()
    );
    assert_eq!(core.connections(), 0);
}

// Signals.

fn start(qkey: &Qkey, args: &[&str]) -> Child {
    qkey.command(args).spawn().expect("qkey runs")
}

fn interrupt(qkey: &Qkey, child: Child) -> Run {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process id");
    kill_process(pid, Signal::INT).expect("qkey takes signals");
    let run = qkey.taken(&child.wait_with_output().expect("qkey ends"));
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

    fn qkey(&self) -> Qkey {
        Qkey::new()
            .env("QKEY_VIA", "rest")
            .env("QKEY_HOST", "127.0.0.1")
            .env("QKEY_PORT", &self.port.to_string())
    }
}

#[test]
fn connecting_times_out() {
    let deaf = Deaf::start();
    let run = deaf.qkey().run(with(&UNLOCK, &["--timeout=1"]));
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: no connection within 1 s
hint: check whether the cluster responds, or give it more time with --timeout SECONDS

"#]]
        .raw()
    );
}

#[test]
fn interrupt_while_connecting_exits() {
    let deaf = Deaf::start();
    let qkey = deaf.qkey();
    let child = start(&qkey, &["lock", "--id=7", "--lock-key=1", "--timeout=600"]);
    wait_until("an attempt to connect", || is_connecting_to(deaf.port));
    assert_data_eq!(
        interrupt(&qkey, child).transcript(),
        str![[r#"
--- exit 130
error: interrupted before the request to read snapshot 7
hint: nothing was submitted by this step; run this again

"#]]
        .raw()
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
fn interrupt_during_hanging_read_exits() {
    let cases = [
        "a slow answer",
        "a dripping answer",
        "a pause before the next try",
    ];
    let said = side_by_side(&cases, |case| {
        let core = core();
        let qkey = Qkey::with_rest(&core);
        match case {
            "a slow answer" => core.fault("list_keys", "slow", json!({ "seconds": 300 })),
            "a dripping answer" => core.fault("list_keys", "drip", json!({ "seconds": 3 })),
            _ => {
                let busy = json!({ "status": 503, "retry_after": 100 });
                core.fault("list_keys", "status", busy);
            }
        }
        let child = start(&qkey, &["keys", "list", "--timeout=600"]);
        wait_until("a read", || core.count("list_keys") == 1);
        let run = interrupt(&qkey, child);
        assert_eq!(core.count("list_keys"), 1);
        run.transcript()
    });
    assert_data_eq!(
        said,
        str![[r#"
==== a slow answer
--- exit 130
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
==== a dripping answer
--- exit 130
error: interrupted during the request to list the lock keys
hint: nothing was submitted by this step; run this again
==== a pause before the next try
--- exit 130
error: interrupted before the request to list the lock keys
hint: nothing was submitted by this step; run this again

"#]]
        .raw()
    );
}

#[test]
fn interrupt_during_hanging_submission_reports_unconfirmed() {
    let cases = ["unlock", "lock", "replace_key", "add_key"];
    let said = side_by_side(&cases, |on| {
        let command = match on {
            "unlock" => &UNLOCK[..],
            "lock" => &LOCK,
            "replace_key" => &REPLACE,
            _ => &ADD,
        };
        let core = core();
        let qkey = Qkey::with_rest(&core);
        core.fault(on, "slow", json!({ "seconds": 300 }));
        let child = start(&qkey, &with(command, &["--timeout=600"]));
        wait_until("a submission", || core.count(on) == 1);
        let run = interrupt(&qkey, child);
        assert_eq!(core.count(on), 1);
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== unlock
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to unlock snapshot 7 ("7_snapshot"): not done so far, and may still be
  caused by: interrupted during the request to unlock snapshot 7
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
==== lock
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to lock snapshot 8 ("8_snapshot"): not done so far, and may still be
  caused by: interrupted during the request to lock snapshot 8
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys usage` shows whether it was done; rerunning is safe: qkey looks first
==== replace_key
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: interrupted during the request to replace key 1
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first
==== add_key
--- exit 130
warning: stopping; waiting up to 8 s for what was already sent (a second signal stops at once)
error: no reply to the request to add key "new": not done so far, and may still be
  caused by: interrupted during the request to store key "new"
hint: keep every key; `qkey --via=rest --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] --ca-file=[CA] keys list` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
}
