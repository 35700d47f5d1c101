//! The cluster through its REST API, over HTTPS.

pub(super) mod credentials;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use ureq::http::{HeaderValue, Uri};
use zeroize::Zeroizing;

use self::credentials::Token;
pub use self::credentials::TokenSource;
use super::{
    Check, Usage,
    call::Call,
    explain::{self, Site},
    failure::{Attempt, Failure, Unexpected, is_transient},
    qq::{self, node, qq_command, typed_options},
    reply::{self, Limit, Page, Parsed},
    transport::Transport,
};
pub use crate::http::tls::{Fingerprint, Trust};
use crate::{
    error::Result,
    http::{self, Client, Response, proxy, tls::Tls},
    interrupt, subprocess,
    text::quote_path,
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
    /// The maximum number of connections.
    pub connections: usize,
    /// The `qq` program, for hints.
    pub qq: PathBuf,
}

/// A cluster reached over HTTPS on kept connections.
pub struct Rest {
    client: Client,
    site: Site,
    token: Option<Token>,
}

const KEYS: &str = "/v1/file-system/security/keys/";

const UNLOCKED: &str = "/v4/snapshots/status/?filter=api_snapshots_exclude_locked";

/// In bytes. A shorter token is not masked, because it would match parts of words; a cluster's tokens
/// are far longer.
const SHORTEST_SECRET: usize = 8;

/// A list with more pages counts as endless.
const PAGE_LIMIT: usize = 1_000;

impl Rest {
    /// Reads the token and the certificates; does not connect.
    ///
    /// # Errors
    /// When no valid host is named, or the token, the certificates, or the proxy cannot be used.
    pub fn new(options: Options) -> Result<Self> {
        let host = options.host.as_deref().ok_or_else(explain::no_cluster)?;
        let port = options.port;
        let address = http::authority(host, port).ok_or_else(|| {
            explain::invalid_host(match host.rsplit_once('@') {
                // It may be a password.
                Some((user, name)) if user.contains(':') => name,
                _ => host,
            })
        })?;
        let log_in = match node::check(Some(host), port) {
            Ok(()) => format!(
                "log in first: `{} login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE",
                options.qq_command()
            ),
            // Here, `qq` would send the password to the node's own cluster.
            Err(_) => "provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE".to_owned(),
        };
        let token = options.token.read(host, port, options.timeout);
        let token = token.map_err(|error| explain::no_credentials(&error, &log_in))?;
        let login = match &token {
            Some(token) => format!("the token in {} was rejected", token.source),
            None => format!("no credentials in {}", options.token.place(host, port)),
        };
        let tls = Tls::new(&options.trust).map_err(|error| explain::no_trust(&error))?;
        if options.trust == Trust::Insecure {
            log::warn!(
                "the certificate of {address} is not verified (--insecure): anyone on the network path can steal the token and reply in the cluster's place"
            );
        }
        let route = proxy::route_to(host).map_err(|error| explain::unusable_proxy(&error))?;
        let client = Client::new(http::Settings {
            base: format!("https://{address}"),
            tls,
            proxy: route.as_ref().map(|route| route.proxy.clone()),
            authorization: token.as_ref().map(|token| bearer(&token.text)),
            timeout: options.timeout,
            connections: options.connections.max(1),
        });
        let site = Site {
            address,
            login: Some(login),
            log_in,
            timeout: options.timeout,
            check_command: Box::new(move |what| options.check_command(what)),
            transport: explain::Transport::Rest(route.map(|route| (route.address, route.variable))),
        };
        Ok(Self {
            client,
            site,
            token,
        })
    }

    /// The path of the next page, which must be on the same cluster: it gets the token.
    fn next_page(&self, next: &str) -> Attempt<String> {
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
    fn exchange(&self, call: Call<'_>, path: &str, body: Option<Vec<u8>>) -> Attempt<Response> {
        if let Some(kind) = interrupt::received() {
            return Err(Failure::Connection(http::Failure::StoppedBefore(kind)));
        }
        log::info!("{call}");
        let response = self.client.request(path, body, Limit::of(call).bytes);
        let response = response.map_err(Failure::Connection)?;
        let (status, retry_after) = (response.status, response.retry_after);
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            let to = response.location.as_deref().unwrap_or("nowhere");
            let to = self.excerpt(to.as_bytes());
            return Err(Failure::Unexpected(Unexpected::Redirect(to), None));
        }
        let status = status.as_u16();
        Err(if let Some(words) = reply::api_error(&response.body) {
            Failure::api(status, self.without_token(&words), retry_after)
        } else {
            // A proxy in front of the cluster may have its own body for these.
            let retry_after = is_transient(status).then(|| retry_after.unwrap_or_default());
            Failure::status(status, self.excerpt(&response.body), retry_after)
        })
    }

    fn parse<T>(&self, response: &Response, parse: impl Fn(&[u8]) -> Parsed<T>) -> Attempt<T> {
        parse(&response.body).map_err(|wrong| {
            response.distrust();
            // On a kept connection it may be the reply to an earlier request.
            let retry_after = response.on_kept_connection.then_some(Duration::ZERO);
            Failure::reply(wrong, self.excerpt(&response.body), retry_after)
        })
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
    fn store(&self) -> Option<&Path> {
        match &self.token {
            TokenSource::Store(path) => path.as_deref(),
            _ => None,
        }
    }

    fn qq_command(&self) -> String {
        qq_command(&self.qq, self.host.as_deref(), self.port, self.store())
    }

    /// A command for hints, as a user types it.
    fn check_command(&self, what: Check<'_>) -> String {
        let shows = match what {
            Check::Keys => "keys list",
            // qkey cannot show a single snapshot; this lists what each key locks.
            Check::Snapshot(_) | Check::Snapshots => "keys usage",
            // qkey cannot edit keys.
            Check::EnableKey(_) | Check::CommentKey(_) => {
                return qq::check_command(&self.qq_command(), what);
            }
        };
        let shared = typed_options(self.host.as_deref(), self.port, self.store());
        let trust = match &self.trust {
            Trust::System => String::new(),
            Trust::CaFile(path) => format!(" --ca-file={}", quote_path(path)),
            Trust::Pinned(fingerprint) => format!(" --tls-fingerprint={fingerprint}"),
            Trust::Insecure => " --insecure".to_owned(),
        };
        format!("qkey --via=rest{shared}{trust} {shows}")
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

/// The path of a call and, for a submission, the body to POST.
fn request(call: Call<'_>) -> (String, Option<Value>) {
    let key = |reference: &str, what| format!("{KEYS}{}/{what}", path_segment(reference));
    let snapshot = |id, what| format!("/v3/snapshots/{id}/{what}");
    match call {
        Call::Keys => (KEYS.to_owned(), None),
        Call::KeyUsage(id) => (key(id, "usages"), None),
        Call::AddKey(new) => {
            let body = json!({
                "name": new.name,
                "public_key": new.public_key.to_base64(),
                "verification_signature": new.signature.to_base64(),
                "comment": new.comment,
            });
            (KEYS.to_owned(), Some(body))
        }
        Call::ReplacementChallenge(reference) => {
            (key(reference.as_str(), "key-replacement-challenge"), None)
        }
        Call::ReplaceKey(id, new) => {
            let body = json!({
                "replacement_key": new.new_key.to_base64(),
                "old_key_verification_signature": new.old_signature.to_base64(),
                "replacement_key_verification_signature": new.new_signature.to_base64(),
            });
            (key(id, "replace"), Some(body))
        }
        Call::Snapshot(id) => (format!("/v3/snapshots/status/{id}"), None),
        Call::UnlockedSnapshots => (UNLOCKED.to_owned(), None),
        Call::UnlockChallenge(id) => (snapshot(id, "unlock-challenge"), None),
        Call::Unlock(id, signature) => {
            let body = json!({ "signature": signature.to_base64() });
            (snapshot(id, "unlock"), Some(body))
        }
        Call::Lock(id, key_id) => {
            let body = json!({ "lock_key_ref": key_id });
            (snapshot(id, "lock"), Some(body))
        }
    }
}

/// Percent-encodes text as one segment of a path: all but the unreserved characters (RFC 3986), and the
/// dot, because `.` and `..` have special meanings.
fn path_segment(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'-' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

impl Transport for Rest {
    fn site(&self) -> &Site {
        &self.site
    }

    fn attempt<T>(&self, call: Call<'_>, parse: impl Fn(&[u8]) -> Parsed<T>) -> Attempt<T> {
        let (path, body) = request(call);
        let body = body.map(|body| body.to_string().into_bytes());
        self.parse(&self.exchange(call, &path, body)?, parse)
    }

    fn attempt_list<T>(
        &self,
        call: Call<'_>,
        parse: impl Fn(&[u8]) -> Parsed<Page<T>>,
    ) -> Attempt<Vec<T>> {
        let limit = Limit::of(call);
        let (mut path, _) = request(call);
        let mut all = Vec::new();
        let mut seen = HashSet::new();
        let mut size = 0;
        while seen.len() < PAGE_LIMIT && seen.insert(path.clone()) {
            let response = self.exchange(call, &path, None)?;
            size += response.body.len();
            if size > limit.bytes {
                return Err(Failure::TooLarge(limit.exceeded()));
            }
            let page = self.parse(&response, &parse)?;
            all.extend(page.entries);
            limit.check(&all).map_err(Failure::TooLarge)?;
            path = match page.next {
                None => return Ok(all),
                Some(next) => self.next_page(&next)?,
            };
        }
        Err(Failure::Unexpected(Unexpected::Endless, None))
    }

    fn parse_usages(body: &[u8]) -> Parsed<Page<Usage>> {
        reply::usages(body)
    }

    fn parse_done(body: &[u8], _: Call<'_>) -> Parsed<()> {
        reply::nothing(body)
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
            assert_eq!(path_segment(reference), segment);
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
