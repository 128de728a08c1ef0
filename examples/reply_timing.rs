//! Shows that the reply extraction takes time linear in the mail, on hostile input.
//!
//! `cargo run --release --example reply_timing` prints milliseconds by size, the best of three; with a file
//! name it prints the parts of that text (`.html`: of that HTML).
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::time::Instant;

use postern::mail::reply::{ReplyInput, extract};

/// The sizes that are measured.
const SIZES_KIB: [usize; 3] = [64, 256, 1024];

/// The number of runs of each size, of which the best counts: a busy machine only makes them slower.
const RUNS: usize = 3;

fn main() {
    if let Some(path) = std::env::args().nth(1) {
        return show(&path);
    }
    println!(
        "{:24} {:>8} {:>8} {:>8}   1 MiB / 256 KiB",
        "milliseconds for", "64 KiB", "256 KiB", "1 MiB"
    );
    let mut worst = 0.0;
    for (name, unit, html) in texts().into_iter().chain(blocks()).chain(pages()) {
        let [small, middle, large] = SIZES_KIB.map(|kib| {
            let body = format!("Hello\n\n{}", unit.repeat(kib * 1024 / unit.len()));
            (0..RUNS).map(|_| run(&body, html)).fold(f64::MAX, f64::min)
        });
        worst = f64::max(worst, large);
        println!(
            "{name:24} {small:>8.1} {middle:>8.1} {large:>8.1}   {:>8.1}",
            large / middle
        );
    }
    println!("worst: {worst:.1}");
}

/// The time in milliseconds for a body.
fn run(body: &str, html: bool) -> f64 {
    let started = Instant::now();
    let reply = extract(&ReplyInput {
        text: (!html).then_some(body),
        html: html.then_some(body),
        known: &["Hello Ann, your order has been shipped and will arrive on Thursday."],
        ..ReplyInput::default()
    });
    std::hint::black_box(&reply);
    started.elapsed().as_secs_f64() * 1000.0
}

/// A text that is repeated, and true if it is HTML.
type Case = (&'static str, String, bool);

fn texts() -> Vec<Case> {
    let wide = "On Tue, 4 Mar 2025 at 10:11, Ann Somebody from a Place ".repeat(6) + "\n";
    let units = [
        ("marks", ">"),
        ("mark lines", ">\n"),
        ("words", "lorem "),
        ("one-letter lines", "a\n"),
        ("blank lines", "\n"),
        ("ten-letter lines", "abcde fghi\n"),
        (
            "prose lines",
            "The quick brown fox jumps over the lazy dog and then it sleeps.\n",
        ),
        (
            "prose paragraphs",
            "The quick brown fox jumps over the lazy dog and then it sleeps.\n\n",
        ),
        ("cjk lines", "お荷物は月曜日の午前中に届く予定です。\n"),
        ("cjk one line", "お荷物は月曜日の午前中に届く予定です。"),
        ("arabic lines", "الأخضر من فضلك مع تحياتي\n"),
        (
            "on-wrote fragments",
            "On Tue, 4 Mar 2025 at 10:11, X wrote\n",
        ),
        (
            "on-wrote lines",
            "a\nOn Tue, 4 Mar 2025 at 10:11, X <x@y.example> wrote:\n> b\n",
        ),
        (
            "on-wrote wrapped",
            "On Tue,\n4 Mar 2025\nat 10:11,\nX <x@y.example>\nwrote:\n",
        ),
        ("on-wrote wide", wide.as_str()),
        ("on-wrote one line", "On 4 Mar 2025 X <x@y.example> wrote: "),
        ("colons", "a:\n"),
        ("brackets", ">\na>\n"),
        ("open brackets", "On 4 Mar 2025 at 10:11 <\n"),
        (
            "glue",
            "x <a@b.example> On 4 Mar 2025 at 10:11 y <a@b.example>\n",
        ),
        ("dashes", "----------- original\n"),
        ("delimiters", "--\n"),
        ("delimiters and words", "--\na b\n\n"),
    ];
    units
        .map(|(name, unit)| (name, unit.to_owned(), false))
        .to_vec()
}

fn blocks() -> Vec<Case> {
    let units = [
        ("header lines", "From: a@b.example\n"),
        ("header blocks", "From: a\nTo: b\n\n"),
        ("header x", "Subject: b\nx\n"),
        ("sent from", "Sent from my iPhone\n"),
        ("sent froms", "Sent from my iPhone\n\n"),
        ("paragraphs", "a confidential virus\n\n"),
        ("interleaved", "> a\nb\n"),
        ("cards", "Best regards,\nAnn Smith\n+44 20 7946 0000\n\n"),
        ("names", "Ann Smith\n"),
        ("known words", "Hello Ann, your order\n"),
        (
            "known text",
            "Hello Ann, your order has been shipped and will arrive on Thursday.\n",
        ),
        (
            "known torn",
            "Hello\nAnn, your\norder has been\nshipped x and will arrive on\n",
        ),
        (
            "quoted attributions",
            "> On 4 Mar 2025 X <x@y.example> wrote:\nb\n",
        ),
        ("letters", "a "),
        ("dot lines", ".\n"),
        ("code lines", "foo(1);)\n"),
        ("fences", "```\n"),
        ("entities", "&gt;\n"),
        ("pgp", "-----BEGIN PGP SIGNATURE-----\n"),
    ];
    units
        .map(|(name, unit)| (name, unit.to_owned(), false))
        .to_vec()
}

fn pages() -> Vec<Case> {
    let units = [
        ("html divs", "<div>a"),
        ("html tables", "<table><tr><td>a<td>b"),
        ("html rows", "<tr><td>a<td><p>b</p>"),
        ("html attributes", "<a b='c' d=e href=f>x</a></b></i>"),
        ("html quotes", "<blockquote>a"),
        ("html brs", "a<br>"),
        ("html ps", "<p>a</p>"),
        ("html entities", "&amp;&lt;&nbsp;&#x41;&bogus"),
        ("html lt", "<"),
        ("html closers", "</div>"),
        ("html comments", "<!--"),
        ("html text", "lorem ipsum "),
        ("html imgs", "<img src=cid:a alt=b>"),
        ("html links", "<a href=http://a.example/b>c</a> "),
        ("html spans", "<span>"),
        ("html lis", "<ul><li>a"),
        ("html cells", "<td>a</td>"),
        ("html nest", "<table><tr><td>"),
        ("html attr quote", "<p a=\""),
        ("html sig", "<div class=gmail_signature>a</div><p>b</p>"),
        ("html bq", "<blockquote type=cite>a</blockquote>b<br>"),
        ("html pre", "<pre>a\nb\n"),
        ("html cjk", "<p>お荷物は月曜日の午前中に</p>"),
        ("html b", "<b>a</b>"),
        ("html entity mix", "&eacute;&#8364;&nosuch;a"),
        (
            "html style",
            "<p style='border:none;border-top:solid #e1e1e1'>a</p>",
        ),
    ];
    units
        .map(|(name, unit)| (name, unit.to_owned(), true))
        .to_vec()
}

fn show(path: &str) {
    let body = std::fs::read_to_string(path).unwrap_or_default();
    let html = path.ends_with(".html");
    let reply = extract(&ReplyInput {
        text: (!html).then_some(body.as_str()),
        html: html.then_some(body.as_str()),
        ..ReplyInput::default()
    });
    println!(
        "[{} {}]\n{}",
        reply.method.as_str(),
        reply.confidence.as_str(),
        reply.text
    );
    println!(
        "[quoted]\n{}\n[signature]\n{}",
        reply.quoted, reply.signature
    );
    if let Some(html) = reply.html {
        println!("[html]\n{html}");
    }
}
