//! A line-based client with time limits.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::PATIENCE;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) struct Client {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

impl Client {
    pub(super) async fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub(super) async fn unix(path: &Path) -> Self {
        Self::over(UnixStream::connect(path).await.unwrap())
    }

    pub(super) fn over(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            read: Vec::new(),
        }
    }

    pub(super) async fn sends(&mut self, bytes: impl AsRef<[u8]>) {
        self.tries_to_send(bytes).await.unwrap();
    }

    pub(super) async fn tries_to_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let send = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, send).await.expect("bytes can be sent")
    }

    /// Sends each byte separately.
    pub(super) async fn drips(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.sends([*byte]).await;
        }
    }

    /// One whole reply with all its lines.
    pub(super) async fn reply(&mut self) -> String {
        self.tries_to_hear()
            .await
            .unwrap_or_else(|rest| panic!("closed after {rest:?}"))
    }

    /// One whole reply, or the part that arrived before the end.
    pub(super) async fn tries_to_hear(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = reply_end(&self.read) {
                let rest = self.read.split_off(end);
                let reply = std::mem::replace(&mut self.read, rest);
                return Ok(String::from_utf8(reply).unwrap());
            }
            let mut chunk = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut chunk)).await;
            match read.expect("an answer comes") {
                Ok(0) | Err(_) => return Err(String::from_utf8_lossy(&self.read).into_owned()),
                Ok(bytes) => self.read.extend_from_slice(&chunk[..bytes]),
            }
        }
    }

    /// Checks that the next reply begins with `start`.
    pub(super) async fn hears(&mut self, start: &str) -> String {
        let reply = self.reply().await;
        assert!(reply.starts_with(start), "{start:?} expected: {reply:?}");
        reply
    }

    pub(super) async fn says(&mut self, line: &str, start: &str) -> String {
        self.sends(format!("{line}\r\n")).await;
        self.hears(start).await
    }

    /// Checks that the server sends nothing more and closes.
    pub(super) async fn hears_the_end(&mut self) {
        assert_eq!(self.tries_to_hear().await, Err(String::new()));
    }

    /// From MAIL to the response to `mail`, which ends with its dot.
    pub(super) async fn posts(&mut self, to: &str, mail: &str) -> String {
        self.says("MAIL FROM:<ann@example.org>", "250 ").await;
        self.says(&format!("RCPT TO:<{to}>"), "250 ").await;
        self.says("DATA", "354 ").await;
        self.sends(mail).await;
        self.reply().await
    }

    pub(super) async fn half_closes(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    pub(super) async fn half_closes_if_open(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Does the handshake on a plain stream.
    pub(super) async fn starts_tls(self) -> std::io::Result<Self> {
        assert!(self.read.is_empty(), "said before TLS: {:?}", self.read);
        let name = ServerName::try_from(super::HOST).unwrap();
        let connector = TlsConnector::from(Arc::new(config()));
        let shaken = timeout(PATIENCE, connector.connect(name, self.stream)).await;
        Ok(Self::over(shaken.expect("a handshake ends")?))
    }
}

/// A TLS client that accepts any certificate, like a mail server without DANE or MTA-STS.
pub(super) fn config() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(postern::tls::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth()
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = postern::tls::provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = postern::tls::provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        postern::tls::provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn reply_end(bytes: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        let line = bytes[end..].windows(2).position(|pair| pair == b"\r\n")?;
        let last = bytes[end..end + line].get(3) != Some(&b'-');
        end += line + 2;
        if last {
            return Some(end);
        }
    }
}
