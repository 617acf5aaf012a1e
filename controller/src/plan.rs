//! What a proxy needs: the mesh's settings, its own workload, and what it asked for.
//!
//! | asked for | what it gets |
//! |---|---|
//! | `web` | the Service of its own namespace, and the workloads that it selects |
//! | `web.shop`, `web.shop.svc`, `web.shop.svc.cluster.local` | the same of that namespace |
//! | a host outside the mesh | the ExternalService that has it |
//! | an address | Services with their workloads, Workloads and ExternalServices that have it |
//!
//! | because of | it gets besides |
//! |---|---|
//! | any Service that it gets | the TrafficPolicies for it |
//! | a Service that it asked for | the HTTPRoutes and GRPCRoutes for it that are of the Service's namespace or of the proxy's own; other namespaces' routes are for their clients |
//! | such a route | each Service that it sends requests or copies to, with its workloads; the ReferenceGrants for the route's kind and namespace in those Services' namespaces, if they are others |
//! | a policy that its own workload's side enforces | the Services of the policy that select its workload, with their workloads |
//!
//! The routes of a Service that is a backend are not followed: it stands for its workloads there. A proxy that calls it
//! by its own name asks for it.
//!
//! What leads to nothing stays asked for, and is answered when there is something. [`Wants`] is kept from change to
//! change and looks only at what the change touches; [`plan`] says the same from nothing, and its tests compare both.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    iter,
    net::IpAddr,
};

use weft_proto::kinds::{DocumentKey, Kind};

use crate::world::{Meaning, Topic, Touched, World, is_for};

/// The longest name or address that a proxy may ask for: the longest name of DNS.
pub const MAX_SUBJECT_BYTES: usize = 253;

/// What a proxy asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A name, in lower case.
    Name(Box<str>),
    /// An address.
    Address(IpAddr),
}

impl Subject {
    /// Reads a name; `None` if nothing can have it.
    pub fn name(text: &str) -> Option<Self> {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        let is_possible = (1..=MAX_SUBJECT_BYTES).contains(&text.len()) && text.bytes().all(is_name);
        is_possible.then(|| Self::Name(text.into()))
    }

    /// Reads an address without port; an IPv4-mapped one is the IPv4 address.
    pub fn address(text: &str) -> Option<Self> {
        let address: IpAddr = text.parse().ok()?;
        Some(Self::Address(address.to_canonical()))
    }

    /// What changes may concern it, seen from a namespace.
    fn topics(&self, namespace: &str) -> Vec<Topic> {
        match self {
            Self::Address(address) => vec![Topic::Address(*address)],
            Self::Name(name) => {
                let service = service_key(name, namespace).map(Topic::Service);
                // A host outside the mesh has two labels or more.
                let host = name.contains('.').then(|| Topic::Host(name.clone()));
                service.into_iter().chain(host).collect()
            }
        }
    }

    /// What it leads to now, seen from a namespace: keys of documents that are there.
    fn targets(&self, world: &World, namespace: &str) -> BTreeSet<DocumentKey> {
        match self {
            Self::Address(address) => world.at_address(*address).cloned().collect(),
            Self::Name(name) => {
                let service = service_key(name, namespace).filter(|key| world.version(key).is_some());
                service
                    .into_iter()
                    .chain(world.with_host(name).cloned())
                    .collect()
            }
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// The service that a name may mean; one in another form means none.
fn service_key(name: &str, namespace: &str) -> Option<DocumentKey> {
    let name = name.strip_suffix(".cluster.local").map_or(Some(name), |rest| {
        // `web.shop.cluster.local` is no name of a service.
        rest.ends_with(".svc").then_some(rest)
    })?;
    let mut labels = name.split('.');
    let (service, namespace) = match (labels.next(), labels.next(), labels.next(), labels.next()) {
        (Some(service), None, None, None) => (service, namespace),
        (Some(service), Some(namespace), None | Some("svc"), None) => (service, namespace),
        _ => return None,
    };
    DocumentKey::new(Kind::Service, namespace, service).ok()
}

/// What a proxy needs, from nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each resource that it holds, with its version.
    pub resources: BTreeMap<DocumentKey, u64>,
    /// What it asked for and leads to nothing.
    pub unknown: BTreeSet<Subject>,
}

/// Plans from nothing what a proxy in `namespace` needs that runs beside the workload `own` and asked for `subjects`.
pub fn plan<'a>(
    world: &World,
    namespace: &str,
    own: Option<&DocumentKey>,
    subjects: impl IntoIterator<Item = &'a Subject>,
) -> Plan {
    let mut plan = Plan::default();
    let mut keys: BTreeSet<DocumentKey> = world.config().into_iter().chain(own).cloned().collect();
    for subject in subjects {
        let targets = subject.targets(world, namespace);
        if targets.is_empty() {
            plan.unknown.insert(subject.clone());
        }
        for target in &targets {
            keys.extend(reached(world, namespace, target).cloned());
        }
    }
    keys.extend(served(world, own).cloned());
    let versions = keys
        .into_iter()
        .filter_map(|key| Some((world.version(&key)?, key)));
    plan.resources = versions.map(|(version, key)| (key, version)).collect();
    plan
}

/// What has to be looked at again because something changed.
#[derive(Debug, Default)]
pub struct Stale {
    /// Resources that may have come, gone or changed.
    pub keys: HashSet<DocumentKey>,
    /// Subjects that may lead to something now, or to nothing.
    pub subjects: HashSet<Subject>,
}

impl Stale {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.subjects.is_empty()
    }
}

/// What one proxy wants, kept up with the world.
#[derive(Debug)]
pub struct Wants {
    namespace: Box<str>,
    own: Option<DocumentKey>,
    /// What each subject leads to.
    subjects: HashMap<Subject, BTreeSet<DocumentKey>>,
    by_topic: HashMap<Topic, HashSet<Subject>>,
    /// How many subjects lead to a key.
    wanted: HashMap<DocumentKey, usize>,
}

impl Wants {
    /// Those of a proxy in a namespace, beside its own workload if it registers one.
    pub fn new(namespace: &str, own: Option<DocumentKey>) -> Self {
        Self {
            namespace: namespace.into(),
            own,
            subjects: HashMap::new(),
            by_topic: HashMap::new(),
            wanted: HashMap::new(),
        }
    }

    /// Of the proxy.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How many subjects there are.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// What is asked for.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.subjects.keys()
    }

    /// Whether this is asked for.
    pub fn contains(&self, subject: &Subject) -> bool {
        self.subjects.contains_key(subject)
    }

    /// Whether a subject that is asked for leads to anything.
    pub fn is_known(&self, subject: &Subject) -> bool {
        self.subjects
            .get(subject)
            .is_some_and(|targets| !targets.is_empty())
    }

    /// The documents to which a subject that is asked for leads.
    pub fn targets(&self, subject: &Subject) -> impl Iterator<Item = &DocumentKey> {
        self.subjects.get(subject).into_iter().flatten()
    }

    /// What changes concern this proxy whatever it asks for.
    pub fn own_topics(&self) -> Vec<Topic> {
        let own = self.own.clone().map(Topic::Workload);
        own.into_iter().chain([Topic::MeshConfig]).collect()
    }

    /// What changes concern it because of what it asks for.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.by_topic.keys()
    }

    /// Adds a subject. The topics that are new with it come back.
    pub fn subscribe(&mut self, world: &World, subject: Subject, stale: &mut Stale) -> Vec<Topic> {
        stale.subjects.insert(subject.clone());
        let Entry::Vacant(entry) = self.subjects.entry(subject.clone()) else {
            return Vec::new();
        };
        entry.insert(BTreeSet::new());
        let mut new = Vec::new();
        for topic in subject.topics(&self.namespace) {
            let subjects = self.by_topic.entry(topic.clone()).or_default();
            if subjects.is_empty() {
                new.push(topic);
            }
            subjects.insert(subject.clone());
        }
        self.resolve(world, &subject, stale);
        new
    }

    /// Takes a subject away. The topics that went with it come back.
    pub fn unsubscribe(&mut self, world: &World, subject: &Subject, stale: &mut Stale) -> Vec<Topic> {
        stale.subjects.remove(subject);
        let Some(targets) = self.subjects.remove(subject) else {
            return Vec::new();
        };
        for target in targets {
            self.release(world, target, stale);
        }
        let mut gone = Vec::new();
        for topic in subject.topics(&self.namespace) {
            if let Some(subjects) = self.by_topic.get_mut(&topic) {
                subjects.remove(subject);
                if subjects.is_empty() {
                    self.by_topic.remove(&topic);
                    gone.push(topic);
                }
            }
        }
        gone
    }

    /// Looks again at what a change touches under one topic. Whether it touches anything of this proxy's.
    pub fn on_affected(
        &mut self,
        world: &World,
        topic: &Topic,
        touched: &Touched,
        stale: &mut Stale,
    ) -> bool {
        if !touched.concerns(&self.namespace) {
            return false;
        }
        stale.keys.extend(touched.keys(&self.namespace).cloned());
        let subjects = self.by_topic.get(topic).into_iter().flatten();
        let subjects: Vec<Subject> = subjects.cloned().collect();
        for subject in subjects {
            self.resolve(world, &subject, stale);
        }
        true
    }

    /// Whether the proxy needs a document, and which version: the plan, one key at a time.
    pub fn version(&self, world: &World, key: &DocumentKey) -> Option<u64> {
        let version = world.version(key)?;
        let is_needed = match world.meaning(key)? {
            Meaning::MeshConfig => world.config() == Some(key),
            Meaning::Workload { .. } => {
                self.own.as_ref() == Some(key)
                    || self.wanted.contains_key(key)
                    || world
                        .related(key)
                        .any(|service| self.needs_service(world, service))
            }
            Meaning::Service { .. } => self.needs_service(world, key),
            Meaning::ExternalService { .. } => self.wanted.contains_key(key),
            Meaning::Route { .. } => self.needs_route(world, key),
            Meaning::Policy { targets, .. } => targets.iter().any(|target| self.needs_service(world, target)),
            Meaning::Grant { .. } => world
                .routes_granted(key)
                .any(|route| self.needs_route(world, route)),
        };
        is_needed.then_some(version)
    }

    fn needs_service(&self, world: &World, service: &DocumentKey) -> bool {
        let is_own = || {
            let mut selecting = self.own.iter().flat_map(|own| world.related(own));
            selecting.any(|selecting| selecting == service) && world.is_at_server(service)
        };
        world.version(service).is_some()
            && (self.wanted.contains_key(service)
                || world
                    .routes_to(service)
                    .any(|route| self.needs_route(world, route))
                || is_own())
    }

    fn needs_route(&self, world: &World, route: &DocumentKey) -> bool {
        match world.meaning(route) {
            Some(Meaning::Route { parents, .. }) => parents
                .iter()
                .any(|parent| self.wanted.contains_key(parent) && is_for(route, parent, &self.namespace)),
            _ => false,
        }
    }

    /// Everything that the proxy needs, some of it more than once.
    pub fn needed<'a>(&'a self, world: &'a World) -> impl Iterator<Item = &'a DocumentKey> {
        let own = self.own.as_ref().filter(|own| world.version(own).is_some());
        let asked = self
            .wanted
            .keys()
            .flat_map(|key| reached(world, &self.namespace, key));
        let served = served(world, self.own.as_ref());
        world.config().into_iter().chain(own).chain(asked).chain(served)
    }

    fn resolve(&mut self, world: &World, subject: &Subject, stale: &mut Stale) {
        let now = subject.targets(world, &self.namespace);
        let Some(before) = self.subjects.get(subject).filter(|before| **before != now) else {
            return;
        };
        let gone: Vec<DocumentKey> = before.difference(&now).cloned().collect();
        let new: Vec<DocumentKey> = now.difference(before).cloned().collect();
        stale.subjects.insert(subject.clone());
        self.subjects.insert(subject.clone(), now);
        for key in new {
            stale.keys.extend(reached(world, &self.namespace, &key).cloned());
            *self.wanted.entry(key).or_insert(0) += 1;
        }
        for key in gone {
            self.release(world, key, stale);
        }
    }

    fn release(&mut self, world: &World, key: DocumentKey, stale: &mut Stale) {
        stale.keys.extend(reached(world, &self.namespace, &key).cloned());
        if let Entry::Occupied(mut count) = self.wanted.entry(key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What a key leads to that is asked for: itself and, of a Service, all that goes with it and all that its routes for
/// this namespace lead to.
fn reached<'a>(
    world: &'a World,
    namespace: &'a str,
    key: &'a DocumentKey,
) -> impl Iterator<Item = &'a DocumentKey> {
    let is_service = key.kind() == Kind::Service;
    let routes = is_service.then(|| world.routes_of(key)).into_iter().flatten();
    let routes = routes.filter(move |route| is_for(route, key, namespace));
    let service = is_service.then(|| world.with_service(key));
    iter::once(key)
        .chain(service.into_iter().flatten())
        .chain(routes.flat_map(|route| world.with_route(route)))
}

/// The Services for which a workload's own proxy has something to do, with what goes with them.
fn served<'a>(world: &'a World, own: Option<&'a DocumentKey>) -> impl Iterator<Item = &'a DocumentKey> {
    let services = own.into_iter().flat_map(|own| world.related(own));
    let services = services.filter(|service| world.is_at_server(service));
    services.flat_map(|service| world.with_service(service))
}

#[cfg(test)]
mod tests;
