//! Owns the meaning of mail programs' elements: quote, signature, attribution.
//!
//! Does not interpret text.

use crate::mail::html::HtmlNode;

/// The role of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementRole {
    /// An element without a special role.
    Plain,
    /// A quote: one level deeper.
    Quote,
    /// Everything from here to the end of the mail is old.
    Cut,
    /// The line above a quote.
    Attribution,
    /// A signature.
    Signature,
    /// The element after it is a signature (iOS).
    SignatureNext,
    /// An element that is not displayed.
    Hidden,
}

impl ElementRole {
    pub(super) fn of(node: &HtmlNode) -> Self {
        let style = squeezed(node.attribute("style"));
        if is_hidden(node, &style) {
            return Self::Hidden;
        }
        let id = node.attribute("id").to_ascii_lowercase();
        if id == "linebreakatbeginningofsignature" {
            return Self::SignatureNext;
        }
        let class = node.attribute("class").to_ascii_lowercase();
        if is_cut(node, &id, &class, &style) {
            return Self::Cut;
        }
        let named = Some(id.as_str()).filter(|id| !id.is_empty());
        let words = || class.split_ascii_whitespace().chain(named);
        if words().any(|word| ATTRIBUTIONS.contains(&word)) {
            return Self::Attribution;
        }
        if is_signature(node, &id) || words().any(is_signature_word) {
            return Self::Signature;
        }
        if node.tag == "blockquote" {
            return if is_indent(node, &class, &style) {
                Self::Plain
            } else {
                Self::Quote
            };
        }
        let is_quote = |word: &str| QUOTES.contains(&word) || word.ends_with("yahoo_quoted");
        let quote = words().any(is_quote)
            || matches!(node.attribute("name"), "quote" | "messageReplySection");
        if quote { Self::Quote } else { Self::Plain }
    }
}

/// Elements that contain a whole quoted mail. `div.gmail_quote` and `div.protonmail_quote` are not here:
/// answers may stand between the blockquotes in them.
const QUOTES: &[&str] = &[
    "yahoo_quoted",
    "tutanota_quote",
    "isreplycontent",
    "isforwardcontent",
    "zmail_extra",
    "front-blockquote",
    "missive_quote",
    "original-content",
    "wps_quotion",
    "quoted-email",
    "qt",
    "quotedtext",
    "mail_quote_content",
    "edo-mail-quote",
    "cm_quote",
    "sh-quoted",
    "x_gmail_quote_blockquote",
    "ntes_not_fresh_quote",
];

const ATTRIBUTIONS: &[&str] = &[
    "gmail_attr",
    "moz-cite-prefix",
    "reply-intro",
    "mac_outlook_attribution_element",
    "airmail_on",
    "moz-email-headers-table-prefix",
    "spark_attribution",
];

/// Elements at which the old mail begins.
const CUTS: &[&str] = &[
    "divrplyfwdmsg",
    "appendonsend",
    "olk_src_body_section",
    "mail-editor-reference-message-container",
    "ms-outlook-mobile-reference-message",
    "outlookmessageheader",
    "stopspelling",
    "zwchr",
    "reference-message-container",
    "replyseparator",
    "reply_separator",
];

fn is_cut(node: &HtmlNode, id: &str, class: &str, style: &str) -> bool {
    if CUTS.contains(&id)
        || class
            .split_ascii_whitespace()
            .any(|word| CUTS.contains(&word))
    {
        return true;
    }
    if node.attribute("data-marker") == "__DIVIDER__" {
        return true;
    }
    // Outlook desktop and Windows Mail put a coloured rule above the old mail.
    let colours = [
        "e1e1e1",
        "b5c4df",
        "#e5e5e5",
        "rgb(225,225,225)",
        "rgb(181,196,223)",
        "rgb(229,229,229)",
    ];
    node.tag == "div"
        && style.contains("border-top:solid")
        && (style.contains("border:none") || style.contains("border-style:none"))
        && colours.iter().any(|colour| style.contains(colour))
}

fn is_signature(node: &HtmlNode, id: &str) -> bool {
    node.tag == "signature"
        || node.attribute("data-smartmail") == "gmail_signature"
        || node.has("data-signature-widget")
        || matches!(
            node.attribute("data-marker"),
            "__SIG_PRE__" | "__SIG_POST__"
        )
        || node.attribute("name") == "messageSignatureSection"
        || id == "_rc_sig"
        || id.starts_with("zm-_id_-sgn")
        || id.starts_with("bloop_sign")
        || id
            .strip_prefix("sig")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_digit()))
}

fn is_signature_word(word: &str) -> bool {
    word == "bloop_sign"
        || word.len() > 3 && word.ends_with("sig")
        || word.contains("signature")
            && !word.contains("before")
            && !word.contains("empty")
            && word != "x_signature"
}

/// True for a blockquote without a border, with which Gmail and Apple indent text.
fn is_indent(node: &HtmlNode, class: &str, style: &str) -> bool {
    class.contains("indent")
        || style.contains("border:none")
            && node.attribute("type") != "cite"
            && !class.contains("quote")
}

fn is_hidden(node: &HtmlNode, style: &str) -> bool {
    if [
        "script", "style", "title", "svg", "math", "template", "select", "object", "video",
        "audio", "iframe", "noembed", "noframes", "xmp",
    ]
    .contains(&node.tag)
    {
        return true;
    }
    node.has("hidden") || style.contains("display:none") || style.contains("mso-hide:all")
}

fn squeezed(style: &str) -> String {
    let mut out = String::with_capacity(style.len());
    style.split_whitespace().for_each(|part| out.push_str(part));
    out.make_ascii_lowercase();
    out
}
