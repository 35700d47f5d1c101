//! HTTP/1.1 (RFC 9112) over a few connections that are kept, and what went wrong on one: whether
//! anything was sent decides what is certain afterwards.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use ureq::{
    Agent, Body, Proxy, RequestBuilder,
    config::Config,
    http::{HeaderName, HeaderValue, Response, StatusCode, Uri, header},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{ConnectProxyConnector, Connector, NextTimeout, TcpConnector, time},
    },
};

use super::{
    failure::{self, Failure},
    tls::{Progress, Tls, TlsConnector, Verifier},
};
use crate::interrupt::{self, Ender, Phase};

/// Of each connection. A request with its headers is far smaller, and an answer is read piece by
/// piece.
const BUFFER: usize = 32 << 10;

/// How long a connection may take to come about, within the time that the call has.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a connection may be idle and still be used: servers close theirs after 5 s and more.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// How to reach the cluster.
pub(super) struct Settings {
    /// `https://HOST:PORT`.
    pub base: String,
    pub tls: Tls,
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
    connection: Option<Arc<Stop>>,
    /// Whether the connection had answered another request before.
    pub on_kept_connection: bool,
}

impl Answer {
    /// Uses the connection no further: this is not the answer to what was asked on it, and what comes
    /// next may not be either.
    pub fn distrust(&self) {
        if let Some(connection) = &self.connection {
            connection.is_shut.store(true, Ordering::SeqCst);
        }
    }
}

/// The connections to one cluster.
pub(super) struct Client {
    settings: Settings,
    lines: Mutex<Lines>,
    returned: Condvar,
    reached: Arc<AtomicBool>,
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
    verifier: Arc<Verifier>,
    used: Instant,
    /// Whether a call was left behind on it.
    abandoned: bool,
    stop: Arc<Stop>,
    _ender: Ender,
}

/// What ends the use of a connection.
#[derive(Debug, Default)]
struct Stop {
    /// What the call under way is for, as a [`Phase`].
    serves: AtomicU8,
    /// Whether a signal, or an answer to something else, has ended its use.
    is_shut: AtomicBool,
}

impl Stop {
    fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::SeqCst)
    }
}

/// A line in use; goes back whatever happens.
struct Lease<'a> {
    client: &'a Client,
    line: Option<Line>,
}

impl Client {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            lines: Mutex::default(),
            returned: Condvar::new(),
            reached: Arc::default(),
        }
    }

    /// Sends one request, a POST if it has a body, and reads an answer of at most `limit` bytes, once. The time it has begins
    /// now, and includes what is spent waiting for a free connection.
    pub fn request(
        &self,
        path: &str,
        body: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let method = match &body {
            Some(_) => "POST",
            None => "GET",
        };
        let mut lease = self.lease(begun)?;
        let result = match &mut lease.line {
            Some(line) => self.request_on(line, begun, path, body, limit),
            None => unreachable!("a lease has its line until it ends"),
        };
        drop(lease);
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        match &result {
            Ok(answer) => log::debug!("{method} {path}: {} in {took:.1} ms", answer.status),
            Err(_) => log::debug!("{method} {path}: no answer in {took:.1} ms"),
        }
        result
    }

    fn request_on(
        &self,
        line: &mut Line,
        begun: Instant,
        path: &str,
        body: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Answer, Failure> {
        let timeout = self.settings.timeout;
        let waited = begun.elapsed();
        let left = timeout.saturating_sub(waited);
        if left.is_zero() {
            return Err(self.no_turn());
        }
        line.progress.begin();
        if line.used.elapsed() > IDLE_LIMIT {
            line.progress.disconnected();
        }
        let ask = Ask {
            uri: format!("{}{path}", self.settings.base),
            authorization: self.settings.authorization.clone(),
            body,
            limit,
            within: left,
        };
        let agent = line.agent.clone();
        let call = move || exchange(&agent, ask);
        let kept = line.progress.is_connected();
        let mut result = match kept {
            // The line's `Ender` makes it return at a signal.
            true => call().map_err(Unanswered::Error),
            // Nothing ends the search for a host's address, or an attempt to connect.
            false => line.wait_for(call, left),
        };
        line.used = Instant::now();
        // A server that gives up on a connection may say so while the next request is on its way, and an
        // error that comes twice would be taken for the refusal of the next request.
        if let Ok(answer) = &mut result {
            answer.connection = Some(line.stop.clone());
            answer.on_kept_connection = kept;
            if !answer.status.is_success() {
                answer.distrust();
            }
        }
        result.map_err(|unanswered| {
            line.progress.disconnected();
            match self.failure(line, unanswered) {
                Failure::NotConnectedWithin(_) if waited > left => self.no_turn(),
                failure => failure,
            }
        })
    }

    fn failure(&self, line: &Line, unanswered: Unanswered) -> Failure {
        let sent = line.progress.has_sent();
        let timeout = self.settings.timeout;
        let stopped = match line.stop.is_shut() || !sent && !line.progress.confirms() {
            true => interrupt::announced(),
            false => interrupt::received(),
        };
        match (unanswered, stopped) {
            (_, Some(kind)) if sent => Failure::StoppedDuring(kind),
            (_, Some(kind)) => Failure::StoppedBefore(kind),
            (Unanswered::LeftBehind, None) if sent => Failure::TimedOut(timeout),
            (Unanswered::LeftBehind, None) => {
                Failure::NotConnectedWithin(timeout.min(CONNECT_LIMIT))
            }
            (Unanswered::Error(error), None) if sent => failure::after_sending(error, timeout),
            (Unanswered::Error(error), None) => match line.verifier.take_refused() {
                Some(untrusted) => Failure::Untrusted(untrusted),
                None => failure::before_sending(error, timeout, timeout.min(CONNECT_LIMIT)),
            },
        }
    }

    /// Others had the connection all the time: used it, or tried in vain to make one.
    fn no_turn(&self) -> Failure {
        let timeout = self.settings.timeout;
        match self.reached.load(Ordering::SeqCst) {
            true => Failure::NoTurnWithin(timeout),
            false => Failure::NotConnectedWithin(timeout.min(CONNECT_LIMIT)),
        }
    }

    /// Waits for a line that is free, where there are as many as there may be.
    fn lease(&self, begun: Instant) -> Result<Lease<'_>, Failure> {
        let mut lines = self.lock();
        loop {
            let idle = lines.idle.len();
            lines.idle.retain(|line| !line.stop.is_shut());
            lines.made -= idle - lines.idle.len();
            let made = lines.made;
            let line = match lines.idle.pop() {
                Some(line) => Some(line),
                None if made < self.settings.connections => {
                    lines.made += 1;
                    Some(self.new_line())
                }
                None => None,
            };
            if let Some(line) = line {
                let phase = interrupt::phase();
                line.stop.serves.store(phase as u8, Ordering::SeqCst);
                line.progress.set_confirms(phase == Phase::Confirm);
                let line = Some(line);
                return Ok(Lease { client: self, line });
            }
            if let Some(kind) = interrupt::received() {
                return Err(Failure::StoppedBefore(kind));
            }
            if begun.elapsed() > self.settings.timeout {
                return Err(self.no_turn());
            }
            let waited = self.returned.wait_timeout(lines, interrupt::POLL_INTERVAL);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_line(&self) -> Line {
        let progress = Arc::new(Progress::new(self.reached.clone()));
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
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_response_header_size(BUFFER)
            .user_agent(concat!("qkey/", env!("CARGO_PKG_VERSION")))
            .build();
        let (tls, verifier) = self.settings.tls.of_connection();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(TlsConnector {
                    config: tls,
                    progress: progress.clone(),
                });
        let resolver = OnceResolver {
            progress: progress.clone(),
            ..OnceResolver::default()
        };
        let agent = Agent::with_parts(config, connector, resolver);
        let stop = Arc::new(Stop::default());
        let (ending, stopping) = (agent.clone(), stop.clone());
        let end = move |phase: Phase| {
            if stopping.serves.load(Ordering::SeqCst) > phase as u8 {
                return;
            }
            stopping.is_shut.store(true, Ordering::SeqCst);
            ending.clone().shutdown();
        };
        Line {
            agent,
            progress,
            verifier,
            used: Instant::now(),
            abandoned: false,
            stop,
            _ender: Ender::register(end),
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
                // With a limit it would take a thread; whoever waits for the connection has one.
                let unlimited = NextTimeout {
                    after: time::Duration::NotHappening,
                    ..timeout
                };
                let addresses = self.system.resolve(uri, config, unlimited)?;
                *found = Some((uri.clone(), addresses.clone()));
                Ok(addresses)
            }
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why a call has no answer.
enum Unanswered {
    Error(ureq::Error),
    /// It was left behind when its time was over, or at a signal.
    LeftBehind,
}

/// What is asked of the cluster: to read, or with a body to do something.
struct Ask {
    uri: String,
    authorization: Option<HeaderValue>,
    body: Option<Vec<u8>>,
    /// How long the answer may be.
    limit: usize,
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

fn exchange(agent: &Agent, ask: Ask) -> Result<Answer, ureq::Error> {
    let limit = ask.limit as u64;
    let mut response = ask.send(agent)?;
    let text = |name: HeaderName| {
        let value = response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (location, retry_after) = (text(header::LOCATION), text(header::RETRY_AFTER));
    let body = response.body_mut().with_config();
    Ok(Answer {
        body: body.limit(limit).read_to_vec()?,
        status: response.status(),
        location,
        // The other form, a date, is left to the back-off.
        retry_after: retry_after
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs),
        connection: None,
        on_kept_connection: false,
    })
}

impl Line {
    /// Leaves the call behind when a signal comes first, or the time is over; then it sends nothing
    /// more.
    fn wait_for(
        &mut self,
        call: impl FnOnce() -> Result<Answer, ureq::Error> + Send + 'static,
        within: Duration,
    ) -> Result<Answer, Unanswered> {
        let begun = Instant::now();
        let (sender, receiver) = mpsc::channel();
        // Nobody listens any more to one that was left behind.
        thread::Builder::new()
            .spawn(move || drop(sender.send(call())))
            .map_err(|error| Unanswered::Error(error.into()))?;
        loop {
            match receiver.recv_timeout(interrupt::POLL_INTERVAL) {
                Ok(result) => return result.map_err(Unanswered::Error),
                Err(RecvTimeoutError::Disconnected) => {
                    let error = io::Error::other("the attempt to connect ended without a result");
                    return Err(Unanswered::Error(error.into()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let limit = match self.progress.is_connected() {
                true => within,
                false => within.min(CONNECT_LIMIT),
            };
            // The call's own time-outs are to come first, for they know better what they wait for.
            if interrupt::received().is_some() || begun.elapsed() > limit + interrupt::POLL_INTERVAL
            {
                self.abandoned = true;
                self.agent.clone().shutdown();
                return Err(Unanswered::LeftBehind);
            }
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut lines = self.client.lock();
        match self.line.take() {
            Some(line) if !line.abandoned && !line.stop.is_shut() => lines.idle.push(line),
            _ => lines.made -= 1,
        }
        self.client.returned.notify_one();
    }
}
