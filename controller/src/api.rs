//! The calls that the controller answers.
//!
//! | calls | file |
//! |---|---|
//! | `Admin`, of operators | [`admin`] |
//! | `Control`, of proxies | [`control`] |

pub mod admin;
pub mod control;
