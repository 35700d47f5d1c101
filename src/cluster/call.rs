//! The calls that qkey makes to a cluster, whatever the transport.

use std::fmt;

use super::{KeyRef, NewKey, Replacement};
use crate::{error::Subject, signature::Signature, text::quoted};

/// One call with its arguments. Its `Display` is how messages name it: "unlock snapshot 7".
#[derive(Clone, Copy)]
pub enum Call<'a> {
    Keys,
    /// Lists what the stored key with this id protects.
    KeyUsage(&'a str),
    AddKey(&'a NewKey<'a>),
    ReplacementChallenge(&'a KeyRef),
    /// Replaces the stored key with this id.
    ReplaceKey(&'a str, &'a Replacement<'a>),
    Snapshot(u64),
    UnlockedSnapshots,
    UnlockChallenge(u64),
    Unlock(u64, &'a Signature),
    /// Locks the snapshot with the stored key with this id.
    Lock(u64, &'a str),
}

impl Call<'_> {
    /// Whether it may change the cluster's state, so that it must not be retried.
    pub fn is_submission(self) -> bool {
        matches!(
            self,
            Self::AddKey(_) | Self::ReplaceKey(..) | Self::Unlock(..) | Self::Lock(..)
        )
    }

    /// The `qq` command that makes it.
    pub fn qq_command(self) -> &'static str {
        match self {
            Self::Keys => "fs_security_list_keys",
            Self::KeyUsage(_) => "fs_security_get_key_usage",
            Self::AddKey(_) => "fs_security_add_key",
            Self::ReplacementChallenge(_) => "fs_security_get_key_replace_challenge",
            Self::ReplaceKey(..) => "fs_security_replace_key",
            Self::Snapshot(_) => "snapshot_get_status",
            Self::UnlockedSnapshots => "snapshot_list_statuses",
            Self::UnlockChallenge(_) => "snapshot_get_unlock_challenge",
            Self::Unlock(..) => "snapshot_unlock_snapshot",
            Self::Lock(..) => "snapshot_lock_snapshot",
        }
    }

    /// The privilege that a user most likely lacks if the cluster denies the call. Qumulo does not
    /// document which call checks which privilege.
    pub fn privilege(self) -> &'static str {
        match self {
            Self::Keys | Self::KeyUsage(_) => "PRIVILEGE_FS_KEY_MANAGEMENT_READ",
            Self::AddKey(_) | Self::ReplacementChallenge(_) | Self::ReplaceKey(..) => {
                "PRIVILEGE_FS_KEY_MANAGEMENT_WRITE"
            }
            Self::Snapshot(_) | Self::UnlockedSnapshots => "PRIVILEGE_SNAPSHOT_READ",
            Self::UnlockChallenge(_) | Self::Unlock(..) | Self::Lock(..) => {
                "PRIVILEGE_SNAPSHOT_LOCK"
            }
        }
    }

    /// The object of the call, if one run makes several calls of its kind.
    pub fn subject(self) -> Option<Subject> {
        match self {
            Self::Snapshot(id)
            | Self::UnlockChallenge(id)
            | Self::Unlock(id, _)
            | Self::Lock(id, _) => Some(Subject::Snapshot(id)),
            _ => None,
        }
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys => f.write_str("list the lock keys"),
            Self::KeyUsage(id) => write!(f, "list what key {id} protects"),
            Self::AddKey(key) => write!(f, "store key {}", quoted(key.name)),
            Self::ReplacementChallenge(key) => {
                write!(f, "get the challenge to replace {}", key.title())
            }
            Self::ReplaceKey(id, _) => write!(f, "replace key {id}"),
            Self::Snapshot(id) => write!(f, "read snapshot {id}"),
            Self::UnlockedSnapshots => f.write_str("list the unlocked snapshots"),
            Self::UnlockChallenge(id) => write!(f, "get the challenge to unlock snapshot {id}"),
            Self::Unlock(id, _) => write!(f, "unlock snapshot {id}"),
            Self::Lock(id, _) => write!(f, "lock snapshot {id}"),
        }
    }
}
