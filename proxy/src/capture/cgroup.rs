//! Control groups, as people and `/proc/PID/cgroup` write them, and as nft does.

use std::path::{Component, Path, PathBuf};

use super::rules::Cgroup;

/// What nft takes a control group's path to be below.
const NFT_ROOT: &str = "/sys/fs/cgroup";

/// Finds a control group of version 2: `/system.slice/web.service`, as in `/proc/PID/cgroup`, or the directory.
///
/// # Errors
/// There is none, or nft can't name it.
pub(crate) fn find(path: &str) -> Result<Cgroup, String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let (cgroup, directory) = locate(path, &mounts)?;
    match directory.is_dir() {
        true => Ok(cgroup),
        false => Err(format!(
            "there is no control group {}: it must be there when it is captured, and stay",
            directory.display()
        )),
    }
}

fn locate(path: &str, mounts: &str) -> Result<(Cgroup, PathBuf), String> {
    let root = mounts.lines().find_map(mount_point);
    let root = root.ok_or("no cgroup2 file system is mounted")?;
    let path = Path::new(path);
    let below = path.strip_prefix(root).unwrap_or(path);
    let below = below.strip_prefix("/").unwrap_or(below);
    if !below
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(format!("{} is not the path of a control group", path.display()));
    }
    let level = u32::try_from(below.components().count()).unwrap_or(u32::MAX);
    if level == 0 {
        return Err("the root is every process: leave --cgroup out".to_owned());
    }
    let directory = Path::new(root).join(below);
    let named = directory.strip_prefix(NFT_ROOT).ok().and_then(Path::to_str);
    match named.filter(|name| !name.contains(['"', '\n'])) {
        Some(name) => Ok((
            Cgroup {
                path: name.to_owned(),
                level,
            },
            directory.clone(),
        )),
        None => Err(format!(
            "{} is not below {NFT_ROOT}, as nft needs it",
            directory.display()
        )),
    }
}

/// Of a line of mountinfo (proc(5)), if it is of a cgroup2 file system.
fn mount_point(line: &str) -> Option<&str> {
    let (mount, file_system) = line.split_once(" - ")?;
    file_system
        .starts_with("cgroup2 ")
        .then(|| mount.split(' ').nth(4))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "25 1 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        25 24 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        26 24 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn located(path: &str, mounts: &str) -> Result<(String, u32), String> {
        locate(path, mounts).map(|(cgroup, _)| (cgroup.path, cgroup.level))
    }

    #[test]
    fn a_path_of_proc_or_a_directory() {
        let web = ("system.slice/web.service".to_owned(), 2);
        assert_eq!(located("/system.slice/web.service", UNIFIED), Ok(web.clone()));
        assert_eq!(located("system.slice/web.service/", UNIFIED), Ok(web.clone()));
        assert_eq!(
            located("/sys/fs/cgroup/system.slice/web.service", UNIFIED),
            Ok(web)
        );
        assert_eq!(located("/web", HYBRID), Ok(("unified/web".to_owned(), 1)));
    }

    #[test]
    fn what_is_none_is_said() {
        for (path, mounts) in [
            ("/web", ""),
            ("/", UNIFIED),
            ("/web/../..", UNIFIED),
            ("/we\"b", UNIFIED),
            ("/web", "26 24 0:24 / /run/cgroup rw - cgroup2 cgroup2 rw\n"),
        ] {
            assert!(located(path, mounts).is_err(), "{path}");
        }
    }
}
