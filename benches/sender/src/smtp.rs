//! Owns the SMTP client. Does not decide what is sent, or when.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::options::Options;
use crate::{Peer, connect, mail};

/// Octets of the longest line of a response.
const LINE_MAX: u64 = 4096;

/// A session after EHLO.
pub(crate) struct Client {
    peer: Peer,
    line: Vec<u8>,
}

impl Client {
    pub(crate) async fn open(options: &Options) -> io::Result<Self> {
        let mut client = Self {
            peer: BufReader::new(Box::new(connect(options).await?)),
            line: Vec::new(),
        };
        client.expect(b"220").await?;
        client.say("EHLO client.bench.test\r\n", b"250").await?;
        if options.starttls {
            client.say("STARTTLS\r\n", b"220").await?;
            let name = ServerName::try_from("mx.bench.test").map_err(io::Error::other)?;
            let plain = client.peer.into_inner();
            let stream = connector()?.connect(name, plain).await?;
            client.peer = BufReader::new(Box::new(stream));
            client.say("EHLO client.bench.test\r\n", b"250").await?;
        }
        Ok(client)
    }

    pub(crate) async fn send(&mut self, options: &Options, n: u64) -> io::Result<SystemTime> {
        let from = "MAIL FROM:<ann@client.bench.test>\r\n";
        let to = format!("RCPT TO:<{}>\r\n", options.recipient(n));
        if options.pipeline {
            let all = format!("{from}{to}DATA\r\n");
            self.say(&all, b"250").await?;
            self.expect(b"250").await?;
            self.expect(b"354").await?;
        } else {
            self.say(from, b"250").await?;
            self.say(&to, b"250").await?;
            self.say("DATA\r\n", b"354").await?;
        }
        // No line of the mail begins with a dot.
        let mut mail = mail(options, n);
        mail.extend_from_slice(b".\r\n");
        let at = SystemTime::now();
        self.peer.get_mut().write_all(&mail).await?;
        self.peer.get_mut().flush().await?;
        self.expect(b"250").await?;
        Ok(at)
    }

    async fn say(&mut self, words: &str, code: &[u8]) -> io::Result<()> {
        self.peer.get_mut().write_all(words.as_bytes()).await?;
        self.peer.get_mut().flush().await?;
        self.expect(code).await
    }

    async fn expect(&mut self, code: &[u8]) -> io::Result<()> {
        loop {
            self.line.clear();
            let mut part = (&mut self.peer).take(LINE_MAX);
            if part.read_until(b'\n', &mut self.line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.line.get(3) != Some(&b'-') {
                break;
            }
        }
        if self.line.starts_with(code) {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&self.line);
        Err(io::Error::other(line.trim_end().to_owned()))
    }
}

/// TLS without checks of the certificate and without resumption: each connection is that of another client.
fn connector() -> io::Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let mut config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
