//! What somebody may have meant.

/// The names that are nearest to one that does not exist, at most three; none if nothing is near.
pub fn nearest(wanted: &str, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let most = wanted.chars().count() / 3 + 1;
    let near = |name: &String| distance(wanted, name) <= most || name.starts_with(wanted);
    let mut near: Vec<_> = names.into_iter().filter(near).collect();
    near.sort_by_key(|name| (distance(wanted, name), name.clone()));
    near.truncate(3);
    near
}

/// How many letters must be put in, left out or changed to make one word the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let best = (diagonal + usize::from(x != *y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", "", 0)]
    #[case("abc", "", 3)]
    #[case("", "abc", 3)]
    #[case("r7-u01", "r7-u10", 2)]
    #[case("kitten", "sitting", 3)]
    fn distances(#[case] a: &str, #[case] b: &str, #[case] wanted: usize) {
        assert_eq!(distance(a, b), wanted);
    }

    #[test]
    fn what_is_near_is_named_and_what_is_not_is_not() {
        let names = || ["r7-u01", "r7-u02", "rack-9", "gpu-1"].map(str::to_owned);
        assert_eq!(nearest("r7u01", names()), ["r7-u01", "r7-u02"]);
        assert_eq!(nearest("r7", names()), ["r7-u01", "r7-u02"], "a beginning");
        assert!(nearest("database", names()).is_empty());
    }
}
