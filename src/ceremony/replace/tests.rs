use std::thread;

use super::*;
use crate::ceremony::fakes::{
    Call, FakeCluster, FakeSource, Fault, Opening, Rendezvous, Signing, World, assert_tells, failed,
};

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

fn replace<'a>(old: &'a FakeSource, new: &'a FakeSource) -> Replace<'a> {
    Replace {
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
fn both_keys_sign_one_exact_challenge_for_one_submission() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old));
    let challenge = challenge(&cluster.world());
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
    assert!(replaced.before.holds(old.public_key()));
    assert!(replaced.stored.holds(new.public_key()));
    assert_eq!(replaced.new_key, *new.public_key());
    assert_eq!(replaced.stored.id, "1");
    assert_holds(&cluster, &new);
    for key in [&old, &new] {
        assert_eq!(key.signed(), [challenge.as_str()]);
    }
    assert_eq!(cluster.calls().len(), 4);
    assert_eq!(cluster.calls()[2..], [Call::Replace, Call::Keys]);
}

#[test]
fn the_first_round_reads_and_opens_everything_side_by_side() {
    let rendezvous = Rendezvous::of(5);
    let [old, other, new] = ["old.pem", "other.pem", "new.pem"]
        .map(|title| FakeSource::new(title).meeting_when_opened(&rendezvous));
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Keys, .., Fault::Meet(rendezvous.clone()))
        .fault(BY_NAME, .., Fault::Meet(rendezvous));
    let replace = Replace {
        old: vec![&other, &old],
        ..replace(&old, &new)
    };
    assert_eq!(replace.run(&cluster).unwrap().ending, Ending::Done);
}

#[test]
fn both_keys_sign_side_by_side() {
    let rendezvous = Rendezvous::of(2);
    let (old, new) = keys();
    let old = old.meeting_when_signing(&rendezvous);
    let new = new.meeting_when_signing(&rendezvous);
    let cluster = FakeCluster::new(holding(&old));
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
}

#[test]
fn after_a_refusal_the_key_list_and_the_challenge_are_read_side_by_side() {
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
fn a_key_is_meant_by_its_id_too() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old));
    let replace = Replace {
        key: KeyRef::new("1"),
        ..replace(&old, &new)
    };
    assert_eq!(replace.run(&cluster).unwrap().ending, Ending::Done);
    assert_eq!((cluster.count(&BY_ID), cluster.count(&BY_NAME)), (1, 0));
}

#[test]
fn a_name_that_no_url_carries_waits_for_the_id() {
    let (old, new) = keys();
    let name = "ä lock/2026?";
    let cluster = FakeCluster::new(World::default().with_key(name, old.public_key()));
    let replace = Replace {
        key: KeyRef::new(name),
        ..replace(&old, &new)
    };
    assert_eq!(replace.run(&cluster).unwrap().ending, Ending::Done);
    let calls = [Call::Keys, BY_ID, Call::Replace, Call::Keys];
    assert_eq!(cluster.calls(), calls);
}

#[test]
fn a_key_that_is_not_stored_is_replaced_by_nothing() {
    let (old, new) = keys();
    for key in ["lock-206", "9"] {
        let cluster = FakeCluster::new(holding(&old));
        let replace = Replace {
            key: KeyRef::new(key),
            ..replace(&old, &new)
        };
        let error = failed(replace.run(&cluster), Kind::Refused, 5);
        assert_tells(&error, "the key store holds no key");
        assert_eq!(cluster.submissions(), 0);
    }
}

#[test]
fn the_old_key_is_chosen_among_several_by_its_public_key() {
    let (old, new) = keys();
    let [other, locked] = ["other.pem", "locked.pem"].map(FakeSource::new);
    let locked = locked.opening(Opening::Asks);
    let gone = FakeSource::new("gone.pem").opening(Opening::Fails(Kind::Key));
    let cluster = FakeCluster::new(holding(&old));
    let replace = Replace {
        old: vec![&gone, &locked, &other, &old],
        ..replace(&old, &new)
    };
    assert_eq!(replace.run(&cluster).unwrap().ending, Ending::Done);
    assert_eq!((locked.asked(), other.signed().len()), (0, 0));
}

#[test]
fn an_old_key_that_the_cluster_does_not_hold_is_a_mismatch_and_sends_nothing() {
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
fn nothing_is_sent_when_a_signature_does_not_verify() {
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
fn nothing_is_sent_when_a_key_does_not_open_or_sign() {
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
fn a_dry_run_signs_with_both_and_sends_nothing() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old));
    let replace = Replace {
        dry_run: true,
        ..replace(&old, &new)
    };
    let replaced = replace.run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::DryRun);
    assert_eq!(replaced.stored, replaced.before);
    assert_eq!((old.signed().len(), new.signed().len()), (1, 1));
    assert_eq!(cluster.submissions(), 0);
    assert_holds(&cluster, &old);
}

#[test]
fn a_challenge_that_went_stale_once_is_signed_anew_and_submitted_once_more() {
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
fn a_key_that_was_renamed_meanwhile_is_the_same_key() {
    let (old, new) = keys();
    let renamed = Fault::Meanwhile(|world| world.key("1").name = "lock-2027".to_owned());
    let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, ..=1, renamed);
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
    assert_eq!(replaced.stored.name, "lock-2027");
    assert_eq!(cluster.submissions(), 2);
}

#[test]
fn a_challenge_that_always_goes_stale_is_submitted_as_often_as_asked() {
    for attempts in 1..=3 {
        let (old, new) = keys();
        let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, .., COMMENTED);
        let replace = Replace {
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
fn an_unchanged_challenge_lets_the_refusal_stand_after_one_submission() {
    for attempts in 1..=3 {
        let (old, new) = keys();
        let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, .., Fault::Refused);
        let replace = Replace {
            attempts,
            ..replace(&old, &new)
        };
        let error = failed(replace.run(&cluster), Kind::Refused, 5);
        assert_eq!(error.message(), "Error 400: no");
        assert_eq!((cluster.submissions(), cluster.count(&BY_ID)), (1, 1));
    }
}

#[test]
fn a_missing_right_is_told_without_a_second_look() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Replace, .., COMMENTED)
        .fault(Call::Replace, .., Fault::Unauthorized);
    failed(replace(&old, &new).run(&cluster), Kind::Auth, 6);
    assert_eq!(cluster.calls().len(), 3);
}

#[test]
fn a_refusal_stands_when_the_state_cannot_be_read_afterwards() {
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
fn a_signal_after_a_refusal_is_a_signal() {
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
fn a_key_that_somebody_else_has_replaced_or_deleted_is_not_tried_again() {
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
fn a_refusal_because_another_run_was_faster_means_that_it_is_so() {
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
fn a_submission_that_was_not_sent_is_not_looked_up() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, .., Fault::NotSent);
    failed(replace(&old, &new).run(&cluster), Kind::Unreachable, 7);
    assert_eq!(cluster.calls().len(), 3);
}

#[test]
fn after_a_lost_answer_the_new_key_is_found_whenever_it_shows() {
    for look in 1..=3 {
        let (old, new) = keys();
        let cluster =
            FakeCluster::new(holding(&old)).fault(Call::Replace, .., Fault::LostAfter(look));
        let replaced = replace(&old, &new).run(&cluster).unwrap();
        assert_eq!(replaced.ending, Ending::Done);
        assert!(replaced.stored.holds(new.public_key()));
        assert_eq!(cluster.submissions(), 1);
        assert_eq!(cluster.count(&Call::Keys), 1 + look);
    }
}

#[test]
fn after_a_lost_answer_a_key_that_was_renamed_meanwhile_is_found_by_its_id() {
    let (old, new) = keys();
    let renamed = |world: &mut World| world.key("1").name = "lock-2027".to_owned();
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Replace, .., Fault::LostAfter(1))
        .fault(Call::Keys, 2.., Fault::Meanwhile(renamed));
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
    assert_eq!(replaced.stored.name, "lock-2027");
    assert_eq!(cluster.submissions(), 1);
}

#[test]
fn after_a_lost_submission_it_may_still_be_done_and_is_not_retried() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, ..=1, Fault::Lost);
    let error = failed(replace(&old, &new).run(&cluster), Kind::Unknown, 8);
    assert_tells(&error, "not done so far, and may still be");
    assert_tells(&error, "`check keys`");
    assert_eq!((cluster.submissions(), new.signed().len()), (1, 1));
    assert_holds(&cluster, &old);
    let again = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(again.ending, Ending::Done);
}

#[test]
fn after_a_lost_submission_a_stale_challenge_is_not_signed_again() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Replace, .., COMMENTED)
        .fault(Call::Replace, .., Fault::Lost);
    failed(replace(&old, &new).run(&cluster), Kind::Unknown, 8);
    assert_eq!((cluster.submissions(), new.signed().len()), (1, 1));
}

#[test]
fn an_answer_lost_after_a_stale_challenge_ends_it_as_well() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old))
        .fault(Call::Replace, .., COMMENTED)
        .fault(Call::Replace, 2.., Fault::Lost);
    let replace = Replace {
        attempts: 9,
        ..replace(&old, &new)
    };
    failed(replace.run(&cluster), Kind::Unknown, 8);
    assert_eq!(cluster.submissions(), 2);
}

#[test]
fn after_a_lost_submission_a_third_key_or_none_is_unknown() {
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
fn after_a_lost_answer_an_unreadable_key_list_is_unknown() {
    for fault in [Fault::Lost, Fault::LostAfter(1)] {
        for reading in [Fault::Lost, Fault::Unauthorized, Fault::Refused] {
            let (old, new) = keys();
            let cluster = FakeCluster::new(holding(&old))
                .fault(Call::Replace, .., fault.clone())
                .fault(Call::Keys, 2.., reading);
            let error = failed(replace(&old, &new).run(&cluster), Kind::Unknown, 8);
            assert_tells(&error, "could not be confirmed");
            assert_tells(&error, "`check keys`");
            assert_eq!(cluster.submissions(), 1);
        }
    }
}

#[test]
fn what_became_of_a_submission_that_a_signal_ended_is_read() {
    for (kind, exit_code) in [(Kind::Interrupted, 130), (Kind::Terminated, 143)] {
        let (old, new) = keys();
        let cluster =
            FakeCluster::new(holding(&old)).fault(Call::Replace, .., Fault::Stopped(kind));
        let error = failed(replace(&old, &new).run(&cluster), kind, exit_code);
        assert_tells(&error, "not done so far, and may still be");
        assert_tells(&error, "`check keys`");
        assert_eq!(cluster.submissions(), 1);
    }
}

#[test]
fn a_replacement_that_is_accepted_and_not_shown_is_unknown() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, .., Fault::Ignored);
    let error = failed(replace(&old, &new).run(&cluster), Kind::Unknown, 8);
    assert_tells(&error, "not done so far, and may still be");
    assert_tells(&error, "`check keys`");
    assert_eq!(cluster.submissions(), 1);
}

#[test]
fn a_challenge_that_is_the_name_of_a_key_is_not_signed() {
    let (old, new) = keys();
    let world = holding(&old);
    let challenge = world.replacement_challenge(&KeyRef::new("1")).unwrap();
    let cluster = FakeCluster::new(world.with_key(&challenge, new.public_key()));
    let error = failed(replace(&old, &new).run(&cluster), Kind::Mismatch, 4);
    assert_tells(&error, "it is the name of key 2");
    assert_eq!((cluster.submissions(), old.signed().len()), (0, 0));
}

#[test]
fn a_second_run_says_that_it_is_so_even_when_the_old_key_is_gone() {
    let (old, new) = keys();
    let cluster = FakeCluster::new(holding(&old));
    replace(&old, &new).run(&cluster).unwrap();
    let gone = FakeSource::new("old.pem").opening(Opening::Fails(Kind::Key));
    let locked = FakeSource::new("old.pem").opening(Opening::Asks);
    for old in [&old, &gone, &locked] {
        let again = replace(old, &new).run(&cluster).unwrap();
        assert_eq!(again.ending, Ending::AlreadySo);
        assert!(again.stored.holds(new.public_key()));
        assert_eq!(again.stored, again.before);
    }
    assert_eq!((cluster.submissions(), new.signed().len()), (1, 1));
    assert_eq!(locked.asked(), 0);
}

#[test]
fn a_second_run_does_not_need_the_old_key() {
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
fn a_person_is_asked_for_each_key_once_even_when_a_challenge_goes_stale() {
    let (old, new) = keys();
    let (old, new) = (old.opening(Opening::Asks), new.opening(Opening::Asks));
    let cluster = FakeCluster::new(holding(&old)).fault(Call::Replace, ..=1, COMMENTED);
    let replaced = replace(&old, &new).run(&cluster).unwrap();
    assert_eq!(replaced.ending, Ending::Done);
    assert_eq!((old.asked(), new.asked()), (1, 1));
    assert_eq!((old.opened(), new.opened()), (1, 1));
}

#[test]
fn nobody_is_asked_and_nothing_sent_before_the_cluster_has_answered() {
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
                let replace = Replace {
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
