//! PBES2 (PKCS#5, RFC 8018, section 6.2): the scheme of all encrypted PKCS#8 files written today.

use der::asn1::{AnyRef, ObjectIdentifier};
use p256::elliptic_curve::Generate;
use pkcs5::{
    AlgorithmIdentifierRef,
    pbes2::{self, EncryptionScheme, Kdf, Parameters},
    scrypt,
};
use zeroize::Zeroizing;

use super::{
    Error,
    error::REENCRYPT,
    scheme::{affordable_iterations, malformed},
};
use crate::encoding::{asn1, oids};

/// The most memory that a file may ask of scrypt, in bytes.
const MAX_BYTES: u128 = 256 << 20;
/// The most work, N times r times p: about ten seconds.
const MAX_WORK: u128 = 1 << 24;

/// AES-256-CBC under PBKDF2 with HMAC-SHA-256, which OpenSSL 1.1 and later, Python's `cryptography` and
/// FIPS systems (which have no scrypt) can read. OWASP recommends this number of iterations:
/// <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>
pub(crate) fn recommended() -> Parameters {
    let salt = <[u8; 16]>::generate();
    Parameters::generate_pbkdf2_sha256_aes256cbc(600_000, &salt, <[u8; 16]>::generate())
        .expect("the parameters are within the scheme's bounds")
}

/// Reads the members of `PBES2-params` (RFC 8018, appendix A.4).
pub(crate) fn read(parameters: &[AnyRef<'_>]) -> Result<Parameters, Error> {
    let [kdf, encryption] = *parameters else {
        return Err(malformed());
    };
    let kdf = read_kdf(kdf)?;
    let encryption = read_cipher(encryption)?;
    let key_length = kdf.key_length().map(usize::from);
    if key_length.is_some_and(|length| length != encryption.key_size()) {
        return Err(malformed());
    }
    Ok(Parameters { kdf, encryption })
}

fn read_kdf(identifier: AnyRef<'_>) -> Result<Kdf, Error> {
    let (oid, parameters) = asn1::algorithm(identifier).ok_or_else(malformed)?;
    if oid != pbes2::PBKDF2_OID && oid != pbes2::SCRYPT_OID {
        return Err(unsupported(format!("the key derivation {oid}")));
    }
    let parameters = parameters.and_then(asn1::members).ok_or_else(malformed)?;
    let [salt, ref costs @ ..] = parameters[..] else {
        return Err(malformed());
    };
    let salt_length = asn1::octets(salt).ok_or_else(malformed)?.len();
    if salt_length > pbes2::Salt::MAX_LEN {
        return Err(unsupported(format!("a salt of {salt_length} bytes")));
    }
    match *costs {
        [n, r, p, ..] if oid == pbes2::SCRYPT_OID => affordable_scrypt(n, r, p)?,
        [iterations, ref rest @ ..] if oid == pbes2::PBKDF2_OID => {
            affordable_iterations("PBKDF2 ", iterations)?;
            let prf = rest.iter().find_map(|&member| asn1::algorithm(member));
            if let Some((prf, _)) = prf
                && !is_known_prf(prf)
            {
                return Err(unsupported(format!("PBKDF2 with the hash {prf}")));
            }
        }
        _ => return Err(malformed()),
    }
    identifier.decode_as().map_err(|_| malformed())
}

fn read_cipher(identifier: AnyRef<'_>) -> Result<EncryptionScheme, Error> {
    let (oid, iv) = asn1::algorithm(identifier).ok_or_else(malformed)?;
    match oid {
        pbes2::AES_128_CBC_OID
        | pbes2::AES_192_CBC_OID
        | pbes2::AES_256_CBC_OID
        | pbes2::AES_128_GCM_OID
        | pbes2::AES_256_GCM_OID => {}
        // The crate takes the first eight bytes of an IV, and panics if there are fewer.
        pbes2::DES_EDE3_CBC_OID if iv.and_then(asn1::octets).map(<[u8]>::len) == Some(8) => {}
        pbes2::DES_EDE3_CBC_OID => return Err(malformed()),
        other => return Err(unsupported(oids::name(other, "the cipher "))),
    }
    identifier
        .decode_as::<AlgorithmIdentifierRef<'_>>()
        .and_then(EncryptionScheme::try_from)
        .map_err(|_| malformed())
}

fn unsupported(scheme: String) -> Error {
    Error::unsupported(scheme, REENCRYPT)
}

/// The ciphertext's length is a multiple of this, in bytes.
pub(crate) fn block_size(parameters: &Parameters) -> usize {
    match parameters.encryption {
        EncryptionScheme::Aes128Cbc { .. }
        | EncryptionScheme::Aes192Cbc { .. }
        | EncryptionScheme::Aes256Cbc { .. } => 16,
        EncryptionScheme::DesEde3Cbc { .. } => 8,
        _ => 1,
    }
}

/// The plaintext; `None` if the padding, and so the passphrase, is wrong.
pub(crate) fn decrypt(
    parameters: &Parameters,
    passphrase: &[u8],
    ciphertext: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let plaintext = parameters.decrypt_in_place(passphrase, &mut buffer).ok()?;
    let length = plaintext.len();
    buffer.truncate(length);
    Some(buffer)
}

fn affordable_scrypt(n: AnyRef<'_>, r: AnyRef<'_>, p: AnyRef<'_>) -> Result<(), Error> {
    let number = |value| asn1::small(value).filter(|&n| n > 0).ok_or_else(malformed);
    let (n, r, p) = (number(n)?, number(r)?, number(p)?);
    let [wide_n, wide_r, wide_p] = [n, r, p].map(u128::from);
    let bytes = 128u128.saturating_mul(wide_n).saturating_mul(wide_r);
    if bytes > MAX_BYTES {
        let asked = format!("{} MiB for scrypt", bytes >> 20);
        return Err(Error::too_costly(asked, "256 MiB", REENCRYPT));
    }
    if wide_n.saturating_mul(wide_r).saturating_mul(wide_p) > MAX_WORK {
        let asked = format!("scrypt with N={n}, r={r}, p={p}");
        return Err(Error::too_costly(asked, "N*r*p=16777216", REENCRYPT));
    }
    let log_n = n.ilog2() as u8;
    if n < 2 || !n.is_power_of_two() || scrypt::Params::new(log_n, r as u32, p as u32).is_err() {
        return Err(malformed());
    }
    Ok(())
}

/// The HMACs of RFC 8018, appendix B.1.2, that `pkcs5` supports: SHA-1, then SHA-224 to SHA-512.
fn is_known_prf(prf: ObjectIdentifier) -> bool {
    let prf = prf.to_string();
    let number = prf.strip_prefix("1.2.840.113549.2.");
    number.is_some_and(|number| ["7", "8", "9", "10", "11"].contains(&number))
}
