//! Shows that cutting replies takes time linear in the mail, on input made to hurt.
//!
//! `cargo run --release --example reply_timing` prints milliseconds by size; with a file name it
//! prints what is cut out of that text (`.html`: of that HTML).
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::time::Instant;

use postern::mail::reply::{Input, extract};

fn main() {
    if let Some(path) = std::env::args().nth(1) {
        return show(&path);
    }
    let cases: [(&str, &str, bool); 20] = [
        ("marks", ">", false),
        ("mark lines", ">\n", false),
        ("words", "lorem ", false),
        ("one-letter lines", "a\n", false),
        ("blank lines", "\n", false),
        (
            "on-wrote fragments",
            "On Tue, 4 Mar 2025 at 10:11, X wrote\n",
            false,
        ),
        (
            "on-wrote lines",
            "a\nOn Tue, 4 Mar 2025 at 10:11, X <x@y.example> wrote:\n> b\n",
            false,
        ),
        (
            "on-wrote on one line",
            "On 4 Mar 2025 X <x@y.example> wrote: ",
            false,
        ),
        ("open brackets", "On 4 Mar 2025 at 10:11 <\n", false),
        ("delimiters", "--\n", false),
        ("delimiters and words", "--\na b\n\n", false),
        ("header lines", "From: a@b.example\n", false),
        ("header blocks", "From: a\nTo: b\n\n", false),
        ("sent from", "Sent from my iPhone\n", false),
        ("paragraphs", "a confidential virus\n\n", false),
        ("interleaved", "> a\nb\n", false),
        ("html divs", "<div>a", true),
        ("html tables", "<table><tr><td>a<td>b", true),
        ("html rows", "<tr><td>a<td><p>b</p>", true),
        ("html attributes", "<a b='c' d=e href=f>x</a></b></i>", true),
    ];
    println!(
        "{:24} {:>9} {:>9} {:>9}",
        "milliseconds for", "256 KiB", "512 KiB", "1 MiB"
    );
    for (name, unit, html) in cases {
        print!("{name:24}");
        for kib in [256, 512, 1024] {
            let body = format!("Hello\n\n{}", unit.repeat(kib * 1024 / unit.len()));
            let started = Instant::now();
            let reply = extract(&Input {
                text: (!html).then_some(body.as_str()),
                html: html.then_some(body.as_str()),
                known: &["Hello Ann, your order has been shipped and will arrive on Thursday."],
                ..Input::default()
            });
            std::hint::black_box(&reply);
            print!(" {:>9.1}", started.elapsed().as_secs_f64() * 1000.0);
        }
        println!();
    }
}

fn show(path: &str) {
    let body = std::fs::read_to_string(path).unwrap_or_default();
    let html = path.ends_with(".html");
    let reply = extract(&Input {
        text: (!html).then_some(body.as_str()),
        html: html.then_some(body.as_str()),
        ..Input::default()
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
