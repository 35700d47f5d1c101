//! Signers: opened key sources. A kind of key source is one file in this folder and one line in
//! [`source::KINDS`].

mod agent;
mod aws;
mod azure;
mod file;
mod gcp;
mod openssl;
mod pkcs11;
mod plugin;
pub mod source;
mod tool;
mod vault;

use std::time::Duration;

use crate::{
    error::{Error, Kind, Result},
    public_key::PublicKey,
    secret::{self, Asker},
    signature::Signature,
};

/// An opened key source: it has a public key, and signs.
pub trait Signer: Send + Sync {
    /// The public half of the key.
    fn public_key(&self) -> &PublicKey;

    /// Signs exactly these bytes: ECDSA over their SHA-256, which is computed once, here or where
    /// the key lives. A token that shows its public keys to everybody wants its PIN here, for the
    /// first signature.
    ///
    /// # Errors
    /// Of kind [`Kind::Key`] when the key source cannot sign.
    fn sign(&self, challenge: &[u8]) -> Result<Signature>;
}

/// Where a private key lives; nothing is opened yet.
pub trait KeySource: Sync {
    /// How messages name it.
    fn title(&self) -> String;

    /// Opens it, as far as that goes without asking anybody.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self) -> Result<Opened>;
}

/// A key source that was opened.
pub enum Opened {
    Signer(Box<dyn Signer>),
    /// A person must be asked, or a PIN spent, before it shows its key: only where it is needed.
    Locked(Unlock),
}

/// Opens what was locked.
pub type Unlock = Box<dyn FnOnce() -> Result<Box<dyn Signer>> + Send>;

impl Opened {
    /// The signer; asks where need be.
    ///
    /// # Errors
    /// When nobody may or can be asked, or the answer does not open it.
    pub fn unlock(self) -> Result<Box<dyn Signer>> {
        match self {
            Opened::Signer(signer) => Ok(signer),
            Opened::Locked(unlock) => unlock(),
        }
    }
}

/// What every kind of key source is given.
pub struct Context {
    pub asker: Asker,
    /// For each call to a signer.
    pub timeout: Duration,
}

/// The error of a key source that lacks a secret, with the ways to give one.
fn secret_error(title: &str, attribute: &str, error: &secret::Error) -> Error {
    if let secret::Error::Interrupted(kind) = error {
        return Error::new(
            *kind,
            format!("stopped by a signal before there was a {attribute} for {title}"),
        );
    }
    Error::new(Kind::Key, format!("there is no {attribute} for {title}"))
        .caused_by(error)
        .hint(format!(
            "an attribute of the key source gives it without a terminal: ?{attribute}-file=PATH, \
             {attribute}-env=VAR, {attribute}-fd=N or {attribute}-command=COMMAND"
        ))
}
