//! Owns one conversation with a relay: greeting, TLS, who we are, and one mail after the other.
//!
//! Does not choose the relay and does not decide when a mail is tried again. One command at a time:
//! what arrives before it was asked for ends the conversation, for nobody can tell what it answers.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use thiserror::Error;

use super::reply::{Reader, Reply, ReplyError, cut};
use super::settings::{Login, Mechanism, Proof, Relay, Security, Timeouts, read_token};
use super::wire::Wire;
use super::{Attempt, Letter};
use crate::mail::address::Address;

/// Octets of a mail that are written in one go, within one time-out.
const BLOCK_BYTES: usize = 64 * 1024;
/// The step whose lines hold a password: of their answers no word is kept.
const AUTH: &str = "AUTH";
/// The steps of one mail.
const MAIL: &str = "MAIL";
const RCPT: &str = "RCPT";
const DATA: &str = "DATA";
const END: &str = "the answer to the mail";
/// How long a farewell may take.
const QUIT_WAIT: Duration = Duration::from_millis(500);

/// An open conversation, between two mails.
pub(super) struct Connection {
    wire: Wire,
    timeouts: Timeouts,
    reader: Reader,
    /// What came and is not read yet.
    input: Vec<u8>,
    extensions: Extensions,
    /// When all of the attempt must be over.
    until: Instant,
    /// How many mails it carried.
    pub(super) mails: u32,
    pub(super) opened: Instant,
    /// When it was last used.
    pub(super) rested: Instant,
}

/// What the relay said it can do (RFC 1869).
#[derive(Debug, Default)]
struct Extensions {
    starttls: bool,
    eight_bit: bool,
    utf8: bool,
    /// The longest mail it takes; 0 if it does not tell.
    size: u64,
    auth: Vec<String>,
}

impl Extensions {
    fn of(reply: &Reply) -> Self {
        let mut found = Self::default();
        for line in reply.lines().skip(1) {
            let line = String::from_utf8_lossy(line).to_ascii_uppercase();
            // Old servers write AUTH=LOGIN.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            match words.next() {
                Some("STARTTLS") => found.starttls = true,
                Some("8BITMIME") => found.eight_bit = true,
                Some("SMTPUTF8") => found.utf8 = true,
                Some("SIZE") => found.size = words.next().and_then(|n| n.parse().ok()).unwrap_or(0),
                Some("AUTH") => found.auth.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        found
    }
}

/// Why a conversation came to nothing. The relay's trouble, not the mail's.
#[derive(Debug, Error)]
pub(super) enum Fault {
    /// The network, or a time-out.
    #[error("{step}: {}", spoken(error))]
    Io {
        step: &'static str,
        error: io::Error,
    },
    /// What came is no reply.
    #[error("{step}: {error}")]
    Reply {
        step: &'static str,
        error: ReplyError,
    },
    /// What came is no reply, and may not be told.
    #[error("{0}: not a reply")]
    Unread(&'static str),
    /// It said something before it was asked.
    #[error("{0}: bytes that nothing asked for")]
    Unasked(&'static str),
    /// It does not want us.
    #[error("{step}: {reply}")]
    Refused { step: &'static str, reply: String },
    /// We do not want it.
    #[error("{0}")]
    Unfit(String),
}

impl Fault {
    /// True if the relay broke off at a step that is not about the recipient.
    pub(super) fn is_about_all(&self) -> bool {
        match self {
            Self::Io { step, .. }
            | Self::Reply { step, .. }
            | Self::Refused { step, .. }
            | Self::Unread(step)
            | Self::Unasked(step) => *step != RCPT,
            Self::Unfit(_) => true,
        }
    }
}

/// What a conversation came to for one mail.
pub(super) struct Told {
    /// What came of it.
    pub(super) attempt: Attempt,
    /// The step that the relay refused with a reply, if it did: nothing was handed over.
    pub(super) refused: Option<Refusal>,
    /// The conversation can go on.
    pub(super) rests: bool,
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// MAIL: who sends.
    Sender,
    /// RCPT: to whom.
    Recipient,
    /// DATA, or the end of the mail.
    Content,
}

impl Refusal {
    fn of(step: &str) -> Self {
        match step {
            MAIL => Self::Sender,
            RCPT => Self::Recipient,
            _ => Self::Content,
        }
    }
}

fn spoken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        _ => cut(error.to_string().escape_debug().to_string()),
    }
}

impl Connection {
    /// Connects, greets, encrypts and logs in.
    pub(super) fn open(
        relay: &Relay,
        hello: &str,
        timeouts: Timeouts,
        until: Instant,
    ) -> Result<Self, Fault> {
        let wire = Wire::connect(&relay.host, relay.port, timeouts.connect, until);
        let wire = wire.map_err(|error| Fault::Io {
            step: "connect",
            error,
        })?;
        let now = Instant::now();
        let mut connection = Self {
            wire,
            timeouts,
            reader: Reader::default(),
            input: Vec::new(),
            extensions: Extensions::default(),
            until,
            mails: 0,
            opened: now,
            rested: now,
        };
        if relay.security == Security::Implicit {
            connection.encrypt(relay)?;
        }
        connection.allow(timeouts.greeting);
        let greeting = connection.hear("greeting")?;
        wanted(&greeting, "greeting", 220)?;
        connection.greet(hello)?;
        connection.secure(relay, hello)?;
        if let Some(login) = &relay.login {
            connection.log_in(login)?;
        }
        Ok(connection)
    }

    /// Takes up a conversation that rested. A connection that is not as it was left is no good.
    pub(super) fn resume(&mut self, until: Instant) -> Result<(), Fault> {
        self.until = until;
        let unasked = self.wire.look().map_err(|error| Fault::Io {
            step: "RSET",
            error,
        })?;
        if !unasked.is_empty() {
            return Err(Fault::Unasked("RSET"));
        }
        let reply = self.ask("RSET", "RSET")?;
        wanted(&reply, "RSET", 250)?;
        if !self.input.is_empty() {
            return Err(Fault::Unasked("RSET"));
        }
        Ok(())
    }

    /// Sends one mail to one person.
    ///
    /// # Errors
    /// The conversation came to nothing before the relay waited for the mail: nothing was handed over,
    /// and the conversation is over. `Unfit`: so would be the next one.
    pub(super) fn send(&mut self, letter: &Letter<'_>) -> Result<Told, Fault> {
        let refused = self.envelope(letter)?;
        let told = match refused {
            None => self.content(letter),
            Some(refused) => Ok(refused),
        };
        self.mails += 1;
        self.rested = Instant::now();
        let is_clean = self.input.is_empty();
        let (attempt, refused, rests) = match told {
            Ok(Refused::Not(attempt)) => (attempt, None, is_clean),
            Ok(Refused::By(step, reply)) => {
                let rests = is_clean && reply.code() != 421;
                (refusal(&reply), Some(Refusal::of(step)), rests)
            }
            Err(fault) => (Attempt::again(fault.to_string()), None, false),
        };
        Ok(Told {
            attempt,
            refused,
            rests,
        })
    }

    /// Says goodbye, and does not wait for long.
    pub(super) fn quit(mut self) {
        self.until = Instant::now() + QUIT_WAIT;
        self.allow(QUIT_WAIT);
        // Whether it hears us makes no difference to us.
        let _ = self.wire.write_all(b"QUIT\r\n");
        let _ = self.wire.flush();
    }

    // The beginning.

    fn greet(&mut self, hello: &str) -> Result<(), Fault> {
        let reply = self.ask("EHLO", &format!("EHLO {hello}"))?;
        wanted(&reply, "EHLO", 250)?;
        self.extensions = Extensions::of(&reply);
        Ok(())
    }

    fn secure(&mut self, relay: &Relay, hello: &str) -> Result<(), Fault> {
        let is_local = self.wire.is_loopback();
        let wants = match relay.security {
            Security::Implicit => false,
            Security::Auto => !is_local,
            Security::StartTls => !is_local || self.extensions.starttls,
            Security::None if is_local => false,
            Security::None => {
                let what = "it is not on this machine, and tls is none";
                return Err(Fault::Unfit(what.to_owned()));
            }
        };
        if !wants {
            return Ok(());
        }
        if !self.extensions.starttls {
            let what = "it does not offer STARTTLS, and nothing is sent to it without";
            return Err(Fault::Unfit(what.to_owned()));
        }
        let reply = self.ask("STARTTLS", "STARTTLS")?;
        wanted(&reply, "STARTTLS", 220)?;
        // Whatever is there by now was written by someone who could read and write the plain text.
        if !self.input.is_empty() {
            return Err(Fault::Unasked("STARTTLS"));
        }
        self.encrypt(relay)?;
        // What was said before the encryption is forgotten (RFC 3207 section 4.2).
        self.extensions = Extensions::default();
        self.greet(hello)
    }

    fn encrypt(&mut self, relay: &Relay) -> Result<(), Fault> {
        self.allow(self.timeouts.connect);
        let name = relay.name.clone();
        let started = self.wire.start_tls(&relay.roots, name);
        started.map_err(|error| Fault::Io { step: "TLS", error })
    }

    fn log_in(&mut self, login: &Login) -> Result<(), Fault> {
        if !self.wire.is_encrypted() && !self.wire.is_loopback() {
            let what = "the password is not sent without TLS";
            return Err(Fault::Unfit(what.to_owned()));
        }
        let offers = |name: &str| self.extensions.auth.iter().any(|offered| offered == name);
        let reply = match &login.proof {
            Proof::Token(path) => {
                if !offers("XOAUTH2") {
                    return Err(Fault::Unfit("it does not offer AUTH XOAUTH2".to_owned()));
                }
                let token = read_token(path).map_err(|error| Fault::Io {
                    step: "token file",
                    error,
                })?;
                let words = format!("user={}\x01auth=Bearer {token}\x01\x01", login.user);
                let words = BASE64.encode(words.as_bytes());
                let reply = self.ask(AUTH, &format!("AUTH XOAUTH2 {words}"))?;
                match reply.code() {
                    // The error is in the challenge; an empty line has it told.
                    334 => self.ask(AUTH, "")?,
                    _ => reply,
                }
            }
            Proof::Password {
                password,
                mechanisms,
            } => {
                let found = mechanisms.iter().find(|mechanism| offers(mechanism.name()));
                match found {
                    Some(Mechanism::Plain) => {
                        let words = format!("\0{}\0{password}", login.user);
                        let words = BASE64.encode(words.as_bytes());
                        self.ask(AUTH, &format!("AUTH PLAIN {words}"))?
                    }
                    Some(Mechanism::Login) => self.log_in_by_questions(&login.user, password)?,
                    None => {
                        let names: Vec<_> = mechanisms.iter().map(|m| m.name()).collect();
                        let what = format!("it does not offer AUTH {}", names.join(" or "));
                        return Err(Fault::Unfit(what));
                    }
                }
            }
        };
        login_taken(&reply, 235)
    }

    fn log_in_by_questions(&mut self, user: &str, password: &str) -> Result<Reply, Fault> {
        login_taken(&self.ask(AUTH, "AUTH LOGIN")?, 334)?;
        login_taken(&self.ask(AUTH, &BASE64.encode(user.as_bytes()))?, 334)?;
        self.ask(AUTH, &BASE64.encode(password.as_bytes()))
    }

    // One mail.

    /// Everything before the mail itself; `None` if the relay waits for it now.
    fn envelope(&mut self, letter: &Letter<'_>) -> Result<Option<Refused>, Fault> {
        let never = |what: String| Ok(Some(Refused::Not(Attempt::never(what))));
        let (from, from_utf8) = letter.from.map_or_else(Default::default, on_the_wire);
        let (to, to_utf8) = on_the_wire(letter.to);
        let size = self.extensions.size;
        if size > 0 && letter.bytes as u64 > size {
            return never(format!(
                "the mail has {} octets, and the relay takes {size}",
                letter.bytes
            ));
        }
        let mut mail = format!("MAIL FROM:<{from}>");
        if size > 0 {
            mail.push_str(&format!(" SIZE={}", letter.bytes));
        }
        if letter.is_eight_bit {
            if !self.extensions.eight_bit {
                return never("the mail has octets above 127, and the relay takes none".to_owned());
            }
            mail.push_str(" BODY=8BITMIME");
        }
        if from_utf8 || to_utf8 {
            if !self.extensions.utf8 {
                return never("an address needs SMTPUTF8, and the relay lacks it".to_owned());
            }
            mail.push_str(" SMTPUTF8");
        }
        for (step, line) in [(MAIL, mail), (RCPT, format!("RCPT TO:<{to}>"))] {
            let reply = self.ask(step, &line)?;
            if !reply.is_yes() {
                return Ok(Some(self.refused(step, reply)?));
            }
        }
        let reply = self.ask(DATA, "DATA")?;
        match reply.code() {
            354 => Ok(None),
            _ => Ok(Some(self.refused(DATA, reply)?)),
        }
    }

    /// The mail itself and its end. From the moment its end may be on its way nobody but the relay
    /// knows whether it has the mail.
    fn content(&mut self, letter: &Letter<'_>) -> Result<Refused, Fault> {
        const STEP: &str = "the mail";
        let (blocks, last) = match letter.wire.len().checked_sub(1) {
            Some(end) => letter.wire.split_at(end / BLOCK_BYTES * BLOCK_BYTES),
            None => (&[][..], &[][..]),
        };
        for block in blocks.chunks(BLOCK_BYTES) {
            self.allow(self.timeouts.command);
            self.write(block)
                .map_err(|error| Fault::Io { step: STEP, error })?;
        }
        // An answer that is there before the end is asked about must not be taken for the one to it.
        let early = self.wire.look();
        let early = early.map_err(|error| Fault::Io { step: STEP, error })?;
        if !early.is_empty() || !self.input.is_empty() {
            return Err(Fault::Unasked(STEP));
        }
        self.allow(self.timeouts.command);
        if let Err(error) = self.write(last) {
            let why = format!("the end of the mail: {}", spoken(&error));
            return Ok(Refused::Not(Attempt::Unknown { why }));
        }
        self.allow(self.timeouts.end);
        match self.hear(END) {
            Ok(reply) if reply.is_yes() => Ok(Refused::Not(Attempt::Sent {
                reply: reply.shown(),
            })),
            Ok(reply) if reply.code() >= 400 => Ok(Refused::By(END, reply)),
            Ok(reply) => {
                let why = format!("{END}: {}", reply.shown());
                // Where such an answer comes from, the next one has no meaning either.
                self.input.push(b'?');
                Ok(Refused::Not(Attempt::Unknown { why }))
            }
            Err(fault) => {
                let why = fault.to_string();
                self.input.push(b'?');
                Ok(Refused::Not(Attempt::Unknown { why }))
            }
        }
    }

    /// A refusal of the mail if it is one; what ends the conversation is a fault.
    fn refused(&self, step: &'static str, reply: Reply) -> Result<Refused, Fault> {
        // RFC 4954 section 6: it wants a login or encryption, which is no fault of the mail.
        let is_about_us = step == MAIL && matches!(reply.code(), 530 | 534 | 535 | 538);
        if is_about_us {
            return Err(Fault::Unfit(format!("{step}: {}", reply.shown())));
        }
        // It is going down (RFC 5321 section 3.8), or says what no step can have for an answer.
        if reply.code() < 400 || reply.code() == 421 {
            return Err(Fault::Refused {
                step,
                reply: reply.shown(),
            });
        }
        Ok(Refused::By(step, reply))
    }

    // Lines.

    fn ask(&mut self, step: &'static str, line: &str) -> Result<Reply, Fault> {
        if !self.input.is_empty() {
            return Err(Fault::Unasked(step));
        }
        if line.contains(['\r', '\n', '\0']) {
            return Err(Fault::Unfit(format!("{step}: a line end in a command")));
        }
        self.allow(self.timeouts.command);
        self.write(format!("{line}\r\n").as_bytes())
            .map_err(|error| Fault::Io { step, error })?;
        self.hear(step)
    }

    fn hear(&mut self, step: &'static str) -> Result<Reply, Fault> {
        let mut buffer = [0; 4096];
        loop {
            let read = self.reader.read(&self.input);
            let (read, reply) = read.map_err(|error| match error {
                // What is no reply may repeat the password as well.
                ReplyError::Code(_) if step == AUTH => Fault::Unread(step),
                error => Fault::Reply { step, error },
            })?;
            self.input.drain(..read);
            if let Some(reply) = reply {
                return Ok(reply);
            }
            let count = match self.wire.read(&mut buffer) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            let count = count.map_err(|error| Fault::Io { step, error })?;
            self.input.extend_from_slice(&buffer[..count]);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes)?;
        self.wire.flush()
    }

    /// The next step may take so long.
    fn allow(&mut self, limit: Duration) {
        self.wire
            .set_deadline((Instant::now() + limit).min(self.until));
    }
}

/// What came of a step.
enum Refused {
    /// The relay said no at this step.
    By(&'static str, Reply),
    /// It is decided in another way.
    Not(Attempt),
}

impl Mechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }
}

fn refusal(reply: &Reply) -> Attempt {
    if reply.is_never() {
        return Attempt::Never {
            code: Some(reply.code()),
            reply: reply.shown(),
        };
    }
    Attempt::again(reply.shown())
}

fn wanted(reply: &Reply, step: &'static str, code: u16) -> Result<(), Fault> {
    if reply.code() == code {
        return Ok(());
    }
    Err(Fault::Refused {
        step,
        reply: reply.shown(),
    })
}

fn login_taken(reply: &Reply, code: u16) -> Result<(), Fault> {
    if reply.code() == code {
        return Ok(());
    }
    Err(Fault::Refused {
        step: AUTH,
        reply: reply.status(),
    })
}

/// An address as a command has it, and whether that needs SMTPUTF8. A domain alone never does.
fn on_the_wire(address: &Address) -> (String, bool) {
    let text = address.to_string();
    if text.is_ascii() {
        return (text, false);
    }
    let local = text.rsplit_once('@').map_or("", |(local, _)| local);
    let domain = address.domain().ascii();
    if local.is_ascii() && domain.is_ascii() {
        return (format!("{local}@{domain}"), false);
    }
    (text, true)
}
