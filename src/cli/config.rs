//! `qkey config`

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::{session::Session, settings::Globals};
use crate::{
    cluster::rest::{TokenSource, Trust},
    config::{self, TEMPLATE},
    error::{Error, Kind, Result},
    output::{Output, table},
    private_file,
    settings::Origin,
    signer::source::redacted,
    text::printable,
};

/// Show the configuration in force, or begin a configuration file
#[derive(Args)]
pub struct Config {
    #[command(subcommand)]
    pub command: Action,
}

#[derive(Subcommand)]
pub enum Action {
    /// What is in force, and where each value comes from
    Show,
    Init(Init),
}

/// Write a commented configuration file, never over an existing one
#[derive(Args)]
pub struct Init {
    /// Where to write it, instead of the usual place; `-` is stdout
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

impl Config {
    pub fn run(&self, session: &Session) -> Result<()> {
        match &self.command {
            Action::Show => show(session),
            Action::Init(_) => unreachable!("it runs without a session"),
        }
    }
}

impl Init {
    /// Works without a session, which a wrong configuration file would prevent.
    pub fn run(&self, globals: &Globals, output: &Output) -> Result<()> {
        let named = self.file.clone().or_else(|| globals.config().cloned());
        let path = named.or_else(config::default_path).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                "there is no home directory for a configuration file",
            )
            .hint("name a file with --file PATH")
        })?;
        if path == Path::new("-") {
            return output.raw(TEMPLATE.as_bytes());
        }
        write_new(&path).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    "it is never overwritten; `--file -` shows what a new one would hold"
                }
                _ => "name another place with --file PATH",
            };
            let message = format!("cannot write the configuration file {}", path.display());
            Error::new(Kind::Usage, message)
                .caused_by(&error)
                .hint(hint)
        })?;
        let printed = output.result(
            &format!(
                "Wrote {}: a commented file that sets nothing yet.",
                printable(&path.to_string_lossy())
            ),
            &json!({ "action": "config init", "file": path.to_string_lossy() }),
        );
        printed.map_err(|error| error.hint("the file is complete; nothing more is to be done"))
    }
}

fn write_new(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    private_file::write_new(path, TEMPLATE.as_bytes())
}

fn show(session: &Session) -> Result<()> {
    let (user, cluster) = (&session.settings.user, &session.settings.cluster);
    let options = &cluster.options;
    let path = |path: &PathBuf| json!(path.to_string_lossy());
    let optional_path = |value: &Option<PathBuf>| value.as_ref().map_or(Value::Null, path);
    let (token, token_origin) = match &cluster.token.value {
        TokenSource::Env(name) => (json!(format!("${name}")), &cluster.token.origin),
        TokenSource::File(file) => (path(file), &cluster.token.origin),
        // The line above tells it.
        TokenSource::Store(_) => (Value::Null, &Origin::BuiltIn),
    };
    let rows = [
        ("cluster", json!(cluster.name.value), &cluster.name.origin),
        ("host", json!(options.host.value), &options.host.origin),
        ("port", json!(options.port.value), &options.port.origin),
        (
            "credentials-store",
            optional_path(&options.credentials_store.value),
            &options.credentials_store.origin,
        ),
        ("token", token, token_origin),
        (
            "trust",
            match &cluster.trust.value {
                Trust::System => json!("the authorities of this system"),
                Trust::CaFile(file) => path(file),
                Trust::Pinned(fingerprint) => json!(fingerprint.to_string()),
                Trust::Insecure => json!("any certificate"),
            },
            &cluster.trust.origin,
        ),
        ("qq", path(&options.qq.value), &options.qq.origin),
        ("via", name_of(options.via.value), &options.via.origin),
        (
            "timeout",
            json!(options.timeout.duration().as_secs()),
            &options.timeout.origin,
        ),
        ("output", name_of(user.output.value), &user.output.origin),
        ("color", name_of(user.color.value), &user.color.origin),
        (
            "no-input",
            json!(user.no_input.value),
            &user.no_input.origin,
        ),
    ];
    let mut objects = Map::new();
    for (name, value, origin) in &rows {
        let origin = origin.to_string();
        objects.insert(
            (*name).to_owned(),
            json!({ "value": value, "origin": origin }),
        );
    }
    let keys: Map<String, Value> = session
        .config
        .keys
        .iter()
        .map(|(name, key)| {
            (
                name.clone(),
                json!({ "source": redacted(key.source.get_ref()) }),
            )
        })
        .collect();
    let file = session.config_file.as_ref();
    let file_text = match file {
        Some(file) => format!("Configuration file: {}", printable(&file.to_string_lossy())),
        None => "Configuration file: none".to_owned(),
    };
    let settings_text = table(
        ["SETTING", "VALUE", "FROM"],
        rows.iter().map(|(name, value, origin)| {
            let value = match value {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            [(*name).to_owned(), value, origin.to_string()]
        }),
    );
    let keys_text = match session.config.keys.is_empty() {
        true => "No keys are configured.".to_owned(),
        false => table(
            ["KEY", "SOURCE"],
            session
                .config
                .keys
                .iter()
                .map(|(name, key)| [name.clone(), redacted(key.source.get_ref())]),
        ),
    };
    session.output.answer(
        || format!("{file_text}\n\n{settings_text}\n\n{keys_text}"),
        &json!({
            "file": file.map(|file| file.to_string_lossy()),
            "settings": objects,
            "keys": keys,
        }),
    )
}

fn name_of(value: impl ValueEnum) -> Value {
    json!(
        value
            .to_possible_value()
            .map(|value| value.get_name().to_owned())
    )
}
