//! What the demo tells its audience: the flow as a picture, what to open, what to type.

use std::fmt::Write;
use std::net::SocketAddr;

use super::stage::Mischief;

/// The three addresses of a demo.
pub struct Addresses {
    /// The demo's upstream.
    pub upstream: SocketAddr,
    /// The relay's feed.
    pub feed: SocketAddr,
    /// The relay's admin listener.
    pub admin: SocketAddr,
}

/// The whole text. `keys`: whether single keys work.
pub fn text(addresses: &Addresses, keys: bool) -> String {
    let Addresses { upstream, feed, admin } = addresses;
    let mut text = format!(
        "
  Tidegate demo: one connection up, many apps down, nothing silently lost.

    upstream service             this relay                    your apps
    ws://{upstream:<17}     feed  {feed:<17}     curl, browsers, wscat …
    +----------------+       +----------------------+      +---------------+
    | price:*        | ====> | rings, last values   | ===> | WebSocket     |
    | device:*       |  one  | merged subscriptions |      | SSE           |
    | system, orders | <==== | outbox on disk       | <=== | POST publish  |
    +----------------+       +----------------------+      +---------------+
                             admin {admin}

  See it (in another terminal):
    curl -N 'http://{feed}/v1/sse?channel=price:*'
    curl -N 'http://{feed}/v1/sse?channel=device:*&channel=system'
    websocat 'ws://{feed}/v1/ws?channel=price:BTC-USD'
      or: npx wscat -c 'ws://{feed}/v1/ws?channel=price:BTC-USD'

  Send something (upstream acknowledges orders, and rejects every fourth):
    curl -X POST http://{feed}/v1/publish -H 'content-type: application/json' \\
      -d '{{\"channel\":\"orders\",\"data\":{{\"buy\":1}}}}'

  Look inside:
    curl http://{feed}/v1/status
    curl http://{admin}/metrics

  Make trouble{}:
",
        if keys { " (press the key here, or POST)" } else { "" }
    );
    for (_, name, key, effect) in Mischief::ALL {
        let key = if keys { format!("{}  ", char::from(key)) } else { String::new() };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {key}curl -X POST http://{upstream}/demo/{name:<8} {effect}");
    }
    text.push_str(if keys { "    q  stop (or Ctrl-C)\n" } else { "    Ctrl-C stops it\n" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_names_what_works_and_only_that() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses { upstream: address(7442), feed: address(7440), admin: address(7441) };
        let with_keys = text(&addresses, true);
        let without = text(&addresses, false);
        for text in [&with_keys, &without] {
            assert!(text.contains("curl -N 'http://127.0.0.1:7440/v1/sse?channel=price:*'"), "{text}");
            assert!(Mischief::ALL.iter().all(|(_, name, ..)| text.contains(&format!("7442/demo/{name} "))));
            assert!(text.contains(r#"-d '{"channel":"orders""#), "{text}");
        }
        assert!(with_keys.contains("    d  curl") && !without.contains("    d  curl"));
    }
}
