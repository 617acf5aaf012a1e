//! Addresses, routes and interfaces that change under traffic.

use crate::pair::{Pair, SOON, bind, bind_any, echo};
use std::net::{IpAddr, UdpSocket};
use weft_lab::netns::{Direction, Host, ImpairedLink, ImpairedOptions, Link, LinkOptions, Route, privileged};

/// Addresses of the right host that belong to no link.
fn services() -> [IpAddr; 2] {
    ["10.99.0.1".parse().unwrap(), "fd99::1".parse().unwrap()]
}

#[test]
fn an_address_is_replaced_twenty_times_and_its_routes_follow() {
    privileged(|| {
        let pair = Pair::new();
        let interface = pair.link.interface();
        for (index, service) in services().into_iter().enumerate() {
            pair.right.add_address("lo", service).unwrap();
            let mut address = pair.link.left()[index];
            let route = Route {
                interface,
                gateway: None,
                source: Some(address),
            };
            pair.left.set_route(&service.to_string(), route).unwrap();
            for number in 10..30 {
                let (old, new) = (address, pair.link.address(number)[index]);
                pair.left.replace_address(interface, old, new).unwrap();
                address = new;
                assert!(pair.left.run(|| UdpSocket::bind((old, 0))).unwrap().is_err());
                // By the link's own subnet and by the route.
                for to in [pair.link.right()[index], service] {
                    assert_eq!(pair.echo(to).ip(), new);
                }
            }
        }
    })
    .unwrap();
}

#[test]
fn an_address_is_replaced_on_a_veth_link_too() {
    privileged(|| {
        let (left, right) = (Host::new("left").unwrap(), Host::new("right").unwrap());
        let link = Link::join(&left, &right, 1, LinkOptions::default()).unwrap();
        for (old, to) in link.left().into_iter().zip(link.right()) {
            let new: IpAddr = match old {
                IpAddr::V4(_) => "10.77.1.9".parse().unwrap(),
                IpAddr::V6(_) => "fd77:0:0:1::9".parse().unwrap(),
            };
            left.replace_address(link.interface(), old, new).unwrap();
            let receiver = bind(&right, to);
            let sender = bind_any(&left, to);
            assert_eq!(echo(&sender, &receiver, receiver.local_addr().unwrap()).ip(), new);
        }
    })
    .unwrap();
}

#[test]
fn a_route_switches_to_a_second_link() {
    privileged(|| {
        let pair = Pair::new();
        let second = ImpairedLink::join(&pair.left, &pair.right, 2, ImpairedOptions::default()).unwrap();
        for (index, service) in services().into_iter().enumerate() {
            pair.right.add_address("lo", service).unwrap();
            for link in [&pair.link, &second, &pair.link] {
                let route = Route {
                    interface: link.interface(),
                    gateway: None,
                    source: None,
                };
                pair.left.set_route(&service.to_string(), route).unwrap();
                let before = link.counters(Direction::LeftToRight).passed;
                assert_eq!(pair.echo(service).ip(), link.left()[index]);
                assert!(link.counters(Direction::LeftToRight).passed > before);
            }
        }
    })
    .unwrap();
}

#[test]
fn a_router_joins_two_links() {
    privileged(|| {
        let pair = Pair::new();
        let far = Host::new("far").unwrap();
        let second = ImpairedLink::join(&pair.right, &far, 2, ImpairedOptions::default()).unwrap();
        pair.right.forward().unwrap();
        for index in [0, 1] {
            let to_router = |link: &ImpairedLink, gateway: [IpAddr; 2], host: &Host| {
                let route = Route {
                    interface: link.interface(),
                    gateway: Some(gateway[index]),
                    source: None,
                };
                host.set_route("default", route).unwrap();
            };
            to_router(&pair.link, pair.link.right(), &pair.left);
            to_router(&second, second.left(), &far);
            let receiver = bind(&far, second.right()[index]);
            let to = receiver.local_addr().unwrap();
            let seen = echo(&bind_any(&pair.left, to.ip()), &receiver, to);
            assert_eq!(seen.ip(), pair.link.left()[index]);
        }
    })
    .unwrap();
}

#[test]
fn an_interface_taken_down_refuses_packets_and_works_again_when_up() {
    privileged(|| {
        let pair = Pair::new();
        let (interface, to) = (pair.link.interface(), pair.link.right());
        pair.right.set_interface(interface, false).unwrap();
        bind_any(&pair.left, to[0]).send_to(b"x", (to[0], 9)).unwrap();
        pair.link
            .wait_for(Direction::LeftToRight, SOON, |now| now.passed == 1)
            .unwrap();
        pair.left.set_interface(interface, false).unwrap();
        assert!(bind_any(&pair.left, to[0]).send_to(b"x", (to[0], 9)).is_err());
        for host in [&pair.left, &pair.right] {
            host.set_interface(interface, true).unwrap();
        }
        for address in to {
            pair.echo(address);
        }
        assert_eq!(pair.link.counters(Direction::LeftToRight).refused, 1);
    })
    .unwrap();
}
