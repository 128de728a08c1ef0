//! Owns one socket to a relay, plain or with TLS, that never waits past its deadline.
//!
//! Does not know SMTP. A deadline bounds all reads and writes until it is set anew, so a relay that
//! sends an octet a second is as late as one that sends none.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// An open connection.
pub(super) struct Wire {
    stream: Stream,
    peer: IpAddr,
}

enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
    /// Between the two, if the handshake fails.
    Gone,
}

impl Wire {
    /// Connects to the first address of `host` that answers, each given `limit`, all `until`. The look-up
    /// of the name is bounded by the system's resolver alone.
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
                    let socket = Socket {
                        stream,
                        deadline: Instant::now() + left,
                        looks: false,
                    };
                    return Ok(Self {
                        stream: Stream::Plain(socket),
                        peer: address.ip(),
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
        matches!(self.stream, Stream::Tls(_))
    }

    /// All reads and writes from now on must be over by `deadline`.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        if let Some(socket) = self.socket() {
            socket.deadline = deadline;
        }
    }

    /// Makes the connection encrypted, within the deadline. On an error it is gone.
    pub(super) fn start_tls(
        &mut self,
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        let Stream::Plain(mut socket) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(io::Error::other("encrypted already"));
        };
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        self.stream = Stream::Tls(Box::new(StreamOwned::new(tls, socket)));
        Ok(())
    }

    /// What has come and was not asked for, without waiting; nothing if there is nothing.
    pub(super) fn look(&mut self) -> io::Result<Vec<u8>> {
        let mut found = [0; 256];
        self.set_looking(true)?;
        let read = self.read(&mut found);
        self.set_looking(false)?;
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(found[..count].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn set_looking(&mut self, looks: bool) -> io::Result<()> {
        let Some(socket) = self.socket() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        socket.looks = looks;
        socket.stream.set_nonblocking(looks)
    }

    fn socket(&mut self) -> Option<&mut Socket> {
        match &mut self.stream {
            Stream::Plain(socket) => Some(socket),
            Stream::Tls(stream) => Some(&mut stream.sock),
            Stream::Gone => None,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.read(into),
            Stream::Tls(stream) => stream.read(into),
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
            Stream::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// A socket whose every wait ends at its deadline.
struct Socket {
    stream: TcpStream,
    deadline: Instant,
    /// It does not wait at all.
    looks: bool,
}

impl Socket {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // What rounds to nothing would mean for ever.
        Ok(left.max(Duration::from_millis(1)))
    }

    /// A blocking call that ran out of time says `WouldBlock`.
    fn timed(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::WouldBlock && !self.looks {
            return io::ErrorKind::TimedOut.into();
        }
        error
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.looks {
            let left = self.left()?;
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream.read(into).map_err(|error| self.timed(error))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.looks {
            let left = self.left()?;
            self.stream.set_write_timeout(Some(left))?;
        }
        self.stream.write(bytes).map_err(|error| self.timed(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
