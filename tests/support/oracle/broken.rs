//! The ways a promise can be broken, each with what shows it.

use super::{
    body::BodySum,
    history::{Event, Outcome},
};

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Broken {
    #[error("{task} of {operation} was acknowledged and is in no log")]
    Lost { operation: String, task: String },
    #[error("{task} is in the log and belongs to no operation, or to one that made another already")]
    Foreign { task: String },
    #[error("{operation} was answered {one:?} and then {other:?}")]
    AnswersDiffer { operation: String, one: Outcome, other: Outcome },
    #[error("{operation} was refused with {code}, though nothing was wrong with it")]
    WronglyRefused { operation: String, code: String },
    #[error("an attempt ran twice, or ran and nobody had granted it: {mark}")]
    RanWrongly { mark: String },
    #[error("{operation} never got an answer")]
    Unanswered { operation: String },
    #[error("{task} succeeded under {attempts} leases")]
    SucceededTwice { task: String, attempts: u32 },
    #[error("{task} got a second lease while one was live: {event:?}")]
    TwoLeases { task: String, event: Box<Event> },
    #[error("attempt {attempt} of {task} spoke without the lease: {event:?}")]
    WithoutLease { task: String, attempt: u64, event: Box<Event> },
    #[error("{task} had ended, and then: {event:?}")]
    AfterTheEnd { task: String, event: Box<Event> },
    #[error("{task} is {status} and stays so")]
    Stuck { task: String, status: String },
    #[error("the cancellation of {task} was acknowledged and it is {status}")]
    CancelLost { task: String, status: String },
    #[error("{task} was not cancelled and is {status}")]
    NotDone { task: String, status: String },
    #[error("node {node} has another event at {at} than node 0: {one:?} and {other:?}")]
    LogsDiffer { node: usize, at: usize, one: Box<Option<Event>>, other: Box<Option<Event>> },
    #[error("subscription {stream} saw {seen:?} as number {at} where {expected:?} follows")]
    StreamDiffers { stream: usize, at: usize, expected: Box<Option<Event>>, seen: Box<Option<Event>> },
    #[error("{task} was not found at node {node}, though the question named the cursor of its submission")]
    OwnWriteUnseen { node: usize, task: String },
    #[error("the view of node {node} says {view:?} of {task}, the log {log:?}")]
    ViewDiffers { node: usize, task: String, view: Option<String>, log: Option<String> },
    #[error("node {node} shows {} as {what} of {task} ({operation}), where {} was given", sum(.shown), sum(.wanted))]
    BodyDiffers { node: usize, operation: String, task: String, what: String, wanted: Option<BodySum>, shown: Option<BodySum> },
    #[error("node {node} gives {what} of {task} ({operation}) under a hash that is not its own")]
    BodyMisnamed { node: usize, operation: String, task: String, what: String },
    #[error("node {node} does not give {what} of {task} ({operation}): {why}")]
    BodyUnreadable { node: usize, operation: String, task: String, what: String, why: String },
}

fn sum(sum: &Option<BodySum>) -> String {
    sum.map_or_else(|| "nothing".to_owned(), |sum| sum.to_string())
}
