//! Owns one socket to a relay, plain or with TLS, that never waits past its deadline.
//!
//! Does not know SMTP. The deadline bounds all reads and writes until it is set again, so a relay
//! that sends an octet per second is as late as one that sends nothing.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// The most addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;

/// An open connection.
pub(super) struct RelayTransport {
    stream: RelayStream,
    peer: IpAddr,
}

enum RelayStream {
    Plain(DeadlineSocket),
    Tls(Box<StreamOwned<ClientConnection, DeadlineSocket>>),
    /// The state between plain and TLS, which remains if the handshake fails.
    Closed,
}

impl RelayTransport {
    /// Connects to the first address of `host` that answers: each within `limit`, all until
    /// `until`. Only the system's resolver bounds the look-up of the name.
    pub(super) fn connect(
        host: &str,
        port: u16,
        limit: Duration,
        until: Instant,
    ) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses.iter().take(ADDRESSES_MAX) {
            let left = until.saturating_duration_since(Instant::now()).min(limit);
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match TcpStream::connect_timeout(address, left) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let socket = DeadlineSocket {
                        stream,
                        deadline: Instant::now() + left,
                        is_nonblocking: false,
                    };
                    return Ok(Self {
                        stream: RelayStream::Plain(socket),
                        peer: address.ip(),
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// True if the relay is on the same machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.peer.to_canonical().is_loopback()
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.stream, RelayStream::Tls(_))
    }

    /// Sets the deadline of all further reads and writes.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        if let Some(socket) = self.socket() {
            socket.deadline = deadline;
        }
    }

    /// Starts TLS within the deadline. After an error the connection is closed.
    pub(super) fn start_tls(
        &mut self,
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        let RelayStream::Plain(mut socket) =
            std::mem::replace(&mut self.stream, RelayStream::Closed)
        else {
            return Err(io::Error::other("encrypted already"));
        };
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        self.stream = RelayStream::Tls(Box::new(StreamOwned::new(tls, socket)));
        Ok(())
    }

    /// The unsolicited data that has arrived, without waiting; empty if there is none.
    pub(super) fn read_unsolicited(&mut self) -> io::Result<Vec<u8>> {
        let mut found = [0; 256];
        self.set_nonblocking(true)?;
        let read = self.read(&mut found);
        self.set_nonblocking(false)?;
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(found[..count].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn set_nonblocking(&mut self, looks: bool) -> io::Result<()> {
        let Some(socket) = self.socket() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        socket.is_nonblocking = looks;
        socket.stream.set_nonblocking(looks)
    }

    fn socket(&mut self) -> Option<&mut DeadlineSocket> {
        match &mut self.stream {
            RelayStream::Plain(socket) => Some(socket),
            RelayStream::Tls(stream) => Some(&mut stream.sock),
            RelayStream::Closed => None,
        }
    }
}

impl Read for RelayTransport {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            RelayStream::Plain(socket) => socket.read(into),
            RelayStream::Tls(stream) => stream.read(into),
            RelayStream::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Write for RelayTransport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            RelayStream::Plain(socket) => socket.write(bytes),
            RelayStream::Tls(stream) => stream.write(bytes),
            RelayStream::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            RelayStream::Plain(socket) => socket.flush(),
            RelayStream::Tls(stream) => stream.flush(),
            RelayStream::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// A socket whose reads and writes end at its deadline.
struct DeadlineSocket {
    stream: TcpStream,
    deadline: Instant,
    /// True if reads do not wait at all.
    is_nonblocking: bool,
}

impl DeadlineSocket {
    fn time_left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A time-out of zero would mean to wait without a limit.
        Ok(left.max(Duration::from_millis(1)))
    }

    /// Maps the error: a blocking call that ran out of time reports `WouldBlock`.
    fn map_timeout(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::WouldBlock && !self.is_nonblocking {
            return io::ErrorKind::TimedOut.into();
        }
        error
    }
}

impl Read for DeadlineSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.is_nonblocking {
            let left = self.time_left()?;
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream
            .read(into)
            .map_err(|error| self.map_timeout(error))
    }
}

impl Write for DeadlineSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_nonblocking {
            let left = self.time_left()?;
            self.stream.set_write_timeout(Some(left))?;
        }
        self.stream
            .write(bytes)
            .map_err(|error| self.map_timeout(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
