use serde_json::json;

use super::*;

fn event(change: impl FnOnce(&mut Value)) -> Result<Asked, Fault> {
    let mut body = json!({
        "threadId": "t1", "messageId": "m1", "messageText": "Hello",
        "threadMetadata": { "sourceType": "email", "emailFrom": "Ann <ann@example.com>" },
        "senderProfile": { "displayName": "Sam" },
    });
    change(&mut body);
    read(Call::Event, body.to_string().as_bytes(), None)
}

fn direct(change: impl FnOnce(&mut Value)) -> Result<Asked, Fault> {
    let mut body = json!({
        "threadId": "t1", "body": "Hello", "recipientEmail": "ann@example.com",
        "subject": "Hi", "senderName": "Sam",
    });
    change(&mut body);
    read(Call::Direct, body.to_string().as_bytes(), None)
}

fn draft(asked: Result<Asked, Fault>) -> Draft {
    match asked.unwrap() {
        Asked::Mail(draft) => *draft,
        Asked::Nothing(why) => panic!("{why}"),
    }
}

#[test]
fn an_event_stands_alone_or_in_an_envelope() {
    let alone = draft(event(|_| ()));
    assert_eq!(alone.recipient_name.as_deref(), Some("Ann"));
    assert_eq!(alone.sender_name.as_deref(), Some("Sam"));
    assert_eq!(alone.key, DraftKey::Message("m1".to_owned()));
    for (name, value) in [
        ("type", "message.created"),
        ("event", "message.created"),
        // A word of the message's own.
        ("type", "text"),
    ] {
        assert_eq!(draft(event(|body| body[name] = json!(value))), alone);
    }
    for name in ["type", "event"] {
        let put = |body: &mut Value| *body = json!({ name: MESSAGE_CREATED, "data": body });
        assert_eq!(draft(event(put)), alone);
    }
    for (field, change) in [
        ("type", json!({ "data": {} })),
        ("data", json!({ "type": MESSAGE_CREATED, "data": 1 })),
    ] {
        let fault = event(|body| *body = change).unwrap_err();
        assert_eq!(fault.field.as_deref(), Some(field));
    }
}

#[test]
fn what_is_not_ours_is_ignored_before_it_is_judged() {
    let ignored = |asked: Result<Asked, Fault>| match asked.unwrap() {
        Asked::Nothing(why) => why,
        Asked::Mail(draft) => panic!("{draft:?}"),
    };
    for data in [json!({}), json!({ "threadId": 7 })] {
        let why = ignored(event(|b| {
            *b = json!({ "type": "thread.closed", "data": data });
        }));
        assert_eq!(why, "event \"thread.closed\" is not message.created");
    }
    for metadata in [json!(null), json!({}), json!({ "sourceType": "web" })] {
        let why = ignored(event(|body| {
            *body = json!({ "threadMetadata": metadata, "threadId": 7 });
        }));
        assert_eq!(why, "sourceType is not email");
    }
}

#[test]
fn each_wrong_field_is_named() {
    let long = |bytes: usize| json!("x".repeat(bytes + 1));
    let file = |field: &str, value: Value| {
        let mut file = json!({ "filename": "a", "contentType": "a/b", "content": "eA==" });
        file[field] = value;
        json!([file])
    };
    let line = |name: &str, bytes: usize| {
        let mut wrong = vec![json!(7), json!([]), json!({}), long(bytes)];
        for text in [
            "a\r\nBcc: eve@example.com",
            "a\nb",
            "a\0b",
            "a\u{2028}b",
            "a\u{85}b",
        ] {
            wrong.push(json!(text));
        }
        (name.to_owned(), wrong)
    };
    let both = [
        line("threadId", ID_BYTES_MAX),
        line("messageId", ID_BYTES_MAX),
        line("locale", LOCALE_BYTES_MAX),
        line("route", NAME_BYTES_MAX),
        line("kind", NAME_BYTES_MAX),
        ("locale".to_owned(), vec![json!("d e")]),
        ("automatic".to_owned(), vec![json!("yes"), json!(1)]),
        ("kind".to_owned(), vec![json!("robot")]),
        (
            "cc".to_owned(),
            vec![json!("a@b.example"), json!(vec![""; CC_MAX + 1])],
        ),
        ("cc[0]".to_owned(), vec![]),
        (
            "attachments".to_owned(),
            vec![json!({}), json!(vec![json!({}); FILES_MAX + 1])],
        ),
        (
            "headers".to_owned(),
            vec![
                json!([]),
                json!({ "X-A: b\r\nC": "d" }),
                json!({ "": "d" }),
                json!({ "Ä": "d" }),
            ],
        ),
    ];
    for (name, wrong) in &both {
        for value in wrong {
            for asked in [
                event(|b| b[name] = value.clone()),
                direct(|b| b[name] = value.clone()),
            ] {
                let fault = asked.unwrap_err();
                assert_eq!(
                    (fault.status.as_u16(), fault.field.as_ref()),
                    (422, Some(name))
                );
            }
        }
    }
    for (field, value) in [
        ("cc[0]", json!({ "cc": [7] })),
        ("cc[1]", json!({ "cc": ["a@b.example", "b\r\n@b.example"] })),
        (
            "headers.X-A",
            json!({ "headers": { "X-A": "b\r\nBcc: eve@example.com" } }),
        ),
        ("headers.X-A", json!({ "headers": { "X-A": 7 } })),
        (
            "attachments[0].url",
            json!({ "attachments": file("url", json!("http://h.example")) }),
        ),
        (
            "attachments[0].content",
            json!({ "attachments": file("content", json!("!!")) }),
        ),
        (
            "attachments[0].content",
            json!({ "attachments": file("content", json!(null)) }),
        ),
        (
            "attachments[0].filename",
            json!({ "attachments": file("filename", json!("")) }),
        ),
        (
            "attachments[0].filename",
            json!({ "attachments": file("filename", json!("a\r\nb")) }),
        ),
        (
            "attachments[0].contentType",
            json!({ "attachments": file("contentType", json!("a\nb")) }),
        ),
        ("attachments[0]", json!({ "attachments": [7] })),
    ] {
        let merge = |body: &mut Value| {
            for (name, part) in value.as_object().unwrap() {
                body[name] = part.clone();
            }
        };
        for asked in [event(merge), direct(merge)] {
            assert_eq!(asked.unwrap_err().field.as_deref(), Some(field));
        }
    }
}

#[test]
fn each_calls_own_fields_are_checked() {
    let long = |bytes: usize| json!("x".repeat(bytes + 1));
    for (path, value) in [
        ("/messageText", json!(null)),
        ("/messageText", json!(" \n ")),
        ("/messageText", json!("a\0b")),
        ("/messageText", long(TEXT_BYTES_MAX)),
        ("/messageHtml", long(HTML_BYTES_MAX)),
        ("/messageId", json!(null)),
        ("/threadId", json!("")),
        ("/threadMetadata", json!([])),
        ("/threadMetadata/sourceType", json!(7)),
        ("/threadMetadata/emailFrom", json!("nobody")),
        ("/threadMetadata/emailFrom", json!("a@b.example\r\nX: y")),
        (
            "/threadMetadata/emailFrom",
            json!("a@b.example, c@d.example"),
        ),
        ("/threadMetadata/emailSubject", long(LINE_BYTES_MAX)),
        ("/threadMetadata/emailSubject", json!("a\nb")),
        ("/threadMetadata/lastEmailMessageId", json!("<a@b>\r\nX: y")),
        ("/senderProfile", json!("Sam")),
        ("/senderProfile/displayName", json!("a\r\nb")),
    ] {
        let fault = event(|body| {
            let (parent, name) = path.rsplit_once('/').unwrap();
            body.pointer_mut(parent).unwrap()[name] = value;
        });
        let field = path[1..].replace('/', ".");
        assert_eq!(fault.unwrap_err().field, Some(field));
    }
    for (name, value) in [
        ("body", json!(null)),
        ("body", long(TEXT_BYTES_MAX)),
        ("bodyHtml", json!(7)),
        ("recipientEmail", json!("Ann")),
        ("recipientEmail", json!("a@b.example\r\nBcc: c@d.example")),
        ("subject", json!("a\r\nb")),
        ("senderName", json!("a\u{2029}b")),
    ] {
        let fault = direct(|body| body[name] = value);
        assert_eq!(fault.unwrap_err().field.as_deref(), Some(name));
    }
    for body in ["", "7", "[]", "{", "{\"a\":", "\u{0}"] {
        let fault = read(Call::Direct, body.as_bytes(), None).unwrap_err();
        assert_eq!(fault.status, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn a_copy_goes_to_nobody_twice_and_files_are_whole() {
    let made = draft(direct(|body| {
        body["cc"] = json!([
            "Bob <bob@example.com>",
            "BOB@example.com",
            "ANN@example.com"
        ]);
        body["attachments"] = json!([{ "filename": "a.txt", "content": "eA" }]);
        body["headers"] = json!({ "X-Ticket": "42", "X-Empty": "" });
        body["kind"] = json!("automatic");
    }));
    assert_eq!(made.cc.len(), 1);
    assert_eq!(&made.files[0].bytes[..], b"x");
    assert_eq!(made.headers, [("X-Ticket".to_owned(), "42".to_owned())]);
    assert!(made.is_automatic);
    assert!(matches!(made.key, DraftKey::Random(_)));
    let many = vec![json!({ "filename": "a", "content": "A".repeat(4 << 20) }); 10];
    let fault = direct(|body| body["attachments"] = json!(many)).unwrap_err();
    assert_eq!(fault.field.as_deref(), Some("attachments"));
}

#[test]
fn the_key_that_was_given_comes_before_the_message_id_and_that_before_the_signature() {
    let body = json!({ "threadId": "t", "body": "b", "messageId": "m" }).to_string();
    let keyed = |key| draft(read(Call::Direct, body.as_bytes(), Some(key))).key;
    let given = DraftKey::Given("g".to_owned());
    assert_eq!(keyed(given.clone()), given);
    let signed = DraftKey::Signed("s".to_owned());
    assert_eq!(keyed(signed), DraftKey::Message("m".to_owned()));
}
