//! Suggests the nearest valid name for a misspelled one.

/// The candidate most similar to `wrong`, if any is similar enough.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(wrong, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn similar_name_is_suggested_and_other_is_not() {
        let names = ["host", "port", "timeout"];
        assert_eq!(nearest("hots", names), Some("host"));
        assert_eq!(nearest("time-out", names), Some("timeout"));
        assert_eq!(nearest("credentials", names), None);
    }
}
