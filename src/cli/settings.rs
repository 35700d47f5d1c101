//! The settings that every command shares: a flag beats the environment, which beats the
//! configuration file.

use std::{env, ffi::OsString, fmt, num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{ArgAction, ArgMatches, Args, builder::FalseyValueParser, parser::ValueSource};

use crate::{
    cluster::{
        DEFAULT_PORT,
        rest::{Fingerprint, TokenSource, Trust},
    },
    config::{ClusterEntry, Config, Via},
    error::{Error, Kind, Result},
    output::{Color, Format, Output},
};

/// The global flags, and their environment variables.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The cluster's name in the configuration file
    #[arg(long, global = true, env = "QKEY_CLUSTER", value_name = "NAME")]
    cluster: Option<String>,
    /// The cluster's host name or address [default: what qq takes, a cluster node]
    #[arg(long, global = true, env = "QKEY_HOST")]
    host: Option<String>,
    /// The port of the cluster's REST API [default: 8000]
    #[arg(long, global = true, env = "QKEY_PORT")]
    port: Option<u16>,
    /// The file with the cluster's credentials, as `qq --credentials-store`
    #[arg(
        long,
        global = true,
        env = "QKEY_CREDENTIALS_STORE",
        value_name = "PATH"
    )]
    credentials_store: Option<PathBuf>,
    /// Trust only the certificates in this PEM file: CAs, or the cluster's own (--via rest)
    #[arg(long, global = true, env = "QKEY_CA_FILE", value_name = "PEM")]
    ca_file: Option<PathBuf>,
    /// Trust only the certificate with this fingerprint (--via rest)
    #[arg(
        long,
        global = true,
        env = "QKEY_TLS_FINGERPRINT",
        value_name = "sha256:HEX"
    )]
    tls_fingerprint: Option<Fingerprint>,
    /// Trust any certificate: whoever stands between can take the token (--via rest)
    #[arg(long, global = true, env = "QKEY_INSECURE", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    insecure: bool,
    /// The qq program [default: qq, from PATH]
    #[arg(long, global = true, env = "QKEY_QQ", value_name = "PATH")]
    qq: Option<PathBuf>,
    /// How to reach the cluster [default: qq]
    #[arg(long, global = true, env = "QKEY_VIA", value_enum)]
    via: Option<Via>,
    /// How long each call to the cluster or a signer may take [default: 30]
    #[arg(long, global = true, env = "QKEY_TIMEOUT", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// The configuration file [default: $XDG_CONFIG_HOME/qkey/config.toml]
    #[arg(long, global = true, env = "QKEY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The form of results, errors and notes [default: text]
    #[arg(
        long,
        global = true,
        env = "QKEY_OUTPUT",
        value_enum,
        value_name = "FORMAT"
    )]
    output: Option<Format>,
    /// Never ask on the terminal
    #[arg(long, global = true, env = "QKEY_NO_INPUT", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    no_input: bool,
    /// Say what is being done; twice: show the programs that are run
    #[arg(short, long, global = true, env = "QKEY_VERBOSE", action = ArgAction::Count)]
    verbose: u8,
    /// No warnings
    #[arg(short, long, global = true, env = "QKEY_QUIET", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    quiet: bool,
    /// Whether to use color [default: auto]
    #[arg(
        long,
        global = true,
        env = "QKEY_COLOR",
        value_enum,
        value_name = "WHEN"
    )]
    color: Option<Color>,
}

impl Globals {
    /// How to write as long as the configuration file is not known.
    pub fn output(&self) -> Output {
        Output {
            format: self.output.unwrap_or_default(),
            color: self.color.unwrap_or_default(),
        }
    }

    /// 2 for the programs that are run, 1 for the steps, 0 for warnings, -1 for nothing.
    pub fn verbosity(&self) -> i8 {
        match (self.quiet, self.verbose) {
            (true, _) => -1,
            (false, verbose) => verbose.min(2).cast_signed(),
        }
    }
}

/// Where a value comes from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    BuiltIn,
    /// The key in the configuration file, as in `clusters.prod.host`.
    File(String),
    Environment(String),
    Flag(String),
}

/// The strength of what the environment says.
const ENVIRONMENT: u8 = 2;

impl Origin {
    /// What has more of it wins.
    fn strength(&self) -> u8 {
        match self {
            Origin::BuiltIn => 0,
            Origin::File(_) => 1,
            Origin::Environment(_) => ENVIRONMENT,
            Origin::Flag(_) => 3,
        }
    }
}

impl Origin {
    /// What was typed or written, without the place where.
    pub fn name(&self) -> &str {
        match self {
            Origin::BuiltIn => "the default",
            Origin::File(name) | Origin::Environment(name) | Origin::Flag(name) => name,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("default"),
            Origin::File(key) => write!(f, "file, {key}"),
            Origin::Environment(name) => write!(f, "environment, {name}"),
            Origin::Flag(name) => write!(f, "flag, {name}"),
        }
    }
}

/// In seconds, about a century: more than this is no moment that the clock could show.
const LONGEST_TIMEOUT: u64 = u32::MAX as u64;

/// A value that is in force, and why.
#[derive(Clone, Debug)]
pub struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

/// All that is in force.
pub struct Settings {
    pub cluster: Setting<Option<String>>,
    pub host: Setting<Option<String>>,
    pub port: Setting<u16>,
    pub credentials_store: Setting<Option<PathBuf>>,
    /// The bearer token, for a cluster that is reached over REST.
    pub token: Setting<TokenSource>,
    /// The variable with a token that belongs to another cluster than the one that is named.
    pub unused_token: Option<&'static str>,
    pub trust: Setting<Trust>,
    pub qq: Setting<PathBuf>,
    pub via: Setting<Via>,
    pub timeout: Setting<Duration>,
    pub output: Setting<Format>,
    pub color: Setting<Color>,
    pub no_input: Setting<bool>,
}

impl Settings {
    /// # Errors
    /// Of kind `usage` when a cluster is named that is not there, or a value is empty.
    pub fn resolve(globals: &Globals, matches: &ArgMatches, config: &Config) -> Result<Self> {
        let typed = |id: &str| typed_origin(matches, id);
        let cluster = pick(
            typed("cluster").zip(globals.cluster.clone()),
            [(
                config
                    .default_cluster
                    .as_ref()
                    .map(|name| name.get_ref().clone()),
                "default-cluster".to_owned(),
            )],
        );
        // A host that is named more strongly than the cluster is another cluster: neither the
        // credentials nor the port of the configured one belong to it.
        let cluster = match (&cluster, typed("host")) {
            (Some(cluster), Some(host)) if host.strength() > cluster.origin.strength() => None,
            _ => cluster,
        };
        let entry = match &cluster {
            Some(cluster) => Some((cluster.value.as_str(), config.cluster(&cluster.value)?)),
            None => None,
        };
        let of_cluster = Entry(entry);
        // And a cluster that is named more strongly than an address is not at that address.
        let strength = cluster
            .as_ref()
            .map_or(0, |cluster| cluster.origin.strength());
        let address = |id: &str| typed(id).filter(|origin| origin.strength() >= strength);
        let credentials_store = optional(pick(
            address("credentials_store").zip(globals.credentials_store.clone()),
            [of_cluster.value("credentials-store", |entry| entry.credentials_store.clone())],
        ));
        let trust = strongest_trust([
            address("ca_file").zip(globals.ca_file.clone().map(Trust::CaFile)),
            address("tls_fingerprint").zip(globals.tls_fingerprint.map(Trust::Pinned)),
            address("insecure").zip(globals.insecure.then_some(Trust::Insecure)),
            of_cluster.typed("ca-file", |entry| entry.ca_file.clone().map(Trust::CaFile)),
            of_cluster.typed("tls-fingerprint", |entry| {
                entry.tls_fingerprint.map(Trust::Pinned)
            }),
        ])?;
        let defaults = &config.defaults;
        let of_defaults = |key: &str| format!("defaults.{key}");
        let settings = Self {
            host: optional(pick(
                address("host").zip(globals.host.clone()),
                [of_cluster.value("host", |entry| entry.host.clone())],
            )),
            port: or_built_in(
                pick(
                    address("port").zip(globals.port),
                    [of_cluster.value("port", |entry| entry.port)],
                ),
                DEFAULT_PORT,
            ),
            token: token(&credentials_store, strength),
            unused_token: token_variable()
                .map(|(name, _)| name)
                .filter(|_| ENVIRONMENT < strength),
            credentials_store,
            trust,
            qq: or_built_in(
                pick(
                    typed("qq").zip(globals.qq.clone()),
                    [
                        of_cluster.value("qq", |entry| entry.qq.clone()),
                        (defaults.qq.clone(), of_defaults("qq")),
                    ],
                ),
                PathBuf::from("qq"),
            ),
            via: or_built_in(
                pick(
                    typed("via").zip(globals.via),
                    [
                        of_cluster.value("via", |entry| entry.via),
                        (defaults.via, of_defaults("via")),
                    ],
                ),
                Via::Qq,
            ),
            timeout: or_built_in(
                pick(
                    typed("timeout").zip(globals.timeout),
                    [
                        of_cluster.value("timeout", |entry| entry.timeout.map(NonZeroU64::get)),
                        (
                            defaults.timeout.map(NonZeroU64::get),
                            of_defaults("timeout"),
                        ),
                    ],
                ),
                30,
            )
            .map(|seconds| Duration::from_secs(seconds.min(LONGEST_TIMEOUT))),
            output: or_built_in(
                pick(
                    typed("output").zip(globals.output),
                    [(defaults.output, of_defaults("output"))],
                ),
                Format::default(),
            ),
            color: or_built_in(
                pick(
                    typed("color").zip(globals.color),
                    [(defaults.color, of_defaults("color"))],
                ),
                Color::default(),
            ),
            no_input: or_built_in(
                pick(
                    typed("no_input").zip(Some(globals.no_input)),
                    [(defaults.no_input, of_defaults("no-input"))],
                ),
                false,
            ),
            cluster: optional(cluster),
        };
        match &settings.host.value {
            Some(host) if host.is_empty() => Err(Error::new(Kind::Usage, "the host is empty")
                .hint("give a host name or an address, or leave it out on a cluster node")),
            _ => Ok(settings),
        }
    }
}

impl<T> Setting<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Setting<U> {
        Setting {
            value: f(self.value),
            origin: self.origin,
        }
    }
}

/// The cluster's table in the configuration file, if one is in force.
struct Entry<'a>(Option<(&'a str, &'a ClusterEntry)>);

impl Entry<'_> {
    fn value<T>(&self, key: &str, get: impl Fn(&ClusterEntry) -> Option<T>) -> (Option<T>, String) {
        match self.0 {
            Some((name, entry)) => (get(entry), format!("clusters.{name}.{key}")),
            None => (None, String::new()),
        }
    }

    fn typed<T>(&self, key: &str, get: impl Fn(&ClusterEntry) -> Option<T>) -> Option<(Origin, T)> {
        let (value, key) = self.value(key, get);
        Some((Origin::File(key), value?))
    }
}

/// The environment variables that give a token, or the name of a file with one.
pub const TOKEN_VARIABLE: &str = "QKEY_TOKEN";
const TOKEN_FILE_VARIABLE: &str = "QKEY_TOKEN_FILE";

/// A token in the environment beats a credentials file there, and belongs, as that does, to no
/// cluster that is named more strongly than by the environment.
fn token(store: &Setting<Option<PathBuf>>, strength: u8) -> Setting<TokenSource> {
    let stored = store.clone().map(TokenSource::Store);
    match token_variable() {
        Some((name, value)) if strength.max(stored.origin.strength()) <= ENVIRONMENT => Setting {
            value: match name {
                TOKEN_VARIABLE => TokenSource::Env(TOKEN_VARIABLE),
                _ => TokenSource::File(value.into()),
            },
            origin: Origin::Environment(name.to_owned()),
        },
        _ => stored,
    }
}

/// The variable that gives a token, with its value.
fn token_variable() -> Option<(&'static str, OsString)> {
    let mut variables = [TOKEN_VARIABLE, TOKEN_FILE_VARIABLE].into_iter();
    variables.find_map(|name| Some((name, env::var_os(name)?)))
}

/// # Errors
/// Of kind `usage` when two are given in the same place.
fn strongest_trust<const N: usize>(given: [Option<(Origin, Trust)>; N]) -> Result<Setting<Trust>> {
    let given: Vec<_> = given.into_iter().flatten().collect();
    let strength = given.iter().map(|(origin, _)| origin.strength()).max();
    let mut strongest = given
        .into_iter()
        .filter(|(origin, _)| Some(origin.strength()) == strength);
    match (strongest.next(), strongest.next()) {
        (Some((origin, value)), None) => Ok(Setting { value, origin }),
        (None, _) => Ok(or_built_in(None, Trust::System)),
        (Some((one, _)), Some((other, _))) => Err(Error::new(
            Kind::Usage,
            format!("{} and {} exclude each other", one.name(), other.name()),
        )
        .hint("say in one way which certificate is the cluster's")),
    }
}

/// The strongest value: what was typed, else the first that the file has.
fn pick<T, const N: usize>(
    typed: Option<(Origin, T)>,
    file: [(Option<T>, String); N],
) -> Option<Setting<T>> {
    let file = file
        .into_iter()
        .find_map(|(value, key)| Some((Origin::File(key), value?)));
    typed
        .or(file)
        .map(|(origin, value)| Setting { value, origin })
}

fn or_built_in<T>(setting: Option<Setting<T>>, value: T) -> Setting<T> {
    setting.unwrap_or(Setting {
        value,
        origin: Origin::BuiltIn,
    })
}

fn optional<T>(setting: Option<Setting<T>>) -> Setting<Option<T>> {
    or_built_in(setting.map(|setting| setting.map(Some)), None)
}

/// Whether a global was typed, or stands in the environment.
fn typed_origin(matches: &ArgMatches, id: &str) -> Option<Origin> {
    match matches.value_source(id)? {
        ValueSource::CommandLine => Some(Origin::Flag(format!("--{}", id.replace('_', "-")))),
        ValueSource::EnvVariable => {
            Some(Origin::Environment(format!("QKEY_{}", id.to_uppercase())))
        }
        _ => None,
    }
}
