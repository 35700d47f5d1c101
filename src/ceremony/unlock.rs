//! Unlocking snapshots with the private keys that lock them.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{
    Ending, Keyring,
    challenge::{Challenges, Purpose, say_that_it_was_signed},
    not_explained, sign, stale,
    submission::{POLL_PAUSES, Reply, Seen, Submission, Verdict},
};
use crate::{
    cluster::{self, Check, Cluster, Snapshot, StoredKey},
    error::{Error, Kind, Result},
    interrupt::{self, LastWords, Settling, Unsettled},
    parallel::{both, each},
    signer::KeySource,
    text::size,
};

/// What is to be unlocked.
pub struct Unlock<'a> {
    /// Without repetitions.
    pub ids: Vec<u64>,
    /// Candidates for the keys that lock them.
    pub keys: Vec<&'a dyn KeySource>,
    /// The maximum number of submissions for each snapshot if its challenge goes stale.
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
    pub key: Option<Arc<StoredKey>>,
    /// The text that was signed, after a dry run.
    pub challenge: Option<String>,
}

/// The results, in the order of the ids. After a signal, or once the cluster has shown that it is not
/// to be had, the last ones are missing: those were not tried.
pub type Results = Vec<(u64, Result<Unlocked>)>;

/// For how many snapshots in a row the cluster may be out of reach, or not let the user in, before
/// no further one is begun.
const IN_VAIN: usize = 5;

/// How many bytes the results may take, which wait for the last reading: four times what those of
/// all snapshots of a cluster do.
const HELD_LIMIT: usize = 64 << 20;

/// What all the snapshots share; each is found out once, by the job that needs it first.
struct Shared<'a> {
    cluster: &'a dyn Cluster,
    stored_keys: OnceLock<Result<Vec<Arc<StoredKey>>>>,
    keyring: &'a Keyring<'a>,
    opened: OnceLock<()>,
    challenges: Challenges,
    ledger: Arc<Ledger>,
    /// The index of the next snapshot to begin with.
    next: AtomicUsize,
    /// How many in a row could not even be looked at.
    in_vain: AtomicUsize,
    /// How many bytes the results take.
    held: AtomicUsize,
}

/// What one job knows of its snapshot.
enum Outcome {
    Finished(Result<Unlocked>),
    /// The cluster says that it was unlocked, and its state has yet to confirm that.
    Accepted(Accepted),
}

struct Accepted {
    snapshot: Snapshot,
    key: Arc<StoredKey>,
    _unsettled: Unsettled,
}

impl Shared<'_> {
    fn stored_keys(&self) -> &Result<Vec<Arc<StoredKey>>> {
        self.stored_keys.get_or_init(|| {
            let keys = self.cluster.keys()?;
            Ok(keys.into_iter().map(Arc::new).collect())
        })
    }

    fn open_keys(&self) {
        self.opened.get_or_init(|| self.keyring.open());
    }

    /// As [`look_at`], and counts how often there was no cluster to be had.
    fn first_look_at(
        &self,
        id: u64,
    ) -> cluster::Result<(Snapshot, Option<cluster::Result<String>>)> {
        let looked = look_at(self.cluster, id).and_then(|(snapshot, challenge)| {
            let size = snapshot.size();
            match self.held.fetch_add(size, Ordering::Relaxed) + size {
                ..=HELD_LIMIT => Ok((snapshot, challenge)),
                _ => Err(too_much(id)),
            }
        });
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
    /// Runs the ceremony for each snapshot; `progress` is told how many are through, without what the
    /// last reading confirms. No further one is begun after a signal, or once the cluster has shown
    /// that it is not to be had.
    pub fn run(&self, cluster: &dyn Cluster, mut progress: impl FnMut(usize)) -> Results {
        let keyring = Keyring::new(self.keys.clone());
        let shared = Shared {
            cluster,
            stored_keys: OnceLock::new(),
            keyring: &keyring,
            opened: OnceLock::new(),
            challenges: Challenges::default(),
            ledger: Ledger::new(&self.ids, cluster),
            next: AtomicUsize::new(0),
            in_vain: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
        };
        let ledger = shared.ledger.clone();
        let words = LastWords::lay_down_with(move || ledger.words());
        let outcomes = self.work_on_all(&shared, &mut progress);
        let results = self.confirmed(&shared, outcomes);
        words.leave();
        results
    }

    /// By the indices of the ids.
    fn work_on_all(
        &self,
        shared: &Shared<'_>,
        progress: &mut impl FnMut(usize),
    ) -> BTreeMap<usize, Outcome> {
        let (sender, results) = mpsc::channel();
        let mut outcomes = BTreeMap::new();
        thread::scope(|scope| {
            // Without a thread to spare, the job that needs these first finds them out.
            let early_keys = || shared.stored_keys().is_ok();
            let _ = thread::Builder::new().spawn_scoped(scope, early_keys);
            let early_opening = || shared.open_keys();
            let _ = thread::Builder::new().spawn_scoped(scope, early_opening);
            let mut workers = 0;
            for _ in 0..self.jobs.clamp(1, self.ids.len().max(1)) {
                let sender = sender.clone();
                let work = move || self.work(shared, &sender);
                match thread::Builder::new().spawn_scoped(scope, work) {
                    Ok(_) => workers += 1,
                    Err(error) => {
                        if workers > 0 {
                            log::warn!("using {workers} threads instead of {}: {error}", self.jobs);
                        }
                        break;
                    }
                }
            }
            if workers == 0 {
                self.work(shared, &sender);
            }
            drop(sender);
            for (index, outcome) in results {
                outcomes.insert(index, outcome);
                progress(outcomes.len());
            }
        });
        outcomes
    }

    /// Takes one snapshot after the other, as long as there are some.
    fn work(&self, shared: &Shared<'_>, results: &mpsc::Sender<(usize, Outcome)>) {
        while let index = shared.next.fetch_add(1, Ordering::Relaxed)
            && let Some(&id) = self.ids.get(index)
        {
            let outcome = self.unlock(shared, index, id);
            let outcome = outcome.unwrap_or_else(|error| Outcome::Finished(Err(error)));
            shared.ledger.note_outcome(index, &outcome);
            let stopped = matches!(&outcome, Outcome::Finished(Err(error)) if error.kind().is_interruption())
                || interrupt::received().is_some();
            // Those that were under way together may have failed together.
            let in_vain = shared.in_vain.load(Ordering::Relaxed);
            if stopped || in_vain >= IN_VAIN.max(self.jobs + 1) {
                shared.next.store(self.ids.len(), Ordering::Relaxed);
            }
            if results.send((index, outcome)).is_err() {
                break;
            }
        }
    }

    fn unlock(&self, shared: &Shared<'_>, index: usize, id: u64) -> Result<Outcome> {
        let cluster = shared.cluster;
        let (before, challenge) = shared.first_look_at(id)?;
        let finished = |ending, key, challenge| {
            Ok(Outcome::Finished(Ok(Unlocked {
                ending,
                snapshot: before.clone(),
                key,
                challenge,
            })))
        };
        let (Some(mut lock_key), Some(challenge)) = (before.lock_key.clone(), challenge) else {
            return finished(Ending::AlreadySo, None, None);
        };
        let stored_keys = shared.stored_keys().as_ref().map_err(Clone::clone)?;
        shared.open_keys();
        let mut challenge = challenge?;
        let mut attempts_left = self.attempts;
        loop {
            let stored = lock_key_of(&before, &lock_key, stored_keys)?;
            let purpose = Purpose::Unlock(id);
            let all_keys = stored_keys.iter().map(AsRef::as_ref);
            shared.challenges.check(&challenge, purpose, all_keys)?;
            let key = shared.keyring.find(&stored)?;
            let signature = sign(&key.title, key.signer.as_ref(), &challenge)?;
            if self.dry_run {
                return finished(Ending::DryRun, Some(stored), Some(challenge));
            }
            attempts_left -= 1;
            let submission = submission(cluster, &before);
            let submit = || cluster.unlock(id, &signature);
            let unsettled = Unsettled::begin(&submission.unknown(Kind::Unknown));
            shared.ledger.note(index, Stage::Sent);
            let reply = submission.send(submit, || look(cluster, id, &lock_key))?;
            let refusal = match reply {
                Reply::Accepted => {
                    return Ok(Outcome::Accepted(Accepted {
                        snapshot: Snapshot {
                            lock_key: Some(lock_key),
                            ..before
                        },
                        key: stored,
                        _unsettled: unsettled,
                    }));
                }
                Reply::Settled(Verdict::Done(())) => {
                    return finished(Ending::Done, Some(stored), None);
                }
                Reply::Settled(Verdict::Refused(error)) => say_that_it_was_signed(error, &key),
            };
            drop(unsettled);
            shared.ledger.note(index, Stage::NotSent);
            if refusal.kind() == Kind::Auth {
                return Err(refusal);
            }
            let (now, fresh) = match look_at(cluster, id) {
                Ok((now, fresh)) => (now.lock_key, fresh),
                Err(failure) => return Err(not_explained(refusal, &failure)),
            };
            let (Some(now), Some(fresh)) = (now, fresh) else {
                return finished(Ending::AlreadySo, Some(stored), None);
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

    /// Reads whether what was accepted is so: one status for one snapshot, one listing for several.
    fn confirmed(&self, shared: &Shared<'_>, outcomes: BTreeMap<usize, Outcome>) -> Results {
        let accepted = outcomes
            .iter()
            .filter_map(|(index, outcome)| match outcome {
                Outcome::Accepted(accepted) => Some((*index, accepted)),
                Outcome::Finished(_) => None,
            });
        let mut verdicts = match &accepted.collect::<Vec<_>>()[..] {
            [] => BTreeMap::new(),
            [(index, one)] => {
                let verdict = confirm(shared.cluster, &one.snapshot);
                BTreeMap::from([(*index, verdict)])
            }
            several => confirm_all(shared.cluster, several, self.jobs),
        };
        let results = outcomes.into_iter().map(|(index, outcome)| {
            let result = match outcome {
                Outcome::Finished(result) => result,
                Outcome::Accepted(Accepted { snapshot, key, .. }) => {
                    let unread =
                        || Err(submission(shared.cluster, &snapshot).unknown(Kind::Unknown));
                    let verdict = verdicts.remove(&index).unwrap_or_else(unread);
                    verdict.map(|()| Unlocked {
                        ending: Ending::Done,
                        snapshot,
                        key: Some(key),
                        challenge: None,
                    })
                }
            };
            shared.ledger.note_result(index, &result);
            (self.ids[index], result)
        });
        results.collect()
    }
}

fn too_much(id: u64) -> cluster::Error {
    let limit = size(HELD_LIMIT);
    let message =
        format!("the status of snapshot {id} is too large: all of them take over {limit}");
    let error = Error::new(Kind::Unreachable, message)
        .hint("a cluster sends far less; check --host and --port: a proxy or another service may answer there");
    cluster::Error::new(cluster::Certainty::NotSent, error)
}

fn submission(cluster: &dyn Cluster, snapshot: &Snapshot) -> Submission {
    Submission {
        request: format!("the request to unlock {}", snapshot.title()),
        check: cluster.check_command(Check::Snapshot(snapshot.id)),
    }
}

fn look(cluster: &dyn Cluster, id: u64, lock_key: &str) -> cluster::Result<Seen<()>> {
    Ok(match cluster.snapshot(id)?.lock_key {
        None => Seen::Done(()),
        Some(now) if now == lock_key => Seen::NotDone,
        Some(now) => Seen::SomethingElse(format!("it is locked with key {now}")),
    })
}

fn confirm(cluster: &dyn Cluster, snapshot: &Snapshot) -> Result<()> {
    let lock_key = snapshot.lock_key.as_deref().unwrap_or_default();
    let look = || look(cluster, snapshot.id, lock_key);
    submission(cluster, snapshot).confirm(look).map(drop)
}

/// Lists what is not locked until all of these are in it or have had enough time to get there, and
/// then looks at each that is not, a few at a time.
fn confirm_all(
    cluster: &dyn Cluster,
    accepted: &[(usize, &Accepted)],
    jobs: usize,
) -> BTreeMap<usize, Result<()>> {
    let _settling = Settling::confirmation();
    let mut verdicts = BTreeMap::new();
    let mut left: Vec<_> = accepted.to_vec();
    for pause in POLL_PAUSES {
        interrupt::pause(pause);
        match cluster.unlocked_snapshots() {
            Ok(unlocked) => left.retain(|(index, accepted)| {
                let is_unlocked = unlocked.contains(&accepted.snapshot.id);
                if is_unlocked {
                    verdicts.insert(*index, Ok(()));
                }
                !is_unlocked
            }),
            Err(failure) => {
                log::info!("cannot list the snapshots: {}", failure.error.chain());
                break;
            }
        }
        if left.is_empty() || interrupt::announced().is_some() {
            break;
        }
    }
    let mut unreadable = 0;
    for some in left.chunks(jobs.max(1)) {
        let look = |(_, accepted): &(usize, &Accepted)| {
            let _settling = Settling::confirmation();
            let snapshot = &accepted.snapshot;
            let lock_key = snapshot.lock_key.as_deref().unwrap_or_default();
            match unreadable {
                ..IN_VAIN => look(cluster, snapshot.id, lock_key),
                _ => Err(cluster::Error::new(
                    cluster::Certainty::NotSent,
                    Error::new(Kind::Unreachable, "the cluster could not be read"),
                )),
            }
        };
        for ((index, accepted), seen) in some.iter().zip(each(some, look)) {
            unreadable = match seen {
                Ok(_) => 0,
                Err(_) => unreadable + 1,
            };
            let verdict = submission(cluster, &accepted.snapshot).judge(seen);
            verdicts.insert(*index, verdict.map(drop));
        }
    }
    verdicts
}

/// How far each snapshot has come, for whoever has to be told when a second signal ends it all.
struct Ledger {
    ids: Vec<u64>,
    stages: Mutex<Vec<Stage>>,
    check: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    NotTried,
    /// Begun, and nothing is under way.
    NotSent,
    Sent,
    Accepted,
    Unlocked,
    AlreadyUnlocked,
    /// Nobody can tell.
    Unknown,
    Failed,
}

impl Stage {
    /// What a result means for a snapshot that had come as far as `self`.
    fn after(self, result: &Result<Unlocked>) -> Self {
        match result {
            Ok(unlocked) => match unlocked.ending {
                Ending::Done => Self::Unlocked,
                Ending::AlreadySo => Self::AlreadyUnlocked,
                Ending::DryRun => Self::NotSent,
            },
            Err(error) if error.kind() == Kind::Unknown => Self::Unknown,
            Err(error) if error.kind().is_interruption() => match self {
                Self::Sent | Self::Unknown => Self::Unknown,
                Self::Accepted => Self::Accepted,
                _ => Self::NotSent,
            },
            Err(_) => Self::Failed,
        }
    }
}

impl Ledger {
    fn new(ids: &[u64], cluster: &dyn Cluster) -> Arc<Self> {
        let check = match ids {
            [id] => Check::Snapshot(*id),
            _ => Check::Snapshots,
        };
        Arc::new(Self {
            ids: ids.to_vec(),
            stages: Mutex::new(vec![Stage::NotTried; ids.len()]),
            check: cluster.check_command(check),
        })
    }

    fn stages(&self) -> MutexGuard<'_, Vec<Stage>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, index: usize, stage: Stage) {
        self.stages()[index] = stage;
    }

    fn note_outcome(&self, index: usize, outcome: &Outcome) {
        match outcome {
            Outcome::Accepted(_) => self.note(index, Stage::Accepted),
            Outcome::Finished(result) => self.note_result(index, result),
        }
    }

    fn note_result(&self, index: usize, result: &Result<Unlocked>) {
        let stage = &mut self.stages()[index];
        *stage = stage.after(result);
    }

    /// All that is known, for a run that ends before it can report.
    fn words(&self) -> Error {
        let stages = self.stages();
        let mut message = "stopped by a signal".to_owned();
        let mut sent = false;
        for (is_in, what) in [
            (&[Stage::Unlocked][..], "unlocked"),
            (&[Stage::AlreadyUnlocked], "already unlocked"),
            (&[Stage::Accepted], "accepted by the cluster, not confirmed"),
            (&[Stage::Sent, Stage::Unknown], "sent, result unknown"),
            (&[Stage::Failed], "failed"),
            (&[Stage::NotSent, Stage::NotTried], "nothing sent"),
        ] {
            let ids: Vec<u64> = self
                .ids
                .iter()
                .zip(stages.iter())
                .filter(|(_, stage)| is_in.contains(stage))
                .map(|(id, _)| *id)
                .collect();
            if !ids.is_empty() {
                let _ = write!(message, "; {what}: {}", ranges(ids));
                sent |= matches!(is_in[0], Stage::Accepted | Stage::Sent);
            }
        }
        let hint = match sent {
            true => format!(
                "`{}` shows what is locked; rerunning is safe: qkey looks first",
                self.check
            ),
            false => "rerunning is safe: qkey looks first".to_owned(),
        };
        Error::new(Kind::Interrupted, message).hint(hint).whole()
    }
}

/// `1-5, 9`
fn ranges(mut ids: Vec<u64>) -> String {
    ids.sort_unstable();
    ids.dedup();
    let runs = ids.chunk_by(|a, b| a + 1 == *b);
    let runs = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

fn lock_key_of(snapshot: &Snapshot, id: &str, keys: &[Arc<StoredKey>]) -> Result<Arc<StoredKey>> {
    let found = keys.iter().find(|key| key.id == id);
    found.cloned().ok_or_else(|| {
        let message = format!(
            "{} is locked with key {id}, which the key store does not show",
            snapshot.title()
        );
        Error::new(Kind::Refused, message).hint(
            "run this again if the key was stored just now; otherwise log in as a user who can list every key",
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
    let (challenge, status) = both(|| cluster.unlock_challenge(id), || cluster.snapshot(id));
    let status = status?;
    let challenge = status.lock_key.is_some().then_some(challenge);
    Ok((status, challenge))
}

#[cfg(test)]
mod tests;
