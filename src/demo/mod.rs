//! `tidegate demo`: an upstream service made for showing, and a relay in front of it.

mod audience;
pub mod guide;
pub mod keyboard;
mod stage;
mod upstream;
mod world;
