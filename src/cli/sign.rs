//! `qkey sign`

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{keys::public_key_object, session::Session};
use crate::{
    error::{Error, Kind, Result},
    input, output,
    signature::Signature,
    signer::KeySource,
};

/// Sign a challenge, without a cluster
#[derive(Args)]
pub struct Sign {
    /// The private key: a path, a URI, or a name of the configuration file
    #[arg(long, value_name = "SOURCE")]
    key: String,
    #[command(flatten)]
    challenge: Challenge,
    /// The form to print
    #[arg(long, visible_alias = "encoding", value_enum, default_value_t = Form::Base64)]
    format: Form,
}

/// The bytes that are or were signed.
#[derive(Args)]
pub struct Challenge {
    /// The challenge itself; without it, or with `-`, stdin is read to its end
    #[arg(value_name = "CHALLENGE", conflicts_with = "challenge_file")]
    challenge: Option<OsString>,
    /// A file with the challenge, exact to the byte
    #[arg(long, visible_alias = "file", value_name = "PATH")]
    challenge_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One line of Base64 of the DER, as `qq --signature` takes it
    Base64,
    /// ASN.1 DER, binary
    Der,
    /// The DER in hexadecimal
    Hex,
    /// r and s, 32 bytes each, binary
    P1363,
}

impl Sign {
    pub fn run(&self, session: &Session) -> Result<()> {
        let key = session.key_source(&self.key)?;
        if key.source.reads_stdin() && self.challenge.reads_stdin() {
            return Err(Error::new(
                Kind::Usage,
                "key and challenge are both to be read from stdin",
            )
            .hint("give the challenge as an argument, or with --challenge-file"));
        }
        let output = &session.output;
        let binary = matches!(self.format, Form::Der | Form::P1363);
        if output.format == output::Format::Text && binary {
            output.check_takes_binary()?;
        }
        let challenge = self.challenge.read()?;
        if challenge.ends_with(b"\n") {
            log::warn!(
                "the challenge ends with a newline, which is signed along; the cluster's challenges have none"
            );
        }
        let signer = key.open()?.unlock()?;
        let signature = signer.sign(&challenge)?;
        if !signature.verifies(signer.public_key(), &challenge) {
            let message = format!("the signature that {} made does not verify", key.title());
            return Err(Error::new(Kind::Key, message)
                .hint("check that the key source signs SHA-256 with the key that it shows"));
        }
        let mut object = public_key_object(signer.public_key());
        // Output may wait for its reader; the private key does not wait with it.
        drop(signer);
        if output.format == output::Format::Text && binary {
            return output.raw(&self.bytes(&signature));
        }
        object["signature"] = json!(signature.to_base64());
        object["signature_hex"] = json!(signature.to_hex());
        let text = match self.format {
            Form::Hex => signature.to_hex(),
            _ => signature.to_base64(),
        };
        output.answer(|| text, &object)
    }

    fn bytes(&self, signature: &Signature) -> Vec<u8> {
        match self.format {
            Form::P1363 => signature.to_p1363(),
            _ => signature.to_der(),
        }
    }
}

impl Challenge {
    pub fn reads_stdin(&self) -> bool {
        match (&self.challenge, &self.challenge_file) {
            (Some(challenge), _) => challenge == "-",
            (None, Some(path)) => input::is_stdin(path),
            (None, None) => true,
        }
    }

    /// The challenge's exact bytes.
    ///
    /// # Errors
    /// Of kind `usage` when it cannot be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        match (&self.challenge, &self.challenge_file) {
            (Some(challenge), _) if challenge != "-" => Ok(challenge.clone().into_encoded_bytes()),
            (_, Some(path)) => read_input(path, "the challenge"),
            _ => read_input(Path::new("-"), "the challenge"),
        }
    }
}

/// More than this is no challenge, signature or public key.
const INPUT_LIMIT: usize = 16 << 20;

/// Reads a file, or stdin for `-`.
///
/// # Errors
/// Of kind `usage`; `what` names it.
pub fn read_input(path: &Path, what: &str) -> Result<Vec<u8>> {
    let (place, result) = match input::is_stdin(path) {
        true => (
            "stdin".to_owned(),
            input::read_to_end(|| Ok(io::stdin()), INPUT_LIMIT, None),
        ),
        false => {
            let file = path.to_owned();
            (
                path.display().to_string(),
                input::read_to_end(|| File::open(file), INPUT_LIMIT, None),
            )
        }
    };
    result.map(|bytes| bytes.to_vec()).map_err(|error| {
        let kind = match error {
            input::Error::Interrupted(kind) => kind,
            _ => Kind::Usage,
        };
        Error::new(kind, format!("cannot read {what} from {place}")).caused_by(&error)
    })
}
