//! The files that bring Tidegate into service: systemd units, container, Kubernetes, Prometheus. Each is given to the tool
//! that will read it, as far as this machine has it; what they name of ours must exist.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tidegate::config::load::{Sources, load};
use tidegate::metrics::Metrics;

/// systemd's exposure level (0 to 10) above which a unit is not hardened enough, times ten.
const EXPOSURE_TENTHS: &str = "15";

fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a tool; `None`, and a SKIP line that `tests/run` counts, where it is not installed.
fn tool(test: &str, name: &str, package: &str, arguments: &[&str], dir: &Path) -> Option<Output> {
    match Command::new(name).args(arguments).current_dir(dir).output() {
        Ok(output) => Some(output),
        Err(_) => {
            let line = format!("SKIP deploy::{test}: {name} is not installed (package {package})\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
            None
        }
    }
}

fn succeeds(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Copies of the units with a binary that exists, the template as an instance.
fn units() -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let names = [("tidegate.service", "tidegate.service"), ("tidegate@.service", "tidegate@orders.service")];
    let mut paths = Vec::new();
    for (name, instance) in names {
        let unit = text(&format!("systemd/{name}")).replace("/usr/bin/tidegate", env!("CARGO_BIN_EXE_tidegate"));
        std::fs::write(dir.path().join(name), &unit).unwrap();
        std::fs::write(dir.path().join(instance), &unit).unwrap();
        paths.push(dir.path().join(instance).display().to_string());
    }
    (dir, paths)
}

#[test]
fn systemd_accepts_the_units() {
    let (dir, paths) = units();
    for path in &paths {
        let Some(output) = tool("systemd_verify", "systemd-analyze", "systemd", &["verify", path], dir.path()) else {
            return;
        };
        succeeds(&output);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "systemd has something to say about {path}");
    }
}

#[test]
fn the_units_are_hardened() {
    let (dir, paths) = units();
    let threshold = format!("--threshold={EXPOSURE_TENTHS}");
    for path in &paths {
        let arguments = ["security", "--offline=true", "--no-pager", &threshold, path];
        let Some(output) = tool("systemd_security", "systemd-analyze", "systemd", &arguments, dir.path()) else {
            return;
        };
        succeeds(&output);
    }
}

#[test]
fn the_units_differ_only_by_instance() {
    let plain = text("systemd/tidegate.service");
    let template = text("systemd/tidegate@.service");
    let body = |text: &str| text[text.find("[Unit]").unwrap()..].to_owned();
    let alike = body(&template)
        .replace("real-time services: %i", "real-time services")
        .replace("/etc/tidegate/%i.toml", "/etc/tidegate/tidegate.toml")
        .replace("tidegate/%i", "tidegate");
    assert_eq!(body(&plain), alike);
}

#[test]
fn promtool_accepts_scrape_rules_and_their_tests() {
    let dir = project().join("deploy/prometheus");
    for arguments in
        [["check", "config", "scrape.yaml"], ["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]]
    {
        let Some(output) = tool("promtool", "promtool", "prometheus", &arguments, &dir) else { return };
        succeeds(&output);
    }
}

/// Words that begin with `tidegate_`, as rules and documents name metrics.
fn metric_names(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c)).filter(|w| w.starts_with("tidegate_")).map(str::to_owned).collect()
}

#[test]
fn alerts_are_about_metrics_that_exist() {
    let known: BTreeSet<String> = Metrics::new().names().into_iter().collect();
    let named = metric_names(&text("deploy/prometheus/alerts.yaml"));
    assert!(named.len() > 10);
    for name in named {
        let base = name.trim_end_matches("_bucket").trim_end_matches("_count").trim_end_matches("_sum");
        assert!(known.contains(base), "alerts.yaml names {name}, which is no metric");
    }
}

#[test]
fn every_alert_is_explained() {
    let rules = text("deploy/prometheus/alerts.yaml");
    let page = text("docs/alerting.md");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let explained: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(alerts, explained, "docs/alerting.md has one section per alert, in the order of alerts.yaml");
}

/// `TIDEGATE_SECTION__KEY` with its value, however a file writes it.
fn variables(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let Some(at) = line.find("TIDEGATE_").filter(|at| line[*at..].contains("__")) else { continue };
        let (name, value) = line[at..].split_once(['=', ':']).unwrap_or_else(|| panic!("{line}"));
        out.push((name.to_owned(), value.trim().trim_matches('"').to_owned()));
    }
    out
}

/// Loads a configuration as the process would, and finds nothing unknown in it.
fn loads(what: &str, file: Option<PathBuf>, environment: Vec<(String, String)>, sets: &[&str]) {
    let sets = sets.iter().map(|set| (*set).to_owned()).collect();
    let loaded = load(&Sources { file, environment, sets }).unwrap_or_else(|errors| panic!("{what}: {errors:?}"));
    assert_eq!(loaded.unknown_keys, [], "{what}");
}

#[test]
fn variables_in_the_files_are_keys_of_the_configuration() {
    let url = "upstream.url=wss://example.com/";
    for path in ["systemd/tidegate.service", "systemd/tidegate@.service", "deploy/compose.yaml"] {
        let found = variables(&text(path));
        assert!(!found.is_empty(), "{path} sets nothing");
        loads(path, None, found, &[url]);
    }
}

#[test]
fn the_sidecar_s_configuration_loads_and_its_probes_exist() {
    let yaml = text("deploy/kubernetes-sidecar.yaml");
    let begin = yaml.find("tidegate.toml: |\n").unwrap() + "tidegate.toml: |\n".len();
    let end = begin + yaml[begin..].find("\n---").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tidegate.toml");
    std::fs::write(&path, yaml[begin..end].lines().map(|line| format!("{}\n", line.trim_start())).collect::<String>())
        .unwrap();
    loads("deploy/kubernetes-sidecar.yaml", Some(path), Vec::new(), &[]);
    for probe in ["/startupz", "/livez", "/readyz"] {
        assert!(yaml.contains(&format!("path: {probe}")), "no probe {probe}");
    }
    assert!(yaml.contains("restartPolicy: Always"), "a native sidecar is an init container that keeps running");
}

/// Files outside `src` that `include_str!` compiles in: `(source, file)`, relative to the project.
fn compiled_in() -> Vec<(String, String)> {
    let mut folders = vec![project().join("src")];
    let mut out = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let named = text.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next());
            for name in named.filter(|_| !path.ends_with("tests.rs")) {
                let file = path.parent().unwrap().join(name).canonicalize().unwrap();
                let inside = |path: &Path| path.strip_prefix(project()).unwrap().display().to_string();
                out.push((inside(&path), inside(&file)));
            }
        }
    }
    assert!(!out.is_empty(), "the documented configuration, at least, is compiled in");
    out
}

#[test]
fn the_image_is_built_from_what_is_there_and_runs_as_a_numeric_user() {
    let dockerfile = text("deploy/Dockerfile");
    for line in dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        for source in &words[..words.len() - 1] {
            assert!(project().join(source).exists(), "the image copies {source}, which is not there");
            let ignored = text(".dockerignore");
            assert!(ignored.lines().any(|line| line == format!("!{source}")), ".dockerignore hides {source}");
        }
    }
    for (file, included) in compiled_in() {
        let top = included.split('/').next().unwrap();
        assert!(
            dockerfile.contains(&format!("COPY {top} {top}\n")),
            "{file} compiles in {included}, which the image has not"
        );
    }
    let user = dockerfile.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "USER {user}");
    assert!(dockerfile.contains("STOPSIGNAL SIGTERM"));
    let health = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["health", "--help"]).output().unwrap();
    assert!(health.status.success() && dockerfile.contains(r#"CMD ["/usr/bin/tidegate", "health"]"#));
}
