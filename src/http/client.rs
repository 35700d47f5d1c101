//! HTTP/1.1 (RFC 9112) over a few kept connections. Whether any of a request was sent decides what is
//! certain after a failure.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use ureq::{
    Agent, Body, Proxy, RequestBuilder, Timeout,
    config::Config,
    http::{self, HeaderName, HeaderValue, StatusCode, Uri, header},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{ConnectProxyConnector, Connector, NextTimeout, TcpConnector, time},
    },
};

use super::{
    failure::Failure,
    progress::{Flag, Progress},
    tls::Tls,
};
use crate::interrupt::{self, CancelGuard, Phase};

/// The buffer size of a connection. A request is far smaller; a response is read in pieces.
const BUFFER: usize = 32 << 10;

/// How long connecting may take, within the time limit of the request.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a connection may be idle and still be reused: servers close idle connections after 5 s or
/// more.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// How to reach the host.
pub(crate) struct Settings {
    /// `https://HOST:PORT`.
    pub base: String,
    pub tls: Tls,
    pub proxy: Option<Proxy>,
    /// `Bearer TOKEN`.
    pub authorization: Option<HeaderValue>,
    /// For each request.
    pub timeout: Duration,
    /// The maximum number of connections.
    pub connections: usize,
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Response {
    pub status: StatusCode,
    pub location: Option<String>,
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
    /// Whether the connection had served another request before.
    pub on_kept_connection: bool,
    progress: Arc<Progress>,
}

impl Response {
    /// Ends the use of the connection: this is not the response to the request, and the next one may
    /// not be either.
    pub fn distrust(&self) {
        self.progress.shut.set(true);
    }
}

/// The connections to one host.
pub(crate) struct Client {
    settings: Settings,
    pool: Mutex<Pool>,
    returned: Condvar,
    reached: Arc<Flag>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    made: usize,
}

/// One connection, made at its first request and remade after the server closed it.
struct Connection {
    agent: Agent,
    progress: Arc<Progress>,
    used: Instant,
    /// Ends a request at a signal.
    _cancel_guard: CancelGuard,
}

impl Client {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            pool: Mutex::default(),
            returned: Condvar::new(),
            reached: Arc::default(),
        }
    }

    /// Sends one request (a POST if it has a body) once, and reads a response of at most `limit` bytes.
    /// Waiting for a free connection counts toward the timeout.
    pub fn request(
        &self,
        path: &str,
        body: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Response, Failure> {
        let begun = Instant::now();
        let method = match &body {
            Some(_) => "POST",
            None => "GET",
        };
        let mut connection = self.take(begun)?;
        let result = self.request_on(&mut connection, begun, path, body, limit);
        self.give_back(connection, result.is_ok());
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        match &result {
            Ok(response) => log::debug!("{method} {path}: {} in {took:.1} ms", response.status),
            Err(_) => log::debug!("{method} {path}: no response in {took:.1} ms"),
        }
        result
    }

    fn request_on(
        &self,
        connection: &mut Connection,
        begun: Instant,
        path: &str,
        body: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Response, Failure> {
        let waited = begun.elapsed();
        let left = self.settings.timeout.saturating_sub(waited);
        if left.is_zero() {
            return Err(self.no_turn());
        }
        let progress = &connection.progress;
        progress.sent.set(false);
        if connection.used.elapsed() > IDLE_LIMIT {
            progress.connected.set(false);
        }
        let kept = progress.connected.get();
        let request = Request {
            uri: format!("{}{path}", self.settings.base),
            authorization: self.settings.authorization.clone(),
            body,
            limit,
            within: left,
            on_kept_connection: kept,
            progress: progress.clone(),
        };
        let agent = connection.agent.clone();
        let exchange = move || request.exchange(&agent);
        let result = if kept {
            exchange()
        } else {
            connection.wait_for(exchange, left)
        };
        connection.used = Instant::now();
        // A server that gives up on a connection may send an error while the next request is under way; it
        // would pass for a refusal of that request.
        if let Ok(response) = &result
            && !response.status.is_success()
        {
            response.distrust();
        }
        result.map_err(|error| {
            connection.progress.connected.set(false);
            match self.failure(&connection.progress, error) {
                Failure::NotConnectedWithin(_) if waited > left => self.no_turn(),
                failure => failure,
            }
        })
    }

    fn failure(&self, progress: &Progress, error: ureq::Error) -> Failure {
        let sent = progress.sent.get();
        let timeout = self.settings.timeout;
        let stopped = if progress.shut.get() || !sent && !progress.confirms() {
            interrupt::announced()
        } else {
            interrupt::received()
        };
        match stopped {
            Some(kind) if sent => Failure::StoppedDuring(kind),
            Some(kind) => Failure::StoppedBefore(kind),
            None if sent => Failure::after_sending(error, timeout),
            None => Failure::before_sending(error, timeout, timeout.min(CONNECT_LIMIT)),
        }
    }

    /// Other requests held all connections, or failed to connect.
    fn no_turn(&self) -> Failure {
        let timeout = self.settings.timeout;
        if self.reached.get() {
            Failure::NoTurnWithin(timeout)
        } else {
            Failure::NotConnectedWithin(timeout.min(CONNECT_LIMIT))
        }
    }

    /// Takes an idle connection or makes one; waits if the maximum number is in use.
    fn take(&self, begun: Instant) -> Result<Connection, Failure> {
        let mut pool = self.lock();
        let connection = loop {
            let idle = pool.idle.len();
            pool.idle
                .retain(|connection| !connection.progress.shut.get());
            pool.made -= idle - pool.idle.len();
            if let Some(connection) = pool.idle.pop() {
                break connection;
            }
            if pool.made < self.settings.connections {
                pool.made += 1;
                break self.new_connection();
            }
            if let Some(kind) = interrupt::received() {
                return Err(Failure::StoppedBefore(kind));
            }
            if begun.elapsed() > self.settings.timeout {
                return Err(self.no_turn());
            }
            let waited = self.returned.wait_timeout(pool, interrupt::POLL_INTERVAL);
            pool = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        connection.progress.set_phase(interrupt::phase());
        Ok(connection)
    }

    fn give_back(&self, connection: Connection, is_usable: bool) {
        let mut pool = self.lock();
        if is_usable && !connection.progress.shut.get() {
            pool.idle.push(connection);
        } else {
            pool.made -= 1;
        }
        self.returned.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_connection(&self) -> Connection {
        let progress = Arc::new(Progress::new(self.reached.clone()));
        let config = Agent::config_builder()
            .https_only(true)
            .http_status_as_error(false)
            // The token is only for the named host.
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
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(self.settings.tls.connector(progress.clone()));
        let resolver = OnceResolver {
            progress: progress.clone(),
            ..OnceResolver::default()
        };
        let agent = Agent::with_parts(config, connector, resolver);
        let (ending, ended) = (agent.clone(), progress.clone());
        let end = move |phase: Phase| {
            if ended.phase() <= phase as u8 {
                ended.shut.set(true);
                ending.clone().shutdown();
            }
        };
        Connection {
            agent,
            progress,
            used: Instant::now(),
            _cancel_guard: CancelGuard::register(end),
        }
    }
}

/// Resolves the host name once per connection: ureq asks before each request, even on a kept
/// connection.
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
                if known.authority() == uri.authority() && self.progress.connected.get() =>
            {
                Ok(addresses.clone())
            }
            _ => {
                // A time limit would cost a thread, and `Connection::wait_for` already has one.
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

/// A GET, or a POST if it has a body.
struct Request {
    uri: String,
    authorization: Option<HeaderValue>,
    body: Option<Vec<u8>>,
    /// The maximum size of the response body, in bytes.
    limit: usize,
    within: Duration,
    on_kept_connection: bool,
    progress: Arc<Progress>,
}

impl Request {
    fn send(&self, agent: &Agent) -> Result<http::Response<Body>, ureq::Error> {
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

    fn exchange(&self, agent: &Agent) -> Result<Response, ureq::Error> {
        let mut response = self.send(agent)?;
        let text = |name: HeaderName| {
            let value = response.headers().get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let (location, retry_after) = (text(header::LOCATION), text(header::RETRY_AFTER));
        let body = response.body_mut().with_config();
        Ok(Response {
            body: body.limit(self.limit as u64).read_to_vec()?,
            status: response.status(),
            location,
            // An HTTP date is ignored, so that the usual pause applies.
            retry_after: retry_after
                .and_then(|seconds| seconds.trim().parse().ok())
                .map(Duration::from_secs),
            on_kept_connection: self.on_kept_connection,
            progress: self.progress.clone(),
        })
    }
}

impl Connection {
    /// Abandons the exchange at a signal or at the time limit; after that, it sends nothing.
    fn wait_for(
        &self,
        exchange: impl FnOnce() -> Result<Response, ureq::Error> + Send + 'static,
        within: Duration,
    ) -> Result<Response, ureq::Error> {
        let begun = Instant::now();
        let (sender, receiver) = mpsc::channel();
        // Nobody receives the result of an abandoned exchange.
        thread::Builder::new().spawn(move || drop(sender.send(exchange())))?;
        loop {
            match receiver.recv_timeout(interrupt::POLL_INTERVAL) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    let error = io::Error::other("the connection attempt ended without a result");
                    return Err(error.into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let limit = if self.progress.connected.get() {
                within
            } else {
                within.min(CONNECT_LIMIT)
            };
            // ureq's own timeouts come first: they know what they were waiting for.
            if interrupt::received().is_some() || begun.elapsed() > limit + interrupt::POLL_INTERVAL
            {
                self.agent.clone().shutdown();
                return Err(ureq::Error::Timeout(Timeout::Connect));
            }
        }
    }
}
