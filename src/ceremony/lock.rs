//! Locking a snapshot with a stored key, which takes no private key.

use std::sync::Arc;

use super::{
    challenge::Purpose,
    change::{Change, Comparison},
    find_key,
    proof::{Key, Prover, Response, Signatory},
    view::{Keys, View},
};
use crate::{
    cluster::{self, Check, Cluster, KeyRef, Snapshot, StoredKey},
    error::{Error, Kind, Result},
    parallel::both,
    public_key::PublicKey,
};

/// The snapshot to lock, and the key to lock it with.
pub struct Lock {
    pub id: u64,
    pub key: KeyRef,
}

/// The snapshot, and the stored key to lock it with.
#[derive(Clone)]
pub struct State {
    pub snapshot: Snapshot,
    pub key: Arc<StoredKey>,
    keys: Keys,
    /// The command that enables the key.
    enable: String,
}

/// The prover of a change that needs no proof.
pub struct NoProof;

impl Prover for NoProof {
    fn open(&self) {}

    fn new_key(&self) -> Option<PublicKey> {
        None
    }

    fn find(&self, _: &Signatory) -> Result<Key> {
        Err(Error::new(Kind::Internal, "there is no key to sign with"))
    }
}

impl Change for Lock {
    type State = State;

    fn observe(&self, view: &View<'_>, before: Option<&State>) -> Result<State> {
        if let Some(before) = before {
            return Ok(State {
                snapshot: view.cluster.snapshot(self.id)?,
                ..before.clone()
            });
        }
        let (keys, snapshot) = both(|| view.keys(), || view.cluster.snapshot(self.id));
        let (snapshot, keys) = (snapshot?, keys?);
        let key = find_key(&keys, &self.key)?;
        let enable = view.cluster.check_command(Check::EnableKey(&key.id));
        Ok(State {
            snapshot,
            key,
            keys,
            enable,
        })
    }

    fn challenge(&self, _: Option<&State>) -> Option<Purpose> {
        Some(Purpose::Lock(self.id))
    }

    fn roles(&self, _: &State, _: &[Arc<StoredKey>]) -> Result<Vec<Signatory>> {
        Ok(Vec::new())
    }

    fn compare(&self, _: &State, now: &State, _: Option<&PublicKey>) -> Comparison {
        let (snapshot, key) = (&now.snapshot, &now.key);
        let title = snapshot.title();
        match &snapshot.lock_key {
            Some(lock_key) if *lock_key == key.id => Comparison::Met,
            Some(lock_key) => {
                let holder = find_key(&now.keys, &KeyRef::Id(lock_key.clone()))
                    .map_or_else(|_| format!("key {lock_key}"), |holder| holder.title());
                let message = format!("{title} is already locked with {holder}");
                let error =
                    Error::new(Kind::Mismatch, message).hint("to change its key, unlock it first");
                Comparison::conflict(format!("it is locked with key {lock_key}"), error)
            }
            None if key.disabled => {
                let title = key.title();
                let message = format!("{title} is disabled and cannot lock snapshots");
                let error = Error::new(Kind::Refused, message).hint(format!(
                    "choose another key, or enable it: `{}`",
                    now.enable
                ));
                Comparison::conflict(format!("{title} is disabled"), error)
            }
            None => Comparison::Unmet,
        }
    }

    fn submit(&self, cluster: &dyn Cluster, before: &State, _: &Response) -> cluster::Result<()> {
        cluster.lock(self.id, &before.key.id)
    }

    fn title(&self, state: &State) -> String {
        format!("lock {}", state.snapshot.title())
    }

    fn check(&self) -> Check<'_> {
        Check::Snapshot(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceremony::{
        self, Ending, Outcome,
        fakes::{Call, FakeCluster, FakeSource, Fault, Rendezvous, World, assert_tells, failed},
        observer::Silent,
    };

    /// One run of the command.
    struct Run {
        key: KeyRef,
        dry_run: bool,
    }

    impl Run {
        fn run(&self, cluster: &FakeCluster) -> Result<Outcome<State>> {
            let change = Lock {
                id: 7,
                key: self.key.clone(),
            };
            ceremony::run(&change, cluster, &NoProof, &Silent, 2, self.dry_run)
        }
    }

    /// Key 1 is "lock-2026", key 2 "lock-2027"; neither locks snapshot 7.
    fn world() -> World {
        World::default()
            .with_key("lock-2026", FakeSource::new("a.pem").public_key())
            .with_key("lock-2027", FakeSource::new("b.pem").public_key())
            .with_snapshot(7, None)
    }

    fn cluster() -> FakeCluster {
        FakeCluster::new(world())
    }

    fn lock(key: &str) -> Run {
        Run {
            key: KeyRef::new(key),
            dry_run: false,
        }
    }

    fn lock_key(cluster: &FakeCluster) -> Option<String> {
        cluster.world().snapshot(7).lock_key.clone()
    }

    #[test]
    fn snapshot_is_locked_with_key_by_name_or_id() {
        for reference in ["lock-2027", "2"] {
            let cluster = cluster();
            let locked = lock(reference).run(&cluster).unwrap();
            assert_eq!(locked.ending, Ending::Done);
            assert_eq!(
                (locked.now().snapshot.id, locked.now().key.id.as_str()),
                (7, "2")
            );
            assert_eq!(lock_key(&cluster).as_deref(), Some("2"));
            assert_eq!(cluster.calls().len(), 4);
            assert_eq!(cluster.calls()[3], Call::Snapshot(7));
        }
    }

    #[test]
    fn key_list_and_snapshot_are_read_concurrently() {
        let rendezvous = Rendezvous::of(2);
        let cluster = cluster()
            .fault(Call::Keys, .., Fault::Meet(rendezvous.clone()))
            .fault(Call::Snapshot(7), .., Fault::Meet(rendezvous));
        assert_eq!(lock("1").run(&cluster).unwrap().ending, Ending::Done);
    }

    #[test]
    fn snapshot_locked_with_another_key_is_a_mismatch() {
        for (holder, title) in [("2", "key 2 (\"lock-2027\")"), ("9", "key 9")] {
            let cluster = FakeCluster::new(world().with_snapshot(7, Some(holder)));
            let error = failed(lock("1").run(&cluster), Kind::Mismatch, 4);
            assert_tells(&error, &format!("is already locked with {title}"));
            assert_tells(&error, "nothing was sent");
            assert_eq!(cluster.submissions(), 0);
        }
    }

    #[test]
    fn unknown_key_is_refused() {
        for reference in ["lock-206", "3"] {
            let cluster = cluster();
            let error = failed(lock(reference).run(&cluster), Kind::Refused, 5);
            assert_tells(&error, reference);
            assert_eq!(cluster.submissions(), 0);
        }
    }

    #[test]
    fn disabled_key_cannot_lock() {
        let disabled = || world().with(|world| world.key("1").disabled = true);
        let cluster = FakeCluster::new(disabled());
        let error = failed(lock("1").run(&cluster), Kind::Refused, 5);
        assert_tells(&error, "nothing was sent");
        assert_eq!(cluster.submissions(), 0);

        let cluster = FakeCluster::new(disabled().with_snapshot(7, Some("1")));
        let locked = lock("1").run(&cluster).unwrap();
        assert_eq!(locked.ending, Ending::AlreadySo);
    }

    #[test]
    fn unreadable_state_sends_nothing() {
        for call in [Call::Keys, Call::Snapshot(7)] {
            for (fault, kind, exit_code) in [
                (Fault::Lost, Kind::Unreachable, 7),
                (Fault::Unauthorized, Kind::Auth, 6),
                (Fault::Stopped(Kind::Terminated), Kind::Terminated, 143),
            ] {
                let cluster = cluster().fault(call.clone(), .., fault);
                failed(lock("1").run(&cluster), kind, exit_code);
                assert_eq!(cluster.submissions(), 0);
            }
        }
    }

    #[test]
    fn refusal_after_identical_lock_is_already_so() {
        let somebody_else = |world: &mut World| {
            world.snapshot(7).lock_key = Some("1".to_owned());
        };
        let cluster = cluster()
            .fault(Call::Lock(7), .., Fault::Meanwhile(somebody_else))
            .fault(Call::Lock(7), .., Fault::Refused);
        assert_eq!(lock("1").run(&cluster).unwrap().ending, Ending::AlreadySo);
        assert_eq!(cluster.submissions(), 1);
    }

    #[test]
    fn other_lock_key_after_lost_submission_is_unknown() {
        let cluster = cluster()
            .fault(
                Call::Lock(7),
                ..,
                Fault::Meanwhile(|world| world.snapshot(7).lock_key = Some("2".to_owned())),
            )
            .fault(Call::Lock(7), .., Fault::Lost);
        let error = failed(lock("1").run(&cluster), Kind::Unknown, 8);
        assert_tells(&error, "now it is locked with key 2");
        assert_tells(&error, "`check snapshot 7`");
        assert_eq!(cluster.submissions(), 1);
    }
}
