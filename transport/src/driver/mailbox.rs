//! How other tasks of the thread reach the driver.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    task::Waker,
};

use quinn_proto::crypto::rustls::QuicServerConfig;
use tokio::sync::oneshot;

use super::Driver;
use crate::{
    connection::Connection,
    credentials::{Credentials, TrustBundle},
    error::DialFailure,
    term::Leaf,
    window::WindowPool,
};

/// Messages after which the tasks' writes are sent without waiting for all tasks to have run. Larger batches no
/// longer save system calls, but a hundred requests in lock-step fall out of the caches, and leave the peer idle
/// while they are worked on.
const EAGER: u32 = 32;

/// See the module.
pub(crate) struct Mailbox {
    pub(super) dirty: RefCell<Vec<Rc<Connection>>>,
    pub(super) commands: RefCell<Vec<Command>>,
    pub(super) waker: RefCell<Option<Waker>>,
    pub(super) shut_down: Cell<bool>,
    local: SocketAddr,
    /// Messages written since the last transmit pass.
    pub(super) written: Cell<u32>,
    pub(super) driver: RefCell<Weak<RefCell<Driver>>>,
    windows: Rc<WindowPool>,
}

pub(crate) enum Command {
    /// Starts a connection; it is answered at once, before any packet has left.
    Dial {
        remote: SocketAddr,
        crypto: Arc<dyn quinn_proto::crypto::ClientConfig>,
        /// The leaf that `crypto` shows.
        own: Leaf,
        reply: oneshot::Sender<Result<Rc<Connection>, DialFailure>>,
    },
    /// Addresses or routes of this host have changed: connections that they lead elsewhere move.
    Reroute,
    /// Replaces the credentials of the listener. If its leaf is another, its peers are asked to dial anew.
    Serve(Arc<QuicServerConfig>, Credentials),
    /// Peers whose roots are not among these are no longer trusted.
    Trust(Arc<TrustBundle>),
    /// GOAWAY on every connection, and none is taken any more.
    Drain,
    /// Ends every connection now.
    Close,
    /// Asks for all connections.
    Connections(oneshot::Sender<Vec<Rc<Connection>>>),
}

impl Mailbox {
    pub(super) fn new(local: SocketAddr) -> Rc<Self> {
        Rc::new(Self {
            dirty: RefCell::default(),
            commands: RefCell::default(),
            waker: RefCell::default(),
            shut_down: Cell::new(false),
            local,
            written: Cell::new(0),
            driver: RefCell::default(),
            windows: Rc::default(),
        })
    }

    /// A task has written all that it has for now. Sends at once if many have: see [`EAGER`].
    pub(crate) fn on_written(&self) {
        self.written.set(self.written.get() + 1);
        if self.written.get() < EAGER {
            return;
        }
        let driver = self.driver.borrow().upgrade();
        if let Some(driver) = &driver
            && let Ok(mut driver) = driver.try_borrow_mut()
        {
            driver.transmit_early();
        }
    }

    /// What the connections share for what they send.
    pub(crate) fn windows(&self) -> Rc<WindowPool> {
        self.windows.clone()
    }

    /// The address of the socket.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn command(&self, command: Command) {
        self.commands.borrow_mut().push(command);
        self.wake();
    }

    /// `connection` has something to send, or events to hand out.
    pub(crate) fn push_dirty(&self, connection: Rc<Connection>) {
        self.dirty.borrow_mut().push(connection);
        self.wake();
    }

    /// Every connection there is.
    pub(crate) async fn connections(&self) -> Vec<Rc<Connection>> {
        let (reply, connections) = oneshot::channel();
        self.command(Command::Connections(reply));
        connections.await.unwrap_or_default()
    }

    /// Ends the driver once its connections are gone.
    pub(crate) fn shut_down(&self) {
        self.shut_down.set(true);
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}
