//! Whom `--via rest` believes to be the cluster.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use crate::support::{
    core::{Core, QQ_VERSION, Shown},
    mock::Mock,
    qkey::{Qkey, Run},
};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use serde_json::json;
use snapbox::{IntoData, assert_data_eq, str};

/// To the simulated Core, of which nothing is known but where it is.
fn trusting_nobody(core: &Core) -> Qkey {
    Qkey::new()
        .env("QKEY_VIA", "rest")
        .env("QKEY_HOST", "127.0.0.1")
        .env("QKEY_PORT", &core.port().to_string())
        .env("QKEY_CREDENTIALS_STORE", path(core.credentials()))
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// With the fingerprints, which differ from run to run, replaced.
fn transcript(core: &Core, run: &Run) -> String {
    run.transcript()
        .replace(core.fingerprint(), "sha256:[CORE]")
        .replace(path(core.ca_file()), "[CA]")
}

fn expect_trust(run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
}

/// With what the clock says replaced.
fn without_clock(text: &str) -> String {
    let mut parts = text.split("clock says ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |said, part| {
        let (time, rest) = part.split_at("2026-11-25 21:05 UTC".len());
        assert!(time.ends_with(" UTC"), "{time}");
        said + "clock says [NOW]" + rest
    })
}

/// Whether curl, which trusts these certificates alone, takes the Core's.
fn curl_accepts(core: &Core) -> bool {
    let url = format!("https://127.0.0.1:{}/v1/version", core.port());
    let status = Command::new("curl")
        .args([
            "--silent",
            "--output",
            "/dev/null",
            "--noproxy",
            "*",
            "--cacert",
        ])
        .args([path(core.ca_file()), &url])
        .status()
        .expect("curl runs");
    status.success()
}

/// Expects a refused certificate, and no request to the server.
fn expect_none(core: &Core, run: &Run) {
    assert_eq!(run.code, 7, "{run:?}");
    assert_eq!(core.requests(), Vec::<serde_json::Value>::new());
}

const OTHER: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn certificate_of_an_unknown_ca_is_refused() {
    let core = Core::start();
    let qkey = trusting_nobody(&core);
    let run = qkey.run(["keys"]);
    expect_none(&core, &run);
    assert_data_eq!(transcript(&core, &run), str![[r#"
--- exit 7
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it was issued by "simulated-ca", which this system does not trust, and the server sent no intermediate certificates
hint: its fingerprint is sha256:[CORE]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[CORE], or trust the CA that signed it with --ca-file PEM

"#]].raw());
    let run = qkey.run(["keys", "--output=json"]);
    expect_none(&core, &run);
    assert_data_eq!(transcript(&core, &run), str![[r#"
--- exit 7
{"error":{"kind":"unreachable","message":"the certificate of 127.0.0.1:[PORT] is not trusted","causes":["it was issued by \"simulated-ca\", which this system does not trust, and the server sent no intermediate certificates"],"hint":"its fingerprint is sha256:[CORE]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[CORE], or trust the CA that signed it with --ca-file PEM","exit_code":7}}

"#]].raw());
}

#[test]
fn fingerprint_in_the_hint_is_accepted_when_pinned() {
    let core = Core::start();
    let qkey = trusting_nobody(&core);
    let run = qkey.run(["keys"]);
    let pin = run
        .stderr
        .split_whitespace()
        .find(|word| word.starts_with("--tls-fingerprint="));
    expect_trust(&qkey.run([
        "keys",
        pin.expect("it is in the hint").trim_end_matches(','),
    ]));
}

#[test]
fn system_cas_are_trusted_for_certificate_names() {
    for (certificate, host, trusted) in [
        ("signed", "127.0.0.1", true),
        ("signed", "localhost", true),
        ("signed", "LocalHost", true),
        ("wrong-name", "127.0.0.1", false),
        ("expired", "127.0.0.1", false),
    ] {
        let core = Core::start_with(&[&format!("--certificate={certificate}")]);
        let qkey = trusting_nobody(&core)
            .env("SSL_CERT_FILE", path(core.ca_file()))
            .env("QKEY_HOST", host);
        let run = qkey.run(["keys"]);
        match trusted {
            true => expect_trust(&run),
            false => expect_none(&core, &run),
        }
    }
}

#[test]
fn system_without_trusted_cas() {
    let core = Core::start();
    let qkey = trusting_nobody(&core)
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", "nowhere");
    let run = qkey.run(["keys"]);
    assert_data_eq!(transcript(&core, &run), str![[r#"
--- exit 2
error: this system does not trust any certificate authorities
  caused by: opening directory: No such file or directory (os error 2) at 'nowhere'
  caused by: No such file or directory (os error 2)
hint: install the package ca-certificates, trust the cluster's CA with --ca-file PEM, or pin the cluster's certificate with --tls-fingerprint

"#]].raw());
    assert_eq!(core.connections(), 0);
    expect_trust(&qkey.run(["keys", "--ca-file", path(core.ca_file())]));
}

#[test]
fn certificates_with_system_cas() {
    let core = Core::start();
    let mut said = String::new();
    for kind in ["self-signed", "self-signed-ca", "intermediate"] {
        let shown = core.show(json!({ "certificate": kind }));
        let run = trusting_nobody(&core).run(["keys"]);
        expect_none(&core, &run);
        said += &run.stderr.replace(&shown.fingerprint, "sha256:[SHOWN]");
    }
    assert_data_eq!(said, str![[r#"
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is self-signed, and this system does not trust it
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or save it to a file and trust that with --ca-file PEM
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is self-signed, and this system does not trust it
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or save it to a file and trust that with --ca-file PEM
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its chain ends at "simulated-ca", which this system does not trust
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or trust the CA that signed it with --ca-file PEM

"#]].raw());
}

/// The kinds of `tests/it/support/certificates.py`, with what is trusted in `--ca-file`.
const CERTIFICATES: &[&str] = &[
    "signed",
    "self-signed",
    "self-signed-ca",
    "self-signed-not-ca",
    "unknown-issuer-itself",
    "expired",
    "expired-itself",
    "not-yet-valid",
    "not-yet-valid-itself",
    "authority-expired",
    "authority-not-yet-valid",
    "dates-reversed",
    "wrong-name",
    "wrong-name-itself",
    "wrong-address",
    "address-as-dns-name",
    "address-as-dns-name-itself",
    "many-names",
    "common-name-only",
    "common-name-only-itself",
    "no-name",
    "hostile-names",
    "hostile-issuer",
    "intermediate",
    "intermediate-missing",
    "intermediate-expired",
    "unknown-root",
    "path-length",
    "path-length-of-intermediate",
    "issued-by-a-server",
    "issued-by-a-server-in-the-file",
    "name-constraints",
    "client-purpose",
    "client-purpose-itself",
    "critical-extension",
    "critical-extension-itself",
    "version-1-itself",
    "renewed",
    "renewed-same-key",
    "renewed-not-ca",
    "renewed-not-ca-same-key",
    "renewed-authority",
    "rsa-2048",
    "rsa-2048-itself",
    "rsa-1024",
    "rsa-1024-itself",
    "rsa-1024-leaf",
    "rsa-1024-authority",
    "p384",
    "p521",
    "p521-itself",
    "p521-authority",
    "ed25519",
    "ed25519-itself",
    "p256-sha512",
    "p256-sha512-itself",
    "rsa-pss",
    "sha1",
    "sha1-rsa",
    "sha1-itself",
];

#[test]
fn certificates_with_ca_file() {
    let core = Core::start();
    let mut said = String::new();
    for kind in CERTIFICATES {
        let shown = core.show(json!({ "certificate": kind }));
        let qkey = trusting_nobody(&core);
        let run = qkey.run(["keys", "--ca-file", path(core.ca_file())]);
        // In the store of the system it counts the same.
        let system = trusting_nobody(&core).env("SSL_CERT_FILE", path(core.ca_file()));
        assert_eq!(system.run(["keys"]).code, run.code, "{kind}");
        let curl = match curl_accepts(&core) {
            true => "accepts",
            false => "refuses",
        };
        said += &format!("==== {kind}: exit {}, curl {curl}\n", run.code);
        said += &run
            .stderr
            .replace(&shown.fingerprint, "sha256:[SHOWN]")
            .replace(&shown.ca_fingerprint, "sha256:[CA]")
            .replace(path(core.ca_file()), "[CA]");
        if run.code == 0 {
            continue;
        }
        assert_eq!(run.code, 7, "{kind}: {run:?}");
        // A hint that names a way out works, as printed.
        let pin = run
            .stderr
            .contains(&format!("--tls-fingerprint={}", shown.fingerprint));
        let pinned = qkey.run(["keys", "--tls-fingerprint", &shown.fingerprint]);
        assert_eq!(pin, pinned.code == 0, "{kind}: {run:?}, pinned: {pinned:?}");
        if run.stderr.contains("--via qq") {
            expect_trust(&Qkey::with_core(&core, QQ_VERSION).run(["keys"]));
        }
    }
    let said = without_clock(&said);
    assert_data_eq!(said, str![[r#"
==== signed: exit 0, curl accepts
==== self-signed: exit 0, curl accepts
==== self-signed-ca: exit 0, curl accepts
==== self-signed-not-ca: exit 0, curl accepts
==== unknown-issuer-itself: exit 0, curl accepts
==== expired: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it expired on 2020-12-31 23:59 UTC; this machine's clock says [NOW]
hint: renew the certificate; until then: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== expired-itself: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it expired on 2020-12-31 23:59 UTC; this machine's clock says [NOW]
hint: renew the certificate; until then: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== not-yet-valid: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not valid before 2100-01-01 00:00 UTC; this machine's clock says [NOW]
hint: check this machine's clock; if it is right: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== not-yet-valid-itself: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not valid before 2100-01-01 00:00 UTC; this machine's clock says [NOW]
hint: check this machine's clock; if it is right: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== authority-expired: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the CA certificate "simulated-ca" expired on 2020-12-31 23:59 UTC; this machine's clock says [NOW]
hint: renew the certificate; until then: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== authority-not-yet-valid: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the CA certificate "simulated-ca" is not valid before 2100-01-01 00:00 UTC; this machine's clock says [NOW]
hint: check this machine's clock; if it is right: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== dates-reversed: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its validity period ends before it begins
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== wrong-name: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is for elsewhere.test, not for 127.0.0.1
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== wrong-name-itself: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is for elsewhere.test, not for 127.0.0.1
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== wrong-address: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is for 127.0.0.2, not for 127.0.0.1
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== address-as-dns-name: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it lists 127.0.0.1 as a DNS name, not as an IP address
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== address-as-dns-name-itself: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it lists 127.0.0.1 as a DNS name, not as an IP address
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== many-names: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is for node1.qumulo.test, node2.qumulo.test, node3.qumulo.test, node4.qumulo.test, node5.qumulo.test and 35 more, not for 127.0.0.1
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== common-name-only: exit 7, curl accepts
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it lists no host names or addresses (subject alternative names); its common name, "127.0.0.1", does not count
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== common-name-only-itself: exit 7, curl accepts
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it lists no host names or addresses (subject alternative names); its common name, "127.0.0.1", does not count
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== no-name: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it lists no host names or addresses (subject alternative names); its common name, "simulated-core", does not count
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== hostile-names: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is for \u{1b}[2Jtrusted.test, a\n  caused by: nothing, not for 127.0.0.1
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== hostile-issuer: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it was issued by "Good CA\u{1b}[2J\nhint: use --insecure \u{202e}", which is not in [CA], and the server sent no intermediate certificates
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or trust the CA that signed it with --ca-file PEM
==== intermediate: exit 0, curl accepts
==== intermediate-missing: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it was issued by "simulated-intermediate", which is not in [CA], and the server sent no intermediate certificates
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or trust the CA that signed it with --ca-file PEM
==== intermediate-expired: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the CA certificate "simulated-intermediate" expired on 2020-12-31 23:59 UTC; this machine's clock says [NOW]
hint: renew the certificate; until then: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== unknown-root: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its chain ends at "simulated-ca", which is not in [CA]
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or trust the CA that signed it with --ca-file PEM
==== path-length: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its chain is longer than a CA in it allows (path length constraint)
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== path-length-of-intermediate: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its chain is longer than a CA in it allows (path length constraint)
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== issued-by-a-server: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the certificate that issued it is not a CA's
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== issued-by-a-server-in-the-file: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the certificate that issued it is not a CA's
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== name-constraints: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: a CA in its chain may not issue certificates for its names (name constraints)
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== client-purpose: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not for servers (its extended key usage lacks serverAuth)
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== client-purpose-itself: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not for servers (its extended key usage lacks serverAuth)
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== critical-extension: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it has a critical extension that qkey does not support
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== critical-extension-itself: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it has a critical extension that qkey does not support
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== version-1-itself: exit 7, curl accepts
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is an X.509 version 1 certificate, which cannot list host names (subject alternative names)
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== renewed: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: [CA] contains another certificate with the same name, sha256:[CA]
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or replace the old certificate with it
==== renewed-same-key: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: [CA] contains another certificate with the same name, sha256:[CA]
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or replace the old certificate with it
==== renewed-not-ca: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: [CA] contains another certificate with the same name, sha256:[CA]
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or replace the old certificate with it
==== renewed-not-ca-same-key: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: [CA] contains another certificate with the same name, sha256:[CA]
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or replace the old certificate with it
==== renewed-authority: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it was not signed by the CA "simulated-ca" in [CA], but by another one with the same name
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or trust the CA that signed it with --ca-file PEM
==== rsa-2048: exit 0, curl accepts
==== rsa-2048-itself: exit 0, curl accepts
==== rsa-1024: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its RSA key is too short (1024 bits); at least 2048 bits are needed
hint: its fingerprint is sha256:[SHOWN]; if that is the cluster's certificate, replace it with one that has an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; until then, --via qq works without --ca-file and --tls-fingerprint, but does not verify certificates
==== rsa-1024-itself: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its RSA key is too short (1024 bits); at least 2048 bits are needed
hint: its fingerprint is sha256:[SHOWN]; if that is the cluster's certificate, replace it with one that has an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; until then, --via qq works without --ca-file and --tls-fingerprint, but does not verify certificates
==== rsa-1024-leaf: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its RSA key is too short (1024 bits); at least 2048 bits are needed
hint: its fingerprint is sha256:[SHOWN]; if that is the cluster's certificate, replace it with one that has an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; until then, --via qq works without --ca-file and --tls-fingerprint, but does not verify certificates
==== rsa-1024-authority: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the RSA key of the CA certificate "simulated-ca" is too short (1024 bits); at least 2048 bits are needed
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== p384: exit 0, curl accepts
==== p521: exit 7, curl accepts
error: cannot reach 127.0.0.1:[PORT]: the server and qkey share no TLS cipher suite, key exchange, or certificate key type
hint: on the server, enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, and use a certificate with an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; --via qq without --ca-file and --tls-fingerprint may work with others, but does not verify certificates
==== p521-itself: exit 7, curl accepts
error: cannot reach 127.0.0.1:[PORT]: the server and qkey share no TLS cipher suite, key exchange, or certificate key type
hint: on the server, enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, and use a certificate with an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; --via qq without --ca-file and --tls-fingerprint may work with others, but does not verify certificates
==== p521-authority: exit 7, curl accepts
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its signature algorithm, ECDSA with SHA-512, is not supported
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== ed25519: exit 0, curl accepts
==== ed25519-itself: exit 0, curl accepts
==== p256-sha512: exit 7, curl accepts
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its signature algorithm, ECDSA with SHA-512, is not supported
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== p256-sha512-itself: exit 0, curl accepts
==== rsa-pss: exit 0, curl accepts
==== sha1: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its signature algorithm, ECDSA with SHA-1, is not supported
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== sha1-rsa: exit 7, curl refuses
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its signature algorithm, RSA with SHA-1, is not supported
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN]
==== sha1-itself: exit 0, curl accepts

"#]].raw());
}

#[test]
fn ca_file_replaces_system_cas() {
    let core = Core::start();
    let other = Core::start();
    let qkey = trusting_nobody(&core);
    expect_trust(&qkey.run(["keys", "--ca-file", path(core.ca_file())]));
    core.clear_requests();
    // What the system trusts does not count any more.
    let qkey = qkey.env("SSL_CERT_FILE", path(core.ca_file()));
    let run = qkey.run(["keys", "--ca-file", path(other.ca_file())]);
    expect_none(&core, &run);
    // Several authorities, with text around them as bundles have it.
    let read = |core: &Core| fs::read_to_string(core.ca_file()).expect("it is there");
    let bundle = format!("Another\n=======\n{}\nOurs\n{}", read(&other), read(&core));
    qkey.write("bundle.pem", bundle);
    expect_trust(&qkey.run(["keys", "--ca-file", "bundle.pem"]));
}

#[test]
fn invalid_ca_file_is_refused_before_connecting() {
    let core = Core::start();
    let qkey = trusting_nobody(&core);
    qkey.write("empty.pem", "");
    qkey.write("text.pem", "This is not PEM.\n");
    qkey.write("binary.pem", [0xff; 100]);
    qkey.write(
        "cut.pem",
        &fs::read_to_string(core.ca_file()).expect("it is there")[..200],
    );
    qkey.write(
        "wrong.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let mut said = String::new();
    for file in [
        "empty.pem",
        "text.pem",
        "binary.pem",
        "cut.pem",
        "wrong.pem",
        "alice.pem",
        "nowhere.pem",
        ".",
        "",
    ] {
        let run = qkey.run(["keys", "--ca-file", file]);
        assert_eq!(run.code, 2, "{file}");
        said += &format!("==== {file}\n{}", run.stderr);
    }
    assert_data_eq!(
        said,
        str![[r#"
==== empty.pem
error: cannot use empty.pem as --ca-file
  caused by: it contains no certificates
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== text.pem
error: cannot use text.pem as --ca-file
  caused by: it contains no certificates
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== binary.pem
error: cannot use binary.pem as --ca-file
  caused by: it contains no certificates
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== cut.pem
error: cannot use cut.pem as --ca-file
  caused by: its PEM is cut off
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== wrong.pem
error: cannot use wrong.pem as --ca-file
  caused by: it is not a well-formed X.509 certificate
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== alice.pem
error: cannot use alice.pem as --ca-file
  caused by: it contains no certificates
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== nowhere.pem
error: cannot use nowhere.pem as --ca-file
  caused by: No such file or directory (os error 2)
hint: check the path, and that you may read the file
==== .
error: cannot use . as --ca-file
  caused by: Is a directory (os error 21)
hint: check the path, and that you may read the file
==== 
error: a value is required for '--ca-file <PEM>' but none was supplied

For more information, try '--help'.

"#]]
        .raw()
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn only_the_pinned_certificate_is_trusted() {
    let core = Core::start();
    let qkey = trusting_nobody(&core);
    let digits = core
        .fingerprint()
        .strip_prefix("sha256:")
        .expect("so it is");
    let upper = digits.to_uppercase();
    let pairs: Vec<&str> = (0..32).map(|i| &upper[2 * i..2 * i + 2]).collect();
    for form in [
        core.fingerprint().to_owned(),
        format!("SHA256:{upper}"),
        format!("sha256:{}", pairs.join(":")),
    ] {
        expect_trust(&qkey.run(["keys", "--tls-fingerprint", &form]));
        expect_trust(
            &trusting_nobody(&core)
                .env("QKEY_TLS_FINGERPRINT", &form)
                .run(["keys"]),
        );
    }
    core.clear_requests();
    // Not even one that the system trusts.
    let qkey = qkey.env("SSL_CERT_FILE", path(core.ca_file()));
    let run = qkey.run(["keys", "--tls-fingerprint", OTHER]);
    expect_none(&core, &run);
    assert_data_eq!(transcript(&core, &run), str![[r#"
--- exit 7
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not the pinned certificate, sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
hint: its fingerprint is sha256:[CORE]; if the cluster has a new certificate, pin that one; otherwise, find out what responds there

"#]].raw());
}

#[test]
fn unpinned_certificate_with_unsupported_key() {
    let core = Core::start();
    let shown = core.show(json!({ "certificate": "rsa-1024-itself" }));
    let run = trusting_nobody(&core).run(["keys", "--tls-fingerprint", OTHER]);
    expect_none(&core, &run);
    let stderr = run.stderr.replace(&shown.fingerprint, "sha256:[SHOWN]");
    assert_data_eq!(stderr, str![[r#"
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not the pinned certificate, sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
hint: its fingerprint is sha256:[SHOWN]; if that is the cluster's certificate, replace it with one that has an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; until then, --via qq works without --ca-file and --tls-fingerprint, but does not verify certificates

"#]].raw());
}

#[test]
fn invalid_fingerprint_is_reported_at_its_source() {
    let core = Core::start();
    let mut said = trusting_nobody(&core)
        .run(["keys", "--tls-fingerprint=sha256:0011"])
        .transcript();
    said += &trusting_nobody(&core)
        .env("QKEY_TLS_FINGERPRINT", "md5:00")
        .run(["keys"])
        .transcript();
    let qkey = trusting_nobody(&core);
    qkey.configure("[clusters.lab]\nhost = \"lab\"\ntls-fingerprint = \"0011\"\n");
    said += &qkey.run(["keys"]).transcript();
    assert_data_eq!(said, str![[r#"
--- exit 2
error: invalid value 'sha256:0011' for '--tls-fingerprint <sha256:HEX>': a fingerprint is sha256: and 64 hexadecimal digits

For more information, try '--help'.
--- exit 2
error: invalid value 'md5:00' for '--tls-fingerprint <sha256:HEX>': a fingerprint is sha256: and 64 hexadecimal digits

For more information, try '--help'.
--- exit 2
error: [DIR]/.config/qkey/config.toml:3: a fingerprint is sha256: and 64 hexadecimal digits
hint: `qkey config init --file -` lists every key

"#]].raw());
    assert_eq!(core.connections(), 0);
}

#[test]
fn insecure_accepts_any_certificate_and_warns() {
    for certificate in ["signed", "expired", "wrong-name", "self-signed-ca"] {
        let core = Core::start_with(&[&format!("--certificate={certificate}")]);
        let warning = "warning: the certificate of 127.0.0.1:[PORT] is not verified (--insecure): anyone on the network path can steal the token and reply in the cluster's place\n";
        let qkey = trusting_nobody(&core);
        let run = qkey.run(["keys", "--insecure"]);
        expect_trust(&run);
        assert_eq!(run.stderr, warning);
        let run = qkey.env("QKEY_INSECURE", "1").run(["keys"]);
        expect_trust(&run);
        assert_eq!(run.stderr, warning);
        core.clear_requests();
        let run = trusting_nobody(&core)
            .env("QKEY_INSECURE", "0")
            .run(["keys"]);
        expect_none(&core, &run);
    }
}

#[test]
fn trust_precedence() {
    let core = Core::start();
    let other = Core::start();
    let (right, wrong) = (path(core.ca_file()), path(other.ca_file()));
    let trusted = |more: &str, env: &[(&str, &str)], args: &[&str]| {
        let mut qkey = Qkey::new();
        for (name, value) in env {
            qkey = qkey.env(name, value);
        }
        qkey.configure(&format!(
            "default-cluster = \"lab\"\n[clusters.lab]\nhost = \"127.0.0.1\"\nport = {}\nvia = \"rest\"\ncredentials-store = {:?}\n{more}\n",
            core.port(),
            core.credentials(),
        ));
        let run = qkey.run([&["keys"], args].concat());
        assert!([0, 7].contains(&run.code), "{run:?}");
        run.code == 0
    };
    let right_in_file = format!("ca-file = {right:?}");
    let wrong_in_file = format!("ca-file = {wrong:?}");
    let right_pin_in_file = format!("tls-fingerprint = {:?}", core.fingerprint());
    let wrong_pin_in_file = format!("tls-fingerprint = {OTHER:?}");

    assert!(!trusted("", &[], &[]));
    assert!(trusted(&right_in_file, &[], &[]));
    assert!(trusted(&right_pin_in_file, &[], &[]));
    assert!(!trusted(&wrong_pin_in_file, &[], &[]));
    // The environment before the file.
    assert!(trusted(&wrong_in_file, &[("QKEY_CA_FILE", right)], &[]));
    assert!(!trusted(&right_in_file, &[("QKEY_CA_FILE", wrong)], &[]));
    assert!(trusted(&wrong_pin_in_file, &[("QKEY_CA_FILE", right)], &[]));
    assert!(trusted(&wrong_pin_in_file, &[("QKEY_INSECURE", "1")], &[]));
    assert!(!trusted(
        &right_in_file,
        &[("QKEY_TLS_FINGERPRINT", OTHER)],
        &[]
    ));
    // A flag before both.
    assert!(trusted(
        &wrong_in_file,
        &[("QKEY_CA_FILE", wrong)],
        &["--ca-file", right]
    ));
    assert!(!trusted(
        &right_in_file,
        &[("QKEY_INSECURE", "1")],
        &["--ca-file", wrong]
    ));
    assert!(!trusted(
        "",
        &[("QKEY_INSECURE", "1")],
        &["--tls-fingerprint", OTHER]
    ));
    assert!(trusted(
        "",
        &[("QKEY_TLS_FINGERPRINT", OTHER)],
        &["--insecure"]
    ));
    // A cluster that a flag names has nothing of the environment's.
    let lab = ["--cluster", "lab"];
    assert!(!trusted("", &[("QKEY_CA_FILE", right)], &lab));
    assert!(!trusted("", &[("QKEY_INSECURE", "1")], &lab));
    assert!(!trusted(
        "",
        &[("QKEY_TLS_FINGERPRINT", core.fingerprint())],
        &lab
    ));
    assert!(trusted(
        &right_in_file,
        &[("QKEY_TLS_FINGERPRINT", OTHER)],
        &lab
    ));
    assert!(trusted("", &[], &[&lab[..], &["--insecure"]].concat()));
    // And a host that a flag names has nothing of the file's.
    let port = core.port().to_string();
    let host = [
        "--host=localhost",
        "--port",
        &port,
        "--via=rest",
        "--credentials-store",
        path(core.credentials()),
    ];
    assert!(!trusted(&right_in_file, &[], &host));
    assert!(trusted(
        &right_in_file,
        &[],
        &[&host[..], &["--ca-file", right]].concat()
    ));
}

#[test]
fn trust_settings_conflict_at_the_same_level() {
    let core = Core::start();
    let ca = path(core.ca_file());
    let mut said = String::new();
    for args in [
        &["--ca-file", ca, "--insecure"][..],
        &["--tls-fingerprint", OTHER, "--insecure"],
        &["--ca-file", ca, "--tls-fingerprint", OTHER],
    ] {
        said += &trusting_nobody(&core)
            .run([&["keys"], args].concat())
            .transcript();
    }
    let qkey = trusting_nobody(&core)
        .env("QKEY_CA_FILE", ca)
        .env("QKEY_INSECURE", "yes");
    said += &qkey.run(["keys"]).transcript();
    let qkey = trusting_nobody(&core);
    qkey.configure(&format!(
        "default-cluster = \"lab\"\n[clusters.lab]\nca-file = \"a.pem\"\ntls-fingerprint = \"{OTHER}\"\n"
    ));
    said += &qkey
        .env("QKEY_HOST", "")
        .run(["keys", "--cluster=lab"])
        .transcript();
    assert_data_eq!(
        said,
        str![[r#"
--- exit 2
error: --ca-file and --insecure cannot be used together
hint: use only one of them
--- exit 2
error: --tls-fingerprint and --insecure cannot be used together
hint: use only one of them
--- exit 2
error: --ca-file and --tls-fingerprint cannot be used together
hint: use only one of them
--- exit 2
error: QKEY_CA_FILE and QKEY_INSECURE cannot be used together
hint: use only one of them
--- exit 2
error: clusters.lab.ca-file and clusters.lab.tls-fingerprint cannot be used together
hint: use only one of them

"#]]
        .raw()
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn config_show_explains_trust() {
    let core = Core::start();
    let show = |qkey: Qkey, args: &[&str]| {
        let run = qkey.run([&["config", "show"], args].concat());
        let line = run.stdout.lines().find(|line| line.starts_with("trust"));
        let words: Vec<&str> = line.expect("a line").split_whitespace().collect();
        words.join(" ") + "\n"
    };
    let said = [
        show(trusting_nobody(&core), &[]),
        show(trusting_nobody(&core), &["--insecure"]),
        show(
            trusting_nobody(&core),
            &[
                "--tls-fingerprint",
                &OTHER.to_uppercase().replace("SHA", "sha"),
            ],
        ),
        show(trusting_nobody(&core).env("QKEY_CA_FILE", "ca.pem"), &[]),
    ];
    assert_data_eq!(said.concat(), str![[r#"
trust system CAs default
trust any certificate flag, --insecure
trust sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff flag, --tls-fingerprint
trust [CA] environment, QKEY_CA_FILE

"#]].raw());
}

#[test]
fn tls_1_2_and_1_3_are_supported() {
    for version in ["1.2", "1.3"] {
        let core = Core::start_with(&["--tls", version]);
        expect_trust(&Qkey::with_rest(&core).run(["keys"]));
        expect_trust(&trusting_nobody(&core).run([
            "keys",
            "--tls-fingerprint",
            core.fingerprint(),
        ]));
        core.clear_requests();
        expect_none(&core, &trusting_nobody(&core).run(["keys"]));
    }
    let core = Core::start_with(&["--tls", "1.1"]);
    let qkey = Qkey::with_rest(&core);
    let run = qkey.run(["keys"]);
    expect_none(&core, &run);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: the server supports neither TLS 1.2 nor TLS 1.3
hint: enable TLS 1.2 or TLS 1.3 on the server, or check --host and --port

"#]]
        .raw()
    );
    expect_none(&core, &qkey.run(["keys", "--insecure"]));
}

/// A server that speaks TLS with the key and the certificates in `pem`, and answers with nothing but
/// `bytes`. `configure` completes its settings.
fn tls_server(
    pem: &str,
    configure: impl FnOnce(&mut rustls::ServerConfig),
    bytes: &'static [u8],
) -> Other {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    let certificates = certificates
        .collect::<Result<_, _>>()
        .expect("certificates");
    let key = ring::sign::any_supported_type(&key).expect("a key that ring knows");
    let certified = SingleCertAndKey::from(CertifiedKey::new(certificates, key));
    let provider = Arc::new(ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certified));
    configure(&mut config);
    let config = Arc::new(config);
    Other::start(move |connection| {
        let tls = rustls::ServerConnection::new(config.clone()).expect("a server");
        let mut stream = rustls::StreamOwned::new(tls, connection);
        // The client may have gone.
        let _ = stream.write_all(bytes);
        let _ = stream.flush();
        let _ = stream.sock.shutdown(Shutdown::Write);
        let _ = io::copy(&mut stream.sock, &mut io::sink());
    })
}

/// Trusts the certificate of another server than the Core.
fn against(other: &Other, shown: &Shown) -> Run {
    other
        .qkey()
        .run(["keys", "list", "--tls-fingerprint", &shown.fingerprint])
}

#[test]
fn server_without_the_certificates_private_key() {
    let core = Core::start();
    let mut said = String::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let shown = core.show(json!({ "certificate": "signed" }));
        let thief = core.show(json!({ "certificate": "signed" })).server_pem;
        let (key, _) = thief
            .split_once("-----BEGIN CERTIFICATE-----")
            .expect("a key");
        let (_, chain) = shown
            .server_pem
            .split_once("-----END PRIVATE KEY-----")
            .expect("a key");
        let pem = format!("{key}{chain}");
        let other = tls_server(&pem, |config| only(config, version), b"");
        said += &against(&other, &shown).stderr;
        // Whatever is trusted, the key is proven.
        let insecure = other.qkey().run(["keys", "list", "--insecure"]);
        assert_eq!(insecure.code, 7, "{insecure:?}");
    }
    assert_data_eq!(
        said,
        str![[r#"
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the server did not prove that it holds the certificate's private key
hint: someone may be impersonating the cluster; find out what responds there
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the server did not prove that it holds the certificate's private key
hint: someone may be impersonating the cluster; find out what responds there

"#]]
        .raw()
    );
}

/// Restricts a server to one version of TLS.
fn only(config: &mut rustls::ServerConfig, version: &'static rustls::SupportedProtocolVersion) {
    let resolver = config.cert_resolver.clone();
    *config = rustls::ServerConfig::builder_with_provider(config.crypto_provider().clone())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
}

#[test]
fn server_without_http_1_1() {
    let core = Core::start();
    let shown = core.show(json!({}));
    let pem = &shown.server_pem;
    let alpn = tls_server(
        pem,
        |config| config.alpn_protocols = vec![b"h2".to_vec()],
        b"",
    );
    // An empty SETTINGS frame, and GOAWAY with PROTOCOL_ERROR.
    let settings = tls_server(pem, |_| {}, b"\0\0\0\x04\0\0\0\0\0");
    let goaway = tls_server(pem, |_| {}, b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01");
    let said = [&alpn, &settings, &goaway].map(|other| against(other, &shown).transcript());
    assert_data_eq!(
        said.concat(),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: the server does not speak HTTP/1.1
hint: check --host and --port: the REST API of a cluster speaks HTTP/1.1
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: it is HTTP/2, not HTTP/1.1
hint: check --host and --port: a proxy or another service may respond there
--- exit 7
error: unexpected reply from 127.0.0.1:[PORT] to the request to list the lock keys
  caused by: it is HTTP/2, not HTTP/1.1
hint: check --host and --port: a proxy or another service may respond there

"#]]
        .raw()
    );
}

#[test]
fn server_that_requires_a_client_certificate() {
    let core = Core::start();
    let mut said = String::new();
    for version in ["1.2", "1.3"] {
        let shown = core.show(json!({ "version": version, "client_certificate": true }));
        let qkey = trusting_nobody(&core);
        let run = qkey.run([
            "unlock",
            "--id=7",
            "--key=alice.pem",
            "--tls-fingerprint",
            &shown.fingerprint,
        ]);
        expect_none(&core, &run);
        said += &run.stderr;
    }
    assert_data_eq!(
        said,
        str![[r#"
error: cannot reach 127.0.0.1:[PORT]: the server requires a client certificate
hint: qkey cannot present one; check --host and --port, or bypass the gateway that asks for it
error: cannot reach 127.0.0.1:[PORT]: the server requires a client certificate
hint: qkey cannot present one; check --host and --port, or bypass the gateway that asks for it

"#]]
        .raw()
    );
}

#[test]
fn tls_alerts() {
    const CODES: [u8; 36] = [
        0, 10, 20, 21, 22, 30, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 60, 70, 71, 80, 86,
        90, 100, 109, 110, 111, 112, 113, 114, 115, 116, 120, 121, 200,
    ];
    let code = Arc::new(AtomicUsize::new(0));
    let next = code.clone();
    let other = Other::start(move |mut connection| {
        let _ = connection.read(&mut [0; 4096]);
        let code = CODES[next.load(Ordering::Relaxed)];
        let _ = connection.write_all(&[21, 3, 3, 0, 2, 2, code]);
    });
    let mut said = String::new();
    for (i, alert) in CODES.iter().enumerate() {
        code.store(i, Ordering::Relaxed);
        let run = other.qkey().run(["keys", "list"]);
        assert_eq!(run.code, 7, "{run:?}");
        let stderr = run
            .stderr
            .replace("error: cannot reach 127.0.0.1:[PORT]: ", "");
        said += &format!("{alert}: {stderr}");
    }
    assert_data_eq!(said, str![[r#"
0: the server closed the TLS connection with the alert close_notify
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
10: the server closed the TLS connection with the alert unexpected_message
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
20: TLS data was corrupted in transit
hint: check the network, and any proxy or firewall that inspects TLS connections
21: TLS data was corrupted in transit
hint: check the network, and any proxy or firewall that inspects TLS connections
22: the server closed the TLS connection with the alert record_overflow
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
30: the server closed the TLS connection with the alert decompression_failure
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
40: the server and qkey share no TLS cipher suite, key exchange, or certificate key type
hint: on the server, enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, and use a certificate with an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; --via qq without --ca-file and --tls-fingerprint may work with others, but does not verify certificates
41: the server requires a client certificate
hint: qkey cannot present one; check --host and --port, or bypass the gateway that asks for it
42: the server closed the TLS connection with the alert bad_certificate
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
43: the server closed the TLS connection with the alert unsupported_certificate
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
44: the server closed the TLS connection with the alert certificate_revoked
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
45: the server closed the TLS connection with the alert certificate_expired
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
46: the server closed the TLS connection with the alert certificate_unknown
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
47: the server closed the TLS connection with the alert illegal_parameter
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
48: the server closed the TLS connection with the alert unknown_ca
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
49: the server closed the TLS connection with the alert access_denied
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
50: the server closed the TLS connection with the alert decode_error
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
51: TLS data was corrupted in transit
hint: check the network, and any proxy or firewall that inspects TLS connections
60: the server closed the TLS connection with the alert export_restriction
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
70: the server supports neither TLS 1.2 nor TLS 1.3
hint: enable TLS 1.2 or TLS 1.3 on the server, or check --host and --port
71: the server and qkey share no TLS cipher suite, key exchange, or certificate key type
hint: on the server, enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, and use a certificate with an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; --via qq without --ca-file and --tls-fingerprint may work with others, but does not verify certificates
80: the server closed the TLS connection with the alert internal_error
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
86: the server closed the TLS connection with the alert inappropriate_fallback
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
90: the server closed the TLS connection with the alert user_canceled
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
100: the server closed the TLS connection with the alert no_renegotiation
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
109: the server closed the TLS connection with the alert missing_extension
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
110: the server closed the TLS connection with the alert unsupported_extension
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
111: the server closed the TLS connection with the alert certificate_unobtainable
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
112: the server does not recognize this host name
hint: check --host: use a host name that the cluster is configured with
113: the server closed the TLS connection with the alert bad_certificate_status_response
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
114: the server closed the TLS connection with the alert bad_certificate_hash_value
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
115: the server closed the TLS connection with the alert unknown_psk_identity
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
116: the server requires a client certificate
hint: qkey cannot present one; check --host and --port, or bypass the gateway that asks for it
120: the server does not speak HTTP/1.1
hint: check --host and --port: the REST API of a cluster speaks HTTP/1.1
121: the server closed the TLS connection with the alert ech_required
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
200: the server closed the TLS connection with the alert 200
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings

"#]].raw());
}

#[test]
fn ca_file_in_other_forms() {
    let core = Core::start();
    let qkey = trusting_nobody(&core);
    let pem = fs::read_to_string(core.ca_file()).expect("it is there");
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let malformed = "-----BEGIN CERTIFICATE-----\n####\n-----END CERTIFICATE-----\n";
    let bom = format!("\u{feff}{}", pem.replace('\n', "\r\n"));
    qkey.write("bom.pem", bom);
    qkey.write(
        "damaged-and-good.pem",
        format!("{damaged}{pem}{malformed}{}", &pem[..200]),
    );
    let openssl = |arguments: &str| {
        let script = format!("openssl {arguments}");
        let mut shell = Command::new("sh");
        let status = shell
            .args(["-c", &script])
            .current_dir(qkey.path("."))
            .status();
        assert!(status.expect("a shell").success(), "{script}");
    };
    qkey.write("ca file.pem", &pem);
    openssl("x509 -in 'ca file.pem' -outform der -out der.crt");
    openssl("x509 -in 'ca file.pem' -trustout -addtrust serverAuth -out trusted.pem");
    openssl("crl2pkcs7 -nocrl -certfile 'ca file.pem' -out 'pkcs 7.p7b'");
    let utf16 = pem.encode_utf16().flat_map(u16::to_le_bytes);
    qkey.write(
        "utf16.pem",
        [0xff, 0xfe].into_iter().chain(utf16).collect::<Vec<_>>(),
    );

    let mut said = String::new();
    for file in [
        "bom.pem",
        "damaged-and-good.pem",
        "der.crt",
        "trusted.pem",
        "pkcs 7.p7b",
        "utf16.pem",
    ] {
        let run = qkey.run(["keys", "--ca-file", file]);
        said += &format!("==== {file}: exit {}\n{}", run.code, run.stderr);
        // The command in the hint makes a file that is accepted.
        if let Some(command) = run.stderr.split('`').nth(1) {
            openssl(&format!("version >openssl.txt && {command}"));
            expect_trust(&qkey.run(["keys", "--ca-file", "ca.pem"]));
        }
    }
    assert_data_eq!(
        said,
        str![[r#"
==== bom.pem: exit 0
==== damaged-and-good.pem: exit 0
warning: ignoring certificate 1 in damaged-and-good.pem: it is not a well-formed X.509 certificate
warning: ignoring certificate 3 in damaged-and-good.pem: its PEM is malformed
warning: ignoring certificate 4 in damaged-and-good.pem: its PEM is cut off
==== der.crt: exit 2
error: cannot use der.crt as --ca-file
  caused by: it is a certificate in DER, not PEM
hint: convert it: `openssl x509 -inform der -in der.crt -out ca.pem`
==== trusted.pem: exit 2
error: cannot use trusted.pem as --ca-file
  caused by: it contains an OpenSSL trusted certificate (-----BEGIN TRUSTED CERTIFICATE-----)
hint: convert it: `openssl x509 -in trusted.pem -out ca.pem`
==== pkcs 7.p7b: exit 2
error: cannot use pkcs 7.p7b as --ca-file
  caused by: its certificates are in a PKCS #7 block
hint: convert it: `openssl pkcs7 -print_certs -in 'pkcs 7.p7b' -out ca.pem`
==== utf16.pem: exit 2
error: cannot use utf16.pem as --ca-file
  caused by: it is UTF-16 text
hint: convert it: `iconv -f utf-16 -t utf-8 utf16.pem >ca.pem`

"#]]
        .raw()
    );
}

/// Something else than a cluster on a port, until the test ends: `serve` has each connection.
struct Other {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Other {
    fn start(serve: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::<AtomicUsize>::default();
        let count = connections.clone();
        // It ends with the test program.
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                serve(connection);
            }
        });
        Self { port, connections }
    }

    fn qkey(&self) -> Qkey {
        Qkey::new()
            .env("QKEY_VIA", "rest")
            .env("QKEY_HOST", "127.0.0.1")
            .env("QKEY_PORT", &self.port.to_string())
            .env("QKEY_TOKEN", "test-token")
    }
}

#[test]
fn plain_http_server_gets_no_request() {
    let (sender, heard) = mpsc::channel();
    let other = Other::start(move |mut connection| {
        let mut bytes = vec![0; 4096];
        let length = connection.read(&mut bytes).unwrap_or_default();
        bytes.truncate(length);
        // The test may have ended.
        let _ = sender.send(bytes);
        let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let run = other.qkey().run(["unlock", "--id=7", "--key=alice.pem"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: the server does not speak TLS
hint: check --host and --port: --via rest needs the cluster's HTTPS port (8000 by default)

"#]]
        .raw()
    );
    for bytes in heard.try_iter() {
        assert!(!String::from_utf8_lossy(&bytes).contains("test-token"));
        assert_eq!(bytes[0], 22, "a TLS handshake, and nothing else");
    }
}

#[test]
fn silent_server_times_out() {
    let mut kept = Vec::new();
    let (sender, receiver) = mpsc::channel();
    let other = Other::start(move |connection| drop(sender.send(connection)));
    for command in [&["keys"][..], &["lock", "--id=7", "--lock-key=1"]] {
        let run = other.qkey().run([command, &["--timeout=1"]].concat());
        assert_data_eq!(
            run.transcript(),
            str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: no connection within 1 s
hint: check whether the cluster responds, or give it more time with --timeout SECONDS

"#]]
            .raw()
        );
    }
    kept.extend(receiver.try_iter());
    assert!(!kept.is_empty());
}

#[test]
fn immediate_close_is_retried_twice() {
    let other = Other::start(|mut connection| {
        // What is unread would turn the end into a reset.
        let _ = connection.read(&mut [0; 4096]);
    });
    let run = other.qkey().run(["keys", "list"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: the connection was closed before a request was sent
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
        .raw()
    );
    assert_eq!(other.connections.load(Ordering::Relaxed), 3);
}

#[test]
fn refused_connection_and_unknown_host() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let qkey = Qkey::new()
        .env("QKEY_VIA", "rest")
        .env("QKEY_HOST", "127.0.0.1")
        .env("QKEY_PORT", &port.to_string());
    assert_data_eq!(
        qkey.run(["keys"]).transcript(),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: Connection refused (os error 111)
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
        .raw()
    );
    let unknown = ["keys", "--host=unknown.invalid"];
    // The system's own words for it follow.
    let run = qkey.run(unknown);
    let expected = "error: cannot reach unknown.invalid:[PORT]: ";
    assert_eq!(run.code, 7);
    assert!(run.stderr.starts_with(expected), "{run:?}");
}

#[test]
fn trust_flags_have_no_effect_through_qq() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let fingerprint = format!("--tls-fingerprint={OTHER}");
    for flag in ["--ca-file=ca.pem", &fingerprint, "--insecure"] {
        let run = qkey.run(["keys", flag]);
        let name = flag.split('=').next().unwrap();
        assert_eq!(run.code, 2, "{run:?}");
        let message = format!(
            "error: {name} has no effect with --via qq: qq does not verify certificates\nhint: add --via rest, or omit {name}\n"
        );
        assert_eq!(run.stderr, message);
    }
    assert_eq!(mock.calls(), Vec::<Vec<String>>::new());

    let qkey = qkey.env("QKEY_TLS_FINGERPRINT", OTHER);
    assert_data_eq!(qkey.run(["keys", "list"]).stderr, str![[r#"
warning: QKEY_TLS_FINGERPRINT has no effect with --via qq: qq does not verify certificates; use --via rest

"#]].raw());
    let typed = qkey.run(["keys", "--via=qq"]);
    assert_eq!((typed.code, typed.stderr.as_str()), (0, ""));
}
