//! Tokens: matching them with a URI, and logging in.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use cryptoki::{
    error::RvError,
    session::{SessionState, UserType},
    slot::{Slot, TokenInfo},
    types::{AuthPin, RawAuthPin},
};

use super::{
    failure::ModuleError,
    module::{Access, Module, Session},
    request::{Pin, Request},
    uri::Uri,
};
use crate::{
    error::{Error, Reason, Result},
    parallel::lock,
    secret::{self, Secret},
    signer::{refusals::refused_before, secret_error},
    text::{printable, quote, quote_path, quoted},
};

/// A token in a slot of a module.
#[derive(Clone)]
pub(super) struct Token {
    module: Arc<Module>,
    slot: Slot,
    info: TokenInfo,
}

/// What identifies a token, through any module.
pub(super) type Identity = [String; 4];

/// Serializes logins to a token. It holds the first failed attempt and its key source; after that,
/// there are no more attempts.
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
    ) -> std::result::Result<Vec<(Self, bool)>, ModuleError> {
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
                // A token may be removed, or unreadable for this module.
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

    /// As a list item.
    pub(super) fn title(&self) -> String {
        let info = &self.info;
        // Some modules pad with zeros where the standard requires spaces.
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
    ) -> std::result::Result<Session, ModuleError> {
        Session::open(&self.module, self.slot, access, timeout)
    }

    /// Logs in unless already logged in: once for all key sources on the token. A key with
    /// CKA_ALWAYS_AUTHENTICATE requires a context-specific login during each signature.
    ///
    /// # Errors
    /// When there is no PIN, it must not be tried, or it is or was refused.
    pub(super) fn log_in(
        &self,
        session: &Session,
        request: &Request,
        user: UserType,
    ) -> Result<()> {
        let gate = lock(&GATES).entry(self.identity()).or_default().clone();
        let mut refused = lock(&gate);
        if matches!(user, UserType::User) {
            let state = session
                .call(|session| Ok(session.get_session_info()?.session_state()))
                .map_err(|failure| request.error(&failure))?;
            if matches!(state, SessionState::RoUser | SessionState::RwUser) {
                return Ok(());
            }
        }
        let title = &request.title;
        match (&request.pin, &*refused) {
            (Pin::Withheld(error), _) => return Err(error.clone()),
            (_, Some((first, error))) if first == title => return Err(error.clone()),
            (_, Some((first, error))) => {
                let why = format!(
                    "{self} refused the PIN of {first} earlier in this run; no other PIN is tried"
                );
                return Err(refused_before(title, why, error));
            }
            (_, None) => {}
        }
        let info = self.current_info(request)?;
        self.expect_openable(&info, request)?;
        let tried = if let Some(pin) = self.pin(&info, request)? {
            let pin = RawAuthPin::new(Box::new(pin.as_bytes().to_vec()));
            session.call(move |session| session.login_with_raw(user, &pin))
        } else {
            log::warn!("enter the PIN of {self} on the reader's keypad");
            session.call_within(None, move |session| session.login(user, None::<&AuthPin>))
        };
        match tried {
            Err(failure) if !failure.is(RvError::UserAlreadyLoggedIn) => {
                let error = self.refusal(request, &failure);
                *refused = Some((title.clone(), error.clone()));
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// The current flags: an attempt may have failed since the token was listed.
    fn current_info(&self, request: &Request) -> Result<TokenInfo> {
        let slot = self.slot;
        self.module
            .call(Some(request.context.timeout), move |library| {
                library.pkcs11.get_token_info(slot)
            })
            .map_err(|failure| request.error(&failure))
    }

    /// Refuses if the token says that no PIN will work, or that a wrong one would lock it.
    fn expect_openable(&self, info: &TokenInfo, request: &Request) -> Result<()> {
        if info.user_pin_locked() {
            let hint = "unblock it with the SO PIN or PUK, using the token's own tool";
            return self.closed(request, "is locked after too many wrong PINs", hint);
        }
        if !info.user_pin_initialized() {
            let hint = format!(
                "set one with the token's own tool, as in `{} --login --login-type so --init-pin`",
                self.pkcs11_tool()
            );
            return self.closed(request, "has no user PIN", &hint);
        }
        if info.user_pin_final_try() && !matches!(request.pin, Pin::Person) {
            let hint = "remove the pin attributes to be prompted, or log in once with the token's own \
                        tool";
            return self.closed(request, "allows one more PIN attempt before it locks", hint);
        }
        Ok(())
    }

    /// The PIN; `None` if it is entered on the reader's keypad.
    fn pin(&self, info: &TokenInfo, request: &Request) -> Result<Option<Secret>> {
        let asker = &request.context.asker;
        let what = format!("the PIN of {self}, for {}", request.title);
        let failed = |error: secret::Error| secret_error(&request.title, super::FAMILY, &error);
        if matches!(request.pin, Pin::Person) {
            asker.may_ask(&what).map_err(failed)?;
        }
        if info.user_pin_final_try() {
            log::warn!("last attempt: {self} locks if the PIN is wrong");
        } else if info.user_pin_count_low() {
            log::warn!("{self} has seen a wrong PIN recently; a few wrong PINs lock it");
        }
        let pin = match &request.pin {
            Pin::Given(pin) => pin.clone(),
            Pin::From(source) => asker.read(source, &what).map_err(failed)?,
            Pin::Withheld(error) => return Err(error.clone()),
            Pin::Person if info.protected_authentication_path() => return Ok(None),
            Pin::Person => asker.ask(&what).map_err(failed)?,
        };
        let (shortest, longest) = (info.min_pin_length(), info.max_pin_length());
        let length = pin.as_bytes().len();
        // Some modules report a maximum of 0.
        if length < shortest || (longest >= shortest.max(1) && length > longest) {
            return self.closed(
                request,
                &format!("requires a PIN of {shortest} to {longest} bytes; this one has {length}"),
                "it was not tried; check where the PIN comes from",
            );
        }
        Ok(Some(pin))
    }

    fn closed<T>(&self, request: &Request, why: &str, hint: &str) -> Result<T> {
        Err(request.cannot("open", format!("{self} {why}")).hint(hint))
    }

    fn refusal(&self, request: &Request, failure: &ModuleError) -> Error {
        if failure.reason() != Some(Reason::WrongSecret) {
            return request.error(failure);
        }
        let now = match self.current_info(request) {
            Ok(info) if info.user_pin_locked() => "the token is now locked",
            Ok(info) if info.user_pin_final_try() => {
                "the token allows one more attempt before it locks"
            }
            _ => "a token locks after a few wrong PINs",
        };
        let hint = format!("it was tried once; check the PIN before running this again: {now}");
        request
            .cannot("open", format!("{self} refused the PIN"))
            .because(Reason::WrongSecret)
            .caused_by(failure)
            .hint(hint)
    }
}

/// As shown in messages.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the token {:?}", self.label())
    }
}
