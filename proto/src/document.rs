//! Documents as they are stored, sent and shown.
