//! Key files, as the real `openssl` and `ssh-keygen` write and read them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use qkey::{
    keyfile::{self, Error, Format, KeyFile, PrivateKey},
    public_key::PublicKey,
};
use snapbox::str;
use tempfile::TempDir;

const MESSAGE: &[u8] = b"the challenge";

/// A folder of its own, in which programs run and leave their files.
struct Workshop(TempDir);

impl Workshop {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// One with a P-256 key in `key.pem` and its public half in `public.pem`.
    fn with_key() -> Self {
        let workshop = Self::new();
        workshop.run("openssl ecparam -genkey -name prime256v1 -noout -out key.pem");
        workshop.run("openssl pkey -in key.pem -pubout -out public.pem");
        workshop
    }

    /// One with a P-256 key of `ssh-keygen`'s, and its public half also in `public.pem`.
    fn with_ssh_key(options: &str) -> Self {
        let workshop = Self::new();
        workshop.run(&format!(
            "ssh-keygen -q -t ecdsa -C comment -f key {options}"
        ));
        let public = workshop.run("ssh-keygen -e -m PKCS8 -f key.pub");
        workshop.write("public.pem", &public);
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, contents: &[u8]) {
        use std::os::unix::fs::OpenOptionsExt as _;
        // ssh-keygen takes no key file that others may read.
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(self.path(name)).unwrap();
        file.write_all(contents).unwrap();
    }

    /// What a command prints; its words are separated by blanks, and `''` is an empty one.
    fn run(&self, command: &str) -> Vec<u8> {
        let mut words = command.split_ascii_whitespace();
        let output = Command::new(words.next().unwrap())
            .args(words.map(|word| if word == "''" { "" } else { word }))
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {stderr}");
        output.stdout
    }

    /// The key in `name` signs what `openssl` verifies with `public.pem`.
    #[track_caller]
    fn assert_serves(&self, name: &str, passphrase: Option<&str>) {
        self.assert_signs(&open(&self.read(name), passphrase));
    }

    #[track_caller]
    fn assert_signs(&self, key: &PrivateKey) {
        let public = PublicKey::from_any(&self.read("public.pem")).unwrap();
        assert_eq!(key.public_key(), public);
        let signature = key.sign(MESSAGE);
        assert!(signature.verifies(&public, MESSAGE));
        self.write("message", MESSAGE);
        self.write("signature", &signature.to_der());
        self.run("openssl dgst -sha256 -verify public.pem -signature signature message");
    }
}

#[track_caller]
fn open(contents: &[u8], passphrase: Option<&str>) -> PrivateKey {
    match (keyfile::parse(contents).unwrap(), passphrase) {
        (KeyFile::Plain(key), None) => key,
        (KeyFile::Encrypted(key), Some(passphrase)) => {
            assert_eq!(
                key.decrypt(b"another passphrase").unwrap_err(),
                Error::WrongPassphrase
            );
            key.decrypt(passphrase.as_bytes()).unwrap()
        }
        (KeyFile::Plain(_), Some(_)) => panic!("the key is not encrypted"),
        (KeyFile::Encrypted(_), None) => panic!("the key is encrypted"),
    }
}

fn told(error: &Error) -> String {
    format!("{error}\n{}", error.hint().unwrap_or_default())
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys");
    fs::read(folder.join(name)).unwrap()
}

/// A workshop whose `public.pem` belongs to the keys in `fixtures/keys`.
fn fixtures() -> Workshop {
    let workshop = Workshop::new();
    workshop.write("public.pem", &fixture("public.pem"));
    workshop
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

mod sec1 {
    use super::*;

    #[test]
    fn serves_in_every_form_that_openssl_ec_writes() {
        let workshop = Workshop::with_key();
        workshop.assert_serves("key.pem", None);
        for options in [
            "-outform DER",
            "-conv_form compressed",
            "-conv_form hybrid",
            "-no_public",
            "-param_enc explicit",
            "-param_enc explicit -conv_form compressed",
            "-param_enc explicit -conv_form hybrid -outform DER",
            "-param_enc explicit -no_public",
        ] {
            workshop.run(&format!("openssl ec -in key.pem {options} -out other"));
            workshop.assert_serves("other", None);
        }
    }

    #[test]
    fn serves_after_an_ec_parameters_block() {
        let workshop = Workshop::new();
        for options in ["", "-param_enc explicit"] {
            workshop.run(&format!(
                "openssl ecparam -genkey -name prime256v1 {options} -out key.pem"
            ));
            workshop.run("openssl pkey -in key.pem -pubout -out public.pem");
            assert!(text(&workshop.read("key.pem")).starts_with("-----BEGIN EC PARAMETERS-----"));
            workshop.assert_serves("key.pem", None);
        }
    }

    #[test]
    fn serves_after_ec_parameters_in_der() {
        let workshop = Workshop::with_key();
        workshop.run("openssl ecparam -name prime256v1 -outform DER -out both.der");
        workshop.run("openssl ec -in key.pem -outform DER -out key.der");
        let both = [workshop.read("both.der"), workshop.read("key.der")].concat();
        workshop.write("both.der", &both);
        workshop.assert_serves("both.der", None);
    }

    #[test]
    fn serves_with_older_explicit_parameters() {
        let workshop = fixtures();
        for name in [
            "sec1-explicit.pem",
            "sec1-explicit-compressed-generator.pem",
            "sec1-explicit-bare.pem",
        ] {
            workshop.assert_signs(&open(&fixture(name), None));
        }
    }

    #[test]
    fn serves_encrypted_with_proc_type() {
        let workshop = Workshop::with_key();
        for (option, name) in [
            ("-aes128", "AES-128-CBC"),
            ("-aes192", "AES-192-CBC"),
            ("-aes256", "AES-256-CBC"),
            ("-des3", "DES-EDE3-CBC"),
        ] {
            workshop.run(&format!(
                "openssl ec -in key.pem {option} -passout pass:sésame -out encrypted.pem"
            ));
            workshop.assert_serves("encrypted.pem", Some("sésame"));
            let contents = workshop.read("encrypted.pem");
            assert!(text(&contents).contains(&format!("DEK-Info: {name},")));
        }
        let des = fixture("sec1-dek-des.pem");
        fixtures().assert_signs(&open(&des, Some("test")));
    }

    #[test]
    fn serves_as_ssh_keygen_writes_it() {
        Workshop::with_ssh_key("-m PEM -N ''").assert_serves("key", None);
        Workshop::with_ssh_key("-m PEM -N sesame").assert_serves("key", Some("sesame"));
    }
}

mod pkcs8 {
    use super::*;

    #[test]
    fn serves_in_every_form_that_openssl_writes() {
        let workshop = Workshop::with_key();
        for options in [
            "",
            "-outform DER",
            "-ec_param_enc explicit",
            "-ec_conv_form compressed",
            "-ec_param_enc explicit -ec_conv_form compressed",
        ] {
            workshop.run(&format!("openssl pkey -in key.pem {options} -out other"));
            workshop.assert_serves("other", None);
        }
        workshop.run("openssl ec -in key.pem -no_public -out bare.pem");
        workshop.run("openssl pkcs8 -topk8 -nocrypt -in bare.pem -out other");
        workshop.assert_serves("other", None);
        workshop.run(
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out generated.pem",
        );
        workshop.run("openssl pkey -in generated.pem -pubout -out public.pem");
        workshop.assert_serves("generated.pem", None);
    }

    #[test]
    fn serves_as_ssh_keygen_writes_it() {
        Workshop::with_ssh_key("-m PKCS8 -N ''").assert_serves("key", None);
        Workshop::with_ssh_key("-m PKCS8 -N sesame").assert_serves("key", Some("sesame"));
    }

    #[test]
    fn serves_with_the_public_part_outside_or_missing() {
        let workshop = fixtures();
        for name in ["pkcs8-v2.pem", "pkcs8-explicit-compressed-generator.pem"] {
            workshop.assert_signs(&open(&fixture(name), None));
        }
    }

    #[test]
    fn serves_in_every_pbes2_scheme() {
        let workshop = Workshop::with_key();
        for options in [
            "-v2 aes-128-cbc",
            "-v2 aes-192-cbc",
            "-v2 aes-256-cbc",
            "-v2 des3",
            "-v2prf hmacWithSHA1",
            "-v2prf hmacWithSHA224",
            "-v2prf hmacWithSHA384",
            "-v2prf hmacWithSHA512",
            "-scrypt",
            "-scrypt -v2 aes-192-cbc",
            "-outform DER",
        ] {
            workshop.run(&format!(
                "openssl pkcs8 -topk8 -in key.pem {options} -passout pass:sésame -out encrypted"
            ));
            workshop.assert_serves("encrypted", Some("sésame"));
        }
    }

    #[test]
    fn serves_in_the_schemes_before_pbes2() {
        let workshop = Workshop::with_key();
        for passphrase in ["sesame", "sésame", "🔑 sesame", ""] {
            fs::write(workshop.path("passphrase"), format!("{passphrase}\n")).unwrap();
            workshop.run(
                "openssl pkcs8 -topk8 -in key.pem -v1 PBE-SHA1-3DES -passout file:passphrase \
                 -out encrypted.pem",
            );
            workshop.assert_serves("encrypted.pem", Some(passphrase));
        }
        let workshop = fixtures();
        for name in ["PBE-SHA1-2DES", "PBE-MD5-DES", "PBE-SHA1-DES"] {
            let contents = fixture(&format!("pkcs8-{}.pem", name.to_ascii_lowercase()));
            workshop.assert_signs(&open(&contents, Some("test")));
        }
    }

    #[test]
    fn serves_with_an_empty_passphrase() {
        let workshop = Workshop::with_key();
        workshop.run("openssl pkcs8 -topk8 -in key.pem -passout pass: -out encrypted.pem");
        workshop.assert_serves("encrypted.pem", Some(""));
    }
}

mod openssh {
    use super::*;

    #[test]
    fn serves_plain() {
        Workshop::with_ssh_key("-N ''").assert_serves("key", None);
    }

    #[test]
    fn serves_under_every_cipher_of_ssh_keygen() {
        for cipher in [
            "aes128-cbc",
            "aes192-cbc",
            "aes256-cbc",
            "aes128-ctr",
            "aes192-ctr",
            "aes256-ctr",
            "aes128-gcm@openssh.com",
            "aes256-gcm@openssh.com",
            "chacha20-poly1305@openssh.com",
            "3des-cbc",
        ] {
            let workshop = Workshop::with_ssh_key(&format!("-N sésame -a 1 -Z {cipher}"));
            workshop.assert_serves("key", Some("sésame"));
        }
    }

    /// OpenSSH drops leading zeros, so one key in 256 has a shorter private number.
    #[test]
    fn serves_with_a_short_private_number() {
        for zeros in [1, 2, 9] {
            let mut scalar = [0xa5; 32];
            scalar[..zeros].fill(0);
            let head = [0x30, 0x31, 2, 1, 1, 4, 0x20].as_slice();
            let curve = [0xa0, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
            let key = open(&[head, &scalar, &curve].concat(), None);
            let workshop = Workshop::new();
            workshop.write("public.pem", key.public_key().to_pem().as_bytes());
            let sec1 = keyfile::encode(&key, Format::Sec1, None, "").unwrap();
            workshop.write("key", sec1.as_bytes());
            workshop.run("ssh-keygen -p -P '' -N '' -f key");
            assert!(workshop.read("key").starts_with(b"-----BEGIN OPENSSH"));
            workshop.assert_serves("key", None);
            let openssh = keyfile::encode(&key, Format::Openssh, None, "").unwrap();
            workshop.write("ours", openssh.as_bytes());
            let line = workshop.run("ssh-keygen -y -f ours");
            assert_eq!(text(&line).trim(), key.public_key().to_openssh(""));
        }
    }
}

mod wrapping {
    use super::*;

    #[test]
    fn base64_of_der_without_pem_lines() {
        let workshop = Workshop::with_key();
        for command in [
            "openssl ec -in key.pem -outform DER -out key.der",
            "openssl pkey -in key.pem -outform DER -out key.der",
        ] {
            workshop.run(command);
            workshop.run("openssl base64 -in key.der -out wrapped");
            workshop.assert_serves("wrapped", None);
            workshop.run("openssl base64 -A -in key.der -out one-line");
            workshop.assert_serves("one-line", None);
        }
        let workshop = Workshop::with_ssh_key("-N ''");
        let lines = workshop.read("key");
        let lines: Vec<&str> = text(&lines).lines().collect();
        workshop.write("base64", lines[1..lines.len() - 1].concat().as_bytes());
        workshop.assert_serves("base64", None);
    }

    #[test]
    fn line_ends_marks_and_text_around() {
        let workshop = Workshop::with_key();
        let key = workshop.read("key.pem");
        let key = text(&key);
        workshop.run("openssl ec -in key.pem -aes128 -passout pass:sesame -out encrypted.pem");
        let encrypted = workshop.read("encrypted.pem");
        let encrypted = text(&encrypted);
        let utf16 = |text: &str| text.encode_utf16().collect::<Vec<u16>>();
        for (key, passphrase) in [(key, None), (encrypted, Some("sesame"))] {
            for contents in [
                key.replace('\n', "\r\n").into_bytes(),
                key.replace('\n', "\r").into_bytes(),
                key.trim_end().into(),
                format!("\u{feff}{key}").into_bytes(),
                [b"Caf\xe9: \0\xff\n".as_slice(), key.as_bytes()].concat(),
                format!("Bag Attributes\n    friendlyName: k\n{key}\n-- \nbye").into_bytes(),
                key.lines()
                    .map(|line| format!("  {line} \n"))
                    .collect::<String>()
                    .into(),
                utf16(&format!("\u{feff}{key}"))
                    .iter()
                    .flat_map(|u| u.to_le_bytes())
                    .collect(),
                utf16(&format!("\u{feff}{key}"))
                    .iter()
                    .flat_map(|u| u.to_be_bytes())
                    .collect(),
            ] {
                workshop.assert_signs(&open(&contents, passphrase));
            }
        }
        workshop.assert_signs(&open(key.replace('\n', " ").as_bytes(), None));
    }

    #[test]
    fn certificates_and_public_keys_beside() {
        let workshop = Workshop::with_key();
        workshop.run("openssl req -x509 -new -key key.pem -subj /CN=test -out cert.pem");
        let [key, cert, public] =
            ["key.pem", "cert.pem", "public.pem"].map(|name| workshop.read(name));
        let broken = b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n".to_vec();
        for files in [
            [&cert, &key, &public],
            [&key, &cert, &public],
            [&public, &cert, &key],
            [&broken, &key, &broken],
        ] {
            workshop.assert_signs(&open(&files.map(Vec::as_slice).concat(), None));
        }
    }

    /// Only what is inside counts.
    #[test]
    fn label_is_ignored() {
        let workshop = Workshop::with_key();
        let key = workshop.read("key.pem");
        let mislabelled = text(&key).replace("EC PRIVATE KEY", "PRIVATE KEY");
        workshop.assert_signs(&open(mislabelled.as_bytes(), None));
    }
}

mod written {
    use super::*;

    fn workshop(key: &PrivateKey, format: Format, passphrase: Option<&[u8]>) -> Workshop {
        let workshop = Workshop::new();
        workshop.write("public.pem", key.public_key().to_pem().as_bytes());
        let pem = keyfile::encode(key, format, passphrase, "a comment").unwrap();
        assert!(pem.ends_with("-----\n"));
        workshop.write("key", pem.as_bytes());
        workshop
    }

    #[test]
    fn openssl_reads_what_is_written() {
        let key = PrivateKey::generate();
        for (format, passphrase, label) in [
            (Format::Pkcs8, None, "PRIVATE KEY"),
            (Format::Pkcs8, Some("sésame"), "ENCRYPTED PRIVATE KEY"),
            (Format::Pkcs8, Some(""), "ENCRYPTED PRIVATE KEY"),
            (Format::Sec1, None, "EC PRIVATE KEY"),
            (Format::Sec1, Some("sésame"), "EC PRIVATE KEY"),
        ] {
            let workshop = workshop(&key, format, passphrase.map(str::as_bytes));
            let begin = format!("-----BEGIN {label}-----\n");
            assert!(text(&workshop.read("key")).starts_with(&begin));
            let pass = passphrase.unwrap_or("unused");
            workshop.run(&format!(
                "openssl pkey -in key -passin pass:{pass} -pubout -out read.pem"
            ));
            assert_eq!(workshop.read("read.pem"), workshop.read("public.pem"));
            let shown = workshop.run(&format!("openssl ec -in key -passin pass:{pass} -text"));
            assert!(text(&shown).contains("\npub:"));
            workshop.assert_serves("key", passphrase);
        }
    }

    #[test]
    fn ssh_keygen_reads_what_is_written() {
        let key = PrivateKey::generate();
        for passphrase in [None, Some("sésame")] {
            let workshop = workshop(&key, Format::Openssh, passphrase.map(str::as_bytes));
            let pass = passphrase.unwrap_or("''");
            let line = workshop.run(&format!("ssh-keygen -y -P {pass} -f key"));
            assert_eq!(
                text(&line).trim_end(),
                key.public_key().to_openssh("a comment")
            );
            workshop.assert_serves("key", passphrase);
        }
    }

    #[test]
    fn ssh_keygen_reads_the_other_formats() {
        let key = PrivateKey::generate();
        for (format, passphrase) in [
            (Format::Pkcs8, None),
            (Format::Pkcs8, Some("sesame")),
            (Format::Sec1, None),
            (Format::Sec1, Some("sesame")),
        ] {
            let workshop = workshop(&key, format, passphrase.map(str::as_bytes));
            let pass = passphrase.unwrap_or("''");
            let line = workshop.run(&format!("ssh-keygen -y -P {pass} -f key"));
            assert_eq!(text(&line).trim_end(), key.public_key().to_openssh(""));
        }
    }

    #[test]
    fn empty_passphrase_is_rejected_where_programs_reject_it() {
        let key = PrivateKey::generate();
        let refusal = |format| told(&keyfile::encode(&key, format, Some(b""), "").unwrap_err());
        assert_eq!(
            refusal(Format::Sec1),
            "a SEC1 private key cannot be encrypted with an empty passphrase\n\
             use a passphrase, or leave the key unencrypted"
        );
        assert_eq!(
            refusal(Format::Openssh),
            "an OpenSSH private key cannot be encrypted with an empty passphrase\n\
             use a passphrase, or leave the key unencrypted"
        );
    }

    #[test]
    fn debug_output_shows_the_public_half_alone() {
        let key = PrivateKey::generate();
        let fingerprint = key.public_key().fingerprint();
        assert_eq!(
            format!("{key:?}"),
            format!("PrivateKey {{ public_key: {fingerprint:?}, .. }}")
        );
    }
}

mod rejected {
    use super::*;
    use crate::support::{qkey::Qkey, session::assert_session, shell::prints};

    /// `key.pem`, its certificate, and a key of `ssh-keygen`'s, with the fixtures in `$F`.
    fn with_keys() -> Qkey {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/keys");
        let qkey = Qkey::new().env("F", fixtures).env("PASS", "sesame");
        prints(
            &qkey,
            "cp alice.pem key.pem && openssl ec -in key.pem -out sec1.pem
             openssl pkey -in key.pem -pubout -out public.pem
             openssl req -x509 -new -key key.pem -subj /CN=test -out cert.pem
             ssh-keygen -q -t ecdsa -N '' -C comment -f ssh
             openssl genrsa -traditional -out rsa.pem 1024",
        );
        qkey
    }

    #[test]
    fn other_curves_and_algorithms() {
        assert_session!(
            with_keys(),
            str![[r#"
$ openssl ecparam -genkey -name secp384r1 -noout | qkey pubkey -
$ openssl ecparam -genkey -name secp384r1 -noout | openssl pkey | qkey pubkey -
$ openssl ecparam -genkey -name secp384r1 -noout | openssl ec -aes128 -passout env:PASS 2>/dev/null | qkey pubkey -- '-?passphrase-env=PASS'
$ openssl ecparam -genkey -name secp384r1 -noout | openssl pkcs8 -topk8 -passout env:PASS | qkey pubkey -- '-?passphrase-env=PASS'
$ ssh-keygen -q -t ecdsa -b 384 -N '' -f tecdsab384 && qkey pubkey - <tecdsab384
$ ssh-keygen -q -t ecdsa -b 384 -N sesame -f tecdsab384sesame && qkey pubkey - <tecdsab384sesame
--- exit 3
error: cannot use the key file -
  caused by: the private key is on the curve P-384 (secp384r1), not P-256
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ openssl ecparam -genkey -name secp521r1 -noout | qkey pubkey -
$ openssl ecparam -genkey -name secp521r1 -noout | openssl pkey | qkey pubkey -
$ ssh-keygen -q -t ecdsa -b 521 -N '' -f tecdsab521 && qkey pubkey - <tecdsab521
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is on the curve P-521 (secp521r1), not P-256
$ openssl ecparam -genkey -name secp224r1 -noout | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is on the curve P-224 (secp224r1), not P-256
$ openssl ecparam -genkey -name secp256k1 -noout | qkey pubkey -
$ openssl ecparam -genkey -name secp256k1 -noout | openssl pkey | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is on the curve secp256k1, not P-256
$ openssl ecparam -genkey -name brainpoolP256r1 -noout | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is on the curve brainpoolP256r1, not P-256
$ openssl ecparam -genkey -name sect283r1 -noout | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is on the curve 1.3.132.0.17, not P-256
$ openssl ecparam -genkey -name secp384r1 -param_enc explicit -noout | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is on explicit curve parameters that are not P-256: the prime of its field (384 bits) differs
$ openssl ecparam -genkey -name secp256k1 -param_enc explicit -noout | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is on explicit curve parameters that are not P-256: the prime of its field (256 bits) differs
$ openssl ecparam -genkey -name sect283r1 -param_enc explicit -noout | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is on explicit curve parameters that are not P-256: the kind of its field differs
$ qkey pubkey - <rsa.pem
$ openssl rsa -in rsa.pem -traditional -outform DER 2>/dev/null | qkey pubkey -
$ openssl rsa -in rsa.pem -traditional -aes128 -passout env:PASS 2>/dev/null | qkey pubkey -
$ openssl pkey -in rsa.pem | qkey pubkey -
$ ssh-keygen -q -t rsa -b 1024 -N sesame -f trsab1024sesame && qkey pubkey - <trsab1024sesame
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is RSA, not ECDSA P-256
$ openssl genpkey -algorithm Ed25519 | qkey pubkey -
$ ssh-keygen -q -t ed25519 -N '' -f ted25519 && qkey pubkey - <ted25519
$ ssh-keygen -q -t ed25519 -N sesame -f ted25519sesame && qkey pubkey - <ted25519sesame
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is Ed25519, not ECDSA P-256
$ openssl genpkey -algorithm Ed448 | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is Ed448, not ECDSA P-256
$ openssl genpkey -algorithm X25519 | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is X25519, not ECDSA P-256
$ qkey pubkey - <$F/pkcs8-dsa.pem
$ qkey pubkey - <$F/openssh-dsa
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is DSA, not ECDSA P-256
$ qkey pubkey - <$F/openssh-sk-ecdsa
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is on a FIDO security key (sk-ecdsa-sha2-nistp256@openssh.com), which signs more than the challenge

"#]]
        );
    }

    #[test]
    fn files_without_one_private_key() {
        assert_session!(
            with_keys(),
            str![[r#"
$ qkey pubkey - <public.pem
$ qkey pubkey - <ssh.pub
$ ssh-keygen -e -m RFC4716 -f ssh.pub | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: no private key in the file, only a public key
hint: the private key is in another file, often with the same name without .pub
$ qkey pubkey - <cert.pem
$ openssl x509 -in cert.pem -outform DER | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: no private key in the file, only a certificate
hint: the private key is in another file, often with the same name and .key
$ cat public.pem cert.pem cert.pem | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: no private key in the file, only a public key and a certificate
hint: the private key is in another file, often with the same name without .pub
$ openssl req -new -key key.pem -subj /CN=test | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: no private key in the file, only a certificate signing request
hint: the private key is in another file, often with the same name and .key
$ openssl ecparam -name prime256v1 | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: no private key in the file, only curve parameters
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ printf -- '-----BEGIN PKCS7-----\nMAA=\n-----END PKCS7-----' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: no private key in the file, only PKCS#7 certificates
hint: the private key is in another file, often with the same name and .key
$ printf '0\0' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: no private key in the file, only DER of an unknown kind
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ cat key.pem key.pem | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: 2 private keys in one file
hint: keep one private key in the file, or copy it to a new file
$ cat key.pem $F/pkcs8-dsa.pem $F/openssh-dsa | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: 3 private keys in one file
$ openssl pkcs12 -export -inkey key.pem -in cert.pem -passout env:PASS | tee key.p12 | qkey pubkey -
$ openssl base64 -in key.p12 | qkey pubkey -
$ printf '\060\200\002\001\003\060\200' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: a PKCS#12 archive, which qkey does not read
hint: extract the key: `openssl pkcs12 -in FILE -nocerts -out key.pem`
$ printf 'PuTTY-User-Key-File-3: ecdsa-sha2-nistp256\r\nEncryption: none\r\n' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: a PuTTY private key, which qkey does not read
hint: convert it: `puttygen FILE -O private-openssh -o key`
$ printf '{"kty": "EC", "crv": "P-256", "x": "", "y": "", "d": ""}' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: the private scalar is 0 or too large for P-256
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ printf -- '---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nP2/56wAA\n' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: an ssh.com private key, which qkey does not read
hint: convert it: `ssh-keygen -i -f FILE > key.pem`
$ printf -- '-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlIYE\n=abcd\n-----END PGP PRIVATE KEY BLOCK-----' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: an OpenPGP private key, which qkey does not read
$ printf -- '-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: a private key that only its TPM can load, which qkey does not read
hint: use the `openssl` program, with the key source openssl:FILE?provider=tpm2,default
$ printf '' | qkey pubkey -
$ printf ' \r\n' | qkey pubkey -
$ printf '\357\273\277' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ printf 'hello, world' | qkey pubkey -
$ printf aGVsbG8sIHdvcmxk | qkey pubkey -
$ printf '{}' | qkey pubkey -
$ printf '\177ELF\002\001\001\000' | qkey pubkey -
$ printf '\377\376\000\330' | qkey pubkey -
$ printf '\377\376A' | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: neither PEM, DER, Base64 of DER, nor an OpenSSH key
hint: use an ECDSA P-256 key file from openssl, ssh-keygen, or `qkey generate key.pem`

"#]]
        );
    }

    #[test]
    fn damaged_files() {
        let qkey = with_keys();
        prints(
            &qkey,
            "openssl ec -in key.pem -aes128 -passout env:PASS -out legacy.pem
             openssl pkcs8 -topk8 -in key.pem -passout env:PASS -out encrypted.pem
             openssl ec -in sec1.pem -outform DER -out key.der
             openssl ec -in bob.pem -outform DER -out bob.der
             openssl ecparam -name prime256v1 -outform DER -out curve.der
             { printf '0%%\\002\\001\\001\\004\\040'; tail -c +8 key.der | head -c 32; } >bare.der
             { printf '0k\\002\\001\\001\\004\\040'; tail -c +8 key.der | head -c 32; tail -c 70 key.der; } >point.der",
        );
        assert_session!(
            qkey,
            str![[r#"
$ head -3 sec1.pem | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: the EC PRIVATE KEY block has no matching END line
hint: compare it with the original, or check it: `openssl pkey -in FILE -noout`, or for OpenSSH's format `ssh-keygen -y -f FILE`
$ tail -n +2 sec1.pem | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: a PEM block without a BEGIN line
$ sed '3,4d' sec1.pem | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the EC PRIVATE KEY block is truncated or damaged
$ sed '2s/^M/*/' sec1.pem | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the EC PRIVATE KEY block is not valid Base64
$ head -c 80 key.der | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the DER is truncated or damaged
$ sed '5,6d' ssh | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the OpenSSH private key is truncated or damaged
$ sed '3d' legacy.pem | qkey pubkey -
$ sed '3s/,.*//' legacy.pem | qkey pubkey -
$ sed '3s/,.*/,00/' legacy.pem | qkey pubkey -
$ sed '3s/,.*/,*/' legacy.pem | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the encryption header of the EC PRIVATE KEY block is truncated or damaged
$ sed '6s/.*/AAAA/;7d' legacy.pem | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the EC PRIVATE KEY block is truncated or damaged
$ sed '3,6d' encrypted.pem | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the ENCRYPTED PRIVATE KEY block is truncated or damaged
$ { head -c -64 key.der; tail -c 64 bob.der; } | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: the public and private parts of the key do not match
hint: if the private part is the right one, drop the other: `openssl ec -in FILE -no_public -out key.pem`
$ { printf '01\002\001\001\004\040'; head -c 32 /dev/zero; printf '\240\012'; cat curve.der; } | qkey pubkey -
$ { printf '01\002\001\001\004\040'; head -c 32 /dev/zero | tr '\0' '\377'; printf '\240\012'; cat curve.der; } | qkey pubkey -
$ { printf '01\002\001\001\004\040\377\377\377\377\0\0\0\0\377\377\377\377\377\377\377\377\274\346\372\255\247\027\236\204\363\271\312\302\374\143\045\121\240\012'; cat curve.der; } | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: the private scalar is 0 or too large for P-256
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ qkey pubkey - <bare.der
--- exit 3
error: cannot use the key file -
  caused by: the private key does not name its curve
hint: if it is a P-256 key, prepend its curve: `openssl ecparam -name prime256v1 -out key.pem`, then `cat FILE >> key.pem`
$ cat curve.der bare.der | qkey pubkey - --format base64
$ qkey pubkey - --format base64 <point.der
[ALICE]

"#]]
        );
    }

    #[test]
    fn wrong_passphrases_and_unknown_encryption() {
        let qkey = with_keys().env("WRONG", "Sesame").env("EMPTY", "");
        prints(
            &qkey,
            "openssl ec -in key.pem -aes128 -passout env:PASS -out legacy.pem
             ssh-keygen -q -p -N sesame -a 1 -f ssh",
        );
        assert_session!(
            qkey,
            str![[r#"
$ qkey pubkey -- '-?passphrase-env=WRONG' <legacy.pem
$ qkey pubkey -- '-?passphrase-env=EMPTY' <legacy.pem
$ qkey pubkey -- '-?passphrase-env=EMPTY' <ssh
--- exit 3
error: cannot use the key file -
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in FILE -noout`, or for OpenSSH's format `ssh-keygen -y -f FILE`
$ qkey pubkey - <$F/pkcs8-pbe-sha1-rc4-128.pem
--- exit 3
error: cannot use the key file -
  caused by: the private key is encrypted with PBE-SHA1-RC4-128, which qkey does not read
hint: re-encrypt it: `openssl pkcs8 -topk8 -v2 aes-256-cbc -provider legacy -provider default -in FILE -out key.pem`
$ qkey pubkey - <$F/pkcs8-pbe-sha1-rc2-40.pem
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is encrypted with PBE-SHA1-RC2-40, which qkey does not read
$ openssl ec -in key.pem -camellia256 -passout env:PASS 2>/dev/null | qkey pubkey -
--- exit 3, hint as above
error: cannot use the key file -
  caused by: the private key is encrypted with CAMELLIA-256-CBC, which qkey does not read
$ openssl pkcs8 -topk8 -in key.pem -v2 aria256 -passout env:PASS | qkey pubkey -
--- exit 3
error: cannot use the key file -
  caused by: the private key is encrypted with ARIA-256-CBC, which qkey does not read
hint: re-encrypt it: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out key.pem`

"#]]
        );
    }

    #[test]
    fn public_keys() {
        let qkey = with_keys().env("V", "verify --signature=AAAA x --public-key");
        prints(
            &qkey,
            "openssl pkey -pubin -in public.pem -outform DER -out public.der",
        );
        assert_session!(
            qkey,
            str![[r#"
$ printf '' | qkey $V -
--- exit 3
error: cannot use the public key
  caused by: the file is empty
hint: use the public half of an ECDSA P-256 key: `qkey pubkey KEY`
$ printf hello | qkey $V -
--- exit 3, hint as above
error: cannot use the public key
  caused by: neither PEM, DER, Base64 of DER, nor an OpenSSH public key
$ qkey $V key.pem
--- exit 3
error: cannot use the public key
  caused by: a private key instead of a public key
hint: extract its public half: `qkey pubkey key.pem`
$ printf '{"kty": "EC"}' | qkey $V -
--- exit 3
error: cannot use the public key
  caused by: the JSON Web Key is truncated or damaged
hint: compare it with the original, or extract it from the private key again: `qkey pubkey KEY`
$ openssl req -new -key key.pem -subj /CN=test | qkey $V -
--- exit 3
error: cannot use the public key
  caused by: no public key found, only a certificate signing request
hint: extract its public key: `openssl req -in - -noout -pubkey -out public.pem`
$ { cat public.pem; openssl pkey -in bob.pem -pubout; } | qkey $V -
--- exit 3
error: cannot use the public key
  caused by: 2 different public keys in one file
hint: keep one public key in the file
$ openssl rsa -in rsa.pem -pubout 2>/dev/null | qkey $V -
$ openssl rsa -in rsa.pem -RSAPublicKey_out 2>/dev/null | qkey $V -
$ openssl req -x509 -new -key rsa.pem -subj /CN=test | qkey $V -
--- exit 3
error: cannot use the public key
  caused by: the public key is RSA, not ECDSA P-256
hint: use the public half of an ECDSA P-256 key: `qkey pubkey KEY`
$ openssl ecparam -genkey -name secp384r1 -noout | openssl ec -pubout 2>/dev/null | qkey $V -
--- exit 3, hint as above
error: cannot use the public key
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
$ ssh-keygen -q -t ed25519 -N '' -f k && qkey $V - <k.pub
--- exit 3, hint as above
error: cannot use the public key
  caused by: the public key is Ed25519, not ECDSA P-256
$ head -c 100 public.pem | qkey $V -
--- exit 3
error: cannot use the public key
  caused by: the PUBLIC KEY block has no matching END line
hint: compare it with the original, or extract it from the private key again: `qkey pubkey KEY`
$ sed '2s/^M/*/' public.pem | qkey $V -
--- exit 3, hint as above
error: cannot use the public key
  caused by: the PUBLIC KEY block is not valid Base64
$ head -c 60 public.der | qkey $V -
--- exit 3, hint as above
error: cannot use the public key
  caused by: the DER is truncated or damaged
$ { head -c -1 public.der; printf x; } | qkey $V -
--- exit 3, hint as above
error: cannot use the public key
  caused by: the point of the public key is not on P-256
$ head -c 80 ssh.pub | qkey $V -
--- exit 3, hint as above
error: cannot use the public key
  caused by: the OpenSSH public key is truncated or damaged

"#]]
        );
    }
}

mod public {
    use super::*;
    use qkey::public_key::Error;

    #[test]
    fn serves_in_every_form_that_openssl_writes() {
        let workshop = Workshop::with_key();
        let public = open(&workshop.read("key.pem"), None).public_key();
        workshop.run("openssl req -x509 -new -key key.pem -subj /CN=test -out cert.pem");
        for command in [
            "openssl ec -in key.pem -pubout",
            "openssl ec -in key.pem -pubout -outform DER",
            "openssl ec -in key.pem -pubout -conv_form compressed",
            "openssl ec -in key.pem -pubout -conv_form hybrid -outform DER",
            "openssl ec -in key.pem -pubout -param_enc explicit",
            "openssl ec -in key.pem -pubout -param_enc explicit -conv_form compressed",
            "openssl x509 -in cert.pem",
            "openssl x509 -in cert.pem -text",
            "openssl x509 -in cert.pem -trustout -addtrust serverAuth",
            "openssl x509 -in cert.pem -outform DER",
            "openssl x509 -in cert.pem -pubkey",
        ] {
            let read = PublicKey::from_any(&workshop.run(command));
            assert_eq!(read.as_ref(), Ok(&public), "{command}");
        }
        let both = [workshop.read("key.pem"), workshop.read("cert.pem")].concat();
        assert_eq!(PublicKey::from_any(&both).unwrap(), public);
        let fixture = fixture("public-explicit-compressed-generator.pem");
        assert!(PublicKey::from_any(&fixture).is_ok());
    }

    #[test]
    fn serves_in_every_form_that_ssh_keygen_writes() {
        let workshop = Workshop::with_ssh_key("-N ''");
        let public = open(&workshop.read("key"), None).public_key();
        let line = workshop.read("key.pub");
        let line = text(&line);
        let rfc4716 = workshop.run("ssh-keygen -e -m RFC4716 -f key.pub");
        let continued = text(&rfc4716).replace("Comment: \"", "Comment: \"a \\\nb: ");
        for contents in [
            line.as_bytes(),
            line.replace('\n', "\r\n").as_bytes(),
            format!("\u{feff}# mine\n\n{line}").as_bytes(),
            format!("from=\"a,b c\",no-pty {line}{line}").as_bytes(),
            &rfc4716,
            continued.as_bytes(),
            &workshop.run("ssh-keygen -e -m PKCS8 -f key.pub"),
        ] {
            assert_eq!(PublicKey::from_any(contents), Ok(public.clone()));
        }
    }

    #[test]
    fn serves_as_a_cluster_shows_it() {
        let public = PrivateKey::generate().public_key();
        let base64 = public.to_base64();
        assert_eq!(PublicKey::from_base64(&base64), Ok(public.clone()));
        assert_eq!(PublicKey::from_any(base64.as_bytes()), Ok(public.clone()));
        let wrapped = format!("{}\r\n{}\r\n", &base64[..64], &base64[64..]);
        assert_eq!(PublicKey::from_any(wrapped.as_bytes()), Ok(public.clone()));
        assert_eq!(PublicKey::from_pem(&public.to_pem()), Ok(public.clone()));
        assert_eq!(PublicKey::from_der(&public.to_der()), Ok(public.clone()));
        assert_eq!(PublicKey::from_sec1(&public.to_sec1()), Ok(public));
    }

    #[test]
    fn ssh_keygen_shows_the_same_fingerprint() {
        let workshop = Workshop::with_ssh_key("-N ''");
        let public = open(&workshop.read("key"), None).public_key();
        let shown = workshop.run("ssh-keygen -lf key.pub");
        let fingerprint = text(&shown).split_ascii_whitespace().nth(1).unwrap();
        assert_eq!(public.fingerprint(), fingerprint);
        assert_eq!(public.short_fingerprint(), fingerprint[..7 + 12]);
        let line = workshop.read("key.pub");
        assert_eq!(public.to_openssh("comment"), text(&line).trim_end());
        assert_eq!(
            public.to_openssh(" two\nlines "),
            format!("{} two lines", public.to_openssh(""))
        );
    }

    #[test]
    fn damaged_values() {
        assert_eq!(
            PublicKey::from_base64("*"),
            Err(Error::NotBase64("public key".into()))
        );
        assert_eq!(PublicKey::from_pem("text"), Err(Error::NotPem));
        assert_eq!(PublicKey::from_sec1(&[0]), Err(Error::NotAPoint));
    }
}
