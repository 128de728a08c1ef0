//! The HTML of a mail in a real browser: it fits on a phone, and dark mode is dark.

use std::process::Command;

use super::Desk;
use crate::needs::required;

/// The names of the browser in Debian and elsewhere.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const PHONE_PIXELS: u32 = 390;

/// Measurements of a page in the browser.
struct Measured {
    /// The width of the page in a viewport of [`PHONE_PIXELS`].
    width: u32,
    /// The luminance of background and text, 0 to 255.
    ground: u32,
    words: u32,
}

#[test]
fn no_page_is_wider_than_a_phone_and_both_schemes_can_be_read() {
    let Some(browser) = browser() else {
        return;
    };
    let desk = Desk::new();
    let word = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerk".repeat(6);
    let rows = "<tr><td>a cell with words</td><td>another cell</td></tr>".repeat(3);
    let html = format!("<h1>{word}</h1><pre>{word}</pre><table>{rows}</table><ul><li>{word}</ul>");
    let html = desk.write("own.html", &html);
    let history = desk.write("history.txt", &format!("{word} שלום {word}"));
    let file = desk.write(&format!("{}.pdf", &word[..100]), "x");
    let text = format!(
        "{word}\n\nhttps://example.com/{word}\n\nשלום {word}\n\n{}",
        "1. item\n".repeat(60)
    );
    let full = [
        "--sender-name",
        &word,
        "--product-name",
        &word,
        "--attach",
        &file,
        "--history",
        &history,
        "--history",
        &history,
    ];
    for (text, more) in [
        ("Yes.", &[][..]),
        (&text, &full),
        ("x", &["--html", &html, "--sender-name", "أحمد"]),
    ] {
        let page = desk.compose(text, &[more, &["--part", "html"]].concat());
        let light = measured(&desk, browser, &page, false);
        let dark = measured(&desk, browser, &page, true);
        for (scheme, page) in [("light", &light), ("dark", &dark)] {
            assert_eq!(page.width, PHONE_PIXELS, "{scheme}: wider than a phone");
        }
        assert!(light.ground > 200 && light.words < 80, "light");
        assert!(dark.ground < 80 && dark.words > 180, "dark");
    }
}

#[test]
fn a_page_that_is_too_wide_is_seen() {
    let Some(browser) = browser() else {
        return;
    };
    let page = "<meta name=\"viewport\" content=\"width=device-width\"><div class=\"card text\" \
        style=\"width:700px;background:#123456;color:#fff\">x</div>";
    let wide = measured(&Desk::new(), browser, page, false);
    assert!(wide.width >= 700, "{}", wide.width);
    assert_eq!((wide.ground, wide.words), (52, 255));
}

/// A browser, or a visible notice that there is none.
fn browser() -> Option<&'static str> {
    let found = BROWSERS.into_iter().find(|name| runs(name));
    required(found, &format!("no {}", BROWSERS.join(", no ")))
}

fn runs(program: &str) -> bool {
    let asked = Command::new(program).arg("--version").output();
    asked.is_ok_and(|output| output.status.success())
}

fn measured(desk: &Desk, browser: &str, page: &str, is_dark: bool) -> Measured {
    let page = page.replace('&', "&amp;").replace('"', "&quot;");
    let script = "const d = f.contentDocument, s = q => d.defaultView.getComputedStyle(d.querySelector(q)); \
        const l = c => Math.round(c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3); \
        r.textContent = `measured ${d.documentElement.scrollWidth} ${l(s('.card').backgroundColor)} ${l(s('.text').color)} end`;";
    let frame = format!(
        "<!DOCTYPE html><pre id=r></pre><iframe id=f style=\"border:0;width:{PHONE_PIXELS}px;height:800px\" \
         srcdoc=\"{page}\"></iframe><script>f.onload = () => {{ {script} }}</script>"
    );
    let path = desk.write("frame.html", &frame);
    let scheme = if is_dark { 0 } else { 1 };
    let output = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
        ])
        .arg("--hide-scrollbars")
        .arg("--virtual-time-budget=5000")
        .arg(format!(
            "--user-data-dir={}",
            desk.home.path("profile").display()
        ))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("file://{path}"))
        .output()
        .expect("the browser runs");
    let dom = String::from_utf8_lossy(&output.stdout);
    let said = dom
        .split_once("measured ")
        .and_then(|(_, rest)| rest.split_once(" end"));
    let said = said.filter(|(numbers, _)| numbers.starts_with(|c: char| c.is_ascii_digit()));
    let (numbers, _) = said.unwrap_or_else(|| panic!("nothing measured: {dom}"));
    let numbers: Vec<u32> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
    Measured {
        width: numbers[0],
        ground: numbers[1],
        words: numbers[2],
    }
}
