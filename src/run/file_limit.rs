//! Owns the limit on open files: enough for all connections that the limits allow, and for the
//! store.
//!
//! Does not count open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Config;

/// Open files besides the clients' connections: journals, index, calls to the Messages API,
/// listeners, and files that are read briefly.
const DESCRIPTORS_OWN: usize = 256;

/// Raises the soft limit as far as needed and as the hard limit allows. Shells and containers often
/// set 1024, and without a descriptor the store cannot read: a crowd of idle connections must not
/// get that far.
pub(super) fn raise(config: &Config) {
    // All HTTP addresses share their limit; the control socket has the same for itself.
    let http = config.http_server.connections_max.saturating_mul(2);
    let connections = config.ingress.connections_max.saturating_add(http);
    // An eighth more is for exempt clients, and one for connections that give up their place.
    let wanted = connections
        .saturating_add(connections / 4)
        .saturating_add(DESCRIPTORS_OWN);
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit {
        current: Some(maximum.map_or(wanted, |maximum| wanted.min(maximum))),
        maximum,
    };
    let set = setrlimit(Resource::Nofile, raised);
    let limit = getrlimit(Resource::Nofile).current;
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        let error = set.err().map(|error| error.to_string());
        warn!(
            limit,
            wanted,
            error,
            "the limit on open files is too low for the number of connections: raise the limit (LimitNOFILE, ulimit -n) or lower connections_max"
        );
    }
}
