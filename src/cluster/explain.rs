//! What users are told about failures: the only place in this module that turns them into messages,
//! hints, and exit codes.

use std::{error::Error as StdError, fmt::Display, io, time::Duration};

use rustix::io::Errno;

use super::{
    Check, Error,
    call::Call,
    failure::{Failure, Unexpected},
    qq::node::Astray,
    reply::Limit,
    rest::credentials,
};
use crate::{
    error::{Error as UserError, Kind},
    http::{
        self, proxy,
        tls::{CaFileError, HandshakeError, Reason, TrustError, Untrusted, Which},
    },
    input, subprocess,
    text::{quote_path, quoted},
};

/// A cluster as messages and hints name it.
pub struct Site {
    /// `HOST:PORT`.
    pub address: String,
    /// Where the token comes from, or where qkey looked for one; `None` if unknown.
    pub login: Option<String>,
    /// How to log in.
    pub log_in: String,
    /// For each call.
    pub timeout: Duration,
    /// See [`Cluster::check_command`](super::Cluster::check_command).
    pub check_command: Box<dyn Fn(Check<'_>) -> String + Send + Sync>,
    pub transport: Transport,
}

/// How qkey reaches a [`Site`].
pub enum Transport {
    /// `qq` with the options that select the cluster.
    Qq(String),
    /// With `HOST:PORT` of the proxy, and the environment variable that names it.
    Rest(Option<(String, &'static str)>),
}

const WAIT_LONGER: &str =
    "check whether the cluster responds, or give it more time with --timeout SECONDS";
const NOT_READY: &str = "the cluster, or a proxy in front of it, is not ready; try again later";
const WRONG_SERVICE: &str = "check --host and --port: a proxy or another service may respond there";

impl Site {
    /// A failed call, with what to tell the user.
    pub(super) fn error(&self, call: Call<'_>, failure: Failure) -> Error {
        let error = self.explain(call, &failure).because(failure.reason());
        Error::new(failure.certainty(), error)
    }

    fn explain(&self, call: Call<'_>, failure: &Failure) -> UserError {
        let address = &self.address;
        let unreachable = |message: String| about(call, Kind::Unreachable, message);
        match failure {
            Failure::Api(api) => {
                let refused = |kind| about(call, kind, format!("{address} refused to {call}"));
                let failed = |kind| about(call, kind, format!("{address} failed to {call}"));
                let error = match api.status {
                    401 => self.not_logged_in(),
                    403 => {
                        let message = format!("{address} denied permission to {call}");
                        about(call, Kind::Auth, message).hint(format!(
                            "log in as a user whose role includes {}; role changes take effect at the next login",
                            call.privilege()
                        ))
                    }
                    404 => self.not_found(call, refused(Kind::Refused)),
                    429 => refused(Kind::Unreachable).hint(NOT_READY),
                    408 | 502..=504 => failed(Kind::Unreachable).hint(NOT_READY),
                    ..500 => refused(Kind::Refused).hint(
                        "nothing was changed; fix what the cluster reports, then run this again",
                    ),
                    500.. => failed(Kind::Refused).hint(
                        "the cluster reports an internal problem; check its health, then run this again",
                    ),
                };
                error.caused_by(api)
            }
            Failure::Unexpected(what @ Unexpected::Status { status: 401, .. }, _) => {
                self.not_logged_in().caused_by(what)
            }
            Failure::Unexpected(what, _) => {
                let error = self.unexpected(call).caused_by(what);
                match what {
                    Unexpected::Body { .. } => error.maybe_hint(self.by_hand(call)),
                    _ => error,
                }
            }
            Failure::TooLarge(what) => self.too_large(what),
            Failure::Connection(failure) => self.connection(call, failure),
            Failure::Astray(elsewhere) => astray(elsewhere),
            Failure::Qq(failure) => self.qq_failed(call, failure),
            Failure::QqCredentials(words) => {
                let message = format!("qq cannot read its credentials for {address}: {words}");
                UserError::new(Kind::Auth, message).hint(&self.log_in)
            }
            Failure::QqError(words) => {
                unreachable(format!("qq failed to {call}: {words}")).maybe_hint(self.by_hand(call))
            }
            Failure::QqCrash(words) => {
                unreachable(format!("qq crashed during the request to {call}: {words}"))
                    .maybe_hint(self.by_hand(call))
            }
            Failure::QqWithoutHost => no_cluster(),
            Failure::QqCommand => {
                let message = format!("this qq has no command {}", call.qq_command());
                UserError::new(Kind::Unreachable, message).hint(
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
        }
    }

    fn unexpected(&self, call: Call<'_>) -> UserError {
        let address = &self.address;
        let message = format!("unexpected reply from {address} to the request to {call}");
        about(call, Kind::Unreachable, message).hint(WRONG_SERVICE)
    }

    fn too_large(&self, what: &str) -> UserError {
        let message = format!("the reply from {} is too large: {what}", self.address);
        UserError::new(Kind::Unreachable, message)
            .hint(format!("a cluster sends far less; {WRONG_SERVICE}"))
    }

    fn not_logged_in(&self) -> UserError {
        let login = self.login.as_ref().map(|login| format!(" ({login})"));
        let login = login.unwrap_or_default();
        let message = format!("not logged in to {}{login}", self.address);
        UserError::new(Kind::Auth, message).hint(&self.log_in)
    }

    fn not_found(&self, call: Call<'_>, refused: UserError) -> UserError {
        let missing = |what: String, list: &str| {
            let message = format!("{what} does not exist on {}", self.address);
            refused.clone().with_message(message).hint(list.to_owned())
        };
        let keys = format!("`{}` shows what exists", (self.check_command)(Check::Keys));
        let snapshots = match &self.transport {
            Transport::Qq(qq) => format!("`{qq} snapshot_list_statuses` shows what exists"),
            // qkey lists only those that a key protects.
            Transport::Rest(_) => format!(
                "`{}` shows which snapshots are locked",
                (self.check_command)(Check::Snapshots)
            ),
        };
        match call {
            Call::Snapshot(id) => missing(format!("snapshot {id}"), &snapshots),
            Call::KeyUsage(id) => missing(format!("key {id}"), &keys),
            Call::ReplacementChallenge(key) => missing(key.title(), &keys),
            Call::UnlockChallenge(_) | Call::Unlock(..) | Call::Lock(..) => refused.hint(snapshots),
            Call::Keys | Call::AddKey(_) | Call::ReplaceKey(..) | Call::UnlockedSnapshots => {
                refused.hint(keys)
            }
        }
    }

    fn connection(&self, call: Call<'_>, failure: &http::Failure) -> UserError {
        use http::Failure as Http;
        let address = &self.address;
        let unreachable = |message: String| about(call, Kind::Unreachable, message);
        let stopped = |kind: &Kind, when: &str| {
            let message = format!("interrupted {when} the request to {call}");
            about(call, *kind, message).hint("nothing was submitted by this step; run this again")
        };
        let lost = |why: &dyn Display| {
            unreachable(format!(
                "lost the connection to {address} during the request to {call}: {why}"
            ))
            .hint(
                "check whether the cluster is up, and whether a proxy or firewall cuts connections",
            )
        };
        match failure {
            Http::UnknownHost(cause) | Http::NotConnected(cause) => self.unreachable(cause),
            Http::Closed => {
                self.unreachable(&"the connection was closed before a request was sent")
            }
            Http::NoDescriptor(cause) => self
                .unreachable(cause)
                .hint("qkey reached its limit of open files: lower --jobs, or raise `ulimit -n`"),
            Http::RefusedByProxy(status) => {
                let error = self.unreachable(&format_args!("it responded with {status}"));
                match &self.transport {
                    Transport::Rest(Some((_, variable))) if status.as_u16() == 407 => {
                        error.hint(format!(
                            "set the proxy's user and password in {variable}: http://USER:PASSWORD@HOST:PORT"
                        ))
                    }
                    _ => error,
                }
            }
            Http::NotConnectedWithin(within) => {
                let error =
                    self.unreachable(&format_args!("no connection within {} s", within.as_secs()));
                // Connecting has its own limit, which --timeout does not raise.
                if *within < self.timeout {
                    error
                } else {
                    error.hint(WAIT_LONGER)
                }
            }
            Http::NoTls(error) => self.unreachable(error).hint(handshake_hint(*error)),
            Http::Untrusted(untrusted) => self.untrusted(untrusted),
            Http::NoTurnWithin(within) | Http::TimedOut(within) => unreachable(format!(
                "no reply from {address} within {} s to the request to {call}",
                within.as_secs()
            ))
            .hint(WAIT_LONGER),
            Http::StoppedBefore(kind) => stopped(kind, "before"),
            Http::StoppedDuring(kind) => stopped(kind, "during"),
            Http::Lost(cause) => lost(cause),
            Http::Truncated => lost(&"it was closed before the whole response had arrived"),
            Http::TooLong => self.too_large(&Limit::of(call).exceeded()),
            Http::NotHttp(cause) => self.unexpected(call).caused_by(&**cause),
        }
    }

    fn unreachable(&self, why: &dyn Display) -> UserError {
        let (through, hint) = match &self.transport {
            Transport::Rest(Some((proxy, variable))) => (
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
            Reason::UnknownIssuer { .. }
            | Reason::NoIntermediates { .. }
            | Reason::OtherIssuer { .. } => {
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

    /// `qq` did not say what was wrong.
    fn qq_failed(&self, call: Call<'_>, failure: &subprocess::Failure) -> UserError {
        use subprocess::Failure::{CouldNotRun, Killed, NotExecutable, NotFound, TimedOut};
        let error = about(call, Kind::Unreachable, format!("qq failed to {call}"));
        let error = error.caused_by(failure);
        match failure {
            CouldNotRun { source, .. } if is_exhaustion(source) => {
                let message = format!("cannot start qq to {call}: out of memory or threads");
                about(call, Kind::Internal, message).caused_by(source).hint(
                    "nothing was sent; raise the limit (see `ulimit -a`) or free memory, then run this again",
                )
            }
            NotFound { .. } | NotExecutable { .. } | CouldNotRun { .. } => {
                error.hint("give the path of qq with --qq PATH or QKEY_QQ")
            }
            TimedOut { .. } => error.hint(WAIT_LONGER),
            Killed { .. } => error.hint(
                "find out what killed it (out of memory? a limit? an administrator?), then run this again",
            ),
            _ => error.maybe_hint(self.by_hand(call)),
        }
    }

    /// A way to check `qq`, if that is the transport.
    fn by_hand(&self, call: Call<'_>) -> Option<String> {
        match &self.transport {
            Transport::Qq(qq) => Some(format!(
                "check that `{qq} {} --help` works; if it does, run this again with -vv and report the output",
                call.qq_command()
            )),
            Transport::Rest(_) => None,
        }
    }
}

/// An error whose message names the call.
fn about(call: Call<'_>, kind: Kind, message: String) -> UserError {
    UserError::new(kind, message).naming(call.subject())
}

/// Whether the system is out of memory, threads, or processes.
fn is_exhaustion(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| [Errno::AGAIN, Errno::NOMEM].contains(&errno))
}

pub fn no_cluster() -> UserError {
    UserError::new(Kind::Usage, "no cluster selected").hint(
        "give --host HOST, set QKEY_HOST, or add the cluster to the configuration file (`qkey config init`)",
    )
}

pub fn invalid_host(host: &str) -> UserError {
    let message = format!("{} is not a valid host name", quoted(host));
    UserError::new(Kind::Usage, message)
        .hint("give only the name or address; use --port for the port")
}

pub fn no_qq(failure: &subprocess::Failure) -> UserError {
    let hint = match failure {
        subprocess::Failure::NotFound { .. } => {
            "install it with `pip install qumulo-api`, give its path with --qq PATH or QKEY_QQ, or use --via rest, which does not need it"
        }
        _ => "give the path of the qq program itself with --qq PATH or QKEY_QQ",
    };
    UserError::new(Kind::Unreachable, "cannot run qq")
        .caused_by(failure)
        .hint(hint)
}

pub fn astray(astray: &Astray) -> UserError {
    told(Kind::Usage, astray).hint(
        "add --via rest, with --ca-file PEM or --tls-fingerprint sha256:HEX to verify the cluster; for this node's own cluster, omit host and port",
    )
}

pub fn unusable_proxy(unusable: &proxy::Unusable) -> UserError {
    told(Kind::Usage, unusable)
        .hint("it must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")
}

pub fn no_trust(error: &TrustError) -> UserError {
    use CaFileError as File;
    let (path, why) = match error {
        TrustError::NoAuthorities(_) => {
            return told(Kind::Usage, error).hint(
                "install the package ca-certificates, trust the cluster's CA with --ca-file PEM, or pin the cluster's certificate with --tls-fingerprint",
            );
        }
        TrustError::Library(_) => return told(Kind::Internal, error),
        TrustError::CaFile(path, why) => (quote_path(path), why),
    };
    let convert = |options: &str| format!("convert it: `openssl {options} -in {path} -out ca.pem`");
    let hint = match why {
        File::Unreadable(_) => "check the path, and that you may read the file".to_owned(),
        File::Der => convert("x509 -inform der"),
        File::OpensslTrusted => convert("x509"),
        File::Pkcs7 => convert("pkcs7 -print_certs"),
        File::Utf16 => format!("convert it: `iconv -f utf-16 -t utf-8 {path} >ca.pem`"),
        File::Empty | File::NotX509 | File::CutOff | File::Malformed => {
            "it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)".to_owned()
        }
    };
    let kind = match why {
        File::Unreadable(input::Error::Interrupted(kind)) => *kind,
        _ => Kind::Usage,
    };
    told(kind, error).hint(hint)
}

pub fn no_credentials(error: &credentials::Error, log_in: &str) -> UserError {
    match error {
        credentials::Error::Unreadable(_, input::Error::Interrupted(kind)) => told(*kind, error),
        _ => told(Kind::Auth, error).hint(log_in),
    }
}

/// The message and the causes of an error.
fn told(kind: Kind, error: &(dyn StdError + 'static)) -> UserError {
    let told = UserError::new(kind, error.to_string());
    match error.source() {
        Some(source) => told.caused_by(source),
        None => told,
    }
}

/// What to do about a failed handshake.
fn handshake_hint(error: HandshakeError) -> &'static str {
    use HandshakeError as Tls;
    match error {
        Tls::NotTls => {
            "check --host and --port: --via rest needs the cluster's HTTPS port (8000 by default)"
        }
        Tls::Version => "enable TLS 1.2 or TLS 1.3 on the server, or check --host and --port",
        Tls::NothingInCommon => {
            "on the server, enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, and use a certificate with an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; --via qq without --ca-file and --tls-fingerprint may work with others, but does not verify certificates"
        }
        Tls::ClientCertificate(_) => {
            "qkey cannot present one; check --host and --port, or bypass the gateway that asks for it"
        }
        Tls::HostName => "check --host: use a host name that the cluster is configured with",
        Tls::Protocol => "check --host and --port: the REST API of a cluster speaks HTTP/1.1",
        Tls::Damaged => {
            "check the network, and any proxy or firewall that inspects TLS connections"
        }
        Tls::NoCertificate | Tls::Alert(_) | Tls::Violation | Tls::Internal => {
            "check --host and --port: another service may be listening there; otherwise, check the server's TLS settings"
        }
    }
}
