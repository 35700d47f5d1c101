//! Why a certificate is not trusted, in words, and what can be done about it.

use std::{fmt, path::PathBuf};

use rustls::pki_types::{ServerName, UnixTime};

use super::{
    Fingerprint,
    certificate::{Moment, Names, cut},
};
use crate::text::{printable, quoted};

/// A certificate that is not believed to be the cluster's.
#[derive(Clone, Debug)]
pub struct Untrusted {
    pub fingerprint: Fingerprint,
    pub reason: Reason,
}

/// Where the certificates that are trusted come from.
#[derive(Clone, Debug)]
pub enum Origin {
    System,
    File(PathBuf),
}

/// Which certificate of those that the server shows.
#[derive(Clone, Debug)]
pub enum Which {
    /// The server's own.
    Own,
    /// The one of the authority with this name.
    Authority(String),
}

/// Why a certificate is not trusted.
#[derive(Clone, Debug)]
pub enum Reason {
    /// Another one is pinned.
    NotPinned(Fingerprint),
    /// It is signed with its own key.
    SelfSigned(Origin),
    /// It is signed with its own key; those trusted with its name are others.
    Replaced(Origin, Vec<Fingerprint>),
    /// The authority that its chain ends with is not trusted.
    UnknownIssuer {
        issuer: String,
        /// Whether the server sent certificates of authorities too.
        chain: bool,
        origin: Origin,
    },
    /// An authority of this name is trusted, but another key has signed it.
    OtherIssuer(String, Origin),
    Expired {
        which: Which,
        since: UnixTime,
        now: UnixTime,
    },
    NotYetValid {
        which: Which,
        until: UnixTime,
        now: UnixTime,
    },
    /// Its validity ends before it begins.
    NeverValid,
    WrongName {
        expected: ServerName<'static>,
        names: Names,
    },
    /// X.509 version 1 has no place for the names of hosts.
    OldVersion,
    /// An RSA key with so many bits.
    KeyLength(Which, usize),
    /// A key of a kind that cannot be used.
    Key(String),
    /// A signature of a kind that cannot be verified, where known with the key that made it.
    Signature {
        which: Which,
        signature: String,
        key: Option<String>,
    },
    /// It is an authority's.
    Authority,
    /// It was issued with a certificate that is not an authority's.
    NotAnAuthority,
    PathLength,
    NameConstraints,
    /// It is not for servers.
    Purpose,
    CriticalExtension,
    /// The server has not signed the handshake with its key.
    Unproven,
    /// It is not well-formed.
    Malformed,
    /// Finding out would take too long.
    TooComplex,
    /// There is no word for it here.
    Other,
}

/// What helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// To pin it, or to trust its authority.
    Authority,
    /// To pin it, or to trust the certificate itself.
    Itself,
    /// To pin it, or to put it in the place of the one that is trusted.
    Replacement,
    /// To pin it, or to set the clock.
    Clock,
    /// To pin it, or to renew it.
    Renewal,
    /// To pin it, or to use one of its names.
    Name,
    /// To pin it, or another certificate.
    Pin,
    /// To pin the new one, if that is what it is.
    NewPin,
    /// Another certificate.
    OtherCertificate,
    /// To find out who answers.
    Suspicion,
}

impl Reason {
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NotPinned(_) => Remedy::NewPin,
            Self::UnknownIssuer { .. } | Self::OtherIssuer(..) => Remedy::Authority,
            Self::SelfSigned(_) | Self::Authority => Remedy::Itself,
            Self::Replaced(..) => Remedy::Replacement,
            Self::NotYetValid { .. } => Remedy::Clock,
            Self::Expired { .. } => Remedy::Renewal,
            Self::WrongName { names, .. } if !names.is_empty() => Remedy::Name,
            Self::KeyLength(Which::Own, _) | Self::Key(_) | Self::Malformed => {
                Remedy::OtherCertificate
            }
            Self::Unproven => Remedy::Suspicion,
            _ => Remedy::Pin,
        }
    }
}

impl std::error::Error for Reason {}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPinned(pinned) => write!(f, "it is not the pinned certificate, {pinned}"),
            Self::SelfSigned(Origin::System) => {
                f.write_str("it is self-signed, and this system does not trust it")
            }
            Self::SelfSigned(Origin::File(path)) => {
                write!(f, "it is self-signed, and not in {}", path.display())
            }
            Self::Replaced(origin, known) => {
                match origin {
                    Origin::System => f.write_str("this system trusts ")?,
                    Origin::File(path) => write!(f, "{} contains ", path.display())?,
                }
                let known: Vec<_> = known.iter().map(Fingerprint::to_string).collect();
                write!(
                    f,
                    "another certificate with the same name, {}",
                    known.join(" and ")
                )
            }
            Self::UnknownIssuer {
                issuer,
                chain: true,
                origin,
            } => write!(f, "its chain ends at {issuer}, {}", origin.does_not_trust()),
            Self::UnknownIssuer {
                issuer,
                chain: false,
                origin,
            } => write!(
                f,
                "it was issued by {issuer}, {}, and the server sent no intermediate certificates",
                origin.does_not_trust()
            ),
            Self::OtherIssuer(issuer, origin) => {
                let trusted = match origin {
                    Origin::System => "that this system trusts".to_owned(),
                    Origin::File(path) => format!("in {}", path.display()),
                };
                write!(
                    f,
                    "it was not signed by the CA {issuer} {trusted}, but by another one with the same name"
                )
            }
            Self::Expired { which, since, now } => write!(
                f,
                "{which} expired on {}; this machine's clock says {}",
                Moment(*since),
                Moment(*now)
            ),
            Self::NotYetValid { which, until, now } => write!(
                f,
                "{which} is not valid before {}; this machine's clock says {}",
                Moment(*until),
                Moment(*now)
            ),
            Self::NeverValid => f.write_str("its validity period ends before it begins"),
            Self::WrongName { expected, names } => names.explain(expected, f),
            Self::OldVersion => f.write_str(
                "it is an X.509 version 1 certificate, which cannot list host names (subject alternative names)",
            ),
            Self::KeyLength(which, bits) => {
                match which {
                    Which::Own => f.write_str("its RSA key")?,
                    Which::Authority(_) => write!(f, "the RSA key of {which}")?,
                }
                match bits {
                    ..2048 => write!(
                        f,
                        " is too short ({bits} bits); at least 2048 bits are needed"
                    ),
                    _ => write!(f, " is too long ({bits} bits); at most 8192 are supported"),
                }
            }
            Self::Key(key) => write!(f, "its key type, {key}, is not supported"),
            Self::Signature {
                which,
                signature,
                key,
            } => {
                match which {
                    Which::Own => write!(f, "its signature algorithm, {signature}")?,
                    Which::Authority(_) => {
                        write!(f, "the signature algorithm of {which}, {signature}")?;
                    }
                }
                if let Some(key) = key {
                    write!(f, " and a {key} key")?;
                }
                f.write_str(", is not supported")
            }
            Self::Authority => f.write_str(
                "it is a CA certificate, which is accepted as a server's only if --ca-file contains it",
            ),
            Self::NotAnAuthority => f.write_str("the certificate that issued it is not a CA's"),
            Self::PathLength => {
                f.write_str("its chain is longer than a CA in it allows (path length constraint)")
            }
            Self::NameConstraints => f.write_str(
                "a CA in its chain may not issue certificates for its names (name constraints)",
            ),
            Self::Purpose => {
                f.write_str("it is not for servers (its extended key usage lacks serverAuth)")
            }
            Self::CriticalExtension => {
                f.write_str("it has a critical extension that qkey does not support")
            }
            Self::Unproven => {
                f.write_str("the server did not prove that it holds the certificate's private key")
            }
            Self::Malformed => f.write_str("it is not a well-formed X.509 certificate"),
            Self::TooComplex => f.write_str("its chain is too complex to verify"),
            Self::Other => f.write_str("it does not pass verification"),
        }
    }
}

impl Origin {
    fn does_not_trust(&self) -> String {
        match self {
            Self::System => "which this system does not trust".to_owned(),
            Self::File(path) => format!("which is not in {}", path.display()),
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

impl Names {
    fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.addresses.is_empty()
    }

    /// Why the expected one is not among them.
    fn explain(&self, expected: &ServerName<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More are not shown.
        const MOST: usize = 5;
        let expected = expected.to_str();
        if self.is_empty() {
            f.write_str("it lists no host names or addresses (subject alternative names)")?;
            return match &self.common_name {
                Some(name) => write!(
                    f,
                    "; its common name, {}, does not count",
                    quoted(&cut(name))
                ),
                None => Ok(()),
            };
        }
        if self.dns.iter().any(|name| *name == expected) {
            return write!(f, "it lists {expected} as a DNS name, not as an IP address");
        }
        let addresses = self.addresses.iter().map(ToString::to_string);
        let names = self.dns.iter().map(|name| printable(&cut(name)));
        let mut shown: Vec<_> = names.chain(addresses).collect();
        let more = shown.len().saturating_sub(MOST);
        shown.truncate(MOST);
        write!(f, "it is for {}", shown.join(", "))?;
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        write!(f, ", not for {expected}")
    }
}
