//! Owns the server's side of one SMTP or LMTP conversation, from greeting to goodbye.
//!
//! Bytes go in, bytes come out; no clock and no socket is ever touched. When a decision belongs to
//! someone else, the session asks and reads nothing more until it is answered: what was pipelined
//! behind the question stays in `input`.

use std::fmt;
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

/// The server's side of one conversation.
///
/// The order of calls: [`greet`](Self::greet), then [`feed`](Self::feed) until the end, doing after each
/// what its [`SessionStep`] says. Whatever the step, `out` is to be sent sooner or later, in order; before
/// waiting for bytes it must be. Where the step is a question, the `answer_*` method of its kind comes
/// before the next `feed`, which goes on with what is left of the input, be it nothing: the answer may
/// have ended the session.
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

/// The next step, as the session wants it.
#[derive(Debug)]
pub enum SessionStep {
    /// All of `input` is used up: send `out`, bring more bytes.
    NeedInput,
    /// `out` has grown to its bound: send it, empty it, and feed what is left of `input`.
    Flush,
    /// A decision that belongs to the caller. The session reads nothing until the matching
    /// `answer_*` call; `out` may be sent before or after it.
    Ask(SessionQuestion),
    /// Send `out`, then close. `input` is of no more use.
    Close,
}

/// A question that the session cannot answer alone.
#[derive(Debug)]
pub enum SessionQuestion {
    /// MAIL is well-formed: may a mail come now?
    Sender {
        /// The reverse-path; `None` is the null sender.
        sender: Option<Address>,
        /// Octets the mail will have, if the peer named it.
        size: Option<u64>,
    },
    /// Is this recipient ours?
    Recipient(ForwardPath),
    /// The mail is whole. Put it on disk before you say yes: one answer for each of its recipients.
    Store(Transaction),
    /// Send `out` (it is plain text), drop what is left in `input` unread, shake hands, then call
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
    /// For each answer owed, its place among the mail's recipients.
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

    /// Reads `input`, advancing it past what was used, up to the next step.
    ///
    /// # Panics
    /// If a question is open.
    pub fn feed(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> SessionStep {
        // A peer that pipelines and does not read must not make us hold its answers. One command adds
        // less than 1 KiB, the end of a mail at most one line of 512 octets a recipient.
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
    /// If that is not the question open.
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
    /// If that is not the question open.
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

    /// Answers [`SessionQuestion::Store`]: one answer a recipient of the transaction, in order. `Ok` holds
    /// the mail's name in our queue, which stands in the 250.
    ///
    /// SMTP has one answer for all, the first refusal if there is one. LMTP has one for each RCPT.
    /// A recipient without an answer is answered that mail cannot be stored now.
    ///
    /// # Panics
    /// If that is not the question open.
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

    /// The handshake is done. Everything the peer sent before is forgotten (RFC 3207 section 4.2), and
    /// STARTTLS is no longer offered. For a connection that begins in TLS, call it before
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

    /// Octets of memory that the mail in DATA holds now: what the caller counts against its budget.
    /// 0 outside DATA.
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

    /// True from an accepted MAIL to the answer to its mail: a shutdown may wait for it.
    pub const fn in_transaction(&self) -> bool {
        self.transaction.is_some()
            || matches!(
                self.state,
                SessionState::Body(_) | SessionState::Asked(OpenQuestion::Store(_))
            )
    }

    /// True once the conversation has ended.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, SessionState::Closed)
    }

    /// The name in the hello of the peer, as it came. See [`Transaction::helo`].
    pub fn helo(&self) -> Option<&str> {
        self.hello.as_ref().map(|hello| hello.name.as_str())
    }

    /// Refuses the mail in DATA for want of room: the rest of it is read and thrown away, and its
    /// end is answered with `refusal`, unless the mail has a fault of its own. Outside DATA the
    /// call has no effect.
    pub fn refuse_data(&mut self, refusal: Refusal) {
        if let SessionState::Body(body) = &mut self.state {
            body.refuse(refusal);
        }
    }

    /// Says `refusal` (a 421) and is closed, whatever was going on: a question that is open must not
    /// be answered any more. In place of [`greet`](Self::greet) it turns a peer away. Says nothing if
    /// it was closed already.
    pub fn close(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        if !self.is_closed() {
            self.respond(refusal, out);
            self.state = SessionState::Closed;
        }
    }

    /// The refusals since the last call, in order, for counters and the log: answers passed in and
    /// refusals of the session's own. At most 256 are kept.
    pub fn take_refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    fn take_question(&mut self) -> SessionState {
        std::mem::replace(&mut self.state, SessionState::Commands)
    }

    fn end_body(&mut self, end: DataEnd, out: &mut Vec<u8>) -> LineProgress {
        self.state = SessionState::Commands;
        // DATA is read only with a hello and a draft.
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
        // Said for every recipient, or an LMTP client waits for the rest; told once.
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
    /// Leaves out the peer's words, which hold addresses and so tokens.
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
