//! What a TrafficPolicy says of a port of a service, ready for use.
