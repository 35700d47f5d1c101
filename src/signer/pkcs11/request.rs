//! A parsed PKCS#11 key source, and its errors.

use std::{fmt::Display, sync::Arc};

use super::{
    FORM,
    failure::{ModuleError, failure_error},
    uri::Uri,
};
use crate::{
    error::{Error, Kind as ErrorKind, Result},
    secret::{Secret, SecretSource},
    signer::{Context, never_asked, source::Source},
};

/// Where the PIN comes from.
#[derive(Clone)]
pub(super) enum Pin {
    /// In the URI.
    Given(Secret),
    From(SecretSource),
    /// Not to be tried, for this reason.
    Withheld(Error),
    /// Not given: from the reader's keypad or the terminal.
    Person,
}

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
            let hint = format!("the syntax is {FORM}");
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

    /// The error of a call that failed while the key was being opened.
    pub(super) fn error(&self, failure: &ModuleError) -> Error {
        self.failed("open", failure)
    }

    /// The error of a failed call; `doing` completes "cannot …".
    pub(super) fn failed(&self, doing: &str, failure: &ModuleError) -> Error {
        failure_error(format!("cannot {doing} {}", self.title), failure)
    }

    /// The error of something else that failed.
    pub(super) fn cannot(&self, doing: &str, why: String) -> Error {
        Error::new(ErrorKind::Key, why).context(format!("cannot {doing} {}", self.title))
    }

    /// The error of a PIN attribute for a token without a login.
    pub(super) fn pin_never_asked(&self, token: &impl Display) -> Error {
        let why = format!("{token} signs without a login");
        never_asked(&self.title, &why, "the PIN in the key source")
            .hint("remove the pin-… attribute, or set a PIN with the token's own tool")
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
    if ways.next().is_none() {
        Ok(pin)
    } else {
        let title = source.text();
        let message = format!("{title:?} has more than one source for the PIN");
        let error = Error::new(ErrorKind::Usage, message);
        Err(error.hint("keep only one of the pin attributes"))
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
    use crate::signer::tool::tests::source;

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
        let source = source("pkcs11:object=O?pin-source=%7Cpass%20show");
        let Pin::From(command) = pin(&source).ok().unwrap() else {
            panic!("a command was given");
        };
        assert_eq!(command, SecretSource::Command("pass show".into()));
    }

    #[test]
    fn two_pin_sources_are_rejected() {
        let source = source("pkcs11:object=O?pin-value=1234&pin-env=P");
        let error = pin(&source).err().unwrap();
        assert_eq!(
            error.message(),
            "\"pkcs11:object=O?pin-value=…&pin-env=P\" has more than one source for the PIN"
        );
    }
}
