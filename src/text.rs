//! Text of unknown origin, made fit to be shown or typed.

/// The text itself, or with escapes where it would steer a terminal: control characters, and those
/// that turn the direction of writing (Unicode Standard Annex 9, table 1).
pub fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// The same in double quotes.
pub fn quoted(text: &str) -> String {
    let inside = text.replace('\\', r"\\").replace('"', "\\\"");
    format!("\"{}\"", printable(&inside))
}

/// Quotes for a POSIX shell, where need be.
pub fn quote(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+:,./@%".contains(c);
    match !arg.is_empty() && arg.chars().all(plain) {
        true => arg.to_owned(),
        false => format!("'{}'", arg.replace('\'', r"'\''")),
    }
}

/// A number of bytes in binary units, rounded down.
pub fn size(bytes: usize) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_steers_the_terminal_is_escaped() {
        assert_eq!(
            printable("täst 🔑 e\u{301} \\ \""),
            "täst 🔑 e\u{301} \\ \""
        );
        assert_eq!(printable("a\x1b[2J\u{202e}b"), "a\\u{1b}[2J\\u{202e}b");
        assert_eq!(quoted("a\"b\\\nc"), r#""a\"b\\\nc""#);
    }
}
