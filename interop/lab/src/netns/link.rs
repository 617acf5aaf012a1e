//! A link between two hosts: a veth pair.
//!
//! It adds no delay and has no rate; it has an MTU, offloads, and random losses. (Delay, rate and reordering need
//! a program in the middle of the link, as [`super::ImpairedLink`] is: netem is not in every kernel.)

use super::Host;
use super::routes::{LEFT, RIGHT, addresses};
use crate::error::Result;
use std::net::IpAddr;

/// Ethernet's MTU.
const ETHERNET: u32 = 1500;

/// Every offload that lets one packet on the link stand for many. `tx-udp-segmentation` is not part of `gso`.
const OFFLOADS: [&str; 5] = [
    "tso",
    "gso",
    "gro",
    "tx-udp-segmentation",
    "rx-udp-gro-forwarding",
];

/// How a link behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkOptions {
    /// The largest IP packet.
    pub mtu: u32,
    /// Whether one packet on the link may stand for many (TSO, GSO, GRO), as between processes of one machine.
    /// Off for losses: otherwise a drop hits all of them at once.
    pub offloads: bool,
    /// How many of a thousand packets are dropped, at random, in each direction.
    pub drop_permille: u16,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            mtu: ETHERNET,
            offloads: true,
            drop_permille: 0,
        }
    }
}

/// A veth pair between a left and a right host. It is gone when one of its hosts is.
#[derive(Debug)]
pub struct Link {
    hosts: [Host; 2],
    subnet: u8,
    interface: String,
}

impl Link {
    /// Joins two hosts. Links that share a host differ in their `subnet`: the left host has the addresses
    /// `10.77.SUBNET.1/24` and `fd77:0:0:SUBNET::1/64`, the right one those with a 2.
    ///
    /// # Errors
    /// That `ip`, `ethtool` or `nft` is missing, or that the kernel refuses an option.
    pub fn join(left: &Host, right: &Host, subnet: u8, options: LinkOptions) -> Result<Self> {
        let interface = format!("weft{subnet}");
        let link = Self {
            hosts: [left.clone(), right.clone()],
            subnet,
            interface,
        };
        let name = &link.interface;
        left.ip(&format!(
            "link add {name} type veth peer name {name} netns {}",
            right.path()
        ))?;
        for (host, addresses) in link.hosts.iter().zip([link.left(), link.right()]) {
            host.bring_up(name, addresses)?;
        }
        // Only now has the left one a carrier.
        left.settle(name)?;
        right.settle(name)?;
        link.set_mtu(options.mtu)?;
        if !options.offloads {
            link.turn_offloads_off()?;
        }
        if options.drop_permille > 0 {
            link.set_drop(options.drop_permille)?;
        }
        Ok(link)
    }

    /// Its name in both hosts.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The left host's addresses, IPv4 and IPv6.
    pub fn left(&self) -> [IpAddr; 2] {
        addresses(self.subnet, LEFT)
    }

    /// The right host's addresses, IPv4 and IPv6.
    pub fn right(&self) -> [IpAddr; 2] {
        addresses(self.subnet, RIGHT)
    }

    /// Changes the MTU of both ends.
    ///
    /// # Errors
    /// That the kernel refuses it.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        self.hosts
            .iter()
            .try_for_each(|host| host.ip(&format!("link set {} mtu {mtu}", self.interface)))
    }

    /// Changes how many of a thousand packets are dropped in each direction.
    ///
    /// # Errors
    /// That `nft` is missing, or the kernel lacks nf_tables' `numgen`.
    pub fn set_drop(&self, permille: u16) -> Result<()> {
        // Dropped where it arrives: a drop at the sender would be reported to the sender's socket.
        let interface = &self.interface;
        let verdict = match permille {
            0 => "accept".to_owned(),
            1..1000 => format!("numgen random mod 1000 < {permille} drop"),
            1000.. => "drop".to_owned(),
        };
        let rules = format!(
            "add table inet lab_{interface}\n\
             delete table inet lab_{interface}\n\
             add table inet lab_{interface}\n\
             add chain inet lab_{interface} loss {{ type filter hook input priority raw; }}\n\
             add rule inet lab_{interface} loss iifname {interface} {verdict}\n"
        );
        self.hosts
            .iter()
            .try_for_each(|host| host.tool("nft", "nftables", &["-f", "-"], &rules).map(drop))
    }

    /// Cuts or mends the link, as a pulled cable.
    ///
    /// # Errors
    /// That `ip` is missing.
    pub fn set_up(&self, up: bool) -> Result<()> {
        let [left, _] = &self.hosts;
        left.set_interface(&self.interface, up)
    }

    fn turn_offloads_off(&self) -> Result<()> {
        let mut args = vec!["-K", self.interface.as_str()];
        args.extend(OFFLOADS.iter().flat_map(|offload| [*offload, "off"]));
        self.hosts
            .iter()
            .try_for_each(|host| host.tool("ethtool", "ethtool", &args, "").map(drop))
    }
}
