//! Unlocking snapshots with the private keys that lock them.

use std::{
    collections::BTreeMap,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{
    Ending, Keyring, not_explained, sign, stale,
    submission::{Seen, Submission, Verdict},
};
use crate::{
    cluster::{self, Check, Cluster, Snapshot, StoredKey},
    error::{Error, Kind, Result},
    signer::KeySource,
};

/// What is to be unlocked.
pub struct Unlock<'a> {
    /// Without repetitions.
    pub ids: Vec<u64>,
    /// Candidates for the keys that lock them.
    pub keys: Vec<&'a dyn KeySource>,
    /// How often to submit at the most, when a challenge went stale meanwhile.
    pub attempts: u32,
    /// How many snapshots to work on at a time.
    pub jobs: usize,
    pub dry_run: bool,
}

/// What the cluster holds, or would.
pub struct Unlocked {
    pub ending: Ending,
    /// As it was before.
    pub snapshot: Snapshot,
    /// The stored key that locked it; none if it was not locked.
    pub key: Option<StoredKey>,
}

/// For how many snapshots in a row the cluster may be out of reach, or not let the user in, before
/// no further one is begun.
const IN_VAIN: usize = 5;

/// What all the snapshots share; each is found out once, by whoever needs it first.
struct Shared<'a, K, O> {
    cluster: &'a dyn Cluster,
    stored_keys: LazyLock<Result<Vec<StoredKey>>, K>,
    keyring: &'a Keyring<'a>,
    opened: LazyLock<(), O>,
    /// The index of the next snapshot to begin with.
    next: AtomicUsize,
    /// How many in a row could not even be looked at.
    in_vain: AtomicUsize,
}

impl<K, O> Shared<'_, K, O> {
    /// As [`look_at`], and counts how often there was no cluster to be had.
    fn first_look_at(
        &self,
        id: u64,
    ) -> cluster::Result<(Snapshot, Option<cluster::Result<String>>)> {
        let looked = look_at(self.cluster, id);
        match looked.as_ref().map_err(|failure| failure.error.kind()) {
            Err(Kind::Auth | Kind::Unreachable) => {
                self.in_vain.fetch_add(1, Ordering::Relaxed);
            }
            _ => self.in_vain.store(0, Ordering::Relaxed),
        }
        looked
    }
}

impl Unlock<'_> {
    /// Runs the ceremony for each snapshot; `report` is told each result, in the order of the ids,
    /// as soon as it and those before it are there. No further one is begun after a signal, or when
    /// it has shown that there is no cluster to be had.
    pub fn run(&self, cluster: &dyn Cluster, mut report: impl FnMut(u64, Result<Unlocked>)) {
        let keyring = Keyring::new(self.keys.clone());
        let shared = Shared {
            cluster,
            stored_keys: LazyLock::new(|| cluster.keys().map_err(Error::from)),
            keyring: &keyring,
            opened: LazyLock::new(|| keyring.open()),
            next: AtomicUsize::new(0),
            in_vain: AtomicUsize::new(0),
        };
        let (sender, results) = mpsc::channel();
        thread::scope(|scope| {
            // Without a thread to spare, whoever needs these first finds them out.
            let early_keys = || LazyLock::force(&shared.stored_keys).is_ok();
            let _ = thread::Builder::new().spawn_scoped(scope, early_keys);
            let early_opening = || LazyLock::force(&shared.opened);
            let _ = thread::Builder::new().spawn_scoped(scope, early_opening);
            let mut workers = 0;
            for _ in 0..self.jobs.clamp(1, self.ids.len().max(1)) {
                let (shared, sender) = (&shared, sender.clone());
                let work = move || self.work(shared, &sender);
                match thread::Builder::new().spawn_scoped(scope, work) {
                    Ok(_) => workers += 1,
                    Err(error) => {
                        log::warn!("there are {workers} jobs at a time and not more: {error}");
                        break;
                    }
                }
            }
            if workers == 0 {
                self.work(&shared, &sender);
            }
            drop(sender);
            let mut early = BTreeMap::new();
            for (reported, &id) in self.ids.iter().enumerate() {
                while !early.contains_key(&reported)
                    && let Ok((index, result)) = results.recv()
                {
                    early.insert(index, result);
                }
                if let Some(result) = early.remove(&reported) {
                    report(id, result);
                }
            }
        });
    }

    /// Takes one snapshot after the other, as long as there are some.
    fn work<K, O>(
        &self,
        shared: &Shared<'_, K, O>,
        results: &mpsc::Sender<(usize, Result<Unlocked>)>,
    ) where
        K: FnOnce() -> Result<Vec<StoredKey>>,
        O: FnOnce(),
    {
        while let index = shared.next.fetch_add(1, Ordering::Relaxed)
            && let Some(&id) = self.ids.get(index)
        {
            let result = self.unlock(shared, id);
            let stopped = matches!(&result, Err(error) if error.kind().is_interruption());
            // Those that were under way together may have failed together.
            let in_vain = shared.in_vain.load(Ordering::Relaxed);
            if stopped || in_vain >= IN_VAIN.max(self.jobs + 1) {
                shared.next.store(self.ids.len(), Ordering::Relaxed);
            }
            if results.send((index, result)).is_err() {
                break;
            }
        }
    }

    fn unlock<K, O>(&self, shared: &Shared<'_, K, O>, id: u64) -> Result<Unlocked>
    where
        K: FnOnce() -> Result<Vec<StoredKey>>,
        O: FnOnce(),
    {
        let cluster = shared.cluster;
        let (before, challenge) = shared.first_look_at(id)?;
        let unlocked = |ending, key| Unlocked {
            ending,
            snapshot: before.clone(),
            key,
        };
        let (Some(mut lock_key), Some(challenge)) = (before.lock_key.clone(), challenge) else {
            return Ok(unlocked(Ending::AlreadySo, None));
        };
        let stored_keys = LazyLock::force(&shared.stored_keys).as_ref();
        let stored_keys = stored_keys.map_err(Clone::clone)?;
        LazyLock::force(&shared.opened);
        let mut challenge = challenge?;
        let mut attempts_left = self.attempts;
        loop {
            let stored = lock_key_of(&before, &lock_key, stored_keys)?;
            let key = shared.keyring.find(&stored)?;
            let signature = sign(&key.title, key.signer.as_ref(), &challenge)?;
            if self.dry_run {
                return Ok(unlocked(Ending::DryRun, Some(stored)));
            }
            attempts_left -= 1;
            let submission = Submission {
                what: &format!("the unlocking of {}", before.title()),
                check: cluster.check_command(Check::Snapshot(id)),
            };
            let submit = || cluster.unlock(id, &signature);
            let look = || {
                let status = cluster.snapshot(id)?;
                Ok(match status.lock_key {
                    None => Seen::Done(()),
                    Some(now) if now == lock_key => Seen::NotDone,
                    Some(now) => Seen::SomethingElse(format!("it is locked with key {now}")),
                })
            };
            let refusal = match submission.submit(submit, look)? {
                Verdict::Done(()) => return Ok(unlocked(Ending::Done, Some(stored))),
                Verdict::Refused(error) if error.kind() == Kind::Auth => return Err(error),
                Verdict::Refused(error) => error,
            };
            let (now, fresh) = match look_at(cluster, id) {
                Ok((now, fresh)) => (now.lock_key, fresh),
                Err(failure) => return Err(not_explained(refusal, &failure)),
            };
            let (Some(now), Some(fresh)) = (now, fresh) else {
                return Ok(unlocked(Ending::AlreadySo, Some(stored)));
            };
            match fresh {
                Ok(fresh) if fresh != challenge && attempts_left == 0 => {
                    return Err(stale(&refusal, self.attempts));
                }
                Ok(fresh) if fresh != challenge => {
                    log::info!("the challenge went stale; signing the new one");
                    (lock_key, challenge) = (now, fresh);
                }
                Ok(_) => return Err(refusal),
                Err(failure) => return Err(not_explained(refusal, &failure)),
            }
        }
    }
}

fn lock_key_of(snapshot: &Snapshot, id: &str, keys: &[StoredKey]) -> Result<StoredKey> {
    let found = keys.iter().find(|key| key.id == id);
    found.cloned().ok_or_else(|| {
        let message = format!(
            "key {id} locks {}, and the key store does not show it",
            snapshot.title()
        );
        Error::new(Kind::Refused, message).hint(
            "it may have been stored just now: run this again; or log in as a user who sees every key",
        )
    })
}

/// A snapshot's status and, where it is locked, its challenge.
fn look_at(
    cluster: &dyn Cluster,
    id: u64,
) -> cluster::Result<(Snapshot, Option<cluster::Result<String>>)> {
    if !cluster.gains_from_concurrency() {
        let status = cluster.snapshot(id)?;
        let locked = status.lock_key.is_some();
        let challenge = locked.then(|| cluster.unlock_challenge(id));
        return Ok((status, challenge));
    }
    let (status, challenge) = thread::scope(|scope| {
        let fetch = || cluster.unlock_challenge(id);
        let fetching = thread::Builder::new().spawn_scoped(scope, fetch);
        let status = cluster.snapshot(id);
        let challenge = match fetching {
            Ok(fetching) => fetching
                .join()
                .expect("fetching a challenge does not panic"),
            // There is no thread to spare.
            Err(_) => fetch(),
        };
        (status, challenge)
    });
    let status = status?;
    let challenge = status.lock_key.is_some().then_some(challenge);
    Ok((status, challenge))
}

#[cfg(test)]
mod tests;
