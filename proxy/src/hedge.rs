//! A second try beside the first.
