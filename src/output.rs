//! What a person or a script reads: results on stdout, everything else on stderr.

use std::io::{self, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, ser};

use crate::{
    error::{Error, Kind, Result},
    text::{self, printable},
};

/// The form of results, errors and notes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Whether to color what goes to a terminal.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

impl From<Color> for anstream::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

/// How to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    pub format: Format,
    pub color: Color,
}

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
const FAINT: Style = Style::new().dimmed();

impl Output {
    /// Writes one result: lines of text, or one object.
    ///
    /// # Errors
    /// When stdout does not take it; a reader that went away is not an error.
    pub fn result(&self, text: &str, object: &Value) -> Result<()> {
        match self.format {
            Format::Text => {
                let lines: Vec<String> = text.trim_end().split('\n').map(printable).collect();
                self.raw(format!("{}\n", lines.join("\n")).as_bytes())
            }
            Format::Json => {
                let mut line = json_line(object);
                line.push('\n');
                self.raw(line.as_bytes())
            }
        }
    }

    /// Writes bytes to stdout as they are.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::new(
                Kind::Internal,
                "the result cannot be written to stdout",
            )
            .caused_by(&error)
            .hint("what was asked for may have been done all the same: run it again to see")),
            _ => Ok(()),
        }
    }

    /// Writes an error to stderr.
    pub fn error(&self, error: &Error) {
        let text = match self.format {
            Format::Json => json_line(&json!({ "error": error_object(error) })),
            Format::Text => error_text(error),
        };
        self.stderr(&text);
    }

    fn stderr(&self, text: &str) {
        let mut stderr = AutoStream::new(io::stderr().lock(), self.color.into());
        // Nothing is left to be told to.
        let _ = writeln!(stderr, "{text}");
    }

    /// Sends notes to stderr from now on: warnings, with `verbosity` 1 the steps, with 2 the
    /// programs that are run; with -1 nothing.
    pub fn install_log(self, verbosity: i8) {
        log::set_max_level(match verbosity {
            ..0 => LevelFilter::Off,
            0 => LevelFilter::Warn,
            1 => LevelFilter::Info,
            2.. => LevelFilter::Debug,
        });
        // Only a second call could fail, and the first one's logger would stay.
        let _ = log::set_boxed_logger(Box::new(Notes(self)));
    }
}

/// JSON on one line, with `\u` escapes for characters that a terminal would hide or obey.
fn json_line(value: &Value) -> String {
    let mut line = Vec::new();
    value
        .serialize(&mut ser::Serializer::with_formatter(&mut line, Escaping))
        .expect("a JSON value has only string keys, and memory takes what is written");
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
pub fn error_object(error: &Error) -> Value {
    let causes: Vec<String> = error.causes().iter().map(|c| text::message(c)).collect();
    json!({
        "kind": error.kind().name(),
        "message": text::message(error.message()),
        "causes": causes,
        "hint": error.hint_text().map(text::hint),
        "exit_code": error.kind().exit_code(),
    })
}

fn error_text(error: &Error) -> String {
    let message = lines(&text::message(error.message()));
    let mut text = format!("{ERROR}error:{ERROR:#} {message}");
    for cause in error.causes() {
        let cause = lines(&text::message(cause));
        text.push_str(&format!("\n  caused by: {cause}"));
    }
    if let Some(hint) = error.hint_text() {
        let hint = lines(&text::hint(hint));
        text.push_str(&format!("\n{HINT}hint:{HINT:#} {hint}"));
    }
    text
}

/// Indents continuation lines so that text from elsewhere cannot pass for a line of ours.
fn lines(text: &str) -> String {
    let text = text.replace('\t', "    ");
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n    ")
}

struct Notes(Output);

impl Log for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("qkey")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = record.args().to_string();
        let message = match record.level() {
            Level::Warn => text::message(&message),
            _ => text::excerpt(&message),
        };
        let text = match (self.0.format, record.level()) {
            (Format::Json, level) => {
                let level = match level {
                    Level::Warn => "warning".to_owned(),
                    level => level.as_str().to_lowercase(),
                };
                json_line(&json!({ "log": { "level": level, "message": message } }))
            }
            (Format::Text, Level::Warn) => {
                format!("{WARNING}warning:{WARNING:#} {}", lines(&message))
            }
            (Format::Text, _) => format!("{FAINT}{}{FAINT:#}", lines(&message)),
        };
        self.0.stderr(&text);
    }

    fn flush(&self) {}
}

/// A table without frame, its columns as wide as need be.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        // A line break in a cell would fake another row.
        table.add_row(row.map(|cell| text::cell(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
