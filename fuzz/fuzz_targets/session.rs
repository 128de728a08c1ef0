//! Arbitrary bytes, split anywhere, for a session: no panic, bounded output, and only complete mails
//! stored.
//!
//! The first octet selects the settings, the second the split; the rest is sent.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use postern::mail::envelope::{Recipient, RecipientTarget};
use postern::smtp::response::Refusal;
use postern::smtp::session::{
    BareNewline, ForwardPath, Protocol, SessionQuestion, Session, Settings, SessionStep,
};

fuzz_target!(|sent: &[u8]| {
    let [choice, cut, sent @ ..] = sent else {
        return;
    };
    let protocol = if choice & 1 == 0 { Protocol::Smtp } else { Protocol::Lmtp };
    let mut settings = Settings::new("mx.test".to_owned(), protocol);
    if choice & 2 != 0 {
        settings.bare_newline = BareNewline::Normalize;
    }
    settings.offer_starttls = choice & 4 != 0;
    settings.mail_bytes_max = 4096;
    let mut session = Session::new(Arc::new(settings));
    let mut out = Vec::new();
    session.greet(&mut out);
    for piece in sent.chunks(usize::from(*cut).max(1)) {
        if feed(&mut session, piece) {
            return;
        }
    }
});

/// True after the session has ended.
fn feed(session: &mut Session, mut input: &[u8]) -> bool {
    loop {
        let mut out = Vec::new();
        let step = session.feed(&mut input, &mut out);
        assert!(out.len() < 128 * 1024);
        assert!(session.data_bytes() <= 16 * 1024);
        match step {
            SessionStep::NeedInput => {
                assert!(input.is_empty());
                return false;
            }
            SessionStep::Flush => {}
            SessionStep::Close => return true,
            SessionStep::Ask(question) => answer(session, question, &mut out),
        }
        assert!(out.is_ascii());
        session.take_refusals();
    }
}

fn answer(session: &mut Session, question: SessionQuestion, out: &mut Vec<u8>) {
    match question {
        SessionQuestion::Sender { .. } => session.answer_sender(Ok(()), out),
        SessionQuestion::Recipient(ForwardPath::Postmaster) => {
            session.answer_recipient(Err(Refusal::RelayDenied), out);
        }
        SessionQuestion::Recipient(ForwardPath::Mailbox(address)) => {
            let recipient = Recipient {
                address,
                route: String::new(),
                target: RecipientTarget::Mailbox(String::new()),
            };
            session.answer_recipient(Ok(recipient), out);
        }
        SessionQuestion::Store(mail) => {
            assert!(mail.bytes.ends_with(b"\r\n") && mail.bytes.len() <= 4096);
            assert!(!mail.bytes.contains(&0));
            let answers = vec![Ok("1".to_owned()); mail.recipients.len()];
            session.answer_store(&answers, out);
        }
        SessionQuestion::StartTls => session.tls_started(),
    }
}
