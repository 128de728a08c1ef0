//! Owns the bytes to and from an IMAP server: lines and literals, with size bounds and time limits.
//!
//! Does not interpret the lines; `response` does.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};

use crate::ingress::accept::AcceptError;
use crate::store::StoreError;

/// Octets of a response without its literals. Only lists of flags are long.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;
/// The number of literals in one response. A request causes one.
const LITERALS_MAX: usize = 8;
/// Octets that are read from the socket at a time.
const READ_BYTES: usize = 16 * 1024;

/// A stream for IMAP: a socket, with or without TLS.
pub(super) trait ImapStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ImapStream for T {}

/// A response, split into its line and its literals.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RawResponse {
    /// The line without its end. A NUL, which is not allowed in a line, replaces each literal.
    pub(super) line: Vec<u8>,
    /// The literals, in order.
    pub(super) literals: Vec<Bytes>,
}

/// The buffered bytes of one connection.
pub(super) struct ImapTransport {
    stream: Box<dyn ImapStream>,
    input: BytesMut,
    read_timeout: Duration,
}

impl ImapTransport {
    /// No pause in a response may be longer than `silence_max`.
    pub(super) fn new(stream: Box<dyn ImapStream>, silence_max: Duration) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            read_timeout: silence_max,
        }
    }

    /// The stream, for TLS. Bytes received before the handshake would be mistaken for protected ones.
    ///
    /// # Errors
    /// There are such bytes.
    pub(super) fn into_stream(self) -> Result<Box<dyn ImapStream>, ImapFault> {
        if self.input.is_empty() {
            return Ok(self.stream);
        }
        Err(ImapFault::Protocol("data before TLS"))
    }

    /// Sends bytes.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), ImapFault> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(self.read_timeout, sent).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(ImapFault::TimedOut),
        }
    }

    /// Waits until data has arrived, or `until`; true if data has arrived. The future may be dropped
    /// without loss.
    pub(super) async fn wait_input(&mut self, until: Instant) -> Result<bool, ImapFault> {
        if !self.input.is_empty() {
            return Ok(true);
        }
        self.input.reserve(READ_BYTES);
        match timeout_at(until, self.stream.read_buf(&mut self.input)).await {
            Ok(Ok(0)) => Err(ImapFault::Closed),
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(ImapFault::Io(error)),
            Err(_) => Ok(false),
        }
    }

    /// The next response. `literal_bytes_max` bounds all its literals together; `until` is the deadline of
    /// the whole response.
    pub(super) async fn read_response(
        &mut self,
        literal_bytes_max: usize,
        until: Instant,
    ) -> Result<RawResponse, ImapFault> {
        let mut raw = RawResponse::default();
        let mut room = literal_bytes_max;
        loop {
            let line = self
                .read_line(LINE_BYTES_MAX - raw.line.len(), until)
                .await?;
            if line.contains(&0) {
                return Err(ImapFault::Protocol("NUL in a line"));
            }
            let is_first = raw.line.is_empty();
            raw.line.extend_from_slice(&line);
            let Some((at, bytes)) = literal_announcement(&raw.line, is_first) else {
                return Ok(raw);
            };
            if bytes > room || raw.literals.len() == LITERALS_MAX {
                return Err(ImapFault::LiteralTooLong);
            }
            room -= bytes;
            raw.line.truncate(at);
            raw.line.push(0);
            raw.literals.push(self.read_literal(bytes, until).await?);
        }
    }

    async fn read_line(&mut self, bytes_max: usize, until: Instant) -> Result<BytesMut, ImapFault> {
        let mut looked = 0;
        loop {
            if let Some(at) = memchr::memmem::find(&self.input[looked..], b"\r\n") {
                if looked + at > bytes_max {
                    return Err(ImapFault::LineTooLong);
                }
                let line = self.input.split_to(looked + at);
                self.input.advance(2);
                return Ok(line);
            }
            // The line end may be split.
            looked = self.input.len().saturating_sub(1);
            if looked > bytes_max {
                return Err(ImapFault::LineTooLong);
            }
            self.fill(until).await?;
        }
    }

    async fn read_literal(&mut self, bytes: usize, until: Instant) -> Result<Bytes, ImapFault> {
        let mut taken = BytesMut::with_capacity(bytes);
        loop {
            let here = self.input.len().min(bytes - taken.len());
            taken.extend_from_slice(&self.input.split_to(here));
            if taken.len() == bytes {
                return Ok(taken.freeze());
            }
            self.fill(until).await?;
        }
    }

    async fn fill(&mut self, until: Instant) -> Result<(), ImapFault> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ImapFault::Slow);
        }
        self.input.reserve(READ_BYTES);
        let read = self.stream.read_buf(&mut self.input);
        match timeout(self.read_timeout.min(left), read).await {
            Ok(Ok(0)) => Err(ImapFault::Closed),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ImapFault::Io(error)),
            Err(_) if left < self.read_timeout => Err(ImapFault::Slow),
            Err(_) => Err(ImapFault::TimedOut),
        }
    }
}

/// The position at which a literal is announced at the end of a line, and its length (RFC 3501 section
/// 4.3). Only message data may have literals; in another line such an end is plain text.
fn literal_announcement(line: &[u8], is_first: bool) -> Option<(usize, usize)> {
    let is_message_data = !is_first || (line.starts_with(b"* ") && line.get(2)?.is_ascii_digit());
    let digits = line.strip_suffix(b"}").filter(|_| is_message_data)?;
    let at = digits.iter().rposition(|byte| !byte.is_ascii_digit())?;
    if digits[at] != b'{' || at + 1 == digits.len() {
        return None;
    }
    let number = std::str::from_utf8(&digits[at + 1..]).ok()?;
    // A number that does not fit is above every bound.
    Some((at, number.parse().unwrap_or(usize::MAX)))
}

/// The reason why a session cannot continue.
#[derive(Debug, Error)]
pub enum ImapFault {
    /// The server sent BYE.
    #[error("the server closes: {0}")]
    Bye(String),
    /// The connection is closed.
    #[error("connection closed")]
    Closed,
    /// A line is too long.
    #[error("a line longer than {LINE_BYTES_MAX} octets")]
    LineTooLong,
    /// The command has too many untagged responses.
    #[error("more than {0} responses to one command")]
    TooManyResponses(usize),
    /// The data is not valid IMAP.
    #[error("not IMAP: {0}")]
    Protocol(&'static str),
    /// The network failed.
    #[error("network")]
    Io(#[from] io::Error),
    /// A listed mail was not returned.
    #[error("UID {0} is listed, but was not returned")]
    Missing(u32),
    /// The server lacks a required capability.
    #[error("the server offers no {0}")]
    NotOffered(&'static str),
    /// A password must not be sent in plain text to another machine.
    #[error("no TLS, and {0} is not this machine")]
    NotLoopback(std::net::IpAddr),
    /// A command was refused.
    #[error("{what} refused: {said}")]
    Refused {
        /// The command.
        what: &'static str,
        /// The server's text, escaped and cut.
        said: String,
    },
    /// The server sent nothing in time.
    #[error("the server sent nothing in time")]
    TimedOut,
    /// The server sent too slowly.
    #[error("the server sent too slowly")]
    Slow,
    /// Our own store accepts no mail now.
    #[error("store")]
    Store(#[from] StoreError),
    /// Our own store did not answer in time.
    #[error("the store did not answer in time")]
    StoreTimedOut,
    /// TLS could not be established.
    #[error("TLS")]
    Tls(#[source] io::Error),
    /// The file with the token cannot be read.
    #[error("{}: no usable token", path.display())]
    Token {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A literal is longer than the requested data can be.
    #[error("longer than announced")]
    LiteralTooLong,
}

impl From<AcceptError> for ImapFault {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Store(error) => Self::Store(error),
            AcceptError::TimedOut => Self::StoreTimedOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    const MAX: usize = 1000;

    async fn heard(parts: &[&[u8]]) -> Vec<Result<RawResponse, ImapFault>> {
        let (mut server, ours) = duplex(1 << 20);
        let mut wire = ImapTransport::new(Box::new(ours), Duration::from_secs(5));
        for part in parts {
            server.write_all(part).await.unwrap();
        }
        drop(server);
        let mut all = Vec::new();
        loop {
            let response = wire.read_response(MAX, Instant::now() + Duration::from_secs(5));
            all.push(response.await);
            if all.last().is_some_and(Result::is_err) {
                return all;
            }
        }
    }

    #[tokio::test]
    async fn lines_and_literals_are_split() {
        let all = heard(&[
            b"* OK hi {5}\r\n* 1 FETCH (BODY[] {4}\r\n{9}\r",
            b" UID 3)\r\n+ \r\n",
        ]);
        let all = all.await;
        let lines: Vec<&[u8]> = all.iter().flatten().map(|raw| &raw.line[..]).collect();
        let wanted: [&[u8]; 3] = [b"* OK hi {5}", b"* 1 FETCH (BODY[] \0 UID 3)", b"+ "];
        assert_eq!(lines, wanted);
        assert_eq!(all[1].as_ref().unwrap().literals, [&b"{9}\r"[..]]);
        assert!(matches!(all[3], Err(ImapFault::Closed)));
    }

    #[tokio::test]
    async fn too_long_data_ends_the_session() {
        for (bytes, wanted) in [
            (
                &b"* 1 FETCH (BODY[] {1001}\r\n"[..],
                "longer than announced",
            ),
            (
                b"* 1 FETCH (BODY[] {99999999999999999999999}\r\n",
                "longer than announced",
            ),
            (b"* 1 FETCH (BODY[] {900}\r\n", "connection closed"),
            (b"* OK \0\r\n", "not IMAP: NUL in a line"),
            (b"* OK", "connection closed"),
        ] {
            let fault = heard(&[bytes]).await.pop().unwrap().unwrap_err();
            assert_eq!(fault.to_string(), wanted);
        }
        let endless = vec![b'('; LINE_BYTES_MAX + 2];
        let fault = heard(&[&endless]).await.pop().unwrap().unwrap_err();
        assert!(matches!(fault, ImapFault::LineTooLong), "{fault}");
        let many = b"* 1 FETCH (A {0}\r\n".to_vec();
        let more = b" A {0}\r\n".repeat(LITERALS_MAX);
        let fault = heard(&[&many, &more]).await.pop().unwrap().unwrap_err();
        assert!(matches!(fault, ImapFault::LiteralTooLong), "{fault}");
    }

    #[tokio::test]
    async fn silence_and_slowness_time_out() {
        let (_server, ours) = duplex(64);
        let mut wire = ImapTransport::new(Box::new(ours), Duration::from_millis(50));
        let far = Instant::now() + Duration::from_secs(3600);
        assert!(matches!(
            wire.read_response(MAX, far).await,
            Err(ImapFault::TimedOut)
        ));
        let near = Instant::now() + Duration::from_millis(10);
        assert!(matches!(
            wire.read_response(MAX, near).await,
            Err(ImapFault::Slow)
        ));
        let said = wire.send(&[b'x'; 1000]).await;
        assert!(matches!(said, Err(ImapFault::TimedOut)));
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(
            prop_oneof![Just(b"{9}\r\n".to_vec()), Just(b"* 1 ".to_vec()), Just(vec![b'\r']),
                Just(vec![b'\n']), any::<u8>().prop_map(|byte| vec![byte])], 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let all = runtime.unwrap().block_on(heard(&[&bytes.concat()]));
            prop_assert!(all.iter().rev().skip(1).all(Result::is_ok));
        }
    }
}
