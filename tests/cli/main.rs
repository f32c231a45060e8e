//! The command line as a person or a script meets it: the real binary, its outputs and its exit codes.

mod rig;
mod tools;

use std::path::Path;

use rig::{Process, relay, run, said, tidegate, upstream};
use rustix::process::Signal;

/// A configuration for a relay in front of `upstream`.
fn configure(dir: &Path, upstream: &str, feed: &str, more: &str) {
    let text = format!(
        "[upstream]\nurl = \"ws://{upstream}/stream\"\nbackoff = {{ min = \"10ms\", max = \"100ms\" }}\n\
         [feed]\nlisten = [\"{feed}\"]\n[admin]\nlisten = [\"127.0.0.1:0\"]\n\
         [outbox]\npath = \"state\"\nmin_free = 0\n[drain]\ntimeout = \"1s\"\n{more}"
    );
    std::fs::write(dir.join("relay.toml"), text).unwrap();
}

#[test]
fn wrong_usage_exits_with_64() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &["no-such-command"][..],
        &["tail"],
        &["publish", "orders", "no json"],
        &["run", "--no-such-option"],
        &["demo", "--set", "feed.max_sessions=1"],
    ] {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", said(&output));
        assert!(!output.stderr.is_empty());
    }
    for arguments in [&["--help"][..], &["--version"], &["tail", "--help"]] {
        assert_eq!(run(dir.path(), arguments).status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn check_tells_everything_at_once_and_exits_with_78() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[upstream]\nurl = \"ftp://x\"\n[feed]\nlisten = [\"0.0.0.0:7440\"]\n[log]\nlevel = \"loud\"\n";
    std::fs::write(dir.path().join("bad.toml"), text).unwrap();
    for command in ["check", "run"] {
        let output = run(dir.path(), &[command, "-c", "bad.toml"]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(78), "{command}: {said}");
        for line in ["bad.toml:2:1: upstream.url: ", "bad.toml:4:1: feed.listen: ", "bad.toml:6:1: log.level: "] {
            assert!(said.lines().any(|have| have.starts_with(line)), "{command}: no `{line}` in\n{said}");
        }
    }
    std::fs::write(dir.path().join("good.toml"), "[upstream]\nurl = \"wss://x/\"\n").unwrap();
    let output = run(dir.path(), &["check", "-c", "good.toml"]);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), "ok: plain over wss://x/\n"));
    assert_eq!(run(dir.path(), &["check", "-c", "missing.toml"]).status.code(), Some(78));
}

#[test]
fn an_unknown_key_fails_check_and_only_warns_at_start() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), "127.0.0.1:9", "127.0.0.1:0", "timeuot = \"2s\"\n");
    let output = run(dir.path(), &["check", "-c", "relay.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        said(&output).contains("drain.timeuot: there is no such key; did you mean drain.timeout?"),
        "{}",
        said(&output)
    );
    let mut command = tidegate(dir.path());
    command.args(["run", "-c", "relay.toml"]);
    let mut relay = Process::start(command);
    assert!(relay.line_with("did you mean drain.timeout?").contains("WARN"));
    relay.line_with("\"message\":\"admin\"");
}

#[test]
fn config_prints_the_documented_defaults_and_hides_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let default = run(dir.path(), &["config", "default"]);
    assert_eq!(String::from_utf8_lossy(&default.stdout), include_str!("../../config/tidegate.toml"));
    let mut show = tidegate(dir.path());
    show.args(["config", "show", "--set", "upstream.url=wss://x/?key=s3cret"])
        .env("TIDEGATE_UPSTREAM__TOKEN", "s3cret");
    let shown = said(&show.output().unwrap());
    assert!(shown.contains("token = \"***\"") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_second_relay_on_the_same_state_exits_with_73() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), "127.0.0.1:9", "127.0.0.1:0", "");
    let (_first, ..) = relay(dir.path());
    let second = run(dir.path(), &["run", "-c", "relay.toml"]);
    assert_eq!(second.status.code(), Some(73), "{}", said(&second));
    assert!(said(&second).contains("state"), "{}", said(&second));
}

#[test]
fn salvage_leaves_what_a_relay_uses_and_lets_go_of_what_it_read() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), "127.0.0.1:9", "127.0.0.1:0", "");
    let (mut first, ..) = relay(dir.path());
    let state = dir.path().join("state");
    let salvage = |part: &str| run(dir.path(), &["salvage", state.join(part).to_str().unwrap()]);
    for part in ["", "sled", "sled/db", "journal-1"] {
        let output = salvage(part);
        let pid = format!("in use by a running tidegate (pid {})", first.child.id());
        assert_eq!(output.status.code(), Some(73), "{part}: {}", said(&output));
        assert!(said(&output).contains(&pid) && said(&output).contains("name a copy"), "{part}: {}", said(&output));
    }
    // Set aside: salvaged beside the relay, and through it.
    std::fs::create_dir(state.join("sled.corrupt-1795231888")).unwrap();
    let output = salvage("sled.corrupt-1795231888");
    assert!(output.status.success() && said(&output).contains("0 messages found"), "{}", said(&output));
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let output = salvage("");
    assert!(output.status.success(), "{}", said(&output));
    assert!(relay(dir.path()).0.child.try_wait().unwrap().is_none(), "it let go");
    assert_eq!(salvage("nowhere").status.code(), Some(74));
}

#[test]
fn an_edit_that_is_empty_is_refused_before_anything_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["dead-letters", "redrive", "ID", "--edit", " ", "--admin", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert!(said(&output).contains("--edit is empty: write for example"), "{}", said(&output));
}

#[test]
fn commands_without_a_relay_say_where_they_looked() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = "127.0.0.1:1";
    for arguments in [
        &["tail", "a", "--feed", nowhere][..],
        &["publish", "a", "1", "--feed", nowhere],
        &["status", "--admin", nowhere],
        &["health", "--admin", nowhere],
        // Options stand before or behind what they are about.
        &["tail", "--feed", nowhere, "a"],
        &["publish", "--feed", nowhere, "a", "1"],
        &["dead-letters", "--admin", nowhere, "ls"],
        &["dead-letters", "ls", "--admin", nowhere],
        &["dead-letters", "--admin", nowhere, "show", "ID"],
        &["dead-letters", "show", "--admin", nowhere, "ID"],
        &["dead-letters", "show", "ID", "--admin", nowhere],
        &["dead-letters", "redrive", "ID", "--edit", "{}", "--admin", nowhere],
        &["dead-letters", "redrive", "--admin", nowhere, "--edit", "{}", "ID"],
        &["dead-letters", "purge", "--all", "--admin", nowhere],
    ] {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(said(&output).contains("cannot reach a relay at 127.0.0.1:1"), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn a_relay_is_asked_published_to_and_told_to_reload() {
    let dir = tempfile::tempdir().unwrap();
    let demo_dir = tempfile::tempdir().unwrap();
    let (_service, address) = upstream(demo_dir.path());
    configure(dir.path(), &address, "127.0.0.1:0", "");
    let (mut process, feed, admin) = relay(dir.path());

    let published = run(dir.path(), &["publish", "orders", "{\"buy\":1}", "--wait", "30s", "--feed", &feed]);
    assert!(published.status.success() && said(&published).contains("\"state\":\"delivered\""), "{}", said(&published));
    let status = run(dir.path(), &["status", "--json", "--admin", &admin]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["upstream"]["state"], &status["outbox"]["depth"]), (&"live".into(), &0.into()));
    let people = run(dir.path(), &["status", "--admin", &admin]);
    assert!(said(&people).lines().any(|line| line.split_whitespace().eq(["state", "live"])), "{}", said(&people));
    assert_eq!(said(&run(dir.path(), &["health", "--admin", &admin])), "ready\n");

    configure(dir.path(), "127.0.0.1:9", "127.0.0.1:0", "[log]\nlevel = \"debug\"\n");
    process.signal(Signal::HUP);
    assert!(process.line_with("takes effect only after a restart").contains("upstream.url"));
    process.line_with("configuration reloaded");
    std::fs::write(dir.path().join("relay.toml"), "[upstream]\nurl = 1\n").unwrap();
    process.signal(Signal::HUP);
    assert!(process.line_with("reload: ").contains("relay.toml:2:1: upstream.url: must be a text"));
    process.line_with("the old configuration stays in force");
    assert_eq!(said(&run(dir.path(), &["health", "--admin", &admin])), "ready\n");

    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn tail_comes_back_with_its_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let demo_dir = tempfile::tempdir().unwrap();
    let (_service, address) = upstream(demo_dir.path());
    configure(dir.path(), &address, "127.0.0.1:0", "");
    let (mut first, feed, _) = relay(dir.path());
    let mut command = tidegate(dir.path());
    command.args(["tail", "price:BTC-USD", "--feed", &feed]);
    let mut tail = Process::start(command);
    tail.line_with("\"kind\":\"event\"");
    first.signal(Signal::TERM);
    assert_eq!(first.exit_code(), Some(0));
    assert!(tail.line_with("\"kind\":\"closing\"").contains("\"code\":1012"));
    tail.line_with("lost: ");

    // The same port again; a new history, so the cursor cannot be continued and that is said.
    configure(dir.path(), &address, &feed, "");
    let (_second, ..) = relay(dir.path());
    assert!(tail.line_with("\"kind\":\"reset\"").contains("\"reason\":\"epoch\""));
    tail.line_with("\"kind\":\"event\"");

    // A reader that has enough is no failure.
    let piped =
        format!("{} tail 'price:*' --feed {feed} | head -n 1; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_tidegate"));
    let piped = std::process::Command::new("bash").arg("-c").arg(piped).output().unwrap();
    assert!(piped.status.success() && said(&piped).starts_with("{\"kind\":\"hello\""), "{}", said(&piped));

    // What can never be subscribed is said, and not waited for.
    for wrong in ["a*b", ""] {
        let output = run(dir.path(), &["tail", wrong, "--feed", &feed]);
        assert_eq!(output.status.code(), Some(1), "{wrong}: {}", said(&output));
        assert!(said(&output).contains("\"kind\":\"error\"") && said(&output).contains("nothing is subscribed"));
    }

    let mut counted = tidegate(dir.path());
    counted.args(["tail", "price:*", "--count", "4", "--feed", &feed]);
    let counted = counted.output().unwrap();
    assert!(counted.status.success());
    assert_eq!(String::from_utf8_lossy(&counted.stdout).lines().count(), 4);
}
