//! Faults made on purpose, for tests in staging.
