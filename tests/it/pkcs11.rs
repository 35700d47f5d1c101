//! Keys on PKCS#11 tokens: SoftHSM, a TPM (swtpm), and a module that misbehaves on request.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::support::{
    key_source::interrupted,
    mock::Mock,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, CAROL_PUBLIC, Qkey, Run},
    session::assert_session,
    shell::{self, prints},
    swtpm::Swtpm,
    terminal::{Ended, Terminal},
};
use snapbox::{IntoData, assert_data_eq, str};

const PIN: &str = "1234";
const ALICE: &str = "pkcs11:token=T;object=alice?pin-env=PIN";

/// The first of the usual places of a library.
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
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&shim);
        let status = compiler.arg(source).arg("-ldl").status();
        assert!(status.expect("cc runs").success());
        shim
    })
}

/// Replaces what differs from machine to machine and from run to run.
fn shown(text: &str) -> String {
    let text = [softhsm().canonicalize().expect("a path"), softhsm()]
        .iter()
        .fold(text.to_owned(), |text, path| {
            text.replace(&*path.to_string_lossy(), "[SOFTHSM]")
        })
        .replace(&*shim().to_string_lossy(), "[SHIM]");
    let mut pieces = text.split("serial=");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        let serial = if rest == piece { "" } else { "[SERIAL]" };
        format!("{text}serial={serial}{rest}")
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

    fn with(qkey: Qkey) -> Self {
        let folder = qkey.path("tokens");
        fs::create_dir(&folder).expect("a folder for tokens");
        let text = format!("directories.tokendir = {}\n", folder.display());
        let configuration = qkey.write("softhsm.conf", text);
        let module = softhsm().to_str().expect("UTF-8").to_owned();
        let tokens = Self {
            qkey: qkey
                .env("SOFTHSM2_CONF", configuration.to_str().expect("UTF-8"))
                .env("SOFTHSM", &module)
                .env("PKCS11_MODULE", &module)
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
        Self {
            qkey: self
                .qkey
                .env("PKCS11_MODULE", shim().to_str().expect("UTF-8"))
                .env("SHIM_REAL", softhsm().to_str().expect("UTF-8"))
                .env("SHIM_LOG", log.to_str().expect("UTF-8"))
                .env("SHIM_FAULTS", faults),
        }
    }

    fn initialize(&self, label: &str) {
        let init = "softhsm2-util --init-token --free --so-pin 12345678 --pin 1234 --label";
        prints(&self.qkey, &format!("{init} '{label}'"));
    }

    fn import(&self, token: &str, file: &str, label: &str, id: &str) {
        let import = "softhsm2-util --pin 1234 --import";
        let line = format!("{import} {file} --token '{token}' --label {label} --id {id}");
        prints(&self.qkey, &line);
    }

    /// Runs OpenSC's tool on the token `T`.
    fn tool(&self, arguments: &str) -> String {
        let tool = "pkcs11-tool --module $SOFTHSM --token-label T --login --pin 1234";
        prints(&self.qkey, &format!("{tool} {arguments} 2>&1"))
    }

    fn delete_public(&self, id: &str) {
        self.tool(&format!("--delete-object --type pubkey --id {id}"));
    }

    /// Stores the public half of Alice's key.
    fn write_public(&self, arguments: &str) {
        prints(
            &self.qkey,
            "openssl pkey -pubout -outform DER -in alice.pem -out PUBLIC.der",
        );
        self.tool(&format!(
            "--write-object PUBLIC.der --type pubkey {arguments}"
        ));
    }

    /// Whether the token says that its PIN was wrong lately.
    fn count_is_low(&self) -> bool {
        prints(&self.qkey, "pkcs11-tool --module $SOFTHSM -L").contains("count low")
    }

    fn run(&self, args: &[&str]) -> Run {
        self.qkey.run(args)
    }

    fn sign(&self, source: &str) -> Run {
        self.run(&["sign", "--key", source, "challenge"])
    }

    #[track_caller]
    fn assert_signs(&self, source: &str) {
        let line = "qkey verify --key 'KEY' --signature \"$(qkey sign --key 'KEY' x)\" x";
        prints(&self.qkey, &line.replace("KEY", source));
    }

    /// Runs a command line on a terminal, and types the PIN at its prompt.
    fn with_pin(&self, line: &str, pin: &str) -> Ended {
        let command = shell::command_with_terminal(&self.qkey, &format!("exec {line}"));
        let mut session = Terminal::new().start(command);
        session.answer("Enter the PIN of the token \"T\"", pin);
        session.end()
    }

    /// How often the shim saw a call.
    fn calls(&self, name: &str) -> usize {
        let log = fs::read_to_string(self.qkey.path("shim.log")).unwrap_or_default();
        log.lines().filter(|line| *line == name).count()
    }
}

#[test]
fn signing_needs_a_pin_and_the_public_key_none() {
    let tokens = Tokens::new().with_alice();
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey pubkey 'pkcs11:token=T;object=alice' --format base64
[ALICE]
$ qkey sign --key 'pkcs11:token=T;object=alice' x
--- exit 3
error: pkcs11:token=T;object=alice needs a PIN, and there is no terminal to prompt on
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source
$ qkey sign --key 'pkcs11:object=alice' x --no-input
--- exit 3, hint as above
error: pkcs11:object=alice needs a PIN, but --no-input forbids prompting

"#]]
    );
}

#[test]
fn uri_attributes_select_the_key() {
    let tokens = Tokens::new().with_alice();
    tokens.import("T", "bob.pem", "bob", "02");
    tokens.initialize("U V");
    tokens.import("U V", "carol.pem", "alice", "ff00");
    let list = "pkcs11-tool --module $SOFTHSM -L | grep -A 9 'token label *: T$' | sed -n 's/ *serial num *: //p'";
    let serial = prints(&tokens.qkey, list);
    let tokens = tokens.qkey.env("SERIAL", serial.trim());
    assert_session!(
        tokens,
        str![[r#"
$ qkey pubkey --format base64 'pkcs11:token=T;object=alice'
$ qkey pubkey --format base64 'pkcs11:token=T;object=alice;type=private'
$ qkey pubkey --format base64 "pkcs11:serial=$SERIAL;object=alice"
[ALICE]
$ qkey pubkey --format base64 'pkcs11:token=T;id=%02'
$ qkey pubkey --format base64 'pkcs11:token=T;object=bob;id=%02'
$ qkey pubkey --format base64 'pkcs11:object=bob'
$ qkey pubkey --format base64 'pkcs11:manufacturer=SoftHSM%20project;model=SoftHSM%20v2;id=%02'
$ qkey pubkey --format base64 'pkcs11:library-manufacturer=SoftHSM;slot-manufacturer=SoftHSM%20project;id=%02'
[BOB]
$ qkey pubkey --format base64 'pkcs11:token=U%20V;object=alice'
$ qkey pubkey --format base64 'pkcs11:token=U%20V'
$ qkey pubkey --format base64 'pkcs11:id=%ff%00'
[CAROL]
$ qkey pubkey 'pkcs11:object=alice'
--- exit 3
error: cannot open pkcs11:object=alice
  caused by: 2 tokens have a matching key: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U V" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= from this list to the URI
$ qkey pubkey 'pkcs11:token=T'
--- exit 3
error: cannot open pkcs11:token=T
  caused by: 2 keys on the token "T" match: "alice" id=%01 (public EC P-256); "bob" id=%02 (public EC P-256)
hint: add id= from this list to the URI
$ qkey pubkey 'pkcs11:token=X;object=alice'
--- exit 3
error: cannot open pkcs11:token=X;object=alice
  caused by: no token matches
  caused by: found: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U V" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: correct token= or serial=; to use another module, add ?module-path=PATH
$ qkey pubkey 'pkcs11:library-version=77.1'
--- exit 3, hint as above
error: cannot open pkcs11:library-version=77.1
  caused by: no token matches
  caused by: found: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U V" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
$ qkey pubkey 'pkcs11:object=carol?pin-env=PIN'
--- exit 3
error: cannot open pkcs11:object=carol?pin-env=PIN
  caused by: 2 tokens match: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U V" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= to name one; no PIN is tried on a token that may be the wrong one
$ qkey pubkey 'pkcs11:token=T;object=carol?pin-env=PIN'
--- exit 3
error: cannot open pkcs11:token=T;object=carol?pin-env=PIN
  caused by: the token "T" has no matching private key
  caused by: it has: "alice" id=%01 (private EC); "alice" id=%01 (public EC P-256); "bob" id=%02 (private EC); "bob" id=%02 (public EC P-256)
hint: correct object= and id=, or create the key: `qkey generate 'pkcs11:token=T;object=NEW'`
$ qkey pubkey 'pkcs11:token=T;object=alice;id=%02?pin-env=PIN'
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=alice;id=%02?pin-env=PIN
  caused by: the token "T" has no matching private key
  caused by: it has: "alice" id=%01 (private EC); "alice" id=%01 (public EC P-256); "bob" id=%02 (private EC); "bob" id=%02 (public EC P-256)

"#]],
        shown
    );
}

#[test]
fn malformed_uris_are_rejected() {
    assert_session!(
        Qkey::new(),
        str![[r#"
$ qkey pubkey 'pkcs11:' 2>&1 | head -1
error: "pkcs11:" is not a key source: nothing before the attributes
$ qkey pubkey 'pkcs11:alice'
--- exit 2
error: "pkcs11:alice" is not a key source: "alice" is not an attribute like token=NAME
hint: the syntax is pkcs11:token=T;object=O?module-path=M&pin-file=P
$ qkey pubkey 'pkcs11:label=alice'
--- exit 2, hint as above
error: "pkcs11:label=alice" is not a key source: unknown attribute "label" before `?`; known: token, manufacturer, serial, model, object, id, type, slot-id, slot-description, slot-manufacturer, library-description, library-manufacturer, library-version
$ qkey pubkey 'pkcs11:token=T;token=U'
--- exit 2, hint as above
error: "pkcs11:token=T;token=U" is not a key source: attribute "token" is given twice
$ qkey pubkey 'pkcs11:token=%zz'
--- exit 2, hint as above
error: "pkcs11:token=%zz" is not a key source: attribute "token": a `%` without two hex digits after it (write `%25`)
$ qkey pubkey 'pkcs11:token=%ff'
--- exit 2, hint as above
error: "pkcs11:token=%ff" is not a key source: attribute "token" does not decode to UTF-8
$ qkey pubkey 'pkcs11:type=cert;object=alice'
--- exit 2, hint as above
error: "pkcs11:type=cert;object=alice" is not a key source: type=cert is not a private key
$ qkey pubkey 'pkcs11:slot-id=one'
--- exit 2, hint as above
error: "pkcs11:slot-id=one" is not a key source: slot-id "one" is not a number
$ qkey pubkey 'pkcs11:token=T;pin-value=1234'
--- exit 2, hint as above
error: "pkcs11:token=T;pin-value=…" is not a key source: pin-value belongs after `?`
$ qkey pubkey 'pkcs11:object=alice?pin-valu=1234'
--- exit 2
error: "pkcs11:object=alice?pin-valu=…" is not a key source: unknown attribute "pin-valu"
hint: did you mean "pin-value"? pkcs11 takes module-path, module-name, pin-source, pin-value, pin-env, pin-file, pin-fd, pin-command; in a name, write `?` as %3F: pkcs11:…%3F…
$ qkey pubkey 'pkcs11:object=alice?pin-value=1234&pin-env=PIN'
--- exit 2
error: "pkcs11:object=alice?pin-value=…&pin-env=PIN" has more than one source for the PIN
hint: keep only one of the pin attributes
$ qkey pubkey 'pkcs11:object=alice?pin-file=a&pin-fd=3'
--- exit 2
error: "pkcs11:object=alice?pin-file=a&pin-fd=3" is not a key source: more than one source for the pin
$ qkey pubkey 'pkcs11:object=alice?pin-fd=x'
--- exit 2
error: "pkcs11:object=alice?pin-fd=x" is not a key source: pin-fd is not a file descriptor
hint: use a number, as in pin-fd=3

"#]]
    );
}

#[test]
fn module_is_found_by_path_name_and_variable() {
    let tokens = Tokens::new().with_alice().through_shim("");
    let [libraries, shims] = [&*softhsm(), shim()].map(|module| {
        let folder = module.parent().expect("a folder");
        folder.display().to_string()
    });
    fs::create_dir(tokens.qkey.path("modules")).expect("a folder");
    for place in ["libplanted.so", "modules/libplanted.so"] {
        fs::copy(shim(), tokens.qkey.path(place)).expect("a copy");
    }
    let qkey = tokens
        .qkey
        .env("LIBRARIES", &libraries)
        .env("SHIMS", &shims)
        .env("A", "pkcs11:token=T;object=alice");
    qkey.write("text.so", "no library");
    let shown = |text: &str| {
        let system = format!("/usr/lib/{}-linux-gnu/", std::env::consts::ARCH);
        let text = shown(text)
            .replace(&system, "[LIB]/")
            .replace(&shims, "[SHIMS]");
        // Where libraries are differs from system to system.
        let cut = |line: &str| match line.split_once(" in [LIB]") {
            Some((before, rest)) if rest.contains(", /usr/lib/softhsm, ") => {
                format!("{before} in [LIB], …, /usr/lib/softhsm, …\n")
            }
            _ => format!("{line}\n"),
        };
        text.lines().map(cut).collect()
    };
    // A module in the current directory is loaded only if its path says so.
    assert_session!(
        qkey,
        str![[r#"
$ unset PKCS11_MODULE; qkey pubkey --format base64 "$A"
$ PKCS11_MODULE= qkey pubkey --format base64 "$A?module-name=softhsm2"
$ PKCS11_MODULE= qkey pubkey --format base64 "$A?module-path=$SOFTHSM"
$ PKCS11_MODULE= qkey pubkey --format base64 "$A?module-path=$LIBRARIES&module-name=softhsm2"
$ PKCS11_MODULE= qkey pubkey --format base64 "$A?module-path=libsofthsm2.so"
$ PKCS11_MODULE=libsofthsm2.so qkey pubkey --format base64 "$A"
$ PKCS11_MODULE=/nowhere qkey pubkey --format base64 "$A?module-path=$SOFTHSM"
$ PKCS11_MODULE= qkey pubkey --format base64 "$A?module-path=./libplanted.so"
$ PKCS11_MODULE= qkey pubkey --format base64 "$A?module-path=modules/libplanted.so"
$ PKCS11_MODULE= qkey pubkey --format base64 "$A?module-path=./modules&module-name=planted"
$ PKCS11_MODULE=./libplanted.so qkey pubkey --format base64 "$A"
[ALICE]
$ PKCS11_MODULE= qkey pubkey "$A?module-path=libplanted.so"
--- exit 3
error: cannot open pkcs11:token=T;object=alice?module-path=libplanted.so
  caused by: no module libplanted.so in [LIB], …, /usr/lib/softhsm, …
hint: install the token's module (Debian: softhsm2, opensc-pkcs11, libtpm2-pkcs11-1, ykcs11), or set its path with ?module-path=PATH or PKCS11_MODULE
$ PKCS11_MODULE= qkey pubkey "$A?module-path=modules&module-name=planted"
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=alice?module-path=modules&module-name=planted
  caused by: no module modules in [LIB], …, /usr/lib/softhsm, …
$ PKCS11_MODULE= qkey pubkey "$A?module-name=planted"
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=alice?module-name=planted
  caused by: no module planted in [LIB], …, /usr/lib/softhsm, …
$ PKCS11_MODULE=libplanted.so qkey pubkey "$A"
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=alice
  caused by: no module libplanted.so in [LIB], …, /usr/lib/softhsm, …
$ qkey pubkey "$A?module-path=$SHIMS&module-name=x"
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=alice?module-path=[SHIMS]&module-name=x
  caused by: no module x in [SHIMS]
$ qkey pubkey "$A?module-path=$PWD/nowhere.so"
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=alice?module-path=[DIR]/nowhere.so
  caused by: no module [DIR]/nowhere.so
$ qkey pubkey "$A?module-path=$PWD/text.so"
--- exit 3
error: cannot open pkcs11:token=T;object=alice?module-path=[DIR]/text.so
  caused by: [DIR]/text.so is not a PKCS#11 module: [DIR]/text.so: file too short
hint: use the library that came with the token, as in ?module-path=[SOFTHSM]
$ qkey pubkey "$A?module-path=$PWD"
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=alice?module-path=[DIR]
  caused by: [DIR] is not a PKCS#11 module: [DIR]: cannot read file data: Is a directory
$ qkey pubkey "$A?module-path=libm.so.6"
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=alice?module-path=libm.so.6
  caused by: [LIB]/libm.so.6 is not a PKCS#11 module: it has no C_GetFunctionList

"#]],
        shown
    );
}

#[test]
fn pin_comes_from_value_variable_file_descriptor_or_command() {
    let tokens = Tokens::new().with_alice();
    let file = tokens.qkey.write("pin", "1234\n");
    let utf16 = b"\xff\xfe1\x002\x003\x004\0\r\0\n\0";
    tokens.qkey.write("utf-8-with-bom", "\u{feff}1234\r\n");
    tokens.qkey.write("utf-16", utf16);
    tokens.qkey.write("utf-16-without-bom", &utf16[2..10]);
    // Paths in the configuration file are relative to it.
    tokens.qkey.write(".config/qkey/pin.conf", "1234\n");
    tokens.qkey.configure(
        "[keys]\na.source = 'pkcs11:token=T;object=alice?pin-source=file:pin.conf'\n\
         b.source = 'pkcs11:token=T;object=alice?pin-file=pin.conf'\n",
    );
    let qkey = tokens
        .qkey
        .env("FILE", file.to_str().expect("UTF-8"))
        .env("A", "pkcs11:token=T;object=alice");
    assert_session!(
        qkey,
        str![[r#"
$ qkey sign --key "$A?pin-value=1234" x >/dev/null
$ qkey sign --key "$A?pin-value=%31%32%33%34" x >/dev/null
$ qkey sign --key "$A?pin-env=PIN" x >/dev/null
$ qkey sign --key "$A?pin-file=pin" x >/dev/null
$ qkey sign --key "$A?pin-file=utf-8-with-bom" x >/dev/null
$ qkey sign --key "$A?pin-file=utf-16" x >/dev/null
$ qkey sign --key "$A?pin-fd=3" x 3<pin >/dev/null
$ qkey sign --key "$A?pin-command=cat utf-16" x >/dev/null
$ qkey sign --key "$A?pin-command=echo%201234" x >/dev/null
$ qkey sign --key "$A?pin-source=pin" x >/dev/null
$ qkey sign --key "$A?pin-source=file:pin" x >/dev/null
$ qkey sign --key "$A?pin-source=file:$FILE" x >/dev/null
$ qkey sign --key "$A?pin-source=file://$FILE" x >/dev/null
$ qkey sign --key "$A?pin-source=|cat pin" x >/dev/null
$ qkey sign --key "$A?pin-source=%7Ccat%20pin" x >/dev/null
$ qkey sign --key a x >/dev/null
$ qkey sign --key b x >/dev/null
--- exit 0
$ qkey sign --key "$A?pin-env=NOWHERE" x
--- exit 3
error: cannot get the PIN of pkcs11:token=T;object=alice?pin-env=NOWHERE
  caused by: the environment variable NOWHERE is not set
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source
$ qkey sign --key "$A?pin-file=nowhere" x
--- exit 3, hint as above
error: cannot get the PIN of pkcs11:token=T;object=alice?pin-file=nowhere
  caused by: cannot read the PIN of the token "T", for pkcs11:token=T;object=alice?pin-file=nowhere in nowhere
  caused by: No such file or directory (os error 2)
$ qkey sign --key "$A?pin-source=|false" x
--- exit 3, hint as above
error: cannot get the PIN of pkcs11:token=T;object=alice?pin-source=…
  caused by: the command for the PIN of the token "T", for pkcs11:token=T;object=alice?pin-source=… failed
  caused by: `/bin/sh` exited with 1
$ qkey sign --key "$A?pin-file=utf-16-without-bom" x
--- exit 3
error: cannot get the PIN of pkcs11:token=T;object=alice?pin-file=utf-16-without-bom
  caused by: the PIN of the token "T", for pkcs11:token=T;object=alice?pin-file=utf-16-without-bom in utf-16-without-bom contains a NUL byte
hint: it was not tried; convert it to UTF-8 without NUL bytes
$ qkey sign --key "$A?pin-value=" x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-value=…
  caused by: the token "T" requires a PIN of 4 to 255 bytes; this one has 0
hint: it was not tried; check where the PIN comes from
$ qkey sign --key "$A?pin-value=123" x
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=alice?pin-value=…
  caused by: the token "T" requires a PIN of 4 to 255 bytes; this one has 3
$ pkcs11-tool --module $SOFTHSM -L | grep 'count low'
--- exit 1

"#]]
    );
}

#[test]
fn pin_in_a_uri_is_never_shown() {
    let tokens = Tokens::new().with_alice();
    let right = "pkcs11:token=T;object=alice?pin-value=98765";
    let configuration = format!("[keys.secret]\nsource = \"{right}\"\n");
    tokens.qkey.configure(&configuration);
    for line in [
        "sign --key ALICE x",
        "-vv sign --key ALICE x",
        "--output json sign --key ALICE x",
        "-vv sign --key secret x",
        "config show",
        "--output json config show",
        "pubkey pkcs11:object=alice?pin-value=98765&pin-value=98765",
        "pubkey pkcs11:object=alice?pin-value=98765%",
        "pubkey pkcs11:object=alice;pin-value=98765",
        "pubkey pkcs11:object=nothing?pin-value=98765",
        "pubkey pkcs12:object=nothing?pin-value=98765",
        "generate pkcs11:token=T;object=new?pin-value=98765",
        "generate pkcs11:token=T;object=new?pin-value=1234",
    ] {
        let said = tokens
            .qkey
            .run(line.replace("ALICE", right).split(' '))
            .transcript();
        assert!(
            !said.contains("98765") && !said.contains(PIN),
            "{line}: {said}"
        );
    }
}

#[test]
fn wrong_pin_is_tried_once() {
    let tokens = Tokens::new().with_alice().through_shim("");
    assert!(!tokens.count_is_low());
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey sign --key 'pkcs11:token=T;object=alice?pin-value=4321' x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-value=…
  caused by: the token "T" refused the PIN
  caused by: C_Login failed with CKR_PIN_INCORRECT
hint: it was tried once; check the PIN before running this again: a token locks after a few wrong PINs

"#]]
    );
    assert_eq!(tokens.calls("C_Login"), 1);
    assert!(tokens.count_is_low());
    // The right one resets the count.
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey sign --key 'pkcs11:token=T;object=alice?pin-env=PIN' x >/dev/null
--- exit 0
warning: the token "T" has seen a wrong PIN recently; a few wrong PINs lock it

"#]]
    );
    assert!(!tokens.count_is_low());
}

#[test]
fn wrong_pin_is_tried_once_for_many_snapshots() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    for faults in ["", "always-authenticate"] {
        let tokens = Tokens::with(Qkey::with_mock(&mock))
            .with_alice()
            .through_shim(faults);
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
fn unused_pin_is_an_error() {
    let tokens = Tokens::new().with_alice().through_shim("no-login");
    tokens.assert_signs("pkcs11:token=T;object=alice");
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey sign --key 'pkcs11:token=T;object=alice?pin-env=PIN' x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" signs without a login, so the PIN in the key source has no effect
hint: remove the pin-… attribute, or set a PIN with the token's own tool
$ qkey generate 'pkcs11:token=T;object=new?pin-env=PIN' 2>&1 | grep -o 'has no effect'
has no effect

"#]]
    );
    assert_eq!(tokens.calls("C_Login"), 0);
}

#[test]
fn keys_on_one_token_share_one_session_and_one_login() {
    let mock = Mock::new();
    let tokens = Tokens::with(Qkey::with_mock(&mock))
        .with_alice()
        .through_shim("");
    tokens.import("T", "bob.pem", "bob", "02");
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    for id in 1..=3 {
        mock.set_snapshot_field(id, "lock_key", "1");
    }
    let ids = ["unlock", "--id=1", "--id=2", "--id=3", "--jobs=3"];
    let run = tokens.run(&[&ids[..], &["--key", ALICE]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    let counts = ["C_OpenSession", "C_Login", "C_Sign"].map(|call| tokens.calls(call));
    assert_eq!(counts, [1, 1, 3]);

    let replace = |pin: &str| {
        let [old, new] = [("old", "alice"), ("new", "bob")]
            .map(|(flag, key)| format!("--{flag}-key=pkcs11:token=T;object={key}?{pin}"));
        tokens.run(&["replace", "--key-id=1", &old, &new])
    };
    for (pin, code, logins) in [("pin-value=4321", 3, 2), ("pin-env=PIN", 0, 3)] {
        let run = replace(pin);
        assert_eq!(
            (run.code, tokens.calls("C_Login")),
            (code, logins),
            "{run:?}"
        );
    }
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn no_pin_is_tried_for_a_key_that_does_not_match() {
    let mock = Mock::new();
    let tokens = Tokens::with(Qkey::with_mock(&mock))
        .with_alice()
        .through_shim("");
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
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey sign --key 'pkcs11:object=alice?pin-value=4321' x
--- exit 3
error: cannot open pkcs11:object=alice?pin-value=…
  caused by: the PIN was not tried: the URI does not name a token: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= from this list to the URI, or remove the pin attributes to be prompted
$ qkey sign --key 'pkcs11:object=hidden?pin-value=4321' x
--- exit 3, hint as above
error: cannot open pkcs11:object=hidden?pin-value=…
  caused by: the PIN was not tried: the URI does not name a token: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
$ qkey sign --key 'pkcs11:manufacturer=SoftHSM%20project;id=%01?pin-command=echo%204321' x
--- exit 3, hint as above
error: cannot open pkcs11:manufacturer=SoftHSM%20project;id=%01?pin-command=…
  caused by: the PIN was not tried: the URI does not name a token: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
$ qkey generate 'pkcs11:object=new?pin-value=4321'
--- exit 3, hint as above
error: cannot open pkcs11:object=new?pin-value=…
  caused by: the PIN was not tried: the URI does not name a token: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
$ qkey pubkey 'pkcs11:object=alice?pin-value=4321' --format base64
[ALICE]

"#]],
        shown
    );
    assert_eq!(tokens.calls("C_Login"), 0);
    // A person sees which token it is.
    tokens.with_pin("qkey sign --key pkcs11:object=hidden x", PIN);
    assert_eq!(tokens.calls("C_Login"), 1);
    // Two tokens may have the same label.
    tokens.initialize("T");
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey sign --key 'pkcs11:token=T;object=alice?pin-value=4321' x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-value=…
  caused by: 2 tokens match: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= to name one; no PIN is tried on a token that may be the wrong one

"#]],
        shown
    );
    assert_eq!(tokens.calls("C_Login"), 1);
}

/// The number of a slot means something only in a module that is named.
#[test]
fn slot_id_names_a_token_only_with_a_module() {
    let tokens = Tokens::new().with_alice();
    let list = "pkcs11-tool --module $SOFTHSM -L | grep -B 1 'token label *: T$' | sed -n 's/^Slot.*(\\(0x[0-9a-f]*\\)).*/\\1/p'";
    let slot = u64::from_str_radix(
        prints(&tokens.qkey, list).trim().trim_start_matches("0x"),
        16,
    );
    let slot = slot.expect("a number").to_string();
    let qkey = tokens.qkey.env("SLOT", &slot);
    let hidden = |text: &str| shown(text).replace(&slot, "[SLOT]");
    assert_session!(
        qkey,
        str![[r#"
$ qkey sign --key "pkcs11:slot-id=$SLOT;object=alice?pin-env=PIN" x >/dev/null
--- exit 0
$ unset PKCS11_MODULE; qkey sign --key "pkcs11:slot-id=$SLOT;object=alice?pin-env=PIN" x 2>&1 | grep -E '^(error|hint|  caused)'
error: cannot open pkcs11:slot-id=[SLOT];object=alice?pin-env=PIN
  caused by: the PIN was not tried: the URI does not name a token: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= from this list to the URI, or remove the pin attributes to be prompted

"#]],
        hidden
    );
}

#[test]
fn no_pin_is_tried_while_another_module_may_have_the_token() {
    let tokens = Tokens::new().with_alice();
    let folder = tokens.qkey.path("tpm");
    fs::create_dir(&folder).expect("a folder");
    let tpm = Tpm::with_token(&folder);
    let qkey = tokens
        .qkey
        .env("TPM2_PKCS11_TCTI", tpm.swtpm.address())
        .env("A", ALICE);
    // The module of the TPM writes lines of its own.
    let shown = |text: &str| {
        let is_ours = |line: &&str| !line.starts_with("WARNING") && !line.starts_with("ERROR");
        let lines = text
            .lines()
            .filter(is_ours)
            .map(|line| match line.split_once("; found: ") {
                Some((before, _)) => format!("{before}; found: …\n"),
                None => format!("{line}\n"),
            });
        shown(&lines.collect::<String>())
    };
    assert_session!(
        qkey,
        str![[r#"
$ unset PKCS11_MODULE; TPM2_PKCS11_STORE=/nowhere qkey pubkey "$A" --format base64 2>/dev/null
[ALICE]
$ unset PKCS11_MODULE; TPM2_PKCS11_STORE=/nowhere qkey sign --key "$A&module-name=softhsm2" x >/dev/null
--- exit 0
$ unset PKCS11_MODULE; TPM2_PKCS11_STORE=/nowhere qkey sign --key "$A" x 2>&1 | grep -E '^(error|hint|  caused by.*PIN)|C_Initialize failed with CKR_GENERAL_ERROR' | cut -c 1-100
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the PIN was not tried: another module may have the token; found: …
  caused by: /usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so: C_Initialize failed with CKR_GENERA
hint: name the token's module with ?module-path=PATH
$ unset PKCS11_MODULE; TPM2_PKCS11_STORE=tpm/store qkey sign --key "$A" x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: 2 tokens match: "T" (IBM, SW   TPM, serial=[SERIAL]); "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= to name one; no PIN is tried on a token that may be the wrong one

"#]],
        shown
    );
}

#[test]
fn person_is_prompted_for_the_pin_once() {
    let mock = Mock::new();
    let tokens = Tokens::with(Qkey::with_mock(&mock))
        .with_alice()
        .through_shim("");
    tokens.import("T", "bob.pem", "bob", "02");
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    let replace = "qkey replace --key-id 1 --old-key 'pkcs11:token=T;object=alice' --new-key 'pkcs11:token=T;object=bob'";
    for (pin, code, logins) in [("4321", 3, 1), (PIN, 0, 2)] {
        let ended = tokens.with_pin(replace, pin);
        assert_eq!(ended.output.status.code(), Some(code));
        assert!(ended.echoes);
        assert_eq!(tokens.calls("C_Login"), logins);
        let prompt = "Enter the PIN of the token \"T\", for pkcs11:token=T;object=";
        assert_eq!(ended.screen.matches(prompt).count(), 1, "{}", ended.screen);
    }
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn hidden_key_is_found_with_the_login_that_then_signs() {
    let tokens = Tokens::new().with_alice().through_shim("");
    tokens.delete_public("01");
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey pubkey 'pkcs11:token=T;object=alice'
--- exit 3
error: pkcs11:token=T;object=alice needs a PIN, and there is no terminal to prompt on
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source
$ qkey pubkey 'pkcs11:token=T;object=alice?pin-env=PIN'
--- exit 3
error: cannot use pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" has no public key for "alice" id=%01 (private EC)
hint: store its public half with the same id, as in `pkcs11-tool --module [SHIM] --token-label T --login --write-object PUBLIC.der --type pubkey --id 01 --label alice`

"#]],
        shown
    );
    tokens.write_public("--label alice --id 01 --private");
    let logins = tokens.calls("C_Login");
    assert_eq!(tokens.sign(ALICE).code, 0);
    assert_eq!(tokens.calls("C_Login"), logins + 1);
    let ended = tokens.with_pin("qkey sign --key 'pkcs11:token=T;object=alice' x", PIN);
    assert_eq!(ended.output.status.code(), Some(0));
    assert_eq!(tokens.calls("C_Login"), logins + 2);
}

#[test]
fn commands_in_hints_work() {
    let tokens = Tokens::new().with_alice();
    tokens.delete_public("01");
    tokens.write_public("--label other --id 02");
    let run_hinted = |stderr: &str, typed: &str| {
        let command = stderr.split('`').nth(1).expect("a command");
        prints(&tokens.qkey, &format!("{command} {typed} 2>&1"));
    };
    run_hinted(&tokens.run(&["pubkey", ALICE]).stderr, "--pin 1234");
    let public = tokens.run(&["pubkey", "--format=base64", "pkcs11:token=T;object=alice"]);
    assert_eq!(public.stdout.trim(), ALICE_PUBLIC, "{public:?}");

    let init =
        "pkcs11-tool --module $SOFTHSM --slot-index 1 --init-token --so-pin 12345678 --label";
    prints(&tokens.qkey, &format!("{init} \"it's new\" 2>&1"));
    let generate = ["generate", "pkcs11:token=it's%20new;object=new?pin-env=PIN"];
    let run = tokens.run(&generate);
    assert_data_eq!(shown(&run.transcript()), str![[r#"
--- exit 3
error: cannot open pkcs11:token=it's%20new;object=new?pin-env=PIN
  caused by: the token "it's new" has no user PIN
hint: set one with the token's own tool, as in `pkcs11-tool --module [SOFTHSM] --token-label 'it'\''s new' --login --login-type so --init-pin`

"#]].raw());
    run_hinted(&run.stderr, "--so-pin 12345678 --new-pin 1234");
    assert_eq!(tokens.run(&generate).code, 0);
}

/// Every fault but those of hanging: see `support/pkcs11_shim.c`.
#[test]
fn faults_of_tokens_and_modules_are_named() {
    let tokens = Tokens::new().with_alice().through_shim("");
    let qkey = tokens.qkey.env("A", ALICE);
    assert_session!(
        qkey,
        str![[r#"
$ SHIM_FAULTS=bare-point qkey sign --key "$A" x >/dev/null
$ SHIM_FAULTS=already-initialized qkey sign --key "$A" x >/dev/null
$ SHIM_FAULTS=cant-lock qkey sign --key "$A" x >/dev/null
--- exit 0
$ SHIM_FAULTS=count-low qkey sign --key "$A" x >/dev/null
--- exit 0
warning: the token "T" has seen a wrong PIN recently; a few wrong PINs lock it
$ SHIM_FAULTS=final-try qkey sign --key "$A" x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" allows one more PIN attempt before it locks
hint: remove the pin attributes to be prompted, or log in once with the token's own tool
$ SHIM_FAULTS=locked qkey sign --key "$A" x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" is locked after too many wrong PINs
hint: unblock it with the SO PIN or PUK, using the token's own tool
$ SHIM_FAULTS=no-pin qkey sign --key "$A" x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the token "T" has no user PIN
hint: set one with the token's own tool, as in `pkcs11-tool --module [SHIM] --token-label T --login --login-type so --init-pin`
$ SHIM_FAULTS=pin-locked qkey sign --key "$A" x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Login failed with CKR_PIN_LOCKED
hint: unblock the token's PIN with its SO PIN or PUK, using the token's own tool
$ SHIM_FAULTS=pin-expired qkey sign --key "$A" x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Login failed with CKR_PIN_EXPIRED
hint: set a new PIN with the token's own tool
$ SHIM_FAULTS=no-sign qkey sign --key "$A" x
--- exit 3
error: cannot use pkcs11:token=T;object=alice?pin-env=PIN
  caused by: "alice" id=%01 (private EC) cannot sign: its CKA_SIGN is false
hint: use a key that was created for signing
$ SHIM_FAULTS=sign-der qkey sign --key "$A" x
--- exit 3
error: cannot use pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Sign returned ASN.1 DER
  caused by: 8 bytes instead of 64 (r and s)
hint: CKM_ECDSA must return r and s, 32 bytes each: try a newer module
$ SHIM_FAULTS=sign-empty qkey sign --key "$A" x
--- exit 3, hint as above
error: cannot use pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Sign returned (nothing)
  caused by: 0 bytes instead of 64 (r and s)
$ SHIM_FAULTS=sign-garbage qkey sign --key "$A" x
--- exit 3
error: pkcs11:token=T;object=alice?pin-env=PIN returned a signature that does not verify
hint: check that the key source signs with the key that it reports, over SHA-256
$ SHIM_FAULTS=device-removed qkey sign --key "$A" x
--- exit 3
error: cannot sign with pkcs11:token=T;object=alice?pin-env=PIN
  caused by: C_Sign failed with CKR_DEVICE_REMOVED
hint: insert the token and run this again
$ SHIM_FAULTS=write-protected qkey generate 'pkcs11:token=T;object=new?pin-env=PIN'
--- exit 3
error: cannot open pkcs11:token=T;object=new?pin-env=PIN
  caused by: the token "T" is write-protected
hint: choose another token
$ SHIM_FAULTS=steers-terminal qkey pubkey 'pkcs11:token=X;object=alice'
--- exit 3
error: cannot open pkcs11:token=X;object=alice
  caused by: no token matches
  caused by: found: "T" (\u{1b}[2JHSM project, \u{1b}[2JHSM v2, serial=\u{1b}[2J)
hint: correct token= or serial=; to use another module, add ?module-path=PATH
$ rm -r tokens/*; qkey sign --key "$A" x
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: no token found
hint: insert the token, or initialize one, as in `softhsm2-util --init-token --free --label TOKEN`; to use another module, add ?module-path=PATH
$ qkey generate 'pkcs11:token=T;object=new?pin-env=PIN'
--- exit 3, hint as above
error: cannot open pkcs11:token=T;object=new?pin-env=PIN
  caused by: no token found

"#]],
        shown
    );
}

#[test]
fn last_pin_attempt_is_left_to_a_person() {
    let tokens = Tokens::new().with_alice().through_shim("final-try");
    assert_eq!(tokens.sign(ALICE).code, 3);
    assert_eq!(tokens.calls("C_Login"), 0);
    let ended = tokens.with_pin(
        "qkey sign --key 'pkcs11:token=T;object=alice' x >/dev/null",
        PIN,
    );
    assert_data_eq!(
        tokens.qkey.taken(&ended.output).transcript(),
        str![[r#"
--- exit 0
warning: last attempt: the token "T" locks if the PIN is wrong

"#]]
        .raw()
    );
}

#[test]
fn pin_is_entered_on_the_keypad_of_a_reader() {
    let tokens = Tokens::new().with_alice().through_shim("pinpad");
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey sign --key 'pkcs11:token=T;object=alice' x >/dev/null
--- exit 0
warning: enter the PIN of the token "T" on the reader's keypad
$ qkey sign --key 'pkcs11:object=alice' x --no-input 2>&1 | head -1
error: pkcs11:object=alice needs a PIN, but --no-input forbids prompting

"#]]
    );
    assert_eq!(tokens.calls("C_Login on the keypad"), 1);
    tokens.assert_signs(ALICE);
    assert_eq!(tokens.calls("C_Login"), 1);
}

#[test]
fn key_may_require_the_pin_for_each_signature() {
    let tokens = Tokens::new()
        .with_alice()
        .through_shim("always-authenticate");
    tokens.assert_signs(ALICE);
    assert_eq!(tokens.calls("C_Login"), 2);
}

#[test]
fn keys_other_than_p256_key_pairs_are_rejected() {
    let tokens = Tokens::new();
    for (key_type, label, id) in [
        ("EC:secp384r1", "p384", "03"),
        ("EC:secp256k1", "bitcoin", "04"),
        ("rsa:2048", "rsa", "05"),
    ] {
        tokens.tool(&format!(
            "--keypairgen --key-type {key_type} --label {label} --id {id}"
        ));
    }
    tokens.write_public("--label half --id 06");
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey pubkey 'pkcs11:object=p384'
--- exit 3
error: cannot use pkcs11:object=p384
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
hint: create a P-256 key: `qkey generate 'pkcs11:token=T;object=NEW'`
$ qkey pubkey 'pkcs11:object=bitcoin'
--- exit 3, hint as above
error: cannot use pkcs11:object=bitcoin
  caused by: the public key is on the curve secp256k1, not P-256
$ qkey pubkey 'pkcs11:object=rsa'
--- exit 3, hint as above
error: cannot use pkcs11:object=rsa
  caused by: the public key is RSA, not ECDSA P-256
$ qkey sign --key 'pkcs11:token=T;object=half?pin-env=PIN' x
--- exit 3
error: cannot use pkcs11:token=T;object=half?pin-env=PIN
  caused by: the token "T" has only the public key
hint: the private key must be on the token with the same label and id

"#]]
    );
}

#[test]
fn nothing_is_sent_after_a_garbage_signature_or_a_crash() {
    let mock = Mock::new();
    let tokens = Tokens::with(Qkey::with_mock(&mock))
        .with_alice()
        .through_shim("");
    let qkey = tokens.qkey.env("A", ALICE);
    // A crash may leave lines of its own.
    assert_session!(
        qkey,
        str![[r#"
$ SHIM_FAULTS=sign-garbage qkey add --name n --key "$A"
--- exit 3
error: the signature from pkcs11:token=T;object=alice?pin-env=PIN does not verify with its own public key
hint: nothing was sent; check that the key source signs SHA-256 with the key that it shows
$ SHIM_FAULTS=crash qkey add --name n --key "$A" 2>err; echo "exit $?"; grep '^error' err
exit 1
error: qkey aborted: out of memory, or a PKCS#11 module failed

"#]]
    );
    assert_eq!(mock.count("fs_security_add_key"), 0);
}

#[test]
fn hanging_module_ends_at_the_timeout_and_at_a_signal() {
    let mock = Mock::new();
    mock.add_key("lock", "", ALICE_PUBLIC);
    let mut tokens = Tokens::with(Qkey::with_mock(&mock)).with_alice();
    let mut said = String::new();
    for fault in ["hang-initialize", "hang-login", "hang-sign"] {
        tokens = tokens.through_shim(fault);
        let run = tokens.run(&["--timeout=1", "sign", "--key", ALICE, "x"]);
        said += &format!("==== {fault}\n{}", run.transcript());
        assert_eq!(tokens.calls(fault), 1);
        let args = ["sign", "--key", ALICE, "x"];
        let run = interrupted(&tokens.qkey, &args, || tokens.calls(fault) == 2);
        said += &run.transcript();
    }
    assert_data_eq!(
        said,
        str![[r#"
==== hang-initialize
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the module did not respond within 1 s
hint: check the token and the service behind its module, or allow more time with --timeout SECONDS
--- exit 130
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN: interrupted
==== hang-login
--- exit 3
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the module did not respond within 1 s
hint: check the token and the service behind its module, or allow more time with --timeout SECONDS
--- exit 130
error: cannot open pkcs11:token=T;object=alice?pin-env=PIN: interrupted
==== hang-sign
--- exit 3
error: cannot sign with pkcs11:token=T;object=alice?pin-env=PIN
  caused by: the module did not respond within 1 s
hint: check the token and the service behind its module, or allow more time with --timeout SECONDS
--- exit 130
error: cannot sign with pkcs11:token=T;object=alice?pin-env=PIN: interrupted

"#]]
        .raw()
    );
    // Two keys wait for it once.
    tokens = tokens.through_shim("hang-initialize");
    let run = tokens.run(&[
        "--timeout=1",
        "replace",
        "--key-id=1",
        "--old-key=pkcs11:token=T;object=alice",
        "--new-key=pkcs11:token=T;object=bob",
    ]);
    assert_eq!(run.code, 3, "{run:?}");
    assert_eq!(tokens.calls("hang-initialize"), 3);
}

#[test]
fn generate_creates_a_private_key_and_never_replaces_one() {
    let tokens = Tokens::new();
    let source = "pkcs11:token=T;object=lock%202026?pin-env=PIN";
    let made = tokens.run(&["--output=json", "generate", source]).json();
    let source = made["source"].as_str().expect("a source").to_owned();
    let (before, id) = source.split_once(";id=").expect("an id");
    assert_eq!(before, "pkcs11:token=T;object=lock%202026");
    assert_eq!(id.len(), "%01".len() * 8 + "?pin-env=PIN".len(), "{source}");
    let shown_key = tokens.run(&["pubkey", "--format=base64", &source]);
    assert_eq!(shown_key.stdout.trim(), made["public_key"]);
    tokens.assert_signs(&source);
    let objects = tokens.tool("-O");
    let (_, private) = objects
        .split_once("Private Key Object; EC")
        .expect("a private key");
    for line in [
        "label:      lock 2026",
        "Usage:      sign\n",
        "Access:     sensitive, always sensitive, never extractable, local",
    ] {
        assert!(private.contains(line), "{line}: {private}");
    }

    let new = |text: &str| {
        let mut parts = text.split("  SHA256:");
        let first = parts.next().unwrap_or_default().to_owned();
        let text = parts.fold(first, |text, part| text + "  SHA256:[NEW]" + &part[43..]);
        shown(&text)
    };
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey generate 'pkcs11:token=T;object=named;id=%0a%0B?pin-env=PIN'
Generated private key pkcs11:token=T;object=named;id=%0A%0B?pin-env=PIN
  SHA256:[NEW]
Store its public half with `qkey add --name NAME --key 'pkcs11:token=T;object=named;id=%0A%0B?pin-env=PIN'`.
$ qkey generate 'pkcs11:token=T;object=named;id=%0a%0B?pin-env=PIN'
--- exit 3
error: cannot create a key in pkcs11:token=T;object=named;id=%0a%0B?pin-env=PIN
  caused by: the token "T" already has "named" id=%0A%0B (private EC); "named" id=%0A%0B (public EC P-256)
hint: qkey never replaces a key: choose another object= or id=
$ qkey generate 'pkcs11:token=T;object=other;id=%0a%0b?pin-env=PIN'
--- exit 3, hint as above
error: cannot create a key in pkcs11:token=T;object=other;id=%0a%0b?pin-env=PIN
  caused by: the token "T" already has "named" id=%0A%0B (private EC); "named" id=%0A%0B (public EC P-256)
$ qkey generate 'pkcs11:token=T;id=%0c?pin-env=PIN'
--- exit 2
error: "pkcs11:token=T;id=%0c?pin-env=PIN" has no name for the new key
hint: add object=NAME to the URI
$ qkey generate 'pkcs11:token=U;object=new?pin-env=PIN'
--- exit 3
error: cannot open pkcs11:token=U;object=new?pin-env=PIN
  caused by: no token matches
  caused by: found: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: correct token= or serial=; to use another module, add ?module-path=PATH
$ qkey generate 'pkcs11:token=T;object=new'
--- exit 3
error: pkcs11:token=T;object=new needs a PIN, and there is no terminal to prompt on
hint: for unattended use, append ?pin-file=PATH (or pin-env=VAR, pin-fd=N, pin-command=COMMAND) to the key source
$ qkey generate 'pkcs11:token=T;object=new?pin-value=4321'
--- exit 3
error: cannot open pkcs11:token=T;object=new?pin-value=…
  caused by: the token "T" refused the PIN
  caused by: C_Login failed with CKR_PIN_INCORRECT
hint: it was tried once; check the PIN before running this again: a token locks after a few wrong PINs
$ qkey generate --format sec1 'pkcs11:token=T;object=new'
--- exit 2
error: --format and --encrypt apply only to key files, not to pkcs11
hint: omit them

"#]],
        new
    );
    tokens.initialize("U");
    assert_session!(
        tokens.qkey,
        str![[r#"
$ qkey generate 'pkcs11:object=new?pin-env=PIN'
--- exit 3
error: cannot open pkcs11:object=new?pin-env=PIN
  caused by: 2 tokens match: "T" (SoftHSM project, SoftHSM v2, serial=[SERIAL]); "U" (SoftHSM project, SoftHSM v2, serial=[SERIAL])
hint: add token= or serial= to name one; no PIN is tried on a token that may be the wrong one

"#]],
        shown
    );
    let count = |objects: &str| objects.matches("Private Key Object").count();
    assert_eq!(count(&tokens.tool("-O")), count(&objects) + 1);
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
        let init = [
            "--slot-index=0",
            "--init-token",
            "--label=T",
            "--so-pin=12345678",
        ];
        tpm.tool(folder, &init);
        let set_pin = [
            "--token-label=T",
            "--login",
            "--login-type=so",
            "--init-pin",
        ];
        let pins = ["--so-pin=12345678", "--new-pin=1234"];
        tpm.tool(folder, &[&set_pin[..], &pins].concat());
        tpm
    }

    fn tool(&self, folder: &Path, args: &[&str]) {
        let output = Command::new("pkcs11-tool")
            .arg("--module")
            .arg(&self.module)
            .args(args)
            .env("TPM2_PKCS11_TCTI", self.swtpm.address())
            .env("TPM2_PKCS11_STORE", folder.join("store"))
            .output();
        let output = output.expect("scripts/test-tools has installed it");
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}

#[test]
fn tpm_key_is_created_and_signs_many_times() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let folder = qkey.path("tpm");
    fs::create_dir(&folder).expect("a folder");
    let tpm = Tpm::with_token(&folder);
    let store = folder.join("store").display().to_string();
    let qkey = qkey
        .env("TPM2_PKCS11_TCTI", tpm.swtpm.address())
        .env("TPM2_PKCS11_STORE", &store)
        .env("PKCS11_MODULE", tpm.module.to_str().expect("UTF-8"))
        .env("PIN", PIN);
    let source = "pkcs11:token=T;object=lock;id=%01?pin-env=PIN";
    let made = qkey.run(["--output", "json", "generate", source]);
    assert_eq!(made.json()["source"], source);
    let again = qkey.run(["generate", "pkcs11:token=T;object=lock?pin-env=PIN"]);
    assert_data_eq!(again.transcript(), str![[r#"
--- exit 3
error: cannot create a key in pkcs11:token=T;object=lock?pin-env=PIN
  caused by: the token "T" already has "lock" id=%01 (private EC P-256); "lock" id=%01 (public EC P-256)
hint: qkey never replaces a key: choose another object= or id=

"#]].raw());
    mock.add_key(
        "tpm",
        "",
        made.json()["public_key"].as_str().expect("Base64"),
    );
    // More signatures than a TPM holds keys at a time.
    for id in 10..16 {
        mock.add_snapshot(id, "daily", Some("1"));
        let unlocked = qkey.run(["unlock", "--id", &id.to_string(), "--key", source]);
        assert_eq!(unlocked.code, 0, "{unlocked:?}");
        assert_eq!(mock.lock_key(id), None);
    }
}
