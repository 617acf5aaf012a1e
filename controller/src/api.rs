<<<<<<< HEAD
//! The calls of the controller, one file a service.

pub mod admin;
=======
//! The calls that the controller answers.
//!
//! | calls | file |
//! |---|---|
//! | `Control`, of proxies | [`control`] |

pub mod control;
>>>>>>> wip-push
