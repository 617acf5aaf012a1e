//! Which users there are in a host.

use weft_lab::Error;
use weft_lab::netns::{Host, privileged, require_user};

#[test]
fn a_command_runs_as_another_user_or_it_is_said_what_is_missing() {
    privileged(|| {
        const ID: u32 = 1000;
        let host = Host::new("host").unwrap();
        let mut command = host.command("setpriv");
        command.args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "id", "-u"]);
        let output = command.output().unwrap();
        match require_user(ID) {
            Ok(()) => assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1000"),
            Err(error) => {
                assert!(matches!(error, Error::MissingUsers { id: ID }), "{error}");
                assert!(!output.status.success());
            }
        }
    })
    .unwrap();
}
