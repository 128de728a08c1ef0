//! Owns the effect of each command on a session, and the order of commands.
//!
//! Does not parse commands.

use super::super::body::DataReader;
use super::super::client::{ATTRIBUTE_NAMES, RelayedClient};
use super::super::command::{ForwardPath, MailFrom, SmtpCommand};
use super::super::response::{PositiveResponse, Refusal, write_lines};
use super::super::transaction::OpenTransaction;
use super::{
    Hello, LineProgress, OpenQuestion, Protocol, Session, SessionQuestion, SessionState, Settings,
};

impl Session {
    pub(super) fn run(&mut self, line: &str, last: bool, out: &mut Vec<u8>) -> LineProgress {
        let command = match SmtpCommand::parse(line) {
            Ok(command) => command,
            Err(refusal) => {
                self.refuse(refusal, out);
                return LineProgress::GoesOn;
            }
        };
        match command {
            SmtpCommand::Bdat => self.refuse(Refusal::ChunkingNotOffered, out),
            SmtpCommand::Data => self.run_data(last, out),
            SmtpCommand::Ehlo(name) => self.run_hello(name, Some(Protocol::Smtp), out),
            SmtpCommand::Helo(name) => self.run_hello(name, None, out),
            SmtpCommand::Lhlo(name) => self.run_hello(name, Some(Protocol::Lmtp), out),
            SmtpCommand::Help => self.run_junk(PositiveResponse::Help, out),
            SmtpCommand::Noop => self.run_junk(PositiveResponse::Idle, out),
            SmtpCommand::Vrfy => self.run_junk(PositiveResponse::Unverified, out),
            SmtpCommand::Rset => {
                self.transaction = None;
                self.forwarded = None;
                self.run_junk(PositiveResponse::Cleared, out);
            }
            SmtpCommand::Quit => {
                PositiveResponse::Bye.write(out);
                self.state = SessionState::Closed;
            }
            SmtpCommand::Mail(mail) => return self.run_mail(mail, out),
            SmtpCommand::Rcpt(path) => return self.run_rcpt(path, out),
            SmtpCommand::StartTls => return self.run_starttls(out),
            SmtpCommand::Xclient(attributes) => self.run_xclient(&attributes, out),
            SmtpCommand::Xforward(attributes) => self.run_xforward(&attributes, out),
        }
        LineProgress::GoesOn
    }

    /// `extended` is the protocol of EHLO or LHLO; `None` is HELO.
    fn run_hello(&mut self, name: String, extended: Option<Protocol>, out: &mut Vec<u8>) {
        let Settings {
            protocol, hostname, ..
        } = &*self.settings;
        if extended.unwrap_or(Protocol::Smtp) != *protocol {
            return self.refuse(Refusal::CommandUnknown, out);
        }
        let mut lines = vec![hostname.clone()];
        if extended.is_some() {
            lines.extend(
                ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"].map(String::from),
            );
            lines.push(format!("SIZE {}", self.settings.mail_bytes_max));
            lines.push(format!("LIMITS RCPTMAX={}", self.settings.rcpt_max));
            if self.settings.offer_starttls && !self.tls {
                lines.push("STARTTLS".to_owned());
            }
            if self.settings.trusts_relay {
                let offers = ["XCLIENT", "XFORWARD"];
                lines.extend(offers.map(|verb| format!("{verb} {ATTRIBUTE_NAMES}")));
            }
        }
        write_lines(250, &lines, out);
        self.transaction = None;
        self.forwarded = None;
        self.hello = Some(Hello {
            name,
            extended: extended.is_some(),
        });
        self.count_junk(out);
    }

    fn run_mail(&mut self, mail: MailFrom, out: &mut Vec<u8>) -> LineProgress {
        let refusal = if self.hello.is_none() {
            Refusal::HelloMissing
        } else if self.transaction.is_some() {
            Refusal::MailNested
        } else if mail
            .size
            .is_some_and(|size| size > self.settings.mail_bytes_max)
        {
            // The peer asked before it sent the mail, as it should: this is not an error.
            self.respond(Refusal::MailTooBig, out);
            self.count_junk(out);
            return LineProgress::GoesOn;
        } else {
            let draft = OpenTransaction::new(mail.sender.clone(), mail.smtputf8);
            self.state = SessionState::Asked(OpenQuestion::Sender(draft));
            return LineProgress::Asks(SessionQuestion::Sender {
                sender: mail.sender,
                size: mail.size,
            });
        };
        self.refuse(refusal, out);
        LineProgress::GoesOn
    }

    fn run_rcpt(&mut self, path: ForwardPath, out: &mut Vec<u8>) -> LineProgress {
        let is_utf8 = matches!(&path, ForwardPath::Mailbox(address) if address.is_utf8());
        let refusal = match &self.transaction {
            None if self.hello.is_none() => Refusal::HelloMissing,
            None => Refusal::MailMissing,
            Some(draft) if is_utf8 && !draft.smtputf8 => Refusal::Utf8Unannounced,
            // The peer may continue with its recipients, but the number of further requests is limited.
            Some(draft) if draft.sender.is_none() && !draft.recipient_indices.is_empty() => {
                self.refuse_surplus(Refusal::NullSenderRecipients, out);
                return LineProgress::GoesOn;
            }
            Some(draft) if draft.recipient_indices.len() >= self.settings.rcpt_max => {
                self.refuse_surplus(Refusal::RecipientsTooMany, out);
                return LineProgress::GoesOn;
            }
            Some(_) => {
                self.state = SessionState::Asked(OpenQuestion::Recipient);
                return LineProgress::Asks(SessionQuestion::Recipient(path));
            }
        };
        self.refuse(refusal, out);
        LineProgress::GoesOn
    }

    fn run_data(&mut self, last: bool, out: &mut Vec<u8>) {
        let draft = self.transaction.as_ref();
        let refusal = if !last {
            // DATA ends a group of pipelined commands, whatever its response (RFC 2920 section 3.1). A peer
            // that sends more does not wait, and its mail would run as commands if DATA were refused.
            Refusal::SpokeTooEarly
        } else if self.hello.is_none() {
            Refusal::HelloMissing
        } else if draft.is_none() {
            Refusal::MailMissing
        } else if draft.is_some_and(|draft| draft.recipient_indices.is_empty()) {
            Refusal::RecipientMissing
        } else {
            self.state = SessionState::Body(Box::new(DataReader::new(&self.settings)));
            return PositiveResponse::DataWanted.write(out);
        };
        self.refuse(refusal, out);
    }

    fn run_starttls(&mut self, out: &mut Vec<u8>) -> LineProgress {
        let refusal = if self.tls {
            Refusal::TlsNested
        } else if !self.settings.offer_starttls {
            Refusal::CommandUnavailable
        } else if self.hello.is_none() {
            Refusal::HelloMissing
        } else if self.transaction.is_some() {
            Refusal::MailNested
        } else {
            PositiveResponse::TlsWanted.write(out);
            self.state = SessionState::Asked(OpenQuestion::StartTls);
            return LineProgress::Asks(SessionQuestion::StartTls);
        };
        self.refuse(refusal, out);
        LineProgress::GoesOn
    }

    /// Restarts the session as that of the client which XCLIENT names.
    fn run_xclient(&mut self, attributes: &str, out: &mut Vec<u8>) {
        let mut client = self.client.clone().unwrap_or_default();
        if let Err(refusal) = self.take_client(&mut client, attributes) {
            return self.refuse(refusal, out);
        }
        client.receives_responses = true;
        self.client = Some(client);
        self.forwarded = None;
        self.hello = None;
        self.greet(out);
        self.count_junk(out);
    }

    fn run_xforward(&mut self, attributes: &str, out: &mut Vec<u8>) {
        let mut client = self.forwarded.clone().unwrap_or_default();
        if let Err(refusal) = self.take_client(&mut client, attributes) {
            return self.refuse(refusal, out);
        }
        self.forwarded = Some(client);
        self.run_junk(PositiveResponse::Idle, out);
    }

    fn take_client(&self, client: &mut RelayedClient, attributes: &str) -> Result<(), Refusal> {
        if !self.settings.trusts_relay {
            return Err(Refusal::PeerUntrusted);
        }
        if self.transaction.is_some() {
            return Err(Refusal::MailNested);
        }
        client.apply(attributes)
    }

    fn run_junk(&mut self, assent: PositiveResponse, out: &mut Vec<u8>) {
        assent.write(out);
        self.count_junk(out);
    }

    pub(super) fn count_junk(&mut self, out: &mut Vec<u8>) {
        self.junk += 1;
        if self.junk >= self.settings.junk_max {
            self.close(Refusal::TooManyJunk, out);
        }
    }
}
