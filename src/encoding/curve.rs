//! The curve of a key, by name or explicit parameters, and points on P-256.

use der::{
    Tag, Tagged,
    asn1::{AnyRef, ObjectIdentifier},
};
use p256::ecdsa::VerifyingKey;

use super::{asn1, oids};

/// What a key is instead of ECDSA P-256. The message continues "the private key is" or "the
/// public key is".
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotP256 {
    /// A key for another algorithm, by its common name.
    #[error("{0}, not ECDSA P-256")]
    Algorithm(String),
    /// A key on another curve, by its common name.
    #[error("on the curve {0}, not P-256")]
    Curve(String),
    /// A key on explicit curve parameters, and which of them differs from P-256.
    #[error("on explicit curve parameters that are not P-256: {0} differs")]
    ExplicitCurve(String),
    /// A key inside a FIDO security key, by its OpenSSH type.
    #[error("on a FIDO security key ({0}), which signs more than the challenge")]
    SecurityKey(String),
    /// An SSH certificate, by its OpenSSH type.
    #[error("a certificate ({0}), not the key itself")]
    Certificate(String),
}

const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const PRIME_FIELD: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.1.1");

/// The domain parameters of P-256 in hexadecimal (SEC 2, version 2.0, section 2.4.2: secp256r1).
mod domain {
    pub(super) const P: &str = "FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF";
    pub(super) const A: &str = "FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFC";
    pub(super) const B: &str = "5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B";
    pub(super) const GX: &str = "6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296";
    pub(super) const GY: &str = "4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5";
    pub(super) const N: &str = "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551";
}

/// Accepts the `ECParameters` (SEC 1, version 2.0, section C.2; RFC 5480, section 2.1.1) of P-256: by
/// name, or written out in full, as older versions of `ssh-keygen` did. `None` if they are malformed.
pub(crate) fn check(parameters: AnyRef<'_>) -> Option<Result<(), NotP256>> {
    match parameters.tag() {
        Tag::ObjectIdentifier => Some(match parameters.decode_as().ok()? {
            P256 => Ok(()),
            oid => Err(NotP256::Curve(oids::name(oid, ""))),
        }),
        Tag::Sequence => difference(parameters).map(|difference| match difference {
            None => Ok(()),
            Some(what) => Err(NotP256::ExplicitCurve(what)),
        }),
        _ => None,
    }
}

/// Whether a `SEQUENCE` with these members is explicit curve parameters.
pub(crate) fn is_explicit(members: &[AnyRef<'_>]) -> bool {
    use Tag::{Integer, OctetString, Sequence};
    let tags: Vec<Tag> = members.iter().map(Tagged::tag).collect();
    tags.starts_with(&[Integer, Sequence, Sequence, OctetString, Integer])
}

/// How a `SpecifiedECDomain` (SEC 1, version 2.0, section C.2) differs from P-256, if it does; `None`
/// if it is not such a structure.
///
/// The seed does not affect the curve and is ignored. Everything else is compared: with P-256's points
/// and another generator, anyone could make a private key for a given public key (CVE-2020-0601).
fn difference(parameters: AnyRef<'_>) -> Option<Option<String>> {
    let members = asn1::members(parameters)?;
    if !is_explicit(&members) {
        return None;
    }
    let (field_type, field) = asn1::algorithm(members[1])?;
    if field_type != PRIME_FIELD {
        return Some(Some("the kind of its field".into()));
    }
    let prime = asn1::unsigned(field?)?;
    let [a, b, ..] = asn1::members(members[2])?[..] else {
        return None;
    };
    let cofactor = match members.get(5) {
        Some(member) if member.tag() == Tag::Integer => Some(asn1::small(*member)?),
        _ => None,
    };

    let what = if hex(prime) != domain::P {
        format!("the prime of its field ({} bits)", bits(prime))
    } else if hex(asn1::octets(a)?) != domain::A {
        "its coefficient a".into()
    } else if hex(asn1::octets(b)?) != domain::B {
        "its coefficient b".into()
    } else if !is_generator(members[3].value()) {
        "its generator".into()
    } else if hex(asn1::unsigned(members[4])?) != domain::N {
        "its order".into()
    } else if cofactor.is_some_and(|cofactor| cofactor != 1) {
        "its cofactor".into()
    } else {
        return Some(None);
    };
    Some(Some(what))
}

fn is_generator(point: &[u8]) -> bool {
    match point {
        // y is odd.
        [0x03, x @ ..] => hex(x) == domain::GX,
        [0x04 | 0x07, xy @ ..] => hex(xy) == [domain::GX, domain::GY].concat(),
        _ => false,
    }
}

fn hex(digits: &[u8]) -> String {
    base16ct::upper::encode_string(digits)
}

fn bits(digits: &[u8]) -> usize {
    let zeros = digits.first().map_or(0, |first| first.leading_zeros());
    digits.len() * 8 - zeros as usize
}

/// A point on P-256 (SEC 1, version 2.0, section 2.3.4; X9.62, section 4.3.6): compressed,
/// uncompressed or hybrid.
pub(crate) fn point(bytes: &[u8]) -> Option<VerifyingKey> {
    match bytes {
        // The form says whether y is odd.
        [form @ (0x06 | 0x07), xy @ ..] if form & 1 == xy.last()? & 1 => {
            VerifyingKey::from_sec1_bytes(&[&[0x04], xy].concat()).ok()
        }
        [0x06 | 0x07, ..] => None,
        _ => VerifyingKey::from_sec1_bytes(bytes).ok(),
    }
}
