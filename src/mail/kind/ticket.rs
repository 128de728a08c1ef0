//! Owns the receipts of other help desks: "we have received your request", with a number.
//!
//! Does not accept a subject alone, or the text alone, as proof: people write both.

use super::{Classification, MailKind};
use crate::mail::outline::Outline;

/// The number of bytes of the text that are searched.
const OPENING_BYTES_MAX: usize = 3_072;

/// Finds a receipt by its Message-ID, or by a subject and words that only help desks write.
pub(super) fn find(mail: &Outline<'_>) -> Option<Classification> {
    let id = mail.field("Message-ID").unwrap_or_default();
    let id = id.trim_start_matches(['<', ' ']).to_ascii_lowercase();
    if IDS.iter().any(|start| id.starts_with(start)) {
        return Some(
            Classification::new(MailKind::AutoReply, "ticket_receipt").with_evidence("Message-ID"),
        );
    }
    let subject = folded(mail.subject());
    if is_answer(&subject) {
        return None;
    }
    let bare = without_number(&subject).trim_start_matches(|c: char| !c.is_alphanumeric());
    let says_receipt = SUBJECTS
        .iter()
        .any(|words| bare.starts_with(words) || !words.is_ascii() && subject.contains(words));
    if !says_receipt {
        return None;
    }
    let opening = mail.opening(OPENING_BYTES_MAX);
    let own = opening.lines().take_while(|line| !line.starts_with('>'));
    let text = folded(&own.collect::<Vec<_>>().join("\n"));
    let is_marked = text.starts_with("##-");
    let words = TEXTS.iter().filter(|words| text.contains(**words)).count();
    let asks = text.contains(['?', '？', '؟']);
    let is_numbered = is_marked || has_number(&subject) || has_number(&text);
    (words + usize::from(is_marked) >= 2 && is_numbered && !asks).then(|| {
        Classification::new(MailKind::AutoReply, "ticket_receipt").with_evidence("Subject, text")
    })
}

fn folded(text: &str) -> String {
    let text = text.to_lowercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The subject without the number of a ticket in brackets before it.
fn without_number(subject: &str) -> &str {
    let mut rest = subject.trim_start();
    while let Some(inner) = rest.strip_prefix(['[', '(', '【']) {
        match inner.split_once([']', ')', '】']) {
            Some((number, after)) if number.contains(|c: char| c.is_ascii_digit()) => {
                rest = after.trim_start();
            }
            _ => break,
        }
    }
    rest
}

/// True if a subject begins with a word and a colon, as an answer's does in every language.
fn is_answer(subject: &str) -> bool {
    let prefix = subject.split([':', '：']).next().unwrap_or_default();
    prefix.len() < subject.len()
        && prefix.chars().count() <= 6
        && prefix.chars().all(char::is_alphabetic)
}

/// True if the text contains a number that may be a ticket's.
fn has_number(text: &str) -> bool {
    let words = text.split(|c: char| !c.is_ascii_digit());
    words.filter(|digits| digits.len() >= 3).count() > 0
}

/// Beginnings of Message-IDs.
const IDS: &[&str] = &[
    "autoreply-",
    "auto-reply-",
    "autoresponse-",
    "autoresponder-",
];

/// Beginnings of subjects, after brackets and marks; those in other scripts may be anywhere in the subject.
#[rustfmt::skip]
const SUBJECTS: &[&str] = &[
    "ticket received", "request received", "case received", "ticket created", "case created", "new ticket created",
    "support ticket opened", "ticket opened", "we received your request", "we've received your request",
    "we have received your", "we got your request", "your request has been received", "your ticket has been",
    "your case has been", "thank you for contacting", "thanks for contacting", 
    "request acknowledged", "acknowledgement of your", "confirmation of your request",
    "ticket erhalten", "anfrage erhalten", "ticket erstellt", "ticket eröffnet",
    "neues ticket", "wir haben ihre anfrage erhalten", "eingangsbestätigung", "vorgang eröffnet",
    "demande reçue", "ticket reçu", "ticket créé", "ticket ouvert", "nous avons reçu votre", "nous avons bien reçu",
    "votre demande a été", "votre demande a bien", "accusé de réception", "confirmation de réception", "création de votre ticket",
    "solicitud recibida", "ticket recibido", "ticket creado", "caso creado", "hemos recibido su", "hemos recibido tu",
    "su solicitud ha sido", "acuse de recibo", "consulta recibida",
    "richiesta ricevuta", "ticket ricevuto", "ticket creato", "ticket aperto", "abbiamo ricevuto la", "conferma di ricezione",
    "solicitação recebida", "pedido recebido", "ticket recebido", "chamado aberto", "chamado criado", "ticket criado",
    "recebemos a sua", "recebemos sua", "recebemos o seu", "aviso de receção",
    "verzoek ontvangen", "aanvraag ontvangen", "ticket ontvangen", "ticket aangemaakt", "wij hebben uw bericht ontvangen",
    "we hebben uw bericht ontvangen", "we hebben je bericht ontvangen", "ontvangstbevestiging",
    "ärende mottaget", "ärende skapat", "vi har tagit emot", "vi har mottagit", "begäran mottagen", "mottagningsbekräftelse",
    "henvendelse mottatt", "sak opprettet", "vi har mottatt", "henvendelse modtaget", "sag oprettet", "vi har modtaget",
    "pyyntö vastaanotettu", "olemme vastaanottaneet", "yhteydenottosi on vastaanotettu",
    "zgłoszenie przyjęte", "zgłoszenie utworzone", "otrzymaliśmy twoje", "otrzymaliśmy państwa", "potwierdzenie przyjęcia", "twoje zgłoszenie zostało",
    "požadavek přijat", "přijali jsme", "váš požadavek byl", "požiadavka prijatá", "prijali sme",
    "megkaptuk", "kérését megkaptuk", "cerere primită", "solicitare primită", "am primit solicitarea",
    "заявка принята", "заявка получена", "заявка зарегистрирована", "обращение зарегистрировано", "обращение принято",
    "ваша заявка принята", "ваше обращение принято", "ваше обращение зарегистрировано", "мы получили ваш", "запрос получен", "заявку прийнято", "звернення отримано",
    "talebiniz alındı", "talep alındı", "הפנייה התקבלה", "פנייתך התקבלה",
    "تم استلام", "お問い合わせを受け付け", "お問い合わせ受付", "受付完了", "受付のお知らせ", "お問合せ受付", "请求已收到", "已收到您的", "工单已创建", "工单创建",
    "已收到您的請求", "문의가 접수", "접수되었습니다", "요청이 접수", "yêu cầu đã được", "đã nhận được yêu cầu", "ได้รับคำขอ", "tiket dibuat",
    "permintaan diterima", "tiket diterima",
];

/// Phrases that the text of a receipt contains.
#[rustfmt::skip]
const TEXTS: &[&str] = &[
    "has been received", "have received your", "we received your", "we've received your", "been created", "has been opened",
    "been assigned", "being reviewed", "get back to you", "our support staff", "our support team", "member of our team",
    "reply to this email", "replying to this email", "reply to this message", "ticket id", "ticket number", "case number",
    "reference number", "as soon as possible", "add additional comments", "to add further comments", "do not reply",
    "ist eingegangen", "eingegangen", "haben ihre anfrage", "wurde erstellt", "wurde eröffnet", "wird bearbeitet",
    "werden uns", "melden uns", "so schnell wie möglich", "schnellstmöglich", "auf diese e-mail", "ticketnummer",
    "ticket-nummer", "vorgangsnummer", "unser team", "mitarbeiter",
    "bien reçu", "a été reçue", "a été créé", "a été enregistré", "est en cours", "prise en charge", "équipe",
    "dans les plus brefs délais", "répondre à cet", "répondez à cet", "numéro de ticket", "votre demande",
    "hemos recibido", "ha sido recibida", "ha sido creado", "se ha creado", "nuestro equipo", "lo antes posible", "a la brevedad",
    "responda a este", "responde a este", "número de ticket", "está siendo",
    "abbiamo ricevuto", "è stata ricevuta", "è stato creato", "è stato aperto", "il nostro team", "al più presto", "il prima possibile",
    "rispondi a questa", "risponda a questa", "numero di ticket", "presa in carico",
    "recebemos", "foi recebid", "foi criado", "foi aberto", "nossa equipe", "nossa equipa", "o mais breve possível", "o mais rápido possível",
    "responda a este", "está sendo", "número do chamado", "número do ticket", "em breve",
    "hebben uw", "hebben je", "is ontvangen", "is aangemaakt", "ons team", "zo snel mogelijk", "zo spoedig mogelijk", "op deze e-mail",
    "ticketnummer", "in behandeling",
    "tagit emot", "har mottagit", "har skapats", "så snart som möjligt", "återkommer", "svara på detta", "ärendenummer",
    "har mottatt", "er opprettet", "så snart som mulig", "saksnummer", "har modtaget", "er oprettet", "hurtigst muligt", "sagsnummer",
    "vender tilbage", "kommer tilbake", "svar på denne", "besvare denne",
    "vastaanottaneet", "mahdollisimman pian", "vastaamme", "palaamme", "tiketin", "on luotu",
    "otrzymaliśmy", "zostało przyjęte", "zostało utworzone", "zostało zarejestrowane", "najszybciej", "odpowiadając na", "numer zgłoszenia",
    "nasz zespół", "przyjali", "přijali jsme", "byl vytvořen", "byl přijat", "co nejdříve", "odpovězte na", "číslo požadavku", "náš tým",
    "prijali sme", "bol vytvorený", "čo najskôr", "megkaptuk", "hamarosan", "a lehető leghamarabb", "munkatárs", "am primit", "a fost creat",
    "în cel mai scurt timp", "echipa noastră",
    "получили", "зарегистрирован", "принята", "в ближайшее время", "как можно скорее", "ответьте на это", "отвечая на это", "номер заявки",
    "специалист", "отримали", "зареєстрован", "найближчим часом", "номер звернення", "фахівц",
    "alınmıştır", "alındı", "oluşturuldu", "en kısa sürede", "ekibimiz", "yanıtlayarak", "λάβαμε", "δημιουργήθηκε", "το συντομότερο",
    "התקבלה", "נפתח", "בהקדם", "תקבל", "تم استلام", "تم إنشاء", "في أقرب وقت", "فريق",
    "受け付けました", "受付いたしました", "受付けました", "担当者", "ご連絡", "返信ください", "受付番号", "お問い合わせ番号", "チケット番号", "しばらくお待ち",
    "已收到", "已创建", "已建立", "尽快", "盡快", "回复此邮件", "回覆此郵件", "工单号", "工單", "客服", "접수", "담당자", "빠른 시일", "답변", "회신",
    "đã nhận được", "đã được tạo", "sớm nhất", "trả lời email", "ได้รับ", "โดยเร็ว", "telah diterima", "telah dibuat", "secepatnya", "segera",
];
