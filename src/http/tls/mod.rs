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
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, OtherError,
    SignatureScheme, StreamOwned,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key},
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
use super::progress::{Flag, Progress};
use crate::interrupt;

/// Which server certificates to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Certificates for the host name, signed by a CA that the system trusts.
    System,
    /// Certificates for the host name that are in this PEM file, or signed by a CA in it.
    CaFile(PathBuf),
    /// Only the certificate with this fingerprint, regardless of its names and dates.
    Pinned(Fingerprint),
    /// Any certificate.
    Insecure,
}

/// The SHA-256 of a certificate's DER, as `openssl x509 -fingerprint -sha256` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    Library(#[source] Error),
}

/// The TLS settings of a host, shared by all connections to it.
pub(crate) struct Tls(ClientConfig);

impl Tls {
    /// Reads the certificates to trust.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(trust: &Trust) -> Result<Self, TrustError> {
        let rule = match trust {
            Trust::System => {
                Rule::Authorities(Authorities::of_system().map_err(TrustError::NoAuthorities)?)
            }
            Trust::CaFile(path) => {
                let unusable = |error| TrustError::CaFile(path.clone(), error);
                Rule::Authorities(Authorities::in_file(path).map_err(unusable)?)
            }
            Trust::Pinned(fingerprint) => Rule::Pinned(*fingerprint),
            Trust::Insecure => Rule::Any,
        };
        let provider = ring::default_provider();
        let algorithms = provider.signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Library)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { rule, algorithms }))
            .with_no_client_auth();
        // A server without HTTP/1.1 then reports that before qkey sends a request.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(config))
    }

    /// Makes the TLS layer of one connection.
    pub(super) fn connector(&self, progress: Arc<Progress>) -> TlsConnector {
        let client_certificate = Arc::<ClientCertificate>::default();
        let mut config = self.0.clone();
        config.client_auth_cert_resolver = client_certificate.clone();
        TlsConnector {
            config: config.into(),
            client_certificate,
            progress,
        }
    }
}

/// Records whether the server requests a client certificate: that explains why it closes the connection.
#[derive(Debug, Default)]
struct ClientCertificate {
    wanted: Flag,
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.wanted.set(true);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Classifies a TLS error; passes others on.
fn explained(error: io::Error, client_certificate: bool) -> ureq::Error {
    let error = match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => return error.into(),
    };
    let refused = match &error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(refused))) => {
            refused.downcast_ref::<Untrusted>()
        }
        _ => None,
    };
    ureq::Error::Other(match refused {
        Some(untrusted) => untrusted.clone().into(),
        None => HandshakeError::new(&error, client_certificate).into(),
    })
}

/// Verifies the server's certificate.
#[derive(Debug)]
struct Verifier {
    rule: Rule,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Rule {
    Authorities(Authorities),
    Pinned(Fingerprint),
    Any,
}

fn refusal(certificate: &CertificateDer<'_>, reason: Reason) -> Error {
    let fingerprint = Fingerprint::of(certificate);
    let untrusted = Untrusted {
        fingerprint,
        reason,
    };
    CertificateError::Other(OtherError(Arc::new(untrusted))).into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usable = usable(end_entity, &self.algorithms);
        let verified = match &self.rule {
            Rule::Pinned(pinned) if *pinned != Fingerprint::of(end_entity) => {
                Err(Reason::NotPinned {
                    pinned: *pinned,
                    usable: usable.is_ok(),
                })
            }
            // This comes first: no hint may suggest pinning a key that cannot be used.
            _ if usable.is_err() => usable,
            Rule::Any | Rule::Pinned(_) => Ok(()),
            Rule::Authorities(authorities) => {
                let shown = Shown {
                    own: end_entity,
                    intermediates,
                    expected: server_name,
                    now,
                };
                authorities.verify(&shown, &self.algorithms)
            }
        };
        verified
            .map(|()| ServerCertVerified::assertion())
            .map_err(|reason| refusal(end_entity, reason))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        public_key(cert)
            .and_then(|key| verify_tls12_signature(message, &key, dss, &self.algorithms))
            .map_err(|reason| refusal(cert, reason))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        public_key(cert)
            .and_then(|key| {
                verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
                    .map_err(|_| Reason::Unproven)
            })
            .map_err(|reason| refusal(cert, reason))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
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
    let mut supported = algorithms.all.iter().map(|it| it.public_key_alg_id());
    if !supported.any(|supported| *supported == *key) {
        return Err(Reason::Key(algorithm(&key)));
    }
    match contents.unusable_rsa_bits() {
        Some(bits) => Err(Reason::KeyLength(Which::Own, bits)),
        None => Ok(()),
    }
}

/// The public key of a certificate. webpki rejects some that can be pinned, such as version 1.
fn public_key(
    certificate: &CertificateDer<'_>,
) -> Result<SubjectPublicKeyInfoDer<'static>, Reason> {
    match EndEntityCert::try_from(certificate) {
        Ok(certificate) => Ok(certificate.subject_public_key_info()),
        Err(_) => Certificate::read(certificate)
            .and_then(|certificate| certificate.public_key_info())
            .ok_or(Reason::Malformed),
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
    // In TLS 1.2, a scheme does not determine the curve. An algorithm for another kind of key verifies
    // nothing.
    let mut verified =
        candidates.map(|algorithm| key.verify_signature(*algorithm, message, signed.signature()));
    if verified.any(|verified| verified.is_ok()) {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(Reason::Unproven)
    }
}

/// Wraps a connection in TLS, and records its progress.
#[derive(Debug)]
pub(super) struct TlsConnector {
    config: Arc<ClientConfig>,
    client_certificate: Arc<ClientCertificate>,
    progress: Arc<Progress>,
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
        // This connection is to a proxy: TLS starts inside the tunnel.
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| ureq::Error::Other(error.into()))?;
        let wanted = &self.client_certificate.wanted;
        wanted.set(false);
        let connection = ClientConnection::new(self.config.clone(), name)
            .map_err(|error| explained(io::Error::other(error), false))?;
        let adapter = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        let mut stream = StreamOwned::new(connection, adapter);
        stream.sock.set_timeout(details.timeout);
        stream
            .conn
            .complete_io(&mut stream.sock)
            .map_err(|error| explained(error, wanted.get()))?;
        self.progress.connected.set(true);
        self.progress.reached.set(true);
        Ok(Some(Either::B(TlsTransport {
            stream,
            progress: self.progress.clone(),
            client_certificate: self.client_certificate.clone(),
            answered: false,
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
        })))
    }
}

/// A TLS connection to the host itself.
pub(super) struct TlsTransport {
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    progress: Arc<Progress>,
    client_certificate: Arc<ClientCertificate>,
    /// Whether the server has sent anything yet.
    answered: bool,
    buffers: LazyBuffers,
}

impl TlsTransport {
    fn explained(&self, error: io::Error) -> ureq::Error {
        // With TLS 1.3, a server refuses the client after the handshake.
        explained(
            error,
            self.client_certificate.wanted.get() && !self.answered,
        )
    }
}

impl Drop for TlsTransport {
    fn drop(&mut self) {
        self.progress.connected.set(false);
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl TlsTransport {
    /// The alert with which the server said why before it closed the connection.
    fn pending_alert(&mut self) -> Option<io::Error> {
        let StreamOwned { conn, sock } = &mut self.stream;
        // `Stream::read` would first write what is left to write, and fail.
        while conn.read_tls(sock).ok()? > 0 {
            if let Err(error) = conn.process_new_packets() {
                return Some(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        None
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        // A signal may have arrived while connecting.
        let progress = &self.progress;
        if !progress.sent.get() && !progress.confirms() && interrupt::announced().is_some() {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        progress.sent.set(true);
        self.stream.sock.set_timeout(timeout);
        let written = self.stream.write_all(&self.buffers.output()[..amount]);
        written.map_err(|mut error| {
            if self.client_certificate.wanted.get() {
                error = self.pending_alert().unwrap_or(error);
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

    /// Unread bytes would pass for the response to the next request.
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
