//! Counts one key's last minute. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

const MINUTE: Duration = Duration::from_secs(60);
/// The time within which entries are kept as one, so that a minute has a bounded number of them.
const GRAIN: Duration = Duration::from_millis(500);

/// The limits of a provider for a key in any minute; no limit if absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    pub requests: Option<u32>,
    pub tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The time of the newest in it: it is forgotten late rather than early.
    at: Instant,
    since: Instant,
    number: u64,
    requests: u64,
    tokens: u64,
}

/// The last minute of one key. It counts exactly, and never lets more through in any minute than the limit.
#[derive(Debug, Default)]
pub struct Rate {
    pub limit: RateLimit,
    entries: VecDeque<Entry>,
    requests: u64,
    tokens: u64,
    next: u64,
}

/// The place where tokens were counted, to correct them when the call has said what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    entry: u64,
    tokens: u64,
}

impl Rate {
    /// Makes a key's minute with this limit and nothing counted.
    #[cfg(test)]
    pub fn new(limit: RateLimit) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Counts a request, or returns after how long to ask again.
    pub fn admit(&mut self, now: Instant, tokens: u64) -> Result<Counted, Duration> {
        while self.entries.front().is_some_and(|entry| now.saturating_duration_since(entry.at) >= MINUTE) {
            if let Some(old) = self.entries.pop_front() {
                self.requests -= old.requests;
                self.tokens -= old.tokens;
            }
        }
        // One that is larger than the limit goes alone: it would wait for ever.
        let tokens = self.limit.tokens.map_or(tokens, |limit| tokens.min(limit));
        let requests_fit = self.limit.requests.is_none_or(|limit| self.requests < u64::from(limit.max(1)));
        let tokens_fit = self.limit.tokens.is_none_or(|limit| self.tokens.saturating_add(tokens) <= limit);
        if !(requests_fit && tokens_fit) {
            let oldest = self.entries.front().map_or(now, |entry| entry.at);
            return Err((oldest + MINUTE).saturating_duration_since(now).max(Duration::from_millis(1)));
        }
        self.requests += 1;
        self.tokens += tokens;
        match self.entries.back_mut().filter(|entry| now.saturating_duration_since(entry.since) < GRAIN) {
            Some(entry) => {
                entry.at = entry.at.max(now);
                entry.requests += 1;
                entry.tokens += tokens;
            }
            None => {
                self.entries.push_back(Entry { at: now, since: now, number: self.next, requests: 1, tokens });
                self.next += 1;
            }
        }
        Ok(Counted { entry: self.next - 1, tokens })
    }

    /// Corrects what was counted, because the call used so many tokens instead. Changes nothing once the entry is forgotten.
    pub fn correct(&mut self, counted: Counted, used: u64) {
        let Some(first) = self.entries.front().map(|entry| entry.number) else { return };
        let place = counted.entry.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        let Some(entry) = place.and_then(|place| self.entries.get_mut(place)) else { return };
        entry.tokens = entry.tokens.saturating_sub(counted.tokens).saturating_add(used);
        self.tokens = self.entries.iter().map(|entry| entry.tokens).fold(0, u64::saturating_add);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_minute_has_more_than_the_limit(steps in proptest::collection::vec((0_u64..20_000, 1_u64..50), 1..300)) {
            let limit = RateLimit { requests: Some(7), tokens: Some(100) };
            let (mut rate, mut now, mut through) = (Rate::new(limit), Instant::now(), Vec::new());
            for (millis, tokens) in steps {
                now += Duration::from_millis(millis);
                if rate.admit(now, tokens).is_ok() { through.push((now, tokens)); }
                let minute = through.iter().filter(|(at, _)| now - *at < MINUTE);
                let (requests, tokens) = minute.fold((0, 0), |(requests, sum), (_, tokens)| (requests + 1, sum + tokens));
                prop_assert!(requests <= 7 && tokens <= 100, "{requests} {tokens}");
            }
        }
    }

    #[test]
    fn what_was_not_used_is_given_back_and_who_waits_is_told_how_long() {
        let (mut rate, now) = (Rate::new(RateLimit { requests: None, tokens: Some(100) }), Instant::now());
        let counted = rate.admit(now, 90).unwrap();
        let wait = rate.admit(now, 20).unwrap_err();
        assert_eq!(wait, MINUTE);
        rate.correct(counted, 10);
        assert!(rate.admit(now, 90).is_ok());
        assert!(rate.admit(now + MINUTE, 1_000).is_ok(), "one that never fits goes alone");
    }
}
