//! `qkey verify`: every form of signature and public key that tools leave behind.

use crate::support::{qkey::Qkey, session::assert_session, shell::prints};
use snapbox::str;

/// Alice's signature over `lock-2026`, in every encoding, made by other programs.
fn with_signatures() -> Qkey {
    let qkey = Qkey::new();
    prints(
        &qkey,
        "printf lock-2026 > challenge
         openssl dgst -sha256 -sign alice.pem -out s.der challenge
         openssl base64 -A -in s.der > s.line
         openssl base64 -A -in s.der | tr -d '=' > s.unpadded
         openssl base64 -A -in s.der | tr '+/' '-_' > s.url
         openssl base64 -A -in s.der | tr '+/' '-_' | tr -d '=' > s.url-unpadded
         openssl base64 -in s.der > s.wrapped
         openssl base64 -in s.der | sed 's/$/\\r/' > s.crlf
         { printf '\\n  '; openssl base64 -in s.der; echo; } > s.blanks
         od -An -tx1 -v s.der | tr -d ' \\n' > s.hex
         od -An -tx1 -v s.der | tr a-f A-F > s.hex-wrapped
         openssl asn1parse -inform DER -in s.der | sed -n 's/.*INTEGER *://p' |
             sed -e ':pad' -e 's/^.\\{0,63\\}$/0&/;t pad' > s.numbers
         tr -d '\\n' < s.numbers > s.p1363-hex
         perl -ne 'chomp; print pack(\"H*\", $_)' s.numbers > s.p1363
         openssl base64 -A -in s.p1363 > s.p1363-line
         openssl base64 -A -in s.p1363 | tr '+/' '-_' | tr -d '=' > s.p1363-url-unpadded
         openssl base64 -in s.p1363 > s.p1363-wrapped",
    );
    qkey
}

const SIGNATURES: [&str; 15] = [
    "s.der",
    "s.line",
    "s.unpadded",
    "s.url",
    "s.url-unpadded",
    "s.wrapped",
    "s.crlf",
    "s.blanks",
    "s.hex",
    "s.hex-wrapped",
    "s.p1363",
    "s.p1363-hex",
    "s.p1363-line",
    "s.p1363-url-unpadded",
    "s.p1363-wrapped",
];

/// Alice's public key in every form, in files `p.…`.
fn write_public_keys(qkey: &Qkey) {
    prints(
        qkey,
        "openssl pkey -in alice.pem -pubout -out p.pem
         openssl pkey -in alice.pem -pubout -outform DER -out p.der
         openssl base64 -A -in p.der > p.line
         openssl base64 -in p.der > p.wrapped
         openssl ec -in alice.pem -pubout -conv_form compressed -out p.compressed
         ssh-keygen -y -f alice.pem > p.pub
         ssh-keygen -e -m RFC4716 -f p.pub > p.rfc4716
         openssl req -new -x509 -key alice.pem -subj /CN=alice -days 1 -out p.crt
         openssl x509 -in p.crt -outform DER -out p.crt.der
         sed 's/$/\\r/' p.pem > p.crlf
         cat alice.pem p.pem > p.both
         { printf '\\357\\273\\277'; cat p.pem; } > p.bom",
    );
}

const PUBLIC_KEYS: [&str; 12] = [
    "p.pem",
    "p.der",
    "p.line",
    "p.wrapped",
    "p.compressed",
    "p.pub",
    "p.rfc4716",
    "p.crt",
    "p.crt.der",
    "p.crlf",
    "p.both",
    "p.bom",
];

const VERIFIED: &str =
    "Verified: SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4 signed this challenge.\n";

/// Verifies with the last option naming a file, reading stdin, and, for text, giving it as an argument.
#[track_caller]
fn assert_verifies(qkey: &Qkey, options: &str, file: &str) {
    let bytes = std::fs::read(qkey.path(file)).unwrap();
    let verify = |value: &str, stdin: &[u8]| {
        let args = format!("verify {options}");
        let mut args: Vec<&str> = args.split(' ').collect();
        let option = format!("{}={value}", args.pop().unwrap());
        args.extend([&option, "lock-2026"]);
        let run = qkey.run_with_stdin(args, stdin);
        let result = (run.code, &*run.stdout, &*run.stderr);
        assert_eq!(result, (0, VERIFIED, ""), "{options} {file}");
    };
    verify(file, b"");
    verify("-", &bytes);
    if let Ok(text) = str::from_utf8(&bytes) {
        verify(text, b"");
    }
}

#[test]
fn every_encoding_of_a_signature_is_read_from_file_stdin_and_argument() {
    let qkey = with_signatures();
    for signature in SIGNATURES {
        assert_verifies(&qkey, "--key=alice.pem --signature", signature);
    }
}

#[test]
fn every_encoding_of_a_public_key_is_read() {
    let qkey = with_signatures();
    write_public_keys(&qkey);
    for key in PUBLIC_KEYS {
        assert_verifies(&qkey, "--signature=s.line --public-key", key);
    }
}

#[test]
fn no_encoding_verifies_another_challenge() {
    let qkey = with_signatures();
    for signature in SIGNATURES {
        let option = format!("--signature={signature}");
        let run = qkey.run(["verify", "--key=alice.pem", &option, "lock-2027"]);
        assert_eq!((run.code, &*run.stdout), (4, ""), "{signature}");
    }
}

#[test]
fn verifies_every_format_that_sign_writes() {
    prints(
        &Qkey::new(),
        "set -e; for format in base64 der hex p1363; do
             qkey sign --key bob.pem --format $format lock-2026 > signature
             qkey verify --key bob.pem --signature signature lock-2026
         done",
    );
}

#[test]
fn challenge_is_exact_bytes() {
    let qkey = Qkey::new();
    for challenge in [&b""[..], b"\n", b"a\0b", b"\xff\xfe", b"caf\xc3\xa9\r\n"] {
        qkey.write("challenge", challenge);
        prints(
            &qkey,
            "set -e; openssl dgst -sha256 -sign alice.pem -out signature challenge
             qkey verify --key alice.pem --signature signature --file challenge
             qkey verify --key alice.pem --signature signature < challenge
             qkey verify --key alice.pem --signature signature - < challenge",
        );
    }
}

#[test]
fn result_is_a_line_or_an_object() {
    let qkey = Qkey::new();
    // qkey always makes the same signature, openssl does not.
    prints(&qkey, "qkey sign --key alice.pem lock-2026 > s.line");
    assert_session!(
        qkey,
        str![[r#"
$ qkey verify --key alice.pem --signature s.line lock-2026
Verified: SHA256:[ALICE] signed this challenge.
$ qkey verify --key alice.pem --signature s.line lock-2026 --output json
{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","verified":true,"signature":"MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY="}
$ qkey verify --key bob.pem --signature s.line lock-2026
--- exit 4
error: the signature was not made by SHA256:[BOB] over this challenge
$ qkey verify --key bob.pem --signature s.line lock-2026 --output json
--- exit 4
{"error":{"kind":"mismatch","message":"the signature was not made by SHA256:[BOB] over this challenge","causes":[],"hint":null,"exit_code":4}}

"#]]
    );
}

#[test]
fn common_mistakes_are_named() {
    let qkey = with_signatures();
    prints(
        &qkey,
        "openssl dgst -sha256 -binary challenge > digest
         openssl dgst -sha256 -sign alice.pem -out twice digest
         echo lock-2026 | openssl dgst -sha256 -sign alice.pem -out newline
         openssl dgst -sha512 -sign alice.pem -out sha512 challenge",
    );
    assert_session!(
        qkey,
        str![[r#"
$ qkey verify --key alice.pem --signature newline lock-2026
--- exit 4
error: the signature was not made by SHA256:[ALICE] over this challenge
hint: it was made over the challenge with a trailing newline; sign without it
$ echo lock-2026 | qkey verify --key alice.pem --signature s.der
--- exit 4
error: the signature was not made by SHA256:[ALICE] over this challenge
hint: it was made over the challenge without its trailing newline
$ qkey verify --key alice.pem --signature twice lock-2026
--- exit 4
error: the signature was not made by SHA256:[ALICE] over this challenge
hint: it was made over the SHA-256 of the challenge, hashed again; pass the challenge itself to the signing tool, or tell the tool that its input is a digest
$ qkey verify --key alice.pem --signature sha512 lock-2026
--- exit 4
error: the signature was not made by SHA256:[ALICE] over this challenge

"#]]
    );
}

#[test]
fn rejects_malformed_signatures_and_public_keys() {
    let qkey = with_signatures();
    write_public_keys(&qkey);
    prints(
        &qkey,
        ": > empty
         head -c 63 s.p1363 > short; { cat s.p1363; printf x; } > long
         head -c 64 /dev/zero > zeros
         head -c 40 s.der > cut
         openssl ecparam -genkey -name secp384r1 -noout -out p384.pem
         openssl pkey -in p384.pem -pubout -out p384.pub; chmod 600 p384.pem; mkdir folder",
    );
    assert_session!(
        qkey,
        str![[r#"
$ qkey verify --key alice.pem --signature empty lock-2026
--- exit 4
error: not an ECDSA P-256 signature
  caused by: not an ASN.1 DER ECDSA signature
hint: give Base64 or hexadecimal, or a file with either, with DER, or with 64 raw bytes
$ qkey verify --key alice.pem --signature short lock-2026
$ qkey verify --key alice.pem --signature long lock-2026
$ qkey verify --key alice.pem --signature zeros lock-2026
$ qkey verify --key alice.pem --signature cut lock-2026
--- exit 4, hint as above
error: not an ECDSA P-256 signature
  caused by: neither Base64, hexadecimal, DER nor 64 raw bytes
$ qkey verify --key alice.pem --signature misspelt.der lock-2026
--- exit 4
error: not an ECDSA P-256 signature
  caused by: neither Base64, hexadecimal, DER nor 64 raw bytes
hint: file misspelt.der does not exist; check the path
$ qkey verify --key alice.pem --signature folder lock-2026
--- exit 2
error: cannot read the signature from folder
  caused by: Is a directory (os error 21)
$ qkey verify --public-key misspelt.pub --signature s.der lock-2026
--- exit 3
error: cannot use the public key
  caused by: neither PEM, DER, Base64 of DER, nor an OpenSSH public key
hint: file misspelt.pub does not exist; check the path
$ qkey verify --public-key alice.pem --signature s.der lock-2026
--- exit 3
error: cannot use the public key
  caused by: a private key instead of a public key
hint: extract its public half: `qkey pubkey alice.pem`
$ qkey verify --public-key p384.pub --signature s.der lock-2026
--- exit 3
error: cannot use the public key
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
hint: use the public half of an ECDSA P-256 key: `qkey pubkey KEY`
$ qkey verify --public-key empty --signature s.der lock-2026 --output json
--- exit 3
{"error":{"kind":"key","message":"cannot use the public key","causes":["the file is empty"],"hint":"use the public half of an ECDSA P-256 key: `qkey pubkey KEY`","exit_code":3}}

"#]]
    );
}

#[test]
fn stdin_serves_only_one_purpose() {
    let qkey = with_signatures();
    assert_session!(
        qkey,
        str![[r#"
$ qkey verify --key alice.pem --signature - < s.der
$ qkey verify --key alice.pem --signature - - < s.der
$ qkey verify --key - --signature s.der < alice.pem
$ qkey verify --key - --signature - lock-2026 < alice.pem
$ qkey verify --public-key - --signature - lock-2026 < s.der
$ qkey verify --public-key - --signature s.der --file - < s.der
--- exit 2
error: only one option may read stdin
hint: save the others to files
$ qkey verify --key - --signature s.der --file challenge < alice.pem
Verified: SHA256:[ALICE] signed this challenge.

"#]]
    );
}

#[test]
fn requires_one_key_and_one_signature() {
    let qkey = with_signatures();
    assert_session!(
        qkey,
        str![[r#"
$ qkey verify --signature s.der lock-2026
--- exit 2
error: the following required arguments were not provided:
  --public-key <PUBLIC-KEY>

Usage: qkey verify --signature <SIGNATURE> --public-key <PUBLIC-KEY> <CHALLENGE>

For more information, try '--help'.
$ qkey verify --key alice.pem lock-2026
--- exit 2, hint as above
error: the following required arguments were not provided:
  --signature <SIGNATURE>

Usage: qkey verify --signature <SIGNATURE> --key <SOURCE> <CHALLENGE>
$ qkey verify --key alice.pem --public-key alice.pem --signature s.der lock-2026
--- exit 2, hint as above
error: the argument '--key <SOURCE>' cannot be used with '--public-key <PUBLIC-KEY>'

Usage: qkey verify --signature <SIGNATURE> --key <SOURCE> <CHALLENGE>
$ qkey verify --key alice.pem --signature s.der lock-2026 --file challenge
--- exit 2, hint as above
error: the argument '[CHALLENGE]' cannot be used with '--challenge-file <PATH>'

Usage: qkey verify --signature <SIGNATURE> --key <SOURCE> <CHALLENGE>

"#]]
    );
}
