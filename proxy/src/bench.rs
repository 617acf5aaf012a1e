//! What benches call (feature `bench`).

use http::{HeaderMap, Method};
use weft_proto::model::route::Route;

use crate::route::{Asked, Table, Unresolved};

/// The routes of a service, whose backends lead nowhere.
#[derive(Debug)]
pub struct Routes(Table);

/// A request for the service.
#[derive(Clone, Debug)]
pub struct Request {
    /// In lower case, without port.
    pub host: String,
    /// Without query.
    pub path: String,
    /// Without question mark.
    pub query: Option<String>,
    /// Such as `GET`.
    pub method: Method,
    /// All of them.
    pub headers: HeaderMap,
}

impl Routes {
    /// In the order that decides between routes.
    pub fn compile(routes: &[Route]) -> Self {
        let routes: Vec<&Route> = routes.iter().collect();
        Self(Table::compile(&routes, &mut |_, _| {
            Err(Unresolved {
                reason: "bench",
                sentence: String::new(),
            })
        }))
    }

    /// The name of the route that a request is for.
    pub fn find(&self, request: &Request) -> Option<&str> {
        let found = self.0.find(&Asked {
            host: &request.host,
            path: &request.path,
            query: request.query.as_deref(),
            method: &request.method,
            headers: &request.headers,
        })?;
        Some(&found.rule.route)
    }
}
