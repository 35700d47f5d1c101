use crate::encoding::{Foreign, NotP256, PublicPart as Public};

/// Why a key file gives no private key, or a private key no file. Each is one line that names what
/// was found and has nothing secret in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
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
    #[error("the {0} has no END line of its own")]
    NoEnd(String),
    #[error("a PEM block without its BEGIN line")]
    NoBegin,
    #[error("the {0} is not Base64 inside")]
    NotBase64(String),
    #[error("the {0} is cut short or damaged")]
    Malformed(String),
    #[error("neither PEM, DER, Base64 of DER, nor an OpenSSH key")]
    Unrecognized,
    #[error("the private key does not say which curve it is on")]
    NoCurve,
    #[error("the public part of the key does not belong to its private part")]
    PublicMismatch,
    #[error("the private number of the key is 0 or too large for P-256")]
    ScalarOutOfRange,
    #[error("the private key is encrypted with {scheme}, which qkey does not read")]
    UnsupportedEncryption {
        scheme: String,
        remedy: &'static str,
    },
    #[error("the passphrase's key derivation takes {asked}, and qkey stops at {limit}")]
    TooCostly {
        asked: String,
        limit: String,
        remedy: &'static str,
    },
    #[error("{0} cannot be encrypted with an empty passphrase")]
    EmptyPassphrase(&'static str),
}

const MAKE_ONE: &str = "make an ECDSA P-256 key: `qkey generate key.pem`";

/// Encrypts any PKCS#8 or SEC1 key anew, with what this program reads.
pub(crate) const REENCRYPT: &str =
    "encrypt it anew: `openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out key.pem`";
/// The same for schemes that OpenSSL 3 keeps in its legacy provider.
pub(crate) const REENCRYPT_LEGACY: &str = "encrypt it anew: `openssl pkcs8 -topk8 -v2 aes-256-cbc \
                                           -provider legacy -provider default -in FILE -out key.pem`";
/// The same for OpenSSH's own format.
pub(crate) const REENCRYPT_OPENSSH: &str =
    "encrypt it anew, in place: `ssh-keygen -p -Z aes256-ctr -a 16 -f FILE`";

impl Error {
    /// How to get what is needed, with a command to run where there is one. `FILE` in it stands
    /// for the file that was read.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Empty | Self::NotP256(_) | Self::ScalarOutOfRange => MAKE_ONE,
            Self::WrongPassphrase => {
                "to try a passphrase elsewhere: `openssl pkey -in FILE -noout`, or for OpenSSH's \
                 format `ssh-keygen -y -f FILE`"
            }
            Self::NoPrivateKey(found) => match found.first() {
                Some(Public::Key) => {
                    "the private key is in a file of its own, often of the same name without .pub"
                }
                Some(Public::Certificate | Public::Request) => {
                    "the private key is in a file of its own, often of the same name with .key"
                }
                _ => MAKE_ONE,
            },
            Self::SeveralKeys(_) => {
                "leave one private key in the file, or copy it to one of its own"
            }
            Self::Foreign(foreign) => return foreign.hint().map(str::to_owned),
            Self::NoEnd(_) | Self::NoBegin | Self::NotBase64(_) | Self::Malformed(_) => {
                "compare it with its original; of a sound key, `openssl pkey -in FILE -noout` says \
                 nothing, and `ssh-keygen -y -f FILE` its public half"
            }
            Self::Unrecognized => {
                "a key file is what openssl or ssh-keygen write for an ECDSA P-256 key, or `qkey \
                 generate key.pem`"
            }
            Self::NoCurve => {
                "if it is a P-256 key, put its curve in front: `openssl ecparam -name prime256v1 \
                 -out key.pem`, then `cat FILE >> key.pem`"
            }
            Self::PublicMismatch => {
                "if the private part is the right one, drop the other: `openssl ec -in FILE \
                 -no_public -out key.pem`"
            }
            Self::UnsupportedEncryption { remedy, .. } | Self::TooCostly { remedy, .. } => remedy,
            Self::EmptyPassphrase(_) => "give a passphrase, or leave the key unencrypted",
        };
        Some(hint.to_owned())
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
