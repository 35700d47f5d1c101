//! The run that unlocks many snapshots: a few at a time, confirmed together at the end.

mod ledger;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use self::ledger::{Ledger, Stage, Watch};
use crate::{
    ceremony::{
        Keyring, Outcome, POLL_PAUSES,
        challenge::Challenges,
        driver::{Accepted, Driver, Looked, Step},
        observer::{Event, Observer, Silent},
        unlock::Unlock,
        view::View,
    },
    cluster::{Cluster, Snapshot},
    error::{Error, Kind, Result, Subject},
    interrupt::{self, LastWords, Settling},
    parallel::each,
    signer::KeySource,
    text::size,
};

/// The snapshots to unlock, and how.
pub struct UnlockMany<'a> {
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

/// The results, in the order of the ids. After a signal, or if the cluster is out of reach, the last
/// ones are missing: those were not tried.
pub type Results = Vec<(u64, Result<Outcome<Snapshot>>)>;

/// For how many snapshots in a row the cluster may be out of reach, or refuse the user, before the run
/// starts no more.
const IN_VAIN: usize = 5;

/// How many bytes the results may take while they wait for the last read: four times as many as for all
/// snapshots that a cluster can have.
const HELD_LIMIT: usize = 64 << 20;

/// What the workers share.
struct Shared<'a> {
    view: View<'a>,
    keyring: Keyring<'a>,
    challenges: Challenges,
    ledger: Arc<Ledger>,
    /// The index of the next snapshot to start.
    next: AtomicUsize,
    /// How many in a row could not even be read.
    in_vain: AtomicUsize,
    /// How many bytes the results take.
    held: AtomicUsize,
}

/// How far a worker got with its snapshot.
enum Reached {
    Finished(Result<Outcome<Snapshot>>),
    /// The cluster says that it was unlocked; its state has yet to confirm that.
    Accepted(Accepted<Snapshot>),
}

impl UnlockMany<'_> {
    /// Unlocks each snapshot; `observer` is told how many are settled, without waiting for what the
    /// last read confirms. Starts no more after a signal, or once the cluster is out of reach.
    pub fn run(&self, cluster: &dyn Cluster, observer: &dyn Observer) -> Results {
        let ledger = Ledger::new(&self.ids, cluster);
        let shared = Shared {
            view: View::new(cluster),
            keyring: Keyring::new(self.keys.clone()).observed_by(observer),
            challenges: Challenges::default(),
            ledger: ledger.clone(),
            next: AtomicUsize::default(),
            in_vain: AtomicUsize::default(),
            held: AtomicUsize::default(),
        };
        let words = LastWords::lay_down_with(move || ledger.words());
        let reached = self.work_on_all(&shared, observer);
        let results = self.confirmed(&shared, reached);
        words.leave();
        results
    }

    /// By the indices of the ids.
    fn work_on_all(
        &self,
        shared: &Shared<'_>,
        observer: &dyn Observer,
    ) -> BTreeMap<usize, Reached> {
        let (sender, results) = mpsc::channel();
        let mut reached = BTreeMap::new();
        thread::scope(|scope| {
            // If no thread can start, the first worker that needs these gets them.
            let early_keys = || drop(shared.view.keys());
            let _ = thread::Builder::new().spawn_scoped(scope, early_keys);
            let early_opening = || shared.keyring.open();
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
            for (index, one) in results {
                reached.insert(index, one);
                observer.event(Event::Settled(reached.len()));
            }
        });
        reached
    }

    /// Works on one snapshot after another until none is left.
    fn work(&self, shared: &Shared<'_>, results: &mpsc::Sender<(usize, Reached)>) {
        while let index = shared.next.fetch_add(1, Ordering::Relaxed)
            && let Some(&id) = self.ids.get(index)
        {
            let reached = self.unlock(shared, index, id);
            let reached = reached.unwrap_or_else(|error| Reached::Finished(Err(error)));
            let mut stopped = interrupt::received().is_some();
            match &reached {
                Reached::Accepted(_) => shared.ledger.note(index, Stage::Accepted),
                Reached::Finished(result) => {
                    shared.ledger.note_result(index, result);
                    stopped |= matches!(result, Err(error) if error.kind().is_interruption());
                }
            }
            // Those running at the same time may have failed together.
            let in_vain = shared.in_vain.load(Ordering::Relaxed);
            if stopped || in_vain >= IN_VAIN.max(self.jobs + 1) {
                shared.next.store(self.ids.len(), Ordering::Relaxed);
            }
            if results.send((index, reached)).is_err() {
                break;
            }
        }
    }

    fn unlock(&self, shared: &Shared<'_>, index: usize, id: u64) -> Result<Reached> {
        let watch = Watch {
            ledger: &shared.ledger,
            index,
        };
        let change = Unlock(id);
        let driver = self.driver(shared, &change, &watch);
        let looked = shared.first_look(&driver)?;
        let step = match driver.prepare_from(looked)? {
            Step::Settled(outcome) => Step::Settled(outcome),
            Step::Next(prepared) => driver.carry_out(prepared, self.dry_run)?,
        };
        Ok(match step {
            Step::Settled(outcome) => Reached::Finished(Ok(outcome)),
            Step::Next(accepted) => Reached::Accepted(accepted),
        })
    }

    fn driver<'s>(
        &self,
        shared: &'s Shared<'_>,
        change: &'s Unlock,
        observer: &'s dyn Observer,
    ) -> Driver<'s, Unlock> {
        Driver {
            change,
            view: &shared.view,
            prover: &shared.keyring,
            challenges: &shared.challenges,
            observer,
            attempts: self.attempts,
            one_of_several: true,
        }
    }

    /// Runs `step` for a snapshot that was submitted.
    fn driving<R>(
        &self,
        shared: &Shared<'_>,
        index: usize,
        step: impl FnOnce(&Driver<'_, Unlock>) -> R,
    ) -> R {
        step(&self.driver(shared, &Unlock(self.ids[index]), &Silent))
    }

    /// Confirms what was accepted: by one status for one snapshot, by one listing for several.
    fn confirmed(&self, shared: &Shared<'_>, reached: BTreeMap<usize, Reached>) -> Results {
        let mut finished = BTreeMap::new();
        let mut accepted = Vec::new();
        for (index, one) in reached {
            match one {
                Reached::Finished(result) => drop(finished.insert(index, result)),
                Reached::Accepted(one) => accepted.push((index, one)),
            }
        }
        if accepted.len() == 1
            && let Some((index, one)) = accepted.pop()
        {
            let confirmed = self.driving(shared, index, |driver| driver.confirm(one));
            finished.insert(index, confirmed);
        } else {
            finished.extend(self.confirm_all(shared, accepted));
        }
        let results = finished.into_iter().map(|(index, result)| {
            shared.ledger.note_result(index, &result);
            (self.ids[index], result)
        });
        results.collect()
    }

    /// Lists the unlocked snapshots until the list has everything accepted, or enough time has passed;
    /// then reads each missing snapshot, a few at a time.
    fn confirm_all(
        &self,
        shared: &Shared<'_>,
        mut left: Vec<(usize, Accepted<Snapshot>)>,
    ) -> BTreeMap<usize, Result<Outcome<Snapshot>>> {
        let _settling = Settling::confirmation();
        let mut results = BTreeMap::new();
        for pause in POLL_PAUSES {
            if left.is_empty() {
                return results;
            }
            interrupt::pause(pause);
            let unlocked = match shared.view.cluster.unlocked_snapshots() {
                Ok(unlocked) => unlocked,
                Err(failure) => {
                    log::info!("cannot list the snapshots: {}", failure.error.chain());
                    break;
                }
            };
            let shown = left.extract_if(.., |(_, one)| unlocked.contains(&one.before.id));
            results.extend(shown.map(|(index, one)| {
                let done = self.driving(shared, index, |driver| driver.done(one, None));
                (index, Ok(done))
            }));
            if interrupt::announced().is_some() {
                break;
            }
        }
        let mut unreadable = 0;
        while !left.is_empty() {
            let later = left.split_off(self.jobs.clamp(1, left.len()));
            let some = std::mem::replace(&mut left, later);
            let read = |(index, one): &(usize, Accepted<Snapshot>)| {
                let _settling = Settling::confirmation();
                match unreadable {
                    ..IN_VAIN => self.driving(shared, *index, |driver| driver.read(one)),
                    _ => Err(Error::new(
                        Kind::Unreachable,
                        "the cluster could not be read",
                    )),
                }
            };
            let seen = each(&some, read);
            for ((index, one), seen) in some.into_iter().zip(seen) {
                unreadable = match seen {
                    Ok(_) => 0,
                    Err(_) => unreadable + 1,
                };
                let judged = self.driving(shared, index, |driver| driver.judge(one, seen));
                results.insert(index, judged);
            }
        }
        results
    }
}

impl Shared<'_> {
    /// Reads a snapshot, and counts how often the cluster was out of reach.
    fn first_look(&self, driver: &Driver<'_, Unlock>) -> Result<Looked<Snapshot>> {
        let looked = driver.look(None).and_then(|looked| {
            let size = looked.state.size();
            match self.held.fetch_add(size, Ordering::Relaxed) + size {
                ..=HELD_LIMIT => Ok(looked),
                _ => Err(too_much(looked.state.id)),
            }
        });
        match looked.as_ref().map_err(Error::kind) {
            Err(Kind::Auth | Kind::Unreachable) => {
                self.in_vain.fetch_add(1, Ordering::Relaxed);
            }
            _ => self.in_vain.store(0, Ordering::Relaxed),
        }
        looked
    }
}

fn too_much(id: u64) -> Error {
    let limit = size(HELD_LIMIT);
    let message =
        format!("the status of snapshot {id} is too large: all of them take over {limit}");
    Error::new(Kind::Unreachable, message)
        .naming(Subject::Snapshot(id))
        .hint("a cluster sends far less; check --host and --port: a proxy or another service may answer there")
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
