//! How `qkey` ends when memory runs out: with an error and an exit code. The standard library would
//! abort without mentioning a submission in flight.

use std::{
    alloc::{GlobalAlloc, Layout},
    io::{self, IoSlice},
    panic,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use signal_hook::{consts::SIGABRT, low_level};

use crate::{
    error::{Error, Kind},
    interrupt,
    output::Format,
    parallel::lock,
    private_file,
    terminal::plain_error,
    wipe::Wiping,
};

/// The program's allocator: it wipes freed memory, and ends the process if memory runs out.
pub struct Allocator;

// SAFETY: every call and every returned pointer is passed through unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        or_end(unsafe { Wiping.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        or_end(unsafe { Wiping.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        or_end(unsafe { Wiping.realloc(pointer, layout, size) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { Wiping.dealloc(pointer, layout) }
    }
}

fn or_end(pointer: *mut u8) -> *mut u8 {
    match pointer.is_null() {
        true => exhausted(NO_MEMORY),
        false => pointer,
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

/// The parts of a message before and after the reason.
struct Rest {
    begin: &'static str,
    end: &'static str,
}

const TEXT: Rest = Rest {
    begin: "error: ",
    end: "
hint: nothing was being submitted; raise the limit (see `ulimit -a`) or free memory, then rerun: it skips what is already done
",
};
const JSON: Rest = Rest {
    begin: r#"{"error":{"kind":"internal","message":""#,
    end: r#"","causes":[],"hint":"nothing was being submitted; raise the limit (see `ulimit -a`) or free memory, then rerun: it skips what is already done","exit_code":1}}
"#,
};

/// For when the submissions in flight cannot be looked up.
const TEXT_UNKNOWN: Rest = Rest {
    begin: "error: ",
    end: " during a submission, which may have succeeded
hint: rerunning is safe: it first checks what was done
",
};
const JSON_UNKNOWN: Rest = Rest {
    begin: r#"{"error":{"kind":"unknown","message":""#,
    end: r#" during a submission, which may have succeeded","causes":[],"hint":"rerunning is safe: it first checks what was done","exit_code":8}}
"#,
};

static IS_JSON: AtomicBool = AtomicBool::new(false);

/// How many submissions are in flight, and what to report for each. The number is right even while
/// the texts are being changed.
static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);
static TEXTS: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

/// Sets the format of the last error.
pub fn report_as(format: Format) {
    IS_JSON.store(format == Format::Json, Ordering::Relaxed);
}

/// What to report if memory runs out while this lives.
pub struct LastWords(u64);

impl LastWords {
    /// `error` says that the outcome of a submission is unknown.
    pub fn lay_down(error: &Error) -> Self {
        IN_FLIGHT.fetch_add(1, Ordering::SeqCst);
        let format = match IS_JSON.load(Ordering::Relaxed) {
            true => Format::Json,
            false => Format::Text,
        };
        let error = Error::new(Kind::Unknown, error.message())
            .caused_by(&Exhausted)
            .maybe_hint(error.hint_text().map(str::to_owned));
        let text = format!("{}\n", plain_error(&error, format));
        let mut texts = texts();
        let number = texts.last().map_or(0, |(number, _)| number + 1);
        texts.push((number, text));
        Self(number)
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        texts().retain(|(number, _)| *number != self.0);
        IN_FLIGHT.fetch_sub(1, Ordering::SeqCst);
    }
}

fn texts() -> MutexGuard<'static, Vec<(u64, String)>> {
    lock(&TEXTS)
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
    let is_json = IS_JSON.load(Ordering::Relaxed);
    let say_what = |rest: Rest| say([rest.begin, what, rest.end]);
    let code = match IN_FLIGHT.load(Ordering::SeqCst) {
        0 => {
            say_what(if is_json { JSON } else { TEXT });
            Kind::Internal.exit_code()
        }
        _ => {
            // This thread may hold the lock.
            match TEXTS.try_lock() {
                Ok(texts) if !texts.is_empty() => {
                    texts.iter().for_each(|(_, text)| say([text, "", ""]))
                }
                _ => say_what(if is_json { JSON_UNKNOWN } else { TEXT_UNKNOWN }),
            }
            Kind::Unknown.exit_code()
        }
    };
    private_file::remove_leftovers();
    interrupt::abandon();
    // SAFETY: it has no preconditions, and unlike exit(3) it runs nothing that could allocate.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(code.into())
    }
}

/// Writes in one piece: the standard library may write at the same time.
fn say(text: [&str; 3]) {
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
