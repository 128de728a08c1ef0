//! Mail that a real Postfix bounces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{event, first, with_postfix_to};
use crate::postern::eventually;
use crate::relay::server::{Act, Fake, Step};

const GONE: &str = "gone@sink.test";
const THREAD: &str = "3f2b6c1e-8a4d-4f6e-9b7a-2d1c0e5f4a3b";

#[test]
fn a_second_bounce_suppresses_the_address() {
    let unknown = Arc::new(AtomicBool::new(true));
    let is_unknown = Arc::clone(&unknown);
    let sink = Fake::start(move |step, _| match step {
        Step::Rcpt if is_unknown.load(Ordering::SeqCst) => {
            Act::Say("550 5.1.1 nobody has this address\r\n".to_owned())
        }
        _ => Act::Usual,
    });
    let (gateway, postfix, _folder) =
        with_postfix_to(format!("lmtp:inet:127.0.0.1:{}", sink.port), "", "");
    for n in 1..=2 {
        let message = format!("m{n}");
        let job = gateway.say(&first(&format!("thread-{n}"), &message, GONE));
        let bounced = gateway.becomes(&job, "bounced");
        assert!(
            bounced.to_string().contains("nobody has this address"),
            "{bounced}"
        );
        let events = gateway.events();
        let told = events.iter().filter(|(name, data)| {
            name == "email.outbound.bounced" && data["jobId"] == job.as_str()
        });
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), 1, "{events:?}");
        let data = &told[0].1;
        assert_eq!(data["messageId"], message, "{data}");
        assert_eq!(
            (&data["status"], &data["hard"]),
            (&json!("5.1.1"), &json!(true))
        );
        assert_eq!(gateway.told_of(&job), ["queued", "sent", "bounced"]);
        let listed = gateway.fetched(&format!("/gateway/suppressions/{GONE}"));
        assert_eq!(listed["data"]["held"], n == 2, "{listed}");
        assert_eq!(listed["data"]["bounces"], n, "{listed}");
    }
    assert!(postfix.log().contains("status=bounced"));
    assert!(
        gateway.product.messages().is_empty(),
        "a notice is no message"
    );
    let created = gateway
        .events()
        .into_iter()
        .filter(|(name, _)| name.contains("created"));
    assert_eq!(created.count(), 0);
    assert_eq!(gateway.postern.metric("postern_ledger_dropped"), 2.0);
    assert_eq!(gateway.postern.metric("postern_ledger_waiting"), 0.0);

    let third = first(THREAD, "m3", GONE);
    let (status, refused) = gateway.call("POST", "/gateway/events", None, &third);
    assert_eq!(
        (status, &refused["error"]["code"]),
        (422, &json!("suppressed")),
        "{refused}"
    );
    let path = format!("/gateway/suppressions/{GONE}");
    let (status, gone) = gateway.call("DELETE", &path, None, &Value::Null);
    assert_eq!(status, 200, "{gone}");
    unknown.store(false, Ordering::SeqCst);
    let job = gateway.say(&third);
    gateway.becomes(&job, "sent");
    eventually("the mail is at the sink", || sink.taken().len() == 1);
    assert_eq!(gateway.told_of(&job), ["queued", "sent"]);
    let job = gateway.say(&event(THREAD, "m4", "Are you there again?"));
    gateway.becomes(&job, "sent");
    eventually("Postfix has nothing left", || postfix.queued() == 0);
}
