//! `qkey generate`

use clap::{Args, ValueEnum};

use super::session::Session;
use crate::{
    error::{Error, Kind, Result},
    interrupt::LastWords,
    keyfile,
    report::key::Generated,
    signer::source::{self, Openable},
    text::{printable, quote},
};

/// Generate a private key; never overwrites one
#[derive(Args)]
pub struct Generate {
    /// Key source to create: path, URI or configured name; a passphrase attribute encrypts a key file
    source: String,
    /// Encoding of a key file [default: pkcs8]
    #[arg(long, value_enum)]
    format: Option<Encoding>,
    /// Prompt for a passphrase and encrypt the key file
    #[arg(long)]
    encrypt: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Encoding {
    /// PKCS#8 PEM
    Pkcs8,
    /// Traditional PEM, as `openssl ec` writes it
    Sec1,
    /// OpenSSH, as `ssh-keygen` writes it
    Openssh,
}

impl Generate {
    pub fn run(&self, session: &Session) -> Result<()> {
        let Openable { source, name, .. } = session.new_key(&self.source)?;
        let how = source::Generate {
            format: self.format.map(|encoding| match encoding {
                Encoding::Pkcs8 => keyfile::Format::Pkcs8,
                Encoding::Sec1 => keyfile::Format::Sec1,
                Encoding::Openssh => keyfile::Format::Openssh,
            }),
            encrypt: self.encrypt,
        };
        let mut made = source.generate(&session.context, &how)?;
        // A relative path is based on the configuration file's folder; the name works anywhere.
        if let Some(name) = name
            && [source.text(), &source.reusable()].contains(&&*made.source)
        {
            made.source = name;
        }
        let fingerprint = made.public_key.fingerprint();
        let words = format!(
            "interrupted after generating key {fingerprint} in {}",
            made.source
        );
        // The reader of stdout may block.
        let _last_words = LastWords::lay_down(Error::new(Kind::Interrupted, words));
        // A separate argument with a leading hyphen would be parsed as a flag.
        let flag = if made.source.starts_with('-') {
            "--key="
        } else {
            "--key "
        };
        let printed = session.output.result(
            &format!(
                "Generated private key {}\n  {}\nStore its public half with `qkey add --name NAME {flag}{}`.",
                printable(&made.source),
                fingerprint,
                quote(&made.source)
            ),
            &Generated {
                action: "generate",
                source: &made.source,
                key: (&made.public_key).into(),
            },
        );
        printed.map_err(|error| {
            error.hint(format!(
                "the key is complete; `qkey pubkey {}` prints its public half",
                quote(&made.source)
            ))
        })
    }
}
