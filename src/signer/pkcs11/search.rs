//! The search for a key on all tokens.

use std::{collections::BTreeSet, fmt::Display};

use super::{
    KIND,
    key::{self, Key, Wanted},
    module::{self, Access, Failure, Module, Session},
    request::{Note, Request, list},
    token::Token,
};
use crate::{
    error::{Error, Kind as ErrorKind, Result},
    public_key::{self, PublicKey},
};

/// What is on the tokens.
pub(super) struct Survey<T> {
    /// Tokens that the URI names, with what was looked for.
    pub(super) matches: Vec<(Token, Session, T)>,
    /// Tokens that the URI names, where it does not show.
    pub(super) closed: Vec<(Token, Session)>,
    /// Tokens that the URI does not name.
    pub(super) others: Vec<Token>,
    /// The modules that do not work, and why.
    pub(super) failures: Vec<String>,
}

impl<T> Survey<T> {
    /// Takes a result. A failure of what nobody has named is noted, for others may do.
    fn noted<R>(
        &mut self,
        what: &dyn Display,
        result: std::result::Result<R, Failure>,
        is_named: bool,
    ) -> std::result::Result<Option<R>, Failure> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(failure) if is_named || matches!(failure, Failure::Interrupted(_)) => Err(failure),
            Err(failure) => {
                self.failures.push(format!("{what}: {failure}"));
                Ok(None)
            }
        }
    }

    /// Leaves each token once, which may be reached through several modules.
    fn drop_doubles(&mut self) {
        let mut seen = BTreeSet::new();
        self.closed
            .retain(|(token, _)| seen.insert(token.identity()));
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
    /// Goes through the modules until a token in one of them has what is looked for.
    pub(super) fn survey<T>(
        &self,
        access: Access,
        mut look: impl FnMut(&Token, &Session) -> Result<Option<T>>,
    ) -> Result<Survey<T>> {
        let failed = |failure: Failure| self.error(&failure);
        let paths = module::candidates(self.module_path.as_deref(), self.module_name.as_deref())
            .map_err(failed)?;
        let is_named = paths.len() == 1;
        let timeout = self.context.timeout;
        let mut survey = Survey {
            matches: Vec::new(),
            others: Vec::new(),
            closed: Vec::new(),
            failures: Vec::new(),
        };
        for path in paths {
            let tokens = Module::load(&path, timeout)
                .and_then(|module| Token::all(&module, &self.uri, timeout));
            let tokens = survey.noted(&path.display(), tokens, is_named);
            for (token, agrees) in tokens.map_err(failed)?.unwrap_or_default() {
                if !agrees {
                    survey.others.push(token);
                    continue;
                }
                let session = token.open(access, timeout);
                let session = survey.noted(&token, session, self.uri.names_token());
                let Some(session) = session.map_err(failed)? else {
                    continue;
                };
                match look(&token, &session)? {
                    Some(found) => survey.matches.push((token, session, found)),
                    None => survey.closed.push((token, session)),
                }
            }
            let is_right_token = self.uri.names_token() && !survey.closed.is_empty();
            if !survey.matches.is_empty() || is_right_token {
                break;
            }
        }
        survey.drop_doubles();
        Ok(survey)
    }

    /// The key as far as the token shows it now.
    pub(super) fn key_in_sight(
        &self,
        token: &Token,
        session: &Session,
        access: Sight,
    ) -> Result<Option<Found>> {
        let failed = |failure: Failure| self.error(&failure);
        let wanted = Wanted::by(&self.uri);
        let private = self.single(token, key::private(session, &wanted).map_err(failed)?)?;
        let Some(private) = private else {
            if access == Sight::Whole {
                return Ok(None);
            }
            let public = self.single(token, key::public(session, &wanted).map_err(failed)?)?;
            return public
                .map(|public| {
                    Ok(Found {
                        public_key: self.public_key(token, std::slice::from_ref(&public))?,
                        id: public.id,
                    })
                })
                .transpose();
        };
        let partner = Wanted {
            label: private
                .id
                .is_empty()
                .then(|| private.label.clone().into_bytes()),
            id: (!private.id.is_empty()).then(|| private.id.clone()),
        };
        let mut halves = vec![private.clone()];
        halves.extend(key::public(session, &partner).map_err(failed)?);
        Ok(Some(Found {
            public_key: self.public_key(token, &halves)?,
            id: private.id,
        }))
    }

    pub(super) fn single(&self, token: &Token, mut keys: Vec<Key>) -> Result<Option<Key>> {
        match keys.len() {
            0 | 1 => Ok(keys.pop()),
            several => Err(self
                .not_opened(format!("{several} keys on {token} match: {}", list(&keys)))
                .hint("add id= to the URI, as it stands in this list")),
        }
    }

    /// The first public key among the objects that make up a key.
    fn public_key(&self, token: &Token, halves: &[Key]) -> Result<PublicKey> {
        for half in halves {
            if let Some(public_key) = half
                .public_key()
                .map_err(|error| self.wrong_key(token, &error))?
            {
                return Ok(public_key);
            }
        }
        Err(self
            .unusable(format!(
                "{token} shows no public key for {}",
                halves.first().map(Key::to_string).unwrap_or_default()
            ))
            .hint(
                "store its public half under the same id, as in `pkcs11-tool --write-object \
                 PUBLIC.der --type pubkey --id ID`",
            ))
    }

    pub(super) fn wrong_key(&self, token: &Token, error: &public_key::Error) -> Error {
        Error::new(ErrorKind::Key, format!("cannot use {}", self.title))
            .caused_by(error)
            .hint(format!("make a P-256 key: {}", how_to_generate(token)))
    }

    /// The error when the key is on several tokens; lists them.
    pub(super) fn several(&self, survey: &Survey<Found>) -> Error {
        let matches = survey.matches.iter();
        let tokens: Vec<String> = matches.map(|(token, ..)| token.title()).collect();
        let count = tokens.len();
        self.not_opened(format!("{count} tokens have such a key: {}", list(&tokens)))
            .hint("add token= or serial= to the URI, as it stands in this list")
    }

    /// The error when no key matches; lists what there is.
    pub(super) fn nothing(&self, survey: &Survey<Found>) -> Error {
        let [(token, session)] = &survey.closed[..] else {
            return self.no_token(survey);
        };
        match key::all(session, &Wanted::default()) {
            Err(failure) => self.error(&failure),
            Ok(keys) => self
                .not_opened(format!("{token} has no such private key"))
                .caused_by(&Note(format!("it has: {}", list(&keys))))
                .hint(format!(
                    "correct object= and id=, or make the key: {}",
                    how_to_generate(token)
                )),
        }
    }

    /// The error when not exactly one token matches; lists those that there are.
    pub(super) fn no_token<T>(&self, survey: &Survey<T>) -> Error {
        let others: Vec<String> = survey.others.iter().map(Token::title).collect();
        let matching: Vec<String> = survey
            .closed
            .iter()
            .map(|(token, _)| token.title())
            .collect();
        let (error, hint) = match (matching.len(), others.len()) {
            (0, 0) => (
                self.not_opened("there is no token at all".to_owned()),
                "plug it in, or initialize one, as in `softhsm2-util --init-token --free --label \
                 TOKEN`; ?module-path=PATH names another module",
            ),
            (0, _) => (
                self.not_opened("no token matches".to_owned())
                    .caused_by(&Note(format!("found: {}", list(&others)))),
                "correct token=, serial= and so on; ?module-path=PATH names another module",
            ),
            (several, _) => (
                self.not_opened(format!("{several} tokens match: {}", list(&matching))),
                "name one of them: no PIN is tried on what may be the wrong token",
            ),
        };
        let failures = survey.failures.iter().cloned().map(Note);
        failures
            .fold(error, |error, failure| error.caused_by(&failure))
            .hint(hint)
    }
}

/// The command that makes a key on this token.
fn how_to_generate(token: &Token) -> String {
    let uri = token.uri().with("object", b"NEW");
    format!("`qkey generate '{}:{uri}'`", KIND.scheme)
}
