//! Output formats: text or JSON, colored or not; errors and notes as JSON.

use std::io::{self, Write};

use log::Level;
use serde::{Deserialize, Serialize};
use serde_json::ser;

use crate::{
    error::Error,
    redact::redact,
    report::{ErrorFields, ErrorReport, Note, NoteReport},
    text,
};

/// The format of results, errors and notes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    #[default]
    Text,
    /// One object per line
    Json,
}

/// Whether to color what goes to a terminal.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

/// Writes JSON on one line, with `\u` escapes for characters that a terminal would hide or interpret.
pub fn write_json(writer: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut serializer = ser::Serializer::with_formatter(writer, Escaping);
    Ok(value.serialize(&mut serializer)?)
}

/// The same as a string.
pub fn json_line(value: &impl Serialize) -> String {
    let mut line = Vec::new();
    write_json(&mut line, value).expect("reports have string keys, and a buffer takes any bytes");
    String::from_utf8(line).expect("JSON is UTF-8")
}

/// The compact form, with more escapes in strings.
struct Escaping;

impl ser::Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.bytes().all(|b| matches!(b, b' '..=b'~')) {
            return writer.write_all(fragment.as_bytes());
        }
        for (c, visible) in text::visible(fragment) {
            if visible {
                writer.write_all(c.encode_utf8(&mut [0; 4]).as_bytes())?;
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

/// The fields of an error in JSON.
pub fn error_object(error: &Error) -> ErrorFields {
    let cause = |cause: &String| text::message(&redact(cause));
    ErrorFields {
        kind: error.kind(),
        message: message_of(error),
        causes: error.causes().iter().map(cause).collect(),
        hint: error.hint_text().map(|hint| text::hint(&redact(hint))),
        exit_code: error.kind().exit_code(),
    }
}

/// An error as one line of JSON.
pub fn error_json(error: &Error) -> String {
    let error = error_object(error);
    json_line(&ErrorReport { error })
}

/// A log record as one line of JSON.
pub fn note_json(level: Level, message: &str) -> String {
    let level = match level {
        Level::Warn => "warning".to_owned(),
        level => level.as_str().to_lowercase(),
    };
    let log = Note { level, message };
    json_line(&NoteReport { log })
}

/// The message without mistyped secrets, and without the middle of a long excerpt.
pub fn message_of(error: &Error) -> String {
    if error.is_whole() {
        error.message().to_owned()
    } else {
        text::message(&redact(error.message()))
    }
}
