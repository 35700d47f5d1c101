//! Secrets do not outlive their use in the memory of `qkey`.

use std::fs;

use crate::support::{
    mock::Mock,
    preload,
    qkey::{ALICE_PUBLIC, Qkey, Run},
    shell::{self, prints},
};

const PASSPHRASE: &str = "correct-horse-battery-staple";

/// Runs a shell line that ends in one `qkey`, and returns what its memory held when it exited.
fn memory_at_exit(qkey: &Qkey, line: &str) -> (Run, Vec<u8>) {
    let dump = qkey.path("dump");
    let _ = fs::remove_file(&dump);
    let preloaded = format!(
        "qkey() {{ LD_PRELOAD='{}' DUMP_AT_EXIT='{}' command qkey \"$@\"; }}\n{line}",
        preload::library("dump_at_exit").display(),
        dump.display()
    );
    let run = shell::run(qkey, &preloaded);
    let memory = fs::read(&dump).expect("qkey wrote its memory");
    fs::remove_file(&dump).expect("the dump is there");
    (run, memory)
}

/// The private number of a key file that needs no passphrase.
fn scalar(qkey: &Qkey, file: &str) -> [u8; 32] {
    let text = prints(
        qkey,
        &format!("openssl pkey -in {file} -noout -text | sed -n '/priv:/,/pub:/p' | grep '^ '"),
    );
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let digits = &digits[digits.len().saturating_sub(64)..];
    let bytes = (0..64).step_by(2);
    let bytes = bytes.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex"));
    bytes.collect::<Vec<u8>>().try_into().expect("32 bytes")
}

/// Standard Base64 of whole groups of three bytes.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.as_chunks::<3>().0.iter();
    let digits = groups.flat_map(|[a, b, c]| {
        let group = u32::from_be_bytes([0, *a, *b, *c]);
        [18, 12, 6, 0].map(|shift| DIGITS[(group >> shift) as usize & 63])
    });
    digits.collect()
}

/// Every form in which the private number may lie in memory, in pieces that a copy of half of it
/// contains as well: as bytes, as the words that arithmetic works on, in hexadecimal and in Base64.
fn forms_of_scalar(scalar: &[u8; 32]) -> Vec<(String, Vec<u8>)> {
    let mut forms = Vec::new();
    for (name, half) in [("first", &scalar[..16]), ("second", &scalar[16..])] {
        let mut add = |form: &str, bytes| forms.push((format!("{name} half, {form}"), bytes));
        add("big-endian", half.to_vec());
        add("little-endian", half.iter().rev().copied().collect());
        let hex: String = half.iter().map(|byte| format!("{byte:02x}")).collect();
        add("uppercase hex", hex.to_uppercase().into_bytes());
        add("hex", hex.into_bytes());
        for offset in 0..3 {
            let digits = base64(&half[offset..]);
            // A PEM line may end anywhere; 12 digits are enough to recognise it.
            add(&format!("Base64 from {offset}"), digits[..12].to_vec());
        }
    }
    forms
}

fn forms_of_passphrase() -> Vec<(String, Vec<u8>)> {
    let utf16 = |unit: fn(u16) -> [u8; 2]| PASSPHRASE.encode_utf16().flat_map(unit).collect();
    vec![
        ("passphrase".to_owned(), PASSPHRASE.into()),
        ("UTF-16BE passphrase".to_owned(), utf16(u16::to_be_bytes)),
    ]
}

fn found<'f>(memory: &[u8], forms: &'f [(String, Vec<u8>)]) -> Vec<&'f str> {
    let holds = |needle: &[u8]| {
        let (first, rest) = needle.split_first().expect("not empty");
        let mut from = 0;
        while let Some(at) = memory[from..].iter().position(|byte| byte == first) {
            from += at + 1;
            if memory[from..].starts_with(rest) {
                return true;
            }
        }
        false
    };
    let found = forms.iter().filter(|(_, needle)| holds(needle));
    found.map(|(name, _)| name.as_str()).collect()
}

#[track_caller]
fn assert_wiped(qkey: &Qkey, line: &str, forms: &[(String, Vec<u8>)]) {
    let (run, memory) = memory_at_exit(qkey, line);
    assert_eq!(run.code, 0, "{line}: {run:?}");
    // An empty dump would prove nothing: this one holds the environment at least.
    let known = [("environment".to_owned(), b"LC_ALL=C.UTF-8".to_vec())];
    assert_eq!(found(&memory, &known), ["environment"], "{line}");
    assert_eq!(found(&memory, forms), [""; 0], "{line}");
}

/// Alice's key in every encoding that is read: `openssl` or `ssh-keygen` writes it to `OUT`.
const ENCODINGS: [(&str, &str); 14] = [
    ("pkcs8 plain", "cp alice.pem OUT"),
    (
        "pkcs8 plain DER",
        "openssl pkey -in alice.pem -outform DER -out OUT",
    ),
    ("sec1 plain", "openssl ec -in alice.pem -out OUT"),
    (
        "openssh plain",
        "openssl ec -in alice.pem -out OUT && ssh-keygen -q -p -N '' -f OUT",
    ),
    (
        "pkcs8 pbkdf2 aes",
        "openssl pkcs8 -topk8 -in alice.pem -passout file:pass -out OUT",
    ),
    (
        "pkcs8 pbkdf2 3des",
        "openssl pkcs8 -topk8 -v2 des3 -in alice.pem -passout file:pass -out OUT",
    ),
    (
        "pkcs8 scrypt",
        "openssl pkcs8 -topk8 -scrypt -in alice.pem -passout file:pass -out OUT",
    ),
    (
        "pkcs8 sha1 3des",
        "openssl pkcs8 -topk8 -v1 PBE-SHA1-3DES -in alice.pem -passout file:pass -out OUT",
    ),
    (
        "pkcs8 encrypted DER",
        "openssl pkcs8 -topk8 -in alice.pem -passout file:pass -outform DER -out OUT",
    ),
    (
        "sec1 aes",
        "openssl ec -aes256 -in alice.pem -passout file:pass -out OUT",
    ),
    (
        "sec1 3des",
        "openssl ec -des3 -in alice.pem -passout file:pass -out OUT",
    ),
    (
        "openssh ctr",
        "openssl ec -in alice.pem -out OUT && ssh-keygen -q -p -N \"$(cat pass)\" -f OUT",
    ),
    (
        "openssh gcm",
        "openssl ec -in alice.pem -out OUT && ssh-keygen -q -p -Z aes256-gcm@openssh.com -N \"$(cat pass)\" -f OUT",
    ),
    (
        "openssh chacha",
        "openssl ec -in alice.pem -out OUT && ssh-keygen -q -p -Z chacha20-poly1305@openssh.com -N \"$(cat pass)\" -f OUT",
    ),
];

/// A folder with Alice's key in every encoding, and its passphrase in `pass`.
fn with_every_encoding() -> Qkey {
    let qkey = Qkey::new();
    qkey.write("pass", PASSPHRASE);
    for (number, (_, command)) in ENCODINGS.iter().enumerate() {
        let command = command.replace("OUT", &format!("key-{number}"));
        prints(&qkey, &format!("umask 077; {{ {command}; }} 2>&1"));
    }
    qkey
}

#[test]
fn no_private_key_or_passphrase_is_in_memory_after_signing() {
    let qkey = with_every_encoding();
    let forms = [
        forms_of_scalar(&scalar(&qkey, "alice.pem")),
        forms_of_passphrase(),
    ]
    .concat();
    for (number, (encoding, _)) in ENCODINGS.iter().enumerate() {
        let attribute = if encoding.contains("plain") {
            ""
        } else {
            "?passphrase-file=pass"
        };
        let line = format!("qkey sign --key 'key-{number}{attribute}' challenge");
        assert_wiped(&qkey, &line, &forms);
    }
}

#[test]
fn no_secret_is_in_memory_however_it_arrived() {
    let qkey = with_every_encoding();
    let forms = [
        forms_of_scalar(&scalar(&qkey, "alice.pem")),
        forms_of_passphrase(),
    ]
    .concat();
    for line in [
        "qkey sign --key - challenge <alice.pem",
        "qkey sign --key='-?passphrase-file=pass' challenge <key-4",
        "qkey sign --key 'key-4?passphrase-fd=0' challenge <pass",
        "qkey sign --key 'key-4?passphrase-fd=7' challenge 7<pass",
        "qkey sign --key 'key-11?passphrase-command=cat pass' challenge",
        "qkey sign --key 'openssl:key-4?passphrase-file=pass' challenge",
        "qkey sign --key alice.pem challenge --output json",
    ] {
        assert_wiped(&qkey, line, &forms);
    }
}

#[test]
fn no_private_key_or_passphrase_is_in_memory_after_generate() {
    let qkey = Qkey::new();
    qkey.write("pass", PASSPHRASE);
    for format in ["pkcs8", "sec1", "openssh"] {
        for attribute in ["", "?passphrase-file=pass"] {
            let line = format!("qkey generate 'new.pem{attribute}' --format {format}");
            let (run, memory) = memory_at_exit(&qkey, &line);
            assert_eq!(run.code, 0, "{run:?}");
            let plain = "cp new.pem plain && ssh-keygen -q -p -P \"$(cat pass)\" -N '' -m PEM -f plain || \
                openssl pkey -in new.pem -passin file:pass -out plain";
            prints(&qkey, &format!("{{ {plain}; }} >/dev/null 2>&1"));
            let forms = [
                forms_of_scalar(&scalar(&qkey, "plain")),
                forms_of_passphrase(),
            ]
            .concat();
            assert_eq!(found(&memory, &forms), [""; 0], "{line}");
            prints(&qkey, "rm new.pem plain");
        }
    }
}

#[test]
fn no_private_key_or_passphrase_is_in_memory_after_an_unlock() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    qkey.write("pass", PASSPHRASE);
    prints(
        &qkey,
        "openssl pkcs8 -topk8 -in alice.pem -passout file:pass -out locked.pem",
    );
    mock.add_key("lock", "", ALICE_PUBLIC);
    let forms = [
        forms_of_scalar(&scalar(&qkey, "alice.pem")),
        forms_of_passphrase(),
    ]
    .concat();
    for (id, key) in [(1, "alice.pem"), (2, "locked.pem?passphrase-file=pass")] {
        mock.add_snapshot(id + 10, "s", Some("1"));
        let line = format!("qkey unlock --id {} --key '{key}'", id + 10);
        assert_wiped(&qkey, &line, &forms);
    }
}

#[test]
fn memory_is_unreadable_and_never_dumped() {
    let qkey = Qkey::new();
    qkey.write("pass", PASSPHRASE);
    prints(
        &qkey,
        "openssl pkcs8 -topk8 -in alice.pem -passout file:pass -out locked.pem",
    );
    let line = "ulimit -c unlimited 2>/dev/null; \
        qkey pubkey 'locked.pem?passphrase-command=ulimit -c >limit; cat pass'";
    let (run, memory) = memory_at_exit(&qkey, line);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(memory.ends_with(b"PR_GET_DUMPABLE is 0\n"));
    assert_eq!(fs::read_to_string(qkey.path("limit")).unwrap(), "0\n");
}
