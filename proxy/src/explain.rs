//! What would become of a request, told from the snapshot by the same functions that serve it.
