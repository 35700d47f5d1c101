//! `qkey verify`

use std::path::Path;

use clap::Args;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    keys::public_key_object,
    session::Session,
    sign::{Challenge, read_input},
};
use crate::{
    error::{Error, Kind, Result},
    public_key::PublicKey,
    signature::Signature,
    signer::KeySource,
    text::{quote, quote_path},
};

/// Check a signature over a challenge, without a cluster
#[derive(Args)]
pub struct Verify {
    /// The public key, in any form: a file, `-` for stdin, or the one-line Base64 itself
    #[arg(
        long,
        value_name = "PUBLIC-KEY",
        required_unless_present = "key",
        conflicts_with = "key"
    )]
    public_key: Option<String>,
    /// A private key whose public half to use: a path, a URI, or a name of the configuration file
    #[arg(long, value_name = "SOURCE")]
    key: Option<String>,
    /// The signature, in any form: a file, `-` for stdin, or the Base64 or hexadecimal itself
    #[arg(long, value_name = "SIGNATURE")]
    signature: String,
    #[command(flatten)]
    challenge: Challenge,
}

impl Verify {
    pub fn run(&self, session: &Session) -> Result<()> {
        self.check_stdin(session)?;
        let public_key = self.public_key(session)?;
        let signature = self.signature()?;
        let challenge = self.challenge.read()?;
        if !signature.verifies(&public_key, &challenge) {
            let message = format!(
                "the signature is not one of {} over this challenge",
                public_key.fingerprint()
            );
            return Err(Error::new(Kind::Mismatch, message).maybe_hint(diagnose(
                &signature,
                &public_key,
                &challenge,
            )));
        }
        let mut object = public_key_object(&public_key);
        object["verified"] = json!(true);
        object["signature"] = json!(signature.to_base64());
        session.output.result(
            &format!(
                "Verified: {} signed this challenge.",
                public_key.fingerprint()
            ),
            &object,
        )
    }

    fn check_stdin(&self, session: &Session) -> Result<()> {
        let key_on_stdin = match &self.key {
            Some(key) => session.key_source(key)?.source.reads_stdin(),
            None => self.public_key.as_deref() == Some("-"),
        };
        let readers = [
            key_on_stdin,
            self.signature == "-",
            self.challenge.reads_stdin(),
        ];
        match readers.into_iter().filter(|&reads| reads).count() {
            0 | 1 => Ok(()),
            _ => Err(
                Error::new(Kind::Usage, "two things are to be read from stdin")
                    .hint("put one of them into a file"),
            ),
        }
    }

    fn public_key(&self, session: &Session) -> Result<PublicKey> {
        if let Some(key) = &self.key {
            let signer = session.key_source(key)?.open()?.unlock()?;
            return Ok(signer.public_key().clone());
        }
        let text = self.public_key.as_deref().unwrap_or_default();
        let bytes = file_or_text(text, "the public key")?;
        PublicKey::from_any(&bytes).map_err(|error| {
            let hint = error
                .hint()
                .map(|hint| hint.replace("FILE", &quote_path(Path::new(text))));
            Error::new(Kind::Key, "cannot use the public key")
                .caused_by(&error)
                .maybe_hint(no_such_file(text).or(hint))
        })
    }

    fn signature(&self) -> Result<Signature> {
        let bytes = file_or_text(&self.signature, "the signature")?;
        Signature::from_any(&bytes).map_err(|error| {
            let hint =
                "give Base64 or hexadecimal, or a file with either, with DER, or with 64 raw bytes";
            Error::new(Kind::Mismatch, "that is no ECDSA P-256 signature")
                .caused_by(&error)
                .hint(no_such_file(&self.signature).unwrap_or_else(|| hint.to_owned()))
        })
    }
}

/// What is at a path, or else the text itself.
fn file_or_text(text: &str, what: &str) -> Result<Vec<u8>> {
    match text == "-" || Path::new(text).exists() {
        true => read_input(Path::new(text), what),
        false => Ok(text.as_bytes().to_vec()),
    }
}

/// What was probably meant as a path, if it is none.
fn no_such_file(text: &str) -> Option<String> {
    let looks_like_path = text.contains(['/', '.']) && !text.contains(char::is_whitespace);
    (looks_like_path && !Path::new(text).exists())
        .then(|| format!("there is no file {}; check the path", quote(text)))
}

/// What went wrong, if it is one of the usual mistakes.
fn diagnose(signature: &Signature, key: &PublicKey, challenge: &[u8]) -> Option<String> {
    let with_newline = [challenge, b"\n"].concat();
    if signature.verifies(key, &with_newline) {
        return Some(
            "it is one over the challenge with a newline after it: sign without".to_owned(),
        );
    }
    if let Some(without) = challenge.strip_suffix(b"\n")
        && signature.verifies(key, without)
    {
        return Some("it is one over the challenge without its last newline".to_owned());
    }
    if signature.verifies(key, &Sha256::digest(challenge)) {
        return Some("it is one over the SHA-256 of the challenge, hashed again: give the tool the challenge, or tell it that the input is a digest".to_owned());
    }
    None
}
