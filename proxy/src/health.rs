//! Whether the application beside this proxy can serve: asked again and again, believed after several answers.
//!
//! [`Threshold`] decides, without time; [`follow`] asks. Without a check the application counts as ready.

use std::{fmt, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

/// How often it is asked, unless it is said.
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);
/// How long it may take to answer, unless the interval is shorter.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Answers in a row that make it healthy.
const RISE: u32 = 1;
/// Failures in a row that make it unhealthy: one may be a moment of load.
const FALL: u32 = 3;
/// The beginning of an answer, which has its status.
const STATUS_LINE: usize = 12;

/// How the application is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    pub(crate) probe: Probe,
    /// At least 100 ms.
    pub(crate) interval: Duration,
}

/// What it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Whether it takes a connection at this port.
    Tcp(u16),
    /// Whether it answers a GET of this path at this port with a status of 200 to 399.
    Http(u16, String),
}

impl Probe {
    /// The port that is asked.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Tcp(port) | Self::Http(port, _) => *port,
        }
    }

    /// Reads `tcp:8080` or `http:8080/healthz`.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence about it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let is_not_one = || "is not a check, such as tcp:8080 or http:8080/healthz".to_owned();
        let (scheme, rest) = text.split_once(':').ok_or_else(is_not_one)?;
        let (port, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let port: u16 = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(is_not_one)?;
        match (scheme, path) {
            ("tcp", "") => Ok(Self::Tcp(port)),
            ("http", path) if path.bytes().all(|byte| byte.is_ascii_graphic()) => {
                let path = if path.is_empty() { "/" } else { path };
                Ok(Self::Http(port, path.to_owned()))
            }
            _ => Err(is_not_one()),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Http(port, path) => write!(f, "http:{port}{path}"),
        }
    }
}

/// Whether the application is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It was not asked yet, or not often enough.
    Unknown,
    /// It is.
    Ready,
    /// It is not, and why.
    Failing(String),
}

/// Believes what several answers in a row say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Threshold {
    state: Health,
    /// Answers in a row that say the opposite of the state.
    against: u32,
}

impl Threshold {
    /// Nothing is known.
    pub(crate) fn new() -> Self {
        Self {
            state: Health::Unknown,
            against: 0,
        }
    }

    /// Takes an answer; the new state, if it is another one.
    pub(crate) fn on_answer(&mut self, answer: Result<(), String>) -> Option<&Health> {
        let (is_with, needed) = match (&self.state, &answer) {
            (Health::Ready, Ok(())) | (Health::Failing(_), Err(_)) => (true, 0),
            (Health::Unknown | Health::Failing(_), Ok(())) => (false, RISE),
            // Before anything is known there is nothing to keep up.
            (Health::Unknown, Err(_)) => (false, 1),
            (Health::Ready, Err(_)) => (false, FALL),
        };
        if is_with {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.state = match answer {
            Ok(()) => Health::Ready,
            Err(why) => Health::Failing(why),
        };
        Some(&self.state)
    }
}

/// Asks for as long as somebody wants to know. `address` is the application's, `mark` that of this proxy's sockets.
pub(crate) async fn follow(
    check: HealthCheck,
    address: std::net::IpAddr,
    mark: Option<u32>,
    health: watch::Sender<Health>,
) {
    let mut threshold = Threshold::new();
    let mut ticks = interval(check.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let address = SocketAddr::new(address, check.probe.port());
    let limit = TIMEOUT.min(check.interval);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = health.closed() => return,
        }
        let answer = match timeout(limit, ask(&check.probe, address, mark)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(format!("{}: {why}", check.probe)),
            Err(_) => Err(format!("{}: no answer within {limit:?}", check.probe)),
        };
        if let Some(new) = threshold.on_answer(answer) {
            match new {
                Health::Failing(why) => tracing::warn!(%why, "the application is not healthy"),
                Health::Ready | Health::Unknown => {
                    tracing::info!(check = %check.probe, "the application is healthy")
                }
            }
            health.send_replace(new.clone());
        }
    }
}

async fn ask(probe: &Probe, address: SocketAddr, mark: Option<u32>) -> Result<(), String> {
    let connect = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(mark) = mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        socket.connect(address).await
    };
    let mut stream = connect.await.map_err(|error: std::io::Error| error.to_string())?;
    let Probe::Http(_, path) = probe else {
        return Ok(());
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: weft-proxy\r\nConnection: close\r\n\r\n"
    );
    let mut line = [0; STATUS_LINE];
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_exact(&mut line).await
    };
    exchange.await.map_err(|error| error.to_string())?;
    let status = std::str::from_utf8(&line)
        .ok()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.get(9..)?.parse::<u16>().ok())
        .ok_or("the answer is not HTTP")?;
    match status {
        200..=399 => Ok(()),
        status => Err(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn checks_are_read_and_written() {
        for (text, wanted) in [
            ("tcp:8080", Probe::Tcp(8080)),
            (
                "http:8080/healthz?x=1",
                Probe::Http(8080, "/healthz?x=1".to_owned()),
            ),
        ] {
            assert_eq!(Probe::parse(text).as_ref(), Ok(&wanted));
            assert_eq!(wanted.to_string(), text);
        }
        assert_eq!(Probe::parse("http:80"), Ok(Probe::Http(80, "/".to_owned())));
        for text in [
            "",
            "8080",
            "tcp:",
            "tcp:0",
            "tcp:80/x",
            "udp:53",
            "http:80/a b",
            "http:/x",
        ] {
            assert!(Probe::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_good_answer_is_believed_and_three_bad_ones() {
        let bad = || Err("refused".to_owned());
        let mut threshold = Threshold::new();
        assert_eq!(
            threshold.on_answer(bad()),
            Some(&Health::Failing("refused".to_owned()))
        );
        assert_eq!(threshold.on_answer(bad()), None);
        assert_eq!(threshold.on_answer(Ok(())), Some(&Health::Ready));
        for _ in 0..3 {
            assert_eq!(threshold.on_answer(bad()), None);
            assert_eq!(threshold.on_answer(bad()), None);
            assert_eq!(threshold.on_answer(Ok(())), None, "not three in a row");
        }
        assert_eq!(threshold.on_answer(bad()), None);
        assert_eq!(threshold.on_answer(bad()), None);
        assert_eq!(
            threshold.on_answer(bad()),
            Some(&Health::Failing("refused".to_owned()))
        );
    }

    #[tokio::test]
    async fn the_application_is_asked_and_its_status_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (statuses, mut status) = tokio::sync::mpsc::channel::<&str>(8);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(status) = status.recv().await else { return };
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /up HTTP/1.1\r\n"));
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let probe = Probe::Http(address.port(), "/up".to_owned());
        for (status, wanted) in [
            ("200 OK", Ok(())),
            ("302 Found", Ok(())),
            ("503 No", Err("status 503".to_owned())),
            ("nonsense", Err("the answer is not HTTP".to_owned())),
        ] {
            statuses.send(status).await.unwrap();
            assert_eq!(ask(&probe, address, None).await, wanted);
        }
        drop(statuses);
        // Whoever listens does not matter to TCP, and nobody does.
        assert_eq!(ask(&Probe::Tcp(address.port()), address, None).await, Ok(()));
        let free = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(ask(&Probe::Tcp(free.port()), free, None).await.is_err());
    }
}
