//! A server of HTTP on tokio and axum, with clients of its own in the same process so that its
//! output is the same each time: 4 connections, a number of requests each, one of them for a file.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use tokio::sync::oneshot;

const CONNECTIONS: u64 = 4;

#[derive(Default)]
struct Shared {
    served: AtomicU64,
    names: Mutex<Vec<u64>>,
}

async fn hello(State(shared): State<Arc<Shared>>) -> String {
    let n = shared.served.fetch_add(1, Relaxed);
    shared.names.lock().unwrap().push(n % 7);
    "hello\n".into()
}

/// Blocks a thread of the runtime's pool for blocking work.
async fn file(State(shared): State<Arc<Shared>>) -> String {
    shared.served.fetch_add(1, Relaxed);
    let read = || std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    tokio::task::spawn_blocking(read).await.unwrap()
}

fn ask(stream: &mut TcpStream, path: &str) -> usize {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut part = [0u8; 1024];
    loop {
        let n = stream.read(&mut part).unwrap();
        assert!(n > 0, "the server closed the connection");
        answer.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
        if body.len() >= length.unwrap().parse().unwrap() {
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            return body.len();
        }
    }
}

fn client(to: SocketAddr, requests: u64) -> usize {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    (0..requests).map(|n| ask(&mut stream, if n % 50 == 49 { "/file" } else { "/" })).sum()
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let requests = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1_000);
    let shared = Arc::new(Shared::default());
    let app =
        Router::new().route("/", get(hello)).route("/file", get(file)).with_state(shared.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async { stopped.await.unwrap() };
    let server =
        tokio::spawn(async { axum::serve(listener, app).with_graceful_shutdown(until).await });
    let clients: Vec<_> =
        (0..CONNECTIONS).map(|_| std::thread::spawn(move || client(to, requests))).collect();
    let all = move || clients.into_iter().map(|c| c.join().unwrap()).sum::<usize>();
    let bytes = tokio::task::spawn_blocking(all).await.unwrap();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    let served = shared.served.load(Relaxed);
    let hellos = shared.names.lock().unwrap().len();
    println!("{served} requests, {hellos} of them hello, {bytes} bytes");
}
