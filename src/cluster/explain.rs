//! What a call that failed means, whatever the transport: the same words, kinds and certainties.
//! A call is named as the command of `qq` that makes it.

use std::time::Duration;

use super::{Certainty, Error, Result};
use crate::{
    error::{Error as UserError, Kind},
    interrupt,
};

/// How messages name a cluster, and the commands that lead to it.
pub(super) struct Named {
    /// `HOST:PORT`.
    pub address: String,
    /// What to do to be logged in.
    pub log_in: String,
    /// What shows the snapshots that there are.
    pub find_snapshots: String,
}

/// After a signal, where no submission is under way.
const UNCHANGED: &str = "nothing was submitted by this step; run this again";

/// Keeps a call from being begun after a signal.
pub(super) fn begin(call: &str) -> Result<()> {
    match interrupt::received() {
        None => Ok(()),
        Some(kind) => Err(stopped_before(call, kind)),
    }
}

/// A signal came before the call was sent.
pub(super) fn stopped_before(call: &str, kind: Kind) -> Error {
    stopped(kind, Certainty::NotSent, "before", call)
}

/// A signal came while the call was under way.
pub(super) fn stopped_during(call: &str, kind: Kind) -> Error {
    stopped(kind, Certainty::Lost, "during", call)
}

fn stopped(kind: Kind, certainty: Certainty, when: &str, call: &str) -> Error {
    Error::new(
        certainty,
        UserError::new(kind, format!("stopped by a signal {when} {call}")).hint(UNCHANGED),
    )
}

/// Neither a host nor a configured cluster is named.
pub(super) fn no_cluster() -> UserError {
    UserError::new(Kind::Usage, "no cluster is named").hint(
        "give --host HOST, set QKEY_HOST, or write the cluster into the configuration file (`qkey config init`)",
    )
}

impl Named {
    /// The REST API's own answer, with its words: `error_class: description`.
    pub fn refused(&self, call: &str, status: u16, words: &str) -> Error {
        let (kind, hint) = match status {
            401 => (Kind::Auth, self.log_in.clone()),
            403 => (
                Kind::Auth,
                "log in as a user whose role has the privilege for it, or ask an administrator"
                    .to_owned(),
            ),
            404 if call.starts_with("snapshot") => (Kind::Refused, self.find_snapshots.clone()),
            404 => (
                Kind::Refused,
                "`qkey keys list` shows what there is".to_owned(),
            ),
            408 | 429 | 502..=504 => (
                Kind::Unreachable,
                "the cluster, or a proxy in front of it, is not ready; try again later".to_owned(),
            ),
            500.. => (
                Kind::Refused,
                "the cluster has a problem of its own; check its health, then run this again"
                    .to_owned(),
            ),
            _ => (
                Kind::Refused,
                "nothing was changed; fix what the cluster reports, then run this again".to_owned(),
            ),
        };
        let certainty = match status {
            // A proxy says these too, and knows nothing of the cluster behind it.
            408 | 502..=504 => Certainty::Unexpected,
            500.. => Certainty::Failed,
            _ => Certainty::Refused,
        };
        let message = format!("{} refused {call}: Error {status}: {words}", self.address);
        let error = Error::new(certainty, UserError::new(kind, message).hint(hint));
        match status {
            408 | 429 | 503 => error.worth_repeating(Duration::ZERO),
            _ => error,
        }
    }

    /// There was no connection, so that nothing was sent.
    pub fn not_connected(&self, words: &str) -> Error {
        let message = format!("cannot reach {}: {words}", self.address);
        let error = UserError::new(Kind::Unreachable, message).hint(
            "check --host and --port (or the cluster's entry in the configuration file), and the network",
        );
        let error = Error::new(Certainty::NotSent, error);
        // A name that is not known will not be known in a second either.
        match UNKNOWN_NAME.iter().any(|known| words.contains(known)) {
            true => error,
            false => error.worth_repeating(Duration::ZERO),
        }
    }

    /// The connection broke before the answer was there.
    pub fn connection_lost(&self, call: &str, words: &str) -> Error {
        let address = &self.address;
        let message = format!("the connection to {address} was lost during {call}: {words}");
        let error = UserError::new(Kind::Unreachable, message)
            .hint("look whether the cluster is up and whether a proxy or firewall stands between");
        let error = Error::new(Certainty::Lost, error);
        match words.contains("timed out") {
            true => error,
            false => error.worth_repeating(Duration::ZERO),
        }
    }

    /// More came than a cluster sends; `what` says of what.
    pub fn too_large(&self, call: &str, what: &str) -> Error {
        let message = format!(
            "the reply of {} to {call} is too large: {what}",
            self.address
        );
        Error::new(
            Certainty::Unexpected,
            UserError::new(Kind::Unreachable, message).hint(
                "a cluster sends far less; check --host and --port: a proxy or another service may answer there",
            ),
        )
    }

    /// A status without the REST API's own words: somebody else may have said it.
    pub fn refused_without_words(&self, call: &str, status: u16, words: &str) -> Error {
        match status {
            401 => Error {
                certainty: Certainty::Unexpected,
                ..self.refused(call, status, words)
            },
            _ => self.not_the_api(call, words),
        }
    }

    /// What came is no answer of the REST API.
    pub fn not_the_api(&self, call: &str, words: &str) -> Error {
        let message = format!(
            "{} answered {call} with something other than its REST API does: {words}",
            self.address
        );
        Error::new(
            Certainty::Unexpected,
            UserError::new(Kind::Unreachable, message)
                .hint("check --host and --port: a proxy or another service may answer there"),
        )
    }
}

/// What the resolver says of a name that does not exist.
const UNKNOWN_NAME: [&str; 3] = [
    "Name or service not known",
    "No address associated with hostname",
    "nodename nor servname provided",
];

/// What to do about a call that was not answered in time.
pub(super) const GIVE_IT_LONGER: &str =
    "look whether the cluster answers, or give it longer with --timeout SECONDS";
