//! `qkey pubkey`

use super::session::Session;
use crate::{error::Result, output, report::key::Encodings, signer::KeySource};
use clap::{Args, ValueEnum};

/// Print the public half of a key
#[derive(Args)]
pub struct Pubkey {
    /// Private key: path, URI or configured name
    source: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Form::Pem)]
    format: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// PEM, a PUBLIC KEY block
    Pem,
    /// DER SubjectPublicKeyInfo, binary
    Der,
    /// One line of Base64, for `qq --public-key`
    Base64,
    /// One line, for authorized_keys
    Openssh,
    /// SHA256:…, as `qkey keys` and `ssh-add -l` show it
    Fingerprint,
}

impl Pubkey {
    pub fn run(&self, session: &Session) -> Result<()> {
        let signer = session.key_source(&self.source)?.open()?.unlock()?;
        let public_key = signer.public_key();
        let output = &session.output;
        let text = match (output.format, self.format) {
            (output::Format::Text, Form::Der) => {
                output.check_takes_binary()?;
                return output.raw(&public_key.to_der());
            }
            (_, Form::Pem) => public_key.to_pem(),
            (_, Form::Openssh) => public_key.to_openssh(""),
            (_, Form::Fingerprint) => public_key.fingerprint(),
            (_, Form::Base64 | Form::Der) => public_key.to_base64(),
        };
        let object = Encodings {
            key: public_key.into(),
            pem: public_key.to_pem(),
            openssh: public_key.to_openssh("").trim_end().to_owned(),
        };
        output.answer(|| text, &object)
    }
}
