//! Misbehaviour on command: how a service answers until it is told otherwise.
//!
//! `PUT /fault?kind=KIND` changes it, with `&share=P` for P percent of the requests; `GET /fault` tells it.
//!
//! | kind | what becomes of a request |
//! |---|---|
//! | `none` | its usual answer |
//! | `status&code=N` | an empty answer with that status |
//! | `grpc&code=N` | of a gRPC call: that grpc-status and nothing else; of others: the usual answer |
//! | `slow&ms=N` | its usual answer after N ms |
//! | `hang` | no answer, for as long as the client waits |
//! | `reset` | RST of its connection, before any answer |
//! | `cut` | the end of its connection in the middle of the answer's body |

use super::http::parameter;
use http::StatusCode;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The greatest grpc-status (the gRPC specification's UNAUTHENTICATED).
const MAX_GRPC_STATUS: u32 = 16;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// Its usual answer.
    #[default]
    None,
    /// An empty answer with this status.
    Status(StatusCode),
    /// This grpc-status, if it is a gRPC call.
    Grpc(u32),
    /// Its usual answer after this time.
    Slow(Duration),
    /// No answer.
    Hang,
    /// RST of its connection.
    Reset,
    /// The end of its connection in the middle of the answer.
    Cut,
}

/// A fault, and how many of the requests have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    fault: Fault,
    /// In percent, at most all.
    share: u32,
}

/// How a service answers now.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    setting: Setting,
    /// Requests since it was set.
    requests: u64,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            fault: Fault::None,
            share: 100,
        }
    }
}

impl Setting {
    /// What the query of `PUT /fault` says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(query: &str) -> Result<Self, String> {
        let number = |name: &str| -> Result<u32, String> {
            let value = parameter(query, name).ok_or_else(|| format!("{name} is missing"))?;
            value.parse().map_err(|_| format!("{name}={value} is no number"))
        };
        let fault = match parameter(query, "kind") {
            Some("none") => Fault::None,
            Some("status") => {
                let code = number("code")?;
                let status = u16::try_from(code).ok();
                let status = status.and_then(|code| StatusCode::from_u16(code).ok());
                // An answer with a 1xx status would not be the final one.
                let status = status.filter(|status| !status.is_informational());
                Fault::Status(status.ok_or_else(|| format!("code={code} is no status of an answer"))?)
            }
            Some("grpc") => match number("code")? {
                code @ 1..=MAX_GRPC_STATUS => Fault::Grpc(code),
                code => return Err(format!("code={code} is no grpc-status of a failure")),
            },
            Some("slow") => Fault::Slow(Duration::from_millis(number("ms")?.into())),
            Some("hang") => Fault::Hang,
            Some("reset") => Fault::Reset,
            Some("cut") => Fault::Cut,
            Some(other) => return Err(format!("kind={other} is unknown")),
            None => return Err("kind is missing".to_owned()),
        };
        let share = match parameter(query, "share") {
            Some(_) => number("share")?,
            None => 100,
        };
        match share {
            0..=100 => Ok(Self { fault, share }),
            _ => Err(format!("share={share} is more than 100 percent")),
        }
    }
}

/// As a query has it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::None => f.write_str("kind=none")?,
            Fault::Status(status) => write!(f, "kind=status&code={}", status.as_u16())?,
            Fault::Grpc(code) => write!(f, "kind=grpc&code={code}")?,
            Fault::Slow(delay) => write!(f, "kind=slow&ms={}", delay.as_millis())?,
            Fault::Hang => f.write_str("kind=hang")?,
            Fault::Reset => f.write_str("kind=reset")?,
            Fault::Cut => f.write_str("kind=cut")?,
        }
        write!(f, "&share={}", self.share)
    }
}

impl Faults {
    /// From the next request on.
    pub(super) fn set(&self, setting: Setting) {
        self.with(|state| *state = State { setting, requests: 0 });
    }

    /// What was set last.
    pub(super) fn setting(&self) -> Setting {
        self.with(|state| state.setting)
    }

    /// What becomes of the next request. The share is exact after each hundred of them, and spread evenly.
    pub(super) fn next(&self) -> Fault {
        self.with(|state| {
            let share = u64::from(state.setting.share);
            let before = state.requests * share / 100;
            state.requests += 1;
            let after = state.requests * share / 100;
            match after > before {
                true => state.setting.fault,
                false => Fault::None,
            }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_as_it_was_set() {
        for text in [
            "kind=none&share=100",
            "kind=status&code=503&share=100",
            "kind=grpc&code=14&share=100",
            "kind=slow&ms=250&share=7",
            "kind=hang&share=0",
            "kind=reset&share=50",
            "kind=cut&share=1",
        ] {
            assert_eq!(Setting::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Setting::parse("kind=hang").unwrap().to_string(),
            "kind=hang&share=100"
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        for (text, named) in [
            ("", "kind"),
            ("kind=odd", "odd"),
            ("kind=status", "code"),
            ("kind=status&code=x", "code=x"),
            ("kind=status&code=101", "code=101"),
            ("kind=status&code=99999", "code=99999"),
            ("kind=grpc&code=0", "code=0"),
            ("kind=grpc&code=17", "code=17"),
            ("kind=slow", "ms"),
            ("kind=hang&share=101", "share=101"),
        ] {
            let error = Setting::parse(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn a_share_is_exact_and_spread() {
        let faults = Faults::default();
        for share in [0, 1, 33, 50, 99, 100] {
            faults.set(Setting::parse(&format!("kind=hang&share={share}")).unwrap());
            let hit = |requests: usize| (0..requests).filter(|_| faults.next() == Fault::Hang).count();
            let (first, second) = (hit(50), hit(50));
            assert_eq!(first + second, share, "of a hundred");
            assert!(second.abs_diff(first) <= 1, "{share}: {first} and {second}");
        }
        assert_eq!(Faults::default().next(), Fault::None);
    }
}
