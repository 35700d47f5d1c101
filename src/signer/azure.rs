//! Azure Key Vault and Managed HSM, through the program `az`.
//!
//! Operations, members and errors: Azure Key Vault REST API, "Keys"; names and hosts: "About keys,
//! secrets, and certificates"; the flags: Azure CLI reference, `az keyvault key`.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    Context, Opened, Signer,
    source::{Body, Generate, Generated, Source, SourceKind, no_path},
    tool::{Hints, Tool},
};
use crate::{
    error::{Error, Kind as ErrorKind, Reason, Result},
    public_key::PublicKey,
    signature::Signature,
    subprocess::{Command, Failure, Output},
    text::quote,
};

pub static KIND: SourceKind = SourceKind {
    scheme: "azurekms",
    form: "azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION",
    body: Body::Text,
    attributes: &[PROTECTION],
    confidential: &[],
    path_in: no_path,
    secret: None,
    open,
    generate: Some(generate),
};

const PROTECTION: &str = "protection";

const INSTALL: &str = "install the Azure CLI: the package azure-cli from Microsoft's repository, or \
                       `pip install azure-cli`";

/// What to do about a key that does not serve.
const MAKE_ONE: &str = "`qkey generate azurekms://VAULT/NAME` makes a key that serves";

const NOT_AZURE: &str = "what answers may not be Azure Key Vault: check the vault's name and the \
                         proxy";

/// What `show` and `create` answer with.
const KEY: &str = "JSON with a key";

/// The error code of what is not there.
const NOT_FOUND: &str = "(KeyNotFound)";

const LOG_IN: &str = "log in: `az login`, or `az login --service-principal` in scripts; `az account \
                      show` tells who you are";
const ROLE: &str = "you need the role `Key Vault Crypto User` on the key or its vault (to make keys: \
                    `Key Vault Crypto Officer`): `az role assignment create`; `az account show` tells \
                    who you are";
const VALIDITY: &str = "see from when and until when it is valid: `az keyvault key show {key}`";
const REACH: &str = "check the vault's name, the network and the proxy: `az keyvault list` shows the \
                     vaults there are";

const HINTS: Hints = &[
    (
        NOT_FOUND,
        None,
        "check vault, key and version: `az keyvault key list` shows the keys of a vault",
    ),
    (
        "KeyDisabled",
        None,
        "enable it: `az keyvault key set-attributes {key} --enabled true`",
    ),
    ("KeyNotYetValid", None, VALIDITY),
    ("KeyExpired", None, VALIDITY),
    ("ForbiddenByRbac", Some(Reason::Denied), ROLE),
    (
        "ForbiddenByPolicy",
        Some(Reason::Denied),
        "the vault's access policy must allow get and sign (to make keys: create): `az keyvault \
         set-policy`; `az account show` tells who you are",
    ),
    (
        "ForbiddenByFirewall",
        Some(Reason::Denied),
        "the vault's firewall keeps you out: `az keyvault network-rule add`, or another network",
    ),
    (
        "ForbiddenByConnection",
        Some(Reason::Denied),
        "the vault takes private connections alone: use a network that has one",
    ),
    ("(Forbidden)", Some(Reason::Denied), ROLE),
    (
        "ObjectIsDeletedButRecoverable",
        None,
        "choose another name, or bring the deleted key back: `az keyvault key recover {key}`",
    ),
    ("(Unauthorized)", Some(Reason::LoggedOut), LOG_IN),
    ("az login", Some(Reason::LoggedOut), LOG_IN),
    ("AADSTS", Some(Reason::LoggedOut), LOG_IN),
    (
        "(Throttled)",
        None,
        "az has tried it several times over; try again later",
    ),
    (
        "misspelled or not recognized",
        None,
        "update the Azure CLI: `az upgrade`",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        None,
        "a proxy's certificate authority is given with REQUESTS_CA_BUNDLE",
    ),
    ("Failed to resolve", None, REACH),
    ("Unable to connect", None, REACH),
    ("Failed to establish a new connection", None, REACH),
    ("timed out", None, REACH),
    ("did not finish within", None, REACH),
];

/// `az`, and the key that it is to use.
struct Azure {
    title: String,
    tool: Tool,
    key: Key,
}

struct AzureSigner {
    azure: Azure,
    /// The version that `public_key` is of: named in every call, since there may be a newer one.
    version: String,
    public_key: PublicKey,
}

/// What a source names.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    /// The vault's name, or the whole name of its host.
    vault: String,
    name: String,
    version: Option<String>,
}

/// What `show` and `create` answer; a Managed HSM leaves some of it out.
#[derive(Deserialize)]
struct KeyReply {
    key: JsonWebKey,
    attributes: Option<Attributes>,
}

#[derive(Deserialize)]
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
struct Attributes {
    enabled: Option<bool>,
}

#[derive(Deserialize)]
struct SignReply {
    /// Base64 or Base64url of r and s.
    signature: String,
}

impl Signer for AzureSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        let digest = BASE64_STANDARD.encode(Sha256::digest(challenge));
        let azure = &self.azure;
        let command = azure
            .command("sign", Some(&self.version))
            .arg("--algorithm=ES256")
            .arg(format!("--digest={digest}"));
        let output = azure.tool.run("sign with", &command)?;
        let reply: SignReply = azure.json(&output, "JSON with a signature")?;
        Signature::from_p1363_base64(&reply.signature).map_err(|_| {
            let expected = "Base64 of r and s, 32 bytes each";
            let signature = reply.signature.as_bytes();
            azure.tool.not_a_signature(expected, signature)
        })
    }
}

impl Azure {
    fn find(source: &Source, context: &Context, key: Key) -> Result<Self> {
        let title = source.text();
        Ok(Self {
            tool: Tool::find(title, &["az"], INSTALL, context.timeout, HINTS)?
                .naming_key(key.shown()),
            title: title.to_owned(),
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

    fn show(&self, doing: &str) -> Result<KeyReply> {
        let command = self.command("show", self.key.version.as_deref());
        let output = self.tool.run(doing, &command)?;
        self.json(&output, KEY)
    }

    fn json<T: DeserializeOwned>(&self, output: &Output, expected: &'static str) -> Result<T> {
        let reply = self.tool.json(output, expected);
        reply.map_err(|error| error.hint(NOT_AZURE))
    }

    /// The version that a reply is of, and its public half.
    ///
    /// # Errors
    /// When the key does not sign ECDSA P-256.
    fn checked(&self, reply: &KeyReply) -> Result<(String, PublicKey)> {
        let key = &reply.key;
        let attributes = reply.attributes.as_ref();
        let unusable = |why: String, hint: &str| {
            let error = Error::new(ErrorKind::Key, why);
            Err(error
                .context(format!("cannot use {}", self.title))
                .hint(hint))
        };
        if !matches!(key.kty.as_str(), "EC" | "EC-HSM") {
            let why = format!("its type is {}, and EC or EC-HSM is needed", key.kty);
            return unusable(why, MAKE_ONE);
        }
        let curve = key.crv.as_deref().unwrap_or("unknown");
        if curve != "P-256" {
            let why = format!("its curve is {curve}, and P-256 is needed");
            return unusable(why, MAKE_ONE);
        }
        if attributes.and_then(|attributes| attributes.enabled) == Some(false) {
            let hint = self.change("--enabled true");
            return unusable("it is disabled".to_owned(), &format!("enable it: {hint}"));
        }
        if let Some(operations) = &key.key_ops
            && !operations.iter().any(|operation| operation == "sign")
        {
            let why = format!(
                "it is for {}, and sign is needed",
                match operations.is_empty() {
                    true => "no operation".to_owned(),
                    false => operations.join(", "),
                }
            );
            let hint = self.change("--ops sign verify");
            return unusable(why, &format!("allow it: {hint}"));
        }
        let version = key.kid.rsplit('/').next().unwrap_or_default();
        if !is_version(version) {
            let expected = "the URL of a key version";
            let error = self.tool.unexpected(expected, key.kid.as_bytes());
            return Err(error.hint(NOT_AZURE));
        }
        let member = |member: &Option<String>| member.clone().unwrap_or_default();
        let public_key = PublicKey::from_jwk(&member(&key.x), &member(&key.y))
            .map_err(|error| self.tool.unusable(&error).hint(NOT_AZURE))?;
        Ok((version.to_owned(), public_key))
    }

    /// How to change what a key may be used for.
    fn change(&self, flags: &str) -> String {
        let key = self.key.shown();
        format!("`az keyvault key set-attributes {key} {flags}`")
    }

    /// # Errors
    /// When there is something of this name, or that cannot be found out.
    fn refuse_existing(&self, doing: &str) -> Result<()> {
        match self.show(doing) {
            Err(error) if error.causes().iter().any(|cause| cause.contains(NOT_FOUND)) => Ok(()),
            // To create what is there already would make another version of it the current one.
            Ok(_) => Err(Error::new(
                ErrorKind::Key,
                format!("there is a key already in {}", self.title),
            )
            .hint("use it as it is, or choose another name")),
            Err(error) => Err(error),
        }
    }

    fn create(&self, doing: &str, protection: Option<&str>) -> Result<KeyReply> {
        let lost = |error: Error| {
            error.hint(format!(
                "the key may have been made all the same: look with `qkey pubkey {}`",
                quote(&self.title)
            ))
        };
        let command = self
            .command("create", None)
            .args(["--kty=EC", "--curve=P-256", "--ops", "sign", "verify"])
            .args(protection.map(|protection| format!("--protection={protection}")));
        let output = command.run().map_err(|failure| {
            let error = self.tool.failed(doing, &failure);
            match failure {
                Failure::Exited { .. } => error,
                _ => lost(error),
            }
        })?;
        self.json(&output, KEY).map_err(lost)
    }
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let azure = Azure::find(source, context, Key::of(source)?)?;
    let (version, public_key) = azure.checked(&azure.show("open")?)?;
    Ok(Opened::Signer(Box::new(AzureSigner {
        azure,
        version,
        public_key,
    })))
}

fn generate(source: &Source, context: &Arc<Context>, _: &Generate) -> Result<Generated> {
    let key = Key::of(source)?;
    let title = source.text();
    if key.version.is_some() {
        let message = format!("a new key cannot be made as {title:?}: it names a version");
        return Err(
            Error::new(ErrorKind::Usage, message).hint("leave the version out: Azure makes one up")
        );
    }
    let doing = "make a key in";
    let azure = Azure::find(source, context, key)?;
    azure.refuse_existing(doing)?;
    let made = azure.create(doing, source.attribute(PROTECTION))?;
    let (version, public_key) = azure
        .checked(&made)
        .map_err(|error| error.context(format!("made {title}, and cannot use it")))?;
    let Key { vault, name, .. } = &azure.key;
    Ok(Generated {
        source: format!("azurekms://{vault}/{name}/{version}"),
        public_key,
    })
}

/// Azure's own are 32 hexadecimal digits.
fn is_version(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric())
}

impl Key {
    /// # Errors
    /// Of kind `usage` when the source names no key.
    fn of(source: &Source) -> Result<Self> {
        let hint = "write azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION, where VAULT is a \
                    name, or a host such as NAME.vault.azure.net or NAME.managedhsm.azure.net";
        let invalid = |why: &str| source.invalid(why).hint(hint);
        if let Some(protection) = source.attribute(PROTECTION)
            && !["software", "hsm"].contains(&protection)
        {
            let why = format!("there is no protection {protection:?}");
            return Err(source.invalid(why).hint("write software or hsm"));
        }
        let path = source
            .body()
            .strip_prefix("//")
            .ok_or_else(|| invalid("two slashes follow azurekms:"))?;
        let parts: Vec<&str> = path.split('/').collect();
        let (vault, name, version) = match parts[..] {
            [vault, name] => (vault, name, None),
            [vault, name, version] => (vault, name, Some(version)),
            _ => return Err(invalid("it is not a vault and a key")),
        };
        let is_label = |text: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
            !text.is_empty() && text.chars().all(allowed)
        };
        if !vault.split('.').all(is_label) || !is_label(name) || !version.is_none_or(is_version) {
            return Err(invalid("no vault, key or version is named like that"));
        }
        Ok(Self {
            vault: vault.to_owned(),
            name: name.to_owned(),
            version: version.map(str::to_owned),
        })
    }

    /// The flags as a user would type them.
    fn shown(&self) -> String {
        let flags = self.flags(self.version.as_deref());
        let flags: Vec<String> = flags.iter().map(|flag| quote(flag)).collect();
        flags.join(" ")
    }

    /// The flags that name the key, or one version of it. To a vault's bare name, az adds the
    /// suffix of the cloud that it is set to.
    fn flags(&self, version: Option<&str>) -> Vec<String> {
        let Self { vault, name, .. } = self;
        let mut flags = match (vault.contains('.'), version) {
            (true, None) => return vec![format!("--id=https://{vault}/keys/{name}")],
            (true, Some(version)) => {
                return vec![format!("--id=https://{vault}/keys/{name}/{version}")];
            }
            (false, _) => vec![format!("--vault-name={vault}"), format!("--name={name}")],
        };
        flags.extend(version.map(|version| format!("--version={version}")));
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Key> {
        Key::of(&crate::signer::registry::parse(text).expect("the grammar of key sources"))
    }

    #[test]
    fn a_key_is_named_by_its_vault_and_perhaps_a_version() {
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
            let key = parse(text).expect(text);
            assert_eq!(key.flags(key.version.as_deref()).join(" "), flags);
        }
    }

    #[test]
    fn what_names_no_key_is_refused() {
        for (text, why) in [
            ("azurekms:v/k", "two slashes"),
            ("azurekms://v", "not a vault and a key"),
            ("azurekms://v/k/1/2", "not a vault and a key"),
            (
                "azurekms://v.vault.azure.net/keys/k/1",
                "not a vault and a key",
            ),
            ("azurekms:///v/k", "named like that"),
            ("azurekms://v/", "named like that"),
            ("azurekms://v/k/", "named like that"),
            ("azurekms://v..net/k", "named like that"),
            ("azurekms://v:443/k", "named like that"),
            ("azurekms://u@v.net/k", "named like that"),
            ("azurekms://v/a%20b", "named like that"),
            ("azurekms://v/k/1-2", "named like that"),
            ("azurekms://v/k?protection=tpm", "no protection \"tpm\""),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }
}
