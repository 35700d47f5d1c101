//! `qkey generate`

use clap::{Args, ValueEnum};
use serde_json::json;

use super::session::Session;
use crate::{
    error::{Error, Kind, Result},
    interrupt::LastWords,
    keyfile,
    signer::source::{self, Openable},
    text::{printable, quote},
};

/// Make a new private key, never over an existing one
#[derive(Args)]
pub struct Generate {
    /// Where to make it: a path, a URI, or a name of the configuration file.
    /// With a passphrase attribute (PATH?passphrase-file=P), the key file is encrypted
    source: String,
    /// Encoding of a new key file [default: pkcs8]
    #[arg(long, value_enum)]
    format: Option<FileEncoding>,
    /// Ask for a passphrase on the terminal and encrypt the key file with it
    #[arg(long)]
    encrypt: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FileEncoding {
    /// PKCS#8 PEM
    Pkcs8,
    /// The traditional PEM of `openssl ec`
    Sec1,
    /// What `ssh-keygen` writes
    Openssh,
}

impl Generate {
    pub fn run(&self, session: &Session) -> Result<()> {
        let Openable { source, name, .. } = session.key_source(&self.source)?;
        let how = source::Generate {
            format: self.format.map(|encoding| match encoding {
                FileEncoding::Pkcs8 => keyfile::Format::Pkcs8,
                FileEncoding::Sec1 => keyfile::Format::Sec1,
                FileEncoding::Openssh => keyfile::Format::Openssh,
            }),
            encrypt: self.encrypt,
        };
        let mut made = source.generate(session.context(), &how)?;
        // A path of the configuration file is based on the file's folder; its name works anywhere.
        if let Some(name) = name
            && [source.text(), &source.reusable()].contains(&&*made.source)
        {
            made.source = name;
        }
        let fingerprint = made.public_key.fingerprint();
        let words = format!(
            "interrupted after the new key {fingerprint} was made in {}",
            made.source
        );
        // Nobody may be reading the result.
        let _last_words = LastWords::lay_down(Error::new(Kind::Interrupted, words));
        // A separate argument with a leading hyphen would be parsed as a flag.
        let flag = match made.source.starts_with('-') {
            true => "--key=",
            false => "--key ",
        };
        let printed = session.output.result(
            &format!(
                "Made a new private key: {}\n  {}\nStore its public half with `qkey add --name NAME {flag}{}`.",
                printable(&made.source),
                fingerprint,
                quote(&made.source)
            ),
            &json!({
                "action": "generate",
                "source": made.source,
                "public_key": made.public_key.to_base64(),
                "fingerprint": fingerprint,
            }),
        );
        printed.map_err(|error| {
            error.hint(format!(
                "the key is complete; `qkey pubkey {}` prints its public half",
                quote(&made.source)
            ))
        })
    }
}
