//! `qkey config`

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};

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
            let message = "cannot find a home directory for the configuration file";
            Error::new(Kind::Usage, message).hint("choose a path with --file PATH")
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
        let object = report::ConfigFile {
            action: "config init",
            file: path.to_string_lossy(),
        };
        let text = format!(
            "Wrote {}, a template with everything commented out; edit it next.",
            printable(&object.file)
        );
        let printed = output.result(&text, &object);
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
    let keys = session.config.keys.iter().map(|(name, key)| {
        let source = redacted(key.source.get_ref());
        (name.as_str(), report::ConfiguredKey { source })
    });
    let object = report::Config {
        file: session.config_file.as_deref().map(Path::to_string_lossy),
        settings: settings(session),
        keys: keys.collect(),
    };
    let text = || {
        let file = match &object.file {
            Some(file) => printable(file),
            None => "none".to_owned(),
        };
        let settings = table(["SETTING", "VALUE", "FROM"], object.settings.rows());
        let keys = if object.keys.is_empty() {
            "No keys are configured.".to_owned()
        } else {
            let rows = object.keys.iter();
            let rows = rows.map(|(name, key)| [(*name).to_owned(), key.source.clone()]);
            table(["KEY", "SOURCE"], rows)
        };
        format!("Configuration file: {file}\n\n{settings}\n\n{keys}")
    };
    session.output.answer(text, &object)
}

fn settings(session: &Session) -> report::Settings<'_> {
    let (user, cluster) = (&session.settings.user, &session.settings.cluster);
    let options = &cluster.options;
    report::Settings {
        cluster: &cluster.name,
        host: &options.host,
        port: &options.port,
        credentials_store: options
            .credentials_store
            .map(|path| path.as_deref().map(Path::to_string_lossy)),
        token: match &cluster.token.value {
            // The row above shows it.
            TokenSource::Store(_) => Setting::built_in(None),
            TokenSource::Env(name) => cluster.token.map(|_| Some(format!("${name}").into())),
            TokenSource::File(path) => cluster.token.map(|_| Some(path.to_string_lossy())),
        },
        trust: cluster.trust.map(|trust| match trust {
            Trust::System => "system CAs".to_owned(),
            Trust::CaFile(path) => path.to_string_lossy().into_owned(),
            Trust::Pinned(fingerprint) => fingerprint.to_string(),
            Trust::Insecure => "any certificate".to_owned(),
        }),
        qq: options.qq.map(|path| path.to_string_lossy()),
        via: &options.via,
        timeout: options
            .timeout
            .map(|_| options.timeout.duration().as_secs()),
        output: &user.output,
        color: &user.color,
        no_input: &user.no_input,
    }
}
