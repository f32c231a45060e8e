//! What upstream says and nobody understands.

use serde_json::json;

use super::plain;
use crate::dialect::WireFrame;
use crate::relay::pairs::Notice;

#[test]
fn what_means_nothing_is_counted_and_sampled() {
    let mut service = plain();
    service.say(&json!({"strange": 1}));
    service.say_frame(WireFrame::Text(bytes::Bytes::from_static(b"{")));
    service.say(&json!({"event": null, "data": 1}));
    let dialect = &service.relay.stats.dialect;
    assert_eq!((dialect.unmatched, dialect.malformed, dialect.unextracted), (1, 1, 1));
    assert_eq!(service.relay.stats.link.frames_in, 3);
    let sample = |why, sample: &str, left_out| Notice::NotUnderstood { why, sample: sample.into(), left_out };
    assert_eq!(service.notices, [sample("unmatched", r#"{"strange":1}"#, 0)], "one sample in ten seconds");
    let reader = service.join(0);
    service.subscribe(reader, &["$unmatched"]);
    service.told(reader);
    service.pass_seconds(10);
    service.say(&json!({"odd": "Some Private Text"}));
    let event = &service.told.last().unwrap().1;
    assert_eq!((&event["channel"], &event["type"]), (&json!("$unmatched"), &json!("unmatched")));
    assert_eq!(event["data"], json!({"why": "unmatched", "sample": r#"{"odd":"<17 characters>"}"#, "left_out": 2}));
    let shapes: Vec<(&str, u64)> = service.relay.samples.seen().iter().map(|seen| (seen.why, seen.count)).collect();
    assert_eq!(
        shapes,
        [("unmatched", 1), ("malformed", 1), ("unextracted", 1), ("unmatched", 1)],
        "all shapes are kept"
    );
    assert_eq!(service.notices[1], sample("unmatched", r#"{"odd":"<17 characters>"}"#, 2));
}
