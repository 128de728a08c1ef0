//! Owns how many files the process may have open: enough for all connections the bounds allow, and
//! for the store beside them.
//!
//! Does not count what is open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Config;

/// What stands open besides connections of clients: journals, index, the calls to the Messages API,
/// listeners, and files that are read for a moment.
const DESCRIPTORS_OWN: usize = 256;

/// Raises the soft limit as far as it is needed and the hard limit lets it. Shells and containers
/// often set 1024, and without a descriptor the store cannot read what it must: a crowd of idle
/// connections must not get that far.
pub(super) fn raise(config: &Config) {
    // All HTTP addresses share their bound; the control socket has the same for itself.
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
            "too few open files are allowed for so many connections: raise the limit (LimitNOFILE, ulimit -n) or lower connections_max"
        );
    }
}
