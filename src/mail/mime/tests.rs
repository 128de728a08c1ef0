use super::*;

fn shape(mail: &[u8]) -> MailStructure {
    MailStructure::of(mail)
}

fn flags(mail: &[u8]) -> Vec<Flag> {
    shape(mail).flags.into_iter().collect()
}

/// `depth` multiparts, each the only part of the one before.
fn nested(depth: usize) -> Vec<u8> {
    let mut mail = String::new();
    for level in 0..depth {
        mail.push_str(&format!(
            "Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"
        ));
    }
    mail.push_str("\r\nwords\r\n");
    mail.into_bytes()
}

#[test]
fn depth_is_bounded_exactly() {
    let within = shape(&nested(DEPTH_MAX));
    assert_eq!(within.parts.len(), DEPTH_MAX + 1);
    assert!(within.flags.is_empty());
    let beyond = shape(&nested(DEPTH_MAX + 1));
    assert_eq!(
        beyond.flags.into_iter().collect::<Vec<_>>(),
        [Flag::TooDeep]
    );
    assert_eq!(beyond.parts.len(), DEPTH_MAX + 1);
    assert_eq!(flags(&nested(188_000)), [Flag::TooDeep]);
}

#[test]
fn parts_are_bounded_exactly() {
    let mail = |count: usize| {
        let head = "Content-Type: multipart/mixed; boundary=a\n\n";
        format!("{head}{}", "--a\n\n".repeat(count)).into_bytes()
    };
    assert_eq!(flags(&mail(PARTS_MAX - 1)), []);
    assert_eq!(flags(&mail(PARTS_MAX)), [Flag::TooManyParts]);
    assert_eq!(shape(&mail(2_000_000)).parts.len(), PARTS_MAX);
}

#[test]
fn fields_are_bounded_exactly() {
    let mail = |count: usize| format!("{}\n", "A: b\n".repeat(count)).into_bytes();
    assert_eq!(flags(&mail(FIELDS_MAX)), []);
    let beyond = shape(&mail(FIELDS_MAX + 1));
    assert_eq!(beyond.header.fields.len(), FIELDS_MAX);
    assert!(beyond.flags.contains(&Flag::TooManyFields));
}

#[test]
fn the_body_is_found_behind_a_header_without_end() {
    let field = format!("X: {}\n", "y".repeat(1_000));
    let mail = format!("{}\nbody", field.repeat(HEADER_BYTES_MAX / 1_000 + 1)).into_bytes();
    let shape = shape(&mail);
    assert!(shape.flags.contains(&Flag::HeaderTooLong));
    assert_eq!(&mail[shape.parts[0].body.clone()], b"body");
}

#[test]
fn outer_delimiters_end_inner_parts() {
    let mail = b"Content-Type: multipart/mixed; boundary=o\n\n--o\n\
        Content-Type: multipart/mixed; boundary=i\n\n--i\n\none\n--o  \n\ntwo\n--o--\nend\n--o\n\nno\n";
    let shape = shape(mail);
    let bodies: Vec<_> = shape.parts[2..]
        .iter()
        .map(|part| str::from_utf8(&mail[part.body.clone()]).unwrap())
        .collect();
    assert_eq!(bodies, ["one", "two"]);
    assert_eq!(shape.parts[3].parent, Some(0));
}

#[test]
fn digests_hold_mails() {
    let mail = b"Content-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: x\n\ny\n--d--\n";
    assert_eq!(shape(mail).parts[1].content.media_type, "message/rfc822");
}

#[test]
fn parser_input_is_cut_before_the_bound() {
    let mut flags = BTreeSet::new();
    let words = "=?utf-8?q?a?= =?koi8-r?q?a?= ".repeat(ENCODED_WORDS_MAX / 2 + 1);
    let input = parser_input(words.as_bytes(), None, &mut flags);
    assert_eq!(
        memchr::memmem::find_iter(&input, b"=?utf-8?B?").count(),
        ENCODED_WORDS_MAX
    );
    let parameters = format!("a/b{}", "; c*1=d".repeat(PARAMETERS_MAX + 1));
    let input = parser_input(parameters.as_bytes(), None, &mut flags);
    assert_eq!(input.iter().filter(|&&b| b == b';').count(), PARAMETERS_MAX);
    assert_eq!(
        flags.into_iter().collect::<Vec<_>>(),
        [Flag::TooManyEncodedWords, Flag::TooManyParameters]
    );
}
