//! Our transport against quinn, h3 and h3-quinn, on real sockets of the loopback interface.
//!
//! One table of cases for each direction, one function a case. A case of [`dial`] needs of the other side nothing
//! but the small service of [`theirs::service`], so that any HTTP/3 server that offers it can stand in for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod dial;
mod listen;
mod ours;
mod theirs;

use std::{future::Future, time::Duration};

/// A case that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `case` as a worker does: on one thread.
fn run<F: Future<Output = ()>>(case: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(LIMIT, case()).await.expect("it hangs");
    });
}

macro_rules! cases {
    ($direction:ident: $($case:ident),+ $(,)?) => {
        mod $direction {
            $(
                #[test]
                fn $case() {
                    crate::run(crate::$direction::$case);
                }
            )+
        }
    };
}

mod table {
    cases! {
        listen:
            requests_carry_the_callers_identity,
            large_bodies_pass_both_ways,
            trailers_pass_both_ways,
            a_response_to_head_has_no_content,
            a_thousand_requests_at_once,
            their_cancelled_download_reaches_our_application,
            their_cancelled_upload_reaches_our_application,
            our_aborts_say_what_they_mean,
            an_early_answer_arrives,
            a_content_length_that_lies_ends_its_stream_alone,
            malformed_requests_end_their_streams_alone,
            an_endless_frame_is_not_buffered,
            goaway_finishes_what_was_taken,
            callers_without_our_certificates_are_refused,
    }

    cases! {
        dial:
            requests_carry_our_identity,
            large_bodies_pass_both_ways,
            trailers_pass_both_ways,
            a_response_to_head_has_no_content,
            more_requests_than_streams,
            our_cancelled_download_reaches_their_application,
            our_cancelled_upload_reaches_their_application,
            their_aborts_are_told_apart,
            an_early_answer_arrives,
            a_content_length_that_lies_ends_its_stream_alone,
            their_goaway_moves_us_to_another_connection,
            a_request_at_their_goaway_is_unprocessed,
            another_identity_is_refused,
    }
}
