//! What `add`, `replace`, `unlock` and `lock` print.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use super::{ErrorFields, key};
use crate::{
    cluster::{Snapshot, StoredKey},
    public_key::PublicKey,
};

/// A key that a dry run would store.
#[derive(Serialize, JsonSchema)]
pub struct NewKey<'a> {
    pub name: &'a str,
    pub comment: &'a str,
    #[serde(flatten)]
    pub key: key::PublicKey,
}

/// The public half of a key.
#[derive(Serialize, JsonSchema)]
pub struct PublicHalf {
    /// Base64 of the DER SubjectPublicKeyInfo.
    public_key: String,
    /// Null if the cluster holds a key that is not P-256.
    fingerprint: Option<String>,
}

impl From<&StoredKey> for PublicHalf {
    fn from(key: &StoredKey) -> Self {
        Self {
            public_key: key.public_key.clone(),
            fingerprint: key.public_key().ok().map(|key| key.fingerprint()),
        }
    }
}

impl From<&PublicKey> for PublicHalf {
    fn from(key: &PublicKey) -> Self {
        Self {
            public_key: key.to_base64(),
            fingerprint: Some(key.fingerprint()),
        }
    }
}

/// The key that was stored, or would be.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub enum AddedKey<'a> {
    Stored(key::StoredKey<'a>),
    New(NewKey<'a>),
}

/// What `qkey add` prints.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "action", rename = "add")]
pub struct Add<'a> {
    pub changed: bool,
    pub dry_run: bool,
    pub key: AddedKey<'a>,
}

/// What `qkey replace` prints.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "action", rename = "replace")]
pub struct Replace<'a> {
    pub changed: bool,
    pub dry_run: bool,
    pub key: key::StoredKey<'a>,
    pub old_key: PublicHalf,
    pub new_key: PublicHalf,
    /// The text that both keys signed, in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge: Option<&'a str>,
}

/// A snapshot.
#[derive(Serialize, JsonSchema)]
pub struct SnapshotStatus<'a> {
    id: u64,
    name: &'a str,
    source_file_path: &'a str,
    /// RFC 3339.
    timestamp: &'a str,
    /// RFC 3339; empty for a snapshot that never expires.
    expiration: &'a str,
    /// The id of the stored key that locks it now.
    lock_key: Option<&'a str>,
}

impl<'a> SnapshotStatus<'a> {
    pub fn new(snapshot: &'a Snapshot, lock_key: Option<&'a str>) -> Self {
        Self {
            id: snapshot.id,
            name: &snapshot.name,
            source_file_path: &snapshot.source_file_path,
            timestamp: &snapshot.timestamp,
            expiration: &snapshot.expiration,
            lock_key,
        }
    }
}

/// What `qkey lock` prints.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "action", rename = "lock")]
pub struct Lock<'a> {
    pub changed: bool,
    pub dry_run: bool,
    pub snapshot: SnapshotStatus<'a>,
    pub key: key::StoredKey<'a>,
}

/// What `qkey unlock` prints for each snapshot.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "action", rename = "unlock")]
pub struct Unlock<'a> {
    pub changed: bool,
    pub dry_run: bool,
    pub snapshot: SnapshotStatus<'a>,
    /// Null if the snapshot was not locked.
    pub key: Option<key::StoredKey<'a>>,
    /// The text that was signed, in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge: Option<&'a str>,
}

/// What `qkey unlock` prints for a snapshot that failed, where there are several.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "action", rename = "unlock")]
pub struct FailedUnlock {
    /// Null if that is not known.
    pub changed: Option<bool>,
    pub dry_run: bool,
    pub snapshot: SnapshotId,
    pub error: ErrorFields,
}

/// A snapshot whose status is not known.
#[derive(Serialize, JsonSchema)]
pub struct SnapshotId {
    pub id: u64,
}

/// The last line of `qkey unlock`, where there are several.
#[derive(Serialize, JsonSchema)]
pub struct UnlockSummary {
    pub summary: Counts,
}

/// How many snapshots came to what.
#[derive(Serialize, JsonSchema)]
pub struct Counts {
    pub asked: usize,
    pub changed: usize,
    pub unchanged: usize,
    pub failed: usize,
    pub unknown: usize,
    pub not_tried: usize,
}

/// The schemas of this module's objects.
pub fn schemas(generator: &mut SchemaGenerator) -> Vec<Schema> {
    vec![
        generator.subschema_for::<Add<'_>>(),
        generator.subschema_for::<Replace<'_>>(),
        generator.subschema_for::<Lock<'_>>(),
        generator.subschema_for::<Unlock<'_>>(),
        generator.subschema_for::<FailedUnlock>(),
        generator.subschema_for::<UnlockSummary>(),
    ]
}
