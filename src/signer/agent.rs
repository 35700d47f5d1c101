//! Keys in an ssh-agent, reached over the socket that `SSH_AUTH_SOCK` names (draft-miller-ssh-agent,
//! with the encodings of RFC 4251 and RFC 5656).
//!
//! The agent receives the challenge itself: `ecdsa-sha2-nistp256` keys hash it with SHA-256.

mod connection;

use std::{env, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};

use self::connection::Connection;
use super::{
    Caution, Context, Opened,
    source::{Source, SourceKind},
};
use crate::{
    encoding::{
        ssh_public,
        ssh_wire::{Reader, Writer},
    },
    error::{Error, Kind as ErrorKind, Reason, Result},
    public_key::PublicKey,
    signature::Signature,
};

pub static KIND: SourceKind = SourceKind::new(
    "ssh-agent",
    "ssh-agent:SHA256:FINGERPRINT or ssh-agent:COMMENT",
    open,
);

/// The longest message that an agent accepts, 256 KiB, minus room for a key and the framing.
const MAX_CHALLENGE: usize = 250_000;

/// Message numbers (draft-miller-ssh-agent, section 5.1).
mod message {
    pub(super) const FAILURE: u8 = 5;
    pub(super) const REQUEST_IDENTITIES: u8 = 11;
    pub(super) const IDENTITIES_ANSWER: u8 = 12;
    pub(super) const SIGN_REQUEST: u8 = 13;
    pub(super) const SIGN_RESPONSE: u8 = 14;
}

/// The next step after a reply that no agent should send.
const CHECK: &str = "check that `ssh-add -l` works with this agent";

fn failed(why: impl Into<String>, hint: &str) -> Error {
    Error::new(ErrorKind::Key, why).hint(hint)
}

/// The error for the user: what could not be done with the key source `title`.
fn cannot(doing: &str, title: &str, error: Error) -> Error {
    if error.kind().is_interruption() {
        let message = format!("interrupted before it could {doing} {title}");
        Error::new(error.kind(), message)
    } else {
        error.context(format!("cannot {doing} {title}"))
    }
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let wanted = Wanted::parse(source.body())?;
    let title = source.text().to_owned();
    let (agent, identity, public_key) =
        find(&wanted, context.timeout).map_err(|error| cannot("open", &title, error))?;
    let sign = move |challenge: &[u8]| {
        let signature = agent.sign(&identity.blob, challenge);
        signature.map_err(|error| cannot("sign with", &title, error))
    };
    Ok(Opened::Signer(super::signer(
        public_key,
        Caution::EveryUse,
        sign,
    )))
}

fn find(wanted: &Wanted, timeout: Duration) -> Result<(Agent, Identity, PublicKey)> {
    let agent = Agent::from_environment(timeout)?;
    let identity = wanted.choose(agent.identities()?)?;
    let public_key = PublicKey::from_ssh(&identity.blob).map_err(|error| {
        let hint = "use an ECDSA P-256 key (ecdsa-sha2-nistp256): create one with `ssh-keygen -t \
                    ecdsa -b 256 -f KEY` and add it with `ssh-add KEY`";
        failed(format!("cannot use {}", identity.title()), hint).caused_by(&error)
    })?;
    Ok((agent, identity, public_key))
}

struct Agent(Connection);

impl Agent {
    fn from_environment(timeout: Duration) -> Result<Self> {
        let socket = env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
        let socket = socket.ok_or_else(|| {
            let hint = "start an agent (`eval \"$(ssh-agent)\"`), add the key (`ssh-add KEY`), and \
                        run this in the same shell; with sudo, use `sudo \
                        --preserve-env=SSH_AUTH_SOCK`";
            failed("SSH_AUTH_SOCK is not set", hint)
        })?;
        Ok(Self(Connection::new(socket.into(), timeout)))
    }

    /// The keys that the agent lists.
    fn identities(&self) -> Result<Vec<Identity>> {
        let reply = self.0.exchange(&[message::REQUEST_IDENTITIES])?;
        let contents = contents(&reply, message::IDENTITIES_ANSWER, LIST)?;
        parse_identities(contents).ok_or_else(|| unexpected(&reply, LIST))
    }

    /// Signs with the key that `blob` identifies: the public key as the agent sent it.
    fn sign(&self, blob: &[u8], challenge: &[u8]) -> Result<Signature> {
        let length = challenge.len();
        if length > MAX_CHALLENGE {
            let why =
                format!("the challenge has {length} bytes; an agent signs at most {MAX_CHALLENGE}");
            return Err(failed(why, "sign it with a key file, which has no limit"));
        }
        let no_flags = 0;
        let request = Writer::with_capacity(length + blob.len() + 16)
            .bytes(&[message::SIGN_REQUEST])
            .string(blob)
            .string(challenge)
            .uint32(no_flags);
        let reply = self.0.exchange(&request.finish())?;
        let mut contents = Reader(contents(&reply, message::SIGN_RESPONSE, SIGNATURE)?);
        match contents.string() {
            Some(signature) if contents.0.is_empty() => Signature::from_ssh(signature)
                .map_err(|error| unexpected(signature, SIGNATURE).caused_by(&error)),
            _ => Err(unexpected(&reply, SIGNATURE)),
        }
    }
}

const LIST: &str = "a list of keys";
const SIGNATURE: &str = "a signature";

/// The contents of a reply of the expected type.
fn contents<'a>(reply: &'a [u8], number: u8, expected: &str) -> Result<&'a [u8]> {
    match reply {
        [first, contents @ ..] if *first == number => Ok(contents),
        [message::FAILURE, ..] => {
            let hint = "possible causes: the confirmation was declined (`ssh-add -c`), the agent is \
                        locked (unlock it with `ssh-add -X`), the key was removed, or the key is \
                        restricted to certain hosts (`ssh-add -h`)";
            Err(failed("the agent refused", hint).because(Reason::NeedsPerson))
        }
        _ => Err(unexpected(reply, expected)),
    }
}

fn unexpected(reply: &[u8], expected: &str) -> Error {
    let excerpt = excerpt(reply);
    let why = format!("unexpected reply from the agent instead of {expected}: {excerpt}");
    failed(why, CHECK)
}

/// The start of a reply, in hexadecimal.
fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let shown = base16ct::lower::encode_string(&bytes[..bytes.len().min(SHOWN)]);
    match bytes.len() {
        0 => "(nothing)".to_owned(),
        length if length > SHOWN => format!("{shown}…"),
        _ => shown,
    }
}

/// Parses a list of keys: a count, then each key and its comment. `None` if it is incomplete or has
/// trailing bytes.
fn parse_identities(contents: &[u8]) -> Option<Vec<Identity>> {
    let mut reader = Reader(contents);
    let count = reader.uint32()?;
    let identities = (0..count)
        .map(|_| {
            Some(Identity {
                blob: reader.string()?.to_vec(),
                comment: String::from_utf8_lossy(reader.string()?).into_owned(),
            })
        })
        .collect::<Option<Vec<Identity>>>()?;
    reader.0.is_empty().then_some(identities)
}

/// A key or certificate as an agent shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    blob: Vec<u8>,
    comment: String,
}

impl Identity {
    fn key_type(&self) -> &str {
        ssh_public::key_type(&self.blob).unwrap_or("a key of unknown type")
    }

    fn fingerprint(&self) -> String {
        ssh_public::fingerprint(&self.blob)
    }

    fn title(&self) -> String {
        let (key_type, comment) = (self.key_type(), &self.comment);
        format!("{key_type} {} {comment:?}", self.fingerprint())
    }
}

/// One per line.
fn titles(identities: &[Identity]) -> String {
    let titles: Vec<String> = identities.iter().map(Identity::title).collect();
    titles.join("\n")
}

/// Which key a source names.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// As `ssh-add -l` shows it, without padding.
    Fingerprint(String),
    Comment(String),
}

impl Wanted {
    fn parse(body: &str) -> Result<Self> {
        let Some(digits) = body.strip_prefix("SHA256:") else {
            return Ok(Self::Comment(body.to_owned()));
        };
        let digits = digits.strip_suffix('=').unwrap_or(digits);
        match BASE64_STANDARD_NO_PAD.decode(digits) {
            Ok(hash) if hash.len() == 32 => Ok(Self::Fingerprint(format!("SHA256:{digits}"))),
            _ => {
                let message =
                    format!("{body:?} is not a key fingerprint (SHA256: and 43 Base64 digits)");
                Err(Error::new(ErrorKind::Usage, message)
                    .hint("`ssh-add -l` shows the fingerprints of the keys in the agent"))
            }
        }
    }

    /// The one matching key among `identities`.
    fn choose(&self, identities: Vec<Identity>) -> Result<Identity> {
        let held = titles(&identities);
        let mut found: Vec<Identity> = identities
            .into_iter()
            .filter(|identity| self.means(identity))
            .collect();
        // `ssh-add` adds a certificate beside its key, with the same comment and fingerprint.
        if !found.iter().all(is_certificate) {
            found.retain(|identity| !is_certificate(identity));
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 if held.is_empty() => Err(failed(
                "the agent has no keys",
                "add the key with `ssh-add KEY`; if the agent is locked, unlock it with `ssh-add -X`",
            )),
            0 => Err(failed(
                format!("no key in the agent has the {self}; it has:\n{held}"),
                "add the key with `ssh-add KEY`, or use one of those listed",
            )),
            _ => Err(failed(
                format!(
                    "several keys in the agent have the {self}:\n{}",
                    titles(&found)
                ),
                "name the key by its fingerprint: ssh-agent:SHA256:…",
            )),
        }
    }

    fn means(&self, identity: &Identity) -> bool {
        match self {
            Self::Fingerprint(fingerprint) => *fingerprint == identity.fingerprint(),
            Self::Comment(comment) => *comment == identity.comment,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fingerprint(fingerprint) => write!(f, "fingerprint {fingerprint}"),
            Self::Comment(comment) => write!(f, "comment {comment:?}"),
        }
    }
}

fn is_certificate(identity: &Identity) -> bool {
    ssh_public::is_certificate(identity.key_type())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(key_type: &str, contents: &[u8], comment: &str) -> Identity {
        let blob = Writer::with_capacity(128).string(key_type.as_bytes());
        Identity {
            blob: blob.bytes(contents).finish().to_vec(),
            comment: comment.to_owned(),
        }
    }

    fn choose(body: &str, identities: &[Identity]) -> std::result::Result<Identity, String> {
        let wanted = Wanted::parse(body).unwrap();
        let chosen = wanted.choose(identities.to_vec());
        chosen.map_err(|error| error.to_string())
    }

    #[test]
    fn fingerprint_padding_is_optional() {
        let fingerprint = "SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4";
        for text in [fingerprint, &format!("{fingerprint}=")] {
            let wanted = Wanted::Fingerprint(fingerprint.to_owned());
            assert_eq!(Wanted::parse(text).unwrap(), wanted);
        }
        for text in [
            "me@host",
            "MD5:aa:bb",
            "sha256:abc",
            "/home/me/.ssh/id_ecdsa",
        ] {
            let wanted = Wanted::Comment(text.to_owned());
            assert_eq!(Wanted::parse(text).unwrap(), wanted);
        }
        for text in [
            "SHA256:",
            "SHA256:abc",
            &fingerprint[..49],
            &format!("{fingerprint}=="),
        ] {
            assert_eq!(Wanted::parse(text).unwrap_err().kind(), ErrorKind::Usage);
        }
    }

    #[test]
    fn ambiguous_comment_lists_matches() {
        let a = identity("ssh-ed25519", b"a", "a");
        let b = identity("ssh-ed25519", b"b", "b");
        let other_b = identity("ssh-rsa", b"b", "b");
        let held = [a.clone(), b.clone(), other_b.clone()];
        assert_eq!(choose("a", &held), Ok(a));
        assert_eq!(choose(&b.fingerprint(), &held), Ok(b.clone()));
        let error = choose("b", &held).unwrap_err();
        assert!(error.contains(&b.title()) && error.contains(&other_b.title()));
        let error = choose("c", &held).unwrap_err();
        assert!(error.contains("comment \"c\"") && error.contains(&b.title()));
        assert_eq!(choose("c", &[]).unwrap_err(), "the agent has no keys");
    }

    #[test]
    fn key_is_preferred_to_its_certificate() {
        let members = |nonce: &[&[u8]]| {
            let strings = [nonce, &[b"nistp256", b"point"]].concat();
            let writer = Writer::with_capacity(80);
            let writer = strings.into_iter().fold(writer, Writer::string);
            writer.finish().to_vec()
        };
        let key = identity("ecdsa-sha2-nistp256", &members(&[]), "me");
        let certificate = identity(
            "ecdsa-sha2-nistp256-cert-v01@openssh.com",
            &members(&[b"nonce"]),
            "me",
        );
        assert_eq!(certificate.fingerprint(), key.fingerprint());
        let both = [certificate.clone(), key.clone()];
        for body in ["me", &key.fingerprint()] {
            assert_eq!(choose(body, &both), Ok(key.clone()));
            assert_eq!(choose(body, &both[..1]), Ok(certificate.clone()));
        }
    }

    #[test]
    fn incomplete_key_list_is_rejected() {
        let list = Writer::with_capacity(64)
            .uint32(1)
            .string(b"blob")
            .string(b"\xff me");
        let list = list.finish();
        let parsed = parse_identities(&list).unwrap();
        assert_eq!(parsed[0].comment, "\u{fffd} me");
        for end in 0..list.len() {
            assert_eq!(parse_identities(&list[..end]), None, "{end}");
        }
        assert_eq!(parse_identities(&[&list[..], &[0]].concat()), None);
        assert_eq!(parse_identities(&[0xff; 4]), None);
    }
}
