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

    /// One with a key of `ssh-keygen`'s in `key` and `key.pub`.
    fn with_ssh_key_of_any_kind(options: &str) -> Self {
        let workshop = Self::new();
        workshop.run(&format!("ssh-keygen -q -C comment -f key {options}"));
        workshop
    }

    /// One with a P-256 key of `ssh-keygen`'s, and its public half also in `public.pem`.
    fn with_ssh_key(options: &str) -> Self {
        let workshop = Self::with_ssh_key_of_any_kind(&format!("-t ecdsa {options}"));
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

/// An error and its hint, in two lines.
#[track_caller]
fn refusal(contents: &[u8]) -> String {
    told(&keyfile::parse(contents).unwrap_err())
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
    fn a_wrong_label() {
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
    fn an_empty_passphrase_goes_where_programs_take_one() {
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

mod refused {
    use super::*;

    const MAKE_ONE: &str = "create an ECDSA P-256 key: `qkey generate key.pem`";
    const COMPARE: &str = "compare it with the original, or check it: `openssl pkey -in FILE -noout`, or for OpenSSH's \
         format `ssh-keygen -y -f FILE`";

    /// A refusal whose hint is [`MAKE_ONE`] or [`COMPARE`].
    #[track_caller]
    fn assert_refused(contents: &[u8], message: &str, hint: &str) {
        assert_eq!(refusal(contents), format!("{message}\n{hint}"));
    }

    #[test]
    fn other_curves() {
        let workshop = Workshop::new();
        for (curve, name) in [
            ("secp384r1", "P-384 (secp384r1)"),
            ("secp521r1", "P-521 (secp521r1)"),
            ("secp224r1", "P-224 (secp224r1)"),
            ("secp256k1", "secp256k1"),
            ("brainpoolP256r1", "brainpoolP256r1"),
            ("sect283r1", "1.3.132.0.17"),
        ] {
            let message = format!("the private key is on the curve {name}, not P-256");
            workshop.run(&format!(
                "openssl ecparam -genkey -name {curve} -noout -out key.pem"
            ));
            assert_refused(&workshop.read("key.pem"), &message, MAKE_ONE);
            workshop.run("openssl pkey -in key.pem -out pkcs8.pem");
            assert_refused(&workshop.read("pkcs8.pem"), &message, MAKE_ONE);
        }
    }

    #[test]
    fn other_curves_once_they_are_decrypted() {
        let workshop = Workshop::new();
        workshop.run("openssl ecparam -genkey -name secp384r1 -noout -out key.pem");
        for command in [
            "openssl ec -in key.pem -aes128 -passout pass:sesame -out encrypted.pem",
            "openssl pkcs8 -topk8 -in key.pem -passout pass:sesame -out encrypted.pem",
        ] {
            workshop.run(command);
            let KeyFile::Encrypted(key) = keyfile::parse(&workshop.read("encrypted.pem")).unwrap()
            else {
                panic!("the key is not encrypted")
            };
            assert_eq!(
                told(&key.decrypt(b"sesame").unwrap_err()),
                format!("the private key is on the curve P-384 (secp384r1), not P-256\n{MAKE_ONE}")
            );
        }
    }

    #[test]
    fn other_curves_written_out() {
        let workshop = Workshop::new();
        for (curve, what) in [
            ("secp384r1", "the prime of its field (384 bits)"),
            ("secp256k1", "the prime of its field (256 bits)"),
            ("sect283r1", "the kind of its field"),
        ] {
            workshop.run(&format!(
                "openssl ecparam -genkey -name {curve} -param_enc explicit -noout -out key.pem"
            ));
            let message = format!(
                "the private key is on explicit curve parameters that are not P-256: {what} differs"
            );
            assert_refused(&workshop.read("key.pem"), &message, MAKE_ONE);
        }
    }

    #[test]
    fn other_algorithms() {
        let workshop = Workshop::new();
        let message = |name: &str| format!("the private key is {name}, not ECDSA P-256");
        workshop.run("openssl genrsa -traditional -out key.pem 1024");
        assert_refused(&workshop.read("key.pem"), &message("RSA"), MAKE_ONE);
        for command in [
            "openssl rsa -in key.pem -traditional -outform DER -out other",
            "openssl rsa -in key.pem -traditional -aes128 -passout pass:sesame -out other",
            "openssl pkey -in key.pem -out other",
        ] {
            workshop.run(command);
            assert_refused(&workshop.read("other"), &message("RSA"), MAKE_ONE);
        }
        for name in ["Ed25519", "Ed448", "X25519"] {
            workshop.run(&format!("openssl genpkey -algorithm {name} -out key.pem"));
            assert_refused(&workshop.read("key.pem"), &message(name), MAKE_ONE);
        }
        assert_refused(&fixture("pkcs8-dsa.pem"), &message("DSA"), MAKE_ONE);
    }

    /// Encrypted or not: their public half tells.
    #[test]
    fn other_openssh_keys() {
        for (options, what) in [
            ("-t rsa -b 1024", "RSA, not ECDSA P-256"),
            ("-t ed25519", "Ed25519, not ECDSA P-256"),
            (
                "-t ecdsa -b 384",
                "on the curve P-384 (secp384r1), not P-256",
            ),
            (
                "-t ecdsa -b 521",
                "on the curve P-521 (secp521r1), not P-256",
            ),
        ] {
            for passphrase in ["''", "sesame"] {
                let options = format!("{options} -N {passphrase} -a 1");
                let workshop = Workshop::with_ssh_key_of_any_kind(&options);
                let message = format!("the private key is {what}");
                assert_refused(&workshop.read("key"), &message, MAKE_ONE);
            }
        }
        assert_refused(
            &fixture("openssh-dsa"),
            "the private key is DSA, not ECDSA P-256",
            MAKE_ONE,
        );
        assert_refused(
            &fixture("openssh-sk-ecdsa"),
            "the private key is on a FIDO security key (sk-ecdsa-sha2-nistp256@openssh.com), \
             which signs more than the challenge",
            MAKE_ONE,
        );
    }

    #[test]
    fn files_without_a_private_key() {
        let workshop = Workshop::with_key();
        let ssh = Workshop::with_ssh_key("-N ''");
        let without_pub =
            "the private key is in another file, often with the same name without .pub";
        let with_key = "the private key is in another file, often with the same name and .key";
        let only = |what| format!("no private key in the file, only {what}");

        let public = workshop.read("public.pem");
        assert_refused(&public, &only("a public key"), without_pub);
        assert_refused(&ssh.read("key.pub"), &only("a public key"), without_pub);
        let rfc4716 = ssh.run("ssh-keygen -e -m RFC4716 -f key.pub");
        assert_refused(&rfc4716, &only("a public key"), without_pub);
        workshop.run("openssl req -x509 -new -key key.pem -subj /CN=test -out cert.pem");
        let certificate = workshop.read("cert.pem");
        assert_refused(&certificate, &only("a certificate"), with_key);
        let both = [public, certificate.clone(), certificate].concat();
        assert_refused(&both, &only("a public key and a certificate"), without_pub);
        workshop.run("openssl x509 -in cert.pem -outform DER -out cert.der");
        assert_refused(&workshop.read("cert.der"), &only("a certificate"), with_key);
        let request = workshop.run("openssl req -new -key key.pem -subj /CN=test");
        assert_refused(&request, &only("a certificate signing request"), with_key);
        let parameters = workshop.run("openssl ecparam -name prime256v1");
        assert_refused(&parameters, &only("curve parameters"), MAKE_ONE);
        assert_refused(
            b"-----BEGIN PKCS7-----\nMAA=\n-----END PKCS7-----",
            &only("a PEM block of the kind PKCS7"),
            MAKE_ONE,
        );
        assert_refused(&[0x30, 0], &only("DER of an unknown kind"), MAKE_ONE);
    }

    #[test]
    fn several_private_keys() {
        let hint = "keep one private key in the file, or copy it to a new file";
        let workshop = Workshop::with_key();
        let key = workshop.read("key.pem");
        let two = [key.clone(), key.clone()].concat();
        assert_refused(&two, "2 private keys in one file", hint);
        let three = [key, fixture("pkcs8-dsa.pem"), fixture("openssh-dsa")].concat();
        assert_refused(&three, "3 private keys in one file", hint);
    }

    #[test]
    fn containers_of_others() {
        let workshop = Workshop::with_key();
        workshop.run("openssl req -x509 -new -key key.pem -subj /CN=test -out cert.pem");
        workshop.run(
            "openssl pkcs12 -export -inkey key.pem -in cert.pem -passout pass:sesame -out key.p12",
        );
        workshop.run("openssl base64 -in key.p12 -out key.b64");
        let ber = [0x30, 0x80, 2, 1, 3, 0x30, 0x80];
        for contents in [
            workshop.read("key.p12"),
            workshop.read("key.b64"),
            ber.into(),
        ] {
            assert_refused(
                &contents,
                "a PKCS#12 archive, which qkey does not read",
                "extract the key: `openssl pkcs12 -in FILE -nocerts -out key.pem`",
            );
        }
        assert_refused(
            b"PuTTY-User-Key-File-3: ecdsa-sha2-nistp256\r\nEncryption: none\r\n",
            "a PuTTY private key, which qkey does not read",
            "convert it: `puttygen FILE -O private-openssh -o key`",
        );
        assert_refused(
            br#"{"kty": "EC", "crv": "P-256", "x": "", "y": "", "d": ""}"#,
            "a JSON Web Key, which qkey does not read",
            "convert it: `step crypto key format --pem --out key.pem FILE`",
        );
        assert_refused(
            b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nP2/56wAA\n",
            "an ssh.com private key, which qkey does not read",
            "convert it: `ssh-keygen -i -f FILE > key.pem`",
        );
        assert_refused(
            b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlIYE\n=abcd\n-----END PGP PRIVATE KEY BLOCK-----",
            "an OpenPGP private key, which qkey does not read",
            "",
        );
        assert_refused(
            b"-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----",
            "a private key that only its TPM can load, which qkey does not read",
            "use the `openssl` program, with the key source openssl:FILE?provider=tpm2,default",
        );
    }

    #[test]
    fn damage() {
        let workshop = Workshop::with_key();
        let key = workshop.read("key.pem");
        let key = text(&key);
        let lines: Vec<&str> = key.lines().collect();
        assert_refused(
            lines[..3].join("\n").as_bytes(),
            "the EC PRIVATE KEY block has no matching END line",
            COMPARE,
        );
        assert_refused(
            lines[1..].join("\n").as_bytes(),
            "a PEM block without a BEGIN line",
            COMPARE,
        );
        assert_refused(
            [lines[0], lines[1], lines[4]].join("\n").as_bytes(),
            "the EC PRIVATE KEY block is truncated or damaged",
            COMPARE,
        );
        assert_refused(
            key.replace("\nM", "\n*").as_bytes(),
            "the EC PRIVATE KEY block is not valid Base64",
            COMPARE,
        );
        workshop.run("openssl pkey -in key.pem -outform DER -out key.der");
        assert_refused(
            &workshop.read("key.der")[..80],
            "the DER is truncated or damaged",
            COMPARE,
        );
        let ssh = Workshop::with_ssh_key("-N ''").read("key");
        let lines: Vec<&str> = text(&ssh).lines().collect();
        let last = lines.len() - 1;
        assert_refused(
            [&lines[..last - 2], &lines[last..]]
                .concat()
                .join("\n")
                .as_bytes(),
            "the OpenSSH private key is truncated or damaged",
            COMPARE,
        );
    }

    #[test]
    fn damage_to_encrypted_keys() {
        let workshop = Workshop::with_key();
        workshop.run("openssl ec -in key.pem -aes128 -passout pass:sesame -out encrypted.pem");
        let legacy = workshop.read("encrypted.pem");
        let legacy = text(&legacy);
        let header = "the encryption header of the EC PRIVATE KEY block is truncated or damaged";
        let dek_info = legacy.lines().nth(2).unwrap();
        for other in [
            "",
            "DEK-Info: AES-128-CBC",
            "DEK-Info: AES-128-CBC,00",
            "DEK-Info: AES-128-CBC,*",
        ] {
            assert_refused(legacy.replace(dek_info, other).as_bytes(), header, COMPARE);
        }
        let lines: Vec<&str> = legacy.lines().collect();
        assert_refused(
            [&lines[..5], &["AAAA"], &lines[lines.len() - 1..]]
                .concat()
                .join("\n")
                .as_bytes(),
            "the EC PRIVATE KEY block is truncated or damaged",
            COMPARE,
        );
        workshop.run("openssl pkcs8 -topk8 -in key.pem -passout pass:sesame -out encrypted.pem");
        let pkcs8 = workshop.read("encrypted.pem");
        let lines: Vec<&str> = text(&pkcs8).lines().collect();
        assert_refused(
            [&lines[..2], &lines[lines.len() - 1..]]
                .concat()
                .join("\n")
                .as_bytes(),
            "the ENCRYPTED PRIVATE KEY block is truncated or damaged",
            COMPARE,
        );
    }

    #[test]
    fn nothing_like_a_key() {
        assert_refused(b"", "the file is empty", MAKE_ONE);
        assert_refused(b" \r\n", "the file is empty", MAKE_ONE);
        assert_refused(b"\xef\xbb\xbf", "the file is empty", MAKE_ONE);
        let unrecognized = "neither PEM, DER, Base64 of DER, nor an OpenSSH key";
        let hint =
            "use an ECDSA P-256 key file from openssl, ssh-keygen, or `qkey generate key.pem`";
        for contents in [
            b"hello, world".as_slice(),
            b"aGVsbG8sIHdvcmxk",
            b"{}",
            b"\x7fELF\x02\x01\x01\0",
            b"\xff\xfe\x00\xd8",
            b"\xff\xfeA",
        ] {
            assert_refused(contents, unrecognized, hint);
        }
    }

    #[test]
    fn wrong_passphrases() {
        let workshop = Workshop::with_key();
        workshop.run("openssl ec -in key.pem -aes128 -passout pass:sesame -out encrypted.pem");
        let KeyFile::Encrypted(key) = keyfile::parse(&workshop.read("encrypted.pem")).unwrap()
        else {
            panic!("the key is not encrypted")
        };
        for passphrase in [b"Sesame".as_slice(), b"sesame\n", b""] {
            assert_eq!(
                told(&key.decrypt(passphrase).unwrap_err()),
                "wrong passphrase\n\
                 to test a passphrase: `openssl pkey -in FILE -noout`, or for OpenSSH's \
                 format `ssh-keygen -y -f FILE`"
            );
        }
        let workshop = Workshop::with_ssh_key("-N sesame -a 1");
        let KeyFile::Encrypted(key) = keyfile::parse(&workshop.read("key")).unwrap() else {
            panic!("the key is not encrypted")
        };
        assert_eq!(key.decrypt(b"").unwrap_err(), Error::WrongPassphrase);
    }

    #[test]
    fn encryption_that_is_not_read() {
        let refused = |scheme| {
            format!("the private key is encrypted with {scheme}, which qkey does not read")
        };
        let legacy = "re-encrypt it: `openssl pkcs8 -topk8 -v2 aes-256-cbc -provider legacy \
                      -provider default -in FILE -out key.pem`";
        for scheme in ["PBE-SHA1-RC4-128", "PBE-SHA1-RC2-40"] {
            let contents = fixture(&format!("pkcs8-{}.pem", scheme.to_ascii_lowercase()));
            assert_refused(&contents, &refused(scheme), legacy);
        }
        let workshop = Workshop::with_key();
        workshop.run("openssl ec -in key.pem -camellia256 -passout pass:sesame -out encrypted.pem");
        let contents = workshop.read("encrypted.pem");
        assert_refused(&contents, &refused("CAMELLIA-256-CBC"), legacy);
        workshop.run(
            "openssl pkcs8 -topk8 -in key.pem -v2 aria256 -passout pass:sesame -out encrypted.pem",
        );
        assert_refused(
            &workshop.read("encrypted.pem"),
            &refused("ARIA-256-CBC"),
            "re-encrypt it: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out key.pem`",
        );
    }

    #[test]
    fn a_public_part_of_another_key() {
        let workshop = Workshop::with_key();
        let other = Workshop::with_key();
        let der = "openssl ec -in key.pem -outform DER";
        let (key, other) = (workshop.run(der), other.run(der));
        let point = key.len() - 64;
        assert_refused(
            &[&key[..point], &other[point..]].concat(),
            "the public and private parts of the key do not match",
            "if the private part is the right one, drop the other: `openssl ec -in FILE -no_public \
             -out key.pem`",
        );
    }

    #[test]
    fn private_numbers_out_of_range() {
        let curve = [0xa0, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
        let order = b"\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\
                      \xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51";
        for scalar in [[0; 32], *order, [0xff; 32]] {
            assert_refused(
                &[&[0x30, 0x31, 2, 1, 1, 4, 0x20], scalar.as_slice(), &curve].concat(),
                "the private scalar is 0 or too large for P-256",
                MAKE_ONE,
            );
        }
    }

    #[test]
    fn a_key_that_names_no_curve() {
        let workshop = Workshop::with_key();
        let der = workshop.run("openssl ec -in key.pem -outform DER");
        let scalar = &der[7..39];
        let bare = [&[0x30, 0x25, 2, 1, 1, 4, 0x20], scalar].concat();
        assert_refused(
            &bare,
            "the private key does not name its curve",
            "if it is a P-256 key, prepend its curve: `openssl ecparam -name prime256v1 -out \
             key.pem`, then `cat FILE >> key.pem`",
        );
        let parameters = workshop.run("openssl ecparam -name prime256v1 -outform DER");
        workshop.assert_signs(&open(&[parameters.as_slice(), &bare].concat(), None));
        let point = &der[der.len() - 70..];
        let with_point = [&[0x30, 0x6b, 2, 1, 1, 4, 0x20], scalar, point].concat();
        workshop.assert_signs(&open(&with_point, None));
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

    #[track_caller]
    fn assert_refused(contents: &[u8], message: &str, hint: &str) {
        let error = PublicKey::from_any(contents).unwrap_err();
        let told = format!("{error}\n{}", error.hint().unwrap_or_default());
        assert_eq!(told, format!("{message}\n{hint}"));
    }

    const TAKE_ONE: &str = "use the public half of an ECDSA P-256 key: `qkey pubkey KEY`";
    const COMPARE: &str =
        "compare it with the original, or extract it from the private key again: `qkey pubkey KEY`";

    #[test]
    fn what_is_no_p256_public_key_is_refused_by_its_name() {
        let workshop = Workshop::with_key();
        assert_refused(b"", "the file is empty", TAKE_ONE);
        assert_refused(
            b"hello",
            "neither PEM, DER, Base64 of DER, nor an OpenSSH public key",
            TAKE_ONE,
        );
        assert_refused(
            &workshop.read("key.pem"),
            "a private key instead of a public key",
            "extract its public half: `qkey pubkey FILE`",
        );
        assert_refused(
            br#"{"kty": "EC"}"#,
            "a JSON Web Key, which qkey does not read",
            "convert it: `step crypto key format --pem --out key.pem FILE`",
        );
        assert_refused(
            &workshop.run("openssl req -new -key key.pem -subj /CN=test"),
            "no public key found, only a certificate signing request",
            "extract its public key: `openssl req -in FILE -noout -pubkey -out public.pem`",
        );
        let other = Workshop::with_key();
        assert_refused(
            &[workshop.read("public.pem"), other.read("public.pem")].concat(),
            "2 different public keys in one file",
            "keep one public key in the file",
        );
        workshop.run("openssl genrsa -out rsa.pem 1024");
        for command in [
            "openssl rsa -in rsa.pem -pubout",
            "openssl rsa -in rsa.pem -RSAPublicKey_out",
            "openssl req -x509 -new -key rsa.pem -subj /CN=test",
        ] {
            let message = "the public key is RSA, not ECDSA P-256";
            assert_refused(&workshop.run(command), message, TAKE_ONE);
        }
        workshop.run("openssl ecparam -genkey -name secp384r1 -noout -out p384.pem");
        assert_refused(
            &workshop.run("openssl ec -in p384.pem -pubout"),
            "the public key is on the curve P-384 (secp384r1), not P-256",
            TAKE_ONE,
        );
        assert_refused(
            &Workshop::with_ssh_key_of_any_kind("-t ed25519 -N ''").read("key.pub"),
            "the public key is Ed25519, not ECDSA P-256",
            TAKE_ONE,
        );
    }

    #[test]
    fn damage() {
        let public = PrivateKey::generate().public_key();
        let pem = public.to_pem();
        assert_refused(
            &pem.as_bytes()[..100],
            "the PUBLIC KEY block has no matching END line",
            COMPARE,
        );
        assert_refused(
            pem.replace("\nM", "\n*").as_bytes(),
            "the PUBLIC KEY block is not valid Base64",
            COMPARE,
        );
        let mut der = public.to_der();
        assert_refused(&der[..60], "the DER is truncated or damaged", COMPARE);
        *der.last_mut().unwrap() ^= 1;
        assert_refused(&der, "the point of the public key is not on P-256", COMPARE);
        assert_refused(
            &public.to_openssh("").as_bytes()[..80],
            "the OpenSSH public key is truncated or damaged",
            COMPARE,
        );
        assert_eq!(
            PublicKey::from_base64("*"),
            Err(Error::NotBase64("public key".into()))
        );
        assert_eq!(PublicKey::from_pem("text"), Err(Error::NotPem));
        assert_eq!(PublicKey::from_sec1(&[0]), Err(Error::NotAPoint));
    }
}
