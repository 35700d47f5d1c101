//! PKCS#11 modules: the libraries that vendors write, loaded into this process.
//!
//! Some are not thread-safe, and any may hang: each runs on its own thread, one call at a time, with a
//! deadline. A module that crashes takes the process with it.

use std::{
    collections::BTreeMap,
    env,
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

use super::failure::ModuleError;
use crate::interrupt;

/// How soon a signal is noticed during a call.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The modules to try if none is named, in this order. p11-kit's proxy comes first: it reaches every
/// module that is registered on the system.
const USUAL_NAMES: [&str; 6] = [
    "p11-kit-proxy",
    "softhsm2",
    "tpm2_pkcs11",
    "ykcs11",
    "yubihsm_pkcs11",
    "opensc-pkcs11",
];

/// Vendor modules on Linux: AWS CloudHSM, Thales Luna, Entrust nShield, Utimaco.
const VENDOR_MODULES: [&str; 4] = [
    "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
    "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "/opt/nfast/toolkits/pkcs11/libcknfast.so",
    "/opt/utimaco/lib/libcs_pkcs11_R3.so",
];

/// Names the module to use where the key source does not.
const VARIABLE: &str = "PKCS11_MODULE";

/// A loaded module. It stays loaded, because unloading one whose threads still run crashes.
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
    pub(super) fn load(path: &Path, timeout: Duration) -> Result<Arc<Self>, ModuleError> {
        let path = path
            .canonicalize()
            .map_err(|_| ModuleError::NotThere(path.to_owned()))?;
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
                    // After a timeout nobody is listening.
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
            .map_err(ModuleError::NoThread)?;
        let initialized = wait(&answer, Some(timeout));
        let hangs = initialized.is_err();
        // A module that hangs is kept too, so that nothing waits for it again.
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

    /// Makes calls within `timeout`, if there is one, after earlier calls have returned.
    ///
    /// # Errors
    /// Those of the calls, and when they do not end in time or a signal comes first.
    pub(super) fn call<T: Send + 'static>(
        &self,
        timeout: Option<Duration>,
        calls: impl FnOnce(&mut Library) -> Result<T, Pkcs11Error> + Send + 'static,
    ) -> Result<T, ModuleError> {
        let mut worker = lock(&self.worker);
        if let Some(kind) = interrupt::received() {
            return Err(ModuleError::Interrupted(kind));
        }
        if worker.hangs {
            return Err(ModuleError::Hangs);
        }
        let (sender, answer) = mpsc::channel();
        let job = move |library: &mut Library| {
            let _ = sender.send(calls(library));
        };
        // A dead worker is noticed when no reply comes.
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

/// Waits for a reply or a signal.
fn wait<T>(answer: &mpsc::Receiver<T>, timeout: Option<Duration>) -> Result<T, ModuleError> {
    let started = Instant::now();
    loop {
        match answer.recv_timeout(POLL_INTERVAL) {
            Ok(value) => return Ok(value),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(ModuleError::Hangs),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Some(kind) = interrupt::received() {
            return Err(ModuleError::Interrupted(kind));
        }
        if let Some(timeout) = timeout.filter(|timeout| started.elapsed() >= *timeout) {
            return Err(ModuleError::TimedOut(timeout));
        }
    }
}

fn initialize(path: &Path) -> Result<Pkcs11, ModuleError> {
    let pkcs11 = Pkcs11::new(path).map_err(|error| ModuleError::NotAModule {
        path: path.to_owned(),
        why: match error {
            Pkcs11Error::LibraryLoading(error) => error.to_string(),
            Pkcs11Error::MissingSymbol(name) => format!("it has no {name}"),
            other => ModuleError::from(other).to_string(),
        },
    })?;
    // The copy is never dropped, so that the library is never unloaded.
    std::mem::forget(pkcs11.clone());
    let with_locks = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
    let without_locks = CInitializeArgs::new(CInitializeFlags::empty());
    match pkcs11.initialize(with_locks) {
        // Another module, such as p11-kit's, has loaded it too.
        Err(Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        // All calls come from one thread, so locks are not needed.
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
    ) -> Result<Self, ModuleError> {
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
    ) -> Result<T, ModuleError> {
        self.call_within(Some(self.timeout), calls)
    }

    /// As [`Session::call`], with another deadline or, where a person types on a reader's keypad,
    /// none.
    pub(super) fn call_within<T: Send + 'static>(
        &self,
        timeout: Option<Duration>,
        calls: impl FnOnce(&RawSession) -> Result<T, Pkcs11Error> + Send + 'static,
    ) -> Result<T, ModuleError> {
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

/// The named module, or all modules in the usual places.
///
/// # Errors
/// When there is none.
pub(super) fn candidates(
    path: Option<&str>,
    name: Option<&str>,
) -> Result<Candidates, ModuleError> {
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

/// A file name without a directory is looked up in the usual directories, never in the current one,
/// where another user may have put it.
fn by_path(path: &Path) -> Result<PathBuf, ModuleError> {
    if has_folder(path) {
        return Ok(path.to_owned());
    }
    let places = folders();
    let mut files = places.iter().map(|folder| folder.join(path));
    files
        .find(|file| file.is_file())
        .ok_or_else(|| ModuleError::NotFound {
            name: path.display().to_string(),
            places: places.clone(),
        })
}

fn has_folder(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&b'/')
}

fn by_name(name: &str, places: Vec<PathBuf>) -> Result<PathBuf, ModuleError> {
    let name = name.to_owned();
    find(&name, &places).ok_or(ModuleError::NotFound { name, places })
}

fn usual() -> Result<Vec<PathBuf>, ModuleError> {
    let folders = folders();
    let by_name = USUAL_NAMES.iter().filter_map(|name| find(name, &folders));
    let vendors = VENDOR_MODULES.iter().map(PathBuf::from);
    let found: Vec<PathBuf> = by_name
        .chain(vendors.filter(|path| path.exists()))
        .collect();
    match found.is_empty() {
        false => Ok(found),
        true => Err(ModuleError::NoneAnywhere {
            names: &USUAL_NAMES,
            folders,
            vendors: &VENDOR_MODULES,
        }),
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
