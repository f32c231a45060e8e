//! Two closed tables: what an `error` may say, and why a connection is closed. README prints them; a test holds them equal.

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal, $http:literal, $retryable:literal;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }
        impl $name {
            /// Every code, in the table's order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            /// The code as clients see it.
            pub fn text(self) -> &'static str { match self { $($name::$variant => $text,)* } }
            /// The HTTP status that carries it.
            pub fn http_status(self) -> u16 { match self { $($name::$variant => $http,)* } }
            /// Whether the same request may succeed later unchanged.
            pub fn retryable(self) -> bool { match self { $($name::$variant => $retryable,)* } }
        }
    };
}

codes! {
    /// Why a request was refused, or a subscription ended. Closed set of `tidegate.v1`.
    ErrorCode {
        /// The request is malformed, or a value is outside its limits.
        Invalid = "invalid", 400, false;
        /// No or wrong credentials.
        Unauthenticated = "unauthenticated", 401, false;
        /// The principal may not do this. Also the answer for what does not exist where existence is a secret.
        Forbidden = "forbidden", 403, false;
        /// No such message, channel state or resource.
        NotFound = "not_found", 404, false;
        /// This HTTP method is not for this path.
        MethodNotAllowed = "method_not_allowed", 405, false;
        /// The same idempotency key with another body, or a second parameter set for one base channel, or a message
        /// already in flight, or a request that another one took back.
        Conflict = "conflict", 409, false;
        /// Larger than a limit in `hello`, or than the room there is for messages at all.
        TooLarge = "too_large", 413, false;
        /// A body that is not `application/json`.
        UnsupportedMediaType = "unsupported_media_type", 415, false;
        /// Known by name, but not available here: this op, option or dialect cannot do it.
        NotSupported = "not_supported", 422, false;
        /// Too many requests, subscriptions or sessions now.
        LimitExceeded = "limit_exceeded", 429, true;
        /// Upstream refused the subscription or ended it.
        UpstreamRefused = "upstream_refused", 502, true;
        /// Upstream did not answer the subscription in time.
        UpstreamTimeout = "upstream_timeout", 504, true;
        /// The link to upstream is not live and the request needs it.
        Unavailable = "unavailable", 503, true;
        /// The relay is draining.
        Draining = "draining", 503, true;
        /// The outbox is at a limit, or the disk is.
        StoreFull = "store_full", 507, true;
        /// The store failed; nothing is accepted until a restart.
        StoreFailed = "store_failed", 503, true;
    }
}

/// Why the relay closes a WebSocket. Below 4500 a client should come back, from 4500 on it should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// 1001: the relay is going away.
    GoingAway,
    /// 1012: the relay restarts; `closing` carries a retry hint.
    Restart,
    /// 4000: the client fell behind and chose `on_slow = disconnect`.
    Slow,
    /// 4001: a write did not complete in time.
    WriteTimeout,
    /// 4002: pings went unanswered.
    PingTimeout,
    /// 4003: too many wrong requests.
    TooManyErrors,
    /// 4100: the token expired; come back with a new one.
    TokenExpired,
    /// 4500: this principal may not be here.
    Forbidden,
    /// 4501: not a WebSocket conversation of `tidegate.v1` (binary or non-UTF-8 frames).
    Protocol,
    /// 4502: no token came in time.
    AuthenticationRequired,
    /// 4503: a request larger than `feed.request_max`.
    TooLarge,
}

impl CloseCode {
    /// Every code, in the table's order.
    pub const ALL: &'static [CloseCode] = &[
        CloseCode::GoingAway,
        CloseCode::Restart,
        CloseCode::Slow,
        CloseCode::WriteTimeout,
        CloseCode::PingTimeout,
        CloseCode::TooManyErrors,
        CloseCode::TokenExpired,
        CloseCode::Forbidden,
        CloseCode::Protocol,
        CloseCode::AuthenticationRequired,
        CloseCode::TooLarge,
    ];

    /// The number on the wire (RFC 6455 section 7.4; 4000-4999 are private use).
    pub fn number(self) -> u16 {
        match self {
            CloseCode::GoingAway => 1001,
            CloseCode::Restart => 1012,
            CloseCode::Slow => 4000,
            CloseCode::WriteTimeout => 4001,
            CloseCode::PingTimeout => 4002,
            CloseCode::TooManyErrors => 4003,
            CloseCode::TokenExpired => 4100,
            CloseCode::Forbidden => 4500,
            CloseCode::Protocol => 4501,
            CloseCode::AuthenticationRequired => 4502,
            CloseCode::TooLarge => 4503,
        }
    }

    /// The reason text of the close frame and of `closing`.
    pub fn reason(self) -> &'static str {
        match self {
            CloseCode::GoingAway => "going_away",
            CloseCode::Restart => "restart",
            CloseCode::Slow => "slow",
            CloseCode::WriteTimeout => "write_timeout",
            CloseCode::PingTimeout => "ping_timeout",
            CloseCode::TooManyErrors => "too_many_errors",
            CloseCode::TokenExpired => "token_expired",
            CloseCode::Forbidden => "forbidden",
            CloseCode::Protocol => "protocol",
            CloseCode::AuthenticationRequired => "authentication_required",
            CloseCode::TooLarge => "too_large",
        }
    }

    /// Whether a client should connect again by itself.
    pub fn reconnect(self) -> bool {
        self.number() < 4500
    }
}
