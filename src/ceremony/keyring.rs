//! The key sources that may hold the key which the cluster asks for.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    cluster::StoredKey,
    error::{Error, Kind, Result},
    parallel,
    signer::{KeySource, Opened, Signer, Unlock},
};

/// Some key sources, opened at most once each. A person is asked for a passphrase only once it is
/// known to be needed: the cluster has answered, and no key that opens by itself is the right one.
pub struct Keyring<'a> {
    sources: Vec<&'a dyn KeySource>,
    states: Mutex<Vec<State>>,
}

enum State {
    Open(Key),
    /// Taken out while a person is asked.
    Locked(Option<Unlock>),
    Failed(Error),
}

/// An opened key, with its source's title.
#[derive(Clone)]
pub struct Key {
    pub title: String,
    pub signer: Arc<dyn Signer>,
}

impl<'a> Keyring<'a> {
    pub fn new(sources: Vec<&'a dyn KeySource>) -> Self {
        Self {
            sources,
            states: Mutex::default(),
        }
    }

    /// Opens, side by side, all that needs nobody to be asked.
    pub fn open(&self) {
        let states = parallel::each(&self.sources, |&source| open(source));
        *self.lock() = states;
    }

    /// For each source the key, if it opened without anybody being asked.
    pub fn ready(&self) -> Vec<Option<Key>> {
        let key = |state: &State| match state {
            State::Open(key) => Some(key.clone()),
            _ => None,
        };
        self.lock().iter().map(key).collect()
    }

    /// The sources that did not open, with the reason.
    pub fn unopened(&self) -> Vec<(String, Error)> {
        let states = self.lock();
        let reason = |(source, state): (&&dyn KeySource, &State)| match state {
            State::Open(_) => None,
            State::Locked(_) => Some((
                source.title(),
                Error::new(Kind::Key, "it would need a passphrase or a PIN"),
            )),
            State::Failed(error) => Some((source.title(), error.clone())),
        };
        self.sources
            .iter()
            .zip(states.iter())
            .filter_map(reason)
            .collect()
    }

    /// The only key in the ring; asks for its passphrase where need be.
    ///
    /// # Errors
    /// When it does not open.
    pub fn single(&self) -> Result<Key> {
        let mut states = self.lock();
        let (Some(source), Some(state)) = (self.sources.first(), states.first_mut()) else {
            return Err(Error::new(
                Kind::Internal,
                "a key was used before it was opened",
            ));
        };
        match state.unlocked(*source) {
            Ok(key) => Ok(key.clone()),
            Err(error) => Err(error.clone()),
        }
    }

    /// The key whose public half is the stored key; asks for passphrases as long as none is.
    ///
    /// # Errors
    /// Of kind `key` when the only source did not open, of kind `mismatch` when none is the key
    /// that the cluster holds.
    pub fn find(&self, stored: &StoredKey) -> Result<Key> {
        let wanted = stored.public_key().map_err(|error| {
            Error::new(
                Kind::Mismatch,
                format!(
                    "{} is not a P-256 key that could be compared",
                    stored.title()
                ),
            )
            .caused_by(&error)
        })?;
        let mut states = self.lock();
        let right = |key: &Key| *key.signer.public_key() == wanted;
        for state in states.iter() {
            if let State::Open(key) = state
                && right(key)
            {
                return Ok(key.clone());
            }
        }
        for (index, source) in self.sources.iter().enumerate() {
            if interruption(&states).is_some() {
                break;
            }
            if let Ok(key) = states[index].unlocked(*source)
                && right(key)
            {
                return Ok(key.clone());
            }
        }
        Err(self.no_match(stored, &wanted.short_fingerprint(), &states))
    }

    fn no_match(&self, stored: &StoredKey, wanted: &str, states: &[State]) -> Error {
        let only = errors(states).next().filter(|_| states.len() == 1);
        if let Some(error) = interruption(states).or(only) {
            return error.clone();
        }
        let shown: Vec<String> = self
            .sources
            .iter()
            .zip(states)
            .map(|(source, state)| {
                let what = match state {
                    State::Open(key) => key.signer.public_key().short_fingerprint(),
                    State::Locked(_) => "locked".to_owned(),
                    State::Failed(error) => error
                        .causes()
                        .last()
                        .map_or(error.message(), String::as_str)
                        .to_owned(),
                };
                format!("{} ({what})", source.title())
            })
            .collect();
        let message = match &shown[..] {
            [one] => format!(
                "{one} is not the key that the cluster holds as {}",
                stored.title()
            ),
            several => format!(
                "none of these is the key that the cluster holds as {}: {}",
                stored.title(),
                several.join(", "),
            ),
        };
        let kind = match errors(states).count() == states.len() {
            true => Kind::Key,
            false => Kind::Mismatch,
        };
        Error::new(kind, message).hint(format!(
            "nothing was sent; the cluster holds {wanted}, and only its private half can sign here"
        ))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The key; asks where need be, once.
    fn unlocked(&mut self, source: &dyn KeySource) -> std::result::Result<&Key, &Error> {
        if let State::Locked(unlock) = self
            && let Some(unlock) = unlock.take()
        {
            *self = Self::new(source, unlock());
        }
        match self {
            State::Open(key) => Ok(key),
            State::Failed(error) => Err(error),
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

/// The signal that ended the work: nobody is to be asked any more.
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
    fn all_sources_open_side_by_side() {
        let rendezvous = Rendezvous::of(3);
        let [a, b, c] =
            ["a", "b", "c"].map(|title| FakeSource::new(title).meeting_when_opened(&rendezvous));
        opened(&[&a, &b, &c]);
    }

    #[test]
    fn the_key_that_the_cluster_holds_is_found_wherever_it_stands() {
        let [a, b, c] = ["a", "b", "c"].map(FakeSource::new);
        let keyring = opened(&[&a, &b, &c]);
        for source in [&c, &a, &b, &c] {
            let key = keyring.find(&stored(source)).unwrap();
            assert_eq!(key.signer.public_key(), source.public_key());
        }
        assert_eq!([a.opened(), b.opened(), c.opened()], [1, 1, 1]);
    }

    #[test]
    fn nobody_is_asked_while_a_key_that_opens_by_itself_is_the_right_one() {
        let locked = FakeSource::new("locked").opening(Opening::Asks);
        let open = FakeSource::new("open");
        let keyring = opened(&[&locked, &open]);
        assert_eq!(title(keyring.find(&stored(&open))), "open");
        assert_eq!(locked.asked(), 0);
    }

    #[test]
    fn locked_keys_are_asked_for_in_order_until_one_is_right_and_each_once() {
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
    fn a_key_whose_passphrase_is_wrong_is_passed_over_and_not_asked_for_again() {
        let wrong = FakeSource::new("wrong").opening(Opening::AsksInVain(Kind::Key));
        let right = FakeSource::new("right").opening(Opening::Asks);
        let keyring = opened(&[&wrong, &right]);
        assert_eq!(title(keyring.find(&stored(&right))), "right");
        let error = failed(keyring.find(&stored(&wrong)), Kind::Mismatch, 4);
        assert_tells(&error, "wrong (cannot open wrong)");
        assert_eq!(wrong.asked(), 1);
    }

    #[test]
    fn threads_that_need_the_same_locked_key_ask_once() {
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
    fn nobody_is_asked_after_a_signal() {
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
    fn when_the_only_source_does_not_open_its_own_error_is_told() {
        let source = FakeSource::new("a").opening(Opening::Fails(Kind::Key));
        let keyring = opened(&[&source]);
        let error = failed(keyring.find(&stored(&source)), Kind::Key, 3);
        assert_eq!(error.message(), "cannot open a");
        let error = failed(keyring.single(), Kind::Key, 3);
        assert_eq!(error.message(), "cannot open a");
    }

    #[test]
    fn when_no_source_opens_it_is_the_keys_fault() {
        let a = FakeSource::new("a").opening(Opening::Fails(Kind::Key));
        let b = FakeSource::new("b").opening(Opening::AsksInVain(Kind::Key));
        let error = failed(opened(&[&a, &b]).find(&stored(&a)), Kind::Key, 3);
        assert_tells(&error, "a (cannot open a), b (cannot open b)");
    }

    #[test]
    fn when_a_source_opened_and_none_is_right_it_is_a_mismatch() {
        let wanted = FakeSource::new("elsewhere");
        let [a, b] = [FakeSource::new("a"), FakeSource::new("b")];
        let gone = FakeSource::new("gone").opening(Opening::Fails(Kind::Key));

        let error = failed(opened(&[&a]).find(&stored(&wanted)), Kind::Mismatch, 4);
        let shown = a.public_key().short_fingerprint();
        assert_tells(&error, &format!("a ({shown}) is not the key"));

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
    fn nobody_is_asked_for_a_stored_key_that_is_not_p256() {
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
    fn a_single_key_is_asked_for_once_and_only_when_needed() {
        let source = FakeSource::new("locked").opening(Opening::Asks);
        let keyring = opened(&[&source]);
        assert!(keyring.ready().iter().all(Option::is_none));
        assert_eq!(source.asked(), 0);
        for _ in 0..2 {
            assert_eq!(title(keyring.single()), "locked");
        }
        assert_eq!(keyring.ready().len(), 1);
        assert_eq!((source.opened(), source.asked()), (1, 1));
    }

    #[test]
    fn a_key_that_was_never_opened_is_an_error_of_its_own() {
        let source = FakeSource::new("a");
        failed(Keyring::new(vec![&source]).single(), Kind::Internal, 1);
    }
}
