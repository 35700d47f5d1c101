//! PEM encrypted as a whole, by the headers `Proc-Type: 4,ENCRYPTED` and `DEK-Info` (RFC 1421,
//! sections 4.6.1.1 and 4.6.1.3): what `openssl ec -aes256` and `ssh-keygen -m PEM` write.

use aes::{Aes128, Aes192, Aes256};
use der::{Decode, asn1::AnyRef};
use des::{Des, TdesEde3};
use md5::{Digest, Md5};
use p256::elliptic_curve::Generate;
use zeroize::Zeroizing;

use super::{Error, PrivateKey, cbc, decode_plain, error::REENCRYPT_LEGACY, sec1};
use crate::encoding::pem::{self, Block};

#[derive(Clone, Copy, Debug)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
    Des,
}

impl Cipher {
    const ALL: [Self; 5] = [
        Self::Aes128,
        Self::Aes192,
        Self::Aes256,
        Self::TripleDes,
        Self::Des,
    ];

    /// The name that a `DEK-Info` header gives.
    fn name(self) -> &'static str {
        match self {
            Self::Aes128 => "AES-128-CBC",
            Self::Aes192 => "AES-192-CBC",
            Self::Aes256 => "AES-256-CBC",
            Self::TripleDes => "DES-EDE3-CBC",
            Self::Des => "DES-CBC",
        }
    }

    fn key_length(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 | Self::TripleDes => 24,
            Self::Aes256 => 32,
            Self::Des => 8,
        }
    }

    fn block_size(self) -> usize {
        match self {
            Self::Aes128 | Self::Aes192 | Self::Aes256 => 16,
            Self::TripleDes | Self::Des => 8,
        }
    }
}

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
    /// Takes a block and its data, and the curve that an `EC PARAMETERS` block beside it names.
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
        let cipher = Cipher::ALL
            .into_iter()
            .find(|cipher| cipher.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| Error::UnsupportedEncryption {
                scheme: name
                    .chars()
                    .filter(char::is_ascii_graphic)
                    .take(32)
                    .collect(),
                remedy: REENCRYPT_LEGACY,
            })?;
        let iv = base16ct::mixed::decode_vec(iv.trim())
            .ok()
            .filter(|iv| iv.len() == cipher.block_size())
            .ok_or_else(malformed)?;
        if !ciphertext.len().is_multiple_of(cipher.block_size()) {
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
        let key = derive(passphrase, &self.iv, self.cipher.key_length());
        let decrypt = match self.cipher {
            Cipher::Aes128 => cbc::decrypt::<Aes128>,
            Cipher::Aes192 => cbc::decrypt::<Aes192>,
            Cipher::Aes256 => cbc::decrypt::<Aes256>,
            Cipher::TripleDes => cbc::decrypt::<TdesEde3>,
            Cipher::Des => cbc::decrypt::<Des>,
        };
        let der = decrypt(&key, &self.iv, &self.ciphertext).ok_or(Error::WrongPassphrase)?;
        let parameters = self
            .parameters
            .as_deref()
            .and_then(|der| AnyRef::from_der(der).ok());
        match decode_plain(&der, parameters) {
            None | Some(Err(Error::Malformed(_))) => Err(Error::WrongPassphrase),
            Some(result) => result,
        }
    }
}

/// A SEC1 key under AES-256-CBC, the strongest cipher of the format.
pub(crate) fn encode(key: &PrivateKey, passphrase: &[u8]) -> Zeroizing<String> {
    let iv = <[u8; 16]>::generate();
    let cipher = Cipher::Aes256;
    let cipher_key = derive(passphrase, &iv, cipher.key_length());
    let ciphertext = cbc::encrypt::<Aes256>(&cipher_key, &iv, &sec1::encode(key))
        .expect("key and IV have the cipher's lengths");
    let dek_info = format!("{},{}", cipher.name(), base16ct::upper::encode_string(&iv));
    let headers = [
        ("Proc-Type", "4,ENCRYPTED"),
        ("DEK-Info", dek_info.as_str()),
    ];
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
