//! What the encryption schemes of PKCS#8 files share.

use der::asn1::AnyRef;

use super::{Error, error::REENCRYPT};
use crate::encoding::asn1;

/// The name of the structure in messages.
pub(crate) const NAME: &str = "PKCS#8 private key";

/// The most iterations that a file may ask for, about ten seconds: they are needed to find out whether
/// the passphrase is right.
const MAX_ITERATIONS: u64 = 10_000_000;

pub(crate) fn malformed() -> Error {
    Error::Malformed(format!("encryption scheme of the {NAME}"))
}

/// Reads an iteration count; `of_what` precedes the word "iterations" in messages.
pub(crate) fn affordable_iterations(of_what: &str, iterations: AnyRef<'_>) -> Result<u64, Error> {
    match asn1::small(iterations) {
        None | Some(0) => Err(malformed()),
        Some(iterations) if iterations > MAX_ITERATIONS => {
            let asked = format!("{iterations} {of_what}iterations");
            Err(Error::too_costly(asked, MAX_ITERATIONS, REENCRYPT))
        }
        Some(iterations) => Ok(iterations),
    }
}
