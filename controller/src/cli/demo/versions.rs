//! The steps about two versions of the catalog: its requests are split between them, testers get the new one, and a
//! replica of the old one turns bad.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    DemoError, Shop,
    board::Flow,
    documents::{self, Document, SPLIT},
    pages::{self, Standing},
    plan::{CATALOG_V1_1, FRONTEND, Member},
    progress::Acks,
    steps::{LIMIT, Limit, failed, names},
    table::milliseconds,
};

/// So many answers are looked at before a split is believed, and so many of testers before theirs are.
const ANSWERS: u64 = 150;
const TESTERS_ANSWERS: u64 = 25;
/// How far a share may be from what was asked for, in percentage points: chance alone makes it 2.4 of 150 answers.
const TOLERANCE: f64 = 3.0;
/// For how long a replica stays bad once it is ejected: less than the time for which it is.
const SICK: Duration = Duration::from_secs(2);

/// Right answers by version.
type Answers = BTreeMap<&'static str, u64>;

impl Shop {
    pub(super) async fn split(&mut self) -> Result<Value, DemoError> {
        const WHAT: &str = "split the requests";
        let acks = self.apply(WHAT, &documents::split()).await?;
        let before = self.traffic.board().by_version(Flow::Catalog);
        let limit = Limit::new(LIMIT);
        let seen = loop {
            let seen = since(&before, &self.traffic.board().by_version(Flow::Catalog));
            if is_split(&seen) {
                break seen;
            }
            limit.check(WHAT, || format!("the versions get {}", shares(&seen)))?;
            self.tick().await?;
        };
        self.show.say(format_args!("  seen: {}", shares(&seen)));
        Ok(with(acks.to_json(), "answers", json!(seen)))
    }

    pub(super) async fn testers(&mut self) -> Result<Value, DemoError> {
        const WHAT: &str = "give testers the new version";
        // Alone, it would leave the others without a route.
        self.apply(WHAT, &documents::split()).await?;
        let acks = self.apply(WHAT, &documents::testers()).await?;
        let flows = [Flow::Testers, Flow::Catalog];
        let board = |shop: &Self, flow| shop.traffic.board().by_version(flow);
        let before = flows.map(|flow| board(self, flow));
        self.traffic.use_testers();
        let limit = Limit::new(LIMIT);
        let [testers, others] = loop {
            let [testers, others] = &before;
            let testers = since(testers, &board(self, Flow::Testers));
            let others = since(others, &board(self, Flow::Catalog));
            // An answer of another version to a tester is a wrong one, and counted as such.
            if testers.values().sum::<u64>() >= TESTERS_ANSWERS && is_split(&others) {
                break [testers, others];
            }
            limit.check(WHAT, || {
                format!("testers get {}, others {}", shares(&testers), shares(&others))
            })?;
            self.tick().await?;
        };
        let (field, value) = documents::TESTER;
        self.show
            .say(format_args!("  with {field}: {value}: {}", shares(&testers)));
        self.show.say(format_args!("  without: {}", shares(&others)));
        let detail = with(acks.to_json(), "testers", json!(testers));
        Ok(with(detail, "others", json!(others)))
    }

    pub(super) async fn bad_replica(&mut self) -> Result<Value, DemoError> {
        const WHAT: &str = "let a replica turn bad";
        let bad = &CATALOG_V1_1;
        self.apply(WHAT, &documents::split()).await?;
        let acks = self.apply(WHAT, &documents::policy(self.changes > 0)).await?;
        let before = self.count(bad).await.map_err(failed(WHAT))?;
        self.misbehave(bad, "kind=status&code=503")
            .await
            .map_err(failed(WHAT))?;
        let turned = Instant::now();
        self.show
            .say(format_args!("  {} answers every request with 503", bad.name));
        let limit = Limit::new(LIMIT);
        while !self.is_ejected(bad).await {
            limit.check(WHAT, || format!("{} is not ejected", bad.name))?;
            self.tick().await?;
        }
        let ejected = turned.elapsed();
        let reached = self
            .count(bad)
            .await
            .map_err(failed(WHAT))?
            .saturating_sub(before);
        self.show.say(format_args!(
            "  ejected by {}'s sidecar after {}; it got {reached} requests, which were sent again elsewhere",
            FRONTEND.name,
            milliseconds(ejected)
        ));
        self.run_for(SICK).await?;
        self.misbehave(bad, "kind=none").await.map_err(failed(WHAT))?;
        let healed = Instant::now();
        let answered = self.traffic.board().answered_by(bad);
        self.show.say(format_args!("  {} is well again", bad.name));
        let limit = Limit::new(LIMIT);
        while self.is_ejected(bad).await || self.traffic.board().answered_by(bad) == answered {
            limit.check(WHAT, || format!("{} gets no request", bad.name))?;
            self.tick().await?;
        }
        let back = healed.elapsed();
        self.show.say(format_args!(
            "  one request tried it, and then others came, after {}",
            milliseconds(back)
        ));
        let mut detail = acks.to_json();
        for (name, value) in [
            ("ejectedAfterMillis", ejected.as_millis() as u64),
            ("requestsUntilEjected", reached),
            ("backAfterMillis", back.as_millis() as u64),
        ] {
            detail = with(detail, name, value.into());
        }
        Ok(detail)
    }

    /// Applies a document as `weft apply` does, and waits until every sidecar has what of it concerns it.
    ///
    /// # Errors
    /// It is refused, or not acked in time.
    pub(super) async fn apply(&mut self, what: &str, document: &Document) -> Result<Acks, DemoError> {
        self.write(document.file, &document.text)?;
        let begun = Instant::now();
        let revision = self.control.apply(document.file, document.text.clone()).await;
        let revision = revision.map_err(failed(what))?;
        self.show.say(format_args!(
            "  weft apply -f {}: {}, as revision {revision}",
            document.file, document.names
        ));
        if self.is_interactive {
            for line in document.text.lines() {
                self.show.say(format_args!("    {line}"));
            }
        }
        let mut acks = Acks::new(revision, names());
        let limit = Limit::new(LIMIT);
        while !acks.waiting().is_empty() {
            let fleet = self.control.fleet().await.map_err(failed(what))?;
            acks.on_fleet(&fleet, begun.elapsed()).map_err(failed(what))?;
            limit.check(what, || format!("no ack of {}", acks.waiting().join(", ")))?;
            self.tick().await?;
        }
        Ok(acks)
    }

    /// Whether the customers' sidecar leaves a workload alone.
    async fn is_ejected(&self, member: &Member) -> bool {
        let standing = pages::standing(self.subnet, &FRONTEND, member).await;
        standing == Some(Standing::Ejected)
    }

    /// Tells a workload's application how to answer from now on.
    async fn misbehave(&self, member: &Member, how: &str) -> Result<(), String> {
        self.application(member, "PUT", &format!("/fault?{how}"))
            .await
            .map(drop)
    }

    /// How many requests have reached a workload's application.
    async fn count(&self, member: &Member) -> Result<u64, String> {
        let counts = self.application(member, "GET", "/counts").await?;
        let counts: Value = serde_json::from_str(&counts).map_err(|error| error.to_string())?;
        counts["total"]
            .as_u64()
            .ok_or_else(|| format!("{} does not count its requests", member.name))
    }

    /// What a workload's application answers to someone who reaches it past the mesh.
    async fn application(&self, member: &Member, method: &str, path: &str) -> Result<String, String> {
        let Some(address) = self.subnet.application(member) else {
            return Err(format!("{} has no application", member.name));
        };
        match pages::request(method, address, path).await {
            Ok((200, answer)) => Ok(answer),
            Ok((status, answer)) => Err(format!("{} answers {status} {answer}", member.name)),
            Err(error) => Err(format!("{}: {error}", member.name)),
        }
    }
}

/// What has come since.
fn since(before: &Answers, now: &Answers) -> Answers {
    now.iter()
        .map(|(version, count)| {
            let before = before.get(version).copied().unwrap_or_default();
            (*version, count.saturating_sub(before))
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Whether enough answers have come, and each version's share of them is what the split says.
fn is_split(answers: &Answers) -> bool {
    let total: u64 = answers.values().sum();
    total >= ANSWERS
        && SPLIT.iter().all(|(version, percent)| {
            let count = answers.get(version).copied().unwrap_or_default();
            (share(count, total) - *percent as f64).abs() <= TOLERANCE
        })
}

/// For people.
fn shares(answers: &Answers) -> String {
    let total: u64 = answers.values().sum();
    if total == 0 {
        return "nothing".to_owned();
    }
    let shares: Vec<_> = answers
        .iter()
        .map(|(version, count)| format!("{version} {:.1}%", share(*count, total)))
        .collect();
    format!("{} of {total} answers", shares.join(", "))
}

/// In percent.
fn share(count: u64, total: u64) -> f64 {
    count as f64 * 100.0 / total.max(1) as f64
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::plan::{V1, V2};

    fn answers(v1: u64, v2: u64) -> Answers {
        BTreeMap::from([(V1, v1), (V2, v2)])
    }

    #[test]
    fn a_split_takes_enough_answers_in_the_right_shares() {
        assert!(is_split(&answers(135, 15)));
        assert!(is_split(&answers(900, 125)), "chance has some room");
        assert!(!is_split(&answers(90, 10)), "too few to tell");
        assert!(!is_split(&answers(500, 500)));
        assert!(!is_split(&answers(200, 0)));
        assert!(!is_split(&Answers::new()));
    }

    #[test]
    fn only_what_came_since_counts() {
        let now = answers(140, 40);
        assert_eq!(since(&answers(50, 40), &now), BTreeMap::from([(V1, 90)]));
        assert_eq!(since(&Answers::new(), &now), now);
        assert_eq!(shares(&answers(135, 15)), "v1 90.0%, v2 10.0% of 150 answers");
        assert_eq!(shares(&Answers::new()), "nothing");
    }
}
