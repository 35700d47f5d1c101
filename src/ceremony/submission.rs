//! What to believe after a submission.
//!
//! Whatever the reply is, the cluster's state is read before a change is reported as done: a proxy can
//! reply in place of the cluster, and a reply can be lost or mixed up.

use std::time::Duration;

use crate::{
    cluster::{self, Certainty},
    error::{Error, Kind, Result, Subject},
    interrupt::{self, Settling},
};

/// The pauses before each read of the cluster's state, until it shows the change. The first read
/// usually does; after a lost reply the change may still be on its way.
#[cfg(not(test))]
pub const POLL_PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1200),
];

/// As many, without the waiting.
#[cfg(test)]
pub const POLL_PAUSES: [Duration; 4] = [Duration::ZERO; 4];

/// What the cluster's state says about a submission.
pub enum Seen<T> {
    Done(T),
    NotDone,
    /// Neither the previous state nor the submitted one, but this.
    SomethingElse(String),
}

/// The result of a submission, before a change that was accepted is confirmed.
#[derive(Debug)]
pub enum Reply<T> {
    /// The cluster says that it was done. Only its state can confirm that.
    Accepted,
    /// The cluster's state shows the change although the reply did not; the warning says why.
    Done { now: T, warning: String },
    /// The cluster refused; nothing was changed.
    Refused(Error),
}

/// What is being submitted, for messages.
pub struct Submission {
    /// As in "the request to replace key 1".
    pub request: String,
    /// What that names, for errors.
    pub subject: Option<Subject>,
    /// A command that shows whether it was done.
    pub check: String,
}

impl Submission {
    /// Submits once; reads the cluster's state with `look` only if the reply leaves the result open.
    /// A first signal does not end this. The caller confirms what was accepted, and holds an
    /// [`Unsettled`](interrupt::Unsettled) until then.
    ///
    /// # Errors
    /// If it was not done for a reason other than a refusal, or the state does not confirm it (kind
    /// `unknown`; `interrupted` or `terminated` after a signal).
    pub fn send<T>(
        &self,
        submit: impl FnOnce() -> cluster::Result<()>,
        look: impl Fn() -> Result<Seen<T>>,
    ) -> Result<Reply<T>> {
        if let Some(kind) = interrupt::announced() {
            let message = format!("interrupted before {} was sent", self.request);
            let error = self.error(kind, message);
            return Err(error.hint("nothing was sent; run this again"));
        }
        let submitted = {
            let _settling = Settling::submission();
            submit()
        };
        let failure = match submitted {
            Ok(()) => return Ok(Reply::Accepted),
            Err(failure) => failure,
        };
        let error = failure.error;
        match failure.certainty {
            Certainty::Refused => return Ok(Reply::Refused(error)),
            Certainty::NotSent => return Err(error),
            Certainty::Failed | Certainty::Unexpected | Certainty::Lost => {}
        }
        log::info!("reading what became of {}", self.request);
        let request = &self.request;
        let reply = match failure.certainty {
            Certainty::Failed => format!("the cluster failed to process {request}"),
            Certainty::Unexpected => format!("unexpected reply to {request}"),
            _ => format!("no reply to {request}"),
        };
        Err(match poll(look) {
            Ok(Seen::Done(now)) => {
                let warning = format!("{reply} ({}); checked: it was done", error.chain());
                return Ok(Reply::Done { now, warning });
            }
            Ok(Seen::NotDone) if failure.certainty == Certainty::Failed => self.not_done(&error),
            Ok(Seen::NotDone) => self
                .not_done_so_far(&reply, unconfirmed(&error))
                .caused_by_error(&error),
            Ok(Seen::SomethingElse(what)) => self
                .something_else("was sent", &what)
                .caused_by_error(&error),
            Err(unreadable) => {
                let kind = match unreadable.kind() {
                    kind if kind.is_interruption() => kind,
                    _ => unconfirmed(&error),
                };
                self.unknown(kind).caused_by_error(&error)
            }
        })
    }

    /// Reads until the cluster's state shows what was accepted.
    ///
    /// # Errors
    /// Of kind `unknown` if it does not; `interrupted` or `terminated` after a signal.
    pub fn confirm<T>(&self, look: impl Fn() -> Result<Seen<T>>) -> Result<T> {
        self.judge(poll(look))
    }

    /// Judges what one read showed of a change that was accepted.
    ///
    /// # Errors
    /// As [`Submission::confirm`].
    pub fn judge<T>(&self, seen: Result<Seen<T>>) -> Result<T> {
        Err(match seen {
            Ok(Seen::Done(done)) => return Ok(done),
            Ok(Seen::NotDone) => {
                let kind = interrupt::announced().unwrap_or(Kind::Unknown);
                let request = &self.request;
                let reply = format!("the cluster accepted {request}, but does not show it");
                self.not_done_so_far(&reply, kind)
            }
            Ok(Seen::SomethingElse(what)) => self.something_else("was accepted", &what),
            Err(error) if error.kind().is_interruption() => self.unknown(error.kind()),
            Err(error) => self.unknown(unconfirmed(&error)).caused_by_error(&error),
        })
    }

    fn error(&self, kind: Kind, message: String) -> Error {
        Error::new(kind, message).naming(self.subject)
    }

    /// The cluster may still be working on it.
    fn not_done_so_far(&self, reply: &str, kind: Kind) -> Error {
        self.undecided(kind, format!("{reply}: not done so far, and may still be"))
    }

    fn not_done(&self, failed: &Error) -> Error {
        let (request, check) = (&self.request, &self.check);
        let message = format!("the cluster failed to process {request}; checked: it was not done");
        self.error(failed.kind(), message)
            .caused_by_error(failed)
            .hint(format!(
                "check the cluster's health, then run this again; `{check}` shows what it holds"
            ))
    }

    fn something_else(&self, sent: &str, what: &str) -> Error {
        let message = format!("{} {sent}, and now {what}", self.request);
        self.error(Kind::Unknown, message).hint(format!(
            "someone else may be making changes; `{}` shows what the cluster holds",
            self.check
        ))
    }

    /// What to report if a signal ends the process before the result is printed.
    pub fn carried_out(&self) -> Error {
        let done = format!("interrupted after {} completed", self.request);
        Error::new(Kind::Interrupted, done)
    }

    /// Nothing is known about the result.
    pub fn unknown(&self, kind: Kind) -> Error {
        let request = &self.request;
        self.undecided(
            kind,
            format!("{request} was sent, but the result could not be confirmed"),
        )
    }

    fn undecided(&self, kind: Kind, message: String) -> Error {
        self.error(kind, message).hint(format!(
            "keep every key; `{}` shows whether it was done; rerunning is safe: qkey looks first",
            self.check
        ))
    }
}

/// The kind of a submission that is not confirmed because of `cause`.
fn unconfirmed(cause: &Error) -> Kind {
    match cause.kind() {
        kind if kind.is_interruption() => kind,
        _ => interrupt::announced().unwrap_or(Kind::Unknown),
    }
}

/// Reads the state until it shows the change; after a signal, once.
fn poll<T>(look: impl Fn() -> Result<Seen<T>>) -> Result<Seen<T>> {
    let _settling = Settling::confirmation();
    let mut pauses = POLL_PAUSES.into_iter();
    loop {
        interrupt::pause(pauses.next().unwrap_or_default());
        let seen = look();
        match &seen {
            Ok(Seen::Done(_)) => return seen,
            Err(error) if error.kind().is_interruption() => return seen,
            Err(error) => log::info!("cannot read the state: {}", error.chain()),
            Ok(_) => {}
        }
        if pauses.len() == 0 || interrupt::announced().is_some() {
            return seen;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::ceremony::fakes::{assert_tells, failed};

    type Look = fn() -> Result<Seen<&'static str>>;

    /// What a submission came to in the end.
    #[derive(Debug)]
    enum Verdict {
        Done(&'static str),
        Refused(Error),
    }

    fn failure(certainty: Certainty, kind: Kind) -> cluster::Error {
        cluster::Error::new(certainty, Error::new(kind, "the first answer"))
    }

    fn lost() -> cluster::Result<()> {
        Err(failure(Certainty::Lost, Kind::Unreachable))
    }

    fn unreadable() -> Result<Seen<&'static str>> {
        Err(Error::new(Kind::Unreachable, "the state cannot be read"))
    }

    fn not_done() -> Result<Seen<&'static str>> {
        Ok(Seen::NotDone)
    }

    fn done() -> Result<Seen<&'static str>> {
        Ok(Seen::Done("read"))
    }

    fn something_else() -> Result<Seen<&'static str>> {
        Ok(Seen::SomethingElse("it is blue".to_owned()))
    }

    /// Submits and gets `answer`, where each read answers as `looks` has it, the last one again and
    /// again; also how often it read.
    fn submit(answer: cluster::Result<()>, looks: &[Look]) -> (Result<Verdict>, usize) {
        let submission = Submission {
            request: "the request to paint".to_owned(),
            subject: None,
            check: "look at it".to_owned(),
        };
        let looked = Cell::new(0);
        let look = || {
            let look = looks.get(looked.get()).or(looks.last());
            looked.set(looked.get() + 1);
            look.expect("nothing should be read")()
        };
        let settled = match submission.send(|| answer, look) {
            Ok(Reply::Accepted) => submission.confirm(look).map(Verdict::Done),
            Ok(Reply::Done { now, .. }) => Ok(Verdict::Done(now)),
            Ok(Reply::Refused(error)) => Ok(Verdict::Refused(error)),
            Err(error) => Err(error),
        };
        (settled, looked.get())
    }

    fn verdict(submitted: Result<Verdict>) -> &'static str {
        match submitted.unwrap() {
            Verdict::Done(text) => text,
            Verdict::Refused(_) => "refused",
        }
    }

    #[test]
    fn accepted_change_is_confirmed_by_reading() {
        let (submitted, looks) = submit(Ok(()), &[done]);
        assert_eq!((verdict(submitted), looks), ("read", 1));
        for (looks, words) in [
            (
                &[not_done as Look][..],
                "the cluster accepted the request to paint, but does not show it: not done so far, and may still be",
            ),
            (&[unreadable], "could not be confirmed"),
            (&[not_done, unreadable], "could not be confirmed"),
            (&[something_else], "was accepted, and now it is blue"),
        ] {
            let (submitted, looked) = submit(Ok(()), looks);
            let error = failed(submitted, Kind::Unknown, 8);
            assert_eq!(looked, POLL_PAUSES.len());
            assert_tells(&error, words);
            assert_tells(&error, "`look at it`");
        }
    }

    #[test]
    fn refusal_needs_no_read() {
        for kind in [Kind::Refused, Kind::Auth] {
            let (submitted, looks) = submit(Err(failure(Certainty::Refused, kind)), &[]);
            match submitted.unwrap() {
                Verdict::Refused(error) => assert_eq!(error.kind(), kind),
                Verdict::Done(_) => panic!("it was refused"),
            }
            assert_eq!(looks, 0);
        }
    }

    #[test]
    fn unsent_submission_fails_without_read() {
        let (submitted, looks) = submit(Err(failure(Certainty::NotSent, Kind::Unreachable)), &[]);
        let error = failed(submitted, Kind::Unreachable, 7);
        assert_eq!((error.message(), looks), ("the first answer", 0));
    }

    #[test]
    fn change_is_found_at_any_poll() {
        for certainty in [Certainty::Failed, Certainty::Unexpected, Certainty::Lost] {
            for late in 0..POLL_PAUSES.len() {
                for before in [not_done as Look, unreadable, something_else] {
                    let mut looks = vec![before; late];
                    looks.push(done);
                    let answer = Err(failure(certainty, Kind::Unreachable));
                    let (submitted, looked) = submit(answer, &looks);
                    assert_eq!((verdict(submitted), looked), ("read", late + 1));
                }
            }
        }
    }

    #[test]
    fn not_done_is_certain_only_if_cluster_says_it_failed() {
        let answer = Err(failure(Certainty::Failed, Kind::Refused));
        let (submitted, looked) = submit(answer, &[not_done]);
        let error = failed(submitted, Kind::Refused, 5);
        assert_eq!(looked, POLL_PAUSES.len());
        assert_tells(&error, "the cluster failed to process the request to paint");
        assert_tells(&error, "checked: it was not done");
        assert_tells(&error, "the first answer");
    }

    #[test]
    fn lost_or_unexpected_reply_may_still_be_done() {
        for (certainty, words) in [
            (Certainty::Lost, "no reply to the request to paint: "),
            (
                Certainty::Unexpected,
                "unexpected reply to the request to paint: ",
            ),
        ] {
            for looks in [&[not_done as Look][..], &[unreadable, not_done]] {
                let answer = Err(failure(certainty, Kind::Unreachable));
                let (submitted, looked) = submit(answer, looks);
                let error = failed(submitted, Kind::Unknown, 8);
                assert_eq!(looked, POLL_PAUSES.len());
                assert_tells(&error, words);
                assert_tells(&error, "not done so far, and may still be");
                assert_tells(&error, "the first answer");
                assert_tells(&error, "keep every key; `look at it`");
            }
        }
    }

    #[test]
    fn unreadable_last_poll_is_unknown() {
        for looks in [&[unreadable as Look][..], &[not_done, unreadable]] {
            let (submitted, looked) = submit(lost(), looks);
            let error = failed(submitted, Kind::Unknown, 8);
            assert_eq!(looked, POLL_PAUSES.len());
            assert_tells(&error, "could not be confirmed");
            assert_tells(&error, "the first answer");
            assert_tells(&error, "`look at it`");
        }
        let error = failed(submit(lost(), &[something_else]).0, Kind::Unknown, 8);
        assert_tells(&error, "the request to paint was sent, and now it is blue");
        assert_tells(&error, "`look at it`");
    }

    #[test]
    fn submission_cut_off_by_signal_is_looked_up() {
        for (kind, exit_code) in [(Kind::Interrupted, 130), (Kind::Terminated, 143)] {
            let stopped = || Err(failure(Certainty::Lost, kind));
            assert_eq!(verdict(submit(stopped(), &[done]).0), "read");
            for (look, words) in [
                (not_done as Look, "not done so far, and may still be"),
                (unreadable, "could not be confirmed"),
            ] {
                let error = failed(submit(stopped(), &[look]).0, kind, exit_code);
                assert_tells(&error, words);
                assert_tells(&error, "`look at it`");
            }
        }
    }

    #[test]
    fn signal_ends_polling() {
        let stopped = || Err(Error::new(Kind::Terminated, "stopped"));
        for answer in [Ok(()), lost()] {
            let (submitted, looked) = submit(answer, &[not_done, stopped, done]);
            let error = failed(submitted, Kind::Terminated, 143);
            assert_eq!(looked, 2);
            assert_tells(&error, "could not be confirmed");
            assert_tells(&error, "`look at it`");
        }
    }
}
