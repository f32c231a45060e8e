//! `[[alerts]]`: when people are to be told, and how.
//!
//! A condition is one comparison of one quantity with one value: `upstream_down > 30s`. Quantities are a closed set
//! ([`Quantity`]); each has a kind of value. Invariant: an alert that is read here can be judged and delivered.

use std::time::Duration;

use figment::value::{Dict, Value};
use serde_json::json;

use super::reader::Reader;
use super::{size, suggest};
use crate::protocol::duration;
use crate::protocol::request::Secret;

/// Alerts of one configuration: each is a metric's series.
pub const ALERTS_MAX: usize = 64;
/// Places that one alert is told to.
pub const TARGETS_MAX: usize = 8;
/// Longest name.
const NAME_MAX: usize = 64;
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// What a value is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A duration; judged in seconds.
    Time,
    /// A number.
    Number,
    /// A size; judged in bytes.
    Bytes,
    /// A percentage; judged as a part of one.
    Share,
}

impl Unit {
    /// The unit's name beside a value.
    pub fn text(self) -> &'static str {
        match self {
            Unit::Time => "seconds",
            Unit::Number => "count",
            Unit::Bytes => "bytes",
            Unit::Share => "share",
        }
    }
}

macro_rules! quantities {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $unit:ident;)*) => {
        /// What can be compared.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Quantity { $($(#[$doc])* $variant,)* }
        impl Quantity {
            /// Every one, in the order of the documentation.
            pub const ALL: &'static [Quantity] = &[$(Quantity::$variant,)*];
            /// Its name.
            pub fn text(self) -> &'static str { match self { $(Quantity::$variant => $text,)* } }
            /// What its values are written in.
            pub fn unit(self) -> Unit { match self { $(Quantity::$variant => Unit::$unit,)* } }
        }
    };
}

quantities! {
    /// How long the link has not been live; 0 while it is.
    UpstreamDown = "upstream_down", Time;
    /// The score of upstream's quality, 0 to 100.
    Quality = "quality", Number;
    /// Connections lost in the last hour.
    Reconnects = "reconnects", Number;
    /// The longest usual round trip.
    Rtt = "rtt", Time;
    /// The difference between our clock and upstream's, either way.
    ClockSkew = "clock_skew", Time;
    /// How long a write to upstream has waited for the network.
    WriteStall = "write_stall", Time;
    /// Refused credentials in the last hour.
    Denied = "denied", Number;
    /// Connections in the last hour that ended because one side broke the protocol (close codes 1002, 1003, 1007, 1010, too).
    ProtocolErrors = "protocol_errors", Number;
    /// Messages from upstream in the last hour that the dialect did not understand.
    NotUnderstood = "not_understood", Number;
    /// Channels that are silent for longer than their limit.
    StaleChannels = "stale_channels", Number;
    /// Their part of all watched channels.
    StaleShare = "stale_share", Share;
    /// Gaps told in the last hour.
    Gaps = "gaps", Number;
    /// The age of the oldest message that is not settled.
    OutboxAge = "outbox_age", Time;
    /// Messages that are not settled.
    OutboxDepth = "outbox_depth", Number;
    /// Messages dead-lettered in the last hour.
    DeadLetters = "dead_letters", Number;
    /// 1 once the store failed.
    StoreFailed = "store_failed", Number;
    /// Free bytes of the file system under the store.
    DiskFree = "disk_free", Bytes;
    /// The part of a `[budget]` allowance that is spent, of the one that is spent the most: over all or of one principal.
    BudgetSpent = "budget_spent", Share;
    /// Jumps of our clock in the last hour.
    ClockJumps = "clock_jumps", Number;
    /// Sessions connected.
    Sessions = "sessions", Number;
}

/// How a quantity is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

/// `when`.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// What.
    pub quantity: Quantity,
    /// How.
    pub comparison: Comparison,
    /// With what, in the quantity's unit.
    pub bound: f64,
    /// As it was written, one space between the parts.
    pub text: String,
}

impl Condition {
    /// Whether it holds for a value.
    pub fn holds(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Above => value > self.bound,
            Comparison::AtLeast => value >= self.bound,
            Comparison::Below => value < self.bound,
            Comparison::AtMost => value <= self.bound,
        }
    }

    /// Reads one. An error is what is wrong and how to mend it.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [name, sign, value] = parts[..] else {
            let cure = "write a quantity, one of > >= < <=, and a value, with spaces between: \"upstream_down > 30s\"";
            return Err((format!("\"{text}\" is not a comparison"), cure.to_owned()));
        };
        let Some(quantity) = Quantity::ALL.iter().copied().find(|quantity| quantity.text() == name) else {
            let all: Vec<&str> = Quantity::ALL.iter().map(|quantity| quantity.text()).collect();
            let cure = match suggest::nearest(name, all.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("write one of {}", all.join(", ")),
            };
            return Err((format!("there is no quantity \"{name}\""), cure));
        };
        let comparison = match sign {
            ">" => Comparison::Above,
            ">=" => Comparison::AtLeast,
            "<" => Comparison::Below,
            "<=" => Comparison::AtMost,
            _ => return Err((format!("\"{sign}\" compares nothing"), "write one of > >= < <=".to_owned())),
        };
        let (bound, form) = match quantity.unit() {
            Unit::Time => (duration::parse(value).map(|d| d.as_secs_f64()), "a duration such as 30s"),
            Unit::Number => (value.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0), "a number such as 50"),
            Unit::Bytes => (size::parse(value).map(|n| n as f64), "a size such as 1GiB"),
            Unit::Share => {
                let percent = value.strip_suffix('%').and_then(|n| n.parse().ok());
                (percent.filter(|n: &f64| (0.0..=100.0).contains(n)).map(|n| n / 100.0), "a percentage such as 10%")
            }
        };
        match bound {
            Some(bound) => Ok(Condition { quantity, comparison, bound, text: parts.join(" ") }),
            None => Err((format!("\"{value}\" is no value of {name}"), format!("write {form}"))),
        }
    }
}

/// Where an alert is told.
#[derive(Debug, Clone, PartialEq)]
pub enum AlertTarget {
    /// The log.
    Log,
    /// An HTTP POST.
    Webhook {
        /// Where to; often a secret itself.
        url: Secret,
        /// More header fields; values may be secret.
        headers: Vec<(String, Secret)>,
    },
    /// A program and its arguments, no shell; the message is its standard input.
    Command(Vec<String>),
}

/// One of `[[alerts]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertConfig {
    /// Its name, unique.
    pub name: String,
    /// When it fires.
    pub when: Condition,
    /// How long that must hold first.
    pub hold: Duration,
    /// How long it must not hold before the alert is resolved.
    pub resolve_after: Duration,
    /// Told again this long after the last time while it fires.
    pub repeat: Option<Duration>,
    /// Where it is told.
    pub to: Vec<AlertTarget>,
}

/// All of them.
pub(super) fn read(r: &mut Reader) -> Vec<AlertConfig> {
    let count = r.tables("alerts");
    if count > ALERTS_MAX {
        r.complain("alerts", format!("are more than {ALERTS_MAX}"), "leave some out");
    }
    let mut out: Vec<AlertConfig> = Vec::new();
    for index in 0..count.min(ALERTS_MAX) {
        let table = format!("alerts[{index}]");
        let Some(alert) = alert(r, &table) else { continue };
        if out.iter().any(|other| other.name == alert.name) {
            r.complain(
                &format!("{table}.name"),
                format!("\"{}\" is given twice", alert.name),
                "give each a name of its own",
            );
        }
        out.push(alert);
    }
    out
}

fn alert(r: &mut Reader, table: &str) -> Option<AlertConfig> {
    let key = |name: &str| format!("{table}.{name}");
    let name = r.optional_text(&key("name"));
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match &name {
        None => r.complain(&key("name"), "is missing", "write name = \"upstream-down\""),
        Some(name) if name.len() > NAME_MAX || !name.chars().all(legal) => {
            let cure = format!("write at most {NAME_MAX} letters, digits, -, _ and .");
            r.complain(&key("name"), format!("\"{name}\" is no name"), cure);
        }
        Some(_) => {}
    }
    let when = match r.optional_text(&key("when")).map(|text| Condition::parse(&text)) {
        Some(Ok(condition)) => Some(condition),
        Some(Err((message, cure))) => {
            r.complain(&key("when"), message, cure);
            None
        }
        None => {
            r.complain(&key("when"), "is missing", "write when = \"upstream_down > 30s\"");
            None
        }
    };
    let zero = Duration::ZERO;
    let hold = r.duration(&key("for"), zero, zero..=MONTH);
    let resolve_after = r.duration(&key("resolve_after"), Duration::from_secs(30), zero..=MONTH);
    let repeat = r.optional_duration(&key("repeat"), Duration::from_secs(10)..=MONTH);
    let to = targets(r, &key("to"));
    Some(AlertConfig { name: name?, when: when?, hold, resolve_after, repeat, to })
}

fn targets(r: &mut Reader, key: &str) -> Vec<AlertTarget> {
    let given = match r.value(key) {
        None => return vec![AlertTarget::Log],
        Some(Value::Array(_, elements)) => elements,
        Some(one) => vec![one],
    };
    if given.len() > TARGETS_MAX {
        r.complain(key, format!("has more than {TARGETS_MAX} places"), "leave some out");
    }
    let mut out = Vec::new();
    for element in given.iter().take(TARGETS_MAX) {
        match target(element) {
            Ok(target) => out.push(target),
            Err(message) => {
                let cure = "write \"log\", { webhook = \"https://…\" }, { webhook_file = \"…\" }, { webhook_env = \"…\" } or \
                            { command = [\"/path\", \"argument\"] }";
                r.complain(key, message, cure);
            }
        }
    }
    out
}

fn target(value: &Value) -> Result<AlertTarget, String> {
    if value.as_str() == Some("log") {
        return Ok(AlertTarget::Log);
    }
    let members = value.as_dict().ok_or("has a place that is neither \"log\" nor a table")?;
    let texts = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|element| element.as_str().map(str::to_owned)).collect()
    };
    if let Some(command) = members.get("command") {
        only(members, &["command"])?;
        let command = texts(command).filter(|command| command.first().is_some_and(|program| !program.is_empty()));
        return command.map(AlertTarget::Command).ok_or_else(|| "has a command that is no list of texts".to_owned());
    }
    only(members, &["webhook", "webhook_file", "webhook_env", "headers"])?;
    let url = address(members)?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.contains(char::is_whitespace)) {
        return Err("has a webhook that is no http:// or https:// address".to_owned());
    }
    let mut headers = Vec::new();
    for (name, value) in members.get("headers").and_then(Value::as_dict).into_iter().flatten() {
        let value = value.as_str().ok_or_else(|| format!("has a header {name} that is no text"))?;
        headers.push((name.clone(), Secret::new(value)));
    }
    Ok(AlertTarget::Webhook { url: Secret::new(url), headers })
}

/// The webhook's address, written there or read now: a change of the file or variable takes effect with the next reload.
fn address(members: &Dict) -> Result<String, String> {
    let text = |name: &str| members.get(name).map(|value| value.as_str().unwrap_or_default().to_owned());
    let mut found = Vec::new();
    found.extend(text("webhook").map(Ok));
    found.extend(
        text("webhook_file")
            .map(|path| std::fs::read_to_string(&path).map_err(|error| format!("has a webhook_file {path}: {error}"))),
    );
    found.extend(text("webhook_env").map(|name| {
        std::env::var(&name).map_err(|_| format!("has a webhook_env {name}: no such environment variable"))
    }));
    match found.len() {
        1 => found.remove(0).map(|url| url.trim().to_owned()),
        0 => Err("has a place that is neither webhook nor command".to_owned()),
        _ => Err("has a place with several addresses".to_owned()),
    }
}

fn only(members: &Dict, known: &[&str]) -> Result<(), String> {
    match members.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("has a place with \"{name}\", which is no key beside {}", known[0])),
        None => Ok(()),
    }
}

/// As people see it; addresses and header values may be secret.
pub(super) fn show(alert: &AlertConfig, hidden: &str) -> serde_json::Value {
    let target = |target: &AlertTarget| match target {
        AlertTarget::Log => json!("log"),
        AlertTarget::Webhook { headers, .. } => {
            let headers: serde_json::Map<_, _> =
                headers.iter().map(|(name, _)| (name.clone(), json!(hidden))).collect();
            json!({"webhook": format!("https://{hidden}"), "headers": headers})
        }
        AlertTarget::Command(command) => json!({"command": command}),
    };
    json!({
        "name": alert.name,
        "when": alert.when.text,
        "for": duration::write(alert.hold),
        "resolve_after": duration::write(alert.resolve_after),
        "repeat": alert.repeat.map_or("off".to_owned(), duration::write),
        "to": alert.to.iter().map(target).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_hold() {
        let holds = |text: &str, value: f64| Condition::parse(text).unwrap().holds(value);
        assert!(holds("upstream_down > 30s", 30.1) && !holds("upstream_down > 30s", 30.0));
        assert!(holds("quality  <  50", 49.9) && !holds("quality < 50", 50.0));
        assert!(holds("disk_free <= 1GiB", 1_073_741_824.0));
        assert!(holds("stale_share >= 10%", 0.1));
        assert_eq!(Condition::parse("quality  <  50").unwrap().text, "quality < 50");
    }

    #[test]
    fn what_is_wrong_with_a_condition_is_said_with_the_cure() {
        let wrong = |text: &str| Condition::parse(text).unwrap_err();
        assert!(wrong("upstream_down>30s").1.contains("spaces"));
        assert_eq!(
            wrong("outbox_aeg > 1m"),
            ("there is no quantity \"outbox_aeg\"".into(), "did you mean outbox_age?".into())
        );
        assert!(wrong("zzzzzzzz > 1").1.starts_with("write one of upstream_down, quality"));
        assert_eq!(wrong("quality = 3").1, "write one of > >= < <=");
        assert_eq!(wrong("outbox_age > 60").1, "write a duration such as 30s");
        assert_eq!(wrong("stale_share > 0.5").1, "write a percentage such as 10%");
        assert_eq!(wrong("quality < nan").1, "write a number such as 50");
    }
}
