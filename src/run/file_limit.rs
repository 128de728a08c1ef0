//! Owns the limit on open files: enough for all connections that the limits allow, and for the
//! store.
//!
//! Does not count open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Config;

/// The number of open files besides the clients' connections: journals, index, calls to the Messages API,
/// listeners, and files that are open briefly.
const DESCRIPTORS_OWN: usize = 256;

/// Raises the soft limit as far as needed and allowed by the hard limit. Shells and containers often set
/// 1024, and without a free descriptor the store cannot read: idle connections must not be able to cause
/// that.
pub(super) fn raise(config: &Config) {
    // All HTTP addresses share one limit; the control socket has a separate, equal one.
    let http = config.http_server.connections_max.saturating_mul(2);
    let connections = config.ingress.connections_max.saturating_add(http);
    // An eighth more is for exempt clients, and another for connections that are being evicted.
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
