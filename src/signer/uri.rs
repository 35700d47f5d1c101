//! The text of a key source: a path, or a URI whose attributes follow `?` as `name=value`, joined
//! by `&` and percent-encoded (RFC 3986).

/// Splits a URI into its scheme (RFC 3986, section 3.1) and the rest after the `:`.
/// `None` for a plain path.
pub(crate) fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut chars = scheme.chars();
    let first = chars.next()?;
    let rest_is_scheme = chars.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (first.is_ascii_alphabetic() && rest_is_scheme).then_some((scheme, rest))
}

/// Why percent-decoding failed. It never quotes the text, which may be secret.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum NotEncoded {
    #[error("a `%` without two hex digits after it (write `%25`)")]
    NoEscape,
    #[error("not UTF-8 after decoding")]
    NotUtf8,
    #[error("contains a NUL byte")]
    Nul,
}

/// Percent-decodes to text (RFC 3986, section 2.1).
///
/// # Errors
/// An incomplete escape, a NUL byte, or bytes that are not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Result<String, NotEncoded> {
    match String::from_utf8(percent_decode_bytes(text)?) {
        Ok(text) if text.contains('\0') => Err(NotEncoded::Nul),
        Ok(text) => Ok(text),
        Err(_) => Err(NotEncoded::NotUtf8),
    }
}

/// Percent-decodes to bytes (RFC 3986, section 2.1).
///
/// # Errors
/// [`NotEncoded::NoEscape`].
pub(crate) fn percent_decode_bytes(text: &str) -> Result<Vec<u8>, NotEncoded> {
    let mut parts = text.as_bytes().split(|&byte| byte == b'%');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let (escape, rest) = part.split_at_checked(2).ok_or(NotEncoded::NoEscape)?;
        let decoded = base16ct::mixed::decode_vec(escape).map_err(|_| NotEncoded::NoEscape)?;
        bytes.extend(decoded);
        bytes.extend(rest);
    }
    Ok(bytes)
}

/// A key source in its parts, still percent-encoded.
pub(super) struct Parts<'a> {
    pub(super) scheme: Option<&'a str>,
    pub(super) body: &'a str,
    pub(super) query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Splits a path or a URI.
    pub(super) fn of(text: &'a str) -> Self {
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

    /// The attributes in order, each as `name=value`.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &'a str> {
        let all = self.query.unwrap_or_default().split('&');
        all.filter(|attribute| !attribute.is_empty())
    }
}
