//! Mails that come in parts, in batches or in a form that is none: what is made of what is missing or
//! broken in them.

use serde_json::{Value, json};

use super::House;
use super::body::Body;
use super::kinds::KITS;
use super::kit::{Kit, adapters};

fn kit(name: &str) -> &'static Kit {
    KITS.iter().find(|kit| kit.name == name).unwrap()
}

#[tokio::test]
async fn the_authors_name_comes_with_the_address() {
    let postmark = |more: Value| {
        let mut body = json!({"OriginalRecipient": "general@in.example.com", "TextBody": "x"});
        let members = body.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        ("postmark", body)
    };
    let brevo = |from: Value, headers: Value| {
        let item = json!({"Uuid": ["b-1"], "From": from, "Headers": headers,
            "Recipients": ["general@in.example.com"], "RawTextBody": "x"});
        ("brevo", json!({"items": [item]}))
    };
    let full = json!({"Email": "zoe@example.com", "Name": "Zoë Bär"});
    let zoe = Some("Zoë Bär");
    for ((name, body), expected) in [
        (
            postmark(json!({"From": "zoe@example.com", "FromName": "Zoë Bär"})),
            zoe,
        ),
        (
            postmark(json!({"From": "zoe@example.com", "FromFull": full})),
            zoe,
        ),
        (postmark(json!({"FromFull": full})), zoe),
        (
            postmark(json!({"From": "Zoë Bär <zoe@example.com>", "FromName": "Other"})),
            zoe,
        ),
        (
            postmark(json!({"From": "zoe@example.com", "FromName": "",
                "FromFull": {"Email": "zoe@example.com", "Name": ""}})),
            None,
        ),
        (
            brevo(
                json!({"Name": "Zoë Bär", "Address": "zoe@example.com"}),
                json!({}),
            ),
            zoe,
        ),
        (
            brevo(
                json!({"Name": null, "Address": "zoe@example.com"}),
                json!({}),
            ),
            None,
        ),
        (
            brevo(
                json!({"Name": "Other", "Address": "zoe@example.com"}),
                json!({"From": "Zoë Bär <zoe@example.com>"}),
            ),
            zoe,
        ),
    ] {
        let house = House::new(adapters());
        let shown = body.to_string();
        let heard = house
            .send(&kit(name).post(Body::Json(body), house.now))
            .await;
        assert_eq!(heard.status, 200, "{shown}: {heard:?}");
        let from = &house.last().1.header.from;
        assert_eq!(from.len(), 1, "{shown}");
        assert_eq!(from[0].name.as_deref(), expected, "{shown}");
        let address = from[0].address.as_ref().map(ToString::to_string);
        assert_eq!(address.as_deref(), Some("zoe@example.com"), "{shown}");
    }
}
