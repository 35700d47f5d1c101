//! Keys in Azure Key Vault and Managed HSM: the real `az` against a fake Azure behind a proxy.

use crate::support::{
    azure::{Vault, folder, version, with_az, with_az_alone},
    fake_kms::sign_digest,
    key_source::with_program,
    qkey::{BOB, BOB_PUBLIC, CAROL_PUBLIC, Qkey, Run},
    session::assert_cases,
    shell::prints,
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use snapbox::{IntoData, assert_data_eq, str};

/// The run as a snapshot shows it.
fn transcript(run: &Run) -> String {
    let program = folder().join("az");
    run.transcript()
        .replace(program.to_str().expect("UTF-8"), "az")
}

#[test]
fn generate_looks_first_and_requests_a_p256_signing_key() {
    let vault = Vault::new("made");
    let qkey = with_az(Qkey::new());
    let source = vault.source("new");
    let made = qkey.run(["generate", &source, "--output=json"]);
    assert_eq!(made.code, 0, "{made:?}");
    let with_version = format!("{source}/{}", version(1));
    assert_eq!(made.json()["source"], json!(with_version));
    assert_data_eq!(vault.calls().join("\n"), str![[r#"
GET made.vault.azure.net /keys/new/ 
POST made.vault.azure.net /keys/new/create {"kty": "EC", "attributes": {"enabled": true}, "key_ops": ["sign", "verify"], "crv": "P-256"}
"#]].raw());
}

#[test]
fn public_key_and_signature_use_the_same_version() {
    let vault = Vault::new("versions");
    let qkey = with_az(Qkey::new());
    vault.add("carol", 2, BOB);
    let first = version(1);
    for (source, public_key) in [
        (vault.source("carol"), BOB_PUBLIC),
        (vault.source(&format!("carol/{first}")), CAROL_PUBLIC),
        (
            format!("azurekms://versions.vault.azure.net/carol/{first}"),
            CAROL_PUBLIC,
        ),
        (
            "azurekms://versions.managedhsm.azure.net/carol".to_owned(),
            BOB_PUBLIC,
        ),
    ] {
        let run = qkey.run(["pubkey", "--format=base64", &source]);
        assert_eq!(run.stdout.trim(), public_key, "{source}: {run:?}");
    }
    vault.set("bob", "rotate", &json!(true));
    let source = "azurekms://versions.vault.azure.net/bob";
    let run = qkey.run(["sign", "--key", source, "x"]);
    assert_eq!(run.code, 0, "{run:?}");
    let rotated = vault
        .calls()
        .into_iter()
        .filter(|call| call.contains("/bob/"));
    assert_data_eq!(rotated.collect::<Vec<_>>().join("\n"), str![[r#"
GET versions.vault.azure.net /keys/bob/ 
GET versions.vault.azure.net /keys/bob/00000000000000000000000000000001 
POST versions.vault.azure.net /keys/bob/00000000000000000000000000000001/sign {"alg": "ES256", "value": "LXEWQrcmsEQBYnyp-6wy9chTD7GQPMTbAiWHF5IaSIE"}
"#]].raw());
}

/// An error as Key Vault sends it.
fn error(status: u16, code: &str, message: &str, inner: Option<&str>) -> serde_json::Value {
    json!({ "status": status, "error": { "code": code, "message": message, "inner": inner } })
}

/// `qkey` with an `az` that is a shell script. What Bob's key shows is in the file `show`.
fn with_script(script: &str) -> Qkey {
    let qkey = with_program(Qkey::new(), "az", &format!("#!/bin/sh\n{script}\n"));
    qkey.write("show", bob(json!({})).to_string());
    qkey
}

/// What a script as `az` leads to.
fn scripted(script: &str, args: &[&str]) -> String {
    let told = with_script(script).run(args).transcript();
    told.replace("[DIR]/bin/az", "az")
}

/// What `az keyvault key show` prints for Bob's key, with changes to its members.
fn bob(changes: serde_json::Value) -> serde_json::Value {
    let point = qkey::public_key::PublicKey::from_base64(BOB_PUBLIC).expect("a key");
    let point = point.to_sec1();
    let mut key = json!({
        "kid": "https://v.vault.azure.net/keys/k/1",
        "kty": "EC-HSM",
        "crv": "P-256",
        "x": BASE64_STANDARD.encode(&point[1..33]),
        "y": BASE64_STANDARD.encode(&point[33..]),
    });
    for (member, value) in changes.as_object().expect("an object") {
        key[member] = value.clone();
    }
    json!({ "key": key })
}

const SIGN: [&str; 3] = ["sign", "--key=azurekms://v/k", "x"];

#[test]
fn failures_show_the_output_of_az_and_a_hint() {
    let vault = Vault::new("failures");
    assert_cases!(
        str![[r#"
==== firewall
--- exit 3
error: cannot open azurekms://failures/bob
  caused by: `az` exited with 1: ERROR: (Forbidden) Client address is not authorized and caller is not a trusted service.
    Code: Forbidden
    Message: Client address is not authorized and caller is not a trusted service.
    Inner error: {
        "code": "ForbiddenByFirewall"
    }
hint: the vault's firewall blocks this address: `az keyvault network-rule add`, or use another network
==== not logged in
--- exit 3
error: cannot open azurekms://failures/bob
  caused by: `az` exited with 1: ERROR: Please run 'az login' to setup account.
hint: log in: `az login`, or `az login --service-principal` in scripts; `az account show` shows who you are
==== no such host
--- exit 3
error: cannot open azurekms://none.vault.invalid/bob
  caused by: `az` exited with 1: ERROR: HTTPSConnection(host='none.vault.invalid', port=443): Failed to resolve 'none.vault.invalid' [ERRNO]
hint: check the vault's name, the network and the proxy: `az keyvault list` lists the vaults
==== refused by the proxy
--- exit 3, hint as above
error: cannot open azurekms://none.vault.invalid/bob
  caused by: `az` exited with 1: ERROR: ('Unable to connect to proxy', OSError('Tunnel connection failed: 502 Bad Gateway'))
==== throttled
--- exit 3
error: cannot open azurekms://v/k
  caused by: `az` exited with 1: ERROR: (Throttled) Too many requests were received.
    Code: Throttled
hint: try again later
==== no access policy
--- exit 3
error: cannot open azurekms://v/k
  caused by: `az` exited with 1: ERROR: (Forbidden) The user does not have keys get permission on key vault.
    Code: Forbidden
    Inner error: {
        "code": "ForbiddenByPolicy"
    }
hint: the vault's access policy must allow get and sign (to create keys: create): `az keyvault set-policy`; `az account show` shows who you are
==== unauthorized
--- exit 3
error: cannot open azurekms://v/k
  caused by: `az` exited with 1: ERROR: (Unauthorized) AKV10032: Invalid issuer.
    Code: Unauthorized
hint: log in: `az login`, or `az login --service-principal` in scripts; `az account show` shows who you are
==== may not sign
--- exit 3
error: cannot sign with azurekms://v/k
  caused by: `az` exited with 1: ERROR: (Forbidden) Operation sign is not allowed.
    Code: Forbidden
hint: you need the role `Key Vault Crypto User` on the key or its vault (to create keys: `Key Vault Crypto Officer`): `az role assignment create`; `az account show` shows who you are
==== disabled meanwhile
--- exit 3
error: cannot sign with azurekms://v/k
  caused by: `az` exited with 1: ERROR: (Forbidden) Operation sign is not allowed on a disabled key.
    Code: Forbidden
    Inner error: {
        "code": "KeyDisabled"
    }
hint: enable the key: `az keyvault key set-attributes --vault-name=v --name=k --enabled true`
==== unknown command
--- exit 3
error: cannot sign with azurekms://v/k
  caused by: `az` exited with 2: ERROR: 'sign' is misspelled or not recognized by the system.
    Code:
hint: update the Azure CLI: `az upgrade`

"#]],
        |case| {
            let fail = |words: &str, code: &str, inner: &str| {
                let word = words.split(['(', ')']).nth(1).unwrap_or_default();
                let inner = match inner {
                    "" => String::new(),
                    inner => format!("Inner error: {{\n    \"code\": \"{inner}\"\n}}"),
                };
                format!("echo 'ERROR: {words}\nCode: {word}\n{inner}' >&2; exit {code}")
            };
            let script = match case {
                "firewall" => {
                    let words =
                        "Client address is not authorized and caller is not a trusted service.";
                    let fault = error(403, "Forbidden", words, Some("ForbiddenByFirewall"));
                    vault.set("bob", "show.fault", &fault);
                    return transcript(&with_az(Qkey::new()).run(["pubkey", &vault.source("bob")]));
                }
                "not logged in" => {
                    let qkey = with_az_alone(Qkey::new());
                    return transcript(&qkey.run(["pubkey", &vault.source("bob")]));
                }
                "no such host" | "refused by the proxy" => {
                    let qkey = with_az(Qkey::new());
                    let qkey = if case == "no such host" {
                        qkey.env("HTTPS_PROXY", "")
                    } else {
                        qkey
                    };
                    let told =
                        transcript(&qkey.run(["pubkey", "azurekms://none.vault.invalid/bob"]));
                    // The system's word for it depends on whether there is a network at all.
                    return match told.split_once("([Errno") {
                        Some((before, rest)) => {
                            format!(
                                "{before}[ERRNO]{}",
                                &rest[rest.find('\n').expect("a line")..]
                            )
                        }
                        None => told,
                    };
                }
                "throttled" => fail("(Throttled) Too many requests were received.", "1", ""),
                "no access policy" => fail(
                    "(Forbidden) The user does not have keys get permission on key vault.",
                    "1",
                    "ForbiddenByPolicy",
                ),
                "unauthorized" => fail("(Unauthorized) AKV10032: Invalid issuer.", "1", ""),
                "may not sign" => fail("(Forbidden) Operation sign is not allowed.", "1", ""),
                "disabled meanwhile" => fail(
                    "(Forbidden) Operation sign is not allowed on a disabled key.",
                    "1",
                    "KeyDisabled",
                ),
                _ => {
                    let words = "'\"'\"'sign'\"'\"' is misspelled or not recognized by the system.";
                    fail(words, "2", "")
                }
            };
            let opens = ["may not sign", "disabled meanwhile", "unknown command"].contains(&case);
            let before = if opens {
                "[ $3 = sign ] || exec cat show\n"
            } else {
                ""
            };
            scripted(&format!("{before}{script}"), &SIGN)
        }
    );
}

#[test]
fn keys_other_than_enabled_p256_signing_keys_are_rejected() {
    let vault = Vault::new("rejected");
    assert_cases!(
        str![[r#"
==== RSA
--- exit 3
error: cannot use azurekms://rejected/rsa
  caused by: its type is RSA, but must be EC or EC-HSM
hint: create a key that fits: `qkey generate azurekms://VAULT/NAME`
==== P-384
--- exit 3, hint as above
error: cannot use azurekms://v/k
  caused by: its curve is P-384, but must be P-256
==== disabled
--- exit 3
error: cannot use azurekms://v/k
  caused by: it is disabled
hint: enable it: `az keyvault key set-attributes --vault-name=v --name=k --enabled true`
==== for encryption
--- exit 3
error: cannot use azurekms://v/k
  caused by: its permitted operations are wrapKey, unwrapKey, but must include sign
hint: permit it: `az keyvault key set-attributes --vault-name=v --name=k --ops sign verify`
==== for nothing
--- exit 3, hint as above
error: cannot use azurekms://v/k
  caused by: its permitted operations are none, but must include sign
==== no point
--- exit 3
error: cannot use azurekms://v/k
  caused by: the public key is truncated or damaged
hint: the server may not be Azure Key Vault: check the vault's name and the proxy
==== odd kid
--- exit 3, hint as above
error: cannot use azurekms://v/k
  caused by: unexpected reply from `az` instead of the URL of a key version: https://elsewhere/keys/bob/1?x

"#]],
        |case| {
            let qkey = with_az(Qkey::new());
            let show = match case {
                "RSA" => {
                    vault.add(
                        "rsa",
                        1,
                        &prints(&qkey, "openssl genpkey -quiet -algorithm RSA"),
                    );
                    return transcript(&qkey.run(["pubkey", &vault.source("rsa")]));
                }
                "P-384" => bob(json!({ "crv": "P-384" })),
                "disabled" => {
                    let mut show = bob(json!({}));
                    show["attributes"] = json!({ "enabled": false });
                    show
                }
                "for encryption" => bob(json!({ "keyOps": ["wrapKey", "unwrapKey"] })),
                "for nothing" => bob(json!({ "keyOps": [] })),
                "no point" => bob(json!({ "x": "AAAA" })),
                _ => bob(json!({ "kid": "https://elsewhere/keys/bob/1?x" })),
            };
            scripted(&format!("echo '{show}'"), &SIGN)
        }
    );
}

#[test]
fn signatures_are_p1363_in_either_base64_alphabet() {
    let signature = sign_digest(BOB, &Sha256::digest(b"x"));
    let der = signature.to_der();
    assert_cases!(
        str![[r#"
==== Base64
==== Base64url
MEYCIQDUlO4pk18TYpPnPtaMal5p0qjhUDbJlej9njOlS+X8kgIhALoi9FRqutQeUcwI20igDhEBq4zTx3uTGb/hHU3vUrIZ
==== cut short
--- exit 3
error: cannot use azurekms://v/k
  caused by: unexpected reply from `az` instead of a signature: 1JTuKZNfE2KT5z7WjGpeadKo4VA2yZXo/Z4zpUvl/JK6IvRUarrUHlHMCNtIoA4RAauM08d7kxm/4R1N71Ky
hint: qkey expects Base64 of r and s, 32 bytes each
==== DER
--- exit 3
error: cannot use azurekms://v/k
  caused by: unexpected reply from `az` instead of a signature: MEYCIQDUlO4pk18TYpPnPtaMal5p0qjhUDbJlej9njOlS+X8kgIhALoi9FRqutQeUcwI20igDhEBq4zTx3uTGb/hHU3vUrIZ
hint: qkey expects Base64 of r and s, 32 bytes each; this looks like Base64 of ASN.1 DER
==== no JSON
--- exit 3
error: cannot use azurekms://v/k
  caused by: unexpected reply from `az` instead of JSON with a signature: [31moops
hint: the server may not be Azure Key Vault: check the vault's name and the proxy
==== no signature
--- exit 3, hint as above
error: cannot use azurekms://v/k
  caused by: unexpected reply from `az` instead of JSON with a signature: null

"#]],
        |case| {
            let value = match case {
                "Base64" => BASE64_STANDARD.encode(signature.to_bytes()),
                "Base64url" => BASE64_URL_SAFE_NO_PAD.encode(signature.to_bytes()),
                "cut short" => BASE64_STANDARD.encode(&signature.to_bytes()[..63]),
                _ => BASE64_STANDARD.encode(der.as_bytes()),
            };
            let reply = match case {
                "no JSON" => "\u{1b}[31moops".to_owned(),
                "no signature" => "null".to_owned(),
                _ => json!({ "signature": value }).to_string(),
            };
            scripted(
                &format!("[ $3 = sign ] || exec cat show\necho '{reply}'"),
                &SIGN,
            )
        }
    );
}

#[test]
fn az_gets_exact_arguments() {
    let script = "echo \"$*\" >>calls; [ $3 = sign ] || exec cat show\nexec cat reply";
    let qkey = with_script(script);
    let signature = sign_digest(BOB, &Sha256::digest(b"x")).to_bytes();
    let reply = json!({ "signature": BASE64_STANDARD.encode(signature) });
    qkey.write("reply", reply.to_string());
    let run = qkey.run(SIGN);
    assert_eq!(run.code, 0, "{run:?}");
    let calls = std::fs::read_to_string(qkey.path("calls")).unwrap();
    assert_data_eq!(calls, str![[r#"
keyvault key show --output=json --vault-name=v --name=k
keyvault key sign --output=json --vault-name=v --name=k --version=1 --algorithm=ES256 --digest=LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=

"#]].raw());
}

#[test]
fn generate_never_adds_a_version() {
    let vault = Vault::new("new");
    let qkey = with_az(Qkey::new());
    let hardware = format!("{}?protection=hsm", vault.source("hardware"));
    let made = qkey.run(["generate", "--output=json", &hardware]);
    assert_eq!(made.code, 0, "{made:?}");
    let calls = vault.calls().join("\n");
    assert!(calls.contains("\"kty\": \"EC-HSM\""), "{calls}");
    assert_cases!(
        str![[r#"
==== azurekms://v/bob
--- exit 3
error: azurekms://v/bob already exists
hint: use that key, or choose another name
==== azurekms://v/x/00000000000000000000000000000001
--- exit 2
error: cannot create "azurekms://v/x/00000000000000000000000000000001": it names a version
hint: leave the version out: Azure chooses it
==== azurekms://v/x?protection=tpm
--- exit 2
error: "azurekms://v/x?protection=tpm" is not a key source: unknown protection "tpm"
hint: write software or hsm
==== azurekms://v/new, no permission
--- exit 3
error: cannot create azurekms://v/new
  caused by: `az` exited with 1: ERROR: (Forbidden) Caller is not authorized to perform action on resource.
    Inner error: {
        "code": "ForbiddenByRbac"
    }
hint: you need the role `Key Vault Crypto User` on the key or its vault (to create keys: `Key Vault Crypto Officer`): `az role assignment create`; `az account show` shows who you are
==== azurekms://v/new, deleted
--- exit 3
error: cannot create azurekms://v/new
  caused by: `az` exited with 1: ERROR: (Conflict) Key deleted is currently in a deleted but recoverable state.
    Inner error: {
        "code": "ObjectIsDeletedButRecoverable"
    }
hint: choose another name, or recover the deleted key: `az keyvault key recover --vault-name=v --name=new`
==== azurekms://v/new, no answer
--- exit 3
error: cannot create azurekms://v/new
  caused by: `az` did not finish within 4 s and was killed
hint: the key may have been created anyway: check with `qkey pubkey azurekms://v/new`

"#]],
        |case| {
            let (source, case) = case.split_once(", ").unwrap_or((case, ""));
            let create = match case {
                "no permission" => {
                    "echo 'ERROR: (Forbidden) Caller is not authorized to perform action on resource.\n\
                 Inner error: {\n    \"code\": \"ForbiddenByRbac\"\n}' >&2; exit 1"
                }
                "deleted" => {
                    "echo 'ERROR: (Conflict) Key deleted is currently in a deleted but recoverable state.\n\
                 Inner error: {\n    \"code\": \"ObjectIsDeletedButRecoverable\"\n}' >&2; exit 1"
                }
                _ => "exec sleep 60",
            };
            let script = format!(
            "case \"$*\" in *' show '*bob*) exec cat show;; *' show '*)
             echo 'ERROR: (KeyNotFound) A key with (name/id) new/ was not found in this key vault.' >&2
             exit 3;; *) {create};; esac"
        );
            scripted(&script, &["generate", "--timeout=4", source])
        }
    );
}
