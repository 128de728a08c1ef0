//! Owns what each command does to a session, and in which order commands may come.
//!
//! Does not know their grammar.

use super::super::body::Body;
use super::super::client::{ATTRIBUTES, Client};
use super::super::command::{Command, ForwardPath, Mail};
use super::super::response::{Assent, Refusal, write_lines};
use super::super::transaction::Draft;
use super::{Asked, Hello, Progress, Protocol, Question, Session, Settings, State};

impl Session {
    pub(super) fn run(&mut self, line: &str, last: bool, out: &mut Vec<u8>) -> Progress {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(refusal) => {
                self.refuse(refusal, out);
                return Progress::GoesOn;
            }
        };
        match command {
            Command::Bdat => self.refuse(Refusal::ChunkingNotOffered, out),
            Command::Data => self.run_data(last, out),
            Command::Ehlo(name) => self.run_hello(name, Some(Protocol::Smtp), out),
            Command::Helo(name) => self.run_hello(name, None, out),
            Command::Lhlo(name) => self.run_hello(name, Some(Protocol::Lmtp), out),
            Command::Help => self.run_junk(Assent::Help, out),
            Command::Noop => self.run_junk(Assent::Idle, out),
            Command::Vrfy => self.run_junk(Assent::Unverified, out),
            Command::Rset => {
                self.draft = None;
                self.forwarded = None;
                self.run_junk(Assent::Cleared, out);
            }
            Command::Quit => {
                Assent::Bye.write(out);
                self.state = State::Closed;
            }
            Command::Mail(mail) => return self.run_mail(mail, out),
            Command::Rcpt(path) => return self.run_rcpt(path, out),
            Command::StartTls => return self.run_starttls(out),
            Command::Xclient(attributes) => self.run_xclient(&attributes, out),
            Command::Xforward(attributes) => self.run_xforward(&attributes, out),
        }
        Progress::GoesOn
    }

    /// `extended`: the protocol whose hello it is; `None` is HELO.
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
                lines.extend(offers.map(|verb| format!("{verb} {ATTRIBUTES}")));
            }
        }
        write_lines(250, &lines, out);
        self.draft = None;
        self.forwarded = None;
        self.hello = Some(Hello {
            name,
            extended: extended.is_some(),
        });
        self.count_junk(out);
    }

    fn run_mail(&mut self, mail: Mail, out: &mut Vec<u8>) -> Progress {
        let refusal = if self.hello.is_none() {
            Refusal::HelloMissing
        } else if self.draft.is_some() {
            Refusal::MailNested
        } else if mail
            .size
            .is_some_and(|size| size > self.settings.mail_bytes_max)
        {
            // It asked before it sent, as it should: that is no error.
            self.say(Refusal::MailTooBig, out);
            self.count_junk(out);
            return Progress::GoesOn;
        } else {
            let draft = Draft::new(mail.sender.clone(), mail.smtputf8);
            self.state = State::Asked(Asked::Sender(draft));
            return Progress::Asks(Question::Sender {
                sender: mail.sender,
                size: mail.size,
            });
        };
        self.refuse(refusal, out);
        Progress::GoesOn
    }

    fn run_rcpt(&mut self, path: ForwardPath, out: &mut Vec<u8>) -> Progress {
        let is_utf8 = matches!(&path, ForwardPath::Mailbox(address) if address.is_utf8());
        let refusal = match &self.draft {
            None if self.hello.is_none() => Refusal::HelloMissing,
            None => Refusal::MailMissing,
            Some(draft) if is_utf8 && !draft.smtputf8 => Refusal::Utf8Unannounced,
            // Neither of the next two is the peer's error: it may go on with whom it has.
            Some(draft) if draft.sender.is_none() && !draft.places.is_empty() => {
                self.say(Refusal::NullSenderRecipients, out);
                return Progress::GoesOn;
            }
            Some(draft) if draft.places.len() >= self.settings.rcpt_max => {
                self.say(Refusal::RecipientsTooMany, out);
                return Progress::GoesOn;
            }
            Some(_) => {
                self.state = State::Asked(Asked::Recipient);
                return Progress::Asks(Question::Recipient(path));
            }
        };
        self.refuse(refusal, out);
        Progress::GoesOn
    }

    fn run_data(&mut self, last: bool, out: &mut Vec<u8>) {
        let draft = self.draft.as_ref();
        let refusal = if !last {
            // DATA ends a group of pipelined commands, whatever its answer (RFC 2920 section 3.1). Who
            // sends more is not listening, and its mail would run as commands were DATA refused.
            Refusal::SpokeTooEarly
        } else if self.hello.is_none() {
            Refusal::HelloMissing
        } else if draft.is_none() {
            Refusal::MailMissing
        } else if draft.is_some_and(|draft| draft.places.is_empty()) {
            Refusal::RecipientMissing
        } else {
            self.state = State::Body(Box::new(Body::new(&self.settings)));
            return Assent::DataWanted.write(out);
        };
        self.refuse(refusal, out);
    }

    fn run_starttls(&mut self, out: &mut Vec<u8>) -> Progress {
        let refusal = if self.tls {
            Refusal::TlsNested
        } else if !self.settings.offer_starttls {
            Refusal::CommandUnavailable
        } else if self.hello.is_none() {
            Refusal::HelloMissing
        } else if self.draft.is_some() {
            Refusal::MailNested
        } else {
            Assent::TlsWanted.write(out);
            self.state = State::Asked(Asked::StartTls);
            return Progress::Asks(Question::StartTls);
        };
        self.refuse(refusal, out);
        Progress::GoesOn
    }

    /// The session begins anew, as the client that was told of would begin it.
    fn run_xclient(&mut self, attributes: &str, out: &mut Vec<u8>) {
        let mut client = self.client.clone().unwrap_or_default();
        if let Err(refusal) = self.take_client(&mut client, attributes) {
            return self.refuse(refusal, out);
        }
        client.hears_us = true;
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
        self.run_junk(Assent::Idle, out);
    }

    fn take_client(&self, client: &mut Client, attributes: &str) -> Result<(), Refusal> {
        if !self.settings.trusts_relay {
            return Err(Refusal::PeerUntrusted);
        }
        if self.draft.is_some() {
            return Err(Refusal::MailNested);
        }
        client.take(attributes)
    }

    fn run_junk(&mut self, assent: Assent, out: &mut Vec<u8>) {
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
