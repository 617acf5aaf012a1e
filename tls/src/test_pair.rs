//! A TLS client and server joined in memory, for tests.

use std::sync::Arc;

use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, Error, ServerConfig, ServerConnection, SideData,
};
use rustls_pki_types::ServerName;

use crate::credentials::SERVER_NAME;

/// Both ends after a handshake was driven as far as it goes.
pub(crate) struct Pair {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    /// The first error of each end.
    pub(crate) client_error: Option<Error>,
    pub(crate) server_error: Option<Error>,
}

impl Pair {
    /// Drives a handshake until both ends have nothing more to say.
    pub(crate) fn handshake(client: ClientConfig, server: ServerConfig) -> Self {
        Self::handshake_shared(&Arc::new(client), &Arc::new(server))
    }

    /// The same with configurations that are used again.
    pub(crate) fn handshake_shared(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Self {
        Self::handshake_with(client, server, SERVER_NAME.try_into().unwrap())
    }

    /// The same for a server name.
    pub(crate) fn handshake_with(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
        name: ServerName<'static>,
    ) -> Self {
        let mut pair = Self {
            client: ClientConnection::new(client.clone(), name).unwrap(),
            server: ServerConnection::new(server.clone()).unwrap(),
            client_error: None,
            server_error: None,
        };
        while pair.client.wants_write() || pair.server.wants_write() {
            transfer(&mut pair.client, &mut pair.server, &mut pair.server_error);
            transfer(&mut pair.server, &mut pair.client, &mut pair.client_error);
        }
        pair
    }

    /// Whether both ends take the handshake for complete.
    pub(crate) fn complete(&self) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && !self.client.is_handshaking()
            && !self.server.is_handshaking()
    }
}

fn transfer<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    error: &mut Option<Error>,
) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut unread = bytes.as_slice();
    while !unread.is_empty() && error.is_none() {
        to.read_tls(&mut unread).unwrap();
        *error = to.process_new_packets().err();
    }
}
