//! `tidegate demo`: an upstream service made for showing, and a relay in front of it.

mod stage;
mod upstream;
mod world;
