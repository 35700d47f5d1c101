//! Why there is no TLS with a server, whatever its certificate.

use std::fmt;

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// Why there is no TLS with a server, or no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    NotTls,
    /// It supports neither TLS 1.2 nor TLS 1.3.
    Version,
    NothingInCommon,
    /// It wants a client certificate, and said so with this alert.
    ClientCertificate(AlertDescription),
    /// It knows no host of this name.
    HostName,
    /// It does not speak HTTP/1.1.
    Protocol,
    NoCertificate,
    /// It ended TLS with this alert.
    Alert(AlertDescription),
    /// It violates the protocol.
    Violation,
    /// What arrived was not what had been sent.
    Damaged,
    /// The library failed by itself.
    Internal,
}

impl HandshakeError {
    /// `client_certificate`: whether the server has asked for one, and not answered a request yet.
    pub fn new(error: &Error, client_certificate: bool) -> Self {
        match error {
            Error::AlertReceived(alert) if client_certificate && refuses_client(*alert) => {
                Self::ClientCertificate(*alert)
            }
            Error::AlertReceived(alert) => Self::from_alert(*alert),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload,
            ) => Self::NotTls,
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::Version,
            Error::PeerIncompatible(_) => Self::NothingInCommon,
            Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol)
            | Error::NoApplicationProtocol => Self::Protocol,
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::InvalidMessage(_)
            | Error::PeerMisbehaved(_)
            | Error::PeerSentOversizedRecord
            | Error::InvalidCertificate(_) => Self::Violation,
            Error::DecryptError => Self::Damaged,
            _ => Self::Internal,
        }
    }

    fn from_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::ProtocolVersion => Self::Version,
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                Self::NothingInCommon
            }
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                Self::ClientCertificate(alert)
            }
            AlertDescription::UnrecognisedName => Self::HostName,
            AlertDescription::NoApplicationProtocol => Self::Protocol,
            AlertDescription::BadRecordMac
            | AlertDescription::DecryptError
            | AlertDescription::DecryptionFailed => Self::Damaged,
            alert => Self::Alert(alert),
        }
    }

    /// Whether the server cannot have looked at a request: it has not completed the handshake
    /// (RFC 8446, 4.4.2.4 and 6.2), which with TLS 1.3 the client learns only after it sent one.
    pub fn precedes_requests(self) -> bool {
        self == Self::ClientCertificate(AlertDescription::CertificateRequired)
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::NotTls => {
                "check --host and --port: --via rest needs the cluster's HTTPS port (8000 by default)"
            }
            Self::Version => "enable TLS 1.2 or TLS 1.3 on the server, or check --host and --port",
            Self::NothingInCommon => {
                "on the server, enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, and use a certificate with an RSA key of at least 2048 bits or a P-256, P-384, or Ed25519 key; --via qq may work with others, but does not verify certificates"
            }
            Self::ClientCertificate(_) => {
                "qkey cannot present one; check --host and --port, or bypass the gateway that asks for it"
            }
            Self::HostName => "check --host: use a host name that the cluster is configured with",
            Self::Protocol => "check --host and --port: the REST API of a cluster speaks HTTP/1.1",
            Self::Damaged => {
                "check the network, and any proxy or firewall that inspects TLS connections"
            }
            Self::NoCertificate | Self::Alert(_) | Self::Violation | Self::Internal => {
                "check --host and --port: another service may be listening there; otherwise, check the server's TLS settings"
            }
        }
    }
}

/// The alerts that servers send to clients without the certificate that they asked for.
fn refuses_client(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateUnknown
            | AlertDescription::HandshakeFailure
            | AlertDescription::NoCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}

impl std::error::Error for HandshakeError {}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTls => "the server does not speak TLS",
            Self::Version => "the server supports neither TLS 1.2 nor TLS 1.3",
            Self::NothingInCommon => {
                "the server and qkey share no TLS cipher suite, key exchange, or certificate key type"
            }
            Self::ClientCertificate(_) => "the server requires a client certificate",
            Self::HostName => "the server does not recognize this host name",
            Self::Protocol => "the server does not speak HTTP/1.1",
            Self::NoCertificate => "the server did not show a certificate",
            Self::Alert(alert) => return explain(*alert, f),
            Self::Violation => "the server violated the TLS protocol",
            Self::Damaged => "TLS data was corrupted in transit",
            Self::Internal => "TLS failed on this machine",
        })
    }
}

fn explain(alert: AlertDescription, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "the server closed the TLS connection with the alert ")?;
    // As RFC 8446, 6 and RFC 6066 spell them.
    f.write_str(match alert {
        AlertDescription::CloseNotify => "close_notify",
        AlertDescription::UnexpectedMessage => "unexpected_message",
        AlertDescription::RecordOverflow => "record_overflow",
        AlertDescription::DecompressionFailure => "decompression_failure",
        AlertDescription::BadCertificate => "bad_certificate",
        AlertDescription::UnsupportedCertificate => "unsupported_certificate",
        AlertDescription::CertificateRevoked => "certificate_revoked",
        AlertDescription::CertificateExpired => "certificate_expired",
        AlertDescription::CertificateUnknown => "certificate_unknown",
        AlertDescription::IllegalParameter => "illegal_parameter",
        AlertDescription::UnknownCA => "unknown_ca",
        AlertDescription::AccessDenied => "access_denied",
        AlertDescription::DecodeError => "decode_error",
        AlertDescription::ExportRestriction => "export_restriction",
        AlertDescription::InternalError => "internal_error",
        AlertDescription::InappropriateFallback => "inappropriate_fallback",
        AlertDescription::UserCanceled => "user_canceled",
        AlertDescription::NoRenegotiation => "no_renegotiation",
        AlertDescription::MissingExtension => "missing_extension",
        AlertDescription::UnsupportedExtension => "unsupported_extension",
        AlertDescription::CertificateUnobtainable => "certificate_unobtainable",
        AlertDescription::BadCertificateStatusResponse => "bad_certificate_status_response",
        AlertDescription::BadCertificateHashValue => "bad_certificate_hash_value",
        AlertDescription::UnknownPSKIdentity => "unknown_psk_identity",
        AlertDescription::EncryptedClientHelloRequired => "ech_required",
        other => return write!(f, "{}", u8::from(other)),
    })
}

/// What answers a request of HTTP/1.1 in HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct SpeaksHttp2;

impl SpeaksHttp2 {
    /// Whether the first bytes of an answer are those of HTTP/2: its connections begin with a frame of
    /// the type SETTINGS on stream 0 (RFC 9113, 3.4 and 6.5), or end with one of the type GOAWAY.
    pub fn begins(bytes: &[u8]) -> bool {
        const SETTINGS: u8 = 4;
        const GOAWAY: u8 = 7;
        match bytes {
            [0, _, _, SETTINGS | GOAWAY, _, stream @ ..] => stream.starts_with(&[0; 4]),
            _ => false,
        }
    }
}

impl std::error::Error for SpeaksHttp2 {}

impl fmt::Display for SpeaksHttp2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HTTP/2, where HTTP/1.1 was asked for")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_of_rustls_shows_as_its_rust_name() {
        for (error, name) in [
            (
                Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare),
                "InvalidKeyShare",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon),
                "NoKxGroupsInCommon",
            ),
            (
                Error::InvalidMessage(InvalidMessage::MissingKeyExchange),
                "MissingKeyExchange",
            ),
            (Error::General("SomeStruct { .. }".to_owned()), "SomeStruct"),
            (Error::DecryptError, "DecryptError"),
            (Error::FailedToGetCurrentTime, "FailedToGetCurrentTime"),
            (Error::PeerSentOversizedRecord, "OversizedRecord"),
        ] {
            let words = HandshakeError::new(&error, false).to_string();
            assert!(!words.contains(name), "{words}");
        }
    }

    #[test]
    fn alert_after_a_request_for_a_client_certificate_names_the_certificate() {
        let alert = Error::AlertReceived(AlertDescription::HandshakeFailure);
        for (wanted, expected) in [
            (
                true,
                HandshakeError::ClientCertificate(AlertDescription::HandshakeFailure),
            ),
            (false, HandshakeError::NothingInCommon),
        ] {
            assert_eq!(HandshakeError::new(&alert, wanted), expected);
        }
    }

    #[test]
    fn http_2_is_told_by_its_first_frame() {
        assert!(SpeaksHttp2::begins(b"\0\0\x12\x04\0\0\0\0\0\0\x03"));
        assert!(SpeaksHttp2::begins(b"\0\0\x08\x07\0\0\0\0\0"));
        for other in [
            &b"HTTP/1.1 200 OK\r\n"[..],
            b"",
            b"\0\0\x12\x04\0\0",
            b"\0\0\x08\0\0\0\0\0\0",
        ] {
            assert!(!SpeaksHttp2::begins(other), "{other:?}");
        }
    }
}
