//! Programs of the user's own: `qkey-signer-NAME`, which is run once for each request and speaks
//! the protocol of `docs/plugins.md`.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Context, Opened, Signer,
    source::{Body, Source, SourceKind, no_path},
    tool::Tool,
};
use crate::{
    error::{Error, Kind as ErrorKind, Reason, Result},
    public_key::{self, PublicKey},
    signature::{self, Signature},
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

/// The one version of the protocol that is spoken here.
const VERSION: u64 = 1;

/// What a plugin is asked. Later versions may add members, and change none of these.
#[derive(Serialize)]
struct Request<'a> {
    method: &'static str,
    reference: &'a str,
    /// Base64 of the bytes to sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<String>,
    /// The seconds after which the plugin is killed.
    timeout: f64,
}

/// Everything that a plugin may reply. Members that are not known here are left to later versions.
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
    kind: String,
    message: String,
    hint: Option<String>,
}

impl Refusal {
    /// Its kind, as far as this version knows it.
    fn kind(&self) -> &'static str {
        const KINDS: [&str; 4] = ["not-found", "denied", "wrong-secret", "unsupported"];
        let known = KINDS.into_iter().find(|known| *known == self.kind);
        known.unwrap_or("failed")
    }

    fn reason(&self) -> Option<Reason> {
        match self.kind() {
            "denied" => Some(Reason::Denied),
            "wrong-secret" => Some(Reason::WrongSecret),
            _ => None,
        }
    }

    /// The next step for the user: the plugin's own word, or what its kind of error allows to say.
    fn hint(&self) -> String {
        let by_kind = || match self.kind() {
            "not-found" => "check what follows plugin:NAME: in the key source",
            "denied" => "log in, or get the permission, where the plugin's keys are",
            "wrong-secret" => {
                "check the PIN or passphrase that the plugin uses: several wrong ones may lock what \
                 holds the key"
            }
            "unsupported" => "take an ECDSA P-256 key, or a newer version of the plugin",
            _ => "the documentation of the plugin may say more",
        };
        match &self.hint {
            Some(hint) => text::excerpt(hint),
            None => by_kind().to_owned(),
        }
    }
}

/// A refusal as the plugin told it; on stderr it may have said more.
#[derive(Debug, thiserror::Error)]
#[error("{program} answered {}: {}", .refusal.kind(), .refusal.message)]
struct Refused {
    program: String,
    refusal: Refusal,
    #[source]
    stderr: Option<Stderr>,
}

#[derive(Debug, thiserror::Error)]
#[error("on stderr it said: {0}")]
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
        "put an executable {program} into a folder on PATH; docs/plugins.md tells how to write one"
    );
    let title = source.text();
    let plugin = Plugin {
        tool: Tool::find(title, &[&program], &install, context.timeout, &[])?,
        title: title.to_owned(),
        program,
        reference: reference.to_owned(),
        timeout: context.timeout.as_secs_f64(),
    };
    let public_key = plugin.public_key()?;
    Ok(Opened::Signer(Box::new(PluginSigner {
        plugin,
        public_key,
    })))
}

/// The plugin's name and the reference to a key, as a source has them.
fn parse(source: &Source) -> Result<(&str, &str)> {
    let invalid = |why: &str| {
        let error = source.invalid(why);
        error.hint(format!("write it as {}", KIND.form))
    };
    let (name, reference) = source
        .body()
        .split_once(':')
        .ok_or_else(|| invalid("no reference to a key follows the plugin's name"))?;
    let in_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match !name.is_empty() && name.chars().all(in_a_name) {
        true => Ok((name, reference)),
        false => Err(invalid(
            "the name of a plugin is of lower-case letters, digits and hyphens",
        )),
    }
}

struct PluginSigner {
    plugin: Plugin,
    public_key: PublicKey,
}

impl Signer for PluginSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        self.plugin.sign(challenge)
    }
}

/// A plugin, with the key that it is asked for.
struct Plugin {
    tool: Tool,
    title: String,
    program: String,
    reference: String,
    /// In seconds.
    timeout: f64,
}

impl Plugin {
    fn public_key(&self) -> Result<PublicKey> {
        let (reply, stdout) = self.ask("open", &self.request("public-key", None))?;
        let Some(public_key) = reply.public_key.filter(|key| !key.is_empty()) else {
            return Err(self.broken("a reply with a public_key", &stdout));
        };
        PublicKey::from_any(public_key.as_bytes()).map_err(|error| match error {
            public_key::Error::NotP256(_) => self
                .tool
                .unusable(&error)
                .hint("name an ECDSA P-256 key in the key source"),
            error => self
                .tool
                .unusable(&error)
                .hint("the plugin must give the public key in PEM, or in Base64 of its DER"),
        })
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        let request = self.request("sign", Some(BASE64_STANDARD.encode(challenge)));
        let (reply, stdout) = self.ask("sign with", &request)?;
        let Some(signature) = reply.signature else {
            return Err(self.broken("a reply with a signature", &stdout));
        };
        Signature::from_base64(&signature).map_err(|_| {
            let wanted = "the plugin must give the signature in Base64 of its ASN.1 DER";
            self.tool
                .unexpected("a signature in Base64 of its DER", signature.as_bytes())
                .hint(match signature::describe(signature.as_bytes()) {
                    Some(found) => format!("{wanted}; this looks like {found}"),
                    None => wanted.to_owned(),
                })
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

    /// Runs the plugin for one request; returns its reply, parsed and as it stands.
    fn ask(&self, doing: &str, request: &Request<'_>) -> Result<(Reply, Vec<u8>)> {
        let hello = json!({ "qkey": env!("CARGO_PKG_VERSION"), "versions": [VERSION] });
        let command = self
            .tool
            .command()
            .stdin(format!("{hello}\n{}\n", json!(request)));
        let output = match command.run() {
            Ok(output) => output,
            // One that ends with an error code may still have told the reason as a plugin should.
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
            .ok_or_else(|| self.broken("one line of JSON, as a reply is", &output.stdout))?;
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
        let (hint, reason) = (refusal.hint(), refusal.reason());
        let said = Some(excerpt_end(stderr)).filter(|said| !said.is_empty());
        let cause = Refused {
            program: self.program.clone(),
            refusal,
            stderr: said.map(Stderr),
        };
        self.cannot(doing)
            .because(reason)
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
            .hint("update the older of the two")
    }

    /// The error for a reply that the protocol does not allow.
    fn broken(&self, expected: &'static str, stdout: &[u8]) -> Error {
        self.tool
            .unexpected(expected, stdout)
            .hint("the plugin does not keep to its protocol (docs/plugins.md): tell its makers")
    }

    fn cannot(&self, doing: &str) -> Error {
        Error::new(ErrorKind::Key, format!("cannot {doing} {}", self.title))
    }
}

/// Takes stdout, if it is one line with a reply; the newline at its end may be missing.
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
    fn a_source_is_a_name_and_a_reference() {
        for (text, name, reference) in [
            ("plugin:card-2:slot 9c", "card-2", "slot 9c"),
            ("plugin:a:pkcs11:object=b%3Fc", "a", "pkcs11:object=b?c"),
            ("plugin:a:", "a", ""),
            ("plugin:a:-x/../y", "a", "-x/../y"),
        ] {
            assert_eq!(parsed(text), Ok((name.to_owned(), reference.to_owned())));
        }
        for (text, why) in [
            ("plugin:card", "no reference to a key follows"),
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
    fn a_reply_is_one_line() {
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
