//! What is written, and where: results to standard output, everything about them to standard error.

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
    io::{self, IsTerminal, Write},
};

use super::failure::Failure;

/// Standard output and standard error of a command.
pub(crate) struct Screen {
    out: Stream,
    err: Stream,
}

/// One of the two.
pub(crate) struct Stream {
    to: Box<dyn Write + Send>,
    is_terminal: bool,
    has_colours: bool,
}

/// How a word stands out, on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Headings.
    Bold,
    /// Of less interest.
    Dim,
    /// As it should be.
    Green,
    /// Worth a look.
    Yellow,
    /// Wrong.
    Red,
}

impl Screen {
    /// The process's own.
    pub(crate) fn standard() -> Self {
        let may_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|value| value != "dumb");
        let (out, err) = (io::stdout(), io::stderr());
        let (out_terminal, err_terminal) = (out.is_terminal(), err.is_terminal());
        Self {
            out: Stream::new(Box::new(out), out_terminal, may_colour),
            err: Stream::new(Box::new(err), err_terminal, may_colour),
        }
    }

    /// Others, for tests.
    #[cfg(test)]
    pub(crate) fn new(out: Stream, err: Stream) -> Self {
        Self { out, err }
    }

    /// Whether a person looks at the results as they come.
    pub(crate) fn is_terminal(&self) -> bool {
        self.out.is_terminal
    }

    /// A line of the result.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        self.write(format_args!("{text}\n"))
    }

    /// A part of the result.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn write(&mut self, text: impl Display) -> Result<(), Failure> {
        self.bytes(text.to_string().as_bytes())
    }

    /// A part of the result, as it is.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let to = &mut self.out.to;
        to.write_all(bytes)
            .and_then(|()| to.flush())
            .map_err(Failure::Output)
    }

    /// Begins the result anew, where someone watches it.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        if self.out.is_terminal {
            self.write("\x1b[H\x1b[2J\x1b[3J")?;
        }
        Ok(())
    }

    /// A line about the result: a warning, or how far it is. Nobody is left to be told if that fails.
    pub(crate) fn note(&mut self, text: impl Display) {
        let _ = writeln!(self.err.to, "{text}");
    }

    /// A warning.
    pub(crate) fn warn(&mut self, text: impl Display) {
        let label = self.err.paint(Colour::Yellow, "warning:");
        self.note(format_args!("{label} {text}"));
    }

    /// What went wrong, and what to do.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        let label = self.err.paint(Colour::Red, "error:");
        self.note(format_args!("{label} {failure}"));
        if let Some(hint) = failure.hint() {
            for line in hint.lines() {
                self.note(format_args!("  {line}"));
            }
        }
    }

    /// A word of the result.
    pub(crate) fn paint<'a>(&self, colour: Colour, text: &'a str) -> Cow<'a, str> {
        self.out.paint(colour, text)
    }
}

impl Stream {
    /// One that may have colours if it is a terminal.
    pub(crate) fn new(to: Box<dyn Write + Send>, is_terminal: bool, may_colour: bool) -> Self {
        Self {
            to,
            is_terminal,
            has_colours: is_terminal && may_colour,
        }
    }

    fn paint<'a>(&self, colour: Colour, text: &'a str) -> Cow<'a, str> {
        if !self.has_colours {
            return Cow::Borrowed(text);
        }
        let code = match colour {
            Colour::Bold => 1,
            Colour::Dim => 2,
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
        };
        Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m"))
    }
}

/// Text from elsewhere as it may be shown: a character that a terminal would obey, or that turns the direction of
/// what follows, is escaped. So no name and no message of a proxy can draw on an operator's screen.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => cleaned.push_str("\\n"),
            '\t' => cleaned.push_str("\\t"),
            c if is_harmful(c) => {
                let _ = write!(cleaned, "\\u{{{:x}}}", u32::from(c));
            }
            c => cleaned.push(c),
        }
    }
    Cow::Owned(cleaned)
}

/// The same for text of several lines.
pub(crate) fn clean_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(clean).collect();
    lines.join("\n")
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (text, shown) in [
            ("web-0", "web-0"),
            ("\u{e9}\u{4e2d}", "\u{e9}\u{4e2d}"),
            ("\x1b[2Jweb", "\\u{1b}[2Jweb"),
            ("a\nb\tc\r", "a\\nb\\tc\\u{d}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
            ("\u{7f}\0", "\\u{7f}\\u{0}"),
        ] {
            assert_eq!(clean(text), shown);
        }
        assert_eq!(clean_lines("a\nb\x1b\n"), "a\nb\\u{1b}\n");
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let stream = |is_terminal, may_colour| Stream::new(Box::new(io::sink()), is_terminal, may_colour);
        assert_eq!(stream(true, true).paint(Colour::Red, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(stream(true, false).paint(Colour::Red, "x"), "x");
        assert_eq!(stream(false, true).paint(Colour::Red, "x"), "x");
    }
}
