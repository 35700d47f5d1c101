//! A parsed PKCS#11 key source, and its errors.

use std::sync::Arc;

use super::{
    KIND,
    failure::{self, ModuleError, Note},
    token::{Login, Pin, Token},
    uri::Uri,
};
use crate::{
    error::{Error, Kind as ErrorKind, Result},
    secret::{Secret, SecretSource},
    signer::{Context, never_asked, source::Source},
};

/// A parsed PKCS#11 key source.
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
            let hint = format!("the syntax is {}", KIND.form);
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

    pub(super) fn error(&self, failure: &ModuleError) -> Error {
        failure::error(&self.title, failure)
    }

    /// The error of a key that cannot be used.
    pub(super) fn unusable(&self, why: String) -> Error {
        Error::new(ErrorKind::Key, format!("cannot use {}", self.title)).caused_by(&Note(why))
    }

    pub(super) fn not_opened(&self, why: String) -> Error {
        Error::new(ErrorKind::Key, format!("cannot open {}", self.title)).caused_by(&Note(why))
    }

    /// The error of a PIN attribute for a token without a login.
    pub(super) fn pin_never_asked(&self, token: &Token) -> Error {
        let why = format!("{token} signs without a login");
        never_asked(&self.title, &why, "the PIN in the key source")
            .hint("remove the pin-… attribute, or set a PIN with the token's own tool")
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
            format!("{:?} has more than one source for the PIN", source.text()),
        )
        .hint("keep only one of the pin attributes")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_source_is_file_or_command() {
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
    fn two_pin_sources_are_rejected() {
        let source = crate::signer::registry::parse("pkcs11:object=O?pin-value=1234&pin-env=P")
            .ok()
            .unwrap();
        let error = pin(&source).err().unwrap();
        assert_eq!(
            error.message(),
            "\"pkcs11:object=O?pin-value=…&pin-env=P\" has more than one source for the PIN"
        );
    }
}
