//! Source NAT with a mapping for each inside address and port, whoever it talks to (endpoint-independent, RFC 4787
//! section 4.1), for TCP and UDP. Of other protocols the addresses alone are translated. Nothing comes in that no
//! mapping asks for. Mappings last until [`Nat::rebind`].

use super::packet::{End, Packet};
use std::collections::HashMap;
use std::net::IpAddr;

/// The ports that it gives out, one after the other: dynamic ones (RFC 6335 section 6), away from those that the
/// hosts' kernels take (32768 to 60999).
const PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_000;

/// What a rebinding changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebind {
    /// The ports, as when a home router restarts.
    Ports,
    /// The address as well, as when the network behind the router changes.
    Address,
}

/// The state of a NAT.
#[derive(Debug)]
pub(super) struct Nat {
    /// What the outside sees, IPv4 and IPv6.
    addresses: [IpAddr; 2],
    next_port: u16,
    ports: HashMap<Inside, u16>,
    insides: HashMap<u16, Inside>,
    /// The last inside address that used a protocol without ports, by family.
    last_without_ports: [Option<IpAddr>; 2],
}

/// A socket behind the NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Inside {
    protocol: u8,
    address: IpAddr,
    port: u16,
}

impl Nat {
    pub(super) fn new(addresses: [IpAddr; 2]) -> Self {
        Self {
            addresses,
            next_port: *PORTS.start(),
            ports: HashMap::new(),
            insides: HashMap::new(),
            last_without_ports: [None; 2],
        }
    }

    /// What the outside sees, IPv4 and IPv6.
    pub(super) fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    /// Forgets every mapping. The next ones have other ports.
    pub(super) fn rebind(&mut self, addresses: [IpAddr; 2]) {
        *self = Self {
            next_port: self.next_port,
            ..Self::new(addresses)
        };
    }

    /// Translates a packet that goes out.
    pub(super) fn outbound(&mut self, packet: &mut Packet<'_>) {
        let family = usize::from(packet.is_ipv6());
        let address = packet.address(End::Source);
        if let Some(port) = packet.port(End::Source) {
            let inside = Inside {
                protocol: packet.protocol(),
                address,
                port,
            };
            let port = self.port_of(inside);
            packet.set_port(End::Source, port);
        } else {
            self.last_without_ports[family] = Some(address);
        }
        packet.set_address(End::Source, self.addresses[family]);
    }

    /// Translates a packet that comes in; false if it must not.
    pub(super) fn inbound(&self, packet: &mut Packet<'_>) -> bool {
        let family = usize::from(packet.is_ipv6());
        if packet.address(End::Destination) != self.addresses[family] {
            return false;
        }
        let address = if let Some(port) = packet.port(End::Destination) {
            let inside = self.insides.get(&port).filter(|inside| {
                inside.protocol == packet.protocol() && inside.address.is_ipv6() == packet.is_ipv6()
            });
            let Some(inside) = inside else {
                return false;
            };
            packet.set_port(End::Destination, inside.port);
            inside.address
        } else {
            let Some(address) = self.last_without_ports[family] else {
                return false;
            };
            address
        };
        packet.set_address(End::Destination, address);
        true
    }

    fn port_of(&mut self, inside: Inside) -> u16 {
        if let Some(&port) = self.ports.get(&inside) {
            return port;
        }
        let port = self.next_port;
        self.next_port = if port == *PORTS.end() {
            *PORTS.start()
        } else {
            port + 1
        };
        // Once round, the oldest mapping gives way: the tables never hold more than there are ports.
        if let Some(oldest) = self.insides.insert(port, inside) {
            self.ports.remove(&oldest);
        }
        self.ports.insert(inside, port);
        port
    }
}
