//! OpenSSH's own format, which `ssh-keygen` writes:
//! <https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.key>

use bcrypt_pbkdf::bcrypt_pbkdf;
use p256::elliptic_curve::Generate;
use ssh_cipher::Cipher;
use zeroize::Zeroizing;

use super::{Error, KeyFile, PrivateKey, error::REENCRYPT_OPENSSH};
use crate::encoding::{
    algorithm, pem,
    ssh_public::{self, CURVE, OPENSSH_MAGIC},
    ssh_wire::{Reader, Writer},
};

pub(crate) const NAME: &str = "OpenSSH private key";
const LABEL: &str = "OPENSSH PRIVATE KEY";

/// The most rounds a file may ask for: about twenty seconds.
const MAX_ROUNDS: u32 = 4096;
/// The default of `ssh-keygen` since OpenSSH 9.4.
const ROUNDS: u32 = 24;

/// Every cipher that `ssh-keygen -Z` accepts.
const CIPHERS: [Cipher; 10] = [
    Cipher::TdesCbc,
    Cipher::Aes128Cbc,
    Cipher::Aes192Cbc,
    Cipher::Aes256Cbc,
    Cipher::Aes128Ctr,
    Cipher::Aes192Ctr,
    Cipher::Aes256Ctr,
    Cipher::Aes128Gcm,
    Cipher::Aes256Gcm,
    Cipher::ChaCha20Poly1305,
];

fn malformed() -> Error {
    Error::Malformed(NAME.into())
}

/// An encrypted key.
#[derive(Debug)]
pub(crate) struct Encrypted {
    cipher: Cipher,
    salt: Vec<u8>,
    rounds: u32,
    public: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: Option<[u8; 16]>,
}

/// Reads the binary format, which starts with [`OPENSSH_MAGIC`]. The public key is not encrypted, so an
/// unsupported key is an error before a passphrase prompt.
pub(crate) fn read(bytes: &[u8]) -> Result<KeyFile, Error> {
    let mut reader = Reader(bytes.strip_prefix(OPENSSH_MAGIC).ok_or_else(malformed)?);
    let cipher = reader.name().ok_or_else(malformed)?;
    let kdf = reader.name().ok_or_else(malformed)?;
    let kdf_options = reader.string().ok_or_else(malformed)?;
    match reader.uint32().ok_or_else(malformed)? {
        1 => {}
        several @ 2..=64 => return Err(Error::SeveralKeys(several as usize)),
        _ => return Err(malformed()),
    }
    let public = reader.string().ok_or_else(malformed)?;
    let key_type = Reader(public).name().ok_or_else(malformed)?;
    algorithm::check_ssh(key_type).map_err(Error::NotP256)?;
    let private = reader.string().ok_or_else(malformed)?;

    if cipher == "none" {
        let result = decode(private, public);
        return result.ok_or_else(malformed)?.map(KeyFile::Plain);
    }
    let unsupported = |scheme: &str| Error::unsupported(scheme, REENCRYPT_OPENSSH);
    let known = CIPHERS.into_iter().find(|known| known.as_str() == cipher);
    let cipher = known.ok_or_else(|| unsupported(cipher))?;
    if kdf != "bcrypt" {
        return Err(unsupported(&format!("the key derivation {kdf}")));
    }
    let (salt, rounds) = bcrypt_options(kdf_options)?;
    let tag = match (cipher.has_tag(), reader.0) {
        (false, []) => None,
        (true, tag) => Some(tag.try_into().map_err(|_| malformed())?),
        _ => return Err(malformed()),
    };
    if private.is_empty() || !private.len().is_multiple_of(cipher.block_size()) {
        return Err(malformed());
    }
    Ok(KeyFile::encrypted(super::Encrypted::Openssh(Encrypted {
        cipher,
        salt: salt.to_vec(),
        rounds,
        public: public.to_vec(),
        ciphertext: private.to_vec(),
        tag,
    })))
}

fn bcrypt_options(options: &[u8]) -> Result<(&[u8], u32), Error> {
    let mut reader = Reader(options);
    match (reader.string(), reader.uint32()) {
        (Some([]) | None, _) | (_, Some(0) | None) => Err(malformed()),
        (_, Some(rounds)) if rounds > MAX_ROUNDS => {
            let asked = format!("{rounds} rounds of bcrypt");
            Err(Error::too_costly(asked, MAX_ROUNDS, REENCRYPT_OPENSSH))
        }
        (Some(salt), Some(rounds)) => Ok((salt, rounds)),
    }
}

impl Encrypted {
    pub(crate) fn decrypt(&self, passphrase: &[u8]) -> Result<PrivateKey, Error> {
        let (key, iv) = derive(self.cipher, passphrase, &self.salt, self.rounds)
            .ok_or(Error::WrongPassphrase)?;
        let mut private = Zeroizing::new(self.ciphertext.clone());
        self.cipher
            .decrypt(&key, &iv, &mut private, self.tag.map(Into::into))
            .map_err(|_| Error::WrongPassphrase)?;
        decode(&private, &self.public).ok_or(Error::WrongPassphrase)?
    }
}

/// The cipher's key and IV; `None` for an empty passphrase, which OpenSSH does not allow.
fn derive(
    cipher: Cipher,
    passphrase: &[u8],
    salt: &[u8],
    rounds: u32,
) -> Option<(Zeroizing<Vec<u8>>, Vec<u8>)> {
    let (key_length, iv_length) = cipher.key_and_iv_size()?;
    let mut derived = Zeroizing::new(vec![0; key_length + iv_length]);
    bcrypt_pbkdf(passphrase, salt, rounds, &mut derived).ok()?;
    let key = Zeroizing::new(derived[..key_length].to_vec());
    // This cipher's nonce is zero; the salt alone makes its key unique.
    let iv = match cipher {
        Cipher::ChaCha20Poly1305 => vec![0; iv_length],
        _ => derived[key_length..].to_vec(),
    };
    Some((key, iv))
}

/// Decodes the private section; `None` if it is malformed, as after a wrong passphrase. `public` is the
/// public key before it.
fn decode(private: &[u8], public: &[u8]) -> Option<Result<PrivateKey, Error>> {
    let outer_point = ssh_public::point(public)?;
    let mut reader = Reader(private);
    if reader.uint32()? != reader.uint32()? {
        return None;
    }
    let key_type = reader.name()?;
    if let Err(other) = algorithm::check_ssh(key_type) {
        return Some(Err(Error::NotP256(other)));
    }
    reader.name().filter(|&curve| curve == CURVE)?;
    let point = reader.string()?;
    let scalar = reader.unsigned()?;
    let _comment = reader.string()?;
    let is_padding = |(padding, byte): (u8, &u8)| padding == *byte;
    if !(1..).zip(reader.0).all(is_padding) {
        return None;
    }
    Some(PrivateKey::from_parts(scalar, &[point, outer_point]))
}

/// A PEM block; with a passphrase, encrypted as `ssh-keygen` does by default.
pub(crate) fn encode(
    key: &PrivateKey,
    passphrase: Option<&[u8]>,
    comment: &str,
) -> Result<Zeroizing<String>, Error> {
    let point = key.public_key().to_sec1();
    let check = u32::generate();
    let scalar = Zeroizing::new(key.secret().to_bytes());
    let mut private = Writer::with_capacity(512 + comment.len())
        .uint32(check)
        .uint32(check)
        .string(ssh_public::SSH_P256.as_bytes())
        .string(CURVE.as_bytes())
        .string(&point)
        .unsigned(&scalar)
        .string(comment.as_bytes());
    let cipher = match passphrase {
        Some(_) => Cipher::Aes256Ctr,
        None => Cipher::None,
    };
    for padding in 1..=cipher.padding_len(private.len()) as u8 {
        private = private.bytes(&[padding]);
    }
    let mut private = private.finish();

    let writer = Writer::with_capacity(1024 + comment.len())
        .bytes(OPENSSH_MAGIC)
        .string(cipher.as_str().as_bytes());
    let writer = match passphrase {
        None => writer.string(b"none").string(b""),
        Some(passphrase) => {
            let salt = <[u8; 16]>::generate();
            let (key, iv) = derive(cipher, passphrase, &salt, ROUNDS)
                .ok_or(Error::EmptyPassphrase("an OpenSSH private key"))?;
            cipher
                .encrypt(&key, &iv, &mut private)
                .expect("key, IV and length fit the cipher");
            let options = Writer::with_capacity(24).string(&salt).uint32(ROUNDS);
            writer.string(b"bcrypt").string(&options.finish())
        }
    };
    let bytes = writer
        .uint32(1)
        .string(&ssh_public::blob(&point))
        .string(&private)
        .finish();
    Ok(pem::encode(LABEL, &[], &bytes, 70))
}
