//! The real `bao`, its server in memory, and `qkey` that uses them.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use super::{qkey::Qkey, shell::prints};

/// A server with a transit engine, whose root token is `root`.
pub struct Server {
    address: String,
    process: Child,
}

/// The folder with the program `bao`, which `scripts/test-tools` has installed.
pub fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/openbao/bin");
    assert!(
        folder.join("bao").exists(),
        "{} is not there: run scripts/test-tools",
        folder.display()
    );
    folder
}

/// The address of one server, which all the tests of a file share and which ends with them.
pub fn address() -> &'static str {
    static SERVER: OnceLock<Server> = OnceLock::new();
    &SERVER.get_or_init(Server::start).address
}

/// `qkey` with `bao` and the root token, for a server.
pub fn with_bao(qkey: Qkey, address: &str) -> Qkey {
    let path = std::env::var("PATH").expect("a PATH in UTF-8");
    qkey.env("PATH", format!("{}:{path}", folder().display()))
        .env("BAO_ADDR", address)
        .env("BAO_TOKEN", "root")
}

impl Server {
    pub fn start() -> Self {
        let server = loop {
            if let Some(server) = Self::try_start() {
                break server;
            }
        };
        let qkey = with_bao(Qkey::new(), &server.address);
        prints(&qkey, "bao secrets enable transit");
        server
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Nothing when somebody else took the port.
    fn try_start() -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        // It does not end with its stdin, so that a shell does it that waits for the test's end.
        let process = Command::new("/bin/sh")
            .args(["-c", r#""$0" "$@" & read -r _; kill $!"#])
            .arg(folder().join("bao"))
            .args(["server", "-dev", "-dev-no-store-token"])
            .arg("-dev-root-token-id=root")
            .arg(format!("-dev-listen-address={address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell runs");
        let server = Self {
            address: format!("http://{address}"),
            process,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if server.is_ready() {
                return Some(server);
            }
            thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Whether it answers, and to its own token: the port may be somebody else's.
    fn is_ready(&self) -> bool {
        let command = Command::new(folder().join("bao"))
            .args(["token", "lookup"])
            .env("BAO_ADDR", &self.address)
            .env("BAO_TOKEN", "root")
            .output();
        command.expect("bao runs").status.success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its stdin is what ends it.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
