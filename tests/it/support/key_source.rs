//! What a key source of any kind must be able to do.

use std::{fs, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    mock::Mock,
    qkey::{Qkey, Run, wait_until},
    shell::prints,
};

/// Signs challenges that something on the way could spoil, and lets the `openssl` program verify
/// each signature with the public key that the source shows.
#[track_caller]
pub fn assert_signs(qkey: &Qkey, source: &str) {
    assert_signs_up_to(qkey, source, usize::MAX);
}

/// The same with challenges of one to `limit` bytes.
pub fn assert_signs_up_to(qkey: &Qkey, source: &str, limit: usize) {
    let pem = qkey.run(["pubkey", source]);
    assert_eq!(pem.code, 0, "{pem:?}");
    qkey.write("public.pem", &pem.stdout);
    for challenge in [
        &b""[..],
        b"lock-2026\n",
        "it's \"quoted\" \\ Schl\u{fc}ssel \u{1f511}".as_bytes(),
        &b"\xff\x00\r\n-".repeat(1000),
        &b"0123456789".repeat(2000),
    ] {
        if limit < usize::MAX && !(1..=limit).contains(&challenge.len()) {
            continue;
        }
        qkey.write("challenge", challenge);
        let signed = qkey.run(["sign", "--key", source, "--file", "challenge"]);
        assert_eq!(signed.code, 0, "{signed:?}");
        qkey.write("signature", &signed.stdout);
        prints(
            qkey,
            "openssl base64 -d -A -in signature -out der
             openssl dgst -sha256 -verify public.pem -signature der challenge",
        );
    }
}

/// Stores a key file, replaces it by the source, which is configured for that, and unlocks with it.
#[track_caller]
pub fn assert_replaces_and_unlocks(mock: &Mock, qkey: &Qkey, source: &str) {
    qkey.configure(&format!("[keys.new]\nsource = {source:?}\n"));
    let add = ["add", "--name=lock", "--key=alice.pem"];
    assert_eq!(qkey.run(add).code, 0);
    let replaced = qkey.run([
        "replace",
        "--key-id=lock",
        "--old-key=alice.pem",
        "--new-key=new",
    ]);
    assert_eq!(replaced.code, 0, "{replaced:?}");
    let public = qkey.run(["pubkey", "--format=base64", source]);
    assert_eq!(mock.public_key("1"), public.stdout.trim());
    mock.add_snapshot(7, "seven", Some("1"));
    let unlocked = qkey.run(["unlock", "--id=7"]);
    assert_eq!(unlocked.code, 0, "{unlocked:?}");
    assert_eq!(mock.lock_key(7), None);
}

/// Encrypts a key file under a passphrase, into another file.
pub fn encrypt(qkey: &Qkey, from: &str, to: &str, passphrase: &str) {
    let pass = qkey.write("pass.tmp", passphrase);
    prints(
        qkey,
        &format!(
            "openssl pkcs8 -topk8 -v2 aes-256-cbc -in {from} -passout file:pass.tmp -out {to}
             chmod 600 {to}"
        ),
    );
    fs::remove_file(pass).expect("it was there");
}

/// `qkey` with a program of the test's own, `bin/NAME`, before all others on PATH.
pub fn with_program(qkey: Qkey, name: &str, text: &str) -> Qkey {
    let bin = qkey.path("bin");
    fs::create_dir_all(&bin).expect("a folder");
    qkey.write_program(&format!("bin/{name}"), text);
    let path = std::env::var("PATH").expect("a PATH in UTF-8");
    qkey.env("PATH", format!("{}:{path}", bin.display()))
}

/// Runs `qkey`, and presses Ctrl-C once it has come to a point.
pub fn interrupted(qkey: &Qkey, args: &[&str], come: impl FnMut() -> bool) -> Run {
    let child = qkey
        .command(args)
        .stdin(Stdio::null())
        .spawn()
        .expect("qkey runs");
    wait_until("the point where Ctrl-C is pressed", come);
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    qkey.taken(&child.wait_with_output().expect("it ends"))
}
