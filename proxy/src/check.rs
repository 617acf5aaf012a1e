//! `weft-proxy check`: everything that is wrong with a configuration, before a proxy meets it.
//!
//! Reads what a proxy reads: its file, the documents, the credentials. An error is what a proxy refuses, or what
//! makes it useless; a warning is what works, but hardly as it was meant.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use serde_json::{Value, json};
use weft_proto::{
    DocumentError, SpiffeId,
    model::{Mesh, Workload, WorkloadPort},
};
use weft_transport::credentials::Credentials;

use crate::{
    access_log::Sink,
    cli::Output,
    config::{Config, Controller, Files, Join, Origin, error_of_file},
    control::sign::join_root,
    documents::DocumentsWatcher,
    identity::{self, IdentityError, IdentityFiles, IdentityWatcher},
    run_args::RunArgs,
};

/// What was found.
#[derive(Debug, Default)]
struct Findings {
    errors: Vec<DocumentError>,
    warnings: Vec<DocumentError>,
    summary: Vec<String>,
}

/// Checks, and prints what was found. The exit code is 1 if there is an error.
pub(crate) fn run(source: &RunArgs, output: Output) -> ExitCode {
    let findings = check(source, SystemTime::now());
    // Nobody is left to be told if printing fails; the exit code still says it.
    let _ = match output {
        Output::Text => findings.print_text(&mut io::stdout(), &mut io::stderr()),
        Output::Json => writeln!(io::stdout(), "{}", findings.to_json()),
    };
    findings.exit_code().into()
}

fn check(source: &RunArgs, now: SystemTime) -> Findings {
    let mut check = Check {
        file: source.file(),
        findings: Findings::default(),
    };
    match source.config() {
        Ok(config) => check.all(&config, now),
        Err(errors) => check.findings.errors = errors,
    }
    check.findings
}

/// A check of one configuration.
struct Check {
    /// Its name.
    file: String,
    findings: Findings,
}

impl Check {
    fn all(&mut self, config: &Config, now: SystemTime) {
        self.warn_of_listeners(config);
        self.check_directories(config);
        match &config.origin {
            Origin::Files(files) => {
                let credentials = self.credentials(files, now);
                let mesh = self.documents(files);
                if let Some(credentials) = &credentials {
                    self.check_identity(config, files, credentials.svid().id(), mesh.as_deref());
                }
                if let Some(mesh) = &mesh {
                    self.check_own_workload(config, mesh);
                    self.check_binds(config, mesh);
                }
                self.summarize(config, credentials.as_ref(), mesh.as_deref());
            }
            Origin::Controller(controller) => {
                self.check_controller(config, controller);
                self.summarize(config, None, None);
            }
        }
    }

    fn documents(&mut self, files: &Files) -> Option<Arc<Mesh>> {
        match DocumentsWatcher::load(&files.documents) {
            Ok((_, documents)) => Some(documents.mesh.borrow().clone()),
            Err(errors) => {
                self.findings.errors.extend(errors.0);
                None
            }
        }
    }

    /// What can be known before the controller is asked.
    fn check_controller(&mut self, config: &Config, controller: &Controller) {
        if let Some(join) = &controller.join
            && let Err(why) = join.read().and_then(|token| join_root(&token))
        {
            let field = match join {
                Join::Token(_) => "join",
                Join::File(_) => "controller.join.tokenFile",
            };
            self.error(field, why);
        }
        if config.state.is_none() {
            self.warn(
                "state",
                "missing, and there is no home directory: nothing is kept, and a restart needs a new token"
                    .to_owned(),
            );
        } else if controller.join.is_none() && !controller.cache {
            self.error(
                "controller.join",
                "missing: without a token and without a cache there is no way to an identity".to_owned(),
            );
        }
    }

    /// An error of a field of the configuration.
    fn error(&mut self, path: &str, message: String) {
        self.findings.errors.push(self.finding(path, message));
    }

    fn warn(&mut self, path: &str, message: String) {
        self.findings.warnings.push(self.finding(path, message));
    }

    fn finding(&self, path: &str, message: String) -> DocumentError {
        DocumentError {
            path: path.to_owned(),
            ..error_of_file(self.file.clone(), message)
        }
    }

    /// Whoever reaches these speaks with the identity of the workload.
    fn warn_of_listeners(&mut self, config: &Config) {
        let outbound = config
            .listen
            .outbound
            .iter()
            .map(|address| ("listen.outbound".to_owned(), *address));
        let binds = config.binds.iter().enumerate();
        let binds = binds.map(|(index, bind)| (format!("binds[{index}].listen"), bind.listen));
        let open: Vec<(String, SocketAddr)> = outbound
            .chain(binds)
            .filter(|(_, address)| !address.ip().is_loopback())
            .collect();
        for (path, address) in open {
            let message = format!(
                "{address} is not a loopback address: whoever reaches it calls the mesh as this workload"
            );
            self.warn(&path, message);
        }
        let application = &config.application;
        if application.address == SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)).ip()
            && application.source.is_none()
        {
            self.warn(
                "application.source",
                "missing: the mesh reaches the application from ::1, as do others on this host; IPv6 has no second \
                 loopback address, so add one to lo"
                    .to_owned(),
            );
        }
    }

    fn check_directories(&mut self, config: &Config) {
        if let Some(state) = &config.state
            && let Ok(metadata) = fs::metadata(state)
        {
            let mode = metadata.permissions().mode() & 0o777;
            if !metadata.is_dir() {
                self.error("state", format!("{} is not a directory", state.display()));
            } else if mode & 0o077 != 0 {
                let message = format!(
                    "{} is open to others (mode {mode:o}): it must be 700",
                    state.display()
                );
                self.error("state", message);
            }
        }
        if let Sink::File(path) = &config.access_log
            && let Some(directory) = path.parent()
            && !directory.as_os_str().is_empty()
            && !directory.is_dir()
        {
            self.error("accessLog", format!("{} is not a directory", directory.display()));
        }
    }

    /// The credentials, or an error for each file that cannot be read, or for all of them together.
    fn credentials(&mut self, files: &Files, now: SystemTime) -> Option<Credentials> {
        let paths = &files.identity;
        let files = IdentityFiles {
            certificate: paths.certificate.clone(),
            key: paths.key.clone(),
            trust_bundle: paths.trust_bundle.clone(),
            expected: None,
        };
        let fields = [
            ("identity.certificate", &files.certificate),
            ("identity.key", &files.key),
            ("identity.trustBundle", &files.trust_bundle),
        ];
        let before = self.findings.errors.len();
        for (field, path) in fields {
            if let Err(error) = fs::File::open(path) {
                self.error(field, format!("{}: cannot be read: {error}", path.display()));
            }
        }
        if self.findings.errors.len() > before {
            return None;
        }
        if fs::metadata(&files.key).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0) {
            self.warn(
                "identity.key",
                format!("{}: every user of this host can access it", files.key.display()),
            );
        }
        let credentials = match IdentityWatcher::load(files) {
            Ok((_, identity)) => identity.credentials.borrow().as_ref().clone(),
            Err(error) => {
                // The field says which files they are.
                let message = match error {
                    IdentityError::Credentials { error, .. } => error.to_string(),
                    error => error.to_string(),
                };
                self.error("identity", message);
                return None;
            }
        };
        let svid = credentials.svid();
        let (from, until) = (
            identity::date(svid.not_before()),
            identity::date(svid.not_after()),
        );
        let file = paths.certificate.display();
        if now > svid.not_after() {
            self.error("identity.certificate", format!("{file}: it expired at {until}"));
        } else if now < svid.not_before() {
            self.error(
                "identity.certificate",
                format!("{file}: it is not valid before {from}"),
            );
        }
        Some(credentials)
    }

    /// The certificate must be that of the workload, in the trust domain of the mesh.
    fn check_identity(&mut self, config: &Config, files: &Files, found: &SpiffeId, mesh: Option<&Mesh>) {
        let trust_domain = mesh.map_or(found.trust_domain(), |mesh| &mesh.config.trust_domain);
        match config.workload.identity(trust_domain) {
            Ok(expected) if expected == *found => {}
            Ok(expected) => {
                let file = files.identity.certificate.display();
                let message = format!("{file}: it is for {found}, and this workload is {expected}");
                self.error("identity.certificate", message);
            }
            Err(error) => self.error("workload", error.to_string()),
        }
    }

    /// What peers know of this workload must be what its proxy does.
    fn check_own_workload(&mut self, config: &Config, mesh: &Mesh) {
        let workload = &config.workload;
        let name = format!("{}/{}", workload.namespace, workload.name);
        let is_own = |known: &&Workload| {
            known.name.name == workload.name && known.name.namespace == workload.namespace
        };
        let Some(own) = mesh.workloads.iter().find(is_own) else {
            self.warn(
                "workload",
                format!("the documents have no Workload {name}: nobody can call it"),
            );
            return;
        };
        if own.service_account != workload.service_account {
            let message = format!(
                "the Workload {name} has {}: peers expect that identity, and will not accept this one",
                own.service_account
            );
            self.warn("workload.serviceAccount", message);
        }
        if own.labels != workload.labels && !workload.labels.is_empty() {
            let message = format!("the Workload {name} has others, and those are what services select by");
            self.warn("workload.labels", message);
        }
        match own.mesh_port {
            None => {
                let message =
                    format!("the Workload {name} has no meshPort: peers believe that it has no sidecar");
                self.warn("listen.mesh", message);
            }
            Some(port) if !config.listen.mesh.iter().any(|address| address.port() == port) => {
                let message = format!("the Workload {name} has meshPort {port}, which is not among these");
                self.warn("listen.mesh", message);
            }
            Some(_) => {}
        }
        self.check_ports(&config.application.ports, own);
    }

    fn check_ports(&mut self, ports: &[WorkloadPort], own: &Workload) {
        let name = &own.name;
        let same = |left: &WorkloadPort, right: &WorkloadPort| {
            left.port == right.port && left.protocol.is_udp() == right.protocol.is_udp()
        };
        for known in &own.ports {
            match ports.iter().find(|port| same(port, known)) {
                None => {
                    let message = format!(
                        "the Workload {name} has port {}, which is not among these: calls to it are refused",
                        known.port
                    );
                    self.warn("application.ports", message);
                }
                Some(port) if port.protocol != known.protocol => {
                    let message = format!(
                        "port {} is {} here, and {} in the Workload {name}",
                        port.port,
                        port.protocol.as_str(),
                        known.protocol.as_str()
                    );
                    self.warn("application.ports", message);
                }
                Some(_) => {}
            }
        }
        for port in ports
            .iter()
            .filter(|port| !own.ports.iter().any(|known| same(port, known)))
        {
            let message = format!(
                "the Workload {name} has no port {}: nobody can call it",
                port.port
            );
            self.warn("application.ports", message);
        }
    }

    fn check_binds(&mut self, config: &Config, mesh: &Mesh) {
        for (index, bind) in config.binds.iter().enumerate() {
            let is_it =
                |name: &weft_proto::model::Name| *bind.host == *format!("{}.{}", name.name, name.namespace);
            let service = mesh.services.iter().find(|service| is_it(&service.name));
            let has_port = service.is_some_and(|service| {
                service
                    .ports
                    .iter()
                    .any(|port| port.port == bind.port && !port.protocol.is_udp())
            });
            let problem = match service {
                None => format!("the documents have no Service {}", bind.host),
                Some(_) if !has_port => format!("the Service {} has no TCP port {}", bind.host, bind.port),
                Some(_) => continue,
            };
            self.warn(&format!("binds[{index}].service"), problem);
        }
    }

    fn summarize(&mut self, config: &Config, credentials: Option<&Credentials>, mesh: Option<&Mesh>) {
        let lines = &mut self.findings.summary;
        lines.push(format!(
            "workload  {}/{}",
            config.workload.namespace, config.workload.name
        ));
        if let Some(svid) = credentials.map(Credentials::svid) {
            lines.push(format!(
                "identity  {}, until {}",
                svid.id(),
                identity::date(svid.not_after())
            ));
        }
        if let Some(controller) = config.controller() {
            lines.push(format!("controller {}", controller.addresses.join(", ")));
            if let Some(state) = &config.state {
                lines.push(format!("state     {}", state.display()));
            }
        }
        if let Some(mesh) = mesh {
            let meshed = mesh
                .workloads
                .iter()
                .filter(|workload| workload.is_meshed())
                .count();
            lines.push(format!(
                "documents {}: {} services, {} workloads, {meshed} of them with a sidecar",
                mesh.config.trust_domain,
                mesh.services.len(),
                mesh.workloads.len()
            ));
        }
        for (name, addresses) in config.listen.named() {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            if !addresses.is_empty() {
                lines.push(format!("{name:<9} {}", addresses.join(", ")));
            }
        }
        for bind in &config.binds {
            lines.push(format!(
                "bind      {} -> {}:{}",
                bind.listen, bind.host, bind.port
            ));
        }
    }
}

impl Findings {
    fn exit_code(&self) -> u8 {
        u8::from(!self.errors.is_empty())
    }

    /// Errors and warnings to `stderr`, and a summary to `stdout` if there are no errors.
    fn print_text(&self, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<()> {
        for error in &self.errors {
            writeln!(stderr, "{error}")?;
        }
        for warning in &self.warnings {
            writeln!(stderr, "warning: {warning}")?;
        }
        if self.errors.is_empty() {
            for line in &self.summary {
                writeln!(stdout, "{line}")?;
            }
        }
        let plural = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        let mut counts = plural(self.errors.len(), "error");
        if !self.warnings.is_empty() {
            counts = format!("{counts}, {}", plural(self.warnings.len(), "warning"));
        }
        writeln!(stderr, "{counts}")
    }

    fn to_json(&self) -> Value {
        let list = |findings: &[DocumentError]| -> Vec<Value> {
            let shown = findings.iter().map(|finding| {
                let line = Some(finding.line).filter(|line| *line > 0);
                let column = Some(finding.column).filter(|column| *column > 0);
                json!({
                    "file": finding.file, "line": line, "column": column,
                    "path": finding.path, "message": finding.message,
                })
            });
            shown.collect()
        };
        json!({ "ok": self.errors.is_empty(), "errors": list(&self.errors), "warnings": list(&self.warnings) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dev_certs::{self, DevCertsArgs};

    const CONFIG: &str = "\
workload: {name: web-0, serviceAccount: web, labels: {app: web}}
state: state
identity: {certificate: web.pem, key: web.key, trustBundle: ca.pem}
application: {ports: [{name: http, port: 8080, protocol: http}]}
binds: [{listen: '127.0.0.1:5432', service: db:5432}]
documents: [mesh.yaml]
";

    const MESH: &str = "\
apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: mesh.test}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{port: 5432}]}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {name: web-0, labels: {app: web}}
spec:
  address: 10.0.0.1
  meshPort: 15008
  serviceAccount: web
  ports: [{name: http, port: 8080, protocol: http}]
";

    /// A directory with a valid configuration, and all that it needs.
    struct Lab(tempfile::TempDir);

    impl Lab {
        fn new() -> Self {
            let lab = Self(tempfile::tempdir().unwrap());
            dev_certs::write(&DevCertsArgs {
                directory: lab.0.path().to_owned(),
                names: vec!["web".parse().unwrap(), "db".parse().unwrap()],
                trust_domain: "mesh.test".parse().unwrap(),
                lifetime: Duration::from_secs(3600),
                force: false,
            })
            .unwrap();
            lab.write("web.yaml", CONFIG);
            lab.write("mesh.yaml", MESH);
            lab
        }

        /// The same with one text replaced.
        fn with(file: &str, from: &str, to: &str) -> Self {
            let lab = Self::new();
            let text = if file == "web.yaml" { CONFIG } else { MESH };
            assert!(text.contains(from), "{from}");
            lab.write(file, &text.replace(from, to));
            lab
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        fn check_at(&self, now: SystemTime) -> Findings {
            check(&RunArgs::of_file(self.0.path().join("web.yaml")), now)
        }

        fn check(&self) -> Findings {
            self.check_at(SystemTime::now())
        }

        /// Without the name of the directory.
        fn lines(&self, findings: &[DocumentError]) -> Vec<String> {
            let directory = format!("{}/", self.0.path().display());
            findings
                .iter()
                .map(|finding| finding.to_string().replace(&directory, ""))
                .collect()
        }

        /// What is wrong, and that the exit code says so.
        fn errors(&self) -> Vec<String> {
            let findings = self.check();
            assert_eq!(findings.exit_code(), 1);
            self.lines(&findings.errors)
        }

        fn warnings(&self) -> Vec<String> {
            let findings = self.check();
            assert_eq!(
                (findings.exit_code(), self.lines(&findings.errors)),
                (0, Vec::new())
            );
            self.lines(&findings.warnings)
        }
    }

    fn text(findings: &Findings) -> (String, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        findings.print_text(&mut stdout, &mut stderr).unwrap();
        (
            String::from_utf8(stdout).unwrap(),
            String::from_utf8(stderr).unwrap(),
        )
    }

    #[test]
    fn a_valid_configuration_has_a_summary_and_exit_code_0() {
        let lab = Lab::new();
        let findings = lab.check();
        assert_eq!(findings.exit_code(), 0);
        let (stdout, stderr) = text(&findings);
        assert_eq!(stderr, "0 errors\n");
        assert!(stdout.starts_with(
            "workload  default/web-0\nidentity  spiffe://mesh.test/ns/default/sa/web, until 20"
        ));
        for line in [
            "documents mesh.test: 1 services, 1 workloads, 1 of them with a sidecar",
            "mesh      [::]:15008",
            "outbound  127.0.0.1:15001, [::1]:15001",
            "bind      127.0.0.1:5432 -> db.default:5432",
        ] {
            assert!(stdout.lines().any(|found| found == line), "{stdout}");
        }
        assert!(!lab.0.path().join("state").exists(), "a check writes nothing");
        let json = findings.to_json();
        assert_eq!(json, json!({ "ok": true, "errors": [], "warnings": [] }));
    }

    #[test]
    fn errors_of_documents_and_credentials_come_together() {
        let lab = Lab::with("mesh.yaml", "port: 8080", "port: 0");
        fs::remove_file(lab.0.path().join("web.key")).unwrap();
        fs::remove_file(lab.0.path().join("ca.pem")).unwrap();
        let missing = "cannot be read: No such file or directory (os error 2)";
        assert_eq!(
            lab.errors(),
            [
                format!("web.yaml: identity.key: web.key: {missing}"),
                format!("web.yaml: identity.trustBundle: ca.pem: {missing}"),
                "mesh.yaml:18: spec.ports[0].port: 0 is not a port (1 to 65535)".to_owned(),
            ]
        );
        let (stdout, stderr) = text(&lab.check());
        assert_eq!(stdout, "");
        assert!(stderr.ends_with("\n3 errors\n"), "{stderr}");
        let json = lab.check().to_json();
        assert_eq!(json["ok"], false);
        let error = &json["errors"][2];
        assert_eq!(
            (&error["line"], &error["path"]),
            (&json!(18), &json!("spec.ports[0].port"))
        );
        assert_eq!(json["errors"][0]["line"], Value::Null);
    }

    #[test]
    fn errors_of_the_configuration() {
        let lab = Lab::with("web.yaml", "state:", "stat:");
        assert_eq!(
            lab.errors(),
            ["web.yaml:2: stat: unknown field; did you mean state?"]
        );
        assert!(text(&lab.check()).1.ends_with("\n1 error\n"));
    }

    #[test]
    fn credentials_of_somebody_else_or_of_no_use() {
        let lab = Lab::with("web.yaml", "web.pem, key: web.key", "db.pem, key: db.key");
        assert_eq!(
            lab.errors(),
            [
                "web.yaml: identity.certificate: db.pem: it is for spiffe://mesh.test/ns/default/sa/db, and this \
              workload is spiffe://mesh.test/ns/default/sa/web"
            ]
        );
        let lab = Lab::with("mesh.yaml", "mesh.test", "other.test");
        assert_eq!(
            lab.errors(),
            [
                "web.yaml: identity.certificate: web.pem: it is for spiffe://mesh.test/ns/default/sa/web, and this \
              workload is spiffe://other.test/ns/default/sa/web"
            ]
        );
        let lab = Lab::with("web.yaml", "key: web.key", "key: db.key");
        assert_eq!(
            lab.errors(),
            ["web.yaml: identity: key: it does not belong to the certificate"]
        );
        // Also with documents that cannot be read.
        lab.write("mesh.yaml", "}");
        assert_eq!(lab.errors().len(), 2);
    }

    #[test]
    fn an_svid_that_is_not_valid_now() {
        let lab = Lab::new();
        let later = lab.check_at(SystemTime::now() + Duration::from_secs(7200));
        let [error] = later.errors.as_slice() else {
            panic!("{later:?}")
        };
        assert!(error.message.contains("it expired at 20"), "{error}");
        let earlier = lab.check_at(SystemTime::now() - Duration::from_secs(7200));
        assert!(
            earlier.errors[0].message.contains("it is not valid before 20"),
            "{earlier:?}"
        );
    }

    #[test]
    fn directories() {
        let lab = Lab::new();
        let state = lab.0.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(
            lab.errors(),
            ["web.yaml: state: state is open to others (mode 750): it must be 700"]
        );
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(lab.warnings(), [""; 0]);
        let lab = Lab::with(
            "web.yaml",
            "state: state",
            "state: web.pem\naccessLog: log/access.json",
        );
        assert_eq!(
            lab.errors(),
            [
                "web.yaml: state: web.pem is not a directory",
                "web.yaml: accessLog: log is not a directory"
            ]
        );
    }

    #[test]
    fn what_does_not_fit_the_documents_is_a_warning() {
        for (file, from, to, wanted) in [
            (
                "mesh.yaml",
                "name: web-0",
                "name: web-1",
                vec!["workload: the documents have no Workload default/web-0: nobody can call it"],
            ),
            (
                "mesh.yaml",
                "serviceAccount: web",
                "serviceAccount: www",
                vec![
                    "workload.serviceAccount: the Workload default/web-0 has www: peers expect that identity, and will not \
                 accept this one",
                ],
            ),
            (
                "mesh.yaml",
                "labels: {app: web}",
                "labels: {app: www}",
                vec![
                    "workload.labels: the Workload default/web-0 has others, and those are what services select by",
                ],
            ),
            (
                "mesh.yaml",
                "meshPort: 15008",
                "meshPort: 15009",
                vec!["listen.mesh: the Workload default/web-0 has meshPort 15009, which is not among these"],
            ),
            (
                "mesh.yaml",
                "  meshPort: 15008\n",
                "",
                vec![
                    "listen.mesh: the Workload default/web-0 has no meshPort: peers believe that it has no sidecar",
                ],
            ),
            (
                "mesh.yaml",
                "port: 8080",
                "port: 8081",
                vec![
                    "application.ports: the Workload default/web-0 has port 8081, which is not among these: calls to it are \
                 refused",
                    "application.ports: the Workload default/web-0 has no port 8080: nobody can call it",
                ],
            ),
            (
                "mesh.yaml",
                "protocol: http",
                "protocol: tcp",
                vec!["application.ports: port 8080 is http here, and tcp in the Workload default/web-0"],
            ),
            (
                "mesh.yaml",
                "metadata: {name: db}",
                "metadata: {name: db2}",
                vec!["binds[0].service: the documents have no Service db.default"],
            ),
            (
                "web.yaml",
                "db:5432",
                "db:5433",
                vec!["binds[0].service: the Service db.default has no TCP port 5433"],
            ),
            (
                "web.yaml",
                "state: state",
                "listen: {outbound: '0.0.0.0:15001'}",
                vec![
                    "listen.outbound: 0.0.0.0:15001 is not a loopback address: whoever reaches it calls the mesh as this \
                 workload",
                ],
            ),
            (
                "web.yaml",
                "127.0.0.1:5432",
                "10.0.0.1:5432",
                vec![
                    "binds[0].listen: 10.0.0.1:5432 is not a loopback address: whoever reaches it calls the mesh as this \
                 workload",
                ],
            ),
            (
                "web.yaml",
                "{ports:",
                "{address: '::1', ports:",
                vec![
                    "application.source: missing: the mesh reaches the application from ::1, as do others on this host; \
                 IPv6 has no second loopback address, so add one to lo",
                ],
            ),
        ] {
            let wanted: Vec<String> = wanted.iter().map(|line| format!("web.yaml: {line}")).collect();
            assert_eq!(Lab::with(file, from, to).warnings(), wanted);
        }
        let lab = Lab::new();
        fs::set_permissions(lab.0.path().join("web.key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            lab.warnings(),
            ["web.yaml: identity.key: web.key: every user of this host can access it"]
        );
        assert!(text(&lab.check()).1.ends_with("\n0 errors, 1 warning\n"));
    }

    #[test]
    fn a_missing_configuration() {
        let findings = check(&RunArgs::of_file("/nowhere/web.yaml".into()), SystemTime::now());
        let (_, stderr) = text(&findings);
        assert_eq!(
            stderr,
            "/nowhere/web.yaml: cannot be read: No such file or directory (os error 2)\n1 error\n"
        );
        assert_eq!(findings.exit_code(), 1);
    }
}
