//! The calls that qkey makes to a cluster, whatever the transport.

use std::fmt;

use super::KeyRef;
use crate::{error::Subject, text::quoted};

/// One call, with what it is about. As text it is what messages say: "unlock snapshot 7".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call<'a> {
    Keys,
    /// What the stored key with this id protects.
    KeyUsage(&'a str),
    /// Stores a key with this name.
    AddKey(&'a str),
    ReplacementChallenge(&'a KeyRef),
    /// Replaces the stored key with this id.
    ReplaceKey(&'a str),
    Snapshot(u64),
    UnlockedSnapshots,
    UnlockChallenge(u64),
    Unlock(u64),
    Lock(u64),
}

impl Call<'_> {
    /// The command of `qq` that makes it.
    pub fn qq_command(self) -> &'static str {
        match self {
            Self::Keys => "fs_security_list_keys",
            Self::KeyUsage(_) => "fs_security_get_key_usage",
            Self::AddKey(_) => "fs_security_add_key",
            Self::ReplacementChallenge(_) => "fs_security_get_key_replace_challenge",
            Self::ReplaceKey(_) => "fs_security_replace_key",
            Self::Snapshot(_) => "snapshot_get_status",
            Self::UnlockedSnapshots => "snapshot_list_statuses",
            Self::UnlockChallenge(_) => "snapshot_get_unlock_challenge",
            Self::Unlock(_) => "snapshot_unlock_snapshot",
            Self::Lock(_) => "snapshot_lock_snapshot",
        }
    }

    /// The privilege that a user most likely lacks if the cluster denies it. Which call checks which
    /// privilege is not documented.
    pub fn privilege(self) -> &'static str {
        match self {
            Self::Keys | Self::KeyUsage(_) => "PRIVILEGE_FS_KEY_MANAGEMENT_READ",
            Self::AddKey(_) | Self::ReplacementChallenge(_) | Self::ReplaceKey(_) => {
                "PRIVILEGE_FS_KEY_MANAGEMENT_WRITE"
            }
            Self::Snapshot(_) | Self::UnlockedSnapshots => "PRIVILEGE_SNAPSHOT_READ",
            Self::UnlockChallenge(_) | Self::Unlock(_) | Self::Lock(_) => "PRIVILEGE_SNAPSHOT_LOCK",
        }
    }

    /// What the call is about, where several of its kind are made in a run.
    pub fn subject(self) -> Option<Subject> {
        match self {
            Self::Snapshot(id) | Self::UnlockChallenge(id) | Self::Unlock(id) | Self::Lock(id) => {
                Some(Subject::Snapshot(id))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys => f.write_str("list the lock keys"),
            Self::KeyUsage(id) => write!(f, "list what key {id} protects"),
            Self::AddKey(name) => write!(f, "store key {}", quoted(name)),
            Self::ReplacementChallenge(key) => {
                write!(f, "get the challenge to replace {}", key.title())
            }
            Self::ReplaceKey(id) => write!(f, "replace key {id}"),
            Self::Snapshot(id) => write!(f, "read snapshot {id}"),
            Self::UnlockedSnapshots => f.write_str("list the unlocked snapshots"),
            Self::UnlockChallenge(id) => write!(f, "get the challenge to unlock snapshot {id}"),
            Self::Unlock(id) => write!(f, "unlock snapshot {id}"),
            Self::Lock(id) => write!(f, "lock snapshot {id}"),
        }
    }
}
