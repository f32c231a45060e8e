//! The modelled clients: what each was told, judged as it comes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidegate::relay::pairs::SessionId;

use crate::upstream::{Proof, proof};

/// What a client knows of one channel.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The newest event number seen.
    pub number: Option<u64>,
    /// Everything up to this offset is known: the newest entry, or the place of a snapshot.
    pub offset: Option<u64>,
    /// After a resume what was processed may come again, up to that place.
    pub replaying: bool,
    /// A gap, reset or new start was told since: the next number may be any higher one.
    pub excused: bool,
}

/// One local client. It outlives its sessions: a client that comes back resumes from what it has seen.
#[derive(Default)]
pub struct Client {
    pub session: Option<SessionId>,
    pub stuck: bool,
    /// A batch waits because the client is stuck.
    pub waiting: bool,
    pub views: BTreeMap<String, View>,
    /// The newest position processed over all channels.
    pub cursor: Option<String>,
    pub wants: BTreeSet<String>,
    /// Publishes by `ref`: tag.
    pub asked: BTreeMap<u64, u64>,
}

/// What clients together were told about messages.
#[derive(Default)]
pub struct Told {
    /// Accepted: message id by tag.
    pub accepted: BTreeMap<u64, String>,
    /// Outcomes by message id.
    pub outcomes: BTreeMap<String, Vec<Value>>,
    /// Text of every position ever seen.
    pub positions: BTreeMap<String, String>,
    /// By reason and channel.
    pub gaps: BTreeMap<(String, String), u64>,
    pub resets: BTreeMap<String, u64>,
    pub resumed: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Client {
    /// Takes one frame; a violation is an error.
    pub fn take(&mut self, text: &str, told: &mut Told) -> Result<(), String> {
        let frame: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}: {text}"))?;
        let channel = frame["channel"].as_str().unwrap_or_default().to_owned();
        if let Some(id) = frame["id"].as_str() {
            let known = told.positions.entry(id.to_owned()).or_insert_with(|| text.to_owned());
            if known != text {
                return Err(format!("S3: {id} names two entries:\n  {known}\n  {text}"));
            }
        }
        match frame["kind"].as_str() {
            Some("event") => self.event(&channel, &frame)?,
            Some("gap") => {
                let reason = frame["reason"].as_str().unwrap_or_default().to_owned();
                *told.gaps.entry((reason, channel.clone())).or_default() += 1;
                self.entry(&channel, &frame)?;
                self.views.entry(channel).or_default().excused = true;
            }
            Some("reset") => {
                *told.resets.entry(frame["reason"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
                self.entry(&channel, &frame)?;
                let view = self.views.entry(channel).or_default();
                view.excused = true;
            }
            Some("stale") => {
                self.entry(&channel, &frame)?;
            }
            Some("subscribed") => self.subscribed(channel, &frame, told),
            Some("snapshot") => {
                let number = frame["values"][0]["data"]["n"].as_u64();
                let view = self.views.entry(channel).or_default();
                view.number = number;
                view.offset = position(&frame).or(view.offset);
                // A snapshot that is stale says so; a live one is the state, and the next number follows it.
                view.excused = frame["stale"] == true;
            }
            Some("accepted") => self.accepted(&frame, told)?,
            Some("outcome") => {
                let id = frame["message"].as_str().unwrap_or_default().to_owned();
                told.outcomes.entry(id).or_default().push(frame);
            }
            Some("error") => {
                *told.errors.entry(frame["code"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
                if !channel.is_empty() && frame["ref"].is_null() {
                    self.wants.remove(&channel);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, channel: &str, frame: &Value) -> Result<(), String> {
        if !self.entry(channel, frame)? {
            return Ok(());
        }
        if frame["data"]["of"] != channel {
            return Err(format!("S22: {channel} got what is another's: {frame}"));
        }
        let number = frame["data"]["n"].as_u64().unwrap_or_default();
        let view = self.views.entry(channel.to_owned()).or_default();
        if let Some(before) = view.number {
            // Where nothing tells events apart, what another connection brings may come twice after its gap.
            let twice = view.excused && proof(channel) == Proof::None;
            if number <= before && !twice {
                return Err(format!("S1: {channel} went from {before} to {number}"));
            }
            if number != before + 1 && !view.excused {
                return Err(format!("S2: {channel} went from {before} to {number} and nothing was told"));
            }
        }
        view.number = Some(number);
        view.excused = false;
        Ok(())
    }

    /// Everything with an offset: offsets rise, `prev` chains what is seen. Whether it is new to this client.
    fn entry(&mut self, channel: &str, frame: &Value) -> Result<bool, String> {
        let Some(id) = frame["id"].as_str() else { return Ok(true) };
        let offset: u64 = id.split_once('-').and_then(|(_, offset)| offset.parse().ok()).ok_or("S3: no offset")?;
        let view = self.views.entry(channel.to_owned()).or_default();
        if let Some(before) = view.offset {
            if offset <= before && view.replaying {
                return Ok(false);
            }
            if offset <= before {
                return Err(format!("S1: {channel}: offset {offset} after {before}"));
            }
            if frame["prev"].as_u64().is_some_and(|prev| prev > before) && !view.excused {
                return Err(format!("S2: {channel}: prev of {id} is {}, after {before}", frame["prev"]));
            }
        }
        view.replaying = false;
        view.offset = Some(offset);
        self.cursor = Some(id.to_owned());
        Ok(true)
    }

    fn subscribed(&mut self, channel: String, frame: &Value, told: &mut Told) {
        let view = self.views.entry(channel).or_default();
        if frame["resumed"] == true {
            told.resumed += 1;
            view.replaying = true;
        } else {
            // A new start: nothing is owed between what was seen before and now. Until upstream is live any number may be next.
            *view = View { number: None, offset: position(frame), replaying: false, excused: true };
        }
    }

    fn accepted(&mut self, frame: &Value, told: &mut Told) -> Result<(), String> {
        let reference = frame["ref"].as_u64().ok_or("accepted without ref")?;
        let tag = *self.asked.get(&reference).ok_or("accepted that nobody asked for")?;
        let message = frame["message"].as_str().ok_or("accepted without message")?.to_owned();
        match told.accepted.get(&tag) {
            Some(known) if *known != message => Err(format!("S15: tag {tag} is {known} and {message}")),
            _ => {
                told.accepted.insert(tag, message);
                Ok(())
            }
        }
    }
}

/// The offset of a frame's `position`.
fn position(frame: &Value) -> Option<u64> {
    frame["position"].as_str()?.split_once('-')?.1.parse().ok()
}
