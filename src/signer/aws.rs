//! AWS KMS, through the program `aws`, version 1 or 2.
//!
//! Operations, limits and errors: AWS KMS API Reference, `Sign`, `GetPublicKey`, `CreateKey`,
//! `CreateAlias`. Names of keys: `KeyId` of `Sign`.

use std::{ffi::OsString, sync::Arc};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    Context, Opened,
    source::{Generate, Generated, Source, SourceKind},
    tool::{self, Table, Tool, Vendor, cannot_create, table},
};
use crate::{error::Result, public_key::PublicKey, signature::Signature, subprocess::Command};

pub static KIND: SourceKind = SourceKind {
    attributes: &[REGION, PROFILE, ENDPOINT],
    generate: Some(generate),
    ..SourceKind::new("awskms", FORM, open)
};

const FORM: &str = "awskms:///KEY-ID, awskms:///alias/NAME or awskms:///ARN";

const REGION: &str = "region";
const PROFILE: &str = "profile";
const ENDPOINT: &str = "endpoint-url";

const INSTALL: &str = "install the AWS CLI: version 2 from AWS, your system's package awscli, or \
                       `pip install awscli`";

const KEY_SPEC: &str = "ECC_NIST_P256";
const KEY_USAGE: &str = "SIGN_VERIFY";
const ALGORITHM: &str = "ECDSA_SHA_256";

/// The longest message that `Sign` takes, in bytes. It takes a longer or empty one as a digest.
const RAW_LIMIT: usize = 4096;

static AWS: Vendor = Vendor {
    table: TABLE,
    timed_out: "check the network, or raise --timeout SECONDS; if the profile asks for an MFA code, \
                get session credentials first (`aws sts get-session-token`)",
    unfit: "create a key that fits: `qkey generate awskms:///alias/NAME`",
    stranger: "the endpoint may not be AWS KMS: check the proxy and the attribute endpoint-url",
};

const LOG_IN: &str = "log in again: `aws sso login`, `aws configure`, or new values for \
                      AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN";

/// Matches the start of a message; some versions print the program's name first.
macro_rules! says {
    ($($pattern:literal),+) => {
        concat!(r"^(aws: \[ERROR\]: )?", $($pattern),+)
    };
}

/// Matches an error code of the service and the start of its message.
macro_rules! code {
    ($code:literal $(, $message:literal)?) => {
        says!(
            r"An error occurred \(",
            $code,
            r"\) when calling the \w+ operation( \(.*?\))?" $(, $message)?
        )
    };
}

const TABLE: Table = table! {
    code!("NotFoundException") => NotFound,
        "check the key id (an alias begins with alias/), the region and the account: `aws kms \
         list-aliases` lists the aliases";
    code!("DisabledException") => Disabled, "enable the key: `aws kms enable-key {key}`";
    code!("KMSInvalidStateException") => Disabled,
        "check the key's state: `aws kms describe-key {key}`; to restore a key that is pending \
         deletion, run `aws kms cancel-key-deletion`, then `aws kms enable-key`";
    code!("AccessDeniedException") => Denied,
        "the key policy or an IAM policy must allow it; `aws sts get-caller-identity` shows who \
         you are";
    code!("InvalidSignatureException", ": Signature (expired|not yet current):") => ClockSkew,
        "set this machine's clock: AWS accepts requests within five minutes of its own time";
    code!("(ExpiredToken(Exception)?|UnrecognizedClientException|InvalidClientTokenId|\
           InvalidSignatureException)") => LoggedOut,
        LOG_IN;
    code!("(InvalidKeyUsage|UnsupportedOperation)Exception") => Unsupported,
        "use an asymmetric key with the usage SIGN_VERIFY: `qkey generate awskms:///alias/NAME` \
         creates one";
    code!("ValidationException") => _,
        "check the key id: a UUID, alias/NAME or an ARN must follow awskms:///";
    code!("ThrottlingException") => Throttled,
        "try again later; AWS_MAX_ATTEMPTS sets how often aws retries";
    code!("LimitExceededException") => _, "ask AWS for a higher quota, or use an existing key";
    says!("Unable to locate credentials") => LoggedOut,
        "log in with `aws configure` or `aws sso login`, or choose a profile with AWS_PROFILE or \
         the attribute profile";
    says!(r"The config profile \(") => _, "`aws configure list-profiles` lists the profiles";
    says!("(You must specify a region|Invalid endpoint: https://kms\\.\\.)") => _,
        "add ?region=REGION to the key source, or set AWS_DEFAULT_REGION";
    says!("(Error loading SSO Token|Error when retrieving token from sso|\
           The SSO session)") => LoggedOut,
        LOG_IN;
    says!("Error when retrieving credentials from custom-process") => _,
        "run the credential_process of your profile by hand: it must print credentials";
    says!(r"\[Errno 2\] No such file or directory") => _,
        "check that the file exists; AWS_WEB_IDENTITY_TOKEN_FILE may name one that does not";
    says!("(Could not connect to the endpoint|\
           (Connect|Read) timeout on endpoint) URL") => Unreachable,
        "check the network, the proxy and the region; the attribute endpoint-url sets another \
         endpoint";
    says!("Failed to connect to proxy URL") => Unreachable,
        "check HTTPS_PROXY and HTTP_PROXY; NO_PROXY lists the hosts to reach without a proxy";
    says!("Enter MFA code") => NeedsPerson,
        "aws cannot ask for the MFA code here: get session credentials first with `aws sts \
         get-session-token --serial-number ARN --token-code CODE`, and run qkey with them";
    says!("SSL validation failed") => Unreachable,
        "if a proxy uses its own certificate authority, name its file with AWS_CA_BUNDLE";
};

/// `aws`, and the key that it uses.
struct Aws {
    tool: Tool,
    key_id: String,
    /// The flags for region, profile and endpoint.
    options: Vec<String>,
}

/// The reply to `GetPublicKey`; servers other than AWS leave out some members.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
#[serde(rename_all = "PascalCase")]
struct KeyReply {
    /// Base64 of the DER SubjectPublicKeyInfo.
    public_key: String,
    key_id: Option<String>,
    key_spec: Option<String>,
    key_usage: Option<String>,
    signing_algorithms: Option<Vec<String>>,
}

impl Aws {
    fn find(source: &Source, context: &Context) -> Result<Self> {
        let (key_id, region) = key_id(source)?;
        let attributes = [
            (REGION, region.as_deref()),
            (PROFILE, source.attribute(PROFILE)),
            (ENDPOINT, source.attribute(ENDPOINT)),
        ];
        let options: Vec<String> = attributes
            .into_iter()
            .filter_map(|(name, value)| Some(format!("--{name}={}", value?)))
            .collect();
        let tool = Tool::find(&AWS, &["aws"], INSTALL, source, context)?;
        Ok(Self {
            tool: tool.naming_key(flags(&[("key-id", &key_id)], &options)),
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

    /// Reads the public key and pins the key: an alias may be moved to another key.
    fn public_key(&mut self) -> Result<PublicKey> {
        let command = self.key_command("get-public-key");
        let tool = &self.tool;
        let reply: KeyReply = tool.call("open", &command, "JSON with a PublicKey")?;
        tool.expect("KeyUsage", reply.key_usage.as_deref(), &[KEY_USAGE])?;
        tool.expect("KeySpec", reply.key_spec.as_deref(), &[KEY_SPEC])?;
        if let Some(algorithms) = &reply.signing_algorithms
            && !algorithms.is_empty()
            && !algorithms.iter().any(|known| known == ALGORITHM)
        {
            tool.expect("algorithm", Some(&algorithms.join(", ")), &[ALGORITHM])?;
        }
        let public_key = tool.public_key(PublicKey::from_base64(&reply.public_key))?;
        if let Some(arn) = reply.key_id.filter(|id| id.starts_with("arn:")) {
            self.key_id = arn;
        }
        Ok(public_key)
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        let digest = Sha256::digest(challenge);
        let (message_type, message) = match challenge.len() {
            1..=RAW_LIMIT => ("RAW", challenge),
            _ => ("DIGEST", digest.as_slice()),
        };
        let file = self.tool.private_file(message)?;
        // Versions 1 and 2 decode a message in argv differently.
        let mut flag = OsString::from("--message=fileb://");
        flag.push(file.path());
        let command = self
            .key_command("sign")
            .arg(flag)
            .arg(format!("--message-type={message_type}"))
            .arg(format!("--signing-algorithm={ALGORITHM}"));
        let expected = "JSON with a Signature";
        let reply = self
            .tool
            .call_for("sign with", &command, "/Signature", expected)?;
        let encoding = "Base64 of ASN.1 DER";
        self.tool
            .signature(reply.as_str(), Signature::from_base64, encoding)
    }

    /// Creates a key without an alias; returns its id.
    fn create_key(&self) -> Result<String> {
        let description = format!("Made by qkey as {}", self.key_id);
        let command = self
            .command("create-key")
            .arg(format!("--key-spec={KEY_SPEC}"))
            .arg(format!("--key-usage={KEY_USAGE}"))
            .arg(format!("--description={description}"))
            // After a lost reply, aws would create another key.
            .env("AWS_MAX_ATTEMPTS", "1");
        let lost = format!("look for the description {description:?} in `aws kms list-keys`");
        self.tool.create(&command, &lost, |output| {
            let expected = "JSON with KeyMetadata.KeyId";
            self.tool.member(output, "/KeyMetadata/KeyId", expected)
        })
    }

    fn create_alias(&self, target: &str) -> Result<()> {
        let names = [
            ("alias-name", self.key_id.as_str()),
            ("target-key-id", target),
        ];
        let command = self.command("create-alias").args(flags(&names, &[]));
        self.tool.run("name", &command).map(drop).map_err(|error| {
            let alias = tool::typed(flags(&names, &self.options));
            let key = tool::typed(flags(&[("key-id", target)], &self.options));
            let title = self.tool.title();
            let message = format!("created key {target}, but not its alias {title}");
            error.context(message).hint(format!(
                "create the alias: `aws kms create-alias {alias}`; or delete the key: `aws kms \
                 schedule-key-deletion {key}`"
            ))
        })
    }
}

/// A command's own flags, followed by those that every command takes.
fn flags(own: &[(&str, &str)], options: &[String]) -> Vec<String> {
    let own = own.iter().map(|(name, value)| format!("--{name}={value}"));
    own.chain(options.iter().cloned()).collect()
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let mut aws = Aws::find(source, context)?;
    let public_key = aws.public_key()?;
    Ok(tool::opened(public_key, move |challenge| {
        aws.sign(challenge)
    }))
}

fn generate(source: &Source, context: &Arc<Context>, _: &Generate) -> Result<Generated> {
    let mut aws = Aws::find(source, context)?;
    let name = aws.key_id.strip_prefix("alias/");
    if name.is_none_or(|name| name.starts_with("aws/")) {
        return Err(cannot_create(
            source,
            "a new key needs an alias of yours",
            "write awskms:///alias/NAME; aliases that begin with aws/ belong to AWS",
        ));
    }
    aws.tool.refuse_existing(&aws.key_command("describe-key"))?;
    let id = aws.create_key()?;
    aws.create_alias(&id)?;
    // A new alias takes a while to propagate.
    aws.key_id = id;
    let public_key = aws.public_key().map_err(|error| aws.tool.created(error))?;
    Ok(Generated {
        source: source.text().to_owned(),
        public_key,
    })
}

/// The key's id, and the region from its ARN or from the attribute.
fn key_id(source: &Source) -> Result<(String, Option<String>)> {
    let invalid = |why: &str| source.invalid(why).hint(format!("write {FORM}"));
    let id = source.body().strip_prefix("///").ok_or_else(|| {
        invalid("awskms: must be followed by three slashes (for an endpoint, use the attribute endpoint-url)")
    })?;
    let attribute = source.attribute(REGION);
    let Some(arn) = id.strip_prefix("arn:") else {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let (name, slash) = match id.strip_prefix("alias/") {
            Some(name) => (name, '/'),
            None => (id, '-'),
        };
        return if !name.is_empty() && name.chars().all(|c| allowed(c) || c == slash) {
            Ok((id.to_owned(), attribute.map(str::to_owned)))
        } else {
            Err(invalid("it is not a key id or an alias"))
        };
    };
    let parts: Vec<&str> = arn.splitn(5, ':').collect();
    let [_, "kms", region, _, resource] = parts[..] else {
        return Err(invalid("it is not the ARN of a KMS key"));
    };
    if !["key/", "alias/"]
        .iter()
        .any(|kind| resource.starts_with(kind))
    {
        return Err(invalid("its ARN does not name a key or an alias"));
    }
    if attribute.is_some_and(|other| other != region) {
        return Err(invalid(
            "the attribute region differs from the region in the ARN",
        ));
    }
    Ok((id.to_owned(), Some(region.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::tool::tests::{assert_classifies, assert_malformed, source};

    #[test]
    fn parse_key_id_alias_and_arn() {
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
            let parsed = key_id(&source(&format!("awskms:///{text}"))).expect(text);
            assert_eq!((parsed.0.as_str(), parsed.1.as_deref()), (id, region));
        }
    }

    #[test]
    fn malformed_sources_are_usage_errors() {
        assert_malformed(
            key_id,
            &[
                ("awskms:alias/a", "three slashes"),
                ("awskms://alias/a", "three slashes"),
                ("awskms://localhost:4566/alias/a", "endpoint-url"),
                ("awskms:///", "not a key id or an alias"),
                ("awskms:///alias/", "not a key id or an alias"),
                ("awskms:///alias/a%20b", "not a key id or an alias"),
                ("awskms:///key/a", "not a key id or an alias"),
                ("awskms:///--debug%3Dx", "not a key id or an alias"),
                ("awskms:///arn:aws:s3:::bucket", "not the ARN of a KMS key"),
                (
                    "awskms:///arn:aws:kms:eu-west-1",
                    "not the ARN of a KMS key",
                ),
                ("awskms:///arn:aws:kms:r:1:grant/x", "does not name a key"),
                ("awskms:///arn:aws:kms:r:1:key/x?region=q", "differs"),
            ],
        );
    }

    #[test]
    fn table_classifies_real_output_of_aws() {
        let error = |code: &str, message: &str| {
            format!(
                "\nAn error occurred ({code}) when calling the GetPublicKey operation: {message}\n"
            )
        };
        let samples: &[&[&str]] = &[
            &[
                &error(
                    "NotFoundException",
                    "Key 'arn:aws:kms:eu-west-1:1:key/1' does not exist",
                ),
                "\nAn error occurred (NotFoundException) when calling the GetPublicKey operation \
                 (reached max retries: 0): Key does not exist\n",
                "\naws: [ERROR]: An error occurred (NotFoundException) when calling the Sign \
                 operation: Alias is not found.\n",
            ],
            &[&error(
                "DisabledException",
                "arn:aws:kms:eu-west-1:1:key/1 is disabled.",
            )],
            &[&error(
                "KMSInvalidStateException",
                "key/1 is pending deletion.",
            )],
            &[&error(
                "AccessDeniedException",
                "User: u is not authorized to perform: kms:Sign",
            )],
            &[
                &error(
                    "InvalidSignatureException",
                    "Signature expired: 20261128T051500Z is now earlier than 20261128T052000Z \
                     (20261128T052500Z - 5 min.)",
                ),
                "\nAn error occurred (InvalidSignatureException) when calling the GetPublicKey \
                 operation (reached max retries: 0): Signature not yet current: 20261128T053100Z is \
                 still later than 20261128T053000Z (20261128T052500Z + 5 min.)\n",
            ],
            &[
                &error(
                    "InvalidSignatureException",
                    "The request signature we calculated does not match the signature you provided.",
                ),
                &error(
                    "ExpiredTokenException",
                    "The security token included in the request is expired",
                ),
                "\nAn error occurred (ExpiredToken) when calling the AssumeRole operation: The \
                 security token included in the request is expired\n",
                &error(
                    "UnrecognizedClientException",
                    "The security token included in the request is invalid.",
                ),
                "\nAn error occurred (InvalidClientTokenId) when calling the AssumeRole operation: \
                 The security token included in the request is invalid.\n",
            ],
            &[
                &error(
                    "InvalidKeyUsageException",
                    "key/1 key usage is ENCRYPT_DECRYPT",
                ),
                &error("UnsupportedOperationException", ""),
            ],
            &[&error("ValidationException", "Invalid keyId")],
            &[
                &error("ThrottlingException", "Rate exceeded"),
                "\nAn error occurred (ThrottlingException) when calling the Sign operation (reached \
                 max retries: 4): Rate exceeded\n",
            ],
            &[&error("LimitExceededException", "")],
            &[
                "Unable to locate credentials. You can configure credentials by running \"aws \
                 configure\".\n",
            ],
            &["\nThe config profile (nope) could not be found\n"],
            &[
                "You must specify a region. You can also configure your region by running \"aws \
                 configure\".\n",
                "\nInvalid endpoint: https://kms..amazonaws.com\n",
            ],
            &[
                "\nError loading SSO Token: Token for s does not exist\n",
                "\nError when retrieving token from sso: Token has expired and refresh failed\n",
                "\nThe SSO session associated with this profile has expired or is otherwise \
                 invalid. To refresh this SSO session run aws sso login with the corresponding \
                 profile.\n",
            ],
            &["\nError when retrieving credentials from custom-process: no luck\n"],
            &["\n[Errno 2] No such file or directory: '/nope'\n"],
            &[
                "\nCould not connect to the endpoint URL: \"http://127.0.0.1:1/\"\n",
                "\nRead timeout on endpoint URL: \"http://127.0.0.1:18766/\"\n",
            ],
            &["\nFailed to connect to proxy URL: \"http://127.0.0.1:1\"\n"],
            &[
                "Warning: Password input may be echoed.\nEnter MFA code for \
                 arn:aws:iam::111122223333:mfa/u: \n",
            ],
            &[
                "\nSSL validation failed for https://127.0.0.1:18765/ [SSL: WRONG_VERSION_NUMBER] \
                 wrong version number (_ssl.c:1006)\n",
            ],
        ];
        assert_classifies(TABLE, samples);
    }
}
