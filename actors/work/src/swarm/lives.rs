//! Keeps a swarm's live tasks, in buckets that a snapshot can share.
//!
//! A cut is what they are at one moment. It costs a pointer for each bucket; a bucket that changes while a cut holds it is copied
//! first. So a swarm with a million tasks is written down piece by piece while it goes on, without a second copy of it: tasks are
//! a few hundred bytes beside their specs, which are shared. Buckets are split one at a time as tasks are added, so no single
//! addition takes long.

use std::{collections::HashMap, sync::Arc};

use hiveward_kernel::id::TaskId;

use super::state::Live;

/// The average number of tasks in a bucket.
const BUCKET_TASKS: usize = 128;

type Bucket = HashMap<TaskId, Live>;

/// The live tasks of a swarm.
pub struct Lives {
    buckets: Vec<Arc<Bucket>>,
    len: usize,
    /// The bytes of their specs, about.
    bytes: usize,
}

/// The tasks that were live at one moment.
pub struct Cut {
    buckets: std::vec::IntoIter<Arc<Bucket>>,
}

impl Default for Lives {
    fn default() -> Self {
        Self { buckets: vec![Arc::default()], len: 0, bytes: 0 }
    }
}

fn spread(task: TaskId) -> usize {
    let id = task.as_u128();
    // Ids made in the same millisecond differ in their lower half; a multiplication spreads what is regular in them.
    ((id as u64 ^ (id >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) as usize
}

impl Lives {
    /// Returns the bucket of a task. Buckets before `at` of this round have been split already.
    fn bucket_of(&self, task: TaskId) -> usize {
        let count = self.buckets.len();
        let round = count.next_power_of_two();
        let place = spread(task) & (round - 1);
        if place < count { place } else { place - round / 2 }
    }

    /// Counts the live tasks.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether no task is live.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns about how many bytes their specs take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns a live task.
    pub fn get(&self, task: &TaskId) -> Option<&Live> {
        self.buckets[self.bucket_of(*task)].get(task)
    }

    /// Returns a live task to be changed. Changes of its spec go through [`respec`](Self::respec), which counts its bytes.
    pub fn get_mut(&mut self, task: &TaskId) -> Option<&mut Live> {
        let bucket = self.bucket_of(*task);
        // Looked at first: a bucket that a cut holds is not copied for a task that is not there.
        if !self.buckets[bucket].contains_key(task) {
            return None;
        }
        Arc::make_mut(&mut self.buckets[bucket]).get_mut(task)
    }

    /// Tells whether a task is live.
    pub fn contains_key(&self, task: &TaskId) -> bool {
        self.get(task).is_some()
    }

    /// Adds a live task, in the place of one with the same id.
    pub fn insert(&mut self, task: TaskId, live: Live) {
        let bucket = self.bucket_of(task);
        self.bytes += live.spec.bytes();
        match Arc::make_mut(&mut self.buckets[bucket]).insert(task, live) {
            Some(before) => self.bytes -= before.spec.bytes(),
            None => self.len += 1,
        }
        if self.len > self.buckets.len() * BUCKET_TASKS {
            self.split();
        }
    }

    /// Gives a live task another spec.
    pub fn respec(&mut self, task: TaskId, spec: Arc<crate::task::spec::TaskSpec>) {
        let bytes = spec.bytes();
        let Some(live) = self.get_mut(&task) else { return };
        let before = std::mem::replace(&mut live.spec, spec);
        self.bytes = self.bytes + bytes - before.bytes();
    }

    /// Removes a task, and returns it if it was live.
    pub fn remove(&mut self, task: &TaskId) -> Option<Live> {
        let bucket = self.bucket_of(*task);
        if !self.buckets[bucket].contains_key(task) {
            return None;
        }
        let removed = Arc::make_mut(&mut self.buckets[bucket]).remove(task)?;
        self.len -= 1;
        self.bytes -= removed.spec.bytes();
        Some(removed)
    }

    /// Iterates over the live tasks, in no order.
    pub fn values(&self) -> Values<'_> {
        Values { left: self.len, buckets: self.buckets.iter(), tasks: None }
    }

    /// Returns the tasks as they are now, for the cost of a pointer for each bucket; later changes do not show in it.
    pub fn cut(&self) -> Cut {
        Cut { buckets: self.buckets.clone().into_iter() }
    }

    /// Moves half of the bucket whose turn it is into a new one.
    fn split(&mut self) {
        let from = self.buckets.len()
            - self.buckets.len().next_power_of_two() / if self.buckets.len().is_power_of_two() { 1 } else { 2 };
        let tasks = std::mem::take(&mut self.buckets[from]);
        self.buckets.push(Arc::default());
        let to = self.buckets.len() - 1;
        let (mut stays, mut goes) = (Bucket::new(), Bucket::new());
        for (task, live) in Arc::unwrap_or_clone(tasks) {
            if self.bucket_of(task) == to {
                goes.insert(task, live)
            } else {
                stays.insert(task, live)
            };
        }
        self.buckets[from] = Arc::new(stays);
        self.buckets[to] = Arc::new(goes);
    }
}

/// An iterator over every live task, in no order.
pub struct Values<'a> {
    left: usize,
    buckets: std::slice::Iter<'a, Arc<Bucket>>,
    tasks: Option<std::collections::hash_map::Values<'a, TaskId, Live>>,
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a Live;

    fn next(&mut self) -> Option<&'a Live> {
        loop {
            if let Some(live) = self.tasks.as_mut().and_then(Iterator::next) {
                self.left -= 1;
                return Some(live);
            }
            self.tasks = Some(self.buckets.next()?.values());
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}

impl Iterator for Cut {
    type Item = Arc<Bucket>;

    /// Returns the next bucket; what it holds is let go of with it.
    fn next(&mut self) -> Option<Arc<Bucket>> {
        self.buckets.next()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hiveward_runtime::clock::WallMs;

    use super::*;
    use crate::{swarm::testing::spec, task::status::TaskStatus};

    fn live(title: &str) -> (TaskId, Live) {
        let spec = Arc::new(spec(|task| task.title = title.to_owned()));
        let mut swarm = crate::swarm::state::Swarm::new(Arc::new(crate::swarm::testing::swarm(1)));
        swarm.insert(spec.clone(), "test".into(), 0, WallMs(1));
        (spec.id, swarm.live.remove(&spec.id).unwrap())
    }

    #[test]
    fn it_holds_what_a_plain_map_would_and_a_cut_stays_what_it_was() {
        let (_, like) = live("x");
        for seed in 0..20 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let (mut lives, mut plain): (Lives, BTreeMap<TaskId, u32>) = Default::default();
            let mut cuts = Vec::new();
            for n in 0..6_000_u32 {
                let known = plain.keys().nth(dice.usize(0..plain.len().max(1))).copied();
                match (dice.u32(0..100), known) {
                    (0..70, _) | (_, None) => {
                        let id = TaskId::new();
                        lives.insert(id, Live { attempt: n, ..like.clone() });
                        plain.insert(id, n);
                    }
                    (70..85, Some(known)) => {
                        lives.get_mut(&known).unwrap().attempt = n;
                        plain.insert(known, n);
                    }
                    (85..99, Some(known)) => {
                        assert_eq!(lives.remove(&known).map(|live| live.attempt), plain.remove(&known), "seed {seed}");
                    }
                    _ => cuts.push((lives.cut(), plain.clone())),
                }
                assert_eq!(lives.len(), plain.len());
            }
            assert!(plain.iter().all(|(id, attempt)| lives.get(id).is_some_and(|live| live.attempt == *attempt)), "seed {seed}");
            assert_eq!((lives.values().len(), lives.values().count()), (plain.len(), plain.len()), "seed {seed}");
            assert_eq!(lives.bytes(), plain.len() * like.spec.bytes(), "seed {seed}");
            for (cut, then) in cuts {
                let mut kept = BTreeMap::new();
                for bucket in cut {
                    kept.extend(bucket.iter().map(|(id, live)| (*id, live.attempt)));
                }
                assert_eq!(kept, then, "seed {seed}");
            }
        }
    }

    #[test]
    fn no_bucket_is_large_however_many_tasks_there_are() {
        let (_, like) = live("x");
        let mut lives = Lives::default();
        for _ in 0..100_000 {
            lives.insert(TaskId::new(), Live { status: TaskStatus::Queued, ..like.clone() });
        }
        let largest = lives.buckets.iter().map(|bucket| bucket.len()).max().unwrap();
        assert!(largest < 5 * BUCKET_TASKS, "{largest} of {}", lives.buckets.len());
    }
}
