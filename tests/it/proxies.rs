//! `--via rest` through the proxies that the environment names.

use std::{io::Write, net::TcpListener, thread, time::Duration};

use crate::support::{
    core::{Core, TOKEN},
    proxy::{Proxy, Serves, free_port},
    qkey::{Qkey, Run},
    snapshot::{filtered, snapshot},
};
use snapbox::str;

/// `name:password` in Base64.
const CREDENTIALS: &str = "bWU6aHVudGVyIDI=";

fn through(core: &Core, variable: &str, url: &str) -> Qkey {
    Qkey::with_rest(core).env(variable, url)
}

#[track_caller]
fn expect_done(run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
}

/// The run with the proxy's port replaced.
fn transcript(proxy: u16, run: &Run) -> String {
    filtered(run).replace(&proxy.to_string(), "[PROXY]")
}

#[test]
fn only_https_proxies_are_used() {
    let core = Core::start();
    let target = format!("127.0.0.1:{}", core.port());
    for variable in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        let proxy = Proxy::start(Serves::Everybody);
        // The scheme is optional.
        for url in [proxy.url(), proxy.url().replace("http://", "")] {
            expect_done(&through(&core, variable, &url).run(["keys"]));
        }
        assert_eq!(proxy.targets(), [&*target; 2], "{variable}");
    }
    let proxy = Proxy::start(Serves::Nobody);
    for variable in ["http_proxy", "HTTP_PROXY", "ftp_proxy"] {
        expect_done(&through(&core, variable, &proxy.url()).run(["keys"]));
    }
    assert_eq!(proxy.targets(), Vec::<String>::new());
    expect_done(&through(&core, "https_proxy", "").run(["keys"]));
}

#[test]
fn https_proxy_beats_all_proxy() {
    let core = Core::start();
    let (wanted, other) = (
        Proxy::start(Serves::Everybody),
        Proxy::start(Serves::Nobody),
    );
    for (strong, weak) in [
        ("https_proxy", "HTTPS_PROXY"),
        ("HTTPS_PROXY", "all_proxy"),
        ("all_proxy", "ALL_PROXY"),
    ] {
        let qkey = through(&core, strong, &wanted.url()).env(weak, other.url());
        expect_done(&qkey.run(["keys"]));
    }
    assert_eq!(wanted.targets().len(), 3);
    assert!(other.targets().is_empty());
}

#[test]
fn proxy_sees_only_its_own_credentials() {
    let core = Core::start();
    let proxy = Proxy::start(Serves::Only(CREDENTIALS));
    let qkey = through(&core, "https_proxy", &proxy.url_for("me:hunter%202"));
    let run = qkey.run(["keys", "-vv"]);
    expect_done(&run);
    assert!(!format!("{run:?}").contains("hunter"));
    // It tunnels bytes of TLS; what it was told itself is in its log.
    assert!(!format!("{:?}", proxy.heard()).contains(TOKEN));
    assert_eq!(proxy.targets().len(), 1);
}

#[test]
fn refusing_proxy_is_named_without_password() {
    let core = Core::start();
    let said = |serves, user: &str| {
        let proxy = Proxy::start(serves);
        let qkey = through(&core, "HTTPS_PROXY", &proxy.url_for(user));
        for output in ["text", "json"] {
            let run = qkey.run(["keys", "-vv", "--output", output]);
            assert_eq!(run.code, 7, "{run:?}");
            let said = format!("{run:?}");
            assert!(
                !said.contains("hunter") && !said.contains("aHVudGVy"),
                "{said}"
            );
        }
        // What another try would not change is tried once.
        assert_eq!(proxy.targets().len(), 2);
        transcript(proxy.port(), &qkey.run(["keys", "list"]))
    };
    let said = [
        said(Serves::Only(CREDENTIALS), "me:hunter3"),
        said(Serves::Nobody, "me:hunter2"),
    ];
    snapshot!(
        said.concat(),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: through the proxy 127.0.0.1:[PROXY]: it responded with 407 Proxy Authentication Required
hint: set the proxy's user and password in HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: through the proxy 127.0.0.1:[PROXY]: it responded with 403 Forbidden
hint: check the proxy that HTTPS_PROXY names, or list the cluster's host in no_proxy; then check --host and --port

"#]]
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn unreachable_proxy_and_cluster_are_named() {
    let port = free_port();
    let url = format!("http://me:hunter2@127.0.0.1:{port}");
    let run = Qkey::with_port(free_port())
        .env("https_proxy", url)
        .run(["keys", "list"]);
    let said = transcript(port, &run);
    let proxy = Proxy::start(Serves::Everybody);
    let qkey = Qkey::with_port(free_port()).env("https_proxy", proxy.url());
    let run = qkey.run(["keys", "list"]);
    snapshot!(
        said + &transcript(proxy.port(), &run),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: through the proxy 127.0.0.1:[PROXY]: Connection refused (os error 111)
hint: check the proxy that https_proxy names, or list the cluster's host in no_proxy; then check --host and --port
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: through the proxy 127.0.0.1:[PROXY]: it responded with 502 Bad Gateway
hint: check the proxy that https_proxy names, or list the cluster's host in no_proxy; then check --host and --port

"#]]
    );
}

#[test]
fn no_proxy_hosts_bypass_the_proxy() {
    let core = Core::start();
    let proxy = Proxy::start(Serves::Nobody);
    for (host, exceptions) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "*"),
        ("127.0.0.1", "elsewhere, 127.0.0.1"),
        ("127.0.0.1", "elsewhere 127.0.0.1"),
        ("127.0.0.1", "127.0.0.0/8"),
        ("localhost", "localhost"),
        ("LOCALHOST", "localhost"),
        ("localhost", ".localhost"),
        ("localhost", "LocalHost."),
        ("localhost", "*.localhost"),
    ] {
        for variable in ["no_proxy", "NO_PROXY"] {
            let qkey = through(&core, "https_proxy", &proxy.url()).env(variable, exceptions);
            let run = qkey.run(["keys", "list", "--host", host]);
            assert_eq!(run.code, 0, "{host} {variable}={exceptions}: {run:?}");
        }
    }
    assert_eq!(proxy.targets(), Vec::<String>::new());
    for exceptions in [
        "",
        "elsewhere",
        "127.0.0",
        "127.0.0.2",
        "128.0.0.0/8",
        "ocalhost",
    ] {
        let qkey = through(&core, "https_proxy", &proxy.url()).env("NO_PROXY", exceptions);
        assert_eq!(qkey.run(["keys", "list"]).code, 7, "{exceptions}");
    }
}

#[test]
fn ipv6_with_and_without_proxy() {
    let core = Core::start_with(&["--bind=::1"]);
    let refusing = Proxy::start(Serves::Nobody);
    for exceptions in ["::1", "[::1]", "::/64"] {
        let qkey = through(&core, "https_proxy", &refusing.url()).env("NO_PROXY", exceptions);
        expect_done(&qkey.run(["keys", "list", "--host=::1"]));
    }
    let proxy = Proxy::start(Serves::Everybody);
    expect_done(&through(&core, "https_proxy", &proxy.url()).run(["keys", "--host=::1"]));
    assert_eq!(proxy.targets(), [format!("[::1]:{}", core.port())]);
}

#[test]
fn invalid_proxy_is_refused_before_connecting() {
    let core = Core::start();
    for url in [
        "socks5://me:hunter2@127.0.0.1:1080",
        "https://me:hunter2@127.0.0.1:3128",
        "ftp://me:hunter2@127.0.0.1",
        "http://",
        "http://me:hunter2@",
        "http://me:hunter 2@proxy",
        "://",
        "http://proxy:99999",
        "/proxy",
        "http://me:hunter%ff@proxy",
    ] {
        let run = through(&core, "all_proxy", url).run(["keys", "-vv"]);
        assert_eq!(run.code, 2, "{url}: {run:?}");
        assert!(!format!("{run:?}").contains("hunter"), "{run:?}");
        snapshot!(
            run.stderr,
            str![[r#"
error: all_proxy does not name a usable proxy
hint: it must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT

"#]]
        );
    }
    assert_eq!(core.connections(), 0);
}

#[test]
fn dripping_proxy_times_out() {
    let core = Core::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut client = listener.accept().unwrap().0;
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        // Until the client hangs up.
        while client.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    let qkey = through(&core, "https_proxy", &format!("http://127.0.0.1:{port}"));
    let run = qkey.run(["keys", "--timeout=2"]);
    snapshot!(
        transcript(port, &run),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: through the proxy 127.0.0.1:[PROXY]: no connection within 2 s
hint: check whether the cluster responds, or give it more time with --timeout SECONDS

"#]]
    );
    assert_eq!(core.requests(), Vec::<serde_json::Value>::new());
}
