//! Checks dependencies among tasks that are submitted together: no cycle, and each name known.

use std::collections::HashMap;

/// Finds a cycle among `edges[i]` = what task `i` depends on; returns it in order, the first repeated at the end.
pub fn cycle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    for start in 0..edges.len() {
        if marks[start] != Mark::New {
            continue;
        }
        // An explicit stack: a long chain from outside must not overflow ours.
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        marks[start] = Mark::Open;
        while let Some((task, next)) = path.last_mut() {
            let Some(&on) = edges[*task].get(*next) else {
                marks[*task] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            match marks[on] {
                Mark::Done => {}
                Mark::New => {
                    marks[on] = Mark::Open;
                    path.push((on, 0));
                }
                Mark::Open => {
                    let from = path.iter().position(|(task, _)| *task == on).unwrap_or(0);
                    let mut cycle: Vec<_> = path[from..].iter().map(|(task, _)| *task).collect();
                    cycle.push(on);
                    return Some(cycle);
                }
            }
        }
    }
    None
}

/// Gives each name its place; the second of two equal names is the error.
pub fn places<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Result<HashMap<&'a str, usize>, usize> {
    let mut places = HashMap::new();
    for (place, name) in names.enumerate() {
        if let Some(name) = name
            && places.insert(name, place).is_some()
        {
            return Err(place);
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_named_in_order_and_a_diamond_is_none() {
        assert_eq!(cycle(&[vec![1, 2], vec![3], vec![3], vec![]]), None);
        assert_eq!(cycle(&[vec![1], vec![2], vec![3], vec![1]]), Some(vec![1, 2, 3, 1]));
        assert_eq!(cycle(&[vec![0]]), Some(vec![0, 0]));
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_is_walked() {
        let chain: Vec<_> = (0..100_000).map(|n| if n == 0 { vec![] } else { vec![n - 1] }).rev().collect();
        let reversed: Vec<Vec<usize>> = chain.iter().map(|on| on.iter().map(|n| 99_999 - n).collect()).collect();
        assert_eq!(cycle(&reversed), None);
    }
}
