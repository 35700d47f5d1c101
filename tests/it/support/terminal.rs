//! A pseudo-terminal with a program on it, and a person who types.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt, process::CommandExt},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{ioctl_tiocsctty, setsid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

/// After this a test has failed; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait between two looks at the program.
const MOMENT: Duration = Duration::from_millis(50);

/// What the person writes on the screen at the end, to know that all before it has been seen.
const LAST: &str = "--- the last word ---";

/// A terminal that no program runs on yet.
pub struct Terminal {
    /// The person's end.
    person: File,
    /// The programs' end.
    device: File,
}

/// A terminal with a program on it.
pub struct Session {
    terminal: Terminal,
    child: Child,
    screen: Arc<Screen>,
    /// How far the screen has been read.
    seen: usize,
}

/// All that has been shown so far.
#[derive(Default)]
struct Screen {
    shown: Mutex<Vec<u8>>,
    more: Condvar,
}

/// How a program on a terminal ended.
pub struct Ended {
    /// With what went to pipes.
    pub output: Output,
    /// All that the terminal has shown.
    pub screen: String,
    /// Whether the terminal shows what is typed, now that the program is gone.
    pub echoes: bool,
}

impl Terminal {
    pub fn new() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo-terminal");
        grantpt(&person).expect("a pseudo-terminal of our own");
        unlockpt(&person).expect("an unlocked pseudo-terminal");
        let name = ptsname(&person, Vec::new()).expect("the pseudo-terminal's name");
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OpenptFlags::NOCTTY.bits().cast_signed())
            .open(std::ffi::OsStr::from_bytes(name.as_bytes()))
            .expect("the pseudo-terminal's other end");
        Self {
            person: File::from(person),
            device,
        }
    }

    /// The terminal as stdin, stdout or stderr of the program.
    pub fn stream(&self) -> Stdio {
        self.device.try_clone().expect("a copy").into()
    }

    /// Types while no program is there yet.
    pub fn type_ahead(&self, text: &str) {
        let mut person = &self.person;
        person
            .write_all(text.as_bytes())
            .expect("the terminal takes it");
    }

    /// Starts a program in a session of its own, whose controlling terminal this is. Its streams
    /// stay what the command makes them.
    pub fn start(self, mut command: Command) -> Session {
        let device = self.device.try_clone().expect("a copy");
        // Only setsid(2) and ioctl(2) run between fork and exec.
        unsafe {
            command.pre_exec(move || {
                setsid()?;
                Ok(ioctl_tiocsctty(&device)?)
            });
        }
        let child = command.spawn().expect("the program runs");
        let screen = Arc::<Screen>::default();
        let mut input = self.person.try_clone().expect("a copy");
        let writer = screen.clone();
        thread::spawn(move || {
            let mut chunk = [0; 1024];
            loop {
                match input.read(&mut chunk) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // Once nobody has the other end open.
                    Ok(0) | Err(_) => break,
                    Ok(n) => writer.show(&chunk[..n]),
                }
            }
        });
        Session {
            terminal: self,
            child,
            screen,
            seen: 0,
        }
    }

    fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.device).expect("the terminal's modes");
        modes.local_modes.contains(LocalModes::ECHO)
    }
}

impl Screen {
    fn show(&self, bytes: &[u8]) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.extend_from_slice(bytes);
        self.more.notify_all();
    }

    /// Waits a moment for `text` after the first `seen` bytes; where it ends, if it is there.
    fn find(&self, text: &str, seen: usize) -> Option<usize> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |shown: &[u8]| {
            let mut windows = shown[seen..].windows(text.len());
            windows.position(|window| window == text.as_bytes())
        };
        let (shown, _) = self
            .more
            .wait_timeout_while(shown, MOMENT, |shown| find(shown).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        find(&shown).map(|start| seen + start + text.len())
    }

    fn text(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).replace("\r\n", "\n")
    }
}

impl Session {
    /// Waits until the terminal shows `text`, after what was waited for before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let started = Instant::now();
        loop {
            // Asked first, so that all it has written is there once it is gone.
            let ended = self.child.try_wait().expect("the program's state");
            if let Some(end) = self.screen.find(text, self.seen) {
                self.seen = end;
                return;
            }
            if ended.is_some() || started.elapsed() > PATIENCE {
                let mut stderr = String::new();
                if let Some(pipe) = self.child.stderr.as_mut().filter(|_| ended.is_some()) {
                    // Whatever can be had of it is better than nothing.
                    let _ = pipe.read_to_string(&mut stderr);
                }
                let screen = self.screen.text();
                panic!("{text:?} is not on the terminal ({ended:?}), only: {screen}\n{stderr}");
            }
        }
    }

    /// Types; `\n` is Return, `\u{3}` is Ctrl-C, `\u{4}` is Ctrl-D.
    pub fn type_in(&mut self, text: &str) {
        let mut person = &self.terminal.person;
        person
            .write_all(text.as_bytes())
            .expect("the terminal takes it");
    }

    /// Waits for a prompt, which must not show what is typed, and answers it.
    #[track_caller]
    pub fn answer(&mut self, prompt: &str, line: &str) {
        self.wait_for(prompt);
        assert!(!self.echoes(), "what is typed at {prompt:?} is shown");
        self.type_in(line);
        self.type_in("\n");
    }

    /// Whether the terminal shows what is typed.
    pub fn echoes(&self) -> bool {
        self.terminal.echoes()
    }

    /// The program's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let output = self.child.wait_with_output().expect("the program ends");
        let echoes = self.terminal.echoes();
        self.terminal
            .device
            .write_all(LAST.as_bytes())
            .expect("the terminal takes it");
        let started = Instant::now();
        while self.screen.find(LAST, self.seen).is_none() {
            assert!(
                started.elapsed() < PATIENCE,
                "the terminal shows nothing any more"
            );
        }
        let shown = self.screen.text();
        Ended {
            output,
            screen: shown.strip_suffix(LAST).expect("the last word").to_owned(),
            echoes,
        }
    }
}
