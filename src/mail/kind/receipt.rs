//! Owns the read receipts that are not a `multipart/report`: Outlook and others send them as plain mail.
//!
//! Does not read receipts of RFC 8098; the report parser does.

use super::{Classification, MailKind};
use crate::mail::outline::Outline;

const OPENING_BYTES_MAX: usize = 2_048;

/// A subject alone proves nothing ("Read: the news"): the text must match too, and be short.
pub(super) fn find(mail: &Outline<'_>) -> Option<Classification> {
    let subject = mail.subject().to_lowercase();
    let subject = SUBJECTS.iter().any(|words| {
        let rest = subject.strip_prefix(words).map(str::trim_start);
        rest.is_some_and(|rest| rest.starts_with([':', '：']))
    });
    if !subject {
        return None;
    }
    let text = mail.opening(OPENING_BYTES_MAX).to_lowercase();
    let mut lines = text.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.truncate(lines.floor_char_boundary(600));
    TEXTS
        .iter()
        .any(|(first, last)| {
            lines
                .find(first)
                .is_some_and(|at| at < 40 && lines[at..].contains(last))
        })
        .then(|| {
            Classification::new(MailKind::ReadReceipt, "receipt_text").with_evidence("Subject")
        })
}

/// Lower-cased words before the colon.
const SUBJECTS: &[&str] = &[
    "read",
    "not read",
    "read receipt",
    "return receipt (displayed)",
    "return receipt",
    "gelesen",
    "ungelesen gelöscht",
    "lesebestätigung",
    "lu",
    "non lu",
    "accusé de lecture",
    "leído",
    "no leído",
    "confirmación de lectura",
    "letto",
    "lettura",
    "non letto",
    "lida",
    "lido",
    "não lida",
    "gelezen",
    "niet gelezen",
    "leesbevestiging",
    "läst",
    "läskvitto",
    "læst",
    "lest",
    "luettu",
    "přečteno",
    "przeczytano",
    "przeczytane",
    "прочитано",
    "прочтено",
    "okundu",
    "開封済み",
    "开封",
    "已读",
    "已讀",
    "읽음",
];

/// Pairs of phrases: the beginning of the text, and a phrase some way after it.
const TEXTS: &[(&str, &str)] = &[
    ("your message", "was read on"),
    ("your message", "was deleted without being read"),
    ("this is a return receipt for the mail", "displayed"),
    ("this is a receipt for the mail", "displayed"),
    ("ihre nachricht", "wurde am"),
    ("ihre nachricht", "wurde gelesen"),
    ("ihre nachricht", "gelesen am"),
    ("ihre nachricht", "ungelesen gelöscht"),
    ("dies ist eine empfangsbestätigung", "angezeigt"),
    ("votre message", "a été lu"),
    ("votre message", "été supprimé sans être lu"),
    ("el mensaje", "se ha leído"),
    ("su mensaje", "fue leído"),
    ("il messaggio", "è stato letto"),
    ("messaggio", "è stato letto"),
    ("a sua mensagem", "foi lida"),
    ("sua mensagem", "foi lida"),
    ("uw bericht", "is gelezen"),
    ("ditt meddelande", "lästes"),
    ("din meddelelse", "læst"),
    ("viestisi", "luettu"),
    ("ваше сообщение", "прочитано"),
];
