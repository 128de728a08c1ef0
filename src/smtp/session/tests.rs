use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::mail::envelope::RecipientTarget;

/// The output and the questions of a session.
#[derive(Debug, Default, PartialEq)]
struct Transcript {
    out: Vec<u8>,
    asked: Vec<String>,
    stored: Vec<Vec<u8>>,
    refusals: Vec<Refusal>,
    closed: bool,
}

struct Play {
    session: Session,
    record: Transcript,
    fed: usize,
}

impl Play {
    fn new(settings: Settings) -> Self {
        Self {
            session: Session::new(Arc::new(settings)),
            record: Transcript::default(),
            fed: 0,
        }
    }

    fn feed(&mut self, mut input: &[u8]) {
        self.fed += input.len();
        while !self.record.closed {
            let mut out = Vec::new();
            let step = self.session.feed(&mut input, &mut out);
            assert!(out.len() < 32 * 1024, "the output is not bounded");
            // The buffer grows by an eighth, and by at least 4 KiB.
            assert!(self.session.data_bytes() <= 2 * self.fed + 4 * 1024);
            match step {
                SessionStep::NeedInput => {
                    assert!(input.is_empty());
                    self.record.out.extend(out);
                    break;
                }
                SessionStep::Flush => assert!(out.len() >= 1024),
                SessionStep::Close => self.record.closed = true,
                SessionStep::Ask(question) => {
                    self.record.asked.push(described(&question));
                    self.answer(question, &mut out);
                }
            }
            self.record.out.extend(out);
        }
        self.record.refusals.extend(self.session.take_refusals());
    }

    fn answer(&mut self, question: SessionQuestion, out: &mut Vec<u8>) {
        match question {
            SessionQuestion::Sender { .. } => self.session.answer_sender(Ok(()), out),
            SessionQuestion::Recipient(ForwardPath::Postmaster) => {
                self.session
                    .answer_recipient(Err(Refusal::RelayDenied), out);
            }
            SessionQuestion::Recipient(ForwardPath::Mailbox(address)) => {
                let recipient = Recipient {
                    address,
                    route: String::new(),
                    target: RecipientTarget::Mailbox(String::new()),
                };
                self.session.answer_recipient(Ok(recipient), out);
            }
            SessionQuestion::Store(mail) => {
                self.record.stored.push(mail.bytes.to_vec());
                let answers = vec![Ok("1".to_owned()); mail.recipients.len()];
                self.session.answer_store(&answers, out);
            }
            SessionQuestion::StartTls => self.session.tls_started(),
        }
    }
}

fn described(question: &SessionQuestion) -> String {
    match question {
        SessionQuestion::Sender { sender, size } => format!("from {sender:?} of {size:?}"),
        SessionQuestion::Recipient(ForwardPath::Mailbox(address)) => format!("to {address}"),
        SessionQuestion::Recipient(ForwardPath::Postmaster) => "to postmaster".to_owned(),
        SessionQuestion::Store(mail) => {
            format!("{:?} {} {:?}", mail.recipients, mail.helo, mail.bytes)
        }
        SessionQuestion::StartTls => "tls".to_owned(),
    }
}

#[test]
fn tokens_are_not_shown() {
    let mut play = Play::new(settings(Protocol::Smtp, BareNewline::Refuse));
    play.feed(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\n");
    let mut input = &b"RCPT TO:<reply+secret@mx.test>\r\n"[..];
    let step = play.session.feed(&mut input, &mut Vec::new());
    assert!(matches!(
        &step,
        SessionStep::Ask(SessionQuestion::Recipient(_))
    ));
    assert!(!format!("{step:?}").contains("secret"));
}

#[test]
fn a_mail_records_the_peers_greeting() {
    for (hello, expected) in [("EHLO", true), ("HELO", false)] {
        let mut play = Play::new(settings(Protocol::Smtp, BareNewline::Refuse));
        play.feed(format!("{hello} <peer>\r\nMAIL FROM:<>\r\n").as_bytes());
        play.feed(b"RCPT TO:<a@mx.test>\r\nDATA\r\n");
        let step = play.session.feed(&mut &b"a\r\n.\r\n"[..], &mut Vec::new());
        let SessionStep::Ask(SessionQuestion::Store(mail)) = step else {
            panic!("{step:?}");
        };
        assert_eq!((mail.helo.as_str(), mail.extended), ("<peer>", expected));
        play.session.answer_store(&[], &mut Vec::new());
        assert_eq!(play.session.helo(), Some("<peer>"));
        play.session.tls_started();
        assert_eq!(play.session.helo(), None);
    }
}

#[test]
fn a_command_after_a_bare_line_feed_does_not_run() {
    let sent = b"EHLO x\r\nNOOP x\nMAIL FROM:<a@b.test>\r\nRCPT TO:<a@mx.test>\r\nNOOP\r\n";
    for piece in [1, 7, sent.len()] {
        let mut play = Play::new(settings(Protocol::Smtp, BareNewline::Refuse));
        sent.chunks(piece).for_each(|bytes| play.feed(bytes));
        let out = String::from_utf8(play.record.out.clone()).unwrap();
        let codes: Vec<&str> = out
            .lines()
            .filter(|line| line.get(3..4) == Some(" "))
            .collect();
        let codes: Vec<&str> = codes.iter().map(|line| &line[..3]).collect();
        assert_eq!(codes, ["250", "500", "500", "503", "250"], "{piece}: {out}");
        assert_eq!(play.record.asked, Vec::<String>::new());
    }
    // The same after a line that was too long.
    let mut play = Play::new(settings(Protocol::Smtp, BareNewline::Refuse));
    let long = "x".repeat(3_000);
    play.feed(format!("EHLO x\r\n{long}\nMAIL FROM:<a@b.test>\r\nNOOP\r\n").as_bytes());
    assert_eq!(play.record.asked, Vec::<String>::new());
}

#[test]
fn recipients_beyond_the_limit_end_the_session() {
    let settings = Settings {
        rcpt_max: 3,
        ..settings(Protocol::Smtp, BareNewline::Refuse)
    };
    let mut play = Play::new(settings);
    play.feed(b"EHLO x\r\nMAIL FROM:<a@b.test>\r\n");
    for _ in 0..100 {
        play.feed(b"RCPT TO:<a@mx.test>\r\n");
    }
    let of = |refusal| {
        play.record
            .refusals
            .iter()
            .filter(|r| **r == refusal)
            .count()
    };
    assert_eq!(of(Refusal::RecipientsTooMany), 20);
    assert_eq!(of(Refusal::TooManyRefused), 1);
    assert!(play.record.closed);
}

fn settings(protocol: Protocol, bare_newline: BareNewline) -> Settings {
    let mut settings = Settings::new("mx.test".to_owned(), protocol);
    settings.bare_newline = bare_newline;
    settings.offer_starttls = true;
    settings.mail_bytes_max = 200;
    settings.mail_line_bytes_max = 100;
    settings.header_bytes_max = 150;
    settings.header_fields_max = 4;
    settings.received_max = 1;
    settings
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        &b"EHLO x\r\n"[..],
        b"LHLO x\r\n",
        b"HELO x\r\n",
        b"MAIL FROM:<a@b.test>\r\n",
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<a@b.test> SIZE=10 SMTPUTF8\r\n",
        b"RCPT TO:<a@mx.test>\r\n",
        b"RCPT TO:<\"b>\"@mx.test>\r\n",
        b"RCPT TO:<postmaster>\r\n",
        b"DATA\r\n",
        b"DATA\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"STARTTLS\r\n",
        b"BDAT 10 LAST\r\n",
        b"Received: a\r\n",
        b"Subject: a\r\n",
        b" b\r\n",
        b"0123456789012345678901234567890123456789",
        b"\r\n.\r\n",
        b"\r\n.\r\n",
        b"\r\n",
        b".",
        b"..",
        b"\n",
        b"\r",
        b"\0",
        b"a",
        b"GET / HTTP/1.0\r\n",
        b"\x16\x03",
    ])
    .prop_map(<[u8]>::to_vec);
    prop_oneof![
        20 => word,
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (2030..2060_usize).prop_map(|length| vec![b'x'; length]),
    ]
}

/// A dialogue that reaches a mail, with arbitrary bytes inserted.
fn talk() -> impl Strategy<Value = Vec<u8>> {
    let opening = prop::sample::select(vec![
        &b""[..],
        b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<a@mx.test>\r\nDATA\r\n",
        b"LHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<a@mx.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n",
    ]);
    (opening, prop::collection::vec(piece(), 0..40))
        .prop_map(|(opening, pieces)| [opening, &pieces.concat()].concat())
}

/// The pieces at which bytes are always split: after DATA, because the peer must wait for the 354.
fn turns(sent: &[u8]) -> Vec<&[u8]> {
    let mut turns = Vec::new();
    let mut start = 0;
    for at in 0..sent.len() {
        let turn = &sent[start..=at];
        let is_data = |turn: &[u8]| turn.to_ascii_uppercase().windows(4).any(|w| w == b"DATA");
        if sent[at] == b'\n' && is_data(turn) {
            turns.push(turn);
            start = at + 1;
        }
    }
    turns.push(&sent[start..]);
    turns
}

fn doors() -> impl Strategy<Value = Settings> {
    let protocol = prop::sample::select(vec![Protocol::Lmtp, Protocol::Smtp]);
    let bare_newline = prop::sample::select(vec![BareNewline::Refuse, BareNewline::Normalize]);
    (protocol, bare_newline).prop_map(|(protocol, bare_newline)| settings(protocol, bare_newline))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn splits_change_nothing(settings in doors(), sent in talk(), sizes in prop::collection::vec(1..50_usize, 1..30)) {
        let mut whole = Play::new(settings.clone());
        let mut cut = Play::new(settings.clone());
        let mut single = Play::new(settings);
        let mut sizes = sizes.into_iter().cycle();
        for turn in turns(&sent) {
            whole.feed(turn);
            let mut rest = turn;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(sizes.next().unwrap().min(rest.len()));
                cut.feed(now);
                rest = later;
            }
            for octet in turn {
                single.feed(std::slice::from_ref(octet));
            }
        }
        prop_assert_eq!(&whole.record, &cut.record);
        prop_assert_eq!(&whole.record, &single.record);
    }

    #[test]
    fn any_bytes_do_not_panic(settings in doors(), sent in prop::collection::vec(any::<u8>(), 0..5000)) {
        let mut play = Play::new(settings);
        play.feed(&sent);
        prop_assert!(play.record.stored.is_empty());
    }

    #[test]
    fn stored_mail_equals_sent_mail(
        lines in prop::collection::vec("(\\.{0,3})[^\r\n\0]{0,30}", 1..20),
        size in 1..100_usize,
    ) {
        let mut settings = settings(Protocol::Smtp, BareNewline::Refuse);
        settings.mail_bytes_max = 1_000_000;
        settings.mail_line_bytes_max = 1000;
        settings.header_bytes_max = 100_000;
        settings.header_fields_max = 100;
        settings.received_max = 100;
        let mut play = Play::new(settings);
        for command in ["EHLO x", "MAIL FROM:<a@b.test>", "RCPT TO:<a@mx.test>", "DATA"] {
            play.feed(format!("{command}\r\n").as_bytes());
        }
        let mut mail = String::new();
        let mut wire = String::new();
        for line in &lines {
            mail.push_str(&format!("{line}\r\n"));
            let dot = if line.starts_with('.') { "." } else { "" };
            wire.push_str(&format!("{dot}{line}\r\n"));
        }
        wire.push_str(".\r\n");
        for piece in wire.as_bytes().chunks(size) {
            play.feed(piece);
        }
        prop_assert_eq!(play.record.stored, vec![mail.into_bytes()]);
    }
}

#[test]
fn the_output_is_bounded_by_flushes() {
    let mut settings = Settings::new("mx.test".to_owned(), Protocol::Smtp);
    settings.junk_max = u32::MAX;
    let mut session = Session::new(Arc::new(settings));
    let sent = b"NOOP\r\n".repeat(100_000);
    let mut input = &sent[..];
    let (mut answers, mut flushes) = (0, 0);
    loop {
        let mut out = Vec::new();
        let step = session.feed(&mut input, &mut out);
        assert!(out.len() < 17 * 1024);
        answers += out.iter().filter(|&&octet| octet == b'\n').count();
        match step {
            SessionStep::Flush => flushes += 1,
            SessionStep::NeedInput => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, 100_000);
    assert!(flushes > 10);
}

#[test]
fn refusals_are_reported_once_each() {
    let mut play = Play::new(settings(Protocol::Lmtp, BareNewline::Refuse));
    play.feed(b"LHLO x\r\nNOSUCH\r\nMAIL FROM:<a@b.test>\r\n");
    play.feed(b"RCPT TO:<a@mx.test>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n");
    assert!(play.session.in_data() && play.session.in_transaction());
    play.feed(b"\0\r\n.\r\n");
    assert!(!play.session.in_data() && !play.session.in_transaction());
    let told = [Refusal::CommandUnknown, Refusal::MailNul];
    assert_eq!(play.record.refusals, told);
}

#[test]
fn a_recipient_without_an_answer_is_refused() {
    let mut session = Session::new(Arc::new(settings(Protocol::Lmtp, BareNewline::Refuse)));
    let mut out = Vec::new();
    let mut input = &b"LHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<a@mx.test>\r\nDATA\r\n"[..];
    let SessionStep::Ask(SessionQuestion::Sender { .. }) = session.feed(&mut input, &mut out)
    else {
        panic!("no question");
    };
    session.answer_sender(Ok(()), &mut out);
    let SessionStep::Ask(SessionQuestion::Recipient(ForwardPath::Mailbox(address))) =
        session.feed(&mut input, &mut out)
    else {
        panic!("no question");
    };
    let recipient = Recipient {
        address,
        route: String::new(),
        target: RecipientTarget::Mailbox(String::new()),
    };
    session.answer_recipient(Ok(recipient), &mut out);
    assert!(matches!(
        session.feed(&mut input, &mut out),
        SessionStep::NeedInput
    ));
    let step = session.feed(&mut &b"a\r\n.\r\n"[..], &mut out);
    assert!(matches!(step, SessionStep::Ask(SessionQuestion::Store(_))));
    out.clear();
    session.answer_store(&[], &mut out);
    assert!(out.starts_with(b"451 4.3.0 "));
}
