//! PEM encrypted as a whole, by the headers `Proc-Type: 4,ENCRYPTED` and `DEK-Info` (RFC 1421,
//! sections 4.6.1.1 and 4.6.1.3): what `openssl ec -aes256` and `ssh-keygen -m PEM` write.

use ::cbc::cipher::{BlockCipherDecrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use der::{Decode, asn1::AnyRef};
use des::{Des, TdesEde3};
use md5::{Digest, Md5};
use p256::elliptic_curve::Generate;
use zeroize::Zeroizing;

use super::{Error, PrivateKey, cbc, decode_plain, error::REENCRYPT_LEGACY, sec1};
use crate::encoding::pem::{self, Block};

#[derive(Debug)]
struct Cipher {
    /// As in a `DEK-Info` header.
    name: &'static str,
    key_length: usize,
    block_size: usize,
    decrypt: Decrypt,
}

type Decrypt = fn(&[u8], &[u8], &[u8]) -> Option<Zeroizing<Vec<u8>>>;

impl Cipher {
    fn all() -> [Self; 5] {
        [
            Self::of::<Aes128>("AES-128-CBC"),
            Self::of::<Aes192>("AES-192-CBC"),
            Self::of::<Aes256>(AES_256),
            Self::of::<TdesEde3>("DES-EDE3-CBC"),
            Self::of::<Des>("DES-CBC"),
        ]
    }

    fn of<C: BlockCipherDecrypt + KeyInit>(name: &'static str) -> Self {
        Self {
            name,
            key_length: C::key_size(),
            block_size: C::block_size(),
            decrypt: cbc::decrypt::<C>,
        }
    }
}

/// The strongest cipher of the format.
const AES_256: &str = "AES-256-CBC";

/// An encrypted block.
#[derive(Debug)]
pub(crate) struct Encrypted {
    cipher: Cipher,
    iv: Vec<u8>,
    ciphertext: Vec<u8>,
    /// The DER of an `EC PARAMETERS` block in the same file.
    parameters: Option<Vec<u8>>,
}

impl Encrypted {
    /// Reads a block from its data, and the DER of an `EC PARAMETERS` block in the same file.
    pub(crate) fn read(
        block: &Block,
        ciphertext: &[u8],
        parameters: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let label = block.label.clone().unwrap_or_default();
        let malformed = || Error::Malformed(format!("encryption header of the {label} block"));
        let (name, iv) = block
            .header("DEK-Info")
            .and_then(|info| info.split_once(','))
            .ok_or_else(malformed)?;
        let mut ciphers = Cipher::all().into_iter();
        let cipher = ciphers.find(|cipher| cipher.name.eq_ignore_ascii_case(name));
        let cipher = cipher.ok_or_else(|| {
            let name: String = name
                .chars()
                .filter(char::is_ascii_graphic)
                .take(32)
                .collect();
            Error::unsupported(name, REENCRYPT_LEGACY)
        })?;
        let iv = base16ct::mixed::decode_vec(iv.trim()).ok();
        let iv = iv.filter(|iv| iv.len() == cipher.block_size);
        let iv = iv.ok_or_else(malformed)?;
        if !ciphertext.len().is_multiple_of(cipher.block_size) {
            return Err(Error::Malformed(format!("{label} block")));
        }
        Ok(Self {
            cipher,
            iv,
            ciphertext: ciphertext.to_vec(),
            parameters: parameters.map(<[u8]>::to_vec),
        })
    }

    /// As with PKCS#8, a plaintext that is not a key means a wrong passphrase.
    pub(crate) fn decrypt(&self, passphrase: &[u8]) -> Result<PrivateKey, Error> {
        let key = derive(passphrase, &self.iv, self.cipher.key_length);
        let der = (self.cipher.decrypt)(&key, &self.iv, &self.ciphertext);
        let der = der.ok_or(Error::WrongPassphrase)?;
        let parameters = self.parameters.as_deref();
        let parameters = parameters.and_then(|der| AnyRef::from_der(der).ok());
        match decode_plain(&der, parameters) {
            None | Some(Err(Error::Malformed(_))) => Err(Error::WrongPassphrase),
            Some(result) => result,
        }
    }
}

/// A SEC1 key under AES-256-CBC.
pub(crate) fn encode(key: &PrivateKey, passphrase: &[u8]) -> Zeroizing<String> {
    let iv = <[u8; 16]>::generate();
    let cipher_key = derive(passphrase, &iv, 32);
    let ciphertext = cbc::encrypt::<Aes256>(&cipher_key, &iv, &sec1::encode(key))
        .expect("key and IV have the cipher's lengths");
    let dek_info = format!("{AES_256},{}", base16ct::upper::encode_string(&iv));
    let headers = [("Proc-Type", "4,ENCRYPTED"), ("DEK-Info", &dek_info)];
    pem::encode(sec1::LABEL, &headers, &ciphertext, 64)
}

/// OpenSSL's `EVP_BytesToKey` with MD5 and one iteration, whose salt is the first eight bytes of
/// the IV: <https://docs.openssl.org/3.0/man3/PEM_read_bio_PrivateKey/>, "PEM encryption format".
fn derive(passphrase: &[u8], iv: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(length + 16));
    while key.len() < length {
        let previous = key.len().saturating_sub(16);
        let hash = Md5::new()
            .chain_update(&key[previous..])
            .chain_update(passphrase)
            .chain_update(&iv[..8])
            .finalize();
        key.extend_from_slice(&hash);
    }
    key.truncate(length);
    key
}
