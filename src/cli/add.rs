//! `qkey add`

use clap::Args;

use super::session::Session;
use crate::{
    ceremony::{self, Ending, Keyring},
    error::Result,
    report::ceremony as report,
    text::quoted,
};

/// Store the public half of a key in the cluster's key store
#[derive(Args)]
pub struct Add {
    /// Name to store the key under; also the challenge that it signs
    #[arg(long, allow_hyphen_values = true)]
    name: String,
    /// Private key: path, URI or configured name
    #[arg(long, value_name = "SOURCE")]
    key: String,
    /// Comment to store with the key
    #[arg(
        long,
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    comment: String,
    /// Do everything except submit
    #[arg(long)]
    dry_run: bool,
}

impl Add {
    pub fn run(&self, session: &Session) -> Result<()> {
        let source = session.key_source(&self.key)?;
        let change = ceremony::add::Add::new(&self.name, &self.comment)?;
        let keyring = Keyring::new(Vec::new()).with_new(&source);
        let added = session.carry_out(&change, &keyring, 1, self.dry_run)?;
        let public_key = added.public_key();
        let text = match (added.ending, added.stored()) {
            (Ending::Done, Some(stored)) => format!("Stored {} in the key store.", stored.title()),
            (Ending::AlreadySo, Some(stored)) => format!("Already stored as {}.", stored.title()),
            _ => format!(
                "Dry run: key {} can be stored; signature verified, nothing sent.",
                quoted(&self.name)
            ),
        };
        let key = match added.stored() {
            Some(stored) => report::AddedKey::Stored(stored.into()),
            None => report::AddedKey::New(report::NewKey {
                name: &self.name,
                comment: &self.comment,
                key: public_key.into(),
            }),
        };
        let object = report::Add {
            changed: added.ending == Ending::Done,
            dry_run: self.dry_run,
            key,
        };
        let text = format!("{text}\n  {}", public_key.fingerprint());
        session.output.result(&text, &object)
    }
}
