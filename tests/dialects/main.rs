//! The built-in dialects against recorded conversations, and the page that explains how to write one.

mod docs;
mod transcripts;
