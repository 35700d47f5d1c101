//! Runs a change: prepare, prove, commit, confirm.

use std::sync::Arc;

use super::{
    challenge::{Challenges, mention_signature},
    change::{Change, Comparison, Conflict},
    observer::{Event, Observer},
    proof::{self, Key, Prover, Request, Response, Role},
    submission::{Reply, Seen, Submission},
    view::View,
};
use crate::{
    cluster::{Cluster, StoredKey},
    error::{Error, Kind, Result},
    interrupt::{LastWords, Unsettled},
    parallel::both,
    public_key::PublicKey,
};

/// How a change that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The cluster made the change.
    Done,
    /// The cluster already had it.
    AlreadySo,
    /// Everything except the submission was done, as requested.
    DryRun,
}

/// The result of a change that did not fail.
#[derive(Debug)]
pub struct Outcome<S> {
    pub ending: Ending,
    /// The state before.
    pub before: S,
    after: Option<S>,
    pub new_key: Option<PublicKey>,
    /// The stored key whose private half signed.
    pub stored_key: Option<Arc<StoredKey>>,
    /// The cluster's challenge that was signed, after a dry run.
    pub challenge: Option<String>,
    /// What the user should know although it is not a failure.
    pub warnings: Vec<String>,
}

impl<S> Outcome<S> {
    /// The state that was read last.
    pub fn now(&self) -> &S {
        self.after.as_ref().unwrap_or(&self.before)
    }
}

/// The right to submit one change once. It is free until an audit log issues it.
pub struct Permit(());

impl Permit {
    /// The permit if no audit log is configured.
    pub fn free() -> Self {
        Self(())
    }
}

/// A state, and its challenge if that was read along with it.
pub struct Looked<S> {
    pub state: S,
    challenge: Option<Result<String>>,
}

/// The result of one step of a run.
pub enum Step<T, S> {
    /// Nothing is left to do.
    Settled(Outcome<S>),
    Next(T),
}

/// A change that is to be proven.
pub struct Prepared<S> {
    before: S,
    pub request: Request,
    /// How many submissions were refused because the challenge went stale.
    stale: u32,
}

/// A change that is proven and can be submitted.
pub struct Proven<S> {
    before: S,
    request: Request,
    response: Response,
    new_key: Option<PublicKey>,
    /// The key that signed for the stored key.
    key: Option<Key>,
    stale: u32,
}

/// The result of a submission.
pub enum Committed<S> {
    Settled(Outcome<S>),
    /// The cluster says that it was done. Only its state can confirm that.
    Accepted(Accepted<S>),
    /// The challenge went stale; this has the new one.
    Stale(Prepared<S>),
}

/// A change that the cluster accepted, to be confirmed. Until then a first signal waits for it.
pub struct Accepted<S> {
    pub before: S,
    pub stored_key: Option<Arc<StoredKey>>,
    new_key: Option<PublicKey>,
    words: Option<LastWords>,
    _unsettled: Unsettled,
}

/// Runs one change on one cluster.
pub struct Driver<'a, C> {
    pub change: &'a C,
    pub view: &'a View<'a>,
    pub prover: &'a dyn Prover,
    /// All challenges of the run.
    pub challenges: &'a Challenges,
    pub observer: &'a dyn Observer,
    /// The maximum number of submissions if the challenge goes stale.
    pub attempts: u32,
    /// Whether another part of the run keeps the last words for this change.
    pub one_of_several: bool,
}

/// Runs one change from beginning to end.
///
/// # Errors
/// Of kind `mismatch` for a conflict or a wrong key, `key` if a key does not open or sign, `unknown` if
/// the result cannot be confirmed; otherwise the cluster's.
pub fn run<C: Change>(
    change: &C,
    cluster: &dyn Cluster,
    prover: &dyn Prover,
    observer: &dyn Observer,
    attempts: u32,
    dry_run: bool,
) -> Result<Outcome<C::State>> {
    let driver = Driver {
        change,
        view: &View::new(cluster),
        prover,
        challenges: &Challenges::default(),
        observer,
        attempts,
        one_of_several: false,
    };
    let prepared = match driver.prepare()? {
        Step::Settled(outcome) => return Ok(outcome),
        Step::Next(prepared) => prepared,
    };
    match driver.carry_out(prepared, dry_run)? {
        Step::Settled(outcome) => Ok(outcome),
        Step::Next(accepted) => driver.confirm(accepted),
    }
}

impl<C: Change> Driver<'_, C> {
    /// Reads the state and the challenge while the keys that need no prompt are opened.
    ///
    /// # Errors
    /// If one of them cannot be read, or the change conflicts with the state.
    pub fn prepare(&self) -> Result<Step<Prepared<C::State>, C::State>> {
        let (looked, ()) = both(|| self.look(None), || self.prover.open());
        self.prepare_from(looked?)
    }

    /// Reads the state, and the challenge at the same time if that is faster.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn look(&self, before: Option<&C::State>) -> Result<Looked<C::State>> {
        let cluster = self.view.cluster;
        let purpose = self.change.challenge(before);
        let early =
            purpose.filter(|purpose| purpose.asks_cluster() && cluster.gains_from_concurrency());
        let observe = || self.change.observe(self.view, before);
        let (state, challenge) = match early {
            Some(purpose) => {
                let (challenge, state) = both(|| purpose.challenge(cluster), observe);
                (state?, Some(challenge))
            }
            None => (observe()?, None),
        };
        Ok(Looked { state, challenge })
    }

    /// Like [`Driver::prepare`], with a state that was read before.
    ///
    /// # Errors
    /// As [`Driver::prepare`].
    pub fn prepare_from(
        &self,
        looked: Looked<C::State>,
    ) -> Result<Step<Prepared<C::State>, C::State>> {
        let Looked { state, challenge } = looked;
        let mut new_key = None;
        let mut comparison = self.change.compare(&state, &state, None);
        if matches!(comparison, Comparison::NeedsNewKey) {
            new_key = self.prover.new_key();
            comparison = self.change.compare(&state, &state, new_key.as_ref());
        }
        if is_met_unsent(comparison)? {
            let outcome = self.outcome(Ending::AlreadySo, state, None, new_key, None);
            return Ok(Step::Settled(outcome));
        }
        let prepared = self.request(state, challenge, 0);
        prepared.map(Step::Next)
    }

    fn request(
        &self,
        state: C::State,
        challenge: Option<Result<String>>,
        stale: u32,
    ) -> Result<Prepared<C::State>> {
        let purpose = self
            .change
            .challenge(Some(&state))
            .ok_or_else(|| Error::new(Kind::Internal, "the state does not tell what to sign"))?;
        let keys = self.view.keys()?;
        let challenge = challenge.unwrap_or_else(|| purpose.challenge(self.view.cluster))?;
        let signatories = self.change.roles(&state, &keys)?;
        if purpose.asks_cluster() {
            let keys = keys.iter().map(AsRef::as_ref);
            self.challenges.check(&challenge, &purpose, keys)?;
        }
        Ok(Prepared {
            before: state,
            request: Request {
                purpose,
                challenge,
                signatories,
            },
            stale,
        })
    }

    /// Finds the keys and signs with them.
    ///
    /// # Errors
    /// If a key is missing, does not open or does not sign, or the change conflicts with the state now
    /// that the new key is known.
    pub fn prove(&self, prepared: Prepared<C::State>) -> Result<Step<Proven<C::State>, C::State>> {
        let Prepared {
            before,
            request,
            stale,
        } = prepared;
        let find = |signatory| self.prover.find(signatory);
        let found: Vec<Result<Key>> = request.signatories.iter().map(find).collect();
        let mut roles = request.signatories.iter().zip(&found);
        let new = roles.find(|(signatory, _)| signatory.role == Role::New);
        let new_key = match new {
            Some((_, Ok(key))) => Some(key.signer.public_key().clone()),
            Some((_, Err(error))) => return Err(error.clone()),
            None => None,
        };
        let comparison = self.change.compare(&before, &before, new_key.as_ref());
        // Once the change is made, the old key may be gone: a missing key is not an error then.
        if is_met_unsent(comparison)? {
            let outcome = self.outcome(Ending::AlreadySo, before, None, new_key, None);
            return Ok(Step::Settled(outcome));
        }
        let keys = found.into_iter().collect::<Result<Vec<Key>>>()?;
        let response = proof::sign(&request, &keys, self.observer)?;
        let signed = request.signatories.iter().zip(keys);
        let mut signed = signed.filter(|(signatory, _)| signatory.stored.is_some());
        let key = signed.next().map(|(_, key)| key);
        Ok(Step::Next(Proven {
            before,
            request,
            response,
            new_key,
            key,
            stale,
        }))
    }

    /// Submits once. What the cluster accepted has yet to be [confirmed](Driver::confirm).
    ///
    /// # Errors
    /// If the cluster refused, or the result is not certain (kind `unknown`).
    pub fn commit(&self, proven: Proven<C::State>, _permit: Permit) -> Result<Committed<C::State>> {
        let (cluster, before) = (self.view.cluster, &proven.before);
        let submission = self.submission(before);
        let title = &submission.request;
        let stopped = Error::new(Kind::Interrupted, "interrupted");
        let unknown = submission
            .unknown(Kind::Interrupted)
            .caused_by_error(&stopped);
        let unsettled = Unsettled::begin(&unknown);
        let words = (!self.one_of_several).then(|| LastWords::lay_down(unknown));
        let submit = || {
            self.observer.event(Event::Submitting(title));
            self.change.submit(cluster, before, &proven.response)
        };
        let reply = submission.send(submit, || self.seen(before, proven.new_key.as_ref()));
        match reply {
            Ok(Reply::Accepted) => Ok(Committed::Accepted(Accepted {
                stored_key: proven.stored_key(),
                before: proven.before,
                new_key: proven.new_key,
                words,
                _unsettled: unsettled,
            })),
            Ok(Reply::Done { now, warning }) => {
                leave(words, submission.carried_out());
                let mut outcome = self.settled(Ending::Done, proven, Some(now));
                outcome.warnings.push(warning);
                Ok(Committed::Settled(outcome))
            }
            Ok(Reply::Refused(refusal)) => {
                drop((words, unsettled));
                self.observer.event(Event::Refused(title));
                self.after_refusal(proven, refusal)
            }
            Err(error) => {
                leave(words, error.clone());
                Err(error)
            }
        }
    }

    /// A refusal stands only if the state and the challenge are unchanged.
    fn after_refusal(
        &self,
        proven: Proven<C::State>,
        refusal: Error,
    ) -> Result<Committed<C::State>> {
        let refusal = match &proven.key {
            Some(key) => mention_signature(refusal, &key.title),
            None => refusal,
        };
        if refusal.kind() == Kind::Auth {
            return Err(refusal);
        }
        // The refusal says more than why the state could not be read, unless that was a signal.
        let unexplained = |failure: Error| match failure.kind() {
            kind if kind.is_interruption() => {
                Error::new(kind, "interrupted after the cluster refused").caused_by_error(&refusal)
            }
            _ => refusal.clone(),
        };
        // The refusal may be due to a change of the key store.
        self.view.forget_keys();
        let Looked {
            state: now,
            challenge,
        } = self.look(Some(&proven.before)).map_err(unexplained)?;
        let new_key = proven.new_key.as_ref();
        match self.change.compare(&proven.before, &now, new_key) {
            Comparison::Met => {
                let outcome = self.settled(Ending::AlreadySo, proven, Some(now));
                return Ok(Committed::Settled(outcome));
            }
            Comparison::Conflict(Conflict {
                error: Some(error), ..
            }) => return Err(error.caused_by_error(&refusal)),
            Comparison::Conflict(_) | Comparison::Unmet | Comparison::NeedsNewKey => {}
        }
        let fetch = || match self.change.challenge(Some(&now)) {
            Some(purpose) => purpose.challenge(self.view.cluster),
            None => Ok(proven.request.challenge.clone()),
        };
        let challenge = challenge.unwrap_or_else(fetch).map_err(unexplained)?;
        let stale = proven.stale + 1;
        if challenge == proven.request.challenge {
            return Err(refusal);
        }
        if stale >= self.attempts {
            return Err(always_stale(&refusal, self.attempts));
        }
        self.view.keys().map_err(unexplained)?;
        log::info!("the challenge went stale; signing the new one");
        let prepared = self.request(now, Some(Ok(challenge)), stale)?;
        Ok(Committed::Stale(prepared))
    }

    /// Proves and submits; again while the challenge goes stale and attempts are left. An accepted
    /// change has yet to be confirmed.
    ///
    /// # Errors
    /// As [`Driver::prove`] and [`Driver::commit`].
    pub fn carry_out(
        &self,
        mut prepared: Prepared<C::State>,
        dry_run: bool,
    ) -> Result<Step<Accepted<C::State>, C::State>> {
        loop {
            let proven = match self.prove(prepared)? {
                Step::Settled(outcome) => return Ok(Step::Settled(outcome)),
                Step::Next(proven) => proven,
            };
            if dry_run {
                return Ok(Step::Settled(self.rehearsed(proven)));
            }
            prepared = match self.commit(proven, Permit::free())? {
                Committed::Settled(outcome) => return Ok(Step::Settled(outcome)),
                Committed::Accepted(accepted) => return Ok(Step::Next(accepted)),
                Committed::Stale(prepared) => prepared,
            };
        }
    }

    /// Reads the state until it shows the accepted change, or has had enough time to.
    ///
    /// # Errors
    /// Of kind `unknown` if it does not; `interrupted` or `terminated` after a signal.
    pub fn confirm(&self, mut accepted: Accepted<C::State>) -> Result<Outcome<C::State>> {
        let submission = self.submission(&accepted.before);
        let confirmed = submission.confirm(|| self.read(&accepted));
        let words = match &confirmed {
            Ok(_) => submission.carried_out(),
            Err(error) => error.clone(),
        };
        leave(accepted.words.take(), words);
        Ok(self.done(accepted, Some(confirmed?)))
    }

    /// Reads the state once, for [`Driver::judge`].
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, accepted: &Accepted<C::State>) -> Result<Seen<C::State>> {
        self.seen(&accepted.before, accepted.new_key.as_ref())
    }

    /// The outcome, if the state that was read confirms what the cluster accepted.
    ///
    /// # Errors
    /// As [`Driver::confirm`].
    pub fn judge(
        &self,
        accepted: Accepted<C::State>,
        seen: Result<Seen<C::State>>,
    ) -> Result<Outcome<C::State>> {
        let now = self.submission(&accepted.before).judge(seen)?;
        Ok(self.done(accepted, Some(now)))
    }

    /// The outcome of a change that is confirmed.
    pub fn done(&self, accepted: Accepted<C::State>, after: Option<C::State>) -> Outcome<C::State> {
        let (before, new_key) = (accepted.before, accepted.new_key);
        self.outcome(Ending::Done, before, after, new_key, accepted.stored_key)
    }

    fn submission(&self, before: &C::State) -> Submission {
        Submission {
            request: format!("the request to {}", self.change.title(before)),
            subject: self
                .change
                .challenge(Some(before))
                .and_then(|purpose| purpose.subject()),
            check: self.view.cluster.check_command(self.change.check()),
        }
    }

    fn seen(&self, before: &C::State, new_key: Option<&PublicKey>) -> Result<Seen<C::State>> {
        let now = self.change.observe(self.view, Some(before))?;
        Ok(match self.change.compare(before, &now, new_key) {
            Comparison::Met => Seen::Done(now),
            Comparison::Unmet | Comparison::NeedsNewKey => Seen::NotDone,
            Comparison::Conflict(conflict) => Seen::SomethingElse(conflict.now),
        })
    }

    fn outcome(
        &self,
        ending: Ending,
        before: C::State,
        after: Option<C::State>,
        new_key: Option<PublicKey>,
        stored_key: Option<Arc<StoredKey>>,
    ) -> Outcome<C::State> {
        let compared = match (ending, &after) {
            (Ending::AlreadySo, Some(now)) => now,
            _ => &before,
        };
        Outcome {
            ending,
            warnings: self.change.warnings(compared, new_key.as_ref()),
            before,
            after,
            new_key,
            stored_key,
            challenge: None,
        }
    }

    fn settled(
        &self,
        ending: Ending,
        proven: Proven<C::State>,
        after: Option<C::State>,
    ) -> Outcome<C::State> {
        let key = proven.stored_key();
        self.outcome(ending, proven.before, after, proven.new_key, key)
    }

    fn rehearsed(&self, mut proven: Proven<C::State>) -> Outcome<C::State> {
        let challenge = std::mem::take(&mut proven.request.challenge);
        let is_clusters = proven.request.purpose.asks_cluster();
        Outcome {
            challenge: is_clusters.then_some(challenge),
            ..self.settled(Ending::DryRun, proven, None)
        }
    }
}

impl<S> Proven<S> {
    fn stored_key(&self) -> Option<Arc<StoredKey>> {
        let mut signatories = self.request.signatories.iter();
        signatories.find_map(|signatory| signatory.stored.clone())
    }
}

/// Whether there is nothing to send.
///
/// # Errors
/// If the change cannot be made from a conflicting state.
fn is_met_unsent(comparison: Comparison) -> Result<bool> {
    match comparison {
        Comparison::Conflict(Conflict {
            error: Some(error), ..
        }) => {
            let next_step = error.hint_text().unwrap_or_default();
            let hint = format!("nothing was sent; {next_step}");
            Err(error.hint(hint))
        }
        comparison => Ok(matches!(comparison, Comparison::Met)),
    }
}

fn leave(words: Option<LastWords>, error: Error) {
    if let Some(words) = words {
        words.leave_with(error);
    }
}

/// The refusal of a challenge that changed every time.
fn always_stale(refusal: &Error, attempts: u32) -> Error {
    let submissions = match attempts {
        1 => "the submission".to_owned(),
        several => format!("each of {several} submissions"),
    };
    Error::new(
        Kind::Refused,
        format!("the challenge changed before {submissions}"),
    )
    .caused_by_error(refusal)
    .hint("something keeps changing it (a name, a comment, an expiration); run this again, or raise --attempts")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        ceremony::{
            Keyring,
            add::Add,
            challenge::Purpose,
            fakes::{Call, FakeCluster, FakeSource, Fault, Opening, World, assert_tells, failed},
            lock::{Lock, NoProof},
            observer::Silent,
            replace::Replace,
        },
        cluster::KeyRef,
    };

    fn next<T, S>(step: Step<T, S>) -> T {
        match step {
            Step::Next(next) => next,
            Step::Settled(_) => panic!("something is left to do"),
        }
    }

    #[test]
    fn prepare_prove_commit_and_confirm_are_separate_steps() {
        let (old, new) = (FakeSource::new("old"), FakeSource::new("new"));
        let cluster = FakeCluster::new(World::default().with_key("lock", old.public_key()));
        let challenge = cluster.world().replacement_challenge(&KeyRef::new("1"));
        let keyring = Keyring::new(vec![&old]).with_new(&new);
        let driver = Driver {
            change: &Replace {
                key: KeyRef::new("lock"),
            },
            view: &View::new(&cluster),
            prover: &keyring,
            challenges: &Challenges::default(),
            observer: &Silent,
            attempts: 2,
            one_of_several: false,
        };

        let prepared = next(driver.prepare().unwrap());
        let request = &prepared.request;
        assert_eq!(request.purpose, Purpose::Replace(KeyRef::new("1")));
        assert_eq!(request.challenge, challenge.unwrap());
        let signatories = request.signatories.iter();
        let roles: Vec<Role> = signatories.map(|signatory| signatory.role).collect();
        assert_eq!(roles, [Role::Old, Role::New]);
        assert!(old.signed().is_empty() && new.signed().is_empty());

        let proven = next(driver.prove(prepared).unwrap());
        assert_eq!((old.signed().len(), new.signed().len()), (1, 1));
        assert_eq!((cluster.submissions(), cluster.count(&Call::Keys)), (0, 1));

        let Ok(Committed::Accepted(accepted)) = driver.commit(proven, Permit::free()) else {
            panic!("the cluster accepts it");
        };
        assert_eq!((cluster.submissions(), cluster.count(&Call::Keys)), (1, 1));
        let outcome = driver.confirm(accepted).unwrap();
        assert_eq!(outcome.ending, Ending::Done);
        assert_eq!(cluster.count(&Call::Keys), 2);
    }

    #[test]
    fn conflict_found_after_refusal_is_a_mismatch_caused_by_the_refusal() {
        let key = FakeSource::new("a.pem");
        let taken = |world: &mut World| {
            world.store("lock", "", FakeSource::new("b.pem").public_key());
        };
        let cluster =
            FakeCluster::new(World::default()).fault(Call::Add, .., Fault::Meanwhile(taken));
        let keyring = Keyring::new(Vec::new()).with_new(&key);
        let add = Add::new("lock", "").unwrap();
        let added = run(&add, &cluster, &keyring, &Silent, 2, false);
        let error = failed(added, Kind::Mismatch, 4);
        assert_tells(
            &error,
            "\"lock\" is already used by key 1, with a different public key",
        );
        assert_tells(&error, "fs_entry_exists_error");
        assert!(!error.hint_text().unwrap().contains("nothing was sent"));

        let relocked = |world: &mut World| world.snapshot(7).lock_key = Some("2".to_owned());
        let world = World::default()
            .with_key("lock", key.public_key())
            .with_snapshot(7, None);
        let cluster = FakeCluster::new(world).fault(Call::Lock(7), .., Fault::Meanwhile(relocked));
        let lock = Lock {
            id: 7,
            key: KeyRef::new("lock"),
        };
        let locked = run(&lock, &cluster, &NoProof, &Silent, 2, false);
        let error = failed(locked, Kind::Mismatch, 4);
        assert_tells(&error, "is already locked with key 2");
        assert_tells(&error, "snapshot_locked_error");
    }

    #[test]
    fn observer_sees_opening_signing_and_submitting() {
        let key = FakeSource::new("a.pem").opening(Opening::Asks);
        let cluster = FakeCluster::new(World::default()).fault(Call::Add, .., Fault::Refused);
        let seen = Mutex::new(Vec::new());
        let observer = |event: Event<'_>| seen.lock().unwrap().push(format!("{event:?}"));
        let keyring = Keyring::new(Vec::new())
            .with_new(&key)
            .observed_by(&observer);
        let add = Add::new("lock", "").unwrap();
        failed(
            run(&add, &cluster, &keyring, &observer, 2, false),
            Kind::Refused,
            5,
        );
        let expected = [
            r#"Opening("a.pem")"#,
            r#"WaitingForPerson("a.pem")"#,
            r#"Signing("a.pem")"#,
            r#"Submitting("the request to add key \"lock\"")"#,
            r#"Refused("the request to add key \"lock\"")"#,
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[test]
    fn warnings_are_part_of_the_result() {
        let key = FakeSource::new("a.pem");
        let world = World::default().with_key("other", key.public_key());
        let keyring = Keyring::new(Vec::new()).with_new(&key);
        let add = Add::new("lock", "").unwrap();
        let added = run(&add, &FakeCluster::new(world), &keyring, &Silent, 2, false).unwrap();
        assert_eq!(
            added.warnings,
            ["the same public key is also stored as key 1 (\"other\")"]
        );

        let cluster = FakeCluster::new(World::default()).fault(Call::Add, .., Fault::LostAfter(1));
        let added = run(&add, &cluster, &keyring, &Silent, 2, false).unwrap();
        assert_eq!(added.warnings.len(), 1);
        assert!(added.warnings[0].contains("checked: it was done"));
    }
}
