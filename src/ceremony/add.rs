//! Storing a public key: its name is the challenge.

use super::{
    Ending, Keyring, not_explained, sign,
    submission::{Seen, Submission, Verdict},
};
use crate::{
    cluster::{Check, Cluster, KeyRef, NewKey, StoredKey},
    error::{Error, Kind, Result},
    parallel::both,
    public_key::PublicKey,
    signer::KeySource,
    text::quoted,
};

/// What is to be stored.
pub struct Add<'a> {
    pub name: &'a str,
    pub comment: &'a str,
    pub key: &'a dyn KeySource,
    pub dry_run: bool,
}

/// What the cluster holds, or would.
pub struct Added {
    pub ending: Ending,
    pub public_key: PublicKey,
    /// Missing after a dry run.
    pub stored: Option<StoredKey>,
}

impl Add<'_> {
    /// Runs the ceremony.
    ///
    /// # Errors
    /// As the rules have it; of kind `mismatch` when another key has the name.
    pub fn run(&self, cluster: &dyn Cluster) -> Result<Added> {
        self.check_name()?;
        let keyring = Keyring::new(vec![self.key]);
        let (keys, ()) = both(|| cluster.keys(), || keyring.open());
        let keys = keys?;
        let key = keyring.single()?;
        let public_key = key.signer.public_key().clone();
        if let Some(stored) = keys.iter().find(|stored| stored.name == self.name) {
            return self.already_stored(stored, public_key);
        }
        if let Some(other) = keys.iter().find(|stored| stored.holds(&public_key)) {
            log::warn!(
                "the key store holds the same public key as {}",
                other.title()
            );
        }
        let signature = sign(&key.title, key.signer.as_ref(), self.name)?;
        if self.dry_run {
            return Ok(Added {
                ending: Ending::DryRun,
                public_key,
                stored: None,
            });
        }
        let submission = Submission {
            request: format!("the request to add key {}", quoted(self.name)),
            check: cluster.check_command(Check::Keys),
        };
        let submit = || {
            cluster.add_key(&NewKey {
                name: self.name,
                comment: self.comment,
                public_key: &public_key,
                signature: &signature,
            })
        };
        let look = || {
            let keys = cluster.keys()?;
            let stored = keys.into_iter().find(|stored| stored.name == self.name);
            Ok(match stored {
                Some(stored) if stored.holds(&public_key) => Seen::Done(stored),
                Some(other) => {
                    Seen::SomethingElse(format!("{} holds another public key", other.title()))
                }
                None => Seen::NotDone,
            })
        };
        let added = |ending, stored| Added {
            ending,
            public_key: public_key.clone(),
            stored: Some(stored),
        };
        match submission.submit(submit, look)? {
            Verdict::Done(stored) => Ok(added(Ending::Done, stored)),
            Verdict::Refused(error) if error.kind() == Kind::Auth => Err(error),
            // An identical run may have been faster.
            Verdict::Refused(error) => match look() {
                Ok(Seen::Done(stored)) => Ok(added(Ending::AlreadySo, stored)),
                Ok(_) => Err(error),
                Err(failure) => Err(not_explained(error, &failure)),
            },
        }
    }

    fn check_name(&self) -> Result<()> {
        let wrong = match self.name {
            "" => "is empty",
            name if matches!(KeyRef::new(name), KeyRef::Id(_)) => {
                "consists of digits only, and would be taken for an id"
            }
            _ => return Ok(()),
        };
        let message = format!("the name {} {wrong}", quoted(self.name));
        Err(Error::new(Kind::Usage, message).hint("give the key a name such as lock-2026"))
    }

    fn already_stored(&self, stored: &StoredKey, public_key: PublicKey) -> Result<Added> {
        if !stored.holds(&public_key) {
            let message = format!(
                "the name {} is taken: the cluster holds another public key as {}",
                quoted(self.name),
                stored.title()
            );
            return Err(Error::new(Kind::Mismatch, message).hint(format!(
                "nothing was sent; choose another --name, or replace that key: \
                 `qkey replace --key-id {}`",
                stored.id
            )));
        }
        if stored.disabled {
            log::warn!(
                "the key is disabled, and locks nothing until `qq fs_security_modify_key` enables it"
            );
        }
        if stored.comment != self.comment && !self.comment.is_empty() {
            log::warn!(
                "its comment is {} and stays so; `qq fs_security_modify_key` changes it",
                quoted(&stored.comment)
            );
        }
        Ok(Added {
            ending: Ending::AlreadySo,
            public_key,
            stored: Some(stored.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ceremony::fakes::{
        Call, FakeCluster, FakeSource, Fault, Opening, Rendezvous, Signing, World, assert_tells,
        failed,
    };

    const NAME: &str = "Schlüssel 2026 ";

    fn add(key: &FakeSource) -> Add<'_> {
        Add {
            name: NAME,
            comment: "for snapshots",
            key,
            dry_run: false,
        }
    }

    fn empty() -> FakeCluster {
        FakeCluster::new(World::default())
    }

    fn stored_keys(cluster: &FakeCluster) -> Vec<StoredKey> {
        cluster.world().stored_keys()
    }

    #[test]
    fn a_key_is_stored_with_a_signature_over_its_exact_name() {
        let (cluster, key) = (empty(), FakeSource::new("a.pem"));
        let added = add(&key).run(&cluster).unwrap();
        assert_eq!(added.ending, Ending::Done);
        assert_eq!(added.public_key, *key.public_key());
        let stored = added.stored.unwrap();
        assert_eq!(stored.name, NAME);
        assert_eq!(stored.comment, "for snapshots");
        assert!(stored.holds(key.public_key()));
        assert_eq!(stored_keys(&cluster), [stored]);
        assert_eq!(key.signed(), [NAME]);
        assert_eq!(cluster.calls(), [Call::Keys, Call::Add, Call::Keys]);
    }

    #[test]
    fn the_key_list_is_read_while_the_key_opens() {
        let rendezvous = Rendezvous::of(2);
        let cluster = empty().fault(Call::Keys, .., Fault::Meet(rendezvous.clone()));
        let key = FakeSource::new("a.pem").meeting_when_opened(&rendezvous);
        assert_eq!(add(&key).run(&cluster).unwrap().ending, Ending::Done);
    }

    #[test]
    fn a_name_that_no_key_can_have_costs_no_call() {
        for name in ["", "2026"] {
            let (cluster, key) = (empty(), FakeSource::new("a.pem"));
            let add = Add { name, ..add(&key) };
            failed(add.run(&cluster), Kind::Usage, 2);
            assert_eq!((cluster.calls(), key.opened()), (vec![], 0));
        }
    }

    #[test]
    fn a_second_run_says_that_it_is_so_and_sends_nothing() {
        let (cluster, key) = (empty(), FakeSource::new("a.pem"));
        let first = add(&key).run(&cluster).unwrap();
        for comment in ["for snapshots", "", "another comment"] {
            let add = Add {
                comment,
                ..add(&key)
            };
            let again = add.run(&cluster).unwrap();
            assert_eq!(again.ending, Ending::AlreadySo);
            assert_eq!(again.stored, first.stored);
        }
        assert_eq!((cluster.submissions(), key.signed().len()), (1, 1));
    }

    #[test]
    fn a_name_that_another_key_has_is_a_mismatch_and_sends_nothing() {
        let (key, other) = (FakeSource::new("a.pem"), FakeSource::new("b.pem"));
        let cluster = FakeCluster::new(World::default().with_key(NAME, other.public_key()));
        let error = failed(add(&key).run(&cluster), Kind::Mismatch, 4);
        assert_tells(&error, "nothing was sent");
        assert_tells(&error, "qkey replace --key-id 1");
        assert_eq!((cluster.submissions(), key.signed().len()), (0, 0));
    }

    #[test]
    fn one_key_may_be_stored_under_two_names() {
        let key = FakeSource::new("a.pem");
        let cluster = FakeCluster::new(World::default().with_key("other", key.public_key()));
        assert_eq!(add(&key).run(&cluster).unwrap().ending, Ending::Done);
        assert_eq!(stored_keys(&cluster).len(), 2);
    }

    #[test]
    fn a_dry_run_signs_and_sends_nothing() {
        let (cluster, key) = (empty(), FakeSource::new("a.pem"));
        let add = Add {
            dry_run: true,
            ..add(&key)
        };
        let added = add.run(&cluster).unwrap();
        assert_eq!((added.ending, added.stored), (Ending::DryRun, None));
        assert_eq!(added.public_key, *key.public_key());
        assert_eq!(key.signed(), [NAME]);
        assert_eq!(cluster.calls(), [Call::Keys]);
    }

    #[test]
    fn a_dry_run_finds_a_bad_signature_too() {
        let (cluster, key) = (empty(), FakeSource::new("a.pem"));
        let key = key.signing(Signing::OtherBytes);
        let add = Add {
            dry_run: true,
            ..add(&key)
        };
        failed(add.run(&cluster), Kind::Key, 3);
    }

    #[test]
    fn a_signature_that_does_not_verify_is_never_sent() {
        for signing in [Signing::OtherBytes, Signing::AnotherKey] {
            let (cluster, key) = (empty(), FakeSource::new("a.pem").signing(signing));
            let error = failed(add(&key).run(&cluster), Kind::Key, 3);
            assert_tells(&error, "a.pem");
            assert_tells(&error, "does not verify");
            assert_tells(&error, "nothing was sent");
            assert_eq!(cluster.submissions(), 0);
        }
    }

    #[test]
    fn nothing_is_sent_when_the_key_does_not_open_or_sign() {
        let key = || FakeSource::new("a.pem");
        for key in [
            key().opening(Opening::Fails(Kind::Key)),
            key().opening(Opening::AsksInVain(Kind::Key)),
            key().signing(Signing::Fails),
        ] {
            let cluster = empty();
            failed(add(&key).run(&cluster), Kind::Key, 3);
            assert_eq!(cluster.submissions(), 0);
        }
    }

    #[test]
    fn a_person_is_asked_once_and_only_when_the_cluster_answers() {
        let key = FakeSource::new("a.pem").opening(Opening::Asks);
        for (fault, kind, exit_code) in [
            (Fault::Lost, Kind::Unreachable, 7),
            (Fault::NotSent, Kind::Unreachable, 7),
            (Fault::Unauthorized, Kind::Auth, 6),
            (Fault::Refused, Kind::Refused, 5),
            (Fault::Stopped(Kind::Interrupted), Kind::Interrupted, 130),
        ] {
            let cluster = empty().fault(Call::Keys, .., fault);
            failed(add(&key).run(&cluster), kind, exit_code);
            assert_eq!((cluster.submissions(), key.asked()), (0, 0));
        }
        assert_eq!(add(&key).run(&empty()).unwrap().ending, Ending::Done);
        assert_eq!(key.asked(), 1);
    }

    #[test]
    fn a_refusal_stands_after_one_submission() {
        for (fault, kind, exit_code, looks) in [
            (Fault::Refused, Kind::Refused, 5, 1),
            (Fault::Unauthorized, Kind::Auth, 6, 0),
        ] {
            let words = match kind {
                Kind::Auth => "Error 403: no right",
                _ => "Error 400: no",
            };
            let (cluster, key) = (empty().fault(Call::Add, .., fault), FakeSource::new("a"));
            let error = failed(add(&key).run(&cluster), kind, exit_code);
            assert_tells(&error, words);
            assert_eq!(cluster.submissions(), 1);
            assert_eq!(cluster.count(&Call::Keys), 1 + looks);
        }
    }

    #[test]
    fn a_refusal_because_another_run_was_faster_means_that_it_is_so() {
        let key = FakeSource::new("a.pem");
        let rendezvous = Rendezvous::of(2);
        let cluster = empty().fault(Call::Add, .., Fault::Meet(rendezvous.clone()));
        let mut endings = thread::scope(|scope| {
            let runs = [(); 2].map(|()| scope.spawn(|| add(&key).run(&cluster).unwrap()));
            runs.map(|run| run.join().unwrap().ending)
        });
        endings.sort_by_key(|ending| *ending != Ending::Done);
        assert_eq!(endings, [Ending::Done, Ending::AlreadySo]);
        assert_eq!(cluster.submissions(), 2);
    }

    #[test]
    fn a_signal_during_the_look_after_a_refusal_is_told() {
        let key = FakeSource::new("a.pem");
        let cluster = empty().fault(Call::Add, .., Fault::Refused).fault(
            Call::Keys,
            2..,
            Fault::Stopped(Kind::Interrupted),
        );
        failed(add(&key).run(&cluster), Kind::Interrupted, 130);
    }

    #[test]
    fn a_submission_that_was_not_sent_is_not_looked_up() {
        let key = FakeSource::new("a.pem");
        let cluster = empty().fault(Call::Add, .., Fault::NotSent);
        failed(add(&key).run(&cluster), Kind::Unreachable, 7);
        assert_eq!(cluster.calls(), [Call::Keys, Call::Add]);
    }

    #[test]
    fn after_a_lost_answer_the_key_is_found_whenever_it_shows() {
        for look in 1..=3 {
            let key = FakeSource::new("a.pem");
            let cluster = empty().fault(Call::Add, .., Fault::LostAfter(look));
            let added = add(&key).run(&cluster).unwrap();
            assert_eq!(added.ending, Ending::Done);
            assert!(added.stored.unwrap().holds(key.public_key()));
            assert_eq!(cluster.submissions(), 1);
            assert_eq!(cluster.count(&Call::Keys), 1 + look);
        }
    }

    #[test]
    fn after_a_lost_submission_it_may_still_be_done_and_is_not_retried() {
        let key = FakeSource::new("a.pem");
        let cluster = empty().fault(Call::Add, ..=1, Fault::Lost);
        let error = failed(add(&key).run(&cluster), Kind::Unknown, 8);
        assert_tells(&error, "not done so far, and may still be");
        assert_tells(&error, "`check keys`");
        assert_eq!((cluster.submissions(), stored_keys(&cluster)), (1, vec![]));
        assert_eq!(add(&key).run(&cluster).unwrap().ending, Ending::Done);
    }

    #[test]
    fn after_a_lost_submission_another_key_with_the_name_is_unknown() {
        let key = FakeSource::new("a.pem");
        let somebody_else = |world: &mut World| {
            world.store(NAME, "", FakeSource::new("b.pem").public_key());
        };
        let cluster = empty()
            .fault(Call::Add, .., Fault::Meanwhile(somebody_else))
            .fault(Call::Add, .., Fault::Lost);
        let error = failed(add(&key).run(&cluster), Kind::Unknown, 8);
        assert_tells(&error, "holds another public key");
        assert_tells(&error, "`check keys`");
        assert_eq!(cluster.submissions(), 1);
    }

    #[test]
    fn after_a_lost_answer_an_unreadable_key_list_is_unknown() {
        for fault in [Fault::Lost, Fault::LostAfter(1)] {
            let key = FakeSource::new("a.pem");
            let cluster = empty()
                .fault(Call::Add, .., fault)
                .fault(Call::Keys, 2.., Fault::Lost);
            let error = failed(add(&key).run(&cluster), Kind::Unknown, 8);
            assert_tells(&error, "`check keys`");
            assert_eq!(cluster.submissions(), 1);
        }
    }

    #[test]
    fn what_became_of_a_submission_that_a_signal_ended_is_read() {
        for (kind, exit_code) in [(Kind::Interrupted, 130), (Kind::Terminated, 143)] {
            let key = FakeSource::new("a.pem");
            let cluster = empty().fault(Call::Add, .., Fault::Stopped(kind));
            let error = failed(add(&key).run(&cluster), kind, exit_code);
            assert_tells(&error, "not done so far, and may still be");
            assert_tells(&error, "`check keys`");
            assert_eq!(cluster.submissions(), 1);
        }
    }

    #[test]
    fn a_key_that_is_accepted_and_not_shown_is_unknown() {
        let key = FakeSource::new("a.pem");
        let cluster = empty().fault(Call::Add, .., Fault::Ignored);
        let error = failed(add(&key).run(&cluster), Kind::Unknown, 8);
        assert_tells(&error, "not done so far, and may still be");
        assert_tells(&error, "`check keys`");
        assert_eq!(cluster.submissions(), 1);
    }
}
