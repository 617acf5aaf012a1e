//! What to run, from a file or from the command line alone.
//!
//! A command line is made into the text of a file and read as one, so that both have the same rules, defaults and errors.

use std::{io, net::IpAddr, path::PathBuf};

use serde_json::{Map, Value, json};
use weft_proto::{DocumentError, Source};
use zeroize::Zeroizing;

use crate::{
    config::{Config, Join, Origin, error_of_file},
    watch_files::read_file,
};

/// The variable that may have the token, so that it is in no list of processes.
const TOKEN_VARIABLE: &str = "WEFT_JOIN_TOKEN";
/// Far above any token.
const MAX_TOKEN_BYTES: u64 = 64 << 10;
/// The longest that a name that was made up may be, to be a label of DNS.
const MAX_NAME: usize = 63;

/// Which proxy.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RunArgs {
    /// The proxy's file
    #[arg(long, value_name = "FILE", required_unless_present = "controller", conflicts_with_all = ["controller", "service_account", "namespace", "name", "port", "label", "address", "state", "health", "no_cache", "listen_mesh", "listen_outbound", "listen_inbound", "listen_admin", "listen_metrics", "application", "bind", "workers", "access_log", "drain_timeout"])]
    config: Option<PathBuf>,
    /// Where the controller listens; several, separated by commas, are tried in turns
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    controller: Vec<String>,
    /// The token for the first certificate, @FILE for one in a file; also from the variable WEFT_JOIN_TOKEN
    #[arg(long, value_name = "TOKEN|@FILE", hide_env_values = true)]
    join: Option<String>,
    /// The service account of the workload, which the token is for
    #[arg(long, value_name = "NAME", requires = "controller")]
    service_account: Option<String>,
    /// The namespace of the workload [default: default]
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The name of the workload [default: the service account and the host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A port of the application: 8080, http:8080 or http:8080/http2 (its name, number and protocol); repeated for more
    #[arg(long, value_name = "PORT")]
    port: Vec<String>,
    /// A label of the workload, by which services select it; repeated for more
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Where other sidecars reach this one [default: where its connection to the controller comes from]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Where the application listens [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    application: Option<IpAddr>,
    /// How to ask whether the application is well: tcp:8080 or http:8080/healthz
    #[arg(long, value_name = "CHECK")]
    health: Option<String>,
    /// How often, such as 2s
    #[arg(long, value_name = "DURATION", requires = "health")]
    health_interval: Option<String>,
    /// The directory for identity, keys and the last configuration [default: below ~/.local/state/weft, or
    /// /var/lib/weft-proxy as root]
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
    /// Keep no identity and no configuration: a restart needs the controller and a new token
    #[arg(long)]
    no_cache: bool,
    /// UDP, for other sidecars [default: any address, port 15008]
    #[arg(long, value_name = "ADDRESS")]
    listen_mesh: Vec<String>,
    /// TCP, for what the application sends [default: the loopback addresses, port 15001]
    #[arg(long, value_name = "ADDRESS")]
    listen_outbound: Vec<String>,
    /// TCP, for what was meant for the application and did not come through the mesh [default: any address, port 15006]
    #[arg(long, value_name = "ADDRESS")]
    listen_inbound: Vec<String>,
    /// TCP, for operators on this host [default: 127.0.0.1:15000]
    #[arg(long, value_name = "ADDRESS")]
    listen_admin: Vec<String>,
    /// TCP, for scrapers and probes [default: any address, port 15020]
    #[arg(long, value_name = "ADDRESS")]
    listen_metrics: Vec<String>,
    /// A port that leads to one service, such as 127.0.0.1:5432=db.default:5432; repeated for more
    #[arg(long, value_name = "ADDRESS=SERVICE:PORT")]
    bind: Vec<String>,
    /// How many threads carry traffic [default: 1]
    #[arg(long, value_name = "COUNT")]
    workers: Option<u8>,
    /// stdout, none or a file [default: stdout]
    #[arg(long, value_name = "WHERE")]
    access_log: Option<String>,
    /// How long a drain may take [default: 30s]
    #[arg(long, value_name = "DURATION")]
    drain_timeout: Option<String>,
}

impl RunArgs {
    /// Those of a file.
    #[cfg(test)]
    pub(crate) fn of_file(config: PathBuf) -> Self {
        Self {
            config: Some(config),
            ..Self::default()
        }
    }

    /// The name of what is read, for errors.
    pub(crate) fn file(&self) -> String {
        match &self.config {
            Some(path) => path.display().to_string(),
            None => "command line".to_owned(),
        }
    }

    /// The configuration that is meant.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(crate) fn config(&self) -> Result<Config, Vec<DocumentError>> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => {
                let directory = std::env::current_dir().unwrap_or_default();
                let text = self.text().map_err(|message| vec![self.error(message)])?;
                Config::parse(&Source::new(self.file(), text), &directory)?
            }
        };
        self.set_join(&mut config)?;
        Ok(config)
    }

    fn error(&self, message: impl std::fmt::Display) -> DocumentError {
        error_of_file(self.file(), message)
    }

    fn set_join(&self, config: &mut Config) -> Result<(), Vec<DocumentError>> {
        match (&mut config.origin, &self.join) {
            (Origin::Files(_), None) => {}
            (Origin::Files(_), Some(_)) => {
                return Err(vec![self.error(
                    "--join is for a proxy with a controller, and this file has its certificates in files",
                )]);
            }
            (Origin::Controller(controller), Some(join)) => {
                controller.join = Some(match join.strip_prefix('@') {
                    Some(path) => Join::File(path.into()),
                    None => Join::Token(Zeroizing::new(join.clone())),
                });
            }
            (Origin::Controller(controller), None) if controller.join.is_none() => {
                let token = std::env::var(TOKEN_VARIABLE)
                    .ok()
                    .filter(|token| !token.is_empty());
                controller.join = token.map(|token| Join::Token(Zeroizing::new(token)));
            }
            (Origin::Controller(_), None) => {}
        }
        Ok(())
    }

    /// The text of the file that says the same.
    fn text(&self) -> Result<String, String> {
        let Some(account) = &self.service_account else {
            return Err("--service-account is missing: which of its identities is this workload?".to_owned());
        };
        let name = self.name.clone().unwrap_or_else(|| default_name(account));
        let mut workload = json!({ "name": name, "serviceAccount": account, "labels": self.labels()? });
        let mut controller = json!({ "address": self.controller });
        let mut application = Map::new();
        application.insert("ports".to_owned(), self.ports()?);
        let mut root = Map::new();
        set(&mut workload, "namespace", self.namespace.as_ref());
        set(&mut controller, "workloadAddress", self.address);
        if let Some(address) = self.application {
            application.insert("address".to_owned(), address.to_string().into());
        }
        if let Some(health) = &self.health {
            let mut check = json!({ "probe": health });
            set(&mut check, "interval", self.health_interval.as_ref());
            application.insert("health".to_owned(), check);
        }
        root.insert("workload".to_owned(), workload);
        root.insert("controller".to_owned(), controller);
        root.insert("application".to_owned(), application.into());
        root.insert("identity".to_owned(), json!({ "cache": !self.no_cache }));
        root.insert("listen".to_owned(), self.listen());
        root.insert("binds".to_owned(), self.binds()?);
        let mut root = Value::Object(root);
        set(&mut root, "state", self.state.as_ref().map(|path| path.display()));
        set(&mut root, "accessLog", self.access_log.as_ref());
        set(&mut root, "drainTimeout", self.drain_timeout.as_ref());
        if let (Some(workers), Value::Object(root)) = (self.workers, &mut root) {
            root.insert("workers".to_owned(), workers.into());
        }
        Ok(root.to_string())
    }

    fn labels(&self) -> Result<Value, String> {
        let mut labels = Map::new();
        for label in &self.label {
            let (key, value) = label
                .split_once('=')
                .ok_or_else(|| format!("--label {label}: is not KEY=VALUE"))?;
            if labels.insert(key.to_owned(), value.into()).is_some() {
                return Err(format!("--label {label}: there is one of this key already"));
            }
        }
        Ok(labels.into())
    }

    fn ports(&self) -> Result<Value, String> {
        let ports = self.port.iter().map(|text| {
            let (text, protocol) = match text.split_once('/') {
                Some((text, protocol)) => (text, Some(protocol)),
                None => (text.as_str(), None),
            };
            let (name, number) = match text.split_once(':') {
                Some((name, number)) => (Some(name), number),
                None => (None, text),
            };
            let number: u32 = number.parse().map_err(|_| {
                format!("--port {text}: is not a port, such as 8080, http:8080 or http:8080/http2")
            })?;
            let mut port = json!({ "port": number });
            set(&mut port, "name", name);
            set(&mut port, "protocol", protocol);
            Ok(port)
        });
        ports.collect::<Result<Vec<Value>, String>>().map(Value::from)
    }

    fn listen(&self) -> Value {
        let mut listen = Map::new();
        for (name, addresses) in [
            ("mesh", &self.listen_mesh),
            ("outbound", &self.listen_outbound),
            ("inbound", &self.listen_inbound),
            ("admin", &self.listen_admin),
            ("metrics", &self.listen_metrics),
        ] {
            match addresses.as_slice() {
                [] => {}
                // As `none` is for the access log.
                [only] if only == "none" => {
                    listen.insert(name.to_owned(), Value::Array(Vec::new()));
                }
                addresses => {
                    listen.insert(name.to_owned(), json!(addresses));
                }
            }
        }
        listen.into()
    }

    fn binds(&self) -> Result<Value, String> {
        let binds = self.bind.iter().map(|text| {
            let (listen, service) = text
                .split_once('=')
                .ok_or_else(|| format!("--bind {text}: is not ADDRESS=SERVICE:PORT"))?;
            Ok(json!({ "listen": listen, "service": service }))
        });
        binds.collect::<Result<Vec<Value>, String>>().map(Value::from)
    }
}

fn set(value: &mut Value, name: &str, text: Option<impl std::fmt::Display>) {
    if let (Some(text), Value::Object(map)) = (text, value) {
        map.insert(name.to_owned(), text.to_string().into());
    }
}

/// The service account and the host's name: several sidecars share a host, and several hosts a service account.
fn default_name(service_account: &str) -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    name_of(service_account, &host.to_string_lossy())
}

fn name_of(service_account: &str, host: &str) -> String {
    let host = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let host: String = host
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() {
                character
            } else {
                '-'
            }
        })
        .collect();
    let mut name = format!("{service_account}-{}", host.trim_matches('-'));
    name.truncate(MAX_NAME);
    name.trim_matches('-').to_owned()
}

impl Join {
    /// The token.
    ///
    /// # Errors
    /// The file cannot be read, or has no text.
    pub(crate) fn read(&self) -> Result<Zeroizing<String>, String> {
        match self {
            Self::Token(token) => Ok(token.clone()),
            Self::File(path) => {
                let read = || {
                    let bytes = read_file(path, MAX_TOKEN_BYTES)?;
                    let text = std::str::from_utf8(&bytes).map_err(|_| io::ErrorKind::InvalidData)?;
                    Ok(Zeroizing::new(text.trim().to_owned()))
                };
                read().map_err(|error: io::Error| format!("{}: {error}", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &str) -> RunArgs {
        let line = format!("weft-proxy run {line}");
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Run { source, .. } => *source,
            _ => panic!("not run"),
        }
    }

    fn config(line: &str) -> Result<Config, Vec<String>> {
        args(line)
            .config()
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn one_line_is_enough() {
        let config = config(
            "--controller 10.0.0.1:15010 --join weft1.abc --service-account web --port http:8080/http --port 9090 \
             --label app=web --state /tmp/web",
        )
        .unwrap();
        let controller = config.controller().unwrap();
        assert_eq!(controller.addresses, ["10.0.0.1:15010"]);
        assert_eq!(
            controller.join,
            Some(Join::Token(Zeroizing::new("weft1.abc".to_owned())))
        );
        assert!(controller.cache && controller.address.is_none());
        assert_eq!(config.workload.service_account, "web");
        assert!(
            config.workload.name.starts_with("web"),
            "{}",
            config.workload.name
        );
        assert_eq!(config.workload.labels.get("app").map(String::as_str), Some("web"));
        let ports: Vec<_> = config
            .application
            .ports
            .iter()
            .map(|port| (port.name.as_deref(), port.port))
            .collect();
        assert_eq!(ports, [(Some("http"), 8080), (None, 9090)]);
        assert_eq!(config.listen, crate::config::Listen::default());
        assert_eq!(config.state, Some("/tmp/web".into()));
        assert!(!format!("{config:?}").contains("weft1.abc"), "a token in a log");
    }

    #[test]
    fn everything_can_be_said() {
        let config = config(
            "--controller a.example:1,[::1]:2 --join @/run/token --service-account web --namespace shop --name web-7 \
             --address 10.1.1.1 --application 10.1.1.1 --port 8080 --health http:8080/up --health-interval 500ms \
             --no-cache --listen-mesh 0.0.0.0:1 --listen-outbound none --listen-admin 127.0.0.1:0 --workers 2 \
             --bind 127.0.0.1:5432=db:5432 --access-log none --drain-timeout 5s --listen-inbound none \
             --listen-metrics none",
        )
        .unwrap();
        let controller = config.controller().unwrap();
        assert_eq!(controller.addresses, ["a.example:1", "[::1]:2"]);
        assert_eq!(controller.join, Some(Join::File("/run/token".into())));
        assert!(!controller.cache);
        assert_eq!(controller.address, Some("10.1.1.1".parse().unwrap()));
        let check = config.application.health.as_ref().unwrap();
        assert_eq!(
            (check.probe.to_string().as_str(), check.interval.as_millis()),
            ("http:8080/up", 500)
        );
        assert_eq!(
            (&*config.workload.name, &*config.workload.namespace),
            ("web-7", "shop")
        );
        assert!(config.listen.outbound.is_empty() && config.listen.mesh[0].port() == 1);
        assert_eq!((config.workers, config.drain_timeout.as_secs()), (2, 5));
        assert_eq!(&*config.binds[0].host, "db.shop");
        assert!(config.state.is_some());
    }

    #[test]
    fn what_is_wrong_says_which_field() {
        for (line, wanted) in [
            ("--controller a", "controller.address[0]: "),
            ("--controller a:1 --port x", "--port x: is not a port"),
            (
                "--controller a:1 --port 70000",
                "application.ports[0].port: 70000",
            ),
            ("--controller a:1 --label app", "--label app: is not KEY=VALUE"),
            (
                "--controller a:1 --health tcp:9 --port 8080",
                "application.health.probe: 9 is not a TCP port",
            ),
            ("--controller a:1 --bind x", "--bind x: is not"),
        ] {
            let errors = config(&format!("{line} --service-account web")).unwrap_err();
            assert!(
                errors.len() == 1 && errors[0].contains(wanted),
                "{line}: {errors:?}"
            );
        }
        let errors = config("--controller a:1").unwrap_err();
        assert!(errors[0].contains("--service-account"), "{errors:?}");
    }

    #[test]
    fn a_file_and_a_line_do_not_mix() {
        for line in [
            "--config a --controller b:1",
            "--config a --service-account web",
            "--config a --no-cache",
            "--service-account web",
            "--health-interval 1s --controller a:1 --service-account web",
        ] {
            let line = format!("weft-proxy run {line}");
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }

    #[test]
    fn hosts_become_names() {
        for (host, name) in [
            ("db1", "web-db1"),
            ("My_Host.example.com", "web-my-host"),
            ("", "web"),
            ("-", "web"),
            (&"x".repeat(80), &format!("web-{}", "x".repeat(59))),
        ] {
            assert_eq!(name_of("web", host), name);
        }
    }
}
