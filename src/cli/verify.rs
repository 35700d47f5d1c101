//! `qkey verify`

use std::path::Path;

use clap::Args;
use sha2::{Digest, Sha256};

use super::{
    session::Session,
    sign::{Challenge, read_input},
};
use crate::{
    error::{Error, Kind, Result},
    public_key::PublicKey,
    report::key::Verified,
    signature::Signature,
    signer::KeySource,
    text::{quote, quote_path},
};

/// Verify a signature over a challenge without a cluster
#[derive(Args)]
pub struct Verify {
    /// Public key in any encoding: file, `-` for stdin, or one line of Base64
    #[arg(
        long,
        value_name = "PUBLIC-KEY",
        required_unless_present = "key",
        conflicts_with = "key"
    )]
    public_key: Option<String>,
    /// Private key whose public half to use: path, URI or configured name
    #[arg(long, value_name = "SOURCE")]
    key: Option<String>,
    /// Signature in any encoding: file, `-` for stdin, Base64 or hexadecimal
    #[arg(long, value_name = "SIGNATURE")]
    signature: String,
    #[command(flatten)]
    challenge: Challenge,
}

impl Verify {
    pub fn run(&self, session: &Session) -> Result<()> {
        self.check_stdin(session)?;
        let public_key = self.public_key(session)?;
        let fingerprint = public_key.fingerprint();
        let signature = self.signature()?;
        let challenge = self.challenge.read()?;
        if !signature.verifies(&public_key, &challenge) {
            let message =
                format!("the signature was not made by {fingerprint} over this challenge");
            let hint = diagnose(&signature, &public_key, &challenge);
            return Err(Error::new(Kind::Mismatch, message).maybe_hint(hint.map(str::to_owned)));
        }
        let object = Verified {
            key: (&public_key).into(),
            verified: true,
            signature: signature.to_base64(),
        };
        let text = format!("Verified: {fingerprint} signed this challenge.");
        session.output.result(&text, &object)
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
        if readers.into_iter().filter(|&reads| reads).count() > 1 {
            return Err(Error::new(Kind::Usage, "only one option may read stdin")
                .hint("save the others to files"));
        }
        Ok(())
    }

    fn public_key(&self, session: &Session) -> Result<PublicKey> {
        if let Some(key) = &self.key {
            let signer = session.key_source(key)?.open()?.unlock()?;
            return Ok(signer.public_key().clone());
        }
        let text = self.public_key.as_deref().unwrap_or_default();
        let bytes = file_or_text(text, "the public key")?;
        PublicKey::from_any(&bytes).map_err(|error| {
            let hint = error.hint();
            let hint = hint.map(|hint| hint.replace("FILE", &quote_path(Path::new(text))));
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
            Error::new(Kind::Mismatch, "not an ECDSA P-256 signature")
                .caused_by(&error)
                .hint(no_such_file(&self.signature).unwrap_or_else(|| hint.to_owned()))
        })
    }
}

/// The contents of the file, or the text itself if no such file exists.
fn file_or_text(text: &str, what: &str) -> Result<Vec<u8>> {
    if text == "-" || Path::new(text).exists() {
        read_input(Path::new(text), what)
    } else {
        Ok(text.as_bytes().to_vec())
    }
}

/// A hint if the text looks like a path but no such file exists.
fn no_such_file(text: &str) -> Option<String> {
    let looks_like_path = text.contains(['/', '.']) && !text.contains(char::is_whitespace);
    (looks_like_path && !Path::new(text).exists())
        .then(|| format!("file {} does not exist; check the path", quote(text)))
}

/// A hint for the usual mistakes.
fn diagnose(signature: &Signature, key: &PublicKey, challenge: &[u8]) -> Option<&'static str> {
    let with_newline = [challenge, b"\n"].concat();
    let without_newline = challenge.strip_suffix(b"\n").unwrap_or(challenge);
    [
        (
            &with_newline[..],
            "it was made over the challenge with a trailing newline; sign without it",
        ),
        (
            without_newline,
            "it was made over the challenge without its trailing newline",
        ),
        (
            &Sha256::digest(challenge),
            "it was made over the SHA-256 of the challenge, hashed again; pass the challenge itself to the signing tool, or tell the tool that its input is a digest",
        ),
    ]
    .into_iter()
    .find_map(|(signed, hint)| signature.verifies(key, signed).then_some(hint))
}
