//! Undoes what JSON, a URL, a form or a chat does to a PEM file that is copied through it.

use zeroize::Zeroizing;

/// JSON inside JSON inside a shell's quotes.
const MAX_ROUNDS: usize = 3;

/// `text` as it was before it was escaped, if it is PEM that was.
pub(crate) fn pem(text: &str) -> Option<Zeroizing<String>> {
    let begin = text.find("-----BEGIN")?;
    let mut plain = Zeroizing::new(text.to_owned());
    let mut changed = false;
    let mut replace = |plain: &mut Zeroizing<String>, new: Option<Zeroizing<String>>| {
        if let Some(new) = new.filter(|new| **new != **plain) {
            *plain = new;
            changed = true;
        }
    };
    if let Some(separator @ ("%" | "+")) = text.get(begin + 10..begin + 11) {
        let decoded = without_percent(&plain, separator == "+");
        replace(&mut plain, decoded);
    }
    for _ in 0..MAX_ROUNDS {
        let decoded = Some(without_backslashes(&plain));
        replace(&mut plain, decoded);
    }
    let decoded = Some(with_ascii_spaces(&plain));
    replace(&mut plain, decoded);
    changed.then_some(plain)
}

/// The escapes of a JSON string (RFC 8259, section 7), which shells and YAML share.
fn without_backslashes(text: &str) -> Zeroizing<String> {
    let mut plain = with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            plain.push(char);
            continue;
        }
        match chars.next() {
            Some('n' | 'r') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('u') => {
                let digits = chars.as_str().get(..4);
                let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                match code.and_then(char::from_u32) {
                    Some(char) => {
                        plain.push(char);
                        chars = chars.as_str()[4..].chars();
                    }
                    None => plain.push_str("\\u"),
                }
            }
            Some(other) => plain.push(other),
            None => plain.push('\\'),
        }
    }
    plain
}

/// Percent-encoding (RFC 3986, section 2.1), in a form with `+` for spaces.
fn without_percent(text: &str, form: bool) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let byte = 16 * digit(high)? + digit(low)?;
                bytes.push(u8::try_from(byte).ok()?);
                rest = after;
            }
            (b'+', _) if form => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    let mut plain = with_capacity(bytes.len());
    plain.push_str(std::str::from_utf8(&bytes).ok()?);
    Some(plain)
}

/// Without the spaces that word processors and chats put in: non-breaking and of no width.
fn with_ascii_spaces(text: &str) -> Zeroizing<String> {
    let mut plain = with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' => {}
            _ if char.is_ascii() || !char.is_whitespace() => plain.push(char),
            _ => plain.push(' '),
        }
    }
    plain
}

/// Room for all of it: growing would leave copies behind.
fn with_capacity(length: usize) -> Zeroizing<String> {
    Zeroizing::new(String::with_capacity(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        let plain = "-----BEGIN EC PRIVATE KEY-----\nAB+/\n-----END EC PRIVATE KEY-----\n";
        let read = |text: &str| pem(text).map(|text| text.trim().to_owned());
        for escaped in [
            plain.replace('\n', "\\n"),
            plain.replace('\n', "\\r\\n").replace("\\r", ""),
            plain.replace('\n', "\\\\n"),
            plain.replace('\n', "\\\\\\n").replace("\\\\\\n", "\\n"),
            plain.replace('\n', "\\n").replace('/', "\\/"),
            plain.replace('+', "\\u002B").replace('\n', "\\u000a"),
            plain
                .replace('+', "%2B")
                .replace('\n', "%0A")
                .replace(' ', "+"),
            plain.replace('\n', "%0a").replace(' ', "%20"),
            plain.replace(' ', "\u{a0}"),
            plain.replace("AB", "A\u{200b}B"),
        ] {
            assert_eq!(read(&escaped).as_deref(), Some(plain.trim()), "{escaped}");
        }
        for text in [plain, "no PEM\\n", "-----BEGIN+%zz"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
