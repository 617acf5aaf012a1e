//! The HTTP/3 codec: what one head costs each way, and the frames around content.

#![expect(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::{hint::black_box, time::Duration};

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    uri::{Authority, PathAndQuery, Scheme},
};
use weft_transport::h3::{
    Encoding, FieldLimits, MessageReader, RequestHead, ResponseHead, encode_data_header, encode_request,
    encode_response,
};

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// A request between two services, with tracing and a token.
fn request() -> RequestHead {
    let mut head = RequestHead::new(
        Method::GET,
        Scheme::HTTP,
        Authority::from_static("orders.default.svc.cluster.local"),
        PathAndQuery::from_static("/v1/orders/3f2a9c51?expand=items"),
    );
    head.headers = fields(&[
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate"),
        ("user-agent", "checkout/1.42.0"),
        ("x-request-id", "0b7a1f0e-6a55-4f0a-9d0a-5ad5f1b3a7c2"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        (
            "authorization",
            "Bearer eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJjaGVja291dCJ9.c2lnbmF0dXJlLW9mLTY0LWJ5dGVz",
        ),
        ("weft-hops", "1"),
        ("weft-protocol", "http/1.1"),
    ]);
    head
}

fn response() -> ResponseHead {
    let mut head = ResponseHead::new(StatusCode::OK);
    head.headers = fields(&[
        ("content-type", "application/json"),
        ("content-length", "512"),
        ("date", "Mon, 23 Nov 2026 12:00:00 GMT"),
        ("cache-control", "no-cache"),
        ("vary", "accept-encoding"),
        ("x-request-id", "0b7a1f0e-6a55-4f0a-9d0a-5ad5f1b3a7c2"),
    ]);
    head
}

/// Reads one message to its end; returns how many parts it had.
fn read(mut reader: MessageReader, message: &Bytes, chunk: usize) -> usize {
    let (mut parts, mut rest) = (0, message.clone());
    while !rest.is_empty() {
        reader.push(rest.split_to(chunk.min(rest.len())));
        while let Ok(Some(part)) = reader.next() {
            black_box(part);
            parts += 1;
        }
    }
    parts
}

fn heads(criterion: &mut Criterion) {
    let (request, response, limits) = (request(), response(), FieldLimits::default());
    let mut buffer = BytesMut::with_capacity(4_096);
    let mut group = criterion.benchmark_group("head");
    group.bench_function("encode request", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            encode_request(black_box(&request), Encoding::default(), &mut buffer)
        });
    });
    let request = Bytes::copy_from_slice(&buffer);
    group.bench_function("decode request", |bencher| {
        bencher.iter(|| read(MessageReader::request(limits), black_box(&request), usize::MAX));
    });
    group.bench_function("encode response", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            encode_response(black_box(&response), Encoding::default(), &mut buffer)
        });
    });
    let response = Bytes::copy_from_slice(&buffer);
    group.bench_function("decode response", |bencher| {
        bencher.iter(|| {
            read(
                MessageReader::response(limits, Method::GET),
                black_box(&response),
                usize::MAX,
            )
        });
    });
    group.finish();
}

fn content(criterion: &mut Criterion) {
    /// As a tunnel or a proxied body is cut.
    const PIECE: usize = 16 << 10;
    /// What one datagram brings.
    const DATAGRAM: usize = 1_400;
    let mut message = BytesMut::new();
    assert!(
        encode_response(
            &ResponseHead::new(StatusCode::OK),
            Encoding::default(),
            &mut message
        )
        .is_ok()
    );
    for _ in 0..64 {
        encode_data_header(PIECE as u64, &mut message);
        message.extend_from_slice(&[7; PIECE]);
    }
    let (message, limits) = (message.freeze(), FieldLimits::default());
    let mut group = criterion.benchmark_group("content");
    group.throughput(Throughput::Bytes(message.len() as u64));
    group.bench_function("decode 1 MiB in datagrams", |bencher| {
        bencher.iter(|| {
            read(
                MessageReader::response(limits, Method::GET),
                black_box(&message),
                DATAGRAM,
            )
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = heads, content
}
criterion_main!(benches);
