//! The cluster as the ceremonies see it: a key store and snapshots, behind one trait.

mod call;
mod explain;
mod failure;
pub mod qq;
mod reply;
pub mod rest;
mod transport;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{
    error::Error as UserError,
    public_key::{self, PublicKey},
    signature::Signature,
    text::quoted,
};

/// One entry of the key store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(expecting = "an object")]
pub struct StoredKey {
    /// Digits only. It stays the same when the key is replaced or renamed.
    #[serde(deserialize_with = "reply::id")]
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub comment: String,
    /// A disabled key cannot lock further snapshots, but can still unlock them.
    #[serde(default)]
    pub disabled: bool,
    /// Base64 of the DER SubjectPublicKeyInfo, as the cluster shows it.
    pub public_key: String,
}

impl StoredKey {
    /// The decoded public key.
    ///
    /// # Errors
    /// When it is not a P-256 key.
    pub fn public_key(&self) -> std::result::Result<PublicKey, public_key::Error> {
        PublicKey::from_base64(&self.public_key)
    }

    /// Whether its public key is `key`.
    pub fn holds(&self, key: &PublicKey) -> bool {
        self.public_key().is_ok_and(|stored| stored == *key)
    }

    /// Its name in messages.
    pub fn title(&self) -> String {
        format!("key {} ({})", self.id, quoted(&self.name))
    }
}

/// How a user or a policy refers to a stored key. A name never consists of only digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRef {
    Id(String),
    Name(String),
    /// `SHA256:` and 43 Base64 digits, of the public half.
    Fingerprint(String),
}

impl KeyRef {
    pub fn new(reference: &str) -> Self {
        if !reference.is_empty() && reference.bytes().all(|b| b.is_ascii_digit()) {
            Self::Id(reference.to_owned())
        } else if is_fingerprint(reference) {
            Self::Fingerprint(reference.to_owned())
        } else {
            Self::Name(reference.to_owned())
        }
    }

    /// Its name in messages.
    pub fn title(&self) -> String {
        match self {
            Self::Id(id) => format!("key {id}"),
            Self::Name(name) => format!("key {}", quoted(name)),
            Self::Fingerprint(fingerprint) => format!("key {fingerprint}"),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(text) | Self::Name(text) | Self::Fingerprint(text) => text,
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
            Self::Fingerprint(fingerprint) => {
                let public_key = key.public_key();
                public_key.is_ok_and(|key| key.fingerprint() == *fingerprint)
            }
        }
    }
}

/// Whether a text has the form of a fingerprint (see [`PublicKey::fingerprint`]). A stored key with such
/// a name has to be given by its id.
fn is_fingerprint(text: &str) -> bool {
    let digits = text.strip_prefix("SHA256:");
    digits.is_some_and(|digits| {
        digits.len() == 43
            && digits
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b))
    })
}

/// Something that a stored key protects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "an object")]
#[serde(try_from = "reply::AnyUsage")]
pub struct Usage {
    /// `snapshot`, `snapshot_policy`, `replication_target`, or a kind that a later version adds.
    #[serde(rename = "type")]
    pub kind: String,
    pub id: String,
}

/// The status of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(expecting = "an object")]
pub struct Snapshot {
    pub id: u64,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub source_file_path: String,
    /// RFC 3339.
    #[serde(default)]
    pub timestamp: String,
    /// RFC 3339; empty for a snapshot that never expires.
    #[serde(default, deserialize_with = "reply::or_empty")]
    pub expiration: String,
    /// The id of the stored key that locks it. Required in a reply: an absent field must not read as
    /// "not locked".
    #[serde(deserialize_with = "reply::optional_id")]
    pub lock_key: Option<String>,
}

impl Snapshot {
    /// Its size in memory, in bytes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.texts().iter().map(|text| text.len()).sum::<usize>()
    }

    fn texts(&self) -> [&str; 5] {
        [
            &self.name,
            &self.source_file_path,
            &self.timestamp,
            &self.expiration,
            self.lock_key.as_deref().unwrap_or_default(),
        ]
    }

    /// Its name in messages.
    pub fn title(&self) -> String {
        match self.name.as_str() {
            "" => format!("snapshot {}", self.id),
            name => format!("snapshot {} ({})", self.id, quoted(name)),
        }
    }
}

/// A submission that stores a key.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    pub name: &'a str,
    pub comment: &'a str,
    pub public_key: &'a PublicKey,
    /// Signs the name.
    pub signature: &'a Signature,
}

/// A submission that replaces a stored key.
#[derive(Clone, Debug)]
pub struct Replacement<'a> {
    pub new_key: &'a PublicKey,
    /// Signs the challenge with the key that the cluster holds.
    pub old_signature: &'a Signature,
    /// Signs the challenge with the new key.
    pub new_signature: &'a Signature,
}

/// How far a failed call may have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The cluster refused; nothing was changed.
    Refused,
    /// The cluster never received the request; nothing was changed.
    NotSent,
    /// The cluster itself replied that it failed: it is done with the request, and may have carried it
    /// out.
    Failed,
    /// The cluster does not reply this way to this call: it may have carried out the request, or may
    /// still do so.
    Unexpected,
    /// There was no reply: the cluster may have carried out the request, or may still do so.
    Lost,
}

/// A failed call: what is certain, and what to tell the user.
#[derive(Debug)]
pub struct Error {
    pub certainty: Certainty,
    pub error: UserError,
}

impl Error {
    pub fn new(certainty: Certainty, error: UserError) -> Self {
        Self { certainty, error }
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

/// Typed calls to a cluster. `add_key`, `replace_key`, `unlock`, and `lock` are submissions; all others
/// are reads. Whatever a submission returns, only reading the cluster's state shows what it did: a proxy
/// can reply in the cluster's place.
///
/// A reply about an id other than the requested one is an error.
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

    /// Whether concurrent calls are faster than consecutive ones when only one ceremony runs.
    fn gains_from_concurrency(&self) -> bool;

    /// A command that a user can run against this cluster, for hints.
    fn check_command(&self, what: Check<'_>) -> String;
}

/// The purpose of a [check command](Cluster::check_command).
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
