//! Products that do more than respond: they report Postern's own messages back, and two of them use the
//! same ids.

use serde_json::{Value, json};

use super::{Gateway, event, letter, read};
use crate::postern::{DOMAIN, eventually};
use crate::product::{Echo, KEY, Product};
use crate::relay::server::{Act, Fake};

const ANN: &str = "ann@sink.test";
/// The reply domain of the second product.
const SECOND: &str = "second.test";

fn asks(gateway: &Gateway, id: &str, domain: &str, text: &str) {
    let to = format!("general@{domain}");
    gateway.swaks(ANN, &to, &letter(ANN, &to, id, text));
}

#[test]
fn our_own_message_reported_by_the_product_is_not_mailed() {
    for is_first in [false, true] {
        let sink = Fake::start(|_, _| Act::Usual);
        let mut gateway = Gateway::start(sink.port, "");
        let http = gateway.postern.http;
        gateway.product.echo(Echo { http, is_first });
        asks(&gateway, "a0@sink.test", DOMAIN, "I wait for it.");
        let (thread, _) = gateway.told(1);
        eventually("it is told of", || gateway.product.echoes().len() == 1);
        let (status, answer) = gateway.product.echoes().pop().unwrap();
        let why = "the message is one that Postern posted";
        assert_eq!((status, &answer["data"]["ignored"]), (200, &json!(why)));

        // Recognised by its id, whatever the content, and after a restart.
        eventually("it is over", || {
            gateway.postern.metric("postern_ledger_delivered") == 1.0
        });
        gateway.postern.stop();
        gateway.postern.start();
        let again = event(&thread, "message-1", "Other words than those.");
        let (status, answer) = gateway.call("POST", "/gateway/events", None, &again);
        assert_eq!((status, &answer["data"]["ignored"]), (200, &json!(why)));

        // Another message is an answer, although it has the same text.
        let job = gateway.say(&event(&thread, "message-2", "I wait for it."));
        gateway.becomes(&job, "sent");
        assert_eq!(sink.taken().len(), 1);
        let jobs = gateway.fetched("/gateway/jobs");
        assert_eq!(jobs["data"].as_array().unwrap().len(), 1, "{jobs}");
    }
}

/// The lines of a second route with this product.
fn second_route(product: &Product) -> String {
    format!(
        "[[route]]\nname = 'second'\ndomains = ['{SECOND}']\n\
         secrets = [{{ id = 0, secret = 'a second secret made for tests, worth nothing' }}]\n\
         [route.api]\nbase_url = '{}'\nkey = '{KEY}'\n",
        product.base_url()
    )
}

#[test]
fn a_first_message_is_known_on_any_route() {
    for is_first in [false, true] {
        let sink = Fake::start(|_, _| Act::Usual);
        let second = Product::start();
        let gateway = Gateway::start(sink.port, &second_route(&second));
        let http = gateway.postern.http;
        second.echo(Echo { http, is_first });
        asks(&gateway, "b0@sink.test", SECOND, "Where is my hat?");
        eventually("it is told of", || second.echoes().len() == 1);
        let (status, answer) = second.echoes().pop().unwrap();
        assert_eq!(status, 200, "{answer}");
        assert!(answer["data"]["ignored"].is_string(), "{answer}");
    }
}

#[test]
fn two_products_may_use_the_same_ids() {
    let sink = Fake::start(|_, _| Act::Usual);
    let second = Product::start();
    let gateway = Gateway::start(sink.port, &second_route(&second));
    asks(&gateway, "a0@sink.test", DOMAIN, "Where are my shoes?");
    asks(&gateway, "b0@sink.test", SECOND, "Where is my hat?");
    eventually("both are told", || {
        !gateway.product.messages().is_empty() && !second.messages().is_empty()
    });
    let (thread, _) = gateway.told(1);
    assert_eq!(thread, second.messages()[0].0, "the very same id");

    let (status, answer) = gateway.call(
        "POST",
        "/gateway/events",
        None,
        &event(&thread, "m1", "At home."),
    );
    assert_eq!((status, &answer["error"]["field"]), (422, &json!("route")));
    let say = |route: &str, text: &str| {
        let mut told = event(&thread, "m1", text);
        told["route"] = json!(route);
        let job = gateway.say(&told);
        gateway.becomes(&job, "sent");
        let mail = sink.taken().pop().unwrap();
        read(
            &mail.bytes,
            json!({ "style": "plain", "words": format!("Thanks for: {text}"),
            "id": format!("<{route}-answer@sink.test>"), "from": ANN }),
        )
    };
    for (route, domain, subject, text) in [
        ("test", DOMAIN, "a0", "Your shoes are at home."),
        ("second", SECOND, "b0", "Your hat is in the hall."),
    ] {
        let seen = say(route, text);
        let to = seen["to"].as_str().unwrap().to_owned();
        assert!(to.ends_with(&format!("@{domain}")), "{to}");
        let fields = seen["fields"].to_string();
        assert!(
            fields.contains(&format!("<{subject}@sink.test>")),
            "{fields}"
        );
        let answer = data_encoding::BASE64
            .decode(seen["answer"].as_str().unwrap().as_bytes())
            .unwrap();
        gateway.swaks(ANN, &to, &answer);
    }
    let bodies = |product: &Product| -> Vec<Value> {
        let messages = product.messages().into_iter();
        messages
            .map(|(into, message)| json!([into, message["body"]]))
            .collect()
    };
    eventually("both answers are told", || {
        gateway.product.messages().len() == 2 && second.messages().len() == 2
    });
    let last = |product: &Product| bodies(product).pop().unwrap();
    assert_eq!(
        last(&gateway.product),
        json!([thread, "Thanks for: Your shoes are at home."])
    );
    assert_eq!(
        last(&second),
        json!([thread, "Thanks for: Your hat is in the hall."])
    );
}
