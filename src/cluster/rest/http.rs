//! HTTP/1.1 (RFC 9112) over a few connections that are kept, and what went wrong on one: whether
//! anything was sent decides what is certain afterwards.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use ureq::{
    Agent, Body, Proxy, RequestBuilder,
    config::Config,
    http::{HeaderName, HeaderValue, Response, StatusCode, Uri, header},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{ConnectProxyConnector, Connector, NextTimeout, TcpConnector},
    },
};

use super::{
    failure::{self, Failure},
    tls::{Progress, TlsConnector, Verifier},
};
use crate::{
    error::Kind,
    interrupt::{self, Ender},
};

/// A larger answer is none that the REST API gives to these calls.
pub(super) const ANSWER_LIMIT: u64 = 8 << 20;

/// How long a connection may take to come about, within the time that the call has.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a connection may be idle and still be used: servers close theirs after 5 s and more.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// How to reach the cluster.
pub(super) struct Settings {
    /// `https://HOST:PORT`.
    pub base: String,
    pub tls: Arc<ClientConfig>,
    pub verifier: Arc<Verifier>,
    pub proxy: Option<Proxy>,
    /// `Bearer TOKEN`.
    pub authorization: Option<HeaderValue>,
    /// For each call.
    pub timeout: Duration,
    /// How many connections there may be at a time.
    pub connections: usize,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub location: Option<String>,
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

/// The connections to one cluster.
pub(super) struct Client {
    settings: Settings,
    lines: Mutex<Lines>,
    returned: Condvar,
}

#[derive(Default)]
struct Lines {
    idle: Vec<Line>,
    made: usize,
}

/// One connection, once it is made; made anew when the other side has closed it.
struct Line {
    agent: Agent,
    progress: Arc<Progress>,
    _ender: Ender,
}

impl Client {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            lines: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// Sends one request, a POST if it has a body, and reads the answer, once. The time it has begins
    /// now, and includes what is spent waiting for a free connection.
    pub fn request(&self, path: &str, body: Option<Vec<u8>>) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let method = match &body {
            Some(_) => "POST",
            None => "GET",
        };
        let line = self.take_line();
        let result = self.request_on(&line, begun, path, body);
        self.give_back(line);
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        match &result {
            Ok(answer) => log::debug!("{method} {path}: {} in {took:.1} ms", answer.status),
            Err(_) => log::debug!("{method} {path}: no answer in {took:.1} ms"),
        }
        result
    }

    fn request_on(
        &self,
        line: &Line,
        begun: Instant,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, Failure> {
        line.progress.begin();
        let timeout = self.settings.timeout;
        let waited = begun.elapsed();
        let left = timeout.saturating_sub(waited);
        if left.is_zero() {
            return Err(Failure::NoTurnWithin(timeout));
        }
        let ask = Ask {
            uri: format!("{}{path}", self.settings.base),
            authorization: self.settings.authorization.clone(),
            body,
            within: left,
        };
        let agent = line.agent.clone();
        let call = move || exchange(&agent, ask);
        let result = match line.progress.is_connected() {
            // The line's `Ender` makes it return at a signal.
            true => call(),
            // Nothing ends the search for a host's address, or an attempt to connect.
            false => wait_for(call),
        };
        result.map_err(|error| {
            line.progress.failed();
            match self.failure(&line.progress, error) {
                Failure::NotConnectedWithin(_) if waited > left => Failure::NoTurnWithin(timeout),
                failure => failure,
            }
        })
    }

    /// `error` is none where a signal came first.
    fn failure(&self, progress: &Progress, error: Option<ureq::Error>) -> Failure {
        let sent = progress.has_sent();
        match (error, interrupt::received()) {
            (Some(error), None) if sent => failure::after_sending(error, self.settings.timeout),
            (Some(error), None) => match self.settings.verifier.refused() {
                Some(untrusted) => Failure::Untrusted(untrusted),
                None => {
                    let timeout = self.settings.timeout;
                    failure::before_sending(error, timeout, timeout.min(CONNECT_LIMIT))
                }
            },
            (_, signal) => {
                let kind = signal.unwrap_or(Kind::Interrupted);
                match sent {
                    true => Failure::StoppedDuring(kind),
                    false => Failure::StoppedBefore(kind),
                }
            }
        }
    }

    /// Waits for one that is free, where there are as many as there may be.
    fn take_line(&self) -> Line {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = self
            .returned
            .wait_while(lines, |lines| {
                lines.idle.is_empty() && lines.made >= self.settings.connections
            })
            .unwrap_or_else(PoisonError::into_inner);
        lines.idle.pop().unwrap_or_else(|| {
            lines.made += 1;
            self.new_line()
        })
    }

    fn give_back(&self, line: Line) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.idle.push(line);
        self.returned.notify_one();
    }

    fn new_line(&self) -> Line {
        let progress = Arc::new(Progress::default());
        let config = Agent::config_builder()
            .https_only(true)
            .http_status_as_error(false)
            // The token is for the named host alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(self.settings.proxy.clone())
            .max_idle_connections(1)
            .max_idle_age(IDLE_LIMIT)
            .timeout_resolve(Some(CONNECT_LIMIT))
            .timeout_connect(Some(CONNECT_LIMIT))
            .user_agent(concat!("qkey/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(TlsConnector {
                    config: self.settings.tls.clone(),
                    progress: progress.clone(),
                });
        let resolver = OnceResolver {
            progress: progress.clone(),
            ..OnceResolver::default()
        };
        let agent = Agent::with_parts(config, connector, resolver);
        let ending = agent.clone();
        Line {
            agent,
            progress,
            _ender: Ender::register(move || ending.clone().shutdown()),
        }
    }
}

/// Looks a host up for a new connection: the library asks for it before each request, also on a
/// connection that is kept.
#[derive(Debug, Default)]
struct OnceResolver {
    system: DefaultResolver,
    progress: Arc<Progress>,
    found: Mutex<Option<(Uri, ResolvedSocketAddrs)>>,
}

impl Resolver for OnceResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match &*found {
            Some((known, addresses))
                if known.authority() == uri.authority() && self.progress.is_connected() =>
            {
                Ok(addresses.clone())
            }
            _ => {
                let addresses = self.system.resolve(uri, config, timeout)?;
                *found = Some((uri.clone(), addresses.clone()));
                Ok(addresses)
            }
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `None` is a call that a signal kept from coming to its end.
type Exchanged = Result<Answer, Option<ureq::Error>>;

/// What is asked of the cluster: to read, or with a body to do something.
struct Ask {
    uri: String,
    authorization: Option<HeaderValue>,
    body: Option<Vec<u8>>,
    within: Duration,
}

impl Ask {
    fn send(self, agent: &Agent) -> Result<Response<Body>, ureq::Error> {
        match &self.body {
            None => self.prepared(agent.get(&self.uri)).call(),
            Some(body) => self
                .prepared(agent.post(&self.uri))
                .header(header::CONTENT_TYPE, JSON)
                .send(&body[..]),
        }
    }

    fn prepared<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        let request = request.header(header::ACCEPT, JSON);
        let request = match &self.authorization {
            Some(authorization) => request.header(header::AUTHORIZATION, authorization),
            None => request,
        };
        request.config().timeout_global(Some(self.within)).build()
    }
}

fn exchange(agent: &Agent, ask: Ask) -> Exchanged {
    let mut response = ask.send(agent).map_err(Some)?;
    let text = |name: HeaderName| {
        let value = response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (location, retry_after) = (text(header::LOCATION), text(header::RETRY_AFTER));
    let body = response.body_mut().with_config();
    Ok(Answer {
        body: body.limit(ANSWER_LIMIT).read_to_vec().map_err(Some)?,
        status: response.status(),
        location,
        // The other form, a date, is left to the back-off.
        retry_after: retry_after
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs),
    })
}

/// Leaves the call behind when a signal comes first.
fn wait_for(call: impl FnOnce() -> Exchanged + Send + 'static) -> Exchanged {
    let (sender, receiver) = mpsc::channel();
    // Nobody listens any more after a signal.
    thread::spawn(move || drop(sender.send(call())));
    loop {
        match receiver.recv_timeout(interrupt::LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) if interrupt::received().is_none() => {}
            Err(_) => return Err(None),
        }
    }
}
