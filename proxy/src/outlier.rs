//! Which endpoints are left alone for a while, because they fail.
