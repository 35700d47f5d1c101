//! New keys on a token.

use std::sync::Arc;

use cryptoki::{
    error::Error as Pkcs11Error,
    mechanism::Mechanism,
    object::{Attribute, KeyType},
    session::{Session as RawSession, UserType},
};

use super::{
    KIND,
    failure::list,
    key::{self, Wanted},
    module::{Access, Session},
    request::{Pin, Request},
    search::Sight,
    token::Token,
    uri::{self, Uri},
};
use crate::{
    error::{Error, Kind as ErrorKind, Result},
    signer::{
        Context,
        source::{Generate, Generated, Source},
    },
};

/// `CKA_EC_PARAMS` of P-256: the DER of its object identifier (RFC 5480, section 2.1.1.1).
const P256: [u8; 10] = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

/// The length of a new CKA_ID, in random bytes.
const NEW_ID_LENGTH: u32 = 8;

/// Creates a key on the token that the URI names.
///
/// # Errors
/// When there is no such token, a key with this label or id exists, or the URI does not name the token
/// and the PIN is not typed.
pub(super) fn generate(source: &Source, context: &Arc<Context>, _: &Generate) -> Result<Generated> {
    let mut request = Request::new(source, context)?;
    let Some(label) = request.uri.object().map(str::to_owned) else {
        let message = format!("{:?} has no name for the new key", request.title);
        return Err(Error::new(ErrorKind::Usage, message).hint("add object=NAME to the URI"));
    };
    let gives_pin = !matches!(request.pin, Pin::Person);
    let survey = request.survey(Access::Write, |_, _| Ok(None::<()>))?;
    let [(token, session)] = &survey.closed[..] else {
        return Err(request.no_token(&survey));
    };
    request.withhold_pin_in_doubt(&survey);
    if token.is_write_protected() {
        let error = request.cannot("open", format!("{token} is write-protected"));
        return Err(error.hint("choose another token"));
    }
    match token.needs_login() {
        true => token.log_in(session, &request, UserType::User)?,
        false if gives_pin => return Err(request.pin_never_asked(token)),
        false => {}
    }
    request.expect_none(token, session, &label)?;
    let label_bytes = label.as_bytes().to_vec();
    let id = request.uri.id().map(<[u8]>::to_vec);
    let id = session
        .call(move |session| make(session, label_bytes, id))
        .map_err(|failure| request.failed("create a key in", &failure))?;
    let uri = request.uri.clone().with("token", token.label().as_bytes());
    let uri = uri.with("object", label.as_bytes()).with("id", &id);
    let made = Request { uri, ..request };
    match made.key_in_sight(token, session, Sight::Whole)? {
        Some(found) => Ok(Generated {
            source: address(&made.uri, source),
            public_key: found.public_key,
        }),
        None => Err(made.cannot("use", format!("{token} does not show the new key"))),
    }
}

/// Creates a non-extractable key pair for signing; returns its id.
fn make(
    session: &RawSession,
    label: Vec<u8>,
    id: Option<Vec<u8>>,
) -> std::result::Result<Vec<u8>, Pkcs11Error> {
    let id = match id {
        Some(id) => id,
        None => session.generate_random_vec(NEW_ID_LENGTH)?,
    };
    let common = [
        Attribute::Token(true),
        Attribute::KeyType(KeyType::EC),
        Attribute::Label(label),
        Attribute::Id(id.clone()),
    ];
    let public = [
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(P256.to_vec()),
    ];
    let private = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ];
    let (_, key) = session.generate_key_pair(
        &Mechanism::EccKeyPairGen,
        &[&common[..], &public].concat(),
        &[&common[..], &private].concat(),
    )?;
    // Set afterwards because tpm2-pkcs11 refuses a template with these. If a module does not set one,
    // the key still signs.
    for not_for in [
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ] {
        let _ = session.update_attributes(key, &[not_for]);
    }
    Ok(id)
}

impl Request {
    /// Refuses a label or id that a key already has.
    fn expect_none(&self, token: &Token, session: &Session, label: &str) -> Result<()> {
        let by_label = Wanted {
            label: Some(label.as_bytes().to_vec()),
            id: None,
        };
        let by_id = self.uri.id().map(|id| Wanted {
            label: None,
            id: Some(id.to_vec()),
        });
        for wanted in [Some(by_label), by_id].into_iter().flatten() {
            let keys = key::all(session, &wanted).map_err(|failure| self.error(&failure))?;
            if !keys.is_empty() {
                let why = format!("{token} already has {}", list(&keys));
                return Err(self
                    .cannot("create a key in", why)
                    .hint("qkey never replaces a key: choose another object= or id="));
            }
        }
        Ok(())
    }
}

/// The URI of the new key, without a PIN from `source`.
fn address(uri: &Uri, source: &Source) -> String {
    let query: Vec<String> = KIND
        .attribute_names()
        .iter()
        .filter(|name| !KIND.confidential.contains(&name.as_str()))
        .filter_map(|name| {
            let value = source.attribute(name)?;
            Some(format!("{name}={}", uri::encode(value.as_bytes())))
        })
        .collect();
    if query.is_empty() {
        format!("{}:{uri}", KIND.scheme)
    } else {
        format!("{}:{uri}?{}", KIND.scheme, query.join("&"))
    }
}
