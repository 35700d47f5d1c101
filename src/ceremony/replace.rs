//! Replacing a stored key: the old and the new private key sign one challenge.

use std::sync::Arc;

use super::{
    Outcome,
    challenge::Purpose,
    change::{Change, Comparison},
    find_key,
    proof::{Response, Role, Signatory},
    view::{Keys, View},
};
use crate::{
    cluster::{self, Check, Cluster, KeyRef, Replacement, StoredKey},
    error::{Error, Kind, Result},
    public_key::PublicKey,
};

/// The stored key to replace; the prover has the new one.
pub struct Replace {
    pub key: KeyRef,
}

/// What matters of the key store.
pub struct State {
    /// As it was last seen.
    pub stored: Arc<StoredKey>,
    keys: Keys,
}

impl Outcome<State> {
    /// The stored key before.
    pub fn old(&self) -> &StoredKey {
        &self.before.stored
    }

    /// The stored key as it is now; after a dry run as it was before.
    pub fn stored(&self) -> &StoredKey {
        &self.now().stored
    }

    /// The public half of the new key.
    ///
    /// # Panics
    /// Never: nothing can be compared without it.
    pub fn replacement(&self) -> &PublicKey {
        self.new_key.as_ref().expect("a replacement has a new key")
    }
}

impl Change for Replace {
    type State = State;

    fn observe(&self, view: &View<'_>, before: Option<&State>) -> Result<State> {
        let Some(before) = before else {
            let keys = view.keys()?;
            let stored = find_key(&keys, &self.key)?;
            return Ok(State { stored, keys });
        };
        let keys = view.keys_again()?;
        // It may have been renamed.
        let found = keys.iter().find(|key| key.id == before.stored.id);
        Ok(State {
            stored: found.unwrap_or(&before.stored).clone(),
            keys,
        })
    }

    fn challenge(&self, state: Option<&State>) -> Option<Purpose> {
        let key = match state {
            Some(state) => KeyRef::Id(state.stored.id.clone()),
            // Any other name must first be resolved to the id.
            None if self.key.is_addressable() => self.key.clone(),
            None => return None,
        };
        Some(Purpose::Replace(key))
    }

    fn roles(&self, state: &State, _: &[Arc<StoredKey>]) -> Result<Vec<Signatory>> {
        let old = Signatory::new(Role::Old, Some(&state.stored));
        Ok(vec![old, Signatory::new(Role::New, None)])
    }

    fn compare(&self, before: &State, now: &State, new_key: Option<&PublicKey>) -> Comparison {
        if let Err(error) = find_key(&now.keys, &KeyRef::Id(before.stored.id.clone())) {
            return Comparison::conflict("the key store no longer holds it".to_owned(), error);
        }
        let title = now.stored.title();
        match new_key {
            None => Comparison::NeedsNewKey,
            Some(new_key) if now.stored.holds(new_key) => Comparison::Met,
            Some(_) if is_same(&now.stored, &before.stored) => Comparison::Unmet,
            Some(_) => {
                let message = format!("{title} was replaced by someone else");
                let error = Error::new(Kind::Mismatch, message)
                    .hint("`qkey keys list` shows what it holds now");
                Comparison::conflict(format!("{title} holds a third key"), error)
            }
        }
    }

    fn submit(
        &self,
        cluster: &dyn Cluster,
        before: &State,
        response: &Response,
    ) -> cluster::Result<()> {
        let (_, old_signature) = response.of(Role::Old);
        let (new_key, new_signature) = response.of(Role::New);
        let replacement = Replacement {
            new_key,
            old_signature,
            new_signature,
        };
        cluster.replace_key(&before.stored.id, &replacement)
    }

    fn title(&self, state: &State) -> String {
        format!("replace {}", state.stored.title())
    }

    fn check(&self) -> Check<'_> {
        Check::Keys
    }

    fn warnings(&self, state: &State, new_key: Option<&PublicKey>) -> Vec<String> {
        let Some(new_key) = new_key.filter(|key| !state.stored.holds(key)) else {
            return Vec::new();
        };
        let other = state.keys.iter().find(|key| key.holds(new_key));
        let other = other.map(|other| format!("the new key is also stored as {}", other.title()));
        other.into_iter().collect()
    }
}

/// Whether both hold the same public key, even one that is not P-256.
fn is_same(now: &StoredKey, before: &StoredKey) -> bool {
    now.public_key == before.public_key || before.public_key().is_ok_and(|key| now.holds(&key))
}

#[cfg(test)]
mod tests;
