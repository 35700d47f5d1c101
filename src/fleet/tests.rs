use std::sync::Mutex;

use super::*;
use crate::ceremony::Ending;
use crate::ceremony::fakes::{
    Call, FakeCluster, FakeSource, Fault, Opening, Rendezvous, Signing, World, assert_tells, failed,
};

/// Somebody gives snapshot 7 another expiration.
const EXTENDED: Fault = Fault::Meanwhile(|world| world.snapshot(7).expiration.push('!'));

/// Key 1 locks snapshots 1 to 9.
fn locked_with(key: &FakeSource) -> World {
    let world = World::default().with_key("lock-2026", key.public_key());
    (1..=9).fold(world, |world, id| world.with_snapshot(id, Some("1")))
}

fn unlock<'a>(keys: &[&'a FakeSource]) -> UnlockMany<'a> {
    UnlockMany {
        ids: vec![7],
        keys: keys.iter().map(|key| *key as _).collect(),
        attempts: 2,
        jobs: 1,
        dry_run: false,
    }
}

fn run_all(unlock: &UnlockMany<'_>, cluster: &FakeCluster) -> Results {
    unlock.run(cluster, &Silent)
}

fn run(unlock: &UnlockMany<'_>, cluster: &FakeCluster) -> Result<Outcome<Snapshot>> {
    let mut results = run_all(unlock, cluster);
    let (id, result) = results.remove(0);
    assert_eq!((id, results.len()), (7, 0));
    result
}

fn endings(results: &[(u64, Result<Outcome<Snapshot>>)]) -> Vec<(u64, Ending)> {
    let ending = |result: &Result<Outcome<Snapshot>>| result.as_ref().unwrap().ending;
    results
        .iter()
        .map(|(id, result)| (*id, ending(result)))
        .collect()
}

fn lock_key(cluster: &FakeCluster, id: u64) -> Option<String> {
    cluster.world().snapshot(id).lock_key.clone()
}

#[test]
fn snapshot_is_unlocked_with_signature_over_exact_challenge() {
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key));
    let challenge = cluster.world().unlock_challenge(7).unwrap();
    let unlocked = run(&unlock(&[&key]), &cluster).unwrap();
    assert_eq!(unlocked.ending, Ending::Done);
    assert_eq!(unlocked.before.id, 7);
    assert_eq!(unlocked.stored_key.unwrap().id, "1");
    assert_eq!(lock_key(&cluster, 7), None);
    assert_eq!(lock_key(&cluster, 6).as_deref(), Some("1"));
    assert_eq!(key.signed(), [challenge]);
    assert_eq!(cluster.calls().len(), 5);
    assert_eq!(cluster.calls()[3..], [Call::Unlock(7), Call::Snapshot(7)]);
}

#[test]
fn first_reads_and_key_opening_run_concurrently() {
    let rendezvous = Rendezvous::of(5);
    let [key, other] =
        ["a.pem", "b.pem"].map(|title| FakeSource::new(title).meeting_when_opened(&rendezvous));
    let meet = || Fault::Meet(rendezvous.clone());
    let cluster = FakeCluster::new(locked_with(&key))
        .fault(Call::Keys, .., meet())
        .fault(Call::Snapshot(7), .., meet())
        .fault(Call::UnlockChallenge(7), .., meet());
    let unlocked = run(&unlock(&[&other, &key]), &cluster).unwrap();
    assert_eq!(unlocked.ending, Ending::Done);
}

#[test]
fn status_and_challenge_are_reread_concurrently_after_refusal() {
    let rendezvous = Rendezvous::of(2);
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key))
        .fault(Call::Unlock(7), ..=1, EXTENDED)
        .fault(Call::Snapshot(7), 2.., Fault::Meet(rendezvous.clone()))
        .fault(Call::UnlockChallenge(7), 2.., Fault::Meet(rendezvous));
    let unlocked = run(&unlock(&[&key]), &cluster).unwrap();
    assert_eq!(unlocked.ending, Ending::Done);
}

#[test]
fn unlocked_snapshot_is_already_so_without_key_or_prompt() {
    let locked = FakeSource::new("locked.pem").opening(Opening::Asks);
    let gone = FakeSource::new("gone.pem").opening(Opening::Fails(Kind::Key));
    let world = || locked_with(&locked).with_snapshot(7, None);
    for cluster in [
        FakeCluster::new(world()),
        FakeCluster::new(world()).fault(Call::Keys, .., Fault::Unauthorized),
        FakeCluster::new(world()).fault(Call::UnlockChallenge(7), .., Fault::Lost),
    ] {
        for keys in [&[&locked][..], &[&gone], &[&locked, &gone], &[]] {
            let unlocked = run(&unlock(keys), &cluster).unwrap();
            assert_eq!(unlocked.ending, Ending::AlreadySo);
            assert_eq!((unlocked.before.id, unlocked.stored_key), (7, None));
        }
        assert_eq!((cluster.submissions(), locked.asked()), (0, 0));
    }
}

#[test]
fn key_is_chosen_by_public_key() {
    let [key, other, locked] = ["a.pem", "other.pem", "locked.pem"].map(FakeSource::new);
    let locked = locked.opening(Opening::Asks);
    let gone = FakeSource::new("gone.pem").opening(Opening::Fails(Kind::Key));
    let cluster = FakeCluster::new(locked_with(&key));
    let unlocked = run(&unlock(&[&gone, &locked, &other, &key]), &cluster).unwrap();
    assert_eq!(unlocked.ending, Ending::Done);
    assert_eq!((locked.asked(), other.signed().len()), (0, 0));
}

#[test]
fn disabled_key_still_unlocks() {
    let key = FakeSource::new("a.pem");
    let world = locked_with(&key).with(|world| world.key("1").disabled = true);
    let unlocked = run(&unlock(&[&key]), &FakeCluster::new(world)).unwrap();
    assert_eq!(unlocked.ending, Ending::Done);
}

#[test]
fn wrong_key_is_a_mismatch_and_sends_nothing() {
    let [key, other] = ["a.pem", "other.pem"].map(FakeSource::new);
    let cluster = FakeCluster::new(locked_with(&key));
    let error = failed(run(&unlock(&[&other]), &cluster), Kind::Mismatch, 4);
    assert_tells(&error, "other.pem");
    assert_tells(&error, "nothing was sent");
    assert_eq!((cluster.submissions(), other.signed().len()), (0, 0));
}

#[test]
fn lock_key_missing_from_key_store_is_reported() {
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key).with_snapshot(7, Some("9")));
    let error = failed(run(&unlock(&[&key]), &cluster), Kind::Refused, 5);
    assert_tells(&error, "is locked with key 9, which is not in the key list");
    assert_eq!(cluster.submissions(), 0);
}

#[test]
fn missing_snapshot_is_reported_in_the_cluster_words() {
    let key = FakeSource::new("a.pem").opening(Opening::Asks);
    let cluster = FakeCluster::new(World::default());
    let error = failed(run(&unlock(&[&key]), &cluster), Kind::Refused, 5);
    assert_tells(&error, "snapshot_not_found_error");
    assert_eq!((cluster.submissions(), key.asked()), (0, 0));
}

#[test]
fn unverifiable_signature_is_not_sent() {
    for signing in [Signing::OtherBytes, Signing::AnotherKey] {
        for dry_run in [false, true] {
            let key = FakeSource::new("a.pem").signing(signing);
            let cluster = FakeCluster::new(locked_with(&key));
            let unlock = UnlockMany {
                dry_run,
                ..unlock(&[&key])
            };
            let error = failed(run(&unlock, &cluster), Kind::Key, 3);
            assert_tells(&error, "a.pem");
            assert_tells(&error, "nothing was sent");
            assert_eq!(cluster.submissions(), 0);
        }
    }
}

#[test]
fn key_that_fails_to_open_or_sign_sends_nothing() {
    let key = || FakeSource::new("a.pem");
    for key in [
        key().opening(Opening::Fails(Kind::Key)),
        key().opening(Opening::AsksInVain(Kind::Key)),
        key().signing(Signing::Fails),
    ] {
        let cluster = FakeCluster::new(locked_with(&key));
        failed(run(&unlock(&[&key]), &cluster), Kind::Key, 3);
        assert_eq!(cluster.submissions(), 0);
    }
}

#[test]
fn dry_run_signs_and_sends_nothing() {
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key));
    let unlock = UnlockMany {
        dry_run: true,
        ..unlock(&[&key])
    };
    let unlocked = run(&unlock, &cluster).unwrap();
    assert_eq!(unlocked.ending, Ending::DryRun);
    assert_eq!(unlocked.stored_key.unwrap().id, "1");
    assert_eq!((cluster.submissions(), key.signed().len()), (0, 1));
    assert_eq!(lock_key(&cluster, 7).as_deref(), Some("1"));
}

#[test]
fn no_prompt_before_cluster_replies() {
    let key = FakeSource::new("a.pem").opening(Opening::Asks);
    for call in [Call::Keys, Call::Snapshot(7), Call::UnlockChallenge(7)] {
        for (fault, kind, exit_code) in [
            (Fault::Lost, Kind::Unreachable, 7),
            (Fault::NotSent, Kind::Unreachable, 7),
            (Fault::Unauthorized, Kind::Auth, 6),
            (Fault::Refused, Kind::Refused, 5),
            (Fault::Stopped(Kind::Interrupted), Kind::Interrupted, 130),
        ] {
            let cluster = FakeCluster::new(locked_with(&key)).fault(call.clone(), .., fault);
            failed(run(&unlock(&[&key]), &cluster), kind, exit_code);
            assert_eq!((cluster.submissions(), key.asked()), (0, 0));
        }
    }
}

#[test]
fn stale_challenge_is_signed_and_submitted_again() {
    let key = FakeSource::new("a.pem").opening(Opening::Asks);
    let cluster = FakeCluster::new(locked_with(&key)).fault(Call::Unlock(7), ..=1, EXTENDED);
    let first = cluster.world().unlock_challenge(7).unwrap();
    let extended = cluster
        .world()
        .with(|world| world.snapshot(7).expiration.push('!'));
    let unlocked = run(&unlock(&[&key]), &cluster).unwrap();
    assert_eq!(unlocked.ending, Ending::Done);
    assert_eq!((cluster.submissions(), key.asked()), (2, 1));
    assert_eq!(key.signed(), [first, extended.unlock_challenge(7).unwrap()]);
    assert_eq!(lock_key(&cluster, 7), None);
}

#[test]
fn snapshot_relocked_meanwhile_is_unlocked_with_the_other_key() {
    let [key, other] = ["a.pem", "b.pem"].map(FakeSource::new);
    let relocked = Fault::Meanwhile(|world| world.snapshot(7).lock_key = Some("2".to_owned()));
    let world = || locked_with(&key).with_key("lock-2027", other.public_key());

    let cluster = FakeCluster::new(world()).fault(Call::Unlock(7), ..=1, relocked.clone());
    let unlocked = run(&unlock(&[&key, &other]), &cluster).unwrap();
    assert_eq!(unlocked.ending, Ending::Done);
    assert_eq!(unlocked.stored_key.unwrap().id, "2");
    assert_eq!((key.signed().len(), other.signed().len()), (1, 1));

    let cluster = FakeCluster::new(world()).fault(Call::Unlock(7), ..=1, relocked);
    failed(run(&unlock(&[&key]), &cluster), Kind::Mismatch, 4);
    assert_eq!(cluster.submissions(), 1);
}

#[test]
fn lock_key_replaced_meanwhile_is_read_again_after_refusal() {
    let [key, other] = ["a.pem", "b.pem"].map(FakeSource::new);
    let replaced = Fault::Meanwhile(|world| {
        world.key("1").public_key = world.key("2").public_key.clone();
        world.snapshot(7).expiration.push('!');
    });
    let world = locked_with(&key).with_key("lock-2027", other.public_key());
    let cluster = FakeCluster::new(world).fault(Call::Unlock(7), ..=1, replaced);
    let unlocked = run(&unlock(&[&key, &other]), &cluster).unwrap();
    assert_eq!(unlocked.ending, Ending::Done);
    assert_eq!((key.signed().len(), other.signed().len()), (1, 1));
    assert_eq!(cluster.count(&Call::Keys), 2);
}

#[test]
fn stale_challenge_is_retried_up_to_attempts() {
    for attempts in 1..=3 {
        let key = FakeSource::new("a.pem");
        let cluster = FakeCluster::new(locked_with(&key)).fault(Call::Unlock(7), .., EXTENDED);
        let unlock = UnlockMany {
            attempts,
            ..unlock(&[&key])
        };
        let error = failed(run(&unlock, &cluster), Kind::Refused, 5);
        let submissions = match attempts {
            1 => "before the submission".to_owned(),
            several => format!("before each of {several} submissions"),
        };
        assert_tells(&error, &submissions);
        assert_tells(&error, "fs_invalid_signature_error");
        assert_eq!(cluster.submissions(), attempts as usize);
        assert_eq!(key.signed().len(), attempts as usize);
    }
}

#[test]
fn refusal_stands_if_challenge_is_unchanged() {
    for attempts in 1..=3 {
        let key = FakeSource::new("a.pem");
        let cluster =
            FakeCluster::new(locked_with(&key)).fault(Call::Unlock(7), .., Fault::Refused);
        let unlock = UnlockMany {
            attempts,
            ..unlock(&[&key])
        };
        let error = failed(run(&unlock, &cluster), Kind::Refused, 5);
        assert_eq!(error.message(), "Error 400: no");
        assert_eq!(cluster.submissions(), 1);
        assert_eq!(cluster.count(&Call::UnlockChallenge(7)), 2);
    }
}

#[test]
fn missing_privilege_is_reported_without_rereading() {
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key))
        .fault(Call::Unlock(7), .., EXTENDED)
        .fault(Call::Unlock(7), .., Fault::Unauthorized);
    failed(run(&unlock(&[&key]), &cluster), Kind::Auth, 6);
    assert_eq!(cluster.calls().len(), 4);
}

#[test]
fn refusal_stands_if_state_is_unreadable() {
    for call in [Call::Snapshot(7), Call::UnlockChallenge(7)] {
        let key = FakeSource::new("a.pem");
        let cluster = FakeCluster::new(locked_with(&key))
            .fault(Call::Unlock(7), .., EXTENDED)
            .fault(call, 2.., Fault::Lost);
        let error = failed(run(&unlock(&[&key]), &cluster), Kind::Refused, 5);
        assert_tells(&error, "fs_invalid_signature_error");
        assert_eq!(cluster.submissions(), 1);
    }
}

#[test]
fn signal_after_refusal_ends_the_run() {
    for call in [Call::Snapshot(7), Call::UnlockChallenge(7)] {
        let key = FakeSource::new("a.pem");
        let cluster = FakeCluster::new(locked_with(&key))
            .fault(Call::Unlock(7), .., EXTENDED)
            .fault(call, 2.., Fault::Stopped(Kind::Terminated));
        let error = failed(run(&unlock(&[&key]), &cluster), Kind::Terminated, 143);
        assert_tells(&error, "fs_invalid_signature_error");
        assert_eq!(cluster.submissions(), 1);
    }
}

#[test]
fn refusal_after_concurrent_unlock_is_already_so() {
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key)).fault(
        Call::Unlock(7),
        ..,
        Fault::Meanwhile(|world| world.snapshot(7).lock_key = None),
    );
    let unlocked = run(&unlock(&[&key]), &cluster).unwrap();
    assert_eq!(unlocked.ending, Ending::AlreadySo);
    assert_eq!(cluster.submissions(), 1);
}

#[test]
fn lost_reply_after_stale_challenge_is_not_retried() {
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key))
        .fault(Call::Unlock(7), .., EXTENDED)
        .fault(Call::Unlock(7), 2.., Fault::Lost);
    let unlock = UnlockMany {
        attempts: 9,
        ..unlock(&[&key])
    };
    failed(run(&unlock, &cluster), Kind::Unknown, 8);
    assert_eq!(cluster.submissions(), 2);
}

#[test]
fn other_lock_key_after_lost_submission_is_unknown() {
    let key = FakeSource::new("a.pem");
    let relocked = Fault::Meanwhile(|world| world.snapshot(7).lock_key = Some("2".to_owned()));
    let cluster = FakeCluster::new(locked_with(&key))
        .fault(Call::Unlock(7), .., relocked)
        .fault(Call::Unlock(7), .., Fault::Lost);
    let error = failed(run(&unlock(&[&key]), &cluster), Kind::Unknown, 8);
    assert_tells(&error, "now it is locked with key 2");
    assert_tells(&error, "`check snapshot 7`");
    assert_eq!(cluster.submissions(), 1);
}

fn several<'a>(keys: &[&'a FakeSource], jobs: usize) -> UnlockMany<'a> {
    UnlockMany {
        ids: vec![4, 2, 9, 1],
        jobs,
        ..unlock(keys)
    }
}

#[test]
fn snapshots_share_one_key_list_and_one_prompt() {
    for jobs in [0, 1, 4, 99] {
        let key = FakeSource::new("a.pem").opening(Opening::Asks);
        let cluster = FakeCluster::new(locked_with(&key));
        let results = run_all(&several(&[&key], jobs), &cluster);
        assert_eq!(
            endings(&results),
            [4, 2, 9, 1].map(|id| (id, Ending::Done)),
            "with {jobs} jobs"
        );
        assert_eq!(cluster.count(&Call::Keys), 1);
        assert_eq!((key.opened(), key.asked(), key.signed().len()), (1, 1, 4));
        assert_eq!(cluster.submissions(), 4);
        for id in 1..=9 {
            assert_eq!(lock_key(&cluster, id).is_none(), [1, 2, 4, 9].contains(&id));
        }
    }
}

#[test]
fn one_job_works_on_one_snapshot_at_a_time() {
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key));
    run_all(&several(&[&key], 1), &cluster);
    let mut ids: Vec<_> = cluster
        .calls()
        .iter()
        .filter_map(|call| match call {
            Call::Snapshot(id) | Call::UnlockChallenge(id) | Call::Unlock(id) => Some(*id),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 12);
    ids.dedup();
    assert_eq!(ids, [4, 2, 9, 1]);
}

#[test]
fn four_jobs_work_on_four_snapshots_at_a_time() {
    let key = FakeSource::new("a.pem");
    let mut cluster = FakeCluster::new(locked_with(&key));
    let (reading, submitting) = (Rendezvous::of(4), Rendezvous::of(4));
    for id in [4, 2, 9, 1] {
        cluster = cluster
            .fault(Call::Snapshot(id), .., Fault::Meet(reading.clone()))
            .fault(Call::Unlock(id), .., Fault::Meet(submitting.clone()));
    }
    let results = run_all(&several(&[&key], 4), &cluster);
    assert_eq!(endings(&results), [4, 2, 9, 1].map(|id| (id, Ending::Done)));
}

#[test]
fn results_come_in_input_order() {
    // The first one ends last: the other job has to do all the rest meanwhile.
    let rendezvous = Rendezvous::of(2);
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key))
        .fault(Call::Unlock(4), .., Fault::Meet(rendezvous.clone()))
        .fault(Call::Unlock(1), .., Fault::Meet(rendezvous));
    let results = run_all(&several(&[&key], 2), &cluster);
    assert_eq!(endings(&results), [4, 2, 9, 1].map(|id| (id, Ending::Done)));
}

#[test]
fn progress_is_reported_while_others_are_in_flight() {
    for jobs in [1, 4] {
        let rendezvous = Rendezvous::of(2);
        let key = FakeSource::new("a.pem");
        let cluster = FakeCluster::new(locked_with(&key)).fault(
            Call::Unlock(2),
            ..,
            Fault::Meet(rendezvous.clone()),
        );
        let counts = Mutex::new(Vec::new());
        several(&[&key], jobs).run(&cluster, &|event: Event<'_>| {
            if let Event::Settled(done) = event {
                counts.lock().unwrap().push(done);
                if done == 1 {
                    rendezvous.meet();
                }
            }
        });
        assert_eq!(counts.into_inner().unwrap(), [1, 2, 3, 4]);
    }
}

#[test]
fn several_are_confirmed_by_one_listing_and_one_by_status() {
    for jobs in [1, 4] {
        let key = FakeSource::new("a.pem");
        let cluster = FakeCluster::new(locked_with(&key));
        run_all(&several(&[&key], jobs), &cluster);
        assert_eq!(cluster.count(&Call::UnlockedSnapshots), 1);
        assert_eq!(cluster.count(&Call::Snapshot(4)), 1);

        let world = locked_with(&key)
            .with_snapshot(4, None)
            .with_snapshot(2, None);
        let cluster = FakeCluster::new(world.with_snapshot(9, None));
        run_all(&several(&[&key], jobs), &cluster);
        assert_eq!(cluster.count(&Call::UnlockedSnapshots), 0);
        assert_eq!(cluster.count(&Call::Snapshot(1)), 2);
    }
}

#[test]
fn accepted_but_ignored_unlock_is_never_done() {
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key)).fault(Call::Unlock(7), .., Fault::Ignored);
    let error = failed(run(&unlock(&[&key]), &cluster), Kind::Unknown, 8);
    assert_tells(&error, "not done so far, and may still be");
    assert_tells(&error, "`check snapshot 7`");

    let relocked = Fault::Meanwhile(|world| world.snapshot(9).lock_key = Some("2".to_owned()));
    for jobs in [1, 4] {
        let cluster = FakeCluster::new(locked_with(&key))
            .fault(Call::Unlock(2), .., Fault::Ignored)
            .fault(Call::Unlock(9), .., relocked.clone())
            .fault(Call::Unlock(9), .., Fault::Ignored);
        let mut results = run_all(&several(&[&key], jobs), &cluster);
        let (_, relocked) = results.remove(2);
        let (_, ignored) = results.remove(1);
        assert_tells(&failed(ignored, Kind::Unknown, 8), "not done so far");
        assert_tells(
            &failed(relocked, Kind::Unknown, 8),
            "now it is locked with key 2",
        );
        assert_eq!(endings(&results), [(4, Ending::Done), (1, Ending::Done)]);
    }
}

#[test]
fn accepted_unlock_that_cannot_be_read_is_unknown() {
    let key = FakeSource::new("a.pem");
    for reading in [Fault::Lost, Fault::Unauthorized, Fault::Refused] {
        let cluster = FakeCluster::new(locked_with(&key))
            .with_snapshots_unreadable_after_the_first_look(reading);
        for (_, result) in run_all(&several(&[&key], 2), &cluster) {
            assert_tells(&failed(result, Kind::Unknown, 8), "could not be confirmed");
        }
        assert_eq!(cluster.submissions(), 4);
    }
}

#[test]
fn challenge_of_another_snapshot_is_not_signed() {
    let key = FakeSource::new("a.pem");
    let cluster = FakeCluster::new(locked_with(&key).with_challenge_of(2, 4));
    let mut results = run_all(&several(&[&key], 1), &cluster);
    let error = failed(results.remove(1).1, Kind::Mismatch, 4);
    assert_tells(
        &error,
        "the cluster also handed it out to unlock snapshot 4",
    );
    assert_eq!((cluster.submissions(), key.signed().len()), (3, 3));
}

#[test]
fn one_failure_does_not_affect_the_others() {
    for jobs in [1, 4] {
        let key = FakeSource::new("a.pem");
        let cluster = FakeCluster::new(locked_with(&key).with_snapshot(9, None)).fault(
            Call::Unlock(2),
            ..,
            Fault::Refused,
        );
        let mut results = run_all(&several(&[&key], jobs), &cluster);
        let (id, result) = results.remove(1);
        assert_eq!(id, 2);
        failed(result, Kind::Refused, 5);
        assert_eq!(
            endings(&results),
            [(4, Ending::Done), (9, Ending::AlreadySo), (1, Ending::Done)]
        );
    }
}

#[test]
fn each_snapshot_is_unlocked_with_its_own_key() {
    for jobs in [1, 4] {
        let [a, b] = ["a.pem", "b.pem"].map(|title| FakeSource::new(title).opening(Opening::Asks));
        let world = locked_with(&a)
            .with_key("lock-2027", b.public_key())
            .with_snapshot(2, Some("2"));
        let results = run_all(&several(&[&a, &b], jobs), &FakeCluster::new(world));
        let keys = results
            .into_iter()
            .map(|(_, result)| result.unwrap().stored_key.unwrap().id.clone());
        assert_eq!(keys.collect::<Vec<_>>(), ["1", "2", "1", "1"]);
        assert_eq!((a.asked(), b.asked()), (1, 1));
        assert_eq!((a.signed().len(), b.signed().len()), (3, 1));
    }
}

#[test]
fn unreadable_key_list_fails_every_locked_snapshot_once() {
    for jobs in [1, 4] {
        let key = FakeSource::new("a.pem").opening(Opening::Asks);
        let cluster = FakeCluster::new(locked_with(&key).with_snapshot(9, None)).fault(
            Call::Keys,
            ..,
            Fault::Unauthorized,
        );
        let mut results = run_all(&several(&[&key], jobs), &cluster);
        assert_eq!(endings(&results[2..=2]), [(9, Ending::AlreadySo)]);
        results.retain(|(id, _)| *id != 9);
        assert_eq!(results.len(), 3);
        for (_, result) in results {
            failed(result, Kind::Auth, 6);
        }
        assert_eq!((cluster.count(&Call::Keys), cluster.submissions()), (1, 0));
        assert_eq!(key.asked(), 0);
    }
}

#[test]
fn duplicate_id_is_unlocked_then_already_so() {
    let key = FakeSource::new("a.pem");
    let twice = |jobs| UnlockMany {
        ids: vec![7, 7],
        jobs,
        ..unlock(&[&key])
    };
    let cluster = FakeCluster::new(locked_with(&key));
    let results = run_all(&twice(1), &cluster);
    assert_eq!(
        endings(&results),
        [(7, Ending::Done), (7, Ending::AlreadySo)]
    );
    assert_eq!(cluster.submissions(), 1);

    // Even when both have seen it locked.
    let rendezvous = Rendezvous::of(2);
    let cluster = FakeCluster::new(locked_with(&key)).fault(
        Call::Unlock(7),
        ..,
        Fault::Meet(rendezvous.clone()),
    );
    let mut endings = endings(&run_all(&twice(2), &cluster));
    endings.sort_by_key(|(_, ending)| *ending != Ending::Done);
    assert_eq!(endings, [(7, Ending::Done), (7, Ending::AlreadySo)]);
}

#[test]
fn no_snapshot_is_started_after_signal() {
    let key = FakeSource::new("a.pem");
    let stopped = |call| {
        FakeCluster::new(locked_with(&key)).fault(call, .., Fault::Stopped(Kind::Interrupted))
    };
    for call in [Call::Snapshot(2), Call::UnlockChallenge(2), Call::Unlock(2)] {
        let cluster = stopped(call);
        let mut results = run_all(&several(&[&key], 1), &cluster);
        assert_eq!(results.len(), 2);
        failed(results.remove(1).1, Kind::Interrupted, 130);
        assert_eq!(endings(&results), [(4, Ending::Done)]);
        assert_eq!(cluster.count(&Call::Snapshot(9)), 0);
    }

    // Not by a job either that was busy with another one meanwhile.
    let (begun, rendezvous) = (Rendezvous::of(2), Rendezvous::of(2));
    let cluster = stopped(Call::Snapshot(4))
        .fault(Call::Snapshot(4), .., Fault::Meet(begun.clone()))
        .fault(Call::Snapshot(2), .., Fault::Meet(begun))
        .fault(Call::Unlock(2), .., Fault::Meet(rendezvous.clone()));
    let results = several(&[&key], 2).run(&cluster, &|event: Event<'_>| {
        if event == Event::Settled(1) {
            rendezvous.meet();
        }
    });
    let tried: Vec<u64> = results.iter().map(|(id, _)| *id).collect();
    assert_eq!(tried, [4, 2]);
    assert_eq!(cluster.count(&Call::Snapshot(9)), 0);
}

#[test]
fn no_prompt_after_signal_during_prompt() {
    let kind = Kind::Interrupted;
    let stopped = FakeSource::new("a.pem").opening(Opening::AsksInVain(kind));
    let locked = FakeSource::new("b.pem").opening(Opening::Asks);
    for jobs in [1, 4] {
        let cluster = FakeCluster::new(locked_with(&FakeSource::new("c.pem")));
        for (_, result) in run_all(&several(&[&stopped, &locked], jobs), &cluster) {
            failed(result, kind, 130);
        }
        assert_eq!((locked.asked(), cluster.submissions()), (0, 0));
    }
}

#[test]
fn calls_sharing_a_connection_are_sequential() {
    let key = FakeSource::new("a.pem");
    let world = locked_with(&key).with_snapshot(10, None);
    let cluster = FakeCluster::new(world).one_call_at_a_time();
    let unlock = UnlockMany {
        ids: vec![7, 10],
        ..unlock(&[&key])
    };
    assert_eq!(
        endings(&run_all(&unlock, &cluster)),
        [(7, Ending::Done), (10, Ending::AlreadySo)]
    );
    let mut calls = cluster.calls();
    calls.retain(|call| *call != Call::Keys);
    assert_eq!(
        calls,
        [
            Call::Snapshot(7),
            Call::UnlockChallenge(7),
            Call::Unlock(7),
            // Its challenge is not asked for.
            Call::Snapshot(10),
            Call::Snapshot(7),
        ]
    );
}

#[test]
fn unreachable_cluster_ends_the_run() {
    for (fault, kind) in [
        (Fault::Unauthorized, Kind::Auth),
        (Fault::NotSent, Kind::Unreachable),
    ] {
        for jobs in [1, 2] {
            let key = FakeSource::new("a.pem");
            let mut cluster = FakeCluster::new(locked_with(&key));
            for id in 1..=9 {
                cluster = cluster.fault(Call::Snapshot(id), .., fault.clone());
            }
            let unlock = UnlockMany {
                ids: (1..=9).collect(),
                jobs,
                ..unlock(&[&key])
            };
            let results = run_all(&unlock, &cluster);
            // The one under way at the same time comes to its end.
            let tried = IN_VAIN..IN_VAIN + jobs;
            assert!(tried.contains(&results.len()), "{}", results.len());
            for (_, result) in results {
                assert_eq!(result.err().unwrap().kind(), kind);
            }
        }
    }
}

#[test]
fn scattered_failures_do_not_end_the_run() {
    let key = FakeSource::new("a.pem");
    let mut cluster = FakeCluster::new(locked_with(&key));
    for id in [1, 2, 3, 4, 6, 7, 8, 9] {
        cluster = cluster.fault(Call::Snapshot(id), .., Fault::NotSent);
    }
    let unlock = UnlockMany {
        ids: (1..=9).collect(),
        ..unlock(&[&key])
    };
    let results = run_all(&unlock, &cluster);
    assert_eq!(results.len(), 9);
    assert_eq!(results[4].1.as_ref().unwrap().ending, Ending::Done);
}

#[test]
fn lost_submissions_do_not_end_the_run() {
    let key = FakeSource::new("a.pem");
    let mut cluster = FakeCluster::new(locked_with(&key));
    for id in 1..=8 {
        cluster = cluster.fault(Call::Unlock(id), .., Fault::Lost);
    }
    let unlock = UnlockMany {
        ids: (1..=9).collect(),
        ..unlock(&[&key])
    };
    let results = run_all(&unlock, &cluster);
    assert_eq!(results.len(), 9);
    assert_eq!(results[8].1.as_ref().unwrap().ending, Ending::Done);
}
