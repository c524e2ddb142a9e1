//! The workbench, served by the program, and asked over plain HTTP.

use super::program::Running;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// A workbench that is served.
pub struct Served {
    /// The program.
    pub run: Running,
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// The token.
    pub token: String,
}

/// An answer.
pub struct Answer {
    /// The status; 0 if the server has closed the connection without a word.
    pub status: u16,
    /// The header's lines.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Served {
    /// Serves with these arguments, which begin after `view`, on any free port.
    pub fn start(folder: &Path, args: &[&str]) -> Served {
        let mut run = Running::start(folder, &[&["view", "--port", "0"], args].concat());
        run.wait_for("open http://");
        let line = run.told.last().unwrap().clone();
        let (_, rest) = line.split_once("http://").unwrap();
        let (address, token) = rest.split_once("/?token=").unwrap();
        Served { run, address: address.to_owned(), token: token.to_owned() }
    }

    /// The address of the page.
    pub fn page(&self) -> String {
        format!("http://{}/?token={}", self.address, self.token)
    }

    /// Asks for something with the token.
    pub fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nX-Epicker-Token: {}\r\nConnection: close\r\n\r\n", self.address, self.token))
    }

    /// Sends JSON with the token.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nX-Epicker-Token: {}\r\nConnection: close\r\n", self.address, self.token);
        self.ask(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
    }

    /// Sends bytes as they are, and reads until the server closes.
    pub fn ask(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        // A server that refuses closes early; what it said is there all the same.
        let _ = stream.write_all(request.as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head, body: bytes[end..].to_vec() }
    }
}
