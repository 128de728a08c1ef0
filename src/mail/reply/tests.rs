use proptest::prelude::*;

use super::*;

/// Lines with a meaning for the extraction, and some without.
const LINES: &[&str] = &[
    "",
    "  ",
    "Yes, please.",
    "a",
    "> quoted words",
    ">> deeper",
    ">",
    "> > On Mon, 3 Mar 2025 Bob <bob@b.example> wrote:",
    "On Tue, 4 Mar 2025 at 10:11, Ann <ann@a.example> wrote:",
    "On Tue, 4 Mar 2025 at 10:11, Ann <",
    "ann@a.example> wrote:",
    "> wrote:",
    "On Monday I wrote:",
    "-----Original Message-----",
    "---------- Forwarded message ---------",
    "From: Ann <ann@a.example>",
    "Sent: Tuesday, 4 March 2025 10:11",
    "To: Bob",
    "Subject: Hi",
    "________________________________",
    "--",
    "-- ",
    "---",
    "Sent from my iPhone",
    "Best regards,",
    "Ann Smith",
    "+44 20 7946 0000",
    "This e-mail is confidential and privileged; delete it if you are not the intended recipient.",
    "Reply above this line",
    "| a | b |",
    "```",
    "AS> initials",
    "Hello Ann, your order has been shipped and will arrive on Thursday.",
    "CAUTION: This email originated from outside the organization.",
    "-----BEGIN PGP SIGNATURE-----",
    "ok On Tue, 4 Mar 2025 at 10:11 Ann <ann@a.example> wrote: glued",
    "http://a.example/very/long/link",
];

const KNOWN: &[&str] = &["Hello Ann, your order has been shipped and will arrive on Thursday."];

#[test]
fn earlier_mail_that_repeats_our_text_is_no_answer() {
    const OURS: &str =
        "It left our house on Monday at nine, that is part 1.\n\nBest regards from the whole team";
    let quote = "<p>It left our house on Monday at nine, that is part 1.</p>\
        <p>Best regards from the whole team</p><p>Earlier in this conversation</p><p>Ann Smith</p>\
        <p>With the green door.</p><p>Sam</p><p>It left our house on Monday at nine, that is part 0.</p>\
        <p>Best regards from the whole team</p>";
    let html = format!("<div>Yes please.</div><blockquote>{quote}</blockquote>");
    let reply = extract(&ReplyInput {
        html: Some(&html),
        known: &[OURS],
        ..ReplyInput::default()
    });
    assert_eq!(reply.text, "Yes please.");
    // Text typed into our words is an answer.
    let html = html.replacen("<p>Best", "<p>Not here, to my neighbour.</p><p>Best", 1);
    let reply = extract(&ReplyInput {
        html: Some(&html),
        known: &[OURS],
        ..ReplyInput::default()
    });
    assert!(reply.text.contains("to my neighbour") && !reply.text.contains("green door"));
}

fn letters_of(text: &str) -> Vec<char> {
    let mut letters: Vec<char> = letters(text).collect();
    letters.sort_unstable();
    letters
}

fn all_letters(reply: &Reply) -> Vec<char> {
    letters_of(&format!(
        "{}{}{}",
        reply.text, reply.quoted, reply.signature
    ))
}

fn cut_text(body: &str, known: &[&str]) -> Reply {
    extract(&ReplyInput {
        text: Some(body),
        known,
        ..ReplyInput::default()
    })
}

fn cut_html(body: &str) -> Reply {
    extract(&ReplyInput {
        html: Some(body),
        known: KNOWN,
        ..ReplyInput::default()
    })
}

#[test]
fn quotes_of_a_mail_that_answers_nothing_are_its_authors() {
    let text = "Your colleague promised me this:\n\n> We will refund the delivery costs.\n";
    let input = ReplyInput {
        text: Some(text),
        ..ReplyInput::default()
    };
    assert!(!extract(&input).quoted.is_empty());
    let first = extract(&ReplyInput {
        answers_nothing: true,
        ..input
    });
    assert!(first.text.contains("We will refund"), "{first:?}");
    assert_eq!(first.quoted, "");
}

proptest! {
    #[test]
    fn nothing_is_lost(picks in prop::collection::vec(0..LINES.len(), 0..24), ours in any::<bool>()) {
        let body: Vec<&str> = picks.iter().map(|pick| LINES[*pick]).collect();
        let body = body.join("\n");
        let reply = cut_text(&body, if ours { KNOWN } else { &[] });
        prop_assert_eq!(all_letters(&reply), letters_of(&body));
        prop_assert_eq!(reply.text.is_empty(), body.trim().is_empty());
    }

    #[test]
    fn nothing_is_lost_of_html(picks in prop::collection::vec((0..LINES.len(), 0..9usize), 0..24)) {
        let mut html = String::new();
        let mut words = String::new();
        for (pick, frame) in picks {
            let line = LINES[pick].replace('<', "&lt;");
            words.push_str(LINES[pick]);
            html.push_str(&match frame {
                0 => format!("<div>{line}</div>"),
                1 => format!("<p>{line}"),
                2 => format!("{line}<br>"),
                3 => format!("<blockquote type=cite>{line}</blockquote>"),
                4 => format!("<div class=gmail_quote>{line}"),
                5 => format!("<ul>{line}</ul></div>"),
                6 => format!("<table><tr><td>{line}</table>"),
                7 => format!("<div class='gmail_signature'>{line}</div>"),
                _ => format!("<div id=appendonsend></div>{line}"),
            });
        }
        prop_assert_eq!(all_letters(&cut_html(&html)), letters_of(&words));
    }

    #[test]
    fn any_text_is_cut(body in "\\PC{0,200}", known in "\\PC{0,60}") {
        let reply = cut_text(&body, &[known.as_str()]);
        prop_assert_eq!(all_letters(&reply), letters_of(&body));
    }

    #[test]
    fn any_bytes_as_html_leave_safe(body in "(<(a|b|img|svg|math|style|p|div|td|blockquote|script)( (href|src|onclick|style)=\"?(javascript:x|//e|cid:1|x)\"?)?>?|</(a|p|svg|td|div|style)>|[a-z <>&\"'=/]{0,6}){0,40}") {
        let html = cut_html(&body).html.unwrap_or_default();
        // Quoted attribute values may contain anything except the forbidden schemes.
        let bare = fold::pattern("\"[^\"]*\"").replace_all(&html, "");
        for bad in ["<script", "<svg", "<math", "<style", "onclick=", "style="] {
            prop_assert!(!bare.contains(bad), "{bad} in {html}");
        }
        for bad in ["=\"javascript:", "src=\"//", "src=\"x"] {
            prop_assert!(!html.contains(bad), "{bad} in {html}");
        }
    }
}

#[test]
fn hostile_texts_end() {
    let mib = 1024 * 1024;
    for unit in [">", "x", "On 4 Mar 2025 X <x@y.example> wrote: "] {
        let reply = cut_text(&unit.repeat(10 * mib / unit.len()), KNOWN);
        assert!(reply.truncated);
        assert!(reply.text.len() + reply.quoted.len() + reply.signature.len() <= 2 * mib);
    }
    for unit in [
        "> ",
        "On Tue, 4 Mar 2025 at 10:11, X wrote\n",
        "<\n",
        "--\nAnn\n",
        "From: a@b.example\n",
        "> a\nb\n",
        "```\n",
    ] {
        let body = unit.repeat(mib / 4 / unit.len());
        let reply = cut_text(&body, KNOWN);
        assert_eq!(all_letters(&reply).len(), letters_of(&body).len());
    }
}

#[test]
fn hostile_html_ends() {
    for unit in [
        "<div>a",
        "<blockquote>",
        "<a b='c' d=e>",
        "</p>",
        "<table><tr><td>",
        "<!--",
        "<a ",
        "&amp",
        "<img src=data:image/png;base64,AAAA>",
    ] {
        let reply = cut_html(&unit.repeat(256 * 1024 / unit.len()));
        assert!(reply.text.len() <= 2 * 1024 * 1024);
    }
    let one_tag = format!("<p {}>x", "a=b ".repeat(1024 * 1024));
    assert_eq!(cut_html(&one_tag).text, "x");
}

#[test]
fn an_empty_mail_is_empty() {
    assert_eq!(extract(&ReplyInput::default()), Reply::default());
    assert_eq!(cut_text(" \n \n", &[]).text, "");
}

#[test]
fn a_cut_part_is_marked_as_truncated() {
    assert!(cut_text(&"a ".repeat(TEXT_BYTES_MAX), &[]).truncated);
    assert!(!cut_text("a", &[]).truncated);
}

#[test]
fn the_part_with_more_text_is_chosen() {
    let both = |text: &str, html: &str| {
        extract(&ReplyInput {
            text: Some(text),
            html: Some(html),
            ..ReplyInput::default()
        })
        .text
    };
    assert_eq!(both("", "<p>words"), "words");
    assert_eq!(both("words", "<p></p>"), "words");
    assert_eq!(both("one\ntwo", "<p>one two</p>"), "one two");
    assert_eq!(both("a  b", "<p>a b</p>"), "a  b");
}

/// The input exceeds the number of lines and elements that are examined one by one.
#[test]
fn text_beyond_the_bounds_is_kept() {
    let lines = 3 * text::LINES_MAX;
    let body: String = (0..lines).map(|at| format!("line {at}\n")).collect();
    let reply = cut_text(&body, KNOWN);
    assert_eq!(all_letters(&reply), letters_of(&body));
    let quoted =
        format!("Yes.\n\nOn Tue, 4 Mar 2025 at 10:11, Ann <ann@a.example> wrote:\n\n{body}");
    let reply = cut_text(&quoted, &[]);
    assert_eq!(reply.text, "Yes.");
    assert_eq!(all_letters(&reply), letters_of(&quoted));
    for (open, close) in [
        ("<p>", "</p>"),
        ("", "<br>"),
        ("<tr><td>", "<td>x</tr>"),
        ("<blockquote>", ""),
    ] {
        let page: String = (0..lines)
            .map(|at| format!("{open}line {at} {close}"))
            .collect();
        let plain = page.replace("<td>x</tr>", "x").replace("<tr><td>", "");
        let plain = ["<p>", "</p>", "<br>", "<blockquote>"]
            .iter()
            .fold(plain, |plain, tag| plain.replace(tag, ""));
        assert_eq!(all_letters(&cut_html(&page)), letters_of(&plain), "{open}");
    }
    assert_eq!(cut_html(&"<p>word</p>".repeat(100_000)).html, None);
}
