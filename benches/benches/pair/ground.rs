//! The ground that every pair is measured on: two hosts, the applications on the right one, and the load, which
//! is started on the left one.

use crate::Result;
use crate::arguments::Options;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use weft_lab::load::Report;
use weft_lab::netns::{Host, Link, LinkOptions};
use weft_lab::process::{Machine, Process, Ready};

/// How long a process may take to become ready on a busy machine.
pub(crate) const STARTUP: Duration = Duration::from_secs(30);

/// The application for L7, and a second one for L4, so that one sidecar can tell them by their port.
pub(crate) const HTTP_PORT: u16 = 8080;
pub(crate) const TCP_PORT: u16 = 8081;

/// The application's name, which its answers contain.
const APPLICATION: &str = "web";

/// Applications and load of one measurement.
const SUBNET: u8 = 1;

/// More than a measurement lasts, on any machine.
const LOAD_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) struct Ground {
    pub(crate) left: Host,
    pub(crate) right: Host,
    pub(crate) left_address: IpAddr,
    pub(crate) right_address: IpAddr,
    /// For configuration files.
    pub(crate) directory: TempDir,
    _link: Link,
    _applications: Vec<Process>,
}

/// Whether sidecars understand what they carry. The load is HTTP/1.1 in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Layer {
    L7,
    L4,
}

/// Where to send the load.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) layer: Layer,
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    Small,
    Bulk,
}

/// A load's report, and what the machine did meanwhile.
pub(crate) struct Load {
    pub(crate) report: Report,
    /// The part of the machine's time that a hypervisor gave to others.
    pub(crate) steal: f64,
}

impl Ground {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let (left, right) = (Host::new("left")?, Host::new("right")?);
        let is_lossy = options.loss > 0.0;
        let link_options = LinkOptions {
            mtu: options.mtu,
            offloads: !is_lossy,
            drop_permille: permille(options.loss),
        };
        let link = Link::join(&left, &right, SUBNET, link_options)?;
        let applications = [HTTP_PORT, TCP_PORT].map(|port| {
            let mut command = itself(&right)?;
            let listen = format!("{}:{port}", Ipv4Addr::UNSPECIFIED);
            command.args(["services", "instant", "--name", APPLICATION, "--listen", &listen]);
            Ok(Process::spawn_ready(
                "application",
                command,
                &Ready::Port(port),
                STARTUP,
            )?)
        });
        let applications = applications.into_iter().collect::<Result<_>>()?;
        let ([left_address, _], [right_address, _]) = (link.left(), link.right());
        let directory = tempfile::tempdir()?;
        Ok(Self {
            left,
            right,
            left_address,
            right_address,
            directory,
            _link: link,
            _applications: applications,
        })
    }

    /// Puts load on `target` from the left host, while watching the sidecars.
    pub(crate) fn load(
        &self,
        options: &Options,
        target: &Target,
        work: Work,
        connections: usize,
        watch: &[u32],
    ) -> Result<Load> {
        let mut command = itself(&self.left)?;
        command.args([
            "load",
            if matches!(work, Work::Bulk) {
                "bulk"
            } else {
                "http"
            },
        ]);
        command.args(["--target", &target.address.to_string(), "--host", &target.host]);
        command.args(["--connections", &connections.to_string(), "--output", "json"]);
        match work {
            Work::Small => {
                command.args(["--expect", APPLICATION, "--warmup", &options.warmup().to_string()]);
                command.args(["--duration", &options.duration().to_string()]);
            }
            Work::Bulk => {
                let downloads = connections.to_string();
                command.args(["--size", &options.bulk_bytes().to_string(), "--count", &downloads]);
            }
        }
        for pid in watch {
            command.args(["--watch", &pid.to_string()]);
        }
        let before = Machine::now()?;
        let started = std::time::Instant::now();
        let mut process = Process::spawn("load", command)?;
        process.wait(LOAD_TIMEOUT)?;
        let elapsed = started.elapsed() * u32::try_from(std::thread::available_parallelism()?.get())?;
        let steal = Machine::now()?.steal.saturating_sub(before.steal);
        // The log is read by a thread, which may be behind.
        let line = process.wait_line("{", Duration::from_secs(1))?;
        let report = serde_json::from_str(&line)?;
        Ok(Load {
            report,
            steal: steal.as_secs_f64() / elapsed.as_secs_f64(),
        })
    }
}

/// This executable, as the laboratory, in a host.
fn itself(host: &Host) -> Result<Command> {
    let mut command = host.command(std::env::current_exe()?);
    command.arg("lab");
    Ok(command)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn permille(percent: f64) -> u16 {
    (percent * 10.0).round().clamp(0.0, 1000.0) as u16
}
