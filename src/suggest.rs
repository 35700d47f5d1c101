//! The nearest right name for a wrong one.

/// The candidate that looks most like `wrong`, if any looks alike at all.
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
    fn a_slip_is_mended_and_a_stranger_is_not() {
        let names = ["host", "port", "timeout"];
        assert_eq!(nearest("hots", names), Some("host"));
        assert_eq!(nearest("time-out", names), Some("timeout"));
        assert_eq!(nearest("credentials", names), None);
    }
}
