//! A small HTTP server on a free port of 127.0.0.1, for fakes of cloud services.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// A request; header names are in lower case.
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

/// How a server handles a request.
pub enum Reply {
    /// A status and a JSON body.
    Json(u16, String),
    /// No response while the server lives.
    Hang,
}

/// A server that is stopped when dropped.
pub struct Server {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Server {
    /// Handles requests with `handle`, concurrently.
    pub fn start(handle: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let ended = Arc::new(AtomicBool::new(false));
        let handle = Arc::new(handle);
        let server = Self {
            port,
            ended: ended.clone(),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (handle, ended) = (handle.clone(), ended.clone());
                thread::spawn(move || {
                    // A client that disconnects was killed by its test.
                    let _ = stream.and_then(|stream| serve(&stream, &*handle, &ended));
                });
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the accept loop.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// A URL with no server.
pub fn url_of_nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    format!("http://{address}")
}

fn serve(
    stream: &TcpStream,
    handle: &dyn Fn(&Request) -> Reply,
    ended: &AtomicBool,
) -> io::Result<()> {
    match handle(&read_request(&mut BufReader::new(stream))?) {
        Reply::Json(status, body) => {
            let length = body.len();
            let mut stream = stream;
            write!(
                stream,
                "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
        }
        Reply::Hang => {
            while !ended.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
    }
}

/// Reads one request from a connection.
pub fn read_request(input: &mut impl BufRead) -> io::Result<Request> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = words
        .next()
        .zip(words.next())
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or("0", String::as_str);
    let mut body = vec![0; length.parse().map_err(io::Error::other)?];
    input.read_exact(&mut body)?;
    Ok(Request {
        method,
        path,
        headers,
        body,
    })
}
