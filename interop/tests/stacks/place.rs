//! Which stack stands on the other side, in which direction, and the two ends joined.

use std::{fmt, rc::Rc};

use weft_lab::certificates::Authority;

use crate::{
    aioquic,
    call::{Call, Outcome, Seen},
    envoy, h3_quinn, ours,
};

/// A stack that we did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    H3Quinn,
    Aioquic,
    Envoy,
}

/// Which end is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Our dialler calls their server.
    Dial,
    /// Their client calls our listener.
    Listen,
}

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) stack: Stack,
    pub(crate) direction: Direction,
}

/// Who a workload is and whom it believes.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) authority: Rc<Authority>,
    pub(crate) account: &'static str,
    /// Certificates of authorities, PEM.
    pub(crate) believes: String,
    /// Whether it shows its certificate.
    pub(crate) shows: bool,
}

/// Both ends.
pub(crate) struct Link {
    pub(crate) place: Place,
    pub(crate) client: Client,
    pub(crate) server: Server,
}

pub(crate) enum Client {
    Ours(ours::Client),
    H3Quinn(h3_quinn::Client),
    Aioquic(aioquic::Client),
    Envoy(envoy::Client),
}

pub(crate) enum Server {
    Ours(ours::Server),
    H3Quinn(h3_quinn::Server),
    Aioquic(aioquic::Server),
    Envoy(envoy::Server),
}

/// Which requests a GOAWAY of theirs leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GoAway {
    /// Those that are still to come.
    NewOnes,
    /// Also the last that came.
    TheLast,
}

impl Stack {
    pub(crate) const ALL: [Self; 3] = [Self::H3Quinn, Self::Aioquic, Self::Envoy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H3Quinn => "h3 0.0.8 on quinn",
            Self::Aioquic => "aioquic 1.7.2",
            Self::Envoy => "Envoy 1.40.0",
        }
    }
}

impl Place {
    pub(crate) fn all() -> Vec<Self> {
        let directions = [Direction::Dial, Direction::Listen];
        let of_stack = |stack| directions.map(|direction| Self { stack, direction });
        Stack::ALL.into_iter().flat_map(of_stack).collect()
    }

    /// Joins the ends, with certificates of one trust domain.
    pub(crate) async fn link(self) -> Link {
        let mesh = Identity::of_mesh("example.org");
        self.link_of(&mesh("client"), &mesh("server")).await
    }

    pub(crate) async fn link_of(self, client: &Identity, server: &Identity) -> Link {
        let server_id = server.id();
        let (client, server) = match (self.direction, self.stack) {
            (Direction::Dial, stack) => {
                let server = Server::theirs(stack, client, server).await;
                let client = ours::Client::dial(client, server.address(), &server_id);
                (Client::Ours(client), server)
            }
            (Direction::Listen, stack) => {
                let ours = ours::Server::listen(server);
                let client = Client::theirs(stack, client, server, ours.address).await;
                (client, Server::Ours(ours))
            }
        };
        Link {
            place: self,
            client,
            server,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.stack.name();
        match self.direction {
            Direction::Dial => write!(f, "we dial {name}"),
            Direction::Listen => write!(f, "{name} dials us"),
        }
    }
}

impl Identity {
    /// Workloads of a trust domain of their own.
    pub(crate) fn of_mesh(trust_domain: &str) -> impl Fn(&'static str) -> Self {
        let authority = Rc::new(Authority::new(trust_domain).unwrap());
        move |account| Self {
            authority: authority.clone(),
            account,
            believes: authority.pem().to_owned(),
            shows: true,
        }
    }

    pub(crate) fn id(&self) -> String {
        self.authority.id(self.account)
    }
}

impl Link {
    /// Makes a request.
    pub(crate) async fn call(&self, call: Call) -> Outcome {
        match &self.client {
            Client::Ours(client) => client.call(call).await,
            Client::H3Quinn(client) => client.call(call).await,
            Client::Aioquic(client) => client.call(call).await,
            Client::Envoy(client) => client.call(call).await,
        }
    }

    /// What the server's application saw of a request; in the order in which they ended.
    pub(crate) async fn seen(&mut self) -> Seen {
        let seen = match &mut self.server {
            Server::Ours(server) => server.seen.recv().await,
            Server::H3Quinn(server) => server.seen.recv().await,
            Server::Aioquic(server) => server.peer.seen.recv().await,
            Server::Envoy(server) => server.seen.recv().await,
        };
        seen.unwrap()
    }

    /// That the application saw nothing, up to now.
    pub(crate) fn assert_unseen(&mut self) {
        let seen = match &mut self.server {
            Server::Ours(server) => server.seen.try_recv(),
            Server::H3Quinn(server) => server.seen.try_recv(),
            Server::Aioquic(server) => server.peer.seen.try_recv(),
            Server::Envoy(server) => server.seen.try_recv(),
        };
        assert!(seen.is_err(), "the application was called: {seen:?}");
    }

    /// Lets a request to `/hold` go on.
    pub(crate) async fn release(&self) {
        match &self.server {
            Server::Ours(server) => server.gate.open(),
            Server::H3Quinn(server) => server.gate().open(),
            Server::Aioquic(server) => server.release().await,
            Server::Envoy(server) => server.gate.open(),
        }
    }

    /// Waits until a request to `/hold` has come to the application.
    pub(crate) async fn someone_waits(&self) {
        match &self.server {
            Server::Ours(server) => server.gate.someone().await,
            Server::H3Quinn(server) => server.gate().someone().await,
            Server::Aioquic(server) => server.someone_waits().await,
            Server::Envoy(server) => server.gate.someone().await,
        }
    }

    /// Makes the server say GOAWAY. Ours always lets finish what it took.
    pub(crate) async fn go_away(&self, which: GoAway) {
        match &self.server {
            Server::Ours(server) => server.go_away(),
            Server::H3Quinn(server) => server.go_away(),
            Server::Aioquic(server) => server.go_away(which).await,
            Server::Envoy(server) => server.go_away().await,
        }
    }

    /// That the connection is as good as new, and still the same.
    pub(crate) async fn assert_well(&self) {
        self.call(Call::get("/hello")).await.assert_is(200, b"hello");
        if let Client::Ours(client) = &self.client {
            assert_eq!(client.connections(), 1, "on the same connection");
        }
    }
}

impl Client {
    async fn theirs(
        stack: Stack,
        client: &Identity,
        server: &Identity,
        address: std::net::SocketAddr,
    ) -> Self {
        match stack {
            Stack::H3Quinn => Self::H3Quinn(h3_quinn::Client::connect(client, address).await),
            Stack::Aioquic => Self::Aioquic(aioquic::Client::start(client, address).await),
            Stack::Envoy => Self::Envoy(envoy::Client::start(client, server, address).await),
        }
    }
}

impl Server {
    async fn theirs(stack: Stack, client: &Identity, server: &Identity) -> Self {
        match stack {
            Stack::H3Quinn => Self::H3Quinn(h3_quinn::Server::listen(server)),
            Stack::Aioquic => Self::Aioquic(aioquic::Server::start(server).await),
            Stack::Envoy => Self::Envoy(envoy::Server::start(client, server).await),
        }
    }

    fn address(&self) -> std::net::SocketAddr {
        match self {
            Self::Ours(server) => server.address,
            Self::H3Quinn(server) => server.address,
            Self::Aioquic(server) => server.address,
            Self::Envoy(server) => server.address,
        }
    }
}
