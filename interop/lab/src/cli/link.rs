//! `link`: two hosts, an impaired link between them, and a command in each.

use crate::error::{Doing, Result};
use crate::netns::impairment::{Corrupt, Impairment, Loss, MtuLimit, Order, Rate, Reorder, Share, TooBig};
use crate::netns::{Direction, Host, ImpairedLink, ImpairedOptions, acquire_rights};
use clap::Args;
use nix::sched::{CloneFlags, unshare};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

/// How the hosts are joined, and what runs in them.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The left host is 10.77.1.1 and fd77:0:0:1::1, the right one ends in 2. Both directions are impaired alike. The hosts,
the link and all that the commands start are gone when the left command ends, or when this program is killed.

Example, as root or where unprivileged user namespaces are allowed:
  link --delay 20 --loss 1% --right 'nc -l -p 8080 < file' -- curl --http0.9 http://10.77.1.2:8080/")]
pub struct LinkArgs {
    /// Milliseconds that every packet is delayed.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay: u64,
    /// Milliseconds that packets are delayed besides, at random, up to this.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    jitter: u64,
    /// Let packets overtake others whose jitter is longer.
    #[arg(long)]
    free_order: bool,
    /// Packets that are lost at random, as 1%.
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    loss: Share,
    /// Packets that arrive twice.
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    duplicate: Share,
    /// Packets that are held back for another 10 ms.
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    reorder: Share,
    /// Packets that arrive with a bit flipped.
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    corrupt: Share,
    /// Thousand bits a second that pass.
    #[arg(long, value_name = "KBIT")]
    rate: Option<u64>,
    /// KiB that may wait for the rate.
    #[arg(long, value_name = "KIB", default_value_t = 256)]
    queue: usize,
    /// Drop packets longer than this in silence.
    #[arg(long, value_name = "BYTES")]
    black_hole: Option<usize>,
    /// Put a NAT between the hosts: the left one inside.
    #[arg(long)]
    nat: bool,
    /// The seed of every random decision.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A command for the right host, for `sh -c`.
    #[arg(long, value_name = "COMMAND")]
    right: Option<String>,
    /// The command for the left host; the shell if absent.
    #[arg(last = true, value_name = "COMMAND")]
    left: Vec<String>,
}

/// How long a packet is held back by `--reorder`: some packets' time at any rate worth trying.
const HELD_BACK: Duration = Duration::from_millis(10);

/// Runs the left command to its end and ends as it did.
pub(super) fn run(args: &LinkArgs) -> Result<ExitCode> {
    acquire_rights()?;
    let (left, right) = (Host::new("left")?, Host::new("right")?);
    let options = ImpairedOptions {
        seed: args.seed,
        nat: args.nat,
        ..Default::default()
    };
    let link = ImpairedLink::join(&left, &right, 1, options)?;
    link.set_both(args.impairment());
    // Only now: a thread that has made a PID namespace can start no other threads.
    let mut commands = Commands::new()?;
    if let Some(command) = &args.right {
        let mut shell = right.command("sh");
        shell.args(["-c", command]);
        commands.start(shell)?;
    }
    let left_command = commands.start(args.left_command(&left))?;
    let status = left_command
        .wait()
        .doing(|| "wait for the left command".to_owned())?;
    drop(commands);
    for direction in Direction::BOTH {
        // Whoever started this may have stopped reading.
        writeln!(io::stderr(), "{direction:?}: {:?}", link.counters(direction)).ok();
    }
    Ok(exit_code(status))
}

/// The commands and whatever they start: in a PID namespace, so that the kernel kills them all when its first
/// process ends.
struct Commands {
    /// The first process. It waits for the end of its input, which comes with the end of this process, however it
    /// ends.
    first: Child,
    others: Vec<Child>,
}

impl Commands {
    fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWPID).doing(|| "make a PID namespace".to_owned())?;
        let first = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Ok(Self {
            first: first.doing(|| "start `cat`".to_owned())?,
            others: Vec::new(),
        })
    }

    /// Starts a command with this program's own input and output.
    fn start(&mut self, mut command: Command) -> Result<&mut Child> {
        let child = command
            .spawn()
            .doing(|| format!("start {:?}", command.get_program()))?;
        Ok(self.others.push_mut(child))
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.first.kill().ok();
        // The first process lasts until every other one is reaped (pid_namespaces(7)).
        for child in self.others.iter_mut().chain([&mut self.first]) {
            child.wait().ok();
        }
    }
}

/// As a shell would tell it: 128 and the signal's number for a command that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}

impl LinkArgs {
    fn left_command(&self, host: &Host) -> Command {
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "sh".to_owned());
        match self.left.split_first() {
            None => host.command(shell),
            Some((program, arguments)) => {
                let mut command = host.command(program);
                command.args(arguments);
                command
            }
        }
    }

    fn impairment(&self) -> Impairment {
        Impairment {
            delay: Duration::from_millis(self.delay),
            jitter: Duration::from_millis(self.jitter),
            order: if self.free_order { Order::Free } else { Order::Kept },
            loss: Loss::Random(self.loss),
            duplicate: self.duplicate,
            reorder: Reorder {
                share: self.reorder,
                by: HELD_BACK,
            },
            corrupt: Corrupt {
                share: self.corrupt,
                ..Default::default()
            },
            rate: self.rate.map(|kilobits| Rate {
                bits_per_second: kilobits.saturating_mul(1000),
                queue: self.queue.saturating_mul(1024),
            }),
            mtu: self.black_hole.map(|bytes| MtuLimit {
                bytes,
                too_big: TooBig::Silent,
            }),
        }
    }
}
