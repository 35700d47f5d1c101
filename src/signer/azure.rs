//! Azure Key Vault and Managed HSM, through the program `az`.
//!
//! Operations, members and errors: Azure Key Vault REST API, "Keys". Names and hosts: "About keys,
//! secrets, and certificates". Flags: Azure CLI reference, `az keyvault key`.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    Context, Opened,
    source::{Generate, Generated, Source, SourceKind},
    tool::{self, Table, Tool, Vendor, cannot_create, table},
};
use crate::{
    error::{Reason, Result},
    public_key::PublicKey,
    signature::Signature,
    subprocess::Command,
};

pub static KIND: SourceKind = SourceKind {
    attributes: &[PROTECTION],
    generate: Some(generate),
    ..SourceKind::new(
        "azurekms",
        "azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION",
        open,
    )
};

const PROTECTION: &str = "protection";

const INSTALL: &str = "install the Azure CLI: the package azure-cli from Microsoft's repository, or \
                       `pip install azure-cli`";

/// What `show` and `create` reply.
const KEY: &str = "JSON with a key";

static AZURE: Vendor = Vendor {
    table: TABLE,
    timed_out: REACH,
    unfit: "create a key that fits: `qkey generate azurekms://VAULT/NAME`",
    stranger: "the server may not be Azure Key Vault: check the vault's name and the proxy",
};

const REACH: &str = "check the vault's name, the network and the proxy: `az keyvault list` lists the \
                     vaults";

const TABLE: Table = table! {
    r"^ERROR: \(KeyNotFound\)" => NotFound,
        "check the vault, key and version: `az keyvault key list` lists the keys of a vault";
    r#"^\s*"code": "KeyDisabled""# => Disabled,
        "enable the key: `az keyvault key set-attributes {key} --enabled true`";
    r#"^\s*"code": "Key(NotYetValid|Expired)""# => Disabled,
        "check when the key is valid: `az keyvault key show {key}`";
    r#"^\s*"code": "ForbiddenByPolicy""# => Denied,
        "the vault's access policy must allow get and sign (to create keys: create): `az keyvault \
         set-policy`; `az account show` shows who you are";
    r#"^\s*"code": "ForbiddenByFirewall""# => Denied,
        "the vault's firewall blocks this address: `az keyvault network-rule add`, or use another \
         network";
    r#"^\s*"code": "ForbiddenByConnection""# => Denied,
        "the vault accepts private connections only: use a network that has one";
    r"^ERROR: \(Forbidden\)" => Denied,
        "you need the role `Key Vault Crypto User` on the key or its vault (to create keys: `Key \
         Vault Crypto Officer`): `az role assignment create`; `az account show` shows who you are";
    r#"^\s*"code": "ObjectIsDeletedButRecoverable""# => Disabled,
        "choose another name, or recover the deleted key: `az keyvault key recover {key}`";
    r"^ERROR: (\(Unauthorized\)|Please run 'az login'|AADSTS\d+)" => LoggedOut,
        "log in: `az login`, or `az login --service-principal` in scripts; `az account show` shows \
         who you are";
    r"^ERROR: \(Throttled\)" => Throttled, "try again later";
    "^ERROR: (.* misspelled or not recognized|unrecognized arguments:)" => Unsupported,
        "update the Azure CLI: `az upgrade`";
    "^ERROR: .*CERTIFICATE_VERIFY_FAILED" => Unreachable,
        "if a proxy uses its own certificate authority, name its file with REQUESTS_CA_BUNDLE";
    "^ERROR: .*(Failed to resolve|Unable to connect|Failed to establish a new connection|timed \
     out)" => Unreachable,
        REACH;
};

/// `az`, and the key that it uses.
struct Azure {
    tool: Tool,
    key: Key,
}

/// What a source names.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    /// The vault's name, or the full name of its host.
    vault: String,
    name: String,
    version: Option<String>,
}

/// The reply to `show` and `create`; a Managed HSM leaves out some members.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct KeyReply {
    key: JsonWebKey,
    attributes: Option<Attributes>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
#[serde(rename_all = "camelCase")]
struct JsonWebKey {
    /// The URL of the key, with its version.
    kid: String,
    kty: String,
    crv: Option<String>,
    /// Base64, padded.
    x: Option<String>,
    y: Option<String>,
    key_ops: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Attributes {
    enabled: Option<bool>,
}

impl Azure {
    fn find(source: &Source, context: &Context, key: Key) -> Result<Self> {
        let flags = key.flags(key.version.as_deref());
        Ok(Self {
            tool: Tool::find(&AZURE, &["az"], INSTALL, source, context)?.naming_key(flags),
            key,
        })
    }

    fn command(&self, operation: &str, version: Option<&str>) -> Command {
        self.tool
            .command()
            .args(["keyvault", "key", operation, "--output=json"])
            .args(self.key.flags(version))
            .env("AZURE_CORE_NO_COLOR", "1")
            .env("AZURE_CORE_ONLY_SHOW_ERRORS", "1")
            .env("AZURE_CORE_DISABLE_CONFIRM_PROMPT", "1")
            .env("AZURE_CORE_COLLECT_TELEMETRY", "no")
            .env("AZURE_EXTENSION_USE_DYNAMIC_INSTALL", "no")
    }

    fn show_command(&self) -> Command {
        self.command("show", self.key.version.as_deref())
    }

    /// The version and the public key of a reply.
    ///
    /// # Errors
    /// When the key does not sign ECDSA P-256.
    fn checked(&self, reply: &KeyReply) -> Result<(String, PublicKey)> {
        let KeyReply { key, attributes } = reply;
        let tool = &self.tool;
        tool.expect("type", Some(&key.kty), &["EC", "EC-HSM"])?;
        let curve = key.crv.as_deref().unwrap_or("unknown");
        tool.expect("curve", Some(curve), &["P-256"])?;
        if attributes.as_ref().and_then(|it| it.enabled) == Some(false) {
            let hint = format!("enable it: {}", self.change("--enabled true"));
            let error = tool.unfit("it is disabled".to_owned());
            return Err(error.because(Reason::Disabled).hint(hint));
        }
        if let Some(operations) = &key.key_ops
            && !operations.iter().any(|operation| operation == "sign")
        {
            let operations = if operations.is_empty() {
                "none".to_owned()
            } else {
                operations.join(", ")
            };
            let why = format!("its permitted operations are {operations}, but must include sign");
            let hint = format!("permit it: {}", self.change("--ops sign verify"));
            return Err(tool.unfit(why).hint(hint));
        }
        let version = key.kid.rsplit('/').next().unwrap_or_default();
        if !is_version(version) {
            return Err(tool.unexpected("the URL of a key version", key.kid.as_bytes()));
        }
        let [x, y] = [&key.x, &key.y].map(|member| member.as_deref().unwrap_or_default());
        let public_key = tool.public_key(PublicKey::from_jwk(x, y))?;
        Ok((version.to_owned(), public_key))
    }

    /// The command that changes how the key may be used.
    fn change(&self, flags: &str) -> String {
        let key = tool::typed(self.key.flags(self.key.version.as_deref()));
        format!("`az keyvault key set-attributes {key} {flags}`")
    }

    fn sign(&self, version: &str, challenge: &[u8]) -> Result<Signature> {
        let digest = BASE64_STANDARD.encode(Sha256::digest(challenge));
        let command = self
            .command("sign", Some(version))
            .arg("--algorithm=ES256")
            .arg(format!("--digest={digest}"));
        let expected = "JSON with a signature";
        let reply = self
            .tool
            .call_for("sign with", &command, "/signature", expected)?;
        let encoding = "Base64 of r and s, 32 bytes each";
        self.tool
            .signature(reply.as_str(), Signature::from_p1363_base64, encoding)
    }
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let azure = Azure::find(source, context, Key::of(source)?)?;
    let shown = azure.tool.call("open", &azure.show_command(), KEY)?;
    // Every signature names the version of the public key: a newer one may be added at any time.
    let (version, public_key) = azure.checked(&shown)?;
    Ok(tool::opened(public_key, move |challenge| {
        azure.sign(&version, challenge)
    }))
}

fn generate(source: &Source, context: &Arc<Context>, _: &Generate) -> Result<Generated> {
    let key = Key::of(source)?;
    if key.version.is_some() {
        let hint = "leave the version out: Azure chooses it";
        return Err(cannot_create(source, tool::NAMES_VERSION, hint));
    }
    let azure = Azure::find(source, context, key)?;
    let tool = &azure.tool;
    // Creating an existing key would add a version to it.
    tool.refuse_existing(&azure.show_command())?;
    let protection = source.attribute(PROTECTION);
    let command = azure
        .command("create", None)
        .args(["--kty=EC", "--curve=P-256", "--ops", "sign", "verify"])
        .args(protection.map(|protection| format!("--protection={protection}")));
    let made = tool.create(&command, &tool.look(), |output| tool.json(output, KEY))?;
    let (version, public_key) = azure.checked(&made).map_err(|error| tool.created(error))?;
    let Key { vault, name, .. } = &azure.key;
    Ok(Generated {
        source: format!("azurekms://{vault}/{name}/{version}"),
        public_key,
    })
}

/// Whether it looks like a version; Azure's are 32 hexadecimal digits.
fn is_version(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric())
}

impl Key {
    /// # Errors
    /// Of kind `usage` when the source does not name a key.
    fn of(source: &Source) -> Result<Self> {
        let hint = "write azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION, where VAULT is a \
                    name, or a host such as NAME.vault.azure.net or NAME.managedhsm.azure.net";
        let invalid = |why: &str| source.invalid(why).hint(hint);
        if let Some(protection) = source.attribute(PROTECTION)
            && !["software", "hsm"].contains(&protection)
        {
            let why = format!("unknown protection {protection:?}");
            return Err(source.invalid(why).hint("write software or hsm"));
        }
        let path = source
            .body()
            .strip_prefix("//")
            .ok_or_else(|| invalid("azurekms: must be followed by two slashes"))?;
        let parts: Vec<&str> = path.split('/').collect();
        let (vault, name, version) = match parts[..] {
            [vault, name] => (vault, name, None),
            [vault, name, version] => (vault, name, Some(version)),
            _ => return Err(invalid("it must name a vault and a key")),
        };
        let is_label = |text: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
            !text.is_empty() && text.chars().all(allowed)
        };
        if !vault.split('.').all(is_label) || !is_label(name) || !version.is_none_or(is_version) {
            return Err(invalid("it contains an invalid vault, key or version"));
        }
        Ok(Self {
            vault: vault.to_owned(),
            name: name.to_owned(),
            version: version.map(str::to_owned),
        })
    }

    /// The flags that name the key or one version of it. `az` appends the domain of its configured
    /// cloud to a bare vault name.
    fn flags(&self, version: Option<&str>) -> Vec<String> {
        let Self { vault, name, .. } = self;
        let version = version.unwrap_or_default();
        if vault.contains('.') {
            let url = format!("--id=https://{vault}/keys/{name}/{version}");
            return vec![url.trim_end_matches('/').to_owned()];
        }
        let mut flags = vec![format!("--vault-name={vault}"), format!("--name={name}")];
        if !version.is_empty() {
            flags.push(format!("--version={version}"));
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::tool::tests::{assert_classifies, assert_malformed, source};

    #[test]
    fn parse_vault_key_and_version() {
        for (text, flags) in [
            ("azurekms://v-1/k-1", "--vault-name=v-1 --name=k-1"),
            (
                "azurekms://v/k/0123456789abcdef0123456789abcdef?protection=hsm",
                "--vault-name=v --name=k --version=0123456789abcdef0123456789abcdef",
            ),
            (
                "azurekms://v.vault.azure.net/k",
                "--id=https://v.vault.azure.net/keys/k",
            ),
            (
                "azurekms://v.managedhsm.azure.net/k/1a",
                "--id=https://v.managedhsm.azure.net/keys/k/1a",
            ),
            (
                "azurekms://v.vault.usgovcloudapi.net/k",
                "--id=https://v.vault.usgovcloudapi.net/keys/k",
            ),
        ] {
            let key = Key::of(&source(text)).expect(text);
            assert_eq!(key.flags(key.version.as_deref()).join(" "), flags);
        }
    }

    #[test]
    fn malformed_sources_are_usage_errors() {
        assert_malformed(
            Key::of,
            &[
                ("azurekms:v/k", "two slashes"),
                ("azurekms://v", "a vault and a key"),
                ("azurekms://v/k/1/2", "a vault and a key"),
                ("azurekms://v.vault.azure.net/keys/k/1", "a vault and a key"),
                ("azurekms:///v/k", "invalid vault"),
                ("azurekms://v/", "invalid vault"),
                ("azurekms://v/k/", "invalid vault"),
                ("azurekms://v..net/k", "invalid vault"),
                ("azurekms://v:443/k", "invalid vault"),
                ("azurekms://u@v.net/k", "invalid vault"),
                ("azurekms://v/a%20b", "invalid vault"),
                ("azurekms://v/k/1-2", "invalid vault"),
                (
                    "azurekms://v/k?protection=tpm",
                    "unknown protection \"tpm\"",
                ),
            ],
        );
    }

    #[test]
    fn table_classifies_real_output_of_az() {
        let error = |code: &str, inner: &str| {
            format!(
                "ERROR: ({code}) Message.\nCode: {code}\nMessage: Message.\nInner error: {{\n    \
                 \"code\": \"{inner}\"\n}}\n"
            )
        };
        let samples: &[&[&str]] = &[
            &[
                "ERROR: (KeyNotFound) A key with (name/id) nope/ was not found in this key \
                 vault.\nCode: KeyNotFound\nMessage: A key with (name/id) nope/ was not found in \
                 this key vault.\n",
            ],
            &[&error("Forbidden", "KeyDisabled")],
            &[
                &error("Forbidden", "KeyNotYetValid"),
                &error("Forbidden", "KeyExpired"),
            ],
            &[&error("Forbidden", "ForbiddenByPolicy")],
            &[&error("Forbidden", "ForbiddenByFirewall")],
            &[&error("Forbidden", "ForbiddenByConnection")],
            &[
                &error("Forbidden", "ForbiddenByRbac"),
                "ERROR: (Forbidden) Operation sign is not allowed.\nCode: Forbidden\n",
            ],
            &[&error("Conflict", "ObjectIsDeletedButRecoverable")],
            &[
                "ERROR: (Unauthorized) AKV10032: Invalid issuer.\nCode: Unauthorized\n",
                "ERROR: Please run 'az login' to setup account.\n",
                "ERROR: AADSTS700082: The refresh token has expired due to inactivity.\n",
            ],
            &["ERROR: (Throttled) Too many requests were received.\nCode: Throttled\n"],
            &[
                "ERROR: 'sign' is misspelled or not recognized by the system.\n",
                "ERROR: unrecognized arguments: --digezt=x\n",
            ],
            &[
                "ERROR: HTTPSConnectionPool(host='v.vault.azure.net', port=443): Max retries \
                 exceeded with url: / (Caused by SSLError(SSLCertVerificationError(1, '[SSL: \
                 CERTIFICATE_VERIFY_FAILED] certificate verify failed')))\n",
            ],
            &[
                "ERROR: HTTPSConnection(host='none.vault.invalid', port=443): Failed to resolve \
                 'none.vault.invalid' ([Errno -2] Name or service not known)\n",
                "ERROR: ('Unable to connect to proxy', OSError('Tunnel connection failed: 502 Bad \
                 Gateway'))\n",
                "ERROR: HTTPSConnection(host='v.vault.azure.net', port=443): Failed to establish a \
                 new connection: [Errno 111] Connection refused\n",
                "ERROR: HTTPSConnectionPool(host='v.vault.azure.net', port=443): Read timed out. \
                 (read timeout=300)\n",
            ],
        ];
        assert_classifies(TABLE, samples);
    }
}
