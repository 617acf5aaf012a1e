//! Changing the file of contexts: one change at a time, whole or not at all, and for its owner alone.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{Contexts, load};
use crate::cli::failure::Failure;

/// Reads the file, lets `change` change it, and writes it if that succeeds. Another command that changes it
/// meanwhile waits.
///
/// # Errors
/// It cannot be read or written, is wrong, or `change` refuses.
pub(crate) fn change<T>(
    path: &Path,
    change: impl FnOnce(&mut Contexts) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let failed = |source| Failure::File {
        doing: "write",
        path: path.to_owned(),
        source,
    };
    // A link stays one: what it leads to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    make_directory(&target).map_err(failed)?;
    let _lock = lock(&target).map_err(failed)?;
    let mut contexts = load(&target)?.unwrap_or_default();
    let result = change(&mut contexts)?;
    write(&target, &contexts.to_yaml()).map_err(failed)?;
    Ok(result)
}

/// Replaces a file: mode 0600, durable, and never half written.
///
/// # Errors
/// It cannot be written; the old one is still there.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = directory_of(path);
    let mut file = tempfile::Builder::new()
        .prefix(".weft-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(&directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(&directory)?.sync_all()
}

/// Held until it is dropped. A file of its own: the other one is replaced.
fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.with_file_name(name))?;
    lock.lock()?;
    Ok(lock)
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory_of(path))
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
