//! A running proxy looks after its capture: on the control thread, when the kernel tells of a change, and now and then.

use std::{io, time::Duration};

use futures_util::FutureExt;
use rtnetlink::sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use tokio::sync::watch;

use super::{
    host::{self, State},
    rules::Table,
};

/// The multicast groups of nftables' changes (`NFNLGRP_NFTABLES`, 7), and of addresses and routes of both families
/// (rtnetlink(7)), as bits.
const NFTABLES: u32 = 1 << 6;
const ADDRESSES_AND_ROUTES: u32 = 0x10 | 0x40 | 0x100 | 0x400;

/// How often it is looked at without a change: events can be lost, and a control group that vanishes is none.
const REGULARLY: Duration = Duration::from_secs(30);
/// A change comes in many events.
const SETTLE: Duration = Duration::from_millis(50);
/// A look starts a program: not more often than this, whatever happens to the host's routes.
const PAUSE: Duration = Duration::from_secs(1);

/// Read at once; what does not fit is cut off, and not missed.
const MESSAGE: usize = 16 << 10;

/// How the capture of this proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// This proxy relies on none.
    Unused,
    Intact,
    /// It is not in force, and why.
    Broken(&'static str),
}

/// Looks at a capture, then follows it for as long as the result is held.
pub(crate) async fn follow(table: Table) -> watch::Receiver<Health> {
    let health = look(&table, &Health::Unused).await;
    let (sender, receiver) = watch::channel(health);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = keep_looking(&table, &sender) => {}
        }
    });
    receiver
}

/// Of a proxy that relies on no capture.
pub(crate) fn unused() -> watch::Receiver<Health> {
    watch::channel(Health::Unused).1
}

async fn keep_looking(table: &Table, sender: &watch::Sender<Health>) {
    // Without the rights to hear of changes there are none to look either: the regular look says so.
    let mut rules = Events::open(NETLINK_NETFILTER, NFTABLES).ok();
    let mut addresses = Events::open(NETLINK_ROUTE, ADDRESSES_AND_ROUTES).ok();
    loop {
        let changed = async {
            tokio::select! {
                () = next(rules.as_mut()) => {}
                () = next(addresses.as_mut()) => {}
            }
            tokio::time::sleep(SETTLE).await;
        };
        // The time being over is as good as a change.
        let _ = tokio::time::timeout(REGULARLY, changed).await;
        for events in [&mut rules, &mut addresses].into_iter().flatten() {
            events.forget();
        }
        let before = sender.borrow().clone();
        let health = look(table, &before).await;
        sender.send_if_modified(|known| {
            *known != health && {
                *known = health;
                true
            }
        });
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(table: &Table, before: &Health) -> Health {
    let (health, detail) = match host::inspect(table).await {
        Ok(inspection) => match inspection.state {
            State::Intact => (Health::Intact, String::new()),
            State::Missing => (Health::Broken("the capture is missing"), String::new()),
            State::Altered(problems) => (Health::Broken("the capture was altered"), problems.join("; ")),
        },
        Err(error) => (
            Health::Broken("the capture can't be checked: that takes nft and CAP_NET_ADMIN"),
            error.to_string(),
        ),
    };
    match &health {
        Health::Broken(reason) if health != *before => {
            tracing::warn!(%table, detail, "{reason}: what the application sends may not come here");
        }
        Health::Intact if health != *before => tracing::info!(%table, "the capture is in force"),
        Health::Unused | Health::Intact | Health::Broken(_) => {}
    }
    health
}

async fn next(events: Option<&mut Events>) {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// A netlink socket that hears of changes.
struct Events(TokioSocket);

impl Events {
    fn open(protocol: isize, groups: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
        Ok(Self(socket))
    }

    /// What it says does not matter, but that it says something; also that it had more to say than there was room for.
    async fn next(&mut self) {
        let mut buffer = Vec::with_capacity(MESSAGE);
        let _ = self.0.recv(&mut buffer).await;
    }

    /// What has happened till now will be looked at.
    fn forget(&mut self) {
        loop {
            let mut buffer = Vec::with_capacity(MESSAGE);
            match self.0.recv(&mut buffer).now_or_never() {
                Some(Ok(())) => {}
                Some(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}
