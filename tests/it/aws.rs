//! Keys in AWS KMS: the real `aws`, versions 1 and 2, against moto, and against a fake for what moto
//! gets wrong and for failures.

use std::fs;

use crate::support::{
    aws::{VERSIONS, folder, with_aws},
    fake_kms::{ARN, FakeKms, Fault, NEW_ID, sign_digest},
    http::url_of_nobody,
    key_source::{interrupted, with_program},
    mock::Mock,
    qkey::{BOB_PUBLIC, CAROL, CAROL_PUBLIC, Qkey, Run},
    session::assert_cases,
    shell::prints,
};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use snapbox::{IntoData, assert_data_eq, str};

const V1: &str = VERSIONS[0];

/// A fake KMS, and `qkey` with one version of `aws`.
struct Lab {
    kms: FakeKms,
    qkey: Qkey,
    version: &'static str,
}

impl Lab {
    fn new(version: &'static str) -> Self {
        Self {
            kms: FakeKms::start(),
            qkey: with_aws(Qkey::new(), version),
            version,
        }
    }

    /// A source at the fake.
    fn source(&self, id: &str) -> String {
        format!("awskms:///{id}?endpoint-url={}", self.kms.url())
    }

    fn run(&self, args: &[&str]) -> Run {
        self.qkey.run(args)
    }

    /// The run as a snapshot shows it.
    fn transcript(&self, run: &Run) -> String {
        let program = folder(self.version).join("aws");
        run.transcript()
            .replace(&self.kms.url(), "[URL]")
            .replace(program.to_str().expect("UTF-8"), "aws")
    }
}

/// Whether the `openssl` program takes the Base64 in `run` for a signature over the file
/// `challenge` by the key in the file `public.pem`.
#[track_caller]
fn assert_openssl_verifies(qkey: &Qkey, run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
    qkey.write("signature", &run.stdout);
    prints(
        qkey,
        "openssl base64 -d -A -in signature -out der
         openssl dgst -sha256 -verify public.pem -signature der challenge",
    );
}

#[test]
fn replace_calls_each_key_once() {
    let mock = Mock::new();
    mock.add_key("lock", "", BOB_PUBLIC);
    let kms = FakeKms::start();
    kms.add_key("alias/dave", CAROL_PUBLIC, json!({}));
    let qkey = with_aws(Qkey::with_mock(&mock), V1);
    let at = format!("endpoint-url={}", kms.url());
    let replaced = qkey.run([
        "replace",
        "--key-id=lock",
        &format!("--old-key=awskms:///alias/bob?{at}"),
        &format!("--new-key=awskms:///{ARN}key/alias/dave?{at}"),
    ]);
    // The fake signs for dave with bob's key: that is found out before anything is sent.
    assert_eq!(replaced.code, 3, "{replaced:?}");
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    kms.take_calls();

    let replaced = qkey.run([
        "replace",
        "--key-id=lock",
        &format!("--old-key=awskms:///alias/bob?{at}"),
        &format!("--new-key=awskms:///alias/carol?{at}"),
    ]);
    assert_eq!(replaced.code, 0, "{replaced:?}");
    let mut calls: Vec<String> = kms
        .take_calls()
        .into_iter()
        .map(|call| format!("{} {}", call.operation, call.input["KeyId"]))
        .collect();
    calls.sort();
    assert_eq!(
        calls,
        [
            "GetPublicKey \"alias/bob\"".to_owned(),
            "GetPublicKey \"alias/carol\"".to_owned(),
            format!("Sign \"{ARN}key/alias/bob\""),
            format!("Sign \"{ARN}key/alias/carol\""),
        ]
    );
}

#[test]
fn empty_and_long_challenges_are_sent_as_digests() {
    let lab = Lab::new(V1);
    let source = lab.source("alias/carol");
    let public = prints(&lab.qkey, "openssl pkey -in carol.pem -pubout");
    lab.qkey.write("public.pem", public);
    for (challenge, message_type) in [
        // KMS takes no empty message either.
        (String::new(), "DIGEST"),
        ("x".repeat(4096), "RAW"),
        ("x".repeat(4097), "DIGEST"),
    ] {
        lab.qkey.write("challenge", challenge);
        let signed = lab.run(&["sign", "--key", &source, "--file", "challenge"]);
        assert_openssl_verifies(&lab.qkey, &signed);
        let sign = lab.kms.take_calls().pop().expect("a call");
        assert_eq!(sign.input["MessageType"], json!(message_type));
        assert_eq!(sign.input["SigningAlgorithm"], json!("ECDSA_SHA_256"));
    }
}

#[test]
fn message_file_is_private_and_removed() {
    let lab = Lab::new(V1);
    fs::create_dir(lab.qkey.path("tmp")).expect("a folder");
    fs::create_dir(lab.qkey.path("bin")).expect("a folder");
    let spy = lab.qkey.write_program(
        "bin/aws",
        "#!/bin/sh\nfor arg; do case $arg in --message=fileb://*)
         stat -c %a \"${arg#*fileb://}\" >>modes;; esac; done\nexec \"$AWS\" \"$@\"\n",
    );
    let path = std::env::var("PATH").expect("a PATH in UTF-8");
    let aws = folder(V1).join("aws");
    let Lab { kms, qkey, .. } = lab;
    let tmp = qkey.path("tmp");
    let qkey = qkey
        .env("TMPDIR", tmp.to_str().expect("UTF-8"))
        .env("AWS", aws.to_str().expect("UTF-8"))
        .env(
            "PATH",
            format!("{}:{path}", spy.parent().expect("a folder").display()),
        );
    let source = format!("awskms:///alias/bob?endpoint-url={}", kms.url());
    assert_eq!(qkey.run(["sign", "--key", &source, "x"]).code, 0);
    kms.fault("Sign", Fault::Error("DisabledException", "no"));
    assert_eq!(qkey.run(["sign", "--key", &source, "x"]).code, 3);
    kms.fault("Sign", Fault::Hang);
    kms.take_calls();
    let run = interrupted(&qkey, &["sign", "--key", &source, "x"], || {
        kms.take_calls().iter().any(|call| call.operation == "Sign")
    });
    assert_eq!(run.code, 130, "{run:?}");
    assert_eq!(
        fs::read_to_string(qkey.path("modes")).unwrap(),
        "600\n600\n600\n"
    );
    assert_eq!(fs::read_dir(&tmp).expect("a folder").count(), 0);
}

/// `qkey` with an `aws` that is a shell script: arms of a `case` over its arguments. Asked for a public
/// key, it shows Bob's.
fn with_script(arms: &str) -> Qkey {
    let text = format!(
        "#!/bin/sh\nfail() {{ echo \"An error occurred ($1) when calling the $2 operation: $3\" >&2; exit 254; }}\n\
         case \"$*\" in\n{arms}\n*get-public-key*) echo '{{\"PublicKey\":\"{BOB_PUBLIC}\",\"KeyId\":\"1\"}}';;\nesac\n"
    );
    with_program(Qkey::new(), "aws", &text)
}

/// What a run says, with a script as `aws`.
fn scripted(arms: &str, args: &[&str]) -> String {
    let told = with_script(arms).run(args).transcript();
    told.replace("[DIR]/bin/aws", "aws")
}

const SIGN: [&str; 3] = ["sign", "--key=awskms:///alias/bob", "x"];

#[test]
fn failures_show_the_output_of_aws_and_a_hint() {
    assert_cases!(
        str![[r#"
==== may not sign, aws-1
--- exit 3
error: cannot sign with awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (AccessDeniedException) when calling the Sign operation: not kms:Sign
hint: the key policy or an IAM policy must allow it; `aws sts get-caller-identity` shows who you are
==== may not sign, aws-2
--- exit 3, hint as above
error: cannot sign with awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 254: An error occurred (AccessDeniedException) when calling the Sign operation: not kms:Sign
==== disabled
--- exit 3
error: cannot open awskms:///alias/bob
  caused by: `aws` exited with 254: An error occurred (DisabledException) when calling the GetPublicKey operation: key/1 is disabled.
hint: enable the key: `aws kms enable-key --key-id=alias/bob`
==== awaits its deletion
--- exit 3
error: cannot open awskms:///alias/bob
  caused by: `aws` exited with 254: An error occurred (KMSInvalidStateException) when calling the GetPublicKey operation: key/1 is pending deletion.
hint: check the key's state: `aws kms describe-key --key-id=alias/bob`; to restore a key that is pending deletion, run `aws kms cancel-key-deletion`, then `aws kms enable-key`
==== expired
--- exit 3
error: cannot open awskms:///alias/bob
  caused by: `aws` exited with 254: An error occurred (ExpiredTokenException) when calling the GetPublicKey operation: The token is expired
hint: log in again: `aws sso login`, `aws configure`, or new values for AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN
==== wrong credentials
--- exit 3, hint as above
error: cannot open awskms:///alias/bob
  caused by: `aws` exited with 254: An error occurred (UnrecognizedClientException) when calling the GetPublicKey operation: The token is invalid.
==== symmetric
--- exit 3
error: cannot open awskms:///alias/bob
  caused by: `aws` exited with 254: An error occurred (UnsupportedOperationException) when calling the GetPublicKey operation:
hint: use an asymmetric key with the usage SIGN_VERIFY: `qkey generate awskms:///alias/NAME` creates one
==== wrong id
--- exit 3
error: cannot open awskms:///alias/bob
  caused by: `aws` exited with 254: An error occurred (ValidationException) when calling the GetPublicKey operation: Invalid keyId
hint: check the key id: a UUID, alias/NAME or an ARN must follow awskms:///
==== other usage
--- exit 3
error: cannot sign with awskms:///alias/bob
  caused by: `aws` exited with 254: An error occurred (InvalidKeyUsageException) when calling the Sign operation: key/1 key usage is ENCRYPT_DECRYPT
hint: use an asymmetric key with the usage SIGN_VERIFY: `qkey generate awskms:///alias/NAME` creates one
==== not JSON
--- exit 3
error: cannot use awskms:///alias/bob
  caused by: unexpected reply from `aws` instead of JSON with a PublicKey: <html>
hint: the endpoint may not be AWS KMS: check the proxy and the attribute endpoint-url
==== an array
--- exit 3, hint as above
error: cannot use awskms:///alias/bob
  caused by: unexpected reply from `aws` instead of JSON with a PublicKey: []

"#]],
        |case| {
            if let Some((_, version)) = case.split_once(", ") {
                let version = VERSIONS.into_iter().find(|known| *known == version);
                let lab = Lab::new(version.expect("a version"));
                let denied = Fault::Error("AccessDeniedException", "not kms:Sign");
                lab.kms.fault("Sign", denied);
                return lab.transcript(&lab.run(&["sign", "--key", &lab.source("alias/bob"), "x"]));
            }
            let script = match case {
                "disabled" => "fail DisabledException GetPublicKey 'key/1 is disabled.'",
                "awaits its deletion" => {
                    "fail KMSInvalidStateException GetPublicKey 'key/1 is pending deletion.'"
                }
                "expired" => "fail ExpiredTokenException GetPublicKey 'The token is expired'",
                "wrong credentials" => {
                    "fail UnrecognizedClientException GetPublicKey 'The token is invalid.'"
                }
                "symmetric" => "fail UnsupportedOperationException GetPublicKey ''",
                "wrong id" => "fail ValidationException GetPublicKey 'Invalid keyId'",
                "other usage" => {
                    "fail InvalidKeyUsageException Sign 'key/1 key usage is ENCRYPT_DECRYPT'"
                }
                "not JSON" => "echo '<html>'",
                _ => "echo '[]'",
            };
            let operation = if case == "other usage" {
                "sign"
            } else {
                "get-public-key"
            };
            scripted(&format!("*' {operation} '*) {script};;"), &SIGN)
        }
    );
}

#[test]
fn missing_credentials_region_profile_and_endpoint_are_named() {
    let nobody = url_of_nobody();
    assert_cases!(
        str![[r#"
==== credentials
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: Unable to locate credentials. You can configure credentials by running "aws configure".
hint: log in with `aws configure` or `aws sso login`, or choose a profile with AWS_PROFILE or the attribute profile
==== region
--- exit 3
error: cannot open awskms:///alias/bob
  caused by: `aws` exited with 255: You must specify a region. You can also configure your region by running "aws configure".
hint: add ?region=REGION to the key source, or set AWS_DEFAULT_REGION
==== profile
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]&profile=lock
  caused by: `aws` exited with 255: The config profile (lock) could not be found
hint: `aws configure list-profiles` lists the profiles
==== endpoint
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[NOBODY]
  caused by: `aws` exited with 255: Could not connect to the endpoint URL: "[NOBODY]/"
hint: check the network, the proxy and the region; the attribute endpoint-url sets another endpoint

"#]],
        |case| {
            let lab = Lab::new("aws-1");
            let url = lab.kms.url();
            let at = |source: &str, endpoint: &str| format!("{source}?endpoint-url={endpoint}");
            let (qkey, source) = match case {
                "credentials" => (
                    Qkey::new()
                        .env("PATH", path_with(V1))
                        .env("AWS_DEFAULT_REGION", "eu-west-1")
                        .env("AWS_EC2_METADATA_DISABLED", "true"),
                    at("awskms:///alias/bob", &url),
                ),
                "region" => (
                    Qkey::new()
                        .env("PATH", path_with(V1))
                        .env("AWS_ACCESS_KEY_ID", "AKIAUSER")
                        .env("AWS_SECRET_ACCESS_KEY", "secret"),
                    "awskms:///alias/bob".to_owned(),
                ),
                "profile" => (
                    with_aws(Qkey::new(), V1),
                    at("awskms:///alias/bob", &format!("{url}&profile=lock")),
                ),
                _ => (
                    with_aws(Qkey::new(), V1).env("AWS_MAX_ATTEMPTS", "1"),
                    at("awskms:///alias/bob", &nobody),
                ),
            };
            lab.transcript(&qkey.run(["pubkey", &source]))
                .replace(&nobody, "[NOBODY]")
        }
    );
}

fn path_with(version: &str) -> String {
    let path = std::env::var("PATH").expect("a PATH in UTF-8");
    format!("{}:{path}", folder(version).display())
}

#[test]
fn keys_other_than_p256_signing_keys_are_rejected() {
    let p384 = "openssl ecparam -name secp384r1 -genkey -noout | openssl pkey -pubout -outform DER";
    let p384 = prints(&Qkey::new(), &format!("{p384} | openssl base64 -A"));
    assert_cases!(
        str![[r#"
==== {"PublicKey": "BOB", "KeySpec": "RSA_2048"}
--- exit 3
error: cannot use awskms:///alias/bob
  caused by: its KeySpec is RSA_2048, but must be ECC_NIST_P256
hint: create a key that fits: `qkey generate awskms:///alias/NAME`
==== {"PublicKey": "P384"}
--- exit 3, hint as above
error: cannot use awskms:///alias/bob
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
==== {"PublicKey": "BOB", "KeyUsage": "KEY_AGREEMENT"}
--- exit 3, hint as above
error: cannot use awskms:///alias/bob
  caused by: its KeyUsage is KEY_AGREEMENT, but must be SIGN_VERIFY
==== {"PublicKey": "BOB", "SigningAlgorithms": ["ECDSA_SHA_384"]}
--- exit 3, hint as above
error: cannot use awskms:///alias/bob
  caused by: its algorithm is ECDSA_SHA_384, but must be ECDSA_SHA_256
==== {"PublicKey": "*"}
--- exit 3
error: cannot use awskms:///alias/bob
  caused by: the public key is not valid Base64
hint: the endpoint may not be AWS KMS: check the proxy and the attribute endpoint-url
==== {"PublicKey": "BOB"}
[BOB]

"#]],
        |reply| {
            let reply = reply.replace("BOB", BOB_PUBLIC).replace("P384", &p384);
            let reply = reply.replace('{', r#"{"KeyId": "1", "#);
            let source = ["pubkey", "awskms:///alias/bob", "--format=base64"];
            scripted(&format!("*get-public-key*) echo '{reply}';;"), &source)
        }
    );
}

#[test]
fn malformed_signatures_are_shown() {
    let signature = sign_digest(CAROL, &Sha256::digest(b"x"));
    assert_cases!(
        str![[r#"
==== no signature
--- exit 3
error: cannot use awskms:///alias/bob
  caused by: unexpected reply from `aws` instead of JSON with a Signature: {}
hint: the endpoint may not be AWS KMS: check the proxy and the attribute endpoint-url
==== empty
--- exit 3
error: cannot use awskms:///alias/bob
  caused by: unexpected reply from `aws` instead of a signature: (nothing)
hint: qkey expects Base64 of ASN.1 DER
==== P1363
--- exit 3
error: cannot use awskms:///alias/bob
  caused by: unexpected reply from `aws` instead of a signature: 02f5t+XSx40tsAZyqE8UlUAYVt1VGhT7+xIs7kwuMtW9HqFmB1rNnezCD4pduH++eS7eTD/kGU1to/LKP4l1Lg==
hint: qkey expects Base64 of ASN.1 DER; this looks like Base64 of r and s, 32 bytes each (IEEE P1363)
==== hexadecimal
--- exit 3
error: cannot use awskms:///alias/bob
  caused by: unexpected reply from `aws` instead of a signature: 3046022100d367f9b7e5d2c78d2db00672a84f1495401856dd551a14fbfb122cee4c2e32d5022100bd1ea166075acd9decc20f8a5db87fbe792ede4c…
hint: qkey expects Base64 of ASN.1 DER; this looks like hexadecimal of ASN.1 DER

"#]],
        |case| {
            let reply = match case {
                "no signature" => json!({}),
                "empty" => json!({ "Signature": "" }),
                "P1363" => json!({ "Signature": BASE64.encode(signature.to_bytes()) }),
                _ => {
                    json!({ "Signature": base16ct::lower::encode_string(signature.to_der().as_bytes()) })
                }
            };
            scripted(&format!("*' sign '*) echo '{reply}';;"), &SIGN)
        }
    );
}

#[test]
fn aws_retries_throttled_calls() {
    let lab = Lab::new(V1);
    let throttled = || Fault::Error("ThrottlingException", "Rate exceeded");
    lab.kms.fault_times("GetPublicKey", 2, throttled());
    let run = lab.run(&["pubkey", &lab.source("alias/bob")]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(lab.kms.take_calls().len(), 3);

    lab.kms.fault("GetPublicKey", throttled());
    let Lab { kms, qkey, version } = lab;
    let lab = Lab {
        kms,
        qkey: qkey.env("AWS_MAX_ATTEMPTS", "2"),
        version,
    };
    let run = lab.run(&["pubkey", &lab.source("alias/bob")]);
    assert_data_eq!(lab.transcript(&run), str![[r#"
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (ThrottlingException) when calling the GetPublicKey operation (reached max retries: 1): Rate exceeded
hint: try again later; AWS_MAX_ATTEMPTS sets how often aws retries

"#]].raw());
}

#[test]
fn source_attributes_override_region_and_profile_of_the_environment() {
    let lab = Lab::new(V1);
    lab.qkey.write(
        ".aws/credentials",
        "[lock]\naws_access_key_id = AKIALOCK\naws_secret_access_key = secret\n",
    );
    let arn = "arn:aws:kms:us-east-2:111122223333:key/carol";
    lab.kms.add_key("carol", BOB_PUBLIC, json!({}));
    for (id, more, region, access_key) in [
        ("alias/bob", "", "eu-west-1", "AKIAUSER"),
        ("alias/bob", "&region=eu-west-3", "eu-west-3", "AKIAUSER"),
        ("alias/bob", "&profile=lock", "eu-west-1", "AKIALOCK"),
        (arn, "", "us-east-2", "AKIAUSER"),
    ] {
        let run = lab.run(&["pubkey", &format!("{}{more}", lab.source(id))]);
        assert_eq!(run.code, 0, "{run:?}");
        let call = lab.kms.take_calls().remove(0);
        let scope = format!("/{region}/kms/aws4_request");
        assert!(
            call.authorization.contains(&scope),
            "{}",
            call.authorization
        );
        let credential = format!("Credential={access_key}/");
        assert!(
            call.authorization.contains(&credential),
            "{}",
            call.authorization
        );
    }
}

#[test]
fn generate_never_takes_over_an_alias() {
    let lab = Lab::new(V1);
    let generate = |lab: &Lab, source: &str| lab.transcript(&lab.run(&["generate", source]));
    lab.kms.add_key(NEW_ID, CAROL_PUBLIC, json!({}));
    assert_data_eq!(
        generate(&lab, &lab.source("alias/new")),
        str![[r#"
Generated private key awskms:///alias/new?endpoint-url=[URL]
  SHA256:JSkAIR0avXSXaOU9Y5LHbqSNYBdGNuIp6RwKJix49NQ
Store its public half with `qkey add --name NAME --key 'awskms:///alias/new?endpoint-url=[URL]'`.

"#]]
        .raw()
    );
    let calls: Vec<(String, Value)> = lab
        .kms
        .take_calls()
        .into_iter()
        .map(|call| (call.operation, call.input))
        .collect();
    assert_eq!(
        calls,
        [
            ("DescribeKey".to_owned(), json!({"KeyId": "alias/new"})),
            (
                "CreateKey".to_owned(),
                json!({
                    "KeySpec": "ECC_NIST_P256",
                    "KeyUsage": "SIGN_VERIFY",
                    "Description": "Made by qkey as alias/new",
                })
            ),
            (
                "CreateAlias".to_owned(),
                json!({"AliasName": "alias/new", "TargetKeyId": NEW_ID})
            ),
            ("GetPublicKey".to_owned(), json!({"KeyId": NEW_ID})),
        ]
    );

    assert_cases!(
        str![[r#"
==== alias/bob
--- exit 3
error: awskms:///alias/bob already exists
hint: use that key, or choose another name
==== alias/aws/ebs
--- exit 2
error: cannot create "awskms:///alias/aws/ebs": a new key needs an alias of yours
hint: write awskms:///alias/NAME; aliases that begin with aws/ belong to AWS
==== 0ca0100c-0000-4000-8000-000000000003
--- exit 2, hint as above
error: cannot create "awskms:///0ca0100c-0000-4000-8000-000000000003": a new key needs an alias of yours
==== alias/new, taken meanwhile
--- exit 3
error: created key 0ca0100c, but not its alias awskms:///alias/new
  caused by: cannot name awskms:///alias/new
  caused by: `aws` exited with 254: An error occurred (AlreadyExistsException) when calling the CreateAlias operation: alias/new already exists
hint: create the alias: `aws kms create-alias --alias-name=alias/new --target-key-id=0ca0100c`; or delete the key: `aws kms schedule-key-deletion --key-id=0ca0100c`
==== alias/new, no permission
--- exit 3
error: cannot create awskms:///alias/new
  caused by: `aws` exited with 254: An error occurred (AccessDeniedException) when calling the CreateKey operation: not kms:CreateKey
hint: the key policy or an IAM policy must allow it; `aws sts get-caller-identity` shows who you are
==== alias/new, throttled
--- exit 3
error: cannot create awskms:///alias/new
  caused by: `aws` exited with 254: An error occurred (ThrottlingException) when calling the CreateKey operation: Rate exceeded
hint: try again later; AWS_MAX_ATTEMPTS sets how often aws retries
==== alias/new, no answer
--- exit 3
error: cannot create awskms:///alias/new
  caused by: `aws` did not finish within 4 s and was killed
hint: the key may have been created anyway: look for the description "Made by qkey as alias/new" in `aws kms list-keys`
==== alias/new, odd answer
--- exit 3, hint as above
error: cannot use awskms:///alias/new
  caused by: unexpected reply from `aws` instead of JSON with KeyMetadata.KeyId: {}

"#]],
        |case| {
            let (id, case) = case.split_once(", ").unwrap_or((case, ""));
            let create = match case {
                "no permission" => "fail AccessDeniedException CreateKey 'not kms:CreateKey'",
                "throttled" => "fail ThrottlingException CreateKey 'Rate exceeded'",
                "no answer" => "exec sleep 60",
                "odd answer" => "echo '{}'",
                _ => r#"echo '{"KeyMetadata":{"KeyId":"0ca0100c"}}'"#,
            };
            let arms = format!(
                "*describe-key*alias/new*) fail NotFoundException DescribeKey 'no such alias';;
             *describe-key*) echo '{{\"KeyMetadata\":{{}}}}';;
             *create-key*) echo >>created; {create};;
             *create-alias*) fail AlreadyExistsException CreateAlias 'alias/new already exists';;"
            );
            let qkey = with_script(&arms);
            let run = qkey.run(["generate", "--timeout=4", &format!("awskms:///{id}")]);
            assert_eq!(qkey.path("created").exists(), id == "alias/new", "{run:?}");
            run.transcript().replace("[DIR]/bin/aws", "aws")
        }
    );
}
