//! What users are told about failures: the only place in this module that makes messages, hints and
//! exit codes of them.

use std::{io, time::Duration};

use rustix::io::Errno;

use super::{
    Call, Error,
    failure::{Failure, SetupError, Unexpected},
    qq::node::Astray,
    rest::credentials,
};
use crate::{
    error::{Error as UserError, Kind},
    http::{
        self,
        tls::{CaFileError, HandshakeError, Reason, TrustError, Untrusted, Which},
    },
    input, subprocess,
    text::{quote_path, quoted},
};

/// A cluster as messages and hints name it.
pub(super) struct Site {
    /// `HOST:PORT`.
    pub address: String,
    /// Where the token comes from, or where there is none; `None` if unknown.
    pub login: Option<String>,
    /// How to log in.
    pub log_in: String,
    /// A command that lists the stored keys.
    pub list_keys: String,
    /// A command that lists snapshots.
    pub list_snapshots: String,
    pub transport: Transport,
}

/// How a [`Site`] is reached.
pub(super) enum Transport {
    /// `qq` with the options that lead to the cluster.
    Qq(String),
    Rest {
        /// `HOST:PORT` of the proxy, and the environment variable that names it.
        proxy: Option<(String, &'static str)>,
        /// For each call.
        timeout: Duration,
    },
}

const WAIT_LONGER: &str =
    "check whether the cluster responds, or give it more time with --timeout SECONDS";
const NOT_READY: &str = "the cluster, or a proxy in front of it, is not ready; try again later";
const WRONG_SERVICE: &str = "check --host and --port: a proxy or another service may respond there";

impl Site {
    /// A failed call, with what to tell the user.
    pub fn error(&self, call: Call<'_>, failure: Failure) -> Error {
        let error = self.explain(call, &failure).because(failure.reason());
        Error {
            certainty: failure.certainty(),
            error,
            failure: Box::new(failure),
        }
    }

    fn explain(&self, call: Call<'_>, failure: &Failure) -> UserError {
        let address = &self.address;
        let refused = |kind| about(call, kind, format!("{address} refused to {call}"));
        let failed = |kind| about(call, kind, format!("{address} failed to {call}"));
        let unexpected = |kind| {
            let message = format!("unexpected reply from {address} to the request to {call}");
            about(call, kind, message)
        };
        match failure {
            Failure::Unauthorized(api) => self.not_logged_in().caused_by(api),
            Failure::Forbidden(api) => {
                let message = format!("{address} denied permission to {call}");
                about(call, Kind::Auth, message).caused_by(api).hint(format!(
                    "log in as a user whose role includes {}; role changes take effect at the next login",
                    call.privilege()
                ))
            }
            Failure::NotFound(api) => self.not_found(call, refused(Kind::Refused)).caused_by(api),
            Failure::Throttled(api, _) => refused(Kind::Unreachable).caused_by(api).hint(NOT_READY),
            Failure::Unavailable(api, _) => {
                failed(Kind::Unreachable).caused_by(api).hint(NOT_READY)
            }
            Failure::Broken(api) => failed(Kind::Refused).caused_by(api).hint(
                "the cluster reports an internal problem; check its health, then run this again",
            ),
            Failure::Refused(api) => refused(Kind::Refused)
                .caused_by(api)
                .hint("nothing was changed; fix what the cluster reports, then run this again"),
            Failure::Unexpected(what @ Unexpected::Status { status: 401, .. }, _) => {
                self.not_logged_in().caused_by(what)
            }
            Failure::Unexpected(what, _) => {
                let error = unexpected(Kind::Unreachable).caused_by(what);
                match (&self.transport, what) {
                    (Transport::Qq(qq), Unexpected::Body { .. }) => error.hint(by_hand(qq, call)),
                    _ => error.hint(WRONG_SERVICE),
                }
            }
            Failure::TooLarge(what) => {
                let message = format!("the reply from {address} is too large: {what}");
                UserError::new(Kind::Unreachable, message)
                    .hint(format!("a cluster sends far less; {WRONG_SERVICE}"))
            }
            Failure::Connection(failure) => self.connection(call, failure),
            Failure::Astray(astray) => astray_error(astray),
            Failure::Qq(failure) => self.qq_failed(call, failure),
            Failure::QqCredentials(words) => {
                let message = format!("qq cannot read its credentials for {address}: {words}");
                UserError::new(Kind::Auth, message).hint(&self.log_in)
            }
            Failure::QqError(words) => about(
                call,
                Kind::Unreachable,
                format!("qq failed to {call}: {words}"),
            )
            .maybe_hint(self.by_hand(call)),
            Failure::QqCrash(words) => {
                let message = format!("qq crashed during the request to {call}: {words}");
                about(call, Kind::Unreachable, message).maybe_hint(self.by_hand(call))
            }
            Failure::QqWithoutHost => SetupError::NoCluster.into(),
            Failure::QqCommand => {
                let command = call.qq_command();
                UserError::new(Kind::Unreachable, format!("this qq has no command {command}")).hint(
                    "qq 6.1.0 or later is required: `pip install --upgrade qumulo-api`, or select another with --qq PATH",
                )
            }
            Failure::QqArguments(words) => {
                let command = call.qq_command();
                let message = format!("this qq rejects the arguments of {command}: {words}");
                UserError::new(Kind::Unreachable, message).hint(
                    "select another qq with --qq PATH; versions 6.1.0 to 7.10 are known to work",
                )
            }
            Failure::Outside { .. } => refused(Kind::Internal),
        }
    }

    fn not_logged_in(&self) -> UserError {
        let message = match &self.login {
            Some(login) => format!("not logged in to {} ({login})", self.address),
            None => format!("not logged in to {}", self.address),
        };
        UserError::new(Kind::Auth, message).hint(&self.log_in)
    }

    fn not_found(&self, call: Call<'_>, refused: UserError) -> UserError {
        let missing = |what: String, list: &str| {
            let message = format!("{what} does not exist on {}", self.address);
            refused.clone().with_message(message).hint(list.to_owned())
        };
        let keys = format!("`{}` shows what exists", self.list_keys);
        let snapshots = match self.transport {
            Transport::Qq(_) => format!("`{}` shows what exists", self.list_snapshots),
            // qkey lists only those that a key protects.
            Transport::Rest { .. } => {
                format!("`{}` shows which snapshots are locked", self.list_snapshots)
            }
        };
        match call {
            Call::Snapshot(id) => missing(format!("snapshot {id}"), &snapshots),
            Call::KeyUsage(id) => missing(format!("key {id}"), &keys),
            Call::ReplacementChallenge(key) => missing(key.title(), &keys),
            Call::UnlockChallenge(_) | Call::Unlock(_) | Call::Lock(_) => refused.hint(snapshots),
            Call::Keys | Call::AddKey(_) | Call::ReplaceKey(_) | Call::UnlockedSnapshots => {
                refused.hint(keys)
            }
        }
    }

    fn connection(&self, call: Call<'_>, failure: &http::Failure) -> UserError {
        use http::Failure::{
            Closed, Lost, NoDescriptor, NoTls, NoTurnWithin, NotConnected, NotConnectedWithin,
            NotHttp, RefusedByProxy, StoppedBefore, StoppedDuring, TimedOut, TooLong, Truncated,
            UnknownHost, Untrusted,
        };
        let address = &self.address;
        let stopped = |kind: &Kind, when: &str| {
            let message = format!("interrupted {when} the request to {call}");
            about(call, *kind, message).hint("nothing was submitted by this step; run this again")
        };
        let late = |within: &Duration| {
            let message = format!(
                "no reply from {address} within {} s to the request to {call}",
                within.as_secs()
            );
            about(call, Kind::Unreachable, message).hint(WAIT_LONGER)
        };
        let lost = |why: &str| {
            let message =
                format!("lost the connection to {address} during the request to {call}: {why}");
            about(call, Kind::Unreachable, message).hint(
                "check whether the cluster is up, and whether a proxy or firewall cuts connections",
            )
        };
        match failure {
            UnknownHost(cause) | NotConnected(cause) => self.unreachable(&cause.to_string()),
            Closed => self.unreachable("the connection was closed before a request was sent"),
            NoDescriptor(cause) => self
                .unreachable(&cause.to_string())
                .hint("qkey reached its limit of open files: lower --jobs, or raise `ulimit -n`"),
            RefusedByProxy(status) => {
                let error = self.unreachable(&format!("it responded with {status}"));
                match &self.transport {
                    Transport::Rest { proxy: Some((_, variable)), .. } if status.as_u16() == 407 => {
                        error.hint(format!(
                            "set the proxy's user and password in {variable}: http://USER:PASSWORD@HOST:PORT"
                        ))
                    }
                    _ => error,
                }
            }
            NotConnectedWithin(within) => {
                let error =
                    self.unreachable(&format!("no connection within {} s", within.as_secs()));
                match &self.transport {
                    // Connecting has a limit of its own, which --timeout does not raise.
                    Transport::Rest { timeout, .. } if within < timeout => error,
                    _ => error.hint(WAIT_LONGER),
                }
            }
            NoTls(error) => self
                .unreachable(&error.to_string())
                .hint(handshake_hint(*error)),
            Untrusted(untrusted) => self.untrusted(untrusted),
            NoTurnWithin(within) | TimedOut(within) => late(within),
            StoppedBefore(kind) => stopped(kind, "before"),
            StoppedDuring(kind) => stopped(kind, "during"),
            Lost(cause) => lost(&cause.to_string()),
            Truncated => lost("it was closed before the whole response had arrived"),
            TooLong => about(
                call,
                Kind::Unreachable,
                format!("the reply from {address} to the request to {call} is too large"),
            )
            .hint(WRONG_SERVICE),
            NotHttp(cause) => {
                let message = format!("unexpected reply from {address} to the request to {call}");
                about(call, Kind::Unreachable, message)
                    .caused_by(&**cause)
                    .hint(WRONG_SERVICE)
            }
        }
    }

    /// There was no connection.
    fn unreachable(&self, why: &str) -> UserError {
        let (through, hint) = match &self.transport {
            Transport::Rest { proxy: Some((proxy, variable)), .. } => (
                format!("through the proxy {proxy}: "),
                format!(
                    "check the proxy that {variable} names, or list the cluster's host in no_proxy; then check --host and --port"
                ),
            ),
            _ => (
                String::new(),
                "check --host and --port (or the cluster's entry in the configuration file), and the network".to_owned(),
            ),
        };
        let message = format!("cannot reach {}: {through}{why}", self.address);
        UserError::new(Kind::Unreachable, message).hint(hint)
    }

    fn untrusted(&self, untrusted: &Untrusted) -> UserError {
        let fingerprint = untrusted.fingerprint;
        let confirmed = format!(
            "its fingerprint is {fingerprint}; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint={fingerprint}"
        );
        let hint = match &untrusted.reason {
            Reason::NotPinned { usable: true, .. } => format!(
                "its fingerprint is {fingerprint}; if the cluster has a new certificate, pin that one; otherwise, find out what responds there"
            ),
            Reason::UnknownIssuer { .. } | Reason::OtherIssuer(..) => {
                format!("{confirmed}, or trust the CA that signed it with --ca-file PEM")
            }
            Reason::SelfSigned(_) | Reason::Authority => {
                format!("{confirmed}, or save it to a file and trust that with --ca-file PEM")
            }
            Reason::Replaced(..) => format!("{confirmed}, or replace the old certificate with it"),
            Reason::NotYetValid { .. } => {
                format!("check this machine's clock; if it is right: {confirmed}")
            }
            Reason::Expired { .. } => format!("renew the certificate; until then: {confirmed}"),
            Reason::WrongName { names, .. } if !names.is_empty() => format!(
                "connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: {confirmed}"
            ),
            Reason::NotPinned { usable: false, .. }
            | Reason::KeyLength(Which::Own, _)
            | Reason::Key(_)
            | Reason::Malformed => format!(
                "its fingerprint is {fingerprint}; if that is the cluster's certificate, replace it with one that has an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; until then, --via qq works without --ca-file and --tls-fingerprint, but does not verify certificates"
            ),
            Reason::Unproven => {
                "someone may be impersonating the cluster; find out what responds there".to_owned()
            }
            _ => confirmed,
        };
        let message = format!("the certificate of {} is not trusted", self.address);
        UserError::new(Kind::Unreachable, message)
            .caused_by(&untrusted.reason)
            .hint(hint)
    }

    /// `qq` itself did not say what was wrong.
    fn qq_failed(&self, call: Call<'_>, failure: &subprocess::Failure) -> UserError {
        use subprocess::Failure::{CouldNotRun, Killed, NotExecutable, NotFound, TimedOut};
        let error = about(call, Kind::Unreachable, format!("qq failed to {call}"));
        match failure {
            CouldNotRun { source, .. } if is_exhaustion(source) => {
                let message = format!("cannot start qq to {call}: out of memory or threads");
                about(call, Kind::Internal, message).caused_by(source).hint(
                    "nothing was sent; raise the limit (see `ulimit -a`) or free memory, then run this again",
                )
            }
            NotFound { .. } | NotExecutable { .. } | CouldNotRun { .. } => {
                error.caused_by(failure).hint("give the path of qq with --qq PATH or QKEY_QQ")
            }
            TimedOut { .. } => error.caused_by(failure).hint(WAIT_LONGER),
            Killed { .. } => error.caused_by(failure).hint(
                "find out what killed it (out of memory? a limit? an administrator?), then run this again",
            ),
            _ => error.caused_by(failure).maybe_hint(self.by_hand(call)),
        }
    }

    fn by_hand(&self, call: Call<'_>) -> Option<String> {
        match &self.transport {
            Transport::Qq(qq) => Some(by_hand(qq, call)),
            Transport::Rest { .. } => None,
        }
    }
}

/// An error whose message names the call.
fn about(call: Call<'_>, kind: Kind, message: String) -> UserError {
    UserError::new(kind, message).naming(call.subject())
}

fn by_hand(qq: &str, call: Call<'_>) -> String {
    format!(
        "check that `{qq} {} --help` works; if it does, run this again with -vv and report the output",
        call.qq_command()
    )
}

/// Whether the system is out of memory, threads or processes.
fn is_exhaustion(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::AGAIN, Errno::NOMEM].contains(&errno))
}

impl From<SetupError> for UserError {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::NoCluster => Self::new(Kind::Usage, "no cluster selected").hint(
                "give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)",
            ),
            SetupError::Host(host) => {
                Self::new(Kind::Usage, format!("{} is not a valid host name", quoted(&host)))
                    .hint("give only the name or address; use --port for the port")
            }
            SetupError::Qq(failure) => {
                let hint = match failure {
                    subprocess::Failure::NotFound { .. } => {
                        "install it with `pip install qumulo-api`, give its path with --qq PATH or QKEY_QQ, or use --via rest, which does not need it"
                    }
                    _ => "give the path of the qq program itself with --qq PATH or QKEY_QQ",
                };
                Self::new(Kind::Unreachable, "cannot run qq").caused_by(&failure).hint(hint)
            }
            SetupError::Astray(astray) => astray_error(&astray),
            SetupError::Trust(error) => trust_error(&error),
            SetupError::Proxy(unusable) => Self::new(Kind::Usage, unusable.to_string())
                .hint("it must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"),
            SetupError::Credentials { error, log_in } => credentials_error(&error, log_in),
        }
    }
}

fn astray_error(astray: &Astray) -> UserError {
    let message = format!(
        "qq cannot be trusted to reach {} from this machine",
        astray.named
    );
    UserError::new(Kind::Usage, message).caused_by(&astray.why).hint(
        "add --via rest, with --ca-file PEM or --tls-fingerprint sha256:HEX to verify the cluster; for this node's own cluster, omit host and port",
    )
}

fn trust_error(error: &TrustError) -> UserError {
    let kind = match error {
        TrustError::CaFile(_, CaFileError::Unreadable(input::Error::Interrupted(kind))) => *kind,
        TrustError::NoAuthorities(_) | TrustError::CaFile(..) => Kind::Usage,
        TrustError::Library(_) => Kind::Internal,
    };
    let (path, why) = match error {
        TrustError::NoAuthorities(_) => {
            return told(kind, error).hint(
                "install the package ca-certificates, trust the cluster's CA with --ca-file PEM, or pin the cluster's certificate with --tls-fingerprint",
            );
        }
        TrustError::Library(_) => return told(kind, error),
        TrustError::CaFile(path, why) => (quote_path(path), why),
    };
    let convert = |options: &str| format!("convert it: `openssl {options} -in {path} -out ca.pem`");
    told(kind, error).hint(match why {
        CaFileError::Unreadable(_) => "check the path, and that you may read the file".to_owned(),
        CaFileError::Der => convert("x509 -inform der"),
        CaFileError::OpensslTrusted => convert("x509"),
        CaFileError::Pkcs7 => convert("pkcs7 -print_certs"),
        CaFileError::Utf16 => format!("convert it: `iconv -f utf-16 -t utf-8 {path} >ca.pem`"),
        CaFileError::Empty
        | CaFileError::NotX509
        | CaFileError::CutOff
        | CaFileError::Malformed => {
            "it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)".to_owned()
        }
    })
}

/// The message and the causes of an error.
fn told(kind: Kind, error: &(dyn std::error::Error + 'static)) -> UserError {
    let told = UserError::new(kind, error.to_string());
    match error.source() {
        Some(source) => told.caused_by(source),
        None => told,
    }
}

fn credentials_error(error: &credentials::Error, log_in: String) -> UserError {
    match error {
        credentials::Error::Unreadable(_, input::Error::Interrupted(kind)) => told(*kind, error),
        _ => told(Kind::Auth, error).hint(log_in),
    }
}

/// What to do about a failed handshake.
fn handshake_hint(error: HandshakeError) -> &'static str {
    match error {
        HandshakeError::NotTls => {
            "check --host and --port: --via rest needs the cluster's HTTPS port (8000 by default)"
        }
        HandshakeError::Version => {
            "enable TLS 1.2 or TLS 1.3 on the server, or check --host and --port"
        }
        HandshakeError::NothingInCommon => {
            "on the server, enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, and use a certificate with an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; --via qq without --ca-file and --tls-fingerprint may work with others, but does not verify certificates"
        }
        HandshakeError::ClientCertificate(_) => {
            "qkey cannot present one; check --host and --port, or bypass the gateway that asks for it"
        }
        HandshakeError::HostName => {
            "check --host: use a host name that the cluster is configured with"
        }
        HandshakeError::Protocol => {
            "check --host and --port: the REST API of a cluster speaks HTTP/1.1"
        }
        HandshakeError::Damaged => {
            "check the network, and any proxy or firewall that inspects TLS connections"
        }
        HandshakeError::NoCertificate
        | HandshakeError::Alert(_)
        | HandshakeError::Violation
        | HandshakeError::Internal => {
            "check --host and --port: another service may be listening there; otherwise, check the server's TLS settings"
        }
    }
}
