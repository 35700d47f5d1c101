//! `qkey sign`: exact bytes in, a signature that others verify out.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt};

use crate::support::{
    qkey::{Qkey, Run},
    session::assert_session,
    shell::prints,
};
use snapbox::str;

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
fn file_and_stdin_are_signed_as_exact_bytes() {
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
fn argument_is_signed_as_exact_bytes() {
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
fn every_format_is_printed() {
    let qkey = Qkey::new();
    assert_session!(
        qkey,
        str![[r#"
$ qkey sign --key alice.pem lock-2026
$ qkey sign --key alice.pem lock-2026 --format base64
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=
$ qkey sign --key alice.pem lock-2026 --encoding hex
$ qkey sign --key alice.pem lock-2026 --format der | od -An -tx1 -v | tr -d ' \n'; echo
3045022100ef45b4497e45d943452a367e6372a00ca0d03650557e744bfd8bc565f171626502204fee14aa02c20dee5e9ed0f56d9779612a3e6f850d66127f5d58fea3120725d6
$ qkey sign --key alice.pem lock-2026 --format p1363 | od -An -tx1 -v | tr -d ' \n'; echo
ef45b4497e45d943452a367e6372a00ca0d03650557e744bfd8bc565f17162654fee14aa02c20dee5e9ed0f56d9779612a3e6f850d66127f5d58fea3120725d6
$ qkey sign --key alice.pem lock-2026 --output json
$ qkey sign --key alice.pem lock-2026 --output json --format p1363
{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","signature":"MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=","signature_hex":"3045022100ef45b4497e45d943452a367e6372a00ca0d03650557e744bfd8bc565f171626502204fee14aa02c20dee5e9ed0f56d9779612a3e6f850d66127f5d58fea3120725d6"}
$ qkey sign --key - lock-2026 < alice.pem
$ printf lock-2026 > challenge; qkey sign --key - --file challenge < alice.pem
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=
$ qkey sign --key alice.pem ''
MEUCIQC9GIk8BGXIX3jwOr568EXaBE6/C/tlrjApYIpDroYyiAIgFQqYl+QqF2QnDU2OJdCrGtlOQkKsMY7VBwCXjS0B7EA=

"#]]
    );
}

#[test]
fn every_format_holds_the_signature_that_openssl_verifies() {
    let qkey = Qkey::new();
    qkey.write("challenge", "lock-2026");
    prints(
        &qkey,
        "set -e; openssl pkey -in alice.pem -pubout -out public.pem
         qkey sign --key alice.pem --file challenge --format der > s.der
         openssl dgst -sha256 -verify public.pem -signature s.der challenge
         qkey sign --key alice.pem --file challenge | openssl base64 -d -A | cmp s.der
         qkey sign --key alice.pem --file challenge --format hex | perl -ne 'chomp; print pack(\"H*\", $_)' | cmp s.der
         # openssl shows r and s, which are the halves of the raw form.
         openssl asn1parse -inform DER -in s.der | sed -n 's/.*INTEGER *://p' | perl -ne 'chomp; print pack(\"H*\", $_)' > numbers
         qkey sign --key alice.pem --file challenge --format p1363 | cmp numbers",
    );
}

#[test]
fn trailing_newline_is_signed_with_a_warning() {
    let qkey = Qkey::new();
    assert_session!(
        qkey,
        str![[r#"
$ echo lock-2026 | qkey sign --key alice.pem
MEQCIF2iB9BzGUGXUNzeNUf5EE9cyNx8fb95bzryRG66c/TzAiASUyZ/BGRvFCjVEhJb/I4F/CypoV4io3ZeeB213ZvUzw==
--- exit 0
warning: the trailing newline was signed too; the cluster will reject this (use `jq -j`)
$ echo lock-2026 | qkey sign --key alice.pem --output json
{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","signature":"MEQCIF2iB9BzGUGXUNzeNUf5EE9cyNx8fb95bzryRG66c/TzAiASUyZ/BGRvFCjVEhJb/I4F/CypoV4io3ZeeB213ZvUzw==","signature_hex":"304402205da207d07319419750dcde3547f9104f5cc8dc7c7dbf796f3af2446eba73f4f302201253267f04646f1428d512125bfc8e05fc2ca9a15e22a3765e781db5dd9bd4cf"}
--- exit 0
{"log":{"level":"warning","message":"the trailing newline was signed too; the cluster will reject this (use `jq -j`)"}}
$ echo lock-2026 | qkey sign --key alice.pem -q
MEQCIF2iB9BzGUGXUNzeNUf5EE9cyNx8fb95bzryRG66c/TzAiASUyZ/BGRvFCjVEhJb/I4F/CypoV4io3ZeeB213ZvUzw==

"#]]
    );
}

#[test]
fn unreadable_or_ambiguous_challenges_are_errors() {
    let qkey = Qkey::new();
    fs::create_dir(qkey.path("folder")).unwrap();
    assert_session!(
        qkey,
        str![[r#"
$ qkey sign --key alice.pem --file missing
--- exit 2
error: cannot read the challenge from missing
  caused by: No such file or directory (os error 2)
$ qkey sign --key alice.pem --file folder
--- exit 2
error: cannot read the challenge from folder
  caused by: Is a directory (os error 21)
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
--- exit 2, hint as above
error: the following required arguments were not provided:
  --key <SOURCE>

Usage: qkey sign --key <SOURCE> <CHALLENGE>
$ qkey sign --key - < alice.pem
$ qkey sign --key - - < alice.pem
--- exit 2
error: only one of the key and the challenge may be read from stdin
hint: give the challenge as an argument or with --challenge-file
$ qkey sign --key alice.pem lock-2026 --format raw
--- exit 2
error: invalid value 'raw' for '--format <FORMAT>'
  [possible values: base64, der, hex, p1363]

For more information, try '--help'.

"#]]
    );
}

#[test]
fn json_reply_of_qq_is_not_signed() {
    let qkey = Qkey::new();
    qkey.write(
        "reply.json",
        "{\n    \"challenge\": \"Unlock snapshot 7\"\n}\n",
    );
    assert_session!(
        qkey,
        str![[r#"
$ qkey sign --key alice.pem --challenge-file reply.json
--- exit 2
error: reply.json contains a JSON reply of qq, not the challenge itself
hint: pass only the value of its field `challenge`, as `jq -j .challenge` prints it
$ qkey sign --key alice.pem < reply.json
--- exit 2, hint as above
error: stdin contains a JSON reply of qq, not the challenge itself
$ qkey sign --key alice.pem '{"challenge": "x"}'
--- exit 2, hint as above
error: the argument contains a JSON reply of qq, not the challenge itself

"#]]
    );
}
