//! Files that hold a secret: written for their owner alone, and told of when others can read them.

use std::{
    fs::{File, Metadata, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use crate::text::quote_path;

/// Warns when the group or everybody can read or write the file.
pub fn warn_if_readable_by_others(path: &Path, metadata: &Metadata) {
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o066 != 0 {
        log::warn!(
            "{} can be read or written by others (mode {mode:04o}); `chmod 600 {}` mends that",
            path.display(),
            quote_path(path),
        );
    }
}

/// Writes a file that must not exist yet: whole or not at all, mode 0600 from the first byte, and on
/// disk when this returns.
///
/// # Errors
/// When there is something of that name, or the system refuses; then there is no new file.
pub fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
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
