//! Owns the text below a reply: signatures, "sent from" lines, disclaimers, list footers.
//!
//! Closing words and the name below them ("Best regards, Ann") are the person's own words and stay with the
//! reply; the contact card below them is cut.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::card::{CARD_LINES_MAX, card, is_contact, is_dashed_name, is_name, is_prose};
use super::fold::pattern;
use super::labels;
use super::languages::{
    DEVICES, EXCUSES, FOOTERS, LEGAL, LEGAL_HEADINGS, LEGAL_TOO, SENT_FROM, SENT_FROM_END,
    SENT_FROM_MINE,
};
use super::phrases::PhraseList;
use super::quotes::is_rule;
use super::text::{BodyLine, LineMark};

/// The number of non-blank lines of a signature, disclaimers included.
const SIGNATURE_LINES_MAX: usize = 40;

/// The number of blocks below a reply.
const BLOCKS_MAX: usize = 24;

/// Marks in `gone` the lines of `zone` (a run of lines without quotes) that are signature.
pub(super) fn mark_signatures(lines: &[BodyLine], zone: Range<usize>, gone: &mut [bool]) {
    for at in zone.clone() {
        if lines[at].mark == LineMark::Signature {
            gone[at] = true;
        }
    }
    mark_label_on_top(lines, zone.clone(), gone);
    mark_pgp_armour(lines, zone.clone(), gone);
    if let Some(at) = delimiter(lines, zone.clone(), gone) {
        gone[at..zone.end].fill(true);
    }
    let mut cards = 0;
    for _ in 0..BLOCKS_MAX {
        let Some(block) = last_block(lines, zone.clone(), gone) else {
            break;
        };
        let Some(from) = tail_of(lines, zone.start, block.clone(), &mut cards) else {
            break;
        };
        gone[from..block.end].fill(true);
    }
    for at in zone.clone() {
        let alone = |at: usize| !zone.contains(&at) || lines[at].is_blank() || gone[at];
        if !gone[at]
            && !lines[at].code
            && (at == zone.start || alone(at - 1))
            && sent_from_line(&lines[at].fold) == Some(Strength::Certain)
            && (alone(at + 1) || sent_from_line(&lines[at + 1].fold).is_some())
        {
            gone[at] = true;
        }
    }
}

/// Marks a sensitivity label alone at the very top, with words below it.
fn mark_label_on_top(lines: &[BodyLine], zone: Range<usize>, gone: &mut [bool]) {
    let mut filled = zone.filter(|at| !lines[*at].is_blank());
    let (Some(top), Some(next)) = (filled.next(), filled.next()) else {
        return;
    };
    let is_first = lines[..top].iter().all(BodyLine::is_blank);
    gone[top] |= is_first && next > top + 1 && labels::is_label(&lines[top].fold);
}

/// The last run of lines that are neither blank nor gone.
fn last_block(lines: &[BodyLine], zone: Range<usize>, gone: &[bool]) -> Option<Range<usize>> {
    let last = zone
        .clone()
        .rev()
        .find(|at| !lines[*at].is_blank() && !gone[*at])?;
    let first = (zone.start..=last)
        .rev()
        .take_while(|at| !lines[*at].is_blank() && !gone[*at])
        .take(SIGNATURE_LINES_MAX)
        .last()?;
    Some(first..last + 1)
}

/// The first line of the last block that is not part of the reply.
fn tail_of(
    lines: &[BodyLine],
    floor: usize,
    block: Range<usize>,
    cards: &mut u32,
) -> Option<usize> {
    let last = &lines[block.end - 1];
    if last.code {
        return None;
    }
    let sent_from = match sent_from_line(&last.fold) {
        Some(Strength::Certain) => true,
        Some(Strength::Likely) => block.len() == 1,
        None => false,
    };
    if sent_from || (is_rule(&last.fold) && block.len() == 1 && block.start > floor) {
        return Some(block.end - 1);
    }
    // The program's web address may stand on a separate line below its name.
    if block.len() >= 2
        && is_link(&last.fold)
        && sent_from_line(&lines[block.end - 2].fold) == Some(Strength::Certain)
    {
        return Some(block.end - 2);
    }
    if labels::is_label(&last.fold) && (block.len() > 1 || block.start > floor) {
        return Some(block.end - 1);
    }
    if let Some(at) = footer(lines, block.clone()) {
        return Some(at);
    }
    if is_legal(lines, floor, block.clone()) {
        return Some(legal_start(lines, block));
    }
    if block.len() == 1 && block.start > floor && is_dashed_name(last.raw.trim()) {
        return Some(block.start);
    }
    if *cards > 0 {
        return None;
    }
    let from = card(lines, floor, block)?;
    *cards += 1;
    Some(from)
}

/// Marks the PGP armour around the words.
fn mark_pgp_armour(lines: &[BodyLine], zone: Range<usize>, gone: &mut [bool]) {
    let mut inside = false;
    let mut head = false;
    for at in zone {
        let fold = lines[at].fold.as_str();
        if fold.starts_with("-----begin pgp signed message") {
            gone[at] = true;
            head = true;
            continue;
        }
        if head {
            head = !lines[at].is_blank();
            gone[at] |= fold.starts_with("hash:") || fold.starts_with("charset:");
        }
        if fold.starts_with("-----begin pgp signature") {
            inside = true;
        }
        if inside {
            gone[at] = true;
            inside = !fold.starts_with("-----end pgp signature");
        }
    }
}

/// The line of `-- ` or a similar delimiter below which the zone has only a signature.
fn delimiter(lines: &[BodyLine], zone: Range<usize>, gone: &[bool]) -> Option<usize> {
    let mut found = None;
    let mut below = BelowDelimiter::default();
    for at in zone.rev() {
        let line = &lines[at];
        if line.is_blank() || gone[at] {
            below.gap |= line.is_blank();
            continue;
        }
        if line.code || below.lines > SIGNATURE_LINES_MAX {
            break;
        }
        if let Some(strictness) = Strictness::of(&line.fold)
            && below.allows(strictness)
        {
            found = Some(at);
        }
        below.add(line);
        below.gap = false;
    }
    found
}

/// The evidence that a delimiter needs in the lines below it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// `-- ` (RFC 3676 section 4.3).
    Standard,
    /// A rule, which may also separate two paragraphs.
    Rule,
}

impl Strictness {
    fn of(fold: &str) -> Option<Self> {
        match fold {
            "--" | "- --" | "—" | "––" | "——" | "-–" | "–" | "- -" | "--." => {
                Some(Self::Standard)
            }
            _ if fold == "__" || fold == "==" || is_rule(fold) && !fold.contains('.') => {
                Some(Self::Rule)
            }
            _ => None,
        }
    }
}

/// Counts of the lines below a possible delimiter.
#[derive(Default)]
struct BelowDelimiter {
    lines: usize,
    plain: usize,
    prose: usize,
    contact: bool,
    legal: bool,
    /// True if the line just below the delimiter is a name.
    first_is_name: bool,
    first_is_prose: bool,
    /// True if a blank line follows the delimiter.
    gap: bool,
}

impl BelowDelimiter {
    fn add(&mut self, line: &BodyLine) {
        self.lines += 1;
        let legal = is_legal_line(&line.fold) || FOOTERS.are_in(&line.fold);
        self.legal |= legal;
        self.contact |= is_contact(&line.fold);
        if !legal {
            self.plain += 1;
            self.prose += usize::from(is_prose(&line.fold));
        }
        self.first_is_name = is_name(&line.raw);
        self.first_is_prose = !legal && is_prose(&line.fold);
    }

    fn allows(&self, strictness: Strictness) -> bool {
        match strictness {
            // A signature follows at once; a sentence after a blank line is the next paragraph.
            Strictness::Standard if self.gap && self.first_is_prose => self.legal || self.contact,
            Strictness::Standard => {
                self.plain <= CARD_LINES_MAX && (self.legal || self.prose * 3 <= self.plain.max(3))
            }
            Strictness::Rule => {
                self.lines > 0
                    && self.plain <= 8
                    && self.prose == 0
                    && (self.contact || self.legal || self.first_is_name)
            }
        }
    }
}

/// The certainty of a "sent from" line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strength {
    /// The line names a device or a mail program.
    Certain,
    /// The line counts only as the last one.
    Likely,
}

static LINK: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"[<(\[]?(?:https?://|www\.)[^\s<>()\[\]]*[>)\]]?"));

/// True if a line is only a link.
fn is_link(fold: &str) -> bool {
    LINK.find(fold)
        .is_some_and(|link| link.range() == (0..fold.len()))
}

/// The certainty of a line like "Sent from my iPhone", in the known languages.
pub(super) fn sent_from_line(fold: &str) -> Option<Strength> {
    if fold.len() < 8 || fold.len() > 400 {
        return None;
    }
    let bracketed = fold.contains('[');
    if !bracketed
        && !SENT_FROM.are_in(fold)
        && !SENT_FROM_END.are_in(fold)
        && !fold.contains("yahoo")
    {
        return None;
    }
    let linked = fold.contains("http") || fold.contains("www.");
    let text = if linked || bracketed {
        LINK.replace_all(fold, "").replace(['[', ']'], "")
    } else {
        fold.to_owned()
    };
    let text = text.trim_matches([
        '<', '>', '(', ')', '*', '_', '[', ']', '-', '—', '–', '~', '"', '\'', '.', '!', ' ', '|',
        '。', '•', '“', '”',
    ]);
    if text.starts_with("yahoo mail:") || text.starts_with("yahoo mail with") {
        return Some(Strength::Certain);
    }
    let starts = SENT_FROM.iter().find(|word| begins_with(text, word));
    let ends = SENT_FROM_END.iter().find(|word| text.ends_with(*word));
    if starts.is_none() && ends.is_none() {
        return None;
    }
    let head_end = text
        .find([',', ';', '!', '?'])
        .into_iter()
        .chain(text.find(". "))
        .min()
        .unwrap_or(text.len());
    let (head, tail) = text.split_at(head_end);
    // After the device "…, please excuse typos" and "Verizon, Samsung Galaxy" may follow; other words make
    // it a sentence.
    let brief = tail.split(' ').count() <= 5 && names_device(tail);
    if tail.split(' ').count() > 1 && !brief && !EXCUSES.are_in(tail) {
        return None;
    }
    let words = head.split(' ').count();
    let device = brief || names_device(head);
    if device && words <= if starts.is_some() { 12 } else { 10 } {
        let spoken = starts.is_none() && ends.is_some_and(|end| end.starts_with("from "));
        return (!spoken || words <= 4).then_some(Strength::Certain);
    }
    let likely = words <= 8 && SENT_FROM_MINE.iter().any(|word| begins_with(text, word));
    likely.then_some(if text.starts_with("sent from my") && tail.len() > 1 {
        Strength::Certain
    } else {
        Strength::Likely
    })
}

fn begins_with(text: &str, word: &str) -> bool {
    text.strip_prefix(word).is_some_and(|rest| {
        word.chars()
            .next_back()
            .is_some_and(|c| !c.is_alphabetic() || !c.is_ascii())
            || !rest.starts_with(|c: char| c.is_ascii_alphabetic())
    })
}

/// True if a device begins a word of `text`; short names must be whole words.
fn names_device(text: &str) -> bool {
    DEVICES.any_where(text, |place| {
        let before = text[..place.start].chars().next_back();
        let after = text[place.end..].chars().next();
        let first = text[place.clone()].chars().next();
        first.is_some_and(|c| u32::from(c) >= 0x0590)
            || !before.is_some_and(|c| c.is_ascii_alphanumeric())
                && (place.len() > 4 || !after.is_some_and(|c| c.is_ascii_alphabetic()))
    })
}

/// The first line of a mailing-list or scanner footer in the block.
fn footer(lines: &[BodyLine], block: Range<usize>) -> Option<usize> {
    let hit = block.clone().find(|at| FOOTERS.are_in(&lines[*at].fold))?;
    // The rule or the dash above a footer is part of it, with the lines between.
    let ruled = block
        .clone()
        .take_while(|at| *at <= hit)
        .find(|at| is_rule(&lines[*at].fold) || matches!(lines[*at].fold.as_str(), "--" | "—"));
    let start = ruled.unwrap_or(hit);
    let prose = (start..hit).filter(|at| is_prose(&lines[*at].fold)).count();
    (prose == 0).then_some(start)
}

/// True if the whole block is a legal notice, or its rest continues one.
fn is_legal(lines: &[BodyLine], floor: usize, block: Range<usize>) -> bool {
    let (sure, other, words) = legal_weight(lines, block.clone());
    if sure > 0 && (sure + other >= 2 && words >= 12 || words <= 3) {
        return true;
    }
    let text = lines[block.start]
        .fold
        .trim_start_matches(['*', '_', '-', ' ']);
    if sure > 0
        && (LEGAL_HEADINGS.iter().any(|head| text.starts_with(head))
            || text.contains("the environment"))
    {
        return true;
    }
    let above = (floor..block.start).rev().find(|at| !lines[*at].is_blank());
    let Some(above) = above.filter(|_| other >= 2 && words >= 12) else {
        return false;
    };
    let top = (floor..=above)
        .rev()
        .take_while(|at| !lines[*at].is_blank())
        .take(SIGNATURE_LINES_MAX)
        .last()
        .unwrap_or(above);
    let (sure, other, words) = legal_weight(lines, top..above + 1);
    sure > 0 && sure + other >= 2 && words >= 12
}

/// The numbers of legal phrases, of ambiguous phrases and of words in a block.
fn legal_weight(lines: &[BodyLine], block: Range<usize>) -> (usize, usize, usize) {
    let text = block
        .map(|at| lines[at].fold.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    let unspaced = text.chars().filter(|c| u32::from(*c) >= 0x2e80).count();
    // One pass over the text shows that most blocks have none.
    let count = |list: &PhraseList| match list.are_in(&text) {
        true => list.iter().filter(|term| text.contains(*term)).count(),
        false => 0,
    };
    (
        count(&LEGAL),
        count(&LEGAL_TOO),
        text.split(' ').count() + unspaced / 3,
    )
}

/// The first line of the legal notice: the person's words may stand just above it.
fn legal_start(lines: &[BodyLine], block: Range<usize>) -> usize {
    let first = block
        .clone()
        .find(|at| is_legal_line(&lines[*at].fold))
        .unwrap_or(block.start);
    // A long line without a sentence end is the same paragraph, wrapped.
    (block.start..first)
        .rev()
        .take_while(|at| {
            lines[*at].fold.chars().count() >= 50 && !lines[*at].fold.ends_with(['.', '!', '?'])
        })
        .last()
        .unwrap_or(first)
}

/// True for a sentence that may be a person's, although it mentions lists or confidentiality.
pub(super) fn is_own_prose(fold: &str) -> bool {
    is_prose(fold) && sent_from_line(fold).is_none()
}

fn is_legal_line(fold: &str) -> bool {
    LEGAL.are_in(fold) || LEGAL_TOO.are_in(fold)
}

#[cfg(test)]
mod tests {
    use super::super::text::lines;
    use super::*;

    fn peeled(body: &str) -> String {
        let lines = lines(body);
        let mut gone = vec![false; lines.len()];
        mark_signatures(&lines, 0..lines.len(), &mut gone);
        let kept: Vec<&str> = lines
            .iter()
            .zip(&gone)
            .filter(|(_, gone)| !**gone)
            .map(|(line, _)| line.raw.as_str())
            .collect();
        kept.join("\n").trim().to_owned()
    }

    #[test]
    fn closings_stay_and_cards_are_cut() {
        assert_eq!(
            peeled("Yes.\n\nBest regards,\nAnn Smith\nHead of Sales\nTel: +44 20 7946 0000"),
            "Yes.\n\nBest regards,\nAnn Smith"
        );
        assert_eq!(
            peeled("Yes.\n\nThanks,\nAnn\n\nPS: bring cake"),
            "Yes.\n\nThanks,\nAnn\n\nPS: bring cake"
        );
        assert_eq!(peeled("Yes.\n\nKlassifizierung: Intern"), "Yes.");
        assert_eq!(peeled("Classification: Internal\n\nYes."), "Yes.");
        assert_eq!(
            peeled("Yes.\n\nAnn Smith\nACME Ltd\n+44 20 7946 0000"),
            "Yes."
        );
    }

    #[test]
    fn content_that_looks_like_a_card_stays() {
        for body in [
            "Please send it to:\n\nAnn Smith\n12 High Street\n+44 20 7946 0000",
            "+44 20 7946 0000",
            "a\n--\nThis goes on as a long paragraph after a dash, and nobody would call it a signature.\nAnd more of the same follows here, line after line of it.",
            "Sent from my desk, is much easier than my mobile phone.",
            "I sent it from my phone",
            "Lähetetty eilen",
            "Classification: Internal",
        ] {
            assert_eq!(peeled(body), body);
        }
    }

    #[test]
    fn sent_from_lines_of_many_languages() {
        for line in [
            "Sent from my iPhone",
            "Envoyé de mon iPhone",
            "Von meinem iPhone gesendet",
            "Enviado desde mi iPhone",
            "Inviato da iPhone",
            "Verstuurd vanaf mijn iPhone",
            "Skickat från min iPhone",
            "Sendt fra min iPhone",
            "Lähetetty iPhonesta",
            "Wysłane z iPhone'a",
            "Odesláno z iPhonu",
            "Отправлено с iPhone",
            "Надіслано з iPhone",
            "iPhone'umdan gönderildi",
            "Στάλθηκε από το iPhone μου",
            "נשלח מה-iPhone שלי",
            "أُرسلت من الـ iPhone",
            "iPhoneから送信",
            "发自我的iPhone",
            "從我的 iPhone 傳送",
            "나의 iPhone에서 보냄",
            "Đã gửi từ iPhone của tôi",
            "ส่งจาก iPhone ของฉัน",
            "Dikirim dari iPhone saya",
            "Trimis de pe iPhone-ul meu",
            "Elküldve az iPhone-omról",
            "Get Outlook for iOS<https://aka.ms/o0ukef>",
        ] {
            assert!(
                sent_from_line(&super::super::fold::fold(line)).is_some(),
                "{line}"
            );
        }
    }
}
