//! `qkey pubkey`

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{keys::public_key_object, session::Session};
use crate::{error::Result, output, signer::KeySource};

/// Print the public half of a key
#[derive(Args)]
pub struct Pubkey {
    /// The private key: a path, a URI, or a name of the configuration file
    source: String,
    /// The form to print
    #[arg(long, value_enum, default_value_t = Form::Pem)]
    format: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A PUBLIC KEY block
    Pem,
    /// The DER SubjectPublicKeyInfo, binary
    Der,
    /// One line of Base64, as `qq --public-key` takes it
    Base64,
    /// One line, as in authorized_keys
    Openssh,
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
            (_, Form::Base64 | Form::Der) => public_key.to_base64(),
        };
        let mut object = public_key_object(public_key);
        object["pem"] = json!(public_key.to_pem());
        object["openssh"] = json!(public_key.to_openssh("").trim_end());
        output.answer(|| text, &object)
    }
}
