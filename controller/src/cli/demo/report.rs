//! What came of the steps and of the whole demo.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    board::{Board, Count, Flow},
    show::{Colour, Show},
    steps::Step,
    table::milliseconds,
};

/// What came of a step.
#[derive(Debug)]
pub(super) struct StepReport {
    pub(super) step: Step,
    pub(super) took: Duration,
    /// Of the requests that were sent while it ran.
    pub(super) count: Count,
    /// More of it, for programs.
    pub(super) detail: Value,
}

/// The demo so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) steps: Vec<StepReport>,
    /// In bytes, by name.
    pub(super) memory: Vec<(&'static str, u64)>,
}

impl StepReport {
    /// The line that ends a step.
    pub(super) fn line(&self, show: &Show) -> String {
        let Self { count, took, .. } = self;
        let failed = format!("{} failed", count.failed());
        let (label, failed) = match count.failed() {
            0 => (show.paint(Colour::Green, "ok"), failed),
            _ => (
                show.paint(Colour::Red, "FAILED"),
                show.paint(Colour::Red, &failed),
            ),
        };
        format!(
            "  {label}: {} requests, {failed}, the longest {}, in {:.1} s",
            count.requests,
            milliseconds(count.longest),
            took.as_secs_f64()
        )
    }

    fn to_json(&self) -> Value {
        let mut value = count_json(&self.count);
        value["step"] = self.step.number().into();
        value["name"] = self.step.name().into();
        value["seconds"] = self.took.as_secs_f64().into();
        value["detail"] = self.detail.clone();
        value
    }
}

impl Report {
    /// For programs. `error` is why the demo ended early.
    pub(super) fn to_json(&self, board: Option<&Board>, took: Duration, error: Option<String>) -> Value {
        let total = board.map(Board::total).unwrap_or_default();
        let memory: serde_json::Map<_, _> = self
            .memory
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), json!(bytes)))
            .collect();
        let flow = |flow: &Flow| {
            let (answered, failed) = board.map(|board| board.answers(*flow)).unwrap_or_default();
            json!({
                "from": flow.from().account,
                "to": flow.name(),
                "protocol": flow.protocol(),
                "answered": answered,
                "failed": failed,
            })
        };
        let mut value = count_json(&total);
        value["ok"] = (error.is_none() && total.failed() == 0).into();
        value["seconds"] = took.as_secs_f64().into();
        value["steps"] = self.steps.iter().map(StepReport::to_json).collect();
        value["flows"] = Flow::ALL.iter().map(flow).collect();
        value["memoryBytes"] = memory.into();
        if let Some(error) = error {
            value["error"] = error.into();
        }
        value
    }

    /// The summary for people.
    pub(super) fn summary(&self, board: &Board, took: Duration, show: &Show) -> Vec<String> {
        let total = board.total();
        let memory: Vec<_> = self
            .memory
            .iter()
            .map(|(name, bytes)| format!("{name} {:.0}", mebibytes(*bytes)))
            .collect();
        let mut lines = vec![String::new()];
        for (reason, count) in &total.failures {
            lines.push(format!("  {count} x {reason}"));
        }
        lines.push(format!("Memory, in MiB: {}", memory.join(", ")));
        let label = match total.failed() {
            0 => show.paint(Colour::Green, "OK:"),
            _ => show.paint(Colour::Red, "FAILED:"),
        };
        lines.push(format!(
            "{label} {} requests, {} failed, the longest {}; {} steps in {:.1} s",
            total.requests,
            total.failed(),
            milliseconds(total.longest),
            self.steps.len(),
            took.as_secs_f64()
        ));
        lines
    }
}

fn count_json(count: &Count) -> Value {
    json!({
        "requests": count.requests,
        "failed": count.failed(),
        "failures": count.failures,
        "longestMillis": count.longest.as_secs_f64() * 1e3,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::cli::demo::Output;

    #[test]
    fn one_failed_request_is_a_failure_of_the_demo() {
        let now = Instant::now();
        let mut board = Board::new(now);
        let report = Report::default();
        assert_eq!(report.to_json(Some(&board), Duration::ZERO, None)["ok"], true);
        let sent = board.on_sent(Flow::Cart, now);
        board.on_end(sent, Err("no".to_owned().into()), now);
        let value = report.to_json(Some(&board), Duration::ZERO, None);
        assert_eq!((&value["ok"], &value["failed"]), (&json!(false), &json!(1)));
        let lines = report.summary(&board, Duration::ZERO, &Show::new(Output::Json));
        assert!(
            lines.iter().any(|line| line.contains("1 x cart: no"))
                && lines.iter().any(|line| line.contains("FAILED:")),
            "{lines:?}"
        );
    }

    #[test]
    fn an_error_is_a_failure_without_a_failed_request() {
        let value = Report::default().to_json(None, Duration::ZERO, Some("why".to_owned()));
        assert_eq!((&value["ok"], &value["error"]), (&json!(false), &json!("why")));
    }
}
