//! aioquic: `peer.py`, in a process of its own, told by lines of JSON what to do.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    process::Command,
    rc::Rc,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, mpsc, oneshot},
};
use weft_lab::{certificates::Files, process::Process, tools};

use crate::{
    call::{Call, Outcome, Seen},
    place::{GoAway, Identity},
};

/// For Python to start, on a busy machine.
const STARTUP: Duration = Duration::from_secs(30);

type Waiting = Rc<RefCell<HashMap<u64, oneshot::Sender<Value>>>>;

/// The other process.
pub(crate) struct Peer {
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    writer: Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next: Cell<u64>,
    process: Process,
    _directory: TempDir,
}

impl Peer {
    /// Starts it, and gives what else it announced.
    async fn start(identity: &Identity, arguments: impl FnOnce(&Files) -> Vec<String>) -> (Self, String) {
        let directory = tempfile::tempdir().unwrap();
        let files = identity
            .authority
            .issue_files(identity.account, &identity.believes, directory.path())
            .unwrap();
        let mut command = Command::new(tools::python_with_aioquic().unwrap());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stacks/peer.py"));
        command.args(arguments(&files));
        let mut process = Process::spawn("aioquic", command).unwrap();
        let line = process.wait_line("control ", STARTUP).unwrap();
        let mut words = line.split_whitespace().skip(1);
        let port: u16 = words.next().unwrap().parse().unwrap();
        let control = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (reader, writer) = control.into_split();
        let (saw, seen) = mpsc::unbounded_channel();
        let waiting = Waiting::default();
        tokio::task::spawn_local(read(reader, saw, waiting.clone()));
        let peer = Self {
            seen,
            writer: Mutex::new(writer),
            waiting,
            next: Cell::new(0),
            process,
            _directory: directory,
        };
        (peer, words.next().unwrap_or_default().to_owned())
    }

    async fn ask(&self, mut request: Value) -> Value {
        let id = self.next.replace(self.next.get() + 1);
        request["id"] = json!(id);
        let (answer, answered) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, answer);
        let line = format!("{request}\n");
        self.writer.lock().await.write_all(line.as_bytes()).await.unwrap();
        match answered.await {
            Ok(answer) => answer,
            Err(_) => panic!("aioquic ended:\n{}", self.process.log().join("\n")),
        }
    }
}

async fn read(reader: OwnedReadHalf, saw: mpsc::UnboundedSender<Seen>, waiting: Waiting) {
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut line: Value = serde_json::from_str(&line).unwrap();
        if let Some(seen) = line.get_mut("seen") {
            let _ = saw.send(serde_json::from_value(seen.take()).unwrap());
        } else if let Some(asked) = line["id"]
            .as_u64()
            .and_then(|id| waiting.borrow_mut().remove(&id))
        {
            let _ = asked.send(line["answer"].take());
        }
    }
    // Whoever waits learns that there will be no answer.
    waiting.borrow_mut().clear();
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Their client.
pub(crate) struct Client {
    peer: Peer,
}

impl Client {
    pub(crate) async fn start(identity: &Identity, address: SocketAddr) -> Self {
        let (peer, _) = Peer::start(identity, |files| {
            let to = [address.ip().to_string(), address.port().to_string()];
            let mut arguments = vec!["client".to_owned()];
            arguments.extend(to);
            arguments.push(text(&files.authority));
            if identity.shows {
                arguments.extend([text(&files.certificate), text(&files.key)]);
            }
            arguments
        })
        .await;
        Self { peer }
    }

    pub(crate) async fn call(&self, call: Call) -> Outcome {
        let outcome = self.peer.ask(json!({"do": "call", "call": call})).await;
        serde_json::from_value(outcome).unwrap()
    }

    /// The ID of the first GOAWAY that leaves out a request.
    pub(crate) async fn goaway(&self) -> u64 {
        self.peer.ask(json!({"do": "goaway"})).await.as_u64().unwrap()
    }
}

/// Their server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) peer: Peer,
}

impl Server {
    pub(crate) async fn start(identity: &Identity) -> Self {
        let (peer, port) = Peer::start(identity, |files| {
            let paths = [&files.authority, &files.certificate, &files.key];
            let paths = paths.into_iter().map(|path| text(path));
            std::iter::once("server".to_owned()).chain(paths).collect()
        })
        .await;
        let address = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
        Self { address, peer }
    }

    /// Waits until a request to `/hold` waits.
    pub(crate) async fn someone_waits(&self) {
        self.peer.ask(json!({"do": "wait"})).await;
    }

    pub(crate) async fn release(&self) {
        self.peer.ask(json!({"do": "release"})).await;
    }

    pub(crate) async fn go_away(&self, which: GoAway) {
        // Request streams are four apart (RFC 9000 section 2.1).
        let beyond = match which {
            GoAway::NewOnes => 4,
            GoAway::TheLast => 0,
        };
        self.peer.ask(json!({"do": "go-away", "beyond": beyond})).await;
    }
}
