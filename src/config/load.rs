//! From the sources to a [`Config`]: file < environment (`TIDEGATE_SECTION__KEY`) < `--set section.key=value`.
//!
//! Invariant: all errors are told at once, each with place and cure; a [`Config`] that comes out is valid.
//! Deliberately not here: what the keys are (`sections`), what fits together (`validate`), and the dialect's own errors,
//! which carry their own places.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::places::{Place, Places, line_and_column};
use super::reader::{ConfigError, Override, Reader, without_indices};
use super::{Config, Listen, sections, suggest, validate};
use crate::dialect::{Dialect, Transport};

/// A warning looks like an error but does not stop a start.
pub type Warning = ConfigError;

/// Largest configuration or dialect file, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file; `None`: defaults only.
    pub file: Option<PathBuf>,
    /// Environment variables. Only those of the form `TIDEGATE_SECTION__KEY` matter.
    pub environment: Vec<(String, String)>,
    /// `section.key=value`, later ones win.
    pub sets: Vec<String>,
}

/// A valid configuration, its dialect, and what is doubtful about them.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The dialect that `upstream.dialect` names.
    pub dialect: Arc<Dialect>,
    /// Dangerous or useless settings.
    pub warnings: Vec<Warning>,
    /// Keys that nobody reads: an error for `check`, a warning at start.
    pub unknown_keys: Vec<Warning>,
}

/// Reads and checks everything.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<ConfigError>> {
    let (mut config, mut found) = read(sources).map_err(|error| vec![error])?;
    let dialect = dialect_at(&config.upstream.dialect, &found.dialect_place);
    if let Ok(dialect) = &dialect {
        found.errors.extend(choose_transports(&mut config, dialect, found.transports_place.as_ref()));
        let place = &found.dialect_place;
        let missing = super::credentials::missing(&config, dialect).into_iter();
        found.errors.extend(missing.map(|(message, cure)| ConfigError { place: place.clone(), message, cure }));
        let unused = super::credentials::unused(&config, dialect);
        found.warnings.extend(unused.map(|name| ConfigError {
            place: place.clone(),
            message: format!("secrets.{name}: nothing in the dialect {} names it", dialect.name()),
            cure: "leave it out, or mend its name".to_owned(),
        }));
    }
    let dialect = match dialect {
        Ok(dialect) if found.errors.is_empty() => dialect,
        other => {
            found.errors.extend(other.err().into_iter().flatten());
            // A misspelt key is often why another one is missing: it is told along with the rest.
            found.errors.extend(found.unknown_keys);
            return Err(found.errors);
        }
    };
    Ok(Loaded { config, dialect, warnings: found.warnings, unknown_keys: found.unknown_keys })
}

/// Where a relay with these sources would listen, `(feed, admin)`, as far as they can be read: for commands that talk to it.
/// Nothing else is looked at, so a half-written configuration does not hinder them.
pub fn addresses(sources: &Sources) -> Result<(Vec<Listen>, Vec<SocketAddr>), Vec<ConfigError>> {
    let mut reader = reader_of(sources).map_err(|error| vec![error])?;
    let listeners = sections::listeners(&mut reader);
    if reader.errors.is_empty() { Ok(listeners) } else { Err(reader.errors) }
}

/// Sees that the dialect has the transports; where the configuration names none (no place), the dialect's first is taken.
fn choose_transports(config: &mut Config, dialect: &Dialect, place: Option<&Place>) -> Vec<ConfigError> {
    let Some(place) = place else {
        config.upstream.transports = dialect.transports()[..1].to_vec();
        return Vec::new();
    };
    let known: Vec<&str> = dialect.transports().iter().map(|transport| transport.text()).collect();
    let strange = config.upstream.transports.iter().filter(|transport| !dialect.transports().contains(transport));
    let complaint = |transport: &Transport| ConfigError {
        place: place.clone(),
        message: format!("upstream.transports: the dialect {} has no {}", dialect.name(), transport.text()),
        cure: format!("name some of: {}", known.join(", ")),
    };
    strange.map(complaint).collect()
}

/// What was found wrong.
struct Found {
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
    unknown_keys: Vec<Warning>,
    dialect_place: Place,
    /// `None`: `upstream.transports` is not given.
    transports_place: Option<Place>,
}

/// The configuration without its dialect; `Err` if there is nothing to look at.
fn read(sources: &Sources) -> Result<(Config, Found), ConfigError> {
    let mut reader = reader_of(sources)?;
    let config = sections::read(&mut reader);
    validate::check(&mut reader, &config);
    let mut unknown = unknown_keys(&reader);
    unknown.extend(sources.environment.iter().filter_map(|(name, _)| one_underscore(&reader, name)));
    let mut found = Found {
        unknown_keys: unknown,
        dialect_place: reader.place("upstream.dialect"),
        transports_place: reader.has("upstream.transports").then(|| reader.place("upstream.transports")),
        errors: reader.errors,
        warnings: reader.warnings,
    };
    for complaints in [&mut found.errors, &mut found.warnings, &mut found.unknown_keys] {
        complaints.sort_by(|a, b| a.place.cmp(&b.place));
    }
    Ok((config, found))
}

/// The sources, merged.
fn reader_of(sources: &Sources) -> Result<Reader, ConfigError> {
    let (path, text) = match &sources.file {
        None => (String::new(), String::new()),
        Some(path) => (path.display().to_string(), read_file(path, "-c")?),
    };
    let (environment, environment_overrides) = from_environment(&sources.environment);
    let (sets, set_overrides) = from_sets(&sources.sets)?;
    let merged = Figment::new().merge(Toml::string(&text)).merge(environment).merge(sets);
    let root = merged.extract::<Dict>().map_err(|_| syntax_error(&path, &text))?;
    let mut overrides = environment_overrides;
    overrides.extend(set_overrides);
    Ok(Reader {
        root,
        path,
        places: Places::find(&text),
        overrides,
        known: BTreeSet::new(),
        errors: Vec::new(),
        warnings: Vec::new(),
    })
}

fn read_file(path: &Path, option: &str) -> Result<String, ConfigError> {
    let wrong = |message: String, cure: &str| ConfigError {
        place: Place::File { path: path.display().to_string(), line: 1, column: 1 },
        message,
        cure: cure.to_owned(),
    };
    let size =
        std::fs::metadata(path).map_err(|error| wrong(error.to_string(), &format!("see what {option} names")))?;
    if size.len() > FILE_MAX {
        return Err(wrong(format!("is larger than {FILE_MAX} bytes"), "name the right file"));
    }
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string(), "make it readable"))?;
    String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8".to_owned(), "save it as UTF-8"))
}

/// The parser's first complaint: what comes after it cannot be told apart.
fn syntax_error(path: &str, text: &str) -> ConfigError {
    let error = toml::from_str::<toml::Table>(text).err();
    let (line, column) =
        error.as_ref().and_then(toml::de::Error::span).map_or((1, 1), |s| line_and_column(text, s.start));
    let message =
        error.map_or("the sources do not fit together".to_owned(), |error| error.message().replace('\n', " "));
    let place = Place::File { path: path.to_owned(), line, column };
    ConfigError { place, message, cure: "write valid TOML (https://toml.io)".to_owned() }
}

/// Values beside the file, as Figment wants them.
struct Layer {
    name: &'static str,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Layer {
    fn insert(&mut self, path: &str, raw: &str) {
        // Never fails: what is no number, list or table is a text.
        let value = raw.parse().unwrap_or_else(|_| Value::from(raw));
        insert(&mut self.values, path, value);
    }
}

fn insert(members: &mut Dict, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            members.insert(path.to_owned(), value);
        }
        Some((head, rest)) => {
            let inner = members.entry(head.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if !matches!(inner, Value::Dict(..)) {
                *inner = Value::from(Dict::new());
            }
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

type Overrides = BTreeMap<String, Override>;

/// Variables with two underscores after the first word; others belong to somebody else (Kubernetes gives every container
/// `TIDEGATE_SERVICE_HOST` once a service is called tidegate); but see [`one_underscore`].
fn from_environment(variables: &[(String, String)]) -> (Layer, Overrides) {
    let mut layer = Layer { name: "environment", values: Dict::new() };
    let mut overrides = Overrides::new();
    for (name, raw) in variables {
        let Some(key) = name.strip_prefix("TIDEGATE_").filter(|key| key.contains("__")) else { continue };
        let path = key.to_ascii_lowercase().replace("__", ".");
        layer.insert(&path, raw);
        overrides.insert(path, Override { raw: raw.clone(), place: Place::Environment(name.clone()) });
    }
    (layer, overrides)
}

fn from_sets(sets: &[String]) -> Result<(Layer, Overrides), ConfigError> {
    let mut layer = Layer { name: "--set", values: Dict::new() };
    let mut overrides = Overrides::new();
    for set in sets {
        let Some((path, raw)) = set.split_once('=').filter(|(path, _)| path.contains('.')) else {
            let place = Place::Set(set.split('=').next().unwrap_or_default().to_owned());
            let message = "is not of the form section.key=value".to_owned();
            return Err(ConfigError { place, message, cure: "write for example --set log.level=debug".to_owned() });
        };
        let path = path.trim();
        layer.insert(path, raw);
        overrides.insert(path.to_owned(), Override { raw: raw.to_owned(), place: Place::Set(path.to_owned()) });
    }
    Ok((layer, overrides))
}

/// The dialect of that name, or in the file of that path. All its errors at once, each with its own place.
pub fn dialect(name: &str) -> Result<Arc<Dialect>, Vec<ConfigError>> {
    dialect_at(name, &Place::Nowhere)
}

/// The same; `place` is where it is named.
fn dialect_at(name: &str, place: &Place) -> Result<Arc<Dialect>, Vec<ConfigError>> {
    if let Some(found) = Dialect::builtin(name) {
        return Ok(found);
    }
    if !name.contains(['/', '.']) {
        let all: Vec<&str> = Dialect::builtins().collect();
        let near = suggest::nearest(name, all.iter().copied());
        let message = format!("upstream.dialect: there is no built-in dialect \"{name}\"");
        let cure = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write one of {}, or the path of a file", all.join(", ")),
        };
        return Err(vec![ConfigError { place: place.clone(), message, cure }]);
    }
    let unreadable = |error: ConfigError| {
        let message = format!("upstream.dialect: {name}: {}", error.message);
        vec![ConfigError { place: place.clone(), message, cure: error.cure }]
    };
    let text = read_file(Path::new(name), "upstream.dialect").map_err(unreadable)?;
    let told = |error: crate::dialect::schema::LoadError| ConfigError {
        place: Place::File { path: error.origin.to_string(), line: error.line, column: error.column },
        message: error.reason,
        cure: "see docs/dialects.md".to_owned(),
    };
    Dialect::parse(name, &text).map(Arc::new).map_err(|errors| errors.into_iter().map(told).collect())
}

/// Keys of the design that this version does not have.
const NOT_SUPPORTED: [&str; 2] = ["channels[].conflate", "channels[].conflict"];

fn unknown_keys(r: &Reader) -> Vec<Warning> {
    let mut given = Vec::new();
    for (name, value) in &r.root {
        leaves(name, value, &r.known, &mut given);
    }
    let sections = r.known.iter().filter_map(|key| key.split(['.', '[']).next());
    let words: Vec<&str> = sections.chain(r.known.iter().map(String::as_str)).collect();
    let complaint = |key: String| {
        let plain = without_indices(&key);
        let near = suggest::nearest(&plain, words.iter().copied());
        let (message, cure) = match near {
            _ if NOT_SUPPORTED.contains(&plain.as_str()) => {
                ("is not supported by this version", "leave it out".to_owned())
            }
            Some(near) if near == plain => {
                ("is a section and must be a table", format!("write [{plain}] and its keys below"))
            }
            Some(near) => ("there is no such key", format!("did you mean {near}?")),
            None => ("there is no such key", "leave it out".to_owned()),
        };
        Warning { place: r.place(&key), message: format!("{key}: {message}"), cure }
    };
    given.into_iter().map(complaint).collect()
}

/// A variable that would be a key if the underscore after its section were two. Not those that the configuration itself names
/// (`token_env = "TIDEGATE_UPSTREAM_TOKEN"`).
fn one_underscore(r: &Reader, name: &str) -> Option<Warning> {
    let (section, key) = name.strip_prefix("TIDEGATE_").filter(|rest| !rest.contains("__"))?.split_once('_')?;
    let path = format!("{section}.{key}").to_ascii_lowercase();
    if !r.known.contains(&path) || r.root.values().any(|value| says(value, name)) {
        return None;
    }
    let place = Place::Environment(name.to_owned());
    let message = format!("{path}: one underscore parts no section from its key: nobody reads it");
    Some(Warning { place, message, cure: format!("write TIDEGATE_{section}__{key}") })
}

/// Whether that text stands anywhere in a value.
fn says(value: &Value, text: &str) -> bool {
    match value {
        Value::String(_, said) => said == text,
        Value::Dict(_, members) => members.values().any(|member| says(member, text)),
        Value::Array(_, elements) => elements.iter().any(|element| says(element, text)),
        _ => false,
    }
}

/// Keys that nobody asked for. A known table whose members nobody asked for (params, headers) is free in form.
fn leaves(path: &str, value: &Value, known: &BTreeSet<String>, out: &mut Vec<String>) {
    let plain = without_indices(path);
    let inner = format!("{plain}.");
    let has_inner = known.range(inner.clone()..).next().is_some_and(|key| key.starts_with(&inner));
    let elements = format!("{plain}[].");
    let has_elements = known.range(elements.clone()..).next().is_some_and(|key| key.starts_with(&elements));
    match value {
        Value::Dict(_, members) if has_inner => {
            for (name, value) in members {
                leaves(&format!("{path}.{name}"), value, known, out);
            }
        }
        Value::Array(_, tables) if has_elements => {
            for (index, table) in tables.iter().enumerate() {
                let Some(members) = table.as_dict() else { continue };
                for (name, value) in members {
                    leaves(&format!("{path}[{index}].{name}"), value, known, out);
                }
            }
        }
        _ if known.contains(&plain) => {}
        _ => out.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests;
