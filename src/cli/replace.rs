//! `qkey replace`

use clap::Args;

use super::{
    proof::{Attempts, signed},
    session::{Session, as_key_sources, check_stdin},
};
use crate::{
    ceremony::{self, Ending, Keyring},
    cluster::KeyRef,
    error::Result,
    report::ceremony as report,
    text::capitalized,
};

/// Replace a stored key; both the old and the new private key sign
#[derive(Args)]
pub struct Replace {
    /// Id or name of the stored key
    #[arg(
        short = 'k',
        long,
        visible_alias = "key-ref",
        value_name = "ID-OR-NAME",
        allow_hyphen_values = true
    )]
    key_id: String,
    /// Current private key [default: the configured key that matches]
    #[arg(long, value_name = "SOURCE")]
    old_key: Option<String>,
    /// New private key
    #[arg(long, value_name = "SOURCE")]
    new_key: String,
    #[command(flatten)]
    attempts: Attempts,
    /// Do everything except submit
    #[arg(long)]
    dry_run: bool,
}

impl Replace {
    pub fn run(&self, session: &Session) -> Result<()> {
        let new = session.key_source(&self.new_key)?;
        let old = session.candidates("--old-key", self.old_key.as_slice())?;
        check_stdin(old.iter().chain([&new]))?;
        let change = ceremony::replace::Replace {
            key: KeyRef::new(&self.key_id),
        };
        let keyring = Keyring::new(as_key_sources(&old)).with_new(&new);
        let replaced = session.carry_out(&change, &keyring, self.attempts.number, self.dry_run)?;
        let title = replaced.stored().title();
        let new_fingerprint = replaced.replacement().fingerprint();
        let old_fingerprint = match replaced.old().public_key() {
            Ok(key) => key.fingerprint(),
            Err(_) => "not a P-256 key".to_owned(),
        };
        let challenge = replaced.challenge.as_deref();
        let text = match replaced.ending {
            Ending::Done => {
                format!("Replaced {title}.\n  was {old_fingerprint}\n  now {new_fingerprint}")
            }
            Ending::AlreadySo => {
                let title = capitalized(&title);
                format!("{title} already holds the new key.\n  {new_fingerprint}")
            }
            Ending::DryRun => format!(
                "Dry run: {title} can be replaced; both signatures verified, nothing sent.\n  \
                 is {old_fingerprint}\n  to {new_fingerprint}{}",
                signed(challenge)
            ),
        };
        let object = report::Replace {
            changed: replaced.ending == Ending::Done,
            dry_run: self.dry_run,
            key: replaced.stored().into(),
            old_key: replaced.old().into(),
            new_key: replaced.replacement().into(),
            challenge,
        };
        session.output.result(&text, &object)
    }
}
