use proptest::prelude::*;

use super::super::*;
use super::{TEMPLATES, assert_sound, composed, fields, letter};
use crate::mail::view::View;

#[test]
fn long_and_odd_input_is_still_one_mail() {
    let mebi = TEXT_BYTES_MAX;
    for text in [
        "\n",
        "\r",
        "x",
        ".\r\n",
        "\n.\n",
        "é",
        "<",
        "https://a.example ",
        "\0",
        "From x\n",
        "😀",
    ] {
        let text = text.repeat(mebi / text.len());
        let mail = composed(&OutgoingMail {
            subject: text.clone(),
            sender_name: text.clone(),
            product_name: text.clone(),
            marker: Some(text.clone()),
            history: vec![EarlierMessage {
                name: text.clone(),
                at: Timestamp::from_millis(u64::MAX),
                text: text.clone(),
            }],
            attachments: vec![OutgoingAttachment {
                filename: text.clone(),
                content_type: text.clone(),
                bytes: text.clone().into(),
            }],
            in_reply_to: Some(text.clone()),
            references: vec![text.clone(); 3],
            text,
            ..letter()
        });
        assert_sound(&mail.bytes);
    }
}

fn strange() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[\\x00-\\x7f]{0,40}",
        prop::sample::select(vec![
            "\r\nBcc: eve@example.com\r\n",
            "\n\n<script>",
            "\r",
            "\n.\r\n",
            "\u{85}",
            "\u{2028}",
            "=?utf-8?Q?x?=",
            "\0",
            "\"",
            "\\",
            "<",
            ">",
            ",",
            ";",
            "(",
            "\u{202e}",
            "אבג",
            "😀",
            "--=_postern_mixed_=\r\n",
        ])
        .prop_map(str::to_owned),
        ("[a-zé ]", 0..300usize).prop_map(|(c, count)| c.repeat(count)),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// An address that can be written.
fn good_address() -> impl Strategy<Value = Address> {
    "([a-z+]{1,20}|\"[ -~]{1,20}\")@([a-z]{1,10}|[a-zé]{1,10})\\.(example|org)"
        .prop_filter_map("no address", |text| Address::parse(&text).ok())
        .prop_filter("no ASCII form", |address| AsciiAddress::of(address).is_ok())
}

/// An address that often cannot be written.
fn an_address() -> impl Strategy<Value = Address> {
    "([a-zé.+]{1,20}|\"[ -~é]{1,20}\")@[a-zé0-9＞，＠＜．；.-]{1,30}"
        .prop_filter_map("no address", |text| Address::parse(&text).ok())
}

/// The product's HTML, never too deep.
fn some_html() -> impl Strategy<Value = String> {
    strange().prop_filter("too deep", |html| page::sanitise(html).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_input_adds_a_field_or_a_line(
        words in prop::array::uniform11(strange()),
        addresses in prop::array::uniform4(good_address()),
        extra in ("X-[A-Za-z-]{1,20}", strange()),
        strange_name in strange(),
        is_automatic: bool,
        html in prop::option::of(some_html()),
    ) {
        let [sender, product, to, cc, subject, text, said, file, kind, id, marker] = words;
        let [from, to_address, cc_address, reply_to] = addresses;
        prop_assert!(HeaderName::parse(&strange_name).is_err() || strange_name.is_ascii());
        let fields = match (HeaderName::parse(&extra.0), HeaderText::parse(&extra.1)) {
            (Ok(name), Ok(text)) => vec![(name, text)],
            _ => Vec::new(),
        };
        let extra_name = fields.first().map(|(name, _)| name.as_str().to_owned());
        let letter = OutgoingMail {
            from, sender_name: sender, product_name: product, subject,
            to: HeaderMailbox { name: to, address: to_address },
            cc: vec![HeaderMailbox { name: cc, address: cc_address }],
            reply_to, text, html,
            history: vec![EarlierMessage { name: said.clone(), at: Timestamp::default(), text: said }],
            marker: Some(marker),
            attachments: vec![OutgoingAttachment { filename: file, content_type: kind, bytes: Bytes::from_static(b"\0\r\nx") }],
            in_reply_to: Some(id.clone()), references: vec![id],
            is_automatic, fields,
            ..letter()
        };
        let mail = compose(&letter, &TEMPLATES).unwrap();
        assert_sound(&mail.bytes);
        let allowed = ["From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
            "Auto-Submitted", "X-Auto-Response-Suppress", "X-Postern-Loop", "Content-Language", "MIME-Version",
            "Content-Type"];
        let mut names: Vec<String> = fields_of(&mail.bytes);
        names.retain(|name| Some(name) != extra_name.as_ref());
        let mut once = names.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), names.len(), "{:?}", names);
        prop_assert!(names.iter().all(|name| allowed.contains(&name.as_str())), "{:?}", names);

        let view = View::parse(&mail.bytes);
        prop_assert_eq!(view.attachments.len(), 1);
        prop_assert_eq!(&view.attachments[0].bytes()[..], b"\0\r\nx");
        prop_assert_eq!(view.parts.len(), 5, "mixed, alternative, text, html, file");
        let subject = super::super::subject(&letter);
        prop_assert_eq!(view.header.subject.unwrap_or_default(), subject.as_str());
        let shown = view.text.unwrap_or_default();
        prop_assert_eq!(shown.trim_end(), mail.plain.trim_end());
    }

    #[test]
    fn an_address_is_written_whole_or_refused(addresses in prop::array::uniform4(an_address())) {
        let [from, to, cc, reply_to] = addresses;
        for address in [from, to, cc, reply_to] {
            let name = String::new();
            let written = compose(&OutgoingMail {
                from: address.clone(),
                to: HeaderMailbox { name: name.clone(), address: address.clone() },
                cc: vec![HeaderMailbox { name, address: address.clone() }],
                reply_to: address.clone(),
                ..letter()
            }, &TEMPLATES);
            let Ok(mail) = written else {
                prop_assert!(!address.to_string().is_ascii(), "{} is refused", address);
                continue;
            };
            assert_sound(&mail.bytes);
            let view = View::parse(&mail.bytes);
            // Our address parser keeps quoted text unchanged, or rejects it; but it ends an address at a
            // bracket.
            let (author, local) = (view.header.author(), address.local());
            let is_hard = local.contains(['\\', '"', '(', ')']) && author.is_none();
            if !is_hard && !local.contains(['<', '>']) {
                prop_assert_eq!(author, Some(&address), "{:?}", fields(&mail.bytes));
            }
        }
    }
}

fn fields_of(mail: &Bytes) -> Vec<String> {
    fields(mail)
        .iter()
        .map(|line| line.split(':').next().unwrap_or_default().to_owned())
        .collect()
}
