//! A CONNECT-only proxy on a free port of 127.0.0.1.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// A port on which nothing listens.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Which clients a proxy serves.
pub enum Serves {
    Everybody,
    /// Those with these credentials (`name:password` in Base64); others get 407.
    Only(&'static str),
    /// None: all get 403.
    Nobody,
}

/// A proxy that is stopped when dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    serves: Serves,
    targets: Mutex<Vec<String>>,
    heard: Mutex<String>,
    ended: AtomicBool,
}

impl Proxy {
    pub fn start(serves: Serves) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            serves,
            targets: Mutex::default(),
            heard: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let proxy = Self {
            port,
            shared: shared.clone(),
        };
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = shared.clone();
                // A client or a server that goes away ends only the tunnel.
                thread::spawn(move || client.and_then(|client| serve(client, &shared)));
            }
        });
        proxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL with a user name and password.
    pub fn url_for(&self, user: &str) -> String {
        format!("http://{user}@127.0.0.1:{}", self.port)
    }

    /// Everything that clients sent to the proxy itself.
    pub fn heard(&self) -> String {
        lock(&self.shared.heard).clone()
    }

    /// The `host:port` of each CONNECT request, including refused ones.
    pub fn targets(&self) -> Vec<String> {
        lock(&self.shared.targets).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the accept loop.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    // The client waits for the response before it sends more, so this never reads too far.
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    lock(&shared.heard).push_str(&first);
    let mut credentials = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        lock(&shared.heard).push_str(&line);
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("proxy-authorization") {
            credentials = value.trim().strip_prefix("Basic ").map(str::to_owned);
        }
    }
    let mut words = first.split_whitespace();
    let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
        return refuse(client, "405 Method Not Allowed", "Allow: CONNECT\r\n");
    };
    lock(&shared.targets).push(target.to_owned());
    match shared.serves {
        Serves::Only(wanted) if credentials.as_deref() != Some(wanted) => {
            let how = "Proxy-Authenticate: Basic realm=\"test\"\r\n";
            return refuse(client, "407 Proxy Authentication Required", how);
        }
        Serves::Nobody => return refuse(client, "403 Forbidden", ""),
        Serves::Only(_) | Serves::Everybody => {}
    }
    let Ok(server) = TcpStream::connect(target) else {
        return refuse(client, "502 Bad Gateway", "");
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (from_server, to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || pass_on(from_server, to_client));
    pass_on(client, server);
    Ok(())
}

fn refuse(mut client: TcpStream, status: &str, headers: &str) -> io::Result<()> {
    write!(
        client,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// Copies bytes until the end, then shuts the other side down.
fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
