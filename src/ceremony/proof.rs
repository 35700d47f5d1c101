//! Proofs: what must be signed, by which keys, and the signatures.

use std::sync::Arc;

use super::{
    challenge::Purpose,
    observer::{Event, Observer},
};
use crate::{
    cluster::StoredKey,
    error::{Error, Kind, Result},
    parallel,
    public_key::PublicKey,
    signature::Signature,
    signer::Signer,
    text::quoted,
};

/// Whose signature a proof needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The key that the cluster does not store yet.
    New,
    /// The stored key that is replaced.
    Old,
    /// The stored key that locks a snapshot.
    Lock,
}

/// A signature that a proof needs.
#[derive(Clone, Debug)]
pub struct Signatory {
    pub role: Role,
    /// The stored key that must sign; `None` for a key that the cluster does not store yet.
    pub stored: Option<Arc<StoredKey>>,
}

impl Signatory {
    pub fn new(role: Role, stored: Option<&Arc<StoredKey>>) -> Self {
        let stored = stored.cloned();
        Self { role, stored }
    }
}

/// What must be signed, for what, and by whom.
#[derive(Clone, Debug)]
pub struct Request {
    pub purpose: Purpose,
    /// The exact text to sign; empty if no signature is needed.
    pub challenge: String,
    /// In the order of prompting.
    pub signatories: Vec<Signatory>,
}

/// The signatures for a [`Request`].
#[derive(Debug)]
pub struct Response(Vec<(Role, PublicKey, Signature)>);

impl Response {
    /// The public key that signed in `role`, and its signature.
    ///
    /// # Panics
    /// If the request did not have that role.
    pub fn of(&self, role: Role) -> (&PublicKey, &Signature) {
        let signed = self.0.iter().find(|(signed, ..)| *signed == role);
        let (_, key, signature) = signed.expect("every role that was requested has signed");
        (key, signature)
    }
}

/// A key that can sign, with its source's title.
#[derive(Clone)]
pub struct Key {
    pub title: String,
    pub signer: Arc<dyn Signer>,
}

impl Key {
    /// Signs a challenge, and verifies the signature with the key's own public half before it is used.
    fn sign(&self, challenge: &str, observer: &dyn Observer) -> Result<Signature> {
        let Self { title, signer } = self;
        log::info!("signing with {title}: {}", quoted(challenge));
        observer.event(Event::Signing(title));
        let signature = signer.sign(challenge.as_bytes())?;
        if signature.verifies(signer.public_key(), challenge.as_bytes()) {
            return Ok(signature);
        }
        let message = format!("the signature from {title} does not verify with its own public key");
        Err(Error::new(Kind::Key, message).hint(
            "nothing was sent; check that the key source signs SHA-256 with the key that it shows",
        ))
    }
}

/// Finds the keys, or the signatures, that a proof needs.
pub trait Prover: Sync {
    /// Opens the keys that need no prompt, during the first reads; only the first call does anything.
    fn open(&self);

    /// The public half of the new key, if it is known without a prompt.
    fn new_key(&self) -> Option<PublicKey>;

    /// The key for one role. Prompts if needed, at most once per key and run.
    ///
    /// # Errors
    /// Of kind `key` if the key does not open, of kind `mismatch` if no key matches.
    fn find(&self, signatory: &Signatory) -> Result<Key>;
}

/// Signs with all `keys`, concurrently.
pub(super) fn sign(request: &Request, keys: &[Key], observer: &dyn Observer) -> Result<Response> {
    let sign = |key: &Key| key.sign(&request.challenge, observer);
    let signatures = match keys {
        [one] => vec![sign(one)],
        several => parallel::each(several, sign),
    };
    let signed = request.signatories.iter().zip(keys).zip(signatures);
    let signed = signed.map(|((signatory, key), signature)| {
        Ok((signatory.role, key.signer.public_key().clone(), signature?))
    });
    signed.collect::<Result<_>>().map(Response)
}
