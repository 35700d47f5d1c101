//! The key sources that may hold the key which the cluster asks for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use crate::{
    cluster::StoredKey,
    error::{Error, Kind, Result},
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
        let states = thread::scope(|scope| {
            let threads: Vec<_> = self
                .sources
                .iter()
                .map(|source| scope.spawn(|| open(*source)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("opening a key source does not panic"))
                .collect()
        });
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
        for (source, state) in self.sources.iter().zip(states.iter_mut()) {
            if let Ok(key) = state.unlocked(*source)
                && right(key)
            {
                return Ok(key.clone());
            }
        }
        Err(self.no_match(stored, &wanted.short_fingerprint(), &states))
    }

    fn no_match(&self, stored: &StoredKey, wanted: &str, states: &[State]) -> Error {
        let errors = || {
            states.iter().filter_map(|state| match state {
                State::Failed(error) => Some(error),
                _ => None,
            })
        };
        let interruption = errors().find(|error| error.kind().is_interruption());
        let only = errors().next().filter(|_| states.len() == 1);
        if let Some(error) = interruption.or(only) {
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
        let kind = match errors().count() == states.len() {
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

fn open(source: &dyn KeySource) -> State {
    match source.open() {
        Ok(Opened::Signer(signer)) => State::new(source, Ok(signer)),
        Ok(Opened::Locked(unlock)) => State::Locked(Some(unlock)),
        Err(error) => State::Failed(error),
    }
}
