//! Owns the validation of JSON by the schemas of the OpenAPI document, so that documentation and validation
//! cannot differ.
//!
//! Supports only the part of JSON Schema that the document uses: an unknown keyword is an error.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// The contract of the HTTP address (OpenAPI 3.1).
pub(super) const OPENAPI: &str = include_str!("openapi.json");

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(OPENAPI).unwrap_or_default());

/// The place and the reason of a violation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// The path of the field, such as `attachments[0].size`; empty for the value itself.
    pub(super) field: String,
    /// The reason, as the end of a sentence about the field.
    pub(super) why: String,
}

/// Validates a value by the schema of this name in the document.
///
/// # Errors
/// The first violation.
pub(super) fn validate(name: &str, value: &Value) -> Result<(), Violation> {
    let schema = &DOCUMENT["components"]["schemas"][name];
    check(&DOCUMENT, schema, value, "")
}

/// Validates a value by a schema of `document`. `at` is the path of the value.
pub(super) fn check(
    document: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
) -> Result<(), Violation> {
    let violation = |why: String| Violation {
        field: at.to_owned(),
        why,
    };
    let Some(keywords) = schema.as_object() else {
        return Err(violation("has no schema".to_owned()));
    };
    for (keyword, wanted) in keywords {
        let why = match keyword.as_str() {
            "$ref" | "allOf" | "properties" | "items" => {
                parts(document, keyword, wanted, value, at)?;
                None
            }
            "required" => {
                let names = wanted.as_array().into_iter().flatten();
                let missing = names
                    .filter_map(Value::as_str)
                    .find(|name| value.is_object() && value.get(name).is_none());
                if let Some(name) = missing {
                    return Err(Violation {
                        field: inner(at, name),
                        why: "is required".to_owned(),
                    });
                }
                None
            }
            _ => reason(keyword, wanted, value),
        };
        if let Some(why) = why {
            return Err(violation(why));
        }
    }
    Ok(())
}

/// Checks a keyword with subschemas.
fn parts(
    document: &Value,
    keyword: &str,
    wanted: &Value,
    value: &Value,
    at: &str,
) -> Result<(), Violation> {
    match (keyword, wanted, value) {
        ("$ref", Value::String(to), _) => {
            let target = to.strip_prefix('#').and_then(|to| document.pointer(to));
            check(document, target.unwrap_or(&Value::Null), value, at)
        }
        ("allOf", Value::Array(schemas), _) => schemas
            .iter()
            .try_for_each(|schema| check(document, schema, value, at)),
        ("properties", Value::Object(schemas), Value::Object(fields)) => {
            let known = schemas
                .iter()
                .filter_map(|(name, schema)| Some((name, schema, fields.get(name)?)));
            known.into_iter().try_for_each(|(name, schema, field)| {
                check(document, schema, field, &inner(at, name))
            })
        }
        ("items", schema, Value::Array(items)) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| check(document, schema, item, &format!("{at}[{index}]"))),
        // The keyword `type` reports a value of another type.
        _ => Ok(()),
    }
}

/// The reason why the value violates this keyword, if it does.
fn reason(keyword: &str, wanted: &Value, value: &Value) -> Option<String> {
    let (fits, why) = match keyword {
        "type" => {
            let types = names(wanted);
            let fits = types.iter().any(|name| is_type(name, value));
            (fits, format!("is not of type {}", types.join(" or ")))
        }
        "enum" => {
            let all = wanted.as_array()?;
            let words: Vec<String> = all.iter().map(word).collect();
            (
                all.contains(value),
                format!("is not one of {}", words.join(", ")),
            )
        }
        "const" => (wanted == value, format!("is not {}", word(wanted))),
        "minimum" => {
            let fits = value.as_f64() >= wanted.as_f64() || !value.is_number();
            (fits, format!("is less than {wanted}"))
        }
        "maximum" => {
            let fits = value.as_f64() <= wanted.as_f64() || !value.is_number();
            (fits, format!("is more than {wanted}"))
        }
        "maxLength" => {
            let length = value.as_str().map_or(0, |text| text.chars().count());
            let fits = wanted.as_u64().is_none_or(|max| length as u64 <= max);
            (fits, format!("has more than {wanted} characters"))
        }
        "pattern" => {
            let pattern = Regex::new(wanted.as_str()?).ok();
            let fits = |text: &str| pattern.is_some_and(|pattern| pattern.is_match(text));
            (
                value.as_str().is_none_or(fits),
                format!("does not match {wanted}"),
            )
        }
        "description" | "format" | "default" => return None,
        other => (
            false,
            format!("has a schema with the unknown keyword {other}"),
        ),
    };
    (!fits).then_some(why)
}

/// The path of the field `name` of the value at `at`.
fn inner(at: &str, name: &str) -> String {
    match at {
        "" => name.to_owned(),
        _ => format!("{at}.{name}"),
    }
}

fn names(wanted: &Value) -> Vec<&str> {
    match wanted {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

fn word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn is_type(wanted: &str, value: &Value) -> bool {
    match wanted {
        "string" => value.is_string(),
        // JSON Schema counts 3.0 as an integer.
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(is_whole),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        _ => false,
    }
}

fn is_whole(number: f64) -> bool {
    number.fract() == 0.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_violation_names_its_field() {
        let mail = |field: &str, value: Value| {
            let mut message =
                json!({ "sourceType": "email", "senderEmail": "a@b.example", "body": "x" });
            message[field] = value;
            message
        };
        for (name, value, field) in [
            ("NewThread", json!([]), ""),
            (
                "NewThread",
                json!({ "sourceType": "email" }),
                "identityEmail",
            ),
            ("NewMessage", mail("body", json!(7)), "body"),
            ("NewMessage", mail("match", json!("text")), "match"),
            ("NewMessage", mail("match", json!({})), "match.reason"),
            (
                "NewMessage",
                mail("match", json!({ "reason": 7 })),
                "match.reason",
            ),
            ("NewMessage", mail("attachments", json!("a")), "attachments"),
            (
                "NewMessage",
                mail("attachments", json!([{}, 1])),
                "attachments[0].filename",
            ),
            (
                "NewMessage",
                mail("senderName", json!("x".repeat(5000))),
                "senderName",
            ),
            (
                "NewSuppression",
                json!({ "address": "a@b.example", "days": 0 }),
                "days",
            ),
        ] {
            assert_eq!(validate(name, &value).unwrap_err().field, field, "{value}");
        }
        assert_eq!(
            validate("NewMessage", &mail("subject", Value::Null)),
            Ok(())
        );
        let suppression = json!({ "address": "a@b.example", "days": 3.0, "reason": null });
        assert_eq!(validate("NewSuppression", &suppression), Ok(()));
    }
}
