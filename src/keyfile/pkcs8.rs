//! PKCS#8: the `PrivateKeyInfo` and `EncryptedPrivateKeyInfo` of RFC 5208, and RFC 5958, which adds
//! the public part.

use der::{Encode, Tag, Tagged, asn1::AnyRef};
use p256::pkcs8::EncodePrivateKey;
use zeroize::Zeroizing;

use super::{Error, PrivateKey, pbe, pbes2, scheme::NAME, sec1};
use crate::encoding::{algorithm, asn1, ber};

pub(crate) const LABEL: &str = "PRIVATE KEY";
pub(crate) const ENCRYPTED_LABEL: &str = "ENCRYPTED PRIVATE KEY";

fn malformed() -> Error {
    Error::Malformed(NAME.into())
}

/// Decodes the DER of a `PrivateKeyInfo`.
pub(crate) fn decode(der: &[u8]) -> Result<PrivateKey, Error> {
    // A decrypted key may still be BER, with padding behind it.
    let (der, _) = ber::first(der).ok_or_else(malformed)?;
    let members = asn1::sequence(&der).ok_or_else(malformed)?;
    let [_version, algorithm, key, ref optional @ ..] = members[..] else {
        return Err(malformed());
    };
    let (oid, parameters) = asn1::algorithm(algorithm).ok_or_else(malformed)?;
    algorithm::check(oid).map_err(Error::NotP256)?;
    let public = optional
        .iter()
        .find(|member| member.tag() == asn1::implicit(1))
        .map(|member| asn1::whole_bits(*member).ok_or_else(malformed))
        .transpose()?;
    let key = asn1::octets(key).ok_or_else(malformed)?;
    sec1::decode(key, parameters, public).map_err(|error| match error {
        Error::Malformed(_) => malformed(),
        other => other,
    })
}

/// An `EncryptedPrivateKeyInfo`.
#[derive(Debug)]
pub(crate) struct Encrypted {
    scheme: pbe::Scheme,
    ciphertext: Vec<u8>,
}

impl Encrypted {
    /// Reads the DER. Unsupported encryption is an error here, before a passphrase prompt.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Error> {
        let members = asn1::sequence(der).ok_or_else(malformed)?;
        let [scheme, ciphertext] = members[..] else {
            return Err(malformed());
        };
        let scheme = pbe::Scheme::read(scheme)?;
        let ciphertext = asn1::octets(ciphertext).ok_or_else(malformed)?;
        if ciphertext.is_empty() || !ciphertext.len().is_multiple_of(scheme.block_size()) {
            return Err(malformed());
        }
        Ok(Self {
            scheme,
            ciphertext: ciphertext.to_vec(),
        })
    }

    /// About one in 256 wrong passphrases leaves valid padding, but the plaintext is not a
    /// `PrivateKeyInfo`.
    pub(crate) fn decrypt(&self, passphrase: &[u8]) -> Result<PrivateKey, Error> {
        let der = self
            .scheme
            .decrypt(passphrase, &self.ciphertext)
            .ok_or(Error::WrongPassphrase)?;
        decode(&der).map_err(|error| match error {
            Error::Malformed(_) => Error::WrongPassphrase,
            other => other,
        })
    }
}

/// DER with the public part.
pub(crate) fn encode(key: &PrivateKey) -> Zeroizing<Vec<u8>> {
    key.secret()
        .to_pkcs8_der()
        .expect("a P-256 key always has a PKCS#8 form")
        .to_bytes()
}

/// DER of an `EncryptedPrivateKeyInfo`, encrypted as in `pbes2::recommended`.
pub(crate) fn encode_encrypted(key: &PrivateKey, passphrase: &[u8]) -> Zeroizing<Vec<u8>> {
    let scheme = pbes2::recommended();
    let ciphertext = scheme
        .encrypt(passphrase, &encode(key))
        .expect("the scheme fits a short plaintext");
    let value = |tag, bytes| AnyRef::new(tag, bytes).and_then(|value| value.to_der());
    let members = [
        pkcs5::EncryptionScheme::from(scheme).to_der(),
        value(Tag::OctetString, &ciphertext),
    ];
    let members = members.map(|member| member.expect("a key is short"));
    let der = value(Tag::Sequence, &members.concat());
    Zeroizing::new(der.expect("a key is short"))
}
