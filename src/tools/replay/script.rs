//! The connections of a transcript as scenes: what each carrier plays, with the pauses in between.
//!
//! Invariant: what is in a scene can be played by its carrier; a transcript of which something cannot is refused, with the
//! line.

use std::collections::BTreeSet;
use std::time::Duration;

use super::PAUSE_MAX;
use crate::dialect::Transport;
use crate::dialect::rehearsal::transcript::{Call, Happening, Step, Transcript, TranscriptError};

/// The connections of a transcript.
#[derive(Debug, PartialEq)]
pub(super) struct Script {
    /// In order.
    pub(super) scenes: Vec<Scene>,
    /// Those of which nothing can be played.
    pub(super) passed_over: BTreeSet<String>,
}

/// One recorded connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scene {
    Socket(SocketScene),
    Http(HttpScene),
}

/// One over WebSocket.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct SocketScene {
    /// The upgrade was refused.
    pub(super) refused: Option<u16>,
    /// The rest, with the pause before each.
    pub(super) steps: Vec<(Duration, Happening)>,
}

/// One over an event stream or polls.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HttpScene {
    pub(super) transport: Transport,
    /// When it began and ended, in milliseconds of the recording.
    pub(super) begun: u64,
    pub(super) ended: u64,
    /// What happened, with the pause before each; that an event stream is asked for stands there like any other request.
    pub(super) steps: Vec<(Duration, Happening)>,
}

impl HttpScene {
    /// The request by which a client begins it.
    pub(super) fn opening(&self) -> Option<&Call> {
        self.steps.iter().find_map(|(_, happening)| match happening {
            Happening::Asked(call) => Some(call),
            _ => None,
        })
    }
}

/// A scene that is being read.
struct Draft {
    name: String,
    scene: Scene,
    /// When the step before was.
    before: u64,
    /// Requests without an answer.
    out: usize,
}

impl Script {
    pub(super) fn of(transcript: Transcript) -> Result<Self, TranscriptError> {
        let mut drafts: Vec<Draft> = Vec::new();
        let mut passed_over = BTreeSet::new();
        for step in transcript.steps {
            let known = drafts.iter().position(|draft| draft.name == step.connection);
            let scene = match (&step.happening, known) {
                (Happening::Note(_) | Happening::Elsewhere, _) => continue,
                (Happening::Connecting(..), Some(_)) => return Err(error(&step, "is begun a second time")),
                (_, Some(_)) => None,
                (Happening::Connecting(transport, _), None) => {
                    let (transport, begun) = (*transport, step.at_ms);
                    Some(Scene::Http(HttpScene { transport, begun, ended: begun, steps: Vec::new() }))
                }
                // Calls beside the conversation, or of a connection that does not say over what.
                (Happening::Asked(_) | Happening::Answered(_) | Happening::Chunk(_) | Happening::StreamOpen, None) => {
                    passed_over.insert(step.connection);
                    continue;
                }
                (_, None) => Some(Scene::Socket(SocketScene::default())),
            };
            drafts.extend(scene.map(|scene| Draft {
                name: step.connection.clone(),
                scene,
                before: step.at_ms,
                out: 0,
            }));
            let at = known.unwrap_or(drafts.len() - 1);
            drafts[at].take(step)?;
        }
        let mut scenes = Vec::new();
        for Draft { name, scene, .. } in drafts {
            match scene {
                Scene::Http(scene) if scene.opening().is_none() => {
                    passed_over.insert(name);
                }
                scene => scenes.push(scene),
            }
        }
        if scenes.is_empty() {
            let reason = "there is nothing to serve: no connection that begins with `open`, or with a `connect` that names \
                          its transport";
            return Err(TranscriptError { line: 1, reason: reason.to_owned() });
        }
        Ok(Script { scenes, passed_over })
    }
}

fn error(step: &Step, what: &str) -> TranscriptError {
    TranscriptError { line: step.line, reason: format!("connection {} {what}", step.connection) }
}

impl Draft {
    fn take(&mut self, step: Step) -> Result<(), TranscriptError> {
        let pause = Duration::from_millis(step.at_ms.saturating_sub(self.before)).min(PAUSE_MAX);
        match &mut self.scene {
            Scene::Socket(scene) => match step.happening {
                Happening::Open => {}
                Happening::Rejected(status) => scene.refused = Some(status),
                happening => scene.steps.push((pause, happening)),
            },
            Scene::Http(scene) => {
                scene.ended = step.at_ms;
                match check(scene.transport, &step, &mut self.out)? {
                    Some(happening) => scene.steps.push((pause, happening)),
                    None => return Ok(()),
                }
            }
        }
        self.before = step.at_ms;
        Ok(())
    }
}

/// The step as it is played over HTTP; `None`: there is nothing to play.
fn check(transport: Transport, step: &Step, out: &mut usize) -> Result<Option<Happening>, TranscriptError> {
    let stream = transport == Transport::Sse;
    Ok(match &step.happening {
        Happening::Connecting(_, call) if stream => {
            *out += 1;
            Some(Happening::Asked(call.clone()))
        }
        Happening::Open | Happening::StreamOpen if stream => {
            *out = out.saturating_sub(1);
            Some(Happening::Open)
        }
        Happening::Connecting(..) | Happening::Open | Happening::StreamOpen | Happening::Note(_) => None,
        Happening::Came(_) | Happening::Sent(_) => {
            let what = format!("was over {} and moves to a WebSocket, which cannot be played", transport.text());
            return Err(error(step, &what));
        }
        Happening::Chunk(_) if !stream => {
            return Err(error(step, &format!("is over {} and has no bytes of an event stream", transport.text())));
        }
        Happening::Answered(_) | Happening::Rejected(_) if *out == 0 => {
            return Err(error(step, "answers what nobody asked"));
        }
        Happening::Answered(_) | Happening::Rejected(_) => {
            *out -= 1;
            Some(step.happening.clone())
        }
        Happening::Asked(_) => {
            *out += 1;
            Some(step.happening.clone())
        }
        other => Some(other.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(steps: &str) -> Result<Script, String> {
        Script::of(Transcript::parse(&format!("{{\"meta\":{{}}}}\n{steps}")).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn connections_are_scenes_with_pauses_of_their_own() {
        let text = r#"{"t":5,"conn":"c1","dir":"out","op":"connect","url":"ws://x"}
{"t":9,"conn":"c1","dir":"in","op":"open"}
{"t":10,"conn":"c2","dir":"in","op":"reject","status":401}
{"t":12,"conn":"c1","dir":"in","op":"text","data":"a"}
{"t":13,"conn":"back","dir":"out","op":"http","data":""}
{"t":20,"conn":"c1","dir":"in","op":"close","code":4000}"#;
        let script = script(text).unwrap();
        let [Scene::Socket(first), Scene::Socket(second)] = &script.scenes[..] else { panic!("{script:?}") };
        let pauses: Vec<u128> = first.steps.iter().map(|(pause, _)| pause.as_millis()).collect();
        assert_eq!(pauses, [3, 8]);
        assert_eq!((second.refused, second.steps.len()), (Some(401), 0));
        assert_eq!(script.passed_over.into_iter().collect::<Vec<_>>(), ["back"]);
    }

    const STREAM: &str = r#"{"t":1,"conn":"s","dir":"out","op":"connect","transport":"sse","url":"http://h/s"}
{"t":4,"conn":"s","dir":"in","op":"open"}"#;
    const POLLS: &str = r#"{"t":1,"conn":"p","dir":"out","op":"connect","transport":"poll","url":"http://h/p"}
{"t":2,"conn":"p","dir":"in","op":"open"}"#;

    #[test]
    fn an_event_stream_begins_with_its_request_and_polls_with_the_first_one() {
        let polled = r#"{"t":7,"conn":"p","dir":"out","op":"http","method":"GET","url":"http://h/p?x"}
{"t":9,"conn":"p","dir":"in","op":"http","status":200}"#;
        let script = script(&format!("{STREAM}\n{POLLS}\n{polled}")).unwrap();
        let [Scene::Http(stream), Scene::Http(polls)] = &script.scenes[..] else { panic!("{script:?}") };
        assert_eq!(stream.opening().unwrap().url, "http://h/s");
        assert_eq!(polls.opening().unwrap().url, "http://h/p?x");
        assert_eq!((polls.begun, polls.ended, polls.steps.len()), (1, 9, 2));
        assert_eq!(polls.steps[1].0.as_millis(), 2);
    }

    #[test]
    fn what_cannot_be_served_is_told_with_its_line() {
        for (steps, expected) in [
            (POLLS.to_owned(), "1: there is nothing to serve"),
            (
                r#"{"conn":"x","dir":"out","op":"http","method":"GET","url":"/"}"#.to_owned(),
                "1: there is nothing to serve",
            ),
            (
                format!("{POLLS}\n{}", r#"{"conn":"p","dir":"in","op":"http","status":200}"#),
                "4: connection p answers what nobody asked",
            ),
            (
                format!("{POLLS}\n{}", r#"{"conn":"p","dir":"in","op":"chunk","data":""}"#),
                "4: connection p is over poll and has no bytes",
            ),
            (
                format!("{STREAM}\n{}", r#"{"conn":"s","dir":"in","op":"text","data":""}"#),
                "4: connection s was over sse and moves to",
            ),
            (format!("{STREAM}\n{STREAM}"), "4: connection s is begun a second time"),
        ] {
            let error = script(&steps).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
