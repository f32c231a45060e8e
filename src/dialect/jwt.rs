//! When a JSON Web Token (RFC 7519) runs out, as far as it says so itself.
//!
//! Deliberately not here: its signature. Upstream checks that; we only want to be back with another one in time.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::relay::time::Wall;

/// Longer texts are no tokens that somebody reads.
const LONGEST: usize = 64 * 1024;

/// The `exp` claim (section 4.1.4); `None`: not a JWT in compact form, or it names no end.
pub fn expires(token: &str) -> Option<Wall> {
    if token.len() > LONGEST {
        return None;
    }
    let mut parts = token.split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let json = |part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
        serde_json::from_slice::<serde_json::Value>(&bytes).ok().filter(serde_json::Value::is_object)
    };
    json(header)?;
    // Whole seconds in most tokens, but section 2 allows fractions.
    let seconds = json(claims)?.get("exp")?.as_f64().filter(|seconds| (0.0..1e11).contains(seconds))?;
    Some(Wall((seconds * 1e9) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn the_end_is_read_without_looking_at_the_signature() {
        // The example of RFC 7519 section 3.1.
        let example = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
                       cGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(expires(example), Some(Wall(1_300_819_380_000_000_000)));
        assert_eq!(expires(&token("{}", "{\"exp\":1.5}")), Some(Wall(1_500_000_000)));
    }

    #[test]
    fn what_is_no_token_names_no_end() {
        let odd = ["", "a", "a.b.c", "....", "e30.e30.", "e30.e30.a.b", "\u{e9}.\u{e9}.\u{e9}"];
        for text in odd {
            assert_eq!(expires(text), None, "{text}");
        }
        for claims in ["[]", "{\"exp\":\"1\"}", "{\"exp\":-1}", "{\"exp\":1e300}", "{\"exp\":null}", "1"] {
            assert_eq!(expires(&token("{}", claims)), None, "{claims}");
        }
        assert_eq!(expires(&token("1", "{\"exp\":1}")), None);
    }
}
