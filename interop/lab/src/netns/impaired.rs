//! A link between two hosts that a thread of this process runs: one TUN device in each host; what is read from one
//! is written to the other, impaired.
//!
//! The devices are open files of this process: they vanish with it, however it ends. Packets cross one by one, as
//! long as the devices' MTU and not longer: nothing is offloaded.

mod state;
mod wire;

pub use state::{Counters, Direction};

use self::state::State;
use self::wire::{Shared, Wire};
use super::Host;
use super::impairment::Impairment;
use super::nat::{Nat, Rebind};
use super::routes::{LEFT, RIGHT, addresses};
use super::tun::Tun;
use crate::error::{Doing, Error, Result};
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The link's own address, from which it answers as a router.
const ROUTER: u8 = 254;

/// The first address of the NAT; each rebinding to another address takes the next one.
const NAT: u8 = 100;

/// Packets that the kernel keeps for the thread while the other hosts' work keeps it waiting. TUN devices give no
/// back-pressure: what finds no room is dropped before the link, uncounted.
const DEVICE_QUEUE: usize = 4000;

/// What a link is from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImpairedOptions {
    /// The MTU of its devices.
    pub mtu: u32,
    /// The seed of every random decision.
    pub seed: u64,
    /// Whether a NAT is between the hosts: the left one inside, the right one outside.
    pub nat: bool,
}

impl Default for ImpairedOptions {
    fn default() -> Self {
        Self {
            mtu: 1500,
            seed: 0,
            nat: false,
        }
    }
}

/// A link between a left and a right host. It passes every packet, until told otherwise; dropping it takes the
/// devices away.
///
/// Any address may be used on it: what a host routes to the device arrives at the other host. Only multicast does
/// not cross.
#[derive(Debug)]
pub struct ImpairedLink {
    subnet: u8,
    interface: String,
    shared: Arc<Shared>,
    /// Taken on drop.
    thread: Option<JoinHandle<()>>,
}

impl ImpairedLink {
    /// Joins two hosts. Subnets, addresses and names are those of [`super::Link::join`].
    ///
    /// # Errors
    /// [`Error::MissingTun`], or that `ip` is missing.
    pub fn join(left: &Host, right: &Host, subnet: u8, options: ImpairedOptions) -> Result<Self> {
        let interface = format!("weft{subnet}");
        let make = |host: &Host, number| {
            let tun = Tun::create(host, &interface)?;
            host.set_sysctl(&format!("ipv6.conf.{interface}.router_solicitations"), "0")?;
            host.ip(&format!(
                "link set {interface} mtu {} txqueuelen {DEVICE_QUEUE} addrgenmode none",
                options.mtu
            ))?;
            host.bring_up(&interface, addresses(subnet, number))?;
            host.settle(&interface)?;
            Ok::<_, Error>(tun)
        };
        let devices = [make(left, LEFT)?, make(right, RIGHT)?];
        let nat = options.nat.then(|| Nat::new(addresses(subnet, NAT)));
        let state = State::new(options.seed, addresses(subnet, ROUTER), nat);
        let shared = Arc::new(Shared::new(state).doing(|| "make an event descriptor".to_owned())?);
        let wire = Wire::new(devices, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name(interface.clone())
            .spawn(move || wire.run())
            .doing(|| "start a link's thread".to_owned())?;
        Ok(Self {
            subnet,
            interface,
            shared,
            thread: Some(thread),
        })
    }

    /// Its name in both hosts.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The left host's addresses at the beginning, IPv4 and IPv6.
    pub fn left(&self) -> [IpAddr; 2] {
        addresses(self.subnet, LEFT)
    }

    /// The right host's addresses at the beginning, IPv4 and IPv6.
    pub fn right(&self) -> [IpAddr; 2] {
        addresses(self.subnet, RIGHT)
    }

    /// An address of number `host` in the link's subnets, IPv4 and IPv6, for a host to change to: from 3 on, without
    /// 100 to 199, which the NAT takes, and 254, the link's own.
    pub fn address(&self, host: u8) -> [IpAddr; 2] {
        addresses(self.subnet, host)
    }

    /// Changes what happens to the packets that a direction gets from now on. Those on their way are not touched.
    pub fn set(&self, direction: Direction, impairment: Impairment) {
        self.shared.lock().schedule(direction).set(impairment);
    }

    /// Changes both directions.
    pub fn set_both(&self, impairment: Impairment) {
        for direction in Direction::BOTH {
            self.set(direction, impairment);
        }
    }

    /// Drops everything that a direction gets from now on. The hosts see nothing of it: their interfaces stay up.
    pub fn cut(&self, direction: Direction) {
        self.shared.lock().schedule(direction).set_cut(true);
    }

    /// Cuts both directions.
    pub fn cut_both(&self) {
        for direction in Direction::BOTH {
            self.cut(direction);
        }
    }

    /// Ends the cuts of both directions. Other impairments are as they were.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        for direction in Direction::BOTH {
            state.schedule(direction).set_cut(false);
        }
    }

    /// Makes the NAT forget its mappings: the right host sees the left one at other ports from now on, and what it
    /// sends to the old ones is dropped.
    ///
    /// # Errors
    /// That the link has no NAT.
    pub fn rebind(&self, rebind: Rebind) -> Result<()> {
        let mut state = self.shared.lock();
        let nat = state.nat().ok_or_else(no_nat)?;
        let new = match rebind {
            Rebind::Ports => nat.addresses(),
            Rebind::Address => addresses(self.subnet, next_nat_address(nat.addresses())),
        };
        nat.rebind(new);
        Ok(())
    }

    /// Where the right host sees the left one, IPv4 and IPv6.
    ///
    /// # Errors
    /// That the link has no NAT.
    pub fn nat_addresses(&self) -> Result<[IpAddr; 2]> {
        Ok(self.shared.lock().nat().ok_or_else(no_nat)?.addresses())
    }

    /// What has become of the packets of a direction.
    pub fn counters(&self, direction: Direction) -> Counters {
        self.shared.lock().counters(direction)
    }

    /// Waits until the counters of a direction are as `is_reached` wants them.
    ///
    /// # Errors
    /// That they are not after `timeout`.
    pub fn wait_for(
        &self,
        direction: Direction,
        timeout: Duration,
        is_reached: impl Fn(&Counters) -> bool,
    ) -> Result<Counters> {
        let counters = self.shared.wait_for(direction, timeout, &is_reached);
        if is_reached(&counters) {
            return Ok(counters);
        }
        Err(Error::TimedOut {
            name: format!("{}, {direction:?}", self.interface),
            what: "counters as awaited".to_owned(),
            waited: timeout,
            log: format!("{counters:?}"),
        })
    }
}

impl Drop for ImpairedLink {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn no_nat() -> Error {
    Error::Protocol("this link has no NAT: see ImpairedOptions::nat".to_owned())
}

/// The number of the NAT's next address.
fn next_nat_address(now: [IpAddr; 2]) -> u8 {
    const NUMBERS: u8 = 100;
    let number = match now[0] {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => NAT,
    };
    NAT + (number - NAT + 1) % NUMBERS
}
