//! The view of mails: odd mails of third parties from the shared folder, and bombs built here.

use std::fs;

use bytes::Bytes;
use postern::mail::mime::{DEPTH_MAX, PARTS_MAX};
use postern::mail::view::{Flag, HeaderView, View};

use crate::needs::fixtures;

/// The mails of a folder of third parties' fixtures, by name; empty if the folder is missing.
fn mails(kind: &str) -> Vec<(String, Bytes)> {
    let Some(folder) = fixtures(kind) else {
        return Vec::new();
    };
    let mut mails: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let bytes = fs::read(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), bytes.into())
        })
        .collect();
    mails.sort();
    assert!(!mails.is_empty(), "{} holds no mails", folder.display());
    mails
}

fn has_control(text: &str) -> bool {
    text.chars()
        .any(|c| c.is_control() && c != '\n' && c != '\t')
}

/// Checks the rules that hold for the view of any mail.
fn check(name: &str, mail: &Bytes) -> View {
    let view = View::parse(mail);
    let header = HeaderView::parse(mail);
    assert_eq!(header.fields(), view.header.fields(), "{name}");
    assert_eq!(header.subject, view.header.subject, "{name}");
    for text in [&view.text, &view.html].into_iter().flatten() {
        assert!(!has_control(text), "{name}: {text:?}");
    }
    for line in view.header.subject.iter().chain(&view.header.message_id) {
        assert!(!line.chars().any(char::is_control), "{name}: {line:?}");
    }
    for attachment in &view.attachments {
        assert_eq!(attachment.bytes().len(), attachment.size, "{name}");
        assert!(attachment.size <= mail.len(), "{name}");
    }
    view
}

#[test]
fn odd_mails_are_parsed_as_intended() {
    for (name, mail) in mails("mime") {
        let view = check(&name, &mail);
        assert!(view.flags.is_empty(), "{name}: {:?}", view.flags);
        assert!(!view.header.fields().is_empty(), "{name}");
        let body = view.text.as_deref().or(view.html.as_deref());
        let (subject, text) = (view.header.subject.as_deref(), body.unwrap_or_default());
        match name.as_str() {
            "japanese_iso_2022.eml" => assert!(!text.is_ascii(), "{text:?}"),
            "two_from_in_message.eml" => assert_eq!(view.header.from_fields, 1),
            "trademark_character_in_subject.eml" => {
                assert_eq!(subject, Some("GA.com\u{f4} has a lead for you"));
            }
            "bad_date_header.eml" | "raw_email_with_bad_date.eml" => {
                assert!(view.header.subject.is_some(), "{name}");
            }
            "email_with_similar_boundaries.eml" | "basic_email.eml" => {
                assert!(!text.trim().is_empty(), "{name}");
            }
            _ => {}
        }
    }
}

#[test]
fn reports_come_apart() {
    for (name, mail) in mails("dsn") {
        let view = check(&name, &mail);
        assert!(view.flags.is_empty(), "{name}: {:?}", view.flags);
        if view.header.content.media_type == "multipart/report" {
            // One of them lost its delimiters: then all of it is text.
            let is_apart = view.children(0).count() >= 2;
            assert!(is_apart || view.text.is_some(), "{name}");
        }
    }
}

fn view(mail: impl Into<Bytes>) -> View {
    let mail = mail.into();
    check("bomb", &mail)
}

fn has(view: &View, flag: Flag) -> bool {
    view.flags.contains(&flag)
}

const MIB: usize = 1024 * 1024;

/// As many of `piece` as make ten megabytes, each with its number.
fn ten_mib_of(piece: impl Fn(usize) -> String) -> String {
    let mut bomb = String::new();
    for number in 0.. {
        bomb.push_str(&piece(number));
        if bomb.len() >= 10 * MIB {
            break;
        }
    }
    bomb
}

#[test]
fn mails_within_mails_are_not_opened() {
    let nested = ten_mib_of(|_| "Content-Type: message/rfc822\r\n\r\n".to_owned());
    let open = view(nested.clone());
    assert_eq!(open.parts.len(), 1);
    assert_eq!(open.attachments[0].content_type, "message/rfc822");

    let base64 = data_encoding::BASE64_MIME.encode(nested.as_bytes());
    let quoted = nested.replace('=', "=3D");
    for (encoding, body) in [("base64", base64), ("quoted-printable", quoted)] {
        let shut = view(format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nwords\r\n--b\r\n\
             Content-Type: message/rfc822\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n\
             {body}\r\n--b--\r\n"
        ));
        assert_eq!(shut.text.as_deref(), Some("words"));
        assert_eq!(shut.attachments[0].size, nested.len());
    }
}

#[test]
fn parts_and_depth_are_bounded() {
    let head = "Content-Type: multipart/mixed; boundary=a\n\n";
    let parts = view(head.to_owned() + &ten_mib_of(|_| "--a\n\n".to_owned()));
    assert!(has(&parts, Flag::TooManyParts));
    assert_eq!(parts.parts.len(), PARTS_MAX);
    let bare = view(head.to_owned() + &ten_mib_of(|_| "--a\n".to_owned()));
    assert!(bare.parts.len() <= PARTS_MAX);
    let deep = view(ten_mib_of(|n| {
        format!("Content-Type: multipart/mixed; boundary={n}\n\n--{n}\n")
    }));
    assert!(has(&deep, Flag::TooDeep));
    assert!(deep.parts.len() <= DEPTH_MAX + 1);
    let wide = view(format!(
        "Content-Type: multipart/mixed; boundary={}\n\nwords",
        "x".repeat(MIB)
    ));
    assert_eq!(wide.text.as_deref(), Some("words"));
}

#[test]
fn headers_are_bounded() {
    for (bomb, flag) in [
        (ten_mib_of(|_| "A: b\n".to_owned()), Flag::TooManyFields),
        (
            ten_mib_of(|_| "Received: from a by b; x\n".to_owned()),
            Flag::TooManyFields,
        ),
        (
            format!("Subject: {}\n", "x".repeat(10 * MIB)),
            Flag::HeaderTooLong,
        ),
        (
            format!("From: {}\n", "(".repeat(200 * 1024)),
            Flag::FieldTooLong,
        ),
        (
            format!("From: {}\n", ten_mib_of(|n| format!("a{n}@x,\n "))),
            Flag::TooManyAddresses,
        ),
        (
            format!("To: {}\n", ten_mib_of(|n| format!("a{n}:\n "))),
            Flag::FieldTooLong,
        ),
        (
            format!(
                "Subject: {}\n",
                ten_mib_of(|_| "=?utf-8?q?a?=\n ".to_owned())
            ),
            Flag::TooManyEncodedWords,
        ),
        (
            format!("Subject: {}\n", ten_mib_of(|_| "=?a?q?\n ".to_owned())),
            Flag::TooManyEncodedWords,
        ),
        (
            format!(
                "Content-Type: a/b{}\n",
                ten_mib_of(|n| format!(";\n f*{n}=x"))
            ),
            Flag::TooManyParameters,
        ),
    ] {
        let start = bomb[..40].to_owned();
        let view = view(bomb + "\nwords\n");
        assert!(has(&view, flag), "{start:?}: {:?}", view.flags);
        if flag != Flag::TooManyParameters {
            assert_eq!(view.text.as_deref(), Some("words\n"), "{start:?}");
        }
    }
}

#[test]
fn a_thousand_hostile_parts_are_bounded() {
    let parameters: String = (0..2_000).map(|n| format!(";\n f*{n}*=utf-8''x")).collect();
    let part = format!("--a\nContent-Type: a/b{parameters}\n\nx\n");
    let view = view(format!(
        "Content-Type: multipart/mixed; boundary=a\n\n{}",
        part.repeat(300)
    ));
    // The parts' headers that were cut are in the whole mail, which is attached.
    assert_eq!(view.attachments.len(), 301);
    let whole = view.attachments.first().unwrap();
    assert_eq!(whole.filename.as_deref(), Some("message.eml"));
    assert!(has(&view, Flag::TooManyParameters));
}

/// An opaque signature around a MIME entity, in BER with open ends.
fn signed(entity: &[u8]) -> Vec<u8> {
    let head =
        b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x80\x30\x80\x02\x01\x01\x31\x00\
        \x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01\xa0\x80\x24\x80";
    let mut out = head.to_vec();
    for piece in entity.chunks(60_000) {
        out.extend([0x04, 0x82]);
        out.extend(&u16::try_from(piece.len()).unwrap().to_be_bytes());
        out.extend(piece);
    }
    out.extend([0; 14]);
    out
}

#[test]
fn containers_within_containers_are_bounded() {
    let mut entity = b"Content-Type: text/plain\r\n\r\nwords".to_vec();
    let head = b"Content-Type: application/pkcs7-mime; name=smime.p7m\r\n\r\n".as_slice();
    for depth in 1..=8 {
        entity = [head, &signed(&entity)].concat();
        let view = view(entity.clone());
        let is_open = view.text.as_deref() == Some("words");
        assert_eq!(is_open, depth <= 4, "{depth}");
        assert_eq!(view.attachments.len(), usize::from(!is_open), "{depth}");
        assert!(view.parts.len() <= 6, "{depth}");
    }
    let wide = format!(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n{}",
        "--b\r\n\r\nx\r\n".repeat(3 * PARTS_MAX)
    );
    let view = view([head, &signed(wide.as_bytes())].concat());
    assert!(has(&view, Flag::TooManyParts));
    assert_eq!(view.parts.len(), PARTS_MAX);
}

#[test]
fn hostile_containers_take_linear_time() {
    let pieces = ten_mib_of(|_| "begin 644 a\r\n#0V%T\r\n".to_owned());
    let files = ten_mib_of(|_| "begin 644 a\r\n#0V%T\r\n`\r\nend\r\n".to_owned());
    let lines = ten_mib_of(|n| format!("BEGIN:VEVENT\r\nATTENDEE;X={n}:a\r\n"));
    let word = ten_mib_of(|_| "Ja\r\n".to_owned());
    for (head, body) in [
        ("Content-Type: text/plain", pieces.as_str()),
        ("Content-Type: text/plain", files.as_str()),
        (
            "Content-Type: a/b\r\nContent-Transfer-Encoding: x-uuencode",
            files.as_str(),
        ),
        ("Content-Type: text/calendar", lines.as_str()),
        (
            "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64",
            word.as_str(),
        ),
        (
            "Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: base64",
            word.as_str(),
        ),
        ("Content-Type: text/enriched", word.as_str()),
    ] {
        let view = view(format!("{head}\r\n\r\n{body}"));
        assert!(view.parts.len() <= PARTS_MAX, "{head}");
        assert!(
            view.omissions.len() <= postern::mail::view::OMISSIONS_MAX,
            "{head}"
        );
    }
    let zeros = vec![0; 10 * MIB];
    for head in ["application/pkcs7-mime", "application/ms-tnef"] {
        let mail = format!("Content-Type: {head}\r\n\r\n");
        for start in [
            b"\x30\x80".as_slice(),
            b"\x78\x9f\x3e\x22\x01\x00",
            b"\x24\x80\x24\x80",
        ] {
            let view = view([mail.as_bytes(), start, &zeros].concat());
            assert_eq!(view.attachments.len(), 1, "{head}");
        }
    }
}
