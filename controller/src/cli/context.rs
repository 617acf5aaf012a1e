//! Contexts: which controllers an operator works with, and as whom.
//!
//! They are in one file, which [`mod@file`] reads and writes; [`store`] changes it. The file is looked for at
//! `--config` or `WEFT_CONFIG`; else it is `weft/config.yaml` in `XDG_CONFIG_HOME` (or `~/.config`); and if there is
//! none, the one that a controller on this machine wrote for its admin.

pub(crate) mod command;
mod file;
mod store;

use std::{
    io,
    path::{Path, PathBuf},
};

pub(crate) use file::{Context, Contexts, Pem, context_name as name, controller_address as address};
pub(crate) use store::change;

use super::failure::Failure;

/// Where a controller that is installed as a service has its admin's credential.
const CONTROLLERS_OWN: &str = "/var/lib/weft/admin.yaml";
/// The context that a controller writes for its admin.
const ADMIN_CONTEXT: &str = "admin";
/// Of a context that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Writes the credential of a controller's admin, as a file of one context: mode 0600, all of it or nothing.
///
/// # Errors
/// The file cannot be written.
pub fn write_admin(
    path: &Path,
    controller: &str,
    chain_pem: &str,
    key_pem: &str,
    bundle_pem: &str,
) -> io::Result<()> {
    let contexts = Contexts {
        current: Some(ADMIN_CONTEXT.to_owned()),
        contexts: vec![Context {
            name: ADMIN_CONTEXT.to_owned(),
            controller: controller.to_owned(),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            certificate: Pem::Inline(chain_pem.to_owned()),
            key: Pem::Inline(key_pem.to_owned()),
            trust_bundle: Pem::Inline(bundle_pem.to_owned()),
        }],
    };
    store::write(path, &contexts.to_yaml())
}

/// The file of contexts to use: the one that was named, or the user's own, or a controller's.
///
/// # Errors
/// There is no telling where the user's own would be.
pub(crate) fn path(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    let own = own_path(|name| std::env::var_os(name))?;
    let controllers = Path::new(CONTROLLERS_OWN);
    if !own.exists() && std::fs::File::open(controllers).is_ok() {
        return Ok(controllers.to_owned());
    }
    Ok(own)
}

/// The user's own file.
pub(crate) fn own_path(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf, Failure> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let directory = match absolute("XDG_CONFIG_HOME") {
        Some(directory) => directory,
        None => absolute("HOME")
            .ok_or_else(|| Failure::Use("neither --config nor XDG_CONFIG_HOME nor HOME is given".to_owned()))?
            .join(".config"),
    };
    Ok(directory.join("weft/config.yaml"))
}

/// Reads the contexts of a file; `None` if there is no such file.
///
/// # Errors
/// It cannot be read, or all that is wrong with it.
pub(crate) fn load(path: &Path) -> Result<Option<Contexts>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Failure::File {
                doing: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    Ok(Some(Contexts::parse(&path.display().to_string(), &text)?))
}

/// The context of this name, or else the current one.
///
/// # Errors
/// There is no file of contexts, or it is wrong, or has no such context.
pub(crate) fn choose(path: &Path, name: Option<&str>) -> Result<Context, Failure> {
    let contexts = load(path)?.ok_or_else(|| Failure::NoContext(path.to_owned()))?;
    contexts.choose(name)
}

#[cfg(test)]
mod tests;
