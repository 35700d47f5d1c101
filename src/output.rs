//! What a person or a script reads: results on stdout, everything else on stderr.

use std::io::{self, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::{Error, Kind, Result},
    redact::redact,
    text::printable,
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
            Format::Text => self.raw(format!("{}\n", text.trim_end()).as_bytes()),
            Format::Json => self.raw(format!("{object}\n").as_bytes()),
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
            Format::Json => json!({ "error": error_object(error) }).to_string(),
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

/// The fields of an error in JSON.
pub fn error_object(error: &Error) -> Value {
    json!({
        "kind": error.kind().name(),
        "message": redact(error.message()),
        "causes": error.causes().iter().map(|cause| redact(cause)).collect::<Vec<_>>(),
        "hint": error.hint_text().map(redact),
        "exit_code": error.kind().exit_code(),
    })
}

fn error_text(error: &Error) -> String {
    let mut text = format!("{ERROR}error:{ERROR:#} {}", lines(error.message()));
    for cause in error.causes() {
        text.push_str(&format!("\n  caused by: {}", lines(cause)));
    }
    if let Some(hint) = error.hint_text() {
        text.push_str(&format!("\n{HINT}hint:{HINT:#} {}", lines(hint)));
    }
    text
}

/// What others may have said in it steers no terminal, looks like no line of ours, and repeats no
/// secret that somebody mistyped.
fn lines(text: &str) -> String {
    let text = redact(text).replace('\t', "    ");
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
        let message = lines(&record.args().to_string());
        let text = match (self.0.format, record.level()) {
            (Format::Json, level) => {
                let level = match level {
                    Level::Warn => "warning".to_owned(),
                    level => level.as_str().to_lowercase(),
                };
                json!({ "log": { "level": level, "message": message } }).to_string()
            }
            (Format::Text, Level::Warn) => format!("{WARNING}warning:{WARNING:#} {message}"),
            (Format::Text, _) => format!("{FAINT}{message}{FAINT:#}"),
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
        table.add_row(row);
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
