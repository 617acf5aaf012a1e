//! The controller, the certificates and the sidecars.

use std::time::{Duration, SystemTime};

use weft_proto::mesh::v1;

use super::{Item, Level, unreachable};
use crate::cli::{
    ca,
    failure::{Failure, many},
    human,
    screen::clean,
    session::Session,
    status::{self, Standing, complaints},
    version,
};

/// With a quarter of a life left, or this much, whichever is less, a certificate is worth a warning.
const EARLY: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Clocks may differ by this much: less than the backdating of any leaf.
const CLOCK: Duration = Duration::from_secs(1);
/// With clocks so far apart, fresh certificates are refused (leaves are backdated by a minute at most).
const CLOCK_WRONG: Duration = Duration::from_secs(60);

pub(super) async fn look(session: &mut Session) -> Vec<Item> {
    let mut items = Vec::new();
    match controller(session, &mut items).await {
        Ok(()) => {}
        Err(failure) => {
            items.push(unreachable(&failure));
            return items;
        }
    }
    credential(session, &mut items);
    match ca::fetch(session).await {
        Ok(trust) => {
            certificates(&trust, (session.now)(), &mut items);
            match status::fetch(session, &v1::FleetRequest::default()).await {
                Ok(fleet) => sidecars(&fleet, &trust, (session.now)(), &mut items),
                Err(failure) => items.push(unreachable(&failure)),
            }
        }
        Err(failure) => items.push(unreachable(&failure)),
    }
    items
}

async fn controller(session: &mut Session, items: &mut Vec<Item>) -> Result<(), Failure> {
    const SECTION: &str = "controller";
    let before = (session.now)();
    let response = session.admin.info(v1::InfoRequest {}).await;
    let info = response.map_err(|status| session.refused(status))?.into_inner();
    let took = (session.now)().duration_since(before).unwrap_or_default();
    items.push(Item::new(
        SECTION,
        Level::Good,
        format!(
            "{} answers in {}, trust domain {}, started {} ago, you are {} ({})",
            session.target.address,
            human::duration(took),
            info.trust_domain,
            human::ago((session.now)(), info.started_at),
            info.caller,
            info.role
        ),
    ));
    items.push(same_version(SECTION, "the controller", &info.version));
    // It read its clock somewhere between the two of ours.
    let there = SystemTime::UNIX_EPOCH + Duration::from_millis(info.now_ms);
    items.push(clock(there, before + took / 2));
    Ok(())
}

fn same_version(section: &'static str, who: &str, version: &str) -> Item {
    if version == version::OWN {
        Item::new(
            section,
            Level::Good,
            format!("{who} is of version {version}, as weft is"),
        )
    } else {
        Item::new(
            section,
            Level::Warning,
            format!("{who} is of version {version}, weft of {}", version::OWN),
        )
    }
}

fn clock(there: SystemTime, here: SystemTime) -> Item {
    const SECTION: &str = "controller";
    let (apart, word) = match there.duration_since(here) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let text = format!(
        "the controller's clock is {} {word} this machine's",
        human::duration(apart)
    );
    if apart <= CLOCK {
        Item::new(SECTION, Level::Good, "the clocks agree")
    } else if apart < CLOCK_WRONG {
        Item::new(SECTION, Level::Warning, text)
    } else {
        Item::new(SECTION, Level::Wrong, text)
            .hint("Set both by NTP: certificates are refused by clocks that differ.")
    }
}

/// The operator's own.
fn credential(session: &Session, items: &mut Vec<Item>) {
    let Some(credentials) = &session.credentials else {
        return;
    };
    let svid = credentials.svid();
    let (from, until) = (
        human::seconds(svid.not_before()),
        human::seconds(svid.not_after()),
    );
    let item = expiry("your credential", Some(from), until, (session.now)());
    items.push(match item.level {
        Level::Good => item,
        _ => item.hint(
            "It renews itself when weft is used; if it does not: weft login TOKEN --controller HOST:PORT",
        ),
    });
}

fn certificates(trust: &v1::TrustStatusResponse, now: SystemTime, items: &mut Vec<Item>) {
    for root in &trust.roots {
        let name = format!("root {} ({})", ca::short_id(&root.id), root.state);
        let item = expiry(&name, Some(root.not_before), root.not_after, now);
        items.push(match item.level {
            Level::Good => item,
            _ => item.hint("Replace it: weft ca rotate --wait"),
        });
    }
    items.push(signer(trust, now));
    if !trust.waiting.is_empty() {
        let waiting = many(trust.waiting.len(), "holder");
        let text = format!("the rotation of the root ({}) waits for {waiting}", trust.step);
        items.push(Item::new("certificates", Level::Warning, text).hint("weft ca status names them"));
    }
}

/// The controller renews its signer by itself. It matters when leaves would begin to be cut short by its end.
fn signer(trust: &v1::TrustStatusResponse, now: SystemTime) -> Item {
    let item = expiry("the controller's signer", None, trust.signer_not_after, now);
    let leaf = Duration::from_secs(trust.leaf_lifetime_seconds);
    match human::left(now, trust.signer_not_after) {
        Some(left) if left < leaf => {
            let text = format!(
                "the controller's signer ends {}: leaves are valid for less than {}",
                human::until(now, trust.signer_not_after),
                human::duration(leaf)
            );
            Item::new("certificates", Level::Wrong, text)
                .hint("See the controller's log: it should have renewed it.")
        }
        _ => item,
    }
}

/// How long a certificate is still good.
fn expiry(name: &str, not_before: Option<u64>, not_after: u64, now: SystemTime) -> Item {
    const SECTION: &str = "certificates";
    let until = human::until(now, not_after);
    let Some(left) = human::left(now, not_after) else {
        return Item::new(SECTION, Level::Wrong, format!("{name} ended {until}"));
    };
    let life = not_before.map(|from| Duration::from_secs(not_after.saturating_sub(from)));
    let early = life.map_or(Duration::ZERO, |life| EARLY.min(life / 4));
    let level = if left < early { Level::Warning } else { Level::Good };
    Item::new(SECTION, level, format!("{name} ends {until}"))
}

fn sidecars(
    fleet: &v1::FleetResponse,
    trust: &v1::TrustStatusResponse,
    now: SystemTime,
    items: &mut Vec<Item>,
) {
    const SECTION: &str = "sidecars";
    let before = items.len();
    let leaf = Duration::from_secs(trust.leaf_lifetime_seconds);
    items.extend(fleet.proxies.iter().filter_map(|proxy| {
        let (level, found) = sidecar(proxy, fleet.revision, leaf, now);
        let text = format!("{}: {}", clean(&status::name(proxy)), found.join("; "));
        (level != Level::Good).then(|| Item::new(SECTION, level, text))
    }));
    let mut versions: Vec<&str> = fleet.proxies.iter().map(|proxy| proxy.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    items.extend(
        versions
            .iter()
            .filter(|version| **version != version::OWN)
            .map(|version| same_version(SECTION, "a sidecar", version)),
    );
    if items.len() == before {
        let text = match fleet.proxies.len() {
            0 => "none yet".to_owned(),
            number => format!("{} current, with valid certificates", many(number, "sidecar")),
        };
        items.push(Item::new(SECTION, Level::Good, text));
    }
}

/// How it is with one, and all that is to be said of it.
fn sidecar(proxy: &v1::ProxyStatus, revision: u64, leaf: Duration, now: SystemTime) -> (Level, Vec<String>) {
    let mut found = complaints(proxy, now);
    let mut level = match Standing::of(proxy) {
        Standing::Current if found.is_empty() => Level::Good,
        Standing::Current => Level::Warning,
        Standing::Behind => {
            found.push(format!(
                "behind: acknowledged {} of {revision}",
                proxy.acked_revision
            ));
            Level::Warning
        }
        Standing::Nacked | Standing::Lost | Standing::Gone => Level::Wrong,
    };
    let ends = || human::until(now, proxy.certificate_not_after);
    match human::left(now, proxy.certificate_not_after) {
        // It has not said yet.
        _ if proxy.certificate_not_after == 0 => {}
        None => {
            level = Level::Wrong;
            found.push(format!("its certificate ended {}", ends()));
        }
        Some(left) if left < leaf / 4 => {
            level = worse(level, Level::Warning);
            found.push(format!(
                "its certificate ends {}, and should have been renewed",
                ends()
            ));
        }
        Some(_) => {}
    }
    if proxy.renewal_failing_since != 0 {
        level = Level::Wrong;
    }
    if proxy.readiness() == v1::Readiness::NotReady && found.is_empty() {
        level = worse(level, Level::Warning);
        found.push("not ready".to_owned());
    }
    (level, found)
}

fn worse(a: Level, b: Level) -> Level {
    match (a, b) {
        (Level::Wrong, _) | (_, Level::Wrong) => Level::Wrong,
        (Level::Warning, _) | (_, Level::Warning) => Level::Warning,
        (Level::Good, Level::Good) => Level::Good,
    }
}
