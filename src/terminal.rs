//! stderr: errors, notes and progress, which take turns. The progress bar is hidden while anything
//! else is shown: an error, a note, a result on stdout or a prompt.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Style};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{
    error::Error,
    format::{Color, Format, error_json, message_of, note_json},
    memory,
    parallel::lock,
    redact::redact,
    text::{self, printable},
};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
const FAINT: Style = Style::new().dimmed();

/// Returns the cursor to the start of the line and erases it (ECMA-48, CR and EL).
const ERASE_LINE: &str = "\r\x1b[K";

/// Owns stderr. Clones share it.
#[derive(Clone)]
pub struct Terminal {
    format: Format,
    /// Whether escape sequences for color are written.
    colors: bool,
    state: Arc<Mutex<State>>,
}

struct State {
    writer: Box<dyn Write + Send>,
    /// Whether a bar can be drawn and erased.
    is_terminal: bool,
    /// The bar to show, if any.
    bar: Option<String>,
    /// Whether the bar is on the screen.
    drawn: bool,
    /// How many [`Hidden`] values there are.
    hidden: usize,
}

impl Terminal {
    /// The stderr of this process.
    pub fn stderr(format: Format, color: Color) -> Self {
        let stderr = io::stderr();
        let colors = match color {
            Color::Auto => AutoStream::choice(&stderr) != ColorChoice::Never,
            Color::Always => true,
            Color::Never => false,
        };
        let is_terminal = stderr.is_terminal();
        Self::new(format, colors, is_terminal, stderr)
    }

    /// Any other writer; `is_terminal` says whether it can show a progress bar.
    pub fn new(
        format: Format,
        colors: bool,
        is_terminal: bool,
        writer: impl Write + Send + 'static,
    ) -> Self {
        let state = State {
            writer: Box::new(writer),
            is_terminal,
            bar: None,
            drawn: false,
            hidden: 0,
        };
        Self {
            format,
            colors,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Writes an error.
    pub fn error(&self, error: &Error) {
        self.line(&styled_error(error, self.format));
    }

    /// Sends log records here: warnings, with `verbosity` 1 also the steps, with 2 also the programs
    /// run, with -1 nothing.
    pub fn install_log(&self, verbosity: i8) {
        log::set_max_level(match verbosity {
            ..0 => LevelFilter::Off,
            0 => LevelFilter::Warn,
            1 => LevelFilter::Info,
            2.. => LevelFilter::Debug,
        });
        memory::report_as(self.format);
        // Fails only if called twice; the first logger then stays.
        let _ = log::set_boxed_logger(Box::new(Notes(self.clone())));
    }

    /// Shows progress over `total` items, unless notes are off or the output is JSON.
    pub fn progress(&self, doing: &'static str, total: usize) -> Progress {
        let wanted = self.format == Format::Text && log::max_level() >= LevelFilter::Warn;
        Progress {
            terminal: wanted.then(|| self.clone()),
            doing,
            total,
            begun: Instant::now(),
            last: None,
        }
    }

    /// Hides the progress bar while the returned value lives.
    pub fn hide_progress(&self) -> Hidden {
        {
            let mut state = lock(&self.state);
            state.hidden += 1;
            state.erase();
        }
        Hidden(self.state.clone())
    }

    fn line(&self, text: &str) {
        let line = if self.colors {
            format!("{text}\n")
        } else {
            format!("{}\n", strip_str(text))
        };
        let mut state = lock(&self.state);
        state.erase();
        // In one write: no other program's output can get in between. If it fails, there is nowhere
        // left to report it.
        let _ = state.writer.write_all(line.as_bytes());
        state.draw();
    }

    fn set_bar(&self, bar: Option<String>) {
        let mut state = lock(&self.state);
        state.erase();
        state.bar = bar;
        state.draw();
    }
}

impl State {
    fn erase(&mut self) {
        if self.drawn {
            let _ = write!(self.writer, "{ERASE_LINE}").and_then(|()| self.writer.flush());
            self.drawn = false;
        }
    }

    fn draw(&mut self) {
        if let Some(bar) = &self.bar
            && self.hidden == 0
        {
            let _ = write!(self.writer, "{bar}").and_then(|()| self.writer.flush());
            self.drawn = true;
        }
    }
}

/// Keeps the progress bar hidden.
pub struct Hidden(Arc<Mutex<State>>);

impl Drop for Hidden {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.hidden -= 1;
        state.draw();
    }
}

/// Progress of work that takes longer than a second: a bar on a terminal, else a line every ten
/// seconds.
pub struct Progress {
    /// `None` if nothing is to be shown.
    terminal: Option<Terminal>,
    doing: &'static str,
    total: usize,
    begun: Instant,
    last: Option<Instant>,
}

impl Progress {
    /// How long work takes before a bar appears.
    const DELAY: Duration = Duration::from_secs(1);
    /// How often the bar is redrawn.
    const REDRAW: Duration = Duration::from_millis(100);
    /// How often a line is written where no bar can be drawn.
    const LINE: Duration = Duration::from_secs(10);
    /// Characters between the brackets of the bar.
    const WIDTH: usize = 24;

    /// Reports that `done` items are finished.
    pub fn tell(&mut self, done: usize) {
        let Some(terminal) = self.terminal.clone() else {
            return;
        };
        let is_terminal = lock(&terminal.state).is_terminal;
        let due = match (is_terminal, self.last) {
            (true, None) => self.begun.elapsed() >= Self::DELAY,
            (true, Some(last)) => last.elapsed() >= Self::REDRAW,
            (false, last) => last.unwrap_or(self.begun).elapsed() >= Self::LINE,
        };
        if !due || done >= self.total {
            return;
        }
        self.last = Some(Instant::now());
        let (doing, total) = (self.doing, self.total);
        if !is_terminal {
            return terminal.line(&format!("{doing}: {done} of {total}"));
        }
        let filled = "#".repeat(Self::WIDTH * done / total);
        let width = Self::WIDTH;
        terminal.set_bar(Some(format!("{doing} [{filled:<width$}] {done}/{total}")));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            terminal.set_bar(None);
        }
    }
}

/// An error as it is written, with styles in text.
fn styled_error(error: &Error, format: Format) -> String {
    match format {
        Format::Json => error_json(error),
        Format::Text => error_text(error),
    }
}

/// An error as it is written without color.
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

/// Indents continuation lines: foreign text cannot imitate a line of our own.
fn lines(text: &str) -> String {
    let text = text.replace('\t', "    ");
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n    ")
}

struct Notes(Terminal);

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
            (Format::Json, level) => note_json(level, &message),
            (Format::Text, Level::Warn) => {
                format!("{WARNING}warning:{WARNING:#} {}", lines(&message))
            }
            (Format::Text, _) => format!("{FAINT}{}{FAINT:#}", lines(&message)),
        };
        self.0.line(&text);
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Kind, output::tests::Buffer};

    fn with_bar(buffer: &Buffer) -> Terminal {
        let terminal = Terminal::new(Format::Text, false, true, buffer.clone());
        terminal.set_bar(Some("bar".to_owned()));
        terminal
    }

    #[test]
    fn error_erases_and_redraws_progress_bar() {
        let buffer = Buffer::default();
        with_bar(&buffer).error(&Error::new(Kind::Usage, "no"));
        assert_eq!(buffer.text(), "bar\r\x1b[Kerror: no\nbar");
    }

    #[test]
    fn bar_stays_hidden_until_last_guard_is_dropped() {
        let buffer = Buffer::default();
        let terminal = with_bar(&buffer);
        let (prompt, result) = (terminal.hide_progress(), terminal.hide_progress());
        drop(prompt);
        terminal.error(&Error::new(Kind::Usage, "no"));
        assert_eq!(buffer.text(), "bar\r\x1b[Kerror: no\n");
        drop(result);
        assert_eq!(buffer.text(), "bar\r\x1b[Kerror: no\nbar");
    }

    #[test]
    fn progress_bar_shows_share_and_vanishes_at_end() {
        let buffer = Buffer::default();
        let terminal = Terminal::new(Format::Text, false, true, buffer.clone());
        let mut progress = Progress {
            terminal: Some(terminal),
            doing: "unlocking",
            total: 4,
            begun: Instant::now() - Progress::DELAY,
            last: None,
        };
        progress.tell(1);
        progress.tell(2);
        drop(progress);
        let bar = "unlocking [######                  ] 1/4";
        assert_eq!(buffer.text(), format!("{bar}\r\x1b[K"));
    }

    #[test]
    fn progress_lines_are_ten_seconds_apart_without_terminal() {
        let buffer = Buffer::default();
        let terminal = Terminal::new(Format::Text, false, false, buffer.clone());
        let mut progress = Progress {
            terminal: Some(terminal),
            doing: "unlocking",
            total: 4,
            begun: Instant::now() - Progress::LINE,
            last: None,
        };
        for done in 1..4 {
            progress.tell(done);
        }
        assert_eq!(buffer.text(), "unlocking: 1 of 4\n");
    }
}
