mod hostile;

use std::sync::LazyLock;

use super::*;
use crate::mail::job_id::JobId;
use crate::mail::kind::{self, ClassifyContext};
use crate::mail::reply::{self, Method};
use crate::mail::view::View;

const TOKEN: &str = "enxzmgp7rode2anufuam6t6jmt7ws7uxp4dzf673opiznszlvxojwmyh6e";
const OTHERS: &str = "eabcmgp7rode2anufuam6t6jmt7ws7uxp4dzf673opiznszlvxojwmyh6e";

static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| Templates::load(None).unwrap());

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn letter() -> OutgoingMail {
    OutgoingMail {
        from: address("support@example.com"),
        sender_name: "Ann Lee".to_owned(),
        product_name: "Example".to_owned(),
        to: HeaderMailbox {
            name: "Bob".to_owned(),
            address: address("bob@example.org"),
        },
        cc: Vec::new(),
        reply_to: address(&format!("reply+{TOKEN}@inbox.example.com")),
        subject: "Order 42".to_owned(),
        text: "Hello Bob,\n\nthe parcel will arrive on Monday between nine and twelve.".to_owned(),
        html: None,
        history: Vec::new(),
        marker: None,
        attachments: Vec::new(),
        in_reply_to: Some("<q1@mail.example.org>".to_owned()),
        references: Vec::new(),
        message_id: "<m1@inbox.example.com>".to_owned(),
        return_path: address("bounce+x@inbox.example.com"),
        date: Timestamp::from_millis(1_769_903_999_042),
        list_id: None,
        list_unsubscribe: None,
        is_automatic: false,
        loop_mark: HeaderText::parse("mark-1").unwrap(),
        locale: Locale::English,
        reply_domains: vec![Domain::parse("inbox.example.com").unwrap()],
        fields: Vec::new(),
    }
}

fn composed(letter: &OutgoingMail) -> Composed {
    compose(letter, &TEMPLATES).unwrap()
}

/// The lines of the header, unfolded.
fn fields(mail: &Bytes) -> Vec<String> {
    let text = str::from_utf8(mail).unwrap();
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    let joined = head.replace("\r\n ", " ");
    joined.split("\r\n").map(str::to_owned).collect()
}

fn field(mail: &Bytes, name: &str) -> Option<String> {
    let start = format!("{name}: ");
    let all = fields(mail);
    let mut found = all.iter().filter_map(|line| line.strip_prefix(&start));
    let first = found.next().map(str::to_owned);
    assert_eq!(found.next(), None, "{name} twice");
    first
}

/// The invariants of every mail, whatever its content.
fn assert_sound(mail: &Bytes) {
    assert!(mail.is_ascii(), "not ASCII");
    assert!(mail.ends_with(b"\r\n"));
    let text = str::from_utf8(mail).unwrap();
    assert!(!text.contains('\0'));
    for line in text.split("\r\n") {
        assert!(line.len() <= 998, "{} octets", line.len());
        assert!(!line.contains(['\r', '\n']), "{line:?}");
        let controls = line.chars().any(|c| c.is_control() && c != '\t');
        assert!(!controls, "{line:?}");
    }
}

#[test]
fn a_mail_has_the_expected_content() {
    let mail = composed(&letter());
    assert_sound(&mail.bytes);
    let names: Vec<_> = fields(&mail.bytes)
        .iter()
        .map(|line| line.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        names.join(" "),
        "From To Reply-To Subject Date Message-ID In-Reply-To References \
         X-Postern-Loop Content-Language MIME-Version Content-Type"
    );
    for (name, value) in [
        ("From", "\"Ann Lee via Example\" <support@example.com>"),
        ("To", "\"Bob\" <bob@example.org>"),
        ("Subject", "Re: Order 42"),
        ("Date", "Sat, 31 Jan 2026 23:59:59 +0000"),
        ("Message-ID", "<m1@inbox.example.com>"),
        ("In-Reply-To", "<q1@mail.example.org>"),
        ("References", "<q1@mail.example.org>"),
        ("X-Postern-Loop", "mark-1"),
    ] {
        assert_eq!(field(&mail.bytes, name).as_deref(), Some(value), "{name}");
    }
    let view = View::parse(&mail.bytes);
    assert!(view.flags.is_empty(), "{:?}", view.flags);
    let text = view.text.unwrap();
    assert!(
        text.starts_with("Hello Bob,\n\nthe parcel will arrive"),
        "{text}"
    );
    assert!(
        text.trim_end().ends_with("— Reply above this line —"),
        "{text}"
    );
    assert!(view.html.unwrap().contains("the parcel will arrive"));
    assert_eq!(mail.text, letter().text);
    assert_eq!(
        composed(&letter()).bytes,
        mail.bytes,
        "the same letter, the same bytes"
    );
}

#[test]
fn new_text_then_history_then_the_marker() {
    let said = |name: &str, text: &str| EarlierMessage {
        name: name.to_owned(),
        at: Timestamp::from_millis(1_769_903_999_042),
        text: text.to_owned(),
    };
    let mail = composed(&OutgoingMail {
        history: vec![
            said("Bob", "first of them"),
            said("Ann", &"word ".repeat(500)),
            said("", "third of them"),
            said("Bob", "fourth of them"),
        ],
        ..letter()
    });
    for form in [&mail.plain, &mail.html] {
        let at = |words: &str| form.find(words).unwrap_or_else(|| panic!("{words}"));
        assert!(at("the parcel will arrive") < at("Earlier in this conversation"));
        assert!(at("Earlier in this conversation") < at("first of them"));
        assert!(at("third of them") < at("Reply above this line"));
        assert!(!form.contains("fourth of them"));
        assert!(form.contains("word …") && form.contains("2026-01-31 23:59 UTC"));
        assert!(form.matches("word ").count() < 130);
    }
    // A message without a known author has no name.
    let nameless = "\n\n2026-01-31 23:59 UTC\n> third of them\n";
    assert!(mail.plain.contains(nameless), "{}", mail.plain);
    assert_eq!(mail.html.matches("<strong").count(), 3, "{}", mail.html);
    assert!(!mail.text.contains("first"));
}

#[test]
fn automatic_mail_asks_for_no_answer_and_is_known_as_ours() {
    let letter = OutgoingMail {
        is_automatic: true,
        list_id: Some(Domain::parse("updates.example.com").unwrap()),
        list_unsubscribe: Some(WebAddress::parse("https://example.com/u?t=1").unwrap()),
        ..letter()
    };
    let mail = composed(&letter);
    for (name, value) in [
        ("Auto-Submitted", "auto-generated"),
        ("X-Auto-Response-Suppress", "All"),
        ("List-Id", "<updates.example.com>"),
        ("List-Unsubscribe", "<https://example.com/u?t=1>"),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
    ] {
        assert_eq!(field(&mail.bytes, name).as_deref(), Some(value), "{name}");
    }
    let context = ClassifyContext {
        loop_mark: Some("mark-1"),
        ..ClassifyContext::UNKNOWN
    };
    let (finding, _) = kind::classify(&View::parse(&mail.bytes), &context);
    assert_eq!(finding.kind, kind::MailKind::Loop);
}

#[test]
fn a_subject_has_one_prefix() {
    let of = |subject: &str, answers: bool| {
        let letter = OutgoingMail {
            subject: subject.to_owned(),
            in_reply_to: answers.then(|| "<a@b>".to_owned()),
            ..letter()
        };
        super::subject(&letter).as_str().to_owned()
    };
    for (given, made) in [
        ("Order 42", "Re: Order 42"),
        ("Re: Order 42", "Re: Order 42"),
        ("RE: re: AW: Order 42", "Re: Order 42"),
        ("Antw: SV: Order 42", "Re: Order 42"),
        ("回复：订单", "Re: 订单"),
        ("Re[3]: Order", "Re: Order"),
        ("Fwd: Order", "Re: Fwd: Order"),
        ("Order: 42", "Re: Order: 42"),
        ("Research: why", "Re: Research: why"),
        ("Re:", "Re:"),
        ("", "Re:"),
        ("a\r\nBcc: eve@example.com", "Re: a Bcc: eve@example.com"),
    ] {
        assert_eq!(of(given, true), made, "{given}");
    }
    for (given, made) in [
        ("Order 42", "Order 42"),
        ("Re: Order 42", "Re: Order 42"),
        ("Re: Re: Order 42", "Re: Order 42"),
    ] {
        assert_eq!(of(given, false), made, "{given}");
    }
}

#[test]
fn a_chain_is_bounded_and_keeps_its_ends() {
    let mut letter = letter();
    letter.references = (0..500).map(|n| format!("<id{n}@example.com>")).collect();
    let references = field(&composed(&letter).bytes, "References").unwrap();
    let ids: Vec<_> = references.split(' ').collect();
    assert_eq!(ids.len(), 20);
    assert_eq!(
        (ids[0], ids[1]),
        ("<id0@example.com>", "<id482@example.com>")
    );
    assert_eq!(ids[19], "<q1@mail.example.org>");
    letter.references = (0..500)
        .map(|n| format!("<{n}{}@example.com>", "x".repeat(200)))
        .collect();
    let references = field(&composed(&letter).bytes, "References").unwrap();
    assert!(references.len() < 2048, "{}", references.len());
    assert!(references.starts_with("<0x") && references.ends_with("<q1@mail.example.org>"));
    // Repeated, without brackets, and invalid in a field.
    letter.references = [
        "<a@b>",
        "c@d",
        "<q1@mail.example.org>",
        "<a@b>",
        "<x y@z>",
        "<é@b>",
        "<a\r\nBcc: e@f>",
    ]
    .map(str::to_owned)
    .to_vec();
    let references = field(&composed(&letter).bytes, "References").unwrap();
    assert_eq!(references, "<a@b> <c@d> <q1@mail.example.org>");
    letter.in_reply_to = Some("<a b@c>".to_owned());
    assert_eq!(field(&composed(&letter).bytes, "In-Reply-To"), None);
}

#[test]
fn tokens_of_others_are_removed() {
    let theirs = format!("reply+{OTHERS}@inbox.example.com");
    let shouted = theirs.to_uppercase();
    let encoded = theirs.replace('+', "%2B").replace('@', "%40");
    let cut_there = format!("{} {theirs} {}", "x".repeat(560), "more ".repeat(50));
    let field = HeaderName::parse("X-Note").unwrap();
    let mail = composed(&OutgoingMail {
        sender_name: theirs.clone(),
        product_name: theirs.clone(),
        subject: format!("Re: {theirs}"),
        cc: vec![HeaderMailbox {
            name: theirs.clone(),
            address: address("eve@example.org"),
        }],
        fields: vec![(field, HeaderText::parse(&theirs).unwrap())],
        attachments: [
            theirs.clone(),
            format!("{theirs}.txt"),
            format!("Mail to {}.eml", theirs.replace("inbox", "in|box")),
            format!("{} {theirs}.txt", "x".repeat(395)),
        ]
        .map(|filename| OutgoingAttachment {
            filename,
            content_type: "text/plain".to_owned(),
            bytes: Bytes::new(),
        })
        .into(),
        text: format!("Write to {theirs} or {shouted}."),
        html: Some(format!(
            "<p>Write to <a href=\"mailto:{encoded}\">{theirs}</a> or {}</p>",
            theirs.replace('@', "&#64;")
        )),
        history: vec![
            EarlierMessage {
                name: shouted,
                at: Timestamp::default(),
                text: format!(
                    "On Monday {} wrote:\n> hi",
                    theirs.replace("fuam6", "fuam6=\r\n")
                ),
            },
            EarlierMessage {
                name: "Bob".to_owned(),
                at: Timestamp::default(),
                text: cut_there,
            },
        ],
        ..letter()
    });
    for form in [&mail.plain, &mail.html, &mail.text] {
        let folded = form.to_lowercase();
        assert!(
            !folded.contains(&OTHERS[..12]) && !folded.contains(&OTHERS[40..]),
            "{form}"
        );
        assert!(folded.contains("reply@inbox.example.com"));
    }
    let head = fields(&mail.bytes).join("\n");
    assert!(!head.contains(&OTHERS[..12]), "{head}");
    let view = View::parse(&mail.bytes);
    let seen = format!("{:?} {:?}", view.header, view.attachments);
    assert!(!seen.to_lowercase().contains(&OTHERS[..12]), "{seen}");
    assert!(
        seen.contains(TOKEN),
        "the recipient's own is where it belongs"
    );
}

#[test]
fn a_reply_to_our_mail_has_only_the_new_words() {
    let said = |name: &str, text: &str| EarlierMessage {
        name: name.to_owned(),
        at: Timestamp::from_millis(1_769_800_000_000),
        text: text.to_owned(),
    };
    for locale in Locale::ALL {
        let ours = composed(&OutgoingMail {
            history: vec![
                said(
                    "Bob",
                    "Where is my parcel? I have been waiting for it for a week.",
                ),
                said("Ann Lee", "Thank you for your order."),
            ],
            locale,
            ..letter()
        });
        let quoted: String = ours
            .plain
            .lines()
            .map(|line| format!("> {line}\n"))
            .collect();
        let head = "From: Ann Lee via Example <support@example.com>\nSent: Saturday, January 31, 2026 11:59 PM\n\
                    To: Bob <bob@example.org>\nSubject: Re: Order 42\n\n";
        for text in [
            format!(
                "Thanks, Monday is fine.\n\nOn Sat, Jan 31, 2026 at 11:59 PM Ann Lee via Example <support@example.com> wrote:\n\n{quoted}"
            ),
            format!("Thanks, Monday is fine.\n\n{quoted}"),
            format!("Thanks, Monday is fine.\n\n{head}{}", ours.plain),
            format!(
                "Thanks, Monday is fine.\n\n________________________________\n{head}{}",
                ours.plain
            ),
            format!(
                "Thanks, Monday is fine.\n\n-----Original Message-----\n{head}{}",
                ours.plain
            ),
        ] {
            for known in [&[ours.text.as_str()][..], &[]] {
                let reply = reply::extract(&reply::ReplyInput {
                    text: Some(&text),
                    known,
                    ..reply::ReplyInput::default()
                });
                assert_eq!(
                    reply.text,
                    "Thanks, Monday is fine.",
                    "{locale:?} {:?}: {text}",
                    known.len()
                );
            }
        }
        assert_html_is_cut(&ours, locale);
    }
}

/// The mail is quoted as web mail and Outlook do.
fn assert_html_is_cut(ours: &Composed, locale: Locale) {
    let html = format!(
        "<div dir=\"ltr\">Thanks, Monday is fine.</div><br><div class=\"gmail_quote\"><div dir=\"ltr\" \
         class=\"gmail_attr\">On Sat, Jan 31, 2026 at 11:59 PM Ann Lee &lt;<a href=\"mailto:support@example.com\">\
         support@example.com</a>&gt; wrote:<br></div><blockquote class=\"gmail_quote\">{}</blockquote></div>",
        ours.html
    );
    let outlook = format!(
        "<html><body><div>Thanks, Monday is fine.</div><hr><div id=\"divRplyFwdMsg\" dir=\"ltr\"><b>From:</b> Ann Lee\
         <br><b>Sent:</b> Saturday, January 31, 2026 11:59 PM<br><b>To:</b> Bob<br><b>Subject:</b> Re: Order 42</div>\
         <div>{}</div></body></html>",
        ours.html
    );
    for html in [html, outlook] {
        let reply = reply::extract(&reply::ReplyInput {
            html: Some(&html),
            known: &[&ours.text],
            ..reply::ReplyInput::default()
        });
        assert_eq!(reply.text, "Thanks, Monday is fine.", "{locale:?}");
        assert_ne!(reply.method, Method::FullBody);
    }
}

#[test]
fn invalid_fields_are_refused_by_name() {
    type Change = fn(&mut OutgoingMail);
    let changes: [(&str, Change); 14] = [
        ("to: local part is not ASCII", |l| {
            l.to.address = address("jörg@example.org")
        }),
        ("from: local part is not ASCII", |l| {
            l.from = address("jörg@example.org")
        }),
        ("reply_to: local part is not ASCII", |l| {
            l.reply_to = address("ü@example.org")
        }),
        ("return_path: local part is not ASCII", |l| {
            l.return_path = address("ü@example.org")
        }),
        // A-labels turn full-width letters into ASCII ones.
        ("to: domain \"a,b.example\" has no ASCII form", |l| {
            l.to.address = address("x@a，b.example")
        }),
        ("cc: domain \"a>b.example\" has no ASCII form", |l| {
            l.cc = vec![HeaderMailbox {
                name: String::new(),
                address: address("x@a＞b.example"),
            }];
        }),
        ("message_id: not a Message-ID", |l| {
            l.message_id = "<a\r\nb@c>".to_owned()
        }),
        ("text: longer than 1048576 octets", |l| {
            l.text = "x".repeat(TEXT_BYTES_MAX + 1)
        }),
        ("html: longer than 524288 octets", |l| {
            l.html = Some("x".repeat(HTML_BYTES_MAX + 1))
        }),
        ("html: elements nested deeper than 100", |l| {
            l.html = Some("<b>".repeat(200))
        }),
        ("history: longer than 1048576 octets", |l| {
            let (name, at) = (String::new(), Timestamp::default());
            let text = "x".repeat(TEXT_BYTES_MAX + 1);
            l.history = vec![EarlierMessage { name, at, text }];
        }),
        ("cc: more than 50", |l| {
            l.cc = vec![l.to.clone(); CC_MAX + 1]
        }),
        ("fields: more than 50", |l| {
            let name = HeaderName::parse("X-A").unwrap();
            l.fields = vec![(name, HeaderText::default()); FIELDS_MAX + 1];
        }),
        ("list_id: domain", |l| {
            l.list_id = Some(Domain::parse("a，b.example").unwrap())
        }),
    ];
    for (told, change) in changes {
        let mut letter = letter();
        change(&mut letter);
        let error = compose(&letter, &TEMPLATES).unwrap_err();
        assert!(error.to_string().starts_with(told), "{told}: {error}");
        assert_eq!(error.field(), told.split(':').next());
    }
    let mut letter = letter();
    letter.to.address = address("ann@bücher.example");
    let mail = composed(&letter);
    assert_eq!(
        field(&mail.bytes, "To").unwrap(),
        "\"Bob\" <ann@xn--bcher-kva.example>"
    );
}

#[test]
fn names_and_texts_of_fields_are_parsed() {
    for name in ["X-Ticket", "x-a", "Importance", "List-Help", "Organization"] {
        assert!(HeaderName::parse(name).is_ok(), "{name}");
    }
    for name in [
        "",
        "X-",
        "X A",
        "X:A",
        "X-A\r\nBcc",
        "X-A\n",
        "X-Ü",
        "-X",
        "From",
        "Bcc",
        "Sender",
        "Received",
        "DKIM-Signature",
        "Return-Path",
        "Content-Type",
        "MIME-Version",
        "Auto-Submitted",
        "Resent-To",
        "X-Postern-Loop",
        "x-auto-response-suppress",
        "List-Unsubscribe",
        "Disposition-Notification-To",
    ] {
        assert!(HeaderName::parse(name).is_err(), "{name}");
    }
    for text in [
        "a\r\nb",
        "a\nb",
        "a\rb",
        "a\0b",
        "a\u{85}b",
        "a\u{2028}b",
        &"x".repeat(901),
    ] {
        assert!(HeaderText::parse(text).is_err(), "{text:?}");
    }
    for url in [
        "http://a.example/",
        "https://",
        "https://a b",
        "https://a>b",
        "https://a\r\nb",
        "https://ü",
    ] {
        assert!(WebAddress::parse(url).is_err(), "{url:?}");
    }
    let job = JobId([7; 16]);
    for (form, url) in [
        ("https://a.example/u", "https://a.example/u".to_owned()),
        (
            "https://a.example/{job}?u={job}",
            format!("https://a.example/{job}?u={job}"),
        ),
    ] {
        let address = WebAddressForm::parse(form).unwrap().of(job);
        assert_eq!(WebAddress::parse(address.as_str()), Ok(address.clone()));
        assert_eq!(address.as_str(), url);
    }
    let long = format!("https://a.example/{}{{job}}", "x".repeat(860));
    for form in [
        "https://a.example/{id}",
        "http://a.example/{job}",
        long.as_str(),
    ] {
        assert!(WebAddressForm::parse(form).is_err(), "{form}");
    }
}
