//! Keys in Azure Key Vault and Managed HSM: the real `az` against a fake Azure behind a proxy.

use crate::support::{
    azure::{Vault, folder, version, with_az, with_az_alone},
    fake_kms::sign_digest,
    key_source::with_program,
    qkey::{BOB, BOB_PUBLIC, CAROL, CAROL_PUBLIC, Qkey, Run, side_by_side},
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

/// What goes wrong when a key is opened, or when it signs.
fn failure(vault: &Vault, case: &str) -> String {
    let qkey = with_az(Qkey::new());
    let pubkey = |key: &str| transcript(&qkey.run(["pubkey", &vault.source(key)]));
    let fault = |operation: &str, fault| {
        let key = case.replace(' ', "-");
        vault.add(&key, 1, BOB);
        vault.set(&key, &format!("{operation}.fault"), &fault);
        transcript(&qkey.run(["sign", "--key", &vault.source(&key), "x"]))
    };
    let shows = |changes| {
        let key = case.replace(' ', "-");
        vault.add(&key, 1, BOB);
        vault.set(&key, "show.json", &changes);
        pubkey(&key)
    };
    let generated = |command: &str| {
        let key = case.replace(' ', "-");
        vault.add(&key, 1, &prints(&qkey, command));
        pubkey(&key)
    };
    match case {
        "not found" => pubkey("nope"),
        "no version" => pubkey(&format!("bob/{}", version(9))),
        "no permission" => fault(
            "show",
            error(
                403,
                "Forbidden",
                "Caller is not authorized to perform action on resource.",
                Some("ForbiddenByRbac"),
            ),
        ),
        "no access policy" => fault(
            "show",
            error(
                403,
                "Forbidden",
                "The user does not have keys get permission on key vault.",
                Some("ForbiddenByPolicy"),
            ),
        ),
        "may not sign" => fault(
            "sign",
            error(403, "Forbidden", "Operation sign is not allowed.", None),
        ),
        "disabled meanwhile" => fault(
            "sign",
            error(
                403,
                "Forbidden",
                "Operation sign is not allowed on a disabled key.",
                Some("KeyDisabled"),
            ),
        ),
        "firewall" => fault(
            "show",
            error(
                403,
                "Forbidden",
                "Client address is not authorized and caller is not a trusted service.",
                Some("ForbiddenByFirewall"),
            ),
        ),
        "unauthorized" => fault(
            "show",
            error(401, "Unauthorized", "AKV10032: Invalid issuer.", None),
        ),
        "throttled" => fault(
            "show",
            error(429, "Throttled", "Too many requests were received.", None),
        ),
        "disabled" => shows(json!({ "attributes": { "enabled": false } })),
        "for encryption" => shows(json!({ "key": { "key_ops": ["wrapKey", "unwrapKey"] } })),
        "for nothing" => shows(json!({ "key": { "key_ops": [] } })),
        "no point" => shows(json!({ "key": { "x": "AAAA" } })),
        "odd kid" => shows(json!({ "key": { "kid": "https://elsewhere/keys/bob/1?x" } })),
        "RSA" => generated("openssl genpkey -quiet -algorithm RSA"),
        "P-384" => generated("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp384r1"),
        "P-256K" => generated("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1"),
        "not logged in" => {
            let qkey = with_az_alone(Qkey::new());
            transcript(&qkey.run(["pubkey", &vault.source("bob")]))
        }
        "no such host" => {
            let qkey = qkey.env("HTTPS_PROXY", "");
            let told = transcript(&qkey.run(["pubkey", "azurekms://none.vault.invalid/bob"]));
            // The system's word for it depends on whether there is a network at all.
            let (before, rest) = told.split_once("([Errno").expect("a number");
            format!(
                "{before}[ERRNO]{}",
                &rest[rest.find('\n').expect("a line")..]
            )
        }
        "refused by the proxy" => {
            transcript(&qkey.run(["pubkey", "azurekms://none.vault.invalid/bob"]))
        }
        other => panic!("{other}"),
    }
}

#[test]
fn failures_show_the_output_of_az_and_a_hint() {
    let vault = Vault::new("failures");
    let cases = [
        "throttled",
        "no such host",
        "not found",
        "no version",
        "no permission",
        "no access policy",
        "may not sign",
        "disabled meanwhile",
        "firewall",
        "unauthorized",
        "disabled",
        "for encryption",
        "for nothing",
        "no point",
        "odd kid",
        "RSA",
        "P-384",
        "P-256K",
        "not logged in",
        "refused by the proxy",
    ];
    let told = side_by_side(&cases, |case| failure(&vault, case));
    assert_data_eq!(told, str![[r#"
==== throttled
--- exit 3
error: cannot open azurekms://failures/throttled
  caused by: `az` exited with 1: ERROR: (Throttled) Too many requests were received.
    Code: Throttled
    Message: Too many requests were received.
hint: try again later
==== no such host
--- exit 3
error: cannot open azurekms://none.vault.invalid/bob
  caused by: `az` exited with 1: ERROR: HTTPSConnection(host='none.vault.invalid', port=443): Failed to resolve 'none.vault.invalid' [ERRNO]
hint: check the vault's name, the network and the proxy: `az keyvault list` lists the vaults
==== not found
--- exit 3
error: cannot open azurekms://failures/nope
  caused by: `az` exited with 3: ERROR: (KeyNotFound) A key with (name/id) nope/ was not found in this key vault.
    Code: KeyNotFound
    Message: A key with (name/id) nope/ was not found in this key vault.
hint: check the vault, key and version: `az keyvault key list` lists the keys of a vault
==== no version
--- exit 3
error: cannot open azurekms://failures/bob/00000000000000000000000000000009
  caused by: `az` exited with 3: ERROR: (KeyNotFound) A key with (name/id) bob/00000000000000000000000000000009 was not found in this key vault.
    Code: KeyNotFound
    Message: A key with (name/id) bob/00000000000000000000000000000009 was not found in this key vault.
hint: check the vault, key and version: `az keyvault key list` lists the keys of a vault
==== no permission
--- exit 3
error: cannot open azurekms://failures/no-permission
  caused by: `az` exited with 1: ERROR: (Forbidden) Caller is not authorized to perform action on resource.
    Code: Forbidden
    Message: Caller is not authorized to perform action on resource.
    Inner error: {
        "code": "ForbiddenByRbac"
    }
hint: you need the role `Key Vault Crypto User` on the key or its vault (to create keys: `Key Vault Crypto Officer`): `az role assignment create`; `az account show` shows who you are
==== no access policy
--- exit 3
error: cannot open azurekms://failures/no-access-policy
  caused by: `az` exited with 1: ERROR: (Forbidden) The user does not have keys get permission on key vault.
    Code: Forbidden
    Message: The user does not have keys get permission on key vault.
    Inner error: {
        "code": "ForbiddenByPolicy"
    }
hint: the vault's access policy must allow get and sign (to create keys: create): `az keyvault set-policy`; `az account show` shows who you are
==== may not sign
--- exit 3
error: cannot sign with azurekms://failures/may-not-sign
  caused by: `az` exited with 1: ERROR: (Forbidden) Operation sign is not allowed.
    Code: Forbidden
    Message: Operation sign is not allowed.
hint: you need the role `Key Vault Crypto User` on the key or its vault (to create keys: `Key Vault Crypto Officer`): `az role assignment create`; `az account show` shows who you are
==== disabled meanwhile
--- exit 3
error: cannot sign with azurekms://failures/disabled-meanwhile
  caused by: `az` exited with 1: ERROR: (Forbidden) Operation sign is not allowed on a disabled key.
    Code: Forbidden
    Message: Operation sign is not allowed on a disabled key.
    Inner error: {
        "code": "KeyDisabled"
    }
hint: enable the key: `az keyvault key set-attributes --vault-name=failures --name=disabled-meanwhile --enabled true`
==== firewall
--- exit 3
error: cannot open azurekms://failures/firewall
  caused by: `az` exited with 1: ERROR: (Forbidden) Client address is not authorized and caller is not a trusted service.
    Code: Forbidden
    Message: Client address is not authorized and caller is not a trusted service.
    Inner error: {
        "code": "ForbiddenByFirewall"
    }
hint: the vault's firewall blocks this address: `az keyvault network-rule add`, or use another network
==== unauthorized
--- exit 3
error: cannot open azurekms://failures/unauthorized
  caused by: `az` exited with 1: ERROR: (Unauthorized) AKV10032: Invalid issuer.
    Code: Unauthorized
    Message: AKV10032: Invalid issuer.
hint: log in: `az login`, or `az login --service-principal` in scripts; `az account show` shows who you are
==== disabled
--- exit 3
error: cannot use azurekms://failures/disabled
  caused by: it is disabled
hint: enable it: `az keyvault key set-attributes --vault-name=failures --name=disabled --enabled true`
==== for encryption
--- exit 3
error: cannot use azurekms://failures/for-encryption
  caused by: its permitted operations are wrapKey, unwrapKey, but must include sign
hint: permit it: `az keyvault key set-attributes --vault-name=failures --name=for-encryption --ops sign verify`
==== for nothing
--- exit 3
error: cannot use azurekms://failures/for-nothing
  caused by: its permitted operations are none, but must include sign
hint: permit it: `az keyvault key set-attributes --vault-name=failures --name=for-nothing --ops sign verify`
==== no point
--- exit 3
error: cannot use azurekms://failures/no-point
  caused by: the public key is truncated or damaged
hint: the server may not be Azure Key Vault: check the vault's name and the proxy
==== odd kid
--- exit 3
error: cannot use azurekms://failures/odd-kid
  caused by: `az` answered with something other than the URL of a key version: https://elsewhere/keys/bob/1?x
hint: the server may not be Azure Key Vault: check the vault's name and the proxy
==== RSA
--- exit 3
error: cannot use azurekms://failures/RSA
  caused by: its type is RSA, but must be EC or EC-HSM
hint: create a key that fits: `qkey generate azurekms://VAULT/NAME`
==== P-384
--- exit 3
error: cannot use azurekms://failures/P-384
  caused by: its curve is P-384, but must be P-256
hint: create a key that fits: `qkey generate azurekms://VAULT/NAME`
==== P-256K
--- exit 3
error: cannot use azurekms://failures/P-256K
  caused by: its curve is P-256K, but must be P-256
hint: create a key that fits: `qkey generate azurekms://VAULT/NAME`
==== not logged in
--- exit 3
error: cannot open azurekms://failures/bob
  caused by: `az` exited with 1: ERROR: Please run 'az login' to setup account.
hint: log in: `az login`, or `az login --service-principal` in scripts; `az account show` shows who you are
==== refused by the proxy
--- exit 3
error: cannot open azurekms://none.vault.invalid/bob
  caused by: `az` exited with 1: ERROR: ('Unable to connect to proxy', OSError('Tunnel connection failed: 502 Bad Gateway'))
hint: check the vault's name, the network and the proxy: `az keyvault list` lists the vaults

"#]].raw());
}

#[test]
fn signatures_are_p1363_in_either_base64_alphabet() {
    let vault = Vault::new("signatures");
    let qkey = with_az(Qkey::new());
    let digest = Sha256::digest(b"x");
    let by_bob = sign_digest(BOB, &digest);
    let der = by_bob.to_der();
    let by_carol = sign_digest(CAROL, &digest);
    let cases = [
        "Base64url",
        "empty",
        "garbage",
        "cut short",
        "DER",
        "by another key",
    ];
    let told = side_by_side(&cases, |case| {
        let bytes = match case {
            "Base64url" => &by_bob.to_bytes()[..],
            "empty" => b"",
            "garbage" => b"garbage",
            "cut short" => &by_bob.to_bytes()[..63],
            "DER" => der.as_bytes(),
            _ => &by_carol.to_bytes()[..],
        };
        let key = case.replace(' ', "-");
        vault.add(&key, 1, BOB);
        let value = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        vault.set(&key, "sign.json", &json!({ "value": value }));
        transcript(&qkey.run(["sign", "--key", &vault.source(&key), "x"]))
    });
    assert_data_eq!(told, str![[r#"
==== Base64url
MEYCIQDUlO4pk18TYpPnPtaMal5p0qjhUDbJlej9njOlS+X8kgIhALoi9FRqutQeUcwI20igDhEBq4zTx3uTGb/hHU3vUrIZ
==== empty
--- exit 3
error: cannot use azurekms://signatures/empty
  caused by: `az` answered with something other than a signature: (nothing)
hint: qkey expects Base64 of r and s, 32 bytes each
==== garbage
--- exit 3
error: cannot use azurekms://signatures/garbage
  caused by: `az` answered with something other than a signature: Z2FyYmFnZQ==
hint: qkey expects Base64 of r and s, 32 bytes each
==== cut short
--- exit 3
error: cannot use azurekms://signatures/cut-short
  caused by: `az` answered with something other than a signature: 1JTuKZNfE2KT5z7WjGpeadKo4VA2yZXo/Z4zpUvl/JK6IvRUarrUHlHMCNtIoA4RAauM08d7kxm/4R1N71Ky
hint: qkey expects Base64 of r and s, 32 bytes each
==== DER
--- exit 3
error: cannot use azurekms://signatures/DER
  caused by: `az` answered with something other than a signature: MEYCIQDUlO4pk18TYpPnPtaMal5p0qjhUDbJlej9njOlS+X8kgIhALoi9FRqutQeUcwI20igDhEBq4zTx3uTGb/hHU3vUrIZ
hint: qkey expects Base64 of r and s, 32 bytes each; this looks like Base64 of ASN.1 DER
==== by another key
--- exit 3
error: azurekms://signatures/by-another-key returned a signature that does not verify
hint: check that the key source signs with the key that it reports, over SHA-256

"#]].raw());
}

#[test]
fn an_older_az_and_a_broken_one_are_understood_or_told() {
    let bob = qkey::public_key::PublicKey::from_base64(BOB_PUBLIC).expect("a key");
    let point = bob.to_sec1();
    let show = json!({ "key": {
        "kid": "https://v.vault.azure.net/keys/k/1",
        "kty": "EC-HSM",
        "crv": "P-256",
        "x": BASE64_STANDARD.encode(&point[1..33]),
        "y": BASE64_STANDARD.encode(&point[33..]),
    }});
    let signature = sign_digest(BOB, &Sha256::digest(b"x")).to_bytes();
    let sign = json!({ "signature": BASE64_URL_SAFE_NO_PAD.encode(signature) });
    let cases = ["older", "no JSON", "no signature", "unknown command"];
    let told = side_by_side(&cases, |case| {
        let qkey = Qkey::new();
        qkey.write("show", show.to_string());
        qkey.write(
            "sign",
            match case {
                "no JSON" => "\u{1b}[31moops".to_owned(),
                "no signature" => "null".to_owned(),
                _ => sign.to_string(),
            },
        );
        let program = match case {
            "unknown command" => {
                "#!/bin/sh\n[ $3 = sign ] || exec cat $3\n\
                 echo \"ERROR: 'sign' is misspelled or not recognized by the system.\" >&2\nexit 2\n"
            }
            _ => "#!/bin/sh\necho \"$*\" >>calls\nexec cat $3\n",
        };
        let qkey = with_program(qkey, "az", program);
        let run = qkey.run(["sign", "--key=azurekms://v/k", "x"]);
        let calls = std::fs::read_to_string(qkey.path("calls")).unwrap_or_default();
        let shown = run.transcript().replace("[DIR]/bin/az", "az");
        match run.code {
            0 => format!("exit 0\n--- calls\n{calls}"),
            _ => shown,
        }
    });
    assert_data_eq!(told, str![[r#"
==== older
exit 0
--- calls
keyvault key show --output=json --vault-name=v --name=k
keyvault key sign --output=json --vault-name=v --name=k --version=1 --algorithm=ES256 --digest=LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=
==== no JSON
--- exit 3
error: cannot use azurekms://v/k
  caused by: `az` answered with something other than JSON with a signature: [31moops
hint: the server may not be Azure Key Vault: check the vault's name and the proxy
==== no signature
--- exit 3
error: cannot use azurekms://v/k
  caused by: `az` answered with something other than JSON with a signature: null
hint: the server may not be Azure Key Vault: check the vault's name and the proxy
==== unknown command
--- exit 3
error: cannot sign with azurekms://v/k
  caused by: `az` exited with 2: ERROR: 'sign' is misspelled or not recognized by the system.
hint: update the Azure CLI: `az upgrade`

"#]].raw());
}

#[test]
fn generate_never_adds_a_version() {
    let vault = Vault::new("new");
    let qkey = with_az(Qkey::new());
    let cases = [
        "taken",
        "a version",
        "may not make",
        "deleted",
        "no answer",
        "in hardware",
        "a protection there is not",
    ];
    let told = side_by_side(&cases, |case| {
        let key = case.replace(' ', "-");
        let generate = |source: &str| transcript(&qkey.run(["generate", source]));
        let timeout = match case {
            "no answer" => "--timeout=12",
            _ => "--timeout=120",
        };
        let refused = |fault| {
            vault.set(&key, "create.fault", &fault);
            transcript(&qkey.run(["generate", timeout, &vault.source(&key)]))
        };
        match case {
            "taken" => generate(&vault.source("bob")),
            "a version" => generate(&vault.source(&format!("x/{}", version(1)))),
            "may not make" => refused(error(
                403,
                "Forbidden",
                "Caller is not authorized to perform action on resource.",
                Some("ForbiddenByRbac"),
            )),
            "deleted" => refused(error(
                409,
                "Conflict",
                "Key deleted is currently in a deleted but recoverable state.",
                Some("ObjectIsDeletedButRecoverable"),
            )),
            "no answer" => refused(json!("hang")),
            "in hardware" => {
                let source = format!("{}?protection=hsm", vault.source(&key));
                let run = qkey.run(["generate", "--output=json", &source]);
                let calls = vault.calls().join("\n");
                assert!(calls.contains("\"kty\": \"EC-HSM\""), "{calls}");
                format!("{}\n", run.json()["source"])
            }
            _ => generate(&format!("{}?protection=tpm", vault.source(&key))),
        }
    });
    assert_data_eq!(told, str![[r#"
==== taken
--- exit 3
error: azurekms://new/bob already exists
hint: use that key, or choose another name
==== a version
--- exit 2
error: cannot create "azurekms://new/x/00000000000000000000000000000001": it names a version
hint: leave the version out: Azure chooses it
==== may not make
--- exit 3
error: cannot create azurekms://new/may-not-make
  caused by: `az` exited with 1: ERROR: (Forbidden) Caller is not authorized to perform action on resource.
    Code: Forbidden
    Message: Caller is not authorized to perform action on resource.
    Inner error: {
        "code": "ForbiddenByRbac"
    }
hint: you need the role `Key Vault Crypto User` on the key or its vault (to create keys: `Key Vault Crypto Officer`): `az role assignment create`; `az account show` shows who you are
==== deleted
--- exit 3
error: cannot create azurekms://new/deleted
  caused by: `az` exited with 1: ERROR: (Conflict) Key deleted is currently in a deleted but recoverable state.
    Code: Conflict
    Message: Key deleted is currently in a deleted but recoverable state.
    Inner error: {
        "code": "ObjectIsDeletedButRecoverable"
    }
hint: choose another name, or recover the deleted key: `az keyvault key recover --vault-name=new --name=deleted`
==== no answer
--- exit 3
error: cannot create azurekms://new/no-answer
  caused by: `az` did not finish within 12 s and was killed
hint: the key may have been created anyway: check with `qkey pubkey azurekms://new/no-answer`
==== in hardware
"azurekms://new/in-hardware/00000000000000000000000000000001"
==== a protection there is not
--- exit 2
error: "azurekms://new/a-protection-there-is-not?protection=tpm" is not a key source: unknown protection "tpm"
hint: write software or hsm

"#]].raw());
}

#[test]
fn malformed_uris_fail_before_az_runs() {
    let qkey = Qkey::new().env("PATH", "/nowhere");
    let cases = [
        "azurekms:v/k",
        "azurekms://v",
        "azurekms://v.vault.azure.net/keys/k/1",
        "azurekms://v:443/k",
        "azurekms://v/k?version=1",
    ];
    assert_data_eq!(
        side_by_side(&cases, |case| qkey.run(["pubkey", case]).transcript()),
        str![[r#"
==== azurekms:v/k
--- exit 2
error: "azurekms:v/k" is not a key source: azurekms: must be followed by two slashes
hint: write azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION, where VAULT is a name, or a host such as NAME.vault.azure.net or NAME.managedhsm.azure.net
==== azurekms://v
--- exit 2
error: "azurekms://v" is not a key source: it must name a vault and a key
hint: write azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION, where VAULT is a name, or a host such as NAME.vault.azure.net or NAME.managedhsm.azure.net
==== azurekms://v.vault.azure.net/keys/k/1
--- exit 2
error: "azurekms://v.vault.azure.net/keys/k/1" is not a key source: it must name a vault and a key
hint: write azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION, where VAULT is a name, or a host such as NAME.vault.azure.net or NAME.managedhsm.azure.net
==== azurekms://v:443/k
--- exit 2
error: "azurekms://v:443/k" is not a key source: it contains an invalid vault, key or version
hint: write azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION, where VAULT is a name, or a host such as NAME.vault.azure.net or NAME.managedhsm.azure.net
==== azurekms://v/k?version=1
--- exit 2
error: "azurekms://v/k?version=…" is not a key source: unknown attribute "version"
hint: azurekms takes protection; in a name, write `?` as %3F: azurekms:…%3F…

"#]].raw()
    );
}
