//! `loadBalancing`.

use super::positive_time;
use crate::model::policy::{Algorithm, HashKey, LoadBalancing, LocalityMode};
use crate::names::Labels;
use crate::parse::fields;
use crate::parse::route::text;
use crate::reader::{Fields, Value};

/// The words for how an endpoint is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    LeastLatency,
    RoundRobin,
    Random,
    ConsistentHash,
}

const ALGORITHMS: [(&str, Word); 4] = [
    ("LeastLatency", Word::LeastLatency),
    ("RoundRobin", Word::RoundRobin),
    ("Random", Word::Random),
    ("ConsistentHash", Word::ConsistentHash),
];

/// Reads `loadBalancing`.
pub(super) fn load_balancing(value: &Value<'_>) -> Option<LoadBalancing> {
    value.mapping(|fields| {
        let algorithm = algorithm(fields);
        let slow_start = fields.optional("slowStart", positive_time);
        let locality = fields.optional("locality", locality).unwrap_or_default();
        let subset = fields.optional("subset", subset).unwrap_or_default();
        Some(LoadBalancing {
            algorithm: algorithm?,
            slow_start,
            locality,
            subset,
        })
    })
}

/// `algorithm`, and `consistentHash`, which one of its words needs and the others forbid.
fn algorithm(fields: &mut Fields<'_>) -> Option<Algorithm> {
    let has_word = fields.has("algorithm");
    let word = fields.optional("algorithm", |value| value.one_of(&ALGORITHMS));
    let has_key = fields.has("consistentHash");
    let key = fields.optional("consistentHash", hash_key);
    let word = if has_word { word? } else { Word::LeastLatency };
    if word == Word::ConsistentHash && !has_key {
        fields.error(
            "consistentHash",
            "missing: with algorithm ConsistentHash it says what the hash is of: a header, a cookie, or source: true",
        );
        return None;
    }
    if word != Word::ConsistentHash && has_key {
        fields.error("consistentHash", "is read with algorithm ConsistentHash alone");
        return None;
    }
    match word {
        Word::LeastLatency => Some(Algorithm::LeastLatency),
        Word::RoundRobin => Some(Algorithm::RoundRobin),
        Word::Random => Some(Algorithm::Random),
        Word::ConsistentHash => key.map(Algorithm::ConsistentHash),
    }
}

fn hash_key(value: &Value<'_>) -> Option<HashKey> {
    let names = ["header", "cookie", "source"];
    value.mapping(|fields| {
        let count = names.iter().filter(|name| fields.has(name)).count();
        let header = fields.optional("header", |value| {
            value.parse(|text| text::field_name(text).map(str::to_ascii_lowercase))
        });
        let cookie = fields.optional("cookie", |value| {
            value.parse(|text| text::field_name(text).map(str::to_owned))
        });
        let source = fields.optional("source", |value| {
            let is_source = value.boolean()?;
            if !is_source {
                value.error("is true or left out");
            }
            is_source.then_some(HashKey::Source)
        });
        if count != 1 {
            value.error("has exactly one of header, cookie and source");
            return None;
        }
        let header = header.map(HashKey::Header);
        header.or(cookie.map(HashKey::Cookie)).or(source)
    })
}

fn locality(value: &Value<'_>) -> Option<LocalityMode> {
    value.mapping(|fields| {
        let has_mode = fields.has("mode");
        let prefers = fields.optional("mode", |value| {
            value.one_of(&[("Prefer", true), ("Ignore", false)])
        });
        let prefers = if has_mode { prefers? } else { true };
        if !prefers {
            fields.refuse("overflow", "is read with mode Prefer alone");
            return Some(LocalityMode::Ignore);
        }
        let overflow = fields.optional("overflow", |value| value.integer("a percentage", 1..=100));
        Some(
            overflow.map_or_else(LocalityMode::default, |overflow| LocalityMode::Prefer {
                overflow,
            }),
        )
    })
}

/// As selectors of Kubernetes are written.
fn subset(value: &Value<'_>) -> Option<Labels> {
    value.mapping(|fields| {
        fields.refuse("matchExpressions", "are not supported: say it in matchLabels");
        fields.required("matchLabels", fields::labels)
    })
}
