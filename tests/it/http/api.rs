//! The embedded Messages API.

use postern::http::server::ServerSettings;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Server, THREADS, a_message, a_thread};
use crate::bench::KEY;

#[tokio::test]
async fn the_embedded_api_keeps_threads_and_messages() {
    let server = Server::start().await;
    let (status, made) = server.say(Method::POST, THREADS, a_thread()).await;
    assert_eq!(status, 201, "{made}");
    let id = made["data"]["id"].as_str().unwrap().to_owned();
    let thread = format!("{THREADS}/{id}");
    let messages = format!("{thread}/messages");
    for n in 0..3 {
        let (status, added) = server
            .say(Method::POST, &messages, a_message(&n.to_string()))
            .await;
        assert_eq!(status, 201, "{added}");
        assert!(added["data"]["id"].is_string());
    }
    let patch = json!({ "metadata": { "b": 2 } });
    let (status, patched) = server.say(Method::PATCH, &thread, patch).await;
    assert_eq!(status, 200, "{patched}");
    let (_, shown) = server.say(Method::GET, &thread, Value::Null).await;
    assert_eq!(shown["data"]["metadata"], json!({ "a": 1, "b": 2 }));
    let (_, first) = server
        .say(Method::GET, &format!("{messages}?limit=2"), Value::Null)
        .await;
    assert_eq!(first["data"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let (_, rest) = server
        .say(
            Method::GET,
            &format!("{messages}?limit=2&after={next}"),
            Value::Null,
        )
        .await;
    assert_eq!(rest["data"][0]["body"], "2");
    assert_eq!(
        (rest["data"].as_array().unwrap().len(), &rest["next"]),
        (1, &Value::Null)
    );
    let (_, threads) = server.say(Method::GET, THREADS, Value::Null).await;
    assert_eq!(threads["data"][0]["id"], id.as_str());
}

#[tokio::test]
async fn the_same_key_gives_the_same_object_after_a_restart() {
    let server = Server::start().await;
    let body = a_thread().to_string();
    let (_, first) = server.call(Method::POST, THREADS, "k1", &body).await;
    let id = first["data"]["id"].as_str().unwrap().to_owned();
    let messages = format!("{THREADS}/{id}/messages");
    let said = a_message("hi").to_string();
    let (_, said_first) = server.call(Method::POST, &messages, "k2", &said).await;
    let folder = server.stop().await;
    let server = Server::start_in(folder, ServerSettings::default()).await;
    let (status, again) = server.call(Method::POST, THREADS, "k1", &body).await;
    assert_eq!((status, &again["data"]["id"]), (201, &first["data"]["id"]));
    let (_, said_again) = server.call(Method::POST, &messages, "k2", &said).await;
    assert_eq!(said_again["data"]["id"], said_first["data"]["id"]);
    let (_, all) = server.call(Method::GET, &messages, "", "").await;
    assert_eq!(all["data"].as_array().unwrap().len(), 1);
    let (_, threads) = server.call(Method::GET, THREADS, "", "").await;
    assert_eq!(threads["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn invalid_fields_are_named() {
    let server = Server::start().await;
    let (_, made) = server.say(Method::POST, THREADS, a_thread()).await;
    let thread = format!("{THREADS}/{}", made["data"]["id"].as_str().unwrap());
    let nobody = format!("{THREADS}/nope");
    let all = format!("{THREADS}?limit");
    let long = "x".repeat(300);
    let email = r#"{"sourceType":"email"}"#;
    let list = r#"{"sourceType":"email","identityEmail":"a","metadata":[]}"#;
    let number = r#"{"sourceType":"email","senderEmail":"a","body":7}"#;
    for (call, path, key, body, status, named) in [
        ("POST", THREADS, "", "", 400, "the body is not JSON"),
        ("POST", THREADS, "", "[]", 400, "not a JSON object"),
        ("POST", THREADS, "", "{}", 422, "sourceType"),
        (
            "POST",
            THREADS,
            "",
            r#"{"sourceType":"fax"}"#,
            422,
            "sourceType",
        ),
        ("POST", THREADS, "", email, 422, "identityEmail"),
        ("POST", THREADS, "", list, 422, "metadata"),
        ("POST", THREADS, &long, "{}", 400, "Idempotency-Key"),
        (
            "POST",
            &format!("{thread}/messages"),
            "",
            email,
            422,
            "senderEmail",
        ),
        (
            "POST",
            &format!("{thread}/messages"),
            "",
            number,
            422,
            "body",
        ),
        ("GET", &format!("{all}=0"), "", "", 400, "limit"),
        ("GET", &format!("{all}=101"), "", "", 400, "limit"),
        ("GET", &format!("{all}=x"), "", "", 400, "limit"),
        ("GET", &nobody, "", "", 404, "thread"),
        ("GET", &format!("{nobody}/messages"), "", "", 404, "thread"),
        ("PATCH", &nobody, "", r#"{"metadata":{}}"#, 404, "thread"),
        ("PATCH", &thread, "", "{}", 422, "metadata"),
        ("DELETE", THREADS, "", "", 405, "method"),
        ("GET", "/nowhere", "", "", 404, "path"),
    ] {
        let method = Method::from_bytes(call.as_bytes()).unwrap();
        let (heard, fault) = server.call(method, path, key, body).await;
        let message = fault["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(heard, status, "{call} {path} {body}: {fault}");
        assert!(message.contains(named), "{call} {path} {body}: {fault}");
        assert_eq!(fault["success"], false);
    }
}

#[tokio::test]
async fn without_the_key_nothing_is_read() {
    let server = Server::start().await;
    let url = format!("http://{}{THREADS}", server.address);
    for bearer in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic azp2",
        KEY,
        "Bearer k-secret",
    ] {
        let response = server
            .client
            .post(&url)
            .header("authorization", bearer)
            .body(a_thread().to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{bearer}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert!(!response.text().await.unwrap().contains(KEY));
    }
    let (_, threads) = server.call(Method::GET, THREADS, "", "").await;
    assert_eq!(threads["data"], json!([]));
}

#[tokio::test]
async fn bodies_are_bounded() {
    let server = Server::start().await;
    let mut thread = a_thread();
    thread["metadata"] = json!({ "a": "x".repeat(70_000) });
    let (status, _) = server.say(Method::POST, THREADS, thread).await;
    assert_eq!(status, 413);
    let (_, made) = server.say(Method::POST, THREADS, a_thread()).await;
    let messages = format!(
        "{THREADS}/{}/messages",
        made["data"]["id"].as_str().unwrap()
    );
    let long = a_message(&"x".repeat(1_000_000));
    let (status, _) = server.say(Method::POST, &messages, long).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn a_page_of_long_messages_ends_early_and_the_next_continues() {
    let server = Server::start().await;
    let (_, made) = server.say(Method::POST, THREADS, a_thread()).await;
    let messages = format!(
        "{THREADS}/{}/messages",
        made["data"]["id"].as_str().unwrap()
    );
    for n in 0..6 {
        let long = a_message(&format!("{n}{}", "x".repeat(1_500_000)));
        let (status, _) = server.say(Method::POST, &messages, long).await;
        assert_eq!(status, 201);
    }
    let (mut seen, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let (_, page) = server
            .call(Method::GET, &format!("{messages}?limit=100{after}"), "", "")
            .await;
        for message in page["data"].as_array().unwrap() {
            seen.push(message["body"].as_str().unwrap()[..1].to_owned());
        }
        pages += 1;
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(pages, 2);
}

#[tokio::test]
async fn malformed_requests_get_our_error_form() {
    let server = Server::start().await;
    let (_, made) = server.say(Method::POST, THREADS, a_thread()).await;
    let messages = format!(
        "{THREADS}/{}/messages",
        made["data"]["id"].as_str().unwrap()
    );
    for query in ["?page=2", "?limit=1&limit=2", "?state=sent"] {
        let (status, fault) = server
            .call(Method::GET, &format!("{THREADS}{query}"), "", "")
            .await;
        assert_eq!(status, 400, "{query}: {fault}");
        assert_eq!(fault["success"], false, "{query}: {fault}");
    }
    let events = "/gateway/events?after=1&after=2";
    for path in [
        events,
        "/gateway/attachments/%ff?x=1",
        "/api/v1/messages/threads/%ff",
    ] {
        let (status, fault) = server.call(Method::GET, path, "", "").await;
        assert!((400..404).contains(&status), "{path}: {status}");
        assert_eq!(fault["success"], false, "{path}: {fault}");
    }
    let without = server
        .client
        .get(format!("http://{}{events}", server.address));
    assert_eq!(without.send().await.unwrap().status(), 401);
    for (field, value) in [
        ("match", json!("text")),
        ("match", json!({ "reason": 7 })),
        ("attachments", json!([{ "filename": 1 }])),
        ("authentication", json!({ "identity": "sure" })),
    ] {
        let mut message = a_message("hi");
        message[field] = value;
        let (status, fault) = server.say(Method::POST, &messages, message).await;
        assert_eq!(status, 422, "{fault}");
        let named = fault["error"]["field"].as_str().unwrap();
        assert!(named.starts_with(field), "{fault}");
    }
}
