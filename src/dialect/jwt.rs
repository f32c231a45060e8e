//! JSON Web Tokens (RFC 7519): when one runs out, as far as it says so itself, and making one.
//!
//! Of tokens that others made the signature is not looked at: upstream checks it; we only want to be back with another one in
//! time. Of what is made here only the signature of ES256 differs from one time to the next: its nonce (FIPS 186-5 section 6.3)
//! is drawn inside the library, and nothing else depends on it.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value};

use super::fill::Context;
use super::sign::{Hash, KeyForm};
use super::template::Template;
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

/// How a token is signed (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// ECDSA over P-256 with SHA-256; its key is a PEM text, SEC 1 or PKCS #8.
    Es256,
}

/// A token that a dialect makes: `[sign.NAME] jwt`.
#[derive(Debug)]
pub(crate) struct Jwt {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: Template,
    /// Of keys of HS256.
    pub(crate) form: KeyForm,
    /// Members of the header besides `alg` and `typ`; texts.
    pub(crate) header: Vec<(Box<str>, Template)>,
    /// Claims besides `nbf` and `exp`; texts.
    pub(crate) claims: Vec<(Box<str>, Template)>,
    /// From `nbf` to `exp`.
    pub(crate) lasts: Duration,
}

impl Jwt {
    /// Every template in it.
    pub(crate) fn templates(&self) -> impl Iterator<Item = &Template> {
        let members = self.header.iter().chain(&self.claims);
        std::iter::once(&self.key).chain(members.map(|(_, template)| template))
    }

    /// A token that is good from now on; `None`: something that it needs has no value, or the key is none.
    pub(crate) fn make<'a>(&'a self, context: &Context<'a>) -> Option<String> {
        let now = context.now.wall.millis() / 1000;
        let filled = |members: &'a [(Box<str>, Template)]| -> Option<Map<String, Value>> {
            let member = |(name, template): &'a (Box<str>, Template)| {
                Some((name.to_string(), Value::from(template.render(context).ok()?)))
            };
            members.iter().map(member).collect()
        };
        let (mut header, mut claims) = (filled(&self.header)?, filled(&self.claims)?);
        let word = match self.algorithm {
            Algorithm::Hs256 => "HS256",
            Algorithm::Es256 => "ES256",
        };
        header.extend([("alg".to_owned(), word.into()), ("typ".to_owned(), "JWT".into())]);
        claims.extend([("nbf".to_owned(), now.into()), ("exp".to_owned(), (now + self.lasts.as_secs()).into())]);
        let part = |members| URL_SAFE_NO_PAD.encode(Value::Object(members).to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let key = self.key.render(context).ok()?;
        let signature = match self.algorithm {
            Algorithm::Hs256 => Hash::Sha256.hmac(&self.form.bytes(key)?, text.as_bytes())?,
            Algorithm::Es256 => es256(&key, text.as_bytes())?,
        };
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// 64 bytes, r and s (RFC 7518 section 3.4). Line ends of the key may be written as `\\n`, as in a JSON file that was cut.
fn es256(pem: &str, text: &[u8]) -> Option<Vec<u8>> {
    let key = PrivateKeyDer::from_pem_slice(pem.replace("\\n", "\n").as_bytes()).ok()?;
    let key = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der()).ok()?;
    key.sign(&SystemRandom::new(), text).ok().map(|signature| signature.as_ref().to_vec())
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
