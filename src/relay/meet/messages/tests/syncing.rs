//! How far the messages have come that waited for the link: told on `$status`, and in the status while it lasts.

use super::*;
use crate::protocol::request::Subscribe;
use crate::protocol::request::options::Options;

/// A house whose link is down, a publisher, and somebody who reads `$status`.
fn outage(queued: usize, change: impl FnOnce(&mut Config)) -> (House, SessionId) {
    let mut house = House::with("plain", change);
    house.down = true;
    house.cut();
    let session = house.join();
    house.publish(session, (0..queued).map(|n| message("orders", &n.to_string())).collect(), false);
    let channels = vec![ChannelRequest { name: "$status".into(), params: None }];
    let request = Subscribe {
        reference: None,
        channels,
        since: None,
        snapshot: false,
        options: Options { types: vec!["sync".into()], ..Options::default() },
    };
    let reader = house.join();
    house.input(Input::Request { session: reader, request: Ok(Request::Subscribe(request)) });
    (house, reader)
}

impl House {
    /// Lets time pass until the link is live again.
    fn until_live(&mut self) {
        self.down = false;
        while !self.relay.link_is_live() {
            let due = self.relay.poll_timeout().expect("it connects");
            self.wait(due.since(self.now.mono));
        }
    }

    /// What a reader of `$status` was told of syncs.
    fn syncs(&mut self, reader: SessionId) -> Vec<Value> {
        let frames = std::mem::take(&mut self.told).into_iter().filter(|(of, _)| *of == reader);
        let events = frames.filter(|(_, frame)| frame["kind"] == "event");
        events.map(|(_, frame)| frame["data"].clone()).collect()
    }

    /// Upstream acknowledges so many of the messages that it got.
    fn ack(&mut self, count: usize) {
        for sent in self.sent.drain(..count).collect::<Vec<_>>() {
            self.receive(&json!({"type": "ack", "id": sent["id"]}));
        }
    }

    fn status_sync(&mut self) -> Value {
        let call = self.call(CallRequest::Status);
        self.answer(call).unwrap().1["outbox"]["sync"].clone()
    }
}

/// State, sent and remaining.
fn numbers(syncs: &[Value]) -> Vec<String> {
    let one = |sync: &Value| {
        assert_eq!(sync["queued"].as_u64(), Some(sync["sent"].as_u64().unwrap() + sync["remaining"].as_u64().unwrap()));
        format!("{} {} {}", sync["state"].as_str().unwrap(), sync["sent"], sync["remaining"])
    };
    syncs.iter().map(one).collect()
}

#[test]
fn what_waited_is_told_at_the_beginning_each_second_and_at_the_end() {
    let (mut house, reader) = outage(10, |_| {});
    assert_eq!((house.status_sync(), house.syncs(reader)), (Value::Null, vec![]), "the link is down");
    house.sent();
    house.until_live();
    let since = house.now;
    house.sent.retain(|frame| frame["type"] == "publish");
    let begun = house.syncs(reader);
    let expected = json!({
        "state": "running", "since": since.wall.rfc3339(), "queued": 10, "sent": 0, "remaining": 10, "rate": null,
        "eta_ms": null,
    });
    assert_eq!(begun, std::slice::from_ref(&expected));
    assert_eq!(house.status_sync(), expected);
    house.wait(Duration::from_millis(500));
    house.ack(2);
    assert_eq!(house.syncs(reader), Vec::<Value>::new(), "less than a second after the last one");
    let shown = house.status_sync();
    assert_eq!((&shown["sent"], &shown["rate"], &shown["eta_ms"]), (&json!(2), &json!(4.0), &json!(2_000)));
    house.wait(Duration::from_millis(499));
    assert_eq!(house.syncs(reader).len(), 0);
    house.wait(Duration::from_millis(1));
    let told = house.syncs(reader);
    assert_eq!(numbers(&told), ["running 2 8"]);
    assert_eq!((&told[0]["rate"], &told[0]["eta_ms"]), (&json!(2.0), &json!(4_000)));

    // Another one that is published meanwhile is none of those that waited.
    let session = house.join();
    house.publish(session, vec![message("orders", "99")], false);
    house.wait(5 * SECOND);
    assert_eq!(house.syncs(reader).len(), 0, "nothing changes, and nothing is told");
    house.ack(3);
    assert_eq!(numbers(&house.syncs(reader)), ["running 3 7"], "the last one was told long ago");
    house.ack(5);
    let told = house.syncs(reader);
    assert_eq!(numbers(&told), ["done 10 0"], "at once");
    assert_eq!(told[0]["eta_ms"], 0);
    assert_eq!((house.status_sync(), house.relay.outbound.syncing.due()), (Value::Null, None));
    house.ack(1);
    house.cut();
    house.until_live();
    assert_eq!(house.syncs(reader).len(), 0, "nothing waits");
}

#[test]
fn a_link_that_is_lost_interrupts_it_and_the_next_one_begins_anew() {
    let (mut house, reader) = outage(5, |_| {});
    house.until_live();
    house.sent.retain(|frame| frame["type"] == "publish");
    house.ack(2);
    house.cut();
    let told = house.syncs(reader);
    assert_eq!(numbers(&told), ["running 0 5", "interrupted 2 3"]);
    assert_eq!((&told[1]["reason"], &told[1]["eta_ms"]), (&json!("link_lost"), &Value::Null));
    assert_eq!(house.status_sync(), Value::Null);
    house.sent();
    house.until_live();
    house.sent.retain(|frame| frame["type"] == "publish");
    house.ack(3);
    assert_eq!(numbers(&house.syncs(reader)), ["running 0 3", "done 3 0"]);
}

#[test]
fn what_ends_otherwise_does_not_remain_and_a_store_that_fails_interrupts() {
    let (mut house, reader) = outage(3, |config| config.outbox.window = 1);
    house.until_live();
    house.sent.retain(|frame| frame["type"] == "publish");
    let waits = house.disk.messages[2].id.to_string();
    let call = house.call(CallRequest::Cancel(waits.into()));
    assert_eq!(house.answer(call).unwrap().0, Ok(200));
    house.wait(SECOND);
    assert_eq!(numbers(&house.syncs(reader)), ["running 0 3", "running 1 2"]);
    house.slow_store = true;
    house.ack(1);
    house.input(Input::CommitFailed { reason: "disk on fire".into() });
    let told = house.syncs(reader);
    assert_eq!((numbers(&told), &told[0]["reason"]), (vec!["interrupted 1 2".to_owned()], &json!("store_failed")));
    house.cut();
    house.until_live();
    assert_eq!(house.syncs(reader).len(), 0, "nothing can be sent any more");
}
