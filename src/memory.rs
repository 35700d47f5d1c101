//! How `qkey` ends when memory runs out: with an error and an exit code. The standard library would
//! abort without mentioning a submission in flight.

use std::{
    io::{self, IoSlice},
    panic,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use signal_hook::{consts::SIGABRT, low_level};

use crate::{
    error::{Error, Kind},
    interrupt,
    output::Format,
    private_file,
    registry::{Entry, Registry},
    terminal::plain_error,
};

/// The block, unless there was no memory for it.
pub fn or_end(pointer: *mut u8) -> *mut u8 {
    if pointer.is_null() {
        exhausted(NO_MEMORY)
    } else {
        pointer
    }
}

/// Makes all threads share one arena: each further arena reserves 64 MiB of address space, which soon
/// exceeds a limit on it.
pub fn share_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only sets a parameter of the allocator.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

static IS_JSON: AtomicBool = AtomicBool::new(false);

/// How many submissions are in flight, and what to report for each. The number is right even while
/// the texts are being changed.
static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);
static TEXTS: Registry<String> = Registry::new();

/// Sets the format of the last error.
pub fn report_as(format: Format) {
    IS_JSON.store(format == Format::Json, Ordering::Relaxed);
}

/// What to report if memory runs out while this lives.
pub struct LastWords(#[expect(dead_code)] Entry<String>);

impl LastWords {
    /// `error` says that the result of a submission is unknown.
    pub fn lay_down(error: &Error) -> Self {
        IN_FLIGHT.fetch_add(1, Ordering::SeqCst);
        let format = if IS_JSON.load(Ordering::Relaxed) {
            Format::Json
        } else {
            Format::Text
        };
        let error = Error::new(Kind::Unknown, error.message())
            .caused_by(&Exhausted)
            .maybe_hint(error.hint_text().map(str::to_owned));
        Self(TEXTS.add(format!("{}\n", plain_error(&error, format))))
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        IN_FLIGHT.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("out of memory or threads")]
struct Exhausted;

/// Ends the process; `what` needs no escaping in JSON. Nothing here allocates.
fn exhausted(what: &'static str) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    while ENDING.swap(true, Ordering::SeqCst) {
        // Another thread is ending the process.
        // SAFETY: it has no preconditions.
        #[allow(unsafe_code)]
        unsafe {
            libc::pause();
        }
    }
    let (kind, name, code, what_else, hint) = match IN_FLIGHT.load(Ordering::SeqCst) {
        0 => (
            Kind::Internal,
            "internal",
            "1",
            "",
            "nothing was being submitted; raise the limit (see `ulimit -a`) or free memory, then rerun: it skips what is already done",
        ),
        _ => (
            Kind::Unknown,
            "unknown",
            "8",
            " during a submission, which may have succeeded",
            "rerunning is safe: it first checks what was done",
        ),
    };
    // This thread may hold the lock.
    match TEXTS.try_lock() {
        Some(texts) if kind == Kind::Unknown && !texts.is_empty() => {
            texts.values().for_each(|text| say([text]));
        }
        _ if IS_JSON.load(Ordering::Relaxed) => {
            const KIND: &str = r#"{"error":{"kind":""#;
            const MESSAGE: &str = r#"","message":""#;
            const HINT: &str = r#"","causes":[],"hint":""#;
            const CODE: &str = r#"","exit_code":"#;
            say([
                KIND, name, MESSAGE, what, what_else, HINT, hint, CODE, code, "}}\n",
            ]);
        }
        _ => say(["error: ", what, what_else, "\nhint: ", hint, "\n"]),
    }
    private_file::remove_leftovers();
    interrupt::abandon();
    // SAFETY: it has no preconditions, and unlike exit(3) it runs nothing that could allocate.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(kind.exit_code().into())
    }
}

/// Writes in one piece: the standard library may write at the same time.
fn say<const N: usize>(text: [&str; N]) {
    // If stderr fails, there is nowhere left to report it.
    let _ = rustix::io::writev(
        rustix::stdio::stderr(),
        &text.map(|part| IoSlice::new(part.as_bytes())),
    );
}

const NO_MEMORY: &str = "out of memory";

/// The standard library aborts when memory runs out, and prints why; so may a loaded module.
const ABORTED: &str = "qkey aborted: out of memory, or a PKCS#11 module failed";

/// How the standard library panics when memory or threads run out, and what to report instead. The
/// first comes from a new thread without memory for its signal stack, the second from libraries.
const PANICS: [(&str, &str); 2] = [
    ("failed to allocate an alternative stack", NO_MEMORY),
    ("failed to spawn thread", "cannot start a thread"),
];

/// Handles such panics and aborts like any failed allocation: some allocations of the standard library
/// and the C library abort when they fail.
///
/// # Errors
/// If the handler cannot be installed.
pub fn watch_for_aborts() -> io::Result<()> {
    // SAFETY: `exhausted` does only what a signal handler may do, and waits for no lock.
    #[allow(unsafe_code)]
    unsafe {
        low_level::register(SIGABRT, || exhausted(ABORTED))?;
    }
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let words = payload.downcast_ref::<&str>().copied();
        let words = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let words = words.unwrap_or_default();
        let known = PANICS.iter().find(|(known, _)| words.starts_with(known));
        if let Some((_, what)) = known {
            exhausted(what);
        }
        default(panic);
    }));
    Ok(())
}
