//! Which kind of key a file contains, by the identifiers of PKCS#8, SubjectPublicKeyInfo and OpenSSH.

use der::asn1::ObjectIdentifier;

use super::{
    curve::NotP256,
    oids,
    ssh_public::{self, SSH_P256},
};

/// `id-ecPublicKey` (RFC 5480, section 2.1.1).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// Accepts the algorithm of a PKCS#8 or SubjectPublicKeyInfo structure if it is that of elliptic-curve
/// keys.
pub(crate) fn check(oid: ObjectIdentifier) -> Result<(), NotP256> {
    match oid {
        EC_PUBLIC_KEY => Ok(()),
        oid => Err(NotP256::Algorithm(oids::name(oid, "of the algorithm "))),
    }
}

/// Accepts the type that an OpenSSH key starts with if it is ECDSA P-256.
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
