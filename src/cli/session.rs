//! What a command works with: settings, clusters and key sources.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::ArgMatches;

use super::settings::{ClusterSettings, Globals, Settings, TOKEN_VARIABLE};
use crate::{
    ceremony::{self, Outcome, change::Change, observer::Silent, proof::Prover},
    cluster::{
        Cluster,
        qq::{self, Qq},
        rest::{self, Rest, TokenSource, Trust},
    },
    config::{self, Config},
    error::{Error, Kind, Result},
    output::Output,
    private_file,
    secret::{Asker, Asking},
    settings::{Origin, Via},
    signer::{
        Context, KeySource, Refusals, registry,
        source::{Openable, Source, named_secrets},
    },
    subprocess, suggest,
    text::quoted,
};

pub struct Session {
    pub settings: Settings,
    pub config: Config,
    /// The configuration file, if there is one.
    pub config_file: Option<PathBuf>,
    pub output: Output,
    pub context: Arc<Context>,
}

impl Session {
    /// Reads the configuration file, and sends notes to stderr from now on.
    ///
    /// # Errors
    /// Of kind `usage` if the file is invalid, or the selected cluster is not in it.
    pub fn start(globals: Globals, matches: &ArgMatches) -> Result<Self> {
        let required = globals.config().is_some();
        let config_file = globals.config().cloned().or_else(config::default_path);
        let config = match &config_file {
            Some(path) => Config::load(path, required)?,
            None => Config::default(),
        };
        let verbosity = globals.verbosity();
        let settings = Settings::resolve(globals, matches, &config)?;
        let asking = if settings.user.no_input.value {
            Asking::Never
        } else {
            Asking::Allowed
        };
        let output = Output::new(settings.user.output.value, settings.user.color.value);
        output.terminal().install_log(verbosity);
        if let Some(path) = &config_file {
            private_file::warn_if_writable_by_others(path);
        }
        let timeout = settings.user.timeout.duration();
        let asker = Asker::new(asking, timeout).prompting_on(output.terminal().clone());
        withhold_secrets(&asker, &config);
        Ok(Self {
            output,
            settings,
            config,
            config_file: config_file.filter(|path| path.exists()),
            context: Arc::new(Context {
                asker,
                timeout,
                refusals: Refusals::default(),
            }),
        })
    }

    /// The configured cluster of this name, or else the selected one, with at most `jobs` calls at a
    /// time if they share connections. Nothing runs and nothing connects yet.
    ///
    /// # Errors
    /// Of kind `unreachable` if `qq` is missing; of kind `usage` or `auth` if the cluster is not
    /// configured, the settings of the connection are wrong, or its token cannot be read.
    pub fn connect(&self, name: Option<&str>, jobs: usize) -> Result<Box<dyn Cluster>> {
        let named = name.map(|name| self.settings.of_cluster(name, &self.config));
        let named = named.transpose()?;
        let settings = named.as_ref().unwrap_or(&self.settings.cluster);
        check_transport(settings)?;
        let options = &settings.options;
        let (host, port) = (options.host.value.clone(), options.port.value);
        let (program, timeout) = (options.qq.value.clone(), options.timeout.duration());
        Ok(match options.via.value {
            Via::Qq => {
                let qq = Qq::find(qq::Options {
                    program,
                    host,
                    port,
                    credentials_store: options.credentials_store.value.clone(),
                    timeout,
                })?;
                Box::new(qq)
            }
            Via::Rest => {
                if let Trust::CaFile(path) = &settings.trust.value {
                    private_file::warn_if_writable_by_others(path);
                }
                let rest = Rest::new(rest::Options {
                    host,
                    port,
                    token: settings.token.value.clone(),
                    trust: settings.trust.value.clone(),
                    timeout,
                    connections: jobs,
                    qq: program,
                })?;
                Box::new(rest)
            }
        })
    }

    /// Runs one change on the selected cluster, and notes its warnings.
    ///
    /// # Errors
    /// As [`Session::connect`] and [`ceremony::run`].
    pub fn carry_out<C: Change>(
        &self,
        change: &C,
        prover: &dyn Prover,
        attempts: u32,
        dry_run: bool,
    ) -> Result<Outcome<C::State>> {
        let cluster = self.connect(None, 1)?;
        let cluster = cluster.as_ref();
        let outcome = ceremony::run(change, cluster, prover, &Silent, attempts, dry_run)?;
        warn(&outcome.warnings);
        Ok(outcome)
    }

    /// A key source as the user wrote it: a name from the configuration file, a path, or a URI.
    ///
    /// # Errors
    /// Of kind `usage` if it is not a valid key source; of kind `key` if it is a misspelled name.
    pub fn key_source(&self, text: &str) -> Result<Openable> {
        let key = self.new_key(text)?;
        let is_word = !text.contains(['/', '.', ':', '?']);
        let is_file = key.name.is_some() || Path::new(text).exists();
        let names = self.config.keys.keys().map(String::as_str);
        match suggest::nearest(text, names).filter(|_| is_word && !is_file) {
            Some(name) => {
                let message = format!("{} is neither a configured key nor a file", quoted(text));
                let hint = format!(
                    "did you mean {}? `qkey config` shows the keys",
                    quoted(name)
                );
                Err(Error::new(Kind::Key, message).hint(hint))
            }
            None => Ok(key),
        }
    }

    /// As [`Session::key_source`], for a key that need not exist yet.
    ///
    /// # Errors
    /// Of kind `usage` if it is not a valid key source.
    pub fn new_key(&self, text: &str) -> Result<Openable> {
        match self.config.source(text) {
            Some(source) => self.openable(source?, Some(text)),
            None => self.openable(registry::parse(text)?, None),
        }
    }

    /// Several key sources, of which at most one may read stdin.
    ///
    /// # Errors
    /// As [`Session::key_source`].
    pub fn key_sources<'t>(
        &self,
        texts: impl IntoIterator<Item = &'t String>,
    ) -> Result<Vec<Openable>> {
        let sources = texts.into_iter().map(|text| self.key_source(text));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        check_stdin(&sources)?;
        Ok(sources)
    }

    /// Every key of the configuration file.
    ///
    /// # Errors
    /// As [`Session::key_source`].
    pub fn configured_keys(&self) -> Result<Vec<Openable>> {
        self.key_sources(self.config.keys.keys())
    }

    /// The candidates for a stored key: those given with `flag`, otherwise all configured keys.
    ///
    /// # Errors
    /// Of kind `usage` if there are none.
    pub fn candidates(&self, flag: &str, named: &[String]) -> Result<Vec<Openable>> {
        let sources = match named {
            [] => self.configured_keys()?,
            named => self.key_sources(named)?,
        };
        if sources.is_empty() {
            let message = format!("no key given: {flag} is missing");
            return Err(Error::new(Kind::Usage, message).hint(format!(
                "give {flag} SOURCE, or add your keys to the configuration file (`qkey config init`)"
            )));
        }
        Ok(sources)
    }

    fn openable(&self, source: Source, name: Option<&str>) -> Result<Openable> {
        // Report a wrong attribute before opening anything.
        source.secret()?;
        Ok(Openable {
            source,
            context: self.context.clone(),
            name: name.map(str::to_owned),
        })
    }
}

/// # Errors
/// Of kind `usage` if a flag says which certificate to trust, but `qq` verifies none.
fn check_transport(settings: &ClusterSettings) -> Result<()> {
    let (trust, via) = (&settings.trust.origin, &settings.options.via);
    if let (Via::Qq, TokenSource::Env(_) | TokenSource::File(_), Origin::Environment(variable)) =
        (via.value, &settings.token.value, &settings.token.origin)
    {
        log::warn!("{variable} has no effect with --via qq: qq uses its own login; use --via rest");
    }
    let no_effect = format!(
        "{} has no effect with --via qq: qq does not verify certificates",
        trust.name()
    );
    match (via.value, trust, &via.origin) {
        (Via::Qq, Origin::Flag(flag), _) => {
            return Err(
                Error::new(Kind::Usage, no_effect).hint(format!("add --via rest, or omit {flag}"))
            );
        }
        // With --via, the user chose qq knowingly.
        (Via::Qq, Origin::BuiltIn, _) | (Via::Qq, _, Origin::Flag(_)) => {}
        (Via::Qq, ..) => log::warn!("{no_effect}; use --via rest"),
        (Via::Rest, ..) => {
            if let Some(variable) = settings.unused_token {
                log::warn!(
                    "ignored {variable}: it may belong to a cluster other than the one named by a flag"
                );
            }
        }
    }
    Ok(())
}

/// Hides every secret that any key source names from child processes, whether or not this run uses
/// that key.
fn withhold_secrets(asker: &Asker, config: &Config) {
    subprocess::withhold(TOKEN_VARIABLE);
    let typed = env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let configured = config.keys.values().map(|key| key.source.get_ref().clone());
    for text in typed.chain(configured) {
        for secret in named_secrets(&text) {
            asker.withhold(&secret);
        }
    }
}

/// # Errors
/// Of kind `usage` if stdin would be read twice. Several keys may share one passphrase.
pub fn check_stdin<'s>(sources: impl IntoIterator<Item = &'s Openable>) -> Result<()> {
    let reading = sources.into_iter().filter(|key| key.source.reads_stdin());
    let (keys, passphrases): (Vec<_>, Vec<_>) = reading.partition(|key| key.source.body_is_stdin());
    if keys.len() + passphrases.len().min(1) > 1 {
        let message = "only one key or passphrase may be read from stdin";
        return Err(Error::new(Kind::Usage, message).hint("save the others to files"));
    }
    Ok(())
}

/// Key sources in the type that ceremonies take.
pub fn as_key_sources(sources: &[Openable]) -> Vec<&dyn KeySource> {
    sources.iter().map(|source| source as _).collect()
}

/// Logs what the user should know about a result.
pub fn warn(warnings: &[String]) {
    for warning in warnings {
        log::warn!("{warning}");
    }
}
