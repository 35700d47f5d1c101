//! `qkey unlock`

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use clap::Args;
use serde::Serialize;

use super::{
    proof::{Attempts, signed},
    session::{Session, as_key_sources, warn},
    sign::read_input,
};
use crate::{
    ceremony::{
        Ending,
        observer::{Event, Observer},
    },
    error::{Error, Kind, Result, Subject},
    fleet::run::{UnlockMany, Unlocked},
    input, interrupt,
    output::{Format, error_object},
    report::ceremony as report,
    signer::source::Openable,
    terminal::Progress,
    text::{capitalized, quoted},
};

/// Unlock snapshots
#[derive(Args)]
pub struct Unlock {
    #[command(flatten)]
    ids: Ids,
    /// Private key (repeatable) [default: the configured key that matches]
    #[arg(long = "key", value_name = "SOURCE")]
    keys: Vec<String>,
    /// Snapshots to work on at a time [default: number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    #[command(flatten)]
    attempts: Attempts,
    /// Do everything except submit
    #[arg(long)]
    dry_run: bool,
}

/// More than this at a time only takes memory: a cluster accepts 1,000 connections per node.
const MOST_JOBS: usize = 256;

/// Which snapshots.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Ids {
    /// Snapshot id (repeatable)
    #[arg(long = "id", value_name = "N")]
    named: Vec<u64>,
    /// File with one snapshot id per line; `-` is stdin
    #[arg(long = "ids-from", value_name = "FILE")]
    from: Option<PathBuf>,
}

impl Unlock {
    pub fn run(&self, session: &Session) -> Result<()> {
        let keys = session.candidates("--key", &self.keys)?;
        self.ids.check_stdin(&keys)?;
        let ids = self.ids.read()?;
        let jobs = match self.jobs {
            Some(jobs) => jobs.into(),
            None => thread::available_parallelism().map_or(1, Into::into),
        };
        let jobs = jobs.min(ids.len()).min(MOST_JOBS);
        let cluster = session.connect(None, jobs)?;
        let asked = ids.len();
        let mut tally = Tally::new(session, self.dry_run, asked);
        let unlock = UnlockMany {
            keys: as_key_sources(&keys),
            attempts: self.attempts.number,
            jobs,
            dry_run: self.dry_run,
            ids,
        };
        let progress = session.output.progress("unlocking snapshots", asked);
        let results = unlock.run(cluster.as_ref(), &Counting(Mutex::new(progress)));
        for (id, result) in results {
            tally.add(id, result);
        }
        tally.finish()
    }
}

/// Shows how many snapshots are settled.
struct Counting(Mutex<Progress>);

impl Observer for Counting {
    fn event(&self, event: Event<'_>) {
        if let Event::Settled(done) = event {
            let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            progress.tell(done);
        }
    }
}

impl Ids {
    /// # Errors
    /// Of kind `usage` when stdin would be read twice.
    fn check_stdin(&self, keys: &[Openable]) -> Result<()> {
        let ids = self.from.as_deref().is_some_and(input::is_stdin);
        match ids && keys.iter().any(|key| key.source.reads_stdin()) {
            false => Ok(()),
            true => Err(Error::new(Kind::Usage, "only one option may read stdin")
                .hint("put the ids, or the key or passphrase, into a file")),
        }
    }

    /// Each id once, in the order in which they were given.
    ///
    /// # Errors
    /// Of kind `usage` when a file cannot be read, or holds something else or nothing at all.
    fn read(&self) -> Result<Vec<u64>> {
        let mut ids = self.named.clone();
        if let Some(path) = &self.from {
            ids.extend(parse_ids(path, &read_input(path, "the ids")?)?);
            if ids.is_empty() {
                let message = format!("no snapshot ids {}", within(path));
                return Err(Error::new(Kind::Usage, message).hint(FORM));
            }
        }
        let mut seen = HashSet::with_capacity(ids.len());
        ids.retain(|&id| seen.insert(id));
        Ok(ids)
    }
}

const FORM: &str = "one id per line; blank lines and # comments are ignored";

/// The same with a preposition.
fn within(path: &Path) -> String {
    let preposition = if input::is_stdin(path) { "on" } else { "in" };
    format!("{preposition} {}", place(path))
}

fn place(path: &Path) -> String {
    match input::is_stdin(path) {
        true => "stdin".to_owned(),
        false => path.display().to_string(),
    }
}

/// The ids in the contents of a file.
///
/// # Errors
/// Of kind `usage` when a line is no id.
fn parse_ids(path: &Path, contents: &[u8]) -> Result<Vec<u64>> {
    let contents = contents.strip_prefix(BYTE_ORDER_MARK).unwrap_or(contents);
    contents
        .split(|&byte| byte == b'\n')
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim_ascii()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"))
        .map(|(number, line)| {
            let id = str::from_utf8(line).ok().and_then(|text| text.parse().ok());
            id.ok_or_else(|| {
                let (place, line) = (place(path), beginning(line));
                let message = format!("{place}, line {number}: {line} is not a snapshot id");
                Error::new(Kind::Usage, message).hint(FORM)
            })
        })
        .collect()
}

/// What a line begins with, in quotes; a wrong file may have no other lines.
fn beginning(line: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(line);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => quoted(&format!("{}…", &text[..end])),
        None => quoted(&text),
    }
}

/// Some editors put it before the first line.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Prints each result, and sums them up.
struct Tally<'a> {
    session: &'a Session,
    dry_run: bool,
    asked: usize,
    done: usize,
    already_so: usize,
    would_be_done: usize,
    failed: usize,
    /// Those that were submitted, and whose result is not known.
    unknown: usize,
    first_error: Option<Error>,
    /// Set once a signal has ended the work.
    interruption: Option<Error>,
    /// The last error in printing, which must not stop the work.
    print_error: Option<Error>,
}

impl<'a> Tally<'a> {
    fn new(session: &'a Session, dry_run: bool, asked: usize) -> Self {
        Self {
            session,
            dry_run,
            asked,
            done: 0,
            already_so: 0,
            would_be_done: 0,
            failed: 0,
            unknown: 0,
            first_error: None,
            interruption: None,
            print_error: None,
        }
    }

    fn add(&mut self, id: u64, result: Result<Unlocked>) {
        match result {
            Ok(unlocked) => {
                *match unlocked.ending {
                    Ending::Done => &mut self.done,
                    Ending::AlreadySo => &mut self.already_so,
                    Ending::DryRun => &mut self.would_be_done,
                } += 1;
                warn(&unlocked.warnings);
                self.print(&text(&unlocked), &object(&unlocked, self.dry_run));
            }
            Err(error) => {
                *match error.kind() {
                    Kind::Unknown => &mut self.unknown,
                    _ => &mut self.failed,
                } += 1;
                if self.asked > 1 {
                    self.print_one_of_several(id, &error);
                }
                if error.kind().is_interruption() {
                    self.interruption.get_or_insert_with(|| error.clone());
                }
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn not_tried(&self) -> usize {
        self.asked - self.well() - self.failed - self.unknown
    }

    /// How many did not fail.
    fn well(&self) -> usize {
        self.done + self.already_so + self.would_be_done
    }

    fn print_one_of_several(&mut self, id: u64, error: &Error) {
        // Otherwise the result is not known.
        let is_known = error.kind() != Kind::Unknown && !error.kind().is_interruption();
        match self.session.output.format {
            Format::Text if error.subject() == Some(Subject::Snapshot(id)) => {
                self.session.output.error(error);
            }
            Format::Text => {
                let error = error.clone().about(&format!("snapshot {id}"));
                self.session.output.error(&error);
            }
            Format::Json => self.print(
                "",
                &report::FailedUnlock {
                    changed: is_known.then_some(false),
                    dry_run: self.dry_run,
                    snapshot: report::SnapshotId { id },
                    error: error_object(error),
                },
            ),
        }
    }

    fn print(&mut self, text: &str, object: &impl Serialize) {
        if let Err(error) = self.session.output.result(text, object) {
            // The last one is about the summary.
            self.print_error = Some(error);
        }
    }

    fn print_summary(&mut self) {
        let Self {
            done,
            already_so,
            failed,
            unknown,
            ..
        } = *self;
        let not_tried = self.not_tried();
        let changes = match self.dry_run {
            true => format!("Would unlock {}", self.would_be_done),
            false => format!("Unlocked {done}"),
        };
        let mut text = format!("{changes}, already unlocked {already_so}, failed {failed}");
        if unknown > 0 {
            text.push_str(&format!(", result unknown {unknown}"));
        }
        if not_tried > 0 {
            text.push_str(&format!(", not tried {not_tried}"));
        }
        let object = report::UnlockSummary {
            summary: report::Counts {
                asked: self.asked,
                changed: done,
                unchanged: self.well() - done,
                failed,
                unknown,
                not_tried,
            },
        };
        self.print(&format!("{text}."), &object);
    }

    fn finish(mut self) -> Result<()> {
        if self.asked > 1 {
            self.print_summary();
        }
        let (asked, well, not_tried) = (self.asked, self.well(), self.not_tried());
        let (failed, unknown) = (self.failed, self.unknown);
        if let Some(error) = self.print_error.take_if(|_| failed + unknown > 0) {
            self.session.output.error(&error);
        }
        let rerun = match failed + unknown {
            0 => "rerunning is safe: what is already unlocked is left alone",
            _ => "see the errors above; rerunning is safe: what is already unlocked is left alone",
        };
        // What was under way may be done all the same, and the others were not begun.
        let stopped = interrupt::announced().filter(|_| not_tried > 0);
        let interruption = self.interruption.map(|error| error.kind()).or(stopped);
        match (self.first_error, interruption) {
            (None, None) => self.print_error.map_or(Ok(()), Err),
            (Some(error), _) if asked == 1 => Err(error),
            (_, Some(kind)) => {
                let message = format!("interrupted after {well} of {asked} snapshots");
                Err(Error::new(kind, message).hint(rerun))
            }
            (Some(first), None) => {
                let kind = match (unknown, well) {
                    (1.., _) => Kind::Unknown,
                    (0, 0) => first.kind(),
                    (0, _) => Kind::Partial,
                };
                let mut message = match (unknown, failed) {
                    (0, _) => format!("{failed} of {asked} snapshots failed"),
                    (_, 0) => format!("the result for {unknown} of {asked} snapshots is unknown"),
                    _ => format!(
                        "the result for {unknown} of {asked} snapshots is unknown, and {failed} failed"
                    ),
                };
                if not_tried > 0 {
                    message.push_str(&format!(
                        "; {not_tried} were not tried, because the cluster is out of reach or refuses this user"
                    ));
                }
                Err(Error::new(kind, message).hint(rerun))
            }
        }
    }
}

fn text(unlocked: &Unlocked) -> String {
    let snapshot = unlocked.snapshot.title();
    let key = unlocked.key.as_ref().map(|key| key.title());
    match (unlocked.ending, key) {
        (Ending::Done, Some(key)) => format!("Unlocked {snapshot} with {key}."),
        (Ending::DryRun, Some(key)) => format!(
            "Dry run: {key} can unlock {snapshot}; signature verified, nothing sent.{}",
            signed(unlocked.challenge.as_deref())
        ),
        _ => format!("{} is already unlocked.", capitalized(&snapshot)),
    }
}

fn object(unlocked: &Unlocked, dry_run: bool) -> report::Unlock<'_> {
    let lock_key = match unlocked.ending {
        Ending::DryRun => unlocked.snapshot.lock_key.as_deref(),
        _ => None,
    };
    report::Unlock {
        changed: unlocked.ending == Ending::Done,
        dry_run,
        snapshot: report::SnapshotStatus::new(&unlocked.snapshot, lock_key),
        key: unlocked.key.as_deref().map(Into::into),
        challenge: unlocked.challenge.as_deref(),
    }
}
