//! Owns contact cards (name, title, telephone) below a reply, and the closing words above them.
//!
//! Does not know delimiters and disclaimers.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::fold::pattern;
use super::languages::CLOSINGS;
use super::text::BodyLine;

/// The number of non-blank lines of a card.
pub(super) const CARD_LINES_MAX: usize = 15;

/// True for "-Ann" or "—Ann Smith", a name signed with a dash; false for a list item ("- Ann").
pub(super) fn is_dashed_name(raw: &str) -> bool {
    let Some(name) = raw.strip_prefix(['-', '–', '—', '~']) else {
        return false;
    };
    let name = name.strip_prefix('-').unwrap_or(name);
    // Lists are never marked with a long dash.
    let name = if raw.starts_with('—') {
        name.trim_start()
    } else {
        name
    };
    name.starts_with(|c: char| c.is_alphabetic() && !c.is_lowercase())
        && name.split(' ').count() <= 3
        && name.chars().count() <= 40
        && name
            .chars()
            .all(|c| c.is_alphabetic() || matches!(c, ' ' | '.' | '-' | '\''))
}

static PHONE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?:\+|\b0|\()[0-9][0-9 ().\-/\u{a0}]{6,}[0-9]"));

static LABEL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^[|*_ •·]*(?:t|tel|telephone|phone|ph|mobile|mob|m|cell|c|d|direct|office|o|fax|f|e|email|e-mail|mail|web|w|www|website|skype|linkedin|twitter|whatsapp|tél|tel\./fax|téléphone|fijo|móvil|movil|telefon|telefono|teléfono|telefone|handy|mobil|telefoon|mobiel|tlf|puh|gsm|тел|моб|телефон|τηλ|電話|携帯|手机|电话|邮箱|邮件|전화|휴대폰|đt|โทร)\s*[.:]+ *\S",
    )
});

static URL: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?:https?://|www\.)\S+|[^\s@<>]+@[^\s@<>]+\.[a-z]{2,}"));

/// True for a telephone number, a labelled number, or little more than an address.
pub(super) fn is_contact(fold: &str) -> bool {
    if fold.chars().count() > 160 {
        return false;
    }
    let words = fold.split(' ').count();
    fold.starts_with("[cid:")
        || fold.starts_with("[image")
        || LABEL.is_match(fold)
        || words <= 9 && PHONE.is_match(fold)
        || words <= 6 && URL.is_match(fold)
}

/// True if a line reads like a sentence of a letter.
pub(super) fn is_prose(fold: &str) -> bool {
    let words = fold.split(' ').count();
    words >= 14 || words >= 7 && fold.ends_with(['.', '?', '!', ':', '…']) && !is_contact(fold)
}

/// True for two to four capitalised words, optionally with a title after a bar or a comma.
pub(super) fn is_name(raw: &str) -> bool {
    let raw = raw
        .split(['|', ',', '/', '–', '·', '•'])
        .next()
        .unwrap_or(raw);
    let raw = raw.trim().trim_matches(['*', '_', ',', '|', ' ']);
    let words: Vec<&str> = raw.split_whitespace().collect();
    (2..=4).contains(&words.len())
        && words
            .iter()
            .all(|word| word.chars().next().is_some_and(char::is_uppercase))
        && raw
            .chars()
            .all(|c| c.is_alphabetic() || matches!(c, ' ' | '.' | '-' | '\'' | '’' | ','))
        && !raw.ends_with('.')
}

/// The first line of a contact card at the end of the block.
pub(super) fn card(lines: &[BodyLine], floor: usize, block: Range<usize>) -> Option<usize> {
    if let Some(from) = card_under_closing(lines, floor, block.end) {
        return Some(from);
    }
    let framed = lines[block.start]
        .fold
        .chars()
        .all(|c| matches!(c, '|' | ' '));
    let contacts = block
        .clone()
        .filter(|at| is_contact(&lines[*at].fold))
        .count();
    let short = block
        .clone()
        .all(|at| lines[at].fold.chars().count() <= 100 && !is_prose(&lines[at].fold));
    if block.len() < 2
        || block.len() > CARD_LINES_MAX
        || contacts == 0
        || !short
        || !(framed || is_name(&lines[block.start].raw))
    {
        return None;
    }
    if framed {
        return Some(block.start);
    }
    let above = (floor..block.start)
        .rev()
        .find(|at| !lines[*at].is_blank())?;
    // A card after "Please write to" is meant to be read; a signature's card follows the end of a sentence.
    let ended = lines[above]
        .raw
        .trim_end()
        .ends_with(|c: char| !c.is_alphanumeric() && !matches!(c, ':' | ',' | '-' | '>'));
    (ended || is_closing(&lines[above].fold)).then_some(block.start)
}

/// The first line of a contact card under "Best regards," and a name.
fn card_under_closing(lines: &[BodyLine], floor: usize, end: usize) -> Option<usize> {
    let mut seen = 0;
    let closing = (floor..end).rev().find_map(|at| {
        seen += usize::from(!lines[at].is_blank());
        if seen > CARD_LINES_MAX || is_prose(&lines[at].fold) {
            return Some(None);
        }
        (is_closing(&lines[at].fold) || closes_with_name(&lines[at].fold)).then_some(Some(at))
    })??;
    let mut below = (closing + 1..end).filter(|at| !lines[*at].is_blank());
    if is_closing(&lines[closing].fold) {
        let name = below.next()?;
        if lines[name].fold.starts_with("[image") {
            // A logo belongs to a card only if a contact line follows; else it is part of the person's
            // text.
            return below.any(|at| is_contact(&lines[at].fold)).then_some(name);
        }
        if lines[name].words() > 5 || is_contact(&lines[name].fold) {
            return None;
        }
    }
    let rest: Vec<usize> = below.collect();
    let first = *rest.first()?;
    let postscript = rest
        .iter()
        .any(|at| lines[*at].fold.starts_with("ps") || lines[*at].fold.starts_with("p.s"));
    (!postscript && rest.iter().any(|at| is_contact(&lines[*at].fold))).then_some(first)
}

/// True for "Best regards," alone on its line.
fn is_closing(fold: &str) -> bool {
    let text = fold.trim_matches([',', '.', '!', ' ', '-', '–', '*', '、', '。', ';', ':', '~']);
    CLOSINGS.contains(&text)
}

/// True for "Best regards, Ann Smith" on one line.
fn closes_with_name(fold: &str) -> bool {
    fold.split_once([',', '!', '.'])
        .is_some_and(|(closing, name)| {
            is_closing(closing) && (1..=3).contains(&name.split_whitespace().count())
        })
}

/// True if the lines left under a quote are a signature and not an answer.
pub(super) fn is_residue(lines: &[BodyLine], below: &[usize]) -> bool {
    let short = below.len() <= CARD_LINES_MAX && below.iter().all(|at| !is_prose(&lines[*at].fold));
    let contact = below.iter().any(|at| is_contact(&lines[*at].fold));
    let named = below
        .first()
        .is_some_and(|at| is_name(&lines[*at].raw) || is_closing(&lines[*at].fold));
    short && named && (contact || below.len() <= 4)
}
