//! Identifies the blocks of a key file by their contents; labels count only if the contents cannot be
//! read.

use der::{
    Tag, Tagged,
    asn1::{AnyRef, ObjectIdentifier},
};

use super::{
    asn1, curve,
    pem::Block,
    ssh_public::{self, OPENSSH_MAGIC},
};

/// What a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    Sec1,
    Pkcs8,
    EncryptedPkcs8,
    /// PEM with `Proc-Type: 4,ENCRYPTED`; the key may be an elliptic-curve key.
    LegacyEncrypted,
    Openssh,
    /// A private key in a form that cannot be P-256.
    OtherPrivate(&'static str),
    /// A format that may contain a P-256 key but is not read here.
    Foreign(Foreign),
    /// Labeled as a private key, with unreadable contents.
    DamagedPrivate,
    /// Labeled as a private key of a kind that is unknown here, with unreadable contents.
    UnknownPrivate(String),
    /// Not a private key.
    Public(Public),
}

/// A format that may contain a P-256 key but is not read here.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Foreign {
    /// PKCS#12 (RFC 7292), also called PFX.
    #[error("a PKCS#12 archive")]
    Pkcs12,
    /// A `.ppk` file of PuTTY.
    #[error("a PuTTY private key")]
    Putty,
    /// The format of the former SSH Communications Security.
    #[error("an ssh.com private key")]
    SshCom,
    /// An OpenPGP transferable secret key (RFC 9580).
    #[error("an OpenPGP private key")]
    OpenPgp,
    /// A key wrapped by a TPM, as `openssl` with a TPM 2.0 provider writes.
    #[error("a private key that only its TPM can load")]
    Tpm,
    /// A keystore of Java's `keytool` in one of its own formats, JKS and JCEKS.
    #[error("a Java keystore")]
    JavaKeystore,
    /// Encrypted data in the Cryptographic Message Syntax (RFC 5652).
    #[error("CMS encrypted data")]
    Cms,
    /// An OpenPGP encrypted message (RFC 9580).
    #[error("an OpenPGP encrypted message")]
    OpenPgpMessage,
    /// A file encrypted by `age`.
    #[error("a file encrypted with age")]
    Age,
    /// A file encrypted by SOPS.
    #[error("a file encrypted with SOPS")]
    Sops,
    /// A file encrypted by `ansible-vault`.
    #[error("a file encrypted with ansible-vault")]
    AnsibleVault,
    /// JSON Web Encryption (RFC 7516).
    #[error("an encrypted JSON Web Key (JWE)")]
    Jwe,
}

impl Foreign {
    /// How to extract the key, if possible.
    pub(crate) fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::Pkcs12 => "extract the key: `openssl pkcs12 -in FILE -nocerts -out key.pem`",
            Self::Putty => "convert it: `puttygen FILE -O private-openssh -o key`",
            Self::SshCom => "convert it: `ssh-keygen -i -f FILE > key.pem`",
            Self::Tpm => {
                "use the `openssl` program, with the key source openssl:FILE?provider=tpm2,default"
            }
            Self::JavaKeystore => {
                "convert it: `keytool -importkeystore -srckeystore FILE -destkeystore key.p12 \
                 -deststoretype pkcs12`, then `openssl pkcs12 -in key.p12 -nocerts -out key.pem`"
            }
            Self::Cms => "decrypt it with `openssl cms -decrypt` and the recipient's key",
            Self::OpenPgpMessage => "decrypt it: `gpg --output key.pem --decrypt FILE`",
            Self::Age => "decrypt it: `age --decrypt -i IDENTITY -o key.pem FILE`",
            Self::Sops => "decrypt it: `sops --output key.pem --decrypt FILE`",
            Self::AnsibleVault => "decrypt it: `ansible-vault decrypt --output key.pem FILE`",
            Self::Jwe => "decrypt it with the program that encrypted it",
            Self::OpenPgp => return None,
        })
    }
}

/// A part of a key file that is not secret.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Public {
    /// A public key, in any form.
    #[error("a public key")]
    Key,
    /// An X.509 certificate (RFC 5280).
    #[error("a certificate")]
    Certificate,
    /// Certificates in PKCS#7 signed data (RFC 2315).
    #[error("PKCS#7 certificates")]
    Certificates,
    /// A PKCS#10 certificate signing request (RFC 2986).
    #[error("a certificate signing request")]
    Request,
    /// The curve that a key would be on.
    #[error("curve parameters")]
    Parameters,
    /// A PEM block of another kind, by its label.
    #[error("a PEM block of the kind {0}")]
    Other(String),
    /// DER of another kind.
    #[error("DER of an unknown kind")]
    OtherDer,
}

/// How PKCS#12 starts if it is written in BER with indefinite lengths.
pub(crate) const PKCS12_IN_BER: &[u8] = &[0x30, 0x80, 0x02, 0x01, 0x03];

/// Identifies `block`.
pub(crate) fn identify(block: &Block) -> BlockKind {
    let label = block.label.as_deref().unwrap_or_default();
    match label {
        "RSA PRIVATE KEY" => return BlockKind::OtherPrivate("RSA"),
        "DSA PRIVATE KEY" => return BlockKind::OtherPrivate("DSA"),
        "PGP PRIVATE KEY BLOCK" => return BlockKind::Foreign(Foreign::OpenPgp),
        "PGP MESSAGE" => return BlockKind::Foreign(Foreign::OpenPgpMessage),
        "AGE ENCRYPTED FILE" => return BlockKind::Foreign(Foreign::Age),
        "TSS2 PRIVATE KEY" | "TSS2 KEY BLOB" => return BlockKind::Foreign(Foreign::Tpm),
        _ if block.header("Proc-Type").is_some() => return BlockKind::LegacyEncrypted,
        _ => {}
    }
    let data = block.data.as_ref().ok();
    let kind = data.and_then(|data| identify_data(data));
    kind.unwrap_or_else(|| {
        BlockKind::Public(match label {
            "" if data.is_some() => Public::OtherDer,
            "" => return BlockKind::DamagedPrivate,
            "PRIVATE KEY" | "EC PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" | "OPENSSH PRIVATE KEY" => {
                return BlockKind::DamagedPrivate;
            }
            _ if label.contains("PRIVATE KEY") => {
                return BlockKind::UnknownPrivate(label.to_owned());
            }
            "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => Public::Certificate,
            "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => Public::Certificates,
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Public::Request,
            "PUBLIC KEY" | "RSA PUBLIC KEY" | "PGP PUBLIC KEY BLOCK" => Public::Key,
            "EC PARAMETERS" => Public::Parameters,
            _ => Public::Other(label.to_owned()),
        })
    })
}

pub(crate) fn identify_data(data: &[u8]) -> Option<BlockKind> {
    use Tag::{BitString, Integer, OctetString, Sequence};

    if data.starts_with(OPENSSH_MAGIC) {
        return Some(BlockKind::Openssh);
    }
    if data.starts_with(PKCS12_IN_BER) {
        return Some(BlockKind::Foreign(Foreign::Pkcs12));
    }
    if asn1::values(data)?.first()?.tag() == Tag::ObjectIdentifier {
        return Some(BlockKind::Public(Public::Parameters));
    }
    let members = asn1::sequence(data)?;
    let tags: Vec<Tag> = members.iter().map(Tagged::tag).collect();
    Some(match tags[..] {
        _ if curve::is_explicit(&members) => BlockKind::Public(Public::Parameters),
        [Integer, OctetString, ..] => BlockKind::Sec1,
        [Integer, Sequence, OctetString, ..] => BlockKind::Pkcs8,
        [Sequence, OctetString] => BlockKind::EncryptedPkcs8,
        [Sequence, BitString] => BlockKind::Public(Public::Key),
        [Sequence, Sequence, BitString] => BlockKind::Public(certificate_or_request(members[0])?),
        [Integer, Sequence] | [Integer, Sequence, Sequence]
            if asn1::small(members[0]) == Some(3) =>
        {
            BlockKind::Foreign(Foreign::Pkcs12)
        }
        [Integer, Integer] => BlockKind::Public(Public::Key),
        _ if tags == [Integer; 6] => BlockKind::OtherPrivate("DSA"),
        _ if tags == [Integer; 9] => BlockKind::OtherPrivate("RSA"),
        [Tag::ObjectIdentifier, ..] => match members[0].decode_as().ok()? {
            oid if TPM_KEYS.contains(&oid) => BlockKind::Foreign(Foreign::Tpm),
            SIGNED_DATA => BlockKind::Public(Public::Certificates),
            oid if ENCRYPTED_DATA.contains(&oid) => BlockKind::Foreign(Foreign::Cms),
            _ => return None,
        },
        _ => return None,
    })
}

/// Loadable, importable, and sealed keys: the `TPMKey` that TPM 2.0 engines and providers write
/// (<https://www.hansenpartnership.com/draft-bottomley-tpm2-keys.html>, section 4).
const TPM_KEYS: [ObjectIdentifier; 3] = [
    ObjectIdentifier::new_unwrap("2.23.133.10.1.3"),
    ObjectIdentifier::new_unwrap("2.23.133.10.1.4"),
    ObjectIdentifier::new_unwrap("2.23.133.10.1.5"),
];

/// `signedData` (RFC 5652, section 5.1).
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

/// `envelopedData`, `encryptedData`, and `authEnvelopedData` (RFC 5652, sections 6.1 and 8; RFC 5083).
const ENCRYPTED_DATA: [ObjectIdentifier; 3] = [
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.3"),
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.6"),
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.23"),
];

/// Distinguishes the two by their first members: `[0] version` or a serial number (RFC 5280, section
/// 4.1), or a version and then a name (RFC 2986, section 4.1).
fn certificate_or_request(to_be_signed: AnyRef<'_>) -> Option<Public> {
    let members = asn1::members(to_be_signed)?;
    let tags: Vec<Tag> = members.iter().map(Tagged::tag).collect();
    let version = asn1::explicit(0);
    match tags[..] {
        [Tag::Integer, Tag::Sequence, Tag::Sequence, last] if last == version => {
            Some(Public::Request)
        }
        [first, ..] if first == version || first == Tag::Integer => Some(Public::Certificate),
        _ => None,
    }
}

/// How a public key in the format of RFC 4716 starts.
pub(crate) const SSH2_PUBLIC_KEY: &str = "---- BEGIN SSH2 PUBLIC KEY";

/// Identifies a text without a PEM block.
pub(crate) fn identify_text(text: &str) -> Option<BlockKind> {
    let text = text.trim_start();
    Some(match text {
        _ if text.starts_with("PuTTY-User-Key-File-") => BlockKind::Foreign(Foreign::Putty),
        _ if text.starts_with("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY") => {
            BlockKind::Foreign(Foreign::SshCom)
        }
        _ if text.starts_with(SSH2_PUBLIC_KEY) => BlockKind::Public(Public::Key),
        _ if !ssh_public::lines(text).is_empty() => BlockKind::Public(Public::Key),
        _ if text.starts_with("$ANSIBLE_VAULT;") => BlockKind::Foreign(Foreign::AnsibleVault),
        _ if text.contains("ENC[AES256_GCM,") => BlockKind::Foreign(Foreign::Sops),
        _ if is_jwe(text) => BlockKind::Foreign(Foreign::Jwe),
        _ => return None,
    })
}

/// JWE in its compact or one of its JSON serializations (RFC 7516, section 7).
fn is_jwe(text: &str) -> bool {
    let compact = text.starts_with("eyJ") && text.trim_end().split('.').count() == 5;
    compact || (text.starts_with('{') && text.contains("\"ciphertext\""))
}

/// Identifies a file that is neither text nor DER, by how it starts.
pub(crate) fn identify_binary(bytes: &[u8]) -> Option<Foreign> {
    match bytes {
        [0xfe, 0xed, 0xfe, 0xed, ..] | [0xce, 0xce, 0xce, 0xce, ..] => Some(Foreign::JavaKeystore),
        _ if bytes.starts_with(b"age-encryption.org/") => Some(Foreign::Age),
        // A packet's tag in the old or the new format, its length, and the version of its contents
        // (RFC 9580, sections 4.2, 5.1, 5.3, and 5.5).
        [0x94, _, 3..=6, ..] | [0x95, _, _, 3..=6, ..] => Some(Foreign::OpenPgp),
        [0xc5, ..192, 3..=6, ..] | [0xc5, 192..224, _, 3..=6, ..] => Some(Foreign::OpenPgp),
        [0x84 | 0x8c, _, 3..=6, ..] | [0x85, _, _, 3..=6, ..] => Some(Foreign::OpenPgpMessage),
        [0xc1 | 0xc3, ..192, 3..=6, ..] | [0xc1, 192..224, _, 3..=6, ..] => {
            Some(Foreign::OpenPgpMessage)
        }
        _ => None,
    }
}
