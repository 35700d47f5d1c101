//! Password-based encryption of PKCS#8 files: PBES2, in its own module, and the older schemes of PKCS#5
//! (PBES1, RFC 8018, section 6.1) and PKCS#12 (RFC 7292, appendix C), which
//! `openssl pkcs8 -v1 PBE-SHA1-3DES` still writes.

use ::cbc::cipher::{BlockCipherDecrypt, KeyInit};
use der::asn1::{AnyRef, ObjectIdentifier};
use des::{Des, TdesEde2, TdesEde3};
use md5::Md5;
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

use super::{
    Error, cbc,
    error::REENCRYPT_LEGACY,
    pbes2,
    scheme::{affordable_iterations, malformed},
};
use crate::encoding::{asn1, oids};

const PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");
const SHA1_3DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.3");
const SHA1_2DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.4");
const MD5_DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.3");
const SHA1_DES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.10");

/// A scheme with its parameters, within the limits.
#[derive(Debug)]
pub(crate) enum Scheme {
    Pbes2(pkcs5::pbes2::Parameters),
    Old(Old),
}

/// A scheme from before PBES2.
#[derive(Debug)]
pub(crate) struct Old {
    decrypt: Decrypt,
    salt: Vec<u8>,
    iterations: u64,
}

type Decrypt = fn(&Old, &[u8], &[u8]) -> Option<Zeroizing<Vec<u8>>>;

impl Scheme {
    /// Reads the `AlgorithmIdentifier` before the ciphertext.
    pub(crate) fn read(identifier: AnyRef<'_>) -> Result<Self, Error> {
        let (oid, parameters) = asn1::algorithm(identifier).ok_or_else(malformed)?;
        let parameters = parameters.and_then(asn1::members).ok_or_else(malformed)?;
        let decrypt: Decrypt = match oid {
            PBES2 => return pbes2::read(&parameters).map(Self::Pbes2),
            SHA1_3DES => Old::pkcs12::<TdesEde3>,
            // The third key is the first again.
            SHA1_2DES => Old::pkcs12::<TdesEde2>,
            MD5_DES => Old::pkcs5::<Md5>,
            SHA1_DES => Old::pkcs5::<Sha1>,
            other => {
                let name = oids::name(other, "the scheme ");
                return Err(Error::unsupported(name, REENCRYPT_LEGACY));
            }
        };
        let [salt, iterations] = parameters[..] else {
            return Err(malformed());
        };
        Ok(Self::Old(Old {
            decrypt,
            salt: asn1::octets(salt).ok_or_else(malformed)?.to_vec(),
            iterations: affordable_iterations("", iterations)?,
        }))
    }

    /// The ciphertext's length is a multiple of this, in bytes.
    pub(crate) fn block_size(&self) -> usize {
        match self {
            Self::Pbes2(parameters) => pbes2::block_size(parameters),
            Self::Old(_) => 8,
        }
    }

    /// The plaintext; `None` if the padding, and so the passphrase, is wrong.
    pub(crate) fn decrypt(
        &self,
        passphrase: &[u8],
        ciphertext: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        match self {
            Self::Pbes2(parameters) => pbes2::decrypt(parameters, passphrase, ciphertext),
            Self::Old(old) => (old.decrypt)(old, passphrase, ciphertext),
        }
    }
}

impl Old {
    fn pkcs12<C: BlockCipherDecrypt + KeyInit>(
        &self,
        passphrase: &[u8],
        ciphertext: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let passphrase = bmp_string(passphrase);
        let derive = |id, length| pkcs12_kdf(id, &passphrase, &self.salt, self.iterations, length);
        cbc::decrypt::<C>(&derive(KEY, C::key_size()), &derive(IV, 8), ciphertext)
    }

    fn pkcs5<D: Digest>(&self, passphrase: &[u8], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let derived = pbkdf1::<D>(passphrase, &self.salt, self.iterations);
        cbc::decrypt::<Des>(&derived[..8], &derived[8..16], ciphertext)
    }
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

/// A passphrase in the encoding of PKCS#12 (RFC 7292, appendix B.1): big-endian UTF-16, followed by two
/// zero bytes. Like OpenSSL, this reads a passphrase that is not UTF-8 as Latin-1.
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
