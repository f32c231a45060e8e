//! Link, attempt and interest meet.

use crate::dialect::WireFrame;
use crate::protocol::request::Secret;
use crate::relay::Relay;
use crate::relay::pairs::{AttemptId, CallId, Disconnect};
use crate::relay::time::{Mono, Time};

impl Relay {
    pub(in crate::relay) fn connected(&mut self, _now: Time, _attempt: AttemptId, _peer: String) {}
    pub(in crate::relay) fn disconnected(&mut self, _now: Time, _attempt: AttemptId, _reason: Disconnect) {}
    pub(in crate::relay) fn transmitted(&mut self, _now: Time, _attempt: AttemptId) {}
    pub(in crate::relay) fn received(&mut self, _now: Time, _attempt: AttemptId, _at: Time, _frames: &[WireFrame]) {}
    pub(in crate::relay) fn fetched(&mut self, _now: Time, _call: CallId, _result: Result<Option<Secret>, String>) {}
    pub(in crate::relay) fn pump_upstream(&mut self, _now: Time) {}
    pub(in crate::relay) fn upstream_due(&self) -> Option<Mono> {
        None
    }
    pub(in crate::relay) fn upstream_timeout(&mut self, _now: Time) {}

    pub(in crate::relay) fn link_is_live(&self) -> bool {
        false
    }
    pub(in crate::relay) fn link_word(&self) -> &'static str {
        "x"
    }
    pub(in crate::relay) fn link_json(&self, _now: Time) -> Vec<u8> {
        Vec::new()
    }
    pub(in crate::relay) fn link_down_for(&self, _now: Time) -> Option<std::time::Duration> {
        None
    }
    pub(in crate::relay) fn reconnect_upstream(&mut self, _now: Time) {}
    pub(in crate::relay) fn pause_upstream(&mut self, _now: Time) {}
    pub(in crate::relay) fn resume_upstream(&mut self, _now: Time) {}
    pub(in crate::relay) fn leave_upstream(&mut self, _now: Time) {}
    pub(in crate::relay) fn upstream_is_gone(&self) -> bool {
        true
    }
    pub(in crate::relay) fn refresh_upstream_stats(&mut self) {}
}
