//! `qkey sign`

use std::{
    ffi::OsString,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::session::Session;
use crate::{
    error::{Error, Kind, Result},
    input, output,
    report::key::Signed,
    signer::KeySource,
};
use clap::{Args, ValueEnum};

/// Sign a challenge without a cluster
#[derive(Args)]
pub struct Sign {
    /// Private key: path, URI or configured name
    #[arg(long, value_name = "SOURCE")]
    key: String,
    #[command(flatten)]
    challenge: Challenge,
    /// Output format
    #[arg(long, visible_alias = "encoding", value_enum, default_value_t = Form::Base64)]
    format: Form,
}

/// The bytes that are signed.
#[derive(Args)]
pub struct Challenge {
    /// Challenge text; `-` or nothing reads stdin
    #[arg(value_name = "CHALLENGE", conflicts_with = "challenge_file")]
    challenge: Option<OsString>,
    /// File with the exact bytes of the challenge
    #[arg(long, visible_alias = "file", value_name = "PATH")]
    challenge_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One line of Base64, for `qq --signature`
    Base64,
    /// ASN.1 DER, binary
    Der,
    /// DER in hexadecimal
    Hex,
    /// r and s, 32 bytes each, binary
    P1363,
}

impl Sign {
    pub fn run(&self, session: &Session) -> Result<()> {
        let key = session.key_source(&self.key)?;
        if key.source.reads_stdin() && self.challenge.reads_stdin() {
            let message = "only one of the key and the challenge may be read from stdin";
            return Err(Error::new(Kind::Usage, message)
                .hint("give the challenge as an argument or with --challenge-file"));
        }
        let output = &session.output;
        let binary =
            output.format == output::Format::Text && matches!(self.format, Form::Der | Form::P1363);
        if binary {
            output.check_takes_binary()?;
        }
        let challenge = self.challenge.read()?;
        if challenge.ends_with(b"\n") {
            log::warn!(
                "the trailing newline was signed too; the cluster will reject this (use `jq -j`)"
            );
        }
        let signer = key.open()?.unlock()?;
        let signature = signer.sign(&challenge)?;
        if !signature.verifies(signer.public_key(), &challenge) {
            let message = format!("{} returned a signature that does not verify", key.title());
            return Err(Error::new(Kind::Key, message).hint(
                "check that the key source signs with the key that it reports, over SHA-256",
            ));
        }
        let object = Signed {
            key: signer.public_key().into(),
            signature: signature.to_base64(),
            signature_hex: signature.to_hex(),
        };
        // Wipe the private key before output, which may block.
        drop(signer);
        let text = match self.format {
            Form::Der if binary => return output.raw(&signature.to_der()),
            Form::P1363 if binary => return output.raw(&signature.to_p1363()),
            Form::Hex => &object.signature_hex,
            _ => &object.signature,
        };
        output.answer(|| text.clone(), &object)
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
    /// Of kind `usage` if it cannot be read.
    pub fn read(&self) -> Result<Vec<u8>> {
        let stdin = Path::new("-");
        let (input, challenge) = match (&self.challenge, &self.challenge_file) {
            (Some(challenge), _) if challenge != "-" => (
                "the argument".to_owned(),
                challenge.clone().into_encoded_bytes(),
            ),
            (_, path) => {
                let path = path.as_deref().unwrap_or(stdin);
                (place(path), read_input(path, "the challenge")?)
            }
        };
        if is_reply_of_qq(&challenge) {
            let message = format!("{input} contains a JSON reply of qq, not the challenge itself");
            return Err(Error::new(Kind::Usage, message).hint(
                "pass only the value of its field `challenge`, as `jq -j .challenge` prints it",
            ));
        }
        Ok(challenge)
    }
}

/// Whether these bytes are what `qq` and the REST API reply when asked for a challenge.
fn is_reply_of_qq(bytes: &[u8]) -> bool {
    let reply = serde_json::from_slice::<serde_json::Value>(bytes);
    reply.is_ok_and(|reply| reply.get("challenge").is_some())
}

/// No challenge, signature or public key is larger.
const INPUT_LIMIT: usize = 16 << 20;

/// Reads a file, or stdin for `-`.
///
/// # Errors
/// Of kind `usage`; `what` names it.
pub fn read_input(path: &Path, what: &str) -> Result<Vec<u8>> {
    let file = path.to_owned();
    let result = if input::is_stdin(path) {
        input::read_to_end(|| Ok(io::stdin()), INPUT_LIMIT, None)
    } else {
        input::read_to_end(|| File::open(file), INPUT_LIMIT, None)
    };
    result.map(|bytes| bytes.to_vec()).map_err(|error| {
        let kind = match error {
            input::Error::Interrupted(kind) => kind,
            _ => Kind::Usage,
        };
        let message = format!("cannot read {what} from {}", place(path));
        Error::new(kind, message).caused_by(&error)
    })
}

/// What messages call an input.
pub fn place(path: &Path) -> String {
    if input::is_stdin(path) {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    }
}
