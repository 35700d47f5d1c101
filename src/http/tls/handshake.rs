//! Why TLS with a server failed, for reasons other than its certificate.

use std::sync::LazyLock;

use regex::Regex;
use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

/// Why TLS with a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the server does not speak TLS")]
    NotTls,
    #[error("the server supports neither TLS 1.2 nor TLS 1.3")]
    Version,
    #[error("the server and qkey share no TLS cipher suite, key exchange, or certificate key type")]
    NothingInCommon,
    /// The server says so with this alert.
    #[error("the server requires a client certificate")]
    ClientCertificate(AlertDescription),
    #[error("the server does not recognize this host name")]
    HostName,
    #[error("the server does not speak HTTP/1.1")]
    Protocol,
    #[error("the server did not show a certificate")]
    NoCertificate,
    #[error("the server closed the TLS connection with the alert {}", name(*.0))]
    Alert(AlertDescription),
    #[error("the server violated the TLS protocol")]
    Violation,
    #[error("TLS data was corrupted in transit")]
    Damaged,
    /// The library failed.
    #[error("TLS failed on this machine")]
    Internal,
}

impl HandshakeError {
    /// `client_certificate`: whether the server requested one and has not sent anything since.
    pub fn new(error: &Error, client_certificate: bool) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::from_alert(*alert, client_certificate),
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

    fn from_alert(alert: AlertDescription, client_certificate: bool) -> Self {
        use AlertDescription as Alert;
        match alert {
            Alert::CertificateRequired | Alert::NoCertificate => Self::ClientCertificate(alert),
            // Servers send these to clients without the requested certificate.
            Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::HandshakeFailure
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate
                if client_certificate =>
            {
                Self::ClientCertificate(alert)
            }
            Alert::ProtocolVersion => Self::Version,
            Alert::HandshakeFailure | Alert::InsufficientSecurity => Self::NothingInCommon,
            Alert::UnrecognisedName => Self::HostName,
            Alert::NoApplicationProtocol => Self::Protocol,
            Alert::BadRecordMac | Alert::DecryptError | Alert::DecryptionFailed => Self::Damaged,
            alert => Self::Alert(alert),
        }
    }

    /// Whether the server cannot have read a request because it did not complete the handshake
    /// (RFC 8446, 4.4.2.4 and 6.2). With TLS 1.3, the client learns of that only after it sent one.
    pub fn precedes_requests(self) -> bool {
        self == Self::ClientCertificate(AlertDescription::CertificateRequired)
    }
}

/// The name of an alert in RFC 8446, 6 or RFC 6066, or its number.
fn name(alert: AlertDescription) -> String {
    static WORD_ENDS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new("([a-z])([A-Z])|([A-Z])([A-Z][a-z])").expect("a valid pattern")
    });
    match (alert, alert.as_str()) {
        (AlertDescription::EncryptedClientHelloRequired, _) => "ech_required".to_owned(),
        // rustls spells them like `UnknownPSKIdentity`.
        (_, Some(name)) => WORD_ENDS
            .replace_all(name, "$1${3}_$2$4")
            .to_ascii_lowercase(),
        (_, None) => u8::from(alert).to_string(),
    }
}

/// The server replies in HTTP/2 to an HTTP/1.1 request.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it is HTTP/2, not HTTP/1.1")]
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
