//! Reads and writes ECDSA P-256 private-key files in the encodings of `openssl` and `ssh-keygen`.
//!
//! `encoding::contents` splits a file into blocks, `encoding::identify` finds the private key among
//! them, and one module per encoding reads it: `sec1`, `pkcs8` (encrypted by a scheme in `pbes2` or
//! `pbe`), `legacy_pem` or `openssh`. `encoding::curve` then checks that the curve is P-256, named or
//! written out in full.

mod cbc;
mod error;
mod legacy_pem;
mod openssh;
mod pbe;
mod pbes2;
mod pkcs8;
mod scheme;
mod sec1;
#[cfg(test)]
mod tests;

use std::fmt;

use der::{Decode, asn1::AnyRef};
use p256::{
    SecretKey,
    ecdsa::{self, SigningKey, signature::Signer},
    elliptic_curve::Generate,
};
use zeroize::Zeroizing;

use crate::{
    encoding::{
        NotP256, asn1, ber,
        contents::{self, Contents},
        curve,
        identify::{self, BlockKind, Public},
        jwk::{self, Jwk},
        pem::{self, Block, Fault},
    },
    public_key::PublicKey,
    signature::Signature,
    wipe::wiping_stack,
};

pub use error::Error;

/// An ECDSA P-256 private key. It is wiped from memory on drop, and `{:?}` shows only its public half.
/// The box keeps moves from leaving copies.
pub struct PrivateKey(Box<SigningKey>);

impl PrivateKey {
    /// Creates a key from the operating system's random numbers.
    pub fn generate() -> Self {
        wiping_stack(|| Self(Box::new(SigningKey::from(SecretKey::generate()))))
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey::from(*self.0.verifying_key())
    }

    /// Signs the SHA-256 of `message`. Signatures are deterministic (RFC 6979).
    pub fn sign(&self, message: &[u8]) -> Signature {
        let signature: ecdsa::Signature = wiping_stack(|| self.0.sign(message));
        Signature::from(signature)
    }

    /// The key with this private scalar, big-endian and of any length, which every public part in the
    /// file must match.
    fn from_parts(scalar: &[u8], public_parts: &[&[u8]]) -> Result<Self, Error> {
        let digits = asn1::without_leading_zeros(scalar);
        let mut padded = Zeroizing::new([0; 32]);
        let padding = padded.len().checked_sub(digits.len());
        padded[padding.ok_or(Error::ScalarOutOfRange)?..].copy_from_slice(digits);
        let secret = SecretKey::from_slice(&*padded).map_err(|_| Error::ScalarOutOfRange)?;
        let key = SigningKey::from(secret);
        let is_own = |part: &&[u8]| curve::point(part).as_ref() == Some(key.verifying_key());
        if public_parts.iter().all(is_own) {
            Ok(Self(Box::new(key)))
        } else {
            Err(Error::PublicMismatch)
        }
    }

    fn secret(&self) -> SecretKey {
        SecretKey::from(self.0.as_nonzero_scalar())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey")
            .field("public_key", &self.public_key().fingerprint())
            .finish_non_exhaustive()
    }
}

/// The contents of a key file.
#[derive(Debug)]
pub enum KeyFile {
    /// An unencrypted key.
    Plain(PrivateKey),
    /// A key that needs a passphrase.
    Encrypted(EncryptedKey),
}

impl KeyFile {
    fn encrypted(key: Encrypted) -> Self {
        Self::Encrypted(EncryptedKey(key))
    }
}

/// A key that needs a passphrase.
#[derive(Debug)]
pub struct EncryptedKey(Encrypted);

#[derive(Debug)]
enum Encrypted {
    Pkcs8(pkcs8::Encrypted),
    LegacyPem(legacy_pem::Encrypted),
    Openssh(openssh::Encrypted),
}

impl EncryptedKey {
    /// Decrypts the key with a passphrase, as bytes without a trailing newline. An empty value
    /// counts as a passphrase.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`] (or the file is damaged, which most encodings cannot tell apart),
    /// and the errors of [`parse`] for a key that is not on P-256.
    pub fn decrypt(&self, passphrase: &[u8]) -> Result<PrivateKey, Error> {
        wiping_stack(|| match &self.0 {
            Encrypted::Pkcs8(key) => key.decrypt(passphrase),
            Encrypted::LegacyPem(key) => key.decrypt(passphrase),
            Encrypted::Openssh(key) => key.decrypt(passphrase),
        })
    }
}

/// Parses a key file: PEM or DER of PKCS#8 or SEC1, OpenSSH's format, or Base64 of these without PEM
/// lines. Certificates, public keys and text around the key are ignored.
///
/// # Errors
/// An [`Error`] that names what was found, unless the file has exactly one private key and it is an
/// ECDSA P-256 key.
pub fn parse(contents: &[u8]) -> Result<KeyFile, Error> {
    wiping_stack(|| match contents::read(contents) {
        Contents::Empty => Err(Error::Empty),
        Contents::Blocks(blocks) => read_blocks(&blocks),
        Contents::Text(text) => parse_text(&text),
        Contents::Binary => {
            let foreign = identify::identify_binary(contents);
            Err(foreign.map_or(Error::Unrecognized, Error::Foreign))
        }
    })
}

fn read_blocks(blocks: &[Block]) -> Result<KeyFile, Error> {
    let (mut private, mut public, mut parameters) = (Vec::new(), Vec::new(), None);
    for block in blocks {
        match identify::identify(block) {
            BlockKind::Public(kind) => {
                if kind == Public::Parameters && parameters.is_none() {
                    parameters = Some(block.data.as_ref());
                }
                public.push(kind);
            }
            kind => private.push((block, kind)),
        }
    }
    match &private[..] {
        [] => Err(Error::NoPrivateKey(public)),
        [(block, kind)] => {
            let parameters = parameters.and_then(Result::ok);
            read(block, kind, parameters.map(|data| data.as_slice()))
        }
        several => Err(Error::SeveralKeys(several.len())),
    }
}

/// Reads the one private key of a file; `parameters` is the DER of its `EC PARAMETERS` block.
fn read(block: &Block, kind: &BlockKind, parameters: Option<&[u8]>) -> Result<KeyFile, Error> {
    match kind {
        BlockKind::OtherPrivate(name) => {
            return Err(Error::NotP256(NotP256::Algorithm((*name).into())));
        }
        BlockKind::Foreign(foreign) => return Err(Error::Foreign(*foreign)),
        BlockKind::UnknownPrivate(label) => return Err(Error::UnknownPrivate(label.clone())),
        _ => {}
    }
    let data = match &block.data {
        Ok(data) => data.as_slice(),
        Err(Fault::NoEnd) => return Err(Error::NoEnd(block.name())),
        Err(Fault::NotBase64) => return Err(Error::NotBase64(block.name())),
        Err(Fault::CutShort) => return Err(Error::Malformed(block.name())),
    };
    let key = match kind {
        BlockKind::EncryptedPkcs8 => Encrypted::Pkcs8(pkcs8::Encrypted::read(data)?),
        BlockKind::LegacyEncrypted => {
            Encrypted::LegacyPem(legacy_pem::Encrypted::read(block, data, parameters)?)
        }
        BlockKind::Openssh => return openssh::read(data),
        _ => {
            let parameters = parameters.and_then(|der| AnyRef::from_der(der).ok());
            let key = decode_plain(data, parameters);
            let key = key.unwrap_or_else(|| Err(Error::Malformed(block.name())));
            return key.map(KeyFile::Plain);
        }
    };
    Ok(KeyFile::encrypted(key))
}

/// Reads DER that is unencrypted or decrypted; `None` if it is not a private key.
fn decode_plain(der: &[u8], parameters: Option<AnyRef<'_>>) -> Option<Result<PrivateKey, Error>> {
    let (der, _) = ber::first(der)?;
    match identify::identify_data(&der)? {
        BlockKind::Sec1 => Some(sec1::decode(&der, parameters, None)),
        BlockKind::Pkcs8 => Some(pkcs8::decode(&der)),
        BlockKind::OtherPrivate(name) => Some(Err(Error::NotP256(NotP256::Algorithm(name.into())))),
        _ => None,
    }
}

/// Reads a text without PEM blocks: a JSON Web Key.
fn parse_text(text: &str) -> Result<KeyFile, Error> {
    let keys = jwk::read(text).ok_or_else(|| not_a_key(text))?;
    let is_private = |key: &Result<Jwk, jwk::Error>| match key {
        Ok(key) => key.scalar.is_some(),
        Err(jwk::Error::NotP256 { private, .. }) => *private,
        Err(jwk::Error::Malformed) => true,
    };
    let mut private = keys.iter().filter(|key| is_private(key));
    let key = private
        .next()
        .ok_or_else(|| Error::NoPrivateKey(vec![Public::Key]))?;
    let others = private.count();
    match key {
        _ if others > 0 => Err(Error::SeveralKeys(1 + others)),
        Ok(Jwk { point, scalar }) => {
            let scalar = scalar.as_ref().expect("it is a private key");
            PrivateKey::from_parts(scalar, &[point]).map(KeyFile::Plain)
        }
        Err(jwk::Error::NotP256 { kind, .. }) => Err(Error::NotP256(kind.clone())),
        Err(jwk::Error::Malformed) => Err(Error::Malformed(jwk::NAME.into())),
    }
}

/// Why a text without PEM blocks is not a key.
fn not_a_key(text: &str) -> Error {
    match identify::identify_text(text) {
        Some(BlockKind::Foreign(foreign)) => Error::Foreign(foreign),
        Some(BlockKind::Public(public)) => Error::NoPrivateKey(vec![public]),
        _ if text.contains("-----END ") => Error::NoBegin,
        _ => Error::Unrecognized,
    }
}

/// The encodings that a key can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `PRIVATE KEY`, or `ENCRYPTED PRIVATE KEY` under AES-256-CBC and PBKDF2 with HMAC-SHA-256.
    Pkcs8,
    /// `EC PRIVATE KEY`; with a passphrase, under AES-256-CBC with `Proc-Type: 4,ENCRYPTED`, whose
    /// key derivation is weak.
    Sec1,
    /// `OPENSSH PRIVATE KEY`; with a passphrase, under aes256-ctr and bcrypt.
    Openssh,
}

/// Encodes a key as a PEM block that ends in a newline and includes the public part. Only OpenSSH's
/// format stores the comment.
///
/// # Errors
/// [`Error::EmptyPassphrase`] for an empty passphrase, except in PKCS#8: other programs accept none in
/// the other formats.
pub fn encode(
    key: &PrivateKey,
    format: Format,
    passphrase: Option<&[u8]>,
    comment: &str,
) -> Result<Zeroizing<String>, Error> {
    wiping_stack(|| {
        Ok(match (format, passphrase) {
            (Format::Pkcs8, None) => pem::encode(pkcs8::LABEL, &[], &pkcs8::encode(key), 64),
            (Format::Pkcs8, Some(passphrase)) => {
                let der = pkcs8::encode_encrypted(key, passphrase);
                pem::encode(pkcs8::ENCRYPTED_LABEL, &[], &der, 64)
            }
            (Format::Sec1, None) => pem::encode(sec1::LABEL, &[], &sec1::encode(key), 64),
            (Format::Sec1, Some([])) => return Err(Error::EmptyPassphrase("a SEC1 private key")),
            (Format::Sec1, Some(passphrase)) => legacy_pem::encode(key, passphrase),
            (Format::Openssh, passphrase) => openssh::encode(key, passphrase, comment)?,
        })
    })
}
