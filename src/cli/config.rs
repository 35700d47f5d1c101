//! `qkey config`

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};

use super::{session::Session, settings::Globals};
use crate::{
    cluster::rest::{TokenSource, Trust},
    config::{self, TEMPLATE},
    error::{Error, Kind, Result},
    output::{Output, table},
    private_file,
    report::key as report,
    settings::Setting,
    signer::registry::redacted,
    text::printable,
};

/// Show the settings in force, or create a configuration file
#[derive(Args)]
pub struct Config {
    #[command(subcommand)]
    pub command: Option<Action>,
}

#[derive(Subcommand)]
pub enum Action {
    /// Show the settings in force and where they come from (default)
    Show,
    Init(Init),
}

/// Create a commented configuration file; never overwrites one
#[derive(Args)]
pub struct Init {
    /// Path to create instead of the default; `-` is stdout
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

impl Config {
    pub fn run(&self, session: &Session) -> Result<()> {
        match &self.command {
            None | Some(Action::Show) => show(session),
            Some(Action::Init(_)) => unreachable!("it runs without a session"),
        }
    }
}

impl Init {
    /// Runs without a session, which needs a valid configuration file.
    pub fn run(&self, globals: &Globals, output: &Output) -> Result<()> {
        let named = self.file.clone().or_else(|| globals.config().cloned());
        let path = named.or_else(config::default_path).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                "cannot find a home directory for the configuration file",
            )
            .hint("choose a path with --file PATH")
        })?;
        if path == Path::new("-") {
            return output.raw(TEMPLATE.as_bytes());
        }
        write_new(&path).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    "qkey never overwrites it; `qkey config init --file -` prints the template"
                }
                _ => "choose another path with --file PATH",
            };
            let message = format!("cannot write the configuration file {}", path.display());
            Error::new(Kind::Usage, message)
                .caused_by(&error)
                .hint(hint)
        })?;
        let printed = output.result(
            &format!(
                "Wrote {}, a template with everything commented out; edit it next.",
                printable(&path.to_string_lossy())
            ),
            &report::ConfigFile {
                action: "config init",
                file: path.to_string_lossy(),
            },
        );
        printed.map_err(|error| error.hint("the file is complete; there is nothing left to do"))
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
    let keys = &session.config.keys;
    let object = report::Config {
        file: session.config_file.as_deref().map(Path::to_string_lossy),
        settings: settings(session),
        keys: keys
            .iter()
            .map(|(name, key)| {
                let source = redacted(key.source.get_ref());
                (name.as_str(), report::ConfiguredKey { source })
            })
            .collect(),
    };
    let text = || {
        let file = match &object.file {
            Some(file) => printable(file),
            None => "none".to_owned(),
        };
        let settings = table(["SETTING", "VALUE", "FROM"], object.settings.rows());
        let keys = match object.keys.is_empty() {
            true => "No keys are configured.".to_owned(),
            false => table(
                ["KEY", "SOURCE"],
                object
                    .keys
                    .iter()
                    .map(|(name, key)| [(*name).to_owned(), key.source.clone()]),
            ),
        };
        format!("Configuration file: {file}\n\n{settings}\n\n{keys}")
    };
    session.output.answer(text, &object)
}

fn settings(session: &Session) -> report::Settings<'_> {
    let (user, cluster) = (&session.settings.user, &session.settings.cluster);
    let options = &cluster.options;
    report::Settings {
        cluster: reported(&cluster.name, |name| name.as_deref()),
        host: reported(&options.host, |host| host.as_deref()),
        port: reported(&options.port, |port| *port),
        credentials_store: reported(&options.credentials_store, |path| {
            path.as_deref().map(Path::to_string_lossy)
        }),
        token: match &cluster.token.value {
            // The row above shows it.
            TokenSource::Store(_) => reported(&Setting::built_in(()), |()| None),
            TokenSource::Env(name) => reported(&cluster.token, |_| Some(format!("${name}").into())),
            TokenSource::File(path) => reported(&cluster.token, |_| Some(path.to_string_lossy())),
        },
        trust: reported(&cluster.trust, |trust| match trust {
            Trust::System => "system CAs".to_owned(),
            Trust::CaFile(path) => path.to_string_lossy().into_owned(),
            Trust::Pinned(fingerprint) => fingerprint.to_string(),
            Trust::Insecure => "any certificate".to_owned(),
        }),
        qq: reported(&options.qq, |path| path.to_string_lossy()),
        via: reported(&options.via, name_of),
        timeout: report::Setting {
            value: options.timeout.duration().as_secs(),
            origin: options.timeout.origin.to_string(),
        },
        output: reported(&user.output, name_of),
        color: reported(&user.color, name_of),
        no_input: reported(&user.no_input, |no_input| *no_input),
    }
}

fn reported<'s, T, R>(
    setting: &'s Setting<T>,
    value: impl FnOnce(&'s T) -> R,
) -> report::Setting<R> {
    report::Setting {
        value: value(&setting.value),
        origin: setting.origin.to_string(),
    }
}

/// The name that the command line and the configuration file have for a value.
fn name_of(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}
