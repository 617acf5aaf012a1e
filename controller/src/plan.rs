//! What a proxy needs: the mesh's settings, its own workload, and what it asked for.
//!
//! | asked for | what it gets |
//! |---|---|
//! | `web` | the Service of its own namespace, and the workloads that it selects |
//! | `web.shop`, `web.shop.svc`, `web.shop.svc.cluster.local` | the same of that namespace |
//! | a host outside the mesh | the ExternalService that has it |
//! | an address | Services with their workloads, Workloads and ExternalServices that have it |
//!
//! What leads to nothing stays asked for, and is answered when there is something. [`Wants`] is kept from change to
//! change and looks only at what the change touches; [`plan`] says the same from nothing, and its tests compare both.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    net::IpAddr,
};

use weft_proto::kinds::{DocumentKey, Kind};

use crate::world::{Topic, World};

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
        for target in targets {
            if target.kind() == Kind::Service {
                keys.extend(world.related(&target).cloned());
            }
            keys.insert(target);
        }
    }
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

    /// Looks again at what a change touches under one topic.
    pub fn on_affected(
        &mut self,
        world: &World,
        topic: &Topic,
        keys: &HashSet<DocumentKey>,
        stale: &mut Stale,
    ) {
        stale.keys.extend(keys.iter().cloned());
        let Some(subjects) = self.by_topic.get(topic) else {
            return;
        };
        let subjects: Vec<Subject> = subjects.iter().cloned().collect();
        for subject in subjects {
            self.resolve(world, &subject, stale);
        }
    }

    /// Whether the proxy needs a document, and which version: the plan, one key at a time.
    pub fn version(&self, world: &World, key: &DocumentKey) -> Option<u64> {
        let version = world.version(key)?;
        let is_needed = match key.kind() {
            Kind::MeshConfig => world.config() == Some(key),
            Kind::Workload => {
                self.own.as_ref() == Some(key)
                    || self.wanted.contains_key(key)
                    || world
                        .related(key)
                        .any(|service| self.wanted.contains_key(service))
            }
            Kind::Service | Kind::ExternalService => self.wanted.contains_key(key),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::ReferenceGrant | Kind::TrafficPolicy => {
                self.wanted.contains_key(key)
            }
        };
        is_needed.then_some(version)
    }

    /// Everything that the proxy needs, some of it more than once.
    pub fn needed<'a>(&'a self, world: &'a World) -> impl Iterator<Item = &'a DocumentKey> {
        let own = self.own.as_ref().filter(|own| world.version(own).is_some());
        let asked = self.wanted.keys().flat_map(|key| with_workloads(world, key));
        world.config().into_iter().chain(own).chain(asked)
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
            stale.keys.extend(with_workloads(world, &key).cloned());
            *self.wanted.entry(key).or_insert(0) += 1;
        }
        for key in gone {
            self.release(world, key, stale);
        }
    }

    fn release(&mut self, world: &World, key: DocumentKey, stale: &mut Stale) {
        stale.keys.insert(key.clone());
        stale.keys.extend(with_workloads(world, &key).cloned());
        if let Entry::Occupied(mut count) = self.wanted.entry(key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// A key that is asked for, and of a service the workloads behind it.
fn with_workloads<'a>(world: &'a World, key: &'a DocumentKey) -> impl Iterator<Item = &'a DocumentKey> {
    let workloads = (key.kind() == Kind::Service).then(|| world.related(key));
    std::iter::once(key).chain(workloads.into_iter().flatten())
}

#[cfg(test)]
mod tests;
