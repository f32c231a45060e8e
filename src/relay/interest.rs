//! What we want of upstream.
