//! The data types of SSH (RFC 4251, section 5), as in OpenSSH's key files and agents.

use zeroize::Zeroizing;

/// What remains to be read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn uint32(&mut self) -> Option<u32> {
        self.bytes(4)
            .map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes were read")))
    }

    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.uint32()?;
        self.bytes(length as usize)
    }

    /// A string that names something: printable ASCII (RFC 4251, section 6).
    pub(crate) fn name(&mut self) -> Option<&'a str> {
        let name = std::str::from_utf8(self.string()?).ok()?;
        (name.len() <= 64 && name.chars().all(|c| c.is_ascii_graphic())).then_some(name)
    }

    /// The big-endian digits of an mpint that is not negative, without leading zeros.
    pub(crate) fn unsigned(&mut self) -> Option<&'a [u8]> {
        match self.string()? {
            [first, ..] if *first >= 0x80 => None,
            digits => Some(super::asn1::without_leading_zeros(digits)),
        }
    }

    /// As [`Self::unsigned`], but the zero byte that RFC 4251 requires before a high bit may be
    /// missing.
    pub(crate) fn positive(&mut self) -> Option<&'a [u8]> {
        self.string().map(super::asn1::without_leading_zeros)
    }
}

/// Output whose memory is reserved in advance: growing would leave a copy of a key behind.
pub(crate) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn uint32(self, n: u32) -> Self {
        self.bytes(&n.to_be_bytes())
    }

    pub(crate) fn string(self, bytes: &[u8]) -> Self {
        self.uint32(bytes.len() as u32).bytes(bytes)
    }

    /// An mpint from the big-endian digits of a number that is not negative.
    pub(crate) fn unsigned(self, digits: &[u8]) -> Self {
        let digits = super::asn1::without_leading_zeros(digits);
        match digits {
            [first, ..] if *first >= 0x80 => self
                .uint32(digits.len() as u32 + 1)
                .bytes(&[0])
                .bytes(digits),
            _ => self.string(digits),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mpints_use_shortest_form() {
        let written = |digits: &[u8]| Writer::with_capacity(16).unsigned(digits).finish();
        assert_eq!(*written(&[0, 0, 1]), [0, 0, 0, 1, 1]);
        assert_eq!(*written(&[0, 0x80]), [0, 0, 0, 2, 0, 0x80]);
        assert_eq!(*written(&[]), [0, 0, 0, 0]);
    }

    #[test]
    fn out_of_bounds_reads_fail() {
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff, 1]).string(), None);
        assert_eq!(Reader(&[0, 0]).uint32(), None);
        assert_eq!(Reader(&[0, 0, 0, 1, 0x80]).unsigned(), None);
        assert_eq!(Reader(&[0, 0, 0, 1, 0x07]).name(), None);
        assert_eq!(Reader(&[0, 0, 0, 2, 0x80]).positive(), None);
    }

    #[test]
    fn mpint_sign_byte_is_optional_or_repeated() {
        let read = |bytes: &'static [u8]| Reader(bytes).positive();
        assert_eq!(read(&[0, 0, 0, 1, 0x80]), Some(&[0x80][..]));
        assert_eq!(read(&[0, 0, 0, 3, 0, 0, 0x80]), Some(&[0x80][..]));
        assert_eq!(read(&[0, 0, 0, 1, 0]), Some(&[][..]));
    }
}
