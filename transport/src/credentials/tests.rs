//! Handshakes of quinn-proto with our TLS.

use std::{
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use quinn_proto::{
    ClientConfig as QuicClient, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Endpoint,
    EndpointConfig, Event, ServerConfig as QuicServer,
};
use rustls::Error;
use rustls_pki_types::CertificateDer;

use super::{testing::Authority, *};

fn silent() -> OnRefusal {
    Arc::new(|_| {})
}

fn two() -> (Credentials, Credentials) {
    let authority = Authority::new("mesh.test");
    (
        authority.credentials("default", "client"),
        authority.credentials("default", "web"),
    )
}

/// Two quinn-proto endpoints joined in memory, in virtual time.
struct Quic {
    now: Instant,
    dialler: (Endpoint, ConnectionHandle, Connection),
    listener: (Endpoint, Option<(ConnectionHandle, Connection)>),
}

impl Quic {
    fn dial(dial: &QuicDial, listen: Arc<QuicServerConfig>) -> Self {
        let now = Instant::now();
        let config = Arc::new(EndpointConfig::default());
        let mut dialler = Endpoint::new(config.clone(), None, true, None);
        let server = Arc::new(QuicServer::with_crypto(listen));
        let listener = Endpoint::new(config, Some(server), true, None);
        let client = QuicClient::new(dial.config.clone());
        let (handle, connection) = dialler.connect(now, client, Self::LISTENER, SERVER_NAME).unwrap();
        Self {
            now,
            dialler: (dialler, handle, connection),
            listener: (listener, None),
        }
    }

    const DIALLER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const LISTENER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

    /// Carries datagrams until neither end sends, and returns how each connection ended.
    fn run(&mut self) -> (Option<ConnectionError>, Option<ConnectionError>) {
        let (mut dialler_lost, mut listener_lost) = (None, None);
        loop {
            self.now += Duration::from_millis(1);
            let (endpoint, handle, connection) = &mut self.dialler;
            settle(endpoint, *handle, connection, &mut dialler_lost);
            let sent = transmit(connection, self.now);
            for datagram in &sent {
                self.arrive_at_listener(datagram);
            }
            let mut answered = Vec::new();
            if let (endpoint, Some((handle, connection))) = &mut self.listener {
                settle(endpoint, *handle, connection, &mut listener_lost);
                answered = transmit(connection, self.now);
            }
            let (endpoint, _, connection) = &mut self.dialler;
            for datagram in &answered {
                let datagram = datagram.as_slice().into();
                let event = endpoint.handle(self.now, Self::LISTENER, None, None, datagram, &mut Vec::new());
                if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                    connection.handle_event(event);
                }
            }
            if sent.is_empty() && answered.is_empty() {
                return (dialler_lost, listener_lost);
            }
        }
    }

    fn arrive_at_listener(&mut self, datagram: &[u8]) {
        let (endpoint, slot) = &mut self.listener;
        match endpoint.handle(
            self.now,
            Self::DIALLER,
            None,
            None,
            datagram.into(),
            &mut Vec::new(),
        ) {
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = endpoint.accept(incoming, self.now, &mut Vec::new(), None);
                *slot = Some(accepted.map_err(|error| error.cause).unwrap());
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => slot.as_mut().unwrap().1.handle_event(event),
            Some(_) | None => {}
        }
    }
}

fn settle(
    endpoint: &mut Endpoint,
    handle: ConnectionHandle,
    connection: &mut Connection,
    lost: &mut Option<ConnectionError>,
) {
    while let Some(event) = connection.poll_endpoint_events() {
        if let Some(event) = endpoint.handle_event(handle, event) {
            connection.handle_event(event);
        }
    }
    while let Some(event) = connection.poll() {
        if let Event::ConnectionLost { reason } = event {
            *lost = Some(reason);
        }
    }
}

fn transmit(connection: &mut Connection, now: Instant) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    let mut buffer = Vec::new();
    while connection.poll_transmit(now, 1, &mut buffer).is_some() {
        datagrams.push(std::mem::take(&mut buffer));
    }
    datagrams
}

#[test]
fn quic_carries_the_handshake_and_both_identities() {
    let (ours, web) = two();
    let dial = quic_client(&ours, web.svid().id()).unwrap();
    let mut quic = Quic::dial(&dial, quic_server(&web, silent()).unwrap());
    let (dialler, listener) = quic.run();
    assert!(
        dialler.is_none() && listener.is_none(),
        "{dialler:?} {listener:?}"
    );
    let identity = |connection: &Connection| {
        let chain = connection.crypto_session().peer_identity().unwrap();
        crate::verify::peer_identity(chain.downcast_ref::<Vec<CertificateDer<'static>>>().unwrap())
            .unwrap()
            .id
    };
    assert_eq!(&identity(&quic.dialler.2), web.svid().id());
    assert_eq!(&identity(&quic.listener.1.as_ref().unwrap().1), ours.svid().id());
    assert_eq!(dial.refusal.get(), None);
}

#[test]
fn a_refusal_in_quic_is_known_here_and_hidden_from_the_peer() {
    let (ours, web) = two();
    // The text that quinn-proto sends as the reason phrase is the same for all (see refusal.rs).
    let any_refusal = Error::from(Refusal::Malformed).to_string();
    let dial = quic_client(&ours, ours.svid().id()).unwrap();
    let (dialler, listener) = Quic::dial(&dial, quic_server(&web, silent()).unwrap()).run();
    assert_eq!(dial.refusal.get(), Some(&Refusal::WrongIdentity));
    let Some(ConnectionError::TransportError(error)) = dialler else {
        panic!("{dialler:?}")
    };
    assert_eq!(u64::from(error.code), 0x100 + 46, "certificate_unknown");
    let Some(ConnectionError::ConnectionClosed(close)) = listener else {
        panic!("{listener:?}")
    };
    assert_eq!(&close.reason[..], any_refusal.as_bytes());

    // A dialler of a strange authority with names like ours, who does not care whom it meets.
    let stranger = Authority::new("stranger.test").credentials("default", "client");
    let trusting = Credentials::unchecked(stranger.svid().clone(), ours.bundle().clone());
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = told.clone();
    let listen = quic_server(&web, Arc::new(move |refusal| hook.lock().unwrap().push(refusal))).unwrap();
    let dial = quic_client(&trusting, web.svid().id()).unwrap();
    let (dialler, listener) = Quic::dial(&dial, listen).run();
    assert_eq!(*told.lock().unwrap(), [Refusal::UnknownAuthority]);
    assert!(
        matches!(listener, Some(ConnectionError::TransportError(_))),
        "{listener:?}"
    );
    let Some(ConnectionError::ConnectionClosed(close)) = dialler else {
        panic!("{dialler:?}")
    };
    assert_eq!(&close.reason[..], any_refusal.as_bytes());
}
