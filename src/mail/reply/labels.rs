//! Owns sensitivity labels: a program's line that names the permitted readers of a mail ("Classification:
//! Internal").
//!
//! Does not interpret sentences: a label is a name, a level, and nothing else.

use std::sync::LazyLock;

/// The maximum number of words of a label.
const WORDS_MAX: usize = 8;

/// True if a folded line is a label.
pub(super) fn is_label(fold: &str) -> bool {
    if fold.chars().count() > 80 || fold.split(' ').count() > WORDS_MAX {
        return false;
    }
    let frame = |c: char| {
        matches!(
            c,
            '[' | ']'
                | '('
                | ')'
                | '*'
                | '_'
                | '-'
                | '='
                | '#'
                | '<'
                | '>'
                | ' '
                | '.'
                | '|'
                | '【'
                | '】'
        )
    };
    let inner = fold.trim_matches(frame);
    if let Some(colour) = inner.strip_prefix("tlp:") {
        return ["red", "amber", "amber+strict", "green", "clear", "white"]
            .contains(&colour.trim());
    }
    let parts = inner.split_once(':').or_else(|| inner.split_once(" - "));
    let Some((name, level)) = parts else {
        let is_framed = fold.starts_with(['[', '【']) && fold.ends_with([']', '】']);
        return is_framed && is_level(inner);
    };
    is_name(name.trim_matches(frame)) && is_level(level.trim_matches(frame))
}

/// A name of labels, alone or with a word beside it: "document classification", "acme classification".
fn is_name(name: &str) -> bool {
    let words = name.split(' ').count();
    words <= 4
        && NAMES.iter().any(|known| {
            name == *known
                || name.split(' ').any(|word| word == *known)
                || !known.is_ascii() && name.contains(known)
        })
}

/// A level, alone or with a word beside it: "strictly confidential", "internal use only".
fn is_level(level: &str) -> bool {
    let count = level.split(' ').count();
    count <= 5
        && LEVELS.iter().any(|known| {
            let is_word = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()) == *known;
            level == *known
                || level.split([' ', '/', '-']).any(is_word)
                || (!known.is_ascii() || known.contains(' ')) && level.contains(known)
        })
}

fn words(list: &'static str) -> Vec<&'static str> {
    let words = list.split(['|', '\n']).map(str::trim);
    words.filter(|word| !word.is_empty()).collect()
}

static NAMES: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
    classification | sensitivity | confidentiality | data class | security level | security | protection level |
    information class | data classification | document class | label | marking | classified | handling |
    klassifizierung | klassifikation | vertraulichkeit | vertraulichkeitsstufe | vertraulichkeitsklasse |
    schutzklasse | sicherheitsklasse | datenklasse | dokumentenklasse | informationsklassifizierung | schutzbedarf | einstufung | sensibilität | sicherheitsstufe | informationsklasse |
    sensibilité | confidentialité | niveau de confidentialité | diffusion | clasificación | sensibilidad |
    confidencialidad | clasificacion | classificação | sensibilidade | confidencialidade | classificazione |
    sensibilità | riservatezza | classificatie | gevoeligheid | vertrouwelijkheid | rubricering | classificació |
    klassificering | informationsklass | känslighet | sekretess | klassifisering | følsomhet | gradering |
    klassifikation | følsomhed | fortrolighed | luokitus | tietoturvaluokitus | turvaluokitus | luottamuksellisuus | tietoluokka | klasyfikacja |
    klauzula | wrażliwość | poufność | klasifikace | citlivost | důvěrnost | klasifikácia | citlivosť |
    minősítés | besorolás | bizalmasság | érzékenység | clasificare | sensibilitate | confidențialitate |
    классификация | гриф | конфиденциальность | класифікація | гриф обмеження | класификация | поверителност |
    klasifikacija | povjerljivost | zaupnost | klasifikatsioon | tundlikkus | klasifikavimas | klasifikācija |
    sınıflandırma | gizlilik | gizlilik derecesi | ταξινόμηση | διαβάθμιση | εμπιστευτικότητα | סיווג | רגישות |
    تصنيف | التصنيف | السرية | طبقه بندی | 機密区分 | 機密性 | 秘密区分 | 分類 | 密级 | 密級 | 分级 | 保密等级 | 敏感度 | 机密等级 | 信息分类 |
    보안등급 | 보안 등급 | 기밀등급 | 분류 | 민감도 | phân loại | độ mật | mức độ bảo mật | การจัดประเภท | ระดับความลับ | ชั้นความลับ |
    klasifikasi | sensitivitas | pengelasan | kerahasiaan | वर्गीकरण
",
    )
});

static LEVELS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
    internal | public | confidential | restricted | general | secret | unclassified | private | personal |
    proprietary | sensitive | official | c0 | c1 | c2 | c3 | c4 | open | internal use | business use |
    intern | öffentlich | vertraulich | geheim | eingeschränkt | allgemein | nur für den dienstgebrauch |
    interne | publique | confidentiel | confidentielle | restreint | restreinte | usage interne | secrète |
    interno | interna | público | pública | confidencial | restringido | restringida | reservado | reservada |
    secreto | uso interno | restrito | restrita | pubblico | pubblica | riservato | riservata | confidenziale |
    segreto | openbaar | vertrouwelijk | geheim | intern gebruik | offentlig | offentligt | fortrolig | fortroligt |
    konfidentiell | öppen | begränsad | hemlig | strengt fortrolig | åpen | fortrolig | julkinen | sisäinen |
    luottamuksellinen | salainen | wewnętrzne | wewnętrzny | wewnętrzna | publiczne | publiczny | publiczna |
    poufne | poufny | poufna | zastrzeżone | tajne | interní | veřejné | veřejný | důvěrné | důvěrný | interné |
    interný | verejné | dôverné | belső | nyilvános | bizalmas | titkos | intern | public | confidențial |
    внутренняя | внутренний | внутреннее | для внутреннего | служебного | конфиденциально | конфиденциальная |
    конфиденциальный | открытая | публичная | общедоступно | секретно | внутрішня | внутрішній | для внутрішнього |
    конфіденційно | публічна | вътрешна | вътрешно | поверително | публично | interno | javno | povjerljivo |
    zaupno | sisemine | avalik | konfidentsiaalne | vidinis | viešas | konfidencialu | iekšējs | publisks |
    dahili | hizmete özel | genel | gizli | kamuya açık | kuruma özel | şirket içi | εσωτερικό | εσωτερική | δημόσιο | δημόσια |
    εμπιστευτικό | εμπιστευτική | απόρρητο | פנימי | ציבורי | חסוי | סודי | מוגבל | داخلي | عام | سري | سرّي | مقيد | محدود | محرمانه |
    社外秘 | 社内 | 社内限 | 内部 | 公开 | 公開 | 机密 | 機密 | 秘密 | 一般 | 極秘 | 关系者外秘 | 関係者外秘 | 內部 | 绝密 | 대외비 | 사내 | 내부용 | 내부 | 공개 | 기밀 | 일반 |
    nội bộ | công khai | bảo mật | mật | ภายใน | สาธารณะ | ลับ | ใช้ภายใน | terbatas | rahasia | sulit | dalaman | terhad | umum | गोपनीय | आंतरिक
",
    )
});

#[cfg(test)]
mod tests {
    use super::super::fold::fold;
    use super::*;

    #[test]
    fn labels_are_a_name_and_a_level() {
        for line in [
            "Classification: Internal",
            "Sensitivity: Strictly Confidential",
            "Klassifizierung: Intern",
            "ACME Klassifizierung - vertraulich",
            "Sensibilité : usage interne",
            "Clasificación: Pública",
            "Gevoeligheid: intern gebruik",
            "機密区分：社外秘",
            "密级：内部",
            "Гриф: для внутреннего использования",
            "Gizlilik Derecesi: Hizmete Özel",
            "[INTERNAL]",
            "TLP:AMBER",
        ] {
            assert!(is_label(&fold(line)), "{line}");
        }
        for line in [
            "Classification: please send it again",
            "The classification is internal, as far as I know.",
            "Internal",
            "Colour: red",
            "Size: general",
            "Address: Internal Revenue Street 5, Dublin 4, Ireland and so on",
            "TLP: yes",
            "[image]",
        ] {
            assert!(!is_label(&fold(line)), "{line}");
        }
    }
}
