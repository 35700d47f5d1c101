//! Unlocking a snapshot with the private key that locks it.

use std::sync::Arc;

use super::{
    challenge::Purpose,
    change::{Change, Comparison, Conflict},
    proof::{Response, Role, Signatory},
    view::View,
};
use crate::{
    cluster::{self, Check, Cluster, Snapshot, StoredKey},
    error::{Error, Kind, Result, Subject},
    public_key::PublicKey,
};

/// The snapshot to unlock, by its id.
pub struct Unlock(pub u64);

impl Change for Unlock {
    type State = Snapshot;

    fn observe(&self, view: &View<'_>, _: Option<&Snapshot>) -> Result<Snapshot> {
        Ok(view.cluster.snapshot(self.0)?)
    }

    fn challenge(&self, _: Option<&Snapshot>) -> Option<Purpose> {
        Some(Purpose::Unlock(self.0))
    }

    fn roles(&self, state: &Snapshot, keys: &[Arc<StoredKey>]) -> Result<Vec<Signatory>> {
        let lock_key = state.lock_key.as_deref().unwrap_or_default();
        let Some(stored) = keys.iter().find(|key| key.id == lock_key) else {
            let message = format!(
                "{} is locked with key {lock_key}, which is not in the key list",
                state.title()
            );
            return Err(Error::new(Kind::Refused, message).naming(Subject::Snapshot(self.0)).hint(
                "run this again if the key was stored just now; otherwise log in as a user who can list every key",
            ));
        };
        Ok(vec![Signatory::new(Role::Lock, Some(stored))])
    }

    fn compare(&self, before: &Snapshot, now: &Snapshot, _: Option<&PublicKey>) -> Comparison {
        match &now.lock_key {
            None => Comparison::Met,
            lock_key if *lock_key == before.lock_key => Comparison::Unmet,
            Some(lock_key) => Comparison::Conflict(Conflict {
                now: format!("it is locked with key {lock_key}"),
                // The new challenge can be signed with that key.
                error: None,
            }),
        }
    }

    fn submit(
        &self,
        cluster: &dyn Cluster,
        _: &Snapshot,
        response: &Response,
    ) -> cluster::Result<()> {
        let (_, signature) = response.of(Role::Lock);
        cluster.unlock(self.0, signature)
    }

    fn title(&self, state: &Snapshot) -> String {
        format!("unlock {}", state.title())
    }

    fn check(&self) -> Check<'_> {
        Check::Snapshot(self.0)
    }
}
