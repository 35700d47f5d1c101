//! Signers: opened key sources. A kind of key source is one file in this folder and one line in
//! [`registry::KINDS`].

mod agent;
mod aws;
mod azure;
mod file;
mod gcp;
mod openssl;
mod pkcs11;
mod plugin;
mod refusals;
pub mod registry;
pub mod source;
mod tool;
mod uri;
mod vault;

use std::time::Duration;

pub use refusals::Refusals;

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

    /// What each signature puts at risk.
    fn caution(&self) -> Caution {
        Caution::FirstUse
    }
}

/// How carefully to ask for a signature. Whatever it is, a refusal ends the use of the key, and
/// until a first signature has succeeded there is one attempt at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caution {
    /// The first use decides: the login or secret is not ours.
    FirstUse,
    /// A secret goes along that may be wrong: any failure before the first success may have been a
    /// refusal, in words that are not known.
    Secret,
    /// A person may be asked each time: always one attempt at a time.
    EveryUse,
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
    pub refusals: Refusals,
}

/// The error of a key source whose attribute gives a secret that nothing asks for. Ignoring it would
/// leave the user believing that the key is protected.
fn never_asked(title: &str, why: &str, attribute: &str) -> Error {
    Error::new(Kind::Key, format!("{why}, so {attribute} is never used"))
        .context(format!("cannot open {title}"))
}

/// The error of a key source that lacks a secret, with the ways to give one.
fn secret_error(title: &str, attribute: &str, error: &secret::Error) -> Error {
    if let secret::Error::Interrupted(kind) = error {
        return Error::new(
            *kind,
            format!("stopped by a signal before there was a {attribute} for {title}"),
        );
    }
    let hint = match error {
        secret::Error::Nul { .. } | secret::Error::NotUtf16 { .. } => {
            "it was not tried; convert it to UTF-8 text without NUL bytes".to_owned()
        }
        _ => format!(
            "an attribute of the key source gives it without a terminal: ?{attribute}-file=PATH, \
             {attribute}-env=VAR, {attribute}-fd=N or {attribute}-command=COMMAND"
        ),
    };
    Error::new(Kind::Key, format!("there is no {attribute} for {title}"))
        .caused_by(error)
        .hint(hint)
}
