//! The kernel's packet filter, through the `nft` program: its scripts go in, and tables come back as JSON.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    net::IpAddr,
    process::{Output, Stdio},
};

use aws_lc_rs::digest::{SHA256, digest};
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use super::{loopback::OnLoopback, rules::Table};

/// Where `nft` is on hosts whose ordinary users do not have it on their path.
const SYSTEM_PATHS: &str = "/usr/sbin:/sbin";

/// An empty chain of this name, the version of nft and a digest says that an install came to its end, and what the
/// table was then.
const SEAL: &str = "sealed";

/// The packet filter can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    #[error("nft, the program of nftables, is missing: install the package nftables")]
    Missing,
    #[error("nft can't be run: {0}")]
    Run(io::Error),
    #[error("nft: {0}")]
    Refused(String),
    #[error("nft wrote what is not its JSON: {0}")]
    Output(&'static str),
}

/// A table as it is.
#[derive(Debug)]
pub(crate) struct Live {
    /// What was put on `lo` for it.
    pub(crate) record: OnLoopback,
    /// Of all that is in it, but for counters.
    pub(crate) digest: String,
    /// The version of nft that read it.
    pub(crate) version: String,
    /// What it was when its install ended. `None`: it did not.
    pub(crate) seal: Option<Seal>,
    /// nft's own listing.
    pub(crate) listing: Value,
}

/// What a table was when its install ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Versions may list a table differently, so digests of different ones are not compared.
    pub(crate) version: String,
    pub(crate) digest: String,
}

/// Carries a script out, in one transaction.
///
/// # Errors
/// Nothing was changed.
pub(crate) async fn apply(script: &str) -> Result<(), NftError> {
    succeed(nft(&["-f", "-"], script).await?).map(drop)
}

/// Our tables in this network namespace.
///
/// # Errors
/// They can't be read.
pub(crate) async fn tables() -> Result<BTreeSet<Table>, NftError> {
    let listing = json(&succeed(nft(&["-j", "list", "tables", "inet"], "").await?)?)?;
    let table = |object: &Value| Table::named(object["table"]["name"].as_str()?);
    Ok(objects(&listing)?.iter().filter_map(table).collect())
}

/// A table; `None` if there is none of this name.
///
/// # Errors
/// It can't be read.
pub(crate) async fn read(table: &Table) -> Result<Option<Live>, NftError> {
    match succeed(nft(&["-j", "list", "table", "inet", table.as_str()], "").await?) {
        Ok(output) => Live::parse(&output).map(Some),
        // nft has one exit code for all that goes wrong, and its text may be in any language.
        Err(error) => match tables().await?.contains(table) {
            true => Err(error),
            false => Ok(None),
        },
    }
}

/// A table for people, counters included.
///
/// # Errors
/// It can't be read.
pub(crate) async fn print(table: &Table) -> Result<String, NftError> {
    let output = succeed(nft(&["list", "table", "inet", table.as_str()], "").await?)?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

async fn nft(args: &[&str], input: &str) -> Result<Output, NftError> {
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    path.push(":");
    path.push(SYSTEM_PATHS);
    let mut child = Command::new("nft")
        .args(args)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NftError::Missing,
            _ => NftError::Run(error),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it does not read, it says why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    child.wait_with_output().await.map_err(NftError::Run)
}

fn succeed(output: Output) -> Result<Vec<u8>, NftError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NftError::Refused(message))
}

fn json(output: &[u8]) -> Result<Value, NftError> {
    serde_json::from_slice(output).map_err(|_| NftError::Output("it can't be parsed"))
}

fn objects(listing: &Value) -> Result<&Vec<Value>, NftError> {
    listing["nftables"]
        .as_array()
        .ok_or(NftError::Output("it has no objects"))
}

impl Live {
    fn parse(output: &[u8]) -> Result<Self, NftError> {
        let listing = json(output)?;
        let (mut version, mut seal, mut record) = (String::new(), None, OnLoopback::default());
        let mut content = String::new();
        let (mut stable, mut services) = (Vec::new(), Vec::new());
        for object in objects(&listing)? {
            if let Some(text) = object["metainfo"]["version"].as_str() {
                text.clone_into(&mut version);
                continue;
            }
            if let Some(found) = object["chain"]["name"].as_str().and_then(Seal::parse) {
                seal = Some(found);
                continue;
            }
            match object["set"]["name"].as_str() {
                Some("stable4" | "stable6") => stable.extend(elements(&object["set"])?),
                Some("service4" | "service6") => services.extend(elements(&object["set"])?),
                _ => {}
            }
            content.push_str(&canonical(object).to_string());
            content.push('\n');
        }
        record.addresses.extend(stable.iter().map(IpNet::addr));
        record.add_routes(services);
        let digest = digest(&SHA256, content.as_bytes());
        // Half of it is still far more than chance; a table is not proved to be unaltered, only seen to be.
        let digest = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}"));
        Ok(Self {
            record,
            digest: digest.collect(),
            version,
            seal,
            listing,
        })
    }
}

impl Seal {
    /// The seal of a table as it is.
    pub(crate) fn of(live: &Live) -> Self {
        Self {
            version: live.version.clone(),
            digest: live.digest.clone(),
        }
    }

    /// The script that seals it.
    pub(crate) fn script(&self, table: &Table) -> String {
        format!("add chain inet {table} {SEAL}_{}_{}\n", self.version, self.digest)
    }

    fn parse(chain: &str) -> Option<Self> {
        let (version, digest) = chain.strip_prefix(SEAL)?.strip_prefix('_')?.rsplit_once('_')?;
        Some(Self {
            version: version.to_owned(),
            digest: digest.to_owned(),
        })
    }
}

/// What of an object is the same as long as nobody changes it: without handles, which are numbered anew by each
/// install, and what is counted.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != "handle");
            let fields = fields.map(|(name, value)| {
                let is_counter = name == "counter" && value.is_object();
                (
                    name.clone(),
                    if is_counter { Value::Null } else { canonical(value) },
                )
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

/// The elements of a set of addresses.
fn elements(set: &Value) -> Result<Vec<IpNet>, NftError> {
    const NO_ADDRESS: NftError = NftError::Output("an element of a set is no address");
    let ip = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    let mut ranges = Vec::new();
    for element in set["elem"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let (prefix, range) = (&element["prefix"], &element["range"]);
        if let Some(address) = ip(element) {
            ranges.push(IpNet::from(address));
        } else if let (Some(address), Some(length)) = (ip(&prefix["addr"]), prefix["len"].as_u64()) {
            let length = u8::try_from(length).map_err(|_| NO_ADDRESS)?;
            ranges.push(IpNet::new(address, length).map_err(|_| NO_ADDRESS)?);
        } else {
            match (ip(&range[0]), ip(&range[1])) {
                (Some(IpAddr::V4(first)), Some(IpAddr::V4(last))) => {
                    ranges.extend(Ipv4Subnets::new(first, last, 0).map(IpNet::V4));
                }
                (Some(IpAddr::V6(first)), Some(IpAddr::V6(last))) => {
                    ranges.extend(Ipv6Subnets::new(first, last, 0).map(IpNet::V6));
                }
                _ => return Err(NO_ADDRESS),
            }
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listing(packets: u64, handle: u64, port: u16) -> Vec<u8> {
        json!({ "nftables": [
            { "metainfo": { "version": "1.0.6" } },
            { "table": { "family": "inet", "name": "weft", "handle": handle } },
            { "set": { "name": "stable4", "handle": handle + 1, "elem": ["169.254.255.15"] } },
            { "set": { "name": "stable6", "handle": handle + 2 } },
            { "set": { "name": "service4", "elem": [
                { "prefix": { "addr": "10.96.0.0", "len": 16 } },
                { "range": ["10.97.0.0", "10.98.255.255"] },
            ] } },
            { "rule": { "chain": "outbound", "handle": handle + 3, "expr": [
                { "counter": { "packets": packets, "bytes": packets * 60 } },
                { "redirect": { "port": port } },
            ] } },
        ] })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn a_digest_is_of_the_rules_and_not_of_what_they_counted() {
        let digest = |packets, handle, port| Live::parse(&listing(packets, handle, port)).unwrap().digest;
        let first = digest(0, 1, 15_001);
        assert_eq!(first.len(), 32);
        assert_eq!(digest(7, 1, 15_001), first);
        assert_eq!(digest(0, 40, 15_001), first);
        assert_ne!(digest(0, 1, 15_002), first);
    }

    #[test]
    fn a_table_tells_what_is_on_lo_for_it() {
        let live = Live::parse(&listing(0, 1, 15_001)).unwrap();
        let stable: IpAddr = "169.254.255.15".parse().unwrap();
        assert_eq!(live.record.addresses, [stable].into());
        let routes: Vec<String> = live
            .record
            .routes
            .iter()
            .map(|(range, source)| format!("{range} {source}"))
            .collect();
        assert_eq!(
            routes,
            [
                "10.96.0.0/16 169.254.255.15",
                "10.97.0.0/16 169.254.255.15",
                "10.98.0.0/16 169.254.255.15"
            ]
        );
        assert_eq!(live.seal, None);
    }

    #[test]
    fn a_seal_is_read_back() {
        let mut seal = Seal::of(&Live::parse(&listing(0, 1, 15_001)).unwrap());
        for version in ["1.0.6", "1.1.0_rc1"] {
            version.clone_into(&mut seal.version);
            let script = seal.script(&Table::named("weft_web").unwrap());
            let chain = script.trim_end().rsplit_once(' ').unwrap().1;
            assert_eq!(Seal::parse(chain).as_ref(), Some(&seal));
        }
        for other in ["outbound", "sealed", "sealed_", "resealed_1_2"] {
            assert_eq!(Seal::parse(other), None, "{other}");
        }
    }
}
