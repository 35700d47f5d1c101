//! Tests that need what no program writes: curves that are nearly P-256, costs beyond the limits,
//! passphrases that are right by accident, and any bytes at all.

use der::{Encode, Tag, asn1::AnyRef};

use super::*;
use crate::public_key::PublicKey;

fn fixture(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys");
    std::fs::read(folder.join(name)).unwrap()
}

/// The DER in the first block of a PEM text.
fn der_in(pem: &[u8]) -> Vec<u8> {
    let Block { data, .. } = pem::blocks(pem).remove(0);
    data.unwrap().to_vec()
}

fn value(tag: Tag, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    AnyRef::new(tag, &contents).unwrap().to_der().unwrap()
}

fn sequence(members: &[&[u8]]) -> Vec<u8> {
    value(Tag::Sequence, members)
}

fn integer(n: u64) -> Vec<u8> {
    n.to_der().unwrap()
}

fn oid(dotted: &str) -> Vec<u8> {
    let oid = der::asn1::ObjectIdentifier::new(dotted).unwrap();
    oid.to_der().unwrap()
}

fn told(error: &Error) -> String {
    format!("{error}\n{}", error.hint().unwrap_or_default())
}

#[test]
fn curve_with_one_changed_parameter_is_not_p256() {
    let der = der_in(&fixture("sec1-explicit.pem"));
    let replace = |from: &str, to: &str| {
        let [from, to] = [from, to].map(|hex| base16ct::mixed::decode_vec(hex).unwrap());
        let starts: Vec<usize> = (0..der.len() - from.len())
            .filter(|&start| der[start..].starts_with(&from))
            .collect();
        let mut changed = der.clone();
        changed[starts[0]..starts[0] + to.len()].copy_from_slice(&to);
        parse(&changed)
    };
    assert!(
        replace("C49D36", "C49D37").is_ok(),
        "a seed does not matter"
    );
    let kind = (
        "06072A8648CE3D0101",
        "06072A8648CE3D0102",
        "the kind of its field",
    );
    for (from, to, what) in [
        kind,
        (
            "00FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF",
            "00FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFE",
            "the prime of its field (256 bits)",
        ),
        (
            "FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFC",
            "FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFB",
            "its coefficient a",
        ),
        ("5AC635D8", "5AC635D9", "its coefficient b"),
        ("046B17D1F2", "046B17D1F3", "its generator"),
        ("37BF51F5", "37BF51F4", "its generator"),
        ("FC632551020101", "FC632552020101", "its order"),
        ("FC632551020101", "FC632551020104", "its cofactor"),
    ] {
        assert_eq!(
            replace(from, to).unwrap_err().to_string(),
            format!(
                "the private key is on explicit curve parameters that are not P-256: {what} differs"
            )
        );
    }
    let compressed = der_in(&fixture("sec1-explicit-compressed-generator.pem"));
    let mut other_half = compressed.clone();
    let generator = compressed.windows(3).position(|w| w == [0x03, 0x6b, 0x17]);
    other_half[generator.unwrap()] = 0x02;
    assert!(parse(&compressed).is_ok());
    assert!(parse(&other_half).is_err());
}

/// An `EncryptedPrivateKeyInfo` with these members of `PBES2-params`.
fn pbes2(kdf: &[u8], cipher: &[u8]) -> Vec<u8> {
    sequence(&[
        &sequence(&[&oid("1.2.840.113549.1.5.13"), &sequence(&[kdf, cipher])]),
        &value(Tag::OctetString, &[&[0; 32]]),
    ])
}

fn pbkdf2(members: &[&[u8]]) -> Vec<u8> {
    sequence(&[&oid("1.2.840.113549.1.5.12"), &sequence(members)])
}

fn scrypt(n: u64, r: u64, p: u64) -> Vec<u8> {
    let members = [&salt(8)[..], &integer(n), &integer(r), &integer(p)];
    sequence(&[&oid("1.3.6.1.4.1.11591.4.11"), &sequence(&members)])
}

fn salt(length: usize) -> Vec<u8> {
    value(Tag::OctetString, &[&vec![7; length]])
}

fn aes256(iv_length: usize) -> Vec<u8> {
    sequence(&[&oid("2.16.840.1.101.3.4.1.42"), &salt(iv_length)])
}

#[test]
fn costly_key_derivation_is_refused() {
    const REMEDY: &str =
        "re-encrypt it: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out key.pem`";
    let old = sequence(&[
        &sequence(&[
            &oid("1.2.840.113549.1.12.1.3"),
            &sequence(&[&salt(8), &integer(10_000_001)]),
        ]),
        &salt(8),
    ]);
    for (der, asked) in [
        (
            pbes2(&pbkdf2(&[&salt(8), &integer(10_000_001)]), &aes256(16)),
            "10000001 PBKDF2 iterations; the limit is 10000000",
        ),
        (
            pbes2(&pbkdf2(&[&salt(8), &integer(u64::MAX)]), &aes256(16)),
            "18446744073709551615 PBKDF2 iterations; the limit is 10000000",
        ),
        (
            pbes2(&scrypt(1 << 19, 8, 1), &aes256(16)),
            "512 MiB for scrypt; the limit is 256 MiB",
        ),
        (
            pbes2(&scrypt(1 << 18, 8, 16), &aes256(16)),
            "scrypt with N=262144, r=8, p=16; the limit is N*r*p=16777216",
        ),
        (old, "10000001 iterations; the limit is 10000000"),
    ] {
        assert_eq!(
            told(&parse(&der).unwrap_err()),
            format!("key derivation needs {asked}\n{REMEDY}")
        );
    }
    assert!(parse(&pbes2(&scrypt(1 << 18, 8, 8), &aes256(16))).is_ok());
    assert!(
        parse(&pbes2(
            &pbkdf2(&[&salt(8), &integer(10_000_000)]),
            &aes256(16)
        ))
        .is_ok()
    );
}

#[test]
fn bcrypt_rounds_are_limited() {
    let key = PrivateKey::generate();
    let pem = encode(&key, Format::Openssh, Some(b"sesame"), "").unwrap();
    let mut bytes = der_in(pem.as_bytes());
    let end_of_rounds = bytes.windows(4).position(|w| w == [0, 0, 0, 24]).unwrap();
    // The first such four bytes are the length of the options, the rounds are at their end.
    let rounds = end_of_rounds + 4 + 20;
    assert_eq!(bytes[rounds..rounds + 4], [0, 0, 0, 24]);
    bytes[rounds..rounds + 4].copy_from_slice(&4097u32.to_be_bytes());
    assert_eq!(
        told(&parse(&bytes).unwrap_err()),
        "key derivation needs 4097 rounds of bcrypt; the limit is 4096\n\
         re-encrypt it in place: `ssh-keygen -p -Z aes256-ctr -a 16 -f FILE`"
    );
    bytes[rounds..rounds + 4].copy_from_slice(&[0; 4]);
    assert_eq!(
        parse(&bytes).unwrap_err(),
        Error::Malformed("OpenSSH private key".into())
    );
}

#[test]
fn invalid_encryption_parameters_are_damage() {
    let sound = pbkdf2(&[&salt(8), &integer(1)]);
    let des3 = |iv| sequence(&[&oid("1.2.840.113549.3.7"), &salt(iv)]);
    assert!(parse(&pbes2(&sound, &des3(8))).is_ok());
    for der in [
        pbes2(&sound, &des3(7)),
        pbes2(&sound, &des3(9)),
        pbes2(&sound, &aes256(15)),
        pbes2(&pbkdf2(&[&salt(8), &integer(0)]), &aes256(16)),
        pbes2(&pbkdf2(&[&salt(8), &integer(1), &integer(16)]), &aes256(16)),
        pbes2(&pbkdf2(&[&salt(8)]), &aes256(16)),
        pbes2(&scrypt(0, 8, 1), &aes256(16)),
        pbes2(&scrypt(1, 8, 1), &aes256(16)),
        pbes2(&scrypt(1000, 8, 1), &aes256(16)),
        pbes2(&scrypt(1024, 0, 1), &aes256(16)),
    ] {
        assert_eq!(
            parse(&der).unwrap_err().to_string(),
            "the encryption scheme of the PKCS#8 private key is truncated or damaged"
        );
    }
}

#[test]
fn unsupported_encryption_is_named() {
    let hash = |dotted| sequence(&[&oid(dotted), &[5, 0]]);
    let sm3 = pbkdf2(&[&salt(8), &integer(1), &hash("1.2.156.10197.1.401.3.1")]);
    let argon2 = sequence(&[&oid("1.2.3.4"), &sequence(&[&salt(8)])]);
    let sound = pbkdf2(&[&salt(8), &integer(1)]);
    let other_cipher = sequence(&[&oid("1.2.3.5"), &salt(16)]);
    for (der, scheme) in [
        (
            pbes2(&sm3, &aes256(16)),
            "PBKDF2 with the hash 1.2.156.10197.1.401.3.1",
        ),
        (pbes2(&argon2, &aes256(16)), "the key derivation 1.2.3.4"),
        (pbes2(&sound, &other_cipher), "the cipher 1.2.3.5"),
        (
            pbes2(&pbkdf2(&[&salt(33), &integer(1)]), &aes256(16)),
            "a salt of 33 bytes",
        ),
    ] {
        assert_eq!(
            parse(&der).unwrap_err().to_string(),
            format!("the private key is encrypted with {scheme}, which qkey does not read")
        );
    }
}

/// In thousands of passphrases, some leave a padding that is right, and garbage.
#[test]
fn wrong_passphrase_with_valid_padding() {
    let key = PrivateKey::generate();
    let legacy = encode(&key, Format::Sec1, Some(b"sesame"), "").unwrap();
    let scheme = pkcs5::pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(1, &[7; 8], [7; 16]);
    let scheme = scheme.unwrap();
    let ciphertext = scheme.encrypt(b"sesame", &pkcs8::encode(&key)).unwrap();
    let pkcs8 = sequence(&[
        &pkcs5::EncryptionScheme::from(scheme.clone())
            .to_der()
            .unwrap(),
        &value(Tag::OctetString, &[&ciphertext]),
    ]);
    let mut right_by_accident = 0;
    for file in [legacy.as_bytes(), &pkcs8] {
        let KeyFile::Encrypted(key) = parse(file).unwrap() else {
            panic!("the key is not encrypted")
        };
        assert!(key.decrypt(b"sesame").is_ok());
        for n in 0..3000 {
            let passphrase = format!("passphrase {n}");
            let error = key.decrypt(passphrase.as_bytes()).unwrap_err();
            assert_eq!(error, Error::WrongPassphrase);
            right_by_accident += usize::from(scheme.decrypt(&passphrase, &ciphertext).is_ok());
        }
    }
    assert!(right_by_accident > 0);
}

/// xorshift64: <https://www.jstatsoft.org/article/view/v008i14>
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// Changes, drops, doubles or swaps a few bytes from `start` on.
    fn mutate(&mut self, bytes: &[u8], start: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            if bytes.len() <= start + 1 {
                break;
            }
            let place = start + self.below(bytes.len() - start);
            match self.below(6) {
                0 => bytes.truncate(place),
                1 => drop(bytes.remove(place)),
                2 => bytes.insert(place, self.below(256) as u8),
                3 => bytes[place] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                4 => {
                    let other = start + self.below(bytes.len() - start);
                    bytes.swap(place, other);
                }
                _ => bytes[place] ^= 1 << self.below(8),
            }
        }
        bytes
    }
}

/// One file in every encoding, as PEM and as the bytes inside.
fn corpus() -> Vec<Vec<u8>> {
    let key = PrivateKey::generate();
    let mut files = vec![
        key.public_key().to_pem().into_bytes(),
        key.public_key().to_openssh("comment").into_bytes(),
    ];
    for format in [Format::Pkcs8, Format::Sec1, Format::Openssh] {
        for passphrase in [None, Some(b"sesame".as_slice())] {
            let pem = encode(&key, format, passphrase, "comment").unwrap();
            files.push(pem.as_bytes().to_vec());
        }
    }
    for name in [
        "openssh-dsa",
        "openssh-sk-ecdsa",
        "pkcs8-dsa.pem",
        "pkcs8-explicit-compressed-generator.pem",
        "pkcs8-pbe-sha1-2des.pem",
        "pkcs8-pbe-sha1-rc2-40.pem",
        "pkcs8-v2.pem",
        "public-explicit-compressed-generator.pem",
        "sec1-dek-des.pem",
        "sec1-explicit.pem",
    ] {
        files.push(fixture(name));
    }
    let with_scrypt = pbes2(&scrypt(1 << 14, 8, 1), &aes256(16));
    files.push(
        pem::encode("ENCRYPTED PRIVATE KEY", &[], &with_scrypt, 64)
            .as_bytes()
            .to_vec(),
    );
    let bytes: Vec<_> = files.iter().flat_map(|file| pem::blocks(file)).collect();
    files.extend(bytes.into_iter().map(|block| block.data.unwrap().to_vec()));
    files
}

#[test]
fn mutated_files_do_not_panic() {
    let mut random = Random(0x5eed);
    for file in corpus() {
        for _ in 0..400 {
            let mutated = random.mutate(&file, 0);
            let _ = parse(&mutated);
            let _ = PublicKey::from_any(&mutated);
        }
    }
}

#[test]
fn mutated_plaintexts_do_not_panic() {
    let mut random = Random(0x5eed);
    let key = PrivateKey::generate();
    let legacy = encode(&key, Format::Sec1, Some(b"sesame"), "").unwrap();
    let scheme = pkcs5::pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(1, &[7; 8], [7; 16]);
    let scheme = scheme.unwrap();
    // Text that decrypts to bytes close to a key.
    let plain = pkcs8::encode(&key);
    for _ in 0..2000 {
        let mutated = random.mutate(&plain, 0);
        let ciphertext = scheme.encrypt(b"sesame", &mutated).unwrap();
        let file = sequence(&[
            &pkcs5::EncryptionScheme::from(scheme.clone())
                .to_der()
                .unwrap(),
            &value(Tag::OctetString, &[&ciphertext]),
        ]);
        for file in [&file, &random.mutate(legacy.as_bytes(), 100)] {
            if let Ok(KeyFile::Encrypted(key)) = parse(file) {
                let _ = key.decrypt(b"sesame");
            }
        }
    }
}
