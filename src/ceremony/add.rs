//! Storing a public key: its name is the challenge.

use std::sync::Arc;

use super::{
    Outcome,
    challenge::Purpose,
    change::{Change, Comparison},
    proof::{Response, Role, Signatory},
    view::{Keys, View},
};
use crate::{
    cluster::{self, Check, Cluster, KeyRef, NewKey, StoredKey},
    error::{Error, Kind, Result},
    public_key::PublicKey,
    text::quoted,
};

/// The name and comment to store a key under; the prover has the key.
pub struct Add<'a> {
    name: &'a str,
    comment: &'a str,
}

/// What matters of the key store.
pub struct State {
    /// The stored key with the name.
    pub stored: Option<Arc<StoredKey>>,
    keys: Keys,
    /// The commands that enable the stored key and set its comment.
    commands: Option<[String; 2]>,
}

impl<'a> Add<'a> {
    /// # Errors
    /// Of kind `usage` if no key can have this name.
    pub fn new(name: &'a str, comment: &'a str) -> Result<Self> {
        let wrong = match name {
            "" => "is empty",
            name if matches!(KeyRef::new(name), KeyRef::Id(_)) => {
                "consists of digits only, and would be taken for an id"
            }
            _ => return Ok(Self { name, comment }),
        };
        let message = format!("the name {} {wrong}", quoted(name));
        Err(Error::new(Kind::Usage, message).hint("give the key a name such as lock-2026"))
    }
}

impl Outcome<State> {
    /// The stored key; `None` after a dry run.
    pub fn stored(&self) -> Option<&StoredKey> {
        self.now().stored.as_deref()
    }

    /// The public half of the key.
    ///
    /// # Panics
    /// Never: nothing can be compared without it.
    pub fn public_key(&self) -> &PublicKey {
        self.new_key.as_ref().expect("an added key is known")
    }
}

impl Change for Add<'_> {
    type State = State;

    fn observe(&self, view: &View<'_>, before: Option<&State>) -> Result<State> {
        let keys = match before {
            None => view.keys()?,
            Some(_) => view.keys_again()?,
        };
        let stored = keys.iter().find(|stored| stored.name == self.name);
        let commands = stored.map(|stored| {
            [Check::EnableKey(&stored.id), Check::CommentKey(&stored.id)]
                .map(|what| view.cluster.check_command(what))
        });
        Ok(State {
            stored: stored.cloned(),
            keys,
            commands,
        })
    }

    fn challenge(&self, _: Option<&State>) -> Option<Purpose> {
        Some(Purpose::Add(self.name.to_owned()))
    }

    fn roles(&self, _: &State, _: &[Arc<StoredKey>]) -> Result<Vec<Signatory>> {
        Ok(vec![Signatory::new(Role::New, None)])
    }

    fn compare(&self, _: &State, now: &State, new_key: Option<&PublicKey>) -> Comparison {
        match (&now.stored, new_key) {
            (None, _) => Comparison::Unmet,
            (Some(_), None) => Comparison::NeedsNewKey,
            (Some(stored), Some(new_key)) if stored.holds(new_key) => Comparison::Met,
            (Some(other), Some(_)) => {
                let (name, id) = (quoted(self.name), &other.id);
                let message =
                    format!("{name} is already used by key {id}, with a different public key");
                let error = Error::new(Kind::Mismatch, message).hint(format!(
                    "choose another --name, or replace that key: `qkey replace --key-id {id} --new-key SOURCE`"
                ));
                let now = format!("{} holds another public key", other.title());
                Comparison::conflict(now, error)
            }
        }
    }

    fn submit(&self, cluster: &dyn Cluster, _: &State, response: &Response) -> cluster::Result<()> {
        let (public_key, signature) = response.of(Role::New);
        cluster.add_key(&NewKey {
            name: self.name,
            comment: self.comment,
            public_key,
            signature,
        })
    }

    fn title(&self, _: &State) -> String {
        format!("add key {}", quoted(self.name))
    }

    fn check(&self) -> Check<'_> {
        Check::Keys
    }

    fn warnings(&self, state: &State, new_key: Option<&PublicKey>) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some((stored, [enable, comment])) =
            state.stored.as_ref().zip(state.commands.as_ref())
        {
            if stored.disabled {
                warnings.push(format!(
                    "the key is disabled and cannot lock snapshots; enable it: `{enable}`"
                ));
            }
            if stored.comment != self.comment && !self.comment.is_empty() {
                warnings.push(format!(
                    "the stored comment stays {}; change it: `{comment}`",
                    quoted(&stored.comment)
                ));
            }
        } else {
            let holds_it = |stored: &&Arc<StoredKey>| new_key.is_some_and(|key| stored.holds(key));
            if let Some(other) = state.keys.iter().find(holds_it) {
                let title = other.title();
                warnings.push(format!("the same public key is also stored as {title}"));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ceremony::{
        self, Ending, Keyring,
        fakes::{
            Call, FakeCluster, FakeSource, Fault, Opening, Rendezvous, Signing, World,
            assert_tells, failed,
        },
        observer::Silent,
    };

    /// One run of the command.
    struct Run<'a> {
        name: &'a str,
        comment: &'a str,
        key: &'a FakeSource,
        dry_run: bool,
    }

    impl Run<'_> {
        fn run(&self, cluster: &FakeCluster) -> Result<Outcome<State>> {
            let change = Add::new(self.name, self.comment)?;
            let keyring = Keyring::new(Vec::new()).with_new(self.key);
            ceremony::run(&change, cluster, &keyring, &Silent, 2, self.dry_run)
        }
    }

    const NAME: &str = "Schlüssel 2026 ";

    fn add(key: &FakeSource) -> Run<'_> {
        Run {
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
    fn key_is_stored_with_signature_over_exact_name() {
        let (cluster, key) = (empty(), FakeSource::new("a.pem"));
        let added = add(&key).run(&cluster).unwrap();
        assert_eq!(added.ending, Ending::Done);
        assert_eq!(added.public_key(), key.public_key());
        let stored = added.stored().unwrap();
        assert_eq!(stored.name, NAME);
        assert_eq!(stored.comment, "for snapshots");
        assert!(stored.holds(key.public_key()));
        assert_eq!(stored_keys(&cluster), std::slice::from_ref(stored));
        assert_eq!(key.signed(), [NAME]);
        assert_eq!(cluster.calls(), [Call::Keys, Call::Add, Call::Keys]);
    }

    #[test]
    fn key_list_is_read_while_key_opens() {
        let rendezvous = Rendezvous::of(2);
        let cluster = empty().fault(Call::Keys, .., Fault::Meet(rendezvous.clone()));
        let key = FakeSource::new("a.pem").meeting_when_opened(&rendezvous);
        assert_eq!(add(&key).run(&cluster).unwrap().ending, Ending::Done);
    }

    #[test]
    fn invalid_name_makes_no_call() {
        for name in ["", "2026"] {
            let (cluster, key) = (empty(), FakeSource::new("a.pem"));
            let add = Run { name, ..add(&key) };
            failed(add.run(&cluster), Kind::Usage, 2);
            assert_eq!((cluster.calls(), key.opened()), (vec![], 0));
        }
    }

    #[test]
    fn rerun_is_already_so_and_sends_nothing() {
        let (cluster, key) = (empty(), FakeSource::new("a.pem"));
        let first = add(&key).run(&cluster).unwrap();
        for comment in ["for snapshots", "", "another comment"] {
            let add = Run {
                comment,
                ..add(&key)
            };
            let again = add.run(&cluster).unwrap();
            assert_eq!(again.ending, Ending::AlreadySo);
            assert_eq!(again.stored(), first.stored());
        }
        assert_eq!((cluster.submissions(), key.signed().len()), (1, 1));
    }

    #[test]
    fn name_taken_by_another_key_is_a_mismatch() {
        let (key, other) = (FakeSource::new("a.pem"), FakeSource::new("b.pem"));
        let cluster = FakeCluster::new(World::default().with_key(NAME, other.public_key()));
        let error = failed(add(&key).run(&cluster), Kind::Mismatch, 4);
        assert_tells(&error, "nothing was sent");
        assert_tells(&error, "qkey replace --key-id 1");
        assert_eq!((cluster.submissions(), key.signed().len()), (0, 0));
    }

    #[test]
    fn one_key_can_be_stored_under_two_names() {
        let key = FakeSource::new("a.pem");
        let cluster = FakeCluster::new(World::default().with_key("other", key.public_key()));
        assert_eq!(add(&key).run(&cluster).unwrap().ending, Ending::Done);
        assert_eq!(stored_keys(&cluster).len(), 2);
    }

    #[test]
    fn dry_run_signs_and_sends_nothing() {
        let (cluster, key) = (empty(), FakeSource::new("a.pem"));
        let add = Run {
            dry_run: true,
            ..add(&key)
        };
        let added = add.run(&cluster).unwrap();
        assert_eq!((added.ending, added.stored()), (Ending::DryRun, None));
        assert_eq!(added.public_key(), key.public_key());
        assert_eq!(key.signed(), [NAME]);
        assert_eq!(cluster.calls(), [Call::Keys]);
    }

    #[test]
    fn dry_run_detects_bad_signature() {
        let (cluster, key) = (empty(), FakeSource::new("a.pem"));
        let key = key.signing(Signing::OtherBytes);
        let add = Run {
            dry_run: true,
            ..add(&key)
        };
        failed(add.run(&cluster), Kind::Key, 3);
    }

    #[test]
    fn unverifiable_signature_is_not_sent() {
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
    fn key_that_fails_to_open_or_sign_sends_nothing() {
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
    fn passphrase_is_asked_once_after_cluster_replies() {
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
    fn refusal_after_identical_concurrent_run_is_already_so() {
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
    fn signal_while_rereading_after_refusal_ends_the_run() {
        let key = FakeSource::new("a.pem");
        let cluster = empty().fault(Call::Add, .., Fault::Refused).fault(
            Call::Keys,
            2..,
            Fault::Stopped(Kind::Interrupted),
        );
        failed(add(&key).run(&cluster), Kind::Interrupted, 130);
    }

    #[test]
    fn other_key_with_the_name_after_lost_submission_is_unknown() {
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
}
