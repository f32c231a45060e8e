//! Faults planted in a good trace: each rule must see its own, and no other may take its part.

use super::rules::{Judge, Rule};
use super::seen::{Admin, Client, End, Seen, Upstream, receipt};

/// The rules that a trace breaks, each once.
fn broken(trace: &[Seen]) -> Vec<Rule> {
    let mut judge = Judge::default();
    trace.iter().for_each(|seen| judge.read(&serde_json::to_string(seen).unwrap()));
    let violations = judge.end();
    let said: Vec<String> = violations.iter().map(ToString::to_string).collect();
    println!("{}", said.join("\n"));
    let mut rules: Vec<Rule> = violations.iter().map(|violation| violation.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// A publish by session 1, its tag for a key.
fn publish(of: &str) -> Seen {
    Seen::Client(Client::Publish {
        session: 1,
        tag: of.into(),
        principal: "local".into(),
        key: of.into(),
        order_key: ["a", "b", "e"].contains(&of).then(|| "k".into()),
        dead_letter: of.starts_with("once"),
        ttl_ms: (of == "short").then_some(100),
        coalesce: of == "e",
    })
}

fn cancel(of: &str) -> Seen {
    Seen::Client(Client::Cancel { message: id(of) })
}

fn id(of: &str) -> String {
    format!("01{}", of.to_uppercase())
}

fn accepted(of: &str) -> Seen {
    accepted_as(of, &id(of))
}

fn accepted_as(of: &str, message: &str) -> Seen {
    let (tag, message, state) = (of.into(), message.into(), "accepted".into());
    Seen::Client(Client::Accepted { at_ms: 10, session: 1, tag, message, state })
}

fn attempt(of: &str, connection: usize, request: u64) -> Seen {
    attempt_at(0, of, connection, request)
}

fn attempt_at(at_ms: u64, of: &str, connection: usize, request: u64) -> Seen {
    Seen::Upstream(Upstream::Attempt { at_ms, connection, request, tag: of.into(), message: id(of) })
}

fn ack(connection: usize, request: u64) -> Seen {
    Seen::Upstream(Upstream::Ack { connection, request })
}

fn nack(connection: usize, request: u64, again: bool) -> Seen {
    Seen::Upstream(Upstream::Nack { at_ms: 0, connection, request, again, after_ms: 0 })
}

fn delivered(of: &str, connection: usize, request: u64) -> End {
    let (confirmed_by, reply) = (Some("ack".into()), Some(receipt(of, connection, request)));
    End { state: "delivered".into(), reason: None, confirmed_by, reply }
}

fn failed(state: &str, reason: &str) -> End {
    End { state: state.into(), reason: Some(reason.into()), confirmed_by: None, reply: None }
}

fn outcome(of: &str, end: End) -> Seen {
    Seen::Client(Client::Outcome { session: 1, message: id(of), end })
}

fn state(of: &str, end: Option<End>) -> Seen {
    Seen::Client(Client::State { asked: 1_000, message: id(of), status: 200, end })
}

fn unknown(of: &str) -> Seen {
    Seen::Client(Client::State { asked: 1_000, message: id(of), status: 404, end: None })
}

fn admin(seen: Admin) -> Seen {
    Seen::Admin(seen)
}

fn scrape(conservation: f64, lost: f64, store_failed: bool) -> Seen {
    admin(Admin::Scrape { conservation, lost, store_failed })
}

fn count(at_ms: u64, connections: usize) -> Seen {
    Seen::Upstream(Upstream::Count { at_ms, connections })
}

/// Two lives with a kill between them. `a`, `b`: one after the other under a key. `once`: must not be sent twice. `short`:
/// lives for 100 ms. `no`: refused, after it was put off.
fn good() -> Vec<Seen> {
    let first_life = vec![
        admin(Admin::Limits { max_attempts: 3 }),
        admin(Admin::Started),
        count(0, 0),
        publish("a"),
        publish("b"),
        accepted("a"),
        attempt("a", 0, 1),
        accepted("b"),
        ack(0, 1),
        outcome("a", delivered("a", 0, 1)),
        attempt("b", 0, 2),
        publish("once"),
        accepted("once"),
        attempt("once", 0, 3),
        publish("short"),
        accepted("short"),
        publish("no"),
        accepted("no"),
        attempt("no", 0, 4),
        nack(0, 4, true),
        attempt("no", 0, 5),
        nack(0, 5, false),
        outcome("no", End { reply: Some(receipt("no", 0, 5)), ..failed("rejected", "no") }),
        publish("unanswered"),
        scrape(0.0, 0.0, false),
        admin(Admin::Gone { hard: true }),
        Seen::Upstream(Upstream::Cut { connections: 1 }),
    ];
    let second_life = vec![
        admin(Admin::Started),
        count(500, 1),
        state("a", Some(delivered("a", 0, 1))),
        state("b", None),
        state("once", Some(failed("dead_lettered", "outcome_unknown"))),
        state("short", Some(failed("expired", "ttl"))),
        state("no", Some(End { reply: Some(receipt("no", 0, 5)), ..failed("rejected", "no") })),
        admin(Admin::Asked),
        publish("unanswered"),
        accepted("unanswered"),
        attempt("unanswered", 1, 1),
        ack(1, 1),
        outcome("unanswered", delivered("unanswered", 1, 1)),
        attempt("b", 1, 2),
        ack(1, 2),
        state("b", Some(delivered("b", 1, 2))),
        scrape(0.0, 0.0, false),
        admin(Admin::Drained),
    ];
    [first_life, second_life].concat()
}

/// The good trace with one line replaced by others.
fn with(line: &Seen, instead: &[Seen]) -> Vec<Seen> {
    let mut trace = good();
    let at = trace.iter().rposition(|seen| seen == line).unwrap();
    trace.splice(at..=at, instead.iter().cloned());
    trace
}

/// The good trace with lines inserted before its end.
fn and(more: &[Seen]) -> Vec<Seen> {
    let last = admin(Admin::Drained);
    with(&last, &[more, std::slice::from_ref(&last)].concat())
}

#[test]
fn a_good_trace_is_good() {
    assert_eq!(broken(&good()), []);
    let (tag, message, state) = ("a".into(), id("a"), "delivered".into());
    let again = Seen::Client(Client::Accepted { at_ms: 600, session: 1, tag, message, state });
    let restart = [
        publish("a"),
        again,
        admin(Admin::Gone { hard: true }),
        Seen::Upstream(Upstream::Cut { connections: 2 }),
        admin(Admin::Started),
        state_of_delivered("unanswered", 1),
        state_of_delivered("b", 2),
        admin(Admin::Asked),
    ];
    assert_eq!(broken(&and(&restart)), [], "a repeated publish of what has ended is no news of it");
}

fn state_of_delivered(of: &str, request: u64) -> Seen {
    state(of, Some(delivered(of, 1, request)))
}

#[test]
fn what_makes_no_sense_is_no_trace() {
    assert_eq!(broken(&with(&state("b", None), &[])), [Rule::Trace], "nobody asked");
    assert_eq!(broken(&and(&[ack(1, 9)])), [Rule::Trace], "an answer to nothing");
    assert_eq!(broken(&and(&[attempt("z", 1, 9)])), [Rule::Trace], "a message of nobody");
}

#[test]
fn an_accepted_message_that_is_forgotten() {
    assert_eq!(broken(&with(&state("b", None), &[unknown("b")])), [Rule::Durable]);
    assert_eq!(broken(&and(&[scrape(0.0, 1.0, false)])), [Rule::Durable]);
}

#[test]
fn a_message_that_leaves_before_it_is_durable() {
    let trace = with(&scrape(0.0, 0.0, false), &[]);
    assert_eq!(broken(&trace), []);
    let mut trace = good();
    let kill = trace.iter().position(|seen| *seen == admin(Admin::Gone { hard: true })).unwrap();
    trace.insert(kill, attempt("unanswered", 0, 6));
    let asked = trace.iter().position(|seen| *seen == admin(Admin::Asked)).unwrap();
    trace.insert(asked, unknown("unanswered"));
    assert_eq!(broken(&trace), [Rule::Durable]);
}

#[test]
fn a_second_end() {
    let other = failed("rejected", "other");
    assert_eq!(broken(&and(&[state("a", Some(other.clone()))])), [Rule::OneEnd], "another one");
    assert_eq!(
        broken(&and(&[outcome("b", delivered("b", 1, 2)), outcome("b", other)])),
        [Rule::OneEnd],
        "told to a session"
    );
    assert_eq!(broken(&and(&[state("a", None)])), [Rule::OneEnd], "none any more");
    assert_eq!(broken(&and(&[publish("a"), accepted("a")])), [Rule::OneEnd], "a repeated publish finds it alive");
    let unaccepted = [publish("y"), attempt("y", 1, 3), ack(1, 3), outcome("y", delivered("y", 1, 3))];
    assert_eq!(broken(&and(&unaccepted)), [Rule::OneEnd], "before it was accepted");
}

#[test]
fn a_count_that_does_not_come_out_even() {
    assert_eq!(broken(&and(&[scrape(-1.0, 0.0, false)])), [Rule::Conserved]);
}

#[test]
fn two_of_one_key_in_the_wrong_order() {
    let mut trace =
        and(&[publish("e"), accepted("e"), attempt("e", 1, 3), ack(1, 3), state("e", Some(delivered("e", 1, 3)))]);
    let b = [attempt("b", 1, 2), ack(1, 2), state("b", Some(delivered("b", 1, 2)))];
    assert_eq!(broken(&trace), []);
    trace.retain(|seen| !b.contains(seen));
    let end = trace.len() - 1;
    trace.splice(end..end, b);
    let early = trace.iter().position(|seen| *seen == attempt("b", 0, 2)).unwrap();
    trace.remove(early);
    assert_eq!(broken(&trace), [Rule::KeyOrder]);
}

#[test]
fn two_of_one_key_at_once() {
    let early = [attempt("b", 0, 2), accepted("b")];
    let mut trace = with(&accepted("b"), &early);
    let late = trace.iter().rposition(|seen| *seen == attempt("b", 0, 2)).unwrap();
    trace.remove(late);
    assert_eq!(broken(&trace), [Rule::KeyOrder], "the first was answered later");
}

#[test]
fn two_of_one_key_accepted_in_the_wrong_order() {
    let more = [publish("e"), publish("b2"), accepted_as("e", "00E")];
    let end = [attempt_as("e", "00E", 3), ack(1, 3)];
    let mut trace = and(&[more.as_slice(), &end].concat());
    let last = trace.len() - 1;
    let ended = Client::Outcome { session: 1, message: "00E".into(), end: delivered("e", 1, 3) };
    trace.insert(last, Seen::Client(ended));
    assert_eq!(broken(&trace), [Rule::KeyOrder]);
}

fn attempt_as(of: &str, message: &str, request: u64) -> Seen {
    Seen::Upstream(Upstream::Attempt { at_ms: 0, connection: 1, request, tag: of.into(), message: message.into() })
}

#[test]
fn more_attempts_than_allowed() {
    let again = |request| [nack(1, request, true), attempt("b", 1, request + 1)];
    let trace = with(&ack(1, 2), &[again(2).as_slice(), &again(3), &again(4), &[ack(1, 5)]].concat());
    let trace = trace.into_iter().map(|seen| match seen {
        seen if seen == state("b", Some(delivered("b", 1, 2))) => state("b", Some(delivered("b", 1, 5))),
        seen => seen,
    });
    assert_eq!(broken(&trace.collect::<Vec<_>>()), [Rule::Bounded]);
}

#[test]
fn an_answer_to_another_message() {
    let swapped = outcome("a", delivered("b", 0, 2));
    let trace = with(&outcome("a", delivered("a", 0, 1)), &[]);
    let trace: Vec<Seen> = trace.into_iter().filter(|seen| *seen != state("a", Some(delivered("a", 0, 1)))).collect();
    let mut mixed = trace.clone();
    mixed.insert(9, swapped);
    mixed.insert(31, state("a", Some(delivered("b", 0, 2))));
    assert_eq!(broken(&mixed), [Rule::Answered], "acks swapped");
}

#[test]
fn an_answer_that_was_never_given() {
    let early = with(&ack(1, 2), &[]);
    assert_eq!(broken(&early), [Rule::Answered], "no ack");
    let other = with(&state("b", Some(delivered("b", 1, 2))), &[state("b", Some(delivered("b", 0, 2)))]);
    assert_eq!(broken(&other), [Rule::Answered], "on another connection");
    let refused = with(&nack(0, 5, false), &[nack(0, 5, true)]);
    assert_eq!(broken(&refused), [Rule::Answered], "refused only for now");
}

#[test]
fn an_attempt_after_the_end() {
    assert_eq!(broken(&and(&[attempt("unanswered", 1, 3)])), [Rule::Over]);
    assert_eq!(broken(&and(&[attempt("unanswered", 0, 9)])), [], "it had left before, on a connection that is cut");
}

#[test]
fn two_messages_for_one_key() {
    assert_eq!(broken(&and(&[publish("a"), accepted_as("a", "01Z")])), [Rule::OneMessage]);
    assert_eq!(broken(&and(&[publish("y"), accepted_as("y", &id("a"))])), [Rule::OneMessage], "one for two");
    assert_eq!(broken(&and(&[attempt_as("a", "01Z", 3)])), [Rule::OneMessage], "upstream sees another");
}

#[test]
fn life_after_an_error_of_the_store() {
    let refused = Seen::Client(Client::Refused { session: 1, tag: "y".into(), code: "store_failed".into() });
    let later = [publish("x"), accepted("x"), cancel("x"), state("x", Some(failed("rejected", "cancelled")))];
    assert_eq!(broken(&and(&[&[publish("y"), refused.clone()], later.as_slice()].concat())), [Rule::FailStop]);
    assert_eq!(broken(&and(&[&[scrape(0.0, 0.0, true)], later.as_slice()].concat())), [Rule::FailStop]);
    assert_eq!(broken(&and(&later)), []);
    assert_eq!(broken(&and(&[publish("y"), refused, outcome("b", delivered("b", 1, 2))])), [Rule::FailStop]);
}

#[test]
fn twice_what_must_leave_once() {
    let again = attempt("once", 1, 3);
    let dead = state("once", Some(failed("dead_lettered", "outcome_unknown")));
    let late = and(&[again, dead.clone()]);
    let at = late.iter().position(|seen| *seen == dead).unwrap();
    let mut late = late;
    late[at] = state("once", None);
    assert_eq!(broken(&late), [Rule::AtMostOnce]);
    let refused = with(&attempt("once", 0, 3), &[attempt("once", 0, 3), nack(0, 3, true), attempt("once", 0, 6)]);
    assert_eq!(broken(&refused), [], "upstream did not take it");
}

#[test]
fn a_time_to_live_that_is_forgotten() {
    let gone = state("short", Some(failed("expired", "ttl")));
    let mut trace = and(&[attempt("short", 1, 3), ack(1, 3), state("short", Some(delivered("short", 1, 3)))]);
    let at = trace.iter().position(|seen| *seen == gone).unwrap();
    trace[at] = state("short", None);
    assert_eq!(broken(&trace), [Rule::TimeToLive]);
}

#[test]
fn an_end_as_unsent_of_what_upstream_has() {
    let sent = with(&accepted("short"), &[accepted("short"), attempt("short", 0, 6)]);
    assert_eq!(broken(&sent), [], "a kill may make the relay forget the newest attempts");
    let read_late = with(&count(500, 1), &[count(500, 1), attempt("short", 0, 6)]);
    assert_eq!(broken(&read_late), [], "also those that upstream reads later");
    let told = with(
        &accepted("short"),
        &[accepted("short"), attempt("short", 0, 6), outcome("short", failed("expired", "ttl"))],
    );
    assert_eq!(broken(&told), [Rule::Unsent]);
    let put_off =
        [accepted("short"), attempt("short", 0, 6), nack(0, 6, true), outcome("short", failed("expired", "ttl"))];
    assert_eq!(broken(&with(&accepted("short"), &put_off)), [], "upstream has it not");
    let immortal =
        with(&state("b", Some(delivered("b", 1, 2))), &[state("b", Some(failed("expired", "outcome_unknown")))]);
    assert_eq!(broken(&immortal), [Rule::TimeToLive], "it had no time to live");
}

#[test]
fn a_message_that_nobody_sends_again() {
    let lines = [attempt("b", 1, 2), ack(1, 2), state("b", Some(delivered("b", 1, 2)))];
    let trace: Vec<Seen> = good().into_iter().filter(|seen| !lines.contains(seen)).collect();
    assert_eq!(broken(&trace), [Rule::Drained]);
}

#[test]
fn an_attempt_before_the_time_that_upstream_asked_for() {
    let put_off = Seen::Upstream(Upstream::Nack { at_ms: 40, connection: 1, request: 2, again: true, after_ms: 30 });
    let again = |at_ms, connection| {
        let told = state("b", Some(delivered("b", connection, 3)));
        let lines = [put_off.clone(), attempt_at(at_ms, "b", connection, 3), ack(connection, 3)];
        let trace = with(&ack(1, 2), &lines).into_iter();
        let trace = trace.map(|seen| if seen == state_of_delivered("b", 2) { told.clone() } else { seen });
        broken(&trace.collect::<Vec<_>>())
    };
    assert_eq!(again(69, 1), [Rule::PutOff]);
    assert_eq!(again(70, 1), []);
    assert_eq!(again(69, 2), [], "the answer may have been lost with its connection");
}

#[test]
fn what_is_anothers() {
    let told = Seen::Client(Client::Outcome { session: 2, message: id("b"), end: delivered("b", 1, 2) });
    let (session, tag, key) = (2, "theirs".into(), "a".into());
    let theirs = Seen::Client(Client::Publish {
        session,
        tag,
        principal: "other".into(),
        key,
        order_key: None,
        dead_letter: false,
        ttl_ms: None,
        coalesce: false,
    });
    assert_eq!(broken(&and(&[theirs.clone(), accepted("theirs"), told])), [Rule::Private, Rule::Drained]);
    assert_eq!(broken(&and(&[theirs, accepted_as("theirs", &id("a"))])), [Rule::OneMessage], "their key is not ours");
    let pry = |status| Seen::Client(Client::Pry { principal: "other".into(), message: id("a"), status });
    assert_eq!(broken(&and(&[pry(404)])), []);
    for status in [200, 403] {
        assert_eq!(broken(&and(&[pry(status)])), [Rule::Private], "{status}");
    }
}

#[test]
fn an_end_that_nobody_wished() {
    let x = [publish("x"), accepted("x")];
    let ended = |reason: &str| outcome("x", failed("rejected", reason));
    assert_eq!(broken(&and(&[&x[..], &[ended("cancelled")]].concat())), [Rule::Wished]);
    assert_eq!(broken(&and(&[&x[..], &[cancel("x"), ended("cancelled")]].concat())), []);
    let sent = [&x[..], &[attempt("x", 1, 3), cancel("x"), ended("cancelled")]].concat();
    assert_eq!(broken(&and(&sent)), [Rule::Unsent]);
    let late = [&x[..], &[cancel("x"), ended("cancelled"), attempt("x", 1, 3)]].concat();
    assert_eq!(broken(&and(&late)), [Rule::Over]);
    // `e` takes the place of what waits under its key, before it.
    let superseded = |of: &str| outcome(of, failed("rejected", "superseded"));
    let end = [attempt_as("e", "01E", 3), ack(1, 3), state("e", Some(delivered("e", 1, 3)))];
    let e = [publish("e"), accepted("e")];
    assert_eq!(broken(&and(&[&x[..], &e, &[superseded("x")], &end].concat())), [Rule::Wished], "another key");
    assert_eq!(broken(&and(&[&e[..], &[superseded("e")]].concat())), [Rule::Wished], "by itself");
    let waits = [&e[..], &[superseded("b")], &end].concat();
    let lines = [attempt("b", 0, 2), attempt("b", 1, 2), ack(1, 2), state("b", Some(delivered("b", 1, 2)))];
    let trace: Vec<Seen> = and(&waits).into_iter().filter(|seen| !lines.contains(seen)).collect();
    assert_eq!(broken(&trace), []);
}

#[test]
fn what_must_leave_once_leaves_while_the_store_cannot_know() {
    let cut = Seen::Upstream(Upstream::Cut { connections: 2 });
    let more = |connection| {
        let lines = [publish("once2"), accepted("once2"), scrape(0.0, 0.0, true), cut.clone()];
        broken(&and(&[
            &lines[..],
            &[attempt("once2", connection, 1), ack(connection, 1), state_of("once2", connection)],
        ]
        .concat()))
    };
    assert_eq!(more(2), [Rule::FailStop]);
    assert_eq!(more(1), [], "it may have left before");
}

fn state_of(of: &str, connection: usize) -> Seen {
    state(of, Some(delivered(of, connection, 1)))
}

#[test]
fn a_violation_names_the_message_and_the_lines() {
    let mut judge = Judge::default();
    and(&[attempt("unanswered", 1, 3)]).iter().for_each(|seen| judge.read(&serde_json::to_string(seen).unwrap()));
    let said = judge.end()[0].to_string();
    assert_eq!(said, "Over: 01UNANSWERED (unanswered) left after its end was told (lines [40, 45])");
}
