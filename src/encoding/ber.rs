//! BER (X.690) as DER: some programs leave lengths open or write them longer than necessary, and
//! `openssl` reads that.

use zeroize::Zeroizing;

const CONSTRUCTED: u8 = 0x20;
const OCTET_STRING: u8 = 0x04;
const END_OF_CONTENTS: [u8; 2] = [0, 0];

/// Deep enough for any key file, and shallow enough for any stack.
const MAX_DEPTH: usize = 32;

/// The first value in `bytes` with DER's lengths, and how many bytes it took; `None` if it is
/// incomplete or malformed.
pub(crate) fn first(bytes: &[u8]) -> Option<(Zeroizing<Vec<u8>>, usize)> {
    // Reserved in full, so that growing leaves no copy behind.
    let mut der = Zeroizing::new(Vec::with_capacity(2 * bytes.len()));
    let rest = value(bytes, &mut der, 0)?;
    Some((der, bytes.len() - rest.len()))
}

/// Appends one value to `der`, and returns what follows it.
fn value<'a>(bytes: &'a [u8], der: &mut Vec<u8>, depth: usize) -> Option<&'a [u8]> {
    let (identifier, rest) = identifier(bytes)?;
    let (length, rest) = length(rest)?;
    let constructed = identifier[0] & CONSTRUCTED != 0;
    if depth == MAX_DEPTH || (length.is_none() && !constructed) {
        return None;
    }
    let (contents, after) = match length {
        Some(length) => rest.split_at_checked(length)?,
        None => (rest, rest),
    };
    if !constructed {
        append(identifier, contents, der);
        return Some(after);
    }
    let mut members = Zeroizing::new(Vec::with_capacity(2 * contents.len()));
    let mut left = contents;
    loop {
        match (length, left) {
            (Some(_), []) => break,
            (None, _) if left.starts_with(&END_OF_CONTENTS) => break,
            _ => left = value(left, &mut members, depth + 1)?,
        }
    }
    if identifier == [OCTET_STRING | CONSTRUCTED] {
        append(&[OCTET_STRING], &joined(&members)?, der);
    } else {
        append(identifier, &members, der);
    }
    Some(match length {
        Some(_) => after,
        None => &left[END_OF_CONTENTS.len()..],
    })
}

/// The contents of the OCTET STRINGs in `members`, which are DER by now.
fn joined(members: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut octets = Zeroizing::new(Vec::with_capacity(members.len()));
    let mut rest = members;
    while let [OCTET_STRING, after @ ..] = rest {
        let (length, after) = length(after)?;
        let (part, after) = after.split_at_checked(length?)?;
        octets.extend_from_slice(part);
        rest = after;
    }
    rest.is_empty().then_some(octets)
}

/// The identifier octets (X.690, section 8.1.2).
fn identifier(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let more = match bytes.first()? & 0x1f {
        0x1f => 1 + bytes[1..].iter().position(|byte| byte & 0x80 == 0)?,
        _ => 0,
    };
    bytes.split_at_checked(1 + more)
}

/// The length octets (X.690, section 8.1.3); an open length is `None`.
fn length(bytes: &[u8]) -> Option<(Option<usize>, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    match first {
        0x80 => Some((None, rest)),
        0..0x80 => Some((Some(first.into()), rest)),
        _ => {
            let (digits, rest) = rest.split_at_checked((first & 0x7f).into())?;
            let zeros = digits.iter().take_while(|&&digit| digit == 0).count();
            let digits = &digits[zeros..];
            let length = digits
                .iter()
                .fold(0, |n, &digit| n << 8 | usize::from(digit));
            (digits.len() <= 4).then_some((Some(length), rest))
        }
    }
}

fn append(identifier: &[u8], contents: &[u8], der: &mut Vec<u8>) {
    der.extend_from_slice(identifier);
    let digits = contents.len().to_be_bytes();
    let zeros = digits.iter().take_while(|&&digit| digit == 0).count();
    match &digits[zeros..] {
        [] => der.push(0),
        &[short @ 0..0x80] => der.push(short),
        long => {
            der.push(0x80 | u8::try_from(long.len()).expect("a usize has at most 8 digits"));
            der.extend_from_slice(long);
        }
    }
    der.extend_from_slice(contents);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ber_becomes_der() {
        let long = [&[0x04, 0x81, 0x82][..], &[7; 0x82]].concat();
        for (ber, der) in [
            (&[0x30, 3, 2, 1, 5][..], &[0x30, 3, 2, 1, 5][..]),
            (&[0x30, 0x81, 3, 2, 1, 5], &[0x30, 3, 2, 1, 5]),
            (&[0x30, 0x83, 0, 0, 3, 2, 1, 5], &[0x30, 3, 2, 1, 5]),
            (&[0x30, 0x80, 2, 1, 5, 0, 0], &[0x30, 3, 2, 1, 5]),
            (
                &[0x30, 0x80, 0xa0, 0x80, 2, 0x81, 1, 5, 0, 0, 0, 0],
                &[0x30, 5, 0xa0, 3, 2, 1, 5],
            ),
            (&[0x24, 0x80, 4, 1, 1, 4, 2, 2, 3, 0, 0], &[4, 3, 1, 2, 3]),
            (&[0xbf, 0x81, 0x01, 0x80, 0, 0], &[0xbf, 0x81, 0x01, 0]),
            (&long, &long),
        ] {
            let with_more = [ber, &[0xff]].concat();
            let (read, length) = first(&with_more).unwrap();
            assert_eq!((&**read, length), (der, ber.len()));
        }
    }

    #[test]
    fn incomplete_and_malformed_values_are_rejected() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0x80, 2, 1, 5, 0],
            &[0x04, 0x80, 0, 0],
            &[0x30, 0x85, 1, 0, 0, 0, 0],
            &[0x30, 2, 2, 1],
            &[0x24, 3, 2, 1, 5],
            &[0x1f, 0x80],
        ] {
            assert!(first(bytes).is_none(), "{bytes:x?}");
        }
        assert!(first(&[[0x30, 0x80]; 100].concat()).is_none());
    }
}
