//! What a command works with: settings, clusters and key sources.

use std::{env, path::PathBuf, sync::Arc};

use clap::ArgMatches;

use super::settings::{ClusterSettings, Globals, Settings, TOKEN_VARIABLE};
use crate::{
    cluster::{
        Cluster,
        qq::{self, Qq},
        rest::{self, Rest, Trust},
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
    subprocess,
};

pub struct Session {
    pub settings: Settings,
    pub config: Config,
    /// The configuration file, if there is one.
    pub config_file: Option<PathBuf>,
    pub output: Output,
    context: Arc<Context>,
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
        let asking = match settings.user.no_input.value {
            true => Asking::Never,
            false => Asking::Allowed,
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

    /// The cluster with this name in the configuration file, or else the selected one, with at most
    /// `jobs` calls at a time where they share connections. Nothing runs and nothing connects yet.
    ///
    /// # Errors
    /// Of kind `unreachable` if `qq` is missing; of kind `usage` or `auth` if the settings of the
    /// connection are wrong, or its token cannot be read.
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

    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// A key source as the user wrote it: a name from the configuration file, a path, or a URI.
    ///
    /// # Errors
    /// Of kind `usage` if it is not a valid key source.
    pub fn key_source(&self, text: &str) -> Result<Openable> {
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
        let sources: Vec<Openable> = texts
            .into_iter()
            .map(|text| self.key_source(text))
            .collect::<Result<_>>()?;
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

    /// The candidates for a key that the cluster holds: those given with `flag`, else all configured
    /// keys.
    ///
    /// # Errors
    /// Of kind `usage` if there are none.
    pub fn candidates(&self, flag: &str, named: &[String]) -> Result<Vec<Openable>> {
        let sources = match named {
            [] => self.configured_keys()?,
            named => self.key_sources(named)?,
        };
        match sources.is_empty() {
            false => Ok(sources),
            true => Err(Error::new(Kind::Usage, format!("no key given: {flag} is missing"))
                .hint(format!("give {flag} SOURCE, or add your keys to the configuration file (`qkey config init`)"))),
        }
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
    match (via.value, trust) {
        (Via::Qq, Origin::Flag(flag)) => Err(Error::new(
            Kind::Usage,
            format!("{flag} has no effect with --via qq: qq does not verify certificates"),
        )
        .hint(format!("add --via rest, or omit {flag}"))),
        // The user chose qq on the command line, knowingly.
        (Via::Qq, Origin::File(_) | Origin::Environment(_))
            if !matches!(via.origin, Origin::Flag(_)) =>
        {
            log::warn!(
                "{} has no effect with --via qq: qq does not verify certificates; use --via rest",
                trust.name()
            );
            Ok(())
        }
        (Via::Rest, _) => {
            if let Some(variable) = settings.unused_token {
                log::warn!(
                    "ignored {variable}: it may belong to a cluster other than the one named by a flag"
                );
            }
            Ok(())
        }
        _ => Ok(()),
    }
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
pub fn check_stdin<'s>(sources: impl IntoIterator<Item = &'s Openable> + Clone) -> Result<()> {
    let keys = sources.clone().into_iter();
    let keys = keys.filter(|key| key.source.body_is_stdin()).count();
    let passphrase = sources
        .into_iter()
        .any(|key| key.source.reads_stdin() && !key.source.body_is_stdin());
    match keys + usize::from(passphrase) {
        0 | 1 => Ok(()),
        _ => Err(Error::new(
            Kind::Usage,
            "only one key or passphrase may be read from stdin",
        )
        .hint("save the others to files")),
    }
}

/// Key sources as the ceremonies take them.
pub fn as_key_sources(sources: &[Openable]) -> Vec<&dyn KeySource> {
    sources
        .iter()
        .map(|source| source as &dyn KeySource)
        .collect()
}

/// Notes what belongs to a result and is no failure.
pub fn warn(warnings: &[String]) {
    for warning in warnings {
        log::warn!("{warning}");
    }
}
