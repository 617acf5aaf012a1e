//! What can stand between the load and the application.

use crate::Result;
use crate::arguments::Options;
use crate::certificates::Certificates;
use crate::envoy::{self, Envoy};
use crate::ground::{Ground, HTTP_PORT, Layer, Target};
use crate::weft::{self, Door, Traffic, Weft};
use clap::ValueEnum;
use serde::Serialize;
use std::net::SocketAddr;
use weft_lab::process::Process;

/// A way from the load to the application; the order is that of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pair {
    /// No proxies.
    None,
    /// Weft, at the sidecar's own ports.
    Weft,
    /// Weft, with a route and a policy for the service: retries, limits, ejection.
    WeftRouted,
    /// Weft, with transparent capture on both hosts.
    WeftCaptured,
    /// Envoy, HTTP/2 over mutual TLS.
    EnvoyH2,
    /// Envoy, HTTP/3 over mutual TLS.
    EnvoyH3,
    /// Envoy, TCP over mutual TLS.
    EnvoyTcp,
}

impl Pair {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "no proxies",
            Self::Weft => "Weft",
            Self::WeftRouted => "Weft, routed",
            Self::WeftCaptured => "Weft, captured",
            Self::EnvoyH2 => "Envoy HTTP/2 mTLS",
            Self::EnvoyH3 => "Envoy HTTP/3 mTLS",
            Self::EnvoyTcp => "Envoy TCP mTLS",
        }
    }

    fn is_weft(self) -> bool {
        matches!(self, Self::Weft | Self::WeftRouted | Self::WeftCaptured)
    }

    fn is_envoy(self) -> bool {
        matches!(self, Self::EnvoyH2 | Self::EnvoyH3 | Self::EnvoyTcp)
    }
}

/// Everything that is built, fetched or made once for all rounds.
pub(crate) struct Prepared {
    pairs: Vec<Pair>,
    certificates: Certificates,
    weft: Option<Weft>,
    envoy: Option<Envoy>,
}

/// A pair of sidecars that is ready for load.
pub(crate) struct Running {
    pub(crate) targets: Vec<Target>,
    /// Resident memory of the larger sidecar before any load, in bytes.
    pub(crate) idle_rss: Option<u64>,
    sidecars: Vec<Process>,
    check: Option<Box<dyn Fn() -> Result<()>>>,
}

impl Prepared {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let pairs = options.pairs();
        let weft = if pairs.iter().any(|pair| pair.is_weft()) {
            Some(Weft::prepare(options)?)
        } else {
            None
        };
        let envoy = if pairs.iter().any(|pair| pair.is_envoy()) {
            Some(Envoy::prepare(options)?)
        } else {
            None
        };
        Ok(Self {
            pairs,
            certificates: Certificates::make()?,
            weft,
            envoy,
        })
    }

    /// The pairs in the order of a round: each round begins with another one.
    pub(crate) fn pairs_of_round(&self, round: usize) -> impl Iterator<Item = &Pair> {
        let count = self.pairs.len();
        self.pairs.iter().cycle().skip(round % count.max(1)).take(count)
    }

    pub(crate) fn start(&self, pair: Pair, ground: &Ground) -> Result<Running> {
        let mut running = match (pair, &self.weft, &self.envoy) {
            (Pair::Weft, Some(weft), _) => {
                weft.start(ground, &self.certificates, Door::Explicit, Traffic::Plain)?
            }
            (Pair::WeftRouted, Some(weft), _) => {
                weft.start(ground, &self.certificates, Door::Explicit, Traffic::Routed)?
            }
            (Pair::WeftCaptured, Some(weft), _) => {
                weft.start(ground, &self.certificates, Door::Captured, Traffic::Plain)?
            }
            (Pair::EnvoyH2, _, Some(envoy)) => envoy.start(ground, &self.certificates, envoy::Wire::H2)?,
            (Pair::EnvoyH3, _, Some(envoy)) => envoy.start(ground, &self.certificates, envoy::Wire::H3)?,
            (Pair::EnvoyTcp, _, Some(envoy)) => envoy.start(ground, &self.certificates, envoy::Wire::Tcp)?,
            _ => Running::without_sidecars(ground),
        };
        for sidecar in &running.sidecars {
            running.idle_rss = running.idle_rss.max(Some(sidecar.usage()?.rss));
        }
        Ok(running)
    }
}

impl Running {
    pub(crate) fn new(sidecars: Vec<Process>, targets: Vec<Target>) -> Self {
        Self {
            targets,
            idle_rss: None,
            sidecars,
            check: None,
        }
    }

    /// Adds a check for [`Running::verify`].
    pub(crate) fn with_check(mut self, check: impl Fn() -> Result<()> + 'static) -> Self {
        self.check = Some(Box::new(check));
        self
    }

    pub(crate) fn sidecar_pids(&self) -> Vec<u32> {
        self.sidecars.iter().map(Process::pid).collect()
    }

    /// The end of what each sidecar has written.
    pub(crate) fn logs(&self) -> String {
        const LINES: usize = 10;
        let tail = |sidecar: &Process| {
            let lines = sidecar.log();
            let tail = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
            format!("{}:\n{}\n", sidecar.name(), tail.join("\n"))
        };
        self.sidecars.iter().map(tail).collect()
    }

    /// After the load: whether the pair did what its name says.
    pub(crate) fn verify(&self) -> Result<()> {
        self.check.as_ref().map_or(Ok(()), |check| check())
    }

    fn without_sidecars(ground: &Ground) -> Self {
        let address = SocketAddr::new(ground.right_address, HTTP_PORT);
        // The same for both layers; measured once.
        let target = Target {
            layer: Layer::L7,
            address,
            host: weft::SERVICE_HOST.to_owned(),
        };
        Self::new(Vec::new(), vec![target])
    }
}
