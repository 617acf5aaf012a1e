//! Documents as they change.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tonic::Status;
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1 as mesh,
};

use super::convert;
use crate::{
    catalog::{self, Catalog},
    store::{Changes, Event, Revision, Store, StoreError},
    world::key_message,
};

/// The events of one watcher.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<mesh::WatchEvent, Status>> + Send>>;

/// What there is, if it is given, and then each change.
pub(super) async fn events(
    store: &dyn Store,
    catalog: Arc<Catalog>,
    request: &mesh::WatchRequest,
    present: Option<mesh::GetResponse>,
) -> Result<Events, Status> {
    let kind = match request.kind.as_str() {
        "" => None,
        word => Some(Kind::from_word(word).map_err(|error| Status::invalid_argument(error.to_string()))?),
    };
    let after = present
        .as_ref()
        .map_or(request.after_revision, |present| present.revision);
    let changes = store
        .watch("", Revision(after))
        .await
        .map_err(|error| match error {
            StoreError::Compacted(_) => {
                Status::out_of_range(format!("{error}: begin anew, without a revision"))
            }
            error => Status::unavailable(error.to_string()),
        })?;
    let present = present
        .into_iter()
        .flat_map(|present| present.documents)
        .map(|document| {
            Ok(mesh::WatchEvent {
                revision: document.revision,
                event: Some(mesh::watch_event::Event::Stored(document)),
            })
        });
    let changes = stream::unfold(changes, |mut changes: mpsc::Receiver<Changes>| async move {
        Some((changes.recv().await?, changes))
    });
    let changes = changes.flat_map(move |changes| {
        let events = changes
            .events
            .into_iter()
            .filter_map(move |event| show(&event, changes.revision, kind));
        stream::iter(events.collect::<Vec<_>>())
    });
    let changes = changes.then(move |event| {
        let catalog = catalog.clone();
        async move { Ok(with_status(&catalog, event).await) }
    });
    Ok(stream::iter(present.collect::<Vec<_>>()).chain(changes).boxed())
}

/// The event with what became of its document: as it is now, which may be later.
async fn with_status(catalog: &Catalog, mut event: mesh::WatchEvent) -> mesh::WatchEvent {
    if let Some(mesh::watch_event::Event::Stored(document)) = &mut event.event
        && let Some(Ok(key)) = document.key.as_ref().map(convert::document_key)
        && let Some(status) = catalog.status(&key).await
    {
        document.status = status.to_string().into();
    }
    event
}

fn show(event: &Event, revision: Revision, kind: Option<Kind>) -> Option<mesh::WatchEvent> {
    let path = match event {
        Event::Put(entry) => &entry.key,
        Event::Deleted { key, .. } => key,
    };
    let key: DocumentKey = catalog::key_of(path)?;
    if kind.is_some_and(|kind| kind != key.kind()) {
        return None;
    }
    let event = match event {
        Event::Put(entry) => {
            let stored = catalog::stored(entry)?;
            mesh::watch_event::Event::Stored(convert::stored(&key, &stored, None))
        }
        Event::Deleted { .. } => mesh::watch_event::Event::Deleted(key_message(&key)),
    };
    Some(mesh::WatchEvent {
        revision: revision.0,
        event: Some(event),
    })
}
