//! Owns the parsing of `Authentication-Results` (RFC 8601) from other servers.
//!
//! Does not decide about trust: the caller names the trusted servers and the valid position of the field.

use super::super::dkim::SIGNATURES_MAX;
use super::super::field::RawHeader;
use crate::mail::address::Domain;
use crate::mail::mime;
use crate::mail::verdict::{
    ArcVerdict, AuthResult, DkimVerdict, DmarcVerdict, DomainPolicy, IprevVerdict, SpfVerdict,
    Verdict, VerdictSource,
};

/// The number of results of one field that are read.
const RESULTS_MAX: usize = 50;
/// Octets of a value that are kept.
const VALUE_BYTES_MAX: usize = 255;

/// The results of trusted servers as their verdict: from the fields whose authserv-id is one of `trusted`
/// and that have at most `received_above_max` `Received` fields above them. A field further down may have
/// come with the mail. The topmost result of each method counts. `None` if there is no such field.
pub(in crate::auth) fn read(
    header: &RawHeader<'_>,
    trusted: &[String],
    received_above_max: usize,
) -> Option<Verdict> {
    let mut verdict: Option<Verdict> = None;
    let mut received = 0;
    for field in &header.fields {
        received += usize::from(field.is_named("Received"));
        if received > received_above_max {
            break;
        }
        if !field.is_named("Authentication-Results") || field.value.len() > mime::FIELD_BYTES_MAX {
            continue;
        }
        let text = String::from_utf8_lossy(field.value);
        let Some((id, results)) = parse(&text) else {
            continue;
        };
        let is_trusted = |other: &&String| other.eq_ignore_ascii_case(&id);
        if let Some(trusted) = trusted.iter().find(is_trusted) {
            let verdict = verdict.get_or_insert_with(|| Verdict {
                source: VerdictSource::Relay(trusted.clone()),
                ..Verdict::default()
            });
            let theirs = verdict_of(&results);
            merge(verdict, theirs);
        }
    }
    verdict
}

/// True if these results (of a field, without authserv-id and instance) state that a mail with this From
/// domain passed DMARC, and no result contradicts.
pub(in crate::auth) fn says_dmarc_pass(text: &str, from_domain: &str) -> bool {
    let Some((_, results)) = parse(text) else {
        return false;
    };
    let mut dmarc = results
        .iter()
        .filter(|result| result.method == "dmarc")
        .peekable();
    dmarc.peek().is_some()
        && dmarc.all(|result| {
            result.outcome == AuthResult::Pass
                && result.domain("header.from").as_deref() == Some(from_domain)
        })
}

/// The authserv-id at the start of a field, even if the rest is malformed.
pub(super) fn authserv_id(text: &str) -> Option<String> {
    let text = without_comments(text);
    let id = text.split(';').next()?.split_whitespace().next()?;
    Some(id.trim_matches('"').replace('\\', ""))
}

/// One `method=result`, with its reason and properties.
#[derive(Debug, PartialEq, Eq)]
struct MethodResult {
    method: String,
    outcome: AuthResult,
    reason: Option<String>,
    /// `ptype.property` lower-cased, and its value.
    properties: Vec<(String, String)>,
}

impl MethodResult {
    fn property(&self, name: &str) -> Option<&str> {
        let mut properties = self.properties.iter();
        properties
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// The domain in a property, alone or after an `@`.
    fn domain(&self, name: &str) -> Option<String> {
        let value = self.property(name)?;
        let domain = value.rsplit_once('@').map_or(value, |(_, domain)| domain);
        Some(Domain::parse(domain).ok()?.ascii())
    }
}

fn parse(text: &str) -> Option<(String, Vec<MethodResult>)> {
    let text = without_comments(text);
    let pieces = split_unquoted(&text);
    let id = authserv_id(pieces.first()?)?;
    let results = pieces[1..].iter().take(RESULTS_MAX);
    Some((id, results.filter_map(|text| result(text)).collect()))
}

/// Parses one `method=result [reason=…] [ptype.property=value …]`.
fn result(text: &str) -> Option<MethodResult> {
    let mut pairs = pairs(text).into_iter();
    let (method, word) = pairs.next()?;
    let method = method.split('/').next()?.to_ascii_lowercase();
    // RFC 7601 defined `hardfail`, which some servers still write.
    let outcome = match word.to_ascii_lowercase().as_str() {
        "hardfail" => AuthResult::Fail,
        word => AuthResult::parse(word)?,
    };
    let mut found = MethodResult {
        method,
        outcome,
        reason: None,
        properties: Vec::new(),
    };
    for (name, value) in pairs {
        let name = name.to_ascii_lowercase();
        if name == "reason" {
            found.reason = Some(value);
        } else {
            found.properties.push((name, value));
        }
    }
    Some(found)
}

/// The `name=value` pairs of a text, with optional space around the `=` and optional quotes.
fn pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut name = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_whitespace() {
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
            if chars.peek() != Some(&'=') {
                name.clear();
            }
        } else if c == '=' {
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
            let value = if chars.next_if_eq(&'"').is_some() {
                quoted(&mut chars)
            } else {
                let mut value = String::new();
                while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                    value.push(c);
                }
                value
            };
            let end = value.floor_char_boundary(VALUE_BYTES_MAX);
            pairs.push((std::mem::take(&mut name), value[..end].to_owned()));
        } else {
            name.push(c);
        }
    }
    pairs
}

/// The rest of a quoted string, without quotes and escapes.
fn quoted(chars: &mut impl Iterator<Item = char>) -> String {
    let mut value = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    value
}

/// The text with each comment (RFC 5322 section 3.2.2) as one space.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut depth = 0_usize;
    let mut is_quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let escaped = chars.next();
                if depth == 0 {
                    out.push(c);
                    out.extend(escaped);
                }
                continue;
            }
            '"' if depth == 0 => is_quoted = !is_quoted,
            '(' if !is_quoted => depth += 1,
            ')' if !is_quoted && depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    out.push(' ');
                }
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            out.push(c);
        }
    }
    out
}

/// The parts between semicolons outside of quoted strings.
fn split_unquoted(text: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    text.split(|c| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match c {
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            '"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        c == ';' && !is_quoted
    })
    .collect()
}

fn verdict_of(results: &[MethodResult]) -> Verdict {
    let mut verdict = Verdict::default();
    for result in results {
        let reason = result.reason.clone();
        match result.method.as_str() {
            "spf" => {
                let mail_from = result.domain("smtp.mailfrom");
                let is_helo = mail_from.is_none() && result.property("smtp.helo").is_some();
                let spf = if is_helo {
                    &mut verdict.helo
                } else {
                    &mut verdict.spf
                };
                if *spf == SpfVerdict::default() {
                    let helo = || result.domain("smtp.helo").unwrap_or_default();
                    *spf = SpfVerdict {
                        result: result.outcome,
                        domain: mail_from.unwrap_or_else(helo),
                        reason,
                        passes_all: false,
                    };
                }
            }
            "dkim" if verdict.dkim.len() < SIGNATURES_MAX => verdict.dkim.push(DkimVerdict {
                result: result.outcome,
                domain: result
                    .domain("header.d")
                    .or_else(|| result.domain("header.i"))
                    .unwrap_or_default(),
                selector: result.property("header.s").unwrap_or_default().to_owned(),
                reason,
            }),
            "dmarc" => verdict.dmarc = dmarc(result, &verdict.dmarc),
            "arc" if verdict.arc.result == AuthResult::None => {
                verdict.arc = ArcVerdict {
                    result: result.outcome,
                    reason,
                    ..ArcVerdict::default()
                };
            }
            "iprev" if verdict.iprev.result == AuthResult::None => {
                let ip = result.property("policy.iprev");
                verdict.iprev = IprevVerdict {
                    result: result.outcome,
                    ip: ip.and_then(|ip| ip.parse().ok()),
                    name: None,
                };
            }
            _ => {}
        }
    }
    verdict
}

/// A pass counts only if there is no other result beside it.
fn dmarc(result: &MethodResult, before: &DmarcVerdict) -> DmarcVerdict {
    let mut words = ["policy.dmarc", "policy.published-domain-policy"].into_iter();
    let word = words.find_map(|name| result.property(name));
    let policies = [DomainPolicy::Reject, DomainPolicy::Quarantine];
    let policy = policies
        .into_iter()
        .find(|policy| word.is_some_and(|word| word.eq_ignore_ascii_case(policy.as_str())));
    let found = DmarcVerdict {
        result: result.outcome,
        policy: policy.unwrap_or_default(),
        domain: result.domain("header.from"),
        aligned: None,
        reason: result.reason.clone(),
    };
    let is_first = *before == DmarcVerdict::default();
    let is_worse = before.result == AuthResult::Pass
        && (found.result != AuthResult::Pass || found.domain != before.domain);
    match (is_first, is_worse) {
        (true, _) => found,
        (false, true) => DmarcVerdict {
            result: AuthResult::Permerror,
            reason: Some("the field has contradictory results".to_owned()),
            ..found
        },
        (false, false) => before.clone(),
    }
}

/// Adds the results that are still missing.
fn merge(verdict: &mut Verdict, theirs: Verdict) {
    if verdict.spf.result == AuthResult::None {
        verdict.spf = theirs.spf;
    }
    if verdict.helo.result == AuthResult::None {
        verdict.helo = theirs.helo;
    }
    if verdict.dkim.is_empty() {
        verdict.dkim = theirs.dkim;
    }
    if verdict.dmarc.result == AuthResult::None {
        verdict.dmarc = theirs.dmarc;
    }
    if verdict.arc.result == AuthResult::None {
        verdict.arc = theirs.arc;
    }
    if verdict.iprev.result == AuthResult::None {
        verdict.iprev = theirs.iprev;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_from(mail: &str, above: usize) -> Option<Verdict> {
        let trusted = ["mx.us.example".to_owned()];
        read(&RawHeader::read(mail.as_bytes()), &trusted, above)
    }

    #[test]
    fn a_trusted_field_is_read() {
        let verdict = read_from(
            "Authentication-Results: MX.us.example (milter; x=y) 1;\r\n\
             \tdkim=pass (2048-bit key; unprotected) header.d=Example.com\r\n\
             \t header.s = s1 header.b=\"a;b\";\r\n\
             \tspf=softfail reason=\"not \\\"ours\\\"; no\" smtp.mailfrom=a@b.example;\r\n\
             \tspf=pass smtp.helo=mail.b.example;\r\n\
             \tdmarc=pass (p=REJECT dis=NONE) header.from=example.com policy.dmarc=reject;\r\n\
             \tiprev=fail policy.iprev=192.0.2.1; x-own=pass\r\n\
             Received: from a by b\r\nFrom: a@example.com\r\n\r\n",
            0,
        )
        .unwrap();
        assert_eq!(
            verdict.source,
            VerdictSource::Relay("mx.us.example".to_owned())
        );
        assert_eq!(verdict.dkim[0].domain, "example.com");
        assert_eq!(verdict.dkim[0].selector, "s1");
        assert_eq!(verdict.spf.result, AuthResult::Softfail);
        assert_eq!(verdict.spf.domain, "b.example");
        assert_eq!(verdict.spf.reason.as_deref(), Some("not \"ours\"; no"));
        assert_eq!(verdict.helo.result, AuthResult::Pass);
        assert_eq!(verdict.dmarc.result, AuthResult::Pass);
        assert_eq!(verdict.dmarc.domain.as_deref(), Some("example.com"));
        assert_eq!(verdict.dmarc.policy, DomainPolicy::Reject);
        assert_eq!(verdict.iprev.result, AuthResult::Fail);
    }

    #[test]
    fn untrusted_fields_are_not_read() {
        let field = "Authentication-Results: mx.us.example; dmarc=pass header.from=a.example\r\n";
        let received = "Received: from a by b\r\n";
        for (mail, above, is_read) in [
            (format!("{field}{received}"), 0, true),
            (format!("{received}{field}"), 0, false),
            (format!("{received}{field}"), 1, true),
            (format!("{received}{received}{field}"), 1, false),
            (field.replace("mx.us", "mx.evil"), 0, false),
            (
                field.replace("mx.us.example", "mx.us.example.evil"),
                0,
                false,
            ),
            (field.replace("mx.us.example", "x; mx.us.example"), 0, false),
            (
                field.replace("mx.us.example", "(mx.us.example) x"),
                0,
                false,
            ),
        ] {
            let mail = format!("{mail}From: a@a.example\r\n\r\n");
            assert_eq!(read_from(&mail, above).is_some(), is_read, "{mail}");
        }
    }

    #[test]
    fn the_topmost_result_counts_and_contradictions_do_not() {
        let fields = "Authentication-Results: mx.us.example; dmarc=fail header.from=a.example\r\n\
             Authentication-Results: mx.us.example; dmarc=pass header.from=a.example\r\n\r\n";
        assert_eq!(read_from(fields, 0).unwrap().dmarc.result, AuthResult::Fail);
        let twice = "Authentication-Results: mx.us.example; dmarc=pass header.from=a.example; \
             dmarc=fail header.from=a.example\r\n\r\n";
        assert_eq!(
            read_from(twice, 0).unwrap().dmarc.result,
            AuthResult::Permerror
        );
    }

    #[test]
    fn a_pass_counts_for_one_domain() {
        let says = |text| says_dmarc_pass(text, "a.example");
        assert!(says(" mx.example; dmarc=pass header.from=a.example"));
        assert!(says(
            "mx.example; spf=fail; dmarc=pass header.from=x@A.example"
        ));
        for text in [
            "mx.example; dmarc=pass header.from=b.example",
            "mx.example; dmarc=pass",
            "mx.example; dmarc=fail header.from=a.example",
            "mx.example; dmarc=pass header.from=a.example; dmarc=fail header.from=a.example",
            "mx.example; spf=pass reason=\"; dmarc=pass header.from=a.example\"",
            "mx.example; spf=pass (; dmarc=pass header.from=a.example",
            "mx.example; xdmarc=pass header.from=a.example",
            "dmarc=pass header.from=a.example",
            "",
        ] {
            assert!(!says(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z=;.\" ()\\\\]{0,200}") {
            let _ = parse(&text);
            let _ = authserv_id(&text);
        }
    }
}
