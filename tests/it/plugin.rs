//! Plugins: the example that comes with `qkey`, and scripted ones that misbehave.

use std::{fs, path::Path};

use crate::support::{
    mock::Mock,
    qkey::{Qkey, is_alive, wait_until},
    session::{assert_cases, assert_session},
    shell::{command, command_with_terminal, prints, run},
    terminal::Terminal,
};
use rustix::process::{Pid, Signal, kill_process};
use snapbox::{IntoData, assert_data_eq, str};

/// Puts the folder `bin` and the examples on PATH.
fn with_plugins(qkey: Qkey) -> Qkey {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let path = std::env::var("PATH").expect("a PATH");
    let bin = qkey.path("bin").to_string_lossy().into_owned();
    fs::create_dir(&bin).expect("a folder");
    qkey.env("PATH", format!("{bin}:{examples}:{path}"))
}

/// Writes a plugin in shell that has read the hello and the request into `$hello` and `$request`,
/// and knows Alice's `$public_key` and a signature of hers over `lock-2026`.
fn write_plugin(qkey: &Qkey, name: &str, script: &str) {
    let public_key = crate::support::qkey::ALICE_PUBLIC;
    let text = format!(
        "#!/bin/sh
         IFS= read -r hello; IFS= read -r request
         public_key='\"public_key\":\"{public_key}\"'
         signature='\"signature\":\"{SIGNATURE}\"'
         {script}\n"
    );
    qkey.write_program(&format!("bin/qkey-signer-{name}"), &text);
}

/// A script that shows Alice's public key, and does something else when it is to sign.
fn when_it_signs(script: &str) -> String {
    format!(
        "case $request in
           *public-key*) echo \"{{\\\"version\\\":1,$public_key}}\"; exit;;
         esac
         {script}"
    )
}

/// Alice's over `lock-2026`.
const SIGNATURE: &str = "MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=";

const SIGN: &str = "qkey sign --key plugin:test:x lock-2026";

#[test]
fn example_signs_with_any_file_name() {
    let qkey = with_plugins(Qkey::new());
    prints(&qkey, "cp alice.pem \"it's Alice's key?.pem\"");
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey "plugin:example:it's Alice's key%3F.pem" --format base64
[ALICE]
$ qkey sign --key "plugin:example:it's Alice's key%3F.pem" x | qkey verify --key alice.pem --signature - x
Verified: SHA256:[ALICE] signed this challenge.

"#]]
    );
}

#[test]
fn example_explains_its_errors() {
    let qkey = with_plugins(Qkey::new());
    prints(
        &qkey,
        "openssl ec -in alice.pem -aes256 -passout pass:secret -out encrypted.pem
         openssl ecparam -name secp384r1 -genkey -noout -out p384.pem
         echo rubbish > rubbish.pem",
    );
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey plugin:example:encrypted.pem
--- exit 3
error: cannot open plugin:example:encrypted.pem
  caused by: qkey-signer-example replied unsupported: encrypted.pem is encrypted
hint: use the file directly: file:encrypted.pem
$ qkey pubkey plugin:example:p384.pem
--- exit 3
error: cannot use plugin:example:p384.pem
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
hint: name an ECDSA P-256 key in the key source
$ printf '{"qkey":"9","versions":[2]}\n{"method":"new"}\n' | qkey-signer-example
{"error": {"kind": "unsupported", "message": "this plugin supports only version 1 of the protocol"}, "version": 1}

"#]]
    );
    // openssl's own words differ from version to version.
    let run = run(&qkey, "qkey pubkey plugin:example:rubbish.pem");
    for words in [
        "caused by: qkey-signer-example replied failed: openssl exited with 1",
        "caused by: stderr: ",
        "rubbish.pem",
    ] {
        assert!(run.stderr.contains(words), "{run:?}");
    }
}

#[test]
fn malformed_sources_and_missing_plugins_are_errors() {
    let qkey = with_plugins(Qkey::new());
    qkey.write("bin/qkey-signer-plain", "#!/bin/sh\n");
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey plugin:test
--- exit 2
error: "plugin:test" is not a key source: it must name a plugin and a key
hint: write it as plugin:NAME:REFERENCE
$ qkey pubkey plugin:../bin/test:x
--- exit 2, hint as above
error: "plugin:../bin/test:x" is not a key source: a plugin's name has only lower-case letters, digits and hyphens
$ qkey pubkey 'plugin:test:x?slot=1'
--- exit 2
error: "plugin:test:x?slot=…" is not a key source: unknown attribute "slot"
hint: plugin takes no attributes; in a name, write `?` as %3F: plugin:…%3F…
$ qkey generate plugin:test:x 2>&1 | head -1
error: qkey cannot create a key in "plugin:test:x"
$ qkey pubkey plugin:plain:x
--- exit 3
error: cannot open plugin:plain:x
  caused by: `qkey-signer-plain` was not found
hint: put an executable qkey-signer-plain in a directory on PATH; docs/plugins.md describes how to write one

"#]]
    );
}

#[test]
fn plugin_gets_two_lines_of_json_and_the_environment() {
    let qkey = with_plugins(Qkey::new().env("TOKEN", "from the user"));
    write_plugin(
        &qkey,
        "test",
        &when_it_signs(
            "printf '%s\\n' \"$hello\" \"$request\" \"$# arguments\" \"$TOKEN\" >seen
             cat >>seen
             echo \"{\\\"version\\\":1,$signature}\"",
        ),
    );
    let line = "qkey sign --timeout 7 --key 'plugin:test:a \"b\": c%3F' lock-2026";
    assert_eq!(prints(&qkey, line).trim(), SIGNATURE);
    let seen = prints(&qkey, "cat seen").replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
    assert_data_eq!(
        seen,
        str![[r#"
{"qkey":"[VERSION]","versions":[1]}
{"method":"sign","reference":"a \"b\": c?","challenge":"bG9jay0yMDI2","timeout":7.0}
0 arguments
from the user

"#]]
        .raw()
    );
}

#[test]
fn errors_and_protocol_violations_are_shown() {
    let reply = |members: &str| format!("echo \"{{{members}}}\"").replace('\'', "\\\"");
    let error = |kind: &str| {
        reply(&format!(
            "'version':1,'error':{{'kind':'{kind}','message':'It is so.'}}"
        ))
    };
    let signed = |command: &str| {
        format!(
            "made=$(qkey sign --key {command}); {}",
            reply("'version':1,'signature':'$made'")
        )
    };
    let good = reply("'version':1,$signature");
    assert_cases!(
        str![[r#"
==== not-found
--- exit 3
error: cannot sign with plugin:test:x
  caused by: qkey-signer-test replied not-found: It is so.
hint: check what follows plugin:NAME: in the key source
==== denied
==== denied, with an exit code
--- exit 3
error: cannot sign with plugin:test:x
  caused by: qkey-signer-test replied denied: It is so.
hint: log in to the service that holds the key, or get the permission
==== denied, with a hint
--- exit 3
error: cannot sign with plugin:test:x
  caused by: qkey-signer-test replied denied: No.
hint: run it
==== denied, in another version
--- exit 3
error: cannot sign with plugin:test:x
  caused by: qkey-signer-test replied denied: It is so.
hint: log in to the service that holds the key, or get the permission
==== unsupported
--- exit 3
error: cannot sign with plugin:test:x
  caused by: qkey-signer-test replied unsupported: It is so.
hint: use an ECDSA P-256 key, or a newer version of the plugin
==== failed
--- exit 3
error: cannot sign with plugin:test:x
  caused by: qkey-signer-test replied failed: It is so.
hint: see the plugin's documentation
==== failed, with more on stderr
--- exit 3, hint as above
error: cannot sign with plugin:test:x
  caused by: qkey-signer-test replied failed: It is so.
  caused by: stderr: one
    two
==== a kind of later
--- exit 3, hint as above
error: cannot sign with plugin:test:x
  caused by: qkey-signer-test replied failed: It is so.
==== nothing
--- exit 3
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of one line of JSON: (nothing)
hint: the plugin does not follow the protocol in docs/plugins.md: tell its author
==== garbage
--- exit 3, hint as above
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of one line of JSON: Welcome to the card!
==== two lines
--- exit 3, hint as above
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of one line of JSON: {"version":1,"signature":"MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJd…
==== an error without words
--- exit 3, hint as above
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of one line of JSON: {"version":1,"error":{"kind":"failed"}}
==== no version
--- exit 3, hint as above
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of a reply with a version: {"signature":"MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY="}
==== another version
--- exit 3
error: cannot sign with plugin:test:x
  caused by: qkey-signer-test replied in version 2 of the plugin protocol; this qkey speaks 1
hint: update the plugin or qkey, whichever is older
==== no signature
--- exit 3
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of a reply with a signature: {"version":1}
hint: the plugin does not follow the protocol in docs/plugins.md: tell its author
==== a public key in its place
--- exit 3, hint as above
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of a reply with a signature: {"version":1,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/U…
==== an exit code
--- exit 3
error: cannot sign with plugin:test:x
  caused by: `[DIR]/bin/qkey-signer-test` exited with 3: out of order
==== killed
--- exit 3
error: cannot sign with plugin:test:x
  caused by: `[DIR]/bin/qkey-signer-test` was killed by signal 9
==== endless
--- exit 3
error: cannot sign with plugin:test:x
  caused by: `[DIR]/bin/qkey-signer-test` wrote more than 1 MiB and was killed
==== hangs
--- exit 3
error: cannot sign with plugin:test:x
  caused by: `[DIR]/bin/qkey-signer-test` did not finish within 3 s and was killed: touch the card
hint: check the plugin and the network, or raise --timeout SECONDS
==== not Base64
--- exit 3
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of a signature: ?
hint: qkey expects Base64 of ASN.1 DER
==== hexadecimal
--- exit 3
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of a signature: 3045022100ef45b4497e45d943452a367e6372a00ca0d03650557e744bfd8bc565f171626502204fee14aa02c20dee5e9ed0f56d9779612a3e6f850d…
hint: qkey expects Base64 of ASN.1 DER; this looks like hexadecimal of ASN.1 DER
==== another key's
--- exit 3
error: plugin:test:x returned a signature that does not verify
hint: check that the key source signs with the key that it reports, over SHA-256

"#]],
        |case| {
            let script = match case {
                "denied, with an exit code" => format!("{}; exit 7", error("denied")),
                "denied, with a hint" => {
                    reply("'version':1,'error':{'kind':'denied','message':'No.','hint':'run it'}")
                }
                "denied, in another version" => error("denied").replace("\\\":1", "\\\":2"),
                "failed, with more on stderr" => {
                    format!("{}; echo one >&2; echo two >&2", error("failed"))
                }
                "a kind of later" => error("throttled"),
                "nothing" => String::new(),
                "garbage" => "echo 'Welcome to the card!'".to_owned(),
                "two lines" => format!("{good}; echo '{{}}'"),
                "an error without words" => reply("'version':1,'error':{'kind':'failed'}"),
                "no version" => reply("$signature"),
                "another version" => reply("'version':2,$signature"),
                "no signature" => reply("'version':1"),
                "a public key in its place" => reply("'version':1,$public_key"),
                "an exit code" => format!("{good}; echo 'out of order' >&2; exit 3"),
                "killed" => "kill -9 $$".to_owned(),
                "endless" => "exec yes".to_owned(),
                "hangs" => "echo 'touch the card' >&2; exec sleep 60".to_owned(),
                "not Base64" => reply("'version':1,'signature':'?'"),
                "hexadecimal" => signed("alice.pem lock-2026 --format hex"),
                "another key's" => signed("bob.pem lock-2026"),
                kind => error(kind),
            };
            let qkey = with_plugins(Qkey::new());
            write_plugin(&qkey, "test", &when_it_signs(&script));
            let timeout = if case == "hangs" { "3" } else { "60" };
            run(&qkey, &format!("{SIGN} --timeout {timeout}")).transcript()
        }
    );
}

#[test]
fn public_key_is_read_in_any_encoding_and_must_be_p256() {
    assert_cases!(
        str![[r#"
==== qkey pubkey alice.pem
==== qkey pubkey alice.pem --format base64
[ALICE]
==== openssl ecparam -name secp384r1 -genkey -noout | openssl pkey -pubout
--- exit 3
error: cannot use plugin:test:x
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
hint: name an ECDSA P-256 key in the key source
==== cat alice.pem
--- exit 3
error: cannot use plugin:test:x
  caused by: a private key instead of a public key
hint: the plugin does not follow the protocol in docs/plugins.md: tell its author
==== echo rubbish
--- exit 3, hint as above
error: cannot use plugin:test:x
  caused by: neither PEM, DER, Base64 of DER, nor an OpenSSH public key
==== true
--- exit 3, hint as above
error: cannot use plugin:test:x
  caused by: unexpected reply from `[DIR]/bin/qkey-signer-test` instead of a reply with a public_key: {"version":1,"public_key":""}

"#]],
        |line| {
            let qkey = with_plugins(Qkey::new());
            let script = format!(
                "key=$({line} | sed 's/$/\\\\n/' | tr -d '\\n')
             printf '{{\"version\":1,\"public_key\":\"%s\"}}\\n' \"$key\""
            );
            write_plugin(&qkey, "test", &script);
            run(&qkey, "qkey pubkey plugin:test:x --format base64").transcript()
        }
    );
}

const UNLOCK_FOUR: &str = "qkey unlock --id 1 --id 2 --id 3 --id 4 --key plugin:test:x";

/// Sets `$signature` to Alice's over the challenge of the request.
const SIGN_THE_CHALLENGE: &str = r#"
         challenge=$(printf %s "$request" | sed 's/.*"challenge":"\([^"]*\)".*/\1/')
         signed=$(printf %s "$challenge" | openssl base64 -d -A | qkey sign --key alice.pem --file -)
         signature="\"signature\":\"$signed\""
"#;

#[test]
fn plugins_sign_in_parallel_after_a_first_success() {
    let mock = Mock::with_four_locked(crate::support::qkey::ALICE_PUBLIC);
    let qkey = with_plugins(Qkey::with_mock(&mock));
    // The first signature shows that nothing is refused; then each waits until all three are there.
    let meets = "if mkdir first 2>/dev/null; then echo \"{\\\"version\\\":1,$signature}\"; exit; fi
         : >met.$$
         until [ \"$(ls met.* | wc -l)\" -eq 3 ]; do sleep .02; done
         echo \"{\\\"version\\\":1,$signature}\"";
    let script = [SIGN_THE_CHALLENGE, meets].concat();
    write_plugin(&qkey, "test", &when_it_signs(&script));
    prints(&qkey, &format!("{UNLOCK_FOUR} --jobs 4"));
    assert!((1..=4).all(|id| mock.lock_key(id).is_none()));
}

#[test]
fn one_job_runs_one_plugin_at_a_time() {
    let mock = Mock::with_four_locked(crate::support::qkey::ALICE_PUBLIC);
    let qkey = with_plugins(Qkey::with_mock(&mock));
    let alone = "mkdir busy || exit 1
         sleep .1; rmdir busy
         echo \"{\\\"version\\\":1,$signature}\"";
    let script = [SIGN_THE_CHALLENGE, alone].concat();
    write_plugin(&qkey, "test", &when_it_signs(&script));
    prints(&qkey, &format!("{UNLOCK_FOUR} --jobs 1"));
}

#[test]
fn nothing_is_sent_if_a_plugin_signs_with_another_key() {
    let mock = Mock::new();
    let qkey = with_plugins(Qkey::with_mock(&mock));
    let script = "other=$(qkey sign --key bob.pem lock); echo \"{\\\"version\\\":1,\\\"signature\\\":\\\"$other\\\"}\"";
    write_plugin(&qkey, "test", &when_it_signs(script));
    assert_session!(
        qkey,
        str![[r#"
$ qkey add --name lock --key plugin:test:x
--- exit 3
error: the signature from plugin:test:x does not verify with its own public key
hint: nothing was sent; check that the key source signs SHA-256 with the key that it shows

"#]]
    );
    assert!(mock.key_ids().is_empty());
}

#[test]
fn plugin_cannot_read_the_terminal() {
    let qkey = with_plugins(Qkey::new());
    write_plugin(
        &qkey,
        "test",
        &when_it_signs("echo 'PIN?' >&2; read -r pin </dev/tty && echo \"$pin\" >pin"),
    );
    let line = format!("exec {SIGN} --timeout 5");
    let mut session = Terminal::new().start(command_with_terminal(&qkey, &line));
    session.type_in("1234\n");
    let ended = session.end();
    assert_data_eq!(
        qkey.taken(&ended.output).transcript(),
        str![[r#"
--- exit 3
error: cannot sign with plugin:test:x
  caused by: `[DIR]/bin/qkey-signer-test` exited with 2: PIN?
    [DIR]/bin/qkey-signer-test: 8: cannot open /dev/tty: No such device or address

"#]]
        .raw()
    );
    assert!(!qkey.path("pin").exists());
}

#[test]
fn interrupt_kills_a_hanging_plugin_and_its_children() {
    let qkey = with_plugins(Qkey::new());
    let script = when_it_signs("sleep 600 & echo $! >pid.new; mv pid.new pid; wait");
    write_plugin(&qkey, "test", &script);
    let child = command(&qkey, &format!("exec {SIGN}"))
        .spawn()
        .expect("sh runs");
    let pid = qkey.path("pid");
    wait_until("the plugin", || pid.exists());
    kill_process(Pid::from_child(&child), Signal::INT).expect("qkey takes signals");
    let output = child.wait_with_output().expect("qkey ends");
    assert_data_eq!(
        qkey.taken(&output).transcript(),
        str![[r#"
--- exit 130
error: interrupted while trying to sign with plugin:test:x

"#]]
        .raw()
    );
    wait_until("the end of what the plugin started", || {
        !is_alive(read(&pid))
    });
}

fn read(pid: &Path) -> u32 {
    let text = fs::read_to_string(pid).expect("a process");
    text.trim().parse().expect("its number")
}
