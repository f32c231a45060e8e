//! `[sign.NAME]`: variables that are signatures, computed when a template that names them is filled.
//!
//! Pure computation: a keyed hash (HMAC, RFC 2104) or a plain one, of a text with holes, or a JSON Web Token (`jwt`).
//! Invariant: a signature's inner signatures name none themselves, so that filling ends. Deliberately not here: the
//! secrets themselves (the configuration's).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::fill::Context;
use super::jwt::Jwt;
use super::template::Template;
use super::variable::Variable;

/// Signatures in one dialect.
pub(crate) const MOST: usize = 16;

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    /// FIPS 180-4.
    Sha1,
    /// FIPS 180-4.
    Sha256,
    /// FIPS 180-4.
    Sha384,
    /// FIPS 180-4.
    Sha512,
}

/// How a secret's text stands for the key's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum KeyForm {
    /// Its own UTF-8 bytes.
    #[default]
    Text,
    /// RFC 4648 section 4.
    Base64,
    /// Hexadecimal digits.
    Hex,
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Out {
    /// Lower-case hexadecimal digits.
    #[default]
    Hex,
    /// RFC 4648 section 4.
    Base64,
    /// Its bytes, inside another signature's text.
    Raw,
}

/// A signature as the dialect defines it.
#[derive(Debug)]
pub(crate) struct Sign {
    pub(crate) how: How,
    /// For channels of these patterns only; empty: for all.
    pub(crate) channels: Vec<Pattern>,
}

/// How it is made.
#[derive(Debug)]
pub(crate) enum How {
    Hash(Hashed),
    Token(Jwt),
}

/// A hash of a text.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) hash: Hash,
    /// With its form; `None`: a plain hash.
    pub(crate) key: Option<(Template, KeyForm)>,
    pub(crate) text: Template,
    pub(crate) out: Out,
    /// Stands before the signature.
    pub(crate) prefix: Option<Template>,
}

/// A channel's name, or the start of it and `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Box<str>);

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        Pattern(text.into())
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => *self.0 == *name,
        }
    }
}

/// What of a context a signature needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Needs {
    pub(crate) channel: bool,
    pub(crate) message: bool,
}

impl Needs {
    /// Of one variable.
    pub(crate) fn of(variable: &Variable) -> Needs {
        use Variable as V;
        let message = matches!(variable, V::Key | V::Message | V::IdempotencyKey | V::Data | V::Type);
        let channel = matches!(variable, V::Channel | V::Part(_) | V::Params(_) | V::OfChannel(_) | V::Sub);
        let channel = channel || matches!(variable, V::MissingFrom | V::MissingTo);
        match variable {
            V::First(list) => list.iter().map(Needs::of).fold(Needs::default(), Needs::and),
            V::Sign(_, needs) => *needs,
            V::Upper(inner) => Needs::of(inner),
            _ => Needs { channel: channel || message, message },
        }
    }

    pub(crate) fn and(self, other: Needs) -> Needs {
        Needs { channel: self.channel || other.channel, message: self.message || other.message }
    }
}

impl Sign {
    /// Every template in it.
    pub(crate) fn templates(&self) -> impl Iterator<Item = &Template> {
        let (hashed, token) = match &self.how {
            How::Hash(hashed) => (Some(hashed), None),
            How::Token(token) => (None, Some(token)),
        };
        hashed.into_iter().flat_map(Hashed::templates).chain(token.into_iter().flat_map(Jwt::templates))
    }

    /// The signature as text; `None`: something that it needs has no value, the key is not of its form, or it is not for
    /// this channel.
    pub(crate) fn value<'a>(&'a self, context: &Context<'a>) -> Option<String> {
        if !self.channels.is_empty() {
            let name = context.channel?.name;
            self.channels.iter().find(|pattern| pattern.matches(name))?;
        }
        match &self.how {
            How::Hash(hashed) => hashed.value(context),
            How::Token(token) => token.make(context),
        }
    }

    /// Its bytes, for another signature's text.
    fn raw<'a>(&'a self, context: &Context<'a>) -> Option<Vec<u8>> {
        match &self.how {
            How::Hash(hashed) if hashed.out == Out::Raw => hashed.bytes(context),
            _ => None,
        }
    }
}

impl Hashed {
    fn templates(&self) -> impl Iterator<Item = &Template> {
        let key = self.key.as_ref().map(|(key, _)| key);
        [Some(&self.text), key, self.prefix.as_ref()].into_iter().flatten()
    }

    fn value<'a>(&'a self, context: &Context<'a>) -> Option<String> {
        let mac = self.bytes(context)?;
        let mut out = match &self.prefix {
            Some(prefix) => prefix.render(context).ok()?,
            None => String::new(),
        };
        out.push_str(&match self.out {
            Out::Hex | Out::Raw => hex(&mac),
            Out::Base64 => STANDARD.encode(&mac),
        });
        Some(out)
    }

    fn bytes<'a>(&'a self, context: &Context<'a>) -> Option<Vec<u8>> {
        let text = self.text.render_bytes(context, &|variable| match variable {
            Variable::Sign(inner, _) => context.signs.get(*inner)?.raw(context),
            _ => None,
        });
        let text = text.ok()?;
        let Some((key, form)) = &self.key else { return Some(self.hash.digest(&text)) };
        self.hash.hmac(&form.bytes(key.render(context).ok()?)?, &text)
    }
}

impl KeyForm {
    /// The key's bytes; `None`: it is not of this form.
    pub(crate) fn bytes(self, key: String) -> Option<Vec<u8>> {
        match self {
            KeyForm::Text => Some(key.into_bytes()),
            KeyForm::Base64 => STANDARD.decode(key.trim()).ok(),
            KeyForm::Hex => unhex(key.trim()),
        }
    }
}

impl Hash {
    fn digest(self, text: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(text).to_vec(),
            Hash::Sha256 => Sha256::digest(text).to_vec(),
            Hash::Sha384 => Sha384::digest(text).to_vec(),
            Hash::Sha512 => Sha512::digest(text).to_vec(),
        }
    }

    /// `None` never: HMAC takes keys of every length.
    pub(crate) fn hmac(self, key: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        macro_rules! mac {
            ($hash:ty) => {
                Hmac::<$hash>::new_from_slice(key).ok()?.chain_update(text).finalize().into_bytes().to_vec()
            };
        }
        Some(match self {
            Hash::Sha1 => mac!(Sha1),
            Hash::Sha256 => mac!(Sha256),
            Hash::Sha384 => mac!(Sha384),
            Hash::Sha512 => mac!(Sha512),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xF)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let byte = |pair: &[u32]| u8::try_from(pair.first()? << 4 | pair.get(1)?).ok();
    digits.chunks(2).map(byte).collect()
}
