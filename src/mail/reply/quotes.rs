//! Owns the other signs of a quote: header blocks, "original message" lines, our marker, rules.
//!
//! Does not decide what is cut: it classifies lines, and `cut` decides.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use super::fold::pattern;
use super::languages::{FORWARDED, HEADERS, HeaderLabel, MARKERS, ORIGINAL};
use super::shapes::{ADDRESS, BRACKETED, DATE, TIME};
use super::text::BodyLine;

/// The number of lines of a header block that are read.
const BLOCK_LINES_MAX: usize = 24;

/// The number of characters of a header, a separator or a marker; a longer line is none of them.
const SHORT_CHARS_MAX: usize = 300;

static NOTES: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^[^-]{1,60} ?---+ ?[0-9]{1,4}[./-][0-9]{1,2}[./-][0-9]{2,4} [0-9]{1,2}[:.][0-9]{2}.{0,14}---",
    )
});

static GROUPWISE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^>>> .*[0-9].* >>>$"));

/// A line that introduces a whole mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MailSeparator {
    Original,
    Forwarded,
    /// Our "reply above this line".
    Marker,
}

/// The kind of separator, if the line introduces a whole mail; `marker` is folded.
pub(super) fn separator(
    line: &BodyLine,
    marker: &str,
    header_follows: bool,
) -> Option<MailSeparator> {
    let text = line.fold.as_str();
    if text.is_empty() || text.len() > SHORT_CHARS_MAX * 2 || line.code {
        return None;
    }
    if is_marker(text, marker) {
        return Some(MailSeparator::Marker);
    }
    let ruled = |c: char| {
        matches!(
            c,
            '-' | '_'
                | '='
                | '*'
                | '~'
                | '#'
                | '+'
                | '>'
                | '<'
                | '—'
                | '–'
                | '－'
                | '─'
                | '━'
                | '―'
                | '|'
                | '·'
                | '.'
                | ' '
                | '\u{a0}'
        )
    };
    let inner = text.trim_matches(ruled);
    let lead = text.len() - text.trim_start_matches(ruled).len();
    let inner = inner.trim_end_matches([':', ' ']);
    if inner.is_empty() {
        return None;
    }
    let dashed = lead >= 2
        && text.starts_with([
            '-', '_', '=', '*', '—', '–', '~', '>', '－', '─', '━', '―', '#', '+', '|', '<',
        ]);
    // Few lines are set apart, so the words are seldom compared.
    let is_apart = dashed || text.ends_with(':') || header_follows;
    let announced = |words: &[&str]| {
        is_apart
            && words.iter().any(|word| {
                inner == *word
                    || dashed
                        && inner.strip_prefix(word).is_some_and(|rest| {
                            rest.len() <= 80 || rest.trim_start().starts_with(['-', '_', '='])
                        })
                    || dashed && inner.ends_with(word) && inner.len() <= word.len() + 40
            })
    };
    if announced(&FORWARDED) {
        return Some(MailSeparator::Forwarded);
    }
    // QQ Mail and WeChat write only this word.
    if dashed && header_follows && inner == "original" {
        return Some(MailSeparator::Original);
    }
    (announced(&ORIGINAL)
        || text.contains("---") && NOTES.is_match(text)
        || text.starts_with(">>>") && GROUPWISE.is_match(text))
    .then_some(MailSeparator::Original)
}

fn is_marker(text: &str, marker: &str) -> bool {
    let words = text.split(' ').count();
    marker.chars().count() >= 8 && text.contains(marker) && words <= marker.split(' ').count() + 6
        || words <= 14
            && MARKERS.are_in(text)
            && text.starts_with(|c: char| !c.is_alphanumeric() || c.is_alphabetic())
            && is_ruled_or_short(text)
        || words <= 20 && is_hashed(text)
}

/// Zendesk puts its marker, in any language, between `##-` and `-##`.
fn is_hashed(text: &str) -> bool {
    text.strip_prefix("##-")
        .and_then(|rest| rest.strip_suffix("-##"))
        .is_some_and(|inner| inner.contains(char::is_alphabetic))
}

/// Markers of other systems count only between rules ("##- … -##") or alone on the line.
fn is_ruled_or_short(text: &str) -> bool {
    text.starts_with(['-', '#', '=', '*', '_', '+', '~', '<', '>', '—', '–'])
        || MARKERS.iter().any(|known| {
            text.trim_end_matches(['.', ':', ' ']).ends_with(known)
                && text.len() <= known.len() + 12
        })
}

/// True if the line is only a rule: `____`, `----`, `* * *`.
pub(super) fn is_rule(fold: &str) -> bool {
    fold.len() >= 3
        && fold.chars().all(|c| {
            matches!(
                c,
                '-' | '_'
                    | '='
                    | '*'
                    | '~'
                    | '#'
                    | ' '
                    | '—'
                    | '–'
                    | '─'
                    | '━'
                    | '―'
                    | '+'
                    | '·'
                    | '.'
            )
        })
        && fold.chars().filter(|c| *c != ' ').count() >= 3
}

static KEYS: LazyLock<HashMap<&'static str, HeaderLabel>> = LazyLock::new(|| {
    let mut keys = HashMap::new();
    for (header, name) in HEADERS.iter() {
        keys.entry(*name).or_insert(*header);
    }
    keys
});

/// Parses `From: Ann` (also `*From:* Ann`, `From : Ann`) to label and value.
pub(super) fn header(fold: &str) -> Option<(HeaderLabel, &str)> {
    if fold.len() > SHORT_CHARS_MAX * 2 {
        return None;
    }
    let (key, value) = fold.split_once(':')?;
    if key.len() > 60 {
        return None;
    }
    let key = key.trim_matches(['*', '_', ' ', '|', '[', '·', '•']);
    let kind = KEYS.get(key).or_else(|| {
        // Some programs put spaces into "보 낸 사 람" and "主 题".
        KEYS.get(key.replace([' ', '\u{3000}'], "").as_str())
    })?;
    Some((*kind, value.trim_matches(['*', '_', ' '])))
}

/// A line of a block with an unknown label: with date and time it is the date line.
fn dated_header(fold: &str) -> Option<(HeaderLabel, &str)> {
    let (key, value) = fold.split_once(':')?;
    let named = key.chars().count() <= 25 && !key.contains(|c: char| c.is_ascii_digit());
    (named && DATE.is_match(value) && TIME.is_match(value)).then_some((HeaderLabel::Sent, value))
}

/// The line after the header block that begins with line `first`; or, if there is no block, the line above
/// which none begins. `subject` is the subject of the thread, folded, without prefixes.
pub(super) fn header_block(
    lines: &[BodyLine],
    first: usize,
    ruled_off: bool,
    subject: &str,
) -> Result<usize, usize> {
    let depth = lines[first].depth;
    if lines[first].code {
        return Err(first + 1);
    }
    let Some((kind, _)) = header(&lines[first].fold) else {
        let found = if ruled_off {
            unknown_block(lines, first)
        } else {
            shaped_block(lines, first, subject)
        };
        return found.ok_or(first + 1);
    };
    if kind == HeaderLabel::From && one_line_block(&lines[first].fold) {
        return Ok(first + 1);
    }
    let mut block = BlockEvidence::default();
    let mut end = first;
    let mut gap = 0;
    for (at, line) in lines.iter().enumerate().skip(first).take(BLOCK_LINES_MAX) {
        if line.depth != depth || line.code {
            break;
        }
        if line.is_blank() {
            gap += 1;
            if gap > 1 {
                break;
            }
            continue;
        }
        match header(&line.fold).or_else(|| dated_header(&line.fold)) {
            Some((kind, value)) => {
                block.add(kind, value);
                end = at + 1;
                gap = 0;
            }
            // A long list of recipients wraps; a blank line ends it.
            None if gap == 0 && block.may_continue() => block.continue_line(&line.fold),
            None => break,
        }
    }
    block.suffices(ruled_off).then_some(end).ok_or(end)
}

/// True for a rule with words in it, which programs write above a mail: `---- 邮件原文 ----`.
pub(super) fn is_ruled_words(fold: &str) -> bool {
    let is_rule = |c: char| {
        matches!(
            c,
            '-' | '_' | '=' | '*' | '~' | '+' | '#' | '—' | '–' | '－' | '─' | '━' | '―'
        )
    };
    let inner = fold.trim_start_matches(is_rule);
    let lead = fold.chars().count() - inner.chars().count();
    let inner = inner.trim_matches(|c: char| is_rule(c) || c == ' ' || c == ':');
    (lead >= 4 || lead >= 2 && fold.ends_with(is_rule))
        && !inner.is_empty()
        && inner.chars().count() <= 60
        && inner.split(' ').count() <= 7
        && inner.contains(char::is_alphabetic)
}

/// The rows `Word: value` from `first` on.
fn rows(lines: &[BodyLine], first: usize) -> Vec<&str> {
    let depth = lines[first].depth;
    let named = |fold: &&str| {
        fold.split_once(':')
            .is_some_and(|(key, _)| !key.is_empty() && key.chars().count() <= 25)
    };
    lines[first..]
        .iter()
        .take(UNKNOWN_ROWS_MAX)
        .take_while(|line| line.depth == depth)
        .map(|line| line.fold.as_str())
        .take_while(named)
        .collect()
}

/// The maximum number of rows of a header block with unknown words.
const UNKNOWN_ROWS_MAX: usize = 8;

/// A header block without a rule: a paragraph of at least four rows that begins with a sender and a date,
/// followed by another address or the thread's subject. A form that a person fills in does not name a sender
/// in this way.
fn shaped_block(lines: &[BodyLine], first: usize, subject: &str) -> Option<usize> {
    let head = &lines[first].fold;
    if !head.contains(['@', '0', '1', '2']) || first > 0 && !lines[first - 1].is_blank() {
        return None;
    }
    let rows = rows(lines, first);
    let keyed = rows.iter().all(|row| {
        let key = row.split(':').next().unwrap_or_default();
        key.split(' ').count() <= 3 && !key.contains(|c: char| c.is_ascii_digit() || c == '@')
    });
    if rows.len() < 4 || !keyed {
        return None;
    }
    let from = rows[..2].iter().position(|row| BRACKETED.is_match(row))?;
    let sent = rows[..3]
        .iter()
        .position(|row| dated_header(row).is_some())?;
    let is_named = |row: &str| {
        let value = row.split_once(':').map_or("", |(_, value)| value);
        value
            .trim_start()
            .starts_with(|c: char| c.is_alphabetic() || c == '"')
    };
    let about = rows.iter().enumerate().any(|(at, row)| {
        at != from && at != sent && ADDRESS.is_match(row)
            || !subject.is_empty() && at > 1 && row.ends_with(subject)
    });
    (is_named(rows[from]) && about).then_some(first + rows.len())
}

/// The line after a block with unknown labels below a rule: three lines or more with colons, one with an
/// address and one with a date.
fn unknown_block(lines: &[BodyLine], first: usize) -> Option<usize> {
    let rows = rows(lines, first);
    let sent = rows.iter().any(|row| dated_header(row).is_some());
    let from = rows.iter().any(|row| BRACKETED.is_match(row));
    (rows.len() >= 3 && sent && from).then_some(first + rows.len())
}

/// True for `From: Ann Sent: Tuesday To: Bob Subject: Hi` on one line, which some converters write.
fn one_line_block(fold: &str) -> bool {
    let mut block = BlockEvidence::default();
    let words: Vec<&str> = fold.split(' ').collect();
    for (at, word) in words.iter().enumerate() {
        if let Some(key) = word.strip_suffix(':')
            && let Some(kind) = KEYS.get(key.trim_matches('*'))
        {
            block.add(
                *kind,
                words
                    .get(at + 1..)
                    .map_or("", |rest| rest.first().copied().unwrap_or("")),
            );
        }
    }
    block.kinds.len() >= 4 && ADDRESS.is_match(fold) | TIME.is_match(fold)
}

/// The evidence in a run of header lines.
#[derive(Default)]
struct BlockEvidence {
    kinds: Vec<HeaderLabel>,
    last: Option<HeaderLabel>,
    wrapped: usize,
    /// True if there is an address or a date as programs write them.
    exact: bool,
    /// True if there is an address or a time of day.
    timed: bool,
}

impl BlockEvidence {
    fn add(&mut self, kind: HeaderLabel, value: &str) {
        if kind != HeaderLabel::Other && !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
        self.last = Some(kind);
        self.wrapped = 0;
        let sent = kind == HeaderLabel::Sent;
        self.timed |= ADDRESS.is_match(value) || sent && TIME.is_match(value);
        self.exact |= self.timed || sent && DATE.is_match(value);
    }

    fn may_continue(&self) -> bool {
        self.wrapped < 6 && self.last.is_some()
    }

    fn continue_line(&mut self, fold: &str) {
        // Prose under "Subject:" is already the body; a recipient list has addresses.
        self.wrapped += if ADDRESS.is_match(fold) { 1 } else { 3 };
        self.exact |= BRACKETED.is_match(fold);
    }

    fn suffices(&self, ruled_off: bool) -> bool {
        let has = |kind| self.kinds.contains(&kind);
        let who = has(HeaderLabel::From) || has(HeaderLabel::Sent);
        match self.kinds.len() {
            4.. => true,
            // People paste From, To and Subject; only mail programs add the date.
            3 => {
                who && (ruled_off
                    || has(HeaderLabel::Sent) && (self.exact || has(HeaderLabel::Subject)))
            }
            2 => has(HeaderLabel::From) && (ruled_off || self.timed && has(HeaderLabel::Sent)),
            1 => ruled_off && has(HeaderLabel::From) && self.exact,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::lines;
    use super::*;

    #[test]
    fn header_blocks_need_more_than_a_colon() {
        let block = |text: &str| header_block(&lines(text), 0, false, "4711").ok();
        assert!(block("From: Ann <ann@a.example>\nSent: Tuesday\nTo: Bob\nSubject: Hi").is_some());
        assert!(block("*Von:* Ann\n*Gesendet:* Dienstag\n*An:* Bob\n*Betreff:* Hallo").is_some());
        assert!(block("From: Berlin\nTo: Paris\nDate: Monday").is_none());
        assert!(block("From: Berlin").is_none());
        assert!(block("Note: well\nTo: do").is_none());
        for unknown in [
            "Kimdən: Shop <a@a.example>\nGöndərilib: 16 noyabr 2026 10:11\nKimə: Anna <b@b.example>\nMövzu: Sifariş\n\nx",
            "გამომგზავნი: Shop <a@a.example>\nგაგზავნილია: 16 ნოემბერი, 2026 10:11\nმიმღები: Nino\nთემა: შეკვეთა 4711\n\nx",
            "Kutoka: \"Shop\" <a@a.example>\nIlitumwa: Jumatatu 16 Novemba 2026 10:11\nKwa: Amina <b@b.example>\nMada: Agizo\n\nx",
        ] {
            assert!(block(unknown).is_some(), "{unknown}");
        }
        for form in [
            "Name: Ann Smith\nMail: <ann@a.example>\nDay: 16 Nov 2026 10:11\nOther: b@b.example",
            "Shop: Ann <a@a.example>\nTime: 16 Nov 2026 10:11\nRoom: 5",
        ] {
            assert!(block(form).is_none(), "{form}");
        }
        for line in [
            "----邮件原文----",
            "==== Изначално писмо ====",
            "-----Mesaj orijinal",
        ] {
            assert!(is_ruled_words(&super::super::fold::fold(line)), "{line}");
        }
        for line in ["-- ", "-----", "- item", "a ---- b", "--flag"] {
            assert!(!is_ruled_words(line), "{line}");
        }
    }

    #[test]
    fn separators_speak_many_languages() {
        let of = |text: &str| separator(&lines(text)[0], "reply above this line", false);
        assert_eq!(
            of("-----Original Message-----"),
            Some(MailSeparator::Original)
        );
        assert_eq!(
            of("------------------ 原始邮件 ------------------"),
            Some(MailSeparator::Original)
        );
        assert_eq!(
            of("---------- Forwarded message ---------"),
            Some(MailSeparator::Forwarded)
        );
        assert_eq!(
            of("Anfang der weitergeleiteten Nachricht:"),
            Some(MailSeparator::Forwarded)
        );
        assert_eq!(
            of("##- Reply above this line -##"),
            Some(MailSeparator::Marker)
        );
        assert_eq!(
            of("##- Veuillez ajouter une réponse au-dessus de cette ligne -##"),
            Some(MailSeparator::Marker)
        );
        assert_eq!(of("## Steps ##"), None);
        assert_eq!(of("##----##"), None);
        assert_eq!(of("I saw the original message"), None);
        assert_eq!(of("------"), None);
    }
}
