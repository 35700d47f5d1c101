//! What all changes have in common: how a run ends if a submission is refused, gets lost, or cannot be
//! confirmed.

use super::{
    add::Add,
    change::Change,
    fakes::{Call, FakeCluster, FakeSource, Fault, World, assert_tells, failed},
    lock::{Lock, NoProof},
    observer::Silent,
    proof::Prover,
    replace::Replace,
    unlock::Unlock,
    *,
};

/// Makes a change on a cluster, or only a dry run.
type Run = dyn Fn(&FakeCluster, bool) -> Result<Ending>;

/// One kind of change, and a cluster on which it has yet to be made.
struct Case {
    world: World,
    submit: Call,
    /// The call that reads whether it was made.
    look: Call,
    /// The command that shows whether it was made.
    check: &'static str,
    run: Box<Run>,
}

impl Case {
    fn cluster(&self) -> FakeCluster {
        FakeCluster::new(self.world.clone())
    }

    fn submitting(&self, fault: Fault) -> FakeCluster {
        self.cluster().fault(self.submit.clone(), .., fault)
    }

    fn run(&self, cluster: &FakeCluster) -> Result<Ending> {
        (self.run)(cluster, false)
    }

    /// Runs it, and expects an error that names the command to check with.
    #[track_caller]
    fn unsettled(&self, cluster: &FakeCluster, kind: Kind, words: &str) {
        let error = failed(self.run(cluster), kind, kind.exit_code());
        assert_tells(&error, words);
        assert_tells(&error, self.check);
        assert_eq!(cluster.submissions(), 1);
    }
}

fn ended(
    change: &impl Change,
    cluster: &FakeCluster,
    prover: &dyn Prover,
    dry_run: bool,
) -> Result<Ending> {
    run(change, cluster, prover, &Silent, 2, dry_run).map(|outcome| outcome.ending)
}

fn cases() -> [Case; 4] {
    let [added, old, new, holder, other] =
        ["a.pem", "old.pem", "new.pem", "b.pem", "c.pem"].map(FakeSource::new);
    let holding = |key: &FakeSource| World::default().with_key("lock", key.public_key());
    let (keys, snapshot) = ("`check keys`", "`check snapshot 7`");
    [
        Case {
            world: World::default(),
            submit: Call::Add,
            look: Call::Keys,
            check: keys,
            run: Box::new(move |cluster, dry_run| {
                let keyring = Keyring::new(Vec::new()).with_new(&added);
                ended(&Add::new("lock", "").unwrap(), cluster, &keyring, dry_run)
            }),
        },
        Case {
            world: holding(&old),
            submit: Call::Replace,
            look: Call::Keys,
            check: keys,
            run: Box::new(move |cluster, dry_run| {
                let key = KeyRef::new("lock");
                let keyring = Keyring::new(vec![&old]).with_new(&new);
                ended(&Replace { key }, cluster, &keyring, dry_run)
            }),
        },
        Case {
            world: holding(&holder).with_snapshot(7, Some("1")),
            submit: Call::Unlock(7),
            look: Call::Snapshot(7),
            check: snapshot,
            run: Box::new(move |cluster, dry_run| {
                let keyring = Keyring::new(vec![&holder]);
                ended(&Unlock(7), cluster, &keyring, dry_run)
            }),
        },
        Case {
            world: holding(&other).with_snapshot(7, None),
            submit: Call::Lock(7),
            look: Call::Snapshot(7),
            check: snapshot,
            run: Box::new(move |cluster, dry_run| {
                let key = KeyRef::new("lock");
                ended(&Lock { id: 7, key }, cluster, &NoProof, dry_run)
            }),
        },
    ]
}

#[test]
fn rerun_is_already_so_and_sends_nothing() {
    for case in cases() {
        let cluster = case.cluster();
        assert_eq!((case.run)(&cluster, true).unwrap(), Ending::DryRun);
        assert_eq!(cluster.submissions(), 0);
        assert_eq!(case.run(&cluster).unwrap(), Ending::Done);
        assert_eq!(case.run(&cluster).unwrap(), Ending::AlreadySo);
        assert_eq!(cluster.submissions(), 1);
    }
}

#[test]
fn unreadable_state_sends_nothing() {
    for case in cases() {
        for (fault, kind) in [
            (Fault::Lost, Kind::Unreachable),
            (Fault::Unauthorized, Kind::Auth),
            (Fault::Stopped(Kind::Terminated), Kind::Terminated),
        ] {
            let cluster = case.cluster().fault(case.look.clone(), .., fault);
            failed(case.run(&cluster), kind, kind.exit_code());
            assert_eq!(cluster.submissions(), 0);
        }
    }
}

#[test]
fn refusal_stands_and_unsent_submission_is_not_looked_up() {
    for case in cases() {
        for (fault, kind, words, looks) in [
            (Fault::Refused, Kind::Refused, "Error 400: no", 2),
            (Fault::Unauthorized, Kind::Auth, "Error 403: no right", 1),
            (Fault::NotSent, Kind::Unreachable, "connection refused", 1),
        ] {
            let cluster = case.submitting(fault);
            let error = failed(case.run(&cluster), kind, kind.exit_code());
            assert_eq!(error.message(), words);
            assert_eq!(cluster.submissions(), 1);
            assert_eq!(cluster.count(&case.look), looks);
        }
    }
}

#[test]
fn lost_reply_is_settled_by_polling() {
    for case in cases() {
        for look in 1..=3 {
            let cluster = case.submitting(Fault::LostAfter(look));
            assert_eq!(case.run(&cluster).unwrap(), Ending::Done);
            assert_eq!(cluster.submissions(), 1);
            assert_eq!(cluster.count(&case.look), 1 + look);
        }
    }
}

#[test]
fn lost_submission_is_unknown_and_not_retried() {
    for case in cases() {
        let cluster = case.cluster().fault(case.submit.clone(), ..=1, Fault::Lost);
        case.unsettled(&cluster, Kind::Unknown, "not done so far, and may still be");
        assert_eq!(case.run(&cluster).unwrap(), Ending::Done);
    }
}

#[test]
fn accepted_but_invisible_change_is_unknown() {
    for case in cases() {
        let cluster = case.submitting(Fault::Ignored);
        case.unsettled(&cluster, Kind::Unknown, "not done so far, and may still be");
    }
}

#[test]
fn submission_cut_off_by_signal_is_looked_up() {
    for case in cases() {
        for kind in [Kind::Interrupted, Kind::Terminated] {
            let cluster = case.submitting(Fault::Stopped(kind));
            case.unsettled(&cluster, kind, "not done so far, and may still be");
        }
    }
}

#[test]
fn unreadable_state_after_lost_reply_is_unknown() {
    for case in cases() {
        for fault in [Fault::Lost, Fault::LostAfter(1)] {
            for reading in [Fault::Lost, Fault::Unauthorized, Fault::Refused] {
                let cluster = case.submitting(fault.clone());
                let cluster = cluster.fault(case.look.clone(), 2.., reading);
                case.unsettled(&cluster, Kind::Unknown, "could not be confirmed");
            }
        }
    }
}
