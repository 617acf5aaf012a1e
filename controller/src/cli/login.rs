//! `login`: a token becomes a credential, which is kept in a context.

use weft_proto::SpiffeId;

use super::{
    Outcome,
    args::Global,
    connect::Target,
    context::{self, Context, DEFAULT_NAMESPACE, Pem},
    credential,
    failure::Failure,
    human,
    screen::{Screen, clean},
};

pub(crate) const HELP: &str = "\
An admin makes the token: weft token create --role viewer --name ann. It names the root of the mesh, so that the \
controller proves itself to you as you do to it. The key is made here; the credential renews itself when weft is used.

Examples:
  weft login TOKEN --controller mesh.example:15010
  weft login TOKEN --controller 10.0.0.1 --name prod

Exit codes: 0 logged in, 1 refused or failed, 2 wrong use.";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// The token, or - to read it from standard input
    token: String,
    /// The name of the context; the operator's own name if not given
    #[arg(long, value_name = "NAME", value_parser = context::name)]
    name: Option<String>,
}

/// Joins.
///
/// # Errors
/// It is no token, or the controller is not that of the token or refuses it.
pub(crate) async fn run(args: LoginArgs, global: &Global, screen: &mut Screen) -> Result<Outcome, Failure> {
    let Some(address) = &global.controller else {
        return Err(Failure::Use("--controller HOST:PORT is missing".to_owned()));
    };
    let token = match args.token.as_str() {
        "-" => std::io::read_to_string(std::io::stdin().lock()).map_err(|source| Failure::File {
            doing: "read",
            path: "standard input".into(),
            source,
        })?,
        token => token.to_owned(),
    };
    let path = match &global.config {
        Some(path) => path.clone(),
        None => context::own_path(|name| std::env::var_os(name))?,
    };
    // A file that cannot be used must not cost the token.
    let known = context::load(&path)?.unwrap_or_default();
    if let Some(name) = &args.name {
        check_free(&known, name, address)?;
    }
    let target = Target::new(address, args.name.as_deref().unwrap_or("new"));
    let stored = credential::join(&target, token.trim()).await?;
    let svid = stored.credentials.svid();
    let name = match args.name {
        Some(name) => name,
        None => free_name(&known, own_name(svid.id()), address),
    };
    let context = Context {
        name: name.clone(),
        controller: address.clone(),
        namespace: global
            .namespace
            .clone()
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        certificate: Pem::Inline(stored.chain),
        key: Pem::Inline(stored.key),
        trust_bundle: Pem::Inline(stored.bundle),
    };
    context::change(&path, |contexts| {
        contexts.put(context);
        contexts.current = Some(name.clone());
        Ok(())
    })?;
    screen.line(format_args!(
        "logged in as {}, until {}; context {} of {}",
        clean(svid.id().as_str()),
        human::date(human::seconds(svid.not_after())),
        clean(&name),
        path.display()
    ))?;
    Ok(Outcome::Done)
}

/// A context of another controller is not replaced.
fn check_free(known: &context::Contexts, name: &str, address: &str) -> Result<(), Failure> {
    match known.contexts.iter().find(|context| context.name == name) {
        Some(context) if context.controller != address => Err(Failure::Use(format!(
            "there is a context {name} already, for {}: give another name, or remove it (weft context delete {name})",
            context.controller
        ))),
        _ => Ok(()),
    }
}

/// `ann` of `/weft/admin/ann`.
fn own_name(id: &SpiffeId) -> &str {
    id.path().rsplit('/').next().unwrap_or_default()
}

/// The name, or that with a number if another controller's context has it.
fn free_name(known: &context::Contexts, name: &str, address: &str) -> String {
    let name = context::name(name).unwrap_or_else(|_| "mesh".to_owned());
    let mut candidates = std::iter::once(name.clone()).chain((2..).map(|number| format!("{name}-{number}")));
    candidates
        .find(|candidate| check_free(known, candidate, address).is_ok())
        .unwrap_or(name)
}
