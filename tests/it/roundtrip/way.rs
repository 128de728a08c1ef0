//! A conversation: a person writes, the product answers through a real Postfix, and the person answers that
//! mail as a mail program does.

use std::path::Path;

use data_encoding::BASE64;
use serde_json::json;

use super::{SINK, arrived, event, field, letter, read, with_postfix};
use crate::auth::{keys, python};
use crate::postern::DOMAIN;
use crate::sink::Sink;

const ANN: &str = "ann@sink.test";

fn dkim(folder: &Path) -> (String, [(&'static str, String); 2]) {
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed_record = BASE64.encode(ed.public_key_raw());
    let files = [
        ("rsa", keys().rsa.private.clone()),
        ("ed", ed.serialize_pem()),
    ];
    let tables = files.map(|(name, pem)| {
        let file = folder.join(name);
        std::fs::write(&file, pem).unwrap();
        format!(
            "[[outbound.dkim]]\nselector = '{name}'\nkey_file = '{}'\n",
            file.display()
        )
    });
    let records = [
        ("rsa._domainkey.product.test", keys().rsa.record.clone()),
        (
            "ed._domainkey.product.test",
            format!("v=DKIM1; k=ed25519; p={ed_record}"),
        ),
    ];
    (tables.concat(), records)
}

#[track_caller]
fn both_signatures_hold(mail: &[u8], records: &[(&str, String); 2]) {
    let text = String::from_utf8_lossy(mail);
    let starts: Vec<_> = text
        .match_indices("DKIM-Signature:")
        .map(|(at, _)| at)
        .collect();
    assert_eq!(starts.len(), 2, "{text}");
    for at in starts {
        // dkimpy verifies the first signature.
        let mail = &mail[at..];
        let selector = if String::from_utf8_lossy(&mail[..300]).contains("s=rsa") {
            0
        } else {
            1
        };
        let (name, record) = &records[selector];
        let wish = json!({ "mail": BASE64.encode(mail), "verify": { *name: record } });
        assert_eq!(python(&wish)["dkim"], true, "{name}: {text}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one conversation")]
fn a_conversation_stays_in_one_thread_with_any_mail_program() {
    let sink = Sink::start();
    let keys = tempfile::TempDir::new().unwrap();
    let (tables, records) = dkim(keys.path());
    let (gateway, postfix, _folder) = with_postfix(&sink, &tables);
    let general = format!("general@{DOMAIN}");
    let start = letter(
        &format!("Ann Smith <{ANN}>"),
        &general,
        "a0@sink.test",
        "I wait for it.",
    );
    gateway.swaks(ANN, &general, &start);
    let (thread, message) = gateway.told(1);
    assert_eq!(message["body"], "I wait for it.");

    let mut chain = "<a0@sink.test>".to_owned();
    let mut last = chain.clone();
    let styles = ["plain", "gmail", "outlook", "german", "gmail", "plain"];
    for (n, style) in styles.iter().enumerate() {
        let said = format!(
            "It left our house on Monday at nine, that is part {n}.\n\nDo you want it left with a neighbour?"
        );
        let job = gateway.say(&event(&thread, &format!("m{n}"), &said));
        let heard = arrived(&sink, n + 1);
        gateway.becomes(&job, "sent");
        let path = heard.from.strip_prefix("bounce+");
        assert!(
            path.is_some_and(|path| path.ends_with(&format!("@{DOMAIN}"))),
            "{}",
            heard.from
        );
        assert_eq!(heard.to, [ANN]);
        both_signatures_hold(&heard.bytes, &records);
        // A different number alone would not distinguish a person's text from a robot's.
        let count = ["one", "two", "three", "four", "five", "six"][n];
        let words = format!("Yes please, number {count}.\n\nWith the green door.");
        let id = format!("<a{}@sink.test>", n + 1);
        let wish = json!({
            "style": style, "words": words, "from": format!("Ann Smith <{ANN}>"), "id": id,
        });
        let seen = read(&heard.bytes, wish);
        assert_eq!(
            field(&seen, "From"),
            "Sam via Product <support@product.test>"
        );
        assert_eq!(field(&seen, "Subject"), "Re: Where is my order?");
        assert_eq!(field(&seen, "In-Reply-To"), last);
        assert_eq!(field(&seen, "References"), chain);
        assert!(seen["text"].as_str().unwrap().contains("Monday at nine"));
        assert!(seen["html"].as_str().unwrap().contains("Monday at nine"));

        let answer = BASE64
            .decode(seen["answer"].as_str().unwrap().as_bytes())
            .unwrap();
        gateway.swaks(ANN, seen["to"].as_str().unwrap(), &answer);
        let (into, message) = gateway.told(n + 2);
        assert_eq!(into, thread, "{style}: {message}");
        assert_eq!(message["body"], words, "{style}");
        let ours = field(&seen, "Message-ID");
        chain = format!("{chain} {ours} {id}");
        last = id;

        let events = gateway.events();
        for name in ["email.outbound.queued", "email.outbound.sent"] {
            let of_job = events
                .iter()
                .filter(|(told, data)| told == name && data["jobId"] == job.as_str());
            let told: Vec<_> = of_job.collect();
            assert_eq!(told.len(), 1, "{name}: {events:?}");
            assert_eq!(told[0].1["messageId"], format!("m{n}"));
            assert_eq!(told[0].1["emailMessageId"], ours.trim_matches(['<', '>']));
        }
        let created = events.iter().filter(|(told, data)| {
            told == "email.message.created"
                && data["emailMessageId"] == last.trim_matches(['<', '>'])
        });
        assert_eq!(created.count(), 1, "{events:?}");
    }
    let log = postfix.log();
    assert!(log.contains("TLS connection established"), "{log}");
    let to_sink = format!("relay=127.0.0.1[127.0.0.1]:{}, ", sink.port);
    let sent = log.lines().filter(|line| line.contains(&to_sink));
    let sent = sent.filter(|line| line.ends_with("status=sent (250 OK)"));
    assert_eq!(sent.count(), styles.len(), "{log}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one conversation")]
fn files_copies_and_languages_go_both_ways() {
    let sink = Sink::start();
    let (gateway, _postfix, _folder) = with_postfix(&sink, "");
    let general = format!("general@{DOMAIN}");
    let start = letter(
        "=?utf-8?q?J=C3=BCrgen_Groß?= <jg@sink.test>",
        &general,
        "j0@sink.test",
        "Wo bleibt es?",
    );
    gateway.swaks("jg@sink.test", &general, &start);
    let (thread, _) = gateway.told(1);
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let mut said = event(&thread, "m1", "Es ist unterwegs – schöne Grüße! 你好 🎁");
    said["senderProfile"]["displayName"] = json!("Zoë Ångström");
    said["locale"] = json!("de");
    said["cc"] = json!(["bob@sink.test"]);
    said["attachments"] = json!([
        { "filename": "Lieferschein für Jürgen.bin", "contentType": "application/octet-stream", "content": BASE64.encode(&bytes) },
    ]);
    let (status, answer) = gateway.call("POST", "/gateway/events", None, &said);
    assert_eq!(status, 202, "{answer}");
    for job in answer["jobIds"].as_array().unwrap() {
        gateway.becomes(job.as_str().unwrap(), "sent");
    }
    let _ = arrived(&sink, 2);
    let mut reply_addresses = Vec::new();
    let words = ["Danke schön, 谢谢!", "Ich nehme es an, Grüße."];
    for (n, (to, style)) in [("jg@sink.test", "german"), ("bob@sink.test", "outlook")]
        .into_iter()
        .enumerate()
    {
        let heard = sink.taken();
        let heard = heard.iter().find(|mail| mail.to == [to]).unwrap();
        let file = vec![0_u8, 255, 13, 10, 10, 46, 13];
        let wish = json!({
            "style": style, "words": words[n], "from": format!("Größe <{to}>"),
            "id": format!("<r{n}@{SINK}>"), "files": [["Foto größer.jpg", BASE64.encode(&file)]],
        });
        let seen = read(&heard.bytes, wish);
        assert!(
            seen["text"]
                .as_str()
                .unwrap()
                .contains("schöne Grüße! 你好 🎁")
        );
        assert!(field(&seen, "From").contains("Zoë Ångström"), "{seen}");
        assert!(field(&seen, "Cc").contains("bob@sink.test"));
        assert_eq!(field(&seen, "Content-Language"), "de");
        assert_eq!(
            seen["files"],
            json!([[
                "Lieferschein für Jürgen.bin",
                "application/octet-stream",
                BASE64.encode(&bytes)
            ]])
        );
        let reply_to = seen["to"].as_str().unwrap().to_owned();
        assert!(!reply_addresses.contains(&reply_to));
        let answer = BASE64
            .decode(seen["answer"].as_str().unwrap().as_bytes())
            .unwrap();
        gateway.swaks(to, &reply_to, &answer);
        reply_addresses.push(reply_to);
        let (into, message) = gateway.told(n + 2);
        assert_eq!(
            (into.as_str(), &message["body"]),
            (thread.as_str(), &json!(words[n])),
            "{message}"
        );
        assert_eq!(
            message["attachments"].as_array().unwrap().len(),
            1,
            "{message}"
        );
        assert!(
            message["attachments"][0]
                .to_string()
                .contains("Foto größer.jpg"),
            "{message}"
        );
    }
}
