//! Owns the environment variables: their names, and the configuration key that each one sets.
//!
//! Does not check the values: they are merged into the table of the file and read like the rest of it.

use toml::{Table, Value};

use super::findings::{ConfigFindings, ConfigProblem};

/// One environment variable and the key it sets.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// The variable's name.
    pub name: &'static str,
    /// The key. `route` means the first route of the file, or a new one if it has none.
    pub key: &'static str,
    form: VariableForm,
}

/// The conversion of a variable's text into the value of a key.
#[derive(Clone, Copy, Debug)]
enum VariableForm {
    /// A list of one signing key with the id 0.
    Key,
    /// A comma-separated list.
    List,
    /// A whole number of milliseconds.
    Millis,
    Number,
    Switch,
    Text,
}

/// Every variable. An empty one counts as not set.
pub const VARIABLES: [Variable; 20] = [
    variable("EMAIL_IMAP_HOST", "imap.host", VariableForm::Text),
    variable("EMAIL_IMAP_PASS", "imap.password", VariableForm::Text),
    variable(
        "EMAIL_IMAP_POLL_INTERVAL",
        "imap.poll_interval",
        VariableForm::Millis,
    ),
    variable("EMAIL_IMAP_PORT", "imap.port", VariableForm::Number),
    variable("EMAIL_IMAP_USER", "imap.user", VariableForm::Text),
    variable("EMAIL_INBOUND_MODE", "server.inbound", VariableForm::List),
    variable(
        "EMAIL_OUTBOUND_ENABLED",
        "outbound.enabled",
        VariableForm::Switch,
    ),
    variable("EMAIL_REPLY_DOMAIN", "route.domains", VariableForm::List),
    variable("EMAIL_REPLY_SECRET", "route.secrets", VariableForm::Key),
    variable(
        "EMAIL_WEBHOOK_MAX_AGE",
        "webhook.max_age",
        VariableForm::Millis,
    ),
    variable("EMAIL_WEBHOOK_SECRET", "webhook.secret", VariableForm::Text),
    variable(
        "MESSAGES_API_BASE_URL",
        "route.api.base_url",
        VariableForm::Text,
    ),
    variable("MESSAGES_API_KEY", "route.api.key", VariableForm::Text),
    variable("POSTERN_DATA_DIR", "server.data_dir", VariableForm::Text),
    variable("SMTP_FROM", "outbound.from", VariableForm::Text),
    variable("SMTP_FROM_NAME", "outbound.from_name", VariableForm::Text),
    variable("SMTP_HOST", "outbound.host", VariableForm::Text),
    variable("SMTP_PASS", "outbound.password", VariableForm::Text),
    variable("SMTP_PORT", "outbound.port", VariableForm::Number),
    variable("SMTP_USER", "outbound.user", VariableForm::Text),
];

const fn variable(name: &'static str, key: &'static str, form: VariableForm) -> Variable {
    Variable { name, key, form }
}

/// The variables that are set, with their values from `lookup`.
///
/// # Errors
/// Each variable whose text is not UTF-8.
pub(super) fn read(
    lookup: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<Vec<(Variable, String)>, Vec<ConfigProblem>> {
    let mut set = Vec::new();
    let mut problems = Vec::new();
    for variable in VARIABLES {
        match lookup(variable.name).map(std::ffi::OsString::into_string) {
            None => {}
            Some(Ok(text)) if text.is_empty() => {}
            Some(Ok(text)) => set.push((variable, text)),
            Some(Err(_)) => problems.push(ConfigProblem::new(
                format!("environment: {}", variable.name),
                "not UTF-8",
            )),
        }
    }
    if problems.is_empty() {
        Ok(set)
    } else {
        Err(problems)
    }
}

/// Merges the variables into the file's table; they override it.
pub(super) fn overlay(set: Vec<(Variable, String)>, table: &mut Table, log: &mut ConfigFindings) {
    for (variable, text) in set {
        match variable.value(text) {
            Ok(value) => {
                let path = variable.insert(table, value);
                log.variables.insert(path, variable.name);
            }
            Err(what) => log.problems.borrow_mut().push(ConfigProblem::new(
                format!("environment: {}", variable.name),
                what,
            )),
        }
    }
}

impl Variable {
    /// True if the variable only sets a location, which does not end development mode.
    pub(super) fn is_location_only(&self) -> bool {
        self.key == "server.data_dir"
    }

    fn value(&self, text: String) -> Result<Value, String> {
        Ok(match self.form {
            VariableForm::Key => {
                let key = [("id", Value::from(0)), ("secret", Value::from(text))];
                Value::Array(vec![Value::Table(
                    key.map(|(name, value)| (name.to_owned(), value))
                        .into_iter()
                        .collect(),
                )])
            }
            VariableForm::List => {
                let entries = text.split(',').map(|entry| Value::from(entry.trim()));
                Value::Array(entries.collect())
            }
            VariableForm::Millis => {
                let millis: u64 = text.parse().map_err(|_| {
                    format!("\"{}\": not a whole number of ms", text.escape_debug())
                })?;
                Value::from(format!("{millis}ms"))
            }
            VariableForm::Number => Value::from(
                text.parse::<i64>()
                    .map_err(|_| format!("\"{}\": not a whole number", text.escape_debug()))?,
            ),
            VariableForm::Switch => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Value::from(true),
                "false" | "0" | "no" | "off" => Value::from(false),
                _ => {
                    return Err(format!(
                        "\"{}\": neither true nor false",
                        text.escape_debug()
                    ));
                }
            },
            VariableForm::Text => Value::from(text),
        })
    }

    /// Inserts `value` at the variable's key and returns the path for findings.
    fn insert(&self, root: &mut Table, value: Value) -> String {
        let mut names: Vec<_> = self.key.split('.').collect();
        let last = names.pop().unwrap_or_default();
        let several = matches!(root.get("route"), Some(Value::Array(routes)) if routes.len() > 1);
        let mut table = root;
        for name in names {
            let fresh = || match name {
                "route" => Value::Array(vec![Value::Table(Table::new())]),
                _ => Value::Table(Table::new()),
            };
            let inner = table.entry(name).or_insert_with(fresh);
            if let Value::Array(routes) = inner
                && routes.is_empty()
            {
                routes.push(Value::Table(Table::new()));
            }
            let inner = match inner {
                Value::Array(routes) => &mut routes[0],
                other => other,
            };
            if !inner.is_table() {
                // A value of the wrong type in the file is replaced: the environment has priority.
                *inner = Value::Table(Table::new());
            }
            let Value::Table(next) = inner else {
                unreachable!("the line before made it a table");
            };
            table = next;
        }
        // A secret in the environment replaces the file that would contain it.
        table.remove(&format!("{last}_file"));
        table.insert(last.to_owned(), value);
        if several {
            self.key.replacen("route.", "route[0].", 1)
        } else {
            self.key.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_over(file: &str, variables: &[(&str, &str)]) -> (Table, Vec<ConfigProblem>) {
        let mut table: Table = file.parse().unwrap();
        let mut log = ConfigFindings::default();
        let set = read(|name| {
            let found = variables.iter().find(|(set, _)| *set == name);
            found.map(|(_, text)| (*text).into())
        });
        overlay(set.unwrap(), &mut table, &mut log);
        (table, log.problems.into_inner())
    }

    #[test]
    fn a_variable_overrides_the_file_and_adds_missing_tables() {
        let (table, _) = laid_over(
            "[outbound]\nport = 25\nuser = 'u'\n[[route]]\nname = 'a'\n[[route]]\nname = 'b'\n",
            &[
                ("SMTP_PORT", "587"),
                ("EMAIL_REPLY_DOMAIN", "a.example, b.example"),
                ("SMTP_USER", ""),
            ],
        );
        assert_eq!(table["outbound"]["port"].as_integer(), Some(587));
        assert_eq!(table["outbound"]["user"].as_str(), Some("u"));
        assert_eq!(table["route"][0]["name"].as_str(), Some("a"));
        assert_eq!(table["route"][0]["domains"][1].as_str(), Some("b.example"));
        let (table, _) = laid_over("", &[("MESSAGES_API_KEY", "k")]);
        assert_eq!(table["route"][0]["api"]["key"].as_str(), Some("k"));
    }

    #[test]
    fn a_secret_from_the_environment_replaces_the_secret_file() {
        let (table, _) = laid_over(
            "[[route]]\n[route.api]\nkey_file = '/k'\n",
            &[("MESSAGES_API_KEY", "k")],
        );
        assert!(table["route"][0]["api"].get("key_file").is_none());
    }

    #[test]
    fn invalid_numbers_and_switches_are_named() {
        let (_, problems) = laid_over(
            "",
            &[
                ("SMTP_PORT", "smtp"),
                ("EMAIL_OUTBOUND_ENABLED", "perhaps"),
                ("EMAIL_WEBHOOK_MAX_AGE", "5m"),
            ],
        );
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "environment: EMAIL_OUTBOUND_ENABLED: \"perhaps\": neither true nor false",
                "environment: EMAIL_WEBHOOK_MAX_AGE: \"5m\": not a whole number of ms",
                "environment: SMTP_PORT: \"smtp\": not a whole number",
            ]
        );
    }
}
