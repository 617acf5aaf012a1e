//! GOAWAY, exact (RFC 9114 section 5.2): requests with an ID at or above the announced one were not and will not
//! be processed, requests below it may have been.

use super::error::H3Error;
use super::varint;

/// Request streams are every fourth ID.
const STEP: u64 = 4;

/// The largest ID of a client-initiated bidirectional stream.
const MAX_REQUEST: u64 = varint::MAX - 3;

/// A server's side: decides which requests are taken, and what GOAWAY says.
#[derive(Clone, Copy, Debug, Default)]
pub struct GoAwaySender {
    /// One past the highest request that was taken.
    next: u64,
    announced: Option<u64>,
}

/// What to do with a new request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Process it.
    Accept,
    /// Reset it with H3_REQUEST_REJECTED: GOAWAY has said that it will not be processed.
    Reject,
}

impl GoAwaySender {
    /// A request arrived on `stream`.
    pub fn on_request(&mut self, stream: u64) -> Admission {
        match self.announced {
            Some(limit) if stream >= limit => Admission::Reject,
            _ => {
                self.next = self.next.max(stream.saturating_add(STEP));
                Admission::Accept
            }
        }
    }

    /// First step of a graceful end: the ID that asks the client to send no more, while requests that are under
    /// way are still taken. `None` if GOAWAY was sent already.
    pub fn announce(&mut self) -> Option<u64> {
        if self.announced.is_some() {
            return None;
        }
        self.announced = Some(MAX_REQUEST);
        self.announced
    }

    /// Last step: the ID past the highest request that was taken; all from it on are refused. `None` if exactly
    /// that was sent already.
    pub fn finish(&mut self) -> Option<u64> {
        // IDs never go up: what was taken lies below what was announced.
        let limit = self.next.min(MAX_REQUEST);
        if self.announced == Some(limit) {
            return None;
        }
        self.announced = Some(limit);
        self.announced
    }

    /// Whether a GOAWAY was sent.
    pub fn is_draining(&self) -> bool {
        self.announced.is_some()
    }
}

/// A client's side: what the server's GOAWAY says of our requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct GoAwayReceiver {
    limit: Option<u64>,
}

impl GoAwayReceiver {
    /// GOAWAY arrived. Its ID must be a request's and never go up.
    pub fn on_goaway(&mut self, id: u64) -> Result<(), H3Error> {
        if !id.is_multiple_of(STEP) {
            return Err(H3Error::GoAwayStreamType);
        }
        if self.limit.is_some_and(|limit| id > limit) {
            return Err(H3Error::GoAwayIncreased);
        }
        self.limit = Some(id);
        Ok(())
    }

    /// Whether the server wants no new requests on this connection.
    pub fn is_draining(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether the request on `stream` was certainly not processed, so that it may be sent again elsewhere.
    pub fn is_unprocessed(&self, stream: u64) -> bool {
        self.limit.is_some_and(|limit| stream >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_accepted_request_is_never_called_unprocessed() {
        let mut server = GoAwaySender::default();
        let mut client = GoAwayReceiver::default();
        assert!(!server.is_draining());
        assert_eq!(server.on_request(0), Admission::Accept);
        let first = server.announce().unwrap();
        assert_eq!(first % 4, 0);
        client.on_goaway(first).unwrap();
        assert!(client.is_draining());
        assert!(!client.is_unprocessed(4));
        assert_eq!(
            server.on_request(8),
            Admission::Accept,
            "under way when GOAWAY was sent"
        );
        assert_eq!(server.on_request(4), Admission::Accept, "out of order");
        let last = server.finish().unwrap();
        client.on_goaway(last).unwrap();
        assert_eq!(last, 12);
        for (stream, unprocessed) in [(0, false), (4, false), (8, false), (12, true), (16, true)] {
            assert_eq!(client.is_unprocessed(stream), unprocessed, "{stream}");
        }
        assert_eq!(server.on_request(12), Admission::Reject);
        assert_eq!(server.on_request(16), Admission::Reject);
        assert_eq!(server.finish(), None, "nothing new to say");
        assert_eq!(server.announce(), None);
        assert!(server.is_draining());
    }

    #[test]
    fn a_server_that_took_nothing_refuses_all() {
        let mut server = GoAwaySender::default();
        assert_eq!(server.finish(), Some(0));
        assert_eq!(server.on_request(0), Admission::Reject);
    }

    #[test]
    fn a_delayed_lower_request_is_still_processed_after_the_last_step() {
        let mut server = GoAwaySender::default();
        server.on_request(8);
        assert_eq!(server.finish(), Some(12));
        assert_eq!(
            server.on_request(4),
            Admission::Accept,
            "below the ID: the client will not retry it"
        );
    }

    #[test]
    fn ids_never_go_up_and_name_requests() {
        let mut client = GoAwayReceiver::default();
        assert_eq!(client.on_goaway(5), Err(H3Error::GoAwayStreamType));
        assert!(!client.is_unprocessed(u64::MAX));
        client.on_goaway(8).unwrap();
        client.on_goaway(8).unwrap();
        assert_eq!(client.on_goaway(12), Err(H3Error::GoAwayIncreased));
        client.on_goaway(0).unwrap();
        assert!(client.is_unprocessed(0));
    }
}
