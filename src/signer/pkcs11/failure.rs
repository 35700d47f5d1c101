//! Why PKCS#11 calls fail, and how those failures are presented.

use std::{fmt::Display, io, path::PathBuf, time::Duration};

use cryptoki::{
    context::Function,
    error::{Error as Pkcs11Error, RvError},
};

use crate::{
    error::{Error, Kind, Reason},
    signer::tool::{Row, Table, classify, table},
};

/// How many tokens or keys an error lists.
const LISTED: usize = 20;

/// What a return code of a module means, with the next step if it is always the same.
const CODES: Table = table! {
    "^CKR_PIN_(INCORRECT|INVALID|LEN_RANGE)$" => WrongSecret, "";
    "^CKR_PIN_LOCKED$" => Disabled,
        "unblock the token's PIN with its SO PIN or PUK, using the token's own tool";
    "^CKR_PIN_EXPIRED$" => Disabled, "set a new PIN with the token's own tool";
    "^CKR_(TOKEN_NOT_PRESENT|DEVICE_REMOVED)$" => Unreachable,
        "insert the token and run this again";
    "^CKR_FUNCTION_CANCELED$" => NeedsPerson,
        "run this again and enter the PIN on the reader's keypad";
    "^CKR_MECHANISM_INVALID$" => Unsupported,
        "the token must support CKM_ECDSA (and CKM_EC_KEY_PAIR_GEN to generate a key): see \
         `pkcs11-tool --module MODULE --list-mechanisms`";
    "^CKR_SESSION_COUNT$" => _, "close other programs that use the token";
};

/// Why a PKCS#11 module call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ModuleError {
    #[error("no {0}")]
    NotFound(String),
    #[error("{} is not a PKCS#11 module: {why}", path.display())]
    NotAModule { path: PathBuf, why: String },
    #[error("C_{function:?} failed with {}", name_of(*code))]
    Refused { function: Function, code: RvError },
    #[error("unexpected reply from the module: {0}")]
    Unexpected(String),
    #[error("the module did not respond within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("an earlier call to the module has not returned")]
    Hangs,
    #[error("cannot start a thread for the module")]
    NoThread(#[source] io::Error),
    #[error("interrupted")]
    Interrupted(Kind),
}

impl From<Pkcs11Error> for ModuleError {
    fn from(error: Pkcs11Error) -> Self {
        match error {
            Pkcs11Error::Pkcs11(code, function) => Self::Refused { function, code },
            other => Self::Unexpected(other.to_string()),
        }
    }
}

impl ModuleError {
    /// Whether a function of the module returned this code.
    pub(super) fn is(&self, wanted: RvError) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }

    /// What is known about the return code.
    fn row(&self) -> Option<&'static Row> {
        match self {
            Self::Refused { code, .. } => classify(CODES, &name_of(*code)),
            _ => None,
        }
    }

    /// Why it failed, where the code says so.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.row()?.reason
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotFound(_) => {
                "install the token's module (Debian: softhsm2, opensc-pkcs11, libtpm2-pkcs11-1, \
                 ykcs11), or set its path with ?module-path=PATH or PKCS11_MODULE"
            }
            Self::NotAModule { .. } => {
                "use the library that came with the token, as in \
                 ?module-path=/usr/lib/softhsm/libsofthsm2.so"
            }
            Self::TimedOut(_) | Self::Hangs => {
                "check the token and the service behind its module, or allow more time with \
                 --timeout SECONDS"
            }
            Self::NoThread(_) => "raise the limit on processes or memory (see `ulimit -a`)",
            _ => {
                return self
                    .row()
                    .map(|row| row.hint)
                    .filter(|hint| !hint.is_empty());
            }
        })
    }
}

/// The error of a failed call; `message` says what it was for.
pub(super) fn failure_error(message: String, failure: &ModuleError) -> Error {
    if let ModuleError::Interrupted(kind) = failure {
        return Error::new(*kind, format!("{message}: interrupted"));
    }
    Error::new(Kind::Key, message)
        .because(failure.reason())
        .caused_by(failure)
        .maybe_hint(failure.hint().map(str::to_owned))
}

/// A list on one line, sorted and limited to [`LISTED`] items.
pub(super) fn list(items: &[impl Display]) -> String {
    let mut shown: Vec<String> = items.iter().map(ToString::to_string).collect();
    shown.sort();
    shown.truncate(LISTED);
    match items.len() {
        0 => return "no keys".to_owned(),
        count if count > LISTED => shown.push(format!("and {} more", count - LISTED)),
        _ => {}
    }
    shown.join("; ")
}

/// The name of a return code in the standard.
fn name_of(code: RvError) -> String {
    match code {
        RvError::VendorDefined(number) | RvError::UnknownErrorCode(number) => {
            format!("vendor-defined code {number:#x}")
        }
        code => format!("{code:?}")
            .chars()
            .fold("CKR".to_owned(), |mut name, c| {
                if c.is_uppercase() {
                    name.push('_');
                }
                name.push(c.to_ascii_uppercase());
                name
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_codes_have_their_standard_names() {
        for (code, name) in [
            (RvError::PinIncorrect, "CKR_PIN_INCORRECT"),
            (RvError::CantLock, "CKR_CANT_LOCK"),
            (
                RvError::VendorDefined(0x8000_0001),
                "vendor-defined code 0x80000001",
            ),
        ] {
            assert_eq!(name_of(code), name);
        }
        let failure =
            ModuleError::from(Pkcs11Error::Pkcs11(RvError::PinIncorrect, Function::Login));
        assert_eq!(failure.to_string(), "C_Login failed with CKR_PIN_INCORRECT");
        assert!(failure.is(RvError::PinIncorrect));
        assert_eq!(failure.reason(), Some(Reason::WrongSecret));
    }
}
