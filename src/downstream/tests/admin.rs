//! The admin listener over real sockets, the relay scripted.

use super::*;
use crate::config::Config;
use crate::downstream::rig::{Rig, ask, listener, run, status};
use std::net::SocketAddr;
use std::sync::Mutex;

const JSON: &str = "Content-Type: application/json";

/// Both listeners, and the log levels that were set.
fn start() -> (Rig, SocketAddr, SocketAddr, Arc<Mutex<Vec<tracing::Level>>>) {
    let rig = Rig::new(Config::default());
    let levels = Arc::new(Mutex::new(Vec::new()));
    let set = levels.clone();
    let hooks = Hooks {
        metrics: Box::new(|_| "tidegate_up 1\n".to_owned()),
        config: Box::new(|| r#"{"access":{"mode":"loopback"}}"#.to_owned()),
        reload: Box::new(|| Err(vec!["tidegate.toml:3:1: unknown key".to_owned()])),
        log_level: Box::new(move |level| set.lock().unwrap().push(level)),
    };
    let admin = Arc::new(Admin::new(rig.policy.clone(), rig.outside.clone(), hooks, Arc::default()));
    let (all, address) = listener();
    let (probes, probes_address) = listener();
    tokio::spawn(serve(all, admin.clone(), rig.stop.subscribe()));
    tokio::spawn(serve_probes(probes, admin, rig.stop.subscribe()));
    (rig, address, probes_address, levels)
}

#[test]
fn every_path_asks_what_it_names() {
    run(async {
        let (mut rig, address, _, _) = start();
        for (line, call) in [
            ("GET /livez", CallRequest::Ready),
            ("GET /live", CallRequest::Ready),
            ("GET /healthz", CallRequest::Ready),
            ("GET /startupz", CallRequest::Ready),
            ("GET /readyz", CallRequest::Ready),
            ("GET /ready", CallRequest::Ready),
            ("HEAD /readyz", CallRequest::Ready),
            ("GET /metrics", CallRequest::Stats),
            ("GET /v1/status", CallRequest::Status),
            ("GET /v1/subscriptions", CallRequest::Subscriptions),
            ("GET /v1/sessions", CallRequest::Sessions),
            ("GET /v1/outbox", CallRequest::Outbox),
            ("POST /v1/upstream/reconnect", CallRequest::Reconnect),
            ("POST /v1/upstream/rotate", CallRequest::Rotate),
            ("POST /v1/upstream/pause", CallRequest::Pause),
            ("POST /v1/upstream/resume", CallRequest::Resume),
            ("POST /v1/drain", CallRequest::Drain),
        ] {
            let answer = ask(address, line, &[JSON], "").await;
            assert_eq!(status(&answer), 200, "{line}: {answer}");
            assert_eq!(rig.calls.recv().await, Some(call), "{line}");
        }
        let index = ask(address, "GET /", &[], "").await;
        assert!(index.contains("/metrics") && index.contains("/v1/drain"), "{index}");
        let metrics = ask(address, "GET /metrics", &[], "").await;
        assert!(metrics.contains("version=0.0.4") && metrics.ends_with("tidegate_up 1\n"), "{metrics}");
        assert_eq!(status(&ask(address, "POST /v1/drain", &[], "").await), 200, "no body needs no type");
        assert!(ask(address, "GET /v1/config", &[], "").await.ends_with(r#"{"access":{"mode":"loopback"}}"#));
    });
}

#[test]
fn get_changes_nothing_and_pages_of_others_reach_nothing() {
    run(async {
        let (mut rig, address, _, levels) = start();
        for (line, headers, body, wanted, word) in [
            ("GET /v1/drain", &[][..], "", 405, "POST"),
            ("GET /v1/reload", &[], "", 405, "POST"),
            ("POST /v1/drain", &["Content-Type: text/plain"], "", 415, "application/json"),
            ("POST /v1/drain", &[], "{}", 415, "application/json"),
            ("POST /v1/drain", &[JSON, "Origin: https://app.example.com"], "", 403, "origin"),
            ("POST /v1/drain", &[JSON, "Sec-Fetch-Site: cross-site"], "", 403, ""),
            ("POST /v1/drain", &[JSON, "Host: evil.example"], "", 403, "access.hosts"),
            ("GET /metrics", &["Host: evil.example"], "", 403, "access.hosts"),
            ("POST /v1/loglevel", &[JSON], r#"{"level":"loud"}"#, 400, "trace"),
            ("POST /v1/loglevel", &[JSON], "", 400, "trace"),
            ("POST /v1/reload", &[JSON], "", 400, "tidegate.toml:3:1"),
            ("GET /v1/dead-letters/01J/redrive", &[], "", 405, "POST"),
            ("POST /v1/dead-letters/01J", &[JSON], "", 405, "DELETE"),
            ("POST /v1/dead-letters/01J/again", &[JSON], "", 404, ""),
            ("DELETE /v1/dead-letters", &["Sec-Fetch-Site: cross-site"], "", 403, ""),
            ("DELETE /v1/dead-letters", &["Origin: https://app.example.com"], "", 403, "origin"),
            ("POST /v1/shutdown", &[JSON], "", 422, "shutdown"),
            ("GET /v1/publish", &[], "", 404, ""),
        ] {
            let answer = ask(address, line, headers, body).await;
            assert_eq!(status(&answer), wanted, "{line} {headers:?}: {answer}");
            assert!(answer.contains(word), "{line}: {answer}");
        }
        assert!(rig.calls.try_recv().is_err());
        assert!(levels.lock().unwrap().is_empty());
        assert_eq!(status(&ask(address, "POST /v1/loglevel", &[JSON], r#"{"level":"debug"}"#).await), 200);
        assert_eq!(*levels.lock().unwrap(), [tracing::Level::DEBUG]);
    });
}

#[test]
fn the_probes_own_listener_asks_for_no_name_and_shows_nothing_else() {
    run(async {
        let (_rig, _, probes, _) = start();
        for line in ["GET /livez", "GET /readyz", "GET /startupz", "GET /metrics"] {
            assert_eq!(status(&ask(probes, line, &["Host: 10.1.2.3:9000"], "").await), 200, "{line}");
        }
        for line in ["GET /", "GET /v1/status", "GET /v1/config", "POST /v1/drain"] {
            assert_eq!(status(&ask(probes, line, &[JSON], "").await), 404, "{line}");
        }
    });
}

#[test]
fn a_storm_of_scrapes_is_refused_and_reaches_nobody() {
    run(async {
        let (mut rig, address, _, _) = start();
        rig.hold.send(true).unwrap();
        let scrape = || tokio::spawn(async move { ask(address, "GET /metrics", &[], "").await });
        let slow = [scrape(), scrape()];
        for _ in 0..SCRAPES {
            assert_eq!(rig.calls.recv().await, Some(CallRequest::Stats));
        }
        let refused = ask(address, "GET /metrics", &[], "").await;
        assert_eq!(status(&refused), 429);
        assert!(refused.contains("retry-after: 1"), "{refused}");
        assert!(rig.calls.try_recv().is_err());
        rig.hold.send(false).unwrap();
        for scrape in slow {
            assert_eq!(status(&scrape.await.unwrap()), 200);
        }
    });
}
