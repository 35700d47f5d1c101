//! The cluster through the `qq` program.

pub(super) mod node;
mod words;

use std::{
    collections::HashSet,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use self::{
    node::Astray,
    words::{Class, Complaint, complaint},
};
use super::{
    Call, Check, Cluster, DEFAULT_PORT, KeyRef, NewKey, Replacement, Result, Snapshot, StoredKey,
    Usage,
    explain::{Site, Transport},
    failure::{Failure, SetupError, Unexpected},
    reply::{self, KEY_LIST, Limit, NotAReply, SINGLE, SNAPSHOTS, USAGES},
};
use crate::{
    http, interrupt,
    signature::Signature,
    subprocess::{self, Command, Output},
    text::{quote, quote_path},
};

/// The `qq` program, and which cluster to reach.
#[derive(Clone, Debug)]
pub struct Options {
    /// A path, or a name on PATH.
    pub program: PathBuf,
    /// Without it, `qq`'s own default applies.
    pub host: Option<String>,
    pub port: u16,
    pub credentials_store: Option<PathBuf>,
    /// For each call.
    pub timeout: Duration,
}

impl Options {
    fn check_destination(&self) -> std::result::Result<(), Astray> {
        node::check(self.host.as_deref(), self.port)
    }
}

/// A cluster reached by running `qq` once for each call.
pub struct Qq {
    options: Options,
    program: PathBuf,
    /// Known once a command that names a stored key has succeeded.
    dialect: Mutex<Option<Dialect>>,
}

/// How `qq` takes a stored key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// `--key`: 6.1.1 and later.
    Key,
    /// `--id` or `--name`: 6.1.0.x.
    IdOrName,
}

/// The flags that name a stored key, in both dialects.
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
    /// Finds the program; runs nothing.
    ///
    /// # Errors
    /// When there is no such program, or it would not reach the cluster that `options` name.
    pub fn find(options: Options) -> std::result::Result<Self, SetupError> {
        // Before anyone is prompted for a passphrase.
        options.check_destination().map_err(SetupError::Astray)?;
        let program = subprocess::find(options.program.as_os_str()).map_err(SetupError::Qq)?;
        Ok(Self {
            options,
            program,
            dialect: Mutex::default(),
        })
    }

    fn command(&self, limit: Limit) -> Command {
        let mut command = Command::new(&self.program, self.options.timeout)
            .stdout_limit(limit.bytes)
            // Names and challenges are UTF-8 regardless of the locale.
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

    /// Makes a call that names no stored key.
    fn call<T>(
        &self,
        call: Call<'_>,
        args: &[&str],
        limit: Limit,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        let run = || {
            begin()?;
            self.options.check_destination().map_err(Failure::Astray)?;
            log::info!("qq {}", call.qq_command());
            let command = self.command(limit).arg(call.qq_command()).args(args);
            let output = command.run().map_err(|failure| classify(limit, failure))?;
            parsed(&output, &parse)
        };
        run().map_err(|failure| self.site().error(call, failure))
    }

    /// Makes a call that names a stored key.
    fn call_with_key<T>(
        &self,
        call: Call<'_>,
        flags: KeyFlags,
        key: &KeyRef,
        args: &[String],
        limit: Limit,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        let command = |dialect: Dialect| {
            self.command(limit)
                .arg(call.qq_command())
                .arg(flags.arg(dialect, key))
                .args(args)
                .run()
        };
        let run = || {
            begin()?;
            log::info!("qq {}", call.qq_command());
            let mut dialect = self.dialect.lock().unwrap_or_else(PoisonError::into_inner);
            // After the wait for the lock, which may have been long.
            self.options.check_destination().map_err(Failure::Astray)?;
            let result = match *dialect {
                Some(known) => {
                    drop(dialect);
                    command(known)
                }
                // The first call finds it out while the others wait.
                None => {
                    let (spoken, result) = find_dialect(command);
                    *dialect = spoken;
                    result
                }
            };
            let output = result.map_err(|failure| classify(limit, failure))?;
            parsed(&output, &parse)
        };
        run().map_err(|failure| self.site().error(call, failure))
    }

    fn site(&self) -> Site {
        let host = self.options.host.as_deref().unwrap_or("localhost");
        let qq = self.as_typed();
        Site {
            address: format!("{host}:{}", self.options.port),
            login: None,
            log_in: format!("log in first: `{qq} login -u USER`"),
            list_keys: self.check_command(Check::Keys),
            list_snapshots: format!("{qq} snapshot_list_statuses"),
            transport: Transport::Qq(qq),
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

/// # Errors
/// After a signal: no new call starts.
fn begin() -> std::result::Result<(), Failure> {
    match interrupt::received() {
        None => Ok(()),
        Some(kind) => Err(Failure::Connection(http::Failure::StoppedBefore(kind))),
    }
}

fn parsed<T>(
    output: &Output,
    parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
) -> std::result::Result<T, Failure> {
    parse(&output.stdout).map_err(|expected| match expected.too_large {
        Some(what) => Failure::TooLarge(what),
        None => {
            let excerpt = subprocess::excerpt(&output.stdout);
            Failure::Unexpected(Unexpected::Body { expected, excerpt }, None)
        }
    })
}

/// What a failed run means.
fn classify(limit: Limit, failure: subprocess::Failure) -> Failure {
    use http::Failure::{Lost, NotConnected, StoppedDuring, UnknownHost};
    match &failure {
        subprocess::Failure::TooMuchOutput { .. } => return Failure::TooLarge(limit.exceeded()),
        subprocess::Failure::Interrupted(kind) => {
            return Failure::Connection(StoppedDuring(*kind));
        }
        _ => {}
    }
    let (class, words) = match complaint(&failure) {
        None => return Failure::Qq(failure),
        Some(Complaint::Api { status, words }) => return Failure::api(status, words, None),
        Some(Complaint::Status { status, words }) => {
            let excerpt = words;
            return Failure::Unexpected(Unexpected::Status { status, excerpt }, None);
        }
        Some(Complaint::Said(class, words)) => (class, words),
    };
    let cause = |kind, words: String| Arc::new(io::Error::new(kind, words));
    match class {
        Class::UnknownHost => {
            Failure::Connection(UnknownHost(cause(io::ErrorKind::HostUnreachable, words)))
        }
        Class::NotConnected => {
            Failure::Connection(NotConnected(cause(io::ErrorKind::NotConnected, words)))
        }
        Class::TimedOut => Failure::Connection(Lost(cause(io::ErrorKind::TimedOut, words))),
        Class::Lost => Failure::Connection(Lost(cause(io::ErrorKind::ConnectionAborted, words))),
        Class::NotJson => Failure::Unexpected(Unexpected::Qq(words), None),
        Class::Credentials => Failure::QqCredentials(words),
        Class::Error => Failure::QqError(words),
        Class::Crash => Failure::QqCrash(words),
        Class::NoHost => Failure::QqWithoutHost,
        Class::UnknownCommand => Failure::QqCommand,
        Class::Arguments => Failure::QqArguments(words),
    }
}

/// `qq` with the options that lead to a cluster, as a user types it.
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

/// The command of `qq` for a hint. `qq` is as [`qq_command`] makes it.
pub(super) fn check_command(qq: &str, what: Check<'_>) -> String {
    match what {
        Check::Keys => format!("{qq} fs_security_list_keys"),
        Check::Snapshot(id) => format!("{qq} snapshot_get_status --id={id}"),
        Check::Snapshots => format!("{qq} snapshot_list_statuses --only-locked"),
        Check::EnableKey(id) => format!("{qq} fs_security_modify_key --key={id} --enable"),
        Check::CommentKey(id) => format!("{qq} fs_security_modify_key --key={id} --comment=TEXT"),
    }
}

/// Runs a command in the newer dialect, and in the older one if `qq` rejects that. Only argparse's exit
/// code 2 counts as a rejection: it precedes any request, so retrying is safe for submissions too.
fn find_dialect(
    run: impl Fn(Dialect) -> std::result::Result<Output, subprocess::Failure>,
) -> (
    Option<Dialect>,
    std::result::Result<Output, subprocess::Failure>,
) {
    let is_usage = |result: &std::result::Result<Output, subprocess::Failure>| {
        let complaint = result.as_ref().err().and_then(complaint);
        matches!(complaint, Some(Complaint::Said(class, _)) if class.is_usage())
    };
    let newer = run(Dialect::Key);
    if !is_usage(&newer) {
        return (newer.is_ok().then_some(Dialect::Key), newer);
    }
    if let Some(kind) = interrupt::announced() {
        return (None, Err(subprocess::Failure::Interrupted(kind)));
    }
    log::debug!("retrying with the options of qq 6.1.0");
    let older = run(Dialect::IdOrName);
    match is_usage(&older) {
        // The first complaint is the one to show.
        true => (None, newer),
        false => (Some(Dialect::IdOrName), older),
    }
}

impl Cluster for Qq {
    fn keys(&self) -> Result<Vec<StoredKey>> {
        self.call(Call::Keys, &["--json"], KEY_LIST, reply::keys)
    }

    fn key_usage(&self, key_id: &str) -> Result<Vec<Usage>> {
        self.call_with_key(
            Call::KeyUsage(key_id),
            KEY,
            &KeyRef::Id(key_id.to_owned()),
            &["--json".to_owned()],
            USAGES,
            reply::usage,
        )
    }

    fn add_key(&self, key: &NewKey<'_>) -> Result<()> {
        self.call(
            Call::AddKey(key.name),
            &[
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
            Call::ReplacementChallenge(key),
            KEY,
            key,
            &[],
            SINGLE,
            reply::challenge,
        )
    }

    fn replace_key(&self, key_id: &str, replacement: &Replacement<'_>) -> Result<()> {
        self.call_with_key(
            Call::ReplaceKey(key_id),
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
            Call::Snapshot(id),
            &[&format!("--id={id}")],
            SINGLE,
            |stdout| reply::snapshot(stdout, id),
        )
    }

    fn unlocked_snapshots(&self) -> Result<HashSet<u64>> {
        let page = self.call(
            Call::UnlockedSnapshots,
            &["--exclude-locked"],
            SNAPSHOTS,
            reply::unlocked_page,
        )?;
        Ok(page.entries.into_iter().collect())
    }

    fn unlock_challenge(&self, id: u64) -> Result<String> {
        self.call(
            Call::UnlockChallenge(id),
            &[&format!("--id={id}")],
            SINGLE,
            reply::challenge,
        )
    }

    fn unlock(&self, id: u64, signature: &Signature) -> Result<()> {
        self.call(
            Call::Unlock(id),
            &[
                &format!("--id={id}"),
                &format!("--signature={}", signature.to_base64()),
            ],
            SINGLE,
            |stdout| reply::unlocked(stdout, id),
        )
    }

    fn lock(&self, id: u64, key_id: &str) -> Result<()> {
        self.call_with_key(
            Call::Lock(id),
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

    fn check_command(&self, what: Check<'_>) -> String {
        check_command(&self.as_typed(), what)
    }
}
