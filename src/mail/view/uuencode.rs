//! Owns uuencode (IEEE Std 1003.1 "uuencode"): files in a body, or as a transfer encoding.
//!
//! Does not accept a "begin" without an "end": people write that word too.

use std::ops::Range;

use memchr::memmem;

/// The maximum number of files that are taken out of one text.
const FILES_MAX: usize = 100;

/// A file within a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EncodedFile {
    /// The name after "begin".
    pub(super) name: String,
    /// The range of the file in the text, from "begin" to the line after "end".
    pub(super) place: Range<usize>,
    pub(super) bytes: Vec<u8>,
}

/// The files in a text, in order. The search takes one pass: a "begin" without an "end" is skipped line by
/// line.
pub(super) fn files(text: &[u8]) -> Vec<EncodedFile> {
    let mut files = Vec::new();
    if memmem::find(text, b"begin ").is_none() {
        return files;
    }
    let mut open: Option<EncodedFile> = None;
    let mut at = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let end = at + line.len();
        let bare = without_end(line);
        if let Some(file) = open.as_mut() {
            if bare.trim_ascii_end() == b"end" {
                file.place.end = end;
                files.extend(open.take());
                if files.len() == FILES_MAX {
                    return files;
                }
            } else if decode_line(bare, |byte| file.bytes.push(byte)).is_none() {
                open = None;
            }
        }
        if open.is_none()
            && let Some(name) = begin(bare)
        {
            open = Some(EncodedFile {
                name,
                place: at..end,
                bytes: Vec::new(),
            });
        }
        at = end;
    }
    files
}

/// The octets of a body that is one file, with or without its "begin".
pub(super) fn decode(body: &[u8], mut sink: impl FnMut(u8)) {
    let has_begin = |line: &[u8]| begin(without_end(line)).is_some();
    let mut is_open = !body.split(|&byte| byte == b'\n').any(has_begin);
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        let bare = without_end(line);
        if bare.trim_ascii_end() == b"end" {
            return;
        }
        if is_open {
            decode_line(bare, &mut sink);
        }
        is_open |= begin(bare).is_some();
    }
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The name in `begin 644 name`.
fn begin(line: &[u8]) -> Option<String> {
    let rest = line.strip_prefix(b"begin ")?;
    let digits = rest.iter().take_while(|byte| (b'0'..=b'7').contains(byte));
    let digits = digits.count();
    let name = rest[digits..].strip_prefix(b" ")?.trim_ascii();
    let is_begin = (3..=4).contains(&digits) && (1..=255).contains(&name.len());
    is_begin.then(|| crate::mail::charset::decode(name, None, None))
}

/// The octets of one line; `None` if it is not a line of a file. Blanks at its end may have been lost on the
/// way.
fn decode_line(line: &[u8], mut sink: impl FnMut(u8)) -> Option<()> {
    let Some((&first, letters)) = line.split_first() else {
        return Some(());
    };
    let length = usize::from(value(first)?);
    let needed = length.div_ceil(3) * 4;
    // Some programs add a check character.
    if letters.len() > needed + 1 || length > letters.len() + 1 {
        return None;
    }
    if !letters.iter().all(|letter| value(*letter).is_some()) {
        return None;
    }
    let octet = |at: usize| letters.get(at).copied().and_then(value).unwrap_or(0);
    let mut left = length;
    for at in (0..needed).step_by(4) {
        let four = [octet(at), octet(at + 1), octet(at + 2), octet(at + 3)];
        let three = [
            four[0] << 2 | four[1] >> 4,
            four[1] << 4 | four[2] >> 2,
            four[2] << 6 | four[3],
        ];
        three.into_iter().take(left).for_each(&mut sink);
        left = left.saturating_sub(3);
    }
    Some(())
}

const fn value(letter: u8) -> Option<u8> {
    match letter {
        b' '..=b'`' => Some((letter - b' ') & 0x3f),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAT: &str = "begin 644 cat.txt\n#0V%T\n`\nend\n";

    #[test]
    fn files_in_a_text_are_found() {
        let text = format!("Bonjour,\n\n{CAT}\nMerci\n");
        let found = files(text.as_bytes());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "cat.txt");
        assert_eq!(found[0].bytes, b"Cat");
        assert_eq!(&text[found[0].place.clone()], CAT);
        let two = format!("{CAT}{}", CAT.replace("\n", "\r\n"));
        assert_eq!(files(two.as_bytes()).len(), 2);
        for typed in [
            "begin 644 cat.txt\nand then I wrote\nend\n",
            "begin 644 cat.txt\n#0V%T\n",
            "begin to\nend\n",
            "> begin 644 a\n> #0V%T\n> end\n",
        ] {
            assert_eq!(files(typed.as_bytes()), [], "{typed}");
        }
        assert_eq!(files(CAT.repeat(500).as_bytes()).len(), FILES_MAX);
    }

    #[test]
    fn a_body_may_be_one_file() {
        for body in [CAT, "#0V%T\n`\n", "#0V%T"] {
            let mut bytes = Vec::new();
            decode(body.as_bytes(), |byte| bytes.push(byte));
            assert_eq!(bytes, b"Cat", "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_octets_panic(body: Vec<u8>) {
            let mut count = 0;
            decode(&body, |_| count += 1);
            prop_assert!(count <= body.len());
            let whole = [b"begin 644 a\n".as_slice(), &body, b"\nend\n"].concat();
            for file in files(&whole) {
                prop_assert!(file.bytes.len() <= whole.len());
            }
        }
    }
}
