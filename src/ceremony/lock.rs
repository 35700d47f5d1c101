//! Locking a snapshot with a stored key; no private key is needed for that.

use std::thread;

use super::{
    Ending, find_key,
    submission::{Seen, Submission, Verdict},
};
use crate::{
    cluster::{Check, Cluster, KeyRef, Snapshot, StoredKey},
    error::{Error, Kind, Result},
};

/// What is to be locked with what.
pub struct Lock {
    pub id: u64,
    pub key: KeyRef,
    pub dry_run: bool,
}

/// What the cluster holds, or would.
pub struct Locked {
    pub ending: Ending,
    pub snapshot: Snapshot,
    pub key: StoredKey,
}

impl Lock {
    /// Runs the ceremony.
    ///
    /// # Errors
    /// As the rules have it; of kind `mismatch` when another key locks the snapshot.
    pub fn run(&self, cluster: &dyn Cluster) -> Result<Locked> {
        let (snapshot, keys) = thread::scope(|scope| {
            let keys = scope.spawn(|| cluster.keys());
            let snapshot = cluster.snapshot(self.id);
            let keys = keys.join().expect("reading the key list does not panic");
            (snapshot, keys)
        });
        let (snapshot, keys) = (snapshot?, keys?);
        let key = find_key(&keys, &self.key)?;
        let title = snapshot.title();
        let locked = |ending| Locked {
            ending,
            snapshot: snapshot.clone(),
            key: key.clone(),
        };
        match &snapshot.lock_key {
            Some(lock_key) if *lock_key == key.id => return Ok(locked(Ending::AlreadySo)),
            Some(lock_key) => {
                let holder = find_key(&keys, &KeyRef::Id(lock_key.clone()))
                    .map_or_else(|_| format!("key {lock_key}"), |holder| holder.title());
                let message = format!("{title} is locked with {holder} already");
                return Err(Error::new(Kind::Mismatch, message)
                    .hint("nothing was sent; to change its key, unlock it first"));
            }
            None => {}
        }
        if key.disabled {
            let message = format!(
                "{} is disabled, and a disabled key locks nothing",
                key.title()
            );
            return Err(Error::new(Kind::Refused, message).hint(format!(
                "nothing was sent; choose another key, or enable it: `qq fs_security_modify_key --key={} --enable`",
                key.id
            )));
        }
        if self.dry_run {
            return Ok(locked(Ending::DryRun));
        }
        let submission = Submission {
            what: &format!("the locking of {title}"),
            check: cluster.check_command(Check::Snapshot(self.id)),
        };
        let answer = cluster.lock(self.id, &key.id);
        let look = || {
            let status = cluster.snapshot(self.id)?;
            Ok(match status.lock_key {
                None => Seen::NotDone,
                Some(now) if now == key.id => Seen::Done(()),
                Some(now) => Seen::SomethingElse(format!("it is locked with key {now}")),
            })
        };
        match submission.settle(answer, look)? {
            Verdict::Done(()) => Ok(locked(Ending::Done)),
            Verdict::Refused(error) => Err(error),
        }
    }
}
