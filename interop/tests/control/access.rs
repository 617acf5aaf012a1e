//! Which call is open to whom, over real TLS.
