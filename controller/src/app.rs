//! The wiring of a controller: what is opened in which order, who tells whom, and how it ends.
//!
//! ```text
//! server (port) -> gate (role, rate) -> api::identity -> attest, ca
//!                                    -> api::control  -> push (world, fleet, sessions)
//!                                    -> api::admin    -> catalog, ca, attest, push
//! catalog --publish--> push          ca --roots, renewals--> push          push --registrations--> catalog
//! ```

mod data;
mod trust;

use std::{
    error::Error,
    fs::File,
    io::{self, BufReader, Write},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{future::BoxFuture, stream};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tonic::transport::Server;
use weft_proto::mesh::v1::{
    self as mesh, admin_server::AdminServer, control_server::ControlServer, identity_server::IdentityServer,
};

use crate::unix;
use crate::{
    api::{admin::AdminService, control::ControlService, identity::IdentityService},
    attest::Tokens,
    audit,
    ca::{Authority, Brought, CaOptions},
    catalog::Catalog,
    command::RunArgs,
    fleet::Graces,
    pages::{self, Figures},
    push::{self, Hub},
    server::{self, GateLayer, Proving},
    store::{
        SharedStore,
        redb::{Options as StoreOptions, RedbStore},
    },
};
use data::DataDir;

/// After a restart proxies come back one by one: for so long, those that were there are taken to be there still.
const RESTART_GRACE: Duration = Duration::from_secs(60);
/// When this controller ends, proxies look for another, or for its successor, within this.
const COME_BACK: Duration = Duration::from_secs(2);
/// How long connections may take to end.
const GOODBYES: Duration = Duration::from_secs(2);
/// How often what is too old is thrown away.
const PRUNE: Duration = Duration::from_secs(600);
/// The most bytes of a message of a proxy.
const CONTROL_MESSAGE: usize = 4 * 1024 * 1024;
/// The most bytes of a message of an operator: documents.
const ADMIN_MESSAGE: usize = 17 * 1024 * 1024;
/// The most bytes of a request for a certificate.
const IDENTITY_MESSAGE: usize = 64 * 1024;
/// Calls at a time on one connection.
const CALLS: u32 = 128;
/// Connections that say nothing for so long are asked whether they live, and have as long again to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Runs a controller until it is told to end.
///
/// # Errors
/// It could not start: what is missing, taken, or wrong, and what to do.
pub async fn run(args: RunArgs) -> Result<(), Box<dyn Error>> {
    let data = DataDir::open(&args.data_dir)?;
    let mut ends = Ends::listen()?;
    let redb = RedbStore::open(&data.store(), &StoreOptions::default())?;
    let store: SharedStore = Arc::new(redb.clone());
    let authority = Authority::open(store.clone(), data.path(), ca_options(&args)).await?;
    let (catalog, published) = Catalog::open(store.clone(), args.trust_domain.clone()).await?;
    let catalog = Arc::new(catalog);
    let tokens = Arc::new(Tokens::new(authority.clone()));
    let hub = start_hub(&args, &catalog, &authority).await?;
    let listener = listen(args.listen).await?;
    let address = listener.local_addr()?;
    let pages = listen(args.metrics).await?;
    tokio::spawn(authority.clone().run());
    tokio::spawn(hand_on(published, hub.clone()));
    tokio::spawn(prune(store.clone()));
    let reachable = data::reachable(args.advertise.as_deref(), address);
    data.follow_admin(&authority, &data::local(address), &reachable)
        .await?;
    let services = Services {
        catalog,
        hub: hub.clone(),
        authority: authority.clone(),
        tokens,
        store: store.clone(),
        redb,
    };
    tokio::spawn(pages::serve(pages, Arc::new(services.clone())));
    let serving = tokio::spawn(services.serve(listener, ends.ended.clone())?);
    tracing::info!(%address, trust_domain = %args.trust_domain, "ready");
    ends.wait().await;
    tracing::info!("ending: sidecars go on with what they have");
    hub.stop("the controller ends", COME_BACK).await;
    let _ = tokio::time::timeout(GOODBYES, serving).await;
    Ok(())
}

/// Writes the store of a controller that does not run.
///
/// # Errors
/// It runs, or the store can't be read.
pub fn export(data_dir: &Path, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let data = DataDir::existing(data_dir)?;
    RedbStore::open(&data.store(), &StoreOptions::default())?.export(out)?;
    Ok(())
}

/// Makes the store of a controller of an export.
///
/// # Errors
/// There is one, or the export is no good.
pub fn import(data_dir: &Path, file: &Path) -> Result<(), Box<dyn Error>> {
    let data = DataDir::open(data_dir)?;
    let from = File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let imported = RedbStore::import(&data.store(), &mut BufReader::new(from))?;
    println!(
        "{} keys, as of revision {}",
        imported.entries, imported.revision.0
    );
    Ok(())
}

/// Told once, by a signal.
struct Ends {
    ended: tokio::sync::watch::Receiver<bool>,
}

impl Ends {
    fn listen() -> io::Result<Self> {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (end, ended) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            end.send_replace(true);
        });
        Ok(Self { ended })
    }

    async fn wait(&mut self) {
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

fn ca_options(args: &RunArgs) -> CaOptions {
    let brought = match (&args.ca_root, &args.ca_signer, &args.ca_signer_key) {
        (Some(root), Some(signer), Some(signer_key)) => Some(Brought {
            root: root.clone(),
            signer: signer.clone(),
            signer_key: signer_key.clone(),
        }),
        _ => None,
    };
    CaOptions {
        leaf_lifetime: args.leaf_lifetime,
        renew_grace: args.renew_grace,
        brought,
        ..CaOptions::new(args.trust_domain.clone())
    }
}

async fn start_hub(
    args: &RunArgs,
    catalog: &Arc<Catalog>,
    authority: &Arc<Authority>,
) -> Result<Hub, Box<dyn Error>> {
    let options = push::Options {
        graces: Graces {
            lost: args.endpoint_grace,
            restart: args.endpoint_grace.max(RESTART_GRACE),
        },
        ..push::Options::default()
    };
    let before = catalog.registered().await?;
    let trust = trust::of(authority);
    Ok(Hub::start(options, before, Arc::new(catalog.clone()), trust))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let taken = |error: io::Error| {
        format!("TCP {address}: {error}: is another controller running? (--listen, --metrics)")
    };
    TcpListener::bind(address).await.map_err(taken)
}

/// Changes of documents become news for proxies.
async fn hand_on(mut published: tokio::sync::mpsc::UnboundedReceiver<crate::catalog::Published>, hub: Hub) {
    while let Some(changes) = published.recv().await {
        if hub.publish(changes.revision, changes.changes).await.is_err() {
            return;
        }
    }
}

async fn prune(store: SharedStore) {
    let mut ticks = tokio::time::interval(PRUNE);
    loop {
        ticks.tick().await;
        if let Err(error) = audit::prune(&*store).await {
            tracing::warn!(%error, "the audit could not be shortened");
        }
    }
}

/// All that the calls need.
#[derive(Clone)]
struct Services {
    catalog: Arc<Catalog>,
    hub: Hub,
    authority: Arc<Authority>,
    tokens: Arc<Tokens>,
    store: SharedStore,
    redb: RedbStore,
}

impl Services {
    fn serve(
        &self,
        listener: TcpListener,
        mut ended: tokio::sync::watch::Receiver<bool>,
    ) -> Result<impl Future<Output = ()> + use<>, Box<dyn Error>> {
        let own = self.authority.serving();
        let proving = Proving {
            bundle: trust::verifier(&self.authority),
            own: Arc::new(move |name| own.borrow().choose(name)),
            grace: self.authority.renew_grace(),
        };
        let connections = server::accept(listener, proving)?;
        let connections = stream::unfold(connections, |mut connections| async move {
            Some((connections.recv().await?, connections))
        });
        let redb = self.redb.clone();
        let admin = AdminService {
            catalog: self.catalog.clone(),
            hub: self.hub.clone(),
            authority: self.authority.clone(),
            tokens: self.tokens.clone(),
            store: self.store.clone(),
            export: Arc::new(move |out| redb.export(out).map(drop)),
            started: SystemTime::now(),
        };
        let identity = IdentityService::new(self.authority.clone(), self.tokens.clone());
        let routes = Server::builder()
            .layer(GateLayer {
                limits: Arc::default(),
            })
            .max_concurrent_streams(CALLS)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .add_service(IdentityServer::new(identity).max_decoding_message_size(IDENTITY_MESSAGE))
            .add_service(
                ControlServer::new(ControlService::new(self.hub.clone()))
                    .max_decoding_message_size(CONTROL_MESSAGE),
            )
            .add_service(AdminServer::new(admin).max_decoding_message_size(ADMIN_MESSAGE));
        let served = routes.serve_with_incoming_shutdown(connections, async move {
            let _ = ended.wait_for(|ended| *ended).await;
        });
        Ok(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the port is not served any more");
            }
        })
    }

    async fn fleet(&self) -> mesh::FleetResponse {
        self.hub
            .fleet(mesh::FleetRequest::default())
            .await
            .unwrap_or_default()
    }
}

impl pages::Source for Services {
    fn figures(&self) -> BoxFuture<'_, Figures> {
        Box::pin(async {
            use mesh::proxy_status::State;
            let fleet = self.fleet().await;
            let status = self.authority.status().await.unwrap_or_default();
            let count = |is_so: &dyn Fn(&mesh::ProxyStatus) -> bool| {
                fleet.proxies.iter().filter(|proxy| is_so(proxy)).count() as u64
            };
            let is_connected = |proxy: &mesh::ProxyStatus| proxy.state() == State::Connected;
            let own = self.authority.serving().borrow().not_after();
            Figures {
                connected: count(&is_connected),
                lost: count(&|proxy| proxy.state() == State::Lost),
                behind: count(&|proxy| is_connected(proxy) && !proxy.is_current && proxy.nacked.is_empty()),
                nacked: count(&|proxy| is_connected(proxy) && !proxy.nacked.is_empty()),
                renewals_failing: count(&|proxy| is_connected(proxy) && proxy.renewal_failing_since > 0),
                revision: self.store.revision().0,
                trust_version: status.version,
                root_not_after: status.roots.iter().map(|root| root.not_after).min().unwrap_or(0),
                signer_not_after: status.signer_not_after,
                own_not_after: own.map_or(0, unix::seconds),
                unexpired_leaves: status.unexpired_leaves,
            }
        })
    }

    fn problem(&self) -> BoxFuture<'_, Option<String>> {
        Box::pin(async {
            let own = self.authority.serving().borrow().not_after();
            match own {
                Some(not_after) if not_after > SystemTime::now() => None,
                _ => Some("the controller has no valid certificate of its own".to_owned()),
            }
        })
    }
}
