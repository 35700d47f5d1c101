//! PKCS#11 modules: the libraries that vendors write, loaded into this process.
//!
//! Some are not safe to be called by two threads, and any of them may hang: each gets a thread of
//! its own, on which all its calls are made one after the other, each with a deadline. One that
//! crashes takes the process with it.

use std::{
    collections::BTreeMap,
    env, io, iter,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error as Pkcs11Error, RvError},
    session::Session as RawSession,
    slot::Slot,
};

use crate::{error::Kind, interrupt};

/// How soon a signal is noticed while a module works.
const TICK: Duration = Duration::from_millis(50);

/// The modules to look for where nobody names one, in the order in which they are tried: first the
/// proxy of p11-kit, through which all modules are reached that a system has registered.
const USUAL_NAMES: [&str; 6] = [
    "p11-kit-proxy",
    "softhsm2",
    "tpm2_pkcs11",
    "ykcs11",
    "yubihsm_pkcs11",
    "opensc-pkcs11",
];

/// Where vendors put their modules on Linux: AWS CloudHSM, Thales Luna, Entrust nShield, Utimaco.
const VENDORS_PLACES: [&str; 4] = [
    "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
    "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "/opt/nfast/toolkits/pkcs11/libcknfast.so",
    "/opt/utimaco/lib/libcs_pkcs11_R3.so",
];

/// Names the module to use where the key source does not.
const VARIABLE: &str = "PKCS11_MODULE";

/// Why a module does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("there is no module {}", .0.display())]
    NotThere(PathBuf),
    #[error("there is no module {name} in {}", list(places))]
    NotFound { name: String, places: Vec<PathBuf> },
    #[error("none of the modules {} is in {}, and none of {} is there", USUAL_NAMES.join(", "), list(.0), VENDORS_PLACES.join(", "))]
    NoneAnywhere(Vec<PathBuf>),
    #[error("{} is no PKCS#11 module: {why}", path.display())]
    NotAModule { path: PathBuf, why: String },
    #[error("{function} failed with {code}")]
    Refused { function: String, code: String },
    #[error("the module answers with something that PKCS#11 does not have: {0}")]
    Unexpected(String),
    #[error("the module did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("the module has not answered an earlier call")]
    Hangs,
    #[error("cannot start a thread for the module")]
    NoThread(#[source] io::Error),
    #[error("stopped by a signal")]
    Interrupted(Kind),
}

impl From<Pkcs11Error> for Failure {
    fn from(error: Pkcs11Error) -> Self {
        match error {
            Pkcs11Error::Pkcs11(code, function) => Self::Refused {
                function: format!("C_{function:?}"),
                code: name_of(code),
            },
            other => Self::Unexpected(other.to_string()),
        }
    }
}

impl Failure {
    /// Whether a function of the module returned this code.
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}

/// A loaded module. It stays loaded: to unload one whose threads still run ends in a crash.
pub(super) struct Module {
    path: PathBuf,
    worker: Mutex<Worker>,
}

struct Worker {
    jobs: mpsc::Sender<Job>,
    hangs: bool,
}

type Job = Box<dyn FnOnce(&mut Library) + Send>;

/// What the calls are made on.
pub(super) struct Library {
    pub(super) pkcs11: Pkcs11,
    sessions: BTreeMap<u64, RawSession>,
}

/// Every module that was loaded.
static LOADED: Mutex<Vec<Arc<Module>>> = Mutex::new(Vec::new());

impl Module {
    /// Loads a module, or takes the one that is loaded already.
    ///
    /// # Errors
    /// When it is not there, is no module, or does not initialize within `timeout`.
    pub(super) fn load(path: &Path, timeout: Duration) -> Result<Arc<Self>, Failure> {
        let path = path
            .canonicalize()
            .map_err(|_| Failure::NotThere(path.to_owned()))?;
        let mut loaded = lock(&LOADED);
        if let Some(module) = loaded.iter().find(|module| module.path == path) {
            return Ok(module.clone());
        }
        log::debug!("loading the PKCS#11 module {}", path.display());
        let (jobs, queue) = mpsc::channel::<Job>();
        let (sender, answer) = mpsc::channel();
        let file = path.clone();
        let work = move || {
            let mut library = match initialize(&file) {
                Ok(pkcs11) => Library {
                    pkcs11,
                    sessions: BTreeMap::new(),
                },
                Err(failure) => {
                    // Nobody listens any more when it took too long.
                    let _ = sender.send(Err(failure));
                    return;
                }
            };
            let _ = sender.send(Ok(()));
            for job in queue {
                job(&mut library);
            }
        };
        thread::Builder::new()
            .spawn(work)
            .map_err(Failure::NoThread)?;
        let initialized = wait(&answer, Some(timeout));
        let hangs = initialized.is_err();
        // One that hangs is kept as well: nobody else is to wait for it.
        if hangs || matches!(initialized, Ok(Ok(()))) {
            loaded.push(Arc::new(Self {
                path,
                worker: Mutex::new(Worker { jobs, hangs }),
            }));
        }
        initialized??;
        Ok(loaded.last().expect("it was pushed").clone())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes calls, which end within `timeout` where there is one; each caller's turn comes when
    /// the calls before have ended.
    ///
    /// # Errors
    /// Those of the calls, and when they do not end in time or a signal comes first.
    pub(super) fn call<T: Send + 'static>(
        &self,
        timeout: Option<Duration>,
        calls: impl FnOnce(&mut Library) -> Result<T, Pkcs11Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut worker = lock(&self.worker);
        if let Some(kind) = interrupt::received() {
            return Err(Failure::Interrupted(kind));
        }
        if worker.hangs {
            return Err(Failure::Hangs);
        }
        let (sender, answer) = mpsc::channel();
        let job = move |library: &mut Library| {
            let _ = sender.send(calls(library));
        };
        // A worker that is gone is noticed when no answer comes.
        let _ = worker.jobs.send(Box::new(job));
        match wait(&answer, timeout) {
            Ok(result) => Ok(result?),
            Err(failure) => {
                worker.hangs = true;
                Err(failure)
            }
        }
    }
}

/// Waits for a module, and for signals.
fn wait<T>(answer: &mpsc::Receiver<T>, timeout: Option<Duration>) -> Result<T, Failure> {
    let started = Instant::now();
    loop {
        match answer.recv_timeout(TICK) {
            Ok(value) => return Ok(value),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Failure::Hangs),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Some(kind) = interrupt::received() {
            return Err(Failure::Interrupted(kind));
        }
        if let Some(timeout) = timeout.filter(|timeout| started.elapsed() >= *timeout) {
            return Err(Failure::TimedOut(timeout));
        }
    }
}

fn initialize(path: &Path) -> Result<Pkcs11, Failure> {
    let pkcs11 = Pkcs11::new(path).map_err(|error| Failure::NotAModule {
        path: path.to_owned(),
        why: match error {
            Pkcs11Error::LibraryLoading(error) => error.to_string(),
            Pkcs11Error::MissingSymbol(name) => format!("it has no {name}"),
            other => Failure::from(other).to_string(),
        },
    })?;
    // The copy is never dropped, so that the library is never unloaded.
    std::mem::forget(pkcs11.clone());
    let with_locks = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
    let without_locks = CInitializeArgs::new(CInitializeFlags::empty());
    match pkcs11.initialize(with_locks) {
        // Another module has it loaded as well, such as p11-kit's.
        Err(Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        // One thread makes all calls, so that a module without locks will do.
        Err(Pkcs11Error::Pkcs11(RvError::CantLock, _)) => pkcs11.initialize(without_locks)?,
        result => result?,
    }
    Ok(pkcs11)
}

/// A session with a token, closed when this value goes.
pub(super) struct Session {
    module: Arc<Module>,
    number: u64,
    timeout: Duration,
}

/// Whether objects can be made in a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Session {
    /// Opens a session, each of whose calls may take `timeout`.
    ///
    /// # Errors
    /// Those of [`Module::call`].
    pub(super) fn open(
        module: &Arc<Module>,
        slot: Slot,
        access: Access,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let number = module.call(Some(timeout), move |library| {
            let session = match access {
                Access::Read => library.pkcs11.open_ro_session(slot)?,
                Access::Write => library.pkcs11.open_rw_session(slot)?,
            };
            let number = session.handle();
            library.sessions.insert(number, session);
            Ok(number)
        })?;
        Ok(Self {
            module: module.clone(),
            number,
            timeout,
        })
    }

    /// Makes calls in the session.
    ///
    /// # Errors
    /// Those of [`Module::call`].
    pub(super) fn call<T: Send + 'static>(
        &self,
        calls: impl FnOnce(&RawSession) -> Result<T, Pkcs11Error> + Send + 'static,
    ) -> Result<T, Failure> {
        self.call_within(Some(self.timeout), calls)
    }

    /// As [`Session::call`], with another deadline or, where a person types on a reader's keypad,
    /// none.
    pub(super) fn call_within<T: Send + 'static>(
        &self,
        timeout: Option<Duration>,
        calls: impl FnOnce(&RawSession) -> Result<T, Pkcs11Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let number = self.number;
        self.module
            .call(timeout, move |library| calls(&library.sessions[&number]))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let number = self.number;
        // A session that cannot be closed ends with the process.
        let _ = self.module.call(Some(self.timeout), move |library| {
            Ok(library.sessions.remove(&number).map(drop))
        });
    }
}

/// The modules to look in.
pub(super) enum Candidates {
    /// By the key source, or the environment.
    Named(PathBuf),
    Usual(Vec<PathBuf>),
}

/// The module that is named, else all that are in the usual places.
///
/// # Errors
/// When there is none.
pub(super) fn candidates(path: Option<&str>, name: Option<&str>) -> Result<Candidates, Failure> {
    let path = path.map(Path::new);
    let named = match (path, name) {
        (Some(folder), Some(name)) if has_folder(folder) && folder.is_dir() => {
            by_name(name, vec![folder.to_owned()])
        }
        (Some(path), _) => by_path(path),
        (None, Some(name)) => by_name(name, folders()),
        (None, None) => match env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => by_path(Path::new(&path)),
            None => return usual().map(Candidates::Usual),
        },
    };
    named.map(Candidates::Named)
}

/// Without its folder a file is looked for in the usual ones, and never in the current directory,
/// where somebody else may have put it.
fn by_path(path: &Path) -> Result<PathBuf, Failure> {
    if has_folder(path) {
        return Ok(path.to_owned());
    }
    let places = folders();
    let mut files = places.iter().map(|folder| folder.join(path));
    files
        .find(|file| file.is_file())
        .ok_or_else(|| Failure::NotFound {
            name: path.display().to_string(),
            places: places.clone(),
        })
}

fn has_folder(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&b'/')
}

fn by_name(name: &str, places: Vec<PathBuf>) -> Result<PathBuf, Failure> {
    let name = name.to_owned();
    find(&name, &places).ok_or(Failure::NotFound { name, places })
}

fn usual() -> Result<Vec<PathBuf>, Failure> {
    let folders = folders();
    let by_name = USUAL_NAMES.iter().filter_map(|name| find(name, &folders));
    let vendors = VENDORS_PLACES.iter().map(PathBuf::from);
    let found: Vec<PathBuf> = by_name
        .chain(vendors.filter(|path| path.exists()))
        .collect();
    match found.is_empty() {
        false => Ok(found),
        true => Err(Failure::NoneAnywhere(folders)),
    }
}

/// A module by its name, which has neither a `lib` in front nor an ending (RFC 7512, section 2.3).
fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let file = format!("{name}{}", env::consts::DLL_SUFFIX);
    folders.iter().find_map(|folder| {
        [folder.join(&file), folder.join(format!("lib{file}"))]
            .into_iter()
            .find(|path| path.is_file())
    })
}

/// Where distributions put modules: p11-kit's folder in each folder of libraries, that folder
/// itself, and SoftHSM's.
fn folders() -> Vec<PathBuf> {
    let libraries = [
        format!("/usr/lib/{}-linux-gnu", env::consts::ARCH),
        "/usr/lib64".to_owned(),
        "/usr/lib".to_owned(),
        "/usr/local/lib".to_owned(),
        "/opt/homebrew/lib".to_owned(),
    ];
    let inside = |library: &String| {
        let folder = PathBuf::from(library);
        [
            folder.join("pkcs11"),
            folder.clone(),
            folder.join("softhsm"),
        ]
    };
    libraries.iter().flat_map(inside).collect()
}

fn list(places: &[PathBuf]) -> String {
    let places: Vec<String> = places
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    places.join(", ")
}

/// The name in the standard of a return code.
fn name_of(code: RvError) -> String {
    match code {
        RvError::VendorDefined(number) | RvError::UnknownErrorCode(number) => {
            format!("the code {number:#x}, which is the vendor's own")
        }
        code => {
            let words = format!("{code:?}");
            let upper = words.chars().flat_map(|c| {
                let underscore = c.is_uppercase().then_some('_');
                underscore
                    .into_iter()
                    .chain(iter::once(c.to_ascii_uppercase()))
            });
            iter::once("CKR")
                .map(str::to_owned)
                .chain(upper.map(String::from))
                .collect()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn codes_have_the_names_that_the_standard_gives_them() {
        for (code, name) in [
            (RvError::PinIncorrect, "CKR_PIN_INCORRECT"),
            (RvError::CantLock, "CKR_CANT_LOCK"),
            (
                RvError::VendorDefined(0x8000_0001),
                "the code 0x80000001, which is the vendor's own",
            ),
        ] {
            assert_eq!(name_of(code), name);
        }
        let failure = Failure::from(Pkcs11Error::Pkcs11(RvError::PinIncorrect, Function::Login));
        assert_eq!(failure.to_string(), "C_Login failed with CKR_PIN_INCORRECT");
        assert!(failure.is("CKR_PIN_INCORRECT"));
    }
}
