//! The record of what the server was asked and what it sent, for tests that compare it with what was metered.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The most calls that are kept; with one more, the oldest is forgotten and lives on in the totals.
const CALLS_MAX: usize = 10_000;

/// Tokens by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    pub number: u64,
    pub path: String,
    /// The key as it was presented, in whichever header.
    pub key: Option<String>,
    /// All headers of the request: who wants to show that something is in none of them can.
    pub headers: Vec<(String, String)>,
    pub model: String,
    pub stream: bool,
    pub status: u16,
    /// The usage as the answer has said it so far; absent while it has said nothing of it.
    pub usage: Option<Usage>,
    pub events: u64,
    /// Whether the whole answer was taken.
    pub finished: bool,
}

/// The totals of all calls since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallsTotal {
    pub calls: u64,
    /// The calls whose whole answer was taken.
    pub finished: u64,
    /// The calls that ended with an HTTP error.
    pub errors: u64,
    pub usage: Usage,
}

#[derive(Debug, Default, Serialize)]
pub struct Kept {
    pub calls: VecDeque<Call>,
    pub total: CallsTotal,
}

#[derive(Debug, Default)]
pub struct Book(Mutex<Kept>);

impl Book {
    /// Writes a call down and returns its number.
    pub fn begin(&self, mut call: Call) -> u64 {
        let mut kept = self.0.lock();
        kept.total.calls += 1;
        kept.total.errors += u64::from(call.status >= 400);
        call.number = kept.total.calls;
        if kept.calls.len() == CALLS_MAX {
            kept.calls.pop_front();
        }
        kept.calls.push_back(call);
        kept.total.calls
    }

    /// Notes that an event of the call goes out, with the usage if it says any.
    pub fn said(&self, number: u64, usage: Option<Usage>) {
        let mut kept = self.0.lock();
        let Kept { calls, total } = &mut *kept;
        let Some(call) = find(calls, number) else { return };
        call.events += 1;
        let Some(usage) = usage else { return };
        let before = call.usage.replace(usage).unwrap_or_default();
        for (sum, before, now) in [
            (&mut total.usage.input, before.input, usage.input),
            (&mut total.usage.output, before.output, usage.output),
            (&mut total.usage.cache_read, before.cache_read, usage.cache_read),
            (&mut total.usage.cache_write, before.cache_write, usage.cache_write),
        ] {
            *sum = (*sum + now).saturating_sub(before);
        }
    }

    /// Notes that the whole answer was taken.
    pub fn finished(&self, number: u64) {
        let mut kept = self.0.lock();
        let Kept { calls, total } = &mut *kept;
        if let Some(call) = find(calls, number)
            && !std::mem::replace(&mut call.finished, true)
        {
            total.finished += 1;
        }
    }

    /// Looks at all that is kept, while nothing is added.
    pub fn read<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        look(&self.0.lock())
    }
}

fn find(calls: &mut VecDeque<Call>, number: u64) -> Option<&mut Call> {
    let first = calls.front()?.number;
    calls.get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
}
