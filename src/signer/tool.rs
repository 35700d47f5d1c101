//! What the key sources share that run a vendor's program.

use std::{env, ffi::OsStr, io::Write, path::PathBuf, time::Duration};

use serde::de::DeserializeOwned;

use crate::{
    error::{Error, Kind, Reason, Result},
    private_file::TemporaryFile,
    public_key, signature,
    subprocess::{self, Command, Failure, Output},
    text::quote_path,
};

/// A vendor's program that reaches a key.
#[derive(Clone)]
pub struct Tool {
    title: String,
    program: PathBuf,
    timeout: Duration,
    hints: Hints,
    key: String,
}

/// What it means when the program's words hold a text, and what to do next; the first match decides.
/// `{key}` stands for what [`Tool::naming_key`] was given, and `{tool}` for the program's name.
pub type Hints = &'static [(&'static str, Option<Reason>, &'static str)];

impl Tool {
    /// Looks for the first of `programs` that is on PATH, to serve the key source that messages
    /// call `title`; `install` says how to get one.
    ///
    /// # Errors
    /// When none is there.
    pub fn find(
        title: &str,
        programs: &[&str],
        install: &str,
        timeout: Duration,
        hints: Hints,
    ) -> Result<Self> {
        let found = programs
            .iter()
            .find_map(|program| subprocess::find(OsStr::new(program)).ok());
        let Some(program) = found else {
            let missing = Failure::NotFound {
                program: programs.join("` or `"),
            };
            let error = Error::new(Kind::Key, format!("cannot open {title}"));
            return Err(error.caused_by(&missing).hint(install));
        };
        Ok(Self {
            title: title.to_owned(),
            program,
            timeout,
            hints,
            key: String::new(),
        })
    }

    /// The same tool, with how its own command line names the key, quoted for a shell, for hints.
    pub fn naming_key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// The program, with the time that a call to a signer may take, and nobody to ask.
    pub fn command(&self) -> Command {
        Command::new(&self.program, self.timeout).without_terminal()
    }

    /// Runs a command; `doing` says what for, as in "sign with".
    ///
    /// # Errors
    /// With the program's own words, and a hint where they are known.
    pub fn run(&self, doing: &str, command: &Command) -> Result<Output> {
        command
            .run()
            .map_err(|failure| self.failed(doing, &failure))
    }

    /// The error for a program that failed, as [`Self::run`] gives it.
    pub fn failed(&self, doing: &str, failure: &Failure) -> Error {
        if let Failure::Interrupted(kind) = failure {
            let message = format!("stopped by a signal, about to {doing} {}", self.title);
            return Error::new(*kind, message);
        }
        let words = failure.to_string();
        let known = self.hints.iter().find(|(text, ..)| words.contains(text));
        let (reason, hint) = match (known, failure) {
            (Some((_, reason, hint)), _) => (*reason, Some(*hint)),
            (None, Failure::TimedOut { .. }) => (
                None,
                Some("check the network, or give it longer with --timeout SECONDS"),
            ),
            (None, _) => (None, None),
        };
        Error::new(Kind::Key, format!("cannot {doing} {}", self.title))
            .because(reason)
            .caused_by(failure)
            .maybe_hint(hint.map(|hint| self.filled_in(hint)))
    }

    fn filled_in(&self, hint: &str) -> String {
        let program = self.program.file_name().unwrap_or_default();
        // The key comes last because its name may look like a placeholder.
        hint.replace("{tool}", &program.to_string_lossy())
            .replace("{key}", &self.key)
    }

    /// Takes an answer as JSON.
    ///
    /// # Errors
    /// When it is something else than `expected`.
    pub fn json<T: DeserializeOwned>(&self, output: &Output, expected: &'static str) -> Result<T> {
        serde_json::from_slice(&output.stdout)
            .map_err(|_| self.unexpected(expected, &output.stdout))
    }

    /// A file for a program that reads what it is to sign from one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn private_file(&self, contents: &[u8]) -> Result<TemporaryFile> {
        let write = || {
            let file = TemporaryFile::create(&env::temp_dir(), "qkey-")?;
            file.as_file().write_all(contents)?;
            Ok(file)
        };
        write().map_err(|error: std::io::Error| {
            let hint = "{tool} reads the message from a file: TMPDIR must name a writable folder";
            Error::new(Kind::Key, format!("cannot sign with {}", self.title))
                .caused_by(&error)
                .hint(self.filled_in(hint))
        })
    }

    /// The error for a reply that is not what was asked for.
    pub fn unexpected(&self, expected: &'static str, reply: &[u8]) -> Error {
        let failure = Failure::UnparsableReply {
            program: quote_path(&self.program),
            expected: expected.to_owned(),
            excerpt: subprocess::excerpt(reply),
        };
        Error::new(Kind::Key, format!("cannot use {}", self.title)).caused_by(&failure)
    }

    /// The error for a signature that is not in the encoding `expected`, with the one that it
    /// seems to be in.
    pub fn not_a_signature(&self, expected: &'static str, reply: &[u8]) -> Error {
        let seems = match signature::describe(reply) {
            Some(found) => format!("it seems to be {found}"),
            None => "it is like no signature at all".to_owned(),
        };
        let shown = match str::from_utf8(reply) {
            Ok(text) => text.to_owned(),
            Err(_) => base16ct::lower::encode_string(reply),
        };
        self.unexpected("a signature", shown.as_bytes())
            .hint(format!("a signature is to come as {expected}; {seems}"))
    }

    /// The error for a public key that does not serve.
    pub fn unusable(&self, error: &public_key::Error) -> Error {
        Error::new(Kind::Key, format!("cannot use {}", self.title))
            .caused_by(error)
            .maybe_hint(error.hint())
    }
}
