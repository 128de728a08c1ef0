//! Owns the values of colours.
//!
//! Does not know to which words a colour belongs; `stylesheet` does.

/// The maximum number of characters of a colour.
const CHARS_MAX: usize = 32;

/// The colour in a list of declarations, lower-cased.
pub(super) fn of_declarations(style: &str) -> Option<String> {
    let value = style.split(';').rev().find_map(|declaration| {
        let (name, value) = declaration.split_once(':')?;
        name.trim().eq_ignore_ascii_case("color").then_some(value)
    });
    checked(value?)
}

/// The value, lower-cased; `None` if it cannot be a colour.
pub(super) fn checked(value: &str) -> Option<String> {
    let mut colour = value.trim().to_ascii_lowercase();
    colour.truncate(colour.trim_end_matches("!important").trim_end().len());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "#(),.% ".contains(c);
    ((1..=CHARS_MAX).contains(&colour.len()) && colour.chars().all(is_plain)).then_some(colour)
}

/// True if the colour marks nothing: black, white, grey, or the colour of the surroundings.
pub(super) fn is_neutral(colour: &str) -> bool {
    if matches!(
        colour,
        "black"
            | "white"
            | "windowtext"
            | "inherit"
            | "initial"
            | "unset"
            | "currentcolor"
            | "auto"
            | "transparent"
            | "canvastext"
            | "revert"
    ) || colour.ends_with("gray")
        || colour.ends_with("grey")
    {
        return true;
    }
    parts(colour).is_none_or(|parts| {
        let most = parts.iter().max().copied().unwrap_or_default();
        let least = parts.iter().min().copied().unwrap_or_default();
        most - least < 48
    })
}

/// Red, green and blue. The name of a colour counts as a bright one.
fn parts(colour: &str) -> Option<[u32; 3]> {
    if let Some(digits) = colour.strip_prefix('#') {
        let size = if digits.len() < 6 { 1 } else { 2 };
        let part = |at: usize| {
            let digits = digits.get(at * size..(at + 1) * size)?;
            let value = u32::from_str_radix(digits, 16).ok()?;
            Some(if size == 1 { value * 17 } else { value })
        };
        return Some([part(0)?, part(1)?, part(2)?]);
    }
    if let Some(inner) = colour.strip_prefix("rgb") {
        let inner = inner.trim_start_matches(['a', '(']).trim_end_matches(')');
        let mut values = inner.split([',', ' ']).filter(|part| !part.is_empty());
        let mut next = || values.next()?.parse::<u32>().ok();
        return Some([next()?, next()?, next()?]);
    }
    let is_name = colour.chars().all(|c| c.is_ascii_alphabetic());
    is_name.then_some([255, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_are_colours() {
        for colour in [
            "red",
            "#c00000",
            "#00f",
            "rgb(192, 0, 0)",
            "rgb(0 112 192)",
            "darkblue",
        ] {
            assert!(!is_neutral(colour), "{colour}");
        }
        for colour in [
            "black",
            "#000",
            "#222222",
            "windowtext",
            "rgb(33,33,33)",
            "#1",
            "gray",
            "x y",
        ] {
            assert!(is_neutral(colour), "{colour}");
        }
    }
}
