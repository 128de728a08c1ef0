//! Health, metrics, log-ins, and the first page.

use reqwest::Method;
use serde_json::Value;

use super::{Server, THREADS, a_thread};
use crate::bench::KEY;

#[tokio::test]
async fn health_and_metrics_show_the_state() {
    let server = Server::start().await;
    let get = |path: &'static str| {
        let url = format!("http://{}{path}", server.address);
        let client = server.client.clone();
        async move {
            let response = client.get(url).send().await.unwrap();
            let headers = response.headers().clone();
            (
                response.status().as_u16(),
                headers,
                response.text().await.unwrap(),
            )
        }
    };
    let (status, headers, _) = get("/healthz").await;
    assert_eq!(status, 200);
    for name in [
        "content-security-policy",
        "x-content-type-options",
        "cache-control",
    ] {
        assert!(headers.contains_key(name), "{name}");
    }
    let (status, _, body) = get("/readyz").await;
    assert_eq!(status, 200, "{body}");
    server.paused.lock().unwrap().push("default".to_owned());
    let (status, _, body) = get("/readyz").await;
    assert_eq!(status, 200);
    assert!(body.contains(r#""paused":["default"]"#), "{body}");
    let (status, headers, body) = get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    for name in ["received", "waiting", "delivered", "parked"] {
        assert!(body.contains(&format!("postern_ledger_{name} 0")), "{body}");
    }
    assert!(body.ends_with("# EOF\n"), "{body}");
    let (status, _, body) = get("/openapi.json").await;
    assert_eq!(status, 200);
    assert_eq!(
        serde_json::from_str::<Value>(&body).unwrap()["openapi"],
        "3.1.0"
    );
}

#[tokio::test]
async fn a_store_that_accepts_nothing_is_not_ready() {
    let server = Server::start().await;
    server.store.clone().close().await;
    let (status, body) = server.call(Method::GET, "/readyz", "", "").await;
    assert_eq!(status, 503);
    let reasons = body["reasons"].to_string();
    assert!(reasons.contains("the store accepts nothing"), "{reasons}");
    server.book.clone().close().await;
    let (_, body) = server.call(Method::GET, "/readyz", "", "").await;
    assert!(
        body["reasons"]
            .to_string()
            .contains("embedded Messages API"),
        "{body}"
    );
    let (status, fault) = server.say(Method::POST, THREADS, a_thread()).await;
    assert_eq!(
        (status, &fault["error"]["code"]),
        (503, &"unavailable".into())
    );
    let (status, _) = server.call(Method::GET, "/healthz", "", "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn wrong_passwords_are_counted_and_then_not_examined() {
    let server = Server::start().await;
    let page = format!("http://{}/admin/outbox", server.address);
    let try_with = |password: &'static str| {
        let request = server.client.get(&page).basic_auth("admin", Some(password));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(try_with(KEY).await, 200);
    for _ in 0..30 {
        assert_eq!(try_with("wrong").await, 401);
    }
    assert_eq!(try_with("wrong").await, 429);
    assert_eq!(try_with(KEY).await, 429, "a guess is not examined");
    let without = server.client.get(&page).send().await.unwrap();
    assert_eq!(without.status(), 401, "a browser asks first");
    let (_, body) = server.text("/metrics").await;
    assert!(
        body.contains("postern_http_auth_failures_total{area=\"admin\"} 30"),
        "{body}"
    );
}

#[tokio::test]
async fn every_rule_has_a_series_before_its_first_drop() {
    let server = Server::start().await;
    let (_, body) = server.text("/metrics").await;
    for rule in ["auto_reply", "duplicate", "operator"] {
        let series = format!("postern_ledger_dropped{{rule=\"{rule}\"}} 0");
        assert!(body.contains(&series), "{body}");
    }
}

#[tokio::test]
async fn the_index_leads_to_the_pages() {
    let server = Server::start().await;
    let (status, body) = server.text("/").await;
    assert_eq!(status, 200);
    assert!(body.contains("/admin"), "{body}");
    let page = server
        .client
        .get(format!("http://{}/admin/", server.address))
        .basic_auth("admin", Some(KEY))
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(!policy.contains("unsafe-inline"), "{policy}");
    assert!(policy.contains("style-src 'self'"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(
        !text.contains("<style") && !text.contains("style=\""),
        "{text}"
    );
}
