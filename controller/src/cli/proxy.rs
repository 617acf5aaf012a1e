//! `proxy`: questions to one sidecar, through the controller.

mod show;

use std::{io::Write as _, time::Duration};

use clap::Subcommand;
use serde_json::Value;
use tonic::Streaming;
use weft_proto::mesh::v1::{self, answer::Answer, question::Question};

use super::{
    Outcome,
    args::Format,
    failure::Failure,
    human, json, names,
    screen::{Screen, clean, clean_lines},
    session::Session,
};

const CONFIG_HELP: &str = "\
Examples:
  weft proxy config web-0
  weft proxy config shop/web-0 -o yaml";

const CONNECTIONS_HELP: &str = "\
Examples:
  weft proxy connections web-0
  weft proxy connections shop/web-0 -o json";

const LOGS_HELP: &str = "\
Examples:
  weft proxy logs web-0
  weft proxy logs web-0 -f --tail 10
  weft proxy logs shop/web-0 --access -f";

const LEVEL_HELP: &str = "\
Examples:
  weft proxy log-level web-0 debug
  weft proxy log-level shop/web-0 info,weft_transport=debug --for 1h";

const EVICT_HELP: &str = "\
For a sidecar that is gone: it is no endpoint any more, and holds up no rotation. One that lives comes back by itself.

Examples:
  weft proxy evict web-0
  weft proxy evict shop/web-0";

/// How long a sidecar may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a log is followed at a time; then it is asked for anew.
const FOLLOW: Duration = Duration::from_secs(3600);
/// The largest answer that is kept before it is shown.
const MAX_ANSWER_BYTES: usize = 256 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum ProxyCommand {
    /// Show what a sidecar believes: its configuration as it uses it
    #[command(after_help = CONFIG_HELP)]
    Config(ShowArgs),
    /// Show a sidecar's connections to others
    #[command(after_help = CONNECTIONS_HELP)]
    Connections(ShowArgs),
    /// Show the end of a sidecar's log
    #[command(after_help = LOGS_HELP)]
    Logs(LogsArgs),
    /// Change what a sidecar logs, for a while
    #[command(after_help = LEVEL_HELP)]
    LogLevel(LevelArgs),
    /// Forget a sidecar that is gone
    #[command(after_help = EVICT_HELP)]
    Evict {
        /// Its workload: NAME or NS/NAME
        workload: String,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Its workload: NAME or NS/NAME
    workload: String,
    /// How to print it: table, json or yaml
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Its workload: NAME or NS/NAME
    workload: String,
    /// Go on with new lines
    #[arg(long, short)]
    follow: bool,
    /// The last so many lines
    #[arg(long, value_name = "N", default_value_t = 100)]
    tail: u32,
    /// The access log rather than the sidecar's own
    #[arg(long)]
    access: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LevelArgs {
    /// Its workload: NAME or NS/NAME
    workload: String,
    /// A level, or levels by module
    filter: String,
    /// For how long; then it is as before
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = human::parse_duration)]
    duration: Duration,
}

/// Asks.
///
/// # Errors
/// There is no such sidecar, or it does not answer, or it failed.
pub(crate) async fn run(
    command: ProxyCommand,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    match command {
        ProxyCommand::Config(args) => {
            let value = ask(&args.workload, Question::Snapshot(v1::Ask {}), session).await?;
            match args.output {
                Format::Json | Format::Yaml => json::print(screen, args.output, &value)?,
                _ => show::config(&value, screen)?,
            }
        }
        ProxyCommand::Connections(args) => {
            let value = ask(&args.workload, Question::Connections(v1::Ask {}), session).await?;
            match args.output {
                Format::Json | Format::Yaml => json::print(screen, args.output, &value)?,
                _ => show::connections(&value, screen)?,
            }
        }
        ProxyCommand::Logs(args) => logs(&args, session, screen).await?,
        ProxyCommand::LogLevel(args) => log_level(args, session, screen).await?,
        ProxyCommand::Evict { workload } => evict(&workload, session, screen).await?,
    }
    Ok(Outcome::Done)
}

fn request(
    workload: &str,
    question: Question,
    timeout: Duration,
    session: &Session,
) -> Result<v1::AskRequest, Failure> {
    let (namespace, workload) = names::workload(workload, &session.namespace)?;
    Ok(v1::AskRequest {
        namespace,
        workload,
        question: Some(v1::Question {
            id: 0,
            question: Some(question),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        }),
    })
}

/// The whole answer, which is JSON.
///
/// # Errors
/// There is no such sidecar, or it does not answer, or with an error.
pub(crate) async fn ask(workload: &str, question: Question, session: &mut Session) -> Result<Value, Failure> {
    let request = request(workload, question, ANSWER, session)?;
    let response = session.admin.ask(request).await;
    let mut answers = response.map_err(|status| session.refused(status))?.into_inner();
    let mut whole = Vec::new();
    while let Some(part) = next(&mut answers, session).await? {
        if whole.len() + part.len() > MAX_ANSWER_BYTES {
            return Err(Failure::other(format!(
                "the answer has more than {MAX_ANSWER_BYTES} bytes"
            )));
        }
        whole.extend_from_slice(&part);
    }
    serde_json::from_slice(&whole)
        .map_err(|error| Failure::other(format!("the sidecar's answer cannot be read: {error}")))
}

/// The next part of an answer; `None` after the last.
async fn next(
    answers: &mut Streaming<v1::Answer>,
    session: &Session,
) -> Result<Option<bytes::Bytes>, Failure> {
    let answer = answers
        .message()
        .await
        .map_err(|status| session.refused(status))?;
    match answer.and_then(|answer| Some((answer.is_last, answer.answer?))) {
        Some((_, Answer::Error(error))) => {
            Err(Failure::other(format!("the sidecar says: {}", clean(&error))))
        }
        Some((true, Answer::Part(part))) if part.is_empty() => Ok(None),
        Some((_, Answer::Part(part))) => Ok(Some(part)),
        None => Ok(None),
    }
}

async fn logs(args: &LogsArgs, session: &mut Session, screen: &mut Screen) -> Result<(), Failure> {
    let mut lines = args.tail;
    loop {
        let question = Question::Tail(v1::TailLog {
            lines,
            follow: args.follow,
            access: args.access,
        });
        let timeout = if args.follow { FOLLOW } else { ANSWER };
        let request = request(&args.workload, question, timeout, session)?;
        let response = session.admin.ask(request).await;
        let mut answers = response.map_err(|status| session.refused(status))?.into_inner();
        let mut has_answered = false;
        while let Some(part) = next(&mut answers, session).await? {
            has_answered = true;
            if screen.is_terminal() {
                screen.write(clean_lines(&String::from_utf8_lossy(&part)))?;
            } else {
                screen.bytes(&part)?;
            }
        }
        // One that ends at once would be asked without pause.
        if !args.follow || !has_answered {
            return Ok(());
        }
        lines = 0;
    }
}

async fn log_level(args: LevelArgs, session: &mut Session, screen: &mut Screen) -> Result<(), Failure> {
    let question = Question::LogLevel(v1::SetLogLevel {
        filter: args.filter.clone(),
        for_ms: u64::try_from(args.duration.as_millis()).unwrap_or(u64::MAX),
    });
    let request = request(&args.workload, question, ANSWER, session)?;
    let response = session.admin.command(request).await;
    let mut answers = response.map_err(|status| session.refused(status))?.into_inner();
    let mut said = Vec::new();
    while let Some(part) = next(&mut answers, session).await? {
        let _ = said.write_all(&part);
    }
    screen.line(format_args!(
        "{} logs {} for {}",
        clean(&args.workload),
        clean(&args.filter),
        human::duration(args.duration)
    ))
}

async fn evict(workload: &str, session: &mut Session, screen: &mut Screen) -> Result<(), Failure> {
    let (namespace, name) = names::workload(workload, &session.namespace)?;
    let request = v1::EvictRequest {
        namespace: namespace.clone(),
        workload: name.clone(),
    };
    let response = session.admin.evict(request).await;
    let evicted = response.map_err(|status| session.refused(status))?.into_inner();
    if !evicted.found {
        return Err(Failure::Other(
            format!("the controller knows no sidecar of {namespace}/{name}"),
            Some("`weft status` has those that it knows.".to_owned()),
        ));
    }
    screen.line(format_args!("{namespace}/{name} forgotten"))
}
