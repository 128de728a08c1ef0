//! Owns TNEF ([MS-OXTNEF]): the words and the files in `winmail.dat`.
//!
//! Does not read forms or nested mails. The reader takes one pass over the attributes, each
//! within its bounds.

use std::ops::Range;

use super::appointment::{Appointment, AppointmentFact, UNNAMED};
use super::rtf::{self, RichText};
use crate::mail::charset;

/// The maximum number of files that are taken out.
const FILES_MAX: usize = 200;
/// The maximum number of properties of one block that are read.
const PROPERTIES_MAX: usize = 2_000;
/// The maximum number of values of one property that are read.
const VALUES_MAX: usize = 1_000;

const SIGNATURE: &[u8] = b"\x78\x9f\x3e\x22";

/// The parts of a mail in a TNEF stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tnef {
    pub(super) text: Option<String>,
    pub(super) html: Option<String>,
    pub(super) files: Vec<TnefFile>,
    pub(super) appointment: Option<Appointment>,
}

/// A file; the stream contains its octets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TnefFile {
    pub(super) name: Option<String>,
    pub(super) media_type: Option<String>,
    pub(super) content_id: Option<String>,
    pub(super) place: Range<usize>,
}

/// Reads a stream. `None` if the octets are not a TNEF stream.
pub(super) fn read(stream: &[u8]) -> Option<Tnef> {
    if !stream.starts_with(SIGNATURE) {
        return None;
    }
    let mut reader = TnefReader {
        stream,
        codepage: None,
        html_codepage: None,
        text: None,
        found: Tnef::default(),
        file: None,
        appointment: Appointment::default(),
    };
    // The key follows the signature.
    let mut at = SIGNATURE.len() + 2;
    while let Some(next) = reader.attribute(at) {
        at = next;
    }
    reader.end_file();
    Some(reader.finish())
}

struct TnefReader<'a> {
    stream: &'a [u8],
    codepage: Option<u32>,
    html_codepage: Option<u32>,
    /// The body as an attribute; a later attribute may name its charset.
    text: Option<Range<usize>>,
    found: Tnef,
    file: Option<TnefFile>,
    appointment: Appointment,
}

impl TnefReader<'_> {
    /// Reads the attribute at an offset, and returns the offset of the next one.
    fn attribute(&mut self, at: usize) -> Option<usize> {
        const BODY: u16 = 0x800c;
        const CODEPAGE: u16 = 0x9007;
        const PROPERTIES: u16 = 0x9003;
        const FILE_BEGINS: u16 = 0x9002;
        const FILE_TITLE: u16 = 0x8010;
        const FILE_DATA: u16 = 0x800f;
        const FILE_PROPERTIES: u16 = 0x9005;
        let id = self.u16(at + 1)?;
        let length = usize::try_from(self.u32(at + 5)?).ok()?;
        let start = at + 9;
        let end = start.checked_add(length)?;
        let data = self.stream.get(start..end)?;
        match id {
            BODY => self.text = Some(start..end),
            CODEPAGE => self.codepage = self.u32(start),
            PROPERTIES => self.properties(start..end, false),
            FILE_BEGINS => {
                self.end_file();
                self.file = (self.found.files.len() < FILES_MAX).then(TnefFile::default);
            }
            FILE_TITLE => {
                let title = self.narrow(data);
                if let Some(file) = self.file.as_mut() {
                    file.name.get_or_insert(title);
                }
            }
            FILE_DATA => {
                if let Some(file) = self.file.as_mut() {
                    file.place = start..end;
                }
            }
            FILE_PROPERTIES => self.properties(start..end, true),
            _ => self.keep_attribute(id, data),
        }
        // A checksum follows; it is not verified, because some writers compute it wrongly.
        end.checked_add(2)
    }

    fn keep_attribute(&mut self, id: u16, data: &[u8]) {
        let Some(fact) = AppointmentFact::of_attribute(id) else {
            return;
        };
        if fact.is_text() {
            let text = self.narrow(data);
            self.appointment.keep_text(fact, &text);
        } else {
            self.appointment.keep_time(fact, data);
        }
    }

    fn end_file(&mut self) {
        let file = self.file.take();
        self.found
            .files
            .extend(file.filter(|file| !file.place.is_empty()));
    }

    /// Reads a block of MAPI properties ([MS-OXTNEF] section 2.1.3.4).
    fn properties(&mut self, block: Range<usize>, is_file: bool) {
        let mut at = block.start + 4;
        let count = self.u32(block.start).unwrap_or(0);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        for _ in 0..count.min(PROPERTIES_MAX) {
            if at >= block.end {
                return;
            }
            let Some(next) = self.property(at, block.end, is_file) else {
                return;
            };
            at = next;
        }
    }

    fn property(&mut self, at: usize, end: usize, is_file: bool) -> Option<usize> {
        let kind = self.u16(at)?;
        let id = self.u16(at + 2)?;
        let mut at = at + 4;
        let mut name = (UNNAMED, u32::from(id));
        if id >= 0x8000 {
            // A named property has a GUID, and a number or a name.
            let is_number = self.u32(at + 16)? == 0;
            let number = self.u32(at + 20)?;
            let length = usize::try_from(number).ok()?;
            // A name in letters is none that is kept.
            name = (self.u32(at)?, if is_number { number } else { 0 });
            at += 24;
            if !is_number {
                at = at.checked_add(padded(length)?)?;
            }
        }
        let has_many = kind & 0x1000 != 0;
        let kind = kind & 0x0fff;
        let is_sized = matches!(kind, 0x1e | 0x1f | 0x0d | 0x102);
        let mut values = 1;
        if has_many || is_sized {
            values = usize::try_from(self.u32(at)?).ok()?;
            at += 4;
        }
        for number in 0..values {
            let length = match kind {
                0x02..=0x04 | 0x0a | 0x0b => 4,
                0x05..=0x07 | 0x14 | 0x40 => 8,
                0x48 => 16,
                _ if is_sized => {
                    let length = usize::try_from(self.u32(at)?).ok()?;
                    at += 4;
                    length
                }
                _ => return None,
            };
            let next = at.checked_add(padded(length)?)?;
            let value_end = at.checked_add(length)?;
            if value_end > end || number >= VALUES_MAX {
                return None;
            }
            if number == 0 {
                self.keep(name, kind, at..value_end, is_file);
            }
            at = next;
        }
        Some(at)
    }

    fn keep(&mut self, name: (u32, u32), kind: u16, place: Range<usize>, is_file: bool) {
        let Some(value) = self.stream.get(place.clone()) else {
            return;
        };
        if let Some(fact) = AppointmentFact::of_property(name.0, name.1).filter(|_| !is_file) {
            if fact.is_text() {
                let text = self.words(kind, value);
                self.appointment.keep_text(fact, &text);
            } else {
                self.appointment.keep_octets(fact, value);
            }
            return;
        }
        let (UNNAMED, id) = name else { return };
        if is_file {
            return self.keep_of_file(id, kind, place);
        }
        match id {
            0x1000 => {
                let text = self.words(kind, value);
                if !text.trim().is_empty() {
                    self.found.text = Some(text);
                }
            }
            0x1013 => {
                let label = self.html_codepage.map(charset::of_codepage);
                let html = match kind {
                    0x1f => wide(value),
                    _ => {
                        charset::decode(value, label.as_deref(), charset::of_page(value).as_deref())
                    }
                };
                self.found.html = Some(html);
            }
            // This property is the Internet code page.
            0x3fde => self.html_codepage = self.u32(place.start),
            0x1009 => self.keep_rich_text(value),
            _ => {}
        }
    }

    fn keep_rich_text(&mut self, packed: &[u8]) {
        let rich = rtf::unpacked(packed).and_then(|rtf| rtf::read(&rtf));
        match rich {
            Some(RichText::Html(html)) => {
                self.found.html.get_or_insert(html);
            }
            Some(RichText::Words(words)) => {
                self.found.text.get_or_insert(words);
            }
            None => {}
        }
    }

    fn keep_of_file(&mut self, id: u32, kind: u16, place: Range<usize>) {
        let Some(value) = self.stream.get(place.clone()) else {
            return;
        };
        let text = self.words(kind, value);
        let Some(file) = self.file.as_mut() else {
            return;
        };
        match id {
            // The long name is preferred; the short one and the title are substitutes.
            0x3707 => file.name = Some(text),
            0x3704 | 0x3001 => {
                file.name.get_or_insert(text);
            }
            0x370e => file.media_type = Some(text.to_ascii_lowercase()),
            0x3712 => file.content_id = Some(text),
            // The data of an object begins with the GUID of its interface.
            0x3701 if kind == 0x102 && file.place.is_empty() => file.place = place,
            0x3701 if kind == 0x0d && file.place.is_empty() && place.len() > 16 => {
                file.place = place.start + 16..place.end;
            }
            _ => {}
        }
    }

    fn finish(mut self) -> Tnef {
        if self.found.text.is_none()
            && let Some(place) = self.text.clone()
        {
            let text = self.narrow(self.stream.get(place).unwrap_or_default());
            self.found.text = Some(text).filter(|text| !text.trim().is_empty());
        }
        self.found.appointment = self.appointment.checked();
        self.found
    }

    fn words(&self, kind: u16, value: &[u8]) -> String {
        if kind == 0x1f {
            wide(value)
        } else {
            self.narrow(value)
        }
    }

    /// Text in the stream's own code page.
    fn narrow(&self, value: &[u8]) -> String {
        let end = value
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(value.len());
        let label = self.codepage.map(charset::of_codepage);
        charset::decode(&value[..end], label.as_deref(), None)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let octets = self.stream.get(at..at.checked_add(2)?)?;
        Some(u16::from_le_bytes(octets.try_into().ok()?))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let octets = self.stream.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(octets.try_into().ok()?))
    }
}

/// The text of UTF-16 octets up to their end mark.
fn wide(value: &[u8]) -> String {
    let units = value
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units = units.take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|c| c.unwrap_or('\u{fffd}'))
        .collect()
}

/// The length with padding: values fill whole words of four octets.
fn padded(length: usize) -> Option<usize> {
    length.checked_next_multiple_of(4)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An attribute of a stream.
    pub(crate) fn attribute(level: u8, id: u16, kind: u16, data: &[u8]) -> Vec<u8> {
        let mut out = vec![level];
        out.extend(id.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        out.extend(data);
        let sum = data
            .iter()
            .fold(0u16, |sum, byte| sum.wrapping_add(u16::from(*byte)));
        out.extend(sum.to_le_bytes());
        out
    }

    /// A block of properties with values of variable size.
    pub(crate) fn properties(all: &[(u16, u16, &[u8])]) -> Vec<u8> {
        let mut out = u32::try_from(all.len()).unwrap().to_le_bytes().to_vec();
        for (kind, id, value) in all {
            out.extend(kind.to_le_bytes());
            out.extend(id.to_le_bytes());
            if !matches!(kind, 3) {
                out.extend(1u32.to_le_bytes());
                out.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
            }
            out.extend(*value);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    pub(crate) fn stream(attributes: &[Vec<u8>]) -> Vec<u8> {
        [b"\x78\x9f\x3e\x22\x01\x00".to_vec(), attributes.concat()].concat()
    }

    pub(crate) fn utf16(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().chain([0]);
        units.flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn words_and_files_are_read() {
        let body = properties(&[
            (3, 0x3fde, &65_001u32.to_le_bytes()),
            (0x1f, 0x1000, &utf16("Jeudi convient.\r\n")),
            (0x102, 0x1013, "<p>Été</p>".as_bytes()),
        ]);
        let named = properties(&[(0x1f, 0x3707, &utf16("devis n° 5.pdf"))]);
        let whole = stream(&[
            attribute(1, 0x9007, 6, &1_252u32.to_le_bytes()),
            attribute(1, 0x9003, 6, &body),
            attribute(2, 0x9002, 6, &[1, 0]),
            attribute(2, 0x8010, 1, b"DEVIS~1.PDF\0"),
            attribute(2, 0x800f, 6, b"%PDF"),
            attribute(2, 0x9005, 6, &named),
        ]);
        let found = read(&whole).unwrap();
        assert_eq!(found.text.as_deref(), Some("Jeudi convient.\r\n"));
        assert_eq!(found.html.as_deref(), Some("<p>Été</p>"));
        assert_eq!(found.files.len(), 1);
        assert_eq!(found.files[0].name.as_deref(), Some("devis n° 5.pdf"));
        assert_eq!(&whole[found.files[0].place.clone()], b"%PDF");
    }

    #[test]
    fn a_body_without_properties_is_in_the_code_page() {
        let whole = stream(&[
            attribute(1, 0x800c, 2, b"\xc4\xe0, \xf7\xe5\xf2\xe2\xe5\xf0\xe3\0"),
            attribute(1, 0x9007, 6, &1_251u32.to_le_bytes()),
        ]);
        assert_eq!(read(&whole).unwrap().text.as_deref(), Some("Да, четверг"));
        let packed = b"\0\0\0\0\x20\0\0\0MELA\0\0\0\0{\\rtf1 Ja, torsdag.}";
        let rich = stream(&[attribute(
            1,
            0x9003,
            6,
            &properties(&[(0x102, 0x1009, packed)]),
        )]);
        assert_eq!(read(&rich).unwrap().text.as_deref(), Some("Ja, torsdag."));
        assert_eq!(read(b"words"), None);
    }

    #[test]
    fn an_appointment_is_read() {
        let steps = (1_795_165_200u64 + 11_644_473_600) * 10_000_000;
        let mut block = 3u32.to_le_bytes().to_vec();
        let location = utf16("Raum 5");
        for (set, number, kind, value) in [
            (
                0x0006_2002u32,
                0x820du32,
                0x40u16,
                steps.to_le_bytes().to_vec(),
            ),
            (
                0x0006_2002,
                0x820e,
                0x40,
                (steps + 36_000_000_000).to_le_bytes().to_vec(),
            ),
            (0x0006_2002, 0x8208, 0x1f, location),
        ] {
            block.extend(kind.to_le_bytes());
            block.extend(0x8001u16.to_le_bytes());
            block.extend(set.to_le_bytes());
            block.extend([0; 12]);
            block.extend(0u32.to_le_bytes());
            block.extend(number.to_le_bytes());
            if kind == 0x1f {
                block.extend(1u32.to_le_bytes());
                block.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
            }
            block.extend(value);
            block.resize(block.len().next_multiple_of(4), 0);
        }
        let whole = stream(&[
            attribute(1, 0x9007, 6, &1_252u32.to_le_bytes()),
            attribute(1, 0x8008, 7, b"IPM.Microsoft Schedule.MtgReq\0"),
            attribute(1, 0x8004, 1, b"Termin f\xfcr Dienstag\0"),
            attribute(1, 0x9003, 6, &block),
        ]);
        let event = read(&whole).unwrap().appointment.unwrap().event();
        assert_eq!(
            event.words(),
            "Termin für Dienstag\n2026-11-20 09:00 – 10:00 (UTC)\nRaum 5"
        );
        assert_eq!(event.method.as_deref(), Some("request"));
        let note = stream(&[attribute(1, 0x8008, 7, b"IPM.Note\0")]);
        assert_eq!(read(&note).unwrap(), Tnef::default());
    }

    #[test]
    fn hostile_streams_are_bounded() {
        let many = attribute(2, 0x9002, 6, b"x");
        let data = attribute(2, 0x800f, 6, b"x");
        let files = stream(&vec![[many, data].concat(); 100_000]);
        assert_eq!(read(&files).unwrap().files.len(), FILES_MAX);
        for count in [u32::MAX, 1_000_000] {
            let mut block = count.to_le_bytes().to_vec();
            block.extend([0x02, 0x11, 0, 0x10].repeat(3));
            block.extend(count.to_le_bytes());
            block.resize(4_000_000, 0);
            assert_eq!(
                read(&stream(&[attribute(1, 0x9003, 6, &block)])),
                Some(Tnef::default())
            );
        }
        let mut long = stream(&[attribute(1, 0x9003, 6, b"")]);
        long[11..15].copy_from_slice(&[0xff; 4]);
        assert_eq!(read(&long), Some(Tnef::default()));
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets: Vec<u8>, at in 0..400usize, byte: u8) {
            let _ = read(&stream(&[attribute(1, 0x9003, 6, &octets)]));
            let named = properties(&[(0x1f, 0x3707, &utf16("a")), (0x102, 0x3701, &octets)]);
            let mut broken = stream(&[
                attribute(2, 0x9002, 6, b"x"),
                attribute(2, 0x9005, 6, &named),
                octets,
            ]);
            let at = at % broken.len();
            broken[at] = byte;
            if let Some(found) = read(&broken) {
                for file in found.files {
                    prop_assert!(file.place.end <= broken.len());
                }
            }
        }
    }
}
