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

/// What the file says. Every table and key is optional; an unknown one is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The cluster to use when none is named.
    pub default_cluster: Option<Spanned<String>>,
    #[serde(default)]
    pub defaults: Defaults,
    #[serde(default)]
    pub clusters: BTreeMap<String, ClusterLayer>,
    #[serde(default)]
    pub keys: BTreeMap<String, KeyEntry>,
    /// Where the file is: what its relative paths are based on.
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
    /// A path or a URI; a relative path is based on the folder of the configuration file.
    pub source: Spanned<String>,
}

/// A larger file is none that anybody wrote.
const LIMIT: usize = 1 << 20;

/// What `qkey config init` writes.
pub const TEMPLATE: &str = r#"# Configuration of qkey. A flag beats an environment variable (QKEY_HOST, …), which beats this file;
# `qkey config show` tells what is in force, and why.

# The cluster to use when neither --cluster nor --host names one.
# default-cluster = "prod"

# [clusters.prod]
# host = "qumulo.example.com"
# port = 8000
# credentials-store = "~/.config/qumulo/credentials/prod"   # as `qq --credentials-store`
# qq = "/opt/qumulo/qq"                                     # the qq program for this cluster
# via = "rest"                                              # without qq, straight to its REST API
# ca-file = "prod-ca.pem"                                   # trusted CAs, or its own certificate (rest)
# tls-fingerprint = "sha256:0000000000000000000000000000000000000000000000000000000000000000"  # or: which it is
# timeout = 30                                              # seconds for each call

# With keys named here, `qkey unlock` and `qkey replace` find the right one by its public key.
# A relative path is based on the folder of this file.
# [keys.lock-2026]
# source = "~/keys/lock-2026.pem?passphrase-command=pass%20show%20qumulo"

# [defaults]
# qq = "qq"
# via = "qq"           # or "rest"
# timeout = 30
# output = "text"      # or "json"
# color = "auto"       # or "always", "never"
# no-input = false     # true: never ask on the terminal
"#;

/// Where the file is when nobody says otherwise: `$XDG_CONFIG_HOME/qkey/config.toml`, or below
/// `~/.config` (XDG Base Directory Specification).
pub fn default_path() -> Option<PathBuf> {
    config_home().map(|folder| folder.join("qkey/config.toml"))
}

impl Config {
    /// Reads the file. One that is not there is empty, unless `required`.
    ///
    /// # Errors
    /// Of kind `usage`, with the file and the line.
    pub fn load(path: &Path, required: bool) -> Result<Self> {
        let file = path.to_owned();
        let unreadable = |kind| {
            Error::new(
                kind,
                format!("cannot read the configuration file {}", path.display()),
            )
        };
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
                return Err(unreadable(Kind::Usage)
                    .caused_by(&error)
                    .hint(match error.kind() {
                        io::ErrorKind::NotFound => "`qkey config init` writes one",
                        _ => "it must be a readable file in UTF-8",
                    }));
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
        let of_clusters = self.clusters.values_mut().flat_map(|cluster| {
            [
                &mut cluster.credentials_store,
                &mut cluster.ca_file,
                &mut cluster.qq,
            ]
        });
        for path in of_clusters.chain([&mut self.defaults.qq]).flatten() {
            expand_home(path);
            // A bare name is looked for on PATH.
            if path.components().count() > 1 {
                *path = self.folder.join(&path);
            }
        }
    }

    /// `place` names the file and the line of an offset.
    fn check(&self, place: impl Fn(usize) -> String) -> Result<()> {
        let wrong =
            |offset, what: String| Error::new(Kind::Usage, format!("{}: {what}", place(offset)));
        if let Some(name) = &self.default_cluster
            && !self.clusters.contains_key(name.get_ref())
        {
            let name_text = name.get_ref();
            let shown = quoted(&redacted(name_text));
            let what = format!("default-cluster names {shown}, which is not there");
            return Err(wrong(name.span().start, what).hint(names_hint(
                "clusters",
                name_text,
                self.clusters.keys(),
            )));
        }
        for (name, key) in &self.keys {
            let offset = key.source.span().start;
            if name.is_empty() || name.contains([':', '/', '?']) {
                return Err(wrong(
                    offset,
                    format!("a key cannot have the name {}", quoted(&redacted(name))),
                )
                .hint("take a word without `:`, `/` and `?`, which belong to paths and URIs"));
            }
            if name == "-" {
                return Err(wrong(offset, "a key cannot have the name \"-\"".to_owned())
                    .hint("`-` is stdin; take another word"));
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
    /// Of kind `usage` when what the file says is no key source.
    pub fn source(&self, name: &str) -> Option<Result<Source>> {
        let key = self.keys.get(name)?;
        Some(registry::parse(key.source.get_ref()).and_then(|source| source.based_on(&self.folder)))
    }

    /// The cluster with this name.
    ///
    /// # Errors
    /// Of kind `usage` when there is none.
    pub fn cluster(&self, name: &str) -> Result<&ClusterLayer> {
        self.clusters.get(name).ok_or_else(|| {
            let shown = quoted(&redacted(name));
            let message = format!("the configuration file names no cluster {shown}");
            Error::new(Kind::Usage, message).hint(names_hint(
                "clusters",
                name,
                self.clusters.keys(),
            ))
        })
    }
}

fn names_hint<'a>(what: &str, wrong: &str, names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    match suggest::nearest(wrong, names.iter().copied()) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None if names.is_empty() => {
            format!("it names no {what} at all; `qkey config init` shows how")
        }
        None => {
            let names: Vec<String> = names.into_iter().map(quote).collect();
            format!("it names these {what}: {}", names.join(", "))
        }
    }
}

/// The file, and the line of an offset in it.
fn place(path: &Path, text: &str, offset: usize) -> String {
    let line = 1 + text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count();
    format!("{}:{line}", path.display())
}

/// Says where in the file, and what was probably meant.
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
        None => "`qkey config init --file -` shows every key that there is".to_owned(),
    })
}

/// serde quotes text that it did not expect, as in `invalid type: string "…", expected a table`. It may
/// be a key source with a secret, and the error names the line.
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
    fn the_template_is_valid_with_and_without_its_comments() {
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
    fn a_wrong_file_is_an_error_with_its_line() {
        for (text, expected) in [
            (
                "[clusters.prod]\nhots = \"x\"\n",
                "2: unknown field `hots`, expected one of `host`, `port`, `credentials-store`, `ca-file`, `tls-fingerprint`, `qq`, `via`, `timeout` / did you mean `host`?",
            ),
            (
                "[clusters.prod]\nport = \"x\"\n",
                "2: expected a number up to 65535, found a string / `qkey config init --file -` shows every key that there is",
            ),
            (
                "default-cluster = \"prud\"\n[clusters.prod]\n",
                "1: default-cluster names \"prud\", which is not there / did you mean \"prod\"?",
            ),
            (
                "[defaults]\ntimeout = 0\n",
                "2: invalid value: integer `0`, expected a number of at least 1 / `qkey config init --file -` shows every key that there is",
            ),
            (
                "[keys.\"a:b\"]\nsource = \"x\"\n",
                "2: a key cannot have the name \"a:b\" / take a word without `:`, `/` and `?`, which belong to paths and URIs",
            ),
        ] {
            assert_eq!(error(text), expected);
        }
    }
}
