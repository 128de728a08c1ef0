//! Owns the limits and the names of one listener.
//!
//! Does not read configuration.

/// The extensions and bounds of one listener's sessions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name in the greeting: a domain of at most 255 octets.
    pub hostname: String,
    /// The protocol of the listener.
    pub protocol: Protocol,
    /// True if STARTTLS is offered (RFC 3207); false for connections that begin in TLS.
    pub offer_starttls: bool,
    /// True if the peer is a relay that may name its client with XCLIENT and XFORWARD.
    pub trusts_relay: bool,
    /// The treatment of a bare LF.
    pub bare_newline: BareNewline,
    /// Octets of one mail, as SIZE counts them (RFC 1870 section 5).
    pub mail_bytes_max: u64,
    /// Octets of one line of a mail, its CRLF included.
    pub mail_line_bytes_max: usize,
    /// Octets of a mail's header block.
    pub header_bytes_max: usize,
    /// Fields of a mail's header block.
    pub header_fields_max: usize,
    /// The number of Received fields above which a mail is in a loop (RFC 5321 section 6.3).
    pub received_max: usize,
    /// Recipients of one mail. RFC 5321 section 4.5.3.1.8 asks for 100.
    pub rcpt_max: usize,
    /// Invalid, unknown or misplaced commands after which the session ends.
    pub errors_max: u32,
    /// Commands without a mail after which the session ends; a stored mail resets the count.
    pub junk_max: u32,
    /// Senders and recipients, refused permanently or above the limit of a mail, after which the session
    /// ends.
    pub refused_max: u32,
}

impl Settings {
    /// The default limits, without STARTTLS.
    pub const fn new(hostname: String, protocol: Protocol) -> Self {
        Self {
            hostname,
            protocol,
            offer_starttls: false,
            trusts_relay: false,
            bare_newline: BareNewline::Refuse,
            mail_bytes_max: 25 * 1024 * 1024,
            mail_line_bytes_max: 16 * 1024,
            header_bytes_max: 256 * 1024,
            header_fields_max: 1000,
            received_max: 50,
            rcpt_max: 100,
            errors_max: 10,
            junk_max: 50,
            refused_max: 20,
        }
    }
}

/// The two protocols of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// LMTP (RFC 2033).
    Lmtp,
    /// SMTP (RFC 5321).
    Smtp,
}

/// The treatment of a bare LF, without a carriage return before it.
///
/// If two servers disagree on the end of a line, they disagree on the end of a mail, and a second mail can
/// be smuggled in between. So with either choice a mail ends only at the five octets CR LF `.` CR LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareNewline {
    /// In a mail: 521, and the session ends. In a command: 500, for that line and for the next one up to
    /// its CRLF.
    Refuse,
    /// For configured networks with programs that cannot be corrected.
    ///
    /// A bare LF ends a command line. In a mail it ends a line of text and is stored as CRLF, and a dot at
    /// the start of the next line is removed as on any line (RFC 5321 section 4.5.2); but a single dot
    /// between two line ends of which one is a bare LF is an empty line, never the end. A bare CR is not
    /// repaired: the mail is read to its end and refused there.
    Normalize,
}
