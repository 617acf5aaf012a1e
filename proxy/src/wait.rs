//! `weft-proxy wait`: holds a command back until the sidecar beside it is ready.

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};

/// How often the sidecar is asked.
const PAUSE: Duration = Duration::from_millis(100);
/// How long it may take to answer once.
const ANSWER: Duration = Duration::from_secs(2);
/// More than its answer has.
const MAX_ANSWER: u64 = 16 << 10;

/// What to wait for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// How long to wait at most, such as 60s
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = crate::config::duration)]
    timeout: Duration,
    /// The sidecar's admin address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// What to run then, in place of this process
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The exit code for "not ready in time".
const NOT_READY: u8 = 3;
/// As shells have it: the command was not found, or could not be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Waits, and then becomes the command.
pub(crate) fn run(args: &WaitArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ready = match runtime {
        Ok(runtime) => runtime.block_on(wait(args.admin, args.timeout)),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(why) = ready {
        eprintln!(
            "the sidecar at {} is not ready after {:?}: {why}",
            args.admin, args.timeout
        );
        return NOT_READY.into();
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return ExitCode::SUCCESS;
    };
    // It returns only if it fails.
    let error = Command::new(program).args(arguments).exec();
    eprintln!("{}: {error}", program.display());
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND.into(),
        _ => NOT_RUN.into(),
    }
}

/// Asks until the sidecar is ready.
///
/// # Errors
/// The time is over: why it was not ready at last.
async fn wait(admin: SocketAddr, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    let mut last = "no answer".to_owned();
    loop {
        match timeout_at(deadline, timeout(ANSWER, ask(admin))).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(why))) => last = why,
            Ok(Err(_)) => last = "no answer".to_owned(),
            Err(_) => return Err(last),
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

async fn ask(admin: SocketAddr) -> Result<(), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET /ready HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer: String = exchange.await.map_err(|error: io::Error| error.to_string())?;
    if answer.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let why = answer
        .split_once("\r\n\r\n")
        .map_or("what answers there is no sidecar", |(_, why)| why.trim());
    Err(why.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn it_waits_for_ready_and_no_longer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            for answer in ["503 No\r\n\r\nno certificate yet\n", "200 OK\r\n\r\nready\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream
                    .write_all(format!("HTTP/1.1 {answer}").as_bytes())
                    .await
                    .unwrap();
            }
        });
        wait(admin, Duration::from_secs(60)).await.unwrap();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn at_the_end_it_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream
                    .write_all(b"HTTP/1.1 503 No\r\n\r\nno certificate yet\n")
                    .await
                    .unwrap();
            }
        });
        assert_eq!(
            wait(admin, Duration::from_millis(300)).await,
            Err("no certificate yet".to_owned())
        );
        let free = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(
            wait(free, Duration::from_millis(150))
                .await
                .unwrap_err()
                .contains("refused")
        );
    }
}
