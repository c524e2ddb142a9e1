//! The server's door: who is let in, how much may be asked at once, and for how long.
//!
//! The server listens on this machine alone unless it is told otherwise. A request must carry the token that was made at the start, must
//! name a host that is this machine, and must not come from another page; a form of another site cannot send the token's header, and a
//! browser asks for leave before a script of another site does, which it never gets. Requests name micrographs by number, so no path can
//! be asked for. Connections, sizes and times are bounded.

use super::Workbench;
use super::routes::{self, Answer, Asked};
use crate::words::counted;
use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Connections at a time; more are closed at once.
pub const MOST_CONNECTIONS: usize = 256;
/// The longest body of a request, bytes.
pub const LONGEST_BODY: usize = 4 << 20;
/// The longest head of a request, bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// How long a head or a body may take to arrive, and how long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often somebody looks whether the program is to end.
const BEAT: Duration = Duration::from_millis(100);
/// Threads that answer.
const THREADS: usize = 6;
/// The header that carries the token.
pub const TOKEN_HEADER: &str = "x-epicker-token";

/// Who is let in.
#[derive(Clone, Debug)]
pub struct Door {
    token: String,
    /// False if the server was told to listen to other machines, which call this one by names that it does not know.
    is_local: bool,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: u16,
    /// What is told.
    pub text: &'static str,
}

impl Door {
    /// A door with a new token. `address` is the one that the server listens on.
    ///
    /// Errors: the system has no random numbers.
    pub fn new(address: IpAddr) -> Result<Door> {
        let mut bytes = [0_u8; 24];
        getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers for a token: {error}"))?;
        let token = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Door { token, is_local: address.is_loopback() })
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Lets a request in, or says why not.
    ///
    /// Errors: the token is missing or wrong, the host is not this machine, or another page asks.
    pub fn check(&self, method: &Method, headers: &HeaderMap, query: &str) -> Result<(), Refusal> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let refuse = |status, text| Err(Refusal { status, text });
        if *method != Method::GET && *method != Method::POST {
            return refuse(405, "only GET and POST are answered");
        }
        let host = text("host").unwrap_or_default();
        // Another name for this machine would be that of a page which wants to be taken for this one.
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())).map_or(host, |(name, _)| name);
        if self.is_local && !["localhost", "127.0.0.1", "[::1]"].contains(&name) {
            return refuse(403, "asked for under a name that is not this machine's; open the address that epicker view prints");
        }
        if text("origin").is_some_and(|origin| origin != format!("http://{host}"))
            || text("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
        {
            return refuse(403, "asked by another page");
        }
        let token = text(TOKEN_HEADER).or_else(|| routes::value_of(query, "token").filter(|_| *method == Method::GET));
        if !token.is_some_and(|token| is_equal(token, &self.token)) {
            return refuse(403, "no token, or a wrong one; open the address that epicker view prints");
        }
        Ok(())
    }
}

/// True for equal texts; takes the same time wherever they differ.
fn is_equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Answers requests until `is_stopped`.
///
/// Errors: the system gives no threads or no events.
pub fn serve(workbench: &Arc<Workbench>, listener: TcpListener, door: Door, is_stopped: &dyn Fn() -> bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(THREADS).build();
    let runtime = runtime.context("the server cannot be started")?;
    listener.set_nonblocking(true).context("the server cannot be started")?;
    let door = Arc::new(door);
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).context("the server cannot be started")?;
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        while !is_stopped() {
            let Ok(accepted) = tokio::time::timeout(BEAT, listener.accept()).await else { continue };
            // A connection that ended before it was accepted, or too many open files: the next one may be better.
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
            let (workbench, door) = (Arc::clone(workbench), Arc::clone(&door));
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(Arc::clone(&workbench), Arc::clone(&door), request));
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(LONGEST_HEAD);
                // Whoever breaks off or talks nonsense gets no more than that.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
                drop(place);
            });
        }
        anyhow::Ok(())
    })?;
    workbench.hands.end();
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

async fn answer(workbench: Arc<Workbench>, door: Arc<Door>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(answered(workbench, door, request).await.unwrap_or_else(|Refusal { status, text }| respond(Answer::error(status, text))))
}

async fn answered(workbench: Arc<Workbench>, door: Arc<Door>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refusal> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().to_owned();
    door.check(&head.method, &head.headers, &query)?;
    let too_large = Refusal { status: 413, text: "the request is too large" };
    let stated = head.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if stated.is_some_and(|length| length > LONGEST_BODY as u64) {
        return Err(too_large);
    }
    let body = tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST_BODY).collect()).await;
    let body = body.map_err(|_| Refusal { status: 408, text: "the request took too long to arrive" })?.map_err(|_| too_large)?.to_bytes();
    let asked = Asked { is_post: head.method == Method::POST, path: head.uri.path().to_owned(), query, body: body.to_vec() };
    // An answer may have to read a file.
    let answer = tokio::task::spawn_blocking(move || routes::answer(&workbench, &asked)).await;
    Ok(respond(answer.unwrap_or_else(|_| Answer::error(500, "something went wrong here; the terminal says more"))))
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.bytes)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    };
    set("content-type", answer.content_type);
    set("x-content-type-options", "nosniff");
    set("referrer-policy", "no-referrer");
    set("cross-origin-resource-policy", "same-origin");
    set("x-frame-options", "DENY");
    set("cache-control", "no-store");
    let nonce = answer.nonce.as_deref().map(|nonce| format!("script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; ")).unwrap_or_default();
    let rest = "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    set("content-security-policy", &format!("default-src 'none'; {nonce}{rest}"));
    response
}

/// What is printed at the start: the address, and how it is reached from another machine.
pub fn greeting(door: &Door, address: std::net::SocketAddr, micrographs: usize, host_name: &str) -> Vec<String> {
    let port = address.port();
    vec![
        format!("{}: open http://{address}/?token={}", counted(micrographs, "micrograph"), door.token()),
        format!("from another machine, first: ssh -L {port}:127.0.0.1:{port} {host_name}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &str)], query: &str, method: Method) -> Result<(), u16> {
        let door = Door { token: "0123456789abcdef".to_owned(), is_local: true };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        door.check(&method, &map, query).map_err(|refusal| refusal.status)
    }

    #[test]
    fn only_the_page_with_the_token_is_let_in() {
        let token = (TOKEN_HEADER, "0123456789abcdef");
        let host = ("host", "127.0.0.1:8470");
        assert_eq!(check(&[host, token], "", Method::GET), Ok(()));
        assert_eq!(check(&[("host", "localhost:9999"), token], "", Method::POST), Ok(()));
        assert_eq!(check(&[host], "a=1&token=0123456789abcdef", Method::GET), Ok(()));
        // A link can be followed, but nothing can be changed by one.
        assert_eq!(check(&[host], "token=0123456789abcdef", Method::POST), Err(403));
        for wrong in
            [&[host][..], &[host, (TOKEN_HEADER, "0123456789abcdeF")], &[host, (TOKEN_HEADER, "0123")], &[host, (TOKEN_HEADER, "")]]
        {
            assert_eq!(check(wrong, "", Method::GET), Err(403));
        }
        assert_eq!(check(&[("host", "evil.example:8470"), token], "", Method::GET), Err(403));
        assert_eq!(check(&[("host", "127.0.0.1.evil.example"), token], "", Method::GET), Err(403));
        assert_eq!(check(&[host, token, ("origin", "http://evil.example")], "", Method::POST), Err(403));
        assert_eq!(check(&[host, token, ("origin", "null")], "", Method::POST), Err(403));
        assert_eq!(check(&[host, token, ("origin", "http://127.0.0.1:8470")], "", Method::POST), Ok(()));
        assert_eq!(check(&[host, token, ("sec-fetch-site", "cross-site")], "", Method::GET), Err(403));
        assert_eq!(check(&[host, token], "", Method::OPTIONS), Err(405));
    }

    #[test]
    fn every_door_has_a_token_of_its_own() {
        let token = || Door::new("127.0.0.1".parse().unwrap()).unwrap().token().to_owned();
        assert!(token() != token() && token().len() == 48);
    }
}
