//! Public keys as SSH writes them: in a line of a `.pub` file, inside a private key, and in the replies
//! of an agent.

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    pem,
    ssh_wire::{Reader, Writer},
};

/// How a private key in OpenSSH's own binary format starts.
pub(crate) const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";

/// The OpenSSH type of an ECDSA P-256 key (RFC 5656, section 6.2).
pub(crate) const SSH_P256: &str = "ecdsa-sha2-nistp256";

/// SSH's name of the curve (RFC 5656, section 10.1).
pub(crate) const CURVE: &str = "nistp256";

/// How the type of a certificate ends:
/// <https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.certkeys>
const CERTIFICATE: &str = "-cert-v01@openssh.com";

/// The public key `point` (SEC1, uncompressed) as SSH sends it (RFC 5656, section 3.1).
pub(crate) fn blob(point: &[u8]) -> Vec<u8> {
    Writer::with_capacity(128)
        .string(SSH_P256.as_bytes())
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
    reader.name().filter(|&name| name == SSH_P256)?;
    reader.name().filter(|&curve| curve == CURVE)?;
    let point = reader.string()?;
    reader.0.is_empty().then_some(point)
}

/// The fingerprint as `ssh-keygen -l` and `ssh-add -l` show it: `SHA256:` and unpadded Base64 of the
/// SHA-256 of the key as SSH sends it; a certificate has that of its key.
pub(crate) fn fingerprint(blob: &[u8]) -> String {
    let certified = certified(blob);
    let hash = Sha256::digest(certified.as_deref().map_or(blob, Vec::as_slice));
    format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(hash))
}

/// Whether this is the type of a certificate.
pub(crate) fn is_certificate(key_type: &str) -> bool {
    key_type.ends_with(CERTIFICATE)
}

/// The public key in a certificate, which consists of its type, a nonce, the members of the key, and
/// what is certified.
fn certified(certificate: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut reader = Reader(certificate);
    let name = reader.name()?.strip_suffix(CERTIFICATE)?;
    let (domain, members) = match name {
        "ssh-ed25519" => ("", 1),
        "ssh-dss" => ("", 4),
        "sk-ssh-ed25519" => ("@openssh.com", 2),
        "sk-ecdsa-sha2-nistp256" => ("@openssh.com", 3),
        _ => ("", 2),
    };
    let _nonce = reader.string()?;
    let mut key =
        Writer::with_capacity(certificate.len()).string(format!("{name}{domain}").as_bytes());
    for _ in 0..members {
        key = key.string(reader.string()?);
    }
    Some(key.finish())
}

/// The blobs of the public keys in `text`, in the format of `.pub` files, `authorized_keys` (after
/// options) or `known_hosts` (after a host).
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
