//! Owns the templates: the built-in ones, an operator's own, and the check that they are usable.
//!
//! Does not know mails: it renders text from given values.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use thiserror::Error;

/// The names of the templates of a mail's two alternatives.
const HTML: &str = "message.html.jinja";
const TEXT: &str = "message.txt.jinja";
const TEMPLATE_SUFFIX: &str = ".jinja";
/// The maximum number of files of a folder: the two templates and the files they include.
const FILES_MAX: usize = 32;
/// The maximum length in octets of one file.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// The maximum cost of rendering one alternative: instructions, and one unit for each 64 octets of text.
const FUEL: u64 = 1_000_000;
/// The maximum length in octets of one alternative of a mail.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A word of the sample mail that both alternatives must show.
const SAMPLE_WORD: &str = "sampleword";

/// The checked templates of a mail's two alternatives.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    /// The folder of an operator's templates.
    folder: Option<PathBuf>,
}

impl Templates {
    /// Loads the built-in templates, replaced by those of `folder` with the names `message.html.jinja` and
    /// `message.txt.jinja`. These may include other files there that end in `.jinja`. Sample mails are
    /// rendered, so that an invalid template fails here and not later.
    ///
    /// # Errors
    /// Names the file, the line if it is known, and the error.
    pub fn load(folder: Option<&Path>) -> Result<Self, TemplateError> {
        let mut templates = Self {
            environment: environment(),
            folder: folder.map(Path::to_owned),
        };
        let shipped = [
            (HTML, include_str!("../../../templates/message.html.jinja")),
            (TEXT, include_str!("../../../templates/message.txt.jinja")),
        ];
        let own = folder.map(read_folder).transpose()?.unwrap_or_default();
        for (name, source) in shipped {
            if own.iter().all(|(own, _)| own != name) {
                templates.add(name.to_owned(), source.to_owned())?;
            }
        }
        for (name, source) in own {
            templates.add(name, source)?;
        }
        for page in samples() {
            for (name, made) in [
                (HTML, templates.html(&page)?),
                (TEXT, templates.text(&page)?),
            ] {
                if !made.contains(SAMPLE_WORD) {
                    let file = templates.template_path(name);
                    return Err(TemplateError::NoText(file));
                }
            }
        }
        Ok(templates)
    }

    /// Renders the HTML alternative of a mail.
    pub(super) fn html(&self, page: &Value) -> Result<String, TemplateError> {
        self.render(HTML, page)
    }

    /// Renders the plain-text alternative of a mail.
    pub(super) fn text(&self, page: &Value) -> Result<String, TemplateError> {
        self.render(TEXT, page)
    }

    fn add(&mut self, name: String, source: String) -> Result<(), TemplateError> {
        let added = self.environment.add_template_owned(name.clone(), source);
        added.map_err(|error| self.template_error(&name, &error))
    }

    fn render(&self, name: &str, page: &Value) -> Result<String, TemplateError> {
        let template = self.environment.get_template(name);
        let made = template.and_then(|template| template.render(page.clone()));
        let made = made.map_err(|error| self.template_error(name, &error))?;
        if made.len() > PAGE_BYTES_MAX {
            return Err(TemplateError::TooLong(self.template_path(name)));
        }
        Ok(made)
    }

    fn template_error(&self, name: &str, error: &minijinja::Error) -> TemplateError {
        let file = self.template_path(error.name().unwrap_or(name));
        if error.kind() == ErrorKind::OutOfFuel {
            return TemplateError::TooLong(file);
        }
        let kind = error.kind().to_string();
        TemplateError::Invalid {
            file,
            line: error.line().unwrap_or(0),
            what: error
                .detail()
                .map_or_else(|| kind.clone(), |detail| format!("{kind}: {detail}")),
        }
    }

    /// The path of a template, for messages.
    fn template_path(&self, name: &str) -> PathBuf {
        let own = self.folder.as_ref().map(|folder| folder.join(name));
        own.filter(|path| path.exists())
            .unwrap_or_else(|| PathBuf::from(name))
    }
}

/// The reason why templates cannot be used.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// The folder or a file in it cannot be read.
    #[error("{}: cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// A file is too large.
    #[error("{}: more than {FILE_BYTES_MAX} octets", .0.display())]
    TooBig(PathBuf),
    /// There are too many files.
    #[error("{}: more than {FILES_MAX} templates", .0.display())]
    TooMany(PathBuf),
    /// The folder has neither template.
    #[error("{}: neither {HTML} nor {TEXT} exists", .0.display())]
    Empty(PathBuf),
    /// The template has a syntax error, or uses something undefined.
    #[error("{}, line {line}: {what}", .file.display())]
    Invalid {
        /// The template's file.
        file: PathBuf,
        /// The line, counted from 1; 0 if it is not known.
        line: usize,
        /// The description of the error.
        what: String,
    },
    /// The template renders a mail without the text of the message.
    #[error("{}: does not show the text of the message", .0.display())]
    NoText(PathBuf),
    /// The template does not terminate, or renders too much.
    #[error("{}: takes too long, or renders too much", .0.display())]
    TooLong(PathBuf),
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(50);
    environment.set_auto_escape_callback(|name| {
        if name.ends_with(".txt.jinja") {
            AutoEscape::None
        } else {
            AutoEscape::Html
        }
    });
    environment
}

/// The names and sources of the templates in a folder.
fn read_folder(folder: &Path) -> Result<Vec<(String, String)>, TemplateError> {
    let unreadable = |path: &Path, error| TemplateError::Unreadable(path.to_owned(), error);
    let mut own = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
        let entry = entry.map_err(|error| unreadable(folder, error))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !name.ends_with(TEMPLATE_SUFFIX) || name.starts_with('.') {
            continue;
        }
        if own.len() == FILES_MAX {
            return Err(TemplateError::TooMany(folder.to_owned()));
        }
        let path = entry.path();
        let mut source = String::new();
        File::open(&path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut source))
            .map_err(|error| unreadable(&path, error))?;
        if source.len() as u64 > FILE_BYTES_MAX {
            return Err(TemplateError::TooBig(path));
        }
        own.push((name, source));
    }
    // The files are sorted, so that the same folder always reports the same fault first.
    own.sort();
    if own.iter().all(|(name, _)| name != HTML && name != TEXT) {
        return Err(TemplateError::Empty(folder.to_owned()));
    }
    Ok(own)
}

/// Two pages: one with everything, and one without anything optional.
fn samples() -> [Value; 2] {
    let said = EarlierMessagePage {
        name: "Ann",
        date: "2026-01-31 23:59 UTC",
        text: "Earlier words",
        html: "<p>Earlier words</p>",
    };
    let full = TemplatePage {
        subject: "Re: A question",
        sender_name: "Ann",
        product_name: "Example",
        text: SAMPLE_WORD,
        html: &format!("<p>{SAMPLE_WORD}</p>"),
        attachments: &[("plan.pdf", "12 KB".to_owned())],
        history: &[said],
        marker: "Reply above this line",
        words: super::words::Locale::English.words(),
        language: "en",
        is_automatic: true,
        unsubscribe: Some("https://example.com/u"),
    };
    let bare = TemplatePage {
        subject: "",
        sender_name: "",
        product_name: "",
        attachments: &[],
        history: &[],
        marker: "",
        is_automatic: false,
        unsubscribe: None,
        ..full
    };
    [full.value(), bare.value()]
}

/// The values that a template may use.
#[derive(Clone, Copy)]
pub(super) struct TemplatePage<'a> {
    pub(super) subject: &'a str,
    pub(super) sender_name: &'a str,
    pub(super) product_name: &'a str,
    pub(super) text: &'a str,
    /// The text as sanitised HTML.
    pub(super) html: &'a str,
    /// Name and size of each attachment.
    pub(super) attachments: &'a [(&'a str, String)],
    pub(super) history: &'a [EarlierMessagePage<'a>],
    pub(super) marker: &'a str,
    pub(super) words: super::words::LocaleWords,
    pub(super) language: &'static str,
    pub(super) is_automatic: bool,
    pub(super) unsubscribe: Option<&'a str>,
}

/// An earlier message, as a template may use it.
#[derive(Clone, Copy)]
pub(super) struct EarlierMessagePage<'a> {
    pub(super) name: &'a str,
    pub(super) date: &'a str,
    pub(super) text: &'a str,
    /// The text as sanitised HTML.
    pub(super) html: &'a str,
}

impl TemplatePage<'_> {
    pub(super) fn value(&self) -> Value {
        let safe = |html: &str| Value::from_safe_string(html.to_owned());
        let attachments = self.attachments.iter().map(|(name, size)| {
            Value::from_pairs([("name", Value::from(*name)), ("size", Value::from(size))])
        });
        let history = self.history.iter().map(|said| {
            Value::from_pairs([
                ("name", Value::from(said.name)),
                ("initial", Value::from(initial(said.name))),
                ("date", Value::from(said.date)),
                ("text", Value::from(said.text)),
                ("text_html", safe(said.html)),
            ])
        });
        let words = Value::from_pairs([
            ("via", Value::from(self.words.via)),
            ("earlier", Value::from(self.words.earlier)),
            ("attachments", Value::from(self.words.attachments)),
            ("unsubscribe", Value::from(self.words.unsubscribe)),
        ]);
        Value::from_pairs([
            ("subject", Value::from(self.subject)),
            ("sender_name", Value::from(self.sender_name)),
            ("product_name", Value::from(self.product_name)),
            ("initial", Value::from(initial(self.sender_name))),
            ("text", Value::from(self.text)),
            ("text_html", safe(self.html)),
            ("attachments", attachments.collect()),
            ("history", history.collect()),
            ("marker", Value::from(self.marker)),
            ("words", words),
            ("language", Value::from(self.language)),
            ("is_automatic", Value::from(self.is_automatic)),
            (
                "unsubscribe_url",
                Value::from(self.unsubscribe.unwrap_or_default()),
            ),
        ])
    }
}

/// The first letter or digit of a name, in upper case.
fn initial(name: &str) -> String {
    let first = name.chars().find(|c| c.is_alphanumeric());
    first.map_or_else(String::new, |c| c.to_uppercase().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn fault(files: &[(&str, &str)]) -> String {
        let folder = folder(files);
        let error = Templates::load(Some(folder.path()))
            .unwrap_err()
            .to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn the_templates_compiled_in_can_be_used() {
        Templates::load(None).unwrap();
    }

    #[test]
    fn an_operators_template_replaces_the_built_in_one() {
        let folder = folder(&[
            (TEXT, "{% include 'head.txt.jinja' %}: {{ text }}"),
            ("head.txt.jinja", "Hello & <{{ sender_name }}>"),
            ("notes.md", "{{ no template }}"),
        ]);
        let templates = Templates::load(Some(folder.path())).unwrap();
        let [full, _] = samples();
        assert_eq!(templates.text(&full).unwrap(), "Hello & <Ann>: sampleword");
        assert!(templates.html(&full).unwrap().contains("<html"));
    }

    #[test]
    fn errors_name_file_and_line() {
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ text }}{% endfor %}{% endfor %}";
        for (files, told) in [
            (
                &[(HTML, "a\n{{ text\n")][..],
                "message.html.jinja, line 2: syntax error",
            ),
            (
                &[(TEXT, "{{ text }}\n\n{{ nothing }}")],
                "message.txt.jinja, line 3: undefined value",
            ),
            (
                &[(
                    TEXT,
                    "{{ text }}{% for said in history %}\n{{ said.nmae }}{% endfor %}",
                )],
                "message.txt.jinja, line 2: undefined value",
            ),
            (
                &[(TEXT, "{{ text | shout }}")],
                "message.txt.jinja, line 1: unknown filter",
            ),
            (
                &[(TEXT, "{{ text }}{% include 'none.txt.jinja' %}")],
                "message.txt.jinja, line 1: template not found: tried to include non-existing",
            ),
            (
                &[(TEXT, "Hello")],
                "message.txt.jinja: does not show the text of the message",
            ),
            (
                &[(TEXT, endless)],
                "message.txt.jinja: takes too long, or renders too much",
            ),
            (
                &[(TEXT, "{% include 'message.txt.jinja' %}")],
                "message.txt.jinja",
            ),
            (
                &[("other.jinja", "x")],
                "neither message.html.jinja nor message.txt.jinja exists",
            ),
            (
                &[],
                "neither message.html.jinja nor message.txt.jinja exists",
            ),
        ] {
            let error = fault(files);
            assert!(error.contains(told), "{told}: {error}");
        }
        let big = "x".repeat(300 << 10);
        let error = fault(&[(TEXT, &big)]);
        assert_eq!(error, "message.txt.jinja: more than 262144 octets");
        let error = Templates::load(Some(Path::new("/nowhere/at/all"))).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/at/all: cannot be read");
    }

    #[test]
    fn html_is_escaped_and_text_is_not() {
        let folder = folder(&[
            (HTML, "{{ sender_name }} {{ text }}"),
            (TEXT, "{{ sender_name }} {{ text }}"),
        ]);
        let templates = Templates::load(Some(folder.path())).unwrap();
        let page = Value::from_pairs([("sender_name", "<b>&\"'"), ("text", "x")]);
        assert_eq!(
            templates.html(&page).unwrap(),
            "&lt;b&gt;&amp;&quot;&#x27; x"
        );
        assert_eq!(templates.text(&page).unwrap(), "<b>&\"' x");
    }
}
