//! What a capture puts on `lo`: a stable address of each family, and routes to the mesh's services that have it as
//! their source, so that a connection to a service does not depend on the host's addresses.
//!
//! Both carry a protocol number of ours, by which they are found again, whatever else was forgotten. (Kernels before
//! 5.18 keep none for addresses; there the tables' records tell.)

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    AddressMessageBuilder, Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{
            AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope},
    },
};
use tokio::task::AbortHandle;

/// Who put a route or an address there (`rtm_protocol`, `IFA_PROTO`): a number that no routing daemon has taken.
const PROTOCOL: u8 = 157;

/// The index of `lo` in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// `lo` can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoopbackError {
    #[error("netlink: {0}")]
    Open(io::Error),
    #[error("lo: {action}: {source}")]
    Request { action: String, source: io::Error },
}

/// Addresses on `lo`, and routes to it with the sources that they give; the unspecified address is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OnLoopback {
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) routes: BTreeSet<(IpNet, IpAddr)>,
}

impl OnLoopback {
    /// Routes to these ranges, from our address of their family.
    pub(crate) fn add_routes(&mut self, ranges: impl IntoIterator<Item = IpNet>) {
        for range in ranges {
            let of_family = |address: &&IpAddr| address.is_ipv4() == range.addr().is_ipv4();
            if let Some(source) = self.addresses.iter().find(of_family) {
                self.routes.insert((range, *source));
            }
        }
    }

    /// All of both.
    pub(crate) fn merge(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        self.routes.extend(other.routes);
    }

    /// What is here and not there.
    pub(crate) fn without(&self, other: &Self) -> Self {
        Self {
            addresses: self.addresses.difference(&other.addresses).copied().collect(),
            routes: self.routes.difference(&other.routes).copied().collect(),
        }
    }

    /// Each as a line for people.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let addresses = self.addresses.iter().map(|address| format!("address {address}"));
        let routes = self.routes.iter();
        addresses.chain(routes.map(|(range, source)| format!("route to {range} from {source}")))
    }
}

/// The loopback device of this network namespace.
pub(crate) struct Loopback {
    handle: Handle,
    connection: AbortHandle,
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Loopback {
    /// Opens a netlink socket, served by a task of the present runtime.
    ///
    /// # Errors
    /// There is none to be had.
    pub(crate) fn open() -> Result<Self, LoopbackError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(LoopbackError::Open)?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection).abort_handle(),
        })
    }

    /// What of ours is on it: by its number, or, where the kernel keeps none, because `recorded` has it.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) async fn ours(&self, recorded: &OnLoopback) -> Result<OnLoopback, LoopbackError> {
        let messages = self.address_messages().await?;
        // The kernel numbers 127.0.0.1 itself if it numbers any.
        let keeps_numbers = messages.iter().any(|message| address_protocol(message).is_some());
        let ours = messages.iter().filter_map(|message| {
            let address = address(message)?;
            let is_ours = match address_protocol(message) {
                Some(protocol) => protocol == AddressProtocol::Other(PROTOCOL),
                None => !keeps_numbers && recorded.addresses.contains(&address),
            };
            is_ours.then_some(address)
        });
        let addresses = ours.collect();
        Ok(OnLoopback {
            addresses,
            routes: self.routes().await?,
        })
    }

    /// Every address on it, whosever.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) async fn addresses(&self) -> Result<BTreeSet<IpAddr>, LoopbackError> {
        Ok(self
            .address_messages()
            .await?
            .iter()
            .filter_map(address)
            .collect())
    }

    /// Adds what is missing of `wanted`.
    ///
    /// # Errors
    /// One can't be added; those before it are.
    pub(crate) async fn add(&self, wanted: &OnLoopback) -> Result<(), LoopbackError> {
        let there = OnLoopback {
            addresses: self.addresses().await?,
            routes: self.routes().await?,
        };
        let missing = wanted.without(&there);
        for address in &missing.addresses {
            let action = || format!("add address {address}");
            self.add_address(*address)
                .await
                .map_err(|error| failed(action(), &error))?;
        }
        for (range, source) in &missing.routes {
            let action = || format!("add route to {range} from {source}");
            let request = self.handle.route().add(route(*range, *source));
            request
                .execute()
                .await
                .map_err(|error| failed(action(), &error))?;
        }
        Ok(())
    }

    /// Removes all of `stale`, which is there.
    ///
    /// # Errors
    /// One can't be removed; those before it are.
    pub(crate) async fn remove(&self, stale: &OnLoopback) -> Result<(), LoopbackError> {
        for (range, source) in &stale.routes {
            let action = || format!("remove route to {range}");
            let request = self.handle.route().del(route(*range, *source));
            request
                .execute()
                .await
                .map_err(|error| failed(action(), &error))?;
        }
        for message in self.address_messages().await? {
            let Some(address) = address(&message).filter(|address| stale.addresses.contains(address)) else {
                continue;
            };
            let action = || format!("remove address {address}");
            let request = self.handle.address().del(message);
            request
                .execute()
                .await
                .map_err(|error| failed(action(), &error))?;
        }
        Ok(())
    }

    async fn add_address(&self, address: IpAddr) -> Result<(), rtnetlink::Error> {
        let mut message = match address {
            IpAddr::V4(address) => {
                let builder = AddressMessageBuilder::<Ipv4Addr>::new();
                let mut message = builder.index(LOOPBACK).address(address, 32).build();
                // Never the source of a packet that leaves this host, unless a route says so.
                message.header.scope = AddressScope::Host;
                message
            }
            IpAddr::V6(address) => {
                let builder = AddressMessageBuilder::<Ipv6Addr>::new();
                let mut message = builder.index(LOOPBACK).address(address, 128).build();
                // The same: a deprecated address is used by those alone who ask for it (RFC 6724 section 5, rule 3).
                // There is nobody on lo to take it too, and a route may have it as its source at once.
                message.header.flags |= AddressHeaderFlags::Nodad;
                let mut lifetimes = CacheInfo::default();
                (lifetimes.ifa_valid, lifetimes.ifa_preferred) = (u32::MAX, 0);
                message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
                message
            }
        };
        let protocol = AddressProtocol::Other(PROTOCOL);
        message.attributes.push(AddressAttribute::Protocol(protocol));
        let mut request = self.handle.address().add(LOOPBACK, address, 0);
        *request.message_mut() = message;
        request.execute().await
    }

    async fn address_messages(&self) -> Result<Vec<AddressMessage>, LoopbackError> {
        let request = self.handle.address().get().set_link_index_filter(LOOPBACK);
        let messages = request.execute().try_collect().await;
        messages.map_err(|error| failed("list addresses".to_owned(), &error))
    }

    /// Our routes.
    async fn routes(&self) -> Result<BTreeSet<(IpNet, IpAddr)>, LoopbackError> {
        let mut routes = BTreeSet::new();
        for request in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let messages: Result<Vec<RouteMessage>, _> =
                self.handle.route().get(request).execute().try_collect().await;
            let messages = messages.map_err(|error| failed("list routes".to_owned(), &error))?;
            routes.extend(messages.iter().filter_map(our_route));
        }
        Ok(routes)
    }
}

fn route(range: IpNet, source: IpAddr) -> RouteMessage {
    let mut message = match (range, source) {
        (IpNet::V4(range), IpAddr::V4(source)) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.addr(), range.prefix_len())
            .pref_source(source)
            .output_interface(LOOPBACK)
            .scope(RouteScope::Link)
            .build(),
        (range, source) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(ipv6(range.addr()), range.prefix_len())
                .output_interface(LOOPBACK);
            match source.is_unspecified() {
                true => builder.build(),
                false => builder.pref_source(ipv6(source)).build(),
            }
        }
    };
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message
}

fn ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        // Not reached: a range and its source are of one family.
        IpAddr::V4(address) => address.to_ipv6_mapped(),
    }
}

fn our_route(message: &RouteMessage) -> Option<(IpNet, IpAddr)> {
    if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let mut destination = None;
    // The kernel takes the source out of an IPv6 route whose source address is removed, and leaves the route.
    let mut source = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address)?,
            _ => {}
        }
    }
    let range = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    Some((range, source))
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })
}

fn address_protocol(message: &AddressMessage) -> Option<AddressProtocol> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Protocol(protocol) => Some(*protocol),
        _ => None,
    })
}

fn failed(action: String, error: &rtnetlink::Error) -> LoopbackError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    };
    LoopbackError::Request { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_loopback(addresses: &[&str], ranges: &[&str]) -> OnLoopback {
        let mut on_loopback = OnLoopback {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            routes: BTreeSet::new(),
        };
        on_loopback.add_routes(ranges.iter().map(|text| text.parse().unwrap()));
        on_loopback
    }

    #[test]
    fn a_route_has_the_source_of_its_family_or_is_none() {
        let both = on_loopback(&["169.254.255.15", "fd5e::1"], &["10.96.0.0/16", "fd96::/112"]);
        let lines: Vec<String> = both.lines().collect();
        assert_eq!(
            lines,
            [
                "address 169.254.255.15",
                "address fd5e::1",
                "route to 10.96.0.0/16 from 169.254.255.15",
                "route to fd96::/112 from fd5e::1",
            ]
        );
        let v4 = on_loopback(&["169.254.255.15"], &["10.96.0.0/16", "fd96::/112"]);
        assert_eq!(v4.routes.len(), 1);
    }

    #[test]
    fn what_another_capture_needs_is_not_stale() {
        let mine = on_loopback(&["169.254.255.15"], &["10.96.0.0/16", "10.97.0.0/16"]);
        let theirs = on_loopback(&["169.254.255.15"], &["10.96.0.0/16"]);
        let stale = mine.without(&theirs);
        assert_eq!(
            stale.lines().collect::<Vec<_>>(),
            ["route to 10.97.0.0/16 from 169.254.255.15"]
        );
    }

    #[test]
    fn a_route_is_read_back_as_it_was_made() {
        for (range, source) in [
            ("10.96.0.0/16", "169.254.255.15"),
            ("fd96::/112", "fd5e::1"),
            ("fd96::/112", "::"),
        ] {
            let wanted = (range.parse().unwrap(), source.parse().unwrap());
            assert_eq!(our_route(&route(wanted.0, wanted.1)), Some(wanted));
        }
    }
}
