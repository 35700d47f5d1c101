//! Whom `--via rest` believes to be the cluster.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use serde_json::json;
use snapbox::{IntoData, assert_data_eq, str};
use support::{
    core::Core,
    mock::Mock,
    qkey::{Qkey, Run},
};

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

/// Whether curl, which trusts these certificates alone, takes the Core's.
fn curl_accepts(core: &Core) -> bool {
    let url = format!("https://127.0.0.1:{}/v1/version", core.port());
    let status = Command::new("curl")
        .args(["--silent", "--output", "/dev/null", "--noproxy", "*", "--cacert"])
        .args([path(core.ca_file()), &url])
        .status()
        .expect("curl runs");
    status.success()
}

/// That a certificate was refused, and nothing was asked of whoever showed it.
fn expect_none(core: &Core, run: &Run) {
    assert_eq!(run.code, 7, "{run:?}");
    assert_eq!(core.requests(), Vec::<serde_json::Value>::new());
}

const OTHER: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn an_authority_that_nobody_knows_is_not_trusted() {
    let core = Core::start();
    let qkey = trusting_nobody(&core);
    let run = qkey.run(["keys"]);
    expect_none(&core, &run);
    assert_data_eq!(transcript(&core, &run), str![[r#"
exit 7
--- stdout
--- stderr
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: nobody that is trusted here has signed it; it may be signed by itself
hint: its fingerprint is sha256:[CORE]; if the cluster's administrator confirms that, pin it with --tls-fingerprint=sha256:[CORE], or give the authority that signed it with --ca-file PEM

"#]].raw());
    let run = qkey.run(["keys", "--output=json"]);
    expect_none(&core, &run);
    assert_data_eq!(transcript(&core, &run), str![[r#"
exit 7
--- stdout
--- stderr
{"error":{"kind":"unreachable","message":"the certificate of 127.0.0.1:[PORT] is not trusted","causes":["nobody that is trusted here has signed it; it may be signed by itself"],"hint":"its fingerprint is sha256:[CORE]; if the cluster's administrator confirms that, pin it with --tls-fingerprint=sha256:[CORE], or give the authority that signed it with --ca-file PEM","exit_code":7}}

"#]].raw());
}

#[test]
fn the_way_that_the_hint_shows_leads_on() {
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
fn the_authorities_of_the_system_are_trusted_for_the_names_in_certificates() {
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
fn a_system_without_authorities_is_told_of() {
    let core = Core::start();
    let qkey = trusting_nobody(&core)
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", "nowhere");
    let run = qkey.run(["keys"]);
    assert_data_eq!(transcript(&core, &run), str![[r#"
exit 2
--- stdout
--- stderr
error: this system has no certificate authorities that it trusts
  caused by: opening directory: No such file or directory (os error 2) at 'nowhere'
  caused by: No such file or directory (os error 2)
hint: install them (the package ca-certificates), name the cluster's own with --ca-file PEM, or pin its certificate with --tls-fingerprint

"#]].raw());
    assert_eq!(core.connections(), 0);
    expect_trust(&qkey.run(["keys", "--ca-file", path(core.ca_file())]));
}

#[test]
fn each_certificate_that_is_wrong_is_refused_with_what_is_wrong() {
    let mut said = String::new();
    for certificate in ["expired", "wrong-name", "self-signed", "self-signed-ca"] {
        let core = Core::start_with(&[&format!("--certificate={certificate}")]);
        let qkey = trusting_nobody(&core);
        let with_ca = ["keys", "--ca-file", path(core.ca_file())];
        let without_ca = ["keys"];
        let cases = match certificate {
            // Nobody signed it: the authority is the certificate itself.
            "self-signed" | "self-signed-ca" => vec![&without_ca[..], &with_ca[..]],
            _ => vec![&with_ca[..]],
        };
        for case in cases {
            let run = qkey.run(case);
            if certificate == "self-signed" && case == with_ca {
                expect_trust(&run);
                core.clear_requests();
                continue;
            }
            expect_none(&core, &run);
            said += &format!(
                "==== {certificate}{}\n{}",
                if case == with_ca { " --ca-file" } else { "" },
                transcript(&core, &run)
            );
        }
        // Whoever knows the certificate itself needs neither names nor dates.
        expect_trust(&qkey.run(["keys", "--tls-fingerprint", core.fingerprint()]));
    }
    assert_data_eq!(said, str![[r#"
==== expired --ca-file
exit 7
--- stdout
--- stderr
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it has expired
hint: its fingerprint is sha256:[CORE]; if the cluster's administrator confirms that, pin it with --tls-fingerprint=sha256:[CORE], or give the authority that signed it with --ca-file PEM
==== wrong-name --ca-file
exit 7
--- stdout
--- stderr
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not for 127.0.0.1, but for elsewhere.test
hint: its fingerprint is sha256:[CORE]; if the cluster's administrator confirms that, pin it with --tls-fingerprint=sha256:[CORE], or give the authority that signed it with --ca-file PEM
==== self-signed
exit 7
--- stdout
--- stderr
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: nobody that is trusted here has signed it; it may be signed by itself
hint: its fingerprint is sha256:[CORE]; if the cluster's administrator confirms that, pin it with --tls-fingerprint=sha256:[CORE], or give the authority that signed it with --ca-file PEM
==== self-signed-ca
exit 7
--- stdout
--- stderr
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is the certificate of an authority, which cannot stand for a host
hint: its fingerprint is sha256:[CORE]; if the cluster's administrator confirms that, pin it with --tls-fingerprint=sha256:[CORE], or give the authority that signed it with --ca-file PEM
==== self-signed-ca --ca-file
exit 7
--- stdout
--- stderr
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is the certificate of an authority, which cannot stand for a host
hint: its fingerprint is sha256:[CORE]; if the cluster's administrator confirms that, pin it with --tls-fingerprint=sha256:[CORE], or give the authority that signed it with --ca-file PEM

"#]].raw());
}

/// The kinds of `tests/support/certificates.py`, with what is trusted in `--ca-file`.
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
        let curl = match curl_accepts(&core) {
            true => "accepts",
            false => "refuses",
        };
        said += &format!("==== {kind}: exit {}, curl {curl}\n", run.code);
        said += &run
            .transcript()
            .split_once("--- stderr\n")
            .expect("a transcript")
            .1
            .replace(&shown.fingerprint, "sha256:[SHOWN]")
            .replace(&shown.ca_fingerprint, "sha256:[CA]")
            .replace(path(core.ca_file()), "[CA]");
        if run.code == 0 {
            continue;
        }
        assert_eq!(run.code, 7, "{kind}: {run:?}");
        // A hint that names a way out works, as printed.
        let pin = run.stderr.contains(&format!("--tls-fingerprint={}", shown.fingerprint));
        let pinned = qkey.run(["keys", "--tls-fingerprint", &shown.fingerprint]);
        assert_eq!(pin, pinned.code == 0, "{kind}: {run:?}, pinned: {pinned:?}");
    }
    assert_data_eq!(said, str![[]].raw());
}

#[test]
fn a_ca_file_is_trusted_alone() {
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
fn what_is_no_ca_file_is_an_error_before_anything_is_sent() {
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
error: empty.pem cannot be used as --ca-file
hint: it must hold certificates in PEM: -----BEGIN CERTIFICATE-----
==== text.pem
error: text.pem cannot be used as --ca-file
hint: it must hold certificates in PEM: -----BEGIN CERTIFICATE-----
==== binary.pem
error: binary.pem cannot be used as --ca-file
hint: it must hold certificates in PEM: -----BEGIN CERTIFICATE-----
==== cut.pem
error: cut.pem cannot be used as --ca-file
  caused by: its PEM is cut off or not well-formed
hint: it must hold certificates in PEM: -----BEGIN CERTIFICATE-----
==== wrong.pem
error: wrong.pem cannot be used as --ca-file
  caused by: what its PEM holds is no certificate that can be read
hint: it must hold certificates in PEM: -----BEGIN CERTIFICATE-----
==== alice.pem
error: alice.pem cannot be used as --ca-file
hint: it must hold certificates in PEM: -----BEGIN CERTIFICATE-----
==== nowhere.pem
error: nowhere.pem cannot be used as --ca-file
  caused by: No such file or directory (os error 2)
hint: it must hold certificates in PEM: -----BEGIN CERTIFICATE-----
==== .
error: . cannot be used as --ca-file
  caused by: Is a directory (os error 21)
hint: it must hold certificates in PEM: -----BEGIN CERTIFICATE-----
==== 
error: a value is required for '--ca-file <PEM>' but none was supplied

For more information, try '--help'.

"#]]
        .raw()
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn a_pinned_certificate_is_trusted_and_no_other() {
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
exit 7
--- stdout
--- stderr
error: the certificate of 127.0.0.1:[PORT] is not trusted
  caused by: it is not the pinned one, sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
hint: its fingerprint is sha256:[CORE]; if the cluster was given a new certificate, pin that one, otherwise find out who answers there

"#]].raw());
}

#[test]
fn what_is_no_fingerprint_is_an_error_where_it_stands() {
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
exit 2
--- stdout
--- stderr
error: invalid value 'sha256:0011' for '--tls-fingerprint <sha256:HEX>': a fingerprint is sha256: and 64 hexadecimal digits

For more information, try '--help'.
exit 2
--- stdout
--- stderr
error: invalid value 'md5:00' for '--tls-fingerprint <sha256:HEX>': a fingerprint is sha256: and 64 hexadecimal digits

For more information, try '--help'.
exit 2
--- stdout
--- stderr
error: [DIR]/.config/qkey/config.toml:3: a fingerprint is sha256: and 64 hexadecimal digits
hint: `qkey config init --file -` shows every key that there is

"#]].raw());
    assert_eq!(core.connections(), 0);
}

#[test]
fn any_certificate_is_taken_with_insecure_and_a_warning() {
    for certificate in ["signed", "expired", "wrong-name", "self-signed-ca"] {
        let core = Core::start_with(&[&format!("--certificate={certificate}")]);
        let warning = "warning: the certificate of 127.0.0.1:[PORT] is not looked at (--insecure): whoever stands between can read the token, and answer in the cluster's place\n";
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
fn a_stronger_place_wins() {
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
fn two_in_the_same_place_exclude_each_other() {
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
exit 2
--- stdout
--- stderr
error: --ca-file and --insecure exclude each other
hint: say in one way which certificate is the cluster's
exit 2
--- stdout
--- stderr
error: --tls-fingerprint and --insecure exclude each other
hint: say in one way which certificate is the cluster's
exit 2
--- stdout
--- stderr
error: --ca-file and --tls-fingerprint exclude each other
hint: say in one way which certificate is the cluster's
exit 2
--- stdout
--- stderr
error: QKEY_CA_FILE and QKEY_INSECURE exclude each other
hint: say in one way which certificate is the cluster's
exit 2
--- stdout
--- stderr
error: clusters.lab.ca-file and clusters.lab.tls-fingerprint exclude each other
hint: say in one way which certificate is the cluster's

"#]]
        .raw()
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn config_show_tells_whom_to_trust_and_why() {
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
trust the authorities of this system default
trust any certificate flag, --insecure
trust sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff flag, --tls-fingerprint
trust [CA] environment, QKEY_CA_FILE

"#]].raw());
}

#[test]
fn tls_is_1_2_or_1_3() {
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
exit 7
--- stdout
--- stderr
error: cannot reach 127.0.0.1:[PORT]: who answers there speaks neither TLS 1.2 nor TLS 1.3
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
        .raw()
    );
    expect_none(&core, &qkey.run(["keys", "--insecure"]));
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
fn what_speaks_plain_http_gets_no_request() {
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
exit 7
--- stdout
--- stderr
error: cannot reach 127.0.0.1:[PORT]: who answers there speaks no TLS
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
        .raw()
    );
    for bytes in heard.try_iter() {
        assert!(!String::from_utf8_lossy(&bytes).contains("test-token"));
        assert_eq!(bytes[0], 22, "a TLS handshake, and nothing else");
    }
}

#[test]
fn what_says_nothing_is_given_up_in_time() {
    let mut kept = Vec::new();
    let (sender, receiver) = mpsc::channel();
    let other = Other::start(move |connection| drop(sender.send(connection)));
    for command in [&["keys"][..], &["lock", "--id=7", "--lock-key=1"]] {
        let run = other.qkey().run([command, &["--timeout=1"]].concat());
        assert_data_eq!(
            run.transcript(),
            str![[r#"
exit 7
--- stdout
--- stderr
error: cannot reach 127.0.0.1:[PORT]: no connection within 1 s
hint: look whether the cluster answers, or give it longer with --timeout SECONDS

"#]]
            .raw()
        );
    }
    kept.extend(receiver.try_iter());
    assert!(!kept.is_empty());
}

#[test]
fn what_closes_at_once_is_tried_three_times() {
    let other = Other::start(|mut connection| {
        // What is unread would turn the end into a reset.
        let _ = connection.read(&mut [0; 4096]);
    });
    let run = other.qkey().run(["keys", "list"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 7
--- stdout
--- stderr
error: cannot reach 127.0.0.1:[PORT]: the connection was closed before a request was sent
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]]
        .raw()
    );
    assert_eq!(other.connections.load(Ordering::Relaxed), 3);
}

#[test]
fn where_nobody_listens_is_told_of() {
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
exit 7
--- stdout
--- stderr
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
fn qq_looks_at_no_certificate_and_whoever_says_which_one_is_told_so() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let fingerprint = format!("--tls-fingerprint={OTHER}");
    for flag in ["--ca-file=ca.pem", &fingerprint, "--insecure"] {
        let run = qkey.run(["keys", flag]);
        let name = flag.split('=').next().unwrap();
        assert_eq!(run.code, 2, "{run:?}");
        let message = format!(
            "error: {name} is of no effect through qq, which verifies no certificate\nhint: add --via rest, or leave it out\n"
        );
        assert_eq!(run.stderr, message);
    }
    assert_eq!(mock.calls(), Vec::<Vec<String>>::new());

    let qkey = qkey.env("QKEY_TLS_FINGERPRINT", OTHER);
    assert_data_eq!(qkey.run(["keys", "list"]).stderr, str![[r#"
warning: QKEY_TLS_FINGERPRINT is of no effect through qq, which verifies no certificate; --via rest does

"#]].raw());
    let typed = qkey.run(["keys", "--via=qq"]);
    assert_eq!((typed.code, typed.stderr.as_str()), (0, ""));
}
