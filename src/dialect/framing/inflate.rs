//! Compressed frames: binary ones that hold gzip members (RFC 1952), or pieces of one zlib stream (RFC 1950) over the whole
//! connection, whose messages end with a sync flush. Text frames are as they are.
//!
//! Invariant: no message grows beyond [`MOST_INFLATED`], however small it was sent. Once something is wrong with a stream,
//! everything after it is: the connection has to be made anew.

use flate2::{Crc, Decompress, FlushDecompress, Status};

/// Bytes of one message as it was before compression: as many as a frame may have by default.
pub(crate) const MOST_INFLATED: usize = 16 * 1024 * 1024;
/// By how much a message's room grows.
const STEP: usize = 32 * 1024;
/// How a sync flush ends.
const FLUSHED: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// `frame.inflate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inflate {
    /// Each binary frame is a gzip member.
    Gzip,
    /// All binary frames are one zlib stream.
    ZlibStream,
}

/// It is not compressed as it should be, or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// The text of a gzip member.
pub(crate) fn gzip(frame: &[u8]) -> Result<Vec<u8>, Broken> {
    let body = after_header(frame).ok_or(Broken)?;
    let mut text = Vec::new();
    let (rest, ended) = inflate(&mut Decompress::new(false), body, &mut text)?;
    let mut crc = Crc::new();
    crc.update(&text);
    let trailer = [crc.sum().to_le_bytes(), crc.amount().to_le_bytes()].concat();
    if ended && rest == trailer { Ok(text) } else { Err(Broken) }
}

/// What follows a gzip member's header (RFC 1952 section 2.3).
fn after_header(frame: &[u8]) -> Option<&[u8]> {
    let ([0x1F, 0x8B, 0x08, flags, ..], mut rest) = frame.split_first_chunk::<10>()? else { return None };
    if flags & 0x04 != 0 {
        let (length, after) = rest.split_first_chunk()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [0x08, 0x10] {
        if flags & text != 0 {
            rest = &rest[rest.iter().position(|byte| *byte == 0)? + 1..];
        }
    }
    if flags & 0x02 != 0 { rest.get(2..) } else { Some(rest) }
}

/// A zlib stream on its way.
#[derive(Debug)]
pub(crate) struct Stream {
    state: Decompress,
    text: Vec<u8>,
}

impl Default for Stream {
    fn default() -> Self {
        Stream { state: Decompress::new(true), text: Vec::new() }
    }
}

impl Clone for Stream {
    /// Begins another stream: where one stands cannot be copied, and only rehearsals copy conversations.
    fn clone(&self) -> Self {
        Stream::default()
    }
}

impl Stream {
    /// Takes the next frame; the message, if it ends here.
    pub(crate) fn feed(&mut self, frame: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        let (rest, ended) = inflate(&mut self.state, frame, &mut self.text)?;
        if ended || !rest.is_empty() {
            return Err(Broken);
        }
        Ok(frame.ends_with(&FLUSHED).then(|| std::mem::take(&mut self.text)))
    }
}

/// Inflates all of `input` to the end of `text`; what is left behind the end of the stream, and whether it ended.
fn inflate<'a>(state: &mut Decompress, input: &'a [u8], text: &mut Vec<u8>) -> Result<(&'a [u8], bool), Broken> {
    let mut rest = input;
    loop {
        if text.len() > MOST_INFLATED {
            return Err(Broken);
        }
        text.reserve_exact(STEP);
        let (read, written) = (state.total_in(), text.len());
        let status = state.decompress_vec(rest, text, FlushDecompress::Sync).map_err(|_| Broken)?;
        // Never more than were given.
        let read = usize::try_from(state.total_in() - read).unwrap_or(usize::MAX);
        rest = rest.get(read..).unwrap_or_default();
        let still = read == 0 && text.len() == written;
        match status {
            Status::StreamEnd if text.len() <= MOST_INFLATED => return Ok((rest, true)),
            _ if still => return Ok((rest, false)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    /// What one message is sent as.
    fn send(state: &mut Compress, message: &[u8], flush: FlushCompress) -> Vec<u8> {
        let mut sent = Vec::with_capacity(message.len() + 1024);
        state.compress_vec(message, &mut sent, flush).unwrap();
        sent
    }

    fn zipped(text: &[u8], flags: u8, more: &[u8]) -> Vec<u8> {
        let mut crc = Crc::new();
        crc.update(text);
        let body = send(&mut Compress::new(Compression::fast(), false), text, FlushCompress::Finish);
        let head = [&[0x1F, 0x8B, 0x08, flags, 0, 0, 0, 0, 0, 0xFF][..], more].concat();
        [&head[..], &body, &crc.sum().to_le_bytes(), &crc.amount().to_le_bytes()].concat()
    }

    fn streamed(messages: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut state = Compress::new(Compression::fast(), true);
        messages.iter().map(|message| send(&mut state, message, FlushCompress::Sync)).collect()
    }

    #[test]
    fn gzip_members_are_inflated_up_to_the_limit() {
        let text = b"{\"a\":1}";
        let plain = zipped(text, 0, b"");
        assert_eq!(gzip(&plain), Ok(text.to_vec()));
        assert_eq!(gzip(&zipped(text, 0x1E, b"\x02\x00xxname\0words\0cc")), Ok(text.to_vec()), "every optional field");
        assert_eq!(gzip(text), Err(Broken));
        for cut in 0..plain.len() {
            assert_eq!(gzip(&plain[..cut]), Err(Broken), "cut off at {cut}");
        }
        let mut wrong = plain;
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(gzip(&wrong), Err(Broken), "not the length that it says");
        let most = zipped(&vec![b' '; MOST_INFLATED], 0, b"");
        assert_eq!(gzip(&most).map(|text| text.len()), Ok(MOST_INFLATED));
        let bomb = zipped(&vec![b' '; MOST_INFLATED + 1], 0, b"");
        assert!(bomb.len() < MOST_INFLATED / 100);
        assert_eq!(gzip(&bomb), Err(Broken));
    }

    #[test]
    fn a_streams_messages_end_with_a_flush_wherever_frames_are_cut() {
        let long: Vec<u8> = (0..3 * STEP + 1).map(|n| n.to_le_bytes()[0]).collect();
        let frames = streamed(&[b"{\"a\":1}", b"{\"a\":2}", &long]);
        let mut stream = Stream::default();
        assert_eq!(stream.feed(&frames[0]), Ok(Some(b"{\"a\":1}".to_vec())));
        let (start, end) = frames[1].split_at(3);
        assert_eq!(stream.feed(start), Ok(None));
        assert_eq!(stream.feed(end), Ok(Some(b"{\"a\":2}".to_vec())));
        assert_eq!(stream.feed(&frames[2]), Ok(Some(long)));
        assert_eq!(stream.feed(b"\xff\xffgarbage"), Err(Broken));
        assert_eq!(Stream::default().feed(b"{\"a\":1}"), Err(Broken));
    }

    #[test]
    fn a_stream_that_blows_up_is_refused() {
        let frames = streamed(&[&vec![b' '; MOST_INFLATED + 2 * STEP]]);
        assert!(frames[0].len() < MOST_INFLATED / 100);
        assert_eq!(Stream::default().feed(&frames[0]), Err(Broken));
        // Bit by bit, without ever ending a message.
        let mut stream = Stream::default();
        let fed = frames[0].chunks(97).map(|chunk| stream.feed(chunk)).find(|fed| *fed != Ok(None));
        assert_eq!(fed, Some(Err(Broken)));
        assert!(stream.text.capacity() <= MOST_INFLATED + 2 * STEP);
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let mut stream = Stream::default();
            for frame in &frames {
                let _ = gzip(frame);
                let _ = gzip(&zipped(b"", 0, frame));
                if stream.feed(frame).is_err() {
                    break;
                }
            }
        }
    }
}
