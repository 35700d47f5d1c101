//! TLS 1.2 (RFC 5246) and 1.3 (RFC 8446), and which server certificates to trust.

mod authorities;
mod certificate;
mod handshake;
mod reason;

use std::{
    fmt,
    io::{self, Read, Write},
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    StreamOwned,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};
use webpki::{EndEntityCert, RawPublicKeyEntity};

pub(super) use self::handshake::SpeaksHttp2;
pub(crate) use self::{
    authorities::CaFileError,
    handshake::HandshakeError,
    reason::{Reason, Untrusted, Which},
};
use self::{
    authorities::{Authorities, Shown},
    certificate::{Certificate, algorithm},
};
use crate::interrupt;

/// Which server certificates to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those for the host name that are signed by a CA that the system trusts.
    System,
    /// Those for the host name that are in this PEM file, or signed by a CA in it.
    CaFile(PathBuf),
    /// Only this one, regardless of its names and dates.
    Pinned(Fingerprint),
    /// All of them.
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

/// Why [`Trust`] cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("this system does not trust any certificate authorities")]
    NoAuthorities(#[source] Option<rustls_native_certs::Error>),
    #[error("cannot use {} as --ca-file", .0.display())]
    CaFile(PathBuf, #[source] CaFileError),
    #[error("TLS cannot be set up")]
    Library(#[source] rustls::Error),
}

/// The TLS settings of a host, shared by all connections to it.
pub(crate) struct Tls {
    config: ClientConfig,
    rule: Rule,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    /// Reads the certificates to trust.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(trust: &Trust) -> Result<Self, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let rule = match trust {
            Trust::System => Rule::Authorities(
                Authorities::of_system()
                    .map_err(TrustError::NoAuthorities)?
                    .into(),
            ),
            Trust::CaFile(path) => {
                let authorities = Authorities::in_file(path);
                let unusable = |error| TrustError::CaFile(path.clone(), error);
                Rule::Authorities(authorities.map_err(unusable)?.into())
            }
            Trust::Pinned(fingerprint) => Rule::Pinned(*fingerprint),
            Trust::Insecure => Rule::Any,
        };
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Library)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(&rule, &provider)))
            .with_no_client_auth();
        // Makes a server without HTTP/1.1 say so before anything is sent.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config,
            rule,
            provider,
        })
    }

    /// The settings and the certificate verifier of one connection.
    pub fn of_connection(&self) -> (ConnectionTls, Arc<Verifier>) {
        let verifier = Arc::new(Verifier::new(&self.rule, &self.provider));
        let mut config = self.config.clone();
        config
            .dangerous()
            .set_certificate_verifier(verifier.clone());
        let client_certificate = Arc::<ClientCertificate>::default();
        config.client_auth_cert_resolver = client_certificate.clone();
        let config = Arc::new(config);
        (
            ConnectionTls {
                config,
                client_certificate,
            },
            verifier,
        )
    }
}

/// The TLS settings of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionTls {
    config: Arc<ClientConfig>,
    client_certificate: Arc<ClientCertificate>,
}

/// Records whether the server requests a client certificate: that explains why it closes the connection.
#[derive(Debug, Default)]
struct ClientCertificate {
    wanted: AtomicBool,
}

impl ClientCertificate {
    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.wanted.store(true, Ordering::SeqCst);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Classifies a TLS error; passes others on.
fn explained(error: io::Error, client_certificate: bool) -> ureq::Error {
    match error.downcast::<rustls::Error>() {
        Ok(error) => ureq::Error::Other(HandshakeError::new(&error, client_certificate).into()),
        Err(error) => error.into(),
    }
}

/// Verifies the server's certificate. It keeps why a certificate was refused, because rustls's error
/// cannot carry that.
#[derive(Debug)]
pub(crate) struct Verifier {
    rule: Rule,
    provider: Arc<CryptoProvider>,
    refused: Mutex<Option<Untrusted>>,
}

#[derive(Clone, Debug)]
enum Rule {
    Authorities(Arc<Authorities>),
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

    /// The certificate refused since the last call.
    pub fn take_refused(&self) -> Option<Untrusted> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.take()
    }

    /// Keeps the reason, and returns a generic error for rustls.
    fn refuse(&self, certificate: &CertificateDer<'_>, reason: Reason) -> rustls::Error {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(Untrusted {
            fingerprint: Fingerprint::of(certificate),
            reason,
        });
        CertificateError::ApplicationVerificationFailure.into()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let fingerprint = Fingerprint::of(end_entity);
        let verified = match &self.rule {
            Rule::Pinned(pinned) if *pinned != fingerprint => Err(Reason::NotPinned {
                pinned: *pinned,
                usable: usable(end_entity, algorithms).is_ok(),
            }),
            // Checked first: no hint may suggest pinning a key that cannot be used.
            rule => usable(end_entity, algorithms).and_then(|()| match rule {
                Rule::Any | Rule::Pinned(_) => Ok(()),
                Rule::Authorities(authorities) => authorities.verify(
                    &Shown {
                        own: end_entity,
                        intermediates,
                        expected: server_name,
                        now,
                    },
                    algorithms,
                ),
            }),
        };
        verified
            .map(|()| ServerCertVerified::assertion())
            .map_err(|reason| self.refuse(end_entity, reason))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        public_key(cert)
            .ok_or(Reason::Malformed)
            .and_then(|key| verify_tls12_signature(message, &key, dss, algorithms))
            .map_err(|reason| self.refuse(cert, reason))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let Some(key) = public_key(cert) else {
            return Err(self.refuse(cert, Reason::Malformed));
        };
        verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
            .map_err(|_| self.refuse(cert, Reason::Unproven))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Whether qkey supports the certificate's key.
fn usable(
    certificate: &CertificateDer<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Reason> {
    let Some(contents) = Certificate::read(certificate) else {
        // webpki tolerates some encodings that are not strictly DER.
        return match EndEntityCert::try_from(certificate) {
            Ok(_) => Ok(()),
            Err(_) => Err(Reason::Malformed),
        };
    };
    let key = contents.key_algorithm().ok_or(Reason::Malformed)?;
    if !algorithms
        .all
        .iter()
        .any(|algorithm| *algorithm.public_key_alg_id() == *key)
    {
        return Err(Reason::Key(algorithm(&key)));
    }
    match contents.unusable_rsa_bits() {
        Some(bits) => Err(Reason::KeyLength(Which::Own, bits)),
        None => Ok(()),
    }
}

/// The public key of a certificate. webpki rejects some that can be pinned, such as version 1.
fn public_key(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    match EndEntityCert::try_from(certificate) {
        Ok(certificate) => Some(certificate.subject_public_key_info()),
        Err(_) => Certificate::read(certificate)?.public_key_info(),
    }
}

/// `rustls::crypto::verify_tls12_signature` for a bare public key.
fn verify_tls12_signature(
    message: &[u8],
    key: &SubjectPublicKeyInfoDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Reason> {
    let key = RawPublicKeyEntity::try_from(key).map_err(|_| Reason::Malformed)?;
    let candidates = algorithms
        .mapping
        .iter()
        .filter(|(scheme, _)| *scheme == signed.scheme)
        .flat_map(|(_, algorithms)| *algorithms);
    // In TLS 1.2 a scheme leaves the curve open. An algorithm for another kind of key verifies nothing.
    let mut verified =
        candidates.map(|algorithm| key.verify_signature(*algorithm, message, signed.signature()));
    match verified.any(|verified| verified.is_ok()) {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(Reason::Unproven),
    }
}

/// How far the current request has come on a connection.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    connected: AtomicBool,
    sent: AtomicBool,
    /// Whether the request confirms a submission: only these may start after a signal.
    confirms: AtomicBool,
    /// Whether any connection to the host has succeeded yet.
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

    pub fn confirms(&self) -> bool {
        self.confirms.load(Ordering::SeqCst)
    }

    pub fn set_confirms(&self, confirms: bool) {
        self.confirms.store(confirms, Ordering::SeqCst);
    }

    /// A new request begins.
    pub fn begin(&self) {
        self.sent.store(false, Ordering::SeqCst);
    }

    /// The connection is gone, or will not be used again.
    pub fn disconnected(&self) {
        self.connected.store(false, Ordering::SeqCst);
    }
}

/// Wraps a connection in TLS, and records its progress.
#[derive(Debug)]
pub(crate) struct TlsConnector {
    pub config: ConnectionTls,
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
        // To a proxy: TLS starts inside the tunnel.
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| ureq::Error::Other(error.into()))?;
        let tls = &self.config;
        let client_certificate = &tls.client_certificate;
        client_certificate.wanted.store(false, Ordering::SeqCst);
        let connection = ClientConnection::new(tls.config.clone(), name)
            .map_err(|error| explained(io::Error::other(error), false))?;
        let adapter = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        let mut stream = StreamOwned::new(connection, adapter);
        stream.sock.set_timeout(details.timeout);
        stream
            .conn
            .complete_io(&mut stream.sock)
            .map_err(|error| explained(error, client_certificate.is_wanted()))?;
        self.progress.connected.store(true, Ordering::SeqCst);
        self.progress.reached.store(true, Ordering::SeqCst);
        Ok(Some(Either::B(TlsTransport {
            stream,
            progress: self.progress.clone(),
            client_certificate: client_certificate.clone(),
            answered: false,
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
        })))
    }
}

/// A TLS connection to the host itself.
pub(crate) struct TlsTransport {
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    progress: Arc<Progress>,
    client_certificate: Arc<ClientCertificate>,
    /// Whether the server has sent anything yet.
    answered: bool,
    buffers: LazyBuffers,
}

impl TlsTransport {
    fn explained(&self, error: io::Error) -> ureq::Error {
        // With TLS 1.3 a server refuses the client after the handshake.
        explained(error, self.client_certificate.is_wanted() && !self.answered)
    }
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
        // A signal may have arrived while connecting.
        let progress = &self.progress;
        if !progress.has_sent() && !progress.confirms() && interrupt::announced().is_some() {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        progress.sent.store(true, Ordering::SeqCst);
        self.stream.sock.set_timeout(timeout);
        let written = self.stream.write_all(&self.buffers.output()[..amount]);
        written.map_err(|mut error| {
            if self.client_certificate.is_wanted() {
                // The server may have said why before it closed the connection.
                error = self.stream.read(&mut [0]).err().unwrap_or(error);
            }
            self.explained(error)
        })
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf());
        let amount = read.map_err(|error| self.explained(error))?;
        if !self.answered && SpeaksHttp2::begins(&self.buffers.input_append_buf()[..amount]) {
            return Err(ureq::Error::Other(SpeaksHttp2.into()));
        }
        self.answered = true;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Unread bytes would be taken for the response to the next request.
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
    fn fingerprint_parses_openssl_and_qkey_forms() {
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
