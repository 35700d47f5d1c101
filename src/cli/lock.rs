//! `qkey lock`

use clap::Args;

use super::session::Session;
use crate::{
    ceremony::{
        self, Ending,
        lock::{NoProof, State},
    },
    cluster::KeyRef,
    error::Result,
    report::ceremony as report,
    text::capitalized,
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
        let change = ceremony::lock::Lock {
            id: self.id,
            key: KeyRef::new(&self.lock_key),
        };
        let locked = session.carry_out(&change, &NoProof, 1, self.dry_run)?;
        let State { snapshot, key, .. } = &locked.before;
        let (snapshot_title, key_title) = (snapshot.title(), key.title());
        let text = match locked.ending {
            Ending::Done => format!("Locked {snapshot_title} with {key_title}."),
            Ending::AlreadySo => {
                let title = capitalized(&snapshot_title);
                format!("{title} is already locked with {key_title}.")
            }
            Ending::DryRun => {
                format!("Dry run: {key_title} can lock {snapshot_title}; nothing sent.")
            }
        };
        let lock_key = match locked.ending {
            Ending::DryRun => None,
            _ => Some(key.id.as_str()),
        };
        let object = report::Lock {
            changed: locked.ending == Ending::Done,
            dry_run: self.dry_run,
            snapshot: report::SnapshotStatus::new(snapshot, lock_key),
            key: key.as_ref().into(),
        };
        session.output.result(&text, &object)
    }
}
