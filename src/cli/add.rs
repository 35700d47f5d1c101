//! `qkey add`

use clap::Args;
use serde_json::json;

use super::session::Session;
use crate::{
    ceremony::{self, Ending},
    cli::keys::key_object,
    error::Result,
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
        let key = session.key_source(&self.key)?;
        let cluster = session.connect(None, 1)?;
        let added = ceremony::add::Add {
            name: &self.name,
            comment: &self.comment,
            key: &key,
            dry_run: self.dry_run,
        }
        .run(cluster.as_ref())?;
        let fingerprint = added.public_key.fingerprint();
        let text = match (&added.ending, &added.stored) {
            (Ending::Done, Some(stored)) => {
                format!(
                    "Stored {} in the key store.\n  {fingerprint}",
                    stored.title()
                )
            }
            (Ending::AlreadySo, Some(stored)) => format!(
                "The key store holds this as {} already: nothing to do.\n  {fingerprint}",
                stored.title()
            ),
            _ => format!(
                "Would store key {}; its signature was checked and nothing was sent.\n  {fingerprint}",
                quoted(&self.name)
            ),
        };
        let key = match &added.stored {
            Some(stored) => key_object(stored),
            None => json!({
                "name": self.name,
                "comment": self.comment,
                "public_key": added.public_key.to_base64(),
                "fingerprint": fingerprint,
            }),
        };
        session.output.result(
            &text,
            &json!({
                "action": "add",
                "changed": added.ending == Ending::Done,
                "dry_run": self.dry_run,
                "key": key,
            }),
        )
    }
}
