//! A TUN device: an interface whose packets this process reads and writes. It vanishes when it is closed.

use super::Host;
use crate::error::{Doing, Error, Result};
use nix::errno::Errno;
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

const DEVICE: &str = "/dev/net/tun";

/// An open device that never blocks.
#[derive(Debug)]
pub(super) struct Tun(File);

/// The kernel's `struct ifreq`, as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    /// The rest of a union.
    padding: [u8; 22],
}

impl Tun {
    /// Makes an interface in `host`.
    pub(super) fn create(host: &Host, name: &str) -> Result<Self> {
        host.run(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(DEVICE)
                .map_err(|source| Error::MissingTun {
                    reason: source.to_string(),
                })?;
            set_interface(&file, name).doing(|| format!("make TUN device {name} in host {}", host.name()))?;
            Ok(Self(file))
        })?
    }

    /// The next packet that the host has sent, if there is one.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }

    /// Gives the host a packet.
    pub(super) fn write(&self, packet: &[u8]) -> io::Result<usize> {
        (&self.0).write(packet)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper in nix")]
fn set_interface(file: &File, name: &str) -> io::Result<()> {
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        // IP packets without a header of the device's own.
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        padding: [0; 22],
    };
    // One byte stays zero, as the name's end.
    for (to, from) in request.name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the kernel reads and writes at most the size of `struct ifreq`, which the request has, during the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result)?;
    Ok(())
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());
