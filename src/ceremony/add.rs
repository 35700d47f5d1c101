//! Storing a public key: its name is the challenge.

use std::thread;

use super::{
    Ending, Keyring, sign,
    submission::{Seen, Submission, Verdict},
};
use crate::{
    cluster::{Check, Cluster, KeyRef, NewKey, StoredKey},
    error::{Error, Kind, Result},
    public_key::PublicKey,
    signer::KeySource,
};

/// What is to be stored.
pub struct Add<'a> {
    pub name: &'a str,
    pub comment: &'a str,
    pub key: &'a dyn KeySource,
    pub dry_run: bool,
}

/// What the cluster holds, or would.
pub struct Added {
    pub ending: Ending,
    pub public_key: PublicKey,
    /// Missing after a dry run.
    pub stored: Option<StoredKey>,
}

impl Add<'_> {
    /// Runs the ceremony.
    ///
    /// # Errors
    /// As the rules have it; of kind `mismatch` when another key has the name.
    pub fn run(&self, cluster: &dyn Cluster) -> Result<Added> {
        self.check_name()?;
        let keyring = Keyring::new(vec![self.key]);
        let keys = thread::scope(|scope| {
            let keys = scope.spawn(|| cluster.keys());
            keyring.open();
            keys.join().expect("reading the key list does not panic")
        })?;
        let key = keyring.single()?;
        let public_key = key.signer.public_key().clone();
        if let Some(stored) = keys.iter().find(|stored| stored.name == self.name) {
            return self.already_stored(stored, public_key);
        }
        if let Some(other) = keys.iter().find(|stored| stored.holds(&public_key)) {
            log::warn!(
                "the key store holds the same public key as {}",
                other.title()
            );
        }
        let signature = sign(&key.title, key.signer.as_ref(), self.name)?;
        if self.dry_run {
            return Ok(Added {
                ending: Ending::DryRun,
                public_key,
                stored: None,
            });
        }
        let submission = Submission {
            what: &format!("the addition of key {:?}", self.name),
            check: cluster.check_command(Check::Keys),
        };
        let answer = cluster.add_key(&NewKey {
            name: self.name,
            comment: self.comment,
            public_key: &public_key,
            signature: &signature,
        });
        let look = || {
            let keys = cluster.keys()?;
            let stored = keys.into_iter().find(|stored| stored.name == self.name);
            Ok(match stored {
                Some(stored) if stored.holds(&public_key) => Seen::Done(stored),
                Some(other) => Seen::SomethingElse(format!("{} is another key", other.title())),
                None => Seen::NotDone,
            })
        };
        match submission.settle(answer, look)? {
            Verdict::Done(stored) if stored.holds(&public_key) && stored.name == self.name => {
                Ok(Added {
                    ending: Ending::Done,
                    public_key,
                    stored: Some(stored),
                })
            }
            Verdict::Done(other) => Err(submission.answered_otherwise(&other)),
            Verdict::Refused(error) => Err(error),
        }
    }

    fn check_name(&self) -> Result<()> {
        let wrong = match self.name {
            "" => "is empty",
            name if matches!(KeyRef::new(name), KeyRef::Id(_)) => {
                "consists of digits only, and would be taken for an id"
            }
            _ => return Ok(()),
        };
        let message = format!("the name {:?} {wrong}", self.name);
        Err(Error::new(Kind::Usage, message).hint("give the key a name such as lock-2026"))
    }

    fn already_stored(&self, stored: &StoredKey, public_key: PublicKey) -> Result<Added> {
        if !stored.holds(&public_key) {
            let message = format!(
                "the name {:?} is taken: the cluster holds another public key as {}",
                self.name,
                stored.title()
            );
            return Err(Error::new(Kind::Mismatch, message).hint(format!(
                "nothing was sent; choose another --name, or replace that key: \
                 `qkey replace --key-id {} --old-key … --new-key {}`",
                stored.id,
                self.key.title()
            )));
        }
        if stored.comment != self.comment && !self.comment.is_empty() {
            log::warn!(
                "its comment is {:?} and stays so; `qq fs_security_modify_key` changes it",
                stored.comment
            );
        }
        Ok(Added {
            ending: Ending::AlreadySo,
            public_key,
            stored: Some(stored.clone()),
        })
    }
}
