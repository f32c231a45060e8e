//! Who may read and write which channels, PURE.
//!
//! Invariant: nothing is allowed that no rule allows; a token is compared in constant time and never kept, only its hash.
//! Deliberately not here: `Host` and `Origin` (downstream's, before a principal exists) and quotas.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::config::{AccessConfig, AccessMode, TokenGrant};
use crate::protocol::codes::ErrorCode;

/// The channel of link changes: whoever is authenticated may read it.
const STATUS: &str = "$status";

/// SHA-256 of a token: of fixed size, so that comparing tells nothing about lengths.
type TokenHash = [u8; 32];

/// Who a session or call belongs to.
#[derive(Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name; `local` in loopback mode, empty before authentication.
    pub name: Arc<str>,
    /// Patterns of channels it may read.
    pub read: Vec<String>,
    /// Patterns of channels it may write.
    pub write: Vec<String>,
    proof: Proof,
}

/// How a principal proved who it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// Not at all, yet.
    Nothing,
    /// It reached the loopback listener.
    Loopback,
    /// It showed the token with this hash.
    Token(TokenHash),
}

impl std::fmt::Debug for Principal {
    /// Without the token's hash.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Principal").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Principal {
    /// Whoever reaches a loopback listener in mode `loopback`: may do everything.
    pub fn local() -> Self {
        Principal {
            name: Arc::from("local"),
            read: vec!["*".to_owned(), "$unmatched".to_owned(), "$outbox".to_owned()],
            write: vec!["*".to_owned()],
            proof: Proof::Loopback,
        }
    }

    /// A connection that has yet to send `auth`: may do nothing.
    pub fn unauthenticated() -> Self {
        Principal { name: Arc::from(""), read: Vec::new(), write: Vec::new(), proof: Proof::Nothing }
    }

    fn of_grant(grant: &TokenGrant, hash: TokenHash) -> Self {
        Principal {
            name: Arc::from(grant.name.as_str()),
            read: grant.read.clone(),
            write: grant.write.clone(),
            proof: Proof::Token(hash),
        }
    }

    /// Whether it proved who it is.
    pub fn is_authenticated(&self) -> bool {
        self.proof != Proof::Nothing
    }

    /// Whether it may read a channel, by name or identity (`base?{params}`): the patterns are about the base name.
    pub fn may_read(&self, channel: &str) -> bool {
        let base = base_name(channel);
        self.is_authenticated() && (base == STATUS || self.read.iter().any(|pattern| covers(pattern, base)))
    }

    /// Whether it may publish to a channel. The relay's own channels (`$…`) are nobody's to write.
    pub fn may_write(&self, channel: &str) -> bool {
        let base = base_name(channel);
        self.is_authenticated() && !base.starts_with('$') && self.write.iter().any(|pattern| covers(pattern, base))
    }
}

/// The part of an identity that patterns are about: what stands before the params.
fn base_name(channel: &str) -> &str {
    let end = [channel.find("?{"), channel.find("?~")].into_iter().flatten().min();
    &channel[..end.unwrap_or(channel.len())]
}

/// A pattern is a name, or a prefix followed by `*`. Names that begin with `$` are covered only by patterns that do.
fn covers(pattern: &str, base: &str) -> bool {
    if base.starts_with('$') && !pattern.starts_with('$') {
        return false;
    }
    match pattern.strip_suffix('*') {
        Some(prefix) => base.starts_with(prefix),
        None => pattern == base,
    }
}

/// Who may do what, by the configuration.
pub struct Access {
    /// `None`: mode `loopback`.
    grants: Option<Vec<(TokenHash, Arc<Principal>)>>,
    local: Arc<Principal>,
}

impl Access {
    /// By this configuration.
    pub fn new(config: &AccessConfig) -> Self {
        let grants = match config.mode {
            AccessMode::Loopback => None,
            AccessMode::Tokens => Some(config.tokens.iter().map(grant).collect()),
        };
        Access { grants, local: Arc::new(Principal::local()) }
    }

    /// Whether a connection without a token may wait for the `auth` op.
    pub fn wants_token(&self) -> bool {
        self.grants.is_some()
    }

    /// Who shows this token. In mode `loopback` everybody is `local`, whatever is shown.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthenticated`], the same for no token and a wrong one; the time taken does not depend on which.
    pub fn authenticate(&self, token: Option<&str>) -> Result<Arc<Principal>, ErrorCode> {
        let Some(grants) = &self.grants else { return Ok(Arc::clone(&self.local)) };
        let shown = token_hash(token.unwrap_or(""));
        let found = find(grants, &shown).filter(|_| token.is_some());
        found.cloned().ok_or(ErrorCode::Unauthenticated)
    }

    /// What a principal of an earlier configuration is now, with today's patterns; `None` if its proof no longer counts.
    pub fn renew(&self, principal: &Principal) -> Option<Arc<Principal>> {
        match (&self.grants, principal.proof) {
            (None, _) => Some(Arc::clone(&self.local)),
            (Some(grants), Proof::Token(hash)) => find(grants, &hash).cloned(),
            (Some(_), Proof::Loopback | Proof::Nothing) => None,
        }
    }
}

fn grant(grant: &TokenGrant) -> (TokenHash, Arc<Principal>) {
    let hash = token_hash(grant.token.expose());
    (hash, Arc::new(Principal::of_grant(grant, hash)))
}

fn token_hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Looks at every grant, also after a match: where it stands must not show in the time taken.
fn find<'a>(grants: &'a [(TokenHash, Arc<Principal>)], shown: &TokenHash) -> Option<&'a Arc<Principal>> {
    let mut place = u32::MAX;
    for (index, (hash, _)) in (0u32..).zip(grants) {
        let same: Choice = hash.ct_eq(shown);
        place.conditional_assign(&index, same);
    }
    grants.get(usize::try_from(place).ok()?).map(|(_, principal)| principal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Secret;

    /// Name, token, what it may read and write.
    type Grant<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str]);

    fn access(mode: AccessMode, tokens: &[Grant<'_>]) -> Access {
        let strings = |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect();
        let tokens = tokens.iter().map(|(name, token, read, write)| TokenGrant {
            name: (*name).to_owned(),
            token: Secret::new(*token),
            read: strings(read),
            write: strings(write),
        });
        Access::new(&AccessConfig {
            mode,
            origins: Vec::new(),
            hosts: Vec::new(),
            tokens: tokens.collect(),
            allow_query_token: false,
            insecure: false,
        })
    }

    #[test]
    fn in_loopback_mode_everybody_is_local_and_may_do_all_but_write_own_channels() {
        let access = access(AccessMode::Loopback, &[]);
        let who = access.authenticate(None).unwrap();
        assert_eq!((&*who.name, access.wants_token()), ("local", false));
        assert!(who.may_read("price:BTC") && who.may_write("orders?{\"account\":\"9\"}") && who.may_read("$status"));
        assert!(!who.may_write("$status"));
        assert!(who.may_read("$outbox") && who.may_read("$unmatched") && !who.may_read("$other"));
    }

    #[test]
    fn a_token_finds_its_own_grant_wherever_it_stands() {
        let access = access(
            AccessMode::Tokens,
            &[("a", "one", &["a:*"], &[]), ("b", "two", &["b:*", "$outbox"], &["b:x"]), ("c", "three", &[], &[])],
        );
        for (token, name) in [("one", "a"), ("two", "b"), ("three", "c")] {
            assert_eq!(&*access.authenticate(Some(token)).unwrap().name, name);
        }
        let b = access.authenticate(Some("two")).unwrap();
        assert!(b.may_read("b:1") && b.may_read("b:") && b.may_read("$outbox") && b.may_write("b:x"));
        assert!(!b.may_read("a:1") && !b.may_read("b") && !b.may_write("b:xy") && !b.may_write("b:1"));
        assert!(b.may_write("b:x?{\"p\":1}") && b.may_write("b:x?~0123456789abcdef"));
        assert!(access.authenticate(Some("three")).unwrap().may_read("$status"));
    }

    #[test]
    fn missing_wrong_and_empty_tokens_are_refused_alike() {
        let access = access(AccessMode::Tokens, &[("a", "one", &["*"], &["*"])]);
        let a = access.authenticate(Some("one")).unwrap();
        assert!(
            a.may_read("x") && !a.may_read("$outbox") && !a.may_read("$outbox/01J"),
            "a star covers no own channels"
        );
        for token in [None, Some(""), Some("on"), Some("one "), Some("ONE")] {
            assert_eq!(access.authenticate(token), Err(ErrorCode::Unauthenticated));
        }
        assert!(access.wants_token());
        let nobody = Principal::unauthenticated();
        assert!(!nobody.is_authenticated() && !nobody.may_read("$status") && !nobody.may_write("x"));
    }

    #[test]
    fn an_empty_token_in_the_configuration_is_not_matched_by_none() {
        let access = access(AccessMode::Tokens, &[("a", "", &["*"], &["*"])]);
        assert_eq!(access.authenticate(None), Err(ErrorCode::Unauthenticated));
    }

    #[test]
    fn a_new_configuration_takes_back_tokens_and_patterns() {
        let old = access(AccessMode::Tokens, &[("a", "one", &["*"], &[]), ("b", "two", &["*"], &[])]);
        let (a, b) = (old.authenticate(Some("one")).unwrap(), old.authenticate(Some("two")).unwrap());
        let new = access(AccessMode::Tokens, &[("a", "changed", &["*"], &[]), ("b", "two", &["x"], &[])]);
        assert_eq!(new.renew(&a), None, "the same name with another token is not the same proof");
        let renewed = new.renew(&b).unwrap();
        assert!(renewed.may_read("x") && !renewed.may_read("y"));
        assert_eq!(new.renew(&Principal::local()), None);
    }

    #[test]
    fn debug_shows_no_hash() {
        let access = access(AccessMode::Tokens, &[("a", "one", &["r"], &[])]);
        let shown = format!("{:?}", access.authenticate(Some("one")).unwrap());
        assert_eq!(shown, "Principal { name: \"a\", .. }");
    }
}
