//! What one worker thread owns. Everything of a connection stays on its worker.

use std::{
    cell::{Cell, RefCell, RefMut},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use http::request::Parts;
use rand::rngs::SmallRng;
use weft_proto::SpiffeId;
use weft_transport::Pool;

use crate::{
    body::InboundBody,
    capture::{OutgoingSockets, OwnListeners},
    demand::Demand,
    drain::{Drain, LocalDrain},
    local::{HttpVersion, connect::Connector, pool::AppPool},
    outbound::Spoken,
    plain::OutsideBody,
    resolve::Resolved,
    snapshot::Snapshot,
    telemetry::{Direction, Protocol, Record, WorkerSink},
};

/// Shared by all tasks of one worker.
pub(crate) struct Worker {
    pub(crate) snapshot: RefCell<Arc<Snapshot>>,
    /// Whom to ask for what the snapshot does not know, if there is somebody.
    pub(crate) demand: Option<Demand>,
    /// What the DNS said of hosts outside.
    pub(crate) outside_hosts: RefCell<Resolved>,
    /// To the peers.
    pub(crate) pool: Pool,
    /// To our application, for HTTP.
    pub(crate) apps: AppPool<InboundBody>,
    /// To our application, for bytes.
    pub(crate) app_connector: Connector,
    /// To our application, for HTTP that did not come through the mesh.
    pub(crate) direct: AppPool<OutsideBody>,
    /// Out of the mesh, for HTTP.
    pub(crate) outside: AppPool<OutsideBody>,
    /// Out of the mesh, for bytes.
    pub(crate) outside_connector: Connector,
    pub(crate) transport_config: Arc<weft_transport::Config>,
    pub(crate) listeners: OwnListeners,
    pub(crate) outgoing: OutgoingSockets,
    pub(crate) rng: RefCell<SmallRng>,
    pub(crate) sink: Rc<WorkerSink>,
    /// How many copies of requests are under way.
    pub(crate) mirrors: Cell<usize>,
    /// What ports without a declared protocol spoke before.
    pub(crate) spoken: RefCell<Spoken>,
    pub(crate) draining: LocalDrain,
    /// What is under way: a drain waits for it.
    pub(crate) drain: Drain,
}

impl Worker {
    /// The snapshot that a request uses from its beginning to its end.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    pub(crate) fn rng(&self) -> RefMut<'_, SmallRng> {
        self.rng.borrow_mut()
    }

    /// The record of a request of the application.
    pub(crate) fn begin_record(&self, head: &Parts, version: HttpVersion) -> Record {
        let mut record = Record::begin(self.sink.clone(), Direction::Outbound, version.into());
        record.set_parts(head);
        record
    }

    /// The record of a tunnel of the application.
    pub(crate) fn begin_tunnel(&self) -> Record {
        Record::begin(self.sink.clone(), Direction::Outbound, Protocol::Tcp)
    }

    /// The record of a request or connection for the application that did not come through the mesh.
    pub(crate) fn begin_direct(&self, protocol: Protocol) -> Record {
        Record::begin(self.sink.clone(), Direction::Inbound, protocol)
    }

    /// The record of a request or tunnel of a peer.
    pub(crate) fn begin_inbound(&self, caller: &SpiffeId, remote: SocketAddr) -> Record {
        let mut record = Record::begin(self.sink.clone(), Direction::Inbound, Protocol::Http1);
        record.set_caller(caller, remote);
        record
    }

    /// Runs what outlives the request that began it. A drain waits for it, up to its deadline.
    pub(crate) fn spawn_tunnel(&self, tunnel: impl Future<Output = ()> + 'static) {
        let under_way = self.drain.enter();
        tokio::task::spawn_local(async move {
            tunnel.await;
            drop(under_way);
        });
    }
}
