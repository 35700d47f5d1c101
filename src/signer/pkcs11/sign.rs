//! Signatures by a token.

use std::sync::Mutex;

use cryptoki::{mechanism::Mechanism, session::UserType};
use sha2::{Digest, Sha256};

use super::{
    failure::ModuleError,
    key::{self, Key, Wanted},
    module::Session,
    request::Request,
    search::Found,
    token::Token,
};
use crate::{
    error::Result, parallel::lock, public_key::PublicKey, signature::Signature, signer::Signer,
    subprocess::excerpt,
};

/// A key whose public half is known. The login waits for the first signature.
pub(super) struct TokenSigner {
    request: Request,
    token: Token,
    session: Session,
    public_key: PublicKey,
    id: Vec<u8>,
    /// The private key, found on first use; locked while a signature is made.
    private: Mutex<Option<Key>>,
}

impl Signer for TokenSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        let mut private = lock(&self.private);
        let key = match &*private {
            Some(key) => key,
            None => private.insert(self.private_key()?),
        };
        let reply = if !key.always_authenticates {
            self.sign_digest(key, challenge)?
        } else {
            self.sign_with_pin(key, challenge)?
        };
        Signature::from_p1363(&reply).map_err(|error| {
            let looks = match Signature::from_der(&reply) {
                Ok(_) => "ASN.1 DER".to_owned(),
                Err(_) => excerpt(base16ct::lower::encode_string(&reply).as_bytes()),
            };
            self.request
                .cannot("use", format!("C_Sign returned {looks}"))
                .caused_by(&error)
                .hint("CKM_ECDSA must return r and s, 32 bytes each: try a newer module")
        })
    }
}

impl TokenSigner {
    pub(super) fn new(request: Request, token: Token, session: Session, found: Found) -> Self {
        Self {
            request,
            token,
            session,
            public_key: found.public_key,
            id: found.id,
            private: Mutex::new(None),
        }
    }

    /// Logs in if necessary, and finds the private key that belongs to the public one.
    fn private_key(&self) -> Result<Key> {
        let request = &self.request;
        if self.token.needs_login() {
            self.token.log_in(&self.session, request, UserType::User)?;
        }
        let mut wanted = Wanted::by(&request.uri);
        if !self.id.is_empty() {
            wanted.id = Some(self.id.clone());
        }
        let keys =
            key::private(&self.session, &wanted).map_err(|failure| request.error(&failure))?;
        let Some(key) = request.single(&self.token, keys)? else {
            return Err(request
                .cannot("use", format!("{} has only the public key", self.token))
                .hint("the private key must be on the token with the same label and id"));
        };
        key.check()
            .map_err(|error| request.wrong_key(&self.token, &error))?;
        match key.signs {
            Some(false) => Err(request
                .cannot("use", format!("{key} cannot sign: its CKA_SIGN is false"))
                .hint("use a key that was created for signing")),
            _ => Ok(key),
        }
    }

    fn sign_digest(&self, key: &Key, challenge: &[u8]) -> Result<Vec<u8>> {
        let (handle, digest) = (key.handle, Sha256::digest(challenge));
        self.session
            .call(move |session| session.sign(&Mechanism::Ecdsa, handle, &digest))
            .map_err(|failure| self.request.failed("sign with", &failure))
    }

    /// The login must come between C_SignInit and C_SignFinal, which only a hashing mechanism keeps
    /// apart.
    fn sign_with_pin(&self, key: &Key, challenge: &[u8]) -> Result<Vec<u8>> {
        let (handle, challenge) = (key.handle, challenge.to_vec());
        let failed = |failure: ModuleError| self.request.failed("sign with", &failure);
        self.session
            .call(move |session| session.sign_init(&Mechanism::EcdsaSha256, handle))
            .map_err(failed)?;
        self.token
            .log_in(&self.session, &self.request, UserType::ContextSpecific)?;
        self.session
            .call(move |session| {
                session.sign_update(&challenge)?;
                session.sign_final()
            })
            .map_err(failed)
    }
}
