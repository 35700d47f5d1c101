//! C libraries that are loaded into `qkey` by LD_PRELOAD, to see or hold what it does.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// The library of `support/NAME.c`, built once for each test binary.
pub fn library(name: &'static str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let build = || {
        let support = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = folder.join(format!("{name}-{}.so", std::process::id()));
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(support.join(format!("{name}.c")))
            .status();
        assert!(status.expect("a C compiler").success());
        library
    };
    built.entry(name).or_insert_with(build).clone()
}
