//! What to believe after a submission.

use std::{thread, time::Duration};

use crate::{
    cluster::{self, Certainty, StoredKey},
    error::{Error, Kind, Result},
};

/// When the cluster's state is read after an answer was lost: the change may still be on its way.
#[cfg(not(test))]
const LOOKS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1200),
];

/// As often, without the waiting.
#[cfg(test)]
const LOOKS: [Duration; 4] = [Duration::ZERO; 4];

/// What the cluster's state says about a submission whose answer was lost.
pub enum Seen<T> {
    Done(T),
    NotDone,
    /// Neither what was before nor what was submitted: what it is instead.
    SomethingElse(String),
}

/// What a submission came to.
pub enum Verdict<T> {
    Done(T),
    /// The cluster looked at it and refused; nothing was changed.
    Refused(Error),
}

/// What is being submitted, for messages.
pub struct Submission<'a> {
    /// As in "the replacement of key 1".
    pub what: &'a str,
    /// A command that shows whether it was done.
    pub check: String,
}

impl Submission<'_> {
    /// Turns the answer to a submission into a verdict; where the answer was lost, `look` reads
    /// the cluster's state, and nothing is submitted again.
    ///
    /// # Errors
    /// When it was not done for another reason than a refusal, or when nobody can tell (kind
    /// `unknown`; `interrupted` or `terminated` after a signal).
    pub fn settle<T>(
        &self,
        answer: cluster::Result<T>,
        look: impl Fn() -> cluster::Result<Seen<T>>,
    ) -> Result<Verdict<T>> {
        let failure = match answer {
            Ok(done) => return Ok(Verdict::Done(done)),
            Err(failure) => failure,
        };
        match failure.certainty {
            Certainty::Refused => return Ok(Verdict::Refused(failure.error)),
            Certainty::NotSent => return Err(failure.error),
            Certainty::Lost if failure.error.kind().is_interruption() => {
                return Err(self.unknown(&failure.error, failure.error.kind()));
            }
            Certainty::Lost => {}
        }
        let lost = failure.error;
        log::info!(
            "the answer to {} was lost; reading the cluster's state",
            self.what
        );
        let mut seen = None;
        for pause in LOOKS {
            thread::sleep(pause);
            match look() {
                Ok(Seen::Done(done)) => {
                    log::warn!(
                        "the answer to {} was lost ({lost}), but the cluster shows that it was done",
                        self.what
                    );
                    return Ok(Verdict::Done(done));
                }
                Err(failure) if failure.error.kind().is_interruption() => {
                    return Err(self.unknown(&lost, failure.error.kind()));
                }
                Ok(other) => seen = Some(other),
                Err(failure) => log::info!("cannot read the state: {}", failure.error),
            }
        }
        Err(match seen {
            Some(Seen::NotDone) => self.not_done(lost),
            Some(Seen::SomethingElse(what)) => self.unknown(&lost, Kind::Unknown).context(format!(
                "{} was submitted and its answer lost, and now {what}",
                self.what
            )),
            _ => self.unknown(&lost, Kind::Unknown),
        })
    }

    fn not_done(&self, lost: Error) -> Error {
        let kind = lost.kind();
        Error::new(
            kind,
            format!(
                "{} was submitted, and the cluster shows that it was not done",
                self.what
            ),
        )
        .caused_by_error(&lost)
        .hint(format!(
            "run this again: it looks first whether it was done after all (`{}` shows it too)",
            self.check
        ))
    }

    /// The cluster says that it was done, and shows another key than the one submitted.
    pub fn answered_otherwise(&self, stored: &StoredKey) -> Error {
        Error::new(
            Kind::Unknown,
            format!(
                "the cluster accepted {}, but answered with another key: {}",
                self.what,
                stored.title()
            ),
        )
        .hint(format!("look at what it holds: `{}`", self.check))
    }

    fn unknown(&self, lost: &Error, kind: Kind) -> Error {
        Error::new(
            kind,
            format!(
                "{} was submitted, and whether it was done could not be confirmed",
                self.what
            ),
        )
        .caused_by_error(lost)
        .hint(format!(
            "`{}` shows it; running this again is safe: it looks first",
            self.check
        ))
    }
}
