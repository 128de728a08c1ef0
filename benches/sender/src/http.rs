//! Owns the HTTP client, for webhooks and for jobs. Does not follow or repeat anything.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64, HEXLOWER};
use ring::hmac;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::options::{Kind, Options};
use crate::{Peer, connect, mail};

/// Octets of the longest head and of the longest body of a response.
const HEAD_MAX: usize = 16 << 10;
const BODY_MAX: u64 = 1 << 20;

/// A connection that is kept.
pub(crate) struct Client {
    peer: Peer,
    /// True if the server ends the connection after its last response.
    is_last: bool,
}

impl Client {
    pub(crate) async fn open(options: &Options) -> io::Result<Self> {
        Ok(Self {
            peer: BufReader::new(Box::new(connect(options).await?)),
            is_last: false,
        })
    }

    pub(crate) async fn send(&mut self, options: &Options, n: u64) -> io::Result<SystemTime> {
        if self.is_last {
            *self = Self::open(options).await?;
        }
        let (head, body) = match options.kind {
            Kind::Jobs => job(options, n),
            _ => hook(options, n)?,
        };
        let length = body.len();
        let head = format!(
            "{head}Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let at = SystemTime::now();
        self.peer.get_mut().write_all(head.as_bytes()).await?;
        self.peer.get_mut().flush().await?;
        self.response().await?;
        Ok(at)
    }

    async fn response(&mut self) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let left = (HEAD_MAX - head.len()) as u64;
            let mut part = (&mut self.peer).take(left);
            if part.read_until(b'\n', &mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: u64 = length
            .unwrap_or("0")
            .trim()
            .parse()
            .map_err(io::Error::other)?;
        if length > BODY_MAX {
            return Err(io::Error::other("the response is too long"));
        }
        let mut body = Vec::new();
        (&mut self.peer).take(length).read_to_end(&mut body).await?;
        self.is_last = head.contains("\r\nconnection: close");
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status.starts_with('2') {
            return Ok(());
        }
        let body = String::from_utf8_lossy(&body);
        Err(io::Error::other(format!("{status} {body}")))
    }
}

/// A mail for the generic webhook, signed.
fn hook(options: &Options, n: u64) -> io::Result<(String, String)> {
    let raw = BASE64.encode(&mail(options, n));
    let envelope = json!({ "to": [options.recipient(n)], "from": "ann@client.bench.test" });
    let body = json!({ "envelope": envelope, "raw": raw }).to_string();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_err(io::Error::other)?.as_millis();
    let mut mac = hmac::Context::with_key(&options.signer);
    mac.update(format!("{now}.").as_bytes());
    mac.update(body.as_bytes());
    let signature = HEXLOWER.encode(mac.sign().as_ref());
    let head = format!(
        "POST /gateway/inbound/generic HTTP/1.1\r\nX-Webhook-Timestamp: {now}\r\n\
         X-Webhook-Signature: {signature}\r\n"
    );
    Ok((head, body))
}

/// A request for a mail of the outbox: each has its own person and thread.
fn job(options: &Options, n: u64) -> (String, String) {
    let (name, domain) = options.recipient(n).split_once('@').unwrap_or_default();
    let run = std::process::id();
    let text = "We looked at the order again, and the parcel has left the house this morning.\n";
    let body = json!({
        "threadId": format!("bench-{run}-{n}"),
        "messageId": format!("bench-{run}-{n}"),
        "recipientEmail": format!("{name}-{n}@{domain}"),
        "subject": format!("The order {n}"),
        "senderName": "Ann",
        "body": text.repeat(options.size / text.len()),
    });
    let key = &options.key;
    let head = format!("POST /gateway/outbound HTTP/1.1\r\nAuthorization: Bearer {key}\r\n");
    (head, body.to_string())
}
