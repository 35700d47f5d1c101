//! Google Cloud KMS, through the program `gcloud`.
//!
//! Names of keys, states and algorithms: Cloud KMS API, `CryptoKeyVersion`; the flags: gcloud
//! reference, `gcloud kms`. `gcloud` checks the CRC32C of what it sends and gets when it signs,
//! and nothing of a public key.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    Context, Opened, Signer,
    source::{Body, Generate, Generated, Source, SourceKind, no_path},
    tool::{Hints, Tool},
};
use crate::{
    error::{Error, Kind as ErrorKind, Reason, Result},
    public_key::{self, PublicKey},
    signature::Signature,
    subprocess::Command,
    text::quote,
};

pub static KIND: SourceKind = SourceKind {
    scheme: "gcpkms",
    form: FORM,
    body: Body::Text,
    attributes: &[CONFIGURATION, IMPERSONATE, PROTECTION],
    confidential: &[],
    path_in: no_path,
    secret: None,
    open,
    generate: Some(generate),
};

const FORM: &str = "gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V";

const CONFIGURATION: &str = "configuration";
const IMPERSONATE: &str = "impersonate-service-account";
const PROTECTION: &str = "protection-level";

const INSTALL: &str = "install the Google Cloud CLI: the package google-cloud-cli from Google's \
                       repository, or see https://cloud.google.com/sdk/docs/install";

const ALGORITHM: &str = "EC_SIGN_P256_SHA256";

/// What to do about a key that does not serve.
const MAKE_ONE: &str = "`qkey generate gcpkms://…/cryptoKeys/NAME` makes a key that serves";

const NOT_KMS: &str = "try again; what answers may not be Cloud KMS: check the proxy";

/// A version that is still being made; a signer in hardware takes some seconds.
const PENDING: &str = "PENDING_GENERATION";

/// How often a version that is being made is asked for.
const POLL: Duration = Duration::from_secs(1);

const LOG_IN: &str = "log in: `gcloud auth login`, or choose an account with `gcloud config set \
                      account`, CLOUDSDK_CORE_ACCOUNT or the attribute configuration";
const REACH: &str = "gcloud tries for half a minute before it gives up: check the network and the \
                     proxy, or give it longer with --timeout SECONDS";
const DAMAGED: &str = "something on the way damages what is sent: check the proxy, and try again";

const HINTS: Hints = &[
    (
        "SERVICE_DISABLED",
        None,
        "enable Cloud KMS in the project: `gcloud services enable cloudkms.googleapis.com`",
    ),
    (
        "cloudkms.cryptoKeys.create",
        Some(Reason::Denied),
        "the key ring needs a binding of the role roles/cloudkms.admin for you: `gcloud kms \
         keyrings add-iam-policy-binding` gives it; `gcloud auth list` shows who you are",
    ),
    (
        "cloudkms.cryptoKeyVersions.list",
        Some(Reason::Denied),
        "name the version in the key source, or get the role roles/cloudkms.viewer as well; \
         `gcloud auth list` shows who you are",
    ),
    (
        "PERMISSION_DENIED",
        Some(Reason::Denied),
        "the key needs a binding of the role roles/cloudkms.signerVerifier for you: `gcloud kms \
         keys add-iam-policy-binding` gives it; `gcloud auth list` shows who you are",
    ),
    ("UNAUTHENTICATED", Some(Reason::LoggedOut), LOG_IN),
    ("active account", Some(Reason::LoggedOut), LOG_IN),
    ("Reauthentication", Some(Reason::LoggedOut), LOG_IN),
    ("refreshing", Some(Reason::LoggedOut), LOG_IN),
    (
        "NOT_FOUND",
        None,
        "check project, location, key ring, key and version: `gcloud kms keys versions list` shows \
         the versions of a key",
    ),
    (
        "ALREADY_EXISTS",
        None,
        "use the key that is there, or choose another name",
    ),
    (
        PENDING,
        None,
        "it is still being made: try again in a few seconds",
    ),
    (
        "FAILED_PRECONDITION",
        None,
        "see what state it is in: `gcloud kms keys versions describe {key}`; `gcloud kms keys \
         versions enable {key}` enables a disabled one",
    ),
    (
        "INVALID_ARGUMENT",
        None,
        "take a key whose purpose is asymmetric-signing and whose algorithm is \
         ec-sign-p256-sha256: `qkey generate gcpkms://…/cryptoKeys/NAME` makes one",
    ),
    (
        "RESOURCE_EXHAUSTED",
        None,
        "gcloud has tried it several times over; try again later",
    ),
    ("corrupted in-transit", None, DAMAGED),
    ("Found a mismatch between", None, DAMAGED),
    ("gcloud crashed", None, REACH),
    ("did not finish within", None, REACH),
];

/// `gcloud`, and the flags that say who it is to be.
struct Gcloud {
    title: String,
    tool: Tool,
    options: Vec<String>,
}

struct GcpSigner {
    gcloud: Gcloud,
    version: String,
    public_key: PublicKey,
}

/// The full resource name of a key, and the version that the source names.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    key: String,
    version: Option<String>,
}

/// A version as `gcloud kms keys versions list` shows it.
#[derive(Deserialize)]
struct Version {
    /// The full resource name.
    name: String,
    state: String,
    algorithm: Option<String>,
}

impl Signer for GcpSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        // In spite of its help, the signature comes as it is, not in Base64.
        let command = self
            .gcloud
            .command(&["asymmetric-sign"])
            .arg(format!("--version={}", self.version))
            .args([
                "--digest-algorithm=sha256",
                "--input-file=/dev/stdin",
                "--signature-file=-",
            ])
            .stdin(challenge);
        let output = self.gcloud.tool.run("sign with", &command)?;
        Signature::from_der(&output.stdout).map_err(|_| {
            self.gcloud
                .tool
                .not_a_signature("ASN.1 DER", &output.stdout)
        })
    }
}

impl Gcloud {
    /// `name` is what hints name: a key, or a version of it.
    fn find(source: &Source, context: &Context, name: &str) -> Result<Self> {
        let options: Vec<String> = [CONFIGURATION, IMPERSONATE]
            .into_iter()
            .filter_map(|flag| Some(format!("--{flag}={}", source.attribute(flag)?)))
            .collect();
        let named: Vec<String> = std::iter::once(name)
            .chain(options.iter().map(String::as_str))
            .map(quote)
            .collect();
        let title = source.text();
        Ok(Self {
            tool: Tool::find(title, &["gcloud"], INSTALL, context.timeout, HINTS)?
                .naming_key(named.join(" ")),
            title: title.to_owned(),
            options,
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        self.tool
            .command()
            .arg("kms")
            .args(words)
            .args(&self.options)
            .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
            .env("CLOUDSDK_CORE_DISABLE_COLOR", "1")
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "1")
            .env("CLOUDSDK_CORE_USER_OUTPUT_ENABLED", "1")
            .env("CLOUDSDK_SURVEY_DISABLE_PROMPTS", "1")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "1")
    }

    fn public_key(&self, version: &str) -> Result<PublicKey> {
        let command = self.command(&["keys", "versions", "get-public-key", version]);
        let output = self.tool.run("open", &command)?;
        let unexpected = || {
            let error = self.tool.unexpected("a public key in PEM", &output.stdout);
            error.hint(NOT_KMS)
        };
        let pem = str::from_utf8(&output.stdout).map_err(|_| unexpected())?;
        PublicKey::from_pem(pem).map_err(|error| match error {
            public_key::Error::NotPem => unexpected(),
            error @ public_key::Error::NotP256(_) => self.tool.unusable(&error).hint(MAKE_ONE),
            error => self.tool.unusable(&error).hint(NOT_KMS),
        })
    }

    /// The one version of a key that is enabled.
    ///
    /// # Errors
    /// When there are none or several, or it is not for ECDSA over P-256 and SHA-256.
    fn only_version(&self, key: &str) -> Result<String> {
        let command = self
            .command(&["keys", "versions", "list", "--format=json"])
            .arg(format!("--key={key}"));
        let output = self.tool.run("open", &command)?;
        let versions: Vec<Version> = self.tool.json(&output, "a JSON list of versions")?;
        let enabled: Vec<&Version> = versions
            .iter()
            .filter(|version| version.state == "ENABLED")
            .collect();
        let cannot_use = |why: String| {
            Error::new(ErrorKind::Key, why).context(format!("cannot use {}", self.title))
        };
        let [version] = enabled[..] else {
            let hint = match enabled.is_empty() {
                true => "enable a version, or make another key: `qkey generate gcpkms://…`",
                false => "add /cryptoKeyVersions/NUMBER to the key source",
            };
            return Err(cannot_use(format!(
                "one enabled version is needed where none is named, and there are: {}",
                list(&versions)
            ))
            .hint(hint));
        };
        match version.algorithm.as_deref() {
            None | Some(ALGORITHM) => {
                // What gcloud answers goes back to it as an argument.
                let number = version
                    .name
                    .strip_prefix(key)
                    .and_then(|rest| rest.strip_prefix("/cryptoKeyVersions/"));
                match number {
                    Some(number) if number.parse::<u64>().is_ok() => Ok(version.name.clone()),
                    _ => Err(self
                        .tool
                        .unexpected("versions of the key", version.name.as_bytes())),
                }
            }
            Some(other) => Err(cannot_use(format!(
                "its algorithm is {other}, and {ALGORITHM} is needed"
            ))
            .hint(MAKE_ONE)),
        }
    }

    /// The public half of a version that was just made.
    fn new_public_key(&self, version: &str, deadline: Instant) -> Result<PublicKey> {
        loop {
            match self.public_key(version) {
                Err(error) if is_pending(&error) && Instant::now() < deadline => {
                    thread::sleep(POLL);
                }
                result => return result,
            }
        }
    }
}

fn is_pending(error: &Error) -> bool {
    error.causes().iter().any(|cause| cause.contains(PENDING))
}

/// Versions with their states, as in "1 DISABLED, 2 ENABLED".
fn list(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "none at all".to_owned();
    }
    let shown: Vec<String> = versions
        .iter()
        .map(|version| {
            let number = version.name.rsplit('/').next().unwrap_or_default();
            format!("{number} {}", version.state)
        })
        .collect();
    shown.join(", ")
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let name = Name::of(source)?;
    let gcloud = Gcloud::find(source, context, &name.to_string())?;
    let version = match name.version {
        Some(_) => name.to_string(),
        None => gcloud.only_version(&name.key)?,
    };
    let public_key = gcloud.public_key(&version)?;
    Ok(Opened::Signer(Box::new(GcpSigner {
        gcloud,
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
            .hint("leave /cryptoKeyVersions/… out: a new key begins with version 1"));
    }
    let level = source.attribute(PROTECTION).unwrap_or("software");
    let gcloud = Gcloud::find(source, context, &name.key)?;
    let command = gcloud
        .command(&["keys", "create", &name.key])
        .args([
            "--purpose=asymmetric-signing",
            "--default-algorithm=ec-sign-p256-sha256",
        ])
        .arg(format!("--protection-level={level}"));
    gcloud.tool.run("make a key in", &command)?;
    let first = Name {
        version: Some("1".to_owned()),
        ..name
    };
    let uri = first.uri(source);
    let public_key = gcloud
        .new_public_key(&first.to_string(), Instant::now() + context.timeout)
        .map_err(|error| {
            error
                .context(format!("made {title}, and cannot yet read its public half"))
                .hint(format!("ask for it later: `qkey pubkey {}`", quote(&uri)))
        })?;
    Ok(Generated {
        source: uri,
        public_key,
    })
}

impl Name {
    /// # Errors
    /// Of kind `usage` when the source names no key.
    fn of(source: &Source) -> Result<Self> {
        let invalid = |why: &str, hint: String| source.invalid(why).hint(hint);
        let form = || format!("write {FORM}; the version may be left out where one is enabled");
        if let Some(level) = source.attribute(PROTECTION)
            && !["software", "hsm"].contains(&level)
        {
            let why = format!("there is no protection level {level:?}");
            return Err(invalid(&why, "write software or hsm".to_owned()));
        }
        let path = source
            .body()
            .strip_prefix("//")
            .ok_or_else(|| invalid("two slashes follow gcpkms:", form()))?;
        let parts: Vec<&str> = path.split('/').collect();
        let (key, version) = match parts[..] {
            [
                "projects",
                p,
                "locations",
                l,
                "keyRings",
                r,
                "cryptoKeys",
                k,
            ] => ([p, l, r, k], None),
            [
                "projects",
                p,
                "locations",
                l,
                "keyRings",
                r,
                "cryptoKeys",
                k,
                "cryptoKeyVersions",
                v,
            ] => ([p, l, r, k], Some(v)),
            _ => return Err(invalid("it is not the name of a key", form())),
        };
        // A project that belongs to a domain is written example.com:NAME.
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        let is_name = |part: &str| !part.is_empty() && part.chars().all(allowed);
        let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
        if !key.into_iter().all(is_name) || !version.is_none_or(is_number) {
            return Err(invalid("no key or version is named like that", form()));
        }
        let [project, location, ring, key] = key;
        Ok(Self {
            key: format!(
                "projects/{project}/locations/{location}/keyRings/{ring}/cryptoKeys/{key}"
            ),
            version: version.map(str::to_owned),
        })
    }

    /// The source that names it, with the attributes that `source` was written with, less the one
    /// that says how a new key is made.
    fn uri(&self, source: &Source) -> String {
        let query = source.text().split_once('?').map_or("", |(_, query)| query);
        let kept: Vec<&str> = query
            .split('&')
            .filter(|attribute| {
                let name = attribute.split('=').next();
                !attribute.is_empty() && name != Some(PROTECTION)
            })
            .collect();
        match kept.is_empty() {
            true => format!("gcpkms://{self}"),
            false => format!("gcpkms://{self}?{}", kept.join("&")),
        }
    }
}

/// The full resource name.
impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.key)?;
        match &self.version {
            Some(version) => write!(f, "/cryptoKeyVersions/{version}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k_1";

    fn parse(text: &str) -> Result<Name> {
        Name::of(&crate::signer::registry::parse(text).expect("the grammar of key sources"))
    }

    #[test]
    fn a_key_is_named_in_full_with_or_without_a_version() {
        for (text, key, version) in [
            (format!("gcpkms://{KEY}"), KEY, None),
            (
                format!("gcpkms://{KEY}/cryptoKeyVersions/12?protection-level=hsm"),
                KEY,
                Some("12"),
            ),
            (
                "gcpkms://projects/example.com:p/locations/l/keyRings/r/cryptoKeys/k".to_owned(),
                "projects/example.com:p/locations/l/keyRings/r/cryptoKeys/k",
                None,
            ),
        ] {
            let name = parse(&text).expect(&text);
            assert_eq!((name.key.as_str(), name.version.as_deref()), (key, version));
        }
    }

    #[test]
    fn what_names_no_key_is_refused() {
        for (text, why) in [
            (format!("gcpkms:{KEY}"), "two slashes"),
            (format!("gcpkms:///{KEY}"), "not the name of a key"),
            (format!("gcpkms://{KEY}/"), "not the name of a key"),
            (
                format!("gcpkms://{KEY}/versions/1"),
                "not the name of a key",
            ),
            (
                format!("gcpkms://{KEY}/cryptoKeyVersions/"),
                "named like that",
            ),
            (
                format!("gcpkms://{KEY}/cryptoKeyVersions/latest"),
                "named like that",
            ),
            (format!("gcpkms://{KEY}%20x"), "named like that"),
            (
                format!("gcpkms://{KEY}?protection-level=external"),
                "no protection level \"external\"",
            ),
        ] {
            let error = parse(&text).expect_err(&text);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_new_keys_source_keeps_the_attributes_but_the_protection_level() {
        for (query, kept) in [
            ("", ""),
            ("?protection-level=hsm", ""),
            (
                "?configuration=a%26b&protection-level=hsm&impersonate-service-account=x%40y",
                "?configuration=a%26b&impersonate-service-account=x%40y",
            ),
        ] {
            let source = crate::signer::registry::parse(&format!("gcpkms://{KEY}{query}"))
                .expect("a source");
            let name = Name::of(&source).expect("a name");
            assert_eq!(name.uri(&source), format!("gcpkms://{KEY}{kept}"));
        }
    }
}
