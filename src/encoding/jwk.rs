//! JSON Web Keys on an elliptic curve (RFC 7517; RFC 7518, section 6.2).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::NotP256;

/// Its name in messages.
pub(crate) const NAME: &str = "JSON Web Key";

/// The parts of a JWK that count here, borrowed from its text so that no copy is left behind.
#[derive(Deserialize)]
struct Members<'a> {
    kty: &'a str,
    crv: Option<&'a str>,
    x: Option<&'a str>,
    y: Option<&'a str>,
    d: Option<&'a str>,
    k: Option<&'a str>,
}

/// A JWK Set (RFC 7517, section 5).
#[derive(Deserialize)]
struct Set<'a> {
    #[serde(borrow)]
    keys: Vec<Members<'a>>,
}

/// A JWK that claims to be an elliptic-curve key on P-256.
pub(crate) struct Jwk {
    /// The uncompressed point (SEC 1, section 2.3.3).
    pub(crate) point: Vec<u8>,
    /// The private scalar, big-endian.
    pub(crate) scalar: Option<Zeroizing<Vec<u8>>>,
}

/// Why a JWK is not one on P-256.
pub(crate) enum Error {
    /// Another kind of key, and whether it is a private one.
    NotP256 {
        private: bool,
        kind: NotP256,
    },
    Malformed,
}

/// Each key of a JWK or a JWK Set; `None` if `text` is neither.
pub(crate) fn read(text: &str) -> Option<Vec<Result<Jwk, Error>>> {
    let keys = match serde_json::from_str::<Set>(text) {
        Ok(set) => set.keys,
        Err(_) => vec![serde_json::from_str(text).ok()?],
    };
    Some(keys.iter().map(key).collect())
}

fn key(members: &Members) -> Result<Jwk, Error> {
    let private = members.d.is_some() || members.k.is_some();
    let not_p256 = |kind| Err(Error::NotP256 { private, kind });
    match (members.kty, members.crv) {
        ("EC", Some("P-256")) => {}
        ("EC" | "OKP", Some(curve @ ("Ed25519" | "Ed448" | "X25519" | "X448"))) => {
            return not_p256(NotP256::Algorithm(curve.to_owned()));
        }
        ("EC", Some(curve)) => return not_p256(NotP256::Curve(curve.to_owned())),
        ("EC", None) => return Err(Error::Malformed),
        ("oct", _) => return not_p256(NotP256::Algorithm("a symmetric key".to_owned())),
        (other, _) => return not_p256(NotP256::Algorithm(other.to_owned())),
    }
    let coordinate = |digits: Option<&str>| {
        let bytes = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(digits?).ok()?);
        // Some programs leave leading zeros out.
        let mut padded = Zeroizing::new(vec![0; 32]);
        padded[32_usize.checked_sub(bytes.len())?..].copy_from_slice(&bytes);
        Some(padded)
    };
    let malformed = || Error::Malformed;
    let x = coordinate(members.x).ok_or_else(malformed)?;
    let y = coordinate(members.y).ok_or_else(malformed)?;
    let scalar = match members.d {
        Some(_) => Some(coordinate(members.d).ok_or_else(malformed)?),
        None => None,
    };
    Ok(Jwk {
        point: [&[4], x.as_slice(), y.as_slice()].concat(),
        scalar,
    })
}
