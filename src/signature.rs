//! ECDSA P-256/SHA-256 signatures, and the only place that converts their encodings.

use base64::{Engine, prelude::BASE64_STANDARD};
use p256::ecdsa::{self, signature::Verifier};

use crate::public_key::PublicKey;

/// A signature that is well-formed (r and s in 1..n), in no encoding in particular.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature(ecdsa::Signature);

/// Why some bytes are not a signature.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("not an ASN.1 DER ECDSA signature")]
    NotDer,
    #[error("{0} bytes where r and s take 64")]
    NotP1363(usize),
    #[error("r or s is out of range for P-256")]
    OutOfRange,
    #[error("not Base64")]
    NotBase64,
    #[error("neither Base64, hexadecimal, DER nor 64 raw bytes")]
    UnknownEncoding,
}

impl Signature {
    /// Takes ASN.1 DER: `SEQUENCE { r INTEGER, s INTEGER }` (RFC 3279, section 2.2.3).
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        ecdsa::Signature::from_der(der)
            .map(Self)
            .map_err(|_| Error::NotDer)
    }

    /// Takes r then s, 32 bytes each, big-endian (IEEE P1363).
    pub fn from_p1363(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() != 64 {
            return Err(Error::NotP1363(bytes.len()));
        }
        ecdsa::Signature::from_slice(bytes)
            .map(Self)
            .map_err(|_| Error::OutOfRange)
    }

    /// Takes one line of padded standard Base64 (RFC 4648, section 4) of ASN.1 DER.
    pub fn from_base64(text: &str) -> Result<Self, Error> {
        let der = BASE64_STANDARD.decode(text).map_err(|_| Error::NotBase64)?;
        Self::from_der(&der)
    }

    /// Takes whatever a signing tool leaves in a file: DER or P1363, raw, in hexadecimal, or in
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
            .or_else(|| decode_any_base64(&text))
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

    /// Whether `public_key`'s owner made this signature over exactly these bytes (which are
    /// hashed here, once, with SHA-256).
    pub fn verifies(&self, public_key: &PublicKey, challenge: &[u8]) -> bool {
        public_key
            .as_verifying_key()
            .verify(challenge, &self.0)
            .is_ok()
    }
}

impl From<ecdsa::Signature> for Signature {
    fn from(signature: ecdsa::Signature) -> Self {
        Self(signature)
    }
}

fn decode_any_base64(text: &str) -> Option<Vec<u8>> {
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [base64::alphabet::STANDARD, base64::alphabet::URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok())
}
