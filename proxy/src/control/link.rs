//! The stream to a controller: made, lost, and made again; and the pure decision when.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use rand::Rng;
use rustls_pki_types::ServerName;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tonic::Streaming;
use weft_proto::mesh::v1::{
    self as mesh, control_client::ControlClient, controller_message, proxy_message::Message,
};
use weft_tls::{Credentials, credentials::SERVER_NAME, grpc};

use super::dial::{CallError, controller_id, dial};

/// How long the controller may take to accept the stream.
const ACCEPT: Duration = Duration::from_secs(5);
/// How long it may be silent before it said how often it is heard.
const FIRST_SILENCE: Duration = Duration::from_secs(10);
/// Heartbeats that may be missing.
const MISSED: u32 = 3;
/// The shortest and the longest silence that is believed of a controller.
const SILENCE: std::ops::RangeInclusive<Duration> = Duration::from_millis(300)..=Duration::from_secs(60);
/// The first pause after a stream was lost, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest that a controller may send this proxy away for.
const LONGEST_AWAY: Duration = Duration::from_secs(60);
/// The largest message: an update of the controller's size, and a document that is larger alone.
const MAX_MESSAGE: usize = 8 << 20;
/// Messages on their way to a controller. It reads a few hundred a second of one proxy.
const OUTGOING: usize = 256;

/// When to try again.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The stream was good.
    pub(crate) fn on_success(&mut self) {
        self.failures = 0;
    }

    /// It was lost, or could not be made: how long to wait. `away` is what the controller asked for.
    pub(crate) fn on_failure(&mut self, away: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let longest = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        // All proxies of a controller lose it at the same moment.
        let own = longest.mul_f64(rng.random_range(0.5..1.0));
        match away {
            Some(away) => own.max(away.min(LONGEST_AWAY).mul_f64(rng.random_range(1.0..1.5))),
            None => own,
        }
    }
}

/// A stream.
pub(crate) struct Live {
    pub(crate) address: String,
    pub(crate) out: mpsc::Sender<mesh::ProxyMessage>,
    incoming: Streaming<mesh::ControllerMessage>,
    heard: Instant,
    silence: Duration,
}

impl Live {
    /// How often it is heard, from its welcome.
    pub(crate) fn set_heartbeat(&mut self, heartbeat: Duration) {
        self.silence = heartbeat
            .saturating_mul(MISSED)
            .clamp(*SILENCE.start(), *SILENCE.end());
    }

    /// Sends a message; whether there was room for it.
    pub(crate) fn send(&self, message: Message) -> bool {
        let message = mesh::ProxyMessage {
            message: Some(message),
        };
        self.out.try_send(message).is_ok()
    }

    /// The next message. Nothing is lost if this is dropped before.
    async fn next(&mut self) -> Result<controller_message::Message, CallError> {
        loop {
            let lost = |why: String| CallError {
                address: self.address.clone(),
                why,
                refused: false,
            };
            match timeout_at(self.heard + self.silence, self.incoming.message()).await {
                Ok(Ok(Some(message))) => {
                    self.heard = Instant::now();
                    // One of a kind that this version does not know says nothing to it, but that somebody is there.
                    if let Some(message) = message.message {
                        return Ok(message);
                    }
                }
                Ok(Ok(None)) => return Err(lost("it ended the stream".to_owned())),
                Ok(Err(status)) => return Err(CallError::of(&self.address, &status)),
                Err(_) => return Err(lost(format!("it is silent for {:?}", self.silence))),
            }
        }
    }
}

/// Where the stream stands.
pub(crate) enum Link {
    /// It is made again at this time.
    Waiting(Instant),
    Connecting(Pin<Box<dyn Future<Output = Result<Live, CallError>> + Send>>),
    Live(Box<Live>),
}

/// What happens to it.
pub(crate) enum Event {
    /// It is time to make one.
    Due,
    /// One is made.
    Connected(Box<Live>),
    Message(controller_message::Message),
    /// It is lost, or could not be made.
    Lost(CallError),
}

impl Link {
    /// The next event. Nothing is lost if this is dropped before.
    pub(crate) async fn next(&mut self) -> Event {
        match self {
            Self::Waiting(until) => {
                sleep_until(*until).await;
                Event::Due
            }
            Self::Connecting(connecting) => match connecting.as_mut().await {
                Ok(live) => Event::Connected(Box::new(live)),
                Err(error) => Event::Lost(error),
            },
            Self::Live(live) => match live.next().await {
                Ok(message) => Event::Message(message),
                Err(error) => Event::Lost(error),
            },
        }
    }

    /// The stream, if there is one.
    pub(crate) fn live(&mut self) -> Option<&mut Live> {
        match self {
            Self::Live(live) => Some(live),
            Self::Waiting(_) | Self::Connecting(_) => None,
        }
    }
}

/// Connects, and says hello. `hello` is given the address that the connection comes from.
///
/// # Errors
/// The controller is not reachable, not who it should be, or does not accept us.
pub(crate) async fn connect(
    address: String,
    credentials: Arc<Credentials>,
    mark: Option<u32>,
    hello: impl FnOnce(IpAddr) -> mesh::Hello + Send,
) -> Result<Live, CallError> {
    let error = |why: String| CallError {
        address: address.clone(),
        why,
        refused: false,
    };
    let expected = controller_id(credentials.svid().id().trust_domain());
    let expected = expected.map_err(|id| error(id.to_string()))?;
    let tls = grpc::client_config(&credentials, &expected).map_err(|tls| error(tls.to_string()))?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|name| error(name.to_string()))?;
    let dialled = dial(&address, tls, name, mark).await?;
    let (out, mut outgoing) = mpsc::channel(OUTGOING);
    let first = mesh::ProxyMessage {
        message: Some(Message::Hello(hello(dialled.local))),
    };
    out.try_send(first).map_err(|full| error(full.to_string()))?;
    let outgoing = futures_util::stream::poll_fn(move |cx| outgoing.poll_recv(cx));
    let mut client = ControlClient::new(dialled.channel).max_decoding_message_size(MAX_MESSAGE);
    let incoming = match timeout(ACCEPT, client.connect(outgoing)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Err(CallError::of(&address, &status)),
        Err(_) => return Err(error(format!("no answer within {} s", ACCEPT.as_secs()))),
    };
    Ok(Live {
        address,
        out,
        incoming,
        heard: Instant::now(),
        silence: FIRST_SILENCE,
    })
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn pauses_grow_are_jittered_and_never_longer_than_five_seconds() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.on_failure(None, &mut rng)).collect();
        assert!(pauses[0] <= FIRST_PAUSE && pauses[0] >= FIRST_PAUSE / 2);
        assert!(
            pauses[10..]
                .iter()
                .all(|pause| *pause <= LONGEST_PAUSE && *pause >= LONGEST_PAUSE / 2)
        );
        assert!(pauses[10..].windows(2).any(|two| two[0] != two[1]));
        backoff.on_success();
        assert!(backoff.on_failure(None, &mut rng) <= FIRST_PAUSE);
    }

    #[test]
    fn a_controller_that_sends_away_is_heeded_within_limits() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        let away = Duration::from_secs(7);
        let pause = backoff.on_failure(Some(away), &mut rng);
        assert!((away..away * 3 / 2).contains(&pause), "{pause:?}");
        let pause = backoff.on_failure(Some(Duration::from_secs(86_400)), &mut rng);
        assert!(pause <= LONGEST_AWAY * 3 / 2);
    }
}
