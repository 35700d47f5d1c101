//! Keys in Google Cloud KMS: the real `gcloud` against a fake Cloud KMS.

use crate::support::{
    fake_cloud_kms::{FakeCloudKms, Fault, RING, Version, bob},
    fake_kms::sign_digest,
    key_source::with_program,
    qkey::{CAROL, Qkey, Run},
    session::assert_cases,
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

fn in_state(state: &'static str) -> Version {
    Version { state, ..bob() }
}

#[test]
fn version_is_optional_if_exactly_one_is_enabled() {
    let lab = Lab::new();
    lab.kms.add("bob", 2, in_state("DISABLED"));
    // To list, open, and sign.
    for (source, calls) in [(whole("bob"), 3), (first("bob"), 2)] {
        assert_eq!(lab.run(&["sign", "--key", &source, "x"]).code, 0);
        assert_eq!(lab.kms.take_calls().len(), calls);
    }
    assert_cases!(
        str![[r#"
==== 1 ENABLED EC_SIGN_P256_SHA256, 2 DESTROYED -, 3 ENABLED EC_SIGN_P256_SHA256
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob
  caused by: without a version in the key source, exactly one must be enabled; found: 1 ENABLED, 2 DESTROYED, 3 ENABLED
hint: add /cryptoKeyVersions/NUMBER to the key source
==== 1 DISABLED -
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob
  caused by: without a version in the key source, exactly one must be enabled; found: 1 DISABLED
hint: enable a version, or create another key: `qkey generate gcpkms://…`
==== 1 ENABLED EC_SIGN_P384_SHA384
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob
  caused by: its algorithm is EC_SIGN_P384_SHA384, but must be EC_SIGN_P256_SHA256
hint: create a key that fits: `qkey generate gcpkms://…/cryptoKeys/NAME`
==== no permission
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.list) PERMISSION_DENIED: 'cloudkms.cryptoKeyVersions.list' denied
hint: name the version in the key source, or get the role roles/cloudkms.viewer as well; `gcloud auth list` shows who you are

"#]],
        |versions| {
            let versions: Vec<_> = versions
                .split(", ")
                .filter_map(|version| {
                    let words: Vec<&str> = version.split(' ').collect();
                    let [number, state, algorithm] = words[..].try_into().ok()?;
                    let name = format!("{RING}/cryptoKeys/bob/cryptoKeyVersions/{number}");
                    Some(json!({ "name": name, "state": state, "algorithm": algorithm }))
                })
                .collect();
            let script = match versions[..] {
                [] => fail(
                    "keys.versions.list",
                    "PERMISSION_DENIED: 'cloudkms.cryptoKeyVersions.list' denied",
                ),
                _ => format!("echo '{}'", json!(versions)),
            };
            scripted(&script, &["pubkey", &whole("bob")])
        }
    );
}

/// What a shell script as `gcloud` leads to. It may show Bob's public key with `show`.
fn scripted(script: &str, args: &[&str]) -> String {
    let text = format!(
        "#!/bin/sh\nshow() {{ echo '{}'; exit; }}\n{script}\n",
        bob().public_pem
    );
    let run = with_program(Qkey::new(), "gcloud", &text).run(args);
    run.transcript()
        .replace("[DIR]/bin/gcloud", "gcloud")
        .replace(RING, "[RING]")
}

/// An error of gcloud's.
fn fail(command: &str, words: &str) -> String {
    format!("echo \"ERROR: (gcloud.kms.{command}) {words}\" >&2; exit 1")
}

#[test]
fn failures_show_the_output_of_gcloud_and_a_hint() {
    assert_cases!(
        str![[r#"
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
==== may not sign
--- exit 3
error: cannot sign with gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.asymmetric-sign) PERMISSION_DENIED: useToSign denied on resource. This command is authenticated with an access token from [DIR]/token specified by the [auth/access_token_file] property.
hint: you need the role roles/cloudkms.signerVerifier on the key: `gcloud kms keys add-iam-policy-binding` grants it; `gcloud auth list` shows who you are
==== disabled
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) FAILED_PRECONDITION: It is not enabled, current state is: DISABLED.
hint: check the version's state: `gcloud kms keys versions describe [RING]/cryptoKeys/bob/cryptoKeyVersions/1`; to enable a disabled version, run `gcloud kms keys versions enable [RING]/cryptoKeys/bob/cryptoKeyVersions/1`
==== no permission
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) PERMISSION_DENIED: Permission 'cloudkms.cryptoKeyVersions.viewPublicKey' denied.
hint: you need the role roles/cloudkms.signerVerifier on the key: `gcloud kms keys add-iam-policy-binding` grants it; `gcloud auth list` shows who you are
==== expired
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) UNAUTHENTICATED: Request had invalid authentication credentials.
hint: log in: `gcloud auth login`, or choose an account with `gcloud config set account`, CLOUDSDK_CORE_ACCOUNT or the attribute configuration; gcloud ignores GOOGLE_APPLICATION_CREDENTIALS
==== not for signing
--- exit 3
error: cannot open gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) INVALID_ARGUMENT: The purpose of the CryptoKey is ENCRYPT_DECRYPT.
hint: use a key with the purpose asymmetric-signing and the algorithm ec-sign-p256-sha256: `qkey generate gcpkms://…/cryptoKeys/NAME` creates one
==== no PEM
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: unexpected reply from `gcloud` instead of a public key in PEM: [31moops
hint: try again; if it persists, the server may not be Cloud KMS: check the proxy
==== RSA
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: the public key is RSA, not ECDSA P-256
hint: create a key that fits: `qkey generate gcpkms://…/cryptoKeys/NAME`

"#]],
        |case| {
            let get = |words: &str| fail("keys.versions.get-public-key", words);
            let script = match case {
                "no account" => {
                    let qkey = with_gcloud(Qkey::new(), &FakeCloudKms::start().url());
                    return transcript(&qkey.run(["pubkey", &first("bob")]));
                }
                "may not sign" => {
                    let lab = Lab::new();
                    let fault =
                        Fault::Error(403, "PERMISSION_DENIED", "useToSign denied on resource.");
                    lab.kms.fault("asymmetricSign", fault);
                    return lab.sign(&first("bob"));
                }
                "disabled" => {
                    get("FAILED_PRECONDITION: It is not enabled, current state is: DISABLED.")
                }
                "no permission" => get(
                    "PERMISSION_DENIED: Permission 'cloudkms.cryptoKeyVersions.viewPublicKey' denied.",
                ),
                "expired" => {
                    get("UNAUTHENTICATED: Request had invalid authentication credentials.")
                }
                "not for signing" => {
                    get("INVALID_ARGUMENT: The purpose of the CryptoKey is ENCRYPT_DECRYPT.")
                }
                "no PEM" => "printf '\\033[31moops\\n'".to_owned(),
                _ => "openssl genpkey -quiet -algorithm RSA | openssl pkey -pubout".to_owned(),
            };
            scripted(&script, &["pubkey", &first("bob")])
        }
    );
}

#[test]
fn damaged_and_malformed_signatures_are_errors() {
    let signature = sign_digest(CAROL, &Sha256::digest(b"x")).to_der();
    let encoded = BASE64.encode(signature.as_bytes());
    assert_cases!(
        str![[r#"
==== wrong CRC
--- exit 3
error: cannot sign with gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.asymmetric-sign) The response received from the server was corrupted in-transit. Please try again. This should happen rarely. If the error persists, contact cloudkms-feedback@google.com. To learn more about how Cloud KMS verifies in-transit integrity, visit https://cloud.google.com/kms/docs/data-integrity-guidelines.
hint: data was damaged in transit: check the proxy, and try again
==== other version
--- exit 3, hint as above
error: cannot sign with gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.asymmetric-sign) Found a mismatch between user-requested crypto resource (projects/p/one)and server-reported resource used for the cryptographic operation (projects/p/other).
==== garbage
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: unexpected reply from `gcloud` instead of a signature: garbage
hint: qkey expects ASN.1 DER
==== Base64
--- exit 3
error: cannot use gcpkms://[RING]/cryptoKeys/bob/cryptoKeyVersions/1
  caused by: unexpected reply from `gcloud` instead of a signature: MEYCIQDTZ/m35dLHjS2wBnKoTxSVQBhW3VUaFPv7EizuTC4y1QIhAL0eoWYHWs2d7MIPil24f755Lt5MP+QZTW2j8so/iXUu
hint: qkey expects ASN.1 DER; this looks like Base64 of ASN.1 DER

"#]],
        |case| {
            let script = match case {
                "wrong CRC" => {
                    let lab = Lab::new();
                    let fault = Fault::Members(json!({ "signatureCrc32c": "1" }));
                    lab.kms.fault("asymmetricSign", fault);
                    return lab.sign(&first("bob"));
                }
                "other version" => fail(
                    "asymmetric-sign",
                    "Found a mismatch between user-requested crypto \
                resource (projects/p/one)and server-reported resource used for the cryptographic operation \
                (projects/p/other).",
                ),
                "garbage" => "printf garbage".to_owned(),
                _ => format!("printf %s '{encoded}'"),
            };
            let script = format!("case \"$*\" in *get-public-key*) show;; esac\n{script}");
            scripted(&script, &["sign", "--key", &first("bob"), "x"])
        }
    );
}

#[test]
fn generate_polls_a_pending_version_and_never_adds_one() {
    assert_cases!(
        str![[r#"
==== new, pending
Generated private key gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1
  SHA256:[BOB]
Store its public half with `qkey add --name NAME --key gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1`.
==== new, pending for ever
--- exit 3
error: created gcpkms://[RING]/cryptoKeys/new, but cannot use it yet
  caused by: cannot open gcpkms://[RING]/cryptoKeys/new
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.versions.get-public-key) FAILED_PRECONDITION: It is not enabled, current state is: PENDING_GENERATION.
hint: try again later: `qkey pubkey gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1`
==== new, no permission
--- exit 3
error: cannot create gcpkms://[RING]/cryptoKeys/new
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.create) PERMISSION_DENIED: Permission 'cloudkms.cryptoKeys.create' denied.
hint: you need the role roles/cloudkms.admin on the key ring: `gcloud kms keyrings add-iam-policy-binding` grants it; `gcloud auth list` shows who you are
==== bob
--- exit 3
error: cannot create gcpkms://[RING]/cryptoKeys/bob
  caused by: `gcloud` exited with 1: ERROR: (gcloud.kms.keys.create) ALREADY_EXISTS: CryptoKey bob already exists.
hint: use that key, or choose another name
==== new/cryptoKeyVersions/1
--- exit 2
error: cannot create "gcpkms://[RING]/cryptoKeys/new/cryptoKeyVersions/1": it names a version
hint: leave /cryptoKeyVersions/… out: a new key starts with version 1

"#]],
        |case| {
            let (key, case) = case.split_once(", ").unwrap_or((case, ""));
            let pending = fail(
                "keys.versions.get-public-key",
                "FAILED_PRECONDITION: It is not enabled, current state is: PENDING_GENERATION.",
            );
            let create = match (key, case) {
                (_, "no permission") => fail(
                    "keys.create",
                    "PERMISSION_DENIED: Permission 'cloudkms.cryptoKeys.create' denied.",
                ),
                ("bob", _) => fail(
                    "keys.create",
                    "ALREADY_EXISTS: CryptoKey bob already exists.",
                ),
                _ => "exit".to_owned(),
            };
            let ready = if case == "pending" {
                "[ ! -e tried ] || show; : >tried"
            } else {
                ""
            };
            let script =
                format!("case \"$*\" in *' create '*) {create};; *) {ready}\n{pending};; esac");
            scripted(&script, &["generate", "--timeout=3", &whole(key)])
        }
    );
}

#[test]
fn attributes_select_configuration_and_identity() {
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
