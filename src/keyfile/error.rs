use crate::encoding::{Foreign, NotP256, PublicPart as Public};

/// Why a key file cannot be read or written. Each message is one line that names what was found and
/// contains no secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message of each variant documents it")]
pub enum Error {
    #[error("the file is empty")]
    Empty,
    #[error("wrong passphrase")]
    WrongPassphrase,
    #[error("the private key is {0}")]
    NotP256(NotP256),
    #[error("no private key in the file, only {}", list(.0))]
    NoPrivateKey(Vec<Public>),
    #[error("{0} private keys in one file")]
    SeveralKeys(usize),
    #[error("{0}, which qkey does not read")]
    Foreign(Foreign),
    #[error("a PEM block of the kind {0}, which qkey does not read")]
    UnknownPrivate(String),
    #[error("the {0} has no matching END line")]
    NoEnd(String),
    #[error("a PEM block without a BEGIN line")]
    NoBegin,
    #[error("the {0} is not valid Base64")]
    NotBase64(String),
    #[error("the {0} is truncated or damaged")]
    Malformed(String),
    #[error("neither PEM, DER, Base64 of DER, nor an OpenSSH key")]
    Unrecognized,
    #[error("the private key does not name its curve")]
    NoCurve,
    #[error("the public and private parts of the key do not match")]
    PublicMismatch,
    #[error("the private scalar is 0 or too large for P-256")]
    ScalarOutOfRange,
    #[error("the private key is encrypted with {scheme}, which qkey does not read")]
    UnsupportedEncryption {
        scheme: String,
        remedy: &'static str,
    },
    #[error("key derivation needs {asked}; the limit is {limit}")]
    TooCostly {
        asked: String,
        limit: String,
        remedy: &'static str,
    },
    #[error("{0} cannot be encrypted with an empty passphrase")]
    EmptyPassphrase(&'static str),
}

const MAKE_ONE: &str = "create an ECDSA P-256 key: `qkey generate key.pem`";

/// Re-encrypts a PKCS#8 or SEC1 key with a scheme that this program reads.
pub(crate) const REENCRYPT: &str =
    "re-encrypt it: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out key.pem`";
/// The same for schemes that OpenSSL 3 keeps in its legacy provider.
pub(crate) const REENCRYPT_LEGACY: &str = "re-encrypt it: `openssl pkcs8 -topk8 -v2 aes-256-cbc \
                                           -provider legacy -provider default -in FILE -out key.pem`";
/// The same for OpenSSH's own format.
pub(crate) const REENCRYPT_OPENSSH: &str =
    "re-encrypt it in place: `ssh-keygen -p -Z aes256-ctr -a 16 -f FILE`";

impl Error {
    /// The next step, with a command if there is one, where `FILE` is a placeholder for the file that
    /// was read.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Empty | Self::NotP256(_) | Self::ScalarOutOfRange => MAKE_ONE,
            Self::WrongPassphrase => {
                "to test a passphrase: `openssl pkey -in FILE -noout`, or for OpenSSH's format \
                 `ssh-keygen -y -f FILE`"
            }
            Self::NoPrivateKey(found) => match found.first() {
                Some(Public::Key) => {
                    "the private key is in another file, often with the same name without .pub"
                }
                Some(Public::Certificate | Public::Certificates | Public::Request) => {
                    "the private key is in another file, often with the same name and .key"
                }
                _ => MAKE_ONE,
            },
            Self::SeveralKeys(_) => "keep one private key in the file, or copy it to a new file",
            Self::Foreign(foreign) => return foreign.hint(),
            Self::UnknownPrivate(_) => {
                "export the key as PKCS#8 PEM with the program that wrote it"
            }
            Self::NoEnd(_) | Self::NoBegin | Self::NotBase64(_) | Self::Malformed(_) => {
                "compare it with the original, or check it: `openssl pkey -in FILE -noout`, or for \
                 OpenSSH's format `ssh-keygen -y -f FILE`"
            }
            Self::Unrecognized => {
                "use an ECDSA P-256 key file from openssl, ssh-keygen, or `qkey generate key.pem`"
            }
            Self::NoCurve => {
                "if it is a P-256 key, prepend its curve: `openssl ecparam -name prime256v1 \
                 -out key.pem`, then `cat FILE >> key.pem`"
            }
            Self::PublicMismatch => {
                "if the private part is the right one, drop the other: `openssl ec -in FILE \
                 -no_public -out key.pem`"
            }
            Self::UnsupportedEncryption { remedy, .. } | Self::TooCostly { remedy, .. } => remedy,
            Self::EmptyPassphrase(_) => "use a passphrase, or leave the key unencrypted",
        })
    }

    pub(crate) fn unsupported(scheme: impl Into<String>, remedy: &'static str) -> Self {
        let scheme = scheme.into();
        Self::UnsupportedEncryption { scheme, remedy }
    }

    pub(crate) fn too_costly(asked: String, limit: impl ToString, remedy: &'static str) -> Self {
        let limit = limit.to_string();
        Self::TooCostly {
            asked,
            limit,
            remedy,
        }
    }
}

fn list(found: &[Public]) -> String {
    let mut names: Vec<String> = Vec::new();
    for name in found.iter().map(Public::to_string) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" and ")
}
