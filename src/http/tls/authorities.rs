//! Trusted certificates, and whether they vouch for a server's certificate.

use std::path::Path;

use rustls::{
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{
        CertificateDer, ServerName, TrustAnchor, UnixTime,
        pem::{self, PemObject},
    },
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};

use super::{
    Fingerprint,
    certificate::{Certificate, algorithm, title},
    reason::{Origin, Reason, Which},
};
use crate::input;

/// Why a file has no usable certificates.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    #[error(transparent)]
    Unreadable(#[from] input::Error),
    #[error("it contains no certificates")]
    Empty,
    #[error("it is not a well-formed X.509 certificate")]
    NotX509,
    #[error("its PEM is cut off")]
    CutOff,
    #[error("its PEM is malformed")]
    Malformed,
    #[error("it is a certificate in DER, not PEM")]
    Der,
    #[error("it contains an OpenSSL trusted certificate (-----BEGIN TRUSTED CERTIFICATE-----)")]
    OpensslTrusted,
    #[error("its certificates are in a PKCS #7 block")]
    Pkcs7,
    #[error("it is UTF-16 text")]
    Utf16,
}

/// Certificates of CAs, and of servers themselves.
#[derive(Debug, Default)]
pub(super) struct Authorities {
    origin: Origin,
    certificates: Vec<CertificateDer<'static>>,
    /// The parts that webpki needs to look up issuers.
    anchors: Vec<TrustAnchor<'static>>,
    /// The index of the certificate of each anchor.
    places: Vec<usize>,
}

/// The certificates that a server sent, and what they must match.
pub(super) struct Shown<'a> {
    pub own: &'a CertificateDer<'a>,
    pub intermediates: &'a [CertificateDer<'a>],
    pub expected: &'a ServerName<'a>,
    pub now: UnixTime,
}

impl Authorities {
    /// The certificates that the system trusts.
    ///
    /// # Errors
    /// When there are none, with the first error that occurred.
    pub fn of_system() -> Result<Self, Option<rustls_native_certs::Error>> {
        let found = rustls_native_certs::load_native_certs();
        let mut all = Self::default();
        for certificate in found.certs {
            // A damaged one leaves the others usable.
            let _ = all.add(certificate);
        }
        if all.certificates.is_empty() {
            Err(found.errors.into_iter().next())
        } else {
            Ok(all)
        }
    }

    /// The certificates in a PEM file. Damaged ones are skipped with a warning, so that the others remain
    /// usable.
    ///
    /// # Errors
    /// When there are none.
    pub fn in_file(path: &Path) -> Result<Self, CaFileError> {
        /// All CAs of a system take a quarter of a megabyte.
        const LIMIT: usize = 16 << 20;
        let file = path.to_owned();
        let bytes = input::read_to_end(move || std::fs::File::open(file), LIMIT, None)?;
        // Windows editors and shells add a byte order mark.
        let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
        let mut all = Self {
            origin: Origin::File(path.to_owned()),
            ..Self::default()
        };
        let mut damaged = Vec::new();
        for (i, block) in CertificateDer::pem_slice_iter(text).enumerate() {
            let block = block.map_err(|error| match error {
                pem::Error::MissingSectionEnd { .. } => CaFileError::CutOff,
                _ => CaFileError::Malformed,
            });
            if let Err(wrong) = block.and_then(|certificate| all.add(certificate)) {
                damaged.push((i + 1, wrong));
            }
        }
        if all.certificates.is_empty() {
            let first = damaged.into_iter().next().map(|(_, wrong)| wrong);
            return Err(first.unwrap_or_else(|| without_certificates(text)));
        }
        for (number, wrong) in damaged {
            log::warn!(
                "ignoring certificate {number} in {}: {wrong}",
                path.display()
            );
        }
        Ok(all)
    }

    fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), CaFileError> {
        match anchor_from_trusted_cert(&certificate) {
            Ok(anchor) => {
                self.anchors.push(anchor.to_owned());
                self.places.push(self.certificates.len());
            }
            Err(_) if Certificate::read(&certificate).is_none() => {
                return Err(CaFileError::NotX509);
            }
            Err(_) => {}
        }
        self.certificates.push(certificate);
        Ok(())
    }

    /// Checks a server's certificate: it must be one of these, or a CA among these must vouch for it.
    pub fn verify(
        &self,
        shown: &Shown<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Reason> {
        let reason = |error| self.reason(shown, error);
        let own = EndEntityCert::try_from(shown.own).map_err(reason)?;
        if self.certificates.contains(shown.own) {
            // The user trusts this certificate itself, so its issuer does not matter, nor whether it is a CA.
            let contents = Certificate::read(shown.own).ok_or(Reason::Malformed)?;
            valid(&contents, shown.now).map_err(reason)?;
            if !contents.is_for_servers() {
                return Err(Reason::Purpose);
            }
        } else {
            let vouches = |path: &VerifiedPath<'_>| self.vouches(path, shown.now);
            own.verify_for_usage(
                algorithms.all,
                &self.anchors,
                shown.intermediates,
                shown.now,
                KeyUsage::server_auth(),
                None,
                Some(&vouches),
            )
            .map_err(reason)?;
        }
        own.verify_is_valid_for_subject_name(shown.expected)
            .map_err(reason)
    }

    /// Runs the checks that webpki lacks: the trust anchor must be a CA, be valid now, and allow a chain
    /// of this length.
    fn vouches(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
        let is_end = |anchor: &TrustAnchor<'_>| std::ptr::eq(anchor, path.anchor());
        let end = self.anchors.iter().position(is_end);
        let end = end.map(|i| &self.certificates[self.places[i]]);
        let Some(issuer) = end.and_then(|end| Certificate::read(end)) else {
            return Ok(());
        };
        if !issuer.may_issue() {
            // Trusting a server certificate must not make it a CA.
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
        valid(&issuer, now)?;
        match issuer.path_length() {
            Some(longest) if path.intermediate_certificates().count() > usize::from(longest) => {
                Err(webpki::Error::PathLenConstraintViolated)
            }
            _ => Ok(()),
        }
    }

    /// Explains an error of webpki.
    fn reason(&self, shown: &Shown<'_>, error: webpki::Error) -> Reason {
        use webpki::Error;
        let chain = shown.chain();
        let own = match chain.first() {
            _ if is_malformed(&error) => return Reason::Malformed,
            None => return Reason::Other,
            Some(own) => own,
        };
        match error {
            Error::CertExpired { time, not_after } => Reason::Expired {
                which: self.which(&chain, |it| it.validity().1 == not_after),
                not_after,
                time,
            },
            Error::CertNotValidYet { time, not_before } => Reason::NotYetValid {
                which: self.which(&chain, |it| it.validity().0 == not_before),
                not_before,
                time,
            },
            Error::InvalidCertValidity => Reason::NeverValid,
            Error::CertNotValidForName(_) => Reason::WrongName {
                expected: shown.expected.to_owned(),
                names: own.names().into(),
            },
            Error::UnsupportedCertVersion => Reason::OldVersion,
            Error::UnknownIssuer => self.unknown_issuer(shown, &chain),
            Error::InvalidSignatureForPublicKey => self.bad_signature(shown, &chain),
            Error::CaUsedAsEndEntity | Error::EndEntityUsedAsCa if own.is_self_issued() => {
                self.unknown_issuer(shown, &chain)
            }
            Error::CaUsedAsEndEntity => Reason::Authority,
            Error::EndEntityUsedAsCa => Reason::NotAnAuthority,
            Error::PathLenConstraintViolated => Reason::PathLength,
            Error::NameConstraintViolation => Reason::NameConstraints,
            Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => Reason::Purpose,
            Error::UnsupportedCriticalExtension => Reason::CriticalExtension,
            Error::UnsupportedSignatureAlgorithmContext(context) => {
                self.signature(&chain, &context.signature_algorithm_id, None)
            }
            Error::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => {
                let key = algorithm(&context.public_key_algorithm_id);
                self.signature(&chain, &context.signature_algorithm_id, Some(key))
            }
            Error::MaximumSignatureChecksExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumPathDepthExceeded
            | Error::MaximumNameConstraintComparisonsExceeded => Reason::TooComplex,
            _ => Reason::Other,
        }
    }

    /// No trusted CA has the issuer's name.
    fn unknown_issuer(&self, shown: &Shown<'_>, chain: &[Certificate]) -> Reason {
        let own = &chain[0];
        let origin = self.origin.clone();
        let same = |it: &Certificate| it.subject() == own.subject();
        let namesakes = self.certificates.iter();
        let namesakes = namesakes.filter(|it| Certificate::read(it).is_some_and(|it| same(&it)));
        let namesakes: Vec<_> = namesakes.map(Fingerprint::of).collect();
        if !namesakes.is_empty() {
            return Reason::Replaced(origin, namesakes);
        }
        if own.is_self_issued() {
            return Reason::SelfSigned(origin);
        }
        let mut last = own;
        for _ in chain {
            let issuer = |it: &&Certificate| it.subject() == last.issuer();
            match chain.iter().find(issuer) {
                Some(issuer) if !issuer.is_self_issued() => last = issuer,
                _ => break,
            }
        }
        let issuer = title(last.issuer());
        match shown.intermediates {
            [] => Reason::NoIntermediates { issuer, origin },
            _ => Reason::UnknownIssuer { issuer, origin },
        }
    }

    /// A trusted CA has the issuer's name, but another key signed this certificate.
    fn bad_signature(&self, shown: &Shown<'_>, chain: &[Certificate]) -> Reason {
        let issues = |it: &Certificate| chain.iter().any(|shown| shown.issuer() == it.subject());
        let trusted: Vec<_> = self.readable().filter(issues).collect();
        for issuer in trusted.iter().chain(&chain[1..]) {
            if let Some(bits) = issuer.unusable_rsa_bits() {
                return Reason::KeyLength(Which::Authority(title(issuer.subject())), bits);
            }
        }
        match trusted.first() {
            _ if chain[0].is_self_issued() => self.unknown_issuer(shown, chain),
            Some(issuer) => Reason::OtherIssuer {
                issuer: title(issuer.subject()),
                origin: self.origin.clone(),
            },
            None => Reason::Other,
        }
    }

    /// The first certificate that matches, in the chain or among the trusted CAs.
    fn which(&self, chain: &[Certificate], so: impl Fn(&Certificate) -> bool) -> Which {
        let authority = |it: &Certificate| Which::Authority(title(it.subject()));
        match chain.iter().position(&so) {
            Some(0) => Which::Own,
            Some(i) => authority(&chain[i]),
            None => self
                .readable()
                .find(so)
                .map_or(Which::Own, |found| authority(&found)),
        }
    }

    fn readable(&self) -> impl Iterator<Item = Certificate> {
        self.certificates.iter().filter_map(Certificate::read)
    }

    fn signature(&self, chain: &[Certificate], signature: &[u8], key: Option<String>) -> Reason {
        let so = |it: &Certificate| it.signature_algorithm().as_deref() == Some(signature);
        Reason::Signature {
            which: self.which(chain, so),
            signature: algorithm(signature),
            key,
        }
    }
}

impl Shown<'_> {
    /// The well-formed ones; none if the server's own certificate is not well-formed.
    fn chain(&self) -> Vec<Certificate> {
        let Some(own) = Certificate::read(self.own) else {
            return Vec::new();
        };
        let others = self.intermediates.iter().filter_map(Certificate::read);
        [own].into_iter().chain(others).collect()
    }
}

fn valid(certificate: &Certificate, time: UnixTime) -> Result<(), webpki::Error> {
    let (not_before, not_after) = certificate.validity();
    if not_before > not_after {
        Err(webpki::Error::InvalidCertValidity)
    } else if time < not_before {
        Err(webpki::Error::CertNotValidYet { time, not_before })
    } else if time > not_after {
        Err(webpki::Error::CertExpired { time, not_after })
    } else {
        Ok(())
    }
}

fn is_malformed(error: &webpki::Error) -> bool {
    use webpki::Error;
    matches!(
        error,
        Error::BadDer
            | Error::BadDerTime
            | Error::TrailingData(_)
            | Error::ExtensionValueInvalid
            | Error::InvalidSerialNumber
            | Error::InvalidNetworkMaskConstraint
            | Error::MalformedDnsIdentifier
            | Error::MalformedExtensions
            | Error::MalformedNameConstraint
            | Error::SignatureAlgorithmMismatch
    )
}

/// Why a file without a PEM block `CERTIFICATE` has no certificates.
fn without_certificates(bytes: &[u8]) -> CaFileError {
    let has = |label: &str| {
        let begin = format!("-----BEGIN {label}-----");
        bytes.windows(begin.len()).any(|it| it == begin.as_bytes())
    };
    if Certificate::read(&CertificateDer::from(bytes)).is_some() {
        CaFileError::Der
    } else if has("TRUSTED CERTIFICATE") {
        CaFileError::OpensslTrusted
    } else if has("PKCS7") {
        CaFileError::Pkcs7
    } else if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        CaFileError::Utf16
    } else {
        CaFileError::Empty
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::crypto::ring;

    use super::*;

    /// Self-signed, for `*.qumulo.test` and `2001:db8::1`, from 2020 to 2119; `issue` in
    /// tests/it/support/certificates.py made it.
    const WILDCARD: &str = include_str!("wildcard.pem");

    fn verify(host: &str, year: u64) -> Result<(), Reason> {
        let certificate = CertificateDer::from_pem_slice(WILDCARD.as_bytes()).unwrap();
        let mut authorities = Authorities::default();
        authorities.add(certificate.clone()).unwrap();
        let seconds = (year - 1970) * 31_556_952;
        let shown = Shown {
            own: &certificate,
            intermediates: &[],
            expected: &ServerName::try_from(host).unwrap(),
            now: UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
        };
        let provider = ring::default_provider();
        authorities.verify(&shown, &provider.signature_verification_algorithms)
    }

    #[test]
    fn wildcard_matches_one_label() {
        for host in ["node.qumulo.test", "Node.QUMULO.test", "2001:db8::1"] {
            assert!(verify(host, 2026).is_ok(), "{host}");
        }
        for host in [
            "qumulo.test",
            "a.node.qumulo.test",
            "node.qumulo.test.example",
            "2001:db8::2",
        ] {
            let reason = verify(host, 2026).unwrap_err().to_string();
            let expected = format!("it is for *.qumulo.test, 2001:db8::1, not for {host}");
            assert_eq!(reason, expected);
        }
    }

    #[test]
    fn trusted_certificate_is_valid_between_its_dates() {
        for (year, valid) in [(2019, false), (2021, true), (2118, true), (2121, false)] {
            assert_eq!(verify("node.qumulo.test", year).is_ok(), valid, "{year}");
        }
    }

    #[test]
    fn webpki_errors_never_show_rust_names() {
        use webpki::Error;
        let certificate = CertificateDer::from_pem_slice(WILDCARD.as_bytes()).unwrap();
        let authorities = Authorities::default();
        let shown = Shown {
            own: &certificate,
            intermediates: &[],
            expected: &ServerName::try_from("localhost").unwrap(),
            now: UnixTime::since_unix_epoch(Duration::ZERO),
        };
        for error in [
            Error::BadDer,
            Error::BadDerTime,
            Error::CaUsedAsEndEntity,
            Error::CertDistrusted,
            Error::CertRevoked,
            Error::EmptyEkuExtension,
            Error::EndEntityUsedAsCa,
            Error::ExtensionValueInvalid,
            Error::InvalidCertValidity,
            Error::InvalidSerialNumber,
            Error::InvalidSignatureForPublicKey,
            Error::MalformedDnsIdentifier,
            Error::MalformedExtensions,
            Error::MalformedNameConstraint,
            Error::MaximumPathBuildCallsExceeded,
            Error::MaximumPathDepthExceeded,
            Error::NameConstraintViolation,
            Error::PathLenConstraintViolated,
            Error::SignatureAlgorithmMismatch,
            Error::UnknownIssuer,
            Error::UnknownRevocationStatus,
            Error::UnsupportedCertVersion,
            Error::UnsupportedCriticalExtension,
            Error::UnsupportedNameType,
        ] {
            let name = format!("{error:?}");
            let reason = authorities.reason(&shown, error).to_string();
            assert!(!reason.contains(&name), "{reason}");
            assert!(reason.contains(' '), "{reason}");
        }
    }
}
