//! How long a request may still take, and how that is told to the next hop.
