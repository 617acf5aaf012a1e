//! Frames of request streams (RFC 9114 section 7), decoded as bytes arrive.
//!
//! DATA is never buffered: pieces of the fed chunk are handed back. HEADERS is handed back as a slice of the
//! chunk when it lies in one, and is accumulated otherwise, up to a limit that is checked on the declared length
//! before a byte of it is kept. Frames of unknown types are dropped as they stream, whatever length they declare.

use bytes::{Buf, Bytes, BytesMut};

use super::error::H3Error;
use super::{Role, varint};

/// Frame types of RFC 9114 section 7.2.
pub mod kind {
    /// DATA.
    pub const DATA: u64 = 0x0;
    /// HEADERS.
    pub const HEADERS: u64 = 0x1;
    /// CANCEL_PUSH.
    pub const CANCEL_PUSH: u64 = 0x3;
    /// SETTINGS.
    pub const SETTINGS: u64 = 0x4;
    /// PUSH_PROMISE.
    pub const PUSH_PROMISE: u64 = 0x5;
    /// GOAWAY.
    pub const GOAWAY: u64 = 0x7;
    /// MAX_PUSH_ID.
    pub const MAX_PUSH_ID: u64 = 0xd;

    /// PRIORITY, PING, WINDOW_UPDATE and CONTINUATION of HTTP/2 (RFC 9114 section 7.2.8).
    pub const fn is_http2(kind: u64) -> bool {
        matches!(kind, 0x2 | 0x6 | 0x8 | 0x9)
    }
}

/// Empty DATA and unknown frames in a row that we put up with. GREASE needs one or two; a peer that sends
/// hundreds wants our CPU (the flood of CVE-2019-9518, in HTTP/3 clothes).
const MAX_USELESS_FRAMES: u32 = 128;

/// Content in frames up to this length is gathered from what has come, so that a peer that frames each byte makes no
/// more work behind the decoder than one that does not.
const TINY: usize = 64;
/// The most that is gathered at once.
const MAX_GATHERED: usize = 16 << 10;

/// Type and length of a frame are at most two integers of 8 bytes.
const MAX_FRAME_HEADER: usize = 16;

/// What a request stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The encoded field section of one whole HEADERS frame.
    Headers(Bytes),
    /// A piece of the payload of a DATA frame; empty only for an empty frame, which matters for the order of
    /// frames alone.
    Data(Bytes),
}

/// Decodes one direction of a request stream.
///
/// Feed a chunk with [`push`](Self::push), call [`next`](Self::next) until it returns `None`, and at FIN call
/// [`finish`](Self::finish).
#[derive(Debug)]
pub struct FrameDecoder {
    input: Bytes,
    state: State,
    role: Role,
    max_block: usize,
    useless: u32,
}

#[derive(Debug)]
enum State {
    /// Between frames, or inside a frame's type and length, of which `len` bytes are kept.
    Header {
        kept: [u8; MAX_FRAME_HEADER],
        len: u8,
    },
    Data {
        missing: u64,
    },
    Block {
        missing: usize,
        buffer: BytesMut,
    },
    Skip {
        missing: u64,
    },
}

impl FrameDecoder {
    /// A decoder for what the peer of `role` sends. HEADERS payloads above `max_block` bytes are refused.
    pub fn new(role: Role, max_block: usize) -> FrameDecoder {
        FrameDecoder {
            input: Bytes::new(),
            state: State::between_frames(),
            role,
            max_block,
            useless: 0,
        }
    }

    /// Feeds the next bytes of the stream. The previous chunk should have been drained; if it was not, both are
    /// joined by copying.
    pub fn push(&mut self, chunk: Bytes) {
        if self.input.is_empty() {
            self.input = chunk;
        } else if !chunk.is_empty() {
            let mut joined = BytesMut::with_capacity(self.input.len() + chunk.len());
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&chunk);
            self.input = joined.freeze();
        }
    }

    /// The next frame or piece of one; `None` when the fed bytes are used up.
    ///
    /// An error is final: the decoder must not be used after it.
    #[expect(
        clippy::should_implement_trait,
        reason = "it is fed between calls, so it is no iterator"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, H3Error> {
        loop {
            match &mut self.state {
                State::Header { .. } => {
                    let Some((kind, length)) = self.frame_header() else {
                        return Ok(None);
                    };
                    self.state = self.begin(kind, length)?;
                    if let Some(frame) = self.immediate() {
                        return Ok(Some(frame));
                    }
                }
                State::Data { missing } => {
                    let Some(piece) = take_some(&mut self.input, missing) else {
                        return Ok(None);
                    };
                    if *missing == 0 {
                        self.state = State::between_frames();
                        return Ok(Some(Frame::Data(self.gather(piece))));
                    }
                    return Ok(Some(Frame::Data(piece)));
                }
                State::Block { missing, buffer } => {
                    let length = self.input.len().min(*missing);
                    buffer.extend_from_slice(self.input.get(..length).unwrap_or_default());
                    self.input.advance(length);
                    *missing -= length;
                    if *missing > 0 {
                        return Ok(None);
                    }
                    let block = std::mem::take(buffer).freeze();
                    self.state = State::between_frames();
                    return Ok(Some(Frame::Headers(block)));
                }
                State::Skip { missing } => {
                    let length = (*missing).min(self.input.len() as u64);
                    self.input.advance(length as usize);
                    *missing -= length;
                    if *missing > 0 {
                        return Ok(None);
                    }
                    self.state = State::between_frames();
                }
            }
        }
    }

    /// To be called at FIN, when [`next`](Self::next) returned `None`: an error unless the stream ends between
    /// two frames (RFC 9114 section 7.1).
    pub fn finish(&self) -> Result<(), H3Error> {
        match self.state {
            State::Header { len: 0, .. } if self.input.is_empty() => Ok(()),
            _ => Err(H3Error::TruncatedFrame),
        }
    }

    /// Bytes that are kept between calls, for memory accounting.
    pub fn buffered(&self) -> usize {
        let kept = match &self.state {
            State::Header { len, .. } => usize::from(*len),
            State::Block { buffer, .. } => buffer.len(),
            State::Data { .. } | State::Skip { .. } => 0,
        };
        kept + self.input.len()
    }

    /// Reads type and length; `None` if they are not whole yet.
    fn frame_header(&mut self) -> Option<(u64, u64)> {
        let State::Header { kept, len } = &mut self.state else {
            return None;
        };
        let old = usize::from(*len);
        if old == 0
            && let Some((kind, length, used)) = two_varints(&self.input)
        {
            self.input.advance(used);
            return Some((kind, length));
        }
        let more = self.input.len().min(MAX_FRAME_HEADER - old);
        kept.get_mut(old..old + more)?
            .copy_from_slice(self.input.get(..more)?);
        match two_varints(kept.get(..old + more)?) {
            Some((kind, length, used)) => {
                self.input.advance(used.saturating_sub(old));
                Some((kind, length))
            }
            None => {
                self.input.advance(more);
                *len = (old + more) as u8;
                None
            }
        }
    }

    /// `first`, the end of a frame's content, with that of the tiny frames that follow it whole.
    fn gather(&mut self, first: Bytes) -> Bytes {
        let mut gathered = BytesMut::new();
        while gathered.len() < MAX_GATHERED {
            let next = two_varints(&self.input).filter(|(kind, length, _)| {
                *kind == kind::DATA && (1..=TINY as u64).contains(length) && first.len() <= TINY
            });
            let Some((_, length, used)) = next else { break };
            let Some(content) = self.input.get(used..used + length as usize) else {
                break;
            };
            if gathered.is_empty() {
                gathered.reserve(self.input.len().min(MAX_GATHERED));
                gathered.extend_from_slice(&first);
            }
            gathered.extend_from_slice(content);
            self.input.advance(used + length as usize);
        }
        if gathered.is_empty() {
            return first;
        }
        gathered.freeze()
    }

    /// What can be handed out at the beginning of a frame already: a HEADERS frame that lies in the chunk as a
    /// whole, and an empty DATA frame.
    fn immediate(&mut self) -> Option<Frame> {
        let frame = match self.state {
            State::Block { missing, .. } if self.input.len() >= missing => {
                Frame::Headers(take(&mut self.input, missing))
            }
            State::Data { missing: 0 } => Frame::Data(Bytes::new()),
            _ => return None,
        };
        self.state = State::between_frames();
        Some(frame)
    }

    /// What a frame's type and length lead to.
    fn begin(&mut self, kind: u64, length: u64) -> Result<State, H3Error> {
        match kind {
            kind::DATA => {
                if length > 0 {
                    self.useless = 0;
                } else {
                    self.count_useless()?;
                }
                Ok(State::Data { missing: length })
            }
            kind::HEADERS => {
                self.useless = 0;
                match usize::try_from(length) {
                    Ok(missing) if missing <= self.max_block => Ok(State::Block {
                        missing,
                        buffer: BytesMut::new(),
                    }),
                    _ => Err(H3Error::FieldSectionTooLarge),
                }
            }
            // We never send MAX_PUSH_ID, so no push ID is allowed (RFC 9114 section 7.2.5).
            kind::PUSH_PROMISE if self.role == Role::Client => Err(H3Error::PushId),
            kind::PUSH_PROMISE | kind::CANCEL_PUSH | kind::SETTINGS | kind::GOAWAY | kind::MAX_PUSH_ID => {
                Err(H3Error::UnexpectedFrame(kind))
            }
            _ if kind::is_http2(kind) => Err(H3Error::ReservedFrame(kind)),
            _ => {
                self.count_useless()?;
                Ok(State::Skip { missing: length })
            }
        }
    }

    fn count_useless(&mut self) -> Result<(), H3Error> {
        self.useless += 1;
        if self.useless > MAX_USELESS_FRAMES {
            Err(H3Error::UselessFrames)
        } else {
            Ok(())
        }
    }
}

impl State {
    const fn between_frames() -> State {
        State::Header {
            kept: [0; MAX_FRAME_HEADER],
            len: 0,
        }
    }
}

/// Appends type and length of a DATA frame whose payload of `length` bytes follows.
pub fn encode_data_header(length: u64, out: &mut BytesMut) {
    encode_frame_header(kind::DATA, length, out);
}

/// Appends type and length of any frame.
pub fn encode_frame_header(kind: u64, length: u64, out: &mut BytesMut) {
    varint::encode(kind, out);
    varint::encode(length, out);
}

/// Appends a whole GOAWAY frame.
pub fn encode_goaway(id: u64, out: &mut BytesMut) {
    encode_frame_header(kind::GOAWAY, varint::len(id) as u64, out);
    varint::encode(id, out);
}

/// Appends an empty frame of a reserved type, which every peer must ignore (RFC 9114 section 7.2.8).
/// `seed` picks the type.
pub fn encode_grease(seed: u64, out: &mut BytesMut) {
    encode_frame_header(super::grease(seed), 0, out);
}

fn two_varints(input: &[u8]) -> Option<(u64, u64, usize)> {
    let (first, first_len) = varint::decode(input)?;
    let (second, second_len) = varint::decode(input.get(first_len..)?)?;
    Some((first, second, first_len + second_len))
}

/// `length` bytes from the front, which must be there; a whole chunk moves without touching its count.
fn take(input: &mut Bytes, length: usize) -> Bytes {
    if length >= input.len() {
        std::mem::take(input)
    } else {
        input.split_to(length)
    }
}

/// At most `missing` bytes from the front, unless there are none.
fn take_some(input: &mut Bytes, missing: &mut u64) -> Option<Bytes> {
    if input.is_empty() {
        return None;
    }
    let length = usize::try_from(*missing).unwrap_or(usize::MAX).min(input.len());
    *missing -= length as u64;
    Some(take(input, length))
}
