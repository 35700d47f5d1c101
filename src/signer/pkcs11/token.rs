//! Tokens: which one a URI names, and the login to it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cryptoki::{
    session::{SessionState, UserType},
    slot::{Slot, TokenInfo},
    types::{AuthPin, RawAuthPin},
};

use super::{
    module::{Access, Failure, Module, Session},
    request::{self, Note},
    uri::Uri,
};
use crate::{
    error::{Error, Kind, Reason, Result},
    secret::{self, Secret, SecretSource},
    signer::{Context, secret_error},
    text::{printable, quote, quote_path, quoted},
};

/// A token in a slot of a module.
#[derive(Clone)]
pub(super) struct Token {
    module: Arc<Module>,
    slot: Slot,
    info: TokenInfo,
}

/// What tells a token from all others, through whichever module it is reached.
pub(super) type Identity = [String; 4];

/// Where the PIN comes from.
#[derive(Clone)]
pub(super) enum Pin {
    /// It stands in the URI.
    Given(Secret),
    From(SecretSource),
    /// Not to be tried, for this reason.
    Withheld(Error),
    /// Nothing names it: from the reader's keypad, or the terminal.
    Person,
}

/// What a login is for, and what it is given.
pub(super) struct Login<'a> {
    /// How messages name the key source.
    pub(super) title: &'a str,
    pub(super) pin: &'a Pin,
    pub(super) context: &'a Context,
}

/// The one login to a token: whoever holds it may try, and leaves behind what came of a try that
/// failed and for which key source, after which nobody tries again.
type Gate = Arc<Mutex<Option<(String, Error)>>>;

static GATES: Mutex<BTreeMap<Identity, Gate>> = Mutex::new(BTreeMap::new());

impl Token {
    /// The initialized tokens in a module, and whether each is what the URI names.
    ///
    /// # Errors
    /// When the module does not list them.
    pub(super) fn all(
        module: &Arc<Module>,
        uri: &Uri,
        timeout: Duration,
    ) -> std::result::Result<Vec<(Self, bool)>, Failure> {
        let uri = uri.clone();
        let tokens = module.call(Some(timeout), move |library| {
            let pkcs11 = &library.pkcs11;
            let about = pkcs11.get_library_info()?;
            let version = about.library_version();
            let version = format!("{}.{}", version.major(), version.minor());
            let module_agrees = uri.agrees(&[
                ("library-description", about.library_description()),
                ("library-manufacturer", about.manufacturer_id()),
                ("library-version", &version),
            ]);
            let mut tokens = Vec::new();
            for slot in pkcs11.get_slots_with_token()? {
                // A token may be pulled out, or be of a kind that the module cannot read.
                let (Ok(info), Ok(place)) =
                    (pkcs11.get_token_info(slot), pkcs11.get_slot_info(slot))
                else {
                    continue;
                };
                let agrees = uri.slot_id().is_none_or(|id| id == slot.id())
                    && uri.agrees(&[
                        ("token", info.label()),
                        ("manufacturer", info.manufacturer_id()),
                        ("serial", info.serial_number()),
                        ("model", info.model()),
                        ("slot-description", place.slot_description()),
                        ("slot-manufacturer", place.manufacturer_id()),
                    ]);
                if info.token_initialized() {
                    tokens.push((slot, info, module_agrees && agrees));
                }
            }
            Ok(tokens)
        })?;
        let token = |(slot, info, agrees)| {
            let module = module.clone();
            (Self { module, slot, info }, agrees)
        };
        Ok(tokens.into_iter().map(token).collect())
    }

    pub(super) fn label(&self) -> &str {
        self.info.label()
    }

    pub(super) fn uri(&self) -> Uri {
        Uri::of_token(self.label())
    }

    /// As a line of a list.
    pub(super) fn title(&self) -> String {
        let info = &self.info;
        // Some modules fill up with zeros what the standard wants filled up with blanks.
        let shown = |text: &str| printable(text.trim_end_matches('\0'));
        format!(
            "{} ({}, {}, serial={})",
            quoted(info.label()),
            shown(info.manufacturer_id()),
            shown(info.model()),
            shown(info.serial_number())
        )
    }

    /// The beginning of a command that does something to this token.
    pub(super) fn pkcs11_tool(&self) -> String {
        format!(
            "pkcs11-tool --module {} --token-label {}",
            quote_path(self.module.path()),
            quote(self.label())
        )
    }

    pub(super) fn is_write_protected(&self) -> bool {
        self.info.write_protected()
    }

    pub(super) fn needs_login(&self) -> bool {
        self.info.login_required()
    }

    pub(super) fn identity(&self) -> Identity {
        let info = &self.info;
        [
            info.manufacturer_id(),
            info.model(),
            info.serial_number(),
            info.label(),
        ]
        .map(str::to_owned)
    }

    pub(super) fn open(
        &self,
        access: Access,
        timeout: Duration,
    ) -> std::result::Result<Session, Failure> {
        Session::open(&self.module, self.slot, access, timeout)
    }

    /// Logs in where nobody has yet: once for all the key sources that use the token.
    ///
    /// # Errors
    /// When the PIN cannot be had, must not be tried, or is refused; and when it was refused
    /// before.
    pub(super) fn log_in(&self, session: &Session, login: &Login) -> Result<()> {
        let gate = self.gate();
        let mut refused = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let state = session
            .call(|session| Ok(session.get_session_info()?.session_state()))
            .map_err(|failure| request::error(login.title, &failure))?;
        match state {
            SessionState::RoUser | SessionState::RwUser => Ok(()),
            _ => self.give_pin(session, login, UserType::User, &mut refused),
        }
    }

    /// Logs in once more, as a key that always authenticates wants it between the beginning and the
    /// end of each signature.
    ///
    /// # Errors
    /// As [`Token::log_in`].
    pub(super) fn log_in_to_key(&self, session: &Session, login: &Login) -> Result<()> {
        let gate = self.gate();
        let mut refused = gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.give_pin(session, login, UserType::ContextSpecific, &mut refused)
    }

    fn gate(&self) -> Gate {
        let mut gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
        gates.entry(self.identity()).or_default().clone()
    }

    fn give_pin(
        &self,
        session: &Session,
        login: &Login,
        user: UserType,
        refused: &mut Option<(String, Error)>,
    ) -> Result<()> {
        if let Pin::Withheld(error) = login.pin {
            return Err(error.clone());
        }
        if let Some((first, error)) = refused {
            if first.as_str() == login.title {
                return Err(error.clone());
            }
            let why =
                format!("{self} refused the PIN of {first} in this run, so no other PIN is tried");
            return Err(Error::new(Kind::Key, why)
                .context(format!("cannot use {}", login.title))
                .because(error.reason())
                .maybe_hint(error.hint_text().map(str::to_owned)));
        }
        let info = self.current_info(login)?;
        self.expect_openable(&info, login)?;
        let tried = match self.pin(&info, login)? {
            Some(pin) => {
                let pin = RawAuthPin::new(Box::new(pin.as_bytes().to_vec()));
                session.call(move |session| session.login_with_raw(user, &pin))
            }
            None => {
                log::warn!("enter the PIN of {self} on the keypad of its reader");
                session.call_within(None, move |session| session.login(user, None::<&AuthPin>))
            }
        };
        match tried {
            Err(failure) if !failure.is("CKR_USER_ALREADY_LOGGED_IN") => {
                let error = self.refusal(login, &failure);
                *refused = Some((login.title.to_owned(), error.clone()));
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// The flags as they are now: a try may have been lost since the token was listed.
    fn current_info(&self, login: &Login) -> Result<TokenInfo> {
        let slot = self.slot;
        self.module
            .call(Some(login.context.timeout), move |library| {
                library.pkcs11.get_token_info(slot)
            })
            .map_err(|failure| request::error(login.title, &failure))
    }

    /// Refuses when the token says that no PIN opens it, or that a wrong one would be the last.
    fn expect_openable(&self, info: &TokenInfo, login: &Login) -> Result<()> {
        if info.user_pin_locked() {
            return self.closed(
                login,
                "is locked: a wrong PIN was given too often",
                "unlock it with the SO PIN or PUK, with the tool that came with the token",
            );
        }
        if !info.user_pin_initialized() {
            return self.closed(
                login,
                "has no user PIN yet",
                &format!(
                    "set one with the tool that came with the token, as in `{} --login \
                     --login-type so --init-pin`",
                    self.pkcs11_tool()
                ),
            );
        }
        if info.user_pin_final_try() && !matches!(login.pin, Pin::Person) {
            return self.closed(
                login,
                "takes one more PIN, and is locked if that is wrong",
                "leave out the pin attributes to be asked for it, or log in once with the tool that \
                 came with the token",
            );
        }
        Ok(())
    }

    /// The PIN; `None` when it is to be typed on the reader's keypad.
    fn pin(&self, info: &TokenInfo, login: &Login) -> Result<Option<Secret>> {
        let asker = &login.context.asker;
        let what = format!("the PIN of {self}, for {}", login.title);
        let failed = |error: secret::Error| secret_error(login.title, super::FAMILY, &error);
        if matches!(login.pin, Pin::Person) {
            asker.may_ask(&what).map_err(failed)?;
        }
        warn_of_tries(info, self);
        let pin = match login.pin {
            Pin::Given(pin) => pin.clone(),
            Pin::From(source) => asker.read(source, &what).map_err(failed)?,
            Pin::Withheld(error) => return Err(error.clone()),
            Pin::Person if info.protected_authentication_path() => return Ok(None),
            Pin::Person => asker.ask(&what).map_err(failed)?,
        };
        let (shortest, longest) = (info.min_pin_length(), info.max_pin_length());
        let length = pin.as_bytes().len();
        // Some modules say that 0 is the longest.
        if length < shortest || (longest >= shortest.max(1) && length > longest) {
            return self.closed(
                login,
                &format!("takes PINs of {shortest} to {longest} bytes, and this one has {length}"),
                "it was not tried; check where the PIN comes from",
            );
        }
        Ok(Some(pin))
    }

    fn closed<T>(&self, login: &Login, why: &str, hint: &str) -> Result<T> {
        let message = format!("cannot open {}", login.title);
        Err(Error::new(Kind::Key, message)
            .caused_by(&Note(format!("{self} {why}")))
            .hint(hint))
    }

    fn refusal(&self, login: &Login, failure: &Failure) -> Error {
        let error = request::error(login.title, failure);
        let is_wrong = ["CKR_PIN_INCORRECT", "CKR_PIN_INVALID", "CKR_PIN_LEN_RANGE"]
            .iter()
            .any(|code| failure.is(code));
        if !is_wrong {
            return error;
        }
        let now = match self.current_info(login) {
            Ok(info) if info.user_pin_locked() => "the token has locked itself",
            Ok(info) if info.user_pin_final_try() => {
                "the token takes one more PIN, and locks itself if that is wrong"
            }
            _ => "a token locks itself after a few wrong ones",
        };
        Error::new(Kind::Key, format!("cannot open {}", login.title))
            .because(Reason::WrongSecret)
            .caused_by(&Note(format!("{self} refused the PIN")))
            .caused_by(failure)
            .hint(format!(
                "it was tried once and is not tried again; {now}, so check the PIN first"
            ))
    }
}

/// As messages name it.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the token {:?}", self.label())
    }
}

fn warn_of_tries(info: &TokenInfo, token: &Token) {
    if info.user_pin_final_try() {
        log::warn!("this is the last try: {token} locks itself if the PIN is wrong");
    } else if info.user_pin_count_low() {
        log::warn!("a wrong PIN was given to {token} before; a few of them lock it");
    }
}
