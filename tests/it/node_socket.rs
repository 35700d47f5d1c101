//! On a cluster node, `qq` 7.5.3 and later sends every request to the node's own socket, whatever host
//! it is given. A mount namespace stands in for a node.

use std::{
    fs,
    io::{self, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::support::{
    core::{QQ_VERSION, qq},
    http::read_request,
    qkey::{ALICE_PUBLIC, Qkey, Run},
    snapshot::{filtered, snapshot, table},
};
use serde_json::json;
use snapbox::str;

/// Another cluster's address. Nothing can reach it: the namespace has only a loopback device.
const OTHER: &str = "203.0.113.9";

const TOKEN: &str = "access-v1:of-the-other-cluster";

/// Turns the namespace into a node: mounts `$0` at `/run/qfsd`, and makes `--host` optional for `qq`.
const NODE: &str = r#"
    mount -t tmpfs tmpfs /run && mkdir /run/qfsd && mount --bind "$0" /run/qfsd &&
    mount -t tmpfs tmpfs /opt && mkdir -p /opt/qumulo/lib &&
    hostname node-3.example.com && ip link set lo up &&
    ip address add 198.51.100.7/32 dev lo && ip address add 198.51.100.8/32 dev lo &&
    exec "$@"
"#;

/// A cluster node whose cluster holds Alice's key, which locks snapshot 7.
struct Node {
    qkey: Qkey,
    /// Each request, with the credentials it carried.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Node {
    fn new() -> Self {
        let qkey = Qkey::new()
            .env("QKEY_CREDENTIALS_STORE", "token")
            .env("QKEY_TIMEOUT", "300")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        qkey.write(
            "token",
            json!({ "bearer_token": TOKEN, "version": 1 }).to_string(),
        );
        let program = format!(
            "#!/bin/sh\necho \"$*\" >>qq-runs\nexec '{}' \"$@\"\n",
            qq(QQ_VERSION).display()
        );
        let program = qkey.write_program("qq", &program);
        let qkey = qkey.env("QKEY_QQ", program);
        fs::create_dir(qkey.path("qfsd")).expect("a folder");
        let requests = Arc::default();
        let node = Self { qkey, requests };
        node.serve();
        node
    }

    fn serve(&self) {
        let listener = UnixListener::bind(self.socket()).expect("a socket");
        let (requests, locked) = (self.requests.clone(), Arc::new(AtomicBool::new(true)));
        // Ends with the test process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.and_then(|stream| answer(&stream, &requests, &locked));
            }
        });
    }

    fn socket(&self) -> std::path::PathBuf {
        self.qkey.path("qfsd/rest.sock")
    }

    /// A node with something else in place of its socket.
    fn with_socket_replaced(replace: impl FnOnce(&Path)) -> Self {
        let node = Self::new();
        fs::remove_file(node.socket()).expect("it is there");
        replace(&node.socket());
        node
    }

    /// Runs a program with its arguments on the node.
    fn command(&self, command: &Command) -> Command {
        let namespaces = if rustix::process::geteuid().is_root() {
            "-mnu"
        } else {
            "-rmnu"
        };
        let mut on_node = Command::new("unshare");
        on_node
            .args([namespaces, "sh", "-c", NODE])
            .arg(self.qkey.path("qfsd"))
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(self.qkey.path(""))
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
        on_node
    }

    /// Runs a command line of `qkey`, split at spaces.
    fn line(&self, line: &str) -> Run {
        let command = self.qkey.command(line.split(' '));
        let output = self.command(&command).output().expect("unshare runs");
        self.qkey.taken(&output)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    fn qq_ran(&self) -> bool {
        self.qkey.path("qq-runs").exists()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert!(!self.qq_ran(), "qq ran");
        assert_eq!(self.requests(), [""; 0]);
    }
}

fn answer(
    stream: &UnixStream,
    requests: &Mutex<Vec<String>>,
    locked: &AtomicBool,
) -> io::Result<()> {
    let request = read_request(&mut BufReader::new(stream))?;
    let line = format!("{} {}", request.method, request.path);
    let authorization = request.headers.get("authorization");
    requests.lock().expect("no panic").push(format!(
        "{line} {}",
        authorization.map_or("without credentials", String::as_str)
    ));
    let key = json!({ "id": "1", "name": "local", "comment": "", "disabled": false, "public_key": ALICE_PUBLIC });
    let lock_key = locked.load(Ordering::Relaxed).then_some("1");
    let snapshot = json!({ "id": 7, "name": "7_daily", "lock_key": lock_key, "lock_key_ref": lock_key,
        "timestamp": "2026-11-25T00:00:00Z", "expiration": "", "source_file_path": "/" });
    let body = match line.as_str() {
        "GET /v1/file-system/security/keys/" => json!({ "entries": [key] }).to_string(),
        "GET /v3/snapshots/status/7" | "GET /v4/snapshots/status/7" => snapshot.to_string(),
        "GET /v3/snapshots/7/unlock-challenge" => json!({ "challenge": "unlock 7" }).to_string(),
        "POST /v3/snapshots/7/unlock" => {
            locked.store(false, Ordering::Relaxed);
            String::new()
        }
        _ => panic!("the stand-in has no answer to {line}"),
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn real_qq_sends_the_token_to_the_local_socket() {
    let node = Node::new();
    let mut command = Command::new(qq(QQ_VERSION));
    command
        .args([
            "--host",
            OTHER,
            "--credentials-store",
            "token",
            "fs_security_list_keys",
        ])
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = node.command(&command).output().expect("unshare runs");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("local"),
        "{output:?}"
    );
    assert_eq!(
        node.requests(),
        [format!("GET /v1/file-system/security/keys/ Bearer {TOKEN}")]
    );
}

#[test]
fn other_hosts_are_refused_before_qq_runs() {
    let node = Node::new();
    for line in [
        "add --name=new --key=alice.pem",
        "add --name=new --key=alice.pem --dry-run",
        "replace -k1 --old-key=alice.pem --new-key=bob.pem",
        "unlock --id=7 --key=alice.pem",
        "unlock --id=7 --id=8 --key=alice.pem",
        "lock --id=7 --lock-key=1",
        "keys show 1",
        "keys usage",
        // A tunnel to another cluster, which qq would not use.
        "keys --host=node-3 --port=443",
        "keys --port=9000",
    ] {
        let run = if line.contains("--port") {
            node.line(line)
        } else {
            node.line(&format!("{line} --host={OTHER}"))
        };
        assert_eq!((run.code, &*run.stdout), (2, ""), "{line}: {run:?}");
    }
    let said = table(
        [
            "keys --host=203.0.113.9",
            "keys --host=203.0.113.9 --output=json",
            "keys --host=localhost --port=9000",
        ],
        |line| filtered(&node.line(line)),
    );
    snapshot!(
        said,
        str![[r#"
==== keys --host=203.0.113.9
--- exit 2
error: qq cannot be trusted to reach 203.0.113.9:8000 from this machine
  caused by: this is a cluster node: /run/qfsd/rest.sock exists, and qq 7.5.3 and later sends every request there, whatever host and port it is given
hint: add --via rest, with --ca-file PEM or --tls-fingerprint sha256:HEX to verify the cluster; for this node's own cluster, omit host and port
==== keys --host=203.0.113.9 --output=json
--- exit 2
{"error":{"kind":"usage","message":"qq cannot be trusted to reach 203.0.113.9:8000 from this machine","causes":["this is a cluster node: /run/qfsd/rest.sock exists, and qq 7.5.3 and later sends every request there, whatever host and port it is given"],"hint":"add --via rest, with --ca-file PEM or --tls-fingerprint sha256:HEX to verify the cluster; for this node's own cluster, omit host and port","exit_code":2}}
==== keys --host=localhost --port=9000
--- exit 2
error: qq cannot be trusted to reach localhost:9000 from this machine
  caused by: this is a cluster node: /run/qfsd/rest.sock exists, and qq 7.5.3 and later sends every request there, whatever host and port it is given
hint: add --via rest, with --ca-file PEM or --tls-fingerprint sha256:HEX to verify the cluster; for this node's own cluster, omit host and port

"#]]
    );
    // From the environment or the configuration file.
    node.qkey
        .configure("default-cluster = \"dr\"\n[clusters.dr]\nhost = \"dr.example.com\"\n");
    for line in ["keys", "keys --cluster=dr"] {
        assert_eq!(node.line(line).code, 2);
    }
    node.assert_untouched();
    let node = Node {
        qkey: node.qkey.env("QKEY_HOST", OTHER),
        requests: node.requests,
    };
    assert_eq!(node.line("keys").code, 2);
    node.assert_untouched();
}

#[test]
fn any_file_type_at_the_socket_path_is_refused() {
    let symlink =
        |to: &'static str| move |path: &Path| std::os::unix::fs::symlink(to, path).expect("a link");
    let nodes = [
        (
            "a file",
            Node::with_socket_replaced(|path| fs::write(path, "").expect("a file")),
        ),
        (
            "a folder",
            Node::with_socket_replaced(|path| fs::create_dir(path).expect("a folder")),
        ),
        (
            "a dangling link",
            Node::with_socket_replaced(symlink("gone")),
        ),
        (
            "a link to itself",
            Node::with_socket_replaced(symlink("rest.sock")),
        ),
        (
            "a socket without a listener",
            Node::with_socket_replaced(|path| drop(UnixListener::bind(path).expect("a socket"))),
        ),
    ];
    for (what, node) in nodes {
        let run = node.line(&format!("keys --host={OTHER}"));
        assert_eq!(run.code, 2, "{what}: {run:?}");
        node.assert_untouched();
    }
}

#[test]
fn node_without_socket_reaches_other_hosts() {
    let node = Node::with_socket_replaced(|_| {});
    node.qkey
        .write_program("qq", "#!/bin/sh\necho '{\"entries\": []}'\n");
    let run = node.line(&format!("keys --host={OTHER}"));
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "The key store is empty.\n"),
        "{run:?}"
    );
}

#[test]
fn socket_appearing_between_calls_is_noticed() {
    let node = Node::with_socket_replaced(|_| {});
    let reply = json!({ "id": 7, "lock_key": null });
    let keys = json!({ "entries": [{ "id": "1", "name": "a", "public_key": ALICE_PUBLIC }] });
    // `lock` makes two reads in parallel. The second makes the socket, before the submission.
    node.qkey.write_program(
        "qq",
        &format!(
            "#!/bin/sh\ncase \"$*\" in
             *snapshot_get_status*) echo '{reply}' ;;
             *fs_security_list_keys*) echo '{keys}' ;;
             *) echo \"$*\" >>qq-runs ;;
             esac
             mkdir first 2>/dev/null || : >qfsd/rest.sock\n"
        ),
    );
    let run = node.line(&format!("lock --id=7 --lock-key=1 --host={OTHER}"));
    assert_eq!(run.code, 2, "{run:?}");
    node.assert_untouched();
}

#[test]
fn own_names_reach_the_socket() {
    let node = Node::new();
    let entries = json!({ "entries": [] });
    node.qkey
        .write_program("qq", &format!("#!/bin/sh\necho '{entries}'\n"));
    for host in [
        "localhost",
        "LocalHost.",
        "127.0.0.1",
        "[::1]",
        "NODE-3.Example.com.",
        "node-3",
        // The second address of an interface, as floating addresses are.
        "198.51.100.8",
    ] {
        let run = node.line(&format!("keys --host={host}"));
        assert_eq!(run.code, 0, "{host}: {run:?}");
    }
    for other in [
        "198.51.100.9",
        "node-4",
        "node-3.example.org",
        "node-3.example.com.evil.example",
        "localhost.example.com",
        "2001:db8::1",
        "127.1",
        "0x7f000001",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1%lo",
    ] {
        let run = node.line(&format!("keys --host={other}"));
        assert_eq!(run.code, 2, "{other}: {run:?}");
    }
}

#[test]
fn node_unlocks_its_own_snapshot() {
    let node = Node::new();
    let run = node.line("unlock --id=7 --key=alice.pem");
    assert_eq!(run.code, 0, "{run:?}");
    let unlock = format!("POST /v3/snapshots/7/unlock Bearer {TOKEN}");
    assert!(node.requests().contains(&unlock), "{:?}", node.requests());
}

#[test]
fn rest_and_commands_without_a_cluster_ignore_the_socket() {
    let node = Node::new();
    for (line, code) in [
        ("pubkey alice.pem", 0),
        ("sign --key=alice.pem text", 0),
        ("generate new.pem", 0),
        ("config show", 0),
        ("keys --via=rest --insecure --port=9", 7),
    ] {
        let run = node.line(&format!("{line} --host={OTHER}"));
        assert_eq!(run.code, code, "{line}: {run:?}");
    }
    node.assert_untouched();
}
