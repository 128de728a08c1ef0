//! Plays the scripts of `tests/dialogues`, each whole and one byte at a time.
//!
//! A script consists of lines; `#` begins a comment. It begins with the environment:
//!
//! - `PROTO: lmtp` or `both` (else SMTP); `SET name value` sets a field of `Settings`;
//! - `SENDER: address refusal`, `RCPT: address refusal|ok` change the answers to questions. By default
//!   every sender is accepted, ann, bob, cat and postmaster at mx.test are recipients, others there are
//!   unknown, and other domains are denied;
//! - `STORE: answer answer …` are the answers to the next mail, by default `ok`;
//! - `CUTS: whole` is for results that depend on the arrival of bytes: bytes after DATA before the 354 are
//!   an error if they came with it, and the mail if they came later.
//!
//! Then follow the dialogues, separated by `NEW` lines; each has the environment of the first. Lines of the
//! client up to the next of the server are sent at once:
//!
//! - `C: text` sends a line with its CRLF; `C>: bytes` sends bytes and no CRLF;
//! - `C*: 3 x "bytes" + "bytes"` repeats; `\r \n \t \0 \\ \" \xNN` stand for bytes everywhere;
//! - `S: line` expects exactly this line; `S: start...` expects a line that begins with the text before the
//!   dots;
//! - `HELLO` is an EHLO or LHLO and its response; `OPEN` is HELLO, a mail from eve@peer.test to ann, and
//!   DATA up to the 354;
//! - `TLS` does the handshake (bytes after STARTTLS in the same turn are dropped, as a driver must);
//! - `ROOM: refusal` means that there is no memory for the mail in DATA; `CLOSE: refusal` closes;
//! - `CLOSED`: the session has ended here, and must not end elsewhere.
//!
//! The stored mails are listed in order by `STORED: payload` or `STORED from to,to: payload`. An unlisted
//! stored mail fails the script, as does a listed one that is not stored.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use postern::mail::address::Address;
use postern::mail::envelope::{Recipient, RecipientTarget};
use postern::smtp::response::Refusal;
use postern::smtp::session::{
    BareNewline, ForwardPath, Protocol, Session, SessionQuestion, SessionStep, Settings,
    Transaction,
};

#[test]
fn dialogues() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut played = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "smtp") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        let cuts: &[usize] = match text.contains("CUTS: whole") {
            true => &[usize::MAX],
            false => &[usize::MAX, 1, 7],
        };
        let protocols: &[Protocol] = match text.lines().find(|l| l.starts_with("PROTO:")) {
            None | Some("PROTO: smtp") => &[Protocol::Smtp],
            Some("PROTO: lmtp") => &[Protocol::Lmtp],
            Some("PROTO: both") => &[Protocol::Lmtp, Protocol::Smtp],
            Some(other) => panic!("{other}"),
        };
        for (protocol, cut) in protocols
            .iter()
            .flat_map(|p| cuts.iter().map(move |c| (*p, *c)))
        {
            for (number, script) in conversations(&text) {
                played += 1;
                if let Err(error) = play(&script, protocol, cut) {
                    let way = format!("{name}:{number} ({protocol:?}, cut at {cut})");
                    wrong.push(format!("{way}: {error}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(played > 0);
}

/// The dialogues of a script, each with the environment lines and its line number.
fn conversations(text: &str) -> Vec<(usize, String)> {
    let is_setting = |line: &&str| {
        ["SET ", "SENDER: ", "RCPT: ", "STORE: "]
            .iter()
            .any(|word| line.starts_with(word))
    };
    let first = text.lines().take_while(|line| !line.starts_with("NEW"));
    let world: String = first.filter(is_setting).map(|l| format!("{l}\n")).collect();
    let mut conversations = vec![(1, String::new())];
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("NEW") {
            conversations.push((number + 1, world.clone()));
        } else if let Some((_, script)) = conversations.last_mut() {
            script.push_str(line);
            script.push('\n');
        }
    }
    conversations
}

/// A session, and the environment that answers its questions.
struct Stage {
    session: Session,
    protocol: Protocol,
    senders: HashMap<String, Refusal>,
    recipients: HashMap<String, Option<Refusal>>,
    store: VecDeque<Vec<Option<Refusal>>>,
    stored: VecDeque<Transaction>,
    mails: usize,
    heard: VecDeque<String>,
    closed: bool,
    in_handshake: bool,
}

fn play(text: &str, protocol: Protocol, cut: usize) -> Result<(), String> {
    let mut stage = Stage::set(text, protocol);
    let mut turn = Vec::new();
    for line in text.lines() {
        let at = |error: String| format!("{line}: {error}");
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if !word.starts_with('C') || word.starts_with("CLOSE") || word == "CUTS:" {
            stage.send(&std::mem::take(&mut turn), cut).map_err(at)?;
        }
        match word {
            "C:" => turn.extend([&bytes(rest)[..], b"\r\n"].concat()),
            "C>:" => turn.extend(bytes(rest)),
            "C*:" => turn.extend(payload(rest)),
            "S:" => stage.expect(rest).map_err(at)?,
            "HELLO" => stage.hello(cut).map_err(at)?,
            "OPEN" => {
                stage.hello(cut).map_err(at)?;
                for command in ["MAIL FROM:<eve@peer.test>", "RCPT TO:<ann@mx.test>"] {
                    stage.send(format!("{command}\r\n").as_bytes(), cut)?;
                    stage.expect("250 2.1...").map_err(at)?;
                }
                stage.send(b"DATA\r\n", cut)?;
                stage.expect("354 ...").map_err(at)?;
            }
            "TLS" => {
                assert!(std::mem::take(&mut stage.in_handshake));
                stage.session.tls_started();
            }
            "ROOM:" => stage.session.refuse_data(refusal(rest)),
            "CLOSE:" => {
                let mut out = Vec::new();
                stage.session.close(refusal(rest), &mut out);
                stage.hear(&mut out)?;
                stage.closed = true;
            }
            "CLOSED" => {
                stage.nothing_heard().map_err(at)?;
                if !std::mem::take(&mut stage.closed) {
                    return Err(at("the session goes on".to_owned()));
                }
                assert!(stage.session.is_closed());
            }
            _ if word.starts_with("STORED") => stage.expect_stored(line).map_err(at)?,
            "" | "#" | "PROTO:" | "SET" | "SENDER:" | "RCPT:" | "STORE:" | "CUTS:" => {}
            _ => return Err(at("no such word".to_owned())),
        }
    }
    stage.send(&turn, cut)?;
    stage.nothing_heard()?;
    match stage.stored.front() {
        _ if stage.closed => Err("closed at the end".to_owned()),
        Some(mail) => Err(format!("stored, not told: {:?}", mail.bytes)),
        None => Ok(()),
    }
}

impl Stage {
    fn set(text: &str, protocol: Protocol) -> Self {
        let lines = |word: &'static str| text.lines().filter_map(move |l| l.strip_prefix(word));
        let mut settings = Settings::new("mx.test".to_owned(), protocol);
        for line in lines("SET ") {
            let (name, value) = line.split_once(' ').unwrap();
            let number = || value.parse::<u32>().unwrap();
            match name {
                "bare_newline" => settings.bare_newline = BareNewline::Normalize,
                "errors_max" => settings.errors_max = number(),
                "header_bytes_max" => settings.header_bytes_max = number() as usize,
                "header_fields_max" => settings.header_fields_max = number() as usize,
                "junk_max" => settings.junk_max = number(),
                "mail_bytes_max" => settings.mail_bytes_max = number().into(),
                "offer_starttls" => settings.offer_starttls = true,
                "rcpt_max" => settings.rcpt_max = number() as usize,
                "trusts_relay" => settings.trusts_relay = true,
                "received_max" => settings.received_max = number() as usize,
                "refused_max" => settings.refused_max = number(),
                _ => panic!("SET {name}"),
            }
        }
        let answer = |word: &str| (word != "ok").then(|| refusal(word));
        let pair = |line: &'static str| lines(line).map(|l| l.split_once(' ').unwrap());
        let mut recipients: HashMap<_, _> = ["ann", "bob", "cat", "postmaster"]
            .map(|local| (format!("{local}@mx.test"), None))
            .into();
        recipients.extend(pair("RCPT: ").map(|(who, word)| (who.to_owned(), answer(word))));
        let mut stage = Self {
            session: Session::new(Arc::new(settings)),
            protocol,
            senders: pair("SENDER: ")
                .map(|(who, word)| (who.to_owned(), refusal(word)))
                .collect(),
            recipients,
            store: lines("STORE: ")
                .map(|line| line.split(' ').map(answer).collect())
                .collect(),
            stored: VecDeque::new(),
            mails: 0,
            heard: VecDeque::new(),
            closed: false,
            in_handshake: false,
        };
        let mut out = Vec::new();
        stage.session.greet(&mut out);
        let greeting = match protocol {
            Protocol::Lmtp => "220 mx.test LMTP\r\n",
            Protocol::Smtp => "220 mx.test ESMTP\r\n",
        };
        assert_eq!(out, greeting.as_bytes());
        stage
    }

    fn send(&mut self, turn: &[u8], cut: usize) -> Result<(), String> {
        if turn.is_empty() {
            return Ok(());
        }
        if self.session.is_closed() {
            return Err("sent to a closed session".to_owned());
        }
        self.nothing_heard()?;
        for piece in turn.chunks(cut) {
            let mut input = piece;
            let mut out = Vec::new();
            loop {
                let step = self.session.feed(&mut input, &mut out);
                assert!(out.len() < 64 * 1024, "the output is not bounded");
                match step {
                    SessionStep::NeedInput if input.is_empty() => break,
                    SessionStep::NeedInput => return Err("input left".to_owned()),
                    SessionStep::Flush => self.hear(&mut out)?,
                    SessionStep::Close => {
                        self.hear(&mut out)?;
                        self.closed = true;
                        return Ok(());
                    }
                    SessionStep::Ask(SessionQuestion::StartTls) => {
                        self.hear(&mut out)?;
                        self.in_handshake = true;
                        return Ok(());
                    }
                    SessionStep::Ask(question) => self.answer(question, &mut out),
                }
            }
            self.hear(&mut out)?;
        }
        Ok(())
    }

    fn answer(&mut self, question: SessionQuestion, out: &mut Vec<u8>) {
        match question {
            SessionQuestion::Sender { sender, .. } => {
                let sender = sender.map_or(String::new(), |sender| sender.to_string());
                let answer = self.senders.get(&sender).map_or(Ok(()), |no| Err(*no));
                self.session.answer_sender(answer, out);
            }
            SessionQuestion::Recipient(path) => {
                let address = match path {
                    ForwardPath::Mailbox(address) => address,
                    ForwardPath::Postmaster => Address::parse("postmaster@mx.test").unwrap(),
                };
                let answer = match self.recipients.get(&address.to_string()) {
                    Some(None) => Ok(Recipient {
                        address,
                        route: "test".to_owned(),
                        target: RecipientTarget::Mailbox("general".to_owned()),
                    }),
                    Some(Some(refusal)) => Err(*refusal),
                    None if address.domain().as_str() == "mx.test" => {
                        Err(Refusal::RecipientUnknown)
                    }
                    None => Err(Refusal::RelayDenied),
                };
                self.session.answer_recipient(answer, out);
            }
            SessionQuestion::Store(mail) => {
                self.mails += 1;
                let name = self.mails.to_string();
                let said = self.store.pop_front().unwrap_or_default();
                let answers: Vec<_> = (0..mail.recipients.len())
                    .map(|at| {
                        said.get(at)
                            .copied()
                            .flatten()
                            .map_or_else(|| Ok(name.clone()), Err)
                    })
                    .collect();
                if answers.iter().any(Result::is_ok) {
                    self.stored.push_back(mail);
                }
                self.session.answer_store(&answers, out);
            }
            SessionQuestion::StartTls => unreachable!("answered by the caller"),
        }
    }

    /// Splits the output into lines, each of which must be valid.
    fn hear(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let text = String::from_utf8(std::mem::take(out)).map_err(|_| "said no UTF-8")?;
        for line in text.split_inclusive("\r\n") {
            let words = line.strip_suffix("\r\n").ok_or("a line without end")?;
            let sound = line.len() <= 512 && words.bytes().all(|b| (32..127).contains(&b));
            // All responses except greetings, responses to EHLO and 3xx need an enhanced code (RFC 2034
            // section 4).
            let plain = words.starts_with("250-")
                || words.starts_with("354 ")
                || words == "250 mx.test"
                || words == "250 STARTTLS"
                || words.starts_with("250 LIMITS ")
                || words.starts_with("250 XFORWARD ")
                || words.starts_with("220 mx.test ");
            let enhanced = words.len() > 4 && words[4..].starts_with(&format!("{}.", &words[..1]));
            if !sound || !(plain || enhanced) {
                return Err(format!("no sound line: {words:?}"));
            }
            self.heard.push_back(words.to_owned());
        }
        Ok(())
    }

    fn expect(&mut self, line: &str) -> Result<(), String> {
        let heard = self.heard.pop_front().ok_or("nothing was said")?;
        let same = match line.strip_suffix("...") {
            Some(start) => heard.starts_with(start),
            None => heard == line,
        };
        if same {
            Ok(())
        } else {
            Err(format!("heard {heard:?}"))
        }
    }

    fn hello(&mut self, cut: usize) -> Result<(), String> {
        let hello = match self.protocol {
            Protocol::Lmtp => "LHLO peer.test\r\n",
            Protocol::Smtp => "EHLO peer.test\r\n",
        };
        self.send(hello.as_bytes(), cut)?;
        self.expect("250-mx.test")?;
        while self.heard.front().is_some_and(|l| l.starts_with("250-")) {
            self.heard.pop_front();
        }
        self.expect("250 ...")
    }

    fn nothing_heard(&mut self) -> Result<(), String> {
        match self.heard.pop_front() {
            Some(line) => Err(format!("heard {line:?} too")),
            None => Ok(()),
        }
    }

    fn expect_stored(&mut self, line: &str) -> Result<(), String> {
        let (envelope, payload_text) = line.split_once(": ").ok_or("no payload")?;
        let mail = self.stored.pop_front().ok_or("nothing was stored")?;
        if let Some((from, to)) = envelope["STORED".len()..].trim().split_once(' ') {
            let sender = mail
                .sender
                .map_or_else(|| "<>".to_owned(), |sender| sender.to_string());
            let recipients: Vec<_> = mail
                .recipients
                .iter()
                .map(|r| r.address.to_string())
                .collect();
            if (from, to) != (sender.as_str(), recipients.join(",").as_str()) {
                return Err(format!("stored {sender} {recipients:?}"));
            }
        }
        if payload(payload_text) == mail.bytes {
            Ok(())
        } else {
            let start = mail.bytes.slice(..mail.bytes.len().min(200));
            Err(format!("stored {} octets: {start:?}", mail.bytes.len()))
        }
    }
}

fn refusal(name: &str) -> Refusal {
    let found = Refusal::ALL.iter().find(|refusal| refusal.name() == name);
    *found.unwrap_or_else(|| panic!("no refusal {name}"))
}

/// `3 x "bytes" + "bytes"`.
fn payload(text: &str) -> Vec<u8> {
    let terms = text.split("\" + ").map(|term| {
        let (times, quoted) = term.split_once('"').unwrap();
        let times = times.strip_suffix(" x ").map_or(1, |n| n.parse().unwrap());
        bytes(quoted.strip_suffix('"').unwrap_or(quoted)).repeat(times)
    });
    terms.collect::<Vec<_>>().concat()
}

/// The text with its escapes decoded.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'x') => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            Some(other @ (b'\\' | b'"')) => other,
            other => panic!("escape {other:?} in {text}"),
        });
    }
    bytes
}
