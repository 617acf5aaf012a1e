//! Requests by which an application, or who speaks through it, tries to have two parsers disagree: where a message
//! ends, which fields it has, where it goes. Each is also a seed of the target `http1`.

mod connections;
mod framing;
mod heads;

/// What must become of a connection that begins with these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This many requests arrive and are answered with 200.
    Served(usize),
    /// Nothing arrives; the caller gets an answer of the mesh's own and the connection ends, or it just ends.
    Refused,
    /// As refused, but the connection may go on: its framing is sound, and the answer was one of the mesh's own.
    Answered,
    /// The message has no end: nothing arrives whole.
    Unfinished,
}

/// One connection of an application.
#[derive(Clone, Debug)]
pub struct Case {
    /// Also the name of the seed.
    pub name: String,
    /// What is sent.
    pub bytes: Vec<u8>,
    /// What becomes of it.
    pub expected: Expected,
}

/// What must never arrive as a request.
pub const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        framing::codings(),
        framing::lengths(),
        framing::chunks(),
        heads::lines(),
        heads::request_lines(),
        heads::hosts(),
        heads::hops(),
        connections::tunnels(),
        connections::versions(),
        connections::sizes(),
        connections::pipelines(),
    ]
    .concat()
}

fn case(name: &str, bytes: impl AsRef<[u8]>, expected: Expected) -> Case {
    Case {
        name: name.to_owned(),
        bytes: bytes.as_ref().to_vec(),
        expected,
    }
}

fn get(fields: &str) -> String {
    format!("GET /first HTTP/1.1\r\nHost: web\r\n{fields}\r\n")
}

fn post(fields: &str, content: &str) -> String {
    format!("POST /first HTTP/1.1\r\nHost: web\r\n{fields}\r\n{content}")
}
