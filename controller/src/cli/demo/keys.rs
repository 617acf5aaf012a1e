//! Keys, one at a time and without being shown, for as long as this lives.

use std::io::{self, IsTerminal, Read};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// The keyboard of a terminal; none where standard input is something else.
pub(super) struct Keys {
    /// How the terminal was.
    before: Option<Termios>,
    pressed: mpsc::UnboundedReceiver<u8>,
}

impl Keys {
    /// Takes the keyboard.
    pub(super) fn new() -> Self {
        let (sender, pressed) = mpsc::unbounded_channel();
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Self {
                before: None,
                pressed,
            };
        }
        let before = tcgetattr(&stdin).ok();
        if let Some(mut termios) = before.clone() {
            // Ctrl-C stays a signal.
            termios.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
            // Without it, keys come with the end of their line: still of use.
            let _ = tcsetattr(&stdin, SetArg::TCSANOW, &termios);
        }
        // Not joined: it waits for a key that may never come, and ends with the process.
        std::thread::spawn(move || {
            for key in io::stdin().lock().bytes().map_while(Result::ok) {
                if sender.send(key).is_err() {
                    return;
                }
            }
        });
        Self { before, pressed }
    }

    /// A key that was pressed since, if any.
    pub(super) fn next(&mut self) -> Option<char> {
        self.pressed.try_recv().ok().map(char::from)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing can be done about a terminal that is gone.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}
