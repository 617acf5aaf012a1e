//! The rules of a rotation, one by one.

use std::time::{Duration, UNIX_EPOCH};

use super::*;

const OLD: RootId = RootId([1; 32]);
const NEW: RootId = RootId([2; 32]);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn leaf(root: RootId, bundle: u64, until: u64) -> Leaf {
    Leaf {
        root,
        bundle,
        until: at(until),
    }
}

fn web(leaves: Vec<Leaf>, acked: Option<u64>, shown: Option<RootId>) -> View {
    let holder = HolderKey {
        identity: "spiffe://mesh.test/ns/shop/sa/web".parse().unwrap(),
        workload: "web-1".to_owned(),
    };
    View {
        holders: vec![Standing {
            holder,
            leaves,
            acked,
            shown,
        }],
        tokens: Vec::new(),
    }
}

fn distributing() -> Trust {
    Trust::new(OLD).rotate(NEW, false).unwrap()
}

fn signing(keep_old: bool) -> Trust {
    let trust = Trust::new(OLD).rotate(NEW, keep_old).unwrap();
    trust.advance(&View::default(), at(0)).unwrap()
}

#[test]
fn with_nobody_to_wait_for_a_rotation_runs_through() {
    let trust = distributing();
    assert_eq!(
        (trust.version, trust.roots(), trust.signing()),
        (2, vec![OLD, NEW], OLD)
    );
    let trust = trust.advance(&View::default(), at(0)).unwrap();
    assert_eq!(
        (trust.version, trust.roots(), trust.signing()),
        (2, vec![OLD, NEW], NEW)
    );
    assert_eq!((trust.renewals, trust.familiar()), (1, OLD));
    let trust = trust.advance(&View::default(), at(0)).unwrap();
    assert_eq!(
        (trust.version, trust.roots(), trust.signing()),
        (3, vec![NEW], NEW)
    );
    let trust = trust.advance(&View::default(), at(0)).unwrap();
    assert_eq!(
        (trust.version, trust.step.clone()),
        (3, Step::Stable { root: NEW })
    );
    assert_eq!(trust.advance(&View::default(), at(0)), None);
}

#[test]
fn the_new_root_signs_when_everyone_has_it_and_not_before() {
    let trust = distributing();
    let silent = web(vec![leaf(OLD, 1, 100)], None, None);
    assert_eq!(trust.advance(&silent, at(99)), None);
    let waiting = trust.waiting(&silent, at(99));
    assert_eq!(
        (waiting.len(), waiting[0].why, waiting[0].until),
        (1, Why::Bundle(2), at(100))
    );
    let behind = web(vec![leaf(OLD, 1, 100)], Some(1), None);
    assert_eq!(trust.advance(&behind, at(99)), None);

    let acked = web(vec![leaf(OLD, 1, 100)], Some(2), None);
    assert!(trust.advance(&acked, at(0)).is_some());
    // Its only leaf came with the new bundle.
    let joined = web(vec![leaf(OLD, 2, 100)], None, None);
    assert!(trust.advance(&joined, at(0)).is_some());
    // It may never have got the second one.
    let both = web(vec![leaf(OLD, 1, 100), leaf(OLD, 2, 200)], None, None);
    assert_eq!(trust.advance(&both, at(99)), None);
    assert!(trust.advance(&both, at(100)).is_some());
    // It is waited for no longer than its leaf and the grace.
    assert!(trust.advance(&silent, at(100)).is_some());
}

#[test]
fn the_old_root_goes_when_nobody_shows_it_and_no_token_leads_to_it() {
    let trust = signing(false);
    let leaves = vec![leaf(OLD, 2, 100), leaf(NEW, 2, 200)];
    // A leaf that was signed may never have arrived.
    let signed = web(leaves.clone(), Some(2), None);
    assert_eq!(trust.advance(&signed, at(99)), None);
    assert_eq!(trust.waiting(&signed, at(99))[0].why, Why::Leaf);
    let shown = web(leaves.clone(), Some(2), Some(NEW));
    assert!(trust.advance(&shown, at(0)).is_some());
    assert_eq!(trust.advance(&web(leaves, Some(2), Some(OLD)), at(99)), None);
    assert!(trust.advance(&signed, at(100)).is_some());
    // What it says must be what the ledger knows.
    let forged = web(vec![leaf(OLD, 2, 100)], Some(2), Some(NEW));
    assert_eq!(trust.advance(&forged, at(99)), None);

    let token = |root| View {
        holders: Vec::new(),
        tokens: vec![OpenToken {
            id: "t".to_owned(),
            root,
            until: at(50),
        }],
    };
    assert_eq!(trust.advance(&token(OLD), at(49)), None);
    assert!(trust.advance(&token(OLD), at(50)).is_some());
    assert!(trust.advance(&token(NEW), at(0)).is_some());
}

#[test]
fn a_rotation_ends_when_everyone_has_forgotten_the_old_root() {
    let trust = signing(false).advance(&View::default(), at(0)).unwrap();
    let knows = web(vec![leaf(NEW, 2, 100)], Some(2), Some(NEW));
    assert_eq!(trust.advance(&knows, at(99)), None);
    let forgot = web(vec![leaf(NEW, 2, 100)], Some(3), Some(NEW));
    assert!(trust.advance(&forgot, at(0)).is_some());
}

#[test]
fn retiring_early_is_refused_and_says_who_would_be_cut_off() {
    let trust = signing(true);
    let old = web(vec![leaf(OLD, 2, 100)], Some(2), Some(OLD));
    assert_eq!(
        trust.advance(&View::default(), at(0)),
        None,
        "it stops before retiring"
    );
    let refused = trust.retire(OLD, &old, at(99)).unwrap_err();
    assert!(matches!(&refused, Refused::Early(OLD, waiting) if waiting.len() == 1));
    assert!(refused.to_string().contains("shop/web-1"), "{refused}");
    let retired = trust.retire(OLD, &View::default(), at(0)).unwrap();
    assert_eq!((retired.roots(), retired.version), (vec![NEW], 3));

    for (trust, id) in [
        (Trust::new(OLD), OLD),
        (Trust::new(OLD), NEW),
        (distributing(), OLD),
        (trust, NEW),
        (retired, OLD),
    ] {
        let before = trust.clone();
        assert!(
            matches!(trust.retire(id, &View::default(), at(0)), Err(Refused::Unfit(..))),
            "{before:?} {id}"
        );
    }
}

#[test]
fn a_rotation_can_be_given_up_while_nothing_is_signed_with_the_new_root() {
    let trust = distributing().retire(NEW, &View::default(), at(0)).unwrap();
    assert_eq!(
        (trust.version, trust.roots(), trust.signing()),
        (3, vec![OLD], OLD)
    );
    let trust = trust.advance(&View::default(), at(0)).unwrap();
    assert_eq!(trust.step, Step::Stable { root: OLD });
}

#[test]
fn one_rotation_at_a_time_and_to_another_root() {
    assert_eq!(Trust::new(OLD).rotate(OLD, false), Err(Refused::Same(OLD)));
    assert!(matches!(
        distributing().rotate(RootId([3; 32]), false),
        Err(Refused::UnderWay("distributing"))
    ));
    assert!(matches!(
        signing(false).rotate(RootId([3; 32]), false),
        Err(Refused::UnderWay("signing"))
    ));
}

#[test]
fn the_state_comes_back_from_its_text() {
    for trust in [Trust::new(OLD), distributing(), signing(true)] {
        let text = serde_json::to_string(&trust).unwrap();
        assert_eq!(serde_json::from_str::<Trust>(&text).unwrap(), trust, "{text}");
    }
    assert!(serde_json::from_str::<RootId>("\"00\"").is_err());
}
