//! The search for a key on all tokens.

use std::{collections::BTreeSet, fmt::Display};

use super::{
    KIND,
    failure::{ModuleError, list},
    key::{self, Key, Wanted},
    module::{self, Access, Module, Session},
    request::{Pin, Request},
    token::{Identity, Token},
    uri::Uri,
};
use crate::{
    error::{Error, Kind as ErrorKind, Result},
    public_key::{self, PublicKey},
    signer::Note,
    text::quote,
};

/// What the tokens hold.
pub(super) struct Survey<T> {
    /// Matching tokens that show what was looked for.
    pub(super) matches: Vec<(Token, Session, T)>,
    /// Matching tokens that do not show it.
    pub(super) closed: Vec<(Token, Session)>,
    /// Tokens that do not match the URI.
    pub(super) others: Vec<Token>,
    /// Modules that failed, and why.
    pub(super) failures: Vec<String>,
    module_is_named: bool,
}

impl<T> Survey<T> {
    /// Records a failure of something the user did not name; others may work.
    fn noted<R>(
        &mut self,
        what: &dyn Display,
        result: std::result::Result<R, ModuleError>,
        is_named: bool,
    ) -> std::result::Result<Option<R>, ModuleError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(failure) if is_named || matches!(failure, ModuleError::Interrupted(_)) => {
                Err(failure)
            }
            Err(failure) => {
                self.failures.push(format!("{what}: {failure}"));
                Ok(None)
            }
        }
    }

    /// The tokens that match the URI.
    fn named(&self) -> impl Iterator<Item = &Token> {
        let matches = self.matches.iter().map(|(token, ..)| token);
        matches.chain(self.closed.iter().map(|(token, _)| token))
    }
}

/// How much a token shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// Public objects; most tokens hide private keys before a login.
    Public,
    Whole,
}

/// A key that was found.
pub(super) struct Found {
    pub(super) public_key: PublicKey,
    pub(super) id: Vec<u8>,
}

impl Request {
    /// Searches the modules until a token has what `look` finds. With a PIN that is not typed, it
    /// searches them all, so that the PIN is not tried on the first of several tokens.
    pub(super) fn survey<T>(
        &self,
        access: Access,
        mut look: impl FnMut(&Token, &Session) -> Result<Option<T>>,
    ) -> Result<Survey<T>> {
        let failed = |failure: ModuleError| self.error(&failure);
        let (paths, module_is_named) =
            module::candidates(self.module_path.as_deref(), self.module_name.as_deref())
                .map_err(failed)?;
        let is_only_module = paths.len() == 1;
        let names_token = self.uri.names_token(module_is_named);
        let timeout = self.context.timeout;
        let mut survey = Survey {
            matches: Vec::new(),
            others: Vec::new(),
            closed: Vec::new(),
            failures: Vec::new(),
            module_is_named,
        };
        for path in paths {
            let tokens = Module::load(&path, timeout)
                .and_then(|module| Token::all(&module, &self.uri, timeout));
            let tokens = survey.noted(&path.display(), tokens, is_only_module);
            // A token may be reached through several modules.
            let known: BTreeSet<Identity> = survey.named().map(Token::identity).collect();
            for (token, agrees) in tokens.map_err(failed)?.unwrap_or_default() {
                if !agrees {
                    survey.others.push(token);
                    continue;
                }
                if known.contains(&token.identity()) {
                    continue;
                }
                let session = token.open(access, timeout);
                let session = survey.noted(&token, session, names_token);
                let Some(session) = session.map_err(failed)? else {
                    continue;
                };
                match look(&token, &session)? {
                    Some(found) => survey.matches.push((token, session, found)),
                    None => survey.closed.push((token, session)),
                }
            }
            let is_found = !survey.matches.is_empty() || (names_token && !survey.closed.is_empty());
            if is_found && matches!(self.pin, Pin::Person) {
                break;
            }
        }
        Ok(survey)
    }

    /// Withholds a PIN unless the URI names exactly one token. A prompt names its token, so a typed
    /// PIN is never withheld.
    pub(super) fn withhold_pin_in_doubt<T>(&mut self, survey: &Survey<T>) {
        if matches!(self.pin, Pin::Person) {
            return;
        }
        if let Some(doubt) = self.doubt(survey) {
            self.pin = Pin::Withheld(doubt);
        }
    }

    /// Why it is unclear which token a PIN is for.
    fn doubt<T>(&self, survey: &Survey<T>) -> Option<Error> {
        let named: Vec<String> = survey.named().map(Token::title).collect();
        if !self.uri.names_token(survey.module_is_named) {
            let why = "the PIN was not tried: the URI does not name a token";
            return Some(self.cannot("open", format!("{why}: {}", list(&named))).hint(
                "add token= or serial= from this list to the URI, or remove the pin attributes to be \
                 prompted",
            ));
        }
        if named.len() > 1 {
            return Some(self.no_token(survey));
        }
        if survey.module_is_named || survey.failures.is_empty() {
            return None;
        }
        let why = "the PIN was not tried: another module may have the token";
        let error = self.cannot("open", format!("{why}; found: {}", list(&named)));
        let error = caused_by_all(error, &survey.failures);
        Some(error.hint("name the token's module with ?module-path=PATH"))
    }

    /// The key, as far as the token shows it now.
    pub(super) fn key_in_sight(
        &self,
        token: &Token,
        session: &Session,
        access: Sight,
    ) -> Result<Option<Found>> {
        let failed = |failure: ModuleError| self.error(&failure);
        let wanted = Wanted::by(&self.uri);
        let private = self.single(token, key::private(session, &wanted).map_err(failed)?)?;
        let Some(private) = private else {
            if access == Sight::Whole {
                return Ok(None);
            }
            let public = self.single(token, key::public(session, &wanted).map_err(failed)?)?;
            let found = public.map(|public| {
                let public_key = self.public_key(token, &public, &[])?;
                let id = public.id;
                Ok(Found { public_key, id })
            });
            return found.transpose();
        };
        let has_id = !private.id.is_empty();
        let partner = Wanted {
            label: (!has_id).then(|| private.label.clone().into_bytes()),
            id: has_id.then(|| private.id.clone()),
        };
        let others = key::public(session, &partner).map_err(failed)?;
        Ok(Some(Found {
            public_key: self.public_key(token, &private, &others)?,
            id: private.id,
        }))
    }

    pub(super) fn single(&self, token: &Token, mut keys: Vec<Key>) -> Result<Option<Key>> {
        match keys.len() {
            0 | 1 => Ok(keys.pop()),
            several => Err(self
                .cannot(
                    "open",
                    format!("{several} keys on {token} match: {}", list(&keys)),
                )
                .hint("add id= from this list to the URI")),
        }
    }

    /// The first public key among the objects that make up a key.
    fn public_key(&self, token: &Token, key: &Key, others: &[Key]) -> Result<PublicKey> {
        for half in std::iter::once(key).chain(others) {
            let public_key = half.public_key();
            if let Some(public_key) = public_key.map_err(|error| self.wrong_key(token, &error))? {
                return Ok(public_key);
            }
        }
        let error = self.cannot("use", format!("{token} has no public key for {key}"));
        Err(error.hint(how_to_store_public(token, key)))
    }

    pub(super) fn wrong_key(&self, token: &Token, error: &public_key::Error) -> Error {
        Error::new(ErrorKind::Key, format!("cannot use {}", self.title))
            .caused_by(error)
            .hint(format!("create a P-256 key: {}", how_to_generate(token)))
    }

    /// The error for a key on several tokens, which it lists.
    pub(super) fn several(&self, survey: &Survey<Found>) -> Error {
        let matches = survey.matches.iter();
        let tokens: Vec<String> = matches.map(|(token, ..)| token.title()).collect();
        let count = tokens.len();
        let why = format!("{count} tokens have a matching key: {}", list(&tokens));
        let error = self.cannot("open", why);
        error.hint("add token= or serial= from this list to the URI")
    }

    /// The error when no key matches, with a list of what exists.
    pub(super) fn nothing(&self, survey: &Survey<Found>) -> Error {
        let [(token, session)] = &survey.closed[..] else {
            return self.no_token(survey);
        };
        match key::all(session, &Wanted::default()) {
            Err(failure) => self.error(&failure),
            Ok(keys) => self
                .cannot("open", format!("{token} has no matching private key"))
                .caused_by(&Note(format!("it has: {}", list(&keys))))
                .hint(format!(
                    "correct object= and id=, or create the key: {}",
                    how_to_generate(token)
                )),
        }
    }

    /// The error unless exactly one token matches, with a list of tokens.
    pub(super) fn no_token<T>(&self, survey: &Survey<T>) -> Error {
        let others: Vec<String> = survey.others.iter().map(Token::title).collect();
        let matching: Vec<String> = survey.named().map(Token::title).collect();
        let (why, hint) = match (matching.len(), others.len()) {
            (0, 0) => (
                "no token found".to_owned(),
                "insert the token, or initialize one, as in `softhsm2-util --init-token --free \
                 --label TOKEN`; to use another module, add ?module-path=PATH",
            ),
            (0, _) => (
                "no token matches".to_owned(),
                "correct token= or serial=; to use another module, add ?module-path=PATH",
            ),
            (several, _) => (
                format!("{several} tokens match: {}", list(&matching)),
                "add token= or serial= to name one; no PIN is tried on a token that may be the wrong one",
            ),
        };
        let mut error = self.cannot("open", why);
        if matching.is_empty() && !others.is_empty() {
            error = error.caused_by(&Note(format!("found: {}", list(&others))));
        }
        caused_by_all(error, &survey.failures).hint(hint)
    }
}

fn caused_by_all(error: Error, failures: &[String]) -> Error {
    let failures = failures.iter().cloned().map(Note);
    failures.fold(error, |error, failure| error.caused_by(&failure))
}

/// The command that stores the missing public half of a private key.
fn how_to_store_public(token: &Token, key: &Key) -> String {
    let mut flags = String::new();
    if !key.id.is_empty() {
        flags += &format!(" --id {}", base16ct::lower::encode_string(&key.id));
    }
    if !key.label.is_empty() {
        flags += &format!(" --label {}", quote(&key.label));
    }
    format!(
        "store its public half with the same id, as in `{} --login --write-object PUBLIC.der \
         --type pubkey{flags}`",
        token.pkcs11_tool()
    )
}

/// The command that creates a key on this token.
fn how_to_generate(token: &Token) -> String {
    let uri = Uri::of_token(token.label()).with("object", b"NEW");
    let source = quote(&format!("{}:{uri}", KIND.scheme));
    format!("`qkey generate {source}`")
}
