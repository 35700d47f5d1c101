//! The cluster through its REST API, over HTTPS.

mod credentials;
mod explain;
mod failure;
mod http;
mod proxy;
mod tls;

use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use ureq::http::{HeaderValue, StatusCode, Uri};
use zeroize::Zeroizing;

pub use self::{
    credentials::TokenSource,
    tls::{Fingerprint, Trust},
};
use self::{
    http::{Answer, Client},
    proxy::Way,
    tls::Tls,
};
use super::{
    Check, Cluster, DEFAULT_PORT, Error, KeyRef, NewKey, Replacement, Result, Snapshot, StoredKey,
    Usage,
    explain::{Named, begin, no_cluster},
    node,
    qq::qq_command,
    reply::{self, KEY_LIST, Limit, NotAReply, Page, SINGLE, SNAPSHOTS, USAGES},
};
use crate::{
    error::{Error as UserError, Kind},
    signature::Signature,
    subprocess,
    text::{quote, quoted},
};

/// Which cluster, and how to reach it.
#[derive(Clone, Debug)]
pub struct Options {
    /// A name, or an address; IPv6 with or without brackets.
    pub host: Option<String>,
    pub port: u16,
    pub token: TokenSource,
    pub trust: Trust,
    /// For each call.
    pub timeout: Duration,
    /// How many connections there may be at a time.
    pub connections: usize,
    /// The `qq` program, for hints.
    pub qq: PathBuf,
}

/// A cluster reached over HTTPS, on connections that are kept.
pub struct Rest {
    client: Client,
    named: Named,
    options: Options,
    token: Option<Zeroizing<String>>,
    way: Option<Way>,
}

/// The unreserved characters (RFC 3986) stay, but for the dot: `.` and `..` are no names in a path.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

const KEYS: &str = "/v1/file-system/security/keys/";

const UNLOCKED: &str = "/v4/snapshots/status/?filter=api_snapshots_exclude_locked";

/// In characters; the tokens of a cluster are far longer.
const SHORTEST_SECRET: usize = 8;

/// More pages are a list without end.
const PAGE_LIMIT: usize = 1_000;

impl Rest {
    /// Reads the token and the certificates; connects to nothing.
    ///
    /// # Errors
    /// Of kind `usage` when no host is named, or something in the settings is none of what it
    /// should be; of kind `auth` when the token cannot be read.
    pub fn new(options: Options) -> std::result::Result<Self, UserError> {
        let host = options.host.as_deref().ok_or_else(no_cluster)?;
        let authority = authority(host, options.port).ok_or_else(|| {
            let shown = match host.rsplit_once('@') {
                // It may be a password.
                Some((user, name)) if user.contains(':') => name,
                _ => host,
            };
            UserError::new(
                Kind::Usage,
                format!("{} is not a valid host name", quoted(shown)),
            )
            .hint("give only the name or address; use --port for the port")
        })?;
        let token = options.token.read(host, options.port, options.timeout);
        let qq = qq_command(&options.qq, Some(host), options.port, options.store());
        let log_in = match node::check(Some(host), options.port) {
            Ok(()) => format!(
                "log in first: `{qq} login -u USER`, or give a token with QKEY_TOKEN or QKEY_TOKEN_FILE"
            ),
            // Here, `qq` would send the password to the node's own cluster.
            Err(_) => "give a token with QKEY_TOKEN or QKEY_TOKEN_FILE".to_owned(),
        };
        let token = token.map_err(|error| match error.kind() {
            Kind::Auth => error.hint(log_in.clone()),
            _ => error,
        })?;
        let tls = Tls::new(&options.trust)?;
        if options.trust == Trust::Insecure {
            log::warn!(
                "the certificate of {authority} is not looked at (--insecure): whoever stands between can read the token, and answer in the cluster's place"
            );
        }
        let way = proxy::way_to(host)?;
        let client = Client::new(http::Settings {
            base: format!("https://{authority}"),
            tls,
            proxy: way.as_ref().map(|way| way.proxy.clone()),
            authorization: token.as_ref().map(|token| bearer(token)),
            timeout: options.timeout,
            connections: options.connections.max(1),
        });
        Ok(Self {
            client,
            named: Named {
                address: authority,
                log_in,
                find_snapshots: format!(
                    "`{}` shows which snapshots are locked",
                    options.check_command(Check::Snapshot(0))
                ),
            },
            options,
            token,
            way,
        })
    }

    /// Reads something.
    fn get<T>(
        &self,
        call: &str,
        path: &str,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        let answer = self.exchange(call, path, None, SINGLE)?;
        self.parse(call, &answer, parse)
    }

    /// Reads something that may come in several pages.
    fn get_all<T>(
        &self,
        call: &str,
        path: &str,
        limit: Limit,
        parse: impl Fn(&[u8]) -> std::result::Result<Page<T>, NotAReply>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        let mut seen = HashSet::new();
        let mut size = 0;
        let mut path = path.to_owned();
        while seen.len() < PAGE_LIMIT && seen.insert(path.clone()) {
            let answer = self.exchange(call, &path, None, limit)?;
            size += answer.body.len();
            if size > limit.bytes {
                return Err(self.named.too_large(call, &limit.exceeded()));
            }
            let page = self.parse(call, &answer, &parse)?;
            all.extend(page.entries);
            if all.len() > limit.entries {
                return Err(self.not_a_reply(call, &answer, &limit.too_many()));
            }
            path = match page.next {
                None => return Ok(all),
                Some(next) => self.next_page(call, &next)?,
            };
        }
        Err(self.not_the_api(call, "a list without end"))
    }

    /// The path of the next page. Only one of the same cluster gets the token.
    fn next_page(&self, call: &str, next: &str) -> Result<String> {
        let found = next.parse::<Uri>().ok().and_then(|uri| {
            let here = match uri.authority() {
                Some(authority) => authority.as_str().eq_ignore_ascii_case(&self.named.address),
                None => next.starts_with('/'),
            };
            let path = uri.path_and_query()?.as_str().to_owned();
            here.then_some(path)
        });
        found.ok_or_else(|| {
            let next = self.excerpt(next.as_bytes());
            self.not_the_api(call, &format!("its next page is elsewhere: {next}"))
        })
    }

    /// Submits something.
    fn post<T>(
        &self,
        call: &str,
        path: &str,
        body: &Value,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        let answer = self.exchange(call, path, Some(body.to_string().into_bytes()), SINGLE)?;
        self.parse(call, &answer, parse)
    }

    /// Asks once, and sorts out what is no success.
    fn exchange(
        &self,
        call: &str,
        path: &str,
        body: Option<Vec<u8>>,
        limit: Limit,
    ) -> Result<Answer> {
        begin(call)?;
        log::info!("{call}");
        let answer = self.client.request(path, body, limit.bytes);
        let answer = answer.map_err(|failure| self.explain(call, limit, failure))?;
        let status = answer.status;
        if status.is_success() {
            return Ok(answer);
        }
        if status.is_redirection() {
            let to = answer.location.as_deref().unwrap_or("nowhere");
            let to = self.excerpt(to.as_bytes());
            let words = format!("a redirection to {to}, which qkey does not follow");
            return Err(self.not_the_api(call, &words));
        }
        let error = match reply::api_error(&answer.body) {
            Some(words) => {
                let words = self.without_token(&words);
                self.named.refused(call, status.as_u16(), &words)
            }
            None => {
                let words = format!("status {status}: {}", self.excerpt(&answer.body));
                self.named
                    .refused_without_words(call, status.as_u16(), &words)
            }
        };
        Err(match status {
            // A proxy before the cluster says these in its own form.
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE => {
                error.worth_repeating(answer.retry_after.unwrap_or_default())
            }
            _ => error,
        })
    }

    fn parse<T>(
        &self,
        call: &str,
        answer: &Answer,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        parse(&answer.body).map_err(|wrong| self.not_a_reply(call, answer, &wrong))
    }

    /// On a kept connection it may be the reply to an earlier request: a read is worth another one.
    fn not_a_reply(&self, call: &str, answer: &Answer, wrong: &NotAReply) -> Error {
        answer.distrust();
        let error = match &wrong.too_large {
            Some(what) => return self.named.too_large(call, what),
            None => {
                let words = format!("not {wrong}: {}", self.excerpt(&answer.body));
                self.not_the_api(call, &words)
            }
        };
        match answer.on_kept_connection {
            true => error.worth_repeating(Duration::ZERO),
            false => error,
        }
    }

    fn not_the_api(&self, call: &str, words: &str) -> Error {
        self.named.not_the_api(call, &self.without_token(words))
    }

    fn excerpt(&self, answer: &[u8]) -> String {
        let text = String::from_utf8_lossy(answer);
        subprocess::excerpt(self.without_token(&text).as_bytes())
    }

    fn without_token(&self, text: &str) -> String {
        masked(text, self.token.as_ref().map(|token| token.as_str()))
    }
}

impl Options {
    fn store(&self) -> Option<&std::path::Path> {
        match &self.token {
            TokenSource::Store(path) => path.as_deref(),
            _ => None,
        }
    }

    /// `qkey` with what leads to this cluster, as it is typed.
    fn check_command(&self, what: Check) -> String {
        let mut typed = "qkey --via=rest".to_owned();
        if let Some(host) = &self.host {
            typed.push_str(&format!(" --host={}", quote(host)));
        }
        if self.port != DEFAULT_PORT {
            typed.push_str(&format!(" --port={}", self.port));
        }
        if let Some(path) = self.store() {
            let path = quote(&path.to_string_lossy());
            typed.push_str(&format!(" --credentials-store={path}"));
        }
        match &self.trust {
            Trust::System => {}
            Trust::CaFile(path) => {
                typed.push_str(&format!(" --ca-file={}", quote(&path.to_string_lossy())));
            }
            Trust::Pinned(fingerprint) => {
                typed.push_str(&format!(" --tls-fingerprint={fingerprint}"));
            }
            Trust::Insecure => typed.push_str(" --insecure"),
        }
        typed.push_str(match what {
            Check::Keys => " keys list",
            // There is no closer look: it lists what each key locks.
            Check::Snapshot(_) | Check::Snapshots => " keys usage",
        });
        typed
    }
}

/// The host and the port as they stand in a URL; `None` where the host would be more, or nothing,
/// there.
fn authority(host: &str, port: u16) -> Option<String> {
    let inside = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if inside.unwrap_or(host).parse::<Ipv6Addr>().is_ok() {
        return Some(format!("[{}]:{port}", inside.unwrap_or(host)));
    }
    let is_address = host.parse::<Ipv4Addr>().is_ok();
    let is_name = || matches!(ServerName::try_from(host), Ok(ServerName::DnsName(_)));
    (is_address || is_name()).then(|| format!("{host}:{port}"))
}

/// What came back, without the token: some servers repeat what they were sent. One that is too short
/// to be a secret would be found in the middle of words.
fn masked(text: &str, token: Option<&str>) -> String {
    match token {
        Some(token) if token.len() >= SHORTEST_SECRET => text.replace(token, "[token]"),
        _ => text.to_owned(),
    }
}

fn bearer(token: &str) -> HeaderValue {
    let text = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::from_str(&text).expect("a token is visible ASCII");
    value.set_sensitive(true);
    value
}

fn key_path(reference: &str) -> String {
    format!("{KEYS}{}", utf8_percent_encode(reference, IN_PATH))
}

impl Cluster for Rest {
    fn keys(&self) -> Result<Vec<StoredKey>> {
        self.get_all("fs_security_list_keys", KEYS, KEY_LIST, reply::keys_page)
    }

    fn key_usage(&self, key_id: &str) -> Result<Vec<Usage>> {
        let path = format!("{}/usages", key_path(key_id));
        let call = "fs_security_get_key_usage";
        self.get_all(call, &path, USAGES, reply::usages_page)
    }

    fn add_key(&self, key: &NewKey<'_>) -> Result<()> {
        let body = json!({
            "name": key.name,
            "public_key": key.public_key.to_base64(),
            "verification_signature": key.signature.to_base64(),
            "comment": key.comment,
        });
        self.post("fs_security_add_key", KEYS, &body, |body| {
            reply::added_key(body, key)
        })
    }

    fn replacement_challenge(&self, key: &KeyRef) -> Result<String> {
        let path = format!("{}/key-replacement-challenge", key_path(key.as_str()));
        let call = "fs_security_get_key_replace_challenge";
        self.get(call, &path, reply::challenge)
    }

    fn replace_key(&self, key_id: &str, replacement: &Replacement<'_>) -> Result<()> {
        let path = format!("{}/replace", key_path(key_id));
        let body = json!({
            "replacement_key": replacement.new_key.to_base64(),
            "old_key_verification_signature": replacement.old_signature.to_base64(),
            "replacement_key_verification_signature": replacement.new_signature.to_base64(),
        });
        self.post("fs_security_replace_key", &path, &body, |body| {
            reply::replaced_key(body, key_id, replacement)
        })
    }

    fn snapshot(&self, id: u64) -> Result<Snapshot> {
        let path = format!("/v3/snapshots/status/{id}");
        self.get("snapshot_get_status", &path, |body| {
            reply::snapshot(body, id)
        })
    }

    fn unlocked_snapshots(&self) -> Result<HashSet<u64>> {
        let call = "snapshot_list_statuses";
        let ids = self.get_all(call, UNLOCKED, SNAPSHOTS, reply::unlocked_page)?;
        Ok(ids.into_iter().collect())
    }

    fn unlock_challenge(&self, id: u64) -> Result<String> {
        let path = format!("/v3/snapshots/{id}/unlock-challenge");
        self.get("snapshot_get_unlock_challenge", &path, reply::challenge)
    }

    fn unlock(&self, id: u64, signature: &Signature) -> Result<()> {
        let path = format!("/v3/snapshots/{id}/unlock");
        let body = json!({ "signature": signature.to_base64() });
        self.post("snapshot_unlock_snapshot", &path, &body, reply::nothing)
    }

    fn lock(&self, id: u64, key_id: &str) -> Result<()> {
        let path = format!("/v3/snapshots/{id}/lock");
        let body = json!({ "lock_key_ref": key_id });
        self.post("snapshot_lock_snapshot", &path, &body, reply::nothing)
    }

    /// They would wait for the one connection.
    fn gains_from_concurrency(&self) -> bool {
        false
    }

    fn check_command(&self, what: Check) -> String {
        self.options.check_command(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reference_is_one_segment_of_a_path() {
        for (reference, segment) in [
            ("17", "17"),
            ("a/b?c#d%2F é", "a%2Fb%3Fc%23d%252F%20%C3%A9"),
            ("..", "%2E%2E"),
            ("a;b=c&d+e", "a%3Bb%3Dc%26d%2Be"),
            ("\r\nX: y", "%0D%0AX%3A%20y"),
        ] {
            assert_eq!(key_path(reference), format!("{KEYS}{segment}"));
        }
    }

    #[test]
    fn an_authority_is_a_host_and_a_port_and_nothing_else() {
        for (host, expected) in [
            ("qumulo.example.com", "qumulo.example.com:8000"),
            ("Qumulo_1.example.com.", "Qumulo_1.example.com.:8000"),
            ("127.0.0.1", "127.0.0.1:8000"),
            ("::1", "[::1]:8000"),
            ("[fd00::7]", "[fd00::7]:8000"),
        ] {
            assert_eq!(authority(host, 8000).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_token_is_masked_and_a_word_is_not() {
        let text = "GET /t Bearer secret-token";
        assert_eq!(masked(text, Some("secret-token")), "GET /t Bearer [token]");
        assert_eq!(masked(text, Some("t")), text);
        assert_eq!(masked(text, None), text);
    }
}
