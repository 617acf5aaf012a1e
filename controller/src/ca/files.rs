//! Where keys and certificates of the authority are: `DATA/ca/ROOT/`, a directory for each root, which comes and
//! goes as a whole.
//!
//! | file | what |
//! |---|---|
//! | `root.pem` | the root certificate |
//! | `root.key` | its key; absent for a root of the operator's own |
//! | `signer.pem` | this controller's signer: its chain without the root, then its key |
//!
//! The signer's certificate and key are one file, so that a replacement is seen whole or not at all. Files are
//! written beside their place, synced, and renamed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::error::CaError;
use crate::trust::RootId;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What the name of something unfinished begins with.
const UNFINISHED: &str = ".new-";

const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
const SIGNER: &str = "signer.pem";

/// The directory of all roots.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    directory: PathBuf,
}

/// The files of one root, as text.
pub(crate) struct Texts {
    /// Where they are.
    pub(crate) directory: PathBuf,
    pub(crate) root: Zeroizing<Vec<u8>>,
    pub(crate) root_key: Option<Zeroizing<Vec<u8>>>,
    pub(crate) signer: Zeroizing<Vec<u8>>,
}

impl Files {
    /// Opens the directory in a data directory, or makes it, and removes what was never finished.
    pub(crate) fn open(data: &Path) -> Result<Self, CaError> {
        let directory = data.join("ca");
        make_directory(&directory)?;
        for name in names(&directory)? {
            let path = directory.join(&name);
            if name.starts_with(UNFINISHED) {
                fs::remove_dir_all(&path).map_err(CaError::io(path))?;
            } else {
                close_to_others(&path)?;
            }
        }
        Ok(Self { directory })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the files of a root are, or would be.
    pub(crate) fn of(&self, root: RootId) -> PathBuf {
        self.directory.join(name(root))
    }

    /// The texts of all roots.
    pub(crate) fn read_all(&self) -> Result<Vec<Texts>, CaError> {
        let names = names(&self.directory)?;
        let mut names: Vec<String> = names.into_iter().filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
            .iter()
            .map(|name| read(&self.directory.join(name)))
            .collect()
    }

    /// Adds a root with its files: all or none.
    pub(crate) fn add(
        &self,
        root: RootId,
        certificate: &str,
        key: Option<&str>,
        signer: &str,
    ) -> Result<(), CaError> {
        let unfinished = self.directory.join(format!("{UNFINISHED}{}", name(root)));
        let place = self.of(root);
        make_directory(&unfinished)?;
        write(&unfinished, ROOT, certificate.as_bytes())?;
        if let Some(key) = key {
            write(&unfinished, ROOT_KEY, key.as_bytes())?;
        }
        write(&unfinished, SIGNER, signer.as_bytes())?;
        fs::rename(&unfinished, &place).map_err(CaError::io(place))?;
        sync(&self.directory)
    }

    /// Puts another signer in the place of the present one.
    pub(crate) fn replace_signer(&self, root: RootId, signer: &str) -> Result<(), CaError> {
        write(&self.of(root), SIGNER, signer.as_bytes())
    }

    /// Removes a root with its keys, if it is there.
    pub(crate) fn remove(&self, root: RootId) -> Result<(), CaError> {
        let place = self.of(root);
        let gone = self.directory.join(format!("{UNFINISHED}{}", name(root)));
        match fs::rename(&place, &gone) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(CaError::Io { path: place, error }),
        }
        sync(&self.directory)?;
        fs::remove_dir_all(&gone).map_err(CaError::io(gone))
    }
}

/// What a file has, for someone who must not leave copies of it behind.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, CaError> {
    fs::read(path).map(Zeroizing::new).map_err(CaError::io(path))
}

fn read(directory: &Path) -> Result<Texts, CaError> {
    let key = directory.join(ROOT_KEY);
    let root_key = match fs::read(&key) {
        Ok(text) => Some(Zeroizing::new(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(CaError::Io { path: key, error }),
    };
    Ok(Texts {
        directory: directory.to_owned(),
        root: read_secret(&directory.join(ROOT))?,
        root_key,
        signer: read_secret(&directory.join(SIGNER))?,
    })
}

/// The name of a root's directory: its first 32 digits.
fn name(root: RootId) -> String {
    let mut digits = String::from(root);
    digits.truncate(32);
    digits
}

fn names(directory: &Path) -> Result<Vec<String>, CaError> {
    let entries = fs::read_dir(directory).map_err(CaError::io(directory))?;
    entries
        .map(|entry| {
            let name = entry.map_err(CaError::io(directory))?.file_name();
            name.into_string()
                .map_err(|name| CaError::unfit(directory.join(&name), "not a file of the controller"))
        })
        .collect()
}

fn make_directory(path: &Path) -> Result<(), CaError> {
    let made = DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .recursive(true)
        .create(path);
    made.map_err(CaError::io(path))?;
    close_to_others(path)
}

/// Takes from a file or directory what others may do with it, if they may.
fn close_to_others(path: &Path) -> Result<(), CaError> {
    let metadata = fs::metadata(path).map_err(CaError::io(path))?;
    let mode = if metadata.is_dir() {
        DIRECTORY_MODE
    } else {
        FILE_MODE
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "could be read by others: it is closed to them now");
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(CaError::io(path))?;
    }
    if metadata.is_dir() {
        for name in names(path)? {
            close_to_others(&path.join(name))?;
        }
    }
    Ok(())
}

fn write(directory: &Path, name: &str, content: &[u8]) -> Result<(), CaError> {
    let unfinished = directory.join(format!("{UNFINISHED}{name}"));
    let place = directory.join(name);
    let written = || {
        // One that a crash left behind is of no use, and its mode is not known.
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, &place)
    };
    written().map_err(CaError::io(&place))?;
    sync(directory)
}

/// Makes durable what was renamed in a directory.
fn sync(directory: &Path) -> Result<(), CaError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(CaError::io(directory))
}
