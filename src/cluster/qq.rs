//! The cluster through the `qq` program.

use std::{
    ffi::OsString,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    Certainty, Check, Cluster, Error, KeyRef, NewKey, Replacement, Result, Snapshot, StoredKey,
    Usage,
    reply::{self, Complaint, NotAReply},
};
use crate::{
    error::{Error as UserError, Kind},
    signature::Signature,
    subprocess::{self, Command, Failure, Output, quote},
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
    /// Set once this `qq` has turned out to be a 6.1.0.x, which takes `--id` or `--name` where
    /// later ones take `--key`.
    old_dialect: AtomicBool,
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
    fn arg(self, old_dialect: bool, key: &KeyRef) -> String {
        let flag = match (old_dialect, key) {
            (false, _) => self.key,
            (true, KeyRef::Id(_)) => self.old_id,
            (true, KeyRef::Name(_)) => self.old_name,
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
            UserError::new(Kind::Unreachable, failure.to_string()).hint(
                "install it with `pip install qumulo-api`, or say where it is with --qq PATH or QKEY_QQ",
            )
        })?;
        Ok(Self {
            options,
            program,
            old_dialect: AtomicBool::new(false),
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

    /// Runs one command that names no stored key.
    fn call<T>(
        &self,
        args: &[&str],
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        let output = self
            .command()
            .args(args)
            .run()
            .map_err(|failure| self.explain(args[0], failure))?;
        self.parse(args[0], &output, parse)
    }

    /// Runs one command that names a stored key. Only argparse's exit code 2 tells which dialect
    /// this `qq` speaks; it comes before anything is sent, so that trying the other dialect is
    /// safe for a submission too.
    fn call_with_key<T>(
        &self,
        command: &str,
        flags: KeyFlags,
        key: &KeyRef,
        args: &[String],
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        let run = |old_dialect: bool| {
            self.command()
                .arg(command)
                .arg(flags.arg(old_dialect, key))
                .args(args)
                .run()
        };
        let old_dialect = self.old_dialect.load(Ordering::Relaxed);
        let output = match run(old_dialect) {
            Err(failure @ Failure::Exited { code: 2, .. })
                if matches!(complaint(&failure), Complaint::Usage(_)) =>
            {
                log::debug!("trying the other dialect of qq");
                let other = run(!old_dialect).inspect(|_| {
                    self.old_dialect.store(!old_dialect, Ordering::Relaxed);
                });
                // Where neither is taken, the first complaint is the one to show.
                match other {
                    Err(Failure::Exited { code: 2, .. }) => Err(failure),
                    other => other,
                }
            }
            result => result,
        }
        .map_err(|failure| self.explain(command, failure))?;
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
        match (complaint(&failure), &failure) {
            (Complaint::Api { status, words }, _) => self.api_error(command, status, &words),
            (Complaint::NotConnected(words), _) => self.not_connected(&words),
            (Complaint::ConnectionLost(words), _) => Error {
                certainty: Certainty::Lost,
                error: UserError::new(
                    Kind::Unreachable,
                    format!(
                        "{} broke the connection during {command}: {words}",
                        self.address()
                    ),
                )
                .hint(
                    "look whether the cluster is up and whether a proxy or firewall stands between",
                ),
            },
            (Complaint::Command(words), _) => Error {
                certainty: Certainty::Lost,
                error: UserError::new(
                    Kind::Unreachable,
                    format!("qq failed during {command}: {words}"),
                )
                .hint(self.try_by_hand(command)),
            },
            (Complaint::Traceback(words), _) => Error {
                certainty: Certainty::Lost,
                error: UserError::new(
                    Kind::Unreachable,
                    format!("qq crashed during {command}: {words}"),
                )
                .hint(self.try_by_hand(command)),
            },
            (Complaint::Usage(words), _) => usage_error(command, &words),
            (Complaint::Other, Failure::Interrupted(kind)) => Error {
                certainty: Certainty::Lost,
                error: UserError::new(*kind, format!("stopped by a signal during {command}")),
            },
            (
                Complaint::Other,
                Failure::NotFound { .. }
                | Failure::NotExecutable { .. }
                | Failure::CouldNotRun { .. },
            ) => Error {
                certainty: Certainty::NotSent,
                error: UserError::new(Kind::Unreachable, format!("cannot run {command}"))
                    .caused_by(&failure)
                    .hint("say where qq is with --qq PATH or QKEY_QQ"),
            },
            (Complaint::Other, _) => {
                let hint = match &failure {
                    Failure::TimedOut { .. } => {
                        "look whether the cluster answers, or give it longer with --timeout SECONDS"
                            .to_owned()
                    }
                    Failure::Killed { .. } => {
                        "find out what killed it (out of memory? a limit? an administrator?) and run this again"
                            .to_owned()
                    }
                    _ => self.try_by_hand(command),
                };
                Error {
                    certainty: Certainty::Lost,
                    error: UserError::new(Kind::Unreachable, format!("no answer to {command}"))
                        .caused_by(&failure)
                        .hint(hint),
                }
            }
        }
    }

    fn api_error(&self, command: &str, status: u16, words: &str) -> Error {
        let refused = |kind, hint: Option<String>| Error {
            certainty: match status {
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
            .maybe_hint(hint),
        };
        match status {
            401 => refused(
                Kind::Auth,
                Some(format!("log in first: `{} login -u USER`", self.as_typed())),
            ),
            403 => refused(
                Kind::Auth,
                Some(
                    "log in as a user whose role has the privilege for it, or ask an administrator"
                        .into(),
                ),
            ),
            500.. => refused(
                Kind::Refused,
                Some(
                    "the cluster has a problem of its own; look at its state, then run this again"
                        .into(),
                ),
            ),
            _ => refused(Kind::Refused, None),
        }
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

/// What `qq` said of a failure: 7.x on stderr, 6.x on stdout, where warnings do not come.
fn complaint(failure: &Failure) -> Complaint {
    let Failure::Exited { output, .. } = failure else {
        return Complaint::Other;
    };
    [&output.stderr, &output.stdout]
        .into_iter()
        .map(|stream| reply::complaint(&String::from_utf8_lossy(stream)))
        .find(|complaint| *complaint != Complaint::Other)
        .unwrap_or(Complaint::Other)
}

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
            |stdout| reply::done(stdout, "is unlocked"),
        )
    }

    fn lock(&self, id: u64, key_id: &str) -> Result<()> {
        self.call_with_key(
            "snapshot_lock_snapshot",
            LOCK_KEY,
            &KeyRef::Id(key_id.to_owned()),
            &[format!("--id={id}"), "--force".to_owned()],
            |stdout| reply::done(stdout, "is locked"),
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
