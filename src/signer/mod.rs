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

use std::{sync::Arc, time::Duration};

pub use refusals::Refusals;
use source::Source;

use crate::{
    error::{Error, Kind, Reason, Result},
    public_key::PublicKey,
    secret::{self, Asker, Secret},
    signature::Signature,
};

/// An opened key source: it has a public key and makes signatures.
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

/// A signer whose signatures `sign` makes.
fn signer(
    public_key: PublicKey,
    caution: Caution,
    sign: impl Fn(&[u8]) -> Result<Signature> + Send + Sync + 'static,
) -> Box<dyn Signer> {
    Box::new(SignerOf {
        public_key,
        caution,
        sign,
    })
}

struct SignerOf<S> {
    public_key: PublicKey,
    caution: Caution,
    sign: S,
}

impl<S: Fn(&[u8]) -> Result<Signature> + Send + Sync> Signer for SignerOf<S> {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        (self.sign)(challenge)
    }

    fn caution(&self) -> Caution {
        self.caution
    }
}

/// What a failed signature may cost. In every case, a refusal rules out the key for the rest of the
/// run, and attempts run one at a time until the first signature succeeds.
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

/// The place of a private key, not opened yet.
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
    /// Reading its public key needs a prompt or costs a PIN attempt, so that waits until the key is
    /// needed.
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

/// What every kind of key source needs to open a key.
pub struct Context {
    pub asker: Asker,
    /// For each call to a signer.
    pub timeout: Duration,
    pub refusals: Refusals,
}

/// A cause that is not a library's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Note(String);

/// The error for an attribute with a secret that is never needed. Ignoring it would leave the user
/// believing that the key is protected.
fn never_asked(title: &str, why: &str, attribute: &str) -> Error {
    Error::new(Kind::Key, format!("{why}, so {attribute} has no effect"))
        .context(format!("cannot open {title}"))
}

/// Opens an encrypted key: now if the source supplies its passphrase, otherwise once it is needed,
/// with at most `tries` prompts. Messages about the passphrase name the key `title`.
fn open_encrypted(
    source: &Source,
    context: &Arc<Context>,
    title: String,
    tries: usize,
    open: impl Fn(Secret) -> Result<Box<dyn Signer>> + Send + 'static,
) -> Result<Opened> {
    let name = source.body().to_owned();
    let what = format!("the passphrase of {name}");
    let failed = move |error: secret::Error| secret_error(&title, "passphrase", &error);
    if let Some(secret) = source.secret()? {
        let passphrase = context.asker.read(&secret, &what).map_err(failed)?;
        return open(passphrase).map(Opened::Signer);
    }
    let context = context.clone();
    Ok(Opened::Locked(Box::new(move || {
        let mut attempt = 1;
        loop {
            match open(context.asker.ask(&what).map_err(&failed)?) {
                Err(error) if attempt < tries && error.reason() == Some(Reason::WrongSecret) => {
                    log::warn!("wrong passphrase for {name} (attempt {attempt} of {tries})");
                    attempt += 1;
                }
                result => return result,
            }
        }
    })))
}

/// The error for a missing secret, with the ways to supply one.
fn secret_error(title: &str, attribute: &str, error: &secret::Error) -> Error {
    use secret::Error::{Differ, Interrupted, NoInput, NoTerminal, NotUtf16, NothingTyped, Nul};
    let (secret, needed) = match attribute {
        "passphrase" => ("passphrase", "is encrypted"),
        _ => ("PIN", "needs a PIN"),
    };
    let attributes = format!(
        "for unattended use, append ?{attribute}-file=PATH (or {attribute}-env=VAR, \
         {attribute}-fd=N, {attribute}-command=COMMAND) to the key source"
    );
    let failed = |message: String| Error::new(Kind::Key, message);
    let unread = || failed(format!("cannot get the {secret} of {title}")).caused_by(error);
    match error {
        Interrupted(kind) => {
            let message = format!("interrupted while waiting for the {secret} of {title}");
            return Error::new(*kind, message);
        }
        Differ => return failed(error.to_string()).hint("run the command again"),
        Nul { .. } | NotUtf16 { .. } => {
            return unread().hint("it was not tried; convert it to UTF-8 without NUL bytes");
        }
        NoInput { .. } => failed(format!(
            "{title} {needed}, but --no-input forbids prompting"
        )),
        NoTerminal { .. } => failed(format!(
            "{title} {needed}, and there is no terminal to prompt on"
        )),
        NothingTyped { .. } => failed(format!("no {secret} entered for {title}")),
        _ => unread(),
    }
    .hint(attributes)
}
