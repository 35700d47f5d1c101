//! Private keys in files, on stdin, or in a FIFO.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use zeroize::Zeroizing;

use super::{
    Context, Opened, Signer, never_asked, secret_error,
    source::{Body, Generate, Generated, Source, SourceKind, no_path},
};
use crate::{
    error::{Error, Kind as ErrorKind, Reason, Result},
    input,
    interrupt::{self, LastWords},
    keyfile::{self, EncryptedKey, KeyFile, PrivateKey},
    private_file::{self, NewFile},
    public_key::PublicKey,
    secret::{self, Secret},
    signature::Signature,
    text::quote_path,
};

pub static KIND: SourceKind = SourceKind {
    scheme: "file",
    form: "PATH or file:PATH (`-` is stdin)",
    body: Body::Path(|source| !source.body_is_stdin()),
    attributes: &[],
    confidential: &[],
    path_in: no_path,
    secret: Some(FAMILY),
    open,
    generate: Some(generate),
};

const FAMILY: &str = "passphrase";

/// The longest file read, in bytes: a P-256 key with a certificate chain is far smaller.
const LIMIT: usize = 1 << 20;

/// How many passphrases a user may type.
const ATTEMPTS: usize = 3;

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

fn open(source: &Source, context: &Arc<Context>) -> Result<Opened> {
    let contents = read(source)?;
    let key_file = keyfile::parse(&contents).map_err(|error| key_error(source, &error))?;
    let path = Path::new(source.body());
    if !source.body_is_stdin()
        && let Ok(metadata) = path.metadata()
    {
        private_file::warn_if_readable_by_others(path, &metadata);
    }
    let encrypted = match key_file {
        KeyFile::Plain(key) => {
            return match source.secret_attribute() {
                Some(attribute) => Err(not_encrypted(source, attribute)),
                None => Ok(Opened::Signer(Box::new(FileSigner::from(key)))),
            };
        }
        KeyFile::Encrypted(encrypted) => encrypted,
    };
    if let Some(secret_source) = source.secret()? {
        let passphrase = context
            .asker
            .read(&secret_source, &passphrase_of(source))
            .map_err(|error| secret_error(source.body(), FAMILY, &error))?;
        let key = decrypt(source, context, &encrypted, &passphrase)?;
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
    let mut attempt = 1;
    loop {
        let passphrase = context
            .asker
            .ask(&what)
            .map_err(|error| secret_error(source.body(), FAMILY, &error))?;
        match decrypt(source, context, encrypted, &passphrase) {
            Ok(key) => return Ok(Box::new(FileSigner::from(key))),
            Err(error) if attempt < ATTEMPTS && error.reason() == Some(Reason::WrongSecret) => {
                let path = source.body();
                log::warn!("wrong passphrase for {path} (attempt {attempt} of {ATTEMPTS})");
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Decrypts a key, unless the same passphrase was wrong for this file earlier in this run.
fn decrypt(
    source: &Source,
    context: &Context,
    encrypted: &EncryptedKey,
    passphrase: &Secret,
) -> Result<PrivateKey> {
    let path = Path::new(source.body());
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let holder = format!("file:{}", file.display());
    let gate = context.refusals.of_secret(&holder, Some(passphrase));
    gate.open(source.text(), || {
        encrypted
            .decrypt(passphrase.as_bytes())
            .map_err(|error| key_error(source, &error))
    })
}

fn not_encrypted(source: &Source, attribute: &str) -> Error {
    let remove = format!("remove {attribute} from the key source");
    let error = never_asked(source.body(), "the key is not encrypted", attribute);
    match source.body_is_stdin() {
        true => error.hint(remove),
        false => {
            let path = quote_path(Path::new(source.body()));
            error.hint(format!(
                "{remove}, or encrypt the key first: `openssl pkcs8 -topk8 -in {path} -out NEW`, \
                 or for OpenSSH's format `ssh-keygen -p -f {path}`"
            ))
        }
    }
}

fn read(source: &Source) -> Result<Zeroizing<Vec<u8>>> {
    let title = source.body();
    let result = if source.body_is_stdin() {
        input::read_to_end(input::stdin, LIMIT, None)
    } else {
        let path = PathBuf::from(title);
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                return Err(
                    Error::new(ErrorKind::Key, format!("{title} is a directory"))
                        .hint("specify a key file in this directory"),
                );
            }
            // Opening it reports what is wrong.
            _ => {}
        }
        input::read_to_end(|| File::open(path), LIMIT, None)
    };
    result.map_err(|error| match error {
        input::Error::Interrupted(kind) => {
            Error::new(kind, format!("interrupted while reading {title}"))
        }
        input::Error::TooLong(_) => Error::new(
            ErrorKind::Key,
            format!("{title} is not a key file: larger than 1 MiB"),
        )
        .hint("specify the file with the private key"),
        input::Error::Unreadable(error) => unreadable(title, &error),
        error @ input::Error::TimedOut(_) => unreadable(title, &io::Error::other(error)),
    })
}

fn unreadable(title: &str, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => Some("check the path"),
        io::ErrorKind::PermissionDenied => Some("run this as the user who owns the key file"),
        _ => None,
    };
    Error::new(ErrorKind::Key, format!("cannot read the key file {title}"))
        .caused_by(error)
        .maybe_hint(hint.map(str::to_owned))
}

fn key_error(source: &Source, error: &keyfile::Error) -> Error {
    let path = match source.body_is_stdin() {
        true => "FILE".to_owned(),
        false => quote_path(Path::new(source.body())),
    };
    let reason = match error {
        keyfile::Error::WrongPassphrase => Some(Reason::WrongSecret),
        _ => None,
    };
    Error::new(
        ErrorKind::Key,
        format!("cannot use the key file {}", source.body()),
    )
    .because(reason)
    .caused_by(error)
    .maybe_hint(error.hint().map(|hint| hint.replace("FILE", &path)))
}

fn generate(source: &Source, context: &Arc<Context>, how: &Generate) -> Result<Generated> {
    // It would become part of the file name, and the key would not be encrypted.
    let mistaken = [";passphrase-", "&passphrase-"];
    if mistaken.iter().any(|text| source.body().contains(text)) {
        return Err(source
            .invalid("attributes follow `?`")
            .hint("to encrypt the key, write PATH?passphrase-file=PATH"));
    }
    if source.body_is_stdin() {
        let message = "cannot write a new key to `-` (stdin)";
        return Err(
            Error::new(ErrorKind::Usage, message).hint("specify a path that does not exist yet")
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
    .map_err(|error| match error {
        secret::Error::NoInput { .. } | secret::Error::NoTerminal { .. } => {
            let message = format!("cannot encrypt the new key {}", source.body());
            Error::new(ErrorKind::Key, message)
                .caused_by(&error)
                .hint("for unattended use, append ?passphrase-file=PATH to the key source")
        }
        error => secret_error(source.body(), FAMILY, &error),
    })?;
    let key = PrivateKey::generate();
    let format = how.format.unwrap_or(keyfile::Format::Pkcs8);
    if format == keyfile::Format::Sec1 && passphrase.is_some() {
        log::warn!("SEC1 files use a weak key derivation; omit --format for stronger encryption");
    }
    let passphrase = passphrase.as_ref().map(Secret::as_bytes);
    let text = keyfile::encode(&key, format, passphrase, "qkey")
        .map_err(|error| key_error(source, &error))?;
    let public_key = key.public_key();
    drop(key);
    save(Path::new(source.body()), text.as_bytes(), &public_key)?;
    Ok(Generated {
        source: source.reusable(),
        public_key,
    })
}

/// Writes a new key to its file. At every point where a signal can end it, the last words about the
/// key are true.
fn save(path: &Path, contents: &[u8], public_key: &PublicKey) -> Result<()> {
    let shown = path.display();
    let fingerprint = public_key.fingerprint();
    let check = format!("`qkey pubkey {}`", quote_path(path));
    let not_made = |kind| {
        Error::new(kind, format!("interrupted; no key was written to {shown}"))
            .hint("run the command again")
    };
    let words = LastWords::lay_down(not_made(ErrorKind::Interrupted));
    let file = NewFile::prepare(path, contents);
    if let Some(kind) = interrupt::received() {
        return Err(not_made(kind));
    }
    let file = file.map_err(|error| not_written(path, &error))?;
    drop(words);

    let publishing = LastWords::lay_down(
        Error::new(
            ErrorKind::Interrupted,
            format!("interrupted while {shown} was created for the new key {fingerprint}"),
        )
        .hint(format!(
            "if the file exists, it is complete; check it with {check}"
        )),
    );
    let folder = file.publish().map_err(|error| not_written(path, &error))?;
    let not_synced = Error::new(
        ErrorKind::Key,
        format!("{shown} contains the new key {fingerprint}, but may not be on disk yet"),
    )
    .hint(format!("run `sync`, then check the key with {check}"));
    let _syncing = LastWords::lay_down(not_synced.clone());
    drop(publishing);
    folder
        .sync_all()
        .map_err(|error| not_synced.caused_by(&error))
}

fn not_written(path: &Path, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::AlreadyExists => format!(
            "qkey never overwrites files: choose another path, or inspect the existing key with `qkey pubkey {}`",
            quote_path(path)
        ),
        io::ErrorKind::NotFound => "create the directory first".to_owned(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space first".to_owned()
        }
        _ => "choose a directory that you can write to".to_owned(),
    };
    let message = format!("cannot write a new key to {}", path.display());
    Error::new(ErrorKind::Key, message)
        .caused_by(error)
        .hint(hint)
}
