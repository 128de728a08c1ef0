//! A name server on loopback, UDP and TCP on one port, with zones made by the test; it can also be slow,
//! silent, broken and endless.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

const A: u16 = 1;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// Octets of the largest UDP response. A larger one needs TCP.
const UDP_BYTES_MAX: usize = 1_232;

/// The records of a name server, and its behaviour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Zone {
    records: HashMap<String, Vec<(u16, Vec<u8>)>>,
    moods: HashMap<String, Mood>,
}

/// The behaviour of the server about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// The response comes after this time.
    Slow(Duration),
    /// There is no response.
    Silent,
    /// The response has this code.
    Code(u8),
    /// The response has the code 2 for types without records.
    FailOnOthers,
    /// The response is truncated, by TCP too.
    Truncated,
    /// The response is one byte.
    Stub,
}

impl Zone {
    pub(crate) fn txt(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        self.add_txt(name, text.as_ref());
        self
    }

    pub(crate) fn a(mut self, name: &str, ip: &str) -> Self {
        self.add_address(name, ip.parse().unwrap());
        self
    }

    pub(crate) fn ptr(mut self, ip: &str, name: &str) -> Self {
        self.add(&reverse_name(ip.parse().unwrap()), PTR, wire_name(name));
        self
    }

    pub(crate) fn cname(mut self, name: &str, target: &str) -> Self {
        self.add_cname(name, target);
        self
    }

    pub(crate) fn mood(mut self, name: &str, mood: Mood) -> Self {
        self.set_mood(name, mood);
        self
    }

    pub(crate) fn add_txt(&mut self, name: &str, text: &[u8]) {
        let mut strings = Vec::new();
        for chunk in text.chunks(255) {
            strings.push(u8::try_from(chunk.len()).unwrap());
            strings.extend_from_slice(chunk);
        }
        if text.is_empty() {
            strings.push(0);
        }
        self.add(name, TXT, strings);
    }

    pub(crate) fn add_address(&mut self, name: &str, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.add(name, A, ip.octets().to_vec()),
            IpAddr::V6(ip) => self.add(name, AAAA, ip.octets().to_vec()),
        }
    }

    pub(crate) fn add_mx(&mut self, name: &str, preference: u16, exchange: &str) {
        let mut wire = preference.to_be_bytes().to_vec();
        wire.extend(wire_name(exchange));
        self.add(name, MX, wire);
    }

    pub(crate) fn add_cname(&mut self, name: &str, target: &str) {
        self.add(name, CNAME, wire_name(target));
    }

    pub(crate) fn add_ptr(&mut self, name: &str, host: &str) {
        self.add(name, PTR, wire_name(host));
    }

    /// A name that exists without records.
    pub(crate) fn add_empty(&mut self, name: &str) {
        self.records.entry(name.to_ascii_lowercase()).or_default();
    }

    pub(crate) fn set_mood(&mut self, name: &str, mood: Mood) {
        self.moods.insert(name.to_ascii_lowercase(), mood);
    }

    fn add(&mut self, name: &str, kind: u16, wire: Vec<u8>) {
        let name = name.to_ascii_lowercase();
        self.records.entry(name).or_default().push((kind, wire));
    }

    /// The response to a query; `None` for no response.
    fn answer(&self, query: &[u8], is_tcp: bool) -> Option<Vec<u8>> {
        let (name, end) = read_name(query, 12)?;
        let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
        let question = query.get(12..end + 4)?;
        let records = self.records.get(&name);
        let mut answers: Vec<(u16, &[u8])> = Vec::new();
        for (other, wire) in records.into_iter().flatten() {
            if *other == kind || *other == CNAME {
                answers.push((*other, wire));
            }
        }
        let (code, is_truncated) = match self.moods.get(&name) {
            Some(Mood::Silent) => return None,
            Some(Mood::Stub) => return Some(vec![0]),
            Some(Mood::Code(code)) => (*code, false),
            Some(Mood::FailOnOthers) if answers.is_empty() => (2, false),
            Some(Mood::Truncated) => (0, true),
            _ if records.is_none() => (3, false),
            _ => (0, false),
        };
        let response = response(query, question, (code, is_truncated), &answers);
        if !is_tcp && response.len() > UDP_BYTES_MAX {
            return Some(self::response(query, question, (code, true), &[]));
        }
        Some(response)
    }

    async fn wait(&self, query: &[u8]) {
        if let Some((name, _)) = read_name(query, 12)
            && let Some(Mood::Slow(time)) = self.moods.get(&name)
        {
            tokio::time::sleep(*time).await;
        }
    }
}

/// A running server; it ends on drop.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl NameServer {
    pub(crate) async fn start(zone: Zone) -> Self {
        let zone = Arc::new(zone);
        let asked = Arc::<Mutex<Vec<String>>>::default();
        // The two ports must be the same, and the second may be in use.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let tasks = vec![
            tokio::spawn(serve_udp(udp.into(), zone.clone(), asked.clone())),
            tokio::spawn(serve_tcp(tcp, zone, asked.clone())),
        ];
        Self {
            address,
            asked,
            tasks,
        }
    }

    /// The names of all queries, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, zone: Arc<Zone>, asked: Arc<Mutex<Vec<String>>>) {
    let mut buffer = vec![0; 4_096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let query = buffer[..length].to_vec();
        note(&asked, &query);
        let (socket, zone) = (socket.clone(), zone.clone());
        tokio::spawn(async move {
            zone.wait(&query).await;
            if let Some(answer) = zone.answer(&query, false) {
                let _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Zone>, asked: Arc<Mutex<Vec<String>>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(converse(stream, zone.clone(), asked.clone()));
    }
}

async fn converse(
    mut stream: TcpStream,
    zone: Arc<Zone>,
    asked: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    loop {
        let mut query = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut query).await?;
        note(&asked, &query);
        zone.wait(&query).await;
        if let Some(answer) = zone.answer(&query, true) {
            let length = u16::try_from(answer.len()).unwrap();
            stream.write_u16(length).await?;
            stream.write_all(&answer).await?;
        }
    }
}

fn note(asked: &Mutex<Vec<String>>, query: &[u8]) {
    if let Some((name, _)) = read_name(query, 12) {
        asked.lock().unwrap().push(name);
    }
}

/// The response (RFC 1035 section 4.1). All records have the name of the query and a TTL of a minute.
fn response(
    query: &[u8],
    question: &[u8],
    (code, is_truncated): (u8, bool),
    answers: &[(u16, &[u8])],
) -> Vec<u8> {
    let mut out = query[..2].to_vec();
    out.push(0x84 | (u8::from(is_truncated) << 1) | (query[2] & 1));
    out.push(0x80 | code);
    out.extend([0, 1]);
    out.extend(u16::try_from(answers.len()).unwrap().to_be_bytes());
    out.extend([0; 4]);
    out.extend(question);
    for (kind, wire) in answers {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60]);
        out.extend(u16::try_from(wire.len()).unwrap().to_be_bytes());
        out.extend(*wire);
    }
    out
}

/// The name at `at`, lower-cased, and the offset after it. Queries have no compression.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join(".").to_ascii_lowercase(), at));
        }
        let label = message.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += length;
    }
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn reverse_name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let hex = format!("{:032x}", ip.to_bits());
            let nibbles: String = hex.chars().rev().flat_map(|nibble| [nibble, '.']).collect();
            format!("{nibbles}ip6.arpa")
        }
    }
}
