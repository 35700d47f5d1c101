//! Reads certificates (RFC 5280) for messages and for the checks that webpki lacks.

use std::{net::IpAddr, time::Duration};

use der::{
    DateTime, Decode, Encode, SliceReader, Tag, Tagged,
    asn1::{Any, ObjectIdentifier, UintRef},
    oid::AssociatedOid,
};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use x509_cert::{
    certificate::{CertificateInner, Raw, TbsCertificateInner, Version},
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, name::GeneralName},
    name::Name as DistinguishedName,
    time::Time,
};

use crate::text::quoted;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// A parsed certificate. Its contents are not verified.
pub(super) struct Certificate(CertificateInner<Raw>);

impl Certificate {
    /// `None` if it is not well-formed.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        CertificateInner::from_der(certificate).ok().map(Self)
    }

    fn contents(&self) -> &TbsCertificateInner<Raw> {
        self.0.tbs_certificate()
    }

    pub fn subject(&self) -> &DistinguishedName {
        self.contents().subject()
    }

    pub fn issuer(&self) -> &DistinguishedName {
        self.contents().issuer()
    }

    /// Whether it names itself as its issuer, as a self-signed certificate does.
    pub fn is_self_issued(&self) -> bool {
        self.subject() == self.issuer()
    }

    /// When its validity begins and ends.
    pub fn validity(&self) -> (UnixTime, UnixTime) {
        let validity = self.contents().validity();
        let time = |time: Time| UnixTime::since_unix_epoch(time.to_unix_duration());
        (time(validity.not_before), time(validity.not_after))
    }

    /// The algorithm of its key in DER, without the outer tag, as `pki_types` has it.
    pub fn key_algorithm(&self) -> Option<Vec<u8>> {
        contents(&self.contents().subject_public_key_info().algorithm)
    }

    /// The algorithm of its signature, in the same form.
    pub fn signature_algorithm(&self) -> Option<Vec<u8>> {
        contents(self.0.signature_algorithm())
    }

    pub fn public_key_info(&self) -> Option<SubjectPublicKeyInfoDer<'static>> {
        let info = self.contents().subject_public_key_info().to_der().ok()?;
        Some(info.into())
    }

    /// The length of an RSA key, in bits.
    fn rsa_bits(&self) -> Option<usize> {
        #[derive(der::Sequence)]
        struct RsaPublicKey<'a> {
            modulus: UintRef<'a>,
            exponent: UintRef<'a>,
        }
        let info = self.contents().subject_public_key_info();
        if info.algorithm.oid != RSA {
            return None;
        }
        let key = RsaPublicKey::from_der(info.subject_public_key.as_bytes()?).ok()?;
        let bytes = key.modulus.as_bytes();
        let unused = bytes.first()?.leading_zeros() as usize;
        Some(bytes.len() * 8 - unused)
    }

    /// The length of an RSA key that is too short or too long to be used, in bits.
    pub fn unusable_rsa_bits(&self) -> Option<usize> {
        self.rsa_bits().filter(|bits| !(2048..=8192).contains(bits))
    }

    /// Whether it is a CA certificate. A root in version 1 cannot state that, so it counts as one.
    pub fn may_issue(&self) -> bool {
        match self.extension::<BasicConstraints>() {
            Some(constraints) => constraints.ca,
            None if self.contents().version() == Version::V3 => self
                .extension::<KeyUsage>()
                .is_some_and(|usage| usage.key_cert_sign()),
            None => self.is_self_issued(),
        }
    }

    /// The maximum number of CA certificates below this one in a chain.
    pub fn path_length(&self) -> Option<u8> {
        self.extension::<BasicConstraints>()?.path_len_constraint
    }

    /// Whether a server may use it (RFC 5280, 4.2.1.12).
    pub fn is_for_servers(&self) -> bool {
        self.extension::<ExtendedKeyUsage>()
            .is_none_or(|purposes| purposes.0.contains(&SERVER_AUTH))
    }

    /// The host names in it.
    pub fn names(&self) -> Names {
        let mut names = Names {
            common_name: common_name(self.subject()),
            ..Names::default()
        };
        let alternative = self.extension::<SubjectAltName>();
        for name in alternative.into_iter().flat_map(|names| names.0) {
            match name {
                GeneralName::DnsName(name) => names.dns.push(name.to_string()),
                GeneralName::IpAddress(octets) => {
                    names.addresses.extend(address(octets.as_bytes()));
                }
                _ => {}
            }
        }
        names
    }

    fn extension<'a, T: Decode<'a> + AssociatedOid>(&'a self) -> Option<T> {
        self.contents().get_extension::<T>().ok()?.map(|(_, it)| it)
    }
}

/// The DER of a value, without the outer tag.
fn contents(value: &impl Encode) -> Option<Vec<u8>> {
    let der = value.to_der().ok()?;
    Some(Any::from_der(&der).ok()?.value().to_vec())
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

/// The host names and addresses in a certificate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub common_name: Option<String>,
}

/// The most specific common name.
fn common_name(name: &DistinguishedName) -> Option<String> {
    let last = name.iter().filter(|it| it.oid == COMMON_NAME).last()?;
    let bytes = last.value.value();
    match last.value.tag() {
        Tag::BmpString => {
            let units = bytes
                .chunks_exact(2)
                .map(|it| u16::from_be_bytes([it[0], it[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

/// A distinguished name as messages show it.
pub(super) fn title(name: &DistinguishedName) -> String {
    match common_name(name) {
        Some(common_name) => quoted(&cut(&common_name)),
        None if name.is_empty() => "a CA without a name".to_owned(),
        None => quoted(&cut(&name.to_string())),
    }
}

/// Cuts a name to the 253 characters that a host name may have.
pub(super) fn cut(name: &str) -> String {
    const LONGEST: usize = 253;
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

/// The name of an algorithm, given its DER object identifier and parameters.
pub(super) fn algorithm(identifier: &[u8]) -> String {
    let decoded = SliceReader::new(identifier).and_then(|mut reader| {
        let oid: ObjectIdentifier = Decode::decode(&mut reader)?;
        // The parameters of an elliptic-curve key name its curve.
        Ok(Decode::decode(&mut reader).unwrap_or(oid))
    });
    let Ok(oid) = decoded.map(|oid| oid.to_string()) else {
        return "an unknown algorithm".to_owned();
    };
    match ALGORITHMS.iter().find(|(known, _)| *known == oid) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("the algorithm {oid}"),
    }
}

const ALGORITHMS: [(&str, &str); 29] = [
    // Signatures.
    ("1.2.840.10045.4.1", "ECDSA with SHA-1"),
    ("1.2.840.10045.4.3.1", "ECDSA with SHA-224"),
    ("1.2.840.10045.4.3.2", "ECDSA with SHA-256"),
    ("1.2.840.10045.4.3.3", "ECDSA with SHA-384"),
    ("1.2.840.10045.4.3.4", "ECDSA with SHA-512"),
    ("1.2.840.113549.1.1.4", "RSA with MD5"),
    ("1.2.840.113549.1.1.5", "RSA with SHA-1"),
    ("1.2.840.113549.1.1.10", "RSA-PSS"),
    ("1.2.840.113549.1.1.11", "RSA with SHA-256"),
    ("1.2.840.113549.1.1.12", "RSA with SHA-384"),
    ("1.2.840.113549.1.1.13", "RSA with SHA-512"),
    ("1.2.840.113549.1.1.14", "RSA with SHA-224"),
    ("1.2.840.10040.4.3", "DSA with SHA-1"),
    ("2.16.840.1.101.3.4.3.2", "DSA with SHA-256"),
    ("2.16.840.1.101.3.4.3.17", "ML-DSA-44"),
    ("2.16.840.1.101.3.4.3.18", "ML-DSA-65"),
    ("2.16.840.1.101.3.4.3.19", "ML-DSA-87"),
    // Keys.
    ("1.2.840.113549.1.1.1", "RSA"),
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.840.10045.2.1", "EC with explicit curve parameters"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
    ("1.2.840.10045.3.1.7", "P-256"),
    ("1.3.132.0.34", "P-384"),
    ("1.3.132.0.35", "P-521"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
];

/// A time as messages show it: `2026-11-25 21:05 UTC`.
pub(super) fn moment(time: &UnixTime) -> String {
    match DateTime::from_unix_duration(Duration::from_secs(time.as_secs())) {
        Ok(time) => {
            let time = time.to_string();
            format!("{} {} UTC", &time[..10], &time[11..16])
        }
        Err(_) => "the year 10000 or later".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (253_402_300_799, "9999-12-31 23:59 UTC"),
            (u64::MAX, "the year 10000 or later"),
        ] {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            assert_eq!(moment(&time), expected);
        }
    }

    #[test]
    fn algorithms_are_named() {
        for (identifier, expected) in [
            (
                &b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"[..],
                "ECDSA with SHA-512",
            ),
            (
                b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00",
                "RSA with SHA-1",
            ),
            (
                b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23",
                "P-521",
            ),
            (
                b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x30\x00",
                "EC with explicit curve parameters",
            ),
            (b"\x06\x03\x2a\x03\x04", "the algorithm 1.2.3.4"),
            (b"", "an unknown algorithm"),
            (b"\x06\x80", "an unknown algorithm"),
        ] {
            assert_eq!(algorithm(identifier), expected);
        }
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(cut("qumulo.test"), "qumulo.test");
        assert_eq!(cut(&"ä".repeat(300)), format!("{}...", "ä".repeat(253)));
    }
}
