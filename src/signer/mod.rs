//! Signers: opened key sources. Each kind of key source is one file in this folder and one line in
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

    /// Signs exactly these bytes: ECDSA over their SHA-256, computed once, here or where the key
    /// lives. A token that shows its public keys without a login asks for its PIN on the first
    /// signature.
    ///
    /// # Errors
    /// Of kind [`Kind::Key`] when the key source cannot sign.
    fn sign(&self, challenge: &[u8]) -> Result<Signature>;

    /// What each signature puts at risk.
    fn caution(&self) -> Caution {
        Caution::FirstUse
    }
}

/// What a failed signature may cost. In every case, a refusal ends the use of the key, and attempts
/// run one at a time until the first signature succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caution {
    /// The first use decides: qkey does not handle the login or secret.
    FirstUse,
    /// The request carries a secret that may be wrong: any failure before the first success may be
    /// a refusal that was not recognized.
    Secret,
    /// A person may be prompted each time: one attempt at a time, always.
    EveryUse,
}

/// Where a private key lives, not opened yet.
pub trait KeySource: Sync {
    /// How messages name it.
    fn title(&self) -> String;

    /// Opens it as far as possible without a prompt.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self) -> Result<Opened>;
}

/// A key source that was opened.
pub enum Opened {
    Signer(Box<dyn Signer>),
    /// Showing its key needs a prompt or costs a PIN attempt, so it waits until the key is needed.
    Locked(Unlock),
}

/// Opens what was locked.
pub type Unlock = Box<dyn FnOnce() -> Result<Box<dyn Signer>> + Send>;

impl Opened {
    /// The signer; prompts if necessary.
    ///
    /// # Errors
    /// When prompting is not possible, or the secret is wrong.
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

/// The error for an attribute with a secret that is never needed. Ignoring it would leave the user
/// believing that the key is protected.
fn never_asked(title: &str, why: &str, attribute: &str) -> Error {
    Error::new(Kind::Key, format!("{why}, so {attribute} has no effect"))
        .context(format!("cannot open {title}"))
}

/// The error for a missing secret, with the ways to supply one.
fn secret_error(title: &str, attribute: &str, error: &secret::Error) -> Error {
    let attributes = format!(
        "for unattended use, append ?{attribute}-file=PATH (or {attribute}-env=VAR, \
         {attribute}-fd=N, {attribute}-command=COMMAND) to the key source"
    );
    let (secret, needed) = match attribute {
        "passphrase" => ("passphrase", format!("{title} is encrypted")),
        _ => ("PIN", format!("{title} needs a PIN")),
    };
    if let secret::Error::Interrupted(kind) = error {
        return Error::new(
            *kind,
            format!("interrupted while waiting for the {secret} of {title}"),
        );
    }
    let (message, hint) = match error {
        secret::Error::NoInput { .. } => (
            format!("{needed}, but --no-input forbids prompting"),
            attributes,
        ),
        secret::Error::NoTerminal { .. } => (
            format!("{needed}, and there is no terminal to prompt on"),
            attributes,
        ),
        secret::Error::NothingTyped { .. } => {
            (format!("no {secret} entered for {title}"), attributes)
        }
        secret::Error::Differ => (error.to_string(), "run the command again".to_owned()),
        other => {
            let hint = match other {
                secret::Error::Nul { .. } | secret::Error::NotUtf16 { .. } => {
                    "it was not tried; convert it to UTF-8 without NUL bytes".to_owned()
                }
                _ => attributes,
            };
            return Error::new(Kind::Key, format!("cannot get the {secret} of {title}"))
                .caused_by(other)
                .hint(hint);
        }
    };
    Error::new(Kind::Key, message).hint(hint)
}
