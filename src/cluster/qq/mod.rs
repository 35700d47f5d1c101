//! The cluster through the `qq` program.

pub(super) mod node;
mod words;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use self::{node::Astray, words::complaint};
use super::{
    Check, DEFAULT_PORT, KeyRef, Usage,
    call::Call,
    explain::{self, Site},
    failure::{Attempt, Failure},
    reply::{self, Limit, Page, Parsed},
    transport::Transport,
};
use crate::{
    error::Result,
    http, interrupt,
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
    site: Site,
    /// Known once a command that names a stored key has succeeded.
    dialect: Mutex<Option<Dialect>>,
}

/// How `qq` names a stored key on its command line.
#[derive(Clone, Copy)]
enum Dialect {
    /// `--key`: 6.1.1 and later.
    Key,
    /// `--id` or `--name`: 6.1.0.x.
    IdOrName,
}

/// The key that a call names, with the beginning of its flag in each dialect.
struct NamedKey(&'static str, &'static str, KeyRef);

impl NamedKey {
    fn of(call: Call<'_>) -> Option<Self> {
        let id = |id: &str| KeyRef::Id(id.to_owned());
        match call {
            Call::KeyUsage(key) | Call::ReplaceKey(key, _) => Some(Self("--key", "--", id(key))),
            Call::ReplacementChallenge(key) => Some(Self("--key", "--", key.clone())),
            Call::Lock(_, key) => Some(Self("--lock-key", "--lock-key-", id(key))),
            _ => None,
        }
    }

    fn arg(&self, dialect: Dialect) -> String {
        let Self(newer, older, key) = self;
        match (dialect, key) {
            (Dialect::Key, key) => format!("{newer}={}", key.as_str()),
            (Dialect::IdOrName, KeyRef::Id(id)) => format!("{older}id={id}"),
            (Dialect::IdOrName, name) => format!("{older}name={}", name.as_str()),
        }
    }
}

/// The arguments of a call, apart from the key that it names.
fn args(call: Call<'_>) -> Vec<String> {
    let json = || "--json".to_owned();
    match call {
        Call::Keys | Call::KeyUsage(_) => vec![json()],
        Call::AddKey(key) => vec![
            format!("--name={}", key.name),
            format!("--public-key={}", key.public_key.to_base64()),
            format!("--verification-signature={}", key.signature.to_base64()),
            format!("--comment={}", key.comment),
            json(),
        ],
        Call::ReplacementChallenge(_) => Vec::new(),
        Call::ReplaceKey(_, new) => {
            let key = new.new_key.to_base64();
            let (old_signature, signature) =
                (new.old_signature.to_base64(), new.new_signature.to_base64());
            vec![
                format!("--replacement-public-key={key}"),
                format!("--old-key-verification-signature={old_signature}"),
                format!("--replacement-key-verification-signature={signature}"),
                json(),
            ]
        }
        Call::Snapshot(id) | Call::UnlockChallenge(id) => vec![format!("--id={id}")],
        Call::UnlockedSnapshots => vec!["--exclude-locked".to_owned()],
        Call::Unlock(id, signature) => {
            let signature = signature.to_base64();
            vec![format!("--id={id}"), format!("--signature={signature}")]
        }
        Call::Lock(id, _) => vec![format!("--id={id}"), "--force".to_owned()],
    }
}

impl Qq {
    /// Finds the program, but runs nothing.
    ///
    /// # Errors
    /// When there is no such program, or it would not reach the cluster that `options` name.
    pub fn find(options: Options) -> Result<Self> {
        // Before anyone has to type a passphrase.
        options
            .check_destination()
            .map_err(|error| explain::astray(&error))?;
        if let Some(host) = &options.host {
            // An address may name its interface, as in fe80::1%eth0.
            let name = host.split('%').next().unwrap_or_default();
            http::authority(name, options.port).ok_or_else(|| explain::invalid_host(host))?;
        }
        let program = subprocess::find(options.program.as_os_str());
        let program = program.map_err(|failure| explain::no_qq(&failure))?;
        let host = options.host.as_deref();
        let store = options.credentials_store.as_deref();
        let typed = qq_command(&options.program, host, options.port, store);
        let qq = typed.clone();
        let site = Site {
            address: format!("{}:{}", host.unwrap_or("localhost"), options.port),
            login: None,
            log_in: format!("log in first: `{typed} login -u USER`"),
            timeout: options.timeout,
            check_command: Box::new(move |what| check_command(&qq, what)),
            transport: explain::Transport::Qq(typed),
        };
        Ok(Self {
            options,
            program,
            site,
            dialect: Mutex::default(),
        })
    }

    fn run_in(&self, call: Call<'_>, key: Option<String>) -> Attempt<Output> {
        let limit = Limit::of(call);
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
        let command = command.arg(call.qq_command()).args(key).args(args(call));
        command.run().map_err(|failure| classify(limit, failure))
    }

    fn run(&self, call: Call<'_>) -> Attempt<Output> {
        if let Some(kind) = interrupt::received() {
            return Err(Failure::Connection(http::Failure::StoppedBefore(kind)));
        }
        log::info!("qq {}", call.qq_command());
        let Some(key) = NamedKey::of(call) else {
            self.options.check_destination().map_err(Failure::Astray)?;
            return self.run_in(call, None);
        };
        let run = |dialect| self.run_in(call, Some(key.arg(dialect)));
        let mut dialect = self.dialect.lock().unwrap_or_else(PoisonError::into_inner);
        // The wait for the lock may have been long.
        self.options.check_destination().map_err(Failure::Astray)?;
        if let Some(known) = *dialect {
            drop(dialect);
            return run(known);
        }
        // The first call finds out while the others wait.
        let (spoken, result) = find_dialect(run);
        *dialect = spoken;
        result
    }
}

/// What a failed run means.
fn classify(limit: Limit, failure: subprocess::Failure) -> Failure {
    let complaint = match &failure {
        subprocess::Failure::TooMuchOutput { .. } => Some(Failure::TooLarge(limit.exceeded())),
        subprocess::Failure::Interrupted(kind) => {
            Some(Failure::Connection(http::Failure::StoppedDuring(*kind)))
        }
        subprocess::Failure::Exited { code, output, .. } => complaint(*code, output),
        _ => None,
    };
    complaint.unwrap_or(Failure::Qq(failure))
}

/// `qq` with the options that select a cluster, as a user types it.
pub(super) fn qq_command(
    program: &Path,
    host: Option<&str>,
    port: u16,
    credentials_store: Option<&Path>,
) -> String {
    quote_path(program) + &typed_options(host, port, credentials_store)
}

/// The options that `qq` and qkey share, as a user types them.
pub(super) fn typed_options(
    host: Option<&str>,
    port: u16,
    credentials_store: Option<&Path>,
) -> String {
    let mut typed = String::new();
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

/// A `qq` command for a hint. `qq` comes from [`qq_command`].
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
/// code 2 counts as a rejection: it precedes any request, so it is safe to retry submissions, too.
fn find_dialect(run: impl Fn(Dialect) -> Attempt<Output>) -> (Option<Dialect>, Attempt<Output>) {
    let is_usage = |result: &Attempt<Output>| result.as_ref().is_err_and(Failure::is_usage);
    let newer = run(Dialect::Key);
    if !is_usage(&newer) {
        return (newer.is_ok().then_some(Dialect::Key), newer);
    }
    if let Some(kind) = interrupt::announced() {
        let stopped = http::Failure::StoppedDuring(kind);
        return (None, Err(Failure::Connection(stopped)));
    }
    log::debug!("retrying with the options of qq 6.1.0");
    let older = run(Dialect::IdOrName);
    if is_usage(&older) {
        (None, newer)
    } else {
        (Some(Dialect::IdOrName), older)
    }
}

impl Transport for Qq {
    fn site(&self) -> &Site {
        &self.site
    }

    fn attempt<T>(&self, call: Call<'_>, parse: impl Fn(&[u8]) -> Parsed<T>) -> Attempt<T> {
        let output = self.run(call)?;
        parse(&output.stdout)
            .map_err(|wrong| Failure::reply(wrong, subprocess::excerpt(&output.stdout), None))
    }

    fn attempt_list<T>(
        &self,
        call: Call<'_>,
        parse: impl Fn(&[u8]) -> Parsed<Page<T>>,
    ) -> Attempt<Vec<T>> {
        let all = self.attempt(call, parse)?.entries;
        Limit::of(call).check(&all).map_err(Failure::TooLarge)?;
        Ok(all)
    }

    fn parse_usages(stdout: &[u8]) -> Parsed<Page<Usage>> {
        reply::usages_of_qq(stdout)
    }

    fn parse_done(stdout: &[u8], call: Call<'_>) -> Parsed<()> {
        reply::done_by_qq(stdout, call)
    }
}
