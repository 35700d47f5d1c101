//! How `qkey` ends when the system has no more memory for it: with an error and an exit code. The
//! standard library would abort, and nobody would learn of a submission that is under way.

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

/// The allocator of the program: it wipes what is freed, and ends the process instead of returning
/// nothing.
pub struct Allocator;

// SAFETY: every call goes to `Wiping` as it is; the pointers it returns are returned unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        there(unsafe { Wiping.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        there(unsafe { Wiping.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        there(unsafe { Wiping.realloc(pointer, layout, size) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { Wiping.dealloc(pointer, layout) }
    }
}

fn there(pointer: *mut u8) -> *mut u8 {
    match pointer.is_null() {
        true => exhausted(NO_MEMORY),
        false => pointer,
    }
}

/// Lets all threads share one arena: each further one reserves 64 MiB of address space, which a limit on
/// that soon refuses.
pub fn share_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only sets a parameter of the allocator.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// What a message says after what there is none of.
struct Rest {
    begin: &'static str,
    end: &'static str,
}

const TEXT: Rest = Rest {
    begin: "error: ",
    end: "
hint: nothing was being submitted; raise the limit (see `ulimit -a`) or free memory, then rerun: what is already done is left alone
",
};
const JSON: Rest = Rest {
    begin: r#"{"error":{"kind":"internal","message":""#,
    end: r#"","causes":[],"hint":"nothing was being submitted; raise the limit (see `ulimit -a`) or free memory, then rerun: what is already done is left alone","exit_code":1}}
"#,
};

/// Where it cannot be looked up what is being submitted.
const TEXT_UNKNOWN: Rest = Rest {
    begin: "error: ",
    end: " during a submission: it may have been carried out
hint: running this again is safe: it checks first what was done
",
};
const JSON_UNKNOWN: Rest = Rest {
    begin: r#"{"error":{"kind":"unknown","message":""#,
    end: r#" during a submission: it may have been carried out","causes":[],"hint":"running this again is safe: it checks first what was done","exit_code":8}}
"#,
};

static IS_JSON: AtomicBool = AtomicBool::new(false);

/// How many submissions are under way, and what to say of each. The number is right even while the
/// texts are being changed.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
static TEXTS: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

/// The form of the last error.
pub fn report_as(format: Format) {
    IS_JSON.store(format == Format::Json, Ordering::Relaxed);
}

/// What is said, and with which exit code the process ends, if memory runs out as long as this value
/// lives.
pub struct LastWords(u64);

impl LastWords {
    /// `error` says that the outcome of a submission is unknown.
    pub fn lay_down(error: &Error) -> Self {
        UNDER_WAY.fetch_add(1, Ordering::SeqCst);
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
        UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
    }
}

fn texts() -> MutexGuard<'static, Vec<(u64, String)>> {
    lock(&TEXTS)
}

#[derive(Debug, thiserror::Error)]
#[error("out of memory or threads")]
struct Exhausted;

/// Ends the process; `what` fits into JSON as it is. Nothing here allocates.
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
    let code = match UNDER_WAY.load(Ordering::SeqCst) {
        0 => {
            say_what(if is_json { JSON } else { TEXT });
            Kind::Internal.exit_code()
        }
        _ => {
            // This very thread may be changing them.
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

/// In one piece, for the standard library may have something to say at the same time.
fn say(text: [&str; 3]) {
    // Nobody is left to be told that stderr takes nothing.
    let _ = rustix::io::writev(
        rustix::stdio::stderr(),
        &text.map(|part| IoSlice::new(part.as_bytes())),
    );
}

const NO_MEMORY: &str = "out of memory";

/// What aborts says why: mostly the standard library, for want of memory, and sometimes a library that
/// was loaded.
const ABORTED: &str = "qkey was aborted, by a lack of memory or by a PKCS#11 module";

/// How the standard library panics for want of memory or threads, and what to say instead. The first
/// comes in a new thread that has no memory for its signal stack, the second in libraries.
const PANICS: [(&str, &str); 2] = [
    ("failed to allocate an alternative stack", NO_MEMORY),
    ("failed to spawn thread", "cannot start a thread"),
];

/// Ends such panics, and whatever aborts, as anything else that finds no memory: the standard library
/// and the C library have allocations of their own that abort when they fail.
///
/// # Errors
/// When the system takes no handler.
pub fn watch_for_aborts() -> io::Result<()> {
    // SAFETY: a signal handler may do all that `exhausted` does, which takes no lock that is held.
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
