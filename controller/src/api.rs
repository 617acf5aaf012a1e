//! The calls that the controller answers.
//!
//! | calls | file |
//! |---|---|
//! | `Control`, of proxies | [`control`] |

pub mod control;
