//! ECDSA P-256/SHA-256 signatures, and the only place that converts their encodings.

#[cfg(test)]
mod tests;

use base64::{Engine, prelude::BASE64_STANDARD};
use p256::ecdsa;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use crate::{
    encoding::{any_base64, ssh_public, ssh_wire::Reader},
    public_key::PublicKey,
};

/// A well-formed signature: r and s in 1..n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature(ecdsa::Signature);

/// Why some bytes are not a signature.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("not an ASN.1 DER ECDSA signature")]
    NotDer,
    #[error("{0} bytes instead of 64 (r and s)")]
    NotP1363(usize),
    #[error("not an SSH signature")]
    NotSsh,
    #[error("an SSH signature of the type {0}, not ecdsa-sha2-nistp256")]
    OtherSsh(String),
    #[error("r or s is out of range for P-256")]
    OutOfRange,
    #[error("not Base64")]
    NotBase64,
    #[error("neither Base64, hexadecimal, DER nor 64 raw bytes")]
    UnknownEncoding,
}

impl Signature {
    /// Decodes ASN.1 DER: `SEQUENCE { r INTEGER, s INTEGER }` (RFC 3279, section 2.2.3).
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        ecdsa::Signature::from_der(der)
            .map(Self)
            .map_err(|_| Error::NotDer)
    }

    /// Decodes r then s, 32 bytes each, big-endian (IEEE P1363).
    pub fn from_p1363(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() != 64 {
            return Err(Error::NotP1363(bytes.len()));
        }
        ecdsa::Signature::from_slice(bytes)
            .map(Self)
            .map_err(|_| Error::OutOfRange)
    }

    /// Decodes a signature as SSH sends it (RFC 5656, section 3.1.2): its type, and r and s as mpints.
    /// Some agents write too many or too few leading zeros, which is unambiguous.
    pub fn from_ssh(blob: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader(blob);
        match reader.name() {
            Some(ssh_public::SSH_P256) => {}
            Some(other) => return Err(Error::OtherSsh(other.to_owned())),
            None => return Err(Error::NotSsh),
        }
        let mut numbers = Reader(reader.string().ok_or(Error::NotSsh)?);
        let (r, s) = numbers
            .positive()
            .zip(numbers.positive())
            .filter(|_| numbers.0.is_empty() && reader.0.is_empty())
            .ok_or(Error::NotSsh)?;
        let mut p1363 = [0; 64];
        for (number, field) in [r, s].into_iter().zip(p1363.chunks_exact_mut(32)) {
            let start = field.len().checked_sub(number.len());
            field[start.ok_or(Error::OutOfRange)?..].copy_from_slice(number);
        }
        Self::from_p1363(&p1363)
    }

    /// Decodes one line of padded standard Base64 (RFC 4648, section 4) of ASN.1 DER.
    pub fn from_base64(text: &str) -> Result<Self, Error> {
        let der = BASE64_STANDARD.decode(text).map_err(|_| Error::NotBase64)?;
        Self::from_der(&der)
    }

    /// Decodes Base64 of either alphabet, padded or not, of r then s, 32 bytes each (as in RFC 7518,
    /// section 3.4).
    pub fn from_p1363_base64(text: &str) -> Result<Self, Error> {
        Self::from_p1363(&any_base64::decode(text).ok_or(Error::NotBase64)?)
    }

    /// Reads the output of any signing tool: DER or P1363, raw, in hexadecimal, or in
    /// Base64 of either alphabet, padded or not, wrapped or not.
    pub fn from_any(bytes: &[u8]) -> Result<Self, Error> {
        if let Ok(signature) = Self::from_binary(bytes) {
            return Ok(signature);
        }
        let text: String = std::str::from_utf8(bytes)
            .map_err(|_| Error::UnknownEncoding)?
            .split_whitespace()
            .collect();
        let decoded = base16ct::mixed::decode_vec(&text)
            .ok()
            .or_else(|| any_base64::decode(&text))
            .ok_or(Error::UnknownEncoding)?;
        Self::from_binary(&decoded)
    }

    fn from_binary(bytes: &[u8]) -> Result<Self, Error> {
        Self::from_der(bytes).or_else(|error| match bytes.len() {
            64 => Self::from_p1363(bytes),
            _ => Err(error),
        })
    }

    /// ASN.1 DER, 70 to 72 bytes in nearly every case.
    pub fn to_der(&self) -> Vec<u8> {
        self.0.to_der().as_bytes().to_vec()
    }

    /// The *verification signature* that a cluster takes: one line of padded Base64 of the DER.
    pub fn to_base64(&self) -> String {
        BASE64_STANDARD.encode(self.0.to_der().as_bytes())
    }

    /// r then s, 32 bytes each, big-endian (IEEE P1363).
    pub fn to_p1363(&self) -> Vec<u8> {
        self.0.to_bytes().to_vec()
    }

    /// The DER in lower-case hexadecimal.
    pub fn to_hex(&self) -> String {
        base16ct::lower::encode_string(self.0.to_der().as_bytes())
    }

    /// Whether this is a signature by `public_key` over the SHA-256 of exactly these bytes. The library
    /// is not the one that signs with key files, so a bug in either is noticed.
    pub fn verifies(&self, public_key: &PublicKey, challenge: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key.to_sec1())
            .verify(challenge, &self.to_der())
            .is_ok()
    }
}

impl From<ecdsa::Signature> for Signature {
    fn from(signature: ecdsa::Signature) -> Self {
        Self(signature)
    }
}

/// What the bytes of an invalid signature look like, for messages; `None` if unrecognized.
pub fn describe(bytes: &[u8]) -> Option<String> {
    match bytes {
        // It decodes to itself.
        b"" => return None,
        _ if Signature::from_der(bytes).is_ok() => return Some("ASN.1 DER".to_owned()),
        _ if bytes.len() == 64 && Signature::from_p1363(bytes).is_ok() => {
            return Some("r and s, 32 bytes each (IEEE P1363)".to_owned());
        }
        _ => {}
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let (encoding, decoded) = match base16ct::mixed::decode_vec(text.trim()) {
        Ok(decoded) => ("hexadecimal", decoded),
        Err(_) => (
            "Base64",
            any_base64::decode(&text.split_whitespace().collect::<String>())?,
        ),
    };
    describe(&decoded).map(|inside| format!("{encoding} of {inside}"))
}
