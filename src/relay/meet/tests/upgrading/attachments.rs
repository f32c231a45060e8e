//! Attachments of a session that is polled, and moves.

use super::*;

#[test]
fn attachments_leave_with_their_packet_by_either_transport() {
    let mut engine = Engine::new(&POLLS_FIRST, MUCH);
    engine.attach(2);
    engine.publish();
    engine.attach(10);
    engine.settle();
    assert_eq!((engine.published.len(), engine.told().1, engine.torn), (3, 3, 0));
    engine.upgrade();
    engine.settle();
    assert!(engine.moved);
    engine.attach(2);
    engine.publish();
    engine.settle();
    assert_eq!((engine.published.len(), engine.told().1, engine.torn), (5, 2, 0));
    assert!(engine.published.is_sorted());
}

#[test]
fn an_attachment_that_waits_for_the_move_leaves_over_the_websocket() {
    // A POST takes the packet or its attachment.
    let mut engine = Engine::new(&POLLS_FIRST, 60);
    engine.upgrade();
    assert!(engine.hear(), "the probe");
    engine.attach(1);
    assert_eq!(engine.posts.len(), 1, "the packet");
    assert!(engine.step(3), "the answer to the probe");
    assert!(engine.step(1) && engine.step(2));
    assert!(engine.posts.is_empty() && !engine.moved && engine.announced.is_some());
    engine.publish();
    engine.settle();
    assert!(engine.moved);
    assert_eq!((engine.published.len(), engine.told().1, engine.torn), (2, 2, 1));
}
