//! `qkey sign`: exact bytes in, a signature that others verify out.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt};

use crate::support::{
    qkey::{ALICE, Qkey, Run},
    shell::{prints, transcript},
};
use snapbox::{IntoData, assert_data_eq, str};

/// What people and machines may want signed.
fn challenges() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("plain", b"lock-2026".to_vec()),
        ("a newline at its end", b"lock-2026\n".to_vec()),
        ("nothing but a newline", b"\n".to_vec()),
        ("a carriage return", b"lock-2026\r\n".to_vec()),
        ("blanks around", b"  lock-2026  ".to_vec()),
        ("NUL", b"a\0b\0".to_vec()),
        ("invalid UTF-8", b"\xff\xfe\x80".to_vec()),
        ("a byte-order mark", "\u{feff}caf\u{e9}".into()),
        ("1 MiB", b"0123456789abcdef".repeat(1 << 16)),
    ]
}

/// Whether the `openssl` program takes the Base64 in `run` for Alice's over the file `challenge`.
#[track_caller]
fn assert_openssl_verifies(qkey: &Qkey, run: &Run) {
    assert_eq!(run.code, 0, "{}", run.stderr);
    qkey.write("signature", &run.stdout);
    prints(
        qkey,
        "openssl pkey -in alice.pem -pubout -out public.pem
         openssl base64 -d -A -in signature -out der
         openssl dgst -sha256 -verify public.pem -signature der challenge",
    );
}

#[test]
fn the_same_bytes_get_the_same_signature_from_a_file_and_from_stdin() {
    let qkey = Qkey::new();
    for (name, challenge) in challenges() {
        qkey.write("challenge", &challenge);
        let from_file = qkey.run([
            "sign",
            "--key",
            "alice.pem",
            "--challenge-file",
            "challenge",
        ]);
        assert_openssl_verifies(&qkey, &from_file);
        for args in [
            &["sign", "--key", "alice.pem"][..],
            &["sign", "--key", "alice.pem", "-"],
            &["sign", "--key", "alice.pem", "--file", "-"],
        ] {
            let from_stdin = qkey.run_with_stdin(args, &challenge);
            assert_eq!(from_stdin.stdout, from_file.stdout, "{name}: {args:?}");
        }
        assert_eq!(
            from_file.stderr.contains("trailing newline was signed"),
            challenge.ends_with(b"\n"),
            "{name}"
        );
    }
}

#[test]
fn an_argument_is_signed_to_the_byte() {
    let qkey = Qkey::new();
    for challenge in [
        &b""[..],
        b"lock-2026",
        b" -dash and blank ",
        b"two\nlines",
        "caf\u{e9}".as_bytes(),
        b"\xff\x80",
    ] {
        qkey.write("challenge", challenge);
        let run = qkey.run([
            OsString::from("sign"),
            "--key".into(),
            "alice.pem".into(),
            "--".into(),
            OsString::from_vec(challenge.to_vec()),
        ]);
        assert_openssl_verifies(&qkey, &run);
    }
}

#[test]
fn every_form_is_printed() {
    let qkey = Qkey::new();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey sign --key alice.pem lock-2026",
                "qkey sign --key alice.pem lock-2026 --format base64",
                "qkey sign --key alice.pem lock-2026 --encoding hex",
                "qkey sign --key alice.pem lock-2026 --format der | od -An -tx1 -v | tr -d ' \\n'; echo",
                "qkey sign --key alice.pem lock-2026 --format p1363 | od -An -tx1 -v | tr -d ' \\n'; echo",
                "qkey sign --key alice.pem lock-2026 --output json",
                "qkey sign --key alice.pem lock-2026 --output json --format p1363",
                "qkey sign --key alice.pem ''",
            ]
        ),
        str![[r#"
$ qkey sign --key alice.pem lock-2026
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=

$ qkey sign --key alice.pem lock-2026 --format base64
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=

$ qkey sign --key alice.pem lock-2026 --encoding hex
3045022100ef45b4497e45d943452a367e6372a00ca0d03650557e744bfd8bc565f171626502204fee14aa02c20dee5e9ed0f56d9779612a3e6f850d66127f5d58fea3120725d6

$ qkey sign --key alice.pem lock-2026 --format der | od -An -tx1 -v | tr -d ' \n'; echo
3045022100ef45b4497e45d943452a367e6372a00ca0d03650557e744bfd8bc565f171626502204fee14aa02c20dee5e9ed0f56d9779612a3e6f850d66127f5d58fea3120725d6

$ qkey sign --key alice.pem lock-2026 --format p1363 | od -An -tx1 -v | tr -d ' \n'; echo
ef45b4497e45d943452a367e6372a00ca0d03650557e744bfd8bc565f17162654fee14aa02c20dee5e9ed0f56d9779612a3e6f850d66127f5d58fea3120725d6

$ qkey sign --key alice.pem lock-2026 --output json
{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","signature":"MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=","signature_hex":"3045022100ef45b4497e45d943452a367e6372a00ca0d03650557e744bfd8bc565f171626502204fee14aa02c20dee5e9ed0f56d9779612a3e6f850d66127f5d58fea3120725d6"}

$ qkey sign --key alice.pem lock-2026 --output json --format p1363
{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","signature":"MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=","signature_hex":"3045022100ef45b4497e45d943452a367e6372a00ca0d03650557e744bfd8bc565f171626502204fee14aa02c20dee5e9ed0f56d9779612a3e6f850d66127f5d58fea3120725d6"}

$ qkey sign --key alice.pem ''
MEUCIQC9GIk8BGXIX3jwOr568EXaBE6/C/tlrjApYIpDroYyiAIgFQqYl+QqF2QnDU2OJdCrGtlOQkKsMY7VBwCXjS0B7EA=


"#]].raw()
    );
}

#[test]
fn every_form_is_the_same_signature_and_openssl_verifies_it() {
    let qkey = Qkey::new();
    prints(
        &qkey,
        "printf lock-2026 > challenge
         openssl pkey -in alice.pem -pubout -out public.pem
         qkey sign --key alice.pem --file challenge > s.b64
         qkey sign --key alice.pem --file challenge --format der > s.der
         qkey sign --key alice.pem --file challenge --format hex > s.hex
         qkey sign --key alice.pem --file challenge --format p1363 > s.p1363",
    );
    let read = |name: &str| fs::read(qkey.path(name)).unwrap();
    let der = prints(&qkey, "od -An -tx1 -v s.der | tr -d ' \\n'; echo");
    assert_eq!(
        prints(
            &qkey,
            "openssl base64 -d -A -in s.b64 -out s.der2 && cmp s.der s.der2"
        ),
        ""
    );
    assert_eq!(prints(&qkey, "cat s.hex"), der);
    assert_eq!(read("s.p1363").len(), 64);
    assert_eq!(prints(&qkey, "grep -c . s.b64 s.hex"), "s.b64:1\ns.hex:1\n");
    prints(
        &qkey,
        "openssl dgst -sha256 -verify public.pem -signature s.der challenge",
    );
    // openssl writes r and s from the DER, and they are the halves of the raw form.
    let numbers = prints(
        &qkey,
        "openssl asn1parse -inform DER -in s.der | sed -n 's/.*INTEGER *://p' | tr -d '\\n' | tr A-F a-f",
    );
    assert_eq!(
        prints(&qkey, "od -An -tx1 -v s.p1363 | tr -d ' \\n'; echo").trim(),
        numbers
    );
}

#[test]
fn a_newline_at_the_end_is_signed_and_warned_of() {
    let qkey = Qkey::new();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "echo lock-2026 | qkey sign --key alice.pem",
                "echo lock-2026 | qkey sign --key alice.pem --output json",
                "echo lock-2026 | qkey sign --key alice.pem -q",
                "printf lock-2026 | qkey sign --key alice.pem",
            ]
        ),
        str![[r#"
$ echo lock-2026 | qkey sign --key alice.pem
MEQCIF2iB9BzGUGXUNzeNUf5EE9cyNx8fb95bzryRG66c/TzAiASUyZ/BGRvFCjVEhJb/I4F/CypoV4io3ZeeB213ZvUzw==
--- exit 0
warning: the trailing newline was signed too; the cluster will reject this (use `jq -j`)

$ echo lock-2026 | qkey sign --key alice.pem --output json
{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","signature":"MEQCIF2iB9BzGUGXUNzeNUf5EE9cyNx8fb95bzryRG66c/TzAiASUyZ/BGRvFCjVEhJb/I4F/CypoV4io3ZeeB213ZvUzw==","signature_hex":"304402205da207d07319419750dcde3547f9104f5cc8dc7c7dbf796f3af2446eba73f4f302201253267f04646f1428d512125bfc8e05fc2ca9a15e22a3765e781db5dd9bd4cf"}
--- exit 0
{"log":{"level":"warning","message":"the trailing newline was signed too; the cluster will reject this (use `jq -j`)"}}

$ echo lock-2026 | qkey sign --key alice.pem -q
MEQCIF2iB9BzGUGXUNzeNUf5EE9cyNx8fb95bzryRG66c/TzAiASUyZ/BGRvFCjVEhJb/I4F/CypoV4io3ZeeB213ZvUzw==

$ printf lock-2026 | qkey sign --key alice.pem
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=


"#]].raw()
    );
}

#[test]
fn what_cannot_be_read_or_is_asked_for_twice_is_an_error() {
    let qkey = Qkey::new();
    fs::create_dir(qkey.path("folder")).unwrap();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey sign --key alice.pem --file missing",
                "qkey sign --key alice.pem --file folder",
                "qkey sign --key alice.pem --file missing --output json",
                "qkey sign --key alice.pem --file /dev/zero",
                "qkey sign --key alice.pem lock-2026 --file alice.pem",
                "qkey sign lock-2026",
                "qkey sign --key missing.pem lock-2026",
                "qkey sign --key - < alice.pem",
                "qkey sign --key - - < alice.pem",
                "qkey sign --key alice.pem lock-2026 --format raw",
            ]
        ),
        str![[r#"
$ qkey sign --key alice.pem --file missing
--- exit 2
error: cannot read the challenge from missing
  caused by: No such file or directory (os error 2)

$ qkey sign --key alice.pem --file folder
--- exit 2
error: cannot read the challenge from folder
  caused by: Is a directory (os error 21)

$ qkey sign --key alice.pem --file missing --output json
--- exit 2
{"error":{"kind":"usage","message":"cannot read the challenge from missing","causes":["No such file or directory (os error 2)"],"hint":null,"exit_code":2}}

$ qkey sign --key alice.pem --file /dev/zero
--- exit 2
error: cannot read the challenge from /dev/zero
  caused by: longer than 16777216 bytes

$ qkey sign --key alice.pem lock-2026 --file alice.pem
--- exit 2
error: the argument '[CHALLENGE]' cannot be used with '--challenge-file <PATH>'

Usage: qkey sign --key <SOURCE> <CHALLENGE>

For more information, try '--help'.

$ qkey sign lock-2026
--- exit 2
error: the following required arguments were not provided:
  --key <SOURCE>

Usage: qkey sign --key <SOURCE> <CHALLENGE>

For more information, try '--help'.

$ qkey sign --key missing.pem lock-2026
--- exit 3
error: cannot read the key file missing.pem
  caused by: No such file or directory (os error 2)
hint: check the path

$ qkey sign --key - < alice.pem
--- exit 2
error: only one of the key and the challenge may be read from stdin
hint: give the challenge as an argument or with --challenge-file

$ qkey sign --key - - < alice.pem
--- exit 2
error: only one of the key and the challenge may be read from stdin
hint: give the challenge as an argument or with --challenge-file

$ qkey sign --key alice.pem lock-2026 --format raw
--- exit 2
error: invalid value 'raw' for '--format <FORMAT>'
  [possible values: base64, der, hex, p1363]

For more information, try '--help'.


"#]].raw()
    );
}

#[test]
fn a_key_on_stdin_signs_an_argument_or_a_file() {
    let qkey = Qkey::new();
    let expected = qkey.run(["sign", "--key", "alice.pem", "lock-2026"]).stdout;
    qkey.write("challenge", "lock-2026");
    for challenge in [&["lock-2026"][..], &["--file", "challenge"]] {
        let args = [&["sign", "--key", "-"], challenge].concat();
        assert_eq!(qkey.run_with_stdin(args, ALICE.as_bytes()).stdout, expected);
    }
}
