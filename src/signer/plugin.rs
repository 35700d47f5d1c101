//! The user's own programs: `qkey-signer-NAME` runs once per request and speaks the protocol of
//! `docs/plugins.md`.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Context, Opened,
    source::{Body, Source, SourceKind, no_path},
    tool::{self, Tool, Vendor},
};
use crate::{
    error::{Error, Kind as ErrorKind, Reason, Result},
    public_key::PublicKey,
    signature::Signature,
    subprocess::{Failure, Output, excerpt_end},
    text,
};

pub static KIND: SourceKind = SourceKind {
    scheme: "plugin",
    form: "plugin:NAME:REFERENCE",
    body: Body::Text,
    attributes: &[],
    confidential: &[],
    path_in: no_path,
    secret: None,
    open,
    generate: None,
};

static PLUGIN: Vendor = Vendor {
    // A plugin names the reason itself.
    table: &[],
    timed_out: "check the plugin and the network, or raise --timeout SECONDS",
    unfit: "name an ECDSA P-256 key in the key source",
    stranger: "the plugin does not follow the protocol in docs/plugins.md: tell its author",
};

/// The only version of the protocol that this file speaks.
const VERSION: u64 = 1;

/// A request. Later versions may add members but do not change these.
#[derive(Serialize)]
struct Request<'a> {
    method: &'static str,
    reference: &'a str,
    /// Base64 of the bytes to sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<String>,
    /// In seconds; then the plugin is killed.
    timeout: f64,
}

/// A reply. Unknown members are ignored: later versions may add some.
#[derive(Debug, Default, Deserialize)]
struct Reply {
    version: Option<u64>,
    /// PEM or Base64 of the DER SubjectPublicKeyInfo.
    public_key: Option<String>,
    /// Base64 of the ASN.1 DER.
    signature: Option<String>,
    error: Option<Refusal>,
}

/// Why a plugin did not do what it was asked to.
#[derive(Debug, Deserialize)]
struct Refusal {
    kind: RefusalKind,
    message: String,
    hint: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RefusalKind {
    NotFound,
    Denied,
    WrongSecret,
    Unsupported,
    #[serde(other)]
    Failed,
}

impl RefusalKind {
    fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Denied => "denied",
            Self::WrongSecret => "wrong-secret",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }

    fn reason(self) -> Option<Reason> {
        match self {
            Self::NotFound => Some(Reason::NotFound),
            Self::Denied => Some(Reason::Denied),
            Self::WrongSecret => Some(Reason::WrongSecret),
            Self::Unsupported => Some(Reason::Unsupported),
            Self::Failed => None,
        }
    }

    /// The next step, where the plugin does not name one.
    fn hint(self) -> &'static str {
        match self {
            Self::NotFound => "check what follows plugin:NAME: in the key source",
            Self::Denied => "log in to the service that holds the key, or get the permission",
            Self::WrongSecret => {
                "check the PIN or passphrase that the plugin uses: a few wrong ones may lock the key"
            }
            Self::Unsupported => "use an ECDSA P-256 key, or a newer version of the plugin",
            Self::Failed => "see the plugin's documentation",
        }
    }
}

/// A refusal in the plugin's words; its stderr may say more.
#[derive(Debug, thiserror::Error)]
#[error("{program} replied {}: {}", .refusal.kind.name(), .refusal.message)]
struct Refused {
    program: String,
    refusal: Refusal,
    #[source]
    stderr: Option<Stderr>,
}

#[derive(Debug, thiserror::Error)]
#[error("stderr: {0}")]
struct Stderr(String);

#[derive(Debug, thiserror::Error)]
#[error(
    "{program} replied in version {version} of the plugin protocol; this qkey speaks {VERSION}"
)]
struct OtherVersion {
    program: String,
    version: u64,
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let (name, reference) = parse(source)?;
    let program = format!("qkey-signer-{name}");
    let install = format!(
        "put an executable {program} in a directory on PATH; docs/plugins.md describes how to write \
         one"
    );
    let plugin = Plugin {
        tool: Tool::find(&PLUGIN, &[&program], &install, source, context)?,
        program,
        reference: reference.to_owned(),
        timeout: context.timeout.as_secs_f64(),
    };
    let public_key = plugin.public_key()?;
    Ok(tool::opened(public_key, move |challenge| {
        plugin.sign(challenge)
    }))
}

/// The plugin's name and the reference to a key.
fn parse(source: &Source) -> Result<(&str, &str)> {
    let invalid = |why: &str| {
        let error = source.invalid(why);
        error.hint(format!("write it as {}", KIND.form))
    };
    let (name, reference) = source
        .body()
        .split_once(':')
        .ok_or_else(|| invalid("it must name a plugin and a key"))?;
    let in_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match !name.is_empty() && name.chars().all(in_a_name) {
        true => Ok((name, reference)),
        false => Err(invalid(
            "a plugin's name has only lower-case letters, digits and hyphens",
        )),
    }
}

/// A plugin, and the key that it uses.
struct Plugin {
    tool: Tool,
    program: String,
    reference: String,
    /// In seconds.
    timeout: f64,
}

impl Plugin {
    fn public_key(&self) -> Result<PublicKey> {
        let (reply, stdout) = self.ask("open", &self.request("public-key", None))?;
        let Some(public_key) = reply.public_key.filter(|key| !key.is_empty()) else {
            return Err(self.tool.unexpected("a reply with a public_key", &stdout));
        };
        self.tool
            .public_key(PublicKey::from_any(public_key.as_bytes()))
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        let request = self.request("sign", Some(BASE64_STANDARD.encode(challenge)));
        let (reply, stdout) = self.ask("sign with", &request)?;
        let Some(signature) = reply.signature else {
            return Err(self.tool.unexpected("a reply with a signature", &stdout));
        };
        Signature::from_base64(&signature).map_err(|_| {
            let signature = signature.as_bytes();
            self.tool.not_a_signature("Base64 of ASN.1 DER", signature)
        })
    }

    fn request(&self, method: &'static str, challenge: Option<String>) -> Request<'_> {
        Request {
            method,
            reference: &self.reference,
            challenge,
            timeout: self.timeout,
        }
    }

    /// Runs the plugin for one request; returns its reply, parsed and raw.
    fn ask(&self, doing: &str, request: &Request<'_>) -> Result<(Reply, Vec<u8>)> {
        let hello = json!({ "qkey": env!("CARGO_PKG_VERSION"), "versions": [VERSION] });
        let command = self
            .tool
            .command()
            .stdin(format!("{hello}\n{}\n", json!(request)));
        let output = match command.run() {
            Ok(output) => output,
            // It may reply with an error and exit with one, too.
            Err(Failure::Exited { ref output, .. }) if is_refusal(output) => output.clone(),
            Err(failure) => return Err(self.tool.failed(doing, &failure)),
        };
        if !output.stderr.is_empty() {
            log::debug!(
                "{} on stderr: {}",
                self.program,
                excerpt_end(&output.stderr)
            );
        }
        let reply = parse_reply(&output.stdout)
            .ok_or_else(|| self.tool.unexpected("one line of JSON", &output.stdout))?;
        if let Some(refusal) = reply.error {
            return Err(self.refused(doing, refusal, &output.stderr));
        }
        match reply.version {
            Some(VERSION) => Ok((reply, output.stdout)),
            Some(other) => Err(self.other_version(doing, other)),
            None => Err(self
                .tool
                .unexpected("a reply with a version", &output.stdout)),
        }
    }

    fn refused(&self, doing: &str, refusal: Refusal, stderr: &[u8]) -> Error {
        let kind = refusal.kind;
        let hint = match &refusal.hint {
            Some(hint) => text::excerpt(hint),
            None => kind.hint().to_owned(),
        };
        let said = Some(excerpt_end(stderr)).filter(|said| !said.is_empty());
        let cause = Refused {
            program: self.program.clone(),
            refusal,
            stderr: said.map(Stderr),
        };
        self.cannot(doing)
            .because(kind.reason())
            .caused_by(&cause)
            .hint(hint)
    }

    fn other_version(&self, doing: &str, version: u64) -> Error {
        let cause = OtherVersion {
            program: self.program.clone(),
            version,
        };
        self.cannot(doing)
            .caused_by(&cause)
            .hint("update the plugin or qkey, whichever is older")
    }

    fn cannot(&self, doing: &str) -> Error {
        Error::new(
            ErrorKind::Key,
            format!("cannot {doing} {}", self.tool.title()),
        )
    }
}

/// Parses stdout, which must be one line; the newline at its end may be missing.
fn parse_reply(stdout: &[u8]) -> Option<Reply> {
    let line = stdout.strip_suffix(b"\n").unwrap_or(stdout);
    match line.contains(&b'\n') {
        true => None,
        false => serde_json::from_slice(line).ok(),
    }
}

fn is_refusal(output: &Output) -> bool {
    parse_reply(&output.stdout).is_some_and(|reply| reply.error.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> std::result::Result<(String, String), String> {
        let source = crate::signer::registry::parse(text).expect("the grammar of all sources");
        parse(&source)
            .map(|(name, reference)| (name.to_owned(), reference.to_owned()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn parse_name_and_reference() {
        for (text, name, reference) in [
            ("plugin:card-2:slot 9c", "card-2", "slot 9c"),
            ("plugin:a:pkcs11:object=b%3Fc", "a", "pkcs11:object=b?c"),
            ("plugin:a:", "a", ""),
            ("plugin:a:-x/../y", "a", "-x/../y"),
        ] {
            assert_eq!(parsed(text), Ok((name.to_owned(), reference.to_owned())));
        }
        for (text, why) in [
            ("plugin:card", "must name a plugin and a key"),
            ("plugin::x", "lower-case letters"),
            ("plugin:../card:x", "lower-case letters"),
            ("plugin:Card:x", "lower-case letters"),
            ("plugin:a b:x", "lower-case letters"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn replies_have_one_line() {
        for reply in ["{}", "{}\n", " {\"later\": 1} \r\n"] {
            assert!(parse_reply(reply.as_bytes()).is_some(), "{reply:?}");
        }
        for garbage in [
            "",
            "\n",
            "{}\n{}",
            "{}\n\n",
            "\n{}",
            "x{}",
            "{\"version\": \"1\"}",
        ] {
            assert!(parse_reply(garbage.as_bytes()).is_none(), "{garbage:?}");
        }
    }
}
