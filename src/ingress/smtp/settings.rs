//! Owns the settings of the SMTP and LMTP server: its addresses and its bounds.
//!
//! Does not read the configuration.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::network::Network;
use crate::smtp::session::{self, Protocol};

/// The addresses of the server, and its bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The addresses, each with its protocol.
    pub listen: Vec<Listen>,
    /// Extensions and bounds of the sessions. The server itself sets the protocol, STARTTLS and bare
    /// newlines of each connection, and limits the recipients to those that the store accepts.
    pub session: session::Settings,
    /// The maximum number of concurrent connections, over all listeners. A further one replaces the longest
    /// idle connection that is not exempt, or receives 421 4.3.2. Exempt clients have an eighth more.
    pub connections_max: usize,
    /// The maximum number of concurrent connections from one IPv4 address or IPv6 /64. A further one
    /// receives 421 4.7.0.
    pub connections_per_network_max: usize,
    /// Networks without that limit, the limits of a session's time and bytes, and the wait before the
    /// greeting. An address that a proxy names is never exempt.
    pub exempt: Vec<Network>,
    /// Networks of proxies: a connection from there must begin with a PROXY header, which gives the
    /// client's address, but no trust.
    pub proxies: Vec<Network>,
    /// Networks whose bare LF are repaired ([`session::BareNewline::Normalize`]).
    pub lenient: Vec<Network>,
    /// Networks of relays. Their XCLIENT and XFORWARD are trusted; if they name no client, their own
    /// address says nothing about the sender.
    pub relays: Vec<Network>,
    /// True if clients of a unix socket are relays too.
    pub unix_relays: bool,
    /// Bytes of mail that all connections together hold in memory, divided as in
    /// [`MemoryLimits::shared`](crate::limits::MemoryLimits::shared). A mail above the limit receives 452
    /// 4.3.1.
    pub bytes_in_flight_max: usize,
    /// The time that an untrusted client has to wait for the greeting. A client that sends data before it
    /// receives 554 5.5.0. With zero only bytes that have already arrived are noticed.
    pub greeting_wait: Duration,
    /// The time limit of a client from one response to the end of its next command.
    pub idle_max: Duration,
    /// The same limit while the server is crowded.
    pub idle_crowded_max: Duration,
    /// The percentage of connection places in use above which the server counts as crowded.
    pub crowded_percent: usize,
    /// The time limit of a session.
    pub session_max: Duration,
    /// Bytes that a session may read. It ends with 421 after the mail that reaches the limit.
    pub session_bytes_max: u64,
    /// The time limit for writing the responses to one read.
    pub write_max: Duration,
    /// The time limit of a TLS handshake.
    pub handshake_max: Duration,
    /// The time limit for a proxy's header.
    pub proxy_header_max: Duration,
    /// The time over which the rate of a mail is measured, which is also the longest allowed pause.
    pub rate_grace: Duration,
    /// The minimum rate of a mail in bytes per second, over that time.
    pub rate_min: u32,
    /// The time limit of the store for a mail. After it the client receives 451 4.4.5.
    pub store_max: Duration,
    /// The time in which connections may finish their mail after the server begins to stop.
    pub drain_max: Duration,
    /// The maximum wait for a client to close after the last response, so that the client can read it.
    pub linger_max: Duration,
}

impl Settings {
    /// The default limits, without an address.
    pub fn new(hostname: String) -> Self {
        let session = session::Settings::new(hostname, Protocol::Smtp);
        Self {
            listen: Vec::new(),
            connections_max: 2_000,
            connections_per_network_max: 20,
            exempt: Network::LOOPBACK.to_vec(),
            proxies: Vec::new(),
            lenient: Vec::new(),
            relays: Vec::new(),
            unix_relays: false,
            bytes_in_flight_max: 512 * 1024 * 1024,
            greeting_wait: Duration::ZERO,
            idle_max: Duration::from_secs(300),
            idle_crowded_max: Duration::from_secs(10),
            crowded_percent: 80,
            session_max: Duration::from_secs(20 * 60),
            session_bytes_max: 8 * session.mail_bytes_max,
            write_max: Duration::from_secs(60),
            handshake_max: Duration::from_secs(10),
            proxy_header_max: Duration::from_secs(3),
            rate_grace: Duration::from_secs(30),
            rate_min: 500,
            store_max: Duration::from_secs(60),
            drain_max: Duration::from_secs(30),
            linger_max: Duration::from_secs(2),
            session,
        }
    }
}

/// A listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: ListenAddress,
    /// The protocol at the address.
    pub protocol: Protocol,
}

/// A listening address: `192.0.2.1:25`, `[::]:25` or `unix:/run/postern/lmtp.sock`.
///
/// An IPv6 address accepts no IPv4 connections: `0.0.0.0` and `[::]` must both be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a TCP port; with port 0 the system chooses one.
    Tcp(SocketAddr),
    /// The path of a unix socket. It gets mode 0660.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let wrong = || ListenAddressError(text.to_owned());
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
            Some(_) => Err(wrong()),
            None => text.parse().map(Self::Tcp).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The text is not a listening address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?}: not of the form address:port, [address]:port or unix:/path")]
pub struct ListenAddressError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_at_print_as_they_are_read() {
        for text in [
            "127.0.0.1:25",
            "[::1]:2525",
            "[::]:25",
            "unix:/run/lmtp.sock",
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "25",
            ":25",
            "localhost:25",
            "127.0.0.1",
            "unix:lmtp",
            "unix:",
            "/run/x",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
