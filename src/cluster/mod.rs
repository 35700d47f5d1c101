//! The cluster as the ceremonies see it: a key store and snapshots, behind one trait.

mod call;
mod explain;
mod failure;
pub mod qq;
mod reply;
pub mod rest;
pub mod retry;

use std::collections::HashSet;

use serde::Serialize;

use self::{call::Call, failure::Failure};
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
    /// A disabled key locks no more snapshots, but still unlocks.
    pub disabled: bool,
    /// Base64 of the DER SubjectPublicKeyInfo, as the cluster shows it.
    pub public_key: String,
}

impl StoredKey {
    /// The public key itself.
    ///
    /// # Errors
    /// When it is not a P-256 key.
    pub fn public_key(&self) -> std::result::Result<PublicKey, public_key::Error> {
        PublicKey::from_base64(&self.public_key)
    }

    /// Whether the cluster holds `key` here.
    pub fn holds(&self, key: &PublicKey) -> bool {
        self.public_key().is_ok_and(|stored| stored == *key)
    }

    /// What messages call it.
    pub fn title(&self) -> String {
        format!("key {} ({})", self.id, quoted(&self.name))
    }
}

/// How a user or a policy refers to a stored key. Names never consist of digits only.
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

    /// What messages call it.
    pub fn title(&self) -> String {
        match self {
            Self::Id(id) => format!("key {id}"),
            Self::Name(name) => format!("key {}", quoted(name)),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(text) | Self::Name(text) => text,
        }
    }

    /// Whether it needs no escaping in a URL path, so that every transport can address it (RFC 3986:
    /// unreserved characters, except the path segments `.` and `..`).
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
    /// Its size in memory, in bytes.
    pub fn size(&self) -> usize {
        let lock_key = self.lock_key.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + self.name.len()
            + self.source_file_path.len()
            + self.timestamp.len()
            + self.expiration.len()
            + lock_key
    }

    /// What messages call it.
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

/// What is certain after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The cluster refused; nothing was changed.
    Refused,
    /// The cluster never received the request; nothing was changed.
    NotSent,
    /// The cluster itself replied that it failed: it is finished with the request, and may have carried
    /// it out.
    Failed,
    /// The reply is not one that the cluster gives to this call: it may have carried the request out, or
    /// may still.
    Unexpected,
    /// There was no reply: the cluster may have carried the request out, or may still.
    Lost,
}

/// A failed call: what happened, what is certain, and what to tell the user.
#[derive(Debug)]
pub struct Error {
    pub certainty: Certainty,
    pub error: UserError,
    pub(crate) failure: Box<Failure>,
}

impl Error {
    /// A failure that no transport reported: a layer above gave up.
    pub fn new(certainty: Certainty, error: UserError) -> Self {
        Self {
            certainty,
            error,
            failure: Box::new(Failure::Outside {
                certainty,
                retry_after: None,
            }),
        }
    }

    /// The same as a transient failure, for tests of retries.
    #[cfg(test)]
    pub(crate) fn worth_repeating(mut self, after: std::time::Duration) -> Self {
        *self.failure = Failure::Outside {
            certainty: self.certainty,
            retry_after: Some(after),
        };
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

/// Typed calls to a cluster. Reads can be retried at will; `add_key`, `replace_key`, `unlock` and `lock`
/// are submissions. Whatever a submission returns, only reading the cluster's state shows what it did:
/// a proxy can reply in the cluster's place.
///
/// A reply about another id than the requested one is an error.
pub trait Cluster: Sync {
    /// The whole key store.
    fn keys(&self) -> Result<Vec<StoredKey>>;

    /// What the stored key with this id protects.
    fn key_usage(&self, key_id: &str) -> Result<Vec<Usage>>;

    /// Stores a key.
    fn add_key(&self, key: &NewKey<'_>) -> Result<()>;

    /// The exact text to sign to replace a key. `key` must be [addressable](KeyRef::is_addressable).
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

    /// Whether concurrent calls are faster than consecutive ones while only one ceremony runs.
    fn gains_from_concurrency(&self) -> bool;

    /// A command that a user can run against this cluster, for hints.
    fn check_command(&self, what: Check<'_>) -> String;
}

/// What a [check command](Cluster::check_command) does.
#[derive(Clone, Copy, Debug)]
pub enum Check<'a> {
    /// Lists the stored keys.
    Keys,
    /// Shows a snapshot.
    Snapshot(u64),
    /// Lists the snapshots.
    Snapshots,
    /// Enables the stored key with this id.
    EnableKey(&'a str),
    /// Changes the comment of the stored key with this id; the user completes the command.
    CommentKey(&'a str),
}
