//! ganache, an Ethereum node, through the dialect `eth-jsonrpc`.

use serde_json::{Value, json};

use crate::door::Door;
use crate::rig::{Relay, offset};
use crate::script::{Script, can_run};

/// Bytecode that logs nothing in particular once, and leaves an empty contract.
const LOG_ONCE: &str = "0x60006000a0";

fn behind(door: &Door) -> Relay {
    Relay::start(&format!("ws://{}/", door.address()), "eth-jsonrpc", "", "")
}

/// A request to the node as a message for the outbox.
fn call(method: &str, params: Value) -> Value {
    json!({"channel": "node", "type": method, "data": params})
}

/// What the node itself says of the block that an event is about.
fn hash(node: &mut Script, event: &Value) -> Value {
    node.ask("request", json!(["eth_getBlockByNumber", [event["data"]["number"], false]]))["hash"].take()
}

/// The subscription ids in what the node sent, each once.
fn subscriptions(said: &str) -> Vec<&str> {
    let mut ids: Vec<&str> =
        said.split("\"subscription\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[test]
fn blocks_of_a_real_node_reach_apps_also_after_it_was_restarted() {
    if !can_run("ethereum_blocks", &["ganache", "ws"]) {
        return;
    }
    let (mut node, port) = Script::service("ganache.mjs", "0");
    let door = Door::new();
    door.lead_to(port);
    let relay = behind(&door);
    let mut app = relay.app();
    app.subscribe(json!("newHeads"));

    let mut before: Option<Value> = None;
    for number in 1..=3 {
        let message = relay.publish(&call("evm_mine", json!([])));
        let event = app.frame("event");
        assert_eq!(event["channel"], "newHeads");
        assert_eq!(event["data"]["number"], format!("0x{number}"));
        assert_eq!(event["data"]["hash"], hash(&mut node, &event));
        if let Some(before) = before.replace(event.clone()) {
            assert_eq!(event["prev"], offset(&before), "nothing between {before} and {event}");
            assert_eq!(event["data"]["parentHash"], before["data"]["hash"]);
        }
        assert_eq!(relay.outcome(&message)["state"], "delivered");
    }
    assert_eq!(subscriptions(&door.take_said()), ["0x1"]);

    drop(node);
    let gap = app.frame("gap");
    assert_eq!((&gap["channel"], &gap["reason"]), (&json!("newHeads"), &json!("reconnect")), "{gap}");
    let held = relay.publish(&call("evm_mine", json!([])));
    let (mut node, port) = Script::service("ganache.mjs", "3");
    door.lead_to(port);

    let event = app.frame("event");
    assert_eq!(event["data"]["number"], "0x1", "a new chain");
    assert_eq!(event["data"]["hash"], hash(&mut node, &event));
    assert_eq!(event["prev"], offset(&gap), "nothing but the gap between {gap} and {event}");
    assert_eq!(relay.outcome(&held)["state"], "delivered", "accepted while the node was away");
    let outcome = app.publish(call("evm_mine", json!([])));
    assert_eq!((&outcome["state"], &outcome["reply"]), (&json!("delivered"), &json!("0x0")), "{outcome}");
    assert_eq!(app.frame("event")["data"]["hash"], hash(&mut node, &json!({"data": {"number": "0x2"}})));
    assert_eq!(subscriptions(&door.take_said()), ["0x4"], "the new node's own number");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}

#[test]
fn calls_are_settled_by_a_real_nodes_answers() {
    if !can_run("ethereum_calls", &["ganache", "ws"]) {
        return;
    }
    let (mut node, port) = Script::service("ganache.mjs", "0");
    let door = Door::new();
    door.lead_to(port);
    let relay = behind(&door);
    let (mut app, mut other) = (relay.app(), relay.app());
    other.subscribe(json!("newHeads"));

    app.subscribe(json!({"channel": "logs", "params": {"filter": {"topics": []}}}));
    let accounts = app.publish(call("eth_accounts", json!([])))["reply"].take();
    let create = json!([{"from": accounts[0], "data": LOG_ONCE, "gas": "0x186a0"}]);
    let sent = app.publish(call("eth_sendTransaction", create));
    let event = app.frame("event");
    assert_eq!(event["channel"], r#"logs?{"filter":{"topics":[]}}"#);
    assert_eq!(event["data"]["transactionHash"], sent["reply"], "{event}");
    assert_eq!(other.frame("event")["data"]["hash"], event["data"]["blockHash"]);

    let refused = app.publish(call("eth_noSuchMethod", json!([])));
    assert_eq!(refused["state"], "rejected", "{refused}");
    assert!(refused["reply"].as_str().unwrap().contains("eth_noSuchMethod"), "{refused}");

    app.subscribe(json!("nonsense"));
    let error = app.frame("error");
    assert_eq!((&error["channel"], &error["code"]), (&json!("nonsense"), &json!("upstream_refused")), "{error}");
    other.has_no("error");
    node.ask("request", json!(["evm_mine", []]));
    assert_eq!(other.frame("event")["channel"], "newHeads", "its own subscription goes on");
    assert_eq!(relay.metric("tidegate_dialect_unmatched_total"), "0");
}
