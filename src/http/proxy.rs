//! The HTTPS proxy that the environment names, read as curl reads it.

use std::{env, net::IpAddr};

use ureq::{Proxy, ProxyProtocol};

use super::authority;

/// An HTTP proxy.
#[derive(Debug)]
pub(crate) struct Route {
    pub proxy: Proxy,
    /// `HOST:PORT`, without its user and password.
    pub address: String,
    /// The environment variable that names it.
    pub variable: &'static str,
}

/// An environment variable names something that is not an HTTP proxy.
#[derive(Debug, thiserror::Error)]
#[error("{variable} does not name a usable proxy")]
pub struct Unusable {
    pub variable: &'static str,
}

/// The proxy for a host; `None` for a direct connection.
///
/// # Errors
/// When the environment names something that is not an HTTP proxy.
pub(crate) fn route_to(host: &str) -> Result<Option<Route>, Unusable> {
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
    if find(&["no_proxy", "NO_PROXY"]).is_some_and(|(_, exceptions)| exempts(&exceptions, host)) {
        return Ok(None);
    }
    // The URL may contain a password, so it is never shown.
    let usable = Proxy::new(&url)
        .ok()
        .filter(|proxy| proxy.protocol() == ProxyProtocol::Http)
        .and_then(|proxy| {
            let found = proxy.uri().authority()?.as_str();
            let found = found.rsplit_once('@').map_or(found, |(_, address)| address);
            let address = authority(proxy.host(), proxy.port())?;
            (found == proxy.host() || found == address).then_some((proxy, address))
        });
    let (proxy, address) = usable.ok_or(Unusable { variable })?;
    Ok(Some(Route {
        proxy,
        address,
        variable,
    }))
}

/// Whether `no_proxy` lists a host: as `*`, by its name, a parent domain, or its address, or in a
/// network with a prefix length.
fn exempts(no_proxy: &str, host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    let host = host.to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    let mut exceptions = no_proxy
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|exception| !exception.is_empty());
    exceptions.any(|exception| match address {
        _ if exception == "*" => true,
        Some(address) => is_within(address, exception).unwrap_or(false),
        None => {
            let name = exception.to_ascii_lowercase();
            let name = name.trim_start_matches("*.").trim_matches('.');
            let below = host.strip_suffix(name).filter(|_| !name.is_empty());
            below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
        }
    })
}

/// `None` if `network` is malformed.
fn is_within(address: IpAddr, network: &str) -> Option<bool> {
    let (base, prefix) = match network.split_once('/') {
        Some((base, prefix)) => (base, prefix.parse::<u32>().ok()?),
        None => (network, 128),
    };
    let (differing, length) = match (address, base.trim_matches(['[', ']']).parse().ok()?) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits() ^ b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        _ => return Some(false),
    };
    let beyond = length - prefix.min(length);
    Some(differing.checked_shr(beyond).unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_lists_names_addresses_and_networks() {
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
            assert!(exempts(exceptions, host), "{exceptions} lists {host}");
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
            assert!(
                !exempts(exceptions, host),
                "{exceptions} does not list {host}"
            );
        }
    }
}
