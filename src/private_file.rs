//! Files that hold a secret: written for their owner alone, and told of when others can read them.

use std::{
    fs::{self, File, Metadata, Permissions},
    io::{self, Write},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, linkat},
    io::Errno,
};
use tempfile::NamedTempFile;

use crate::{interrupt, text::quote};

/// Warns when the group or everybody can read or write the file.
pub fn warn_if_readable_by_others(path: &Path, metadata: &Metadata) {
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o066 != 0 {
        log::warn!(
            "{} can be read or written by others (mode {mode:04o}); `chmod 600 {}` mends that",
            path.display(),
            quote(&path.to_string_lossy()),
        );
    }
}

/// A new file that is on disk as a whole, mode 0600, and has no name yet: whatever ends the process
/// now, nothing of it stays.
pub struct NewFile {
    path: PathBuf,
    folder: File,
    contents: Contents,
}

enum Contents {
    /// An open file that no folder knows (open(2), `O_TMPFILE`).
    Unnamed(File),
    /// Where the file system cannot do that, a file under a temporary name, which a signal removes.
    Temporary(TemporaryFile),
}

/// A file under a temporary name, for this user alone; gone when this is dropped, or at a signal.
pub struct TemporaryFile {
    file: NamedTempFile,
    _guard: interrupt::Ender,
}

impl TemporaryFile {
    /// Creates an empty file in `folder`, whose name begins with `prefix`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn create(folder: &Path, prefix: &str) -> io::Result<Self> {
        let file = tempfile::Builder::new()
            .prefix(prefix)
            .tempfile_in(folder)
            .map_err(without_temporary_path)?;
        let path = file.path().to_owned();
        let guard = interrupt::Ender::register(move || {
            // It may have been removed, or renamed, already.
            let _ = fs::remove_file(&path);
        });
        Ok(Self {
            file,
            _guard: guard,
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
    /// When something has the name `path` already, or the system refuses.
    pub fn prepare(path: &Path, contents: &[u8]) -> io::Result<Self> {
        Self::prepare_with(path, contents, |folder| {
            unnamed(folder).or_else(|_| temporary(folder))
        })
    }

    fn prepare_with(
        path: &Path,
        bytes: &[u8],
        create: impl FnOnce(&Path) -> io::Result<Contents>,
    ) -> io::Result<Self> {
        // This spares work that would be lost: giving the file its name fails as well.
        if path.symlink_metadata().is_ok() {
            return Err(Errno::EXIST.into());
        }
        let folder_path = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        // Opened first, so that this cannot fail once the file has its name.
        let folder = File::open(folder_path)?;
        let contents = create(folder_path)?;
        let mut file = match &contents {
            Contents::Unnamed(file) => file,
            Contents::Temporary(file) => file.as_file(),
        };
        // A umask may have taken even the owner's rights.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(Self {
            path: path.to_owned(),
            folder,
            contents,
        })
    }

    /// Gives the file its name, in one step. The folder that is returned is still to be synced.
    ///
    /// # Errors
    /// When something has that name already, or the system refuses; then there is no new file.
    pub fn publish(self) -> io::Result<File> {
        match self.contents {
            Contents::Unnamed(file) => {
                linkat(
                    CWD,
                    link_to(&file),
                    CWD,
                    &self.path,
                    AtFlags::SYMLINK_FOLLOW,
                )?;
            }
            Contents::Temporary(temporary) => {
                let persisted = temporary.file.persist_noclobber(&self.path);
                persisted.map_err(|error| without_temporary_path(error.error))?;
            }
        }
        Ok(self.folder)
    }
}

/// Writes a file that must not exist yet: whole or not at all, mode 0600 from the first byte, and on
/// disk when this returns.
///
/// # Errors
/// As [`NewFile::prepare`] and [`NewFile::publish`].
pub fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    NewFile::prepare(path, contents)?.publish()?.sync_all()
}

fn unnamed(folder: &Path) -> io::Result<Contents> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?);
    // Without /proc, the file would never get a name.
    fs::metadata(link_to(&file))?;
    Ok(Contents::Unnamed(file))
}

/// What linkat(2) takes for an open file, as its manual page has it.
fn link_to(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn temporary(folder: &Path) -> io::Result<Contents> {
    TemporaryFile::create(folder, ".qkey-").map(Contents::Temporary)
}

/// The system's own words: the name of a temporary file tells a user nothing.
fn without_temporary_path(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.source());
    let code = inner
        .and_then(|inner| inner.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    code.map_or(error, io::Error::from_raw_os_error)
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
    fn a_new_file_appears_whole_and_never_replaces_another_with_or_without_tmpfile_support() {
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
    fn a_file_that_is_not_published_leaves_nothing() {
        for create in [unnamed as Create, temporary] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("new.pem");
            drop(NewFile::prepare_with(&path, b"contents", create).unwrap());
            assert_eq!(names(folder.path()), [""; 0]);
        }
    }

    #[test]
    fn only_a_file_system_without_tmpfile_support_sees_a_temporary_name() {
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
