use serde_json::json;

use super::*;

fn event(change: impl FnOnce(&mut Value)) -> Result<ParsedCall, HttpError> {
    let mut body = json!({
        "threadId": "t1", "messageId": "m1", "messageText": "Hello",
        "threadMetadata": { "sourceType": "email", "emailFrom": "Ann <ann@example.com>" },
        "senderProfile": { "displayName": "Sam" },
    });
    change(&mut body);
    read(DraftCall::Event, body.to_string().as_bytes(), None)
}

fn direct(change: impl FnOnce(&mut Value)) -> Result<ParsedCall, HttpError> {
    let mut body = json!({
        "threadId": "t1", "body": "Hello", "recipientEmail": "ann@example.com",
        "subject": "Hi", "senderName": "Sam",
    });
    change(&mut body);
    read(DraftCall::Direct, body.to_string().as_bytes(), None)
}

fn draft(asked: Result<ParsedCall, HttpError>) -> Draft {
    match asked.unwrap() {
        ParsedCall::Mail(draft) => *draft,
        ParsedCall::Ignored(why) => panic!("{why}"),
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
        // A word that belongs to the message.
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
fn other_events_are_ignored_before_validation() {
    let ignored = |asked: Result<ParsedCall, HttpError>| match asked.unwrap() {
        ParsedCall::Ignored(why) => why,
        ParsedCall::Mail(draft) => panic!("{draft:?}"),
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

/// A text longer than a limit.
fn long(bytes: usize) -> Value {
    json!("x".repeat(bytes + 1))
}

/// Values that are not valid lines of at most this many bytes.
fn no_line(bytes: usize) -> Vec<Value> {
    let evil = [
        "a\r\nBcc: eve@example.com",
        "a\nb",
        "a\0b",
        "a\u{2028}b",
        "a\u{85}b",
    ];
    let mut wrong = vec![json!(7), json!([]), json!({}), long(bytes)];
    wrong.extend(evil.map(Value::from));
    wrong
}

/// Puts a value into both calls and checks which field is reported.
fn faulty(place: &str, value: &Value, field: &str) {
    let put = |body: &mut Value| body[place] = value.clone();
    for asked in [event(put), direct(put)] {
        let fault = asked.unwrap_err();
        let named = (fault.status.as_u16(), fault.field.as_deref());
        assert_eq!(named, (422, Some(field)), "{value}");
    }
}

#[test]
fn each_wrong_field_is_named() {
    for (name, wrong) in [
        ("threadId", no_line(ID_BYTES_MAX)),
        ("messageId", no_line(ID_BYTES_MAX)),
        ("locale", no_line(LOCALE_BYTES_MAX)),
        ("route", no_line(NAME_BYTES_MAX)),
        ("kind", no_line(NAME_BYTES_MAX)),
        ("locale", vec![json!("d e")]),
        ("automatic", vec![json!("yes"), json!(1)]),
        ("kind", vec![json!("robot")]),
        (
            "cc",
            vec![json!("a@b.example"), json!(vec![""; CC_MAX + 1])],
        ),
        (
            "attachments",
            vec![json!({}), json!(vec![json!({}); FILES_MAX + 1])],
        ),
        ("headers", vec![json!([]), json!({ "X-A: b\r\nC": "d" })]),
        (
            "headers",
            vec![json!({ "": "d" }), json!({ "\u{c4}": "d" })],
        ),
    ] {
        for value in &wrong {
            faulty(name, value, name);
        }
    }
}

#[test]
fn each_wrong_entry_of_a_list_is_named() {
    faulty("cc", &json!([7]), "cc[0]");
    faulty("cc", &json!(["a@b.example", "b\r\n@b.example"]), "cc[1]");
    for value in no_line(LINE_BYTES_MAX) {
        faulty("headers", &json!({ "X-A": value }), "headers.X-A");
    }
    faulty("attachments", &json!([7]), "attachments[0]");
    for (name, value) in [
        ("url", json!("http://h.example")),
        ("content", json!("!!")),
        ("content", json!(null)),
        ("filename", json!("")),
        ("filename", json!("a\r\nb")),
        ("contentType", json!("a\nb")),
    ] {
        let mut file = json!({ "filename": "a", "contentType": "a/b", "content": "eA==" });
        file[name] = value;
        faulty(
            "attachments",
            &json!([file]),
            &format!("attachments[0].{name}"),
        );
    }
}

#[test]
fn each_calls_own_fields_are_checked() {
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
        let fault = read(DraftCall::Direct, body.as_bytes(), None).unwrap_err();
        assert_eq!(fault.status, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn copies_are_unique_and_files_are_complete() {
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
    let keyed = |key| draft(read(DraftCall::Direct, body.as_bytes(), Some(key))).key;
    let given = DraftKey::Given("g".to_owned());
    assert_eq!(keyed(given.clone()), given);
    let signed = DraftKey::Signed("s".to_owned());
    assert_eq!(keyed(signed), DraftKey::Message("m".to_owned()));
}
