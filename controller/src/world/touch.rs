//! Whom a document concerns, as it is indexed at a moment.
//!
//! A change of what a document means is noted twice: as the world was before it, and as it is after it. So whoever had
//! something because of it looks again, as does whoever is to have something now.

use std::collections::{HashMap, HashSet};

use weft_proto::kinds::DocumentKey;

use super::{Meaning, Topic, World, meaning::audience};

/// What a change touches: for each topic, what whoever asked for it has to look at again.
pub type Affected = HashMap<Topic, Touched>;

/// The resources that those who asked for a topic have to look at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    everyone: HashSet<DocumentKey>,
    /// Those of one namespace alone: what a consumer's route leads to is nothing to others.
    of_namespace: HashMap<Box<str>, HashSet<DocumentKey>>,
}

impl Touched {
    /// Whether there is anything for a proxy of this namespace.
    pub fn concerns(&self, namespace: &str) -> bool {
        !self.everyone.is_empty() || self.of_namespace.contains_key(namespace)
    }

    /// What a proxy of this namespace has to look at.
    pub fn keys(&self, namespace: &str) -> impl Iterator<Item = &DocumentKey> {
        let own = self.of_namespace.get(namespace);
        self.everyone.iter().chain(own.into_iter().flatten())
    }

    fn note(&mut self, audience: Option<&str>, key: &DocumentKey) {
        let keys = match audience {
            None => &mut self.everyone,
            Some(namespace) => self.of_namespace.entry(namespace.into()).or_default(),
        };
        keys.insert(key.clone());
    }
}

/// Proxies that have something: those that asked for a topic, of all namespaces or of one.
struct Holders<'a> {
    topic: Topic,
    audience: Option<&'a str>,
}

impl World {
    /// Notes everyone who has this document: of it only the version changed.
    pub(super) fn touch_version(&self, key: &DocumentKey, affected: &mut Affected) {
        note(affected, &self.holders(key), [key]);
    }

    /// Notes everyone who has this document, and everyone who has something else because of it.
    pub(super) fn touch(&self, key: &DocumentKey, affected: &mut Affected) {
        self.touch_version(key, affected);
        match self.meaning(key) {
            // Another of them may now be the first.
            Some(Meaning::MeshConfig) => note(affected, &[everyone(Topic::MeshConfig)], &self.configs),
            Some(Meaning::Service { .. }) => self.touch_service(key, affected),
            Some(Meaning::Workload { .. }) => {
                let own = [everyone(Topic::Workload(key.clone()))];
                for service in self.related(key).filter(|service| self.is_at_server(service)) {
                    note(affected, &own, self.with_service(service));
                }
            }
            Some(Meaning::Route { parents, .. }) => {
                note(
                    affected,
                    &self.holders_of_route(key, parents),
                    self.with_route(key),
                );
            }
            Some(Meaning::Policy {
                targets,
                is_at_server: true,
            }) => {
                // It may be all for which they have the Service.
                for target in targets {
                    note(affected, &self.own_of(target), self.with_service(target));
                }
            }
            Some(Meaning::Policy { .. } | Meaning::Grant { .. } | Meaning::ExternalService { .. }) | None => {
            }
        }
    }

    /// Who has a document.
    fn holders<'a>(&'a self, key: &'a DocumentKey) -> Vec<Holders<'a>> {
        match self.meaning(key) {
            None => Vec::new(),
            Some(Meaning::MeshConfig) => vec![everyone(Topic::MeshConfig)],
            Some(Meaning::Service { .. }) => self.holders_of_service(key),
            Some(Meaning::Workload { address, .. }) => {
                let own = [Topic::Workload(key.clone()), Topic::Address(*address)];
                let services = self.related(key);
                let behind = services.flat_map(|service| self.holders_of_service(service));
                own.map(everyone).into_iter().chain(behind).collect()
            }
            Some(Meaning::ExternalService { hosts, addresses }) => {
                let hosts = hosts.iter().map(|host| Topic::Host(host.as_str().into()));
                let addresses = addresses.iter().map(|address| Topic::Address(*address));
                hosts.chain(addresses).map(everyone).collect()
            }
            Some(Meaning::Route { parents, .. }) => self.holders_of_route(key, parents),
            Some(Meaning::Policy { targets, .. }) => {
                let targets = targets.iter();
                targets
                    .flat_map(|target| self.holders_of_service(target))
                    .collect()
            }
            Some(Meaning::Grant { .. }) => {
                let routes = self.routes_granted(key);
                let holders = routes.filter_map(|route| match self.meaning(route) {
                    Some(Meaning::Route { parents, .. }) => Some(self.holders_of_route(route, parents)),
                    _ => None,
                });
                holders.flatten().collect()
            }
        }
    }

    fn touch_service(&self, key: &DocumentKey, affected: &mut Affected) {
        // Its workloads and policies go wherever it goes.
        note(affected, &self.holders_of_service(key), self.with_service(key));
        for route in self.attached.routes_of(key) {
            let topics = self.topics_of(key).into_iter();
            let holders = topics.map(|topic| Holders {
                topic,
                audience: audience(route, key),
            });
            let holders: Vec<Holders<'_>> = holders.collect();
            note(affected, &holders, self.with_route(route));
        }
    }

    /// What a proxy asks for that asks for this Service.
    fn topics_of(&self, service: &DocumentKey) -> Vec<Topic> {
        let address = match self.meaning(service) {
            Some(Meaning::Service { address, .. }) => *address,
            _ => None,
        };
        let address = address.map(Topic::Address);
        [Topic::Service(service.clone())]
            .into_iter()
            .chain(address)
            .collect()
    }

    /// Who has a Service, or would if it were there: whoever asks for it, whoever has a route to it, and its own
    /// workloads' proxies if they have something to do for it.
    fn holders_of_service(&self, service: &DocumentKey) -> Vec<Holders<'_>> {
        let mut holders: Vec<Holders<'_>> = self.topics_of(service).into_iter().map(everyone).collect();
        for route in self.attached.routes_to(service) {
            if let Some(Meaning::Route { parents, .. }) = self.meaning(route) {
                holders.extend(self.holders_of_route(route, parents));
            }
        }
        if self.is_at_server(service) {
            holders.extend(self.own_of(service));
        }
        holders
    }

    /// Who has a route with these parents: whoever asks for one of them, if it is for their namespace.
    fn holders_of_route<'a>(
        &self,
        route: &'a DocumentKey,
        parents: impl IntoIterator<Item = &'a DocumentKey>,
    ) -> Vec<Holders<'a>> {
        let mut holders = Vec::new();
        for parent in parents {
            let audience = audience(route, parent);
            let topics = self.topics_of(parent).into_iter();
            holders.extend(topics.map(|topic| Holders { topic, audience }));
        }
        holders
    }

    /// The proxies of a Service's own workloads.
    fn own_of(&self, service: &DocumentKey) -> Vec<Holders<'_>> {
        let workloads = self.related(service).cloned();
        workloads.map(Topic::Workload).map(everyone).collect()
    }
}

fn everyone<'a>(topic: Topic) -> Holders<'a> {
    Holders {
        topic,
        audience: None,
    }
}

fn note<'a>(
    affected: &mut Affected,
    holders: &[Holders<'_>],
    keys: impl IntoIterator<Item = &'a DocumentKey>,
) {
    let keys: Vec<&DocumentKey> = keys.into_iter().collect();
    for Holders { topic, audience } in holders {
        let touched = affected.entry(topic.clone()).or_default();
        keys.iter().for_each(|key| touched.note(*audience, key));
    }
}
