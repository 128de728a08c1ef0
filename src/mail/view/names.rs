//! Owns file names: cleans them, recognises those that a program made up, and names a file that has none.
//!
//! Does not read a file's contents, except for the subject of an attached mail.

use super::{Attachment, is_clean, is_directional};
use crate::mail::mime::PartContent;
use crate::mail::view::HeaderView;

/// The maximum number of characters of an attachment's name; file systems allow 255 octets.
const FILENAME_CHARS_MAX: usize = 120;
/// The number of octets of an attached mail in which its subject is searched.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Names that programs give to text between files, without the number and the ending.
#[rustfmt::skip]
const MADE_UP: [&str; 34] = [
    "", "att", "attachment", "text", "txt", "textpart", "part", "mime part", "mime attachment", "mail anhang",
    "attached message part", "nachrichtenteil als anhang", "untitled attachment", "unbenannte anlage",
    "anlage ohne titel", "pièce jointe sans titre", "partie de message jointe", "archivo adjunto sin título",
    "datos adjuntos sin título", "allegato senza titolo", "anexo sem título", "naamloze bijlage",
    "bijlage zonder titel", "vedhæftet fil uden navn", "namnlös bilaga", "nimetön liite", "załącznik bez tytułu",
    "teil", "partie", "parte", "deel", "часть", "вложение без имени", "添付ファイル",
];
/// Such names that people choose too: they count only with a number.
const NUMBERED_ONLY: [&str; 6] = ["", "text", "txt", "attachment", "teil", "parte"];

/// True if a program made the name up for text between files: `ATT00001.txt`, `text_0.txt`, `part 1.2`.
pub(super) fn is_made_up(name: &str) -> bool {
    let name = name.to_lowercase();
    let stem = match name.rsplit_once('.') {
        Some((stem, "txt" | "text" | "htm" | "html")) => stem,
        _ => name.as_str(),
    };
    let has_number = stem.contains(|c: char| c.is_ascii_digit());
    let words = stem.split(|c: char| {
        c.is_ascii_digit() || c.is_whitespace() || matches!(c, '_' | '-' | '.' | '(' | ')' | '#')
    });
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let words = words.join(" ");
    let is_listed = MADE_UP.contains(&words.as_str());
    is_listed && (has_number || !NUMBERED_ONLY.contains(&words.as_str()) && words.contains(' '))
}

/// The name without folders and direction overrides, because the sender chose it.
pub(super) fn cleaned(raw: &str) -> Option<String> {
    let name: String = raw
        .rsplit(['/', '\\'])
        .next()?
        .chars()
        .filter(|&c| is_clean(c) && !is_directional(c) && !matches!(c, '\n' | '\t'))
        .collect();
    let name = name.trim().trim_matches('.');
    let length = name.chars().count();
    if length <= FILENAME_CHARS_MAX {
        return (!name.is_empty()).then(|| name.to_owned());
    }
    // The extension shows the type, so a name is cut before it.
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let ending: String = ending.chars().take(10).collect();
    let stem: String = stem.chars().take(FILENAME_CHARS_MAX - 11).collect();
    Some(format!("{stem}.{ending}").trim_end_matches('.').to_owned())
}

/// A name for a file that came without one; `None` if its type is no help.
pub(super) fn of_nameless(file: &Attachment, content: &PartContent) -> Option<String> {
    match content.media_type.as_str() {
        "message/rfc822" | "message/global" => Some(of_mail(file)),
        "text/calendar" | "text/x-vcalendar" | "application/ics" => Some("invite.ics".to_owned()),
        "text/vcard" | "text/x-vcard" | "text/directory" => Some("contact.vcf".to_owned()),
        "application/pkcs7-mime" | "application/x-pkcs7-mime" => Some("smime.p7m".to_owned()),
        "application/ms-tnef" | "application/vnd.ms-tnef" => Some("winmail.dat".to_owned()),
        _ => None,
    }
}

/// The name of an attached mail is its subject.
fn of_mail(file: &Attachment) -> String {
    let bytes = file.bytes();
    let header = HeaderView::parse(&bytes[..bytes.len().min(HEADER_BYTES_MAX)]);
    let subject = header.subject.unwrap_or_default();
    let stem: String = subject
        .chars()
        .map(|c| {
            if matches!(c, '/' | '\\' | ':') {
                ' '
            } else {
                c
            }
        })
        .collect();
    let stem = stem.split_whitespace().collect::<Vec<_>>().join(" ");
    let stem = stem.trim_matches('.');
    if stem.is_empty() {
        return "message.eml".to_owned();
    }
    cleaned(&format!("{stem}.eml")).unwrap_or_else(|| "message.eml".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_make_names_up() {
        for name in [
            "ATT00001.txt",
            "ATT00002.htm",
            "text_0.txt",
            "text0.txt",
            "0001.txt",
            "part 1.2",
            "Teil 1.3.html",
            "Untitled attachment 00012.txt",
            "Unbenannte Anlage 00003.htm",
            "Attached Message Part",
            "Mail-Anhang.txt",
            "mime-attachment.txt",
        ] {
            assert!(is_made_up(name), "{name}");
        }
        for name in [
            "notes.txt",
            "text.txt",
            "report 2026.txt",
            "log.html",
            "att.pdf",
            "invoice_0.txt",
            "txt",
        ] {
            assert!(!is_made_up(name), "{name}");
        }
    }
}
