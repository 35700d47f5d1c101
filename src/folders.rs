//! The user's own folders.

use std::{env, path::PathBuf};

/// The directory for configuration: `$XDG_CONFIG_HOME` if that is absolute, else `~/.config` (XDG Base
/// Directory Specification). `None` if there is no home directory either.
pub fn config_home() -> Option<PathBuf> {
    let xdg = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    xdg.filter(|path| path.is_absolute())
        .or_else(|| Some(env::home_dir()?.join(".config")))
}
