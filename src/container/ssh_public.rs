//! ECDSA public keys as SSH writes them: in a line of a `.pub` file, and inside a private key.

use zeroize::Zeroizing;

use super::{
    algorithm, pem,
    ssh_wire::{Reader, Writer},
};

/// What a private key in OpenSSH's own binary form starts with.
pub(crate) const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";

/// What SSH calls the curve (RFC 5656, section 10.1).
pub(crate) const CURVE: &str = "nistp256";

/// The public key `point` (SEC1, uncompressed) as SSH sends it (RFC 5656, section 3.1).
pub(crate) fn blob(point: &[u8]) -> Vec<u8> {
    Writer::with_capacity(128)
        .string(algorithm::SSH_P256.as_bytes())
        .string(CURVE.as_bytes())
        .string(point)
        .finish()
        .to_vec()
}

/// The type of a public key as SSH sends it.
pub(crate) fn key_type(blob: &[u8]) -> Option<&str> {
    Reader(blob).name()
}

/// The point (SEC1) in an ECDSA P-256 key as SSH sends it.
pub(crate) fn point(blob: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(blob);
    reader.name().filter(|&name| name == algorithm::SSH_P256)?;
    reader.name().filter(|&curve| curve == CURVE)?;
    let point = reader.string()?;
    reader.0.is_empty().then_some(point)
}

/// The blobs of the public keys in `text` that are written as in a `.pub` file, in
/// `authorized_keys` (with options in front) or in `known_hosts` (with a host in front).
pub(crate) fn lines(text: &str) -> Vec<Zeroizing<Vec<u8>>> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.windows(2).find_map(|pair| {
            let blob = pem::decode_base64(pair[1].as_bytes())?;
            let key_type = Reader(&blob).name()?;
            (key_type == pair[0]).then_some(blob)
        })
    };
    text.lines().filter_map(line).collect()
}
