//! `get --watch`: what there is, and then each change.

use serde_json::json;
use weft_proto::{kinds::Kind, mesh::v1};

use super::{Wanted, columns, whole};
use crate::cli::{
    args::Format,
    failure::Failure,
    json as values, names,
    screen::{Colour, Screen, clean},
    session::Session,
    table::{Cell, Table},
};

/// What a row is about.
#[derive(Clone, Copy)]
enum Event {
    /// It was there when the watch began.
    Present,
    /// It was made or changed.
    Changed,
    /// It is gone.
    Deleted,
}

/// Prints until the controller ends it.
///
/// # Errors
/// It failed, or the controller ended it.
pub(super) async fn run(
    wanted: &Wanted,
    documents: Vec<v1::StoredDocument>,
    revision: u64,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let request = v1::WatchRequest {
        after_revision: revision,
        kind: match wanted.kinds.as_slice() {
            [only] => only.name().to_owned(),
            _ => String::new(),
        },
    };
    let response = session.admin.watch(request).await;
    let mut events = response.map_err(|status| session.refused(status))?.into_inner();
    let mut printer = Printer {
        wanted,
        screen,
        last: None,
    };
    for document in &documents {
        printer.print(Event::Present, document)?;
    }
    while let Some(event) = events.message().await.map_err(|status| session.refused(status))? {
        match event.event {
            Some(v1::watch_event::Event::Stored(document))
                if wanted.concerns(document.key.as_ref()) && wanted.has_labels(&document)? =>
            {
                printer.print(Event::Changed, &document)?;
            }
            Some(v1::watch_event::Event::Deleted(key)) if wanted.concerns(Some(&key)) => {
                let gone = v1::StoredDocument {
                    key: Some(key),
                    document: "{}".into(),
                    revision: event.revision,
                    ..v1::StoredDocument::default()
                };
                printer.print(Event::Deleted, &gone)?;
            }
            // Of others, or of a newer controller.
            Some(_) | None => {}
        }
    }
    Err(Failure::Other(
        "the controller ended the watch".to_owned(),
        Some("It may have been restarted: begin anew.".to_owned()),
    ))
}

struct Printer<'a> {
    wanted: &'a Wanted,
    screen: &'a mut Screen,
    /// The kind of the last row.
    last: Option<Kind>,
}

impl Printer<'_> {
    fn print(&mut self, event: Event, document: &v1::StoredDocument) -> Result<(), Failure> {
        let (word, colour) = match event {
            Event::Present => ("present", Colour::Dim),
            Event::Changed => ("changed", Colour::Yellow),
            Event::Deleted => ("deleted", Colour::Red),
        };
        match self.wanted.format {
            Format::Json => {
                let value = json!({"event": word, "document": self.shown(event, document)?});
                self.screen.line(value)
            }
            Format::Yaml => {
                self.screen.line("---")?;
                let value = json!({"event": word, "document": self.shown(event, document)?});
                values::print(self.screen, Format::Yaml, &value)
            }
            Format::Name => {
                let name = names::shown(document.key.as_ref());
                self.screen.line(format_args!("{word} {}", clean(&name)))
            }
            Format::Table | Format::Wide => {
                let kind = document.key.as_ref().and_then(|key| Kind::from_name(&key.kind));
                let Some(kind) = kind else {
                    return Ok(());
                };
                let layout = self.wanted.layout();
                let mut head = columns::head(kind, layout);
                head.insert(0, "EVENT");
                let mut row = columns::row(kind, layout, document)?;
                row.insert(0, Cell::painted(word, colour));
                let mut table = Table::new(head);
                table.row(row);
                let is_continued = self.last.replace(kind) == Some(kind);
                table.print(self.screen, is_continued)
            }
        }
    }

    fn shown(&self, event: Event, document: &v1::StoredDocument) -> Result<serde_json::Value, Failure> {
        match event {
            Event::Deleted => Ok(names::shown(document.key.as_ref()).into()),
            Event::Present | Event::Changed => whole(document),
        }
    }
}

impl Wanted {
    /// Whether an event is about a document that is wanted, by its name.
    fn concerns(&self, key: Option<&v1::ResourceKey>) -> bool {
        let Some(found) = key else {
            return false;
        };
        let kind = self.kinds.iter().find(|kind| kind.name() == found.kind);
        let is_here = self.namespace.is_empty()
            || found.namespace == self.namespace
            || kind.is_some_and(|kind| !kind.is_namespaced());
        kind.is_some() && is_here && self.is_named(key)
    }

    /// Whether a document has the labels that are wanted, a service its selector.
    fn has_labels(&self, document: &v1::StoredDocument) -> Result<bool, Failure> {
        if self.labels.is_empty() {
            return Ok(true);
        }
        let value = values::document(&names::shown(document.key.as_ref()), &document.document)?;
        let is_service = document
            .key
            .as_ref()
            .is_some_and(|key| key.kind == Kind::Service.name());
        let place = if is_service {
            "/spec/selector"
        } else {
            "/metadata/labels"
        };
        let labels = value.pointer(place);
        Ok(self.labels.iter().all(|wanted| {
            let Some((key, value)) = wanted.split_once('=') else {
                return false;
            };
            labels.and_then(|labels| labels.get(key)?.as_str()) == Some(value)
        }))
    }
}
