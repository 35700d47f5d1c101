//! SEC1: the `ECPrivateKey` of RFC 5915, which `openssl ec` and `openssl ecparam -genkey` write.

use der::{
    Decode, Sequence,
    asn1::{AnyRef, BitStringRef, OctetStringRef},
};
use zeroize::Zeroizing;

use super::{Error, PrivateKey};
use crate::encoding::{ber, curve};

pub(crate) const NAME: &str = "SEC1 private key";
pub(crate) const LABEL: &str = "EC PRIVATE KEY";

/// The `ECPrivateKey`.
#[derive(Sequence)]
struct EcPrivateKey<'a> {
    version: u8,
    scalar: &'a OctetStringRef,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    parameters: Option<AnyRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    public: Option<BitStringRef<'a>>,
}

/// Decodes the DER. The curve and the public part from its context (an `EC PARAMETERS` block or the
/// PKCS#8 structure) must match its own.
///
/// A key without a named curve is on P-256 if its public part matches: on another curve, the same
/// scalar has a different public part.
pub(crate) fn decode(
    der: &[u8],
    parameters_beside: Option<AnyRef<'_>>,
    public_beside: Option<&[u8]>,
) -> Result<PrivateKey, Error> {
    let malformed = || Error::Malformed(NAME.into());
    // A decrypted key, or one inside PKCS#8, may still be BER, with padding behind it.
    let (der, _) = ber::first(der).ok_or_else(malformed)?;
    let key = EcPrivateKey::from_der(&der).ok();
    let key = key.filter(|key| key.version == 1).ok_or_else(malformed)?;
    for parameters in [parameters_beside, key.parameters].into_iter().flatten() {
        let on_p256 = curve::check(parameters).ok_or_else(malformed)?;
        on_p256.map_err(Error::NotP256)?;
    }
    let public = key.public.map(|bits| bits.as_bytes().ok_or_else(malformed));
    let public = [public.transpose()?, public_beside];
    let public: Vec<&[u8]> = public.into_iter().flatten().collect();
    let private_key = PrivateKey::from_parts(key.scalar.as_bytes(), &public);
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
