//! The cluster through the `qq` program.

use std::{
    collections::HashSet,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::io::Errno;

use super::{
    Certainty, Check, Cluster, DEFAULT_PORT, Error, KeyRef, NewKey, Replacement, Result, Snapshot,
    StoredKey, Usage,
    explain::{GIVE_IT_LONGER, Named, begin, no_cluster, stopped_during},
    node,
    reply::{self, Complaint, KEY_LIST, Limit, NotAReply, SINGLE, SNAPSHOTS, USAGES},
};
use crate::{
    error::{Error as UserError, Kind},
    interrupt,
    signature::Signature,
    subprocess::{self, Command, Failure, Output},
    text::{quote, quote_path},
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

impl Options {
    fn check_destination(&self) -> std::result::Result<(), UserError> {
        node::check(self.host.as_deref(), self.port)
    }
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
    /// When there is no such program, or it would not reach the cluster that `options` name.
    pub fn find(options: Options) -> std::result::Result<Self, UserError> {
        // Before anyone is asked for a passphrase.
        options.check_destination()?;
        let program = subprocess::find(options.program.as_os_str()).map_err(|failure| {
            let hint = match failure {
                Failure::NotFound { .. } => {
                    "install it with `pip install qumulo-api`, say where it is with --qq PATH or QKEY_QQ, or do without it: --via rest"
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

    fn check_destination(&self) -> Result<()> {
        self.options
            .check_destination()
            .map_err(|error| Error::new(Certainty::NotSent, error))
    }

    fn command(&self, limit: Limit) -> Command {
        let mut command = Command::new(&self.program, self.options.timeout)
            .stdout_limit(limit.bytes)
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
        limit: Limit,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        begin(args[0])?;
        self.check_destination()?;
        log::info!("qq {}", args[0]);
        let output = self
            .command(limit)
            .args(args)
            .run()
            .map_err(|failure| self.explain(args[0], limit, failure))?;
        self.parse(args[0], &output, parse)
    }

    /// Runs one command that names a stored key.
    fn call_with_key<T>(
        &self,
        command: &str,
        flags: KeyFlags,
        key: &KeyRef,
        args: &[String],
        limit: Limit,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        begin(command)?;
        log::info!("qq {command}");
        let run = |dialect: Dialect| {
            self.command(limit)
                .arg(command)
                .arg(flags.arg(dialect, key))
                .args(args)
                .run()
        };
        let mut dialect = self.dialect.lock().unwrap_or_else(PoisonError::into_inner);
        // After the wait for the lock, which may have been long.
        self.check_destination()?;
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
        let output = result.map_err(|failure| self.explain(command, limit, failure))?;
        self.parse(command, &output, parse)
    }

    fn parse<T>(
        &self,
        command: &str,
        output: &Output,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        parse(&output.stdout).map_err(|wrong| {
            if let Some(what) = &wrong.too_large {
                return self.named().too_large(command, what);
            }
            self.explain_silence(
                command,
                &Failure::UnparsableReply {
                    program: quote_path(&self.program),
                    expected: wrong.to_string(),
                    excerpt: subprocess::excerpt(&output.stdout),
                },
            )
        })
    }

    /// What a failed run means.
    fn explain(&self, command: &str, limit: Limit, failure: Failure) -> Error {
        let named = self.named();
        if let Failure::TooMuchOutput { .. } = failure {
            return named.too_large(command, &limit.exceeded());
        }
        let lost = |message: String| {
            let error = UserError::new(Kind::Unreachable, message).hint(self.try_by_hand(command));
            Error::new(Certainty::Lost, error)
        };
        match complaint(&failure) {
            Complaint::Api { status, words } => named.refused(command, status, &words),
            Complaint::Status { status, words } => {
                named.refused_without_words(command, status, &format!("Error {status}: {words}"))
            }
            Complaint::NotConnected(words) => named.not_connected(&words),
            Complaint::ConnectionLost(words) => named.connection_lost(command, &words),
            Complaint::Command(words) | Complaint::Traceback(words)
                if is_about_credentials(&words) =>
            {
                let message = format!(
                    "qq cannot read its credentials for {}: {words}",
                    named.address
                );
                let error = UserError::new(Kind::Auth, message).hint(named.log_in);
                Error::new(Certainty::NotSent, error)
            }
            Complaint::Command(words) => lost(format!("qq failed during {command}: {words}")),
            Complaint::Traceback(words) if words.contains("Error loading data") => {
                named.not_the_api(command, &words)
            }
            Complaint::Traceback(words) if words.starts_with("http.client.IncompleteRead") => {
                named.connection_lost(command, &words)
            }
            Complaint::Traceback(words) => lost(format!("qq crashed during {command}: {words}")),
            Complaint::Usage(words) => usage_error(command, &words),
            Complaint::Other => self.explain_silence(command, &failure),
        }
    }

    /// What a run means in which `qq` itself did not say what was wrong.
    fn explain_silence(&self, command: &str, failure: &Failure) -> Error {
        let (certainty, hint) = match failure {
            Failure::Interrupted(kind) => return stopped_during(command, *kind),
            Failure::CouldNotRun { source, .. } if is_exhaustion(source) => {
                let message = format!("cannot start qq for {command}: out of memory or threads");
                let error = UserError::new(Kind::Internal, message)
                    .caused_by(source)
                    .hint("nothing was sent; raise the limit (see `ulimit -a`) or free memory, then run this again");
                return Error::new(Certainty::NotSent, error);
            }
            Failure::NotFound { .. }
            | Failure::NotExecutable { .. }
            | Failure::CouldNotRun { .. } => (
                Certainty::NotSent,
                "say where qq is with --qq PATH or QKEY_QQ".to_owned(),
            ),
            Failure::TimedOut { .. } => (Certainty::Lost, GIVE_IT_LONGER.to_owned()),
            Failure::Killed { .. } => (
                Certainty::Lost,
                "find out what killed it (out of memory? a limit? an administrator?) and run this again"
                    .to_owned(),
            ),
            Failure::UnparsableReply { .. } => {
                (Certainty::Unexpected, self.try_by_hand(command))
            }
            _ => (Certainty::Lost, self.try_by_hand(command)),
        };
        let message = format!("qq gave no usable answer to {command}");
        let error = UserError::new(Kind::Unreachable, message)
            .caused_by(failure)
            .hint(hint);
        Error::new(certainty, error)
    }

    fn try_by_hand(&self, command: &str) -> String {
        format!(
            "run `{} {command} --help` by hand; if qq itself works, run this again with -vv and report what it shows",
            self.as_typed()
        )
    }

    fn named(&self) -> Named {
        let host = self.options.host.as_deref().unwrap_or("localhost");
        let qq = self.as_typed();
        Named {
            address: format!("{host}:{}", self.options.port),
            log_in: format!("log in first: `{qq} login -u USER`"),
            find_snapshots: format!("`{qq} snapshot_list_statuses` shows what there is"),
        }
    }

    /// `qq` with the options that lead to this cluster, for hints.
    fn as_typed(&self) -> String {
        let options = &self.options;
        qq_command(
            &options.program,
            options.host.as_deref(),
            options.port,
            options.credentials_store.as_deref(),
        )
    }
}

/// `qq` with the options that lead to a cluster, as it is typed.
pub(super) fn qq_command(
    program: &Path,
    host: Option<&str>,
    port: u16,
    credentials_store: Option<&Path>,
) -> String {
    let mut typed = quote_path(program);
    if let Some(host) = host {
        typed.push_str(&format!(" --host={}", quote(host)));
    }
    if port != DEFAULT_PORT {
        typed.push_str(&format!(" --port={port}"));
    }
    if let Some(path) = credentials_store {
        typed.push_str(&format!(" --credentials-store={}", quote_path(path)));
    }
    typed
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
    if let Some(kind) = interrupt::announced() {
        return (None, Err(Failure::Interrupted(kind)));
    }
    log::debug!("trying the dialect of qq 6.1.0");
    let older = run(Dialect::IdOrName);
    match is_usage(&older) {
        // The first complaint is the one to show.
        true => (None, newer),
        false => (Some(Dialect::IdOrName), older),
    }
}

/// Whether the system has no memory, no thread or no process left.
fn is_exhaustion(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::AGAIN, Errno::NOMEM].contains(&errno))
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

fn usage_error(command: &str, words: &str) -> Error {
    let error = if words.contains("--host") {
        no_cluster()
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
    Error::new(Certainty::NotSent, error)
}

impl Cluster for Qq {
    fn keys(&self) -> Result<Vec<StoredKey>> {
        self.call(&["fs_security_list_keys", "--json"], KEY_LIST, reply::keys)
    }

    fn key_usage(&self, key_id: &str) -> Result<Vec<Usage>> {
        self.call_with_key(
            "fs_security_get_key_usage",
            KEY,
            &KeyRef::Id(key_id.to_owned()),
            &["--json".to_owned()],
            USAGES,
            reply::usage,
        )
    }

    fn add_key(&self, key: &NewKey<'_>) -> Result<()> {
        self.call(
            &[
                "fs_security_add_key",
                &format!("--name={}", key.name),
                &format!("--public-key={}", key.public_key.to_base64()),
                &format!("--verification-signature={}", key.signature.to_base64()),
                &format!("--comment={}", key.comment),
                "--json",
            ],
            SINGLE,
            |stdout| reply::added_key(stdout, key),
        )
    }

    fn replacement_challenge(&self, key: &KeyRef) -> Result<String> {
        self.call_with_key(
            "fs_security_get_key_replace_challenge",
            KEY,
            key,
            &[],
            SINGLE,
            reply::challenge,
        )
    }

    fn replace_key(&self, key_id: &str, replacement: &Replacement<'_>) -> Result<()> {
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
            SINGLE,
            |stdout| reply::replaced_key(stdout, key_id, replacement),
        )
    }

    fn snapshot(&self, id: u64) -> Result<Snapshot> {
        self.call(
            &["snapshot_get_status", &format!("--id={id}")],
            SINGLE,
            |stdout| reply::snapshot(stdout, id),
        )
    }

    fn unlocked_snapshots(&self) -> Result<HashSet<u64>> {
        let page = self.call(
            &["snapshot_list_statuses", "--exclude-locked"],
            SNAPSHOTS,
            reply::unlocked_page,
        )?;
        Ok(page.entries.into_iter().collect())
    }

    fn unlock_challenge(&self, id: u64) -> Result<String> {
        self.call(
            &["snapshot_get_unlock_challenge", &format!("--id={id}")],
            SINGLE,
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
            SINGLE,
            |stdout| reply::unlocked(stdout, id),
        )
    }

    fn lock(&self, id: u64, key_id: &str) -> Result<()> {
        self.call_with_key(
            "snapshot_lock_snapshot",
            LOCK_KEY,
            &KeyRef::Id(key_id.to_owned()),
            &[format!("--id={id}"), "--force".to_owned()],
            SINGLE,
            |stdout| reply::locked(stdout, id),
        )
    }

    /// Each call starts a program.
    fn gains_from_concurrency(&self) -> bool {
        true
    }

    fn check_command(&self, what: Check) -> String {
        match what {
            Check::Keys => format!("{} fs_security_list_keys", self.as_typed()),
            Check::Snapshot(id) => {
                format!("{} snapshot_get_status --id={id}", self.as_typed())
            }
            Check::Snapshots => {
                format!("{} snapshot_list_statuses --only-locked", self.as_typed())
            }
        }
    }
}
