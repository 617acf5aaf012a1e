//! A network address translator before a simulated host.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// Where a fresh translator begins to hand out ports.
const FIRST_PORT: u16 = 50_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Nat {
    /// The host behind it, by the address that it was made with.
    host: IpAddr,
    outer: IpAddr,
    /// The address that a socket really has, by the port that its peers see.
    inner: BTreeMap<u16, SocketAddr>,
    next_port: u16,
}

impl Nat {
    /// A translator that knows nothing of what `before` did, and uses no port of it again.
    pub(super) fn after(before: Option<&Self>, host: IpAddr, outer: IpAddr) -> Self {
        Self {
            host,
            outer,
            inner: BTreeMap::new(),
            next_port: before.map_or(FIRST_PORT, |before| before.next_port),
        }
    }

    /// The source that the peers of `host` see for `source`.
    pub(super) fn translate(&mut self, host: IpAddr, source: SocketAddr) -> SocketAddr {
        if host != self.host {
            return source;
        }
        let known = self.inner.iter().find(|(_, inner)| **inner == source);
        let port = known.map(|(port, _)| *port).unwrap_or_else(|| {
            let port = self.next_port;
            self.next_port += 1;
            self.inner.insert(port, source);
            port
        });
        SocketAddr::new(self.outer, port)
    }

    /// Where what is sent to `address` goes; nowhere, if the translator does not know it (any more).
    pub(super) fn inner_of(&self, address: SocketAddr) -> Option<SocketAddr> {
        if address.ip() == self.outer {
            self.inner.get(&address.port()).copied()
        } else {
            Some(address)
        }
    }
}
