//! What the commands on keys and on the configuration print.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;

use crate::{
    cluster::{self, Usage},
    format::{Color, Format},
    public_key,
    settings::{Setting, Via},
};

/// A key that the cluster holds.
#[derive(Serialize, JsonSchema)]
pub struct StoredKey<'a> {
    /// The cluster's id for it, in digits.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its comment.
    pub comment: &'a str,
    /// Whether it is disabled.
    pub disabled: bool,
    /// The public key as the cluster returns it: Base64 of the DER SubjectPublicKeyInfo.
    pub public_key: &'a str,
    /// `SHA256:…`, as OpenSSH shows it; `null` if it is not a P-256 key.
    pub fingerprint: Option<String>,
}

impl<'a> From<&'a cluster::StoredKey> for StoredKey<'a> {
    fn from(key: &'a cluster::StoredKey) -> Self {
        Self {
            id: &key.id,
            name: &key.name,
            comment: &key.comment,
            disabled: key.disabled,
            public_key: &key.public_key,
            fingerprint: key.public_key().ok().map(|key| key.fingerprint()),
        }
    }
}

/// A stored key, with the configured key that matches it.
#[derive(Serialize, JsonSchema)]
pub struct ListedKey<'a> {
    /// The stored key.
    #[serde(flatten)]
    pub key: StoredKey<'a>,
    /// The name of the configured key with the same public half.
    pub configured_key: Option<&'a str>,
}

/// A stored key, with what it protects.
#[derive(Serialize, JsonSchema)]
pub struct KeyUsages<'a> {
    /// The stored key.
    #[serde(flatten)]
    pub key: StoredKey<'a>,
    /// What it protects.
    pub usages: UsageList<'a>,
}

/// What a key protects.
#[derive(Serialize)]
#[serde(transparent)]
pub struct UsageList<'a>(pub &'a [Usage]);

/// One object that a key protects.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "it describes the fields of `cluster::Usage`")]
struct UsageFields {
    /// What it is, such as `snapshot`.
    #[schemars(rename = "type")]
    kind: String,
    /// Its id.
    id: String,
}

impl JsonSchema for UsageList<'_> {
    fn schema_name() -> Cow<'static, str> {
        "UsageList".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<UsageFields>::json_schema(generator)
    }
}

/// `qkey keys list`, `qkey keys usage`.
#[derive(Serialize, JsonSchema)]
pub struct Keys<T> {
    /// The stored keys, in the cluster's order.
    pub keys: T,
}

/// `qkey keys show`.
#[derive(Serialize, JsonSchema)]
pub struct Key<'a> {
    /// The stored key.
    pub key: ListedKey<'a>,
}

/// The public half of a key.
#[derive(Serialize, JsonSchema)]
pub struct PublicKey {
    /// Base64 of the DER SubjectPublicKeyInfo, padded, on one line.
    pub public_key: String,
    /// `SHA256:…`, as OpenSSH shows it.
    pub fingerprint: String,
}

impl From<&public_key::PublicKey> for PublicKey {
    fn from(key: &public_key::PublicKey) -> Self {
        Self {
            public_key: key.to_base64(),
            fingerprint: key.fingerprint(),
        }
    }
}

/// `qkey pubkey`.
#[derive(Serialize, JsonSchema)]
pub struct Encodings {
    /// The public key.
    #[serde(flatten)]
    pub key: PublicKey,
    /// PEM, with label PUBLIC KEY.
    pub pem: String,
    /// One line, as in authorized_keys.
    pub openssh: String,
}

/// `qkey sign`.
#[derive(Serialize, JsonSchema)]
pub struct Signed {
    /// The key that signed.
    #[serde(flatten)]
    pub key: PublicKey,
    /// Base64 of the DER signature.
    pub signature: String,
    /// The DER signature in hexadecimal.
    pub signature_hex: String,
}

/// `qkey verify`.
#[derive(Serialize, JsonSchema)]
pub struct Verified {
    /// The key that made the signature.
    #[serde(flatten)]
    pub key: PublicKey,
    /// Always true: otherwise, there is an error.
    pub verified: bool,
    /// Base64 of the DER signature.
    pub signature: String,
}

/// `qkey generate`.
#[derive(Serialize, JsonSchema)]
pub struct Generated<'a> {
    /// `generate`.
    pub action: &'static str,
    /// The key source to use from now on.
    pub source: &'a str,
    /// The public key.
    #[serde(flatten)]
    pub key: PublicKey,
}

/// `qkey config init`.
#[derive(Serialize, JsonSchema)]
pub struct ConfigFile<'a> {
    /// `config init`.
    pub action: &'static str,
    /// The file that was created.
    pub file: Cow<'a, str>,
}

/// `qkey config show`.
#[derive(Serialize, JsonSchema)]
pub struct Config<'a> {
    /// The configuration file, if it exists.
    pub file: Option<Cow<'a, str>>,
    /// The settings in force, by name.
    pub settings: Settings<'a>,
    /// The configured keys, by name.
    pub keys: BTreeMap<&'a str, ConfiguredKey>,
}

/// The settings in force.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Settings<'a> {
    /// Name of the cluster in the configuration file.
    pub cluster: &'a Setting<Option<String>>,
    /// Host name or address of the cluster.
    pub host: &'a Setting<Option<String>>,
    /// Port of the REST API.
    pub port: &'a Setting<u16>,
    /// File with the cluster's credentials.
    pub credentials_store: Setting<Option<Cow<'a, str>>>,
    /// Where the token comes from: `$VARIABLE` or a path; never the token itself.
    pub token: Setting<Option<Cow<'a, str>>>,
    /// Which certificate is trusted.
    pub trust: Setting<String>,
    /// The qq program.
    pub qq: Setting<Cow<'a, str>>,
    /// `qq` or `rest`.
    #[schemars(with = "Setting<String>")]
    pub via: &'a Setting<Via>,
    /// Seconds for each call to the cluster.
    pub timeout: Setting<u64>,
    /// `text` or `json`.
    #[schemars(with = "Setting<String>")]
    pub output: &'a Setting<Format>,
    /// `auto`, `always` or `never`.
    #[schemars(with = "Setting<String>")]
    pub color: &'a Setting<Color>,
    /// Whether prompts are forbidden.
    pub no_input: &'a Setting<bool>,
}

impl Settings<'_> {
    /// Name, value and origin of each setting, in order.
    pub fn rows(&self) -> Vec<[String; 3]> {
        let settings = serde_json::to_value(self).expect("a struct serializes");
        let shown = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let rows = settings.as_object().into_iter().flatten();
        rows.map(|(name, setting)| {
            let (value, origin) = (&setting["value"], &setting["origin"]);
            [name.clone(), shown(value), shown(origin)]
        })
        .collect()
    }
}

/// A key of the configuration file.
#[derive(Serialize, JsonSchema)]
pub struct ConfiguredKey {
    /// Its key source, without secrets.
    pub source: String,
}

/// The schemas of all objects in this module.
pub fn schemas(generator: &mut SchemaGenerator) -> Vec<Schema> {
    vec![
        generator.subschema_for::<Keys<Vec<ListedKey<'_>>>>(),
        generator.subschema_for::<Keys<Vec<KeyUsages<'_>>>>(),
        generator.subschema_for::<Key<'_>>(),
        generator.subschema_for::<Encodings>(),
        generator.subschema_for::<Signed>(),
        generator.subschema_for::<Verified>(),
        generator.subschema_for::<Generated<'_>>(),
        generator.subschema_for::<ConfigFile<'_>>(),
        generator.subschema_for::<Config<'_>>(),
    ]
}
