//! Field names that the codec knows: each costs one lookup on encode and no allocation on decode.
//!
//! The table joins what both directions need to know about a name: its place in the QPACK static table and the
//! rules of RFC 9114 that apply to it. It is an open-addressed hash table built at compile time.

use http::HeaderName;

use super::static_table;

/// What the rules of RFC 9114 sections 4.2 and 4.3 say about a field name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A pseudo-header field.
    Pseudo(Pseudo),
    /// No rule of its own.
    Plain,
    /// Never to be indexed by any hop (RFC 9204 section 7.1.3).
    Sensitive,
    /// `cookie`: sensitive, and its crumbs are joined.
    Cookie,
    /// Belongs to one HTTP/1.1 connection (RFC 9114 section 4.2).
    ConnectionSpecific,
    Te,
    Host,
    ContentLength,
}

/// The pseudo-header fields of RFC 9114 section 4.3 and RFC 9220.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pseudo {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    Protocol,
}

impl Pseudo {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Pseudo::Authority => ":authority",
            Pseudo::Method => ":method",
            Pseudo::Path => ":path",
            Pseudo::Scheme => ":scheme",
            Pseudo::Status => ":status",
            Pseudo::Protocol => ":protocol",
        }
    }
}

/// A known name, as an index into the tables below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known(u8);

struct Entry {
    name: &'static str,
    class: Class,
}

const fn entry(name: &'static str, class: Class) -> Entry {
    Entry { name, class }
}

/// The pseudo-header fields come first: they are no `HeaderName`s.
const PSEUDO: [Entry; 6] = [
    entry(":authority", Class::Pseudo(Pseudo::Authority)),
    entry(":method", Class::Pseudo(Pseudo::Method)),
    entry(":path", Class::Pseudo(Pseudo::Path)),
    entry(":scheme", Class::Pseudo(Pseudo::Scheme)),
    entry(":status", Class::Pseudo(Pseudo::Status)),
    entry(":protocol", Class::Pseudo(Pseudo::Protocol)),
];

macro_rules! regular_names {
    ($($class:ident: $($name:literal)*;)*) => {
        const REGULAR: &[Entry] = &[$($(entry($name, Class::$class),)*)*];
        static HEADER_NAMES: [HeaderName; REGULAR.len()] = [$($(HeaderName::from_static($name),)*)*];
    };
}

regular_names! {
    Sensitive: "authorization" "proxy-authorization" "set-cookie";
    Cookie: "cookie";
    ConnectionSpecific: "connection" "keep-alive" "proxy-connection" "transfer-encoding" "upgrade";
    Te: "te";
    Host: "host";
    ContentLength: "content-length";
    // The other names of the static table (RFC 9204 appendix A).
    Plain: "age" "content-disposition" "date" "etag" "if-modified-since" "if-none-match" "last-modified" "link"
        "location" "referer" "accept" "accept-encoding" "accept-ranges" "access-control-allow-headers"
        "access-control-allow-origin" "cache-control" "content-encoding" "content-type" "range"
        "strict-transport-security" "vary" "x-content-type-options" "x-xss-protection" "accept-language"
        "access-control-allow-credentials" "access-control-allow-methods" "access-control-expose-headers"
        "access-control-request-headers" "access-control-request-method" "alt-svc" "content-security-policy"
        "early-data" "expect-ct" "forwarded" "if-range" "origin" "purpose" "server" "timing-allow-origin"
        "upgrade-insecure-requests" "user-agent" "x-forwarded-for" "x-frame-options";
    // Names that east-west traffic has in nearly every message.
    Plain: "weft-port" "weft-protocol" "weft-hops" "weft-timeout" "weft-caller" "weft-error" "weft-unprocessed"
        "allow" "baggage" "b3" "capsule-protocol" "content-language" "content-location" "content-range" "expect"
        "expires" "from" "grpc-accept-encoding" "grpc-encoding" "grpc-message" "grpc-status"
        "grpc-status-details-bin" "grpc-timeout" "idempotency-key" "if-match" "if-unmodified-since"
        "max-forwards" "pragma" "priority" "proxy-authenticate" "proxy-status" "retry-after"
        "sec-websocket-accept" "sec-websocket-extensions" "sec-websocket-key" "sec-websocket-protocol"
        "sec-websocket-version" "traceparent" "tracestate" "trailer" "via" "www-authenticate" "x-api-key"
        "x-b3-parentspanid" "x-b3-sampled" "x-b3-spanid" "x-b3-traceid" "x-correlation-id" "x-forwarded-host"
        "x-forwarded-proto" "x-powered-by" "x-real-ip" "x-request-id";
}

const COUNT: usize = PSEUDO.len() + REGULAR.len();

/// 2^9 slots: less than a quarter are used, and with the multipliers of [`slot`] no two names share one.
const SLOT_BITS: u32 = 9;
const SLOTS: usize = 1 << SLOT_BITS;
const NONE: u8 = u8::MAX;

struct Tables {
    slots: [u8; SLOTS],
    /// The first entry of the static table with a known name.
    static_index: [u8; COUNT],
    /// The known name of a static entry.
    of_static: [u8; static_table::LEN],
}

static TABLES: Tables = build();

impl Known {
    /// The known name that is spelled `name`.
    pub(crate) fn find(name: &[u8]) -> Option<Known> {
        if name.is_empty() {
            return None;
        }
        let mut slot = slot(name);
        loop {
            let index = *TABLES.slots.get(slot)?;
            if index == NONE {
                return None;
            }
            if Known(index).as_str().as_bytes() == name {
                return Some(Known(index));
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// The name of an entry of the static table.
    pub(crate) fn of_static(index: usize) -> Option<Known> {
        TABLES.of_static.get(index).map(|index| Known(*index))
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.entry().name
    }

    pub(crate) fn class(self) -> Class {
        self.entry().class
    }

    /// The first static entry with this name.
    pub(crate) fn static_index(self) -> Option<u8> {
        TABLES
            .static_index
            .get(usize::from(self.0))
            .copied()
            .filter(|index| *index != NONE)
    }

    /// The `HeaderName`, which a pseudo-header field does not have.
    pub(crate) fn header_name(self) -> Option<&'static HeaderName> {
        HEADER_NAMES.get(usize::from(self.0).checked_sub(PSEUDO.len())?)
    }

    fn entry(self) -> &'static Entry {
        const { assert!(COUNT < NONE as usize) };
        static PSEUDO_ENTRIES: [Entry; 6] = PSEUDO;
        let index = usize::from(self.0);
        // A `Known` is only made from the tables, whose every index is below COUNT.
        PSEUDO_ENTRIES
            .get(index)
            .or_else(|| REGULAR.get(index - PSEUDO.len()))
            .unwrap_or(&PSEUDO_ENTRIES[0])
    }
}

/// Mixes the length and six bytes of the name, which must not be empty.
const fn slot(name: &[u8]) -> usize {
    let len = name.len();
    let first =
        len as u32 | (name[0] as u32) << 8 | (name[len - 1] as u32) << 16 | (name[len / 2] as u32) << 24;
    let second = name[len / 4] as u32 | (name[len * 3 / 4] as u32) << 8 | (name[(len - 1) / 3] as u32) << 16;
    let hash = first.wrapping_mul(0xbf60_5b6b) ^ second.wrapping_mul(0xf378_df8b);
    (hash >> (32 - SLOT_BITS)) as usize
}

const fn name_at(index: usize) -> &'static str {
    if index < PSEUDO.len() {
        PSEUDO[index].name
    } else {
        REGULAR[index - PSEUDO.len()].name
    }
}

const fn build() -> Tables {
    let mut tables = Tables {
        slots: [NONE; SLOTS],
        static_index: [NONE; COUNT],
        of_static: [NONE; static_table::LEN],
    };
    let mut index = 0;
    while index < COUNT {
        let name = name_at(index);
        let mut at = slot(name.as_bytes());
        while tables.slots[at] != NONE {
            at = (at + 1) % SLOTS;
        }
        tables.slots[at] = index as u8;
        let mut entry = static_table::LEN;
        while entry > 0 {
            entry -= 1;
            if static_table::same(static_table::ENTRIES[entry].0, name) {
                tables.static_index[index] = entry as u8;
                tables.of_static[entry] = index as u8;
            }
        }
        index += 1;
    }
    // Every static entry has a known name.
    let mut entry = 0;
    while entry < static_table::LEN {
        assert!(tables.of_static[entry] != NONE);
        entry += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_nothing_else() {
        for index in 0..COUNT {
            let known = Known(index as u8);
            assert_eq!(
                Known::find(known.as_str().as_bytes()),
                Some(known),
                "{}",
                known.as_str()
            );
            match known.class() {
                Class::Pseudo(pseudo) => assert_eq!(pseudo.as_str(), known.as_str()),
                _ => assert_eq!(known.header_name().unwrap().as_str(), known.as_str()),
            }
        }
        for name in [
            "",
            ":",
            ":foo",
            "x",
            "content-lengti",
            "Host",
            "hosts",
            "weft-portx",
            "\0\0\0\0",
        ] {
            assert_eq!(Known::find(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn no_two_names_share_a_slot() {
        let mut seen = std::collections::HashSet::new();
        assert!((0..COUNT).all(|index| seen.insert(slot(name_at(index).as_bytes()))));
    }

    #[test]
    fn static_entries_and_names_agree() {
        for (index, (name, _)) in static_table::ENTRIES.iter().enumerate() {
            let known = Known::of_static(index).unwrap();
            assert_eq!(known.as_str(), *name);
            let first = static_table::ENTRIES
                .iter()
                .position(|(other, _)| other == name)
                .unwrap();
            assert_eq!(known.static_index(), Some(first as u8));
        }
        assert_eq!(Known::of_static(99), None);
        assert_eq!(Known::find(b"weft-port").unwrap().static_index(), None);
    }
}
