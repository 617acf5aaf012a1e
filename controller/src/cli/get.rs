//! `get`: documents, as tables or whole, and as they change.

mod columns;
mod watch;

pub(crate) use columns::ready;

use serde_json::{Value, json};
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1,
};

use super::{
    Outcome, args::Format, attached, failure::Failure, json as values, names, screen::Screen,
    session::Session, table::Table,
};

pub(crate) const HELP: &str = "\
Kinds are service (svc), workload (wl), meshconfig (mc), externalservice (es), httproute, grpcroute, referencegrant \
(refgrant), trafficpolicy (tp), several with commas between them, or all. Documents in YAML can be applied again; their \
metadata.generation is what --if-generation compares. Routes and policies have a status: whether the Services that they \
name take them, and whether a route's backends are there.

Examples:
  weft get services -A
  weft get workloads -l app=web -o wide
  weft get svc web -n shop -o yaml
  weft get httproute,trafficpolicy -A
  weft get wl --watch";

/// What to show.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// KIND, KIND NAME..., or KIND/NAME...
    #[arg(required = true, value_name = "KIND NAME")]
    what: Vec<String>,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only documents with this label, a service by its selector; several times for several
    #[arg(long = "selector", short = 'l', value_name = "KEY=VALUE", value_parser = names::label)]
    labels: Vec<String>,
    /// How to print them
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Go on with each change
    #[arg(long, short)]
    watch: bool,
}

/// What was asked for.
struct Wanted {
    kinds: Vec<Kind>,
    /// Empty: all.
    names: Vec<DocumentKey>,
    /// Empty: all.
    namespace: String,
    labels: Vec<String>,
    format: Format,
}

/// Shows documents.
///
/// # Errors
/// One that was named is not there, or it failed.
pub(crate) async fn run(
    args: GetArgs,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let wanted = Wanted::new(&args, session)?;
    let (documents, revision) = wanted.fetch(session).await?;
    if args.watch {
        watch::run(&wanted, documents, revision, session, screen).await?;
        return Ok(Outcome::Done);
    }
    wanted.print(&documents, screen)?;
    match wanted.missing(&documents) {
        missing if missing.is_empty() => Ok(Outcome::Done),
        missing => Err(Failure::NotFound(format!(
            "there is no {}",
            missing.join(", no ")
        ))),
    }
}

impl Wanted {
    fn new(args: &GetArgs, session: &Session) -> Result<Self, Failure> {
        let (kinds, names) = match args.what.as_slice() {
            [word] if !word.contains('/') => (names::kinds(word)?, Vec::new()),
            words => {
                let names = names::documents(words, &session.namespace)?;
                let mut kinds: Vec<Kind> = names.iter().map(DocumentKey::kind).collect();
                kinds.sort();
                kinds.dedup();
                (kinds, names)
            }
        };
        if args.all_namespaces && !names.is_empty() {
            return Err(Failure::Use(
                "a name is of one namespace: leave out -A".to_owned(),
            ));
        }
        let is_everywhere = args.all_namespaces || !names.is_empty();
        Ok(Self {
            kinds,
            names,
            namespace: if is_everywhere {
                String::new()
            } else {
                session.namespace.clone()
            },
            labels: args.labels.clone(),
            format: args.output,
        })
    }

    /// All documents that are wanted, in the order of kinds and names; and as of which revision.
    async fn fetch(&self, session: &mut Session) -> Result<(Vec<v1::StoredDocument>, u64), Failure> {
        let mut documents = Vec::new();
        let mut first_revision = None;
        for kind in &self.kinds {
            let request = v1::GetRequest {
                kind: kind.name().to_owned(),
                namespace: if kind.is_namespaced() {
                    self.namespace.clone()
                } else {
                    String::new()
                },
                name: match self.names.as_slice() {
                    [only] => only.name().to_owned(),
                    _ => String::new(),
                },
                labels: self.labels.clone(),
            };
            let response = session.admin.get(request).await;
            let response = response.map_err(|status| session.refused(status))?.into_inner();
            // A change between two answers is then seen by who watches from here.
            first_revision.get_or_insert(response.revision);
            documents.extend(
                response
                    .documents
                    .into_iter()
                    .filter(|document| self.is_named(document.key.as_ref())),
            );
        }
        Ok((documents, first_revision.unwrap_or_default()))
    }

    /// Whether a document is one of those that were named, if any were.
    fn is_named(&self, key: Option<&v1::ResourceKey>) -> bool {
        let Some(key) = key else {
            return false;
        };
        self.names.is_empty() || self.names.iter().any(|name| names::to_wire(name) == *key)
    }

    fn missing(&self, documents: &[v1::StoredDocument]) -> Vec<String> {
        let is_there = |name: &&DocumentKey| {
            let key = names::to_wire(name);
            !documents
                .iter()
                .any(|document| document.key.as_ref() == Some(&key))
        };
        self.names
            .iter()
            .filter(is_there)
            .map(ToString::to_string)
            .collect()
    }

    fn print(&self, documents: &[v1::StoredDocument], screen: &mut Screen) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide => self.print_tables(documents, screen),
            Format::Name => documents.iter().try_for_each(|document| {
                screen.line(super::screen::clean(&names::shown(document.key.as_ref())))
            }),
            Format::Yaml => {
                for (index, document) in documents.iter().enumerate() {
                    if index > 0 {
                        screen.line("---")?;
                    }
                    values::print(screen, Format::Yaml, &whole(document)?)?;
                }
                Ok(())
            }
            Format::Json => {
                let items = documents.iter().map(whole).collect::<Result<Vec<_>, _>>()?;
                let value = match (self.names.as_slice(), items.as_slice()) {
                    ([_], [item]) => item.clone(),
                    _ => json!({"apiVersion": "v1", "kind": "List", "items": items}),
                };
                values::print(screen, Format::Json, &value)
            }
        }
    }

    fn print_tables(&self, documents: &[v1::StoredDocument], screen: &mut Screen) -> Result<(), Failure> {
        if documents.is_empty() {
            let place = match self.namespace.as_str() {
                "" => String::new(),
                namespace => format!(" in namespace {namespace} (-A: in all)"),
            };
            let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.plural()).collect();
            screen.note(format_args!("no {}{place}", kinds.join(", ")));
            return Ok(());
        }
        let mut is_first = true;
        for kind in &self.kinds {
            let of_kind: Vec<_> = documents
                .iter()
                .filter(|document| is_of(document, *kind))
                .collect();
            if of_kind.is_empty() {
                continue;
            }
            if !is_first {
                screen.line("")?;
            }
            is_first = false;
            let mut table = Table::new(columns::head(*kind, self.layout()));
            for document in of_kind {
                table.row(columns::row(*kind, self.layout(), document)?);
            }
            table.print(screen, false)?;
        }
        Ok(())
    }

    fn layout(&self) -> columns::Layout {
        columns::Layout {
            has_namespace: self.namespace.is_empty(),
            is_wide: self.format == Format::Wide,
        }
    }
}

fn is_of(document: &v1::StoredDocument, kind: Kind) -> bool {
    document.key.as_ref().is_some_and(|key| key.kind == kind.name())
}

/// A document with its bookkeeping: `metadata.generation` and `metadata.resourceVersion` as Kubernetes has them, and of a
/// route or policy its `status`.
pub(crate) fn whole(document: &v1::StoredDocument) -> Result<Value, Failure> {
    let mut value = values::document(&names::shown(document.key.as_ref()), &document.document)?;
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        metadata.insert("generation".to_owned(), document.generation.into());
        metadata.insert("resourceVersion".to_owned(), document.revision.to_string().into());
    }
    if let (Some(status), Value::Object(root)) = (attached::status(document)?, &mut value) {
        root.insert("status".to_owned(), status);
    }
    Ok(value)
}
