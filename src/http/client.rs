//! HTTP/1.1 (RFC 9112) over a few kept connections. Whether any of a request was sent decides what is
//! certain after a failure.

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
    http::{self, HeaderName, HeaderValue, StatusCode, Uri, header},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{ConnectProxyConnector, Connector, NextTimeout, TcpConnector, time},
    },
};

use super::{
    failure::Failure,
    tls::{Progress, Tls, TlsConnector, Verifier},
};
use crate::interrupt::{self, Ender, Phase};

/// The buffer size of a connection. A request is far smaller, and a response is read in pieces.
const BUFFER: usize = 32 << 10;

/// How long connecting may take, within the time limit of the request.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a connection may be idle and still be reused: servers close idle ones after 5 s or more.
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
    connection: Option<Arc<Stop>>,
    /// Whether the connection had served another request before.
    pub on_kept_connection: bool,
}

impl Response {
    /// Drops the connection after use: this is not the response to the request, and the next one may
    /// not be either.
    pub fn distrust(&self) {
        if let Some(connection) = &self.connection {
            connection.is_shut.store(true, Ordering::SeqCst);
        }
    }
}

/// The connections to one host.
pub(crate) struct Client {
    settings: Settings,
    pool: Mutex<Pool>,
    returned: Condvar,
    reached: Arc<AtomicBool>,
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
    verifier: Arc<Verifier>,
    used: Instant,
    /// Whether a request on it was abandoned.
    abandoned: bool,
    stop: Arc<Stop>,
    _cancel_guard: Ender,
}

/// What ends the use of a connection.
#[derive(Debug, Default)]
struct Stop {
    /// What the current request is for, as a [`Phase`].
    serves: AtomicU8,
    /// Whether a signal or a stray response has ended its use.
    is_shut: AtomicBool,
}

impl Stop {
    fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::SeqCst)
    }
}

/// A connection in use; returned to the pool when dropped.
struct Lease<'a> {
    client: &'a Client,
    connection: Option<Connection>,
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
        let mut lease = self.lease(begun)?;
        let result = match &mut lease.connection {
            Some(connection) => self.request_on(connection, begun, path, body, limit),
            None => unreachable!("a lease has its connection until it ends"),
        };
        drop(lease);
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
        let timeout = self.settings.timeout;
        let waited = begun.elapsed();
        let left = timeout.saturating_sub(waited);
        if left.is_zero() {
            return Err(self.no_turn());
        }
        connection.progress.begin();
        if connection.used.elapsed() > IDLE_LIMIT {
            connection.progress.disconnected();
        }
        let request = Request {
            uri: format!("{}{path}", self.settings.base),
            authorization: self.settings.authorization.clone(),
            body,
            limit,
            within: left,
        };
        let agent = connection.agent.clone();
        let exchange = move || request.exchange(&agent);
        let kept = connection.progress.is_connected();
        let mut result = match kept {
            // The cancel guard makes it return at a signal.
            true => exchange().map_err(NoResponse::Error),
            // Nothing cancels a name lookup or a connection attempt.
            false => connection.wait_for(exchange, left),
        };
        connection.used = Instant::now();
        // A server that gives up on a connection may say so while the next request is under way, and a
        // duplicate error would be taken for the refusal of the next request.
        if let Ok(response) = &mut result {
            response.connection = Some(connection.stop.clone());
            response.on_kept_connection = kept;
            if !response.status.is_success() {
                response.distrust();
            }
        }
        result.map_err(|no_response| {
            connection.progress.disconnected();
            match self.failure(connection, no_response) {
                Failure::NotConnectedWithin(_) if waited > left => self.no_turn(),
                failure => failure,
            }
        })
    }

    fn failure(&self, connection: &Connection, no_response: NoResponse) -> Failure {
        let (stop, progress) = (&connection.stop, &connection.progress);
        let sent = progress.has_sent();
        let timeout = self.settings.timeout;
        let stopped = match stop.is_shut() || !sent && !progress.confirms() {
            true => interrupt::announced(),
            false => interrupt::received(),
        };
        match (no_response, stopped) {
            (_, Some(kind)) if sent => Failure::StoppedDuring(kind),
            (_, Some(kind)) => Failure::StoppedBefore(kind),
            (NoResponse::Abandoned, None) if sent => Failure::TimedOut(timeout),
            (NoResponse::Abandoned, None) => {
                Failure::NotConnectedWithin(timeout.min(CONNECT_LIMIT))
            }
            (NoResponse::Error(error), None) if sent => Failure::after_sending(error, timeout),
            (NoResponse::Error(error), None) => match connection.verifier.take_refused() {
                Some(untrusted) => Failure::Untrusted(untrusted),
                None => Failure::before_sending(error, timeout, timeout.min(CONNECT_LIMIT)),
            },
        }
    }

    /// Other requests held every connection, or tried in vain to connect.
    fn no_turn(&self) -> Failure {
        let timeout = self.settings.timeout;
        match self.reached.load(Ordering::SeqCst) {
            true => Failure::NoTurnWithin(timeout),
            false => Failure::NotConnectedWithin(timeout.min(CONNECT_LIMIT)),
        }
    }

    /// Waits for a free connection if the maximum number is in use.
    fn lease(&self, begun: Instant) -> Result<Lease<'_>, Failure> {
        let mut pool = self.lock();
        loop {
            let idle = pool.idle.len();
            pool.idle.retain(|connection| !connection.stop.is_shut());
            pool.made -= idle - pool.idle.len();
            let made = pool.made;
            let connection = match pool.idle.pop() {
                Some(connection) => Some(connection),
                None if made < self.settings.connections => {
                    pool.made += 1;
                    Some(self.new_connection())
                }
                None => None,
            };
            if let Some(connection) = connection {
                let phase = interrupt::phase();
                connection.stop.serves.store(phase as u8, Ordering::SeqCst);
                connection.progress.set_confirms(phase == Phase::Confirm);
                let connection = Some(connection);
                return Ok(Lease {
                    client: self,
                    connection,
                });
            }
            if let Some(kind) = interrupt::received() {
                return Err(Failure::StoppedBefore(kind));
            }
            if begun.elapsed() > self.settings.timeout {
                return Err(self.no_turn());
            }
            let waited = self.returned.wait_timeout(pool, interrupt::POLL_INTERVAL);
            pool = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
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
        Connection {
            agent,
            progress,
            verifier,
            used: Instant::now(),
            abandoned: false,
            stop,
            _cancel_guard: Ender::register(end),
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
                if known.authority() == uri.authority() && self.progress.is_connected() =>
            {
                Ok(addresses.clone())
            }
            _ => {
                // A limit would cost a thread; `Connection::wait_for` has one already.
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

/// Why a request got no response.
enum NoResponse {
    Error(ureq::Error),
    /// It was abandoned at its time limit or at a signal.
    Abandoned,
}

/// A GET, or a POST if it has a body.
struct Request {
    uri: String,
    authorization: Option<HeaderValue>,
    body: Option<Vec<u8>>,
    /// The maximum size of the response body, in bytes.
    limit: usize,
    within: Duration,
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
            // An HTTP date is ignored; the back-off applies.
            retry_after: retry_after
                .and_then(|seconds| seconds.trim().parse().ok())
                .map(Duration::from_secs),
            connection: None,
            on_kept_connection: false,
        })
    }
}

impl Connection {
    /// Abandons the exchange at a signal or at the time limit; then it sends nothing more.
    fn wait_for(
        &mut self,
        exchange: impl FnOnce() -> Result<Response, ureq::Error> + Send + 'static,
        within: Duration,
    ) -> Result<Response, NoResponse> {
        let begun = Instant::now();
        let (sender, receiver) = mpsc::channel();
        // Nobody receives the result of an abandoned exchange.
        thread::Builder::new()
            .spawn(move || drop(sender.send(exchange())))
            .map_err(|error| NoResponse::Error(error.into()))?;
        loop {
            match receiver.recv_timeout(interrupt::POLL_INTERVAL) {
                Ok(result) => return result.map_err(NoResponse::Error),
                Err(RecvTimeoutError::Disconnected) => {
                    let error = io::Error::other("the connection attempt ended without a result");
                    return Err(NoResponse::Error(error.into()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let limit = match self.progress.is_connected() {
                true => within,
                false => within.min(CONNECT_LIMIT),
            };
            // ureq's own timeouts come first: they know what they were waiting for.
            if interrupt::received().is_some() || begun.elapsed() > limit + interrupt::POLL_INTERVAL
            {
                self.abandoned = true;
                self.agent.clone().shutdown();
                return Err(NoResponse::Abandoned);
            }
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut pool = self.client.lock();
        match self.connection.take() {
            Some(connection) if !connection.abandoned && !connection.stop.is_shut() => {
                pool.idle.push(connection);
            }
            _ => pool.made -= 1,
        }
        self.client.returned.notify_one();
    }
}
