//! Owns the parsing of Rust, as far as finding its paths needs it.
//!
//! Does not know the rules.

/// The code without test-only items, which follow `#[cfg(test)]`.
pub(super) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        rest = &item[item_end(item)..];
    }
    out.push_str(rest);
    out
}

/// Octets of the item at the start of the code: up to its semicolon, or to the end of its braces.
fn item_end(code: &str) -> usize {
    let mut words = code.split_whitespace();
    let is_use = words.find(|word| !word.starts_with(['#', 'p'])) == Some("use");
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
        if c == '}' && depth == 0 && !is_use {
            return at + 1;
        }
    }
    code.len()
}

/// Every path in the code, name by name; `a::{b, c::d}` is two.
pub(super) fn paths_of(code: &str) -> Vec<Vec<String>> {
    let mut tokens = tokens_of(code).into_iter().peekable();
    let mut paths = Vec::new();
    let mut prefixes: Vec<Vec<String>> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    while let Some(token) = tokens.next() {
        match token.as_str() {
            "::" => {
                if tokens.peek().is_some_and(|next| next == "{") {
                    tokens.next();
                    let whole = [prefixes.last().cloned().unwrap_or_default(), path.clone()];
                    prefixes.push(whole.concat());
                    path.clear();
                }
            }
            "," if !prefixes.is_empty() => end(&mut path, &prefixes, &mut paths),
            "}" if !prefixes.is_empty() => {
                end(&mut path, &prefixes, &mut paths);
                prefixes.pop();
            }
            name if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(name.to_owned());
                if tokens.peek().is_none_or(|next| next != "::") {
                    end(&mut path, &prefixes, &mut paths);
                }
            }
            _ => end(&mut path, &prefixes, &mut paths),
        }
    }
    paths
}

fn end(path: &mut Vec<String>, prefixes: &[Vec<String>], paths: &mut Vec<Vec<String>>) {
    if !path.is_empty() {
        let whole = [prefixes.last().cloned().unwrap_or_default(), path.clone()];
        paths.push(whole.concat());
        path.clear();
    }
}

fn tokens_of(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if word(first) {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            tokens.push(rest[..length].to_owned());
        }
        rest = &rest[length..];
    }
    tokens
}

/// The text without comments, strings and characters: what is left is code.
pub(super) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = skipped(rest);
        if skipped > 0 {
            code.push(' ');
            rest = &rest[skipped..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

/// The length of a comment, a string or a character at the start of `rest`.
fn skipped(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let raw = rest.strip_prefix('b').unwrap_or(rest);
    if let Some(opening) = raw.strip_prefix('r') {
        let hashes = opening.len() - opening.trim_start_matches('#').len();
        if opening[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let head = rest.len() - opening.len() + hashes + 1;
            return rest[head..]
                .find(&close)
                .map_or(rest.len(), |at| head + at + close.len());
        }
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    // A character, not a lifetime: the closing quote comes after one character or an escape.
    if let Some(inner) = rest.strip_prefix('\'') {
        let second = inner.chars().nth(1);
        if inner.starts_with('\\') || second == Some('\'') {
            return quoted(rest, '\'');
        }
    }
    0
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}
