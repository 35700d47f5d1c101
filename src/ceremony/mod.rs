//! Changes of a cluster, and what must be proven for them. They use a
//! [`Cluster`](crate::cluster::Cluster) and [key sources](crate::signer::KeySource), but no processes
//! and no terminal.
//!
//! A [change](change::Change) is data: one [driver](driver::Driver) runs all of them by the same rules.
//! Independent steps run concurrently. Nothing is sent before the right key is found and its signature
//! verifies here. A refusal is believed only if the challenge did not change in the meantime. After a
//! lost reply, the cluster's state is read, and nothing is submitted again.

pub mod add;
pub mod challenge;
pub mod change;
pub mod driver;
#[cfg(test)]
pub(crate) mod fakes;
mod keyring;
pub mod lock;
pub mod observer;
pub mod proof;
pub mod replace;
mod submission;
#[cfg(test)]
mod tests;
pub mod unlock;
pub mod view;

use std::borrow::Borrow;

pub use driver::{Ending, Outcome, run};
pub use keyring::Keyring;
pub(crate) use submission::POLL_PAUSES;

use crate::{
    cluster::{KeyRef, StoredKey},
    error::{Error, Kind, Result},
    suggest,
    text::quoted,
};

/// The stored key that `reference` means.
///
/// # Errors
/// Of kind `refused` if it is not in the key store.
pub fn find_key<K: Borrow<StoredKey> + Clone>(keys: &[K], reference: &KeyRef) -> Result<K> {
    let mut found = keys.iter().filter(|key| reference.matches((*key).borrow()));
    if let Some(key) = found.next() {
        return match found.next() {
            None => Ok(key.clone()),
            Some(other) => {
                let [key, other] = [key, other].map(|key| key.borrow().title());
                let message = format!("{key} and {other} have the same public half");
                Err(Error::new(Kind::Refused, message).hint("give the key's id"))
            }
        };
    }
    let wanted = match reference {
        KeyRef::Id(id) => format!("with id {id}"),
        KeyRef::Name(name) => format!("named {}", quoted(name)),
        KeyRef::Fingerprint(fingerprint) => format!("with the fingerprint {fingerprint}"),
    };
    let names = keys.iter().map(|key| key.borrow().name.as_str());
    let nearest = suggest::nearest(reference.as_str(), names);
    let hint = match nearest.filter(|_| !matches!(reference, KeyRef::Fingerprint(_))) {
        Some(name) => format!(
            "did you mean {}? `qkey keys list` shows them all",
            quoted(name)
        ),
        None if matches!(reference, KeyRef::Fingerprint(_)) => {
            "a key that was replaced has another fingerprint: `qkey keys list --wide` shows it"
                .to_owned()
        }
        None => "`qkey keys list` shows them all".to_owned(),
    };
    let message = format!("no lock key {wanted}");
    Err(Error::new(Kind::Refused, message).hint(hint))
}
