//! Files that hold a secret: written for their owner alone, and told of when others can read them.

use std::{
    collections::BTreeSet,
    fs::{File, Metadata, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{io::Errno, process::geteuid};

use crate::text::quote;

/// Warns once when others can read or change a file that holds a secret.
pub fn warn_if_readable_by_others(path: &Path, metadata: &Metadata) {
    let mode = metadata.permissions().mode() & 0o777;
    let readable = (mode & 0o066 != 0).then(|| {
        format!(
            "can be read or written by others (mode {mode:04o}); fix with: chmod 600 {}",
            quote(&path.to_string_lossy()),
        )
    });
    warn(path, metadata, readable);
}

/// Warns once when others can change a file that says what to run or whom to trust.
pub fn warn_if_writable_by_others(path: &Path) {
    if let Ok(metadata) = path.metadata() {
        let writable = writable_by_others(path, &metadata);
        warn(path, &metadata, writable);
    }
}

/// At most one warning for each file: about its owner, its mode, or the folder that it is in.
fn warn(path: &Path, metadata: &Metadata, mode: Option<String>) {
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if !metadata.is_file() {
        return;
    }
    let wrong = owned_by_another(metadata)
        .map(|owner| format!("{owner}, who can change it; make a copy that you own, and use that"))
        .or(mode)
        .or_else(|| replaceable_by_others(path));
    let Some(wrong) = wrong else {
        return;
    };
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.insert(file) {
        log::warn!("{} {wrong}", path.display());
    }
}

/// Root can change every file anyway.
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
            quote(&path.to_string_lossy())
        )
    })
}

/// What is wrong with the folders that `path` and, where it is a link, its target are in.
fn replaceable_by_others(path: &Path) -> Option<String> {
    let target = path.canonicalize().ok()?;
    [path, &target].into_iter().find_map(|path| {
        let folder = folder_of(path);
        let metadata = folder.metadata().ok()?;
        let owner = owned_by_another(&metadata);
        let owner = owner.map(|owner| format!("{owner}; use a copy in a folder that you own"));
        let wrong = owner.or_else(|| {
            // In a sticky folder, others cannot replace it.
            let sticky = metadata.permissions().mode() & 0o1000 != 0;
            let writable = writable_by_others(&folder, &metadata);
            writable.filter(|_| !sticky)
        })?;
        Some(format!("can be replaced: {} {wrong}", folder.display()))
    })
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Writes a file that must not exist yet: whole or not at all, mode 0600 from the first byte, and on
/// disk when this returns.
///
/// # Errors
/// When there is something of that name, or the system refuses; then there is no new file.
pub fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    // Asked beforehand only to spare the work: the last step refuses as well.
    if path.symlink_metadata().is_ok() {
        return Err(Errno::EXIST.into());
    }
    // First, so that nothing is left to fail once the file is there.
    let open_folder = File::open(&folder)?;
    let file = tempfile::Builder::new()
        .prefix(".qkey-")
        .tempfile_in(&folder)
        .map_err(without_temporary_path)?;
    // A umask may have taken even the owner's rights.
    file.as_file()
        .set_permissions(Permissions::from_mode(0o600))?;
    file.as_file().write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)
        .map_err(|error| without_temporary_path(error.error))?;
    open_folder.sync_all()
}

/// The system's own words: the name of a temporary file tells a user nothing.
fn without_temporary_path(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.source());
    let code = inner
        .and_then(|inner| inner.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    code.map_or(error, io::Error::from_raw_os_error)
}
