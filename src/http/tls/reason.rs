//! Why a certificate is not trusted.

use std::{fmt, path::PathBuf};

use rustls::pki_types::{ServerName, UnixTime};

use super::{
    Fingerprint,
    certificate::{Names, cut, moment},
};
use crate::text::{printable, quoted};

/// A refused certificate.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Untrusted {
    pub fingerprint: Fingerprint,
    pub reason: Reason,
}

/// Where the trusted certificates come from.
#[derive(Clone, Debug, Default)]
pub(crate) enum Origin {
    #[default]
    System,
    File(PathBuf),
}

impl Origin {
    /// `system`, or `file` with the path in place of `{}`.
    fn words(&self, system: &str, file: &str) -> String {
        match self {
            Self::System => system.to_owned(),
            Self::File(path) => file.replace("{}", &path.display().to_string()),
        }
    }

    fn does_not_trust(&self) -> String {
        self.words("which this system does not trust", "which is not in {}")
    }
}

/// A certificate in the chain.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    /// The server's own certificate.
    Own,
    /// The certificate of the CA with this name.
    Authority(String),
}

impl Which {
    /// A part of the certificate.
    fn part(&self, part: &str) -> String {
        match self {
            Self::Own => format!("its {part}"),
            Self::Authority(_) => format!("the {part} of {self}"),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("it"),
            Self::Authority(name) => write!(f, "the CA certificate {name}"),
        }
    }
}

/// Why a certificate is not trusted.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Reason {
    #[error("it is not the pinned certificate, {pinned}")]
    NotPinned {
        pinned: Fingerprint,
        /// Whether this one could be pinned instead.
        usable: bool,
    },
    #[error("it is self-signed, and {}", .0.words("this system does not trust it", "not in {}"))]
    SelfSigned(Origin),
    /// It is self-signed, and these other certificates with its name are trusted.
    #[error(
        "{} another certificate with the same name, {}",
        .0.words("this system trusts", "{} contains"),
        .1.iter().map(Fingerprint::to_string).collect::<Vec<_>>().join(" and ")
    )]
    Replaced(Origin, Vec<Fingerprint>),
    /// The CA at the end of its chain is not trusted.
    #[error("its chain ends at {issuer}, {}", origin.does_not_trust())]
    UnknownIssuer { issuer: String, origin: Origin },
    /// The same, but the server sent no CA certificates.
    #[error(
        "it was issued by {issuer}, {}, and the server sent no intermediate certificates",
        origin.does_not_trust()
    )]
    NoIntermediates { issuer: String, origin: Origin },
    /// A CA with this name is trusted, but another key signed the certificate.
    #[error(
        "it was not signed by the CA {issuer} {}, but by another one with the same name",
        origin.words("that this system trusts", "in {}")
    )]
    OtherIssuer { issuer: String, origin: Origin },
    #[error(
        "{which} expired on {}; this machine's clock says {}",
        moment(not_after),
        moment(time)
    )]
    Expired {
        which: Which,
        not_after: UnixTime,
        time: UnixTime,
    },
    #[error(
        "{which} is not valid before {}; this machine's clock says {}",
        moment(not_before),
        moment(time)
    )]
    NotYetValid {
        which: Which,
        not_before: UnixTime,
        time: UnixTime,
    },
    #[error("its validity period ends before it begins")]
    NeverValid,
    #[error("{}", names.mismatch(expected))]
    WrongName {
        expected: ServerName<'static>,
        names: Box<Names>,
    },
    #[error(
        "it is an X.509 version 1 certificate, which cannot list host names (subject alternative names)"
    )]
    OldVersion,
    /// An RSA key of an unsupported length in bits.
    #[error("{} {}", .0.part("RSA key"), misfit(*.1))]
    KeyLength(Which, usize),
    #[error("its key type, {0}, is not supported")]
    Key(String),
    /// An unsupported signature algorithm, with the type of the signing key if known.
    #[error(
        "{}, {signature}{}, is not supported",
        which.part("signature algorithm"),
        key.as_ref().map(|key| format!(" and a {key} key")).unwrap_or_default()
    )]
    Signature {
        which: Which,
        signature: String,
        key: Option<String>,
    },
    #[error(
        "it is a CA certificate, which is accepted as a server's only if --ca-file contains it"
    )]
    Authority,
    #[error("it was issued by a certificate that is not a CA certificate")]
    NotAnAuthority,
    #[error("its chain is longer than a CA in it allows (path length constraint)")]
    PathLength,
    #[error("a CA in its chain may not issue certificates for its names (name constraints)")]
    NameConstraints,
    #[error("it is not for servers (its extended key usage lacks serverAuth)")]
    Purpose,
    #[error("it has a critical extension that qkey does not support")]
    CriticalExtension,
    #[error("the server did not prove that it holds the certificate's private key")]
    Unproven,
    #[error("it is not a well-formed X.509 certificate")]
    Malformed,
    #[error("its chain is too complex to verify")]
    TooComplex,
    #[error("it does not pass verification")]
    Other,
}

/// What is wrong with the length of an RSA key.
fn misfit(bits: usize) -> String {
    match bits {
        ..2048 => format!("is too short ({bits} bits); at least 2048 bits are needed"),
        _ => format!("is too long ({bits} bits); at most 8192 are supported"),
    }
}

impl Names {
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.addresses.is_empty()
    }

    /// Explains that they do not include the expected name.
    fn mismatch(&self, expected: &ServerName<'_>) -> String {
        /// The maximum number of names shown.
        const MOST: usize = 5;
        let expected = expected.to_str();
        if self.is_empty() {
            let none = "it lists no host names or addresses (subject alternative names)";
            return match &self.common_name {
                Some(name) => {
                    let name = quoted(&cut(name));
                    format!("{none}; its common name, {name}, does not count")
                }
                None => none.to_owned(),
            };
        }
        if self.dns.iter().any(|name| *name == expected) {
            return format!("it lists {expected} as a DNS name, not as an IP address");
        }
        let addresses = self.addresses.iter().map(ToString::to_string);
        let names = self.dns.iter().map(|name| printable(&cut(name)));
        let mut shown: Vec<_> = names.chain(addresses).collect();
        let more = match shown.len().saturating_sub(MOST) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        shown.truncate(MOST);
        format!("it is for {}{more}, not for {expected}", shown.join(", "))
    }
}
