//! Stack by case.

use std::{
    fmt::{self, Write as _},
    fs,
    path::Path,
};

use crate::{
    cases::CASES,
    place::{Direction, Place},
};

/// How a case went in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Works,
    Known(&'static str),
    Cannot(&'static str),
    Failed(String),
}

pub(crate) struct Table {
    cells: Vec<(&'static str, Place, Cell)>,
}

/// Around the table in the document.
const BEGIN: &str = "<!-- table: made by the test -->\n";
const END: &str = "<!-- end of the table -->\n";

impl Table {
    pub(crate) fn new(cells: Vec<(&'static str, Place, Cell)>) -> Self {
        Self { cells }
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        let of_cell = |(case, place, cell): &(&str, Place, Cell)| match cell {
            Cell::Failed(why) => Some(format!("{case}, {place}: {why}")),
            _ => None,
        };
        self.cells.iter().filter_map(of_cell).collect()
    }

    /// Asserts that `interop/README.md` holds this table; writes it with `WEFT_BLESS=1`.
    pub(crate) fn assert_kept(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("the table's begin");
        let (kept, after) = rest.split_once(END).expect("the table's end");
        let table = self.to_string();
        if std::env::var_os("WEFT_BLESS").is_some() {
            fs::write(&path, [before, BEGIN, &table, END, after].concat()).unwrap();
            return;
        }
        assert!(
            kept == table,
            "the table in interop/README.md is out of date: run this test with WEFT_BLESS=1"
        );
    }

    fn cell(&self, case: &str, place: Place) -> Option<&Cell> {
        let mut cells = self.cells.iter();
        let cell = cells.find(|(name, at, _)| *name == case && *at == place);
        cell.map(|(_, _, cell)| cell)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes: Vec<String> = Vec::new();
        let mut head = String::from("| |");
        for place in Place::all() {
            let name = place.stack.name();
            match place.direction {
                Direction::Dial => write!(head, " us to {name} |")?,
                Direction::Listen => write!(head, " {name} to us |")?,
            }
        }
        writeln!(f, "{head}\n|---|{}", "---|".repeat(Place::all().len()))?;
        for case in CASES {
            write!(f, "| {} |", case.title)?;
            for place in Place::all() {
                let (sign, note) = match self.cell(case.name, place) {
                    Some(Cell::Works) => ("yes", None),
                    Some(Cell::Known(fault)) => ("**their fault**", Some(*fault)),
                    Some(Cell::Cannot(why)) => ("–", Some(*why)),
                    Some(Cell::Failed(_)) => ("**FAILED**", None),
                    None => ("not run", None),
                };
                match note {
                    Some(note) => write!(f, " {sign} [{}] |", number(&mut notes, note))?,
                    None => write!(f, " {sign} |")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        for (index, note) in notes.iter().enumerate() {
            writeln!(f, "{}. {note}", index + 1)?;
        }
        Ok(())
    }
}

fn number(notes: &mut Vec<String>, note: &str) -> usize {
    let known = notes.iter().position(|other| other == note);
    known.map_or_else(
        || {
            notes.push(note.to_owned());
            notes.len()
        },
        |index| index + 1,
    )
}
