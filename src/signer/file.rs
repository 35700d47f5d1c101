//! Private keys in files, on stdin, or in a FIFO.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use zeroize::Zeroizing;

use super::{
    Caution, Context, Opened, Signer, never_asked, open_encrypted,
    refusals::holder_of,
    secret_error,
    source::{Body, Generate, Generated, Source, SourceKind},
};
use crate::{
    error::{Error, Kind as ErrorKind, Reason, Result},
    input,
    interrupt::{self, LastWords},
    keyfile::{self, KeyFile, PrivateKey},
    private_file::{self, NewFile},
    public_key::PublicKey,
    secret::{self, Secret},
    text::quote_path,
};

pub static KIND: SourceKind = SourceKind {
    body: Body::Path(|source| !source.body_is_stdin()),
    secret: Some(FAMILY),
    generate: Some(generate),
    ..SourceKind::new("file", "PATH or file:PATH (`-` is stdin)", open)
};

const FAMILY: &str = "passphrase";

/// The longest file read, in bytes: a P-256 key with a certificate chain is far smaller.
const LIMIT: usize = 1 << 20;

/// How many passphrases a user may type.
const ATTEMPTS: usize = 3;

fn signer(key: PrivateKey) -> Box<dyn Signer> {
    let public_key = key.public_key();
    super::signer(public_key, Caution::FirstUse, move |challenge| {
        Ok(key.sign(challenge))
    })
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
    match (key_file, source.secret_attribute()) {
        (KeyFile::Plain(_), Some(attribute)) => Err(not_encrypted(source, attribute)),
        (KeyFile::Plain(key), None) => Ok(Opened::Signer(signer(key))),
        (KeyFile::Encrypted(encrypted), _) => {
            let (title, holder) = (source.body().to_owned(), holder_of(path));
            let (file, shared) = (source.clone(), context.clone());
            open_encrypted(source, context, title, ATTEMPTS, move |passphrase| {
                let gate = shared.refusals.of_secret(&holder, Some(&passphrase));
                let key = gate.open(file.text(), || {
                    encrypted
                        .decrypt(passphrase.as_bytes())
                        .map_err(|error| key_error(&file, &error))
                })?;
                Ok(signer(key))
            })
        }
    }
}

fn not_encrypted(source: &Source, attribute: &str) -> Error {
    let mut hint = format!("remove {attribute} from the key source");
    if !source.body_is_stdin() {
        let path = quote_path(Path::new(source.body()));
        hint += &format!(
            ", or encrypt the key first: `openssl pkcs8 -topk8 -in {path} -out NEW`, or for \
             OpenSSH's format `ssh-keygen -p -f {path}`"
        );
    }
    never_asked(source.body(), "the key is not encrypted", attribute).hint(hint)
}

fn read(source: &Source) -> Result<Zeroizing<Vec<u8>>> {
    let title = source.body();
    let path = PathBuf::from(title);
    let read = if source.body_is_stdin() {
        input::read_to_end(input::stdin, LIMIT, None)
    } else if path.is_dir() {
        let error = Error::new(ErrorKind::Key, format!("{title} is a directory"));
        return Err(error.hint("specify a key file in this directory"));
    } else {
        input::read_to_end(|| File::open(path), LIMIT, None)
    };
    read.map_err(|error| match error {
        input::Error::Interrupted(kind) => {
            Error::new(kind, format!("interrupted while reading {title}"))
        }
        input::Error::TooLong(_) => {
            let message = format!("{title} is not a key file: larger than 1 MiB");
            Error::new(ErrorKind::Key, message).hint("specify the file with the private key")
        }
        error => {
            let hint = match &error {
                input::Error::Unreadable(error) => match error.kind() {
                    io::ErrorKind::NotFound => Some("check the path"),
                    io::ErrorKind::PermissionDenied => {
                        Some("run this as the user who owns the key file")
                    }
                    _ => None,
                },
                _ => None,
            };
            Error::new(ErrorKind::Key, format!("cannot read the key file {title}"))
                .caused_by(&error)
                .maybe_hint(hint.map(str::to_owned))
        }
    })
}

fn key_error(source: &Source, error: &keyfile::Error) -> Error {
    let path = if source.body_is_stdin() {
        "FILE".to_owned()
    } else {
        quote_path(Path::new(source.body()))
    };
    let is_wrong = matches!(error, keyfile::Error::WrongPassphrase);
    let message = format!("cannot use the key file {}", source.body());
    Error::new(ErrorKind::Key, message)
        .because(is_wrong.then_some(Reason::WrongSecret))
        .caused_by(error)
        .maybe_hint(error.hint().map(|hint| hint.replace("FILE", &path)))
}

fn generate(source: &Source, context: &Arc<Context>, how: &Generate) -> Result<Generated> {
    // They would become part of the file name, and the key would not be encrypted.
    let mistaken = [";passphrase-", "&passphrase-"];
    if mistaken.iter().any(|text| source.body().contains(text)) {
        return Err(source
            .invalid("attributes follow `?`")
            .hint("to encrypt the key, write PATH?passphrase-file=PATH"));
    }
    if source.body_is_stdin() {
        let error = Error::new(ErrorKind::Usage, "cannot write a new key to `-` (stdin)");
        return Err(error.hint("specify a path that does not exist yet"));
    }
    let (asker, name) = (&context.asker, source.body());
    let passphrase = match source.secret()? {
        Some(secret) => Some(asker.read(&secret, &format!("the passphrase of {name}"))),
        None if how.encrypt => Some(asker.ask_for_new(&format!("passphrase for {name}"))),
        None => None,
    };
    let passphrase = passphrase.transpose().map_err(|error| match error {
        secret::Error::NoInput { .. } | secret::Error::NoTerminal { .. } => {
            Error::new(ErrorKind::Key, format!("cannot encrypt the new key {name}"))
                .caused_by(&error)
                .hint("for unattended use, append ?passphrase-file=PATH to the key source")
        }
        error => secret_error(name, FAMILY, &error),
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

/// Writes a new key to its file. Wherever a signal stops it, the last words about the key are true.
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

    let message = format!("interrupted while {shown} was created for the new key {fingerprint}");
    let hint = format!("if the file exists, it is complete; check it with {check}");
    let publishing = LastWords::lay_down(Error::new(ErrorKind::Interrupted, message).hint(hint));
    let folder = file.publish().map_err(|error| not_written(path, &error))?;
    let message = format!("{shown} contains the new key {fingerprint}, but may not be on disk yet");
    let not_synced = Error::new(ErrorKind::Key, message)
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
