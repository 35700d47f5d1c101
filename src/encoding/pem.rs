//! PEM text: read as tolerantly as `openssl` and `ssh-keygen` do, written as RFC 7468 specifies, with
//! the headers of RFC 1421 if an encrypted SEC1 key needs them.

use std::sync::LazyLock;

use base64::{Engine, alphabet, prelude::BASE64_STANDARD};
use regex::bytes::Regex;
use zeroize::Zeroizing;

use super::any_base64;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// A block of a PEM file, or the whole of a file that has no PEM lines.
pub(crate) struct Block {
    /// The label of its BEGIN line; `None` in a file without PEM lines.
    pub(crate) label: Option<String>,
    /// RFC 1421 headers, in order.
    pub(crate) headers: Vec<(String, String)>,
    /// The decoded Base64.
    pub(crate) data: Result<Zeroizing<Vec<u8>>, Fault>,
}

/// Why a block has no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NoEnd,
    NotBase64,
    CutShort,
}

impl Block {
    /// Its name in messages.
    pub(crate) fn name(&self) -> String {
        match &self.label {
            Some(label) => format!("{label} block"),
            None => "DER".into(),
        }
    }

    /// A header's value, without regard to the case of its name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Every block in `text`, in order; anything between blocks is ignored. Lines may be of any length,
/// indented, or missing.
pub(crate) fn blocks(text: &[u8]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(begin) = find(rest, BEGIN) {
        rest = &rest[begin + BEGIN.len()..];
        let Some((label, body)) = label(rest) else {
            continue;
        };
        let body = &body[..find(body, BEGIN).unwrap_or(body.len())];
        rest = &rest[label.len() + DASHES.len() + body.len()..];
        blocks.push(block(label, body));
    }
    blocks
}

fn block(label: &str, body: &[u8]) -> Block {
    let ended = find(body, END).filter(|&end| {
        let own = self::label(&body[end + END.len()..]);
        own.is_some_and(|(end_label, _)| end_label == label)
    });
    let (headers, data) = match ended {
        Some(end) => contents(&body[..end]),
        None => (Vec::new(), Err(Fault::NoEnd)),
    };
    Block {
        label: Some(label.to_owned()),
        headers,
        data,
    }
}

/// The label that `text` starts with, and what follows the dashes after it.
fn label(text: &[u8]) -> Option<(&str, &[u8])> {
    let dashes = find(text, DASHES)?;
    let label = std::str::from_utf8(&text[..dashes]).ok()?;
    let plausible = |c: char| c.is_ascii_graphic() || c == ' ';
    (label.len() <= 64 && label.chars().all(plausible))
        .then_some((label, &text[dashes + DASHES.len()..]))
}

type Contents = (Vec<(String, String)>, Result<Zeroizing<Vec<u8>>, Fault>);

fn contents(body: &[u8]) -> Contents {
    let mut headers = Vec::new();
    let mut base64 = Zeroizing::new(Vec::with_capacity(body.len()));
    for mut line in body.split(|&byte| matches!(byte, b'\r' | b'\n')) {
        while let Some((name, value, rest)) = encryption_header(line) {
            headers.push((name, value));
            line = rest;
        }
        match std::str::from_utf8(line).ok().and_then(header) {
            Some(header) if base64.is_empty() => headers.push(header),
            _ => base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace())),
        }
    }
    let data = match decode_base64(&base64) {
        Some(data) if !data.is_empty() => Ok(data),
        _ => Err(Fault::NotBase64),
    };
    (headers, data)
}

/// The header of an encrypted key that `line` starts with, and what follows its value: where line
/// breaks were lost, the other header and the Base64.
fn encryption_header(line: &[u8]) -> Option<(String, String, &[u8])> {
    static HEADER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^\s*(?:(Proc-Type):\s*(4,\s*ENCRYPTED)|(DEK-Info):\s*([A-Za-z0-9-]+,\s*[0-9A-Fa-f]+))(?:\s|$)").expect("a pattern")
    });
    let found = HEADER.captures(line)?;
    let (_, [name, value]) = found.extract();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Some((text(name), text(value), &line[found.get_match().end()..]))
}

fn header(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once(':')?;
    Some((key.trim().to_owned(), value.trim().to_owned()))
}

/// Standard Base64 without white space, padded or not.
pub(crate) fn decode_base64(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    any_base64::decode_as(&alphabet::STANDARD, digits).map(Zeroizing::new)
}

/// One block with lines of `width` digits, ending in a newline.
pub(crate) fn encode(
    label: &str,
    headers: &[(&str, &str)],
    data: &[u8],
    width: usize,
) -> Zeroizing<String> {
    let digits = Zeroizing::new(BASE64_STANDARD.encode(data));
    // Reserved in full: growing would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * digits.len() + 512));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for (key, value) in headers {
        text.push_str(&format!("{key}: {value}\n"));
    }
    if !headers.is_empty() {
        text.push('\n');
    }
    for start in (0..digits.len()).step_by(width) {
        text.push_str(&digits[start..digits.len().min(start + width)]);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut windows = haystack.windows(needle.len());
    windows.position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Block {
        let mut blocks = blocks(text.as_bytes());
        assert_eq!(blocks.len(), 1);
        blocks.remove(0)
    }

    #[test]
    fn round_trip() {
        let text = encode("X", &[("A", "1"), ("B", "2, 3")], &[7; 100], 64);
        let block = only(&text);
        assert_eq!(block.label.as_deref(), Some("X"));
        assert_eq!(block.header("b"), Some("2, 3"));
        assert_eq!(**block.data.as_ref().unwrap(), [7; 100]);
    }

    #[test]
    fn ignores_text_around_blocks() {
        let text = "a: b\n-----BEGIN X-----\nAAAA\n-----END X-----\ntext\r\n\
                    -----BEGIN Y-----\r\nBBBB\r\n-----END Y-----\r\n-----";
        let labels: Vec<_> = blocks(text.as_bytes())
            .iter()
            .map(|block| block.label.clone().unwrap())
            .collect();
        assert_eq!(labels, ["X", "Y"]);
    }

    #[test]
    fn line_breaks_are_optional() {
        for text in [
            "-----BEGIN X-----AAEC-----END X-----",
            "-----BEGIN X----- AAEC -----END X-----",
            "  -----BEGIN X-----\n  AA\n  EC\n  -----END X-----",
        ] {
            assert_eq!(**only(text).data.as_ref().unwrap(), [0, 1, 2]);
        }
    }

    #[test]
    fn faults_of_blocks() {
        for (text, fault) in [
            ("-----BEGIN X-----\nAAEC\n", Fault::NoEnd),
            ("-----BEGIN X-----\nAAEC\n-----END X", Fault::NoEnd),
            ("-----BEGIN X-----\nAAEC\n-----END Y-----\n", Fault::NoEnd),
            (
                "-----BEGIN X-----\nAA*C\n-----END X-----\n",
                Fault::NotBase64,
            ),
            ("-----BEGIN X-----\n-----END X-----\n", Fault::NotBase64),
        ] {
            assert_eq!(only(text).data, Err(fault), "{text}");
        }
    }

    #[test]
    fn unterminated_block_does_not_swallow_the_next() {
        let text = "-----BEGIN X-----\nAAEC\n-----BEGIN Y-----\nAAEC\n-----END Y-----\n";
        let blocks = blocks(text.as_bytes());
        assert_eq!(blocks[0].data, Err(Fault::NoEnd));
        assert!(blocks[1].data.is_ok());
    }
}
