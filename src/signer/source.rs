//! Parsed key sources. Each kind of key source describes itself with a [`SourceKind`]; this module
//! does not know which kinds exist.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Context, KeySource, Opened,
    refusals::guarded,
    uri::{Parts, percent_decode},
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
pub struct SourceKind {
    /// The URI scheme.
    pub scheme: &'static str,
    /// How such a source is written, for hints.
    pub form: &'static str,
    /// What comes between the scheme and the attributes.
    pub body: Body,
    /// Its attributes, except those that supply a secret.
    pub attributes: &'static [&'static str],
    /// Those attributes whose value is a secret, which is never shown.
    pub confidential: &'static [&'static str],
    /// The path in an attribute, given its name and value, if there is one.
    pub path_in: for<'v> fn(&str, &'v str) -> Option<&'v str>,
    /// The attribute prefix of its secret: `passphrase` or `pin`.
    pub secret: Option<&'static str>,
    pub open: Open,
    /// Creates a new key, never replacing one; `None` if this kind cannot.
    pub generate: Option<Make>,
}

/// What comes between the scheme and the attributes of a key source.
pub enum Body {
    /// A path, if this function says so.
    Path(fn(&Source) -> bool),
    Text,
    /// Attributes of another grammar, whose delimiters may be percent-encoded.
    Encoded,
}

/// The kinds that a source may be of. A plain path is of the first kind.
pub type Kinds = &'static [&'static SourceKind];

/// Opens a key source without a prompt.
pub type Open = fn(&Source, &Arc<Context>) -> Result<Opened>;

/// Creates a new key.
pub type Make = fn(&Source, &Arc<Context>, &Generate) -> Result<Generated>;

/// The four ways to supply a secret, as suffixes of an attribute name.
const SECRET_WAYS: [&str; 4] = ["env", "file", "fd", "command"];

/// How to create a new key.
#[derive(Clone, Copy, Debug)]
pub struct Generate {
    /// The encoding of a key file.
    pub format: Option<Format>,
    /// Prompt for a passphrase for a key file if no attribute supplies one.
    pub encrypt: bool,
}

/// A new key.
pub struct Generated {
    /// The source that names it, as a user writes it.
    pub source: String,
    pub public_key: PublicKey,
}

/// A parsed key source.
#[derive(Clone)]
pub struct Source {
    /// As written, without anything that may be secret.
    text: String,
    kind: &'static SourceKind,
    raw: String,
    body: String,
    attributes: Vec<(String, String)>,
}

impl Source {
    /// Parses a path or a URI.
    ///
    /// # Errors
    /// Of kind `usage`: an unknown scheme or attribute, or bad percent-encoding.
    pub fn parse(text: &str, kinds: Kinds) -> Result<Self> {
        let shown = redacted(text, kinds);
        let invalid = |why: &str, hint: String| invalid(&shown, why).hint(hint);
        if text.is_empty() {
            return Err(invalid("empty", table(kinds)));
        }
        let parts = Parts::of(text);
        let Some(kind) = kind_of(&parts, kinds) else {
            let scheme = parts.scheme.unwrap_or_default();
            let nearest = did_you_mean(scheme, kinds.iter().map(|kind| kind.scheme));
            let why = format!("unknown scheme {}", quoted(scheme));
            return Err(invalid(&why, format!("{nearest}{}", table(kinds))));
        };
        if parts.body.is_empty() {
            return Err(invalid("nothing before the attributes", table(kinds)));
        }
        let mut source = Self {
            text: shown.clone(),
            kind,
            raw: parts.body.to_owned(),
            body: parts.body.to_owned(),
            attributes: Vec::new(),
        };
        // A plain path is not decoded.
        if parts.scheme.is_some() && !matches!(kind.body, Body::Encoded) {
            source.body = percent_decode(parts.body).map_err(|why| source.invalid(why))?;
        }
        for attribute in parts.attributes() {
            let Some((name, value)) = attribute.split_once('=') else {
                return Err(invalid("an attribute without a value", kind.help("")));
            };
            if !kind.takes(name) {
                let mut before = source.attributes.iter();
                return Err(if before.all(|(name, value)| kind.shows(name, value)) {
                    let why = format!("unknown attribute {}", quoted(name));
                    invalid(&why, kind.help(name))
                } else {
                    source
                        .invalid("unknown attribute after a hidden one")
                        .hint("in a value, write `&` as %26")
                });
            }
            if source.attribute(name).is_some() {
                return Err(source.invalid(format!("attribute {name:?} is given twice")));
            }
            let value = percent_decode(value)
                .map_err(|why| source.invalid(format!("attribute {name:?}: {why}")))?;
            source.attributes.push((name.to_owned(), value));
        }
        source.replace_paths(|path| {
            let mut path = PathBuf::from(path);
            expand_home(&mut path);
            path
        })?;
        if source.secret()?.is_some_and(|secret| secret.reads_stdin()) && source.body_is_stdin() {
            return Err(source
                .invalid("only one of the key and its passphrase may read stdin")
                .hint("put one of them in a file"));
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
            let path = replaced(path).into_os_string().into_string();
            path.map_err(|path| {
                let message = format!("{} of {} is not UTF-8", path.display(), quoted(&text));
                Error::new(ErrorKind::Usage, message).hint("use a directory whose name is UTF-8")
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

    /// The error for a source that its kind does not accept.
    pub fn invalid(&self, why: impl fmt::Display) -> Error {
        invalid(&self.text, &why.to_string())
    }

    /// What identifies the source. A PIN in it does not count: after one is refused, no other is
    /// tried.
    fn parts(&self) -> Vec<String> {
        let open = |(name, _): &&(String, String)| !self.kind.confidential.contains(&name.as_str());
        let attributes = self.attributes.iter().filter(open);
        [self.kind.scheme.to_owned(), self.body.clone()]
            .into_iter()
            .chain(attributes.map(|(name, value)| format!("{name}={value}")))
            .collect()
    }

    /// The source as written, without anything that may be secret.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A source for the same key that works as printed: it omits what [`Source::text`] hides, so that
    /// qkey prompts for it.
    pub fn reusable(&self) -> String {
        let start = self.text.split('?').next().unwrap_or_default();
        self.rewritten(start, "")
    }

    /// The same, but with `start` before the attributes and without the attribute `omitted`.
    pub fn rewritten(&self, start: &str, omitted: &str) -> String {
        let kept: Vec<&str> = Parts::of(&self.text)
            .attributes()
            .filter(|text| !text.ends_with(HIDDEN) && text.split('=').next() != Some(omitted))
            .collect();
        if kept.is_empty() {
            start.to_owned()
        } else {
            format!("{start}?{}", kept.join("&"))
        }
    }

    /// What comes between the scheme and the attributes, percent-decoded in a URI.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The body as written: for a grammar whose own delimiters may be percent-encoded.
    pub fn raw_body(&self) -> &str {
        &self.raw
    }

    /// An attribute's value, percent-decoded.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let (_, value) = self.attributes.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// Whether the key itself is on stdin.
    pub fn body_is_stdin(&self) -> bool {
        matches!(self.kind.body, Body::Path(_)) && input::is_stdin(Path::new(&self.body))
    }

    /// Whether it reads stdin, which can be read only once.
    pub fn reads_stdin(&self) -> bool {
        let secret = self.secret().ok().flatten();
        self.body_is_stdin() || secret.is_some_and(|secret| secret.reads_stdin())
    }

    /// Where the passphrase or PIN comes from, if the source says so.
    ///
    /// # Errors
    /// When it is given twice, or the file descriptor is not a number.
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
            return Err(self.invalid(format!("more than one source for the {family}")));
        }
        Ok(Some(match way {
            "env" => SecretSource::Env(value.clone()),
            "file" => SecretSource::File(PathBuf::from(value)),
            "command" => SecretSource::Command(value.clone()),
            _ => SecretSource::Fd(value.parse().map_err(|_| {
                self.invalid(format!("{family}-fd is not a file descriptor"))
                    .hint(format!("use a number, as in {family}-fd=3"))
            })?),
        }))
    }

    /// The attribute that supplies a passphrase or PIN, if there is one.
    pub fn secret_attribute(&self) -> Option<&str> {
        let mut names = self.attributes.iter().map(|(name, _)| name.as_str());
        names.find(|name| self.kind.secret_way(name).is_some())
    }

    /// Creates a new key there.
    ///
    /// # Errors
    /// When a key already exists, or this kind cannot create one.
    pub fn generate(&self, context: &Arc<Context>, how: &Generate) -> Result<Generated> {
        let Some(generate) = self.kind.generate else {
            let message = format!("qkey cannot create a key in {}", quoted(&self.text));
            return Err(Error::new(ErrorKind::Usage, message).hint(
                "create the key with its own tool, or create a key file: `qkey generate PATH`",
            ));
        };
        let makes_file = matches!(self.kind.body, Body::Path(_));
        if !makes_file && (how.format.is_some() || how.encrypt) {
            let scheme = self.kind.scheme;
            let message =
                format!("--format and --encrypt apply only to key files, not to {scheme}");
            return Err(Error::new(ErrorKind::Usage, message).hint("omit them"));
        }
        generate(self, context, how)
    }
}

/// A source with everything needed to open it.
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
        Ok(match opened {
            Opened::Signer(signer) => Opened::Signer(guarded(title, gate, signer)),
            Opened::Locked(unlock) => Opened::Locked(Box::new(move || {
                let signer = gate.open(&title, unlock)?;
                Ok(guarded(title, gate, signer))
            })),
        })
    }
}

/// The error for `text`, which is not a key source.
fn invalid(text: &str, why: &str) -> Error {
    let message = format!("{} is not a key source: {}", quoted(text), redact(why));
    Error::new(ErrorKind::Usage, message)
}

impl SourceKind {
    /// A kind without attributes that cannot create keys.
    pub const fn new(scheme: &'static str, form: &'static str, open: Open) -> Self {
        Self {
            scheme,
            form,
            body: Body::Text,
            attributes: &[],
            confidential: &[],
            path_in: |_, _| None,
            secret: None,
            open,
            generate: None,
        }
    }

    pub fn attribute_names(&self) -> Vec<String> {
        let plain = self.attributes.iter().map(ToString::to_string);
        let secret = self
            .secret
            .into_iter()
            .flat_map(|family| SECRET_WAYS.iter().map(move |way| format!("{family}-{way}")));
        plain.chain(secret).collect()
    }

    /// How an attribute supplies the secret, if it does.
    fn secret_way(&self, name: &str) -> Option<&'static str> {
        let way = name.strip_prefix(self.secret?)?.strip_prefix('-')?;
        SECRET_WAYS.into_iter().find(|known| *known == way)
    }

    fn takes(&self, name: &str) -> bool {
        self.attribute_names().iter().any(|known| known == name)
    }

    /// Whether an attribute may be shown: it is known, and is neither a secret nor a command, which may
    /// contain one.
    fn shows(&self, name: &str, value: &str) -> bool {
        let runs_command = self.secret_way(name) == Some("command")
            || percent_decode(value).is_ok_and(|value| value.starts_with('|'));
        self.takes(name) && !self.confidential.contains(&name) && !runs_command
    }

    fn help(&self, wrong: &str) -> String {
        let names = self.attribute_names();
        let nearest = did_you_mean(wrong, names.iter().map(String::as_str));
        let names = if names.is_empty() {
            "no attributes".to_owned()
        } else {
            names.join(", ")
        };
        let scheme = self.scheme;
        format!("{nearest}{scheme} takes {names}; in a name, write `?` as %3F: {scheme}:…%3F…")
    }
}

/// Replaces a leading `~`, which no shell has expanded here.
pub fn expand_home(path: &mut PathBuf) {
    if let Ok(rest) = path.strip_prefix("~")
        && let Some(home) = env::home_dir()
    {
        *path = home.join(rest);
    }
}

/// Every form of key source, for hints.
fn table(kinds: Kinds) -> String {
    let forms: Vec<&str> = kinds.iter().map(|kind| kind.form).collect();
    format!(
        "a key source is one of: {}, or the name of a key in the configuration file; \
         a path that contains `:` is written ./PATH",
        forms.join("; ")
    )
}

/// The kind that a source's scheme names; a plain path has the first one.
fn kind_of(parts: &Parts<'_>, kinds: Kinds) -> Option<&'static SourceKind> {
    let Some(scheme) = parts.scheme else {
        return kinds.first().copied();
    };
    let mut kinds = kinds.iter().copied();
    kinds.find(|kind| kind.scheme.eq_ignore_ascii_case(scheme))
}

fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    suggest::nearest(wrong, known)
        .map(|near| format!("did you mean {near:?}? "))
        .unwrap_or_default()
}

/// A source as a user writes it, valid or not, without anything that may be secret: an attribute's value is
/// shown only if its kind says that it is not a secret.
pub fn redacted(text: &str, kinds: Kinds) -> String {
    let parts = Parts::of(text);
    let kind = kind_of(&parts, kinds);
    // A secret may contain a `&` that should have been encoded.
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
        // Users sometimes put a PIN here by mistake.
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

/// An attribute with the separator after it.
fn without_pin(attribute: &str) -> String {
    let end = attribute.trim_end_matches([';', '&']).len();
    match attribute[..end].split_once('=') {
        Some((name, _)) if name.to_ascii_lowercase().contains("pin") => {
            format!("{name}={HIDDEN}{}", &attribute[end..])
        }
        _ => attribute.to_owned(),
    }
}

/// The variables and descriptors that a text names as sources of a secret, whether or not it is a
/// valid key source: withholding too much does no harm.
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
