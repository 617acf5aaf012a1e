//! The calls that the controller answers.
//!
//! | calls | file |
//! |---|---|
//! | `Admin`, of operators | [`admin`] |
//! | `Control`, of proxies | [`control`] |
//! | `Identity`, of everyone | [`identity`] |

pub mod admin;
pub mod control;
pub mod identity;
