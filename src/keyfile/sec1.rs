//! SEC1: the `ECPrivateKey` of RFC 5915, which `openssl ec` and `openssl ecparam -genkey` write.

use der::{Tagged, asn1::AnyRef};
use zeroize::Zeroizing;

use super::{Error, PrivateKey};
use crate::encoding::{asn1, curve};

pub(crate) const NAME: &str = "SEC1 private key";
pub(crate) const LABEL: &str = "EC PRIVATE KEY";

/// The members of an `ECPrivateKey`.
struct EcPrivateKey<'a> {
    scalar: &'a [u8],
    parameters: Option<AnyRef<'a>>,
    public: Option<&'a [u8]>,
}

impl<'a> EcPrivateKey<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let members = asn1::sequence(der)?;
        let [version, scalar, ref optional @ ..] = members[..] else {
            return None;
        };
        if asn1::small(version)? != 1 {
            return None;
        }
        let mut key = Self {
            scalar: asn1::octets(scalar)?,
            parameters: None,
            public: None,
        };
        for &member in optional {
            if member.tag() == asn1::explicit(0) {
                key.parameters = Some(asn1::inside(member)?);
            } else if member.tag() == asn1::explicit(1) {
                key.public = Some(asn1::whole_bits(asn1::inside(member)?)?);
            } else {
                return None;
            }
        }
        Some(key)
    }
}

/// Takes the DER and the curve and public part from its context (an `EC PARAMETERS` block or the PKCS#8
/// structure), which must match what is inside.
///
/// A key without a named curve is on P-256 if its public part matches: on another curve, the same
/// scalar has a different public part.
pub(crate) fn decode(
    der: &[u8],
    parameters_beside: Option<AnyRef<'_>>,
    public_beside: Option<&[u8]>,
) -> Result<PrivateKey, Error> {
    let malformed = || Error::Malformed(NAME.into());
    let key = EcPrivateKey::read(der).ok_or_else(malformed)?;
    for parameters in [parameters_beside, key.parameters].into_iter().flatten() {
        curve::check(parameters).map_err(|error| match error {
            curve::Error::Not(other) => Error::NotP256(other),
            curve::Error::Malformed => malformed(),
        })?;
    }
    let public: Vec<&[u8]> = [key.public, public_beside].into_iter().flatten().collect();
    let private_key = PrivateKey::from_parts(key.scalar, &public);
    let curve_is_named = parameters_beside.is_some() || key.parameters.is_some();
    match private_key {
        Ok(_) if !curve_is_named && public.is_empty() => Err(Error::NoCurve),
        Err(_) if !curve_is_named => Err(Error::NoCurve),
        other => other,
    }
}

/// DER with the curve's name and the public part.
pub(crate) fn encode(key: &PrivateKey) -> Zeroizing<Vec<u8>> {
    key.secret()
        .to_sec1_der()
        .expect("a P-256 key always has a SEC1 form")
}
