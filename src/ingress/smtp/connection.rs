//! Owns one connection: it transfers bytes between socket and session, enforces the time limits, and
//! answers the session's questions.
//!
//! Does not know the protocol: the session makes every response.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::SmtpContext;
use super::answers::Provenance;
use super::panics::{catch_panic, send_internal_error};
use super::peer::SmtpPeer;
use super::proxy::{self, ProxiedClient};
use super::refusal::{log_refused, refuse_connection};
use super::stream::SmtpStream;
use super::timeouts::SessionTimeouts;
use crate::clock;
use crate::ingress::accept::AcceptedVia;
use crate::limits::{ConnectionPermit, LoadLevel, MemoryPermit};
use crate::mail::address::Address;
use crate::mail::envelope::{Door, Envelope, Peer as EnvelopePeer};
use crate::smtp::response::Refusal;
use crate::smtp::session::{
    self, ForwardPath, Protocol, Session, SessionQuestion, SessionStep, Transaction,
};

/// Capacity in bytes of the response buffer that is kept while a client is idle.
const OUT_KEPT_BYTES: usize = 512;
/// Bytes that are discarded after the last response, until the client closes.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// A connection with a place, before its first byte.
pub(super) struct SmtpConnection {
    pub(super) wire: SmtpStream,
    pub(super) peer: SmtpPeer,
    pub(super) permit: ConnectionPermit,
    /// True if it comes from a proxy, and must begin with a PROXY header.
    pub(super) proxied: bool,
    pub(super) session: Arc<session::Settings>,
    pub(super) shared: Arc<SmtpContext>,
}

impl SmtpConnection {
    /// Serves the connection to its end.
    pub(super) async fn serve(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut early = false;
        if self.proxied {
            match self.accept_proxy_header().await {
                Some(spoken) => early = spoken,
                None => return,
            }
        }
        let Self {
            mut wire,
            peer,
            permit,
            session,
            ..
        } = self;
        let open = shared.metrics.opened(peer.protocol);
        let linger_max = shared.settings.linger_max;
        let mut driver = SessionDriver {
            session: Session::new(session),
            out: Vec::new(),
            pending: Vec::new(),
            resumes: false,
            memory: shared.memory.permit(peer.holder()),
            tls: None,
            permit,
            timeouts: SessionTimeouts::new(Instant::now(), peer.exempt),
            shared: &shared,
            peer,
        };
        let session = Box::pin(driver.run(&mut wire, early));
        let ended = match catch_panic(session).await {
            Ok(ended) => ended,
            Err(panic) => {
                shared.metrics.panicked();
                send_internal_error(&mut wire, &shared.metrics).await;
                drop(panic);
                Ok(())
            }
        };
        match ended {
            Ok(()) => linger(&mut wire, linger_max).await,
            Err(error) => debug!(connection = driver.peer.number, %error, "connection lost"),
        }
        // The place must be free before the connection counts as closed.
        drop(driver);
        drop(open);
    }

    /// Reads the proxy's header and sets the client's address. True if bytes followed it, which the client
    /// sent before our greeting; `None` if there is no valid header, or no place for the client.
    async fn accept_proxy_header(&mut self) -> Option<bool> {
        let wait = self.shared.settings.proxy_header_max;
        let Ok(Some((client, early))) = timeout(wait, read_proxy_header(&mut self.wire)).await
        else {
            self.shared.metrics.connection_refused("proxy_header");
            debug!(peer = %self.peer.log_address(), "no valid PROXY header");
            return None;
        };
        if let ProxiedClient::Address(address) = client {
            let ip = address.ip().to_canonical();
            self.peer.ip = Some(ip);
            if !self.permit.count_network(ip) {
                let refusal = Refusal::TooManyConnections;
                refuse_connection(&self.wire, &self.peer, refusal, &self.shared);
                return None;
            }
        }
        Some(early)
    }
}

/// The session of one connection, and the bytes in both directions.
struct SessionDriver<'s> {
    shared: &'s SmtpContext,
    peer: SmtpPeer,
    session: Session,
    /// Unsent responses. All responses to one read are sent with one write.
    out: Vec<u8>,
    /// Bytes that the client sent after a command that must be finished first; at most one read's worth.
    pending: Vec<u8>,
    /// True after that command is finished, so that the session may continue without more bytes.
    resumes: bool,
    /// The permit for the bytes of the mail that is arriving.
    memory: MemoryPermit,
    tls: Option<String>,
    timeouts: SessionTimeouts,
    permit: ConnectionPermit,
}

/// The next step after the session has processed the available bytes.
enum NextAction {
    /// Send the responses, and wait for more bytes.
    AwaitInput,
    /// Send the responses, then continue with the pending bytes.
    SendThenResume,
    /// Resolve this recipient, then continue with the pending bytes.
    Recipient(ForwardPath),
    Store(Transaction),
    StartTls,
    /// Send the responses, then close.
    Close,
    /// Send this refusal, then close.
    CloseWith(Refusal),
    /// The client closed the connection.
    PeerClosed,
}

impl SessionDriver<'_> {
    /// Runs the session until one side closes. `Ok` means that we sent the last response.
    async fn run(&mut self, wire: &mut SmtpStream, early: bool) -> io::Result<()> {
        let mut load = self.shared.load.subscribe();
        if early || self.talks_early(wire).await {
            return self.close_with(wire, Refusal::SpokeTooEarly).await;
        }
        self.session.greet(&mut self.out);
        loop {
            match self.next_action(wire, &mut load).await? {
                NextAction::AwaitInput => {}
                NextAction::SendThenResume => {
                    self.send(wire).await?;
                    self.resumes = true;
                }
                NextAction::Recipient(path) => Box::pin(self.answer_recipient(path)).await,
                NextAction::Store(transaction) => Box::pin(self.store(transaction)).await,
                NextAction::StartTls => Box::pin(self.start_tls(wire)).await?,
                NextAction::Close => return self.send(wire).await,
                NextAction::CloseWith(refusal) => return self.close_with(wire, refusal).await,
                NextAction::PeerClosed => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    async fn talks_early(&self, wire: &SmtpStream) -> bool {
        if self.peer.exempt {
            return false;
        }
        let wait = self.shared.settings.greeting_wait;
        if wait.is_zero() {
            return wire.has_early_data();
        }
        timeout(wait, wire.wait_for_data()).await.unwrap_or(false)
    }

    /// Lets the session process pending bytes, or else sends the responses and waits for more.
    async fn next_action(
        &mut self,
        wire: &mut SmtpStream,
        load: &mut watch::Receiver<LoadLevel>,
    ) -> io::Result<NextAction> {
        if self.resumes {
            self.resumes = false;
            let input = std::mem::take(&mut self.pending);
            return Ok(self.process(&input));
        }
        self.send(wire).await?;
        let settings = &self.shared.settings;
        if !self.session.in_data() {
            self.permit.set_idle();
        }
        loop {
            let level = *load.borrow_and_update();
            if level.closing && !self.session.in_data() {
                return Ok(NextAction::CloseWith(Refusal::ShuttingDown));
            }
            if self.timeouts.byte_limit_reached(settings) {
                return Ok(NextAction::CloseWith(Refusal::SessionTooLong));
            }
            let (deadline, refusal) = self.timeouts.deadline(settings, level);
            let evicted = self.permit.evicted();
            tokio::select! {
                biased;
                turn = wire.read_with(|bytes| self.process_read(bytes)) => return turn,
                () = sleep_until(deadline) => return Ok(NextAction::CloseWith(refusal)),
                _ = load.changed() => {}
                () = evicted => {
                    return Ok(NextAction::CloseWith(Refusal::IdleTooLong));
                }
            }
        }
    }

    fn process_read(&mut self, bytes: &[u8]) -> NextAction {
        if bytes.is_empty() {
            return NextAction::PeerClosed;
        }
        let settings = &self.shared.settings;
        self.timeouts
            .bytes_read(bytes.len(), settings, Instant::now());
        self.process(bytes)
    }

    /// Lets the session process `input`, and answers the questions that need no waiting.
    fn process(&mut self, mut input: &[u8]) -> NextAction {
        loop {
            let step = self.session.feed(&mut input, &mut self.out);
            self.update_memory_permit();
            self.report_refusals(None);
            match step {
                SessionStep::NeedInput => break,
                SessionStep::Flush => {
                    self.pending = input.to_vec();
                    return NextAction::SendThenResume;
                }
                SessionStep::Close => return NextAction::Close,
                SessionStep::Ask(SessionQuestion::Sender { size, .. }) => self.answer_sender(size),
                SessionStep::Ask(SessionQuestion::Recipient(path)) => {
                    self.pending = input.to_vec();
                    return NextAction::Recipient(path);
                }
                SessionStep::Ask(SessionQuestion::Store(transaction)) => {
                    // The last piece of the mail is not counted yet.
                    if self.memory.resize(transaction.bytes.len()) {
                        self.pending = input.to_vec();
                        return NextAction::Store(transaction);
                    }
                    let answers = vec![Err(Refusal::Busy); transaction.recipients.len()];
                    self.session.answer_store(&answers, &mut self.out);
                    self.memory.resize(0);
                    self.report_refusals(None);
                }
                SessionStep::Ask(SessionQuestion::StartTls) => return NextAction::StartTls,
            }
        }
        let now = Instant::now();
        if !self.out.is_empty() {
            self.timeouts.command_completed(now);
        }
        let in_data = self.session.in_data();
        self.timeouts
            .set_in_data(in_data, &self.shared.settings, now);
        if in_data || !self.out.is_empty() {
            self.permit.set_busy();
        }
        NextAction::AwaitInput
    }

    fn answer_sender(&mut self, size: Option<u64>) {
        let answer = if self.shared.load.level().closing {
            Err(Refusal::ShuttingDown)
        } else {
            self.shared.answers.sender(self.peer.holder(), size)
        };
        self.session.answer_sender(answer, &mut self.out);
        self.report_refusals(None);
    }

    async fn answer_recipient(&mut self, path: ForwardPath) {
        let answers = &self.shared.answers;
        let answer = answers.recipient(path.clone(), clock::now()).await;
        self.resumes = true;
        self.session.answer_recipient(answer, &mut self.out);
        match path {
            ForwardPath::Mailbox(address) => self.report_refusals(Some(&address)),
            ForwardPath::Postmaster => self.report_refusals(None),
        }
    }

    /// Accounts for the bytes of a mail in the session. If the budget does not allow them, the rest of the
    /// mail is read and discarded.
    fn update_memory_permit(&mut self) {
        if !self.session.in_data() {
            return;
        }
        if !self.memory.resize(self.session.data_bytes()) {
            self.session.refuse_data(Refusal::Busy);
            self.memory.resize(0);
        }
    }

    async fn store(&mut self, transaction: Transaction) {
        let asked = transaction.recipients.len();
        let way = self.provenance(&transaction);
        let bytes = transaction.bytes.clone();
        let length = bytes.len();
        let mut envelope = self.envelope(transaction);
        let answers = &self.shared.answers;
        let (verdict, allowed) = answers.authenticate(&envelope, &bytes, way).await;
        if let Some(verdict) = &verdict {
            self.shared.metrics.authenticated(verdict);
        }
        envelope.verdict = verdict.map(Box::new);
        let via = self.accepted_via(&envelope);
        let stored = match allowed {
            Ok(()) => answers.store(envelope, bytes, via).await,
            Err(refusal) => Err(refusal),
        };
        if stored.is_ok() {
            self.shared.metrics.accepted(self.peer.protocol, length);
        }
        // The mail is stored completely or not at all, so the answer is the same for all recipients.
        let answers = vec![stored.map(|id| id.0.to_string()); asked];
        self.session.answer_store(&answers, &mut self.out);
        self.report_refusals(None);
        self.resumes = true;
        self.memory.resize(0);
        let now = Instant::now();
        self.timeouts.command_completed(now);
        self.timeouts.set_in_data(false, &self.shared.settings, now);
    }

    /// The fields of the log line about an accepted mail.
    fn accepted_via(&self, envelope: &Envelope) -> AcceptedVia<'static> {
        let client = envelope.peer.ip.filter(|ip| Some(*ip) != self.peer.ip);
        AcceptedVia {
            connection: Some(self.peer.number),
            peer: Some(self.peer.log_address().to_string()),
            client: client.map(|ip| ip.to_string()),
            tls: Some(envelope.peer.tls.is_some()),
            ..AcceptedVia::default()
        }
    }

    fn provenance(&self, transaction: &Transaction) -> Provenance {
        let client = transaction.client.as_ref();
        match client.filter(|client| client.ip.is_some() || client.receives_responses) {
            Some(client) if client.receives_responses && self.peer.protocol == Protocol::Smtp => {
                Provenance::Direct
            }
            Some(client) if client.ip.is_some() => Provenance::Forwarded,
            None if !self.peer.relay && self.peer.protocol == Protocol::Smtp => Provenance::Direct,
            _ => Provenance::Relayed,
        }
    }

    /// The envelope of a mail. If the relay named the client, the relay's own address and name are left
    /// out, because they do not describe the client.
    fn envelope(&self, transaction: Transaction) -> Envelope {
        let (ip, helo) = match transaction.client {
            Some(client) if client.receives_responses => {
                (client.ip, client.helo.unwrap_or(transaction.helo))
            }
            Some(client) => (client.ip, client.helo.unwrap_or_default()),
            None => (self.peer.ip, transaction.helo),
        };
        Envelope {
            sender: transaction.sender,
            sender_untold: false,
            recipients: transaction.recipients,
            peer: EnvelopePeer {
                door: match self.peer.protocol {
                    Protocol::Lmtp => Door::Lmtp,
                    Protocol::Smtp => Door::Smtp,
                },
                ip,
                helo,
                tls: self.tls.clone(),
            },
            received_at: clock::now(),
            smtputf8: transaction.smtputf8,
            told: None,
            verdict: None,
        }
    }

    /// Does the handshake. Bytes that the client sent after STARTTLS before the handshake were not
    /// protected, so they are dropped (RFC 3207 section 4.2; CVE-2011-0411).
    async fn start_tls(&mut self, wire: &mut SmtpStream) -> io::Result<()> {
        self.send(wire).await?;
        let Some(acceptor) = &self.shared.acceptor else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let wait = self.shared.settings.handshake_max;
        let shaken = timeout(wait, wire.start_tls(acceptor)).await;
        let shaken = shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.shared.metrics.handshake(shaken.is_ok());
        self.tls = Some(shaken?);
        self.session.tls_started();
        self.timeouts.command_completed(Instant::now());
        Ok(())
    }

    /// Sends the last response of the session.
    async fn close_with(&mut self, wire: &mut SmtpStream, refusal: Refusal) -> io::Result<()> {
        debug!(
            connection = self.peer.number,
            refusal = refusal.name(),
            "connection closed"
        );
        self.session.close(refusal, &mut self.out);
        for refusal in self.session.take_refusals() {
            self.shared.metrics.refused(refusal);
        }
        self.send(wire).await
    }

    async fn send(&mut self, wire: &mut SmtpStream) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = timeout(self.shared.settings.write_max, async {
            wire.write_all(&self.out).await?;
            wire.flush().await
        });
        match sent.await {
            Ok(sent) => sent?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        self.out.clear();
        self.out.shrink_to(OUT_KEPT_BYTES);
        Ok(())
    }

    /// Counts and logs the refusals since the last call. `recipient` is the refused address.
    fn report_refusals(&mut self, recipient: Option<&Address>) {
        let mut last = None;
        for refusal in self.session.take_refusals() {
            self.shared.metrics.refused(refusal);
            if last.replace(refusal) != Some(refusal) {
                let peer = (&self.peer, self.session.client_ip());
                log_refused(&self.shared.throttle, refusal, peer, recipient);
            }
        }
    }
}

/// Reads a proxy's header. The flag is true if more bytes followed it; `None` if there is no valid header.
async fn read_proxy_header(wire: &mut SmtpStream) -> Option<(ProxiedClient, bool)> {
    let mut header = Vec::new();
    loop {
        let read = wire.read_with(|bytes| {
            header.extend_from_slice(bytes);
            bytes.len()
        });
        if read.await.ok()? == 0 {
            return None;
        }
        if let Some((client, taken)) = proxy::parse(&header).ok()? {
            return Some((client, taken < header.len()));
        }
    }
}

/// Waits for the client to close, so that it can read the last response: closing with unread bytes of the
/// client would make the kernel discard the response.
async fn linger(wire: &mut SmtpStream, wait: Duration) {
    let read_out = async {
        let mut left = LINGER_BYTES_MAX;
        if wire.shutdown().await.is_err() {
            return;
        }
        while left > 0 {
            match wire.read_with(<[u8]>::len).await {
                Ok(0) | Err(_) => return,
                Ok(bytes) => left = left.saturating_sub(bytes),
            }
        }
    };
    let _ = timeout(wait, read_out).await;
}
