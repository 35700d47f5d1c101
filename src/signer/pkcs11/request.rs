//! What a user asks of PKCS#11, and how it is told what went wrong.

use std::{fmt::Display, sync::Arc};

use super::{
    KIND,
    module::Failure,
    token::{Login, Pin, Token},
    uri::Uri,
};
use crate::{
    error::{Error, Kind as ErrorKind, Result},
    secret::{Secret, SecretSource},
    signer::{Context, never_asked, source::Source},
};

/// How many tokens or keys an error lists.
const LISTED: usize = 20;

/// What to do next about the code that a function returned.
const HINTS: &[(&str, &str)] = &[
    (
        "CKR_PIN_LOCKED",
        "unlock the token with its SO PIN or PUK, with the tool that came with it",
    ),
    (
        "CKR_PIN_EXPIRED",
        "set a new PIN with the tool that came with the token",
    ),
    (
        "CKR_TOKEN_NOT_PRESENT",
        "put the token back and run this again",
    ),
    (
        "CKR_DEVICE_REMOVED",
        "put the token back and run this again",
    ),
    (
        "CKR_FUNCTION_CANCELED",
        "run this again and give the PIN on the reader's keypad",
    ),
    (
        "CKR_MECHANISM_INVALID",
        "the token must offer CKM_ECDSA, or CKM_EC_KEY_PAIR_GEN for a new key: see `pkcs11-tool \
         --module MODULE --list-mechanisms`",
    ),
    (
        "CKR_SESSION_COUNT",
        "end the other programs that use the token",
    ),
];

/// A PKCS#11 key source, taken apart.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) title: String,
    pub(super) uri: Uri,
    pub(super) module_path: Option<String>,
    pub(super) module_name: Option<String>,
    pub(super) pin: Pin,
    pub(super) context: Arc<Context>,
}

impl Request {
    pub(super) fn new(source: &Source, context: &Arc<Context>) -> Result<Self> {
        let title = source.text().to_owned();
        let uri = Uri::parse(source.raw_body()).map_err(|why| {
            let hint = format!("it is written {}", KIND.form);
            source.invalid(why).hint(hint)
        })?;
        let owned = |name| source.attribute(name).map(str::to_owned);
        Ok(Self {
            pin: pin(source)?,
            module_path: owned("module-path"),
            module_name: owned("module-name"),
            title,
            uri,
            context: context.clone(),
        })
    }

    pub(super) fn error(&self, failure: &Failure) -> Error {
        error(&self.title, failure)
    }

    /// The error of a key that is not what is needed.
    pub(super) fn unusable(&self, why: String) -> Error {
        Error::new(ErrorKind::Key, format!("cannot use {}", self.title)).caused_by(&Note(why))
    }

    pub(super) fn not_opened(&self, why: String) -> Error {
        Error::new(ErrorKind::Key, format!("cannot open {}", self.title)).caused_by(&Note(why))
    }

    /// The error of an attribute with a PIN for a token that has none.
    pub(super) fn pin_never_asked(&self, token: &Token) -> Error {
        let why = format!("{token} signs without a login");
        never_asked(&self.title, &why, "the PIN in the key source")
            .hint("remove the attribute pin-…, or set a PIN with the tool that came with the token")
    }

    pub(super) fn login(&self) -> Login<'_> {
        Login {
            title: &self.title,
            pin: &self.pin,
            context: &self.context,
        }
    }
}

/// Where the PIN comes from: our own attributes, or RFC 7512's (section 2.4).
fn pin(source: &Source) -> Result<Pin> {
    let value = source
        .attribute("pin-value")
        .map(|pin| Pin::Given(Secret::from(pin.as_bytes().to_vec())));
    let rfc = source.attribute("pin-source").map(|place| {
        Pin::From(match place.strip_prefix('|') {
            Some(command) => SecretSource::Command(command.to_owned()),
            None => SecretSource::File(pin_file(place).into()),
        })
    });
    let ours = source.secret()?.map(Pin::From);
    let mut ways = [value, rfc, ours].into_iter().flatten();
    let pin = ways.next().unwrap_or(Pin::Person);
    match ways.next() {
        None => Ok(pin),
        Some(_) => Err(Error::new(
            ErrorKind::Usage,
            format!("{:?} gives its PIN in two ways", source.text()),
        )
        .hint("leave one of the pin attributes")),
    }
}

/// The path in a `pin-source`: `file:PATH`, `file:///PATH`, or the path alone.
fn pin_file(place: &str) -> &str {
    let path = place.strip_prefix("file:").unwrap_or(place);
    match path.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        _ => path,
    }
}

/// The error of opening a key source, with the next step where it is known.
pub(super) fn error(title: &str, failure: &Failure) -> Error {
    failure_error(format!("cannot open {title}"), failure)
}

pub(super) fn failure_error(message: String, failure: &Failure) -> Error {
    let hint = match failure {
        Failure::Interrupted(kind) => {
            return Error::new(*kind, format!("{message}: stopped by a signal"));
        }
        Failure::NotThere(_) | Failure::NotFound { .. } | Failure::NoneAnywhere(_) => Some(
            "install the token's module (Debian: softhsm2, opensc-pkcs11, libtpm2-pkcs11-1, \
             ykcs11), or name it with ?module-path=PATH or in PKCS11_MODULE",
        ),
        Failure::NotAModule { .. } => Some(
            "name the library that came with the token, as in \
             ?module-path=/usr/lib/softhsm/libsofthsm2.so",
        ),
        Failure::TimedOut(_) | Failure::Hangs => Some(
            "check the token and the service behind its module, or give it longer with --timeout \
             SECONDS",
        ),
        Failure::NoThread(_) => Some("raise the limit on processes or memory (see `ulimit -a`)"),
        Failure::Refused { .. } | Failure::Unexpected(_) => HINTS
            .iter()
            .find(|(code, _)| failure.is(code))
            .map(|(_, hint)| *hint),
    };
    Error::new(ErrorKind::Key, message)
        .caused_by(failure)
        .maybe_hint(hint.map(str::to_owned))
}

/// A cause that is no error of any library.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Note(pub(super) String);

/// Things found, on one line.
pub(super) fn list(items: &[impl Display]) -> String {
    let mut shown: Vec<String> = items.iter().map(ToString::to_string).collect();
    shown.sort();
    shown.truncate(LISTED);
    match items.len() {
        0 => return "no key at all".to_owned(),
        count if count > LISTED => shown.push(format!("and {} more", count - LISTED)),
        _ => {}
    }
    shown.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_source_names_a_file_or_a_command() {
        for (place, path) in [
            ("file:/etc/pin", "/etc/pin"),
            ("file:///etc/pin", "/etc/pin"),
            ("file:pin", "pin"),
            ("/etc/pin", "/etc/pin"),
        ] {
            assert_eq!(pin_file(place), path);
        }
        let source = crate::signer::registry::parse("pkcs11:object=O?pin-source=%7Cpass%20show")
            .ok()
            .unwrap();
        let Pin::From(command) = pin(&source).ok().unwrap() else {
            panic!("a command was given");
        };
        assert_eq!(command, SecretSource::Command("pass show".into()));
    }

    #[test]
    fn a_pin_comes_one_way() {
        let source = crate::signer::registry::parse("pkcs11:object=O?pin-value=1234&pin-env=P")
            .ok()
            .unwrap();
        let error = pin(&source).err().unwrap();
        assert_eq!(
            error.message(),
            "\"pkcs11:object=O?pin-value=…&pin-env=P\" gives its PIN in two ways"
        );
    }
}
