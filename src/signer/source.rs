//! The grammar of key sources, and the registry of their kinds.
//!
//! A key source is a path or a URI. What follows `?` are attributes, `name=value` with `&`
//! between, in every kind alike; their values are percent-decoded (RFC 3986, section 2.1).

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Context, KeySource, Opened, Signer, agent, aws, azure, file, gcp, openssl, pkcs11, plugin,
    refusals::Guarded, vault,
};
use crate::{
    error::{Error, Kind as ErrorKind, Result},
    input,
    keyfile::Format,
    public_key::PublicKey,
    redact::{HIDDEN, redact},
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
    /// What stands between the scheme and the attributes.
    pub body: Body,
    /// The attributes it takes, without the ways to give a secret.
    pub attributes: &'static [&'static str],
    /// Those of the attributes that hold a secret itself, and are never shown.
    pub confidential: &'static [&'static str],
    /// The path in the value of an attribute (its name, its value), if that is one.
    pub path_in: for<'v> fn(&str, &'v str) -> Option<&'v str>,
    /// The attribute family of its secret: `passphrase` or `pin`.
    pub secret: Option<&'static str>,
    pub open: Open,
    /// Makes a new key there, never over an existing one; missing where none can be made.
    pub generate: Option<Make>,
}

/// What stands between the scheme and the attributes of a key source.
pub enum Body {
    /// A path, where this function does not say otherwise.
    Path(fn(&Source) -> bool),
    Text,
    /// Attributes of its own, whose delimiters may be percent-encoded.
    Encoded,
}

/// For a kind without paths in its attributes.
pub fn no_path<'v>(_: &str, _: &'v str) -> Option<&'v str> {
    None
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
    /// As it was written, but for what may be secret.
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
                format!("{} is not a key source: {}", quoted(&shown), redact(&why)),
            )
        };
        if text.is_empty() {
            return Err(invalid("it is empty".to_owned()).hint(table()));
        }
        let parts = Parts::of(text);
        let kind = match (parts.scheme, parts.kind()) {
            (_, Some(kind)) => kind,
            (scheme, None) => {
                let scheme = quoted(scheme.unwrap_or_default());
                return Err(invalid(format!("there is no scheme {scheme}")).hint(table()));
            }
        };
        if parts.body.is_empty() {
            return Err(invalid("nothing stands before the attributes".to_owned()).hint(table()));
        }
        let body = match (parts.scheme, &kind.body) {
            // A plain path is taken as it is, `%` and all.
            (None, _) | (_, Body::Encoded) => parts.body.to_owned(),
            (Some(_), Body::Path(_) | Body::Text) => {
                percent_decode(parts.body).map_err(|why| invalid(why.to_string()))?
            }
        };
        let mut attributes: Vec<(String, String)> = Vec::new();
        let hides = |attributes: &[(String, String)]| {
            let mut attributes = attributes.iter();
            attributes.any(|(name, value)| !kind.shows(name, value))
        };
        for attribute in parts.attributes() {
            let Some((name, value)) = attribute.split_once('=') else {
                return Err(invalid("an attribute has no value".to_owned()).hint(kind.help("")));
            };
            if !kind.takes(name) && hides(&attributes) {
                // It may be the rest of a secret.
                return Err(
                    invalid("an attribute after a hidden one is unknown".to_owned())
                        .hint("write a `&` that is part of a value as %26"),
                );
            }
            if !kind.takes(name) {
                return Err(
                    invalid(format!("it has no attribute {}", quoted(name))).hint(kind.help(name))
                );
            }
            if attributes.iter().any(|(other, _)| other == name) {
                return Err(invalid(format!("the attribute {name:?} is given twice")));
            }
            let value = percent_decode(value)
                .map_err(|why| invalid(format!("the attribute {name:?}: {why}")))?;
            attributes.push((name.to_owned(), value));
        }
        let mut source = Self {
            text: shown.clone(),
            kind,
            raw: parts.body.to_owned(),
            body,
            attributes,
        };
        source.replace_paths(|path| {
            let mut path = PathBuf::from(path);
            expand_home(&mut path);
            path
        })?;
        if source.secret()?.is_some_and(|secret| secret.reads_stdin()) && source.body_is_stdin() {
            return Err(invalid(
                "the key and its passphrase are both to be read from stdin".to_owned(),
            )
            .hint("stdin can be read once; put one of them into a file"));
        }
        Ok(source)
    }

    /// The same source with its relative paths based on `folder`.
    ///
    /// # Errors
    /// Of kind `usage` when the folder's name is not UTF-8.
    pub fn based_on(mut self, folder: &Path) -> Result<Self> {
        self.replace_paths(|path| folder.join(path))?;
        Ok(self)
    }

    fn replace_paths(&mut self, replaced: impl Fn(&str) -> PathBuf) -> Result<()> {
        let text = self.text.clone();
        let replaced = |path: &str| {
            replaced(path)
                .into_os_string()
                .into_string()
                .map_err(|path| {
                    let message = format!("{} of {} is not UTF-8", path.display(), quoted(&text));
                    Error::new(ErrorKind::Usage, message).hint("take a folder with another name")
                })
        };
        if let Body::Path(names_file) = &self.kind.body
            && names_file(self)
        {
            self.body = replaced(&self.body)?;
        }
        for (name, value) in &mut self.attributes {
            let path = match self.kind.secret_way(name) {
                Some("file") => Some(value.as_str()),
                _ => (self.kind.path_in)(name, value),
            };
            if let Some(path) = path {
                *value = replaced(path)?;
            }
        }
        Ok(())
    }

    /// The error for a source whose kind does not allow what stands in it.
    pub fn invalid(&self, why: impl fmt::Display) -> Error {
        let why = redact(&why.to_string());
        let message = format!("{} is not a key source: {why}", quoted(&self.text));
        Error::new(ErrorKind::Usage, message)
    }

    /// What tells it from all other sources. A PIN that stands in it does not: one that was refused
    /// is not followed by another.
    fn parts(&self) -> Vec<String> {
        let open = |(name, _): &&(String, String)| !self.kind.confidential.contains(&name.as_str());
        let attributes = self.attributes.iter().filter(open);
        [self.kind.scheme.to_owned(), self.body.clone()]
            .into_iter()
            .chain(attributes.map(|(name, value)| format!("{name}={value}")))
            .collect()
    }

    /// The source as it was written, without what may be secret.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A source for the same key that can be used as it is: what [`Source::text`] hides is left
    /// out, and asked for.
    pub fn reusable(&self) -> String {
        let (body, query) = match self.text.split_once('?') {
            Some((body, query)) => (body, query),
            None => return self.text.clone(),
        };
        let attributes = query.split('&');
        let shown: Vec<&str> = attributes.filter(|text| !text.ends_with(HIDDEN)).collect();
        match shown.is_empty() {
            true => body.to_owned(),
            false => format!("{body}?{}", shown.join("&")),
        }
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

    /// Whether the key itself is on stdin.
    pub fn body_is_stdin(&self) -> bool {
        matches!(self.kind.body, Body::Path(_)) && input::is_stdin(Path::new(&self.body))
    }

    /// Whether it reads stdin, which can be read once.
    pub fn reads_stdin(&self) -> bool {
        let secret = self.secret().ok().flatten();
        self.body_is_stdin() || secret.is_some_and(|secret| secret.reads_stdin())
    }

    /// Where the passphrase or PIN comes from, if the source says so.
    ///
    /// # Errors
    /// When it says so twice, or names no file descriptor.
    pub fn secret(&self) -> Result<Option<SecretSource>> {
        let Some(family) = self.kind.secret else {
            return Ok(None);
        };
        let mut ways = self
            .attributes
            .iter()
            .filter_map(|(name, value)| Some((self.kind.secret_way(name)?, value)));
        let Some((way, value)) = ways.next() else {
            return Ok(None);
        };
        if ways.next().is_some() {
            return Err(self.invalid(format!("it gives its {family} in two ways")));
        }
        Ok(Some(match way {
            "env" => SecretSource::Env(value.clone()),
            "file" => SecretSource::File(PathBuf::from(value)),
            "command" => SecretSource::Command(value.clone()),
            _ => SecretSource::Fd(value.parse().map_err(|_| {
                self.invalid(format!("{family}-fd names no file descriptor"))
                    .hint(format!("give a number, as in {family}-fd=3"))
            })?),
        }))
    }

    /// The attribute that gives a passphrase or PIN, if there is one.
    pub fn secret_attribute(&self) -> Option<&str> {
        let mut names = self.attributes.iter().map(|(name, _)| name.as_str());
        names.find(|name| self.kind.secret_way(name).is_some())
    }

    /// Makes a new key there.
    ///
    /// # Errors
    /// When there is one already, or none can be made.
    pub fn generate(&self, context: &Arc<Context>, how: &Generate) -> Result<Generated> {
        let scheme = self.kind.scheme;
        let Some(generate) = self.kind.generate else {
            let message = format!("no key can be made in {}", quoted(&self.text));
            return Err(Error::new(ErrorKind::Usage, message)
                .hint("make it by its own means, or make a key file: `qkey generate PATH`"));
        };
        let makes_file = matches!(self.kind.body, Body::Path(_));
        if !makes_file && (how.format.is_some() || how.encrypt) {
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
        let source = &self.source;
        let gate = self.context.refusals.of_source(source.parts());
        let opened = gate
            .open(&source.text, || (source.kind.open)(source, &self.context))
            .map_err(|error| match &self.name {
                Some(name) => error.about(&format!("key {}", quoted(name))),
                None => error,
            })?;
        let title = source.text.clone();
        let guarded = {
            let gate = gate.clone();
            let title = title.clone();
            move |signer| -> Box<dyn Signer> {
                Box::new(Guarded {
                    title,
                    gate,
                    signer,
                })
            }
        };
        Ok(match opened {
            Opened::Signer(signer) => Opened::Signer(guarded(signer)),
            Opened::Locked(unlock) => {
                Opened::Locked(Box::new(move || gate.open(&title, unlock).map(guarded)))
            }
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

    /// How an attribute gives the secret, if it does.
    fn secret_way(&self, name: &str) -> Option<&'static str> {
        let way = name.strip_prefix(self.secret?)?.strip_prefix('-')?;
        SECRET_WAYS.into_iter().find(|known| *known == way)
    }

    fn takes(&self, name: &str) -> bool {
        self.attribute_names().iter().any(|known| known == name)
    }

    /// Whether an attribute is no secret: it is known, and neither holds one nor runs a command,
    /// whose text may.
    fn shows(&self, name: &str, value: &str) -> bool {
        let runs_command = self.secret_way(name) == Some("command")
            || percent_decode(value).is_ok_and(|value| value.starts_with('|'));
        self.takes(name) && !self.confidential.contains(&name) && !runs_command
    }

    fn help(&self, wrong: &str) -> String {
        let names = self.attribute_names();
        let nearest = suggest::nearest(wrong, names.iter().map(String::as_str))
            .map(|near| format!("did you mean {near:?}? "))
            .unwrap_or_default();
        let takes = match names.is_empty() {
            true => "no attributes".to_owned(),
            false => names.join(", "),
        };
        format!(
            "{nearest}{scheme} takes {takes}; a `?` that is part of a name is written {scheme}:…%3F…",
            scheme = self.scheme,
        )
    }
}

/// Replaces a leading `~`, which no shell has seen here.
pub fn expand_home(path: &mut PathBuf) {
    if let Ok(rest) = path.strip_prefix("~")
        && let Some(home) = env::home_dir()
    {
        *path = home.join(rest);
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

/// Why a text is not percent-encoded; it does not show the text, which may be secret.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotEncoded {
    #[error("a `%` begins no escape (write `%25`)")]
    NoEscape,
    #[error("it does not decode to UTF-8")]
    NotUtf8,
    #[error("there is a NUL in it")]
    Nul,
}

/// Percent-decoding to text (RFC 3986, section 2.1).
///
/// # Errors
/// Strict: see [`NotEncoded`].
pub fn percent_decode(text: &str) -> std::result::Result<String, NotEncoded> {
    match String::from_utf8(percent_decode_bytes(text)?) {
        Ok(text) if text.contains('\0') => Err(NotEncoded::Nul),
        Ok(text) => Ok(text),
        Err(_) => Err(NotEncoded::NotUtf8),
    }
}

/// Percent-decoding to bytes (RFC 3986, section 2.1).
///
/// # Errors
/// When a `%` begins no escape.
pub fn percent_decode_bytes(text: &str) -> std::result::Result<Vec<u8>, NotEncoded> {
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
            .ok_or(NotEncoded::NoEscape)?;
        bytes.extend(decoded);
        rest = &tail[2..];
    }
    Ok(bytes)
}

/// A key source in its parts, not decoded.
struct Parts<'a> {
    scheme: Option<&'a str>,
    body: &'a str,
    query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let (scheme, rest) = match split_scheme(text) {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let (body, query) = match rest.split_once('?') {
            Some((body, query)) => (body, Some(query)),
            None => (rest, None),
        };
        Self {
            scheme,
            body,
            query,
        }
    }

    fn kind(&self) -> Option<&'static Kind> {
        match self.scheme {
            None => Some(&file::KIND),
            Some(scheme) => {
                let is_it = |kind: &&&Kind| kind.scheme.eq_ignore_ascii_case(scheme);
                KINDS.iter().find(is_it).copied()
            }
        }
    }

    fn attributes(&self) -> impl Iterator<Item = &'a str> {
        let all = self.query.unwrap_or_default().split('&');
        all.filter(|attribute| !attribute.is_empty())
    }
}

/// A source as a user writes it, right or wrong, without what may be secret: the values of
/// attributes are shown only where the kind knows them as something else.
pub fn redacted(text: &str) -> String {
    let parts = Parts::of(text);
    let kind = parts.kind();
    // A secret may hold a `&` that should have been encoded.
    let mut after_secret = false;
    let mut shown = |attribute: &str| match attribute.split_once('=') {
        Some((name, value)) if kind.is_some_and(|kind| kind.shows(name, value)) => {
            attribute.to_owned()
        }
        Some((name, _)) if !after_secret || kind.is_some_and(|kind| kind.takes(name)) => {
            after_secret = true;
            format!("{name}={HIDDEN}")
        }
        _ => HIDDEN.to_owned(),
    };
    let query = parts.query.map(|_| {
        let all: Vec<String> = parts.attributes().map(&mut shown).collect();
        format!("?{}", all.join("&"))
    });
    let body = match kind.map(|kind| &kind.body) {
        // People put a PIN here, where it does not belong.
        Some(Body::Encoded) => {
            let attributes = parts.body.split_inclusive([';', '&']);
            attributes.map(without_pin).collect()
        }
        _ => parts.body.to_owned(),
    };
    let scheme = parts.scheme.map(|scheme| format!("{scheme}:"));
    let all: String = [scheme, Some(body), query].into_iter().flatten().collect();
    redact(&all)
}

/// An attribute, with the separator after it.
fn without_pin(attribute: &str) -> String {
    let end = attribute.trim_end_matches([';', '&']).len();
    match attribute[..end].split_once('=') {
        Some((name, _)) if name.to_ascii_lowercase().contains("pin") => {
            format!("{name}={HIDDEN}{}", &attribute[end..])
        }
        _ => attribute.to_owned(),
    }
}

/// The variables and descriptors that a text names as the place of a secret, be it a source, right
/// or wrong, or not: what is withheld needlessly does no harm.
pub fn named_secrets(text: &str) -> Vec<SecretSource> {
    let attributes = text.split(['?', '&', ';']).skip(1);
    let secrets = attributes.filter_map(|attribute| {
        let (name, value) = attribute.split_once('=')?;
        let name = percent_decode(name.trim()).ok()?.to_ascii_lowercase();
        let (family, way) = name.rsplit_once('-')?;
        let value = percent_decode(value).ok()?;
        match way {
            _ if !["passphrase", "pin"].contains(&family) => None,
            "env" => Some(SecretSource::Env(value)),
            "fd" => value.parse().ok().map(SecretSource::Fd),
            _ => None,
        }
    });
    secrets.collect()
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
            assert_eq!(
                source.based_on(Path::new("/etc/qkey")).unwrap().body(),
                body
            );
        }
        let source = Source::parse("a?passphrase-file=b").ok().unwrap();
        assert_eq!(
            source
                .based_on(Path::new("/etc"))
                .unwrap()
                .secret()
                .unwrap(),
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
    fn what_may_be_secret_is_never_shown() {
        for (text, shown) in [
            (
                "pkcs11:object=O?pin-value=1&module-path=/m",
                "pkcs11:object=O?pin-value=…&module-path=/m",
            ),
            (
                "pkcs11:object=O?module-path=/m&pin-value=1?2;3",
                "pkcs11:object=O?module-path=/m&pin-value=…",
            ),
            ("pkcs11:pinvalue=1;object=O", "pkcs11:pinvalue=…;object=O"),
            (
                "PKCS11:object=O?PIN-VALUE=1&pin-value=2",
                "PKCS11:object=O?PIN-VALUE=…&pin-value=…",
            ),
            (
                "pkcs11:object=O?pin-value=1&2",
                "pkcs11:object=O?pin-value=…&…",
            ),
            (
                "pkcs11:object=O?pin-value=1&77=3&module-path=/m",
                "pkcs11:object=O?pin-value=…&…&module-path=/m",
            ),
            (
                "pkcs11:object=O?pin=1&&pin-env=P",
                "pkcs11:object=O?pin=…&pin-env=P",
            ),
            ("k.pem?passphrase=1", "k.pem?passphrase=…"),
            ("k.pem?passphrase-env=P", "k.pem?passphrase-env=P"),
            (
                "awskms:///alias/a?region=r&secret=1",
                "awskms:///alias/a?region=r&secret=…",
            ),
            ("nosuch:x?region=1", "nosuch:x?region=…"),
            (
                "k.pem?passphrase-command=pass a&b=c&passphrase-env=P",
                "k.pem?passphrase-command=…&…&passphrase-env=P",
            ),
            (
                "pkcs11:object=O?pin-source=|cat p&module-path=/m",
                "pkcs11:object=O?pin-source=…&module-path=/m",
            ),
            (
                "pkcs11:object=O?pin-source=%7Ccat%20p",
                "pkcs11:object=O?pin-source=…",
            ),
            (
                "pkcs11:object=O?pin-source=/p",
                "pkcs11:object=O?pin-source=/p",
            ),
            (
                "pkcs11:token=T;object=o&pin-value=1234",
                "pkcs11:token=T;object=o&pin-value=…",
            ),
            (
                "pkcs11:object=o?module-path=/m?pin-value=1234",
                "pkcs11:object=o?module-path=/m?pin-value=…",
            ),
            (
                " pkcs11:object=o;pin-value=12 34",
                " pkcs11:object=o;pin-value=…",
            ),
            (
                "pkcs11:object=o ?pin-value=1",
                "pkcs11:object=o ?pin-value=…",
            ),
            (
                "pkcs11:object=o? pin-value=1",
                "pkcs11:object=o? pin-value=…",
            ),
            (
                "pkcs11:object=o;pin%2Dvalue=1",
                "pkcs11:object=o;pin%2Dvalue=…",
            ),
            ("pkcs11:object=o;pin-value:1", "pkcs11:object=o;pin-value:…"),
            (
                "pkcs11:object=o%3Fpin-value%3D1",
                "pkcs11:object=o%3Fpin-value%3D…",
            ),
            ("pkcs:object=o;pin-value=1", "pkcs:object=o;pin-value=…"),
            ("pkcs11.object=o;pin-value=1", "pkcs11.object=o;pin-value=…"),
            ("pin-value=1", "pin-value=…"),
            ("k.pem;passphrase=1", "k.pem;passphrase=…"),
            ("k.pem?pass=1", "k.pem?pass=…"),
            (
                "awskms:///alias/a?endpoint-url=http://u:p@h:1&region=r",
                "awskms:///alias/a?endpoint-url=http://…@h:1&region=r",
            ),
            ("https://u:p@h/key", "https://…@h/key"),
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
    fn a_reusable_source_leaves_out_what_is_hidden() {
        for (text, reusable) in [
            ("k.pem", "k.pem"),
            ("k.pem?passphrase-command=pass k", "k.pem"),
            ("k.pem?passphrase-env=P", "k.pem?passphrase-env=P"),
            (
                "openssl:k.pem?passphrase-command=a&provider=p",
                "openssl:k.pem?provider=p",
            ),
        ] {
            assert_eq!(Source::parse(text).ok().unwrap().reusable(), reusable);
        }
    }

    #[test]
    fn variables_and_descriptors_are_found_in_right_and_wrong_sources() {
        let env = |name: &str| SecretSource::Env(name.to_owned());
        for (text, named) in [
            ("k.pem", vec![]),
            ("k.pem?passphrase-env=A", vec![env("A")]),
            (
                "--key=k.pem?passphrase-env=A&passphrase-fd=7",
                vec![env("A"), SecretSource::Fd(7)],
            ),
            (
                "k?PASSPHRASE-ENV=A&passphrase-env=B",
                vec![env("A"), env("B")],
            ),
            ("k?passphrase%2Denv=A%5FB", vec![env("A_B")]),
            ("nosuch:x;pin-env=A? pin-env=B", vec![env("A"), env("B")]),
            (
                "k?passphrase-fd=x&pin-fd=3&pin-file=p",
                vec![SecretSource::Fd(3)],
            ),
            ("k?region-env=A&env=B", vec![]),
        ] {
            assert_eq!(named_secrets(text), named, "{text}");
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
                "\"k?x=…\" is not a key source: it has no attribute \"x\"",
            ),
            (
                "k?passphrase-env",
                "\"k?…\" is not a key source: an attribute has no value",
            ),
            (
                "k?passphrase-fd=x",
                "\"k?passphrase-fd=x\" is not a key source: passphrase-fd names no file descriptor",
            ),
            (
                "k?passphrase-fd=1&passphrase-env=X",
                "\"k?passphrase-fd=1&passphrase-env=X\" is not a key source: it gives its passphrase in two ways",
            ),
            (
                "k?passphrase-fd=1&passphrase-fd=1",
                "\"k?passphrase-fd=1&passphrase-fd=1\" is not a key source: the attribute \"passphrase-fd\" is given twice",
            ),
            (
                "file:%zz",
                "\"file:%zz\" is not a key source: a `%` begins no escape (write `%25`)",
            ),
            (
                "file:a%00b",
                "\"file:a%00b\" is not a key source: there is a NUL in it",
            ),
            (
                "-?passphrase-fd=0",
                "\"-?passphrase-fd=0\" is not a key source: the key and its passphrase are both to be read from stdin",
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
