//! Owns the reading of a configuration table: each key is taken once, with its default.
//!
//! Does not stop at the first error: all are collected, each with its key and its value. Keys that are left
//! in a table after reading are unknown. Every requested key is recorded with its default, so that the
//! example file can be compared with the code. A deserialiser such as serde would stop at the first error
//! and know no defaults.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::findings::{ConfigFindings, ConfigKey, ConfigProblem};
use super::secret::{Secret, is_open_to_others};
use super::value;

/// Reads fields of a settings struct from a table, each with its value as the default and within its
/// bounds. The key is the name of the field, or stands after `as`.
macro_rules! read_fields {
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    ($section:ident => $settings:expr; $(
        $field:ident $(as $key:literal)?: $reader:ident($bounds:expr),
    )*) => {$(
        $settings.$field = $section.$reader(
            read_fields!(@key $field $($key)?),
            $settings.$field,
            ($bounds).clone(),
        );
    )*};
}
pub(super) use read_fields;

/// A table of the configuration that is being read.
pub(super) struct Section<'l> {
    path: String,
    table: Table,
    findings: &'l ConfigFindings,
}

impl<'l> Section<'l> {
    pub(super) fn root(table: Table, log: &'l ConfigFindings) -> Self {
        Self {
            path: String::new(),
            table,
            findings: log,
        }
    }

    /// The table under `key`; an empty one if there is none.
    pub(super) fn table(&mut self, key: &str) -> Self {
        let path = self.path(key);
        let table = match self.table.remove(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                let what = format!("not a table: write [{path}] on a line of its own");
                self.findings.problem(&path, what);
                Table::new()
            }
        };
        Self {
            path,
            table,
            findings: self.findings,
        }
    }

    /// The tables under `[[key]]`; empty if the key is missing, `None` if it has another type. In messages,
    /// a single table has the bare key as its path, and several have `key[0]`, `key[1]` and so on.
    pub(super) fn tables(&mut self, key: &str) -> Option<Vec<Self>> {
        let path = self.path(key);
        let values = match self.table.remove(key) {
            None => return Some(Vec::new()),
            Some(Value::Array(values)) => values,
            Some(_) => {
                let what = format!("not a list of tables: write [[{path}]]");
                self.findings.problem(&path, what);
                return None;
            }
        };
        let alone = values.len() == 1;
        let mut sections = Vec::new();
        let count = values.len();
        for (at, value) in values.into_iter().enumerate() {
            let path = if alone {
                path.clone()
            } else {
                format!("{path}[{at}]")
            };
            let Value::Table(table) = value else {
                self.findings.problem(&path, "not a table");
                continue;
            };
            sections.push(Self {
                path,
                table,
                findings: self.findings,
            });
        }
        (sections.len() == count).then_some(sections)
    }

    /// Ends the reading of this table: the remaining keys are unknown.
    pub(super) fn end(self) {
        for (key, _) in &self.table {
            let path = self.path(key);
            let near = self.known().into_iter().find(|known| is_near(known, key));
            let what = near.map_or_else(
                || "unknown key".to_owned(),
                |near| format!("unknown key: did you mean {near}?"),
            );
            // The key's name comes from the file: its control characters are escaped.
            self.findings
                .problem(&path.escape_debug().to_string(), what);
        }
    }

    /// The names that this table knows: its keys and subtables.
    fn known(&self) -> Vec<String> {
        let keys = self.findings.keys.borrow();
        let inner = keys.iter().filter_map(|key| match self.path.as_str() {
            "" => Some(key.path.as_str()),
            path => key.path.strip_prefix(path)?.strip_prefix('.'),
        });
        inner
            .map(|path| path.split(['.', '[']).next().unwrap_or(path).to_owned())
            .collect()
    }

    /// The full path of `key` in this table.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn problem(&self, key: &str, what: impl Into<String>) {
        self.findings.problem(&self.path(key), what);
    }

    pub(super) fn warn(&self, key: &str, what: impl Into<String>) {
        self.findings.warn(&self.path(key), what);
    }

    /// The file of the table.
    pub(super) fn file(&self) -> Option<&'l Path> {
        self.findings.file.as_deref()
    }

    /// True if `key` is set.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The keys that are set.
    pub(super) fn given_keys(&self) -> Vec<String> {
        self.table.keys().cloned().collect()
    }

    pub(super) fn text(&mut self, key: &str, default: &str) -> String {
        self.text_maybe_from(key, Some(default))
            .unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn text_maybe(&mut self, key: &str) -> Option<String> {
        self.text_maybe_from(key, None)
    }

    fn text_maybe_from(&mut self, key: &str, default: Option<&str>) -> Option<String> {
        let default = default.map(|text| Value::String(text.to_owned()));
        self.take(key, default, |value| match value {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            Value::String(_) => Err("empty".to_owned()),
            _ => Err("not a text: write it in quotes".to_owned()),
        })
    }

    /// A text that `parse` accepts.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.take(key, None, |value| match value {
            Value::String(text) => parse(text).map_err(|error| error.to_string()),
            _ => Err("not a text: write it in quotes".to_owned()),
        })
    }

    /// Like [`Section::parsed`], with a default that `parse` accepts.
    pub(super) fn parsed_or<T, E: Display>(
        &mut self,
        key: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let given = self.is_given(key);
        let shown = Some(Value::String(default.to_owned()));
        let read = self.take(key, shown, |value| match value {
            Value::String(text) => parse(text).map_err(|error| error.to_string()),
            _ => Err("not a text: write it in quotes".to_owned()),
        });
        if given { read } else { parse(default).ok() }
    }

    pub(super) fn switch(&mut self, key: &str, default: bool) -> bool {
        self.take(key, Some(Value::Boolean(default)), |value| {
            value
                .as_bool()
                .ok_or_else(|| "neither true nor false".to_owned())
        })
        .unwrap_or(default)
    }

    pub(super) fn number(&mut self, key: &str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let shown = i64::try_from(default).unwrap_or(i64::MAX);
        self.take(key, Some(Value::Integer(shown)), |value| {
            let number = value.as_integer().ok_or("not a whole number")?;
            within(number, &bounds)
        })
        .unwrap_or(default)
    }

    /// Like [`Section::number`], in the caller's type.
    pub(super) fn count<T>(&mut self, key: &str, default: T, bounds: RangeInclusive<u64>) -> T
    where
        T: Copy + TryFrom<u64> + TryInto<u64>,
    {
        let shown = default.try_into().unwrap_or(u64::MAX);
        T::try_from(self.number(key, shown, bounds)).unwrap_or(default)
    }

    /// Like [`Section::size`], for memory.
    pub(super) fn length(
        &mut self,
        key: &str,
        default: usize,
        bounds: RangeInclusive<u64>,
    ) -> usize {
        usize::try_from(self.size(key, default as u64, bounds)).unwrap_or(default)
    }

    pub(super) fn size(&mut self, key: &str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let shown = Value::String(value::show_size(default));
        self.take(key, Some(shown), |value| {
            let Value::String(text) = value else {
                return Err("not a size: write it in quotes with a unit, as \"25MiB\"".to_owned());
            };
            let bytes = value::size(text)?;
            if bounds.contains(&bytes) {
                return Ok(bytes);
            }
            Err(format!(
                "out of bounds: {} to {}",
                value::show_size(*bounds.start()),
                value::show_size(*bounds.end())
            ))
        })
        .unwrap_or(default)
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let shown = Value::String(value::show_duration(default));
        self.take(key, Some(shown), |value| {
            let Value::String(text) = value else {
                return Err("not a span of time: write it in quotes with a unit, as \"5m\"".into());
            };
            let span = value::duration(text)?;
            if bounds.contains(&span) {
                return Ok(span);
            }
            Err(format!(
                "out of bounds: {} to {}",
                value::show_duration(*bounds.start()),
                value::show_duration(*bounds.end())
            ))
        })
        .unwrap_or(default)
    }

    /// One of a few words, each with its value. The first is the default.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> T {
        let (default, meaning) = words[0];
        self.take(key, Some(Value::String(default.to_owned())), |value| {
            let found = value
                .as_str()
                .and_then(|text| words.iter().find(|(word, _)| *word == text));
            found.map(|(_, meaning)| *meaning).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                format!("not one of {}", words.join(", "))
            })
        })
        .unwrap_or(meaning)
    }

    pub(super) fn path_maybe(&mut self, key: &str) -> Option<PathBuf> {
        self.text_maybe(key).map(PathBuf::from)
    }

    /// A bounded list of texts that `parse` accepts. `None` if an entry is invalid; each error is
    /// reported.
    pub(super) fn list<T, E: Display>(
        &mut self,
        key: &str,
        default: Option<&[&str]>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        const LIST_MAX: usize = 256;
        let default: Option<Vec<_>> =
            default.map(|texts| texts.iter().map(|text| Value::from(*text)).collect());
        let is_given = self.is_given(key);
        let shown = default.clone().map(Value::Array);
        let given = self.take(key, shown, |value| match value {
            Value::Array(values) if values.len() <= LIST_MAX => Ok(values.clone()),
            Value::Array(_) => Err(format!("more than {LIST_MAX} entries")),
            _ => Err("not a list: write it in brackets".to_owned()),
        });
        let values = if is_given { given? } else { default? };
        let mut list = Vec::new();
        for value in &values {
            let parsed = value
                .as_str()
                .ok_or_else(|| "not a text: write it in quotes".to_owned())
                .and_then(|text| parse(text).map_err(|error| error.to_string()));
            match parsed {
                Ok(parsed) => list.push(parsed),
                Err(what) => self.problem(key, format!("{}: {what}", display_value(value))),
            }
        }
        (list.len() == values.len()).then_some(list)
    }

    /// Reads a secret that the operator generates and the previous one, and reports weak ones.
    pub(super) fn strong_secrets(&mut self, key: &str) -> Vec<Secret> {
        let mut secrets = Vec::new();
        for key in [key.to_owned(), format!("{key}_old")] {
            if let Some(secret) = self.secret(&key) {
                if let Some(why) = secret.weakness() {
                    self.problem(&key, why);
                }
                secrets.push(secret);
            }
        }
        secrets
    }

    /// A secret: set in `key`, or in the file that `key_file` names, never in both.
    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        let file_key = format!("{key}_file");
        let given = self.table.remove(key);
        self.record_key(key, None, given.as_ref().map(|_| "(set)".to_owned()));
        let file = self.path_maybe(&file_key);
        match (given, file) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                self.problem(key, format!("set twice: here and in {file_key}"));
                None
            }
            (Some(Value::String(text)), None) => {
                self.warn_if_open(key);
                Some(Secret::new(text))
            }
            (Some(_), None) => {
                self.problem(key, "not a text: write it in quotes");
                None
            }
            (None, Some(path)) => self.secret_file(&file_key, &path),
        }
    }

    fn secret_file(&self, key: &str, path: &Path) -> Option<Secret> {
        if is_open_to_others(path) {
            let what = format!(
                "\"{}\": every user of this machine can read it",
                path.display()
            );
            self.warn(key, what);
        }
        match Secret::read(path) {
            Ok(secret) => Some(secret),
            Err(error) => {
                self.problem(key, format!("\"{}\": {error}", path.display()));
                None
            }
        }
    }

    fn warn_if_open(&self, key: &str) {
        let Some(file) = &self.findings.file else {
            return;
        };
        if self.findings.variable(&self.path(key)).is_some() || !is_open_to_others(file) {
            return;
        }
        let what = "holds secrets and every user of this machine can read it: use chmod o=";
        let warning = ConfigProblem::new(file.display().to_string(), what);
        let mut warnings = self.findings.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    fn take<T>(
        &mut self,
        key: &str,
        default: Option<Value>,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let given = self.table.remove(key);
        self.record_key(key, default, given.as_ref().map(ToString::to_string));
        let value = given?;
        match read(&value) {
            Ok(read) => Some(read),
            Err(what) => {
                self.problem(key, format!("{}: {what}", display_value(&value)));
                None
            }
        }
    }

    fn record_key(&self, key: &str, default: Option<Value>, given: Option<String>) {
        let path = self.path(key);
        self.findings.keys.borrow_mut().push(ConfigKey {
            variable: self.findings.variable(&path),
            path,
            default,
            given,
        });
    }
}

/// A value for messages: short, and without control characters.
fn display_value(value: &Value) -> String {
    const SHOWN_MAX: usize = 80;
    let text = match value {
        Value::String(text) => format!("\"{}\"", text.escape_debug()),
        Value::Array(_) => "[…]".to_owned(),
        Value::Table(_) => "{…}".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn within(number: i64, bounds: &RangeInclusive<u64>) -> Result<u64, String> {
    u64::try_from(number)
        .ok()
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| format!("out of bounds: {} to {}", bounds.start(), bounds.end()))
}

/// True for a likely typing error: at most two letters added, removed or changed, but not all of them.
fn is_near(known: &str, key: &str) -> bool {
    // The last row of the edit distance table (Wagner and Fischer).
    let known: Vec<char> = known.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (at, c) in key.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = at + 1;
        for (column, k) in known.iter().enumerate() {
            let changed = corner + usize::from(*k != c);
            corner = row[column + 1];
            row[column + 1] = changed.min(corner + 1).min(row[column] + 1);
        }
    }
    row[known.len()] <= 2.min(known.len() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_keys_are_suggested() {
        for (known, key) in [
            ("mail_bytes_max", "mail_byte_max"),
            ("listen", "lisen"),
            ("smtp", "smtps"),
            ("domains", "domain"),
        ] {
            assert!(is_near(known, key), "{known} {key}");
        }
        for (known, key) in [
            ("key", "x"),
            ("id", "no"),
            ("listen", "port"),
            ("rcpt_max", ""),
        ] {
            assert!(!is_near(known, key), "{known} {key}");
        }
    }

    #[test]
    fn values_are_shown_short_and_without_controls() {
        let shown = display_value(&Value::from(format!("\u{7}{}", "é".repeat(100))));
        assert!(shown.starts_with("\"\\u{7}éé"));
        assert_eq!(shown.chars().count(), 81);
    }
}
