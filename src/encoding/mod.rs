//! What files of keys are made of, private and public alike: PEM blocks, DER and the data types of
//! SSH, and the algorithms and curves that are named in them.

pub(crate) mod algorithm;
pub(crate) mod any_base64;
pub(crate) mod asn1;
pub(crate) mod contents;
pub(crate) mod curve;
pub(crate) mod identify;
pub(crate) mod pem;
pub(crate) mod ssh_public;
pub(crate) mod ssh_wire;

pub use curve::NotP256;
pub use identify::{Foreign, Public as PublicPart};
