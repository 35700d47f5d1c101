//! Keys that the `openssl` program opens, the real one.

use std::fs;

use crate::support::{
    fake_kms::sign_digest,
    key_source::{assert_signs, with_program},
    qkey::{CAROL, Qkey, Run},
    session::assert_cases,
    shell::prints,
    swtpm::Swtpm,
    terminal::Terminal,
};
use sha2::{Digest, Sha256};
use snapbox::{IntoData, assert_data_eq, str};

/// Under the passphrase `test`; its encryption is in the provider `legacy` alone.
const RC2: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/keys/pkcs8-pbe-sha1-rc2-40.pem"
);

/// Under the passphrase `test`; what `39` decrypts it to has a right padding, which one wrong
/// passphrase in 256 gives, and is no key.
const PADDED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/fixtures/keys/pkcs8-pbe-sha1-2des.pem"
);

/// The run as a snapshot shows it, without OpenSSL's stack of errors, which differs from version to
/// version.
fn transcript(run: &Run) -> String {
    let program = which::which("openssl").expect("openssl is on PATH");
    let shown = run
        .transcript()
        .replace(&*program.to_string_lossy(), "openssl")
        .replace("[DIR]/bin/openssl", "openssl")
        .replace(env!("CARGO_MANIFEST_DIR"), "[REPO]")
        .replace("private key", "key");
    let lines = shown.lines().filter(|line| !line.contains(":error:"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// With Alice's key in files: in two encryptions under the passphrase `open sesame`, which is in the
/// file `passphrase`.
fn with_locked_keys() -> Qkey {
    let qkey = Qkey::new();
    qkey.write("passphrase", "open sesame\n");
    prints(
        &qkey,
        "openssl pkcs8 -topk8 -in alice.pem -passout file:passphrase -out pkcs8.pem
         openssl ec -aes256 -in alice.pem -passout file:passphrase -out sec1.pem",
    );
    qkey
}

#[test]
fn every_kind_of_key_file_signs() {
    let qkey = with_locked_keys();
    prints(&qkey, "openssl ec -in alice.pem -out 'a b?.pem'");
    qkey.write("test", "test");
    for source in [
        "openssl:alice.pem".to_owned(),
        "openssl:./a b%3F.pem".to_owned(),
        "openssl:pkcs8.pem?passphrase-file=passphrase".to_owned(),
        "openssl:sec1.pem?passphrase-command=cat%20passphrase".to_owned(),
        format!("openssl:{RC2}?provider=legacy,default&passphrase-file=test"),
    ] {
        assert_signs(&qkey, &source);
    }
}

#[test]
fn configured_path_is_relative_to_the_file() {
    let qkey = Qkey::new();
    let folder = qkey.path(".config/qkey");
    fs::create_dir_all(&folder).expect("a folder");
    fs::copy(RC2, folder.join("rc2.pem")).expect("a copy");
    qkey.write(".config/qkey/passphrase", "test");
    qkey.configure(
        "[keys.rc2]\nsource = \"openssl:rc2.pem?provider=legacy,default&passphrase-file=passphrase\"\n",
    );
    prints(&qkey, "qkey pubkey rc2");
}

#[test]
fn qkey_prompts_and_openssl_never_does() {
    let qkey = with_locked_keys();
    for file in ["pkcs8.pem", "sec1.pem"] {
        let source = format!("openssl:{file}");
        let args = ["sign", "--key", &source, "x"];
        let mut session = Terminal::new().start(qkey.command_with_terminal(args));
        let prompt = format!("Enter the passphrase of {file}: ");
        session.answer(&prompt, "wrong");
        session.answer(&prompt, "open sesame");
        let ended = session.end();
        let run = qkey.taken(&ended.output);
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(
            run.stderr,
            format!("warning: wrong passphrase for {file} (attempt 1 of 3)\n")
        );
        assert_eq!(ended.screen, format!("{prompt}\n{prompt}\n"));
    }
    let args = ["pubkey", "openssl:pkcs8.pem"];
    let mut session = Terminal::new().start(qkey.command_with_terminal(args));
    for _ in 0..3 {
        session.answer("Enter the passphrase of pkcs8.pem: ", "wrong");
    }
    let run = qkey.taken(&session.end().output);
    assert_data_eq!(
        transcript(&run),
        str![[r#"
--- exit 3
warning: wrong passphrase for pkcs8.pem (attempt 1 of 3)
warning: wrong passphrase for pkcs8.pem (attempt 2 of 3)
error: cannot open openssl:pkcs8.pem
  caused by: `openssl` exited with 1: Could not read key from pkcs8.pem
hint: to check the passphrase by hand, run `openssl pkey -noout -in pkcs8.pem`

"#]]
        .raw()
    );
}

/// What goes wrong when a key is opened.
fn failure(case: &str) -> String {
    let qkey = with_locked_keys();
    let pubkey = |source: &str| transcript(&qkey.run(["pubkey", source]));
    match case {
        "no passphrase" => pubkey("openssl:pkcs8.pem"),
        "wrong passphrase with a right padding" => {
            qkey.write("wrong", "39");
            pubkey(&format!("openssl:{PADDED}?passphrase-file=wrong"))
        }
        "long passphrase" => {
            qkey.write("long", "x".repeat(1024));
            pubkey("openssl:pkcs8.pem?passphrase-file=long")
        }
        "legacy encryption" => {
            qkey.write("test", "test");
            pubkey(&format!("openssl:{RC2}?passphrase-file=test"))
        }
        "no provider" => pubkey("openssl:alice.pem?provider=none,default"),
        "only another provider" => pubkey("openssl:alice.pem?provider=legacy"),
        "unknown URI" => pubkey("openssl:handle:0x81000001"),
        "no engine" => pubkey("openssl:alice.pem?engine=none"),
        "a public key" => {
            prints(&qkey, "openssl pkey -in alice.pem -pubout -out public.pem");
            pubkey("openssl:public.pem")
        }
        "no key" => pubkey("openssl:passphrase"),
        "P-384" => {
            prints(
                &qkey,
                "openssl ecparam -genkey -name secp384r1 -noout -out p384.pem",
            );
            pubkey("openssl:p384.pem")
        }
        "generate" => transcript(&qkey.run(["generate", "openssl:new.pem"])),
        other => panic!("{other}"),
    }
}

#[test]
fn failures_show_the_output_of_openssl_and_a_hint() {
    assert_cases!(
        str![[r#"
==== no passphrase
--- exit 3
error: openssl:pkcs8.pem is encrypted, and there is no terminal to prompt on
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source
==== wrong passphrase with a right padding
--- exit 3
error: cannot open openssl:[REPO]/fixtures/keys/pkcs8-pbe-sha1-2des.pem?passphrase-file=wrong
  caused by: `openssl` exited with 1: Could not read key from [REPO]/fixtures/keys/pkcs8-pbe-sha1-2des.pem
hint: to check the passphrase by hand, run `openssl pkey -noout -in [REPO]/fixtures/keys/pkcs8-pbe-sha1-2des.pem`
==== long passphrase
--- exit 3
error: cannot open openssl:pkcs8.pem?passphrase-file=long
  caused by: openssl accepts at most 1023 bytes of passphrase
hint: encrypt the key with a shorter passphrase
==== legacy encryption
--- exit 3
error: cannot open openssl:[REPO]/fixtures/keys/pkcs8-pbe-sha1-rc2-40.pem?passphrase-file=test
  caused by: `openssl` exited with 1: Could not read key from [REPO]/fixtures/keys/pkcs8-pbe-sha1-rc2-40.pem
hint: the key's encryption needs another provider: for an obsolete one, add ?provider=legacy,default to the key source
==== no provider
--- exit 3
error: cannot open openssl:alice.pem?provider=none,default
  caused by: `openssl` exited with 1: pkey: unable to load provider none
    Hint: use -provider-path option or OPENSSL_MODULES environment variable.
hint: install the provider, or set OPENSSL_MODULES to its directory; `openssl list -providers` lists the active ones
==== only another provider
--- exit 3
error: cannot open openssl:alice.pem?provider=legacy
  caused by: `openssl` exited with 1: Could not open file or uri for loading key from alice.pem
hint: this kind of key needs a provider: add ?provider=NAME,default to the key source (the provider default reads files)
==== unknown URI
--- exit 3, hint as above
error: cannot open openssl:handle:0x81000001
  caused by: `openssl` exited with 1: Could not open file or uri for loading key from handle:0x81000001
==== no engine
--- exit 3
error: cannot open openssl:alice.pem?engine=none
  caused by: `openssl` exited with 1: Invalid engine "none"
    No engine specified for loading key
    Could not read key from <stdin>
hint: install the engine, or set OPENSSL_ENGINES to its directory; if this OpenSSL does not support engines, use a provider
==== a public key
--- exit 3
error: cannot open openssl:public.pem
  caused by: `openssl` exited with 1: Could not read key from public.pem
hint: openssl cannot read a key there: try `openssl pkey -noout -in public.pem`
==== no key
--- exit 3
error: cannot open openssl:passphrase
  caused by: `openssl` exited with 1: Could not read key from passphrase
hint: openssl cannot read a key there: try `openssl pkey -noout -in passphrase`
==== P-384
--- exit 3
error: cannot use openssl:p384.pem
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
hint: name an ECDSA P-256 key in the key source
==== generate
--- exit 2
error: qkey cannot create a key in "openssl:new.pem"
hint: create the key with its own tool, or create a key file: `qkey generate PATH`

"#]],
        failure
    );
}

/// `qkey` with an `openssl` of its own: shell commands that see its arguments, and may go on to the
/// real one with `real`.
fn with_openssl(script: &str) -> Qkey {
    let real = which::which("openssl").expect("openssl is on PATH");
    let text = format!(
        "#!/bin/sh\nreal() {{ exec '{}' \"$@\"; }}\n{script}\n",
        real.display()
    );
    with_program(with_locked_keys(), "openssl", &text)
}

#[test]
fn tpm_key_signs_and_its_mistakes_have_hints() {
    let qkey = Qkey::new();
    let state = qkey.path("state");
    fs::create_dir(&state).expect("a folder");
    let tpm = Swtpm::start(&state);
    let qkey = qkey.env("TPM2OPENSSL_TCTI", tpm.address());
    let generate = "openssl genpkey -provider tpm2 -provider default -propquery '?provider=tpm2' \
                    -algorithm EC -pkeyopt group:P-256";
    prints(
        &qkey,
        &format!(
            "{generate} -out open.pem
             {generate} -pkeyopt user-auth:1234 -out locked.pem"
        ),
    );
    qkey.write("wrong", "1235");
    assert_signs(&qkey, "openssl:open.pem?provider=tpm2,default");
    let locked = "openssl:locked.pem?provider=tpm2,default";
    for (source, hint) in [
        (locked.to_owned(), "hint: for unattended use, append"),
        (
            format!("{locked}&passphrase-file=wrong"),
            "hint: the passphrase or PIN was tried only once",
        ),
        (
            "openssl:open.pem?provider=default,tpm2".to_owned(),
            "hint: name the provider that holds the key first",
        ),
        (
            "open.pem".to_owned(),
            "with the key source openssl:open.pem?provider=tpm2,default",
        ),
    ] {
        let run = qkey.run(["sign", "--key", &source, "x"]);
        assert_eq!(run.code, 3, "{run:?}");
        assert!(run.stderr.contains(hint), "{source}: {run:?}");
    }
}

#[test]
fn token_pin_is_prompted_for_once() {
    let qkey = with_openssl(
        "case $* in *-passin*) read -r pin; echo \"$pin\" >>pins; echo 'Could not read key' >&2;;
         *) echo 'error:1400006B:UI routines:UI_process:processing error' >&2;; esac; exit 1",
    );
    let args = ["pubkey", "openssl:pkcs11:object=x?provider=pkcs11"];
    let mut session = Terminal::new().start(qkey.command_with_terminal(args));
    session.answer("Enter the passphrase of pkcs11:object=x: ", "1234");
    let run = qkey.taken(&session.end().output);
    assert_data_eq!(
        transcript(&run),
        str![[r#"
--- exit 3
error: cannot open openssl:pkcs11:object=x?provider=pkcs11
  caused by: `openssl` exited with 1: Could not read key
hint: the passphrase or PIN was tried only once; check it before you run this again, because a token or TPM locks after a few wrong ones

"#]]
        .raw()
    );
    assert_eq!(fs::read_to_string(qkey.path("pins")).unwrap(), "1234\n");
}

#[test]
fn passphrase_is_piped_and_challenge_is_in_a_private_file() {
    let qkey = with_openssl(
        "echo \"$*\" | sed 's|/[^ ]*/qkey-[^ ]*|FILE|' >>calls; env >>environment
         for last; do :; done; case $last in /*/qkey-*) stat -c %a \"$last\" >>calls;; esac
         real \"$@\"",
    );
    let tmp = qkey.path("tmp");
    fs::create_dir(&tmp).expect("a folder");
    let qkey = qkey.env("TMPDIR", tmp.to_str().expect("UTF-8"));
    let source = "openssl:pkcs8.pem?provider=default&passphrase-file=passphrase";
    let run = qkey.run(["sign", "--key", source, "x"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_data_eq!(
        fs::read_to_string(qkey.path("calls")).unwrap(),
        str![[r#"
pkey -in pkcs8.pem -provider default -propquery ?provider=default -pubout
pkey -in pkcs8.pem -provider default -propquery ?provider=default -passin stdin -pubout
dgst -sign pkcs8.pem -provider default -propquery ?provider=default -passin stdin -sha256 FILE
600

"#]]
        .raw()
    );
    let environment = fs::read_to_string(qkey.path("environment")).unwrap();
    assert!(!environment.contains("sesame"), "{environment}");
    assert_eq!(fs::read_dir(&tmp).expect("a folder").count(), 0);
}

#[test]
fn engine_comes_with_its_key_form() {
    let qkey = with_openssl(
        "echo \"$*\" | sed 's|/[^ ]*/qkey-[^ ]*|FILE|' >>calls
         case $1 in pkey) real pkey -in alice.pem -pubout;; esac
         real dgst -sha256 -sign alice.pem \"$9\"",
    );
    let key = qkey.run(["sign", "--key=openssl:slot_0-id_1?engine=card", "x"]);
    assert_eq!(key.code, 0, "{key:?}");
    assert_data_eq!(
        fs::read_to_string(qkey.path("calls")).unwrap(),
        str![[r#"
pkey -in slot_0-id_1 -engine card -inform ENGINE -pubout
dgst -sign slot_0-id_1 -engine card -keyform ENGINE -sha256 FILE

"#]]
        .raw()
    );
}

#[test]
fn malformed_replies_are_shown() {
    let signature = sign_digest(CAROL, &Sha256::digest(b"x"));
    assert_cases!(
        str![[r#"
==== no public key
--- exit 3
error: cannot use openssl:alice.pem
  caused by: unexpected reply from `openssl` instead of a public key in PEM: oops
hint: the program `openssl` on PATH may not be OpenSSL
==== garbage
--- exit 3
error: cannot use openssl:alice.pem
  caused by: unexpected reply from `openssl` instead of a signature: garbage
hint: qkey expects ASN.1 DER
==== P1363
--- exit 3
error: cannot use openssl:alice.pem
  caused by: unexpected reply from `openssl` instead of a signature: d367f9b7e5d2c78d2db00672a84f1495401856dd551a14fbfb122cee4c2e32d5bd1ea166075acd9decc20f8a5db87fbe792ede4c3fe4194d6da3f2ca…
hint: qkey expects ASN.1 DER; this looks like r and s, 32 bytes each (IEEE P1363)

"#]],
        |case| {
            let qkey = match case {
                "no public key" => with_openssl("echo oops"),
                _ => with_openssl("case $1 in dgst) cat reply;; *) real \"$@\";; esac"),
            };
            match case {
                "garbage" => qkey.write("reply", b"garbage"),
                _ => qkey.write("reply", signature.to_bytes()),
            };
            transcript(&qkey.run(["sign", "--key=openssl:alice.pem", "x"]))
        }
    );
}
