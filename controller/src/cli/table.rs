//! Tables for people.

use super::{
    failure::Failure,
    screen::{Colour, Screen, clean},
};

/// Between two columns.
const GAP: usize = 3;

/// Columns with a head each, and rows.
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    widths: Vec<usize>,
}

/// A cell: nothing in it can harm a terminal.
pub(crate) struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    /// A cell that stands out.
    pub(crate) fn painted(text: impl AsRef<str>, colour: Colour) -> Self {
        Self {
            colour: Some(colour),
            ..Self::from(text.as_ref())
        }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<&str> for Cell {
    /// Nothing is shown as a dash, so that every row has as many words.
    fn from(text: &str) -> Self {
        let text = if text.is_empty() { "-" } else { text };
        Self {
            text: clean(text).into_owned(),
            colour: None,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::from(number.to_string())
    }
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(head: Vec<&'static str>) -> Self {
        let widths = head.iter().map(|head| head.len()).collect();
        Self {
            head,
            rows: Vec::new(),
            widths,
        }
    }

    /// Adds a row, of as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = cell.width().max(*width);
        }
        self.rows.push(cells);
    }

    /// Whether there is no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Prints head and rows; with `is_continued` the rows alone, for a table that grows.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn print(&self, screen: &mut Screen, is_continued: bool) -> Result<(), Failure> {
        if !is_continued {
            let head: Vec<Cell> = self
                .head
                .iter()
                .map(|head| Cell::painted(head, Colour::Bold))
                .collect();
            self.print_row(screen, &head)?;
        }
        self.rows.iter().try_for_each(|row| self.print_row(screen, row))
    }

    fn print_row(&self, screen: &mut Screen, row: &[Cell]) -> Result<(), Failure> {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(&self.widths).enumerate() {
            match cell.colour {
                Some(colour) => line.push_str(&screen.paint(colour, &cell.text)),
                None => line.push_str(&cell.text),
            }
            if index + 1 < row.len() {
                let padding = width + GAP - cell.width().min(*width);
                line.extend(std::iter::repeat_n(' ', padding));
            }
        }
        screen.line(line)
    }
}
