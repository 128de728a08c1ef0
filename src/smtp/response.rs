//! Owns every response that a peer can receive.
//!
//! Does not decide when a response is sent. No text of a peer or a mail is in one.

use std::fmt;

/// A response: a code, an enhanced code if RFC 2034 requires one, and a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    code: u16,
    /// Subject and detail (RFC 3463). The class is the first digit of `code`, so that the two cannot
    /// contradict each other.
    enhanced: Option<[u16; 2]>,
    text: &'static str,
}

impl Response {
    const fn new(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        Self {
            code,
            enhanced: Some([subject, detail]),
            text,
        }
    }

    /// The three digits.
    pub const fn code(self) -> u16 {
        self.code
    }

    /// The text.
    pub const fn text(self) -> &'static str {
        self.text
    }
}

impl fmt::Display for Response {
    /// Writes the line that the peer receives, without its line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some([subject, detail]) = self.enhanced {
            write!(f, "{}.{subject}.{detail} ", self.code / 100)?;
        }
        f.write_str(self.text)
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $metric:literal $code:literal $subject:literal $detail:literal $text:literal;)*) => {
        /// Every refusal that a peer can receive.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            /// All refusals, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable name in metrics and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $metric,)*
                }
            }

            /// The response that the peer receives.
            pub const fn response(self) -> Response {
                match self {
                    $(Self::$name => Response::new($code, $subject, $detail, $text),)*
                }
            }
        }
    };
}

refusals! {
    /// A command without a required argument, or with an unexpected one.
    ArgumentMalformed = "argument_malformed" 501 5 4 "syntax error in the argument";
    /// The mail's sender fails its own domain's DMARC policy.
    AuthenticationFailed = "authentication_failed" 550 7 26 "the sender's domain asks to refuse mail that fails its checks";
    /// A mail whose From field names no single author.
    AuthorUnclear = "author_unclear" 550 7 1 "the From field must name one author";
    /// A mail by an author who may not be allowed to write here.
    AuthorUnverified = "author_unverified" 550 7 1 "the author of this mail could not be verified";
    /// A bare CR or LF in a mail. The session cannot continue safely, because the following bytes may be
    /// smuggled.
    BareNewline = "bare_newline" 521 5 2 "lines end in CRLF and nothing else, closing";
    /// A bare CR in a mail from a network whose bare LF are repaired; a bare CR is not.
    BareReturn = "bare_return" 550 6 0 "the mail has a carriage return without a line feed";
    /// Too much mail is in flight.
    Busy = "busy" 452 3 1 "too much mail at once, try again later";
    /// The checks between the end of a mail and its response took too long; the mail was not stored.
    CheckTooSlow = "check_too_slow" 451 4 5 "could not check the mail in time, try again later";
    /// BDAT, which is not supported. The following chunk must not run as commands.
    ChunkingNotOffered = "chunking_not_offered" 502 5 1 "BDAT is not offered, closing";
    /// A command line with a bare CR or LF, a control character, or invalid UTF-8.
    CommandMalformed = "command_malformed" 500 5 2 "not a command line";
    /// A command line that is too long.
    CommandTooLong = "command_too_long" 500 5 2 "command line too long";
    /// A known command that is not supported.
    CommandUnavailable = "command_unavailable" 502 5 1 "command not offered";
    /// An unknown command, or one of the other protocol.
    CommandUnknown = "command_unknown" 500 5 1 "command not known";
    /// A mail that arrives more slowly than the minimum rate.
    DataTooSlow = "data_too_slow" 421 4 2 "the mail arrives too slowly, closing";
    /// A client that speaks HTTP, TLS or SSH.
    ForeignProtocol = "foreign_protocol" 554 5 0 "not a mail protocol, closing";
    /// A header block with too many octets or fields.
    HeaderTooBig = "header_too_big" 552 3 4 "the mail's header is too big";
    /// MAIL before EHLO, HELO or LHLO.
    HelloMissing = "hello_missing" 503 5 1 "send EHLO, HELO or LHLO first";
    /// EHLO, HELO or LHLO without a name, or with one too long.
    HelloNameMalformed = "hello_name_malformed" 501 5 4 "the argument must be the name of your host";
    /// A peer that was idle for too long.
    IdleTooLong = "idle_too_long" 421 4 2 "no command for too long, closing";
    /// An internal error.
    InternalError = "internal_error" 421 3 0 "internal error, closing, try again later";
    /// A mail that has passed too many hosts.
    LoopDetected = "loop_detected" 554 4 6 "too many hops, the mail is in a loop";
    /// A mail without any octet.
    MailEmpty = "mail_empty" 550 6 0 "the mail is empty";
    /// A line of a mail that is too long.
    MailLineTooLong = "mail_line_too_long" 550 6 0 "the mail has a line that is too long";
    /// A NUL in a mail.
    MailNul = "mail_nul" 550 6 0 "the mail has a NUL octet";
    /// MAIL while a transaction is open.
    MailNested = "mail_nested" 503 5 1 "MAIL is already given";
    /// RCPT or DATA before MAIL.
    MailMissing = "mail_missing" 503 5 1 "send MAIL first";
    /// A mail that is too large.
    MailTooBig = "mail_too_big" 552 3 4 "the mail exceeds the size limit";
    /// A null sender with more than one recipient: a bounce has only one (RFC 5321 section 4.5.5).
    NullSenderRecipients = "null_sender_recipients" 452 5 3 "one recipient at a time for the null sender";
    /// A parameter with an invalid value, or given twice.
    ParameterMalformed = "parameter_malformed" 501 5 4 "bad parameter value";
    /// A parameter of an extension that is not supported.
    ParameterUnknown = "parameter_unknown" 555 5 4 "parameter not known";
    /// A peer that is denied access.
    PeerDenied = "peer_denied" 554 7 1 "access denied";
    /// XCLIENT or XFORWARD from a peer that is not trusted.
    PeerUntrusted = "peer_untrusted" 550 7 0 "not allowed for this client";
    /// DATA without an accepted recipient.
    RecipientMissing = "recipient_missing" 503 5 1 "no valid recipient";
    /// A malformed forward-path.
    RecipientSyntax = "recipient_syntax" 501 1 3 "bad recipient address syntax";
    /// An unknown address in one of our domains.
    RecipientUnknown = "recipient_unknown" 550 1 1 "no such recipient";
    /// A recipient beyond the limit of a mail.
    RecipientsTooMany = "recipients_too_many" 452 5 3 "too many recipients";
    /// A recipient in a foreign domain.
    RelayDenied = "relay_denied" 550 7 1 "relay access denied";
    /// The sender's domain does not exist or accepts no mail.
    SenderDomainMissing = "sender_domain_missing" 550 1 8 "the sender's domain does not exist";
    /// The sender's domain declares that it accepts no mail (RFC 7505).
    SenderDomainNullMx = "sender_domain_null_mx" 550 7 27 "the sender's domain accepts no mail";
    /// The sender's domain could not be looked up.
    SenderDomainUnsure = "sender_domain_unsure" 451 1 8 "could not look up the sender's domain, try again later";
    /// A sender that is denied.
    SenderDenied = "sender_denied" 550 7 1 "sender denied";
    /// A malformed reverse-path.
    SenderSyntax = "sender_syntax" 501 1 7 "bad sender address syntax";
    /// The limit of connections is reached.
    ServerFull = "server_full" 421 3 2 "too many connections, try again later";
    /// The session as a whole took too long.
    SessionTooLong = "session_too_long" 421 4 2 "the session takes too long, closing";
    /// The server is shutting down.
    ShuttingDown = "shutting_down" 421 3 2 "shutting down, try again later";
    /// Bytes sent when the peer had to wait: before the greeting, or a mail before the 354 (RFC 2920
    /// section 3.1).
    SpokeTooEarly = "spoke_too_early" 554 5 0 "wait for the response before you continue, closing";
    /// The disk is full or nearly full.
    StoreFull = "store_full" 452 3 1 "no room for mail now, try again later";
    /// The store cannot accept a mail now.
    StoreUnavailable = "store_unavailable" 451 3 0 "cannot store mail now, try again later";
    /// STARTTLS within TLS.
    TlsNested = "tls_nested" 503 5 1 "TLS is already active";
    /// TLS could not be started.
    TlsUnavailable = "tls_unavailable" 454 7 0 "TLS is not available now";
    /// A token of ours that has expired.
    TokenExpired = "token_expired" 550 7 1 "this reply address has expired, please write to us again";
    /// A token that is not ours. The text is that of an unknown recipient, so that an attacker learns
    /// nothing.
    TokenForged = "token_forged" 550 1 1 "no such recipient";
    /// A token of ours, minted more than a day ahead of our clock: the sender should try again.
    TokenNotYetValid = "token_not_yet_valid" 451 7 1 "this reply address is not valid yet, try again later";
    /// A revoked token.
    TokenRevoked = "token_revoked" 550 7 1 "this reply address is no longer in use, please write to us again";
    /// The connection limit of the peer's address or network is reached.
    TooManyConnections = "too_many_connections" 421 7 0 "too many connections from your network, try again later";
    /// The limit of invalid commands is reached.
    TooManyErrors = "too_many_errors" 421 7 0 "too many errors, closing";
    /// The limit of commands without a mail is reached.
    TooManyJunk = "too_many_junk" 421 7 0 "too many commands without a mail, closing";
    /// The limit of refused senders and recipients is reached.
    TooManyRefused = "too_many_refused" 421 7 0 "too many refused addresses, closing";
    /// A UTF-8 address in a transaction without SMTPUTF8 (RFC 6531 section 3.5).
    Utf8Unannounced = "utf8_unannounced" 553 6 7 "a UTF-8 address needs SMTPUTF8";
}

impl Refusal {
    /// True if the session ends with this response.
    pub const fn closes(self) -> bool {
        matches!(self.response().code, 421 | 521)
            || matches!(
                self,
                Self::ChunkingNotOffered
                    | Self::ForeignProtocol
                    | Self::PeerDenied
                    | Self::SpokeTooEarly
            )
    }

    /// True if the peer should not retry (5xx).
    pub const fn is_permanent(self) -> bool {
        self.response().code >= 500
    }

    /// Appends the line that the peer receives.
    pub fn write(self, out: &mut Vec<u8>) {
        write_line(&self.response().to_string(), out);
    }
}

/// The positive responses of one line and fixed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PositiveResponse {
    Bye,
    Cleared,
    DataWanted,
    Help,
    Idle,
    RecipientTaken,
    SenderTaken,
    Stored,
    TlsWanted,
    Unverified,
}

impl PositiveResponse {
    const fn response(self) -> Response {
        match self {
            Self::Bye => Response::new(221, 0, 0, "goodbye"),
            Self::Cleared => Response::new(250, 0, 0, "cleared"),
            // RFC 2034 defines no enhanced code for 3xx.
            Self::DataWanted => Response {
                code: 354,
                enhanced: None,
                text: "send the mail, end with a dot on a line of its own",
            },
            Self::Help => Response::new(214, 0, 0, "see RFC 5321"),
            Self::Idle => Response::new(250, 0, 0, "ok"),
            Self::RecipientTaken => Response::new(250, 1, 5, "recipient ok"),
            Self::SenderTaken => Response::new(250, 1, 0, "sender ok"),
            Self::Stored => Response::new(250, 0, 0, "stored"),
            Self::TlsWanted => Response::new(220, 0, 0, "go ahead with TLS"),
            Self::Unverified => Response::new(252, 5, 2, "send mail and see"),
        }
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        write_line(&self.response().to_string(), out);
    }
}

/// Appends the positive response to a mail, with its id in our queue.
pub(super) fn write_stored(name: &str, out: &mut Vec<u8>) {
    const NAME_BYTES_MAX: usize = 64;
    let sayable = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|octet| octet.is_ascii_graphic());
    let mut line = PositiveResponse::Stored.response().to_string();
    if sayable {
        line.push_str(" as ");
        line.push_str(name);
    }
    write_line(&line, out);
}

/// Appends the greeting or the response to EHLO, HELO or LHLO: `lines` under one code, without enhanced
/// codes (RFC 2034 section 4).
pub(super) fn write_lines(code: u16, lines: &[String], out: &mut Vec<u8>) {
    for (at, line) in lines.iter().enumerate() {
        let mark = if at + 1 == lines.len() { ' ' } else { '-' };
        write_line(&format!("{code}{mark}{line}"), out);
    }
}

fn write_line(line: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Octets of a reply line (RFC 5321 section 4.5.3.1.5).
    const LINE_BYTES_MAX: usize = 512;

    #[test]
    fn every_refusal_is_one_good_line() {
        for refusal in Refusal::ALL {
            let mut out = Vec::new();
            refusal.write(&mut out);
            let line = String::from_utf8(out).unwrap();
            let (code, rest) = line.split_once(' ').unwrap();
            assert!(matches!(code.parse(), Ok(400..=559)), "{line}");
            assert_eq!(rest[..1], code[..1], "{line}");
            assert_eq!(rest.split(' ').next().unwrap().split('.').count(), 3);
            assert!(line.len() <= LINE_BYTES_MAX && line.is_ascii());
            assert!(line.ends_with("\r\n") && line.matches(char::is_control).count() == 2);
        }
    }

    #[test]
    fn names_are_unique_and_snake_case() {
        let names: HashSet<_> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
        let fits =
            |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'_';
        assert!(names.iter().all(|name| name.bytes().all(fits)));
        for refusal in Refusal::ALL {
            let camel = format!("{refusal:?}").to_lowercase();
            assert_eq!(refusal.name().replace('_', ""), camel);
        }
    }

    #[test]
    fn a_forged_token_has_the_response_of_an_unknown_recipient() {
        assert_eq!(
            Refusal::TokenForged.response(),
            Refusal::RecipientUnknown.response()
        );
    }

    #[test]
    fn a_name_that_could_break_the_line_is_left_out() {
        for name in ["", "a b", "1\r\n250 x", "ü", &"1".repeat(65)] {
            let mut out = Vec::new();
            write_stored(name, &mut out);
            assert_eq!(out, b"250 2.0.0 stored\r\n");
        }
        let mut out = Vec::new();
        write_stored("1042", &mut out);
        assert_eq!(out, b"250 2.0.0 stored as 1042\r\n");
    }
}
