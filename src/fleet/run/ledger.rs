//! The stage of each snapshot in a run.

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
};

use crate::{
    ceremony::{
        Ending, Outcome,
        observer::{Event, Observer},
    },
    cluster::{Check, Cluster, Snapshot},
    error::{Error, Kind, Result},
    parallel::lock,
};

/// The stage of each snapshot, for the last words if a second signal ends the run.
pub struct Ledger {
    ids: Vec<u64>,
    stages: Mutex<Vec<Stage>>,
    check: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    NotTried,
    /// Started; nothing is in flight.
    NotSent,
    Sent,
    Accepted,
    Unlocked,
    AlreadyUnlocked,
    /// Sent, but the result could not be confirmed.
    Unknown,
    Failed,
}

impl Stage {
    /// The stage after a result, for a snapshot that was in stage `self`.
    fn after(self, result: &Result<Outcome<Snapshot>>) -> Self {
        match result {
            Ok(unlocked) => match unlocked.ending {
                Ending::Done => Self::Unlocked,
                Ending::AlreadySo => Self::AlreadyUnlocked,
                Ending::DryRun => Self::NotSent,
            },
            Err(error) if error.kind() == Kind::Unknown => Self::Unknown,
            Err(error) if error.kind().is_interruption() => match self {
                Self::Sent | Self::Unknown => Self::Unknown,
                Self::Accepted => Self::Accepted,
                _ => Self::NotSent,
            },
            Err(_) => Self::Failed,
        }
    }
}

impl Ledger {
    pub fn new(ids: &[u64], cluster: &dyn Cluster) -> Arc<Self> {
        let check = match ids {
            [id] => Check::Snapshot(*id),
            _ => Check::Snapshots,
        };
        Arc::new(Self {
            ids: ids.to_vec(),
            stages: Mutex::new(vec![Stage::NotTried; ids.len()]),
            check: cluster.check_command(check),
        })
    }

    pub fn note(&self, index: usize, stage: Stage) {
        lock(&self.stages)[index] = stage;
    }

    pub fn note_result(&self, index: usize, result: &Result<Outcome<Snapshot>>) {
        let stage = &mut lock(&self.stages)[index];
        *stage = stage.after(result);
    }

    /// What is known if the run ends before it can report.
    pub fn words(&self) -> Error {
        let stages = lock(&self.stages);
        let mut message = "interrupted".to_owned();
        let mut sent = false;
        for (is_in, what) in [
            (&[Stage::Unlocked][..], "unlocked"),
            (&[Stage::AlreadyUnlocked], "already unlocked"),
            (&[Stage::Accepted], "accepted by the cluster, not confirmed"),
            (&[Stage::Sent, Stage::Unknown], "sent, result unknown"),
            (&[Stage::Failed], "failed"),
            (&[Stage::NotSent, Stage::NotTried], "nothing sent"),
        ] {
            let ids: Vec<u64> = self
                .ids
                .iter()
                .zip(stages.iter())
                .filter(|(_, stage)| is_in.contains(stage))
                .map(|(id, _)| *id)
                .collect();
            if !ids.is_empty() {
                let _ = write!(message, "; {what}: {}", ranges(ids));
                sent |= matches!(is_in[0], Stage::Accepted | Stage::Sent);
            }
        }
        let hint = if sent {
            format!(
                "`{}` shows what is locked; rerunning is safe: qkey looks first",
                self.check
            )
        } else {
            "rerunning is safe: qkey looks first".to_owned()
        };
        Error::new(Kind::Interrupted, message).hint(hint).whole()
    }
}

/// `1-5, 9`
fn ranges(mut ids: Vec<u64>) -> String {
    ids.sort_unstable();
    ids.dedup();
    let runs = ids.chunk_by(|a, b| a + 1 == *b);
    let runs = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// Notes the events of one snapshot.
pub struct Watch<'a> {
    pub ledger: &'a Ledger,
    pub index: usize,
}

impl Observer for Watch<'_> {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Submitting(_) => self.ledger.note(self.index, Stage::Sent),
            Event::Refused(_) => self.ledger.note(self.index, Stage::NotSent),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceremony::fakes::{FakeCluster, World, assert_tells};

    #[test]
    fn last_words_name_every_snapshot() {
        let cluster = FakeCluster::new(World::default());
        let ledger = Ledger::new(&[1, 2, 3, 5, 9, 12], &cluster);
        let words = ledger.words();
        assert_eq!(words.message(), "interrupted; nothing sent: 1-3, 5, 9, 12");
        for (index, stage) in [
            (0, Stage::Accepted),
            (1, Stage::Accepted),
            (2, Stage::Sent),
            (3, Stage::Unlocked),
            (4, Stage::Failed),
        ] {
            ledger.note(index, stage);
        }
        // A signal makes what was sent unknown, and the rest not sent.
        for (index, kind) in [
            (0, Kind::Interrupted),
            (2, Kind::Terminated),
            (5, Kind::Interrupted),
        ] {
            ledger.note_result(index, &Err(Error::new(kind, "stopped")));
        }
        let words = ledger.words();
        assert!(words.is_whole());
        assert_eq!(
            words.message(),
            "interrupted; unlocked: 5; accepted by the cluster, not confirmed: 1-2; \
             sent, result unknown: 3; failed: 9; nothing sent: 12"
        );
        assert_tells(&words, "`check snapshots` shows what is locked");
    }
}
