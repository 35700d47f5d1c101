//! Who else can read a file that holds a secret.

use std::{fs::Metadata, os::unix::fs::PermissionsExt, path::Path};

/// Warns when the group or everybody can read or write the file.
pub fn warn_if_readable_by_others(path: &Path, metadata: &Metadata) {
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o066 != 0 {
        log::warn!(
            "{} can be read or written by others (mode {mode:04o}); `chmod 600 {}` mends that",
            path.display(),
            crate::subprocess::quote(&path.to_string_lossy()),
        );
    }
}
