//! Locking a snapshot with a stored key; no private key is needed for that.

use super::{
    Ending, find_key, not_explained,
    submission::{Seen, Submission, Verdict},
};
use crate::{
    cluster::{Check, Cluster, KeyRef, Snapshot, StoredKey},
    error::{Error, Kind, Result},
    parallel::both,
};

/// What is to be locked with what.
pub struct Lock {
    pub id: u64,
    pub key: KeyRef,
    pub dry_run: bool,
}

/// What the cluster holds, or would.
pub struct Locked {
    pub ending: Ending,
    pub snapshot: Snapshot,
    pub key: StoredKey,
}

impl Lock {
    /// Runs the ceremony.
    ///
    /// # Errors
    /// As the rules have it; of kind `mismatch` when another key locks the snapshot.
    pub fn run(&self, cluster: &dyn Cluster) -> Result<Locked> {
        let (keys, snapshot) = both(|| cluster.keys(), || cluster.snapshot(self.id));
        let (snapshot, keys) = (snapshot?, keys?);
        let key = find_key(&keys, &self.key)?;
        let title = snapshot.title();
        let locked = |ending| Locked {
            ending,
            snapshot: snapshot.clone(),
            key: key.clone(),
        };
        match &snapshot.lock_key {
            Some(lock_key) if *lock_key == key.id => return Ok(locked(Ending::AlreadySo)),
            Some(lock_key) => {
                let holder = find_key(&keys, &KeyRef::Id(lock_key.clone()))
                    .map_or_else(|_| format!("key {lock_key}"), |holder| holder.title());
                let message = format!("{title} is locked with {holder} already");
                return Err(Error::new(Kind::Mismatch, message)
                    .hint("nothing was sent; to change its key, unlock it first"));
            }
            None => {}
        }
        if key.disabled {
            let message = format!(
                "{} is disabled, and a disabled key locks nothing",
                key.title()
            );
            return Err(Error::new(Kind::Refused, message).hint(format!(
                "nothing was sent; choose another key, or enable it: `qq fs_security_modify_key --key={} --enable`",
                key.id
            )));
        }
        if self.dry_run {
            return Ok(locked(Ending::DryRun));
        }
        let submission = Submission {
            request: format!("the request to lock {title}"),
            check: cluster.check_command(Check::Snapshot(self.id)),
        };
        let submit = || cluster.lock(self.id, &key.id);
        let look = || {
            let status = cluster.snapshot(self.id)?;
            Ok(match status.lock_key {
                None => Seen::NotDone,
                Some(now) if now == key.id => Seen::Done(()),
                Some(now) => Seen::SomethingElse(format!("it is locked with key {now}")),
            })
        };
        match submission.submit(submit, look)? {
            Verdict::Done(()) => Ok(locked(Ending::Done)),
            Verdict::Refused(error) if error.kind() == Kind::Auth => Err(error),
            // Somebody may have been faster with the very same.
            Verdict::Refused(error) => match look() {
                Ok(Seen::Done(())) => Ok(locked(Ending::AlreadySo)),
                Ok(_) => Err(error),
                Err(failure) => Err(not_explained(error, &failure)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceremony::fakes::{
        Call, FakeCluster, FakeSource, Fault, Rendezvous, World, assert_tells, failed,
    };

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

    fn lock(key: &str) -> Lock {
        Lock {
            id: 7,
            key: KeyRef::new(key),
            dry_run: false,
        }
    }

    fn lock_key(cluster: &FakeCluster) -> Option<String> {
        cluster.world().snapshot(7).lock_key.clone()
    }

    #[test]
    fn a_snapshot_is_locked_with_a_key_by_its_name_or_id() {
        for reference in ["lock-2027", "2"] {
            let cluster = cluster();
            let locked = lock(reference).run(&cluster).unwrap();
            assert_eq!(locked.ending, Ending::Done);
            assert_eq!((locked.snapshot.id, locked.key.id.as_str()), (7, "2"));
            assert_eq!(lock_key(&cluster).as_deref(), Some("2"));
            assert_eq!(cluster.calls().len(), 4);
            assert_eq!(cluster.calls()[3], Call::Snapshot(7));
        }
    }

    #[test]
    fn the_key_list_and_the_snapshot_are_read_side_by_side() {
        let rendezvous = Rendezvous::of(2);
        let cluster = cluster()
            .fault(Call::Keys, .., Fault::Meet(rendezvous.clone()))
            .fault(Call::Snapshot(7), .., Fault::Meet(rendezvous));
        assert_eq!(lock("1").run(&cluster).unwrap().ending, Ending::Done);
    }

    #[test]
    fn a_second_run_says_that_it_is_so_and_sends_nothing() {
        let cluster = cluster();
        lock("1").run(&cluster).unwrap();
        let again = lock("lock-2026").run(&cluster).unwrap();
        assert_eq!(again.ending, Ending::AlreadySo);
        assert_eq!(again.key.id, "1");
        assert_eq!(cluster.submissions(), 1);
    }

    #[test]
    fn what_another_key_locks_is_a_mismatch_and_sends_nothing() {
        for (holder, title) in [("2", "key 2 (\"lock-2027\")"), ("9", "key 9")] {
            let cluster = FakeCluster::new(world().with_snapshot(7, Some(holder)));
            let error = failed(lock("1").run(&cluster), Kind::Mismatch, 4);
            assert_tells(&error, &format!("is locked with {title} already"));
            assert_tells(&error, "nothing was sent");
            assert_eq!(cluster.submissions(), 0);
        }
    }

    #[test]
    fn a_key_that_is_not_stored_locks_nothing() {
        for reference in ["lock-206", "3"] {
            let cluster = cluster();
            let error = failed(lock(reference).run(&cluster), Kind::Refused, 5);
            assert_tells(&error, reference);
            assert_eq!(cluster.submissions(), 0);
        }
    }

    #[test]
    fn a_disabled_key_locks_nothing_more() {
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
    fn a_dry_run_sends_nothing() {
        let cluster = cluster();
        let lock = Lock {
            dry_run: true,
            ..lock("1")
        };
        assert_eq!(lock.run(&cluster).unwrap().ending, Ending::DryRun);
        assert_eq!(cluster.submissions(), 0);
    }

    #[test]
    fn nothing_is_sent_when_the_state_cannot_be_read() {
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
    fn a_refusal_stands_and_what_was_not_sent_is_not_looked_up() {
        for (fault, kind, exit_code, looks) in [
            (Fault::Refused, Kind::Refused, 5, 1),
            (Fault::Unauthorized, Kind::Auth, 6, 0),
            (Fault::NotSent, Kind::Unreachable, 7, 0),
        ] {
            let cluster = cluster().fault(Call::Lock(7), .., fault);
            failed(lock("1").run(&cluster), kind, exit_code);
            assert_eq!(cluster.submissions(), 1);
            assert_eq!(cluster.count(&Call::Snapshot(7)), 1 + looks);
        }
    }

    #[test]
    fn a_refusal_is_already_so_when_somebody_was_faster_with_the_same_lock() {
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
    fn after_a_lost_answer_the_lock_is_found_whenever_it_shows() {
        for look in 1..=3 {
            let cluster = cluster().fault(Call::Lock(7), .., Fault::LostAfter(look));
            assert_eq!(lock("1").run(&cluster).unwrap().ending, Ending::Done);
            assert_eq!(cluster.submissions(), 1);
            assert_eq!(cluster.count(&Call::Snapshot(7)), 1 + look);
        }
    }

    #[test]
    fn after_a_lost_submission_it_may_still_be_done_and_is_not_retried() {
        let cluster = cluster().fault(Call::Lock(7), ..=1, Fault::Lost);
        let error = failed(lock("1").run(&cluster), Kind::Unknown, 8);
        assert_tells(&error, "not done so far, and may still be");
        assert_tells(&error, "`check snapshot 7`");
        assert_eq!((cluster.submissions(), lock_key(&cluster)), (1, None));
        assert_eq!(lock("1").run(&cluster).unwrap().ending, Ending::Done);
    }

    #[test]
    fn a_lock_that_is_accepted_and_not_shown_is_unknown() {
        let cluster = cluster().fault(Call::Lock(7), .., Fault::Ignored);
        let error = failed(lock("1").run(&cluster), Kind::Unknown, 8);
        assert_tells(&error, "not done so far, and may still be");
        assert_tells(&error, "`check snapshot 7`");
        assert_eq!(cluster.submissions(), 1);
    }

    #[test]
    fn after_a_lost_submission_the_lock_of_another_key_is_unknown() {
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

    #[test]
    fn after_a_lost_answer_an_unreadable_snapshot_is_unknown() {
        for fault in [Fault::Lost, Fault::LostAfter(1)] {
            let cluster = cluster().fault(Call::Lock(7), .., fault).fault(
                Call::Snapshot(7),
                2..,
                Fault::Lost,
            );
            let error = failed(lock("1").run(&cluster), Kind::Unknown, 8);
            assert_tells(&error, "`check snapshot 7`");
            assert_eq!(cluster.submissions(), 1);
        }
    }

    #[test]
    fn what_became_of_a_submission_that_a_signal_ended_is_read() {
        for (kind, exit_code) in [(Kind::Interrupted, 130), (Kind::Terminated, 143)] {
            let cluster = cluster().fault(Call::Lock(7), .., Fault::Stopped(kind));
            let error = failed(lock("1").run(&cluster), kind, exit_code);
            assert_tells(&error, "not done so far, and may still be");
            assert_tells(&error, "`check snapshot 7`");
            assert_eq!(cluster.submissions(), 1);
        }
    }
}
