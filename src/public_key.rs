//! ECDSA P-256 public keys, and the only place that converts their encodings.

use base64::{Engine, prelude::BASE64_STANDARD};
use der::{Decode, Encode, Tagged, asn1::AnyRef};
use p256::{
    ecdsa::VerifyingKey,
    pkcs8::{EncodePublicKey, LineEnding},
};

use crate::encoding::{
    Foreign, NotP256, PublicPart, algorithm, any_base64, asn1,
    contents::{self, Contents},
    curve,
    identify::{self, BlockKind, SSH2_PUBLIC_KEY},
    jwk::{self, Jwk},
    pem::{self, Block, Fault},
    ssh_public,
};

/// A point on P-256 that is a valid public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why some bytes are not an ECDSA P-256 public key. Each is one line that names what was found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message of each variant documents it")]
pub enum Error {
    #[error("the file is empty")]
    Empty,
    #[error("the public key is {0}")]
    NotP256(NotP256),
    #[error("a private key instead of a public key")]
    PrivateKey,
    #[error("{0}, which qkey does not read")]
    Foreign(Foreign),
    #[error("no public key found, only {0}")]
    NoPublicKey(PublicPart),
    #[error("{0} different public keys in one file")]
    SeveralKeys(usize),
    #[error("the {0} has no matching END line")]
    NoEnd(String),
    #[error("the {0} is not valid Base64")]
    NotBase64(String),
    #[error("no PEM block")]
    NotPem,
    #[error("the {0} is truncated or damaged")]
    Malformed(String),
    #[error("the point of the public key is not on P-256")]
    NotAPoint,
    #[error("neither PEM, DER, Base64 of DER, nor an OpenSSH public key")]
    Unrecognized,
}

impl Error {
    /// The next step, with a command if there is one, where `FILE` is a placeholder for the file that
    /// was read.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::PrivateKey => "extract its public half: `qkey pubkey FILE`",
            Self::Foreign(foreign) => return foreign.hint(),
            Self::NoPublicKey(PublicPart::Request) => {
                "extract its public key: `openssl req -in FILE -noout -pubkey -out public.pem`"
            }
            Self::SeveralKeys(_) => "keep one public key in the file",
            Self::NoEnd(_) | Self::NotBase64(_) | Self::Malformed(_) | Self::NotAPoint => {
                "compare it with the original, or extract it from the private key again: `qkey \
                 pubkey KEY`"
            }
            Self::Empty
            | Self::NotP256(_)
            | Self::NoPublicKey(_)
            | Self::NotPem
            | Self::Unrecognized => "use the public half of an ECDSA P-256 key: `qkey pubkey KEY`",
        })
    }
}

impl PublicKey {
    /// Decodes DER SubjectPublicKeyInfo (RFC 5480): P-256 by name or explicit parameters; the point
    /// uncompressed, compressed or hybrid.
    ///
    /// # Errors
    /// [`Error::NotP256`], [`Error::NotAPoint`] or [`Error::Malformed`].
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let members = asn1::sequence(der).ok_or_else(malformed)?;
        let [algorithm, point] = members[..] else {
            return Err(malformed());
        };
        if asn1::unsigned(algorithm).is_some() {
            // RFC 8017, appendix A.1.1: the modulus comes first.
            return Err(Error::NotP256(NotP256::Algorithm("RSA".into())));
        }
        let (oid, parameters) = asn1::algorithm(algorithm).ok_or_else(malformed)?;
        algorithm::check(oid).map_err(Error::NotP256)?;
        let on_p256 = parameters.and_then(curve::check).ok_or_else(malformed)?;
        on_p256.map_err(Error::NotP256)?;
        Self::from_sec1(asn1::whole_bits(point).ok_or_else(malformed)?)
    }

    /// Decodes a point (SEC 1, section 2.3.3): uncompressed (65 bytes), compressed (33) or hybrid.
    ///
    /// # Errors
    /// [`Error::NotAPoint`].
    pub fn from_sec1(point: &[u8]) -> Result<Self, Error> {
        curve::point(point).map(Self).ok_or(Error::NotAPoint)
    }

    /// Decodes the attributes of an elliptic-curve key in PKCS#11 (version 3.1, section 6.3.3):
    /// `CKA_EC_PARAMS`, the DER of the curve, and `CKA_EC_POINT`, the point in a DER OCTET STRING, or
    /// with some modules the bare point (SEC 1, section 2.3.3).
    ///
    /// # Errors
    /// [`Error::NotP256`], [`Error::NotAPoint`] or [`Error::Malformed`].
    pub fn from_pkcs11(ec_params: &[u8], ec_point: &[u8]) -> Result<Self, Error> {
        let parameters = AnyRef::from_der(ec_params).ok();
        let on_p256 = parameters.and_then(curve::check).ok_or_else(malformed)?;
        on_p256.map_err(Error::NotP256)?;
        // By the length: a bare point can start like an OCTET STRING.
        match ec_point.len() {
            33 | 65 => Self::from_sec1(ec_point),
            _ => {
                let wrapped = AnyRef::from_der(ec_point).ok().and_then(asn1::octets);
                Self::from_sec1(wrapped.ok_or_else(malformed)?)
            }
        }
    }

    /// Decodes the members x and y of a JSON Web Key on P-256 (RFC 7518, section 6.2.1): 32 bytes each,
    /// in Base64 of either alphabet, padded or not.
    ///
    /// # Errors
    /// [`Error::NotBase64`], [`Error::NotAPoint`] or [`Error::Malformed`].
    pub fn from_jwk(x: &str, y: &str) -> Result<Self, Error> {
        let mut point = vec![0x04];
        for text in [x, y] {
            let member = any_base64::decode(text);
            let member = member.ok_or_else(|| Error::NotBase64("public key".into()))?;
            if member.len() != 32 {
                return Err(malformed());
            }
            point.extend(member);
        }
        Self::from_sec1(&point)
    }

    /// Decodes a public key as a cluster shows it: one line of padded Base64 of the DER
    /// SubjectPublicKeyInfo. White space around it is ignored.
    ///
    /// # Errors
    /// [`Error::NotBase64`], and those of [`Self::from_der`].
    pub fn from_base64(text: &str) -> Result<Self, Error> {
        let der = BASE64_STANDARD.decode(text.trim());
        Self::from_der(&der.map_err(|_| Error::NotBase64("public key".into()))?)
    }

    /// Reads text with a PEM block (RFC 7468) of a public key or an X.509 certificate.
    ///
    /// # Errors
    /// [`Error::NotPem`], and those of [`Self::from_any`].
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        match pem::blocks(text.as_bytes())[..] {
            [] => Err(Error::NotPem),
            ref blocks => Self::from_blocks(blocks),
        }
    }

    /// Reads a public key in any encoding: SubjectPublicKeyInfo or an X.509 certificate in PEM, DER or
    /// Base64 of DER (one line or more), a line in OpenSSH's format (`ecdsa-sha2-nistp256 AAAA…`, RFC
    /// 5656), a block of RFC 4716, or a JSON Web Key. A byte-order mark, any line ends and surrounding
    /// text are tolerated; a private key in the same file is ignored.
    ///
    /// # Errors
    /// An [`Error`] that names what was found, unless that is exactly one ECDSA P-256 public key. The
    /// same key more than once, for example also in a certificate, counts as one.
    pub fn from_any(bytes: &[u8]) -> Result<Self, Error> {
        match contents::read(bytes) {
            Contents::Empty => Err(Error::Empty),
            Contents::Blocks(blocks) => Self::from_blocks(&blocks),
            Contents::Text(text) => match jwk::read(&text) {
                Some(keys) => Self::from_jwks(keys),
                None => Self::from_ssh_text(&text),
            },
            Contents::Binary => {
                let foreign = identify::identify_binary(bytes);
                Err(foreign.map_or(Error::Unrecognized, Error::Foreign))
            }
        }
    }

    /// Decodes a public key as SSH sends it (RFC 5656, section 3.1).
    ///
    /// # Errors
    /// [`Error::NotP256`], [`Error::NotAPoint`] or [`Error::Malformed`].
    pub fn from_ssh(blob: &[u8]) -> Result<Self, Error> {
        let malformed = || Error::Malformed("OpenSSH public key".into());
        let key_type = ssh_public::key_type(blob).ok_or_else(malformed)?;
        algorithm::check_ssh(key_type).map_err(Error::NotP256)?;
        Self::from_sec1(ssh_public::point(blob).ok_or_else(malformed)?)
    }

    fn from_blocks(blocks: &[Block]) -> Result<Self, Error> {
        let mut keys = Vec::new();
        let mut others = Vec::new();
        for block in blocks {
            match identify::identify(block) {
                BlockKind::Public(PublicPart::Key) => keys.push(Self::from_der(data(block)?)?),
                BlockKind::Public(PublicPart::Certificate) => {
                    keys.push(Self::from_certificate(data(block)?)?);
                }
                BlockKind::Public(other) => others.push(Err(Error::NoPublicKey(other))),
                BlockKind::Foreign(foreign) => others.push(Err(Error::Foreign(foreign))),
                BlockKind::DamagedPrivate if block.label.is_none() => {
                    others.push(Err(Error::Malformed("DER".into())));
                }
                _ => others.push(Err(Error::PrivateKey)),
            }
        }
        only(keys).unwrap_or_else(|| others.pop().unwrap_or(Err(Error::Unrecognized)))
    }

    /// Reads the public key in the DER of an X.509 certificate (RFC 5280, section 4.1), and nothing
    /// else.
    fn from_certificate(der: &[u8]) -> Result<Self, Error> {
        let key = || {
            // OpenSSL's trusted certificates have more after the certificate.
            let certificate = *asn1::values(der)?.first()?;
            let to_be_signed = *asn1::members(certificate)?.first()?;
            let mut members = asn1::members(to_be_signed)?;
            // Version 1 omits the version; serial number, signature algorithm, issuer, validity and
            // subject come before the key.
            members.retain(|member| member.tag() != asn1::explicit(0));
            members.get(5)?.to_der().ok()
        };
        Self::from_der(&key().ok_or_else(|| Error::Malformed("certificate".into()))?)
    }

    fn from_jwks(keys: Vec<Result<Jwk, jwk::Error>>) -> Result<Self, Error> {
        let keys = keys.into_iter().map(|key| match key {
            Ok(key) if key.scalar.is_some() => Err(Error::PrivateKey),
            Ok(key) => Self::from_sec1(&key.point),
            Err(jwk::Error::NotP256 { private: true, .. }) => Err(Error::PrivateKey),
            Err(jwk::Error::NotP256 { kind, .. }) => Err(Error::NotP256(kind)),
            Err(jwk::Error::Malformed) => Err(Error::Malformed(jwk::NAME.into())),
        });
        only(keys.collect::<Result<_, _>>()?).unwrap_or(Err(Error::Unrecognized))
    }

    fn from_ssh_text(text: &str) -> Result<Self, Error> {
        let malformed = || Error::Malformed("OpenSSH public key".into());
        let blobs = if text.trim_start().starts_with(SSH2_PUBLIC_KEY) {
            vec![ssh2_blob(text).ok_or_else(malformed)?]
        } else {
            ssh_public::lines(text)
        };
        let keys = blobs.iter().map(|blob| Self::from_ssh(blob));
        only(keys.collect::<Result<_, _>>()?).unwrap_or_else(|| {
            match identify::identify_text(text) {
                Some(BlockKind::Foreign(foreign)) => Err(Error::Foreign(foreign)),
                _ if text.contains(ssh_public::SSH_P256) => Err(malformed()),
                _ => Err(Error::Unrecognized),
            }
        })
    }

    /// The uncompressed point (SEC 1, section 2.3.3): 65 bytes.
    pub fn to_sec1(&self) -> Vec<u8> {
        self.0.to_sec1_point(false).as_bytes().to_vec()
    }

    /// DER SubjectPublicKeyInfo (RFC 5480), named curve, uncompressed point.
    pub fn to_der(&self) -> Vec<u8> {
        self.0
            .to_public_key_der()
            .expect("a P-256 point always has a DER form")
            .into_vec()
    }

    /// The encoding in which a cluster accepts and shows a public key: one line of padded Base64 of the
    /// DER SubjectPublicKeyInfo, without PEM lines.
    pub fn to_base64(&self) -> String {
        BASE64_STANDARD.encode(self.to_der())
    }

    /// A `PUBLIC KEY` PEM block (RFC 7468) that ends in a newline.
    pub fn to_pem(&self) -> String {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .expect("a P-256 point always has a PEM form")
    }

    /// A line as in a `.pub` file by `ssh-keygen`, without a newline at its end. White space in the
    /// comment becomes single spaces, which keeps it on one line.
    pub fn to_openssh(&self, comment: &str) -> String {
        let blob = BASE64_STANDARD.encode(self.to_ssh_blob());
        let comment: Vec<&str> = comment.split_whitespace().collect();
        let line = format!("{} {blob} {}", ssh_public::SSH_P256, comment.join(" "));
        line.trim_end().to_owned()
    }

    /// The fingerprint as `ssh-keygen -lf` shows it: `SHA256:` and unpadded Base64 of the SHA-256 of
    /// the key as SSH sends it.
    pub fn fingerprint(&self) -> String {
        ssh_public::fingerprint(&self.to_ssh_blob())
    }

    /// [`Self::fingerprint`] cut to twelve digits: enough to tell a user's keys apart.
    pub fn short_fingerprint(&self) -> String {
        let mut fingerprint = self.fingerprint();
        fingerprint.truncate("SHA256:".len() + 12);
        fingerprint
    }

    fn to_ssh_blob(&self) -> Vec<u8> {
        ssh_public::blob(&self.to_sec1())
    }
}

impl From<VerifyingKey> for PublicKey {
    fn from(key: VerifyingKey) -> Self {
        Self(key)
    }
}

/// The only key in `keys`, which may contain it more than once.
fn only(keys: Vec<PublicKey>) -> Option<Result<PublicKey, Error>> {
    let mut different: Vec<PublicKey> = Vec::new();
    for key in keys {
        if !different.contains(&key) {
            different.push(key);
        }
    }
    match different.len() {
        0 => None,
        1 => different.pop().map(Ok),
        several => Some(Err(Error::SeveralKeys(several))),
    }
}

fn malformed() -> Error {
    Error::Malformed("public key".into())
}

fn data(block: &Block) -> Result<&[u8], Error> {
    match &block.data {
        Ok(data) => Ok(data),
        Err(Fault::NoEnd) => Err(Error::NoEnd(block.name())),
        Err(Fault::NotBase64) => Err(Error::NotBase64(block.name())),
        Err(Fault::CutShort) => Err(Error::Malformed(block.name())),
    }
}

/// The key in a block of RFC 4716: after the BEGIN line come headers, which a backslash at the end of a
/// line continues, and then Base64.
fn ssh2_blob(text: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let mut digits = String::new();
    let mut in_header = false;
    for line in text.trim_start().lines().skip(1).map(str::trim) {
        if line.starts_with("---- END") {
            return pem::decode_base64(digits.as_bytes());
        }
        if in_header || line.contains(':') {
            in_header = line.ends_with('\\');
        } else {
            digits.push_str(line);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;

    use super::*;

    /// `CKA_EC_PARAMS` of P-256, by its name.
    const NAMED: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

    fn key(number: u16) -> PublicKey {
        let mut scalar = [0; 32];
        scalar[30..].copy_from_slice(&number.to_be_bytes());
        let key = SigningKey::from_slice(&scalar).unwrap();
        PublicKey::from(*key.verifying_key())
    }

    fn wrapped(point: &[u8]) -> Vec<u8> {
        [&[4, point.len() as u8], point].concat()
    }

    #[test]
    fn pkcs11_point_is_wrapped_or_bare() {
        for number in 1..600 {
            let key = key(number);
            let point = key.to_sec1();
            for bytes in [wrapped(&point), point] {
                assert_eq!(PublicKey::from_pkcs11(NAMED, &bytes).as_ref(), Ok(&key));
            }
        }
        let looks_wrapped = (1..600).any(|number| key(number).to_sec1()[1] == 63);
        assert!(looks_wrapped, "no bare point looks like an OCTET STRING");
    }

    #[test]
    fn jwk_keeps_leading_zeros() {
        for number in 1..600 {
            let key = key(number);
            let point = key.to_sec1();
            let [x, y] = [&point[1..33], &point[33..]].map(|member| BASE64_STANDARD.encode(member));
            assert_eq!(PublicKey::from_jwk(&x, &y), Ok(key.clone()));
            let url = |text: &str| text.replace('+', "-").replace('/', "_").replace('=', "");
            assert_eq!(PublicKey::from_jwk(&url(&x), &url(&y)), Ok(key));
        }
        let leading_zero = (1..600).any(|number| key(number).to_sec1()[1] == 0);
        assert!(leading_zero, "no x begins with a zero byte");
    }

    #[test]
    fn invalid_jwk_is_refused() {
        let zeros = "A".repeat(43);
        for (x, y, error) in [
            (zeros.as_str(), zeros.as_str(), Error::NotAPoint),
            ("", &zeros, Error::Malformed("public key".into())),
            (&zeros, "AAAA", Error::Malformed("public key".into())),
            ("*", &zeros, Error::NotBase64("public key".into())),
        ] {
            assert_eq!(PublicKey::from_jwk(x, y), Err(error));
        }
    }

    #[test]
    fn a_pkcs11_point_may_be_compressed() {
        let key = key(1);
        let point = key.to_sec1();
        let compressed = [&[2 | (point[64] & 1)], &point[1..33]].concat();
        for bytes in [wrapped(&compressed), compressed] {
            assert_eq!(PublicKey::from_pkcs11(NAMED, &bytes).as_ref(), Ok(&key));
        }
    }

    #[test]
    fn pkcs11_parameters_may_be_written_out() {
        let pem = include_str!("../fixtures/keys/public-explicit-compressed-generator.pem");
        let blocks = pem::blocks(pem.as_bytes());
        let spki = blocks[0].data.as_ref().unwrap();
        let members = asn1::sequence(spki).unwrap();
        let (_, parameters) = asn1::algorithm(members[0]).unwrap();
        let parameters = parameters.unwrap().to_der().unwrap();
        let point = wrapped(&key(1).to_sec1());
        assert_eq!(PublicKey::from_pkcs11(&parameters, &point), Ok(key(1)));
    }

    #[test]
    fn pkcs11_keys_that_do_not_serve_are_refused() {
        let p384 = [6, 5, 0x2b, 0x81, 4, 0, 34];
        let point = wrapped(&key(1).to_sec1());
        let curve = NotP256::Curve("P-384 (secp384r1)".into());
        assert_eq!(
            PublicKey::from_pkcs11(&p384, &point),
            Err(Error::NotP256(curve))
        );
        let mut off_the_curve = key(1).to_sec1();
        off_the_curve[64] ^= 1;
        assert_eq!(
            PublicKey::from_pkcs11(NAMED, &off_the_curve),
            Err(Error::NotAPoint)
        );
        for (parameters, point) in [(&[][..], &point[..]), (NAMED, &point[..66]), (NAMED, &[])] {
            let malformed = Error::Malformed("public key".into());
            assert_eq!(PublicKey::from_pkcs11(parameters, point), Err(malformed));
        }
    }
}
