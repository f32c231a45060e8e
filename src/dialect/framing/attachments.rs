//! Binary attachments of Socket.IO packets that come in: gathered as they come, put into the packet's JSON text as base64
//! strings.
//!
//! Invariant: at most [`MOST_BYTES`] of them for one packet are kept; an attachment beyond that is left out, and its
//! placeholder (`{"_placeholder":true,"num":0}`) stays where it stands, for everybody to see. An attachment is put in once,
//! so the text grows by no more than the attachments' size. Text that is no placeholder passes as it is, valid or not.
//! Deliberately not here: those that leave (`detached`).

use base64::Engine;
use bytes::Bytes;

use super::detached::mark;
use super::socketio::{Kind, Packet};

/// Bytes of one packet's attachments together.
pub(crate) const MOST_BYTES: usize = 4 * 1024 * 1024;

/// A packet whose attachments have not all come yet.
#[derive(Debug, Clone)]
pub(crate) struct Gathering {
    pub(crate) kind: Kind,
    pub(crate) ack: Option<u64>,
    /// It is of our namespace.
    pub(crate) ours: bool,
    payload: Box<[u8]>,
    wanted: usize,
    /// `None`: left out.
    came: Vec<Option<Bytes>>,
    bytes: usize,
}

impl Gathering {
    pub(crate) fn new(packet: &Packet<'_>, ours: bool) -> Self {
        Gathering {
            kind: packet.kind,
            ack: packet.ack,
            ours,
            payload: packet.payload.into(),
            wanted: packet.attachments,
            came: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes the next one.
    pub(crate) fn add(&mut self, attachment: &Bytes) {
        let fits = attachment.len() <= MOST_BYTES.saturating_sub(self.bytes);
        if fits {
            self.bytes += attachment.len();
        }
        self.came.push(fits.then(|| attachment.clone()));
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.came.len() >= self.wanted
    }

    /// How many were left out.
    pub(crate) fn left_out(&self) -> usize {
        self.came.iter().filter(|attachment| attachment.is_none()).count()
    }

    /// The packet's JSON text with its attachments in it, as base64 strings.
    pub(crate) fn into_text(self) -> Vec<u8> {
        self.into_text_with(|base64| format!("\"{base64}\""))
    }

    /// The same as its publisher wrote it, if this was one of ours.
    pub(crate) fn into_marked(self) -> Vec<u8> {
        self.into_text_with(mark)
    }

    fn into_text_with(mut self, write: fn(&str) -> String) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.payload.len() + self.bytes / 3 * 4 + 8 * self.came.len());
        let mut rest = &*self.payload;
        while let Some((byte, after)) = rest.split_first() {
            let passed = match byte {
                b'"' => string(rest),
                b'{' => match placeholder(rest) {
                    Some((number, length)) => match self.came.get_mut(number).and_then(Option::take) {
                        Some(attachment) => {
                            let text = base64::engine::general_purpose::STANDARD.encode(&attachment);
                            out.extend_from_slice(write(&text).as_bytes());
                            rest = &rest[length..];
                            continue;
                        }
                        None => length,
                    },
                    None => 1,
                },
                _ => rest.len() - after.len(),
            };
            out.extend_from_slice(&rest[..passed]);
            rest = &rest[passed..];
        }
        out
    }
}

/// The length of the string at the start, quotes included; of what is there, if it does not end.
pub(super) fn string(text: &[u8]) -> usize {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The number and length of the placeholder at the start, if one is there: an object of exactly `_placeholder` and `num`,
/// in either order.
fn placeholder(text: &[u8]) -> Option<(usize, usize)> {
    let mut rest = text.strip_prefix(b"{")?;
    let (mut marked, mut number) = (false, None);
    for end in [b',', b'}'] {
        rest = rest.trim_ascii_start();
        if let Some(after) = rest.strip_prefix(b"\"_placeholder\"") {
            rest = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"true")?;
            marked = true;
        } else {
            let after = rest.strip_prefix(b"\"num\"")?.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
            let digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
            number = std::str::from_utf8(&after[..digits]).ok()?.parse().ok();
            rest = &after[digits..];
        }
        rest = rest.trim_ascii_start().strip_prefix(&[end])?;
    }
    marked.then_some((number?, text.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(payload: &str, attachments: &[&[u8]]) -> String {
        let packet = Packet {
            kind: Kind::Event,
            attachments: attachments.len(),
            namespace: b"/",
            ack: None,
            payload: payload.as_bytes(),
        };
        let mut gathering = Gathering::new(&packet, true);
        for attachment in attachments {
            assert!(!gathering.is_complete());
            gathering.add(&Bytes::copy_from_slice(attachment));
        }
        assert!(gathering.is_complete());
        String::from_utf8(gathering.into_text()).unwrap()
    }

    #[test]
    fn attachments_stand_where_their_placeholders_stood() {
        let two = r#"["a",{"x":{"_placeholder":true,"num":1}},[{ "num" : 0, "_placeholder" : true }]]"#;
        assert_eq!(put(two, &[&[1, 2, 3], b""]), r#"["a",{"x":""},["AQID"]]"#);
        // Once only, and only for those that there are.
        let thrice = r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
        let left = r#"["AQID",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
        assert_eq!(put(thrice, &[&[1, 2, 3]]), left);
    }

    #[test]
    fn what_only_looks_like_a_placeholder_stays() {
        for text in [
            r#"["{\"_placeholder\":true,\"num\":0}"]"#,
            r#"["\\",{"_placeholder":false,"num":0}]"#,
            r#"[{"_placeholder":true,"num":0,"more":1}]"#,
            r#"[{"_placeholder":true,"_placeholder":true}]"#,
            r#"[{"num":0,"num":0}]"#,
            r#"[{"_placeholder":true,"num":-1}]"#,
            r#"[{"_placeholder":true,"num":99999999999999999999}]"#,
            r#"["open, {"_placeholder":true,"num":0"#,
            r#"[{"#,
        ] {
            assert_eq!(put(text, &[&[1]]), text);
        }
    }

    #[test]
    fn what_is_too_large_is_left_out_and_its_placeholder_shows_it() {
        let large = vec![0; MOST_BYTES];
        let text = r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
        assert_eq!(put(text, &[&[1, 2, 3], &large]), r#"["AQID",{"_placeholder":true,"num":1}]"#);
    }
}
