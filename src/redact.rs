//! Hides secrets in text that is about to be shown.
//!
//! A valid key source knows which of its attributes are secret. This handles the rest: mistyped
//! sources, and messages of libraries and programs that quote one.

/// Replaces a secret.
pub const HIDDEN: &str = "…";

/// Not attributes of any key source, but users put secrets there.
const MISTAKEN: [&str; 6] = ["pin", "passphrase", "password", "passwd", "pass", "secret"];

/// The placeholder for user and password in our own hints.
const PLACEHOLDER: &str = "USER:PASSWORD";

/// Hides what follows `pin-value` in any spelling, what follows the names in [`MISTAKEN`] where they
/// look like attributes, and the user and password of a URL.
pub fn redact(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut quotes = Quotes::default();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let found = secret_value(&shown, rest).or_else(|| user_info(rest, &quotes));
        let Some((before, value)) = found else {
            let (passed, after) = rest.split_at(c.len_utf8());
            quotes.pass(&shown, c, after);
            shown.push_str(passed);
            rest = after;
            continue;
        };
        shown.push_str(&rest[..before]);
        shown.push_str(HIDDEN);
        let value_and_rest = &rest[before..];
        let end = match value {
            Extent::Bytes(end) => end,
            Extent::Token => quotes.token_end(value_and_rest),
            Extent::Line => quotes.line_end(value_and_rest),
        };
        rest = &value_and_rest[end..];
    }
    shown
}

/// How far a secret reaches.
enum Extent {
    Bytes(usize),
    /// To the closing quote, else to the next white space.
    Token,
    /// To the closing quote, else to the end of the line.
    Line,
}

/// Where a secret starts in `text`, if `text` starts with the name of a secret attribute.
fn secret_value(before: &str, text: &str) -> Option<(usize, Extent)> {
    let (name_end, separators, extent) = if let Some(end) = pin_value(text) {
        (end, "=:", Extent::Line)
    } else {
        let name = MISTAKEN.iter().find_map(|name| spelled(text, name));
        match before.trim_end_matches(' ').chars().next_back() {
            Some('?' | '&' | ';') => (name?, "=:", Extent::Token),
            _ if before.ends_with(' ') => (name?, "=", Extent::Token),
            _ => return None,
        }
    };
    let after = text[name_end..].trim_start_matches(' ');
    let (separator, length) = decoded_char(after)?;
    if !separators.contains(separator) {
        return None;
    }
    let value = &after[length..];
    // `pin-value: …` in prose and in our own output.
    let is_hidden = value.trim_start_matches(' ').starts_with(HIDDEN);
    (!value.is_empty() && !is_hidden).then(|| (text.len() - value.len(), extent))
}

/// The length of `pin-value` at the start of `text`, with or without a separator between its words.
fn pin_value(text: &str) -> Option<usize> {
    let pin = spelled(text, "pin")?;
    let rest = &text[pin..];
    if let Some(value) = spelled(rest, "value") {
        return Some(pin + value);
    }
    let (between, length) = decoded_char(rest)?;
    let value = spelled(&rest[length..], "value").filter(|_| "-_. ".contains(between))?;
    Some(pin + length + value)
}

/// The length of `word` at the start of `text`, in any case, percent-encoded or not.
fn spelled(text: &str, word: &str) -> Option<usize> {
    word.chars().try_fold(0, |at, wanted| {
        let (c, length) = decoded_char(&text[at..])?;
        c.eq_ignore_ascii_case(&wanted).then_some(at + length)
    })
}

/// The first character, which may be percent-encoded, and its length in bytes.
fn decoded_char(text: &str) -> Option<(char, usize)> {
    let escape = text.strip_prefix('%').and_then(|rest| rest.get(..2));
    let byte = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok());
    match byte {
        Some(byte) if byte.is_ascii() => Some((char::from(byte), 3)),
        _ => text.chars().next().map(|c| (c, c.len_utf8())),
    }
}

/// The user and password of a URL whose `://` begins `text`.
fn user_info(text: &str, quotes: &Quotes) -> Option<(usize, Extent)> {
    const SCHEME_END: &str = "://";
    let url = text.strip_prefix(SCHEME_END)?;
    // Longer ones do not occur, and scanning on would take quadratic time with many `://`.
    let url = match url.char_indices().nth(1_000) {
        Some((end, _)) => &url[..end],
        None => url,
    };
    // Passwords contain `/`, `?` and `@` although they must not.
    let (user_info, _) = url[..quotes.token_end(url)].rsplit_once('@')?;
    // With another `://` in it, it belongs to that URL.
    let is_own = user_info.contains(':') && !user_info.contains(SCHEME_END);
    (is_own && user_info != PLACEHOLDER).then(|| (SCHEME_END.len(), Extent::Bytes(user_info.len())))
}

/// The quotes around the current position.
#[derive(Default)]
struct Quotes(Option<char>);

impl Quotes {
    fn pass(&mut self, before: &str, c: char, after: &str) {
        match self.0 {
            Some(open) if closes(open, before, c, after) => self.0 = None,
            None if opens(before, c) => self.0 = Some(c),
            _ => {}
        }
    }

    /// Where the current word ends, within these quotes if any.
    fn token_end(&self, text: &str) -> usize {
        self.end(text, char::is_whitespace)
    }

    /// Where the current line ends, within these quotes if any.
    fn line_end(&self, text: &str) -> usize {
        self.end(text, |c| c == '\n')
    }

    fn end(&self, text: &str, unquoted: fn(char) -> bool) -> usize {
        let ends = |(at, c): (usize, char)| match self.0 {
            Some(open) => c == '\n' || closes(open, &text[..at], c, &text[at + c.len_utf8()..]),
            None => unquoted(c),
        };
        let found = text.char_indices().find(|&found| ends(found));
        found.map_or(text.len(), |(at, _)| at)
    }
}

fn opens(before: &str, c: char) -> bool {
    // Not an apostrophe.
    let inside_word = before.ends_with(char::is_alphanumeric);
    c == '"' || (matches!(c, '\'' | '`') && !inside_word)
}

fn closes(open: char, before: &str, c: char, after: &str) -> bool {
    c == open
        && match open {
            '"' => !before.ends_with('\\'),
            _ => !after.starts_with(char::is_alphanumeric),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_value_is_hidden_in_any_spelling_and_quotes() {
        for (text, shown) in [
            (
                "pkcs11:object=o&pin-value=1234",
                "pkcs11:object=o&pin-value=…",
            ),
            ("x?PIN-VALUE=12 34\nline", "x?PIN-VALUE=…\nline"),
            (
                "\"x?pin-value=12 34\" is wrong",
                "\"x?pin-value=…\" is wrong",
            ),
            (
                r#""x?pin-value=1\"2" is wrong"#,
                "\"x?pin-value=…\" is wrong",
            ),
            ("'x?pin-value=1'2' is wrong", "'x?pin-value=…' is wrong"),
            ("`x?pin-value=1 2`, or not", "`x?pin-value=…`, or not"),
            ("don't say pin%2Dvalue=1234 here", "don't say pin%2Dvalue=…"),
            ("pin-value%3D1234", "pin-value%3D…"),
            ("pin-value:1234", "pin-value:…"),
            ("pin_value = 1234", "pin_value =…"),
            ("pinvalue=1 pin.value=2", "pinvalue=…"),
            ("pin-value=1234&module-path=/m", "pin-value=…"),
            (
                "\"unclosed pin-value=1 2\nnext line",
                "\"unclosed pin-value=…\nnext line",
            ),
        ] {
            assert_eq!(redact(text), shown);
        }
    }

    #[test]
    fn mistaken_attributes_are_hidden() {
        for (text, shown) in [
            ("k.pem?passphrase=x", "k.pem?passphrase=…"),
            ("k.pem;PIN=x", "k.pem;PIN=…"),
            ("k.pem & password:x", "k.pem & password:…"),
            ("k.pem pass=x", "k.pem pass=…"),
        ] {
            assert_eq!(redact(text), shown);
        }
    }

    #[test]
    fn password_in_url_is_hidden() {
        for (text, shown) in [
            ("http://u:p@h:1/", "http://…@h:1/"),
            ("a:///b?url=http://u:p@h", "a:///b?url=http://…@h"),
            ("\"http://u:p w@h\" is wrong", "\"http://…@h\" is wrong"),
            (
                "https://u:p/@?@h/x and http://h:1",
                "https://…@h/x and http://h:1",
            ),
        ] {
            assert_eq!(redact(text), shown);
        }
    }

    #[test]
    fn other_text_is_shown() {
        for text in [
            "",
            "pin=value.pem",
            "k.pem?passphrase-env=X&pin-file=/p",
            "pkcs11: it takes module-path, pin-value, pin-env",
            "pkcs11:object=o?pin-value=…&module-path=/m",
            "the passphrase: nothing was typed",
            "wrong PIN: CKR_PIN_INCORRECT",
            "https://h:8000/v1/x",
            "git@h:x",
            "http://USER:PASSWORD@HOST:PORT",
            "100% of \u{1f511}%f0",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
