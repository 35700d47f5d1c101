//! What the key sources share that run a vendor's program.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use crate::{
    error::{Error, Kind, Result},
    public_key, signature,
    subprocess::{self, Command, Failure, Output},
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

/// What to do next when the program's words hold a text, the first match deciding. `{key}` stands
/// for what [`Tool::naming_key`] was given.
pub type Hints = &'static [(&'static str, &'static str)];

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
        let mut missing = None;
        for program in programs {
            match subprocess::find(OsStr::new(program)) {
                Ok(program) => {
                    return Ok(Self {
                        title: title.to_owned(),
                        program,
                        timeout,
                        hints,
                        key: String::new(),
                    });
                }
                Err(failure) => missing = missing.or(Some(failure)),
            }
        }
        let error = Error::new(Kind::Key, format!("cannot open {title}")).hint(install);
        Err(match missing {
            Some(failure) => error.caused_by(&failure),
            None => error,
        })
    }

    /// The same tool, with how its own command line names the key, for hints.
    pub fn naming_key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// The program, with the time that a call to a signer may take.
    pub fn command(&self) -> Command {
        Command::new(&self.program, self.timeout)
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
        let known = self.hints.iter().find(|(text, _)| words.contains(text));
        let hint = match (known, failure) {
            (Some((_, hint)), _) => Some(*hint),
            (None, Failure::TimedOut { .. }) => {
                Some("check the network, or give it longer with --timeout SECONDS")
            }
            (None, _) => None,
        };
        Error::new(Kind::Key, format!("cannot {doing} {}", self.title))
            .caused_by(failure)
            .maybe_hint(hint.map(|hint| hint.replace("{key}", &self.key)))
    }

    /// The error for a reply that is not what was asked for.
    pub fn unexpected(&self, expected: &'static str, reply: &[u8]) -> Error {
        let failure = Failure::UnparsableReply {
            program: self.program.to_string_lossy().into_owned(),
            expected,
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
