//! From the model back to documents.
