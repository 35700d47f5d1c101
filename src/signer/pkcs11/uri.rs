//! The part of a PKCS#11 URI before the `?` (RFC 7512, section 2.3): which token, which key.

use std::fmt;

use crate::signer::uri::percent_decode_bytes;

/// The attributes before `?`, except vendor-specific ones.
const NAMES: [&str; 13] = [
    "token",
    "manufacturer",
    "serial",
    "model",
    "object",
    "id",
    "type",
    "slot-id",
    "slot-description",
    "slot-manufacturer",
    "library-description",
    "library-manufacturer",
    "library-version",
];

/// The attributes of a URI, each at most once; all must match.
#[derive(Clone)]
pub(super) struct Uri(Vec<(&'static str, Vec<u8>)>);

impl Uri {
    /// A URI that names a token by its label.
    pub(super) fn of_token(label: &str) -> Self {
        Self(vec![("token", label.as_bytes().to_vec())])
    }

    /// Parses the text between `pkcs11:` and `?`, still percent-encoded.
    ///
    /// # Errors
    /// A description of the mistake.
    pub(super) fn parse(path: &str) -> Result<Self, String> {
        let mut uri = Self(Vec::new());
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = attribute
                .split_once('=')
                .ok_or_else(|| format!("{attribute:?} is not an attribute like token=NAME"))?;
            let name = *NAMES
                .iter()
                .find(|&&known| known == name)
                .ok_or_else(|| unknown(name))?;
            if uri.bytes(name).is_some() {
                return Err(format!("attribute {name:?} is given twice"));
            }
            let value =
                percent_decode_bytes(value).map_err(|why| format!("attribute {name:?}: {why}"))?;
            uri.0.push((name, value));
            if name != "id" && uri.text(name).is_none() {
                return Err(format!("attribute {name:?} does not decode to UTF-8"));
            }
        }
        match uri.text("type") {
            None | Some("private") => {}
            Some(other) => return Err(format!("type={other} is not a private key")),
        }
        match uri.text("slot-id") {
            Some(number) if number.parse::<u64>().is_err() => {
                Err(format!("slot-id {number:?} is not a number"))
            }
            _ => Ok(uri),
        }
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        let mut attributes = self.0.iter();
        let (_, value) = attributes.find(|(known, _)| *known == name)?;
        Some(value)
    }

    /// The value of an attribute other than `id`.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    pub(super) fn object(&self) -> Option<&str> {
        self.text("object")
    }

    pub(super) fn id(&self) -> Option<&[u8]> {
        self.bytes("id")
    }

    pub(super) fn slot_id(&self) -> Option<u64> {
        self.text("slot-id")?.parse().ok()
    }

    /// Whether it identifies a token. Slot numbers are unique only within a module.
    pub(super) fn names_token(&self, module_is_named: bool) -> bool {
        let is_given = |name| self.bytes(name).is_some();
        is_given("token") || is_given("serial") || (module_is_named && is_given("slot-id"))
    }

    /// Whether every one of these attributes that the URI gives has this value.
    pub(super) fn agrees(&self, values: &[(&str, &str)]) -> bool {
        values
            .iter()
            .all(|(name, value)| self.text(name).is_none_or(|wanted| wanted == *value))
    }

    /// The same URI with this attribute added or replaced.
    pub(super) fn with(mut self, name: &'static str, value: &[u8]) -> Self {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.0.push((name, value.to_vec())),
        }
        self
    }
}

/// As written in a URI: `id` is fully encoded (RFC 7512, section 2.3), other values only where the
/// URI or a shell requires it.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, value)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { ";" };
            let value = match *name {
                "id" => encode_all(value),
                _ => encode(value),
            };
            write!(f, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}

/// Percent-encodes each byte.
pub(super) fn encode_all(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// Percent-encodes everything except unreserved characters (RFC 3986, section 2.3), `/`, and `:`.
pub(super) fn encode(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    bytes
        .iter()
        .map(|&byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn unknown(name: &str) -> String {
    if name.starts_with("pin-") || name.starts_with("module-") {
        return format!("{name} belongs after `?`");
    }
    format!(
        "unknown attribute {name:?} before `?`; known: {}",
        NAMES.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_decoded_separately() {
        let uri = Uri::parse("token=a%3Bb%20c;object=100%25;id=%00%ff;type=private;slot-id=7");
        let uri = uri.ok().unwrap();
        assert_eq!(uri.text("token"), Some("a;b c"));
        assert_eq!(uri.object(), Some("100%"));
        assert_eq!(uri.id(), Some(&[0, 0xff][..]));
        assert_eq!(uri.slot_id(), Some(7));
        assert_eq!(
            uri.to_string(),
            "token=a%3Bb%20c;object=100%25;id=%00%FF;type=private;slot-id=7"
        );
    }

    #[test]
    fn encoding_round_trips() {
        for text in ["", "Schlüssel 🔑", "a;b?c&d=e%f#g", "'\"$`\\", "a/b:c"] {
            let uri = Uri(Vec::new())
                .with("object", text.as_bytes())
                .with("id", text.as_bytes());
            let again = Uri::parse(&uri.to_string()).ok().unwrap();
            assert_eq!(again.object(), Some(text));
            assert_eq!(again.id(), Some(text.as_bytes()));
        }
    }

    #[test]
    fn only_given_attributes_must_match() {
        let uri = Uri::parse("token=T;serial=1").ok().unwrap();
        assert!(uri.agrees(&[("token", "T"), ("serial", "1"), ("model", "M")]));
        assert!(!uri.agrees(&[("token", "T"), ("serial", "2")]));
    }

    #[test]
    fn slot_id_names_token_only_with_module() {
        for (text, in_any_module, in_one) in [
            ("token=T", true, true),
            ("serial=1", true, true),
            ("slot-id=0", false, true),
            ("object=O;model=M;slot-description=S", false, false),
        ] {
            let uri = Uri::parse(text).ok().unwrap();
            assert_eq!(uri.names_token(false), in_any_module, "{text}");
            assert_eq!(uri.names_token(true), in_one, "{text}");
        }
    }

    #[test]
    fn parse_errors() {
        for (text, message) in [
            ("token", "\"token\" is not an attribute like token=NAME"),
            ("token=a;token=b", "attribute \"token\" is given twice"),
            ("token=%ff", "attribute \"token\" does not decode to UTF-8"),
            (
                "id=%f",
                "attribute \"id\": a `%` without two hex digits after it (write `%25`)",
            ),
            ("type=cert", "type=cert is not a private key"),
            ("slot-id=x", "slot-id \"x\" is not a number"),
            ("pin-value=1234", "pin-value belongs after `?`"),
            ("module-path=m", "module-path belongs after `?`"),
        ] {
            assert_eq!(Uri::parse(text).err().as_deref(), Some(message));
        }
        let message = Uri::parse("label=x").err().unwrap();
        assert!(message.starts_with("unknown attribute \"label\" before `?`; known: token, "));
    }
}
