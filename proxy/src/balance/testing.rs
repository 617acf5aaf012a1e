//! Endpoints for tests.

use std::sync::Arc;

use weft_proto::names::Labels;

use crate::snapshot::{Endpoint, Load, Reach};

/// The endpoint `w0`, and so on, each at the port of its number.
pub(crate) fn endpoint(number: u16) -> Endpoint {
    Endpoint {
        uid: format!("w{number}").into(),
        port: number,
        reach: Reach::Plain(([127, 0, 0, 1], number).into()),
        labels: Labels::default(),
        locality: None,
        version: None,
        load: Arc::<Load>::default(),
    }
}

pub(crate) fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
    (0..count).map(|number| Arc::new(endpoint(number))).collect()
}
