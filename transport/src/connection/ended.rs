//! Why a connection is over, in our terms.

use quinn_proto::ConnectionError;

use crate::{
    error::{DialFailure, Error, Lost},
    h3::Code,
    stats::HandshakeFailure,
};

/// Why a connection is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    /// It never was confirmed.
    Dial(DialFailure),
    Lost(Lost),
}

impl From<Ended> for Error {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Dial(failure) => failure.into(),
            Ended::Lost(lost) => lost.into(),
        }
    }
}

/// First transport error code that carries a TLS alert (RFC 9001 section 4.8).
const CRYPTO_ERROR: u64 = 0x100;
/// CONNECTION_REFUSED (RFC 9000 section 20.1).
const CONNECTION_REFUSED: u64 = 0x2;

/// What every refusal of [`crate::verify`] becomes (RFC 8446 section 6.2).
const CERTIFICATE_UNKNOWN: u64 = 46;

/// Did our own verifier end the handshake?
pub(super) fn is_refusal(reason: &ConnectionError) -> bool {
    matches!(reason, ConnectionError::TransportError(error) if u64::from(error.code) == CRYPTO_ERROR + CERTIFICATE_UNKNOWN)
}

pub(super) fn dial_failure(reason: &ConnectionError) -> DialFailure {
    let by_code = |code: u64| match code {
        CONNECTION_REFUSED => DialFailure::ConnectionRefused,
        alert if (CRYPTO_ERROR..CRYPTO_ERROR + 0x100).contains(&alert) => {
            DialFailure::Alert(u8::try_from(alert - CRYPTO_ERROR).unwrap_or_default())
        }
        _ => DialFailure::Protocol,
    };
    match reason {
        ConnectionError::ConnectionClosed(close) => by_code(close.error_code.into()),
        ConnectionError::TransportError(error) => by_code(error.code.into()),
        ConnectionError::TimedOut => DialFailure::Timeout,
        ConnectionError::VersionMismatch => DialFailure::Protocol,
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset => DialFailure::Closed,
        ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => DialFailure::Local,
    }
}

pub(super) fn lost(reason: &ConnectionError) -> Lost {
    match reason {
        ConnectionError::ApplicationClosed(close) => Lost::PeerClosed(Code(close.error_code.into_inner())),
        ConnectionError::ConnectionClosed(close) => Lost::Transport(close.error_code.into()),
        ConnectionError::TransportError(error) => Lost::Transport(error.code.into()),
        ConnectionError::TimedOut => Lost::TimedOut,
        ConnectionError::Reset => Lost::StatelessReset,
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => Lost::Transport(0x1),
        ConnectionError::LocallyClosed => Lost::Local,
    }
}

impl From<DialFailure> for HandshakeFailure {
    fn from(failure: DialFailure) -> Self {
        match failure {
            DialFailure::Timeout => Self::Timeout,
            DialFailure::PeerRefused(_) => Self::PeerCertificate,
            DialFailure::Alert(_) => Self::Alert,
            DialFailure::ConnectionRefused => Self::Refused,
            DialFailure::Protocol => Self::Protocol,
            DialFailure::Closed | DialFailure::Moved => Self::Closed,
            DialFailure::Local | DialFailure::OwnExpired => Self::Local,
        }
    }
}
