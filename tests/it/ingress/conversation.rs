use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use postern::mail::address::Domain;
use postern::mail::envelope::{Door, RecipientTarget};
use postern::mail::token::{Format, KeyRing, ThreadKey, digest};
use postern::store::Fact;

use super::client::Client;
use super::{DOMAIN, HOST, Harness, THREAD, reply_address};

const MAIL: &str = "Subject: hello\r\n\r\nHello.\r\n..dot\r\n.\r\n";
const STORED: &[u8] = b"Subject: hello\r\n\r\nHello.\r\n.dot\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_to_a_token_is_stored_with_its_envelope() {
    let harness = Harness::new().await;
    let mut client = harness.connect().await;
    let greeting = client.hears("220 ").await;
    assert!(greeting.contains(HOST));
    let hello = client.says("EHLO client.example", "250-").await;
    assert!(hello.contains("STARTTLS"));
    let to = reply_address();
    let answer = client.posts(&to.to_string(), MAIL).await;
    let deliveries = harness.deliveries();
    assert_eq!(deliveries.len(), 1);
    let id = deliveries[0].id.mail.0;
    assert!(answer.starts_with("250 2.") && answer.contains(&id.to_string()));
    client.says("QUIT", "221 ").await;
    client.hears_the_end().await;

    let envelope = &deliveries[0].envelope;
    assert_eq!(
        envelope.sender.as_ref().unwrap().to_string(),
        "ann@example.org"
    );
    assert_eq!(envelope.peer.door, Door::Smtp);
    assert_eq!(envelope.peer.ip, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(envelope.peer.helo, "client.example");
    assert_eq!(envelope.peer.tls, None);
    let recipient = &deliveries[0].recipient;
    assert_eq!(
        (&recipient.address, recipient.route.as_str()),
        (&to, "default")
    );
    match &recipient.target {
        RecipientTarget::Thread(claims) => assert_eq!(claims.thread, ThreadKey::of(THREAD)),
        other => panic!("{other:?}"),
    }
    assert_eq!(harness.mail(0), STORED);
    assert_eq!(harness.metric("mails_total{protocol=\"smtp\"}"), 1);
    assert_eq!(
        harness.metric("mail_bytes_total{protocol=\"smtp\"}"),
        i64::try_from(STORED.len()).unwrap()
    );
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recipient_gets_its_response() {
    let harness = Harness::new().await;
    let mut client = harness.hello().await;
    let token = reply_address();
    let forged = {
        let (start, last) = token.local().split_at(token.local().len() - 2);
        let other = if last.starts_with('a') { "b" } else { "a" };
        format!("{start}{other}{}@{DOMAIN}", &last[1..])
    };
    client.says("MAIL FROM:<ann@example.org>", "250 ").await;
    for (to, start) in [
        (token.to_string(), "250 2.1.5 "),
        (token.to_string().to_uppercase(), "250 2.1.5 "),
        (format!("FANS@{DOMAIN}"), "250 2.1.5 "),
        (format!("Postmaster@{DOMAIN}"), "250 2.1.5 "),
        (format!("postmaster@{HOST}"), "250 2.1.5 "),
        ("postmaster".to_owned(), "250 2.1.5 "),
        (forged, "550 5.1.1 "),
        (format!("reply+x@{DOMAIN}"), "550 5.1.1 "),
        (format!("nobody@{DOMAIN}"), "550 5.1.1 "),
        (format!("fans@{HOST}"), "550 5.7.1 "),
        ("ann@elsewhere.example".to_owned(), "550 5.7.1 "),
        (format!("ann%elsewhere.example@{DOMAIN}"), "550 5.7.1 "),
        (format!("elsewhere.example!ann@{DOMAIN}"), "550 5.7.1 "),
        (format!("\"ann@elsewhere.example\"@{DOMAIN}"), "550 5.7.1 "),
    ] {
        client.says(&format!("RCPT TO:<{to}>"), start).await;
    }
    client.says("DATA", "354 ").await;
    client.sends(MAIL).await;
    client.hears("250 2.").await;
    // The token in two cases is one delivery, and so are the three postmasters.
    let targets: Vec<_> = harness
        .deliveries()
        .into_iter()
        .map(|delivery| match delivery.recipient.target {
            RecipientTarget::Mailbox(name) => name,
            RecipientTarget::Thread(_) => "thread".to_owned(),
            RecipientTarget::Return(job) => job.to_string(),
        })
        .collect();
    assert_eq!(targets, ["thread", "fans", "general"]);
    assert_eq!(
        harness.metric("refusals_total{refusal=\"relay_denied\"}"),
        5
    );
    assert_eq!(
        harness.metric("refusals_total{refusal=\"token_forged\"}"),
        2
    );
    assert_eq!(
        harness.metric("refusals_total{refusal=\"recipient_unknown\"}"),
        1
    );
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_has_its_own_response() {
    let harness = Harness::new().await;
    let domain = Domain::parse(DOMAIN).unwrap();
    let then = postern::clock::now().minus(Duration::from_secs(366 * 86_400));
    let old = super::keys()
        .reply_address(Format::V2, &domain, THREAD, None, then)
        .unwrap();
    let mut client = harness.hello().await;
    client.says("MAIL FROM:<ann@example.org>", "250 ").await;
    let answer = client.says(&format!("RCPT TO:<{old}>"), "550 5.7.1 ").await;
    assert!(answer.contains("expired"));
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_and_lower_cased_tokens_need_the_store() {
    let harness = Harness::new().await;
    let at = postern::clock::now();
    let domain = Domain::parse(DOMAIN).unwrap();
    let revoked = reply_address();
    let claims = super::keys().verify(&revoked, at).unwrap();
    let v1 = |thread| {
        let token = super::keys().mint(Format::V1, &domain, thread, None, at);
        (
            digest(&token),
            format!("reply+{}@{DOMAIN}", token.to_lowercase()),
        )
    };
    let (known, known_address) = v1("thread-7");
    let (_, unknown_address) = v1("thread-8");
    let (void, void_address) = v1("thread-9");
    let (old, old_address) = v1("thread-10");
    let minted = |token, thread_id: &str| Fact::TokenIssued {
        token,
        thread_id: thread_id.to_owned(),
        at,
    };
    let facts = vec![
        Fact::Revoked {
            token: claims.digest,
            at,
        },
        minted(known, "thread-7"),
        minted(void, "thread-9"),
        Fact::Revoked { token: void, at },
        Fact::TokenIssued {
            token: old,
            thread_id: "thread-10".to_owned(),
            at: at.minus(KeyRing::LIFETIME + Duration::from_secs(2)),
        },
    ];
    harness.store.record(facts).await.unwrap();
    let mut client = harness.hello().await;
    client.says("MAIL FROM:<ann@example.org>", "250 ").await;
    client
        .says(&format!("RCPT TO:<{revoked}>"), "550 5.7.1 ")
        .await;
    client
        .says(&format!("RCPT TO:<{void_address}>"), "550 5.7.1 ")
        .await;
    // The original token has expired, and so has its lower-cased form.
    client
        .says(&format!("RCPT TO:<{old_address}>"), "550 5.7.1 ")
        .await;
    client
        .says(&format!("RCPT TO:<{unknown_address}>"), "550 5.1.1 ")
        .await;
    client
        .says(&format!("RCPT TO:<{known_address}>"), "250 ")
        .await;
    client.says("DATA", "354 ").await;
    client.sends(MAIL).await;
    client.hears("250 ").await;
    match &harness.deliveries()[0].recipient.target {
        RecipientTarget::Thread(claims) => {
            assert_eq!(claims.thread_id.as_deref(), Some("thread-7"))
        }
        other => panic!("{other:?}"),
    }
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_store_accepts_no_mail() {
    let harness = Harness::new().await;
    let mut client = harness.hello().await;
    harness.store.clone().close().await;
    let rcpt = format!("RCPT TO:<fans@{DOMAIN}>\r\n");
    let mut heard = String::new();
    for bytes in ["MAIL FROM:<ann@example.org>\r\n", &rcpt, "DATA\r\n", MAIL] {
        client.sends(bytes).await;
        heard = client.reply().await;
        if heard.starts_with('4') {
            break;
        }
    }
    assert!(heard.starts_with("451 4.3.0 "), "{heard}");
    assert_eq!(harness.store.ledger().received, 0);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lmtp_answers_for_each_recipient() {
    let harness = Harness::new().await;
    assert_eq!(
        std::fs::metadata(harness.unix())
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o660
    );
    for (at, mut client) in [
        Client::tcp(harness.tcp(1)).await,
        Client::unix(&harness.unix()).await,
    ]
    .into_iter()
    .enumerate()
    {
        client.hears("220 ").await;
        client.says("EHLO client.example", "500 ").await;
        let hello = client.says("LHLO client.example", "250-").await;
        assert_eq!(hello.contains("STARTTLS"), at == 0);
        client.says("MAIL FROM:<ann@example.org>", "250 ").await;
        for to in ["general", "fans", "fans"] {
            client
                .says(&format!("RCPT TO:<{to}@{DOMAIN}>"), "250 ")
                .await;
        }
        client
            .says(&format!("RCPT TO:<nobody@{DOMAIN}>"), "550 ")
            .await;
        client.says("DATA", "354 ").await;
        client.sends(MAIL).await;
        for _ in 0..3 {
            client.hears("250 2.").await;
        }
        client.says("QUIT", "221 ").await;
        client.hears_the_end().await;
        assert_eq!(harness.deliveries().len(), 2 * (at + 1));
    }
    let last = harness.deliveries().pop().unwrap();
    assert_eq!(
        (last.envelope.peer.door, last.envelope.peer.ip),
        (Door::Lmtp, None)
    );
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialogue_is_the_same_one_byte_at_a_time() {
    let harness = Harness::new().await;
    let mut client = harness.connect().await;
    client.hears("220 ").await;
    let to = reply_address();
    for (bytes, start) in [
        ("EHLO client.example\r\n".to_owned(), "250"),
        ("MAIL FROM:<ann@example.org>\r\n".to_owned(), "250 "),
        (format!("RCPT TO:<{to}>\r\n"), "250 "),
        ("DATA\r\n".to_owned(), "354 "),
        (MAIL.to_owned(), "250 "),
        ("QUIT\r\n".to_owned(), "221 "),
    ] {
        client.drips(bytes).await;
        client.hears(start).await;
    }
    client.hears_the_end().await;
    assert_eq!(harness.mail(0), STORED);
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_mails_are_answered_in_order() {
    let harness = Harness::new().await;
    let mut client = harness.connect().await;
    client.hears("220 ").await;
    let open = format!("MAIL FROM:<a@example.org>\r\nRCPT TO:<fans@{DOMAIN}>\r\nDATA\r\n");
    client.sends(format!("EHLO x\r\n{open}")).await;
    client.hears("250").await;
    for round in 0..20 {
        for start in ["250 2.1.0", "250 2.1.5", "354 "] {
            client.hears(start).await;
        }
        let next = if round < 19 {
            open.as_str()
        } else {
            "QUIT\r\n"
        };
        client
            .sends(format!("Subject: {round}\r\n\r\n.\r\n{next}"))
            .await;
        client.hears("250 2.0.0").await;
    }
    client.hears("221 ").await;
    client.hears_the_end().await;
    assert_eq!(harness.deliveries().len(), 20);
    for round in 0..20 {
        assert_eq!(
            harness.mail(round),
            format!("Subject: {round}\r\n\r\n").into_bytes()
        );
    }
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_line_feeds_are_repaired_only_for_configured_networks() {
    let here = || vec!["127.0.0.0/8".parse().unwrap()];
    let harness = Harness::with(|settings| settings.lenient = here()).await;
    let mut client = harness.connect().await;
    client.hears("220 ").await;
    client.sends("EHLO x\n").await;
    client.hears("250").await;
    let answer = client
        .posts(&format!("fans@{DOMAIN}"), "Subject: x\n\nx\n.\ny\r\n.\r\n")
        .await;
    assert!(answer.starts_with("250 "), "{answer}");
    assert_eq!(harness.mail(0), b"Subject: x\r\n\r\nx\r\n\r\ny\r\n");
    harness.end().await;

    let harness = Harness::with(|settings| {
        settings.lenient = here();
        settings.proxies = here();
    })
    .await;
    let mut client = harness.connect().await;
    client
        .says("PROXY TCP4 127.0.0.1 127.0.0.1 1 25", "220 ")
        .await;
    client.says("EHLO x", "250").await;
    let answer = client
        .posts(&format!("fans@{DOMAIN}"), "Subject: x\n\r\n.\r\n")
        .await;
    assert!(answer.starts_with("521 "), "{answer}");
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_mail_arrives_unchanged() {
    let harness = Harness::new().await;
    let mut client = harness.hello().await;
    let mut mail = "Subject: big\r\n\r\n".to_owned();
    for line in 0..100_000 {
        mail.push_str(&format!("line {line} of many\r\n"));
    }
    client
        .posts(&format!("fans@{DOMAIN}"), &format!("{mail}.\r\n"))
        .await;
    assert_eq!(harness.mail(0), mail.into_bytes());
    harness.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_before_and_after_data() {
    let harness = Harness::with_store(|store| store.waiting_max = 1, |_| {}).await;
    let mut first = harness.hello().await;
    let mut second = harness.hello().await;
    second.says("MAIL FROM:<ann@example.org>", "250 ").await;
    second
        .says(&format!("RCPT TO:<fans@{DOMAIN}>"), "250 ")
        .await;
    second.says("DATA", "354 ").await;
    let answer = first.posts(&format!("fans@{DOMAIN}"), MAIL).await;
    assert!(answer.starts_with("250 "));
    first
        .says("MAIL FROM:<ann@example.org>", "452 4.3.1 ")
        .await;
    second.sends(MAIL).await;
    second.hears("452 4.3.1 ").await;
    assert_eq!(harness.deliveries().len(), 1);
    assert_eq!(harness.metric("refusals_total{refusal=\"store_full\"}"), 2);
    harness.end().await;
}

#[tokio::test]
async fn a_token_is_deferred_while_its_revocation_is_unknown() {
    let harness = Harness::new().await;
    let rcpt = format!("RCPT TO:<{}>", reply_address());
    let mut client = harness.hello().await;
    client.says("MAIL FROM:<ann@sender.example>", "250 ").await;
    client.says(&rcpt, "250 ").await;
    harness.store.clone().close().await;
    client.says(&rcpt, "451 4.3.0 ").await;
    drop(client);
    harness.end().await;
}
