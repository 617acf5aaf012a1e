//! In which order a proxy is told of what differs, as far as one update does not have it all.
//!
//! Each update is published as it comes, so after each of them every request must go where it went before or where it
//! is to go. Therefore what is led to comes before what leads there, and goes after it:
//!
//! - a Service after its workloads: else it would have no endpoint;
//! - a route after its backends, with their policies and grants: else their share of the requests would be answered 500;
//! - a Service after the routes for it: else requests would go to its own workloads, past the routes. A route whose
//!   parent is not there yet does nothing. Of a Service that is a backend of its own route, as of most splits, the
//!   route still comes first.
//!
//! A route's backend may have routes of its own, if the proxy asks for it as well; so each Service and route has a
//! depth, the number of steps from it to the last backend. The deeper ones come later, and go earlier.

use std::{cmp::Reverse, collections::HashMap};

use weft_proto::kinds::{DocumentKey, Kind};

use super::Held;
use crate::{
    plan::Wants,
    world::{Meaning, World, is_for},
};

/// Steps that are counted; what lies behind more of them comes in no particular order.
const MAX_DEPTH: u8 = 16;

/// When a document is sent: first the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// There no longer, for nobody. Its address may be another's already, who would be refused beside it.
    Gone,
    MeshConfig,
    /// Without effect until something leads to it.
    Inner,
    /// A Service or a route, by depth.
    Leading(u8),
    /// A route that is there no longer, for nobody: before the backends that went with it.
    GoneRoute,
    /// A Service or a route that this proxy does not need any more, by depth.
    NotLeading(Reverse<u8>),
    /// What nothing leads to any more.
    Left,
}

/// Ranks the documents of one update.
pub(super) struct Order<'a> {
    world: &'a World,
    wants: &'a Wants,
    held: &'a Held,
    depths: HashMap<DocumentKey, u8>,
}

impl<'a> Order<'a> {
    pub(super) fn new(world: &'a World, wants: &'a Wants, held: &'a Held) -> Self {
        Self {
            world,
            wants,
            held,
            depths: HashMap::new(),
        }
    }

    /// The rank of a document that is to be there, or is to be gone.
    pub(super) fn rank(&mut self, key: &DocumentKey, is_wanted: bool) -> Rank {
        let is_there = self.world.version(key).is_some();
        match key.kind() {
            Kind::MeshConfig | Kind::Service | Kind::Workload | Kind::ExternalService if !is_there => {
                Rank::Gone
            }
            Kind::HttpRoute | Kind::GrpcRoute if !is_there => Rank::GoneRoute,
            Kind::Service | Kind::HttpRoute | Kind::GrpcRoute => match (self.depth(key, 0), is_wanted) {
                (depth, true) => Rank::Leading(depth),
                (depth, false) => Rank::NotLeading(Reverse(depth)),
            },
            Kind::MeshConfig if is_wanted => Rank::MeshConfig,
            Kind::Workload | Kind::ExternalService | Kind::ReferenceGrant | Kind::TrafficPolicy
                if is_wanted =>
            {
                Rank::Inner
            }
            Kind::MeshConfig
            | Kind::Workload
            | Kind::ExternalService
            | Kind::ReferenceGrant
            | Kind::TrafficPolicy => Rank::Left,
        }
    }

    fn depth(&mut self, key: &DocumentKey, steps: u8) -> u8 {
        if let Some(depth) = self.depths.get(key) {
            return *depth;
        }
        if steps == MAX_DEPTH {
            return 0;
        }
        // Where it leads in a circle, one step is not counted.
        self.depths.insert(key.clone(), 0);
        let world = self.world;
        let mut deepest = 0;
        match world.meaning(key) {
            Some(Meaning::Route { parents, backends }) => {
                for backend in backends.difference(parents) {
                    deepest = deepest.max(1 + self.depth(backend, steps + 1));
                }
            }
            _ => {
                for route in world.routes_of(key) {
                    if self.is_about(route, key) {
                        deepest = deepest.max(1 + self.depth(route, steps + 1));
                    }
                }
            }
        }
        self.depths.insert(key.clone(), deepest);
        deepest
    }

    /// Whether the proxy has a route for a Service, or is to have it.
    fn is_about(&self, route: &DocumentKey, service: &DocumentKey) -> bool {
        is_for(route, service, self.wants.namespace())
            && (self.held.version(route).is_some() || self.wants.version(self.world, route).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use weft_proto::mesh::v1 as mesh;

    use super::*;
    use crate::{
        push::session::{Session, key_of, update::MAX_UPDATE_BYTES},
        world::{
            Change,
            testing::{grant, key, key_in, policy, put, remove, route, service, workload},
        },
    };

    /// A document of which no two fit into one update.
    fn large(mut change: Change) -> Change {
        if let Some(document) = &mut change.document {
            document.json = Bytes::from(vec![b' '; MAX_UPDATE_BYTES / 2 + document.version as usize]);
        }
        change
    }

    fn shop(name: &str) -> DocumentKey {
        key(Kind::Service, name)
    }

    fn v2() -> DocumentKey {
        key_in(Kind::Service, "bank", "v2")
    }

    /// `web` in front of itself, `api` and another namespace's `v2`; and `api` in front of `db`.
    fn changes() -> Vec<Change> {
        let in_bank = Meaning::Service {
            address: None,
            selector: crate::world::testing::labels(&[("app", "v2")]),
        };
        let changes = vec![
            service("web", 1, "web"),
            workload("web-0", 1, "web", "10.0.0.1"),
            service("api", 1, "api"),
            workload("api-0", 1, "api", "10.0.0.2"),
            service("db", 1, "db"),
            workload("db-0", 1, "db", "10.0.0.3"),
            put(v2(), 1, in_bank),
            grant("bank", "shop", 1, "shop"),
            policy("api", 1, &[shop("api")], false),
            policy("web", 1, &[shop("web")], false),
            route("split", 1, &[shop("web")], &[shop("web"), shop("api"), v2()]),
            route("behind", 1, &[shop("api")], &[shop("db")]),
        ];
        changes.into_iter().map(large).collect()
    }

    struct Place {
        world: World,
        session: Session,
    }

    impl Place {
        fn new(changes: Vec<Change>) -> Self {
            let mut world = World::new();
            world.apply(changes, 1);
            let (mut session, _) = Session::new(&world, "shop", None, &[]);
            session.admit();
            Self { world, session }
        }

        fn ask(&mut self, names: &[&str], drop_names: &[&str]) {
            let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let subscribe = mesh::Subscribe {
                names: texts(names),
                drop_names: texts(drop_names),
                ..mesh::Subscribe::default()
            };
            self.session.on_subscribe(&self.world, &subscribe).unwrap();
        }

        fn apply(&mut self, changes: Vec<Change>) {
            let before = self.world.revision();
            let affected = self.world.apply(changes, before + 1);
            let topics = self.session.topics();
            for (topic, touched) in affected.iter().filter(|(topic, _)| topics.contains(topic)) {
                self.session.on_affected(&self.world, before, topic, touched);
            }
        }

        fn has(&self, key: &DocumentKey) -> bool {
            self.session.held.version(key).is_some()
        }

        /// Takes one update after the other, and looks after each of them; how many there were.
        fn settle(&mut self, look: impl Fn(&Self)) -> usize {
            let mut count = 0;
            while let Some(update) = self.session.next_update(&self.world, Duration::ZERO) {
                let resources = update.changed.iter().filter_map(|resource| resource.key.as_ref());
                assert!(resources.clone().count() <= 1, "one at a time");
                resources.for_each(|key| assert!(key_of(key).is_some()));
                self.session.on_ack(update.nonce).unwrap();
                look(self);
                count += 1;
            }
            count
        }
    }

    /// If the first is held, the others are.
    fn needs(place: &Place, leading: &DocumentKey, led_to: &[DocumentKey]) {
        for key in led_to {
            assert!(!place.has(leading) || place.has(key), "{leading} without {key}");
        }
    }

    fn nothing_goes_wrong(place: &Place) {
        let of = |kind, name| key(kind, name);
        let split = of(Kind::HttpRoute, "split");
        let behind = of(Kind::HttpRoute, "behind");
        // A Service is led to by name, and a route by its parent.
        needs(
            place,
            &shop("web"),
            &[
                split.clone(),
                of(Kind::Workload, "web-0"),
                of(Kind::TrafficPolicy, "web"),
            ],
        );
        needs(
            place,
            &shop("api"),
            &[
                behind.clone(),
                of(Kind::Workload, "api-0"),
                of(Kind::TrafficPolicy, "api"),
            ],
        );
        needs(place, &shop("db"), &[of(Kind::Workload, "db-0")]);
        let granted = key_in(Kind::ReferenceGrant, "bank", "shop");
        needs(place, &split, &[shop("api"), v2(), granted]);
        needs(place, &behind, &[shop("db")]);
    }

    #[test]
    fn however_an_update_is_cut_nothing_is_there_before_what_it_leads_to_or_after_it() {
        let mut place = Place::new(changes());
        place.ask(&["web", "api", "db"], &[]);
        let count = place.settle(nothing_goes_wrong);
        assert!(count >= 12 && place.session.held() == 12, "{count} updates");
        place.ask(&[], &["web", "api", "db"]);
        let count = place.settle(nothing_goes_wrong);
        assert!(count >= 12 && place.session.held() == 0, "{count} updates");
    }

    #[test]
    fn a_route_goes_to_a_new_backend_when_that_is_there_and_the_old_one_stays_until_then() {
        let mut place = Place::new(changes());
        place.ask(&["web"], &[]);
        place.settle(|_| ());
        let split = key(Kind::HttpRoute, "split");
        place.apply(vec![
            large(route("split", 2, &[shop("web")], &[shop("new")])),
            large(service("new", 2, "new")),
            large(workload("new-0", 2, "new", "10.0.0.9")),
        ]);
        let count = place.settle(|place| match place.session.held.version(&split) {
            Some(1) => needs(place, &split, &[shop("api"), v2()]),
            _ => needs(place, &split, &[shop("new"), key(Kind::Workload, "new-0")]),
        });
        assert!(count >= 3, "{count} updates");
        assert!(!place.has(&shop("api")) && place.has(&shop("new")));
    }

    #[test]
    fn a_route_that_is_gone_goes_before_its_backends_and_after_the_one_in_its_place_has_come() {
        let mut place = Place::new(changes());
        place.ask(&["web"], &[]);
        place.settle(|_| ());
        let (old, new) = (key(Kind::HttpRoute, "split"), key(Kind::HttpRoute, "other"));
        place.apply(vec![
            remove(old.clone()),
            large(route("other", 2, &[shop("web")], &[shop("db")])),
        ]);
        place.settle(|place| {
            assert!(place.has(&old) || place.has(&new), "web without a route");
            needs(place, &old, &[shop("api"), v2()]);
            needs(place, &new, &[shop("db")]);
        });
        assert!(!place.has(&old) && place.has(&new) && !place.has(&shop("api")));
    }
}
