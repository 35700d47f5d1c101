//! The key sources that may contain the keys for a proof.

use std::sync::{Arc, Mutex, Once};

use super::{
    observer::{Event, Observer, Silent},
    proof::{Key, Prover, Signatory},
};
use crate::{
    cluster::StoredKey,
    error::{Error, Kind, Result},
    parallel::{each, lock},
    public_key::PublicKey,
    signer::{KeySource, Opened, Signer, Unlock},
};

/// Key sources, each opened at most once. The user is prompted for a passphrase only when it is known
/// to be needed: the cluster has replied, and no key that opens without a prompt matches.
pub struct Keyring<'a> {
    /// The candidates for stored keys, then the new key, if any.
    sources: Vec<&'a dyn KeySource>,
    has_new: bool,
    opened: Once,
    states: Mutex<Vec<State>>,
    observer: &'a dyn Observer,
}

enum State {
    Open(Key),
    /// `None` during the prompt.
    Locked(Option<Unlock>),
    Failed(Error),
}

impl<'a> Keyring<'a> {
    /// A keyring of candidates for stored keys.
    pub fn new(sources: Vec<&'a dyn KeySource>) -> Self {
        Self {
            sources,
            has_new: false,
            opened: Once::new(),
            states: Mutex::default(),
            observer: &Silent,
        }
    }

    /// Adds the key that the cluster does not store yet.
    pub fn with_new(mut self, source: &'a dyn KeySource) -> Self {
        self.sources.push(source);
        self.has_new = true;
        self
    }

    /// Sends events to `observer`.
    pub fn observed_by(mut self, observer: &'a dyn Observer) -> Self {
        self.observer = observer;
        self
    }

    /// Opens all keys that need no prompt, concurrently. Only the first call does anything; others wait
    /// for it.
    pub fn open(&self) {
        self.opened.call_once(|| {
            let states = each(&self.sources, |&source| {
                self.observer.event(Event::Opening(&source.title()));
                open(source)
            });
            *lock(&self.states) = states;
        });
    }

    /// Each source's key, or why it did not open without a prompt.
    pub fn ready(&self) -> Vec<Result<Key>> {
        self.open();
        let key = |state: &State| match state {
            State::Open(key) => Ok(key.clone()),
            State::Locked(_) => Err(Error::new(Kind::Key, "it would need a passphrase or a PIN")),
            State::Failed(error) => Err(error.clone()),
        };
        lock(&self.states).iter().map(key).collect()
    }

    /// The key that the cluster does not store yet; prompts if needed.
    ///
    /// # Errors
    /// If it does not open.
    fn new_key(&self) -> Result<Key> {
        self.open();
        let mut states = lock(&self.states);
        if let Some(error) = interruption(&states) {
            return Err(error.clone());
        }
        match (self.sources.last(), states.last_mut()) {
            (Some(source), Some(state)) if self.has_new => state.unlocked(*source, self.observer),
            _ => Err(Error::new(Kind::Internal, "no new key was given")),
        }
    }

    /// The key whose public half is the stored key; prompts for one source after another until a key
    /// matches.
    ///
    /// # Errors
    /// Of kind `key` if no source opened, of kind `mismatch` if no key matches.
    fn find(&self, stored: &StoredKey) -> Result<Key> {
        self.open();
        let wanted = stored.public_key().map_err(|error| {
            let message = format!("{} is not a P-256 key", stored.title());
            Error::new(Kind::Mismatch, message).caused_by(&error)
        })?;
        let mut states = lock(&self.states);
        let candidates = states.len() - usize::from(self.has_new);
        let right = |key: &Key| *key.signer.public_key() == wanted;
        for state in &states[..candidates] {
            if let State::Open(key) = state
                && right(key)
            {
                return Ok(key.clone());
            }
        }
        for (index, source) in self.sources[..candidates].iter().enumerate() {
            if interruption(&states).is_some() {
                break;
            }
            if let Ok(key) = states[index].unlocked(*source, self.observer)
                && right(&key)
            {
                return Ok(key);
            }
        }
        Err(self.no_match(stored, &wanted.short_fingerprint(), &states[..candidates]))
    }

    fn no_match(&self, stored: &StoredKey, wanted: &str, states: &[State]) -> Error {
        let only = errors(states).next().filter(|_| states.len() == 1);
        if let Some(error) = interruption(states).or(only) {
            return error.clone();
        }
        let shown = self.sources.iter().zip(states).map(|(source, state)| {
            let what = match state {
                State::Open(key) => &key.signer.public_key().short_fingerprint(),
                State::Locked(_) => "locked",
                State::Failed(error) => {
                    error.causes().last().map_or(error.message(), |cause| cause)
                }
            };
            format!("{} ({what})", source.title())
        });
        let (shown, title) = (shown.collect::<Vec<_>>(), stored.title());
        let message = match &shown[..] {
            [one] => format!("{one} does not match {title}"),
            several => format!("none of these keys matches {title}: {}", several.join(", ")),
        };
        let kind = if errors(states).count() == states.len() {
            Kind::Key
        } else {
            Kind::Mismatch
        };
        let hint = format!("nothing was sent; you need the private key for {wanted}");
        Error::new(kind, message).hint(hint)
    }
}

impl Prover for Keyring<'_> {
    fn open(&self) {
        Keyring::open(self);
    }

    fn new_key(&self) -> Option<PublicKey> {
        let key = self.ready().pop()?.ok().filter(|_| self.has_new)?;
        Some(key.signer.public_key().clone())
    }

    fn find(&self, signatory: &Signatory) -> Result<Key> {
        match &signatory.stored {
            Some(stored) => Keyring::find(self, stored),
            None => Keyring::new_key(self),
        }
    }
}

impl State {
    fn new(source: &dyn KeySource, signer: Result<Box<dyn Signer>>) -> Self {
        match signer {
            Ok(signer) => State::Open(Key {
                title: source.title(),
                signer: Arc::from(signer),
            }),
            Err(error) => State::Failed(error),
        }
    }

    /// The key; prompts if needed, at most once.
    fn unlocked(&mut self, source: &dyn KeySource, observer: &dyn Observer) -> Result<Key> {
        if let State::Locked(unlock) = self
            && let Some(unlock) = unlock.take()
        {
            observer.event(Event::WaitingForPerson(&source.title()));
            *self = Self::new(source, unlock());
        }
        match self {
            State::Open(key) => Ok(key.clone()),
            State::Failed(error) => Err(error.clone()),
            State::Locked(_) => unreachable!("it was unlocked above"),
        }
    }
}

fn errors(states: &[State]) -> impl Iterator<Item = &Error> {
    states.iter().filter_map(|state| match state {
        State::Failed(error) => Some(error),
        _ => None,
    })
}

/// The signal that ended the work: no more prompts.
fn interruption(states: &[State]) -> Option<&Error> {
    errors(states).find(|error| error.kind().is_interruption())
}

fn open(source: &dyn KeySource) -> State {
    match source.open() {
        Ok(Opened::Signer(signer)) => State::new(source, Ok(signer)),
        Ok(Opened::Locked(unlock)) => State::Locked(Some(unlock)),
        Err(error) => State::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ceremony::fakes::{FakeSource, Opening, Rendezvous, World, assert_tells, failed};

    fn stored(source: &FakeSource) -> StoredKey {
        World::default().store("lock-2026", "", source.public_key())
    }

    fn opened<'a>(sources: &[&'a FakeSource]) -> Keyring<'a> {
        let keyring = Keyring::new(sources.iter().map(|source| *source as _).collect());
        keyring.open();
        keyring
    }

    fn title(found: Result<Key>) -> String {
        found.unwrap().title
    }

    #[test]
    fn sources_open_concurrently() {
        let rendezvous = Rendezvous::of(3);
        let [a, b, c] =
            ["a", "b", "c"].map(|title| FakeSource::new(title).meeting_when_opened(&rendezvous));
        opened(&[&a, &b, &c]);
    }

    #[test]
    fn stored_key_is_found_at_any_position() {
        let [a, b, c] = ["a", "b", "c"].map(FakeSource::new);
        let keyring = opened(&[&a, &b, &c]);
        for source in [&c, &a, &b, &c] {
            let key = keyring.find(&stored(source)).unwrap();
            assert_eq!(key.signer.public_key(), source.public_key());
        }
        assert_eq!([a.opened(), b.opened(), c.opened()], [1, 1, 1]);
    }

    #[test]
    fn no_prompt_if_an_open_key_matches() {
        let locked = FakeSource::new("locked").opening(Opening::Asks);
        let open = FakeSource::new("open");
        let keyring = opened(&[&locked, &open]);
        assert_eq!(title(keyring.find(&stored(&open))), "open");
        assert_eq!(locked.asked(), 0);
    }

    #[test]
    fn encrypted_keys_are_prompted_in_order_once_each() {
        let [a, b, c] = ["a", "b", "c"].map(|title| FakeSource::new(title).opening(Opening::Asks));
        let open = FakeSource::new("open");
        let keyring = opened(&[&a, &open, &b, &c]);
        assert_eq!(title(keyring.find(&stored(&b))), "b");
        assert_eq!([a.asked(), b.asked(), c.asked()], [1, 1, 0]);
        assert_eq!(title(keyring.find(&stored(&a))), "a");
        assert_eq!([a.asked(), b.asked(), c.asked()], [1, 1, 0]);
        assert_eq!(title(keyring.find(&stored(&c))), "c");
        assert_eq!([a.asked(), b.asked(), c.asked()], [1, 1, 1]);
        assert_eq!([a.opened(), b.opened(), c.opened()], [1, 1, 1]);
    }

    #[test]
    fn key_with_wrong_passphrase_is_skipped_and_not_prompted_again() {
        let wrong = FakeSource::new("wrong").opening(Opening::AsksInVain(Kind::Key));
        let right = FakeSource::new("right").opening(Opening::Asks);
        let keyring = opened(&[&wrong, &right]);
        assert_eq!(title(keyring.find(&stored(&right))), "right");
        let error = failed(keyring.find(&stored(&wrong)), Kind::Mismatch, 4);
        assert_tells(&error, "wrong (cannot open wrong)");
        assert_eq!(wrong.asked(), 1);
    }

    #[test]
    fn threads_needing_the_same_key_prompt_once() {
        let source = FakeSource::new("locked").opening(Opening::Asks);
        let keyring = opened(&[&source]);
        let start = Rendezvous::of(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.meet();
                    assert_eq!(title(keyring.find(&stored(&source))), "locked");
                });
            }
        });
        assert_eq!(source.asked(), 1);
    }

    #[test]
    fn no_prompt_after_signal() {
        let kind = Kind::Interrupted;
        let wanted = stored(&FakeSource::new("elsewhere"));
        let stopped = FakeSource::new("stopped").opening(Opening::AsksInVain(kind));
        let [before, after] =
            ["before", "after"].map(|title| FakeSource::new(title).opening(Opening::Asks));
        let keyring = opened(&[&before, &stopped, &after]);
        for _ in 0..2 {
            failed(keyring.find(&wanted), kind, 130);
            assert_eq!([before.asked(), stopped.asked(), after.asked()], [1, 1, 0]);
        }

        let stopped = FakeSource::new("stopped").opening(Opening::Fails(kind));
        let locked = FakeSource::new("locked").opening(Opening::Asks);
        let keyring = opened(&[&locked, &stopped]);
        failed(keyring.find(&wanted), kind, 130);
        assert_eq!(locked.asked(), 0);
    }

    #[test]
    fn only_source_reports_its_own_error() {
        let source = FakeSource::new("a").opening(Opening::Fails(Kind::Key));
        let keyring = opened(&[&source]);
        let error = failed(keyring.find(&stored(&source)), Kind::Key, 3);
        assert_eq!(error.message(), "cannot open a");
        let keyring = Keyring::new(Vec::new()).with_new(&source);
        let error = failed(keyring.new_key(), Kind::Key, 3);
        assert_eq!(error.message(), "cannot open a");
    }

    #[test]
    fn no_source_opening_is_a_key_error() {
        let a = FakeSource::new("a").opening(Opening::Fails(Kind::Key));
        let b = FakeSource::new("b").opening(Opening::AsksInVain(Kind::Key));
        let error = failed(opened(&[&a, &b]).find(&stored(&a)), Kind::Key, 3);
        assert_tells(&error, "a (cannot open a), b (cannot open b)");
    }

    #[test]
    fn no_matching_key_is_a_mismatch() {
        let wanted = FakeSource::new("elsewhere");
        let [a, b] = [FakeSource::new("a"), FakeSource::new("b")];
        let gone = FakeSource::new("gone").opening(Opening::Fails(Kind::Key));

        let error = failed(opened(&[&a]).find(&stored(&wanted)), Kind::Mismatch, 4);
        let shown = a.public_key().short_fingerprint();
        assert_tells(&error, &format!("a ({shown}) does not match"));

        let error = failed(
            opened(&[&a, &gone, &b]).find(&stored(&wanted)),
            Kind::Mismatch,
            4,
        );
        for source in [&a, &b, &wanted] {
            assert_tells(&error, &source.public_key().short_fingerprint());
        }
        assert_tells(&error, "gone (cannot open gone)");
        assert_tells(&error, "key 1 (\"lock-2026\")");
        assert_tells(&error, "nothing was sent");
    }

    #[test]
    fn no_prompt_for_stored_key_that_is_not_p256() {
        let locked = FakeSource::new("locked").opening(Opening::Asks);
        let stored = StoredKey {
            public_key: "bm8ga2V5".to_owned(),
            ..stored(&locked)
        };
        let error = failed(opened(&[&locked]).find(&stored), Kind::Mismatch, 4);
        assert_tells(&error, "not a P-256 key");
        assert_eq!(locked.asked(), 0);
    }

    #[test]
    fn new_key_is_prompted_once_and_only_when_needed() {
        let source = FakeSource::new("locked").opening(Opening::Asks);
        let keyring = Keyring::new(Vec::new()).with_new(&source);
        assert!(keyring.ready().iter().all(Result::is_err));
        assert_eq!(source.asked(), 0);
        for _ in 0..2 {
            assert_eq!(title(keyring.new_key()), "locked");
        }
        assert_eq!(keyring.ready().len(), 1);
        assert_eq!((source.opened(), source.asked()), (1, 1));
    }

    #[test]
    fn new_key_is_no_candidate_for_a_stored_key() {
        let [old, new] = ["old", "new"].map(|title| FakeSource::new(title).opening(Opening::Asks));
        let keyring = Keyring::new(vec![&old]).with_new(&new);
        failed(keyring.find(&stored(&new)), Kind::Mismatch, 4);
        assert_eq!(title(keyring.find(&stored(&old))), "old");
        assert_eq!((old.asked(), new.asked()), (1, 0));
        assert_eq!(title(keyring.new_key()), "new");
    }

    #[test]
    fn keyring_without_new_key_is_an_internal_error() {
        let source = FakeSource::new("a");
        failed(Keyring::new(vec![&source]).new_key(), Kind::Internal, 1);
    }
}
