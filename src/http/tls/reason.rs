//! Why a certificate is not trusted.

use std::{fmt, path::PathBuf};

use rustls::pki_types::{ServerName, UnixTime};

use super::{
    Fingerprint,
    certificate::{Moment, Names, cut},
};
use crate::text::{printable, quoted};

/// A refused certificate.
#[derive(Clone, Debug)]
pub(crate) struct Untrusted {
    pub fingerprint: Fingerprint,
    pub reason: Reason,
}

/// Where the trusted certificates come from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    System,
    File(PathBuf),
}

/// A certificate in the chain.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    /// The server's own.
    Own,
    /// The CA's with this name.
    Authority(String),
}

/// Why a certificate is not trusted.
#[derive(Clone, Debug)]
pub(crate) enum Reason {
    /// Another certificate is pinned.
    NotPinned {
        pinned: Fingerprint,
        /// Whether this one could be pinned instead.
        usable: bool,
    },
    /// It is self-signed.
    SelfSigned(Origin),
    /// It is self-signed, and these other certificates with its name are trusted.
    Replaced(Origin, Vec<Fingerprint>),
    /// The CA at the end of its chain is not trusted.
    UnknownIssuer {
        issuer: String,
        /// Whether the server sent CA certificates too.
        chain: bool,
        origin: Origin,
    },
    /// A CA with this name is trusted, but another key signed the certificate.
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
        names: Box<Names>,
    },
    /// X.509 version 1 cannot list host names.
    OldVersion,
    /// An RSA key of an unsupported length in bits.
    KeyLength(Which, usize),
    /// An unsupported key type.
    Key(String),
    /// An unsupported signature algorithm, with the type of the signing key if known.
    Signature {
        which: Which,
        signature: String,
        key: Option<String>,
    },
    /// It is a CA certificate.
    Authority,
    /// Its issuer is not a CA.
    NotAnAuthority,
    PathLength,
    NameConstraints,
    /// It is not for servers.
    Purpose,
    CriticalExtension,
    /// The server did not prove that it holds the private key.
    Unproven,
    /// It is not well-formed.
    Malformed,
    /// Its chain is too complex to verify.
    TooComplex,
    /// None of the above.
    Other,
}

impl std::error::Error for Reason {}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPinned { pinned, .. } => write!(f, "it is not the pinned certificate, {pinned}"),
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
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.addresses.is_empty()
    }

    /// Says that the expected name is not among them.
    fn explain(&self, expected: &ServerName<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The maximum number of names shown.
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
