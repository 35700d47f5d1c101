//! Which certificates `--via rest` trusts.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
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
    proxy::free_port,
    qkey::{Qkey, Run},
    shell::prints,
    snapshot::{filtered, qkey_snapshot, session, snapshot, table},
};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use serde_json::json;
use snapbox::str;

/// With a token for the simulated Core, and without trust in its certificate.
fn trusting_nobody(core: &Core) -> Qkey {
    Qkey::with_port(core.port()).env("QKEY_CREDENTIALS_STORE", core.credentials())
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[track_caller]
fn expect_trust(run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
}

/// Expects a refused certificate, and no request to the server.
#[track_caller]
fn expect_distrust(core: &Core, run: &Run) {
    assert_eq!(run.code, 7, "{run:?}");
    assert_eq!(core.requests(), Vec::<serde_json::Value>::new());
}

/// Whether curl, which trusts only these certificates, accepts the Core's.
fn curl_accepts(core: &Core) -> bool {
    let url = format!("https://127.0.0.1:{}/v1/version", core.port());
    let status = Command::new("curl")
        .args("--silent --output /dev/null --noproxy * --cacert".split(' '))
        .args([path(core.ca_file()), &url])
        .status();
    status.expect("curl runs").success()
}

const OTHER: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn hints_for_untrusted_certificates_with_system_cas() {
    let core = Core::start();
    let qkey = trusting_nobody(&core);
    let kinds = ["signed", "self-signed", "intermediate"];
    let said = table(kinds, |kind| {
        let shown = core.show(json!({ "certificate": kind }));
        let runs = [&["keys"][..], &["keys", "--output=json"]].map(|args| qkey.run(args));
        let pin = runs[0].stderr.split_whitespace();
        let pin = pin
            .rev()
            .find(|word| word.starts_with("--tls-fingerprint="));
        expect_distrust(&core, &runs[0]);
        // The pin in the hint works as printed.
        let pin = pin.expect("a pin").trim_end_matches(',');
        expect_trust(&qkey.run(["keys", pin]));
        core.clear_requests();
        let runs = match *kind {
            "signed" => runs.each_ref().map(filtered).concat(),
            _ => filtered(&runs[0]),
        };
        runs.replace(&shown.fingerprint, "sha256:[SHOWN]")
    });
    snapshot!(
        said,
        str![[r#"
==== signed
--- exit 7
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it was issued by "simulated-ca", which this system does not trust, and the server sent no intermediate certificates
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or trust the CA that signed it with --ca-file PEM
--- exit 7
{"error":{"kind":"unreachable","message":"the certificate of 127.0.0.1:[PORT] is not trusted","causes":["it was issued by \"simulated-ca\", which this system does not trust, and the server sent no intermediate certificates"],"hint":"its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or trust the CA that signed it with --ca-file PEM","exit_code":7}}
==== self-signed
--- exit 7
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is self-signed, and this system does not trust it
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or save it to a file and trust that with --ca-file PEM
==== intermediate
--- exit 7
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: its chain ends at "simulated-ca", which this system does not trust
hint: its fingerprint is sha256:[SHOWN]; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint=sha256:[SHOWN], or trust the CA that signed it with --ca-file PEM

"#]]
    );
}

#[test]
fn system_cas_are_trusted_for_certificate_names() {
    let core = Core::start();
    for (certificate, host, trusted) in [
        ("signed", "127.0.0.1", true),
        ("signed", "LocalHost", true),
        ("wrong-name", "127.0.0.1", false),
    ] {
        core.show(json!({ "certificate": certificate }));
        core.clear_requests();
        let qkey = trusting_nobody(&core).env("SSL_CERT_FILE", core.ca_file());
        let run = qkey.run(["keys", "--host", host]);
        if trusted {
            expect_trust(&run);
        } else {
            expect_distrust(&core, &run);
        }
    }
    let qkey = trusting_nobody(&core)
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", "nowhere");
    qkey_snapshot!(
        qkey,
        ["keys"],
        str![[r#"
--- exit 2
error: this system does not trust any certificate authorities
  caused by: opening directory: No such file or directory (os error 2) at 'nowhere'
  caused by: No such file or directory (os error 2)
hint: install the package ca-certificates, trust the cluster's CA with --ca-file PEM, or pin the cluster's certificate with --tls-fingerprint

"#]]
    );
    core.show(json!({}));
    expect_trust(&qkey.run(["keys", "--ca-file", path(core.ca_file())]));
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
    // Kinds with the same outcome share an entry.
    let mut outcomes: Vec<(String, Vec<&str>)> = Vec::new();
    for kind in CERTIFICATES {
        let shown = core.show(json!({ "certificate": kind }));
        let qkey = trusting_nobody(&core);
        let run = qkey.run(["keys", "--ca-file", path(core.ca_file())]);
        // In the store of the system it counts the same.
        let system = trusting_nobody(&core).env("SSL_CERT_FILE", core.ca_file());
        assert_eq!(system.run(["keys"]).code, run.code, "{kind}");
        let curl = if curl_accepts(&core) {
            "accepts"
        } else {
            "refuses"
        };
        let pin = format!(
            "its fingerprint is {0}; if the cluster's administrator confirms it, pin the certificate with --tls-fingerprint={0}",
            shown.fingerprint
        );
        let stderr = run
            .stderr
            .replace(&pin, "[PIN]")
            .replace(&shown.fingerprint, "sha256:[SHOWN]")
            .replace(&shown.ca_fingerprint, "sha256:[CA]")
            .replace(path(core.ca_file()), "[CA]")
            .replace(
                "error: the certificate of 127.0.0.1:[PORT] is not trusted\n  caused by: ",
                "untrusted: ",
            );
        let outcome = format!("exit {}, curl {curl}\n{}", run.code, without_clock(&stderr));
        match outcomes.iter_mut().find(|(other, _)| *other == outcome) {
            Some((_, kinds)) => kinds.push(kind),
            None => outcomes.push((outcome, vec![kind])),
        }
        if run.code == 0 {
            continue;
        }
        assert_eq!(run.code, 7, "{kind}: {run:?}");
        // A pin works exactly where the hint names it.
        let pinned = qkey.run(["keys", "--tls-fingerprint", &shown.fingerprint]);
        let is_named = stderr.contains("[PIN]");
        assert_eq!(is_named, pinned.code == 0, "{kind}: {pinned:?}");
        if *kind == "rsa-1024" {
            assert!(run.stderr.contains("--via qq works"), "{run:?}");
            expect_trust(&Qkey::with_core(&core, QQ_VERSION).run(["keys"]));
        }
    }
    let said = outcomes
        .iter()
        .map(|(outcome, kinds)| format!("==== {}: {outcome}", kinds.join(", ")));
    snapshot!(
        said.collect::<String>(),
        str![[r#"
==== signed, self-signed, self-signed-ca, self-signed-not-ca, unknown-issuer-itself, intermediate, rsa-2048, rsa-2048-itself, p384, ed25519, ed25519-itself, p256-sha512-itself, rsa-pss, sha1-itself: exit 0, curl accepts
==== expired, expired-itself: exit 7, curl refuses
untrusted: it expired on 2020-12-31 23:59 UTC; this machine's clock says [NOW]
hint: renew the certificate; until then: [PIN]
==== not-yet-valid, not-yet-valid-itself: exit 7, curl refuses
untrusted: it is not valid before 2100-01-01 00:00 UTC; this machine's clock says [NOW]
hint: check this machine's clock; if it is right: [PIN]
==== authority-expired: exit 7, curl refuses
untrusted: the CA certificate "simulated-ca" expired on 2020-12-31 23:59 UTC; this machine's clock says [NOW]
hint: renew the certificate; until then: [PIN]
==== authority-not-yet-valid: exit 7, curl refuses
untrusted: the CA certificate "simulated-ca" is not valid before 2100-01-01 00:00 UTC; this machine's clock says [NOW]
hint: check this machine's clock; if it is right: [PIN]
==== dates-reversed: exit 7, curl refuses
untrusted: its validity period ends before it begins
hint: [PIN]
==== wrong-name, wrong-name-itself: exit 7, curl refuses
untrusted: it is for elsewhere.test, not for 127.0.0.1
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: [PIN]
==== wrong-address: exit 7, curl refuses
untrusted: it is for 127.0.0.2, not for 127.0.0.1
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: [PIN]
==== address-as-dns-name, address-as-dns-name-itself: exit 7, curl refuses
untrusted: it lists 127.0.0.1 as a DNS name, not as an IP address
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: [PIN]
==== many-names: exit 7, curl refuses
untrusted: it is for node1.qumulo.test, node2.qumulo.test, node3.qumulo.test, node4.qumulo.test, node5.qumulo.test and 35 more, not for 127.0.0.1
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: [PIN]
==== common-name-only, common-name-only-itself: exit 7, curl accepts
untrusted: it lists no host names or addresses (subject alternative names); its common name, "127.0.0.1", does not count
hint: [PIN]
==== no-name: exit 7, curl refuses
untrusted: it lists no host names or addresses (subject alternative names); its common name, "simulated-core", does not count
hint: [PIN]
==== hostile-names: exit 7, curl refuses
untrusted: it is for \u{1b}[2Jtrusted.test, a\n  caused by: nothing, not for 127.0.0.1
hint: connect with --host to a name or address that the certificate lists; if none of them reaches the cluster: [PIN]
==== hostile-issuer: exit 7, curl refuses
untrusted: it was issued by "Good CA\u{1b}[2J\nhint: use --insecure \u{202e}", which is not in [CA], and the server sent no intermediate certificates
hint: [PIN], or trust the CA that signed it with --ca-file PEM
==== intermediate-missing: exit 7, curl refuses
untrusted: it was issued by "simulated-intermediate", which is not in [CA], and the server sent no intermediate certificates
hint: [PIN], or trust the CA that signed it with --ca-file PEM
==== intermediate-expired: exit 7, curl refuses
untrusted: the CA certificate "simulated-intermediate" expired on 2020-12-31 23:59 UTC; this machine's clock says [NOW]
hint: renew the certificate; until then: [PIN]
==== unknown-root: exit 7, curl refuses
untrusted: its chain ends at "simulated-ca", which is not in [CA]
hint: [PIN], or trust the CA that signed it with --ca-file PEM
==== path-length, path-length-of-intermediate: exit 7, curl refuses
untrusted: its chain is longer than a CA in it allows (path length constraint)
hint: [PIN]
==== issued-by-a-server, issued-by-a-server-in-the-file: exit 7, curl refuses
untrusted: it was issued by a certificate that is not a CA certificate
hint: [PIN]
==== name-constraints: exit 7, curl refuses
untrusted: a CA in its chain may not issue certificates for its names (name constraints)
hint: [PIN]
==== client-purpose, client-purpose-itself: exit 7, curl refuses
untrusted: it is not for servers (its extended key usage lacks serverAuth)
hint: [PIN]
==== critical-extension, critical-extension-itself: exit 7, curl refuses
untrusted: it has a critical extension that qkey does not support
hint: [PIN]
==== version-1-itself: exit 7, curl accepts
untrusted: it is an X.509 version 1 certificate, which cannot list host names (subject alternative names)
hint: [PIN]
==== renewed, renewed-same-key, renewed-not-ca, renewed-not-ca-same-key: exit 7, curl refuses
untrusted: [CA] contains another certificate with the same name, sha256:[CA]
hint: [PIN], or replace the old certificate with it
==== renewed-authority: exit 7, curl refuses
untrusted: it was not signed by the CA "simulated-ca" in [CA], but by another one with the same name
hint: [PIN], or trust the CA that signed it with --ca-file PEM
==== rsa-1024, rsa-1024-itself, rsa-1024-leaf: exit 7, curl refuses
untrusted: its RSA key is too short (1024 bits); at least 2048 bits are needed
hint: its fingerprint is sha256:[SHOWN]; if that is the cluster's certificate, replace it with one that has an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; until then, --via qq works without --ca-file and --tls-fingerprint, but does not verify certificates
==== rsa-1024-authority: exit 7, curl refuses
untrusted: the RSA key of the CA certificate "simulated-ca" is too short (1024 bits); at least 2048 bits are needed
hint: [PIN]
==== p521, p521-itself: exit 7, curl accepts
error: cannot reach 127.0.0.1:[PORT]: the server and qkey share no TLS cipher suite, key exchange, or certificate key type
hint: on the server, enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, and use a certificate with an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; --via qq without --ca-file and --tls-fingerprint may work with others, but does not verify certificates
==== p521-authority, p256-sha512: exit 7, curl accepts
untrusted: its signature algorithm, ECDSA with SHA-512, is not supported
hint: [PIN]
==== sha1: exit 7, curl refuses
untrusted: its signature algorithm, ECDSA with SHA-1, is not supported
hint: [PIN]
==== sha1-rsa: exit 7, curl refuses
untrusted: its signature algorithm, RSA with SHA-1, is not supported
hint: [PIN]

"#]]
    );
}

/// The text with the time of the clock replaced.
fn without_clock(text: &str) -> String {
    match text.split_once("clock says ") {
        Some((before, rest)) => {
            let (time, rest) = rest.split_at("2026-11-25 21:05 UTC".len());
            assert!(time.ends_with(" UTC"), "{time}");
            format!("{before}clock says [NOW]{rest}")
        }
        None => text.to_owned(),
    }
}

#[test]
fn ca_file_replaces_system_cas() {
    let core = Core::start();
    let other = Core::start();
    let qkey = trusting_nobody(&core);
    expect_trust(&qkey.run(["keys", "--ca-file", path(core.ca_file())]));
    core.clear_requests();
    // The system's CAs no longer count.
    let qkey = qkey.env("SSL_CERT_FILE", core.ca_file());
    let run = qkey.run(["keys", "--ca-file", path(other.ca_file())]);
    expect_distrust(&core, &run);
    // A bundle of several CAs with text around them.
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
    let files = [
        "empty.pem",
        "text.pem",
        "binary.pem",
        "cut.pem",
        "wrong.pem",
        "alice.pem",
        "nowhere.pem",
        ".",
    ];
    let said = table(files, |file| {
        filtered(&qkey.run(["keys", "--ca-file", file]))
    });
    snapshot!(
        said,
        str![[r#"
==== empty.pem
--- exit 2
error: cannot use empty.pem as --ca-file
  caused by: it contains no certificates
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== text.pem
--- exit 2
error: cannot use text.pem as --ca-file
  caused by: it contains no certificates
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== binary.pem
--- exit 2
error: cannot use binary.pem as --ca-file
  caused by: it contains no certificates
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== cut.pem
--- exit 2
error: cannot use cut.pem as --ca-file
  caused by: its PEM is cut off
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== wrong.pem
--- exit 2
error: cannot use wrong.pem as --ca-file
  caused by: it is not a well-formed X.509 certificate
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== alice.pem
--- exit 2
error: cannot use alice.pem as --ca-file
  caused by: it contains no certificates
hint: it must contain certificates in PEM (-----BEGIN CERTIFICATE-----)
==== nowhere.pem
--- exit 2
error: cannot use nowhere.pem as --ca-file
  caused by: No such file or directory (os error 2)
hint: check the path, and that you may read the file
==== .
--- exit 2
error: cannot use . as --ca-file
  caused by: Is a directory (os error 21)
hint: check the path, and that you may read the file

"#]]
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
    }
    core.clear_requests();
    // Not even one that the system trusts.
    let qkey = qkey.env("SSL_CERT_FILE", core.ca_file());
    let mut said = String::new();
    for kind in ["signed", "rsa-1024-itself"] {
        let shown = core.show(json!({ "certificate": kind }));
        let run = qkey.run(["keys", "--tls-fingerprint", OTHER]);
        expect_distrust(&core, &run);
        said += &filtered(&run).replace(&shown.fingerprint, "sha256:[SHOWN]");
    }
    snapshot!(
        said,
        str![[r#"
--- exit 7
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not the pinned certificate, sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
hint: its fingerprint is sha256:[SHOWN]; if the cluster has a new certificate, pin that one; otherwise, find out what responds there
--- exit 7
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not the pinned certificate, sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
hint: its fingerprint is sha256:[SHOWN]; if that is the cluster's certificate, replace it with one that has an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; until then, --via qq works without --ca-file and --tls-fingerprint, but does not verify certificates

"#]]
    );
}

#[test]
fn invalid_fingerprint_is_reported_at_its_source() {
    let core = Core::start();
    let qkey = trusting_nobody(&core);
    let mut said = session(&qkey, ["keys --tls-fingerprint=sha256:0011"]);
    qkey.configure("[clusters.lab]\nhost = \"lab\"\ntls-fingerprint = \"0011\"\n");
    said += &session(&qkey, ["keys"]);
    said += &session(&qkey.env("QKEY_TLS_FINGERPRINT", "md5:00"), ["keys"]);
    snapshot!(
        said,
        str![[r#"
$ qkey keys --tls-fingerprint=sha256:0011
--- exit 2
error: invalid value 'sha256:0011' for '--tls-fingerprint <sha256:HEX>': a fingerprint is sha256: and 64 hexadecimal digits

For more information, try '--help'.
$ qkey keys
--- exit 2
error: [DIR]/.config/qkey/config.toml:3: a fingerprint is sha256: and 64 hexadecimal digits
hint: `qkey config init --file -` lists every key
$ qkey keys
--- exit 2
error: invalid value 'md5:00' for '--tls-fingerprint <sha256:HEX>': a fingerprint is sha256: and 64 hexadecimal digits

For more information, try '--help'.

"#]]
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn insecure_accepts_any_certificate_and_warns() {
    let core = Core::start();
    for certificate in ["signed", "expired", "wrong-name", "self-signed-ca"] {
        core.show(json!({ "certificate": certificate }));
        let said = ["1", "0"].map(|value| {
            core.clear_requests();
            let qkey = trusting_nobody(&core).env("QKEY_INSECURE", value);
            let run = qkey.run(["keys"]);
            if value == "0" {
                expect_distrust(&core, &run);
            } else {
                assert_eq!(
                    run.transcript(),
                    qkey.run(["keys", "--insecure"]).transcript()
                );
            }
            run
        });
        snapshot!(
            said[0].transcript(),
            str![[r#"
The key store is empty.
--- exit 0
warning: the certificate of 127.0.0.1:[PORT] is not verified (--insecure): anyone on the network path can steal the token and reply in the cluster's place

"#]]
        );
    }
}

#[test]
fn trust_precedence() {
    let core = Core::start();
    let other = Core::start();
    let (right, wrong) = (path(core.ca_file()), path(other.ca_file()));
    let [ca, wrong_ca] = [right, wrong].map(|file| format!("ca-file = {file:?}"));
    let [pin, wrong_pin] =
        [core.fingerprint(), OTHER].map(|pin| format!("tls-fingerprint = {pin:?}"));
    let (flag_ca, flag_wrong_ca) = (format!("--ca-file={right}"), format!("--ca-file={wrong}"));
    let flag_wrong_pin = format!("--tls-fingerprint={OTHER}");
    let host = format!(
        "--host=localhost --port={} --via=rest --credentials-store={}",
        core.port(),
        path(core.credentials())
    );
    let host_and_ca = format!("{host} {flag_ca}");
    const NONE: (&str, &str) = ("UNUSED", "");
    // The configuration file, a variable, flags; and whether that is trusted.
    for (file, (name, value), flags, expected) in [
        ("", NONE, "", false),
        (&*ca, NONE, "", true),
        (&pin, NONE, "", true),
        (&wrong_pin, NONE, "", false),
        // The environment beats the file.
        (&wrong_ca, ("QKEY_CA_FILE", right), "", true),
        (&ca, ("QKEY_CA_FILE", wrong), "", false),
        (&wrong_pin, ("QKEY_CA_FILE", right), "", true),
        (&wrong_pin, ("QKEY_INSECURE", "1"), "", true),
        (&ca, ("QKEY_TLS_FINGERPRINT", OTHER), "", false),
        // A flag beats both.
        (&wrong_ca, ("QKEY_CA_FILE", wrong), &*flag_ca, true),
        (&ca, ("QKEY_INSECURE", "1"), &flag_wrong_ca, false),
        ("", ("QKEY_INSECURE", "1"), &flag_wrong_pin, false),
        ("", ("QKEY_TLS_FINGERPRINT", OTHER), "--insecure", true),
        // The environment's trust is not for a cluster that a flag names.
        ("", ("QKEY_CA_FILE", right), "--cluster=lab", false),
        ("", ("QKEY_INSECURE", "1"), "--cluster=lab", false),
        (
            "",
            ("QKEY_TLS_FINGERPRINT", core.fingerprint()),
            "--cluster=lab",
            false,
        ),
        (&ca, ("QKEY_TLS_FINGERPRINT", OTHER), "--cluster=lab", true),
        ("", NONE, "--cluster=lab --insecure", true),
        // The file's trust is not for a host that a flag names.
        (&ca, NONE, &host, false),
        (&ca, NONE, &host_and_ca, true),
    ] {
        let qkey = Qkey::new().env(name, value);
        qkey.configure(&format!(
            "default-cluster = \"lab\"\n[clusters.lab]\nhost = \"127.0.0.1\"\nport = {}\nvia = \"rest\"\ncredentials-store = {:?}\n{file}\n",
            core.port(),
            core.credentials(),
        ));
        let run = qkey.line(format!("keys {flags}").trim_end());
        let what = format!("{file} {name}={value} {flags}: {run:?}");
        assert_eq!(run.code, if expected { 0 } else { 7 }, "{what}");
    }
}

#[test]
fn trust_settings_conflict_at_the_same_level() {
    let core = Core::start();
    let qkey = trusting_nobody(&core);
    let pin = format!("--tls-fingerprint={OTHER}");
    let lines = [
        "keys --ca-file=ca.pem --insecure".to_owned(),
        format!("keys {pin} --insecure"),
        format!("keys --ca-file=ca.pem {pin}"),
    ];
    let mut said = session(&qkey, lines.iter().map(String::as_str));
    qkey.configure(&format!(
        "[clusters.lab]\nca-file = \"a.pem\"\ntls-fingerprint = \"{OTHER}\"\n"
    ));
    said += &session(&qkey, ["keys --cluster=lab"]);
    let qkey = trusting_nobody(&core)
        .env("QKEY_CA_FILE", "ca.pem")
        .env("QKEY_INSECURE", "yes");
    said += &session(&qkey, ["keys"]);
    snapshot!(
        said,
        str![[r#"
$ qkey keys --ca-file=ca.pem --insecure
--- exit 2
error: --ca-file and --insecure cannot be used together
hint: use only one of them
$ qkey keys --tls-fingerprint=sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff --insecure
--- exit 2
error: --tls-fingerprint and --insecure cannot be used together
hint: use only one of them
$ qkey keys --ca-file=ca.pem --tls-fingerprint=sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
--- exit 2
error: --ca-file and --tls-fingerprint cannot be used together
hint: use only one of them
$ qkey keys --cluster=lab
--- exit 2
error: clusters.lab.ca-file and clusters.lab.tls-fingerprint cannot be used together
hint: use only one of them
$ qkey keys
--- exit 2
error: QKEY_CA_FILE and QKEY_INSECURE cannot be used together
hint: use only one of them

"#]]
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn config_show_explains_trust() {
    let pin = format!(
        "--tls-fingerprint={}",
        OTHER.to_uppercase().replace("SHA", "sha")
    );
    let said = ["", "--insecure", &pin].map(|flag| {
        let run = Qkey::with_port(1).line(format!("config show {flag}").trim_end());
        let line = run.stdout.lines().find(|line| line.starts_with("trust"));
        let words: Vec<&str> = line.expect("a line").split_whitespace().collect();
        words.join(" ") + "\n"
    });
    snapshot!(
        said.concat(),
        str![[r#"
trust system CAs default
trust any certificate flag, --insecure
trust sha256:00[PORT][PORT]2233445566778899aabbccddeeff00[PORT][PORT]2233445566778899aabbccddeeff flag, --tls-fingerprint

"#]]
    );
}

#[test]
fn tls_1_2_and_1_3_are_supported() {
    let core = Core::start();
    for version in ["1.2", "1.3"] {
        core.show(json!({ "version": version }));
        core.clear_requests();
        expect_distrust(&core, &trusting_nobody(&core).run(["keys"]));
        expect_trust(&Qkey::with_rest(&core).run(["keys"]));
    }
    core.show(json!({ "version": "1.1" }));
    core.clear_requests();
    let qkey = trusting_nobody(&core);
    let run = qkey.line("keys --insecure");
    expect_distrust(&core, &run);
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 7
warning: the certificate of 127.0.0.1:[PORT] is not verified (--insecure): anyone on the network path can steal the token and reply in the cluster's place
error: cannot reach 127.0.0.1:[PORT]: the server supports neither TLS 1.2 nor TLS 1.3
hint: enable TLS 1.2 or TLS 1.3 on the server, or check --host and --port

"#]]
    );
}

/// A server that speaks TLS with the key and the certificates in `pem`, and replies with `bytes`
/// alone. `configure` completes its settings.
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

/// Runs `keys` against a server that is not the Core, with its certificate pinned.
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
        // Even --insecure requires proof of the key.
        let insecure = other.qkey().run(["keys", "list", "--insecure"]);
        assert_eq!(insecure.code, 7, "{insecure:?}");
    }
    snapshot!(
        said,
        str![[r#"
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the server did not prove that it holds the certificate's private key
hint: someone may be impersonating the cluster; find out what responds there
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: the server did not prove that it holds the certificate's private key
hint: someone may be impersonating the cluster; find out what responds there

"#]]
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
    snapshot!(
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
        expect_distrust(&core, &run);
        said += &run.stderr;
    }
    snapshot!(
        said,
        str![[r#"
error: cannot reach 127.0.0.1:[PORT]: the server requires a client certificate
hint: qkey cannot present one; check --host and --port, or bypass the gateway that asks for it
error: cannot reach 127.0.0.1:[PORT]: the server requires a client certificate
hint: qkey cannot present one; check --host and --port, or bypass the gateway that asks for it

"#]]
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
    // Alerts with the same words share an entry.
    let mut outcomes: Vec<(String, Vec<String>)> = Vec::new();
    for (i, alert) in CODES.iter().enumerate() {
        code.store(i, Ordering::Relaxed);
        let run = other.qkey().run(["keys", "list"]);
        assert_eq!(run.code, 7, "{run:?}");
        let prefix = "error: cannot reach 127.0.0.1:[PORT]: ";
        let said = run.stderr.strip_prefix(prefix).expect("the cause");
        let (words, named) = match said.split_once("with the alert ") {
            Some((before, rest)) => {
                let (name, hint) = rest.split_once('\n').expect("a hint");
                (
                    format!("{before}with the alert [NAME]\n{hint}"),
                    format!("{alert} {name}"),
                )
            }
            None => (said.to_owned(), alert.to_string()),
        };
        match outcomes.iter_mut().find(|(other, _)| *other == words) {
            Some((_, alerts)) => alerts.push(named),
            None => outcomes.push((words, vec![named])),
        }
    }
    let said = outcomes
        .iter()
        .map(|(words, alerts)| format!("==== {}\n{words}", alerts.join(", ")));
    snapshot!(
        said.collect::<String>(),
        str![[r#"
==== 0 close_notify, 10 unexpected_message, 22 record_overflow, 30 decompression_failure, 42 bad_certificate, 43 unsupported_certificate, 44 certificate_revoked, 45 certificate_expired, 46 certificate_unknown, 47 illegal_parameter, 48 unknown_ca, 49 access_denied, 50 decode_error, 60 export_restriction, 80 internal_error, 86 inappropriate_fallback, 90 user_canceled, 100 no_renegotiation, 109 missing_extension, 110 unsupported_extension, 111 certificate_unobtainable, 113 bad_certificate_status_response, 114 bad_certificate_hash_value, 115 unknown_psk_identity, 121 ech_required, 200 200
the server closed the TLS connection with the alert [NAME]
hint: check --host and --port: another service may be listening there; otherwise, check the server's TLS settings
==== 20, 21, 51
TLS data was corrupted in transit
hint: check the network, and any proxy or firewall that inspects TLS connections
==== 40, 71
the server and qkey share no TLS cipher suite, key exchange, or certificate key type
hint: on the server, enable TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, and use a certificate with an RSA key of 2048 to 8192 bits or a P-256, P-384, or Ed25519 key; --via qq without --ca-file and --tls-fingerprint may work with others, but does not verify certificates
==== 41, 116
the server requires a client certificate
hint: qkey cannot present one; check --host and --port, or bypass the gateway that asks for it
==== 70
the server supports neither TLS 1.2 nor TLS 1.3
hint: enable TLS 1.2 or TLS 1.3 on the server, or check --host and --port
==== 112
the server does not recognize this host name
hint: check --host: use a host name that the cluster is configured with
==== 120
the server does not speak HTTP/1.1
hint: check --host and --port: the REST API of a cluster speaks HTTP/1.1

"#]]
    );
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
    let openssl = |arguments: &str| drop(prints(&qkey, &format!("openssl {arguments}")));
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
            prints(&qkey, command);
            expect_trust(&qkey.run(["keys", "--ca-file", "ca.pem"]));
        }
    }
    snapshot!(
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
    );
}

/// A server that is no cluster, until the test program ends: `serve` gets each connection.
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
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                serve(connection);
            }
        });
        Self { port, connections }
    }

    fn qkey(&self) -> Qkey {
        Qkey::with_port(self.port).env("QKEY_TOKEN", "test-token")
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
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: the server does not speak TLS
hint: check --host and --port: --via rest needs the cluster's HTTPS port (8000 by default)

"#]]
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
        snapshot!(
            filtered(&run),
            str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: no connection within 1 s
hint: check whether the cluster responds, or give it more time with --timeout SECONDS

"#]]
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
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: the connection was closed before a request was sent
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
    );
    assert_eq!(other.connections.load(Ordering::Relaxed), 3);
}

#[test]
fn refused_connection_and_unknown_host() {
    let qkey = Qkey::with_port(free_port());
    qkey_snapshot!(
        qkey,
        ["keys"],
        str![[r#"
--- exit 7
error: cannot reach 127.0.0.1:[PORT]: Connection refused (os error 111)
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
    );
    let run = qkey.line("keys --host=unknown.invalid");
    // The rest depends on the resolver.
    let start = "error: cannot reach unknown.invalid:[PORT]: ";
    assert!(run.code == 7 && run.stderr.starts_with(start), "{run:?}");
}

#[test]
fn trust_flags_have_no_effect_through_qq() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let pin = format!("keys --tls-fingerprint={OTHER}");
    let lines = ["keys --ca-file=ca.pem", &pin, "keys --insecure"];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey keys --ca-file=ca.pem
--- exit 2
error: --ca-file has no effect with --via qq: qq does not verify certificates
hint: add --via rest, or omit --ca-file
$ qkey keys --tls-fingerprint=sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
--- exit 2
error: --tls-fingerprint has no effect with --via qq: qq does not verify certificates
hint: add --via rest, or omit --tls-fingerprint
$ qkey keys --insecure
--- exit 2
error: --insecure has no effect with --via qq: qq does not verify certificates
hint: add --via rest, or omit --insecure

"#]]
    );
    assert_eq!(mock.calls(), Vec::<Vec<String>>::new());
    let qkey = qkey.env("QKEY_TLS_FINGERPRINT", OTHER);
    snapshot!(
        session(&qkey, ["keys list", "keys --via=qq"]),
        str![[r#"
$ qkey keys list
The key store is empty.
--- exit 0
warning: QKEY_TLS_FINGERPRINT has no effect with --via qq: qq does not verify certificates; use --via rest
$ qkey keys --via=qq
The key store is empty.

"#]]
    );
}
