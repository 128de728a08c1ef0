//! Owns status codes: parses them, and finds them and SMTP codes in text.
//!
//! Does not interpret words; `reason` does.

use std::fmt;

use serde::{Serialize, Serializer};

/// An enhanced status code, `class.subject.detail` (RFC 3463).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedStatus {
    class: u8,
    subject: u16,
    detail: u16,
}

impl EnhancedStatus {
    /// A code of known parts. `class` is 2, 4 or 5.
    pub(super) const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self {
            class,
            subject,
            detail,
        }
    }

    /// Reads the value of a `Status` field. Words may follow the code.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim_start();
        let (status, rest) = Self::prefix(text)?;
        let ends = |c: char| !c.is_alphanumeric() && c != '.';
        (rest.is_empty() || rest.starts_with(ends)).then_some(status)
    }

    /// 2, 4 or 5: success, transient failure, permanent failure.
    pub const fn class(self) -> u8 {
        self.class
    }

    /// The subject of the failure: 1 address, 2 mailbox, 3 mail system, 4 network, 5 protocol, 6
    /// content, 7 policy.
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// The detail within the subject.
    pub const fn detail(self) -> u16 {
        self.detail
    }

    /// True for x.0.0, which gives only the class.
    pub const fn is_vague(self) -> bool {
        self.subject == 0 && self.detail == 0
    }

    /// The same subject and detail in another class.
    pub(super) const fn in_class(self, class: u8) -> Self {
        Self::new(class, self.subject, self.detail)
    }

    fn prefix(text: &str) -> Option<(Self, &str)> {
        let class = match text.as_bytes().first()? {
            digit @ (b'2' | b'4' | b'5') => digit - b'0',
            _ => return None,
        };
        let (subject, rest) = number(text[1..].strip_prefix('.')?)?;
        let (detail, rest) = number(rest.strip_prefix('.')?)?;
        Some((Self::new(class, subject, detail), rest))
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl Serialize for EnhancedStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A number of one to three digits (RFC 3463 section 2), and the text after it.
fn number(text: &str) -> Option<(u16, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    if end > 3 {
        return None;
    }
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// The first status code in `text` that gives more than its class, else the first one. Addresses and
/// versions are excluded: they have four or more numbers, or a letter beside them.
pub(super) fn find_status(text: &str) -> Option<EnhancedStatus> {
    find(text, &['4', '5'])
}

/// The first status code of a success, by the same rules.
pub(super) fn find_success(text: &str) -> Option<EnhancedStatus> {
    find(text, &['2'])
}

fn find(text: &str, classes: &[char]) -> Option<EnhancedStatus> {
    let mut vague = None;
    for (at, _) in text.match_indices(classes) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '='))
            && !follows_code(&text[..at])
        {
            continue;
        }
        let Some((status, rest)) = EnhancedStatus::prefix(&text[at..]) else {
            continue;
        };
        let mut after = rest.chars();
        let cut_short = match after.next() {
            Some('.') => after.next().is_none_or(|c| !c.is_alphanumeric()),
            Some(c) => !(c.is_alphanumeric() || matches!(c, '_' | '/')),
            None => true,
        };
        if !cut_short {
            continue;
        }
        if !status.is_vague() {
            return Some(status);
        }
        vague = vague.or(Some(status));
    }
    vague
}

/// True after `550-`: the dash of a multi-line reply (RFC 5321 section 4.2.1).
fn follows_code(before: &str) -> bool {
    before.strip_suffix('-').is_some_and(|rest| {
        rest.len() >= 3 && rest.bytes().rev().take(3).all(|b| b.is_ascii_digit())
    })
}

/// The first SMTP reply code of a refusal in `text` (RFC 5321 section 4.2.3).
pub(super) fn find_code(text: &str) -> Option<u16> {
    text.match_indices(['4', '5']).find_map(|(at, _)| {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| {
            c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '=' | '@' | ':' | '+')
        }) {
            return before
                .filter(|c| *c == ':')
                .and_then(|_| code_at(&text[at..]));
        }
        code_at(&text[at..])
    })
}

fn code_at(text: &str) -> Option<u16> {
    let digits = text.get(..3)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let code = digits.parse().ok()?;
    let known = matches!(code, 421 | 422 | 431 | 432 | 441 | 442 | 446 | 447 | 449..=455 | 459 | 471 | 500..=504 | 510..=513 | 517 | 521 | 523 | 530 | 535 | 541..=559 | 571 | 577);
    let ends = text[3..].chars().next().is_none_or(|c| {
        c.is_whitespace()
            || matches!(
                c,
                '-' | ',' | ';' | ':' | '<' | ')' | ']' | '\'' | '"' | '#' | '.'
            )
    });
    (known && ends).then_some(code)
}
