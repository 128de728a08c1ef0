//! Owns the limits and words of one listener.
//!
//! Does not read configuration.

/// The extensions and bounds of one listener's sessions.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name in the greeting: a domain of at most 255 octets.
    pub hostname: String,
    /// The protocol that is spoken.
    pub protocol: Protocol,
    /// STARTTLS is offered (RFC 3207). Leave it off where the connection begins in TLS.
    pub offer_starttls: bool,
    /// The peer is a relay that may say with XCLIENT and XFORWARD who the client is.
    pub trusts_relay: bool,
    /// The treatment of a line feed that has no carriage return before it.
    pub bare_newline: BareNewline,
    /// Octets of one mail, as SIZE counts them (RFC 1870 section 5).
    pub mail_bytes_max: u64,
    /// Octets of one line of a mail, its CRLF included.
    pub mail_line_bytes_max: usize,
    /// Octets of a mail's header block.
    pub header_bytes_max: usize,
    /// Fields of a mail's header block.
    pub header_fields_max: usize,
    /// Received fields, beyond which a mail is taken to go round in a loop (RFC 5321 section 6.3).
    pub received_max: usize,
    /// Recipients of one mail. RFC 5321 section 4.5.3.1.8 asks for 100.
    pub rcpt_max: usize,
    /// Broken, unknown or misplaced commands until the session is ended.
    pub errors_max: u32,
    /// Commands that bring no mail forward until the session is ended; a stored mail clears the count.
    pub junk_max: u32,
    /// Senders and recipients, refused for good or beyond the limit of a mail, after which the session is
    /// ended.
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

/// The two protocols a session can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// LMTP (RFC 2033).
    Lmtp,
    /// SMTP (RFC 5321).
    Smtp,
}

/// The treatment of a line feed that has no carriage return before it.
///
/// Servers that disagree on where a line ends disagree on where a mail ends, and in the gap a second
/// mail is smuggled. So with either choice a mail ends at the five octets CR LF `.` CR LF and nowhere
/// else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareNewline {
    /// In a mail: 521, and the session ends. In a command: 500, to that line and to the next one up to
    /// its CRLF.
    Refuse,
    /// For networks the operator names, whose programs cannot do better.
    ///
    /// A bare LF ends a command line. In a mail it ends a line of text, is kept as CRLF, and a dot
    /// that begins the next line is removed as it is on any line (RFC 5321 section 4.5.2); but
    /// a dot alone between two line ends of which one is a bare LF is an empty line, never the
    /// end. A bare CR is not mended: the mail is read to its end and refused there.
    Normalize,
}
