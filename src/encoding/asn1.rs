//! Walks through DER (X.690): enough to identify a structure before it is decoded.

use der::{
    Decode, Reader, SliceReader, Tag, TagNumber, Tagged,
    asn1::{AnyRef, ObjectIdentifier},
};

/// `[n]` around one value, as in `[n] EXPLICIT`.
pub(crate) const fn explicit(number: u32) -> Tag {
    Tag::ContextSpecific {
        constructed: true,
        number: TagNumber(number),
    }
}

/// `[n]` in place of a primitive value's own tag, as in `[n] IMPLICIT`.
pub(crate) const fn implicit(number: u32) -> Tag {
    Tag::ContextSpecific {
        constructed: false,
        number: TagNumber(number),
    }
}

/// The consecutive values in `bytes`, with nothing left over.
pub(crate) fn values(bytes: &[u8]) -> Option<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(bytes).ok()?;
    let mut values = Vec::new();
    while !reader.is_finished() {
        values.push(AnyRef::decode(&mut reader).ok()?);
    }
    Some(values)
}

/// The members of `der`, which is one SEQUENCE.
pub(crate) fn sequence(der: &[u8]) -> Option<Vec<AnyRef<'_>>> {
    members(AnyRef::from_der(der).ok()?)
}

/// The members of a SEQUENCE.
pub(crate) fn members(value: AnyRef<'_>) -> Option<Vec<AnyRef<'_>>> {
    match value.tag() {
        Tag::Sequence => values(value.value()),
        _ => None,
    }
}

/// An `AlgorithmIdentifier` (RFC 5280, section 4.1.1.2): what it names, and its parameters.
pub(crate) fn algorithm(value: AnyRef<'_>) -> Option<(ObjectIdentifier, Option<AnyRef<'_>>)> {
    match members(value)?[..] {
        [oid] => Some((oid.decode_as().ok()?, None)),
        [oid, parameters] => Some((oid.decode_as().ok()?, Some(parameters))),
        _ => None,
    }
}

/// The big-endian digits of an INTEGER that is not negative, without leading zeros.
pub(crate) fn unsigned(value: AnyRef<'_>) -> Option<&[u8]> {
    match (value.tag(), value.value()) {
        (Tag::Integer, [first, ..]) if *first < 0x80 => Some(without_leading_zeros(value.value())),
        _ => None,
    }
}

/// An INTEGER that is not negative; larger ones become `u64::MAX`.
pub(crate) fn small(value: AnyRef<'_>) -> Option<u64> {
    let digits = unsigned(value)?;
    if digits.len() > 8 {
        return Some(u64::MAX);
    }
    Some(digits.iter().fold(0, |n, &digit| n << 8 | u64::from(digit)))
}

/// The bytes of an OCTET STRING.
pub(crate) fn octets(value: AnyRef<'_>) -> Option<&[u8]> {
    (value.tag() == Tag::OctetString).then(|| value.value())
}

/// The value of a BIT STRING (or an `[n] IMPLICIT BIT STRING`) that consists of whole bytes.
pub(crate) fn whole_bits(value: AnyRef<'_>) -> Option<&[u8]> {
    match value.value() {
        [0, bytes @ ..] => Some(bytes),
        _ => None,
    }
}

pub(crate) fn without_leading_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|&&digit| digit == 0).count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_integers() {
        let read = |der: &[u8]| small(AnyRef::from_der(der).unwrap());
        assert_eq!(read(&[2, 1, 0]), Some(0));
        assert_eq!(read(&[2, 2, 8, 0]), Some(2048));
        assert_eq!(read(&[2, 1, 0xff]), None);
        assert_eq!(read(&[2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Some(u64::MAX));
        assert_eq!(read(&[4, 1, 0]), None);
    }

    #[test]
    fn wants_nothing_left_over() {
        assert_eq!(sequence(&[0x30, 3, 2, 1, 0]).unwrap().len(), 1);
        assert!(sequence(&[0x30, 3, 2, 1, 0, 0]).is_none());
        assert!(sequence(&[0x30, 3, 2, 1]).is_none());
        assert!(sequence(&[0x31, 3, 2, 1, 0]).is_none());
    }
}
