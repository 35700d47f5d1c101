//! The core of the key sources that run another program: starting it, classifying its failures,
//! reading its replies, and creating keys.
//!
//! A vendor's command line needs four things of its own: its URI grammar, its arguments, its reply
//! types, and a [`Table`] of its error messages.

use std::{env, ffi::OsStr, io::Write, path::PathBuf, time::Duration};

use regex::RegexSetBuilder;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Caution, Context, Opened, source::Source};
use crate::{
    error::{Error, Kind, Reason, Result},
    private_file::TemporaryFile,
    public_key::{self, PublicKey},
    signature::{self, Signature},
    subprocess::{self, Command, Failure, Output},
    text::{quote, quote_path},
};

/// An error message of a foreign program: what it means, and what to do next.
pub struct Row {
    /// A regular expression for the program's own output. `^` and `$` match at every line.
    pub pattern: &'static str,
    /// `None` means unclassified, which never means absent or retryable.
    pub reason: Option<Reason>,
    /// `{key}` is what [`Tool::naming_key`] was given, `{tool}` the program's name.
    pub hint: &'static str,
}

/// The known error messages of one program. The first match decides.
pub type Table = &'static [Row];

/// A [`Table`] of rows `PATTERN => REASON, HINT;`, where the reason `_` means unclassified.
macro_rules! table {
    (@ _) => { None };
    (@ $reason:ident) => { Some($crate::error::Reason::$reason) };
    ($($pattern:expr => $reason:tt, $hint:expr;)*) => {
        &[$($crate::signer::tool::Row {
            pattern: $pattern,
            reason: $crate::signer::tool::table!(@ $reason),
            hint: $hint,
        }),*]
    };
}
pub(super) use table;

/// What is known about a program, whichever key it is used for.
pub struct Vendor {
    pub table: Table,
    /// The next step after a timeout.
    pub timed_out: &'static str,
    /// The next step when a key is not an ECDSA P-256 signing key.
    pub unfit: &'static str,
    /// The next step after a reply that the vendor's service does not send.
    pub stranger: &'static str,
}

/// A foreign program that reaches one key.
#[derive(Clone)]
pub struct Tool {
    vendor: &'static Vendor,
    title: String,
    program: PathBuf,
    timeout: Duration,
    key: String,
}

impl Tool {
    /// Looks for the first of `programs` on PATH, to open `source`; `install` says how to get one.
    ///
    /// # Errors
    /// When none of them is installed.
    pub fn find(
        vendor: &'static Vendor,
        programs: &[&str],
        install: &str,
        source: &Source,
        context: &Context,
    ) -> Result<Self> {
        let title = source.text().to_owned();
        let mut found = programs
            .iter()
            .filter_map(|program| subprocess::find(OsStr::new(program)).ok());
        let Some(program) = found.next() else {
            let program = programs.join("` or `");
            let error = Error::new(Kind::Key, format!("cannot open {title}"));
            let error = error.caused_by(&Failure::NotFound { program });
            return Err(error.hint(install));
        };
        Ok(Self {
            vendor,
            title,
            program,
            timeout: context.timeout,
            key: String::new(),
        })
    }

    /// The same tool, with the words that name the key on its command line, for hints.
    pub fn naming_key<T: AsRef<str>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.key = typed(words);
        self
    }

    /// The key source as the user wrote it, without secrets.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The program with the timeout of signers and without a terminal.
    pub fn command(&self) -> Command {
        Command::new(&self.program, self.timeout).without_terminal()
    }

    /// Runs a command; `doing` completes "cannot …", as in "sign with".
    ///
    /// # Errors
    /// With the program's own words, their reason, and a hint if they are known.
    pub fn run(&self, doing: &str, command: &Command) -> Result<Output> {
        command
            .run()
            .map_err(|failure| self.failed(doing, &failure))
    }

    /// Runs a command whose reply in JSON has the text `member` (RFC 6901).
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_for(
        &self,
        doing: &str,
        command: &Command,
        member: &str,
        expected: &'static str,
    ) -> Result<String> {
        let output = self.run(doing, command)?;
        self.member(&output, member, expected)
    }

    /// The text `member` of a reply in JSON.
    ///
    /// # Errors
    /// When the reply is not `expected`.
    pub fn member(&self, output: &Output, member: &str, expected: &'static str) -> Result<String> {
        let reply: Value = self.json(output, expected)?;
        let text = reply.pointer(member).and_then(Value::as_str);
        let text = text.ok_or_else(|| self.unexpected(expected, &output.stdout))?;
        Ok(text.to_owned())
    }

    /// Runs a command that replies in JSON.
    ///
    /// # Errors
    /// Those of [`Self::run`] and [`Self::json`].
    pub fn call<T: DeserializeOwned>(
        &self,
        doing: &str,
        command: &Command,
        expected: &'static str,
    ) -> Result<T> {
        self.json(&self.run(doing, command)?, expected)
    }

    /// The error of a program that failed, as [`Self::run`] returns it.
    pub fn failed(&self, doing: &str, failure: &Failure) -> Error {
        if let Failure::Interrupted(kind) = failure {
            let message = format!("interrupted while trying to {doing} {}", self.title);
            return Error::new(*kind, message);
        }
        let known = self.vendor.classify(failure);
        let hint = match (known, failure) {
            (Some(row), _) => Some(row.hint),
            (None, Failure::TimedOut { .. }) => Some(self.vendor.timed_out),
            (None, _) => None,
        };
        self.cannot(doing)
            .because(known.and_then(|row| row.reason))
            .caused_by(failure)
            .maybe_hint(hint.map(|hint| self.filled_in(hint)))
    }

    /// The error of a key source that cannot be used; `doing` is as in [`Self::run`].
    pub fn cannot(&self, doing: &str) -> Error {
        Error::new(Kind::Key, format!("cannot {doing} {}", self.title))
    }

    fn filled_in(&self, hint: &str) -> String {
        let program = self.program.file_name().unwrap_or_default();
        // The key comes last because its name may look like a placeholder.
        hint.replace("{tool}", &program.to_string_lossy())
            .replace("{key}", &self.key)
    }

    /// Parses a reply as JSON.
    ///
    /// # Errors
    /// When it is not `expected`.
    pub fn json<T: DeserializeOwned>(&self, output: &Output, expected: &'static str) -> Result<T> {
        serde_json::from_slice(&output.stdout)
            .map_err(|_| self.unexpected(expected, &output.stdout))
    }

    /// Parses a reply as a public key in PEM.
    ///
    /// # Errors
    /// When it is something else, or not a P-256 key.
    pub fn public_key_pem(&self, output: &Output) -> Result<PublicKey> {
        let parsed = str::from_utf8(&output.stdout).map_err(|_| public_key::Error::NotPem);
        match parsed.and_then(PublicKey::from_pem) {
            Err(public_key::Error::NotPem) => {
                Err(self.unexpected("a public key in PEM", &output.stdout))
            }
            parsed => self.public_key(parsed),
        }
    }

    /// The public key of a reply.
    ///
    /// # Errors
    /// When it is malformed, or not a P-256 key.
    pub fn public_key(
        &self,
        parsed: std::result::Result<PublicKey, public_key::Error>,
    ) -> Result<PublicKey> {
        parsed.map_err(|error| {
            let hint = match error {
                public_key::Error::NotP256(_) => self.vendor.unfit,
                _ => self.vendor.stranger,
            };
            self.cannot("use").caused_by(&error).hint(hint)
        })
    }

    /// Checks a property of the key; one that the reply leaves out is accepted.
    ///
    /// # Errors
    /// When it is not one of `wanted`.
    pub fn expect(&self, property: &str, found: Option<&str>, wanted: &[&str]) -> Result<()> {
        match found {
            Some(found) if !wanted.contains(&found) => {
                let wanted = wanted.join(" or ");
                Err(self.unfit(format!("its {property} is {found}, but must be {wanted}")))
            }
            _ => Ok(()),
        }
    }

    /// The error of a key that cannot make the signatures that clusters verify.
    pub fn unfit(&self, why: String) -> Error {
        Error::new(Kind::Key, why)
            .context(format!("cannot use {}", self.title))
            .hint(self.vendor.unfit)
    }

    /// The error of a reply other than `expected`.
    pub fn unexpected(&self, expected: &'static str, reply: &[u8]) -> Error {
        let failure = Failure::UnparsableReply {
            program: quote_path(&self.program),
            expected: expected.to_owned(),
            excerpt: subprocess::excerpt(reply),
        };
        let error = self.cannot("use").caused_by(&failure);
        error.hint(self.vendor.stranger)
    }

    /// Parses a signature in the encoding `expected`.
    ///
    /// # Errors
    /// When it is something else; the hint names the encoding that it seems to be in.
    pub fn signature<T: AsRef<[u8]> + ?Sized>(
        &self,
        reply: &T,
        parse: fn(&T) -> std::result::Result<Signature, signature::Error>,
        expected: &str,
    ) -> Result<Signature> {
        parse(reply).map_err(|_| {
            let reply = reply.as_ref();
            let shown = match str::from_utf8(reply) {
                Ok(text) => text.to_owned(),
                Err(_) => base16ct::lower::encode_string(reply),
            };
            let seems = signature::describe(reply)
                .map(|found| format!("; this looks like {found}"))
                .unwrap_or_default();
            self.unexpected("a signature", shown.as_bytes())
                .hint(format!("qkey expects {expected}{seems}"))
        })
    }

    /// A file for a program that reads what it signs from a file.
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
            let hint = "{tool} reads the challenge from a file: set TMPDIR to a writable directory";
            let error = self.cannot("sign with").caused_by(&error);
            error.hint(self.filled_in(hint))
        })
    }
}

/// Creating a key.
impl Tool {
    /// Makes sure that there is no key yet: `probe` must not find one.
    ///
    /// # Errors
    /// When `probe` finds a key there, or fails for any reason but its absence.
    pub fn refuse_existing(&self, probe: &Command) -> Result<()> {
        match self.run(CREATE, probe) {
            Ok(_) => Err(self.exists()),
            Err(error) if error.reason() == Some(Reason::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The error of a place that already has a key.
    pub fn exists(&self) -> Error {
        Error::new(Kind::Key, format!("{} already exists", self.title))
            .hint("use that key, or choose another name")
    }

    /// Runs the command that creates a key, and reads its reply; `lost` says how to find the key if
    /// the reply is lost.
    ///
    /// # Errors
    /// Those of [`Self::run`] and `read`.
    pub fn create<T>(
        &self,
        command: &Command,
        lost: &str,
        read: impl FnOnce(&Output) -> Result<T>,
    ) -> Result<T> {
        let error = match command.run() {
            Ok(output) => match read(&output) {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            },
            Err(failure @ Failure::Exited { .. }) => return Err(self.failed(CREATE, &failure)),
            Err(failure) => self.failed(CREATE, &failure),
        };
        Err(error.hint(format!("the key may have been created anyway: {lost}")))
    }

    /// The command that shows whether the key of this source exists, for hints.
    pub fn look(&self) -> String {
        format!("check with `qkey pubkey {}`", quote(&self.title))
    }

    /// The error of a key that was just created and cannot be opened.
    pub fn created(&self, error: Error) -> Error {
        error.context(format!("created {}, but cannot use it yet", self.title))
    }
}

/// Completes "cannot …" in the errors of key creation.
const CREATE: &str = "create";

impl Vendor {
    /// The row of the table for the program's output.
    pub fn classify(&self, failure: &Failure) -> Option<&'static Row> {
        classify(self.table, &failure.words())
    }
}

/// The row of a table for a program's output.
pub fn classify(table: Table, words: &str) -> Option<&'static Row> {
    let patterns = RegexSetBuilder::new(table.iter().map(|row| row.pattern))
        .multi_line(true)
        .build()
        .expect("the patterns of a table are valid");
    // Matches come in the order of the table.
    patterns.matches(words).iter().next().map(|i| &table[i])
}

/// Arguments as a user would type them.
pub fn typed<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| quote(word.as_ref())).collect();
    words.join(" ")
}

/// An opened key whose signatures `sign` makes.
pub fn opened(
    public_key: PublicKey,
    sign: impl Fn(&[u8]) -> Result<Signature> + Send + Sync + 'static,
) -> Opened {
    Opened::Signer(super::signer(public_key, Caution::FirstUse, sign))
}

/// Why a source cannot name a new key.
pub const NAMES_VERSION: &str = "it names a version";

/// The usage error of a source that cannot name a new key.
pub fn cannot_create(source: &Source, why: &str, hint: &str) -> Error {
    let message = format!("cannot create {:?}: {why}", source.text());
    Error::new(Kind::Usage, message).hint(hint)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn source(text: &str) -> Source {
        crate::signer::registry::parse(text).expect("the grammar of key sources")
    }

    /// Checks that each source is a usage error, and what its message contains.
    #[track_caller]
    pub fn assert_malformed<N>(parse: fn(&Source) -> Result<N>, sources: &[(&str, &str)]) {
        for (text, why) in sources {
            let error = parse(&source(text)).err().expect(text);
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }

    /// Checks a table against real output of its program: the samples of each row, in order.
    #[track_caller]
    pub fn assert_classifies(table: Table, samples: &[&[&str]]) {
        assert_eq!(samples.len(), table.len(), "every row needs samples");
        for (row, samples) in table.iter().zip(samples) {
            assert!(!samples.is_empty(), "no sample for {}", row.pattern);
            for words in *samples {
                let found = classify(table, words).map(|row| row.pattern);
                assert_eq!(found, Some(row.pattern), "{words}");
            }
        }
    }

    #[test]
    fn patterns_match_at_line_starts_in_table_order() {
        const TABLE: Table = table! {
            "^first" => NotFound, "";
            "^(first|second)" => _, "";
        };
        for (words, reason) in [
            ("noise\nfirst", Some(Some(Reason::NotFound))),
            ("second\nfirst", Some(Some(Reason::NotFound))),
            ("second", Some(None)),
            ("the first", None),
            ("", None),
        ] {
            let found = classify(TABLE, words).map(|row| row.reason);
            assert_eq!(found, reason, "{words:?}");
        }
    }
}
