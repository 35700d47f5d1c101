//! Which kind of key a file holds, by the identifiers that PKCS#8, SubjectPublicKeyInfo and OpenSSH
//! give it.

use der::asn1::ObjectIdentifier;

use super::{
    curve::NotP256,
    ssh_public::{self, SSH_P256},
};

/// `id-ecPublicKey` (RFC 5480, section 2.1.1).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// Takes the algorithm of a PKCS#8 or SubjectPublicKeyInfo structure, and lets the one pass that
/// elliptic-curve keys have.
pub(crate) fn check(oid: ObjectIdentifier) -> Result<(), NotP256> {
    if oid == EC_PUBLIC_KEY {
        return Ok(());
    }
    let oid = oid.to_string();
    let name = match oid.as_str() {
        "1.2.840.113549.1.1.1" => "RSA",
        "1.2.840.113549.1.1.10" => "RSA-PSS",
        "1.2.840.10040.4.1" => "DSA",
        "1.2.840.113549.1.3.1" => "Diffie-Hellman",
        "1.3.132.1.12" => "ECDH",
        "1.3.101.110" => "X25519",
        "1.3.101.111" => "X448",
        "1.3.101.112" => "Ed25519",
        "1.3.101.113" => "Ed448",
        "2.16.840.1.101.3.4.3.17" => "ML-DSA-44",
        "2.16.840.1.101.3.4.3.18" => "ML-DSA-65",
        "2.16.840.1.101.3.4.3.19" => "ML-DSA-87",
        other => return Err(NotP256::Algorithm(format!("of the algorithm {other}"))),
    };
    Err(NotP256::Algorithm(name.into()))
}

/// Takes the type that an OpenSSH key starts with, and lets ECDSA P-256 pass.
pub(crate) fn check_ssh(key_type: &str) -> Result<(), NotP256> {
    let name = match key_type {
        SSH_P256 => return Ok(()),
        "ecdsa-sha2-nistp384" => return Err(NotP256::Curve("P-384 (secp384r1)".into())),
        "ecdsa-sha2-nistp521" => return Err(NotP256::Curve("P-521 (secp521r1)".into())),
        "ssh-rsa" => "RSA",
        "ssh-dss" => "DSA",
        "ssh-ed25519" => "Ed25519",
        "ssh-ed448" => "Ed448",
        _ if ssh_public::is_certificate(key_type) => {
            return Err(NotP256::Certificate(key_type.into()));
        }
        _ if key_type.starts_with("sk-") || key_type.starts_with("webauthn-sk-") => {
            return Err(NotP256::SecurityKey(key_type.into()));
        }
        other => return Err(NotP256::Algorithm(format!("of the OpenSSH type {other}"))),
    };
    Err(NotP256::Algorithm(name.into()))
}
