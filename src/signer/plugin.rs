//! The user's own programs: `qkey-signer-NAME` runs once per request and speaks the protocol of
//! `docs/plugins.md`.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Context, Note, Opened,
    source::{Source, SourceKind},
    tool::{self, Table, Tool, Vendor, classify, table},
};
use crate::{
    error::{Error, Result},
    public_key::PublicKey,
    signature::Signature,
    subprocess::{Failure, Output, excerpt_end},
    text,
};

pub static KIND: SourceKind = SourceKind::new("plugin", FORM, open);

const FORM: &str = "plugin:NAME:REFERENCE";

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
#[serde(expecting = "an object")]
struct Reply {
    version: Option<u64>,
    /// PEM or Base64 of the DER SubjectPublicKeyInfo.
    public_key: Option<String>,
    /// Base64 of the ASN.1 DER.
    signature: Option<String>,
    error: Option<Refusal>,
}

/// Why a plugin did not do what it was asked.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
struct Refusal {
    kind: String,
    message: String,
    hint: Option<String>,
}

/// The kinds of refusals, and the next step if the plugin does not name one.
const REFUSALS: Table = table! {
    r"\Anot-found\z" => NotFound, "check what follows plugin:NAME: in the key source";
    r"\Adenied\z" => Denied, "log in to the service that holds the key, or get the permission";
    r"\Awrong-secret\z" => WrongSecret,
        "check the PIN or passphrase that the plugin uses: a few wrong ones may lock the key";
    r"\Aunsupported\z" => Unsupported,
        "use an ECDSA P-256 key, or a newer version of the plugin";
};

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
        error.hint(format!("write it as {FORM}"))
    };
    let (name, reference) = source
        .body()
        .split_once(':')
        .ok_or_else(|| invalid("it must name a plugin and a key"))?;
    let in_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.is_empty() && name.chars().all(in_a_name) {
        Ok((name, reference))
    } else {
        Err(invalid(
            "a plugin's name has only lower-case letters, digits and hyphens",
        ))
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
        let encoding = "Base64 of ASN.1 DER";
        self.tool
            .signature(signature.as_str(), Signature::from_base64, encoding)
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
            // A plugin may both reply with an error and exit with one.
            Err(Failure::Exited { ref output, .. }) if is_refusal(output) => output.clone(),
            Err(failure) => return Err(self.tool.failed(doing, &failure)),
        };
        if !output.stderr.is_empty() {
            let stderr = excerpt_end(&output.stderr);
            log::debug!("{} on stderr: {stderr}", self.program);
        }
        let reply = parse_reply(&output.stdout)
            .ok_or_else(|| self.tool.unexpected("one line of JSON", &output.stdout))?;
        if let Some(refusal) = reply.error {
            return Err(self.refused(doing, &refusal, &output.stderr));
        }
        match reply.version {
            Some(VERSION) => Ok((reply, output.stdout)),
            Some(other) => {
                let why = format!(
                    "{} replied in version {other} of the plugin protocol; this qkey speaks {VERSION}",
                    self.program
                );
                let error = self.tool.cannot(doing).caused_by(&Note(why));
                Err(error.hint("update the plugin or qkey, whichever is older"))
            }
            None => {
                let expected = "a reply with a version";
                Err(self.tool.unexpected(expected, &output.stdout))
            }
        }
    }

    /// A refusal in the plugin's words; its stderr may say more.
    fn refused(&self, doing: &str, refusal: &Refusal, stderr: &[u8]) -> Error {
        let Refusal {
            kind,
            message,
            hint,
        } = refusal;
        let (name, reason, next) = match classify(REFUSALS, kind) {
            Some(row) => (kind.as_str(), row.reason, row.hint),
            None => ("failed", None, "see the plugin's documentation"),
        };
        let said = format!("{} replied {name}: {message}", self.program);
        let mut error = self.tool.cannot(doing).caused_by(&Note(said));
        let stderr = excerpt_end(stderr);
        if !stderr.is_empty() {
            error = error.caused_by(&Note(format!("stderr: {stderr}")));
        }
        let hint = hint.as_deref().map(text::excerpt);
        error
            .because(reason)
            .hint(hint.unwrap_or_else(|| next.to_owned()))
    }
}

/// Parses stdout, which must be one line, with or without a newline.
fn parse_reply(stdout: &[u8]) -> Option<Reply> {
    let line = stdout.strip_suffix(b"\n").unwrap_or(stdout);
    if line.contains(&b'\n') {
        None
    } else {
        serde_json::from_slice(line).ok()
    }
}

fn is_refusal(output: &Output) -> bool {
    parse_reply(&output.stdout).is_some_and(|reply| reply.error.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::tool::tests::source;

    fn parsed(text: &str) -> std::result::Result<(String, String), String> {
        parse(&source(text))
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
