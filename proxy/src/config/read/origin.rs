//! Where certificates and documents come from: files, or a controller.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use weft_proto::{
    parse::fields::host_address,
    reader::{Fields, Value},
};

use super::{
    super::{Controller, Files, IdentityPaths, Join, Origin},
    path,
};

/// Files, or a controller. A proxy has one of them: with both, nobody could say what is in force.
pub(super) fn origin(fields: &mut Fields<'_>, directory: &Path) -> Option<Origin> {
    let controller = fields.optional("controller", |value| controller(value, directory));
    if !fields.has("controller") {
        let identity = fields.required("identity", |value| identity(value, directory));
        let documents = fields.required("documents", |value| documents(value, directory));
        return Some(Origin::Files(Files {
            identity: identity?,
            documents: documents?,
        }));
    }
    fields.optional("documents", |value| {
        value.error("the documents come from the controller: leave either it or these out");
        Some(())
    });
    let cache = fields.optional("identity", |value| {
        value.mapping(|fields| {
            for name in ["certificate", "key", "trustBundle"] {
                fields.optional(name, |value| {
                    value.error("certificates come from the controller: leave either it or this out");
                    Some(())
                });
            }
            fields.optional("cache", Value::boolean)
        })
    });
    let mut controller = controller?;
    controller.cache = cache.unwrap_or(true);
    Some(Origin::Controller(controller))
}

fn controller(value: &Value<'_>, directory: &Path) -> Option<Controller> {
    value.mapping(|fields| {
        let addresses = fields.required("address", |value| {
            let addresses = value.one_or_list(|value| value.parse(controller_address))?;
            if addresses.is_empty() {
                value.error("an address is needed, such as controller.example:15010");
            }
            Some(addresses)
        });
        let join = fields.optional("join", |value| {
            value.mapping(|fields| fields.required("tokenFile", |value| path(value, directory)))
        });
        let address = fields.optional("workloadAddress", host_address);
        Some(Controller {
            addresses: addresses?,
            join: join.map(Join::File),
            cache: true,
            address,
        })
    })
}

/// `HOST:PORT`, where the host is a name or an address.
fn controller_address(text: &str) -> Result<String, String> {
    let is_not_one =
        || "is not an address and port, such as controller.example:15010 or [::1]:15010".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(is_not_one)?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    let is_bracketed = host.starts_with('[') && text.parse::<SocketAddr>().is_ok();
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_port && (is_bracketed || is_name) {
        Ok(text.to_owned())
    } else {
        Err(is_not_one())
    }
}

fn identity(value: &Value<'_>, directory: &Path) -> Option<IdentityPaths> {
    value.mapping(|fields| {
        let certificate = fields.required("certificate", |value| path(value, directory));
        let key = fields.required("key", |value| path(value, directory));
        let trust_bundle = fields.required("trustBundle", |value| path(value, directory));
        Some(IdentityPaths {
            certificate: certificate?,
            key: key?,
            trust_bundle: trust_bundle?,
        })
    })
}

fn documents(value: &Value<'_>, directory: &Path) -> Option<Vec<PathBuf>> {
    let mut seen = HashSet::new();
    let documents = value.list(|value| {
        let path = path(value, directory)?;
        if !seen.insert(path.clone()) {
            value.error(format_args!("{} is in the list already", path.display()));
        }
        Some(path)
    })?;
    if documents.is_empty() {
        value.error("a file is needed: a mesh has at least its MeshConfig");
    }
    Some(documents)
}
