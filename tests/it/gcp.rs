//! Keys in Google Cloud KMS: the real `gcloud` against a fake Cloud KMS.

use crate::support::{
    fake_cloud_kms::{FakeCloudKms, Fault, RING, Version, bob, crc32c},
    fake_kms::sign_digest,
    http::url_of_nobody,
    mock::Mock,
    qkey::{BOB_PUBLIC, CAROL, Qkey, Run, side_by_side},
    shell::prints,
};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use serde_json::json;
use sha2::{Digest, Sha256};
use snapbox::{IntoData, assert_data_eq, str};

/// A fake Cloud KMS with the one version of the key `bob`, and `qkey` with the real `gcloud`.
struct Lab {
    kms: FakeCloudKms,
    qkey: Qkey,
}

impl Lab {
    fn new() -> Self {
        Self::with(Qkey::new())
    }

    fn with(qkey: Qkey) -> Self {
        let kms = FakeCloudKms::start();
        kms.add("bob", 1, bob());
        let token = qkey.write("token", "token");
        let qkey = with_gcloud(qkey, &kms.url()).env(
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
            token.to_str().expect("UTF-8"),
        );
        Self { kms, qkey }
    }

    fn run(&self, args: &[&str]) -> Run {
        self.qkey.run(args)
    }

    fn pubkey(&self, source: &str) -> String {
        transcript(&self.run(&["pubkey", "--format=base64", source]))
    }

    fn sign(&self, source: &str) -> String {
        transcript(&self.run(&["sign", "--key", source, "x"]))
    }
}

/// Without credentials.
fn with_gcloud(qkey: Qkey, url: &str) -> Qkey {
    let config = qkey.path("gcloud");
    qkey.env("CLOUDSDK_CONFIG", config.to_str().expect("UTF-8"))
        .env("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS", url)
        .env("CLOUDSDK_CORE_PROJECT", "p")
        .env("GCE_METADATA_ROOT", "127.0.0.1:9")
}

/// The run as a snapshot shows it.
fn transcript(run: &Run) -> String {
    let program = which::which("gcloud").expect("gcloud is on PATH: run scripts/test-tools");
    run.transcript()
        .replace(&*program.to_string_lossy(), "gcloud")
        .replace(RING, "[RING]")
}

/// A source that names the version 1 of a key.
fn first(key: &str) -> String {
    format!("{}/cryptoKeyVersions/1", whole(key))
}

/// A source that names no version.
fn whole(key: &str) -> String {
    format!("gcpkms://{RING}/cryptoKeys/{key}")
}

#[test]
fn generate_requests_a_p256_signing_key_of_the_protection_level() {
    let lab = Lab::new();
    let made = lab.run(&[
        "generate",
        &format!("{}?protection-level=hsm", whole("new")),
    ]);
    assert_data_eq!(transcript(&made), str![[r#"
Generated private key gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1
  SHA256:JSkAIR0avXSXaOU9Y5LHbqSNYBdGNuIp6RwKJix49NQ
Store its public half with `qkey add --name NAME --key gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1`.

"#]].raw());
    let calls = lab.kms.take_calls();
    assert_eq!(calls[0].method, "POST");
    assert!(calls[0].path.contains("cryptoKeyId=new"));
    assert_eq!(
        calls[0].body,
        json!({
            "purpose": "ASYMMETRIC_SIGN",
            "versionTemplate": {"algorithm": "EC_SIGN_P256_SHA256", "protectionLevel": "HSM"},
        })
    );
}

#[test]
fn a_ceremony_needs_one_call_to_open_and_one_to_sign() {
    let mock = Mock::new();
    let lab = Lab::with(Qkey::with_mock(&mock));
    lab.qkey
        .configure(&format!("[keys.new]\nsource = {:?}\n", first("bob")));
    assert_eq!(lab.run(&["add", "--name=lock", "--key=alice.pem"]).code, 0);
    let replaced = lab.run(&[
        "replace",
        "--key-id=lock",
        "--old-key=alice.pem",
        "--new-key=new",
    ]);
    assert_eq!(replaced.code, 0, "{replaced:?}");
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    assert_eq!(lab.kms.take_calls().len(), 2);
    mock.add_snapshot(7, "seven", Some("1"));
    let unlocked = lab.run(&["unlock", "--id=7"]);
    assert_eq!(unlocked.code, 0, "{unlocked:?}");
    assert_eq!(mock.lock_key(7), None);
}

fn in_state(state: &'static str) -> Version {
    Version { state, ..bob() }
}

#[test]
fn version_is_optional_if_exactly_one_is_enabled() {
    let lab = Lab::new();
    lab.kms.add("bob", 2, in_state("DISABLED"));
    assert_eq!(lab.run(&["sign", "--key", &whole("bob"), "x"]).code, 0);
    let cases = ["two", "none", "other algorithm", "no key", "no permission"];
    let told = side_by_side(&cases, |case| {
        let lab = Lab::new();
        match case {
            "no permission" => lab.kms.fault(
                "cryptoKeyVersions?",
                Fault::Error(
                    403,
                    "PERMISSION_DENIED",
                    "Permission 'cloudkms.cryptoKeyVersions.list' denied on resource.",
                ),
            ),
            "two" => {
                lab.kms.add("bob", 2, in_state("DESTROYED"));
                lab.kms.add("bob", 3, bob());
            }
            "none" => lab.kms.add("bob", 1, in_state("DISABLED")),
            "other algorithm" => {
                let algorithm = "EC_SIGN_P384_SHA384";
                lab.kms.add("bob", 1, Version { algorithm, ..bob() });
            }
            _ => return lab.pubkey(&whole("dave")),
        }
        lab.pubkey(&whole("bob"))
    });
    assert_data_eq!(told, str![[r#"
==== two
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob
  caused by: without a version in the key source, exactly one must be enabled; found: 1 ENABLED, 2 DESTROYED, 3 ENABLED
hint: add /cryptoKeyVersions/NUMBER to the key source
==== none
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob
  caused by: without a version in the key source, exactly one must be enabled; found: 1 DISABLED
hint: enable a version, or create another key: `qkey generate gcpkms://…`
==== other algorithm
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob
  caused by: its algorithm is EC_SIGN_P384_SHA384, but must be EC_SIGN_P256_SHA256
hint: create a key that fits: `qkey generate gcpkms://…/cryptoKeys/NAME`
==== no key
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/dave
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.list) NOT_FOUND: CryptoKey [RING]/cryptoKeys/dave not found. This command is authenticated with an access token from [DIR]/token specified by the [auth/access_token_file] property.
hint: check the project, location, key ring, key and version: `gcloud kms keys versions list` lists the versions of a key
==== no permission
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.list) PERMISSION_DENIED: Permission 'cloudkms.cryptoKeyVersions.list' denied on resource. This command is authenticated with an access token from [DIR]/token specified by the [auth/access_token_file] property.
hint: name the version in the key source, or get the role roles/cloudkms.viewer as well; `gcloud auth list` shows who you are

"#]].raw());
}

/// What goes wrong when the key is opened, or when it signs.
fn failure(case: &str) -> String {
    let lab = Lab::new();
    let pubkey = |fault| {
        lab.kms.fault("publicKey", fault);
        lab.pubkey(&first("bob"))
    };
    match case {
        "not found" => lab.pubkey(&first("dave")),
        "disabled" => {
            lab.kms.add("bob", 1, in_state("DISABLED"));
            lab.pubkey(&first("bob"))
        }
        "no permission" => pubkey(Fault::Error(
            403,
            "PERMISSION_DENIED",
            "Permission 'cloudkms.cryptoKeyVersions.viewPublicKey' denied on resource.",
        )),
        "expired" => pubkey(Fault::Error(
            401,
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials.",
        )),
        "not for signing" => pubkey(Fault::Error(
            400,
            "INVALID_ARGUMENT",
            "The purpose of the CryptoKey is ENCRYPT_DECRYPT.",
        )),
        "no PEM" => pubkey(Fault::Members(json!({ "pem": "\u{1b}[31moops" }))),
        "half a PEM" => pubkey(Fault::Members(
            json!({ "pem": "-----BEGIN PUBLIC KEY-----\nMFkw\n" }),
        )),
        "RSA" => {
            let pem = prints(
                &lab.qkey,
                "openssl genpkey -quiet -algorithm RSA | openssl pkey -pubout",
            );
            pubkey(Fault::Members(json!({ "pem": pem })))
        }
        "no account" => {
            let qkey = with_gcloud(Qkey::new(), &lab.kms.url());
            transcript(&qkey.run(["pubkey", &first("bob")]))
        }
        "no gcloud" => {
            let qkey = Qkey::new().env("PATH", "/nowhere");
            transcript(&qkey.run(["pubkey", &first("bob")]))
        }
        "nobody there" => {
            let qkey = with_gcloud(Qkey::new(), &format!("{}/", url_of_nobody()))
                .env("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "True");
            transcript(&qkey.run(["pubkey", "--timeout=4", &first("bob")]))
        }
        "may not sign" => {
            lab.kms.fault(
                "asymmetricSign",
                Fault::Error(403, "PERMISSION_DENIED", "useToSign denied on resource."),
            );
            lab.sign(&first("bob"))
        }
        other => panic!("{other}"),
    }
}

#[test]
fn failures_show_the_output_of_gcloud_and_a_hint() {
    let cases = [
        "not found",
        "disabled",
        "no permission",
        "expired",
        "not for signing",
        "no PEM",
        "half a PEM",
        "RSA",
        "no account",
        "no gcloud",
        "nobody there",
        "may not sign",
    ];
    assert_data_eq!(side_by_side(&cases, failure), str![[r#"
==== not found
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/dave/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) NOT_FOUND: CryptoKeyVersion [RING]/cryptoKeys/dave/cryptoKeyVersions/1 not found. This command is authenticated with an access token from [DIR]/token specified by the [auth/access_token_file] property.
hint: check the project, location, key ring, key and version: `gcloud kms keys versions list` lists the versions of a key
==== disabled
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) FAILED_PRECONDITION: [RING]/cryptoKeys/bob/cryptoKeyVersions/1 is not enabled, current state is: DISABLED.
hint: check the version's state: `gcloud kms keys versions describe [RING]/cryptoKeys/bob/cryptoKeyVersions/1`; to enable a disabled version, run `gcloud kms keys versions enable [RING]/cryptoKeys/bob/cryptoKeyVersions/1`
==== no permission
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) PERMISSION_DENIED: Permission 'cloudkms.cryptoKeyVersions.viewPublicKey' denied on resource. This command is authenticated with an access token from [DIR]/token specified by the [auth/access_token_file] property.
hint: you need the role roles/cloudkms.signerVerifier on the key: `gcloud kms keys add-iam-policy-binding` grants it; `gcloud auth list` shows who you are
==== expired
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) UNAUTHENTICATED: Request had invalid authentication credentials. This command is authenticated with an access token from [DIR]/token specified by the [auth/access_token_file] property.
hint: log in: `gcloud auth login`, or choose an account with `gcloud config set account`, CLOUDSDK_CORE_ACCOUNT or the attribute configuration; gcloud ignores GOOGLE_APPLICATION_CREDENTIALS
==== not for signing
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) INVALID_ARGUMENT: The purpose of the CryptoKey is ENCRYPT_DECRYPT.
hint: use a key with the purpose asymmetric-signing and the algorithm ec-sign-p256-sha256: `qkey generate gcpkms://…/cryptoKeys/NAME` creates one
==== no PEM
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` answered with something other than a public key in PEM: [31moops
hint: try again; if it persists, the server may not be Cloud KMS: check the proxy
==== half a PEM
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: the PUBLIC KEY block has no matching END line
hint: try again; if it persists, the server may not be Cloud KMS: check the proxy
==== RSA
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: the public key is RSA, not ECDSA P-256
hint: create a key that fits: `qkey generate gcpkms://…/cryptoKeys/NAME`
==== no account
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) You do not currently have an active account selected.
    Please run:
    
      $ gcloud auth login
    
    to obtain new credentials.
    
    If you have already logged in with a different account, run:
    
      $ gcloud config set account ACCOUNT
    
    to select an already authenticated account to use.
hint: log in: `gcloud auth login`, or choose an account with `gcloud config set account`, CLOUDSDK_CORE_ACCOUNT or the attribute configuration; gcloud ignores GOOGLE_APPLICATION_CREDENTIALS
==== no gcloud
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` was not found
hint: install the Google Cloud CLI: the package google-cloud-cli from Google's repository, or see https://cloud.google.com/sdk/docs/install
==== nobody there
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` did not finish within 4 s and was killed
hint: check the network and the proxy; gcloud retries for half a minute, so it may need a higher --timeout SECONDS
==== may not sign
--- exit 3
error: cannot sign with gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.asymmetric-sign) PERMISSION_DENIED: useToSign denied on resource. This command is authenticated with an access token from [DIR]/token specified by the [auth/access_token_file] property.
hint: you need the role roles/cloudkms.signerVerifier on the key: `gcloud kms keys add-iam-policy-binding` grants it; `gcloud auth list` shows who you are

"#]].raw());
}

#[test]
fn damaged_and_malformed_signatures_are_errors() {
    let members = |signature: &[u8]| {
        Fault::Members(json!({
            "signature": BASE64.encode(signature),
            "signatureCrc32c": crc32c(signature).to_string(),
        }))
    };
    let by_carol = sign_digest(CAROL, &Sha256::digest(b"x"));
    let cases = [
        "wrong CRC",
        "no CRC",
        "digest not verified",
        "other version",
        "empty",
        "garbage",
        "P1363",
        "Base64",
        "by another key",
    ];
    let told = side_by_side(&cases, |case| {
        let lab = Lab::new();
        let der = by_carol.to_der();
        let fault = match case {
            "wrong CRC" => Fault::Members(json!({ "signatureCrc32c": "1" })),
            "no CRC" => Fault::Members(json!({ "signatureCrc32c": null })),
            "digest not verified" => Fault::Members(json!({ "verifiedDigestCrc32c": false })),
            "other version" => Fault::Members(json!({ "name": "projects/p/other" })),
            "empty" => members(b""),
            "garbage" => members(b"garbage"),
            "P1363" => members(&by_carol.to_bytes()),
            "Base64" => members(BASE64.encode(der.as_bytes()).as_bytes()),
            _ => members(der.as_bytes()),
        };
        lab.kms.fault("asymmetricSign", fault);
        lab.sign(&first("bob"))
    });
    assert_data_eq!(told, str![[r#"
==== wrong CRC
--- exit 3
error: cannot sign with gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.asymmetric-sign) The response received from the server was corrupted in-transit. Please try again. This should happen rarely. If the error persists, contact cloudkms-feedback@google.com. To learn more about how Cloud KMS verifies in-transit integrity, visit https://cloud.google.com/kms/docs/data-integrity-guidelines.
hint: data was damaged in transit: check the proxy, and try again
==== no CRC
--- exit 3
error: cannot sign with gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.asymmetric-sign) The response received from the server was corrupted in-transit. Please try again. This should happen rarely. If the error persists, contact cloudkms-feedback@google.com. To learn more about how Cloud KMS verifies in-transit integrity, visit https://cloud.google.com/kms/docs/data-integrity-guidelines.
hint: data was damaged in transit: check the proxy, and try again
==== digest not verified
--- exit 3
error: cannot sign with gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.asymmetric-sign) The request sent to the server was corrupted in-transit. Please try again. This should happen rarely. If the error persists, contact cloudkms-feedback@google.com. To learn more about how Cloud KMS verifies in-transit integrity, visit https://cloud.google.com/kms/docs/data-integrity-guidelines.
hint: data was damaged in transit: check the proxy, and try again
==== other version
--- exit 3
error: cannot sign with gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.asymmetric-sign) Found a mismatch between user-requested crypto resource ([RING]/cryptoKeys/bob/cryptoKeyVersions/1)and server-reported resource used for the cryptographic operation (projects/p/other).
    Please try again. This should happen rarely. If the error persists, contact cloudkms-feedback@google.com. To learn more about how Cloud KMS verifies in-transit integrity, visit https://cloud.google.com/kms/docs/data-integrity-guidelines.
hint: data was damaged in transit: check the proxy, and try again
==== empty
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` answered with something other than a signature: (nothing)
hint: qkey expects ASN.1 DER
==== garbage
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` answered with something other than a signature: garbage
hint: qkey expects ASN.1 DER
==== P1363
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` answered with something other than a signature: d367f9b7e5d2c78d2db00672a84f1495401856dd551a14fbfb122cee4c2e32d5bd1ea166075acd9decc20f8a5db87fbe792ede4c3fe4194d6da3f2ca…
hint: qkey expects ASN.1 DER; this looks like r and s, 32 bytes each (IEEE P1363)
==== Base64
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` answered with something other than a signature: MEYCIQDTZ/m35dLHjS2wBnKoTxSVQBhW3VUaFPv7EizuTC4y1QIhAL0eoWYHWs2d7MIPil24f755Lt5MP+QZTW2j8so/iXUu
hint: qkey expects ASN.1 DER; this looks like Base64 of ASN.1 DER
==== by another key
--- exit 3
error: gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1 returned a signature that does not verify
hint: check that the key source signs with the key that it reports, over SHA-256

"#]].raw());
}

#[test]
fn generate_polls_a_pending_version_and_never_adds_one() {
    let cases = [
        "pending",
        "pending for ever",
        "taken",
        "a version",
        "no permission",
    ];
    let told = side_by_side(&cases, |case| {
        let lab = Lab::new();
        let source = match case {
            "taken" => whole("bob"),
            "a version" => first("new"),
            _ => whole("new"),
        };
        match case {
            "pending" => lab.kms.fault("publicKey", Fault::Pending(2)),
            "pending for ever" => lab.kms.fault("publicKey", Fault::Pending(usize::MAX)),
            "no permission" => lab.kms.fault(
                "cryptoKeyId",
                Fault::Error(
                    403,
                    "PERMISSION_DENIED",
                    "Permission 'cloudkms.cryptoKeys.create' denied on resource.",
                ),
            ),
            _ => {}
        }
        let timeout = match case {
            "pending for ever" => "--timeout=30",
            _ => "--timeout=60",
        };
        transcript(&lab.run(&["generate", timeout, &source]))
    });
    assert_data_eq!(told, str![[r#"
==== pending
Generated private key gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1
  SHA256:JSkAIR0avXSXaOU9Y5LHbqSNYBdGNuIp6RwKJix49NQ
Store its public half with `qkey add --name NAME --key gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1`.
==== pending for ever
--- exit 3
error: created gcpkms://[RING]/cryptoKeys/new, but cannot use it yet
  caused by: cannot open gcpkms://[RING]/cryptoKeys/new
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) FAILED_PRECONDITION: [RING]/cryptoKeys/new/cryptoKeyVersions/1 is not enabled, current state is: PENDING_GENERATION.
hint: try again later: `qkey pubkey gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1`
==== taken
--- exit 3
error: cannot create gcpkms://[RING]/cryptoKeys/bob
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.create) ALREADY_EXISTS: CryptoKey [RING]/cryptoKeys/bob already exists.
hint: use that key, or choose another name
==== a version
--- exit 2
error: cannot create "gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1": it names a version
hint: leave /cryptoKeyVersions/… out: a new key starts with version 1
==== no permission
--- exit 3
error: cannot create gcpkms://[RING]/cryptoKeys/new
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.create) PERMISSION_DENIED: Permission 'cloudkms.cryptoKeys.create' denied on resource. This command is authenticated with an access token from [DIR]/token specified by the [auth/access_token_file] property.
hint: you need the role roles/cloudkms.admin on the key ring: `gcloud kms keyrings add-iam-policy-binding` grants it; `gcloud auth list` shows who you are

"#]].raw());
}

#[test]
fn the_attributes_choose_a_configuration_and_an_identity() {
    let lab = Lab::new();
    let url = lab.kms.url();
    let qkey =
        with_gcloud(Qkey::new(), &url).env("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS", &url);
    qkey.write("gcloud/active_config", "default");
    for name in ["default", "lock"] {
        let token = qkey.write(&format!("{name}-token"), name);
        qkey.write(
            &format!("gcloud/configurations/config_{name}"),
            format!("[auth]\naccess_token_file = {}\n", token.display()),
        );
    }
    for (attributes, token) in [
        ("", "Bearer default"),
        ("?configuration=lock", "Bearer lock"),
        (
            "?impersonate-service-account=lock@p.iam.gserviceaccount.com",
            "Bearer of-another",
        ),
    ] {
        let run = qkey.run(["pubkey", &format!("{}{attributes}", first("bob"))]);
        assert_eq!(run.code, 0, "{run:?}");
        let call = lab.kms.take_calls().pop().expect("a call");
        assert_eq!(call.authorization.as_deref(), Some(token));
    }
}

#[test]
fn malformed_uris_fail_before_gcloud_runs() {
    let qkey = Qkey::new().env("PATH", "/nowhere");
    let cases = [
        "gcpkms:projects/p",
        "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/versions/1",
        "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/one",
        "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?protection-level=external",
        "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?account=x",
    ];
    assert_data_eq!(
        side_by_side(&cases, |case| qkey.run(["pubkey", case]).transcript()),
        str![[r#"
==== gcpkms:projects/p
--- exit 2
error: "gcpkms:projects/p" is not a key source: gcpkms: must be followed by two slashes
hint: write gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V; the version is optional if exactly one is enabled
==== gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/versions/1
--- exit 2
error: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/versions/1" is not a key source: it does not name a key
hint: write gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V; the version is optional if exactly one is enabled
==== gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/one
--- exit 2
error: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/one" is not a key source: it contains an invalid name or version
hint: write gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V; the version is optional if exactly one is enabled
==== gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?protection-level=external
--- exit 2
error: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?protection-level=external" is not a key source: unknown protection level "external"
hint: write software or hsm
==== gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?account=x
--- exit 2
error: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?account=…" is not a key source: unknown attribute "account"
hint: gcpkms takes configuration, impersonate-service-account, protection-level; in a name, write `?` as %3F: gcpkms:…%3F…

"#]].raw()
    );
}
