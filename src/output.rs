//! What a user or a script reads: results on stdout, everything else on the [terminal](Terminal).

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    sync::{Arc, Mutex},
};

use comfy_table::{Table, presets};
use serde::{Serialize, Serializer};

pub use crate::format::{Color, Format, error_object};
use crate::{
    error::{Error, Kind, Result},
    format::write_json,
    parallel::lock,
    terminal::Terminal,
    text::{self, printable},
};

/// Where results go, with the terminal for everything else. Clones share both.
#[derive(Clone)]
pub struct Output {
    /// Output format.
    pub format: Format,
    terminal: Terminal,
    stdout: Arc<Mutex<dyn Write + Send>>,
    stdout_is_terminal: bool,
}

impl Output {
    /// The stdout and stderr of this process.
    pub fn new(format: Format, color: Color) -> Self {
        Self {
            format,
            terminal: Terminal::stderr(format, color),
            stdout: Arc::new(Mutex::new(io::stdout())),
            stdout_is_terminal: io::stdout().is_terminal(),
        }
    }

    /// What owns stderr.
    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Writes what was done: lines of text, or one object.
    ///
    /// # Errors
    /// If stdout cannot be written, with what was done and how to see it; a closed pipe is not an
    /// error.
    pub fn result(&self, text: &str, object: &impl Serialize) -> Result<()> {
        self.answer(|| text.to_owned(), object).map_err(|error| {
            let error = match summary(text) {
                done if done.is_empty() => error,
                done => error.with_message(format!(
                    "{done}, but the result cannot be written to stdout"
                )),
            };
            error.hint("rerunning is safe: it reports what is already done")
        })
    }

    /// Writes the result of a command that changed nothing. Builds only the format in use, and streams
    /// the object.
    ///
    /// # Errors
    /// If stdout cannot be written; a closed pipe is not an error.
    pub fn answer(&self, text: impl FnOnce() -> String, object: &impl Serialize) -> Result<()> {
        match self.format {
            Format::Text => {
                let text = text();
                let lines: Vec<String> = text.trim_end().split('\n').map(printable).collect();
                self.raw(format!("{}\n", lines.join("\n")).as_bytes())
            }
            Format::Json => self.write(|stdout| {
                let mut stdout = BufWriter::new(stdout);
                write_json(&mut stdout, object)?;
                writeln!(stdout)?;
                stdout.flush()
            }),
        }
    }

    /// Writes bytes to stdout unchanged.
    ///
    /// # Errors
    /// As [`Output::answer`].
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        self.write(|stdout| stdout.write_all(bytes))
    }

    /// # Errors
    /// Of kind `usage` if binary data would go to a terminal.
    pub fn check_takes_binary(&self) -> Result<()> {
        if self.stdout_is_terminal {
            Err(Error::new(
                Kind::Usage,
                "refusing to write binary output to the terminal",
            )
            .hint("redirect it with `> FILE`, or choose another --format"))
        } else {
            Ok(())
        }
    }

    /// Writes an error to stderr.
    pub fn error(&self, error: &Error) {
        self.terminal.error(error);
    }

    fn write(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let _hidden = self.terminal.hide_progress();
        let mut stdout = lock(&self.stdout);
        written(write(&mut *stdout).and_then(|()| stdout.flush()))
    }
}

/// # Errors
/// If help cannot be written to stdout; a closed pipe is not an error.
pub fn help(help: &clap::Error) -> Result<()> {
    written(help.print())
}

/// A closed pipe at stdout is not an error.
fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::new(
            Kind::Internal,
            "the result cannot be written to stdout",
        )
        .caused_by(&error)
        .hint("nothing was changed; redirect the output elsewhere and rerun")),
        _ => Ok(()),
    }
}

/// The first sentence of a result, with the details below it.
fn summary(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim_end_matches('.');
    let details = lines.map_while(|line| line.strip_prefix("  "));
    let details = details.map(|detail| format!(", {detail}"));
    format!("{first}{}", details.collect::<String>())
}

/// A JSON list whose entries are produced one by one as they are written.
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

/// A table without borders; cells that are too wide are cut.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        // A line break in a cell would look like another row.
        table.add_row(row.map(|cell| text::cell(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// What was written, in memory.
    #[derive(Clone, Default)]
    pub struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        pub fn text(&self) -> String {
            String::from_utf8(lock(&self.0).clone()).unwrap()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Output to memory: `stdout`, and `stderr` without color.
    fn output(format: Format, stdout: impl Write + Send + 'static, stderr: &Buffer) -> Output {
        Output {
            format,
            terminal: Terminal::new(format, false, false, stderr.clone()),
            stdout: Arc::new(Mutex::new(stdout)),
            stdout_is_terminal: true,
        }
    }

    #[test]
    fn result_goes_to_stdout_and_error_to_stderr() {
        for (format, result, error) in [
            (Format::Text, "Done\\u{1b}.\n", "error: no\n"),
            (
                Format::Json,
                "{\"name\":\"\\u001b\"}\n",
                "{\"error\":{\"kind\":\"usage\",\"message\":\"no\",\"causes\":[],\"hint\":null,\"exit_code\":2}}\n",
            ),
        ] {
            let (stdout, stderr) = (Buffer::default(), Buffer::default());
            let output = output(format, stdout.clone(), &stderr);
            let object = json!({ "name": "\u{1b}" });
            output.result("Done\u{1b}.", &object).unwrap();
            output.error(&Error::new(Kind::Usage, "no"));
            assert_eq!(
                (stdout.text(), stderr.text()),
                (result.to_owned(), error.to_owned())
            );
        }
    }

    #[test]
    fn binary_output_to_terminal_is_refused() {
        let output = output(Format::Text, Buffer::default(), &Buffer::default());
        assert_eq!(output.check_takes_binary().unwrap_err().kind(), Kind::Usage);
    }

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn full_stdout_is_an_error_and_a_closed_pipe_is_not() {
        let write = |kind| {
            output(Format::Text, Failing(kind), &Buffer::default()).result("Locked it.", &json!({}))
        };
        assert!(write(io::ErrorKind::BrokenPipe).is_ok());
        let error = write(io::ErrorKind::StorageFull).unwrap_err();
        assert_eq!(
            error.message(),
            "Locked it, but the result cannot be written to stdout"
        );
    }
}
