//! The listeners of a proxy and the ports of its application, of which no two overlap.

use std::net::SocketAddr;

use weft_proto::reader::Value;

use super::super::Listen;

/// Every port of this host that the file gives to somebody.
#[derive(Default)]
pub(super) struct Ports<'a>(Vec<Port<'a>>);

struct Port<'a> {
    address: SocketAddr,
    owner: Owner,
    /// Where it stands in the file, unless it is a default.
    place: Option<Value<'a>>,
    /// What it is called in an error of another.
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A TCP listener of this proxy.
    Listener,
    /// The listener for peers: UDP, and for where that is blocked TCP as well.
    Mesh,
    /// The application, on TCP.
    Tcp,
    /// The application, on UDP.
    Udp,
}

impl Owner {
    /// Of a field of `listen`.
    pub(super) fn of_listener(name: &str) -> Self {
        if name == "mesh" {
            Self::Mesh
        } else {
            Self::Listener
        }
    }
}

impl<'a> Ports<'a> {
    pub(super) fn add(&mut self, address: SocketAddr, owner: Owner, place: Value<'a>) {
        let name = place.path().to_owned();
        self.0.push(Port {
            address,
            owner,
            place: Some(place),
            name,
        });
    }

    pub(super) fn add_defaults(&mut self, listen: &Listen) {
        for (name, addresses) in listen.named() {
            self.add_default(name, addresses);
        }
    }

    pub(super) fn add_default(&mut self, name: &str, addresses: &[SocketAddr]) {
        let owner = Owner::of_listener(name);
        self.0.extend(addresses.iter().map(|address| Port {
            address: *address,
            owner,
            place: None,
            name: format!("listen.{name} ({address} by default)"),
        }));
    }

    /// Reports each port that is given away already, at whichever of the two the file says.
    pub(super) fn report_overlaps(&self) {
        for (index, port) in self.0.iter().enumerate() {
            let earlier = self.0.iter().take(index);
            let Some(taken) = earlier.into_iter().find(|earlier| overlap(earlier, port)) else {
                continue;
            };
            let (place, other) = match (&port.place, &taken.place) {
                (Some(place), _) => (place, taken),
                (None, Some(place)) => (place, port),
                (None, None) => continue,
            };
            let address = if std::ptr::eq(other, taken) {
                port.address
            } else {
                taken.address
            };
            place.error(format_args!("{address} overlaps with {}", other.name));
        }
    }
}

/// Whether two cannot both have their port. An IPv6 listener on the unspecified address takes IPv4 as well.
fn overlap(left: &Port<'_>, right: &Port<'_>) -> bool {
    use Owner::{Listener, Mesh, Tcp, Udp};
    let share_transport = match (left.owner, right.owner) {
        // The application's own ports were compared with each other when they were read.
        (Tcp | Udp, Tcp | Udp) => false,
        (Listener, Udp) | (Udp, Listener) => false,
        (Mesh | Listener, _) | (_, Mesh | Listener) => true,
    };
    let covers = |wide: SocketAddr, other: SocketAddr| {
        wide.ip().is_unspecified() && (wide.is_ipv6() || other.is_ipv4())
    };
    let (left, right) = (left.address, right.address);
    share_transport
        && left.port() == right.port()
        && left.port() != 0
        && (left.ip() == right.ip() || covers(left, right) || covers(right, left))
}
