//! Bodies that can be changed and then encoded and signed again.

use serde_json::Value;

/// A body before its encoding.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Json(Value),
    Multipart(Vec<(String, Vec<u8>)>),
    Urlencoded(Vec<(String, Vec<u8>)>),
    Raw(Vec<u8>),
}

impl Body {
    pub(super) fn multipart(fields: &[(&str, &str)]) -> Self {
        Self::Multipart(pairs(fields))
    }

    pub(super) fn urlencoded(fields: &[(&str, &str)]) -> Self {
        Self::Urlencoded(pairs(fields))
    }

    pub(super) fn push(&mut self, name: &str, value: &str) {
        if let Self::Multipart(fields) | Self::Urlencoded(fields) = self {
            fields.push((name.to_owned(), value.as_bytes().to_vec()));
        }
    }

    pub(super) fn media_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json",
            Self::Multipart(_) => "multipart/form-data; boundary=xYzZY",
            Self::Urlencoded(_) => "application/x-www-form-urlencoded",
            Self::Raw(_) => "message/rfc822",
        }
    }

    pub(super) fn written(&self) -> Vec<u8> {
        match self {
            Self::Json(value) => value.to_string().into_bytes(),
            Self::Raw(bytes) => bytes.clone(),
            Self::Multipart(fields) => {
                let mut out = Vec::new();
                for (name, value) in fields {
                    let head = format!(
                        "--xYzZY\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n"
                    );
                    out.extend_from_slice(head.as_bytes());
                    out.extend_from_slice(value);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"--xYzZY--\r\n");
                out
            }
            Self::Urlencoded(fields) => {
                let escaped = |bytes: &[u8]| -> String {
                    bytes.iter().map(|b| format!("%{b:02X}")).collect()
                };
                let pairs = fields.iter().map(|(name, value)| {
                    format!("{}={}", escaped(name.as_bytes()), escaped(value))
                });
                pairs.collect::<Vec<_>>().join("&").into_bytes()
            }
        }
    }

    /// This body with one value, selected by `at`, replaced by these octets; in JSON by the JSON or the
    /// text that they are.
    pub(super) fn replaced(&self, at: usize, octets: &[u8]) -> Self {
        match self {
            Self::Raw(_) => Self::Raw(octets.to_vec()),
            Self::Json(value) => {
                let text = || Value::from(String::from_utf8_lossy(octets));
                let other = serde_json::from_slice(octets).unwrap_or_else(|_| text());
                let mut changed = value.clone();
                let count = nodes(&mut changed, &mut |_| {});
                let mut left = at % count;
                nodes(&mut changed, &mut |node| {
                    if left == 0 {
                        *node = other.clone();
                    }
                    left = left.wrapping_sub(1);
                });
                Self::Json(changed)
            }
            Self::Multipart(fields) => Self::Multipart(with_field(fields, at, octets)),
            Self::Urlencoded(fields) => Self::Urlencoded(with_field(fields, at, octets)),
        }
    }

    /// All variants of this body with one value of a wrong type, repeated, or missing.
    pub(super) fn wrong(&self) -> Vec<Self> {
        match self {
            Self::Raw(_) => Vec::new(),
            Self::Json(value) => {
                let mut all = Vec::new();
                spoilt(value, &mut |wrong| all.push(Self::Json(wrong)));
                all
            }
            Self::Multipart(fields) => wrong_fields(fields)
                .into_iter()
                .map(Self::Multipart)
                .collect(),
            Self::Urlencoded(fields) => wrong_fields(fields)
                .into_iter()
                .map(Self::Urlencoded)
                .collect(),
        }
    }
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
    fields.iter().map(owned).collect()
}

fn with_field(fields: &[(String, Vec<u8>)], at: usize, octets: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut changed = fields.to_vec();
    let at = at % changed.len();
    changed[at].1 = octets.to_vec();
    changed
}

/// Passes each nested value to `take`, and last the value itself; returns their number.
fn nodes(value: &mut Value, take: &mut dyn FnMut(&mut Value)) -> usize {
    let inner: usize = match value {
        Value::Object(members) => members.values_mut().map(|inner| nodes(inner, take)).sum(),
        Value::Array(items) => items.iter_mut().map(|inner| nodes(inner, take)).sum(),
        _ => 0,
    };
    take(value);
    inner + 1
}

fn wrong_fields(fields: &[(String, Vec<u8>)]) -> Vec<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for at in 0..fields.len() {
        for wrong in [
            b"".as_slice(),
            b"\xff\x00\xfe",
            b"null",
            b"42",
            b"[]",
            b"{\"to\":{}}",
            b"[[\"a\"],{}]",
            b"\r\nX: y\r\n",
        ] {
            let mut changed = fields.to_vec();
            changed[at].1 = wrong.to_vec();
            all.push(changed);
        }
        let mut twice = fields.to_vec();
        twice.push(fields[at].clone());
        all.push(twice);
        let mut gone = fields.to_vec();
        gone.remove(at);
        all.push(gone);
        // JSON within a field has nested values too.
        if let Ok(inner) = serde_json::from_slice::<Value>(&fields[at].1) {
            spoilt(&inner, &mut |wrong| {
                let mut changed = fields.to_vec();
                changed[at].1 = wrong.to_string().into_bytes();
                all.push(changed);
            });
        }
    }
    all
}

/// Passes `value` with each node in turn replaced by values of all other types.
fn spoilt(value: &Value, take: &mut dyn FnMut(Value)) {
    for wrong in [
        "null",
        "42",
        "-1.5",
        "true",
        "\"\"",
        "\"x\\u0000\\r\\ny\"",
        "[]",
        "[[]]",
        "{}",
        "[7]",
    ] {
        take(serde_json::from_str(wrong).unwrap());
    }
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                let mut gone = members.clone();
                gone.remove(name);
                take(Value::Object(gone));
                spoilt(inner, &mut |wrong| {
                    let mut changed = members.clone();
                    changed.insert(name.clone(), wrong);
                    take(Value::Object(changed));
                });
            }
        }
        Value::Array(items) => {
            for at in 0..items.len() {
                spoilt(&items[at], &mut |wrong| {
                    let mut changed = items.clone();
                    changed[at] = wrong;
                    take(Value::Array(changed));
                });
            }
        }
        _ => {}
    }
}
