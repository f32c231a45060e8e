//! Single keys on the terminal, without Enter; the terminal is given back at the end, whatever the end is.
//!
//! Ctrl-C stays a signal. Where standard input is no terminal, or this process is not in its foreground, there are no keys.

use std::io::{Read, stdin};
use std::sync::OnceLock;

use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

/// How the terminal was. Kept here so that a panic can give it back too.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// Gives the terminal back when dropped.
pub struct Keyboard(());

impl Keyboard {
    /// Takes the terminal and calls `pressed` for every key, on a thread of its own. `None`: no terminal to take.
    pub fn take(mut pressed: impl FnMut(u8) + Send + 'static) -> Option<Keyboard> {
        let input = stdin();
        let in_foreground = isatty(&input) && tcgetpgrp(&input).is_ok_and(|group| group == rustix::process::getpgrp());
        let before = tcgetattr(&input).ok().filter(|_| in_foreground)?;
        let mut single = before.clone();
        single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        let before = BEFORE.get_or_init(|| before);
        let keyboard = tcsetattr(&input, OptionalActions::Now, &single).ok().map(|()| Keyboard(()))?;
        let reader = std::thread::Builder::new().name("keyboard".to_owned()).spawn(move || {
            let mut key = [0];
            while stdin().read_exact(&mut key).is_ok() {
                pressed(key[0]);
            }
        });
        if reader.is_err() {
            give_back(before);
            return None;
        }
        Some(keyboard)
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back if it was taken.
pub fn restore() {
    if let Some(before) = BEFORE.get() {
        give_back(before);
    }
}

fn give_back(before: &Termios) {
    // A terminal that is gone needs nothing back.
    let _ = tcsetattr(stdin(), OptionalActions::Now, before);
}
