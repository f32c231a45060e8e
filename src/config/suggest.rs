//! "Did you mean": the nearest of some words. Not for anything that acts on its own: people decide.

/// More edits than this are another word.
const FARTHEST: usize = 3;

/// The word of `words` that needs the fewest edits to become `wrong`, unless it needs too many.
pub fn nearest<'a>(wrong: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = words.map(|word| (edits(wrong, word), word));
    let (distance, word) = scored.min_by_key(|(distance, _)| *distance)?;
    let allowed = FARTHEST.min(wrong.chars().count().max(2) / 2);
    (distance <= allowed).then_some(word)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment) between two short words.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["upstream.url", "feed.listen", "outbox.window"];
        let near = |wrong| nearest(wrong, words.iter().copied());
        assert_eq!(near("upstream.ulr"), Some("upstream.url"));
        assert_eq!(near("feed.lisen"), Some("feed.listen"));
        assert_eq!(near("outbox.windows"), Some("outbox.window"));
        assert_eq!(near("admin.password"), None);
        assert_eq!(nearest("x", [].into_iter()), None);
    }

    #[test]
    fn a_swap_is_one_edit() {
        assert_eq!(edits("url", "ulr"), 1);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", "abc"), 0);
    }
}
