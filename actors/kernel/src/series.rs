//! A bounded time series: the newest samples, oldest first, and a window of them thinned to so many real ones.

use std::collections::VecDeque;

use hiveward_runtime::clock::WallMs;

/// A measurement of one moment.
pub trait Sample {
    /// Returns the moment at which it was measured.
    fn at(&self) -> WallMs;
}

/// The `MAX` newest samples; the oldest is forgotten for a new one.
#[derive(Clone, Debug)]
pub struct Series<T, const MAX: usize>(VecDeque<T>);

impl<T, const MAX: usize> Default for Series<T, MAX> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Sample, const MAX: usize> Series<T, MAX> {
    /// Adds the newest sample; forgets the oldest if there are `MAX` already.
    pub fn push(&mut self, sample: T) {
        if self.0.len() >= MAX {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// Returns the newest sample.
    pub fn last(&self) -> Option<&T> {
        self.0.back()
    }

    /// Iterates over the samples, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.iter()
    }

    /// Counts the samples.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many bytes it holds on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.0.capacity() * size_of::<T>()
    }
}

/// Returns the samples between two moments, both included; `samples` are ordered by time.
///
/// Where there are more than `points`, it returns every second, third, … of them, counted from the newest, which is always
/// among them: what is shown was really measured.
pub fn between<'a, T: Sample + 'a>(
    samples: impl Iterator<Item = &'a T>,
    (since, until): (WallMs, WallMs),
    points: usize,
) -> Vec<&'a T> {
    let within: Vec<&T> = samples.filter(|sample| sample.at() >= since && sample.at() <= until).collect();
    let every = within.len().div_ceil(points.max(1)).max(1);
    let mut thinned: Vec<&T> = within.into_iter().rev().step_by(every).collect();
    thinned.reverse();
    thinned
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Sample for i64 {
        fn at(&self) -> WallMs {
            WallMs(*self)
        }
    }

    #[test]
    fn a_series_keeps_the_newest_and_what_is_shown_was_really_measured() {
        let mut series = Series::<i64, 1_000>::default();
        (0..1_010).for_each(|at| series.push(at));
        let always = (WallMs(i64::MIN), WallMs(i64::MAX));
        let all = between(series.iter(), always, usize::MAX);
        assert_eq!((all.len(), *all[0], series.last()), (1_000, 10, Some(&1_009)));
        let few = between(series.iter(), always, 100);
        assert!(few.len() <= 100 && few.len() > 90);
        assert_eq!(**few.last().unwrap(), 1_009);
        assert!(few.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(between(series.iter(), (WallMs(20), WallMs(22)), 100), [&20, &21, &22]);
    }
}
