//! Every built-in dialect against its own other side: ready, subscribed, an event.

use std::sync::Arc;

use super::*;
use crate::dialect::{Carried, ChannelId, ChannelSpec, Conversation, Dialect, Equipment, Heard, Outgoing, Target};
use crate::protocol::request::Secret;
use crate::relay::time::{Mono, Time, Wall};

const NOW: Time = Time { mono: Mono(1), wall: Wall(1_795_231_888_000_000_000) };

/// A conversation and its other side.
struct Talk {
    conversation: Conversation,
    mimic: Mimic,
    side: Side,
    told: Vec<String>,
}

impl Talk {
    fn new(name: &str) -> Option<Self> {
        let mimic = Mimic::new(name, Dialect::builtin_text(name).unwrap()).unwrap().ok()?;
        let dialect: Arc<Dialect> = Dialect::builtin(name).unwrap();
        let params = serde_json::from_str(r#"{"intents":1,"account":"9","channel":"mock"}"#).unwrap();
        let secrets = dialect.secrets().iter().filter(|(_, required)| *required);
        let secrets = secrets.map(|(name, _)| (name.clone(), Secret::new("s3cret"))).collect();
        let mut conversation = Conversation::new(dialect, Carried::new(1), params, Some(Secret::new("token-1")));
        conversation.equip(Equipment { secrets, ..Equipment::default() });
        conversation.supply_shown(|_| Some("\"fetched\"".to_owned()));
        Some(Talk { conversation, mimic, side: Side::default(), told: Vec::new() })
    }

    /// Lets the client speak, and both go on until nobody has anything to say.
    fn speak(&mut self, talk: impl FnOnce(&mut Conversation, &mut dyn FnMut(Heard<'_>))) {
        let mut out = Vec::new();
        let told = &mut self.told;
        talk(&mut self.conversation, &mut |heard| note(told, &mut out, heard));
        self.deliver(out);
    }

    fn deliver(&mut self, out: Vec<Outgoing>) {
        for outgoing in out {
            let reply = self.mimic.hear(&mut self.side, &outgoing.frame, 7);
            assert!(reply.understood, "{:?}", outgoing.frame);
            self.receive(reply.frames);
        }
    }

    fn receive(&mut self, frames: Vec<WireFrame>) {
        for frame in frames {
            self.speak(|conversation, heard| conversation.receive(NOW, &frame, heard));
        }
    }
}

fn note(told: &mut Vec<String>, out: &mut Vec<Outgoing>, heard: Heard<'_>) {
    match heard {
        Heard::Send(outgoing) => out.push(outgoing),
        Heard::Ready { .. } => told.push("ready".to_owned()),
        Heard::Acked { request: Some(_), .. } => told.push("acked".to_owned()),
        Heard::Event(event) => {
            let target = match event.target {
                Target::Name(name) => name.to_owned(),
                Target::Channel(channel) => format!("#{}", channel.0),
            };
            told.push(format!("event {target}"));
        }
        Heard::Unmatched | Heard::Unextracted(_) | Heard::Malformed | Heard::Broken(_) => {
            told.push(format!("puzzled: {heard:?}"));
        }
        _ => {}
    }
}

fn channel_of(dialect: &str) -> &'static str {
    match dialect {
        "kraken-v2" => "trade:BTC/USD",
        "coinbase-advanced" | "coinbase-exchange" => "ticker:BTC-USD",
        "bitfinex-v2" => "trades:tBTCUSD",
        "cdp" => "Page.loadEventFired",
        _ => "news",
    }
}

/// What is wrong with a dialect and its other side; empty: nothing.
fn faults(name: &str, talk: &mut Talk) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |what: &str, told: &mut Vec<String>, right: &dyn Fn(&[String]) -> bool| {
        if !right(told) {
            faults.push(format!("{name}: {what}: {told:?}"));
        }
        told.clear();
    };
    talk.speak(|conversation, heard| conversation.opened(NOW, heard));
    let greeting = talk.mimic.greeting(&mut talk.side);
    talk.receive(greeting);
    expect("ready", &mut talk.told, &|told| told == ["ready"]);
    let params = (name == "graphql-transport-ws").then_some(r#"{"query":"subscription { news }"}"#);
    let channel = ChannelSpec { id: ChannelId(4), name: channel_of(name), params };
    if talk.mimic.subscribes {
        let outgoing = talk.conversation.subscribe(NOW, &[channel], false).unwrap();
        let answers = vec!["acked".to_owned(); usize::from(outgoing.answered)];
        talk.deliver(vec![outgoing]);
        expect("subscribe", &mut talk.told, &|told| *told == answers);
    }
    let events = talk.mimic.events(&mut talk.side, 7);
    talk.receive(events);
    let named = if talk.mimic.subscribes { channel_of(name) } else { "mock" };
    // A frame of this protocol does not say which event is wanted.
    let named = if name == "cdp" { "Page.event" } else { named };
    let by = [format!("event {named}"), "event #4".to_owned()];
    expect("event", &mut talk.told, &|told| matches!(told, [one] if by.contains(one)));
    if talk.mimic.subscribes
        && name != "cdp"
        && let Some(outgoing) = talk.conversation.unsubscribe(NOW, &[channel]).unwrap()
    {
        talk.deliver(vec![outgoing]);
        talk.told.clear();
        let events = talk.mimic.events(&mut talk.side, 8);
        talk.receive(events);
        expect("after unsubscribing", &mut talk.told, &<[String]>::is_empty);
    }
    faults
}

#[test]
fn every_dialect_gets_ready_subscribes_and_hears_events_from_its_other_side() {
    let mut spoken = 0;
    let mut all = Vec::new();
    for name in Dialect::builtins() {
        let Some(mut talk) = Talk::new(name) else { continue };
        spoken += 1;
        all.extend(faults(name, &mut talk));
    }
    assert!(spoken >= 10, "{spoken}");
    assert_eq!(all, Vec::<String>::new());
}

#[test]
fn what_no_template_makes_is_not_understood() {
    let talk = Talk::new("plain").unwrap();
    let mut side = Side::default();
    for text in ["{\"op\":\"hack\"}", "not json"] {
        let reply = talk.mimic.hear(&mut side, &WireFrame::Text(text.into()), 7);
        assert!(!reply.understood, "{text}");
    }
}
