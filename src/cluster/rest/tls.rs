//! Whom to believe to be the cluster, and the TLS that is spoken with it: 1.2 (RFC 5246) and 1.3
//! (RFC 8446).

use std::{
    fmt,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};
use sha2::{Digest, Sha256};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

use crate::error::{Error as UserError, Kind};

/// Which certificate is the cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// One for its name that an authority vouches for which the system trusts.
    System,
    /// One for its name that an authority in this PEM file vouches for.
    CaFile(PathBuf),
    /// This one and no other, whatever its name and dates.
    Pinned(Fingerprint),
    /// Any.
    Insecure,
}

/// The SHA-256 of a certificate's DER, as `openssl x509 -fingerprint -sha256` shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", base16ct::lower::encode_string(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = &'static str;

    /// `sha256:` and 64 hexadecimal digits, with or without colons between the bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a fingerprint is sha256: and 64 hexadecimal digits";
        let digits = match text.split_at_checked(7) {
            Some((scheme, digits)) if scheme.eq_ignore_ascii_case("sha256:") => digits,
            _ => return Err(FORM),
        };
        let mut bytes = [0; 32];
        match base16ct::mixed::decode(digits.replace(':', ""), &mut bytes) {
            Ok(decoded) if decoded.len() == 32 => Ok(Self(bytes)),
            _ => Err(FORM),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A certificate that is not believed to be the cluster's.
#[derive(Clone, Debug)]
pub struct Untrusted {
    pub fingerprint: Fingerprint,
    pub reason: Reason,
}

/// Why not.
#[derive(Clone, Debug)]
pub enum Reason {
    /// It has not the fingerprint that is pinned.
    NotPinned(Fingerprint),
    /// It does not verify.
    Invalid(CertificateError),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPinned(pinned) => write!(f, "it is not the pinned one, {pinned}"),
            Self::Invalid(CertificateError::UnknownIssuer) => {
                f.write_str("nobody that is trusted here has signed it; it may be signed by itself")
            }
            Self::Invalid(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                f.write_str("it has expired")
            }
            Self::Invalid(CertificateError::NotValidForNameContext {
                expected,
                presented,
            }) => {
                let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
                let expected = expected.to_str();
                match &names[..] {
                    [] => write!(f, "it is not for {expected}, nor for any other host"),
                    names => write!(f, "it is not for {expected}, but for {}", names.join(", ")),
                }
            }
            Self::Invalid(error) => match error.to_string() {
                text if text.contains("CaUsedAsEndEntity") => f.write_str(
                    "it is the certificate of an authority, which cannot stand for a host",
                ),
                text => f.write_str(&text),
            },
        }
    }
}

impl std::error::Error for Reason {}

/// The name in `DnsName("NAME")` or `IpAddress(NAME)`, as the verifier writes it.
fn bare(name: &str) -> &str {
    let inside = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(name).trim_matches('"')
}

/// The TLS settings of a cluster, shared by all connections to it.
pub(super) struct Tls {
    config: ClientConfig,
    rule: Rule,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    /// Reads the roots.
    ///
    /// # Errors
    /// Of kind `usage` when there is no authority to trust, or the file with it is no PEM file.
    pub fn new(trust: &Trust) -> Result<Self, UserError> {
        let provider = Arc::new(ring::default_provider());
        let rule = match trust {
            Trust::System => Rule::Authorities(web_pki(system_roots()?, &provider)?),
            Trust::CaFile(path) => Rule::Authorities(web_pki(roots_in(path)?, &provider)?),
            Trust::Pinned(fingerprint) => Rule::Pinned(*fingerprint),
            Trust::Insecure => Rule::Any,
        };
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                UserError::new(Kind::Internal, "TLS cannot be set up").caused_by(&error)
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(&rule, &provider)))
            .with_no_client_auth();
        Ok(Self {
            config,
            rule,
            provider,
        })
    }

    /// The settings for one connection at a time, with what looks at the certificate on it.
    pub fn of_connection(&self) -> (Arc<ClientConfig>, Arc<Verifier>) {
        let verifier = Arc::new(Verifier::new(&self.rule, &self.provider));
        let mut config = self.config.clone();
        config
            .dangerous()
            .set_certificate_verifier(verifier.clone());
        (Arc::new(config), verifier)
    }
}

fn system_roots() -> Result<RootCertStore, UserError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        false => Ok(roots),
        true => {
            let error = UserError::new(
                Kind::Usage,
                "this system has no certificate authorities that it trusts",
            );
            let error = match found.errors.first() {
                Some(cause) => error.caused_by(cause),
                None => error,
            };
            Err(error.hint("install them (the package ca-certificates), name the cluster's own with --ca-file PEM, or pin its certificate with --tls-fingerprint"))
        }
    }
}

fn roots_in(path: &Path) -> Result<RootCertStore, UserError> {
    let unusable = || {
        let message = format!("{} cannot be used as --ca-file", path.display());
        UserError::new(Kind::Usage, message)
            .hint("it must hold certificates in PEM: -----BEGIN CERTIFICATE-----")
    };
    let mut roots = RootCertStore::empty();
    // The libraries' own words are bytes, or about a peer.
    let wrong = |error: pem::Error| {
        let cause = match error {
            pem::Error::Io(error) => error,
            _ => io::Error::other("its PEM is cut off or not well-formed"),
        };
        unusable().caused_by(&cause)
    };
    for certificate in CertificateDer::pem_file_iter(path).map_err(wrong)? {
        roots.add(certificate.map_err(wrong)?).map_err(|_| {
            unusable().caused_by(&io::Error::other(
                "what its PEM holds is no certificate that can be read",
            ))
        })?;
    }
    match roots.is_empty() {
        true => Err(unusable()),
        false => Ok(roots),
    }
}

fn web_pki(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, UserError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| UserError::new(Kind::Internal, "TLS cannot be set up").caused_by(&error))
}

/// Looks at the certificate that is shown, and keeps what is wrong with it: the TLS library's own
/// error has not the fingerprint.
#[derive(Debug)]
pub(super) struct Verifier {
    rule: Rule,
    provider: Arc<CryptoProvider>,
    refused: Mutex<Option<Untrusted>>,
}

#[derive(Clone, Debug)]
enum Rule {
    Authorities(Arc<WebPkiServerVerifier>),
    Pinned(Fingerprint),
    Any,
}

impl Verifier {
    fn new(rule: &Rule, provider: &Arc<CryptoProvider>) -> Self {
        Self {
            rule: rule.clone(),
            provider: provider.clone(),
            refused: Mutex::default(),
        }
    }

    /// The certificate that was refused since this was asked last.
    pub fn take_refused(&self) -> Option<Untrusted> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.take()
    }

    fn refuse(&self, fingerprint: Fingerprint, reason: Reason) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(Untrusted {
            fingerprint,
            reason,
        });
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let fingerprint = Fingerprint::of(end_entity);
        let refusal = match &self.rule {
            Rule::Any => return Ok(ServerCertVerified::assertion()),
            Rule::Pinned(pinned) if *pinned == fingerprint => {
                return Ok(ServerCertVerified::assertion());
            }
            Rule::Pinned(pinned) => {
                self.refuse(fingerprint, Reason::NotPinned(*pinned));
                CertificateError::ApplicationVerificationFailure.into()
            }
            Rule::Authorities(web_pki) => match web_pki.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ) {
                Ok(verified) => return Ok(verified),
                Err(error) => {
                    if let rustls::Error::InvalidCertificate(why) = &error {
                        self.refuse(fingerprint, Reason::Invalid(why.clone()));
                    }
                    error
                }
            },
        };
        Err(refusal)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// How far a connection, or the attempt to make one, has come in the request under way.
#[derive(Debug, Default)]
pub(super) struct Progress {
    connected: AtomicBool,
    sent: AtomicBool,
    /// Whether any connection to the cluster has come about yet.
    reached: Arc<AtomicBool>,
}

impl Progress {
    pub fn new(reached: Arc<AtomicBool>) -> Self {
        Self {
            reached,
            ..Self::default()
        }
    }

    /// Whether there is a connection that has not failed yet.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }

    /// Whether any of the request may have gone out.
    pub fn has_sent(&self) -> bool {
        self.sent.load(Ordering::SeqCst)
    }

    /// A new request begins.
    pub fn begin(&self) {
        self.sent.store(false, Ordering::SeqCst);
    }

    /// What connection there was is gone, or will not be used again.
    pub fn disconnected(&self) {
        self.connected.store(false, Ordering::SeqCst);
    }
}

/// Wraps a connection in TLS, and notes how far it has come.
#[derive(Debug)]
pub(super) struct TlsConnector {
    pub config: Arc<ClientConfig>,
    pub progress: Arc<Progress>,
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        // The way to a proxy, in which the tunnel to the cluster is then dug.
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| ureq::Error::Other(error.into()))?;
        let connection = ClientConnection::new(self.config.clone(), name)
            .map_err(|error| ureq::Error::Other(error.into()))?;
        let adapter = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        let mut stream = StreamOwned::new(connection, adapter);
        stream.sock.set_timeout(details.timeout);
        stream.conn.complete_io(&mut stream.sock)?;
        self.progress.connected.store(true, Ordering::SeqCst);
        self.progress.reached.store(true, Ordering::SeqCst);
        Ok(Some(Either::B(TlsTransport {
            stream,
            progress: self.progress.clone(),
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
        })))
    }
}

/// A connection to the cluster itself.
pub(super) struct TlsTransport {
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    progress: Arc<Progress>,
    buffers: LazyBuffers,
}

impl Drop for TlsTransport {
    fn drop(&mut self) {
        self.progress.disconnected();
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.progress.sent.store(true, Ordering::SeqCst);
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// A connection on which anything has come that no request has asked for is of no use: it would
    /// be taken for the reply to the next one.
    fn is_open(&mut self) -> bool {
        let unread = match self.stream.conn.process_new_packets() {
            Ok(state) => state.plaintext_bytes_to_read() > 0 || state.peer_has_closed(),
            Err(_) => true,
        };
        !unread && self.buffers.input().is_empty() && self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_openssl_and_qkey_write_it() {
        let plain = format!("sha256:{}", "0a".repeat(32));
        let with_colons = format!("SHA256:{}", ["0A"; 32].join(":"));
        for text in [&plain, &with_colons] {
            assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), plain);
        }
        let digits = "0a".repeat(32);
        for wrong in [
            "",
            "sha256:",
            &digits,
            &format!("sha1:{digits}"),
            &format!("sha256:{}", &digits[2..]),
            &format!("sha256:{digits}0a"),
            &format!("sha256:{}zz", &digits[2..]),
            "🔑🔑🔑🔑",
        ] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
