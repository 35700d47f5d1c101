//! The proxy that the environment names for HTTPS, as curl reads it.

use std::{env, net::IpAddr};

use ureq::{Proxy, ProxyProtocol};

use super::authority;
use crate::error::{Error, Kind, Result};

/// A proxy to go through.
pub(super) struct Way {
    pub proxy: Proxy,
    /// `HOST:PORT`, without its user and password.
    pub address: String,
    /// The environment variable that names it.
    pub variable: &'static str,
}

/// The way to a host; `None` is the direct one.
///
/// # Errors
/// Of kind `usage` when what the environment names is no proxy, or of another kind than HTTP.
pub(super) fn way_to(host: &str) -> Result<Option<Way>> {
    let find = |names: &[&'static str]| {
        names.iter().find_map(|&name| {
            let value = env::var(name).ok().filter(|value| !value.is_empty())?;
            Some((name, value))
        })
    };
    let Some((variable, url)) = find(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
    else {
        return Ok(None);
    };
    if find(&["no_proxy", "NO_PROXY"]).is_some_and(|(_, exceptions)| excepts(&exceptions, host)) {
        return Ok(None);
    }
    // The URL may hold a password, and is not shown.
    let usable = Proxy::new(&url)
        .ok()
        .filter(|proxy| proxy.protocol() == ProxyProtocol::Http)
        .and_then(|proxy| {
            let found = proxy.uri().authority()?.as_str();
            let found = found.rsplit_once('@').map_or(found, |(_, address)| address);
            let address = authority(proxy.host(), proxy.port())?;
            (found == proxy.host() || found == address).then_some((proxy, address))
        });
    match usable {
        Some((proxy, address)) => Ok(Some(Way {
            proxy,
            address,
            variable,
        })),
        None => Err(Error::new(
            Kind::Usage,
            format!("{variable} names no proxy that can be used"),
        )
        .hint("it must be http://HOST:PORT, with USER:PASSWORD@ before the host where need be")),
    }
}

/// Whether a host is among these: `*`, names, which stand for all below them too, addresses, and
/// networks with the length of their prefix.
fn excepts(exceptions: &str, host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    let host = host.to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    let mut exceptions = exceptions
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|exception| !exception.is_empty());
    exceptions.any(|exception| match address {
        _ if exception == "*" => true,
        Some(address) => is_within(address, exception).unwrap_or(false),
        None => {
            let name = exception.to_ascii_lowercase();
            let name = name.trim_start_matches("*.").trim_matches('.');
            match host.strip_suffix(name) {
                Some(below) => !name.is_empty() && (below.is_empty() || below.ends_with('.')),
                None => false,
            }
        }
    })
}

/// `None` where the network is none.
fn is_within(address: IpAddr, network: &str) -> Option<bool> {
    let (base, prefix) = match network.split_once('/') {
        Some((base, prefix)) => (base, prefix.parse::<u32>().ok()?),
        None => (network, 128),
    };
    let (differing, length) = match (address, base.trim_matches(['[', ']']).parse().ok()?) {
        (IpAddr::V4(address), IpAddr::V4(base)) => {
            (u128::from(address.to_bits() ^ base.to_bits()), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(base)) => (address.to_bits() ^ base.to_bits(), 128),
        _ => return Some(false),
    };
    let beyond = length - prefix.min(length);
    Some(differing.checked_shr(beyond).unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_names_addresses_and_networks() {
        for (exceptions, host) in [
            ("*", "a"),
            ("a.example", "a.example"),
            ("A.example", "a.EXAMPLE."),
            ("example", "a.example"),
            (".example", "a.b.example"),
            ("*.example", "a.example"),
            ("b, a.example ,c", "a.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.0/8", "10.200.0.1"),
            ("0.0.0.0/0", "10.200.0.1"),
            ("::1", "[::1]"),
            ("[::1]", "::1"),
            ("fd00::/8", "fd12::1"),
            ("::/0", "fd12::1"),
        ] {
            assert!(excepts(exceptions, host), "{exceptions} has {host}");
        }
        for (exceptions, host) in [
            ("", "a"),
            (" , ", "a"),
            (".", "a"),
            ("xample", "example"),
            ("a.example", "example"),
            ("b.example", "a.example"),
            ("10.0.0.1", "10.0.0.10"),
            ("10", "10.0.0.10"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("10.0.0.0/x", "10.0.0.1"),
            ("0.0.0.0/0", "::1"),
            ("fd00::/8", "fe00::1"),
        ] {
            assert!(!excepts(exceptions, host), "{exceptions} has not {host}");
        }
    }
}
