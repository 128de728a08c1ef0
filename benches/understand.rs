//! Measures the whole understanding of a mail: its parts, its kind, its fingerprint, its reply.
//!
//! `cargo bench --bench understand` prints the median of each mail in microseconds.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use postern::mail::kind::{ClassifyContext, classify};
use postern::mail::reply::{ReplyInput, extract};
use postern::mail::subject::Subject;
use postern::mail::view::View;

/// The time for which each mail is read repeatedly.
const PATIENCE: Duration = Duration::from_secs(2);
/// The text that was sent before.
const KNOWN: &str = "Hello Ann,\n\nyour order 4711 has been shipped. It should arrive on Thursday.\n\n\
                     Do you need an invoice?\n\nThe Shop Team";
const PROSE: &str =
    "The quick brown fox jumps over the lazy dog, and then it sleeps in the sun for a while.";

fn main() {
    let mails = [
        ("4 KiB text", text(4 * 1024)),
        ("4 KiB text and HTML", both(4 * 1024)),
        ("64 KiB text", text(64 * 1024)),
        ("64 KiB HTML", page(64 * 1024)),
    ];
    for (name, mail) in mails {
        let only = std::env::args()
            .nth(1)
            .filter(|only| !only.starts_with('-'));
        if only.is_some_and(|only| !name.contains(&only)) {
            continue;
        }
        let (median, count) = median(&Bytes::from(mail.clone()));
        println!(
            "{name:24} {:>7} octets {:>9.1} µs   ({count} runs)",
            mail.len(),
            median.as_secs_f64() * 1e6
        );
    }
}

/// The median of the time for a mail, and the number of runs.
fn median(mail: &Bytes) -> (Duration, usize) {
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < PATIENCE {
        let started = Instant::now();
        understand(mail);
        times.push(started.elapsed());
    }
    times.sort_unstable();
    (times[times.len() / 2], times.len())
}

fn understand(mail: &Bytes) {
    let view = View::parse(mail);
    let found = classify(&view, &ClassifyContext::UNKNOWN);
    let subject = view.header.subject.clone().unwrap_or_default();
    let reply = extract(&ReplyInput {
        text: view.text.as_deref(),
        html: view.html.as_deref(),
        subject: &subject,
        known: &[KNOWN],
        ..ReplyInput::default()
    });
    black_box((Subject::of(&subject), found, reply));
}

fn header(kind: &str) -> String {
    let mut header = String::new();
    for hop in 1..=4 {
        header.push_str(&format!(
            "Received: from mail-{hop}.example.org (mail-{hop}.example.org [192.0.2.{hop}])\r\n\
             \tby mx-{hop}.example.com with ESMTPS id 4Qx{hop}zz; Tue, 17 Nov 2026 09:12:4{hop} +0100\r\n"
        ));
    }
    header
        + &format!(
            "From: =?utf-8?Q?J=C3=BCrgen_Gro=C3=9F?= <jg@example.org>\r\nTo: Shop <reply+abc@inbox.example.com>\r\n\
             Subject: Re: Your order 4711\r\nDate: Tue, 17 Nov 2026 09:12:44 +0100\r\n\
             Message-ID: <c2-135@mail.example.org>\r\nIn-Reply-To: <n-4711@inbox.example.com>\r\n\
             References: <n-4711@inbox.example.com>\r\nMIME-Version: 1.0\r\nContent-Type: {kind}\r\n"
        )
}

/// A reply above a quote with marks, which takes up the rest of the size.
fn plain(size: usize) -> String {
    let mut body = format!(
        "Hello,\r\n\r\n{PROSE}\r\nPlease send it to 5 Harbour Road.\r\n\r\nBest regards\r\nAnn\r\n\r\n\
         On Mon, 16 Nov 2026 at 10:11, Shop <reply+abc@inbox.example.com> wrote:\r\n"
    );
    for line in KNOWN.lines() {
        body.push_str(&format!("> {line}\r\n"));
    }
    while body.len() < size {
        body.push_str(&format!(">> {PROSE}\r\n>>\r\n"));
    }
    body
}

fn html(size: usize) -> String {
    let mut body = format!(
        "<html><head><style>p.MsoNormal {{margin:0cm; font-size:11.0pt;}} a:link {{color:#0563C1;}}</style></head>\
         <body lang=\"EN\"><div dir=\"ltr\"><p class=\"MsoNormal\">Hello,</p><p class=\"MsoNormal\">{PROSE}</p>\
         <p class=\"MsoNormal\">Please send it to 5 Harbour Road.</p></div><br><div class=\"gmail_quote\">\
         <div dir=\"ltr\" class=\"gmail_attr\">On Mon, 16 Nov 2026 at 10:11, Shop &lt;<a \
         href=\"mailto:reply+abc@inbox.example.com\">reply+abc@inbox.example.com</a>&gt; wrote:<br></div>\
         <blockquote class=\"gmail_quote\" style=\"margin:0px 0px 0px 0.8ex;padding-left:1ex\">"
    );
    for line in KNOWN.lines() {
        body.push_str(&format!("<p>{line}</p>\r\n"));
    }
    while body.len() + 30 < size {
        body.push_str(&format!(
            "<table width=\"100%\"><tr><td style=\"font-size:14px;color:#222222\"><p class=\"MsoNormal\">\
             <span style=\"font-family:Arial,sans-serif\">{PROSE}</span></p></td></tr></table>\r\n"
        ));
    }
    body + "</blockquote></div></body></html>\r\n"
}

fn text(size: usize) -> String {
    let header = header("text/plain; charset=utf-8");
    let size = size.saturating_sub(header.len());
    format!("{header}\r\n{}", plain(size))
}

fn page(size: usize) -> String {
    let header = header("text/html; charset=utf-8");
    let size = size.saturating_sub(header.len());
    format!("{header}\r\n{}", html(size))
}

fn both(size: usize) -> String {
    let header = header("multipart/alternative; boundary=b1");
    let each = size.saturating_sub(header.len()) / 2;
    format!(
        "{header}\r\n--b1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{}\r\n--b1\r\n\
         Content-Type: text/html; charset=utf-8\r\n\r\n{}\r\n--b1--\r\n",
        plain(each.saturating_sub(100)),
        html(each.saturating_sub(100))
    )
}
