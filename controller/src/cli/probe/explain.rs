//! The reasons of the mesh in words: what each means, and what to look at.

/// What a sidecar's reason means. `is_final`: the request may not, wherever it is sent; else the endpoint could not
/// take it now, and its application saw nothing. `said` is the sidecar's own sentence, if it had one.
pub(super) fn explain(reason: &str, is_final: bool, said: &str) -> String {
    let meaning = match reason {
        "denied" => "the mesh's policy does not let you call it",
        "undeclared_port" => {
            "the workload declares no such port to its sidecar: compare its Workload with its proxy's ports"
        }
        "missing_port" => "the workload has several ports, and none was named",
        "not_this_workload" => "the sidecar there stands beside another workload: an address was taken over",
        "loop" => "the request passed too many sidecars",
        "bad_field" => "the sidecar could not read a weft- field: compare the versions",
        "malformed" => "the sidecar refuses the request as malformed",
        "tunnel_limit" => "the connection carries as many tunnels as it may",
        "draining" => "the sidecar ends: what is under way is finished, nothing new is taken",
        "application_refused" => {
            "the application refuses the connection: does it listen on that port, at that address?"
        }
        "application_connect_timeout" => "the application does not take the connection in time",
        "application_unreachable" => "the sidecar cannot reach the application",
        "application_closed" => "the application ended the connection before it answered",
        "application_bad_response" => "the application's answer is not valid HTTP",
        "request_body_failed" => "the request's content broke off",
        "unsupported" => "the sidecar cannot do what was asked for",
        _ => "the sidecar refused it",
    };
    let kind = if is_final {
        "not retried elsewhere"
    } else {
        "only here and now: callers try another endpoint"
    };
    let said = said.strip_prefix("weft: ").unwrap_or(said);
    let said = said.strip_prefix(reason).unwrap_or(said).trim_start_matches(": ");
    if said.is_empty() {
        format!("{meaning} ({reason}; {kind})")
    } else {
        format!("{meaning} ({reason}: {said}; {kind})")
    }
}
