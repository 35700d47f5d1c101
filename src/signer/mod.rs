//! Signers: opened key sources. A kind of key source is one file in this folder and one line in
//! [`source::KINDS`].

mod file;
pub mod source;

use std::time::Duration;

use crate::{
    error::{Error, Kind},
    public_key::PublicKey,
    secret::{self, Asker, Asking},
    signature::Signature,
};

/// An opened key source: it has a public key, and signs.
pub trait Signer: Send + Sync {
    /// The public half of the key.
    fn public_key(&self) -> &PublicKey;

    /// Signs exactly these bytes: ECDSA over their SHA-256, which is computed once, here or where
    /// the key lives.
    ///
    /// # Errors
    /// Of kind [`Kind::Key`] when the key source cannot sign.
    fn sign(&self, challenge: &[u8]) -> Result<Signature, Error>;
}

/// Where a private key lives; nothing is opened yet.
pub trait KeySource: Sync {
    /// How messages name it.
    fn title(&self) -> String;

    /// Opens it.
    ///
    /// # Errors
    /// [`OpenError::NeedsInput`] where only a person could go on, and `asking` forbids to ask.
    fn open(&self, asking: Asking) -> Result<Box<dyn Signer>, OpenError>;
}

/// Why a key source did not open.
#[derive(Debug)]
pub enum OpenError {
    /// A person would have to be asked.
    NeedsInput(Error),
    Failed(Error),
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NeedsInput(error) | OpenError::Failed(error) => error,
        }
    }
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        OpenError::Failed(error)
    }
}

/// What every kind of key source is given.
pub struct Context {
    pub asker: Asker,
    /// For each call to a signer.
    pub timeout: Duration,
}

/// The error of a key source that lacks a secret, with the ways to give one.
fn secret_error(title: &str, attribute: &str, error: secret::Error) -> OpenError {
    let needs_input = error.needs_input();
    let kind = match error {
        secret::Error::Interrupted(kind) => kind,
        _ => Kind::Key,
    };
    let user_error = Error::new(kind, format!("cannot open {title}"))
        .caused_by(&error)
        .maybe_hint(needs_input.then(|| {
            format!(
                "give it without a terminal as an attribute of the key source: \
                 ?{attribute}-file=PATH, {attribute}-env=VAR, {attribute}-fd=N or {attribute}-command=COMMAND"
            )
        }));
    match needs_input {
        true => OpenError::NeedsInput(user_error),
        false => OpenError::Failed(user_error),
    }
}
