//! The checker can fail: one broken history per invariant, and a whole one that it lets pass.

use serde_json::{Value, json};

use super::*;
use crate::oracle::{
    history::{Answer, OwnRead, Stream},
    ops::Sent,
};

/// A log as the nodes would have it: cursors count up.
#[derive(Default)]
struct Log(Vec<Event>);

impl Log {
    fn add(mut self, kind: &str, task: Option<&str>, data: Value) -> Self {
        let cursor = (self.0.len() + 1).to_string();
        self.0.push(Event { cursor, kind: kind.into(), task: task.map(str::to_owned), data });
        self
    }

    fn submitted(self, task: &str) -> Self {
        self.add("TaskSubmitted", None, json!({ "tasks": [task] }))
    }

    fn assigned(self, task: &str, attempt: u64) -> Self {
        self.add("TaskAssigned", Some(task), json!({ "attempt": attempt }))
    }

    fn ended(self, task: &str, attempt: u64, status: &str, next: &str) -> Self {
        self.add("TaskAttemptEnded", Some(task), json!({ "attempt": attempt, "status": status, "next": next }))
    }

    fn run(self, task: &str) -> Self {
        self.submitted(task).assigned(task, 1).ended(task, 1, "SUCCEEDED", "Succeed")
    }

    fn cancelled(self, task: &str) -> Self {
        self.add("TaskCancelled", Some(task), json!({}))
    }
}

fn acked(operation: &str, tasks: &[&str]) -> Answer {
    let tasks = tasks.iter().map(|task| (*task).to_owned()).collect();
    Answer { operation: operation.into(), cancel: false, node: 0, outcome: Outcome::Acked { tasks } }
}

fn history(answers: Vec<Answer>) -> History {
    History { answers, ..History::default() }
}

fn node(log: &Log) -> NodeEnd {
    let tasks = fold(&log.0, &mut Vec::new()).into_iter().map(|(id, task)| (id, task.status)).collect();
    NodeEnd { log: log.0.clone(), tasks }
}

/// What is wrong with one acknowledged task `t` and this log.
fn with_log(log: Log) -> Vec<Broken> {
    check(&history(vec![acked("op", &["t"])]), &[node(&log)])
}

#[test]
fn a_history_in_which_all_promises_were_kept_passes() {
    let log = Log::default().run("a").submitted("b").assigned("b", 1).ended("b", 1, "LOST", "Retry");
    let log = log.assigned("b", 2).ended("b", 2, "SUCCEEDED", "Succeed").submitted("c").cancelled("c");
    let mut kept = history(vec![acked("1", &["a"]), acked("2", &["b"]), acked("1", &["a"]), acked("3", &["c"])]);
    kept.answers.push(Answer { cancel: true, ..acked("4", &["c"]) });
    kept.reads.push(OwnRead { node: 1, task: "a".into(), found: true });
    kept.streams.push(Stream { after: "3".into(), seen: log.0[3..].to_vec(), moves: 2 });
    assert_eq!(check(&kept, &[node(&log), node(&log)]), []);
    assert_eq!(tried_again(&log.0), 1);
}

#[test]
fn an_acknowledged_task_that_no_log_has_is_found() {
    let broken = with_log(Log::default());
    assert_eq!(broken, [Broken::Lost { operation: "op".into(), task: "t".into() }]);
}

#[test]
fn a_task_that_nobody_asked_for_is_found() {
    let broken = with_log(Log::default().run("t").run("ghost"));
    assert_eq!(broken, [Broken::Foreign { task: "ghost".into() }]);
}

/// A planner whose subtask is `one`, and a scatter whose part is `part` and which `reduce` reduces.
fn with_subtasks() -> Log {
    let log = Log::default().submitted("plan").assigned("plan", 1).ended("plan", 1, "SUCCEEDED", "Plan");
    let log = log.add("TaskPlanned", Some("plan"), json!({ "tasks": ["plan", "one"] }));
    let log = log.assigned("one", 1).ended("one", 1, "SUCCEEDED", "Succeed").add("TaskAggregated", Some("plan"), json!({}));
    let log = log.add("TaskSubmitted", None, json!({ "tasks": ["scatter", "part"] }));
    let log = log.assigned("part", 1).ended("part", 1, "SUCCEEDED", "Succeed");
    let log = log.add("TaskGathered", Some("scatter"), json!({ "tasks": ["scatter", "reduce"] }));
    log.assigned("reduce", 1).ended("reduce", 1, "SUCCEEDED", "Succeed").add("TaskAggregated", Some("scatter"), json!({}))
}

#[test]
fn what_a_planner_and_a_scatter_made_is_theirs_and_foreign_if_nobody_asked_for_these() {
    let log = with_subtasks();
    let both = vec![acked("1", &["plan"]), acked("2", &["scatter"])];
    assert_eq!(check(&history(both.clone()), &[node(&log)]), []);
    let foreign = check(&history(both[..1].to_vec()), &[node(&log)]);
    assert_eq!(foreign.len(), 3, "the scatter, its part and what reduces it: {foreign:?}");
    let twice = log.add("TaskAggregated", Some("plan"), json!({}));
    assert!(matches!(&check(&history(both), &[node(&twice)])[..], [Broken::AfterTheEnd { .. }]));
}

#[test]
fn a_plan_or_a_scatter_that_never_ends_is_found() {
    let mut log = with_subtasks();
    log.0.retain(|event| event.kind != "TaskAggregated");
    let broken = check(&history(vec![acked("1", &["plan"]), acked("2", &["scatter"])]), &[node(&log)]);
    assert_eq!(broken.iter().filter(|broken| matches!(broken, Broken::Stuck { .. })).count(), 2, "{broken:?}");
}

#[test]
fn a_repeated_operation_with_another_answer_is_found() {
    let log = Log::default().run("t").run("u");
    let broken = check(&history(vec![acked("op", &["t"]), acked("op", &["u"])]), &[node(&log)]);
    assert!(matches!(&broken[..], [Broken::AnswersDiffer { .. }]), "{broken:?}");
}

#[test]
fn an_acknowledged_operation_that_is_later_refused_is_found() {
    let refused = Outcome::Refused { code: "CONFLICT".into() };
    let cancelled = Answer { cancel: true, ..acked("op", &["t"]) };
    let answers = vec![acked("1", &["t"]), cancelled.clone(), Answer { outcome: refused, ..cancelled }];
    let broken = check(&history(answers), &[node(&Log::default().submitted("t").cancelled("t"))]);
    assert!(matches!(&broken[..], [Broken::AnswersDiffer { .. }]), "{broken:?}");
}

#[test]
fn a_submission_that_is_refused_for_good_is_found() {
    let refused = Outcome::Refused { code: "NOT_FOUND".into() };
    let broken = check(&history(vec![Answer { outcome: refused, ..acked("op", &[]) }]), &[NodeEnd::default()]);
    assert_eq!(broken, [Broken::WronglyRefused { operation: "op".into(), code: "NOT_FOUND".into() }]);
}

#[test]
fn a_program_that_ran_twice_under_one_attempt_or_without_one_is_found() {
    let with_marks = |marks: &[&str]| {
        let marks = marks.iter().map(|mark| (*mark).to_owned()).collect();
        let ran = History { marks, ..history(vec![acked("op", &["t"])]) };
        check(&ran, &[node(&Log::default().run("t"))])
    };
    assert_eq!(with_marks(&["t 1"]), []);
    assert_eq!(with_marks(&["t 1", "t 1"]), [Broken::RanWrongly { mark: "t 1".into() }]);
    assert_eq!(with_marks(&["t 2"]), [Broken::RanWrongly { mark: "t 2".into() }]);
}

#[test]
fn an_operation_that_nobody_ever_answers_is_found() {
    let mut open = history(vec![]);
    open.open.insert("op".into(), Sent::plain(crate::client::SUBMIT, json!({})));
    assert_eq!(check(&open, &[NodeEnd::default()]), [Broken::Unanswered { operation: "op".into() }]);
}

#[test]
fn a_task_that_succeeds_under_two_leases_is_found() {
    let log = Log::default().submitted("t").assigned("t", 1).ended("t", 1, "SUCCEEDED", "Retry");
    let broken = with_log(log.assigned("t", 2).ended("t", 2, "SUCCEEDED", "Succeed"));
    assert_eq!(broken, [Broken::SucceededTwice { task: "t".into(), attempts: 2 }]);
}

#[test]
fn a_second_lease_while_one_is_live_is_found() {
    let log = Log::default().submitted("t").assigned("t", 1).assigned("t", 2).ended("t", 2, "SUCCEEDED", "Succeed");
    assert!(matches!(&with_log(log)[..], [Broken::TwoLeases { .. }]));
}

#[test]
fn a_result_under_a_lease_that_is_over_is_found() {
    let log = Log::default().submitted("t").assigned("t", 1).ended("t", 1, "LOST", "Retry").assigned("t", 2);
    let broken = with_log(log.ended("t", 1, "SUCCEEDED", "Succeed"));
    assert!(matches!(&broken[..], [Broken::WithoutLease { attempt: 1, .. }]), "{broken:?}");
}

#[test]
fn a_lease_after_the_end_is_found() {
    let log = Log::default().run("t").assigned("t", 2).ended("t", 2, "LOST", "Succeed");
    let broken = with_log(log);
    assert!(broken.iter().all(|one| matches!(one, Broken::AfterTheEnd { .. } | Broken::WithoutLease { .. })), "{broken:?}");
    assert!(!broken.is_empty());
}

#[test]
fn a_task_that_is_stuck_is_found() {
    let broken = with_log(Log::default().submitted("t").assigned("t", 1));
    assert_eq!(broken, [Broken::Stuck { task: "t".into(), status: "ASSIGNED".into() }]);
}

#[test]
fn an_acknowledged_cancellation_that_was_forgotten_is_found() {
    let cancel = Answer { cancel: true, ..acked("cancel", &["t"]) };
    let broken = check(&history(vec![acked("op", &["t"]), cancel]), &[node(&Log::default().run("t"))]);
    assert_eq!(broken, [Broken::CancelLost { task: "t".into(), status: "SUCCEEDED".into() }]);
}

#[test]
fn a_cancellation_that_nobody_asked_for_is_found() {
    let broken = with_log(Log::default().submitted("t").cancelled("t"));
    assert_eq!(broken, [Broken::NotDone { task: "t".into(), status: "CANCELLED".into() }]);
}

#[test]
fn nodes_with_different_logs_are_found() {
    let (one, mut other) = (node(&Log::default().run("t")), node(&Log::default().run("t")));
    other.log.swap(1, 2);
    let broken = check(&history(vec![acked("op", &["t"])]), &[one.clone(), other]);
    assert!(matches!(&broken[..], [Broken::LogsDiffer { node: 1, at: 1, .. }]), "{broken:?}");
    let mut short = one.clone();
    short.log.pop();
    let broken = check(&history(vec![acked("op", &["t"])]), &[one, short]);
    assert!(matches!(&broken[..], [Broken::LogsDiffer { node: 1, at: 2, .. }]), "{broken:?}");
}

#[test]
fn a_subscription_with_a_gap_a_repetition_or_a_missing_end_is_found() {
    let log = Log::default().run("t");
    let seen = |numbers: &[usize]| -> Vec<Broken> {
        let mut watched = history(vec![acked("op", &["t"])]);
        let seen = numbers.iter().map(|number| log.0[*number].clone()).collect();
        watched.streams.push(Stream { after: "0".into(), seen, moves: 0 });
        check(&watched, &[node(&log)])
    };
    assert_eq!(seen(&[0, 1, 2]), []);
    assert!(matches!(&seen(&[0, 2])[..], [Broken::StreamDiffers { at: 1, .. }]), "a gap");
    assert!(matches!(&seen(&[0, 1, 1, 2])[..], [Broken::StreamDiffers { at: 2, .. }]), "twice");
    assert!(matches!(&seen(&[0, 1])[..], [Broken::StreamDiffers { at: 2, .. }]), "no end");
    assert!(matches!(&seen(&[1, 0, 2])[..], [Broken::StreamDiffers { at: 0, .. }]), "another order");
}

#[test]
fn a_reader_that_does_not_see_its_own_write_is_found() {
    let mut blind = history(vec![acked("op", &["t"])]);
    blind.reads.push(OwnRead { node: 1, task: "t".into(), found: false });
    let broken = check(&blind, &[node(&Log::default().run("t"))]);
    assert_eq!(broken, [Broken::OwnWriteUnseen { node: 1, task: "t".into() }]);
}

#[test]
fn a_view_that_says_another_thing_than_the_log_is_found() {
    let (mut wrong, right) = (node(&Log::default().run("t")), acked("op", &["t"]));
    wrong.tasks.insert("t".into(), "RUNNING".into());
    let broken = check(&history(vec![right.clone()]), &[wrong.clone()]);
    assert!(matches!(&broken[..], [Broken::ViewDiffers { node: 0, .. }]), "{broken:?}");
    wrong.tasks.clear();
    let broken = check(&history(vec![right]), &[wrong]);
    assert!(matches!(&broken[..], [Broken::ViewDiffers { view: None, .. }]), "{broken:?}");
}
