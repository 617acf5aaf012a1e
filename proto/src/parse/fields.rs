//! Fields that several kinds of document have, and the file of a proxy as well.

use super::{duration, moment};
use crate::error::shown;
use crate::model::{AppProtocol, WorkloadPort};
use crate::names::{DnsLabel, Labels, PortName};
use crate::reader::Value;
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The words for what a port speaks. Kubernetes has a name of its own for HTTP/2 without TLS.
const PROTOCOLS: [(&str, AppProtocol); 7] = [
    ("http", AppProtocol::Http),
    ("http2", AppProtocol::Http2),
    ("kubernetes.io/h2c", AppProtocol::Http2),
    ("grpc", AppProtocol::Grpc),
    ("tcp", AppProtocol::Tcp),
    ("udp", AppProtocol::Udp),
    ("tls", AppProtocol::Tls),
];

/// Labels, or a selector: a mapping of label keys to label values.
pub fn labels(value: &Value<'_>) -> Option<Labels> {
    let mut labels = Labels::default();
    value.entries(|key, value| {
        let text = value.string();
        // A key is checked whether or not its value is a string.
        match labels.insert(key, text.unwrap_or_default()) {
            Ok(_) => text.map(|_| ()),
            Err(error) => {
                let wrong = if crate::names::check_label_key(key).is_err() {
                    key
                } else {
                    text.unwrap_or_default()
                };
                value.error(format_args!("{} {error}", shown(wrong)));
                None
            }
        }
    })?;
    Some(labels)
}

/// What a port speaks.
pub fn app_protocol(value: &Value<'_>) -> Option<AppProtocol> {
    value.one_of(&PROTOCOLS)
}

/// The address of one host: neither unspecified, multicast, broadcast nor IPv4-mapped.
pub fn host_address(value: &Value<'_>) -> Option<IpAddr> {
    let address = value.ip_address()?;
    let problem = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "the broadcast address"
    } else {
        return Some(address);
    };
    value.error(format_args!("{address} is {problem}, not that of a host"));
    None
}

/// A length of time (GEP-2257), such as `1m30s`; `0s` is one.
pub fn duration(value: &Value<'_>) -> Option<Duration> {
    value.parse(duration::parse)
}

/// A moment (RFC 3339), such as `2026-01-31T12:00:00Z`, in seconds since 1970.
pub fn timestamp(value: &Value<'_>) -> Option<i64> {
    value.parse(moment::parse)
}

/// A list of at most so many.
pub fn list<'a, T>(
    value: &Value<'a>,
    max: usize,
    mut read: impl FnMut(&Value<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let mut count = 0;
    let items = value.list(|value| {
        count += 1;
        read(value)
    });
    if count > max {
        value.error(format_args!("has {count} entries, more than the {max} allowed"));
    }
    items
}

/// The name of a Service, which begins with a letter.
pub fn service_name(value: &Value<'_>) -> Option<DnsLabel> {
    let label = value.parse(DnsLabel::parse)?;
    if !label.is_rfc1035() {
        value.error(format_args!(
            "{label} begins with a digit: the name of a Service begins with a letter"
        ));
        return None;
    }
    Some(label)
}

/// A list of address ranges, such as `10.0.0.0/8` or `fd00::/8`: without bits of a host, and none twice.
pub fn ranges(value: &Value<'_>) -> Option<Vec<IpNet>> {
    let mut seen = HashSet::new();
    value.list(|value| {
        let range = value.parse(range)?;
        if !seen.insert(range) {
            value.error(format_args!("{range} is in the list already"));
        }
        Some(range)
    })
}

/// The ports that a workload declares: no two with the same number and transport, or the same name.
pub fn workload_ports(value: &Value<'_>) -> Option<Vec<WorkloadPort>> {
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    value.list(|value| {
        value.mapping(|fields| {
            let name = fields.optional("name", |value| {
                let name = value.parse(PortName::parse)?;
                if !names.insert(name.clone()) {
                    value.error(format_args!("the name {name} is in the list already"));
                }
                Some(name)
            });
            let protocol = fields.optional("protocol", app_protocol).unwrap_or_default();
            let port = fields.required("port", |value| {
                let port = value.port()?;
                if !numbers.insert((port, protocol.is_udp())) {
                    value.error(format_args!(
                        "the {} port {port} is in the list already",
                        transport(protocol)
                    ));
                }
                Some(port)
            });
            Some(WorkloadPort {
                name,
                port: port?,
                protocol,
            })
        })
    })
}

/// The transport that a protocol runs over.
pub(super) fn transport(protocol: AppProtocol) -> &'static str {
    if protocol.is_udp() { "UDP" } else { "TCP" }
}

fn range(text: &str) -> Result<IpNet, String> {
    let not_a_range = || "is not an address range, such as 10.0.0.0/8 or fd00::/8".to_owned();
    let (address, length) = text.split_once('/').ok_or_else(not_a_range)?;
    let address: IpAddr = address.parse().map_err(|_| not_a_range())?;
    let is_decimal =
        length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let length: u8 = length
        .parse()
        .ok()
        .filter(|_| is_decimal)
        .ok_or_else(not_a_range)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let range =
        IpNet::new(address, length).map_err(|_| format!("has a prefix of more than {longest} bits"))?;
    if let IpAddr::V6(address) = address
        && address.to_ipv4_mapped().is_some()
    {
        return Err("is a range of IPv4-mapped addresses: write it as IPv4".to_owned());
    }
    if range.trunc() != range {
        return Err(format!("has bits of a host: write {}", range.trunc()));
    }
    Ok(range)
}
