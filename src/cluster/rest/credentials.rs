//! The bearer token, from where `qq login` keeps it or from the environment.

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

use crate::{
    error::{Error, Kind, Result},
    folders::config_home,
    input, private_file,
};

/// Where a token is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The value of this environment variable.
    Env(&'static str),
    /// The one line in this file, which the environment names.
    File(PathBuf),
    /// The file that `qq login` writes, at this path or where it writes by default.
    Store(Option<PathBuf>),
}

/// A token or a credentials file that is longer is none.
const LIMIT: usize = 64 << 10;

/// What `qq login` writes.
#[derive(Deserialize)]
struct Stored<'a> {
    version: u64,
    #[serde(borrow)]
    bearer_token: std::borrow::Cow<'a, str>,
}

/// The only version of it.
const VERSION: u64 = 1;

impl TokenSource {
    /// The token, in visible ASCII; none when nobody has logged in.
    ///
    /// # Errors
    /// Of kind `auth` when the source cannot be read, or holds no token.
    pub fn read(
        &self,
        host: &str,
        port: u16,
        timeout: Duration,
    ) -> Result<Option<Zeroizing<String>>> {
        match self {
            Self::Env(variable) => {
                let value = env::var_os(variable).unwrap_or_default();
                let token = Zeroizing::new(value.into_string().unwrap_or_default());
                checked(&token, variable).map(Some)
            }
            Self::File(path) if path.as_os_str().is_empty() => {
                Err(Error::new(Kind::Auth, "QKEY_TOKEN_FILE names no file"))
            }
            Self::File(path) => {
                let text = read_file(path, timeout)?
                    .ok_or_else(|| unreadable(path).caused_by(&io::Error::from(Errno::NOENT)))?;
                checked(&text, &path.display().to_string()).map(Some)
            }
            Self::Store(Some(path)) => in_store(path, timeout),
            Self::Store(None) => {
                for path in default_stores(host, port) {
                    if let Some(token) = in_store(&path, timeout)? {
                        return Ok(Some(token));
                    }
                }
                Ok(None)
            }
        }
    }
}

/// Where `qq` looks, in this order.
fn default_stores(host: &str, port: u16) -> Vec<PathBuf> {
    let name = format!("{}_{port}", host.to_lowercase());
    let of_host = config_home().map(|folder| folder.join("qumulo/credentials").join(name));
    let legacy = env::home_dir().map(|folder| folder.join(".qfsd_cred"));
    of_host.into_iter().chain(legacy).collect()
}

fn in_store(path: &Path, timeout: Duration) -> Result<Option<Zeroizing<String>>> {
    let Some(text) = read_file(path, timeout)? else {
        return Ok(None);
    };
    let wrong = |what: &str| {
        let message = format!("{} holds no login of qq: {what}", path.display());
        Error::new(Kind::Auth, message)
    };
    // The parser's own message could quote the token.
    let stored: Stored<'_> = serde_json::from_str(&text)
        .map_err(|_| wrong("it is not the JSON with a bearer_token that `qq login` writes"))?;
    if stored.version != VERSION {
        return Err(wrong(&format!("its version is {}, not 1", stored.version)));
    }
    checked(&stored.bearer_token, &path.display().to_string()).map(Some)
}

/// `None` when there is no such file.
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
        Err(error @ input::Error::Interrupted(kind)) => {
            return Err(unreadable(path).with_kind(kind).caused_by(&error));
        }
        Err(error) => return Err(unreadable(path).caused_by(&error)),
    };
    match str::from_utf8(&bytes) {
        Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
        Err(error) => Err(unreadable(path).caused_by(&error)),
    }
}

fn unreadable(path: &Path) -> Error {
    let message = format!("cannot read the credentials in {}", path.display());
    Error::new(Kind::Auth, message)
}

/// The token without the end of its line. It goes into a header: anything else than visible ASCII
/// would end it early, or be something that nobody meant.
fn checked(text: &str, source: &str) -> Result<Zeroizing<String>> {
    let token = text.trim_end_matches(['\r', '\n']);
    match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Zeroizing::new(token.to_owned())),
        false => Err(Error::new(
            Kind::Auth,
            format!(
                "{source} holds no token: it must be one line of visible ASCII, without blanks"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_of_visible_ascii() {
        for text in ["abc:1=", "abc:1=\n", "abc:1=\r\n"] {
            assert_eq!(checked(text, "T").unwrap().as_str(), "abc:1=");
        }
        for text in ["", "\n", "a b", "a\nb", " a", "a\r\nX: y", "é"] {
            let error = checked(text, "T").unwrap_err();
            assert_eq!(error.kind(), Kind::Auth);
            assert!(!error.chain().contains("X: y"));
        }
    }
}
