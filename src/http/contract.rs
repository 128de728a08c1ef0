//! Owns the proof that the OpenAPI document and the routes agree, and that its examples match its
//! schemas. Tests only.

use std::collections::BTreeSet;

use serde_json::Value;

use super::endpoint::Endpoint;
use super::router::routes;
use super::schema::{OPENAPI, check};
use super::{attachments, health, messages, metrics, outbound, stream, webhook};

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

fn names<S>(endpoints: &[Endpoint<S>], into: &mut BTreeSet<String>) {
    let name = |row: &Endpoint<S>| format!("{} {}", row.method, row.path);
    into.extend(endpoints.iter().map(name));
}

#[test]
fn every_route_is_in_the_document_and_vice_versa() {
    let mut served = BTreeSet::new();
    names(&routes(), &mut served);
    names(&health::routes(), &mut served);
    names(&metrics::routes(), &mut served);
    names(&attachments::routes(), &mut served);
    names(&messages::routes(), &mut served);
    names(&webhook::routes(), &mut served);
    names(&stream::routes(), &mut served);
    names(&outbound::routes(), &mut served);
    names(&outbound::keyed_routes(), &mut served);
    let mut documented = BTreeSet::new();
    for (path, item) in document()["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    assert_eq!(served, documented);
}

#[test]
fn every_example_matches_its_schema() {
    let document = document();
    let mut seen = 0;
    walk(&document, &mut |media| {
        if let (Some(schema), Some(example)) = (media.get("schema"), media.get("example")) {
            seen += 1;
            let checked = check(&document, schema, example, "");
            checked.unwrap_or_else(|why| panic!("{why:?}: {example}"));
        }
    });
    assert!(seen >= 13, "{seen} examples");
}

#[test]
fn every_reference_resolves() {
    let document = document();
    walk(&document, &mut |node| {
        if let Some(to) = node.get("$ref").and_then(Value::as_str) {
            assert!(resolve(&document, to).is_some(), "{to}");
        }
    });
}

#[test]
fn the_checker_finds_errors() {
    let document = document();
    let thread = &document["components"]["schemas"]["NewThread"];
    for wrong in [
        r#"{"sourceType":"email"}"#,
        r#"{"sourceType":"fax","identityEmail":"a@b.example"}"#,
        r#"{"sourceType":"email","identityEmail":7}"#,
        r#"{"sourceType":"email","identityEmail":"a@b.example","metadata":[]}"#,
        "[]",
    ] {
        let wrong: Value = serde_json::from_str(wrong).unwrap();
        assert!(check(&document, thread, &wrong, "").is_err(), "{wrong}");
    }
}

fn walk(node: &Value, visit: &mut impl FnMut(&Value)) {
    visit(node);
    match node {
        Value::Object(fields) => fields.values().for_each(|v| walk(v, visit)),
        Value::Array(items) => items.iter().for_each(|v| walk(v, visit)),
        _ => {}
    }
}

fn resolve<'a>(document: &'a Value, to: &str) -> Option<&'a Value> {
    document.pointer(to.strip_prefix('#')?)
}
