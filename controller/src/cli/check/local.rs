//! This machine: what a sidecar on it would want.

use std::fs;

use super::{Item, Level};
use crate::cli::version;

const SECTION: &str = "machine";

/// What sidecars ask for their UDP sockets: below it a burst of datagrams is dropped.
const UDP_BUFFER: u64 = 4 << 20;

/// The limits on it, which cannot be raised from inside a container.
const LIMITS: [(&str, &str); 2] = [
    ("net.core.rmem_max", "/proc/sys/net/core/rmem_max"),
    ("net.core.wmem_max", "/proc/sys/net/core/wmem_max"),
];

/// The first kernel with UDP segmentation offload for sending and receiving (UDP_SEGMENT and UDP_GRO).
const KERNEL: (u32, u32) = (5, 0);

pub(super) fn look() -> Vec<Item> {
    let mut items = vec![
        Item::new(SECTION, Level::Good, format!("weft {}", version::OWN)),
        kernel(&read("/proc/sys/kernel/osrelease")),
    ];
    items.extend(LIMITS.map(|(name, path)| limit(name, &read(path))));
    items
}

fn read(path: &str) -> String {
    // What cannot be read is shown as not known.
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn kernel(release: &str) -> Item {
    let mut parts = release.split(['.', '-']).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= KERNEL => {
            Item::new(SECTION, Level::Good, format!("kernel {release}"))
        }
        (Some(Ok(_)), Some(Ok(_))) => Item::new(
            SECTION,
            Level::Warning,
            format!("kernel {release}: it cannot send or receive several datagrams at once"),
        )
        .hint(format!(
            "Sidecars need more CPU on it: {}.{} or later is better.",
            KERNEL.0, KERNEL.1
        )),
        _ => Item::new(SECTION, Level::Warning, "the kernel's version cannot be read"),
    }
}

fn limit(name: &str, value: &str) -> Item {
    match value.parse::<u64>() {
        Ok(bytes) if bytes >= UDP_BUFFER => Item::new(SECTION, Level::Good, format!("{name} is {bytes}")),
        Ok(bytes) => Item::new(
            SECTION,
            Level::Warning,
            format!(
                "{name} is {bytes}: sidecars here want {UDP_BUFFER}, and drop datagrams in bursts without"
            ),
        )
        .hint(format!("sysctl -w {name}={UDP_BUFFER}")),
        // Not there in every container.
        Err(_) => Item::new(
            SECTION,
            Level::Good,
            format!("{name} is not shown here: see it on the host"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_are_too_small_say_how_to_raise_them() {
        let item = limit("net.core.rmem_max", "212992");
        assert_eq!(item.level, Level::Warning);
        assert_eq!(item.hint.as_deref(), Some("sysctl -w net.core.rmem_max=4194304"));
        assert_eq!(limit("net.core.rmem_max", "4194304").level, Level::Good);
        assert_eq!(limit("net.core.rmem_max", "").level, Level::Good);
    }

    #[test]
    fn kernels() {
        for (release, level) in [
            ("6.8.0-45-generic", Level::Good),
            ("5.0.1", Level::Good),
            ("4.19.0-27", Level::Warning),
            ("", Level::Warning),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }
}
