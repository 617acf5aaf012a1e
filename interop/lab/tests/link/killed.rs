//! What a laboratory leaves behind when it is killed: nothing.

use crate::pair::SOON;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use weft_lab::netns::{Host, privileged};

/// rtnetlink(7).
const RTMGRP_LINK: u32 = 1;
const RTM_DELLINK: u16 = 17;

/// Two processes that say so if they are not killed.
const OUTLIVES: &str = "(sleep 30; echo outlived) & (sleep 30; echo outlived) &";

#[test]
fn a_killed_laboratory_leaves_no_process_and_no_host() {
    privileged(|| {
        // Each level of it starts processes of its own, which hold its standard output open.
        let mut laboratory = Command::new(env!("CARGO_BIN_EXE_weft-lab"))
            .args(["link", "--delay", "1", "--right", OUTLIVES, "--", "sh", "-c"])
            // The shell's number in our namespace, not in its own.
            .arg(format!(
                "{OUTLIVES} read pid rest < /proc/self/stat; echo $pid; wait"
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(laboratory.stdout.take().unwrap());
        let mut pid = String::new();
        stdout.read_line(&mut pid).unwrap();

        // A cable from a host of ours into the laboratory's left one goes when that goes.
        let witness = Host::new("witness").unwrap();
        let events = witness.run(link_events).unwrap();
        let cable = [
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "end",
            "netns",
            pid.trim(),
        ];
        assert!(witness.command("ip").args(cable).status().unwrap().success());

        laboratory.kill().unwrap();
        laboratory.wait().unwrap();
        // The end of its output is the end of the last process that could write to it.
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        wait_for_removal(&events);
    })
    .unwrap();
}

fn link_events() -> OwnedFd {
    let protocol = SockProtocol::NetlinkRoute;
    let events = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )
    .unwrap();
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK)).unwrap();
    let timeout = TimeVal::new(SOON.as_secs() as i64, 0);
    setsockopt(&events, sockopt::ReceiveTimeout, &timeout).unwrap();
    events
}

fn wait_for_removal(events: &OwnedFd) {
    let mut buffer = [0; 8192];
    loop {
        let length = recv(events.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        // One message a datagram; its type is after its length.
        if length >= 6 && u16::from_ne_bytes([buffer[4], buffer[5]]) == RTM_DELLINK {
            return;
        }
    }
}
