//! Key files in every wrapping that they come in: read, or named for what they are.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use qkey::{
    keyfile::{self, Error, KeyFile},
    public_key::PublicKey,
};
use serde_json::{Value, json};
use snapbox::{IntoData as _, assert_data_eq, str};
use tempfile::TempDir;

use crate::support::qkey::{ALICE, ALICE_PUBLIC, Qkey};

const CASES: usize = 3_000;
const WORKERS: usize = 2;
const PASSPHRASE: &str = "test";

/// How to make each key that is mutated.
const SEEDS: [&str; 14] = [
    "openssl ec -in key.pem",
    "openssl ec -in key.pem -outform DER",
    "openssl ec -in key.pem -no_public",
    "openssl ec -in key.pem -conv_form compressed",
    "openssl ec -in key.pem -param_enc explicit",
    "openssl ecparam -name prime256v1 -genkey",
    "openssl pkcs8 -topk8 -nocrypt -in key.pem",
    "openssl pkcs8 -topk8 -nocrypt -in key.pem -outform DER",
    "openssl pkcs8 -topk8 -nocrypt -in explicit.pem",
    "openssl pkcs8 -topk8 -in key.pem -passout pass:test -iter 1",
    "openssl pkcs8 -topk8 -in key.pem -passout pass:test -iter 1 -outform DER",
    "openssl pkcs8 -topk8 -in key.pem -passout pass:test -v1 PBE-SHA1-3DES -iter 1",
    "openssl ec -in key.pem -aes128 -passout pass:test",
    "openssl ec -in key.pem -des3 -passout pass:test",
];

/// Numbers that are the same in every run (Marsaglia's xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(below).unwrap()).unwrap()
    }
}

fn openssl(folder: &Path, command: &str) -> Option<Vec<u8>> {
    let output = Command::new("openssl")
        .args(command.split(' ').skip(1))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs");
    output.status.success().then_some(output.stdout)
}

/// A file's PEM blocks with their Base64 decoded, or all of it where it has none.
struct Parts {
    label: Option<String>,
    headers: String,
    der: Vec<u8>,
}

impl Parts {
    fn of(file: &[u8]) -> Vec<Parts> {
        let Ok(text) = std::str::from_utf8(file) else {
            let der = file.to_vec();
            return vec![Parts {
                label: None,
                headers: String::new(),
                der,
            }];
        };
        let blocks = text.split("-----BEGIN ").skip(1).map(|block| {
            let (label, rest) = block.split_once("-----\n").expect("a label");
            let body = rest.split("-----END ").next().expect("a body");
            let (headers, digits) = body.split_once("\n\n").unwrap_or(("", body));
            let der = BASE64_STANDARD
                .decode(digits.replace('\n', ""))
                .expect("Base64");
            Parts {
                label: Some(label.to_owned()),
                headers: headers.to_owned(),
                der,
            }
        });
        blocks.collect()
    }

    fn write(&self, width: usize) -> Vec<u8> {
        let Some(label) = &self.label else {
            return self.der.clone();
        };
        let mut text = format!("-----BEGIN {label}-----\n");
        if !self.headers.is_empty() {
            text += &format!("{}\n\n", self.headers);
        }
        let digits = BASE64_STANDARD.encode(&self.der);
        for line in digits.as_bytes().chunks(width) {
            text += &format!("{}\n", std::str::from_utf8(line).unwrap());
        }
        (text + &format!("-----END {label}-----\n")).into_bytes()
    }
}

/// The first value of `der` with its length written as BER allows, its members likewise.
fn as_ber(der: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut ber = Vec::new();
    let mut rest = der;
    while let [tag, first, after @ ..] = rest {
        let digits = usize::from(first.saturating_sub(0x80));
        let length = match first {
            0..0x80 => usize::from(*first),
            _ => after[..digits]
                .iter()
                .fold(0, |n, &digit| n << 8 | usize::from(digit)),
        };
        let (contents, after) = after[digits..].split_at(length);
        rest = after;
        let contents = match tag & 0x20 {
            0 => contents.to_vec(),
            _ => as_ber(contents, numbers),
        };
        ber.push(*tag);
        match numbers.next(4) {
            0 if tag & 0x20 != 0 => {
                ber.push(0x80);
                ber.extend([contents, vec![0, 0]].concat());
                continue;
            }
            1 => ber.extend([0x84, 0, 0]),
            2 => ber.push(0x82),
            _ if contents.len() < 0x80 => {
                ber.push(u8::try_from(contents.len()).unwrap());
                ber.extend(contents);
                continue;
            }
            _ => ber.push(0x82),
        }
        ber.extend(u16::try_from(contents.len()).unwrap().to_be_bytes());
        ber.extend(contents);
    }
    ber
}

/// A key file, and whether one of its bytes was replaced, so that "damaged" is the word for it.
fn mutated(seed: &[u8], numbers: &mut Numbers) -> (Vec<u8>, bool) {
    let mut damaged = false;
    let mut parts = Parts::of(seed);
    let last = parts.len() - 1;
    let part = &mut parts[if numbers.next(8) == 0 { 0 } else { last }];
    let original = part.der.clone();
    for _ in 0..numbers.next(3) {
        match numbers.next(8) {
            0 => part.der.extend(vec![0; 1 + numbers.next(9)]),
            1 => part.der.extend(b"\n\xffjunk"),
            2 | 3 if part.headers.is_empty() && part.der == original => {
                part.der = as_ber(&original, numbers);
            }
            4 => {
                let length = part.der.len();
                part.der.truncate(length - 1 - numbers.next(length / 2));
                break;
            }
            5 if part.label.is_some() => {
                let labels = ["PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];
                part.label = Some(labels[numbers.next(3)].to_owned());
            }
            _ => {
                let place = numbers.next(part.der.len());
                part.der[place] = u8::try_from(numbers.next(256)).unwrap();
                damaged = true;
                break;
            }
        }
    }
    let widths = [64, 64, 64, 76, 4, 1, 62, 1000];
    let width = widths[numbers.next(widths.len())];
    let mut file: Vec<u8> = parts.iter().flat_map(|part| part.write(width)).collect();
    if parts[last].label.is_none() {
        return (file, damaged);
    }
    for _ in 0..numbers.next(3) {
        let text = String::from_utf8(file).unwrap();
        file = match numbers.next(9) {
            0 => text.replace('\n', "\r\n"),
            1 => text.replace('\n', "\u{a0}\n"),
            2 => format!("\u{feff}{text}"),
            3 => format!("Bag Attributes\n    friendlyName: lock\n{text}"),
            4 => text + "\n# the end\n",
            5 => text.trim_end().to_owned(),
            6 => text.replace('\n', " \n"),
            7 => text.replace("-----\n", "-----\n\n"),
            _ => text.replacen('\n', "\\n", 1 + numbers.next(3)),
        }
        .into_bytes();
    }
    (file, damaged)
}

/// What qkey makes of a file.
fn qkey_reads(file: &[u8]) -> Result<PublicKey, Error> {
    Ok(match keyfile::parse(file)? {
        KeyFile::Plain(key) => key.public_key(),
        KeyFile::Encrypted(key) => key.decrypt(PASSPHRASE.as_bytes())?.public_key(),
    })
}

/// Whether an error names what sets the file apart from a key that qkey reads.
fn names_a_feature(error: &Error) -> bool {
    matches!(
        error,
        Error::NotP256(_)
            | Error::SeveralKeys(_)
            | Error::Foreign(_)
            | Error::UnsupportedEncryption { .. }
            | Error::TooCostly { .. }
            | Error::PublicMismatch
            | Error::ScalarOutOfRange
    )
}

/// Thousands of damaged and re-encoded key files through `openssl pkey` and qkey: wherever `openssl`
/// reads a P-256 key, qkey reads the same key or names the feature that it does not support.
#[test]
fn qkey_reads_every_p256_key_that_openssl_reads() {
    let folder = TempDir::new().unwrap();
    for command in [
        "openssl ecparam -genkey -name prime256v1 -noout -out key.pem",
        "openssl ec -in key.pem -param_enc explicit -out explicit.pem",
    ] {
        openssl(folder.path(), command).expect(command);
    }
    let seeds = SEEDS.map(|command| openssl(folder.path(), command).expect(command));
    let check = |case: usize| {
        let seed = case % SEEDS.len();
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ u64::try_from(case).unwrap());
        for _ in 0..8 {
            numbers.next(1);
        }
        let (file, damaged) = mutated(&seeds[seed], &mut numbers);
        let name = format!("{case}.key");
        fs::write(folder.path().join(&name), &file).unwrap();
        let command =
            format!("openssl pkey -in {name} -passin pass:{PASSPHRASE} -pubout -outform DER");
        let by_openssl = openssl(folder.path(), &command)
            .and_then(|public_key| PublicKey::from_any(&public_key).ok());
        match (by_openssl, qkey_reads(&file)) {
            (None, _) => Ok(false),
            (Some(expected), Ok(key)) if key == expected => Ok(true),
            (Some(_), Err(error)) if names_a_feature(&error) => Ok(false),
            (Some(_), Err(Error::Malformed(_))) if damaged => Ok(false),
            (Some(_), read) => {
                let read = read.map(|_| "another key");
                Err(format!(
                    "{}: {read:?}: {}",
                    SEEDS[seed],
                    file.escape_ascii()
                ))
            }
        }
    };
    let check = &check;
    let checked: Vec<Result<bool, String>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|first| scope.spawn(move || (first..CASES).step_by(WORKERS).map(check).collect()))
            .collect();
        let each = workers.into_iter().map(|worker| worker.join().unwrap());
        each.collect::<Vec<Vec<_>>>().concat()
    });
    let wrong: Vec<&String> = checked
        .iter()
        .filter_map(|case| case.as_ref().err())
        .collect();
    assert!(
        wrong.is_empty(),
        "{} cases: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(8)]
    );
    let read = checked.iter().filter(|case| **case == Ok(true)).count();
    assert!(read > CASES / 3, "only {read} were read");
}

/// What happens to a key file on its way: through JSON, YAML, a form, a shell, a chat.
#[test]
fn key_that_was_copied_through_another_format_is_read() {
    let alice = ALICE.trim();
    let body = alice.replace('\n', "");
    let jwk = alice_jwk();
    let der = Parts::of(ALICE.as_bytes()).remove(0).der;
    let flattened = {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("key.pem"), ALICE).unwrap();
        let command = "openssl ec -in key.pem -aes128 -passout pass:test";
        let encrypted = openssl(folder.path(), command).expect(command);
        String::from_utf8(encrypted).unwrap().replace('\n', " ")
    };
    let expected = PublicKey::from_base64(ALICE_PUBLIC).unwrap();
    for file in [
        alice.replace('\n', "\\n"),
        format!("\"{}\"", alice.replace('\n', "\\n")),
        format!("'{alice}'"),
        format!(
            "{{\"key\": \"{}\"}}",
            alice.replace('\n', "\\r\\n").replace('/', "\\/")
        ),
        alice.replace('\n', "\\\\n"),
        alice.replace('+', "\\u002B").replace('\n', "\\n"),
        alice
            .replace('+', "%2B")
            .replace('\n', "%0A")
            .replace(' ', "+"),
        alice
            .replace('+', "%2B")
            .replace('\n', "%0D%0A")
            .replace(' ', "%20"),
        alice.replace(' ', "\u{a0}").replace('\n', "\u{a0}\n"),
        alice.replace('\n', "\u{200b}\n"),
        body,
        BASE64_STANDARD.encode(alice),
        BASE64_STANDARD.encode(BASE64_STANDARD.encode(alice)),
        format!("\"{}\"\n", BASE64_STANDARD.encode(alice)),
        BASE64_STANDARD.encode(&der),
        flattened,
        format!(
            "{alice}\n-----BEGIN PKCS7-----\n{}\n-----END PKCS7-----\n",
            signed_data()
        ),
        jwk.clone(),
        format!("{{\"keys\": [{jwk}]}}"),
        format!("{{\"keys\": [{}, {jwk}]}}", alice_public_jwk()),
    ] {
        let read = qkey_reads(file.as_bytes());
        assert_eq!(read.as_ref(), Ok(&expected), "{file}");
    }
}

/// PKCS#7 signed data with nothing in it.
fn signed_data() -> String {
    BASE64_STANDARD.encode([
        0x30, 0x80, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2, 0xa0, 0x80, 0, 0, 0, 0,
    ])
}

fn alice_public_jwk() -> String {
    let point = PublicKey::from_base64(ALICE_PUBLIC).unwrap().to_sec1();
    let [x, y] = [&point[1..33], &point[33..]].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    json!({"kty": "EC", "crv": "P-256", "kid": "lo\"ck", "x": x, "y": y}).to_string()
}

fn alice_jwk() -> String {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("key.pem"), ALICE).unwrap();
    let command = "openssl ec -in key.pem -no_public -outform DER";
    let der = openssl(folder.path(), command).expect(command);
    let mut jwk: Value = serde_json::from_str(&alice_public_jwk()).unwrap();
    jwk["d"] = json!(BASE64_URL_SAFE_NO_PAD.encode(&der[7..39]));
    jwk.to_string()
}

/// As large as a key file may be, and nothing but tiny or deeply nested values.
#[test]
fn hostile_der_is_rejected_at_once() {
    for unit in [&[0x30, 0][..], &[0x30, 0x80], &[0x24, 0x80], &[6, 0]] {
        let file = unit.repeat(1 << 19);
        assert!(qkey_reads(&file).is_err(), "{unit:x?}");
    }
}

#[test]
fn files_that_qkey_does_not_read_are_named() {
    let qkey = Qkey::new();
    let pem = |label: &str, bytes: &[u8]| {
        let digits = BASE64_STANDARD.encode(bytes);
        format!("-----BEGIN {label}-----\n{digits}\n-----END {label}-----\n").into_bytes()
    };
    let mut enveloped = BASE64_STANDARD.decode(signed_data()).unwrap();
    enveloped[12] = 3;
    let p384 = r#"{"kty":"EC","crv":"P-384","x":"AA","y":"AA","d":"AA"}"#;
    let files: [(&str, Vec<u8>); 17] = [
        (
            "cosign.key",
            pem("ENCRYPTED SIGSTORE PRIVATE KEY", b"{\"kdf\":{}}"),
        ),
        (
            "chain.p7b",
            pem("PKCS7", &BASE64_STANDARD.decode(signed_data()).unwrap()),
        ),
        ("chain.der", BASE64_STANDARD.decode(signed_data()).unwrap()),
        ("enveloped.p7m", enveloped),
        ("store.jks", vec![0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2]),
        ("secret.gpg", vec![0x95, 1, 0x86, 4, 0xff]),
        ("message.gpg", vec![0x85, 1, 0x86, 3, 0xff]),
        (
            "message.asc",
            b"-----BEGIN PGP MESSAGE-----\n\nhF4D\n-----END PGP MESSAGE-----\n".to_vec(),
        ),
        ("key.age", b"age-encryption.org/v1\n-> X25519 \xff".to_vec()),
        (
            "sops.yaml",
            b"key: ENC[AES256_GCM,data:AA==,type:str]\nsops:\n".to_vec(),
        ),
        ("vault.yml", b"$ANSIBLE_VAULT;1.1;AES256\n3031\n".to_vec()),
        ("key.jwe", b"eyJhbGciOiJkaXIifQ..AAAA.AAAA.AAAA\n".to_vec()),
        ("public.jwk", alice_public_jwk().into_bytes()),
        ("p384.jwk", p384.into()),
        ("secret.jwk", br#"{"kty":"oct","k":"AAAA"}"#.to_vec()),
        (
            "broken.jwk",
            br#"{"kty":"EC","crv":"P-256","d":"AA"}"#.to_vec(),
        ),
        (
            "two.jwks",
            format!("{{\"keys\":[{0},{0}]}}", alice_jwk()).into_bytes(),
        ),
    ];
    let mut said = String::new();
    for (name, contents) in files {
        qkey.write(name, &contents);
        said += &format!(
            "$ qkey pubkey {name}\n{}",
            qkey.run(["pubkey", name]).transcript()
        );
    }
    assert_data_eq!(said, str![[r#"
$ qkey pubkey cosign.key
--- exit 3
error: cannot use the key file cosign.key
  caused by: a PEM block of the kind ENCRYPTED SIGSTORE PRIVATE KEY, which qkey does not read
hint: export the key as PKCS#8 PEM with the program that wrote it
$ qkey pubkey chain.p7b
--- exit 3
error: cannot use the key file chain.p7b
  caused by: no private key in the file, only PKCS#7 certificates
hint: the private key is in another file, often with the same name and .key
$ qkey pubkey chain.der
--- exit 3
error: cannot use the key file chain.der
  caused by: no private key in the file, only PKCS#7 certificates
hint: the private key is in another file, often with the same name and .key
$ qkey pubkey enveloped.p7m
--- exit 3
error: cannot use the key file enveloped.p7m
  caused by: CMS encrypted data, which qkey does not read
hint: decrypt it with `openssl cms -decrypt` and the recipient's key
$ qkey pubkey store.jks
--- exit 3
error: cannot use the key file store.jks
  caused by: a Java keystore, which qkey does not read
hint: convert it: `keytool -importkeystore -srckeystore store.jks -destkeystore key.p12 -deststoretype pkcs12`, then `openssl pkcs12 -in key.p12 -nocerts -out key.pem`
$ qkey pubkey secret.gpg
--- exit 3
error: cannot use the key file secret.gpg
  caused by: an OpenPGP private key, which qkey does not read
$ qkey pubkey message.gpg
--- exit 3
error: cannot use the key file message.gpg
  caused by: an OpenPGP encrypted message, which qkey does not read
hint: decrypt it: `gpg --output key.pem --decrypt message.gpg`
$ qkey pubkey message.asc
--- exit 3
error: cannot use the key file message.asc
  caused by: an OpenPGP encrypted message, which qkey does not read
hint: decrypt it: `gpg --output key.pem --decrypt message.asc`
$ qkey pubkey key.age
--- exit 3
error: cannot use the key file key.age
  caused by: a file encrypted with age, which qkey does not read
hint: decrypt it: `age --decrypt -i IDENTITY -o key.pem key.age`
$ qkey pubkey sops.yaml
--- exit 3
error: cannot use the key file sops.yaml
  caused by: a file encrypted with SOPS, which qkey does not read
hint: decrypt it: `sops --output key.pem --decrypt sops.yaml`
$ qkey pubkey vault.yml
--- exit 3
error: cannot use the key file vault.yml
  caused by: a file encrypted with ansible-vault, which qkey does not read
hint: decrypt it: `ansible-vault decrypt --output key.pem vault.yml`
$ qkey pubkey key.jwe
--- exit 3
error: cannot use the key file key.jwe
  caused by: an encrypted JSON Web Key (JWE), which qkey does not read
hint: decrypt it with the program that encrypted it
$ qkey pubkey public.jwk
--- exit 3
error: cannot use the key file public.jwk
  caused by: no private key in the file, only a public key
hint: the private key is in another file, often with the same name without .pub
$ qkey pubkey p384.jwk
--- exit 3
error: cannot use the key file p384.jwk
  caused by: the private key is on the curve P-384, not P-256
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ qkey pubkey secret.jwk
--- exit 3
error: cannot use the key file secret.jwk
  caused by: the private key is a symmetric key, not ECDSA P-256
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ qkey pubkey broken.jwk
--- exit 3
error: cannot use the key file broken.jwk
  caused by: the JSON Web Key is truncated or damaged
hint: compare it with the original, or check it: `openssl pkey -in broken.jwk -noout`, or for OpenSSH's format `ssh-keygen -y -f broken.jwk`
$ qkey pubkey two.jwks
--- exit 3
error: cannot use the key file two.jwks
  caused by: 2 private keys in one file
hint: keep one private key in the file, or copy it to a new file

"#]].raw());
}
