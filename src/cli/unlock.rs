//! `qkey unlock`

use std::thread;

use clap::Args;
use serde_json::{Value, json};

use super::{
    keys::key_object,
    replace::Attempts,
    session::{Session, as_key_sources},
};
use crate::{
    ceremony::{self, Ending, unlock::Unlocked},
    cluster::Snapshot,
    error::{Error, Kind, Result},
    output::{Format, error_object},
};

/// Unlock snapshots with the private key that locks them
#[derive(Args)]
pub struct Unlock {
    /// A snapshot's id; may be given several times
    #[arg(long = "id", value_name = "N", required = true)]
    ids: Vec<u64>,
    /// The private key that locks them; may be given several times
    /// [default: the one in the configuration file that matches]
    #[arg(long = "key", value_name = "SOURCE")]
    keys: Vec<String>,
    #[command(flatten)]
    attempts: Attempts,
    /// Do everything up to the submission, and not that
    #[arg(long)]
    dry_run: bool,
}

impl Unlock {
    pub fn run(&self, session: &Session) -> Result<()> {
        let keys = session.candidates("--key", &self.keys)?;
        let cluster = session.cluster(1)?;
        let mut ids = Vec::new();
        for &id in &self.ids {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let unlock = ceremony::unlock::Unlock {
            keys: as_key_sources(&keys),
            attempts: self.attempts.number,
            jobs: thread::available_parallelism().map_or(1, Into::into),
            dry_run: self.dry_run,
            ids: ids.clone(),
        };
        let mut tally = Tally::new(session, self.dry_run, ids.len());
        unlock.run(cluster.as_ref(), |id, result| tally.add(id, result));
        tally.finish()
    }
}

/// Prints each result, and sums them up.
struct Tally<'a> {
    session: &'a Session,
    dry_run: bool,
    asked: usize,
    endings: Vec<Ending>,
    errors: Vec<Error>,
    /// The first error in printing, which must not stop the work.
    print_error: Option<Error>,
}

impl<'a> Tally<'a> {
    fn new(session: &'a Session, dry_run: bool, asked: usize) -> Self {
        Self {
            session,
            dry_run,
            asked,
            endings: Vec::new(),
            errors: Vec::new(),
            print_error: None,
        }
    }

    fn add(&mut self, id: u64, result: Result<Unlocked>) {
        match result {
            Ok(unlocked) => {
                self.endings.push(unlocked.ending);
                self.print(&text(&unlocked), &object(&unlocked, self.dry_run));
            }
            Err(error) => {
                if self.asked > 1 {
                    self.print_one_of_several(id, &error);
                }
                self.errors.push(error);
            }
        }
    }

    fn print_one_of_several(&mut self, id: u64, error: &Error) {
        let title = format!("snapshot {id}");
        match self.session.output.format {
            Format::Text if error.message().contains(&title) => self.session.output.error(error),
            Format::Text => self.session.output.error(&error.clone().about(&title)),
            Format::Json => self.print(
                "",
                &json!({
                    "action": "unlock",
                    "changed": false,
                    "dry_run": self.dry_run,
                    "snapshot": { "id": id },
                    "error": error_object(error),
                }),
            ),
        }
    }

    fn print(&mut self, text: &str, object: &Value) {
        if let Err(error) = self.session.output.result(text, object) {
            self.print_error.get_or_insert(error);
        }
    }

    fn print_summary(&mut self) {
        let count = |ending| self.endings.iter().filter(|&&e| e == ending).count();
        let (changed, unlocked_before) = (count(Ending::Done), count(Ending::AlreadySo));
        let failed = self.errors.len();
        let not_tried = self.asked - self.endings.len() - failed;
        let changes = match self.dry_run {
            true => format!("{} would be unlocked", count(Ending::DryRun)),
            false => format!("{changed} unlocked"),
        };
        let mut text = format!("{changes}, {unlocked_before} not locked before, {failed} failed");
        if not_tried > 0 {
            text.push_str(&format!(", {not_tried} not tried"));
        }
        let object = json!({
            "summary": {
                "asked": self.asked,
                "changed": changed,
                "unchanged": self.endings.len() - changed,
                "failed": failed,
                "not_tried": not_tried,
            },
        });
        self.print(&format!("{text}."), &object);
    }

    fn finish(mut self) -> Result<()> {
        if self.asked > 1 {
            self.print_summary();
        }
        let (failed, asked) = (self.errors.len(), self.asked);
        let interruption = |error: &&Error| error.kind().is_interruption();
        match (&self.errors[..], self.errors.iter().find(interruption)) {
            ([], _) => self.print_error.map_or(Ok(()), Err),
            ([error], _) if asked == 1 => Err(error.clone()),
            (_, Some(error)) => Err(Error::new(
                error.kind(),
                format!(
                    "stopped by a signal, with {} of {asked} snapshots done",
                    self.endings.len()
                ),
            )
            .hint("run this again for the rest: what is unlocked already is left alone")),
            ([first, ..], None) => {
                let kind = match failed == asked {
                    true => first.kind(),
                    false => Kind::Partial,
                };
                Err(Error::new(kind, format!("{failed} of {asked} snapshots failed"))
                    .hint("each is reported by itself; run this again for the rest: what is unlocked already is left alone"))
            }
        }
    }
}

fn text(unlocked: &Unlocked) -> String {
    let snapshot = unlocked.snapshot.title();
    let key = unlocked.key.as_ref().map(|key| key.title());
    match (unlocked.ending, key) {
        (Ending::Done, Some(key)) => format!("Unlocked {snapshot}, which {key} locked."),
        (Ending::DryRun, Some(key)) => format!(
            "Would unlock {snapshot}, which {key} locks; the signature was checked and nothing was sent."
        ),
        _ => format!("The cluster has {snapshot} unlocked already: nothing to do."),
    }
}

fn object(unlocked: &Unlocked, dry_run: bool) -> Value {
    let lock_key = match unlocked.ending {
        Ending::DryRun => unlocked.snapshot.lock_key.as_deref(),
        _ => None,
    };
    json!({
        "action": "unlock",
        "changed": unlocked.ending == Ending::Done,
        "dry_run": dry_run,
        "snapshot": snapshot_object(&unlocked.snapshot, lock_key),
        "key": unlocked.key.as_ref().map(key_object),
    })
}

/// The fields of a snapshot in JSON; `lock_key` is the stored key that locks it now.
pub fn snapshot_object(snapshot: &Snapshot, lock_key: Option<&str>) -> Value {
    json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "source_file_path": snapshot.source_file_path,
        "timestamp": snapshot.timestamp,
        "expiration": snapshot.expiration,
        "lock_key": lock_key,
    })
}
