//! Keys in AWS KMS: the real `aws`, versions 1 and 2, against moto, and against a fake for what moto
//! gets wrong and for failures.

use std::fs;

use crate::support::{
    aws::{VERSIONS, folder, with_aws},
    fake_kms::{ARN, FakeKms, Fault, NEW_ID, sign_digest},
    http::url_of_nobody,
    mock::Mock,
    qkey::{BOB_PUBLIC, CAROL, CAROL_PUBLIC, Qkey, Run, side_by_side, wait_until},
    shell::prints,
};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use rustix::process::{Pid, Signal, kill_process};
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

    fn pubkey(&self, id: &str) -> String {
        self.transcript(&self.run(&["pubkey", &self.source(id), "--format", "base64"]))
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
        ("\u{e9}".repeat(2500), "DIGEST"),
        ("x\n".repeat(10_000), "DIGEST"),
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
            &format!("{}:{path}", spy.parent().expect("a folder").display()),
        );
    let source = format!("awskms:///alias/bob?endpoint-url={}", kms.url());
    assert_eq!(qkey.run(["sign", "--key", &source, "x"]).code, 0);
    kms.fault("Sign", Fault::Error("DisabledException", "no"));
    assert_eq!(qkey.run(["sign", "--key", &source, "x"]).code, 3);
    kms.fault("Sign", Fault::Hang);
    kms.take_calls();
    let child = qkey
        .command(["sign", "--key", &source, "x"])
        .spawn()
        .expect("qkey runs");
    wait_until("the call that signs", || {
        kms.take_calls().iter().any(|call| call.operation == "Sign")
    });
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    assert_eq!(
        qkey.taken(&child.wait_with_output().expect("it ends")).code,
        130
    );
    assert_eq!(
        fs::read_to_string(qkey.path("modes")).unwrap(),
        "600\n600\n600\n"
    );
    assert_eq!(fs::read_dir(&tmp).expect("a folder").count(), 0);
}

/// What goes wrong when the key is opened, or when it signs.
fn failure(lab: &Lab, case: &str) -> String {
    let error = |code, message| Fault::Error(code, message);
    let pubkey = |fault| {
        lab.kms.fault("GetPublicKey", fault);
        lab.pubkey("alias/bob")
    };
    match case {
        "not found" => lab.pubkey("alias/dave"),
        "disabled" => pubkey(error("DisabledException", "key/1 is disabled.")),
        "awaits its deletion" => pubkey(error(
            "KMSInvalidStateException",
            "key/1 is pending deletion.",
        )),
        "no permission" => pubkey(error(
            "AccessDeniedException",
            "User: arn:aws:iam::111122223333:user/u is not authorized to perform: kms:GetPublicKey",
        )),
        "expired" => pubkey(error(
            "ExpiredTokenException",
            "The security token included in the request is expired",
        )),
        "wrong credentials" => pubkey(error(
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        )),
        "symmetric" => pubkey(error("UnsupportedOperationException", "")),
        "wrong id" => pubkey(error("ValidationException", "Invalid keyId")),
        "not JSON" => pubkey(Fault::Body("<html>".to_owned())),
        "no public key" => pubkey(Fault::Body("{}".to_owned())),
        "may not sign" => {
            lab.kms
                .fault("Sign", error("AccessDeniedException", "not kms:Sign"));
            lab.transcript(&lab.run(&["sign", "--key", &lab.source("alias/bob"), "x"]))
        }
        "other usage" => {
            lab.kms.fault(
                "Sign",
                error(
                    "InvalidKeyUsageException",
                    "key/1 key usage is ENCRYPT_DECRYPT",
                ),
            );
            lab.transcript(&lab.run(&["sign", "--key", &lab.source("alias/bob"), "x"]))
        }
        other => panic!("{other}"),
    }
}

const FAILURES: [&str; 12] = [
    "not found",
    "disabled",
    "awaits its deletion",
    "no permission",
    "expired",
    "wrong credentials",
    "symmetric",
    "wrong id",
    "not JSON",
    "no public key",
    "may not sign",
    "other usage",
];

#[test]
fn failures_show_the_output_of_aws_and_a_hint() {
    assert_data_eq!(
        side_by_side(&FAILURES, |case| failure(&Lab::new("aws-1"), case)),
        str![[r#"
==== not found
--- exit 3
error: cannot open awskms:///alias/dave?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (NotFoundException) when calling the GetPublicKey operation: Key 'arn:aws:kms:eu-west-1:111122223333:key/alias/dave' does not exist
hint: check the key id (an alias begins with alias/), the region and the account: `aws kms list-aliases` lists the aliases
==== disabled
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (DisabledException) when calling the GetPublicKey operation: key/1 is disabled.
hint: enable the key: `aws kms enable-key --key-id=alias/bob --endpoint-url=[URL]`
==== awaits its deletion
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (KMSInvalidStateException) when calling the GetPublicKey operation: key/1 is pending deletion.
hint: check the key's state: `aws kms describe-key --key-id=alias/bob --endpoint-url=[URL]`; to restore a key that is pending deletion, run `aws kms cancel-key-deletion`, then `aws kms enable-key`
==== no permission
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (AccessDeniedException) when calling the GetPublicKey operation: User: arn:aws:iam::111122223333:user/u is not authorized to perform: kms:GetPublicKey
hint: the key policy or an IAM policy must allow it; `aws sts get-caller-identity` shows who you are
==== expired
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (ExpiredTokenException) when calling the GetPublicKey operation: The security token included in the request is expired
hint: log in again: `aws sso login`, `aws configure`, or new values for AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN
==== wrong credentials
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (UnrecognizedClientException) when calling the GetPublicKey operation: The security token included in the request is invalid.
hint: log in again: `aws sso login`, `aws configure`, or new values for AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN
==== symmetric
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (UnsupportedOperationException) when calling the GetPublicKey operation:
hint: use an asymmetric key with the usage SIGN_VERIFY: `qkey generate awskms:///alias/NAME` creates one
==== wrong id
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (ValidationException) when calling the GetPublicKey operation: Invalid keyId
hint: check the key id: a UUID, alias/NAME or an ARN must follow awskms:///
==== not JSON
--- exit 3
error: cannot use awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` answered with something other than JSON with a PublicKey: (nothing)
hint: the endpoint may not be AWS KMS: check the proxy and the attribute endpoint-url
==== no public key
--- exit 3
error: cannot use awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` answered with something other than JSON with a PublicKey: (nothing)
hint: the endpoint may not be AWS KMS: check the proxy and the attribute endpoint-url
==== may not sign
--- exit 3
error: cannot sign with awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (AccessDeniedException) when calling the Sign operation: not kms:Sign
hint: the key policy or an IAM policy must allow it; `aws sts get-caller-identity` shows who you are
==== other usage
--- exit 3
error: cannot sign with awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (InvalidKeyUsageException) when calling the Sign operation: key/1 key usage is ENCRYPT_DECRYPT
hint: use an asymmetric key with the usage SIGN_VERIFY: `qkey generate awskms:///alias/NAME` creates one

"#]].raw()
    );
}

#[test]
fn failures_of_aws_version_2_have_the_same_hints() {
    assert_data_eq!(
        side_by_side(&["not found", "expired", "may not sign"], |case| failure(
            &Lab::new("aws-2"),
            case
        )),
        str![[r#"
==== not found
--- exit 3
error: cannot open awskms:///alias/dave?endpoint-url=[URL]
  caused by: `aws` exited with 254: An error occurred (NotFoundException) when calling the GetPublicKey operation: Key 'arn:aws:kms:eu-west-1:111122223333:key/alias/dave' does not exist
hint: check the key id (an alias begins with alias/), the region and the account: `aws kms list-aliases` lists the aliases
==== expired
--- exit 3
error: cannot open awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 254: An error occurred (ExpiredTokenException) when calling the GetPublicKey operation: The security token included in the request is expired
hint: log in again: `aws sso login`, `aws configure`, or new values for AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN
==== may not sign
--- exit 3
error: cannot sign with awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` exited with 254: An error occurred (AccessDeniedException) when calling the Sign operation: not kms:Sign
hint: the key policy or an IAM policy must allow it; `aws sts get-caller-identity` shows who you are

"#]].raw()
    );
}

#[test]
fn missing_credentials_region_profile_and_endpoint_are_named() {
    let nobody = url_of_nobody();
    let told = side_by_side(
        &["credentials", "region", "profile", "endpoint", "aws"],
        |case| {
            let lab = Lab::new("aws-1");
            let url = lab.kms.url();
            let at = |source: &str, endpoint: &str| format!("{source}?endpoint-url={endpoint}");
            let (qkey, source) = match case {
                "credentials" => (
                    Qkey::new()
                        .env("PATH", &path_with(V1))
                        .env("AWS_DEFAULT_REGION", "eu-west-1")
                        .env("AWS_EC2_METADATA_DISABLED", "true"),
                    at("awskms:///alias/bob", &url),
                ),
                "region" => (
                    Qkey::new()
                        .env("PATH", &path_with(V1))
                        .env("AWS_ACCESS_KEY_ID", "AKIAUSER")
                        .env("AWS_SECRET_ACCESS_KEY", "secret"),
                    "awskms:///alias/bob".to_owned(),
                ),
                "profile" => (
                    with_aws(Qkey::new(), V1),
                    at("awskms:///alias/bob", &format!("{url}&profile=lock")),
                ),
                "endpoint" => (
                    with_aws(Qkey::new(), V1).env("AWS_MAX_ATTEMPTS", "1"),
                    at("awskms:///alias/bob", &nobody),
                ),
                _ => (
                    Qkey::new().env("PATH", "/nowhere"),
                    "awskms:///alias/bob".to_owned(),
                ),
            };
            lab.transcript(&qkey.run(["pubkey", &source]))
                .replace(&nobody, "[NOBODY]")
        },
    );
    assert_data_eq!(told, str![[r#"
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
==== aws
--- exit 3
error: cannot open awskms:///alias/bob
  caused by: `aws` was not found
hint: install the AWS CLI: version 2 from AWS, your system's package awscli, or `pip install awscli`

"#]].raw());
}

fn path_with(version: &str) -> String {
    let path = std::env::var("PATH").expect("a PATH in UTF-8");
    format!("{}:{path}", folder(version).display())
}

#[test]
fn keys_other_than_p256_signing_keys_are_rejected() {
    let public_key = |command: &str| {
        let der = prints(&Qkey::new(), &format!("{command} | openssl base64 -A"));
        der.trim().to_owned()
    };
    let rsa =
        public_key("openssl genpkey -quiet -algorithm RSA | openssl pkey -pubout -outform DER");
    let p384 = public_key(
        "openssl ecparam -name secp384r1 -genkey -noout | openssl pkey -pubout -outform DER",
    );
    let lab = Lab::new(V1);
    for (name, key, changes) in [
        (
            "rsa",
            rsa.as_str(),
            json!({"KeySpec": "RSA_2048", "SigningAlgorithms": ["RSASSA_PSS_SHA_256"]}),
        ),
        (
            "rsa-of-few-words",
            &rsa,
            json!({"KeySpec": null, "SigningAlgorithms": null}),
        ),
        (
            "p384-of-few-words",
            &p384,
            json!({"KeySpec": null, "SigningAlgorithms": null}),
        ),
        (
            "agreement",
            BOB_PUBLIC,
            json!({"KeyUsage": "KEY_AGREEMENT", "SigningAlgorithms": null}),
        ),
        (
            "other-hash",
            BOB_PUBLIC,
            json!({"SigningAlgorithms": ["ECDSA_SHA_384"]}),
        ),
        ("not-base64", "*", json!({})),
    ] {
        lab.kms.add_key(name, key, changes);
    }
    lab.kms.add_key(
        "few-words",
        BOB_PUBLIC,
        json!({"KeySpec": null, "KeyUsage": null, "SigningAlgorithms": null}),
    );
    let names = [
        "rsa",
        "rsa-of-few-words",
        "p384-of-few-words",
        "agreement",
        "other-hash",
        "not-base64",
        "few-words",
    ];
    assert_data_eq!(side_by_side(&names, |name| lab.pubkey(name)), str![[r#"
==== rsa
--- exit 3
error: cannot use awskms:///rsa?endpoint-url=[URL]
  caused by: its KeySpec is RSA_2048, but must be ECC_NIST_P256
hint: create a key that fits: `qkey generate awskms:///alias/NAME`
==== rsa-of-few-words
--- exit 3
error: cannot use awskms:///rsa-of-few-words?endpoint-url=[URL]
  caused by: the public key is RSA, not ECDSA P-256
hint: create a key that fits: `qkey generate awskms:///alias/NAME`
==== p384-of-few-words
--- exit 3
error: cannot use awskms:///p384-of-few-words?endpoint-url=[URL]
  caused by: the public key is on the curve P-384 (secp384r1), not P-256
hint: create a key that fits: `qkey generate awskms:///alias/NAME`
==== agreement
--- exit 3
error: cannot use awskms:///agreement?endpoint-url=[URL]
  caused by: its KeyUsage is KEY_AGREEMENT, but must be SIGN_VERIFY
hint: create a key that fits: `qkey generate awskms:///alias/NAME`
==== other-hash
--- exit 3
error: cannot use awskms:///other-hash?endpoint-url=[URL]
  caused by: its algorithm is ECDSA_SHA_384, but must be ECDSA_SHA_256
hint: create a key that fits: `qkey generate awskms:///alias/NAME`
==== not-base64
--- exit 3
error: cannot use awskms:///not-base64?endpoint-url=[URL]
  caused by: the public key is not valid Base64
hint: the endpoint may not be AWS KMS: check the proxy and the attribute endpoint-url
==== few-words
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==

"#]].raw());
}

#[test]
fn malformed_signatures_are_shown() {
    let digest = Sha256::digest(b"x");
    let by_carol = sign_digest(CAROL, &digest);
    let der = by_carol.to_der();
    let reply = |signature: &str| json!({ "Signature": signature }).to_string();
    let told = side_by_side(
        &[
            "not JSON",
            "no signature",
            "empty",
            "garbage",
            "P1363",
            "hexadecimal",
            "by another key",
        ],
        |case| {
            let lab = Lab::new(V1);
            lab.kms.fault(
                "Sign",
                Fault::Body(match case {
                    "not JSON" => "\u{1b}[31moops".to_owned(),
                    "no signature" => "{}".to_owned(),
                    "empty" => reply(""),
                    "garbage" => reply("garbage!"),
                    "P1363" => reply(&BASE64.encode(by_carol.to_bytes())),
                    "hexadecimal" => reply(&base16ct::lower::encode_string(der.as_bytes())),
                    _ => reply(&BASE64.encode(der.as_bytes())),
                }),
            );
            lab.transcript(&lab.run(&["sign", "--key", &lab.source("alias/bob"), "x"]))
        },
    );
    assert_data_eq!(told, str![[r#"
==== not JSON
--- exit 3
error: cannot use awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` answered with something other than JSON with a Signature: (nothing)
hint: the endpoint may not be AWS KMS: check the proxy and the attribute endpoint-url
==== no signature
--- exit 3
error: cannot use awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` answered with something other than JSON with a Signature: (nothing)
hint: the endpoint may not be AWS KMS: check the proxy and the attribute endpoint-url
==== empty
--- exit 3
error: cannot use awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` answered with something other than a signature: (nothing)
hint: qkey expects Base64 of ASN.1 DER
==== garbage
--- exit 3
error: cannot use awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` answered with something other than a signature: garbage!
hint: qkey expects Base64 of ASN.1 DER
==== P1363
--- exit 3
error: cannot use awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` answered with something other than a signature: 02f5t+XSx40tsAZyqE8UlUAYVt1VGhT7+xIs7kwuMtW9HqFmB1rNnezCD4pduH++eS7eTD/kGU1to/LKP4l1Lg==
hint: qkey expects Base64 of ASN.1 DER; this looks like Base64 of r and s, 32 bytes each (IEEE P1363)
==== hexadecimal
--- exit 3
error: cannot use awskms:///alias/bob?endpoint-url=[URL]
  caused by: `aws` answered with something other than a signature: 3046022100d367f9b7e5d2c78d2db00672a84f1495401856dd551a14fbfb122cee4c2e32d5022100bd1ea166075acd9decc20f8a5db87fbe792ede4c…
hint: qkey expects Base64 of ASN.1 DER; this looks like hexadecimal of ASN.1 DER
==== by another key
--- exit 3
error: awskms:///alias/bob?endpoint-url=[URL] returned a signature that does not verify
hint: check that the key source signs with the key that it reports, over SHA-256

"#]].raw());
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
    assert_data_eq!(lab.pubkey("alias/bob"), str![[r#"
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

    let cases = [
        "taken",
        "taken meanwhile",
        "no permission",
        "throttled",
        "no answer",
        "odd answer",
        "not an alias",
        "an alias of AWS's",
    ];
    let told = side_by_side(&cases, |case| {
        let lab = Lab::new(V1);
        let error = |code, message| Fault::Error(code, message);
        let (id, operation, fault) = match case {
            "taken meanwhile" => (
                "alias/new",
                "CreateAlias",
                error("AlreadyExistsException", "alias/new already exists"),
            ),
            "no permission" => (
                "alias/new",
                "CreateKey",
                error("AccessDeniedException", "not kms:CreateKey"),
            ),
            "throttled" => (
                "alias/new",
                "CreateKey",
                error("ThrottlingException", "Rate exceeded"),
            ),
            "no answer" => ("alias/new", "CreateKey", Fault::Hang),
            "odd answer" => ("alias/new", "CreateKey", Fault::Body("{}".to_owned())),
            id => {
                let id = match id {
                    "taken" => "alias/bob",
                    "not an alias" => NEW_ID,
                    _ => "alias/aws/ebs",
                };
                (
                    id,
                    "CreateKey",
                    error("InternalFailure", "not to be called"),
                )
            }
        };
        lab.kms.fault(operation, fault);
        let told = match case {
            "no answer" => lab.transcript(&lab.run(&["generate", "--timeout=20", &lab.source(id)])),
            _ => generate(&lab, &lab.source(id)),
        };
        let calls = lab.kms.take_calls();
        let made = calls.iter().filter(|call| call.operation == "CreateKey");
        assert_eq!(made.count(), usize::from(id == "alias/new"), "{case}");
        told
    });
    assert_data_eq!(told, str![[r#"
==== taken
--- exit 3
error: awskms:///alias/bob?endpoint-url=[URL] already exists
hint: use that key, or choose another name
==== taken meanwhile
--- exit 3
error: created key 0ca0100c-0000-4000-8000-000000000003, but not its alias awskms:///alias/new?endpoint-url=[URL]
  caused by: cannot name awskms:///alias/new?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (AlreadyExistsException) when calling the CreateAlias operation: alias/new already exists
hint: create the alias: `aws kms create-alias --alias-name=alias/new --target-key-id=0ca0100c-0000-4000-8000-000000000003 --endpoint-url=[URL]`; or delete the key: `aws kms schedule-key-deletion --key-id=0ca0100c-0000-4000-8000-000000000003 --endpoint-url=[URL]`
==== no permission
--- exit 3
error: cannot create awskms:///alias/new?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (AccessDeniedException) when calling the CreateKey operation: not kms:CreateKey
hint: the key policy or an IAM policy must allow it; `aws sts get-caller-identity` shows who you are
==== throttled
--- exit 3
error: cannot create awskms:///alias/new?endpoint-url=[URL]
  caused by: `aws` exited with 255: An error occurred (ThrottlingException) when calling the CreateKey operation (reached max retries: 0): Rate exceeded
hint: try again later; AWS_MAX_ATTEMPTS sets how often aws retries
==== no answer
--- exit 3
error: cannot create awskms:///alias/new?endpoint-url=[URL]
  caused by: `aws` did not finish within 20 s and was killed
hint: the key may have been created anyway: look for the description "Made by qkey as alias/new" in `aws kms list-keys`
==== odd answer
--- exit 3
error: cannot use awskms:///alias/new?endpoint-url=[URL]
  caused by: `aws` answered with something other than JSON with KeyMetadata.KeyId: (nothing)
hint: the key may have been created anyway: look for the description "Made by qkey as alias/new" in `aws kms list-keys`
==== not an alias
--- exit 2
error: cannot create "awskms:///0ca0100c-0000-4000-8000-000000000003?endpoint-url=[URL]": a new key needs an alias of yours
hint: write awskms:///alias/NAME; aliases that begin with aws/ belong to AWS
==== an alias of AWS\'s
--- exit 2
error: cannot create "awskms:///alias/aws/ebs?endpoint-url=[URL]": a new key needs an alias of yours
hint: write awskms:///alias/NAME; aliases that begin with aws/ belong to AWS

"#]].raw());
}

#[test]
fn malformed_uris_fail_before_aws_runs() {
    let qkey = Qkey::new().env("PATH", "/nowhere");
    let cases = [
        "awskms:alias/bob",
        "awskms://localhost:4566/alias/bob",
        "awskms:///bob smith",
        "awskms:///arn:aws:s3:::bucket",
        "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1?region=eu-west-2",
        "awskms:///alias/bob?regoin=eu-west-1",
    ];
    assert_data_eq!(
        side_by_side(&cases, |case| qkey.run(["pubkey", case]).transcript()),
        str![[r#"
==== awskms:alias/bob
--- exit 2
error: "awskms:alias/bob" is not a key source: awskms: must be followed by three slashes (for an endpoint, use the attribute endpoint-url)
hint: write awskms:///KEY-ID, awskms:///alias/NAME or awskms:///ARN
==== awskms://localhost:4566/alias/bob
--- exit 2
error: "awskms://localhost:4566/alias/bob" is not a key source: awskms: must be followed by three slashes (for an endpoint, use the attribute endpoint-url)
hint: write awskms:///KEY-ID, awskms:///alias/NAME or awskms:///ARN
==== awskms:///bob smith
--- exit 2
error: "awskms:///bob smith" is not a key source: it is not a key id or an alias
hint: write awskms:///KEY-ID, awskms:///alias/NAME or awskms:///ARN
==== awskms:///arn:aws:s3:::bucket
--- exit 2
error: "awskms:///arn:aws:s3:::bucket" is not a key source: it is not the ARN of a KMS key
hint: write awskms:///KEY-ID, awskms:///alias/NAME or awskms:///ARN
==== awskms:///arn:aws:kms:eu-west-1:111122223333:key/1?region=eu-west-2
--- exit 2
error: "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1?region=eu-west-2" is not a key source: the attribute region differs from the region in the ARN
hint: write awskms:///KEY-ID, awskms:///alias/NAME or awskms:///ARN
==== awskms:///alias/bob?regoin=eu-west-1
--- exit 2
error: "awskms:///alias/bob?regoin=…" is not a key source: unknown attribute "regoin"
hint: did you mean "region"? awskms takes region, profile, endpoint-url; in a name, write `?` as %3F: awskms:…%3F…

"#]].raw()
    );
}
