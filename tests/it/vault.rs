//! Keys in HashiCorp Vault and OpenBao: the real `bao` with a server in memory, and a fake `vault`
//! for what a real one does not do.

use crate::support::{
    fake_kms::sign_digest,
    http::url_of_nobody,
    key_source::{assert_replaces_and_unlocks, with_program},
    mock::Mock,
    openbao::{Server, address, folder, with_bao},
    qkey::{BOB, CAROL, Qkey, Run},
    session::assert_cases,
    shell::prints,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use snapbox::{IntoData, assert_data_eq, str};

fn bao() -> Qkey {
    with_bao(Qkey::new(), address())
}

/// The run as a snapshot shows it.
fn transcript(run: &Run) -> String {
    let program = folder().join("bao");
    run.transcript()
        .replace(program.to_str().expect("UTF-8"), "bao")
        .replace(address(), "[URL]")
        .replace("[DIR]/bin/", "")
}

#[test]
fn key_in_a_namespace_replaces_and_unlocks() {
    let mock = Mock::new();
    let qkey = with_bao(Qkey::with_mock(&mock), address());
    prints(
        &qkey,
        "bao namespace create team && bao secrets enable -namespace=team -path=locks transit",
    );
    let source = "hashivault://lock?mount=team/locks";
    assert_eq!(qkey.run(["generate", source]).code, 0);
    assert_replaces_and_unlocks(&mock, &qkey, source);
    let in_namespace = with_bao(Qkey::new(), address()).env("BAO_NAMESPACE", "team");
    assert_eq!(
        qkey.run(["pubkey", source]).stdout,
        in_namespace
            .run(["pubkey", "hashivault://lock?mount=locks&tool=bao"])
            .stdout
    );
}

#[test]
fn public_key_and_signature_use_the_same_version() {
    let qkey = bao();
    prints(&qkey, "bao write -f transit/keys/rotated type=ecdsa-p256");
    // It is rotated after each look at it.
    let rotating = format!(
        "#!/bin/sh\n'{0}' \"$@\" || exit\n[ \"$1\" != read ] || \
         exec '{0}' write -f transit/keys/rotated/rotate >&2\n",
        folder().join("bao").display()
    );
    let qkey = with_program(qkey, "bao", &rotating);
    for source in [
        "hashivault://rotated",
        "hashivault://rotated",
        "hashivault://rotated?key-version=2",
    ] {
        let run = qkey.run(["sign", "--key", source, "x"]);
        assert_eq!(run.code, 0, "{run:?}");
    }
    let of = |version| {
        let source = format!("hashivault://rotated?key-version={version}");
        qkey.run(["pubkey", &source]).stdout
    };
    assert_ne!(of(1), of(2));
}

/// What goes wrong with the real `bao`.
fn failure(case: &str) -> String {
    let qkey = bao();
    let pubkey = |qkey: &Qkey, source: &str| transcript(&qkey.run(["pubkey", source]));
    match case {
        "no engine" => pubkey(&qkey, "hashivault://nope?mount=nope"),
        "another engine" => {
            prints(
                &qkey,
                "bao secrets enable -path=kv kv && bao write kv/keys/x a=b",
            );
            pubkey(&qkey, "hashivault://x?mount=kv")
        }
        "no version" => {
            prints(&qkey, "bao write -f transit/keys/one type=ecdsa-p256");
            pubkey(&qkey, "hashivault://one?key-version=2")
        }
        "may not read" => pubkey(&restricted(qkey, case), "hashivault://one"),
        "may not sign" => {
            prints(&qkey, "bao write -f transit/keys/unsigned type=ecdsa-p256");
            let qkey = restricted(qkey, case);
            transcript(&qkey.run(["sign", "--key=hashivault://unsigned", "x"]))
        }
        "sealed" => {
            let server = Server::start();
            let qkey = with_bao(Qkey::new(), server.address());
            prints(&qkey, "bao operator seal");
            pubkey(&qkey, "hashivault://one").replace(server.address(), "[URL]")
        }
        "nobody there" => {
            let nobody = url_of_nobody();
            let told = pubkey(&qkey.env("BAO_ADDR", &nobody), "hashivault://one");
            let host = nobody.trim_start_matches("http://");
            told.replace(host, "[NOBODY]")
        }
        "plain HTTP" => {
            let https = address().replace("http:", "https:");
            let told = pubkey(&qkey.env("BAO_ADDR", &https), "hashivault://one");
            told.replace(&https, "https://[HOST]")
        }
        key_type => {
            prints(
                &qkey,
                &format!("bao write -f transit/keys/{key_type} type={key_type}"),
            );
            pubkey(&qkey, &format!("hashivault://{key_type}"))
        }
    }
}

/// With a token that may only read keys, or not even that.
fn restricted(qkey: Qkey, case: &str) -> Qkey {
    let (policy, path) = match case {
        "may not sign" => ("reader", "transit/keys/*"),
        _ => ("stranger", "other/*"),
    };
    qkey.write(
        "policy",
        format!("path \"{path}\" {{ capabilities = [\"read\"] }}"),
    );
    let token = prints(
        &qkey,
        &format!(
            "bao policy write {policy} policy >&2
             bao token create -policy={policy} -field=token"
        ),
    );
    qkey.env("BAO_TOKEN", token.trim())
}

#[test]
fn failures_show_the_output_of_bao_and_a_hint() {
    assert_cases!(
        str![[r#"
==== no engine
--- exit 3
error: cannot open hashivault://nope?mount=nope
  caused by: `bao` exited with 2: No value found at nope/keys/nope
hint: check the key's name, the attribute mount (default: transit), and the namespace: `bao secrets list` lists the engines
==== another engine
--- exit 3
error: cannot use hashivault://x?mount=kv
  caused by: it is not a key of a transit engine
hint: check the attribute mount (default: transit)
==== no version
--- exit 3
error: cannot use hashivault://one?key-version=2
  caused by: it has no version 2, only 1
hint: leave the attribute key-version out to use the latest version
==== ecdsa-p384
--- exit 3
error: cannot use hashivault://ecdsa-p384
  caused by: its type is ecdsa-p384, but must be ecdsa-p256
hint: create a key that fits: `qkey generate hashivault://NAME`
==== may not read
--- exit 3
error: cannot open hashivault://one
  caused by: `bao` exited with 2: Error reading transit/keys/one: Error making API request.
    
    URL: GET [URL]/v1/transit/keys/one
    Code: 403. Errors:
    
    * 1 error occurred:
        * permission denied
hint: log in (`bao login`), or ask for a policy that allows it; `bao token capabilities transit/keys/one` shows what you may do. Signing needs `read` on keys/KEY and `update` on sign/KEY/sha2-256; creating a key needs `create` and `update` on keys/KEY
==== may not sign
--- exit 3
error: cannot sign with hashivault://unsigned
  caused by: `bao` exited with 2: Error writing data to transit/sign/unsigned/sha2-256: Error making API request.
    
    URL: PUT [URL]/v1/transit/sign/unsigned/sha2-256
    Code: 403. Errors:
    
    * 1 error occurred:
        * permission denied
hint: log in (`bao login`), or ask for a policy that allows it; `bao token capabilities transit/keys/unsigned` shows what you may do. Signing needs `read` on keys/KEY and `update` on sign/KEY/sha2-256; creating a key needs `create` and `update` on keys/KEY
==== sealed
--- exit 3
error: cannot open hashivault://one
  caused by: `bao` exited with 2: Error reading transit/keys/one: Error making API request.
    
    URL: GET [URL]/v1/transit/keys/one
    Code: 503. Errors:
    
    * Vault is sealed
hint: unseal it: `bao operator unseal`, or wait until someone else does
==== nobody there
--- exit 3
error: cannot open hashivault://one
  caused by: `bao` exited with 2: Error reading transit/keys/one: Get "http://[NOBODY]/v1/transit/keys/one": dial tcp [NOBODY]: connect: connection refused
hint: check VAULT_ADDR (for bao: BAO_ADDR) and the network: `bao status`; the attribute tool selects vault or bao
==== plain HTTP
--- exit 3
error: cannot open hashivault://one
  caused by: `bao` exited with 2: Error reading transit/keys/one: Get "https://[HOST]/v1/transit/keys/one": http: server gave HTTP response to HTTPS client
hint: the server speaks plain HTTP: VAULT_ADDR or BAO_ADDR must begin with http://

"#]],
        failure
    );
}

/// `qkey` with a fake `vault`, which has one key with the versions 1 and 2 that is bob's, and takes
/// down what it is told.
struct Fake(Qkey);

impl Fake {
    fn new() -> Self {
        let fake = Self(with_program(
            Qkey::new(),
            "vault",
            "#!/bin/sh\necho \"$*\" >>calls\n[ ! -e hang-$1 ] || exec sleep 1000\n\
             [ ! -e fail-$1 ] || { cat fail-$1 >&2; exit 2; }\n\
             case $1 in write) cat >input;; esac\ncat $1.json\n",
        ));
        let pem = prints(&fake.0, "openssl pkey -in bob.pem -pubout");
        fake.answer_read(json!({
            "type": "ecdsa-p256",
            "latest_version": 2,
            "keys": {"1": {"public_key": "old"}, "2": {"public_key": pem}},
        }));
        let signature = sign_digest(BOB, &Sha256::digest(b"x")).to_der();
        fake.sign(&format!("vault:v2:{}", encode(signature.as_bytes())));
        fake
    }

    fn answer_read(&self, data: Value) {
        let reply = json!({ "request_id": "1", "data": data });
        self.0.write("read.json", reply.to_string());
    }

    fn sign(&self, signature: &str) {
        let reply = json!({ "data": { "signature": signature } });
        self.0.write("write.json", reply.to_string());
    }

    fn calls(&self) -> String {
        std::fs::read_to_string(self.0.path("calls")).unwrap_or_default()
    }
}

fn encode(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

#[test]
fn vault_is_preferred_to_bao_and_gets_exact_arguments() {
    let fake = Fake::new();
    let sign = ["sign", "--key=hashivault://lock?mount=/a/b/", "x"];
    assert_eq!(fake.0.run(sign).code, 0);
    assert_data_eq!(
        fake.calls(),
        str![[r#"
read -format=json a/b/keys/lock
write -format=json a/b/sign/lock/sha2-256 input=- marshaling_algorithm=asn1 prehashed=false key_version=2

"#]]
        .raw()
    );
    assert_eq!(
        std::fs::read_to_string(fake.0.path("input")).unwrap(),
        encode(b"x")
    );

    fake.0.write("calls", "");
    let both = fake.0.path("bin").display().to_string();
    let path = format!(
        "{both}:{}:{}",
        folder().display(),
        std::env::var("PATH").unwrap()
    );
    let Fake(qkey) = fake;
    let qkey = with_bao(qkey, address()).env("PATH", &path);
    prints(&qkey, "bao write -f transit/keys/lock type=ecdsa-p256");
    for (source, vaults) in [("hashivault://lock", 1), ("hashivault://lock?tool=bao", 1)] {
        assert_eq!(qkey.run(["pubkey", source]).code, 0);
        let calls = std::fs::read_to_string(qkey.path("calls")).unwrap();
        assert_eq!(calls.lines().count(), vaults, "{source}: {calls}");
    }
}

#[test]
fn failures_of_vault_have_hints() {
    assert_cases!(
        str![[r#"
==== Code: 403. Errors:\n\n* 2 errors occurred:\n\t* permission denied\n\t* invalid token
--- exit 3
error: cannot sign with hashivault://lock
  caused by: `vault` exited with 2: Code: 403. Errors:
    
    * 2 errors occurred:
        * permission denied
        * invalid token
hint: log in: `vault login`, or set a new token in VAULT_TOKEN or BAO_TOKEN
==== Code: 400. Errors:\n\n* missing client token
--- exit 3, hint as above
error: cannot sign with hashivault://lock
  caused by: `vault` exited with 2: Code: 400. Errors:
    
    * missing client token
==== Code: 400. Errors:\n\n* signing key not found
--- exit 3
error: cannot sign with hashivault://lock
  caused by: `vault` exited with 2: Code: 400. Errors:
    
    * signing key not found
hint: check the key's name, the attribute mount (default: transit), and the namespace: `vault secrets list` lists the engines
==== Code: 429. Errors:\n\n* request path "transit": rate limit quota exceeded
--- exit 3
error: cannot sign with hashivault://lock
  caused by: `vault` exited with 2: Code: 429. Errors:
    
    * request path "transit": rate limit quota exceeded
hint: try again later
==== tls: failed to verify certificate: x509: certificate signed by unknown authority
--- exit 3
error: cannot sign with hashivault://lock
  caused by: `vault` exited with 2: tls: failed to verify certificate: x509: certificate signed by unknown authority
hint: if the server uses its own certificate authority, name its file with VAULT_CACERT or BAO_CACERT

"#]],
        |words| {
            let fake = Fake::new();
            fake.0.write(
                "fail-write",
                words.replace("\\n", "\n").replace("\\t", "\t"),
            );
            transcript(&fake.0.run(["sign", "--key=hashivault://lock", "x"]))
        }
    );
}

#[test]
fn malformed_replies_are_shown() {
    let by_carol = sign_digest(CAROL, &Sha256::digest(b"x"));
    let der = encode(by_carol.to_der().as_bytes());
    assert_cases!(
        str![[r#"
==== read: no JSON
--- exit 3
error: cannot use hashivault://lock
  caused by: unexpected reply from `vault` instead of JSON with data: [31moops
hint: the path may not be a transit engine: check the attribute mount, and VAULT_ADDR or BAO_ADDR
==== read: no data
--- exit 3
error: cannot use hashivault://lock
  caused by: it is not a key of a transit engine
hint: check the attribute mount (default: transit)
==== read: no public key
--- exit 3
error: cannot use hashivault://lock
  caused by: no PEM block
hint: the path may not be a transit engine: check the attribute mount, and VAULT_ADDR or BAO_ADDR
==== not JSON
--- exit 3, hint as above
error: cannot use hashivault://lock
  caused by: unexpected reply from `vault` instead of JSON with a signature: Success!
==== no prefix
--- exit 3, hint as above
error: cannot use hashivault://lock
  caused by: unexpected reply from `vault` instead of a signature by the requested key version: MEYCIQDTZ/m35dLHjS2wBnKoTxSVQBhW3VUaFPv7EizuTC4y1QIhAL0eoWYHWs2d7MIPil24f755Lt5MP+QZTW2j8so/iXUu
==== other version
--- exit 3, hint as above
error: cannot use hashivault://lock
  caused by: unexpected reply from `vault` instead of a signature by the requested key version: vault:v1:MEYCIQDTZ/m35dLHjS2wBnKoTxSVQBhW3VUaFPv7EizuTC4y1QIhAL0eoWYHWs2d7MIPil24f755Lt5MP+QZTW2j8so/iXUu
==== empty
--- exit 3
error: cannot use hashivault://lock
  caused by: unexpected reply from `vault` instead of a signature: (nothing)
hint: qkey expects Base64 of ASN.1 DER after vault:vN:
==== P1363
--- exit 3
error: cannot use hashivault://lock
  caused by: unexpected reply from `vault` instead of a signature: 02f5t+XSx40tsAZyqE8UlUAYVt1VGhT7+xIs7kwuMtW9HqFmB1rNnezCD4pduH++eS7eTD/kGU1to/LKP4l1Lg==
hint: qkey expects Base64 of ASN.1 DER after vault:vN:; this looks like Base64 of r and s, 32 bytes each (IEEE P1363)

"#]],
        |case| {
            let fake = Fake::new();
            match case {
                "read: no JSON" => drop(fake.0.write("read.json", "\u{1b}[31moops")),
                "read: no data" => drop(fake.0.write("read.json", "{\"data\": null}")),
                "read: no public key" => fake.answer_read(json!({
                    "type": "ecdsa-p256", "latest_version": 1, "keys": {"1": 1700000000},
                })),
                "not JSON" => drop(fake.0.write("write.json", "Success!")),
                "no prefix" => fake.sign(&der),
                "other version" => fake.sign(&format!("vault:v1:{der}")),
                "empty" => fake.sign("vault:v2:"),
                _ => fake.sign(&format!("vault:v2:{}", encode(&by_carol.to_bytes()))),
            }
            transcript(&fake.0.run(["sign", "--key=hashivault://lock", "x"]))
        }
    );
}

#[test]
fn generate_never_reuses_a_key() {
    assert_cases!(
        str![[r#"
==== of another type
--- exit 3
error: hashivault://taken already exists
hint: use that key, or choose another name
==== may not make
--- exit 3
error: cannot create hashivault://new
  caused by: `bao` exited with 2: Error writing data to transit/keys/new: Error making API request.
    
    URL: PUT [URL]/v1/transit/keys/new
    Code: 403. Errors:
    
    * 1 error occurred:
        * permission denied
hint: log in (`bao login`), or ask for a policy that allows it; `bao token capabilities transit/keys/new` shows what you may do. Signing needs `read` on keys/KEY and `update` on sign/KEY/sha2-256; creating a key needs `create` and `update` on keys/KEY
==== a version
--- exit 2
error: cannot create "hashivault://new?key-version=1": it names a version
hint: leave the attribute key-version out: a new key starts with version 1
==== made by somebody else
--- exit 3
error: hashivault://new already exists
hint: use that key, or choose another name
==== no answer
--- exit 3
error: cannot create hashivault://new
  caused by: `vault` did not finish within 2 s and was killed
hint: the key may have been created anyway: check with `qkey pubkey hashivault://new`

"#]],
        |case| {
            let generate = |qkey: &Qkey, source: &str| transcript(&qkey.run(["generate", source]));
            match case {
                "of another type" => {
                    let qkey = bao();
                    prints(&qkey, "bao write -f transit/keys/taken type=ed25519");
                    generate(&qkey, "hashivault://taken")
                }
                "may not make" => generate(&restricted(bao(), "may not sign"), "hashivault://new"),
                "a version" => generate(&bao(), "hashivault://new?key-version=1"),
                "made by somebody else" => {
                    let fake = Fake::new();
                    one_look_before(&fake);
                    generate(&fake.0, "hashivault://new")
                }
                _ => {
                    let fake = Fake::new();
                    one_look_before(&fake);
                    fake.0.write("hang-write", "");
                    let run = fake.0.run(["generate", "hashivault://new", "--timeout=2"]);
                    transcript(&run)
                }
            }
        }
    );
}

/// The first look at the key of a fake finds none.
fn one_look_before(fake: &Fake) {
    let program = fake.0.path("bin/vault");
    let text = std::fs::read_to_string(&program).expect("the fake");
    let look = "[ \"$1\" != read ] || [ -e looked ] || { touch looked\n\
                echo \"No value found at transit/keys/new\" >&2; exit 2; }\n";
    fake.0
        .write_program("bin/vault", &text.replacen('\n', &format!("\n{look}"), 1));
}
