//! Owns the appointment that a TNEF stream describes ([MS-OXOCAL], [MS-OXTNEF]).
//!
//! Does not read the stream; `tnef` does. Recurrences and time zones are not read: the times are in UTC.

use std::fmt::Write as _;

use mail_parser::DateTime;

use crate::mail::calendar::CalendarEvent;
use crate::mail::text::one_line;

/// The maximum number of characters of a title, a place or an id.
const CHARS_MAX: usize = 1_000;
/// The maximum number of octets of a global object id.
const ID_BYTES_MAX: usize = 512;

/// The set of a named property, by the first four octets of its GUID; 0 for a property without a name.
pub(super) const UNNAMED: u32 = 0;
const OF_APPOINTMENTS: u32 = 0x0006_2002;
const OF_ALL_ITEMS: u32 = 0x0006_2008;
const OF_MEETINGS: u32 = 0x6ed8_da90;

/// The class of a message, and the facts of its appointment so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Appointment {
    class: Option<String>,
    subject: Option<String>,
    location: Option<String>,
    start: Option<String>,
    end: Option<String>,
    uid: Option<String>,
}

/// A fact that a property states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AppointmentFact {
    Class,
    Subject,
    Location,
    Start,
    End,
    Uid,
}

impl AppointmentFact {
    /// The fact that a property of this set and number states.
    pub(super) const fn of_property(set: u32, id: u32) -> Option<Self> {
        Some(match (set, id) {
            (UNNAMED, 0x001a) => Self::Class,
            (UNNAMED, 0x0037) => Self::Subject,
            (UNNAMED, 0x0060) | (OF_APPOINTMENTS, 0x820d) | (OF_ALL_ITEMS, 0x8516) => Self::Start,
            (UNNAMED, 0x0061) | (OF_APPOINTMENTS, 0x820e) | (OF_ALL_ITEMS, 0x8517) => Self::End,
            (OF_APPOINTMENTS, 0x8208) | (OF_MEETINGS, 0x0002) => Self::Location,
            (OF_MEETINGS, 0x0003 | 0x0023) => Self::Uid,
            _ => return None,
        })
    }

    /// The fact that an attribute states.
    pub(super) const fn of_attribute(id: u16) -> Option<Self> {
        Some(match id {
            0x8008 => Self::Class,
            0x8004 => Self::Subject,
            0x0006 => Self::Start,
            0x0007 => Self::End,
            _ => return None,
        })
    }

    /// True if the value is text.
    pub(super) const fn is_text(self) -> bool {
        matches!(self, Self::Class | Self::Subject | Self::Location)
    }
}

impl Appointment {
    /// Keeps a text; the first one counts.
    pub(super) fn keep_text(&mut self, fact: AppointmentFact, text: &str) {
        let text = one_line(text.trim(), CHARS_MAX);
        let place = match fact {
            AppointmentFact::Class => &mut self.class,
            AppointmentFact::Subject => &mut self.subject,
            AppointmentFact::Location => &mut self.location,
            _ => return,
        };
        if place.is_none() && !text.is_empty() {
            *place = Some(text);
        }
    }

    /// Keeps the octets of a property: a time in steps of 100 ns since 1601, or a global object id. The last
    /// time counts, because it is more exact than the time of an attribute.
    pub(super) fn keep_octets(&mut self, fact: AppointmentFact, octets: &[u8]) {
        match fact {
            AppointmentFact::Start => self.start = filetime(octets).or_else(|| self.start.take()),
            AppointmentFact::End => self.end = filetime(octets).or_else(|| self.end.take()),
            AppointmentFact::Uid if self.uid.is_none() => self.uid = uid(octets),
            _ => {}
        }
    }

    /// Keeps the time of an attribute, which has no zone, if there is none yet.
    pub(super) fn keep_time(&mut self, fact: AppointmentFact, octets: &[u8]) {
        let place = match fact {
            AppointmentFact::Start => &mut self.start,
            AppointmentFact::End => &mut self.end,
            _ => return,
        };
        if place.is_none() {
            *place = time_of_fields(octets);
        }
    }

    /// The appointment, if the class of the message is one of appointments.
    pub(super) fn checked(self) -> Option<Self> {
        let class = self.class.as_deref().map(str::to_ascii_lowercase)?;
        [
            "ipm.schedule.",
            "ipm.appointment",
            "ipm.microsoft schedule.",
        ]
        .iter()
        .any(|start| class.starts_with(start))
        .then_some(self)
    }

    /// The event in the form of a calendar part.
    pub(super) fn event(self) -> CalendarEvent {
        let class = self.class.unwrap_or_default().to_ascii_lowercase();
        let (method, status) = match class.rsplit('.').next().unwrap_or_default() {
            "request" | "mtgreq" => (Some("request"), None),
            "canceled" | "mtgcncl" => (Some("cancel"), Some("cancelled")),
            "pos" | "mtgrespp" => (Some("reply"), Some("accepted")),
            "neg" | "mtgrespn" => (Some("reply"), Some("declined")),
            "tent" | "mtgrespa" => (Some("reply"), Some("tentative")),
            _ => (None, None),
        };
        CalendarEvent {
            method: method.map(str::to_owned),
            status: status.map(str::to_owned),
            uid: self.uid,
            summary: self.subject,
            start: self.start,
            end: self.end,
            location: self.location,
            ..CalendarEvent::default()
        }
    }
}

/// A time as steps of 100 ns since 1601, from 1970 on.
fn filetime(octets: &[u8]) -> Option<String> {
    /// Seconds from 1601 to 1970.
    const TO_UNIX: u64 = 11_644_473_600;
    /// The last second of the year 9999.
    const LAST: u64 = 253_402_300_799;
    let steps = u64::from_le_bytes(octets.get(..8)?.try_into().ok()?);
    let seconds = (steps / 10_000_000).checked_sub(TO_UNIX)?;
    let seconds = i64::try_from(seconds).ok().filter(|_| seconds <= LAST)?;
    let time = DateTime::from_timestamp(seconds);
    Some(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year, time.month, time.day, time.hour, time.minute, time.second
    ))
}

/// A time as fields of two octets: year, month, day, hour, minute, second.
fn time_of_fields(octets: &[u8]) -> Option<String> {
    let field = |at: usize| {
        let field = octets.get(at * 2..at * 2 + 2)?;
        Some(u16::from_le_bytes(field.try_into().ok()?))
    };
    let fields = [
        field(0)?,
        field(1)?,
        field(2)?,
        field(3)?,
        field(4)?,
        field(5)?,
    ];
    let [year, month, day, hour, minute, second] = fields;
    let is_real = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    is_real.then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"))
}

/// The UID of a global object id ([MS-OXCICAL] section 2.1.3.1.1.20.26): the text within, or else the
/// id in hexadecimal digits without the date of an exception.
fn uid(octets: &[u8]) -> Option<String> {
    const DATA_AT: usize = 40;
    const TEXT: &[u8] = b"vCal-Uid\x01\0\0\0";
    let data = octets
        .get(DATA_AT..)
        .filter(|_| octets.len() <= ID_BYTES_MAX)?;
    if let Some(text) = data.strip_prefix(TEXT) {
        let end = text.iter().position(|octet| *octet == 0);
        let text = str::from_utf8(&text[..end.unwrap_or(text.len())]).ok()?;
        return Some(one_line(text, CHARS_MAX)).filter(|text| !text.is_empty());
    }
    let mut digits = String::with_capacity(octets.len() * 2);
    for (at, octet) in octets.iter().enumerate() {
        let octet = if (16..20).contains(&at) { 0 } else { *octet };
        write!(digits, "{octet:02X}").ok()?;
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ids_are_read_in_every_form() {
        // 2026-11-20 09:00:00 UTC.
        let steps = (1_795_165_200u64 + 11_644_473_600) * 10_000_000;
        assert_eq!(
            filetime(&steps.to_le_bytes()).as_deref(),
            Some("2026-11-20T09:00:00Z")
        );
        for steps in [0, 1, u64::MAX] {
            assert_eq!(filetime(&steps.to_le_bytes()), None);
        }
        let fields = [2026u16, 11, 20, 10, 30, 0, 5];
        let octets: Vec<u8> = fields
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect();
        assert_eq!(
            time_of_fields(&octets).as_deref(),
            Some("2026-11-20T10:30:00")
        );
        assert_eq!(time_of_fields(&[0xff; 14]), None);
        assert_eq!(time_of_fields(&octets[..11]), None);
        let text = [
            &[4u8; 40][..],
            b"vCal-Uid\x01\0\0\0meeting-1@calendar.example\0",
        ]
        .concat();
        assert_eq!(uid(&text).as_deref(), Some("meeting-1@calendar.example"));
        let mut plain = vec![0xab; 42];
        plain[16..20].fill(7);
        let wanted = format!("{}00000000{}", "AB".repeat(16), "AB".repeat(22));
        assert_eq!(uid(&plain), Some(wanted));
        assert_eq!(uid(&[0; 39]), None);
        assert_eq!(uid(&vec![0; 1_000_000]), None);
    }

    #[test]
    fn only_classes_of_appointments_are_events() {
        for (class, method, status) in [
            ("IPM.Schedule.Meeting.Request", Some("request"), None),
            (
                "IPM.Schedule.Meeting.Canceled",
                Some("cancel"),
                Some("cancelled"),
            ),
            (
                "IPM.Schedule.Meeting.Resp.Pos",
                Some("reply"),
                Some("accepted"),
            ),
            (
                "IPM.Schedule.Meeting.Resp.Neg",
                Some("reply"),
                Some("declined"),
            ),
            (
                "IPM.Microsoft Schedule.MtgRespA",
                Some("reply"),
                Some("tentative"),
            ),
            ("IPM.Appointment", None, None),
        ] {
            let mut found = Appointment::default();
            found.keep_text(AppointmentFact::Class, class);
            let event = found.checked().unwrap().event();
            assert_eq!(
                (event.method.as_deref(), event.status.as_deref()),
                (method, status)
            );
        }
        for class in ["IPM.Note", "", "IPM.Task"] {
            let mut found = Appointment::default();
            found.keep_text(AppointmentFact::Class, class);
            assert_eq!(found.checked(), None, "{class}");
        }
    }
}
