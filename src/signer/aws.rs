//! AWS KMS, through the program `aws`, version 1 or 2.
//!
//! The operations, their limits and their errors: AWS KMS API Reference, `Sign`, `GetPublicKey`,
//! `CreateKey`, `CreateAlias`; how a key is named: there, `KeyId` of `Sign`.

use std::{ffi::OsString, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    Context, Opened, Signer,
    source::{Body, Generate, Generated, Source, SourceKind, no_path},
    tool::{Hints, Tool},
};
use crate::{
    error::{Error, Kind as ErrorKind, Reason, Result},
    public_key::{self, PublicKey},
    signature::Signature,
    subprocess::{Command, Failure, Output},
    text::quote,
};

pub static KIND: SourceKind = SourceKind {
    scheme: "awskms",
    form: "awskms:///KEY-ID, awskms:///alias/NAME or awskms:///ARN",
    body: Body::Text,
    attributes: &[REGION, PROFILE, ENDPOINT],
    confidential: &[],
    path_in: no_path,
    secret: None,
    open,
    generate: Some(generate),
};

const REGION: &str = "region";
const PROFILE: &str = "profile";
const ENDPOINT: &str = "endpoint-url";

const INSTALL: &str = "install the AWS CLI: `pip install awscli`, the package awscli of your \
                       system, or version 2 from AWS";

const KEY_SPEC: &str = "ECC_NIST_P256";
const KEY_USAGE: &str = "SIGN_VERIFY";
const ALGORITHM: &str = "ECDSA_SHA_256";

/// What `Sign` takes of a message; of an empty or longer one it takes the digest.
const RAW_LIMIT: usize = 4096;

/// What to do about a key that does not serve.
const MAKE_ONE: &str = "`qkey generate awskms:///alias/NAME` makes a key that serves";

const NOT_KMS: &str = "what answers may not be AWS KMS: check the proxy and the attribute \
                       endpoint-url";

/// The error code of what is not there.
const NOT_FOUND: &str = "(NotFoundException)";

const LOG_IN: &str = "log in again: `aws sso login`, `aws configure`, or new values for \
                      AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN";
const REACH: &str = "check the network, the proxy, and the region; an endpoint of your own is \
                     given with the attribute endpoint-url";

const HINTS: Hints = &[
    (
        NOT_FOUND,
        None,
        "check the key's id (that of an alias begins with alias/), the region and the account: \
         `aws kms list-aliases` shows what there is",
    ),
    (
        "(DisabledException)",
        None,
        "enable it: `aws kms enable-key {key}`",
    ),
    (
        "(KMSInvalidStateException)",
        None,
        "see what state it is in: `aws kms describe-key {key}`; `aws kms cancel-key-deletion` and \
         then `aws kms enable-key` bring back one that awaits its deletion",
    ),
    (
        "(AccessDeniedException)",
        Some(Reason::Denied),
        "the key's policy or an IAM policy must allow it; `aws sts get-caller-identity` shows who \
         you are",
    ),
    ("(ExpiredToken", Some(Reason::LoggedOut), LOG_IN),
    (
        "(UnrecognizedClientException)",
        Some(Reason::LoggedOut),
        LOG_IN,
    ),
    ("(InvalidClientTokenId)", Some(Reason::LoggedOut), LOG_IN),
    (
        "(InvalidSignatureException)",
        Some(Reason::LoggedOut),
        LOG_IN,
    ),
    (
        "(InvalidKeyUsageException)",
        None,
        "take a key for SIGN_VERIFY: `qkey generate awskms:///alias/NAME` makes one",
    ),
    (
        "(UnsupportedOperationException)",
        None,
        "take an asymmetric key: `qkey generate awskms:///alias/NAME` makes one",
    ),
    (
        "(ValidationException)",
        None,
        "check the key's id: a UUID, alias/NAME or an ARN follows awskms:///",
    ),
    (
        "(ThrottlingException)",
        None,
        "try again later; AWS_MAX_ATTEMPTS says how often aws tries by itself",
    ),
    (
        "(LimitExceededException)",
        None,
        "ask AWS for a higher quota, or take a key that there is",
    ),
    (
        "Unable to locate credentials",
        Some(Reason::LoggedOut),
        "log in with `aws configure` or `aws sso login`, or choose a profile with AWS_PROFILE or \
         the attribute profile",
    ),
    (
        "The config profile (",
        None,
        "`aws configure list-profiles` shows the profiles there are",
    ),
    (
        "You must specify a region",
        None,
        "add ?region=REGION to the key source, or set AWS_DEFAULT_REGION",
    ),
    ("SSO Token", Some(Reason::LoggedOut), LOG_IN),
    ("SSO session", Some(Reason::LoggedOut), LOG_IN),
    ("Token has expired", Some(Reason::LoggedOut), LOG_IN),
    ("Could not connect to the endpoint URL", None, REACH),
    ("timeout on endpoint URL", None, REACH),
    (
        "Enter MFA code",
        Some(Reason::NeedsPerson),
        "aws cannot ask for the MFA code here: get temporary credentials first, with `aws sts \
         get-session-token --serial-number ARN --token-code CODE`, and run this with them",
    ),
    (
        "did not finish within",
        None,
        "check the network, or give it longer with --timeout SECONDS; where the profile asks for \
         an MFA code, get the credentials of a session first (`aws sts get-session-token`)",
    ),
    (
        "SSL validation failed",
        None,
        "a proxy's certificate authority is given with AWS_CA_BUNDLE",
    ),
];

/// `aws`, and the key that it is to use.
struct Aws {
    title: String,
    tool: Tool,
    key_id: String,
    /// The flags for region, profile and endpoint.
    options: Vec<String>,
}

struct AwsSigner {
    aws: Aws,
    public_key: PublicKey,
}

/// What `GetPublicKey` answers; servers other than AWS's leave some of it out.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeyReply {
    /// Base64 of the DER SubjectPublicKeyInfo.
    public_key: String,
    key_id: Option<String>,
    key_spec: Option<String>,
    key_usage: Option<String>,
    signing_algorithms: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SignReply {
    /// Base64 of ASN.1 DER.
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateReply {
    key_metadata: KeyMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeyMetadata {
    key_id: String,
}

impl Signer for AwsSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        let digest = Sha256::digest(challenge);
        let (message_type, message) = match challenge.len() {
            1..=RAW_LIMIT => ("RAW", challenge),
            _ => ("DIGEST", digest.as_slice()),
        };
        let file = self.aws.tool.private_file(message)?;
        // Versions 1 and 2 read a message that stands in argv differently.
        let mut flag = OsString::from("--message=fileb://");
        flag.push(file.path());
        let command = self
            .aws
            .key_command("sign")
            .arg(flag)
            .arg(format!("--message-type={message_type}"))
            .arg(format!("--signing-algorithm={ALGORITHM}"));
        let reply: SignReply = self
            .aws
            .call("sign with", &command, "JSON with a Signature")?;
        Signature::from_base64(&reply.signature).map_err(|_| {
            self.aws
                .tool
                .not_a_signature("Base64 of ASN.1 DER", reply.signature.as_bytes())
        })
    }
}

impl Aws {
    fn find(source: &Source, context: &Context) -> Result<Self> {
        let (key_id, region) = key_id(source)?;
        let attribute = |name| source.attribute(name).map(str::to_owned);
        let options: Vec<String> = [
            (REGION, region),
            (PROFILE, attribute(PROFILE)),
            (ENDPOINT, attribute(ENDPOINT)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("--{name}={}", value?)))
        .collect();
        let title = source.text();
        Ok(Self {
            tool: Tool::find(title, &["aws"], INSTALL, context.timeout, HINTS)?
                .naming_key(flags(&[("key-id", &key_id)], &options)),
            title: title.to_owned(),
            key_id,
            options,
        })
    }

    fn command(&self, operation: &str) -> Command {
        self.tool
            .command()
            .args(["kms", operation, "--output=json"])
            .args(&self.options)
            .env("AWS_PAGER", "")
            .env("AWS_CLI_AUTO_PROMPT", "off")
    }

    fn key_command(&self, operation: &str) -> Command {
        self.command(operation)
            .arg(format!("--key-id={}", self.key_id))
    }

    fn call<T: DeserializeOwned>(
        &self,
        doing: &str,
        command: &Command,
        expected: &'static str,
    ) -> Result<T> {
        let output = self.tool.run(doing, command)?;
        self.parse(&output, expected)
    }

    fn parse<T: DeserializeOwned>(&self, output: &Output, expected: &'static str) -> Result<T> {
        let reply = self.tool.json(output, expected);
        reply.map_err(|error| error.hint(NOT_KMS))
    }

    /// The public half, and from here on the key itself: an alias may be given to another key
    /// meanwhile.
    fn public_key(&mut self) -> Result<PublicKey> {
        let command = self.key_command("get-public-key");
        let reply: KeyReply = self.call("open", &command, "JSON with a PublicKey")?;
        self.check(&reply)?;
        let public_key = PublicKey::from_base64(&reply.public_key).map_err(|error| {
            let hint = match error {
                public_key::Error::NotP256(_) => MAKE_ONE,
                _ => NOT_KMS,
            };
            self.tool.unusable(&error).hint(hint)
        })?;
        if let Some(arn) = reply.key_id.filter(|id| id.starts_with("arn:")) {
            self.key_id = arn;
        }
        Ok(public_key)
    }

    /// # Errors
    /// When the reply says that the key is not one for ECDSA over P-256 and SHA-256.
    fn check(&self, reply: &KeyReply) -> Result<()> {
        let one = |name, wanted, found: &Option<String>| {
            let found = found.as_ref().filter(|found| *found != wanted)?;
            Some(format!("its {name} is {found}, and {wanted} is needed"))
        };
        let algorithms = reply.signing_algorithms.iter().find(|list| {
            // A key that cannot sign has none, and its usage says more.
            !list.is_empty() && !list.iter().any(|known| known == ALGORITHM)
        });
        let wrong = one("KeyUsage", KEY_USAGE, &reply.key_usage)
            .or_else(|| one("KeySpec", KEY_SPEC, &reply.key_spec))
            .or_else(|| {
                let found = algorithms?.join(", ");
                Some(format!("it signs {found}, and {ALGORITHM} is needed"))
            });
        match wrong {
            None => Ok(()),
            Some(wrong) => Err(Error::new(ErrorKind::Key, wrong)
                .context(format!("cannot use {}", self.title))
                .hint(MAKE_ONE)),
        }
    }

    /// # Errors
    /// When there is something of this name, or that cannot be found out.
    fn refuse_existing(&self) -> Result<()> {
        let described = self
            .tool
            .run("make a key in", &self.key_command("describe-key"));
        match described {
            Ok(_) => Err(Error::new(
                ErrorKind::Key,
                format!("there is a key already in {}", self.title),
            )
            .hint("use it as it is, or choose another alias")),
            Err(error) if error.causes().iter().any(|cause| cause.contains(NOT_FOUND)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn create_key(&self) -> Result<String> {
        let description = format!("Made by qkey as {}", self.key_id);
        let lost = |error: Error| {
            error.hint(format!(
                "a key may have been made all the same: look through `aws kms list-keys` for one \
                 with the description {description:?}"
            ))
        };
        let command = self
            .command("create-key")
            .arg(format!("--key-spec={KEY_SPEC}"))
            .arg(format!("--key-usage={KEY_USAGE}"))
            .arg(format!("--description={description}"))
            // When an answer is lost, aws would make another key.
            .env("AWS_MAX_ATTEMPTS", "1");
        let output = command.run().map_err(|failure| {
            let error = self.tool.failed("make a key in", &failure);
            match failure {
                Failure::Exited { .. } => error,
                _ => lost(error),
            }
        })?;
        let reply: CreateReply = self
            .parse(&output, "JSON with KeyMetadata.KeyId")
            .map_err(lost)?;
        Ok(reply.key_metadata.key_id)
    }

    fn create_alias(&self, target: &str) -> Result<()> {
        let command = self
            .command("create-alias")
            .arg(format!("--alias-name={}", self.key_id))
            .arg(format!("--target-key-id={target}"));
        self.tool.run("name", &command).map(drop)
    }

    /// Puts in front of an error what was made before it, and how to go on.
    fn after_creation(&self, made: &str, error: Error) -> Error {
        let alias = flags(
            &[("alias-name", &self.key_id), ("target-key-id", made)],
            &self.options,
        );
        let key = flags(&[("key-id", made)], &self.options);
        error
            .context(format!(
                "made the key {made}, which is not yet {}",
                self.title
            ))
            .hint(format!(
                "give the key its alias: `aws kms create-alias {alias}`; or delete it: `aws kms \
                 schedule-key-deletion {key}`"
            ))
    }
}

/// Flags of `aws` as a user would type them.
fn flags(own: &[(&str, &str)], options: &[String]) -> String {
    let own = own.iter().map(|(name, value)| format!("--{name}={value}"));
    let all = own.chain(options.iter().cloned());
    all.map(|flag| quote(&flag)).collect::<Vec<_>>().join(" ")
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let mut aws = Aws::find(source, context)?;
    let public_key = aws.public_key()?;
    Ok(Opened::Signer(Box::new(AwsSigner { aws, public_key })))
}

fn generate(source: &Source, context: &Arc<Context>, _: &Generate) -> Result<Generated> {
    let mut aws = Aws::find(source, context)?;
    match aws.key_id.strip_prefix("alias/") {
        Some(name) if !name.starts_with("aws/") => {}
        _ => {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "a new key cannot be made as {:?}: it needs an alias of your own",
                    source.text()
                ),
            )
            .hint("write awskms:///alias/NAME; names that begin with aws/ are AWS's"));
        }
    }
    aws.refuse_existing()?;
    let made = aws.create_key()?;
    aws.create_alias(&made)
        .map_err(|error| aws.after_creation(&made, error))?;
    // A new alias may take a while until it is known everywhere.
    aws.key_id = made;
    let public_key = aws.public_key().map_err(|error| {
        let title = source.text();
        error.context(format!("made {title}, and cannot yet read its public half"))
    })?;
    Ok(Generated {
        source: source.text().to_owned(),
        public_key,
    })
}

/// The key's id, and its region where it or an attribute says so.
fn key_id(source: &Source) -> Result<(String, Option<String>)> {
    let invalid = |why: &str| source.invalid(why).hint(format!("write {}", KIND.form));
    let id = source.body().strip_prefix("///").ok_or_else(|| {
        invalid("three slashes follow awskms: (an endpoint is the attribute endpoint-url)")
    })?;
    let attribute = source.attribute(REGION);
    let Some(arn) = id.strip_prefix("arn:") else {
        let name = id.strip_prefix("alias/");
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let fits = match name {
            Some(name) => !name.is_empty() && name.chars().all(|c| allowed(c) || c == '/'),
            None => !id.is_empty() && id.chars().all(allowed),
        };
        return match fits {
            true => Ok((id.to_owned(), attribute.map(str::to_owned))),
            false => Err(invalid("no key's id or alias is written like that")),
        };
    };
    let parts: Vec<&str> = arn.splitn(5, ':').collect();
    let [_, "kms", region, _, resource] = parts[..] else {
        return Err(invalid("it is not the ARN of a KMS key"));
    };
    if !resource.starts_with("key/") && !resource.starts_with("alias/") {
        return Err(invalid("its ARN is not that of a key or an alias"));
    }
    match attribute {
        Some(other) if other != region => Err(invalid(
            "the attribute region and the region in the ARN differ",
        )),
        _ => Ok((id.to_owned(), Some(region.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, Option<String>)> {
        key_id(&crate::signer::registry::parse(text).expect("the grammar of key sources"))
    }

    #[test]
    fn a_key_is_named_by_id_alias_or_arn() {
        let id = "1234abcd-12ab-34cd-56ef-1234567890ab";
        let key_arn = format!("arn:aws:kms:eu-west-1:111122223333:key/{id}");
        let alias_arn = "arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/a/b_c-1";
        for (text, id, region) in [
            (id, id, None),
            ("mrk-1234abcd12ab", "mrk-1234abcd12ab", None),
            ("alias/a/b_c-1", "alias/a/b_c-1", None),
            ("alias/a?region=eu-west-1", "alias/a", Some("eu-west-1")),
            (&key_arn, &key_arn, Some("eu-west-1")),
            (alias_arn, alias_arn, Some("us-gov-west-1")),
            (
                &format!("{key_arn}?region=eu-west-1"),
                &key_arn,
                Some("eu-west-1"),
            ),
        ] {
            let parsed = parse(&format!("awskms:///{text}")).expect(text);
            assert_eq!((parsed.0.as_str(), parsed.1.as_deref()), (id, region));
        }
    }

    #[test]
    fn what_names_no_key_is_refused() {
        for (text, why) in [
            ("awskms:alias/a", "three slashes follow awskms:"),
            ("awskms://alias/a", "three slashes follow awskms:"),
            ("awskms://localhost:4566/alias/a", "endpoint-url"),
            ("awskms:///", "no key's id or alias"),
            ("awskms:///alias/", "no key's id or alias"),
            ("awskms:///alias/a%20b", "no key's id or alias"),
            ("awskms:///key/a", "no key's id or alias"),
            ("awskms:///--debug%3Dx", "no key's id or alias"),
            ("awskms:///arn:aws:s3:::bucket", "not the ARN of a KMS key"),
            (
                "awskms:///arn:aws:kms:eu-west-1",
                "not the ARN of a KMS key",
            ),
            ("awskms:///arn:aws:kms:r:1:grant/x", "not that of a key"),
            ("awskms:///arn:aws:kms:r:1:key/x?region=q", "differ"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }
}
