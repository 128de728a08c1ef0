//! Owns the normalised subject: the words left without the prefixes and tags that mail programs, lists and
//! gateways add.
//!
//! Does not decode: it takes the decoded subject from the view.

/// The number of characters of a subject that are read.
const CHARS_MAX: usize = 1_000;
/// The number of characters of a title.
const TITLE_CHARS_MAX: usize = 250;
/// The number of characters of a prefix word, its counter included.
const PREFIX_CHARS_MAX: usize = 24;
/// The number of characters of a tag in brackets.
const TAG_CHARS_MAX: usize = 60;

/// A subject without the marks of mail programs, lists and gateways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The subject lower-cased, with each run of white space as one space. All mails of a conversation have
    /// the same; an empty one identifies nothing. A tag with a number in it (`[#42]`) stays at the start,
    /// because it distinguishes conversations.
    pub normalised: String,
    /// The subject as people read it, with its marks, on one line; at most 250 characters.
    pub title: String,
    /// True if the prefix of a reply stood before it, in any of the known languages.
    pub is_reply: bool,
    /// True if the prefix of a forward stood before it, or `(fwd)` after it.
    pub is_forward: bool,
}

impl Subject {
    /// Parses a subject. Parsing [`Self::normalised`] again changes nothing.
    pub fn of(text: &str) -> Self {
        let folded = folded(text);
        let mut subject = Self {
            title: title(text),
            ..Self::default()
        };
        let mut kept: Vec<&str> = Vec::new();
        let mut rest = folded.as_str();
        // Each turn removes at least one character.
        while let Some((shorter, mark)) = stripped(rest) {
            match mark {
                SubjectMark::Forward => subject.is_forward = true,
                SubjectMark::Reply => subject.is_reply = true,
                SubjectMark::Numbered(tag) if !kept.contains(&tag) => kept.push(tag),
                SubjectMark::Numbered(_) | SubjectMark::Tag => {}
            }
            rest = shorter.trim();
        }
        if !rest.is_empty() {
            kept.push(rest);
        }
        subject.normalised = kept.join(" ");
        subject
    }
}

/// A mark before or after a subject.
enum SubjectMark<'a> {
    Forward,
    /// A tag that distinguishes conversations.
    Numbered(&'a str),
    Reply,
    Tag,
}

/// The subject without its outermost mark; `None` if it has none.
fn stripped(text: &str) -> Option<(&str, SubjectMark<'_>)> {
    if let Some(rest) = text.strip_suffix("(fwd)") {
        return Some((rest, SubjectMark::Forward));
    }
    if let Some(inner) = text.strip_prefix("[fwd:") {
        return Some((
            inner.strip_suffix(']').unwrap_or(inner),
            SubjectMark::Forward,
        ));
    }
    tag(text).or_else(|| prefix(text))
}

/// A tag in brackets or stars at the start: a list's name, `[external]`, `***spam***`. If there is nothing
/// but the tag, the tag is the subject.
fn tag(text: &str) -> Option<(&str, SubjectMark<'_>)> {
    let close = match text.chars().next()? {
        '[' => ']',
        '【' => '】',
        '*' => '*',
        _ => return None,
    };
    let inner = text.trim_start_matches('*');
    let open_bytes = if close == '*' {
        text.len() - inner.len()
    } else {
        0
    };
    let end = text
        .char_indices()
        .take(TAG_CHARS_MAX)
        .find(|(at, c)| *c == close && *at > open_bytes)
        .map(|(at, c)| at + c.len_utf8())?;
    let rest = text[end..].trim_start_matches('*').trim();
    let tag = &text[..end];
    if rest.is_empty() {
        return None;
    }
    if close == '*' && !is_word_in(tag.trim_matches('*').trim(), GATEWAY_WORDS) {
        return None;
    }
    if tag.chars().any(char::is_numeric) {
        return Some((rest, SubjectMark::Numbered(tag)));
    }
    Some((rest, SubjectMark::Tag))
}

/// A word and a colon at the start, with or without a counter: `re:`, `re[2]:`, `aw (3) :`.
fn prefix(text: &str) -> Option<(&str, SubjectMark<'_>)> {
    let (colon, _) = text
        .char_indices()
        .take(PREFIX_CHARS_MAX)
        .find(|(_, c)| *c == ':')?;
    let word = without_counter(text[..colon].trim_end());
    let mark = if is_word_in(word, REPLY_WORDS) {
        SubjectMark::Reply
    } else if is_word_in(word, FORWARD_WORDS) {
        SubjectMark::Forward
    } else if is_word_in(word, GATEWAY_WORDS) {
        SubjectMark::Tag
    } else {
        return None;
    };
    Some((&text[colon + 1..], mark))
}

fn without_counter(word: &str) -> &str {
    let numbered = word
        .trim_end_matches([']', ')'])
        .trim_end_matches(|c: char| c.is_ascii_digit());
    if numbered.len() == word.len() {
        return word;
    }
    numbered.trim_end_matches(['[', '(', '^', '*']).trim_end()
}

fn is_word_in(word: &str, groups: &[&str]) -> bool {
    groups
        .iter()
        .any(|group| group.split(',').any(|known| known == word))
}

/// The visible text on one line, with single spaces.
fn title(text: &str) -> String {
    let seen = text.chars().take(TITLE_CHARS_MAX);
    let seen: String = seen
        .filter(|c| !is_invisible(*c))
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    seen.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text lower-cased, with full-width forms as ASCII, without invisible characters, and with single
/// spaces.
fn folded(text: &str) -> String {
    let lower: String = text
        .chars()
        .take(CHARS_MAX)
        .filter(|c| !is_invisible(*c))
        .map(plain)
        .collect::<String>()
        .to_lowercase();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The ASCII form of a full-width one (Unicode block Halfwidth and Fullwidth Forms), and of the
/// other colons in use.
fn plain(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        '\u{fe55}' | '\u{a789}' => ':',
        c if c.is_control() => ' ',
        c => c,
    }
}

const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
            | '\u{feff}'
    )
}

/// Words that mail programs write before the subject of a reply; a comma separates the words of a group of
/// languages. `vs` is a reply in Finnish and a forward in Danish and Norwegian; it counts as a reply,
/// because most incoming mail is replies.
const REPLY_WORDS: &[&str] = &[
    "re,réf,rép,reply",                   // Latin, French, English
    "aw,antw,antwort,antwoord",           // German, Dutch
    "sv,svar,vs,vast",                    // Scandinavian, Finnish
    "r,rif,ris",                          // Italian
    "res,resp,respuesta,resposta",        // Portuguese, Spanish, Catalan
    "odp,odpoveď,odpověď,odg,odgovor",    // Polish, Slovak, Czech, Croatian, Slovenian
    "ats,atb,ateb",                       // Lithuanian, Latvian, Welsh
    "vá,válasz,răspuns,raspuns",          // Hungarian, Romanian
    "ynt,yanıt,cvp",                      // Turkish
    "bls,balas,trả lời",                  // Indonesian, Malay, Vietnamese
    "απ,σχετ",                            // Greek
    "отв,ответ,відп,отг,одг",             // Russian, Ukrainian, Bulgarian, Serbian
    "השב,תשובה,رد,پاسخ",                  // Hebrew, Arabic, Persian
    "ตอบ,ตอบกลับ,उत्तर",                    // Thai, Hindi
    "回复,回覆,答复,答覆,返信,회신,답장", // Chinese, Japanese, Korean
];

/// Words that mail programs write before the subject of a forwarded mail.
const FORWARD_WORDS: &[&str] = &[
    "fw,fwd,forward,forwarded",             // English
    "wg,weitergeleitet,doorst",             // German, Dutch
    "tr,transf,rv,reenv,enc,i",             // French, Spanish, Portuguese, Italian
    "vb,vl,vidarebefordrat,videresendt,fs", // Scandinavian, Finnish, Icelandic
    "pd,přep,prosl,posr,tov,továbbítás",    // Polish, Czech, Croatian, Slovenian, Hungarian
    "ilt,i̇lt,ilet,trs,chuyển tiếp",         // Turkish, Indonesian, Vietnamese
    "πρθ,пересл,перес,препр",               // Greek, Russian, Ukrainian, Bulgarian
    "הועבר,إعادة توجيه,تحويل",              // Hebrew, Arabic
    "ส่งต่อ,转发,转寄,轉寄,轉發,転送,전달",   // Thai, Chinese, Japanese, Korean
];

/// Words that gateways write before the subject of a mail from outside, or of a suspect one.
const GATEWAY_WORDS: &[&str] = &[
    "external,external email,external mail,external sender",
    "ext,extern,externe,externo,esterno",
    "caution,spam,possible spam,suspected spam,bulk",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normalised(text: &str) -> String {
        Subject::of(text).normalised
    }

    #[test]
    fn replies_in_many_languages_are_about_the_same() {
        for text in [
            "Hello world",
            "Re: Hello world",
            "RE: Re: re: hello  world",
            "Re[2]: Hello world",
            "Re(3): Hello world",
            "RE : Hello world",
            "Re^2: Hello world",
            "Re2: Hello world",
            "AW: Hello world",
            "Antw: Hello world",
            "SV: Hello world",
            "VS: Hello world",
            "Odp: Hello world",
            "TR: Hello world",
            "RV: Hello world",
            "WG: Hello world",
            "回复：Hello world",
            "回覆: Hello world",
            "答复: Hello world",
            "转发：Hello world",
            "返信: Hello world",
            "답장: Hello world",
            "YNT: Hello world",
            "İLT: Hello world",
            "ΑΠ: Hello world",
            "Отв: Hello world",
            "Відп: Hello world",
            "رد: Hello world",
            "השב: Hello world",
            "Vá: Hello world",
            "Ats: Hello world",
            "Atb: Hello world",
            "Bls: Hello world",
            "Trả lời: Hello world",
            "ตอบ: Hello world",
            "RES: Hello world",
            "R: Hello world",
            "Odg: Hello world",
            "Răspuns: Hello world",
            "ＲＥ：Hello world",
            "[list] Hello world",
            "Re: [list] AW: Hello world",
            "[External] Re: Hello world",
            "EXTERNAL: Hello world",
            "[EXT] [list] Fwd: Hello world",
            "***SPAM*** Hello world",
            "【external】 Hello world",
            "[Fwd: Hello world]",
            "Hello world (fwd)",
            "\u{200f}Re: \u{202b}Hello world\u{202c}",
            "Re:Hello\tworld\r\n",
        ] {
            assert_eq!(normalised(text), "hello world", "{text}");
        }
    }

    #[test]
    fn replies_and_forwards_are_recognised() {
        for (text, is_reply, is_forward) in [
            ("Hello", false, false),
            ("Re: Hello", true, false),
            ("[list] AW: Hello", true, false),
            ("WG: AW: Hello", true, true),
            ("转发：Hello", false, true),
            ("Hello (fwd)", false, true),
            ("[Fwd: Hello]", false, true),
            ("EXTERNAL: Hello", false, false),
        ] {
            let subject = Subject::of(text);
            let facts = (subject.is_reply, subject.is_forward);
            assert_eq!(facts, (is_reply, is_forward), "{text}");
        }
    }

    #[test]
    fn the_persons_own_words_stay() {
        for (text, same) in [
            ("Regarding: the roof", "regarding: the roof"),
            ("Question: re: roof", "question: re: roof"),
            ("10:30 works", "10:30 works"),
            ("[Ticket #42] Re: Roof", "[ticket #42] roof"),
            ("Re: [Ticket #42] [Ticket #42] Roof", "[ticket #42] roof"),
            ("[urgent]", "[urgent]"),
            ("*bold* words", "*bold* words"),
            ("Re:", ""),
            ("", ""),
            ("Re: 回复", "回复"),
            ("Straße", "straße"),
        ] {
            assert_eq!(normalised(text), same, "{text}");
        }
        assert_ne!(normalised("[#1] Roof"), normalised("[#2] Roof"));
    }

    #[test]
    fn long_subjects_are_bounded() {
        assert_eq!(normalised(&"re: ".repeat(100_000)), "");
        assert_eq!(normalised(&"[a]".repeat(100_000)).chars().count(), 1);
        assert!(normalised(&"x".repeat(100_000)).len() <= CHARS_MAX);
        let title = Subject::of(&"x".repeat(100_000)).title;
        assert_eq!(title.len(), TITLE_CHARS_MAX);
    }

    #[test]
    fn a_title_is_one_line_as_it_was_written() {
        for (text, title) in [
            ("  Re: Where is\tMy order? ", "Re: Where is My order?"),
            ("Über\r\n das\0\u{200b}\u{202e} Paket", "Über das Paket"),
            ("\u{feff} ", ""),
        ] {
            assert_eq!(Subject::of(text).title, title);
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "\\PC{0,60}") {
            let once = normalised(&text);
            prop_assert_eq!(normalised(&once), once);
        }

        #[test]
        fn normalising_marks_twice_changes_nothing(pieces in proptest::collection::vec(prop_oneof![
            Just("Re: "), Just("fwd:"), Just("[list]"), Just("[#1] "), Just("[Fwd: "), Just("]"),
            Just(" (fwd)"), Just("***spam***"), Just("*"), Just("回复："), Just("EXTERNAL: "),
            Just("Re[2]"), Just(":"), Just(" words"), Just("Σ"), Just("İ"), Just("["), Just("【a】"),
            Just("re(1"), Just(" "),
        ], 0..12)) {
            let once = normalised(&pieces.concat());
            prop_assert_eq!(normalised(&once), once);
        }
    }
}
