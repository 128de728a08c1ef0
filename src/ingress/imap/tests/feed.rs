//! Arbitrary octets as a server's data, read whole and in pieces. The fuzzer includes this file and the
//! parser: `fuzz/fuzz_targets/imap.rs`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::client::ImapClient;
use super::response::{self, ImapResponse, ImapStatus, ResponseCode, Untagged};
use super::transport::{ImapFault, ImapTransport, LINE_BYTES_MAX};

/// Octets of literals in the fetched mails.
const ROOM: usize = 1000;
/// There is no waiting: missing data never arrives.
const FAR: Duration = Duration::from_secs(3600);
/// The UIDs that the session requests.
const UIDS: [u32; 3] = [1, 2, 7];

thread_local! {
    static RUNTIME: io::Result<Runtime> = Builder::new_current_thread().enable_time().build();
}

/// The result of parsing a server's data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FeedTranscript {
    /// The responses, read one by one.
    pub(super) responses: Vec<ImapResponse>,
    /// The result of each command of a session, until one failed.
    pub(super) steps: Vec<String>,
}

/// The first octet selects the size of the pieces, from 1 to 16; the rest is the server's data.
pub(super) fn feed(octets: &[u8]) -> FeedTranscript {
    let (choice, sent) = octets.split_first().unwrap_or((&0, octets));
    let piece = usize::from(*choice) % 16 + 1;
    RUNTIME.with(|runtime| {
        let runtime = runtime.as_ref().expect("a runtime without I/O");
        let whole = runtime.block_on(heard(sent, usize::MAX));
        let torn = runtime.block_on(heard(sent, piece));
        assert_eq!(whole, torn, "pieces of {piece}");
        whole
    })
}

async fn heard(sent: &[u8], piece: usize) -> FeedTranscript {
    let mut responses = Vec::new();
    let mut wire = ImapTransport::new(Box::new(ByteFeed::new(sent, piece)), FAR);
    let end = loop {
        let raw = match wire.read_response(ROOM, Instant::now() + FAR).await {
            Ok(raw) => raw,
            Err(fault) => break fault,
        };
        let literals: usize = raw.literals.iter().map(|literal| literal.len()).sum();
        assert!(raw.line.len() <= LINE_BYTES_MAX && literals <= ROOM);
        let holes = raw.line.iter().filter(|octet| **octet == 0).count();
        assert_eq!(holes, raw.literals.len());
        match response::parse(raw) {
            Ok(response) => {
                check(&response);
                responses.push(response);
            }
            Err(fault) => assert!(matches!(fault, ImapFault::Protocol(_)), "{fault}"),
        }
    };
    let mut steps = Vec::new();
    if let Err(fault) = converse(sent, piece, &mut steps).await {
        steps.push(fault.to_string());
    }
    steps.push(end.to_string());
    FeedTranscript { responses, steps }
}

/// Sends every command once.
async fn converse(sent: &[u8], piece: usize, steps: &mut Vec<String>) -> Result<(), ImapFault> {
    let mut dialogue = ImapClient::new(Box::new(ByteFeed::new(sent, piece)), FAR);
    steps.push(format!("known: {}", dialogue.read_greeting().await?));
    dialogue.request_capabilities().await?;
    steps.push("learnt".to_owned());
    dialogue.login("u", "p").await?;
    steps.push("logged in".to_owned());
    steps.push(format!("{:?}", dialogue.select("INBOX").await?));
    let listed = dialogue.list_mails(1, 50).await?;
    assert!(listed.keys().all(|uid| (1..=50).contains(uid)));
    steps.push(format!("{listed:?}"));
    let bodies = dialogue.fetch_bodies(&UIDS, ROOM).await?;
    assert!(bodies.keys().all(|uid| UIDS.contains(uid)));
    assert!(
        bodies
            .values()
            .all(|body| body.len() <= ROOM.max(LINE_BYTES_MAX))
    );
    steps.push(format!("{bodies:?}"));
    steps.push(format!("moved: {}", dialogue.move_to(&UIDS, "Done").await?));
    dialogue.idle(Instant::now() + FAR).await?;
    steps.push("idle".to_owned());
    dialogue.logout().await;
    Ok(())
}

/// A server's text appears in logs and errors: it is short and has no line ends.
fn check(response: &ImapResponse) {
    let (ImapResponse::Tagged { status, .. } | ImapResponse::Untagged(Untagged::Status(status))) =
        response
    else {
        return;
    };
    let ImapStatus { code, text, .. } = status;
    assert!(text.len() <= 200 * "\\u{10ffff}".len());
    assert!(!text.contains(char::is_control), "{text:?}");
    if let ResponseCode::Capability(words) = code {
        assert!(words.iter().all(|word| !word.is_empty()));
    }
}

/// A server's data, all at once or in pieces; writes are discarded.
struct ByteFeed {
    sent: Vec<u8>,
    at: usize,
    piece: usize,
}

impl ByteFeed {
    fn new(sent: &[u8], piece: usize) -> Self {
        Self {
            sent: sent.to_vec(),
            at: 0,
            piece,
        }
    }
}

impl AsyncRead for ByteFeed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.sent[self.at..];
        let bytes = left.len().min(self.piece).min(out.remaining());
        out.put_slice(&left[..bytes]);
        self.at += bytes;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteFeed {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        said: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(said.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
