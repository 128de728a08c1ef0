//! Owns the parsing of untrusted JSON: bounded, and rejecting ambiguous content.
//!
//! Does not interpret any member.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::error::Malformed;

/// The number of values in one document, members and elements alike. A batch of a thousand mails with a
/// hundred header fields each has a fifth of them.
const VALUES_MAX: usize = 500_000;

/// A JSON value. The members of an object are all kept, even if a name occurs twice.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    /// Parses a whole document. The depth is bounded by `serde_json` (128), the number of values by
    /// [`VALUES_MAX`].
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if std::str::from_utf8(bytes).is_err() {
            return Err(Malformed::new("body: not UTF-8"));
        }
        match Self::parse_exact(bytes) {
            // Some providers cut a text in the middle of a character. The mail must not be lost for that.
            Err(error) => match repair_surrogates(bytes) {
                Some(repaired) => Self::parse_exact(&repaired),
                None => Err(error),
            },
            parsed => parsed,
        }
    }

    fn parse_exact(bytes: &[u8]) -> Result<Self, Malformed> {
        let left = Cell::new(VALUES_MAX);
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let value = JsonSeed(&left).deserialize(&mut reader);
        let value = value.and_then(|value| reader.end().map(|()| value));
        value.map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Malformed::new(format!("not JSON: line {line}, column {column}"))
        })
    }

    /// This value as JSON text, including members that occur twice.
    pub(super) fn to_text(&self) -> String {
        // Texts and numbers can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// This value as an object; `name` is its name in errors.
    pub(super) fn object<'a>(&'a self, name: &'a str) -> Result<JsonObject<'a>, Malformed> {
        match self {
            Self::Object(members) => Ok(JsonObject { name, members }),
            _ => Err(Malformed::field(name, "not an object")),
        }
    }

    /// This value as a list.
    pub(super) fn list(&self, name: &str) -> Result<&[Self], Malformed> {
        match self {
            Self::List(list) => Ok(list),
            _ => Err(Malformed::field(name, "not a list")),
        }
    }

    /// This value as a text.
    pub(super) fn text(&self, name: &str) -> Result<&str, Malformed> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(Malformed::field(name, "not a text")),
        }
    }

    /// All elements of this list as texts.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, Malformed> {
        let list = self.list(name)?.iter();
        list.map(|text| text.text(name).map(str::to_owned))
            .collect()
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => out.serialize_unit(),
            Self::Bool(flag) => out.serialize_bool(*flag),
            Self::Number(number) => number.serialize(out),
            Self::Text(text) => out.serialize_str(text),
            Self::List(list) => out.collect_seq(list),
            Self::Object(members) => {
                out.collect_map(members.iter().map(|(name, value)| (name, value)))
            }
        }
    }
}

/// An object with access to members by name. A member that occurs twice is an error when it is accessed,
/// because programs could use different ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonObject<'a> {
    name: &'a str,
    members: &'a [(String, Json)],
}

impl<'a> JsonObject<'a> {
    /// The member, unless it is missing or null.
    pub(super) fn member(self, name: &str) -> Result<Option<&'a Json>, Malformed> {
        let mut found = self.members.iter().filter(|(known, _)| known == name);
        let first = found.next();
        if found.next().is_some() {
            return Err(Malformed::field(&self.path(name), "occurs twice"));
        }
        Ok(first.map(|(_, value)| value).filter(|v| **v != Json::Null))
    }

    /// The required member.
    pub(super) fn required(self, name: &str) -> Result<&'a Json, Malformed> {
        let missing = || Malformed::field(&self.path(name), "missing");
        self.member(name)?.ok_or_else(missing)
    }

    /// The member as a text.
    pub(super) fn text(self, name: &str) -> Result<Option<&'a str>, Malformed> {
        let path = self.path(name);
        self.member(name)?
            .map(|value| value.text(&path))
            .transpose()
    }

    /// The required member as a text.
    pub(super) fn required_text(self, name: &str) -> Result<&'a str, Malformed> {
        self.required(name)?.text(&self.path(name))
    }

    /// The member as a list; a missing one is empty.
    pub(super) fn list(self, name: &str) -> Result<&'a [Json], Malformed> {
        let path = self.path(name);
        let list = self.member(name)?.map(|value| value.list(&path));
        Ok(list.transpose()?.unwrap_or_default())
    }

    /// The member as an object.
    pub(super) fn object(self, name: &'a str) -> Result<Option<Self>, Malformed> {
        self.member(name)?
            .map(|value| value.object(name))
            .transpose()
    }

    /// The required member as an object.
    pub(super) fn required_object(self, name: &'a str) -> Result<Self, Malformed> {
        self.required(name)?.object(name)
    }

    /// The member as a text or a number, in text form.
    pub(super) fn scalar(self, name: &str) -> Result<Option<String>, Malformed> {
        match self.member(name)? {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text.clone())),
            Some(Json::Number(number)) => Ok(Some(number.to_string())),
            Some(Json::Bool(flag)) => Ok(Some(flag.to_string())),
            Some(_) => Err(Malformed::field(&self.path(name), "not a text or number")),
        }
    }

    fn path(self, name: &str) -> String {
        if self.name.is_empty() {
            return name.to_owned();
        }
        format!("{}.{name}", self.name)
    }
}

/// The document with each half surrogate (`\ud83d` without its other half) replaced; `None` if there is
/// none.
fn repair_surrogates(bytes: &[u8]) -> Option<Vec<u8>> {
    let unit = |at: usize| {
        let escape = bytes.get(at..at + 6).filter(|e| e.starts_with(b"\\u"))?;
        let digits = std::str::from_utf8(&escape[2..]).ok()?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut out: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &bytes[at..]) {
        at += found;
        let length = match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                let out = out.get_or_insert_with(|| bytes.to_vec());
                out[at + 2..at + 6].copy_from_slice(b"fffd");
                6
            }
            Some(_) => 6,
            None => 2,
        };
        at = (at + length).min(bytes.len());
    }
    out
}

struct JsonSeed<'c>(&'c Cell<usize>);

impl<'de> DeserializeSeed<'de> for JsonSeed<'_> {
    type Value = Json;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Json, D::Error> {
        let left = self.0.get().checked_sub(1);
        self.0
            .set(left.ok_or_else(|| D::Error::custom("too many values"))?);
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonSeed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(serde_json::Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(JsonSeed(self.0))? {
            list.push(element);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            object.push((name, members.next_value_seed(JsonSeed(self.0))?));
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Json, String> {
        Json::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn members_are_found_once() {
        let json = parse(r#"{"a":"x","b":1,"b":2,"c":null,"d":["y"],"e":1.5}"#).unwrap();
        let object = json.object("").unwrap();
        assert_eq!(object.text("a").unwrap(), Some("x"));
        assert_eq!(
            object.member("b").unwrap_err().to_string(),
            "b: occurs twice"
        );
        assert_eq!(object.text("c").unwrap(), None);
        assert_eq!(object.text("d").unwrap_err().to_string(), "d: not a text");
        assert_eq!(object.required("z").unwrap_err().to_string(), "z: missing");
        assert_eq!(object.required("d").unwrap().texts("d").unwrap(), ["y"]);
        assert_eq!(object.scalar("e").unwrap().as_deref(), Some("1.5"));
    }

    #[test]
    fn invalid_and_oversized_json_is_refused() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let wide = format!("[{}0]", "0,".repeat(VALUES_MAX));
        for text in ["", "{", "{} {}", "nul", "{\"a\":}", "\"\\x\"", &deep, &wide] {
            assert!(
                parse(text).unwrap_err().starts_with("not JSON"),
                "{text:.20}"
            );
        }
        assert!(
            Json::parse(b"\"\xff\"")
                .unwrap_err()
                .to_string()
                .contains("UTF-8")
        );
    }

    #[test]
    fn a_value_is_written_as_it_was_read() {
        for text in [
            r#"{"b":[1,2.5,null,true],"a":{"x":"\"","x":"y"}}"#,
            "\"\"",
            "[]",
        ] {
            assert_eq!(parse(text).unwrap().to_text(), text);
        }
    }

    #[test]
    fn half_a_surrogate_does_not_invalidate_the_document() {
        let cut = parse(r#"{"a":"x\ud83d","b":"\\ud83d \ud83d\ude00"}"#).unwrap();
        let object = cut.object("").unwrap();
        assert_eq!(object.text("a").unwrap(), Some("x\u{fffd}"));
        assert_eq!(object.text("b").unwrap(), Some("\\ud83d \u{1f600}"));
    }
}
