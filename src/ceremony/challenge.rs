//! What a challenge must be before a private key signs it.
//!
//! A challenge is opaque: only the cluster knows what a signature over it authorizes. A hostile
//! cluster, or anyone on the network path, can hand out a challenge for something else. That cannot be
//! ruled out here, but everything that can be detected is refused.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::Mutex,
};

use sha2::{Digest, Sha256};

use crate::{
    cluster::{Cluster, KeyRef, StoredKey},
    error::{Error, Kind, Result, Subject},
    parallel::lock,
    text::quoted,
};

/// In bytes. The challenges of Qumulo Core are much shorter.
const LIMIT: usize = 16 << 10;

/// What a proof is for, which decides where its challenge comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Storing a key under this name, which is the challenge.
    Add(String),
    /// Replacing a stored key. The cluster hands out the challenge.
    Replace(KeyRef),
    /// Unlocking the snapshot with this id. The cluster hands out the challenge.
    Unlock(u64),
    /// Locking the snapshot with this id, which takes no proof.
    Lock(u64),
}

impl Purpose {
    /// Whether the cluster hands out the challenge.
    pub fn asks_cluster(&self) -> bool {
        matches!(self, Self::Replace(_) | Self::Unlock(_))
    }

    /// The snapshot that it is about, if any.
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::Unlock(id) | Self::Lock(id) => Some(Subject::Snapshot(*id)),
            Self::Add(_) | Self::Replace(_) => None,
        }
    }

    /// The challenge; empty where no proof is needed.
    ///
    /// # Errors
    /// If the cluster does not hand it out.
    pub fn challenge(&self, cluster: &dyn Cluster) -> Result<String> {
        Ok(match self {
            Self::Add(name) => name.clone(),
            Self::Replace(key) => cluster.replacement_challenge(key)?,
            Self::Unlock(id) => cluster.unlock_challenge(*id)?,
            Self::Lock(_) => String::new(),
        })
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(name) => write!(f, "add key {}", quoted(name)),
            Self::Replace(key) => write!(f, "replace key {}", key.as_str()),
            Self::Unlock(id) => write!(f, "unlock snapshot {id}"),
            Self::Lock(id) => write!(f, "lock snapshot {id}"),
        }
    }
}

/// The challenges that the cluster handed out in this run, by their SHA-256, and what each was for.
#[derive(Default)]
pub struct Challenges(Mutex<HashMap<[u8; 32], String>>);

impl Challenges {
    /// Checks, as far as possible, that `challenge` may be signed for `purpose`.
    ///
    /// # Errors
    /// Of kind `mismatch` if it is too long, is the name of a stored key (the challenge for storing a
    /// key under that name), or was handed out for something else in this run.
    pub fn check<'k>(
        &self,
        challenge: &str,
        purpose: &Purpose,
        keys: impl IntoIterator<Item = &'k StoredKey>,
    ) -> Result<()> {
        let refused = |why: String| {
            Error::new(
                Kind::Mismatch,
                format!("refusing to sign the challenge to {purpose}: {why}"),
            )
            .naming(purpose.subject())
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
        let mut seen = lock(&self.0);
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

/// Adds to a refusal that the cluster now has a signature over a text of its choice: what it refused
/// here may be accepted elsewhere.
pub fn mention_signature(refusal: Error, title: &str) -> Error {
    let signed = format!("the cluster now holds a signature made with {title} over its challenge");
    let hint = match refusal.hint_text() {
        Some(hint) => format!("{hint}; {signed}"),
        None => signed,
    };
    refusal.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceremony::fakes::{FakeSource, World, assert_tells, failed};

    fn check(challenges: &Challenges, challenge: &str, purpose: &Purpose) -> Result<()> {
        let key = FakeSource::new("a");
        let keys = World::default().with_key("lock-2026", key.public_key());
        challenges.check(challenge, purpose, &keys.stored_keys())
    }

    #[test]
    fn challenge_is_signed_again_only_for_the_same_purpose() {
        let challenges = Challenges::default();
        for _ in 0..2 {
            check(&challenges, "a", &Purpose::Unlock(7)).unwrap();
            check(&challenges, "b", &Purpose::Unlock(8)).unwrap();
            check(&challenges, "c", &Purpose::Replace(KeyRef::new("7"))).unwrap();
        }
        for (challenge, purpose) in [
            ("a", &Purpose::Unlock(8)),
            ("a", &Purpose::Replace(KeyRef::new("7"))),
            ("c", &Purpose::Unlock(7)),
        ] {
            let refused = check(&challenges, challenge, purpose);
            let error = failed(refused, Kind::Mismatch, 4);
            assert_tells(&error, "the cluster also handed it out to");
            assert_tells(&error, "nothing was sent");
        }
    }

    #[test]
    fn challenge_equal_to_a_stored_key_name_is_refused() {
        let refused = check(&Challenges::default(), "lock-2026", &Purpose::Unlock(7));
        let error = failed(refused, Kind::Mismatch, 4);
        assert_tells(&error, "it is the name of key 1 (\"lock-2026\")");
    }

    #[test]
    fn challenge_length_is_limited_in_bytes() {
        let challenges = Challenges::default();
        check(&challenges, &"x".repeat(LIMIT), &Purpose::Unlock(7)).unwrap();
        for long in ["x".repeat(LIMIT + 1), "é".repeat(LIMIT / 2 + 1)] {
            let refused = check(&challenges, &long, &Purpose::Unlock(7));
            assert_tells(&failed(refused, Kind::Mismatch, 4), "bytes long");
        }
    }
}
