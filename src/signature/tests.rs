//! Unit tests of the encodings: edge cases that random signatures rarely or never reach.

use p256::ecdsa::signature::{Signer, hazmat::PrehashSigner};

use super::*;
use crate::encoding::ssh_wire::Writer;

/// The order of the group, big-endian; r and s are less (SEC 2, section 2.4.2).
const N: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// A number as 32 bytes.
fn number(digits: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[32 - digits.len()..].copy_from_slice(digits);
    bytes
}

fn n_minus_one() -> [u8; 32] {
    let mut bytes = N;
    bytes[31] -= 1;
    bytes
}

/// The content octets as an INTEGER of DER.
fn integer(content: &[u8]) -> Vec<u8> {
    [&[0x02, content.len() as u8], content].concat()
}

/// As DER has it: no zeros in front, but one where the first bit is set.
fn canonical(number: &[u8; 32]) -> Vec<u8> {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(31);
    let digits = &number[start..];
    let sign: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
    integer(&[sign, digits].concat())
}

fn sequence(members: &[&[u8]]) -> Vec<u8> {
    let content = members.concat();
    [&[0x30, content.len() as u8], &content[..]].concat()
}

fn der(r: &[u8; 32], s: &[u8; 32]) -> Vec<u8> {
    sequence(&[&canonical(r), &canonical(s)])
}

#[test]
fn round_trip_of_edge_case_numbers() {
    let numbers = [
        number(&[1]),
        number(&[0x7f]),
        number(&[0x80]),
        number(&[0xff, 0xff]),
        number(&[0x7f; 31]),
        number(&[0x80; 31]),
        number(&[0x01; 24]),
        number(&[0x80; 32]),
        number(&[0x7f; 32]),
        n_minus_one(),
    ];
    for r in &numbers {
        for s in &numbers {
            let raw = [*r, *s].concat();
            let from_raw = Signature::from_p1363(&raw).unwrap();
            let from_der = Signature::from_der(&der(r, s)).unwrap();
            assert_eq!(from_raw, from_der);
            assert_eq!(from_raw.to_p1363(), raw);
            assert_eq!(from_raw.to_der(), der(r, s));
            assert_eq!(
                Signature::from_base64(&from_raw.to_base64()).unwrap(),
                from_raw
            );
            // A text of 64 bytes could be raw; no signature of a real key is that short.
            let texts = [from_raw.to_hex(), from_raw.to_base64()];
            for text in texts.iter().filter(|text| text.len() != 64) {
                assert_eq!(Signature::from_any(text.as_bytes()).unwrap(), from_raw);
            }
            assert_eq!(Signature::from_any(&raw).unwrap(), from_raw);
            assert_eq!(Signature::from_any(&der(r, s)).unwrap(), from_raw);
        }
    }
}

#[test]
fn zero_and_order_are_out_of_range() {
    let one = number(&[1]);
    for bad in [number(&[0]), N, [0xff; 32]] {
        for (r, s) in [(bad, one), (one, bad), (bad, bad)] {
            let raw = [r, s].concat();
            assert_eq!(Signature::from_p1363(&raw), Err(Error::OutOfRange));
            assert_eq!(Signature::from_der(&der(&r, &s)), Err(Error::NotDer));
            assert!(Signature::from_any(&raw).is_err());
            assert!(Signature::from_any(&der(&r, &s)).is_err());
        }
    }
}

#[test]
fn high_s_is_accepted_and_preserved() {
    let key = ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
    let public_key = (*key.verifying_key()).into();
    let (mut high, mut low) = (0, 0);
    for challenge in 0..32_u8 {
        let signature = Signature(key.sign(&[challenge]));
        let s = signature.0.s();
        let other = ecdsa::Signature::from_scalars(signature.0.r(), -s).unwrap();
        let other = Signature(other);
        assert!(signature.verifies(&public_key, &[challenge]));
        assert!(other.verifies(&public_key, &[challenge]));
        assert_eq!(Signature::from_der(&other.to_der()).unwrap(), other);
        assert_ne!(other, signature);
        if signature.to_p1363()[32] >= 0x80 {
            high += 1;
        } else {
            low += 1;
        }
    }
    assert!(high > 0 && low > 0, "{high} high, {low} low");
}

#[test]
fn p1363_must_be_64_bytes() {
    for length in [0, 1, 32, 63, 65, 96, 128] {
        let bytes = vec![1; length];
        assert_eq!(Signature::from_p1363(&bytes), Err(Error::NotP1363(length)));
        assert!(Signature::from_any(&bytes).is_err());
    }
}

#[test]
fn non_canonical_der_is_rejected() {
    let (r, s) = (number(&[0x12; 20]), number(&[0x80; 32]));
    let good = der(&r, &s);
    assert!(Signature::from_der(&good).is_ok());
    let mut long_length = good.clone();
    long_length.splice(1..2, [0x81, good[1]]);
    let mut indefinite = good.clone();
    indefinite[1] = 0x80;
    indefinite.extend([0, 0]);
    let mut set = good.clone();
    set[0] = 0x31;
    let zeros = integer(&[&[0][..], &[0x12; 20]].concat());
    for (what, bytes) in [
        ("a zero too many", sequence(&[&zeros, &canonical(&s)])),
        (
            "a negative number",
            sequence(&[&canonical(&r), &integer(&[0x80; 32])]),
        ),
        (
            "an empty number",
            sequence(&[&integer(&[]), &canonical(&s)]),
        ),
        (
            "33 bytes",
            sequence(&[&integer(&[0x12; 33]), &canonical(&s)]),
        ),
        ("one number", sequence(&[&canonical(&r)])),
        (
            "three numbers",
            sequence(&[&canonical(&r), &canonical(&s), &canonical(&s)]),
        ),
        ("no number", sequence(&[])),
        ("a byte left over", [&good[..], &[0]].concat()),
        ("a newline left over", [&good[..], b"\n"].concat()),
        ("a byte missing", good[..good.len() - 1].to_vec()),
        ("a long form of the length", long_length),
        ("an indefinite length", indefinite),
        ("a SET", set),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(Signature::from_der(&bytes), Err(Error::NotDer), "{what}");
    }
}

#[test]
fn der_of_64_bytes_is_not_p1363() {
    let signature = der(&number(&[0x11; 29]), &number(&[0x11; 29]));
    assert_eq!(signature.len(), 64);
    assert_eq!(
        Signature::from_any(&signature).unwrap(),
        Signature::from_der(&signature).unwrap()
    );
}

#[test]
fn cluster_encoding_is_strict() {
    let line = Signature::from_p1363(&[1; 64]).unwrap().to_base64();
    assert!(Signature::from_base64(&line).is_ok());
    let raw = Engine::encode(&BASE64_STANDARD, [1; 64]);
    assert_eq!(Signature::from_base64(&raw), Err(Error::NotDer));
    for other in [
        format!("{line}\n"),
        format!(" {line}"),
        line.trim_end_matches('=').to_owned() + "*",
        line[..20].to_owned() + "\n" + &line[20..],
        line[1..].to_owned(),
    ] {
        assert!(Signature::from_base64(&other).is_err(), "{other:?}");
    }
}

#[test]
fn base64_alphabets_do_not_mix() {
    // Its digits hold all that the two alphabets write differently, and padding.
    let signature = Signature::from_p1363(&[[0xfb; 32], [0x7f; 32]].concat()).unwrap();
    let line = signature.to_base64();
    assert!("+/=".chars().all(|digit| line.contains(digit)), "{line}");
    let url = line.replace('+', "-").replace('/', "_");
    let unpadded = line.trim_end_matches('=');
    for text in [&line, &url, unpadded, url.trim_end_matches('=')] {
        assert_eq!(Signature::from_any(text.as_bytes()).unwrap(), signature);
    }
    // A decoder that drops what it does not know would read these.
    let mixed = format!("{}-_{}", &line[..40], &line[40..]);
    for text in [
        format!("{line}*"),
        format!("{}.{}", &line[..9], &line[9..]),
        mixed,
    ] {
        assert!(Signature::from_any(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn only_white_space_is_ignored() {
    let signature = Signature::from_p1363(&[3; 64]).unwrap();
    for text in [
        signature.to_base64(),
        signature.to_hex(),
        signature.to_hex().to_uppercase(),
    ] {
        let wrapped: String = text
            .as_bytes()
            .chunks(16)
            .map(|line| String::from_utf8_lossy(line).into_owned() + "\r\n")
            .collect();
        for text in [format!("\n {text}\t\n"), wrapped] {
            assert_eq!(
                Signature::from_any(text.as_bytes()).unwrap(),
                signature,
                "{text:?}"
            );
        }
    }
    for text in [
        "",
        "\n",
        "0x3006020101020101",
        "vault:v1:MEUC",
        "3006 0201 0102 010",
    ] {
        assert!(Signature::from_any(text.as_bytes()).is_err(), "{text:?}");
    }
    assert!(Signature::from_any(b"30 06 02 01 01 02 01 01").is_ok());
}

#[test]
fn challenge_is_hashed_once() {
    let key = ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
    let public_key = (*key.verifying_key()).into();
    use sha2::Digest;
    let digest = sha2::Sha256::digest(b"challenge");
    let of_digest: ecdsa::Signature = key.sign_prehash(&digest).unwrap();
    let of_twice: ecdsa::Signature = key.sign_prehash(&sha2::Sha256::digest(digest)).unwrap();
    assert!(Signature(of_digest).verifies(&public_key, b"challenge"));
    assert!(!Signature(of_digest).verifies(&public_key, &digest));
    assert!(!Signature(of_twice).verifies(&public_key, b"challenge"));
    assert!(!Signature(of_digest).verifies(&public_key, b"challenge\n"));
}

fn ssh(r: &[u8], s: &[u8]) -> Result<Vec<u8>, Error> {
    let numbers = Writer::with_capacity(80).string(r).string(s).finish();
    let blob = Writer::with_capacity(120)
        .string(ssh_public::SSH_P256.as_bytes())
        .string(&numbers)
        .finish();
    Signature::from_ssh(&blob).map(|signature| signature.to_p1363())
}

fn p1363(r: &[u8], s: &[u8]) -> Vec<u8> {
    let padded = |number: &[u8]| [&vec![0; 32 - number.len()], number].concat();
    [padded(r), padded(s)].concat()
}

#[test]
fn ssh_numbers_with_extra_or_missing_zeros() {
    let high = [0x80; 32];
    let with_zero = [&[0][..], &high].concat();
    for r in [&high[..], &with_zero, &[&[0, 0][..], &with_zero].concat()] {
        assert_eq!(ssh(r, &[1]).unwrap(), p1363(&high, &[1]));
        assert_eq!(ssh(&[1], r).unwrap(), p1363(&[1], &high));
    }
    let short = [0x7f; 31];
    let padded = [&[0][..], &short].concat();
    for s in [&short[..], &padded] {
        assert_eq!(ssh(&high, s).unwrap(), p1363(&high, &short));
    }
}

#[test]
fn p1363_in_both_base64_alphabets() {
    // Its digits differ in both alphabets: 0xfb 0xff 0xbf is "+/+/" or "-_-_".
    for (r, s) in [
        (&[1][..], &[0xfb, 0xff, 0xbf][..]),
        (&[0xfe; 32], &[0x7f; 31]),
    ] {
        let bytes = p1363(r, s);
        let wanted = Signature::from_p1363(&bytes).unwrap();
        let standard = BASE64_STANDARD.encode(&bytes);
        let url = standard.replace('+', "-").replace('/', "_");
        let bare = url.trim_end_matches('=');
        for text in [
            standard.as_str(),
            &url,
            bare,
            standard.trim_end_matches('='),
        ] {
            assert_eq!(Signature::from_p1363_base64(text), Ok(wanted.clone()));
        }
    }
    for (text, error) in [
        ("", Error::NotP1363(0)),
        ("+_==", Error::NotBase64),
        ("AAAA\n", Error::NotBase64),
        ("AAAA", Error::NotP1363(3)),
        (&"A".repeat(86), Error::OutOfRange),
    ] {
        assert_eq!(Signature::from_p1363_base64(text), Err(error), "{text:?}");
    }
}

#[test]
fn describe_names_encoding() {
    let p1363 = p1363(&[1; 32], &[2; 32]);
    let signature = Signature::from_p1363(&p1363).unwrap();
    for (bytes, said) in [
        (signature.to_der(), "ASN.1 DER"),
        (p1363.clone(), "r and s, 32 bytes each (IEEE P1363)"),
        (signature.to_base64().into(), "Base64 of ASN.1 DER"),
        (signature.to_hex().into(), "hexadecimal of ASN.1 DER"),
        (
            BASE64_STANDARD.encode(&p1363).into(),
            "Base64 of r and s, 32 bytes each (IEEE P1363)",
        ),
    ] {
        assert_eq!(describe(&bytes).as_deref(), Some(said));
    }
    assert_eq!(describe(b"no"), None);
    assert_eq!(describe(b""), None);
    assert_eq!(describe(b"\n"), None);
    assert_eq!(describe(&[0; 64]), None);
}

#[test]
fn invalid_ssh_signatures() {
    assert_eq!(ssh(&[0], &[1]), Err(Error::OutOfRange));
    assert_eq!(ssh(&[1], &[]), Err(Error::OutOfRange));
    assert_eq!(ssh(&[0xff; 32], &[1]), Err(Error::OutOfRange));
    assert_eq!(ssh(&[1; 33], &[1]), Err(Error::OutOfRange));
    assert_eq!(Signature::from_ssh(b""), Err(Error::NotSsh));
    let other = Writer::with_capacity(40)
        .string(b"rsa-sha2-256")
        .string(b"x");
    assert_eq!(
        Signature::from_ssh(&other.finish()),
        Err(Error::OtherSsh("rsa-sha2-256".into()))
    );
    let numbers = Writer::with_capacity(40)
        .string(&[1])
        .string(&[1])
        .bytes(&[0]);
    let left_over = Writer::with_capacity(80)
        .string(ssh_public::SSH_P256.as_bytes())
        .string(&numbers.finish());
    assert_eq!(Signature::from_ssh(&left_over.finish()), Err(Error::NotSsh));
}
