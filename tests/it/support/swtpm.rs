//! A TPM 2.0, simulated by `swtpm`.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::qkey::wait_until;

/// A TPM that ends with the test.
pub struct Swtpm {
    process: Child,
    address: String,
}

impl Swtpm {
    /// Keeps its state in a folder that is there and empty.
    pub fn start(state: &Path) -> Self {
        // Its control port is the one after, by the convention of its clients; a pair that somebody
        // else takes meanwhile is tried again.
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = listener.local_addr().expect("its number").port();
            drop(listener);
            let mut process = Command::new("swtpm")
                .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
                .arg(format!("--tpmstate=dir={}", state.display()))
                .arg(format!("--server=type=tcp,port={port},bindaddr=127.0.0.1"))
                .arg(format!(
                    "--ctrl=type=tcp,port={},bindaddr=127.0.0.1",
                    port.wrapping_add(1)
                ))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("scripts/test-tools has installed it");
            let mut has_ended = false;
            let socket = format!("/proc/{}/fd", process.id());
            wait_until("the TPM", || {
                has_ended = process.try_wait().expect("its state").is_some();
                has_ended || listens(&socket, port)
            });
            if !has_ended {
                let address = format!("swtpm:host=127.0.0.1,port={port}");
                return Self { process, address };
            }
        }
    }

    /// For the variables that end in `_TCTI`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a process listens on a port: a connection would be the one that the TPM serves.
fn listens(descriptors: &str, port: u16) -> bool {
    let hex = format!("0100007F:{port:04X} 00000000:0000 0A");
    let table = fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let Some(line) = table.lines().find(|line| line.contains(&hex)) else {
        return false;
    };
    let inode = line.split_whitespace().nth(9).expect("an inode");
    let is_socket = |entry: fs::DirEntry| {
        fs::read_link(entry.path())
            .is_ok_and(|link| link == Path::new(&format!("socket:[{inode}]")))
    };
    fs::read_dir(descriptors).is_ok_and(|entries| entries.flatten().any(is_socket))
}
