//! Owns the subjects of absence notes and other automatic answers, in many languages, for mail without a
//! telling header field.
//!
//! A person may answer such a subject (`Re: Out of office`) or write about an absence: so the phrase must
//! stand first, and in the form in which mail programs write it.

use super::{Classification, MailKind};
use crate::mail::outline::Outline;

/// Bytes of the text that are searched.
const OPENING_BYTES_MAX: usize = 3_072;
/// The number of characters of a text that says only that its author is away.
const SHORT_NOTE_CHARS_MAX: usize = 40;

/// Recognises an automatic answer by its subject.
pub(super) fn find(mail: &Outline<'_>) -> Option<Classification> {
    let subject = mail.subject().to_lowercase();
    let subject = subject.trim_start_matches(['[', '(', '*', '"', '<', '«', '【', ' ']);
    if let Some((_, rest)) = split(subject, ANSWERS)
        && SubjectRemainder::of(rest).is_set_apart()
    {
        return Some(
            Classification::new(MailKind::AutoReply, "automatic_subject").with_evidence("Subject"),
        );
    }
    let note = split(subject, NOTES);
    let (_, rest) = note.or_else(|| split(subject, ABSENCES))?;
    let believed = match SubjectRemainder::of(rest) {
        SubjectRemainder::Sentence => false,
        // No person writes "Out of office: Re: our subject".
        SubjectRemainder::Answer => true,
        SubjectRemainder::End | SubjectRemainder::Subject => {
            note.is_some() && absent_phrases(mail) > 0
        }
    };
    believed.then(|| {
        Classification::new(MailKind::AutoReply, "absence_subject").with_evidence("Subject")
    })
}

/// The signs of an absence note whose subject could be a topic (`Urlaub` at a travel firm): such a subject
/// with a text that mentions an absence; and a text that mentions it twice, or mentions nothing else, and
/// asks no question.
pub(super) fn signs(mail: &Outline<'_>) -> impl Iterator<Item = Classification> {
    let subject = mail.subject().to_lowercase();
    let subject = subject.trim_start_matches(['[', '(', '*', '"', '<', '«', '【', ' ']);
    let is_topic =
        split(subject, ABSENCES).is_some_and(|(_, rest)| SubjectRemainder::of(rest).is_set_apart());
    // A person who announces a holiday starts a new mail; an answer keeps the `Re:`.
    let phrases = if is_topic && is_answer(mail) {
        absent_phrases(mail)
    } else {
        0
    };
    let says_no_more = || {
        let opening = mail.opening(OPENING_BYTES_MAX);
        let is_short = || opening.trim().chars().count() <= SHORT_NOTE_CHARS_MAX;
        !opening.contains(['?', '？', '؟']) && (phrases > 1 || is_short())
    };
    let subject = (phrases > 0).then_some("Subject");
    let text = (phrases > 0 && says_no_more()).then_some("absent text");
    let signs = [subject, text].into_iter().flatten();
    signs
        .map(|sign| Classification::new(MailKind::AutoReply, "absence_subject").with_evidence(sign))
}

/// The longest of `words` that begins `subject`, and the rest of the subject.
fn split<'a>(subject: &'a str, words: &[&'static str]) -> Option<(&'static str, &'a str)> {
    words
        .iter()
        .filter_map(|word| subject.strip_prefix(word).map(|rest| (*word, rest)))
        .max_by_key(|(word, _)| word.len())
}

/// The text after the phrase in the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubjectRemainder {
    /// No text follows.
    End,
    /// A separator, and a subject.
    Subject,
    /// The subject of an answer, with its `Re:`.
    Answer,
    /// The phrase begins a sentence.
    Sentence,
}

impl SubjectRemainder {
    fn of(rest: &str) -> Self {
        const ANSWERS: &[&str] = &[
            "re:", "aw:", "sv:", "antw:", "odp:", "ynt:", "rif:", "vs:", "re :",
        ];
        let trimmed = rest.trim_start();
        let body = trimmed.trim_start_matches([':', '：', ']', ')', '】', '»', '>', '"', '*', ' ']);
        if ANSWERS.iter().any(|mark| body.starts_with(mark)) {
            return Self::Answer;
        }
        if trimmed
            .trim_matches(|c: char| c.is_ascii_punctuation() || "】».。！".contains(c))
            .is_empty()
        {
            return Self::End;
        }
        if trimmed.starts_with([':', '：', ']', ')', '】', '»', '>']) {
            return Self::Subject;
        }
        // A program writes "On holiday until 10 March: Re: our subject" if the text mentions an absence
        // too.
        let mut behind = body
            .match_indices(": ")
            .map(|(at, colon)| &body[at + colon.len()..]);
        if behind.any(|rest| ANSWERS.iter().any(|mark| rest.starts_with(mark))) {
            return Self::Subject;
        }
        Self::Sentence
    }

    const fn is_set_apart(self) -> bool {
        !matches!(self, Self::Sentence)
    }
}

fn is_answer(mail: &Outline<'_>) -> bool {
    mail.has("In-Reply-To") || mail.has("References")
}

/// The number of phrases in the text that state an absence.
fn absent_phrases(mail: &Outline<'_>) -> usize {
    let text = mail.opening(OPENING_BYTES_MAX).to_lowercase();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    AWAY.iter().filter(|words| text.contains(**words)).count()
}

/// Names of automatic answers in mail programs. No person begins a subject with such a name and a colon.
#[rustfmt::skip]
const ANSWERS: &[&str] = &[
    "automatic reply", "automatic response", "automated reply", "automated response", "auto reply",
    "auto-reply", "autoreply", "auto response", "auto-response", "autoresponse", "autoresponder",
    "out of office autoreply", "out of office auto-reply", "out of office auto reply",
    "automatische antwort", "automatische rückantwort", "automatische beantwortung",
    "réponse automatique", "reponse automatique", "respuesta automática", "respuesta automatica",
    "contestación automática", "resposta automàtica", "risposta automatica", "resposta automática",
    "resposta automatica", "automatisch antwoord", "automatische reactie", "automatisch bericht",
    "autosvar", "automatiskt svar", "automatisk svar", "automaattinen vastaus", "automaatvastus",
    "autoodpowiedź", "automatyczna odpowiedź", "odpowiedź automatyczna", "automatická odpověď",
    "automatická odpoveď", "automatikus válasz", "răspuns automat", "raspuns automat",
    "автоматический ответ", "автоответ", "автоответчик", "автоматична відповідь", "автовідповідь",
    "автоматичен отговор", "аутоматски одговор", "automatski odgovor", "samodejni odgovor",
    "automatinis atsakymas", "automātiska atbilde", "otomatik yanıt", "otomatik cevap",
    "αυτόματη απάντηση", "תשובה אוטומטית", "מענה אוטומטי", "رد تلقائي", "الرد التلقائي", "رد آلي",
    "自動応答", "自動返信", "自动答复", "自动回复", "自動回覆", "自動回復", "자동 회신", "자동 응답", "자동응답", "trả lời tự động",
    "thư trả lời tự động", "ตอบกลับอัตโนมัติ", "การตอบกลับอัตโนมัติ", "balasan otomatis",
    "jawapan automatik",
];

/// Names of absence notes in mail programs.
#[rustfmt::skip]
const NOTES: &[&str] = &[
    "out of office", "out of the office", "out-of-office", "ooo", "away from my mail",
    "vacation notice", "vacation reply", "holiday notice", "abwesenheitsnotiz",
    "abwesenheitsnachricht", "abwesenheitsmeldung", "abwesenheitsassistent", "absence du bureau",
    "absent du bureau", "message d'absence", "notification d'absence", "fuera de la oficina",
    "fuera de oficina", "fuori sede", "fuori ufficio", "fora do escritório",
    "ausência do escritório", "ausente do escritório", "afwezigheidsmelding", "afwezigheidsbericht",
    "niet op kantoor", "frånvaromeddelande", "ej på kontoret", "fraværsmeddelelse",
    "ikke på kontoret", "fraværsmelding", "poissaoloilmoitus", "poissa toimistosta", "poza biurem",
    "nieobecność w biurze", "mimo kancelář", "mimo kancelárie", "házon kívül", "în afara biroului",
    "отсутствие на рабочем месте", "вне офиса", "не в офісі", "извън офиса", "van ureda",
    "izvan ureda", "ofis dışında", "ofis dışındayım", "εκτός γραφείου", "מחוץ למשרד", "خارج المكتب",
    "不在通知", "不在応答", "不在办公室", "부재중",
];

/// Words for an absence that both people and programs use.
#[rustfmt::skip]
const ABSENCES: &[&str] = &[
    "away from office", "away from the office", "i am away", "on vacation", "on annual leave",
    "on leave", "maternity leave", "abwesenheit", "abwesend", "nicht im büro", "nicht im haus",
    "urlaub", "urlaubsvertretung", "absence", "absent", "en congé", "ausencia", "ausente",
    "de vacaciones", "assente", "assenza", "in ferie", "ausência", "em férias", "afwezigheid",
    "afwezig", "niet aanwezig", "met vakantie", "frånvarande", "frånvaro", "på semester",
    "ikke til stede", "fravær", "på ferie", "poissa", "lomalla", "nieobecność", "urlop",
    "nepřítomnost", "dovolená", "szabadság", "în concediu", "нет на месте", "в отпуске",
    "у відпустці", "izindeyim", "不在", "休暇中", "外出", "休假", "休假中", "휴가", "외출 중",
];

/// Phrases that state an absence.
#[rustfmt::skip]
const AWAY: &[&str] = &[
    "out of the office", "out of office", "away from the office", "away from my desk", "i am away",
    "i'm away", "on vacation", "on holiday", "annual leave", "on leave", "parental leave",
    "maternity leave", "sick leave", "limited access to", "no access to my e", "will be back",
    "will return", "i'll be back", "upon my return", "when i return", "nicht im büro",
    "nicht im haus", "im urlaub", "abwesend", "nicht erreichbar", "wieder erreichbar",
    "wieder im büro", "wieder für sie da", "zurück bin", "absent", "en congé", "en vacances",
    "de retour", "fuera de la oficina", "de vacaciones", "ausente", "estaré fuera", "mi regreso",
    "fuori ufficio", "fuori sede", "in ferie", "assente", "mio rientro", "fora do escritório",
    "de férias", "em férias", "meu retorno", "afwezig", "niet aanwezig", "niet op kantoor",
    "vakantie", "weer bereikbaar", "frånvarande", "på semester", "åter på", "inte på kontoret",
    "ikke på kontoret", "på ferie", "fraværende", "tilbage igen", "tilbake på", "poissa", "lomalla",
    "nieobecn", "poza biurem", "na urlopie", "mimo kancelář", "dovolené", "nepřítom", "dovolenke",
    "nem vagyok az irod", "szabadságon", "távol vagyok", "nu sunt la birou", "concediu",
    "в отпуске", "отсутств", "вне офиса", "буду на связи", "у відпустці", "відсутн", "в отпуск",
    "odsut", "ofis dışında", "izinde", "ofiste değil", "εκτός γραφείου", "άδεια", "מחוץ למשרד",
    "בחופשה", "خارج المكتب", "إجازة", "不在にして", "不在のため", "休暇", "外出して", "不在办公室", "休假", "外出", "不在辦公室",
    "부재중", "휴가", "자리를 비", "vắng mặt", "ไม่อยู่", "sedang cuti", "di luar kantor",
];
