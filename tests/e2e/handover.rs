//! Another connection takes over, and another transport: the sessions read on as if nothing had happened, and where something is
//! missing they are told what.

use serde_json::json;

use crate::common::until;
use crate::hub::{Hub, numbered, with_websocket};
use crate::rig::{Place, Relay};
use crate::transports::{named, numbers};
use crate::upstream::Upstream;

/// The plain dialect, with numbers that have no holes.
const PLAIN: &str = include_str!("../../config/dialects/plain.toml");

fn with_dialect(mut place: Place, text: &str) -> Place {
    std::fs::write(place.path("dialect.toml"), text).unwrap();
    let path = format!("{:?}", place.path("dialect.toml"));
    place.set("upstream.dialect", &path);
    place
}

fn event(n: u64) -> String {
    json!({"type": "event", "channel": "a", "seq": n, "data": n}).to_string()
}

#[test]
fn a_rotation_while_events_flow_brings_each_number_once() {
    /// How far the older connection is behind the newer one, at first.
    const LAG: u64 = 40;
    let upstream = Upstream::plain();
    let dialect = format!("{PLAIN}\n[gap]\nscope = \"channel\"\n");
    let relay = with_dialect(Place::new(&upstream), &dialect).start_live();
    let mut client = relay.subscriber("a");
    upstream.wait_for("subscribe", 1);
    let (mut sent, mut older, mut lag, mut seen, mut last) = (0, 0, LAG, 0, None);
    while last.is_none_or(|last| sent < last) {
        sent += 1;
        if upstream.frames("subscribe").iter().any(|got| got.connection == 1) {
            upstream.push_to(1, &event(sent));
            lag = lag.saturating_sub(1);
        }
        while sent - older > lag {
            older += 1;
            upstream.push_to(0, &event(older));
        }
        if sent == 2 * LAG {
            assert_eq!(relay.tell("POST /v1/upstream/rotate", &[], "").status, 202);
        }
        if older > seen {
            assert_eq!(numbers(&mut client, 1), named("a", [seen + 1]));
            seen += 1;
        }
        if upstream.is_over(0) {
            last.get_or_insert(sent + LAG);
        }
    }
    let rest = usize::try_from(sent - seen).unwrap();
    assert_eq!(numbers(&mut client, rest), named("a", seen + 1..=sent));
    assert_eq!((upstream.opened(), upstream.is_over(1)), (2, false));
    assert_eq!(relay.metric("tidegate_link_rotations_total"), 1.0);
    assert_eq!(relay.metric("tidegate_link_transport_switches_total"), 0.0);
    relay.stop();
}

fn either(hub: &Hub, dialect: &str) -> Place {
    let mut place = with_dialect(Place::at(&hub.url()), dialect);
    place.set("upstream.transports", r#"["websocket", "sse"]"#);
    place
}

fn wait_over(relay: &Relay, transport: &str) {
    until(&format!("a connection over {transport}"), || {
        let link = &relay.status()["upstream"];
        (link["state"] == "live" && link["transport"] == transport).then_some(())
    });
}

#[test]
fn a_refused_transport_gives_way_to_the_next_one_and_numbers_tell_what_that_cost() {
    const SWITCHES: &str = "tidegate_link_transport_switches_total";
    let hub = Hub::new();
    let relay = either(&hub, &numbered()).start();
    let mut client = relay.subscriber("a");
    wait_over(&relay, "websocket");
    (1..=3).for_each(|n| hub.event("a", n));
    assert_eq!(numbers(&mut client, 3), named("a", 1..=3));
    assert_eq!(hub.asked("GET /sse/"), 0);

    // Something on the way lets no WebSocket through any more. Nothing happens meanwhile: nothing is missing, and nothing told.
    hub.refuse(&["ws"]);
    hub.cut(false);
    wait_over(&relay, "sse");
    assert_eq!((hub.asked("GET /ws/a "), hub.asked("GET /sse/a ")), (4, 1), "one that served, three refusals");
    (4..=6).for_each(|n| hub.event("a", n));
    assert_eq!(numbers(&mut client, 3), named("a", 4..=6));
    assert_eq!(relay.metric(SWITCHES), 1.0);

    // After the last one the best one again, from now on: what happened meanwhile is missing, and told.
    hub.refuse(&["ws", "sse"]);
    hub.cut(false);
    hub.event("a", 7);
    hub.refuse(&["sse"]);
    wait_over(&relay, "websocket");
    hub.event("a", 8);
    let gap = client.next_of("gap");
    assert_eq!((&gap["reason"], &gap["from"], &gap["to"]), (&json!("upstream_seq"), &json!(7), &json!(7)), "{gap}");
    assert_eq!(numbers(&mut client, 1), named("a", [8]));
    assert_eq!(relay.metric(SWITCHES), 2.0);
    relay.stop();
}

#[test]
fn without_numbers_the_way_from_one_transport_to_the_next_is_a_gap() {
    let hub = Hub::new();
    let relay = either(&hub, &with_websocket()).start();
    let mut client = relay.subscriber("a");
    wait_over(&relay, "websocket");
    hub.event("a", 1);
    assert_eq!(numbers(&mut client, 1), named("a", [1]));
    hub.refuse(&["ws"]);
    hub.cut(false);
    wait_over(&relay, "sse");
    hub.event("a", 2);
    // Told when the connection was lost: which transport comes next was not known then.
    let gap = client.next_of("gap");
    assert_eq!((&gap["reason"], &gap["continuity"]), (&json!("reconnect"), &json!("unknown")), "{gap}");
    assert_eq!(numbers(&mut client, 1), named("a", [2]), "one gap, not one for each refusal");
    relay.stop();
}
