//! What a person or a script reads: results on stdout, everything else on stderr.

use std::{
    borrow::Cow,
    io::{self, BufWriter, Write},
    time::{Duration, Instant},
};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::{
    error::{Error, Kind, Result},
    memory,
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
    pub fn result(&self, text: &str, object: &Value) -> Result<()> {
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
            Format::Text => self.raw(format!("{}\n", text().trim_end()).as_bytes()),
            Format::Json => written(|stdout| {
                let mut stdout = BufWriter::new(stdout);
                serde_json::to_writer(&mut stdout, object)?;
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

/// The fields of an error in JSON.
pub fn error_object(error: &Error) -> Value {
    json!({
        "kind": error.kind().name(),
        "message": error.message(),
        "causes": error.causes(),
        "hint": error.hint_text(),
        "exit_code": error.kind().exit_code(),
    })
}

fn styled_error(error: &Error, format: Format) -> String {
    match format {
        Format::Json => json!({ "error": error_object(error) }).to_string(),
        Format::Text => error_text(error),
    }
}

/// An error as it is written where there are no colors.
pub fn plain_error(error: &Error, format: Format) -> String {
    strip_str(&styled_error(error, format)).to_string()
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

/// What others may have said in it steers no terminal, and looks like no line of ours.
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

/// How wide a cell of a table may be, in characters: each row is padded to the widest one.
const WIDEST_CELL: usize = 400;

/// A table without borders; a cell that is too wide is cut.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| cut(&cell).into_owned()));
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

fn cut(cell: &str) -> Cow<'_, str> {
    match cell.char_indices().nth(WIDEST_CELL) {
        Some((end, _)) => Cow::Owned(format!("{}…", &cell[..end])),
        None => Cow::Borrowed(cell),
    }
}
