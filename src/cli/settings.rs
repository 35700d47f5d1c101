//! Which settings are in force: a flag beats the environment, which beats the configuration file.

use std::{collections::BTreeMap, env, ffi::OsString, path::PathBuf};

use clap::{ArgAction, ArgMatches, Args, parser::ValueSource};

use crate::{
    cluster::rest::{TokenSource, Trust},
    config::Config,
    error::{Error, Kind, Result},
    output::Output,
    settings::{
        ClusterLayer, ClusterOptions, ENVIRONMENT, Origin, Setting, UserLayer, UserOptions,
        yes_or_no,
    },
};

/// The global flags, and their environment variables.
#[derive(Args)]
pub struct Globals {
    /// Cluster name in the configuration file
    #[arg(
        long,
        global = true,
        env = "QKEY_CLUSTER",
        value_name = "NAME",
        help_heading = "Cluster options"
    )]
    cluster: Option<String>,
    #[command(flatten)]
    of_cluster: ClusterLayer,
    #[command(flatten)]
    of_user: UserLayer,
    #[command(flatten)]
    run: Run,
}

/// What the configuration file cannot say.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
struct Run {
    /// Configuration file [default: ~/.config/qkey/config.toml]
    #[arg(long, global = true, env = "QKEY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show each step; -vv also shows the programs run
    #[arg(short, long, global = true, env = "QKEY_VERBOSE", action = ArgAction::Count)]
    verbose: u8,
    /// Hide warnings and progress
    #[arg(short, long, global = true, env = "QKEY_QUIET", action = ArgAction::SetTrue, value_parser = yes_or_no)]
    quiet: bool,
}

impl Globals {
    /// How to write until the configuration file has been read.
    pub fn output(&self) -> Output {
        Output::new(
            self.of_user.output.unwrap_or_default(),
            self.of_user.color.unwrap_or_default(),
        )
    }

    /// The configuration file that the user named.
    pub fn config(&self) -> Option<&PathBuf> {
        self.run.config.as_ref()
    }

    /// 2 shows the programs run, 1 the steps, 0 warnings, -1 nothing.
    pub fn verbosity(&self) -> i8 {
        match (self.run.quiet, self.run.verbose) {
            (true, _) => -1,
            (false, verbose) => verbose.min(2).cast_signed(),
        }
    }
}

/// Settings that apply to any cluster. The others describe one cluster: they are ignored if the
/// cluster's name has a higher precedence.
const FOR_ANY_CLUSTER: [&str; 3] = ["qq", "via", "timeout"];

/// The settings in force.
pub struct Settings {
    /// The user's, for any cluster.
    pub user: UserOptions,
    /// The selected cluster's.
    pub cluster: ClusterSettings,
    typed: Typed,
}

/// What the flags and the environment say about any cluster.
struct Typed {
    of_cluster: ClusterLayer,
    origins: BTreeMap<String, Origin>,
}

impl Typed {
    fn origin(&self, field: &str) -> Option<Origin> {
        self.origins.get(field).cloned()
    }
}

/// How to reach one cluster.
pub struct ClusterSettings {
    /// Its name in the configuration file.
    pub name: Setting<Option<String>>,
    /// The other settings, used as they are set.
    pub options: ClusterOptions,
    /// The bearer token for the REST API.
    pub token: Setting<TokenSource>,
    /// The variable with a token that is ignored, because the cluster is named by a flag.
    pub unused_token: Option<&'static str>,
    /// Which certificate to trust.
    pub trust: Setting<Trust>,
}

impl Settings {
    /// # Errors
    /// Of kind `usage` if the selected cluster is not configured, or a value makes no sense.
    pub fn resolve(globals: Globals, matches: &ArgMatches, config: &Config) -> Result<Self> {
        let origins: BTreeMap<String, Origin> = matches
            .ids()
            .filter_map(|id| Some((id.to_string(), typed_origin(matches, id.as_str())?)))
            .collect();
        let typed = Typed {
            of_cluster: ClusterLayer {
                timeout: globals.of_user.timeout,
                ..globals.of_cluster
            },
            origins,
        };
        let user = UserOptions::merge(&[
            (&globals.of_user, &|field| typed.origin(field)),
            (&config.defaults.user(), &of_defaults),
        ]);
        let name = globals.cluster.zip(typed.origin("cluster"));
        let name = name.map(|(value, origin)| Setting { value, origin });
        let default = config.default_cluster.as_ref().map(|name| Setting {
            value: name.get_ref().clone(),
            origin: Origin::File("default-cluster".to_owned()),
        });
        // A host with a higher precedence than the cluster's name is another cluster: neither the
        // credentials nor the port of the configured one belong to it.
        let host = typed.origin("host").map_or(0, |host| host.strength());
        let name = name
            .or(default)
            .filter(|name| host <= name.origin.strength());
        let cluster = ClusterSettings::resolve(name, &typed, config)?;
        Ok(Self {
            user,
            cluster,
            typed,
        })
    }

    /// Those of a configured cluster, as if a flag had named it.
    ///
    /// # Errors
    /// Of kind `usage` if it is not configured, or a value makes no sense.
    pub fn of_cluster(&self, name: &str, config: &Config) -> Result<ClusterSettings> {
        let name = Setting {
            value: name.to_owned(),
            origin: Origin::Flag("--cluster".to_owned()),
        };
        ClusterSettings::resolve(Some(name), &self.typed, config)
    }
}

impl ClusterSettings {
    /// The settings of the configured cluster with this name, if any, and what is `typed`.
    fn resolve(name: Option<Setting<String>>, typed: &Typed, config: &Config) -> Result<Self> {
        let entry = match &name {
            Some(name) => config.cluster(&name.value)?,
            None => &ClusterLayer::default(),
        };
        // A cluster with a higher precedence than an address is not at that address.
        let strength = name.as_ref().map_or(0, |name| name.origin.strength());
        let applies = |field: &str| {
            let for_any = FOR_ANY_CLUSTER.contains(&field);
            let origin = typed.origin(field);
            origin.filter(|origin| for_any || origin.strength() >= strength)
        };
        let of_entry = |field: &str| {
            let (name, field) = (&name.as_ref()?.value, kebab(field));
            Some(Origin::File(format!("clusters.{name}.{field}")))
        };
        let options = ClusterOptions::merge(&[
            (&typed.of_cluster, &applies),
            (entry, &of_entry),
            (&config.defaults.cluster(), &of_defaults),
        ]);
        if options.host.value.as_deref() == Some("") {
            return Err(Error::new(Kind::Usage, "the host is empty")
                .hint("give a host name or an address, or omit it on a cluster node"));
        }
        let unused_token = token_variable().filter(|_| ENVIRONMENT < strength);
        Ok(Self {
            trust: strongest_trust(&options)?,
            token: token(&options.credentials_store, strength),
            unused_token: unused_token.map(|(name, _)| name),
            name: match &name {
                Some(name) => name.map(|name| Some(name.clone())),
                None => Setting::built_in(None),
            },
            options,
        })
    }
}

fn of_defaults(field: &str) -> Option<Origin> {
    Some(Origin::File(format!("defaults.{}", kebab(field))))
}

fn kebab(field: &str) -> String {
    field.replace('_', "-")
}

/// The environment variables with a token, or with the path of a file that contains one.
pub const TOKEN_VARIABLE: &str = "QKEY_TOKEN";
const TOKEN_FILE_VARIABLE: &str = "QKEY_TOKEN_FILE";

/// A token in the environment beats a credentials file there. Like that file, it does not belong to a
/// cluster named by a flag.
fn token(store: &Setting<Option<PathBuf>>, strength: u8) -> Setting<TokenSource> {
    let stored = store.map(|path| TokenSource::Store(path.clone()));
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

/// The variable with a token, and its value.
fn token_variable() -> Option<(&'static str, OsString)> {
    let mut variables = [TOKEN_VARIABLE, TOKEN_FILE_VARIABLE].into_iter();
    variables.find_map(|name| Some((name, env::var_os(name)?)))
}

/// # Errors
/// Of kind `usage` if two settings of the same precedence say which certificate to trust.
fn strongest_trust(options: &ClusterOptions) -> Result<Setting<Trust>> {
    let given = [
        options.ca_file.map(|path| path.clone().map(Trust::CaFile)),
        options.tls_fingerprint.map(|&hash| hash.map(Trust::Pinned)),
        options
            .insecure
            .map(|&insecure| (insecure == Some(true)).then_some(Trust::Insecure)),
    ];
    let given = given.into_iter().filter_map(|Setting { value, origin }| {
        Some(Setting {
            value: value?,
            origin,
        })
    });
    let mut given: Vec<Setting<Trust>> = given.collect();
    let strength = given.iter().map(|trust| trust.origin.strength()).max();
    given.retain(|trust| Some(trust.origin.strength()) == strength);
    match &given[..] {
        [] => Ok(Setting::built_in(Trust::System)),
        [trust] => Ok(trust.clone()),
        [one, other, ..] => {
            let (one, other) = (one.origin.name(), other.origin.name());
            let message = format!("{one} and {other} cannot be used together");
            Err(Error::new(Kind::Usage, message).hint("use only one of them"))
        }
    }
}

/// The flag or the environment variable that sets a global option.
fn typed_origin(matches: &ArgMatches, id: &str) -> Option<Origin> {
    match matches.value_source(id)? {
        ValueSource::CommandLine => Some(Origin::Flag(format!("--{}", kebab(id)))),
        ValueSource::EnvVariable => {
            Some(Origin::Environment(format!("QKEY_{}", id.to_uppercase())))
        }
        _ => None,
    }
}
