//! `qkey generate`: new key files.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Instant,
};

use crate::support::{
    preload,
    qkey::{ALICE, Qkey, Run, wait_until},
    session::assert_session,
    shell::{self, prints},
};
use rustix::process::{Pid, Signal, kill_process};
use snapbox::{assert_data_eq, str};

/// The text with what is new every time replaced: fingerprints, public keys, and the random end of
/// a temporary file's name.
fn redacted(text: &str) -> String {
    let replace = |text: String, mark: &str, digits: usize, name: &str| {
        let mut parts = text.split(mark);
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + name + &part[digits..])
    };
    let text = replace(text.to_owned(), "SHA256:", 43, "SHA256:[FINGERPRINT]");
    let text = replace(
        text,
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE",
        88,
        "[PUBLIC KEY]",
    );
    shell::without_table(&replace(text, "/.qkey-", 6, "/.qkey-[RANDOM]"))
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

const INITIAL: [&str; 3] = ["alice.pem", "bob.pem", "carol.pem"];

#[test]
fn new_key_is_shown_with_fingerprint_and_next_step() {
    let qkey = Qkey::new();
    assert_session!(
        qkey,
        str![[r#"
$ qkey generate new.pem
Generated private key new.pem
  SHA256:[FINGERPRINT]
Store its public half with `qkey add --name NAME --key new.pem`.
$ qkey generate 'my key.pem' --output json
{"action":"generate","source":"my key.pem","public_key":"[PUBLIC KEY]","fingerprint":"SHA256:[FINGERPRINT]"}
$ qkey generate file:third%3F.pem -q
Generated private key file:third%3F.pem
  SHA256:[FINGERPRINT]
Store its public half with `qkey add --name NAME --key file:third%3F.pem`.
$ ls *third* my*
my key.pem
third?.pem
$ qkey generate full.pem > /dev/full
--- exit 1
error: Generated private key full.pem, SHA256:[FINGERPRINT], but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: the key is complete; `qkey pubkey full.pem` prints its public half

"#]],
        redacted
    );
    let made = qkey.run(["generate", "shown.pem", "--output=json"]).json();
    let shown = prints(&qkey, "ssh-keygen -yf shown.pem | ssh-keygen -lf -");
    assert_eq!(shown.split(' ').nth(1), made["fingerprint"].as_str());
}

#[test]
fn openssl_and_ssh_keygen_read_every_format() {
    let qkey = Qkey::new()
        .env("PASSPHRASE", "long enough")
        .env("EMPTY", "");
    for (format, attribute, passphrase) in [
        ("pkcs8", "", ""),
        ("pkcs8", "?passphrase-env=PASSPHRASE", "long enough"),
        ("sec1", "", ""),
        ("sec1", "?passphrase-env=PASSPHRASE", "long enough"),
        ("openssh", "", ""),
        ("openssh", "?passphrase-env=PASSPHRASE", "long enough"),
    ] {
        let name = format!(
            "{format}-{}.pem",
            attribute.trim_start_matches("?passphrase-env=")
        );
        let check = "set -e; qkey generate --format FORMAT 'NAME@'
             qkey pubkey --format openssh 'NAME@' > ours
             ssh-keygen -y -P 'TYPED' -f NAME | cut -d ' ' -f 1,2 | diff -w - ours
             test -z 'TYPED' || ! ssh-keygen -y -P 'not this one' -f NAME
             test FORMAT = openssh && exit
             qkey pubkey 'NAME@' > public.pem
             openssl pkey -in NAME -passin pass:'TYPED' -check -pubout | grep -v valid | cmp - public.pem
             printf challenge > challenge
             openssl dgst -sha256 -sign NAME -passin pass:'TYPED' -out signature challenge
             qkey verify --key 'NAME@' --signature signature --file challenge
             qkey sign --key 'NAME@' --file challenge --format der > signature
             openssl dgst -sha256 -verify public.pem -signature signature challenge";
        let check = check.replace("FORMAT", format).replace("NAME", &name);
        prints(
            &qkey,
            &check.replace('@', attribute).replace("TYPED", passphrase),
        );
        let text = fs::read_to_string(qkey.path(&name)).unwrap();
        assert!(text.ends_with("-----\n") && text.lines().all(|line| line.len() <= 76));
    }
    let empty = "qkey generate 'empty.pem?passphrase-env=EMPTY' >&2 && grep ENCRYPTED empty.pem >&2
         openssl pkey -in empty.pem -passin pass: -pubout";
    assert_eq!(
        prints(&qkey, empty),
        prints(&qkey, "qkey pubkey 'empty.pem?passphrase-env=EMPTY'")
    );
    assert_session!(
        qkey,
        str![[r#"
$ grep -hE 'BEGIN|Proc-Type' *-*.pem
-----BEGIN OPENSSH PRIVATE KEY-----
-----BEGIN OPENSSH PRIVATE KEY-----
-----BEGIN PRIVATE KEY-----
-----BEGIN ENCRYPTED PRIVATE KEY-----
-----BEGIN EC PRIVATE KEY-----
-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
$ openssl asn1parse -in sec1-.pem | grep -o 'prime256v1'
prime256v1
$ openssl asn1parse -in pkcs8-PASSPHRASE.pem | grep -oE ':(PBES2|PBKDF2|hmac.*|aes.*)'
:PBES2
:PBKDF2
:hmacWithSHA256
:aes-256-cbc

"#]]
    );
}

#[test]
fn key_file_has_mode_600_under_any_umask() {
    let qkey = Qkey::new().env("PASSPHRASE", "long enough");
    assert_session!(
        qkey,
        str![[r#"
$ umask 000; qkey generate -q open.pem >/dev/null; stat -c %a open.pem
$ umask 0777; qkey generate -q shut.pem >/dev/null; stat -c %a shut.pem
$ umask 000; qkey generate 'locked.pem?passphrase-env=PASSPHRASE' >/dev/null; stat -c %a locked.pem
600

"#]]
    );
}

#[test]
fn never_overwrites_anything() {
    let qkey = Qkey::new().env("PASSPHRASE", "long enough");
    symlink("nowhere", qkey.path("dangling")).unwrap();
    symlink("alice.pem", qkey.path("link")).unwrap();
    fs::create_dir(qkey.path("folder")).unwrap();
    let before = names(&qkey.path(""));
    assert_session!(
        qkey,
        str![[r#"
$ qkey generate alice.pem
$ qkey generate 'alice.pem?passphrase-env=PASSPHRASE' --format openssh
--- exit 3
error: cannot write a new key to alice.pem
  caused by: File exists (os error 17)
hint: qkey never overwrites files: choose another path, or inspect the existing key with `qkey pubkey alice.pem`
$ qkey generate dangling
--- exit 3
error: cannot write a new key to dangling
  caused by: File exists (os error 17)
hint: qkey never overwrites files: choose another path, or inspect the existing key with `qkey pubkey dangling`
$ qkey generate link
--- exit 3
error: cannot write a new key to link
  caused by: File exists (os error 17)
hint: qkey never overwrites files: choose another path, or inspect the existing key with `qkey pubkey link`
$ qkey generate folder
--- exit 3
error: cannot write a new key to folder
  caused by: File exists (os error 17)
hint: qkey never overwrites files: choose another path, or inspect the existing key with `qkey pubkey folder`

"#]]
    );
    assert_eq!(fs::read_to_string(qkey.path("alice.pem")).unwrap(), ALICE);
    assert_eq!(names(&qkey.path("")), before);
    assert!(names(&qkey.path("folder")).is_empty());
}

#[test]
fn unwritable_path_is_an_error_and_leaves_nothing_behind() {
    let qkey = Qkey::new();
    assert_session!(
        qkey,
        str![[r#"
$ qkey generate missing/new.pem
--- exit 3
error: cannot write a new key to missing/new.pem
  caused by: No such file or directory (os error 2)
hint: create the directory first
$ qkey generate alice.pem/new.pem
--- exit 3
error: cannot write a new key to alice.pem/new.pem
  caused by: Not a directory (os error 20)
hint: choose a directory that you can write to
$ trap '' XFSZ; ulimit -f 0; qkey generate new.pem
--- exit 3, hint as above
error: cannot write a new key to new.pem
  caused by: File too large (os error 27)
$ qkey generate /proc/new.pem 2>&1 | head -1
error: cannot write a new key to /proc/new.pem
$ qkey generate -
--- exit 2
error: cannot write a new key to `-` (stdin)
hint: specify a path that does not exist yet

"#]],
        redacted
    );
    assert_eq!(names(&qkey.path("")), INITIAL);
}

#[test]
fn no_key_without_its_passphrase() {
    let qkey = Qkey::new().env("EMPTY", "");
    assert_session!(
        qkey,
        str![[r#"
$ qkey generate --encrypt new.pem
--- exit 3
error: cannot encrypt the new key new.pem
  caused by: a new passphrase for new.pem is needed, and there is no terminal to prompt on
hint: for unattended use, append ?passphrase-file=PATH to the key source
$ qkey generate --encrypt new.pem --no-input
--- exit 3, hint as above
error: cannot encrypt the new key new.pem
  caused by: a new passphrase for new.pem is needed, but --no-input forbids prompting
$ qkey generate 'new.pem?passphrase-env=EMPTY' --format sec1
--- exit 3
warning: SEC1 files use a weak key derivation; omit --format for stronger encryption
error: cannot use the key file new.pem
  caused by: a SEC1 private key cannot be encrypted with an empty passphrase
hint: use a passphrase, or leave the key unencrypted
$ qkey generate 'new.pem?passphrase-env=EMPTY' --format openssh
--- exit 3, hint as above
error: cannot use the key file new.pem
  caused by: an OpenSSH private key cannot be encrypted with an empty passphrase

"#]]
    );
    assert_eq!(names(&qkey.path("")), INITIAL);
}

#[test]
fn one_of_several_at_once_makes_the_key() {
    let qkey = Qkey::new();
    let all = "for i in 1 2 3 4 5 6; do qkey generate new.pem -q 2>/dev/null & done; wait";
    let made = prints(&qkey, all);
    let key = qkey.run(["pubkey", "new.pem", "--output=json"]).json();
    assert!(
        made.contains(key["fingerprint"].as_str().unwrap()),
        "{made}"
    );
    assert_eq!(made.matches("Generated").count(), 1, "{made}");
    let expected = ["alice.pem", "bob.pem", "carol.pem", "new.pem"];
    assert_eq!(names(&qkey.path("")), expected);
}

/// A `qkey generate` in a folder of its own, held at one of its two calls of fsync(2): the first is
/// for the file, the second for the folder. Nothing else is in that folder.
struct Held {
    qkey: Qkey,
    child: Child,
}

impl Held {
    fn at(fsync: u8) -> Self {
        let qkey = Qkey::new();
        fs::create_dir(qkey.path("keys")).unwrap();
        let child = qkey
            .command(["generate", "new.pem"])
            .current_dir(qkey.path("keys"))
            .env("LD_PRELOAD", preload::library("hold_fsync"))
            .env("HOLD_FSYNC", fsync.to_string())
            .spawn()
            .unwrap();
        let held = qkey.path("held");
        wait_until("the fsync", || held.exists());
        Self { qkey, child }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn threads(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        tasks.unwrap().count()
    }

    fn release(&self) {
        fs::remove_file(self.qkey.path("held")).unwrap();
    }

    /// What it said, and the names in its folder.
    fn end(self) -> (Run, Vec<String>) {
        let run = self.qkey.taken(&self.child.wait_with_output().unwrap());
        let names = names(&self.qkey.path("keys"));
        if names == ["new.pem"] {
            let key = self.qkey.run(["pubkey", "keys/new.pem", "--output=json"]);
            let fingerprint = key.json()["fingerprint"].as_str().unwrap().to_owned();
            let said = run.stdout.contains(&fingerprint) || run.stderr.contains(&fingerprint);
            assert!(said || run.code == -1, "{run:?}");
        }
        (run, names)
    }
}

#[test]
fn sigkill_leaves_nothing_or_a_complete_key() {
    for (fsync, expected) in [(1, &[][..]), (2, &["new.pem"])] {
        let held = Held::at(fsync);
        held.signal(Signal::KILL);
        let (run, names) = held.end();
        assert_eq!(
            (run.code, names),
            (-1, expected.iter().map(|name| (*name).to_owned()).collect())
        );
    }
}

#[test]
fn sigkill_at_any_instant_leaves_no_partial_or_temporary_file() {
    let qkey = Qkey::new();
    fs::create_dir(qkey.path("keys")).unwrap();
    let generate = || {
        let mut command = qkey.command(["generate", "keys/new.pem"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let begun = Instant::now();
    assert!(generate().wait().unwrap().success());
    let duration = begun.elapsed();
    fs::remove_file(qkey.path("keys/new.pem")).unwrap();
    const KILLS: u32 = 40;
    for kill in 0..KILLS {
        let begun = Instant::now();
        let mut child = generate();
        while begun.elapsed() < duration * kill / KILLS {
            thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        match &names(&qkey.path("keys"))[..] {
            [] => {}
            [name] if name == "new.pem" => {
                assert_eq!(qkey.run(["pubkey", "keys/new.pem"]).code, 0);
                fs::remove_file(qkey.path("keys/new.pem")).unwrap();
            }
            others => panic!("{others:?}"),
        }
    }
}

#[test]
fn signal_during_a_slow_fsync_leaves_nothing_or_names_the_key() {
    let mut said = String::new();
    for signal in [Signal::INT, Signal::TERM] {
        for fsync in [1, 2] {
            for release in [true, false] {
                let held = Held::at(fsync);
                let threads = held.threads();
                held.signal(signal);
                if release {
                    // qkey starts a thread that ends it, should it not end by itself.
                    wait_until("qkey to notice the signal", || held.threads() > threads);
                    held.release();
                }
                let (run, names) = held.end();
                said.push_str(&format!(
                    "==== {signal:?} in fsync {fsync}, which {}\n{}--- files {names:?}\n",
                    if release { "returns" } else { "hangs" },
                    run.transcript()
                ));
            }
        }
    }
    assert_data_eq!(
        redacted(&said),
        str![[r#"
==== "Signal::INT" in fsync 1, which returns
--- exit 130
error: interrupted; no key was written to new.pem
hint: run the command again
--- files []
==== "Signal::INT" in fsync 1, which hangs
--- exit 130
error: interrupted; no key was written to new.pem
hint: run the command again
--- files []
==== "Signal::INT" in fsync 2, which returns
Generated private key new.pem
  SHA256:[FINGERPRINT]
Store its public half with `qkey add --name NAME --key new.pem`.
--- files ["new.pem"]
==== "Signal::INT" in fsync 2, which hangs
--- exit 130
error: new.pem contains the new key SHA256:[FINGERPRINT], but may not be on disk yet
hint: run `sync`, then check the key with `qkey pubkey new.pem`
--- files ["new.pem"]
==== "Signal::TERM" in fsync 1, which returns
--- exit 143
error: interrupted; no key was written to new.pem
hint: run the command again
--- files []
==== "Signal::TERM" in fsync 1, which hangs
--- exit 143
error: interrupted; no key was written to new.pem
hint: run the command again
--- files []
==== "Signal::TERM" in fsync 2, which returns
Generated private key new.pem
  SHA256:[FINGERPRINT]
Store its public half with `qkey add --name NAME --key new.pem`.
--- files ["new.pem"]
==== "Signal::TERM" in fsync 2, which hangs
--- exit 143
error: new.pem contains the new key SHA256:[FINGERPRINT], but may not be on disk yet
hint: run `sync`, then check the key with `qkey pubkey new.pem`
--- files ["new.pem"]

"#]]
    );
}
