//! Owns the known facts about the peer of a connection.
//!
//! Does not know the clients behind a relay; the session does.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::Holder;
use crate::smtp::session::Protocol;

/// The peer of a connection.
#[derive(Clone, Debug)]
pub(super) struct SmtpPeer {
    /// The number of the connection since the start, which links its log lines.
    pub(super) number: u64,
    pub(super) protocol: Protocol,
    /// The address of the peer, or the one that a proxy named; `None` on a unix socket.
    pub(super) ip: Option<IpAddr>,
    /// True if the limits for untrusted peers do not apply.
    pub(super) exempt: bool,
    /// True if the peer is a relay, which may name its clients.
    pub(super) relay: bool,
}

impl SmtpPeer {
    pub(super) fn new(protocol: Protocol, ip: Option<IpAddr>) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            protocol,
            ip,
            exempt: false,
            relay: false,
        }
    }

    /// The holder of the memory for its mails.
    pub(super) const fn holder(&self) -> Holder {
        match self.ip {
            Some(ip) if !self.exempt => Holder::Stranger(ip),
            _ => Holder::Trusted,
        }
    }

    pub(super) const fn protocol_name(&self) -> &'static str {
        protocol_name(self.protocol)
    }

    /// The address for the log.
    pub(super) fn log_address(&self) -> impl fmt::Display + use<> {
        self.ip
            .map_or_else(|| "local".to_owned(), |ip| ip.to_string())
    }
}

/// The name of the protocol in log lines and metrics.
pub(super) const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Lmtp => "lmtp",
        Protocol::Smtp => "smtp",
    }
}
