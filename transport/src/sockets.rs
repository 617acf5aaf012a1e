//! The sockets of one driver: normally one. After a move of the dialling side a new one sends, and the one that was
//! left is read until every connection that used it was heard on the new one.

use std::io;

use crate::socket::DatagramSocket;

/// Sockets that a driver keeps at the most. If all of these are in use and another is needed, the connections on the
/// oldest move to it.
const MAX_SOCKETS: usize = 8;

/// Names a socket of a driver, also after it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketId(u32);

/// Binds another socket like the first.
pub(crate) type Rebind = Box<dyn Fn() -> io::Result<Box<dyn DatagramSocket>>>;

/// The open sockets; the newest sends for new connections.
pub(crate) struct Sockets {
    /// Never empty; the newest last.
    open: Vec<(SocketId, Box<dyn DatagramSocket>)>,
    next: u32,
    /// Absent on the listening side, whose peers know its address.
    rebind: Option<Rebind>,
}

impl Sockets {
    pub(crate) fn new(socket: Box<dyn DatagramSocket>, rebind: Option<Rebind>) -> Self {
        Self {
            open: vec![(SocketId(0), socket)],
            next: 1,
            rebind,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    /// The newest.
    pub(crate) fn newest(&self) -> SocketId {
        self.open.last().map_or(SocketId(0), |(id, _)| *id)
    }

    /// The oldest, if there are as many as there may be.
    pub(crate) fn surplus(&self) -> Option<SocketId> {
        let (oldest, _) = self.open.first()?;
        (self.open.len() >= MAX_SOCKETS).then_some(*oldest)
    }

    /// The socket at a place in the list.
    pub(crate) fn at(&mut self, index: usize) -> Option<(SocketId, &mut dyn DatagramSocket)> {
        let (id, socket) = self.open.get_mut(index)?;
        Some((*id, &mut **socket))
    }

    /// The socket `id`, or the newest if it was closed.
    pub(crate) fn get(&mut self, id: SocketId) -> Option<&mut dyn DatagramSocket> {
        let index = self.open.iter().rposition(|(open, _)| *open == id);
        let index = index.unwrap_or(self.open.len().saturating_sub(1));
        self.at(index).map(|(_, socket)| socket)
    }

    /// Binds another, which is the newest from now on.
    ///
    /// # Errors
    /// What the kernel says; those that there are stay.
    pub(crate) fn rebind(&mut self) -> io::Result<SocketId> {
        let Some(rebind) = &self.rebind else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let socket = rebind()?;
        let id = SocketId(self.next);
        self.next = self.next.wrapping_add(1);
        self.open.push((id, socket));
        Ok(id)
    }

    /// Closes those that nobody uses, but never the newest.
    pub(crate) fn close_unused(&mut self, used: impl Fn(SocketId) -> bool) {
        let newest = self.newest();
        self.open.retain(|(id, _)| *id == newest || used(*id));
    }
}
