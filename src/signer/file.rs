//! Private keys in files, on stdin, or in a FIFO.

use std::{
    error::Error as StdError,
    fs::{File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::{
    Context, Opened, Signer, secret_error,
    source::{Generate, Generated, Kind, Source},
};
use crate::{
    error::{Error, Kind as ErrorKind, Result},
    input,
    keyfile::{self, EncryptedKey, KeyFile, PrivateKey},
    permissions,
    public_key::PublicKey,
    secret::Secret,
    signature::Signature,
    subprocess::quote,
};

pub static KIND: Kind = Kind {
    scheme: "file",
    form: "PATH or file:PATH (`-` is stdin)",
    attributes: &[],
    secret: Some(FAMILY),
    open,
    generate: Some(generate),
};

const FAMILY: &str = "passphrase";

/// The largest container of a P-256 key, with a certificate chain in the same file, is far
/// smaller.
const LIMIT: usize = 1 << 20;

/// How often a person may mistype a passphrase.
const TRIES: usize = 3;

struct FileSigner {
    key: PrivateKey,
    public_key: PublicKey,
}

impl Signer for FileSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        Ok(self.key.sign(challenge))
    }
}

impl From<PrivateKey> for FileSigner {
    fn from(key: PrivateKey) -> Self {
        Self {
            public_key: key.public_key(),
            key,
        }
    }
}

pub fn is_stdin(source: &Source) -> bool {
    source.body() == "-"
}

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let contents = read(source)?;
    let key_file = keyfile::parse(&contents).map_err(|error| key_error(source, &error))?;
    let path = Path::new(source.body());
    if !is_stdin(source)
        && let Ok(metadata) = path.metadata()
    {
        permissions::warn_if_readable_by_others(path, &metadata);
    }
    let encrypted = match key_file {
        KeyFile::Plain(key) => return Ok(Opened::Signer(Box::new(FileSigner::from(key)))),
        KeyFile::Encrypted(encrypted) => encrypted,
    };
    if let Some(secret_source) = source.secret()? {
        let passphrase = context
            .asker
            .read(&secret_source, &passphrase_of(source))
            .map_err(|error| secret_error(source.body(), FAMILY, &error))?;
        let key = encrypted
            .decrypt(passphrase.as_bytes())
            .map_err(|error| key_error(source, &error))?;
        return Ok(Opened::Signer(Box::new(FileSigner::from(key))));
    }
    let (source, context) = (source.clone(), context.clone());
    Ok(Opened::Locked(Box::new(move || {
        ask_and_decrypt(&source, &context, &encrypted)
    })))
}

fn passphrase_of(source: &Source) -> String {
    format!("the passphrase of {}", source.body())
}

fn ask_and_decrypt(
    source: &Source,
    context: &Context,
    encrypted: &EncryptedKey,
) -> Result<Box<dyn Signer>> {
    let what = passphrase_of(source);
    let mut tries_left = TRIES;
    loop {
        let passphrase = context
            .asker
            .ask(&what)
            .map_err(|error| secret_error(source.body(), FAMILY, &error))?;
        tries_left -= 1;
        match encrypted.decrypt(passphrase.as_bytes()) {
            Ok(key) => return Ok(Box::new(FileSigner::from(key))),
            Err(keyfile::Error::WrongPassphrase) if tries_left > 0 => {
                log::warn!("that is not {what}; try again");
            }
            Err(error) => return Err(key_error(source, &error)),
        }
    }
}

fn read(source: &Source) -> Result<Zeroizing<Vec<u8>>> {
    let title = source.body();
    let result = if is_stdin(source) {
        input::read_to_end(|| Ok(io::stdin()), LIMIT)
    } else {
        let path = PathBuf::from(title);
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                return Err(
                    Error::new(ErrorKind::Key, format!("{title} is a directory"))
                        .hint("name the key file in it"),
                );
            }
            // Opening it says what is wrong with it.
            _ => {}
        }
        input::read_to_end(|| File::open(path), LIMIT)
    };
    result.map_err(|error| match error {
        input::Error::Interrupted(kind) => {
            Error::new(kind, format!("stopped by a signal while {title} was read"))
        }
        input::Error::TooLong(_) => Error::new(
            ErrorKind::Key,
            format!("{title} is larger than 1 MiB: that is no key file"),
        )
        .hint("name the file that holds the private key"),
        input::Error::Unreadable(error) => unreadable(title, &error),
    })
}

fn unreadable(title: &str, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => Some("check the path, or make a key with `qkey generate PATH`"),
        io::ErrorKind::PermissionDenied => Some("run this as the user who owns the key file"),
        _ => None,
    };
    Error::new(ErrorKind::Key, format!("cannot read the key file {title}"))
        .caused_by(error)
        .maybe_hint(hint.map(str::to_owned))
}

fn key_error(source: &Source, error: &keyfile::Error) -> Error {
    let path = match is_stdin(source) {
        true => "FILE".to_owned(),
        false => quote(source.body()),
    };
    Error::new(
        ErrorKind::Key,
        format!("cannot use the key file {}", source.body()),
    )
    .caused_by(error)
    .maybe_hint(error.hint().map(|hint| hint.replace("FILE", &path)))
}

fn generate(source: &Source, context: &Arc<Context>, how: &Generate) -> Result<Generated> {
    if is_stdin(source) {
        let message = "a new key needs a file; `-` is stdin";
        return Err(
            Error::new(ErrorKind::Usage, message).hint("name a path that does not exist yet")
        );
    }
    let passphrase = match source.secret()? {
        Some(secret_source) => Some(context.asker.read(&secret_source, &passphrase_of(source))),
        None if how.encrypt => Some(
            context
                .asker
                .ask_for_new(&format!("passphrase for {}", source.body())),
        ),
        None => None,
    }
    .transpose()
    .map_err(|error| secret_error(source.body(), FAMILY, &error))?;
    let key = PrivateKey::generate();
    let format = how.format.unwrap_or(keyfile::Format::Pkcs8);
    if format == keyfile::Format::Sec1 && passphrase.is_some() {
        log::warn!(
            "a SEC1 file is encrypted with a key that is derived in a weak way; leave out --format for a better one"
        );
    }
    let passphrase = passphrase.as_ref().map(Secret::as_bytes);
    let text = keyfile::encode(&key, format, passphrase, "qkey")
        .map_err(|error| key_error(source, &error))?;
    write_new(Path::new(source.body()), text.as_bytes())?;
    Ok(Generated {
        source: source.text().to_owned(),
        public_key: key.public_key(),
    })
}

/// Writes a file that must not exist yet: whole or not at all, readable by its owner alone from
/// the first byte, and on disk when this returns.
fn write_new(path: &Path, contents: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let failed = |error: &io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => format!(
                "no file is ever overwritten: choose another path, or look at the key there with `qkey pubkey {}`",
                quote(&path.to_string_lossy())
            ),
            io::ErrorKind::NotFound => "make the folder first".to_owned(),
            _ => "choose a place where this user can write".to_owned(),
        };
        Error::new(
            ErrorKind::Key,
            format!("cannot write a new key to {}", path.display()),
        )
        .caused_by(without_temporary_path(error))
        .hint(hint)
    };
    // Asked beforehand only to spare the work: the last step refuses as well.
    if path.symlink_metadata().is_ok() {
        return Err(failed(&Errno::EXIST.into()));
    }
    let mut file = tempfile::Builder::new()
        .prefix(".qkey-")
        .tempfile_in(&folder)
        .map_err(|error| failed(&error))?;
    // A umask may have taken even the owner's rights.
    file.as_file()
        .set_permissions(Permissions::from_mode(0o600))
        .map_err(|error| failed(&error))?;
    file.write_all(contents).map_err(|error| failed(&error))?;
    file.as_file().sync_all().map_err(|error| failed(&error))?;
    file.persist_noclobber(path)
        .map_err(|error| failed(&error.error))?;
    File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| failed(&error))
}

/// The system's own words: the name of a temporary file tells a user nothing.
fn without_temporary_path(error: &io::Error) -> &(dyn StdError + 'static) {
    error.source().unwrap_or(error)
}
