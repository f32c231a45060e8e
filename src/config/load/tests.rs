//! Tests of loading: precedence, all errors at once with places and cures, unknown keys, what is refused.

use std::io::Write;
use std::time::Duration;

use super::*;
use crate::config::{AccessMode, Listen, StaleAfter, TokenSource, show};
use crate::relay::outbox::Lane;

const URL: &str = "[upstream]\nurl = \"ws://127.0.0.1:9/\"\n";

/// Reads a text as the file `t.toml`, with variables and `--set`s.
fn read_with(text: &str, environment: &[(&str, &str)], sets: &[&str]) -> Result<(Config, Found), ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    read(&Sources {
        file: Some(path),
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        sets: sets.iter().map(|set| (*set).to_owned()).collect(),
    })
}

/// Complaints without the temporary directory's name.
fn said(complaints: &[ConfigError]) -> Vec<String> {
    let short = |text: String| match text.find("t.toml") {
        Some(at) => text[at..].to_owned(),
        None => text,
    };
    complaints.iter().map(|complaint| short(complaint.to_string())).collect()
}

fn errors(text: &str) -> Vec<String> {
    match read_with(text, &[], &[]) {
        Ok((_, found)) => said(&found.errors),
        Err(error) => said(&[error]),
    }
}

fn good(text: &str) -> Config {
    let (config, found) = read_with(text, &[], &[]).unwrap();
    assert_eq!(said(&found.errors), [""; 0]);
    config
}

#[test]
fn the_documented_file_is_the_defaults() {
    let text = include_str!("../../../config/tidegate.toml");
    let (config, found) = read_with(text, &[], &[]).unwrap();
    assert_eq!((said(&found.errors), said(&found.unknown_keys)), (vec![], vec![]));
    assert_eq!(config, Config::default());
}

#[test]
fn the_documented_file_names_every_key() {
    let text = include_str!("../../../config/tidegate.toml");
    // Every key that the loader asks for, where every table exists.
    let full =
        format!("{URL}[[channels]]\nmatch = \"x\"\nring = {{}}\n[[access.tokens]]\nname = \"a\"\ntoken = \"b\"\n");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::write(&path, &full).unwrap();
    let mut reader = reader_of(&Sources { file: Some(path), ..Sources::default() }).unwrap();
    sections::read(&mut reader);
    // Members of tables that are written in one line.
    let inner = |key: &str| {
        key.contains("ring.") || key.contains("backoff.") || key.ends_with(".hour") || key.ends_with(".day")
    };
    let asked: Vec<&String> = reader.known.iter().filter(|key| !inner(key)).collect();
    assert!(asked.len() > 60, "the loader asks for {} keys", asked.len());
    for key in asked {
        let last = key.rsplit('.').next().unwrap();
        let named = text.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{last} =")) || line == format!("[{last}]") || line == format!("[[{key}]]")
        });
        assert!(named, "config/tidegate.toml does not name {key}");
    }
}

#[test]
fn environment_beats_the_file_and_set_beats_both() {
    let text = format!("{URL}[feed]\nmax_sessions = 1\nmax_channels = 1\nsession_channels = 1\n");
    let environment = [("TIDEGATE_FEED__MAX_SESSIONS", "2"), ("TIDEGATE_FEED__MAX_CHANNELS", "2")];
    let (config, found) = read_with(&text, &environment, &["feed.max_sessions=3"]).unwrap();
    assert_eq!(said(&found.errors), [""; 0]);
    assert_eq!((config.feed.max_sessions, config.feed.max_channels, config.feed.session_channels), (3, 2, 1));
}

#[test]
fn overrides_reach_into_tables_and_lists_and_keep_the_digits_of_texts() {
    let sets = ["feed.ring.events=7", "feed.listen=127.0.0.1:0", "upstream.token=1e3", "access.hosts=[\"a\",\"b\"]"];
    let (config, found) = read_with(URL, &[("TIDEGATE_UPSTREAM__BACKOFF__MAX", "7s")], &sets).unwrap();
    assert_eq!(said(&found.errors), [""; 0]);
    assert_eq!(config.feed.ring.events, 7);
    assert_eq!(config.feed.ring.bytes, Config::default().feed.ring.bytes);
    assert_eq!(config.feed.listen, [Listen::Tcp("127.0.0.1:0".parse().unwrap())]);
    assert_eq!(config.upstream.backoff.max, Duration::from_secs(7));
    assert_eq!(config.access.hosts, ["a", "b"]);
    let TokenSource::Literal(token) = config.upstream.token else { panic!("{:?}", config.upstream.token) };
    assert_eq!(token.expose(), "1e3");
}

#[test]
fn variables_of_others_are_left_alone() {
    let environment = [("TIDEGATE_SERVICE_HOST", "10.0.0.1"), ("TIDEGATE_PORT", "tcp://x"), ("OTHER__KEY", "1")];
    let (_, found) = read_with(URL, &environment, &[]).unwrap();
    assert_eq!((found.errors, found.unknown_keys), (vec![], vec![]));
}

#[test]
fn a_variable_that_lacks_an_underscore_is_told_unless_the_configuration_names_it() {
    let told = |text: &str, variables: &[(&str, &str)]| {
        let (config, found) = read_with(text, variables, &[]).unwrap();
        assert_eq!(said(&found.errors), [""; 0]);
        assert_eq!(config.outbox, Config::default().outbox);
        said(&found.unknown_keys)
    };
    assert_eq!(
        told(URL, &[("TIDEGATE_OUTBOX_PATH", "x"), ("TIDEGATE_FEED_MAX_SESSIONS", "5")]),
        [
            "environment TIDEGATE_FEED_MAX_SESSIONS: feed.max_sessions: one underscore parts no section from its key: nobody \
             reads it; write TIDEGATE_FEED__MAX_SESSIONS",
            "environment TIDEGATE_OUTBOX_PATH: outbox.path: one underscore parts no section from its key: nobody reads it; \
             write TIDEGATE_OUTBOX__PATH",
        ]
    );
    // What Kubernetes says of services called tidegate, tidegate-feed and tidegate-admin; what has no key; what is no section's.
    for others in [
        "TIDEGATE_SERVICE_PORT_FEED",
        "TIDEGATE_PORT_7440_TCP_ADDR",
        "TIDEGATE_FEED_SERVICE_HOST",
        "TIDEGATE_FEED_PORT",
        "TIDEGATE_ADMIN_PORT_7441_TCP",
        "TIDEGATE_OUTBOX",
        "TIDEGATE_OUTBOX_",
        "TIDEGATE_PORTS_FILE",
        "OUTBOX_PATH",
    ] {
        assert_eq!(told(URL, &[(others, "x")]), [""; 0], "{others}");
    }
    for named in ["token_env = \"TIDEGATE_UPSTREAM_TOKEN\"\n", "[secrets]\nk = { env = \"TIDEGATE_UPSTREAM_TOKEN\" }\n"]
    {
        assert_eq!(told(&format!("{URL}{named}"), &[("TIDEGATE_UPSTREAM_TOKEN", "x")]), [""; 0], "{named}");
    }
}

#[test]
fn all_errors_come_at_once_each_with_place_and_cure() {
    let text = "[upstream]\nurl = \"ftp://x\"\nconnect_timeout = 10\nbackoff = { min = \"9s\", max = \"3s\" }\n\
                ca_file = \"/no/such.pem\"\n[feed]\n  ring = { events = 0 }\nlisten = [\"localhost\"]\n\
                [outbox]\nwindow = 0\nmax_bytes = \"1TB\"\n[log]\nlevel = \"loud\"\n[ready]\nupstream = \"maybe\"\n";
    assert_eq!(
        errors(text),
        [
            "t.toml:2:1: upstream.url: \"ftp\" is no scheme of a transport; write wss://… or https://…, or ws://… or http://… without TLS",
            "t.toml:3:1: upstream.connect_timeout: 10 is not a duration; write a whole number and its unit (ms, s, m, h, d), from \"10ms\" to \"10m\"",
            "t.toml:4:1: upstream.backoff: min 9s is above max 3s; raise max or lower min",
            "t.toml:5:1: upstream.ca_file: /no/such.pem: no such file; name a readable PEM file, or leave it empty",
            "t.toml:7:12: feed.ring.events: 0 is out of range; write a whole number from 1 to 100000000",
            "t.toml:8:1: feed.listen: \"localhost\" is not an address; write a numeric address and a port, such as 127.0.0.1:7440 or [::1]:7440",
            "t.toml:10:1: outbox.window: 0 is out of range; write a whole number from 1 to 1000000",
            "t.toml:11:1: outbox.max_bytes: \"1TB\" is not a size; write bytes, or a whole number and its unit (KiB, MiB, GiB), from \"1MiB\" to \"1048576GiB\"",
            "t.toml:13:1: log.level: \"loud\" is none of its words; write one of error, warn, info, debug, trace",
            "t.toml:15:1: ready.upstream: \"maybe\" is none of its words; write ignore, required or grace(30s)",
        ]
    );
}

#[test]
fn errors_in_overrides_name_the_variable_or_argument() {
    let environment = [("TIDEGATE_FEED__MAX_SESSIONS", "none")];
    let (_, found) = read_with(URL, &environment, &["outbox.window=0"]).unwrap();
    let said = said(&found.errors);
    assert!(
        said[0].starts_with("environment TIDEGATE_FEED__MAX_SESSIONS: feed.max_sessions: must be a number"),
        "{said:?}"
    );
    assert!(said[1].starts_with("--set outbox.window: outbox.window: 0 is out of range"), "{said:?}");
}

#[test]
fn a_syntax_error_has_its_place() {
    let said = errors("[upstream]\nurl = \n");
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("t.toml:2:7: "), "{said:?}");
    assert!(errors("[feed]\nmax_sessions = 1\nmax_sessions = 2\n")[0].starts_with("t.toml:3:1: duplicate key"));
    assert!(
        matches!(read_with(URL, &[], &["loglevel"]), Err(error) if error.place == Place::Set("loglevel".to_owned()))
    );
}

#[test]
fn a_missing_address_and_a_missing_file_are_told() {
    assert_eq!(
        errors("[feed]\n"),
        ["t.toml:1:1: upstream.url: is missing; write the service's address: url = \"wss://…\""]
    );
    let missing = load(&Sources { file: Some("/no/such/file.toml".into()), ..Sources::default() }).unwrap_err();
    assert!(missing[0].to_string().starts_with("/no/such/file.toml:1:1: No such file"), "{}", missing[0]);
}

#[test]
fn unknown_keys_are_told_with_the_nearest_known_one() {
    let text =
        format!("{URL}ulr = 1\n[outbux]\nx = 1\n[[channels]]\nmatch = \"a\"\npriorty = \"low\"\nconflate = \"1s\"\n");
    let (_, found) = read_with(&text, &[("TIDEGATE_LOG__LEVLE", "info")], &[]).unwrap();
    assert_eq!(said(&found.errors), [""; 0]);
    assert_eq!(
        said(&found.unknown_keys),
        [
            "t.toml:3:1: upstream.ulr: there is no such key; did you mean upstream.url?",
            "t.toml:4:2: outbux: there is no such key; did you mean outbox?",
            "t.toml:8:1: channels[0].priorty: there is no such key; did you mean channels[].priority?",
            "t.toml:9:1: channels[0].conflate: is not supported by this version; leave it out",
            "environment TIDEGATE_LOG__LEVLE: log.levle: there is no such key; did you mean log.level?",
        ]
    );
}

#[test]
fn a_section_that_is_no_table_is_told_as_such() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "upstream = 5\n").unwrap();
    let errors = load(&Sources { file: Some(file.path().into()), ..Sources::default() }).unwrap_err();
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|line| line.contains("must be a table") && line.contains("[upstream]")), "{said:?}");
}

/// Every key of the documented file whose value is a table, also those in comments, each with the header above it.
fn documented_tables() -> Vec<(String, String)> {
    let mut header = String::new();
    let mut tables = Vec::new();
    for line in include_str!("../../../config/tidegate.toml").lines() {
        let line = line.trim_start_matches("# ");
        let bracket = line.trim_end();
        if bracket.starts_with('[') && bracket.ends_with(']') {
            header = bracket.to_owned();
            tables.extend(header.strip_prefix('[').and_then(|name| Some((String::new(), plain_name(name)?))));
        } else if let Some((key, _)) = line.split_once(" = {").filter(|(key, _)| !key.contains([' ', '#'])) {
            tables.push((header.clone(), key.to_owned()));
        }
    }
    tables
}

/// `feed]` is the section `feed`; `[channels]]` is none but a list of them.
fn plain_name(rest: &str) -> Option<String> {
    rest.strip_suffix(']').filter(|name| !name.starts_with('[')).map(str::to_owned)
}

#[test]
fn whatever_is_a_table_is_refused_as_anything_else() {
    let told = |read: Result<(Config, Found), ConfigError>| -> Vec<String> {
        let (_, found) = read.unwrap();
        found.errors.iter().map(ToString::to_string).collect()
    };
    let tables = documented_tables();
    let (sections, keys): (Vec<_>, Vec<_>) = tables.iter().partition(|(header, _)| header.is_empty());
    assert!(sections.len() >= 12 && keys.len() >= 15, "{tables:?}");
    for wrong in ["100", "\"5s\"", "true", "[1]"] {
        for (_, section) in &sections {
            let (_, found) = read_with(&format!("{section} = {wrong}\n"), &[], &[]).unwrap();
            let complaint = format!("{section}: is a section and must be a table");
            let told = said(&found.unknown_keys).iter().any(|unknown| unknown.contains(&complaint));
            assert!(told || !found.errors.is_empty() && section == "secrets", "{section} = {wrong}");
        }
        for (header, key) in &keys {
            let all = told(read_with(&format!("{header}\n{key} = {wrong}\n"), &[], &[]));
            let found = all.iter().any(|error| error.contains(&format!("{key}: ")) && error.contains("t.toml:2:"));
            assert!(found, "{header} {key} = {wrong}: {all:?}");
        }
        for (header, key) in keys.iter().filter(|(header, _)| !header.starts_with("[[")) {
            let path = format!("{}.{key}", header.trim_matches(['[', ']']));
            let raw = wrong.trim_matches('"');
            let all = told(read_with("", &[], &[&format!("{path}={raw}")]));
            assert!(all.iter().any(|error| error.starts_with(&format!("--set {path}: {path}: "))), "{path}: {all:?}");
            let name = format!("TIDEGATE_{}", path.replace('.', "__").to_uppercase());
            let all = told(read_with("", &[(&name, raw)], &[]));
            assert!(all.iter().any(|error| error.starts_with(&format!("environment {name}: {path}: "))), "{all:?}");
        }
    }
    assert_eq!(
        errors(&format!("{URL}[budget]\nrefreshes = 100\n")),
        ["t.toml:4:1: budget.refreshes: must be a table, not a number; write { hour = 60, day = 500 }"]
    );
}

#[test]
fn a_day_that_allows_less_than_an_hour_is_doubtful() {
    let warned = |table: &str| {
        let (_, found) = read_with(&format!("{URL}[budget]\nrepairs = {table}\n"), &[], &[]).unwrap();
        assert_eq!(said(&found.errors), [""; 0]);
        said(&found.warnings)
    };
    assert_eq!(
        warned("{ hour = 10, day = 5 }"),
        ["t.toml:4:1: budget.repairs: a day allows 5, less than an hour (10): hour says nothing; raise day or lower \
             hour (0: as often as needed)"]
    );
    for well in ["{ hour = 10, day = 10 }", "{ hour = 10 }", "{ day = 5 }", "{}"] {
        assert_eq!(warned(well), [""; 0], "{well}");
    }
}

#[test]
fn a_ladder_that_climbs_before_it_has_come_down_is_doubtful() {
    let warned = |keys: &str| {
        let (_, found) = read_with(&format!("{URL}{keys}\n"), &[], &[]).unwrap();
        assert_eq!(said(&found.errors), [""; 0]);
        said(&found.warnings)
    };
    let quick = "climb_after = \"1s\"\nbackoff = { min = \"100ms\", max = \"5s\" }";
    let told = warned(&format!("transports = [\"websocket\", \"sse\"]\n{quick}"));
    assert!(matches!(&told[..], [one] if one.contains("upstream.climb_after: is shorter")), "{told:?}");
    assert_eq!(warned(quick), [""; 0], "there is nothing to climb");
    assert_eq!(warned("transports = [\"websocket\", \"sse\"]"), [""; 0]);
}

#[test]
fn unknown_keys_are_told_along_with_errors() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[upstream]\nulr = \"ws://a/\"\n[outbox]\nwindow = 0\n").unwrap();
    let errors = load(&Sources { file: Some(file.path().into()), ..Sources::default() }).unwrap_err();
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    for wanted in ["outbox.window", "upstream.ulr"] {
        assert!(said.iter().any(|line| line.contains(wanted)), "{wanted} is missing in {said:?}");
    }
}

#[test]
fn free_tables_have_no_unknown_keys() {
    let text = format!("{URL}params = {{ any = {{ deep = [1, true] }} }}\nheaders = {{ \"X-Key\" = \"v\" }}\n");
    let (config, found) = read_with(&text, &[], &[]).unwrap();
    assert_eq!((said(&found.errors), said(&found.unknown_keys)), (vec![], vec![]));
    assert_eq!(serde_json::to_string(&config.upstream.params).unwrap(), r#"{"any":{"deep":[1,true]}}"#);
    assert_eq!(config.upstream.headers[0].0, "X-Key");
    assert_eq!(errors(&format!("{URL}headers = {{ \"X Key\" = \"v\", b = \"é\" }}\n")).len(), 2);
}

#[test]
fn token_sources_exclude_each_other() {
    let said = errors(&format!("{URL}token = \"a\"\ntoken_env = \"B\"\n"));
    assert_eq!(
        said,
        [
            "t.toml:4:1: upstream.token_env: token is given, too; keep one of token, token_file, token_env, token_command, token_fetch"
        ]
    );
    assert_eq!(good(&format!("{URL}token_file = \"/run/x\"\n")).upstream.token, TokenSource::File("/run/x".into()));
}

#[test]
fn a_listener_beyond_loopback_needs_access_control() {
    let open = format!("{URL}[feed]\nlisten = [\"0.0.0.0:7440\"]\n");
    assert!(errors(&open)[0].contains("reachable from outside without access control; set access.mode"));
    let (_, found) = read_with(&format!("{open}[access]\ninsecure = true\n"), &[], &[]).unwrap();
    assert_eq!(found.errors, []);
    assert!(said(&found.warnings)[0].contains("without TLS"));
    let tokens = "[access]\nmode = \"tokens\"\n[[access.tokens]]\nname = \"a\"\ntoken = \"t\"\nread = [\"*\"]\n";
    assert_eq!(good(&format!("{open}{tokens}")).access.mode, AccessMode::Tokens);
    let admin = format!("{URL}[admin]\nlisten = [\"0.0.0.0:7441\"]\nprobes = \"0.0.0.0:7442\"\n{tokens}");
    assert_eq!(errors(&admin).len(), 1, "tokens do not guard the admin listener; probes may be open");
}

#[test]
fn listeners_do_not_share_a_port() {
    let text = format!("{URL}[admin]\nlisten = [\"127.0.0.1:7440\"]\n");
    assert!(errors(&text)[0].contains("127.0.0.1:7440 is listened on twice"));
    good(&format!("{URL}[admin]\nlisten = [\"127.0.0.1:0\"]\n[feed]\nlisten = [\"127.0.0.1:0\"]\n"));
}

#[test]
fn tokens_must_be_usable() {
    let mode = format!("{URL}[access]\nmode = \"tokens\"\n");
    assert!(errors(&mode)[0].contains("access.tokens: is empty: nobody could connect"));
    assert!(errors(&format!("{mode}tokens = [{{ name = \"a\" }}]\n"))[0].contains("has no token"));
    assert!(errors(&format!("{mode}tokens = [{{ token = \"a\" }}]\n"))[0].contains("has no name"));
    let twice = "tokens = [{ name = \"a\", token = \"x\" }, { name = \"a\", token = \"x\" }]\n";
    assert_eq!(errors(&format!("{mode}{twice}")).len(), 2, "same name and same token");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "from-file\n").unwrap();
    let file = format!("{mode}tokens = [{{ name = \"a\", token_file = \"{}\", read = [\"p:*\"] }}]\n", path.display());
    assert_eq!(good(&file).access.tokens[0].token.expose(), "from-file");
}

#[test]
fn origins_and_patterns_are_exact() {
    for wrong in ["*", "null", "https://a/", "app.example.com", "https://*.example.com"] {
        let text = format!("{URL}[access]\norigins = [\"{wrong}\"]\n");
        assert!(errors(&text)[0].contains("is not an origin"), "{wrong}");
    }
    good(&format!("{URL}[access]\norigins = [\"http://localhost:3000\"]\n"));
    for wrong in ["", "a*b", "**"] {
        assert_eq!(errors(&format!("{URL}[[channels]]\nmatch = \"{wrong}\"\n")).len(), 1, "{wrong}");
    }
}

#[test]
fn channel_policies_end_with_one_for_all() {
    let text = format!("{URL}[[channels]]\nmatch = \"a:*\"\npriority = \"high\"\nlinger = \"1m\"\n");
    let config = good(&text);
    assert_eq!(config.channels.len(), 2);
    assert_eq!((config.channels[0].priority, config.channels[0].linger), (Lane::High, Some(Duration::from_secs(60))));
    assert_eq!(config.channels[1].pattern, "*");
    assert_eq!(config.channels[0].stale_after, StaleAfter::Off);
    let (_, found) =
        read_with(&format!("{URL}[[channels]]\nmatch = \"*\"\n[[channels]]\nmatch = \"a\"\n"), &[], &[]).unwrap();
    assert!(said(&found.warnings)[0].starts_with("t.toml:6:1: channels[1].match: \"a\" is never reached"));
}

#[test]
fn a_mapping_names_one_upstream_channel_that_nothing_else_is_called() {
    let policy = |pattern: &str, rest: &str| format!("[[channels]]\nmatch = \"{pattern}\"\n{rest}\n");
    let with = |policies: &[String]| format!("{URL}{}", policies.concat());
    let mapping = policy("service:*", "upstream = \"status\"\nparams = { region = \"eu\" }");
    assert_eq!(good(&with(&[mapping])).channels[0].upstream.as_deref(), Some("status"));
    for wrong in ["st*", "$status"] {
        let said = errors(&with(&[policy("a", &format!("upstream = \"{wrong}\""))]));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("t.toml:5:1: channels[0].upstream: "), "{said:?}");
    }
    let all = policy("*", "upstream = \"status\"");
    let said = errors(&with(std::slice::from_ref(&all)));
    assert!(
        said[0].contains("write a policy with match = \"status\" and neither upstream nor params above"),
        "{said:?}"
    );
    good(&with(&[policy("status", ""), all]));
}

#[test]
fn staleness_is_off_learnt_or_a_duration() {
    let policy = |value: &str| format!("{URL}[[channels]]\nmatch = \"a\"\nstale_after = {value}\n");
    let read = |value| good(&policy(value)).channels[0].stale_after;
    assert_eq!(read("\"off\""), StaleAfter::Off);
    assert_eq!(read("\"learn\""), StaleAfter::Learn);
    assert_eq!(read("\"30s\""), StaleAfter::After(Duration::from_secs(30)));
    assert_eq!(
        errors(&policy("\"maybe\"")),
        [
            "t.toml:5:1: channels[0].stale_after: is neither a duration nor off or learn; write \"off\", \"learn\", or a \
             whole number and its unit, such as \"30s\""
        ]
    );
    assert!(errors(&policy("\"1ms\""))[0].contains("1ms is out of range"), "below the least");
    assert_eq!(errors(&policy("5")).len(), 1, "a number has no unit");
    for value in ["\"learn\"", "\"30s\""] {
        let config = good(&policy(value));
        assert_eq!(good(&show::toml(&config, &[])), config, "{value}");
    }
}

#[test]
fn what_is_shown_loads_again_and_hides_secrets() {
    let text = format!(
        "{URL}headers = {{ \"X-Key\" = \"s3cret\" }}\ntoken = \"s3cret\"\nparams = {{ key = \"s3cret\", market = \"eu\" }}\n\
         [[channels]]\nmatch = \"a\"\nring = {{ events = 5 }}\nparams = {{ account = \"9\", key = \"s3cret\" }}\n\
         [access]\nmode = \"tokens\"\n[[access.tokens]]\nname = \"a\"\ntoken = \"s3cret\"\nread = [\"*\"]\n"
    );
    let config = good(&text);
    let shown = show::toml(&config, &["key".to_owned()]);
    assert!(!shown.contains("s3cret") && shown.contains("***") && shown.contains("market = \"eu\""), "{shown}");

    let default = Config::default();
    assert_eq!(good(&show::toml(&default, &[])), default);
}

#[test]
fn transports_are_words_that_the_dialect_has() {
    let at = |list: &str| format!("[upstream]\nurl = \"https://x\"\ntransports = {list}\n");
    assert_eq!(good(&at("[\"websocket\"]")).upstream.transports, [Transport::WebSocket]);
    for (list, fault) in [
        ("[]", "is empty"),
        ("[\"carrier-pigeon\"]", "\"carrier-pigeon\" is no transport"),
        ("[\"sse\", \"sse\"]", "\"sse\" is named twice"),
    ] {
        let all = errors(&at(list));
        assert!(all.iter().any(|error| error.starts_with("t.toml:3:1: ") && error.contains(fault)), "{list}: {all:?}");
    }
    let strange = load(&Sources {
        file: None,
        environment: Vec::new(),
        sets: vec!["upstream.url=wss://x".into(), "upstream.transports=[\"sse\"]".into()],
    });
    let told = said(&strange.err().unwrap_or_default());
    assert!(told[0].contains("the dialect plain has no sse; name some of: websocket"), "{told:?}");
}

#[test]
fn alerts_are_read_with_all_that_is_wrong_and_hide_their_addresses() {
    let text = format!(
        "{URL}[[alerts]]\nname = \"down\"\nwhen = \"upstream_down > 30s\"\nfor = \"5s\"\nrepeat = \"4h\"\nto = [\"log\", {{ \
         webhook = \"https://hooks.example/canary-1\", headers = {{ X-Key = \"canary-2\" }} }}, {{ command = [\"/bin/true\", \
         \"-x\"] }}]\n[[alerts]]\nname = \"slow\"\nwhen = \"outbox_age > 1m\"\n"
    );
    let config = good(&text);
    assert_eq!(config.alerts.len(), 2);
    let down = &config.alerts[0];
    assert_eq!((down.hold, down.repeat), (Duration::from_secs(5), Some(Duration::from_secs(4 * 3_600))));
    assert_eq!((down.to.len(), config.alerts[1].to.len(), config.alerts[1].repeat), (3, 1, None));
    let shown = show::toml(&config, &[]);
    assert!(!shown.contains("canary"), "{shown}");
    assert_eq!(good(&shown).alerts[1], config.alerts[1], "what is shown loads again");

    let wrong = format!(
        "{URL}[[alerts]]\nname = \"a b\"\nwhen = \"outbox_aeg > 1m\"\nto = [{{ webhok = \"http://x\" }}]\n[[alerts]]\nwhen = \
         \"quality < 50\"\n[[alerts]]\nname = \"x\"\nwhen = \"quality < 50\"\nto = [{{ webhook = \"ftp://x\" }}, {{ command \
         = [] }}]\n[[alerts]]\nname = \"x\"\nwhen = \"quality < 50\"\n"
    );
    let said = errors(&wrong).join("\n");
    for complaint in [
        "t.toml:4:1: alerts[0].name: \"a b\" is no name",
        "t.toml:5:1: alerts[0].when: there is no quantity \"outbox_aeg\"; did you mean outbox_age?",
        "t.toml:6:1: alerts[0].to: has a place with \"webhok\"",
        "t.toml:7:1: alerts[1].name: is missing",
        "alerts[2].to: has a webhook that is no http:// or https:// address",
        "alerts[2].to: has a command that is no list of texts",
        "alerts[3].name: \"x\" is given twice",
    ] {
        assert!(said.contains(complaint), "{complaint}\n{said}");
    }
}
