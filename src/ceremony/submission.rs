//! What to believe after a submission.

use std::time::Duration;

use crate::{
    cluster::{self, Certainty, StoredKey},
    error::{Error, Kind, Result},
    interrupt::{self, LastWords},
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
    /// Submits, and turns the answer into a verdict; where the answer was lost, `look` reads the
    /// cluster's state, and nothing is submitted again.
    ///
    /// # Errors
    /// When it was not done for another reason than a refusal, or when nobody can tell (kind
    /// `unknown`; `interrupted` or `terminated` after a signal).
    pub fn submit<T>(
        &self,
        submit: impl FnOnce() -> cluster::Result<T>,
        look: impl Fn() -> cluster::Result<Seen<T>>,
    ) -> Result<Verdict<T>> {
        let stopped = Error::new(Kind::Interrupted, "stopped by a signal");
        let _said_if_all_ends = LastWords::lay_down(self.unknown(&stopped, stopped.kind()));
        self.settle(submit(), look)
    }

    fn settle<T>(
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
            _ if failure.error.kind().is_interruption() => {
                return Err(self.unknown(&failure.error, failure.error.kind()));
            }
            Certainty::Lost | Certainty::Unanswered => {}
        }
        let lost = failure.error;
        log::info!(
            "the answer to {} was lost; reading the cluster's state",
            self.what
        );
        let mut seen = None;
        for pause in LOOKS {
            interrupt::pause(pause);
            match look() {
                Ok(Seen::Done(done)) => {
                    log::warn!(
                        "the answer to {} was lost ({}), but the cluster shows that it was done",
                        self.what,
                        lost.chain()
                    );
                    return Ok(Verdict::Done(done));
                }
                Err(failure) if failure.error.kind().is_interruption() => {
                    return Err(self.unknown(&lost, failure.error.kind()));
                }
                Ok(other) => seen = Some(other),
                Err(failure) => {
                    log::info!("cannot read the state: {}", failure.error.chain());
                    // It may have been done after the look before.
                    seen = None;
                }
            }
        }
        Err(match seen {
            Some(Seen::NotDone) if failure.certainty == Certainty::Unanswered => {
                self.not_done_so_far(&lost)
            }
            Some(Seen::NotDone) => self.not_done(lost),
            Some(Seen::SomethingElse(what)) => Error::new(
                Kind::Unknown,
                format!(
                    "{} was submitted, its answer was lost, and now {what}",
                    self.what
                ),
            )
            .caused_by_error(&lost)
            .hint(format!(
                "`{}` shows it; somebody else may be at work",
                self.check
            )),
            _ => self.unknown(&lost, Kind::Unknown),
        })
    }

    /// Nobody can tell whether the cluster is still at it.
    fn not_done_so_far(&self, lost: &Error) -> Error {
        Error::new(
            Kind::Unknown,
            format!(
                "{} was submitted and not answered: it is not done so far, and may still be",
                self.what
            ),
        )
        .caused_by_error(lost)
        .hint(format!(
            "keep every key; `{}` shows whether it was done, and running this again is safe: it looks first",
            self.check
        ))
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::ceremony::fakes::{assert_tells, failed};

    fn failure(certainty: Certainty, kind: Kind) -> cluster::Error {
        cluster::Error::new(certainty, Error::new(kind, "the first answer"))
    }

    fn lost(kind: Kind) -> cluster::Result<&'static str> {
        Err(failure(Certainty::Lost, kind))
    }

    fn unreadable() -> cluster::Result<Seen<&'static str>> {
        Err(failure(Certainty::Lost, Kind::Unreachable))
    }

    fn not_done() -> cluster::Result<Seen<&'static str>> {
        Ok(Seen::NotDone)
    }

    fn done() -> cluster::Result<Seen<&'static str>> {
        Ok(Seen::Done("looked up"))
    }

    fn something_else() -> cluster::Result<Seen<&'static str>> {
        Ok(Seen::SomethingElse("it is blue".to_owned()))
    }

    /// Settles `answer`, where each look answers as `looks` has it, the last one again and again;
    /// also how often it looked.
    fn settle(
        answer: cluster::Result<&'static str>,
        looks: &[fn() -> cluster::Result<Seen<&'static str>>],
    ) -> (Result<Verdict<&'static str>>, usize) {
        let submission = Submission {
            what: "the painting",
            check: "look at it".to_owned(),
        };
        let looked = Cell::new(0);
        let look = || {
            let look = looks.get(looked.get()).or(looks.last());
            looked.set(looked.get() + 1);
            look.expect("nobody should look")()
        };
        (submission.settle(answer, look), looked.get())
    }

    fn verdict(settled: Result<Verdict<&'static str>>) -> &'static str {
        match settled.unwrap() {
            Verdict::Done(text) => text,
            Verdict::Refused(_) => "refused",
        }
    }

    #[test]
    fn an_answer_is_believed_without_a_look() {
        let (settled, looks) = settle(Ok("answered"), &[]);
        assert_eq!((verdict(settled), looks), ("answered", 0));
    }

    #[test]
    fn a_refusal_is_a_verdict_without_a_look() {
        for kind in [Kind::Refused, Kind::Auth] {
            let (settled, looks) = settle(Err(failure(Certainty::Refused, kind)), &[]);
            match settled.unwrap() {
                Verdict::Refused(error) => assert_eq!(error.kind(), kind),
                Verdict::Done(_) => panic!("it was refused"),
            }
            assert_eq!(looks, 0);
        }
    }

    #[test]
    fn what_was_not_sent_fails_as_it_is_without_a_look() {
        let (settled, looks) = settle(Err(failure(Certainty::NotSent, Kind::Unreachable)), &[]);
        let error = failed(settled, Kind::Unreachable, 7);
        assert_eq!((error.message(), looks), ("the first answer", 0));
    }

    #[test]
    fn after_a_lost_answer_the_change_may_show_at_any_look() {
        for late in 0..LOOKS.len() {
            let mut looks: Vec<fn() -> _> = vec![not_done; late];
            looks.push(done);
            let (settled, looked) = settle(lost(Kind::Unreachable), &looks);
            assert_eq!((verdict(settled), looked), ("looked up", late + 1));
        }
    }

    #[test]
    fn a_look_that_fails_is_followed_by_another() {
        let (settled, looked) = settle(lost(Kind::Unreachable), &[unreadable, done]);
        assert_eq!((verdict(settled), looked), ("looked up", 2));
        let (settled, looked) = settle(lost(Kind::Unreachable), &[something_else, done]);
        assert_eq!((verdict(settled), looked), ("looked up", 2));
    }

    #[test]
    fn what_does_not_show_at_the_last_look_was_not_done() {
        // A cluster that fails by itself (Error 500) is told apart from one that does not answer.
        for (kind, exit_code) in [(Kind::Unreachable, 7), (Kind::Refused, 5)] {
            for looks in [&[not_done as fn() -> _][..], &[unreadable, not_done]] {
                let (settled, looked) = settle(lost(kind), looks);
                let error = failed(settled, kind, exit_code);
                assert_eq!(looked, LOOKS.len());
                assert_tells(&error, "the painting was submitted");
                assert_tells(&error, "shows that it was not done");
                assert_tells(&error, "the first answer");
                assert_tells(&error, "`look at it`");
            }
        }
    }

    #[test]
    fn what_nobody_answered_may_be_done_after_the_last_look() {
        let unanswered = || Err(failure(Certainty::Unanswered, Kind::Unreachable));
        for looks in [&[not_done as fn() -> _][..], &[unreadable, not_done]] {
            let (settled, looked) = settle(unanswered(), looks);
            let error = failed(settled, Kind::Unknown, 8);
            assert_eq!(looked, LOOKS.len());
            assert_tells(&error, "the painting was submitted and not answered");
            assert_tells(&error, "not done so far, and may still be");
            assert_tells(&error, "the first answer");
            assert_tells(&error, "`look at it`");
        }
        let (settled, looked) = settle(unanswered(), &[not_done, done]);
        assert_eq!((verdict(settled), looked), ("looked up", 2));
        let (settled, _) = settle(unanswered(), &[not_done, unreadable]);
        assert_tells(&failed(settled, Kind::Unknown, 8), "could not be confirmed");
        let (settled, _) = settle(unanswered(), &[something_else]);
        assert_tells(&failed(settled, Kind::Unknown, 8), "now it is blue");
    }

    #[test]
    fn what_no_look_could_read_is_unknown() {
        let (settled, looked) = settle(lost(Kind::Unreachable), &[unreadable]);
        let error = failed(settled, Kind::Unknown, 8);
        assert_eq!(looked, LOOKS.len());
        assert_tells(&error, "could not be confirmed");
        assert_tells(&error, "the first answer");
        assert_tells(&error, "`look at it`");
    }

    #[test]
    fn what_only_an_early_look_did_not_show_is_unknown() {
        let (settled, _) = settle(lost(Kind::Unreachable), &[not_done, unreadable]);
        assert_tells(&failed(settled, Kind::Unknown, 8), "`look at it`");
    }

    #[test]
    fn something_else_than_what_was_submitted_is_unknown_and_told() {
        let (settled, _) = settle(lost(Kind::Unreachable), &[something_else]);
        let error = failed(settled, Kind::Unknown, 8);
        assert_tells(&error, "now it is blue");
        assert_tells(&error, "`look at it`");
    }

    #[test]
    fn nobody_looks_after_a_signal() {
        for (kind, exit_code) in [(Kind::Interrupted, 130), (Kind::Terminated, 143)] {
            let (settled, looked) = settle(lost(kind), &[]);
            let error = failed(settled, kind, exit_code);
            assert_eq!(looked, 0);
            assert_tells(&error, "could not be confirmed");
            assert_tells(&error, "`look at it`");
        }
    }

    #[test]
    fn a_signal_ends_the_looking() {
        let stopped = || Err(failure(Certainty::Lost, Kind::Terminated));
        let (settled, looked) = settle(lost(Kind::Unreachable), &[not_done, stopped, done]);
        let error = failed(settled, Kind::Terminated, 143);
        assert_eq!(looked, 2);
        assert_tells(&error, "could not be confirmed");
        assert_tells(&error, "`look at it`");
    }
}
