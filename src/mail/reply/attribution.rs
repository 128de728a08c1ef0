//! Owns the recognition of attributions: the "On … wrote:" above a quote, in any language and wrapped at
//! any place.
//!
//! Does not decide which lines are cut. Date, address and colon together are evidence in any language.

use std::sync::LazyLock;

use regex::Regex;

use super::fold::pattern;
use super::languages::{FIRST_PERSON, OPENERS, WROTE, WROTE_UNSPACED};
use super::phrases::is_apart;
use super::shapes::{ADDRESS, BRACKETED, DATE, TIME, is_barred, is_torn_open};
use super::text::{BodyLine, LineMark};

/// The number of lines of a wrapped attribution.
const ATTRIBUTION_LINES_MAX: usize = 6;

/// The number of characters of an attribution.
const ATTRIBUTION_CHARS_MAX: usize = 420;

/// An attribution: lines `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attribution {
    pub(super) first: usize,
    pub(super) last: usize,
    /// True if it has verb, date and address, which no person types by hand.
    pub(super) certain: bool,
}

/// A cheap test for lines that cannot end an attribution, which are most.
pub(super) fn is_candidate(lines: &[BodyLine], last: usize, floor: usize) -> bool {
    let Some(end) = lines.get(last) else {
        return false;
    };
    if end.code || end.is_blank() || end.fold.len() > ATTRIBUTION_CHARS_MAX * 3 {
        return false;
    }
    let told = |line: &BodyLine| line.fold.bytes().any(|c| c == b'@' || c.is_ascii_digit());
    let mut above = (floor..=last).rev().take(ATTRIBUTION_LINES_MAX);
    (quote_follows(lines, last) || above.any(|at| told(&lines[at]))) && may_end(&end.fold)
}

/// Finds the attribution that ends with the candidate line `last`; `floor` is the first line that it may
/// include.
pub(super) fn attribution(lines: &[BodyLine], last: usize, floor: usize) -> Option<Attribution> {
    let quote_follows = quote_follows(lines, last);
    let mut joined = String::new();
    let mut best: Option<((u8, LineStart), Attribution)> = None;
    let mut first = last;
    for _ in 0..ATTRIBUTION_LINES_MAX {
        let line = &lines[first];
        joined = if joined.is_empty() {
            line.fold.clone()
        } else if is_torn_open(&line.fold) {
            format!("{}{joined}", line.fold)
        } else {
            format!("{} {joined}", line.fold)
        };
        if joined.chars().count() > ATTRIBUTION_CHARS_MAX {
            break;
        }
        let evidence = AttributionEvidence::of(&joined);
        let start = LineStart::of(&line.fold);
        if evidence.suffices(quote_follows, start) {
            let found = Attribution {
                first,
                last,
                certain: evidence.is_certain(),
            };
            // A line above is added only for more evidence: the verb, the address, or "On Tue, 4 Mar".
            let rank = (evidence.rank(), start);
            if best.is_none_or(|(kept, _)| rank.0 > kept.0 || rank.0 == kept.0 && start > kept.1) {
                best = Some((rank, found));
            }
            if start == LineStart::Opener {
                break;
            }
        }
        match line_above(lines, first, floor, &joined) {
            Some(above) => first = above,
            None => break,
        }
    }
    let ((_, start), found) = best?;
    if !quote_follows && is_listed(lines, found, floor) {
        return None;
    }
    Some(Attribution {
        first: name_above(lines, found.first, floor, start),
        ..found
    })
}

/// True if a line that begins with date and time stands just above or below another such line: a log, not
/// the head of a mail.
fn is_listed(lines: &[BodyLine], found: Attribution, floor: usize) -> bool {
    let dated = |at: usize| {
        lines.get(at).is_some_and(|line| {
            let head: String = line.fold.chars().take(LOG_HEAD_CHARS).collect();
            head.starts_with(|c: char| c == '[' || c.is_ascii_digit())
                && DATE.is_match(&head)
                && TIME.is_match(&head)
        })
    };
    let above = found.first > floor && dated(found.first - 1);
    dated(found.first) && (above || dated(found.last + 1))
}

/// The number of characters at the start of a log line that contain its time.
const LOG_HEAD_CHARS: usize = 24;

/// A long name before the address may fill separate lines.
fn name_above(lines: &[BodyLine], first: usize, floor: usize, start: LineStart) -> usize {
    if start == LineStart::Opener {
        return first;
    }
    let continues = |at: usize| {
        let line = &lines[at];
        !line.is_blank() && line.depth == lines[first].depth && !ends_sentence(&line.fold)
    };
    let top = (floor..first)
        .rev()
        .take(NAME_LINES_MAX + 1)
        .take_while(|at| continues(*at))
        .last();
    let Some(top) = top else { return first };
    let torn = lines[first].fold.starts_with('<') || lines[first - 1].fold.ends_with('<');
    // A separate paragraph is taken whole; otherwise the person's words may stand just above.
    if first - top <= NAME_LINES_MAX
        && top > floor
        && lines[top - 1].is_blank()
        && (torn || start != LineStart::Date)
    {
        return top;
    }
    (top..first)
        .rev()
        .take_while(|at| lines[*at].fold.ends_with('<') || is_titled(&lines[*at]))
        .last()
        .filter(|_| torn || start == LineStart::Name)
        .unwrap_or(first)
}

/// The number of lines of a name.
const NAME_LINES_MAX: usize = 2;

/// True for only capitalised words, or "Message from" and similar words.
fn is_titled(line: &BodyLine) -> bool {
    let titled = line.raw.split_whitespace().all(|word| {
        let first = word.chars().find(|c| c.is_alphabetic());
        first.is_some_and(|c| !c.is_lowercase())
    });
    let opened = OPENERS.iter().any(|opener| {
        opener.len() > 5
            && line
                .fold
                .strip_prefix(opener)
                .is_some_and(|rest| rest.starts_with(' '))
    });
    line.words() >= 2 && (titled || opened)
}

/// True if an attribution may end with this line.
fn may_end(fold: &str) -> bool {
    let tail = fold.trim_end_matches(['-', ' ', '*', '_', '"', '=', '|']);
    tail.ends_with([':', '>', ')', ']', '：'])
        || fold.contains('@') && tail.ends_with(|c: char| c.is_ascii_digit())
        || WROTE.iter().any(|verb| tail.ends_with(verb))
        || WROTE_UNSPACED.are_in(fold)
        || fold.starts_with("----") && tail.len() < fold.len()
}

/// The line above with which an attribution may continue: the next one, or one across a blank line if the
/// bracket of the address was torn off.
fn line_above(lines: &[BodyLine], first: usize, floor: usize, joined: &str) -> Option<usize> {
    let mut above = first.checked_sub(1)?;
    if above < floor {
        return None;
    }
    if lines[above].is_blank() {
        if above == floor {
            return None;
        }
        let torn = joined.starts_with(['<', '>'])
            || joined.starts_with("mailto:")
            || is_torn_open(&lines[above - 1].fold);
        if !torn {
            return None;
        }
        above -= 1;
    }
    let line = &lines[above];
    if is_torn_open(&line.fold) && !line.code {
        return Some(above);
    }
    if line.is_blank() || line.code || line.depth != lines[first].depth && !line.fold.ends_with('<')
    {
        return None;
    }
    (!ends_sentence(&line.fold)).then_some(above)
}

/// True for the end of a sentence, such as "I will let you know then..."; false for "Fr., 28." and "Apr.".
fn ends_sentence(fold: &str) -> bool {
    if fold.ends_with(['!', '?', '。', '！', '？', '…']) {
        return true;
    }
    let Some(head) = fold.strip_suffix('.') else {
        return false;
    };
    let word = head.rsplit([' ', ',']).next().unwrap_or_default();
    let short = word.chars().count() <= 4 && !word.is_empty();
    !(short || word.ends_with(|c: char| c.is_ascii_digit()))
}

/// The form of a line that may begin an attribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LineStart {
    Other,
    Name,
    Date,
    Opener,
}

impl LineStart {
    fn of(fold: &str) -> Self {
        let fold =
            fold.trim_start_matches(['-', '*', '_', ' ', '"', '\'', '|', '=', '(', '[', '~']);
        let head: String = fold.chars().take(40).collect();
        let digit_at = head.find(|c: char| c.is_ascii_digit());
        let opened = OPENERS.iter().any(|opener| {
            head.strip_prefix(opener)
                .is_some_and(|rest| rest.is_empty() || !rest.starts_with(char::is_alphabetic))
        });
        if opened && digit_at.is_some() {
            return Self::Opener;
        }
        if digit_at
            .is_some_and(|at| head[..at].split(' ').count() <= 3 && !head[..at].contains('<'))
        {
            return Self::Date;
        }
        if fold.contains(['<', '@']) {
            return Self::Name;
        }
        Self::Other
    }
}

/// The evidence for an attribution.
struct AttributionEvidence {
    verb: bool,
    date: bool,
    time: bool,
    address: bool,
    /// True if the address is in brackets, as programs write it.
    bracketed: bool,
    colon: bool,
    own: bool,
    /// True if a sentence ends after the address and another begins.
    goes_on: bool,
    words: usize,
}

static SENTENCE_END: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{L}{4}[.!?] \p{L}"));

impl AttributionEvidence {
    fn of(joined: &str) -> Self {
        let tail = joined.trim_end_matches(['-', ' ', '*', '_', '"', '=', '|']);
        Self {
            // People write "he said"; programs that write it add the address.
            verb: has_verb(joined) || has_word(joined, "said") && BRACKETED.is_match(joined),
            date: DATE.is_match(joined),
            time: TIME.is_match(joined),
            address: ADDRESS.is_match(joined),
            bracketed: BRACKETED.is_match(joined),
            colon: tail.ends_with(':'),
            own: FIRST_PERSON.stand_in(joined),
            goes_on: joined
                .rsplit_once('>')
                .is_some_and(|(_, rest)| SENTENCE_END.is_match(rest)),
            words: joined.split(' ').count(),
        }
    }

    /// The number of kinds of evidence.
    fn rank(&self) -> u8 {
        u8::from(self.verb) + u8::from(self.date) + u8::from(self.time) + u8::from(self.address)
    }

    fn is_certain(&self) -> bool {
        self.address && (self.date || self.time) && (self.verb || self.colon)
    }

    fn suffices(&self, quote_follows: bool, start: LineStart) -> bool {
        let dated = self.date || self.time;
        if self.own && !self.bracketed {
            return false;
        }
        if self.verb {
            return self.bracketed
                || self.address && dated
                || self.date && self.time && self.words <= 40
                || quote_follows && self.colon && (dated && self.words <= 40 || self.words <= 12)
                || quote_follows && self.date && start >= LineStart::Date && self.words <= 25;
        }
        if self.colon {
            return self.bracketed && dated && self.words <= 45 && (quote_follows || !self.goes_on)
                || quote_follows && self.date && self.time && self.words <= 25
                || quote_follows && self.bracketed && self.words <= 15;
        }
        quote_follows
            && (self.bracketed && dated && start >= LineStart::Date && self.words <= 25
                || self.address && self.date && self.time && self.words <= 14)
    }
}

fn has_verb(joined: &str) -> bool {
    WROTE.stand_in(joined) || WROTE_UNSPACED.are_in(joined)
}

/// True if `word` stands in `text` with no letter on either side.
fn has_word(text: &str, word: &str) -> bool {
    let mut places = text.match_indices(word);
    places.any(|(at, _)| is_apart(text, at..at + word.len()))
}

fn quote_follows(lines: &[BodyLine], last: usize) -> bool {
    let depth = lines[last].depth;
    lines[last + 1..]
        .iter()
        .take(4)
        .find(|line| !line.is_blank() || line.depth > depth)
        .is_some_and(|line| {
            line.depth > depth
                || line.mark == LineMark::Quote
                || depth == 0 && is_barred(&line.fold)
        })
}

#[cfg(test)]
mod tests {
    use super::super::text::lines;
    use super::*;

    fn attributed(body: &str) -> bool {
        let lines = lines(body);
        let last = lines
            .iter()
            .rposition(|line| line.depth == 0 && !line.is_blank())
            .expect("a line");
        is_candidate(&lines, last, 0) && attribution(&lines, last, 0).is_some()
    }

    #[test]
    fn attributions_of_many_languages() {
        for line in [
            "On Tue, 4 Mar 2025 at 10:11, Ann Smith <ann@a.example> wrote:",
            "On 28 Jan 2016, at 19:04, Ann Smith wrote:",
            "Le mar. 4 mars 2025 à 10:11, Ann Smith <ann@a.example> a écrit :",
            "Am Di., 4. März 2025 um 10:11 Uhr schrieb Ann Smith <ann@a.example>:",
            "Ann Smith <ann@a.example> schrieb am Di., 4. März 2025, 10:11:",
            "El mar, 4 mar 2025 a las 10:11, Ann Smith (<ann@a.example>) escribió:",
            "Em ter., 4 de mar. de 2025 às 10:11, Ann Smith <ann@a.example> escreveu:",
            "Il giorno mar 4 mar 2025 alle ore 10:11 Ann Smith <ann@a.example> ha scritto:",
            "Op di 4 mrt 2025 om 10:11 schreef Ann Smith <ann@a.example>:",
            "Den tis 4 mars 2025 kl 10:11 skrev Ann Smith <ann@a.example>:",
            "ti 4. maalisk. 2025 klo 10.11 Ann Smith (ann@a.example) kirjoitti:",
            "wt., 4 mar 2025 o 10:11 Ann Smith <ann@a.example> napisał(a):",
            "út 4. 3. 2025 v 10:11 odesílatel Ann Smith <ann@a.example> napsal:",
            "Ann Smith <ann@a.example> ezt írta (időpont: 2025. márc. 4., K, 10:11):",
            "În mar., 4 mar. 2025 la 10:11, Ann Smith <ann@a.example> a scris:",
            "вт, 4 мар. 2025 г. в 10:11, Ann Smith <ann@a.example>:",
            "вт, 4 бер. 2025 р. о 10:11 Ann Smith <ann@a.example> пише:",
            "Ann Smith <ann@a.example>, 4 Mar 2025 Sal, 10:11 tarihinde şunu yazdı:",
            "Στις Τρί 4 Μαρ 2025 στις 10:11 π.μ., ο χρήστης Ann <ann@a.example> έγραψε:",
            "\u{202b}בתאריך יום ג׳, 4 במרץ 2025 ב-10:11 מאת \u{202a}Ann Smith\u{202c}\u{200f} <\u{202a}ann@a.example\u{202c}\u{200f}>:\u{202c}",
            "في الثلاثاء، 4 مارس 2025 في 10:11 ص تمت كتابة ما يلي بواسطة \u{202a}Ann\u{202c}\u{200f} <\u{202a}ann@a.example\u{202c}\u{200f}>:",
            "2025年3月4日(火) 10:11 Ann Smith <ann@a.example>:",
            "Ann Smith <ann@a.example> 于2025年3月4日周二 10:11写道：",
            "2025년 3월 4일 (화) 오전 10:11, Ann Smith <ann@a.example>님이 작성:",
            "Vào Th 3, 4 thg 3, 2025 vào lúc 10:11 Ann Smith <ann@a.example> đã viết:",
            "ในวันที่ อ. 4 มี.ค. 2568 เวลา 10:11 Ann Smith <ann@a.example> เขียนว่า:",
            "Pada Sel, 4 Mar 2025 pukul 10.11 Ann Smith <ann@a.example> menulis:",
        ] {
            assert!(attributed(&format!("Hello\n\n{line}")), "{line}");
        }
    }

    #[test]
    fn an_address_may_be_broken_anywhere() {
        for torn in [
            "On Mon, Nov 16, 2026 at 10:11 AM The Company <general@inbox.\ntest> wrote:",
            "On Mon, Nov 16, 2026 at 10:11 AM The Company <\n\ngeneral@inbox.test> wrote:",
            "Am Mo., 16. Nov. 2026 um 10:11 Uhr schrieb Die Firma <general@\ninbox.test>:",
            "Le lun. 16 nov. 2026 à 10:11, La Société <\ngeneral@inbox.test> a écrit :",
        ] {
            let body = format!("Hello there.\n\n{torn}");
            let lines = lines(&body);
            let found = attribution(&lines, lines.len() - 1, 0);
            assert_eq!(found.map(|found| found.first), Some(2), "{torn}");
        }
    }

    #[test]
    fn a_persons_text_is_no_attribution() {
        for line in [
            "On Monday I wrote:",
            "As I wrote on 3 March 2025 at 10:11:",
            "Please send it to ann@a.example:",
            "We meet on 4 March 2025 at 10:11:",
            "He wrote:",
            "On 4 March 2025 at 10:11 Ann <ann@a.example> comes as well. Please bring:",
            "On this day I rewrote everything",
        ] {
            assert!(!attributed(&format!("Hello\n\n{line}")), "{line}");
        }
    }

    #[test]
    fn a_wrapped_attribution_is_found_whole() {
        let body = "I will let you know then...\nOp di 4 mrt 2025 10:11 schreef \"ann\" <ann@a.example> het\nvolgende geschreven:\n> x";
        let lines = lines(body);
        let found = attribution(&lines, 2, 0).expect("found");
        assert_eq!((found.first, found.last), (1, 2));
    }
}
