//! On a cluster node, `qq` reaches the node's own cluster regardless of `--host`.

use std::{
    fs,
    io::{
        self,
        ErrorKind::{NotADirectory, NotFound},
    },
    net::{IpAddr, UdpSocket},
};

use rustix::system::uname;

use crate::cluster::DEFAULT_PORT;

/// Where a node's own REST API listens. `qq` 7.5.3 and later uses this socket wherever it exists.
const SOCKET: &str = "/run/qfsd/rest.sock";

/// `qq` might reach a cluster other than the named one.
#[derive(Debug, thiserror::Error)]
#[error("qq cannot be trusted to reach {named} from this machine")]
pub struct Astray {
    /// The cluster as the user named it.
    named: String,
    #[source]
    why: Why,
}

/// Why `qq` might not reach the named cluster.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    #[error(
        "this is a cluster node: {SOCKET} exists, and qq 7.5.3 and later sends every request there, whatever host and port it is given"
    )]
    Node,
    #[error("cannot tell whether this is a cluster node: cannot look for {SOCKET}")]
    Unknown { source: io::Error },
}

/// Makes sure that `qq` would not reach this node's own cluster instead of the one at `host` and `port`.
/// The socket comes and goes with the node's services, so call this before each call.
///
/// # Errors
/// When it might.
pub(in crate::cluster) fn check(host: Option<&str>, port: u16) -> Result<(), Astray> {
    if host.is_none() && port == DEFAULT_PORT {
        return Ok(());
    }
    let why = match fs::symlink_metadata(SOCKET) {
        // Any file counts: if qq sees one, it connects to nothing else. A dangling link may lead to a
        // socket soon.
        Ok(_) => Why::Node,
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(()),
        Err(source) => Why::Unknown { source },
    };
    // Another port may be a tunnel to another cluster, and qq would not use it.
    if port == DEFAULT_PORT && host.is_some_and(is_this_machine) {
        return Ok(());
    }
    let named = match host {
        Some(host) => format!("{host}:{port}"),
        None => format!("port {port}"),
    };
    Err(Astray { named, why })
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(host).parse::<IpAddr>() {
        return is_own_address(address.to_canonical());
    }
    let own_name = uname().nodename().to_string_lossy().into_owned();
    let hosts = || fs::read_to_string("/etc/hosts").unwrap_or_default();
    is_own_name(host, &own_name, hosts)
}

fn is_own_address(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_loopback() || address.is_multicast() || broadcast {
        return address.is_loopback();
    }
    let family = match address {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    };
    // With this setting, a program can bind any address.
    let setting = fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    setting.is_ok_and(|value| value.trim() == "0") && UdpSocket::bind((address, 0)).is_ok()
}

/// Whether a name is this machine's own. DNS cannot tell: its replies may change, and a round-robin name
/// also leads to other nodes.
fn is_own_name(host: &str, own_name: &str, hosts: impl FnOnce() -> String) -> bool {
    let name = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
    let short = |text: &str| text.split('.').next().unwrap_or_default().to_owned();
    let (host, own) = (name(host), name(own_name));
    if host == "localhost" || host == own || host == short(&own) {
        return !host.is_empty();
    }
    // If the host name lacks its domain, the hosts file has both.
    own == short(&own) && own == short(&host) && is_local_in(&hosts(), &host)
}

/// Whether a hosts file maps a name only to this machine's addresses.
fn is_local_in(hosts: &str, name: &str) -> bool {
    let own: Vec<bool> = hosts
        .lines()
        .filter_map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let (address, names) = line.split_once(char::is_whitespace)?;
            let mut names = names.split_whitespace();
            names.find(|other| other.eq_ignore_ascii_case(name))?;
            Some(address.parse().is_ok_and(is_own_address))
        })
        .collect();
    !own.is_empty() && own.into_iter().all(|own| own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_name_and_localhost_are_this_machine() {
        let hosts = "127.0.1.1\tnode-3.example.com node-3 # this node\n\
                     127.0.0.1 dr.example.com\n\
                     127.0.0.1 node-3.both.example\n240.0.0.1 node-3.both.example\n\
                     240.0.0.2 node-3.away.example\n\
                     127.0.0.x node-3.garbled.example\n";
        let is_own = |host: &str, own: &str| is_own_name(host, own, || hosts.to_owned());
        for (host, own) in [
            ("localhost", "x"),
            ("LOCALHOST.", "x"),
            ("node-3", "node-3"),
            ("Node-3.", "node-3"),
            ("node-3", "node-3.example.com"),
            ("node-3.EXAMPLE.com.", "node-3.example.com."),
            ("node-3.example.com", "node-3"),
        ] {
            assert!(is_own(host, own), "{host} on {own}");
        }
        for (host, own) in [
            ("", ""),
            (".", ""),
            ("node-3.example.org", "node-3"),
            ("node-3.example.org", "node-3.example.com"),
            ("node-3.both.example", "node-3"),
            ("node-3.away.example", "node-3"),
            ("node-3.garbled.example", "node-3"),
            ("dr.example.com", "node-3"),
            ("localhost.example.com", "node-3"),
            ("node-4", "node-3"),
        ] {
            assert!(!is_own(host, own), "{host} on {own}");
        }
    }

    #[test]
    fn loopback_and_interface_addresses_are_this_machine() {
        for own in [
            "127.0.0.1",
            "127.255.0.9",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_this_machine(own), "{own}");
        }
        // Reserved, multicast and broadcast addresses, and spellings that need a resolver.
        for other in [
            "240.0.0.1",
            "2001:db8::1",
            "[2001:db8::1]",
            "::ffff:240.0.0.1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "127.1",
            "2130706433",
        ] {
            assert!(!is_this_machine(other), "{other}");
        }
    }
}
