//! Each rule of traffic policies, with the exact error that breaking it gives.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use std::time::Duration;
use weft_proto::Source;
use weft_proto::model::policy::{
    Abort, Algorithm, Hedging, Limits, LoadBalancing, LocalityMode, OutlierEjection, RateScope, Retries,
    Sections, Timeouts,
};
use weft_proto::model::{Share, TrafficPolicy};
use weft_proto::parse::{Model, parse_document};
use weft_proto::render;

const EXAMPLE: &str = include_str!("../../deploy/examples/traffic-policy.yaml");

fn parse(text: &str) -> Result<TrafficPolicy, Vec<String>> {
    match parse_document(&Source::new("m.yaml", text)) {
        Ok(parsed) => match parsed.model {
            Model::TrafficPolicy(policy) => Ok(policy),
            other => panic!("{other:?}"),
        },
        Err(errors) => Err(errors
            .iter()
            .map(|error| error.to_string().replace("m.yaml:4: spec.", ""))
            .collect()),
    }
}

/// A policy with these fields of its spec, which stands in line 4.
fn text(fields: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: web, namespace: shop}}\nspec: {{{fields}}}\n"
    )
}

fn sections(fields: &str) -> Sections {
    let text = text(&format!("targetRefs: [{{name: web}}], {fields}"));
    parse(&text)
        .unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
        .sections
}

fn assert_errors(fields: &str, errors: &[&str]) {
    let text = text(&format!("targetRefs: [{{name: web}}], {fields}"));
    assert_eq!(parse(&text).err().unwrap_or_default(), errors, "{fields}");
}

#[test]
fn the_example_says_what_its_comments_say() {
    let policy = parse(EXAMPLE).unwrap();
    assert_eq!(policy.targets.len(), 1);
    assert_eq!(policy.targets[0].section.as_deref(), Some("http"));
    let Sections {
        load_balancing: Some(balancing),
        retries: Some(retries),
        limits: Some(limits),
        outlier_ejection: Some(ejection),
        timeouts: Some(timeouts),
        faults: Some(faults),
        ..
    } = policy.sections
    else {
        panic!("a section is missing");
    };
    assert_eq!(balancing.locality, LocalityMode::default());
    assert_eq!(balancing.subset.len(), 1);
    assert!(retries.on.gateway_error && !retries.on.server_error);
    assert_eq!((retries.codes, retries.grpc), (vec![429], vec![14, 8]));
    assert_eq!(retries.hedging, Some(Hedging::new(Duration::from_millis(500), 1)));
    let default = Retries::default();
    assert_eq!(
        (retries.backoff, retries.backoff_max, retries.replay_bytes),
        (default.backoff, default.backoff_max, default.replay_bytes)
    );
    assert_eq!((retries.budget_percent, retries.budget_floor), (20, 3));
    assert_eq!((limits.requests, limits.queue), (Some(500), 100));
    assert_eq!(
        (limits.rates[0].burst, limits.rates[0].scope),
        (200, RateScope::Caller)
    );
    assert_eq!(ejection.success_rate, Some(80));
    assert_eq!(timeouts.connect, Some(Duration::from_secs(2)));
    assert_eq!(
        faults[0].delay,
        Some((Duration::from_millis(200), Share::new(125, 1_000)))
    );
    assert_eq!(faults[0].abort, Some((Abort::Http(503), Share::percent(1))));
}

#[test]
fn what_is_left_out_has_the_default_of_its_section() {
    assert_eq!(sections(""), Sections::default());
    let all =
        sections("loadBalancing: {}, retries: {}, limits: {}, outlierEjection: {}, timeouts: {}, faults: []");
    assert_eq!(all.load_balancing, Some(LoadBalancing::default()));
    assert_eq!(all.retries, Some(Retries::default()));
    assert_eq!(all.limits, Some(Limits::default()));
    assert_eq!(all.outlier_ejection, Some(OutlierEjection::default()));
    assert_eq!(all.timeouts, Some(Timeouts::default()));
    assert_eq!(all.faults, Some(Vec::new()));
    let nothing = sections("retries: {retryOn: []}").retries.unwrap().on;
    assert!(!(nothing.connect_failure || nothing.reset || nothing.gateway_error || nothing.server_error));
    let rate = sections("limits: {rates: [{requests: 7, per: 1m}]}")
        .limits
        .unwrap()
        .rates[0];
    assert_eq!((rate.burst, rate.scope), (7, RateScope::Endpoint));
    let fault = &sections("faults: [{abort: {grpcStatus: data-loss}}]")
        .faults
        .unwrap()[0];
    assert_eq!(fault.abort, Some((Abort::Grpc(15), Share::ALL)));
    let random = sections("loadBalancing: {algorithm: Random}")
        .load_balancing
        .unwrap();
    assert_eq!(random.algorithm, Algorithm::Random);
}

#[test]
fn targets() {
    for (targets, errors) in [
        ("", &["targetRefs: missing"][..]),
        (
            "targetRefs: []",
            &["targetRefs: is empty: a TrafficPolicy is for the requests of at least one Service"],
        ),
        (
            "targetRefs: [{name: web}, {kind: Service, name: web}]",
            &["targetRefs[1]: web is in the list already"],
        ),
        (
            "targetRefs: [{group: apps, kind: Service, name: web}]",
            &[
                "targetRefs[0].group: apps has no Service that is known here: a TrafficPolicy is for requests of Services (group: \"\", kind: Service)",
            ],
        ),
        (
            "targetRefs: [{name: web, namespace: lab}]",
            &[
                "targetRefs[0].namespace: a TrafficPolicy is for Services of its own namespace: apply it there",
            ],
        ),
    ] {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let read = parse(&text(targets)).err().unwrap_or_default();
        let read: Vec<String> = read
            .iter()
            .map(|error| error.replace("m.yaml:4: spec.", ""))
            .collect();
        assert_eq!(read, errors, "{targets}");
    }
    let two = parse(&text("targetRefs: [{name: web}, {name: web, sectionName: http}]")).unwrap();
    assert_eq!(two.targets.len(), 2);
}

#[test]
fn load_balancing() {
    for (fields, error) in [
        (
            "algorithm: ConsistentHash",
            "consistentHash: missing: with algorithm ConsistentHash it says what the hash is of: a header, a cookie, or source: true",
        ),
        (
            "consistentHash: {source: true}",
            "consistentHash: is read with algorithm ConsistentHash alone",
        ),
        (
            "algorithm: ConsistentHash, consistentHash: {header: a, cookie: b}",
            "consistentHash: has exactly one of header, cookie and source",
        ),
        (
            "algorithm: ConsistentHash, consistentHash: {source: false}",
            "consistentHash.source: is true or left out",
        ),
        (
            "slowStart: 0s",
            "slowStart: is no time at all: give one, such as 500ms, or leave it out",
        ),
        ("slowStart: 25h", "slowStart: is longer than the 24h of a policy"),
        (
            "locality: {overflow: 0}",
            "locality.overflow: 0 is not a percentage (1 to 100)",
        ),
        (
            "locality: {mode: Ignore, overflow: 9}",
            "locality.overflow: is read with mode Prefer alone",
        ),
        ("subset: {}", "subset.matchLabels: missing"),
    ] {
        assert_errors(
            &format!("loadBalancing: {{{fields}}}"),
            &[&format!("loadBalancing.{error}")],
        );
    }
}

#[test]
fn retries() {
    for (fields, error) in [
        (
            "attempts: 11",
            "attempts: 11 is not a number of tries after the first (0 to 10)",
        ),
        (
            "retryOn: [Reset, Reset]",
            "retryOn[1]: Reset is in the list already",
        ),
        (
            "codes: [399]",
            "codes[0]: 399 is not a status of an error (400 to 599)",
        ),
        ("codes: [503, 503]", "codes[1]: 503 is in the list already"),
        (
            "grpcStatus: [0]",
            "grpcStatus[0]: 0 is not a gRPC status of an error (1 to 16)",
        ),
        (
            "grpcStatus: [unavailable, 14]",
            "grpcStatus[1]: 14 is in the list already",
        ),
        (
            "perTryTimeout: 2s",
            "perTryTimeout: is longer than timeouts.request, of which it is a part",
        ),
        (
            "backoff: {base: 1s}",
            "backoff.base: is more than max, which is 250ms if it is left out: give max too",
        ),
        (
            "backoff: {max: 24ms}",
            "backoff.max: is less than base, the first wait (25ms if it is left out)",
        ),
        (
            "budget: {percent: 101}",
            "budget.percent: 101 is not a percentage (0 to 100)",
        ),
        (
            "replayBytes: 1048577",
            "replayBytes: 1048577 is not a number of bytes (0 to 1048576)",
        ),
        ("hedging: {}", "hedging.after: missing"),
        (
            "hedging: {after: 1s, max: 4}",
            "hedging.max: 4 is not a number of tries beside the first (1 to 3)",
        ),
    ] {
        assert_errors(
            &format!("timeouts: {{request: 1s}}, retries: {{{fields}}}"),
            &[&format!("retries.{error}")],
        );
    }
    // Zero is without limit, of which any time is a part.
    sections("timeouts: {request: 0s}, retries: {perTryTimeout: 2s}");
}

#[test]
fn limits_and_ejection() {
    for (fields, error) in [
        (
            "limits: {requests: 0}",
            "limits.requests: 0 is not a limit (1 to 4294967295)",
        ),
        (
            "limits: {queue: {length: 1}}",
            "limits.queue: is for room under requests, which has no limit: give one, or leave queue out",
        ),
        (
            "limits: {requests: 1, queue: {length: 100001}}",
            "limits.queue.length: 100001 is not a number of requests that wait (0 to 100000)",
        ),
        ("limits: {rates: [{requests: 1}]}", "limits.rates[0].per: missing"),
        (
            "limits: {rates: [{requests: 1, per: 0s}]}",
            "limits.rates[0].per: is no time at all: give one, such as 500ms, or leave it out",
        ),
        (
            "outlierEjection: {successRate: 0}",
            "outlierEjection.successRate: 0 is not a percentage (1 to 100)",
        ),
        (
            "outlierEjection: {latencyFactor: 1}",
            "outlierEjection.latencyFactor: 1 is not a factor (2 to 1000)",
        ),
        (
            "outlierEjection: {maxPercent: 101}",
            "outlierEjection.maxPercent: 101 is not a percentage (0 to 100)",
        ),
        (
            "outlierEjection: {time: {base: 6m}}",
            "outlierEjection.time.base: is more than max, which is 5m if it is left out: give max too",
        ),
        (
            "outlierEjection: {time: {max: 9s}}",
            "outlierEjection.time.max: is less than base, the first time (10s if it is left out)",
        ),
        (
            "timeouts: {request: -1s}",
            "timeouts.request: -1s is not a duration, such as 30s, 500ms or 1m30s",
        ),
    ] {
        assert_errors(fields, &[error]);
    }
    let rates = ["{requests: 1, per: 1s}"; 9].join(", ");
    assert_errors(
        &format!("limits: {{rates: [{rates}]}}"),
        &["limits.rates: has 9 entries, more than the 8 allowed"],
    );
}

#[test]
fn faults() {
    for (fields, error) in [
        (
            "headers: [{name: a, value: b}]",
            "faults[0]: makes no fault: give it a delay, an abort, or both",
        ),
        (
            "abort: {}",
            "faults[0].abort: has exactly one of status and grpcStatus",
        ),
        (
            "abort: {status: 503, grpcStatus: 14}",
            "faults[0].abort: has exactly one of status and grpcStatus",
        ),
        (
            "abort: {status: 200}",
            "faults[0].abort.status: 200 is not a status of an error (400 to 599)",
        ),
        ("delay: {percent: 1}", "faults[0].delay.duration: missing"),
        (
            "abort: {status: 503, percent: 100.1}",
            "faults[0].abort.percent: 100.1 is not a percentage (0 to 100, with at most 4 decimals)",
        ),
        (
            "abort: {status: 503, percent: 0.00001}",
            "faults[0].abort.percent: 0.00001 is not a percentage (0 to 100, with at most 4 decimals)",
        ),
        (
            "abort: {status: 503, percent: 101}",
            "faults[0].abort.percent: 101 is not a percentage (0 to 100)",
        ),
    ] {
        assert_errors(&format!("faults: [{{{fields}}}]"), &[error]);
    }
    for (percent, share) in [
        ("0.5", (5, 1_000)),
        ("0.50", (5, 1_000)),
        ("100.0", (100, 100)),
        ("0", (0, 100)),
    ] {
        let faults = sections(&format!(
            "faults: [{{abort: {{status: 503, percent: {percent}}}}}]"
        ))
        .faults;
        assert_eq!(
            faults.unwrap()[0].abort.unwrap().1,
            Share::new(share.0, share.1),
            "{percent}"
        );
    }
}

fn maybe(strategy: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    prop_oneof![Just(Value::Null), strategy].boxed()
}

fn number(range: std::ops::RangeInclusive<u32>) -> BoxedStrategy<Value> {
    maybe(range.prop_map(Value::from))
}

fn time(range: std::ops::RangeInclusive<u32>) -> BoxedStrategy<Value> {
    maybe(
        range.prop_map(|milliseconds| json!(format!("{}s{}ms", milliseconds / 1_000, milliseconds % 1_000))),
    )
}

fn percent() -> BoxedStrategy<Value> {
    maybe(prop_oneof![
        (0..=100_u32).prop_map(Value::from),
        (1..=999_999_u32).prop_map(|parts| json!(f64::from(parts) / 10_000.0)),
    ])
}

prop_compose! {
    fn balancing()(
        algorithm in select(vec![
            json!({}), json!({"algorithm": "RoundRobin"}),
            json!({"algorithm": "ConsistentHash", "consistentHash": {"header": "X-A"}}),
            json!({"algorithm": "ConsistentHash", "consistentHash": {"cookie": "Id"}}),
            json!({"algorithm": "ConsistentHash", "consistentHash": {"source": true}}),
        ]),
        slow_start in time(1..=90_000),
        locality in maybe(select(vec![json!({"mode": "Ignore"}), json!({"overflow": 30}), json!({})])),
        subset in maybe(Just(json!({"matchLabels": {"version": "v1"}}))),
    ) -> Value {
        let mut section = algorithm;
        section["slowStart"] = slow_start;
        section["locality"] = locality;
        section["subset"] = subset;
        section
    }
}

prop_compose! {
    fn retrying()(
        attempts in number(0..=10),
        on in maybe(subsequence(vec!["ConnectFailure", "Reset", "GatewayError", "ServerError"], 0..=4).prop_map(Value::from)),
        codes in maybe(subsequence((400..=599_u32).collect::<Vec<_>>(), 0..=5).prop_map(Value::from)),
        grpc in maybe(select(vec![json!([1, "unavailable"]), json!(["DATA_LOSS"])])),
        is_post in maybe(any::<bool>().prop_map(Value::from)),
        per_try in time(1..=1_000),
        backoff in maybe(select(vec![json!({"base": "1s", "max": "2s"}), json!({"max": "1m"}), json!({})])),
        percent in number(0..=100),
        floor in number(0..=10_000),
        replay in number(0..=1_048_576),
        hedging in maybe(select(vec![json!({"after": "1s"}), json!({"after": "1ms", "max": 3})])),
    ) -> Value {
        json!({
            "attempts": attempts, "retryOn": on, "codes": codes, "grpcStatus": grpc, "nonIdempotent": is_post,
            "perTryTimeout": per_try, "backoff": backoff, "budget": {"percent": percent, "minPerSecond": floor},
            "replayBytes": replay, "hedging": hedging,
        })
    }
}

prop_compose! {
    fn limiting()(
        connections in number(1..=u32::MAX),
        requests in 1..=u32::MAX,
        queue in maybe((0..=100_000_u32, time(1..=5_000)).prop_map(|(length, timeout)| json!({"length": length, "timeout": timeout}))),
        endpoint in number(1..=u32::MAX),
        burst in number(1..=u32::MAX),
        by in maybe(select(vec!["Endpoint", "Caller", "Route"]).prop_map(Value::from)),
    ) -> Value {
        json!({
            "connections": connections, "requests": requests, "queue": queue, "endpoint": {"requests": endpoint},
            "rates": [{"requests": 5, "per": "1m", "burst": burst, "by": by}],
        })
    }
}

prop_compose! {
    fn ejecting()(
        consecutive in number(0..=100), success in number(1..=100), latency in number(2..=1_000),
        interval in time(1..=90_000), min in number(1..=100), max in number(0..=100), panic in number(0..=100),
        time in maybe(select(vec![json!({"base": "1s"}), json!({"base": "1h", "max": "1h"})])),
    ) -> Value {
        json!({
            "consecutiveFailures": consecutive, "successRate": success, "latencyFactor": latency, "interval": interval,
            "minRequests": min, "time": time, "maxPercent": max, "panicPercent": panic,
        })
    }
}

prop_compose! {
    fn faulting()(delay in percent(), abort in percent(), answer in select(vec![("status", json!(503)), ("grpcStatus", json!("internal"))])) -> Value {
        let mut fault = json!({
            "headers": [{"name": "X-A", "value": "a|b", "type": "RegularExpression"}],
            "delay": {"duration": "1ms", "percent": delay}, "abort": {"percent": abort},
        });
        fault["abort"][answer.0] = answer.1;
        json!([fault])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_policy_that_is_written_and_read_again_is_the_same(
        load_balancing in maybe(balancing()),
        retries in maybe(retrying()),
        limits in maybe(limiting()),
        outlier_ejection in maybe(ejecting()),
        timeouts in maybe((time(1_000..=9_000), time(0..=9_000), time(0..=9_000)).prop_map(
            |(request, idle, connect)| json!({"request": request, "idle": idle, "connect": connect}))),
        faults in maybe(faulting()),
        created in maybe(Just(json!("2026-01-31T12:00:00Z"))),
    ) {
        let text = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": created},
            "spec": {
                "targetRefs": [{"name": "web"}, {"name": "web", "sectionName": "http"}],
                "loadBalancing": load_balancing, "retries": retries, "limits": limits,
                "outlierEjection": outlier_ejection, "timeouts": timeouts, "faults": faults,
            },
        });
        let policy = parse(&text.to_string()).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"));
        let document = render::traffic_policy(&policy);
        let again = document.parse().unwrap_or_else(|errors| panic!("{errors:#?}\n{}", document.json));
        prop_assert_eq!(again.model, Model::TrafficPolicy(policy));
    }
}
