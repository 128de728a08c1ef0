//! Owns one socket to a relay, plain or with TLS, whose every wait ends at a deadline.
//!
//! Does not know SMTP. The deadline bounds all reads and writes until it is set anew, so a relay that
//! sends an octet a second is as late as one that sends none.

use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// An open connection.
pub(super) struct RelayTransport {
    stream: RelayStream,
    peer: IpAddr,
    deadline: Instant,
}

enum RelayStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// A handshake failed, and took the socket with it.
    Closed,
}

impl RelayTransport {
    /// Connects to the first address of `host` that answers. Each is given `limit`, and all together,
    /// with the look-up of the name, must be over by `deadline`.
    pub(super) async fn connect(
        host: &str,
        port: u16,
        limit: Duration,
        deadline: Instant,
    ) -> io::Result<Self> {
        let addresses = within(deadline, lookup_host((host, port))).await?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses.take(ADDRESSES_MAX) {
            let each = deadline.min(Instant::now() + limit);
            match within(each, TcpStream::connect(address)).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Self {
                        stream: RelayStream::Plain(stream),
                        peer: address.ip(),
                        deadline: each,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// True if the other end is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.peer.to_canonical().is_loopback()
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.stream, RelayStream::Tls(_))
    }

    /// All reads and writes from now on must be over by `deadline`.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Makes the connection encrypted, within the deadline. On an error it is closed.
    pub(super) async fn start_tls(
        &mut self,
        config: &Arc<ClientConfig>,
        server_name: ServerName<'static>,
    ) -> io::Result<()> {
        let stream = std::mem::replace(&mut self.stream, RelayStream::Closed);
        let RelayStream::Plain(stream) = stream else {
            return Err(io::Error::other("encrypted already"));
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let handshake = connector.connect(server_name, stream);
        let stream = within(self.deadline, handshake).await?;
        self.stream = RelayStream::Tls(Box::new(stream));
        Ok(())
    }

    /// Waits for octets, and puts them into `into`. None at all mean that the relay closed.
    pub(super) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let deadline = self.deadline;
        match &mut self.stream {
            RelayStream::Plain(stream) => within(deadline, stream.read(into)).await,
            RelayStream::Tls(stream) => within(deadline, stream.read(into)).await,
            RelayStream::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sends octets, and sees that they leave our own buffers.
    pub(super) async fn write_all(&mut self, octets: &[u8]) -> io::Result<()> {
        let deadline = self.deadline;
        match &mut self.stream {
            RelayStream::Plain(stream) => within(deadline, stream.write_all(octets)).await,
            RelayStream::Tls(stream) => {
                let sent = async {
                    stream.write_all(octets).await?;
                    stream.flush().await
                };
                within(deadline, sent).await
            }
            RelayStream::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The octets that have come although nothing asked for them; none if there are none. Waits for
    /// nothing that is not there.
    pub(super) async fn read_unsolicited(&mut self) -> io::Result<Vec<u8>> {
        let mut found = [0; 256];
        loop {
            let mut buffer = ReadBuf::new(&mut found);
            let read = std::future::poll_fn(|context| {
                Poll::Ready(match self.poll_read(context, &mut buffer) {
                    Poll::Ready(read) => Some(read),
                    Poll::Pending => None,
                })
            });
            if let Some(read) = read.await {
                read?;
                return match buffer.filled() {
                    [] => Err(io::ErrorKind::UnexpectedEof.into()),
                    octets => Ok(octets.to_vec()),
                };
            }
            // The runtime may not have looked at this socket yet, so the kernel is asked. What lies
            // there may also be records of TLS that hold no octets for us.
            let deadline = self.deadline;
            let socket = self.socket()?;
            match SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Vec::new()),
                peeked => peeked?,
            };
            within(deadline, socket.readable()).await?;
        }
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            RelayStream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            RelayStream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            RelayStream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn socket(&self) -> io::Result<&TcpStream> {
        match &self.stream {
            RelayStream::Plain(stream) => Ok(stream),
            RelayStream::Tls(stream) => Ok(stream.get_ref().0),
            RelayStream::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

async fn within<T>(deadline: Instant, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let done = timeout_at(deadline.into(), step).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
