//! `weft-proxy capture`: what the command line and a proxy's file say becomes [`Rules`], which are put in place,
//! shown or removed.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, Subcommand};
use ipnet::IpNet;
use serde_json::{Value, json};
use weft_proto::{model::MeshConfig, names::DnsLabel};

use super::{
    cgroup,
    host::{self, HostError, Inspection, State},
    nft,
    rules::{Exempt, InboundPorts, Rules, STABLE_V4, STABLE_V6, Table, Whom},
};
use crate::{
    cli::{Cli, Output},
    config::{Config, Listen},
    documents::{ConfigErrors, DocumentsWatcher},
};

const INSTALL_HELP: &str = "\
Replaces a capture of the same name in one transaction: at no moment is nothing captured. Only connections that begin \
afterwards are. The sidecar's own sockets must be let pass, by its user, its group or a mark that it sets \
(capture.mark in its file); one application alone is captured by its user or its control group, so that several \
sidecars share a host, each with an --instance, users and ports of its own.

Never captured: loopback addresses, the sidecar's own ports, what is excluded. Datagrams to the mesh's ranges are \
rejected, but for ports 53 and 15008: the mesh does not carry them, and they would leave in the clear.

Examples:
  weft-proxy capture install --config web.yaml --proxy-uid 1337
  weft-proxy capture install --config web.yaml --dry-run
  weft-proxy capture install --config web.yaml --instance web --uid 1001
  weft-proxy capture install --config web.yaml --instance web --cgroup /system.slice/web.service
  weft-proxy capture install --proxy-uid 1337 --port 8080 --mesh-range 10.0.0.0/8

Exit codes: 0 done, 1 the configuration is wrong or the kernel refused, 2 wrong use.";

const SHOW_HELP: &str = "\
Examples:
  weft-proxy capture show
  weft-proxy capture show --config web.yaml --output json

Exit codes: 0 as it was installed, 1 altered or missing, 2 it can't be read, or wrong use.";

const REMOVE_HELP: &str = "\
Removes the rules, the addresses and the routes of a capture, also of an install that did not come to its end. What \
other captures of this host need stays.

Examples:
  weft-proxy capture remove
  weft-proxy capture remove --instance web

Exit codes: 0 nothing of it is left, 1 it could not be removed, 2 wrong use.";

/// Bring an application's connections to its sidecar without its knowledge
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CaptureCommand {
    /// Put the kernel's rules in place, or in the place of those before
    #[command(after_help = INSTALL_HELP)]
    Install(Box<InstallArgs>),
    /// Print the rules, and say whether they are as they were installed
    #[command(after_help = SHOW_HELP)]
    Show {
        #[command(flatten)]
        which: Which,
        /// How to print them
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
    },
    /// Take the rules away
    #[command(after_help = REMOVE_HELP)]
    Remove {
        #[command(flatten)]
        which: Which,
    },
}

/// Which of the captures of this host.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// The proxy's file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the capture, where a host has several; without it, capture.instance of the proxy's file
    #[arg(long, value_name = "NAME", value_parser = instance)]
    instance: Option<DnsLabel>,
}

/// What to capture. What is absent here is as the proxy's file says.
#[derive(Clone, Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    which: Which,
    /// Capture this user's connections alone; may be repeated
    #[arg(long, value_name = "UID", conflicts_with = "cgroup")]
    uid: Vec<u32>,
    /// Capture the connections of this control group (cgroup v2) alone
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Let this user's connections pass: the sidecar's; may be repeated
    #[arg(long, value_name = "UID")]
    proxy_uid: Vec<u32>,
    /// Let this group's connections pass: the sidecar's; may be repeated
    #[arg(long, value_name = "GID")]
    proxy_gid: Vec<u32>,
    /// Let connections with this mark pass: the sidecar's [default: capture.mark of the proxy's file]
    #[arg(long, value_name = "MARK", value_parser = clap::value_parser!(u32).range(1..))]
    proxy_mark: Option<u32>,
    /// The sidecar's port for what the application sends [default: listen.outbound, else 15001]
    #[arg(long, value_name = "PORT", value_parser = port)]
    outbound_port: Option<u16>,
    /// The sidecar's port for what comes for the application [default: listen.inbound, else 15006]
    #[arg(long, value_name = "PORT", value_parser = port)]
    inbound_port: Option<u16>,
    /// Capture the application at this port; may be repeated [default: application.ports]
    #[arg(long, value_name = "PORT", value_parser = port, conflicts_with = "all_ports")]
    port: Vec<u16>,
    /// Capture at every TCP port that is not excluded
    #[arg(long, conflicts_with_all = ["uid", "cgroup"])]
    all_ports: bool,
    /// Do not capture what the application sends to this port, nor reject datagrams to it; may be repeated
    #[arg(long, value_name = "PORT", value_parser = port)]
    exclude_port: Vec<u16>,
    /// Do not capture what comes for this port; may be repeated
    #[arg(long, value_name = "PORT", value_parser = port)]
    exclude_inbound_port: Vec<u16>,
    /// Do not capture what the application sends to these addresses; may be repeated
    #[arg(long, value_name = "RANGE")]
    exclude_range: Vec<IpNet>,
    /// Addresses of the mesh; may be repeated [default: meshRanges of the documents]
    #[arg(long, value_name = "RANGE")]
    mesh_range: Vec<IpNet>,
    /// Addresses of services; may be repeated [default: serviceRanges of the documents]
    #[arg(long, value_name = "RANGE")]
    service_range: Vec<IpNet>,
    /// Address on lo that connections to services come from, one of a family [default: 169.254.255.15, fd5e:9a3c:71d4::1]
    #[arg(long, value_name = "ADDRESS")]
    stable_address: Vec<IpAddr>,
    /// Print the script for nft and what would be put on lo, and change nothing
    #[arg(long)]
    dry_run: bool,
}

fn instance(text: &str) -> Result<DnsLabel, String> {
    DnsLabel::parse(text).map_err(|error| error.to_string())
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("not a port (1 to 65535)".to_owned()),
        Ok(port) => Ok(port),
    }
}

/// Carries a command out.
pub(crate) fn run(command: &CaptureCommand) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let failure = match command {
        CaptureCommand::Show { .. } => 2,
        CaptureCommand::Install(_) | CaptureCommand::Remove { .. } => 1,
    };
    let outcome = runtime.block_on(async {
        match command {
            CaptureCommand::Install(args) => install(args).await,
            CaptureCommand::Show { which, output } => show(&which.table()?, *output).await,
            CaptureCommand::Remove { which } => Ok(remove(&which.table()?).await?),
        }
    });
    match outcome {
        Ok(code) => code,
        Err(Failed::Usage(message)) => wrong_use(&message),
        Err(error) => {
            eprintln!("{error}");
            failure.into()
        }
    }
}

/// A command that can't be carried out.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Host(#[from] HostError),
}

/// As clap says it of what it can check itself.
fn wrong_use(message: &str) -> ExitCode {
    let error = Cli::command().error(clap::error::ErrorKind::ValueValidation, message);
    let _ = error.print();
    2.into()
}

impl Which {
    fn load(&self) -> Result<Option<Config>, ConfigErrors> {
        let config = self.config.as_deref().map(|path: &Path| Config::load(path));
        config.transpose().map_err(ConfigErrors)
    }

    fn table(&self) -> Result<Table, ConfigErrors> {
        Ok(self.table_with(self.load()?.as_ref()))
    }

    fn table_with(&self, config: Option<&Config>) -> Table {
        let capture = config.and_then(|config| config.capture.as_ref());
        let configured = capture.and_then(|capture| capture.instance.as_ref());
        Table::of(self.instance.as_ref().or(configured))
    }
}

/// The settings of the mesh: from its documents, or as the proxy last had them from its controller.
fn ranges(config: &Config) -> Result<Option<MeshConfig>, ConfigErrors> {
    if let Some(files) = config.files() {
        let (_, documents) = DocumentsWatcher::load(&files.documents)?;
        return Ok(Some(documents.mesh.borrow().config.clone()));
    }
    Ok(config
        .state
        .as_deref()
        .and_then(crate::control::cache::mesh_config))
}

async fn install(args: &InstallArgs) -> Result<ExitCode, Failed> {
    let config = args.which.load()?;
    let ranges = match &config {
        Some(config) => match ranges(config)? {
            Some(mesh) => (mesh.mesh_ranges, mesh.service_ranges),
            None => {
                eprintln!(
                    "warning: the mesh's ranges are not known before its controller gave them: install again once the proxy was ready"
                );
                (Vec::new(), Vec::new())
            }
        },
        None => (Vec::new(), Vec::new()),
    };
    let rules = rules(args, config.as_ref(), ranges, has_ipv6()).map_err(Failed::Usage)?;
    if args.dry_run {
        say(&rules.script());
        for line in rules.on_loopback().lines() {
            say(&format!("# on lo: {line}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    host::install(&rules).await?;
    say(&summary(&rules));
    Ok(ExitCode::SUCCESS)
}

async fn remove(table: &Table) -> Result<ExitCode, HostError> {
    host::remove(table).await?;
    say(&format!("{table}: removed\n"));
    Ok(ExitCode::SUCCESS)
}

async fn show(table: &Table, output: Output) -> Result<ExitCode, Failed> {
    let inspection = host::inspect(table).await?;
    match output {
        Output::Json => say(&format!("{:#}\n", to_json(table, &inspection))),
        Output::Text => {
            if inspection.live.is_some() {
                let listing = nft::print(table).await.map_err(HostError::from)?;
                say(&listing);
            }
            say(&to_text(table, &inspection));
        }
    }
    Ok(match inspection.state {
        State::Intact => ExitCode::SUCCESS,
        State::Missing | State::Altered(_) => ExitCode::FAILURE,
    })
}

/// Nobody is left to be told if printing fails; the exit code still says it.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn to_text(table: &Table, inspection: &Inspection) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = match &inspection.state {
        State::Intact => writeln!(text, "{table}: intact"),
        State::Missing => writeln!(text, "{table}: missing"),
        State::Altered(problems) => writeln!(text, "{table}: altered: {}", problems.join("; ")),
    };
    if let Some(live) = &inspection.live {
        for line in live.record.lines() {
            let _ = writeln!(text, "  on lo: {line}");
        }
    }
    text
}

fn to_json(table: &Table, inspection: &Inspection) -> Value {
    let (state, problems) = match &inspection.state {
        State::Intact => ("intact", &[][..]),
        State::Missing => ("missing", &[][..]),
        State::Altered(problems) => ("altered", problems.as_slice()),
    };
    let live = inspection.live.as_ref();
    let record = live.map(|live| live.record.clone()).unwrap_or_default();
    let routes = record.routes.iter();
    json!({
        "table": table.as_str(),
        "state": state,
        "problems": problems,
        "addresses": record.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "routes": routes.map(|(range, source)| json!({ "range": range.to_string(), "source": source.to_string() })).collect::<Vec<_>>(),
        "nftables": live.map(|live| &live.listing["nftables"]),
    })
}

fn summary(rules: &Rules) -> String {
    let whom = match &rules.whom {
        Whom::All => "this host".to_owned(),
        Whom::Uids(uids) => format!("uid {}", join(uids)),
        Whom::Cgroup(cgroup) => format!("control group {}", cgroup.path),
    };
    let mut text = format!(
        "{}: TCP of {whom} goes to port {}",
        rules.table, rules.outbound_port
    );
    // Writing to a String does not fail.
    let _ = match &rules.inbound {
        InboundPorts::All => write!(text, ", to it to port {}", rules.inbound_port),
        InboundPorts::Listed(ports) if ports.is_empty() => Ok(()),
        InboundPorts::Listed(ports) => {
            write!(
                text,
                ", to its ports {} to port {}",
                join(ports),
                rules.inbound_port
            )
        }
    };
    text.push('\n');
    for line in rules.on_loopback().lines() {
        let _ = writeln!(text, "  on lo: {line}");
    }
    text
}

fn join(items: &BTreeSet<impl ToString>) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

/// A host may have IPv6 switched off, on loopback or everywhere.
fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|text| text.trim() == "0")
}

/// Puts together what the command line says, what the proxy's file says where it says nothing, and the ranges of the
/// documents.
///
/// # Errors
/// Why it makes no sense.
fn rules(
    args: &InstallArgs,
    config: Option<&Config>,
    (mesh_ranges, service_ranges): (Vec<IpNet>, Vec<IpNet>),
    ipv6: bool,
) -> Result<Rules, String> {
    let (default_listen, capture) = (
        Listen::default(),
        config.and_then(|config| config.capture.as_ref()),
    );
    let listen = config.map_or(&default_listen, |config| &config.listen);
    let outbound_port = one_port("outbound", args.outbound_port, &listen.outbound)?;
    // The kernel redirects what a host sends to a port of its loopback address.
    let is_reached = |address: &SocketAddr| {
        let ip = address.ip();
        ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
    };
    if args.outbound_port.is_none() && !listen.outbound.iter().all(is_reached) {
        return Err(
            "listen.outbound of the proxy's file must be on 127.0.0.1 and ::1 to be redirected to".to_owned(),
        );
    }
    let inbound_port = one_port("inbound", args.inbound_port, &listen.inbound)?;
    let ports = listen.named().into_iter().flat_map(|(_, addresses)| addresses);
    let mut own_ports: BTreeSet<u16> = ports.map(SocketAddr::port).collect();
    own_ports.extend([outbound_port, inbound_port]);
    let declared = config.map(|config| config.application.ports.iter());
    let declared = declared
        .into_iter()
        .flatten()
        .filter(|port| !port.protocol.is_udp());
    let inbound = match (args.all_ports, args.port.is_empty()) {
        (true, _) => InboundPorts::All,
        (false, true) => InboundPorts::Listed(declared.map(|port| port.port).collect()),
        (false, false) => InboundPorts::Listed(args.port.iter().copied().collect()),
    };
    let or = |given: &[IpNet], found: Vec<IpNet>| if given.is_empty() { found } else { given.to_vec() };
    let mut mesh_ranges = or(&args.mesh_range, mesh_ranges);
    let stable = stable(&args.stable_address, ipv6)?;
    // A route to services needs a source of their family; without one they are only addresses of the mesh.
    let has_source = |range: &IpNet| {
        stable
            .iter()
            .any(|address| address.is_ipv4() == range.addr().is_ipv4())
    };
    let (service_ranges, unrouted) = or(&args.service_range, service_ranges)
        .into_iter()
        .map(|range| range.trunc())
        .partition(has_source);
    mesh_ranges.extend::<Vec<_>>(unrouted);
    let service_ranges = IpNet::aggregate(&service_ranges);
    let rules = Rules {
        table: args.which.table_with(config),
        whom: whom(args)?,
        exempt: Exempt {
            uids: args.proxy_uid.iter().copied().collect(),
            gids: args.proxy_gid.iter().copied().collect(),
            mark: args
                .proxy_mark
                .or_else(|| capture.and_then(|capture| capture.mark)),
            ports: args.exclude_port.iter().copied().collect(),
            inbound_ports: args.exclude_inbound_port.iter().copied().collect(),
            ranges: args.exclude_range.clone(),
        },
        outbound_port,
        inbound_port,
        inbound,
        own_ports,
        mesh_ranges,
        service_ranges,
        stable,
    };
    check(&rules).map(|()| rules)
}

fn whom(args: &InstallArgs) -> Result<Whom, String> {
    match &args.cgroup {
        Some(path) => cgroup::find(path).map(Whom::Cgroup),
        None if args.uid.is_empty() => Ok(Whom::All),
        None => Ok(Whom::Uids(args.uid.iter().copied().collect())),
    }
}

/// The kernel redirects to a port of the address that it chooses itself.
fn one_port(name: &str, given: Option<u16>, listeners: &[SocketAddr]) -> Result<u16, String> {
    let ports: BTreeSet<u16> = listeners.iter().map(SocketAddr::port).collect();
    match (given, Vec::from_iter(ports).as_slice()) {
        (Some(port), _) => Ok(port),
        (None, [port]) if *port != 0 => Ok(*port),
        (None, _) => Err(format!(
            "listen.{name} of the proxy's file has no port, or several: say which with --{name}-port"
        )),
    }
}

fn stable(given: &[IpAddr], ipv6: bool) -> Result<Vec<IpAddr>, String> {
    let mut stable = Vec::new();
    for (family, default) in [(4, STABLE_V4), (6, STABLE_V6)] {
        let of_family: Vec<_> = given
            .iter()
            .filter(|address| address.is_ipv4() == (family == 4))
            .collect();
        match of_family.as_slice() {
            [] if family == 6 && !ipv6 => {}
            [] => stable.push(default),
            [address] => stable.push(**address),
            _ => return Err(format!("--stable-address takes one address of IPv{family}")),
        }
    }
    Ok(stable)
}

fn check(rules: &Rules) -> Result<(), String> {
    let exempt = &rules.exempt;
    let by_socket = !exempt.gids.is_empty() || exempt.mark.is_some();
    match &rules.whom {
        Whom::All if exempt.uids.is_empty() && !by_socket => Err(
            "the sidecar's own connections would be captured too: let them pass with --proxy-uid, --proxy-gid or \
             --proxy-mark, or capture one application with --uid or --cgroup"
                .to_owned(),
        ),
        Whom::Uids(uids) if uids.is_subset(&exempt.uids) => {
            Err("nothing would be captured: --uid and --proxy-uid are the same".to_owned())
        }
        Whom::All | Whom::Uids(_) | Whom::Cgroup(_) => match &rules.inbound {
            InboundPorts::Listed(ports) if !ports.is_disjoint(&rules.own_ports) => {
                Err("a port of the sidecar is not one of the application".to_owned())
            }
            InboundPorts::Listed(_) | InboundPorts::All => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use weft_proto::Source;

    use super::*;
    use crate::cli::Command;

    const CONFIG: &str = "workload: {name: web-0}\nidentity: {certificate: a, key: b, trustBundle: c}\n\
        documents: [mesh.yaml]\napplication: {ports: [{port: 8080}, {port: 53, protocol: udp}]}\n\
        capture: {instance: web, mark: 4711}\n";

    fn made(line: &str, config: Option<&str>) -> Result<Rules, String> {
        let line = format!("weft-proxy capture install {line}");
        let cli = Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
        let Command::Capture(CaptureCommand::Install(args)) = cli.command else {
            panic!()
        };
        let config = config.map(|text| Config::parse(&Source::new("web.yaml", text), Path::new("")).unwrap());
        let range = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        let ranges = config
            .as_ref()
            .map(|_| (range("10.0.0.0/8"), range("10.96.0.0/16")));
        rules(&args, config.as_ref(), ranges.unwrap_or_default(), true)
    }

    #[test]
    fn a_proxys_file_says_what_the_command_line_does_not() {
        let rules = made("", Some(CONFIG)).unwrap();
        assert_eq!(rules.table.as_str(), "weft_web");
        assert_eq!((rules.outbound_port, rules.inbound_port), (15_001, 15_006));
        assert_eq!(rules.exempt.mark, Some(4711));
        assert_eq!(rules.inbound, InboundPorts::Listed([8080].into()));
        assert_eq!(rules.own_ports, [15_000, 15_001, 15_006, 15_008, 15_020].into());
        assert_eq!(rules.service_ranges, ["10.96.0.0/16".parse().unwrap()]);
        let rules = made(
            "--instance other --proxy-mark 7 --port 9000 --outbound-port 16001 --mesh-range 10.1.0.0/16",
            Some(CONFIG),
        )
        .unwrap();
        assert_eq!(rules.table.as_str(), "weft_other");
        assert_eq!((rules.outbound_port, rules.exempt.mark), (16_001, Some(7)));
        assert_eq!(rules.inbound, InboundPorts::Listed([9000].into()));
        assert_eq!(rules.mesh_ranges, ["10.1.0.0/16".parse().unwrap()]);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (line, config, message) in [
            ("", None, "captured too"),
            ("--uid 7 --proxy-uid 7", None, "nothing would be captured"),
            ("--proxy-uid 7 --port 15020", None, "a port of the sidecar"),
            (
                "--uid 7 --stable-address 10.0.0.1 --stable-address 10.0.0.2",
                None,
                "one address of IPv4",
            ),
            ("--uid 7 --all-ports", None, "cannot be used with"),
            ("--uid 7 --port 0", None, "not a port"),
            ("--uid 7 --mesh-range 10.0.0.0/99", None, "invalid value"),
            (
                "",
                Some("listen: {outbound: '10.0.0.1:15001'}\n"),
                "must be on 127.0.0.1",
            ),
            (
                "",
                Some("listen: {outbound: ['127.0.0.1:1', '[::1]:2']}\n"),
                "--outbound-port",
            ),
        ] {
            let config = config.map(|more| format!("{CONFIG}{more}"));
            let error = made(line, config.as_deref()).unwrap_err();
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn without_ipv6_services_are_not_routed_over_it_and_are_of_the_mesh_still() {
        let line =
            "weft-proxy capture install --uid 7 --service-range fd96::/112 --service-range 10.96.0.0/16";
        let Command::Capture(CaptureCommand::Install(args)) =
            Cli::parse_from(line.split_whitespace()).command
        else {
            panic!()
        };
        let rules = rules(&args, None, (Vec::new(), Vec::new()), false).unwrap();
        assert_eq!(rules.stable, [STABLE_V4]);
        assert_eq!(rules.service_ranges, ["10.96.0.0/16".parse().unwrap()]);
        assert_eq!(rules.mesh_ranges, ["fd96::/112".parse().unwrap()]);
    }
}
