//! Why a command failed, what to do about it, and the exit code that tells.

use std::{fmt, io, path::PathBuf};

use tonic::Code;
use weft_proto::{DocumentError, mesh::v1};

use super::screen::{clean, clean_lines};

/// Exit code: not everything is as it was asked to be, or the command failed.
pub(crate) const FAILED: u8 = 1;
/// Exit code: wrong use of the command line.
pub(crate) const WRONG_USE: u8 = 2;

/// Why a command did not do what it was to do.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line says something that cannot be.
    Use(String),
    /// All that is wrong with documents, or with the file of contexts.
    Documents(Vec<DocumentError>),
    /// All that a controller found wrong with documents.
    Problems(Vec<v1::Problem>),
    /// A file cannot be read or written.
    File {
        /// What was to be done: `read`, `write`.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no context to work in: where one was looked for.
    NoContext(PathBuf),
    /// There is no context of this name; those that there are.
    UnknownContext(String, Vec<String>),
    /// A context's credential is of no use: of which, why.
    Credential(String, String),
    /// The controller does not answer.
    Unreachable {
        /// Where it was looked for, as `HOST:PORT`.
        address: String,
        /// In which context.
        context: String,
        /// What happened.
        why: String,
    },
    /// Whatever answers there is not the controller, or it does not accept us.
    Untrusted {
        /// Where.
        address: String,
        /// In which context.
        context: String,
        /// What TLS says.
        why: String,
    },
    /// The controller refused or failed.
    Refused(Box<tonic::Status>),
    /// What was asked for is not there.
    NotFound(String),
    /// It failed for a reason of its own: what, and what to do if anything.
    Other(String, Option<String>),
    /// The result could not be written.
    Output(io::Error),
}

impl Failure {
    /// A failure of this description, about which nothing more can be said.
    pub(crate) fn other(what: impl Into<String>) -> Self {
        Self::Other(what.into(), None)
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Use(_) | Self::UnknownContext(..) => WRONG_USE,
            _ => FAILED,
        }
    }

    /// Whether nobody is left to be told: whoever read the output has gone, as `head` does.
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }

    /// What to do next, in lines.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoContext(_) => Some(
                "On the controller's machine, run it as the controller's user, or with --config DATA_DIR/admin.yaml.\n\
                 Elsewhere, have an admin type `weft token create --role admin --name YOU`, and then\n\
                 weft login TOKEN --controller HOST:PORT"
                    .to_owned(),
            ),
            Self::UnknownContext(..) => Some("See `weft context list`.".to_owned()),
            Self::Credential(..) => Some(
                "Have an admin type `weft token create --role ROLE --name YOU`, and then\n\
                 weft login TOKEN --controller HOST:PORT"
                    .to_owned(),
            ),
            Self::Unreachable { context, .. } => Some(format!(
                "Is the controller running there, and does a firewall let TCP through?\n\
                 `weft context show {}` has the address; --controller HOST:PORT tries another.",
                clean(context)
            )),
            Self::Untrusted { .. } => Some(
                "If the mesh was made anew, log in again: weft login TOKEN --controller HOST:PORT\n\
                 Check both clocks: a certificate is valid only from one moment to another."
                    .to_owned(),
            ),
            Self::Refused(status) => hint_of(status.code()).map(str::to_owned),
            Self::Other(_, hint) => hint.clone(),
            Self::Use(_)
            | Self::Documents(_)
            | Self::Problems(_)
            | Self::File { .. }
            | Self::NotFound(_)
            | Self::Output(_) => None,
        }
    }
}

fn hint_of(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::PermissionDenied => {
            "`weft version` says as whom you call; an admin can make a token for another role."
        }
        Code::Unauthenticated => {
            "Your credential is not accepted. Have an admin type `weft token create --role ROLE --name YOU`, and then\n\
             weft login TOKEN --controller HOST:PORT"
        }
        Code::Aborted => "Someone changed it meanwhile: get it again, and apply your change to that.",
        Code::Unavailable => "The controller ended the connection, or is too busy: try again in a moment.",
        Code::DeadlineExceeded => "The controller took too long: try again, or see its log.",
        Code::ResourceExhausted => "A limit of the controller: do less at a time, or try again in a moment.",
        Code::Unimplemented => "The controller is of another version: see `weft version`.",
        Code::Internal | Code::DataLoss | Code::Unknown => "The controller's log says more.",
        _ => return None,
    })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Use(what) | Self::NotFound(what) | Self::Other(what, _) => f.write_str(&clean_lines(what)),
            Self::Documents(errors) => {
                f.write_str(&many(errors.len(), "error"))?;
                lines(
                    f,
                    errors.iter().map(|error| clean(&error.to_string()).into_owned()),
                )
            }
            Self::Problems(problems) => {
                let errors = many(problems.len(), "error");
                write!(f, "refused, nothing was changed: {errors}")?;
                lines(f, problems.iter().map(describe))
            }
            Self::File { doing, path, source } => write!(f, "cannot {doing} {}: {source}", path.display()),
            Self::NoContext(path) => write!(
                f,
                "no controller is known: there is no {}, and no admin.yaml of a controller that can be read",
                path.display()
            ),
            Self::UnknownContext(name, known) if known.is_empty() => {
                write!(f, "there is no context {}, nor any other", clean(name))
            }
            Self::UnknownContext(name, known) => {
                write!(
                    f,
                    "there is no context {} (there are {})",
                    clean(name),
                    clean(&known.join(", "))
                )
            }
            Self::Credential(context, why) => {
                write!(f, "the credential of context {}: {}", clean(context), clean(why))
            }
            Self::Unreachable {
                address,
                context,
                why,
            } => write!(
                f,
                "the controller at {} (context {}) cannot be reached: {}",
                clean(address),
                clean(context),
                clean(why)
            ),
            Self::Untrusted {
                address,
                context,
                why,
            } => write!(
                f,
                "no trusted connection to the controller at {} (context {}): {}",
                clean(address),
                clean(context),
                clean(why)
            ),
            Self::Refused(status) => f.write_str(&refusal(status)),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

fn lines(f: &mut fmt::Formatter<'_>, mut lines: impl Iterator<Item = String>) -> fmt::Result {
    lines.try_for_each(|line| write!(f, "\n{line}"))
}

/// What a status says, in words.
fn refusal(status: &tonic::Status) -> String {
    let what = match status.code() {
        Code::PermissionDenied => "not permitted",
        Code::Unauthenticated => "not authenticated",
        Code::Aborted => "conflict",
        Code::NotFound => "not found",
        Code::InvalidArgument => "refused",
        Code::FailedPrecondition => "not now",
        Code::Unavailable => "the controller is not available",
        Code::DeadlineExceeded => "no answer in time",
        Code::ResourceExhausted => "too much",
        Code::Unimplemented => "the controller does not know this call",
        _ => "the controller failed",
    };
    match status.message() {
        "" => what.to_owned(),
        message => format!("{what}: {}", clean(message)),
    }
}

/// One thing that is wrong, as `DOCUMENT:LINE: FIELD: MESSAGE`.
pub(crate) fn describe(problem: &v1::Problem) -> String {
    let mut text = clean(&problem.document).into_owned();
    if problem.line > 0 {
        text.push_str(&format!(":{}", problem.line));
    }
    for part in [&problem.field, &problem.message] {
        if !part.is_empty() {
            let separator = if text.is_empty() { "" } else { ": " };
            text.push_str(&format!("{separator}{}", clean(part)));
        }
    }
    text
}

/// `1 error`, `3 errors`.
pub(crate) fn many(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl From<Vec<DocumentError>> for Failure {
    fn from(errors: Vec<DocumentError>) -> Self {
        Self::Documents(errors)
    }
}
