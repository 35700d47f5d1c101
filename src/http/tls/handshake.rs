//! Why TLS with a server failed, apart from its certificate.

use std::fmt;

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// Why TLS with a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeError {
    NotTls,
    /// It supports neither TLS 1.2 nor TLS 1.3.
    Version,
    NothingInCommon,
    /// It requires a client certificate, as this alert says.
    ClientCertificate(AlertDescription),
    /// It does not recognize the host name.
    HostName,
    /// It does not speak HTTP/1.1.
    Protocol,
    NoCertificate,
    /// It closed the connection with this alert.
    Alert(AlertDescription),
    /// It violates the protocol.
    Violation,
    /// Data was corrupted in transit.
    Damaged,
    /// The library failed on this machine.
    Internal,
}

impl HandshakeError {
    /// `client_certificate`: whether the server requested one and has not sent anything since.
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

    /// Whether the server cannot have read a request because it did not complete the handshake
    /// (RFC 8446, 4.4.2.4 and 6.2). With TLS 1.3 the client learns that only after it sent one.
    pub fn precedes_requests(self) -> bool {
        self == Self::ClientCertificate(AlertDescription::CertificateRequired)
    }
}

/// The alerts that servers send to clients without the requested certificate.
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

/// The server replies in HTTP/2 to an HTTP/1.1 request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpeaksHttp2;

impl SpeaksHttp2 {
    /// Whether a response begins as HTTP/2 does: with a SETTINGS frame on stream 0 (RFC 9113, 3.4 and
    /// 6.5), or with a GOAWAY frame.
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
        f.write_str("it is HTTP/2, not HTTP/1.1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustls_errors_never_show_rust_names() {
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
    fn alert_after_certificate_request_means_client_certificate() {
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
    fn http_2_is_recognized_by_its_first_frame() {
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
