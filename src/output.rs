//! What a person or a script reads: results on stdout, everything else on stderr.

use std::{
    io::{self, BufWriter, Write},
    time::{Duration, Instant},
};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json, ser};

use crate::{
    error::{Error, Kind, Result},
    memory,
    redact::redact,
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

impl From<Color> for ColorChoice {
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
    /// Writes what was done: lines of text, or one object.
    ///
    /// # Errors
    /// When stdout does not take it, with what was done and how to see it; a reader that went away
    /// is not an error.
    pub fn result(&self, text: &str, object: &impl Serialize) -> Result<()> {
        let written = self.answer(|| text.to_owned(), object);
        written.map_err(|error| {
            let error = match summary(text) {
                done if done.is_empty() => error,
                done => error.with_message(format!(
                    "{done}, but the result cannot be written to stdout"
                )),
            };
            error.hint("rerunning is safe: it reports what is already done")
        })
    }

    /// Writes an answer that nothing was changed for; makes only the form that is wanted, and the
    /// object piece by piece.
    ///
    /// # Errors
    /// When stdout does not take it; a reader that went away is not an error.
    pub fn answer(&self, text: impl FnOnce() -> String, object: &impl Serialize) -> Result<()> {
        match self.format {
            Format::Text => {
                let text = text();
                let lines: Vec<String> = text.trim_end().split('\n').map(printable).collect();
                self.raw(format!("{}\n", lines.join("\n")).as_bytes())
            }
            Format::Json => written(|stdout| {
                let mut stdout = BufWriter::new(stdout);
                write_json(&mut stdout, object)?;
                writeln!(stdout)?;
                stdout.flush()
            }),
        }
    }

    /// Writes bytes to stdout as they are.
    ///
    /// # Errors
    /// As [`Output::answer`].
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        written(|stdout| stdout.write_all(bytes))
    }

    /// Writes an error to stderr.
    pub fn error(&self, error: &Error) {
        self.stderr(&styled_error(error, self.format));
    }

    /// For work on `total` things that may take long: says on stderr how far it has come.
    pub fn progress(&self, doing: &'static str, total: usize) -> Progress {
        Progress {
            output: *self,
            doing,
            total,
            told: Instant::now(),
        }
    }

    fn stderr(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        let color = match self.color {
            Color::Auto => AutoStream::choice(&stderr),
            color => color.into(),
        };
        let line = match color {
            ColorChoice::Never => format!("{}\n", strip_str(text)),
            _ => format!("{text}\n"),
        };
        // At once, so that nothing else comes in between. If it fails, nobody is left to be told.
        let _ = stderr.write_all(line.as_bytes());
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
        memory::report_as(self.format);
        // Only a second call could fail, and the first one's logger would stay.
        let _ = log::set_boxed_logger(Box::new(Notes(self)));
    }
}

/// How far the work has come: a line every ten seconds, in text and unless `-q` is given.
pub struct Progress {
    output: Output,
    doing: &'static str,
    total: usize,
    told: Instant,
}

impl Progress {
    const INTERVAL: Duration = Duration::from_secs(10);

    /// So many are through.
    pub fn tell(&mut self, done: usize) {
        let wanted = self.output.format == Format::Text && log::max_level() >= LevelFilter::Warn;
        if wanted && done < self.total && self.told.elapsed() >= Self::INTERVAL {
            self.told = Instant::now();
            let (doing, total) = (self.doing, self.total);
            self.output.stderr(&format!("{doing}: {done} of {total}"));
        }
    }
}

/// Writes to stdout; a reader that went away is not an error.
fn written(write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(&error)),
        _ => Ok(()),
    }
}

/// # Errors
/// When help cannot be written to stdout; a reader that went away is not an error.
pub fn help(help: &clap::Error) -> Result<()> {
    match help.print() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(&error)),
        _ => Ok(()),
    }
}

fn cannot_write(error: &io::Error) -> Error {
    Error::new(Kind::Internal, "the result cannot be written to stdout")
        .caused_by(error)
        .hint("nothing was changed; send the output elsewhere and run this again")
}

/// The first sentence of a result, with the details below it.
fn summary(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim_end_matches('.');
    lines
        .map_while(|line| line.strip_prefix("  "))
        .fold(first.to_owned(), |summary, detail| {
            format!("{summary}, {detail}")
        })
}

/// A list in JSON whose entries are made one after the other, as they are written.
pub struct Entries<F>(pub F);

impl<F, I> Serialize for Entries<F>
where
    F: Fn() -> I,
    I: Iterator,
    I::Item: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// Writes JSON on one line, with `\u` escapes for characters that a terminal would hide or obey.
fn write_json(writer: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut serializer = ser::Serializer::with_formatter(writer, Escaping);
    Ok(value.serialize(&mut serializer)?)
}

/// The same as a text.
fn json_line(value: &Value) -> String {
    let mut line = Vec::new();
    write_json(&mut line, value)
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
    let causes: Vec<String> = error
        .causes()
        .iter()
        .map(|cause| text::message(&redact(cause)))
        .collect();
    json!({
        "kind": error.kind().name(),
        "message": message_of(error),
        "causes": causes,
        "hint": error.hint_text().map(|hint| text::hint(&redact(hint))),
        "exit_code": error.kind().exit_code(),
    })
}

/// Without secrets that somebody mistyped, and cut where it quotes too much from elsewhere.
fn message_of(error: &Error) -> String {
    match error.is_whole() {
        true => error.message().to_owned(),
        false => text::message(&redact(error.message())),
    }
}

fn styled_error(error: &Error, format: Format) -> String {
    match format {
        Format::Json => json_line(&json!({ "error": error_object(error) })),
        Format::Text => error_text(error),
    }
}

/// An error as it is written where there are no colors.
pub fn plain_error(error: &Error, format: Format) -> String {
    strip_str(&styled_error(error, format)).to_string()
}

fn error_text(error: &Error) -> String {
    let message = lines(&message_of(error));
    let mut text = format!("{ERROR}error:{ERROR:#} {message}");
    for cause in error.causes() {
        let cause = lines(&text::message(&redact(cause)));
        text.push_str(&format!("\n  caused by: {cause}"));
    }
    if let Some(hint) = error.hint_text() {
        let hint = lines(&text::hint(&redact(hint)));
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
        let message = redact(&record.args().to_string());
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

/// A table without borders; a cell that is too wide is cut.
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
