//! Owns the reading of a calendar part (iCalendar, RFC 5545; iTIP, RFC 5546): of its first event.
//!
//! Does not expand recurrences, and knows only the names of time zones: times stay as they were written.

use mail_parser::DateTime;
use serde::Serialize;

use super::html;
use super::text::cut;

/// The maximum number of octets of a calendar part that are read.
const BYTES_MAX: usize = 1024 * 1024;
/// The maximum number of lines that are read, folded ones included.
const LINES_MAX: usize = 20_000;
/// The maximum number of octets of one property that are read.
const PROPERTY_BYTES_MAX: usize = 64 * 1024;
/// The maximum number of octets of a name, an id or a place.
const SHORT_BYTES_MAX: usize = 1_000;

/// An event, a task or a journal entry. The Messages API receives the serialised fields; the text of the
/// message contains the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CalendarEvent {
    /// `request`, `reply`, `cancel`, … lower-cased (RFC 5546 section 1.4).
    pub method: Option<String>,
    /// The id that all mails about the event share.
    pub uid: Option<String>,
    /// The title.
    pub summary: Option<String>,
    /// The start: `2026-11-20T10:00:00Z`, without `Z` where the time is local, or a date alone.
    pub start: Option<String>,
    /// The end, in the same form. If the part has no end, this is the start plus the duration.
    pub end: Option<String>,
    /// The duration as it was written, if there is no end (RFC 5545 section 3.3.6).
    #[serde(skip)]
    pub duration: Option<String>,
    /// The name of the time zone of a local start.
    pub time_zone: Option<String>,
    /// In an answer, the attendee's decision (`accepted`, `declined`, `tentative`, …); else the state of the
    /// event (`confirmed`, `cancelled`, …). Lower-cased.
    pub status: Option<String>,
    /// The place.
    #[serde(skip)]
    pub location: Option<String>,
    /// The description.
    #[serde(skip)]
    pub description: Option<String>,
    /// The author's comment, for example in an answer to an invitation.
    #[serde(skip)]
    pub comment: Option<String>,
}

impl CalendarEvent {
    /// Reads the first event of a calendar part; `method` is the parameter of its Content-Type. `None` if
    /// there is no event. The time is linear in the text; nested components are skipped.
    pub fn parse(text: &str, method: Option<&str>) -> Option<Self> {
        let mut reader = EventReader::default();
        for line in unfolded(cut(text, BYTES_MAX)) {
            if let Some(property) = Property::read(&line) {
                reader.add(&property);
            }
            if reader.is_done {
                break;
            }
        }
        let mut event = reader.event.filter(|_| reader.is_seen)?;
        if event.description.is_none() {
            let words = reader.page.map(|page| html::parse(&page).words());
            event.description = words.filter(|words| !words.is_empty());
        }
        if event.end.is_none() {
            event.end = end_after(event.start.as_deref(), event.duration.as_deref());
        }
        let method = method.map(str::to_owned).or(reader.method);
        event.method = method.map(|method| method.trim().to_ascii_lowercase());
        event.status = match (event.is_answer(), reader.partstat) {
            (true, Some(partstat)) => Some(partstat),
            _ => reader.status,
        };
        Some(event)
    }

    /// True if this is an attendee's answer to an invitation.
    pub fn is_answer(&self) -> bool {
        matches!(
            self.method.as_deref(),
            Some("reply" | "counter" | "declinecounter")
        )
    }

    /// The event as text, for a mail that has no other text: comment, state of an answer, title, time, place,
    /// description.
    pub fn words(&self) -> String {
        let mut out = String::new();
        let status = self.status.as_deref().filter(|_| self.is_answer());
        let when = self.when();
        let head = [
            status,
            self.summary.as_deref(),
            when.as_deref(),
            self.location.as_deref(),
        ];
        let head: Vec<&str> = head.into_iter().flatten().collect();
        let head = head.join("\n");
        let paragraphs = [
            self.comment.as_deref(),
            Some(head.as_str()),
            self.description.as_deref(),
        ];
        for paragraph in paragraphs.into_iter().flatten() {
            let paragraph = paragraph.trim();
            if !paragraph.is_empty() {
                if !out.is_empty() {
                    out.push_str("\n\n");
                }
                out.push_str(paragraph);
            }
        }
        out
    }

    /// The time in the form in which people write it.
    fn when(&self) -> Option<String> {
        let shown = |time: &str| {
            let time = time.trim_end_matches('Z').replacen('T', " ", 1);
            let is_timed = time.len() > 16;
            let minutes = time.strip_suffix(":00").filter(|_| is_timed);
            minutes.map(str::to_owned).unwrap_or(time)
        };
        let start = self.start.as_deref()?;
        let mut when = shown(start);
        if let Some(end) = self.end.as_deref().filter(|end| *end != start) {
            let same_day = start.get(..10) == end.get(..10);
            let end = shown(end);
            when.push_str(" – ");
            when.push_str(end.get(11..).filter(|_| same_day).unwrap_or(&end));
        }
        let zone = if start.ends_with('Z') {
            Some("UTC")
        } else {
            self.time_zone.as_deref()
        };
        if let Some(zone) = zone {
            when.push_str(&format!(" ({zone})"));
        }
        Some(when)
    }
}

/// The state of the parser between two lines.
#[derive(Default)]
struct EventReader {
    /// The number of open components.
    depth: usize,
    /// The depth of the event that is being read.
    inside: Option<usize>,
    event: Option<CalendarEvent>,
    method: Option<String>,
    status: Option<String>,
    partstat: Option<String>,
    /// The description as HTML; Outlook writes one.
    page: Option<String>,
    is_seen: bool,
    is_done: bool,
}

impl EventReader {
    fn add(&mut self, property: &Property<'_>) {
        match property.name.as_str() {
            "BEGIN" => {
                self.depth += 1;
                let kind = property.value.trim().to_ascii_uppercase();
                if self.inside.is_none() && matches!(kind.as_str(), "VEVENT" | "VTODO" | "VJOURNAL")
                {
                    self.inside = Some(self.depth);
                    self.is_seen = true;
                    self.event = Some(CalendarEvent::default());
                }
                return;
            }
            "END" => {
                self.is_done = self.inside == Some(self.depth);
                self.depth = self.depth.saturating_sub(1);
                return;
            }
            "METHOD" if self.method.is_none() && self.inside.is_none() => {
                self.method = Some(property.short());
                return;
            }
            _ => {}
        }
        if self.inside != Some(self.depth) {
            return;
        }
        let Some(event) = self.event.as_mut() else {
            return;
        };
        let place = match property.name.as_str() {
            "UID" => &mut event.uid,
            "SUMMARY" => &mut event.summary,
            "LOCATION" => &mut event.location,
            "DURATION" => &mut event.duration,
            "DESCRIPTION" => return keep(&mut event.description, property.text()),
            "X-ALT-DESC" => return keep(&mut self.page, property.text()),
            "COMMENT" => return keep(&mut event.comment, property.text()),
            "STATUS" => {
                return keep(&mut self.status, property.short().to_ascii_lowercase());
            }
            "ATTENDEE" => {
                let partstat = property.parameter("PARTSTAT").unwrap_or_default();
                return keep(&mut self.partstat, partstat.to_ascii_lowercase());
            }
            "DTSTART" => {
                if event.start.is_none() {
                    event.time_zone = property.parameter("TZID").map(|zone| short(&zone));
                }
                return keep(&mut event.start, property.time());
            }
            "DTEND" | "DUE" => return keep(&mut event.end, property.time()),
            _ => return,
        };
        keep(place, property.short());
    }
}

/// Keeps the first value that is not empty.
fn keep(place: &mut Option<String>, value: String) {
    if place.is_none() && !value.trim().is_empty() {
        *place = Some(value);
    }
}

/// One property (RFC 5545 section 3.1).
struct Property<'a> {
    /// The name, upper-cased.
    name: String,
    parameters: &'a str,
    value: &'a str,
}

impl<'a> Property<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let name_end = line.find([':', ';'])?;
        let name = &line[..name_end];
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        if !is_name {
            return None;
        }
        let mut is_quoted = false;
        let rest = &line[name_end..];
        let colon = rest.char_indices().find(|(_, c)| {
            is_quoted ^= *c == '"';
            *c == ':' && !is_quoted
        });
        let (colon, _) = colon?;
        // A group may stand before the name (`item1.SUMMARY`).
        let name = name.rsplit('.').next().unwrap_or(name);
        Some(Self {
            name: name.to_ascii_uppercase(),
            parameters: &rest[..colon],
            value: &rest[colon + 1..],
        })
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let mut is_quoted = false;
        let parameters = self.parameters.split(|c: char| {
            is_quoted ^= c == '"';
            c == ';' && !is_quoted
        });
        parameters.into_iter().find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim_matches('"').to_owned())
        })
    }

    /// The text with its escapes undone (RFC 5545 section 3.3.11).
    fn text(&self) -> String {
        let mut out = String::with_capacity(self.value.len());
        let mut chars = self.value.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('n' | 'N') => out.push('\n'),
                Some(escaped) => out.push(escaped),
                None => out.push('\\'),
            }
        }
        out.trim_end().to_owned()
    }

    fn short(&self) -> String {
        let text = self.text();
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        short(&line)
    }

    /// Date and time in the form of RFC 3339; a value that is neither stays unchanged.
    fn time(&self) -> String {
        let value = self.value.trim();
        let digits = |range: std::ops::Range<usize>| {
            let part = value.get(range)?;
            part.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then_some(part)
        };
        let date = || {
            Some(format!(
                "{}-{}-{}",
                digits(0..4)?,
                digits(4..6)?,
                digits(6..8)?
            ))
        };
        let Some(date) = date() else {
            return short(value);
        };
        let time = || {
            Some(format!(
                "{}:{}:{}",
                digits(9..11)?,
                digits(11..13)?,
                digits(13..15)?
            ))
        };
        match time().filter(|_| value.as_bytes().get(8) == Some(&b'T')) {
            Some(time) if value.ends_with('Z') => format!("{date}T{time}Z"),
            Some(time) => format!("{date}T{time}"),
            None => date,
        }
    }
}

/// The time that follows `start` by a duration (RFC 5545 section 3.3.6).
fn end_after(start: Option<&str>, duration: Option<&str>) -> Option<String> {
    let start = start.filter(|start| start.len() >= 19)?;
    let number = |range: std::ops::Range<usize>| start.get(range)?.parse().ok();
    let from = DateTime {
        year: start.get(..4)?.parse().ok()?,
        month: number(5..7)?,
        day: number(8..10)?,
        hour: number(11..13)?,
        minute: number(14..16)?,
        second: number(17..19)?,
        tz_before_gmt: false,
        tz_hour: 0,
        tz_minute: 0,
    };
    let seconds = i64::from(seconds_of(duration?)?);
    let is_real = from.is_valid() && (1970..9999).contains(&from.year);
    let end = is_real.then(|| DateTime::from_timestamp(from.to_timestamp() + seconds))?;
    let zone = if start.ends_with('Z') { "Z" } else { "" };
    Some(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{zone}",
        end.year, end.month, end.day, end.hour, end.minute, end.second
    ))
}

/// The seconds of a duration of up to a year.
fn seconds_of(duration: &str) -> Option<u32> {
    let mut rest = duration.trim().trim_start_matches('+').strip_prefix('P')?;
    let mut seconds = 0u32;
    while !rest.is_empty() {
        rest = rest.trim_start_matches('T');
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let unit = match rest.as_bytes().get(digits)? {
            b'W' => 7 * 86_400,
            b'D' => 86_400,
            b'H' => 3_600,
            b'M' => 60,
            b'S' => 1,
            _ => return None,
        };
        let count: u32 = rest[..digits].parse().ok()?;
        seconds = seconds.checked_add(count.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (seconds <= 366 * 86_400).then_some(seconds)
}

fn short(text: &str) -> String {
    cut(text, SHORT_BYTES_MAX).to_owned()
}

/// The lines with their folds undone (RFC 5545 section 3.1), each within its bound.
fn unfolded(text: &str) -> impl Iterator<Item = String> + '_ {
    let mut lines = text
        .split('\n')
        .take(LINES_MAX)
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .peekable();
    std::iter::from_fn(move || {
        let mut whole = cut(lines.next()?, PROPERTY_BYTES_MAX).to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with([' ', '\t'])) {
            let room = PROPERTY_BYTES_MAX.saturating_sub(whole.len());
            whole.push_str(cut(&more[1..], room));
        }
        Some(whole)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUEST: &str = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/Berlin\r\n\
        BEGIN:STANDARD\r\nDTSTART:16010101T030000\r\nEND:STANDARD\r\nEND:VTIMEZONE\r\nBEGIN:VEVENT\r\n\
        ORGANIZER;CN=\"Ann: the boss\":mailto:ann@a.example\r\nUID:7@a\r\n\
        SUMMARY;LANGUAGE=de:Besichtigung\\, Haus\r\n  5\r\nDTSTART;TZID=\"Europe/Berlin\":20261120T100000\r\n\
        DTEND;TZID=\"Europe/Berlin\":20261120T113000\r\nLOCATION:Gartenstraße 5\r\n\
        DESCRIPTION:Bitte Schlüssel\\nmitbringen.\\n\r\nSTATUS:CONFIRMED\r\nBEGIN:VALARM\r\n\
        DESCRIPTION:REMINDER\r\nEND:VALARM\r\nEND:VEVENT\r\nBEGIN:VEVENT\r\nSUMMARY:other\r\nEND:VEVENT\r\n\
        END:VCALENDAR\r\n";

    #[test]
    fn an_invitation_is_read() {
        let event = CalendarEvent::parse(REQUEST, None).unwrap();
        assert_eq!(event.method.as_deref(), Some("request"));
        assert_eq!(event.uid.as_deref(), Some("7@a"));
        assert_eq!(event.status.as_deref(), Some("confirmed"));
        assert_eq!(event.start.as_deref(), Some("2026-11-20T10:00:00"));
        assert_eq!(event.time_zone.as_deref(), Some("Europe/Berlin"));
        assert_eq!(
            event.words(),
            "Besichtigung, Haus 5\n2026-11-20 10:00 – 11:30 (Europe/Berlin)\nGartenstraße 5\n\n\
             Bitte Schlüssel\nmitbringen."
        );
    }

    #[test]
    fn an_answer_says_what_the_attendee_says() {
        let text = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nATTENDEE;PARTSTAT=DECLINED:mailto:b@b.example\n\
            COMMENT:Désolé\\, pas jeudi.\nDTSTART;VALUE=DATE:20261120\nSTATUS:CONFIRMED\nEND:VEVENT";
        let event = CalendarEvent::parse(text, Some("REPLY")).unwrap();
        assert_eq!(event.status.as_deref(), Some("declined"));
        assert_eq!(event.words(), "Désolé, pas jeudi.\n\ndeclined\n2026-11-20");
        assert_eq!(
            CalendarEvent::parse("BEGIN:VCALENDAR\nEND:VCALENDAR", None),
            None
        );
        assert_eq!(CalendarEvent::parse("words", None), None);
        let page = "BEGIN:VEVENT\nX-ALT-DESC;FMTTYPE=text/html:<p>Oui\\, 5</p>\nEND:VEVENT";
        let event = CalendarEvent::parse(page, None).unwrap();
        assert_eq!(event.description.as_deref(), Some("Oui, 5"));
    }

    #[test]
    fn a_duration_gives_the_end() {
        for (start, duration, end) in [
            ("20261231T233000Z", "PT1H", Some("2027-01-01T00:30:00Z")),
            ("20261120T100000", "P1DT2H30M", Some("2026-11-21T12:30:00")),
            ("20261120T100000", "P9999999999W", None),
            ("20261120T100000", "1H", None),
            ("20261399T100000", "PT1H", None),
        ] {
            let text = format!("BEGIN:VEVENT\nDTSTART:{start}\nDURATION:{duration}\nEND:VEVENT");
            let event = CalendarEvent::parse(&text, None).unwrap();
            assert_eq!(event.end.as_deref(), end, "{start} {duration}");
        }
    }

    #[test]
    fn hostile_calendars_are_bounded() {
        let nested = "BEGIN:VEVENT\n".repeat(500_000);
        assert!(CalendarEvent::parse(&nested, None).is_some());
        let folded = format!("BEGIN:VEVENT\nSUMMARY:{}", "\n x".repeat(300_000));
        let event = CalendarEvent::parse(&folded, None).unwrap();
        assert!(event.summary.unwrap().len() <= SHORT_BYTES_MAX);
        let long = format!("BEGIN:VEVENT\nDESCRIPTION:{}", "é".repeat(1_000_000));
        let event = CalendarEvent::parse(&long, None).unwrap();
        assert!(event.description.unwrap().len() <= PROPERTY_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(BEGIN:|END:|VEVENT|VALARM|\n|\r\n| |:|;|=|\"|\\\\|\\\\n|DTSTART|20261120T1000|é|Z){0,60}") {
            if let Some(event) = CalendarEvent::parse(&text, None) {
                let _ = event.words();
            }
        }
    }
}
