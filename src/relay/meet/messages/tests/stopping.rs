//! What a stop leaves behind.

use super::*;
use crate::relay::record::Operation;

#[test]
fn a_hurried_stop_waits_until_the_store_knows_of_what_is_in_flight() {
    let mut house = House::new("plain");
    let session = house.join();
    house.publish(session, vec![message("orders", "1")], false);
    assert_eq!(house.sent().len(), 1);
    // Nobody answers: upstream does not close, and the second stop does not wait for that.
    let mut asked = |input| {
        house.relay.handle_input(house.now, input);
        std::iter::from_fn(|| house.relay.poll_output(house.now)).collect::<Vec<_>>()
    };
    let noted = |output: &Output| match output {
        Output::Commit(operations) => matches!(&operations[..], [Operation::Attempt { attempts: 1, .. }]),
        _ => false,
    };
    let stopped = |outputs: &[Output]| outputs.iter().any(|output| matches!(output, Output::Stopped));
    assert!(asked(Input::Stop { now: true }).iter().any(noted));
    assert!(!stopped(&asked(Input::Stop { now: true })));
    assert!(stopped(&asked(Input::Committed)));
}
