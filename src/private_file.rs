//! Files with secrets: created for their owner only, with warnings if others can read them.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{self, File, Metadata, Permissions},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::Mutex,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, linkat},
    io::Errno,
    process::geteuid,
};
use tempfile::NamedTempFile;

use crate::{
    interrupt::CancelGuard,
    parallel::lock,
    registry::{Entry, Registry},
    text::quote_path,
};

/// Warns once if others can read or change a file with a secret.
pub fn warn_if_readable_by_others(path: &Path, metadata: &Metadata) {
    let mode = metadata.permissions().mode() & 0o777;
    let readable = (mode & 0o066 != 0).then(|| {
        format!(
            "can be read or written by others (mode {mode:04o}); fix with: chmod 600 {}",
            quote_path(path),
        )
    });
    warn(path, metadata, readable);
}

/// Warns once if others can change a file that says what to run or whom to trust.
pub fn warn_if_writable_by_others(path: &Path) {
    if let Ok(metadata) = path.metadata() {
        let writable = writable_by_others(path, &metadata);
        warn(path, &metadata, writable);
    }
}

/// At most one warning per file: about its owner, its mode, or its folder.
fn warn(path: &Path, metadata: &Metadata, mode: Option<String>) {
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if !metadata.is_file() {
        return;
    }
    let wrong = owned_by_another(metadata)
        .map(|owner| format!("{owner}, who can change it; make a copy that you own, and use that"))
        .or(mode)
        .or_else(|| replaceable_by_others(path));
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if let Some(wrong) = wrong
        && lock(&WARNED).insert(file)
    {
        log::warn!("{} {wrong}", path.display());
    }
}

/// Root can change any file anyway.
fn owned_by_another(metadata: &Metadata) -> Option<String> {
    let owner = metadata.uid();
    (owner != 0 && owner != geteuid().as_raw())
        .then(|| format!("belongs to another user (uid {owner})"))
}

fn writable_by_others(path: &Path, metadata: &Metadata) -> Option<String> {
    let mode = metadata.permissions().mode() & 0o7777;
    (mode & 0o022 != 0).then(|| {
        format!(
            "can be written by others (mode {mode:04o}); fix with: chmod go-w {}",
            quote_path(path)
        )
    })
}

/// What is wrong with the folder of `path` and, if it is a link, of its target.
fn replaceable_by_others(path: &Path) -> Option<String> {
    let target = path.canonicalize().ok()?;
    [path, &target].into_iter().find_map(|path| {
        let folder = folder_of(path);
        let metadata = folder.metadata().ok()?;
        let owner = owned_by_another(&metadata);
        let owner = owner.map(|owner| format!("{owner}; use a copy in a folder that you own"));
        let wrong = owner.or_else(|| {
            // Others cannot replace files in a sticky folder.
            let sticky = metadata.permissions().mode() & 0o1000 != 0;
            let writable = writable_by_others(folder, &metadata);
            writable.filter(|_| !sticky)
        })?;
        Some(format!("can be replaced: {} {wrong}", folder.display()))
    })
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A new file that is completely on disk, with mode 0600, and has no name yet: if the process ends now,
/// nothing is left behind.
pub struct NewFile {
    path: PathBuf,
    folder: File,
    contents: Contents,
}

enum Contents {
    /// An open file without a name (open(2), `O_TMPFILE`).
    Unnamed(File),
    /// If the file system does not support that, a file with a temporary name, which a signal removes.
    Temporary(TemporaryFile),
}

/// A file with a temporary name, for this user only; removed on drop, at a signal, or when memory runs
/// out.
pub struct TemporaryFile {
    file: NamedTempFile,
    _guard: CancelGuard,
    _leftover: Entry<CString>,
}

/// The paths of all temporary files.
static LEFTOVERS: Registry<CString> = Registry::new();

/// Removes all temporary files, as far as that is possible without allocating or waiting.
pub fn remove_leftovers() {
    for path in LEFTOVERS.try_lock().iter().flat_map(|paths| paths.values()) {
        let _ = rustix::fs::unlink(path.as_c_str());
    }
}

impl TemporaryFile {
    /// Creates an empty file in `folder`, whose name begins with `prefix`.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn create(folder: &Path, prefix: &str) -> io::Result<Self> {
        let file = tempfile::Builder::new()
            .prefix(prefix)
            .tempfile_in(folder)
            .map_err(without_temporary_path)?;
        let path = file.path().to_owned();
        Ok(Self {
            file,
            _leftover: LEFTOVERS.add(CString::new(path.as_os_str().as_bytes())?),
            _guard: CancelGuard::register(move |_| {
                // It may already have been removed or renamed.
                let _ = fs::remove_file(&path);
            }),
        })
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    pub fn as_file(&self) -> &File {
        self.file.as_file()
    }
}

impl NewFile {
    /// Writes `contents`, and waits until they are on disk.
    ///
    /// # Errors
    /// If `path` already exists, or the system refuses.
    pub fn prepare(path: &Path, contents: &[u8]) -> io::Result<Self> {
        Self::prepare_with(path, contents, |folder| {
            unnamed(folder).or_else(|error| match Errno::from_io_error(&error) {
                // open(2) on a system or file system without O_TMPFILE, or no /proc.
                Some(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                    temporary(folder)
                }
                _ => Err(error),
            })
        })
    }

    fn prepare_with(
        path: &Path,
        bytes: &[u8],
        create: impl FnOnce(&Path) -> io::Result<Contents>,
    ) -> io::Result<Self> {
        // Fail early: naming the file would fail too.
        if path.symlink_metadata().is_ok() {
            return Err(Errno::EXIST.into());
        }
        let folder_path = folder_of(path);
        // Opened first: nothing may fail once the file has its name.
        let folder = File::open(folder_path)?;
        let contents = create(folder_path)?;
        let mut file = match &contents {
            Contents::Unnamed(file) => file,
            Contents::Temporary(file) => file.as_file(),
        };
        // A umask may remove even the owner's permissions.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(Self {
            path: path.to_owned(),
            folder,
            contents,
        })
    }

    /// Gives the file its name, atomically. The caller must sync the returned folder.
    ///
    /// # Errors
    /// If the name is taken, or the system refuses; then no file is left behind.
    pub fn publish(self) -> io::Result<File> {
        match self.contents {
            Contents::Unnamed(file) => {
                let link = link_to(&file);
                linkat(CWD, link, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
            }
            Contents::Temporary(temporary) => {
                let persisted = temporary.file.persist_noclobber(&self.path);
                persisted.map_err(|error| without_temporary_path(error.error))?;
            }
        }
        Ok(self.folder)
    }
}

/// Writes a file that must not exist yet: completely or not at all, with mode 0600 from the first byte,
/// and synced when this returns.
///
/// # Errors
/// As [`NewFile::prepare`] and [`NewFile::publish`].
pub fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    NewFile::prepare(path, contents)?.publish()?.sync_all()
}

fn unnamed(folder: &Path) -> io::Result<Contents> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?);
    // Without /proc, the file could not be named later.
    fs::metadata(link_to(&file))?;
    Ok(Contents::Unnamed(file))
}

/// The path of an open file for linkat(2), as its manual page describes.
fn link_to(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn temporary(folder: &Path) -> io::Result<Contents> {
    TemporaryFile::create(folder, ".qkey-").map(Contents::Temporary)
}

/// The system's message without the temporary name, which means nothing to the user.
fn without_temporary_path(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => error.kind().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Create = fn(&Path) -> io::Result<Contents>;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn new_file_is_complete_and_never_replaces_another() {
        for create in [unnamed as Create, temporary] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("new.pem");
            let first = NewFile::prepare_with(&path, b"first", create).unwrap();
            let second = NewFile::prepare_with(&path, b"second", create).unwrap();
            assert!(!path.exists());

            first.publish().unwrap();
            let error = second.publish().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"first");
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);

            let late = NewFile::prepare_with(&path, b"late", create).err();
            assert_eq!(late.unwrap().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(names(folder.path()), ["new.pem"]);
        }
    }

    #[test]
    fn unpublished_file_leaves_nothing() {
        for create in [unnamed as Create, temporary] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("new.pem");
            drop(NewFile::prepare_with(&path, b"contents", create).unwrap());
            assert_eq!(names(folder.path()), [""; 0]);
        }
    }

    #[test]
    fn temporary_name_is_used_only_without_tmpfile_support() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.pem");
        let _unnamed = NewFile::prepare_with(&path, b"contents", unnamed).unwrap();
        assert_eq!(names(folder.path()), [""; 0]);
        let _temporary = NewFile::prepare_with(&path, b"contents", temporary).unwrap();
        let [name] = &names(folder.path())[..] else {
            panic!("one temporary file");
        };
        assert!(name.starts_with(".qkey-"), "{name}");
    }
}
