//! A mesh of honest holders in random order, against the machine: nobody who may still speak is ever cut off.
//!
//! Messages are lost and late, holders and the controller start again, certificates end. What a holder has and what
//! the controller believes that it has are kept apart.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proptest::{prelude::*, sample::Index};

use super::*;

const LIFETIME: u64 = 20;
const GRACE: u64 = 7;
const TOKEN: u64 = 15;

#[derive(Clone, Debug)]
enum Op {
    Rotate { keep_old: bool },
    Retire { new: bool },
    Advance,
    RestartController,
    CreateToken,
    Tick(u64),
    Join,
    Peer(Act, Index),
}

/// What a holder does, or what is done to it.
#[derive(Clone, Copy, Debug)]
enum Act {
    Renew,
    Receive,
    LoseAnswer,
    Push,
    Say,
    Hear,
    Restart,
    Evict,
}

/// What a leaf says, and when it ends.
#[derive(Clone, Copy, Debug)]
struct Shown {
    root: RootId,
    not_after: u64,
}

#[derive(Clone, Debug)]
struct Roots {
    version: u64,
    roots: Vec<RootId>,
}

/// What a holder has. The rest of the mesh sees nothing else.
#[derive(Clone, Debug)]
struct Peer {
    has: Option<(Shown, Roots)>,
    /// The answer to the only request that is under way.
    answer: Option<(Shown, Roots)>,
    /// What it said and the controller has not heard yet.
    said: VecDeque<(u64, RootId)>,
    evicted: bool,
}

#[derive(Debug)]
struct World {
    trust: Trust,
    now: u64,
    roots: u8,
    peers: Vec<Peer>,
    /// By peer: what the ledger has.
    ledger: Vec<(usize, Leaf)>,
    heard: HashMap<usize, (u64, RootId)>,
    tokens: Vec<OpenToken>,
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn root(number: u8) -> RootId {
    RootId([number; 32])
}

fn name(peer: usize) -> HolderKey {
    HolderKey {
        identity: "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap(),
        workload: format!("web-{peer}"),
    }
}

impl World {
    fn new() -> Self {
        Self {
            trust: Trust::new(root(0)),
            now: 1_000,
            roots: 1,
            peers: Vec::new(),
            ledger: Vec::new(),
            heard: HashMap::new(),
            tokens: Vec::new(),
        }
    }

    fn view(&self) -> View {
        let mut holders: Vec<Standing> = Vec::new();
        for (peer, leaf) in &self.ledger {
            let holder = name(*peer);
            match holders.iter_mut().find(|standing| standing.holder == holder) {
                Some(standing) => standing.leaves.push(leaf.clone()),
                None => holders.push(Standing {
                    holder,
                    leaves: vec![leaf.clone()],
                    acked: self.heard.get(peer).map(|(acked, _)| *acked),
                    shown: self.heard.get(peer).map(|(_, shown)| *shown),
                }),
            }
        }
        View {
            holders,
            tokens: self.tokens.clone(),
        }
    }

    fn take(&mut self, next: Option<Trust>) {
        let Some(next) = next else { return };
        assert!(next.version >= self.trust.version && next.renewals >= self.trust.renewals);
        assert_eq!(
            next.version == self.trust.version,
            next.roots() == self.trust.roots(),
            "a version is one bundle"
        );
        self.trust = next;
    }

    /// The controller signs: in the ledger first, then the answer is on its way.
    fn sign(&mut self, peer: usize) {
        let shown = Shown {
            root: self.trust.signing(),
            not_after: self.now + LIFETIME,
        };
        self.ledger.push((
            peer,
            Leaf {
                root: shown.root,
                bundle: self.trust.version,
                until: at(shown.not_after + GRACE),
            },
        ));
        let roots = self.bundle();
        self.peers[peer].answer = Some((shown, roots));
    }

    fn bundle(&self) -> Roots {
        Roots {
            version: self.trust.version,
            roots: self.trust.roots(),
        }
    }

    /// Whether a peer and the controller accept each other, also if the peer's leaf ended a while ago.
    fn can_call(&self, peer: usize) -> bool {
        self.peers[peer].has.as_ref().is_some_and(|(shown, roots)| {
            self.now < shown.not_after + GRACE
                && self.trust.roots().contains(&shown.root)
                && roots.roots.contains(&self.trust.familiar())
        })
    }

    fn receive(&mut self, peer: usize) {
        let peer = &mut self.peers[peer];
        let Some((shown, roots)) = peer.answer.take() else {
            return;
        };
        let newer = match peer.has.take() {
            Some((_, had)) if had.version > roots.version => had,
            _ => roots,
        };
        peer.has = Some((shown, newer));
        peer.evicted = false;
    }

    fn push(&mut self, peer: usize) {
        if !self.can_call(peer) {
            return;
        }
        let bundle = self.bundle();
        if let Some((_, roots)) = &mut self.peers[peer].has
            && bundle.version > roots.version
        {
            *roots = bundle;
        }
    }

    fn say(&mut self, peer: usize) {
        if self.can_call(peer)
            && let Some((shown, roots)) = self.peers[peer].has.clone()
        {
            self.peers[peer].said.push_back((roots.version, shown.root));
        }
    }

    fn hear(&mut self, peer: usize) {
        if let Some(said) = self.peers[peer].said.pop_front() {
            self.heard.insert(peer, said);
        }
    }

    /// With a token: a new peer, or one that is there and lost what it had.
    fn join(&mut self, peer: usize) {
        let now = at(self.now);
        let open = self.tokens.iter().position(|token| now < token.until);
        let Some(token) = open else { return };
        let token = self.tokens.remove(token);
        // The joiner believes the token, and the controller shows it that root.
        assert!(
            self.trust.roots().contains(&token.root),
            "a token that can be used leads nowhere"
        );
        if peer == self.peers.len() {
            self.peers.push(Peer {
                has: None,
                answer: None,
                said: VecDeque::new(),
                evicted: false,
            });
        }
        self.sign(peer);
    }

    fn create_token(&mut self) {
        self.tokens.push(OpenToken {
            id: format!("t{}", self.now),
            root: self.trust.signing(),
            until: at(self.now + TOKEN),
        });
    }

    fn tick(&mut self, seconds: u64) {
        self.now += seconds;
        let now = at(self.now);
        self.ledger.retain(|(_, leaf)| now < leaf.until);
        self.tokens.retain(|token| now < token.until);
    }

    /// The operator says that it is gone, so a leaf that is on its way to it arrives nowhere. It may come back with what
    /// it had, and is one of us again when it has a leaf of the time after.
    fn evict(&mut self, peer: usize) {
        self.ledger.retain(|(of, _)| *of != peer);
        self.heard.remove(&peer);
        self.peers[peer].said.clear();
        self.peers[peer].answer = None;
        self.peers[peer].evicted = true;
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Rotate { keep_old } => {
                let next = self.trust.rotate(root(self.roots), *keep_old).ok();
                self.roots = self.roots.wrapping_add(u8::from(next.is_some()));
                self.take(next);
            }
            Op::Retire { new } => {
                let id = match self.trust.step {
                    Step::Distributing { new: id, .. } | Step::Signing { new: id, .. } if *new => id,
                    Step::Distributing { old, .. } | Step::Signing { old, .. } => old,
                    Step::Retiring { old, .. } => old,
                    Step::Stable { root } => root,
                };
                let next = self.trust.retire(id, &self.view(), at(self.now)).ok();
                self.take(next);
            }
            Op::Advance => {
                let next = self.trust.advance(&self.view(), at(self.now));
                self.take(next);
            }
            Op::RestartController => {
                self.heard.clear();
                for peer in &mut self.peers {
                    peer.said.clear();
                }
            }
            Op::CreateToken => self.create_token(),
            Op::Tick(seconds) => self.tick(*seconds),
            Op::Join => self.join(self.peers.len()),
            Op::Peer(_, _) if self.peers.is_empty() => {}
            Op::Peer(act, index) => self.act(*act, index.index(self.peers.len())),
        }
    }

    fn act(&mut self, act: Act, peer: usize) {
        match act {
            Act::Renew if self.can_call(peer) => self.sign(peer),
            Act::Renew => {}
            Act::Receive => self.receive(peer),
            Act::LoseAnswer => self.peers[peer].answer = None,
            Act::Push => self.push(peer),
            Act::Say => self.say(peer),
            Act::Hear => self.hear(peer),
            Act::Restart => {
                self.peers[peer].answer = None;
                self.peers[peer].said.clear();
            }
            Act::Evict => self.evict(peer),
        }
    }

    /// The point of it all: whoever has a leaf that has not ended is accepted by everyone, the controller included.
    fn check(&self) {
        let live: Vec<(usize, &Shown, &Roots)> = self
            .peers
            .iter()
            .enumerate()
            .filter(|(_, peer)| !peer.evicted)
            .filter_map(|(index, peer)| peer.has.as_ref().map(|(shown, roots)| (index, shown, roots)))
            .filter(|(_, shown, _)| self.now < shown.not_after)
            .collect();
        for (a, shown, roots) in &live {
            assert!(
                self.trust.roots().contains(&shown.root) && roots.roots.contains(&self.trust.familiar()),
                "peer {a} and the controller do not accept each other: {shown:?} {roots:?} {:?}",
                self.trust
            );
            for (b, _, theirs) in &live {
                assert!(
                    theirs.roots.contains(&shown.root),
                    "peer {b} does not accept {a}: {shown:?} {theirs:?} {:?}",
                    self.trust
                );
            }
        }
    }

    /// Everyone does at once what is to be done.
    fn settle(&mut self) {
        for peer in 0..self.peers.len() {
            self.receive(peer);
            if self.can_call(peer) {
                self.push(peer);
                self.sign(peer);
                self.receive(peer);
                self.say(peer);
            } else if self.peers[peer].evicted {
                // It asked for a leaf after it was evicted, and is gone for good now.
                self.evict(peer);
            } else {
                self.create_token();
                self.join(peer);
                self.receive(peer);
                self.say(peer);
            }
            while !self.peers[peer].said.is_empty() {
                self.hear(peer);
            }
        }
        self.check();
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => any::<bool>().prop_map(|keep_old| Op::Rotate { keep_old }),
        1 => any::<bool>().prop_map(|new| Op::Retire { new }),
        8 => Just(Op::Advance),
        1 => Just(Op::RestartController),
        2 => Just(Op::CreateToken),
        4 => (1_u64..6).prop_map(Op::Tick),
        3 => Just(Op::Join),
        33 => (act(), any::<Index>()).prop_map(|(act, index)| Op::Peer(act, index)),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Renew),
        6 => Just(Act::Receive),
        1 => Just(Act::LoseAnswer),
        6 => Just(Act::Push),
        6 => Just(Act::Say),
        6 => Just(Act::Hear),
        1 => Just(Act::Restart),
        1 => Just(Act::Evict),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_who_may_still_speak_is_cut_off_and_every_rotation_ends(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World::new();
        // A few peers that are all there, so that there is something to break.
        for _ in 0..3 {
            world.create_token();
            world.join(world.peers.len());
            world.receive(world.peers.len() - 1);
        }
        for op in &ops {
            world.apply(op);
            world.check();
        }
        // Nobody makes tokens any more.
        world.tick(TOKEN);
        for _ in 0..8 {
            world.settle();
            world.tokens.clear();
            world.apply(&Op::Retire { new: false });
            world.apply(&Op::Advance);
            world.check();
        }
        let is_over = matches!(world.trust.step, Step::Stable { .. });
        prop_assert!(is_over, "{:?} waits for {:?}", world.trust, world.trust.waiting(&world.view(), at(world.now)));
    }
}
