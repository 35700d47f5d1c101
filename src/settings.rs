//! Settings by level: the user's, and a cluster's. A *layer* has the values from one place: the command
//! line with the environment, or a table of the configuration file. Layers merge into settings, which
//! know where each value comes from.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, builder::TypedValueParser};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{DEFAULT_PORT, rest::Fingerprint},
    output::{Color, Format},
};

/// Where a value comes from, weakest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Origin {
    /// The default of `qkey` itself.
    BuiltIn,
    /// The key in the configuration file, as in `clusters.prod.host`.
    File(String),
    /// The environment variable.
    Environment(String),
    /// The flag, as in `--host`.
    Flag(String),
}

/// The precedence of an environment variable.
pub const ENVIRONMENT: u8 = 2;

impl Origin {
    /// Its precedence: the higher one wins.
    pub fn strength(&self) -> u8 {
        match self {
            Self::BuiltIn => 0,
            Self::File(_) => 1,
            Self::Environment(_) => ENVIRONMENT,
            Self::Flag(_) => 3,
        }
    }

    /// What the user wrote, without saying where.
    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn => "the default",
            Self::File(name) | Self::Environment(name) | Self::Flag(name) => name,
        }
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::BuiltIn => "default".to_owned(),
            Origin::File(key) => format!("file, {key}"),
            Origin::Environment(name) => format!("environment, {name}"),
            Origin::Flag(name) => format!("flag, {name}"),
        }
    }
}

/// A value in force.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it comes from, such as `flag, --host`.
    #[schemars(with = "String")]
    pub origin: Origin,
}

impl<T> Setting<T> {
    /// The default of `qkey` itself.
    pub fn built_in(value: T) -> Self {
        let origin = Origin::BuiltIn;
        Self { value, origin }
    }

    /// The same origin with another value.
    pub fn map<'s, U>(&'s self, f: impl FnOnce(&'s T) -> U) -> Setting<U> {
        Setting {
            value: f(&self.value),
            origin: self.origin.clone(),
        }
    }
}

/// A layer, and the origin of each of its fields by name; `None` hides the field.
pub type Layer<'a, L> = (&'a L, &'a dyn Fn(&str) -> Option<Origin>);

/// Declares a layer, in which every field may be missing, with the settings that such layers merge
/// into. A field with a default always has a value.
macro_rules! level {
    (
        $(#[$layer_attribute:meta])* $layer:ident;
        $(#[$attribute:meta])* $settings:ident;
        $($(#[$field_attribute:meta])* $field:ident: $type:ty $(= $default:expr)?,)*
    ) => {
        #[derive(Args, Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table")]
        $(#[$layer_attribute])*
        pub struct $layer {
            $($(#[$field_attribute])* pub $field: Option<$type>,)*
        }

        $(#[$attribute])*
        #[derive(Clone, Debug)]
        pub struct $settings {
            $(
                #[doc = concat!("See [`", stringify!($layer), "::", stringify!($field), "`].")]
                pub $field: level!(@type $type $(, $default)?),
            )*
        }

        impl $settings {
            /// Merges `layers`, of which the first that has a value wins.
            pub fn merge(layers: &[Layer<'_, $layer>]) -> Self {
                Self {
                    $($field: level!(@value
                        first(layers, stringify!($field), |layer| layer.$field.clone())
                        $(, $default)?
                    ),)*
                }
            }
        }
    };
    (@type $type:ty) => { Setting<Option<$type>> };
    (@type $type:ty, $default:expr) => { Setting<$type> };
    (@value $found:expr) => {
        match $found {
            Some(Setting { value, origin }) => Setting { value: Some(value), origin },
            None => Setting::built_in(None),
        }
    };
    (@value $found:expr, $default:expr) => {
        $found.unwrap_or_else(|| Setting::built_in($default))
    };
}

fn first<L, T>(
    layers: &[Layer<'_, L>],
    field: &str,
    get: impl Fn(&L) -> Option<T>,
) -> Option<Setting<T>> {
    layers.iter().find_map(|(layer, origin)| {
        let (origin, value) = (origin(field)?, get(layer)?);
        Some(Setting { value, origin })
    })
}

level! {
    /// The values from one place for a cluster.
    #[command(next_help_heading = "Cluster options")]
    ClusterLayer;
    /// The settings of one cluster.
    ClusterOptions;

    /// Host name or address [default: this cluster node]
    #[arg(long, global = true, env = "QKEY_HOST")]
    host: String,
    /// Port of the REST API [default: 8000]
    #[arg(long, global = true, env = "QKEY_PORT")]
    port: u16 = DEFAULT_PORT,
    /// Credentials file, as for `qq --credentials-store`
    #[arg(long, global = true, env = "QKEY_CREDENTIALS_STORE", value_name = "PATH")]
    credentials_store: PathBuf,
    /// Trust only these CAs or this certificate (--via rest)
    #[arg(long, global = true, env = "QKEY_CA_FILE", value_name = "PEM")]
    ca_file: PathBuf,
    /// Trust only this certificate (--via rest)
    #[arg(long, global = true, env = "QKEY_TLS_FINGERPRINT", value_name = "sha256:HEX")]
    tls_fingerprint: Fingerprint,
    /// Trust any certificate, which exposes the token (--via rest)
    #[arg(long, global = true, env = "QKEY_INSECURE", action = ArgAction::SetTrue, value_parser = yes_or_no)]
    #[serde(skip)]
    insecure: bool,
    /// Path of the qq program [default: qq, from PATH]
    #[arg(long, global = true, env = "QKEY_QQ", value_name = "PATH")]
    qq: PathBuf = PathBuf::from("qq"),
    /// How to reach the cluster: qq, rest [default: qq]
    #[arg(long, global = true, env = "QKEY_VIA", value_enum, value_name = "TRANSPORT")]
    via: Via = Via::Qq,
    /// Seconds that each call to the cluster may take; the flag is [`UserLayer::timeout`].
    #[arg(skip)]
    timeout: NonZeroU64 = DEFAULT_TIMEOUT,
}

level! {
    /// The values from one place for the user.
    #[command(next_help_heading = "Global options")]
    UserLayer;
    /// The settings of the user, for any cluster.
    UserOptions;

    /// Time limit for each call to a cluster or signer [default: 30]
    #[arg(long, global = true, env = "QKEY_TIMEOUT", value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..).try_map(NonZeroU64::try_from))]
    timeout: NonZeroU64 = DEFAULT_TIMEOUT,
    /// Output format: text, json [default: text]
    #[arg(long, global = true, env = "QKEY_OUTPUT", value_enum, value_name = "FORMAT")]
    output: Format = Format::default(),
    /// When to use color: auto, always, never [default: auto]
    #[arg(long, global = true, env = "QKEY_COLOR", value_enum, value_name = "WHEN")]
    color: Color = Color::default(),
    /// Never prompt
    #[arg(long, global = true, env = "QKEY_NO_INPUT", action = ArgAction::SetTrue, value_parser = yes_or_no)]
    no_input: bool = false,
}

/// The value of a variable that stands for a flag; an empty one counts as not set.
///
/// # Errors
/// For any other word: what is meant as "no" must not count as "yes".
pub fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "" | "0" | "false" | "no" | "off" => Ok(false),
        "1" | "true" | "yes" | "on" => Ok(true),
        _ => Err("expected true or false"),
    }
}

/// How the cluster is reached.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Run the `qq` program
    Qq,
    /// Call the REST API over HTTPS
    Rest,
}

/// In seconds.
const DEFAULT_TIMEOUT: NonZeroU64 = NonZeroU64::new(30).expect("30 is not zero");

/// In seconds, about a century: the clock cannot represent much later deadlines.
const LONGEST_TIMEOUT: u64 = u32::MAX as u64;

impl Setting<NonZeroU64> {
    /// A number of seconds as a duration.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.value.get().min(LONGEST_TIMEOUT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_layer_with_a_visible_value_wins() {
        let typed = ClusterLayer {
            host: Some("typed".to_owned()),
            port: Some(1),
            ..ClusterLayer::default()
        };
        let file = ClusterLayer {
            host: Some("file".to_owned()),
            port: Some(2),
            qq: Some(PathBuf::from("/opt/qq")),
            ..ClusterLayer::default()
        };
        let merged = ClusterOptions::merge(&[
            (&typed, &|field| {
                (field != "port").then(|| Origin::Flag(format!("--{field}")))
            }),
            (&file, &|field| Some(Origin::File(field.to_owned()))),
        ]);
        assert_eq!(merged.host.value.as_deref(), Some("typed"));
        assert_eq!(merged.host.origin, Origin::Flag("--host".to_owned()));
        assert_eq!(merged.port.value, 2);
        assert_eq!(merged.qq.origin, Origin::File("qq".to_owned()));
        assert_eq!(merged.via.origin, Origin::BuiltIn);
        assert_eq!(merged.timeout.duration(), Duration::from_secs(30));
    }
}
