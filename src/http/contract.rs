//! Owns the proof that the OpenAPI document and the routes agree, and that its examples match its
//! schemas. Tests only.

use std::collections::BTreeSet;

use serde_json::Value;

use super::endpoint::Endpoint;
use super::router::{OPENAPI, routes};
use super::{attachments, health, messages, metrics, outbound, stream, webhook};

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

fn names<S>(endpoints: &[Endpoint<S>], into: &mut BTreeSet<String>) {
    let name = |row: &Endpoint<S>| format!("{} {}", row.method, row.path);
    into.extend(endpoints.iter().map(name));
}

#[test]
fn every_route_is_in_the_document_and_the_other_way_round() {
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
fn every_example_is_what_its_schema_says() {
    let document = document();
    let mut seen = 0;
    walk(&document, &mut |media| {
        if let (Some(schema), Some(example)) = (media.get("schema"), media.get("example")) {
            seen += 1;
            check(&document, schema, example).unwrap_or_else(|why| panic!("{why}: {example}"));
        }
    });
    assert!(seen >= 13, "{seen} examples");
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    walk(&document, &mut |node| {
        if let Some(to) = node.get("$ref").and_then(Value::as_str) {
            assert!(resolve(&document, to).is_some(), "{to}");
        }
    });
}

#[test]
fn the_checker_finds_what_is_wrong() {
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
        assert!(check(&document, thread, &wrong).is_err(), "{wrong}");
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

/// Checks the part of JSON Schema that the document uses; an unknown keyword is an error.
fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for (word, wants) in schema.as_object().ok_or("schema is no object")? {
        let fits = match word.as_str() {
            "$ref" => {
                let to = wants.as_str().and_then(|to| resolve(document, to));
                check(document, to.ok_or("a reference to nowhere")?, value)?;
                true
            }
            "allOf" => {
                for part in wants.as_array().ok_or("allOf is no list")? {
                    check(document, part, value)?;
                }
                true
            }
            "type" => match wants {
                Value::Array(types) => types.iter().any(|t| is_type(t, value)),
                one => is_type(one, value),
            },
            "enum" => wants.as_array().is_some_and(|all| all.contains(value)),
            "const" => wants == value,
            "required" => wants
                .as_array()
                .ok_or("required is no list")?
                .iter()
                .all(|name| name.as_str().is_some_and(|name| value.get(name).is_some())),
            "properties" => {
                for (name, part) in wants.as_object().ok_or("properties are no object")? {
                    if let Some(field) = value.get(name) {
                        check(document, part, field).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
                true
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    check(document, wants, item)?;
                }
                true
            }
            "minimum" => value.as_i64() >= wants.as_i64(),
            "maximum" => value.as_i64() <= wants.as_i64(),
            "maxLength" => value.as_str().map_or(0, str::len) as u64 <= wants.as_u64().unwrap(),
            "pattern" => value.as_str().is_some_and(|text| {
                regex::Regex::new(wants.as_str().unwrap())
                    .unwrap()
                    .is_match(text)
            }),
            "description" | "format" | "default" => true,
            other => return Err(format!("the checker does not know {other}")),
        };
        if !fits {
            return Err(format!("{word} does not hold"));
        }
    }
    Ok(())
}

fn is_type(wanted: &Value, value: &Value) -> bool {
    match wanted.as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("null") => value.is_null(),
        _ => false,
    }
}
