//! Google Cloud KMS, through the program `gcloud`.
//!
//! Names of keys, states and algorithms: Cloud KMS API, `CryptoKeyVersion`. Flags: gcloud reference,
//! `gcloud kms`. When signing, `gcloud` checks the CRC32C of what it sends and receives; it does not
//! check that of a public key.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    Context, Opened,
    source::{Generate, Generated, Source, SourceKind},
    tool::{self, Table, Tool, Vendor, cannot_create, table},
};
use crate::{
    error::Result,
    public_key::PublicKey,
    signature::Signature,
    subprocess::{Command, Failure},
    text::quote,
};

pub static KIND: SourceKind = SourceKind {
    attributes: &[CONFIGURATION, IMPERSONATE, PROTECTION],
    generate: Some(generate),
    ..SourceKind::new("gcpkms", FORM, open)
};

const FORM: &str = "gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V";

/// The segments before each name in a full resource name.
const SEGMENTS: [&str; 5] = [
    "projects",
    "locations",
    "keyRings",
    "cryptoKeys",
    "cryptoKeyVersions",
];

const CONFIGURATION: &str = "configuration";
const IMPERSONATE: &str = "impersonate-service-account";
const PROTECTION: &str = "protection-level";

const INSTALL: &str = "install the Google Cloud CLI: the package google-cloud-cli from Google's \
                       repository, or see https://cloud.google.com/sdk/docs/install";

const ALGORITHM: &str = "EC_SIGN_P256_SHA256";

/// The poll interval for a version that is still being generated; a key in hardware takes seconds.
const POLL: Duration = Duration::from_secs(1);

static GCLOUD: Vendor = Vendor {
    table: TABLE,
    timed_out: REACH,
    unfit: "create a key that fits: `qkey generate gcpkms://…/cryptoKeys/NAME`",
    stranger: "try again; if it persists, the server may not be Cloud KMS: check the proxy",
};

const REACH: &str = "check the network and the proxy; gcloud retries for half a minute, so it may need \
                     a higher --timeout SECONDS";

/// Matches a status of the service and the start of its message.
macro_rules! status {
    ($status:literal) => {
        concat!(r"^ERROR: \(gcloud\.[\w.-]+\) ", $status)
    };
}

/// What `gcloud` says of a version that is still being generated.
const PENDING: &str = status!("FAILED_PRECONDITION: .*PENDING_GENERATION");

const TABLE: Table = table! {
    r"^\s*(- )?reason: SERVICE_DISABLED$" => Disabled,
        "enable Cloud KMS in the project: `gcloud services enable cloudkms.googleapis.com`";
    status!(r"PERMISSION_DENIED: .*cloudkms\.cryptoKeys\.create") => Denied,
        "you need the role roles/cloudkms.admin on the key ring: `gcloud kms keyrings \
         add-iam-policy-binding` grants it; `gcloud auth list` shows who you are";
    status!(r"PERMISSION_DENIED: .*cloudkms\.cryptoKeyVersions\.list") => Denied,
        "name the version in the key source, or get the role roles/cloudkms.viewer as well; \
         `gcloud auth list` shows who you are";
    status!("PERMISSION_DENIED: ") => Denied,
        "you need the role roles/cloudkms.signerVerifier on the key: `gcloud kms keys \
         add-iam-policy-binding` grants it; `gcloud auth list` shows who you are";
    status!("(UNAUTHENTICATED: |You do not currently have an active account|Reauthentication |\
             There was a problem (refreshing|reauthenticating) )") => LoggedOut,
        "log in: `gcloud auth login`, or choose an account with `gcloud config set account`, \
         CLOUDSDK_CORE_ACCOUNT or the attribute configuration; gcloud ignores \
         GOOGLE_APPLICATION_CREDENTIALS";
    status!("NOT_FOUND: ") => NotFound,
        "check the project, location, key ring, key and version: `gcloud kms keys versions list` \
         lists the versions of a key";
    status!("ALREADY_EXISTS: ") => _, "use that key, or choose another name";
    PENDING => Disabled, "the version is still being generated: try again in a few seconds";
    status!("FAILED_PRECONDITION: ") => Disabled,
        "check the version's state: `gcloud kms keys versions describe {key}`; to enable a \
         disabled version, run `gcloud kms keys versions enable {key}`";
    status!("INVALID_ARGUMENT: ") => Unsupported,
        "use a key with the purpose asymmetric-signing and the algorithm ec-sign-p256-sha256: \
         `qkey generate gcpkms://…/cryptoKeys/NAME` creates one";
    status!("RESOURCE_EXHAUSTED: ") => Throttled, "try again later";
    status!("(.* corrupted in-transit|Found a mismatch between )") => _,
        "data was damaged in transit: check the proxy, and try again";
    r"^ERROR: gcloud crashed \(" => Unreachable, REACH;
};

/// `gcloud`, and the flags that select its identity.
struct Gcloud {
    tool: Tool,
    options: Vec<String>,
}

/// The full resource name of a key, and the version that the source names.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    key: String,
    version: Option<String>,
}

/// A version in the reply to `gcloud kms keys versions list`.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Version {
    /// The full resource name.
    name: String,
    state: String,
    algorithm: Option<String>,
}

impl Gcloud {
    /// `name` is the key, or the version of it, that hints mention.
    fn find(source: &Source, context: &Context, name: &str) -> Result<Self> {
        let options: Vec<String> = [CONFIGURATION, IMPERSONATE]
            .into_iter()
            .filter_map(|flag| Some(format!("--{flag}={}", source.attribute(flag)?)))
            .collect();
        let tool = Tool::find(&GCLOUD, &["gcloud"], INSTALL, source, context)?;
        let words = std::iter::once(name).chain(options.iter().map(String::as_str));
        Ok(Self {
            tool: tool.naming_key(words),
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

    /// The public key of a version; one that is still being generated is polled until the deadline.
    fn public_key(&self, version: &str, deadline: Instant) -> Result<PublicKey> {
        let command = self.command(&["keys", "versions", "get-public-key", version]);
        loop {
            match command.run() {
                Ok(output) => return self.tool.public_key_pem(&output),
                Err(failure) if is_pending(&failure) && Instant::now() < deadline => {
                    thread::sleep(POLL);
                }
                Err(failure) => return Err(self.tool.failed("open", &failure)),
            }
        }
    }

    /// The only enabled version of a key.
    ///
    /// # Errors
    /// When none or several are enabled, or it does not sign ECDSA P-256 with SHA-256.
    fn only_version(&self, key: &str) -> Result<String> {
        let command = self
            .command(&["keys", "versions", "list", "--format=json"])
            .arg(format!("--key={key}"));
        let expected = "a JSON list of versions";
        let versions: Vec<Version> = self.tool.call("open", &command, expected)?;
        let enabled: Vec<&Version> = versions
            .iter()
            .filter(|version| version.state == "ENABLED")
            .collect();
        let [version] = enabled[..] else {
            let hint = if enabled.is_empty() {
                "enable a version, or create another key: `qkey generate gcpkms://…`"
            } else {
                "add /cryptoKeyVersions/NUMBER to the key source"
            };
            let why = format!(
                "without a version in the key source, exactly one must be enabled; found: {}",
                list(&versions)
            );
            return Err(self.tool.unfit(why).hint(hint));
        };
        let algorithm = version.algorithm.as_deref();
        self.tool.expect("algorithm", algorithm, &[ALGORITHM])?;
        // The name goes back to gcloud as an argument.
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

    fn sign(&self, version: &str, challenge: &[u8]) -> Result<Signature> {
        // Despite its help text, gcloud writes the signature as raw DER, not as Base64.
        let command = self
            .command(&["asymmetric-sign"])
            .arg(format!("--version={version}"))
            .args([
                "--digest-algorithm=sha256",
                "--input-file=/dev/stdin",
                "--signature-file=-",
            ])
            .stdin(challenge);
        let signature = self.tool.run("sign with", &command)?.stdout;
        self.tool
            .signature(signature.as_slice(), Signature::from_der, "ASN.1 DER")
    }
}

fn is_pending(failure: &Failure) -> bool {
    let row = GCLOUD.classify(failure);
    row.is_some_and(|row| row.pattern == PENDING)
}

/// Versions with their states, as in "1 DISABLED, 2 ENABLED".
fn list(versions: &[Version]) -> String {
    let shown = versions.iter().map(|version| {
        let number = version.name.rsplit('/').next().unwrap_or_default();
        format!("{number} {}", version.state)
    });
    if versions.is_empty() {
        "no versions".to_owned()
    } else {
        shown.collect::<Vec<_>>().join(", ")
    }
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let name = Name::of(source)?;
    let gcloud = Gcloud::find(source, context, &name.to_string())?;
    let version = match name.version {
        Some(_) => name.to_string(),
        None => gcloud.only_version(&name.key)?,
    };
    let public_key = gcloud.public_key(&version, Instant::now())?;
    Ok(tool::opened(public_key, move |challenge| {
        gcloud.sign(&version, challenge)
    }))
}

fn generate(source: &Source, context: &Arc<Context>, _: &Generate) -> Result<Generated> {
    let name = Name::of(source)?;
    if name.version.is_some() {
        let hint = "leave /cryptoKeyVersions/… out: a new key starts with version 1";
        return Err(cannot_create(source, tool::NAMES_VERSION, hint));
    }
    let level = source.attribute(PROTECTION).unwrap_or("software");
    let gcloud = Gcloud::find(source, context, &name.key)?;
    // This fails by itself if the key exists.
    let command = gcloud
        .command(&["keys", "create", &name.key])
        .args([
            "--purpose=asymmetric-signing",
            "--default-algorithm=ec-sign-p256-sha256",
        ])
        .arg(format!("--protection-level={level}"));
    let tool = &gcloud.tool;
    tool.create(&command, &tool.look(), |_| Ok(()))?;
    let first = Name {
        version: Some("1".to_owned()),
        ..name
    };
    // The protection level matters only for a new key.
    let uri = source.rewritten(&format!("gcpkms://{first}"), PROTECTION);
    let public_key = gcloud
        .public_key(&first.to_string(), Instant::now() + context.timeout)
        .map_err(|error| {
            let hint = format!("try again later: `qkey pubkey {}`", quote(&uri));
            tool.created(error).hint(hint)
        })?;
    Ok(Generated {
        source: uri,
        public_key,
    })
}

impl Name {
    /// # Errors
    /// Of kind `usage` when the source does not name a key.
    fn of(source: &Source) -> Result<Self> {
        let form = format!("write {FORM}; the version is optional if exactly one is enabled");
        let invalid = |why: &str| source.invalid(why).hint(&form);
        if let Some(level) = source.attribute(PROTECTION)
            && !["software", "hsm"].contains(&level)
        {
            let why = format!("unknown protection level {level:?}");
            return Err(source.invalid(why).hint("write software or hsm"));
        }
        let path = source
            .body()
            .strip_prefix("//")
            .ok_or_else(|| invalid("gcpkms: must be followed by two slashes"))?;
        let parts: Vec<&str> = path.split('/').collect();
        let (kinds, names): (Vec<&str>, Vec<&str>) = parts
            .chunks(2)
            .map(|pair| (pair[0], pair[pair.len() - 1]))
            .unzip();
        let has_version = parts.len() == 10;
        if !(parts.len() == 8 || has_version) || kinds != SEGMENTS[..kinds.len()] {
            return Err(invalid("it does not name a key"));
        }
        // A domain-scoped project is written example.com:NAME.
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        let is_name = |part: &&str| !part.is_empty() && part.chars().all(allowed);
        let is_number = |part: &&str| part.chars().all(|c| c.is_ascii_digit());
        if !names.iter().all(is_name) || !names.iter().skip(4).all(is_number) {
            return Err(invalid("it contains an invalid name or version"));
        }
        Ok(Self {
            key: parts[..8].join("/"),
            version: has_version.then(|| parts[9].to_owned()),
        })
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
    use crate::signer::tool::tests::{assert_classifies, assert_malformed, source};

    const KEY: &str = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k_1";

    #[test]
    fn parse_full_name_with_and_without_version() {
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
            let name = Name::of(&source(&text)).expect(&text);
            assert_eq!((name.key.as_str(), name.version.as_deref()), (key, version));
        }
    }

    #[test]
    fn malformed_sources_are_usage_errors() {
        let sources = [
            (format!("gcpkms:{KEY}"), "two slashes"),
            (format!("gcpkms:///{KEY}"), "does not name a key"),
            (format!("gcpkms://{KEY}/"), "does not name a key"),
            (format!("gcpkms://{KEY}/versions/1"), "does not name a key"),
            (format!("gcpkms://{KEY}/cryptoKeyVersions/"), "invalid name"),
            (
                format!("gcpkms://{KEY}/cryptoKeyVersions/latest"),
                "invalid name",
            ),
            (format!("gcpkms://{KEY}%20x"), "invalid name"),
            (
                format!("gcpkms://{KEY}?protection-level=external"),
                "unknown protection level \"external\"",
            ),
        ];
        let sources: Vec<(&str, &str)> = sources
            .iter()
            .map(|(text, why)| (text.as_str(), *why))
            .collect();
        assert_malformed(Name::of, &sources);
    }

    #[test]
    fn source_of_a_new_key_drops_only_the_protection_level() {
        for (query, kept) in [
            ("", ""),
            ("?protection-level=hsm", ""),
            (
                "?configuration=a%26b&protection-level=hsm&impersonate-service-account=x%40y",
                "?configuration=a%26b&impersonate-service-account=x%40y",
            ),
        ] {
            let source = source(&format!("gcpkms://{KEY}{query}"));
            let uri = source.rewritten("gcpkms://x", PROTECTION);
            assert_eq!(uri, format!("gcpkms://x{kept}"));
        }
    }

    #[test]
    fn table_classifies_real_output_of_gcloud() {
        let error = |words: &str| format!("ERROR: (gcloud.kms.keys.versions.list) {words}\n");
        let samples: &[&[&str]] = &[
            &[
                "ERROR: (gcloud.kms.keys.versions.get-public-key) PERMISSION_DENIED: Cloud Key \
                 Management Service (KMS) API has not been used in project 1 before or it is \
                 disabled.\n- '@type': type.googleapis.com/google.rpc.ErrorInfo\n  domain: \
                 googleapis.com\n  metadata:\n    service: cloudkms.googleapis.com\n  reason: \
                 SERVICE_DISABLED\n",
            ],
            &[&error(
                "PERMISSION_DENIED: Permission 'cloudkms.cryptoKeys.create' denied on resource.",
            )],
            &[&error(
                "PERMISSION_DENIED: Permission 'cloudkms.cryptoKeyVersions.list' denied on resource.",
            )],
            &[
                "ERROR: (gcloud.kms.asymmetric-sign) PERMISSION_DENIED: useToSign denied on resource.\n",
            ],
            &[
                &error("UNAUTHENTICATED: Request had invalid authentication credentials."),
                &error("You do not currently have an active account selected.\nPlease run:\n"),
                &error(
                    "There was a problem refreshing your current auth tokens: ('invalid_grant: Bad \
                     Request', {'error': 'invalid_grant'})\nPlease run:\n\n  $ gcloud auth login",
                ),
                &error(
                    "There was a problem reauthenticating while refreshing your current auth tokens: \
                     Reauthentication failed.",
                ),
                &error("Reauthentication failed. cannot prompt during non-interactive execution."),
            ],
            &[&error(
                "NOT_FOUND: CryptoKey projects/p/cryptoKeys/dave not found.",
            )],
            &["ERROR: (gcloud.kms.keys.create) ALREADY_EXISTS: CryptoKey bob already exists.\n"],
            &[&error(
                "FAILED_PRECONDITION: cryptoKeyVersions/1 is not enabled, current state is: \
                 PENDING_GENERATION.",
            )],
            &[&error(
                "FAILED_PRECONDITION: cryptoKeyVersions/1 is not enabled, current state is: DISABLED.",
            )],
            &[&error(
                "INVALID_ARGUMENT: The purpose of the CryptoKey is ENCRYPT_DECRYPT.",
            )],
            &[&error(
                "RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Cryptographic requests'.",
            )],
            &[
                "ERROR: (gcloud.kms.asymmetric-sign) The response received from the server was \
                 corrupted in-transit. Please try again.\n",
                "ERROR: (gcloud.kms.asymmetric-sign) Found a mismatch between user-requested crypto \
                 resource (a)and server-reported resource used for the cryptographic operation (b).\n",
            ],
            &[
                "ERROR: gcloud crashed (ConnectionError): HTTPConnectionPool(host='127.0.0.1', port=1)\n",
            ],
        ];
        assert_classifies(TABLE, samples);
    }
}
