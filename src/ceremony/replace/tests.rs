use std::thread;

use super::*;
use crate::ceremony::{
    self, Ending, Keyring,
    fakes::{
        Call, FakeCluster, FakeSource, Fault, Opening, Rendezvous, Signing, World, assert_tells,
        failed,
    },
    observer::Silent,
};

/// One run of the command.
struct Run<'a> {
    key: KeyRef,
    old: Vec<&'a FakeSource>,
    new: &'a FakeSource,
    attempts: u32,
    dry_run: bool,
}

impl Run<'_> {
    fn run(&self, cluster: &FakeCluster) -> Result<Outcome<State>> {
        let change = Replace {
            key: self.key.clone(),
        };
        let old = self.old.iter().map(|source| *source as _).collect();
        let keyring = Keyring::new(old).with_new(self.new);
        let (attempts, dry_run) = (self.attempts, self.dry_run);
        ceremony::run(&change, cluster, &keyring, &Silent, attempts, dry_run)
    }
}

const BY_NAME: Call = Call::ReplacementChallenge("by name");
const BY_ID: Call = Call::ReplacementChallenge("by id");

/// Somebody gives the key another comment.
const COMMENTED: Fault = Fault::Meanwhile(|world| world.key("1").comment.push('!'));

fn keys() -> (FakeSource, FakeSource) {
    (FakeSource::new("old.pem"), FakeSource::new("new.pem"))
}

/// Key 1 is "lock-2026".
fn holding(key: &FakeSource) -> World {
    World::default().with_key("lock-2026", key.public_key())
}

fn replace<'a>(old: &'a FakeSource, new: &'a FakeSource) -> Run<'a> {
    Run {
        key: KeyRef::new("lock-2026"),
        old: vec![old],
        new,
        attempts: 2,
        dry_run: false,
    }
}

fn assert_holds(cluster: &FakeCluster, key: &FakeSource) {
    assert!(cluster.world().key("1").holds(key.public_key()));
}

fn challenge(world: &World) -> String {
    world.replacement_challenge(&KeyRef::new("1")).unwrap()
}

#[test]
fn both_keys_sign_the_exact_challenge_once() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old));
    let challenge = challenge(&cluster.world());
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
    assert!(replaced.old().holds(old.public_key()));
    assert!(replaced.stored().holds(new.public_key()));
    assert_eq!(*replaced.replacement(), *new.public_key());
    assert_eq!(replaced.stored().id, "1");
    assert_holds(&cluster, &new);
    for key in [&old, &new] {
        assert_eq!(key.signed(), [challenge.as_str()]);
    }
    assert_eq!(cluster.calls().len(), 4);
    assert_eq!(cluster.calls()[2..], [Call::Replace, Call::Keys]);
}

#[test]
fn first_reads_and_key_opening_run_concurrently() {
    let rendezvous = Rendezvous::of(5);
    let [old, other, new] = ["old.pem", "other.pem", "new.pem"]
        .map(|title| FakeSource::new(title).meeting_when_opened(&rendezvous));
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Keys, .., Fault::Meet(rendezvous.clone()))
        .fault(BY_NAME, .., Fault::Meet(rendezvous));
    let replace = Run {
        old: vec![&other, &old],
        ..replace(&old, &new)
    };
    assert_eq!(replace.run(&cluster).unwrap().ending, Ending::Done);
}

#[test]
fn both_keys_sign_concurrently() {
    let rendezvous = Rendezvous::of(2);
    let (old, new) = keys();
    let old = old.meeting_when_signing(&rendezvous);
    let new = new.meeting_when_signing(&rendezvous);
    let cluster = FakeCluster::new(holding(&old));
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
}

#[test]
fn key_list_and_challenge_are_reread_concurrently_after_refusal() {
    let rendezvous = Rendezvous::of(2);
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Replace, ..=1, COMMENTED)
        .fault(Call::Keys, 2.., Fault::Meet(rendezvous.clone()))
        .fault(BY_ID, .., Fault::Meet(rendezvous));
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
}

#[test]
fn key_can_be_given_by_id() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old));
    let replace = Run {
        key: KeyRef::new("1"),
        ..replace(&old, &new)
    };
    assert_eq!(replace.run(&cluster).unwrap().ending, Ending::Done);
    assert_eq!((cluster.count(&BY_ID), cluster.count(&BY_NAME)), (1, 0));
}

#[test]
fn name_unsafe_in_url_is_resolved_to_id_first() {
    let (old, new) = keys();
    let name = "ä lock/2026?";
    let cluster = FakeCluster::new(World::default().with_key(name, old.public_key()));
    let replace = Run {
        key: KeyRef::new(name),
        ..replace(&old, &new)
    };
    assert_eq!(replace.run(&cluster).unwrap().ending, Ending::Done);
    let calls = [Call::Keys, BY_ID, Call::Replace, Call::Keys];
    assert_eq!(cluster.calls(), calls);
}

#[test]
fn unknown_stored_key_is_refused() {
    let (old, new) = keys();
    for key in ["lock-206", "9"] {
        let cluster = FakeCluster::new(holding(&old));
        let replace = Run {
            key: KeyRef::new(key),
            ..replace(&old, &new)
        };
        let error = failed(replace.run(&cluster), Kind::Refused, 5);
        assert_tells(&error, "no lock key");
        assert_eq!(cluster.submissions(), 0);
    }
}

#[test]
fn old_key_is_chosen_by_public_key() {
    let (old, new) = keys();
    let [other, locked] = ["other.pem", "locked.pem"].map(FakeSource::new);
    let locked = locked.opening(Opening::Asks);
    let gone = FakeSource::new("gone.pem").opening(Opening::Fails(Kind::Key));
    let cluster = FakeCluster::new(holding(&old));
    let replace = Run {
        old: vec![&gone, &locked, &other, &old],
        ..replace(&old, &new)
    };
    assert_eq!(replace.run(&cluster).unwrap().ending, Ending::Done);
    assert_eq!((locked.asked(), other.signed().len()), (0, 0));
}

#[test]
fn wrong_old_key_is_a_mismatch_and_sends_nothing() {
    let (old, new) = keys();
    let other = FakeSource::new("other.pem");
    let cluster = FakeCluster::new(holding(&other));
    let error = failed(replace(&old, &new).run(&cluster), Kind::Mismatch, 4);
    assert_tells(&error, "old.pem");
    assert_tells(&error, "nothing was sent");
    assert_eq!(cluster.submissions(), 0);
    assert!(old.signed().is_empty() && new.signed().is_empty());
}

#[test]
fn unverifiable_signature_is_not_sent() {
    for signing in [Signing::OtherBytes, Signing::AnotherKey] {
        let (old, new) = keys();
        let bad = FakeSource::new("bad.pem").signing(signing);
        for (old, new) in [(&bad, &new), (&old, &bad)] {
            let cluster = FakeCluster::new(holding(old));
            let error = failed(replace(old, new).run(&cluster), Kind::Key, 3);
            assert_tells(&error, "bad.pem");
            assert_tells(&error, "nothing was sent");
            assert_eq!(cluster.submissions(), 0);
        }
    }
}

#[test]
fn key_that_fails_to_open_or_sign_sends_nothing() {
    let (old, new) = keys();
    let bad = || FakeSource::new("bad.pem");
    for bad in [
        bad().opening(Opening::Fails(Kind::Key)),
        bad().opening(Opening::AsksInVain(Kind::Key)),
        bad().signing(Signing::Fails),
    ] {
        for (old, new) in [(&bad, &new), (&old, &bad)] {
            let cluster = FakeCluster::new(holding(old));
            failed(replace(old, new).run(&cluster), Kind::Key, 3);
            assert_eq!(cluster.submissions(), 0);
        }
    }
}

#[test]
fn dry_run_signs_with_both_keys_and_sends_nothing() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old));
    let replace = Run {
        dry_run: true,
        ..replace(&old, &new)
    };
    let replaced = replace.run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::DryRun);
    assert_eq!(replaced.stored(), replaced.old());
    assert_eq!((old.signed().len(), new.signed().len()), (1, 1));
    assert_eq!(cluster.submissions(), 0);
    assert_holds(&cluster, &old);
}

#[test]
fn stale_challenge_is_signed_and_submitted_again() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, ..=1, COMMENTED);
    let first = challenge(&cluster.world());
    let fresh = challenge(
        &cluster
            .world()
            .with(|world| world.key("1").comment.push('!')),
    );
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
    assert_eq!(cluster.submissions(), 2);
    assert_eq!(old.signed(), [first.clone(), fresh.clone()]);
    assert_eq!(new.signed(), [first, fresh]);
    assert_holds(&cluster, &new);
}

#[test]
fn key_renamed_meanwhile_is_still_replaced() {
    let (old, new) = keys();
    let renamed = Fault::Meanwhile(|world| world.key("1").name = "lock-2027".to_owned());
    let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, ..=1, renamed);
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
    assert_eq!(replaced.stored().name, "lock-2027");
    assert_eq!(cluster.submissions(), 2);
}

#[test]
fn stale_challenge_is_retried_up_to_attempts() {
    for attempts in 1..=3 {
        let (old, new) = keys();
        let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, .., COMMENTED);
        let replace = Run {
            attempts,
            ..replace(&old, &new)
        };
        let error = failed(replace.run(&cluster), Kind::Refused, 5);
        let submissions = match attempts {
            1 => "before the submission".to_owned(),
            several => format!("before each of {several} submissions"),
        };
        assert_tells(&error, &submissions);
        assert_tells(&error, "fs_invalid_signature_error");
        assert_tells(&error, "--attempts");
        assert_eq!(cluster.submissions(), attempts as usize);
        assert_eq!(new.signed().len(), attempts as usize);
        assert_holds(&cluster, &old);
    }
}

#[test]
fn refusal_stands_if_challenge_is_unchanged() {
    for attempts in 1..=3 {
        let (old, new) = keys();
        let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, .., Fault::Refused);
        let replace = Run {
            attempts,
            ..replace(&old, &new)
        };
        let error = failed(replace.run(&cluster), Kind::Refused, 5);
        assert_eq!(error.message(), "Error 400: no");
        assert_eq!((cluster.submissions(), cluster.count(&BY_ID)), (1, 1));
    }
}

#[test]
fn missing_privilege_is_reported_without_rereading() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Replace, .., COMMENTED)
        .fault(Call::Replace, .., Fault::Unauthorized);
    failed(replace(&old, &new).run(&cluster), Kind::Auth, 6);
    assert_eq!(cluster.calls().len(), 3);
}

#[test]
fn refusal_stands_if_state_is_unreadable() {
    for (call, times) in [(Call::Keys, 2), (BY_ID, 1)] {
        let (old, new) = keys();
        let cluster = FakeCluster::new(holding(&old))
            .fault(Call::Replace, .., COMMENTED)
            .fault(call, times.., Fault::Lost);
        let error = failed(replace(&old, &new).run(&cluster), Kind::Refused, 5);
        assert_tells(&error, "fs_invalid_signature_error");
        assert_eq!(cluster.submissions(), 1);
    }
}

#[test]
fn signal_after_refusal_ends_the_run() {
    for (call, times) in [(Call::Keys, 2), (BY_ID, 1)] {
        let (old, new) = keys();
        let cluster = FakeCluster::new(holding(&old))
            .fault(Call::Replace, .., COMMENTED)
            .fault(call, times.., Fault::Stopped(Kind::Interrupted));
        let error = failed(replace(&old, &new).run(&cluster), Kind::Interrupted, 130);
        assert_tells(&error, "fs_invalid_signature_error");
        assert_eq!(cluster.submissions(), 1);
    }
}

#[test]
fn key_replaced_or_deleted_by_another_user_is_not_retried() {
    let replaced = |world: &mut World| {
        let third = FakeSource::new("third.pem").public_key().to_base64();
        world.key("1").public_key = third;
        world.key("1").comment.push('!');
    };
    let removed = |world: &mut World| world.remove_key("1");
    for (change, kind, exit_code) in [
        (replaced as fn(&mut World), Kind::Mismatch, 4),
        (removed, Kind::Refused, 5),
    ] {
        let (old, new) = keys();
        let cluster =
            FakeCluster::new(holding(&old)).fault(Call::Replace, .., Fault::Meanwhile(change));
        failed(replace(&old, &new).run(&cluster), kind, exit_code);
        assert_eq!((cluster.submissions(), new.signed().len()), (1, 1));
    }
}

#[test]
fn refusal_after_identical_concurrent_run_is_already_so() {
    let (old, new) = keys();
    let rendezvous = Rendezvous::of(2);
    let faster =
        FakeCluster::new(holding(&old)).fault(Call::Replace, .., Fault::Meet(rendezvous.clone()));
    let mut endings = thread::scope(|scope| {
        let runs = [(); 2].map(|()| scope.spawn(|| replace(&old, &new).run(&faster).unwrap()));
        runs.map(|run| run.join().unwrap().ending)
    });
    endings.sort_by_key(|ending| *ending != Ending::Done);
    assert_eq!(endings, [Ending::Done, Ending::AlreadySo]);
    assert_eq!(faster.submissions(), 2);
}

#[test]
fn lost_reply_finds_renamed_key_by_id() {
    let (old, new) = keys();
    let renamed = |world: &mut World| world.key("1").name = "lock-2027".to_owned();
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Replace, .., Fault::LostAfter(1))
        .fault(Call::Keys, 2.., Fault::Meanwhile(renamed));
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
    assert_eq!(replaced.stored().name, "lock-2027");
    assert_eq!(cluster.submissions(), 1);
}

#[test]
fn stale_challenge_is_not_signed_after_lost_submission() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Replace, .., COMMENTED)
        .fault(Call::Replace, .., Fault::Lost);
    failed(replace(&old, &new).run(&cluster), Kind::Unknown, 8);
    assert_eq!((cluster.submissions(), new.signed().len()), (1, 1));
}

#[test]
fn lost_reply_after_stale_challenge_is_not_retried() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Replace, .., COMMENTED)
        .fault(Call::Replace, 2.., Fault::Lost);
    let replace = Run {
        attempts: 9,
        ..replace(&old, &new)
    };
    failed(replace.run(&cluster), Kind::Unknown, 8);
    assert_eq!(cluster.submissions(), 2);
}

#[test]
fn third_key_or_no_key_after_lost_submission_is_unknown() {
    let replaced = |world: &mut World| {
        let third = FakeSource::new("third.pem").public_key().to_base64();
        world.key("1").public_key = third;
    };
    let removed = |world: &mut World| world.remove_key("1");
    for (change, words) in [
        (replaced as fn(&mut World), "holds a third key"),
        (removed, "no longer holds it"),
    ] {
        let (old, new) = keys();
        let cluster = FakeCluster::new(holding(&old))
            .fault(Call::Replace, .., Fault::Meanwhile(change))
            .fault(Call::Replace, .., Fault::Lost);
        let error = failed(replace(&old, &new).run(&cluster), Kind::Unknown, 8);
        assert_tells(&error, words);
        assert_tells(&error, "`check keys`");
        assert_eq!(cluster.submissions(), 1);
    }
}

#[test]
fn challenge_equal_to_a_key_name_is_not_signed() {
    let (old, new) = keys();
    let world = holding(&old);
    let challenge = world.replacement_challenge(&KeyRef::new("1")).unwrap();
    let cluster = FakeCluster::new(world.with_key(&challenge, new.public_key()));
    let error = failed(replace(&old, &new).run(&cluster), Kind::Mismatch, 4);
    assert_tells(&error, "it is the name of key 2");
    assert_eq!((cluster.submissions(), old.signed().len()), (0, 0));
}

#[test]
fn rerun_is_already_so_without_old_key() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old));
    replace(&old, &new).run(&cluster).unwrap();
    let gone = FakeSource::new("old.pem").opening(Opening::Fails(Kind::Key));
    let locked = FakeSource::new("old.pem").opening(Opening::Asks);
    for old in [&old, &gone, &locked] {
        let again = replace(old, &new).run(&cluster).unwrap();
        assert_eq!(again.ending, Ending::AlreadySo);
        assert!(again.stored().holds(new.public_key()));
        assert_eq!(again.stored(), again.old());
    }
    assert_eq!((cluster.submissions(), new.signed().len()), (1, 1));
    assert_eq!(locked.asked(), 0);
}

#[test]
fn rerun_with_encrypted_new_key_ignores_missing_old_key() {
    let new = FakeSource::new("new.pem").opening(Opening::Asks);
    let cluster = FakeCluster::new(holding(&new));
    let gone = FakeSource::new("old.pem").opening(Opening::Fails(Kind::Key));
    let forgotten = FakeSource::new("old.pem").opening(Opening::AsksInVain(Kind::Key));
    for (old, asked) in [(&gone, 1), (&forgotten, 2)] {
        let again = replace(old, &new).run(&cluster).unwrap();
        assert_eq!(again.ending, Ending::AlreadySo);
        assert_eq!(new.asked(), asked);
    }
    assert_eq!(cluster.submissions(), 0);
}

#[test]
fn each_passphrase_is_asked_once_despite_stale_challenge() {
    let (old, new) = keys();
    let (old, new) = (old.opening(Opening::Asks), new.opening(Opening::Asks));
    let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, ..=1, COMMENTED);
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
    assert_eq!((old.asked(), new.asked()), (1, 1));
    assert_eq!((old.opened(), new.opened()), (1, 1));
}

#[test]
fn no_prompt_before_cluster_replies() {
    let (old, new) = keys();
    let (old, new) = (old.opening(Opening::Asks), new.opening(Opening::Asks));
    for name in ["lock-2026", "lock 2026"] {
        for call in [Call::Keys, BY_NAME, BY_ID] {
            if call == BY_NAME && name == "lock 2026" || call == BY_ID && name == "lock-2026" {
                continue;
            }
            for (fault, kind, exit_code) in [
                (Fault::Lost, Kind::Unreachable, 7),
                (Fault::Unauthorized, Kind::Auth, 6),
                (Fault::Stopped(Kind::Interrupted), Kind::Interrupted, 130),
            ] {
                let world = World::default().with_key(name, old.public_key());
                let cluster = FakeCluster::new(world).fault(call.clone(), .., fault);
                let replace = Run {
                    key: KeyRef::new(name),
                    ..replace(&old, &new)
                };
                failed(replace.run(&cluster), kind, exit_code);
                assert_eq!(cluster.submissions(), 0);
                assert_eq!((old.asked(), new.asked()), (0, 0), "{call:?} failed");
            }
        }
    }
}
