use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn found(mail: &str, context: &ClassifyContext<'_>) -> Classification {
    classify(
        &View::parse(&Bytes::copy_from_slice(mail.as_bytes())),
        context,
    )
    .0
}

fn of(header: &str, body: &str) -> Classification {
    let mail = format!("From: Lena <lena@post.example>\r\n{header}\r\n\r\n{body}\r\n");
    found(&mail, &ClassifyContext::UNKNOWN)
}

#[test]
fn names_are_stable() {
    for kind in [
        MailKind::Person,
        MailKind::AutoReply,
        MailKind::Bounce,
        MailKind::DelayNotice,
        MailKind::FeedbackReport,
        MailKind::ReadReceipt,
        MailKind::List,
        MailKind::Calendar,
        MailKind::Loop,
    ] {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        assert_eq!(kind.to_string(), kind.name());
    }
}

#[test]
fn a_single_sign_drops_no_mail() {
    let null = ClassifyContext {
        sender: ReversePath::Null,
        ..ClassifyContext::UNKNOWN
    };
    let answer = "From: a@b.example\r\nIn-Reply-To: <1@us.example>\r\n";
    let words = "\r\nThursday is fine.\r\n";
    for (sign, envelope) in [
        (
            "Precedence: bulk\r\nSubject: Re: x\r\n",
            &ClassifyContext::UNKNOWN,
        ),
        (
            "Precedence: junk\r\nSubject: Re: x\r\n",
            &ClassifyContext::UNKNOWN,
        ),
        (
            "X-Auto-Response-Suppress: All\r\nSubject: Re: x\r\n",
            &ClassifyContext::UNKNOWN,
        ),
        ("Subject: Re: x\r\n", &null),
    ] {
        let person = found(&format!("{answer}{sign}{words}"), envelope);
        assert_eq!(
            (person.kind, person.rule),
            (MailKind::Person, "one_sign_only"),
            "{sign}"
        );
        let doubtful = found(&format!("From: a@b.example\r\n{sign}{words}"), envelope);
        assert_eq!(
            (doubtful.kind, doubtful.is_certain),
            (MailKind::AutoReply, false),
            "{sign}"
        );
        let empty = found(&format!("{answer}{sign}\r\n"), envelope);
        assert_eq!(
            (empty.kind, empty.is_certain),
            (MailKind::AutoReply, false),
            "{sign}"
        );
    }
    let both = "Precedence: bulk\r\nX-Auto-Response-Suppress: All\r\nSubject: Re: x\r\n";
    let machine = found(&format!("{answer}{both}{words}"), &ClassifyContext::UNKNOWN);
    assert_eq!(
        (machine.kind, machine.is_certain),
        (MailKind::AutoReply, true)
    );
    assert_eq!(
        machine.evidence.as_deref(),
        Some("Precedence bulk, X-Auto-Response-Suppress")
    );
    let topic = "Subject: Urlaub\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n";
    let person = "wir sind im Urlaub noch bis Samstag und möchten verlängern. Geht das?\r\n";
    let note = "Ich bin im Urlaub und ab 5. März wieder erreichbar.\r\n";
    let kind_of =
        |text: &str| found(&format!("{answer}{topic}{text}"), &ClassifyContext::UNKNOWN).kind;
    assert_eq!(kind_of(person), MailKind::Person);
    assert_eq!(kind_of(note), MailKind::AutoReply);
}

#[test]
fn the_envelope_has_priority_over_the_return_path() {
    let null = ClassifyContext {
        sender: ReversePath::from(None),
        ..ClassifyContext::UNKNOWN
    };
    let address = Address::parse("lena@post.example").unwrap();
    let known = ClassifyContext {
        sender: ReversePath::from(Some(&address)),
        ..ClassifyContext::UNKNOWN
    };
    let mail = "From: Lena <lena@post.example>\r\nSubject: Hi\r\n\r\nHello\r\n";
    assert_eq!(found(mail, &null).rule, "null_sender");
    assert_eq!(found(mail, &known).kind, MailKind::Person);
    assert_eq!(
        found(mail, &ClassifyContext::UNKNOWN).kind,
        MailKind::Person
    );
    let forged = format!("Return-Path: <>\r\n{mail}");
    assert_eq!(found(&forged, &known).kind, MailKind::Person);
    assert_eq!(
        found(&forged, &ClassifyContext::UNKNOWN).kind,
        MailKind::AutoReply
    );
}

#[test]
fn a_null_sender_with_a_bounce_is_a_bounce() {
    let null = ClassifyContext {
        sender: ReversePath::Null,
        ..ClassifyContext::UNKNOWN
    };
    let mail = "From: Alerts <alerts@corp.example>\r\nSubject: Undeliverable: Hi\r\n\r\n<a@b.example>: user unknown\r\n";
    let finding = found(mail, &null);
    assert_eq!(
        (finding.kind, finding.rule),
        (MailKind::Bounce, "bounce_words")
    );
}

#[test]
fn auto_submitted_is_read_by_its_grammar() {
    for (value, kind) in [
        ("auto-replied", MailKind::AutoReply),
        ("AUTO-GENERATED", MailKind::AutoReply),
        ("auto-notified; owner=x", MailKind::AutoReply),
        ("auto-replied(vacation)", MailKind::AutoReply),
        ("x-of-our-own", MailKind::AutoReply),
        ("no", MailKind::Person),
        ("No", MailKind::Person),
        ("no (a person)", MailKind::Person),
        ("", MailKind::Person),
    ] {
        let finding = of(&format!("Auto-Submitted: {value}"), "Hello");
        assert_eq!(finding.kind, kind, "{value}");
    }
}

#[test]
fn fields_without_proof_leave_the_kind_person() {
    for header in [
        "Feedback-ID: a:b:c",
        "X-Auto-Response-Suppress: DR, RN, NRN",
        "X-Auto-Response-Suppress: None",
        "X-Autoreply: no",
        "X-Autogenerated: Forward",
        "Precedence: normal",
        "Precedence: special-delivery",
        "List-Unsubscribe: <mailto:a@b>",
        "X-Loop: x",
        "X-Mailer: Outlook Express",
        "Delivered-To: lena@post.example",
        "X-MS-Has-Attach: yes",
        "X-MS-Exchange-Inbox-Rules-Loop: lena@post.example",
        "X-Failed-Recipients:",
        "List-Id:",
        "Subject: Re: Automatic reply: hello",
        "Subject: Fwd: Undeliverable: hello",
        "Subject: Read: my letter",
        "Subject: Mail delivery",
        "Subject: OOO la la",
        "Subject: Absence makes the heart grow fonder",
        "Subject: Away from my mail? Never!",
        "Content-Type: text/calendar; method=REQUEST",
    ] {
        let finding = of(header, "Hello, I was away and on vacation. Will be back.");
        assert_eq!(finding.kind, MailKind::Person, "{header}: {}", finding.rule);
    }
}

#[test]
fn an_absence_is_believed_only_as_a_program_writes_it() {
    let away = "I am out of the office until Monday.";
    for (subject, body, header, kind) in [
        ("Out of office: Hello", away, "", MailKind::AutoReply),
        (
            "Out of office: Hello",
            "When does the office open?",
            "",
            MailKind::Person,
        ),
        ("[Out of Office] Hello", away, "", MailKind::AutoReply),
        ("Out of office", away, "", MailKind::AutoReply),
        ("Out of office until Monday", away, "", MailKind::Person),
        ("Urlaub", "Ich bin im Urlaub.", "", MailKind::Person),
        (
            "Urlaub",
            "Ich bin im Urlaub.",
            "In-Reply-To: <1@x>\r\n",
            MailKind::AutoReply,
        ),
        ("Urlaub: Re: Hallo", "Bis bald", "", MailKind::AutoReply),
        (
            "Urlaub bis 10. März: AW: Hallo",
            "Bis bald",
            "",
            MailKind::Person,
        ),
        (
            "Urlaub bis 10. März: AW: Hallo",
            "Ich bin im Urlaub und nicht erreichbar.",
            "In-Reply-To: <x@us.example>\n",
            MailKind::AutoReply,
        ),
        (
            "Automatic reply: Hello",
            "Thank you.",
            "",
            MailKind::AutoReply,
        ),
        ("Automatic reply", "Thank you.", "", MailKind::AutoReply),
        (
            "Automatic reply to what?",
            "Thank you.",
            "",
            MailKind::Person,
        ),
        (
            "Antwort: Automatische Antwort: Hallo",
            "Danke.",
            "",
            MailKind::Person,
        ),
    ] {
        let mail =
            format!("From: lena@post.example\r\n{header}Subject: {subject}\r\n\r\n{body}\r\n");
        assert_eq!(
            found(&mail, &ClassifyContext::UNKNOWN).kind,
            kind,
            "{subject}: {body}"
        );
    }
}

#[test]
fn a_person_behind_a_role_is_a_person() {
    for from in [
        "postmaster@corp.example",
        "mail@lena.example",
        "root@corp.example",
        "abuse@corp.example",
        "staff@corp.example",
    ] {
        for (subject, body) in [
            ("Mail delivery", "Could you tell me where my parcel is?"),
            (
                "Question",
                "Our mailbox is full of your mails, please stop. Thank you.",
            ),
            ("Undeliverable", "Is it true that you do not ship to Oslo?"),
            (
                "Re: Undeliverable mail",
                "I see this, why?\r\n> <a@b.example>: 550 5.1.1 user unknown\r\n> could not be delivered",
            ),
        ] {
            let mail = format!("From: {from}\r\nSubject: {subject}\r\n\r\n{body}\r\n");
            let finding = found(&mail, &ClassifyContext::UNKNOWN);
            assert_eq!(
                finding.kind,
                MailKind::Person,
                "{from}: {subject}: {}",
                finding.rule
            );
        }
    }
}

#[test]
fn a_list_of_our_own_brings_peoples_mail() {
    let own = ["help.corp.example".to_owned()];
    let context = ClassifyContext {
        own_lists: &own,
        ..ClassifyContext::UNKNOWN
    };
    for (id, kind) in [
        ("Help desk <Help.corp.example>", MailKind::Person),
        ("help.corp.example", MailKind::Person),
        ("Help <help.corp.example.evil.example>", MailKind::List),
        ("help.corp.example <news.example>", MailKind::List),
    ] {
        let mail =
            format!("From: a@b.example\r\nList-Id: {id}\r\nPrecedence: list\r\n\r\nHello\r\n");
        assert_eq!(found(&mail, &context).kind, kind, "{id}");
    }
}

#[test]
fn evidence_is_short_and_printable() {
    let finding = of(
        &format!("Auto-Submitted: {}", "x\u{1b}".repeat(500)),
        "Hello",
    );
    let evidence = finding.evidence.unwrap();
    assert!(evidence.chars().count() <= 80 && !evidence.contains('\u{1b}'));
}

#[test]
fn message_ids_of_ours_are_compared_as_domains() {
    let domains = [Domain::parse("inbox.example.com").unwrap()];
    let context = ClassifyContext {
        message_id_domains: &domains,
        ..ClassifyContext::UNKNOWN
    };
    for (id, kind) in [
        ("<1@INBOX.example.com>", MailKind::Loop),
        ("<1@sub.inbox.example.com>", MailKind::Person),
        ("<1@inbox.example.com.evil.example>", MailKind::Person),
        ("<inbox.example.com>", MailKind::Person),
        ("1", MailKind::Person),
    ] {
        let mail = format!("From: a@b.example\r\nMessage-ID: {id}\r\n\r\nHello\r\n");
        assert_eq!(found(&mail, &context).kind, kind, "{id}");
    }
}

proptest! {
    #[test]
    fn any_bytes_have_a_kind(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let view = View::parse(&Bytes::from(bytes));
        let (finding, _) = classify(&view, &ClassifyContext::UNKNOWN);
        prop_assert!(!finding.rule.is_empty());
    }

    #[test]
    fn any_subject_and_text_of_a_person_is_a_persons(
        words in proptest::collection::vec(prop_oneof![
            Just("undeliverable"), Just("failure"), Just("550 5.1.1"), Just("mailer-daemon"), Just("user unknown"),
            Just("delivery"), Just("away"), Just("vacation"), Just("hello"), Just("read"), Just("<a@b.example>:"),
        ], 0..20),
    ) {
        let text = words.join(" ");
        let finding = of(&format!("Subject: Re: {text}"), &text);
        prop_assert_eq!(finding.kind, MailKind::Person);
    }
}
