//! Connections that leave their way through the network for another (see [`crate::migrate`]).

use std::{rc::Rc, time::Instant};

use super::Driver;
use crate::{
    connection::Connection,
    migrate::{Remedy, Route},
    sockets::SocketId,
};

impl Driver {
    /// Addresses or routes of this host have changed. Connections that the kernel would now send from another address
    /// move to a new socket: to the old port at the old address there may be state on the way that no longer fits.
    pub(super) fn reroute(&mut self, now: Instant) {
        let newest = self.sockets.newest();
        let Some(socket) = self.sockets.get(newest) else {
            return;
        };
        let rerouted: Vec<_> = self
            .connections
            .values()
            .filter(|connection| connection.is_dialled())
            .filter_map(|connection| {
                // No route: the next change may bring one, and till then there is nowhere to go.
                let route = socket.route(connection.remote())?;
                (connection.route() != Some(route)).then(|| (connection.clone(), route))
            })
            .collect();
        let leaves = |(connection, route): &(Rc<Connection>, Route)| {
            connection.route().is_none_or(|old| old.source != route.source)
        };
        let newest = if rerouted.iter().any(leaves) {
            self.bind_another()
        } else {
            newest
        };
        for (connection, route) in &rerouted {
            connection.on_rerouted(*route, newest, now);
        }
    }

    /// What was sent on a connection is not acknowledged, or it is to be asked whether it still leads anywhere.
    pub(super) fn on_silent(&mut self, connection: &Rc<Connection>, remedy: Remedy, now: Instant) {
        match remedy {
            Remedy::Probe => connection.probe(),
            Remedy::Move => {
                let newest = self.sockets.newest();
                let socket = if connection.socket() == newest {
                    self.bind_another()
                } else {
                    newest
                };
                connection.on_silent_path(socket, now);
            }
        }
    }

    /// Another socket, or the newest if none can be had.
    fn bind_another(&mut self) -> SocketId {
        // What nobody uses any more goes first: the healthy connections on the oldest are not to be moved for it.
        self.close_unused_sockets();
        let surplus = self.sockets.surplus();
        let id = match self.sockets.rebind() {
            Ok(id) => id,
            Err(error) => {
                tracing::warn!(%error, "no other UDP socket can be had; connections stay on the one there is");
                return self.sockets.newest();
            }
        };
        if let Some(surplus) = surplus {
            for connection in self.connections.values() {
                connection.on_socket_closed(surplus, id);
            }
            self.sockets.close_unused(|open| open != surplus);
        }
        tracing::debug!(sockets = self.sockets.count(), "bound another UDP socket");
        id
    }

    pub(super) fn close_unused_sockets(&mut self) {
        let connections = &self.connections;
        self.sockets
            .close_unused(|id| connections.values().any(|connection| connection.uses(id)));
    }
}
