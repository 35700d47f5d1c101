//! The grammar of key sources, and the registry of their kinds.
//!
//! A key source is a path or a URI. What follows `?` are attributes, `name=value` with `&`
//! between, in every kind alike; their values are percent-decoded (RFC 3986, section 2.1).

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Context, KeySource, Opened, agent, aws, azure, file, gcp, openssl, pkcs11, plugin, vault,
};
use crate::{
    config::expand_home,
    error::{Error, Kind as ErrorKind, Result},
    keyfile::Format,
    public_key::PublicKey,
    secret::SecretSource,
    suggest,
    text::quoted,
};

/// One kind of key source.
pub struct Kind {
    /// What stands before the `:`.
    pub scheme: &'static str,
    /// How such a source is written, for the table in errors and in `--help`.
    pub form: &'static str,
    /// The attributes it takes, without the ways to give a secret.
    pub attributes: &'static [&'static str],
    /// The attribute family of its secret: `passphrase` or `pin`.
    pub secret: Option<&'static str>,
    pub open: Open,
    /// Makes a new key there, never over an existing one; missing where none can be made.
    pub generate: Option<Make>,
}

/// Opens a key source, without asking anybody.
pub type Open = fn(&Source, &Arc<Context>) -> Result<Opened>;

/// Makes a new key.
pub type Make = fn(&Source, &Arc<Context>, &Generate) -> Result<Generated>;

/// Every kind of key source there is.
pub static KINDS: &[&Kind] = &[
    &file::KIND,
    &agent::KIND,
    &plugin::KIND,
    &aws::KIND,
    &gcp::KIND,
    &azure::KIND,
    &vault::KIND,
    &pkcs11::KIND,
    &openssl::KIND,
];

/// The four ways to give a secret, as endings of an attribute's name.
const SECRET_WAYS: [&str; 4] = ["env", "file", "fd", "command"];

/// The attribute of RFC 7512, section 2.4, that holds the PIN itself.
const PIN_VALUE: &str = "pin-value";

/// How a new key is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Generate {
    /// The container of a key in a file.
    pub format: Option<Format>,
    /// Ask for a passphrase for a key in a file, where no attribute gives one.
    pub encrypt: bool,
}

/// A key that was made.
pub struct Generated {
    /// The source to use from then on, as a user writes it.
    pub source: String,
    pub public_key: PublicKey,
}

/// A parsed key source.
#[derive(Clone)]
pub struct Source {
    text: String,
    kind: &'static Kind,
    raw: String,
    body: String,
    attributes: Vec<(String, String)>,
}

impl Source {
    /// Parses a path or a URI.
    ///
    /// # Errors
    /// Of kind `usage`: an unknown scheme or attribute, or bad percent-encoding.
    pub fn parse(text: &str) -> Result<Self> {
        let shown = redacted(text);
        let invalid = |why: String| {
            Error::new(
                ErrorKind::Usage,
                format!("{shown:?} is not a key source: {why}"),
            )
        };
        if text.is_empty() {
            return Err(invalid("it is empty".to_owned()).hint(table()));
        }
        let (scheme, rest) = match split_scheme(text) {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let kind = match scheme {
            None => &file::KIND,
            Some(scheme) => KINDS
                .iter()
                .find(|kind| kind.scheme == scheme)
                .ok_or_else(|| invalid(format!("there is no scheme {scheme:?}")).hint(table()))?,
        };
        let (body, query) = match rest.split_once('?') {
            Some((body, query)) => (body, query),
            None => (rest, ""),
        };
        let (decoded, raw) = match scheme {
            // A plain path is taken as it is, `%` and all.
            None => (body.to_owned(), body),
            // Its attributes are decoded one by one, and need not be UTF-8.
            Some(scheme) if scheme == pkcs11::KIND.scheme => (body.to_owned(), body),
            Some(_) => (percent_decode(body).map_err(invalid)?, body),
        };
        if body.is_empty() {
            return Err(invalid("nothing stands before the attributes".to_owned()).hint(table()));
        }
        let mut attributes = Vec::new();
        for attribute in query.split('&').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = attribute
                .split_once('=')
                .ok_or_else(|| invalid(format!("the attribute {attribute:?} has no value")))?;
            if !kind.takes(name) {
                return Err(invalid(format!("it has no attribute {name:?}")).hint(kind.help(name)));
            }
            if attributes.iter().any(|(other, _)| other == name) {
                return Err(invalid(format!("the attribute {name:?} is given twice")));
            }
            let value = percent_decode(value).map_err(|why| match name {
                PIN_VALUE => invalid(format!(
                    "the attribute {name:?} is not percent-encoded UTF-8"
                )),
                _ => invalid(why),
            })?;
            attributes.push((name.to_owned(), value));
        }
        let source = Self {
            text: shown.clone(),
            kind,
            raw: raw.to_owned(),
            body: decoded,
            attributes,
        };
        source.secret()?;
        Ok(source)
    }

    /// The same source with its relative paths based on `folder`, and `~` on the home directory.
    pub fn based_on(mut self, folder: &Path) -> Self {
        let base = |text: &mut String| {
            let mut path = PathBuf::from(&*text);
            expand_home(&mut path);
            // Both parts were UTF-8, or came from the system as a path that is.
            *text = folder.join(path).to_string_lossy().into_owned();
        };
        let names_file = match self.kind.scheme {
            scheme if scheme == file::KIND.scheme => !self.reads_stdin(),
            scheme if scheme == openssl::KIND.scheme => openssl::names_file(&self),
            _ => false,
        };
        if names_file {
            base(&mut self.body);
        }
        for (name, value) in &mut self.attributes {
            match name.as_str() {
                "pin-source" if !value.starts_with('|') => {
                    *value = value.trim_start_matches("file:").to_owned();
                    base(value);
                }
                // Without a folder it is looked for in the usual ones.
                "module-path" if value.contains('/') => base(value),
                name if name.ends_with("-file") => base(value),
                _ => {}
            }
        }
        self
    }

    /// The error for a source whose kind does not allow what stands in it.
    pub fn invalid(&self, why: impl fmt::Display) -> Error {
        let message = format!("{:?} is not a key source: {why}", self.text);
        Error::new(ErrorKind::Usage, message)
    }

    /// The source as it was written, but for a PIN in it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What stands between the scheme and the attributes, percent-decoded in a URI.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// What stands between the scheme and the attributes, as it was written: for a grammar whose
    /// own delimiters may be percent-encoded.
    pub fn raw_body(&self) -> &str {
        &self.raw
    }

    /// An attribute's value, percent-decoded.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether it reads stdin, which can be read once.
    pub fn reads_stdin(&self) -> bool {
        file::is_stdin(self)
    }

    /// Where the passphrase or PIN comes from, if the source says so.
    ///
    /// # Errors
    /// When it says so twice, or names no file descriptor.
    pub fn secret(&self) -> Result<Option<SecretSource>> {
        let Some(family) = self.kind.secret else {
            return Ok(None);
        };
        let mut ways = self.attributes.iter().filter_map(|(name, value)| {
            let way = name.strip_prefix(family)?.strip_prefix('-')?;
            SECRET_WAYS.contains(&way).then_some((way, value))
        });
        let Some((way, value)) = ways.next() else {
            return Ok(None);
        };
        if ways.next().is_some() {
            let message = format!("{:?} gives its {family} in two ways", self.text);
            return Err(Error::new(ErrorKind::Usage, message));
        }
        Ok(Some(match way {
            "env" => SecretSource::Env(value.clone()),
            "file" => SecretSource::File(PathBuf::from(value)),
            "command" => SecretSource::Command(value.clone()),
            _ => SecretSource::Fd(value.parse().map_err(|_| {
                let message = format!("{value:?} in {:?} is no file descriptor", self.text);
                Error::new(ErrorKind::Usage, message)
                    .hint(format!("give a number, as in {family}-fd=3"))
            })?),
        }))
    }

    /// Makes a new key there.
    ///
    /// # Errors
    /// When there is one already, or none can be made.
    pub fn generate(&self, context: &Arc<Context>, how: &Generate) -> Result<Generated> {
        let scheme = self.kind.scheme;
        let Some(generate) = self.kind.generate else {
            let message = format!("no key can be made in {:?}", self.text);
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("make it by its own means, or make a key file: `qkey generate PATH`"));
        };
        if scheme != file::KIND.scheme && (how.format.is_some() || how.encrypt) {
            let message = format!("--format and --encrypt are for key files, not for {scheme}");
            return Err(Error::new(ErrorKind::Usage, message).hint("leave them out"));
        }
        generate(self, context, how)
    }
}

/// A source with what is needed to open it.
#[derive(Clone)]
pub struct Openable {
    pub source: Source,
    pub context: Arc<Context>,
    /// The name in the configuration file, if it comes from there.
    pub name: Option<String>,
}

impl KeySource for Openable {
    fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} ({})", self.source.text),
            None => self.source.text.clone(),
        }
    }

    fn open(&self) -> Result<Opened> {
        (self.source.kind.open)(&self.source, &self.context).map_err(|error| match &self.name {
            Some(name) => error.about(&format!("key {}", quoted(name))),
            None => error,
        })
    }
}

impl Kind {
    fn attribute_names(&self) -> Vec<String> {
        let plain = self.attributes.iter().map(ToString::to_string);
        let secret = self
            .secret
            .into_iter()
            .flat_map(|family| SECRET_WAYS.iter().map(move |way| format!("{family}-{way}")));
        plain.chain(secret).collect()
    }

    fn takes(&self, name: &str) -> bool {
        self.attribute_names().iter().any(|known| known == name)
    }

    fn help(&self, wrong: &str) -> String {
        let names = self.attribute_names();
        if names.is_empty() {
            let scheme = self.scheme;
            return format!(
                "{scheme} takes no attributes; a `?` that belongs to it is written %3F"
            );
        }
        let nearest = suggest::nearest(wrong, names.iter().map(String::as_str))
            .map(|near| format!("did you mean {near:?}? "))
            .unwrap_or_default();
        format!(
            "{nearest}{} takes {}; a `?` that belongs to a path is written file:…%3F",
            self.scheme,
            names.join(", ")
        )
    }
}

/// Every form there is, for hints.
fn table() -> String {
    let forms: Vec<&str> = KINDS.iter().map(|kind| kind.form).collect();
    format!(
        "a key source is one of: {}, or the name of a key in the configuration file; \
         a path whose name holds a `:` is written ./PATH",
        forms.join("; ")
    )
}

/// `scheme:` as RFC 3986, section 3.1 has it.
pub fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut chars = scheme.chars();
    let first = chars.next()?;
    let rest_is_scheme = chars.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (first.is_ascii_alphabetic() && rest_is_scheme).then_some((scheme, rest))
}

/// Strict: a `%` that begins no escape is an error, and so is what is not UTF-8.
pub fn percent_decode(text: &str) -> std::result::Result<String, String> {
    String::from_utf8(percent_decode_bytes(text)?)
        .map_err(|_| format!("{text:?} does not decode to UTF-8"))
}

/// Strict: a `%` that begins no escape is an error.
pub fn percent_decode_bytes(text: &str) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = tail;
            continue;
        }
        let escape = tail.get(..2).unwrap_or_default();
        let decoded = base16ct::mixed::decode_vec(escape)
            .ok()
            .filter(|decoded| decoded.len() == 1)
            .ok_or_else(|| format!("in {text:?} a `%` begins no escape (write `%25`)"))?;
        bytes.extend(decoded);
        rest = &tail[2..];
    }
    Ok(bytes)
}

/// A source as a user writes it, without the PIN that may stand in it, at whatever place and
/// under whatever name.
pub fn redacted(text: &str) -> String {
    const DELIMITERS: [char; 4] = [':', '?', '&', ';'];
    let has_scheme = split_scheme(text).is_some();
    let mut shown = String::with_capacity(text.len());
    let mut in_pin = false;
    for piece in text.split_inclusive(DELIMITERS) {
        let pin = piece
            .split_once('=')
            .filter(|(name, _)| !in_pin && holds_pin(name, has_scheme));
        match pin {
            Some((name, _)) => shown.extend([name, "=…"]),
            None if !in_pin => shown.push_str(piece),
            None => {}
        }
        // A PIN may hold the other delimiters.
        in_pin = (in_pin || pin.is_some()) && !piece.ends_with('&');
        if !in_pin && piece.ends_with('&') && !shown.ends_with('&') {
            shown.push('&');
        }
    }
    shown
}

/// Whether an attribute, known or mistyped, holds a PIN rather than says where it is.
fn holds_pin(name: &str, has_scheme: bool) -> bool {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix("pin-") {
        Some("source") => false,
        Some(way) => !SECRET_WAYS.contains(&way),
        None => has_scheme && name == "pin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let error = Source::parse(text).err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::Usage);
        format!("{error} / {}", error.hint_text().unwrap_or_default())
    }

    #[test]
    fn a_path_is_taken_as_it_is_and_a_uri_decoded() {
        for (text, body) in [
            ("key.pem", "key.pem"),
            ("./a:b", "./a:b"),
            ("/tmp/100%.pem", "/tmp/100%.pem"),
            ("file:/tmp/a%3Fb", "/tmp/a?b"),
            ("-", "-"),
            ("key?passphrase-env=X", "key"),
        ] {
            assert_eq!(Source::parse(text).ok().unwrap().body(), body, "{text}");
        }
    }

    #[test]
    fn a_relative_path_is_based_on_a_folder() {
        for (text, body) in [
            ("a.pem", "/etc/qkey/a.pem"),
            ("file:a.pem", "/etc/qkey/a.pem"),
            ("/a.pem", "/a.pem"),
            ("-", "-"),
        ] {
            let source = Source::parse(text).ok().unwrap();
            assert_eq!(source.based_on(Path::new("/etc/qkey")).body(), body);
        }
        let source = Source::parse("a?passphrase-file=b").ok().unwrap();
        assert_eq!(
            source.based_on(Path::new("/etc")).secret().unwrap(),
            Some(SecretSource::File(PathBuf::from("/etc/b")))
        );
    }

    #[test]
    fn a_secret_comes_from_one_attribute() {
        let secret = |text: &str| Source::parse(text).ok().unwrap().secret().unwrap();
        assert_eq!(secret("key"), None);
        assert_eq!(
            secret("key?passphrase-command=pass%20a%26b"),
            Some(SecretSource::Command("pass a&b".into()))
        );
        assert_eq!(secret("key?passphrase-fd=3"), Some(SecretSource::Fd(3)));
        assert_eq!(
            secret("key?passphrase-file="),
            Some(SecretSource::File(PathBuf::new()))
        );
    }

    #[test]
    fn a_pin_is_never_shown() {
        for (text, shown) in [
            (
                "pkcs11:object=O?pin-value=1&module-path=/m",
                "pkcs11:object=O?pin-value=…&module-path=/m",
            ),
            (
                "pkcs11:object=O?module-path=/m&pin-value=1?2;3",
                "pkcs11:object=O?module-path=/m&pin-value=…",
            ),
            ("pkcs11:pin-value=1;object=O", "pkcs11:pin-value=…"),
            (
                "PKCS11:object=O?PIN-VALUE=1&pin-value=2",
                "PKCS11:object=O?PIN-VALUE=…&pin-value=…",
            ),
            (
                "pkcs11:object=O?pin-valu=1&pin-file=a",
                "pkcs11:object=O?pin-valu=…&pin-file=a",
            ),
            (
                "pkcs11:object=O?pin=1&&pin-env=P",
                "pkcs11:object=O?pin=…&&pin-env=P",
            ),
            ("pin=value.pem", "pin=value.pem"),
        ] {
            assert_eq!(redacted(text), shown);
        }
        let source = Source::parse("pkcs11:object=O?pin-value=1").ok().unwrap();
        assert_eq!(source.text(), "pkcs11:object=O?pin-value=…");
        assert_eq!(source.attribute("pin-value"), Some("1"));
        for wrong in [
            "pkcs11:object=O?pin-value=77%",
            "nosuch:x?pin-value=77",
            "k?pin-value=77",
        ] {
            let error = error(wrong);
            assert!(!error.contains("77"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, message) in [
            (
                "awskm:///x",
                "\"awskm:///x\" is not a key source: there is no scheme \"awskm\"",
            ),
            ("", "\"\" is not a key source: it is empty"),
            (
                "k?x=1",
                "\"k?x=1\" is not a key source: it has no attribute \"x\"",
            ),
            (
                "k?passphrase-env",
                "\"k?passphrase-env\" is not a key source: the attribute \"passphrase-env\" has no value",
            ),
            (
                "k?passphrase-fd=x",
                "\"x\" in \"k?passphrase-fd=x\" is no file descriptor",
            ),
            (
                "k?passphrase-fd=1&passphrase-env=X",
                "\"k?passphrase-fd=1&passphrase-env=X\" gives its passphrase in two ways",
            ),
            (
                "k?passphrase-fd=1&passphrase-fd=1",
                "\"k?passphrase-fd=1&passphrase-fd=1\" is not a key source: the attribute \"passphrase-fd\" is given twice",
            ),
            (
                "file:%zz",
                "\"file:%zz\" is not a key source: in \"%zz\" a `%` begins no escape (write `%25`)",
            ),
            (
                "file:?passphrase-fd=1",
                "\"file:?passphrase-fd=1\" is not a key source: nothing stands before the attributes",
            ),
        ] {
            let error = error(text);
            assert_eq!(error.split(" / ").next(), Some(message));
        }
        assert!(error("k?pasphrase-env=X").contains("did you mean \"passphrase-env\"?"));
    }
}
