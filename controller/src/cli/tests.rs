//! The command line as it is typed, and what it says, against a controller in this process.

mod authority;
mod documents;
mod fleet;
mod help;
mod login;
mod routes;

use super::testing::{Fake, Typing, now, type_to};
use tonic::{Code, Status};

#[tokio::test]
async fn what_a_controller_refuses_says_what_to_do() {
    for (code, message, said) in [
        (
            Code::PermissionDenied,
            "Evict is not open to spiffe://mesh.test/weft/viewer/vic (viewer): it takes an admin's certificate",
            "error: not permitted: Evict is not open to spiffe://mesh.test/weft/viewer/vic (viewer): it takes an \
             admin's certificate\n  `weft version` says as whom you call; an admin can make a token for another role.\n",
        ),
        (
            Code::Aborted,
            "Service shop/web is of generation 4, not 3",
            "error: conflict: Service shop/web is of generation 4, not 3\n  Someone changed it meanwhile: get it \
             again, and apply your change to that.\n",
        ),
        (
            Code::NotFound,
            "there is no \x1b[2Jthing",
            "error: not found: there is no \\u{1b}[2Jthing\n",
        ),
    ] {
        let said_now = type_to(
            &Fake::refusing(Status::new(code, message)),
            "weft proxy evict web-0",
        )
        .await;
        assert_eq!((said_now.err.as_str(), said_now.code), (said, 1));
        assert_eq!(said_now.out, "");
    }
}

#[tokio::test]
async fn the_version_says_as_whom_one_calls() {
    let fake = Fake {
        info: weft_proto::mesh::v1::InfoResponse {
            version: "0.2.0".to_owned(),
            trust_domain: "mesh.test".to_owned(),
            caller: "spiffe://mesh.test/weft/viewer/vic".to_owned(),
            role: "viewer".to_owned(),
            ..Default::default()
        },
        ..Fake::default()
    };
    let said = type_to(&fake, "weft version").await;
    assert_eq!(
        said.out,
        "weft        0.1.0\ncontroller  0.2.0, trust domain mesh.test\nyou         spiffe://mesh.test/weft/viewer/vic (viewer)\n"
    );
    let said = type_to(&fake, "weft version -o json").await;
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(value["controller"]["role"], "viewer");
    assert_eq!(value["client"], "0.1.0");
}

#[tokio::test]
async fn nothing_from_a_proxy_is_obeyed_by_a_terminal() {
    let mut hostile = super::testing::proxy("shop", "web\x1b[2J-0");
    hostile.reason = "\x1b]0;owned\x07".to_owned();
    hostile.readiness = weft_proto::mesh::v1::Readiness::NotReady.into();
    hostile.version = "\u{202e}1.0".to_owned();
    hostile.nacked = vec![weft_proto::mesh::v1::Problem {
        document: "\x1b[31m".to_owned(),
        message: "a\r\nb".to_owned(),
        ..Default::default()
    }];
    let fake = Fake::with_fleet(weft_proto::mesh::v1::FleetResponse {
        proxies: vec![hostile],
        revision: 42,
        trust_version: 1,
    });
    let typing = Typing {
        is_terminal: true,
        ..Typing::default()
    };
    for line in ["weft status -o wide", "weft status -o name", "weft check"] {
        let said = typing.type_to(&fake, line).await;
        let own_colours = said.out.replace("\x1b[0m", "");
        let own_colours = ["\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"]
            .iter()
            .fold(own_colours, |text, colour| text.replace(colour, ""));
        let harmful = own_colours
            .chars()
            .find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(harmful, None, "{line}: {:?}", said.out);
        assert!(own_colours.contains("web\\u{1b}[2J-0"), "{line}: {own_colours}");
    }
    assert_eq!(now(), super::human::moment(super::testing::NOW));
}
