//! Little-endian primitives: a checked reader and two sinks.

use crate::damage::Damage;

/// Reads forward through bytes that nobody vouches for.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub fn left(&self) -> usize {
        self.rest.len()
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(Damage::Truncated {
                needed: len as u64,
                had: self.rest.len() as u64,
            });
        };
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(Damage::Truncated {
                needed: N as u64,
                had: self.rest.len() as u64,
            });
        };
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, Damage> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, Damage> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes behind a one-byte length.
    pub fn bytes8(&mut self) -> Result<&'a [u8], Damage> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// Bytes behind a two-byte length.
    pub fn bytes16(&mut self) -> Result<&'a [u8], Damage> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// Bytes behind a four-byte length.
    pub fn bytes32(&mut self) -> Result<&'a [u8], Damage> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    pub fn str8(&mut self, field: &'static str) -> Result<&'a str, Damage> {
        utf8(self.bytes8()?, field)
    }

    pub fn zeros(&mut self, len: usize) -> Result<(), Damage> {
        all_zero(self.take(len)?)
    }

    /// Everything not read yet.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub fn end(&self) -> Result<(), Damage> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(Damage::TrailingBytes {
                extra: extra as u64,
            }),
        }
    }
}

pub(crate) fn utf8<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, Damage> {
    std::str::from_utf8(bytes).map_err(|_| Damage::NotUtf8 { field })
}

pub(crate) fn all_zero(bytes: &[u8]) -> Result<(), Damage> {
    if bytes.iter().all(|&byte| byte == 0) {
        Ok(())
    } else {
        Err(Damage::ReservedNotZero)
    }
}

/// Takes bytes in order: a growing record, or a header of fixed size.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Fills a slice from its start. Too many bytes for it is a bug and panics.
pub(crate) struct SliceSink<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> SliceSink<'a> {
    pub fn new(out: &'a mut [u8]) -> SliceSink<'a> {
        SliceSink { out, at: 0 }
    }

    /// Zeroes what has not been written.
    pub fn finish_with_zeros(self) {
        self.out[self.at..].fill(0);
    }
}

impl Sink for SliceSink<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}
