//! Keys on PKCS#11 tokens: SoftHSM, a TPM (swtpm), and a module that misbehaves as it is told.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::support::{
    mock::Mock,
    qkey::{ALICE_PUBLIC, BOB, BOB_PUBLIC, CAROL_PUBLIC, Qkey, Run, STRANGE_TEXTS, wait_until},
    shell,
    swtpm::Swtpm,
    terminal::Terminal,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use snapbox::{IntoData, assert_data_eq, str};

const PIN: &str = "1234";
const SO_PIN: &str = "12345678";

/// Runs a program of the system's that must go well.
#[track_caller]
fn must_run(command: &mut Command) -> String {
    let output = command
        .output()
        .expect("scripts/test-tools has installed it");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The first of the places that are usual for a library.
fn library(places: &[&str]) -> PathBuf {
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("run scripts/test-tools: there is none of {places:?}"))
}

fn softhsm() -> PathBuf {
    library(&[
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ])
}

/// The module of `support/pkcs11_shim.c`, built once for all tests.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/pkcs11_shim.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let shim = folder.join(format!("pkcs11-shim-{}.so", std::process::id()));
        must_run(
            Command::new("cc")
                .args(["-shared", "-fPIC", "-o"])
                .arg(&shim)
                .arg(source)
                .arg("-ldl"),
        );
        shim
    })
}

/// A user with tokens of SoftHSM's.
struct Tokens {
    qkey: Qkey,
}

impl Tokens {
    /// One token, `T`, without a key.
    fn new() -> Self {
        Self::with(Qkey::new())
    }

    fn with_mock(mock: &Mock) -> Self {
        Self::with(Qkey::with_mock(mock))
    }

    fn with(qkey: Qkey) -> Self {
        let configuration = qkey.path("softhsm.conf");
        let folder = qkey.path("tokens");
        fs::create_dir(&folder).expect("a folder for tokens");
        fs::write(
            &configuration,
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                folder.display()
            ),
        )
        .expect("a configuration");
        let tokens = Self {
            qkey: qkey
                .env("SOFTHSM2_CONF", configuration.to_str().expect("UTF-8"))
                .env("PKCS11_MODULE", softhsm().to_str().expect("UTF-8"))
                .env("PIN", PIN),
        };
        tokens.initialize("T");
        tokens
    }

    /// With the private key ALICE on `T`, and its public half.
    fn with_alice(self) -> Self {
        self.import("T", "alice.pem", "alice", "01");
        self
    }

    /// Through the shim, which misbehaves in these ways.
    fn through_shim(self, faults: &str) -> Self {
        let log = self.qkey.path("shim.log");
        let real = softhsm();
        let qkey = self.qkey;
        Self {
            qkey: qkey
                .env("PKCS11_MODULE", shim().to_str().expect("UTF-8"))
                .env("SHIM_REAL", real.to_str().expect("UTF-8"))
                .env("SHIM_LOG", log.to_str().expect("UTF-8"))
                .env("SHIM_FAULTS", faults),
        }
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env("SOFTHSM2_CONF", self.qkey.path("softhsm.conf"));
        command
    }

    fn pkcs11_tool(&self, token: &str) -> Command {
        let mut command = self.program("pkcs11-tool");
        command.arg("--module").arg(softhsm());
        command.args(["--token-label", token]);
        command
    }

    fn initialize(&self, label: &str) {
        must_run(self.program("softhsm2-util").args([
            "--init-token",
            "--free",
            "--label",
            label,
            "--pin",
            PIN,
            "--so-pin",
            SO_PIN,
        ]));
    }

    fn import(&self, token: &str, file: &str, label: &str, id: &str) {
        let file = self.qkey.path(file);
        must_run(
            self.program("softhsm2-util")
                .arg("--import")
                .arg(file)
                .args(["--token", token, "--label", label, "--id", id, "--pin", PIN]),
        );
    }

    fn make(&self, key_type: &str, label: &str, id: &str) {
        must_run(self.pkcs11_tool("T").args(["--login", "--pin", PIN]).args([
            "--keypairgen",
            "--key-type",
            key_type,
            "--label",
            label,
            "--id",
            id,
        ]));
    }

    fn delete_public(&self, id: &str) {
        must_run(
            self.pkcs11_tool("T")
                .args(["--login", "--pin", PIN, "--delete-object"])
                .args(["--type", "pubkey", "--id", id]),
        );
    }

    /// Stores the public half of the key in a file.
    fn write_public(&self, file: &str, label: &str, id: &str, more: &[&str]) {
        let public = self.qkey.path("public.der");
        must_run(
            Command::new("openssl")
                .args(["pkey", "-pubout", "-outform", "DER", "-in"])
                .arg(self.qkey.path(file))
                .arg("-out")
                .arg(&public),
        );
        must_run(
            self.pkcs11_tool("T")
                .args(["--login", "--pin", PIN, "--type", "pubkey"])
                .args(["--label", label, "--id", id])
                .args(more)
                .arg("--write-object")
                .arg(&public),
        );
    }

    /// What the token says of its PIN, among other flags.
    fn flags(&self) -> String {
        let listed = must_run(
            self.program("pkcs11-tool")
                .arg("--module")
                .arg(softhsm())
                .arg("-L"),
        );
        let line = listed.lines().find(|line| line.contains("token flags"));
        line.expect("a line with flags").trim().to_owned()
    }

    /// What `pkcs11-tool` says of the slot with a token, the first of those with its label.
    fn listed(&self, label: &str) -> String {
        let listed = must_run(
            self.program("pkcs11-tool")
                .arg("--module")
                .arg(softhsm())
                .arg("-L"),
        );
        let label = format!(": {label}\n");
        let mut slots = listed.split("\nSlot ");
        let slot = slots.find(|slot| slot.contains(&label));
        slot.expect("the token is listed").to_owned()
    }

    /// The serial number of a token.
    fn serial(&self, label: &str) -> String {
        let listed = self.listed(label);
        let line = listed.lines().find(|line| line.contains("serial num"));
        let (_, serial) = line
            .and_then(|line| line.rsplit_once(": "))
            .expect("a serial number");
        serial.to_owned()
    }

    /// The number of the slot that a token is in.
    fn slot(&self, label: &str) -> u64 {
        let listed = self.listed(label);
        let number = listed
            .split_once("(0x")
            .and_then(|(_, rest)| rest.split_once(')'))
            .map(|(number, _)| u64::from_str_radix(number, 16));
        number.expect("a number").expect("hexadecimal")
    }

    fn run(&self, args: &[&str]) -> Run {
        self.shown(self.qkey.run(args))
    }

    /// In a changed environment.
    fn run_changed(&self, args: &[&str], change: impl Fn(&mut Command)) -> Run {
        let mut command = self.qkey.command(args);
        change(&mut command);
        let output = command.output().expect("qkey runs");
        self.shown(self.qkey.taken(&output))
    }

    /// Runs the command in backticks that a hint gives, with what a person would type.
    fn run_hinted(&self, hint: &str, typed: &[&str]) {
        let command = hint.split('`').nth(1).expect("a command");
        let command = command
            .replace("[SOFTHSM]", &softhsm().to_string_lossy())
            .replace(
                "PUBLIC.der",
                &self.qkey.path("public.der").to_string_lossy(),
            );
        must_run(
            self.program("/bin/sh")
                .args(["-c", &format!("{command} \"$@\""), "sh"])
                .args(typed),
        );
    }

    fn pubkey(&self, source: &str) -> Run {
        self.run(&["pubkey", "--format", "base64", source])
    }

    fn sign(&self, source: &str) -> Run {
        self.run(&["sign", "--key", source, "challenge"])
    }

    #[track_caller]
    fn expect_signature(&self, source: &str) {
        let run = self.sign(source);
        assert_eq!(run.code, 0, "{source}: {run:?}");
        let verified = self.run(&[
            "verify",
            "--key",
            source,
            "--signature",
            run.stdout.trim(),
            "challenge",
        ]);
        assert_eq!(verified.code, 0, "{source}: {verified:?}");
    }

    /// With what differs from machine to machine and from run to run replaced.
    fn shown(&self, run: Run) -> Run {
        let show = |text: String| {
            let real = softhsm().canonicalize().expect("a path");
            let text = text
                .replace(&*real.to_string_lossy(), "[SOFTHSM]")
                .replace(&*softhsm().to_string_lossy(), "[SOFTHSM]")
                .replace(&*shim().to_string_lossy(), "[SHIM]");
            let mut pieces = text.split("serial=");
            let first = pieces.next().unwrap_or_default().to_owned();
            pieces.fold(first, |text, piece| {
                let rest = piece.trim_start_matches(|c: char| c.is_ascii_hexdigit());
                let serial = if rest == piece { "" } else { "[SERIAL]" };
                format!("{text}serial={serial}{rest}")
            })
        };
        Run {
            code: run.code,
            stdout: show(run.stdout),
            stderr: show(run.stderr),
        }
    }

    /// How often the shim saw a call.
    fn calls(&self, name: &str) -> usize {
        let log = fs::read_to_string(self.qkey.path("shim.log")).unwrap_or_default();
        log.lines().filter(|line| *line == name).count()
    }

    /// Each of these runs with its source, for a snapshot.
    fn each(&self, run: fn(&Self, &str) -> Run, sources: &[&str]) -> String {
        let one = |source: &&str| format!("==== {source}\n{}", run(self, source).transcript());
        sources.iter().map(one).collect()
    }
}

/// One token with one key, in which each of `faults` is tried.
fn under_faults(run: fn(&Tokens, &str) -> Run, source: &str, faults: &[&str]) -> String {
    let mut tokens = Tokens::new().with_alice();
    let mut said = String::new();
    for fault in faults {
        tokens = tokens.through_shim(fault);
        said += &format!("==== {fault}\n{}", run(&tokens, source).transcript());
    }
    said
}

#[test]
fn a_public_key_needs_no_pin_and_a_signature_does() {
    let tokens = Tokens::new().with_alice();
    let run = tokens.pubkey("pkcs11:token=T;object=alice");
    assert_eq!(run.stdout.trim(), ALICE_PUBLIC);
    assert_eq!(run.stderr, "");
    tokens.expect_signature("pkcs11:token=T;object=alice?pin-env=PIN");
    assert_data_eq!(
        tokens.sign("pkcs11:token=T;object=alice").transcript(),
        str![[r#"
--- exit 3
error: pkcs11:token=T;object=alice needs a PIN, and there is no terminal to prompt on
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source

"#]].raw()
    );
    assert_data_eq!(
        tokens
            .run(&["--no-input", "sign", "--key", "pkcs11:object=alice", "x"])
            .transcript(),
        str![[r#"
--- exit 3
error: pkcs11:object=alice needs a PIN, but --no-input forbids prompting
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source

"#]].raw()
    );
}

#[test]
fn openssl_verifies_signatures_over_any_challenge() {
    let tokens = Tokens::new().with_alice();
    let qkey = &tokens.qkey;
    let public = qkey.path("public.pem");
    let pem = tokens.run(&["pubkey", "pkcs11:object=alice"]).stdout;
    fs::write(&public, pem).expect("a file");
    let long = [5_000, 20_000].map(|length| "é".repeat(length / 2));
    let challenges = STRANGE_TEXTS.iter().map(ToString::to_string).chain(long);
    for challenge in challenges.chain([String::new()]) {
        let challenge = qkey.write("challenge", &challenge);
        let run = qkey.run([
            "sign",
            "--key",
            "pkcs11:token=T;object=alice?pin-env=PIN",
            "--format",
            "hex",
            "--challenge-file",
            challenge.to_str().expect("UTF-8"),
        ]);
        assert_eq!(run.code, 0, "{run:?}");
        let der = base16ct::mixed::decode_vec(run.stdout.trim()).expect("hexadecimal");
        let signature = qkey.write("signature", der);
        must_run(
            Command::new("openssl")
                .args(["dgst", "-sha256", "-verify"])
                .arg(&public)
                .arg("-signature")
                .args([&signature, &challenge]),
        );
    }
}

#[test]
fn a_file_key_is_replaced_by_one_on_a_token_that_then_unlocks() {
    let mock = Mock::new();
    let tokens = Tokens::with_mock(&mock);
    tokens.import("T", "bob.pem", "bob", "02");
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    let bob = "pkcs11:token=T;object=bob?pin-env=PIN";
    let replaced = tokens.run(&[
        "replace",
        "--key-id",
        "lock-2026",
        "--old-key",
        "alice.pem",
        "--new-key",
        bob,
    ]);
    assert_data_eq!(
        replaced.transcript(),
        str![[r#"
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s

"#]]
        .raw()
    );
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    mock.add_snapshot(7, "daily", Some("1"));
    tokens
        .qkey
        .configure(&format!("[keys.token]\nsource = {bob:?}\n"));
    assert_data_eq!(
        tokens.run(&["unlock", "--id", "7"]).transcript(),
        str![[r#"
Unlocked snapshot 7 ("daily") with key 1 ("lock-2026").

"#]]
        .raw()
    );
    assert_eq!(mock.lock_key(7), None);
}

#[test]
fn a_key_on_a_token_is_added_once() {
    let mock = Mock::new();
    let tokens = Tokens::with_mock(&mock).with_alice();
    let add = [
        "add",
        "--name",
        "lock-2026",
        "--key",
        "pkcs11:token=T;object=alice?pin-value=1234",
    ];
    assert_data_eq!(
        tokens.run(&add).transcript(),
        str![[r#"
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4

"#]]
        .raw()
    );
    assert_data_eq!(
        tokens.run(&add).transcript(),
        str![[r#"
Already stored as key 1 ("lock-2026").
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_add_key"), 1);
}

#[test]
fn the_attributes_of_the_uri_choose_the_key() {
    let tokens = Tokens::new().with_alice();
    tokens.import("T", "bob.pem", "bob", "02");
    tokens.initialize("U V");
    tokens.import("U V", "carol.pem", "alice", "ff00");
    let serial = tokens.serial("T");
    for (source, public_key) in [
        ("pkcs11:token=T;object=alice", ALICE_PUBLIC),
        ("pkcs11:token=T;object=alice;type=private", ALICE_PUBLIC),
        ("pkcs11:token=T;id=%02", BOB_PUBLIC),
        ("pkcs11:token=T;object=bob;id=%02", BOB_PUBLIC),
        ("pkcs11:object=bob", BOB_PUBLIC),
        ("pkcs11:token=U%20V;object=alice", CAROL_PUBLIC),
        ("pkcs11:token=U%20V", CAROL_PUBLIC),
        ("pkcs11:id=%ff%00", CAROL_PUBLIC),
        (
            "pkcs11:manufacturer=SoftHSM%20project;model=SoftHSM%20v2;id=%02",
            BOB_PUBLIC,
        ),
        (
            "pkcs11:library-manufacturer=SoftHSM;slot-manufacturer=SoftHSM%20project;id=%02",
            BOB_PUBLIC,
        ),
        (
            &format!("pkcs11:serial={serial};object=alice"),
            ALICE_PUBLIC,
        ),
    ] {
        let run = tokens.pubkey(source);
        assert_eq!(run.stdout.trim(), public_key, "{source}: {run:?}");
    }
    let said = tokens.each(
        Tokens::pubkey,
        &[
            "pkcs11:object=alice",
            "pkcs11:token=T",
            "pkcs11:token=X;object=alice",
            "pkcs11:library-version=77.1",
            "pkcs11:slot-id=77",
            "pkcs11:object=carol?pin-env=PIN",
            "pkcs11:token=T;object=carol?pin-env=PIN",
            "pkcs11:token=T;object=alice;id=%02?pin-env=PIN",
        ],
    );
    assert_data_eq!(said, str![[r#"
==== pkcs11:object=alice
--- exit 3
error: cannot open pkcs11:object=alice
  caused by: 2 tokens have a matching key: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U V" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= from this list to the URI
==== pkcs11:token=T
--- exit 3
error: cannot open pkcs11:token=T
  caused by: 2 keys on the token "T" match: "alice" id=%01 (public EC P-256); "bob" id=%02 (public EC P-256)
hint: add id= from this list to the URI
==== pkcs11:token=X;object=alice
--- exit 3
error: cannot open pkcs11:token=X;object=alice
  caused by: no token matches
  caused by: found: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U V" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: correct token= or serial=; to use another module, add ?module-path=PATH
==== pkcs11:library-version=77.1
--- exit 3
error: cannot open pkcs11:library-version=77.1
  caused by: no token matches
  caused by: found: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U V" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: correct token= or serial=; to use another module, add ?module-path=PATH
==== pkcs11:slot-id=77
--- exit 3
error: cannot open pkcs11:slot-id=77
  caused by: no token matches
  caused by: found: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U V" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: correct token= or serial=; to use another module, add ?module-path=PATH
==== pkcs11:object=carol?pin-env=PIN
--- exit 3
error: cannot open pkcs11:object=carol?pin-env=PIN
  caused by: 2 tokens match: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U V" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= to name one; no PIN is tried on a token that may be the wrong one
==== pkcs11:token=T;object=carol?pin-env=PIN
--- exit 3
error: cannot open pkcs11:token=T;object=carol?pin-env=PIN
  caused by: the token "T" has no matching private key
  caused by: it has: "alice" id=%01 (private EC); "alice" id=%01 (public EC P-256); "bob" id=%02 (private EC); "bob" id=%02 (public EC P-256)
hint: correct object= and id=, or create the key: `qkey generate 'pkcs11:token=T;object=NEW'`
==== pkcs11:token=T;object=alice;id=%02?pin-env=PIN
--- exit 3
error: cannot open pkcs11:token=T;object=alice;id=%02?pin-env=PIN
  caused by: the token "T" has no matching private key
  caused by: it has: "alice" id=%01 (private EC); "alice" id=%01 (public EC P-256); "bob" id=%02 (private EC); "bob" id=%02 (public EC P-256)
hint: correct object= and id=, or create the key: `qkey generate 'pkcs11:token=T;object=NEW'`

"#]].raw());
}

#[test]
fn what_is_no_pkcs11_uri_is_said() {
    let tokens = Tokens::new();
    assert_eq!(tokens.pubkey("pkcs11:").code, 2);
    let said = tokens.each(
        Tokens::pubkey,
        &[
            "pkcs11:alice",
            "pkcs11:label=alice",
            "pkcs11:token=T;token=U",
            "pkcs11:token=%zz",
            "pkcs11:token=%ff",
            "pkcs11:type=cert;object=alice",
            "pkcs11:slot-id=one",
            "pkcs11:token=T;pin-value=1234",
            "pkcs11:object=alice?pin-valu=1234",
            "pkcs11:object=alice?pin-value=1234&pin-env=PIN",
            "pkcs11:object=alice?pin-file=a&pin-fd=3",
            "pkcs11:object=alice?pin-fd=x",
        ],
    );
    assert_data_eq!(said, str![[r#"
==== pkcs11:alice
--- exit 2
error: "pkcs11:alice" is not a key source: "alice" is not an attribute like token=NAME
hint: the syntax is pkcs11:token=T;object=O?module-path=M&pin-file=P
==== pkcs11:label=alice
--- exit 2
error: "pkcs11:label=alice" is not a key source: unknown attribute "label" before `?`; known: token, manufacturer, serial, model, object, id, type, slot-id, slot-description, slot-manufacturer, library-description, library-manufacturer, library-version
hint: the syntax is pkcs11:token=T;object=O?module-path=M&pin-file=P
==== pkcs11:token=T;token=U
--- exit 2
error: "pkcs11:token=T;token=U" is not a key source: attribute "token" is given twice
hint: the syntax is pkcs11:token=T;object=O?module-path=M&pin-file=P
==== pkcs11:token=%zz
--- exit 2
error: "pkcs11:token=%zz" is not a key source: attribute "token": a `%` without two hex digits after it (write `%25`)
hint: the syntax is pkcs11:token=T;object=O?module-path=M&pin-file=P
==== pkcs11:token=%ff
--- exit 2
error: "pkcs11:token=%ff" is not a key source: attribute "token" does not decode to UTF-8
hint: the syntax is pkcs11:token=T;object=O?module-path=M&pin-file=P
==== pkcs11:type=cert;object=alice
--- exit 2
error: "pkcs11:type=cert;object=alice" is not a key source: type=cert is not a private key
hint: the syntax is pkcs11:token=T;object=O?module-path=M&pin-file=P
==== pkcs11:slot-id=one
--- exit 2
error: "pkcs11:slot-id=one" is not a key source: slot-id "one" is not a number
hint: the syntax is pkcs11:token=T;object=O?module-path=M&pin-file=P
==== pkcs11:token=T;pin-value=1234
--- exit 2
error: "pkcs11:token=T;pin-value=…" is not a key source: pin-value belongs after `?`
hint: the syntax is pkcs11:token=T;object=O?module-path=M&pin-file=P
==== pkcs11:object=alice?pin-valu=1234
--- exit 2
error: "pkcs11:object=alice?pin-valu=…" is not a key source: unknown attribute "pin-valu"
hint: did you mean "pin-value"? pkcs11 takes module-path, module-name, pin-source, pin-value, pin-env, pin-file, pin-fd, pin-command; in a name, write `?` as %3F: pkcs11:…%3F…
==== pkcs11:object=alice?pin-value=1234&pin-env=PIN
--- exit 2
error: "pkcs11:object=alice?pin-value=…&pin-env=PIN" has more than one source for the PIN
hint: keep only one of the pin attributes
==== pkcs11:object=alice?pin-file=a&pin-fd=3
--- exit 2
error: "pkcs11:object=alice?pin-file=a&pin-fd=3" is not a key source: more than one source for the pin
==== pkcs11:object=alice?pin-fd=x
--- exit 2
error: "pkcs11:object=alice?pin-fd=x" is not a key source: pin-fd is not a file descriptor
hint: use a number, as in pin-fd=3

"#]].raw());
}

#[test]
fn a_module_is_named_in_several_ways() {
    let tokens = Tokens::new().with_alice();
    let (module, shim) = (softhsm(), shim());
    let (folder, shims) = (
        module.parent().expect("a folder"),
        shim.parent().expect("a folder"),
    );
    for (variable, attributes) in [
        ("", "module-name=softhsm2".to_owned()),
        ("", format!("module-path={}", module.display())),
        (
            "",
            format!("module-path={}&module-name=softhsm2", folder.display()),
        ),
        ("", "module-path=libsofthsm2.so".to_owned()),
        ("libsofthsm2.so", String::new()),
        ("/nowhere", format!("module-path={}", module.display())),
    ] {
        let source = format!("pkcs11:token=T;object=alice?{attributes}");
        let run = tokens.run_changed(&["pubkey", "--format", "base64", &source], |command| {
            command.env("PKCS11_MODULE", variable);
        });
        assert_eq!(run.stdout.trim(), ALICE_PUBLIC, "{source}: {run:?}");
    }
    let source = format!(
        "pkcs11:object=alice?module-path={}&module-name=x",
        shims.display()
    );
    assert_eq!(tokens.pubkey(&source).code, 3);
}

#[test]
fn a_module_in_the_current_directory_is_loaded_only_when_its_folder_is_named() {
    let tokens = Tokens::new().with_alice().through_shim("");
    fs::create_dir(tokens.qkey.path("modules")).expect("a folder");
    for place in ["libplanted.so", "modules/libplanted.so"] {
        fs::copy(shim(), tokens.qkey.path(place)).expect("a copy");
    }
    let pubkey = |variable: &str, attributes: &str| {
        let source = format!("pkcs11:token=T;object=alice{attributes}");
        tokens.run_changed(&["pubkey", "--format", "base64", &source], |command| {
            command.env("PKCS11_MODULE", variable);
        })
    };
    for (variable, attributes) in [
        ("", "?module-path=libplanted.so"),
        ("", "?module-path=modules&module-name=planted"),
        ("", "?module-name=planted"),
        ("libplanted.so", ""),
    ] {
        let run = pubkey(variable, attributes);
        assert_eq!(run.code, 3, "{run:?}");
        assert!(run.stderr.contains(": no module "), "{run:?}");
    }
    for (variable, attributes) in [
        ("", "?module-path=./libplanted.so"),
        ("", "?module-path=modules/libplanted.so"),
        ("", "?module-path=./modules&module-name=planted"),
        ("./libplanted.so", ""),
    ] {
        let run = pubkey(variable, attributes);
        assert_eq!(run.stdout.trim(), ALICE_PUBLIC, "{run:?}");
    }
}

#[test]
fn the_usual_places_are_looked_through_when_nothing_names_a_module() {
    let tokens = Tokens::new().with_alice();
    let args = [
        "pubkey",
        "--format",
        "base64",
        "pkcs11:token=T;object=alice",
    ];
    let run = tokens.run_changed(&args, |command| {
        command.env_remove("PKCS11_MODULE");
    });
    assert_eq!(run.stdout.trim(), ALICE_PUBLIC);
}

#[test]
fn what_is_no_module_is_said() {
    let tokens = Tokens::new();
    tokens.qkey.write("text.so", "no library");
    let dir = tokens.qkey.path("");
    let source =
        |module: &str| format!("pkcs11:object=alice?module-path={}{module}", dir.display());
    let sources = ["nowhere.so", "text.so", ""].map(source);
    let mut said = tokens.each(Tokens::pubkey, &sources.each_ref().map(String::as_str));
    said += &tokens.each(
        Tokens::pubkey,
        &["pkcs11:object=alice?module-path=libm.so.6"],
    );
    // Where libraries are differs from system to system.
    let nowhere = tokens
        .pubkey("pkcs11:object=alice?module-name=nowhere")
        .stderr;
    assert!(
        nowhere.contains("no module nowhere in /usr/lib/"),
        "{nowhere}"
    );
    assert!(nowhere.contains(", /usr/lib/softhsm, "), "{nowhere}");
    let said = said
        .replace(dir.to_str().expect("UTF-8"), "[DIR]/")
        .replace(
            &format!("/usr/lib/{}-linux-gnu/", std::env::consts::ARCH),
            "[LIB]/",
        );
    assert_data_eq!(said, str![[r#"
==== pkcs11:object=alice?module-path=[DIR]/nowhere.so
--- exit 3
error: cannot open pkcs11:object=alice?module-path=[DIR]/nowhere.so
  caused by: no module [DIR]/nowhere.so
hint: install the token's module (Debian: softhsm2, opensc-pkcs11, libtpm2-pkcs11-1, ykcs11), or set its path with ?module-path=PATH or PKCS11_MODULE
==== pkcs11:object=alice?module-path=[DIR]/text.so
--- exit 3
error: cannot open pkcs11:object=alice?module-path=[DIR]/text.so
  caused by: [DIR]/text.so is not a PKCS#11 module: [DIR]/text.so: file too short
hint: use the library that came with the token, as in ?module-path=[SOFTHSM]
==== pkcs11:object=alice?module-path=[DIR]/
--- exit 3
error: cannot open pkcs11:object=alice?module-path=[DIR]/
  caused by: [DIR] is not a PKCS#11 module: [DIR]: cannot read file data: Is a directory
hint: use the library that came with the token, as in ?module-path=[SOFTHSM]
==== pkcs11:object=alice?module-path=libm.so.6
--- exit 3
error: cannot open pkcs11:object=alice?module-path=libm.so.6
  caused by: [LIB]/libm.so.6 is not a PKCS#11 module: it has no C_GetFunctionList
hint: use the library that came with the token, as in ?module-path=[SOFTHSM]

"#]].raw());
}

#[test]
fn a_pin_comes_from_wherever_it_is_said_to_be() {
    let tokens = Tokens::new().with_alice();
    let file = tokens.qkey.write("pin", "1234\n");
    tokens.qkey.write("utf-8-with-bom", "\u{feff}1234\r\n");
    tokens
        .qkey
        .write("utf-16", b"\xff\xfe1\x002\x003\x004\0\r\0\n\0");
    tokens
        .qkey
        .write("utf-16-without-bom", b"1\x002\x003\x004\0");
    for attribute in [
        "pin-value=1234".to_owned(),
        "pin-value=%31%32%33%34".to_owned(),
        "pin-env=PIN".to_owned(),
        "pin-file=pin".to_owned(),
        "pin-file=utf-8-with-bom".to_owned(),
        "pin-file=utf-16".to_owned(),
        "pin-command=cat utf-16".to_owned(),
        "pin-command=echo%201234".to_owned(),
        "pin-source=pin".to_owned(),
        "pin-source=file:pin".to_owned(),
        format!("pin-source=file:{}", file.display()),
        format!("pin-source=file://{}", file.display()),
        "pin-source=|cat pin".to_owned(),
        "pin-source=%7Ccat%20pin".to_owned(),
    ] {
        tokens.expect_signature(&format!("pkcs11:token=T;object=alice?{attribute}"));
    }
    let on_descriptor = "qkey sign --key 'pkcs11:token=T;object=alice?pin-fd=3' x 3<pin";
    shell::prints(&tokens.qkey, on_descriptor);
    // From the configuration file, paths are relative to its folder.
    tokens.qkey.write(".config/qkey/pin", "1234\n");
    tokens.qkey.configure(
        "[keys]\na.source = 'pkcs11:token=T;object=alice?pin-source=file:pin'\n\
         b.source = 'pkcs11:token=T;object=alice?pin-file=pin'\n",
    );
    fs::remove_file(file).expect("it was there");
    tokens.expect_signature("a");
    tokens.expect_signature("b");
    let said = tokens.each(
        Tokens::sign,
        &[
            "pkcs11:token=T;object=alice?pin-env=NOWHERE",
            "pkcs11:token=T;object=alice?pin-file=nowhere",
            "pkcs11:token=T;object=alice?pin-file=utf-16-without-bom",
            "pkcs11:token=T;object=alice?pin-source=|false",
            "pkcs11:token=T;object=alice?pin-value=",
            "pkcs11:token=T;object=alice?pin-value=123",
        ],
    );
    assert_data_eq!(said, str![[r#"
==== pkcs11:token=T;object=alice?pin-env=NOWHERE
--- exit 3
error: cannot get the PIN of pkcs11:token=T;object=alice?pin-env=NOWHERE
  caused by: the environment variable NOWHERE is not set
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source
==== pkcs11:token=T;object=alice?pin-file=nowhere
--- exit 3
error: cannot get the PIN of pkcs11:token=T;object=alice?pin-file=nowhere
  caused by: cannot read the PIN of the token "T", for pkcs11:token=T;object=alice?pin-file=nowhere in nowhere
  caused by: No such file or directory (os error 2)
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source
==== pkcs11:token=T;object=alice?pin-file=utf-16-without-bom
--- exit 3
error: cannot get the PIN of pkcs11:token=T;object=alice?pin-file=utf-16-without-bom
  caused by: the PIN of the token "T", for pkcs11:token=T;object=alice?pin-file=utf-16-without-bom in utf-16-without-bom contains a NUL byte
hint: it was not tried; convert it to UTF-8 without NUL bytes
==== pkcs11:token=T;object=alice?pin-source=|false
--- exit 3
error: cannot get the PIN of pkcs11:token=T;object=alice?pin-source=…
  caused by: the command for the PIN of the token "T", for pkcs11:token=T;object=alice?pin-source=… failed
  caused by: `/bin/sh` exited with 1
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source
==== pkcs11:token=T;object=alice?pin-value=
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-value=…
  caused by: the token "T" requires a PIN of 4 to 255 bytes; this one has 0
hint: it was not tried; check where the PIN comes from
==== pkcs11:token=T;object=alice?pin-value=123
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-value=…
  caused by: the token "T" requires a PIN of 4 to 255 bytes; this one has 3
hint: it was not tried; check where the PIN comes from

"#]].raw());
    assert!(!tokens.flags().contains("count low"), "no PIN was tried");
}

#[test]
fn a_pin_in_a_uri_is_never_shown() {
    let tokens = Tokens::new().with_alice();
    let secret = "98765";
    let right = "pkcs11:token=T;object=alice?pin-value=98765";
    tokens
        .qkey
        .configure(&format!("[keys.secret]\nsource = \"{right}\"\n"));
    let mut said = String::new();
    for args in [
        &["sign", "--key", right, "x"][..],
        &["-vv", "sign", "--key", right, "x"],
        &["--output", "json", "sign", "--key", right, "x"],
        &["-vv", "sign", "--key", "secret", "x"],
        &["config", "show"],
        &["--output", "json", "config", "show"],
        &[
            "pubkey",
            "pkcs11:object=alice?pin-value=98765&pin-value=98765",
        ],
        &["pubkey", "pkcs11:object=alice?pin-value=98765%"],
        &["pubkey", "pkcs11:object=alice;pin-value=98765"],
        &["pubkey", "pkcs11:object=nothing?pin-value=98765"],
        &["pubkey", "pkcs12:object=nothing?pin-value=98765"],
        &["generate", "pkcs11:token=T;object=new?pin-value=98765"],
    ] {
        said += &tokens.run(args).transcript();
    }
    assert!(!said.contains(secret), "{said}");
    let made = tokens.run(&["generate", "pkcs11:token=T;object=new?pin-value=1234"]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(!made.transcript().contains(PIN), "{made:?}");
}

#[test]
fn a_wrong_pin_is_tried_exactly_once() {
    let tokens = Tokens::new().with_alice().through_shim("");
    assert!(!tokens.flags().contains("count low"));
    assert_data_eq!(
        tokens
            .sign("pkcs11:token=T;object=alice?pin-value=4321")
            .transcript(),
        str![[r#"
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-value=…
  caused by: the token "T" refused the PIN
  caused by: C_Login failed with CKR_PIN_INCORRECT
hint: it was tried once; check the PIN before running this again: a token locks after a few wrong PINs

"#]].raw()
    );
    assert_eq!(tokens.calls("C_Login"), 1);
    assert!(tokens.flags().contains("count low"));
    // A right one is taken, and the token forgets.
    let run = tokens.sign("pkcs11:token=T;object=alice?pin-env=PIN");
    assert_data_eq!(
        run.stderr,
        str![[r#"
warning: the token "T" has seen a wrong PIN recently; a few wrong PINs lock it

"#]]
        .raw()
    );
    assert_eq!(run.code, 0);
    assert!(!tokens.flags().contains("count low"));
}

#[test]
fn a_wrong_pin_is_tried_once_for_many_snapshots() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    for faults in ["", "always-authenticate"] {
        let tokens = Tokens::with_mock(&mock).with_alice().through_shim(faults);
        tokens.qkey.configure(
            "[keys]\na.source = 'pkcs11:token=T;object=alice?pin-value=4321'\n\
             b.source = 'pkcs11:token=T;id=%01?pin-value=4321'\n",
        );
        let args = ["unlock", "--id=1", "--id=2", "--id=3", "--id=4", "--jobs=4"];
        for (more, logins) in [
            (&["--key=pkcs11:token=T;object=alice?pin-value=4321"][..], 1),
            (&[], 2),
        ] {
            let run = tokens.run(&[&args[..], more].concat());
            assert_eq!(run.code, 3, "{run:?}");
            assert_eq!(run.stderr.matches("refused the PIN").count(), 4, "{run:?}");
            assert_eq!(tokens.calls("C_Login"), logins, "{run:?}");
        }
    }
}

#[test]
fn a_pin_that_the_token_never_asks_for_is_an_error() {
    let tokens = Tokens::new().with_alice().through_shim("no-login");
    tokens.expect_signature("pkcs11:token=T;object=alice");
    let said = tokens.each(Tokens::sign, &["pkcs11:token=T;object=alice?pin-env=PIN"]);
    assert_data_eq!(
        said,
        str![[r#"
==== pkcs11:token=T;object=alice?pin-env=PIN
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" signs without a login, so the PIN in the key source has no effect
hint: remove the pin-… attribute, or set a PIN with the token's own tool

"#]]
        .raw()
    );
    let made = tokens.run(&["generate", "pkcs11:token=T;object=new?pin-env=PIN"]);
    assert!(made.stderr.contains("has no effect"), "{made:?}");
    assert_eq!(tokens.calls("C_Login"), 0);
}

#[test]
fn several_keys_on_one_token_share_one_login() {
    let mock = Mock::new();
    let tokens = Tokens::with_mock(&mock).with_alice().through_shim("");
    tokens.import("T", "bob.pem", "bob", "02");
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    let replace = |pin: &str| {
        let [old, new] = ["alice", "bob"].map(|key| format!("pkcs11:token=T;object={key}?{pin}"));
        let args = [
            "replace",
            "--key-id",
            "1",
            "--old-key",
            &old,
            "--new-key",
            &new,
        ];
        tokens.run(&args)
    };
    let run = replace("pin-value=4321");
    assert_eq!(run.code, 3, "{run:?}");
    assert_eq!(
        tokens.calls("C_Login"),
        1,
        "a wrong PIN is tried once for both"
    );
    let run = replace("pin-env=PIN");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(tokens.calls("C_Login"), 2, "one login serves both");
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn one_session_and_one_login_sign_for_all_snapshots() {
    let mock = Mock::new();
    let tokens = Tokens::with_mock(&mock).with_alice().through_shim("");
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    for id in 1..=3 {
        mock.set_snapshot_field(id, "lock_key", "1");
    }
    let ids = ["--id=1", "--id=2", "--id=3", "--jobs=3"];
    let key = ["--key", "pkcs11:token=T;object=alice?pin-env=PIN"];
    let run = tokens.run(&[&["unlock"], &ids[..], &key].concat());
    assert_eq!(run.code, 0, "{run:?}");
    let counts = ["C_OpenSession", "C_Login", "C_Sign"].map(|call| tokens.calls(call));
    assert_eq!(counts, [1, 1, 3]);
}

#[test]
fn no_pin_is_spent_on_a_key_that_is_not_the_right_one() {
    let mock = Mock::new();
    let tokens = Tokens::with_mock(&mock).with_alice().through_shim("");
    tokens.import("T", "bob.pem", "bob", "02");
    tokens.import("T", "bob.pem", "hidden", "03");
    tokens.delete_public("03");
    tokens.qkey.write("pin", "4321\n");
    mock.add_key("lock-2026", "", CAROL_PUBLIC);
    mock.add_snapshot(7, "daily", Some("1"));
    tokens.qkey.configure(
        "[keys]\nalice.source = 'pkcs11:token=T;object=alice'\n\
         bob.source = 'pkcs11:token=T;object=bob?pin-value=4321'\n\
         hidden.source = 'pkcs11:token=T;object=hidden?pin-value=4321'\n\
         hidden-too.source = 'pkcs11:token=T;id=%03?pin-file=../../pin'\n\
         carol.source = '../../carol.pem'\n",
    );
    for args in [&["keys", "list"][..], &["unlock", "--id", "7"]] {
        let run = tokens.run(args);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(tokens.calls("C_Login"), 0, "{args:?}");
    }
    assert_eq!(mock.lock_key(7), None);
}

#[test]
fn no_pin_is_tried_on_a_token_that_the_uri_does_not_name() {
    let tokens = Tokens::new().with_alice().through_shim("");
    tokens.import("T", "bob.pem", "hidden", "03");
    tokens.delete_public("03");
    let mut said = tokens.each(
        Tokens::sign,
        &[
            "pkcs11:object=alice?pin-value=4321",
            "pkcs11:object=hidden?pin-value=4321",
            "pkcs11:manufacturer=SoftHSM%20project;id=%01?pin-command=echo%204321",
        ],
    );
    said += &tokens
        .run(&["generate", "pkcs11:object=new?pin-value=4321"])
        .transcript();
    assert_data_eq!(said, str![[r#"
==== pkcs11:object=alice?pin-value=4321
--- exit 3
error: cannot open pkcs11:object=alice?pin-value=…
  caused by: the PIN was not tried: the URI does not name a token: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= from this list to the URI, or remove the pin attributes to be prompted
==== pkcs11:object=hidden?pin-value=4321
--- exit 3
error: cannot open pkcs11:object=hidden?pin-value=…
  caused by: the PIN was not tried: the URI does not name a token: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= from this list to the URI, or remove the pin attributes to be prompted
==== pkcs11:manufacturer=SoftHSM%20project;id=%01?pin-command=echo%204321
--- exit 3
error: cannot open pkcs11:manufacturer=SoftHSM%20project;id=%01?pin-command=…
  caused by: the PIN was not tried: the URI does not name a token: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= from this list to the URI, or remove the pin attributes to be prompted
--- exit 3
error: cannot open pkcs11:object=new?pin-value=…
  caused by: the PIN was not tried: the URI does not name a token: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= from this list to the URI, or remove the pin attributes to be prompted

"#]].raw());
    assert_eq!(tokens.calls("C_Login"), 0);
    // A public key costs no PIN.
    let run = tokens.pubkey("pkcs11:object=alice?pin-value=4321");
    assert_eq!(run.stdout.trim(), ALICE_PUBLIC, "{run:?}");
    // A person sees which token it is that asks.
    let args = ["sign", "--key", "pkcs11:object=hidden", "x"];
    let command = tokens.qkey.command_with_terminal(args);
    let mut session = Terminal::new().start(command);
    session.answer("Enter the PIN of the token \"T\"", PIN);
    session.end();
    assert_eq!(tokens.calls("C_Login"), 1);
    // Two tokens may have one label.
    tokens.initialize("T");
    let run = tokens.sign("pkcs11:token=T;object=alice?pin-value=4321");
    assert_data_eq!(run.transcript(), str![[r#"
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-value=…
  caused by: 2 tokens match: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= to name one; no PIN is tried on a token that may be the wrong one

"#]].raw());
    assert_eq!(tokens.calls("C_Login"), 1);
    let serial = tokens.serial("T");
    let run = tokens.sign(&format!(
        "pkcs11:serial={serial};object=alice?pin-value=4321"
    ));
    assert!(run.stderr.contains("CKR_PIN_INCORRECT"), "{run:?}");
    assert_eq!(tokens.calls("C_Login"), 2);
}

#[test]
fn the_number_of_a_slot_names_a_token_only_in_a_module_that_is_named() {
    let tokens = Tokens::new().with_alice();
    let slot = tokens.slot("T");
    let source = format!("pkcs11:slot-id={slot};object=alice?pin-env=PIN");
    tokens.expect_signature(&source);
    let run = tokens.run_changed(&["sign", "--key", &source, "x"], |command| {
        command.env_remove("PKCS11_MODULE");
    });
    assert_eq!(run.code, 3, "{run:?}");
    assert!(
        run.stderr
            .contains("the PIN was not tried: the URI does not name a token: \"T\""),
        "{run:?}"
    );
}

#[test]
fn no_pin_is_tried_while_another_module_may_have_the_token() {
    let tokens = Tokens::new().with_alice();
    let source = "pkcs11:token=T;object=alice?pin-env=PIN";
    let sign = ["sign", "--key", source, "x"];
    let tpm = tokens.qkey.path("tpm");
    fs::create_dir(&tpm).expect("a folder");

    // The module of the TPM does not work.
    let broken = |command: &mut Command| {
        command
            .env_remove("PKCS11_MODULE")
            .env("TPM2_PKCS11_STORE", "/nowhere");
    };
    let run = tokens.run_changed(&sign, broken);
    // The module of the TPM says something as well.
    for line in [
        "caused by: the PIN was not tried: another module may have the token; found: \"T\" (",
        "libtpm2_pkcs11.so: C_Initialize failed with CKR_GENERAL_ERROR\n",
        "hint: name the token's module with ?module-path=PATH\n",
    ] {
        assert!(run.stderr.contains(line), "{run:?}");
    }
    assert_eq!(run.code, 3);
    let run = tokens.run_changed(&["pubkey", "--format", "base64", source], broken);
    assert_eq!(run.stdout.trim(), ALICE_PUBLIC, "{run:?}");
    let named = format!("{source}&module-name=softhsm2");
    let run = tokens.run_changed(&["sign", "--key", &named, "x"], broken);
    assert_eq!(run.code, 0, "{run:?}");

    // It has a token of the same name.
    let tpm = Tpm::with_token(&tpm);
    let run = tokens.run_changed(&sign, |command| {
        command
            .env_remove("PKCS11_MODULE")
            .env("TPM2_PKCS11_TCTI", tpm.swtpm.address())
            .env("TPM2_PKCS11_STORE", tokens.qkey.path("tpm/store"));
    });
    assert_data_eq!(run.stderr, str![[r#"
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: 2 tokens match: "T" (IBM, SW   TPM, serial=[SERIAL]); "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= to name one; no PIN is tried on a token that may be the wrong one

"#]].raw());
    assert_eq!(run.code, 3);
}

#[test]
fn a_person_is_asked_for_the_pin_once() {
    let mock = Mock::new();
    let tokens = Tokens::with_mock(&mock).with_alice().through_shim("");
    tokens.import("T", "bob.pem", "bob", "02");
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    let ask = |pin: &str| {
        let command = tokens.qkey.command_with_terminal([
            "replace",
            "--key-id",
            "1",
            "--old-key",
            "pkcs11:token=T;object=alice",
            "--new-key",
            "pkcs11:token=T;object=bob",
        ]);
        let mut session = Terminal::new().start(command);
        session.answer(
            "Enter the PIN of the token \"T\", for pkcs11:token=T;object=",
            pin,
        );
        session.end()
    };
    let ended = ask("4321");
    assert_eq!(ended.output.status.code(), Some(3));
    assert!(ended.echoes);
    assert_eq!(tokens.calls("C_Login"), 1);
    let ended = ask(PIN);
    assert_eq!(ended.output.status.code(), Some(0));
    assert_eq!(tokens.calls("C_Login"), 2);
    assert_eq!(ended.screen.matches("Enter the PIN").count(), 1);
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn a_key_that_shows_only_after_a_login_is_asked_for() {
    let tokens = Tokens::new().with_alice();
    tokens.delete_public("01");
    let said = tokens.each(
        Tokens::pubkey,
        &[
            "pkcs11:token=T;object=alice",
            "pkcs11:token=T;object=alice?pin-env=PIN",
            "pkcs11:token=T;object=alice?pin-value=4321",
        ],
    );
    assert_data_eq!(said, str![[r#"
==== pkcs11:token=T;object=alice
--- exit 3
error: pkcs11:token=T;object=alice needs a PIN, and there is no terminal to prompt on
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source
==== pkcs11:token=T;object=alice?pin-env=PIN
--- exit 3
error: cannot use pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" has no public key for "alice" id=%01 (private EC)
hint: store its public half with the same id, as in `pkcs11-tool --module [SOFTHSM] --token-label T --login --write-object PUBLIC.der --type pubkey --id 01 --label alice`
==== pkcs11:token=T;object=alice?pin-value=4321
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-value=…
  caused by: the token "T" refused the PIN
  caused by: C_Login failed with CKR_PIN_INCORRECT
hint: it was tried once; check the PIN before running this again: a token locks after a few wrong PINs

"#]].raw());
    tokens.initialize("U");
    assert_data_eq!(
        tokens
            .pubkey("pkcs11:object=alice?pin-value=4321")
            .transcript(),
        str![[r#"
--- exit 3
error: cannot open pkcs11:object=alice?pin-value=…
  caused by: 2 tokens match: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= to name one; no PIN is tried on a token that may be the wrong one

"#]].raw()
    );
}

#[test]
fn the_commands_in_hints_work() {
    let tokens = Tokens::new().with_alice();
    tokens.delete_public("01");
    tokens.write_public("alice.pem", "other", "02", &[]);
    let alice = "pkcs11:token=T;object=alice?pin-env=PIN";
    let run = tokens.pubkey(alice);
    tokens.run_hinted(&run.stderr, &["--pin", PIN]);
    let run = tokens.pubkey("pkcs11:token=T;object=alice");
    assert_eq!(run.stdout.trim(), ALICE_PUBLIC, "{run:?}");

    must_run(
        tokens
            .program("pkcs11-tool")
            .arg("--module")
            .arg(softhsm())
            .args(["--slot-index", "1", "--init-token", "--label", "it's new"])
            .args(["--so-pin", SO_PIN]),
    );
    let generate = ["generate", "pkcs11:token=it's%20new;object=new?pin-env=PIN"];
    let run = tokens.run(&generate);
    assert_data_eq!(run.transcript(), str![[r#"
--- exit 3
error: cannot open pkcs11:token=it's%20new;object=new?pin-env=PIN
  caused by: the token "it's new" has no user PIN
hint: set one with the token's own tool, as in `pkcs11-tool --module [SOFTHSM] --token-label 'it'\''s new' --login --login-type so --init-pin`

"#]].raw());
    tokens.run_hinted(&run.stderr, &["--so-pin", SO_PIN, "--new-pin", PIN]);
    assert_eq!(tokens.run(&generate).code, 0);
}

#[test]
fn what_a_token_says_of_itself_does_not_steer_the_terminal() {
    let tokens = Tokens::new().through_shim("steers-terminal");
    assert_data_eq!(
        tokens.pubkey("pkcs11:token=X;object=alice").transcript(),
        str![[r#"
--- exit 3
error: cannot open pkcs11:token=X;object=alice
  caused by: no token matches
  caused by: found: "T" (\u{1b}[2JHSM project, \u{1b}[2JHSM v2, serial=\u{1b}[2J)
hint: correct token= or serial=; to use another module, add ?module-path=PATH

"#]]
        .raw()
    );
}

#[test]
fn a_hidden_key_is_found_with_the_login_that_then_signs() {
    let tokens = Tokens::new().with_alice().through_shim("");
    tokens.delete_public("01");
    tokens.write_public("alice.pem", "alice", "01", &["--private"]);
    let hidden = tokens.pubkey("pkcs11:token=T;object=alice");
    assert_eq!(hidden.code, 3, "{hidden:?}");
    assert_eq!(tokens.calls("C_Login"), 0);
    let run = tokens.sign("pkcs11:token=T;object=alice?pin-env=PIN");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(tokens.calls("C_Login"), 1);
    let args = ["sign", "--key", "pkcs11:token=T;object=alice", "x"];
    let command = tokens.qkey.command_with_terminal(args);
    let mut session = Terminal::new().start(command);
    session.answer("Enter the PIN of the token \"T\"", PIN);
    assert_eq!(session.end().output.status.code(), Some(0));
    assert_eq!(tokens.calls("C_Login"), 2);
}

#[test]
fn what_a_token_says_of_its_pin_is_heeded() {
    let faults = [
        "final-try",
        "locked",
        "no-pin",
        "count-low",
        "pin-locked",
        "pin-expired",
    ];
    let said = under_faults(
        |tokens, source| {
            let run = tokens.sign(source);
            Run {
                stdout: String::new(),
                ..run
            }
        },
        "pkcs11:token=T;object=alice?pin-env=PIN",
        &faults,
    );
    assert_data_eq!(said, str![[r#"
==== final-try
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" allows one more PIN attempt before it locks
hint: remove the pin attributes to be prompted, or log in once with the token's own tool
==== locked
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" is locked after too many wrong PINs
hint: unblock it with the SO PIN or PUK, using the token's own tool
==== no-pin
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" has no user PIN
hint: set one with the token's own tool, as in `pkcs11-tool --module [SHIM] --token-label T --login --login-type so --init-pin`
==== count-low
--- exit 0
warning: the token "T" has seen a wrong PIN recently; a few wrong PINs lock it
==== pin-locked
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Login failed with CKR_PIN_LOCKED
hint: unblock the token's PIN with its SO PIN or PUK, using the token's own tool
==== pin-expired
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Login failed with CKR_PIN_EXPIRED
hint: set a new PIN with the token's own tool

"#]].raw());
}

#[test]
fn only_a_person_who_knows_may_use_the_last_try() {
    let tokens = Tokens::new().with_alice().through_shim("final-try");
    assert_eq!(
        tokens.sign("pkcs11:token=T;object=alice?pin-env=PIN").code,
        3
    );
    assert_eq!(tokens.calls("C_Login"), 0);
    let command =
        tokens
            .qkey
            .command_with_terminal(["sign", "--key", "pkcs11:token=T;object=alice", "x"]);
    let mut session = Terminal::new().start(command);
    session.answer("Enter the PIN of the token \"T\"", PIN);
    let ended = session.end();
    let run = tokens.qkey.taken(&ended.output);
    assert_eq!(run.code, 0, "{run:?}");
    assert_data_eq!(
        run.stderr,
        str![[r#"
warning: last attempt: the token "T" locks if the PIN is wrong

"#]]
        .raw()
    );
}

#[test]
fn a_pin_is_given_on_the_keypad_of_a_reader_that_has_one() {
    let tokens = Tokens::new().with_alice().through_shim("pinpad");
    let run = tokens.sign("pkcs11:token=T;object=alice");
    assert_eq!(run.code, 0, "{run:?}");
    assert_data_eq!(
        run.stderr,
        str![[r#"
warning: enter the PIN of the token "T" on the reader's keypad

"#]]
        .raw()
    );
    assert_eq!(tokens.calls("C_Login on the keypad"), 1);
    tokens.expect_signature("pkcs11:token=T;object=alice?pin-env=PIN");
    assert_eq!(tokens.calls("C_Login"), 1);
    assert_data_eq!(
        tokens
            .run(&["--no-input", "sign", "--key", "pkcs11:object=alice", "x"])
            .transcript(),
        str![[r#"
--- exit 3
error: pkcs11:object=alice needs a PIN, but --no-input forbids prompting
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source

"#]].raw()
    );
}

#[test]
fn a_key_may_want_the_pin_for_each_signature() {
    let tokens = Tokens::new()
        .with_alice()
        .through_shim("always-authenticate");
    tokens.expect_signature("pkcs11:token=T;object=alice?pin-env=PIN");
    assert_eq!(tokens.calls("C_Login"), 2);
}

#[test]
fn modules_have_their_ways() {
    for fault in ["bare-point", "already-initialized", "cant-lock"] {
        let tokens = Tokens::new().with_alice().through_shim(fault);
        assert_eq!(
            tokens.pubkey("pkcs11:token=T;object=alice").stdout.trim(),
            ALICE_PUBLIC
        );
        tokens.expect_signature("pkcs11:token=T;object=alice?pin-env=PIN");
    }
}

#[test]
fn a_key_that_cannot_serve_is_refused() {
    let tokens = Tokens::new();
    tokens.make("EC:secp384r1", "p384", "03");
    tokens.make("EC:secp256k1", "bitcoin", "04");
    tokens.make("rsa:2048", "rsa", "05");
    let mut said = tokens.each(
        Tokens::pubkey,
        &[
            "pkcs11:object=p384",
            "pkcs11:object=bitcoin",
            "pkcs11:object=rsa",
        ],
    );
    said += &under_faults(
        Tokens::sign,
        "pkcs11:token=T;object=alice?pin-env=PIN",
        &["no-sign"],
    );
    // Only the public half is there.
    tokens.write_public("alice.pem", "half", "06", &[]);
    said += &tokens.each(Tokens::sign, &["pkcs11:token=T;object=half?pin-env=PIN"]);
    assert_data_eq!(
        said,
        str![[r#"
==== pkcs11:object=p384
--- exit 3
error: cannot use pkcs11:object=p384
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
hint: create a P-256 key: `qkey generate 'pkcs11:token=T;object=NEW'`
==== pkcs11:object=bitcoin
--- exit 3
error: cannot use pkcs11:object=bitcoin
  caused by: the public key is on the curve secp256k1, not P-256
hint: create a P-256 key: `qkey generate 'pkcs11:token=T;object=NEW'`
==== pkcs11:object=rsa
--- exit 3
error: cannot use pkcs11:object=rsa
  caused by: the public key is RSA, not ECDSA P-256
hint: create a P-256 key: `qkey generate 'pkcs11:token=T;object=NEW'`
==== no-sign
--- exit 3
error: cannot use pkcs11:token=T;object=alice?pin-env=PIN
  caused by: "alice" id=%01 (private EC) cannot sign: its CKA_SIGN is false
hint: use a key that was created for signing
==== pkcs11:token=T;object=half?pin-env=PIN
--- exit 3
error: cannot use pkcs11:token=T;object=half?pin-env=PIN
  caused by: the token "T" has only the public key
hint: the private key must be on the token with the same label and id

"#]]
        .raw()
    );
}

#[test]
fn a_module_that_does_not_sign_is_told_from_one_that_signs_something_else() {
    let said = under_faults(
        Tokens::sign,
        "pkcs11:token=T;object=alice?pin-env=PIN",
        &["sign-der", "sign-garbage", "sign-empty", "device-removed"],
    );
    assert_data_eq!(
        said,
        str![[r#"
==== sign-der
--- exit 3
error: cannot use pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Sign returned ASN.1 DER
  caused by: 8 bytes instead of 64 (r and s)
hint: CKM_ECDSA must return r and s, 32 bytes each: try a newer module
==== sign-garbage
--- exit 3
error: pkcs11:token=T;object=alice?pin-env=PIN returned a signature that does not verify
hint: check that the key source signs with the key that it reports, over SHA-256
==== sign-empty
--- exit 3
error: cannot use pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Sign returned (nothing)
  caused by: 0 bytes instead of 64 (r and s)
hint: CKM_ECDSA must return r and s, 32 bytes each: try a newer module
==== device-removed
--- exit 3
error: cannot sign with pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Sign failed with CKR_DEVICE_REMOVED
hint: insert the token and run this again

"#]]
        .raw()
    );
}

#[test]
fn nothing_is_sent_with_a_garbage_signature() {
    let mock = Mock::new();
    let tokens = Tokens::with_mock(&mock)
        .with_alice()
        .through_shim("sign-garbage");
    let source = "pkcs11:token=T;object=alice?pin-env=PIN";
    assert_data_eq!(
        tokens
            .run(&["add", "--name", "n", "--key", source])
            .transcript(),
        str![[r#"
--- exit 3
error: the signature from pkcs11:token=T;object=alice?pin-env=PIN does not verify with its own public key
hint: nothing was sent; check that the key source signs SHA-256 with the key that it shows

"#]].raw()
    );
    assert_eq!(mock.count("fs_security_add_key"), 0);
}

#[test]
fn a_module_that_crashes_ends_qkey_before_anything_is_sent() {
    let mock = Mock::new();
    let tokens = Tokens::with_mock(&mock).with_alice().through_shim("crash");
    let source = "pkcs11:token=T;object=alice?pin-env=PIN";
    let run = tokens.run(&["add", "--name", "n", "--key", source]);
    assert_eq!(run.code, 1, "{run:?}");
    let said = "qkey aborted: out of memory, or a PKCS#11 module failed";
    assert!(run.stderr.contains(said), "{run:?}");
    assert_eq!(mock.count("fs_security_add_key"), 0);
}

#[test]
fn a_module_that_hangs_is_given_up() {
    let said = under_faults(
        |tokens, source| tokens.run(&["--timeout", "1", "sign", "--key", source, "x"]),
        "pkcs11:token=T;object=alice?pin-env=PIN",
        &["hang-initialize", "hang-login", "hang-sign"],
    );
    assert_data_eq!(
        said,
        str![[r#"
==== hang-initialize
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the module did not respond within 1 s
hint: check the token and the service behind its module, or allow more time with --timeout SECONDS
==== hang-login
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the module did not respond within 1 s
hint: check the token and the service behind its module, or allow more time with --timeout SECONDS
==== hang-sign
--- exit 3
error: cannot sign with pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the module did not respond within 1 s
hint: check the token and the service behind its module, or allow more time with --timeout SECONDS

"#]]
        .raw()
    );
}

#[test]
fn a_module_that_hangs_is_waited_for_once() {
    let mock = Mock::new();
    let tokens = Tokens::with_mock(&mock)
        .with_alice()
        .through_shim("hang-initialize");
    let [old, new] = ["alice", "bob"].map(|key| format!("pkcs11:token=T;object={key}"));
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    let run = tokens.run(&[
        "--timeout",
        "3",
        "replace",
        "--key-id",
        "1",
        "--old-key",
        &old,
        "--new-key",
        &new,
    ]);
    assert_eq!(run.code, 3, "{run:?}");
    assert_eq!(tokens.calls("hang-initialize"), 1);
}

#[test]
fn a_signal_ends_a_module_that_hangs() {
    let mut tokens = Tokens::new().with_alice();
    let mut said = String::new();
    for fault in ["hang-initialize", "hang-login", "hang-sign"] {
        tokens = tokens.through_shim(fault);
        let source = "pkcs11:token=T;object=alice?pin-env=PIN";
        let child = tokens.qkey.command(["sign", "--key", source, "x"]).spawn();
        let child = child.expect("qkey runs");
        wait_until("a call that hangs", || tokens.calls(fault) == 1);
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::INT).expect("it runs");
        let output = child.wait_with_output().expect("qkey ends");
        said += &format!("==== {fault}\n{}", tokens.qkey.taken(&output).transcript());
    }
    assert_data_eq!(
        said,
        str![[r#"
==== hang-initialize
--- exit 130
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN: interrupted
==== hang-login
--- exit 130
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN: interrupted
==== hang-sign
--- exit 130
error: cannot sign with pkcs11:token=T;object=alice?pin-env=PIN: interrupted

"#]]
        .raw()
    );
}

#[test]
fn without_a_token_the_error_says_how_to_get_one() {
    let tokens = Tokens::new();
    fs::remove_dir_all(tokens.qkey.path("tokens")).expect("it was there");
    fs::create_dir(tokens.qkey.path("tokens")).expect("an empty folder");
    let mut said = tokens.each(Tokens::pubkey, &["pkcs11:token=T;object=alice"]);
    said += &tokens
        .run(&["generate", "pkcs11:token=T;object=new?pin-env=PIN"])
        .transcript();
    assert_data_eq!(said, str![[r#"
==== pkcs11:token=T;object=alice
--- exit 3
error: cannot open pkcs11:token=T;object=alice
  caused by: no token found
hint: insert the token, or initialize one, as in `softhsm2-util --init-token --free --label TOKEN`; to use another module, add ?module-path=PATH
--- exit 3
error: cannot open pkcs11:token=T;object=new?pin-env=PIN
  caused by: no token found
hint: insert the token, or initialize one, as in `softhsm2-util --init-token --free --label TOKEN`; to use another module, add ?module-path=PATH

"#]].raw());
}

#[test]
fn a_key_is_made_on_a_token_and_never_over_another() {
    let tokens = Tokens::new();
    let generate = |source: &str| tokens.run(&["generate", source]);
    let made = tokens.run(&[
        "--output",
        "json",
        "generate",
        "pkcs11:token=T;object=lock%202026?pin-env=PIN",
    ]);
    let made: Value = made.json();
    let source = made["source"].as_str().expect("a source").to_owned();
    let (before, rest) = source.split_at("pkcs11:token=T;object=lock%202026;id=".len());
    assert_eq!(before, "pkcs11:token=T;object=lock%202026;id=");
    assert_eq!(
        rest.len(),
        "%01".len() * 8 + "?pin-env=PIN".len(),
        "{source}"
    );
    assert_eq!(tokens.pubkey(&source).stdout.trim(), made["public_key"]);
    tokens.expect_signature(&source);

    let shown = must_run(
        tokens
            .pkcs11_tool("T")
            .args(["--login", "--pin", PIN, "-O"]),
    );
    let private = shown
        .split("Private Key Object; EC")
        .nth(1)
        .expect("a private key");
    let usage: Vec<&str> = private
        .lines()
        .filter(|line| line.contains(':'))
        .take(4)
        .collect();
    assert_eq!(usage[0].trim(), "label:      lock 2026");
    assert_eq!(usage[2].trim(), "Usage:      sign");
    assert_eq!(
        usage[3].trim(),
        "Access:     sensitive, always sensitive, never extractable, local"
    );

    let mut said = String::new();
    let named = "pkcs11:token=T;object=named;id=%0a%0B?pin-env=PIN";
    for source in [
        named,
        named,
        "pkcs11:token=T;object=other;id=%0a%0b?pin-env=PIN",
        "pkcs11:token=T;id=%0c?pin-env=PIN",
        "pkcs11:token=U;object=new?pin-env=PIN",
        "pkcs11:token=T;object=new",
        "pkcs11:token=T;object=new?pin-value=4321",
    ] {
        let run = generate(source);
        let fingerprint = run.stdout.lines().find(|line| line.contains("SHA256:"));
        let fingerprint = fingerprint.unwrap_or("  SHA256:none").to_owned();
        let text = run.transcript().replace(&fingerprint, "  SHA256:[…]");
        said += &format!("==== {source}\n{text}");
    }
    said += &tokens
        .run(&["generate", "--format", "sec1", "pkcs11:token=T;object=new"])
        .transcript();
    tokens.initialize("U");
    said += &generate("pkcs11:object=new?pin-env=PIN").transcript();
    assert_data_eq!(said, str![[r#"
==== pkcs11:token=T;object=named;id=%0a%0B?pin-env=PIN
Generated private key pkcs11:token=T;object=named;id=%0A%0B?pin-env=PIN
  SHA256:[…]
Store its public half with `qkey add --name NAME --key 'pkcs11:token=T;object=named;id=%0A%0B?pin-env=PIN'`.
==== pkcs11:token=T;object=named;id=%0a%0B?pin-env=PIN
--- exit 3
error: cannot create a key in pkcs11:token=T;object=named;id=%0a%0B?pin-env=PIN
  caused by: the token "T" already has "named" id=%0A%0B (private EC); "named" id=%0A%0B (public EC P-256)
hint: qkey never replaces a key: choose another object= or id=
==== pkcs11:token=T;object=other;id=%0a%0b?pin-env=PIN
--- exit 3
error: cannot create a key in pkcs11:token=T;object=other;id=%0a%0b?pin-env=PIN
  caused by: the token "T" already has "named" id=%0A%0B (private EC); "named" id=%0A%0B (public EC P-256)
hint: qkey never replaces a key: choose another object= or id=
==== pkcs11:token=T;id=%0c?pin-env=PIN
--- exit 2
error: "pkcs11:token=T;id=%0c?pin-env=PIN" has no name for the new key
hint: add object=NAME to the URI
==== pkcs11:token=U;object=new?pin-env=PIN
--- exit 3
error: cannot open pkcs11:token=U;object=new?pin-env=PIN
  caused by: no token matches
  caused by: found: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: correct token= or serial=; to use another module, add ?module-path=PATH
==== pkcs11:token=T;object=new
--- exit 3
error: pkcs11:token=T;object=new needs a PIN, and there is no terminal to prompt on
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source
==== pkcs11:token=T;object=new?pin-value=4321
--- exit 3
error: cannot open pkcs11:token=T;object=new?pin-value=…
  caused by: the token "T" refused the PIN
  caused by: C_Login failed with CKR_PIN_INCORRECT
hint: it was tried once; check the PIN before running this again: a token locks after a few wrong PINs
--- exit 2
error: --format and --encrypt apply only to key files, not to pkcs11
hint: omit them
--- exit 3
error: cannot open pkcs11:object=new?pin-env=PIN
  caused by: 2 tokens match: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= to name one; no PIN is tried on a token that may be the wrong one

"#]].raw());
    assert_eq!(
        shown.matches("Private Key Object").count() + 1,
        must_run(
            tokens
                .pkcs11_tool("T")
                .args(["--login", "--pin", PIN, "-O"])
        )
        .matches("Private Key Object")
        .count()
    );
}

#[test]
fn no_key_is_made_on_a_write_protected_token() {
    let tokens = Tokens::new().through_shim("write-protected");
    assert_data_eq!(
        tokens
            .run(&["generate", "pkcs11:token=T;object=new?pin-env=PIN"])
            .transcript(),
        str![[r#"
--- exit 3
error: cannot open pkcs11:token=T;object=new?pin-env=PIN
  caused by: the token "T" is write-protected
hint: choose another token

"#]]
        .raw()
    );
}

/// A simulated TPM, with the module of tpm2-pkcs11.
struct Tpm {
    swtpm: Swtpm,
    module: PathBuf,
}

impl Tpm {
    fn start(folder: &Path) -> Self {
        let module = library(&[
            &format!(
                "/usr/lib/{}-linux-gnu/pkcs11/libtpm2_pkcs11.so",
                std::env::consts::ARCH
            ),
            "/usr/lib64/pkcs11/libtpm2_pkcs11.so",
        ]);
        for name in ["state", "store"] {
            fs::create_dir(folder.join(name)).expect("a folder");
        }
        Self {
            swtpm: Swtpm::start(&folder.join("state")),
            module,
        }
    }

    /// With an empty token `T`.
    fn with_token(folder: &Path) -> Self {
        let tpm = Self::start(folder);
        tpm.tool(
            folder,
            &[
                "--slot-index=0",
                "--init-token",
                "--label=T",
                "--so-pin",
                SO_PIN,
            ],
        );
        tpm.tool(
            folder,
            &[
                "--token-label=T",
                "--login",
                "--login-type=so",
                "--init-pin",
                "--so-pin",
                SO_PIN,
                "--new-pin",
                PIN,
            ],
        );
        tpm
    }

    fn tool(&self, folder: &Path, args: &[&str]) {
        must_run(
            Command::new("pkcs11-tool")
                .arg("--module")
                .arg(&self.module)
                .args(args)
                .env("TPM2_PKCS11_TCTI", self.swtpm.address())
                .env("TPM2_PKCS11_STORE", folder.join("store")),
        );
    }
}

#[test]
fn a_key_in_a_tpm_is_made_added_and_unlocks() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let folder = qkey.path("tpm");
    fs::create_dir(&folder).expect("a folder");
    let tpm = Tpm::with_token(&folder);
    let qkey = qkey
        .env("TPM2_PKCS11_TCTI", tpm.swtpm.address())
        .env(
            "TPM2_PKCS11_STORE",
            folder.join("store").to_str().expect("UTF-8"),
        )
        .env("PKCS11_MODULE", tpm.module.to_str().expect("UTF-8"))
        .env("PIN", PIN);
    let made = qkey.run([
        "--output",
        "json",
        "generate",
        "pkcs11:token=T;object=lock;id=%01?pin-env=PIN",
    ]);
    assert_eq!(made.code, 0, "{made:?}");
    let source = "pkcs11:token=T;object=lock;id=%01?pin-env=PIN";
    assert_eq!(made.json()["source"], source);
    assert_data_eq!(
        qkey.run(["generate", "pkcs11:token=T;object=lock?pin-env=PIN"])
            .transcript(),
        str![[r#"
--- exit 3
error: cannot create a key in pkcs11:token=T;object=lock?pin-env=PIN
  caused by: the token "T" already has "lock" id=%01 (private EC P-256); "lock" id=%01 (public EC P-256)
hint: qkey never replaces a key: choose another object= or id=

"#]].raw()
    );
    let added = qkey.run(["add", "--name", "tpm", "--key", source]);
    assert_eq!(added.code, 0, "{added:?}");
    assert_eq!(
        mock.public_key("1"),
        made.json()["public_key"].as_str().expect("Base64")
    );
    // More signatures than a TPM holds keys at a time.
    for id in 10..16 {
        mock.add_snapshot(id, "daily", Some("1"));
        let unlocked = qkey.run(["unlock", "--id", &id.to_string(), "--key", source]);
        assert_eq!(unlocked.code, 0, "{unlocked:?}");
        assert_eq!(mock.lock_key(id), None);
    }
    qkey.write("bob.pem", BOB);
    let replaced = qkey.run([
        "replace",
        "--key-id",
        "1",
        "--old-key",
        source,
        "--new-key",
        "bob.pem",
    ]);
    assert_eq!(replaced.code, 0, "{replaced:?}");
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}
