//! Makes foreign text safe to show on a terminal and to paste into a shell.

use std::path::Path;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// How many characters of one value (a name, a comment) a line of text shows.
const VALUE: usize = 200;

/// How many characters a cell of a table shows: enough for a URI. Each row is padded to the widest
/// cell, so this bounds the memory that a table takes.
const CELL: usize = 400;

/// How many characters of a foreign message are shown: the start and the end.
const MESSAGE_START: usize = 3_000;
const MESSAGE_END: usize = 800;

/// The longest possible path (PATH_MAX).
const ARGUMENT: usize = 4_096;

/// Each argument of a command in a hint has a limit of its own, so this one is generous.
const HINT: usize = 32_000;

/// How many combining marks a letter has in real text. More would draw over other lines.
const MARKS: usize = 6;

/// Each character, and whether a terminal shows it unchanged at this position.
pub fn visible(text: &str) -> impl Iterator<Item = (char, bool)> {
    // What the next combining mark would be drawn on: whether it is a symbol, and how many marks it
    // already has. After an escaped character, that is our own text.
    let mut base = None;
    text.chars().map(move |c| {
        base = match (class(c), base) {
            (Class::Letter, _) => Some((false, 0)),
            (Class::Symbol, _) => Some((true, 0)),
            (Class::Mark, Some((symbol, marks))) if marks < MARKS => Some((symbol, marks + 1)),
            // It picks the colored or the plain form of a symbol. Anywhere else it is invisible.
            (Class::EmojiStyle, Some((true, 0))) => Some((true, 1)),
            _ => None,
        };
        (c, base.is_some())
    })
}

enum Class {
    Letter,
    Symbol,
    Mark,
    EmojiStyle,
    /// Controls the terminal or the writing direction, is invisible, or has no assigned meaning.
    Hidden,
}

fn class(c: char) -> Class {
    use GeneralCategory as Category;
    match c {
        ' '..='~' => Class::Letter,
        '\u{fe0e}' | '\u{fe0f}' => Class::EmojiStyle,
        // Invisible letters, marks and symbols: Default_Ignorable_Code_Point as far as the categories
        // below do not cover it, and blank symbols.
        '\u{34f}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0d}'
        | '\u{ffa0}'
        | '\u{1d159}'
        | '\u{e0000}'..='\u{e0fff}' => Class::Hidden,
        c => match c.general_category() {
            Category::Control
            | Category::Format
            | Category::LineSeparator
            | Category::ParagraphSeparator
            | Category::PrivateUse
            | Category::Surrogate
            | Category::Unassigned => Class::Hidden,
            Category::NonspacingMark | Category::SpacingMark | Category::EnclosingMark => {
                Class::Mark
            }
            Category::OtherSymbol => Class::Symbol,
            _ => Class::Letter,
        },
    }
}

/// The text, with characters escaped that a terminal would hide or interpret.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (c, visible) in visible(text) {
        if visible {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

/// A value within a line of text: printable, and cut if long.
pub fn value(text: &str) -> String {
    printable(&beginning(text, VALUE))
}

/// A value in a column of its own.
pub fn cell(text: &str) -> String {
    printable(&beginning(text, CELL))
}

/// A value in double quotes. Backticks are escaped because hints mark commands with them.
pub fn quoted(text: &str) -> String {
    let (start, rest) = split(text, VALUE);
    let inside = start.replace('\\', r"\\").replace('"', "\\\"");
    let inside = printable(&inside).replace('`', r"\u{60}");
    match rest {
        0 => format!("\"{inside}\""),
        rest => format!("\"{inside}…\" ({} more characters)", grouped(rest)),
    }
}

/// A number of bytes in binary units, rounded down.
pub fn size(bytes: usize) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

/// A message, without its middle if it is far too long: our own words are at its ends.
pub fn message(text: &str) -> String {
    let (start, rest) = split(text, MESSAGE_START);
    match rest.checked_sub(MESSAGE_END) {
        None | Some(0) => text.to_owned(),
        Some(cut) => {
            let (_, end) = text.split_at(last(text, MESSAGE_END));
            format!("{start}… ({} more characters) …{end}", grouped(cut))
        }
    }
}

/// A hint, without its end if it is far too long: cutting the middle could join parts of two commands.
pub fn hint(text: &str) -> String {
    beginning(text, HINT)
}

/// A foreign hint or a log line, which may contain commands too.
pub fn excerpt(text: &str) -> String {
    beginning(text, MESSAGE_START)
}

fn beginning(text: &str, limit: usize) -> String {
    match split(text, limit) {
        (_, 0) => text.to_owned(),
        (start, rest) => format!("{start}… ({} more characters)", grouped(rest)),
    }
}

/// The first `limit` characters, and how many follow.
fn split(text: &str, limit: usize) -> (&str, usize) {
    match text.char_indices().nth(limit) {
        Some((end, _)) => (&text[..end], text[end..].chars().count()),
        None => (text, 0),
    }
}

/// Where the last `n` characters begin.
fn last(text: &str, n: usize) -> usize {
    let start = text.char_indices().rev().nth(n.saturating_sub(1));
    start.map_or(0, |(start, _)| start)
}

/// A number with commas between the thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One word of a shell command to copy. Text that is not visible in single quotes becomes `$'…'`, which
/// bash, zsh, ksh and POSIX.1-2024 support.
pub fn quote(arg: &str) -> String {
    quote_bytes(beginning(arg, ARGUMENT).as_bytes())
}

/// A path as one word of a shell command, never mistaken for an option; `-` is stdin.
pub fn quote_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    match bytes.first() {
        Some(b'-') if bytes != b"-" => quote_bytes(&[b"./", bytes].concat()),
        _ => match path.to_str() {
            Some(text) => quote(text),
            None => quote_bytes(bytes),
        },
    }
}

fn quote_bytes(bytes: &[u8]) -> String {
    // zsh expands a leading `=`.
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_=+:,./@%".contains(b);
    let text = str::from_utf8(bytes).ok();
    match text {
        Some(text) if !text.is_empty() && !text.starts_with('=') && bytes.iter().all(plain) => {
            text.to_owned()
        }
        // Hints mark commands with backticks; one inside would appear to end the command.
        Some(text) if visible(text).all(|(c, visible)| visible && c != '`') => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => ansi_c_quoted(bytes),
    }
}

/// Escapes bytes in octal: unlike `\u`, that means the same in every locale.
fn ansi_c_quoted(bytes: &[u8]) -> String {
    let octal = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("\\{b:03o}")).collect() };
    let mut quoted = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for (c, visible) in visible(chunk.valid()) {
            match c {
                '\n' => quoted.push_str("\\n"),
                '\t' => quoted.push_str("\\t"),
                '\\' | '\'' => quoted.extend(['\\', c]),
                // Interactive shells expand `!` before they look for the end of `$'…'`.
                '`' | '!' => quoted.push_str(&octal(&[c as u8])),
                c if visible => quoted.push(c),
                c => quoted.push_str(&octal(c.encode_utf8(&mut [0; 4]).as_bytes())),
            }
        }
        quoted.push_str(&octal(chunk.invalid()));
    }
    quoted.push('\'');
    quoted
}

/// The same text with a capital first letter, to begin a sentence.
pub fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::Command};

    use super::*;

    #[test]
    fn real_scripts_stay_readable() {
        for text in [
            "Schlüssel \\ \"key\"",
            "e\u{301}, a\u{31b}\u{301}, 鍵 キー, ключ, مفتاح, שָׁלוֹם, कुंजी, กุญแจ",
            "🔑 ❤\u{fe0f} ☎\u{fe0e} 🇨🇭 👍🏽 ½ € 𝄞",
        ] {
            assert_eq!(printable(text), text);
        }
    }

    #[test]
    fn control_invisible_and_unassigned_characters_are_escaped() {
        for c in "\0\t\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{34f}\u{61c}\u{115f}\u{17b4}\u{180e}\u{200b}\u{200d}\
                  \u{200e}\u{2028}\u{2029}\u{202e}\u{2060}\u{2064}\u{2066}\u{206f}\u{2800}\u{3164}\u{e000}\
                  \u{fdd0}\u{fe00}\u{feff}\u{ffa0}\u{fff9}\u{fffb}\u{ffff}\u{1d173}\u{e0001}\u{e0041}\u{e007f}\
                  \u{e0100}\u{10fffd}\u{378}"
            .chars()
        {
            assert_eq!(
                printable(&format!("a{c}b")),
                format!("a{}b", c.escape_default())
            );
        }
    }

    #[test]
    fn marks_without_letter_or_in_excess_are_escaped() {
        assert_eq!(printable("\u{301}a"), "\\u{301}a");
        assert_eq!(printable("a\u{202e}\u{301}"), "a\\u{202e}\\u{301}");
        let flood = format!("a{}", "\u{301}".repeat(50));
        let shown = printable(&flood);
        assert_eq!(shown.matches('\u{301}').count(), MARKS);
        assert_eq!(shown.matches("\\u{301}").count(), 50 - MARKS);
        assert_eq!(printable("lo\u{fe0f}ck"), "lo\\u{fe0f}ck");
        assert_eq!(printable("❤\u{fe0f}\u{fe0f}"), "❤\u{fe0f}\\u{fe0f}");
    }

    #[test]
    fn long_values_are_cut_and_say_how_much() {
        let long = "x".repeat(100_000);
        let start = "x".repeat(200);
        assert_eq!(value(&long), format!("{start}… (99,800 more characters)"));
        assert_eq!(
            quoted(&long),
            format!("\"{start}…\" (99,800 more characters)")
        );
        let shown = message(&format!("first {long} last"));
        assert!(shown.starts_with("first x") && shown.ends_with("x last"));
        assert!(shown.contains("… (96,211 more characters) …"), "{shown}");
        assert!(quote(&long).ends_with("… (95,904 more characters)'"));
        for fits in ["", "x", &"é".repeat(200)] {
            assert_eq!(value(fits), fits);
            assert_eq!(message(fits), fits);
        }
        assert_eq!(message(&"x".repeat(3_800)), "x".repeat(3_800));
    }

    #[test]
    fn quoted_words_contain_no_control_character() {
        assert_eq!(quote("lock-2026.pem"), "lock-2026.pem");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("=ls"), "'=ls'");
        assert_eq!(quote("~/it's $HOME!"), r"'~/it'\''s $HOME!'");
        assert_eq!(quote("Schlüssel 鍵"), "'Schlüssel 鍵'");
        assert_eq!(quote("a\n\u{1b}[2J'`\\!"), r"$'a\n\033[2J\'\140\\\041'");
        assert_eq!(quote("\u{202e}x"), r"$'\342\200\256x'");
        assert_eq!(quote_path(Path::new("-rf")), "./-rf");
        let not_utf8 = Path::new(OsStr::from_bytes(b"a\xff b"));
        assert_eq!(quote_path(not_utf8), r"$'a\377 b'");
    }

    #[test]
    fn bash_reads_quoted_words_unchanged() {
        for arg in [
            "",
            " ",
            "a b",
            "it's",
            "~root",
            "$(id)",
            "`id`",
            "a\nb\n",
            "\u{1b}[31m",
            "a\\nb",
            "!!",
            "\\'`\n",
            "\u{202e}é",
            "#x",
            "*",
            "-n",
            "=ls",
            "\u{7f}\u{9b}",
            "a;b|c&d<e>f",
            "\u{1}7",
        ] {
            for locale in ["C", "C.UTF-8"] {
                let output = Command::new("bash")
                    .args(["-c", &format!("printf %s {}", quote(arg))])
                    .env("LC_ALL", locale)
                    .output()
                    .expect("bash runs");
                // printf would read a leading hyphen as an option.
                if arg != "-n" {
                    assert_eq!(
                        String::from_utf8_lossy(&output.stdout),
                        arg,
                        "{}",
                        quote(arg)
                    );
                }
            }
        }
    }
}
