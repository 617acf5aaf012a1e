//! Which worker of a port gets a datagram: a classic BPF program on the reuseport group reads the worker from
//! the connection ID, so that a connection stays with its worker when the peer's address changes.
//!
//! A result that is no worker, as from a first packet whose connection ID the peer chose, makes the kernel
//! choose by the addresses; the connection ID that this worker then issues leads back to it.

use std::{io, os::fd::AsFd};

use nix::{
    libc::{self, sock_filter, sock_fprog},
    sys::socket::{setsockopt, sockopt::AttachReusePortCbpf},
};

use crate::cid::CID_LEN;

/// Attaches the program to the group of `socket`, whose members were bound in the order of their workers.
pub(crate) fn attach(socket: &impl AsFd, worker_mask: u8) -> io::Result<()> {
    let mut filter = program(worker_mask);
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = sock_fprog {
        len: length,
        filter: filter.as_mut_ptr(),
    };
    setsockopt(&socket.as_fd(), AttachReusePortCbpf, &program)?;
    Ok(())
}

/// Offset 0 is the first byte of the UDP payload. A load past its end ends the program with 0, the first worker.
fn program(worker_mask: u8) -> Vec<sock_filter> {
    /// Long header (RFC 9000 section 17.2): flags, version, length of the connection ID, the ID.
    const LONG: u32 = 6;
    /// Short header (section 17.3.1): flags, the ID.
    const SHORT: u32 = 1;
    let mut program = vec![
        statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0),
        jump(libc::BPF_JSET, 0x80, 0, 8),
        statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, LONG - 1),
        jump(libc::BPF_JEQ, CID_LEN as u32, 0, 12),
    ];
    program.extend(read_worker(LONG, worker_mask));
    program.extend(read_worker(SHORT, worker_mask));
    program.push(statement(libc::BPF_RET | libc::BPF_K, u32::MAX));
    program
}

/// Returns `id[0] ^ id[1] ^ mask`, as [`crate::cid`] lays it out.
fn read_worker(id: u32, worker_mask: u8) -> [sock_filter; 6] {
    [
        statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, id),
        statement(libc::BPF_MISC | libc::BPF_TAX, 0),
        statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, id + 1),
        statement(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0),
        statement(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_K, worker_mask.into()),
        statement(libc::BPF_RET | libc::BPF_A, 0),
    ]
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | condition | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, time::Duration};

    use super::*;
    use crate::cid::{CidInfo, CidKey};

    /// Four sockets on one port; what each receives.
    fn group(key: &CidKey) -> Vec<UdpSocket> {
        let mut sockets: Vec<UdpSocket> = Vec::new();
        for _ in 0..4 {
            let address = sockets
                .first()
                .map_or("127.0.0.1:0".parse().unwrap(), |s| s.local_addr().unwrap());
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&address.into()).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            sockets.push(socket.into());
        }
        attach(&sockets[0], key.worker_mask()).unwrap();
        sockets
    }

    #[test]
    fn the_kernel_gives_each_worker_the_packets_of_its_connection_ids() {
        let key = CidKey::new(&[3; 32]);
        let sockets = group(&key);
        let target = sockets[0].local_addr().unwrap();
        for round in 0..8 {
            // Another source address each time: its hash alone would choose another socket.
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            for worker in 0..4u8 {
                let cid = key.seal(CidInfo { worker, epoch: 1 }, [round; 6]);
                let short = [&[0x40][..], &cid, b"short"].concat();
                let long = [&[0xc0, 0, 0, 0, 1, CID_LEN as u8][..], &cid, b"long"].concat();
                for packet in [short, long] {
                    sender.send_to(&packet, target).unwrap();
                    let mut buffer = [0; 64];
                    let length = sockets[usize::from(worker)].recv(&mut buffer).unwrap();
                    assert_eq!(&buffer[..length], packet);
                }
            }
        }
    }
}
