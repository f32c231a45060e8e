//! The dialects that are compiled in, by name.

/// Name and file, in alphabetical order.
pub(super) const ALL: &[(&str, &str)] = &[
    ("actioncable", include_str!("../../../config/dialects/actioncable.toml")),
    ("binance", include_str!("../../../config/dialects/binance.toml")),
    ("binance-user-data", include_str!("../../../config/dialects/binance-user-data.toml")),
    ("bitfinex-v2", include_str!("../../../config/dialects/bitfinex-v2.toml")),
    ("cdp", include_str!("../../../config/dialects/cdp.toml")),
    ("centrifugo", include_str!("../../../config/dialects/centrifugo.toml")),
    ("coinbase-advanced", include_str!("../../../config/dialects/coinbase-advanced.toml")),
    ("coinbase-exchange", include_str!("../../../config/dialects/coinbase-exchange.toml")),
    ("discord", include_str!("../../../config/dialects/discord.toml")),
    ("eth-jsonrpc", include_str!("../../../config/dialects/eth-jsonrpc.toml")),
    ("graphql-transport-ws", include_str!("../../../config/dialects/graphql-transport-ws.toml")),
    ("homeassistant", include_str!("../../../config/dialects/homeassistant.toml")),
    ("jupyter", include_str!("../../../config/dialects/jupyter.toml")),
    ("kraken-v2", include_str!("../../../config/dialects/kraken-v2.toml")),
    ("kraken-v2-private", include_str!("../../../config/dialects/kraken-v2-private.toml")),
    ("mercure", include_str!("../../../config/dialects/mercure.toml")),
    ("nchan", include_str!("../../../config/dialects/nchan.toml")),
    ("phoenix", include_str!("../../../config/dialects/phoenix.toml")),
    ("plain", include_str!("../../../config/dialects/plain.toml")),
    ("pusher", include_str!("../../../config/dialects/pusher.toml")),
    ("signalr", include_str!("../../../config/dialects/signalr.toml")),
    ("slack", include_str!("../../../config/dialects/slack.toml")),
    ("socketio", include_str!("../../../config/dialects/socketio.toml")),
];
