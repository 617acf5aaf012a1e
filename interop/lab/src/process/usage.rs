//! What processes and the machine have used, from `/proc` (proc(5)).

use crate::error::{Doing, Error, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::Duration;

/// What a process has used since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time of all its threads, user and system.
    pub cpu: Duration,
    /// Resident memory now, in bytes.
    pub rss: u64,
    /// The most that was ever resident, in bytes.
    pub peak_rss: u64,
}

/// Counters of a network namespace's UDP (RFC 4113 and Linux's own), IPv4 and IPv6 together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Udp {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams dropped because a socket's receive buffer was full.
    pub receive_buffer_errors: u64,
    /// Datagrams not sent because a send buffer was full.
    pub send_buffer_errors: u64,
}

/// CPU time of the whole machine since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine {
    /// Time that a hypervisor gave to others although a process of ours wanted to run.
    pub steal: Duration,
    /// Time in which nothing wanted to run.
    pub idle: Duration,
}

impl Usage {
    /// What process `pid` has used so far.
    ///
    /// # Errors
    /// That there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        Self::read(&format!("/proc/{pid}"))
    }

    /// What this process has used so far, also in a PID namespace whose `/proc` is another's.
    ///
    /// # Errors
    /// That `/proc` is not mounted.
    pub fn own() -> Result<Self> {
        Self::read("/proc/self")
    }

    fn read(directory: &str) -> Result<Self> {
        let stat = read(&format!("{directory}/stat"))?;
        let status = read(&format!("{directory}/status"))?;
        Self::parse(&stat, &status).ok_or_else(|| unreadable(&format!("{directory}/stat")))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The command's name, in parentheses, may contain anything; utime and stime are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(11);
        let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        // A process that has ended but was not reaped has no memory.
        let kibibytes = |key| after(status, key).map_or(0, |value| value * 1024);
        Some(Self {
            cpu: from_ticks(ticks),
            rss: kibibytes("VmRSS:"),
            peak_rss: kibibytes("VmHWM:"),
        })
    }
}

impl Udp {
    /// The counters of the network namespace in which process `pid` is.
    ///
    /// # Errors
    /// That there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let v4 = read(&format!("/proc/{pid}/net/snmp"))?;
        let v6 = read(&format!("/proc/{pid}/net/snmp6")).unwrap_or_default();
        let sum = |name: &str| {
            snmp(&v4, name).unwrap_or_default() + after(&v6, &format!("Udp6{name}")).unwrap_or_default()
        };
        Ok(Self {
            received: sum("InDatagrams"),
            receive_buffer_errors: sum("RcvbufErrors"),
            send_buffer_errors: sum("SndbufErrors"),
        })
    }
}

impl Machine {
    /// The machine's CPU time so far.
    ///
    /// # Errors
    /// That `/proc` is not mounted.
    pub fn now() -> Result<Self> {
        let stat = read("/proc/stat")?;
        let mut fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let mut field = |skip| {
            fields
                .nth(skip)
                .and_then(|ticks| ticks.parse().ok())
                .map(from_ticks)
        };
        // user nice system idle iowait irq softirq steal
        let idle = field(3).ok_or_else(|| unreadable("/proc/stat"))?;
        let steal = field(3).ok_or_else(|| unreadable("/proc/stat"))?;
        Ok(Self { steal, idle })
    }
}

/// Whether the network namespace of process `pid` has a listening TCP socket or a bound UDP socket on `port`.
pub(super) fn has_port(pid: u32, port: u16) -> bool {
    /// `TCP_LISTEN` of the kernel's `tcp_states.h`.
    const LISTEN: &str = "0A";
    let local = format!(":{port:04X}");
    let has = |table: &str, state: Option<&str>| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let is_local = fields.next().is_some_and(|address| address.ends_with(&local));
            is_local && (state.is_none() || fields.nth(1) == state)
        })
    };
    has("tcp", Some(LISTEN)) || has("tcp6", Some(LISTEN)) || has("udp", None) || has("udp6", None)
}

fn from_ticks(ticks: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|rate| u64::try_from(rate).ok());
    Duration::from_micros(ticks * 1_000_000 / per_second.unwrap_or(100).max(1))
}

/// The number after `key` in a text of `key value` lines.
fn after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `/proc/net/snmp` has for each protocol a line of names and a line of values.
fn snmp(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let position = lines.next()?.split_whitespace().position(|field| field == name)?;
    lines.next()?.split_whitespace().nth(position)?.parse().ok()
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).doing(|| format!("read {path}"))
}

fn unreadable(path: &str) -> Error {
    Error::Protocol(format!("{path} is not as proc(5) says"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_does_not_confuse() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 120 30 0 0 20 0 1 0 1 1 1";
        let usage = Usage::parse(stat, "Name:\tx\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n").unwrap();
        assert_eq!(
            usage,
            Usage {
                cpu: from_ticks(150),
                rss: 200 * 1024,
                peak_rss: 300 * 1024
            }
        );
    }

    #[test]
    fn udp_counters_are_found_by_name() {
        let text = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 10 20 30\nUdpLite: RcvbufErrors\nUdpLite: 9\n";
        assert_eq!(snmp(text, "RcvbufErrors"), Some(30));
        assert_eq!(snmp(text, "SndbufErrors"), None);
    }

    #[test]
    fn work_shows_as_cpu_time() {
        let before = Usage::of(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while Usage::of(std::process::id()).unwrap().cpu < before.cpu + Duration::from_millis(30) {
            sum = (0..100_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        assert!(before.rss > 0 && before.peak_rss >= before.rss / 2);
        assert!(Machine::now().unwrap().idle > Duration::ZERO);
    }

    #[test]
    fn a_port_is_seen_without_a_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(has_port(std::process::id(), port));
        listener.set_nonblocking(true).unwrap();
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
        drop(listener);
        assert!(!has_port(std::process::id(), port));
    }
}
