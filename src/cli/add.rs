//! `qkey add`

use clap::Args;

use super::session::{Session, warn};
use crate::{
    ceremony::{self, Ending, Keyring, observer::Silent},
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
        let cluster = session.connect(None, 1)?;
        let change = ceremony::add::Add::new(&self.name, &self.comment)?;
        let keyring = Keyring::new(Vec::new()).with_new(&source);
        let added = ceremony::run(
            &change,
            cluster.as_ref(),
            &keyring,
            &Silent,
            1,
            self.dry_run,
        )?;
        warn(&added.warnings);
        let fingerprint = added.public_key().fingerprint();
        let text = match (added.ending, added.stored()) {
            (Ending::Done, Some(stored)) => {
                format!(
                    "Stored {} in the key store.\n  {fingerprint}",
                    stored.title()
                )
            }
            (Ending::AlreadySo, Some(stored)) => {
                format!("Already stored as {}.\n  {fingerprint}", stored.title())
            }
            _ => format!(
                "Dry run: key {} can be stored; signature verified, nothing sent.\n  {fingerprint}",
                quoted(&self.name)
            ),
        };
        let key = match added.stored() {
            Some(stored) => report::AddedKey::Stored(stored.into()),
            None => report::AddedKey::New(report::NewKey::new(
                &self.name,
                &self.comment,
                added.public_key(),
            )),
        };
        let object = report::Add {
            changed: added.ending == Ending::Done,
            dry_run: self.dry_run,
            key,
        };
        session.output.result(&text, &object)
    }
}
