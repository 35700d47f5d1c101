//! What key sources refused in this run, so that it is not tried again.
//!
//! Tokens and TPMs lock after a few wrong attempts, and a user who declined must not be prompted for
//! each of five hundred snapshots.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

use super::{Caution, Signer};
use crate::{
    error::{Error, Kind, Reason, Result},
    public_key::PublicKey,
    secret::Secret,
    signature::Signature,
};

/// The gates of everything opened or tried in this run.
#[derive(Default)]
pub struct Refusals {
    gates: Mutex<BTreeMap<Scope, Arc<Gate>>>,
}

/// What a refusal applies to.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// One key source, as its parts.
    Source(Vec<String>),
    /// One secret (or none) at whatever counts the attempts: a key file, a token, a TPM.
    Secret {
        holder: String,
        digest: Option<[u8; 32]>,
    },
}

impl Refusals {
    /// The gate of the key source that `parts` identify.
    pub fn of_source(&self, parts: Vec<String>) -> Arc<Gate> {
        self.gate(Scope::Source(parts))
    }

    /// The gate of a secret that `holder` checks, for any key that it opens there.
    pub fn of_secret(&self, holder: &str, secret: Option<&Secret>) -> Arc<Gate> {
        self.gate(Scope::Secret {
            holder: holder.to_owned(),
            digest: secret.map(|secret| Sha256::digest(secret.as_bytes()).into()),
        })
    }

    fn gate(&self, scope: Scope) -> Arc<Gate> {
        lock(&self.gates).entry(scope).or_default().clone()
    }
}

/// Lets attempts through one at a time until one succeeds, and none after a refusal.
#[derive(Default)]
pub struct Gate(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Untried,
    Proven,
    Refused {
        title: String,
        error: Error,
    },
}

impl Gate {
    /// Opens the key source `title`. That does not prove the secret: many sources show the public key
    /// without one.
    ///
    /// # Errors
    /// Those of `open`, and those of an earlier refusal.
    pub fn open<T>(&self, title: &str, open: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = lock(&self.0);
        state.expect_not_refused(title)?;
        open().inspect_err(|error| state.note(title, error, Caution::FirstUse))
    }

    /// Uses the key or the secret of `title`.
    ///
    /// # Errors
    /// Those of `attempt`, and those of an earlier refusal.
    pub fn attempt<T>(
        &self,
        title: &str,
        caution: Caution,
        attempt: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut state = lock(&self.0);
        state.expect_not_refused(title)?;
        if matches!(*state, State::Proven) && caution != Caution::EveryUse {
            drop(state);
            return attempt().inspect_err(|error| lock(&self.0).note(title, error, caution));
        }
        let result = attempt();
        match &result {
            Ok(_) => *state = State::Proven,
            Err(error) => state.note(title, error, caution),
        }
        result
    }
}

impl State {
    fn note(&mut self, title: &str, error: &Error, caution: Caution) {
        let is_refusal = error.reason().is_some_and(Reason::rules_out_key);
        let may_be_refusal =
            matches!(self, State::Untried) && caution == Caution::Secret && !is_stopped(error);
        if is_refusal || may_be_refusal {
            *self = State::Refused {
                title: title.to_owned(),
                error: error.clone(),
            };
        }
    }

    /// # Errors
    /// The refusal, or for another key, which key it was refused for first.
    fn expect_not_refused(&self, title: &str) -> Result<()> {
        match self {
            State::Untried | State::Proven => Ok(()),
            State::Refused {
                title: first,
                error,
            } => Err(refused_before(title, first, error)),
        }
    }
}

/// The error for `title` after a refusal for `first`: the same error for the same key source,
/// otherwise one that names `first`.
pub fn refused_before(title: &str, first: &str, error: &Error) -> Error {
    if first == title {
        return error.clone();
    }
    let why = format!("the same secret was already refused for {first} in this run");
    Error::new(Kind::Key, why)
        .context(format!("cannot use {title}"))
        .because(error.reason())
        .maybe_hint(error.hint_text().map(str::to_owned))
}

fn is_stopped(error: &Error) -> bool {
    error.kind().is_interruption()
}

/// A signer behind the gate of its key source.
pub struct Guarded {
    pub title: String,
    pub gate: Arc<Gate>,
    pub signer: Box<dyn Signer>,
}

impl Signer for Guarded {
    fn public_key(&self) -> &PublicKey {
        self.signer.public_key()
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        self.gate
            .attempt(&self.title, self.caution(), || self.signer.sign(challenge))
    }

    fn caution(&self) -> Caution {
        self.signer.caution()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use super::*;

    fn refused(reason: impl Into<Option<Reason>>) -> Error {
        Error::new(Kind::Key, "cannot sign with a")
            .because(reason)
            .hint("check the PIN")
    }

    /// How many of eight concurrent attempts got through, all with the same outcome.
    fn let_through(gate: &Gate, caution: Caution, outcome: &Result<()>) -> usize {
        let (start, tried) = (Barrier::new(8), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let told = gate.attempt("a", caution, || {
                        tried.fetch_add(1, Ordering::SeqCst);
                        outcome.clone()
                    });
                    let message = |result: Result<()>| result.map_err(|e| e.message().to_owned());
                    assert_eq!(message(told), message(outcome.clone()));
                });
            }
        });
        tried.into_inner()
    }

    #[test]
    fn concurrent_attempts_try_refused_secret_once() {
        let without_reason = refused(None);
        for (caution, error, tries) in [
            (Caution::FirstUse, refused(Reason::WrongSecret), 1),
            (Caution::FirstUse, refused(Reason::LoggedOut), 1),
            (Caution::EveryUse, refused(Reason::NeedsPerson), 1),
            (Caution::Secret, without_reason.clone(), 1),
            (Caution::FirstUse, without_reason, 8),
            (Caution::Secret, Error::new(Kind::Interrupted, "stopped"), 8),
        ] {
            let tried = let_through(&Gate::default(), caution, &Err(error.clone()));
            assert_eq!(tried, tries, "{caution:?}: {error:?}");
        }
    }

    #[test]
    fn proven_secret_survives_unclassified_failure() {
        let gate = Gate::default();
        assert_eq!(let_through(&gate, Caution::Secret, &Ok(())), 8);
        assert_eq!(let_through(&gate, Caution::Secret, &Err(refused(None))), 8);
        let expired = Err(refused(Reason::LoggedOut));
        assert!(
            gate.attempt("a", Caution::Secret, || expired.clone())
                .is_err()
        );
        assert_eq!(let_through(&gate, Caution::Secret, &expired), 0);
    }

    #[test]
    fn opening_does_not_prove_secret() {
        let gate = Gate::default();
        assert_eq!(gate.open("a", || Ok(1)).ok(), Some(1));
        assert_eq!(let_through(&gate, Caution::Secret, &Err(refused(None))), 1);
    }

    #[test]
    fn refused_secret_names_first_key() {
        let refusals = Refusals::default();
        let secret = |text: &str| Secret::from(text.as_bytes().to_vec());
        let gate = |holder, text| refusals.of_secret(holder, Some(&secret(text)));
        let refuse = |gate: Arc<Gate>, title: &str| {
            gate.attempt::<()>(title, Caution::FirstUse, || {
                Err(refused(Reason::WrongSecret))
            })
            .unwrap_err()
        };
        refuse(gate("tpm", "1234"), "a");
        let second = refuse(gate("tpm", "1234"), "b");
        assert_eq!(
            second.chain(),
            "cannot use b: the same secret was already refused for a in this run"
        );
        assert_eq!(second.hint_text(), Some("check the PIN"));
        assert_eq!(second.reason(), Some(Reason::WrongSecret));
        for other in [
            gate("tpm", "4321"),
            gate("card", "1234"),
            refusals.of_secret("tpm", None),
        ] {
            assert_eq!(refuse(other, "b").message(), "cannot sign with a");
        }
    }
}
