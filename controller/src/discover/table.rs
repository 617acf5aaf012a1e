//! Which hosts are to be looked up when, and what becomes of what was found. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use weft_proto::{
    Source,
    kinds::{DocumentKey, Kind},
    model::{ExternalService, MeshConfig, Resolution},
    names::DnsName,
    parse::parse_document,
    render,
};

use crate::world::{Change, Meaning, Versioned};

/// How long an answer is used before it is asked for again: the least that DNS of clouds gives to what moves.
const REFRESH: Duration = Duration::from_secs(30);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The most addresses of a host that are used.
const MAX_ADDRESSES: usize = 64;

/// The external services and their hosts.
#[derive(Debug)]
pub struct Table {
    declared: BTreeMap<DocumentKey, Declared>,
    hosts: HashMap<String, Host>,
    config: Option<MeshConfig>,
    /// Of what was last handed on. What is resolved changes without a revision of the store, so that external services
    /// have versions of their own, from the clock, which go on over restarts.
    version: u64,
}

#[derive(Debug)]
struct Declared {
    service: ExternalService,
    document: Versioned,
    /// What was made of it.
    made: BTreeSet<DocumentKey>,
}

#[derive(Debug, Default)]
struct Host {
    found: Vec<IpAddr>,
    problem: Option<String>,
    /// `None`: a lookup is under way.
    due: Option<Duration>,
}

impl Table {
    /// An empty one; versions begin with this, normally milliseconds since 1970.
    pub fn new(version: u64) -> Self {
        Self {
            declared: BTreeMap::new(),
            hosts: HashMap::new(),
            config: None,
            version,
        }
    }

    /// Documents changed: what is to be handed on in their place.
    pub fn on_changes(&mut self, changes: Vec<Change>, now: Duration) -> Vec<Change> {
        let mut out = Vec::with_capacity(changes.len());
        for change in changes {
            match change.key.kind() {
                Kind::ExternalService => self.on_external(change, now, &mut out),
                Kind::MeshConfig => {
                    self.config = change
                        .document
                        .as_ref()
                        .and_then(|document| parsed(&change.key, document)?.model.config().cloned());
                    out.push(change);
                    let keys: Vec<DocumentKey> = self.declared.keys().cloned().collect();
                    keys.iter().for_each(|key| self.make(key, &mut out));
                }
                Kind::Service | Kind::Workload => out.push(change),
            }
        }
        out
    }

    /// A lookup ended: what is to be handed on because of it.
    pub fn on_resolved(
        &mut self,
        host: &str,
        found: Result<Vec<IpAddr>, String>,
        now: Duration,
    ) -> Vec<Change> {
        let mut out = Vec::new();
        let Some(state) = self.hosts.get_mut(host) else {
            return out;
        };
        let found = found.and_then(|found| match found.is_empty() {
            true => Err("it has no address".to_owned()),
            false => Ok(found),
        });
        match found {
            Ok(found) => {
                let found: BTreeSet<IpAddr> = found.iter().map(IpAddr::to_canonical).collect();
                let found: Vec<IpAddr> = found.into_iter().take(MAX_ADDRESSES).collect();
                state.problem = None;
                state.due = Some(now + REFRESH);
                if state.found == found {
                    return out;
                }
                state.found = found;
            }
            Err(problem) => {
                state.problem = Some(problem);
                state.due = Some(now + RETRY);
                return out;
            }
        }
        let users = self
            .declared
            .iter()
            .filter(|(_, declared)| uses(&declared.service, host));
        let users: Vec<DocumentKey> = users.map(|(key, _)| key.clone()).collect();
        users.iter().for_each(|key| self.make(key, &mut out));
        out
    }

    /// At most so many hosts that are to be looked up now; each counts as being looked up.
    pub fn due(&mut self, now: Duration, count: usize) -> Vec<String> {
        let due = self
            .hosts
            .iter_mut()
            .filter(|(_, host)| host.due.is_some_and(|due| due <= now));
        let begun = due.take(count).map(|(name, host)| {
            host.due = None;
            name.clone()
        });
        begun.collect()
    }

    /// What is wrong, for operators.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = Vec::new();
        for (name, host) in &self.hosts {
            if let Some(problem) = &host.problem {
                let used = if host.found.is_empty() {
                    "it leads nowhere"
                } else {
                    "its last addresses are used"
                };
                warnings.push(format!("{name} cannot be resolved, {used}: {problem}"));
            }
            for address in host.found.iter().filter(|address| !self.is_outside(**address)) {
                warnings.push(format!(
                    "{name} leads to {address}, which is not outside the mesh: it is left out"
                ));
            }
        }
        warnings.sort_unstable();
        warnings
    }

    fn on_external(&mut self, change: Change, now: Duration, out: &mut Vec<Change>) {
        let Change { key, document } = change;
        let made = self
            .declared
            .remove(&key)
            .map(|declared| declared.made)
            .unwrap_or_default();
        let service = document
            .as_ref()
            .and_then(|document| parsed(&key, document)?.model.external_service().cloned());
        match (document, service) {
            (Some(document), Some(service)) => {
                if service.resolution == Resolution::Dns {
                    for host in &service.hosts {
                        let state = self.hosts.entry(host.to_string());
                        state.or_insert_with(|| Host {
                            due: Some(now),
                            ..Host::default()
                        });
                    }
                }
                self.declared.insert(
                    key.clone(),
                    Declared {
                        service,
                        document,
                        made,
                    },
                );
                self.make(&key, out);
            }
            // Gone, or not to be read here: then not to be read by proxies either, whose last good one stays.
            (document, _) => {
                let others = made.into_iter().filter(|made| *made != key);
                out.extend(others.map(|key| Change { key, document: None }));
                out.push(Change { key, document });
            }
        }
        let declared = &self.declared;
        self.hosts
            .retain(|host, _| declared.values().any(|declared| uses(&declared.service, host)));
    }

    /// Makes the resources of an external service anew, and removes those that are none of its any more.
    fn make(&mut self, key: &DocumentKey, out: &mut Vec<Change>) {
        let Some(declared) = self.declared.get(key) else {
            return;
        };
        let made: Vec<(DocumentKey, Versioned)> = match &declared.service.resolution {
            Resolution::Static(_) => vec![(key.clone(), declared.document.clone())],
            Resolution::Dns => declared
                .service
                .hosts
                .iter()
                .map(|host| self.resolved(declared, host))
                .collect(),
        };
        let keys: BTreeSet<DocumentKey> = made.iter().map(|(key, _)| key.clone()).collect();
        let gone = declared.made.difference(&keys);
        out.extend(gone.map(|key| Change {
            key: key.clone(),
            document: None,
        }));
        for (key, mut document) in made {
            self.version += 1;
            document.version = self.version;
            out.push(Change {
                key,
                document: Some(document),
            });
        }
        if let Some(declared) = self.declared.get_mut(key) {
            declared.made = keys;
        }
    }

    /// The resource of one host.
    fn resolved(&self, declared: &Declared, host: &DnsName) -> (DocumentKey, Versioned) {
        let mut service = declared.service.clone();
        service.hosts = vec![host.clone()];
        if declared.service.hosts.len() > 1
            && let Ok(name) = DnsName::parse(&format!("{}.{host}", service.name.name))
        {
            service.name.name = name;
        }
        let found = self
            .hosts
            .get(host.as_str())
            .map(|host| host.found.as_slice())
            .unwrap_or_default();
        let outside: Vec<IpAddr> = found
            .iter()
            .copied()
            .filter(|address| self.is_outside(*address))
            .collect();
        if !outside.is_empty() {
            service.resolution = Resolution::Static(outside);
        }
        let rendered = render::external_service(&service);
        let document = Versioned {
            json: rendered.json.as_bytes().to_vec().into(),
            meaning: Meaning::from(&service),
            ..declared.document.clone()
        };
        (rendered.key, document)
    }

    /// Whether an address may be called as one outside: what a document may not say, the DNS may not either.
    fn is_outside(&self, address: IpAddr) -> bool {
        let is_reachable = !(address.is_loopback() || address.is_unspecified() || address.is_multicast());
        let is_link_local = match address {
            // Where clouds keep the credentials of their machines.
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        is_reachable
            && !is_link_local
            && !self
                .config
                .as_ref()
                .is_some_and(|config| config.contains(address))
    }
}

fn uses(service: &ExternalService, host: &str) -> bool {
    service.resolution == Resolution::Dns && service.hosts.iter().any(|used| *used == host)
}

fn parsed(key: &DocumentKey, document: &Versioned) -> Option<weft_proto::parse::Parsed> {
    let text = std::str::from_utf8(&document.json).ok()?;
    parse_document(&Source::new(key.to_string(), text)).ok()
}

#[cfg(test)]
mod tests {
    use weft_proto::model::Readiness;

    use super::*;

    fn change(name: &str, spec: &str, kind: &str) -> Change {
        let json = format!(
            r#"{{"apiVersion":"weft.dev/v1alpha1","kind":"{kind}","metadata":{{"name":"{name}"}},"spec":{spec}}}"#
        );
        let document = parse_document(&Source::new("test", json.clone())).unwrap();
        let meaning = document
            .model
            .external_service()
            .map_or(Meaning::MeshConfig, Meaning::from);
        let version = Versioned {
            version: 1,
            json: json.into(),
            requires: Vec::new(),
            readiness: Readiness::Ready,
            meaning,
        };
        Change {
            key: document.key,
            document: Some(version),
        }
    }

    fn external(name: &str, hosts: &str) -> Change {
        change(
            name,
            &format!(r#"{{"hosts":{hosts},"ports":[{{"port":443,"appProtocol":"tls"}}]}}"#),
            "ExternalService",
        )
    }

    /// Names and addresses of what is handed on; each is a document that proxies read.
    fn shown(changes: &[Change]) -> Vec<String> {
        let shown = changes.iter().map(|change| match &change.document {
            None => format!("-{}", change.key.name()),
            Some(document) => {
                let read = parsed(&change.key, document).expect("a document");
                assert_eq!(read.key, change.key);
                let Meaning::ExternalService { addresses, .. } = &document.meaning else {
                    return change.key.to_string();
                };
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                format!("{} {}", change.key.name(), addresses.join(","))
            }
        });
        shown.collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn addresses(texts: &[&str]) -> Result<Vec<IpAddr>, String> {
        Ok(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn a_host_is_handed_on_with_its_addresses_and_keeps_them_through_failures() {
        let mut table = Table::new(100);
        let first = table.on_changes(vec![external("bank", r#"["api.bank.example"]"#)], at(0));
        assert_eq!(shown(&first), ["bank "]);
        assert_eq!(table.due(at(0), 9), ["api.bank.example"]);
        assert!(table.due(at(0), 9).is_empty(), "it is under way");
        let found = table.on_resolved("api.bank.example", addresses(&["192.0.2.2", "192.0.2.1"]), at(1));
        assert_eq!(shown(&found), ["bank 192.0.2.1,192.0.2.2"]);
        assert!(found[0].document.as_ref().unwrap().version > first[0].document.as_ref().unwrap().version);
        assert!(table.due(at(30), 9).is_empty());
        assert_eq!(table.due(at(31), 9).len(), 1);
        assert!(
            table
                .on_resolved("api.bank.example", Err("SERVFAIL".to_owned()), at(31))
                .is_empty()
        );
        assert!(
            table.warnings()[0].contains("last addresses are used"),
            "{:?}",
            table.warnings()
        );
        assert_eq!(table.due(at(36), 9).len(), 1);
        assert!(
            table
                .on_resolved("api.bank.example", addresses(&["192.0.2.1", "192.0.2.2"]), at(36))
                .is_empty()
        );
        assert!(table.warnings().is_empty());
        let gone = Change {
            key: first[0].key.clone(),
            document: None,
        };
        assert_eq!(shown(&table.on_changes(vec![gone], at(40))), ["-bank"]);
        assert!(table.due(at(99), 9).is_empty());
    }

    #[test]
    fn of_several_hosts_each_has_its_own_addresses() {
        let mut table = Table::new(0);
        table.on_changes(vec![external("two", r#"["a.example","b.example"]"#)], at(0));
        let found = table.on_resolved("b.example", addresses(&["192.0.2.2"]), at(0));
        assert_eq!(shown(&found), ["two.a.example ", "two.b.example 192.0.2.2"]);
        let one = table.on_changes(vec![external("two", r#"["b.example"]"#)], at(0));
        assert_eq!(shown(&one), ["-two.a.example", "-two.b.example", "two 192.0.2.2"]);
    }

    #[test]
    fn a_name_outside_leads_neither_into_the_mesh_nor_to_the_host_itself() {
        let mut table = Table::new(0);
        let config = change(
            "mesh",
            r#"{"trustDomain":"mesh.test","meshRanges":["10.0.0.0/8"]}"#,
            "MeshConfig",
        );
        table.on_changes(vec![config, external("evil", r#"["evil.example"]"#)], at(0));
        let bad = [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "::ffff:10.1.1.1",
            "::1",
            "0.0.0.0",
            "192.0.2.9",
        ];
        let found = table.on_resolved("evil.example", addresses(&bad), at(0));
        assert_eq!(shown(&found), ["evil 192.0.2.9"]);
        assert_eq!(table.warnings().len(), bad.len() - 1);
    }
}
