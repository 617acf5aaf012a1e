//! The little of IP, TCP, UDP and ICMP that a middlebox needs: addresses, ports and checksums, changed in place.

use super::impairment::{Checksum, Damage};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers (IANA).
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const IPV4_HEADER: usize = 20;
const IPV4_CHECKSUM: usize = 10;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;

/// What an ICMP error quotes: its packet stays within the smallest MTU that IPv6 allows (RFC 4443 section 3.2).
const QUOTED: usize = 1280 - IPV6_HEADER - ICMP_HEADER;

/// One end of the packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// A whole IP packet, with what its headers say.
pub(super) struct Packet<'a> {
    bytes: &'a mut [u8],
    family: Family,
    protocol: u8,
    /// Where the transport's header begins.
    transport: usize,
    /// Whether the transport's header is in this packet.
    is_first_fragment: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl<'a> Packet<'a> {
    /// Reads a packet's headers; `None` if it is not a whole IP packet.
    pub(super) fn parse(bytes: &'a mut [u8]) -> Option<Self> {
        let (family, protocol, transport, is_first_fragment) = match bytes.first()? >> 4 {
            4 => {
                let header = usize::from(bytes[0] & 0x0f) * 4;
                let protocol = *bytes.get(9)?;
                let fragment_offset = u16_at(bytes, 6)? & 0x1fff;
                (Family::V4, protocol, header, fragment_offset == 0)
            }
            // Extension headers are passed on as a protocol without ports.
            6 => (Family::V6, *bytes.get(6)?, IPV6_HEADER, true),
            _ => return None,
        };
        let shortest = match family {
            Family::V4 => IPV4_HEADER,
            Family::V6 => IPV6_HEADER,
        };
        (transport >= shortest && bytes.len() >= transport).then_some(Self {
            bytes,
            family,
            protocol,
            transport,
            is_first_fragment,
        })
    }

    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn protocol(&self) -> u8 {
        self.protocol
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.family == Family::V6
    }

    pub(super) fn address(&self, end: End) -> IpAddr {
        let field = &self.bytes[self.address_at(end)];
        match self.family {
            Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(field).unwrap_or_default()).into(),
            Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(field).unwrap_or_default()).into(),
        }
    }

    /// The port of TCP or UDP, unless it is in another fragment.
    pub(super) fn port(&self, end: End) -> Option<u16> {
        let has_ports = self.is_first_fragment && matches!(self.protocol, TCP | UDP);
        has_ports.then(|| u16_at(self.bytes, self.port_at(end))).flatten()
    }

    /// Changes an address of the packet's own family, and the checksums over it (RFC 3022 section 4.1).
    pub(super) fn set_address(&mut self, end: End, address: IpAddr) {
        let field = self.address_at(end);
        match address {
            IpAddr::V4(v4) if self.family == Family::V4 => {
                self.replace(
                    field.start,
                    &v4.octets(),
                    &[Some(IPV4_CHECKSUM), self.pseudo_header_checksum()],
                );
            }
            IpAddr::V6(v6) if self.family == Family::V6 => {
                self.replace(field.start, &v6.octets(), &[self.pseudo_header_checksum()]);
            }
            _ => {}
        }
    }

    /// Changes the port of TCP or UDP, and the checksum over it.
    pub(super) fn set_port(&mut self, end: End, port: u16) {
        self.replace(
            self.port_at(end),
            &port.to_be_bytes(),
            &[self.pseudo_header_checksum()],
        );
    }

    /// Flips a bit of the transport's payload, or of its header if there is no payload.
    pub(super) fn damage(&mut self, damage: Damage) {
        let header = match self.protocol {
            UDP => UDP_HEADER,
            TCP => self
                .bytes
                .get(self.transport + 12)
                .map_or(0, |offset| usize::from(offset >> 4) * 4),
            _ => 0,
        };
        let mut start = self.transport + header;
        if start >= self.bytes.len() {
            start = self.transport;
        }
        let bits = (self.bytes.len() - start) * 8;
        if bits == 0 {
            return;
        }
        let bit = damage.bit as usize % bits;
        // Checksums are over words of two bytes: the byte is changed together with its neighbour.
        let flipped = start + bit / 8;
        let word = flipped - (flipped - self.transport) % 2;
        let mut new = [self.bytes[word], self.bytes.get(word + 1).copied().unwrap_or(0)];
        new[flipped - word] ^= 1 << (bit % 8);
        let checksum = match damage.checksum {
            Checksum::Kept => None,
            Checksum::Repaired => self.transport_checksum(),
        };
        let length = (self.bytes.len() - word).min(2);
        self.replace(word, &new[..length], &[checksum]);
    }

    /// The ICMP error that tells the sender that at most `mtu` bytes pass, from `router`; `None` for a packet that
    /// asked for none (IPv4 without "don't fragment") or that is itself an ICMP error (RFC 4443 section 2.4 (e)).
    pub(super) fn too_big(&self, mtu: usize, router: IpAddr) -> Option<Vec<u8>> {
        let icmp_type = |limit| {
            let first = self.bytes.get(self.transport).copied().unwrap_or(0);
            self.is_first_fragment && first < limit
        };
        let source = self.address(End::Source);
        let quoted = &self.bytes[..self.bytes.len().min(QUOTED)];
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
        match (router, source) {
            (IpAddr::V4(router), IpAddr::V4(source)) => {
                const DONT_FRAGMENT: u8 = 0x40;
                // Of ICMP, only echo (8) and its answer (0) are no errors here.
                let is_error =
                    self.protocol == ICMP && !icmp_type(1) && self.bytes.get(self.transport) != Some(&8);
                if self.bytes[6] & DONT_FRAGMENT == 0 || is_error {
                    return None;
                }
                // Destination unreachable, fragmentation needed (RFC 1191 section 4).
                let message = icmp_message([3, 4, 0, 0, 0, 0, mtu[0], mtu[1]], quoted, 0);
                Some(ipv4_packet(router, source, &message))
            }
            (IpAddr::V6(router), IpAddr::V6(source)) => {
                // Below 128 are errors (RFC 4443 section 2.1).
                if self.protocol == ICMPV6 && icmp_type(128) {
                    return None;
                }
                let length = ICMP_HEADER + quoted.len();
                let pseudo_header =
                    sum(&router.octets()) + sum(&source.octets()) + length as u32 + u32::from(ICMPV6);
                // Packet too big (RFC 4443 section 3.2).
                let message = icmp_message([2, 0, 0, 0, 0, 0, mtu[0], mtu[1]], quoted, pseudo_header);
                Some(ipv6_packet(router, source, &message))
            }
            _ => None,
        }
    }

    fn address_at(&self, end: End) -> std::ops::Range<usize> {
        match (self.family, end) {
            (Family::V4, End::Source) => 12..16,
            (Family::V4, End::Destination) => 16..20,
            (Family::V6, End::Source) => 8..24,
            (Family::V6, End::Destination) => 24..40,
        }
    }

    fn port_at(&self, end: End) -> usize {
        match end {
            End::Source => self.transport,
            End::Destination => self.transport + 2,
        }
    }

    /// Where the checksum over the transport's header and payload is, if there is one.
    fn transport_checksum(&self) -> Option<usize> {
        let offset = match self.protocol {
            TCP => 16,
            UDP => 6,
            ICMP | ICMPV6 => 2,
            _ => return None,
        };
        let at = self.transport + offset;
        let field = u16_at(self.bytes, at)?;
        // UDP without a checksum (RFC 768).
        let is_absent = self.protocol == UDP && field == 0;
        (self.is_first_fragment && !is_absent).then_some(at)
    }

    /// The same, if it also covers the addresses: ICMP's for IPv4 does not.
    fn pseudo_header_checksum(&self) -> Option<usize> {
        self.transport_checksum().filter(|_| self.protocol != ICMP)
    }

    /// Replaces bytes from an even place on, and keeps checksums as right or wrong as they were (RFC 1624).
    fn replace(&mut self, at: usize, new: &[u8], checksums: &[Option<usize>]) {
        let Some(old) = self.bytes.get(at..at + new.len()) else {
            return;
        };
        // ~old + new, in one's complement.
        let change = old.len().div_ceil(2) as u32 * 0xffff - sum(old) + sum(new);
        self.bytes[at..at + new.len()].copy_from_slice(new);
        for &checksum_at in checksums.iter().flatten() {
            let Some(checksum) = u16_at(self.bytes, checksum_at) else {
                continue;
            };
            let mut fixed = !fold(u32::from(!checksum) + u32::from(fold(change)));
            if fixed == 0 && self.protocol == UDP && checksum_at != IPV4_CHECKSUM {
                // Zero would mean that there is none (RFC 768).
                fixed = 0xffff;
            }
            self.bytes[checksum_at..checksum_at + 2].copy_from_slice(&fixed.to_be_bytes());
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The sum of all words of two bytes; at most some 10^4 of them, so that it fits.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
        .sum()
}

/// One's complement (RFC 1071).
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Just made to fit.
    u16::try_from(sum).unwrap_or(u16::MAX)
}

fn icmp_message(mut header: [u8; ICMP_HEADER], quoted: &[u8], pseudo_header: u32) -> Vec<u8> {
    let checksum = !fold(sum(&header) + sum(quoted) + pseudo_header);
    header[2..4].copy_from_slice(&checksum.to_be_bytes());
    [&header, quoted].concat()
}

/// Hops that a packet of the link's own may make.
const TTL: u8 = 64;

fn ipv4_packet(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(IPV4_HEADER + payload.len()).unwrap_or(u16::MAX);
    let mut header = [0; IPV4_HEADER];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[8] = TTL;
    header[9] = ICMP;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let checksum = !fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&header, payload].concat()
}

fn ipv6_packet(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; IPV6_HEADER];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    header[6] = ICMPV6;
    header[7] = TTL;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    [&header, payload].concat()
}
