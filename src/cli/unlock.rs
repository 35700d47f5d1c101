//! `qkey unlock`

use std::{
    collections::HashSet,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Mutex,
    thread,
};

use clap::Args;
use serde::Serialize;

use super::{
    proof::{Attempts, signed},
    session::{Session, as_key_sources, warn},
    sign::{place, read_input},
};
use crate::{
    ceremony::{
        Ending, Outcome,
        observer::{Event, Observer},
    },
    cluster::Snapshot,
    error::{Error, Kind, Result, Subject},
    fleet::run::UnlockMany,
    input, interrupt,
    output::{Format, error_object},
    parallel::lock,
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

/// One snapshot id, or all from the first to the last.
#[derive(Clone, Debug)]
struct IdRange(RangeInclusive<u64>);

/// More than a cluster can have snapshots.
const LONGEST_RANGE: u64 = 100_000;

impl FromStr for IdRange {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let id = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (id(first), id(last)) {
            (Some(first), Some(last)) if first > last => Err(format!(
                "the range ends before it begins; write {last}-{first}"
            )),
            (Some(first), Some(last)) if last - first >= LONGEST_RANGE => {
                Err(format!("a range has at most {LONGEST_RANGE} ids"))
            }
            (Some(first), Some(last)) => Ok(Self(first..=last)),
            _ => Err("not a snapshot id; write 7, 7,8 or 7-9".to_owned()),
        }
    }
}

/// More at a time would only take memory: a cluster accepts 1,000 connections per node.
const MOST_JOBS: usize = 256;

/// Which snapshots.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct Ids {
    /// Snapshot ids: 7, 7,8 or 7-9
    #[arg(value_name = "ID", value_delimiter = ',')]
    positional: Vec<IdRange>,
    /// Snapshot ids: 7, 7,8 or 7-9 (repeatable)
    #[arg(long = "id", value_name = "N", value_delimiter = ',')]
    named: Vec<IdRange>,
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
        let asked = ids.len();
        let mut tally = Tally {
            session,
            dry_run: self.dry_run,
            is_list: self.ids.from.is_some() || asked != 1,
            counts: Counts {
                asked,
                ..Counts::default()
            },
            first_error: None,
            interruption: None,
            print_error: None,
        };
        if asked == 0 {
            return tally.finish();
        }
        let cluster = session.connect(None, jobs)?;
        let unlock = UnlockMany {
            keys: as_key_sources(&keys),
            attempts: self.attempts.number,
            jobs,
            dry_run: self.dry_run,
            ids,
        };
        let progress = session
            .output
            .terminal()
            .progress("unlocking snapshots", asked);
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
            lock(&self.0).tell(done);
        }
    }
}

impl Ids {
    /// # Errors
    /// Of kind `usage` if stdin would be read twice.
    fn check_stdin(&self, keys: &[Openable]) -> Result<()> {
        let ids = self.from.as_deref().is_some_and(input::is_stdin);
        if ids && keys.iter().any(|key| key.source.reads_stdin()) {
            return Err(Error::new(Kind::Usage, "only one option may read stdin")
                .hint("put the ids, or the key or passphrase, into a file"));
        }
        Ok(())
    }

    /// Each id once, in the order in which they were given.
    ///
    /// # Errors
    /// Of kind `usage` if a file cannot be read, or contains anything else.
    fn read(&self) -> Result<Vec<u64>> {
        let named = self.positional.iter().chain(&self.named);
        let mut ids: Vec<u64> = named.flat_map(|range| range.0.clone()).collect();
        if let Some(path) = &self.from {
            ids.extend(parse_ids(path, &read_input(path, "the ids")?)?);
            if ids.is_empty() {
                let preposition = if input::is_stdin(path) { "on" } else { "in" };
                log::warn!(
                    "no snapshot ids {preposition} {}; nothing to do",
                    place(path)
                );
            }
        }
        let mut seen = HashSet::with_capacity(ids.len());
        ids.retain(|&id| seen.insert(id));
        Ok(ids)
    }
}

const FORM: &str = "one id per line; blank lines and # comments are ignored";

/// The ids in the contents of a file.
///
/// # Errors
/// Of kind `usage` if a line is not an id.
fn parse_ids(path: &Path, contents: &[u8]) -> Result<Vec<u64>> {
    // Some editors put it before the first line.
    let byte_order_mark = "\u{feff}".as_bytes();
    let contents = contents.strip_prefix(byte_order_mark).unwrap_or(contents);
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

/// The beginning of a line, in quotes: a wrong file may be one long line.
fn beginning(line: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(line);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => quoted(&format!("{}…", &text[..end])),
        None => quoted(&text),
    }
}

/// Prints each result, and a summary.
struct Tally<'a> {
    session: &'a Session,
    dry_run: bool,
    /// Whether a summary follows the results: always, unless a single id was given.
    is_list: bool,
    counts: Counts,
    first_error: Option<Error>,
    /// Set once a signal has ended the work.
    interruption: Option<Kind>,
    /// The last error in printing, which must not stop the work.
    print_error: Option<Error>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    asked: usize,
    done: usize,
    already_so: usize,
    would_be_done: usize,
    failed: usize,
    /// Submitted, but the result is not known.
    unknown: usize,
}

impl Counts {
    /// How many did not fail.
    fn well(self) -> usize {
        self.done + self.already_so + self.would_be_done
    }

    fn not_tried(self) -> usize {
        self.asked - self.well() - self.failed - self.unknown
    }
}

impl Tally<'_> {
    fn add(&mut self, id: u64, result: Result<Outcome<Snapshot>>) {
        match result {
            Ok(unlocked) => {
                *match unlocked.ending {
                    Ending::Done => &mut self.counts.done,
                    Ending::AlreadySo => &mut self.counts.already_so,
                    Ending::DryRun => &mut self.counts.would_be_done,
                } += 1;
                warn(&unlocked.warnings);
                self.print(&text(&unlocked), &object(&unlocked, self.dry_run));
            }
            Err(error) => {
                *match error.kind() {
                    Kind::Unknown => &mut self.counts.unknown,
                    _ => &mut self.counts.failed,
                } += 1;
                let is_only_one = self.counts.asked == 1;
                if self.is_list && !(is_only_one && self.session.output.format == Format::Text) {
                    self.print_one_of_several(id, &error);
                }
                if error.kind().is_interruption() {
                    self.interruption.get_or_insert(error.kind());
                }
                self.first_error.get_or_insert(error);
            }
        }
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
        let counts = self.counts;
        let changes = if self.dry_run {
            format!("Would unlock {}", counts.would_be_done)
        } else {
            format!("Unlocked {}", counts.done)
        };
        let mut text = changes;
        for (label, number, always) in [
            ("already unlocked", counts.already_so, true),
            ("failed", counts.failed, true),
            ("result unknown", counts.unknown, false),
            ("not tried", counts.not_tried(), false),
        ] {
            if always || number > 0 {
                text += &format!(", {label} {number}");
            }
        }
        let object = report::UnlockSummary {
            summary: report::Counts {
                asked: counts.asked,
                changed: counts.done,
                unchanged: counts.well() - counts.done,
                failed: counts.failed,
                unknown: counts.unknown,
                not_tried: counts.not_tried(),
            },
        };
        self.print(&format!("{text}."), &object);
    }

    fn finish(mut self) -> Result<()> {
        let counts = self.counts;
        let Counts {
            asked,
            failed,
            unknown,
            ..
        } = counts;
        if self.is_list {
            self.print_summary();
        }
        let (well, not_tried) = (counts.well(), counts.not_tried());
        if let Some(error) = self.print_error.take_if(|_| failed + unknown > 0) {
            self.session.output.error(&error);
        }
        let rerun = match failed + unknown {
            0 => "rerunning is safe: what is already unlocked is left alone",
            _ => "see the errors above; rerunning is safe: what is already unlocked is left alone",
        };
        // What was under way may be done anyway, and the others were not started.
        let stopped = interrupt::announced().filter(|_| not_tried > 0);
        match (self.first_error, self.interruption.or(stopped)) {
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
                let uncertain = format!("the result for {unknown} of {asked} snapshots is unknown");
                let mut message = match (unknown, failed) {
                    (0, _) => format!("{failed} of {asked} snapshots failed"),
                    (_, 0) => uncertain,
                    _ => format!("{uncertain}, and {failed} failed"),
                };
                if not_tried > 0 {
                    message += &format!(
                        "; {not_tried} were not tried, because the cluster is out of reach or refuses this user"
                    );
                }
                Err(Error::new(kind, message).hint(rerun))
            }
        }
    }
}

fn text(unlocked: &Outcome<Snapshot>) -> String {
    let snapshot = unlocked.before.title();
    let key = unlocked.stored_key.as_ref().map(|key| key.title());
    match (unlocked.ending, key) {
        (Ending::Done, Some(key)) => format!("Unlocked {snapshot} with {key}."),
        (Ending::DryRun, Some(key)) => format!(
            "Dry run: {key} can unlock {snapshot}; signature verified, nothing sent.{}",
            signed(unlocked.challenge.as_deref())
        ),
        _ => format!("{} is already unlocked.", capitalized(&snapshot)),
    }
}

fn object(unlocked: &Outcome<Snapshot>, dry_run: bool) -> report::Unlock<'_> {
    let lock_key = match unlocked.ending {
        Ending::DryRun => unlocked.before.lock_key.as_deref(),
        _ => None,
    };
    report::Unlock {
        changed: unlocked.ending == Ending::Done,
        dry_run,
        snapshot: report::SnapshotStatus::new(&unlocked.before, lock_key),
        key: unlocked.stored_key.as_deref().map(Into::into),
        challenge: unlocked.challenge.as_deref(),
    }
}
