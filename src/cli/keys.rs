//! `qkey keys`

use std::thread;

use clap::{Args, Subcommand};

use super::session::{Session, as_key_sources};
use crate::{
    ceremony::{Keyring, find_key},
    cluster::{Cluster, KeyRef, StoredKey, Usage},
    error::{Error, Kind, Result},
    output::{Entries, table},
    parallel,
    public_key::PublicKey,
    report::key::{self as report, ListedKey},
    signer::KeySource,
    text::{cell, value},
};

/// Show the cluster's key store
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Keys {
    #[command(subcommand)]
    command: Option<Action>,
    /// Show whole fingerprints
    #[arg(long)]
    wide: bool,
}

#[derive(Subcommand)]
enum Action {
    /// List stored keys and the configured keys that match (default)
    List {
        /// Show whole fingerprints
        #[arg(long)]
        wide: bool,
    },
    /// Show one stored key
    #[command(override_usage = "qkey keys show [OPTIONS] <ID-OR-NAME>")]
    Show {
        #[command(flatten)]
        key: KeyArg,
    },
    /// Show what a key protects (default: all keys)
    Usage {
        #[command(flatten)]
        key: KeyArg,
    },
}

#[derive(Args)]
struct KeyArg {
    /// Id, name or fingerprint of the stored key
    #[arg(value_name = "ID-OR-NAME")]
    key: Option<String>,
    /// Same as ID-OR-NAME
    #[arg(
        short = 'k',
        long,
        visible_alias = "key-ref",
        value_name = "ID-OR-NAME",
        allow_hyphen_values = true,
        conflicts_with = "key"
    )]
    key_id: Option<String>,
}

impl KeyArg {
    fn reference(&self) -> Option<KeyRef> {
        let key = self.key.as_deref().or(self.key_id.as_deref());
        key.map(KeyRef::new)
    }
}

impl Keys {
    pub fn run(&self, session: &Session) -> Result<()> {
        match &self.command {
            None => list(session, self.wide),
            Some(Action::List { wide }) => list(session, *wide),
            Some(Action::Show { key }) => {
                let key = key.reference().ok_or_else(|| {
                    Error::new(Kind::Usage, "specify a key id or name")
                        .hint("`qkey keys list` shows them")
                })?;
                show(session, &key)
            }
            Some(Action::Usage { key }) => usage(session, key.reference()),
        }
    }
}

fn list(session: &Session, wide: bool) -> Result<()> {
    let (keys, configured) = keys_and_configured(session)?;
    let objects = Entries(|| keys.iter().map(|key| with_source(key, &configured)));
    let shown = if wide {
        PublicKey::fingerprint
    } else {
        PublicKey::short_fingerprint
    };
    let text = || {
        if keys.is_empty() {
            "The key store is empty.".to_owned()
        } else {
            table(
                [
                    "ID",
                    "NAME",
                    "STATE",
                    "FINGERPRINT",
                    "CONFIGURED KEY",
                    "COMMENT",
                ],
                keys.iter().map(|key| {
                    [
                        key.id.clone(),
                        value(&key.name),
                        state(key).to_owned(),
                        fingerprint(key, shown),
                        configured.matching(key).unwrap_or("-").to_owned(),
                        value(&key.comment),
                    ]
                }),
            )
        }
    };
    let object = report::Keys { keys: objects };
    session.output.answer(text, &object)
}

fn show(session: &Session, key: &KeyRef) -> Result<()> {
    let (keys, configured) = keys_and_configured(session)?;
    let key = find_key(&keys, key)?;
    let text = [
        ("id", key.id.clone()),
        ("name", value(&key.name)),
        ("comment", value(&key.comment)),
        ("state", state(&key).to_owned()),
        ("fingerprint", fingerprint(&key, PublicKey::fingerprint)),
        ("public key", cell(&key.public_key)),
        (
            "configured key",
            configured.matching(&key).unwrap_or("-").to_owned(),
        ),
    ]
    .map(|(label, value)| format!("{label:<15} {value}").trim_end().to_owned())
    .join("\n");
    let object = report::Key {
        key: with_source(&key, &configured),
    };
    session.output.answer(|| text, &object)
}

fn usage(session: &Session, key: Option<KeyRef>) -> Result<()> {
    let cluster = session.connect(None, 1)?;
    let keys = cluster.keys()?;
    let keys = match key {
        Some(key) => vec![find_key(&keys, &key)?],
        None => keys,
    };
    let used = usages(cluster.as_ref(), &keys)?;
    let text = || {
        if used.is_empty() {
            "The key store is empty.".to_owned()
        } else {
            used.iter().fold(String::new(), |mut text, (key, usages)| {
                text += &key.title();
                text += if usages.is_empty() {
                    " protects nothing.\n"
                } else {
                    " protects:\n"
                };
                for usage in usages {
                    let kind = value(&usage.kind).replace('_', " ");
                    text += &format!("  {kind} {}\n", value(&usage.id));
                }
                text
            })
        }
    };
    let objects = Entries(|| {
        used.iter().map(|(key, usages)| report::KeyUsages {
            key: (*key).into(),
            usages: report::UsageList(usages),
        })
    });
    let object = report::Keys { keys: objects };
    session.output.answer(text, &object)
}

/// How many requests run at a time: their replies are in memory together.
const AT_A_TIME: usize = 8;

/// How many usages all keys together may have: a cluster has fewer snapshots.
const USAGES: usize = 100_000;

/// Requests what each key protects, a few keys at a time.
fn usages<'k>(
    cluster: &dyn Cluster,
    keys: &'k [StoredKey],
) -> Result<Vec<(&'k StoredKey, Vec<Usage>)>> {
    let mut used = Vec::with_capacity(keys.len());
    let mut total = 0;
    let at_a_time = thread::available_parallelism().map_or(1, usize::from);
    for some in keys.chunks(at_a_time.min(AT_A_TIME)) {
        let replies = parallel::each(some, |key| cluster.key_usage(&key.id));
        for (key, usages) in some.iter().zip(replies) {
            let usages = usages?;
            total += usages.len();
            if total > USAGES {
                let message = format!("the stored keys protect more than {USAGES} objects");
                return Err(Error::new(Kind::Unreachable, message).hint(
                    "no cluster has that many; `qkey keys usage ID-OR-NAME` shows one key at a time",
                ));
            }
            used.push((key, usages));
        }
    }
    Ok(used)
}

/// The configured keys that opened without a prompt.
struct Configured(Vec<(String, PublicKey)>);

impl Configured {
    /// The name of the configured key that matches the stored key.
    fn matching(&self, stored: &StoredKey) -> Option<&str> {
        let found = self.0.iter().find(|(_, key)| stored.holds(key));
        found.map(|(name, _)| name.as_str())
    }
}

fn keys_and_configured(session: &Session) -> Result<(Vec<StoredKey>, Configured)> {
    let sources = session.configured_keys()?;
    let cluster = session.connect(None, 1)?;
    let keyring = Keyring::new(as_key_sources(&sources));
    let (keys, opened) = parallel::both(|| cluster.keys(), || keyring.ready());
    let keys = keys?;
    let mut configured = Vec::new();
    for (source, key) in sources.iter().zip(opened) {
        match key {
            Ok(key) => {
                let name = source.name.clone().unwrap_or_default();
                configured.push((name, key.signer.public_key().clone()));
            }
            Err(error) if error.kind().is_interruption() => return Err(error),
            Err(error) => log::warn!("skipped {}: {}", source.title(), error.chain()),
        }
    }
    Ok((keys, Configured(configured)))
}

fn state(key: &StoredKey) -> &'static str {
    if key.disabled { "disabled" } else { "enabled" }
}

fn fingerprint(key: &StoredKey, of: fn(&PublicKey) -> String) -> String {
    let key = key.public_key();
    key.map_or_else(|_| "(not a P-256 key)".to_owned(), |key| of(&key))
}

fn with_source<'a>(key: &'a StoredKey, configured: &'a Configured) -> ListedKey<'a> {
    ListedKey {
        key: key.into(),
        configured_key: configured.matching(key),
    }
}
