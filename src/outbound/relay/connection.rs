//! Owns one SMTP session with a relay: greeting, TLS, authentication, and one mail after the other.
//!
//! Does not choose the relay and does not decide when a mail is retried. One command at a time:
//! unsolicited data ends the session, because nobody can tell which command it answers.

use std::io;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use prometheus_client::metrics::gauge::Gauge;

use super::error::{RCPT, RelayError, describe_io_error};
use super::reply::{RelayReply, RelayReplyError, RelayReplyReader};
use super::settings::{
    PasswordMechanism, Relay, RelayCredentials, RelayLogin, RelaySecurity, RelayTimeouts,
};
use super::wire::RelayTransport;
use super::{RelayMail, SendOutcome};
use crate::client::{plain_response, read_token_file, xoauth2_response};
use crate::mail::address::Address;

/// Octets of a mail that are written at a time, within one time-out.
const BLOCK_BYTES: usize = 64 * 1024;
/// The step whose lines contain a password: no text of its replies is kept.
const AUTH: &str = "AUTH";
/// Names of the steps of one mail.
const MAIL: &str = "MAIL";
const DATA: &str = "DATA";
const END: &str = "the answer to the mail";
/// The longest time for QUIT.
const QUIT_WAIT: Duration = Duration::from_millis(500);

/// An open session, between two mails.
pub(super) struct RelayConnection {
    wire: RelayTransport,
    timeouts: RelayTimeouts,
    reader: RelayReplyReader,
    /// Data that was received and is not parsed yet.
    input: Vec<u8>,
    extensions: EhloExtensions,
    /// The deadline of the whole attempt.
    deadline: Instant,
    /// The number of mails sent in this session.
    pub(super) mails: u32,
    pub(super) opened: Instant,
    /// Time of the last use.
    pub(super) last_used: Instant,
    _open: CountedConnection,
}

/// The extensions that the relay offers (RFC 5321 section 4.1.1.1).
#[derive(Debug, Default)]
struct EhloExtensions {
    starttls: bool,
    eight_bit_mime: bool,
    smtputf8: bool,
    /// The largest mail that the relay accepts; 0 if it does not say.
    size: u64,
    auth: Vec<String>,
}

impl EhloExtensions {
    fn of(reply: &RelayReply) -> Self {
        let mut found = Self::default();
        for line in reply.lines().skip(1) {
            let line = String::from_utf8_lossy(line).to_ascii_uppercase();
            // Old servers write AUTH=LOGIN.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            match words.next() {
                Some("STARTTLS") => found.starttls = true,
                Some("8BITMIME") => found.eight_bit_mime = true,
                Some("SMTPUTF8") => found.smtputf8 = true,
                Some("SIZE") => found.size = words.next().and_then(|n| n.parse().ok()).unwrap_or(0),
                Some("AUTH") => found.auth.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        found
    }
}

/// The result of a session for one mail.
pub(super) struct MailResult {
    /// The outcome for the mail.
    pub(super) outcome: SendOutcome,
    /// The scope of the relay's refusal, if it refused: nothing was transferred.
    pub(super) refusal: Option<RefusalScope>,
    /// True if the session can be used again.
    pub(super) is_reusable: bool,
}

/// The subject of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalScope {
    /// MAIL: the sender is refused.
    Sender,
    /// RCPT: the recipient is refused.
    Recipient,
    /// DATA or the end of the mail: the content is refused.
    Content,
}

impl RefusalScope {
    fn of(step: &str) -> Self {
        match step {
            MAIL => Self::Sender,
            RCPT => Self::Recipient,
            _ => Self::Content,
        }
    }
}

impl RelayConnection {
    /// Connects, greets, starts TLS and authenticates.
    pub(super) async fn open(
        relay: &Relay,
        hello: &str,
        timeouts: RelayTimeouts,
        until: Instant,
        open: &Gauge,
    ) -> Result<Self, RelayError> {
        let wire = RelayTransport::connect(&relay.host, relay.port, timeouts.connect, until);
        let wire = wire.await.map_err(|error| RelayError::Io {
            step: "connect",
            error,
        })?;
        let now = Instant::now();
        let mut connection = Self {
            wire,
            timeouts,
            reader: RelayReplyReader::default(),
            input: Vec::new(),
            extensions: EhloExtensions::default(),
            deadline: until,
            mails: 0,
            opened: now,
            last_used: now,
            _open: CountedConnection::new(open),
        };
        if relay.security == RelaySecurity::Implicit {
            connection.start_tls(relay).await?;
        }
        connection.set_timeout(timeouts.greeting);
        let greeting = connection.read_reply("greeting").await?;
        expect_code(&greeting, "greeting", 220)?;
        connection.ehlo(hello).await?;
        connection.negotiate_tls(relay, hello).await?;
        if let Some(login) = &relay.login {
            connection.authenticate(login).await?;
        }
        Ok(connection)
    }

    /// Prepares an idle session for the next mail. A session that is not in its last state cannot
    /// be used.
    pub(super) async fn resume(&mut self, until: Instant) -> Result<(), RelayError> {
        self.deadline = until;
        self.set_timeout(self.timeouts.command);
        let unsolicited = self.wire.read_unsolicited().await;
        let unsolicited = unsolicited.map_err(|error| RelayError::Io {
            step: "RSET",
            error,
        })?;
        if !unsolicited.is_empty() {
            return Err(RelayError::UnexpectedData("RSET"));
        }
        let reply = self.command("RSET", "RSET").await?;
        expect_code(&reply, "RSET", 250)?;
        if !self.input.is_empty() {
            return Err(RelayError::UnexpectedData("RSET"));
        }
        Ok(())
    }

    /// Sends one mail to one recipient. Once `cancelled` resolves, the session is over unless the end of
    /// the mail is on its way.
    ///
    /// # Errors
    /// The session failed before the relay asked for the mail: nothing was transferred, and the
    /// session is over. After `Unsuitable` the next one would fail too.
    pub(super) async fn send(
        &mut self,
        mail: &RelayMail<'_>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<MailResult, RelayError> {
        let refused = tokio::select! {
            biased;
            refused = self.send_until_end(mail) => refused?,
            () = cancelled => return Err(RelayError::Cancelled),
        };
        // Once its end is on the way, nothing can take the mail back.
        let result = match refused {
            None => self.send_end(mail).await,
            Some(refused) => refused,
        };
        self.mails += 1;
        self.last_used = Instant::now();
        let is_clean = self.input.is_empty();
        let (outcome, refusal, is_reusable) = match result {
            Ok(StepResult::Decided(outcome)) => (outcome, None, is_clean),
            Ok(StepResult::Refused(step, reply)) => {
                let is_reusable = is_clean && reply.code() != 421;
                let scope = RefusalScope::of(step);
                (refusal_outcome(&reply), Some(scope), is_reusable)
            }
            Err(error) => (SendOutcome::temporary(error.to_string()), None, false),
        };
        Ok(MailResult {
            outcome,
            refusal,
            is_reusable,
        })
    }

    /// Sends QUIT, and does not wait for the reply.
    pub(super) async fn quit(mut self) {
        self.deadline = Instant::now() + QUIT_WAIT;
        self.set_timeout(QUIT_WAIT);
        // The result does not matter.
        let _ = self.wire.write_all(b"QUIT\r\n").await;
    }

    // Session set-up.

    async fn ehlo(&mut self, hello: &str) -> Result<(), RelayError> {
        let reply = self.command("EHLO", &format!("EHLO {hello}")).await?;
        expect_code(&reply, "EHLO", 250)?;
        self.extensions = EhloExtensions::of(&reply);
        Ok(())
    }

    async fn negotiate_tls(&mut self, relay: &Relay, hello: &str) -> Result<(), RelayError> {
        let is_local = self.wire.is_loopback();
        let needs_tls = match relay.security {
            RelaySecurity::Implicit => false,
            RelaySecurity::Auto => !is_local,
            RelaySecurity::StartTls => !is_local || self.extensions.starttls,
            RelaySecurity::None if is_local => false,
            RelaySecurity::None => {
                let what = "it is not on this machine, and tls is none";
                return Err(RelayError::Unsuitable(what.to_owned()));
            }
        };
        if !needs_tls {
            return Ok(());
        }
        if !self.extensions.starttls {
            let what = "it does not offer STARTTLS, and nothing is sent to it without";
            return Err(RelayError::Unsuitable(what.to_owned()));
        }
        let reply = self.command("STARTTLS", "STARTTLS").await?;
        expect_code(&reply, "STARTTLS", 220)?;
        // Data that is here by now was written by someone who can read and change the plain text.
        if !self.input.is_empty() {
            return Err(RelayError::UnexpectedData("STARTTLS"));
        }
        self.start_tls(relay).await?;
        // Extensions from before the encryption are discarded (RFC 3207 section 4.2).
        self.extensions = EhloExtensions::default();
        self.ehlo(hello).await
    }

    async fn start_tls(&mut self, relay: &Relay) -> Result<(), RelayError> {
        self.set_timeout(self.timeouts.connect);
        let name = relay.server_name.clone();
        let started = self.wire.start_tls(&relay.tls_config, name).await;
        started.map_err(|error| RelayError::Io { step: "TLS", error })
    }

    async fn authenticate(&mut self, login: &RelayLogin) -> Result<(), RelayError> {
        if !self.wire.is_encrypted() && !self.wire.is_loopback() {
            let what = "the password is not sent without TLS";
            return Err(RelayError::Unsuitable(what.to_owned()));
        }
        let offers = |name: &str| self.extensions.auth.iter().any(|offered| offered == name);
        let reply = match &login.credentials {
            RelayCredentials::Token(path) => {
                if !offers("XOAUTH2") {
                    return Err(RelayError::Unsuitable(
                        "it does not offer AUTH XOAUTH2".to_owned(),
                    ));
                }
                let token = read_token_file(path)
                    .await
                    .map_err(|error| RelayError::Io {
                        step: "token file",
                        error,
                    })?;
                let response = xoauth2_response(&login.user, &token);
                let reply = self
                    .command(AUTH, &format!("AUTH XOAUTH2 {response}"))
                    .await?;
                match reply.code() {
                    // The challenge carries the error; an empty line makes the relay send its final
                    // reply.
                    334 => self.command(AUTH, "").await?,
                    _ => reply,
                }
            }
            RelayCredentials::Password {
                password,
                mechanisms,
            } => {
                let found = mechanisms.iter().find(|mechanism| offers(mechanism.name()));
                match found {
                    Some(PasswordMechanism::Plain) => {
                        let response = plain_response(&login.user, password);
                        self.command(AUTH, &format!("AUTH PLAIN {response}"))
                            .await?
                    }
                    Some(PasswordMechanism::Login) => {
                        self.auth_login(&login.user, password).await?
                    }
                    None => {
                        let names: Vec<_> = mechanisms.iter().map(|m| m.name()).collect();
                        let what = format!("it does not offer AUTH {}", names.join(" or "));
                        return Err(RelayError::Unsuitable(what));
                    }
                }
            }
        };
        expect_auth_code(&reply, 235)
    }

    async fn auth_login(&mut self, user: &str, password: &str) -> Result<RelayReply, RelayError> {
        expect_auth_code(&self.command(AUTH, "AUTH LOGIN").await?, 334)?;
        let user = BASE64.encode(user.as_bytes());
        expect_auth_code(&self.command(AUTH, &user).await?, 334)?;
        let password = BASE64.encode(password.as_bytes());
        self.command(AUTH, &password).await
    }

    // Sending one mail.

    /// Sends the envelope and DATA; `None` if the relay now waits for the mail.
    async fn send_envelope(
        &mut self,
        mail: &RelayMail<'_>,
    ) -> Result<Option<StepResult>, RelayError> {
        let refuse = |reason: String| {
            let outcome = SendOutcome::permanent(reason);
            Ok(Some(StepResult::Decided(outcome)))
        };
        let (from, from_utf8) = mail.from.map_or_else(Default::default, wire_address);
        let (to, to_utf8) = wire_address(mail.to);
        let size = self.extensions.size;
        if size > 0 && mail.bytes as u64 > size {
            return refuse(format!(
                "the mail has {} octets, and the relay takes {size}",
                mail.bytes
            ));
        }
        let mut command = format!("MAIL FROM:<{from}>");
        if size > 0 {
            command.push_str(&format!(" SIZE={}", mail.bytes));
        }
        if mail.is_eight_bit {
            if !self.extensions.eight_bit_mime {
                return refuse(
                    "the mail has octets above 127, and the relay takes none".to_owned(),
                );
            }
            command.push_str(" BODY=8BITMIME");
        }
        if from_utf8 || to_utf8 {
            if !self.extensions.smtputf8 {
                return refuse("an address needs SMTPUTF8, and the relay lacks it".to_owned());
            }
            command.push_str(" SMTPUTF8");
        }
        for (step, line) in [(MAIL, command), (RCPT, format!("RCPT TO:<{to}>"))] {
            let reply = self.command(step, &line).await?;
            if !reply.is_positive() {
                return Ok(Some(self.classify_refusal(step, reply)?));
            }
        }
        let reply = self.command(DATA, "DATA").await?;
        match reply.code() {
            354 => Ok(None),
            _ => Ok(Some(self.classify_refusal(DATA, reply)?)),
        }
    }

    /// Sends the envelope and all blocks of the mail but the last one. `None` if the relay now waits for
    /// that; else the result of the mail.
    ///
    /// # Errors
    /// The session failed before the relay asked for the mail.
    async fn send_until_end(
        &mut self,
        mail: &RelayMail<'_>,
    ) -> Result<Option<Result<StepResult, RelayError>>, RelayError> {
        if let Some(refused) = self.send_envelope(mail).await? {
            return Ok(Some(Ok(refused)));
        }
        Ok(self.send_blocks(mail).await.err().map(Err))
    }

    async fn send_blocks(&mut self, mail: &RelayMail<'_>) -> Result<(), RelayError> {
        const STEP: &str = "the mail";
        let (blocks, _) = split_end(mail.wire);
        for block in blocks.chunks(BLOCK_BYTES) {
            self.set_timeout(self.timeouts.command);
            let written = self.wire.write_all(block).await;
            written.map_err(|error| RelayError::Io { step: STEP, error })?;
        }
        // A reply that is here before the end of the mail must not be taken for the reply to it.
        let early = self.wire.read_unsolicited().await;
        let early = early.map_err(|error| RelayError::Io { step: STEP, error })?;
        if !early.is_empty() || !self.input.is_empty() {
            return Err(RelayError::UnexpectedData(STEP));
        }
        Ok(())
    }

    /// Sends the last block, with the end of the mail. From now on only the relay knows whether it has
    /// the mail.
    async fn send_end(&mut self, mail: &RelayMail<'_>) -> Result<StepResult, RelayError> {
        let (_, last) = split_end(mail.wire);
        self.set_timeout(self.timeouts.command);
        if let Err(error) = self.wire.write_all(last).await {
            let why = format!("the end of the mail: {}", describe_io_error(&error));
            return Ok(StepResult::Decided(SendOutcome::Unknown { why }));
        }
        self.set_timeout(self.timeouts.end);
        match self.read_reply(END).await {
            Ok(reply) if reply.is_positive() => Ok(StepResult::Decided(SendOutcome::Sent {
                reply: reply.display_text(),
            })),
            Ok(reply) if reply.code() >= 400 => Ok(StepResult::Refused(END, reply)),
            Ok(reply) => {
                let why = format!("{END}: {}", reply.display_text());
                // The session cannot be used after such a reply.
                self.input.push(b'?');
                Ok(StepResult::Decided(SendOutcome::Unknown { why }))
            }
            Err(error) => {
                let why = error.to_string();
                self.input.push(b'?');
                Ok(StepResult::Decided(SendOutcome::Unknown { why }))
            }
        }
    }

    /// A refusal that concerns the mail; anything that ends the session is an error.
    fn classify_refusal(
        &self,
        step: &'static str,
        reply: RelayReply,
    ) -> Result<StepResult, RelayError> {
        // The relay asks for authentication or TLS, which is not the mail's fault (RFC 4954 section
        // 6).
        let is_about_us = step == MAIL && matches!(reply.code(), 530 | 534 | 535 | 538);
        if is_about_us {
            return Err(RelayError::Unsuitable(format!(
                "{step}: {}",
                reply.display_text()
            )));
        }
        // The relay is shutting down (RFC 5321 section 3.8), or the code is invalid for every step.
        if reply.code() < 400 || reply.code() == 421 {
            return Err(RelayError::Refused {
                step,
                reply: reply.display_text(),
            });
        }
        Ok(StepResult::Refused(step, reply))
    }

    // Commands and replies.

    async fn command(&mut self, step: &'static str, line: &str) -> Result<RelayReply, RelayError> {
        if !self.input.is_empty() {
            return Err(RelayError::UnexpectedData(step));
        }
        if line.contains(['\r', '\n', '\0']) {
            return Err(RelayError::Unsuitable(format!(
                "{step}: a line end in a command"
            )));
        }
        self.set_timeout(self.timeouts.command);
        let line = format!("{line}\r\n");
        let written = self.wire.write_all(line.as_bytes()).await;
        written.map_err(|error| RelayError::Io { step, error })?;
        self.read_reply(step).await
    }

    async fn read_reply(&mut self, step: &'static str) -> Result<RelayReply, RelayError> {
        let mut buffer = [0; 4096];
        loop {
            let read = self.reader.read(&self.input);
            let (read, reply) = read.map_err(|error| match error {
                // An invalid reply may repeat the password too.
                RelayReplyError::Code(_) if step == AUTH => RelayError::RedactedReply(step),
                error => RelayError::InvalidReply { step, error },
            })?;
            self.input.drain(..read);
            if let Some(reply) = reply {
                return Ok(reply);
            }
            let count = match self.wire.read(&mut buffer).await {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                read => read,
            };
            let count = count.map_err(|error| RelayError::Io { step, error })?;
            self.input.extend_from_slice(&buffer[..count]);
        }
    }

    /// Sets the time-out of the next step, within the deadline of the attempt.
    fn set_timeout(&mut self, limit: Duration) {
        self.wire
            .set_deadline((Instant::now() + limit).min(self.deadline));
    }
}

/// The mail's blocks, and the last one, which holds its end.
fn split_end(wire: &[u8]) -> (&[u8], &[u8]) {
    let end = wire.len().saturating_sub(1);
    wire.split_at(end / BLOCK_BYTES * BLOCK_BYTES)
}

/// A connection that is counted as open until it is dropped.
struct CountedConnection(Gauge);

impl CountedConnection {
    fn new(open: &Gauge) -> Self {
        open.inc();
        Self(open.clone())
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The result of a step.
enum StepResult {
    /// The relay refused the mail at this step.
    Refused(&'static str, RelayReply),
    /// The outcome is decided otherwise.
    Decided(SendOutcome),
}

impl PasswordMechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }
}

fn refusal_outcome(reply: &RelayReply) -> SendOutcome {
    if reply.is_permanent() {
        return SendOutcome::PermanentFailure {
            code: Some(reply.code()),
            reply: reply.display_text(),
        };
    }
    SendOutcome::temporary(reply.display_text())
}

fn expect_code(reply: &RelayReply, step: &'static str, code: u16) -> Result<(), RelayError> {
    if reply.code() == code {
        return Ok(());
    }
    Err(RelayError::Refused {
        step,
        reply: reply.display_text(),
    })
}

fn expect_auth_code(reply: &RelayReply, code: u16) -> Result<(), RelayError> {
    if reply.code() == code {
        return Ok(());
    }
    Err(RelayError::Refused {
        step: AUTH,
        reply: reply.status_text(),
    })
}

/// The address as it stands in a command, and whether that needs SMTPUTF8. A non-ASCII domain alone
/// never does.
fn wire_address(address: &Address) -> (String, bool) {
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
