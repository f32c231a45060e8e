//! Requests from an address: `?channel=a&channel=b&since=…&snapshot=false&types=x,y&on_slow=…&token=…`.
//!
//! The same limits, names and refusals as in [`super::parse`].

use percent_encoding::percent_decode_str;

use super::options::{self, Options};
use super::parse::{
    KNOWN_OPTIONS, RequestLimits, TOKEN_MAX, Wrong, check_count, invalid, named_channel, not_supported, shown, since,
};
use super::{ChannelRequest, Secret, Subscribe};
use crate::protocol::codes::ErrorCode;
use crate::relay::pairs::BadRequest;

/// What a query asks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The subscription, if it names channels.
    pub subscribe: Option<Subscribe>,
    /// `token=`, for a listener that allows it.
    pub token: Option<Secret>,
}

/// Reads the query of `/v1/ws` and `/v1/sse`. `last_event_id` is the header's: a browser that comes back by itself sends it
/// with an unchanged address, so it goes before the address's own `since`.
pub fn parse_query(query: &str, last_event_id: Option<&str>, limits: &RequestLimits) -> Result<Query, BadRequest> {
    read(query, last_event_id, limits).map_err(|wrong| wrong.with(None))
}

/// Reads the query of `/v1/snapshot`: exactly one channel, no pattern.
pub fn parse_snapshot(query: &str) -> Result<(ChannelRequest, Option<Secret>), BadRequest> {
    let one = RequestLimits { request_max: 0, message_max: 0, channels: 1, depth: 0 };
    let query = parse_query(query, None, &one).map_err(|wrong| match wrong.code {
        ErrorCode::LimitExceeded => invalid("a snapshot is of one channel: name one").with(None),
        _ => wrong,
    })?;
    let missing = || invalid("name one channel: ?channel=…").with(None);
    let channel = query.subscribe.and_then(|s| s.channels.into_iter().next()).ok_or_else(missing)?;
    if channel.name.ends_with('*') {
        return Err(invalid("a snapshot is of one channel, not of a pattern").with(None));
    }
    Ok((channel, query.token))
}

fn read(query: &str, last_event_id: Option<&str>, limits: &RequestLimits) -> Result<Query, Wrong> {
    let mut channels = Vec::new();
    let mut token = None;
    let mut from = None;
    let mut snapshot = true;
    let (mut kinds, mut pointers) = (Vec::new(), Vec::new());
    let mut options = Options::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        match name.as_str() {
            "channel" => {
                check_count(channels.len() + 1, limits)?;
                channels.push(named_channel(&value, None)?);
            }
            "since" | "last_event_id" | "lastEventId" => from = Some(since(&value)),
            "snapshot" => snapshot = flag(&name, &value)?,
            "types" => kinds.extend(value.split(',').map(str::to_owned)),
            "fields" => pointers.extend(value.split(',').map(str::to_owned)),
            "on_slow" => options.on_slow = options::on_slow(&value)?,
            "max_rate" => options.max_rate = Some(options::max_rate(&value)?),
            "conflate" => options.conflate = Some(options::conflate(&value)?),
            "token" if value.is_empty() || value.len() > TOKEN_MAX => {
                return Err(invalid(format!("`token` has 1 to {TOKEN_MAX} bytes")));
            }
            "token" => token = Some(Secret::new(value)),
            "format" | "ticket" => return Err(not_supported("the query's", &name)),
            "delta" => options.delta = flag(&name, &value)?,
            known if KNOWN_OPTIONS.contains(&known) => return Err(not_supported("the option", known)),
            other => return Err(invalid(format!("nobody knows the query's `{}`", shown(other)))),
        }
    }
    let since = last_event_id.map(since).or(from);
    options.types = options::types(kinds)?;
    if !pointers.is_empty() {
        options.fields = Some(options::fields(&pointers)?);
    }
    let options = options.checked()?;
    let subscribe = Subscribe { reference: None, channels, since, snapshot, options };
    Ok(Query { subscribe: Some(subscribe).filter(|s| !s.channels.is_empty()), token })
}

fn flag(name: &str, value: &str) -> Result<bool, Wrong> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(invalid(format!("`{name}` must be true or false, not `{}`", shown(other)))),
    }
}

fn decode(text: &str) -> Result<String, Wrong> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| invalid("the query is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: RequestLimits = RequestLimits { request_max: 1024, message_max: 64, channels: 3, depth: 8 };

    fn asked(query: &str) -> Query {
        parse_query(query, None, &LIMITS).unwrap()
    }

    #[test]
    fn a_query_subscribes() {
        let subscribe =
            asked("channel=ticker:BTC%2DUSD&channel=a+b&snapshot=false&types=x,y&types=z&since=k3f9q2-1").subscribe;
        let subscribe = subscribe.unwrap();
        let names: Vec<&str> = subscribe.channels.iter().map(|c| &*c.name).collect();
        assert_eq!(names, ["ticker:BTC-USD", "a b"]);
        assert!(!subscribe.snapshot);
        assert_eq!(subscribe.options.types, ["x".into(), "y".into(), "z".into()]);
        assert_eq!(subscribe.since.as_deref(), Some("k3f9q2-1"));
        assert_eq!(asked("").subscribe, None);
        let params = asked("channel=orders?%7B%22b%22:2,%22a%22:%229%22%7D").subscribe.unwrap();
        assert_eq!(params.channels[0].params.as_deref(), Some(r#"{"a":"9","b":2}"#));
    }

    #[test]
    fn the_header_of_a_returning_browser_goes_first() {
        let query = parse_query("channel=a&lastEventId=k3f9q2-1", Some("k3f9q2-7"), &LIMITS).unwrap();
        assert_eq!(query.subscribe.unwrap().since.as_deref(), Some("k3f9q2-7"));
    }

    #[test]
    fn a_token_is_read_and_never_shown() {
        let query = asked("token=s3cret&channel=a");
        assert_eq!(query.token.as_ref().unwrap().expose(), "s3cret");
        assert!(!format!("{query:?}").contains("s3cret"));
    }

    #[test]
    fn wrong_queries_are_refused_by_name() {
        for (query, code, word) in [
            ("chanel=a", ErrorCode::Invalid, "chanel"),
            ("channel=", ErrorCode::Invalid, "bytes"),
            ("channel=%FF", ErrorCode::Invalid, "UTF-8"),
            ("channel=%0d%0a", ErrorCode::Invalid, "control"),
            ("channel=a&channel=b&channel=c&channel=d", ErrorCode::LimitExceeded, "session_channels"),
            ("snapshot=maybe", ErrorCode::Invalid, "snapshot"),
            ("format=cloudevents", ErrorCode::NotSupported, "format"),
            ("ticket=x", ErrorCode::NotSupported, "ticket"),
            ("conflate=250", ErrorCode::Invalid, "250ms"),
            ("conflate=0s", ErrorCode::Invalid, "`1ms` to `1h`"),
            ("max_rate=10", ErrorCode::Invalid, "`10/s`"),
            ("max_rate=%2B1/s", ErrorCode::Invalid, "`10/s`"),
            ("max_rate=1001/s", ErrorCode::Invalid, "1 to 1000"),
            ("fields=p", ErrorCode::Invalid, "`/price`"),
            ("batch=20ms", ErrorCode::NotSupported, "batch"),
            ("delta=maybe", ErrorCode::Invalid, "delta"),
            ("delta=true&types=a", ErrorCode::Invalid, "types"),
        ] {
            let wrong = parse_query(query, None, &LIMITS).unwrap_err();
            assert_eq!(wrong.code, code, "{query}");
            assert!(wrong.message.contains(word), "{query}: {}", wrong.message);
        }
        assert!(parse_snapshot("channel=a*").is_err());
        assert!(parse_snapshot("").is_err());
        let two = parse_snapshot("channel=a&channel=b").unwrap_err();
        assert_eq!((two.code, two.message.as_str()), (ErrorCode::Invalid, "a snapshot is of one channel: name one"));
        assert_eq!(&*parse_snapshot("channel=a").unwrap().0.name, "a");
    }

    proptest! {
        #[test]
        fn no_query_panics(query in "(channel|since|types|conflate|on_slow|token|snapshot|%|&|=|\\PC|[{}\"?*$+]){0,24}") {
            let _ = parse_query(&query, Some(&query), &LIMITS);
            let _ = parse_snapshot(&query);
        }
    }
}
