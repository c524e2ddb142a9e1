//! Words of messages: how many of something, names in a row, and the name that was probably meant.

/// `1 micrograph`, `2 micrographs`: a count with its noun, which is given in the singular.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {}", plural(noun)) }
}

/// The word that agrees with a count: `has` or `have`, `is` or `are`.
pub fn agreeing<'a>(count: usize, for_one: &'a str, for_others: &'a str) -> &'a str {
    if count == 1 { for_one } else { for_others }
}

/// The plural of a noun by the usual rules of spelling.
fn plural(noun: &str) -> String {
    let before_y = noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'i', 'o', 'u']));
    match before_y {
        Some(stem) => format!("{stem}ies"),
        None if ["s", "x", "z", "ch", "sh"].iter().any(|ending| noun.ends_with(ending)) => format!("{noun}es"),
        None => format!("{noun}s"),
    }
}

/// `thi, star, box or coord`: names in a row, the last one after `last_joint` (`or`, `and`).
pub fn row<S: AsRef<str>>(names: &[S], last_joint: &str) -> String {
    match names {
        [] => String::new(),
        [one] => one.as_ref().to_string(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} {last_joint} {}", first.join(", "), last.as_ref())
        }
    }
}

/// The name that was probably meant by `word`, if one is near enough. Letters of `word` may be missing, doubled, exchanged or
/// wrong.
pub fn meant<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Exchanged letters count half, and a right beginning counts in favour: that is how people mistype.
    const NEAR: f64 = 0.84;
    let word = word.to_lowercase();
    let near = names.into_iter().map(|name| (strsim::jaro_winkler(&word, &name.to_lowercase()), name));
    near.filter(|(nearness, _)| *nearness >= NEAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// The end of a message about a wrong word: `; did you mean box?`, or nothing if no name is near.
pub fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    meant(word, names).map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_all_else_plural() {
        let told = [0, 1, 2].map(|count| counted(count, "micrograph"));
        assert_eq!(told, ["0 micrographs", "1 micrograph", "2 micrographs"]);
        assert_eq!([counted(2, "entry"), counted(2, "box"), counted(2, "day")], ["2 entries", "2 boxes", "2 days"]);
    }

    #[test]
    fn names_stand_in_a_row() {
        assert_eq!(row(&["thi", "star", "box"], "or"), "thi, star or box");
        assert_eq!((row(&["thi"], "or"), row::<&str>(&[], "or")), ("thi".to_string(), String::new()));
    }

    #[test]
    fn a_slip_of_the_finger_is_understood_and_another_word_is_not() {
        let names = ["pick", "rethreshold", "coords", "eval", "train", "convert"];
        for (word, name) in [("pcik", "pick"), ("Train", "train"), ("trian", "train"), ("retreshold", "rethreshold"), ("evaluate", "eval")]
        {
            assert_eq!(meant(word, names), Some(name), "{word}");
        }
        for word in ["dance", "x", "", "micrographs"] {
            assert_eq!(meant(word, names), None, "{word}");
        }
        assert_eq!(did_you_mean("picks", names), "; did you mean pick?");
        assert_eq!(did_you_mean("dance", names), "");
    }
}
