//! Addresses and routes of hosts, and their changes while traffic flows.

use super::Host;
use crate::error::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The kernel's work queue takes microseconds, unless the machine is very busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// The last part of the left host's addresses on a link.
pub(super) const LEFT: u8 = 1;

/// The last part of the right host's addresses on a link.
pub(super) const RIGHT: u8 = 2;

/// The addresses, IPv4 and IPv6, of number `host` on a link.
pub(super) fn addresses(subnet: u8, host: u8) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::new(0xfd77, 0, 0, u16::from(subnet), 0, 0, 0, u16::from(host));
    [Ipv4Addr::new(10, 77, subnet, host).into(), v6.into()]
}

/// Where a host sends packets.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The interface.
    pub interface: &'a str,
    /// The next hop, unless the destination itself is on the link (on an impaired link, everything is).
    pub gateway: Option<IpAddr>,
    /// The source address of what this host itself sends.
    pub source: Option<IpAddr>,
}

impl Host {
    /// Adds an address to an interface, in the link's prefix length (24 or 64).
    ///
    /// # Errors
    /// That there is no such interface, or it has the address.
    pub fn add_address(&self, interface: &str, address: IpAddr) -> Result<()> {
        self.ip(&add(interface, address))?;
        self.settle(interface)
    }

    /// Removes an address from an interface.
    ///
    /// # Errors
    /// That the interface does not have it.
    pub fn remove_address(&self, interface: &str, address: IpAddr) -> Result<()> {
        self.ip(&remove(interface, address))
    }

    /// Gives an interface a new address instead of an old one. Routes that named the old one as the source name
    /// the new one then. With both in the link's own subnet the peer reaches the new one without a change.
    ///
    /// # Errors
    /// That the interface has the new address, or lacks the old one.
    pub fn replace_address(&self, interface: &str, old: IpAddr, new: IpAddr) -> Result<()> {
        let routes = self.routes_from(interface, old)?;
        let mut commands = format!("{}\n{}\n", add(interface, new), remove(interface, old));
        let (old, new) = (format!("src {old}"), format!("src {new}"));
        for route in routes {
            commands += &format!("route replace {} dev {interface}\n", route.replace(&old, &new));
        }
        self.ip(&commands)?;
        self.settle(interface)
    }

    /// Takes an interface up or down, as a cable plugged in or pulled. Addresses stay, routes through it do not,
    /// but for those to its own subnets.
    ///
    /// # Errors
    /// That there is no such interface.
    pub fn set_interface(&self, interface: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.ip(&format!("link set {interface} {state}"))?;
        self.settle(interface)
    }

    /// Sends what goes to `destination` (an address, a prefix, or `default`) by this route from now on, instead of
    /// by the route it had.
    ///
    /// # Errors
    /// That the kernel refuses it.
    pub fn set_route(&self, destination: &str, route: Route<'_>) -> Result<()> {
        let is_ipv6 = destination.contains(':')
            || [route.gateway, route.source]
                .into_iter()
                .flatten()
                .any(|address| address.is_ipv6());
        let mut command = format!("route replace {destination}");
        if let Some(gateway) = route.gateway {
            command += &format!(" via {gateway}");
        }
        command += &format!(" dev {}", route.interface);
        if let Some(source) = route.source {
            command += &format!(" src {source}");
        }
        let family = if is_ipv6 { "-6" } else { "-4" };
        self.tool("ip", "iproute2", &[family, "-batch", "-"], &command)
            .map(drop)
    }

    /// Makes this host a router between its links. What others send by it needs a route there
    /// ([`Host::set_route`]) and back.
    ///
    /// # Errors
    /// That the kernel refuses it.
    pub fn forward(&self) -> Result<()> {
        self.set_sysctl("ipv4.ip_forward", "1")?;
        self.set_sysctl("ipv6.conf.all.forwarding", "1")
    }

    /// Gives a link's end its addresses and takes it up.
    pub(super) fn bring_up(&self, interface: &str, addresses: [IpAddr; 2]) -> Result<()> {
        // An address of a subnet stays when the first one of it goes.
        self.set_sysctl(&format!("ipv4.conf.{interface}.promote_secondaries"), "1")?;
        // As IPv4 addresses do.
        self.set_sysctl(&format!("ipv6.conf.{interface}.keep_addr_on_down"), "1")?;
        let [v4, v6] = addresses.map(|address| add(interface, address));
        self.ip(&format!("{v4}\n{v6}\nlink set {interface} up"))
    }

    /// Waits until the interface's IPv6 addresses receive packets, if it is up: the kernel adds their routes later,
    /// from a work queue, also without duplicate address detection.
    pub(super) fn settle(&self, interface: &str) -> Result<()> {
        let ip = |args: &[&str]| self.tool("ip", "iproute2", &[args, &["dev", interface]].concat(), "");
        if !ip(&["-o", "link", "show"])?.contains("LOWER_UP") {
            return Ok(());
        }
        let addresses = ip(&["-6", "-o", "address", "show", "scope", "global"])?;
        let is_local = |routes: &str, address: &str| {
            routes
                .lines()
                .any(|route| route.split_whitespace().nth(1) == Some(address))
        };
        let started = Instant::now();
        loop {
            let routes = ip(&["-6", "route", "show", "table", "local"])?;
            let missing = addresses
                .lines()
                .filter_map(|line| line.split_whitespace().nth(3)?.split('/').next())
                .find(|address| !is_local(&routes, address));
            match missing {
                None => return Ok(()),
                Some(_) if started.elapsed() < PATIENCE => {}
                Some(address) => {
                    return Err(Error::Protocol(format!(
                        "host {}: {interface} does not receive at {address}",
                        self.name
                    )));
                }
            }
        }
    }

    /// The routes through an interface with this source address that somebody has set, as `ip route` writes them.
    fn routes_from(&self, interface: &str, source: IpAddr) -> Result<Vec<String>> {
        let family = if source.is_ipv6() { "-6" } else { "-4" };
        let args = [family, "route", "show", "dev", interface];
        let routes = self.tool("ip", "iproute2", &args, "")?;
        let from_source = |line: &&str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.windows(2).any(|pair| pair == ["src", &source.to_string()])
                && !words.windows(2).any(|pair| pair == ["proto", "kernel"])
        };
        Ok(routes
            .lines()
            .filter(from_source)
            // The interface's state, which is no part of the route.
            .map(|line| line.replace(" linkdown", "").replace("dead ", ""))
            .collect())
    }
}

fn add(interface: &str, address: IpAddr) -> String {
    // There is no other host that might have the address already.
    let options = if address.is_ipv6() { " nodad" } else { "" };
    format!("address add {} dev {interface}{options}", with_prefix(address))
}

fn remove(interface: &str, address: IpAddr) -> String {
    format!("address delete {} dev {interface}", with_prefix(address))
}

fn with_prefix(address: IpAddr) -> String {
    let length = if address.is_ipv6() { 64 } else { 24 };
    format!("{address}/{length}")
}
