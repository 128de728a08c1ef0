//! Owns the recognition of our own text in a mail, by comparison with the mails we sent.
//!
//! Works in any language and without quote marks. Does not decide which lines are cut.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::fold::is_invisible;
use super::shapes::is_barred;
use super::text::BodyLine;
use crate::mail::text::cut;

/// The number of consecutive words that are compared.
const SHINGLE: usize = 4;

/// The number of consecutive matching words that cannot be chance.
const RUN_MIN: usize = 8;

/// The number of texts that are compared, newest first.
const TEXTS_MAX: usize = 16;

/// Bytes of one text that are compared.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// The lines that contain our text.
pub(super) struct KnownLines {
    /// For each line: true if we sent it.
    pub(super) lines: Vec<bool>,
    /// For each line: true if half of it or more is ours, so it is no answer.
    pub(super) partly: Vec<bool>,
    /// True if most of one of our texts was found.
    pub(super) found_most: bool,
    /// True if nearly all of one of our texts was found.
    pub(super) found_nearly_all: bool,
    /// The line from which our lines occur more often than we wrote them: an earlier mail begins above.
    pub(super) repeated_from: Option<usize>,
}

impl KnownLines {
    /// The state in which none of `count` lines is known.
    pub(super) fn none(count: usize) -> Self {
        Self {
            lines: vec![false; count],
            partly: vec![false; count],
            found_most: false,
            found_nearly_all: false,
            repeated_from: None,
        }
    }
}

/// The words of a mail, in order.
#[derive(Default)]
struct MailWords {
    words: Vec<u64>,
    /// For each line that has words: its index, and the place of its words.
    places: Vec<(usize, Range<usize>)>,
}

impl MailWords {
    fn of(lines: &[BodyLine]) -> Self {
        let mut mail = Self::default();
        for (at, line) in lines.iter().enumerate() {
            let initials = line.depth == 0 && is_barred(&line.fold);
            let content = line.raw.split_once('>').filter(|_| initials);
            let content = content.map_or(line.raw.as_str(), |(_, content)| content);
            let content = content.trim_start_matches(['>', ' ', '|', '\t', '＞']);
            let start = mail.words.len();
            add_words(content, &mut mail.words);
            if mail.words.len() > start {
                mail.places.push((at, start..mail.words.len()));
            }
        }
        mail
    }

    /// The lines that have words: their indices and their words.
    fn lines(&self) -> impl Iterator<Item = (usize, &[u64])> {
        let places = self.places.iter();
        places.map(|(at, place)| (*at, &self.words[place.clone()]))
    }
}

/// Finds the words of `texts` in `lines`.
pub(super) fn find(lines: &[BodyLine], texts: &[&str]) -> KnownLines {
    let texts: Vec<Vec<Vec<u64>>> = texts
        .iter()
        .take(TEXTS_MAX)
        .map(|text| bounded(text).lines().map(words))
        .map(|lines| lines.filter(|words| !words.is_empty()).collect())
        .collect();
    let whole_texts: Vec<Vec<u64>> = texts
        .iter()
        .map(|lines| lines.concat())
        .filter(|words| words.len() >= 2)
        .collect();
    if whole_texts.is_empty() {
        return KnownLines::none(lines.len());
    }
    let own_lines = || {
        let lines = texts.iter().flatten().map(Vec::as_slice);
        lines.filter(|words| words.len() >= 2)
    };
    let mail = MailWords::of(lines);
    let mut ours = vec![false; mail.words.len()];
    let mut whole = false;
    let mut untouched = false;
    for text in &whole_texts {
        let covered = cover(&mail.words, text);
        let count = covered.iter().filter(|covered| **covered).count();
        let found = count * 10 >= text.len() * 6 && text.len() >= SHINGLE;
        whole |= found;
        untouched |= found && count * 100 >= text.len() * 85;
        let run_min = RUN_MIN.min((text.len() * 4).div_ceil(5)).max(2);
        accept_runs(&covered, run_min, found, &mut ours);
    }
    let (mut found, mut partly) = by_line(&mail, &ours, lines.len());
    let mut continued = Vec::new();
    for text in &texts {
        let same = same_lines(&mail, text, &mut found);
        whole |= same.is_proof;
        untouched |= same.is_proof;
        continued.extend(same.continued);
    }
    for at in continued {
        partly[at] = false;
    }
    let again = first_repeated(&mail, own_lines(), &found);
    if whole {
        short_lines(&mail, &own_lines().collect(), &mut found);
    }
    KnownLines {
        lines: found,
        partly,
        found_most: whole,
        found_nearly_all: untouched,
        repeated_from: again,
    }
}

/// The first line in `found` that occurs more often than our texts contain it.
fn first_repeated<'t>(
    mail: &MailWords,
    lines: impl Iterator<Item = &'t [u64]>,
    found: &[bool],
) -> Option<usize> {
    let mut left: HashMap<&[u64], usize> = HashMap::new();
    for line in lines {
        *left.entry(line).or_default() += 1;
    }
    mail.lines()
        .filter(|(at, _)| found[*at])
        .find(|(_, words)| match left.get_mut(words) {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        })
        .map(|(at, _)| at)
}

/// The minimum number of our lines, if they have too few words for a shingle.
const SAME_LINES_MIN: usize = 3;

/// The lines of one of our texts that stand in the mail as they were sent.
struct SameLines {
    /// True if they are nearly all lines of the text.
    is_proof: bool,
    /// The lines of the mail that begin with a line of ours and continue with other words: answers to it.
    continued: Vec<usize>,
}

/// Marks the lines of `ours` that the mail contains as they were sent, if it contains nearly all of them in
/// their order: so a line between two of them is not ours, however short our lines are. The greeting above
/// the first line that was found is ours too.
fn same_lines(mail: &MailWords, ours: &[Vec<u64>], found: &mut [bool]) -> SameLines {
    let mut places: HashMap<&[u64], Vec<usize>> = HashMap::new();
    for (at, line) in ours.iter().enumerate().rev() {
        places.entry(line).or_default().push(at);
    }
    let mut next = 0;
    let mut same: Vec<usize> = Vec::new();
    let mut continued: Vec<usize> = Vec::new();
    let mut before: Option<(usize, &[u64])> = None;
    let mut greeting = None;
    for (at, words) in mail.lines() {
        let mut place = None;
        if let Some(left) = places.get_mut(words) {
            while left.last().is_some_and(|place| *place < next) {
                left.pop();
            }
            place = left.pop();
        }
        if let Some(place) = place {
            next = place + 1;
            same.push(at);
        } else if !found[at] && is_continued(ours, next, words) {
            next += 1;
            continued.push(at);
        }
        // The greeting is directly above the first of our lines that was found by its words.
        if found[at] && greeting.is_none() {
            greeting = before.take().filter(|(_, above)| {
                let first = ours.first().is_some_and(|first| first == above);
                first && ours.get(1).is_some_and(|second| is_start(second, words))
            });
            greeting.get_or_insert((usize::MAX, &[]));
        }
        before = Some((at, words));
    }
    if let Some((at, _)) = greeting.filter(|(at, _)| *at < found.len()) {
        found[at] = true;
    }
    let count: usize = ours.iter().map(Vec::len).sum();
    let met = same.len() + continued.len();
    let is_proof = met >= SAME_LINES_MIN && met * 10 >= ours.len() * 8 && count >= 6;
    if is_proof {
        for at in same {
            found[at] = true;
        }
    }
    SameLines {
        is_proof,
        continued,
    }
}

/// True if `line` is the next line of ours with other words after it, which are not the line after it.
fn is_continued(ours: &[Vec<u64>], next: usize, line: &[u64]) -> bool {
    let Some(rest) = ours
        .get(next)
        .and_then(|ours| line.strip_prefix(ours.as_slice()))
    else {
        return false;
    };
    let below = ours.get(next + 1).and_then(|below| below.first());
    rest.first().is_some_and(|first| below != Some(first))
}

/// True if one of the two lines begins with the other.
fn is_start(ours: &[u64], line: &[u64]) -> bool {
    let mut pairs = ours.iter().zip(line).take(SHINGLE);
    pairs.all(|(ours, word)| ours == word)
}

/// The number of bits in a table of the words of one text.
const FIRST_BITS: usize = 1 << 14;

fn bit_of(word: u64) -> usize {
    usize::try_from(word).unwrap_or_default() % FIRST_BITS
}

fn bounded(text: &str) -> &str {
    cut(text, TEXT_BYTES_MAX)
}

/// Flags for each word of the mail: true if it belongs to a shingle of `text`.
fn cover(mail: &[u64], text: &[u64]) -> Vec<bool> {
    let size = SHINGLE.min(text.len());
    let shingles: HashSet<&[u64]> = text.windows(size).collect();
    let mut covered = vec![false; mail.len()];
    // Most words of a mail are not ours, which one bit per word shows quickly.
    let mut bits = vec![false; FIRST_BITS];
    for shingle in &shingles {
        bits[bit_of(shingle[0])] = true;
    }
    for (at, window) in mail.windows(size).enumerate() {
        if bits[bit_of(window[0])] && shingles.contains(window) {
            covered[at..at + size].fill(true);
        }
    }
    covered
}

/// Accepts the runs that are too long for chance; if the text was found whole, also the short runs after
/// the first of them, because answers stand between.
fn accept_runs(covered: &[bool], run_min: usize, found: bool, ours: &mut [bool]) {
    let mut start = 0;
    let mut anchored = false;
    for run in covered.chunk_by(|a, b| a == b) {
        let end = start + run.len();
        if run[0] && (run.len() >= run_min || anchored && found) {
            anchored = true;
            ours[start..end].fill(true);
        }
        start = end;
    }
}

/// Below our first line, lines too short for a shingle are ours if they are equal.
fn short_lines(mail: &MailWords, own_lines: &HashSet<&[u64]>, found: &mut [bool]) {
    let Some(first) = found.iter().position(|found| *found) else {
        return;
    };
    for (at, words) in mail.lines() {
        if at > first && !found[at] {
            found[at] = own_lines.contains(words);
        }
    }
}

/// A line is ours if it begins and ends with our words and nearly all between are ours.
fn by_line(mail: &MailWords, ours: &[bool], count: usize) -> (Vec<bool>, Vec<bool>) {
    let mut known = vec![false; count];
    let mut partly = vec![false; count];
    for (at, place) in &mail.places {
        let marks = &ours[place.clone()];
        let hits = marks.iter().filter(|hit| **hit).count();
        partly[*at] = hits * 2 >= marks.len();
        known[*at] = marks[0] && marks[marks.len() - 1] && hits * 10 >= marks.len() * 9;
    }
    (known, partly)
}

/// The hashes of the words of a text.
fn words(text: &str) -> Vec<u64> {
    let mut words = Vec::new();
    add_words(text, &mut words);
    words
}

/// Appends the hashes of the lower-case words without punctuation; in scripts without spaces between words,
/// of each character.
fn add_words(text: &str, words: &mut Vec<u64>) {
    let mut word: Option<u64> = None;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            let mut letter = [0];
            let letter = c.to_ascii_lowercase().encode_utf8(&mut letter);
            word = Some(hash(word.unwrap_or(HASH_START), letter));
            continue;
        }
        if is_invisible(c) {
            continue;
        }
        let alone = is_unspaced(c);
        let letter = is_letter(c);
        if alone || !letter {
            words.extend(word.take());
        }
        if alone {
            words.push(hash(HASH_START, c.encode_utf8(&mut [0; 4])));
        } else if letter {
            for c in c.to_lowercase() {
                word = Some(hash(word.unwrap_or(HASH_START), c.encode_utf8(&mut [0; 4])));
            }
        }
    }
    words.extend(word);
}

/// True for a character of a word: any but space, punctuation and symbols of the usual scripts. The tables
/// of Unicode are more exact and take ten times as long.
fn is_letter(c: char) -> bool {
    match u32::from(c) {
        0..=0x7f => c.is_ascii_alphanumeric(),
        0x80..=0xbf | 0xd7 | 0xf7 | 0x589 | 0x58a | 0x5be | 0x5c0 | 0x5c3 | 0x5f3 | 0x5f4 => false,
        0x600..=0x60f | 0x61b..=0x61f | 0x66a..=0x66d | 0x6d4 | 0x964 | 0x965 => false,
        0x2000..=0x2bff | 0x2e00..=0x2e7f | 0x3000..=0x303f | 0x30fb => false,
        0xe000..=0xf8ff | 0xfe10..=0xfe6f | 0xff00..=0xff0f | 0xff1a..=0xff20 => false,
        0xff3b..=0xff40 | 0xff5b..=0xff65 | 0xffe0..=0xffff | 0x1_f000..=0x1_faff => false,
        _ => true,
    }
}

fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff | 0x3400..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff)
}

/// The FNV-1a hash of no word.
const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// The FNV-1a hash of a word that continues with `rest`. A sender who constructs collisions only has their
/// own words taken for ours.
fn hash(word: u64, rest: &str) -> u64 {
    rest.bytes().fold(word, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::super::text::lines;
    use super::*;

    const SENT: &str = "Hello Ann,\n\nthe parcel will arrive on Monday between nine and twelve.\n\nDo you want it left with a neighbour?";

    #[test]
    fn our_lines_are_found_wrapped_and_without_marks() {
        let mail = lines(
            "Yes please.\n\nHello Ann, the parcel will arrive\non Monday between nine and\ntwelve. Do you want it left with a neighbour?",
        );
        let known = find(&mail, &[SENT]);
        assert_eq!(known.lines, [false, false, true, true, true]);
        assert!(known.found_most);
    }

    #[test]
    fn short_lines_of_ours_are_told_from_answers_between_them() {
        let sent = "Hello Ann,\n\nwhich colour?\n\nwhich address?\n\nThe Shop Team";
        let mail = lines(
            "See below.\nHello Ann,\nwhich colour?\nThe blue one.\nwhich address?\n5 Road\nThe Shop Team",
        );
        let known = find(&mail, &[sent]);
        assert_eq!(known.lines, [false, true, true, false, true, false, true]);
        assert!(known.found_nearly_all);
        // An answer may stand on the line of our question.
        let mail =
            lines("Hello Ann,\nwhich colour? The blue one.\nwhich address? 5 Road\nThe Shop Team");
        let known = find(&mail, &[sent]);
        assert_eq!(known.lines, [true, false, false, true]);
        assert_eq!(known.partly, [false; 4]);
        assert!(known.found_nearly_all);
        // Two common lines are no proof.
        let mail = lines("Hello Ann,\nmy own words\nThe Shop Team");
        assert_eq!(find(&mail, &[sent]).lines, [false; 3]);
    }

    #[test]
    fn the_greeting_above_our_words_is_ours() {
        let sent = "Hi there!\n\nThe parcel will arrive on Monday between nine and twelve.";
        let mail = lines(
            "Fine.\n\nHi there!\n\nThe parcel will arrive on Monday between nine and twelve.",
        );
        assert_eq!(
            find(&mail, &[sent]).lines,
            [false, false, true, false, true]
        );
    }

    #[test]
    fn a_few_common_words_are_not_ours() {
        let mail = lines("Do you want it on Monday?\nHello Ann, thanks");
        assert_eq!(find(&mail, &[SENT]).lines, [false, false]);
    }

    #[test]
    fn scripts_without_spaces_are_found_too() {
        let sent = "お荷物は月曜日の午前中に届く予定です。";
        let mail = lines("わかりました。\n\nお荷物は月曜日の午前中に\n届く予定です。");
        assert_eq!(find(&mail, &[sent]).lines, [false, false, true, true]);
    }

    #[test]
    fn without_sent_texts_no_line_is_known() {
        assert!(find(&lines("a\nb"), &[]).lines.iter().all(|known| !known));
    }
}
