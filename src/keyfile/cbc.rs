//! CBC with the padding of PKCS#7 (RFC 8018, section 6.1.1), as in PEM and PKCS#8 files.

use cbc::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit,
    block_padding::Pkcs7,
};
use zeroize::Zeroizing;

/// The plaintext; `None` if the padding is wrong, or the key or IV has the wrong length.
pub(crate) fn decrypt<C: BlockCipherDecrypt + KeyInit>(
    key: &[u8],
    iv: &[u8],
    ciphertext: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let length = cbc::Decryptor::<C>::new_from_slices(key, iv)
        .ok()?
        .decrypt_padded::<Pkcs7>(&mut buffer)
        .ok()?
        .len();
    buffer.truncate(length);
    Some(buffer)
}

/// The ciphertext; `None` if the key or IV has the wrong length.
pub(crate) fn encrypt<C: BlockCipherEncrypt + KeyInit>(
    key: &[u8],
    iv: &[u8],
    plaintext: &[u8],
) -> Option<Vec<u8>> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(plaintext.len() + C::block_size()));
    buffer.extend_from_slice(plaintext);
    buffer.resize(plaintext.len() + C::block_size(), 0);
    cbc::Encryptor::<C>::new_from_slices(key, iv)
        .ok()?
        .encrypt_padded::<Pkcs7>(&mut buffer, plaintext.len())
        .ok()
        .map(<[u8]>::to_vec)
}
