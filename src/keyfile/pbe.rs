//! Encryption by passphrase as PKCS#8 files name it: PBES2 and PBES1 (PKCS#5, RFC 8018), and the
//! schemes of PKCS#12 (RFC 7292, appendix C), which `openssl pkcs8 -v1 PBE-SHA1-3DES` still writes.

use des::{Des, TdesEde2, TdesEde3};
use der::asn1::{AnyRef, ObjectIdentifier};
use md5::Md5;
use p256::elliptic_curve::Generate;
use pkcs5::{
    AlgorithmIdentifierRef,
    pbes2::{self, EncryptionScheme, Kdf, Pbkdf2Prf},
    scrypt,
};
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use super::{
    Error, asn1, cbc,
    error::{REENCRYPT, REENCRYPT_LEGACY},
};

/// What a file may ask of the machine before a passphrase is even known to be right: some ten
/// seconds, and a quarter of a gigabyte.
mod limit {
    pub(super) const ITERATIONS: u64 = 10_000_000;
    pub(super) const SCRYPT_BYTES: u128 = 256 << 20;
    /// N times r times p.
    pub(super) const SCRYPT_WORK: u128 = 1 << 24;
}

const PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");
const SHA1_3DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.3");
const SHA1_2DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.4");
const MD5_DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.3");
const SHA1_DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.10");

/// A scheme with its parameters, within the limits.
#[derive(Debug)]
pub(crate) enum Scheme {
    Pbes2(pbes2::Parameters),
    /// The schemes before PBES2.
    Old {
        suite: Suite,
        salt: Vec<u8>,
        iterations: u64,
    },
}

/// Which key derivation and cipher an older scheme has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Suite {
    Sha1TripleDes,
    Sha1TwoKeyTripleDes,
    Md5Des,
    Sha1Des,
}

/// AES-256-CBC under PBKDF2 with HMAC-SHA-256, as OpenSSL 1.1 and later and Python's `cryptography`
/// read, and FIPS-bound systems too (which have no scrypt). The iterations are OWASP's advice:
/// <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>
pub(crate) fn recommended() -> pbes2::Parameters {
    let salt = <[u8; 16]>::generate();
    pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(600_000, &salt, <[u8; 16]>::generate())
        .expect("the parameters are within the scheme's bounds")
}

fn malformed() -> Error {
    Error::Malformed(format!("encryption scheme of the {}", super::pkcs8::NAME))
}

impl Scheme {
    /// Takes the `AlgorithmIdentifier` in front of the ciphertext.
    pub(crate) fn read(identifier: AnyRef<'_>) -> Result<Self, Error> {
        let (oid, parameters) = asn1::algorithm(identifier).ok_or_else(malformed)?;
        let parameters = parameters.and_then(asn1::members).ok_or_else(malformed)?;
        let suite = match oid {
            PBES2 => return read_pbes2(&parameters).map(Self::Pbes2),
            SHA1_3DES => Suite::Sha1TripleDes,
            SHA1_2DES => Suite::Sha1TwoKeyTripleDes,
            MD5_DES => Suite::Md5Des,
            SHA1_DES => Suite::Sha1Des,
            other => {
                return Err(Error::UnsupportedEncryption {
                    scheme: old_scheme_name(other),
                    remedy: REENCRYPT_LEGACY,
                });
            }
        };
        let [salt, iterations] = parameters[..] else {
            return Err(malformed());
        };
        Ok(Self::Old {
            suite,
            salt: asn1::octets(salt).ok_or_else(malformed)?.to_vec(),
            iterations: affordable_iterations("", iterations)?,
        })
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Pbes2(parameters) => {
                let kdf = match &parameters.kdf {
                    Kdf::Pbkdf2(pbkdf2) => match pbkdf2.prf {
                        Pbkdf2Prf::HmacWithSha1 => "PBKDF2 with HMAC-SHA-1",
                        Pbkdf2Prf::HmacWithSha224 => "PBKDF2 with HMAC-SHA-224",
                        Pbkdf2Prf::HmacWithSha256 => "PBKDF2 with HMAC-SHA-256",
                        Pbkdf2Prf::HmacWithSha384 => "PBKDF2 with HMAC-SHA-384",
                        Pbkdf2Prf::HmacWithSha512 => "PBKDF2 with HMAC-SHA-512",
                        _ => "PBKDF2",
                    },
                    _ => "scrypt",
                };
                let cipher = match parameters.encryption {
                    EncryptionScheme::Aes128Cbc { .. } => "AES-128-CBC",
                    EncryptionScheme::Aes192Cbc { .. } => "AES-192-CBC",
                    EncryptionScheme::Aes256Cbc { .. } => "AES-256-CBC",
                    EncryptionScheme::Aes128Gcm { .. } => "AES-128-GCM",
                    EncryptionScheme::Aes256Gcm { .. } => "AES-256-GCM",
                    _ => "3DES-CBC",
                };
                format!("{cipher}, {kdf}")
            }
            Self::Old { suite, .. } => match suite {
                Suite::Sha1TripleDes => "PBE-SHA1-3DES",
                Suite::Sha1TwoKeyTripleDes => "PBE-SHA1-2DES",
                Suite::Md5Des => "PBE-MD5-DES",
                Suite::Sha1Des => "PBE-SHA1-DES",
            }
            .into(),
        }
    }

    /// What the ciphertext's length is a multiple of.
    pub(crate) fn block_size(&self) -> usize {
        match self {
            Self::Pbes2(parameters) => match parameters.encryption {
                EncryptionScheme::Aes128Cbc { .. }
                | EncryptionScheme::Aes192Cbc { .. }
                | EncryptionScheme::Aes256Cbc { .. } => 16,
                EncryptionScheme::DesEde3Cbc { .. } => 8,
                _ => 1,
            },
            Self::Old { .. } => 8,
        }
    }

    /// The plaintext; nothing when the padding is wrong, and so the passphrase.
    pub(crate) fn decrypt(
        &self,
        passphrase: &[u8],
        ciphertext: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        match self {
            Self::Pbes2(parameters) => {
                let mut buffer = Zeroizing::new(ciphertext.to_vec());
                let length = parameters
                    .decrypt_in_place(passphrase, &mut buffer)
                    .ok()?
                    .len();
                buffer.truncate(length);
                Some(buffer)
            }
            Self::Old {
                suite,
                salt,
                iterations,
            } => {
                let pkcs12 = |length| {
                    let passphrase = bmp_string(passphrase);
                    let key = pkcs12_kdf(KEY, &passphrase, salt, *iterations, length);
                    (key, pkcs12_kdf(IV, &passphrase, salt, *iterations, 8))
                };
                match suite {
                    Suite::Sha1TripleDes => {
                        let (key, iv) = pkcs12(24);
                        cbc::decrypt::<TdesEde3>(&key, &iv, ciphertext)
                    }
                    Suite::Sha1TwoKeyTripleDes => {
                        let (key, iv) = pkcs12(16);
                        cbc::decrypt::<TdesEde2>(&key, &iv, ciphertext)
                    }
                    Suite::Md5Des => {
                        let derived = pbkdf1::<Md5>(passphrase, salt, *iterations);
                        cbc::decrypt::<Des>(&derived[..8], &derived[8..16], ciphertext)
                    }
                    Suite::Sha1Des => {
                        let derived = pbkdf1::<Sha1>(passphrase, salt, *iterations);
                        cbc::decrypt::<Des>(&derived[..8], &derived[8..16], ciphertext)
                    }
                }
            }
        }
    }
}

/// Takes the members of `PBES2-params` (RFC 8018, appendix A.4).
fn read_pbes2(parameters: &[AnyRef<'_>]) -> Result<pbes2::Parameters, Error> {
    let [kdf, cipher] = *parameters else {
        return Err(malformed());
    };
    let unsupported = |scheme: String| Error::UnsupportedEncryption {
        scheme,
        remedy: REENCRYPT,
    };
    let (kdf_oid, kdf_parameters) = asn1::algorithm(kdf).ok_or_else(malformed)?;
    let kdf_parameters = kdf_parameters
        .and_then(asn1::members)
        .ok_or_else(malformed)?;
    let salt = kdf_parameters.first().copied().and_then(asn1::octets);
    let salt_length = salt.ok_or_else(malformed)?.len();
    if salt_length > pbes2::Salt::MAX_LEN {
        return Err(unsupported(format!("a salt of {salt_length} bytes")));
    }
    match (kdf_oid, &kdf_parameters[1..]) {
        (pbes2::PBKDF2_OID, [iterations, rest @ ..]) => {
            affordable_iterations("PBKDF2 ", *iterations)?;
            let prf = rest.iter().find_map(|member| asn1::algorithm(*member));
            if let Some((prf, _)) = prf
                && !is_known_prf(prf)
            {
                return Err(unsupported(format!("PBKDF2 with the hash {prf}")));
            }
        }
        (pbes2::SCRYPT_OID, [n, r, p, ..]) => affordable_scrypt(*n, *r, *p)?,
        (pbes2::PBKDF2_OID | pbes2::SCRYPT_OID, _) => return Err(malformed()),
        (other, _) => return Err(unsupported(format!("the key derivation {other}"))),
    }
    let kdf: Kdf = kdf.decode_as().map_err(|_| malformed())?;

    let (cipher_oid, iv) = asn1::algorithm(cipher).ok_or_else(malformed)?;
    let name = match cipher_oid {
        pbes2::AES_128_CBC_OID
        | pbes2::AES_192_CBC_OID
        | pbes2::AES_256_CBC_OID
        | pbes2::AES_128_GCM_OID
        | pbes2::AES_256_GCM_OID => None,
        // The crate takes eight bytes of whatever stands there.
        pbes2::DES_EDE3_CBC_OID if iv.and_then(asn1::octets).map(<[u8]>::len) == Some(8) => None,
        pbes2::DES_EDE3_CBC_OID => return Err(malformed()),
        other => Some(cipher_name(other)),
    };
    if let Some(name) = name {
        return Err(unsupported(name));
    }
    let encryption = cipher
        .decode_as::<AlgorithmIdentifierRef<'_>>()
        .and_then(EncryptionScheme::try_from)
        .map_err(|_| malformed())?;

    let key_length = kdf.key_length().map(usize::from);
    if key_length.is_some_and(|length| length != encryption.key_size()) {
        return Err(malformed());
    }
    Ok(pbes2::Parameters { kdf, encryption })
}

fn affordable_iterations(of_what: &str, iterations: AnyRef<'_>) -> Result<u64, Error> {
    match asn1::small(iterations) {
        None | Some(0) => Err(malformed()),
        Some(iterations) if iterations > limit::ITERATIONS => Err(Error::TooCostly {
            asked: format!("{iterations} {of_what}iterations"),
            limit: limit::ITERATIONS.to_string(),
            remedy: REENCRYPT,
        }),
        Some(iterations) => Ok(iterations),
    }
}

fn affordable_scrypt(n: AnyRef<'_>, r: AnyRef<'_>, p: AnyRef<'_>) -> Result<(), Error> {
    let number = |value| asn1::small(value).filter(|&n| n > 0).ok_or_else(malformed);
    let (n, r, p) = (number(n)?, number(r)?, number(p)?);
    let [wide_n, wide_r, wide_p] = [n, r, p].map(u128::from);
    let too_costly = |asked, limit: &str| {
        Err(Error::TooCostly {
            asked,
            limit: limit.into(),
            remedy: REENCRYPT,
        })
    };
    let bytes = 128u128.saturating_mul(wide_n).saturating_mul(wide_r);
    if bytes > limit::SCRYPT_BYTES {
        let mebibytes = bytes >> 20;
        return too_costly(format!("{mebibytes} MiB for scrypt"), "256 MiB");
    }
    if wide_n.saturating_mul(wide_r).saturating_mul(wide_p) > limit::SCRYPT_WORK {
        let asked = format!("scrypt with N={n}, r={r}, p={p}");
        return too_costly(asked, "N*r*p=16777216");
    }
    let log_n = n.ilog2() as u8;
    if !n.is_power_of_two() || scrypt::Params::new(log_n, r as u32, p as u32).is_err() {
        return Err(malformed());
    }
    Ok(())
}

/// The HMACs of RFC 8018, appendix B.1.2, that the crate has: SHA-1, then SHA-224 to SHA-512.
fn is_known_prf(prf: ObjectIdentifier) -> bool {
    matches!(
        prf.to_string().as_str(),
        "1.2.840.113549.2.7"
            | "1.2.840.113549.2.8"
            | "1.2.840.113549.2.9"
            | "1.2.840.113549.2.10"
            | "1.2.840.113549.2.11"
    )
}

fn cipher_name(oid: ObjectIdentifier) -> String {
    let oid = oid.to_string();
    let name = match oid.as_str() {
        "1.3.14.3.2.7" => "DES-CBC",
        "1.2.840.113549.3.2" => "RC2-CBC",
        "1.2.392.200011.61.1.1.1.2" => "CAMELLIA-128-CBC",
        "1.2.392.200011.61.1.1.1.3" => "CAMELLIA-192-CBC",
        "1.2.392.200011.61.1.1.1.4" => "CAMELLIA-256-CBC",
        "1.2.410.200046.1.1.2" => "ARIA-128-CBC",
        "1.2.410.200046.1.1.7" => "ARIA-192-CBC",
        "1.2.410.200046.1.1.12" => "ARIA-256-CBC",
        other => return format!("the cipher {other}"),
    };
    name.into()
}

fn old_scheme_name(oid: ObjectIdentifier) -> String {
    let oid = oid.to_string();
    let name = match oid.as_str() {
        "1.2.840.113549.1.5.1" => "PBE-MD2-DES",
        "1.2.840.113549.1.5.4" => "PBE-MD2-RC2-64",
        "1.2.840.113549.1.5.6" => "PBE-MD5-RC2-64",
        "1.2.840.113549.1.5.11" => "PBE-SHA1-RC2-64",
        "1.2.840.113549.1.12.1.1" => "PBE-SHA1-RC4-128",
        "1.2.840.113549.1.12.1.2" => "PBE-SHA1-RC4-40",
        "1.2.840.113549.1.12.1.5" => "PBE-SHA1-RC2-128",
        "1.2.840.113549.1.12.1.6" => "PBE-SHA1-RC2-40",
        other => return format!("the scheme {other}"),
    };
    name.into()
}

/// PBKDF1 (RFC 8018, section 5.1), in full.
fn pbkdf1<D: Digest>(passphrase: &[u8], salt: &[u8], iterations: u64) -> Zeroizing<Vec<u8>> {
    let mut hash = D::new()
        .chain_update(passphrase)
        .chain_update(salt)
        .finalize();
    for _ in 1..iterations {
        hash = D::digest(&hash);
    }
    Zeroizing::new(hash.to_vec())
}

/// What PKCS#12 derives: the ID bytes of RFC 7292, appendix B.3.
const KEY: u8 = 1;
const IV: u8 = 2;

/// A passphrase as PKCS#12 takes it (RFC 7292, appendix B.1): UTF-16, big-endian, with two zero
/// bytes after it. What is not UTF-8 is taken for Latin-1, as OpenSSL does.
fn bmp_string(passphrase: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * passphrase.len() + 2));
    match std::str::from_utf8(passphrase) {
        Ok(text) => bytes.extend(text.encode_utf16().flat_map(u16::to_be_bytes)),
        Err(_) => bytes.extend(passphrase.iter().flat_map(|&byte| [0, byte])),
    }
    bytes.extend([0, 0]);
    bytes
}

/// The key derivation of PKCS#12 (RFC 7292, appendix B.2) with SHA-1.
fn pkcs12_kdf(
    id: u8,
    passphrase: &[u8],
    salt: &[u8],
    iterations: u64,
    length: usize,
) -> Zeroizing<Vec<u8>> {
    const BLOCK: usize = 64;
    let repeated = |bytes: &[u8]| -> Vec<u8> {
        let filled = bytes.len().next_multiple_of(BLOCK);
        bytes.iter().copied().cycle().take(filled).collect()
    };
    let mut input = Zeroizing::new(repeated(salt));
    input.reserve_exact(passphrase.len().next_multiple_of(BLOCK));
    input.extend_from_slice(&Zeroizing::new(repeated(passphrase)));

    let mut derived = Zeroizing::new(Vec::with_capacity(length + 20));
    loop {
        let mut hash = Sha1::new()
            .chain_update([id; BLOCK])
            .chain_update(&input)
            .finalize();
        for _ in 1..iterations {
            hash = Sha1::digest(hash);
        }
        derived.extend_from_slice(&hash);
        if derived.len() >= length {
            derived.truncate(length);
            return derived;
        }
        for block in input.chunks_exact_mut(BLOCK) {
            add_and_one(block, &hash);
        }
    }
}

/// Adds `addend`, repeated to the block's length, and 1 to a block, as big-endian numbers that
/// wrap.
fn add_and_one(block: &mut [u8], addend: &[u8]) {
    let mut carry = 1;
    for (index, digit) in block.iter_mut().enumerate().rev() {
        let sum = u16::from(*digit) + u16::from(addend[index % addend.len()]) + carry;
        *digit = sum as u8;
        carry = sum >> 8;
    }
}
