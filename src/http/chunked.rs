//! `Transfer-Encoding: chunked` undone (RFC 9112, section 7.1).
//!
//! The decoder never sees more payload than the caller hands it and never copies any: it says how
//! many payload bytes come next ([`Chunked::payload_ready`]), is told when they have passed
//! ([`Chunked::passed`]), and consumes the framing between them ([`Chunked::framing`]). Chunk
//! extensions and trailer fields are refused: no S3 client sends them at this level, and proxies
//! disagree about them.

/// Longest chunk-size line. 16 hexadecimal digits and CR LF.
const LINE_SIZE_MAX: usize = 18;

/// The framing is malformed. The border of the next request is unknown: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunked transfer coding is malformed")]
pub struct BadChunk;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Payload,
    /// CR LF behind a chunk's payload.
    PayloadEnd,
    /// The empty line behind the last chunk.
    LastEnd,
    Done,
}

#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    line: [u8; LINE_SIZE_MAX],
    line_len: usize,
    payload_left: u64,
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunked {
    pub fn new() -> Self {
        Self {
            state: State::Size,
            line: [0; LINE_SIZE_MAX],
            line_len: 0,
            payload_left: 0,
        }
    }

    /// Payload bytes that come next, before any framing.
    pub fn payload_ready(&self) -> u64 {
        if self.state == State::Payload {
            self.payload_left
        } else {
            0
        }
    }

    /// `count` payload bytes have been taken from the stream, at most [`Self::payload_ready`].
    pub fn passed(&mut self, count: u64) {
        assert!(count <= self.payload_ready());
        self.payload_left -= count;
        if self.state == State::Payload && self.payload_left == 0 {
            self.state = State::PayloadEnd;
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Consumes framing from the front of `input` until payload or the end comes; returns how much.
    pub fn framing(&mut self, input: &[u8]) -> Result<usize, BadChunk> {
        let mut used = 0;
        while let Some(&byte) = input.get(used) {
            if matches!(self.state, State::Payload | State::Done) {
                break;
            }
            used += 1;
            if self.line_len == LINE_SIZE_MAX {
                return Err(BadChunk);
            }
            self.line[self.line_len] = byte;
            self.line_len += 1;
            if byte != b'\n' {
                continue;
            }
            let line = self.line[..self.line_len]
                .strip_suffix(b"\r\n")
                .ok_or(BadChunk)?;
            match self.state {
                State::Size => {
                    let size = parse_hex(line).ok_or(BadChunk)?;
                    self.payload_left = size;
                    self.state = if size == 0 {
                        State::LastEnd
                    } else {
                        State::Payload
                    };
                }
                _ if !line.is_empty() => return Err(BadChunk),
                State::PayloadEnd => self.state = State::Size,
                _ => self.state = State::Done,
            }
            self.line_len = 0;
        }
        Ok(used)
    }
}

/// 1 to 16 hexadecimal digits and nothing else.
pub fn parse_hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `wire` handed over in pieces of the given sizes; the bytes left over come back too.
    fn decode(wire: &[u8], sizes: &[usize]) -> Result<(Vec<u8>, bool, usize), BadChunk> {
        let mut decoder = Chunked::new();
        let (mut at, mut end) = (0, 0);
        let mut out = Vec::new();
        let mut sizes = sizes.iter().cycle();
        while !decoder.is_done() {
            if at == end {
                if end == wire.len() {
                    break;
                }
                end = (end + sizes.next().unwrap()).min(wire.len());
            }
            let ready = decoder.payload_ready().min((end - at) as u64) as usize;
            if ready > 0 {
                out.extend_from_slice(&wire[at..at + ready]);
                decoder.passed(ready as u64);
                at += ready;
            } else {
                at += decoder.framing(&wire[at..end])?;
            }
        }
        Ok((out, decoder.is_done(), at))
    }

    #[test]
    fn chunks_are_joined() {
        let wire = b"5\r\nhello\r\n0006\r\n world\r\n0\r\n\r\nGET /";
        assert_eq!(
            decode(wire, &[1000]),
            Ok((b"hello world".to_vec(), true, wire.len() - 5))
        );
    }

    #[test]
    fn malformed_framing_is_refused() {
        let cases: [&[u8]; 12] = [
            b"5;a=b\r\nhello\r\n0\r\n\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"0\r\nTrailer: x\r\n\r\n",
            b"10000000000000000\r\n",
            b"00000000000000000000001\r\na\r\n",
            b"0\r\n\n",
        ];
        for wire in cases {
            assert_eq!(
                decode(wire, &[1]),
                Err(BadChunk),
                "{:?}",
                wire.escape_ascii().to_string()
            );
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8),
            sizes in proptest::collection::vec(1usize..20, 1..10),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
                wire.extend(chunk);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            let expected: Vec<u8> = chunks.concat();
            prop_assert_eq!(decode(&wire, &sizes), Ok((expected, true, wire.len())));
        }

        #[test]
        fn noise_never_panics_and_cuts_do_not_matter(
            wire in proptest::collection::vec(
                proptest::sample::select(b"0123af\r\n;x".to_vec()), 0..80),
            sizes in proptest::collection::vec(1usize..5, 1..10),
        ) {
            prop_assert_eq!(decode(&wire, &sizes), decode(&wire, &[usize::MAX / 2]));
        }
    }
}
