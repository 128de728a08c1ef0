//! Owns the `Authentication-Results` field (RFC 8601): writes ours, and removes those that claim to be
//! ours.
//!
//! Does not change the stored mail; both apply to copies that are handed on.

mod read;

use bytes::Bytes;

use super::field::{RawField, RawHeader};
use crate::mail::verdict::{AuthResult, SpfVerdict, Verdict};
pub(super) use read::{read, says_dmarc_pass};

/// The number of characters of a value that are written.
const VALUE_CHARS_MAX: usize = 200;

/// The field for our verdict, folded, with its line end.
pub fn field(verdict: &Verdict, authserv_id: &str) -> String {
    let mut results = Vec::new();
    results.extend(spf(&verdict.spf, "smtp.mailfrom"));
    results.extend(spf(&verdict.helo, "smtp.helo"));
    for dkim in &verdict.dkim {
        let mut result = method("dkim", dkim.result, dkim.reason.as_deref());
        push_property(&mut result, "header.d", &dkim.domain);
        push_property(&mut result, "header.s", &dkim.selector);
        results.push(result);
    }
    let dmarc = &verdict.dmarc;
    if let Some(domain) = &dmarc.domain {
        let mut result = method("dmarc", dmarc.result, dmarc.reason.as_deref());
        push_property(&mut result, "header.from", domain);
        if dmarc.result != AuthResult::None {
            push_property(&mut result, "policy.dmarc", dmarc.policy.as_str());
        }
        results.push(result);
    }
    if verdict.arc.result != AuthResult::None {
        let arc = &verdict.arc;
        results.push(method("arc", arc.result, arc.reason.as_deref()));
    }
    if verdict.iprev.result != AuthResult::None {
        let mut result = method("iprev", verdict.iprev.result, None);
        let ip = verdict.iprev.ip.map(|ip| ip.to_string());
        push_property(&mut result, "policy.iprev", &ip.unwrap_or_default());
        results.push(result);
    }
    if results.is_empty() {
        results.push("none".to_owned());
    }
    let id = value(authserv_id);
    format!(
        "Authentication-Results: {id};\r\n\t{}\r\n",
        results.join(";\r\n\t")
    )
}

/// The mail for handing on, in pieces that share its bytes: `on_top` (our own fields), then the mail
/// without the fields that claim to be ours (RFC 8601 section 5).
pub fn with_fields_on_top(mail: &Bytes, on_top: String, authserv_id: &str) -> Vec<Bytes> {
    let header = RawHeader::read(mail);
    let mut pieces = vec![Bytes::from(on_top)];
    let mut kept_from = 0;
    for field in &header.fields {
        if claims_authserv_id(field, authserv_id) {
            pieces.push(mail.slice(kept_from..field.span.start));
            kept_from = field.span.end;
        }
    }
    pieces.push(mail.slice(kept_from..));
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// True if a field claims this authserv-id.
fn claims_authserv_id(field: &RawField<'_>, authserv_id: &str) -> bool {
    let text = String::from_utf8_lossy(field.value);
    if field.is_named("Authentication-Results") {
        return read::authserv_id(&text).is_some_and(|id| id.eq_ignore_ascii_case(authserv_id));
    }
    // `receiver=` names the writer (RFC 7208 section 9.1).
    field.is_named("Received-SPF")
        && text
            .split([';', ' ', '\t', '\r', '\n'])
            .filter_map(|piece| piece.split_once('='))
            .any(|(name, value)| {
                name.eq_ignore_ascii_case("receiver")
                    && value.trim_matches('"').eq_ignore_ascii_case(authserv_id)
            })
}

fn spf(spf: &SpfVerdict, property: &str) -> Option<String> {
    if spf.domain.is_empty() {
        return None;
    }
    let mut result = method("spf", spf.result, spf.reason.as_deref());
    push_property(&mut result, property, &spf.domain);
    Some(result)
}

fn method(name: &str, outcome: AuthResult, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{name}={outcome} reason={}", quoted(reason)),
        None => format!("{name}={outcome}"),
    }
}

fn push_property(result: &mut String, name: &str, text: &str) {
    if !text.is_empty() {
        result.push_str(&format!("\r\n\t {name}={}", value(text)));
    }
}

/// A value unchanged if it is a token (RFC 2045 section 5.1) of harmless characters, else quoted.
fn value(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.chars().all(is_plain) && (1..=VALUE_CHARS_MAX).contains(&text.len()) {
        return text.to_owned();
    }
    quoted(text)
}

/// A quoted string of printable ASCII (RFC 5322 section 3.2.4).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars().take(VALUE_CHARS_MAX) {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::verdict::{DkimVerdict, DmarcVerdict, DomainPolicy};
    use crate::mail::view::HeaderView;

    fn verdict(text: &str) -> Verdict {
        Verdict {
            spf: SpfVerdict {
                result: AuthResult::Pass,
                domain: text.to_owned(),
                reason: Some(text.to_owned()),
                passes_all: false,
            },
            dkim: vec![DkimVerdict {
                result: AuthResult::Fail,
                domain: text.to_owned(),
                selector: text.to_owned(),
                reason: Some(text.to_owned()),
            }],
            dmarc: DmarcVerdict {
                result: AuthResult::Pass,
                policy: DomainPolicy::Reject,
                domain: Some(text.to_owned()),
                ..DmarcVerdict::default()
            },
            ..Verdict::default()
        }
    }

    #[test]
    fn a_verdict_is_written() {
        let mut verdict = verdict("example.com");
        verdict.spf.reason = None;
        assert_eq!(
            field(&verdict, "mx.us.example"),
            "Authentication-Results: mx.us.example;\r\n\
             \tspf=pass\r\n\t smtp.mailfrom=example.com;\r\n\
             \tdkim=fail reason=\"example.com\"\r\n\t header.d=example.com\r\n\t header.s=example.com;\r\n\
             \tdmarc=pass\r\n\t header.from=example.com\r\n\t policy.dmarc=reject\r\n"
        );
        assert_eq!(
            field(&Verdict::default(), "mx.us.example"),
            "Authentication-Results: mx.us.example;\r\n\tnone\r\n"
        );
    }

    #[test]
    fn fields_that_claim_to_be_ours_are_removed() {
        let mail = "Authentication-Results: mx.us.example; dmarc=pass\r\n\
             Authentication-Results: mx.other.example; dmarc=pass\r\n\
             AUTHENTICATION-RESULTS : (c) \"MX.us.example\" 1;\r\n spf=pass\r\n\
             Authentication-Results:\r\n\tmx.us.example\r\n\
             Received-SPF: pass (x) client-ip=192.0.2.1; receiver=mx.us.example;\r\n\
             Received-SPF: pass client-ip=192.0.2.1; receiver=mx.other.example;\r\n\
             From: a@b.example\r\n\r\nAuthentication-Results: mx.us.example; body\r\n";
        let mail = Bytes::from(mail);
        let pieces = with_fields_on_top(&mail, "X: y\r\n".to_owned(), "mx.us.example");
        let text = String::from_utf8(pieces.concat()).unwrap();
        assert_eq!(
            text,
            "X: y\r\n\
             Authentication-Results: mx.other.example; dmarc=pass\r\n\
             Received-SPF: pass client-ip=192.0.2.1; receiver=mx.other.example;\r\n\
             From: a@b.example\r\n\r\nAuthentication-Results: mx.us.example; body\r\n"
        );
    }

    proptest! {
        #[test]
        fn values_cannot_leave_their_field(text in "(\\PC|[\r\n\t\0;\"\\\\()=]){0,250}") {
            let field = field(&verdict(&text), &text);
            prop_assert!(field.is_ascii());
            prop_assert!(field.lines().all(|line| line.len() < 998));
            prop_assert!(field.ends_with("\r\n"));
            let within = field[..field.len() - 2].replace("\r\n\t", "");
            prop_assert!(!within.chars().any(char::is_control));
            let header = HeaderView::parse(format!("{field}Subject: x\r\n\r\n").as_bytes());
            prop_assert_eq!(header.fields().len(), 2);
        }

        #[test]
        fn a_written_field_parses_back(domain in "[a-z]{1,20}(\\.[a-z]{1,20}){1,4}") {
            let field = field(&verdict(&domain), "mx.us.example");
            let mail = format!("{field}\r\n");
            let trusted = ["mx.us.example".to_owned()];
            let read = read(&RawHeader::read(mail.as_bytes()), &trusted, 0).unwrap();
            let written = verdict(&domain);
            prop_assert_eq!(read.spf, written.spf);
            prop_assert_eq!(read.dkim, written.dkim);
            prop_assert_eq!(read.dmarc, written.dmarc);
        }
    }
}
