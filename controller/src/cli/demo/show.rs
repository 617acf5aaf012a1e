//! What the demo shows: lines as it goes, and on a terminal a table below them that is drawn anew.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use super::Output;

/// Where the telling goes: to standard output, or out of the way of JSON there.
pub(super) struct Show {
    output: Output,
    is_terminal: bool,
    has_colours: bool,
    /// The table as it is on the screen.
    table: Vec<String>,
}

/// How a word stands out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Colour {
    Bold,
    Green,
    Red,
}

impl Show {
    /// To this process's own output.
    pub(super) fn new(output: Output) -> Self {
        let is_terminal = match output {
            Output::Text => io::stdout().is_terminal(),
            Output::Json => io::stderr().is_terminal(),
        };
        let may_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            output,
            is_terminal,
            has_colours: is_terminal && may_colour,
            table: Vec::new(),
        }
    }

    /// Whether a table can be drawn anew.
    pub(super) fn is_live(&self) -> bool {
        self.is_terminal
    }

    /// A line, above the table.
    pub(super) fn say(&mut self, line: impl Display) {
        let table = std::mem::take(&mut self.table);
        let text = format!("{}{line}\n", erase(table.len()));
        self.write(&text);
        self.draw(table);
    }

    /// The table, in place of the one before.
    pub(super) fn table(&mut self, lines: Vec<String>) {
        let before = std::mem::take(&mut self.table);
        self.write(&erase(before.len()));
        self.draw(lines);
    }

    /// Leaves the table where it is: what comes is below.
    pub(super) fn leave_table(&mut self) {
        self.table.clear();
    }

    /// What went wrong.
    pub(super) fn error(&mut self, error: impl Display) {
        self.leave_table();
        let label = match io::stderr().is_terminal() {
            true => self.paint(Colour::Red, "error:"),
            false => "error:".to_owned(),
        };
        eprintln!("{label} {error}");
    }

    /// The summary for programs, where it is asked for.
    pub(super) fn json(&self, document: &serde_json::Value) {
        if matches!(self.output, Output::Json) {
            print(&format!("{document}\n"));
        }
    }

    /// A word that stands out, where it can.
    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        if !self.has_colours {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Bold => 1,
            Colour::Red => 31,
            Colour::Green => 32,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn draw(&mut self, lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        // Without wrapping, a line is a line: else the next drawing would begin in the wrong place.
        let text = match self.is_terminal {
            true => format!("\x1b[?7l{}\n\x1b[?7h", lines.join("\n")),
            false => format!("{}\n", lines.join("\n")),
        };
        self.write(&text);
        if self.is_terminal {
            self.table = lines;
        }
    }

    fn write(&self, text: &str) {
        match self.output {
            Output::Text => print(text),
            Output::Json => eprint!("{text}"),
        }
    }
}

/// Back to the first of so many lines, and everything below it empty.
fn erase(lines: usize) -> String {
    match lines {
        0 => String::new(),
        lines => format!("\x1b[{lines}A\x1b[J"),
    }
}

/// Whoever reads may have gone: that is no reason to leave the mesh half down.
fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
