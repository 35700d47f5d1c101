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
    shell::{self, prints, transcript},
};
use rustix::process::{Pid, Signal, kill_process};
use snapbox::{IntoData, assert_data_eq, str};

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
fn a_new_key_is_announced_with_its_fingerprint_and_the_next_step() {
    let qkey = Qkey::new();
    assert_data_eq!(
        redacted(&transcript(
            &qkey,
            [
                "qkey generate new.pem",
                "qkey generate 'my key.pem' --output json",
                "qkey generate file:third%3F.pem -q",
            ]
        )),
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


"#]].raw()
    );
    let fingerprint = prints(
        &qkey,
        "qkey pubkey new.pem --format openssh | ssh-keygen -lf -",
    );
    assert!(fingerprint.contains("SHA256:"), "{fingerprint}");
    assert_eq!(
        names(&qkey.path("")),
        [
            &["alice.pem", "bob.pem", "carol.pem"][..],
            &["my key.pem", "new.pem", "third?.pem"]
        ]
        .concat()
    );
}

#[test]
fn the_fingerprint_is_the_one_that_ssh_keygen_shows() {
    let qkey = Qkey::new();
    let made = qkey.run(["generate", "new.pem", "--output", "json"]).json();
    let shown = prints(
        &qkey,
        "ssh-keygen -yf new.pem > new.pub && ssh-keygen -lf new.pub",
    );
    assert_eq!(shown.split(' ').nth(1), made["fingerprint"].as_str());
    let public_key = prints(
        &qkey,
        "openssl pkey -in new.pem -pubout -outform DER | openssl base64 -A",
    );
    assert_eq!(made["public_key"], public_key);
}

#[test]
fn every_format_is_what_openssl_and_ssh_keygen_write_and_read() {
    let qkey = Qkey::new().env("PASSPHRASE", "long enough");
    let mut labels = String::new();
    for format in ["pkcs8", "sec1", "openssh"] {
        for (attribute, passphrase) in [("", ""), ("?passphrase-env=PASSPHRASE", "long enough")] {
            let file = format!(
                "{format}{}.pem",
                if passphrase.is_empty() { "" } else { "-locked" }
            );
            prints(
                &qkey,
                &format!("qkey generate --format {format} '{file}{attribute}'"),
            );
            let text = fs::read_to_string(qkey.path(&file)).unwrap();
            assert!(text.ends_with("-----\n") && text.lines().all(|line| line.len() <= 76));
            let known =
                |line: &&str| line.starts_with("-----BEGIN") || line.starts_with("Proc-Type");
            labels += &format!(
                "{file}: {}\n",
                text.lines().filter(known).collect::<Vec<_>>().join(" / ")
            );

            let ours = prints(
                &qkey,
                &format!("qkey pubkey --format openssh '{file}{attribute}'"),
            );
            let theirs = prints(&qkey, &format!("ssh-keygen -y -P '{passphrase}' -f {file}"));
            let key = |text: &str| {
                text.split(' ')
                    .take(2)
                    .collect::<Vec<_>>()
                    .join(" ")
                    .trim_end()
                    .to_owned()
            };
            assert_eq!(key(&ours), key(&theirs), "{file}");
            let wrong = format!("ssh-keygen -y -P 'not this one' -f {file}");
            assert_eq!(
                shell::run(&qkey, &wrong).code == 0,
                passphrase.is_empty(),
                "{file}"
            );

            if format != "openssh" {
                let openssl = format!("-passin pass:'{passphrase}'");
                let ours = prints(&qkey, &format!("qkey pubkey '{file}{attribute}'"));
                let theirs = prints(&qkey, &format!("openssl pkey -in {file} {openssl} -pubout"));
                assert_eq!(ours, theirs, "{file}");
                prints(
                    &qkey,
                    &format!("openssl pkey -in {file} {openssl} -noout -check"),
                );
                // What openssl signs with it, qkey verifies, and the other way round.
                prints(
                    &qkey,
                    &format!(
                        "printf challenge > challenge
                         openssl dgst -sha256 -sign {file} {openssl} -out signature challenge &&
                         qkey verify --key '{file}{attribute}' --signature signature --file challenge &&
                         qkey sign --key '{file}{attribute}' --file challenge --format der > signature &&
                         qkey pubkey '{file}{attribute}' > public.pem &&
                         openssl dgst -sha256 -verify public.pem -signature signature challenge"
                    ),
                );
            }
        }
    }
    assert_data_eq!(
        labels,
        str![[r#"
pkcs8.pem: -----BEGIN PRIVATE KEY-----
pkcs8-locked.pem: -----BEGIN ENCRYPTED PRIVATE KEY-----
sec1.pem: -----BEGIN EC PRIVATE KEY-----
sec1-locked.pem: -----BEGIN EC PRIVATE KEY----- / Proc-Type: 4,ENCRYPTED
openssh.pem: -----BEGIN OPENSSH PRIVATE KEY-----
openssh-locked.pem: -----BEGIN OPENSSH PRIVATE KEY-----

"#]]
        .raw()
    );
}

#[test]
fn a_traditional_key_names_its_curve_and_an_encrypted_one_its_scheme() {
    let qkey = Qkey::new().env("PASSPHRASE", "long enough");
    prints(&qkey, "qkey generate --format sec1 sec1.pem");
    prints(
        &qkey,
        "qkey generate 'locked.pem?passphrase-env=PASSPHRASE'",
    );
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "openssl asn1parse -in sec1.pem | grep -o 'prime256v1'",
                "openssl asn1parse -in locked.pem | grep -oE ':(PBES2|PBKDF2|hmac.*|aes.*)'",
            ]
        ),
        str![[r#"
$ openssl asn1parse -in sec1.pem | grep -o 'prime256v1'
prime256v1

$ openssl asn1parse -in locked.pem | grep -oE ':(PBES2|PBKDF2|hmac.*|aes.*)'
:PBES2
:PBKDF2
:hmacWithSHA256
:aes-256-cbc


"#]]
        .raw()
    );
}

#[test]
fn a_key_file_is_its_owners_alone_under_any_umask() {
    let qkey = Qkey::new().env("PASSPHRASE", "long enough");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "umask 000; qkey generate -q open.pem >/dev/null; stat -c %a open.pem",
                "umask 022; qkey generate -q usual.pem >/dev/null; stat -c %a usual.pem",
                "umask 0777; qkey generate -q shut.pem >/dev/null; stat -c %a shut.pem",
                "umask 000; qkey generate 'locked.pem?passphrase-env=PASSPHRASE' >/dev/null; stat -c %a locked.pem",
            ]
        ),
        str![[r#"
$ umask 000; qkey generate -q open.pem >/dev/null; stat -c %a open.pem
600

$ umask 022; qkey generate -q usual.pem >/dev/null; stat -c %a usual.pem
600

$ umask 0777; qkey generate -q shut.pem >/dev/null; stat -c %a shut.pem
600

$ umask 000; qkey generate 'locked.pem?passphrase-env=PASSPHRASE' >/dev/null; stat -c %a locked.pem
600


"#]]
        .raw()
    );
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let qkey = Qkey::new().env("PASSPHRASE", "long enough");
    symlink("nowhere", qkey.path("dangling")).unwrap();
    symlink("alice.pem", qkey.path("link")).unwrap();
    fs::create_dir(qkey.path("folder")).unwrap();
    let before = names(&qkey.path(""));
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey generate alice.pem",
                "qkey generate alice.pem --output json",
                "qkey generate 'alice.pem?passphrase-env=PASSPHRASE' --format openssh",
                "qkey generate dangling",
                "qkey generate link",
                "qkey generate folder",
                "qkey generate folder/",
            ]
        ),
        str![[r#"
$ qkey generate alice.pem
--- exit 3
error: cannot write a new key to alice.pem
  caused by: File exists (os error 17)
hint: qkey never overwrites files: choose another path, or inspect the existing key with `qkey pubkey alice.pem`

$ qkey generate alice.pem --output json
--- exit 3
{"error":{"kind":"key","message":"cannot write a new key to alice.pem","causes":["File exists (os error 17)"],"hint":"qkey never overwrites files: choose another path, or inspect the existing key with `qkey pubkey alice.pem`","exit_code":3}}

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

$ qkey generate folder/
--- exit 3
error: cannot write a new key to folder/
  caused by: File exists (os error 17)
hint: qkey never overwrites files: choose another path, or inspect the existing key with `qkey pubkey folder/`


"#]].raw()
    );
    assert_eq!(fs::read_to_string(qkey.path("alice.pem")).unwrap(), ALICE);
    assert_eq!(names(&qkey.path("")), before);
    assert!(names(&qkey.path("folder")).is_empty());
}

#[test]
fn a_place_that_takes_no_file_is_an_error_and_left_alone() {
    let qkey = Qkey::new();
    assert_data_eq!(
        redacted(&transcript(
            &qkey,
            [
                "qkey generate missing/new.pem",
                "qkey generate alice.pem/new.pem",
                "qkey generate -",
                "qkey generate ''",
                "qkey generate file:",
            ]
        )),
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

$ qkey generate -
--- exit 2
error: cannot write a new key to `-` (stdin)
hint: specify a path that does not exist yet

$ qkey generate ''
--- exit 2
error: "" is not a key source: empty
hint: a key source is one of: [TABLE] written ./PATH

$ qkey generate file:
--- exit 2
error: "file:" is not a key source: nothing before the attributes
hint: a key source is one of: [TABLE] written ./PATH


"#]]
        .raw()
    );
    assert_eq!(names(&qkey.path("")), INITIAL);
}

#[test]
fn a_folder_that_takes_no_file_is_an_error() {
    // Not even root makes files there; what the system says depends on who asks.
    let run = Qkey::new().run(["generate", "/proc/new.pem"]);
    assert_eq!((run.code, &*run.stdout), (3, ""));
    let message = "error: cannot write a new key to /proc/new.pem\n  caused by: ";
    assert!(run.stderr.starts_with(message), "{}", run.stderr);
}

#[test]
fn a_key_that_does_not_fit_leaves_nothing_behind() {
    let qkey = Qkey::new();
    // A file that may not grow fails as a full disk does.
    assert_data_eq!(
        redacted(&transcript(
            &qkey,
            ["trap '' XFSZ; ulimit -f 0; qkey generate new.pem"]
        )),
        str![[r#"
$ trap '' XFSZ; ulimit -f 0; qkey generate new.pem
--- exit 3
error: cannot write a new key to new.pem
  caused by: File too large (os error 27)
hint: choose a directory that you can write to


"#]]
        .raw()
    );
    assert_eq!(names(&qkey.path("")), INITIAL);
}

#[test]
fn a_passphrase_that_is_not_to_be_had_makes_no_key() {
    let qkey = Qkey::new().env("EMPTY", "");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey generate 'new.pem?passphrase-env=NOT_SET'",
                "qkey generate --encrypt new.pem",
                "qkey generate --encrypt new.pem --no-input",
                "qkey generate 'new.pem?passphrase-env=EMPTY' --format sec1",
                "qkey generate 'new.pem?passphrase-env=EMPTY' --format openssh",
            ]
        ),
        str![[r#"
$ qkey generate 'new.pem?passphrase-env=NOT_SET'
--- exit 3
error: cannot get the passphrase of new.pem
  caused by: the environment variable NOT_SET is not set
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey generate --encrypt new.pem
--- exit 3
error: cannot encrypt the new key new.pem
  caused by: a new passphrase for new.pem is needed, and there is no terminal to prompt on
hint: for unattended use, append ?passphrase-file=PATH to the key source

$ qkey generate --encrypt new.pem --no-input
--- exit 3
error: cannot encrypt the new key new.pem
  caused by: a new passphrase for new.pem is needed, but --no-input forbids prompting
hint: for unattended use, append ?passphrase-file=PATH to the key source

$ qkey generate 'new.pem?passphrase-env=EMPTY' --format sec1
--- exit 3
warning: SEC1 files use a weak key derivation; omit --format for stronger encryption
error: cannot use the key file new.pem
  caused by: a SEC1 private key cannot be encrypted with an empty passphrase
hint: use a passphrase, or leave the key unencrypted

$ qkey generate 'new.pem?passphrase-env=EMPTY' --format openssh
--- exit 3
error: cannot use the key file new.pem
  caused by: an OpenSSH private key cannot be encrypted with an empty passphrase
hint: use a passphrase, or leave the key unencrypted


"#]].raw()
    );
    assert_eq!(names(&qkey.path("")), INITIAL);
}

#[test]
fn an_empty_passphrase_is_one_where_the_container_takes_it() {
    let qkey = Qkey::new().env("EMPTY", "");
    prints(&qkey, "qkey generate 'new.pem?passphrase-env=EMPTY'");
    let text = fs::read_to_string(qkey.path("new.pem")).unwrap();
    assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
    assert_eq!(
        prints(&qkey, "qkey pubkey 'new.pem?passphrase-env=EMPTY'"),
        prints(&qkey, "openssl pkey -in new.pem -passin pass: -pubout"),
    );
}

#[test]
fn of_several_at_once_one_makes_the_key() {
    let qkey = Qkey::new();
    let runs: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| qkey.run(["generate", "new.pem", "--output", "json"])))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let made: Vec<_> = runs.iter().filter(|run| run.code == 0).collect();
    assert_eq!(made.len(), 1, "{runs:?}");
    assert!(
        runs.iter().all(|run| run.code == 0 || run.code == 3),
        "{runs:?}"
    );
    let key = qkey.run(["pubkey", "new.pem", "--output", "json"]).json();
    assert_eq!(key["public_key"], made[0].json()["public_key"]);
    assert_eq!(
        names(&qkey.path("")),
        ["alice.pem", "bob.pem", "carol.pem", "new.pem"]
    );
}

#[test]
fn a_key_file_is_whole_from_the_moment_it_is_there() {
    let qkey = Qkey::new();
    let path = qkey.path("new.pem");
    let mut child = qkey.command(["generate", "new.pem"]).spawn().unwrap();
    let first = loop {
        if let Ok(text) = fs::read_to_string(&path) {
            break text;
        }
        assert!(
            child
                .try_wait()
                .unwrap()
                .is_none_or(|status| status.success())
        );
        thread::yield_now();
    };
    assert!(child.wait().unwrap().success());
    assert!(first.ends_with("-----END PRIVATE KEY-----\n"), "{first:?}");
    assert_eq!(first, fs::read_to_string(&path).unwrap());
}

#[test]
fn two_keys_are_never_the_same() {
    let qkey = Qkey::new();
    let a = qkey.run(["generate", "a.pem", "--output", "json"]).json();
    let b = qkey.run(["generate", "b.pem", "--output", "json"]).json();
    assert_ne!(a["public_key"], b["public_key"]);
}

#[test]
fn a_result_that_cannot_be_written_says_where_the_key_is() {
    let qkey = Qkey::new();
    let text = transcript(&qkey, ["qkey generate new.pem > /dev/full"]);
    let made = qkey.run(["pubkey", "new.pem", "--output", "json"]).json();
    let fingerprint = made["fingerprint"].as_str().unwrap();
    assert_data_eq!(
        text.replace(fingerprint, "[FINGERPRINT]"),
        str![[r#"
$ qkey generate new.pem > /dev/full
--- exit 1
error: Generated private key new.pem, [FINGERPRINT], but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: the key is complete; `qkey pubkey new.pem` prints its public half


"#]]
        .raw()
    );
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
    const KILLS: u32 = 60;
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
fn a_signal_during_a_slow_fsync_leaves_nothing_or_names_the_key() {
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
