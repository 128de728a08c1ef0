//! Owns what is known of the other end of a connection.
//!
//! Does not know the clients behind a relay: those are the session's.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::Holder;
use crate::smtp::session::Protocol;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct SmtpPeer {
    /// Number of the connection since the start, which ties its log lines together.
    pub(super) number: u64,
    pub(super) protocol: Protocol,
    /// Its address, or the one a proxy named; `None` on a unix socket.
    pub(super) ip: Option<IpAddr>,
    /// True if the bounds for strangers do not apply.
    pub(super) exempt: bool,
    /// True if it hands in the mail of other clients, which it may name.
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

    /// For whom the bytes of its mails are held in memory.
    pub(super) const fn holder(&self) -> Holder {
        match self.ip {
            Some(ip) if !self.exempt => Holder::Stranger(ip),
            _ => Holder::Trusted,
        }
    }

    pub(super) const fn protocol_name(&self) -> &'static str {
        protocol_name(self.protocol)
    }

    /// The address as the log has it.
    pub(super) fn log_address(&self) -> impl fmt::Display + use<> {
        self.ip
            .map_or_else(|| "local".to_owned(), |ip| ip.to_string())
    }
}

/// The protocol as log lines and metrics name it.
pub(super) const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Lmtp => "lmtp",
        Protocol::Smtp => "smtp",
    }
}
