//! Short ids for people: the noun and the last digits of an id, as many as tell it from all others of the same listing.
//!
//! Ids begin with the time at which they were made, so those of one moment begin alike; their ends are by chance. [`lookup`]
//! takes an end for the id that has it.
//!
//! [`lookup`]: super::lookup

use std::collections::{BTreeMap, BTreeSet};

use super::lookup::NOUNS;

const DIGITS: usize = 32;
/// The least number of digits that are shown.
const SHOWN_MIN: usize = 8;

/// The number of last digits that the ids of one listing are shown with.
#[derive(Clone, Copy, Debug)]
pub struct Short(usize);

impl Short {
    /// Counts the digits that the ids in all of these texts need.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for text in texts {
            for (noun, digits) in ids(text) {
                known.entry(&text[noun]).or_default().insert(&text[digits]);
            }
        }
        let unique = |all: &BTreeSet<&str>, shown: usize| {
            all.iter().map(|digits| &digits[DIGITS - shown..]).collect::<BTreeSet<_>>().len() == all.len()
        };
        let needed = (SHOWN_MIN..DIGITS).find(|shown| known.values().all(|all| unique(all, *shown)));
        Self(needed.unwrap_or(DIGITS))
    }

    /// Shortens every id in a text.
    pub fn text(self, text: &str) -> String {
        let (mut short, mut done) = (String::with_capacity(text.len()), 0);
        for (_, digits) in ids(text) {
            short.push_str(&text[done..digits.start]);
            done = digits.end - self.0;
        }
        short + &text[done..]
    }
}

/// Shortens every id of one text.
pub fn shortened(text: &str) -> String {
    Short::of([text]).text(text)
}

type Range = std::ops::Range<usize>;

/// Finds the whole ids in a text: the places of their nouns and of their digits.
fn ids(text: &str) -> impl Iterator<Item = (Range, Range)> {
    let bytes = text.as_bytes();
    let word = |at: usize| bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    text.match_indices('_').filter_map(move |(at, _)| {
        let begin = (0..at).rev().take_while(|before| bytes[*before].is_ascii_lowercase()).last()?;
        let digits = at + 1..at + 1 + DIGITS;
        let hex = bytes.get(digits.clone())?.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let apart = !word(digits.end) && (begin == 0 || !word(begin - 1));
        let known = NOUNS.iter().any(|noun| noun.word.as_bytes() == &bytes[begin..at]);
        (hex && apart && known).then_some((begin..at, digits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shown_by_their_last_eight_digits_wherever_they_stand_and_nothing_else_is() {
        let id = "0192f0c1a2b37c4d8e9fa0b1c2d3e4f5";
        assert_eq!(shortened(&format!("task_{id}/1 went to agent_{id}.")), "task_c2d3e4f5/1 went to agent_c2d3e4f5.");
        for text in
            ["", "é_", "task_0192", &format!("_{id}"), &format!("trace_{id}"), &format!("task_{id}0"), &format!("my_task_{id}")]
        {
            assert_eq!(shortened(text), text);
        }
    }

    #[test]
    fn ids_that_end_alike_are_shown_with_as_many_digits_as_tell_them_apart() {
        let (one, two) = ("task_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5", "task_0192f0c1a2b37c4d8e9fb1b1c2d3e4f5");
        let short = Short::of([one, two]);
        assert_eq!((short.text(one).as_str(), short.text(two).as_str()), ("task_0b1c2d3e4f5", "task_1b1c2d3e4f5"));
        assert_eq!(Short::of([one, one]).text(one), "task_c2d3e4f5", "twice the same is one");
        let agent = two.replace("task", "agent");
        assert_eq!(Short::of([one, agent.as_str()]).text(one), "task_c2d3e4f5", "nouns tell apart");
        assert_eq!(Short::of([one, two, agent.as_str()]).text(one), "task_0b1c2d3e4f5", "each noun needs its own");
    }
}
