//! Routes and traffic policies, as the applications and their clients see them.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use http::{HeaderMap, Method};
use weft_lab::{
    load::open::{Load, Options, Outcome},
    services::counts::Counts,
};

use crate::mesh::{Member, Mesh, SOON, Settings, Workload, eventually, is_full, within};

/// The Service of the replicas of `web`, with one for each version.
const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v1}
spec: {selector: {app: web, version: v1}, ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2}
spec: {selector: {app: web, version: v2}, ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}
";

/// Tries after the first one in [`policy`].
const ATTEMPTS: u32 = 2;

/// Tries again that the budget of a policy allows however few the requests are: three a second, in a window of ten.
const FLOOR: u64 = 30;

/// A mesh with replicas of `web` and one caller.
struct Shop {
    mesh: Mesh,
    replicas: Vec<Workload>,
    client: Workload,
}

impl Shop {
    /// With one replica of each of these versions.
    fn open(versions: &[&'static str]) -> Self {
        let mesh = Mesh::start(Settings::default());
        mesh.apply(SERVICES);
        let replicas = versions.iter().enumerate().map(|(index, version)| {
            let host = 11 + u8::try_from(index).unwrap();
            let name = format!("web-{index}");
            mesh.join(Member::new(&name, "web", host, true).of_version(version))
        });
        let replicas = replicas.collect();
        let client = mesh.join(Member::new("client-0", "client", 30, false));
        let shop = Self {
            mesh,
            replicas,
            client,
        };
        shop.mesh.wait_current();
        eventually("a first answer", || shop.curl());
        shop
    }

    fn curl(&self) -> Result<(), String> {
        match self.mesh.curl(&self.client.member, "web", "/") {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    /// Applies documents, and waits until every sidecar has them.
    fn apply(&self, documents: &str) {
        self.mesh.apply(documents);
        self.mesh.wait_current();
    }

    /// GETs to `web`.
    fn gets(&self, rate: u32) -> Options {
        Options {
            rate,
            id_prefix: "get-".to_owned(),
            ..Options::get(self.mesh.outbound(&self.client.member), "web")
        }
    }

    fn fault(&self, replica: usize, query: &str) {
        self.mesh.fault(&self.replicas[replica].member, query);
    }

    /// What has reached the application of a replica.
    fn counts(&self, replica: usize) -> Counts {
        let counts = self
            .mesh
            .application(&self.replicas[replica].member, "GET", "/counts");
        serde_json::from_str(&counts).unwrap_or_else(|error| panic!("{error}: {counts}"))
    }

    /// How often each id of a method has reached the applications, all together.
    fn ids(&self, method: &Method) -> HashMap<String, u32> {
        let mut all = HashMap::new();
        for replica in &self.replicas {
            let path = format!("/counts/ids?method={method}");
            let ids = self.mesh.application(&replica.member, "GET", &path);
            for (id, count) in ids.lines().filter_map(|line| line.rsplit_once(' ')) {
                *all.entry(id.to_owned()).or_default() += count.parse::<u32>().unwrap();
            }
        }
        all
    }

    fn forget_counts(&self) {
        for replica in &self.replicas {
            self.mesh.application(&replica.member, "DELETE", "/counts");
        }
    }

    /// Whether the caller's sidecar leaves a replica alone.
    fn is_ejected(&self, replica: usize) -> Result<bool, String> {
        let uid = format!("default/{}", self.replicas[replica].member.name);
        let (_, page) = self.mesh.page(&self.client.member, "/snapshot");
        let page: serde_json::Value =
            serde_json::from_str(&page).map_err(|error| format!("{error}: {page}"))?;
        let backends = page["backends"].as_array().into_iter().flatten();
        let mut endpoints = backends
            .flat_map(|backend| backend["endpoints"].as_array().into_iter().flatten())
            .filter(|endpoint| endpoint["workload"] == uid.as_str())
            .peekable();
        match endpoints.peek() {
            None => Err(page["backends"].to_string()),
            Some(_) => Ok(endpoints.any(|endpoint| {
                let standing = endpoint["standing"].as_str().unwrap_or_default();
                ["ejected", "ejected_but_used", "probe_due", "probing"].contains(&standing)
            })),
        }
    }

    fn wait_ejected(&self, replica: usize) {
        eventually("ejection", || match self.is_ejected(replica)? {
            true => Ok(()),
            false => Err("in use".to_owned()),
        });
    }

    /// Waits until a replica gets requests, and goes on getting them.
    fn wait_back(&self, replica: usize) {
        let before = self.counts(replica).total;
        eventually("return", || {
            match (self.is_ejected(replica)?, self.counts(replica).total) {
                (false, now) if now > before + 20 => Ok(()),
                other => Err(format!("{other:?}, before {before}")),
            }
        });
    }
}

/// Requests of `web`, in these shares of its versions.
fn split(weights: [u32; 2]) -> String {
    let [first, second] = weights;
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web}}]\n  rules:\n  - backendRefs:\n    \
         - {{name: web-v1, port: 80, weight: {first}}}\n    - {{name: web-v2, port: 80, weight: {second}}}\n"
    )
}

/// What survives a bad replica, with more of its spec.
fn policy(services: &[&str], more: &str) -> String {
    let targets: Vec<_> = services
        .iter()
        .map(|name| format!("{{group: \"\", kind: Service, name: {name}}}"))
        .collect();
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: web}}\nspec:\n  \
         targetRefs: [{}]\n  \
         retries: {{retryOn: [ConnectFailure, Reset, GatewayError], attempts: {ATTEMPTS}, perTryTimeout: 500ms}}\n  \
         outlierEjection: {{consecutiveFailures: 5, time: {{base: 3s, max: 30s}}, maxPercent: 50}}\n{more}",
        targets.join(", ")
    )
}

/// Waits until a load has sent so many more, all of which have ended.
fn wait_for_more(load: &Load, part: usize, more: u64) {
    let wanted = load.part(part).sent + more;
    // At a hundred a second, which no load here stays below.
    let time = SOON + Duration::from_secs(more / 100);
    within(time, &format!("{more} more requests"), &mut || {
        let so_far = load.part(part);
        match so_far.sent - so_far.open() >= wanted {
            true => Ok(()),
            false => Err(format!("{so_far:?}")),
        }
    });
}

/// Sends all of a load that ends by itself.
fn finish(options: Options) -> Outcome {
    let count = options.count.expect("it ends by itself");
    let load = Load::start(options).unwrap();
    let time = SOON + Duration::from_secs(count / 100);
    within(time, "the load's end", &mut || match load.is_done() {
        true => Ok(()),
        false => Err(format!("{:?}", load.so_far())),
    });
    load.stop()
}

/// How many of a hundred requests succeeded.
fn success(outcome: &Outcome) -> f64 {
    outcome.succeeded() as f64 * 100.0 / outcome.sent.max(1) as f64
}

#[test]
fn a_split_is_what_it_says() {
    let (requests, rate, tolerance) = match is_full() {
        true => (100_000, 500, 0.5),
        false => (5_000, 500, 2.0),
    };
    let shop = Shop::open(&["v1", "v2"]);
    shop.apply(&split([90, 10]));
    shop.forget_counts();
    let outcome = finish(Options {
        count: Some(requests),
        ..shop.gets(rate)
    });
    let got = outcome.versions.get("v2").copied().unwrap_or_default();
    let share = got as f64 * 100.0 / outcome.succeeded().max(1) as f64;
    println!(
        "split 90/10: {} requests, {} failed, {share:.2}% to v2, the longest {:?}",
        outcome.sent,
        outcome.failed(),
        outcome.longest
    );
    assert_eq!((outcome.sent, outcome.failed()), (requests, 0), "{outcome:?}");
    assert!((share - 10.0).abs() <= tolerance, "{outcome:?}");
    // The applications say the same.
    let [first, second] = [0, 1].map(|replica| shop.counts(replica).total);
    assert_eq!((first, second), (requests - got, got), "each request once");
}

#[test]
fn a_replica_that_turns_bad_is_left_alone() {
    let requests = if is_full() { 10_000 } else { 1_000 };
    let shop = Shop::open(&["v1", "v1", "v1"]);
    // In turn: the better of two would leave the bad one alone before it has failed often enough to be ejected.
    shop.apply(&policy(&["web"], "  loadBalancing: {algorithm: RoundRobin}\n"));
    let load = Load::start(shop.gets(200)).unwrap();
    wait_for_more(&load, 0, 200);
    for fault in ["kind=status&code=503", "kind=hang"] {
        let before = load.next_part();
        shop.fault(1, fault);
        shop.wait_ejected(1);
        let ejected = load.next_part();
        wait_for_more(&load, ejected, requests);
        shop.fault(1, "kind=none");
        shop.wait_back(1);
        let healed = load.next_part();
        wait_for_more(&load, healed, 100);
        let [before, after] = [before, ejected].map(|part| load.part(part));
        println!(
            "one of three replicas, {fault}: {:.2}% of {} requests until it is ejected, {:.3}% of {} from then on, \
             the longest {:?}",
            success(&before),
            before.sent,
            success(&after),
            after.sent,
            after.longest,
        );
        assert!(success(&after) >= 99.9, "{fault}: {after:?}");
    }
    let outcome = load.stop();
    println!("in all: {} requests, {} failed", outcome.sent, outcome.failed());
}

#[test]
fn total_failure_is_not_made_worse() {
    let requests = if is_full() { 20_000 } else { 2_000 };
    let shop = Shop::open(&["v1", "v1", "v1"]);
    shop.apply(&policy(&["web"], ""));
    for replica in 0..3 {
        shop.fault(replica, "kind=status&code=503");
    }
    shop.forget_counts();
    let outcome = finish(Options {
        count: Some(requests),
        ..shop.gets(200)
    });
    let reached: u64 = (0..3).map(|replica| shop.counts(replica).total).sum();
    let amplification = reached as f64 / outcome.sent as f64;
    println!(
        "all replicas answer 503: {} requests, {reached} at the applications: {amplification:.4} times",
        outcome.sent
    );
    assert_eq!(outcome.succeeded(), 0, "{outcome:?}");
    // A budget that does nothing would make it three times.
    assert!(reached > outcome.sent, "nothing was sent again: {outcome:?}");
    assert!(reached <= outcome.sent * 6 / 5 + FLOOR, "{reached}: {outcome:?}");
    // It is healed without help, and nobody has to wait for long.
    for replica in 0..3 {
        shop.fault(replica, "kind=none");
    }
    eventually("an answer", || shop.curl());
}

#[test]
fn a_request_reaches_an_application_as_often_as_it_may() {
    let rounds = if is_full() { 30 } else { 2 };
    let mut shop = Shop::open(&["v1", "v1", "v1"]);
    // None is ejected: each replica is to be met at its worst.
    shop.apply(&policy(&["web"], "").replace("maxPercent: 50", "maxPercent: 0"));
    let gets = Load::start(shop.gets(100)).unwrap();
    let posts = Load::start(Options {
        method: Method::POST,
        path: "/digest".to_owned(),
        content: vec![b'x'; 2_000].into(),
        id_prefix: "post-".to_owned(),
        ..shop.gets(100)
    })
    .unwrap();
    for _ in 0..rounds {
        shop.fault(0, "kind=cut&share=20");
        shop.fault(1, "kind=reset&share=20");
        wait_for_more(&posts, 0, 100);
        // The application stays, and with it what it has counted.
        shop.replicas[2].sidecar.kill();
        wait_for_more(&posts, 0, 100);
        let member = shop.replicas[2].member.clone();
        shop.replicas[2].sidecar = shop.mesh.start_sidecar(&member);
        shop.mesh.wait_ready(&member, &mut shop.replicas[2].sidecar);
        shop.fault(0, "kind=reset&share=20");
        shop.fault(1, "kind=status&code=503&share=20");
        wait_for_more(&posts, 0, 100);
    }
    for replica in 0..3 {
        shop.fault(replica, "kind=none");
    }
    let (gets, posts) = (gets.stop(), posts.stop());
    let (got, posted) = (shop.ids(&Method::GET), shop.ids(&Method::POST));
    let histogram = |ids: &HashMap<String, u32>| {
        let mut times: BTreeMap<u32, u64> = BTreeMap::new();
        for count in ids.values() {
            *times.entry(*count).or_default() += 1;
        }
        times
    };
    println!(
        "connections, sidecars and answers lost: {} POSTs, {} failed, times at the applications {:?}; {} GETs, {} \
         failed, times {:?}",
        posts.sent,
        posts.failed(),
        histogram(&posted),
        gets.sent,
        gets.failed(),
        histogram(&got),
    );
    let is_ours =
        |prefix: &'static str| move |(id, count): (&String, &u32)| id.starts_with(prefix).then_some(*count);
    let most_posted = posted.iter().filter_map(is_ours("post-")).max();
    let most_got = got.iter().filter_map(is_ours("get-")).max();
    assert_eq!(most_posted, Some(1), "{:?}", histogram(&posted));
    assert!(
        most_got.is_some_and(|most| most <= 1 + ATTEMPTS),
        "{:?}",
        histogram(&got)
    );
    assert!(most_got > Some(1), "nothing was sent again: {gets:?}");
    // What was answered did arrive.
    assert!(posted.len() as u64 >= posts.succeeded(), "{posts:?}");
    assert!(posts.failed() > 0, "nothing was lost: {posts:?}");
}

#[test]
fn routes_policies_and_faults_change_and_no_request_is_lost() {
    let rounds = if is_full() { 50 } else { 3 };
    let shop = Shop::open(&["v1", "v2"]);
    let load = Load::start(shop.gets(300)).unwrap();
    let mut changes = 0;
    let mut change = |documents: &str| {
        shop.mesh.apply(documents);
        changes += 1;
        wait_for_more(&load, 0, 100);
    };
    for round in 0..rounds {
        let weight = 10 * (round % 10);
        change(&split([100 - weight, weight]));
        change(&policy(
            &["web", "web-v1"],
            "  loadBalancing: {algorithm: RoundRobin}\n",
        ));
        change(&policy(&["web", "web-v1", "web-v2"], &faults(round)));
        change(&split([weight, 100 - weight]));
    }
    shop.mesh.wait_current();
    // What was set last holds.
    let mut fields = HeaderMap::new();
    fields.insert("x-chaos", "yes".parse().unwrap());
    let aborted = finish(Options {
        count: Some(20),
        fields,
        ..shop.gets(100)
    });
    assert_eq!(aborted.statuses, [(418, 20)].into(), "{aborted:?}");
    for kind in ["trafficpolicy", "httproute"] {
        shop.mesh.weft_ok(&["delete", kind, "web"]);
        changes += 1;
        wait_for_more(&load, 0, 100);
    }
    let outcome = load.stop();
    println!(
        "{changes} changes of a route, a policy and its faults: {} requests, {} failed, the longest {:?}",
        outcome.sent,
        outcome.failed(),
        outcome.longest
    );
    assert_eq!(outcome.failed(), 0, "{outcome:?}");
}

/// A delay for some, and an abort for those who ask for it.
fn faults(round: u32) -> String {
    format!(
        "  faults:\n  - headers: [{{name: x-chaos, value: \"yes\"}}]\n    abort: {{status: 418}}\n  \
         - delay: {{duration: {}ms, percent: 20}}\n",
        1 + round % 5
    )
}
