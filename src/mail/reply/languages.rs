//! Owns the words that mail programs put around a quote, in many languages.
//!
//! Does not classify lines: other modules decide if a word makes an attribution, a header block or a
//! signature. All entries are lower case and folded as by `fold::fold`.
//!
//! The lists are text, with words separated by bars, because there are thousands of them.

use std::sync::LazyLock;

use super::phrases::PhraseList;

/// The words of one list, for a single search.
fn phrases(list: &'static str) -> PhraseList {
    PhraseList::new(words(list))
}

/// The words of one list.
fn words(list: &'static str) -> Vec<&'static str> {
    list.split(['|', '\n'])
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect()
}

/// Verbs that close or open an attribution: "wrote", "a écrit", "schrieb".
///
/// Matches only whole words ("wrote" is not in "rewrote").
pub(super) static WROTE: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    wrote | writes | has written | schrieb | schrieben | schreibt | geschrieben | a écrit |
    a ecrit | écrit | avez écrit | escribió | escribio | ha escrito | escribiste | escriviu |
    escribiu | va escriure | ha escrit | escreveu | escreveste | ha scritto | scritto | scriveva |
    scrisse | schreef | skrev | skreiv | skrifaði | kirjoitti | kirjutas | napisał | napisała |
    napisał(a) | napisali | pisze | napisano | napsal | napsala | napsal(a) | napsala(a) | píše |
    napísal | napísala | napísal(a) | írta | írt | a scris | scris | написал | написала |
    написал(а) | написали | пишет | писал | писала | писал(а) | написав | написала(в) |
    написав(ла) | пише | писав | написа | напиша | напісаў | написао | napisao | napisao/la |
    napisal | napisala | je napisao | je napisala | piše | rašė | rakstīja | yazdı | yazmış |
    έγραψε | γράψε | έγραψαν | כתב | כתבה | כתב/ה | כתב/ה: | كتب | كتبت | كتابة ما يلي | نوشت |
    نوشته | menulis | sinulat | isinulat | idatzi | shkroi | đã viết | viết | ने लिखा | लिखा |
    যা লিখেছেন | लिहिले | எழுதியது | aliandika | het geskryf | skryf
",
    )
});

/// Such verbs in scripts without spaces between words: matched anywhere in the line.
pub(super) static WROTE_UNSPACED: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    写道 | 寫道 | 写到 | 寫到 | 撰写 | 書きました | のメール | は書き | さんが書 | からのメッセージ | 작성 | 썼습니다 | 쓰셨습니다 | 님의 말 |
    님이 쓴 | 쓴 글 | 보낸 메시지 | เขียนว่า | เขียน | ได้เขียน
",
    )
});

/// Words with which an attribution begins.
pub(super) static OPENERS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
    on | at | in | le | am | el | em | a | o | il | in data | op | den | d. | på | pada | w dniu |
    dnia | dne | dňa | στις | την | на | в | у | от | on: | בתאריך | ביום | ב- | في | بتاريخ |
    يوم | 在 | 于 | 於 | vào | lúc | ngày | ในวันที่ | เมื่อ | วันที่ | în | la | kuupäev | v | u |
    noong | missatge | wiadomość | mensaje | messaggio | message | quoting | zitat | citat | el día | al |
    del | ti | kl. | tarihinde | it was | dana | пользователь | користувач | quoth
",
    )
});

/// First words of a person's sentence, which no mail program writes.
pub(super) static FIRST_PERSON: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    i wrote | i've written | i have written | we wrote | as i wrote | i already wrote |
    ich schrieb | schrieb ich | wir schrieben | j'ai écrit | j’ai écrit | escribí | he escrito |
    escrevi | ho scritto | schreef ik | ik schreef | skrev jag | jag skrev | skrev jeg |
    jeg skrev | я написал | я писал | я написала | я писала | я написав | я писав | kirjoitin |
    napisałem | napisałam | napsal jsem | napsala jsem | yazdım | έγραψα | כתבתי | كتبت لك
",
    )
});

/// The label of a line of a header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum HeaderLabel {
    From,
    Sent,
    To,
    Subject,
    /// Cc, Reply-To, Importance, Attachments: no evidence alone.
    Other,
}

/// Names of the lines in a header block.
pub(super) static HEADERS: LazyLock<Vec<(HeaderLabel, &str)>> = LazyLock::new(|| {
    [
        (HeaderLabel::From, FROM),
        (HeaderLabel::Sent, SENT),
        (HeaderLabel::To, TO),
        (HeaderLabel::Subject, SUBJECT),
        (HeaderLabel::Other, OTHER),
    ]
    .into_iter()
    .flat_map(|(header, list)| words(list).into_iter().map(move |name| (header, name)))
    .collect()
});

const FROM: &str = "
    from | de | von | da | van | från | fra | lähettäjä | od | feladó | de la | от | от кого |
    від | від кого | kimden | gönderen | από | מאת | من | المرسل | 差出人 | 送信者 | 送信元 | 发件人 | 寄件者 |
    寄件人 | 發件人 | 보낸 사람 | 보낸사람 | 발신 | 발신자 | từ | người gửi | จาก | ผู้ส่ง | dari | pengirim |
    saatja | nuo | no | od koga | expéditeur | absender | remitente | remetente | mittente |
    afzender | avsändare | afsender | avsender | nadawca | odesílatel | odosielateľ | expeditor |
    отправитель | відправник | подател | pošiljatelj | šalje | az | frá | از | desde
";

const SENT: &str = "
    sent | date | sent at | date sent | envoyé | envoyé le | envoyée | gesendet | gesendet am |
    datum | enviado | enviado el | enviada em | enviado em | enviada | fecha | data | data/hora |
    data e ora | inviato | inviata | verzonden | verzonden op | skickat | sendt | dato |
    lähetetty | päivämäärä | päiväys | pvm | wysłano | wysłane | data wysłania | odesláno |
    odoslané | dátum | elküldve | küldve | trimis | дата | отправлено | дата и время |
    відправлено | надіслано | tarih | gönderildi | gönderme tarihi | gönderim tarihi |
    gönderilme tarihi | ημερομηνία | στάλθηκε | εστάλη | αποστολή | נשלח | תאריך | تاريخ |
    التاريخ | تاريخ الإرسال | تم الإرسال | أرسلت | 日付 | 送信日時 | 送信日 | 日時 | 发送时间 | 日期 | 发送日期 | 時間 |
    傳送時間 | 寄件日期 | 寄送時間 | 时间 | 發送時間 | 傳送日期 | 보낸 날짜 | 보낸날짜 | 날짜 | 일시 | 전송 | 보낸 시간 | 발송일 | ngày |
    đã gửi | gửi | thời gian | đã gửi vào | ส่ง | วันที่ | ส่งเมื่อ | dikirim | tanggal |
    terkirim | saadetud | kuupäev | išsiųsta | nosūtīts | poslano | poslato | изпратено | послато |
    sendt den | sent on | enviat el | ارسال شده
";

const TO: &str = "
    to | an | à | a | para | pour | aan | till | til | vastaanottaja | do | komu | címzett |
    către | catre | pentru | кому | получатель | до | kime | alıcı | προς | אל | עבור | إلى | الى |
    المرسل إليه | 宛先 | 收件人 | 收件者 | 받는 사람 | 받는사람 | 수신 | 수신자 | đến | tới | người nhận | ถึง |
    ผู้รับ | kepada | untuk | ke | destinataire | destinataires | empfänger | destinatario |
    destinatari | destinatário | destinatários | mottagare | modtager | mottaker | saaja | kam |
    kome | za | gavėjas | на | получател | per | geadresseerde | به | odbiorca | příjemce |
    príjemca
";

const SUBJECT: &str = "
    subject | objet | sujet | betreff | betr. | asunto | assunto | oggetto | onderwerp | ämne |
    emne | aihe | temat | předmět | predmet | tárgy | subiect | тема | konu | θέμα | נושא |
    الموضوع | موضوع | 件名 | 題名 | 主题 | 主題 | 主旨 | 标题 | 제목 | chủ đề | tiêu đề | เรื่อง | หัวข้อ |
    perihal | subjek | hal | teema | tema | temats | assumpte | asunto: | naslov | относно | efni |
    re
";

const OTHER: &str = "
    cc | bcc | cci | kopie | kopia | kopi | kopio | copie | copia | cópia | copie à | dw | udw |
    másolat | копия | копія | bilgi | κοιν | κοινοποίηση | עותק | نسخة | 抄送 | 副本 | 密送 | 참조 |
    สำเนา | tembusan | reply-to | reply to | antwort an | répondre à | responder a |
    responder para | risposta | rispondi a | antwoord aan | svar til | svara till | ответить |
    importance | wichtigkeit | priorität | priority | importancia | importância | importanza |
    attachments | attachment | anlagen | anhang | pièces jointes | pièce jointe | adjuntos |
    datos adjuntos | anexos | allegati | bijlagen | bilagor | vedhæftninger | вложения |
    załączniki | 添付ファイル | 附件 | organization | organisation | newsgroups | sender | message-id |
    resent-from | in-reply-to | mailed-by | signed-by | 重要性 | sensitivity | 返信先 | 第三方 | 发送至
";

/// "Original message" between dashes.
pub(super) static ORIGINAL: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
    original message | original email | original mail | original appointment | message d'origine |
    message original | message initial | mail original | ursprüngliche nachricht |
    originalnachricht | original-nachricht | original nachricht | urspruengliche nachricht |
    ursprüngliche mail | mensaje original | correo original | mensagem original |
    messaggio originale | messaggio original | oorspronkelijk bericht | origineel bericht |
    oorspronkelijk e-mailbericht | ursprungligt meddelande | originalmeddelande |
    ursprungligt mejl | oprindelig meddelelse | original meddelelse | oprindelig besked |
    opprinnelig melding | original melding | alkuperäinen viesti | wiadomość oryginalna |
    oryginalna wiadomość | pierwotna wiadomość | wiadomość pierwotna | původní zpráva |
    původní e-mail | originální zpráva | pôvodná správa | pôvodný e-mail | eredeti üzenet |
    eredeti levél | mesaj original | mesajul original | mesaj inițial | mesaj iniţial |
    исходное сообщение | оригинальное сообщение | исходное письмо | первоначальное сообщение |
    оригінальне повідомлення | вихідне повідомлення | початкове повідомлення | özgün ileti |
    orijinal mesaj | orjinal mesaj | orijinal ileti | asıl ileti | αρχικό μήνυμα | הודעה מקורית |
    ההודעה המקורית | الرسالة الأصلية | رسالة أصلية | الرسالة الاصلية | 元のメッセージ | 元のメール | 原始邮件 |
    原始郵件 | 原邮件 | 原郵件 | 原始信件 | 回复的原邮件 | 回覆的原郵件 | 邮件原件 | 원본 메시지 | 원본 메일 | 원본메일 | 원본 이메일 | thư gốc |
    tin nhắn gốc | thư ban đầu | ข้อความต้นฉบับ | ข้อความเดิม | ข้อความดั้งเดิม | pesan asli |
    mesej asal | pesan asal | algne kiri | algne sõnum | originaalsõnum | originalus laiškas |
    pradinis pranešimas | sākotnējais ziņojums | izvorna poruka | originalna poruka |
    izvirno sporočilo | оригинално съобщение | оригинално писмо | оригинална порука |
    missatge original |
    mensaxe orixinal | jatorrizko mezua | replied message | reply message | reply separator |
    reply header | quoted message | previous message | upprunaleg skilaboð | پیام اصلی |
    मूल संदेश
",
    )
});

/// "Forwarded message" between dashes, or alone with a colon.
pub(super) static FORWARDED: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
    forwarded message | forwarded mail | forwarded email | forwarded by | begin forwarded message |
    begin forwarded email | start of forwarded message | message transféré | message transmis |
    mail transféré | début du message transféré | début du message réexpédié | message réexpédié |
    weitergeleitete nachricht | weitergeleitete mail | weitergeleitete e-mail |
    anfang der weitergeleiteten nachricht | beginn der weitergeleiteten nachricht |
    mensaje reenviado | inicio del mensaje reenviado | mensagem encaminhada |
    mensagem reencaminhada | início da mensagem encaminhada | início da mensagem reencaminhada |
    messaggio inoltrato | inizio messaggio inoltrato | doorgestuurd bericht |
    doorgestuurde bericht | begin doorgestuurd bericht | vidarebefordrat meddelande |
    vidarebefordrat mejl | vidarebefordrat brev | videresendt meddelelse | videresendt besked |
    videresendt melding | videresendt e-post | välitetty viesti | edelleenlähetetty viesti |
    przekazana wiadomość | wiadomość przekazana dalej | przesłana wiadomość |
    początek przekazywanej wiadomości | treść przekazanej wiadomości | přeposlaná zpráva |
    předaná zpráva | preposlaná správa | továbbított üzenet | továbbított levél |
    mesaj redirecționat | mesaj redirectionat | mesaj redirecţionat | mesaj reexpediat |
    mesaj transmis | пересылаемое сообщение | пересланное сообщение | пересылаемое письмо |
    перенаправленное сообщение | начало переадресованного сообщения |
    начало пересылаемого сообщения | завершение пересылаемого сообщения | переслане повідомлення |
    пересланий лист | переадресоване повідомлення | початок переадресованого повідомлення |
    iletilen mesaj | iletilmiş mesaj | yönlendirilmiş ileti | iletilen ileti | προωθημένο μήνυμα |
    διαβιβασμένο μήνυμα | προωθούμενο μήνυμα | הודעה שהועברה | הודעה מועברת | رسالة معاد توجيهها |
    الرسالة المعاد توجيهها | رسالة محولة | رسالة مُعاد توجيهها | رسالة تمت إعادة توجيهها |
    転送されたメッセージ | 転送メッセージ | 転送メール | 転送されたメール | 转发的邮件 | 转发邮件 | 已转发的邮件 | 转发邮件信息 | 轉寄郵件 | 轉寄的郵件 |
    已轉寄郵件 | 開始轉寄郵件 | 开始转发邮件 | 已转发邮件 | 轉寄者 | 轉寄訊息 | 转发消息 | 전달된 메일 | 전달된 메시지 | 전달된 편지 | 전달된 이메일 |
    전달 메일 | thư chuyển tiếp | thư được chuyển tiếp | tin nhắn đã chuyển tiếp |
    tin nhắn được chuyển tiếp | ข้อความที่ส่งต่อ | จดหมายที่ส่งต่อ | pesan terusan |
    pesan yang diteruskan | mesej dimajukan | missatge reenviat | препратено съобщение |
    пренасочено съобщение | proslijeđena poruka | prosleđena poruka | posredovano sporočilo |
    edastatud kiri | edastatud sõnum | persiųstas laiškas | persiųsta žinutė | pārsūtīts ziņojums |
    mensaxe reenviada | پیام هدایت شده
",
    )
});

/// Ways to say "sent from" at the start of a line that a mail program adds.
pub(super) static SENT_FROM: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    get the new aol app | this message was sent from | this email was sent from my | this e-mail was sent from | message sent from |
    email sent from | e-mail sent from | written on my | typed on my | typed with thumbs | composed on my | mensaje enviado |
    message envoyé | courriel envoyé | e-mail envoyé | nachricht gesendet | mensagem enviada | messaggio inviato |
    bericht verzonden | dieses e-mail wurde | reply sent from | sent from | sent via | sent with | sent using | sent by | sent on the go | send from |
    envoyé de mon | envoyé de ma | envoyé depuis | envoyé à partir de | envoyé a partir de |
    envoyé avec | envoyé via | envoyé par | envoyé de | télécharger outlook pour |
    obtenir outlook pour | téléchargez outlook pour | provenance : | von meinem | von meiner |
    gesendet von | gesendet mit | gesendet aus | gesendet via | versendet von |
    holen sie sich outlook | outlook für | diese nachricht wurde von meinem |
    diese nachricht wurde mit | diese e-mail wurde von meinem | enviado desde | enviado con |
    enviado do | enviado de | enviado da | enviado por | enviado via | enviado a partir |
    enviada do | enviado pelo | enviado através | obtener outlook para | obtén outlook para |
    obter o outlook para |
    obtenha o outlook para | inviato da | inviato dal | inviato con | inviato tramite |
    inviata da | ottieni outlook per | scarica outlook per | verzonden vanaf | verzonden met |
    verzonden via | verzonden vanuit | verstuurd vanaf | verstuurd met | verstuurd vanuit |
    download outlook voor | outlook voor | skickat från | skickades från | skickat med |
    skickat via | hämta outlook för | skaffa outlook | sendt fra | sendt med | sendt via |
    hent outlook til | hent outlook for | få outlook til | lähetetty | hanki outlook | wysłano z |
    wysłane z | wysłano za pomocą | wysłano przez | pobierz aplikację outlook | pobierz outlook |
    uzyskaj aplikację outlook | odesláno z | odesláno ze | odesláno pomocí | získat outlook |
    odoslané z |
    odoslané pomocou | získajte outlook | poslano z | poslano s | poslano sa | poslato sa |
    послато са | küldve | elküldve | az outlook | az én iphone | a mobilomról | trimis de pe |
    trimis din | trimis de | obțineți outlook | отправлено с | отправлено из | отправлено через |
    отправлено от | скачать outlook | получить outlook | з повагою, надіслано з | відправлено з |
    надіслано з | надіслано із | відправлено із | завантажити outlook | отримати outlook |
    στάλθηκε από | εστάλη από | απεστάλη από | αποστολή από | λήψη του outlook | נשלח מה | נשלח מ |
    נשלח באמצעות | קבל את outlook | أرسلت من | أُرسلت من | أرسل من | تم الإرسال من |
    تم إرسالها من | مرسل من | مرسلة من | مُرسل من | الحصول على outlook | ارسال شده از |
    فرستاده شده از | 发自 | 發自 | 從我的 | 从我的 | 寄自 | 來自我的 | 来自我的 | 傳送自 | 发送自 | 使用 outlook | 获取 outlook |
    取得 outlook | 下載 outlook | 下载 outlook | 나의 | 내 iphone에서 | 내 갤럭시 | outlook 다운로드 | ios용 outlook |
    android용 outlook | gửi từ | đã gửi từ | được gửi từ | tải outlook | ส่งจาก |
    ดาวน์โหลด outlook | รับ outlook | dikirim dari | dikirim melalui | dapatkan outlook |
    изпратено от | изпратено с | saadetud | išsiųsta iš | nosūtīts no | sūtīts no | enviat des |
    enviat amb | get outlook for | get bluemail for | get typeapp for | get the outlook app |
    outlook for ios | outlook for android | download outlook | ios版outlook | outlook for |
    sent securely from | sent with proton mail | yahoo mail | from my | diperoleh dari | ipadから送信 |
    iphoneから送信 | sendt frå | sent frå | sent úr | स भेजा
",
    )
});

/// Such phrases at the end of a line: "von meinem iPhone gesendet", "iPhoneから送信".
pub(super) static SENT_FROM_END: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    gesendet | geschickt | versendet | gönderildi | gönderdim | から送信 | からの送信 | より送信 | から送信しました |
    を使用して送信 | を使って送信 | 傳送 | 傳送的 | 发送 | 發送 | 发出 | 에서 보냄 | 에서 보냈습니다 | 에서 전송 | 에서 발송 | 에서 보낸 메일 |
    에서 전송됨 | küldve | küldtem | से भेजा गया | जरी भेजा गया | द्वारा भेजा गया | verzonden |
    verstuurd | from mobile | from phone | from my phone | from iphone | from my iphone |
    from my mobile | 用で送信 | を入手 | kullanılarak gönderildi | edinin | indirin | letöltése |
    beszerzése | を入手してください | 다운로드 | gönderilmiştir | lähetetty | gesendet. | gesendet!
",
    )
});

/// Devices and programs named in such a line.
pub(super) static DEVICES: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    iphon | ipad | ipod | ios | apple watch | macbook | imac | android | blackberry | galaxy |
    samsung | huawei | honor | xiaomi | redmi | poco | oneplus | oppo | vivo | realme | nokia |
    lumia | motorola | moto g | pixel | nexus | xperia | sony | htc | lg | alcatel | sailfish |
    fairphone | outlook | windows | phone | mobile | mobil | mobiltelefon | mobilgerät |
    smartphone | smart phone | handy | handheld | tablet | tablette | cell | cellular | device |
    appareil | dispositivo | dispositif | telefon | telefono | teléfono | télephone | téléphone |
    telefone | telemóvel | celular | movil | móvil | cellulare | puhelin | puhelimesta | telefoon |
    komórki | telefonu | телефон | смартфон | мобильн | мобільн | устройств | пристро | айфон |
    планшет | κινητό | συσκευή | הנייד | טלפון | هاتف | جوال | الجوال | 携帯 | スマートフォン | スマホ |
    タブレット | 手机 | 手機 | 휴대 | 스마트폰 | 핸드폰 | 갤럭시 | 아이폰 | điện thoại | โทรศัพท์ | มือถือ | ponsel |
    airmail | mailbox | seznam | spike | shortwave | yahoo | gmail | inbox | proton | protonmail |
    k-9 | bluemail | aquamail |
    aqua mail | spark | newton | edison | nine | superhuman | thunderbird | mailspring | mail.ru |
    почты | почта | пошти | yandex | яндекс | gmx | web.de | t-online | la poste |
    laposte | sfr | zoho | fastmail | tutanota | tuta | mailbird | em client | foxmail | qq邮箱 |
    网易 | 網易 | 126邮箱 | 163邮箱 | naver | 네이버 | daum | hey | aol | libero mail | courriel |
    hotmail | mail app | app mail | app for | bluestacks | mail for | mail für |
    mail pour | mail per | mail para | correo para | e-mail voor | mail voor | posta per |
    courrier pour | poczta | pošta | posta | mail til | e-post | e-mail til | ti-85 | pc | laptop |
    tv | hub
",
    )
});

/// Words of an excuse after "sent from my phone".
pub(super) static EXCUSES: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    excuse | typo | brevity | brief | pardon | apolog | forgive | mistake | short | autocorrect |
    auto-correct | spelling | sorry | errors | tippfehler | entschuldig | kürze | désolé | fautes |
    best free email app | get the app | erreurs | errores | disculpe | brevedad | desculpe |
    erros | scusa | errori | brevità |
    typefout | verkort | kort | stavfel | опечатк | кратк
",
    )
});

/// Closings above a name. Closing and name stay with the reply.
pub(super) static CLOSINGS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
    regards | best regards | kind regards | warm regards | best | best wishes | all the best |
    cheers | thanks | thank you | many thanks | thanks a lot | thx | sincerely | yours sincerely |
    sincerely yours | yours truly | yours faithfully | respectfully | cordially | take care |
    with best regards | with kind regards | br | rgds | mit freundlichen grüßen |
    mit freundlichen gruessen | freundliche grüße | viele grüße | beste grüße | liebe grüße |
    schöne grüße | herzliche grüße | mit besten grüßen | gruß | grüße | lg | mfg | vg | danke |
    vielen dank | besten dank | freundliche grüsse | beste grüsse | cordialement |
    bien cordialement | bien à vous | sincères salutations | salutations | merci | cdlt |
    amicalement | bonne journée | saludos | un saludo | atentamente | saludos cordiales | gracias |
    cordialmente | muchas gracias | un cordial saludo | atenciosamente | att | abraços | abraço |
    obrigado | obrigada | cumprimentos | melhores cumprimentos | com os melhores cumprimentos |
    cordiali saluti | distinti saluti | saluti | grazie | un saluto | met vriendelijke groet |
    met vriendelijke groeten | groeten | groet | mvg | vriendelijke groeten | bedankt |
    med vänlig hälsning | med vänliga hälsningar | vänliga hälsningar | hälsningar | mvh | tack |
    med venlig hilsen | venlig hilsen | de bedste hilsner | hilsen | tak | med vennlig hilsen |
    vennlig hilsen | takk | terveisin | ystävällisin terveisin | parhain terveisin | kiitos | t. |
    pozdrawiam | z poważaniem | serdecznie pozdrawiam | dziękuję | s pozdravem |
    s přátelským pozdravem | děkuji | s pozdravom | ďakujem | üdvözlettel | köszönettel | üdv |
    tisztelettel | cu stimă | cu respect | mulțumesc | с уважением | с наилучшими пожеланиями |
    спасибо | всего доброго | з повагою | дякую | з найкращими побажаннями | saygılarımla |
    iyi çalışmalar | teşekkürler | με εκτίμηση | ευχαριστώ | χαιρετισμούς | בברכה | תודה |
    מע التحية | مع تحياتي | مع أطيب التحيات | شكرا | تحياتي | よろしくお願いします | よろしくお願いいたします | 以上 | 敬具 |
    此致 | 祝好 | 谢谢 | 謝謝 | 顺祝商祺 | 감사합니다 | 감사드립니다 | trân trọng | cảm ơn | ขอแสดงความนับถือ |
    ขอบคุณครับ | ขอบคุณค่ะ | salam | hormat kami | terima kasih | lijep pozdrav | lep pozdrav |
    srdačan pozdrav | pagarbiai | ar cieņu | lugupidamisega | поздрави | с поздрав
",
    )
});

/// Phrases that occur only in legal notices below a signature.
pub(super) static LEGAL: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    confidential | privileged | intended recipient | intended solely | intended only |
    disclaimer | legal notice | please notify the sender | notify us immediately |
    received this e-mail in error | received this email in error |
    received this message in error | received this in error | consider the environment |
    registered office | registered in england | company number | company registration |
    vertraulich | bestimmungsgemäße | nicht der richtige adressat | rechtlich geschützt |
    handelsregister | geschäftsführer | amtsgericht | ust-id | confidentiel | confidencial |
    confidenciais |
    riservat | d.lgs | vertrouwelijk | fortrolig | konfidentiell | luottamuksell | poufn |
    důvěrn | dôvern | bizalmas | confidențial | конфиденциальн | конфіденційн | gizli |
    εμπιστευτικ | חסוי | سرية | 機密 | 保密 | 机密 | 기밀 | bảo mật | ความลับ | rahasia
",
    )
});

/// Phrases of legal notices that people use too.
pub(super) static LEGAL_TOO: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    unauthorized | unauthorised | virus | before printing | delete this e-mail |
    delete this email | delete it | any attachments | disclosure | copying | irrtümlich |
    unbefugt | vernichten | destinataire | par erreur | pièces jointes | non autorisée |
    toute utilisation | destinatario | por error | no autorizad | por erro | por engano |
    destinatário | não autorizad |
    per errore | informazioni contenute | esclusivamente | geadresseerde | ten onrechte |
    bestemd voor | av misstag | ved en feil | ved en fejl | omyłkowo | adresata | adresatem |
    omylem | tévedésből | címzett | din greșeală | по ошибке | помилково | yanlışlıkla |
    vahingossa | erehdyksessä | liitteet | vastaanottajalle | omylom | prílohy | přílohy | adresáta |
    címzettje | mellékletei | anexele | destinatarului | додатк | вложени | адресат | ekleri | alıcı |
    παραλήπτη | συνημμένα | feilaktig | fejlagtig | vedlegg | vedhæft | mottaker | modtageren |
    mottagaren | bilagor | bijlagen | allegati | anexos | załączniki | đính kèm | nhầm | ผิดพลาด |
    lampiran | הנמען | המיועד | المرفقات | المستلم | 添付 | 附件 | 첨부 |
    εκ παραδρομής | בטעות | بالخطأ | 誤って | 誤送信 | 误收 | 誤收 | 잘못 수신
",
    )
});

/// Headings of legal notices.
pub(super) static LEGAL_HEADINGS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
    confidentiality notice | disclaimer | legal notice | legal disclaimer | confidentiality | privacy notice | aviso legal |
    avviso di riservatezza | aviso de confidencialidad | aviso de confidencialidade | haftungsausschluss | avertissement
",
    )
});

/// "Sent from my …", in phrases that are certain without a device.
pub(super) static SENT_FROM_MINE: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
    sent from | envoyé de | von meinem | gesendet von meinem | enviado desde mi | inviato dal mio | verzonden vanaf mijn |
    sendt fra min | skickat från min | enviado do meu
",
    )
});

/// Footers of mailing lists, scanners and trackers (anywhere in the line).
pub(super) static FOOTERS: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    you received this message because you are subscribed | you received this email because |
    you are receiving this because | you're receiving this email because |
    to unsubscribe from this group | to unsubscribe from this list | to unsubscribe, |
    to unsubscribe send | to unsubscribe from these emails | unsubscribe: | list-unsubscribe |
    mailing list -- | mailing list | to view this discussion on the web visit |
    to view this discussion visit | for more options, visit | to post to this group |
    virus-free. www. | virus-free.www | virenfrei. www. | virenfrei.www | sans virus. www. |
    sans virus.www | libre de virus. www. | libre de virus.www | livre de vírus. www. |
    livre de vírus.www | privo di virus.www | virusvrij. www. | virusvrij.www |
    this email has been checked for viruses |
    this e-mail has been checked for viruses | this email has been scanned |
    this message has been scanned for viruses | diese e-mail wurde von avast |
    l'absence de virus dans ce courrier | cet e-mail a été vérifié par le logiciel antivirus |
    questa e-mail è stata controllata per individuare virus | el software de antivirus avast |
    scanned by mailscanner | this message has been analyzed | believed to be clean |
    reply to this email directly or view it on | reply to this email directly, view it on |
    view it on github | please consider the environment before printing | think before you print |
    before you print this e-mail | pensez à l'environnement avant | pensez à l’environnement avant |
    ob diese mail wirklich ausgedruckt | ob diese e-mail wirklich ausgedruckt |
    denken sie an die umwelt, bevor sie | piense en el medio ambiente antes |
    pense no meio ambiente antes | pense en el medio ambiente antes | denk aan het milieu voordat |
    do you yahoo!? | mailman/listinfo | join the discussion at |
    lists.sourceforge.net/ | -~----~----~ | manage your subscription | reacted via gmail | 签名由 | 签名由网易 |
    reagierte über gmail | a réagi via gmail | reaccionó mediante gmail | reagiu via gmail |
    visit this group at
",
    )
});

/// Banners that a mail system puts at the top of external mail.
pub(super) static BANNERS: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    this email originated from outside | this message originated from outside |
    originated outside of | originated from outside of | this e-mail originated from outside |
    you don't often get email from | external email: | [external email] | caution: external |
    external sender | sie erhalten nicht oft eine e-mail | sie erhalten nicht häufig e-mails |
    vous ne recevez pas souvent | no suele recibir correo | non si ricevono spesso messaggi
",
    )
});

/// Our own line above a notification, and the wordings of other systems.
pub(super) static MARKERS: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    reply above this line | reply above the line | type your reply above this line |
    write above this line | please reply above | do not write below this line |
    antworten sie oberhalb dieser zeile | bitte antworten sie über dieser linie |
    répondez au-dessus de cette ligne | répondre au-dessus de cette ligne |
    responda por encima de esta línea | responda arriba de esta línea |
    responda acima desta linha | rispondi sopra questa riga | antwoord boven deze regel |
    svara ovanför denna rad | skriv ditt svar ovanför | отвечайте выше этой строки |
    odpowiedz powyżej tej linii | この行より上に | 请在此行上方回复
",
    )
});

/// Words with which a person announces answers between the quotes.
pub(super) static SEE_BELOW: LazyLock<Vec<&str>> = LazyLock::new(|| {
    words(
        "
    inline | in-line | in line | below | interspersed | between the lines | unten | im text |
    inline im | ci-dessous | dans le texte | en ligne | abajo | entre líneas | abaixo | sotto |
    in linea | hieronder | onder | nedan | nedenfor | alla | poniżej | níže | nižšie | alább |
    mai jos | ниже | нижче | aşağıda | παρακάτω | להלן | למטה | أدناه | 以下 | 下記 | 如下 | 아래 |
    bên dưới | ด้านล่าง
",
    )
});

/// Colours that people name when they announce answers in them.
pub(super) static COLOURS: LazyLock<PhraseList> = LazyLock::new(|| {
    phrases(
        "
    in red | in blue | in green | in purple | in orange | in colour | in color | in bold | red text | blue text |
    in rot | rot | in roter | in blau | blau | in grün | farbig | farblich | fett | en rouge | en bleu | en vert |
    en violet | en couleur | en gras | en rojo | en azul | en verde | en color | en negrita | em vermelho |
    em azul | em verde | a vermelho | a azul | em negrito | in rosso | in blu | in verde | in grassetto |
    in het rood | in rood | in het blauw | in blauw | in het groen | rode tekst | i rött | rött | i blått | blått |
    med rød | i rødt | rødt | med blå | med rødt | punaisella | sinisellä | vihreällä | na czerwono |
    na niebiesko | na zielono | kolorem | červeně | modře | zeleně | červenou | modrou | červenou farbou |
    pirossal | kékkel | zölddel | cu roșu | cu rosu | cu albastru | красным | синим | зеленым | зелёным | цветом |
    червоним | синім | зеленим | кольором | с червено | в червено | със синьо | crvenom | crveno | plavom |
    rdeče | modro | punasega | sinisega | raudona | mėlyna | sarkanā | kırmızı | mavi | yeşil | με κόκκινο |
    κόκκινο | με μπλε | באדום | בכחול | בירוק | بالأحمر | باللون | بالأزرق | 赤字 | 赤で | 赤色 | 青字 | 青で | 色文字 | 红色 | 紅色 |
    红字 | 紅字 | 蓝色 | 藍色 | 蓝字 | 绿色 | 標紅 | 标红 | 빨간 | 파란 | 적색 | 청색 | màu đỏ | màu xanh | สีแดง | สีน้ำเงิน | สีฟ้า | berwarna |
    warna merah | warna biru | merah | लाल
",
    )
});
