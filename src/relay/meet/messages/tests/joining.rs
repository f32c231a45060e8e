//! Messages whose channel must be subscribed before they can leave.

use super::*;

#[test]
fn a_publish_that_needs_a_joined_channel_joins_it_and_leaves_it_again() {
    let mut house = House::new("phoenix");
    let session = house.join();
    let publishes = vec![message("room:lobby", "{\"n\":1}"), message("room:lobby", "{\"n\":2}")];
    house.publish(session, publishes, false);
    let sent = house.sent();
    assert_eq!((sent.len(), &sent[0][3]), (1, &json!("phx_join")), "{sent:?}");
    house.receive(&json!([sent[0][0], sent[0][1], "room:lobby", "phx_reply", {"status": "ok", "response": {}}]));
    let pushed = house.sent();
    let events: Vec<(&Value, &Value)> = pushed.iter().map(|frame| (&frame[0], &frame[4]["n"])).collect();
    assert_eq!(events, [(&sent[0][0], &json!(1)), (&sent[0][0], &json!(2))], "with the join's reference");
    house.told.clear();
    for frame in &pushed {
        house.receive(&json!([frame[0], frame[1], "room:lobby", "phx_reply", {"status": "ok", "response": {}}]));
    }
    assert_eq!(house.told(session), ["outcome delivered", "outcome delivered"]);
    house.wait(29 * SECOND);
    assert!(house.sent().iter().any(|frame| frame[3] == "phx_leave"), "after the linger");
}

#[test]
fn a_refused_join_rejects_what_waits_for_it_and_nothing_else() {
    let mut house = House::new("phoenix");
    let session = house.join();
    house.publish(session, vec![message("room:secret", "1"), message("room:lobby", "2")], false);
    let sent = house.sent();
    assert_eq!(sent.len(), 2, "both are joined: {sent:?}");
    house.told.clear();
    let refusal = json!({"status": "error", "response": {"reason": "unauthorized"}});
    house.receive(&json!([sent[0][0], sent[0][1], "room:secret", "phx_reply", refusal]));
    assert_eq!(house.told(session), ["outcome rejected"]);
    house.receive(&json!([sent[1][0], sent[1][1], "room:lobby", "phx_reply", {"status": "ok", "response": {}}]));
    assert_eq!(house.sent()[0][4], json!(2));
    house.publish(session, vec![message("room:secret", "3")], false);
    assert_eq!(house.told(session), ["accepted accepted", "outcome rejected"], "the refusal is remembered");
}
