//! Owns the grammar of commands: parses one line to one [`SmtpCommand`].
//!
//! Does not know the order of commands, nor which recipients are ours.

use std::fmt;

use crate::mail::address::{Address, Domain};

use super::response::Refusal;

/// Octets of a path with its brackets (RFC 5321 section 4.5.3.1.3).
const PATH_BYTES_MAX: usize = 256;
/// Octets of the name in a greeting: the length of a domain.
const HELLO_NAME_BYTES_MAX: usize = 255;

/// A well-formed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SmtpCommand {
    Bdat,
    Data,
    Ehlo(String),
    Helo(String),
    Help,
    Lhlo(String),
    Mail(MailFrom),
    Noop,
    Quit,
    Rcpt(ForwardPath),
    Rset,
    StartTls,
    Vrfy,
    /// The attributes, not yet parsed: a peer that may not send them must not learn if they are valid.
    Xclient(String),
    Xforward(String),
}

/// The arguments of MAIL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MailFrom {
    /// `None` is the null sender.
    pub(super) sender: Option<Address>,
    /// SIZE (RFC 1870), clamped to the range of `u64`.
    pub(super) size: Option<u64>,
    /// SMTPUTF8 (RFC 6531).
    pub(super) smtputf8: bool,
    /// BODY (RFC 6152). Both values are treated as 8BITMIME; the field only detects a repetition.
    body: bool,
}

/// The forward-path of RCPT, with source routes stripped.
#[derive(Clone, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<local@domain>`.
    Mailbox(Address),
    /// `<postmaster>` without a domain, which every host has (RFC 5321 section 4.5.1).
    Postmaster,
}

impl fmt::Debug for ForwardPath {
    /// Leaves out the address, which may contain a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mailbox(_) => "Mailbox(..)",
            Self::Postmaster => "Postmaster",
        })
    }
}

impl SmtpCommand {
    /// Parses a command line without its line end.
    pub(super) fn parse(line: &str) -> Result<Self, Refusal> {
        let line = line.trim_end_matches(' ');
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let argument = argument.trim_start_matches(' ');
        let plain = |command| {
            if argument.is_empty() {
                Ok(command)
            } else {
                Err(Refusal::ArgumentMalformed)
            }
        };
        match verb.to_ascii_uppercase().as_str() {
            "BDAT" => Ok(Self::Bdat),
            "DATA" => plain(Self::Data),
            "EHLO" => parse_hello_name(argument).map(Self::Ehlo),
            "HELO" => parse_hello_name(argument).map(Self::Helo),
            "HELP" => Ok(Self::Help),
            "LHLO" => parse_hello_name(argument).map(Self::Lhlo),
            "MAIL" => parse_mail(argument).map(Self::Mail),
            "NOOP" => Ok(Self::Noop),
            "QUIT" => plain(Self::Quit),
            "RCPT" => parse_rcpt(argument).map(Self::Rcpt),
            "RSET" => plain(Self::Rset),
            "STARTTLS" => plain(Self::StartTls),
            "VRFY" if argument.is_empty() => Err(Refusal::ArgumentMalformed),
            "VRFY" => Ok(Self::Vrfy),
            "ATRN" | "AUTH" | "ETRN" | "EXPN" | "SAML" | "SEND" | "SOML" | "TURN" => {
                Err(Refusal::CommandUnavailable)
            }
            "XCLIENT" => Ok(Self::Xclient(argument.to_owned())),
            "XFORWARD" => Ok(Self::Xforward(argument.to_owned())),
            _ => Err(Refusal::CommandUnknown),
        }
    }
}

fn parse_hello_name(argument: &str) -> Result<String, Refusal> {
    if (1..=HELLO_NAME_BYTES_MAX).contains(&argument.len()) {
        Ok(argument.to_owned())
    } else {
        Err(Refusal::HelloNameMalformed)
    }
}

fn parse_mail(argument: &str) -> Result<MailFrom, Refusal> {
    let rest = after_keyword(argument, "FROM:")?;
    let (path, parameters) = split_path(rest).ok_or(Refusal::SenderSyntax)?;
    let mut mail = MailFrom::default();
    if !path.is_empty() {
        mail.sender = Some(parse_mailbox(path).ok_or(Refusal::SenderSyntax)?);
    }
    for parameter in parameters.split(' ').filter(|p| !p.is_empty()) {
        mail.add(parameter)?;
    }
    if !mail.smtputf8 && mail.sender.as_ref().is_some_and(Address::is_utf8) {
        return Err(Refusal::Utf8Unannounced);
    }
    Ok(mail)
}

impl MailFrom {
    fn add(&mut self, parameter: &str) -> Result<(), Refusal> {
        let (keyword, value) = keyword_and_value(parameter)?;
        let again = match keyword.as_str() {
            "BODY" => {
                let fits = |v: &str| {
                    ["7BIT", "8BITMIME"]
                        .iter()
                        .any(|b| v.eq_ignore_ascii_case(b))
                };
                value
                    .filter(|v| fits(v))
                    .ok_or(Refusal::ParameterMalformed)?;
                std::mem::replace(&mut self.body, true)
            }
            "SIZE" => {
                let size = value
                    .and_then(parse_size)
                    .ok_or(Refusal::ParameterMalformed)?;
                self.size.replace(size).is_some()
            }
            "SMTPUTF8" => value.is_some() || std::mem::replace(&mut self.smtputf8, true),
            _ => return Err(Refusal::ParameterUnknown),
        };
        if again {
            return Err(Refusal::ParameterMalformed);
        }
        Ok(())
    }
}

fn parse_rcpt(argument: &str) -> Result<ForwardPath, Refusal> {
    let rest = after_keyword(argument, "TO:")?;
    let (path, parameters) = split_path(rest).ok_or(Refusal::RecipientSyntax)?;
    let recipient = if path.eq_ignore_ascii_case("postmaster") {
        ForwardPath::Postmaster
    } else {
        ForwardPath::Mailbox(parse_mailbox(path).ok_or(Refusal::RecipientSyntax)?)
    };
    if let Some(parameter) = parameters.split(' ').find(|p| !p.is_empty()) {
        // None of the supported extensions has a parameter here.
        keyword_and_value(parameter)?;
        return Err(Refusal::ParameterUnknown);
    }
    Ok(recipient)
}

fn after_keyword<'l>(argument: &'l str, keyword: &str) -> Result<&'l str, Refusal> {
    match argument.split_at_checked(keyword.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(keyword) => Ok(rest),
        _ => Err(Refusal::ArgumentMalformed),
    }
}

/// Splits `<path>` from the start: returns the text in the brackets, and the parameters after them.
///
/// A bracket in a quoted local part does not end the path. The grammar has no space before the path, but
/// old clients send one.
fn split_path(text: &str) -> Option<(&str, &str)> {
    let inner = text.trim_start_matches(' ').strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => {
                let (path, rest) = (&inner[..at], &inner[at + 1..]);
                let ends = rest.is_empty() || rest.starts_with(' ');
                return (ends && path.len() + "<>".len() <= PATH_BYTES_MAX).then_some((path, rest));
            }
            _ => {}
        }
    }
    None
}

/// Parses a mailbox after its source route, which is dropped (RFC 5321 section 4.1.1.3).
fn parse_mailbox(path: &str) -> Option<Address> {
    let mut rest = path;
    while let Some(hop) = rest.strip_prefix('@') {
        // The colons of an address literal do not end the route.
        let literal = if hop.starts_with('[') {
            hop.find(']')?
        } else {
            0
        };
        let end = literal + hop[literal..].find([',', ':'])?;
        Domain::parse(&hop[..end]).ok()?;
        rest = &hop[end + 1..];
        let last = hop[end..].starts_with(':');
        // Another hop follows a comma, the mailbox follows a colon.
        if last == rest.starts_with('@') {
            return None;
        }
    }
    Address::parse(rest).ok()
}

/// Parses `KEYWORD` or `KEYWORD=value` (RFC 5321 section 4.1.2, esmtp-param).
fn keyword_and_value(parameter: &str) -> Result<(String, Option<&str>), Refusal> {
    let (keyword, value) = match parameter.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (parameter, None),
    };
    let keyword_fits = keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
        && keyword
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !keyword_fits || value.is_some_and(|value| value.is_empty() || value.contains('=')) {
        return Err(Refusal::ParameterMalformed);
    }
    Ok((keyword.to_ascii_uppercase(), value))
}

/// Parses the value of SIZE, 1 to 20 digits (RFC 1870 section 3).
fn parse_size(value: &str) -> Option<u64> {
    const DIGITS_MAX: usize = 20;
    let fits = (1..=DIGITS_MAX).contains(&value.len()) && value.bytes().all(|d| d.is_ascii_digit());
    // Twenty digits can exceed a u64, but such a number exceeds every bound anyway.
    fits.then(|| value.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use crate::mail::address::LOCAL_BYTES_RECEIVED_MAX;

    use super::*;

    fn recipient(path: &str) -> Result<String, Refusal> {
        match SmtpCommand::parse(&format!("RCPT TO:{path}"))? {
            SmtpCommand::Rcpt(ForwardPath::Mailbox(address)) => Ok(address.to_string()),
            SmtpCommand::Rcpt(ForwardPath::Postmaster) => Ok("postmaster".to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_are_read_exactly() {
        for (path, expected) in [
            ("<a@us>", "a@us"),
            (" <a@US>", "a@us"),
            ("<PostMaster>", "postmaster"),
            ("<\"a@elsewhere\"@us>", "\"a@elsewhere\"@us"),
            ("<\"a>b\"@us>", "\"a>b\"@us"),
            ("<\"a\\\">b\"@us>", "\"a\\\">b\"@us"),
            ("<@us:a@elsewhere>", "a@elsewhere"),
            ("<@us,@b.example:a@elsewhere>", "a@elsewhere"),
            ("<@[IPv6:::1]:a@elsewhere>", "a@elsewhere"),
            ("<a%elsewhere@us>", "a%elsewhere@us"),
            ("<elsewhere!a@us>", "elsewhere!a@us"),
            ("<a@[127.0.0.1]>", "a@[127.0.0.1]"),
            ("<${run{id}}@us>", "${run{id}}@us"),
            ("<|cmd@us>", "|cmd@us"),
            ("<../../x@us>", ""),
            ("<$(id)@us>", ""),
            ("<a@us@elsewhere>", ""),
            ("<a@us.>", ""),
            ("<>", ""),
            ("<a>", ""),
            ("a@us", ""),
            ("<a@us", ""),
            ("<a@us>x", ""),
            ("<<a@us>>", ""),
            ("<@us,a@elsewhere>", ""),
            ("<@us:@b:a@elsewhere>", ""),
            ("<@:a@elsewhere>", ""),
            ("<@us>", ""),
            ("<\"a\"b@us>", ""),
        ] {
            let expected = if expected.is_empty() {
                Err(Refusal::RecipientSyntax)
            } else {
                Ok(expected.to_owned())
            };
            assert_eq!(recipient(path), expected, "{path}");
        }
    }

    #[test]
    fn the_longest_path_is_taken_and_one_octet_more_is_not() {
        let label = "d".repeat(63);
        let domain = format!("{label}.{label}.{label}");
        let local = |octets: usize| format!("<{}@{domain}>", "a".repeat(octets));
        assert_eq!(local(62).len(), PATH_BYTES_MAX);
        assert!(recipient(&local(62)).is_ok());
        assert_eq!(recipient(&local(63)), Err(Refusal::RecipientSyntax));
        let local = |octets: usize| format!("<{}@us>", "a".repeat(octets));
        assert!(recipient(&local(LOCAL_BYTES_RECEIVED_MAX)).is_ok());
        assert_eq!(
            recipient(&local(LOCAL_BYTES_RECEIVED_MAX + 1)),
            Err(Refusal::RecipientSyntax)
        );
    }

    #[test]
    fn parameters_are_known_or_refused() {
        for (parameters, expected) in [
            ("SIZE=0 BODY=8bitmime SMTPUTF8", None),
            ("size=18446744073709551616", None),
            ("  BODY=7BIT  ", None),
            ("SIZE", Some(Refusal::ParameterMalformed)),
            ("SIZE=", Some(Refusal::ParameterMalformed)),
            ("SIZE=-1", Some(Refusal::ParameterMalformed)),
            ("SIZE=+1", Some(Refusal::ParameterMalformed)),
            ("SIZE=1e9", Some(Refusal::ParameterMalformed)),
            (
                "SIZE=000000000000000000001",
                Some(Refusal::ParameterMalformed),
            ),
            ("SIZE=1 SIZE=1", Some(Refusal::ParameterMalformed)),
            ("BODY", Some(Refusal::ParameterMalformed)),
            ("BODY=BINARYMIME", Some(Refusal::ParameterMalformed)),
            ("BODY=7BIT BODY=7BIT", Some(Refusal::ParameterMalformed)),
            ("SMTPUTF8=yes", Some(Refusal::ParameterMalformed)),
            ("SMTPUTF8 SMTPUTF8", Some(Refusal::ParameterMalformed)),
            ("=x", Some(Refusal::ParameterMalformed)),
            ("-X=x", Some(Refusal::ParameterMalformed)),
            ("RET=HDRS", Some(Refusal::ParameterUnknown)),
            ("ENVID=x", Some(Refusal::ParameterUnknown)),
            ("REQUIRETLS", Some(Refusal::ParameterUnknown)),
            ("AUTH=<>", Some(Refusal::ParameterUnknown)),
            ("MT-PRIORITY=3", Some(Refusal::ParameterUnknown)),
            ("X=Y", Some(Refusal::ParameterUnknown)),
        ] {
            let parsed = SmtpCommand::parse(&format!("MAIL FROM:<a@peer.test> {parameters}"));
            assert_eq!(parsed.err(), expected, "{parameters}");
        }
        let rcpt = |parameter: &str| SmtpCommand::parse(&format!("RCPT TO:<a@us> {parameter}"));
        assert_eq!(rcpt("NOTIFY=NEVER"), Err(Refusal::ParameterUnknown));
        assert_eq!(rcpt("ORCPT=rfc822;a"), Err(Refusal::ParameterUnknown));
        assert_eq!(rcpt("="), Err(Refusal::ParameterMalformed));
    }

    #[test]
    fn verbs_are_read_in_any_case() {
        assert_eq!(SmtpCommand::parse("quit"), Ok(SmtpCommand::Quit));
        assert_eq!(SmtpCommand::parse("rSeT  "), Ok(SmtpCommand::Rset));
        assert_eq!(
            SmtpCommand::parse("RSET x"),
            Err(Refusal::ArgumentMalformed)
        );
        assert_eq!(SmtpCommand::parse(""), Err(Refusal::CommandUnknown));
        assert_eq!(SmtpCommand::parse(" QUIT"), Err(Refusal::CommandUnknown));
        assert_eq!(SmtpCommand::parse("EHLO"), Err(Refusal::HelloNameMalformed));
    }

    #[test]
    fn utf8_needs_its_parameter() {
        let plain = SmtpCommand::parse("MAIL FROM:<jörg@peer.test>");
        assert_eq!(plain, Err(Refusal::Utf8Unannounced));
        assert!(SmtpCommand::parse("MAIL FROM:<jörg@peer.test> SMTPUTF8").is_ok());
    }
}
