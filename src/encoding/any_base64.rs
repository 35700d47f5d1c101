//! Base64 as programs write it: in either alphabet, padded or not.

use base64::{
    Engine,
    alphabet::{Alphabet, STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Decodes Base64 of either alphabet (RFC 4648, sections 4 and 5), but not of a mixture.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    decode_as(&STANDARD, text.as_bytes()).or_else(|| decode_as(&URL_SAFE, text.as_bytes()))
}

/// Decodes Base64 of one alphabet.
pub(crate) fn decode_as(alphabet: &Alphabet, digits: &[u8]) -> Option<Vec<u8>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config).decode(digits).ok()
}
