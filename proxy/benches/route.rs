//! Finding the rule of a request among the routes of a service: what it costs by the number of routes, which are told
//! apart by one thing at a time. The requests go to all of the routes in turn. No look-up may take memory.

#![expect(clippy::expect_used, reason = "a bench that can't be made is no bench")]

use std::{
    cell::RefCell,
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use peak_alloc::PeakAlloc;
use weft_proto::{
    model::{
        Name,
        route::{
            FieldMatch, GrpcMatch, Hostname, PathMatch, Route, RouteKind, RouteMatch, RouteRule, ValueMatch,
        },
    },
    names::{DnsLabel, DnsName},
    pattern::Pattern,
};
use weft_proxy::bench::{Request, Routes};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const COUNTS: [usize; 4] = [1, 10, 100, 1_000];
/// How much longer a thousand routes may take than one.
const TARGET: Duration = Duration::from_micros(1);

/// What tells the routes apart.
struct Kind {
    name: &'static str,
    route: fn(usize) -> Route,
    /// Makes a request one for the route of this number.
    aim: fn(&mut Request, usize),
}

const KINDS: [Kind; 9] = [
    Kind {
        name: "exact path",
        route: |at| http(at, PathMatch::Exact(format!("/api/v1/service-{at:04}/items"))),
        aim: |request, at| request.path = format!("/api/v1/service-{at:04}/items"),
    },
    Kind {
        name: "path prefix",
        route: |at| http(at, PathMatch::Prefix(format!("/api/v1/service-{at:04}"))),
        aim: |request, at| request.path = format!("/api/v1/service-{at:04}/items/3f2a9c51"),
    },
    Kind {
        name: "path pattern",
        route: |at| {
            http(
                at,
                PathMatch::Regex(pattern(&format!("/api/v[0-9]+/service-{at:04}/[^/]+"))),
            )
        },
        aim: |request, at| request.path = format!("/api/v{}/service-{at:04}/items", at % 3),
    },
    Kind {
        name: "open pattern",
        route: |at| {
            http(
                at,
                PathMatch::Regex(pattern(&format!(".*/service-{at:04}(/.*)?"))),
            )
        },
        aim: |request, at| request.path = format!("/api/v{}/service-{at:04}/items", at % 3),
    },
    Kind {
        name: "header",
        route: |at| {
            with(at, |wanted| {
                wanted
                    .headers
                    .push(field("x-tenant", exact(format!("tenant-{at:04}"))));
            })
        },
        aim: |request, at| set_header(request, "x-tenant", &format!("tenant-{at:04}")),
    },
    Kind {
        name: "header name",
        route: |at| {
            with(at, |wanted| {
                wanted
                    .headers
                    .push(field(&format!("x-flag-{at:04}"), exact("on".to_owned())));
            })
        },
        aim: |request, at| set_header(request, &format!("x-flag-{at:04}"), "on"),
    },
    Kind {
        name: "method and query",
        route: |at| {
            with(at, |wanted| {
                wanted.method = Some(if at % 2 == 0 { "GET" } else { "POST" });
                wanted.query.push(field("account", exact(format!("{at:06}"))));
            })
        },
        aim: |request, at| {
            request.method = if at % 2 == 0 { Method::GET } else { Method::POST };
            request.query = Some(format!("expand=items&account={at:06}&page=2"));
        },
    },
    Kind {
        name: "hostname",
        route: |at| {
            let mut route = with(at, |_| {});
            route.hostnames = vec![match at % 2 {
                0 => Hostname::Exact(name(&format!("shop-{at:04}.example.com"))),
                _ => Hostname::Wildcard(name(&format!("shop-{at:04}.example.com"))),
            }];
            route
        },
        aim: |request, at| {
            request.host = match at % 2 {
                0 => format!("shop-{at:04}.example.com"),
                _ => format!("eu.shop-{at:04}.example.com"),
            };
        },
    },
    Kind {
        name: "gRPC",
        route: |at| {
            let mut wanted = RouteMatch::default();
            let service = exact(format!("shop.v1.Service{at:04}"));
            wanted.grpc = Some(GrpcMatch::new(Some(service), Some(exact("List".to_owned()))));
            route(RouteKind::Grpc, at, wanted)
        },
        aim: |request, at| request.path = format!("/shop.v1.Service{at:04}/List"),
    },
];

fn name(text: &str) -> DnsName {
    DnsName::parse(text).expect("a name")
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("a pattern")
}

fn exact(text: String) -> ValueMatch {
    ValueMatch::Exact(text)
}

fn field(name: &str, value: ValueMatch) -> FieldMatch {
    FieldMatch::new(name.to_owned(), value)
}

fn route(kind: RouteKind, at: usize, wanted: RouteMatch) -> Route {
    let name = Name {
        namespace: DnsLabel::default_namespace(),
        name: name(&format!("route-{at}")),
    };
    Route::new(
        kind,
        name,
        Vec::new(),
        vec![RouteRule::new(vec![wanted], Vec::new())],
    )
}

fn http(at: usize, path: PathMatch) -> Route {
    let mut wanted = RouteMatch::default();
    wanted.path = Some(path);
    route(RouteKind::Http, at, wanted)
}

/// For any path.
fn with(at: usize, change: impl FnOnce(&mut RouteMatch)) -> Route {
    let mut wanted = RouteMatch::default();
    wanted.path = Some(PathMatch::Prefix("/".to_owned()));
    change(&mut wanted);
    route(RouteKind::Http, at, wanted)
}

fn set_header(request: &mut Request, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
    let value = HeaderValue::from_str(value).expect("a value");
    request.headers.insert(name, value);
}

/// One between two services, with tracing and a token.
fn request() -> Request {
    let headers = [
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate"),
        ("authorization", "Bearer 2YotnFZFEjr1zCsicMWpAA"),
        ("content-type", "application/json"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("user-agent", "checkout/1.42.0"),
        ("x-forwarded-for", "10.1.2.3"),
        ("x-request-id", "0b7a1f0e-6a55-4f0a-9d0a-5ad5f1b3a7c2"),
    ];
    let headers =
        headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    Request {
        host: "orders.default".to_owned(),
        path: "/v1/orders/3f2a9c51".to_owned(),
        query: Some("expand=items".to_owned()),
        method: Method::GET,
        headers: HeaderMap::from_iter(headers),
    }
}

/// The least that a look-up took, on average of a sample, in nanoseconds.
fn measure(criterion: &mut Criterion, kind: &Kind, count: usize) -> f64 {
    let routes: Vec<Route> = (0..count).map(kind.route).collect();
    let routes = Routes::compile(&routes);
    let requests: Vec<Request> = (0..count)
        .map(|at| {
            let mut request = request();
            (kind.aim)(&mut request, at);
            let ought = format!("default/route-{at}");
            assert_eq!(routes.find(&request), Some(&*ought), "{}", kind.name);
            request
        })
        .collect();
    // The first round has made what is made as it is needed.
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    assert!(requests.iter().all(|request| routes.find(request).is_some()));
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert_eq!(taken, 0, "{} of {count}: finding takes memory", kind.name);
    let least = RefCell::new(f64::INFINITY);
    criterion.bench_with_input(BenchmarkId::new(kind.name, count), &count, |bencher, _| {
        bencher.iter_custom(|times| {
            let mut requests = requests.iter().cycle();
            let started = Instant::now();
            for _ in 0..times {
                black_box(routes.find(black_box(requests.next().expect("never ends"))));
            }
            let took = started.elapsed();
            let mean = took.as_secs_f64() * 1e9 / times as f64;
            let mut least = least.borrow_mut();
            *least = least.min(mean);
            took
        });
    });
    least.into_inner()
}

fn main() {
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    let mut criterion = criterion.configure_from_args();
    let curves: Vec<_> = KINDS
        .iter()
        .map(|kind| {
            (
                kind.name,
                COUNTS.map(|count| measure(&mut criterion, kind, count)),
            )
        })
        .collect();
    criterion.final_summary();
    println!("nanoseconds to find a rule, by the number of routes (best of the samples)");
    println!("{:<18}{}", "", COUNTS.map(|count| format!("{count:>8}")).concat());
    for (name, curve) in curves {
        let figures = curve.map(|nanos| format!("{nanos:>8.0}")).concat();
        let more = curve[COUNTS.len() - 1] - curve[0];
        let verdict = if more < TARGET.as_secs_f64() * 1e9 {
            "ok"
        } else {
            "MISSED"
        };
        println!("{name:<18}{figures}   +{more:.0} ({verdict})");
    }
}
