//! Conversations held word by word: what is said, what is heard, in short lines.

mod accounts;
mod asking;
mod credentials;
mod engine;
mod hostile;
mod services;
mod socketio;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::dialect::{ChannelSpec, Outgoing, Role, Target, Transport, WireFrame};
use crate::relay::record::MessageId;
use crate::relay::time::Wall;

/// A conversation with a clock, and channels numbered in the order they are named.
struct Talk {
    conversation: Conversation,
    now: Time,
    names: Vec<(String, Option<String>)>,
}

/// A template made into a dialect: `[send]` lines and `[[on]]` rules.
fn dialect(text: &str) -> Arc<Dialect> {
    let text = format!("dialect = 1\nname = \"test\"\n{text}");
    Arc::new(Dialect::parse("test.toml", &text).unwrap_or_else(|errors| panic!("{errors:#?}")))
}

impl Talk {
    fn new(dialect: Arc<Dialect>, token: Option<&str>) -> Self {
        let conversation = Conversation::new(dialect, Carried::new(1), Map::new(), token.map(Secret::new));
        Talk { conversation, now: Time { mono: Mono(1), wall: Wall(1_795_231_888_123_456_789) }, names: Vec::new() }
    }

    fn builtin(name: &str, token: Option<&str>) -> Self {
        static BUILTINS: LazyLock<BTreeMap<&str, Arc<Dialect>>> =
            LazyLock::new(|| Dialect::builtins().map(|name| (name, Dialect::builtin(name).unwrap())).collect());
        Talk::new(Arc::clone(&BUILTINS[name]), token)
    }

    /// The next attempt of the same process.
    fn reconnect(self, forget: bool) -> Self {
        let Conversation { dialect, token, .. } = &self.conversation;
        let (dialect, token) = (Arc::clone(dialect), token.clone());
        let carried = self.conversation.into_carried(forget);
        Talk { conversation: Conversation::new(dialect, carried, Map::new(), token), now: self.now, names: self.names }
    }

    fn open(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        self.conversation.opened(self.now, &mut |heard| all.push(show(&heard)));
        all
    }

    fn hear(&mut self, text: &str) -> Vec<String> {
        self.frame(&WireFrame::Text(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn frame(&mut self, frame: &WireFrame) -> Vec<String> {
        let mut all = Vec::new();
        self.conversation.receive(self.now, frame, &mut |heard| all.push(show(&heard)));
        all
    }

    fn id(&mut self, name: &str, params: Option<&str>) -> ChannelId {
        let wanted = (name.to_owned(), params.map(str::to_owned));
        let at = self.names.iter().position(|known| *known == wanted).unwrap_or_else(|| {
            self.names.push(wanted);
            self.names.len() - 1
        });
        ChannelId(u32::try_from(at).unwrap() + 1)
    }

    fn subscribe(&mut self, names: &[&str]) -> String {
        self.try_subscribe(&names.iter().map(|name| (*name, None)).collect::<Vec<_>>(), false).unwrap()
    }

    fn subscribe_again(&mut self, names: &[&str]) -> String {
        self.try_subscribe(&names.iter().map(|name| (*name, None)).collect::<Vec<_>>(), true).unwrap()
    }

    fn try_subscribe(&mut self, channels: &[(&str, Option<&str>)], again: bool) -> Result<String, SendError> {
        let specs: Vec<ChannelSpec<'_>> = channels
            .iter()
            .map(|(name, params)| ChannelSpec { id: self.id(name, *params), name, params: *params })
            .collect();
        self.conversation.subscribe(self.now, &specs, again).map(|outgoing| sent(&outgoing))
    }

    fn unsubscribe(&mut self, names: &[&str]) -> Option<String> {
        let specs: Vec<ChannelSpec<'_>> =
            names.iter().map(|name| ChannelSpec { id: self.id(name, None), name, params: None }).collect();
        self.conversation.unsubscribe(self.now, &specs).unwrap().map(|outgoing| sent(&outgoing))
    }

    fn publish(&mut self, channel: &str, kind: Option<&str>, data: &str) -> Result<String, SendError> {
        self.publish_this(&message(channel, kind, data))
    }

    fn publish_this(&mut self, message: &MessageSpec<'_>) -> Result<String, SendError> {
        self.conversation.check_publish(message)?;
        self.conversation.publish(self.now, message).map(|outgoing| sent(&outgoing))
    }

    fn ping(&mut self) -> Option<String> {
        self.conversation.ping(self.now).map(|outgoing| sent(&outgoing))
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }
}

fn message<'a>(channel: &'a str, kind: Option<&'a str>, data: &'a str) -> MessageSpec<'a> {
    MessageSpec { id: MessageId(7), channel, params: None, key: None, kind, data, idempotency_key: None }
}

/// `#1 subscribe[1,2]? {...}`: number, purpose, `?` where an answer is expected, frame.
fn sent(outgoing: &Outgoing) -> String {
    // A text, or what is posted.
    assert!(matches!(outgoing.frame, WireFrame::Text(_) | WireFrame::Ask(_)), "{:?}", outgoing.frame);
    let answered = if outgoing.answered { "?" } else { "" };
    let text = String::from_utf8_lossy(outgoing.frame.body());
    let attachments: String = outgoing.attachments.iter().map(|data| format!(" +{:02x?}", &data[..])).collect();
    format!("#{} {}{answered} {text}{attachments}", outgoing.request.0, purpose(&outgoing.purpose))
}

fn purpose(purpose: &Purpose) -> String {
    let list = |ids: &[ChannelId]| ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(",");
    match purpose {
        Purpose::Auth => "auth".to_owned(),
        Purpose::Subscribe(ids) => format!("subscribe[{}]", list(ids)),
        Purpose::Unsubscribe(ids) => format!("unsubscribe[{}]", list(ids)),
        Purpose::Publish(id) => format!("publish[{}]", { id.0 }),
        Purpose::Audit => "audit".to_owned(),
        Purpose::State(id, _) => format!("state[{}]", id.0),
        Purpose::Ping => "ping".to_owned(),
        Purpose::Reply => "reply".to_owned(),
        Purpose::Poll => "poll".to_owned(),
    }
}

fn target(target: &Target<'_>) -> String {
    match target {
        Target::Name(name) => (*name).to_owned(),
        Target::Channel(id) => format!("<{}>", id.0),
    }
}

/// What was heard, in one line.
fn show(heard: &Heard<'_>) -> String {
    let mut words: Vec<String> = Vec::new();
    match heard {
        Heard::Event(event) => {
            words.push(match event.role {
                Role::Event => "event".to_owned(),
                Role::Snapshot => "snapshot".to_owned(),
                Role::SnapshotPart => "part".to_owned(),
            });
            words.push(target(&event.target));
            words.extend(event.key.as_ref().map(|key| format!("key={key}")));
            words.extend(event.kind.as_ref().map(|kind| format!("type={kind}")));
            words.extend(event.id.as_ref().map(|id| format!("id={id}")));
            words.extend(event.sequence.map(|(first, last)| format!("seq={first}-{last}")));
            words.extend(event.source_time.map(|time| format!("ts={}", time.rfc3339())));
            if event.fold == crate::dialect::Fold::Append {
                words.push("append".to_owned());
            }
            words.push(String::from_utf8_lossy(&event.data).into_owned());
        }
        Heard::Acked { request, purpose: of, data } => {
            words.push(format!("acked #{} {}", request.map_or(0, |id| id.0), purpose(of)));
            words.extend(data.as_ref().map(|data| String::from_utf8_lossy(data).into_owned()));
        }
        Heard::Refused { about, target: of, code, message, then, retry_after } => {
            words.push("refused".to_owned());
            words.extend(about.as_ref().map(|(id, of)| format!("#{} {}", id.0, purpose(of))));
            words.extend(of.as_ref().map(target));
            words.extend(code.as_ref().map(|code| format!("code={code}")));
            words.extend(message.as_ref().map(|message| format!("{message:?}")));
            words.extend(then.map(|then| format!("{then:?}")));
            words.extend(retry_after.map(|after| format!("after={after:?}")));
        }
        Heard::Gone { target: of, code, message, then } => {
            words.push(format!("gone {}", target(of)));
            words.extend(code.as_ref().map(|code| format!("code={code}")));
            words.extend(message.as_ref().map(|message| format!("{message:?}")));
            words.extend(then.map(|then| format!("{then:?}")));
        }
        Heard::Denied { message, then } => {
            words.push("denied".to_owned());
            words.extend(message.as_ref().map(|message| format!("{message:?}")));
            words.extend(then.map(|then| format!("{then:?}")));
        }
        Heard::Ready { resumed } => words.push(if *resumed { "resumed" } else { "ready" }.to_owned()),
        Heard::Lost { target: of, oversize: cut } => words.push(lost(&target(of), *cut)),
        Heard::Subscriptions { names, .. } => words.push(format!("subscriptions {}", names.join(" "))),
        Heard::Mismatched { target: of, .. } => words.push(format!("mismatched {}", target(of))),
        Heard::Reconnect { retry_after } => {
            words.push("reconnect".to_owned());
            words.extend(retry_after.map(|after| format!("after={after:?}")));
        }
        Heard::Pong { request } => words.push(request.map_or("pong".to_owned(), |id| format!("pong #{}", id.0))),
        Heard::Send(outgoing) => words.push(format!("send {}", sent(outgoing))),
        Heard::PollFailed { status, retry_after, detail } => {
            words.push(format!("poll failed {status} {detail:?}"));
            words.extend(retry_after.map(|after| format!("after={after:?}")));
        }
        Heard::Hasty | Heard::Ignored | Heard::Unproven => words.push(format!("{heard:?}").to_lowercase()),
        Heard::Numbered(first, last) => words.push(format!("numbered {first}-{last}")),
        Heard::Skipped(what, count) => words.push(format!("skipped {count} {}", what.word())),
        Heard::Unmatched => words.push("unmatched".to_owned()),
        Heard::Unextracted(rule) => words.push(format!("unextracted {rule}")),
        Heard::Malformed | Heard::Closed | Heard::Unseen => words.push(format!("{heard:?}").to_lowercase()),
        Heard::Broken(why) => words.push(format!("broken: {why}")),
        Heard::Probed { good } => words.push(format!("probed {good}")),
    }
    words.join(" ")
}

fn lost(target: &str, cut: bool) -> String {
    format!("{} {target}", if cut { "cut" } else { "lost" })
}

#[test]
fn params_of_the_connection_are_one_json_object() {
    let mut params = Map::new();
    params.insert("room".to_owned(), json!("a/b"));
    let dialect = dialect(
        "[connect]\npath = '/x/{connect.room}'\nquery = { v = '1', t = '{token?}' }\nheaders = { x-room = '{params/room}' }\n\
         [[on]]\nmatch = { '' = { exists = true } }\nis = 'ignore'\n",
    );
    let with = |token: Option<&str>| {
        Conversation::new(Arc::clone(&dialect), Carried::new(1), params.clone(), token.map(Secret::new))
    };
    let request = |url: &str| with(Some("s&t")).connect_request(Transport::WebSocket, url, &[], &[]).unwrap();
    assert_eq!(request("wss://h").url, "wss://h/x/a%2Fb?v=1&t=s%26t");
    assert_eq!(request("wss://h/").url, "wss://h/x/a%2Fb?v=1&t=s%26t");
    // The configuration's own path and query win.
    assert_eq!(request("wss://h/y?v=2&a=b").url, "wss://h/y?v=2&a=b&t=s%26t");
    assert_eq!(
        with(None).connect_request(Transport::WebSocket, "wss://h", &[], &[]).unwrap().url,
        "wss://h/x/a%2Fb?v=1"
    );
    assert_eq!(request("wss://h").headers, vec![("x-room".to_owned(), "a/b".to_owned())]);
    let own = with(None)
        .connect_request(Transport::WebSocket, "wss://h", &[("X-Room".to_owned(), Secret::new("mine"))], &[])
        .unwrap();
    assert_eq!(own.headers, vec![("X-Room".to_owned(), "mine".to_owned())]);
    for url in ["wss://h/#x", "wss://h/ä", "wss://h/a b"] {
        assert!(
            matches!(with(None).connect_request(Transport::WebSocket, url, &[], &[]), Err(SendError::Invalid(_))),
            "{url}"
        );
    }
    let control =
        with(None).connect_request(Transport::WebSocket, "wss://h", &[("a".to_owned(), Secret::new("b\r\nc: d"))], &[]);
    assert!(matches!(control, Err(SendError::Invalid(_))));
    assert!(!format!("{:?}", request("wss://h")).contains("s%26t"));
}
