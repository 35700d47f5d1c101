//! What key sources refused in this run, so that it is not tried again.
//!
//! Tokens and TPMs lock after a few wrong attempts, and a user who declined must not be prompted for
//! each of five hundred snapshots.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use sha2::{Digest, Sha256};

use super::{Caution, Signer};
use crate::{
    error::{Error, Kind, Reason, Result},
    parallel::lock,
    secret::Secret,
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

/// What checks the passphrase of a key file.
pub fn holder_of(file: &Path) -> String {
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    format!("file:{}", file.display())
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
    /// For the key source `title`.
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
        let may_be_refusal = matches!(self, State::Untried)
            && caution == Caution::Secret
            && !error.kind().is_interruption();
        if is_refusal || may_be_refusal {
            *self = State::Refused {
                title: title.to_owned(),
                error: error.clone(),
            };
        }
    }

    /// # Errors
    /// The refusal; for another key, one that names the key that was refused first.
    fn expect_not_refused(&self, title: &str) -> Result<()> {
        match self {
            State::Untried | State::Proven => Ok(()),
            State::Refused {
                title: first,
                error,
            } if first == title => Err(error.clone()),
            State::Refused {
                title: first,
                error,
            } => {
                let why = format!("the same secret was already refused for {first} in this run");
                Err(refused_before(title, why, error))
            }
        }
    }
}

/// The error for `title` after another key met `error`; `why` says what they share.
pub fn refused_before(title: &str, why: String, error: &Error) -> Error {
    Error::new(Kind::Key, why)
        .context(format!("cannot use {title}"))
        .because(error.reason())
        .maybe_hint(error.hint_text().map(str::to_owned))
}

/// A signer behind the gate of its key source `title`.
pub fn guarded(title: String, gate: Arc<Gate>, signer: Box<dyn Signer>) -> Box<dyn Signer> {
    let (public_key, caution) = (signer.public_key().clone(), signer.caution());
    super::signer(public_key, caution, move |challenge| {
        gate.attempt(&title, caution, || signer.sign(challenge))
    })
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
