//! Clients for the services that need more than a load generator: gRPC and WebSocket.

pub mod grpc;
pub mod websocket;
