use super::*;
use weft_proto::model::{AppProtocol, InboundMode};

/// The file of the issue that promises its shape to other tools.
const EXAMPLE: &str = r#"
workload: {name: web-0, namespace: default, serviceAccount: web, labels: {app: web}}
state: web-state              # directory, 0700: keys of this process, later the cache
identity: {certificate: web.pem, key: web.key, trustBundle: ca.pem}     # reloaded when they change
application: {address: 127.0.0.1, ports: [{name: http, port: 8080}]}    # the address may be the workload's own
listen:                       # each one address or a list; these are the defaults
  mesh: ["[::]:15008"]
  outbound: ["127.0.0.1:15001", "[::1]:15001"]
  inbound: ["[::]:15006"]
  admin: ["127.0.0.1:15000"]
  metrics: ["[::]:15020"]
binds: [{listen: "127.0.0.1:5432", service: "db.default:5432"}]
workers: 1
documents: [mesh.yaml]        # relative to this file
"#;

/// The least that is valid, to which tests add lines.
const LEAST: &str = "\
workload: {name: web-0}
identity: {certificate: web.pem, key: web.key, trustBundle: ca.pem}
documents: [mesh.yaml]
";

fn parse(text: &str) -> Result<Config, Vec<String>> {
    Config::parse(&Source::new("web.yaml", text), Path::new("/etc/weft"))
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// What is wrong with lines after the least that is valid. The first of them is line 4.
fn errors(lines: &str) -> Vec<String> {
    parse(&format!("{LEAST}{lines}")).err().unwrap_or_default()
}

fn valid(lines: &str) -> Config {
    parse(&format!("{LEAST}{lines}")).unwrap()
}

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
fn the_example_and_its_defaults() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.listen, Listen::default());
    let workload = &config.workload;
    assert_eq!(
        (workload.name.as_str(), workload.namespace.as_str()),
        ("web-0", "default")
    );
    assert_eq!(workload.service_account, "web");
    assert_eq!(workload.labels.get("app").map(String::as_str), Some("web"));
    assert_eq!(config.state.as_deref(), Some(Path::new("/etc/weft/web-state")));
    assert_eq!(
        config.files().unwrap().identity,
        IdentityPaths {
            certificate: "/etc/weft/web.pem".into(),
            key: "/etc/weft/web.key".into(),
            trust_bundle: "/etc/weft/ca.pem".into(),
        }
    );
    let [port] = config.application.ports.as_slice() else {
        panic!("{:?}", config.application)
    };
    assert_eq!(port.name.as_deref(), Some("http"));
    assert_eq!((port.port, port.protocol), (8080, AppProtocol::Detect));
    assert_eq!(
        config.binds,
        [Bind {
            listen: "127.0.0.1:5432".parse().unwrap(),
            host: "db.default".into(),
            port: 5432,
        }]
    );
    assert_eq!(
        config.files().unwrap().documents,
        [Path::new("/etc/weft/mesh.yaml")]
    );
}

#[test]
fn what_is_absent_has_its_default() {
    let config = valid("");
    assert_eq!(config.workload.namespace, "default");
    assert_eq!(config.workload.service_account, "default");
    assert!(config.workload.labels.is_empty());
    assert_eq!(config.state, None);
    assert_eq!(config.application, Application::default());
    assert_eq!(config.application.address, Ipv4Addr::LOCALHOST);
    let listen = &config.listen;
    assert_eq!(listen.mesh, addresses(&["[::]:15008"]));
    assert_eq!(listen.outbound, addresses(&["127.0.0.1:15001", "[::1]:15001"]));
    assert_eq!(listen.inbound, addresses(&["[::]:15006"]));
    assert_eq!(listen.admin, addresses(&["127.0.0.1:15000"]));
    assert_eq!(listen.metrics, addresses(&["[::]:15020"]));
    assert_eq!((config.binds.len(), config.workers), (0, 1));
    assert_eq!(config.access_log, Sink::Stdout);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!(
        (&config.plaintext, &config.capture),
        (&Plaintext::default(), &None)
    );
    // Null is absent.
    let nulls = "state:\napplication:\nlisten:\nbinds:\nworkers:\naccessLog:\ndrainTimeout:\n";
    assert_eq!(valid(nulls), config);
    assert_eq!(valid("listen: {mesh: ~}\n"), config);
}

#[test]
fn a_listener_is_one_address_or_a_list_and_the_others_keep_their_defaults() {
    let config =
        valid("listen: {mesh: '10.0.0.1:15008', outbound: ['127.0.0.1:0', '[::1]:0'], inbound: []}\n");
    assert_eq!(config.listen.mesh, addresses(&["10.0.0.1:15008"]));
    assert_eq!(config.listen.outbound, addresses(&["127.0.0.1:0", "[::1]:0"]));
    assert_eq!(config.listen.inbound, []);
    assert_eq!(config.listen.admin, Listen::default().admin);
}

#[test]
fn what_does_not_come_through_the_mesh_and_the_capture_of_what_does() {
    let config = valid(
        "application: {ports: [{port: 8080}, {port: 8081}]}\n\
         inbound: {plaintext: permissive, plaintextPorts: [8081]}\n\
         capture: {instance: web, mark: 4711, required: false}\n",
    );
    assert_eq!(config.plaintext.mode, Some(InboundMode::Permissive));
    assert_eq!(config.plaintext.ports, [8081]);
    let capture = config.capture.unwrap();
    assert_eq!(capture.instance.as_deref(), Some("web"));
    assert_eq!((capture.mark, capture.required), (Some(4711), false));
    let least = valid("capture: {}\n").capture.unwrap();
    assert_eq!((least.instance, least.mark, least.required), (None, None, true));
    assert_eq!(
        errors(
            "application: {ports: [{port: 53, protocol: udp}]}\ninbound: {plaintext: off, plaintextPorts: [53, 80]}\n\
             capture: {instance: Web, mark: 0}\n"
        ),
        [
            "web.yaml:5: inbound.plaintext: off is a boolean to YAML: put it in quotes",
            "web.yaml:5: inbound.plaintextPorts[0]: 53 is not a TCP port of the application",
            "web.yaml:5: inbound.plaintextPorts[1]: 80 is not a TCP port of the application",
            "web.yaml:6: capture.instance: Web is not a DNS label (1 to 63 of a-z, 0-9 and '-', a dash neither first nor last)",
            "web.yaml:6: capture.mark: 0 is not a mark (1 to 4294967295)",
        ]
    );
}

#[test]
fn paths_are_relative_to_the_file() {
    let lines = "state: /var/lib/weft\naccessLog: log/access.json\n";
    let config = valid(lines);
    assert_eq!(config.state.as_deref(), Some(Path::new("/var/lib/weft")));
    assert_eq!(config.access_log, Sink::File("/etc/weft/log/access.json".into()));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.yaml");
    std::fs::write(&path, LEAST).unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(
        config.files().unwrap().documents,
        [directory.path().join("mesh.yaml")]
    );
    // A file in the working directory stays relative to that.
    let config = Config::parse(&Source::new("web.yaml", LEAST), Path::new("")).unwrap();
    assert_eq!(config.files().unwrap().documents, [Path::new("mesh.yaml")]);
}

#[test]
fn words_of_the_access_log() {
    for (word, sink) in [
        ("stdout", Sink::Stdout),
        ("none", Sink::Off),
        ("'off'", Sink::Off),
        ("./none", Sink::File("/etc/weft/./none".into())),
    ] {
        assert_eq!(valid(&format!("accessLog: {word}\n")).access_log, sink);
    }
    assert_eq!(
        errors("accessLog: off\n"),
        ["web.yaml:4: accessLog: off is a boolean to YAML: put it in quotes"]
    );
}

#[test]
fn durations() {
    for (text, wanted) in [
        ("30s", Duration::from_secs(30)),
        ("1h", Duration::from_secs(3600)),
        ("1m30s", Duration::from_secs(90)),
        ("500ms", Duration::from_millis(500)),
        ("0s", Duration::ZERO),
        ("'10m5s7ms'", Duration::from_millis(605_007)),
    ] {
        assert_eq!(
            valid(&format!("drainTimeout: {text}\n")).drain_timeout,
            wanted,
            "{text}"
        );
    }
    let is_not_one = "is not a duration, such as 30s, 500ms or 1m30s";
    for (text, message) in [
        ("30", "30 is a number to YAML: put it in quotes".to_owned()),
        ("'30'", format!("30 {is_not_one}")),
        ("s", format!("s {is_not_one}")),
        ("30S", format!("30S {is_not_one}")),
        ("1.5s", format!("1.5s {is_not_one}")),
        ("-1s", format!("-1s {is_not_one}")),
        ("30 s", format!("\"30 s\" {is_not_one}")),
        ("1d", format!("1d {is_not_one}")),
        ("100000ms", format!("100000ms {is_not_one}")),
        ("1s1s1s1s1s", format!("1s1s1s1s1s {is_not_one}")),
        ("30µ", format!("\"30µ\" {is_not_one}")),
        ("''", format!("\"\" {is_not_one}")),
        ("61m", "61m is longer than 1h".to_owned()),
    ] {
        let wanted = format!("web.yaml:4: drainTimeout: {message}");
        assert_eq!(errors(&format!("drainTimeout: {text}\n")), [wanted], "{text}");
    }
}

#[test]
fn services_of_binds() {
    for (text, host) in [
        ("db:1", "db.shop"),
        ("db.default:1", "db.default"),
        ("db.default.svc:1", "db.default"),
        ("db.default.svc.cluster.local:1", "db.default"),
    ] {
        let config = parse(&format!(
            "workload: {{name: web-0, namespace: shop}}\nidentity: {{certificate: a, key: b, trustBundle: c}}\n\
             documents: [mesh.yaml]\nbinds: [{{listen: '127.0.0.1:0', service: '{text}'}}]\n"
        ));
        let binds = config.unwrap().binds;
        assert_eq!((&*binds[0].host, binds[0].port), (host, 1), "{text}");
    }
    let is_not_one = "is not the name of a service and a port, such as db.default:5432";
    for (text, message) in [
        (
            "db",
            "db has no port: a service and its port are wanted, such as db.default:5432".to_owned(),
        ),
        ("db:0", "db:0 has no valid port (1 to 65535)".to_owned()),
        ("db:", "db: has no valid port (1 to 65535)".to_owned()),
        ("db:+1", "db:+1 has no valid port (1 to 65535)".to_owned()),
        ("db:01", "db:01 has no valid port (1 to 65535)".to_owned()),
        ("db:65536", "db:65536 has no valid port (1 to 65535)".to_owned()),
        (":1", format!(":1 {is_not_one}")),
        ("DB:1", format!("DB:1 {is_not_one}")),
        ("1db:1", format!("1db:1 {is_not_one}")),
        ("a.b.c:1", format!("a.b.c:1 {is_not_one}")),
        ("db.svc:1", format!("db.svc:1 {is_not_one}")),
        ("db.default.:1", format!("db.default.:1 {is_not_one}")),
        ("10.0.0.1:1", format!("10.0.0.1:1 {is_not_one}")),
        ("[::1]:1", format!("[::1]:1 {is_not_one}")),
    ] {
        let wanted = format!("web.yaml:4: binds[0].service: {message}");
        let lines = format!("binds: [{{listen: '127.0.0.1:0', service: '{text}'}}]\n");
        assert_eq!(errors(&lines), [wanted], "{text}");
    }
}

#[test]
fn an_empty_file_lacks_what_is_required() {
    assert_eq!(
        parse("workers: 1\n").unwrap_err(),
        [
            "web.yaml:1: workload: missing",
            "web.yaml:1: identity: missing",
            "web.yaml:1: documents: missing",
        ]
    );
    assert_eq!(parse("").unwrap_err(), ["web.yaml: the file is empty"]);
}

#[test]
fn all_errors_come_at_once_with_line_and_field() {
    let text = "\
workload: {name: Web, namespace: a.b, serviceAccount: '-', labels: {app: 1}}
state: 7
identity:
  certificate: ''
  key: web.key
  trust_bundle: ca.pem
application:
  address: 0.0.0.0
  ports:
  - {name: http, port: 8080}
  - {name: http, port: 0}
listen:
  mesh: 15008
  admin: '0.0.0.0:15000'
  outbound: [localhost, '[::ffff:127.0.0.1]:1']
  metric: '[::]:15020'
binds:
- {listen: '127.0.0.1', service: db}
workers: 65
documents: []
acessLog: stdout
";
    assert_eq!(
        parse(text).unwrap_err(),
        [
            "web.yaml:1: workload.name: Web is not a DNS name (at most 253 of a-z, 0-9, '-' and '.', a letter or digit \
             first and last and beside each dot)",
            "web.yaml:1: workload.namespace: a.b is not a DNS label (1 to 63 of a-z, 0-9 and '-', a dash neither first \
             nor last)",
            "web.yaml:1: workload.serviceAccount: - is not a DNS name (at most 253 of a-z, 0-9, '-' and '.', a letter \
             or digit first and last and beside each dot)",
            "web.yaml:1: workload.labels[app]: 1 is a number to YAML: put it in quotes",
            "web.yaml:2: state: 7 is a number to YAML: put it in quotes",
            "web.yaml:3: identity.trustBundle: missing",
            "web.yaml:4: identity.certificate: \"\" is not a path",
            "web.yaml:6: identity.trust_bundle: unknown field; did you mean trustBundle?",
            "web.yaml:8: application.address: 0.0.0.0 is the unspecified address, not that of a host",
            "web.yaml:11: application.ports[1].name: the name http is in the list already",
            "web.yaml:11: application.ports[1].port: 0 is not a port (1 to 65535)",
            "web.yaml:13: listen.mesh: 15008 is a number to YAML: put it in quotes",
            "web.yaml:14: listen.admin: 0.0.0.0:15000 is not a loopback address: admin is for this host alone (metrics \
             and /ready are on listen.metrics)",
            "web.yaml:15: listen.outbound[0]: localhost is not an address and port, such as 127.0.0.1:80 or [::1]:80",
            "web.yaml:15: listen.outbound[1]: [::ffff:127.0.0.1]:1 has an IPv4-mapped address: write 127.0.0.1",
            "web.yaml:16: listen.metric: unknown field; did you mean metrics?",
            "web.yaml:18: binds[0].listen: 127.0.0.1 is not an address and port, such as 127.0.0.1:80 or [::1]:80",
            "web.yaml:18: binds[0].service: db has no port: a service and its port are wanted, such as db.default:5432",
            "web.yaml:19: workers: 65 is not a number of workers (1 to 64)",
            "web.yaml:20: documents: a file is needed: a mesh has at least its MeshConfig",
            "web.yaml:21: acessLog: unknown field; did you mean accessLog?",
        ]
    );
}

#[test]
fn single_errors() {
    for (lines, wanted) in [
        (
            "workers: 0\n",
            "4: workers: 0 is not a number of workers (1 to 64)",
        ),
        (
            "workers: '1'\n",
            "4: workers: \"1\" is a string, not a number of workers: remove the quotes",
        ),
        ("listen: 15001\n", "4: listen: expected a mapping, found 15001"),
        (
            "application: []\n",
            "4: application: expected a mapping, found a list",
        ),
        ("binds: {}\n", "4: binds: expected a list, found a mapping"),
        (
            "listen: {mesh: '[fe80::1%1]:80'}\n",
            "4: listen.mesh: [fe80::1%1]:80 has a zone ('%')",
        ),
        (
            "state: \"a\\0b\"\n",
            "4: state: \"a\\0b\" is not a path: it has a NUL",
        ),
        (
            "application: {source: '::2'}\n",
            "4: application.source: ::2 cannot reach the application's address 127.0.0.1: one is IPv4, the other IPv6",
        ),
        (
            "listen: {admin: ['127.0.0.1:15000', '10.0.0.1:15000']}\n",
            "4: listen.admin[1]: 10.0.0.1:15000 is not a loopback address: admin is for this host alone (metrics and \
             /ready are on listen.metrics)",
        ),
        (
            "wrokload: {}\n",
            "4: wrokload: unknown field; did you mean workload?",
        ),
        (
            "zone: a\n",
            "4: zone: unknown field (known here: workload, state, controller, identity, documents, listen, binds, \
             application, inbound, capture, workers, accessLog, drainTimeout)",
        ),
        (
            "listen: {x: 1}\n",
            "4: listen.x: unknown field (known here: mesh, outbound, inbound, admin, metrics)",
        ),
        ("---\n", ""),
        ("---\nworkers: 1\n", "5: a second document: this file holds one"),
    ] {
        let wanted: Vec<String> = Some(format!("web.yaml:{wanted}"))
            .filter(|_| !wanted.is_empty())
            .into_iter()
            .collect();
        assert_eq!(errors(lines), wanted, "{lines}");
    }
    let twice = LEAST.replace("[mesh.yaml]", "[mesh.yaml, ./web.yaml, mesh.yaml]");
    assert_eq!(
        parse(&twice).unwrap_err(),
        ["web.yaml:3: documents[2]: /etc/weft/mesh.yaml is in the list already"]
    );
}

#[test]
fn listeners_and_ports_of_the_application_do_not_overlap() {
    for (lines, wanted) in [
        // Twice in a list, or in two.
        (
            "listen: {outbound: ['127.0.0.1:1', '127.0.0.1:1']}\n",
            "listen.outbound[1]: 127.0.0.1:1 overlaps with listen.outbound[0]",
        ),
        (
            "listen: {outbound: '127.0.0.1:1', admin: '127.0.0.1:1'}\n",
            "listen.admin: 127.0.0.1:1 overlaps with listen.outbound",
        ),
        // With a default, before it and after it.
        (
            "listen: {admin: '127.0.0.1:15001'}\n",
            "listen.admin: 127.0.0.1:15001 overlaps with listen.outbound (127.0.0.1:15001 by default)",
        ),
        (
            "listen: {mesh: '127.0.0.1:15000'}\n",
            "listen.mesh: 127.0.0.1:15000 overlaps with listen.admin (127.0.0.1:15000 by default)",
        ),
        (
            "binds: [{listen: '127.0.0.1:15001', service: 'db:1'}]\n",
            "binds[0].listen: 127.0.0.1:15001 overlaps with listen.outbound (127.0.0.1:15001 by default)",
        ),
        (
            "binds: [{listen: '127.0.0.1:1', service: 'db:1'}, {listen: '127.0.0.1:1', service: 'web:1'}]\n",
            "binds[1].listen: 127.0.0.1:1 overlaps with binds[0].listen",
        ),
        // An unspecified address takes all of its family, and [::] both.
        (
            "listen: {metrics: '0.0.0.0:1', outbound: '127.0.0.1:1'}\n",
            "listen.metrics: 0.0.0.0:1 overlaps with listen.outbound",
        ),
        (
            "listen: {metrics: '[::]:1', inbound: '0.0.0.0:1'}\n",
            "listen.metrics: [::]:1 overlaps with listen.inbound",
        ),
        (
            "binds: [{listen: '127.0.0.1:15020', service: 'db:1'}]\n",
            "binds[0].listen: 127.0.0.1:15020 overlaps with listen.metrics ([::]:15020 by default)",
        ),
        // The application's ports, whatever transport the listener for peers is on.
        (
            "application: {ports: [{port: 80}, {port: 15000}]}\n",
            "application.ports[1]: 127.0.0.1:15000 overlaps with listen.admin (127.0.0.1:15000 by default)",
        ),
        (
            "application: {address: 10.0.0.1, ports: [{port: 15020}]}\n",
            "application.ports[0]: 10.0.0.1:15020 overlaps with listen.metrics ([::]:15020 by default)",
        ),
        (
            "application: {ports: [{port: 15008}]}\n",
            "application.ports[0]: 127.0.0.1:15008 overlaps with listen.mesh ([::]:15008 by default)",
        ),
        (
            "application: {ports: [{port: 15008, protocol: udp}]}\n",
            "application.ports[0]: 127.0.0.1:15008 overlaps with listen.mesh ([::]:15008 by default)",
        ),
    ] {
        assert_eq!(errors(lines), [format!("web.yaml:4: {wanted}")], "{lines}");
    }
    for lines in [
        "listen: {outbound: ['127.0.0.1:0', '127.0.0.1:0'], admin: '127.0.0.1:0', metrics: '127.0.0.1:0'}\n",
        "listen: {outbound: '127.0.0.1:1', admin: '127.0.0.2:1', metrics: '[::1]:1'}\n",
        "listen: {outbound: '0.0.0.0:1', admin: '[::1]:1'}\n",
        "application: {address: 10.0.0.1, ports: [{port: 15000}]}\n",
        "application: {ports: [{port: 15000, protocol: udp}, {port: 53}, {port: 53, protocol: udp}]}\n",
        "listen: {mesh: []}\napplication: {ports: [{port: 15008}]}\n",
    ] {
        assert_eq!(errors(lines), [""; 0], "{lines}");
    }
}

#[test]
fn one_mistake_is_one_error() {
    // With a wrong address nothing is known of its ports and of what reaches it.
    assert_eq!(
        errors("application: {address: x, source: '::2', ports: [{port: 15000}]}\n"),
        ["web.yaml:4: application.address: x is not an IP address"]
    );
}

#[test]
fn the_file_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.yaml");
    let error = |path: &Path| {
        let errors = Config::load(path).unwrap_err();
        assert_eq!(errors.len(), 1);
        errors[0].to_string()
    };
    let missing = format!(
        "{}: cannot be read: No such file or directory (os error 2)",
        path.display()
    );
    assert_eq!(error(&path), missing);
    std::fs::write(&path, b"a: \xff\n").unwrap();
    assert!(error(&path).contains("UTF-8"), "{}", error(&path));
    std::fs::File::create(&path)
        .unwrap()
        .set_len(MAX_FILE_BYTES + 1)
        .unwrap();
    assert_eq!(
        error(&path),
        format!("{}: cannot be read: larger than 1 MiB", path.display())
    );
    assert!(error(Path::new("/dev/zero")).contains("larger than 1 MiB"));
}

#[test]
fn the_identity_of_the_workload() {
    let identity = valid("")
        .workload
        .identity(&TrustDomain::parse("mesh.example").unwrap());
    assert_eq!(
        identity.unwrap().as_str(),
        "spiffe://mesh.example/ns/default/sa/default"
    );
}

#[test]
fn a_host_without_ipv6_listens_on_ipv4_alone() {
    let listen = Listen::defaults(false);
    let all = listen
        .mesh
        .iter()
        .chain(&listen.outbound)
        .chain(&listen.inbound)
        .chain(&listen.metrics);
    assert!(all.clone().all(|address| address.is_ipv4()), "{listen:?}");
    assert_eq!(all.count(), 4);
    assert_eq!(Listen::defaults(true).outbound.len(), 2);
}
