//! What a challenge must be before a private key signs it.
//!
//! A challenge is opaque: only the cluster knows what a signature over it is good for. A hostile
//! cluster, or a network that can answer in its place, can hand out another challenge than the one
//! that was asked for. That cannot be ruled out here; what can be noticed is refused.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use super::Key;
use crate::{
    cluster::StoredKey,
    error::{Error, Kind, Result},
};

/// In bytes. The challenges of Qumulo Core are a fraction of this.
const LIMIT: usize = 16 << 10;

/// What a challenge was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// Replacing the stored key with this id.
    Replace(&'a str),
    /// Unlocking the snapshot with this id.
    Unlock(u64),
}

impl fmt::Display for Purpose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replace(id) => write!(f, "replace key {id}"),
            Self::Unlock(id) => write!(f, "unlock snapshot {id}"),
        }
    }
}

/// The challenges that were handed out in this run, by their SHA-256, and what each was for.
#[derive(Default)]
pub struct Challenges(Mutex<HashMap<[u8; 32], String>>);

impl Challenges {
    /// Whether `challenge` may be signed for `purpose`, as far as that can be told.
    ///
    /// # Errors
    /// Of kind `mismatch` when it is too long, is the name of a stored key (which is the challenge
    /// for storing a key of that name), or was handed out for something else in this run.
    pub fn check<'k>(
        &self,
        challenge: &str,
        purpose: Purpose<'_>,
        keys: impl IntoIterator<Item = &'k StoredKey>,
    ) -> Result<()> {
        let refused = |why: String| {
            Error::new(
                Kind::Mismatch,
                format!("refusing to sign the challenge to {purpose}: {why}"),
            )
            .hint("nothing was sent; find out whether this is the right cluster and who else is on the network (`--via rest` verifies the cluster's certificate)")
        };
        if challenge.len() > LIMIT {
            let length = challenge.len();
            return Err(refused(format!(
                "it is {length} bytes long; at most {LIMIT} are accepted"
            )));
        }
        if let Some(key) = keys.into_iter().find(|key| key.name == challenge) {
            return Err(refused(format!("it is the name of {}", key.title())));
        }
        let purpose = purpose.to_string();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.entry(Sha256::digest(challenge).into()) {
            Entry::Vacant(entry) => {
                entry.insert(purpose);
                Ok(())
            }
            Entry::Occupied(entry) if *entry.get() == purpose => Ok(()),
            Entry::Occupied(entry) => Err(refused(format!(
                "the cluster also handed it out to {}",
                entry.get()
            ))),
        }
    }
}

/// Adds to a refusal that the cluster has a signature over a text of its own choice: one that is of no
/// use for what it was asked for may be of use elsewhere.
pub fn say_that_it_was_signed(refusal: Error, key: &Key) -> Error {
    let hint = refusal.hint_text().unwrap_or_default();
    let hint = format!(
        "{hint}; the cluster now holds a signature made with {} over its challenge",
        key.title
    );
    refusal.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceremony::fakes::{FakeSource, World, assert_tells, failed};

    fn check(challenges: &Challenges, challenge: &str, purpose: Purpose<'_>) -> Result<()> {
        let key = FakeSource::new("a");
        let keys = World::default().with_key("lock-2026", key.public_key());
        challenges.check(challenge, purpose, &keys.stored_keys())
    }

    #[test]
    fn a_challenge_serves_one_purpose_as_often_as_needed() {
        let challenges = Challenges::default();
        for _ in 0..2 {
            check(&challenges, "a", Purpose::Unlock(7)).unwrap();
            check(&challenges, "b", Purpose::Unlock(8)).unwrap();
            check(&challenges, "c", Purpose::Replace("7")).unwrap();
        }
        for (challenge, purpose) in [
            ("a", Purpose::Unlock(8)),
            ("a", Purpose::Replace("7")),
            ("c", Purpose::Unlock(7)),
        ] {
            let refused = check(&challenges, challenge, purpose);
            let error = failed(refused, Kind::Mismatch, 4);
            assert_tells(&error, "the cluster also handed it out to");
            assert_tells(&error, "nothing was sent");
        }
    }

    #[test]
    fn the_name_of_a_stored_key_is_not_signed() {
        let refused = check(&Challenges::default(), "lock-2026", Purpose::Unlock(7));
        let error = failed(refused, Kind::Mismatch, 4);
        assert_tells(&error, "it is the name of key 1 (\"lock-2026\")");
    }

    #[test]
    fn the_length_is_limited_in_bytes() {
        let challenges = Challenges::default();
        check(&challenges, &"x".repeat(LIMIT), Purpose::Unlock(7)).unwrap();
        for long in ["x".repeat(LIMIT + 1), "é".repeat(LIMIT / 2 + 1)] {
            let refused = check(&challenges, &long, Purpose::Unlock(7));
            assert_tells(&failed(refused, Kind::Mismatch, 4), "bytes long");
        }
    }
}
