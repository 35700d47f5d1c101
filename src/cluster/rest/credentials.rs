//! The bearer token, from the credentials file of `qq login` or from the environment.

use std::{
    env,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::io::Errno;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{folders::config_home, input, private_file};

/// Where to find the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The value of this environment variable.
    Env(&'static str),
    /// The line in this file, which an environment variable names.
    File(PathBuf),
    /// The file that `qq login` writes, at this path or at its default paths.
    Store(Option<PathBuf>),
}

/// A token.
pub(super) struct Token {
    pub text: Zeroizing<String>,
    /// The variable or file that holds it.
    pub source: String,
}

/// Why there is no usable token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("QKEY_TOKEN_FILE is empty")]
    NoFile,
    #[error("cannot read the credentials in {}", .0.display())]
    Unreadable(PathBuf, #[source] input::Error),
    #[error("{} is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes", .0.display())]
    NotALogin(PathBuf),
    #[error("{} is not a credentials file of qq: its version is {version}, not 1", path.display())]
    Version { path: PathBuf, version: u64 },
    #[error("{0} holds no token: it must be one line of visible ASCII without spaces")]
    NotAToken(String),
}

type Result<T> = std::result::Result<T, Error>;

/// The maximum size of a token or a credentials file, in bytes.
const LIMIT: usize = 64 << 10;

/// What `qq login` writes.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Stored<'a> {
    version: u64,
    #[serde(borrow)]
    bearer_token: std::borrow::Cow<'a, str>,
}

/// The only version of a credentials file.
const VERSION: u64 = 1;

impl TokenSource {
    /// The token, in visible ASCII; `None` if there is no credentials file. Opening a file may take
    /// until `timeout`.
    ///
    /// # Errors
    /// When the source cannot be read, or holds no token.
    pub(super) fn read(&self, host: &str, port: u16, timeout: Duration) -> Result<Option<Token>> {
        match self {
            Self::Env(variable) => {
                let value = env::var_os(variable).unwrap_or_default();
                let token = Zeroizing::new(value.into_string().unwrap_or_default());
                checked(&token, (*variable).to_owned()).map(Some)
            }
            Self::File(path) if path.as_os_str().is_empty() => Err(Error::NoFile),
            Self::File(path) => {
                let text = read_file(path, timeout)?.ok_or_else(|| {
                    let missing = io::Error::from(Errno::NOENT);
                    Error::Unreadable(path.clone(), missing.into())
                })?;
                checked(&text, path.display().to_string()).map(Some)
            }
            Self::Store(path) => stores(path, host, port)
                .iter()
                .find_map(|path| in_store(path, timeout).transpose())
                .transpose(),
        }
    }

    /// The files and variables that [`TokenSource::read`] reads, for messages.
    pub(super) fn place(&self, host: &str, port: u16) -> String {
        match self {
            Self::Env(variable) => (*variable).to_owned(),
            Self::File(path) => path.display().to_string(),
            Self::Store(path) => {
                let stores = stores(path, host, port).into_iter();
                let stores: Vec<_> = stores.map(|path| path.display().to_string()).collect();
                stores.join(" or ")
            }
        }
    }
}

/// The given credentials file, or those that `qq` reads, in its order.
fn stores(given: &Option<PathBuf>, host: &str, port: u16) -> Vec<PathBuf> {
    if let Some(path) = given {
        return vec![path.clone()];
    }
    let name = format!("{}_{port}", host.to_lowercase());
    let of_host = config_home().map(|folder| folder.join("qumulo/credentials").join(name));
    let legacy = env::home_dir().map(|folder| folder.join(".qfsd_cred"));
    of_host.into_iter().chain(legacy).collect()
}

fn in_store(path: &Path, timeout: Duration) -> Result<Option<Token>> {
    let Some(text) = read_file(path, timeout)? else {
        return Ok(None);
    };
    // The parser's own message could quote the token.
    let stored: Stored<'_> =
        serde_json::from_str(&text).map_err(|_| Error::NotALogin(path.to_owned()))?;
    if stored.version != VERSION {
        return Err(Error::Version {
            path: path.to_owned(),
            version: stored.version,
        });
    }
    checked(&stored.bearer_token, path.display().to_string()).map(Some)
}

/// `None` if there is no such file.
fn read_file(path: &Path, timeout: Duration) -> Result<Option<Zeroizing<String>>> {
    let opened = path.to_owned();
    let open = move || {
        let file = File::open(&opened)?;
        private_file::warn_if_readable_by_others(&opened, &file.metadata()?);
        Ok(file)
    };
    let bytes = match input::read_to_end(open, LIMIT, Some(timeout)) {
        Ok(bytes) => bytes,
        Err(input::Error::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(Error::Unreadable(path.to_owned(), error)),
    };
    match str::from_utf8(&bytes) {
        Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
        Err(error) => {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            Err(Error::Unreadable(path.to_owned(), error.into()))
        }
    }
}

/// The token without its line ending. It goes into a header, where only visible ASCII is safe.
fn checked(text: &str, source: String) -> Result<Token> {
    let token = text.trim_end_matches(['\r', '\n']);
    if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Token {
            text: Zeroizing::new(token.to_owned()),
            source,
        })
    } else {
        Err(Error::NotAToken(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_one_line_of_visible_ascii() {
        let checked = |text: &str| checked(text, "T".to_owned());
        for text in ["abc:1=", "abc:1=\n", "abc:1=\r\n"] {
            assert_eq!(checked(text).ok().unwrap().text.as_str(), "abc:1=");
        }
        for text in ["", "\n", "a b", "a\nb", " a", "a\r\nX: y", "é"] {
            let error = checked(text).err().unwrap();
            assert!(!error.to_string().contains("X: y"));
        }
    }
}
