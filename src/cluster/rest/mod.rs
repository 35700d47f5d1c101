//! The cluster through its REST API, over HTTPS.

pub(super) mod credentials;

use std::{collections::HashSet, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use ureq::http::{HeaderValue, StatusCode, Uri};
use zeroize::Zeroizing;

use self::credentials::Token;
pub use self::credentials::TokenSource;
use super::{
    Call, Check, Cluster, DEFAULT_PORT, KeyRef, NewKey, Replacement, Result, Snapshot, StoredKey,
    Usage,
    explain::{Site, Transport},
    failure::{Failure, SetupError, Unexpected},
    qq::{self, node, qq_command},
    reply::{self, KEY_LIST, Limit, NotAReply, Page, SINGLE, SNAPSHOTS, USAGES},
};
pub use crate::http::tls::{Fingerprint, Trust};
use crate::{
    http::{self, Client, Response, proxy, tls::Tls},
    interrupt,
    signature::Signature,
    subprocess,
    text::{quote, quote_path},
};

/// The outcome of a step of a call, before [`Site::error`] explains it.
type Step<T> = std::result::Result<T, Failure>;

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
    /// The maximum number of connections.
    pub connections: usize,
    /// The `qq` program, for hints.
    pub qq: PathBuf,
}

/// A cluster reached over HTTPS on kept connections.
pub struct Rest {
    client: Client,
    site: Site,
    options: Options,
    token: Option<Token>,
}

const KEYS: &str = "/v1/file-system/security/keys/";

const UNLOCKED: &str = "/v4/snapshots/status/?filter=api_snapshots_exclude_locked";

/// In bytes. A shorter token is not masked, since it would match parts of words; a cluster's tokens are
/// far longer.
const SHORTEST_SECRET: usize = 8;

/// A list with more pages is taken for an endless one.
const PAGE_LIMIT: usize = 1_000;

impl Rest {
    /// Reads the token and the certificates; does not connect.
    ///
    /// # Errors
    /// When no valid host is named, or the token, the certificates or the proxy cannot be used.
    pub fn new(options: Options) -> std::result::Result<Self, SetupError> {
        let host = options.host.as_deref().ok_or(SetupError::NoCluster)?;
        let address = http::authority(host, options.port).ok_or_else(|| {
            let shown = match host.rsplit_once('@') {
                // It may be a password.
                Some((user, name)) if user.contains(':') => name,
                _ => host,
            };
            SetupError::Host(shown.to_owned())
        })?;
        let qq = qq_command(&options.qq, Some(host), options.port, options.store());
        let log_in = match node::check(Some(host), options.port) {
            Ok(()) => format!(
                "log in first: `{qq} login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE"
            ),
            // Here, `qq` would send the password to the node's own cluster.
            Err(_) => "provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE".to_owned(),
        };
        let token = options.token.read(host, options.port, options.timeout);
        let token = token.map_err(|error| SetupError::Credentials {
            error,
            log_in: log_in.clone(),
        })?;
        let login = match &token {
            Some(token) => format!("the token in {} was rejected", token.source),
            None => format!(
                "no credentials in {}",
                options.token.place(host, options.port)
            ),
        };
        let tls = Tls::new(&options.trust).map_err(SetupError::Trust)?;
        if options.trust == Trust::Insecure {
            log::warn!(
                "the certificate of {address} is not verified (--insecure): anyone on the network path can steal the token and reply in the cluster's place"
            );
        }
        let route = proxy::route_to(host).map_err(SetupError::Proxy)?;
        let client = Client::new(http::Settings {
            base: format!("https://{address}"),
            tls,
            proxy: route.as_ref().map(|route| route.proxy.clone()),
            authorization: token.as_ref().map(|token| bearer(&token.text)),
            timeout: options.timeout,
            connections: options.connections.max(1),
        });
        Ok(Self {
            client,
            site: Site {
                address,
                login: Some(login),
                log_in,
                list_keys: options.check_command(Check::Keys),
                list_snapshots: options.check_command(Check::Snapshots),
                transport: Transport::Rest {
                    proxy: route.map(|route| (route.address, route.variable)),
                    timeout: options.timeout,
                },
            },
            options,
            token,
        })
    }

    /// Makes a call with one reply.
    fn call<T>(
        &self,
        call: Call<'_>,
        body: Option<Value>,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Result<T> {
        let body = body.map(|body| body.to_string().into_bytes());
        let response = self.exchange(call, &path(call), body, SINGLE);
        response
            .and_then(|response| self.parse(&response, &parse))
            .map_err(|failure| self.site.error(call, failure))
    }

    /// Reads a list that may come in several pages.
    fn list<T>(
        &self,
        call: Call<'_>,
        limit: Limit,
        parse: impl Fn(&[u8]) -> std::result::Result<Page<T>, NotAReply>,
    ) -> Result<Vec<T>> {
        let pages = self.pages(call, limit, parse);
        pages.map_err(|failure| self.site.error(call, failure))
    }

    fn pages<T>(
        &self,
        call: Call<'_>,
        limit: Limit,
        parse: impl Fn(&[u8]) -> std::result::Result<Page<T>, NotAReply>,
    ) -> Step<Vec<T>> {
        let mut all = Vec::new();
        let mut seen = HashSet::new();
        let mut size = 0;
        let mut path = path(call);
        while seen.len() < PAGE_LIMIT && seen.insert(path.clone()) {
            let response = self.exchange(call, &path, None, limit)?;
            size += response.body.len();
            if size > limit.bytes {
                return Err(Failure::TooLarge(limit.exceeded()));
            }
            let page = self.parse(&response, &parse)?;
            all.extend(page.entries);
            if all.len() > limit.entries {
                return Err(self.not_a_reply(&response, limit.too_many()));
            }
            path = match page.next {
                None => return Ok(all),
                Some(next) => self.next_page(&next)?,
            };
        }
        Err(Failure::Unexpected(Unexpected::Endless, None))
    }

    /// The path of the next page, which must be on the same cluster: it gets the token.
    fn next_page(&self, next: &str) -> Step<String> {
        let found = next.parse::<Uri>().ok().and_then(|uri| {
            let here = match uri.authority() {
                Some(authority) => authority.as_str().eq_ignore_ascii_case(&self.site.address),
                None => next.starts_with('/'),
            };
            let path = uri.path_and_query()?.as_str().to_owned();
            here.then_some(path)
        });
        found.ok_or_else(|| {
            let next = self.excerpt(next.as_bytes());
            Failure::Unexpected(Unexpected::PageElsewhere(next), None)
        })
    }

    /// Sends one request, and classifies a response that reports no success.
    fn exchange(
        &self,
        call: Call<'_>,
        path: &str,
        body: Option<Vec<u8>>,
        limit: Limit,
    ) -> Step<Response> {
        if let Some(kind) = interrupt::received() {
            return Err(Failure::Connection(http::Failure::StoppedBefore(kind)));
        }
        log::info!("{call}");
        let response = self.client.request(path, body, limit.bytes);
        let response = response.map_err(|failure| match failure {
            http::Failure::TooLong => Failure::TooLarge(limit.exceeded()),
            failure => Failure::Connection(failure),
        })?;
        let status = response.status;
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            let to = response.location.as_deref().unwrap_or("nowhere");
            let to = self.excerpt(to.as_bytes());
            return Err(Failure::Unexpected(Unexpected::Redirect(to), None));
        }
        Err(match reply::api_error(&response.body) {
            Some(words) => Failure::api(
                status.as_u16(),
                self.without_token(&words),
                response.retry_after,
            ),
            None => {
                let retry_after = match status {
                    // A proxy in front of the cluster may have its own body for these.
                    StatusCode::REQUEST_TIMEOUT
                    | StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::SERVICE_UNAVAILABLE => {
                        Some(response.retry_after.unwrap_or_default())
                    }
                    _ => None,
                };
                let (status, excerpt) = (status.as_u16(), self.excerpt(&response.body));
                Failure::Unexpected(Unexpected::Status { status, excerpt }, retry_after)
            }
        })
    }

    fn parse<T>(
        &self,
        response: &Response,
        parse: impl Fn(&[u8]) -> std::result::Result<T, NotAReply>,
    ) -> Step<T> {
        parse(&response.body).map_err(|wrong| self.not_a_reply(response, wrong))
    }

    fn not_a_reply(&self, response: &Response, expected: NotAReply) -> Failure {
        response.distrust();
        if let Some(what) = expected.too_large {
            return Failure::TooLarge(what);
        }
        let excerpt = self.excerpt(&response.body);
        // On a kept connection it may be the reply to an earlier request.
        let retry_after = response.on_kept_connection.then_some(Duration::ZERO);
        Failure::Unexpected(Unexpected::Body { expected, excerpt }, retry_after)
    }

    fn excerpt(&self, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body);
        subprocess::excerpt(self.without_token(&text).as_bytes())
    }

    fn without_token(&self, text: &str) -> String {
        masked(text, self.token.as_ref().map(|token| token.text.as_str()))
    }
}

impl Options {
    fn store(&self) -> Option<&std::path::Path> {
        match &self.token {
            TokenSource::Store(path) => path.as_deref(),
            _ => None,
        }
    }

    /// A command for hints, as a user types it.
    fn check_command(&self, what: Check<'_>) -> String {
        let shows = match what {
            Check::Keys => "keys list",
            // qkey cannot show a single snapshot; this lists what each key locks.
            Check::Snapshot(_) | Check::Snapshots => "keys usage",
            // qkey cannot edit keys.
            Check::EnableKey(_) | Check::CommentKey(_) => {
                let host = self.host.as_deref();
                let qq = qq_command(&self.qq, host, self.port, self.store());
                return qq::check_command(&qq, what);
            }
        };
        let mut typed = "qkey --via=rest".to_owned();
        if let Some(host) = &self.host {
            typed.push_str(&format!(" --host={}", quote(host)));
        }
        if self.port != DEFAULT_PORT {
            typed.push_str(&format!(" --port={}", self.port));
        }
        if let Some(path) = self.store() {
            typed.push_str(&format!(" --credentials-store={}", quote_path(path)));
        }
        match &self.trust {
            Trust::System => {}
            Trust::CaFile(path) => {
                typed.push_str(&format!(" --ca-file={}", quote_path(path)));
            }
            Trust::Pinned(fingerprint) => {
                typed.push_str(&format!(" --tls-fingerprint={fingerprint}"));
            }
            Trust::Insecure => typed.push_str(" --insecure"),
        }
        format!("{typed} {shows}")
    }
}

/// A reply without the token: some servers echo requests.
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

/// The path of a call; a submission is a POST, a read is a GET.
fn path(call: Call<'_>) -> String {
    match call {
        Call::Keys | Call::AddKey(_) => KEYS.to_owned(),
        Call::KeyUsage(id) => format!("{}/usages", key_path(id)),
        Call::ReplacementChallenge(key) => {
            format!("{}/key-replacement-challenge", key_path(key.as_str()))
        }
        Call::ReplaceKey(id) => format!("{}/replace", key_path(id)),
        Call::Snapshot(id) => format!("/v3/snapshots/status/{id}"),
        Call::UnlockedSnapshots => UNLOCKED.to_owned(),
        Call::UnlockChallenge(id) => format!("/v3/snapshots/{id}/unlock-challenge"),
        Call::Unlock(id) => format!("/v3/snapshots/{id}/unlock"),
        Call::Lock(id) => format!("/v3/snapshots/{id}/lock"),
    }
}

fn key_path(reference: &str) -> String {
    format!("{KEYS}{}", path_segment(reference))
}

/// Percent-encodes text as one segment of a path: all but the unreserved characters (RFC 3986), and the
/// dot, since `.` and `..` have a meaning of their own.
fn path_segment(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'-' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

impl Cluster for Rest {
    fn keys(&self) -> Result<Vec<StoredKey>> {
        self.list(Call::Keys, KEY_LIST, reply::keys_page)
    }

    fn key_usage(&self, key_id: &str) -> Result<Vec<Usage>> {
        self.list(Call::KeyUsage(key_id), USAGES, reply::usages_page)
    }

    fn add_key(&self, key: &NewKey<'_>) -> Result<()> {
        let body = json!({
            "name": key.name,
            "public_key": key.public_key.to_base64(),
            "verification_signature": key.signature.to_base64(),
            "comment": key.comment,
        });
        self.call(Call::AddKey(key.name), Some(body), |body| {
            reply::added_key(body, key)
        })
    }

    fn replacement_challenge(&self, key: &KeyRef) -> Result<String> {
        self.call(Call::ReplacementChallenge(key), None, reply::challenge)
    }

    fn replace_key(&self, key_id: &str, replacement: &Replacement<'_>) -> Result<()> {
        let body = json!({
            "replacement_key": replacement.new_key.to_base64(),
            "old_key_verification_signature": replacement.old_signature.to_base64(),
            "replacement_key_verification_signature": replacement.new_signature.to_base64(),
        });
        self.call(Call::ReplaceKey(key_id), Some(body), |body| {
            reply::replaced_key(body, key_id, replacement)
        })
    }

    fn snapshot(&self, id: u64) -> Result<Snapshot> {
        self.call(Call::Snapshot(id), None, |body| reply::snapshot(body, id))
    }

    fn unlocked_snapshots(&self) -> Result<HashSet<u64>> {
        let ids = self.list(Call::UnlockedSnapshots, SNAPSHOTS, reply::unlocked_page)?;
        Ok(ids.into_iter().collect())
    }

    fn unlock_challenge(&self, id: u64) -> Result<String> {
        self.call(Call::UnlockChallenge(id), None, reply::challenge)
    }

    fn unlock(&self, id: u64, signature: &Signature) -> Result<()> {
        let body = json!({ "signature": signature.to_base64() });
        self.call(Call::Unlock(id), Some(body), reply::nothing)
    }

    fn lock(&self, id: u64, key_id: &str) -> Result<()> {
        let body = json!({ "lock_key_ref": key_id });
        self.call(Call::Lock(id), Some(body), reply::nothing)
    }

    /// Concurrent calls would wait for the one connection.
    fn gains_from_concurrency(&self) -> bool {
        false
    }

    fn check_command(&self, what: Check<'_>) -> String {
        self.options.check_command(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_reference_is_one_path_segment() {
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
    fn token_is_masked_but_short_text_is_not() {
        let text = "GET /t Bearer secret-token";
        assert_eq!(masked(text, Some("secret-token")), "GET /t Bearer [token]");
        assert_eq!(masked(text, Some("t")), text);
        assert_eq!(masked(text, None), text);
    }
}
