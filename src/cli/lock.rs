//! `qkey lock`

use clap::Args;
use serde_json::json;

use super::{keys::key_object, session::Session, unlock::snapshot_object};
use crate::{
    ceremony::{self, Ending},
    cluster::KeyRef,
    error::Result,
};

/// Lock a snapshot with a stored key
#[derive(Args)]
pub struct Lock {
    /// Snapshot id
    #[arg(long, value_name = "N")]
    id: u64,
    /// Id or name of the stored key
    #[arg(long, value_name = "ID-OR-NAME", visible_aliases = ["key-id", "key-ref"], short_alias = 'k', allow_hyphen_values = true)]
    lock_key: String,
    /// Do everything except submit
    #[arg(long)]
    dry_run: bool,
}

impl Lock {
    pub fn run(&self, session: &Session) -> Result<()> {
        let cluster = session.connect(None, 1)?;
        let locked = ceremony::lock::Lock {
            id: self.id,
            key: KeyRef::new(&self.lock_key),
            dry_run: self.dry_run,
        }
        .run(cluster.as_ref())?;
        let (snapshot, key) = (locked.snapshot.title(), locked.key.title());
        let text = match locked.ending {
            Ending::Done => format!("Locked {snapshot} with {key}."),
            Ending::AlreadySo => {
                format!("The cluster has {snapshot} locked with {key} already: nothing to do.")
            }
            Ending::DryRun => format!("Would lock {snapshot} with {key}; nothing was sent."),
        };
        let lock_key = match locked.ending {
            Ending::DryRun => None,
            _ => Some(locked.key.id.as_str()),
        };
        session.output.result(
            &text,
            &json!({
                "action": "lock",
                "changed": locked.ending == Ending::Done,
                "dry_run": self.dry_run,
                "snapshot": snapshot_object(&locked.snapshot, lock_key),
                "key": key_object(&locked.key),
            }),
        )
    }
}
