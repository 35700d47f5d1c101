//! Keys on PKCS#11 tokens: smart cards, TPMs, network HSMs, SoftHSM. Keys are named by URIs of
//! RFC 7512; the calls are those of PKCS#11, version 2.40.

mod failure;
mod generate;
mod key;
mod module;
mod request;
mod search;
mod sign;
mod token;
mod uri;

use std::sync::Arc;

use cryptoki::session::UserType;

use self::{
    generate::generate,
    module::Access,
    request::{Pin, Request},
    search::{Found, Sight, Survey},
    sign::TokenSigner,
};
use super::{
    Context, Opened, Signer,
    source::{Body, Source, SourceKind},
};
use crate::error::Result;

pub static KIND: SourceKind = SourceKind {
    body: Body::Encoded,
    attributes: &["module-path", "module-name", "pin-source", "pin-value"],
    confidential: &["pin-value"],
    path_in,
    secret: Some(FAMILY),
    generate: Some(generate),
    ..SourceKind::new("pkcs11", FORM, open)
};

const FORM: &str = "pkcs11:token=T;object=O?module-path=M&pin-file=P";

const FAMILY: &str = "pin";

/// RFC 7512, section 2.4.
fn path_in<'v>(name: &str, value: &'v str) -> Option<&'v str> {
    match name {
        "pin-source" if !value.starts_with('|') => Some(value.trim_start_matches("file:")),
        // A bare file name is looked up in the usual folders.
        "module-path" if value.contains('/') => Some(value),
        _ => None,
    }
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let mut request = Request::new(source, context)?;
    let gives_pin = !matches!(request.pin, Pin::Person);
    let mut survey = request.survey(Access::Read, |token, session| {
        let sight = if token.needs_login() {
            Sight::Public
        } else {
            Sight::Whole
        };
        request.key_in_sight(token, session, sight)
    })?;
    request.withhold_pin_in_doubt(&survey);
    match survey.matches.len() {
        0 => {}
        1 => {
            let (token, session, found) = survey.matches.pop().expect("there is one");
            if gives_pin && !token.needs_login() {
                return Err(request.pin_never_asked(&token));
            }
            let signer = TokenSigner::new(request, token, session, found);
            return Ok(Opened::Signer(Box::new(signer)));
        }
        _ => return Err(request.several(&survey)),
    }
    if survey.closed.iter().any(|(token, _)| token.needs_login()) {
        // The others have already shown all their keys.
        survey.closed.retain(|(token, _)| token.needs_login());
    }
    match &survey.closed[..] {
        // Wherever the PIN comes from: a wrong one costs an attempt, and the key may not be needed.
        [(token, _)] if token.needs_login() => Ok(Opened::Locked(Box::new(move || {
            open_closed(request, survey)
        }))),
        _ => Err(request.nothing(&survey)),
    }
}

/// Opens a key that its token does not show before a login.
fn open_closed(request: Request, survey: Survey<Found>) -> Result<Box<dyn Signer>> {
    let Some((token, session)) = survey.closed.first() else {
        return Err(request.nothing(&survey));
    };
    token.log_in(session, &request, UserType::User)?;
    match request.key_in_sight(token, session, Sight::Whole)? {
        None => Err(request.nothing(&survey)),
        Some(found) => {
            let (token, session) = survey.closed.into_iter().next().expect("it is the first");
            Ok(Box::new(TokenSigner::new(request, token, session, found)))
        }
    }
}
