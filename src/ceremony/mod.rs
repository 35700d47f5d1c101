//! Ceremonies: what must be proven, and in which order. They know a
//! [`Cluster`](crate::cluster::Cluster) and [key sources](crate::signer::KeySource), and neither
//! processes nor terminals.
//!
//! The rules are the same for all: independent steps run side by side; nothing is sent before the
//! key is known to be the right one and its signature verifies here; a refusal is believed only
//! if the challenge did not change meanwhile; an answer that was lost is looked up, never repeated.

pub mod add;
mod challenge;
#[cfg(test)]
pub(crate) mod fakes;
mod keyring;
pub mod lock;
pub mod replace;
mod submission;
pub mod unlock;

pub use keyring::{Key, Keyring};

use crate::{
    cluster::{self, KeyRef, StoredKey},
    error::{Error, Kind, Result},
    signature::Signature,
    signer::Signer,
    suggest,
    text::quoted,
};

/// How a ceremony that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The cluster holds the change.
    Done,
    /// The cluster held it before; nothing was sent.
    AlreadySo,
    /// Everything but the submission was done, as asked.
    DryRun,
}

/// Signs a challenge, and verifies the signature with the public key of `signer` before anybody
/// else sees it.
fn sign(title: &str, signer: &dyn Signer, challenge: &str) -> Result<Signature> {
    log::info!("signing with {title}: {}", quoted(challenge));
    let signature = signer.sign(challenge.as_bytes())?;
    match signature.verifies(signer.public_key(), challenge.as_bytes()) {
        true => Ok(signature),
        false => Err(Error::new(
            Kind::Key,
            format!("the signature that {title} made does not verify with its own public key"),
        )
        .hint(
            "nothing was sent; check that the key source signs SHA-256 with the key that it shows",
        )),
    }
}

/// The stored key that `reference` means.
///
/// # Errors
/// When the key store holds no such key.
pub fn find_key(keys: &[StoredKey], reference: &KeyRef) -> Result<StoredKey> {
    if let Some(key) = keys.iter().find(|key| reference.matches(key)) {
        return Ok(key.clone());
    }
    let wanted = match reference {
        KeyRef::Id(id) => format!("id {id}"),
        KeyRef::Name(name) => format!("name {}", quoted(name)),
    };
    let near = suggest::nearest(reference.as_str(), keys.iter().map(|key| key.name.as_str()));
    let hint = match near {
        Some(name) => format!(
            "did you mean {}? `qkey keys list` shows what it holds",
            quoted(name)
        ),
        None => "`qkey keys list` shows what it holds".to_owned(),
    };
    let message = format!("the key store holds no key with the {wanted}");
    Err(Error::new(Kind::Refused, message).hint(hint))
}

/// The refusal of a challenge that changed each time.
fn stale(refusal: &Error, attempts: u32) -> Error {
    let submissions = match attempts {
        1 => "the submission".to_owned(),
        several => format!("each of {several} submissions"),
    };
    Error::new(
        Kind::Refused,
        format!("the challenge changed before {submissions}"),
    )
    .caused_by_error(refusal)
    .hint("something keeps changing it (a name, a comment, an expiration); run this again, or give more --attempts")
}

/// The error after a refusal when the state could not be read: whatever kept it from being read
/// says less than the refusal itself, unless it is a signal.
fn not_explained(refusal: Error, failure: &cluster::Error) -> Error {
    let kind = failure.error.kind();
    match kind.is_interruption() {
        true => Error::new(kind, "stopped by a signal after the cluster had refused")
            .caused_by_error(&refusal),
        false => refusal,
    }
}
