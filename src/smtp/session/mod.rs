//! Owns the server side of one SMTP or LMTP session, from greeting to close.
//!
//! Bytes go in and bytes come out, without clock or socket. If a decision belongs to the caller, the
//! session asks and reads nothing more until the answer: pipelined bytes after the question stay in
//! `input`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::mail::address::Address;
use crate::mail::envelope::Recipient;

use super::body::{DataEnd, DataReader};
use super::line::{LineError, LineReader};
use super::response::{PositiveResponse, Refusal, write_lines, write_stored};
use super::transaction::OpenTransaction;

mod commands;

pub use super::client::RelayedClient;
pub use super::command::ForwardPath;
pub use super::settings::{BareNewline, Protocol, Settings};
pub use super::transaction::Transaction;

/// The server side of one session.
///
/// The order of calls: [`greet`](Self::greet), then [`feed`](Self::feed) until the end; after each the
/// caller does what the [`SessionStep`] requires. `out` must be sent, in order, before the caller waits for
/// more bytes. If the step is a question, the matching `answer_*` method must be called before the next
/// `feed`, which continues with the rest of the input, even if that is empty, because the answer may have
/// ended the session.
pub struct Session {
    settings: Arc<Settings>,
    state: SessionState,
    lines: LineReader,
    hello: Option<Hello>,
    transaction: Option<OpenTransaction>,
    /// The client that XCLIENT named, for the whole connection.
    client: Option<RelayedClient>,
    /// The client that XFORWARD named, for one mail.
    forwarded: Option<RelayedClient>,
    tls: bool,
    errors: u32,
    junk: u32,
    refused: u32,
    lines_too_long: u32,
    refusals: Vec<Refusal>,
}

/// The next step that the session requires.
#[derive(Debug)]
pub enum SessionStep {
    /// All of `input` is used up: send `out` and read more bytes.
    NeedInput,
    /// `out` has reached its bound: send and clear it, and feed the rest of `input`.
    Flush,
    /// A decision of the caller. The session reads nothing until the matching `answer_*` call; `out` may be
    /// sent before or after it.
    Ask(SessionQuestion),
    /// Send `out`, then close. The rest of `input` is discarded.
    Close,
}

/// A question that the session cannot answer alone.
#[derive(Debug)]
pub enum SessionQuestion {
    /// MAIL is well-formed: may this sender begin a mail?
    Sender {
        /// The reverse-path; `None` is the null sender.
        sender: Option<Address>,
        /// The size in octets that the peer declared, if any.
        size: Option<u64>,
    },
    /// Is this recipient ours?
    Recipient(ForwardPath),
    /// The mail is complete. It must be on disk before the answer; one answer is needed for each recipient.
    Store(Transaction),
    /// Send `out` (in plain text), discard the rest of `input` unread, do the handshake, then call
    /// [`Session::tls_started`]. If the handshake fails, close.
    StartTls,
}

enum SessionState {
    Asked(OpenQuestion),
    Body(Box<DataReader>),
    Closed,
    Commands,
}

enum OpenQuestion {
    Recipient,
    Sender(OpenTransaction),
    StartTls,
    /// For each pending response, the index of the recipient.
    Store(Vec<usize>),
}

#[derive(Clone)]
struct Hello {
    name: String,
    extended: bool,
}

/// The effect of one piece of input.
enum LineProgress {
    Asks(SessionQuestion),
    GoesOn,
    NeedsInput,
}

impl Session {
    /// A session before its greeting.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            lines: LineReader::new(settings.bare_newline),
            settings,
            state: SessionState::Commands,
            hello: None,
            transaction: None,
            client: None,
            forwarded: None,
            tls: false,
            errors: 0,
            junk: 0,
            refused: 0,
            lines_too_long: 0,
            refusals: Vec::new(),
        }
    }

    /// Appends the greeting.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        let protocol = match self.settings.protocol {
            Protocol::Lmtp => "LMTP",
            Protocol::Smtp => "ESMTP",
        };
        write_lines(
            220,
            &[format!("{} {protocol}", self.settings.hostname)],
            out,
        );
    }

    /// Reads `input`, advancing it past the used bytes, up to the next step.
    ///
    /// # Panics
    /// If a question is open.
    pub fn feed(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> SessionStep {
        // A peer that pipelines without reading must not make us buffer its responses. One command adds
        // less than 1 KiB, the end of a mail at most one line of 512 octets per recipient.
        const OUT_BYTES_MAX: usize = 16 * 1024;
        loop {
            let progress = match &mut self.state {
                SessionState::Closed => return SessionStep::Close,
                SessionState::Asked(_) => panic!("a question is open"),
                _ if out.len() >= OUT_BYTES_MAX => return SessionStep::Flush,
                SessionState::Body(body) => match body.read(input) {
                    None => LineProgress::NeedsInput,
                    Some(end) => self.end_body(end, out),
                },
                SessionState::Commands => match self.lines.next(input) {
                    None => LineProgress::NeedsInput,
                    Some(Ok(line)) => self.run(&line, input.is_empty(), out),
                    Some(Err(error)) => {
                        self.refuse_line(error, out);
                        LineProgress::GoesOn
                    }
                },
            };
            match progress {
                LineProgress::Asks(question) => return SessionStep::Ask(question),
                LineProgress::GoesOn => {}
                LineProgress::NeedsInput => return SessionStep::NeedInput,
            }
        }
    }

    /// Answers [`SessionQuestion::Sender`].
    ///
    /// # Panics
    /// If another question, or none, is open.
    pub fn answer_sender(&mut self, answer: Result<(), Refusal>, out: &mut Vec<u8>) {
        let SessionState::Asked(OpenQuestion::Sender(draft)) = self.take_question() else {
            panic!("no question about a sender is open");
        };
        match answer {
            Ok(()) => {
                self.transaction = Some(draft);
                PositiveResponse::SenderTaken.write(out);
            }
            Err(refusal) => {
                self.refuse_address(refusal, out);
                self.count_junk(out);
            }
        }
    }

    /// Answers [`SessionQuestion::Recipient`].
    ///
    /// # Panics
    /// If another question, or none, is open.
    pub fn answer_recipient(&mut self, answer: Result<Recipient, Refusal>, out: &mut Vec<u8>) {
        let SessionState::Asked(OpenQuestion::Recipient) = self.take_question() else {
            panic!("no question about a recipient is open");
        };
        match (answer, &mut self.transaction) {
            (Ok(recipient), Some(draft)) => {
                draft.add(recipient);
                PositiveResponse::RecipientTaken.write(out);
            }
            (Ok(_), None) => self.refuse(Refusal::MailMissing, out),
            (Err(refusal), _) => self.refuse_address(refusal, out),
        }
    }

    /// Answers [`SessionQuestion::Store`]: one answer for each recipient of the transaction, in order. `Ok`
    /// is the mail's id in our queue, which the 250 contains.
    ///
    /// SMTP sends one response for all recipients: the first refusal, if there is one. LMTP sends one for
    /// each RCPT. A recipient without an answer gets the response that mail cannot be stored now.
    ///
    /// # Panics
    /// If another question, or none, is open.
    pub fn answer_store(&mut self, answers: &[Result<String, Refusal>], out: &mut Vec<u8>) {
        let SessionState::Asked(OpenQuestion::Store(places)) = self.take_question() else {
            panic!("no question about a mail is open");
        };
        let answer = |place: usize| match answers.get(place) {
            Some(Ok(name)) => Ok(name.as_str()),
            Some(Err(refusal)) => Err(*refusal),
            None => Err(Refusal::StoreUnavailable),
        };
        let mut answers: Vec<_> = places.into_iter().map(answer).collect();
        if self.settings.protocol == Protocol::Smtp {
            let first_no = answers.iter().position(Result::is_err).unwrap_or(0);
            answers.swap(0, first_no);
            answers.truncate(1);
        }
        for answer in answers {
            match answer {
                Ok(name) => {
                    write_stored(name, out);
                    self.junk = 0;
                }
                Err(refusal) => self.respond(refusal, out),
            }
        }
    }

    /// Records the end of the handshake. Everything that the peer sent before is forgotten (RFC 3207
    /// section 4.2), and STARTTLS is no longer offered. For a connection that begins in TLS, call it before
    /// [`greet`](Self::greet).
    pub fn tls_started(&mut self) {
        self.tls = true;
        self.hello = None;
        self.transaction = None;
        self.client = None;
        self.forwarded = None;
        self.lines.clear();
        if !matches!(self.state, SessionState::Closed) {
            self.state = SessionState::Commands;
        }
    }

    /// Octets of memory that the mail in DATA uses now, for the caller's memory budget; 0 outside DATA.
    pub fn data_bytes(&self) -> usize {
        match &self.state {
            SessionState::Body(body) => body.bytes_held(),
            _ => 0,
        }
    }

    /// True between the 354 and the final dot.
    pub const fn in_data(&self) -> bool {
        matches!(self.state, SessionState::Body(_))
    }

    /// True from an accepted MAIL to the response to its mail: a shutdown may wait for it.
    pub const fn in_transaction(&self) -> bool {
        self.transaction.is_some()
            || matches!(
                self.state,
                SessionState::Body(_) | SessionState::Asked(OpenQuestion::Store(_))
            )
    }

    /// True after the session has ended.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, SessionState::Closed)
    }

    /// The peer's name in EHLO, HELO or LHLO, unchanged. See [`Transaction::helo`].
    pub fn helo(&self) -> Option<&str> {
        self.hello.as_ref().map(|hello| hello.name.as_str())
    }

    /// Refuses the mail in DATA for lack of memory: the rest is read and discarded, and the response at its
    /// end is `refusal`, unless the mail has an error of its own. Outside DATA the call has no effect.
    pub fn refuse_data(&mut self, refusal: Refusal) {
        if let SessionState::Body(body) = &mut self.state {
            body.refuse(refusal);
        }
    }

    /// Sends `refusal` (a 421) and closes, in any state: an open question must not be answered any more. In
    /// place of [`greet`](Self::greet) it rejects a connection. Sends nothing if the session was closed
    /// already.
    pub fn close(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        if !self.is_closed() {
            self.respond(refusal, out);
            self.state = SessionState::Closed;
        }
    }

    /// The refusals since the last call, in order, for counters and the log: those of the caller and those
    /// of the session. At most 256 are kept.
    pub fn take_refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    /// The address of the client that a relay has named for the current mail, or for the connection.
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.forwarded.as_ref().or(self.client.as_ref())?.ip
    }

    fn take_question(&mut self) -> SessionState {
        std::mem::replace(&mut self.state, SessionState::Commands)
    }

    fn end_body(&mut self, end: DataEnd, out: &mut Vec<u8>) -> LineProgress {
        self.state = SessionState::Commands;
        // DATA is read only after EHLO, HELO or LHLO and MAIL.
        let (Some(draft), Some(hello)) = (self.transaction.take(), self.hello.clone()) else {
            self.close(Refusal::InternalError, out);
            return LineProgress::GoesOn;
        };
        let forwarded = self.forwarded.take();
        let refusal = match end {
            DataEnd::BareNewline => Refusal::BareNewline,
            DataEnd::Refused(refusal) => refusal,
            DataEnd::Whole(bytes) => {
                self.state = SessionState::Asked(OpenQuestion::Store(draft.recipient_indices));
                return LineProgress::Asks(SessionQuestion::Store(Transaction {
                    sender: draft.sender,
                    recipients: draft.recipients,
                    smtputf8: draft.smtputf8,
                    helo: hello.name,
                    extended: hello.extended,
                    client: forwarded.or_else(|| self.client.clone()),
                    bytes,
                }));
            }
        };
        let answers = match self.settings.protocol {
            Protocol::Lmtp => draft.recipient_indices.len(),
            Protocol::Smtp => 1,
        };
        // Sent for every recipient, because an LMTP client waits for all responses; counted once.
        (1..answers).for_each(|_| refusal.write(out));
        self.respond(refusal, out);
        LineProgress::GoesOn
    }

    fn refuse_line(&mut self, error: LineError, out: &mut Vec<u8>) {
        match error {
            LineError::Foreign => self.refuse(Refusal::ForeignProtocol, out),
            LineError::Malformed => self.refuse(Refusal::CommandMalformed, out),
            LineError::TooLong => {
                self.refuse(Refusal::CommandTooLong, out);
                self.lines_too_long += 1;
                if self.lines_too_long > 1 {
                    self.close(Refusal::TooManyErrors, out);
                }
            }
        }
    }

    /// Refuses a command for an error of the peer.
    fn refuse(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        self.respond(refusal, out);
        self.errors += 1;
        if self.errors >= self.settings.errors_max {
            self.close(Refusal::TooManyErrors, out);
        }
    }

    /// Refuses a sender or a recipient.
    fn refuse_address(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        self.respond(refusal, out);
        self.count_refused(u32::from(refusal.is_permanent()), out);
    }

    /// Refuses a recipient beyond those that a mail may have.
    fn refuse_surplus(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        self.respond(refusal, out);
        self.count_refused(1, out);
    }

    fn count_refused(&mut self, addresses: u32, out: &mut Vec<u8>) {
        self.refused += addresses;
        if self.refused >= self.settings.refused_max {
            self.close(Refusal::TooManyRefused, out);
        }
    }

    fn respond(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        const REFUSALS_MAX: usize = 256;
        refusal.write(out);
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.push(refusal);
        }
        if refusal.closes() {
            self.state = SessionState::Closed;
        }
    }
}

impl fmt::Debug for Session {
    /// Leaves out the peer's input, which contains addresses and so tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("protocol", &self.settings.protocol)
            .field("tls", &self.tls)
            .field("in_data", &self.in_data())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
