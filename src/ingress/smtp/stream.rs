//! Owns the stream of one connection: one type for TCP, unix sockets and TLS, without a separate buffer.
//!
//! Does not interpret the bytes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Bytes of one read. Each thread has one buffer of this size, not each connection.
const CHUNK_BYTES: usize = 64 * 1024;

thread_local! {
    static CHUNK: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK_BYTES]);
}

/// The stream of one connection.
#[derive(Debug)]
pub(super) enum SmtpStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS over TCP; boxed, because most connections have another form.
    Tls(Box<TlsStream<TcpStream>>),
    /// A handshake failed, and took the stream with it.
    Closed,
}

impl SmtpStream {
    /// Waits for bytes and passes them to `take`; no bytes mean that the peer closed its side. The future
    /// may be dropped without loss.
    pub(super) async fn read_with<T>(&mut self, mut take: impl FnMut(&[u8]) -> T) -> io::Result<T> {
        poll_fn(|context| {
            CHUNK.with_borrow_mut(|chunk| {
                let mut chunk = ReadBuf::new(chunk);
                ready!(Pin::new(&mut *self).poll_read(context, &mut chunk))?;
                Poll::Ready(Ok(take(chunk.filled())))
            })
        })
        .await
    }

    /// True if bytes have arrived before they were requested. Only TCP is checked, because clients of a
    /// unix socket are trusted.
    pub(super) fn has_early_data(&self) -> bool {
        let Self::Tcp(stream) = self else {
            return false;
        };
        // The kernel is asked directly, because the runtime may not have polled this socket yet.
        let mut octet = [std::mem::MaybeUninit::uninit()];
        matches!(SockRef::from(stream).peek(&mut octet), Ok(1))
    }

    /// Waits until bytes have arrived, or the peer has closed. Except on TCP it never resolves.
    pub(super) async fn wait_for_data(&self) -> bool {
        let Self::Tcp(stream) = self else {
            return std::future::pending().await;
        };
        matches!(stream.peek(&mut [0]).await, Ok(1))
    }

    /// Sends `line` if the kernel accepts it at once; otherwise drops it.
    pub(super) fn try_send(&self, line: &[u8]) {
        let _ = match self {
            Self::Tcp(stream) => SockRef::from(stream).send(line),
            Self::Unix(stream) => SockRef::from(stream).send(line),
            Self::Tls(_) | Self::Closed => return,
        };
    }

    /// Does the handshake as the server, and returns version and cipher suite. On an error the stream is
    /// closed.
    pub(super) async fn start_tls(&mut self, acceptor: &TlsAcceptor) -> io::Result<String> {
        let stream = match std::mem::replace(self, Self::Closed) {
            Self::Tcp(stream) => stream,
            other => {
                *self = other;
                return Err(io::ErrorKind::Unsupported.into());
            }
        };
        let stream = acceptor.accept(stream).await?;
        let session = stream.get_ref().1;
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let suite = session
            .negotiated_cipher_suite()
            .map_or_else(String::new, |suite| format!(" {:?}", suite.suite()));
        *self = Self::Tls(Box::new(stream));
        Ok(format!("{version}{suite}"))
    }
}

impl AsyncRead for SmtpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for SmtpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}
