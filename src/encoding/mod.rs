//! The encodings of key files, private and public: PEM blocks, DER and SSH data types, and the
//! algorithms and curves that they name.

pub(crate) mod algorithm;
pub(crate) mod any_base64;
pub(crate) mod asn1;
pub(crate) mod ber;
pub(crate) mod contents;
pub(crate) mod curve;
pub(crate) mod identify;
pub(crate) mod jwk;
pub(crate) mod oids;
pub(crate) mod pem;
pub(crate) mod ssh_public;
pub(crate) mod ssh_wire;
pub(crate) mod unescape;

pub use curve::NotP256;
pub use identify::{Foreign, Public as PublicPart};
