//! What it means for a call that no answer came.

use std::time::Duration;

use ureq::http::StatusCode;

use super::{
    Rest,
    failure::Failure,
    tls::{Remedy, Untrusted},
};
use crate::{
    cluster::{
        Certainty, Error,
        explain::{GIVE_IT_LONGER, stopped_before, stopped_during},
        reply::Limit,
    },
    error::{Error as UserError, Kind},
};

impl Rest {
    pub(super) fn explain(&self, call: &str, limit: Limit, failure: Failure) -> Error {
        match failure {
            Failure::NotConnected(words) => self.not_connected(&words),
            Failure::NoDescriptor(words) => self
                .named
                .not_connected(&words)
                .not_worth_repeating()
                .hint("this machine lets qkey open no more files: give fewer --jobs, or raise `ulimit -n`"),
            Failure::NoTls(error) => self
                .not_connected(&error.to_string())
                .hint(error.hint())
                .not_worth_repeating(),
            Failure::NotConnectedWithin(time) => self.not_connected_within(time),
            Failure::RefusedByProxy(status) => self.refused_by_proxy(status),
            Failure::Untrusted(untrusted) => self.untrusted(&untrusted),
            Failure::StoppedBefore(kind) => stopped_before(call, kind),
            Failure::StoppedDuring(kind) => stopped_during(call, kind),
            Failure::NoTurnWithin(time) => self.no_answer(call, time, Certainty::NotSent),
            Failure::TimedOut(time) => self.no_answer(call, time, Certainty::Lost),
            Failure::Lost(words) => self.named.connection_lost(call, &words),
            Failure::TooLong => self.named.too_large(call, &limit.exceeded()),
            Failure::NotHttp(words) => self.not_the_api(call, &words),
        }
    }

    fn no_answer(&self, call: &str, time: Duration, certainty: Certainty) -> Error {
        let (address, seconds) = (&self.named.address, time.as_secs());
        let message = format!("{address} did not answer {call} within {seconds} s");
        let error = UserError::new(Kind::Unreachable, message);
        Error::new(certainty, error).hint(GIVE_IT_LONGER)
    }

    fn not_connected(&self, words: &str) -> Error {
        match &self.way {
            None => self.named.not_connected(words),
            Some(way) => {
                let words = format!("through the proxy {}: {words}", way.address);
                self.named.not_connected(&words).hint(format!(
                    "check the proxy that {} names, or name the cluster's host in no_proxy; then --host and --port",
                    way.variable
                ))
            }
        }
    }

    fn not_connected_within(&self, time: Duration) -> Error {
        let words = format!("no connection within {} s", time.as_secs());
        let error = self.not_connected(&words).not_worth_repeating();
        // Connecting has a limit of its own, which --timeout does not raise.
        match time < self.options.timeout {
            true => error,
            false => error.hint(GIVE_IT_LONGER),
        }
    }

    fn refused_by_proxy(&self, status: StatusCode) -> Error {
        let error = self.not_connected(&format!("it answered {status}"));
        match (&self.way, status) {
            (Some(way), StatusCode::PROXY_AUTHENTICATION_REQUIRED) => error
                .hint(format!(
                    "give the proxy's own user and password in {}: http://USER:PASSWORD@HOST:PORT",
                    way.variable
                ))
                .not_worth_repeating(),
            _ if status.is_server_error() => error,
            _ => error.not_worth_repeating(),
        }
    }

    fn untrusted(&self, untrusted: &Untrusted) -> Error {
        let fingerprint = untrusted.fingerprint;
        let message = format!("the certificate of {} is not trusted", self.named.address);
        let error = UserError::new(Kind::Unreachable, message).caused_by(&untrusted.reason);
        let confirmed = format!(
            "its fingerprint is {fingerprint}; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint={fingerprint}"
        );
        let hint = match untrusted.reason.remedy() {
            Remedy::Authority => {
                format!("{confirmed}, or trust the CA that signed it with --ca-file PEM")
            }
            Remedy::Itself => {
                format!("{confirmed}, or save it to a file and trust that with --ca-file PEM")
            }
            Remedy::Replacement => format!("{confirmed}, or replace the old certificate with it"),
            Remedy::Clock => format!("check this machine's clock; if it is right: {confirmed}"),
            Remedy::Renewal => format!("renew the certificate; until then: {confirmed}"),
            Remedy::Name => format!(
                "connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: {confirmed}"
            ),
            Remedy::Pin => confirmed,
            Remedy::NewPin => format!(
                "its fingerprint is {fingerprint}; if the cluster has a new certificate, pin that one; otherwise, find out what answers there"
            ),
            Remedy::OtherCertificate => "give the cluster a certificate with an RSA key of at least 2048 bits or a P-256, P-384, or Ed25519 key; until then, use --via qq, which does not verify certificates".to_owned(),
            Remedy::Suspicion => {
                "someone may be impersonating the cluster; find out what answers there".to_owned()
            }
        };
        Error::new(Certainty::NotSent, error).hint(hint)
    }
}
