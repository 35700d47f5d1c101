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

    /// One with a key of `ssh-keygen`'s in `key`, and its public half in `public.pem`.
    fn with_ssh_key(options: &str) -> Self {
        let workshop = Self::new();
        workshop.run(&format!("ssh-keygen -q -t ecdsa -C comment -f key {options}"));
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
        (KeyFile::Encrypted(key), None) => panic!("the key is encrypted: {}", key.container()),
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

#[track_caller]
fn container(contents: &[u8]) -> String {
    match keyfile::parse(contents).unwrap() {
        KeyFile::Encrypted(key) => key.container(),
        KeyFile::Plain(_) => panic!("the key is not encrypted"),
    }
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
            assert_eq!(container(&contents), format!("EC PRIVATE KEY ({name})"));
        }
        let des = fixture("sec1-dek-des.pem");
        assert_eq!(container(&des), "EC PRIVATE KEY (DES-CBC)");
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
        for (options, name) in [
            ("-v2 aes-128-cbc", "AES-128-CBC, PBKDF2 with HMAC-SHA-256"),
            ("-v2 aes-192-cbc", "AES-192-CBC, PBKDF2 with HMAC-SHA-256"),
            ("-v2 aes-256-cbc", "AES-256-CBC, PBKDF2 with HMAC-SHA-256"),
            ("-v2 des3", "3DES-CBC, PBKDF2 with HMAC-SHA-256"),
            ("-v2prf hmacWithSHA1", "AES-256-CBC, PBKDF2 with HMAC-SHA-1"),
            ("-v2prf hmacWithSHA224", "AES-256-CBC, PBKDF2 with HMAC-SHA-224"),
            ("-v2prf hmacWithSHA384", "AES-256-CBC, PBKDF2 with HMAC-SHA-384"),
            ("-v2prf hmacWithSHA512", "AES-256-CBC, PBKDF2 with HMAC-SHA-512"),
            ("-scrypt", "AES-256-CBC, scrypt"),
            ("-scrypt -v2 aes-192-cbc", "AES-192-CBC, scrypt"),
            ("-outform DER", "AES-256-CBC, PBKDF2 with HMAC-SHA-256"),
        ] {
            workshop.run(&format!(
                "openssl pkcs8 -topk8 -in key.pem {options} -passout pass:sésame -out encrypted"
            ));
            workshop.assert_serves("encrypted", Some("sésame"));
            let contents = workshop.read("encrypted");
            assert_eq!(container(&contents), format!("PKCS#8 private key ({name})"));
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
            assert_eq!(container(&contents), format!("PKCS#8 private key ({name})"));
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
            let contents = workshop.read("key");
            assert_eq!(
                container(&contents),
                format!("OpenSSH private key ({cipher})")
            );
        }
    }

    /// OpenSSH drops leading zeros, so one key in 256 has a shorter private number.
    #[test]
    fn serves_with_a_short_private_number() {
        for zeros in [1, 2, 9] {
            let mut scalar = [0xa5; 32];
            scalar[..zeros].fill(0);
            let head = [0x30, 0x31, 2, 1, 1, 4, 0x20].as_slice();
            let curve = [
                0xa0, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7,
            ];
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
                key.lines().map(|line| format!("  {line} \n")).collect::<String>().into(),
                utf16(&format!("\u{feff}{key}")).iter().flat_map(|u| u.to_le_bytes()).collect(),
                utf16(&format!("\u{feff}{key}")).iter().flat_map(|u| u.to_be_bytes()).collect(),
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
            assert_eq!(text(&line).trim_end(), key.public_key().to_openssh("a comment"));
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
             give a passphrase, or leave the key unencrypted"
        );
        assert_eq!(
            refusal(Format::Openssh),
            "an OpenSSH private key cannot be encrypted with an empty passphrase\n\
             give a passphrase, or leave the key unencrypted"
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
