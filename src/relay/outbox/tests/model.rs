//! Random histories against a small reference.
