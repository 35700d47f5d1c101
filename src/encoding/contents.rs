//! Splits a key file into its parts: PEM blocks, DER or OpenSSH's binary form, either of these in
//! Base64 without PEM lines, or other text.

use zeroize::Zeroizing;

use super::{
    ber,
    identify::PKCS12_IN_BER,
    pem::{self, Block, Fault},
    ssh_public::OPENSSH_MAGIC,
    unescape,
};

/// A file has the curve's parameters, the key, and perhaps its certificates.
const MAX_VALUES: usize = 16;

/// How often one encoding may be inside another: Base64 of PEM, in Base64 once more.
const MAX_LAYERS: usize = 3;

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
        // The same without a byte-order mark.
        [b'-', 0, b'-', 0, ..] => read_utf16(file, u16::from_le_bytes),
        [0xef, 0xbb, 0xbf, utf8 @ ..] => read_bytes(utf8, MAX_LAYERS),
        bytes => read_bytes(bytes, MAX_LAYERS),
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
        [] => read_bytes(text.as_bytes(), MAX_LAYERS),
        _ => Contents::Binary,
    }
}

fn read_bytes(bytes: &[u8], layers: usize) -> Contents {
    if bytes.trim_ascii().is_empty() {
        return Contents::Empty;
    }
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'));
    let unescaped = text.and_then(unescape::pem);
    let mut blocks = pem::blocks(unescaped.as_ref().map_or(bytes, |text| text.as_bytes()));
    if !blocks.is_empty() {
        for data in blocks
            .iter_mut()
            .filter_map(|block| block.data.as_mut().ok())
        {
            // What follows the key inside its block is padding.
            if let Some((der, _)) = ber::first(data).filter(|_| is_der(data)) {
                *data = der;
            }
        }
        return Contents::Blocks(blocks);
    }
    if let Some(blocks) = binary(bytes, text.is_some()) {
        return Contents::Blocks(blocks);
    }
    match text {
        Some(text) => {
            base64(text, layers).unwrap_or_else(|| Contents::Text(Zeroizing::new(text.to_owned())))
        }
        None => Contents::Binary,
    }
}

/// Base64 of anything known, perhaps in quotes.
fn base64(text: &str, layers: usize) -> Option<Contents> {
    let text = text.trim().trim_matches(['"', '\'']);
    let mut digits = Zeroizing::new(Vec::with_capacity(text.len()));
    digits.extend(text.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let bytes = pem::decode_base64(&digits)?;
    match binary(&bytes, false) {
        Some(blocks) => Some(Contents::Blocks(blocks)),
        None if layers == 0 => None,
        None => Some(read_bytes(&bytes, layers - 1))
            .filter(|contents| matches!(contents, Contents::Blocks(_))),
    }
}

/// Whether these bytes start a SEQUENCE or an OBJECT IDENTIFIER, as every key in DER does.
fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30 | 0x06, ..]) && !bytes.starts_with(PKCS12_IN_BER)
}

/// DER or OpenSSH's binary form. Several DER values may follow each other: `openssl ecparam
/// -genkey -outform DER` used to write the parameters and then the key. Anything else after the
/// first is padding, which older exporters add.
fn binary(bytes: &[u8], is_text: bool) -> Option<Vec<Block>> {
    if bytes.starts_with(OPENSSH_MAGIC) || bytes.starts_with(PKCS12_IN_BER) {
        return Some(vec![unlabelled(Ok(bytes))]);
    }
    let mut blocks = Vec::new();
    let mut rest = bytes;
    while blocks.len() < MAX_VALUES
        && is_der(rest)
        && let Some((der, length)) = ber::first(rest)
    {
        blocks.push(unlabelled(Ok(&der)));
        rest = &rest[length..];
    }
    if blocks.is_empty() && is_der(bytes) && !is_text {
        blocks.push(unlabelled(Err(Fault::CutShort)));
    }
    (!blocks.is_empty()).then_some(blocks)
}

fn unlabelled(data: Result<&[u8], Fault>) -> Block {
    Block {
        label: None,
        headers: Vec::new(),
        data: data.map(|bytes| Zeroizing::new(bytes.to_vec())),
    }
}
