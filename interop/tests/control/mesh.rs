//! A mesh with a real controller, on addresses of the loopback network of their own. All of it ends with [`Mesh`].

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        LazyLock,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use weft_lab::process::{Process, Ready};

/// Far longer than anything takes, also on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How often a condition without an event is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The programs of the workspace, built as this test is.
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Some(directory) = std::env::var_os("WEFT_BIN_DIR") {
        return fs::canonicalize(root.join(directory)).expect("WEFT_BIN_DIR names a directory");
    }
    // target/PROFILE/deps/control-HASH
    let test = std::env::current_exe().unwrap();
    let directory = test.parent().and_then(Path::parent).unwrap().to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--bins",
        "-p",
        "weft-proxy",
        "-p",
        "weft-controller",
    ]);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(root).status().expect("cargo runs");
    assert!(status.success(), "the programs can't be built");
    directory
});

/// Where a program is.
pub(crate) fn program(name: &str) -> PathBuf {
    PROGRAMS.join(name)
}

/// Waits until something is so; fails with what it was last.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    within(SOON, what, &mut look)
}

/// Waits until something is so within a time.
pub(crate) fn within<T>(time: Duration, what: &str, look: &mut dyn FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) => assert!(started.elapsed() < time, "no {what} in {time:?}; last: {last}"),
        }
        std::thread::sleep(POLL);
    }
}

/// How to run a controller.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) leaf_lifetime: &'static str,
    pub(crate) endpoint_grace: &'static str,
    /// More arguments.
    pub(crate) more: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leaf_lifetime: "1h",
            endpoint_grace: "2s",
            more: Vec::new(),
        }
    }
}

/// A controller and what runs under it.
pub(crate) struct Mesh {
    pub(crate) directory: TempDir,
    /// The third byte of all its addresses: no two meshes of a test share one.
    subnet: u8,
    settings: Settings,
    pub(crate) controller: Option<Process>,
}

/// A workload to start.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Its name, such as `web-0`.
    pub(crate) name: String,
    /// Its service account, and its label `app`.
    pub(crate) account: String,
    /// The last byte of its address.
    pub(crate) host: u8,
    /// Whether it has an application on port 8080.
    pub(crate) serves: bool,
    /// Its label `version`, which its application also tells.
    pub(crate) version: Option<&'static str>,
    /// More of its file.
    pub(crate) extra: String,
}

impl Member {
    pub(crate) fn new(name: &str, account: &str, host: u8, serves: bool) -> Self {
        Self {
            name: name.to_owned(),
            account: account.to_owned(),
            host,
            serves,
            version: None,
            extra: String::new(),
        }
    }

    pub(crate) fn of_version(self, version: &'static str) -> Self {
        Self {
            version: Some(version),
            ..self
        }
    }
}

/// A workload that runs.
pub(crate) struct Workload {
    pub(crate) member: Member,
    pub(crate) application: Option<Process>,
    pub(crate) sidecar: Process,
}

impl Mesh {
    /// Starts a controller and waits until it is ready.
    pub(crate) fn start(settings: Settings) -> Self {
        static SUBNET: AtomicU8 = AtomicU8::new(101);
        let mut mesh = Self {
            directory: tempfile::tempdir().unwrap(),
            subnet: SUBNET.fetch_add(1, Ordering::Relaxed),
            settings,
            controller: None,
        };
        mesh.start_controller();
        mesh
    }

    /// An address of this mesh.
    pub(crate) fn address(&self, host: u8) -> std::net::IpAddr {
        std::net::Ipv4Addr::new(127, 15, self.subnet, host).into()
    }

    /// Where the controller listens.
    pub(crate) fn controller_address(&self) -> SocketAddr {
        SocketAddr::new(self.address(1), 15010)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("controller")
    }

    pub(crate) fn start_controller(&mut self) {
        let mut command = Command::new(program("weft-controller"));
        command.arg("run").arg("--data-dir").arg(self.data());
        command.args(["--listen", &self.controller_address().to_string()]);
        let metrics = SocketAddr::new(self.address(1), 15014);
        command.args(["--metrics", &metrics.to_string()]);
        command.args(["--leaf-lifetime", self.settings.leaf_lifetime]);
        command.args(["--endpoint-grace", self.settings.endpoint_grace]);
        command.args(&self.settings.more);
        let ready = Ready::Http(metrics, "/ready".to_owned());
        self.controller = Some(Process::spawn_ready("controller", command, &ready, SOON).unwrap());
    }

    /// Runs `weft` as the admin.
    pub(crate) fn weft(&self, arguments: &[&str]) -> Output {
        self.weft_as(&self.data().join("admin.yaml"), arguments)
    }

    /// Runs `weft` with a context file.
    pub(crate) fn weft_as(&self, context: &Path, arguments: &[&str]) -> Output {
        Command::new(program("weft"))
            .arg("--config")
            .arg(context)
            .args(arguments)
            .env("NO_COLOR", "1")
            .output()
            .unwrap()
    }

    /// Runs `weft` as the admin, which must succeed; gives what it printed.
    pub(crate) fn weft_ok(&self, arguments: &[&str]) -> String {
        let output = self.weft(arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "weft {arguments:?}: {stdout}\n{stderr}");
        stdout
    }

    /// As [`weft_ok`](Self::weft_ok), with `-o json`.
    pub(crate) fn weft_json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        let printed = self.weft_ok(&arguments);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// Applies documents, which must succeed.
    pub(crate) fn apply(&self, documents: &str) -> String {
        let file = self.directory.path().join("documents.yaml");
        fs::write(&file, documents).unwrap();
        self.weft_ok(&["apply", "-f", file.to_str().unwrap()])
    }

    /// A join token for an account of the default namespace.
    pub(crate) fn token(&self, account: &str) -> String {
        self.weft_ok(&["token", "create", "--service-account", account, "-q"])
            .trim()
            .to_owned()
    }

    /// The directory that a sidecar keeps.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.directory.path().join("state").join(name)
    }

    /// Writes the file of a member's sidecar, with a fresh token.
    pub(crate) fn configure(&self, member: &Member) -> PathBuf {
        let token_file = self.directory.path().join(format!("{}.token", member.name));
        fs::write(&token_file, self.token(&member.account)).unwrap();
        let ip = self.address(member.host);
        let ports = match member.serves {
            true => "[{name: http, port: 8080, protocol: http}]",
            false => "[]",
        };
        let file = self.directory.path().join(format!("{}.yaml", member.name));
        let config = format!(
            "workload: {{name: {name}, serviceAccount: {account}, labels: {{app: {account}{version}}}}}\n\
             controller: {{address: \"{controller}\", workloadAddress: {ip}, join: {{tokenFile: {token}}}}}\n\
             state: {state}\n\
             application: {{address: {ip}, ports: {ports}}}\n\
             listen:\n  mesh: [\"{ip}:15008\"]\n  outbound: [\"{ip}:15001\"]\n  inbound: [\"{ip}:15006\"]\n  \
             admin: [\"{ip}:15000\"]\n  metrics: [\"{ip}:15020\"]\n{extra}",
            name = member.name,
            account = member.account,
            controller = self.controller_address(),
            token = token_file.display(),
            state = self.state(&member.name).display(),
            extra = member.extra,
            version = member
                .version
                .map(|version| format!(", version: {version}"))
                .unwrap_or_default(),
        );
        fs::write(&file, config).unwrap();
        file
    }

    /// Starts a workload's sidecar with a file that is there.
    pub(crate) fn start_sidecar(&self, member: &Member) -> Process {
        let mut command = Command::new(program("weft-proxy"));
        let file = self.directory.path().join(format!("{}.yaml", member.name));
        command.args(["run", "--config"]).arg(file);
        Process::spawn(&member.name, command).unwrap()
    }

    /// Starts a workload's application.
    pub(crate) fn start_application(&self, member: &Member) -> Option<Process> {
        member.serves.then(|| {
            let mut command = Command::new(program("weft"));
            let listen = SocketAddr::new(self.address(member.host), 8080);
            command.args([
                "__lab",
                "services",
                "http",
                "--name",
                &member.name,
                "--listen",
                &listen.to_string(),
            ]);
            if let Some(version) = member.version {
                command.args(["--app-version", version]);
            }
            let ready = Ready::Line(weft_lab::cli::LISTENING.to_owned());
            Process::spawn_ready(&format!("application of {}", member.name), command, &ready, SOON).unwrap()
        })
    }

    /// Starts a workload, and waits until it is ready.
    pub(crate) fn join(&self, member: Member) -> Workload {
        self.configure(&member);
        let application = self.start_application(&member);
        let mut sidecar = self.start_sidecar(&member);
        self.wait_ready(&member, &mut sidecar);
        Workload {
            member,
            application,
            sidecar,
        }
    }

    pub(crate) fn wait_ready(&self, member: &Member, sidecar: &mut Process) {
        let ready = Ready::Http(
            SocketAddr::new(self.address(member.host), 15020),
            "/ready".to_owned(),
        );
        sidecar.wait_ready(&ready, SOON).unwrap();
    }

    /// Where a member's application sends its requests.
    pub(crate) fn outbound(&self, member: &Member) -> SocketAddr {
        SocketAddr::new(self.address(member.host), 15001)
    }

    /// A page of a member's admin port.
    pub(crate) fn page(&self, member: &Member, path: &str) -> (u16, String) {
        let address = SocketAddr::new(self.address(member.host), 15000);
        let output = Command::new("curl")
            .args([
                "-s",
                "-m",
                "5",
                "-w",
                "\n%{http_code}",
                &format!("http://{address}{path}"),
            ])
            .output()
            .unwrap();
        let text = text(&output.stdout);
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or(0), body.to_owned())
    }

    /// One request by curl through a member's sidecar: status and body.
    pub(crate) fn curl(&self, member: &Member, host: &str, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.outbound(member));
        let output = Command::new("curl")
            .args([
                "-s",
                "-m",
                "20",
                "-w",
                "\n%{http_code}",
                "-H",
                &format!("Host: {host}"),
                &url,
            ])
            .output()
            .unwrap();
        let text = text(&output.stdout);
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or(0), body.to_owned())
    }

    /// What a member's application answers past the mesh, which must be 200 or 204.
    pub(crate) fn application(&self, member: &Member, method: &str, path: &str) -> String {
        let address = SocketAddr::new(self.address(member.host), 8080);
        let output = Command::new("curl")
            .args(["-s", "-S", "-f", "-m", "20", "-X", method])
            .arg(format!("http://{address}{path}"))
            .output()
            .unwrap();
        let (said, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{method} {path}: {error}{said}");
        said
    }

    /// How a member's application answers from now on: see the lab's faults.
    pub(crate) fn fault(&self, member: &Member, query: &str) {
        self.application(member, "PUT", &format!("/fault?{query}"));
    }

    /// What `weft status` says of each sidecar, by name.
    pub(crate) fn proxies(&self) -> std::collections::BTreeMap<String, Value> {
        let output = self.weft(&["status", "-o", "json"]);
        let printed = text(&output.stdout);
        let status: Value = serde_json::from_str(&printed)
            .unwrap_or_else(|error| panic!("{error}: {printed} {}", text(&output.stderr)));
        let proxies = status["proxies"].as_array().unwrap_or_else(|| panic!("{status}"));
        proxies
            .iter()
            .map(|proxy| {
                (
                    proxy["workload"].as_str().unwrap_or_default().to_owned(),
                    proxy.clone(),
                )
            })
            .collect()
    }

    /// Waits until `weft status` says that all is well.
    pub(crate) fn wait_current(&self) {
        eventually("current fleet", || {
            let output = self.weft(&["status"]);
            match output.status.success() {
                true => Ok(()),
                false => Err(format!("{}{}", text(&output.stdout), text(&output.stderr))),
            }
        });
    }
}

/// A Service of the workloads with label `app`, on port 80.
pub(crate) fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  ports: [{{name: \
         http, port: 80, targetPort: 8080, appProtocol: http}}]\n---\n"
    )
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the long runs are asked for.
pub(crate) fn is_full() -> bool {
    std::env::var_os("WEFT_FULL").is_some()
}
