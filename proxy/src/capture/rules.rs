//! What the kernel's packet filter is told: one nftables table for each capture, as a script for `nft -f -`.
//!
//! The script replaces the whole table in one transaction: at no moment is there half of it, or none.
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `outbound` | nat output, -100 | the application's new TCP connections go to the sidecar's outbound port |
//! | `neighbours` | nat output, -90 | with one application captured: what others of this host send to its ports |
//! | `inbound` | nat prerouting, -100 | what comes from elsewhere for its ports goes to the inbound port |
//! | `datagrams` | filter output, 0 | datagrams into the mesh are rejected |
//!
//! Only the first packet of a connection passes a nat chain, and only one that begins a connection is redirected: a
//! connection from before the capture goes on as it was. The first nat chain that redirects wins, over all tables:
//! what one capture redirects as its application's own (-100) never reaches another's `neighbours` (-90).

use std::{
    collections::BTreeSet,
    fmt::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use weft_proto::names::DnsLabel;

use super::loopback::OnLoopback;

/// The address on `lo` from which connections to services come, so that they do not depend on the host's addresses.
///
/// Link-local addresses are never routed. Of these, RFC 3927 section 2.1 reserves the last 256: no host takes one by
/// itself, and clouds and clusters have put their well-known services elsewhere.
pub(crate) const STABLE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 255, 15));

/// The same for IPv6, with a random global ID as RFC 4193 section 3.2 asks for.
pub(crate) const STABLE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd5e, 0x9a3c, 0x71d4, 0, 0, 0, 0, 1));

/// The port of peers, on which QUIC carries everything between sidecars.
const MESH_PORT: u16 = 15_008;
/// Names are still asked for over UDP.
const DNS_PORT: u16 = 53;

/// The name of a capture's table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Table(String);

impl Table {
    /// Of the capture of that name, or of the only one of its host.
    pub(crate) fn of(instance: Option<&DnsLabel>) -> Self {
        Self(match instance {
            Some(instance) => format!("{NAME}_{instance}"),
            None => NAME.to_owned(),
        })
    }

    /// The table of this name, if it can be one of ours.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let is_ours = name
            .strip_prefix(NAME)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        is_ours.then(|| Self(name.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

const NAME: &str = "weft";

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Everything that a capture's table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) table: Table,
    pub(crate) whom: Whom,
    pub(crate) exempt: Exempt,
    /// The sidecar's TCP port for what the application sends.
    pub(crate) outbound_port: u16,
    /// The sidecar's TCP port for what is sent to the application.
    pub(crate) inbound_port: u16,
    /// The ports at which the application is captured.
    pub(crate) inbound: InboundPorts,
    /// Ports of the sidecar: never captured.
    pub(crate) own_ports: BTreeSet<u16>,
    /// The addresses of the mesh.
    pub(crate) mesh_ranges: Vec<IpNet>,
    /// Those of its services, which are routed to `lo`.
    pub(crate) service_ranges: Vec<IpNet>,
    /// Our addresses on `lo`: one of a family, or none where the host lacks it.
    pub(crate) stable: Vec<IpAddr>,
}

/// Whose connections are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Those of the whole host.
    All,
    /// Those of these users.
    Uids(BTreeSet<u32>),
    /// Those of a control group and what is below it.
    Cgroup(Cgroup),
}

/// A control group (cgroup v2), as nft names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// Below `/sys/fs/cgroup`.
    pub(crate) path: String,
    /// How far below the root of the hierarchy; the root is 0.
    pub(crate) level: u32,
}

/// What is let pass. The sidecar's own sockets must be among it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exempt {
    pub(crate) uids: BTreeSet<u32>,
    pub(crate) gids: BTreeSet<u32>,
    pub(crate) mark: Option<u32>,
    /// Ports that the application calls.
    pub(crate) ports: BTreeSet<u16>,
    /// Ports at which the application is called.
    pub(crate) inbound_ports: BTreeSet<u16>,
    /// Addresses that the application calls.
    pub(crate) ranges: Vec<IpNet>,
}

/// The ports at which the application is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InboundPorts {
    /// These.
    Listed(BTreeSet<u16>),
    /// All that are not exempt.
    All,
}

impl Rules {
    /// The script that puts the table in place, or in the place of the one before.
    pub(crate) fn script(&self) -> String {
        let mut script = Script::default();
        // To delete a table that may not be there, make it first.
        let table = &self.table;
        script.line(0, format_args!("add table inet {table}"));
        script.line(0, format_args!("delete table inet {table}"));
        script.block(0, format_args!("table inet {table}"), |script| {
            self.sets(script);
            self.outbound(script);
            self.inbound(script);
            self.datagrams(script);
        });
        script.0
    }

    /// What is put on `lo`.
    pub(crate) fn on_loopback(&self) -> OnLoopback {
        let mut wanted = OnLoopback {
            addresses: self.stable.iter().copied().collect(),
            ..OnLoopback::default()
        };
        wanted.add_routes(self.service_ranges.iter().copied());
        wanted
    }

    /// Named sets, which [`nft`](super::nft) reads back: they are the record of what was put on `lo`.
    fn sets(&self, script: &mut Script) {
        let stable: Vec<IpNet> = self.stable.iter().copied().map(IpNet::from).collect();
        let mut mesh = self.mesh_ranges.clone();
        mesh.extend(&self.service_ranges);
        let mut passed = self.exempt.ranges.clone();
        passed.push(IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        passed.extend(IpNet::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8));
        for (name, ranges) in [
            ("stable", &stable),
            ("service", &self.service_ranges),
            ("mesh", &mesh),
            ("passed", &passed),
        ] {
            // Overlapping elements are an error to nft.
            let ranges = IpNet::aggregate(ranges);
            for (family, kind) in [(4, "ipv4_addr"), (6, "ipv6_addr")] {
                let of_family = ranges
                    .iter()
                    .filter(|range| range.addr().is_ipv4() == (family == 4));
                let elements =
                    list(
                        of_family.map(|range| match range.prefix_len() == range.max_prefix_len() {
                            true => range.addr().to_string(),
                            false => range.to_string(),
                        }),
                    );
                script.block(1, format_args!("set {name}{family}"), |script| {
                    script.line(2, format_args!("type {kind}; flags interval;"));
                    if !elements.is_empty() {
                        script.line(2, format_args!("elements = {{ {elements} }}"));
                    }
                });
            }
        }
    }

    fn outbound(&self, script: &mut Script) {
        let (first, whom) = (FIRST_PACKET, self.whom.expression());
        script.chain("outbound", "nat hook output priority -100", |script| {
            script.line(2, format_args!("{first} {whom}jump redirect_outbound"));
        });
        let port = self.outbound_port;
        script.block(1, "chain redirect_outbound", |script| {
            self.exempt_sockets(script);
            script.line(2, "ip daddr @passed4 return");
            script.line(2, "ip6 daddr @passed6 return");
            script.line(
                2,
                format_args!(
                    "fib daddr type local tcp dport {{ {} }} return",
                    list(&self.own_ports)
                ),
            );
            if !self.exempt.ports.is_empty() {
                script.line(
                    2,
                    format_args!("tcp dport {{ {} }} return", list(&self.exempt.ports)),
                );
            }
            script.line(2, format_args!("meta l4proto tcp counter redirect to :{port}"));
        });
        self.uncaptured(script);
        if self.whom == Whom::All {
            return;
        }
        let InboundPorts::Listed(ports) = &self.inbound else {
            return;
        };
        let ports: BTreeSet<_> = ports.difference(&self.exempt.inbound_ports).copied().collect();
        if ports.is_empty() {
            return;
        }
        script.chain("neighbours", "nat hook output priority -90", |script| {
            script.line(
                2,
                format_args!("{first} fib daddr type local jump redirect_neighbours"),
            );
        });
        let inbound = self.inbound_port;
        script.block(1, "chain redirect_neighbours", |script| {
            self.exempt_sockets(script);
            script.line(2, "ip daddr 127.0.0.0/8 return");
            script.line(2, "ip6 daddr ::1 return");
            script.line(
                2,
                format_args!("tcp dport {{ {} }} counter dnat to :{inbound}", list(&ports)),
            );
        });
    }

    /// What should have been redirected and was not: another table's translation may come first, and the first one
    /// wins. What was redirected has a destination on this host by now.
    fn uncaptured(&self, script: &mut Script) {
        let (first, whom) = (FIRST_PACKET, self.whom.expression());
        script.chain("uncaptured", "filter hook output priority 0", |script| {
            script.line(2, format_args!("{first} {whom}jump reject_uncaptured"));
        });
        script.block(1, "chain reject_uncaptured", |script| {
            self.exempt_sockets(script);
            script.line(2, "ip daddr @passed4 return");
            script.line(2, "ip6 daddr @passed6 return");
            script.line(2, "fib daddr type local return");
            if !self.exempt.ports.is_empty() {
                script.line(
                    2,
                    format_args!("tcp dport {{ {} }} return", list(&self.exempt.ports)),
                );
            }
            script.line(2, "ip daddr @mesh4 counter reject with icmpx admin-prohibited");
            script.line(2, "ip6 daddr @mesh6 counter reject with icmpx admin-prohibited");
        });
    }

    /// The address stays, and the port alone changes: the sidecar may listen on the workload's address or on any.
    fn inbound(&self, script: &mut Script) {
        let ports = match &self.inbound {
            InboundPorts::All => None,
            InboundPorts::Listed(ports) if ports.is_empty() => return,
            InboundPorts::Listed(ports) => Some(list(ports)),
        };
        // A host that forwards for others captures none of that.
        script.chain("inbound", "nat hook prerouting priority -100", |script| {
            script.line(
                2,
                format_args!("{FIRST_PACKET} fib daddr type local jump redirect_inbound"),
            );
        });
        let never: BTreeSet<u16> = self
            .own_ports
            .union(&self.exempt.inbound_ports)
            .copied()
            .collect();
        let port = self.inbound_port;
        script.block(1, "chain redirect_inbound", |script| {
            script.line(2, format_args!("tcp dport {{ {} }} return", list(&never)));
            let ports = ports.map_or(String::new(), |ports| format!("tcp dport {{ {ports} }} "));
            script.line(2, format_args!("{ports}meta l4proto tcp counter dnat to :{port}"));
        });
        let InboundPorts::Listed(ports) = &self.inbound else {
            return;
        };
        let ports: BTreeSet<_> = ports.difference(&never).copied().collect();
        if ports.is_empty() {
            return;
        }
        // What should have been redirected and was not: a sender can make connection tracking know a connection before
        // its first packet, and then that is not translated.
        script.chain("unredirected", "filter hook input priority 0", |script| {
            script.line(
                2,
                format_args!(
                    "iifname != \"lo\" {FIRST_PACKET} tcp dport {{ {} }} counter reject with tcp reset",
                    list(&ports)
                ),
            );
        });
    }

    fn datagrams(&self, script: &mut Script) {
        let whom = self.whom.expression();
        script.chain("datagrams", "filter hook output priority 0", |script| {
            script.line(
                2,
                format_args!("meta l4proto {{ udp, udplite, sctp, dccp }} {whom}jump reject_datagrams"),
            );
        });
        let mut ports = self.exempt.ports.clone();
        ports.extend([DNS_PORT, MESH_PORT]);
        let mut answers = self.exempt.ports.clone();
        answers.extend(&self.exempt.inbound_ports);
        answers.insert(DNS_PORT);
        script.block(1, "chain reject_datagrams", |script| {
            self.exempt_sockets(script);
            script.line(2, "ip daddr @passed4 return");
            script.line(2, "ip6 daddr @passed6 return");
            script.line(2, format_args!("th dport {{ {} }} return", list(&ports)));
            // What a server says to those who asked it.
            script.line(
                2,
                format_args!("th sport {{ {} }} ct direction reply return", list(&answers)),
            );
            script.line(2, "ip daddr @mesh4 counter reject with icmpx admin-prohibited");
            script.line(2, "ip6 daddr @mesh6 counter reject with icmpx admin-prohibited");
        });
    }

    fn exempt_sockets(&self, script: &mut Script) {
        let exempt = &self.exempt;
        if let Some(mark) = exempt.mark {
            script.line(2, format_args!("meta mark {mark} return"));
        }
        for (key, ids) in [("skuid", &exempt.uids), ("skgid", &exempt.gids)] {
            if !ids.is_empty() {
                script.line(2, format_args!("meta {key} {{ {} }} return", list(ids)));
            }
        }
    }
}

/// The first packet of a TCP connection. Otherwise, a packet of a connection that is older than the table would look
/// like one to connection tracking, and the connection would end.
const FIRST_PACKET: &str = "tcp flags & (fin | syn | rst | ack) == syn";

impl Whom {
    /// What a packet must match, followed by a space; empty for all.
    ///
    /// It is asked for what matches and not for what does not: a packet of the kernel's own has no socket, and then
    /// neither holds.
    fn expression(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Uids(uids) => format!("meta skuid {{ {} }} ", list(uids)),
            Self::Cgroup(Cgroup { path, level }) => {
                format!("socket cgroupv2 level {level} \"{path}\" ")
            }
        }
    }
}

fn list(items: impl IntoIterator<Item: fmt::Display>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(", ")
}

#[derive(Default)]
struct Script(String);

impl Script {
    fn line(&mut self, depth: usize, line: impl fmt::Display) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{:indent$}{line}", "", indent = depth * 4);
    }

    fn block(&mut self, depth: usize, head: impl fmt::Display, body: impl FnOnce(&mut Self)) {
        self.line(depth, format_args!("{head} {{"));
        body(self);
        self.line(depth, "}");
    }

    fn chain(&mut self, name: &str, hook: &str, body: impl FnOnce(&mut Self)) {
        self.block(1, format_args!("chain {name}"), |script| {
            script.line(2, format_args!("type {hook}; policy accept;"));
            body(script);
        });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    pub(crate) fn rules(whom: Whom) -> Rules {
        Rules {
            table: Table::of(None),
            whom,
            exempt: Exempt {
                uids: [1337].into(),
                ..Exempt::default()
            },
            outbound_port: 15_001,
            inbound_port: 15_006,
            inbound: InboundPorts::Listed([8080, 8443].into()),
            own_ports: [15_000, 15_001, 15_006, 15_008, 15_020].into(),
            mesh_ranges: ranges(&["10.0.0.0/16", "10.0.1.0/24", "fd00::/48"]),
            service_ranges: ranges(&["10.96.0.0/16", "fd96::/112"]),
            stable: vec![STABLE_V4, STABLE_V6],
        }
    }

    /// The lines of a chain.
    fn chain<'s>(script: &'s str, name: &str) -> Vec<&'s str> {
        script
            .lines()
            .skip_while(|line| *line != format!("    chain {name} {{"))
            .skip(1)
            .take_while(|line| *line != "    }")
            .map(str::trim)
            .collect()
    }

    #[test]
    fn the_whole_host() {
        assert_eq!(rules(Whom::All).script(), include_str!("testdata/host.nft"));
    }

    #[test]
    fn one_application_of_several() {
        let mut rules = rules(Whom::Uids([1001, 1002].into()));
        rules.table = Table::of(Some(&DnsLabel::parse("web").unwrap()));
        rules.exempt = Exempt {
            mark: Some(4711),
            gids: [7].into(),
            ports: [25].into(),
            inbound_ports: [8443].into(),
            ranges: ranges(&["192.0.2.0/24"]),
            ..Exempt::default()
        };
        assert_eq!(rules.script(), include_str!("testdata/application.nft"));
    }

    #[test]
    fn a_control_group() {
        let cgroup = Cgroup {
            path: "system.slice/web.service".to_owned(),
            level: 2,
        };
        let script = rules(Whom::Cgroup(cgroup)).script();
        let expression = "socket cgroupv2 level 2 \"system.slice/web.service\"";
        assert!(chain(&script, "outbound")[1].contains(expression));
        assert!(chain(&script, "datagrams")[1].contains(expression));
    }

    #[test]
    fn all_ports_are_captured_but_for_the_sidecars_own_and_those_exempt() {
        let mut rules = rules(Whom::All);
        rules.inbound = InboundPorts::All;
        rules.exempt.inbound_ports = [22].into();
        assert_eq!(
            chain(&rules.script(), "redirect_inbound"),
            [
                "tcp dport { 22, 15000, 15001, 15006, 15008, 15020 } return",
                "meta l4proto tcp counter dnat to :15006",
            ]
        );
        rules.inbound = InboundPorts::Listed(BTreeSet::new());
        assert!(
            chain(&rules.script(), "inbound").is_empty(),
            "an application that only calls others"
        );
    }

    #[test]
    fn the_sidecar_is_let_pass_before_anything_is_captured_or_rejected() {
        let script = rules(Whom::Uids([1001].into())).script();
        for chain_name in ["redirect_outbound", "redirect_neighbours", "reject_datagrams"] {
            assert_eq!(
                chain(&script, chain_name)[0],
                "meta skuid { 1337 } return",
                "{chain_name}"
            );
        }
    }

    #[test]
    fn names_of_tables() {
        let web = DnsLabel::parse("web").unwrap();
        assert_eq!(Table::of(Some(&web)).as_str(), "weft_web");
        for (name, is_ours) in [
            ("weft", true),
            ("weft_web", true),
            ("weftx", false),
            ("lab_weft", false),
        ] {
            assert_eq!(Table::named(name).is_some(), is_ours, "{name}");
        }
    }

    #[test]
    fn the_stable_addresses_are_of_no_network() {
        assert_eq!(STABLE_V4.to_string(), "169.254.255.15");
        assert_eq!(STABLE_V6.to_string(), "fd5e:9a3c:71d4::1");
    }
}
