//! Keys on a token: finding them and reading their attributes.

use std::fmt;

use cryptoki::{
    error::Error as Pkcs11Error,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session as RawSession,
};

use super::{
    failure::ModuleError,
    module::Session,
    uri::{Uri, encode_all},
};
use crate::{
    encoding::NotP256,
    public_key::{self, PublicKey},
};

/// The attributes read of each key.
const ATTRIBUTES: [AttributeType; 8] = [
    AttributeType::Class,
    AttributeType::Label,
    AttributeType::Id,
    AttributeType::KeyType,
    AttributeType::Sign,
    AttributeType::AlwaysAuthenticate,
    AttributeType::EcParams,
    AttributeType::EcPoint,
];

/// Which keys to look for; `None` matches anything.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) label: Option<Vec<u8>>,
    pub(super) id: Option<Vec<u8>>,
}

impl Wanted {
    pub(super) fn by(uri: &Uri) -> Self {
        Self {
            label: uri.object().map(|label| label.as_bytes().to_vec()),
            id: uri.id().map(<[u8]>::to_vec),
        }
    }

    fn template(&self, class: ObjectClass) -> Vec<Attribute> {
        let label = self.label.clone().map(Attribute::Label);
        let id = self.id.clone().map(Attribute::Id);
        [Attribute::Class(class)]
            .into_iter()
            .chain(label)
            .chain(id)
            .collect()
    }
}

/// A key, private or public, as its token shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) handle: ObjectHandle,
    pub(super) label: String,
    pub(super) id: Vec<u8>,
    class: Option<ObjectClass>,
    key_type: Option<KeyType>,
    /// Whether it may sign, where the token says so.
    pub(super) signs: Option<bool>,
    /// Whether each signature needs the PIN again.
    pub(super) always_authenticates: bool,
    ec_params: Option<Vec<u8>>,
    ec_point: Option<Vec<u8>>,
}

impl Key {
    fn read(session: &RawSession, handle: ObjectHandle) -> Result<Self, Pkcs11Error> {
        let mut key = Self {
            handle,
            label: String::new(),
            id: Vec::new(),
            class: None,
            key_type: None,
            signs: None,
            always_authenticates: false,
            ec_params: None,
            ec_point: None,
        };
        for attribute in session.get_attributes(handle, &ATTRIBUTES)? {
            match attribute {
                Attribute::Class(class) => key.class = Some(class),
                Attribute::Label(label) => key.label = String::from_utf8_lossy(&label).into_owned(),
                Attribute::Id(id) => key.id = id,
                Attribute::KeyType(key_type) => key.key_type = Some(key_type),
                Attribute::Sign(signs) => key.signs = Some(signs),
                Attribute::AlwaysAuthenticate(always) => key.always_authenticates = always,
                Attribute::EcParams(params) => key.ec_params = Some(params),
                Attribute::EcPoint(point) => key.ec_point = Some(point),
                _ => {}
            }
        }
        Ok(key)
    }

    fn algorithm(&self) -> String {
        match self.key_type {
            Some(KeyType::EC) => "EC".to_owned(),
            Some(KeyType::RSA) => "RSA".to_owned(),
            Some(KeyType::DSA) => "DSA".to_owned(),
            Some(KeyType::EC_EDWARDS) => "Ed25519 or Ed448".to_owned(),
            Some(KeyType::EC_MONTGOMERY) => "X25519 or X448".to_owned(),
            Some(other) => other.to_string(),
            None => "of unknown type".to_owned(),
        }
    }

    /// Refuses a key that is not on P-256, as far as it says so itself.
    pub(super) fn check(&self) -> Result<(), public_key::Error> {
        match self.key_type {
            Some(KeyType::EC) => Ok(()),
            _ => Err(public_key::Error::NotP256(NotP256::Algorithm(
                self.algorithm(),
            ))),
        }
    }

    /// The public key; `None` when this object does not hold it, as many private keys do not.
    pub(super) fn public_key(&self) -> Result<Option<PublicKey>, public_key::Error> {
        self.check()?;
        match (&self.ec_params, &self.ec_point) {
            (Some(params), Some(point)) if !point.is_empty() => {
                PublicKey::from_pkcs11(params, point).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// As a list item.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            Some(ObjectClass::PUBLIC_KEY) => "public",
            _ => "private",
        };
        let curve = match self.public_key() {
            Ok(Some(_)) => " P-256".to_owned(),
            Err(public_key::Error::NotP256(NotP256::Curve(curve))) => format!(" {curve}"),
            _ => String::new(),
        };
        let (label, id) = (&self.label, encode_all(&self.id));
        write!(f, "{label:?} id={id} ({class} {}{curve})", self.algorithm())
    }
}

/// The private keys in sight: before a login most tokens show none.
pub(super) fn private(session: &Session, wanted: &Wanted) -> Result<Vec<Key>, ModuleError> {
    find(session, wanted.template(ObjectClass::PRIVATE_KEY))
}

pub(super) fn public(session: &Session, wanted: &Wanted) -> Result<Vec<Key>, ModuleError> {
    find(session, wanted.template(ObjectClass::PUBLIC_KEY))
}

/// The keys in sight of both kinds.
pub(super) fn all(session: &Session, wanted: &Wanted) -> Result<Vec<Key>, ModuleError> {
    let mut keys = private(session, wanted)?;
    keys.extend(public(session, wanted)?);
    Ok(keys)
}

fn find(session: &Session, template: Vec<Attribute>) -> Result<Vec<Key>, ModuleError> {
    session.call(move |session| {
        let handles = session.find_objects(&template)?;
        handles
            .into_iter()
            .map(|handle| Key::read(session, handle))
            .collect()
    })
}
