//! How many requests there may be: in flight, waiting, and a time.
