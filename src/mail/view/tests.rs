use proptest::prelude::*;

use super::*;
use crate::clock::Timestamp;
use crate::mail::address::Address;

fn view(mail: &str) -> View {
    View::parse(&Bytes::copy_from_slice(
        mail.replace('\n', "\r\n").as_bytes(),
    ))
}

fn header(mail: &str) -> HeaderView {
    HeaderView::parse(mail.replace('\n', "\r\n").as_bytes())
}

fn flags(view: &View) -> Vec<Flag> {
    view.flags.iter().copied().collect()
}

const LETTER: &str = "From: =?utf-8?q?J=C3=B6rg?= <Jorg@Example.com>
To: Support <support@us.example>, team: a@b.example, \"b c\"@b.example;
Cc: <reply+x@us.example>
Subject: =?iso-8859-1?q?Gr=FC=DFe?=
  again
Date: Sat, 31 Jan 2026 23:59:59 +0100
Message-ID: <one@example.com>
In-Reply-To: <zero@us.example>
References: <minus.one@us.example>
 <zero@us.example>
Received: from a by b; Sat, 31 Jan 2026 23:59:59 +0100
received: from c by a; Sat, 31 Jan 2026 23:59:58 +0100
Auto-Submitted: no
Content-Type: multipart/mixed; boundary=\"out er\"

preamble
--out er
Content-Type: multipart/alternative; boundary=in

--in
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Gr=FC=DFe
--in
Content-Type: text/html; charset=utf-8

<p>Gr\u{fc}\u{df}e</p>
--in--

--out er
Content-Type: application/pdf; name=\"../../a b.pdf\"
Content-Disposition: attachment
Content-Transfer-Encoding: base64

aGVsbG8=
--out er
Content-Type: image/png
Content-ID: <pic@example.com>

PNG
--out er--
epilogue
";

#[test]
fn a_letter_reads_as_it_was_written() {
    let view = view(LETTER);
    let header = &view.header;
    assert_eq!(header.from[0].name.as_deref(), Some("Jörg"));
    assert_eq!(header.from_fields, 1);
    assert_eq!(
        header.author(),
        Address::parse("Jorg@example.com").ok().as_ref()
    );
    let to: Vec<_> = header.to.iter().map(|to| to.text.as_str()).collect();
    assert_eq!(to[..2], ["support@us.example", "a@b.example"]);
    assert_eq!(header.cc[0].text, "reply+x@us.example");
    assert_eq!(header.subject.as_deref(), Some("Grüße again"));
    assert_eq!(header.date, Some(Timestamp::from_secs(1_769_900_399)));
    assert_eq!(header.message_id.as_deref(), Some("one@example.com"));
    assert_eq!(header.in_reply_to, ["zero@us.example"]);
    assert_eq!(
        header.references,
        ["minus.one@us.example", "zero@us.example"]
    );
    assert_eq!(header.received_count, 2);
    assert_eq!(header.header("auto-submitted"), Some("no"));
    assert_eq!(header.headers("RECEIVED").count(), 2);
    assert_eq!(
        header.header("subject"),
        Some("=?iso-8859-1?q?Gr=FC=DFe?=  again")
    );

    assert_eq!(view.text.as_deref(), Some("Grüße"));
    assert_eq!(view.html.as_deref(), Some("<p>Grüße</p>"));
    assert_eq!(view.attachments.len(), 2);
    let pdf = &view.attachments[0];
    assert_eq!(pdf.filename.as_deref(), Some("a b.pdf"));
    assert_eq!((pdf.size, pdf.inline), (5, false));
    assert_eq!(pdf.bytes(), "hello");
    let png = &view.attachments[1];
    assert_eq!(png.content_id.as_deref(), Some("pic@example.com"));
    assert_eq!((png.size, png.inline), (3, true));
    assert_eq!(view.children(0).count(), 3);
    assert!(view.flags.is_empty());
    assert_eq!(view.header, self::header(LETTER));
}

#[test]
fn a_text_without_header_is_a_body() {
    let plain = view("Hello there,\nall well?\n");
    assert_eq!(plain.text.as_deref(), Some("Hello there,\nall well?\n"));
    assert!(plain.header.fields().is_empty());
    assert_eq!(view("").text.as_deref(), Some(""));
}

#[test]
fn texts_in_a_row_are_joined_and_files_are_not() {
    let view = view(
        "Content-Type: multipart/mixed; boundary=b\n\n\
         --b\n\none\n\n--b\nContent-Disposition: inline; filename=n.txt\n\nfile\n\
         --b\nContent-Type: text/plain\n\ntwo\n--b--\n",
    );
    assert_eq!(view.text.as_deref(), Some("one\n\ntwo"));
    assert_eq!(view.attachments[0].filename.as_deref(), Some("n.txt"));
    assert_eq!(view.attachments.len(), 1);
}

#[test]
fn a_mail_within_a_mail_stays_shut() {
    let view = view(
        "Content-Type: multipart/mixed; boundary=b\n\n\
         --b\n\nsee below\n--b\nContent-Type: message/rfc822\n\n\
         Subject: inner\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\ninner\n--c--\n--b--\n",
    );
    assert_eq!(view.text.as_deref(), Some("see below"));
    assert_eq!(view.parts.len(), 3);
    let inner = View::parse(&view.attachments[0].bytes());
    assert_eq!(inner.header.subject.as_deref(), Some("inner"));
    assert_eq!(inner.text.as_deref(), Some("inner"));
}

#[test]
fn broken_multiparts_lose_no_words() {
    let no_boundary = "Content-Type: multipart/mixed; boundary=\"\"\n\nwords\n";
    assert_eq!(view(no_boundary).text.as_deref(), Some("words\n"));
    let never_comes = "Content-Type: multipart/mixed; boundary=b\n\nwords\n--c\n";
    assert_eq!(view(never_comes).text.as_deref(), Some("words\n--c\n"));
    let never_closed = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nwords\n";
    assert_eq!(view(never_closed).text.as_deref(), Some("words\n"));
    let prefix = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\
                  Content-Type: multipart/alternative; boundary=bb\n\n\
                  --bb\n\nwords\n--bb--\n--b\n\nmore\n--b--\n";
    assert_eq!(view(prefix).text.as_deref(), Some("words\n\nmore"));
    let named = "Content-Type: multipart/mixed; boundary=b\n\n\
                 --b\nContent-Type: text/plain; name=body.txt\n\nwords\n--b--\n";
    assert_eq!(view(named).text.as_deref(), Some("words"));
    assert!(view(named).attachments.is_empty());
}

#[test]
fn a_quoted_author_is_read_unchanged_or_not_at_all() {
    for local in [
        r"a\\b", r"a\\\\b", r"\\", r"a\\", r"ann\ b", r"a\nn", "a(b)c", "a b",
    ] {
        let written = format!("\"{local}\"@x.example");
        let meant = Address::parse(&written).unwrap();
        for from in [
            format!("From: <{written}>\n\n"),
            format!("From: {written}\n\n"),
        ] {
            let read = header(&from).author().cloned();
            assert!(
                read.is_none() || read.as_ref() == Some(&meant),
                "{from} {read:?}"
            );
        }
    }
}

#[test]
fn from_is_counted_and_never_guessed() {
    let two = header("From: a@x.example\nFrom: b@y.example\n\n");
    assert_eq!((two.from_fields, two.from.len()), (2, 2));
    assert_eq!(two.author(), None);
    assert_eq!(header("From: a@x.example, b@y.example\n\n").author(), None);
    assert_eq!(header("Subject: x\n\n").author(), None);
    for from in [
        "a@bank.example\0",
        "<@evil.example,@bank.example:a@bank.example>",
        "<a@bank.example\u{1}>",
        "boss@bank.example <x@evil.example> <y@evil.example>",
    ] {
        let header = header(&format!("From: {from}\n\n"));
        let bank = Address::parse("a@bank.example").ok();
        assert_ne!(header.author(), bank.as_ref(), "{from:?}");
        assert_ne!(
            header.author().map(|author| author.domain().as_str()),
            Some("bank.example"),
            "{from:?}"
        );
    }
    let quoted = header("From: \"boss@bank.example\" <x@evil.example>\n\n");
    assert_eq!(quoted.from[0].name.as_deref(), Some("boss@bank.example"));
    assert_eq!(quoted.from[0].text, "x@evil.example");
}

#[test]
fn recipients_are_gathered_from_all_fields() {
    let header = header(
        "To: Us <us@us.example>, undisclosed:;\nCc: c@us.example\nX-Original-To: o@us.example\n\
         Delivered-To: <d@us.example>\nDelivered-To: no address\nDelivered-To: e@us.example\n\n",
    );
    let recipients: Vec<_> = header.recipients().iter().map(Address::to_string).collect();
    let expected = ["d", "e", "o", "us", "c"].map(|local| format!("{local}@us.example"));
    assert_eq!(recipients, expected);
}

#[test]
fn flowed_text_is_whole() {
    let flowed = view("Content-Type: text/plain; format=Flowed\n\none \ntwo\n-- \nAnn\n");
    assert_eq!(flowed.text.as_deref(), Some("one two\n-- \nAnn\n"));
    let fixed = view("Content-Type: text/plain; format=fixed\n\none \ntwo\n");
    assert_eq!(fixed.text.as_deref(), Some("one \ntwo\n"));
}

#[test]
fn odd_fields_are_data() {
    let long = "x".repeat(10 * 1024);
    let header = header(&format!(
        "__proto__: 1\nconstructor: 2\nX-Caf\u{e9}: 3\n: 4\n{long}: 5\nSubject: first\nSubject: second\n\
         Message-ID: <a b@x>\nMessage-ID: <c@x>\nX-Folded: a\n b\n\n"
    ));
    assert_eq!(header.header("__proto__"), Some("1"));
    assert_eq!(header.header("constructor"), Some("2"));
    assert_eq!(header.header("x-folded"), Some("a b"));
    assert_eq!(header.subject.as_deref(), Some("first"));
    assert_eq!(header.message_id.as_deref(), Some("c@x"));
    assert_eq!(header.fields().len(), 7);
}

#[test]
fn hostile_message_ids_are_none() {
    let long = "x".repeat(100 * 1024);
    for id in ["<a\0b@x>", "<>", "", &format!("<{long}@x>"), "<a\u{85}b@x>"] {
        let header = header(&format!("Message-ID: {id}\nReferences: {id} <ok@x>\n\n"));
        assert_eq!(header.message_id, None, "{id:?}");
    }
    let path = header("Message-ID: <../../etc/x>\n\n");
    assert_eq!(path.message_id.as_deref(), Some("../../etc/x"));
}

#[test]
fn references_keep_the_newest() {
    let ids: Vec<String> = (0..500).map(|n| format!("<{n}@x>")).collect();
    let header = header(&format!("References: {}\n\n", ids.join("\n ")));
    assert_eq!(header.references.len(), REFERENCES_MAX);
    assert_eq!(header.references.last().map(String::as_str), Some("499@x"));
}

#[test]
fn dates_that_are_none_are_none() {
    for date in [
        "31 Jan 99999999999999999999 23:59:59 +0000",
        "99 Foo 2026 99:99:99",
        "31 Dec 1969 23:59:59 +0000",
        "\0",
        "",
    ] {
        assert_eq!(header(&format!("Date: {date}\n\n")).date, None, "{date}");
    }
    let leap = header("Date: 31 Dec 2016 23:59:60 +0000\n\n");
    assert!(leap.date.is_none_or(|date| date.as_secs() == 1_483_228_800));
}

#[test]
fn words_are_valid_text_without_controls() {
    let mail =
        b"Subject: =?utf-8?q?a=00b=0D=0ABcc:_x?=\xff\r\nFrom: =?utf-8?q?=E2=80=AEevil?= <a@x>\r\n\
        Content-Type: text/plain; charset=utf-7\r\n\r\n+2AA-lone\0\x1b[31m\r\n";
    let view = View::parse(&Bytes::from_static(mail));
    let subject = view.header.subject.unwrap();
    assert!(subject.starts_with("a b"), "{subject:?}");
    assert!(!subject.chars().any(char::is_control), "{subject:?}");
    let text = view.text.unwrap();
    assert!(text.contains("lone[31m\n"), "{text:?}");
}

#[test]
fn line_ends_are_one_and_controls_are_none() {
    for (text, clean) in [
        ("", ""),
        ("a\r\nb\rc\nd\t", "a\nb\nc\nd\t"),
        ("\r\r\n\r", "\n\n\n"),
        ("a\0\u{1b}\u{7f}\u{85}\u{9f}b", "ab"),
        ("\u{a0}Â\u{bf}é\u{2028}", "\u{a0}Â\u{bf}é\u{2028}"),
    ] {
        assert_eq!(normalised(text), clean, "{text:?}");
    }
}

#[test]
fn words_below_a_long_style_sheet_are_the_text() {
    let page = |words: &str| {
        let style = "p { margin: 0 } ".repeat(500);
        view(&format!(
            "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/html\n\n\
             <style>{style}</style><p>{words}</p>\n--b\n\
             Content-Type: text/plain; name=a.txt\n\nfile\n--b--\n"
        ))
    };
    assert_eq!(page("Hello").text, None);
    assert_eq!(page("&nbsp;").text.as_deref().map(str::trim), Some("file"));
}

#[test]
fn file_names_are_only_names() {
    for (raw, name) in [
        ("../../a", Some("a")),
        ("C:\\x\\y.txt", Some("y.txt")),
        ("a.html%00.png", Some("a.html%00.png")),
        ("\u{202e}gpj.exe", Some("gpj.exe")),
        ("a\0b\r\n.png", Some("ab.png")),
        ("..", None),
        ("/", None),
        ("CON", Some("CON")),
    ] {
        assert_eq!(names::cleaned(raw).as_deref(), name, "{raw:?}");
    }
    let long = names::cleaned(&format!("{}.pdf", "ä".repeat(5_000))).unwrap();
    assert_eq!(long.chars().count(), 113);
    assert!(long.ends_with(".pdf"));
}

#[test]
fn a_comma_in_a_name_without_quotes_makes_no_second_author() {
    let named = header("From: Müller, Anna <anna@example.org>\n\n");
    assert_eq!(named.author().unwrap().to_string(), "anna@example.org");
    assert_eq!(named.from[0].name.as_deref(), Some("Müller, Anna"));
    for two in [
        "From: a@b.example, Anna <anna@example.org>\n\n",
        "From: Boss <a@b.example>, Anna <anna@example.org>\n\n",
    ] {
        assert_eq!(header(two).author(), None, "{two}");
    }
}

#[test]
fn encoded_message_ids_are_read() {
    let header = header("In-Reply-To: =?utf-8?q?=3Cn-4711=40inbox=2Eexample=2Ecom=3E?=\n\n");
    assert_eq!(header.in_reply_to, ["n-4711@inbox.example.com"]);
}

#[test]
fn a_page_without_its_type_is_a_page() {
    let page = view("Content-Type: text/plain\n\n<html>\n<body><p>Hi</p></body></html>\n");
    assert_eq!(page.text, None);
    assert!(page.html.unwrap().contains("<p>Hi</p>"));
    for typed in ["Use <b>bold</b> &amp; <i>so</i>", "<3 you all", "a <p> tag"] {
        let view = view(&format!("Content-Type: text/plain\n\n{typed}\n"));
        assert_eq!(view.text.unwrap().trim_end(), typed);
    }
}

#[test]
fn long_text_is_cut_and_flagged() {
    let body = "ä".repeat(TEXT_BYTES_MAX);
    let view = view(&format!("Subject: long\n\n{body}"));
    assert_eq!(flags(&view), [Flag::TextCut]);
    assert_eq!(view.text.unwrap().len(), TEXT_BYTES_MAX);
    let whole = &view.attachments[0];
    assert_eq!(whole.filename.as_deref(), Some("text.txt"));
    assert_eq!(whole.content_type, "text/plain");
    assert_eq!(whole.bytes(), body.as_bytes());
    let exact = self::view(&format!("Subject: x\n\n{}", "a".repeat(TEXT_BYTES_MAX)));
    assert!(exact.flags.is_empty());
}

#[test]
fn a_mail_that_was_cut_is_attached_whole() {
    let half = "a".repeat(TEXT_BYTES_MAX / 2);
    let texts = view(&format!(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\n\n{half}\n--b\n\n{half}\n--b\n\nTHE END\n--b--\n"
    ));
    assert_eq!(flags(&texts), [Flag::TextCut]);
    let wholes: Vec<usize> = texts.attachments.iter().map(|whole| whole.size).collect();
    assert_eq!(wholes, [half.len(), 7]);
    let mail = format!(
        "Content-Type: multipart/mixed; boundary=b\n\n{}--b\n\nTHE END\n--b--\n",
        "--b\nContent-Disposition: attachment\n\nx\n".repeat(1_500)
    );
    let many = view(&mail);
    assert_eq!(flags(&many), [Flag::TooManyParts]);
    let whole = many.attachments.first().unwrap();
    assert_eq!(whole.filename.as_deref(), Some("message.eml"));
    assert_eq!(whole.content_type, "message/rfc822");
    assert_eq!(whole.bytes(), mail.replace('\n', "\r\n"));
}

proptest! {
    #[test]
    fn no_bytes_panic(mail in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        View::parse(&mail.into());
    }

    #[test]
    fn no_structure_panics(lines in proptest::collection::vec(prop_oneof![
        Just("Content-Type: multipart/mixed; boundary=a\r\n"),
        Just("Content-Type: multipart/alternative; boundary=aa\n"),
        Just("Content-Type: multipart/related; boundary*0=a; boundary*1=b\n"),
        Just("Content-Type: message/rfc822\r\n"),
        Just("Content-Type: text/html; charset=\"iso-2022-jp\r\n"),
        Just("Content-Disposition: attachment; filename*=utf-8''%E2%82%AC\r\n"),
        Just("Content-Transfer-Encoding: base64\r\n"),
        Just("Content-Transfer-Encoding: quoted-printable\n"),
        Just("\r\n"), Just("\n"), Just("--a\r\n"), Just("--aa\n"), Just("--a--"), Just("--ab\n"),
        Just(" folded\r\n"), Just("words =E9=\n"), Just("From: (a\\) <b@c>, d:;\r\n"),
    ], 0..60)) {
        let mail = Bytes::from(lines.concat());
        let view = View::parse(&mail);
        for part in &view.parts {
            prop_assert!(part.bytes().len() <= mail.len());
        }
        for attachment in &view.attachments {
            prop_assert_eq!(attachment.bytes().len(), attachment.size);
        }
    }
}

#[test]
fn words_that_look_like_a_field_are_words() {
    for text in [
        "Thanx :-)\n\nSent from a phone\n",
        "Hey:)\n",
        "One: this is what I have.\nTwo: that as well.\nAnd nothing more\n\nAnn\n",
        "https://a.example/b is broken\n\nplease look\n",
    ] {
        let view = view(text);
        assert!(view.header.fields().is_empty(), "{text}");
        let words = view.text.unwrap();
        assert_eq!(words.trim(), text.trim());
    }
    let mail = view("Status: open\nX-Id: 1\n\nwords\n");
    assert_eq!(mail.text.unwrap().trim(), "words");
}
