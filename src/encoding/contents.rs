//! Splits a key file into its parts: PEM blocks, DER or OpenSSH's binary form, either of these in
//! Base64 without PEM lines, or other text.

use zeroize::Zeroizing;

use super::{
    asn1,
    identify::PKCS12_IN_BER,
    pem::{self, Block, Fault},
    ssh_public::OPENSSH_MAGIC,
};

/// A file's parts.
pub(crate) enum Contents {
    /// Only white space.
    Empty,
    /// At least one block. A file without PEM lines becomes one block without a label.
    Blocks(Vec<Block>),
    /// Text without PEM blocks that is not Base64 of a known structure.
    Text(Zeroizing<String>),
    /// Bytes that are neither text nor DER.
    Binary,
}

/// Splits a file. A byte-order mark is dropped; if it is that of UTF-16, which PowerShell's `>` writes,
/// the file is decoded.
pub(crate) fn read(file: &[u8]) -> Contents {
    match file {
        [0xff, 0xfe, utf16 @ ..] => read_utf16(utf16, u16::from_le_bytes),
        [0xfe, 0xff, utf16 @ ..] => read_utf16(utf16, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, utf8 @ ..] => read_bytes(utf8),
        bytes => read_bytes(bytes),
    }
}

fn read_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Contents {
    let (pairs, odd) = bytes.as_chunks::<2>();
    // One unit becomes at most three bytes of UTF-8.
    let mut text = Zeroizing::new(String::with_capacity(3 * pairs.len()));
    for char in char::decode_utf16(pairs.iter().map(|&pair| unit(pair))) {
        match char {
            Ok(char) => text.push(char),
            Err(_) => return Contents::Binary,
        }
    }
    match odd {
        [] => read_bytes(text.as_bytes()),
        _ => Contents::Binary,
    }
}

fn read_bytes(bytes: &[u8]) -> Contents {
    if bytes.trim_ascii().is_empty() {
        return Contents::Empty;
    }
    let blocks = Some(pem::blocks(bytes)).filter(|blocks| !blocks.is_empty());
    if let Some(blocks) = blocks.or_else(|| binary(bytes)) {
        return Contents::Blocks(blocks);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => {
            base64(text).unwrap_or_else(|| Contents::Text(Zeroizing::new(text.to_owned())))
        }
        _ => Contents::Binary,
    }
}

fn base64(text: &str) -> Option<Contents> {
    let mut digits = Zeroizing::new(Vec::with_capacity(text.len()));
    digits.extend(text.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    binary(&pem::decode_base64(&digits)?).map(Contents::Blocks)
}

/// DER or OpenSSH's binary form. Several DER values may follow each other: `openssl ecparam
/// -genkey -outform DER` used to write the parameters and then the key.
fn binary(bytes: &[u8]) -> Option<Vec<Block>> {
    if bytes.starts_with(OPENSSH_MAGIC) || bytes.starts_with(PKCS12_IN_BER) {
        return Some(vec![unlabelled(Ok(bytes))]);
    }
    if !matches!(bytes, [0x30 | 0x06, ..]) {
        return None;
    }
    let Some(lengths) = asn1::lengths(bytes) else {
        // A text may also start with these bytes: `0` is 0x30.
        let is_text = std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'));
        return (!is_text).then(|| vec![unlabelled(Err(Fault::CutShort))]);
    };
    let mut rest = bytes;
    let blocks = lengths.into_iter().map(|length| {
        let (value, after) = rest.split_at(length);
        rest = after;
        unlabelled(Ok(value))
    });
    Some(blocks.collect())
}

fn unlabelled(data: Result<&[u8], Fault>) -> Block {
    Block {
        label: None,
        headers: Vec::new(),
        data: data.map(|bytes| Zeroizing::new(bytes.to_vec())),
    }
}
