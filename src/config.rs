//! The configuration file: clusters, keys and defaults by name.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    num::NonZeroU64,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::Spanned;

use crate::{
    error::{Error, Kind, Result},
    folders::config_home,
    input,
    output::{Color, Format},
    redact::redact,
    settings::{ClusterLayer, UserLayer, Via},
    signer::{
        registry::{self, redacted},
        source::{Source, expand_home},
    },
    suggest,
    text::{quote, quoted},
};

/// The file's contents. Every table and key is optional; unknown ones are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The cluster to use if none is selected.
    pub default_cluster: Option<Spanned<String>>,
    #[serde(default)]
    pub defaults: Defaults,
    #[serde(default)]
    pub clusters: BTreeMap<String, ClusterLayer>,
    #[serde(default)]
    pub keys: BTreeMap<String, KeyEntry>,
    /// The file's folder, which relative paths start from.
    #[serde(skip)]
    folder: PathBuf,
}

/// `[defaults]`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table")]
pub struct Defaults {
    pub qq: Option<PathBuf>,
    pub via: Option<Via>,
    pub timeout: Option<NonZeroU64>,
    pub output: Option<Format>,
    pub color: Option<Color>,
    pub no_input: Option<bool>,
}

impl Defaults {
    /// What it says about every cluster.
    pub fn cluster(&self) -> ClusterLayer {
        ClusterLayer {
            qq: self.qq.clone(),
            via: self.via,
            timeout: self.timeout,
            ..ClusterLayer::default()
        }
    }

    /// What it says about how `qkey` works.
    pub fn user(&self) -> UserLayer {
        UserLayer {
            timeout: self.timeout,
            output: self.output,
            color: self.color,
            no_input: self.no_input,
        }
    }
}

/// `[keys.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table")]
pub struct KeyEntry {
    /// A path or a URI; relative paths start from the configuration file's folder.
    pub source: Spanned<String>,
}

/// Bytes; nobody writes a larger file.
const LIMIT: usize = 1 << 20;

/// What `qkey config init` writes.
pub const TEMPLATE: &str = r#"# Configuration of qkey. A flag overrides an environment variable (QKEY_HOST, …), which overrides
# this file; `qkey config show` lists the settings in force and where they come from.

# The cluster to use without --cluster and --host.
# default-cluster = "prod"

# [clusters.prod]
# host = "qumulo.example.com"
# port = 8000
# credentials-store = "~/.config/qumulo/credentials/prod"   # as `qq --credentials-store`
# qq = "/opt/qumulo/qq"                                     # the qq program for this cluster
# via = "rest"                                              # use the REST API instead of qq
# ca-file = "prod-ca.pem"                                   # trusted CAs, or the cluster's own certificate (rest)
# tls-fingerprint = "sha256:0000000000000000000000000000000000000000000000000000000000000000"  # or: trust only this certificate (rest)
# timeout = 30                                              # seconds for each call

# `qkey unlock` and `qkey replace` find the right one of these keys by its public key.
# Relative paths start from this file's folder.
# [keys.lock-2026]
# source = "~/keys/lock-2026.pem?passphrase-command=pass%20show%20qumulo"

# [defaults]
# qq = "qq"
# via = "qq"           # or "rest"
# timeout = 30
# output = "text"      # or "json"
# color = "auto"       # or "always", "never"
# no-input = false     # true: never prompt
"#;

/// The default path: `$XDG_CONFIG_HOME/qkey/config.toml`, or below
/// `~/.config` (XDG Base Directory Specification).
pub fn default_path() -> Option<PathBuf> {
    config_home().map(|folder| folder.join("qkey/config.toml"))
}

impl Config {
    /// Reads the file. A missing file counts as empty, unless `required`.
    ///
    /// # Errors
    /// Of kind `usage`, with the file and the line.
    pub fn load(path: &Path, required: bool) -> Result<Self> {
        let file = path.to_owned();
        let shown = path.display();
        let unreadable =
            |kind| Error::new(kind, format!("cannot read the configuration file {shown}"));
        let text = match input::read_to_end(move || File::open(file), LIMIT, None) {
            Err(error @ input::Error::Interrupted(kind)) => {
                return Err(unreadable(kind).caused_by(&error));
            }
            Err(input::Error::Unreadable(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
            Ok(bytes) => String::from_utf8(bytes.to_vec())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error())),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {
                return Ok(Self::default());
            }
            Err(error) => {
                let hint = match error.kind() {
                    io::ErrorKind::NotFound => "`qkey config init` creates one",
                    _ => "it must be a readable UTF-8 file",
                };
                return Err(unreadable(Kind::Usage).caused_by(&error).hint(hint));
            }
        };
        let mut config: Self =
            toml::from_str(&text).map_err(|error| toml_error(path, &text, &error))?;
        config.resolve_paths(path);
        config.check(|offset| place(path, &text, offset))?;
        Ok(config)
    }

    fn resolve_paths(&mut self, path: &Path) {
        self.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let of_clusters = self.clusters.values_mut();
        let of_clusters =
            of_clusters.flat_map(|it| [&mut it.credentials_store, &mut it.ca_file, &mut it.qq]);
        for path in of_clusters.chain([&mut self.defaults.qq]).flatten() {
            expand_home(path);
            // A bare name is searched on PATH.
            if path.components().count() > 1 {
                *path = self.folder.join(&path);
            }
        }
    }

    /// `place` formats an offset as file and line.
    fn check(&self, place: impl Fn(usize) -> String) -> Result<()> {
        let wrong =
            |offset, what: String| Error::new(Kind::Usage, format!("{}: {what}", place(offset)));
        if let Some(name) = &self.default_cluster
            && !self.clusters.contains_key(name.get_ref())
        {
            let name_text = name.get_ref();
            let shown = quoted(&redacted(name_text));
            let what = format!("default-cluster is {shown}, but that cluster is missing");
            return Err(wrong(name.span().start, what).hint(self.clusters_hint(name_text)));
        }
        for (name, key) in &self.keys {
            let offset = key.source.span().start;
            let hint = match name.as_str() {
                "-" => Some("`-` means stdin; choose another name"),
                name if name.is_empty() || name.contains([':', '/', '?']) => {
                    Some("a name must not be empty or contain `:`, `/` or `?`")
                }
                _ => None,
            };
            if let Some(hint) = hint {
                let what = format!("{} is not a valid key name", quoted(&redacted(name)));
                return Err(wrong(offset, what).hint(hint));
            }
            if let Err(error) = registry::parse(key.source.get_ref()) {
                return Err(error.about(&place(offset)));
            }
        }
        Ok(())
    }

    /// The source of the key with this name.
    ///
    /// # Errors
    /// Of kind `usage` if it is not a valid key source.
    pub fn source(&self, name: &str) -> Option<Result<Source>> {
        let key = self.keys.get(name)?;
        Some(registry::parse(key.source.get_ref()).and_then(|source| source.based_on(&self.folder)))
    }

    /// The cluster with this name.
    ///
    /// # Errors
    /// Of kind `usage` if it is not configured.
    pub fn cluster(&self, name: &str) -> Result<&ClusterLayer> {
        self.clusters.get(name).ok_or_else(|| {
            let shown = quoted(&redacted(name));
            let message = format!("no cluster {shown} in the configuration file");
            Error::new(Kind::Usage, message).hint(self.clusters_hint(name))
        })
    }

    fn clusters_hint(&self, wrong: &str) -> String {
        let names = || self.clusters.keys().map(String::as_str);
        match suggest::nearest(wrong, names()) {
            Some(near) => format!("did you mean {}?", quoted(near)),
            None if self.clusters.is_empty() => {
                "it has no clusters; `qkey config init --file -` shows how to add them".to_owned()
            }
            None => {
                let names: Vec<String> = names().map(quote).collect();
                format!("it has these clusters: {}", names.join(", "))
            }
        }
    }
}

/// The file, and the line of an offset in it.
fn place(path: &Path, text: &str, offset: usize) -> String {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    format!("{}:{line}", path.display())
}

/// Adds the place in the file and the nearest valid name.
fn toml_error(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let place = match error.span() {
        Some(span) => place(path, text, span.start),
        None => path.display().to_string(),
    };
    // serde says: unknown field `hots`, expected one of `host`, `port`
    let mut quoted = error.message().split('`').skip(1).step_by(2);
    let near = quoted
        .next()
        .filter(|_| error.message().starts_with("unknown"))
        .and_then(|wrong| suggest::nearest(wrong, quoted));
    let message = without_value(error.message())
        .replace('\n', "; ")
        .replace("expected u16", "expected a number up to 65535")
        .replace("expected a nonzero u64", "expected a number of at least 1");
    Error::new(Kind::Usage, format!("{place}: {message}")).hint(match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`qkey config init --file -` lists every key".to_owned(),
    })
}

/// Removes what serde quotes, as in `invalid type: string "…", expected a table`. It may be a key
/// source with a secret, and the error names the line anyway.
fn without_value(message: &str) -> String {
    for problem in ["invalid type: string", "invalid value: string"] {
        if let Some(rest) = message.strip_prefix(problem)
            && let Some((_, expected)) = rest.rsplit_once("\", expected ")
        {
            return format!("expected {expected}, found a string");
        }
    }
    for problem in ["unknown field `", "unknown variant `"] {
        if let Some(rest) = message.strip_prefix(problem)
            && let Some((name, expected)) = rest.rsplit_once("`, expected ")
        {
            return format!("{problem}{}`, expected {expected}", redacted(name));
        }
    }
    redact(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path, true)
    }

    fn error(text: &str) -> String {
        let error = load(text).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        let (_, message) = error.message().split_once("config.toml:").unwrap();
        format!("{message} / {}", error.hint_text().unwrap_or_default())
    }

    #[test]
    fn template_is_valid_with_and_without_comments() {
        assert!(load(TEMPLATE).is_ok());
        let uncommented: String = TEMPLATE
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.starts_with('[') || line.contains(" = "))
            .map(|line| format!("{line}\n"))
            .collect();
        let config = load(&uncommented).unwrap();
        assert_eq!(config.default_cluster.unwrap().get_ref(), "prod");
        assert_eq!(config.clusters["prod"].port, Some(8000));
        assert_eq!(config.defaults.timeout, NonZeroU64::new(30));
        assert_eq!(config.keys.len(), 1);
    }

    #[test]
    fn invalid_file_is_an_error_with_line() {
        for (text, expected) in [
            (
                "[clusters.prod]\nhots = \"x\"\n",
                "2: unknown field `hots`, expected one of `host`, `port`, `credentials-store`, `ca-file`, `tls-fingerprint`, `qq`, `via`, `timeout` / did you mean `host`?",
            ),
            (
                "[clusters.prod]\nport = \"x\"\n",
                "2: expected a number up to 65535, found a string / `qkey config init --file -` lists every key",
            ),
            (
                "default-cluster = \"prud\"\n[clusters.prod]\n",
                "1: default-cluster is \"prud\", but that cluster is missing / did you mean \"prod\"?",
            ),
            (
                "[defaults]\ntimeout = 0\n",
                "2: invalid value: integer `0`, expected a number of at least 1 / `qkey config init --file -` lists every key",
            ),
            (
                "[keys.\"a:b\"]\nsource = \"x\"\n",
                "2: \"a:b\" is not a valid key name / a name must not be empty or contain `:`, `/` or `?`",
            ),
        ] {
            assert_eq!(error(text), expected);
        }
    }
}
