//! Compares a history with what the nodes say at the end. Pure.

use std::collections::{HashMap, HashSet};

use super::{
    Broken,
    history::{Event, History, NodeEnd, Outcome},
};
use crate::client::terminal;

/// What the log says of one task.
#[derive(Debug, Default)]
struct Task {
    live: Option<u64>,
    assigned: u32,
    succeeded: u32,
    /// What it is a part of: the planner or the scatter that made it, or the first that was submitted with it.
    of: Option<String>,
    status: String,
}

/// All that is broken; nothing if all promises were kept. Node 0's log is the one the others are compared with.
pub fn check(history: &History, nodes: &[NodeEnd]) -> Vec<Broken> {
    let mut broken = Vec::new();
    let log = nodes.first().map_or(&[][..], |node| &node.log);
    let tasks = fold(log, &mut broken);
    answers(history, &tasks, &mut broken);
    ends(history, &tasks, &mut broken);
    for (number, node) in nodes.iter().enumerate() {
        same_log(number, log, &node.log, &mut broken);
        same_view(number, &tasks, &node.tasks, &mut broken);
    }
    streams(history, log, &mut broken);
    runs(history, &tasks, &mut broken);
    let unseen = history.reads.iter().filter(|read| !read.found);
    broken.extend(unseen.map(|read| Broken::OwnWriteUnseen { node: read.node, task: read.task.clone() }));
    broken
}

/// How many tasks had more than one attempt: faults that the load noticed.
pub fn tried_again(log: &[Event]) -> usize {
    fold(log, &mut Vec::new()).values().filter(|task| task.assigned > 1).count()
}

/// Tasks of the log that have not ended.
pub fn open(log: &[Event]) -> Vec<String> {
    fold(log, &mut Vec::new()).into_iter().filter(|(_, task)| !terminal(&task.status)).map(|(id, _)| id).collect()
}

/// Reads the log in its order: each task has at most one lease at a time, and one end.
fn fold(log: &[Event], broken: &mut Vec<Broken>) -> HashMap<String, Task> {
    let mut tasks: HashMap<String, Task> = HashMap::new();
    for event in log {
        if event.kind == "TaskSubmitted" {
            let submitted: Vec<&str> =
                event.data["tasks"].as_array().into_iter().flatten().filter_map(|id| id.as_str()).collect();
            for (n, id) in submitted.iter().enumerate() {
                let of = (n > 0).then(|| submitted[0].to_owned());
                if tasks.insert((*id).to_owned(), Task { status: "QUEUED".into(), of, ..Task::default() }).is_some() {
                    broken.push(Broken::Foreign { task: (*id).to_owned() });
                }
            }
            continue;
        }
        let Some(id) = &event.task else { continue };
        if matches!(event.kind.as_str(), "TaskPlanned" | "TaskGathered") {
            for made in
                event.data["tasks"].as_array().into_iter().flatten().filter_map(|id| id.as_str()).filter(|made| made != id)
            {
                let task = Task { status: "QUEUED".into(), of: Some(id.clone()), ..Task::default() };
                if tasks.insert(made.to_owned(), task).is_some() {
                    broken.push(Broken::Foreign { task: made.to_owned() });
                }
            }
        }
        let Some(task) = tasks.get_mut(id) else {
            broken.push(Broken::Foreign { task: id.clone() });
            continue;
        };
        step(id, task, event, broken);
    }
    let twice = tasks.iter().filter(|(_, task)| task.succeeded > 1);
    broken.extend(twice.map(|(id, task)| Broken::SucceededTwice { task: id.clone(), attempts: task.succeeded }));
    tasks
}

fn step(id: &str, task: &mut Task, event: &Event, broken: &mut Vec<Broken>) {
    let attempt = event.data["attempt"].as_u64();
    let speaks = matches!(
        event.kind.as_str(),
        "TaskAssigned" | "TaskStarted" | "TaskAttemptEnded" | "TaskAggregated" | "TaskCancelled" | "TaskFailed"
    );
    if speaks && terminal(&task.status) {
        broken.push(Broken::AfterTheEnd { task: id.to_owned(), event: Box::new(event.clone()) });
    }
    let mut without = |task: &Task| {
        if task.live != attempt {
            let attempt = attempt.unwrap_or_default();
            broken.push(Broken::WithoutLease { task: id.to_owned(), attempt, event: Box::new(event.clone()) });
        }
    };
    match event.kind.as_str() {
        "TaskAssigned" => {
            if task.live.is_some() {
                broken.push(Broken::TwoLeases { task: id.to_owned(), event: Box::new(event.clone()) });
            }
            task.assigned += 1;
            task.live = attempt;
            task.status = "ASSIGNED".into();
        }
        "TaskStarted" => {
            without(task);
            task.status = "RUNNING".into();
        }
        "TaskAttemptEnded" => {
            without(task);
            task.live = None;
            task.succeeded += u32::from(event.data["status"] == "SUCCEEDED");
            task.status = match event.data["next"].as_str() {
                Some("Succeed") => "SUCCEEDED",
                Some("Fail") => "FAILED",
                Some("Die") => "DEAD",
                _ => "RETRYING",
            }
            .into();
        }
        // Of a plan or a scatter; the latter has no attempt of its own.
        "TaskAggregated" => {
            task.succeeded += u32::from(task.assigned == 0);
            task.status = if event.data["error"].is_null() { "SUCCEEDED" } else { "FAILED" }.into();
        }
        "TaskCancelled" | "TaskFailed" => {
            task.live = None;
            task.status = if event.kind == "TaskFailed" { "FAILED" } else { "CANCELLED" }.into();
        }
        _ => {}
    }
}

/// Every acknowledged task is there, every task was asked for, and an operation has one answer.
fn answers(history: &History, tasks: &HashMap<String, Task>, broken: &mut Vec<Broken>) {
    let mut first: HashMap<&str, &Outcome> = HashMap::new();
    let mut asked_for: HashSet<&str> = HashSet::new();
    for answer in &history.answers {
        let known = *first.entry(&answer.operation).or_insert(&answer.outcome);
        if *known != answer.outcome {
            let (one, other) = (known.clone(), answer.outcome.clone());
            broken.push(Broken::AnswersDiffer { operation: answer.operation.clone(), one, other });
        }
        let made = match &answer.outcome {
            Outcome::Acked { tasks } => tasks,
            // A cancellation that comes after the end.
            Outcome::Refused { code } if answer.cancel && matches!(code.as_str(), "CONFLICT" | "REFUSED") => continue,
            Outcome::Refused { code } => {
                let operation = answer.operation.clone();
                broken.push(Broken::WronglyRefused { operation, code: code.clone() });
                continue;
            }
        };
        for task in made {
            if asked_for.insert(task) && !tasks.contains_key(task) {
                broken.push(Broken::Lost { operation: answer.operation.clone(), task: task.clone() });
            }
        }
    }
    let foreign = tasks
        .iter()
        .filter(|(id, task)| !asked_for.contains(id.as_str()) && !task.of.as_deref().is_some_and(|of| asked_for.contains(of)));
    broken.extend(foreign.map(|(task, _)| Broken::Foreign { task: task.clone() }));
    broken.extend(history.open.keys().map(|operation| Broken::Unanswered { operation: operation.clone() }));
}

/// Every task has ended, cancelled where that was acknowledged, and successfully otherwise.
fn ends(history: &History, tasks: &HashMap<String, Task>, broken: &mut Vec<Broken>) {
    let cancelled: HashSet<&str> =
        history.acked().filter(|(answer, _)| answer.cancel).flat_map(|(_, tasks)| tasks.iter().map(String::as_str)).collect();
    for (id, task) in tasks {
        let (id, status) = (id.clone(), task.status.clone());
        if !terminal(&status) {
            broken.push(Broken::Stuck { task: id, status });
        } else if cancelled.contains(id.as_str()) {
            if status != "CANCELLED" {
                broken.push(Broken::CancelLost { task: id, status });
            }
        } else if status != "SUCCEEDED" {
            broken.push(Broken::NotDone { task: id, status });
        }
    }
}

fn first_difference(one: &[Event], other: &[Event]) -> Option<usize> {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    (same < one.len().max(other.len())).then_some(same)
}

fn at(log: &[Event], at: usize) -> Box<Option<Event>> {
    Box::new(log.get(at).cloned())
}

fn same_log(node: usize, one: &[Event], other: &[Event], broken: &mut Vec<Broken>) {
    if let Some(n) = first_difference(one, other) {
        broken.push(Broken::LogsDiffer { node, at: n, one: at(one, n), other: at(other, n) });
    }
}

fn same_view(node: usize, tasks: &HashMap<String, Task>, view: &HashMap<String, String>, broken: &mut Vec<Broken>) {
    for (id, task) in tasks {
        if view.get(id) != Some(&task.status) {
            let (view, log) = (view.get(id).cloned(), Some(task.status.clone()));
            broken.push(Broken::ViewDiffers { node, task: id.clone(), view, log });
        }
    }
    for (id, status) in view.iter().filter(|(id, _)| !tasks.contains_key(*id)) {
        broken.push(Broken::ViewDiffers { node, task: id.clone(), view: Some(status.clone()), log: None });
    }
}

/// Each subscription saw exactly the events after its beginning: none missing, none twice, in order, up to the end.
fn streams(history: &History, log: &[Event], broken: &mut Vec<Broken>) {
    for (number, stream) in history.streams.iter().enumerate() {
        let begin = match stream.after.as_str() {
            "0" => 0,
            after => log.iter().position(|event| event.cursor == after).map_or(log.len(), |at| at + 1),
        };
        if let Some(n) = first_difference(&log[begin..], &stream.seen) {
            let (expected, seen) = (at(&log[begin..], n), at(&stream.seen, n));
            broken.push(Broken::StreamDiffers { stream: number, at: n, expected, seen });
        }
    }
}

/// No attempt's program ran twice, nor without a lease.
fn runs(history: &History, tasks: &HashMap<String, Task>, broken: &mut Vec<Broken>) {
    let mut seen = HashSet::new();
    for mark in &history.marks {
        let granted = mark.split_once(' ').is_some_and(|(task, attempt)| {
            let assigned = tasks.get(task).map_or(0, |task| task.assigned);
            attempt.parse().is_ok_and(|attempt: u32| attempt <= assigned)
        });
        if !granted || !seen.insert(mark) {
            broken.push(Broken::RanWrongly { mark: mark.clone() });
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
