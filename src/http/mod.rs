//! The HTTPS client: a few kept connections to one host, which certificates to trust, and the proxy in
//! between. It knows nothing about clusters; callers decide by matching on [`Failure`].

mod client;
mod failure;
mod progress;
pub(crate) mod proxy;
pub(crate) mod tls;

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls::pki_types::ServerName;

pub(crate) use self::{
    client::{Client, Response, Settings},
    failure::{Cause, Failure},
};

/// `HOST:PORT` as it appears in a URL; `None` unless `host` is only a host name or an address. IPv6
/// addresses may be in brackets.
pub(crate) fn authority(host: &str, port: u16) -> Option<String> {
    let inside = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    if inside.parse::<Ipv6Addr>().is_ok() {
        return Some(format!("[{inside}]:{port}"));
    }
    let is_address = host.parse::<Ipv4Addr>().is_ok();
    let is_name = || matches!(ServerName::try_from(host), Ok(ServerName::DnsName(_)));
    (is_address || is_name()).then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_is_host_and_port() {
        for (host, expected) in [
            ("qumulo.example.com", "qumulo.example.com:8000"),
            ("Qumulo_1.example.com.", "Qumulo_1.example.com.:8000"),
            ("127.0.0.1", "127.0.0.1:8000"),
            ("::1", "[::1]:8000"),
            ("[fd00::7]", "[fd00::7]:8000"),
        ] {
            assert_eq!(authority(host, 8000).as_deref(), Some(expected));
        }
    }
}
