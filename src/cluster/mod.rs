//! The cluster as the ceremonies see it: a key store and snapshots, behind one trait.

mod explain;
mod node;
pub mod qq;
mod reply;
pub mod rest;
pub mod retry;

use std::{collections::HashSet, time::Duration};

use serde::Serialize;

use crate::{
    error::Error as UserError,
    public_key::{self, PublicKey},
    signature::Signature,
    text::quoted,
};

/// One entry of the key store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// Digits only; stays when the key is replaced or renamed.
    pub id: String,
    pub name: String,
    pub comment: String,
    /// A disabled key locks nothing more, and still unlocks.
    pub disabled: bool,
    /// Base64 of the DER SubjectPublicKeyInfo, as the cluster shows it.
    pub public_key: String,
}

impl StoredKey {
    /// The public key itself.
    ///
    /// # Errors
    /// When the cluster holds something else than a P-256 key.
    pub fn public_key(&self) -> std::result::Result<PublicKey, public_key::Error> {
        PublicKey::from_base64(&self.public_key)
    }

    /// Whether the cluster holds `key` here.
    pub fn holds(&self, key: &PublicKey) -> bool {
        self.public_key().is_ok_and(|stored| stored == *key)
    }

    /// How messages name it.
    pub fn title(&self) -> String {
        format!("key {} ({})", self.id, quoted(&self.name))
    }
}

/// How a user or a policy names a stored key. Names are never digits only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRef {
    Id(String),
    Name(String),
}

impl KeyRef {
    pub fn new(reference: &str) -> Self {
        let digits = !reference.is_empty() && reference.bytes().all(|b| b.is_ascii_digit());
        match digits {
            true => Self::Id(reference.to_owned()),
            false => Self::Name(reference.to_owned()),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(text) | Self::Name(text) => text,
        }
    }

    /// Whether it means the same in a URL path as it does here, so that any transport can
    /// address it (RFC 3986, unreserved characters; `.` and `..` are path segments).
    pub fn is_addressable(&self) -> bool {
        let text = self.as_str();
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        !text.is_empty() && text != "." && text != ".." && text.bytes().all(unreserved)
    }

    pub fn matches(&self, key: &StoredKey) -> bool {
        match self {
            Self::Id(id) => key.id == *id,
            Self::Name(name) => key.name == *name,
        }
    }
}

/// Something that a stored key protects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// `snapshot`, `snapshot_policy`, `replication_target`, or what a later version adds.
    #[serde(rename = "type")]
    pub kind: String,
    pub id: String,
}

/// One snapshot's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: u64,
    pub name: String,
    pub source_file_path: String,
    /// RFC 3339.
    pub timestamp: String,
    /// RFC 3339; empty for a snapshot that never expires.
    pub expiration: String,
    /// The id of the stored key that locks it.
    pub lock_key: Option<String>,
}

impl Snapshot {
    /// How many bytes it takes.
    pub fn size(&self) -> usize {
        let lock_key = self.lock_key.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + self.name.len()
            + self.source_file_path.len()
            + self.timestamp.len()
            + self.expiration.len()
            + lock_key
    }

    /// How messages name it.
    pub fn title(&self) -> String {
        match self.name.as_str() {
            "" => format!("snapshot {}", self.id),
            name => format!("snapshot {} ({})", self.id, quoted(name)),
        }
    }
}

/// What is submitted to store a key.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    pub name: &'a str,
    pub comment: &'a str,
    pub public_key: &'a PublicKey,
    /// Over the name.
    pub signature: &'a Signature,
}

/// What is submitted to replace a stored key.
#[derive(Clone, Debug)]
pub struct Replacement<'a> {
    pub new_key: &'a PublicKey,
    /// Over the challenge, by the key that the cluster holds.
    pub old_signature: &'a Signature,
    /// Over the challenge, by the new key.
    pub new_signature: &'a Signature,
}

/// What is certain after a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The cluster looked at it and refused; nothing was changed.
    Refused,
    /// The cluster never got it; nothing was changed.
    NotSent,
    /// The cluster itself answered that it failed: it is finished with the request, and may have
    /// carried it out.
    Failed,
    /// There was a reply that the cluster does not give to this call: it may have carried it out, or
    /// may still.
    Unexpected,
    /// There was no reply: it may have been carried out, or may still be.
    Lost,
}

/// A call that failed: what is certain, and what to tell the user.
#[derive(Debug)]
pub struct Error {
    pub certainty: Certainty,
    pub error: UserError,
    /// How long to wait at least before a call that only reads is made once more; `None` where that
    /// would not help.
    pub repeat_after: Option<Duration>,
}

impl Error {
    pub fn new(certainty: Certainty, error: UserError) -> Self {
        Self {
            certainty,
            error,
            repeat_after: None,
        }
    }

    /// The same, of something that may be over soon.
    pub fn worth_repeating(mut self, after: Duration) -> Self {
        self.repeat_after = Some(after);
        self
    }

    /// The same, of something that will not be over soon.
    fn not_worth_repeating(mut self) -> Self {
        self.repeat_after = None;
        self
    }

    /// The same with another next step.
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error = self.error.hint(hint);
        self
    }
}

impl From<Error> for UserError {
    fn from(error: Error) -> Self {
        error.error
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// The port of a cluster's REST API.
pub const DEFAULT_PORT: u16 = 8000;

/// Typed calls to a cluster. Calls that only read can be retried at will; `add_key`, `replace_key`,
/// `unlock` and `lock` are submissions. Whatever a submission comes back with, only reading the
/// cluster's state afterwards shows what it did: a proxy can answer in the cluster's place.
///
/// A reply that names another id than the call did is an error.
pub trait Cluster: Sync {
    /// The whole key store.
    fn keys(&self) -> Result<Vec<StoredKey>>;

    /// What the stored key with this id protects.
    fn key_usage(&self, key_id: &str) -> Result<Vec<Usage>>;

    /// Stores a key.
    fn add_key(&self, key: &NewKey<'_>) -> Result<()>;

    /// The exact text to sign to replace a key. `key` must be addressable.
    fn replacement_challenge(&self, key: &KeyRef) -> Result<String>;

    /// Replaces the stored key with this id.
    fn replace_key(&self, key_id: &str, replacement: &Replacement<'_>) -> Result<()>;

    fn snapshot(&self, id: u64) -> Result<Snapshot>;

    /// The ids of all snapshots that are not locked, in one listing.
    fn unlocked_snapshots(&self) -> Result<HashSet<u64>>;

    /// The exact text to sign to unlock a locked snapshot.
    fn unlock_challenge(&self, id: u64) -> Result<String>;

    /// Unlocks a snapshot with a signature over its unlock challenge.
    fn unlock(&self, id: u64, signature: &Signature) -> Result<()>;

    /// Locks a snapshot with the stored key with this id.
    fn lock(&self, id: u64, key_id: &str) -> Result<()>;

    /// Whether calls that are made at the same time take less time than one after the other, as long
    /// as one piece of work is done at a time.
    fn gains_from_concurrency(&self) -> bool;

    /// A command that a user can run to see the cluster's key store or a snapshot, for hints.
    fn check_command(&self, what: Check) -> String;
}

/// What a check command shows.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    Keys,
    Snapshot(u64),
    /// Every snapshot.
    Snapshots,
}
