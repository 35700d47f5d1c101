//! PKCS#11 modules: the libraries that vendors write, loaded into this process.
//!
//! Some are not thread-safe, and any may hang: each runs on its own thread, one call at a time, with a
//! deadline. A module that crashes takes the process with it.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
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
use crate::{
    interrupt::{self, NoResult},
    parallel::lock,
};

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

/// An initialized module and its open sessions.
pub(super) struct Library {
    pub(super) pkcs11: Pkcs11,
    sessions: BTreeMap<u64, RawSession>,
}

/// Every module that was loaded.
static LOADED: Mutex<Vec<Arc<Module>>> = Mutex::new(Vec::new());

impl Module {
    /// Loads a module, or returns the one that is already loaded.
    ///
    /// # Errors
    /// When it does not exist, is not a module, or does not initialize within `timeout`.
    pub(super) fn load(path: &Path, timeout: Duration) -> Result<Arc<Self>, ModuleError> {
        let path = path
            .canonicalize()
            .map_err(|_| ModuleError::NotFound(format!("module {}", path.display())))?;
        let mut loaded = lock(&LOADED);
        if let Some(module) = loaded.iter().find(|module| module.path == path) {
            return Ok(module.clone());
        }
        log::debug!("loading the PKCS#11 module {}", path.display());
        let (jobs, queue) = mpsc::channel::<Job>();
        let (sender, answer) = mpsc::channel();
        let file = path.clone();
        let work = move || {
            // After a timeout, nobody is listening.
            let _ = match initialize(&file) {
                Err(failure) => sender.send(Err(failure)),
                Ok(mut library) => {
                    let sent = sender.send(Ok(()));
                    queue.into_iter().for_each(|job| job(&mut library));
                    sent
                }
            };
        };
        thread::Builder::new()
            .spawn(work)
            .map_err(ModuleError::NoThread)?;
        let initialized = wait(&answer, Some(timeout));
        let hangs = initialized.is_err();
        // A module that hangs is kept, too, so that nothing waits for it again.
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
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    interrupt::wait(answer, deadline).map_err(|why| match (why, timeout) {
        (NoResult::Interrupted(kind), _) => ModuleError::Interrupted(kind),
        (NoResult::TimedOut, Some(timeout)) => ModuleError::TimedOut(timeout),
        _ => ModuleError::Hangs,
    })
}

fn initialize(path: &Path) -> Result<Library, ModuleError> {
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
    Ok(Library {
        pkcs11,
        sessions: BTreeMap::new(),
    })
}

/// A session with a token, closed on drop.
pub(super) struct Session {
    module: Arc<Module>,
    number: u64,
    timeout: Duration,
}

/// Whether a session can create objects.
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

/// The modules to look in: the one that the key source or the environment names, or all in the usual
/// places; and whether it was named.
///
/// # Errors
/// When there is none.
pub(super) fn candidates(
    path: Option<&str>,
    name: Option<&str>,
) -> Result<(Vec<PathBuf>, bool), ModuleError> {
    let path = path.map(Path::new);
    let named = match (path, name) {
        (Some(folder), Some(name)) if has_folder(folder) && folder.is_dir() => {
            by_name(name, &[folder.to_owned()])
        }
        (Some(path), _) => by_path(path),
        (None, Some(name)) => by_name(name, &folders()),
        (None, None) => match env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => by_path(Path::new(&path)),
            None => return Ok((usual()?, false)),
        },
    };
    Ok((vec![named?], true))
}

/// A file name without a directory is looked up in the usual directories, never in the current one,
/// where another user may have put it.
fn by_path(path: &Path) -> Result<PathBuf, ModuleError> {
    if has_folder(path) {
        return Ok(path.to_owned());
    }
    let places = folders();
    let mut files = places.iter().map(|folder| folder.join(path));
    let found = files.find(|file| file.is_file());
    found.ok_or_else(|| not_found(&path.display().to_string(), &places))
}

fn has_folder(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&b'/')
}

fn by_name(name: &str, places: &[PathBuf]) -> Result<PathBuf, ModuleError> {
    find(name, places).ok_or_else(|| not_found(name, places))
}

fn not_found(name: &str, places: &[PathBuf]) -> ModuleError {
    ModuleError::NotFound(format!("module {name} in {}", paths(places)))
}

fn paths(places: &[PathBuf]) -> String {
    let places = places.iter().map(|path| path.display().to_string());
    places.collect::<Vec<_>>().join(", ")
}

fn usual() -> Result<Vec<PathBuf>, ModuleError> {
    let folders = folders();
    let by_name = USUAL_NAMES.iter().filter_map(|name| find(name, &folders));
    let vendors = VENDOR_MODULES.iter().map(PathBuf::from);
    let found: Vec<PathBuf> = by_name
        .chain(vendors.filter(|path| path.exists()))
        .collect();
    if !found.is_empty() {
        Ok(found)
    } else {
        Err(ModuleError::NotFound(format!(
            "PKCS#11 module found: looked for {} in {}, and for {}",
            USUAL_NAMES.join(", "),
            paths(&folders),
            VENDOR_MODULES.join(", ")
        )))
    }
}

/// A module by its name, which has neither the prefix `lib` nor an extension (RFC 7512, section 2.3).
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
