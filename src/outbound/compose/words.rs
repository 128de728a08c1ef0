//! Owns the fixed texts of outgoing mail, by language.
//!
//! Does not translate the content of a mail.

/// A language of the fixed texts. The reply extraction knows the marker of every language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locale {
    /// Dutch.
    Dutch,
    /// English, also the default for unsupported languages.
    #[default]
    English,
    /// French.
    French,
    /// German.
    German,
    /// Italian.
    Italian,
    /// Japanese.
    Japanese,
    /// Polish.
    Polish,
    /// Portuguese.
    Portuguese,
    /// Russian.
    Russian,
    /// Simplified Chinese.
    Chinese,
    /// Spanish.
    Spanish,
    /// Swedish.
    Swedish,
}

impl Locale {
    /// Every supported language.
    pub const ALL: [Self; 12] = [
        Self::Dutch,
        Self::English,
        Self::French,
        Self::German,
        Self::Italian,
        Self::Japanese,
        Self::Polish,
        Self::Portuguese,
        Self::Russian,
        Self::Chinese,
        Self::Spanish,
        Self::Swedish,
    ];

    /// The language of a tag in the form of BCP 47 (`de`, `pt-BR`) or of a system locale
    /// (`de_AT.UTF-8`); English if it is not supported.
    pub fn of(tag: &str) -> Self {
        let language = tag.split(['-', '_', '.']).next().unwrap_or_default();
        let is_it = |locale: &&Self| {
            let own = locale.tag().split('-').next().unwrap_or_default();
            own.eq_ignore_ascii_case(language)
        };
        Self::ALL.iter().find(is_it).copied().unwrap_or_default()
    }

    /// The language's tag (BCP 47).
    pub fn tag(self) -> &'static str {
        self.row().1
    }

    /// The fixed texts of the language.
    pub fn words(self) -> LocaleWords {
        self.row().2
    }

    fn row(self) -> (Self, &'static str, LocaleWords) {
        let own = TABLE.iter().find(|(locale, ..)| *locale == self);
        *own.unwrap_or(&TABLE[0])
    }
}

/// The fixed texts of one language.
#[derive(Clone, Copy, Debug)]
pub struct LocaleWords {
    /// The line above which people reply.
    pub marker: &'static str,
    /// The word between an author's name and the product's: "Ann via Example".
    pub via: &'static str,
    /// The heading above earlier messages.
    pub earlier: &'static str,
    /// The heading above the names of the attachments.
    pub attachments: &'static str,
    /// The text of the unsubscribe link.
    pub unsubscribe: &'static str,
}

const TABLE: [(Locale, &str, LocaleWords); 12] = [
    (
        Locale::English,
        "en",
        words([
            "Reply above this line",
            "via",
            "Earlier in this conversation",
            "Attachments",
            "Unsubscribe",
        ]),
    ),
    (
        Locale::Chinese,
        "zh-Hans",
        words(["请在此行上方回复", "来自", "此前的对话", "附件", "退订"]),
    ),
    (
        Locale::Dutch,
        "nl",
        words([
            "Antwoord boven deze regel",
            "via",
            "Eerder in dit gesprek",
            "Bijlagen",
            "Afmelden",
        ]),
    ),
    (
        Locale::French,
        "fr",
        words([
            "Répondez au-dessus de cette ligne",
            "via",
            "Plus tôt dans cette conversation",
            "Pièces jointes",
            "Se désabonner",
        ]),
    ),
    (
        Locale::German,
        "de",
        words([
            "Antworten Sie oberhalb dieser Zeile",
            "über",
            "Bisher in dieser Unterhaltung",
            "Anhänge",
            "Abmelden",
        ]),
    ),
    (
        Locale::Italian,
        "it",
        words([
            "Rispondi sopra questa riga",
            "tramite",
            "In precedenza in questa conversazione",
            "Allegati",
            "Annulla iscrizione",
        ]),
    ),
    (
        Locale::Japanese,
        "ja",
        words([
            "この行より上に返信してください",
            "via",
            "これまでのやりとり",
            "添付ファイル",
            "配信停止",
        ]),
    ),
    (
        Locale::Polish,
        "pl",
        words([
            "Odpowiedz powyżej tej linii",
            "przez",
            "Wcześniej w tej rozmowie",
            "Załączniki",
            "Wypisz się",
        ]),
    ),
    (
        Locale::Portuguese,
        "pt",
        words([
            "Responda acima desta linha",
            "via",
            "Anteriormente nesta conversa",
            "Anexos",
            "Cancelar inscrição",
        ]),
    ),
    (
        Locale::Russian,
        "ru",
        words([
            "Отвечайте выше этой строки",
            "через",
            "Ранее в этой переписке",
            "Вложения",
            "Отписаться",
        ]),
    ),
    (
        Locale::Spanish,
        "es",
        words([
            "Responda por encima de esta línea",
            "vía",
            "Antes en esta conversación",
            "Archivos adjuntos",
            "Darse de baja",
        ]),
    ),
    (
        Locale::Swedish,
        "sv",
        words([
            "Svara ovanför denna rad",
            "via",
            "Tidigare i konversationen",
            "Bilagor",
            "Avsluta prenumerationen",
        ]),
    ),
];

const fn words([marker, via, earlier, attachments, unsubscribe]: [&'static str; 5]) -> LocaleWords {
    LocaleWords {
        marker,
        via,
        earlier,
        attachments,
        unsubscribe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::reply;

    #[test]
    fn tags_name_their_language() {
        for (tag, locale) in [
            ("de", Locale::German),
            ("de-AT", Locale::German),
            ("de_CH.UTF-8", Locale::German),
            ("PT-br", Locale::Portuguese),
            ("zh-Hant-TW", Locale::Chinese),
            ("tlh", Locale::English),
            ("", Locale::English),
        ] {
            assert_eq!(Locale::of(tag), locale, "{tag}");
        }
        for locale in Locale::ALL {
            assert_eq!(Locale::of(locale.tag()), locale);
        }
    }

    #[test]
    fn every_marker_is_known_to_the_reply_extraction() {
        for locale in Locale::ALL {
            let text = format!("Yes.\n\n— {} —\n\nold words", locale.words().marker);
            // The markers stay recognised after the operator has configured another line.
            for marker in [reply::MARKER_DEFAULT, "An operator's own line"] {
                let reply = reply::extract(&reply::ReplyInput {
                    text: Some(&text),
                    marker,
                    ..reply::ReplyInput::default()
                });
                assert_eq!(reply.method, reply::Method::Marker, "{locale:?}");
                assert_eq!(reply.text, "Yes.", "{locale:?}");
            }
        }
    }
}
