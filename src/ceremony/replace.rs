//! Replacing a stored key: the old and the new private key sign one challenge.

use super::{
    Ending, Key, Keyring,
    challenge::{Challenges, Purpose, say_that_it_was_signed},
    find_key, not_explained, sign, stale,
    submission::{Seen, Submission, Verdict},
};
use crate::{
    cluster::{Check, Cluster, KeyRef, Replacement, StoredKey},
    error::{Error, Kind, Result},
    parallel::both,
    public_key::PublicKey,
    signer::KeySource,
};

/// What is to be replaced by what.
pub struct Replace<'a> {
    pub key: KeyRef,
    /// Candidates for the key that the cluster holds.
    pub old: Vec<&'a dyn KeySource>,
    pub new: &'a dyn KeySource,
    /// How often to submit at the most, when the challenge went stale meanwhile.
    pub attempts: u32,
    pub dry_run: bool,
}

/// What the cluster holds, or would.
pub struct Replaced {
    pub ending: Ending,
    /// As it was before.
    pub before: StoredKey,
    pub new_key: PublicKey,
    /// As it is now; after a dry run the same as before.
    pub stored: StoredKey,
    /// The text that was signed, after a dry run.
    pub challenge: Option<String>,
}

impl Replace<'_> {
    /// Runs the ceremony.
    ///
    /// # Errors
    /// As the rules have it.
    pub fn run(&self, cluster: &dyn Cluster) -> Result<Replaced> {
        let old_keys = Keyring::new(self.old.clone());
        let new_keys = Keyring::new(vec![self.new]);
        // A name that no URL carries safely has to wait for the id in the list.
        let challenge = || {
            let addressable = self.key.is_addressable();
            addressable.then(|| cluster.replacement_challenge(&self.key))
        };
        let ((keys, challenge), _) = both(
            || both(|| cluster.keys(), challenge),
            || both(|| new_keys.open(), || old_keys.open()),
        );
        let keys = keys?;
        let stored = find_key(&keys, &self.key)?;
        let already_so = |new: &Key| {
            let new_key = new.signer.public_key();
            stored.holds(new_key).then(|| Replaced {
                ending: Ending::AlreadySo,
                before: stored.clone(),
                new_key: new_key.clone(),
                stored: stored.clone(),
                challenge: None,
            })
        };
        // Once it is done the old key may be gone, and is not asked for.
        if let Some(replaced) = new_keys.ready().iter().flatten().find_map(already_so) {
            return Ok(replaced);
        }
        let id = KeyRef::Id(stored.id.clone());
        let challenge = match challenge {
            Some(challenge) => challenge?,
            None => cluster.replacement_challenge(&id)?,
        };
        // Where both are locked a person is asked for them in the order of the command line.
        let old = old_keys.find(&stored);
        let new = new_keys.single()?;
        if let Some(replaced) = already_so(&new) {
            return Ok(replaced);
        }
        let old = old?;
        let holds_new = |key: &&StoredKey| key.holds(new.signer.public_key());
        if let Some(other) = keys.iter().find(holds_new) {
            log::warn!("the new key is also stored as {}", other.title());
        }
        self.prove(cluster, &keys, stored, &old, &new, challenge)
    }

    /// Signs and submits, again as long as the challenge goes stale and attempts are left.
    fn prove(
        &self,
        cluster: &dyn Cluster,
        keys: &[StoredKey],
        before: StoredKey,
        old: &Key,
        new: &Key,
        mut challenge: String,
    ) -> Result<Replaced> {
        let id = KeyRef::Id(before.id.clone());
        let new_key = new.signer.public_key();
        let replaced = |ending, stored| Replaced {
            ending,
            before: before.clone(),
            new_key: new_key.clone(),
            stored,
            challenge: None,
        };
        let challenges = Challenges::default();
        let mut attempts_left = self.attempts;
        loop {
            challenges.check(&challenge, Purpose::Replace(&before.id), keys)?;
            let (old_signature, new_signature) = both(
                || sign(&old.title, old.signer.as_ref(), &challenge),
                || sign(&new.title, new.signer.as_ref(), &challenge),
            );
            let (old_signature, new_signature) = (old_signature?, new_signature?);
            if self.dry_run {
                return Ok(Replaced {
                    challenge: Some(challenge),
                    ..replaced(Ending::DryRun, before.clone())
                });
            }
            attempts_left -= 1;
            let submission = Submission {
                request: format!("the request to replace {}", before.title()),
                check: cluster.check_command(Check::Keys),
            };
            let submit = || {
                cluster.replace_key(
                    &before.id,
                    &Replacement {
                        new_key,
                        old_signature: &old_signature,
                        new_signature: &new_signature,
                    },
                )
            };
            let look = || {
                let keys = cluster.keys()?;
                Ok(match keys.into_iter().find(|key| id.matches(key)) {
                    Some(stored) if stored.holds(new_key) => Seen::Done(stored),
                    Some(stored) if stored.holds(old.signer.public_key()) => Seen::NotDone,
                    Some(stored) => {
                        Seen::SomethingElse(format!("{} holds a third key", stored.title()))
                    }
                    None => Seen::SomethingElse("the key store no longer holds it".into()),
                })
            };
            let refusal = match submission.submit(submit, look)? {
                Verdict::Done(stored) => return Ok(replaced(Ending::Done, stored)),
                Verdict::Refused(error) => say_that_it_was_signed(error, old),
            };
            if refusal.kind() == Kind::Auth {
                return Err(refusal);
            }
            let (stored, fresh) = both(|| cluster.keys(), || cluster.replacement_challenge(&id));
            let (keys, fresh) = match (stored, fresh) {
                (Ok(keys), Ok(fresh)) => (keys, fresh),
                (Err(failure), _) | (_, Err(failure)) => {
                    return Err(not_explained(refusal, &failure));
                }
            };
            let Some(stored) = keys.into_iter().find(|key| id.matches(key)) else {
                return Err(refusal);
            };
            if stored.holds(new_key) {
                return Ok(replaced(Ending::AlreadySo, stored));
            }
            if !stored.holds(old.signer.public_key()) {
                let message = format!("somebody else has replaced {}", stored.title());
                return Err(Error::new(Kind::Mismatch, message)
                    .caused_by_error(&refusal)
                    .hint("`qkey keys list` shows what it holds now"));
            }
            if fresh == challenge {
                return Err(refusal);
            }
            if attempts_left == 0 {
                return Err(stale(&refusal, self.attempts));
            }
            log::info!("the challenge went stale; signing the new one");
            challenge = fresh;
        }
    }
}

#[cfg(test)]
mod tests;
