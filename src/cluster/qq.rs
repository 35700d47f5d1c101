//! The cluster through the `qq` program.

use std::{
    ffi::OsString,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    Certainty, Check, Cluster, Error, KeyRef, NewKey, Replacement, Result, Snapshot, StoredKey,
    Usage,
    reply::{self, Complaint, NotAReply},
};
use crate::{
    error::{Error as UserError, Kind},
    interrupt,
    signature::Signature,
    subprocess::{self, Command, Failure, Output},
    text::quote,
};

/// Where `qq` is and which cluster it should talk to.
#[derive(Clone, Debug)]
pub struct Options {
    /// A path, or a name to look for on PATH.
    pub program: PathBuf,
    /// Without it, `qq`'s own default applies.
    pub host: Option<String>,
    pub port: u16,
    pub credentials_store: Option<PathBuf>,
    /// For each call.
    pub timeout: Duration,
}

/// A cluster reached by running `qq` once for each call.
pub struct Qq {
    options: Options,
    program: PathBuf,
    /// Known once a command that names a stored key was taken.
    dialect: Mutex<Option<Dialect>>,
}

/// How `qq` wants a stored key to be named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// `--key`: 6.1.1 and later.
    Key,
    /// `--id` or `--name`: 6.1.0.x.
    IdOrName,
}

/// How an argument names a stored key, in both dialects.
#[derive(Clone, Copy)]
struct KeyFlags {
    key: &'static str,
    old_id: &'static str,
    old_name: &'static str,
}

const KEY: KeyFlags = KeyFlags {
    key: "--key",
    old_id: "--id",
    old_name: "--name",
};
const LOCK_KEY: KeyFlags = KeyFlags {
    key: "--lock-key",
    old_id: "--lock-key-id",
    old_name: "--lock-key-name",
};

impl KeyFlags {
    fn arg(self, dialect: Dialect, key: &KeyRef) -> String {
        let flag = match (dialect, key) {
            (Dialect::Key, _) => self.key,
            (Dialect::IdOrName, KeyRef::Id(_)) => self.old_id,
            (Dialect::IdOrName, KeyRef::Name(_)) => self.old_name,
        };
        format!("{flag}={}", key.as_str())
    }
}

impl Qq {
    /// Looks for the program; runs nothing.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn find(options: Options) -> std::result::Result<Self, UserError> {
        let program = subprocess::find(options.program.as_os_str()).map_err(|failure| {
            let hint = match failure {
                Failure::NotFound { .. } => {
                    "install it with `pip install qumulo-api`, or say where it is with --qq PATH or QKEY_QQ"
                }
                _ => "name the qq program itself with --qq PATH or QKEY_QQ",
            };
            UserError::new(Kind::Unreachable, "cannot run qq")
                .caused_by(&failure)
                .hint(hint)
        })?;
        Ok(Self {
            options,
            program,
            dialect: Mutex::default(),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program, self.options.timeout)
            // Whatever the user's locale: names and challenges come and go as UTF-8.
            .env("PYTHONUTF8", "1")
            .env("PYTHONIOENCODING", "utf-8");
        if let Some(host) = &self.options.host {
            command = command.arg(format!("--host={host}"));
        }
        command = command.arg(format!("--port={}", self.options.port));
        if let Some(path) = &self.options.credentials_store {
            let mut arg = OsString::from("--credentials-store=");
            arg.push(path);
            command = command.arg(arg);
        }
        command
    }

    /// Notes that `command` is begun, and keeps it from that after a signal.
    fn begin(command: &str) -> Result<()> {
        match interrupt::received() {
            None => {
                log::info!("qq {command}");
                Ok(())
            }
            Some(kind) => Err(Error {
                certainty: Certainty::NotSent,
                error: UserError::new(kind, format!("stopped by a signal before {command}"))
                    .hint(UNCHANGED),
            }),
        }
    }

    /// Runs one command that names no stored key.
    fn call<T>(
        &self,
        args: &[&str],
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        Self::begin(args[0])?;
        let output = self
            .command()
            .args(args)
            .run()
            .map_err(|failure| self.explain(args[0], failure))?;
        self.parse(args[0], &output, parse)
    }

    /// Runs one command that names a stored key.
    fn call_with_key<T>(
        &self,
        command: &str,
        flags: KeyFlags,
        key: &KeyRef,
        args: &[String],
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        Self::begin(command)?;
        let run = |dialect: Dialect| {
            self.command()
                .arg(command)
                .arg(flags.arg(dialect, key))
                .args(args)
                .run()
        };
        let mut dialect = self.dialect.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match *dialect {
            Some(known) => {
                drop(dialect);
                run(known)
            }
            // Whoever comes first finds it out, and the others wait for that.
            None => {
                let (spoken, result) = find_dialect(run);
                *dialect = spoken;
                result
            }
        };
        let output = result.map_err(|failure| self.explain(command, failure))?;
        self.parse(command, &output, parse)
    }

    fn parse<T>(
        &self,
        command: &str,
        output: &Output,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        parse(&output.stdout).map_err(|NotAReply { expected }| {
            self.explain(
                command,
                Failure::UnparsableReply {
                    program: self.program.to_string_lossy().into_owned(),
                    expected,
                    excerpt: subprocess::excerpt(&output.stdout),
                },
            )
        })
    }

    /// What a failed run means.
    fn explain(&self, command: &str, failure: Failure) -> Error {
        let address = self.address();
        let lost = |message: String, hint: String| Error {
            certainty: Certainty::Lost,
            error: UserError::new(Kind::Unreachable, message).hint(hint),
        };
        match complaint(&failure) {
            Complaint::Api { status, words } => self.api_error(command, status, &words),
            Complaint::NotConnected(words) => self.not_connected(&words),
            Complaint::ConnectionLost(words) => Error {
                certainty: match words.contains("timed out") {
                    true => Certainty::Unanswered,
                    false => Certainty::Lost,
                },
                ..lost(
                    format!("the connection to {address} was lost during {command}: {words}"),
                    "look whether the cluster is up and whether a proxy or firewall stands between"
                        .to_owned(),
                )
            },
            Complaint::Command(words) | Complaint::Traceback(words)
                if is_about_credentials(&words) =>
            {
                Error {
                    certainty: Certainty::NotSent,
                    error: UserError::new(
                        Kind::Auth,
                        format!("qq cannot read its credentials for {address}: {words}"),
                    )
                    .hint(self.log_in()),
                }
            }
            Complaint::Command(words) => lost(
                format!("qq failed during {command}: {words}"),
                self.try_by_hand(command),
            ),
            Complaint::Traceback(words) if words.contains("Error loading data") => lost(
                format!(
                    "{address} answered {command} with something else than its REST API does: {words}"
                ),
                "check --host and --port: a proxy or another service may answer there".to_owned(),
            ),
            Complaint::Traceback(words) => lost(
                format!("qq crashed during {command}: {words}"),
                self.try_by_hand(command),
            ),
            Complaint::Usage(words) => usage_error(command, &words),
            Complaint::Other => self.explain_silence(command, &failure),
        }
    }

    /// What a run means in which `qq` itself did not say what was wrong.
    fn explain_silence(&self, command: &str, failure: &Failure) -> Error {
        let (certainty, hint) = match failure {
            Failure::Interrupted(kind) => {
                return Error {
                    certainty: Certainty::Lost,
                    error: UserError::new(*kind, format!("stopped by a signal during {command}"))
                        .hint(UNCHANGED),
                };
            }
            Failure::NotFound { .. }
            | Failure::NotExecutable { .. }
            | Failure::CouldNotRun { .. } => (
                Certainty::NotSent,
                "say where qq is with --qq PATH or QKEY_QQ".to_owned(),
            ),
            Failure::TimedOut { .. } => (
                Certainty::Unanswered,
                "look whether the cluster answers, or give it longer with --timeout SECONDS"
                    .to_owned(),
            ),
            Failure::Killed { .. } => (
                Certainty::Lost,
                "find out what killed it (out of memory? a limit? an administrator?) and run this again"
                    .to_owned(),
            ),
            _ => (Certainty::Lost, self.try_by_hand(command)),
        };
        Error {
            certainty,
            error: UserError::new(
                Kind::Unreachable,
                format!("qq gave no usable answer to {command}"),
            )
            .caused_by(failure)
            .hint(hint),
        }
    }

    fn api_error(&self, command: &str, status: u16, words: &str) -> Error {
        let (kind, hint) = match status {
            401 => (Kind::Auth, self.log_in()),
            403 => (
                Kind::Auth,
                "log in as a user whose role has the privilege for it, or ask an administrator"
                    .to_owned(),
            ),
            404 if command.starts_with("snapshot") => (
                Kind::Refused,
                format!(
                    "`{} snapshot_list_statuses` shows what there is",
                    self.as_typed()
                ),
            ),
            404 => (
                Kind::Refused,
                "`qkey keys list` shows what there is".to_owned(),
            ),
            502..=504 => (
                Kind::Unreachable,
                "the cluster, or a proxy before it, is not ready; try again later".to_owned(),
            ),
            500.. => (
                Kind::Refused,
                "the cluster has a problem of its own; look at its state, then run this again"
                    .to_owned(),
            ),
            _ => (
                Kind::Refused,
                "nothing was changed; mend what the cluster names, then run this again".to_owned(),
            ),
        };
        Error {
            certainty: match status {
                // A proxy's time-out says nothing about the cluster.
                408 | 504 => Certainty::Unanswered,
                500.. => Certainty::Lost,
                _ => Certainty::Refused,
            },
            error: UserError::new(
                kind,
                format!(
                    "{} refused {command}: Error {status}: {words}",
                    self.address()
                ),
            )
            .hint(hint),
        }
    }

    fn log_in(&self) -> String {
        format!("log in first: `{} login -u USER`", self.as_typed())
    }

    fn not_connected(&self, words: &str) -> Error {
        Error {
            certainty: Certainty::NotSent,
            error: UserError::new(
                Kind::Unreachable,
                format!("cannot reach {}: {words}", self.address()),
            )
            .hint("check --host and --port (or the cluster's entry in the configuration file), and the network"),
        }
    }

    fn try_by_hand(&self, command: &str) -> String {
        format!(
            "run `{} {command} --help` by hand; if qq itself works, run this again with -vv and report what it shows",
            self.as_typed()
        )
    }

    fn address(&self) -> String {
        match &self.options.host {
            Some(host) => format!("{host}:{}", self.options.port),
            None => format!("localhost:{}", self.options.port),
        }
    }

    /// `qq` with the options that lead to this cluster, for hints.
    fn as_typed(&self) -> String {
        let mut typed = quote(&self.options.program.to_string_lossy());
        if let Some(host) = &self.options.host {
            typed.push_str(&format!(" --host={}", quote(host)));
        }
        if self.options.port != DEFAULT_PORT {
            typed.push_str(&format!(" --port={}", self.options.port));
        }
        if let Some(path) = &self.options.credentials_store {
            typed.push_str(&format!(
                " --credentials-store={}",
                quote(&path.to_string_lossy())
            ));
        }
        typed
    }
}

/// Runs a command in the newer dialect, and in the older one if the newer is not taken. Only
/// argparse's exit code 2 tells; it comes before anything is sent, so that trying again is safe for
/// a submission too.
fn find_dialect(
    run: impl Fn(Dialect) -> std::result::Result<Output, Failure>,
) -> (Option<Dialect>, std::result::Result<Output, Failure>) {
    let is_usage = |result: &std::result::Result<Output, Failure>| matches!(result, Err(failure) if matches!(complaint(failure), Complaint::Usage(_)));
    let newer = run(Dialect::Key);
    if !is_usage(&newer) {
        return (newer.is_ok().then_some(Dialect::Key), newer);
    }
    log::debug!("trying the dialect of qq 6.1.0");
    let older = run(Dialect::IdOrName);
    match is_usage(&older) {
        // The first complaint is the one to show.
        true => (None, newer),
        false => (Some(Dialect::IdOrName), older),
    }
}

/// Whether `qq` stumbled over the file in which it keeps the bearer token, before any request.
fn is_about_credentials(words: &str) -> bool {
    let not_json = words.contains(": line ") && words.contains("(char ");
    words.contains("CredentialsError") || not_json && !words.contains("Error loading data")
}

/// What `qq` said of a failure: 7.x on stderr, 6.x on stdout, where warnings do not come.
fn complaint(failure: &Failure) -> Complaint {
    let Failure::Exited { code, output, .. } = failure else {
        return Complaint::Other;
    };
    [&output.stderr, &output.stdout]
        .into_iter()
        .map(|stream| reply::complaint(&String::from_utf8_lossy(stream)))
        .find(|complaint| match complaint {
            // A wrapper around qq may print its own usage at any time; argparse's code is 2.
            Complaint::Usage(_) => *code == 2,
            complaint => *complaint != Complaint::Other,
        })
        .unwrap_or(Complaint::Other)
}

/// After a signal, where no submission is under way.
const UNCHANGED: &str = "nothing was submitted by this step; run this again";

/// The port of a cluster's REST API.
pub const DEFAULT_PORT: u16 = 8000;

fn usage_error(command: &str, words: &str) -> Error {
    let error = if words.contains("--host") {
        UserError::new(Kind::Usage, "no cluster is named").hint(
            "give --host HOST, set QKEY_HOST, or write the cluster into the configuration file (`qkey config init`)",
        )
    } else if words.contains("invalid choice") {
        UserError::new(Kind::Unreachable, format!("this qq does not know {command}"))
            .hint("it needs qq 6.1.0 or later: `pip install --upgrade qumulo-api`, or name another with --qq PATH")
    } else {
        UserError::new(
            Kind::Unreachable,
            format!("this qq does not take what {command} was given: {words}"),
        )
        .hint("name another qq with --qq PATH; versions 6.1.0 to 7.10 are known to work")
    };
    Error {
        certainty: Certainty::NotSent,
        error,
    }
}

impl Cluster for Qq {
    fn keys(&self) -> Result<Vec<StoredKey>> {
        self.call(&["fs_security_list_keys", "--json"], reply::keys)
    }

    fn key_usage(&self, key_id: &str) -> Result<Vec<Usage>> {
        self.call_with_key(
            "fs_security_get_key_usage",
            KEY,
            &KeyRef::Id(key_id.to_owned()),
            &["--json".to_owned()],
            reply::usage,
        )
    }

    fn add_key(&self, key: &NewKey<'_>) -> Result<StoredKey> {
        self.call(
            &[
                "fs_security_add_key",
                &format!("--name={}", key.name),
                &format!("--public-key={}", key.public_key.to_base64()),
                &format!("--verification-signature={}", key.signature.to_base64()),
                &format!("--comment={}", key.comment),
                "--json",
            ],
            reply::key,
        )
    }

    fn replacement_challenge(&self, key: &KeyRef) -> Result<String> {
        self.call_with_key(
            "fs_security_get_key_replace_challenge",
            KEY,
            key,
            &[],
            reply::challenge,
        )
    }

    fn replace_key(&self, key_id: &str, replacement: &Replacement<'_>) -> Result<StoredKey> {
        self.call_with_key(
            "fs_security_replace_key",
            KEY,
            &KeyRef::Id(key_id.to_owned()),
            &[
                format!(
                    "--replacement-public-key={}",
                    replacement.new_key.to_base64()
                ),
                format!(
                    "--old-key-verification-signature={}",
                    replacement.old_signature.to_base64()
                ),
                format!(
                    "--replacement-key-verification-signature={}",
                    replacement.new_signature.to_base64()
                ),
                "--json".to_owned(),
            ],
            reply::key,
        )
    }

    fn snapshot(&self, id: u64) -> Result<Snapshot> {
        self.call(
            &["snapshot_get_status", &format!("--id={id}")],
            reply::snapshot,
        )
    }

    fn unlock_challenge(&self, id: u64) -> Result<String> {
        self.call(
            &["snapshot_get_unlock_challenge", &format!("--id={id}")],
            reply::challenge,
        )
    }

    fn unlock(&self, id: u64, signature: &Signature) -> Result<()> {
        self.call(
            &[
                "snapshot_unlock_snapshot",
                &format!("--id={id}"),
                &format!("--signature={}", signature.to_base64()),
            ],
            reply::unlocked,
        )
    }

    fn lock(&self, id: u64, key_id: &str) -> Result<()> {
        self.call_with_key(
            "snapshot_lock_snapshot",
            LOCK_KEY,
            &KeyRef::Id(key_id.to_owned()),
            &[format!("--id={id}"), "--force".to_owned()],
            reply::locked,
        )
    }

    fn check_command(&self, what: Check) -> String {
        match what {
            Check::Keys => format!("{} fs_security_list_keys", self.as_typed()),
            Check::Snapshot(id) => {
                format!("{} snapshot_get_status --id={id}", self.as_typed())
            }
        }
    }
}
